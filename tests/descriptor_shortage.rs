//! A process that runs out of file descriptors goes on accepting when it has some again. The limit is the process's,
//! so this test has one for itself.

use std::fs::File;
use std::time::Duration;

use gatepost::config::TcpServer;
use gatepost::stats::Counter;
use gatepost::transport::tcp_server;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpStream;
use tokio::time::timeout;

#[tokio::test]
async fn accepting_outlives_a_shortage_of_descriptors() {
    let server = TcpServer {
        listen: "127.0.0.1:0".into(),
        max_connections: 64,
        allow: Vec::new(),
        idle_timeout: None,
        keepalive: None,
    };
    let listener = tcp_server::bind(&server).await.expect("a free port");
    let refused = Counter::default();
    let limit = Rlimit { current: Some(64), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limit).expect("lowering a limit is always allowed");

    let far = TcpStream::connect(listener.local_addr()).await.expect("the backlog takes it");
    let hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(!hoard.is_empty());
    let short = timeout(Duration::from_millis(100), listener.accept(&refused)).await;
    assert!(short.is_err(), "a connection was accepted without a descriptor");

    drop(hoard);
    let (_near, peer) = timeout(Duration::from_secs(5), listener.accept(&refused)).await.expect("it accepts again");
    assert_eq!(peer, far.local_addr().expect("it is connected"));
}
