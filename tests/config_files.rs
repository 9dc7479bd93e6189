//! The configurations that are shipped, and what `gatepost check` makes of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use gatepost::config::{self, Config, Loaded};

/// Every file below `config/`.
fn shipped() -> Vec<PathBuf> {
    let mut files = vec![PathBuf::from("config/gatepost.toml")];
    files.extend(fs::read_dir("config/examples").unwrap().map(|entry| entry.unwrap().path()));
    files.sort();
    assert!(files.len() >= 6, "{files:?}");
    files
}

fn gatepost(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gatepost")).args(arguments).output().unwrap()
}

/// What is printed has no word for "optional": a printed default listener is an explicit one.
fn explicit(mut config: Config) -> Config {
    for listener in &mut config.broker.listeners {
        listener.optional = false;
    }
    config
}

fn read_again(config: &Config) -> Config {
    let text = config.to_toml();
    config::parse(&text, "printed.toml", Path::new("/")).unwrap_or_else(|errors| panic!("{errors}\n{text}")).config
}

#[test]
fn shipped_files_are_right_and_print_what_they_mean() {
    for file in shipped() {
        let loaded = config::load(&file).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(read_again(&loaded.config), explicit(loaded.config), "{}", file.display());
    }
}

#[test]
fn the_shipped_configuration_is_the_default() {
    let loaded = config::load(Path::new("config/gatepost.toml")).unwrap();
    assert_eq!(loaded.config, Loaded::default().config);
    let listeners: Vec<_> = loaded.config.broker.listeners.iter().map(|l| (l.address.as_str(), l.optional)).collect();
    assert_eq!(listeners, [("127.0.0.1:1883", false), ("[::1]:1883", true)]);
    assert!(loaded.config.broker.listeners.iter().all(|listener| listener.allow_anonymous));
    assert!(loaded.config.devices.is_empty() && loaded.warnings.is_empty());
}

/// What an editor shows first on 80 by 24 characters is enough for a first device.
#[test]
fn the_first_screen_connects_a_device() {
    let text = fs::read_to_string("config/gatepost.toml").unwrap();
    let screen: Vec<&str> = text.lines().take(18).collect();
    assert!(screen.iter().all(|line| line.len() <= 80), "{screen:#?}");
    for command in ["gatepost ports", "gatepost check", "systemctl reload gatepost", "gatepost doctor"] {
        assert!(screen.iter().any(|line| line.contains(command)), "no {command} in {screen:#?}");
    }
    let rest: Vec<&str> = text.lines().skip(18).collect();
    let edited = uncommented(&screen.join("\n")) + "\n" + &rest.join("\n");
    let loaded = config::parse(&edited, "gatepost.toml", Path::new("/")).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.config.devices.keys().collect::<Vec<_>>(), ["arduino"]);
    assert!(loaded.warnings.is_empty());
}

/// Takes the `#` off every line that begins with `#` and no space.
fn uncommented(text: &str) -> String {
    let lines = text.lines().map(|line| match line.strip_prefix('#') {
        Some(example) if !example.is_empty() && !example.starts_with(' ') => example,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_commented_example_is_right_or_marked_not_yet() {
    let text = uncommented(&fs::read_to_string("config/gatepost.toml").unwrap());
    let directory = tempfile::tempdir().unwrap();
    for secret in ["cloud.pass", "http.token"] {
        fs::write(directory.path().join(secret), "secret\n").unwrap();
    }
    for (own, example) in [("localhost.pem", "server.pem"), ("localhost.key", "server.key"), ("ca.pem", "ca.pem")] {
        fs::copy(Path::new("tests/tls").join(own), directory.path().join(example)).unwrap();
    }
    for file in ["passwd", "acl"] {
        fs::write(directory.path().join(file), "").unwrap();
    }
    let errors = config::parse(&text, "gatepost.toml", directory.path()).unwrap_err();
    let refused: Vec<&str> = errors.all().iter().map(|error| error.key.as_str()).collect();
    for error in errors.all() {
        assert!(error.message.ends_with("not supported in this version"), "{error}");
    }
    for key in ["bridge.cloud", "http", "device.weather.udp"] {
        assert!(refused.contains(&key), "{key} is not refused: {refused:?}");
    }
    // Without what is refused, the rest is right.
    let rest: Vec<String> = remove_refused(&text);
    let loaded = config::parse(&rest.join("\n"), "gatepost.toml", directory.path());
    let loaded = loaded.unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.config.devices.keys().collect::<Vec<_>>(), ["arduino", "full", "light", "scanners"]);
    assert_eq!(read_again(&loaded.config), explicit(loaded.config));
}

/// Drops each paragraph, and in the large ones each line, that stands below a NOT YET.
fn remove_refused(text: &str) -> Vec<String> {
    let mut rest = Vec::new();
    for paragraph in text.split("\n\n") {
        let lines: Vec<&str> = paragraph.lines().collect();
        let whole =
            lines.iter().find(|line| !line.starts_with("# -")).is_some_and(|line| line.starts_with("# NOT YET"));
        let mut skip = false;
        for line in lines.into_iter().filter(|_| !whole) {
            skip = if line.starts_with('#') { line.starts_with("# NOT YET") } else { skip };
            if !skip {
                rest.push(line.to_owned());
            }
        }
        rest.push(String::new());
    }
    rest
}

#[test]
fn check_accepts_and_summarizes() {
    let output = gatepost(&["check", "-c", "config/examples/json-sensor.toml"]);
    assert_eq!(output.status.code(), Some(0));
    let summary = String::from_utf8(output.stdout).unwrap();
    assert_eq!(summary, "ok: 1 device, 2 listeners in config/examples/json-sensor.toml\n");
}

#[test]
fn check_refuses_with_78_and_shows_the_errors() {
    let output = gatepost(&["check", "-c", "tests/golden/config/many_in_one_file.toml"]);
    assert_eq!(output.status.code(), Some(78));
    let expected = fs::read_to_string("tests/golden/config/many_in_one_file.err").unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), expected);
    assert_eq!(gatepost(&["check", "-c", "no/such/file.toml"]).status.code(), Some(78));
}

