//! Who may log in, and what the files that say so allow: [`Auth`] holds the rules in force and exchanges them while
//! clients are connected.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::packet::{PacketError, Reason};
use acl::{Acl, Rights};
pub use file::{Fault, FileError};
use memory::Spare;
use password::Hash;
pub use proofs::Presence;
use proofs::Proofs;
use users::Users;

pub mod acl;
mod file;
mod memory;
pub mod password;
mod proofs;
pub mod users;

/// Passwords that may wait to be checked; above it clients are told that the server is busy.
const MAX_WAITING: usize = 256;

/// Passwords checked at once, where there are so many cores.
const MOST_AT_ONCE: u32 = 4;

/// MiB that all passwords being checked may take together: four of our own hashes (19 MiB each), two of mosquitto's (46),
/// one of the costliest that is accepted (64).
const MEMORY: u32 = 96;

/// What holds now, and the passwords that are being checked.
#[derive(Debug)]
pub struct Auth {
    rules: RwLock<Arc<Rules>>,
    /// Passwords being checked or waiting for it.
    places: Semaphore,
    /// MiB that those being checked have left.
    memory: Arc<Semaphore>,
    spare: Arc<Spare>,
    /// The least that each of them counts for, so that there are not more of them than cores.
    least: u32,
    proofs: Arc<Proofs>,
}

/// Where the rules stand.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// `password_file`
    pub passwords: Option<PathBuf>,
    /// `acl_file`
    pub acl: Option<PathBuf>,
}

/// What holds for everybody at one time. `None`: there is no such file.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    users: Option<Arc<Users>>,
    acl: Option<Arc<Acl>>,
}

/// What a client shows of itself. Not for `Debug`.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// From its certificate.
    pub identity: Option<&'a str>,
    /// From CONNECT.
    pub username: Option<&'a str>,
    /// From CONNECT.
    pub password: Option<&'a Bytes>,
    /// Whether the listener lets in who shows nothing.
    pub allow_anonymous: bool,
}

/// Who a client is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    user: Option<Arc<str>>,
    proof: Proof,
}

/// What made sure that a client is the user it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Proof {
    /// Nothing.
    #[default]
    None,
    /// Its certificate.
    Certificate,
    /// Its password, checked against this hash.
    Password(Arc<Hash>),
}

/// What became of a password.
enum Checked {
    /// It is not the user's.
    Wrong,
    /// It is. `None`: that is not kept.
    Right(Option<Presence>),
}

impl Files {
    /// Reads them all. Blocks.
    pub fn load(&self) -> Result<Rules, FileError> {
        Ok(Rules { users: self.load_users().transpose()?, acl: self.load_acl().transpose()? })
    }

    /// What is wrong with any of them. Blocks.
    pub fn errors(&self) -> impl Iterator<Item = FileError> + use<> {
        let users = self.load_users().and_then(Result::err);
        users.into_iter().chain(self.load_acl().and_then(Result::err))
    }

    fn load_users(&self) -> Option<Result<Arc<Users>, FileError>> {
        let path = self.passwords.as_ref()?;
        Some(file::load("password_file", path, Users::parse).map(Arc::new))
    }

    fn load_acl(&self) -> Option<Result<Arc<Acl>, FileError>> {
        let path = self.acl.as_ref()?;
        Some(file::load("acl_file", path, Acl::parse).map(Arc::new))
    }
}

impl Rules {
    /// What `login` may do under the id `client_id`; `None` if there is no `acl_file`: everything.
    pub fn rights(&self, client_id: &str, login: &Login) -> Option<Arc<Rights>> {
        self.acl.as_ref().map(|acl| Arc::new(acl.rights(client_id, login.user())))
    }

    /// Whether `login` could be had now: the user is there, with the password that it was proved with, or nobody asks.
    pub fn allow(&self, login: &Login, allow_anonymous: bool) -> Result<(), PacketError> {
        let refuse = |what| Err(PacketError { reason: Reason::NOT_AUTHORIZED, what });
        match (login.user(), &login.proof, &self.users) {
            (_, Proof::Certificate, _) => Ok(()),
            (Some(user), Proof::Password(proof), Some(users)) => match users.get(user) {
                Some(hash) if hash == proof => Ok(()),
                Some(_) => refuse("the user's password was changed in password_file"),
                None => refuse("the user was removed from password_file"),
            },
            (Some(_), Proof::None, Some(_)) => refuse("there is a password_file now, and the user name was not proved"),
            _ if allow_anonymous => Ok(()),
            _ => refuse("allow_anonymous was turned off"),
        }
    }
}

