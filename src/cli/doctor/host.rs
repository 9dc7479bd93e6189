//! Findings about the machine as a whole: clock, disk, limits.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, StatVfs, StatVfsMountFlags, accessat, statvfs};
use rustix::process::{Resource, getrlimit};

use super::finding::Finding;
use super::machine::Machine;
use super::service::USER as SERVICE_USER;
use crate::config::Config;

/// 2025-01-01T00:00:00Z, before this program was written: a clock before it was never set.
const EARLIEST: u64 = 1_735_689_600;
/// Less is as good as full.
const LEAST_FREE: u64 = 16 << 20;
/// Bytes of a database that are read to see whether the disk gives them back.
const MOST_READ: u64 = 256 << 20;
/// Descriptors beside those of connections and devices: log, database, listeners, control socket, the runtime.
const OTHER_FILES: u64 = 64;
/// Programs that set the clock and do not tell systemd.
const TIME_SERVERS: [&str; 5] = ["chronyd", "ntpd", "ntpsec", "openntpd", "ptp4l"];

/// The clock; `now` is in seconds since 1970.
pub fn clock(machine: &Machine, now: u64) -> Finding {
    let advice = |finding: Finding| {
        finding.fix("sudo timedatectl set-ntp true && timedatectl timesync-status").fix("date    # what it says now")
    };
    if now < EARLIEST {
        let finding = Finding::problem("clock", "the clock says that it is before 2025: it was never set");
        return advice(finding.why("Times in messages are wrong, and TLS certificates count as not valid yet."));
    }
    let has_systemd = machine.exists("run/systemd/system");
    let synchronized = machine.exists("run/systemd/timesync/synchronized");
    if !has_systemd || synchronized {
        return Finding::fine("clock", if synchronized { "it is synchronized" } else { "it is plausible" });
    }
    if let Some(server) = machine.running(&TIME_SERVERS) {
        return Finding::fine("clock", format!("it is plausible, and {server} looks after it"));
    }
    let finding = Finding::warning("clock", "nothing synchronizes the clock, or it has not succeeded yet");
    advice(finding.why("A machine without a battery clock starts with a time of the past; times in messages drift."))
}

/// The folder for state, and `database` in it: whether they can be written to, and whether there is room.
pub fn disk(machine: &Machine, state_dir: &Path, database: Option<&Path>) -> Vec<Finding> {
    let place = existing(state_dir);
    let mut findings = Vec::new();
    match statvfs(&place) {
        Ok(space) => findings.extend(room(state_dir, &space)),
        Err(error) => findings.push(
            Finding::problem("disk", format!("state_dir {} cannot be looked at: {error}", state_dir.display()))
                .fix("sudo dmesg | tail -n 20    # whether the disk has errors"),
        ),
    }
    let is_read_only = statvfs(&place).is_ok_and(|space| space.f_flag.contains(StatVfsMountFlags::RDONLY));
    if !is_read_only {
        findings.extend(not_writable(machine, state_dir, &place, database));
    }
    findings.extend(database.and_then(unreadable));
    if findings.is_empty() {
        findings.push(Finding::fine("disk", format!("state_dir {} has room", state_dir.display())));
    }
    findings
}

/// That the disk does not give back what is in the database. Who may not read it hears of that from [`not_writable`].
fn unreadable(database: &Path) -> Option<Finding> {
    let mut log = database.as_os_str().to_owned();
    log.push("-wal");
    let read = |path: &Path| io::copy(&mut fs::File::open(path)?.take(MOST_READ), &mut io::sink());
    let (path, error) = [database, Path::new(&log)].into_iter().find_map(|path| Some((path, read(path).err()?)))?;
    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) {
        return None;
    }
    Some(
        Finding::problem("disk", format!("{} cannot be read: {error}", path.display()))
            .why("A gateway that starts now keeps nothing on disk until it is restarted. The file is not touched.")
            .fix(
                "sudo dmesg | grep -iE 'mmc|ext4|i/o error' | tail    # why; then check the cable, or replace the disk",
            )
            .fix("sudo systemctl restart gatepost    # once it can be read again"),
    )
}

/// The folder, or the nearest above that is there: the gateway makes the rest.
fn existing(folder: &Path) -> PathBuf {
    folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/")).to_owned()
}

