# shellcheck shell=sh
# What the tests of the packages share: checks that are counted, and Debian roots made once and kept. To be sourced with
#   CACHE  a folder that survives a run (roots)
#   here  the folder of this file
#   SCRATCH  a folder of this run, removed at its end unless a check failed (logs)

passed=0
failed=0
CHECK_LIMIT=${CHECK_LIMIT:-120} # seconds for a command of `check`, unless it is a function

say() { printf '%s\n' "$*"; }

die() {
    say "FAIL: $*" >&2
    exit 1
}

ok() {
    passed=$((passed + 1))
    say "ok    $*"
}

# fail WHAT [FILE]: FILE says more, its end is shown.
fail() {
    failed=$((failed + 1))
    say "FAIL  $1"
    [ ! -s "${2-}" ] || tail -n 20 "$2" | sed 's/^/      | /'
}

# check WHAT COMMAND…: the command must succeed. What it prints is kept in $SCRATCH/last.
check() {
    what=$1
    shift
    case $(command -v "$1") in
    /*) timeout -k 5 "$CHECK_LIMIT" "$@" ;;
    *) "$@" ;; # a function, which has limits of its own
    esac >"$SCRATCH/last" 2>&1 </dev/null && ok "$what" || fail "$what" "$SCRATCH/last"
}

# refuse WHAT COMMAND…: the command must fail.
refuse() {
    what=$1
    shift
    if "$@" >"$SCRATCH/last" 2>&1 </dev/null; then fail "$what" "$SCRATCH/last"; else ok "$what"; fi
}

# The last lines of a run; fails if a check did.
summary() {
    say "$passed passed, $failed failed"
    [ "$failed" = 0 ] && [ "$passed" != 0 ]
}

# wait_for SECONDS COMMAND…: until the command succeeds.
wait_for() {
    deadline=$(($(date +%s) + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt "$deadline" ] || return 1
        sleep 0.2
    done
}

# need PACKAGE…: of the machine that tests.
need() {
    missing=
    for package; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    say "installing$missing"
    # shellcheck disable=SC2086 # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing \
        </dev/null >"$CACHE/apt.log" 2>&1 || die "please install what Debian calls:$missing (see $CACHE/apt.log)"
}

# The suite and the mirror that this machine itself is installed from.
suite() { (. /etc/os-release && echo "$VERSION_CODENAME"); }

mirror() { "$here/../mirror" "$(suite)" || die "no mirror of Debian $(suite)"; }

# What a root with systemd is made of, whoever asks.
with_systemd=systemd-sysv,udev,dbus,adduser,kmod,busybox-static,iproute2,procps

# make_root NAME ARCHITECTURE PACKAGES (with commas): an archive of a fresh Debian, $CACHE/NAME.tar.zst, made unless there
# is one of the same packages. Foreign architectures need `foreign` before.
make_root() {
    archive=$CACHE/$1.tar.zst
    wanted="$2 $(suite) $3"
    [ "$(cat "$archive.of" 2>/dev/null)" = "$wanted" ] && [ -e "$archive" ] && return 0
    say "making the $2 root $1, once"
    rm -rf --one-file-system "$archive" "$archive.of" "$CACHE/$1.new"
    timeout 1800 debootstrap --arch="$2" --variant=minbase --include="$3" "$(suite)" "$CACHE/$1.new" "$(mirror)" \
        >"$CACHE/$1.log" 2>&1 || die "debootstrap failed; see $CACHE/$1.log"
    rm -f "$CACHE/$1.new"/var/cache/apt/archives/*.deb
    tar -C "$CACHE/$1.new" --zstd -cf "$archive.new" . || die "no room for $archive?"
    mv "$archive.new" "$archive"
    rm -rf --one-file-system "$CACHE/$1.new"
    echo "$wanted" >"$archive.of"
}

# use_root NAME FOLDER: unpacks it there.
use_root() {
    mkdir -p "$2"
    tar -C "$2" --zstd -xf "$CACHE/$1.tar.zst"
}

# enter FOLDER: mounts what programs expect, with no device of this machine. In a mount namespace, that ends by itself.
enter() {
    mount -t proc proc "$1/proc" &&
        mount -t tmpfs -o mode=755 tmpfs "$1/dev" &&
        mkdir -p "$1/dev/pts" "$1/dev/shm" &&
        mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts "$1/dev/pts" &&
        ln -s pts/ptmx "$1/dev/ptmx" &&
        ln -s /proc/self/fd "$1/dev/fd" &&
        mknod -m 666 "$1/dev/null" c 1 3 && mknod -m 666 "$1/dev/zero" c 1 5 &&
        mknod -m 666 "$1/dev/random" c 1 8 && mknod -m 666 "$1/dev/urandom" c 1 9 && mknod -m 666 "$1/dev/tty" c 5 0 &&
        # Installers write this file; debootstrap does not.
        { [ -e "$1/etc/hosts" ] || printf '127.0.0.1 localhost\n::1 localhost\n' >"$1/etc/hosts"; } &&
        # Installing starts nothing in a chroot.
        printf '#!/bin/sh\nexit 101\n' >"$1/usr/sbin/policy-rc.d" && chmod 755 "$1/usr/sbin/policy-rc.d"
}

# foreign ARCHITECTURE: lets this machine run its programs, by emulation.
foreign() {
    need qemu-user-static binfmt-support
    case $1 in
    arm64) interpreter=qemu-aarch64 ;;
    armhf) interpreter=qemu-arm ;;
    *) die "no emulator known for $1" ;;
    esac
    mountpoint -q /proc/sys/fs/binfmt_misc || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc ||
        die "binfmt_misc cannot be mounted, which takes root"
    [ -e /proc/sys/fs/binfmt_misc/$interpreter ] || update-binfmts --enable $interpreter ||
        die "$interpreter cannot be enabled"
}
