//! A session while its client is connected: from CONNACK to the last packet.

use std::time::{Instant, SystemTime};

use tokio::task::consume_budget;

use super::calls::Calls;
use super::timer::Timer;
use super::wire::{Io, Wire};
use super::{AfterDisconnect, Attach, Call, End, SHUTDOWN_FLUSH, Session, resync};
use crate::broker::pace::Pace;
use crate::broker::packet::{Reason, write_disconnect};
use crate::broker::session_expiry::SessionExpiry;
use crate::broker::shutdown::Stage;
use crate::broker::will;
use crate::log_limit::excerpt;
use crate::stats::DropReason;

impl Session {
    /// Serves one connection to its end.
    pub(super) async fn serve(
        &mut self,
        mut connection: Box<Attach>,
        resumes: bool,
        calls: &mut Calls<Call>,
    ) -> AfterDisconnect {
        let now = Instant::now();
        let mut connack = connection.terms.connack.clone();
        connack.session_present = resumes;
        self.login = std::mem::take(&mut connection.login);
        self.entrance = Some(connection.entrance.clone());
        self.settings = connection.settings.clone();
        self.inflight.connect(self.settings.max_inflight.min(connection.connect.receive_maximum));
        self.shares.set_connected(true);
        self.set_expiry(connection.terms.session_expiry);
        self.keep_will(&connection);
        let clean_start = connection.connect.clean_start;
        let mut wire = Wire::new(*connection, self.context.stats.connected.count(), now);
        connack.write(&mut wire.output, wire.version);
        self.context.stats.connections.increment();
        self.counters.connected();
        tracing::info!(
            client_id = excerpt(&self.client_id),
            user = self.login.user().map(excerpt),
            peer = %wire.peer,
            version = %wire.version,
            clean_start,
            session_present = resumes,
            "client connected"
        );
        let end = match self.exchange(&mut wire, calls).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        let mut after = self.finish(wire, end);
        let due = after.will.take_if(|(_, due)| *due <= Instant::now());
        self.publish_will(due.map(|(will, _)| will)).await;
        after
    }

    /// Moves packets and messages until the connection ends.
    async fn exchange(&mut self, wire: &mut Wire, calls: &mut Calls<Call>) -> Result<std::convert::Infallible, End> {
        let mut timer = Timer::default();
        let mut stop = None;
        // All may have changed since the client was let in.
        self.recheck()?;
        loop {
            // The bus alone can keep this loop busy for ever.
            consume_budget().await;
            let now = Instant::now();
            // Before anything is looked at that waits for more of it.
            let written = self.context.store.committed();
            self.take_turn(wire, now)?;
            if stop.is_some_and(|deadline| now >= deadline || self.has_delivered(wire)) {
                return Err(End::Stopped);
            }
            self.check(wire, now)?;
            // Messages are left in the inbox only while the pace holds them.
            let pace = self.pace.deadline().filter(|_| !self.inbox.is_empty());
            let deadline = wire.liveness.deadline().into_iter().chain(pace).chain(stop).min();
            let room = wire.held.as_ref().map(|held| held.room.clone());
            let pending = self.pending_acks(written);
            let store = &self.context.store;
            tokio::select! {
                progress = wire.io(now) => match progress? {
                    Io::Read(0) => return Err(End::Closed),
                    Io::Read(bytes) => self.context.stats.received.bytes.add(bytes as u64),
                    Io::Wrote(bytes) => {
                        self.counters.wrote(bytes);
                        self.context.stats.sent.bytes.add(bytes as u64);
                    }
                },
                received = self.reader.recv(&mut self.inbox), if self.inbox.is_empty() => received?,
                () = self.shares.arrived() => {}
                call = calls.next(), if stop.is_none() => match call {
                    Some(Call::Attach(next)) => return Err(End::TakenOver(next)),
                    Some(Call::Recheck) => self.recheck()?,
                    None => stop = Some(Instant::now() + SHUTDOWN_FLUSH),
                },
                () = async { if let Some(room) = &room { room.ready().await } }, if room.is_some() => {}
                () = pending.progress(store), if pending.are_any() => {}
                number = resync(store, self.journal.as_ref()), if self.journal.is_some() => self.save_anew(number),
                () = timer.wait(deadline) => {}
            }
        }
    }

