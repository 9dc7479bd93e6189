//! What a session does while the broker stops; see [`Stage`](crate::broker::sessions::Stage).

use std::time::Instant;

use bytes::BytesMut;

use super::{Attach, Session, close};
use crate::broker::packet::{Connack, PacketError, Reason, WillRequest};

impl Session {
    /// Publishes nothing more: a stop of the broker has begun, and `will` is the last.
    pub(super) fn fall_silent(&mut self, will: Option<WillRequest>) {
        let speaks = self.speaks.take();
        if let Some(task) = will.and_then(|will| self.begin_to_publish(&will)) {
            self.context.shutdown.tasks.spawn(async move {
                let _ = task.await;
                drop(speaks);
            });
        }
    }

    /// Whether the session publishes nothing more.
    pub(super) fn is_silent(&self) -> bool {
        self.speaks.is_none()
    }

    /// Refuses a connection that came as the stop began.
    pub(super) fn turn_away(&self, connection: Attach) {
        let Attach { stream, connect, .. } = connection;
        let mut output = BytesMut::new();
        let error = PacketError { reason: Reason::SERVER_SHUTTING_DOWN, what: "the gateway stops" };
        Connack::write_refusal(&mut output, &connect.recipient(), error);
        self.context.stats.refused.increment();
        self.context.shutdown.tasks.spawn(close(stream, output, self.context.shutdown.stop.clone()));
    }

    /// The broker stops and the session stays, on disk: gives all that has come for it to the store.
    pub(super) fn put_away(&mut self) {
        self.go_offline();
        loop {
            self.pump_offline(Instant::now());
            if !self.reader.take(&mut self.inbox) {
                break;
            }
        }
        self.settle(None);
        self.shares.put_away();
    }
}
