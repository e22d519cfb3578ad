//! Sealing: a day's raw observations become blocks before retention deletes them.
//!
//! Check by check, each read along its chain from the day's last observation on. What was read is in memory until a block is
//! full or the day is read; then it is written. Should the chain not lead to as many as the roll-up has counted (an attempt
//! that was told after later ones), the day is read from its start instead. A crash in between leaves blocks beside raw
//! observations, which count until the day is done; then the next start seals the day anew.
//!
//! Observations that arrive for a day that is sealed are added to its blocks as further parts: what is sealed stays as
//! it is, readable or not.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use rusqlite::{Connection, OptionalExtension, Row as SqlRow, Transaction, TransactionBehavior, params};

use super::{
    block::{self, FACTS, Mail, Row, Rows},
    encode::{self, first_id_of_day},
    error::Fault,
    sealed,
};

/// Observations read in one call: a few milliseconds.
const SEAL_ROWS: usize = 2_000;

/// Observations looked at in one call to see which checks have how many: of each its number only.
const LOOK_ROWS: i64 = 20_000;

/// Parts that a day of one check may have.
const PART_BITS: u32 = 12;

/// Checks that the number of a block can tell apart.
const CHECK_BITS: u32 = 32;

/// The last part. A chain is read from its end, so its parts are numbered from here downwards.
const PART_LAST: i64 = (1 << PART_BITS) - 1;

/// The number of a part of a check's day.
pub(super) fn block_id(day: i64, check: i64, part: i64) -> i64 {
    (day << (CHECK_BITS + PART_BITS)) | ((check & ((1 << CHECK_BITS) - 1)) << PART_BITS) | part
}

/// The day and the check of a block's number.
pub(super) fn day_and_check(id: i64) -> (i64, i64) {
    (id >> (CHECK_BITS + PART_BITS), (id >> PART_BITS) & ((1 << CHECK_BITS) - 1))
}

/// The first number of a day's blocks.
pub(super) fn first_block_of_day(day: i64) -> i64 {
    block_id(day, 0, 0)
}

/// The sealing of a day in progress.
pub(super) struct Seal {
    pub day: i64,
    /// Whether the day is sealed and has got more.
    adding: bool,
    /// Until all of the day was looked at: what was seen last.
    looking: Option<i64>,
    /// By check, the day's last observation and how many there are. Not by its roll-up, which may be gone.
    seen: BTreeMap<i64, (i64, usize)>,
    /// Checks still to be sealed, with these.
    left: VecDeque<(i64, i64, usize)>,
    current: Option<Gathering>,
}

/// The observations of one check, as far as they are read.
struct Gathering {
    check: i64,
    day: i64,
    expected: usize,
    /// What is sealed already, if the day is.
    sealed: Option<HashSet<i64>>,
    /// All that were read, those in blocks written already among them.
    count: usize,
    /// Down the chain, the number of the last that was read.
    below: i64,
    rows: Rows,
    /// Positions of pieces of evidence in `rows.texts`, by their numbers.
    texts: HashMap<i64, usize>,
    text_bytes: usize,
    place: Place,
    /// Whether it is read from the start of the day on.
    upwards: bool,
    /// The part that is written next.
    part: i64,
}

/// Where reading goes on.
enum Place {
    /// Down the chain; the number of the next, if there is one.
    Chain(Option<i64>),
    /// Up the day; the number of the last.
    Day(i64),
    /// All is read.
    End,
}

impl Seal {
    /// Begins with a day that is over, and perhaps sealed before.
    pub fn start(day: i64, adding: bool) -> Self {
        let looking = Some(first_id_of_day(day) - 1);
        Self { day, adding, looking, seen: BTreeMap::new(), left: VecDeque::new(), current: None }
    }

    /// Looks which checks have how many observations; whether all of the day was looked at.
    fn look(&mut self, connection: &Connection) -> Result<bool, Fault> {
        let Some(after) = self.looking else { return Ok(true) };
        let mut statement = connection
            .prepare_cached("SELECT id, check_id FROM observation WHERE id > ?1 AND id < ?2 ORDER BY id LIMIT ?3")?;
        let mut rows = statement.query([after, first_id_of_day(self.day + 1), LOOK_ROWS])?;
        let (mut last, mut count) = (after, 0);
        while let Some(row) = rows.next()? {
            (last, count) = (row.get(0)?, count + 1);
            let seen = self.seen.entry(row.get(1)?).or_default();
            *seen = (last, seen.1 + 1);
        }
        self.looking = (count == LOOK_ROWS).then_some(last);
        if self.looking.is_none() {
            self.left = std::mem::take(&mut self.seen).into_iter().map(|(check, (id, n))| (check, id, n)).collect();
        }
        Ok(false)
    }

