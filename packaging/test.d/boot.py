#!/usr/bin/env python3
"""usage: boot.py ARCHITECTURE DEB

Boots a Debian in QEMU ($CACHE/vm-ARCHITECTURE, made by `image`), installs the package DEB there, and goes through what
needs a kernel, a systemd and a port of its own: an emulated FTDI adapter plugged in and out, udev's rules, the sandbox
as the kernel enforces it, reboot, power cut. Prints ok and FAIL lines; exit code 1 if anything failed. What is said of
the machine's disk at the power cut is in powercut.py. CACHE and SCRATCH are as in lib.sh.
"""

import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import powercut
from machine import LIMIT, Hung, Lines, Machine

CONFIG = """\
[[broker.listener]]
address = "0.0.0.0:1883"
allow_anonymous = true

[device.board]
serial    = {{ port = "/dev/serial/by-id/{by_id}", baud = 9600{more} }}
publish   = "board/up"
subscribe = "board/down"
"""
STATUS = "gatepost/gatepost-test/device/board/status"
LOAD = 8000  # messages; fewer than the broker's max_queued


class Results:
    """Counts what is well and what is not."""

    def __init__(self):
        self.passed = self.failed = 0

    def check(self, what, good, detail=""):
        if good:
            self.passed += 1
            print(f"ok    {what}", flush=True)
        else:
            self.failed += 1
            print(f"FAIL  {what}", *str(detail).splitlines()[-20:], sep="\n      | ", flush=True)
        return good

    def command(self, machine, what, command, wanted=""):
        """`command` must succeed inside, and print something that matches `wanted`."""
        code, printed = machine.run(command)
        self.check(what, code == 0 and re.search(wanted, printed), f"exit code {code}\n{printed}")
        return printed


class Subscriber:
    """mosquitto_sub on this side, to the broker inside."""

    def __init__(self, machine, *arguments):
        command = ["stdbuf", "-oL", "mosquitto_sub", "-h", "127.0.0.1", "-p", str(machine.mqtt_port), "-q", "1", *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.lines = Lines(self.process.stdout)

    def wait(self, line, limit=LIMIT):
        """Whether this line comes."""
        try:
            return self.lines.wait(lambda got: got == line, limit) is not None
        except Hung:
            return False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def publish(machine, topic, payload, *more):
    """mosquitto_pub, QoS 1."""
    command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(machine.mqtt_port), "-q", "1", "-t", topic, "-m", payload, *more]
    subprocess.run(command, check=True, timeout=LIMIT)


def keep_session(machine):
    """Leaves a session that is to get the load."""
    with Subscriber(machine, "-c", "-i", "keeper", "-t", "load", "-E") as keeper:
        keeper.process.wait(LIMIT)


def configure(machine, by_id, more=""):
    """Writes what the owner of the adapter would."""
    text = CONFIG.format(by_id=by_id, more=more)
    machine.run(f"cat >/etc/gatepost/conf.d/board.toml <<'END'\n{text}END")


def install(results, machine, package):
    """apt, in a system that runs."""
    results.command(machine, "apt installs it", f"head -c {package.stat().st_size} /dev/vdb >/root/gatepost.deb && "
                    "DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends /root/gatepost.deb")
    results.command(machine, "the service runs at once, and at boot", "systemctl is-active gatepost && systemctl is-enabled gatepost")
    results.command(machine, "a message goes through",
                    "gatepost pub -t first -q 1 -r -m there && gatepost sub -t first -C 1 -W 60", "^there$")
    results.command(machine, "gatepost demo brings lines both ways", "gatepost demo --seconds 10 --port 18830", "ON|OFF")


def adapter(results, machine):
    """What udev makes of an FTDI adapter; its name below by-id."""
    machine.plug()
    code, printed = machine.run("udevadm settle -t 60; for i in $(seq 100); do [ -d /dev/serial/by-id ] && break; sleep 0.2; done; "
                                "ls /dev/serial/by-id")
    by_id = printed if re.fullmatch(r"usb-\S+-port0", printed) else None
    results.check("the adapter is /dev/ttyUSB0, with a name by-id", code == 0 and by_id, printed)
    machine.run("udevadm settle -t 60")
    results.command(machine, "FTDI latency timer is 1 ms", "cat /sys/bus/usb-serial/devices/ttyUSB0/latency_timer", "^1$")
    results.command(machine, "ModemManager is told to keep off", "udevadm info --query property /dev/ttyUSB0", r"(?m)^ID_MM_\w*(IGNORE|PROCESS)\w*=")
    results.command(machine, "systemd has a unit for it", "udevadm info --query property /dev/ttyUSB0 | grep ^TAGS= && "
                    "systemctl is-active dev-ttyUSB0.device", ":systemd:")
    return by_id