#[test]
fn check_prints_toml() {
    let output = gatepost(&["check", "--print", "-c", "config/examples/binary-checksum.toml"]);
    assert_eq!(output.status.code(), Some(0));
    let printed = String::from_utf8(output.stdout).unwrap();
    let again = config::parse(&printed, "printed.toml", Path::new("/")).unwrap();
    let loaded = config::load(Path::new("config/examples/binary-checksum.toml")).unwrap();
    assert_eq!(again.config, explicit(loaded.config));
}

#[test]
fn a_drop_in_that_is_not_there_is_told_from_a_file_that_was_named() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("conf.d")).unwrap();
    let main = directory.path().join("gatepost.toml");
    fs::write(&main, "").unwrap();
    std::os::unix::fs::symlink("nowhere", directory.path().join("conf.d/10.toml")).unwrap();
    let text = config::load(&main).unwrap_err().to_string();
    assert!(text.contains("conf.d/10.toml") && text.contains("a link to nothing"), "{text}");
    assert!(!text.contains("-c FILE"), "{text}");
    fs::remove_file(main.clone()).unwrap();
    assert!(config::load(&main).unwrap_err().to_string().contains("-c FILE"));
}

#[test]
fn drop_ins_are_merged_in_the_order_of_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write(
        "gatepost.toml",
        "[[broker.listener]]\naddress = \"127.0.0.1:1001\"\n[device.a]\nserial = { port = \"tty\" }\n",
    );
    write("conf.d/20.toml", "[[broker.listener]]\naddress = \"127.0.0.1:1003\"\n[device.a]\nwrite_gap = \"1s\"\n");
    write(
        "conf.d/10.toml",
        "[[broker.listener]]\naddress = \"127.0.0.1:1002\"\n[device.b]\nserial = { port = \"tty\" }\n",
    );
    write("conf.d/.hidden.toml", "nonsense");
    write("conf.d/10.toml.bak", "nonsense");
    let loaded = config::load(&directory.path().join("gatepost.toml")).unwrap();
    let ports: Vec<_> = loaded.config.broker.listeners.iter().map(|listener| listener.address.as_str()).collect();
    assert_eq!(ports, ["127.0.0.1:1001", "127.0.0.1:1002", "127.0.0.1:1003"]);
    assert_eq!(loaded.files.len(), 3);
    let port = |name: &str| match &loaded.config.devices[name].transport {
        config::Transport::Serial(serial) => serial.port.clone(),
        other => panic!("{other:?}"),
    };
    // A relative path begins at the file that names it.
    assert_eq!(port("a"), config::SerialPort::Path(directory.path().join("tty")));
    assert_eq!(port("b"), config::SerialPort::Path(directory.path().join("conf.d/tty")));
    assert_eq!(loaded.config.devices["a"].write_gap.as_secs(), 1);
}