    /// Reads and writes on; whether the day is done.
    pub fn go_on(&mut self, connection: &mut Connection) -> Result<bool, Fault> {
        if !self.look(connection)? {
            return Ok(false);
        }
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut read = 0;
        while read < SEAL_ROWS {
            let gathering = match self.current.take() {
                Some(gathering) => gathering,
                None => match self.left.pop_front() {
                    Some(next) => Gathering::start(&tx, self.day, next, self.adding)?,
                    None => {
                        tx.commit()?;
                        return Ok(true);
                    }
                },
            };
            self.current = gathering.go_on(&tx, SEAL_ROWS - read, &mut read)?;
            // A check costs something also when it has few.
            read += 1;
        }
        tx.commit()?;
        Ok(false)
    }
}

impl Gathering {
    fn start(
        tx: &Transaction<'_>,
        day: i64,
        (check, last, expected): (i64, i64, usize),
        adding: bool,
    ) -> Result<Self, Fault> {
        let sealed = if adding { Some(sealed::numbers(tx, check, day)?) } else { None };
        let (rows, texts) = (Rows::default(), HashMap::new());
        let (place, upwards, part) = (Place::Chain(Some(last)), false, PART_LAST);
        let below = first_id_of_day(day + 1);
        Ok(Self { check, day, expected, sealed, count: 0, below, rows, texts, text_bytes: 0, place, upwards, part })
    }

    /// The same once more, from the start of the day.
    fn again(self, tx: &Transaction<'_>) -> Result<Self, Fault> {
        let (rows, texts) = (Rows::default(), HashMap::new());
        let place = Place::Day(first_id_of_day(self.day) - 1);
        // What this sealing has added already stays.
        let sealed = self.sealed.map(|_| sealed::numbers(tx, self.check, self.day)).transpose()?;
        Ok(Self { sealed, count: 0, rows, texts, text_bytes: 0, place, upwards: true, part: 0, ..self })
    }

    /// Reads at most so many more, and writes what is complete; `None` when the check is done.
    fn go_on(mut self, tx: &Transaction<'_>, most: usize, read: &mut usize) -> Result<Option<Self>, Fault> {
        match self.place {
            Place::Chain(_) => self.follow(tx, most, read)?,
            Place::Day(after) => self.scan(tx, after, most, read)?,
            Place::End => {}
        }
        if !matches!(self.place, Place::End) {
            return Ok(Some(self));
        }
        if self.upwards || self.count == self.expected {
            self.write(tx)?;
            return Ok(None);
        }
        Ok(Some(self.again(tx)?))
    }

    /// Down the chain.
    fn follow(&mut self, tx: &Transaction<'_>, most: usize, read: &mut usize) -> Result<(), Fault> {
        let (from, to) = (first_id_of_day(self.day), first_id_of_day(self.day + 1));
        let mut statement = tx.prepare_cached(&format!("{SELECT} WHERE o.id = ?1 AND o.check_id = ?2"))?;
        for _ in 0..most {
            let Place::Chain(Some(id)) = self.place else { break };
            // Where the chain leads out of the day, or forward in time, it has told what it can.
            if id < from || id >= self.below.min(to) {
                self.place = Place::Chain(None);
                break;
            }
            let Some((row, link, number)) =
                statement.query_row([id, self.check], |row| Ok(read_row(row))).optional()?.transpose()?
            else {
                self.place = Place::Chain(None);
                break;
            };
            *read += 1;
            self.below = id;
            self.take(tx, row, number)?;
            self.place = Place::Chain(link.map(|link| encode::linked(id, link)));
        }
        if let Place::Chain(None) = self.place {
            self.place = Place::End;
        }
        Ok(())
    }

