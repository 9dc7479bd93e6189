//! Who may log in, and what the files that say so allow: [`Auth`] holds the rules in force and exchanges them while
//! clients are connected.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::acl::{Acl, Rights};
use super::packet::{PacketError, Reason};
pub use file::{Fault, FileError};
use password::Hash;
use users::Users;

mod file;
pub mod password;
pub mod users;

/// Passwords that may wait to be checked; above it clients are told that the server is busy.
const MAX_WAITING: usize = 256;

/// Passwords checked at once, where there are so many cores: each may take 64 MiB.
const MOST_AT_ONCE: usize = 4;

/// What holds now, and the passwords that are being checked.
#[derive(Debug)]
pub struct Auth {
    rules: RwLock<Arc<Rules>>,
    /// Passwords being checked or waiting for it.
    places: Semaphore,
    /// Passwords being checked.
    checks: Arc<Semaphore>,
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
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Auth {
            rules: RwLock::new(Arc::new(rules)),
            places: Semaphore::new(MAX_WAITING),
            checks: Arc::new(Semaphore::new(cores.min(MOST_AT_ONCE))),
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
        *self.rules.write() = Arc::new(rules);
    }

    /// Decides who the client is. The error's text says which setting stands in the way.
    pub async fn login(&self, shown: Credentials<'_>) -> Result<Login, PacketError> {
        let refuse = |what| Err(PacketError { reason: Reason::NOT_AUTHORIZED, what });
        if let Some(identity) = shown.identity {
            return Ok(Login { user: Some(identity.into()), proof: Proof::Certificate });
        }
        let users = self.rules().users.clone();
        match (shown.username, users) {
            (Some(user), Some(users)) => self.check(user, shown.password, &users).await,
            (Some(user), None) if shown.allow_anonymous => Ok(Login { user: Some(user.into()), proof: Proof::None }),
            (None, _) if shown.allow_anonymous => Ok(Login::default()),
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

    async fn check(&self, user: &str, password: Option<&Bytes>, users: &Users) -> Result<Login, PacketError> {
        let refuse = |what| Err(PacketError { reason: Reason::NOT_AUTHORIZED, what });
        // An empty one is none, as with mosquitto.
        let Some(password) = password.filter(|password| !password.is_empty()).cloned() else {
            return refuse(
                "the client sent a user name without a password; hint: with password_file each user needs one",
            );
        };
        let known = users.get(user);
        let Some(hash) = known.or_else(|| users.decoy(user)).cloned() else {
            return refuse("there are no users in password_file; hint: `gatepost passwd FILE USER` adds one");
        };
        let matches = self.matches(hash.clone(), password).await?;
        match known {
            Some(_) if matches => Ok(Login { user: Some(user.into()), proof: Proof::Password(hash) }),
            Some(_) => refuse(
                "the password is not the one in password_file; hint: `gatepost passwd FILE USER` sets it, SIGHUP makes \
                 the gateway read the file again",
            ),
            None => refuse(
                "the user is not in password_file; hint: `gatepost passwd FILE USER` adds it, SIGHUP makes the gateway \
                 read the file again",
            ),
        }
    }

    /// [`Hash::matches`] on another thread.
    async fn matches(&self, hash: Arc<Hash>, password: Bytes) -> Result<bool, PacketError> {
        let busy =
            PacketError { reason: Reason::SERVER_BUSY, what: "too many passwords wait to be checked at this moment" };
        let _place = self.places.try_acquire().map_err(|_| busy)?;
        let check = self.checks.clone().acquire_owned().await.map_err(|_| busy)?;
        let checked = spawn_blocking(move || {
            // Held to the end, also when nobody waits for it any more.
            let _check = check;
            hash.matches(&password)
        });
        Ok(checked.await.unwrap_or(false))
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
mod tests {
    use super::*;

    const TEST: &str =
        "$6$njERlZMi/7DzNB9E$iiavfuXvUm8iyDZArTy7smTxh07GXXOrOsqxfW6gkOYVXHGk+W+i/8d3xDxrMwEPygEBhoA8A/gjQC0N2M4Lkw==";

    fn auth(users: Option<&str>) -> Auth {
        let users = users.map(|text| Arc::new(Users::parse(text).unwrap()));
        Auth::new(Rules { users, acl: None })
    }

    async fn login(auth: &Auth, user: Option<&str>, password: Option<&str>, anonymous: bool) -> Result<Login, Reason> {
        let password = password.map(|text| Bytes::copy_from_slice(text.as_bytes()));
        let (username, password) = (user, password.as_ref());
        let shown = Credentials { identity: None, username, password, allow_anonymous: anonymous };
        auth.login(shown).await.map_err(|error| error.reason)
    }

    #[tokio::test]
    async fn who_gets_in() {
        let (none, file) = (auth(None), auth(Some(&format!("ann:{TEST}"))));
        let (ok, no) = (true, false);
        // Password file, user name, password, allow_anonymous, accepted.
        let table = [
            (&none, None, None, true, ok),
            (&none, None, None, false, no),
            (&none, Some("ann"), Some("x"), true, ok),
            (&none, Some("ann"), Some("x"), false, no),
            (&file, None, None, true, ok),
            (&file, None, Some("test"), true, ok),
            (&file, None, None, false, no),
            (&file, None, Some("test"), false, no),
            (&file, Some("ann"), Some("test"), false, ok),
            (&file, Some("ann"), Some("test"), true, ok),
            (&file, Some("ann"), Some("Test"), true, no),
            (&file, Some("ann"), Some(""), true, no),
            (&file, Some("ann"), None, true, no),
            (&file, Some("bob"), Some("test"), true, no),
            (&file, Some(""), Some(""), true, no),
            (&auth(Some("")), Some("ann"), Some("test"), true, no),
        ];
        for (auth, user, password, anonymous, accepted) in table {
            let result = login(auth, user, password, anonymous).await;
            let shown = (user, password, anonymous);
            match result {
                Ok(login) => assert!(accepted && login.user() == user, "{shown:?}"),
                Err(reason) => assert!(!accepted && reason == Reason::NOT_AUTHORIZED, "{shown:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_certificate_says_who_it_is() {
        let shown = Credentials { identity: Some("cn"), username: Some("ann"), password: None, allow_anonymous: false };
        let login = auth(Some("")).login(shown).await.unwrap();
        assert!(login.user() == Some("cn") && login.proof == Proof::Certificate);
    }

    #[tokio::test]
    async fn passwords_beyond_the_bound_are_told_to_wait() {
        let auth = auth(Some(&format!("ann:{TEST}")));
        let all = auth.places.acquire_many(MAX_WAITING as u32).await.unwrap();
        assert_eq!(login(&auth, Some("ann"), Some("test"), true).await, Err(Reason::SERVER_BUSY));
        assert!(login(&auth, None, None, true).await.is_ok());
        drop(all);
        assert!(login(&auth, Some("ann"), Some("test"), true).await.is_ok());
        assert_eq!((auth.places.available_permits(), auth.checks.available_permits() > 0), (MAX_WAITING, true));
    }

    /// Whether the answer needs a password to be checked.
    async fn is_checked(auth: &Auth, user: &str, password: Option<&str>) -> bool {
        let all = auth.checks.acquire_many(auth.checks.available_permits() as u32).await.unwrap();
        let mut answer = std::pin::pin!(login(auth, Some(user), password, true));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let pending = answer.as_mut().poll(&mut context).is_pending();
        drop(all);
        pending
    }

    #[tokio::test]
    async fn how_long_it_takes_does_not_tell_who_is_there() {
        let auth = auth(Some(&format!("ann:{TEST}")));
        for user in ["ann", "bob", ""] {
            assert!(is_checked(&auth, user, Some("x")).await && !is_checked(&auth, user, Some("")).await, "{user}");
        }
    }

    #[tokio::test]
    async fn a_login_lasts_as_long_as_the_line_it_was_proved_with() {
        let before = auth(Some(&format!("ann:{TEST}\nbob:{TEST}")));
        let ann = login(&before, Some("ann"), Some("test"), false).await.unwrap();
        let rules = |text: &str| Rules { users: Some(Arc::new(Users::parse(text).unwrap())), acl: None };
        assert_eq!(rules(&format!("# new\nann: {TEST}")).allow(&ann, false), Ok(()));
        let changed = TEST.replace("njER", "NjER");
        for text in [format!("bob:{TEST}"), format!("ann:{changed}"), String::new()] {
            assert_eq!(rules(&text).allow(&ann, true).unwrap_err().reason, Reason::NOT_AUTHORIZED, "{text}");
        }
        assert_eq!(rules("").allow(&Login::default(), true), Ok(()));
        assert!(rules("").allow(&Login::default(), false).is_err());
        // A name that was only claimed has to be proved once there is a file, and one that was proved is one without.
        let claimed = login(&auth(None), Some("ann"), None, true).await.unwrap();
        assert!(rules(&format!("ann:{TEST}")).allow(&claimed, true).is_err());
        let none = Rules::default();
        assert_eq!((none.allow(&claimed, true), none.allow(&ann, true)), (Ok(()), Ok(())));
        assert!(none.allow(&claimed, false).is_err() && none.allow(&ann, false).is_err());
    }
}