    /// Does all that can be done without waiting.
    fn take_turn(&mut self, wire: &mut Wire, now: Instant) -> Result<(), End> {
        if !self.is_silent() && self.context.shutdown.stage() > Stage::Running {
            self.refuse_held(wire, now);
            self.fall_silent(wire.will.take());
        }
        if let Some(held) = wire.held.take() {
            self.hand_over(wire, held.envelope, held.id)?;
        }
        self.handle_input(wire, now)?;
        self.settle(Some(wire));
        self.pump(wire, now);
        self.account(&wire.output);
        Ok(())
    }

    /// Whether the connection can go on.
    fn check(&self, wire: &Wire, now: Instant) -> Result<(), End> {
        if self.replies.is_stuck() && !self.is_silent() {
            return Err(End::Lost);
        }
        wire.liveness.overdue(now).map_or(Ok(()), |overdue| Err(overdue.into()))
    }

    /// Whether the client has been sent all that was published so far.
    fn has_delivered(&self, wire: &Wire) -> bool {
        let queued = self.inbox.len() + self.backlog.len() + self.queue.len();
        let told = self.replies.is_empty() && !self.is_writing;
        told && queued == 0 && self.shares.is_idle() && wire.has_written() && self.reader.is_level()
    }

    /// Says goodbye on the old connection and decides what becomes of the will and the session.
    fn finish(&mut self, mut wire: Wire, end: End) -> AfterDisconnect {
        let ended = Instant::now();
        self.log_end(&wire, &end);
        self.pace = Pace::default();
        self.drop_replies();
        self.is_writing = false;
        if !matches!(end, End::TakenOver(_)) && !wire.session_expiry.is_zero() {
            self.note(wire.session_expiry, Some(SystemTime::now()));
        }
        self.refuse_held(&mut wire, ended);
        if let Some(reason) = end.reason() {
            write_disconnect(&mut wire.output, &wire.recipient, reason, end.words());
        }
        self.account(&wire.output);
        let stopped = matches!(end, End::Stopped | End::Bus(_));
        let will = wire.will.take().filter(|_| !matches!(end, End::Disconnect(Reason::SUCCESS)));
        let session_expiry = wire.session_expiry;
        let will = will.map(|will| {
            let due = if stopped { ended } else { will::due(&will, ended, session_expiry) };
            (will, due)
        });
        match (&will, &self.kept_will) {
            (None, _) => self.kept_will = None,
            (Some((_, due)), Some(kept)) if *due > ended => kept.ended(session_expiry),
            _ => {}
        }
        let expires = match session_expiry {
            SessionExpiry::After(interval) => Some(ended + interval),
            SessionExpiry::Never => None,
        };
        self.context.shutdown.tasks.spawn(wire.close(self.context.shutdown.stop.clone()));
        let next = match end {
            End::TakenOver(next) => Some(next),
            _ => None,
        };
        AfterDisconnect { next, will, expires, stopped }
    }

    /// Drops the message that waits for the bus. It was not acknowledged: with QoS 1 and 2 it comes again.
    fn refuse_held(&mut self, wire: &mut Wire, now: Instant) {
        if wire.held.take().is_some() {
            self.dropped(DropReason::Refused, 1, now);
        }
    }

    fn log_end(&self, wire: &Wire, end: &End) {
        let (client_id, peer) = (excerpt(&self.client_id), &wire.peer);
        match end {
            End::Packet(error) => {
                tracing::warn!(client_id, %peer, reason = %error, "client disconnected by the broker");
            }
            End::Disconnect(reason) if *reason != Reason::SUCCESS => {
                tracing::info!(client_id, %peer, code = %reason, reason = %end, "client disconnected");
            }
            _ => tracing::info!(client_id, %peer, reason = %end, "client disconnected"),
        }
    }
}
