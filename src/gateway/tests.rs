use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
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
        let place = stats["last_error"].as_str().unwrap();
        assert!(place.contains("uplink.rs:"), "{place}");
        let stats = good_device.stats_json();
        assert_eq!((&stats["panics"], &stats["reconnects"]), (&0.into(), &0.into()));
        drop(again);
    }
    gateway.stop().await;
    assert!(matches!(gateway.reload().await, Err(ReloadError::Stopping)));
}
