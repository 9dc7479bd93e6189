//! Which row of the table each retained message has.
//!
//! New topics are appended at the end of the table, wherever they stand among topics: a thousand of them are a few dozen
//! pages and not a thousand, which each would go to the log and, later, to the database. An index by topic on disk would
//! be such a table again. So it is in memory, and holds only hashes: the row itself says whether it is that topic's.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use rusqlite::Connection;

/// The rows of all topics.
#[derive(Debug, Default)]
pub(super) struct RetainedRows {
    hasher: RandomState,
    /// By the hash of the topic.
    rows: HashMap<u64, i64, RandomState>,
    /// Of topics whose hash was taken by another: practically none.
    collided: HashMap<Arc<str>, i64, RandomState>,
    /// The highest that was ever given.
    last: i64,
}

/// What a transaction changes; nothing, until it is committed.
#[derive(Debug, Default)]
pub(super) struct RowChanges {
    added: HashMap<u64, i64, RandomState>,
    collided: HashMap<Arc<str>, i64, RandomState>,
    removed: Vec<Arc<str>>,
    given: i64,
}

impl RetainedRows {
    /// As they are in the table.
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<RetainedRows> {
        let (mut all, mut changes) = (RetainedRows::default(), RowChanges::default());
        let mut statement = connection.prepare("SELECT row, topic FROM retained_messages ORDER BY row")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let topic = row.get_ref(1)?.as_str()?;
            all.last = row.get(0)?;
            changes.note(&all, topic, all.last);
        }
        all.apply(changes);
        Ok(all)
    }

    /// The row that is the topic's, or another's with the same hash; `None`: the topic has none.
    pub(super) fn get(&self, topic: &str) -> Option<i64> {
        self.collided.get(topic).or_else(|| self.rows.get(&self.hash(topic))).copied()
    }

    /// The transaction is on disk.
    pub(super) fn apply(&mut self, changes: RowChanges) {
        for topic in changes.removed {
            if self.collided.remove(&topic).is_none() {
                self.rows.remove(&self.hash(&topic));
            }
        }
        if self.rows.len() * 4 < self.rows.capacity() {
            self.rows.shrink_to_fit();
        }
        self.rows.extend(changes.added);
        self.collided.extend(changes.collided);
        self.last += changes.given;
    }

    /// As they are when the table is emptied.
    pub(super) fn emptied(&self) -> RetainedRows {
        RetainedRows { hasher: self.hasher, last: self.last, ..RetainedRows::default() }
    }

    fn hash(&self, topic: &str) -> u64 {
        self.hasher.hash_one(topic)
    }
}

impl RowChanges {
    /// A row for a topic that has none.
    pub(super) fn add(&mut self, rows: &RetainedRows, topic: &str) -> i64 {
        self.given += 1;
        let row = rows.last + self.given;
        self.note(rows, topic, row);
        row
    }

    /// The topic has none any more.
    pub(super) fn remove(&mut self, topic: &str) {
        self.removed.push(topic.into());
    }

    fn note(&mut self, rows: &RetainedRows, topic: &str, row: i64) {
        let hash = rows.hash(topic);
        if rows.rows.contains_key(&hash) || self.added.contains_key(&hash) {
            self.collided.insert(topic.into(), row);
        } else {
            self.added.insert(hash, row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(rows: &mut RetainedRows, topic: &str) -> i64 {
        let mut changes = RowChanges::default();
        let row = changes.add(rows, topic);
        rows.apply(changes);
        row
    }

    fn remove(rows: &mut RetainedRows, topic: &str) {
        let mut changes = RowChanges::default();
        changes.remove(topic);
        rows.apply(changes);
    }

    #[test]
    fn a_topic_keeps_its_row_and_a_row_is_given_once() {
        let mut rows = RetainedRows::default();
        assert_eq!((add(&mut rows, "a"), add(&mut rows, "b"), rows.get("c")), (1, 2, None));
        remove(&mut rows, "b");
        assert_eq!((rows.get("a"), rows.get("b"), add(&mut rows, "b")), (Some(1), None, 3));
        let mut rows = rows.emptied();
        assert_eq!((rows.get("a"), add(&mut rows, "a")), (None, 4));
    }

    #[test]
    fn nothing_changes_before_the_transaction_is_on_disk() {
        let mut rows = RetainedRows::default();
        assert_eq!(add(&mut rows, "a"), 1);
        let mut changes = RowChanges::default();
        changes.remove("a");
        assert_eq!((changes.add(&rows, "b"), changes.add(&rows, "c")), (2, 3));
        assert_eq!((rows.get("a"), rows.get("b")), (Some(1), None));
        rows.apply(changes);
        assert_eq!((rows.get("a"), rows.get("b"), rows.get("c")), (None, Some(2), Some(3)));
    }

    /// As if "b" had the hash of "a".
    #[test]
    fn topics_of_one_hash_have_rows_of_their_own() {
        let mut rows = RetainedRows::default();
        let hash = rows.hash("b");
        rows.rows.insert(hash, 1);
        rows.last = 1;
        assert_eq!(rows.get("b"), Some(1), "to be looked at");
        assert_eq!((add(&mut rows, "b"), rows.get("b"), rows.rows[&hash]), (2, Some(2), 1));
        remove(&mut rows, "b");
        assert_eq!((rows.get("b"), rows.rows.len()), (Some(1), 1), "that of the other");
    }
}