def lines(results, machine, subscriber, what):
    """Both ways over the wire."""
    word = f"T={random.randrange(10**6)}"
    machine.adapter.sendall(word.encode() + b"\r\n")
    results.check(f"a line reaches mosquitto_sub {what}", subscriber.wait(f"board/up {word}"))
    publish(machine, "board/down", word)
    try:
        results.check(f"a command reaches the board {what}", machine.from_board.wait(lambda line: line == word, 60) == word)
    except Hung:
        results.check(f"a command reaches the board {what}", False, "nothing came")


def wire(results, machine, by_id):
    """Configured by-id, lines, unplugged, plugged in again."""
    configure(machine, by_id)
    # A listener is new: that takes a restart.
    results.command(machine, "it takes the configuration", "gatepost check -c /etc/gatepost/gatepost.toml && systemctl restart gatepost")
    with Subscriber(machine, "-v", "-t", "#") as subscriber:
        online = results.check("the device is online", subscriber.wait(f"{STATUS} online"))
        if not online:
            print(machine.run("journalctl -b -u gatepost --no-pager | tail -n 20")[1])
            return
        lines(results, machine, subscriber, "")
        machine.unplug()
        results.check("unplugged: offline", subscriber.wait(f"{STATUS} offline"))
        results.command(machine, "the service goes on", "systemctl is-active gatepost && systemctl show -P NRestarts gatepost", "^active\n0$")
        machine.plug()
        start = time.monotonic()
        back = subscriber.wait(f"{STATUS} online")
        results.check(f"plugged in again: online after {time.monotonic() - start:.1f} s", back)
        lines(results, machine, subscriber, "after that")


# The settings of the port, through the service's own file: opening it once more would raise DTR. 434 and 438 are
# pidfd_open and pidfd_getfd, 0x5415 is TIOCMGET, in which RTS is 4 and DTR is 2.
PORT = r"""
perl -e '
    my $pid = 0 + shift;
    my ($theirs) = map { m{/fd/(\d+)$} } grep { readlink =~ /ttyUSB/ } glob "/proc/$pid/fd/*";
    defined $theirs or die "process $pid has no ttyUSB open\n";
    my $ours = syscall(438, syscall(434, $pid, 0), $theirs + 0, 0);
    open STDIN, "<&", $ours or die "pidfd_getfd: $!\n";
    my $bits = pack "i", 0;
    ioctl(STDIN, 0x5415, $bits) or die "TIOCMGET: $!\n";
    $| = 1;
    printf "DTR %d RTS %d ", map { (unpack "i", $bits) & $_ ? 1 : 0 } 2, 4;
    exec "stty", "-a"' "$(systemctl show -P MainPID gatepost)" | tr '\n' ' '
"""


def settings(results, machine, by_id):
    """Parity, size and DTR, which a pty has not, as the kernel reports them."""

    def reload(what, more, wanted):
        configure(machine, by_id, more)
        results.command(machine, f"reload to {what}", "gatepost reload")
        with Subscriber(machine, "-v", "-t", STATUS) as subscriber:
            subscriber.wait(f"{STATUS} online")
        # The status is retained; the port may be closed and opened only now.
        deadline = time.monotonic() + 60
        while not re.search(wanted, (printed := machine.run(PORT)[1])) and time.monotonic() < deadline:
            time.sleep(0.5)
        results.check(f"the driver has {what}", re.search(wanted, printed), printed)

    reload("9600 7E2 without DTR", ', parity = "even", data_bits = 7, stop_bits = 2, dtr = "off", rts = "on"',
           r"DTR 0 RTS 1 speed 9600 .* parenb -parodd .*cs7 .* cstopb")
    results.command(machine, "nothing is said of ignored settings", "! journalctl -b -u gatepost --no-pager | grep -i -E 'ignor|reads back|parity'")
    reload("9600 8N1 with DTR", "", r"DTR 1 RTS 1 speed 9600 .* -parenb .*cs8 .*-cstopb")


# Opens each device as root, but as a process of the service's control group, which is where DeviceAllow= acts. EPERM is its
# answer; other errors come from the device, so the kernel did allow it.
PROBE = r"""
group=/sys/fs/cgroup$(systemctl show -P ControlGroup gatepost)/cgroup.procs
rm -rf /dev/probe && mkdir /dev/probe && cd /dev/probe
for node in null:1:3 ttyUSB:188:0 ttyACM:166:0 ttyAMA:204:64 ttyS:4:64 mem:1:1 kmsg:1:11 rtc:10:135 loop-control:10:237 hwrng:10:183 input:13:63 fb:29:0 i2c:89:0; do
    IFS=: read -r name major minor <<<"$node"
    mknod $name c $major $minor
done
mknod vda b 254 0; mknod sda b 8 0; mknod loop b 7 0
perl -e '
    open G, ">", $ARGV[0] and syswrite G, $$ and close G or die "$ARGV[0]: $!" if $ARGV[0];
    for (sort glob "*") {
        my $answer = sysopen(F, $_, 04402) ? "allowed" : $!{EPERM} ? "refused" : $!{EACCES} ? "unclear" : "allowed";
        print "$_ $answer\n";
    }' "$1"
"""


