//! Summing up a day in slices.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{
    day::{Counts, Day},
    encode::{self, DAY_MS, SLOT_BITS, first_id_of_day},
    error::Fault,
    seal::{block_id, day_and_check},
    sealed,
};
use crate::observation::{Accept, Delivery, Fate};

/// How long one observation speaks for the time after it when the check's interval is not known.
pub(super) const HOLD_DEFAULT_MS: i64 = 3_600_000;

/// Observations read for a roll-up in one call: a few milliseconds.
const ROLL_ROWS_MAX: usize = 5_000;

/// Daily rows written in one call.
const DAILY_ROWS_MAX: usize = 500;

/// A roll-up in progress.
pub(super) struct Roll {
    pub day: i64,
    /// The number of the last observation that was read.
    pub cursor: i64,
    /// Of a day that is sealed, the first number of the blocks still to be read.
    blocks: Option<i64>,
    holds: HashMap<i64, i64>,
    days: HashMap<i64, Day>,
    /// What is still to be written, once all is read.
    pub ready: Option<Vec<(i64, Day)>>,
    /// Whether the day leaves something else to the next than it did when it was rolled up before.
    pub carry_changed: bool,
    /// Whether an observation of this day still speaks when the next begins.
    pub carries: bool,
}

/// The first day from `from` on that has observations.
pub(super) fn first_day(connection: &Connection, from: i64) -> Result<Option<i64>, Fault> {
    let first: Option<i64> = connection
        .prepare_cached("SELECT min(id) FROM observation WHERE id >= ?1")?
        .query_row([first_id_of_day(from)], |row| row.get(0))?;
    Ok(first.map(|id| (id >> SLOT_BITS) / DAY_MS))
}

/// What each check's latest observation speaks for.
pub(super) fn holds(connection: &Connection) -> Result<HashMap<i64, i64>, Fault> {
    Ok(connection
        .prepare_cached("SELECT id, coalesce(hold_ms, ?1) FROM known_check")?
        .query_map([HOLD_DEFAULT_MS], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?)
}

/// The sums of a day before its first observation: what the day before left.
pub(super) fn begin_day(
    connection: &Connection,
    day: i64,
    holds: &HashMap<i64, i64>,
) -> Result<HashMap<i64, Day>, Fault> {
    let mut statement = connection
        .prepare_cached("SELECT check_id, last_at, last_outcome FROM daily WHERE day = ?1 AND last_at IS NOT NULL")?;
    let mut rows = statement.query([day - 1])?;
    let mut days = HashMap::new();
    while let Some(row) = rows.next()? {
        let (check, at, outcome): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let carry = Some((at, encode::outcome_of(outcome)?));
        days.insert(check, Day::new(day, holds.get(&check).copied().unwrap_or(HOLD_DEFAULT_MS), carry));
    }
    Ok(days)
}

/// Adds observations of `day` after `cursor` to the sums, at most `rows_max`; the number of the last one, and how
/// many there were.
pub(super) fn add_rows(
    connection: &Connection,
    day: i64,
    cursor: i64,
    rows_max: usize,
    holds: &HashMap<i64, i64>,
    days: &mut HashMap<i64, Day>,
) -> Result<(i64, usize), Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT o.id, o.check_id, o.verdict, d.id, d.fate, d.accept, d.duplicates, d.messages, d.late, d.lost,
             d.unsent
         FROM observation o LEFT JOIN delivery d ON d.id = o.id
         WHERE o.id > ?1 AND o.id < ?2 ORDER BY o.id LIMIT ?3",
    )?;
    let mut rows = statement.query(params![cursor, first_id_of_day(day + 1), rows_max as i64])?;
    let (mut last, mut count) = (cursor, 0);
    while let Some(row) = rows.next()? {
        let (id, check): (i64, i64) = (row.get(0)?, row.get(1)?);
        let (outcome, latency_us) = encode::verdict_parts(row.get(2)?)?;
        let counts = match row.get::<_, Option<i64>>(4)? {
            None => None,
            Some(fate) => {
                let (fate, accept) = (encode::fate_of(fate)?, encode::accept_of(row.get(5)?)?);
                let duplicates = u64::from(row.get::<_, u32>(6)?);
                let column = |n: usize| row.get::<_, Option<u32>>(n).map(|count| u64::from(count.unwrap_or(0)));
                Some(match row.get::<_, Option<u32>>(7)?.map(u64::from) {
                    None => Counts {
                        sent: u64::from(matches!(accept, Accept::Accepted | Accept::Uncertain)),
                        lost: u64::from(fate == Fate::Lost),
                        late: u64::from(fate == Fate::Late),
                        duplicated: u64::from(duplicates > 0),
                    },
                    Some(messages) => Counts {
                        sent: messages.saturating_sub(column(10)?),
                        lost: column(9)?,
                        late: column(8)?,
                        duplicated: duplicates.min(messages),
                    },
                })
            }
        };
        days.entry(check)
            .or_insert_with(|| Day::new(day, holds.get(&check).copied().unwrap_or(HOLD_DEFAULT_MS), None))
            .push(id >> SLOT_BITS, outcome, latency_us, counts);
        (last, count) = (id, count + 1);
    }
    Ok((last, count))
}

impl Roll {
    /// Begins with a day; `sealed` is one whose observations are all in blocks.
    pub fn start(connection: &Connection, day: i64, sealed: bool) -> Result<Self, Fault> {
        let holds = holds(connection)?;
        let days = begin_day(connection, day, &holds)?;
        let (cursor, blocks) = match sealed {
            true => (first_id_of_day(day + 1), Some(block_id(day, 0, 0))),
            false => (first_id_of_day(day) - 1, None),
        };
        Ok(Self { day, cursor, blocks, holds, days, ready: None, carry_changed: false, carries: false })
    }

