//! The far ends of TCP devices: they number their lines, check the numbers of their commands, and go in many ways.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::stage::{Stage, pause};
use crate::common::DEADLINE;

/// How a far end may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It says all it has to say, a line without an end too, and closes.
    Close,
    /// RST, whatever is on the way.
    Reset,
    /// It sends what makes the device panic, and lines behind that.
    Panic,
}

/// What it did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deeds {
    pub lines: u64,
    pub closes: u64,
    pub resets: u64,
    pub panics: u64,
}

impl std::ops::AddAssign for Deeds {
    fn add_assign(&mut self, other: Deeds) {
        self.lines += other.lines;
        self.closes += other.closes;
        self.resets += other.resets;
        self.panics += other.panics;
    }
}

/// Commands that came.
#[derive(Debug, Default)]
pub struct Heard {
    pub commands: u64,
    last: Option<u64>,
    unfinished: BytesMut,
}

impl Heard {
    /// Takes what came from the gateway: commands end in numbers, which only grow.
    pub fn take(&mut self, bytes: &[u8]) {
        self.unfinished.extend_from_slice(bytes);
        while let Some(end) = self.unfinished.iter().position(|&byte| byte == b'\n') {
            let line = self.unfinished.split_to(end + 1);
            let text = std::str::from_utf8(&line[..end]).unwrap();
            let number: u64 = text.rsplit(' ').next().unwrap().parse().unwrap();
            assert!(self.last.is_none_or(|last| last < number), "command {number} after {:?}", self.last);
            self.last = Some(number);
            self.commands += 1;
        }
    }

    /// The link is gone, perhaps in the middle of a command.
    pub fn broken(&mut self) {
        self.unfinished.clear();
    }
}

/// One connection.
pub struct Wire {
    source: String,
    sent: u64,
    write: OwnedWriteHalf,
    /// Ends when the gateway has closed.
    reader: JoinHandle<()>,
}

impl Wire {
    /// `source` names it among all others.
    pub fn new(stream: TcpStream, source: String, heard: Arc<Mutex<Heard>>) -> Wire {
        stream.set_nodelay(true).unwrap();
        let (read, write) = stream.into_split();
        Wire { source, sent: 0, write, reader: tokio::spawn(listen(read, heard)) }
    }

    /// Sends up to `count` lines; false if the gateway has closed.
    pub async fn talk(&mut self, rng: &mut Rng, count: u64) -> bool {
        for _ in 0..count {
            if !self.line().await {
                return false;
            }
            if rng.u8(0..16) == 0 {
                pause(rng, Duration::from_millis(30)).await;
            }
        }
        !self.reader.is_finished()
    }

    async fn line(&mut self) -> bool {
        let line = format!("{} {}\n", self.source, self.sent);
        self.sent += 1;
        self.write.write_all(line.as_bytes()).await.is_ok()
    }

    /// Waits until all lines have come out as messages; false if the gateway has closed before.
    pub async fn settle(&mut self, stage: &Stage) -> bool {
        tokio::select! {
            biased;
            () = stage.until_seen(&self.source, self.sent) => true,
            _ = &mut self.reader => false,
        }
    }

    /// Goes; false if the gateway went before.
    pub async fn end(mut self, end: End, stage: &Stage, deeds: &mut Deeds) -> bool {
        deeds.lines += self.sent;
        if end == End::Reset {
            let _ = socket2::SockRef::from(self.write.as_ref()).set_linger(Some(Duration::ZERO));
            self.reader.abort();
            let _ = self.reader.await;
            deeds.resets += 1;
            return true;
        }
        if !self.settle(stage).await {
            return false;
        }
        let last: &[u8] = match end {
            End::Panic => b"gatepost-test-panic\nnever 1\nnever 2\n",
            _ => b"unfinished",
        };
        self.write.write_all(last).await.unwrap();
        if end == End::Close {
            self.write.shutdown().await.unwrap();
        }
        timeout(DEADLINE, self.reader).await.expect("the gateway closes too").unwrap();
        match end {
            End::Panic => deeds.panics += 1,
            _ => deeds.closes += 1,
        }
        true
    }
}

async fn listen(mut read: OwnedReadHalf, heard: Arc<Mutex<Heard>>) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = read.read(&mut bytes).await {
        heard.lock().unwrap().take(&bytes[..count]);
    }
    heard.lock().unwrap().broken();
}

/// The far end of a TCP client device, through all its connections.
pub struct FarEnd {
    pub device: &'static str,
    listener: TcpListener,
    ends: &'static [End],
    wire: Option<Wire>,
    connections: u64,
    pub heard: Arc<Mutex<Heard>>,
    pub deeds: Deeds,
}

impl FarEnd {
    /// Goes in one of those ways now and then; without any it stays.
    pub async fn new(device: &'static str, ends: &'static [End]) -> FarEnd {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        FarEnd { device, listener, ends, wire: None, connections: 0, heard: Arc::default(), deeds: Deeds::default() }
    }

    pub fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// Lines sent by the connection that there is.
    pub fn sent(&self) -> u64 {
        self.wire.as_ref().map_or(0, |wire| wire.sent)
    }

    /// Talks, goes and comes again until the round is over.
    pub async fn round(mut self, stage: Stage, mut rng: Rng) -> FarEnd {
        while stage.goes_on() {
            let mut wire = self.connected().await;
            let count = rng.u64(1..300);
            if !wire.talk(&mut rng, count).await {
                self.lose(wire);
            } else if let Some(&end) = rng.choice(self.ends) {
                wire.end(end, &stage, &mut self.deeds).await;
            } else {
                self.wire = Some(wire);
            }
        }
        self
    }

    /// Has a connection, all of whose lines have come out as messages.
    pub async fn settle(mut self, stage: Stage) -> FarEnd {
        loop {
            let mut wire = self.connected().await;
            if wire.line().await && wire.settle(&stage).await {
                self.wire = Some(wire);
                return self;
            }
            self.lose(wire);
        }
    }

    fn lose(&mut self, wire: Wire) {
        self.deeds.lines += wire.sent;
    }

    async fn connected(&mut self) -> Wire {
        if let Some(wire) = self.wire.take() {
            return wire;
        }
        let accepted = timeout(DEADLINE, self.listener.accept()).await;
        let (stream, _) = accepted.unwrap_or_else(|_| panic!("{} does not come back", self.device)).unwrap();
        self.connections += 1;
        Wire::new(stream, format!("{}-{}", self.device, self.connections), self.heard.clone())
    }
}
