//! How many connections there may be: in all, on one listener, from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How long a connection above the limit waits for another to end: a client that connects anew at once comes before the
/// end of its old connection has been seen.
const GRACE: Duration = Duration::from_millis(100);

/// The limits of the broker. They can be changed at any time; a connection that is there already stays.
#[derive(Debug)]
pub struct Limits {
    broker: Arc<Room>,
    per_address: Arc<PerAddress>,
}

/// Room for so many connections at once.
#[derive(Debug)]
pub struct Room {
    permits: Arc<Semaphore>,
    state: Mutex<Size>,
}

#[derive(Debug)]
struct Size {
    places: usize,
    /// Places that were taken away while connections had them: they do not come back.
    owed: usize,
}

#[derive(Debug)]
struct PerAddress {
    most: AtomicUsize,
    /// Only addresses with connections.
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// What a connection counts against until its socket is closed.
#[derive(Debug)]
pub struct Permits {
    _broker: Place,
    _listener: Place,
    _address: Option<AddressPermit>,
}

/// One place of a [`Room`].
#[derive(Debug)]
struct Place {
    room: Arc<Room>,
    permit: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct AddressPermit {
    limit: Arc<PerAddress>,
    address: IpAddr,
}

/// The setting that stands in the way of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exceeded {
    /// In all, or of the listener.
    #[error("max_connections are there already")]
    Connections,
    /// Of one address.
    #[error("max_connections_per_address from there are there already")]
    PerAddress,
}

impl Room {
    /// For so many.
    pub fn new(places: usize) -> Arc<Room> {
        let places = places.min(Semaphore::MAX_PERMITS);
        Arc::new(Room { permits: Arc::new(Semaphore::new(places)), state: Mutex::new(Size { places, owed: 0 }) })
    }

    /// For so many from now on. Those that are too many stay, and nobody takes their places.
    pub fn resize(&self, places: usize) {
        let places = places.min(Semaphore::MAX_PERMITS);
        let mut size = self.state.lock();
        if let Some(fewer) = size.places.checked_sub(places) {
            size.owed += fewer - self.permits.forget_permits(fewer);
        } else {
            let more = places - size.places;
            let settled = more.min(size.owed);
            size.owed -= settled;
            self.permits.add_permits(more - settled);
        }
        size.places = places;
    }

    async fn enter(self: &Arc<Room>) -> Option<Place> {
        let permit = self.permits.clone().acquire_owned().await.ok()?;
        Some(Place { room: self.clone(), permit: Some(permit) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut size = self.room.state.lock();
        if size.owed > 0 {
            size.owed -= 1;
            self.permit.take().into_iter().for_each(OwnedSemaphorePermit::forget);
        }
    }
}

impl Limits {
    /// So many connections in all, and of them from one address.
    pub fn new(connections: usize, per_address: usize) -> Limits {
        let per_address = PerAddress { most: AtomicUsize::new(per_address), counts: Mutex::default() };
        Limits { broker: Room::new(connections), per_address: Arc::new(per_address) }
    }

    /// Changes both.
    pub fn resize(&self, connections: usize, per_address: usize) {
        self.broker.resize(connections);
        self.per_address.most.store(per_address, Ordering::Relaxed);
    }

    /// Counts a connection that came to `listener` from `address`, if it comes by IP. Above `max_connections` it waits
    /// for a moment; whoever comes next waits behind it.
    pub async fn admit(&self, listener: &Arc<Room>, address: Option<IpAddr>) -> Result<Permits, Exceeded> {
        let address = address.map(|address| self.per_address.admit(address)).transpose()?;
        let permits = timeout(GRACE, async { Some((self.broker.enter().await?, listener.enter().await?)) });
        let (broker, listener) = permits.await.ok().flatten().ok_or(Exceeded::Connections)?;
        Ok(Permits { _broker: broker, _listener: listener, _address: address })
    }
}

impl PerAddress {
    fn admit(self: &Arc<PerAddress>, address: IpAddr) -> Result<AddressPermit, Exceeded> {
        let mut counts = self.counts.lock();
        let count = counts.entry(address).or_insert(0);
        if *count >= self.most.load(Ordering::Relaxed) {
            return Err(Exceeded::PerAddress);
        }
        *count += 1;
        Ok(AddressPermit { limit: self.clone(), address })
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let mut counts = self.limit.counts.lock();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_limit_holds_and_frees_what_ends() {
        let limits = Limits::new(4, 2);
        let (wide, narrow) = (Room::new(10), Room::new(1));
        let [a, b] = ["10.0.0.1", "10.0.0.2"].map(|ip| Some(ip.parse().unwrap()));
        let first = limits.admit(&wide, a).await.unwrap();
        let _second = limits.admit(&wide, a).await.unwrap();
        assert_eq!(limits.admit(&wide, a).await.unwrap_err(), Exceeded::PerAddress);
        let _other = limits.admit(&narrow, b).await.unwrap();
        assert_eq!(limits.admit(&narrow, b).await.unwrap_err(), Exceeded::Connections);
        drop(first);
        let _again = limits.admit(&wide, a).await.unwrap();
        let _unix = limits.admit(&wide, None).await.unwrap();
        assert_eq!(limits.admit(&wide, None).await.unwrap_err(), Exceeded::Connections);
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_without_connections_are_forgotten() {
        let limits = Limits::new(1000, 2);
        let wide = Room::new(1000);
        for last in 0..=255 {
            drop(limits.admit(&wide, Some([10, 0, 0, last].into())).await);
        }
        assert!(limits.per_address.counts.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn limits_change_while_connections_are_there() {
        let limits = Limits::new(3, 3);
        let wide = Room::new(1000);
        let mut here = Vec::new();
        for _ in 0..3 {
            here.push(limits.admit(&wide, None).await.unwrap());
        }
        limits.resize(1, 3);
        here.truncate(1);
        assert_eq!(limits.admit(&wide, None).await.unwrap_err(), Exceeded::Connections, "the places of two are gone");
        limits.resize(2, 1);
        here.push(limits.admit(&wide, None).await.unwrap());
        assert_eq!(limits.admit(&wide, None).await.unwrap_err(), Exceeded::Connections);
        here.clear();
        let address = Some("10.0.0.1".parse().unwrap());
        let _one = limits.admit(&wide, address).await.unwrap();
        assert_eq!(limits.admit(&wide, address).await.unwrap_err(), Exceeded::PerAddress);
        limits.resize(2, 2);
        let _two = limits.admit(&wide, address).await.unwrap();
        assert_eq!(limits.admit(&wide, None).await.unwrap_err(), Exceeded::Connections);
    }
}
