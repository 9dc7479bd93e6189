//! Who may log in, and what they may do then: `password_file`, `acl_file`, and their change while clients are there.

use std::path::{Path, PathBuf};

use gatepost::broker::{Broker, StartError};
use gatepost::config;
use gatepost::stats::DropReason;
use tempfile::TempDir;

use crate::client::*;

/// Of mosquitto_passwd -H sha512; the passwords are `test` and, of the second, none.
const TEST: &str =
    "$6$njERlZMi/7DzNB9E$iiavfuXvUm8iyDZArTy7smTxh07GXXOrOsqxfW6gkOYVXHGk+W+i/8d3xDxrMwEPygEBhoA8A/gjQC0N2M4Lkw==";
const OTHER: &str =
    "$6$o+53eGXtmlfHeYrg$FY7X9DNQ4uU1j0NiPmGOOSU05ZSzhqNmNhXIof/0nLpVb1zDhcRHdaC72E3YryH7dtTiG/r6jH6C8J+30cZBgA==";

/// The two files, in a folder of their own.
struct Files {
    _folder: TempDir,
    passwords: PathBuf,
    acl: PathBuf,
}

impl Files {
    fn new(passwords: &str, acl: &str) -> Files {
        let folder = TempDir::new().unwrap();
        let files = Files { passwords: folder.path().join("passwd"), acl: folder.path().join("acl"), _folder: folder };
        files.write(passwords, acl);
        files
    }

    fn write(&self, passwords: &str, acl: &str) {
        std::fs::write(&self.passwords, passwords).unwrap();
        std::fs::write(&self.acl, acl).unwrap();
    }
}

fn with_passwords(path: &Path, allow_anonymous: bool) -> config::Broker {
    let listener = config::Listener { allow_anonymous, ..listener("127.0.0.1:0") };
    config::Broker { password_file: Some(path.to_owned()), listeners: vec![listener], ..settings() }
}

fn with_acl(files: &Files) -> config::Broker {
    config::Broker { acl_file: Some(files.acl.clone()), ..with_passwords(&files.passwords, true) }
}

fn versions(id: &'static str) -> [Connect; 2] {
    [Connect::v3(id), Connect::v5(id)]
}

async fn refusal(broker: &Broker, connect: Connect) -> u8 {
    let v5 = connect.v5;
    let (mut client, connack) = Client::connack(broker, &connect).await;
    if connack.1[1] != 0 {
        assert_eq!(client.next().await, None);
        assert_eq!(connack.1.len(), if v5 { 3 } else { 2 });
    }
    connack.1[1]
}

#[tokio::test]
async fn a_user_needs_the_password_of_the_file() {
    let files = Files::new(&format!("ann:{TEST}\nempty:{OTHER}\n"), "");
    for allow_anonymous in [false, true] {
        let broker = start(with_passwords(&files.passwords, allow_anonymous)).await;
        for (connect, denied) in versions("c").into_iter().zip([5, 0x87]) {
            let as_user = |user, password| connect.clone().user(user, password);
            assert_eq!(refusal(&broker, as_user("ann", "test")).await, 0);
            for (user, password) in [("ann", "Test"), ("ann", ""), ("bob", "test"), ("empty", "")] {
                assert_eq!(refusal(&broker, as_user(user, password)).await, denied, "{user} {password}");
            }
            let no_password = Connect { username: Some("ann"), ..connect.clone() };
            assert_eq!(refusal(&broker, no_password).await, denied);
            assert_eq!(refusal(&broker, connect.clone()).await, if allow_anonymous { 0 } else { denied });
        }
        assert_eq!(broker.stats().refused.get(), if allow_anonymous { 10 } else { 12 });
    }
}

