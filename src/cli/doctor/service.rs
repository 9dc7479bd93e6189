//! The gateway as a service of the system: who it runs as, and what that user may not read or write. Where a
//! configuration is the service's, its user counts and not the one who asks.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::finding::Finding;
use super::machine::Process;
use crate::config::{Loaded, PrivateKey};
use crate::machine::accounts::Accounts;

/// The user that packages and the unit file run the gateway as.
pub const USER: &str = "gatepost";
/// Where systemd lets the service keep its state.
pub const STATE_DIR: &str = "/var/lib/gatepost";
/// Its unit.
pub const UNIT: &str = "gatepost.service";
/// Where its unit file may be, what counts most first.
const UNIT_FOLDERS: [&str; 4] =
    ["etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];
const READ: u32 = 0o4;
const WRITE: u32 = 0o2;
const ENTER: u32 = 0o1;

/// Who the service runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    uid: u32,
    /// The main one first.
    groups: Vec<u32>,
}

impl Service {
    /// As it runs, else as it would by the accounts and the unit file below `root`.
    pub fn find(root: &Path, processes: &[Process], accounts: &Accounts) -> Option<Service> {
        let is_it = |process: &&Process| process.is_gatepost() && process.unit.as_ref().is_some_and(|u| u.name == UNIT);
        let running = processes.iter().find(is_it).and_then(|process| {
            let status = fs::read_to_string(root.join(format!("proc/{}/status", process.pid))).ok()?;
            Service::of_status(&status)
        });
        running.or_else(|| {
            let user = accounts.user(USER)?;
            let mut groups = user.groups;
            groups.extend(supplementary_groups(root).iter().filter_map(|name| accounts.group_id(name)));
            Some(Service { uid: user.uid, groups })
        })
    }

    /// From /proc/PID/status (proc_pid_status(5)): the second number of each is the effective one.
    fn of_status(status: &str) -> Option<Service> {
        let numbers = |name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().map(|number| number.parse().ok()).collect::<Option<Vec<u32>>>()
        };
        let mut groups = vec![*numbers("Gid:")?.get(1)?];
        groups.extend(numbers("Groups:").unwrap_or_default());
        Some(Service { uid: *numbers("Uid:")?.get(1)?, groups })
    }

    /// Whether it may read and write a device.
    pub fn may_open(&self, file: &Metadata) -> bool {
        self.has(file, READ | WRITE)
    }

    /// Whether it may make files in a folder.
    pub fn may_fill(&self, folder: &Metadata) -> bool {
        self.has(folder, WRITE | ENTER)
    }

    /// As path_resolution(7) has it; lists of access rights are not looked at.
    fn has(&self, file: &Metadata, rights: u32) -> bool {
        let bits = if self.uid == file.uid() {
            file.mode() >> 6
        } else if self.groups.contains(&file.gid()) {
            file.mode() >> 3
        } else {
            file.mode()
        };
        self.uid == 0 || bits & rights == rights
    }

    /// Its user's number.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Whether its unit or a drop-in below `root` gives it the capability for ports below 1024.
    pub fn may_bind_low_ports(&self, root: &Path) -> bool {
        let gives = |text: String| {
            let mut lines = text.lines().filter_map(|line| line.trim().strip_prefix("AmbientCapabilities="));
            lines.any(|line| line.split_whitespace().any(|capability| capability == "CAP_NET_BIND_SERVICE"))
        };
        self.uid == 0 || unit_files(root).into_iter().filter_map(|file| fs::read_to_string(file).ok()).any(gives)
    }

    /// The first of `path` and the folders it is in that keeps the service from reading it.
    fn is_kept_from<'a>(&self, path: &'a Path) -> Option<(&'a Path, Metadata)> {
        path.ancestors().find_map(|part| {
            let rights = if part == path { READ } else { ENTER };
            // What is not there or cannot be looked at is not known to be in the way.
            fs::metadata(part).ok().filter(|file| !self.has(file, rights)).map(|file| (part, file))
        })
    }

    /// Files that it must read and may not.
    pub fn examine(&self, loaded: &Loaded, accounts: &Accounts) -> Vec<Finding> {
        let finding = |path: PathBuf| {
            let (obstacle, file) = self.is_kept_from(&path)?;
            let owner = accounts.user_name(file.uid()).unwrap_or_else(|| file.uid().to_string());
            let group =
                self.groups.first().and_then(|gid| accounts.group_name(*gid)).unwrap_or_else(|| USER.to_owned());
            let (place, mode) = (obstacle.display(), if obstacle == path { "0640" } else { "0750" });
            Some(
                Finding::problem("service", format!("the service user {USER} may not read {}", path.display()))
                    .why(format!("{place} belongs to {owner}, mode {:04o}.", file.mode() & 0o7777))
                    .fix(format!("sudo chgrp {group} {place} && sudo chmod {mode} {place}"))
                    .fix("sudo systemctl restart gatepost"),
            )
        };
        files(loaded).into_iter().filter_map(finding).collect()
    }
}