def sandbox(results, machine, arch):
    """DeviceAllow=, enforced by the kernel."""

    def answers(group):
        printed = machine.run(PROBE.replace("$1", group))[1]
        return dict(re.findall(r"(?m)^(\S+) (allowed|refused|unclear)$", printed)), printed

    outside, _ = answers("")
    inside, printed = answers("$group")
    # The kernel of amd64 knows no ttyAMA: a UART of ARM.
    serial = ["ttyUSB", "ttyACM", "ttyS"] + ["ttyAMA"] * (arch != "amd64")
    strangers = outside.keys() - {"ttyUSB", "ttyACM", "ttyS", "ttyAMA", "null"}
    results.check("the probe itself may open any device", strangers and set(outside.values()) == {"allowed"}, outside)
    results.check("DeviceAllow: every serial kind is allowed", all(inside.get(name) == "allowed" for name in serial), printed)
    results.check(f"DeviceAllow: {len(strangers)} others are refused, disks and memory among them",
                  strangers and all(inside.get(name) == "refused" for name in strangers), printed)
    results.command(machine, "the service may not open a disk", "systemctl show -P DevicePolicy gatepost", "^(closed|strict)$")


def tools(results, machine):
    """The commands of a Pi's owner."""
    results.command(machine, "gatepost ports shows it, and who has it", "gatepost ports", r"(?s)ttyUSB0.*gatepost|gatepost.*ttyUSB0")
    code, printed = machine.run("gatepost doctor -c /etc/gatepost/gatepost.toml")
    results.check("gatepost doctor comes to an end", code in (0, 1) and printed, f"exit code {code}\n{printed}")
    print("\n".join(f"      | {line}" for line in printed.splitlines()))
    results.command(machine, "gatepost status shows the device online", "gatepost status", r"board.*online")
    results.command(machine, "gatepost send writes", "gatepost send board hello-wire")
    results.check("that is on the wire", machine.from_board.wait(lambda line: line == "hello-wire", 60) == "hello-wire")


def killed(results, machine):
    """kill -9, and systemd."""
    publish(machine, "kept", "retained", "-r")
    keep_session(machine)
    publish(machine, "load", "before")
    command = ("systemctl kill -s KILL gatepost; for i in $(seq 600); do [ $(systemctl show -P NRestarts gatepost) = 1 ] && "
               "systemctl is-active -q gatepost && break; sleep 0.1; done; systemctl is-active gatepost")
    start = time.monotonic()
    results.command(machine, "kill -9: systemd starts it again", command, "^active$")
    print(f"      | after {time.monotonic() - start:.1f} s")
    state(results, machine, "kill -9")


def state(results, machine, what):
    """A retained message, and a session with one message queued, which is queued anew."""
    with Subscriber(machine, "-t", "kept", "-C", "1") as subscriber:
        results.check(f"the retained message is there after {what}", subscriber.wait("retained", 60))
    with Subscriber(machine, "-c", "-i", "keeper", "-t", "load", "-C", "1") as subscriber:
        results.check(f"the queued message is there after {what}", subscriber.wait("before", 60))
        subscriber.process.wait(LIMIT)
    publish(machine, "load", "before")


def rebooted(results, machine):
    """After a boot with nothing plugged in."""
    results.command(machine, "the service is active after boot", "systemctl is-active gatepost")
    state(results, machine, "the reboot")
    with Subscriber(machine, "-v", "-t", "#") as subscriber:
        results.check("the port is missing: offline", subscriber.wait(f"{STATUS} offline"))
        # Until now, this kernel has not seen an adapter: its driver and its device number come only now.
        machine.plug()
        results.check("plugged in after boot: online", subscriber.wait(f"{STATUS} online", 90),
                      machine.run("journalctl -b -u gatepost --no-pager | tail -n 20")[1])
        lines(results, machine, subscriber, "after the reboot")
    results.command(machine, "the log names no error", "! journalctl -b -u gatepost -p err --no-pager -q | grep .")


