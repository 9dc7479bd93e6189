//! How many connections there may be at once: in all, on one listener, from one address.

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

/// The limits of several listeners together. They can be changed at any time; a connection that is there already stays.
#[derive(Debug)]
pub struct Limits {
    total: Arc<Limit>,
    per_address: Arc<PerAddress>,
}

/// So many connections at once.
#[derive(Debug)]
pub struct Limit {
    permits: Arc<Semaphore>,
    size: Mutex<Size>,
}

#[derive(Debug)]
struct Size {
    permits: usize,
    /// Permits that were taken away while connections had them: they do not come back.
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
    _total: Permit,
    _listener: Permit,
    _address: Option<AddressPermit>,
}

/// One of those that a [`Limit`] has.
#[derive(Debug)]
struct Permit {
    limit: Arc<Limit>,
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

impl Limit {
    /// So many connections.
    pub fn new(permits: usize) -> Arc<Limit> {
        let permits = permits.min(Semaphore::MAX_PERMITS);
        Arc::new(Limit { permits: Arc::new(Semaphore::new(permits)), size: Mutex::new(Size { permits, owed: 0 }) })
    }

    /// So many from now on. Connections that are too many stay, and their permits go with them.
    pub fn resize(&self, permits: usize) {
        let permits = permits.min(Semaphore::MAX_PERMITS);
        let mut size = self.size.lock();
        if let Some(fewer) = size.permits.checked_sub(permits) {
            size.owed += fewer - self.permits.forget_permits(fewer);
        } else {
            let more = permits - size.permits;
            let settled = more.min(size.owed);
            size.owed -= settled;
            self.permits.add_permits(more - settled);
        }
        size.permits = permits;
    }

    async fn acquire(self: &Arc<Limit>) -> Option<Permit> {
        let permit = self.permits.clone().acquire_owned().await.ok()?;
        Some(Permit { limit: self.clone(), permit: Some(permit) })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut size = self.limit.size.lock();
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
        Limits { total: Limit::new(connections), per_address: Arc::new(per_address) }
    }

    /// Changes both.
    pub fn resize(&self, connections: usize, per_address: usize) {
        self.total.resize(connections);
        self.per_address.most.store(per_address, Ordering::Relaxed);
    }

    /// Counts a connection that came to `listener` from `address`, if it comes by IP. Above `max_connections` it waits
    /// for a moment; whoever comes next waits behind it.
    ///
    /// # Errors
    /// A limit is reached.
    pub async fn admit(&self, listener: &Arc<Limit>, address: Option<IpAddr>) -> Result<Permits, Exceeded> {
        let address = address.map(|address| self.per_address.admit(address)).transpose()?;
        let permits = timeout(GRACE, async { Some((self.total.acquire().await?, listener.acquire().await?)) });
        let (total, listener) = permits.await.ok().flatten().ok_or(Exceeded::Connections)?;
        Ok(Permits { _total: total, _listener: listener, _address: address })
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
        let (wide, narrow) = (Limit::new(10), Limit::new(1));
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
        let wide = Limit::new(1000);
        for last in 0..=255 {
            drop(limits.admit(&wide, Some([10, 0, 0, last].into())).await);
        }
        assert!(limits.per_address.counts.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn limits_change_while_connections_are_there() {
        let limits = Limits::new(3, 3);
        let wide = Limit::new(1000);
        let mut here = Vec::new();
        for _ in 0..3 {
            here.push(limits.admit(&wide, None).await.unwrap());
        }
        limits.resize(1, 3);
        here.truncate(1);
        assert_eq!(limits.admit(&wide, None).await.unwrap_err(), Exceeded::Connections, "the permits of two are gone");
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
