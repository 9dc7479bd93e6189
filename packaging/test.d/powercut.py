"""Disks for QEMU, and the honest power cut.

A killed QEMU leaves behind every write that the machine gave to its disk: this machine's memory has them. A real card has
a cache, too, and may lose whatever was written since the last flush. So the writes and flushes of the machine are logged
(QEMU's blklogwrites, the format of Linux' dm-log-writes), and after the cut only the writes up to the last flush are
put on the disk as it was at boot. A program that acknowledges before fsync has returned is found out.
"""

import struct
import subprocess

SECTOR = 512
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
MAGIC = 0x6A736677736872


def plain(overlay):
    """QEMU's options for a qcow2 file."""
    return ["-blockdev", f"driver=qcow2,node-name=disk,file.driver=file,file.filename={overlay}"]


def overlay(base, path):
    """A file that keeps what is changed of a raw image."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, path], check=True)


def entries(log):
    """(flags, first byte, bytes) of each entry, in order."""
    with open(log, "rb") as file:
        magic, version, _, size = struct.unpack("<QQQI", file.read(28))
        if (magic, version) != (MAGIC, 1):
            raise OSError(f"{log} is no log of writes")
        position = size
        while True:
            file.seek(position)
            head = file.read(32)
            if len(head) < 32:
                return
            sector, count, flags, _ = struct.unpack("<4Q", head)
            if not (count or flags):
                return  # the log was preallocated, or torn: here it ends
            data = b""
            if not flags & DISCARD:
                file.seek(position + size)
                data = file.read(count * size)
                position += count * size
            position += size
            yield flags, sector * size, data if data else bytes(count * size)


class Disk:
    """A disk whose power is cut."""

    def __init__(self, folder):
        self._before, self._changes, self._log = (folder / name for name in ("cut.img", "cut.qcow2", "cut.log"))

    def take(self, source):
        """Begins with a copy of this qcow2 file."""
        subprocess.run(["qemu-img", "convert", "-O", "raw", source, self._before], check=True)

    def logged(self):
        """QEMU's options for the boot that ends in the cut."""
        overlay(self._before, self._changes)
        self._log.write_bytes(b"")
        return ["-blockdev", f"driver=qcow2,node-name=changes,file.driver=file,file.filename={self._changes}",
                "-blockdev", f"driver=file,node-name=log,filename={self._log}",
                "-blockdev", "driver=blklogwrites,node-name=disk,file=changes,log=log"]

    def lose_what_was_not_flushed(self):
        """Makes the disk what the worst one would be after the cut: (flushes, writes kept, writes lost)."""
        flushes = [number for number, (flags, _, _) in enumerate(entries(self._log)) if flags & FLUSH]
        if not flushes:
            raise OSError("the machine has never flushed its disk")
        kept = lost = 0
        with open(self._before, "r+b") as disk:
            for number, (flags, start, data) in enumerate(entries(self._log)):
                if not data or flags & MARK:
                    continue
                if number > flushes[-1] and not flags & FUA:
                    lost += 1
                    continue
                kept += 1
                disk.seek(start)
                disk.write(data)
        self._changes.unlink()
        return len(flushes), kept, lost

    def raw(self):
        """QEMU's options for the boot after the cut."""
        return ["-blockdev", f"driver=raw,node-name=disk,file.driver=file,file.filename={self._before}"]
