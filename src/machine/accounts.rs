//! Users and groups, from /etc/passwd and /etc/group.

use std::fs;
use std::path::Path;

/// Both files as they were read. What another source of names knows (LDAP, homed) is not in them.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    passwd: String,
    group: String,
}

/// A user of /etc/passwd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Every group, the main one first.
    pub groups: Vec<u32>,
}

impl Accounts {
    /// Reads the files below `root`, which is `/` but in tests. One that cannot be read is empty.
    pub fn read(root: &Path) -> Accounts {
        let read = |name| fs::read_to_string(root.join("etc").join(name)).unwrap_or_default();
        Accounts { passwd: read("passwd"), group: read("group") }
    }

    /// The name of a user.
    pub fn user_name(&self, uid: u32) -> Option<String> {
        name_of(&self.passwd, uid)
    }

    /// The name of a group.
    pub fn group_name(&self, gid: u32) -> Option<String> {
        name_of(&self.group, gid)
    }

    /// The number of the group of that name.
    pub fn group_id(&self, name: &str) -> Option<u32> {
        entries(&self.group).find(|fields| fields[0] == name)?.get(2)?.parse().ok()
    }

    /// The user of that name.
    pub fn user(&self, name: &str) -> Option<User> {
        let entry = entries(&self.passwd).find(|fields| fields[0] == name)?;
        let number = |field: usize| entry.get(field)?.parse().ok();
        let is_member = |fields: &Vec<&str>| fields.get(3).is_some_and(|members| members.split(',').any(|m| m == name));
        let others = entries(&self.group).filter(is_member).filter_map(|fields| fields.get(2)?.parse().ok());
        let groups = number(3).into_iter().chain(others).collect();
        Some(User { name: name.to_owned(), uid: number(2)?, groups })
    }
}

/// The lines of passwd(5) and group(5), in fields; each has at least one.
fn entries(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.split(':').collect())
}

fn name_of(text: &str, id: u32) -> Option<String> {
    let id = id.to_string();
    entries(text).find(|fields| fields.get(2) == Some(&&*id)).map(|fields| fields[0].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_their_groups() {
        let accounts = Accounts {
            passwd: "root:x:0:0::/root:/bin/sh\npi:x:1000:1000:,,,:/home/pi:/bin/bash\nodd\n".into(),
            group: "root:x:0:\ndialout:x:20:gatepost,pi\npi:x:1000:\nodd\ngpio:x:997:pip\n".into(),
        };
        let pi = User { name: "pi".into(), uid: 1000, groups: vec![1000, 20] };
        assert_eq!(accounts.user("pi"), Some(pi));
        assert_eq!(accounts.user("nobody"), None);
        assert_eq!(accounts.user_name(1000).as_deref(), Some("pi"));
        assert_eq!(accounts.group_name(20).as_deref(), Some("dialout"));
        assert_eq!(accounts.group_name(21), None);
        assert_eq!((accounts.group_id("gpio"), accounts.group_id("odd")), (Some(997), None));
    }
}
