//! The password file: who there is.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::sync::Arc;

use super::file::Fault;
use super::password::Hash;

/// The users of a password file. Names show in `Debug`, hashes do not.
#[derive(Debug, Default)]
pub struct Users {
    hashes: HashMap<Box<str>, Arc<Hash>>,
    /// The hashes again, for names that are not there.
    decoys: Vec<Arc<Hash>>,
    /// Chooses among them, unknown to the outside.
    seed: RandomState,
}

/// MQTT strings carry a 16-bit length [MQTT-1.5.4-1].
const MAX_NAME_BYTES: usize = 65_535;

/// What mends a line.
const MEND: &str = "hint: `gatepost passwd FILE USER` writes the line anew";

impl Users {
    /// Reads `user:hash` lines. A line that begins with `#` is a comment; blank lines are skipped; spaces around the
    /// name and the hash are not part of them. What follows a second colon is, as with mosquitto, of no account.
    pub fn parse(text: &str) -> Result<Users, Vec<Fault>> {
        let (mut users, mut faults) = (Users::default(), Vec::new());
        let mut lines: HashMap<&str, usize> = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            let mut fault = |problem: String| faults.push(Fault { line: index + 1, problem });
            let Some((user, rest)) = line.split_once(':') else {
                // It may be a password: it is not shown.
                fault(format!("that is not user:hash; {MEND}"));
                continue;
            };
            let (user, hash) = (user.trim(), rest.split(':').next().unwrap_or_default().trim());
            if let Err(error) = check_name(user) {
                fault(error.to_string());
                continue;
            }
            match lines.entry(user) {
                Entry::Occupied(first) => {
                    fault(format!("the user {user:?} stands in line {} already; hint: remove one", first.get()));
                    continue;
                }
                Entry::Vacant(vacant) => drop(vacant.insert(index + 1)),
            }
            match Hash::parse(hash) {
                Ok(hash) => users.insert(user, hash),
                Err(error) => fault(format!("user {user:?}: {error}; {MEND}")),
            }
        }
        if faults.is_empty() { Ok(users) } else { Err(faults) }
    }

    fn insert(&mut self, user: &str, hash: Hash) {
        let hash = Arc::new(hash);
        self.decoys.push(hash.clone());
        self.hashes.insert(user.into(), hash);
    }

    /// The hash of `user`.
    pub fn get(&self, user: &str) -> Option<&Arc<Hash>> {
        self.hashes.get(user)
    }

    /// A hash to check the password of the unknown `user` against, so that the time it takes does not tell that there is
    /// no such user: always the same one for the same name. `None` if there are no users at all.
    pub fn decoy(&self, user: &str) -> Option<&Arc<Hash>> {
        let index = self.seed.hash_one(user) % (self.decoys.len().max(1) as u64);
        self.decoys.get(index as usize)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }
}

/// Why a text cannot be the name of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing stands there.
    #[error("the user name is empty")]
    Empty,
    /// More than an MQTT string holds.
    #[error("the user name is longer than {MAX_NAME_BYTES} bytes")]
    TooLong,
    /// A `:` would end it.
    #[error("a user name cannot contain a colon")]
    Colon,
    /// A line end or another control character.
    #[error("a user name cannot contain control characters")]
    Control,
    /// Spaces at its ends would not be read again, and `#` at its front begins a comment.
    #[error("a user name cannot begin with # nor begin or end with a space")]
    Ends,
}

/// Checks the name of a user that is to stand in a password file.
pub fn check_name(user: &str) -> Result<(), NameError> {
    match user {
        "" => Err(NameError::Empty),
        _ if user.len() > MAX_NAME_BYTES => Err(NameError::TooLong),
        _ if user.contains(':') => Err(NameError::Colon),
        _ if user.chars().any(char::is_control) => Err(NameError::Control),
        _ if user.starts_with('#') || user.trim() != user => Err(NameError::Ends),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEST: &str =
        "$6$njERlZMi/7DzNB9E$iiavfuXvUm8iyDZArTy7smTxh07GXXOrOsqxfW6gkOYVXHGk+W+i/8d3xDxrMwEPygEBhoA8A/gjQC0N2M4Lkw==";

    #[test]
    fn comments_blank_lines_and_spaces_are_not_users() {
        let text = format!("#a:b\n\n  \r\nann:{TEST}\r\n bob : {TEST} :more\nwith space:{TEST}");
        let users = Users::parse(&text).unwrap();
        assert_eq!((users.len(), users.is_empty()), (3, false));
        let spare = Arc::new(crate::broker::auth::memory::Spare::default());
        for user in ["ann", "bob", "with space"] {
            assert_eq!(users.get(user).unwrap().matches(b"test", spare.wait(), &spare), Ok(true), "{user}");
        }
        assert!(users.get("#a").is_none());
    }

    #[test]
    fn every_wrong_line_is_named_and_no_password_is_shown() {
        let text = format!("ann:{TEST}\nbob:hunter2\nhunter2\nann:{TEST}\n:{TEST}\ncid:\n\u{7}x:{TEST}\n");
        let faults = Users::parse(&text).unwrap_err();
        let shown: Vec<String> = faults.iter().map(ToString::to_string).collect();
        let expected = [
            (2, "\"bob\": that is no password hash"),
            (3, "not user:hash"),
            (4, "\"ann\" stands in line 1 already"),
            (5, "name is empty"),
            (6, "\"cid\": there is no password hash"),
            (7, "control characters"),
        ];
        assert_eq!(shown.len(), expected.len(), "{shown:?}");
        for (found, (line, part)) in shown.iter().zip(expected) {
            assert!(found.starts_with(&format!("line {line}: ")) && found.contains(part), "{found}");
            assert!(!found.contains("hunter2"), "{found}");
        }
        assert!(shown[0].contains("gatepost passwd"));
    }

    #[test]
    fn an_unknown_user_has_a_decoy_that_stays() {
        assert!(Users::default().decoy("x").is_none());
        let text: String = (0..20).map(|n| format!("u{n}:{TEST}\n")).collect();
        let users = Users::parse(&text).unwrap();
        for name in ["x", "y", "z"] {
            assert!(Arc::ptr_eq(users.decoy(name).unwrap(), users.decoy(name).unwrap()));
        }
    }

    #[test]
    fn names_are_checked() {
        for good in ["ann", "a b", "ä", "a#b", "$x", "a/b"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        for bad in ["", "a:b", "a\nb", "#a", " a", "a ", &long] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
