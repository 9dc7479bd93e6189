//! Sessions that were on disk when the gateway started.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::inflight::Unfinished;
use super::journal::Journal;
use super::{Context, Session};
use crate::broker::auth::Login;
use crate::broker::session_expiry::SessionExpiry;
use crate::broker::share::{Group, Outgoing, ShareFilter, ShareOptions};
use crate::broker::store::{Phase, RowId, SessionRecord, StoredMessage, StoredSession, StoredSubscription};
use crate::broker::subscriptions::Subscription;
use crate::log_limit::excerpt;
use crate::topic::TopicFilter;

/// What is left of a session's time, at most all of it, whatever the wall clock does; `None`: it does not end.
fn time_left(record: &SessionRecord, now: SystemTime) -> Option<Duration> {
    let SessionExpiry::After(interval) = record.expiry else { return None };
    let passed = record.ended_at.and_then(|ended| now.duration_since(ended).ok()).unwrap_or_default();
    Some(interval.saturating_sub(passed))
}

/// Whether a session is over.
pub fn has_expired(record: &SessionRecord, now: SystemTime) -> bool {
    time_left(record, now) == Some(Duration::ZERO)
}

impl Session {
    /// The session as it was when the gateway ended, which reads the bus when this returns, and when it ends unless its
    /// client comes.
    pub fn restore(context: Arc<Context>, stored: StoredSession) -> (Session, Option<Instant>) {
        let StoredSession { session: id, client_id, mut record, subscriptions, queue, received } = stored;
        let (now, wall) = (Instant::now(), SystemTime::now());
        let expires = time_left(&record, wall).map(|left| now + left);
        let was_connected = record.ended_at.is_none();
        record.ended_at.get_or_insert(wall);
        let mut session = Session::new(context, client_id);
        session.login = Login::of(record.username.clone());
        let journal = Journal::new(&session, id, record);
        if was_connected {
            journal.open(&session.client_id);
        }
        session.journal = Some(journal);
        session.shares.set_session(Some(id));
        session.subscribe_again(subscriptions);
        session.received.extend(received);
        let mut unfinished = Vec::new();
        for row in queue {
            match row.phase {
                Phase::Queued(message) => session.put_back(row.row, message, now),
                Phase::Sent(id, message) => {
                    let (qos, group) = (message.qos, session.group(&message));
                    let outgoing = Outgoing { group, ..outgoing(row.row, message) };
                    unfinished.push(Unfinished { id, row: row.row, message: Some((outgoing, qos)) });
                }
                Phase::Released(id) => unfinished.push(Unfinished { id, row: row.row, message: None }),
            }
        }
        session.inflight.restore(unfinished);
        // The rules may have changed meanwhile. A kept session stays, whoever it belongs to.
        let _ = session.recheck();
        (session, expires)
    }

    fn subscribe_again(&mut self, subscriptions: Vec<StoredSubscription>) {
        let client_id = self.client_id.clone();
        let failed = |filter: &str, error: &dyn std::fmt::Display| {
            tracing::error!(client_id = excerpt(&client_id), filter, %error, "cannot subscribe anew what was subscribed before the start");
        };
        for StoredSubscription { filter, options, id } in subscriptions {
            match ShareFilter::parse(&filter) {
                Some(Ok(share)) => {
                    let options =
                        ShareOptions { qos: options.qos, retain_as_published: options.retain_as_published, id };
                    if let Err(error) = self.shares.join(share, options) {
                        failed(&filter, &error);
                    }
                }
                Some(Err(error)) => failed(&filter, &error),
                None => match TopicFilter::new(&*filter) {
                    Ok(parsed) => {
                        self.reader.subscribe(&parsed);
                        self.subscriptions.insert(parsed, Subscription { options, id, retained_floor: 0 });
                    }
                    Err(error) => failed(&filter, &error),
                },
            }
        }
    }

    /// The group by which `message` came.
    fn group(&self, message: &StoredMessage) -> Option<Arc<Group>> {
        let share = message.share.as_deref().and_then(ShareFilter::parse)?.ok()?;
        self.shares.group(&share).cloned()
    }

    /// A message that waited. If its group is not there any more it is this client's own.
    fn put_back(&mut self, row: RowId, message: StoredMessage, now: Instant) {
        let group = self.group(&message);
        let outgoing = outgoing(row, message);
        match group {
            Some(group) => self.shares.restore(&group, outgoing),
            None => self.enqueue(outgoing, now),
        }
    }
}

fn outgoing(row: RowId, stored: StoredMessage) -> Outgoing {
    let StoredMessage { message, qos, retain, ids, share: _ } = stored;
    Outgoing { message, qos, retain, ids, group: None, row: Some(row), is_persisted: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_lives_on_for_the_rest_of_its_time_at_most() {
        let ended = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let hour = SessionExpiry::After(Duration::from_secs(3600));
        let record = |expiry, ended_at| SessionRecord { expiry, username: None, ended_at };
        let left = |record: &SessionRecord, seconds: u64| {
            time_left(record, SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
        };
        let kept = record(hour, Some(ended));
        assert_eq!(left(&kept, 1600), Some(Duration::from_secs(3000)));
        assert_eq!(left(&kept, 10), Some(Duration::from_secs(3600)), "the clock is not set yet");
        assert_eq!(left(&kept, 9000), Some(Duration::ZERO));
        assert!(has_expired(&kept, ended + Duration::from_secs(3600)));
        assert_eq!(left(&record(hour, None), 9000), Some(Duration::from_secs(3600)), "it was connected");
        assert_eq!(left(&record(SessionExpiry::Never, Some(ended)), 9000), None);
    }
}
