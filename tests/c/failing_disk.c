/* Preloaded into the gateway: a disk that cannot read the store as long as the file that $TEST_DISK_FAILS names is there. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fails(int file)
{
    const char *fails = getenv("TEST_DISK_FAILS");
    char link[64], path[4096];
    ssize_t length;
    if (!fails || access(fails, F_OK) != 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    if (!strstr(path, "/broker.db"))
        return 0;
    errno = EIO;
    return 1;
}

ssize_t read(int file, void *bytes, size_t size)
{
    return fails(file) ? -1 : syscall(SYS_read, file, bytes, size);
}

ssize_t pread(int file, void *bytes, size_t size, off_t offset)
{
    return fails(file) ? -1 : syscall(SYS_pread64, file, bytes, size, offset);
}

ssize_t pread64(int file, void *bytes, size_t size, off64_t offset)
{
    return fails(file) ? -1 : syscall(SYS_pread64, file, bytes, size, offset);
}
