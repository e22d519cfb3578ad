//! Is the file whole: SQLite's own check, and what bongsu relies on beyond it.
//!
//! SQLite knows whether pages and indexes are sound; it does not know that a delivery belongs to an observation or
//! that a column holds JSON. Everything is read once, in one transaction, beside a running daemon or without one.

use std::collections::BTreeSet;

use rusqlite::{Connection, params_from_iter};
use serde::Serialize;

use super::{
    error::{Fault, StoreError},
    open, read,
    reader::Reader,
    rows, seal, sealed, summed,
};
use crate::{
    alert::Message,
    detect::Memory,
    incident::{Entry, Incident},
    value::CheckName,
};

/// What an audit came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// What is wrong; nothing when all is well.
    pub findings: Vec<Finding>,
    /// Observations read.
    pub observations: u64,
    /// Incidents read.
    pub incidents: u64,
    /// Messages read.
    pub messages: u64,
    /// Size of the database without its log.
    pub bytes: u64,
    /// Its schema version, if that is an earlier one, of which only SQLite's own check was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub earlier: Option<i64>,
}

/// Something that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What must hold and does not.
    pub rule: &'static str,
    /// How many rows are concerned.
    pub count: u64,
    /// The first of them, in words.
    pub first: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.count {
            1 => write!(f, "{}: {}", self.rule, self.first),
            n => write!(f, "{}: {n} times, first {}", self.rule, self.first),
        }
    }
}

/// What must hold between tables: each statement counts the rows that break it and names the first. `?1` is the first
/// number of the days whose raw observations are all kept: before it, retention may be at work.
const RULES: &[(&str, &str)] = &[
    (
        "a delivery belongs to an observation of its check",
        "SELECT count(*), min(d.id) FROM delivery d LEFT JOIN observation o ON o.id = d.id AND o.check_id = d.check_id
         WHERE d.id >= ?1 AND o.id IS NULL",
    ),
    (
        "an observation belongs to a known check",
        "SELECT count(*), min(id) FROM observation WHERE id >= ?1 AND check_id NOT IN (SELECT id FROM known_check)",
    ),
    (
        "a check's chain of observations leads to its earlier ones",
        // See `encode::linked`.
        "SELECT count(*), min(o.id) FROM (
             SELECT id, check_id, CASE previous & 1
                 WHEN 0 THEN (((id >> 8) - (previous >> 4)) << 8) | ((previous >> 1) & 7)
                 ELSE (((id >> 8) - (previous >> 9)) << 8) | ((previous >> 1) & 255) END AS earlier
             FROM observation WHERE id >= ?1 AND previous IS NOT NULL) o
         WHERE o.earlier >= ?1
         AND NOT EXISTS (SELECT 1 FROM observation p WHERE p.id = o.earlier AND p.check_id = o.check_id)",
    ),
    (
        "the evidence of an observation is there",
        "SELECT count(*), min(o.id) FROM observation o WHERE o.id >= ?1 AND o.evidence IS NOT NULL
         AND NOT EXISTS (SELECT 1 FROM evidence e WHERE e.day = (o.id >> 8) / 86400000 AND e.check_id = o.check_id
             AND e.number = o.evidence)",
    ),
    (
        "the latest observation of a check is there",
        "SELECT count(*), min(l.check_id) FROM latest l WHERE l.check_id NOT IN (SELECT id FROM known_check)
         OR (l.observation >= ?1 AND NOT EXISTS
             (SELECT 1 FROM observation o WHERE o.id = l.observation AND o.check_id = l.check_id))",
    ),
    (
        "a state belongs to a known check",
        "SELECT count(*), min(check_id) FROM state WHERE check_id NOT IN (SELECT id FROM known_check) AND ?1 >= 0",
    ),
    (
        "a message in flight belongs to a known check",
        "SELECT count(*), min(check_id) FROM flight WHERE check_id NOT IN (SELECT id FROM known_check) AND ?1 >= 0",
    ),
    (
        "a day's sum belongs to a known check",
        "SELECT count(*), min(day) FROM daily WHERE check_id NOT IN (SELECT id FROM known_check) AND ?1 >= 0",
    ),
    (
        "a member belongs to an incident and a known check",
        "SELECT count(*), min(incident) FROM incident_member WHERE (check_id NOT IN (SELECT id FROM known_check)
         OR incident NOT IN (SELECT id FROM incident)) AND ?1 >= 0",
    ),
    (
        "an alert belongs to an incident",
        "SELECT count(*), min(id) FROM message WHERE incident IS NOT NULL
         AND incident NOT IN (SELECT id FROM incident) AND ?1 >= 0",
    ),
    (
        "numbers of incidents are given once",
        "SELECT count(*), min(id) FROM incident
         WHERE id > coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'incident'), 0) AND ?1 >= 0",
    ),
    (
        "numbers of messages are given once",
        "SELECT count(*), min(id) FROM message
         WHERE id > coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'message'), 0) AND ?1 >= 0",
    ),
];

