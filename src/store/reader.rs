//! Reading beside the writer, or without one.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, backup::Backup, params};

use super::{
    day::{Day, Latencies},
    encode::{self, DAY_MS, day_of},
    error::{Fault, StoreError},
    maintain::{HOLD_DEFAULT_MS, add_rows, begin_day, first_day, holds},
    open,
    read::{self, span_ms},
    writer::{Writer, number},
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
    path: PathBuf,
    connection: Connection,
}

/// A check as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckStatus {
    /// Its name.
    pub check: CheckName,
    /// Its state's word, and since when; absent before the first verdict.
    pub state: Option<(String, Timestamp)>,
    /// Its latest observation, as far as kept.
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

/// One check's day.
#[derive(Clone, Debug)]
pub struct Daily {
    /// The check.
    pub check: CheckName,
    /// The day, in UTC.
    pub day: chrono::NaiveDate,
    /// Attempts that were `ok`, `slow`, `failed` and `unknown`.
    pub attempts: [u64; 4],
    /// Time for which the check was known to work.
    pub up: Duration,
    /// Time for which it was known not to.
    pub down: Duration,
    /// Time for which attempts could not tell.
    pub unknown: Duration,
    /// Length of the day as far as it has passed.
    pub passed: Duration,
    /// Messages handed over (accepted, or perhaps so).
    pub messages_sent: u64,
    /// Messages that were accepted and never came.
    pub messages_lost: u64,
    /// Messages that came after the objective.
    pub messages_late: u64,
    /// Messages that came more than once.
    pub messages_duplicated: u64,
    /// Whether the day is over and rolled up; later corrections still change it.
    pub rolled_up: bool,
    /// Latencies of `ok` and `slow` attempts in milliseconds; days can be merged.
    pub latency_ms: Option<Latencies>,
}

impl Daily {
    /// Share of the known time for which it worked; `None` when nothing is known.
    pub fn availability(&self) -> Option<f64> {
        let known = self.up + self.down;
        (!known.is_zero()).then(|| self.up.as_secs_f64() / known.as_secs_f64())
    }

    /// Share of the time of which it is known whether the check worked.
    pub fn coverage(&self) -> f64 {
        if self.passed.is_zero() {
            return 0.0;
        }
        ((self.up + self.down).as_secs_f64() / self.passed.as_secs_f64()).min(1.0)
    }

    /// The latency in milliseconds, to 1 %, that a share `q` of the attempts did not exceed.
    pub fn quantile_ms(&self, q: f64) -> Option<f64> {
        self.latency_ms.as_ref()?.quantile_ms(q)
    }
}

