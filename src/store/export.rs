//! Reading all observations of a time, raw and sealed, a part at a time.

use std::collections::{HashMap, hash_map::Entry};

use rusqlite::{OptionalExtension, params};

use super::{
    encode::{self, day_of_id},
    error::{Fault, StoreError},
    read,
    reader::Reader,
    seal, sealed,
};
use crate::{
    observation::Observation,
    value::{CheckName, Timestamp},
};

/// Where a reading of many observations goes on; see [`Reader::export`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The number of the next observation; within a sealed day that of the first one wanted.
    id: i64,
    /// Within a sealed day, the number of the next check.
    check: i64,
    /// The number of the first raw observation wanted.
    raw: i64,
}

/// A part of a reading of many observations.
#[derive(Clone, Debug, PartialEq)]
pub struct Exported {
    /// Observations with their checks' names.
    pub rows: Vec<(CheckName, Observation)>,
    /// Where the next part begins; `None` when there is no more.
    pub next: Option<Cursor>,
}

impl Cursor {
    /// Before the first observation of an instant.
    pub fn at(from: Timestamp) -> Self {
        let id = encode::first_id(from);
        Self { id, check: 0, raw: id }
    }
}

impl Reader {
    /// Observations from `from` until before `to`, of one check or all: those of sealed days a day and check after the
    /// other, then those that are in none, oldest first. A part is a check's sealed day, or `limit` raw ones at most; each is read
    /// in a transaction of its own, so whoever takes long over one holds nothing.
    ///
    /// # Errors
    /// When the file cannot be read; a damaged block names check and day.
    pub fn export(
        &self,
        from: Cursor,
        to: Timestamp,
        check: Option<&CheckName>,
        limit: usize,
    ) -> Result<Exported, StoreError> {
        self.ask("reading observations", |c| {
            let (to, raw_from) = (encode::first_id(to), sealed::raw_from_id(c)?);
            let wanted = check.map(|check| sealed::check_id(c, check)).transpose()?;
            if let Some(block) = next_block(c, from, to.min(raw_from), wanted)? {
                return sealed_part(c, from, to, block);
            }
            raw_part(c, from.raw, to, check, limit)
        })
    }
}

/// A sealed day of a check.
struct Block {
    day: i64,
    check: i64,
}

/// The next sealed day of a check; of the wanted one, if one is wanted: `Some(None)` is one that nobody knows.
fn next_block(
    c: &rusqlite::Connection,
    from: Cursor,
    to: i64,
    wanted: Option<Option<i64>>,
) -> Result<Option<Block>, Fault> {
    let mut statement = c.prepare_cached("SELECT min(id) FROM block WHERE id >= ?1 AND id < ?2")?;
    let mut first = |low: i64, high: i64| {
        let id: Option<i64> = statement.query_row(params![low, high], |row| row.get(0))?;
        Ok::<_, Fault>(id.map(seal::day_and_check))
    };
    if from.id >= to {
        return Ok(None);
    }
    let (day, last) = (day_of_id(from.id), day_of_id(to - 1));
    let found = match wanted {
        None => first(seal::block_id(day, from.check, 0), seal::first_block_of_day(last + 1))?,
        Some(None) => None,
        Some(Some(check)) => {
            // The first block of any check tells where there are days at all.
            let any = first(seal::first_block_of_day(day), seal::first_block_of_day(last + 1))?;
            let mut found = None;
            for day in any.map_or(last + 1, |(any, _)| any)..=last {
                let passed = day == day_of_id(from.id) && from.check > check;
                found = if passed {
                    None
                } else {
                    first(seal::block_id(day, check, 0), seal::block_id(day, check + 1, 0))?
                };
                if found.is_some() {
                    break;
                }
            }
            found
        }
    };
    Ok(found.map(|(day, check)| Block { day, check }))
}

fn sealed_part(c: &rusqlite::Connection, from: Cursor, to: i64, block: Block) -> Result<Exported, Fault> {
    let Block { day, check } = block;
    let name: Option<String> = c
        .prepare_cached("SELECT name FROM known_check WHERE id = ?1")?
        .query_row([check], |row| row.get(0))
        .optional()?;
    let name = name.ok_or_else(|| Fault::Inconsistent(format!("sealed observations have no check {check}")))?;
    let name = read::check_name(&name)?;
    let of_day = sealed::day_of_check(c, check, day)?;
    let rows =
        of_day.into_iter().filter(|(id, _)| (from.id..to).contains(id)).map(|(_, o)| (name.clone(), o)).collect();
    let next = Cursor { id: from.id.max(encode::first_id_of_day(day)), check: check + 1, raw: from.raw };
    Ok(Exported { rows, next: Some(next) })
}

fn raw_part(
    c: &rusqlite::Connection,
    from: i64,
    to: i64,
    check: Option<&CheckName>,
    limit: usize,
) -> Result<Exported, Fault> {
    let (mut found, mut last, mut failed) = (Vec::new(), None, None);
    let raw_from = sealed::raw_from_id(c)?;
    let mut numbers = HashMap::new();
    let mut is_sealed = |id: i64, name: &CheckName| -> Result<bool, Fault> {
        let (true, Some(check)) = (id < raw_from, sealed::check_id(c, name)?) else { return Ok(false) };
        let of_day = match numbers.entry((check, day_of_id(id))) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(sealed::numbers(c, check, day_of_id(id))?),
        };
        Ok(of_day.contains(&id))
    };
    read::each(c, from, to, check, |id, name, read| {
        last = Some(id);
        let name = name.ok_or_else(|| Fault::Inconsistent(format!("observation {id} has no check")));
        let take = || {
            let name = read::check_name(&name?)?;
            if !is_sealed(id, &name)? {
                found.push((name, read?));
            }
            Ok(())
        };
        if let Err(error) = take() {
            failed = Some(error);
        }
        failed.is_none() && found.len() < limit
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let next = last.filter(|_| found.len() >= limit).map(|id| Cursor { id: to, check: 0, raw: id.saturating_add(1) });
    Ok(Exported { rows: found, next })
}
