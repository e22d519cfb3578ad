//! The one writer: groups of commits in, one transaction each, all or nothing.

use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::{
    encode::{self, day_of, first_id},
    error::{Fault, StoreError},
    maintain::Upkeep,
    open, read,
    reserve::Reserve,
    rows, summed,
};
use crate::{
    alert::Message,
    decide::{Commit, StateRow},
    incident::{Incident, TimelineEntry},
    observation::{Correction, Flight, Observation},
    value::{CheckName, Timestamp, digest_of},
};

/// Different pieces of evidence remembered per check, so that each is written once a day: a name with four
/// addresses in turn is still steady. Of a check with several accounts, so many for each of them.
const EVIDENCE_KEPT: usize = 4;

/// Most of them, whatever the accounts: they are looked through at every observation.
const EVIDENCE_KEPT_MAX: usize = 256;

/// New pieces of evidence written per check and hour for observations that are fine, beside those of each account. A
/// page that says something new each time would otherwise cost more than all failures.
const PLAIN_EVIDENCE_PER_HOUR: usize = 60;

const HOUR_MS: i64 = 3_600_000;

/// The database's one writer. Dropping it releases the file.
pub struct Writer {
    pub(super) path: PathBuf,
    pub(super) connection: Connection,
    pub(super) known: HashMap<CheckName, Known>,
    pub(super) upkeep: Upkeep,
    instance: String,
    /// What tells the file from another that takes its place.
    pub(super) file: Option<(u64, u64)>,
    pub(super) reserve: Reserve,
    _lock: File,
}

/// What is remembered of a check between commits; all of it can be read again from the file.
pub(super) struct Known {
    pub id: i64,
    /// Its latest observation.
    pub latest: Option<i64>,
    /// Evidence written lately: digest of its text, day, number; the last used first.
    evidence: Vec<(u64, i64, i64)>,
    /// The hour (since 1970) and how many pieces of evidence were written for plain observations in it.
    written: (i64, u32),
    /// The day of the evidence written last, and the number of the next piece of that day.
    numbered: (i64, i64),
}

impl Known {
    /// Of evidence that is deleted, nothing can be said by its number any more.
    pub(super) fn forget_evidence_before(&mut self, day: i64) {
        self.evidence.retain(|(_, on, _)| *on >= day);
    }
}

impl Writer {
    /// One try of [`Writer::open`].
    pub(super) fn open_once(path: &Path, now: Timestamp) -> Result<Self, StoreError> {
        let (connection, lock) = open::open_writer(path, now)?;
        let read = || -> Result<_, Fault> {
            let instance = connection.query_row("SELECT value FROM meta WHERE key = 'instance'", [], |r| r.get(0))?;
            Ok((instance, Upkeep::load(&connection)?))
        };
        let (instance, upkeep) = read().map_err(|e| e.at(path, "opening it"))?;
        Ok(Self {
            path: path.to_owned(),
            connection,
            known: HashMap::new(),
            upkeep,
            instance,
            file: open::identity(path),
            reserve: Reserve::of(path),
            _lock: lock,
        })
    }

    /// The identity of this database, made with it: 32 hexadecimal digits.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Writes a group of commits in one transaction. When this returns `Ok`, they survive a power cut; when it
    /// returns an error, nothing of them is there.
    pub fn commit(&mut self, group: &[Commit]) -> Result<(), StoreError> {
        if group.is_empty() {
            return Ok(());
        }
        let result = self.try_commit(group);
        if result.is_err() {
            // What was remembered may speak of rows that were rolled back.
            self.known.clear();
            self.upkeep.restart_roll_up();
        }
        result.map_err(|e| e.at(&self.path, "writing a commit"))
    }

    fn try_commit(&mut self, group: &[Commit]) -> Result<(), Fault> {
        let Self { connection, known, upkeep, .. } = self;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut writing = Writing { tx: &tx, known, upkeep };
        for commit in group {
            writing.write(commit)?;
        }
        writing.write_latest(group)?;
        tx.commit()?;
        Ok(())
    }

    /// What a check that begins to be asked goes on from: the key of its messages, the highest sequence used, and the
    /// messages whose fate is open.
    pub fn resume(&mut self, check: &CheckName) -> Result<Resumed, StoreError> {
        let read = |connection: &Connection| -> Result<Resumed, Fault> {
            let id: Option<i64> = connection
                .prepare_cached("SELECT id FROM known_check WHERE name = ?1")?
                .query_row([check.as_str()], |row| row.get(0))
                .optional()?;
            let mut resumed = Resumed { key: read::tracer_key(connection)?, sequence: 0, flights: Vec::new() };
            let Some(id) = id else { return Ok(resumed) };
            let latest = read::recent(connection, check, Timestamp::from_millis(i64::MAX), 1, 1)?;
            let told = latest.last().and_then(|o| o.delivery.as_ref());
            let told = told.map_or(0, |d| d.sequence.saturating_add(u64::from(d.all_fates().messages().max(1)) - 1));
            resumed.flights = rows::flights(connection, id)?;
            resumed.sequence = resumed.flights.iter().map(|f| f.sequence).max().unwrap_or(0).max(told);
            Ok(resumed)
        };
        read(&self.connection).map_err(|e| e.at(&self.path, "reading what a check goes on from"))
    }
}