impl Reader {
    /// Opens an existing database. Works while a daemon writes, and without one.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { path: path.to_owned(), connection: open::open_reader(path)? })
    }

    fn ask<T>(&self, doing: &'static str, read: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, StoreError> {
        let run = || {
            // One transaction, so that an answer of several statements is of one instant. Nothing is written.
            let tx = rusqlite::Transaction::new_unchecked(&self.connection, TransactionBehavior::Deferred)?;
            read(&tx)
        };
        run().map_err(|e| e.at(&self.path, doing))
    }

    /// The identity of the database.
    pub fn instance(&self) -> Result<String, StoreError> {
        self.ask("reading its identity", |c| {
            Ok(c.query_row("SELECT value FROM meta WHERE key = 'instance'", [], |row| row.get(0))?)
        })
    }

    /// Every check that was ever seen, by name.
    pub fn checks(&self) -> Result<Vec<CheckStatus>, StoreError> {
        self.ask("reading the checks", |c| {
            let mut statement = c.prepare_cached(
                "SELECT k.name, s.state, s.since, l.observation FROM known_check k
                 LEFT JOIN state s ON s.check_id = k.id LEFT JOIN latest l ON l.check_id = k.id ORDER BY k.name",
            )?;
            let mut rows = statement.query([])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let state: Option<String> = row.get(1)?;
                let since: Option<i64> = row.get(2)?;
                let last = match row.get::<_, Option<i64>>(3)? {
                    Some(id) => read::observation_by_id(c, id)?.map(|(o, _)| o),
                    None => None,
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
    // Observations and days

    /// The latest observations of a check, oldest first.
    pub fn recent(&self, check: &CheckName, count: usize) -> Result<Vec<Observation>, StoreError> {
        let count = count.min(ROWS_MAX);
        self.ask("reading observations", |c| read::recent(c, check, Timestamp::from_millis(i64::MAX), count, count))
    }

    /// Observations of a check from `from` until before `to`, oldest first, at most [`ROWS_MAX`]. Reads all checks'
    /// observations of that time: [`Reader::recent`] is cheaper for the latest ones.
    pub fn between(&self, check: &CheckName, from: Timestamp, to: Timestamp) -> Result<Vec<Observation>, StoreError> {
        self.ask("reading observations", |c| read::between(c, check, from, to, ROWS_MAX))
    }

    /// Days from `from` to `to`, both included, of one check or all, by day and check. Days not rolled up yet,
    /// today among them, are summed up from the raw observations.
    pub fn daily(
        &self,
        check: Option<&CheckName>,
        from: chrono::NaiveDate,
        to: chrono::NaiveDate,
        now: Timestamp,
    ) -> Result<Vec<Daily>, StoreError> {
        let (from, to) = (day_number(from), day_number(to));
        self.ask("reading days", |c| {
            let names = check_names(c)?;
            let rolled_until: Option<i64> =
                c.query_row("SELECT value FROM meta WHERE key = 'rolled_until'", [], |row| row.get(0)).optional()?;
            let mut found = rolled_days(c, &names, from, to.min(rolled_until.unwrap_or(0) - 1))?;
            let first_open = match rolled_until {
                Some(day) => Some(day),
                None => first_day(c, 0)?,
            };
            if let Some(first) = first_open.filter(|first| *first <= to) {
                found.extend(open_days(c, &names, first, to, now)?.into_iter().filter(|(day, _)| *day >= from));
            }
            let mut found: Vec<Daily> =
                found.into_iter().map(|(_, daily)| daily).filter(|d| check.is_none_or(|c| *c == d.check)).collect();
            found.sort_by(|a, b| (a.day, &a.check).cmp(&(b.day, &b.check)));
            Ok(found)
        })
    }

    // -----------------------------------------------------------------------------------------------------------
    // Health

    /// SQLite's full integrity check: what it finds, nothing when all is well.
    pub fn check(&self) -> Result<Vec<String>, StoreError> {
        self.ask("checking it", |c| open::findings(c, "integrity_check"))
    }

    /// Copies the database to a new file while a daemon goes on writing. The copy is of one instant.
    pub fn backup(&self, to: &Path) -> Result<(), StoreError> {
        backup(&self.connection, &self.path, to)
    }
}

impl Writer {
    /// See [`Reader::check`].
    pub fn check(&self) -> Result<Vec<String>, StoreError> {
        open::findings(&self.connection, "integrity_check").map_err(|e| e.at(&self.path, "checking it"))
    }

    /// See [`Reader::backup`]; blocks the writer for as long as it takes.
    pub fn backup(&self, to: &Path) -> Result<(), StoreError> {
        backup(&self.connection, &self.path, to)
    }
}

/// Messages of channel ?1 that wait for no other.
const HEADS: &str = "message m WHERE m.channel = ?1 AND m.state = 'pending' AND NOT EXISTS (
    SELECT 1 FROM message e WHERE e.channel = m.channel AND e.incident = m.incident AND e.state = 'pending' AND e.id < m.id)";

fn backup(from: &Connection, path: &Path, to: &Path) -> Result<(), StoreError> {
    if to.exists() {
        return Err(StoreError::Exists { path: to.to_owned() });
    }
    if !to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).is_dir() {
        return Err(StoreError::NoDirectory { path: to.to_owned() });
    }
    let copy = || -> Result<(), Fault> {
        let mut target = Connection::open(to)?;
        // All pages in one step: one read transaction, so the writer beside it cannot make it begin anew.
        Backup::new(from, &mut target)?.step(-1)?;
        // A single file, whoever carries it away: no log beside it.
        target.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()))?;
        Ok(())
    };
    copy().map_err(|e| {
        // Half a copy is worse than none; if it cannot be removed, the error says enough.
        let _ = std::fs::remove_file(to);
        let of_target =
            matches!(&e, Fault::Sql(e) if e.sqlite_error_code() != Some(rusqlite::ErrorCode::DatabaseCorrupt));
        e.at(if of_target { to } else { path }, "copying the database")
    })
}

fn day_number(day: chrono::NaiveDate) -> i64 {
    day.signed_duration_since(chrono::NaiveDate::default()).num_days()
}

