use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::topic::TopicFilter;

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_device_that_panics_is_started_again_and_nobody_else_notices() {
    panics::install();
    let (bad, good) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let [bad_port, good_port] = [&bad, &good].map(|listener| listener.local_addr().unwrap().port());
    let text = format!(
        "[gateway]\nname = \"g\"\n[broker]\npersistence = false\nlistener = []\n\
         [device.bad]\ntcp = {{ connect = \"127.0.0.1:{bad_port}\" }}\npublish = \"bad\"\nreconnect = {{ min = \"1ms\" }}\n\
         [device.good]\ntcp = {{ connect = \"127.0.0.1:{good_port}\" }}\npublish = \"good\"\n"
    );
    let config = config::parse(&text, "test.toml", "/".as_ref()).unwrap().config;
    let gateway = Gateway::start(config, None).await.unwrap();
    let filters = ["bad", "good"].map(|filter| (TopicFilter::new(filter).unwrap(), Qos::AtLeastOnce));
    let mut messages = gateway.client().subscribe(filters.into()).await.unwrap();
    let mut good_link = good.accept().await.unwrap().0;
    for round in 1..=3 {
        let mut bad_link = timeout(PATIENCE, bad.accept()).await.unwrap().unwrap().0;
        bad_link.write_all(b"before\ngatepost-test-panic\nnever\n").await.unwrap();
        let mut again = timeout(PATIENCE, bad.accept()).await.unwrap().unwrap().0;
        again.write_all(b"after\n").await.unwrap();
        for expected in ["before", "after"] {
            let message = timeout(PATIENCE, messages.recv()).await.unwrap().unwrap();
            assert_eq!((message.topic.as_str(), &message.payload[..]), ("bad", expected.as_bytes()));
        }
        good_link.write_all(b"well\n").await.unwrap();
        assert_eq!(timeout(PATIENCE, messages.recv()).await.unwrap().unwrap().payload, "well");
        let [bad_device, good_device] = &gateway.devices()[..] else { panic!() };
        let stats = bad_device.stats_json();
        assert_eq!((&stats["panics"], &stats["online"]), (&round.into(), &true.into()));
        // The frame that made it panic, and the one that was read behind it.
        let dropped = serde_json::json!({ "panicked": 2 * round });
        assert_eq!((&stats["frames_in"], &stats["published"]), (&(4 * round).into(), &(2 * round).into()));
        assert_eq!(stats["dropped"], dropped);
        let place = stats["last_error"].as_str().unwrap();
        assert!(place.contains("uplink.rs:"), "{place}");
        let stats = good_device.stats_json();
        assert_eq!((&stats["panics"], &stats["reconnects"]), (&0.into(), &0.into()));
        drop(again);
    }
    gateway.stop().await;
    assert!(matches!(gateway.reload().await, Err(ReloadError::Stopping)));
}

#[tokio::test]
async fn a_reload_does_not_wait_for_ever_for_an_earlier_one() {
    let text = "[gateway]\nname = \"g\"\n[broker]\npersistence = false\nlistener = []\n";
    let config = config::parse(text, "test.toml", "/".as_ref()).unwrap().config;
    let gateway = Gateway::start(config, Some("/etc/of/mine.toml".into())).await.unwrap();
    // As one that reads a file on a disk that hangs.
    let earlier = gateway.state.lock().await;
    tokio::time::pause();
    let error = gateway.reload().await.unwrap_err();
    tokio::time::resume();
    assert!(matches!(error, ReloadError::Busy { .. }) && !error.is_config(), "{error}");
    assert!(error.to_string().contains("still reads /etc/of/mine.toml"), "{error}");
    drop(earlier);
    assert!(matches!(gateway.reload().await, Err(ReloadError::Config(_))), "there is no such file");
    gateway.stop().await;
}

