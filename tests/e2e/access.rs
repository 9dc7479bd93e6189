//! Users and rights as people set them up: `gatepost passwd` and mosquitto_passwd, the ACL file, SIGHUP.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tempfile::TempDir;

use crate::common::{DEADLINE, Gateway, Process, gatepost, program, python};

const BROKER: &str = "\
[broker]
password_file = \"passwd\"
acl_file = \"acl\"
[[broker.listener]]
address = \"127.0.0.1:0\"
";

const ACL: &str = "\
user ann
topic readwrite home/#
topic deny home/secret
user bob
topic read home/#
";

/// `gatepost passwd --batch`; exit code and what it said.
fn passwd(dir: &Path, user: &str, password: &str) -> (i32, String) {
    let file = dir.join("passwd");
    let mut process = Process::spawn(gatepost(&["passwd", "--batch", file.to_str().unwrap(), user]));
    process.send(password);
    let (code, lines) = process.finish();
    (code, lines.join("\n"))
}

fn set_up() -> TempDir {
    let dir = TempDir::new().unwrap();
    for user in ["ann", "bob"] {
        assert_eq!(passwd(dir.path(), user, &format!("{user}'s")), (0, String::new()));
    }
    fs::write(dir.path().join("acl"), ACL).unwrap();
    dir
}

/// A command that ends by itself.
fn ends(command: &str, port: &str, args: &[&str]) -> i32 {
    let output = gatepost(&[&[command, "-h", "127.0.0.1", "-p", port], args].concat()).output().unwrap();
    output.status.code().unwrap()
}

#[test]
fn passwd_writes_a_file_that_only_its_owner_reads() {
    let dir = set_up();
    let file = dir.path().join("passwd");
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("ann:$argon2id$v=19$") && lines[1].starts_with("bob:$argon2id$v=19$"), "{text}");
    assert!(lines.len() == 2 && text.ends_with('\n') && !text.contains("'s"));
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(&file, format!("# who\n{text}")).unwrap();
    assert_eq!(passwd(dir.path(), "ann", "new").0, 0);
    let changed = fs::read_to_string(&file).unwrap();
    assert!(changed.starts_with("# who\nann:$argon2id$") && changed.ends_with(&format!("\n{}\n", lines[1])));
    assert!(!changed.contains(lines[0]));
    let path = file.to_str().unwrap();
    let delete = |user| gatepost(&["passwd", "--delete", path, user]).output().unwrap().status.code();
    assert_eq!((delete("ann"), delete("ann"), delete("nobody")), (Some(0), Some(1), Some(1)));
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("# who\n{}\n", lines[1]));
    for (user, password) in [("a:b", "x"), ("", "x"), ("a\nb", "x"), ("cid", "")] {
        let (code, said) = passwd(dir.path(), user, password);
        assert!(code == 1 && said.starts_with("error: "), "{user:?}: {said}");
    }
    // Who is refused for the name may have ended before the password comes.
    let mut refused = Process::spawn(gatepost(&["passwd", "--batch", path, ""]));
    refused.wait(DEADLINE);
    refused.send("late");
    assert_eq!(refused.finish().0, 1);
    // Asked twice, also through a pipe.
    for (again, expected) in [("secret", 0), ("sacred", 1)] {
        let mut process = Process::spawn(gatepost(&["passwd", path, "dan"]));
        process.send("secret");
        process.send(again);
        assert_eq!(process.finish().0, expected);
    }
    // As mosquitto_passwd -b.
    let status = gatepost(&["passwd", "-b", path, "cid", "secret"]).output().unwrap().status;
    assert_eq!(status.code(), Some(0));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left over");
}

/// Answers each prompt on a terminal; the exit code and all that the terminal showed.
fn answer(file: &Path, answers: [&str; 2]) -> (Option<i32>, String) {
    let mut terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).map(File::from).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let side = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let stdio = || Stdio::from(side.try_clone().unwrap());
    let asking = gatepost(&["passwd", file.to_str().unwrap(), "ann"]);
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait"]).arg(asking.get_program()).args(asking.get_args());
    let mut child = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
    drop((command, side));
    let mut shown = Vec::new();
    for (count, line) in (1..).zip(answers) {
        while shown.windows(2).filter(|two| two == b": ").count() < count {
            let mut bytes = [0; 100];
            let read = terminal.read(&mut bytes).unwrap();
            shown.extend_from_slice(&bytes[..read]);
        }
        terminal.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
    let status = child.wait().unwrap();
    // The end of a terminal that nobody has open is an error.
    let _ = terminal.read_to_end(&mut shown);
    (status.code(), String::from_utf8_lossy(&shown).into_owned())
}

