//! Rows back to values: what the writer needs at its start and readers need at any time.

use std::{collections::HashSet, time::Duration};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    encode::{self, at_of},
    error::Fault,
    sealed, summed,
};
use crate::{
    alert::Message,
    incident::Incident,
    observation::{Delivery, Fates, Login, Observation},
    value::{CheckName, Timestamp},
};

const COLUMNS: &str = "o.id, o.verdict, d.id, o.previous, o.phases, e.json, d.duration_us, d.fate, d.accept,
    d.accept_us, d.latency_us, d.sequence, d.duplicates, d.foreign_, d.reordered, d.integrity,
    d.changed, d.messages, d.late, d.pending, d.lost, d.unsent, d.uncertain, d.login_ok, d.login_us";

const TABLES: &str = "observation o LEFT JOIN delivery d ON d.id = o.id LEFT JOIN evidence e
    ON e.day = (o.id >> 8) / 86400000 AND e.check_id = o.check_id AND e.number = o.evidence";

/// An observation with the number of the one stored before it.
fn observation(row: &Row<'_>) -> Result<(Observation, Option<i64>), Fault> {
    let id: i64 = row.get(0)?;
    let (outcome, latency_us) = encode::verdict_parts(row.get(1)?)?;
    let mut o = Observation::new(at_of(id), outcome, encode::from_us(latency_us));
    if let Some(phases) = row.get_ref(4)?.as_blob_or_null().map_err(rusqlite::Error::from)? {
        o.phases = encode::unpack_phases(phases);
    }
    if let Some(fate) = row.get::<_, Option<i64>>(7)? {
        o.duration = encode::from_us(row.get(6)?);
        o.delivery = Some(Delivery {
            fate: encode::fate_of(fate)?,
            accept: encode::accept_of(row.get(8)?)?,
            accept_ms: row.get::<_, Option<i64>>(9)?.map(encode::from_us),
            latency_ms: row.get::<_, Option<i64>>(10)?.map(encode::from_us),
            sequence: row.get::<_, i64>(11)?.cast_unsigned(),
            duplicates: row.get(12)?,
            foreign: row.get(13)?,
            reordered: row.get(14)?,
            integrity: row.get::<_, Option<i64>>(15)?.map(encode::integrity_of).transpose()?,
            changed: row.get(16)?,
            fates: fates(row)?,
            login: login(row)?,
            // Told by the evidence.
            left_out: Vec::new(),
            reconnections: Vec::new(),
            // A table of their own.
            open: Vec::new(),
        });
    }
    if let Some(json) = row.get_ref(5)?.as_str_or_null().map_err(rusqlite::Error::from)? {
        encode::read_evidence(json, &mut o)?;
    }
    Ok((o, row.get::<_, Option<i64>>(3)?.map(|link| encode::linked(id, link))))
}

/// What became of each message of a burst; nothing of a single message.
fn fates(row: &Row<'_>) -> Result<Fates, Fault> {
    let Some(messages) = row.get::<_, Option<u32>>(17)? else { return Ok(Fates::default()) };
    let count = |column: usize| row.get::<_, Option<u32>>(column).map(|n| n.unwrap_or(0));
    let mut fates = Fates {
        arrived: 0,
        late: count(18)?,
        pending: count(19)?,
        lost: count(20)?,
        unsent: count(21)?,
        uncertain: count(22)?,
    };
    fates.arrived = messages.saturating_sub(fates.messages());
    Ok(fates)
}

/// A login for its own sake; why it failed is told by the evidence.
fn login(row: &Row<'_>) -> Result<Option<Login>, Fault> {
    let Some(ok) = row.get::<_, Option<bool>>(23)? else { return Ok(None) };
    let ms = encode::from_us(row.get::<_, Option<i64>>(24)?.unwrap_or(0));
    Ok(Some(Login { ok, ms, reason: None }))
}

/// By what the checks' own messages are known.
pub(super) fn tracer_key(connection: &Connection) -> Result<[u8; 32], Fault> {
    let key: Vec<u8> = connection.query_row("SELECT value FROM meta WHERE key = 'tracer_key'", [], |r| r.get(0))?;
    key.try_into().map_err(|_| Fault::Inconsistent("the key of tracers has not 32 bytes".into()))
}

/// One observation by its number.
pub(super) fn observation_by_id(connection: &Connection, id: i64) -> Result<Option<(Observation, Option<i64>)>, Fault> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM {TABLES} WHERE o.id = ?1"))?;
    let mut rows = statement.query([id])?;
    rows.next()?.map(observation).transpose()
}

/// The latest observations of a check, oldest first: all since `since` and at least `at_least`, as far as they are
/// kept, and never more than `at_most`. Follows the check's chain, so the cost is that of what is returned, and where
/// that leads to sealed days, of these.
pub(super) fn recent(
    connection: &Connection,
    check: &CheckName,
    since: Timestamp,
    at_least: usize,
    at_most: usize,
) -> Result<Vec<Observation>, Fault> {
    match readable(connection, check, since, at_least, at_most)? {
        (found, None) => Ok(found),
        (_, Some(damage)) => Err(damage),
    }
}

