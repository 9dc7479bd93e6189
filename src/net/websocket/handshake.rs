//! The opening handshake of a WebSocket connection (RFC 6455, section 4.2), as a server answers it.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::machine::TryParse;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response, create_response, write_response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;

/// Bytes of the longest request; browsers send cookies along.
const MAX_REQUEST: usize = 16 * 1024;

/// What is offered over WebSocket, and what a client is told that wants something else.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    /// Paths that a request may have.
    pub paths: &'static [&'static str],
    /// Sub-protocols; the first of the client's that is among them is agreed on.
    pub protocols: &'static [&'static str],
    /// Said of other paths, with 404.
    pub not_found: &'static str,
    /// Said to what is HTTP and no WebSocket of version 13, with 426.
    pub no_upgrade: &'static str,
    /// Said of other sub-protocols, with 400.
    pub no_protocol: &'static str,
}

/// Why there is no WebSocket connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The client closed, or the connection failed.
    #[error("the connection ended in the WebSocket handshake: {0}")]
    Io(#[from] io::Error),
    /// The request was answered with an HTTP error.
    #[error("{0}")]
    Refused(Refusal),
}

/// An HTTP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {what}")]
pub struct Refusal {
    /// Code and reason phrase.
    status: &'static str,
    what: &'static str,
    /// Further header lines.
    headers: &'static str,
}

const NOT_HTTP: Refusal = Refusal { status: "400 Bad Request", what: "not an HTTP request", headers: "" };
const TOO_LONG: Refusal =
    Refusal { status: "431 Request Header Fields Too Large", what: "a request of more than 16 KiB", headers: "" };

/// Reads a request for `endpoint` and answers it. Returns what came behind it. Bounded in size, not in time.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    endpoint: &Endpoint,
) -> Result<BytesMut, HandshakeError> {
    let mut input = BytesMut::new();
    let answer = loop {
        match Request::try_parse(&input) {
            Ok(Some((length, request))) => {
                let _ = input.split_to(length);
                break endpoint.answer(&request);
            }
            Ok(None) if input.len() < MAX_REQUEST => {}
            Ok(None) => break Err(TOO_LONG),
            Err(_) => break Err(NOT_HTTP),
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Err(HandshakeError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
    };
    match answer {
        Ok(response) => {
            stream.write_all(&response).await?;
            stream.flush().await?;
            Ok(input)
        }
        Err(refusal) => {
            stream.write_all(refusal.to_http().as_bytes()).await?;
            stream.flush().await?;
            Err(HandshakeError::Refused(refusal))
        }
    }
}

impl Endpoint {
    fn answer(&self, request: &Request) -> Result<Vec<u8>, Refusal> {
        if !self.paths.contains(&request.uri().path()) {
            return Err(Refusal { status: "404 Not Found", what: self.not_found, headers: "" });
        }
        let mut response: Response = create_response(request).map_err(|_| Refusal {
            status: "426 Upgrade Required",
            what: self.no_upgrade,
            headers: "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        })?;
        if let Some(protocol) = self.protocol(request)? {
            response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        let mut bytes = Vec::new();
        write_response(&mut bytes, &response).map_err(|_| NOT_HTTP)?;
        Ok(bytes)
    }

    /// The first that both know; `None` if the client names none at all, for there are such clients.
    fn protocol(&self, request: &Request) -> Result<Option<&'static str>, Refusal> {
        let asked = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL);
        let mut words = asked.iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
        match words.find_map(|word| self.protocols.iter().copied().find(|known| *known == word.trim())) {
            None if asked.iter().next().is_some() => {
                Err(Refusal { status: "400 Bad Request", what: self.no_protocol, headers: "" })
            }
            found => Ok(found),
        }
    }
}

impl Refusal {
    fn to_http(self) -> String {
        let Refusal { status, what, headers } = self;
        let length = what.len() + 1;
        format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\n{headers}Content-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{what}\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    const ENDPOINT: Endpoint = Endpoint {
        paths: &["/", "/mqtt"],
        protocols: &["mqtt", "mqttv3.1"],
        not_found: "not here",
        no_upgrade: "no web page",
        no_protocol: "mqtt only",
    };

    /// The answer to a request of `first` line and further `headers`, and what is left of the input.
    async fn ask(first: &str, headers: &str, behind: &[u8]) -> (String, Option<BytesMut>) {
        let (mut server, mut client) = duplex(64 * 1024);
        let request = format!(
            "{first}\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://somewhere.example\r\n{headers}\r\n"
        );
        client.write_all(request.as_bytes()).await.unwrap();
        client.write_all(behind).await.unwrap();
        let rest = accept(&mut server, &ENDPOINT).await.ok();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        (answer, rest)
    }

    #[tokio::test]
    async fn the_sub_protocol_is_agreed() {
        for (asked, agreed) in [
            ("Sec-WebSocket-Protocol: mqtt\r\n", Some("mqtt")),
            ("Sec-WebSocket-Protocol: mqttv3.1, mqtt\r\n", Some("mqttv3.1")),
            ("Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: chat, mqtt\r\n", Some("mqtt")),
            ("", None),
        ] {
            let (answer, rest) = ask("GET /mqtt?x=1 HTTP/1.1", asked, b"early").await;
            assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
            // The example of RFC 6455, section 1.3.
            assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
            let named = answer
                .to_lowercase()
                .lines()
                .find_map(|l| l.strip_prefix("sec-websocket-protocol: ").map(str::to_owned));
            assert_eq!(named.as_deref(), agreed, "{answer}");
            assert_eq!(rest.unwrap(), &b"early"[..]);
        }
    }

    #[tokio::test]
    async fn anything_else_gets_an_http_error() {
        let long = format!("Cookie: {}\r\n", "x".repeat(MAX_REQUEST));
        for (first, headers, status) in [
            ("GET /other HTTP/1.1", "", "404"),
            ("POST / HTTP/1.1", "", "400"),
            ("\x10\x0E\0\x04MQTT", "", "400"),
            ("GET / HTTP/1.1", "Sec-WebSocket-Protocol: chat\r\n", "400"),
            ("GET / HTTP/1.1", &long, "431"),
        ] {
            let (answer, rest) = ask(first, headers, b"").await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{first}: {answer}");
            assert!(rest.is_none());
        }
    }

    #[tokio::test]
    async fn a_browser_that_only_looks_is_told_what_this_is() {
        let (mut server, mut client) = duplex(1024);
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        accept(&mut server, &ENDPOINT).await.unwrap_err();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 426 ") && answer.contains("Upgrade: websocket"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nno web page\n"), "{answer}");
    }
}
