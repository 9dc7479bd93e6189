//! Passwords that were proved a short while ago: who comes again with one is let in without a hash, so that a house whose
//! network was gone comes back at once.
//!
//! No password is kept, but a MAC of it under a key of this process alone. Only successes are kept, each with the line
//! of the password file that it was proved with: what has another line now, or none, is not proved. A wrong password
//! costs a whole hash, whether or not the right one is kept.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use rustix::rand::{GetRandomFlags, getrandom};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::password::Hash;
use super::users::Users;

/// How long a proof holds after the last connection that it let in has ended.
pub const KEPT: Duration = Duration::from_secs(10 * 60);

/// Users whose proof is kept, four times as many as there are connections by default. The one that would expire first
/// goes for a new one, and its user is hashed again.
const MOST: usize = 4096;

/// What was proved, and by whom.
#[derive(Debug, Default)]
pub struct Proofs {
    /// `None`: the system gave none, and nothing is kept.
    key: Option<Key>,
    proved: Mutex<HashMap<Arc<str>, Entry>>,
}

struct Key(Hmac<Sha256>);

#[derive(Debug)]
struct Entry {
    proof: Arc<Proof>,
    /// While no connection has it.
    expires: Instant,
}

#[derive(PartialEq, Eq)]
struct Proof {
    mac: Fingerprint,
    hash: Arc<Hash>,
}

/// The MAC of a user name and a password.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// A connection that a proof has let in: the proof holds as long as it is there, and ten minutes longer.
#[derive(Debug)]
pub struct Presence {
    proofs: Arc<Proofs>,
    user: Arc<str>,
    proof: Arc<Proof>,
}

impl Proofs {
    /// With a new key.
    pub fn new() -> Arc<Proofs> {
        let mut key = [0; 32];
        let filled = getrandom(&mut key, GetRandomFlags::empty()).is_ok_and(|filled| filled == key.len());
        let key = Hmac::new_from_slice(&key).ok().filter(|_| filled).map(Key);
        Arc::new(Proofs { key, proved: Mutex::default() })
    }

    /// What stands for `password` of `user` here; `None`: nothing is kept.
    pub fn fingerprint(&self, user: &str, password: &[u8]) -> Option<Fingerprint> {
        let Key(mac) = self.key.as_ref()?;
        let length = (user.len() as u64).to_le_bytes();
        let mac = mac.clone().chain_update(length).chain_update(user).chain_update(password);
        Some(Fingerprint(mac.finalize().into_bytes().into()))
    }

    /// Whether `fingerprint` was proved for `user` with this very `hash`, and it still holds.
    pub fn find(
        self: &Arc<Proofs>,
        user: &str,
        fingerprint: Fingerprint,
        hash: &Arc<Hash>,
        now: Instant,
    ) -> Option<Presence> {
        let proved = self.proved.lock();
        let (user, entry) = proved.get_key_value(user)?;
        let is_same: bool = entry.proof.mac.0.ct_eq(&fingerprint.0).into();
        let holds = is_same && entry.holds(now) && entry.proof.hash == *hash;
        holds.then(|| Presence { proofs: self.clone(), user: user.clone(), proof: entry.proof.clone() })
    }

    /// Keeps that `fingerprint` was proved for `user` with `hash`.
    pub fn keep(
        self: &Arc<Proofs>,
        user: Arc<str>,
        fingerprint: Fingerprint,
        hash: Arc<Hash>,
        now: Instant,
    ) -> Presence {
        let proof = Arc::new(Proof { mac: fingerprint, hash });
        let mut proved = self.proved.lock();
        proved.retain(|_, entry| entry.holds(now));
        if proved.len() >= MOST && !proved.contains_key(&user) {
            let first = proved.iter().min_by_key(|(_, entry)| entry.expires).map(|(user, _)| user.clone());
            first.and_then(|first| proved.remove(&first));
        }
        proved.insert(user.clone(), Entry { proof: proof.clone(), expires: now + KEPT });
        Presence { proofs: self.clone(), user, proof }
    }

    /// Forgets what is not of `users` any more.
    pub fn retain(&self, users: Option<&Users>) {
        let is_of = |user: &str, entry: &Entry| users?.get(user).filter(|hash| **hash == entry.proof.hash);
        self.proved.lock().retain(|user, entry| is_of(user, entry).is_some());
    }

    /// The last connection of `proof` may have ended.
    fn leave(&self, user: &str, proof: &Arc<Proof>, now: Instant) {
        let mut proved = self.proved.lock();
        // Meanwhile there may be another, or none.
        if let Some(entry) = proved.get_mut(user).filter(|entry| Arc::ptr_eq(&entry.proof, proof)) {
            entry.expires = entry.expires.max(now + KEPT);
        }
    }
}

