//! What the disk costs, and whom.

use std::path::Path;

use gatepost::broker::Broker;
use gatepost::config;
use tempfile::TempDir;

use crate::client::*;

async fn on_disk(dir: &Path) -> Broker {
    start(config::Broker { database: Some(dir.join("broker.db")), ..settings() }).await
}

#[tokio::test]
async fn without_a_session_that_is_kept_nothing_goes_to_the_disk() {
    let dir = TempDir::new().unwrap();
    let broker = on_disk(dir.path()).await;
    let mut subscriber = Client::connect(&broker, &Connect::v5("s")).await;
    subscriber.subscribe(1, "#", 2).await;
    let mut publisher = Client::connect(&broker, &Connect::v3("p")).await;
    for n in 0..10 {
        publisher.publish_acked("t", &[n]).await;
        publisher.publish(4, 1, "t", &[n]).await;
        assert_eq!(publisher.recv().await.0, 0x50);
        publisher.ack(0x62, 1).await;
        assert_eq!(publisher.recv().await.0, 0x70);
    }
    // A session that is kept and reads other topics costs those nothing either.
    let mut other = Client::connect(&broker, &Connect::v3("o").kept()).await;
    other.subscribe(1, "elsewhere", 1).await;
    let before = broker.store().stats().changes.get();
    publisher.publish_acked("t", b"x").await;
    assert_eq!((before, broker.store().stats().changes.get()), (2, 2), "the session and its subscription");
}
