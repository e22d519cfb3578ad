//! Reading a check's past: sealed days from their blocks, the days since from raw observations.
//!
//! The boundary is the first day whose raw observations are all kept. From it on only they count. Before it blocks count,
//! and raw observations that are in none: what arrived since for a day that is sealed, and is not added to its blocks yet.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension};

use super::{
    block::{self, Mail, Row},
    encode::{self, DAY_MS, SLOT_BITS, at_of, day_of_id, first_id},
    error::{Fault, StoreError},
    read,
    reader::Reader,
    seal::{block_id, day_and_check},
};
use crate::{
    observation::{Delivery, Fates, Login, Observation, Outcome},
    value::{CheckName, Timestamp},
};

/// Days looked through for the latest observations of a check that is asked seldom: five runs of a weekly one.
const DAYS_BACK: i64 = 35;

/// Most links followed: more than a check can have raw, and an end to a circle in a file that was edited.
const CHAIN_MAX: usize = 20_000_000;

/// What most who read a long time want of an observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When the attempt began.
    pub at: Timestamp,
    /// What it came to.
    pub outcome: Outcome,
    /// See [`Observation::latency`]; of a sealed `ok` to 1 %.
    pub latency: std::time::Duration,
}

/// The first number whose observations count raw.
pub(super) fn raw_from_id(connection: &Connection) -> Result<i64, Fault> {
    let day: Option<i64> = connection
        .prepare_cached("SELECT value FROM meta WHERE key = 'raw_from'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(day.map_or(0, encode::first_id_of_day))
}

/// The number of a check.
pub(super) fn check_id(connection: &Connection, check: &CheckName) -> Result<Option<i64>, Fault> {
    Ok(connection
        .prepare_cached("SELECT id FROM known_check WHERE name = ?1")?
        .query_row([check.as_str()], |row| row.get(0))
        .optional()?)
}

/// Gives the blocks of a check's day in order.
fn each_block(
    connection: &Connection,
    check: i64,
    day: i64,
    mut give: impl FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut statement = connection.prepare_cached("SELECT data FROM block WHERE id >= ?1 AND id < ?2 ORDER BY id")?;
    let mut rows = statement.query([block_id(day, check, 0), block_id(day, check + 1, 0)])?;
    while let Some(row) = rows.next()? {
        give(row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?)?;
    }
    Ok(())
}

/// What is told of a block that cannot be read.
fn damaged(connection: &Connection, check: i64, day: i64) -> Fault {
    let name: Option<String> =
        connection.query_row("SELECT name FROM known_check WHERE id = ?1", [check], |row| row.get(0)).ok();
    let name = name.unwrap_or_else(|| format!("check {check}"));
    let day = Timestamp::from_millis(day.saturating_mul(DAY_MS)).to_utc().date_naive();
    Fault::Inconsistent(format!("the sealed observations of {name} of {day} are damaged"))
}

/// A sealed day of a check, with the numbers of its observations.
pub(super) fn day_of_check(connection: &Connection, check: i64, day: i64) -> Result<Vec<(i64, Observation)>, Fault> {
    let mut found = Vec::new();
    each_block(connection, check, day, |data| {
        let all = block::unpack(data).map_err(|_| damaged(connection, check, day))?;
        for row in &all.rows {
            let text = row.evidence.and_then(|position| all.texts.get(position));
            found.push((row.id, observation(row, text.map(String::as_str))?));
        }
        Ok(())
    })?;
    in_order(&mut found, |(id, _)| *id);
    Ok(found)
}

/// Puts in order what was added later, and leaves what is there twice.
fn in_order<T>(all: &mut Vec<T>, id: impl Fn(&T) -> i64) {
    if !all.is_sorted_by(|a, b| id(a) < id(b)) {
        all.sort_by_key(&id);
        all.dedup_by_key(|one| id(one));
    }
}

/// The numbers of a check's sealed observations of a day, as far as they can be read.
pub(super) fn numbers(connection: &Connection, check: i64, day: i64) -> Result<HashSet<i64>, Fault> {
    let mut found = HashSet::new();
    each_block(connection, check, day, |data| {
        found.extend(block::points(data).unwrap_or_default().into_iter().map(|point| point.id));
        Ok(())
    })?;
    Ok(found)
}

fn observation(row: &Row, evidence: Option<&str>) -> Result<Observation, Fault> {
    let us = |us: u64| std::time::Duration::from_micros(us);
    let mut o = Observation::new(at_of(row.id), encode::outcome_of(row.outcome.into())?, us(row.duration_us));
    o.phases = encode::unpack_phases(&row.phases);
    o.delivery = row.mail.as_ref().map(delivery).transpose()?;
    if let Some(json) = evidence {
        encode::read_evidence(json, &mut o)?;
    }
    Ok(o)
}

fn delivery(mail: &Mail) -> Result<Delivery, Fault> {
    let us = |us: Option<u64>| us.map(std::time::Duration::from_micros);
    let code = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let [fate, accept, integrity, duplicates, foreign, reordered, changed, messages, rest @ ..] = mail.facts;
    let [late, pending, lost, unsent, uncertain, login, _] = rest.map(count);
    let mut fates = Fates { arrived: 0, late, pending, lost, unsent, uncertain };
    fates.arrived = count(messages).saturating_sub(fates.messages());
    Ok(Delivery {
        fate: encode::fate_of(code(fate))?,
        fates: if messages == 0 { Fates::default() } else { fates },
        accept: encode::accept_of(code(accept))?,
        accept_ms: us(mail.accept_us),
        latency_ms: us(mail.latency_us),
        sequence: mail.sequence,
        duplicates: count(duplicates),
        foreign: count(foreign),
        reordered: count(reordered),
        changed: count(changed),
        integrity: integrity.checked_sub(1).map(|n| encode::integrity_of(code(n))).transpose()?,
        login: (login > 0).then(|| Login { ok: login == 2, ms: us(mail.login_us).unwrap_or_default(), reason: None }),
        // Told by the evidence.
        left_out: Vec::new(),
        reconnections: Vec::new(),
        open: Vec::new(),
    })
}

/// Adds the latest sealed observations of a check before a number, newest first: those since `since` and until there are at
/// least `at_least`, and never more than `at_most`. When a day is damaged, those after it are added.
pub(super) fn latest_before(
    connection: &Connection,
    check: i64,
    before: i64,
    (since, at_least, at_most): (Timestamp, usize, usize),
    found: &mut Vec<Observation>,
) -> Result<(), Fault> {
    let last = (before.saturating_sub(1) >> SLOT_BITS) / DAY_MS;
    for day in (last - DAYS_BACK..=last).rev() {
        let (from, to) = (encode::first_id_of_day(day), encode::first_id_of_day(day + 1));
        for o in between(connection, check, from, to.min(before), usize::MAX)?.into_iter().rev() {
            if found.len() >= at_most || (found.len() >= at_least && o.at < since) {
                return Ok(());
            }
            found.push(o);
        }
        if found.len() >= at_least && day <= encode::day_of(since) {
            break;
        }
    }
    Ok(())
}

/// The latest sealed observation of a check at this number, of which no raw one is left.
pub(super) fn at_number(connection: &Connection, check: i64, id: i64) -> Result<Option<Observation>, Fault> {
    let of_day = day_of_check(connection, check, (id >> SLOT_BITS) / DAY_MS)?;
    Ok(of_day.into_iter().find(|(number, _)| *number == id).map(|(_, o)| o))
}

impl Reader {
    /// Outcomes and latencies of a check from `from` until before `to`, oldest first: all that is kept of that time.
    ///
    /// # Errors
    /// When the file cannot be read; a damaged block names check and day.
    pub fn seen(&self, check: &CheckName, from: Timestamp, to: Timestamp) -> Result<Vec<Seen>, StoreError> {
        self.ask("reading a check's past", |c| {
            let Some(check) = check_id(c, check)? else { return Ok(Vec::new()) };
            let (from, to, raw_from) = (first_id(from), first_id(to), raw_from_id(c)?);
            let mut found = Vec::new();
            if from < raw_from {
                for day in day_of_id(from)..=day_of_id(to.min(raw_from) - 1) {
                    sealed_points(c, check, day, |point| {
                        if (from..to).contains(&point.id) {
                            let outcome = encode::outcome_of(point.outcome.into())?;
                            found.push((point.id, seen(point.id, outcome, point.latency_us)));
                        }
                        Ok(())
                    })?;
                }
            }
            // Of those that are there twice the sealed one stays, because it comes first.
            raw_points(c, check, from, to, &mut found)?;
            in_order(&mut found, |(id, _)| *id);
            Ok(found.into_iter().map(|(_, seen)| seen).collect())
        })
    }

    /// Everything kept of a check from `from` until before `to`, oldest first, given a day at a time until `give` says no.
    ///
    /// # Errors
    /// When the file cannot be read; a damaged block names check and day.
    pub fn past(
        &self,
        check: &CheckName,
        from: Timestamp,
        to: Timestamp,
        mut give: impl FnMut(Vec<Observation>) -> bool,
    ) -> Result<(), StoreError> {
        let mut from = first_id(from);
        let to = first_id(to);
        while from < to {
            let end = encode::first_id_of_day(day_of_id(from) + 1).min(to);
            // A transaction for each day: whoever takes long over one holds nothing.
            let of_day = self.ask("reading a check's past", |c| {
                let Some(check) = check_id(c, check)? else { return Ok((Vec::new(), None)) };
                let found = between(c, check, from, end, usize::MAX)?;
                let next = if found.is_empty() { next_day(c, check, end)? } else { Some(end) };
                Ok((found, next))
            })?;
            let (found, next) = of_day;
            if !found.is_empty() && !give(found) {
                break;
            }
            let Some(next) = next else { break };
            from = next;
        }
        Ok(())
    }
}

/// Where a check is next seen after a day without it; `None` when nowhere.
fn next_day(c: &Connection, check: i64, from: i64) -> Result<Option<i64>, Fault> {
    let day: Option<i64> = c
        .prepare_cached(
            "SELECT min(day) FROM daily WHERE day >= ?1 AND check_id = ?2 AND ok + slow + failed + unknown > 0",
        )?
        .query_row([day_of_id(from), check], |row| row.get(0))?;
    let rolled_until: Option<i64> =
        c.query_row("SELECT value FROM meta WHERE key = 'rolled_until'", [], |row| row.get(0)).optional()?;
    let open = c
        .prepare_cached("SELECT min(id) FROM observation WHERE id >= ?1")?
        .query_row([from.max(rolled_until.map_or(0, encode::first_id_of_day))], |row| row.get::<_, Option<i64>>(0))?;
    let late: Option<i64> = c
        .prepare_cached("SELECT min(day) FROM dirty_day WHERE day >= ?1")?
        .query_row([day_of_id(from)], |row| row.get(0))?;
    // A day's roll-up may be gone before its blocks are.
    let blocks = next_block_day(c, check, day_of_id(from), day)?;
    let days = [day, late, blocks].into_iter().flatten().map(|day| encode::first_id_of_day(day).max(from));
    Ok(days.chain(open).min())
}

/// The first day with a block of a check, from one day until before another.
fn next_block_day(c: &Connection, check: i64, day: i64, before: Option<i64>) -> Result<Option<i64>, Fault> {
    let end = before.map_or(i64::MAX, |day| block_id(day, 0, 0));
    let mut statement = c.prepare_cached("SELECT min(id) FROM block WHERE id >= ?1 AND id < ?2")?;
    let mut from = block_id(day, check, 0);
    // Blocks lie by day and then by check: two looks at most for each day.
    loop {
        let next: Option<i64> = statement.query_row([from, end], |row| row.get(0))?;
        from = match next.map(day_and_check) {
            None => return Ok(None),
            Some((day, of)) if of == check => return Ok(Some(day)),
            Some((day, of)) if of < check => block_id(day, check, 0),
            Some((day, _)) => block_id(day + 1, check, 0),
        };
    }
}

/// Observations of a check between two numbers, oldest first, at most so many.
pub(super) fn between(
    c: &Connection,
    check: i64,
    from: i64,
    to: i64,
    at_most: usize,
) -> Result<Vec<Observation>, Fault> {
    let raw_from = raw_from_id(c)?;
    let mut found = Vec::new();
    if from < raw_from {
        for day in day_of_id(from)..=day_of_id(to.min(raw_from) - 1) {
            let of_day = day_of_check(c, check, day)?;
            found.extend(of_day.into_iter().filter(|(id, _)| (from..to).contains(id)));
            if found.len() >= at_most {
                break;
            }
        }
        // Of those that are there twice the sealed one stays, because it comes first.
        found.extend(read::raw_between(c, check, from, to.min(raw_from), usize::MAX)?);
        in_order(&mut found, |(id, _)| *id);
        found.truncate(at_most);
    }
    let left = at_most - found.len();
    found.extend(read::raw_between(c, check, from.max(raw_from), to, left)?);
    Ok(found.into_iter().map(|(_, o)| o).collect())
}

fn seen(id: i64, outcome: Outcome, latency_us: u64) -> Seen {
    Seen { at: at_of(id), outcome, latency: std::time::Duration::from_micros(latency_us) }
}

fn sealed_points(
    c: &Connection,
    check: i64,
    day: i64,
    mut give: impl FnMut(block::Point) -> Result<(), Fault>,
) -> Result<(), Fault> {
    each_block(c, check, day, |data| {
        let points = block::points(data).map_err(|_| damaged(c, check, day))?;
        points.into_iter().try_for_each(&mut give)
    })
}

/// Raw observations by the check's chain, from its latest one back. Where that leads to what is sealed before all was seen,
/// because the clock was set back in between, the rest is looked for among those of all checks.
fn raw_points(c: &Connection, check: i64, from: i64, to: i64, found: &mut Vec<(i64, Seen)>) -> Result<(), Fault> {
    let mut next: Option<i64> = c
        .prepare_cached("SELECT observation FROM latest WHERE check_id = ?1")?
        .query_row([check], |row| row.get(0))
        .optional()?;
    let mut row = c.prepare_cached("SELECT verdict, previous FROM observation WHERE id = ?1 AND check_id = ?2")?;
    let mut first = to;
    for _ in 0..CHAIN_MAX {
        // What was told out of order stands a little further down the chain.
        let Some(id) = next.filter(|id| *id >= from.saturating_sub(DAY_MS << SLOT_BITS)) else { break };
        first = first.min(id);
        let Some((verdict, link)) =
            row.query_row([id, check], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?))).optional()?
        else {
            break;
        };
        if (from..to).contains(&id) {
            let (outcome, latency_us) = encode::verdict_parts(verdict)?;
            found.push((id, seen(id, outcome, u64::try_from(latency_us).unwrap_or(0))));
        }
        next = link.map(|link| encode::linked(id, link));
    }
    // It was led to its beginning, or had nothing new to begin with.
    if next.is_none() || first == to {
        return Ok(());
    }
    let mut rest =
        c.prepare_cached("SELECT id, verdict FROM observation WHERE id >= ?1 AND id < ?2 AND check_id = ?3")?;
    let mut rows = rest.query([from, first, check])?;
    while let Some(row) = rows.next()? {
        let (outcome, latency_us) = encode::verdict_parts(row.get(1)?)?;
        let id = row.get(0)?;
        found.push((id, seen(id, outcome, u64::try_from(latency_us).unwrap_or(0))));
    }
    Ok(())
}
