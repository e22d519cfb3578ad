//! Reading beside the writer, or without one.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, TransactionBehavior, params};

use super::{
    encode,
    error::{Fault, StoreError},
    open, read, sealed,
    writer::number,
};
use crate::{
    alert::{Message, MessageId},
    incident::{Entry, Incident, IncidentId, TimelineEntry},
    observation::Observation,
    value::{CheckName, Name, Timestamp},
};

/// Most rows one question gives back; a page or a terminal shows far fewer.
pub const ROWS_MAX: usize = 10_000;

/// A connection that only reads. Every answer is of one instant, also while the writer commits.
pub struct Reader {
    pub(super) path: PathBuf,
    pub(super) connection: Connection,
}

/// A check as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckStatus {
    /// Its name.
    pub check: CheckName,
    /// Its state's word, and since when; absent before the first verdict.
    pub state: Option<(String, Timestamp)>,
    /// Its latest observation, as far as it is kept and can be read.
    pub last: Option<Observation>,
}

/// Which incidents are asked for; the newest come first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IncidentQuery {
    /// Only those that last.
    pub open: bool,
    /// Only those that lasted at this instant or began after it.
    pub since: Option<Timestamp>,
    /// Only those of this service.
    pub service: Option<Name>,
    /// At most so many; [`ROWS_MAX`] at most.
    pub limit: Option<usize>,
}

/// An incident with all that is told of it.
#[derive(Clone, Debug, PartialEq)]
pub struct IncidentRecord {
    /// The incident.
    pub incident: Incident,
    /// Its timeline, in the order it was written.
    pub timeline: Vec<TimelineEntry>,
    /// Its messages, in the order they were made.
    pub messages: Vec<Message>,
}

/// The outbox in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutboxCounts {
    /// To be sent.
    pub pending: u64,
    /// The receiver said yes.
    pub delivered: u64,
    /// Refused for good.
    pub refused: u64,
    /// Tried for too long.
    pub given_up: u64,
    /// Said better by a later message.
    pub superseded: u64,
    /// When the oldest pending message was made.
    pub oldest_pending: Option<Timestamp>,
}

