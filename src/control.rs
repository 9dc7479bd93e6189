//! The control socket: a unix stream socket on which a running gateway answers questions and takes orders.
//!
//! Who may write to it (mode 0660: the gateway's user and group) may do all of it. Each side sends lines, each a JSON
//! object. A request has a `command` and what that needs; requests of one connection are answered one after the other:
//!
//! | request | `ok` |
//! |---|---|
//! | `{"command":"status"}` | `version`, `pid`, `devices`: an array of the counters of the stats topic with `name`, `kind`, `address`, `state` (`online`, `offline` or `released`), `since`, and `peers` of a `tcp_server`; `broker`: all its counters |
//! | `{"command":"monitor","device":"D"}` | `{}`, then events for as long as both sides are there |
//! | `{"command":"send","device":"D","text":"ON"}` or `"hex":"ff0a"`, one of the two; `"peer":"10.0.0.7_4711"` for one connection of a `tcp_server` | `written`: to how many links; `dropped`: on how many it was not, by reason. Comes when that is known |
//! | `{"command":"release","device":"D"}`, with `"for_ms":60000` for a time | `{}`, when the device is closed |
//! | `{"command":"acquire","device":"D"}` | `acquired`: false if it was not released |
//! | `{"command":"reload"}` | `summary`, `changes`, `needs_restart`, `warnings`, when the new configuration is in force |
//!
//! An answer is `{"ok":{…}}` or `{"error":{"code":"unknown_device","message":"…"}}`; the codes are those of
//! [`Code`]. Events are those of [`Line`], bytes in them `text` where they are UTF-8 and else
//! `hex`:
//!
//! ```json
//! {"time":"2026-01-31T12:00:00.000Z","event":"in","text":"T=21","made":[{"published":{"topic":"a","qos":1,"retain":false,"text":"T=21"}}]}
//! {"time":"2026-01-31T12:00:00.100Z","event":"command","topic":"a/set","text":"ON","made":[{"queued":{"text":"ON"}}]}
//! {"time":"2026-01-31T12:00:00.101Z","event":"out","text":"ON"}
//! {"time":"2026-01-31T12:00:00.150Z","event":"out","text":"OFF","dropped":"expired"}
//! {"time":"2026-01-31T12:00:00.200Z","event":"missed","frames_in":12,"frames_out":0,"others":0}
//! ```
//!
//! Each frame that was `queued` has one `out` for each link it was for, written or `dropped`; so has each of `send`.
//! Who does not read its events in time loses some of them, which `missed` counts where they would have been; nobody
//! else notices. Bounds: 64 connections, 512 KiB a request, a minute for each. Who closes its sending side has no more
//! to ask: what it still waits for is not sent.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::gateway::Gateway;
use crate::net::socket::{ACCEPT_PAUSE, ServerSocket};
use crate::net::stream::Stream;
use connection::Connection;
use protocol::Answer;
pub use protocol::{Code, Data, Line, Refusal, Request, Shown, ShownMade};

mod commands;
mod connection;
mod line;
pub mod protocol;

/// Connections at once.
const MAX_CONNECTIONS: usize = 64;

/// The socket and those who talk to it. Dropping it closes all of them without waiting.
#[derive(Debug)]
pub struct Control {
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the control socket {path}: {source}{}", hint(source))]
pub struct ControlError {
    path: PathBuf,
    source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; hint: another gatepost of this user has it; give each its own with `[gateway] control`"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            "; hint: name another place with `[gateway] control`"
        }
        io::ErrorKind::InvalidInput => "; hint: name a shorter one with `[gateway] control`",
        _ => "",
    }
}

impl Control {
    /// Makes the socket at `path`, and its folder if only that is missing. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// Another gateway has it, or it cannot be made.
    pub fn start(path: &Path, gateway: Arc<Gateway>) -> Result<Control, ControlError> {
        let socket = bind(path).map_err(|source| ControlError { path: path.to_owned(), source })?;
        tracing::info!(path = %path.display(), "control socket");
        let stop = CancellationToken::new();
        let task = AbortOnDropHandle::new(tokio::spawn(serve(socket, gateway, stop.clone())));
        Ok(Control { stop, task })
    }

    /// Closes the socket and every connection.
    pub async fn stop(self) {
        self.stop.cancel();
        // An error is a panic, which has been reported as such.
        let _ = self.task.await;
    }
}

fn bind(path: &Path) -> io::Result<ServerSocket> {
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        // What is wrong with it binding will tell.
        let _ = std::fs::create_dir(folder);
    }
    ServerSocket::bind_unix(path)
}

async fn serve(socket: ServerSocket, gateway: Arc<Gateway>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = socket.accept() => match accepted {
                Ok((stream, _)) if connections.len() >= MAX_CONNECTIONS => refuse(stream),
                Ok((stream, _)) => {
                    connections.spawn(Connection::new(stream, gateway.clone()).serve());
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection to the control socket was not accepted");
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = sleep(ACCEPT_PAUSE) => {}
                    }
                }
            },
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "the task of a control connection panicked");
                }
            }
        }
    }
    connections.shutdown().await;
}

/// Says so if the kernel has room for it, and closes.
fn refuse(stream: Stream) {
    if let Stream::Unix(stream) = stream {
        let message = format!(
            "the control socket has {MAX_CONNECTIONS} connections already\nhint: end a `gatepost monitor`, a `gatepost \
             top` or a program of your own that has one open"
        );
        let line = connection::encode(&Answer::error(Code::Unavailable, message));
        // Past the runtime, which would first have to learn that the socket can be written to; it does not block.
        let _ = stream.into_std().and_then(|mut stream| stream.write_all(&line));
    }
}
