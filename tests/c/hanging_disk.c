/* Preloaded into the gateway: a disk that does not answer as long as the file that $TEST_DISK_HANGS names is there. */
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static void wait_for_the_disk(void)
{
    const char *hangs = getenv("TEST_DISK_HANGS");
    while (hangs && access(hangs, F_OK) == 0)
        usleep(2000);
}

int fsync(int file)
{
    wait_for_the_disk();
    return (int)syscall(SYS_fsync, file);
}

int fdatasync(int file)
{
    wait_for_the_disk();
    return (int)syscall(SYS_fdatasync, file);
}