/// What is printed says where a secret comes from, not what it is.
#[test]
fn a_key_that_is_a_secret_is_not_printed_and_found_again() {
    let key = fs::read_to_string("tests/tls/localhost.key").unwrap();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a 'key'"), &key).unwrap();
    let file = directory.path().join("gatepost.toml");
    let check = |source: &str| {
        let cert = fs::canonicalize("tests/tls/localhost.pem").unwrap();
        let tls = format!("tls = {{ cert = {cert:?}, key = {source} }}");
        fs::write(&file, format!("[[broker.listener]]\naddress = \"127.0.0.1:0\"\n{tls}\n")).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_gatepost"))
            .args(["check", "--print", "-c", file.to_str().unwrap()])
            .env("CREDENTIALS_DIRECTORY", directory.path())
            .env("THE_KEY", &key)
            .output()
            .unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{source}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!printed.contains("PRIVATE KEY"), "{printed}");
        let line = printed.lines().find(|line| line.starts_with("tls = ")).unwrap();
        line.split_once(", key = ").unwrap().1.trim_end_matches(" }").to_owned() + " }"
    };
    let path = format!("{{ file = \"{}\" }}", directory.path().join("a 'key'").display());
    for (given, printed) in [
        (r#"{ file = "a 'key'" }"#, &*path),
        (&path, &path),
        (r#"{ credential = "a 'key'" }"#, r#"{ credential = "a 'key'" }"#),
        (r#"{ env = "THE_KEY" }"#, r#"{ env = "THE_KEY" }"#),
    ] {
        assert_eq!(check(given), printed);
    }
}

/// As in README.Debian: `sudo gatepost check` is not given what the service is.
#[test]
fn what_only_the_service_is_given_is_not_checked_from_outside() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gatepost.toml");
    let gatepost = |command: &str, credentials: Option<&Path>| {
        let mut gatepost = Command::new(env!("CARGO_BIN_EXE_gatepost"));
        gatepost.args([command, "-c", file.to_str().unwrap()]).env_remove("CREDENTIALS_DIRECTORY");
        let output = gatepost.envs(credentials.map(|folder| ("CREDENTIALS_DIRECTORY", folder))).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let write = |cert: &str, more: &str| {
        let tls = format!("tls = {{ cert = {cert:?}, key = {{ credential = \"key.pem\" }}{more} }}");
        let text = "[broker]\nallow_anonymous = true\n[gateway]\nstate_dir = \"state\"\n[[broker.listener]]\n";
        fs::write(&file, format!("{text}address = \"127.0.0.1:0\"\n{tls}\n")).unwrap();
    };
    let (given, own) =
        ("/run/credentials/no-such.service/cert.pem", fs::canonicalize("tests/tls/localhost.pem").unwrap());
    let own = own.to_str().unwrap();
    for (cert, notes) in [(given, 2), (own, 1)] {
        write(cert, "");
        let (code, text) = gatepost("check", None);
        assert_eq!((code, text.matches("not checked here").count()), (0, notes), "{text}");
        assert!(text.contains("note: the credential is not checked here") && text.contains("ok: 0 devices"), "{text}");
        // To run without it is another matter.
        let (code, text) = gatepost("run", None);
        assert!(code == 78 && text.contains("no credential `key.pem`: $CREDENTIALS_DIRECTORY is not set"), "{text}");
        // Who is given credentials checks them.
        let (code, text) = gatepost("check", Some(directory.path()));
        assert!(code == 78 && text.contains("key.pem: No such file"), "{text}");
        let (_, text) = gatepost("doctor", None);
        let said = "ok: configuration: the credential is not checked here: only the service is given it";
        assert!(text.contains(said) && !text.contains("is refused"), "{text}");
    }
    // What can be read is checked.
    write("gatepost.toml", "");
    let (code, text) = gatepost("check", None);
    assert!(code == 78 && text.contains("no certificate in PEM"), "{text}");
    write(own, ", client_ca = \"gatepost.toml\"");
    let (code, text) = gatepost("check", None);
    assert!(code == 78 && text.contains("broker.listener[0].tls.client_ca"), "{text}");
    write("/run/no-such/cert.pem", "");
    assert_eq!(gatepost("check", None).0, 78, "that is no credential's place");
    fs::write(&file, "[broker]\npassword_file = \"/run/credentials/no-such.service/passwd\"\n").unwrap();
    let (code, text) = gatepost("check", None);
    assert!(code == 0 && text.contains("note: this file is not checked here"), "{text}");
    assert_eq!(gatepost("run", None).0, 78);
    fs::copy("tests/tls/elsewhere.key", directory.path().join("key.pem")).unwrap();
    write(own, "");
    let (code, text) = gatepost("check", Some(directory.path()));
    assert!(code == 78 && text.contains("this is not the key of the certificate"), "{text}");
}
