//! The will of the client: noted while it is connected, and published.

use std::time::Instant;

use tokio::task::JoinHandle;

use super::{Attach, Session};
use crate::broker::bus::{BusError, TryPublishError};
use crate::broker::packet::WillRequest;
use crate::broker::store::StoredWill;
use crate::broker::will;
use crate::log_limit::excerpt;
use crate::stats::DropReason;

impl Session {
    /// Notes the will of `connection`. Any that is left of the client has been published, or is not going to be.
    pub(super) fn keep_will(&mut self, connection: &Attach) {
        self.context.wills.take_back(&self.client_id);
        self.kept_will = connection.connect.will.as_ref().and_then(|request| {
            self.context.wills.keep(StoredWill {
                client_id: self.client_id.clone(),
                username: self.username(),
                request: request.clone(),
                expiry: connection.terms.session_expiry,
                silence: connection.terms.silence,
                ended_at: None,
            })
        });
    }

    /// Publishes `will`; when this returns it is on the bus, and so before anything that a new connection says.
    pub(super) async fn publish_will(&mut self, will: Option<WillRequest>) {
        let Some(mut task) = will.and_then(|will| self.begin_to_publish(&will)) else { return };
        loop {
            tokio::select! {
                _ = &mut task => return,
                // It may wait for this very reader.
                received = self.reader.recv(&mut self.inbox) => match received {
                    Ok(()) => self.pump_offline(Instant::now()),
                    Err(_) => return,
                }
            }
        }
    }

    /// Publishes `will`, at once if the bus has room for it, or else in the task that is returned.
    pub(super) fn begin_to_publish(&mut self, will: &WillRequest) -> Option<JoinHandle<()>> {
        let client_id = self.client_id.clone();
        let kept = self.kept_will.take();
        if !self.may_write(&will.topic) {
            self.context.stats.dropped.count(DropReason::Denied);
            let client_id = excerpt(&client_id);
            tracing::warn!(client_id, topic = excerpt(&will.topic), "will not published: acl_file does not allow it");
            return None;
        }
        tracing::debug!(client_id = excerpt(&client_id), topic = excerpt(&will.topic), "will published");
        let bus = self.context.bus.clone();
        let failed = move |error: &BusError| {
            tracing::warn!(client_id = excerpt(&client_id), %error, "cannot publish a will");
        };
        match self.context.bus.try_publish(will::envelope(will, self.number, Instant::now())) {
            Ok(published) => {
                if let Some(kept) = kept {
                    self.context.shutdown.tasks.spawn(async move { kept.forget(published).await });
                }
                None
            }
            Err(TryPublishError::Bus(error)) => {
                failed(&error);
                if let Some(kept) = kept {
                    kept.leave();
                }
                None
            }
            Err(TryPublishError::Busy(envelope, _)) => Some(self.context.shutdown.tasks.spawn(async move {
                if let Err(error) = will::publish(&bus, envelope, kept).await {
                    failed(&error);
                }
            })),
        }
    }
}
