//! One transaction: what waits, row by row.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use rusqlite::{Transaction, params};

use super::change::{RowId, SessionId};
use super::encode::{self, Clock, Stage};
use super::pending::{Pending, RowChange, SessionChanges};
use super::retained_rows::{RetainedRows, RowChanges};

/// Writes into a transaction.
pub(super) struct Batch<'a> {
    transaction: &'a Transaction<'a>,
    clock: Clock,
    pub(super) rows: u64,
    /// By how many the rows of a session have become more.
    pub(super) added: HashMap<SessionId, i64, RandomState>,
    /// Sessions whose rows are gone.
    pub(super) forgotten: Vec<SessionId>,
    /// What becomes of the rows of retained messages.
    pub(super) retained: RowChanges,
}

impl<'a> Batch<'a> {
    pub(super) fn new(transaction: &'a Transaction<'a>) -> Batch<'a> {
        let (added, forgotten, retained) = Default::default();
        Batch { transaction, clock: Clock::read(), rows: 0, added, forgotten, retained }
    }

    pub(super) fn write(
        &mut self,
        batch: &Pending,
        owned: &HashMap<SessionId, u64, RandomState>,
        retained: &RetainedRows,
    ) -> rusqlite::Result<()> {
        if batch.wipe {
            for table in ["sessions", "subscriptions", "queue", "received", "retained_messages", "wills"] {
                self.execute(&format!("DELETE FROM {table}"), [])?;
            }
        } else {
            let ended = batch.sessions.iter().filter(|(_, changes)| changes.wipe).map(|(session, _)| *session);
            self.end(&ended.collect::<Vec<_>>(), owned)?;
        }
        let mut sessions: Vec<_> = batch.sessions.iter().collect();
        sessions.sort_unstable_by_key(|(session, _)| **session);
        for (session, changes) in &sessions {
            self.session(**session, changes)?;
        }
        self.queue(&sessions)?;
        if batch.wipe {
            self.retained(batch, &retained.emptied())?
        } else {
            self.retained(batch, retained)?
        }
        self.wills(batch)
    }

    /// New topics are appended; see [`RetainedRows`].
    fn retained(&mut self, batch: &Pending, rows: &RetainedRows) -> rusqlite::Result<()> {
        let mut retained: Vec<_> = batch.retained.iter().collect();
        retained.sort_unstable_by_key(|(topic, _)| topic.as_bytes());
        for (topic, retain) in retained {
            let topic = &**topic;
            let row = rows.get(topic);
            let Some(message) = &retain.message else {
                let sql = "DELETE FROM retained_messages WHERE row = ?1 AND topic = ?2";
                if row.is_some() && self.execute(sql, params![row, topic])? > 0 {
                    self.retained.remove(topic);
                }
                continue;
            };
            let value = encode::retained(message, self.clock);
            let sql = "UPDATE retained_messages SET message = ?3 WHERE row = ?1 AND topic = ?2";
            if row.is_none() || self.execute(sql, params![row, topic, value])? == 0 {
                let row = self.retained.add(rows, topic);
                self.execute("INSERT INTO retained_messages VALUES(?1, ?2, ?3)", params![row, topic, value])?;
            }
        }
        Ok(())
    }

    fn wills(&mut self, batch: &Pending) -> rusqlite::Result<()> {
        let mut wills: Vec<_> = batch.wills.iter().collect();
        wills.sort_unstable_by_key(|(will, _)| **will);
        for (will, record) in wills {
            let id = will.get() as i64;
            match record {
                Some(record) => {
                    let value = encode::will(*will, record);
                    self.execute("INSERT OR REPLACE INTO wills VALUES(?1, ?2)", params![id, value])?;
                }
                None => drop(self.execute("DELETE FROM wills WHERE will = ?1", [id])?),
            }
        }
        Ok(())
    }

    /// Removes all that belongs to these sessions. The queue has no index by session: it is walked through once, if
    /// any of them has rows in it.
    fn end(&mut self, ended: &[SessionId], owned: &HashMap<SessionId, u64, RandomState>) -> rusqlite::Result<()> {
        for session in ended {
            let id = session.get() as i64;
            self.execute("DELETE FROM sessions WHERE session = ?1", [id])?;
            self.execute("DELETE FROM subscriptions WHERE session = ?1", [id])?;
            let (first, _) = encode::received(*session, 0);
            let (last, _) = encode::received(*session, u16::MAX);
            self.execute("DELETE FROM received WHERE id BETWEEN ?1 AND ?2", [first, last])?;
        }
        let owners: Vec<SessionId> = ended.iter().copied().filter(|session| owned.contains_key(session)).collect();
        if owners.is_empty() {
            return Ok(());
        }
        let rows = {
            let mut statement = self.transaction.prepare_cached("SELECT row, session FROM queue")?;
            let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
            let ours = |session: i64| owners.iter().any(|owner| owner.get() as i64 == session);
            rows.filter(|row| row.as_ref().map_or(true, |&(_, session)| ours(session)))
                .collect::<rusqlite::Result<Vec<_>>>()?
        };
        for (row, _) in rows {
            self.execute("DELETE FROM queue WHERE row = ?1", [row])?;
        }
        self.forgotten = owners;
        Ok(())
    }

    fn session(&mut self, session: SessionId, changes: &SessionChanges) -> rusqlite::Result<()> {
        let id = session.get() as i64;
        if let Some((client_id, record)) = &changes.record {
            let value = encode::session(session, client_id, record);
            self.execute("INSERT OR REPLACE INTO sessions VALUES(?1, ?2)", params![id, value])?;
        }
        for (filter, subscription) in &changes.subscriptions {
            match subscription {
                Some(subscription) => {
                    let value = encode::subscription(session, subscription);
                    let sql = "INSERT OR REPLACE INTO subscriptions VALUES(?1, ?2, ?3)";
                    self.execute(sql, params![id, &**filter, value])?;
                }
                None => {
                    let sql = "DELETE FROM subscriptions WHERE session = ?1 AND filter = ?2";
                    self.execute(sql, params![id, &**filter])?;
                }
            }
        }
        for (&packet_id, &taken) in &changes.received {
            let (key, sum) = encode::received(session, packet_id);
            match taken {
                true => self.execute("INSERT OR REPLACE INTO received VALUES(?1, ?2)", [key, sum])?,
                false => self.execute("DELETE FROM received WHERE id = ?1", [key])?,
            };
        }
        Ok(())
    }

    /// The rows of all sessions in order, so that new ones are appended.
    fn queue(&mut self, sessions: &[(&SessionId, &SessionChanges)]) -> rusqlite::Result<()> {
        let mut rows: Vec<(RowId, SessionId, &RowChange)> = Vec::new();
        for (session, changes) in sessions {
            rows.extend(changes.rows.iter().map(|(row, change)| (*row, **session, &change.change)));
        }
        rows.sort_unstable_by_key(|(row, ..)| *row);
        for (row, session, change) in rows {
            let added = self.row(row, session, change)?;
            if added != 0 {
                *self.added.entry(session).or_default() += added;
            }
        }
        Ok(())
    }

    /// Returns by how many the session's rows have become more.
    fn row(&mut self, row: RowId, session: SessionId, change: &RowChange) -> rusqlite::Result<i64> {
        let id = row.get() as i64;
        match change {
            RowChange::Insert(new) => {
                let stage = match (&new.outgoing, new.packet_id) {
                    (Some(_), None) => Stage::Queued,
                    (Some(_), Some(packet_id)) => Stage::Sent(packet_id),
                    (None, packet_id) => Stage::Released(packet_id.unwrap_or(0)),
                };
                let message = new.outgoing.as_ref().map(|outgoing| encode::queued(row, session, outgoing, self.clock));
                let stage = encode::stage(row, session, stage);
                let values = params![id, stage, session.get() as i64, message];
                self.execute("INSERT OR REPLACE INTO queue VALUES(?1, ?2, ?3, ?4)", values)?;
                return Ok(1);
            }
            RowChange::Sent(packet_id) => {
                let stage = encode::stage(row, session, Stage::Sent(*packet_id));
                self.execute("UPDATE queue SET stage = ?2 WHERE row = ?1", [id, stage])?;
            }
            RowChange::Released(packet_id) => {
                let stage = encode::stage(row, session, Stage::Released(*packet_id));
                self.execute("UPDATE queue SET stage = ?2, message = NULL WHERE row = ?1", [id, stage])?;
            }
            RowChange::Delete => return Ok(-(self.execute("DELETE FROM queue WHERE row = ?1", [id])? as i64)),
        }
        Ok(0)
    }

    fn execute(&mut self, sql: &str, values: impl rusqlite::Params) -> rusqlite::Result<usize> {
        let rows = self.transaction.prepare_cached(sql)?.execute(values)?;
        self.rows += rows as u64;
        Ok(rows)
    }
}
