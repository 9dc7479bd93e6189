//! Reads a database row by row into what the broker starts with.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use rusqlite::{Connection, Row};

use super::change::{Change, Phase, Restored, RowId, SessionId, StoredRow, StoredSession, StoredWill, Urgency, WillId};
use super::database::Database;
use super::encode::{self, Clock, Damage, Stage};
use super::error::DatabaseError;
use super::schema::{RETAINED_ROWS_SINCE, WILLS_SINCE};
use crate::broker::message::Message;

type Sessions = BTreeMap<SessionId, StoredSession>;
/// As in [`Restored`].
type Unfit = Vec<(Arc<str>, Change)>;

/// Why a table could not be read.
#[derive(Debug, thiserror::Error)]
enum RestoreError {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error("row {row} of the table {table}: {source}")]
    Damage { table: &'static str, row: i64, source: Damage },
}

/// Everything that `database` holds.
///
/// # Errors
/// A row that is not what was written is damage. One whose session is missing came after its end: it is removed before
/// anything is written.
pub(super) fn restore(database: &mut Database) -> Result<Restored, DatabaseError> {
    let mut orphans = 0;
    if database.version() == 0 {
        return Ok(Restored::default());
    }
    let restored = read(database, &mut orphans);
    let restored = restored.map_err(|error| match error {
        RestoreError::Sqlite(source) => database.error(source),
        error => database.damaged(error.to_string()),
    })?;
    database.set_owned(owned(&restored).into_iter());
    if orphans > 0 {
        tracing::warn!(orphans, "the database holds rows of sessions that have ended; they are removed");
        database.set_orphaned();
    }
    Ok(restored)
}

/// How many rows each session has, those included that go.
fn owned(restored: &Restored) -> BTreeMap<SessionId, u64> {
    let rows = restored.sessions.iter().map(|session| (session.session, session.queue.len() as u64));
    let mut owned: BTreeMap<_, _> = rows.collect();
    for (_, change) in &restored.unfit {
        if let Change::Dequeue { session, .. } = change {
            *owned.entry(*session).or_default() += 1;
        }
    }
    owned
}

fn read(database: &Database, orphans: &mut u64) -> Result<Restored, RestoreError> {
    let (connection, clock) = (database.connection(), Clock::read());
    let mut sessions = Sessions::new();
    read_sessions(connection, &mut sessions)?;
    *orphans += read_subscriptions(connection, &mut sessions)?;
    let mut unfit = Unfit::new();
    *orphans += read_queue(connection, clock, &mut sessions, &mut unfit)?;
    *orphans += read_received(connection, &mut sessions)?;
    let retained = read_retained(connection, clock, database.version(), &mut unfit)?;
    let wills = if database.version() >= WILLS_SINCE { read_wills(connection)? } else { Vec::new() };
    Ok(Restored { retained, sessions: sessions.into_values().collect(), wills, unfit })
}

fn read_retained(
    connection: &Connection,
    clock: Clock,
    version: i32,
    unfit: &mut Unfit,
) -> Result<Vec<Message>, RestoreError> {
    let sql = match version {
        RETAINED_ROWS_SINCE.. => "SELECT row, topic, message FROM retained_messages ORDER BY row",
        _ => "SELECT 0, topic, message FROM retained",
    };
    let mut retained = Vec::new();
    each(connection, sql, |row| {
        let topic = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
        match encode::decode_retained(topic, blob(row, 2)?, clock) {
            Ok(message) => retained.push(message),
            Err(Damage::Unfit(topic)) => {
                unfit.push((topic.clone(), Change::Forget { topic, urgency: Urgency::Lazy }));
            }
            Err(source) => return Err(RestoreError::Damage { table: "retained", row: row.get(0)?, source }),
        }
        Ok(())
    })?;
    Ok(retained)
}

fn read_sessions(connection: &Connection, sessions: &mut Sessions) -> Result<(), RestoreError> {
    each(connection, "SELECT session, record FROM sessions ORDER BY session", |row| {
        let number = row.get(0)?;
        let damage = |source| RestoreError::Damage { table: "sessions", row: number, source };
        let session = session_id(number).ok_or(damage(Damage::Form))?;
        let (client_id, record) = encode::decode_session(session, blob(row, 1)?).map_err(damage)?;
        let (subscriptions, queue, received) = Default::default();
        sessions.insert(session, StoredSession { session, client_id, record, subscriptions, queue, received });
        Ok(())
    })
}

