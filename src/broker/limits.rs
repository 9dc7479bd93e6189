//! How many connections there may be: in all, on one listener, from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How long a connection above the limit waits for another to end: a client that connects anew at once comes before the
/// end of its old connection has been seen.
const GRACE: Duration = Duration::from_millis(100);

/// The limits of the broker.
#[derive(Debug)]
pub struct Limits {
    broker: Arc<Semaphore>,
    /// `None`: one address may have all of them.
    per_address: Option<Arc<PerAddress>>,
}

#[derive(Debug)]
struct PerAddress {
    most: usize,
    /// Only addresses with connections.
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// What a connection counts against until its socket is closed.
#[derive(Debug)]
pub struct Permits {
    _broker: OwnedSemaphorePermit,
    _listener: OwnedSemaphorePermit,
    _address: Option<AddressPermit>,
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

/// Room for so many connections on one listener.
pub fn semaphore(connections: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS)))
}

impl Limits {
    /// So many connections in all, and of them from one address.
    pub fn new(connections: usize, per_address: usize) -> Limits {
        let per_address =
            (per_address < connections).then(|| Arc::new(PerAddress { most: per_address, counts: Mutex::default() }));
        Limits { broker: semaphore(connections), per_address }
    }

    /// Counts a connection that came to `listener` from `address`, if it comes by IP. Above `max_connections` it waits
    /// for a moment; whoever comes next waits behind it.
    pub async fn admit(&self, listener: &Arc<Semaphore>, address: Option<IpAddr>) -> Result<Permits, Exceeded> {
        let address = match (&self.per_address, address) {
            (Some(limit), Some(address)) => Some(limit.admit(address)?),
            _ => None,
        };
        let permits = timeout(GRACE, async {
            let broker = self.broker.clone().acquire_owned().await.ok()?;
            Some((broker, listener.clone().acquire_owned().await.ok()?))
        });
        let (broker, listener) = permits.await.ok().flatten().ok_or(Exceeded::Connections)?;
        Ok(Permits { _broker: broker, _listener: listener, _address: address })
    }
}

impl PerAddress {
    fn admit(self: &Arc<PerAddress>, address: IpAddr) -> Result<AddressPermit, Exceeded> {
        let mut counts = self.counts.lock();
        let count = counts.entry(address).or_insert(0);
        if *count >= self.most {
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
        let (wide, narrow) = (semaphore(10), semaphore(1));
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
        let wide = semaphore(1000);
        for last in 0..=255 {
            drop(limits.admit(&wide, Some([10, 0, 0, last].into())).await);
        }
        assert!(limits.per_address.unwrap().counts.lock().is_empty());
    }
}