/// That the gateway may not write to its folder, or to the one above where it would make it, or to its database there: who
/// has started it as another user once has made one that is not its own.
fn not_writable(machine: &Machine, state_dir: &Path, place: &Path, database: Option<&Path>) -> Option<Finding> {
    let is_refused = |path: &Path| match (&machine.service, fs::metadata(path)) {
        (_, Err(_)) => false,
        (Some(service), Ok(found)) if found.is_dir() => !service.may_fill(&found),
        (Some(service), Ok(found)) => !service.may_open(&found),
        (None, Ok(found)) => {
            let rights = if found.is_dir() { Access::EXEC_OK } else { Access::READ_OK };
            accessat(CWD, path, Access::WRITE_OK | rights, AtFlags::EACCESS).is_err()
        }
    };
    // systemd makes the folder, and gives it to the service.
    let folder = if machine.service.is_some() { state_dir } else { place };
    let obstacle = [Some(folder), database].into_iter().flatten().find(|path| is_refused(path))?;
    let user = match &machine.service {
        Some(_) => format!("the service user {SERVICE_USER}"),
        None => own_name(machine).unwrap_or_else(|| format!("uid {}", own_uid())),
    };
    let what = format!("{user} may not write to {}", obstacle.display());
    // The folder of a gateway that another started is not for whoever asks.
    let is_of_other = machine.service.is_none() && machine.gateway().is_some();
    let finding = if is_of_other { Finding::warning("disk", what) } else { Finding::problem("disk", what) };
    let state_dir = state_dir.display();
    let finding =
        finding.why(format!("The gateway keeps its state in {state_dir} (state_dir) and must be able to write there."));
    Some(if machine.service.is_some() {
        finding.fix(format!("sudo chown -R {SERVICE_USER}: {state_dir} && sudo systemctl restart gatepost"))
    } else if obstacle == folder {
        let owner = own_name(machine).unwrap_or_else(|| own_uid().to_string());
        finding.fix(format!("sudo install -d -o {owner} -m 0750 {state_dir}"))
    } else {
        // Only a user with a name has a group that `:` stands for.
        let owner = own_name(machine).map_or_else(|| own_uid().to_string(), |name| format!("{name}:"));
        finding.fix(format!("sudo chown {owner} {}*    # its log has the same rights", obstacle.display()))
    })
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// As /etc/passwd has it; in a container a user may have none.
fn own_name(machine: &Machine) -> Option<String> {
    machine.accounts.user_name(own_uid())
}

/// What is wrong with the file system.
fn room(state_dir: &Path, space: &StatVfs) -> Vec<Finding> {
    let mut findings = Vec::new();
    let folder = state_dir.display();
    if space.f_flag.contains(StatVfsMountFlags::RDONLY) {
        let what = format!("the file system of state_dir {folder} is read-only");
        findings.push(
            Finding::problem("disk", what)
                .why("Nothing can be kept. An SD card at its end, or an error of the file system, makes it so.")
                .fix("sudo dmesg | grep -iE 'mmc|ext4|i/o error' | tail    # why")
                .fix(format!(
                    "sudo mount -o remount,rw \"$(findmnt -no TARGET -T {})\"",
                    existing(state_dir).display()
                )),
        );
    }
    let (free, total) = (space.f_bavail.saturating_mul(space.f_frsize), space.f_blocks.saturating_mul(space.f_frsize));
    // A pseudo file system has no blocks.
    let is_full = total > 0 && free < LEAST_FREE;
    let is_scarce = total > 0 && free < total / 100;
    let no_inodes = space.f_files > 0 && space.f_favail == 0;
    if !(is_full || is_scarce || no_inodes) {
        return findings;
    }
    let what = if no_inodes && !is_full {
        format!("disk full: no more files can be made where state_dir {folder} is")
    } else {
        let (free, total) = (mebibytes(free), mebibytes(total));
        let full = if is_full { "disk full" } else { "disk nearly full" };
        format!("{full}: {free} of {total} are free where state_dir {folder} is")
    };
    let severe = is_full || no_inodes;
    let finding = if severe { Finding::problem("disk", what) } else { Finding::warning("disk", what) };
    findings.push(
        finding
            .why("Retained messages, sessions and queued messages cannot be kept on a full disk.")
            .fix(format!("df -h {0}; df -i {0}", existing(state_dir).display()))
            .fix("sudo journalctl --vacuum-size=100M; sudo apt clean"),
    );
    findings
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Whether as many connections as configured can be open: in the gateway that runs, else in one started from here.
pub fn files(machine: &Machine, config: &Config) -> Finding {
    let (connections, devices) = (config.broker.max_connections, config.devices.len());
    match machine.gateway() {
        Some(gateway) => {
            let limits = machine.read(&format!("proc/{}/limits", gateway.pid)).unwrap_or_default();
            open_files(limit_of(&limits), &format!("in {gateway}"), connections, devices)
        }
        None if machine.service.is_some() => Finding::fine("limits", "those of the service are seen while it runs"),
        None => open_files(getrlimit(Resource::Nofile).current, "in this session", connections, devices),
    }
}

/// The soft limit of open files in /proc/PID/limits (proc(5)); `None`: unlimited or unknown.
fn limit_of(limits: &str) -> Option<u64> {
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

fn open_files(limit: Option<u64>, whose: &str, connections: usize, devices: usize) -> Finding {
    let needed = (connections as u64).saturating_add(devices as u64).saturating_add(OTHER_FILES);
    match limit {
        Some(limit) if limit < needed => {
            let what = format!("{limit} files may be open {whose}, and max_connections = {connections} needs {needed}");
            Finding::warning("limits", what)
                .why("Connections beyond the limit cannot be accepted.")
                .fix(format!("sudo systemctl edit gatepost    # [Service] LimitNOFILE={}", needed.next_power_of_two()))
                .fix(format!("ulimit -n {}    # in a shell", needed.next_power_of_two()))
        }
        _ => Finding::fine("limits", format!("enough files may be open for max_connections = {connections}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    fn severities(findings: &[Finding]) -> Vec<Severity> {
        findings.iter().map(|finding| finding.severity).collect()
    }

    #[test]
    fn a_clock_that_was_never_set_is_told() {
        let root = tempfile::tempdir().unwrap();
        let clock = |now| clock(&Machine::gather(root.path()), now).severity;
        assert_eq!(clock(EARLIEST), Severity::Fine);
        assert_eq!(clock(EARLIEST - 1), Severity::Problem);
        fs::create_dir_all(root.path().join("run/systemd/system")).unwrap();
        assert_eq!(clock(EARLIEST), Severity::Warning);
        fs::create_dir_all(root.path().join("proc/412")).unwrap();
        fs::write(root.path().join("proc/412/comm"), "chronyd\n").unwrap();
        assert_eq!(clock(EARLIEST), Severity::Fine);
        fs::remove_dir_all(root.path().join("proc")).unwrap();
        fs::create_dir_all(root.path().join("run/systemd/timesync")).unwrap();
        fs::write(root.path().join("run/systemd/timesync/synchronized"), "").unwrap();
        assert_eq!(clock(EARLIEST), Severity::Fine);
    }

    #[test]
    fn room_is_measured() {
        let space = |free_blocks, free_inodes, f_flag| StatVfs {
            f_bsize: 4096,
            f_frsize: 4096,
            f_blocks: 10 << 20,
            f_bfree: free_blocks,
            f_bavail: free_blocks,
            f_files: 1000,
            f_ffree: free_inodes,
            f_favail: free_inodes,
            f_fsid: 0,
            f_flag,
            f_namemax: 255,
        };
        let room = |space: StatVfs| severities(&room(Path::new("/var/lib/gatepost"), &space));
        let writable = StatVfsMountFlags::empty();
        assert_eq!(room(space(5 << 20, 500, writable)), []);
        assert_eq!(room(space(4096, 500, writable)), [Severity::Warning]);
        assert_eq!(room(space(4095, 500, writable)), [Severity::Problem]);
        assert_eq!(room(space(5 << 20, 0, writable)), [Severity::Problem]);
        assert_eq!(room(space(5 << 20, 500, StatVfsMountFlags::RDONLY)), [Severity::Problem]);
    }

    #[test]
    fn a_folder_that_is_not_there_yet_is_judged_by_the_one_above() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(existing(&folder.path().join("a/b")), folder.path());
        let machine = Machine::gather(Path::new("/"));
        let findings = disk(&machine, &folder.path().join("a/b"), None);
        assert!(findings.iter().all(|finding| !finding.what.contains("may not write")), "{findings:?}");
    }

    #[test]
    fn a_database_that_cannot_be_read_is_a_problem() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("broker.db");
        assert!(unreadable(&database).is_none(), "there is none yet");
        fs::write(&database, "x").unwrap();
        assert!(unreadable(&database).is_none());
        // EISDIR, for want of a disk that fails.
        fs::create_dir(folder.path().join("broker.db-wal")).unwrap();
        let finding = unreadable(&database).unwrap();
        assert!(finding.what.contains("broker.db-wal cannot be read"), "{}", finding.what);
    }

    #[test]
    fn open_files_are_counted() {
        let few = open_files(Some(1024), "here", 1024, 3);
        assert_eq!(few.severity, Severity::Warning);
        assert!(few.fix[0].contains("LimitNOFILE=2048"));
        assert_eq!(open_files(Some(1024 + 3 + 64), "here", 1024, 3).severity, Severity::Fine);
        assert_eq!(open_files(None, "here", 1 << 30, 0).severity, Severity::Fine);
        let own = fs::read_to_string("/proc/self/limits").unwrap();
        assert_eq!(limit_of(&own), getrlimit(Resource::Nofile).current);
        assert_eq!(limit_of("Max open files            unlimited            unlimited            files\n"), None);
    }
}