fn read_wills(connection: &Connection) -> Result<Vec<(WillId, StoredWill)>, RestoreError> {
    let mut wills = Vec::new();
    each(connection, "SELECT will, record FROM wills ORDER BY will", |row| {
        let number = row.get(0)?;
        let damage = |source| RestoreError::Damage { table: "wills", row: number, source };
        let will = u64::try_from(number).map(WillId).map_err(|_| damage(Damage::Form))?;
        wills.push((will, encode::decode_will(will, blob(row, 1)?).map_err(damage)?));
        Ok(())
    })?;
    Ok(wills)
}

/// Returns how many rows have no session, as the next two do.
fn read_subscriptions(connection: &Connection, sessions: &mut Sessions) -> Result<u64, RestoreError> {
    let sql = "SELECT session, filter, options FROM subscriptions ORDER BY session, filter";
    let mut orphans = 0;
    each(connection, sql, |row| {
        let number = row.get(0)?;
        let damage = |source| RestoreError::Damage { table: "subscriptions", row: number, source };
        let session = session_id(number).ok_or(damage(Damage::Form))?;
        let filter = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
        let subscription = encode::decode_subscription(session, filter, blob(row, 2)?).map_err(damage)?;
        match sessions.get_mut(&session) {
            Some(session) => session.subscriptions.push(subscription),
            None => orphans += 1,
        }
        Ok(())
    })?;
    Ok(orphans)
}

fn read_queue(
    connection: &Connection,
    clock: Clock,
    sessions: &mut Sessions,
    unfit: &mut Unfit,
) -> Result<u64, RestoreError> {
    let mut orphans = 0;
    each(connection, "SELECT row, stage, session, message FROM queue ORDER BY row", |row| {
        let number = row.get(0)?;
        let damage = |source| RestoreError::Damage { table: "queue", row: number, source };
        let id = u64::try_from(number).ok().and_then(NonZeroU64::new).map(RowId).ok_or(damage(Damage::Form))?;
        let session = session_id(row.get(2)?).ok_or(damage(Damage::Form))?;
        let stage = encode::decode_stage(id, session, row.get(1)?).map_err(damage)?;
        let Some(owner) = sessions.get_mut(&session) else {
            orphans += 1;
            return Ok(());
        };
        let mut message = || match encode::decode_queued(id, session, blob(row, 3)?, clock) {
            Err(Damage::Unfit(topic)) => {
                unfit.push((topic, Change::Dequeue { session, row: id }));
                Ok(None)
            }
            decoded => decoded.map(Some).map_err(damage),
        };
        let phase = match stage {
            Stage::Queued => message()?.map(Phase::Queued),
            Stage::Sent(packet_id) => message()?.map(|message| Phase::Sent(packet_id, message)),
            Stage::Released(packet_id) => Some(Phase::Released(packet_id)),
        };
        owner.queue.extend(phase.map(|phase| StoredRow { row: id, phase }));
        Ok(())
    })?;
    Ok(orphans)
}

fn read_received(connection: &Connection, sessions: &mut Sessions) -> Result<u64, RestoreError> {
    let mut orphans = 0;
    each(connection, "SELECT id, sum FROM received ORDER BY id", |row| {
        let number = row.get(0)?;
        let decoded = encode::decode_received(number, row.get(1)?);
        let (session, packet_id) =
            decoded.map_err(|source| RestoreError::Damage { table: "received", row: number, source })?;
        match sessions.get_mut(&session) {
            Some(session) => session.received.push(packet_id),
            None => orphans += 1,
        }
        Ok(())
    })?;
    Ok(orphans)
}

/// One row at a time: no table is in memory twice.
fn each(
    connection: &Connection,
    sql: &str,
    mut take: impl FnMut(&Row<'_>) -> Result<(), RestoreError>,
) -> Result<(), RestoreError> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        take(row)?;
    }
    Ok(())
}

fn blob<'a>(row: &'a Row<'_>, column: usize) -> Result<&'a [u8], RestoreError> {
    Ok(row.get_ref(column)?.as_blob().map_err(rusqlite::Error::from)?)
}

fn session_id(number: i64) -> Option<SessionId> {
    u64::try_from(number).ok().map(SessionId)
}