/// The configuration and what it names.
fn files(loaded: &Loaded) -> Vec<PathBuf> {
    let broker = &loaded.config.broker;
    let mut files = loaded.files.clone();
    files.extend(broker.password_file.iter().chain(&broker.acl_file).cloned());
    for tls in broker.listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
        files.push(tls.cert.clone());
        files.extend(tls.client_ca.clone());
        if let PrivateKey::File(key) = &tls.key {
            files.push(key.clone());
        }
    }
    files.sort();
    files.dedup();
    files
}

/// The unit file and its drop-ins.
fn unit_files(root: &Path) -> Vec<PathBuf> {
    let folders = UNIT_FOLDERS.map(|folder| root.join(folder));
    let mut files: Vec<PathBuf> =
        folders.iter().map(|folder| folder.join(UNIT)).find(|file| file.exists()).into_iter().collect();
    for folder in folders {
        let drop_ins = fs::read_dir(folder.join(format!("{UNIT}.d"))).into_iter().flatten().flatten();
        let drop_ins = drop_ins.map(|file| file.path());
        files.extend(drop_ins.filter(|path| path.extension().is_some_and(|extension| extension == "conf")));
    }
    files
}

/// `SupplementaryGroups=` of the unit file.
fn supplementary_groups(root: &Path) -> Vec<String> {
    let unit = UNIT_FOLDERS.iter().find_map(|folder| fs::read_to_string(root.join(folder).join(UNIT)).ok());
    let unit = unit.unwrap_or_default();
    let lists = unit.lines().filter_map(|line| line.trim().strip_prefix("SupplementaryGroups="));
    lists.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn accounts(root: &Path) -> Accounts {
        fs::create_dir_all(root.join("etc/systemd/system")).unwrap();
        fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\ngatepost:x:990:990::/:/bin/false\n").unwrap();
        fs::write(root.join("etc/group"), "gatepost:x:990:\ndialout:x:20:\ngpio:x:997:gatepost\n").unwrap();
        Accounts::read(root)
    }

    #[test]
    fn its_groups_are_those_of_the_process_else_of_account_and_unit() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Service::find(root.path(), &[], &Accounts::read(root.path())), None);
        let accounts = accounts(root.path());
        let find = |processes: &[Process]| Service::find(root.path(), processes, &accounts).unwrap();
        assert_eq!(find(&[]), Service { uid: 990, groups: vec![990, 997] });
        let unit = "[Service]\nUser=gatepost\nSupplementaryGroups=dialout nosuch\n";
        fs::write(root.path().join("etc/systemd/system/gatepost.service"), unit).unwrap();
        assert_eq!(find(&[]), Service { uid: 990, groups: vec![990, 997, 20] });

        let unit = |name: &str| Some(super::super::machine::Unit { name: name.to_owned(), of_user: false });
        let process = |name: &str| Process { pid: 7, name: "gatepost".into(), arguments: vec![], unit: unit(name) };
        fs::create_dir_all(root.path().join("proc/7")).unwrap();
        let status = "Name:\tgatepost\nUid:\t990\t61184\t990\t990\nGid:\t990\t61184\t990\t990\nGroups:\t20 61184 \n";
        fs::write(root.path().join("proc/7/status"), status).unwrap();
        assert_eq!(find(&[process(UNIT)]), Service { uid: 61184, groups: vec![61184, 20, 61184] });
        assert_eq!(find(&[process("other.service")]).uid, 990);
    }

    #[test]
    fn files_that_it_may_not_read_are_named_with_what_is_in_the_way() {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let accounts = accounts(root.path());
        let own = fs::metadata(root.path()).unwrap();
        let stranger = Service { uid: own.uid() + 1, groups: vec![own.gid() + 1] };
        let file = root.path().join("passwd");
        fs::write(&file, "").unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let loaded = Loaded { files: vec![file.clone()], ..Loaded::default() };
        set(&file, 0o644);
        assert_eq!(stranger.examine(&loaded, &accounts), []);
        set(&file, 0o600);
        let findings = stranger.examine(&loaded, &accounts);
        assert!(findings[0].what.ends_with("/passwd") && findings[0].why.ends_with("mode 0600."), "{findings:?}");
        assert!(findings[0].fix[0].ends_with(&format!("sudo chmod 0640 {}", file.display())), "{findings:?}");
        let member = Service { groups: vec![7, own.gid()], ..stranger.clone() };
        set(&file, 0o640);
        assert_eq!(member.examine(&loaded, &accounts), []);
        set(&file, 0o644);
        set(root.path(), 0o700);
        let findings = stranger.examine(&loaded, &accounts);
        assert!(findings[0].fix[0].ends_with(&format!("sudo chmod 0750 {}", root.path().display())), "{findings:?}");
        let root_itself = Service { uid: 0, groups: vec![0] };
        assert_eq!(root_itself.examine(&loaded, &accounts), []);
    }
}