    /// Up the day, past the observations of the other checks.
    fn scan(&mut self, tx: &Transaction<'_>, after: i64, most: usize, read: &mut usize) -> Result<(), Fault> {
        let to = first_id_of_day(self.day + 1);
        let mut statement =
            tx.prepare_cached(&format!("{SELECT} WHERE o.id > ?1 AND o.id < ?2 ORDER BY o.id LIMIT ?3"))?;
        let mut rows = statement.query(params![after, to, most as i64])?;
        let (mut last, mut count) = (after, 0);
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            (last, count) = (row.get(0)?, count + 1);
            if row.get::<_, i64>(1)? == self.check {
                found.push(read_row(row)?);
            }
        }
        drop(rows);
        for (row, _, number) in found {
            self.take(tx, row, number)?;
        }
        *read += count;
        self.place = if count < most { Place::End } else { Place::Day(last) };
        Ok(())
    }

    fn take(&mut self, tx: &Transaction<'_>, mut row: Row, number: Option<i64>) -> Result<(), Fault> {
        self.count += 1;
        if self.sealed.as_ref().is_some_and(|sealed| sealed.contains(&row.id)) {
            return Ok(());
        }
        if self.rows.rows.len() >= block::ROWS_MAX || self.text_bytes >= block::TEXT_BYTES_MAX {
            self.write(tx)?;
        }
        row.evidence = match number {
            Some(number) => self.text(tx, number)?,
            None => None,
        };
        self.rows.rows.push(row);
        Ok(())
    }

    fn text(&mut self, tx: &Transaction<'_>, number: i64) -> Result<Option<usize>, Fault> {
        if let Some(position) = self.texts.get(&number) {
            return Ok(Some(*position));
        }
        let json: Option<String> = tx
            .prepare_cached("SELECT json FROM evidence WHERE day = ?1 AND check_id = ?2 AND number = ?3")?
            .query_row([self.day, self.check, number], |row| row.get(0))
            .optional()?;
        let Some(json) = json else { return Ok(None) };
        self.text_bytes += json.len();
        self.rows.texts.push(json);
        self.texts.insert(number, self.rows.texts.len() - 1);
        Ok(Some(self.rows.texts.len() - 1))
    }

    /// Writes what was gathered as a part; the first one takes the place of what an earlier sealing of the day has left,
    /// unless that was done.
    fn write(&mut self, tx: &Transaction<'_>) -> Result<(), Fault> {
        let mut rows = std::mem::take(&mut self.rows);
        if !self.upwards {
            rows.rows.reverse();
        }
        if self.sealed.is_some() {
            self.part = free_part(tx, self.day, self.check)?;
        } else if self.part == 0 || self.part == PART_LAST {
            let (first, last) = (block_id(self.day, self.check, 0), block_id(self.day, self.check, PART_LAST));
            tx.prepare_cached("DELETE FROM block WHERE id >= ?1 AND id <= ?2")?.execute([first, last])?;
        }
        if rows.rows.is_empty() {
            return Ok(());
        }
        let id = block_id(self.day, self.check, self.part);
        tx.prepare_cached("INSERT INTO block (id, data) VALUES (?1, ?2)")?.execute(params![id, block::pack(&rows)])?;
        (self.texts, self.text_bytes) = (HashMap::new(), 0);
        self.part += if self.upwards { 1 } else { -1 };
        Ok(())
    }
}

/// A part that is not taken: below those there are, or else above them. Readers put observations in order.
fn free_part(tx: &Transaction<'_>, day: i64, check: i64) -> Result<i64, Fault> {
    let (first, last): (Option<i64>, Option<i64>) = tx
        .prepare_cached("SELECT min(id), max(id) FROM block WHERE id >= ?1 AND id <= ?2")?
        .query_row([block_id(day, check, 0), block_id(day, check, PART_LAST)], |row| Ok((row.get(0)?, row.get(1)?)))?;
    match (first.map_or(PART_LAST + 1, |id| id & PART_LAST), last.map_or(0, |id| id & PART_LAST)) {
        (first @ 1.., _) => Ok(first - 1),
        (_, last) if last < PART_LAST => Ok(last + 1),
        _ => Err(Fault::Inconsistent(format!("a day of check {check} has too many parts"))),
    }
}

const SELECT: &str =
    "SELECT o.id, o.check_id, o.verdict, o.previous, o.phases, o.evidence, d.duration_us, d.fate, d.accept,
    d.integrity, d.duplicates, d.foreign_, d.reordered, d.changed, d.messages, d.late, d.pending, d.lost, d.unsent,
    d.uncertain, d.login_ok, d.reconnections, d.sequence, d.accept_us, d.latency_us, d.login_us
    FROM observation o LEFT JOIN delivery d ON d.id = o.id";

/// The places of a delivery's columns that are facts, in the order of [`Mail::facts`]; a second number is added to what is
/// there, so that 0 is left for what is not.
const FACT_COLUMNS: [(usize, u64); FACTS] = [
    (7, 0),
    (8, 0),
    (9, 1),
    (10, 0),
    (11, 0),
    (12, 0),
    (13, 0),
    (14, 0),
    (15, 0),
    (16, 0),
    (17, 0),
    (18, 0),
    (19, 0),
    (20, 1),
    (21, 0),
];

/// An observation, what leads to the one before it, and the number of its evidence.
fn read_row(row: &SqlRow<'_>) -> Result<(Row, Option<i64>, Option<i64>), Fault> {
    let verdict: i64 = row.get(2)?;
    let us = |column: usize| -> Result<Option<u64>, Fault> {
        Ok(row.get::<_, Option<i64>>(column)?.map(|us| u64::try_from(us).unwrap_or(0)))
    };
    let mail = match row.get::<_, Option<i64>>(7)? {
        None => None,
        Some(_) => {
            let mut facts = [0; FACTS];
            for (fact, (column, more)) in facts.iter_mut().zip(FACT_COLUMNS) {
                *fact = us(column)?.map_or(0, |n| n + more);
            }
            let sequence = row.get::<_, i64>(22)?.cast_unsigned();
            Some(Mail { facts, sequence, accept_us: us(23)?, latency_us: us(24)?, login_us: us(25)? })
        }
    };
    let observation = Row {
        id: row.get(0)?,
        outcome: (verdict & 3) as u8,
        duration_us: us(6)?.unwrap_or(u64::try_from(verdict >> 2).unwrap_or(0)),
        phases: row.get_ref(4)?.as_blob_or_null().map_err(rusqlite::Error::from)?.unwrap_or_default().to_vec(),
        evidence: None,
        mail,
    };
    Ok((observation, row.get(3)?, row.get(5)?))
}