/// As with mosquitto 2.0.11, which was asked: the flag of the user name counts for nothing, nor does the password.
#[tokio::test]
async fn an_empty_user_name_is_none() {
    let files = Files::new(&format!("ann:{TEST}\n"), "topic read all\nuser ann\ntopic read anns\n");
    for allow_anonymous in [true, false] {
        let listeners = vec![config::Listener { allow_anonymous, ..listener("127.0.0.1:0") }];
        let without = config::Broker { listeners, ..settings() };
        for settings in [with_passwords(&files.passwords, allow_anonymous), without] {
            let broker = start(config::Broker { acl_file: Some(files.acl.clone()), ..settings }).await;
            for (connect, denied) in versions("c").into_iter().zip([5, 0x87]) {
                for password in [None, Some(""), Some("test")] {
                    let connect = Connect { username: Some(""), password, ..connect.clone() };
                    if !allow_anonymous {
                        assert_eq!(refusal(&broker, connect).await, denied, "{password:?}");
                        continue;
                    }
                    let mut client = Client::connect(&broker, &connect).await;
                    let rights = [client.subscribe(1, "all", 0).await, client.subscribe(2, "anns", 0).await];
                    assert_eq!(rights, [0, if connect.v5 { 0x87 } else { 0x80 }], "those of everybody");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_refused_client_takes_over_nobody() {
    let files = Files::new(&format!("ann:{TEST}\n"), "");
    let broker = start(with_passwords(&files.passwords, false)).await;
    let mut ann = Client::connect(&broker, &Connect::v5("same").user("ann", "test")).await;
    assert_eq!(refusal(&broker, Connect::v5("same").user("ann", "no")).await, 0x87);
    ann.ping().await;
}

#[tokio::test]
async fn a_file_that_is_wrong_keeps_the_broker_from_starting() {
    let files = Files::new("ann:test\n", "topic reed a\n");
    for (settings, parts) in [
        (with_passwords(&files.passwords, true), ["line 1", "gatepost passwd"]),
        (config::Broker { acl_file: Some(files.acl.clone()), ..settings() }, ["line 1", "reed"]),
    ] {
        let error = Broker::start(&settings).await.unwrap_err();
        assert!(matches!(error, StartError::Access(_)));
        let text = error.to_string();
        assert!(parts.iter().all(|part| text.contains(part)) && !text.contains("ann:test"), "{text}");
    }
}

#[tokio::test]
async fn what_the_acl_does_not_allow_to_publish_goes_nowhere() {
    let files = Files::new("", "topic read #\ntopic write open/#\n");
    let broker = start(with_acl(&files)).await;
    let mut watcher = Client::connect(&broker, &Connect::v5("w")).await;
    assert_eq!(watcher.subscribe(1, "#", 0).await, 0);
    for connect in versions("c") {
        let mut client = Client::connect(&broker, &connect).await;
        let denied: &[u8] = if connect.v5 { &[0x87] } else { &[] };
        client.publish(1, 0, "closed", b"0").await;
        client.publish(3, 1, "closed", b"1").await;
        assert_eq!(client.recv().await, Packet(0x40, [&[0, 1], denied].concat()));
        client.publish(5, 2, "closed", b"2").await;
        assert_eq!(client.recv().await, Packet(0x50, [&[0, 2], denied].concat()));
        if !connect.v5 {
            client.ack(0x62, 2).await;
            assert_eq!(client.recv().await, Packet(0x70, vec![0, 2]));
        }
        client.publish_acked("open/x", b"3").await;
        assert_eq!(watcher.payload().await, b"3");
    }
    assert_eq!(broker.stats().dropped.get(DropReason::Denied), 6);
}

#[tokio::test]
async fn a_subscription_that_can_bring_nothing_is_refused() {
    let acl = "topic readwrite #\ntopic deny test/nosubscribe\ntopic deny secret/#\n";
    let files = Files::new("", acl);
    let broker = start(with_acl(&files)).await;
    for connect in versions("c") {
        let refused = if connect.v5 { 0x87 } else { 0x80 };
        let mut client = Client::connect(&broker, &connect).await;
        for (filter, expected) in [
            ("test/nosubscribe", refused),
            ("secret/+", refused),
            ("$share/g/secret/#", refused),
            ("$SYS/#", refused),
            ("test/+", 1),
            ("$share/g/a", 1),
        ] {
            assert_eq!(client.subscribe(1, filter, 1).await, expected, "{filter}");
        }
    }
}

#[tokio::test]
async fn what_may_not_be_read_is_left_out_of_what_is_delivered() {
    let acl = "topic readwrite #\nuser ann\ntopic read open/#\npattern read own/%u/%c\n";
    let files = Files::new(&format!("ann:{TEST}\n"), acl);
    let broker = start(with_acl(&files)).await;
    let mut publisher = Client::connect(&broker, &Connect::v3("p")).await;
    for (topic, payload) in [("open/r", b"r1"), ("closed/r", b"r2"), ("own/ann/c", b"r3"), ("own/ann/d", b"r4")] {
        publisher.publish(3, 7, topic, payload).await;
        publisher.recv().await;
    }
    let mut ann = Client::connect(&broker, &Connect::v5("c").user("ann", "test")).await;
    assert_eq!(ann.subscribe(1, "#", 1).await, 1);
    let mut retained = vec![ann.payload().await, ann.payload().await];
    retained.sort();
    assert_eq!(retained, [b"r1", b"r3"]);
    for (topic, payload) in [("closed/x", b"1"), ("open/x", b"2"), ("own/ann/d", b"3"), ("own/ann/c", b"4")] {
        publisher.publish_acked(topic, payload).await;
    }
    assert_eq!([ann.payload().await, ann.payload().await], [b"2", b"4"]);
    ann.expect_nothing().await;
}

#[tokio::test]
async fn a_group_passes_over_members_that_may_not_read() {
    let files =
        Files::new(&format!("ann:{TEST}\nbob:{TEST}\n"), "user ann\ntopic read a/#\nuser bob\ntopic read b/#\n");
    let broker = start(with_acl(&files)).await;
    let mut ann = Client::connect(&broker, &Connect::v5("a").user("ann", "test")).await;
    let mut bob = Client::connect(&broker, &Connect::v5("b").user("bob", "test")).await;
    assert_eq!((ann.subscribe(1, "$share/g/#", 1).await, bob.subscribe(1, "$share/g/#", 1).await), (1, 1));
    let local = broker.client();
    for (topic, payload) in [("a/1", "1"), ("a/2", "2"), ("b/1", "3"), ("c/1", "4"), ("b/2", "5")] {
        let topic = gatepost::topic::TopicName::new(topic).unwrap();
        let message = gatepost::broker::local::Publish {
            topic,
            payload: payload.into(),
            qos: gatepost::qos::Qos::AtLeastOnce,
            retain: false,
        };
        local.publish(message).await.unwrap();
    }
    assert_eq!([ann.payload().await, ann.payload().await], [b"1", b"2"]);
    assert_eq!([bob.payload().await, bob.payload().await], [b"3", b"5"]);
}

#[tokio::test]
async fn a_will_needs_the_right_to_publish() {
    let files = Files::new("", "topic read #\ntopic write open\n");
    let broker = start(with_acl(&files)).await;
    let mut watcher = Client::connect(&broker, &Connect::v5("w")).await;
    watcher.subscribe(1, "#", 0).await;
    for topic in ["closed", "open"] {
        let will = Will { topic, payload: topic.as_bytes(), qos: 0, retain: false, properties: vec![] };
        drop(Client::connect(&broker, &Connect { will: Some(will), ..Connect::v5("c") }).await);
        if topic == "open" {
            assert_eq!(watcher.payload().await, b"open");
        } else {
            while broker.stats().dropped.get(DropReason::Denied) == 0 {
                tokio::task::yield_now().await;
            }
        }
    }
}

#[tokio::test]
async fn without_a_password_file_a_user_name_is_taken_as_it_comes() {
    let files = Files::new("", "user ann\ntopic readwrite topic/ann\n");
    let broker = start(config::Broker { acl_file: Some(files.acl.clone()), ..settings() }).await;
    let mut ann = Client::connect(&broker, &Connect { username: Some("ann"), ..Connect::v3("c") }).await;
    assert_eq!(ann.subscribe(1, "topic/ann", 1).await, 1);
    ann.publish(0, 0, "topic/ann", b"x").await;
    assert_eq!(ann.payload().await, b"x");
    let mut nobody = Client::connect(&broker, &Connect::v3("d")).await;
    assert_eq!(nobody.subscribe(1, "topic/ann", 1).await, 0x80);
}

#[tokio::test]
async fn who_is_gone_from_the_file_is_disconnected() {
    let files = Files::new(&format!("ann:{TEST}\nbob:{TEST}\ncid:{TEST}\n"), "topic #\n");
    let broker = start(with_acl(&files)).await;
    let mut ann = Client::connect(&broker, &Connect::v5("a").user("ann", "test").kept()).await;
    let mut bob = Client::connect(&broker, &Connect::v3("b").user("bob", "test")).await;
    let mut cid = Client::connect(&broker, &Connect::v5("c").user("cid", "test")).await;
    let mut nobody = Client::connect(&broker, &Connect::v5("n")).await;
    files.write(&format!("bob:{OTHER}\ncid:{TEST}\n"), "topic #\n");
    broker.reload(&with_acl(&files)).await.unwrap();
    ann.expect_end(0x87).await;
    bob.expect_end(0x87).await;
    cid.ping().await;
    nobody.ping().await;
    assert_eq!(refusal(&broker, Connect::v5("a").user("ann", "test")).await, 0x87);
    // The session is still there when the user is.
    files.write(&format!("ann:{TEST}\n"), "topic #\n");
    broker.reload(&with_acl(&files)).await.unwrap();
    let (_ann, present) = Client::connect_as(&broker, &Connect::v5("a").user("ann", "test").kept()).await;
    assert!(present);
}

#[tokio::test]
async fn a_file_that_is_wrong_changes_nothing() {
    let (users, acl) = (format!("ann:{TEST}\n"), "user ann\ntopic read a\n");
    let files = Files::new(&users, acl);
    let broker = start(with_acl(&files)).await;
    let mut ann = Client::connect(&broker, &Connect::v5("a").user("ann", "test")).await;
    let bob = Connect::v5("b").user("bob", "test");
    // The ACL is right in the first and the users in the second.
    for (users, acl) in [("bob:plain\n", "user ann\ntopic read b\n"), (&format!("{users}bob:{TEST}\n"), "topick b\n")] {
        files.write(users, acl);
        assert!(broker.reload(&with_acl(&files)).await.unwrap_err().is_config());
        ann.ping().await;
        assert_eq!((ann.subscribe(1, "a", 0).await, ann.subscribe(1, "b", 0).await), (0, 0x87));
        assert_eq!(refusal(&broker, bob.clone()).await, 0x87);
    }
    std::fs::remove_file(&files.passwords).unwrap();
    assert!(broker.reload(&with_acl(&files)).await.is_err());
    ann.ping().await;
}

#[tokio::test]
async fn files_come_and_go_and_only_those_are_gone_who_would_not_be_let_in() {
    let files = Files::new(&format!("ann:{TEST}\n"), "topic #\n");
    let open = with_passwords(&files.passwords, true);
    let [without, closed] = [true, false].map(|allow_anonymous| {
        let listeners = vec![config::Listener { allow_anonymous, ..listener("127.0.0.1:0") }];
        let password_file = (!allow_anonymous).then(|| files.passwords.clone());
        config::Broker { listeners, password_file, ..settings() }
    });
    let broker = start(without.clone()).await;
    let mut claimed = Client::connect(&broker, &Connect::v5("c").user("ann", "anything")).await;
    let mut nobody = Client::connect(&broker, &Connect::v5("n")).await;
    broker.reload(&open).await.unwrap();
    claimed.expect_end(0x87).await;
    nobody.ping().await;
    let mut ann = Client::connect(&broker, &Connect::v5("a").user("ann", "test")).await;
    broker.reload(&closed).await.unwrap();
    nobody.expect_end(0x87).await;
    ann.ping().await;
    assert_eq!(refusal(&broker, Connect::v5("n")).await, 0x87);
    broker.reload(&without).await.unwrap();
    ann.ping().await;
    Client::connect(&broker, &Connect::v5("n")).await.ping().await;
}

#[tokio::test]
async fn what_may_not_be_read_any_more_does_not_come() {
    let users = format!("ann:{TEST}\n");
    let files = Files::new(&users, "user ann\ntopic one\ntopic two\n");
    let broker = start(with_acl(&files)).await;
    let connect = Connect::v3("a").user("ann", "test").kept();
    let mut ann = Client::connect(&broker, &connect).await;
    assert_eq!((ann.subscribe(1, "one", 1).await, ann.subscribe(2, "two", 1).await), (1, 1));
    ann.disconnect().await;
    let mut helper = Client::connect(&broker, &Connect::v3("h").user("ann", "test")).await;
    helper.publish_acked("one", b"1").await;
    helper.publish_acked("two", b"2").await;
    files.write(&users, "user ann\ntopic one\n");
    broker.reload(&with_acl(&files)).await.unwrap();
    helper.publish_acked("two", b"3").await;
    let (mut ann, present) = Client::connect_as(&broker, &connect).await;
    assert!(present);
    assert_eq!(ann.payload().await, b"1");
    helper.publish_acked("one", b"4").await;
    assert_eq!(ann.payload().await, b"4");
    ann.expect_nothing().await;
}

#[tokio::test]
async fn a_client_id_brings_no_other_users_messages() {
    let files = Files::new(&format!("ann:{TEST}\nbob:{TEST}\n"), "user ann\ntopic #\nuser bob\ntopic bob/#\n");
    let broker = start(with_acl(&files)).await;
    let mut ann = Client::connect(&broker, &Connect::v5("same").user("ann", "test").kept()).await;
    assert_eq!(ann.subscribe(1, "#", 1).await, 1);
    let mut publisher = Client::connect(&broker, &Connect::v5("p").user("ann", "test")).await;
    // On the way to ann, unacknowledged, and then queued.
    publisher.publish_acked("ann/1", b"1").await;
    assert_eq!(ann.recv_publish().await.payload, b"1");
    drop(ann);
    publisher.publish_acked("ann/2", b"2").await;
    let (mut bob, present) = Client::connect_as(&broker, &Connect::v5("same").user("bob", "test").kept()).await;
    assert!(present);
    publisher.publish_acked("bob/3", b"3").await;
    assert_eq!(bob.payload().await, b"3");
    bob.expect_nothing().await;
}