impl Entry {
    fn holds(&self, now: Instant) -> bool {
        Arc::strong_count(&self.proof) > 1 || now < self.expires
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.proofs.leave(&self.user, &self.proof, Instant::now());
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(salt: &str) -> Arc<Hash> {
        let digest = "A".repeat(86);
        Arc::new(Hash::parse(&format!("$6${salt}${digest}")).unwrap())
    }

    struct Table {
        proofs: Arc<Proofs>,
        now: Instant,
    }

    impl Table {
        fn new() -> Table {
            Table { proofs: Proofs::new(), now: Instant::now() }
        }

        fn keep(&self, user: &str, password: &str, hash: &Arc<Hash>) -> Presence {
            let fingerprint = self.proofs.fingerprint(user, password.as_bytes()).unwrap();
            self.proofs.keep(user.into(), fingerprint, hash.clone(), self.now)
        }

        fn holds(&self, user: &str, password: &str, hash: &Arc<Hash>, after: Duration) -> bool {
            let fingerprint = self.proofs.fingerprint(user, password.as_bytes()).unwrap();
            self.proofs.find(user, fingerprint, hash, self.now + after).is_some()
        }
    }

    #[test]
    fn only_the_very_same_is_proved() {
        let table = Table::new();
        let line = hash("njERlZMi/7DzNB9E");
        drop(table.keep("ann", "secret", &line));
        let soon = Duration::from_secs(60);
        assert!(table.holds("ann", "secret", &line, soon));
        // A line that was read anew is the same.
        assert!(table.holds("ann", "secret", &hash("njERlZMi/7DzNB9E"), soon));
        assert!(!table.holds("ann", "secret", &hash("NjERlZMi/7DzNB9E"), soon), "another line");
        for (user, password) in [("ann", "Secret"), ("ann", "secret "), ("an", "nsecret"), ("anns", "ecret"), ("", "")]
        {
            assert!(!table.holds(user, password, &line, soon), "{user} {password}");
        }
        let other = Table::new();
        assert_ne!(
            table.proofs.fingerprint("ann", b"secret").unwrap().0,
            other.proofs.fingerprint("ann", b"secret").unwrap().0,
            "the key is of one process"
        );
    }

    #[test]
    fn it_holds_as_long_as_somebody_is_there_and_some_minutes_longer() {
        let table = Table::new();
        let line = hash("njERlZMi/7DzNB9E");
        let week = Duration::from_secs(7 * 24 * 3600);
        let there = table.keep("ann", "secret", &line);
        assert!(table.holds("ann", "secret", &line, week));
        let proof = there.proof.clone();
        drop(there);
        // As if it had ended after a week.
        table.proofs.leave("ann", &proof, table.now + week);
        drop(proof);
        assert!(table.holds("ann", "secret", &line, week + KEPT - Duration::from_secs(1)));
        assert!(!table.holds("ann", "secret", &line, week + KEPT));
    }

    #[test]
    fn the_end_of_an_old_connection_does_not_keep_an_old_password() {
        let table = Table::new();
        let (old, new) = (hash("njERlZMi/7DzNB9E"), hash("NjERlZMi/7DzNB9E"));
        let before = table.keep("ann", "old", &old);
        drop(table.keep("ann", "new", &new));
        drop(before);
        assert!(table.holds("ann", "new", &new, Duration::ZERO));
        assert!(!table.holds("ann", "old", &old, Duration::ZERO));
    }

    #[test]
    fn what_the_file_does_not_have_any_more_is_forgotten() {
        let table = Table::new();
        let line = hash("njERlZMi/7DzNB9E");
        for user in ["ann", "bob", "cid"] {
            drop(table.keep(user, "secret", &line));
        }
        let digest = "A".repeat(86);
        let text = format!("ann:$6$njERlZMi/7DzNB9E${digest}\ncid:$6$NjERlZMi/7DzNB9E${digest}\n");
        table.proofs.retain(Some(&Users::parse(&text).unwrap()));
        let holds = ["ann", "bob", "cid"].map(|user| table.holds(user, "secret", &line, Duration::ZERO));
        assert_eq!(holds, [true, false, false]);
        table.proofs.retain(None);
        assert!(table.proofs.proved.lock().is_empty());
    }

    #[test]
    fn it_is_bounded() {
        let mut table = Table::new();
        let line = hash("njERlZMi/7DzNB9E");
        for number in 0..MOST + 10 {
            table.now += Duration::from_millis(1);
            let fingerprint = Fingerprint([0; 32]);
            let presence = table.proofs.keep(number.to_string().into(), fingerprint, line.clone(), table.now);
            // Not by the clock of the machine.
            table.proofs.leave("", &presence.proof, table.now);
            std::mem::forget(presence);
        }
        assert_eq!(table.proofs.proved.lock().len(), MOST);
        assert!(!table.proofs.proved.lock().contains_key("9") && table.proofs.proved.lock().contains_key("10"));
    }

    #[test]
    fn what_has_expired_is_gone_with_the_next() {
        let table = Table::new();
        let line = hash("njERlZMi/7DzNB9E");
        drop(table.keep("ann", "secret", &line));
        let later = Table { proofs: table.proofs.clone(), now: table.now + 2 * KEPT };
        drop(later.keep("bob", "secret", &line));
        assert_eq!(table.proofs.proved.lock().len(), 1);
    }

    #[test]
    fn nothing_shows_what_was_proved() {
        let table = Table::new();
        let presence = table.keep("ann", "secret", &hash("njERlZMi/7DzNB9E"));
        let shown = format!("{:?} {presence:?}", table.proofs);
        assert!(shown.contains("***") && !shown.contains("secret"), "{shown}");
    }
}