impl Reader {
    /// Reads everything and says what is wrong with it. Takes seconds per gigabyte; meanwhile a daemon goes on.
    ///
    /// # Errors
    /// When the file cannot be read at all. A file that is damaged is no error but what was asked for.
    pub fn check(&self) -> Result<Audit, StoreError> {
        let mut audit = Audit::default();
        let result = self.ask("checking it", |c| {
            audit.bytes = bytes(c)?;
            let version: i64 = c.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            audit.earlier = (version < open::MIGRATIONS.len() as i64).then_some(version);
            for finding in open::findings(c, "integrity_check")? {
                audit.add("SQLite's own check", finding);
            }
            Ok(())
        });
        audit.take("SQLite's own check", result)?;
        if audit.earlier.is_some() {
            return Ok(audit);
        }
        let rules = self.ask("checking it", |c| {
            let from = sealed::raw_from_id(c)?;
            for (rule, sql) in RULES {
                let (count, first): (i64, Option<i64>) =
                    c.query_row(sql, params_from_iter([from]), |row| Ok((row.get(0)?, row.get(1)?)))?;
                if let (Some(first), Ok(count)) = (first, u64::try_from(count)) {
                    audit.findings.push(Finding { rule, count, first: format!("number {first}") });
                }
            }
            Ok(())
        });
        audit.take("its tables can be compared", rules)?;
        type Pass = fn(&Connection, &mut Audit) -> Result<(), Fault>;
        let passes: [(&'static str, Pass); 8] = [
            ("its tables and views are those of this version", schema),
            ("it knows what it is", identity),
            ("observations can be read", observations),
            ("sealed days can be read", sealed_days),
            ("incidents can be read", incidents),
            ("timelines can be read", timelines),
            ("alerts can be read", messages),
            ("what checks go on from can be read", memories),
        ];
        for (rule, pass) in passes {
            let result = self.ask("checking it", |c| pass(c, &mut audit));
            audit.take(rule, result)?;
        }
        Ok(audit)
    }
}

impl Audit {
    fn add(&mut self, rule: &'static str, first: String) {
        match self.findings.iter_mut().find(|f| f.rule == rule) {
            Some(found) => found.count += 1,
            None => self.findings.push(Finding { rule, count: 1, first }),
        }
    }