    /// Reads on; at the end of the day, makes the rows ready.
    pub fn read(&mut self, connection: &Connection) -> Result<usize, Fault> {
        let (count, at_end) = match self.blocks {
            None => {
                let (last, count) =
                    add_rows(connection, self.day, self.cursor, ROLL_ROWS_MAX, &self.holds, &mut self.days)?;
                self.cursor = last;
                (count, count < ROLL_ROWS_MAX)
            }
            Some(from) => self.add_blocks(connection, from)?,
        };
        if at_end {
            let end_ms = (self.day + 1).saturating_mul(DAY_MS);
            let mut ready: Vec<_> = self.days.drain().collect();
            ready.sort_by_key(|(check, _)| std::cmp::Reverse(*check));
            for (check, day) in &mut ready {
                let last = day.finish(end_ms);
                let hold_ms = self.holds.get(check).copied().unwrap_or(HOLD_DEFAULT_MS);
                self.carries |= last.is_some_and(|(at_ms, _)| at_ms.saturating_add(hold_ms) > end_ms);
            }
            ready.retain(|(_, day)| !day.is_empty());
            self.ready = Some(ready);
        }
        Ok(count)
    }

    /// Adds the next check's sealed observations; how many, and whether that was all.
    fn add_blocks(&mut self, connection: &Connection, from: i64) -> Result<(usize, bool), Fault> {
        let next: Option<i64> = connection
            .prepare_cached("SELECT min(id) FROM block WHERE id >= ?1 AND id < ?2")?
            .query_row([from, block_id(self.day + 1, 0, 0)], |row| row.get(0))?;
        let Some((_, check)) = next.map(day_and_check) else { return Ok((0, true)) };
        self.blocks = Some(block_id(self.day, check + 1, 0));
        match sealed::day_of_check(connection, check, self.day) {
            Ok(all) => {
                let hold_ms = self.holds.get(&check).copied().unwrap_or(HOLD_DEFAULT_MS);
                let sums = self.days.entry(check).or_insert_with(|| Day::new(self.day, hold_ms, None));
                for (id, o) in &all {
                    let latency_us = encode::to_us(o.latency());
                    sums.push(id >> SLOT_BITS, o.outcome, latency_us, o.delivery.as_ref().map(counts_of));
                }
                Ok((all.len().max(1), false))
            }
            // What cannot be read any more is told as it was.
            Err(Fault::Inconsistent(_)) => {
                self.days.remove(&check);
                Ok((1, false))
            }
            Err(error) => Err(error),
        }
    }

    /// Writes some rows; whether all are written.
    pub fn write(&mut self, tx: &Transaction<'_>, again: bool) -> Result<bool, Fault> {
        let Some(ready) = &mut self.ready else { return Ok(false) };
        for _ in 0..DAILY_ROWS_MAX {
            let Some((check, mut day)) = ready.pop() else { return Ok(true) };
            let last = day.finish(i64::MAX).map(|(at_ms, outcome)| (at_ms, encode::outcome_code(outcome)));
            let before: Option<(Option<i64>, Option<i64>, i64)> = tx
                .prepare_cached(
                    "SELECT last_at, last_outcome, ok + slow + failed + unknown FROM daily
                     WHERE day = ?1 AND check_id = ?2",
                )?
                .query_row([self.day, check], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .optional()?;
            // A day that was rolled up when more of it was there tells more than what is left.
            let attempts = day.attempts.iter().sum::<u64>().cast_signed();
            if before.is_some_and(|(_, _, told)| told > attempts) {
                continue;
            }
            if again {
                let before = before.and_then(|(at, outcome, _)| at.zip(outcome));
                self.carry_changed |= before != last;
            }
            write_day(tx, self.day, check, &day, last)?;
        }
        Ok(ready.is_empty())
    }
}

fn counts_of(delivery: &Delivery) -> Counts {
    let (fates, duplicates) = (delivery.fates, u64::from(delivery.duplicates));
    let messages = u64::from(fates.messages());
    if messages == 0 {
        return Counts {
            sent: u64::from(matches!(delivery.accept, Accept::Accepted | Accept::Uncertain)),
            lost: u64::from(delivery.fate == Fate::Lost),
            late: u64::from(delivery.fate == Fate::Late),
            duplicated: u64::from(duplicates > 0),
        };
    }
    Counts {
        sent: messages.saturating_sub(u64::from(fates.unsent)),
        lost: u64::from(fates.lost),
        late: u64::from(fates.late),
        duplicated: duplicates.min(messages),
    }
}

fn write_day(tx: &Transaction<'_>, number: i64, check: i64, day: &Day, last: Option<(i64, i64)>) -> Result<(), Fault> {
    let [ok, slow, failed, unknown] = day.attempts.map(u64::cast_signed);
    tx.prepare_cached(
        "INSERT OR REPLACE INTO daily (day, check_id, ok, slow, failed, unknown, up_ms, down_ms, unknown_ms, sent,
             lost, late, duplicated, p50_ms, p95_ms, p99_ms, sketch, last_at, last_outcome)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)",
    )?
    .execute(params![
        number,
        check,
        ok,
        slow,
        failed,
        unknown,
        day.up_ms,
        day.down_ms,
        day.unknown_ms,
        day.sent.cast_signed(),
        day.lost.cast_signed(),
        day.late.cast_signed(),
        day.duplicated.cast_signed(),
        day.latencies.quantile_ms(0.50),
        day.latencies.quantile_ms(0.95),
        day.latencies.quantile_ms(0.99),
        day.latencies.to_bytes(),
        last.map(|l| l.0),
        last.map(|l| l.1),
    ])?;
    Ok(())
}