fn date_of(day: i64) -> Result<chrono::NaiveDate, Fault> {
    let date = chrono::TimeDelta::try_days(day).and_then(|d| chrono::NaiveDate::default().checked_add_signed(d));
    date.ok_or_else(|| Fault::Inconsistent(format!("{day} is no day")))
}

fn check_names(c: &Connection) -> Result<HashMap<i64, CheckName>, Fault> {
    let mut statement = c.prepare_cached("SELECT id, name FROM known_check")?;
    let mut rows = statement.query([])?;
    let mut names = HashMap::new();
    while let Some(row) = rows.next()? {
        names.insert(row.get(0)?, read::check_name(&row.get::<_, String>(1)?)?);
    }
    Ok(names)
}

fn rolled_days(
    c: &Connection,
    names: &HashMap<i64, CheckName>,
    from: i64,
    to: i64,
) -> Result<Vec<(i64, Daily)>, Fault> {
    let mut statement = c.prepare_cached(
        "SELECT day, check_id, ok, slow, failed, unknown, up_ms, down_ms, unknown_ms, sent, lost, late, duplicated, sketch
         FROM daily WHERE day BETWEEN ?1 AND ?2",
    )?;
    let mut rows = statement.query([from, to])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (day, id): (i64, i64) = (row.get(0)?, row.get(1)?);
        let count =
            |column: usize| -> Result<u64, Fault> { Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0)) };
        let sketch = row.get_ref(13)?.as_blob_or_null().map_err(rusqlite::Error::from)?;
        let latency_ms = sketch.map(Latencies::from_bytes).transpose()?;
        let Some(check) = names.get(&id).cloned() else { continue };
        let daily = Daily {
            check,
            day: date_of(day)?,
            attempts: [count(2)?, count(3)?, count(4)?, count(5)?],
            up: span_ms(row.get(6)?),
            down: span_ms(row.get(7)?),
            unknown: span_ms(row.get(8)?),
            passed: span_ms(DAY_MS),
            messages_sent: count(9)?,
            messages_lost: count(10)?,
            messages_late: count(11)?,
            messages_duplicated: count(12)?,
            rolled_up: true,
            latency_ms,
        };
        found.push((day, daily));
    }
    Ok(found)
}

/// Days from `first`, the first that is not rolled up, to `to`.
fn open_days(
    c: &Connection,
    names: &HashMap<i64, CheckName>,
    first: i64,
    to: i64,
    now: Timestamp,
) -> Result<Vec<(i64, Daily)>, Fault> {
    let holds = holds(c)?;
    let hold_ms = |check: &i64| holds.get(check).copied().unwrap_or(HOLD_DEFAULT_MS);
    let now_ms = now.as_millis();
    let mut found = Vec::new();
    let mut days = begin_day(c, first, &holds)?;
    let mut day = first;
    while day <= to {
        add_rows(c, day, encode::first_id_of_day(day) - 1, usize::MAX, &holds, &mut days)?;
        let (start_ms, end_ms) = (day * DAY_MS, (day + 1) * DAY_MS);
        let mut next: HashMap<i64, Day> = HashMap::new();
        for (id, mut sums) in days.drain() {
            let last = sums.finish(now_ms);
            if let Some((at_ms, _)) = last
                && at_ms.saturating_add(hold_ms(&id)) > end_ms
            {
                next.insert(id, Day::new(day + 1, hold_ms(&id), last));
            }
            if let Some(check) = names.get(&id)
                && !sums.is_empty()
            {
                found.push((day, open_day(check, day, &sums, span_ms(now_ms.min(end_ms) - start_ms))?));
            }
        }
        days = next;
        day = match first_day(c, day + 1)? {
            Some(next) if days.is_empty() => next,
            None if days.is_empty() || day > day_of(now) => break,
            _ => day + 1,
        };
    }
    Ok(found)
}

fn open_day(check: &CheckName, day: i64, sums: &Day, passed: Duration) -> Result<Daily, Fault> {
    Ok(Daily {
        check: check.clone(),
        day: date_of(day)?,
        attempts: sums.attempts,
        up: span_ms(sums.up_ms),
        down: span_ms(sums.down_ms),
        unknown: span_ms(sums.unknown_ms),
        passed,
        messages_sent: sums.sent,
        messages_lost: sums.lost,
        messages_late: sums.late,
        messages_duplicated: sums.duplicated,
        rolled_up: false,
        latency_ms: (sums.latencies.count() > 0).then(|| sums.latencies.clone()),
    })
}