/// The same, as far as it can be read, and what keeps it from being all.
pub(super) fn readable(
    connection: &Connection,
    check: &CheckName,
    since: Timestamp,
    at_least: usize,
    at_most: usize,
) -> Result<(Vec<Observation>, Option<Fault>), Fault> {
    let head: Option<(i64, i64)> = connection
        .prepare_cached(
            "SELECT l.check_id, l.observation FROM latest l JOIN known_check k ON k.id = l.check_id WHERE k.name = ?1",
        )?
        .query_row([check.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((check, newest)) = head else { return Ok((Vec::new(), None)) };
    let raw_from = sealed::raw_from_id(connection)?;
    // Days before that with observations that are not sealed yet.
    let late: HashSet<i64> = connection
        .prepare_cached("SELECT day FROM dirty_day WHERE day < ?1")?
        .query_map([encode::day_of_id(raw_from)], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut next = Some(newest);
    let (mut found, mut damage) = (Vec::new(), None);
    // A chain leads to rows stored ever earlier, so it has no circle; in an edited file it may have one.
    let mut seen = HashSet::new();
    while let Some(id) = next
        && found.len() < at_most
        && seen.insert(id)
    {
        let raw = if id >= raw_from || late.contains(&encode::day_of_id(id)) {
            match observation_by_id(connection, id) {
                Err(Fault::Inconsistent(reason)) => {
                    damage = Some(Fault::Inconsistent(reason));
                    next = previous_of(connection, id)?;
                    continue;
                }
                other => other?,
            }
        } else {
            None
        };
        let Some((o, previous)) = raw else {
            // From here on the past is sealed.
            let before = if id < raw_from && late.is_empty() { raw_from } else { (id + 1).min(raw_from) };
            match sealed::latest_before(connection, check, before, (since, at_least, at_most), &mut found) {
                Err(Fault::Inconsistent(reason)) => damage = Some(Fault::Inconsistent(reason)),
                other => other?,
            }
            break;
        };
        if found.len() >= at_least && o.at < since {
            break;
        }
        found.push(o);
        next = previous;
    }
    found.reverse();
    found.sort_by_key(|o| o.at);
    Ok((found, damage))
}

/// The number of the observation stored before this one.
fn previous_of(connection: &Connection, id: i64) -> Result<Option<i64>, Fault> {
    let link: Option<Option<i64>> = connection
        .prepare_cached("SELECT previous FROM observation WHERE id = ?1")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    Ok(link.flatten().map(|link| encode::linked(id, link)))
}

/// Raw observations of a check between two numbers, oldest first, with their numbers.
pub(super) fn raw_between(
    connection: &Connection,
    check: i64,
    from: i64,
    to: i64,
    at_most: usize,
) -> Result<Vec<(i64, Observation)>, Fault> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM {TABLES} WHERE o.id >= ?1 AND o.id < ?2 AND o.check_id = ?3 ORDER BY o.id LIMIT ?4"
    ))?;
    let at_most = i64::try_from(at_most).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![from, to, check, at_most])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push((row.get(0)?, observation(row)?.0));
    }
    Ok(found)
}

/// Gives every observation from number `from` until before `to`, of one check or of all, in order, to `take`: its
/// number, its check's name, and what could be read of it. Ends when `take` says no.
pub(super) fn each(
    connection: &Connection,
    from: i64,
    to: i64,
    check: Option<&CheckName>,
    mut take: impl FnMut(i64, Option<String>, Result<Observation, Fault>) -> bool,
) -> Result<(), Fault> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS}, k.name FROM {TABLES} LEFT JOIN known_check k ON k.id = o.check_id
         WHERE o.id >= ?1 AND o.id < ?2 AND (?3 IS NULL OR k.name = ?3) ORDER BY o.id"
    ))?;
    let mut rows = statement.query(params![from, to, check.map(CheckName::as_str)])?;
    while let Some(row) = rows.next()? {
        let name = row.get("name")?;
        if !take(row.get(0)?, name, observation(row).map(|(o, _)| o)) {
            break;
        }
    }
    Ok(())
}

/// Incidents that a statement selects as (id, json).
pub(super) fn incidents(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> Result<Vec<Incident>, Fault> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, json): (i64, String) = (row.get(0)?, row.get(1)?);
        let incident: Incident = summed::from_json(&json, &format!("incident {id}"))?;
        stands_under_its_number("incident", id, incident.id.0)?;
        found.push(incident);
    }
    Ok(found)
}

/// Messages that a statement selects as (id, json).
pub(super) fn messages(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> Result<Vec<Message>, Fault> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, json): (i64, String) = (row.get(0)?, row.get(1)?);
        let message: Message = summed::from_json(&json, &format!("message {id}"))?;
        stands_under_its_number("message", id, message.id.0)?;
        found.push(message);
    }
    Ok(found)
}

/// A number that has changed under its row would make two of one.
fn stands_under_its_number(what: &str, row: i64, own: u64) -> Result<(), Fault> {
    if i64::try_from(own) == Ok(row) {
        return Ok(());
    }
    Err(Fault::Inconsistent(format!("{what} {own} stands under the number {row}")))
}

/// A check's name as it stands in a row.
pub(super) fn check_name(text: &str) -> Result<CheckName, Fault> {
    text.parse().map_err(|e| Fault::Inconsistent(format!("a check has no valid name: {e}")))
}

/// A column of milliseconds as a span.
pub(super) fn span_ms(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}
