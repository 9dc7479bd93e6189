//! A gateway that ends and starts again with the same folder.

use std::net::SocketAddr;

use tempfile::TempDir;

use crate::client::{Client, Connect};
use crate::common::Gateway;

/// How a gateway ends.
#[derive(Clone, Copy, Debug)]
pub enum How {
    /// SIGTERM.
    Stopped,
    /// SIGKILL.
    Killed,
}

/// The gateway.
pub struct World(Option<Gateway>);

impl World {
    pub fn start() -> World {
        World::start_in(TempDir::new().unwrap())
    }

    pub fn start_in(dir: TempDir) -> World {
        World(Some(tokio::task::block_in_place(|| Gateway::start_in(dir, ""))))
    }

    /// With a config that brings its own `[broker]`.
    pub fn start_with(config: &str) -> World {
        World(Some(tokio::task::block_in_place(|| Gateway::start_with(TempDir::new().unwrap(), config))))
    }

    /// The same in a folder that is there.
    pub fn start_with_in(dir: TempDir, config: &str) -> World {
        World(Some(tokio::task::block_in_place(|| Gateway::start_with(dir, config))))
    }

    /// By a shell that does `before` first.
    pub fn start_after(dir: TempDir, before: &str) -> World {
        World(Some(tokio::task::block_in_place(|| Gateway::start_after(dir, before))))
    }

    /// By a shell that does `before` first, with a mount namespace of its own.
    pub fn start_unshared(dir: TempDir, before: &str) -> World {
        World(Some(tokio::task::block_in_place(|| Gateway::start_unshared(dir, before))))
    }

    /// Waits for a line of the log.
    pub fn expect(&self, texts: &[&str]) -> String {
        tokio::task::block_in_place(|| self.gateway().expect_line(texts))
    }

    pub fn gateway(&self) -> &Gateway {
        self.0.as_ref().expect("it runs")
    }

    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.gateway().port()).into()
    }

    /// Ends it; what is in the folder stays.
    pub fn end(mut self, how: How) -> TempDir {
        let gateway = self.0.take().expect("it runs");
        tokio::task::block_in_place(|| match how {
            How::Stopped => gateway.stop(),
            How::Killed => gateway.kill9(),
        })
    }

    /// Ends it and starts it again.
    pub fn restart(self, how: How) -> World {
        World::start_in(self.end(how))
    }

    /// Connects; says whether there was a session.
    pub async fn connect_as(&self, connect: &Connect) -> (Client, bool) {
        let (client, connack) = Client::connack_at(self.address(), connect).await;
        assert_eq!(connack.1[1], 0, "{connack:?}");
        (client, connack.1[0] == 1)
    }

    pub async fn connect(&self, connect: &Connect) -> Client {
        self.connect_as(connect).await.0
    }

    /// Connects and finds a session.
    pub async fn resume(&self, connect: &Connect) -> Client {
        let (client, present) = self.connect_as(connect).await;
        assert!(present, "session present for {}", connect.id);
        client
    }

    /// Makes sure that all there is to write is written: a message for a session that is not there goes to the disk.
    pub async fn flush(&self) {
        let mut keeper = self.connect(&Connect::v3("flush").kept()).await;
        keeper.subscribe(1, "flush", 1).await;
        keeper.disconnect().await;
        self.connect(&Connect::v3("flusher")).await.publish_acked("flush", b"now").await;
    }
}
