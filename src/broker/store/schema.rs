//! The tables, and how those of an older version become those of this one.

use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::error::DatabaseError;

/// "gate": the file is ours.
const APPLICATION: i32 = 0x6761_7465;

/// What makes each version out of the one before; the first, out of nothing. Never changed once it was released, for
/// the tables in a file are recognized by it. Each adds tables, and may fill them; [`restore`](super::restore) reads what
/// all versions have written: so a store is read before it is brought to this version, which a full disk may put off.
const STEPS: &[&[&str]] = &[
    &[
        "CREATE TABLE sessions(session INTEGER PRIMARY KEY, record BLOB NOT NULL) STRICT",
        "CREATE TABLE subscriptions(session INTEGER NOT NULL, filter TEXT NOT NULL, options BLOB NOT NULL, \
     PRIMARY KEY(session, filter)) STRICT, WITHOUT ROWID",
        "CREATE TABLE queue(row INTEGER PRIMARY KEY, stage INTEGER NOT NULL, session INTEGER NOT NULL, message BLOB) STRICT",
        "CREATE TABLE received(id INTEGER PRIMARY KEY, sum INTEGER NOT NULL) STRICT",
        "CREATE TABLE retained(topic TEXT NOT NULL PRIMARY KEY, message BLOB NOT NULL) STRICT, WITHOUT ROWID",
    ],
    &["CREATE TABLE wills(will INTEGER PRIMARY KEY, record BLOB NOT NULL) STRICT"],
    // The table `retained` stays, and stays empty.
    &[
        "CREATE TABLE retained_messages(row INTEGER PRIMARY KEY, topic TEXT NOT NULL, message BLOB NOT NULL) STRICT",
        "INSERT INTO retained_messages(topic, message) SELECT topic, message FROM retained ORDER BY topic",
        "DELETE FROM retained",
    ],
];

/// Of the tables that all steps make.
pub(super) const VERSION: i32 = STEPS.len() as i32;

/// The version that has wills first.
pub(super) const WILLS_SINCE: i32 = 2;

/// The version that has retained messages in rows, in the order they came.
pub(super) const RETAINED_ROWS_SINCE: i32 = 3;

/// What a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Schema {
    /// 0: nothing.
    version: i32,
    /// Whether its header says so.
    is_labelled: bool,
}

impl Schema {
    /// Looks at the file behind `connection`. What it has counts for more than what its header says: only a program
    /// that is newer may have changed the meaning of tables that look like ours. What has none of our names is somebody
    /// else's and counts for nothing: a table of `ANALYZE`, an index, a view.
    ///
    /// # Errors
    /// A newer version, another program's database, or damage.
    pub(super) fn find(connection: &Connection, path: &Path) -> Result<Schema, DatabaseError> {
        let error = |source| DatabaseError::new(path, source);
        let pragma = |name| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i32>(0));
        let application = pragma("application_id").map_err(error)?;
        let label = pragma("user_version").map_err(error)?;
        let Objects { ours, others } = objects(connection).map_err(error)?;
        if application == APPLICATION && label > VERSION {
            return Err(DatabaseError::Newer { path: path.to_owned(), version: label });
        }
        let is_version = |version: &i32| {
            let tables: Vec<&str> = tables_of(*version).collect();
            tables.len() == ours.len() && tables.iter().all(|statement| ours.contains(*statement))
        };
        match (0..=VERSION).find(is_version) {
            // With a label it is ours, and has lost its tables, or another program's.
            Some(0) if (application, label) == (0, 0) && others == 0 => Ok(Schema { version: 0, is_labelled: true }),
            Some(version) if version > 0 => {
                Ok(Schema { version, is_labelled: (application, label) == (APPLICATION, version) })
            }
            _ if application != APPLICATION => Err(DatabaseError::Foreign { path: path.to_owned() }),
            _ => {
                let what = "it does not have the tables it should have".to_owned();
                Err(DatabaseError::Damaged { path: path.to_owned(), what })
            }
        }
    }

    /// Of the tables that are there.
    pub(super) fn version(self) -> i32 {
        self.version
    }

    /// Brings the file to this version. Each step is on disk as a whole or not at all, and none is done twice: what
    /// fails in between, or is killed, goes on from there.
    pub(super) fn migrate(&mut self, connection: &mut Connection) -> rusqlite::Result<()> {
        let from = self.version;
        while self.version < VERSION {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for statement in STEPS[self.version as usize] {
                transaction.execute(statement, [])?;
            }
            label(&transaction, self.version + 1)?;
            transaction.commit()?;
            *self = Schema { version: self.version + 1, is_labelled: true };
        }
        if !self.is_labelled {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            label(&transaction, VERSION)?;
            transaction.commit()?;
            self.is_labelled = true;
        }
        if (1..VERSION).contains(&from) {
            tracing::info!(
                from,
                to = VERSION,
                "the database was written by an older gatepost; it has a new format now"
            );
        }
        Ok(())
    }
}

/// As they are made.
fn tables_of(version: i32) -> impl Iterator<Item = &'static str> {
    let statements = STEPS[..version as usize].iter().flat_map(|step| step.iter().copied());
    statements.filter(|statement| statement.starts_with("CREATE TABLE"))
}

fn label(transaction: &Transaction<'_>, version: i32) -> rusqlite::Result<()> {
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", version)
}

/// What is in a file.
struct Objects {
    /// The statements that made what has the name of one of our tables.
    ours: BTreeSet<String>,
    /// How many tables, indexes, views and triggers somebody else has made, those of `ANALYZE` not counted.
    others: usize,
}

fn objects(connection: &Connection) -> rusqlite::Result<Objects> {
    let mut objects = Objects { ours: BTreeSet::new(), others: 0 };
    let sql = "SELECT name, coalesce(sql, '') FROM sqlite_schema WHERE name NOT LIKE 'sqlite^_%' ESCAPE '^'";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        if is_our_name(&name) {
            objects.ours.insert(row.get(1)?);
        } else {
            objects.others += 1;
        }
    }
    Ok(objects)
}

/// Whether a table of this name is ours; as SQLite compares names.
fn is_our_name(name: &str) -> bool {
    let made = STEPS.iter().copied().flatten().filter_map(|statement| statement.strip_prefix("CREATE TABLE "));
    made.filter_map(|rest| rest.split('(').next()).any(|table| table.eq_ignore_ascii_case(name))
}
