//! What the daemon does on signals.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals the gateway listens to.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
    /// SIGUSR1.
    LogStats,
}

impl Signals {
    /// Takes the signals over from their default actions.
    pub fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
        })
    }

    /// Resolves when SIGTERM or SIGINT asks for the end; what else is asked for waits for [`Signals::next`]. Cancel safe.
    pub async fn stop(&mut self) {
        stop(&mut self.terminate, &mut self.interrupt).await;
    }

    /// The next request. Cancel safe.
    pub async fn next(&mut self) -> Request {
        tokio::select! {
            () = stop(&mut self.terminate, &mut self.interrupt) => Request::Stop,
            _ = self.hangup.recv() => Request::Reload,
            _ = self.user1.recv() => Request::LogStats,
        }
    }
}

async fn stop(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