/// The figures of the device `name`, when they are as `wanted`.
async fn until(gateway: &Gateway, name: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
    let device = gateway.device(name).unwrap();
    let reached = async {
        while !wanted(&device.stats_json()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(timeout(PATIENCE, reached).await.is_ok(), "{:#}", device.stats_json());
    device.stats_json()
}

fn command(topic: &str) -> Publish {
    let (topic, payload) = (TopicName::new(topic).unwrap(), Bytes::from_static(b"command"));
    Publish { topic, payload, qos: Qos::AtLeastOnce, retain: false }
}

async fn say(gateway: &Gateway, topic: &str) {
    gateway.client().publish(command(topic)).await.unwrap();
}

fn with_head(text: &str) -> String {
    format!("[gateway]\nname = \"g\"\n[broker]\npersistence = false\nlistener = []\n{text}")
}

async fn start(text: &str) -> Arc<Gateway> {
    let config = config::parse(&with_head(text), "test.toml", "/".as_ref()).unwrap().config;
    Gateway::start(config, None).await.unwrap()
}

#[tokio::test]
async fn commands_for_a_device_that_has_panicked_are_counted() {
    let far = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = far.local_addr().unwrap().port();
    // It is not started again within this test.
    let device = format!(
        "[device.d]\ntcp = {{ connect = \"127.0.0.1:{port}\" }}\npublish = \"up\"\nsubscribe = \"down/#\"\n\
         reconnect = {{ min = \"1h\", max = \"1h\" }}\n"
    );
    let gateway = start(&device).await;
    let mut link = far.accept().await.unwrap().0;
    until(&gateway, "d", |stats| stats["online"] == true).await;
    say(&gateway, "down/a").await;
    until(&gateway, "d", |stats| stats["written"] == 1).await;
    link.write_all(b"gatepost-test-panic\n").await.unwrap();
    until(&gateway, "d", |stats| stats["panics"] == 1).await;
    // Many more than its reader queue has room for, if nobody took them.
    for _ in 0..5000 {
        timeout(PATIENCE, say(&gateway, "down/a")).await.expect("nobody is held up");
    }
    let stats = until(&gateway, "d", |stats| stats["commands"] == 5001).await;
    assert_eq!(stats["dropped"], serde_json::json!({ "offline": 5000, "panicked": 1 }));
    timeout(PATIENCE, gateway.stop()).await.expect("it stops");
}

#[tokio::test]
async fn a_connection_of_a_server_that_panics_loses_nothing_uncounted() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let server = format!(
        "[device.s]\ntcp_server = {{ listen = \"127.0.0.1:{port}\" }}\npublish = \"up/{{peer}}\"\n\
         subscribe = \"down/{{peer}}\"\nwrite_gap = \"1h\"\n"
    );
    let gateway = start(&server).await;
    until(&gateway, "s", |stats| stats["online"] == true).await;
    let mut peers = Vec::new();
    for count in 1..=2 {
        let mut peer = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        peer.write_all(b"hello\n").await.unwrap();
        until(&gateway, "s", |stats| stats["published"] == count).await;
        peers.push(peer);
    }
    // Each is to be written to both; after the first there is a gap.
    for _ in 0..3 {
        say(&gateway, "down/all").await;
    }
    let stats = until(&gateway, "s", |stats| stats["written"] == 2).await;
    assert_eq!((&stats["commands"], &stats["queued"]), (&6.into(), &4.into()));
    peers[0].write_all(b"gatepost-test-panic\nbehind\n").await.unwrap();
    let stats = until(&gateway, "s", |stats| stats["queued"] == 2).await;
    assert_eq!(stats["dropped"], serde_json::json!({ "offline": 2, "panicked": 2 }));
    assert_eq!((&stats["frames_in"], &stats["published"]), (&4.into(), &2.into()));
    until(&gateway, "s", |stats| stats["panics"] == 1).await;
    peers[1].write_all(b"still here\n").await.unwrap();
    until(&gateway, "s", |stats| stats["published"] == 3).await;
    let device = gateway.device("s").unwrap();
    gateway.stop().await;
    assert_eq!(device.stats_json()["dropped"], serde_json::json!({ "offline": 2, "panicked": 2, "stopped": 2 }));
}

/// A gateway with one device, which a reload restarts at another address and with other rules. Its stop takes all the time
/// that it has: after the first command there is a gap.
struct Restart {
    gateway: Arc<Gateway>,
    old: BufReader<TcpStream>,
    new: TcpListener,
    _dir: tempfile::TempDir,
}

impl Restart {
    /// One command is written, `both/2` and `old` wait, and the reload is still to come.
    async fn prepare() -> Restart {
        let listen = || async { TcpListener::bind("127.0.0.1:0").await.unwrap() };
        let (old, new) = (listen().await, listen().await);
        let device = |far: &TcpListener, keys: &str| {
            let address = far.local_addr().unwrap();
            let queue = "queue = { max = 9999, while_offline = \"keep\" }";
            with_head(&format!("[device.d]\ntcp = {{ connect = \"{address}\" }}\n{queue}\n{keys}"))
        };
        let rule = |topic: &str, write: &str| {
            format!("[[device.d.subscribe]]\ntopic = \"{topic}\"\nwrite = \"{write}\"\nretained = \"accept\"\n")
        };
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("gatepost.toml");
        let rules = ["write_gap = \"1h\"\n", &rule("both/+", "old {topic:2}"), &rule("old", "old")].concat();
        std::fs::write(&file, device(&old, &rules)).unwrap();
        let gateway = Gateway::start(config::load(&file).unwrap().config, Some(file.clone())).await.unwrap();
        let old = BufReader::new(old.accept().await.unwrap().0);
        until(&gateway, "d", |stats| stats["online"] == true).await;
        for topic in ["both/1", "both/2", "old"] {
            say(&gateway, topic).await;
        }
        until(&gateway, "d", |stats| (&stats["written"], &stats["queued"]) == (&1.into(), &2.into())).await;
        std::fs::write(&file, device(&new, &[rule("both/+", "new {topic:2}"), rule("new", "new")].concat())).unwrap();
        Restart { gateway, old, new, _dir: dir }
    }

    /// Begins it; the device has been told to stop when `kept`, which is retained, has come for the new one too.
    async fn begin(&self) -> tokio::task::JoinHandle<Result<Summary, ReloadError>> {
        let gateway = self.gateway.clone();
        gateway.client().publish(Publish { retain: true, ..command("both/kept") }).await.unwrap();
        until(&gateway, "d", |stats| stats["queued"] == 3).await;
        let reload = tokio::spawn(async move { gateway.reload().await });
        until(&self.gateway, "d", |stats| stats["queued"] == 4).await;
        reload
    }
}

/// The next `count` lines that the device gets.
async fn lines(link: &mut BufReader<TcpStream>, count: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for _ in 0..count {
        let mut line = String::new();
        timeout(PATIENCE, link.read_line(&mut line)).await.unwrap().unwrap();
        lines.push(line.trim_end().to_owned());
    }
    lines
}

#[tokio::test]
async fn a_device_that_is_restarted_leaves_its_commands_to_the_next() {
    let mut restart = Restart::prepare().await;
    let reload = restart.begin().await;
    let gateway = &restart.gateway;
    for topic in ["both/3", "old", "new", "both/4"] {
        say(gateway, topic).await;
    }
    // Many more than its reader queue has room for, if nobody took them.
    for _ in 0..5000 {
        timeout(PATIENCE, say(gateway, "both/more")).await.expect("nobody is held up");
    }
    let stats = until(gateway, "d", |stats| stats["queued"] == 5007).await;
    assert_eq!((&stats["commands"], reload.is_finished()), (&5008.into(), false));
    timeout(PATIENCE, reload).await.unwrap().unwrap().unwrap();

    assert_eq!(lines(&mut restart.old, 2).await, ["old 1", ""], "one command, and the end");
    let mut link = BufReader::new(timeout(PATIENCE, restart.new.accept()).await.unwrap().unwrap().0);
    let expected = ["old 2", "old", "old kept", "new kept", "new 3", "new", "new 4"];
    assert_eq!(lines(&mut link, expected.len()).await, expected);
    assert_eq!(lines(&mut link, 5000).await, vec!["new more"; 5000]);
    let stats = until(gateway, "d", |stats| stats["written"] == 5008).await;
    let none = serde_json::json!({});
    assert_eq!((&stats["commands"], &stats["queued"], &stats["dropped"]), (&5008.into(), &0.into(), &none));
    timeout(PATIENCE, gateway.stop()).await.expect("it stops");
}

#[tokio::test]
async fn a_stop_amid_a_restart_counts_what_nobody_writes_any_more() {
    let restart = Restart::prepare().await;
    let reload = restart.begin().await;
    timeout(PATIENCE, restart.gateway.stop()).await.expect("it stops");
    timeout(PATIENCE, reload).await.unwrap().unwrap().unwrap();
    let stats = restart.gateway.device("d").unwrap().stats_json();
    // The new one may just have had the time to connect, and even to write them.
    let dropped = stats["dropped"]["stopped"].as_u64().unwrap_or(0);
    assert_eq!((&stats["commands"], stats["written"].as_u64().unwrap() + dropped), (&5.into(), 5), "{stats:#}");
    assert_eq!(stats["queued"], 0);
}

#[tokio::test]
async fn a_device_that_is_given_up_leaves_its_commands_too() {
    let mut restart = Restart::prepare().await;
    let gateway = restart.gateway.clone();
    let mut watcher = gateway.device("d").unwrap().watch();
    // It cannot say that it is offline: there is one who does not read that.
    let status = vec![(TopicFilter::new("gatepost/g/device/d/status").unwrap(), Qos::AtLeastOnce)];
    let idle = gateway.client().subscribe(status).await.unwrap();
    while gateway.client().try_publish(command("gatepost/g/device/d/status")).is_ok() {}
    let reload = restart.begin().await;
    let ended = async { while watcher.next().await.is_some() {} };
    timeout(PATIENCE, ended).await.expect("who watches learns that it has ended");
    drop(idle);
    timeout(PATIENCE, reload).await.unwrap().unwrap().unwrap();

    assert_eq!(lines(&mut restart.old, 2).await, ["old 1", ""], "one command, and the end");
    let mut link = BufReader::new(timeout(PATIENCE, restart.new.accept()).await.unwrap().unwrap().0);
    assert_eq!(lines(&mut link, 4).await, ["old 2", "old", "old kept", "new kept"]);
    let stats = until(&gateway, "d", |stats| stats["written"] == 5).await;
    assert_eq!((&stats["commands"], &stats["dropped"]), (&5.into(), &serde_json::json!({})));
    timeout(PATIENCE, gateway.stop()).await.expect("it stops");
}
