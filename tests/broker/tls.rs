//! TLS listeners: who gets in, under what name, and what a new certificate changes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gatepost::broker::Broker;
use gatepost::config::{self, Identity, PrivateKey, ServerTls};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::*;

/// A file of tests/tls.
pub fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

pub fn server(name: &str) -> ServerTls {
    ServerTls {
        cert: file(&format!("{name}.pem")),
        key: PrivateKey::File(file(&format!("{name}.key"))),
        client_ca: None,
        identity: None,
    }
}

/// A listener that asks for certificates and lets nobody else in.
pub fn for_users() -> ServerTls {
    ServerTls { client_ca: Some(file("ca.pem")), identity: Some(Identity::CommonName), ..server("localhost") }
}

pub fn tls_listener(tls: ServerTls, allow_anonymous: bool) -> config::Listener {
    config::Listener { tls: Some(tls), allow_anonymous, ..listener("127.0.0.1:0") }
}

async fn start_tls(tls: ServerTls, allow_anonymous: bool) -> Broker {
    start(config::Broker { listeners: vec![tls_listener(tls, allow_anonymous)], ..settings() }).await
}

fn certificate(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file(&format!("{name}.pem"))).unwrap()
}

/// A client's side of TLS, with the certificate of that name.
pub fn client_config(identity: Option<&str>, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate("ca")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let builder = builder.with_root_certificates(roots);
    Arc::new(match identity {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let key = PrivateKeyDer::from_pem_file(file(&format!("{name}.key"))).unwrap();
            builder.with_client_auth_cert(vec![certificate(name)], key).unwrap()
        }
    })
}

pub async fn connect_tls(address: SocketAddr, identity: Option<&str>) -> std::io::Result<TlsStream<TcpStream>> {
    connect_with(address, client_config(identity, rustls::ALL_VERSIONS)).await
}

async fn connect_with(address: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(config).connect("localhost".try_into().unwrap(), stream).await
}

#[tokio::test]
async fn both_versions_of_tls_carry_both_of_mqtt() {
    let broker = start_tls(server("localhost"), true).await;
    for tls in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for connect in [Connect::v3("three"), Connect::v5("five")] {
            let stream = connect_with(broker.local_addrs()[0], client_config(None, &[tls])).await.unwrap();
            let mut client = Client::over(stream);
            assert_eq!(client.start(&connect).await.1[1], 0);
            assert_eq!(client.subscribe(1, "a/b", 0).await, 0);
            client.publish(0, 0, "a/b", b"hello").await;
            assert_eq!(client.recv_publish().await.payload, b"hello");
        }
    }
}

/// More than the buffers of TLS, the kernel and the broker's output take at once.
#[tokio::test]
async fn a_flood_that_is_read_late_arrives_whole() {
    const COUNT: u32 = 3000;
    let broker = start_tls(server("localhost"), true).await;
    let mut subscriber = Client::over(connect_tls(broker.local_addrs()[0], None).await.unwrap());
    subscriber.start(&Connect::v3("late")).await;
    subscriber.subscribe(1, "flood", 0).await;
    let mut publisher = Client::over(connect_tls(broker.local_addrs()[0], None).await.unwrap());
    publisher.start(&Connect::v3("flood")).await;
    for number in 0..COUNT {
        publisher.publish(0, 0, "flood", &[&number.to_be_bytes()[..], &[7; 2000]].concat()).await;
    }
    for number in 0..COUNT {
        let payload = subscriber.recv_publish().await.payload;
        assert_eq!((&payload[..4], payload.len()), (&number.to_be_bytes()[..], 2004));
    }
}

#[tokio::test]
async fn a_certificate_is_a_login() {
    let broker = start_tls(for_users(), false).await;
    let mut client = Client::over(connect_tls(broker.local_addrs()[0], Some("client")).await.unwrap());
    assert_eq!(client.start(&Connect::v5("a")).await.1[1], 0);
    let empty = Connect::v5("a").user("", "");
    let mut client = Client::over(connect_tls(broker.local_addrs()[0], Some("client")).await.unwrap());
    assert_eq!(client.start(&empty).await.1[1], 0, "its name is that of the certificate");

    // Without `identity` it is none.
    let nameless = start_tls(ServerTls { identity: None, ..for_users() }, false).await;
    for connect in [Connect::v5("a"), empty] {
        let mut client = Client::over(connect_tls(nameless.local_addrs()[0], Some("client")).await.unwrap());
        assert_eq!(client.start(&connect).await.1[1], 0x87);
    }
}

#[tokio::test]
async fn wrong_certificates_end_in_the_handshake() {
    let broker = start_tls(for_users(), true).await;
    for (number, identity) in [None, Some("stranger"), Some("expired")].into_iter().enumerate() {
        // In TLS 1.3 the client is done before the server has seen its certificate.
        let config = client_config(identity, rustls::ALL_VERSIONS);
        let mut stream = connect_with(broker.local_addrs()[0], config).await.unwrap();
        let _ = stream.write_all(&Connect::v3("a").bytes()).await;
        let mut answer = Vec::new();
        let error = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap_err();
        let alert = error.get_ref().map(ToString::to_string).unwrap_or_default();
        assert!(alert.contains("alert"), "{identity:?}: {alert}");
        assert_eq!((answer.len(), broker.stats().refused.get()), (0, number as u64 + 1));
    }
    assert_eq!(broker.stats().connections.get(), 0);
}

#[tokio::test]
async fn what_is_not_tls_is_closed() {
    let broker = start_tls(server("localhost"), true).await;
    let mut plain = TcpStream::connect(broker.local_addrs()[0]).await.unwrap();
    plain.write_all(&Connect::v3("plain").bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, plain.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer.first(), Some(&21), "an alert: {answer:?}");
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections() {
    let configured = tls_listener(server("localhost"), true);
    let broker = start(config::Broker { listeners: vec![configured.clone()], ..settings() }).await;
    let served = async || {
        let stream = connect_tls(broker.local_addrs()[0], None).await.unwrap();
        let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
        (Client::over(stream), certificate)
    };
    let (mut old, first) = served().await;
    old.start(&Connect::v3("old")).await;
    assert_eq!(first, certificate("localhost"));

    let with = |tls| {
        let listeners = vec![config::Listener { tls: Some(tls), ..configured.clone() }];
        config::Broker { listeners, ..settings() }
    };
    let wrong = ServerTls { key: PrivateKey::File(file("client.key")), ..server("renewed") };
    assert!(broker.reload(&with(wrong)).await.unwrap_err().to_string().contains("not the key"));
    assert_eq!(served().await.1, certificate("localhost"));

    broker.reload(&with(server("renewed"))).await.unwrap();
    assert_eq!(served().await.1, certificate("renewed"));
    assert_eq!(old.subscribe(1, "still/here", 0).await, 0);
}
