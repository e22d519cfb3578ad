//! Days as readers see them: rolled up, or summed up when asked while they are open.

use std::{collections::HashMap, time::Duration};

use rusqlite::{Connection, OptionalExtension};

use super::{
    day::{Day, Latencies},
    encode::{self, DAY_MS, day_of},
    error::{Fault, StoreError},
    read::{self, span_ms},
    reader::Reader,
    roll::{HOLD_DEFAULT_MS, add_rows, begin_day, first_day, holds},
};
use crate::value::{CheckName, Timestamp};

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
