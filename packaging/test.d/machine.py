"""A Debian that QEMU boots: started, asked, unplugged, killed. Needs nothing but Python's own library."""

import base64
import json
import queue
import shlex
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

# By architecture: emulator, machine, processor, console. The Pi 4 has Cortex-A72; 32-bit systems run on Cortex-A15.
MACHINES = {
    "amd64": ("qemu-system-x86_64", "q35", "max", "ttyS0"),
    "arm64": ("qemu-system-aarch64", "virt", "cortex-a72", "ttyAMA0"),
    "armhf": ("qemu-system-arm", "virt,highmem=off", "cortex-a15", "ttyAMA0"),
}
LIMIT = 300  # seconds until anything counts as hung; emulation on a busy machine is slow


class Hung(Exception):
    """Something did not happen in time."""


class Lines:
    """The lines of a stream as they come, each kept until it is asked for."""

    def __init__(self, stream):
        self._lines = queue.Queue()
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream):
        for line in stream:
            self._lines.put(line.rstrip(b"\r\n").decode(errors="replace"))
        self._lines.put(None)

    def wait(self, wanted, limit=LIMIT):
        """The first line from here that `wanted` is true of; None at the stream's end."""
        deadline = time.monotonic() + limit
        while (left := deadline - time.monotonic()) > 0:
            try:
                line = self._lines.get(timeout=left)
            except queue.Empty:
                break
            if line is None or wanted(line):
                return line
        raise Hung(f"no such line within {limit} s")

    def rest(self):
        """Everything up to the stream's end."""
        return iter(self._lines.get, None)


def connect(path, limit=30):
    """A connection to a unix socket that is about to be there."""
    deadline = time.monotonic() + limit
    while True:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.connect(str(path))
            return link
        except OSError:
            link.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def free_port():
    """A TCP port of this machine that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Machine:
    """One boot. `disk` is what QEMU takes as -blockdev options, with node name `disk`; `package` is seen as /dev/vdb."""

    def __init__(self, arch, kernel, initrd, disk, package, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.mqtt_port = free_port()
        emulator, kind, cpu, console = MACHINES[arch]
        sockets = {name: folder / name for name in ("qmp", "shell", "adapter")}
        for path in sockets.values():
            path.unlink(missing_ok=True)
        command = [
            emulator, "-machine", kind, "-cpu", cpu, "-smp", "2", "-m", "1024",
            "-accel", "tcg,thread=multi",
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-kernel", kernel, "-initrd", initrd, "-append", f"console={console} quiet panic=1",
            "-serial", f"file:{folder}/console.log",
            "-qmp", f"unix:{sockets['qmp']},server=on,wait=off",
            *disk, "-device", "virtio-blk-pci,drive=disk",
            "-blockdev", f"driver=raw,node-name=package,read-only=on,file.driver=file,file.filename={package}",
            "-device", "virtio-blk-pci,drive=package",
            "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.mqtt_port}-:1883",
            "-device", "virtio-net-pci,netdev=net,romfile=",
            "-device", "virtio-serial-pci", "-chardev", f"socket,id=shell,path={sockets['shell']},server=on,wait=off",
            "-device", "virtserialport,chardev=shell,name=test.shell",
            "-device", "virtio-rng-pci",
            "-device", "qemu-xhci,id=usb", "-chardev", f"socket,id=adapter,path={sockets['adapter']},server=on,wait=off",
        ]
        self.started = time.monotonic()
        with open(folder / "qemu.log", "w") as log:
            self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self._qmp = connect(sockets["qmp"]).makefile("rwb")
            self._qmp_lines = Lines(self._qmp)
            self.qmp("qmp_capabilities")
            self._shell = connect(sockets["shell"])
            self._answers = Lines(self._shell.makefile("rb"))
            self.adapter = connect(sockets["adapter"])
            self.from_board = Lines(self.adapter.makefile("rb"))
        except BaseException:
            self.kill()
            raise

    def qmp(self, command, **arguments):
        """Asks QEMU, and returns its answer; events are passed over."""
        self._qmp.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        self._qmp.flush()
        answer = json.loads(self._qmp_lines.wait(lambda line: "return" in (got := json.loads(line)) or "error" in got, 30))
        if "error" in answer:
            raise RuntimeError(f"QEMU refuses {command}: {answer['error']['desc']}")
        return answer["return"]

    def run(self, command, limit=LIMIT):
        """Runs a shell command as root inside; its exit code and what it printed."""
        self._shell.sendall(base64.b64encode(command.encode()) + b"\n")
        answer = self._answers.wait(lambda line: line.startswith("done "), limit)
        if answer is None:
            raise Hung(f"the machine is gone: {shlex.quote(command)}")
        _, code, *printed = answer.split(" ")
        return int(code), base64.b64decode("".join(printed)).decode(errors="replace").strip()

    def boot(self):
        """Waits until it is up; seconds since the start."""
        self.run("systemctl is-system-running --wait")
        return time.monotonic() - self.started

    def plug(self):
        """Plugs the FTDI adapter in."""
        self.qmp("device_add", driver="usb-serial", id="adapter", chardev="adapter", bus="usb.0", serial="GP0001")

    def unplug(self):
        """Pulls the FTDI adapter out."""
        self.qmp("device_del", id="adapter")

    def reboot(self):
        """An orderly end; QEMU ends instead of starting again."""
        self._shell.sendall(base64.b64encode(b"systemctl --no-block reboot") + b"\n")
        self.process.wait(LIMIT)

    def kill(self):
        """What a power cut is to a machine; harmless when it has ended."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
