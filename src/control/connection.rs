//! One connection: requests in, answers and events out.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::timeout;

use super::commands;
use super::line::Lines;
use super::protocol::{Answer, Code, Line, Request};
use crate::device::watch::Watcher;
use crate::gateway::Gateway;
use crate::net::stream::Stream;

/// How long the other side may take to read an answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Events are gathered into one write up to about this size.
const WRITE_SIZE: usize = 32 * 1024;

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    lines: Lines<ReadHalf<Stream>>,
    write: WriteHalf<Stream>,
    gateway: Arc<Gateway>,
}

impl Connection {
    /// Nothing has been said yet.
    pub(super) fn new(stream: Stream, gateway: Arc<Gateway>) -> Connection {
        let (read, write) = tokio::io::split(stream);
        Connection { lines: Lines::new(read), write, gateway }
    }

    /// Answers until the other side closes or breaks the rules.
    pub(super) async fn serve(mut self) {
        if let Err(error) = self.answer_all().await {
            tracing::debug!(%error, "a control connection failed");
        }
    }

    async fn answer_all(&mut self) -> io::Result<()> {
        loop {
            let line = match self.lines.next().await {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(()),
                Err(error) => return self.say(&Answer::error(Code::BadRequest, error.to_string())).await,
            };
            let request = match serde_json::from_slice(&line) {
                Ok(request) => request,
                Err(error) => {
                    let message = format!("not a request: {error}");
                    return self.say(&Answer::error(Code::BadRequest, message)).await;
                }
            };
            if let Request::Monitor { device } = request {
                return match commands::device(&self.gateway, &device) {
                    Ok(device) => self.monitor(device.watch()).await,
                    Err(refusal) => self.say(&Answer::Error(refusal)).await,
                };
            }
            let answer = tokio::select! {
                biased;
                answer = commands::answer(&self.gateway, request) => answer,
                () = self.lines.closed() => return Ok(()),
            };
            self.say(&answer).await?;
        }
    }

    /// Writes events until the device ends or the other side closes.
    async fn monitor(&mut self, mut watcher: Watcher) -> io::Result<()> {
        self.say(&Answer::done()).await?;
        let events = async {
            let mut text = Vec::new();
            while let Some(event) = watcher.next().await {
                text.extend(encode(&Line::new(&event)));
                while text.len() < WRITE_SIZE {
                    let Some(event) = watcher.try_next() else { break };
                    text.extend(encode(&Line::new(&event)));
                }
                // Waits for as long as it takes: what is missed meanwhile is this watcher's own.
                self.write.write_all(&text).await?;
                text.clear();
            }
            Ok(())
        };
        tokio::select! {
            ended = events => ended,
            () = self.lines.closed() => Ok(()),
        }
    }

    async fn say(&mut self, answer: &Answer) -> io::Result<()> {
        let line = encode(answer);
        timeout(ANSWER_TIME, self.write.write_all(&line)).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
    }
}

/// `value` as one line.
pub(super) fn encode(value: &impl Serialize) -> Vec<u8> {
    // Maps in them have strings for keys, and nothing else can fail.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}
