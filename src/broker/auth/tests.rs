//! Who gets in, and how long it takes.

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
    auth.login(shown).await.map(|(login, _)| login).map_err(|error| error.reason)
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
        // An empty user name is none, also with a password.
        (&file, Some(""), None, true, ok),
        (&file, Some(""), Some(""), true, ok),
        (&file, Some(""), Some("test"), true, ok),
        (&file, Some(""), Some(""), false, no),
        (&file, Some(""), Some("test"), false, no),
        (&none, Some(""), Some(""), true, ok),
        (&none, Some(""), Some(""), false, no),
        (&auth(Some("")), Some("ann"), Some("test"), true, no),
    ];
    for (auth, user, password, anonymous, accepted) in table {
        let result = login(auth, user, password, anonymous).await;
        let shown = (user, password, anonymous);
        match result {
            Ok(login) => assert!(accepted && login.user() == user.filter(|user| !user.is_empty()), "{shown:?}"),
            Err(reason) => assert!(!accepted && reason == Reason::NOT_AUTHORIZED, "{shown:?}"),
        }
    }
}

#[tokio::test]
async fn a_certificate_says_who_it_is() {
    let shown = Credentials { identity: Some("cn"), username: Some("ann"), password: None, allow_anonymous: false };
    let (login, _) = auth(Some("")).login(shown).await.unwrap();
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
    assert_eq!(login(&auth, Some("ann"), Some("no"), true).await, Err(Reason::NOT_AUTHORIZED));
    assert_eq!((auth.places.available_permits(), auth.memory.available_permits()), (MAX_WAITING, MEMORY as usize));
}

/// Whether the answer needs a password to be checked.
async fn is_checked(auth: &Auth, user: &str, password: Option<&str>) -> bool {
    let all = auth.memory.acquire_many(MEMORY).await.unwrap();
    let mut answer = std::pin::pin!(login(auth, Some(user), password, true));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let pending = answer.as_mut().poll(&mut context).is_pending();
    drop(all);
    pending
}

#[tokio::test]
async fn how_long_it_takes_does_not_tell_who_is_there() {
    let auth = auth(Some(&format!("ann:{TEST}")));
    for user in ["ann", "bob"] {
        assert!(is_checked(&auth, user, Some("x")).await && !is_checked(&auth, user, Some("")).await, "{user}");
    }
    // What was proved is known to who proved it, and tells nobody else that the user is there.
    login(&auth, Some("ann"), Some("test"), false).await.unwrap();
    assert!(!is_checked(&auth, "ann", Some("test")).await);
    for (user, password) in [("ann", "x"), ("ann", "test "), ("bob", "test"), ("bob", "x")] {
        assert!(is_checked(&auth, user, Some(password)).await, "{user} {password}");
        assert_eq!(login(&auth, Some(user), Some(password), true).await, Err(Reason::NOT_AUTHORIZED));
        assert!(is_checked(&auth, user, Some(password)).await, "{user} {password}: only successes are kept");
    }
}

#[tokio::test]
async fn a_house_that_comes_back_is_let_in_at_once() {
    let users: String = (0..200).map(|n| format!("u{n}:{TEST}\n")).collect();
    let auth = auth(Some(&users));
    for n in 0..200 {
        login(&auth, Some(&format!("u{n}")), Some("test"), false).await.unwrap();
    }
    // Nothing can be checked, and nobody can wait for it.
    let _all = (auth.memory.acquire_many(MEMORY).await.unwrap(), auth.places.acquire_many(MAX_WAITING as u32).await);
    for n in 0..200 {
        login(&auth, Some(&format!("u{n}")), Some("test"), false).await.unwrap();
    }
}

#[tokio::test]
async fn clients_that_share_a_user_are_checked_once() {
    let auth = Arc::new(auth(Some(&format!("ann:{TEST}"))));
    let all = auth.memory.acquire_many(MEMORY).await.unwrap();
    let clients: Vec<_> = (0..100)
        .map(|_| {
            let auth = auth.clone();
            tokio::spawn(async move { login(&auth, Some("ann"), Some("test"), false).await })
        })
        .collect();
    while auth.places.available_permits() > MAX_WAITING - clients.len() {
        tokio::task::yield_now().await;
    }
    drop(all);
    for client in clients {
        client.await.unwrap().unwrap();
    }
    assert_eq!(auth.memory.available_permits(), MEMORY as usize);
}

#[tokio::test]
async fn what_was_proved_holds_for_its_line_only() {
    let auth = auth(Some(&format!("ann:{TEST}\nbob:{TEST}")));
    for user in ["ann", "bob"] {
        login(&auth, Some(user), Some("test"), false).await.unwrap();
    }
    let rules = |text: &str| Rules { users: Some(Arc::new(Users::parse(text).unwrap())), acl: None };
    // The password `test` again, with another salt.
    let anew =
        "$6$o+53eGXtmlfHeYrg$FY7X9DNQ4uU1j0NiPmGOOSU05ZSzhqNmNhXIof/0nLpVb1zDhcRHdaC72E3YryH7dtTiG/r6jH6C8J+30cZBgA==";
    auth.replace(rules(&format!("# the same\nann: {TEST}\nbob:{anew}")));
    assert!(!is_checked(&auth, "ann", Some("test")).await && is_checked(&auth, "bob", Some("test")).await);
    auth.replace(rules(&format!("bob:{TEST}")));
    assert!(is_checked(&auth, "ann", Some("test")).await, "who is not there is checked as anybody");
    assert_eq!(login(&auth, Some("ann"), Some("test"), true).await, Err(Reason::NOT_AUTHORIZED));
    // There again, and proved before: it has to be proved anew.
    auth.replace(rules(&format!("ann:{TEST}")));
    assert!(is_checked(&auth, "ann", Some("test")).await);
}

#[tokio::test]
async fn hashes_that_are_checked_at_once_fit_into_the_memory() {
    let argon2id = |mib: u32| {
        let (salt, digest) = ("A".repeat(22), "A".repeat(43));
        Hash::parse(&format!("$argon2id$v=19$m={},t=1,p=1${salt}${digest}", mib * 1024)).unwrap().memory()
    };
    let auth = auth(None);
    for mib in [1, 19, 46, 64] {
        let each = argon2id(mib).clamp(auth.least, MEMORY);
        let at_once = MEMORY / each;
        assert!((1..=MOST_AT_ONCE).contains(&at_once) && at_once * mib <= MEMORY, "{mib} MiB: {at_once} at once");
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