impl Reader {
    /// Opens an existing database. Works while a daemon writes, and without one.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { path: path.to_owned(), connection: open::open_reader(path, false)? })
    }

    /// The same with one that may be of an earlier version: it can be copied and checked, and nothing else.
    pub fn open_any(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { path: path.to_owned(), connection: open::open_reader(path, true)? })
    }

    pub(super) fn ask<T>(
        &self,
        doing: &'static str,
        read: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let run = || {
            // One transaction, so that an answer of several statements is of one instant. Nothing is written.
            let tx = rusqlite::Transaction::new_unchecked(&self.connection, TransactionBehavior::Deferred)?;
            read(&tx)
        };
        run().map_err(|e| e.at(&self.path, doing))
    }

    /// By what the checks' own messages are known, for another process that asks the same questions.
    pub fn tracer_key(&self) -> Result<[u8; 32], StoreError> {
        self.ask("reading the key of tracers", read::tracer_key)
    }

    /// The identity of the database.
    pub fn instance(&self) -> Result<String, StoreError> {
        self.ask("reading its identity", |c| {
            Ok(c.query_row("SELECT value FROM meta WHERE key = 'instance'", [], |row| row.get(0))?)
        })
    }

    /// Whether this check was ever seen.
    pub fn knows(&self, check: &CheckName) -> Result<bool, StoreError> {
        self.ask("reading the checks", |c| Ok(sealed::check_id(c, check)?.is_some()))
    }

    /// Every check that was ever seen, by name.
    pub fn checks(&self) -> Result<Vec<CheckStatus>, StoreError> {
        self.ask("reading the checks", |c| {
            let raw_from = sealed::raw_from_id(c)?;
            let mut statement = c.prepare_cached(
                "SELECT k.name, s.state, s.since, l.observation, k.id FROM known_check k
                 LEFT JOIN state s ON s.check_id = k.id LEFT JOIN latest l ON l.check_id = k.id ORDER BY k.name",
            )?;
            let mut rows = statement.query([])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let state: Option<String> = row.get(1)?;
                let since: Option<i64> = row.get(2)?;
                let last = match (row.get::<_, i64>(4)?, row.get::<_, Option<i64>>(3)?) {
                    (check, Some(id)) => last_of(c, check, id, raw_from)?,
                    (_, None) => None,
                };
                found.push(CheckStatus {
                    check: read::check_name(&row.get::<_, String>(0)?)?,
                    state: state.zip(since.map(Timestamp::from_millis)),
                    last,
                });
            }
            Ok(found)
        })
    }

    /// Incidents, newest first.
    pub fn incidents(&self, query: &IncidentQuery) -> Result<Vec<Incident>, StoreError> {
        let limit = query.limit.unwrap_or(ROWS_MAX).min(ROWS_MAX) as i64;
        let since = query.since.map(Timestamp::as_millis);
        self.ask("reading incidents", |c| {
            // Two statements, so that the open ones are found by their index.
            let open = if query.open { "closed_at IS NULL AND" } else { "" };
            let sql = format!(
                "SELECT id, json FROM incident WHERE {open} (?1 IS NULL OR ended_by IS NULL OR ended_by >= ?1)
                 AND (?2 IS NULL OR service = ?2) ORDER BY id DESC LIMIT ?3"
            );
            read::incidents(c, &sql, params![since, query.service.as_ref().map(Name::as_str), limit])
        })
    }

    /// One incident with its timeline and messages.
    pub fn incident(&self, id: IncidentId) -> Result<Option<IncidentRecord>, StoreError> {
        self.ask("reading an incident", |c| {
            let Ok(key) = number(id.0, "incident") else { return Ok(None) };
            let found = read::incidents(c, "SELECT id, json FROM incident WHERE id = ?1", [key])?;
            let Some(incident) = found.into_iter().next() else { return Ok(None) };
            let mut statement =
                c.prepare_cached("SELECT at, entry, text FROM timeline WHERE incident = ?1 ORDER BY id LIMIT ?2")?;
            let mut rows = statement.query([key, ROWS_MAX as i64])?;
            let mut timeline = Vec::new();
            while let Some(row) = rows.next()? {
                let entry: String = row.get(1)?;
                let entry: Entry = serde_json::from_value(entry.as_str().into())
                    .map_err(|_| Fault::Inconsistent(format!("`{entry}` is no kind of timeline entry")))?;
                let at = Timestamp::from_millis(row.get(0)?);
                timeline.push(TimelineEntry { incident: id, at, entry, text: row.get(2)? });
            }
            let sql = "SELECT id, json FROM message WHERE incident = ?1 ORDER BY id LIMIT ?2";
            let messages = read::messages(c, sql, [key, ROWS_MAX as i64])?;
            Ok(Some(IncidentRecord { incident, timeline, messages }))
        })
    }

    // -----------------------------------------------------------------------------------------------------------
    // Outbox

    /// Messages: the pending ones in the order they were made, or all, newest first.
    pub fn messages(&self, pending_only: bool, limit: usize) -> Result<Vec<Message>, StoreError> {
        let sql = if pending_only {
            "SELECT id, json FROM message WHERE state = 'pending' ORDER BY id LIMIT ?1"
        } else {
            "SELECT id, json FROM message ORDER BY id DESC LIMIT ?1"
        };
        self.ask("reading the outbox", |c| read::messages(c, sql, [limit.min(ROWS_MAX) as i64]))
    }

    /// One message.
    pub fn message(&self, id: MessageId) -> Result<Option<Message>, StoreError> {
        self.ask("reading a message", |c| {
            let Ok(key) = number(id.0, "message") else { return Ok(None) };
            Ok(read::messages(c, "SELECT id, json FROM message WHERE id = ?1", [key])?.into_iter().next())
        })
    }

    /// The outbox in numbers.
    pub fn outbox(&self) -> Result<OutboxCounts, StoreError> {
        self.ask("counting the outbox", |c| {
            let mut counts = OutboxCounts::default();
            let mut statement =
                c.prepare_cached("SELECT state, count(*), min(created_at) FROM message GROUP BY state")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let count = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
                match row.get::<_, String>(0)?.as_str() {
                    "pending" => {
                        counts.pending = count;
                        counts.oldest_pending = Some(Timestamp::from_millis(row.get(2)?));
                    }
                    "delivered" => counts.delivered = count,
                    "refused" => counts.refused = count,
                    "given_up" => counts.given_up = count,
                    "superseded" => counts.superseded = count,
                    other => return Err(Fault::Inconsistent(format!("`{other}` is no state of a message"))),
                }
            }
            Ok(counts)
        })
    }

    /// Messages for a channel that are to be sent now, in the order they were made. A message of an incident waits
    /// while an earlier one of the same incident to the same channel is pending: a recovery never overtakes its
    /// problem.
    pub fn due(&self, channel: &Name, now: Timestamp, limit: usize) -> Result<Vec<Message>, StoreError> {
        self.ask("reading due messages", |c| {
            let sql = format!("SELECT m.id, m.json FROM {HEADS} AND m.next_at <= ?2 ORDER BY m.id LIMIT ?3");
            read::messages(c, &sql, params![channel.as_str(), now.as_millis(), limit.min(ROWS_MAX) as i64])
        })
    }

    /// When the next message for a channel is to be sent; `None` when none is pending.
    pub fn next_due(&self, channel: &Name) -> Result<Option<Timestamp>, StoreError> {
        self.ask("reading due messages", |c| {
            let at: Option<i64> = c
                .prepare_cached(&format!("SELECT min(m.next_at) FROM {HEADS}"))?
                .query_row([channel.as_str()], |row| row.get(0))?;
            Ok(at.map(Timestamp::from_millis))
        })
    }

    // -----------------------------------------------------------------------------------------------------------
    // Observations

    /// The latest observations of a check, oldest first.
    pub fn recent(&self, check: &CheckName, count: usize) -> Result<Vec<Observation>, StoreError> {
        let count = count.min(ROWS_MAX);
        self.ask("reading observations", |c| read::recent(c, check, Timestamp::from_millis(i64::MAX), count, count))
    }

    /// Observations of a check from `from` until before `to`, oldest first, at most [`ROWS_MAX`]. Of days that are not
    /// sealed it reads all checks' observations: [`Reader::recent`] is cheaper for the latest ones.
    pub fn between(&self, check: &CheckName, from: Timestamp, to: Timestamp) -> Result<Vec<Observation>, StoreError> {
        self.ask("reading observations", |c| match sealed::check_id(c, check)? {
            Some(check) => sealed::between(c, check, encode::first_id(from), encode::first_id(to), ROWS_MAX),
            None => Ok(Vec::new()),
        })
    }
}

/// The latest observation of a check. One that is damaged is none: how the check stands is told all the same.
fn last_of(c: &Connection, check: i64, id: i64, raw_from: i64) -> Result<Option<Observation>, Fault> {
    let read = || -> Result<Option<Observation>, Fault> {
        let sealed = if id < raw_from { sealed::at_number(c, check, id)? } else { None };
        match sealed {
            Some(observation) => Ok(Some(observation)),
            None => Ok(read::observation_by_id(c, id)?.map(|(o, _)| o)),
        }
    };
    match read() {
        Err(Fault::Inconsistent(_)) => Ok(None),
        other => other,
    }
}

/// Messages of channel ?1 that wait for no other.
const HEADS: &str = "message m WHERE m.channel = ?1 AND m.state = 'pending' AND NOT EXISTS (
    SELECT 1 FROM message e WHERE e.channel = m.channel AND e.incident = m.incident AND e.state = 'pending' AND e.id < m.id)";