/// What [`Writer::resume`] finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// By what the checks' own messages are known.
    pub key: [u8; 32],
    /// The highest sequence used.
    pub sequence: u64,
    /// Messages whose fate is open, in order of sending.
    pub flights: Vec<Flight>,
}

/// A transaction being filled.
struct Writing<'a> {
    tx: &'a Transaction<'a>,
    known: &'a mut HashMap<CheckName, Known>,
    upkeep: &'a mut Upkeep,
}

impl Writing<'_> {
    fn write(&mut self, commit: &Commit) -> Result<(), Fault> {
        if let Some((check, flights)) = &commit.sending {
            let check_id = known(self.tx, self.known, check)?.id;
            rows::write_flights(self.tx, check_id, flights)?;
        }
        if let Some((check, observation)) = &commit.observation {
            self.observation(check, observation)?;
        }
        if let Some((check, correction)) = &commit.correction {
            self.correction(check, correction)?;
        }
        if let Some(state) = &commit.state {
            self.state(state)?;
        }
        for incident in &commit.incidents {
            self.incident(incident)?;
        }
        for entry in &commit.timeline {
            self.timeline(entry)?;
        }
        for message in &commit.messages {
            self.message(message)?;
        }
        if let Some(vantage) = &commit.vantage {
            rows::write_vantage(self.tx, vantage)?;
        }
        Ok(())
    }

    fn observation(&mut self, check: &CheckName, o: &Observation) -> Result<(), Fault> {
        let day = day_of(o.at);
        let evidence = match encode::evidence_json(o)? {
            Some(json) => self.evidence(check, o, json)?,
            None => None,
        };
        let phases = encode::pack_phases(&o.phases, encode::is_plain(o));
        let known = known(self.tx, self.known, check)?;
        let (check_id, latest) = (known.id, known.latest);
        let mut insert = self.tx.prepare_cached(
            "INSERT OR IGNORE INTO observation (id, check_id, verdict, previous, phases, evidence)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        let verdict = encode::verdict(o.outcome, o.latency());
        let mut id = first_id(o.at);
        loop {
            let previous = latest.map(|latest| encode::link(id, latest));
            if insert.execute(params![id, check_id, verdict, previous, phases, evidence])? == 1 {
                break;
            }
            id = rows::next_free(self.tx, o.at)?;
        }
        if let Some(delivery) = &o.delivery {
            rows::write_delivery(self.tx, id, check_id, encode::to_us(o.duration), delivery)?;
            rows::settle_flights(self.tx, check_id, o.at, &delivery.open)?;
        }
        known.latest = Some(id);
        self.upkeep.changed(self.tx, day, id)
    }

    /// The number of a piece of evidence, written unless this check's day has it already; `None` when a plain
    /// observation's share of the hour is used up.
    fn evidence(&mut self, check: &CheckName, o: &Observation, json: String) -> Result<Option<i64>, Fault> {
        let known = known(self.tx, self.known, check)?;
        let (at, day) = (o.at, day_of(o.at));
        let accounts = o.account.as_ref().map_or(1, |account| account.of.max(1)) as usize;
        let kept = EVIDENCE_KEPT.saturating_mul(accounts).min(EVIDENCE_KEPT_MAX);
        // Should two texts be taken for the same, one observation shows the other's evidence.
        let digest = digest_of(&json);
        if let Some(found) = known.evidence.iter().position(|(of, on, _)| (*on, *of) == (day, digest)) {
            let used = known.evidence.remove(found);
            let id = used.2;
            known.evidence.insert(0, used);
            return Ok(Some(id));
        }
        if encode::is_plain(o) {
            let hour = at.as_millis() / HOUR_MS;
            if known.written.0 != hour {
                known.written = (hour, 0);
            }
            if known.written.1 as usize >= PLAIN_EVIDENCE_PER_HOUR + accounts - 1 {
                return Ok(None);
            }
            known.written.1 += 1;
        }
        let id = insert_evidence(self.tx, known, day, &json)?;
        known.evidence.truncate(kept - 1);
        // For most checks it stays the only one.
        known.evidence.reserve_exact(1);
        known.evidence.insert(0, (digest, day, id));
        Ok(Some(id))
    }

    /// A correction of an observation that retention has removed changes nothing: its day is told for good.
    fn correction(&mut self, check: &CheckName, c: &Correction) -> Result<(), Fault> {
        let check_id = known(self.tx, self.known, check)?.id;
        let from = first_id(c.observed_at);
        rows::settle_flights(self.tx, check_id, c.observed_at, &c.delivery.open)?;
        let found: Option<(i64, Option<String>, i64)> = self
            .tx
            .prepare_cached(
                "SELECT o.id, e.json, coalesce(d.duration_us, o.verdict >> 2) FROM observation o
                 LEFT JOIN delivery d ON d.id = o.id LEFT JOIN evidence e
                     ON e.day = (o.id >> 8) / 86400000 AND e.check_id = o.check_id AND e.number = o.evidence
                 WHERE o.id >= ?1 AND o.id < ?2 AND o.check_id = ?3
                 ORDER BY d.sequence IS ?4 DESC, o.id DESC LIMIT 1",
            )?
            .query_row(
                params![from, from + (1 << encode::SLOT_BITS), check_id, c.delivery.sequence.cast_signed()],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )
            .optional()?;
        let Some((id, json, duration_us)) = found else { return Ok(()) };
        let day = day_of(c.observed_at);
        let evidence = match encode::corrected_evidence(json.as_deref(), c)? {
            Some(json) => Some(insert_evidence(self.tx, known(self.tx, self.known, check)?, day, &json)?),
            None => None,
        };
        rows::write_delivery(self.tx, id, check_id, duration_us, &c.delivery)?;
        self.tx.prepare_cached("UPDATE observation SET verdict = ?2, evidence = ?3 WHERE id = ?1")?.execute(
            params![
                id,
                encode::verdict(c.outcome, c.delivery.latency_ms.unwrap_or(encode::from_us(duration_us))),
                evidence,
            ],
        )?;
        self.upkeep.changed(self.tx, day, id)
    }

    fn state(&mut self, row: &StateRow) -> Result<(), Fault> {
        let check_id = known(self.tx, self.known, &row.check)?.id;
        self.tx
            .prepare_cached("INSERT OR REPLACE INTO state (check_id, state, since, memory) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![check_id, row.state, row.since.as_millis(), summed::to_json(&row.memory)?])?;
        Ok(())
    }

    fn incident(&mut self, i: &Incident) -> Result<(), Fault> {
        let id = number(i.id.0, "incident")?;
        self.tx
            .prepare_cached(
                "INSERT INTO incident (id, service, title, severity, worst, started_after, started_by, ended_after,
                     ended_by, opened_at, closed_at, cause, acknowledged_by, acknowledged_at, json)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
                 ON CONFLICT (id) DO UPDATE SET service = excluded.service, title = excluded.title,
                     severity = excluded.severity, worst = excluded.worst, started_after = excluded.started_after,
                     started_by = excluded.started_by, ended_after = excluded.ended_after,
                     ended_by = excluded.ended_by, opened_at = excluded.opened_at, closed_at = excluded.closed_at,
                     cause = excluded.cause, acknowledged_by = excluded.acknowledged_by,
                     acknowledged_at = excluded.acknowledged_at, json = excluded.json",
            )?
            .execute(params![
                id,
                i.service.as_str(),
                i.title,
                i.severity.as_str(),
                i.worst.as_str(),
                i.started.after.map(Timestamp::as_millis),
                i.started.by.as_millis(),
                i.ended.and_then(|e| e.after).map(Timestamp::as_millis),
                i.ended.map(|e| e.by.as_millis()),
                i.opened_at.as_millis(),
                i.closed_at.map(Timestamp::as_millis),
                i.cause,
                i.acknowledged.as_ref().map(|a| &a.by),
                i.acknowledged.as_ref().map(|a| a.at.as_millis()),
                summed::to_json(i)?,
            ])?;
        self.tx.prepare_cached("DELETE FROM incident_member WHERE incident = ?1")?.execute([id])?;
        for (check, m) in &i.members {
            let check_id = known(self.tx, self.known, check)?.id;
            self.tx
                .prepare_cached(
                    "INSERT INTO incident_member (incident, check_id, severity, worst, started_after, started_by,
                         ended_after, ended_by, confirmed_at, flapping, phase, kind, reason)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
                )?
                .execute(params![
                    id,
                    check_id,
                    m.severity.as_str(),
                    m.worst.as_str(),
                    m.started.after.map(Timestamp::as_millis),
                    m.started.by.as_millis(),
                    m.ended.and_then(|e| e.after).map(Timestamp::as_millis),
                    m.ended.map(|e| e.by.as_millis()),
                    m.confirmed_at.as_millis(),
                    m.flapping,
                    m.reason.as_ref().map(|r| r.phase.as_str()),
                    m.reason.as_ref().map(|r| r.kind.as_str()),
                    m.reason.as_ref().map(|r| &r.text),
                ])?;
        }
        Ok(())
    }

    fn timeline(&mut self, entry: &TimelineEntry) -> Result<(), Fault> {
        self.tx.prepare_cached("INSERT INTO timeline (incident, at, entry, text) VALUES (?1, ?2, ?3, ?4)")?.execute(
            params![number(entry.incident.0, "incident")?, entry.at.as_millis(), entry.entry.as_str(), entry.text],
        )?;
        Ok(())
    }

    fn message(&mut self, m: &Message) -> Result<(), Fault> {
        let written = self
            .tx
            .prepare_cached(
                "INSERT INTO message (id, key, channel, incident, kind, thread, position, state, attempts, created_at,
                     next_at, settled_at, last_error, handed_over, json)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
                 ON CONFLICT (id) DO UPDATE SET channel = excluded.channel, incident = excluded.incident,
                     kind = excluded.kind, thread = excluded.thread, position = excluded.position,
                     state = excluded.state, attempts = excluded.attempts, created_at = excluded.created_at,
                     next_at = excluded.next_at, settled_at = excluded.settled_at, last_error = excluded.last_error,
                     handed_over = excluded.handed_over, json = excluded.json
                 WHERE key = excluded.key",
            )?
            .execute(params![
                number(m.id.0, "message")?,
                m.key,
                m.channel.as_str(),
                m.alert.incident.map(|i| number(i.0, "incident")).transpose()?,
                m.alert.kind.as_str(),
                m.thread,
                m.position,
                m.state.as_str(),
                m.attempts,
                m.created_at.as_millis(),
                m.next_at.as_millis(),
                m.settled_at.map(Timestamp::as_millis),
                m.last_error,
                m.handed_over,
                summed::to_json(m)?,
            ])?;
        if written == 1 {
            return Ok(());
        }
        Err(Fault::Inconsistent(format!("message {} has another key already than `{}`", m.id, m.key)))
    }

    /// The heads of the chains, once per check and group.
    fn write_latest(&mut self, group: &[Commit]) -> Result<(), Fault> {
        let mut done = std::collections::HashSet::with_capacity(group.len());
        let mut insert =
            self.tx.prepare_cached("INSERT OR REPLACE INTO latest (check_id, observation) VALUES (?1, ?2)")?;
        for (check, _) in group.iter().filter_map(|commit| commit.observation.as_ref()) {
            if let Some(Known { id, latest: Some(latest), .. }) = self.known.get(check)
                && done.insert(*id)
            {
                insert.execute([id, latest])?;
            }
        }
        Ok(())
    }
}

