//! Other settings for a broker that runs: first all that can fail, then, at one go, what cannot.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::Broker;
use super::auth::Rules;
use super::error::StartError;
use super::listener::{Listener, is_only_v6, tls_of};
use crate::config;
use crate::net::stream::Peer;
use crate::net::tls::server::Tls;

/// What becomes of the listeners; numbers count those of the old and of the new configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerChanges {
    /// New ones.
    pub added: Vec<usize>,
    /// Old ones that are no more.
    pub removed: Vec<usize>,
    /// Old ones and what they are now; the address is the same, all else may differ.
    pub kept: Vec<(usize, usize)>,
}

/// Compares two lists of listeners. One with the same address stays; of several such, one that speaks the same.
pub fn compare(old: &[config::Listener], new: &[config::Listener]) -> ListenerChanges {
    let mut changes = ListenerChanges { removed: (0..old.len()).collect(), ..ListenerChanges::default() };
    let mut left: Vec<usize> = (0..new.len()).collect();
    let same_address =
        |a: usize, b: usize| old[a].address == new[b].address && is_only_v6(&old[a], old) == is_only_v6(&new[b], new);
    let same_scheme = |a: usize, b: usize| same_address(a, b) && old[a].scheme() == new[b].scheme();
    for same in [&same_scheme as &dyn Fn(usize, usize) -> bool, &same_address] {
        left.retain(|&b| match changes.removed.iter().position(|&a| same(a, b)) {
            Some(at) => {
                changes.kept.push((changes.removed.remove(at), b));
                false
            }
            None => true,
        });
    }
    changes.kept.sort_by_key(|&(_, b)| b);
    changes.added = left;
    changes
}

/// Settings that can be taken over without fail. The broker waits for it: apply it, or drop it to go on as before.
#[derive(Debug)]
#[must_use]
pub struct Prepared {
    settings: Arc<config::Broker>,
    rules: Rules,
    changes: ListenerChanges,
    /// Of `changes.added`.
    fresh: Vec<Listener>,
    /// Of `changes.kept`.
    tls: Vec<Option<Tls>>,
    listeners: OwnedMutexGuard<Vec<Listener>>,
}

impl Broker {
    /// Does all that can fail of taking over `settings`: reads the files that they name and binds new listeners. If a
    /// new address overlaps with one that is going to be given up (127.0.0.1 and 0.0.0.0 on one port), that one is
    /// closed first; who connects in between waits for a moment.
    ///
    /// # Errors
    /// As [`Broker::start`]. All is as it was before.
    pub async fn prepare(&self, settings: &config::Broker) -> Result<Prepared, StartError> {
        let rules = super::rules(settings).await?;
        let mut listeners = self.listeners.clone().lock_owned().await;
        let old: Vec<config::Listener> = listeners.iter().map(|listener| listener.settings().clone()).collect();
        let changes = compare(&old, &settings.listeners);
        let tls = changes.kept.iter().map(|&(_, at)| tls_of(&settings.listeners[at])).collect::<Result<_, _>>()?;
        let fresh = match bind(&settings.listeners, &changes.added).await {
            Err(StartError::InUse { .. }) if !changes.removed.is_empty() => {
                self.bind_in_their_place(settings, &changes, &mut listeners).await?
            }
            bound => bound?,
        };
        Ok(Prepared { settings: Arc::new(settings.clone()), rules, changes, fresh, tls, listeners })
    }

    /// Closes the listeners that go, then binds the new ones; if that fails too, opens the old ones again.
    async fn bind_in_their_place(
        &self,
        settings: &config::Broker,
        changes: &ListenerChanges,
        listeners: &mut [Listener],
    ) -> Result<Vec<Listener>, StartError> {
        for &at in &changes.removed {
            listeners[at].close().await;
        }
        let bound = bind(&settings.listeners, &changes.added).await;
        if bound.is_err() {
            for &at in &changes.removed {
                match listeners[at].bind_again().await {
                    Ok(()) => listeners[at].open(&self.connections),
                    Err(error) => {
                        tracing::error!(%error, "a listener was closed for a reload that failed, and is lost")
                    }
                }
            }
        }
        bound
    }