impl Auth {
    /// With `rules` in force.
    pub fn new(rules: Rules) -> Auth {
        let cores = thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX));
        Auth {
            rules: RwLock::new(Arc::new(rules)),
            places: Semaphore::new(MAX_WAITING),
            memory: Arc::new(Semaphore::new(MEMORY as usize)),
            spare: Arc::default(),
            least: MEMORY.div_ceil(cores.min(MOST_AT_ONCE)),
            proofs: Proofs::new(),
        }
    }

    /// The rules in force.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.read().clone()
    }

    /// Puts other rules in force.
    pub fn replace(&self, rules: Rules) {
        let (users, acl_rules) =
            (rules.users.as_ref().map(|users| users.len()), rules.acl.as_ref().map(|acl| acl.len()));
        if users.is_some() || acl_rules.is_some() {
            tracing::info!(users, acl_rules, "reloaded who may do what");
        }
        self.proofs.retain(rules.users.as_deref());
        *self.rules.write() = Arc::new(rules);
    }

    /// Decides who the client is; the presence is to be dropped when its connection ends. The error's text says which
    /// setting stands in the way.
    pub async fn login(&self, shown: Credentials<'_>) -> Result<(Login, Option<Presence>), PacketError> {
        let refuse = |what| Err(PacketError { reason: Reason::NOT_AUTHORIZED, what });
        let unproved = |user: Option<&str>| Ok((Login::of(user.map(Arc::from)), None));
        if let Some(identity) = shown.identity {
            return Ok((Login { user: Some(identity.into()), proof: Proof::Certificate }, None));
        }
        let users = self.rules().users.clone();
        // An empty user name is none, whatever the password, as with mosquitto: clients that have a field for it send it
        // empty.
        match (shown.username.filter(|user| !user.is_empty()), users) {
            (Some(user), Some(users)) => self.check(user, shown.password, &users).await,
            (Some(user), None) if shown.allow_anonymous => unproved(Some(user)),
            (None, _) if shown.allow_anonymous => unproved(None),
            (Some(_), None) => refuse(
                "there is no password_file to check the user name against, and allow_anonymous is false; hint: set \
                 password_file in [broker] (`gatepost passwd FILE USER` adds users), or allow_anonymous = true there or \
                 for the listener",
            ),
            (None, Some(_)) => refuse(
                "the client sent no user name, and allow_anonymous is false; hint: give it a user name and a password \
                 from password_file, or set allow_anonymous = true in [broker] or for the listener",
            ),
            (None, None) => refuse(
                "the client sent no user name, allow_anonymous is false and there is no password_file; hint: set \
                 allow_anonymous = true in [broker] or for the listener, or password_file in [broker]",
            ),
        }
    }

    async fn check(
        &self,
        user: &str,
        password: Option<&Bytes>,
        users: &Users,
    ) -> Result<(Login, Option<Presence>), PacketError> {
        let refuse = |what| Err(PacketError { reason: Reason::NOT_AUTHORIZED, what });
        // An empty one is none, as with mosquitto.
        let Some(password) = password.filter(|password| !password.is_empty()) else {
            return refuse(
                "the client sent a user name without a password; hint: with password_file each user needs one",
            );
        };
        let known = users.get(user);
        let Some(hash) = known.or_else(|| users.decoy(user)) else {
            return refuse("there are no users in password_file; hint: `gatepost passwd FILE USER` adds one");
        };
        let user = known.map(|_| Arc::from(user)).ok_or(user);
        match (self.matches(&user, hash, password).await?, user) {
            (Checked::Right(presence), Ok(user)) => {
                Ok((Login { user: Some(user), proof: Proof::Password(hash.clone()) }, presence))
            }
            (Checked::Wrong, Ok(_)) => refuse(
                "the password is not the one in password_file; hint: `gatepost passwd FILE USER` sets it, SIGHUP makes \
                 the gateway read the file again",
            ),
            (_, Err(_)) => refuse(
                "the user is not in password_file; hint: `gatepost passwd FILE USER` adds it, SIGHUP makes the gateway \
                 read the file again",
            ),
        }
    }

    /// Whether `password` is the one of `hash`, from memory or by [`Hash::matches`] on another thread. Of a user that is
    /// not there nothing is kept, and the time to check it is the same.
    async fn matches(
        &self,
        user: &Result<Arc<str>, &str>,
        hash: &Arc<Hash>,
        password: &Bytes,
    ) -> Result<Checked, PacketError> {
        let busy = |what| PacketError { reason: Reason::SERVER_BUSY, what };
        let many = "too many passwords wait to be checked at this moment";
        let fingerprint = self.proofs.fingerprint(user.as_deref().unwrap_or_else(|user| user), password);
        let known = user.as_ref().ok().zip(fingerprint);
        let find = || known.and_then(|(user, print)| self.proofs.find(user, print, hash, Instant::now()));
        if let Some(presence) = find() {
            return Ok(Checked::Right(Some(presence)));
        }
        let _place = self.places.try_acquire().map_err(|_| busy(many))?;
        let waiting = self.spare.wait();
        let memory = hash.memory().clamp(self.least, MEMORY);
        let memory = self.memory.clone().acquire_many_owned(memory).await.map_err(|_| busy(many))?;
        // Many clients may share a user: the first was checked while the others waited.
        if let Some(presence) = find() {
            return Ok(Checked::Right(Some(presence)));
        }
        let (checking, password, spare) = (hash.clone(), password.clone(), self.spare.clone());
        let checked = spawn_blocking(move || {
            // Held to the end, also when nobody waits for it any more.
            let _memory = memory;
            checking.matches(&password, waiting, &spare)
        });
        match checked.await {
            Ok(Ok(true)) => {
                let keep =
                    |(user, print): (&Arc<str>, _)| self.proofs.keep(user.clone(), print, hash.clone(), Instant::now());
                Ok(Checked::Right(known.map(keep)))
            }
            Ok(Ok(false)) | Err(_) => Ok(Checked::Wrong),
            Ok(Err(_)) => Err(busy("the system has no memory to check the password")),
        }
    }
}

impl Login {
    /// Who a kept session belongs to until its client comes: nobody has proved to be that.
    pub fn of(user: Option<Arc<str>>) -> Login {
        Login { user, proof: Proof::None }
    }

    /// The user's name; `None`: the client is anonymous.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }
}

#[cfg(test)]
mod tests;