/// Writes a piece of evidence; gives its number within the check's day.
fn insert_evidence(tx: &Transaction<'_>, known: &mut Known, day: i64, json: &str) -> Result<i64, Fault> {
    if known.numbered.0 != day {
        let next: i64 = tx
            .prepare_cached("SELECT coalesce(max(number) + 1, 0) FROM evidence WHERE day = ?1 AND check_id = ?2")?
            .query_row([day, known.id], |row| row.get(0))?;
        known.numbered = (day, next);
    }
    let number = known.numbered.1;
    tx.prepare_cached("INSERT INTO evidence (day, check_id, number, json) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![day, known.id, number, json])?;
    known.numbered.1 = number + 1;
    Ok(number)
}

/// What is known of a check; a check never seen gets its number here.
pub(super) fn known<'k>(
    tx: &Transaction<'_>,
    all: &'k mut HashMap<CheckName, Known>,
    check: &CheckName,
) -> Result<&'k mut Known, Fault> {
    if !all.contains_key(check) {
        tx.prepare_cached("INSERT OR IGNORE INTO known_check (name) VALUES (?1)")?.execute([check.as_str()])?;
        let (id, latest) = tx
            .prepare_cached(
                "SELECT k.id, l.observation FROM known_check k LEFT JOIN latest l ON l.check_id = k.id WHERE k.name = ?1",
            )?
            .query_row([check.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
        all.insert(check.clone(), Known { id, latest, evidence: Vec::new(), written: (0, 0), numbered: (-1, 0) });
    }
    all.get_mut(check).ok_or_else(|| Fault::Inconsistent(format!("{check} was just made known and is not")))
}

/// A number as SQLite holds it.
pub(super) fn number(id: u64, what: &str) -> Result<i64, Fault> {
    i64::try_from(id).map_err(|_| Fault::Inconsistent(format!("{what} number {id} is beyond what SQLite can hold")))
}