    /// Takes over what is prepared. Clients of listeners that are no more are told to go (0x98), those that would not be
    /// let in any more too (0x87); nobody else notices. What was agreed with a client when it connected stays.
    pub async fn apply(&self, prepared: Prepared) {
        let Prepared { settings, rules, changes, fresh, tls, mut listeners } = prepared;
        self.connections.limits.resize(settings.max_connections, settings.max_connections_per_address);
        self.bus.set_max_retained(settings.max_retained);
        self.local.set(settings.max_payload_size, settings.retained);
        self.connections.auth.replace(rules);
        self.connections.settings.replace(settings.clone());
        let mut old: Vec<Option<Listener>> = std::mem::take(&mut *listeners).into_iter().map(Some).collect();
        let mut new: Vec<(usize, Listener)> = changes.added.into_iter().zip(fresh).collect();
        for (&(from, to), tls) in changes.kept.iter().zip(tls) {
            let Some(mut listener) = old[from].take() else { continue };
            listener.change(&settings.listeners[to], tls);
            new.push((to, listener));
        }
        for mut listener in old.into_iter().flatten() {
            listener.close_connections();
            listener.close().await;
        }
        new.sort_by_key(|&(at, _)| at);
        *listeners = new.into_iter().map(|(_, listener)| listener).collect();
        listeners.iter_mut().for_each(|listener| listener.open(&self.connections));
        *self.addresses.lock() = tcp_addresses(&listeners);
        self.connections.sessions.recheck();
    }

    /// [`Broker::prepare`] and [`Broker::apply`].
    ///
    /// # Errors
    /// As [`Broker::prepare`].
    pub async fn reload(&self, settings: &config::Broker) -> Result<(), StartError> {
        self.apply(self.prepare(settings).await?).await;
        Ok(())
    }
}

/// Binds those of `listeners` that `which` says.
pub(super) async fn bind(listeners: &[config::Listener], which: &[usize]) -> Result<Vec<Listener>, StartError> {
    let mut bound = Vec::new();
    for &at in which {
        bound.push(Listener::bind(&listeners[at], is_only_v6(&listeners[at], listeners)).await?);
    }
    Ok(bound)
}

pub(super) fn tcp_addresses(listeners: &[Listener]) -> Vec<SocketAddr> {
    let tcp = |peer: &Peer| match peer {
        Peer::Ip(address) => Some(*address),
        Peer::Unix(_) => None,
    };
    listeners.iter().flat_map(Listener::addresses).filter_map(tcp).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(address: &str, websocket: bool) -> config::Listener {
        config::Listener {
            address: address.to_owned(),
            tls: None,
            websocket,
            allow_anonymous: true,
            max_connections: 9,
            optional: false,
        }
    }

    fn changes(old: &[(&str, bool)], new: &[(&str, bool)]) -> (Vec<usize>, Vec<usize>, Vec<(usize, usize)>) {
        let listeners = |list: &[(&str, bool)]| list.iter().map(|(at, ws)| listener(at, *ws)).collect::<Vec<_>>();
        let changes = compare(&listeners(old), &listeners(new));
        (changes.added, changes.removed, changes.kept)
    }

    #[test]
    fn a_listener_is_known_by_its_address() {
        let (a, b, web) = (("h:1", false), ("h:2", false), ("h:1", true));
        assert_eq!(changes(&[a, b], &[a, b]), (vec![], vec![], vec![(0, 0), (1, 1)]));
        assert_eq!(changes(&[a, b], &[b]), (vec![], vec![0], vec![(1, 0)]));
        assert_eq!(changes(&[a], &[b, web]), (vec![0], vec![], vec![(0, 1)]));
        let any = |ws| ("h:0", ws);
        assert_eq!(changes(&[any(false), any(true)], &[any(true)]), (vec![], vec![0], vec![(1, 0)]));
        assert_eq!(changes(&[any(true)], &[any(false), any(true)]), (vec![0], vec![], vec![(0, 1)]));
    }

    #[test]
    fn one_that_has_to_leave_ipv4_to_another_is_bound_anew() {
        let (v4, v6) = (("0.0.0.0:1", false), ("[::]:1", false));
        assert_eq!(changes(&[v6], &[v4, v6]), (vec![0, 1], vec![0], vec![]));
        assert_eq!(changes(&[v4, v6], &[v4, v6]), (vec![], vec![], vec![(0, 0), (1, 1)]));
    }
}
