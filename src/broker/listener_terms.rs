//! What holds for every client of one listener.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio_util::sync::CancellationToken;

use crate::config;
use crate::net::limits::Limit;
use crate::net::tls::server::Tls;

/// What holds for every client of a listener.
#[derive(Debug)]
pub struct ListenerTerms {
    /// TLS, if it is spoken.
    pub tls: Option<Tls>,
    /// Whether MQTT comes in WebSocket frames.
    pub websocket: bool,
    allow_anonymous: AtomicBool,
    /// Connections by this listener.
    pub limit: Arc<Limit>,
    /// Cancelled when the listener is removed, or speaks something else from now on.
    pub closed: CancellationToken,
}

impl ListenerTerms {
    /// Of `listener`, whose TLS is `tls`.
    pub fn new(listener: &config::Listener, tls: Option<Tls>) -> ListenerTerms {
        ListenerTerms {
            tls,
            websocket: listener.websocket,
            allow_anonymous: AtomicBool::new(listener.allow_anonymous),
            limit: Limit::new(listener.max_connections),
            closed: CancellationToken::new(),
        }
    }

    /// Others from now on, for who comes and who is there.
    pub fn set(&self, allow_anonymous: bool, max_connections: usize) {
        self.allow_anonymous.store(allow_anonymous, Relaxed);
        self.limit.resize(max_connections);
    }

    /// Whether clients are let in without a user name that was proved.
    pub fn allow_anonymous(&self) -> bool {
        self.allow_anonymous.load(Relaxed)
    }
}