    /// What keeps a pass from its end is a finding as well, unless it has nothing to do with the content.
    fn take(&mut self, rule: &'static str, result: Result<(), StoreError>) -> Result<(), StoreError> {
        match result {
            Ok(()) => Ok(()),
            Err(
                error @ (StoreError::Busy { .. }
                | StoreError::Open { .. }
                | StoreError::Disk { .. }
                | StoreError::Full { .. }
                | StoreError::Descriptors { .. }),
            ) => Err(error),
            Err(StoreError::Damaged { findings, .. }) => {
                self.add(rule, findings);
                Ok(())
            }
            Err(StoreError::Inconsistent { reason, .. }) => {
                self.add(rule, reason);
                Ok(())
            }
            Err(StoreError::Sqlite { source, .. }) => {
                self.add(rule, source.to_string());
                Ok(())
            }
            Err(other) => {
                self.add(rule, other.to_string());
                Ok(())
            }
        }
    }
}

fn bytes(c: &Connection) -> Result<u64, Fault> {
    let read = |sql: &str| c.query_row(sql, [], |row| row.get::<_, i64>(0));
    let bytes = read("PRAGMA page_count")?.saturating_mul(read("PRAGMA page_size")?);
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// The schema as the migrations make it, against the one that is there.
fn schema(c: &Connection, audit: &mut Audit) -> Result<(), Fault> {
    let all = |c: &Connection| -> Result<BTreeSet<(String, String, Option<String>)>, Fault> {
        // Statistics and the like of SQLite's own, which `ANALYZE` in a shell leaves, change nothing.
        let mut statement =
            c.prepare("SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    };
    let pristine = Connection::open_in_memory()?;
    for sql in open::MIGRATIONS {
        pristine.execute_batch(sql)?;
    }
    pristine.execute_batch(open::VIEWS)?;
    let (there, wanted) = (all(c)?, all(&pristine)?);
    for (kind, name, _) in wanted.difference(&there) {
        audit.add(
            "its tables and views are those of this version",
            format!("the {kind} `{name}` is missing or changed"),
        );
    }
    Ok(())
}

fn identity(c: &Connection, audit: &mut Audit) -> Result<(), Fault> {
    let instance: String = c.query_row("SELECT value FROM meta WHERE key = 'instance'", [], |row| row.get(0))?;
    if instance.len() != 32 || !instance.bytes().all(|b| b.is_ascii_hexdigit()) {
        audit.add("it knows what it is", format!("`{instance}` is no identity of a database"));
    }
    read::tracer_key(c)?;
    rows::vantage(c).map(|_| ())
}

fn observations(c: &Connection, audit: &mut Audit) -> Result<(), Fault> {
    let mut count = 0;
    read::each(c, i64::MIN, i64::MAX, None, |_, _, read| {
        count += 1;
        if let Err(error) = read {
            audit.add("observations can be read", error.to_string());
        }
        true
    })?;
    audit.observations += count;
    Ok(())
}

fn sealed_days(c: &Connection, audit: &mut Audit) -> Result<(), Fault> {
    const RULE: &str = "sealed days can be read";
    let mut statement = c.prepare("SELECT id FROM block ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut before = None;
    while let Some(row) = rows.next()? {
        let of = seal::day_and_check(row.get(0)?);
        // Parts of one day and check are read together.
        if before.replace(of) == Some(of) {
            continue;
        }
        let (day, check) = of;
        match sealed::day_of_check(c, check, day) {
            Ok(all) => audit.observations += all.len() as u64,
            Err(error) => audit.add(RULE, error.to_string()),
        }
    }
    Ok(())
}

fn incidents(c: &Connection, audit: &mut Audit) -> Result<(), Fault> {
    const RULE: &str = "incidents can be read";
    let mut statement = c.prepare("SELECT id, json, closed_at IS NULL, severity FROM incident ORDER BY id")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        audit.incidents += 1;
        let (id, json, open, severity): (i64, String, bool, String) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let incident: Incident = match summed::from_json(&json, &format!("incident {id}")) {
            Ok(incident) => incident,
            Err(error) => {
                audit.add(RULE, error.to_string());
                continue;
            }
        };
        let same = i64::try_from(incident.id.0) == Ok(id)
            && incident.is_open() == open
            && incident.severity.as_str() == severity;
        if !same {
            audit.add(RULE, format!("incident {id} has columns that say otherwise than its JSON"));
        }
        let members: BTreeSet<CheckName> = c
            .prepare_cached(
                "SELECT k.name FROM incident_member m JOIN known_check k ON k.id = m.check_id WHERE m.incident = ?1",
            )?
            .query_map([id], |row| row.get::<_, String>(0))?
            .map(|name| read::check_name(&name?))
            .collect::<Result<_, Fault>>()?;
        if open && !incident.members.keys().eq(members.iter()) {
            audit.add(RULE, format!("incident {id} is open, and its members are not those of its rows"));
        }
    }
    Ok(())
}

fn timelines(c: &Connection, audit: &mut Audit) -> Result<(), Fault> {
    let mut statement = c.prepare("SELECT id, entry, at, text FROM timeline")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (id, entry, _, _): (i64, String, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        if serde_json::from_value::<Entry>(entry.as_str().into()).is_err() {
            audit.add("timelines can be read", format!("`{entry}` of line {id} is no kind of timeline entry"));
        }
    }
    Ok(())
}

fn messages(c: &Connection, audit: &mut Audit) -> Result<(), Fault> {
    const RULE: &str = "alerts can be read";
    let mut statement = c.prepare("SELECT id, json, key, state, channel FROM message ORDER BY id")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        audit.messages += 1;
        let (id, json): (i64, String) = (row.get(0)?, row.get(1)?);
        let (key, state, channel): (String, String, String) = (row.get(2)?, row.get(3)?, row.get(4)?);
        match summed::from_json::<Message>(&json, &format!("message {id}")) {
            Ok(m) if m.key == key && m.state.as_str() == state && m.channel.as_str() == channel => {}
            Ok(_) => audit.add(RULE, format!("message {id} has columns that say otherwise than its JSON")),
            Err(error) => audit.add(RULE, error.to_string()),
        }
    }
    Ok(())
}

fn memories(c: &Connection, audit: &mut Audit) -> Result<(), Fault> {
    const RULE: &str = "what checks go on from can be read";
    let mut statement = c.prepare(
        "SELECT k.id, k.name, s.memory FROM known_check k LEFT JOIN state s ON s.check_id = k.id ORDER BY k.id",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (id, name, memory): (i64, String, Option<String>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let read = || -> Result<(), Fault> {
            read::check_name(&name)?;
            if let Some(memory) = &memory {
                summed::from_json::<Memory>(memory, &format!("the memory of {name}"))?;
            }
            rows::flights(c, id).map(|_| ())
        };
        if let Err(error) = read() {
            audit.add(RULE, error.to_string());
        }
    }
    Ok(())
}