#[test]
fn passwd_asks_twice_without_echo() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("passwd");
    let (code, shown) = answer(&file, ["hunter2", "hunter3"]);
    assert!(code == Some(1) && shown.contains("differ") && !shown.contains("hunter"), "{shown}");
    assert!(!file.exists());
    let (code, shown) = answer(&file, ["hunter2", "\u{3}"]);
    assert!(code == Some(1) && shown.contains("interrupted"), "{shown}");
    assert!(!file.exists());
    let (code, shown) = answer(&file, ["hunter2", "hunter2"]);
    assert!(code == Some(0) && !shown.contains("hunter"), "{shown}");
    assert!(fs::read_to_string(&file).unwrap().starts_with("ann:$argon2id$"));
}

#[test]
fn users_log_in_with_their_passwords_and_have_their_rights() {
    let gateway = Gateway::start_with(set_up(), BROKER);
    let port = gateway.port_text();
    let bob = ["-u", "bob", "-P", "bob's"];
    let sub = Process::spawn(gatepost(
        &[&["sub", "-h", "127.0.0.1", "-p", &port, "-t", "home/#", "-v", "-d", "-C", "2"], &bob[..]].concat(),
    ));
    sub.find("Subscribed");
    for (version, refused) in [("311", 5), ("5", 0x87)] {
        let publish = |args: &[&str]| ends("pub", &port, &[&["-V", version, "-q", "1"], args].concat());
        assert_eq!(publish(&["-t", "home/x", "-m", version, "-u", "ann", "-P", "ann's"]), 0);
        assert_eq!(publish(&["-t", "home/x", "-m", "no", "-u", "ann", "-P", "bob's"]), refused);
        assert_eq!(publish(&["-t", "home/x", "-m", "no", "-u", "eve", "-P", "bob's"]), refused);
        assert_eq!(publish(&["-t", "home/x", "-m", "no"]), refused);
        publish(&[&["-t", "home/x", "-m", "no"], &bob[..]].concat());
        publish(&["-t", "home/secret", "-m", "no", "-u", "ann", "-P", "ann's"]);
    }
    let lines = sub.succeed();
    let messages: Vec<&str> = lines.iter().map(String::as_str).filter(|line| line.starts_with("home/")).collect();
    assert_eq!(messages, ["home/x 311", "home/x 5"]);
    let log = gateway.log().join("\n");
    for part in ["the password is not the one", "the user is not in password_file", "no user name"] {
        assert_eq!(log.matches(part).count(), 1, "each cause once: {log}");
    }
    assert!(!log.contains("bob's") && !log.contains("ann's"));
}

#[test]
fn sighup_reads_the_files_again_and_a_wrong_one_changes_nothing() {
    let dir = set_up();
    let path = dir.path().to_owned();
    let mut gateway = Gateway::start_with(dir, BROKER);
    let port = gateway.port_text();
    let args = ["-t", "home/x", "-u", "ann", "-P", "ann's"];
    let mut ann = Process::spawn(gatepost(&[&["sub", "-h", "127.0.0.1", "-p", &port, "-d"], &args[..]].concat()));
    ann.find("Subscribed");
    let users = fs::read_to_string(path.join("passwd")).unwrap();
    fs::write(path.join("passwd"), "ann:hunter2\n").unwrap();
    gateway.process().signal(Signal::HUP);
    let line = gateway.process().expect("line 1");
    assert!(line.contains("ERROR") && line.contains("gatepost passwd"), "{line}");
    gateway.process().expect("not reloaded");
    assert!(!gateway.log().concat().contains("hunter2"));
    assert_eq!(ends("pub", &port, &["-m", "1", "-t", "home/x", "-u", "ann", "-P", "ann's"]), 0);
    ann.expect("1");
    fs::write(path.join("passwd"), users.lines().last().unwrap()).unwrap();
    gateway.process().signal(Signal::HUP);
    gateway.process().expect("reloaded");
    gateway.process().expect("removed from password_file");
    assert_eq!(ends("pub", &port, &["-m", "1", "-t", "home/x", "-u", "ann", "-P", "ann's"]), 5);
    assert_eq!(ends("pub", &port, &["-m", "1", "-t", "home/x", "-u", "bob", "-P", "bob's"]), 0);
}

