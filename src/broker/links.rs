//! The keeper of the router's links: a thread for the two things that block, opening a link and emptying a used one.
//!
//! The router keeps an entry for every link name it ever met and forgets a link only when told, so links are kept and
//! used again, and names too. A used link must come to rest first: nothing subscribed, nothing on its way. Otherwise
//! its next user would get the last one's messages, or, if it is closed, the router would confuse it with the link that
//! takes its number.

use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::bus::BusError;
use super::lane::LaneSet;
use super::router::{Arrival, Link, Router, Stopped};

/// Idle links that are kept open; each costs some ten kilobytes.
const IDLE_LINKS: usize = 32;

/// Idle links that there are always, unless all are in use.
const SPARE_LINKS: usize = 2;

/// To the keeper; all clones reach the same. When the last is gone the thread ends.
#[derive(Clone, Debug)]
pub(super) struct Links {
    /// Links at rest, at hand without the thread: so a subscription can begin in the moment it is asked for.
    idle: Arc<Mutex<Vec<Lease>>>,
    // Not bounded, because a dropped reader cannot wait: each of the at most `max_links` links has two requests in here.
    requests: flume::Sender<Request>,
}

/// A link on loan.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) link: Link,
    name: usize,
}

/// What the last user of a link left.
#[derive(Debug)]
pub(super) struct Remains {
    /// Lanes that are subscribed.
    pub(super) lanes: LaneSet,
    /// Answers that the router owes.
    pub(super) acks: usize,
}

#[derive(Debug)]
enum Request {
    Lease(oneshot::Sender<Result<Lease, BusError>>),
    /// See to it that there are spare links.
    Spare,
    Return(Lease, Remains),
}

/// A lease that was asked for. If it is dropped when the answer is there but was not taken, the link goes back.
struct Asked<'a> {
    answer: oneshot::Receiver<Result<Lease, BusError>>,
    links: &'a Links,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.answer.close();
        if let Ok(Ok(lease)) = self.answer.try_recv() {
            self.links.give_back(lease, Remains { lanes: LaneSet::EMPTY, acks: 0 });
        }
    }
}

struct Keeper {
    router: Router,
    max_links: usize,
    open: usize,
    idle: Arc<Mutex<Vec<Lease>>>,
    /// Names of closed links.
    free_names: Vec<usize>,
}

impl Links {
    /// Starts the keeper. At most `max_links` are open at a time.
    pub(super) fn start(router: Router, max_links: usize) -> std::io::Result<Links> {
        let (requests, received) = flume::unbounded::<Request>();
        let idle = Arc::new(Mutex::default());
        let mut keeper = Keeper { router, max_links, open: 0, idle: idle.clone(), free_names: Vec::new() };
        thread::Builder::new().name("links".to_owned()).spawn(move || {
            keeper.keep_spare();
            for request in received {
                keeper.handle(request);
            }
        })?;
        Ok(Links { idle, requests })
    }

    /// A link at rest. Cancel safe.
    pub(super) async fn lease(&self) -> Result<Lease, BusError> {
        let spare = self.idle.lock().pop();
        if let Some(lease) = spare {
            // If the keeper is gone, the next lease says so.
            let _ = self.requests.send(Request::Spare);
            return Ok(lease);
        }
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Lease(reply)).map_err(|_| BusError::Stopped)?;
        let mut asked = Asked { answer, links: self };
        (&mut asked.answer).await.map_err(|_| BusError::Stopped)?
    }

    /// Gives a link back.
    pub(super) fn give_back(&self, lease: Lease, remains: Remains) {
        // Fails only when the keeper has panicked; then the link is dropped and counts as open for ever.
        let _ = self.requests.send(Request::Return(lease, remains));
    }
}

impl Keeper {
    fn handle(&mut self, request: Request) {
        match request {
            Request::Lease(reply) => {
                // The one who asked may be gone.
                if let Err(Ok(lease)) = reply.send(self.lease()) {
                    self.keep(lease);
                }
            }
            Request::Spare => self.keep_spare(),
            Request::Return(mut lease, remains) => match bring_to_rest(&mut lease.link, remains) {
                Ok(()) => self.keep(lease),
                Err(Stopped) => self.open -= 1,
            },
        }
    }

    fn lease(&mut self) -> Result<Lease, BusError> {
        let idle = self.idle.lock().pop();
        match idle {
            Some(lease) => Ok(lease),
            None => self.open_one(),
        }
    }

    /// Opens links until there are some to spare, or as many as there may be.
    fn keep_spare(&mut self) {
        while self.idle.lock().len() < SPARE_LINKS {
            let Ok(lease) = self.open_one() else { return };
            self.idle.lock().push(lease);
        }
    }

    fn open_one(&mut self) -> Result<Lease, BusError> {
        if self.open == self.max_links {
            return Err(BusError::TooManyReaders(self.max_links));
        }
        let name = self.free_names.pop().unwrap_or(self.open);
        let link = self.router.connect(&format!("reader-{name}")).map_err(|Stopped| BusError::Stopped)?;
        self.open += 1;
        Ok(Lease { link, name })
    }

    fn keep(&mut self, lease: Lease) {
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_LINKS {
            idle.push(lease);
            return;
        }
        drop(idle);
        if lease.link.disconnect().is_ok() {
            self.open -= 1;
            self.free_names.push(lease.name);
        }
    }
}

fn bring_to_rest(link: &mut Link, remains: Remains) -> Result<(), Stopped> {
    let mut acks = remains.acks + remains.lanes.len();
    if !remains.lanes.is_empty() {
        link.unsubscribe(remains.lanes)?;
    }
    while acks > 0 {
        if link.receiver.next_blocking()? == Arrival::Ack {
            acks -= 1;
        }
    }
    Ok(())
}