def load_until_cut(machine, acknowledged):
    """Publishes at QoS 1 until so many are acknowledged, and cuts the power; all that were acknowledged."""
    with Subscriber(machine, "-c", "-i", "keeper", "-t", "load", "-C", "1") as keeper:
        keeper.wait("before", 60)
        keeper.process.wait(LIMIT)
    command = ["stdbuf", "-oL", "mosquitto_pub", "-d", "-h", "127.0.0.1", "-p", str(machine.mqtt_port), "-i", "loader", "-q", "1",
               "-t", "load", "-l"]
    publisher = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    publisher.stdin.write(b"".join(b"%d\n" % number for number in range(1, LOAD + 1)))
    publisher.stdin.close()
    done = []
    for line in publisher.stdout:
        # Its packet ids count from 1, as the payloads do.
        if got := re.search(rb"received PUBACK \(Mid: (\d+)", line):
            done.append(int(got[1]))
            if len(done) == acknowledged:
                machine.kill()
                publisher.kill()
    publisher.wait()
    return done


def all_there(results, machine, acknowledged):
    """What was acknowledged before the power cut is in the kept session, in order and unharmed."""
    publish(machine, "load", "end")
    received = []
    with Subscriber(machine, "-c", "-i", "keeper", "-t", "load") as keeper:
        try:
            keeper.lines.wait(lambda line: line == "end" or received.append(line), 120)
        except Hung:
            pass  # the session is gone, or its end: what is missing is counted below
    lost = {str(number) for number in acknowledged} - set(received)
    results.check(f"power cut: all {len(acknowledged)} acknowledged messages are there, of {len(received)} kept",
                  acknowledged and not lost, f"{len(lost)} lost, such as {sorted(lost, key=int)[:10]}")
    results.check("in order, none twice, none from nowhere", received == [str(n + 1) for n in range(len(received))], received[:20])
    with Subscriber(machine, "-t", "kept", "-C", "1") as subscriber:
        results.check("the retained message is there after the power cut", subscriber.wait("retained", 60))
    results.command(machine, "no damaged store was set aside", "! ls /var/lib/gatepost | grep bad")


def purged(results, machine):
    """remove and purge, in a system that runs."""
    results.command(machine, "remove stops the service", "apt-get remove -qq -y gatepost && ! systemctl is-active gatepost && "
                    "test -e /etc/gatepost/gatepost.toml && test -e /var/lib/gatepost/broker.db")
    results.command(machine, "purge leaves nothing", "rm -f /etc/gatepost/conf.d/board.toml; apt-get purge -qq -y gatepost && "
                    "! find /etc /usr /var/lib /run -xdev -name '*gatepost*' -not -path '/var/lib/dpkg/*' | grep . && "
                    "! systemctl list-unit-files gatepost.service | grep gatepost")


def save_journal(machine, file):
    """For whoever looks into a failure; it may be that nobody answers any more."""
    try:
        file.write_text(machine.run("journalctl -b --no-pager", 60)[1])
    except (Hung, OSError):
        file.write_text("The machine did not answer.\n")


def story(results, arch, package, cache, scratch):
    """Four boots."""
    parts = cache / f"vm-{arch}"
    day, cut = scratch / "day.qcow2", powercut.Disk(scratch)

    def machine(name, disk):
        print(f"-- {arch}, {name}", flush=True)
        return Machine(arch, parts / "vmlinuz", parts / "initrd", disk, package, scratch / name)

    def booted(name, disk, scenes):
        guest = machine(name, disk)
        try:
            print(f"      | up after {guest.boot():.0f} s", flush=True)
            return scenes(guest)
        finally:
            if guest.process.poll() is None:
                save_journal(guest, scratch / name / "journal.log")
            guest.kill()

    def first(guest):
        install(results, guest, package)
        by_id = adapter(results, guest)
        if by_id:
            wire(results, guest, by_id)
            settings(results, guest, by_id)
            tools(results, guest)
        sandbox(results, guest, arch)
        killed(results, guest)
        guest.reboot()

    def second(guest):
        rebooted(results, guest)
        guest.reboot()

    powercut.overlay(parts / "disk.img", day)
    booted("boot", powercut.plain(day), first)
    booted("reboot", powercut.plain(day), second)
    cut.take(day)
    done = booted("cut", cut.logged(), lambda guest: load_until_cut(guest, random.randrange(500, 2000)))
    flushes, kept, dropped = cut.lose_what_was_not_flushed()
    print(f"      | the disk had {flushes} flushes; {kept} writes before the last are kept, {dropped} after it are lost")

    def last(guest):
        all_there(results, guest, done)
        purged(results, guest)

    booted("after", cut.raw(), last)


def main():
    arch, package = sys.argv[1], Path(sys.argv[2]).resolve()
    cache, scratch = Path(os.environ["CACHE"]).resolve(), Path(os.environ["SCRATCH"]).resolve()
    results = Results()
    try:
        story(results, arch, package, cache, scratch)
    except (Hung, OSError, RuntimeError, subprocess.SubprocessError) as error:
        results.check("the story comes to its end", False, f"{type(error).__name__}: {error}")
    print(f"{results.passed} passed, {results.failed} failed")
    return 1 if results.failed or not results.passed else 0


if __name__ == "__main__":
    sys.exit(main())