#[test]
fn a_wrong_or_missing_file_is_a_wrong_configuration() {
    let dir = set_up();
    let config = dir.path().join("gatepost.toml");
    fs::write(&config, BROKER).unwrap();
    let config = config.to_str().unwrap();
    let said = |command: &str| {
        let output = gatepost(&[command, "-c", config]).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    };
    let (code, text) = said("check");
    assert!(code == 0 && !text.contains("warning"), "{text}");
    let file = dir.path().join("passwd");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    assert!(said("check").1.contains("chmod 0600"));
    fs::write(dir.path().join("acl"), "topic home/#/x\n").unwrap();
    fs::write(&file, "ann:plain\n").unwrap();
    let (code, text) = said("check");
    assert_eq!(code, 78, "{text}");
    assert!(text.contains("acl is wrong: line 1") && text.contains("passwd is wrong: line 1"), "{text}");
    assert_eq!(said("run").0, 78);
    fs::remove_file(&file).unwrap();
    for command in ["check", "run"] {
        let (code, text) = said(command);
        assert!(code == 78 && text.contains("gatepost.toml:2:17"), "{text}");
    }
}

#[test]
#[ignore = "needs mosquitto-clients"]
fn files_of_mosquitto_passwd_are_accepted_by_both_kinds_of_clients() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("passwd");
    let path = file.to_str().unwrap();
    for (flags, user) in [(&["-c", "-H", "sha512"][..], "ann"), (&["-H", "sha512-pbkdf2"], "bob")] {
        program("mosquitto_passwd", &[flags, &["-b", path, user, "secret"]].concat()).succeed();
    }
    // Debian's may have made it root's alone.
    assert_eq!(passwd(dir.path(), "cid", "secret").0, 0);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("ann:$6$") && text.contains("bob:$7$") && text.contains("cid:$argon2id$"), "{text}");
    fs::write(dir.path().join("acl"), "pattern readwrite of/%u/#\n").unwrap();
    let gateway = Gateway::start_with(dir, BROKER);
    let port = gateway.port_text();
    for user in ["ann", "bob", "cid"] {
        for version in ["mqttv311", "mqttv5"] {
            let topic = format!("of/{user}/x");
            let publish = |password: &str| {
                let args =
                    ["-p", &port, "-V", version, "-u", user, "-P", password, "-q", "1", "-t", &topic, "-m", "hi"];
                program("mosquitto_pub", &args).finish().0
            };
            assert_eq!(publish("secret"), 0);
            assert_ne!(publish("Secret"), 0);
        }
    }
}

#[test]
#[ignore = "needs Python"]
fn paho_logs_in_and_sees_what_it_may() {
    let gateway = Gateway::start_with(set_up(), BROKER);
    let port = gateway.port_text();
    for version in [&[][..], &["--v5"]] {
        let with = |args: &[&'static str]| -> Vec<String> {
            let all = [args, version].concat();
            std::iter::once(port.clone()).chain(all.into_iter().map(str::to_owned)).collect()
        };
        let run = |script, args: &[&'static str]| {
            let args = with(args);
            python(script, &args.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let mut refused = run("subscriber.py", &["home/#", "--user", "ann", "wrong"]);
        refused.expect("Not authorized");
        let denied = run("subscriber.py", &["home/secret", "--user", "ann", "ann's"]);
        denied.find(if version.is_empty() { "Unspecified error" } else { "Not authorized" });
        let mut bob = run("subscriber.py", &["#", "--count", "1", "--user", "bob", "bob's"]);
        bob.expect("Subscribed");
        run("publisher.py", &["home/x", "no", "--qos", "1", "--user", "bob", "bob's"]).finish();
        run("publisher.py", &["home/x", "yes", "--qos", "1", "--user", "ann", "ann's"]).succeed();
        bob.expect("\"yes\"");
        bob.succeed();
    }
}
