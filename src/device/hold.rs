//! Handing a device over: closed and left alone until it is asked for again.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Whether the gateway has the device, shared between the device's task and those who ask.
#[derive(Debug)]
pub struct Hold {
    phase: watch::Sender<Phase>,
    /// Cancelled when the gateway stops.
    drain: CancellationToken,
}

#[derive(Debug, Clone)]
enum Phase {
    /// The device is the gateway's; the token ends its links.
    Held(CancellationToken),
    /// It is asked for: links are being closed.
    Releasing(Option<Instant>),
    /// It is closed, until then.
    Released(Option<Instant>),
}

impl Hold {
    /// The gateway has it, until `drain`.
    pub fn new(drain: CancellationToken) -> Hold {
        Hold { phase: watch::Sender::new(Phase::Held(drain.child_token())), drain }
    }

    /// Asks the device's task to close and let go. It takes the device back when `span` is over.
    pub fn release(&self, span: Option<Duration>) {
        // A time that no clock can name is as good as none.
        let until = span.and_then(|span| Instant::now().checked_add(span));
        self.phase.send_modify(|phase| {
            *phase = match phase {
                Phase::Held(links) => {
                    links.cancel();
                    Phase::Releasing(until)
                }
                Phase::Releasing(_) => Phase::Releasing(until),
                Phase::Released(_) => Phase::Released(until),
            }
        });
    }

    /// Releases the device as `other` is released, if it is.
    pub fn follow(&self, other: &Hold) {
        if let Phase::Releasing(until) | Phase::Released(until) = *other.phase.borrow() {
            self.phase.send_replace(Phase::Releasing(until));
        }
    }

    /// Resolves when nothing of the device is open any more, or when it was taken back.
    pub async fn is_out_of_hand(&self) -> bool {
        let mut phase = self.phase.subscribe();
        let settled = phase.wait_for(|phase| !matches!(phase, Phase::Releasing(_))).await;
        settled.is_ok_and(|phase| matches!(*phase, Phase::Released(_)))
    }

    /// Takes the device back. Returns whether it had been released.
    pub fn acquire(&self) -> bool {
        self.phase.send_if_modified(|phase| {
            let released = !matches!(phase, Phase::Held(_));
            if released {
                *phase = Phase::Held(self.drain.child_token());
            }
            released
        })
    }

    /// Whether the device was released, or is about to be.
    pub fn is_released(&self) -> bool {
        !matches!(*self.phase.borrow(), Phase::Held(_))
    }

    /// Cancelled when the device is asked for, or the gateway stops. Of a device that is released it is cancelled already.
    pub fn links(&self) -> CancellationToken {
        match &*self.phase.borrow() {
            Phase::Held(links) => links.clone(),
            Phase::Releasing(_) | Phase::Released(_) => {
                let ended = CancellationToken::new();
                ended.cancel();
                ended
            }
        }
    }

    /// For the device's task, when nothing is open: resolves when the device is the gateway's again.
    pub async fn regained(&self) {
        let mut phase = self.phase.subscribe();
        loop {
            self.phase.send_if_modified(|phase| match *phase {
                Phase::Releasing(until) => {
                    *phase = Phase::Released(until);
                    true
                }
                Phase::Held(_) | Phase::Released(_) => false,
            });
            let until = match *phase.borrow_and_update() {
                Phase::Held(_) => return,
                Phase::Releasing(until) | Phase::Released(until) => until,
            };
            let over = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => {
                    self.acquire();
                }
                // The sender is `self`.
                _ = phase.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_device_is_let_go_and_taken_back() {
        let hold = Hold::new(CancellationToken::new());
        hold.regained().await;
        assert!(!hold.acquire() && !hold.is_released());
        let links = hold.links();
        hold.release(None);
        assert!(links.is_cancelled() && hold.links().is_cancelled() && hold.is_released());
        tokio::select! {
            biased;
            _ = hold.is_out_of_hand() => panic!("the device's task has not let go yet"),
            () = std::future::ready(()) => {}
        }
        let back = async {
            assert!(hold.is_out_of_hand().await);
            assert!(hold.acquire());
        };
        tokio::join!(hold.regained(), back);
        assert!(!hold.links().is_cancelled() && !hold.is_out_of_hand().await);
    }

    #[tokio::test(start_paused = true)]
    async fn it_comes_back_by_itself_when_the_time_is_over() {
        let hold = Hold::new(CancellationToken::new());
        let start = Instant::now();
        hold.release(Some(Duration::from_secs(1)));
        hold.release(Some(Duration::from_secs(60)));
        hold.regained().await;
        assert_eq!((start.elapsed().as_secs(), hold.is_released()), (60, false));
        hold.release(Some(Duration::MAX));
        let follower = Hold::new(CancellationToken::new());
        follower.follow(&hold);
        assert!(hold.is_released() && follower.is_released());
    }
}
