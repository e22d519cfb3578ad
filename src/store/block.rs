//! A check's day in few bytes: what becomes of raw observations when their retention is over.
//!
//! Pure. What is kept: of an observation that is `ok` its instant exactly, its times to 0.8 % (phases as coarsely as the
//! raw row has them, starts and lengths of a delivery's phases to 0.8 %), its evidence, and of its messages all that was
//! counted; anything else is kept whole, to the microsecond. Packing what was unpacked gives the same bytes again, so a
//! block may be opened and added to any number of times.
//!
//! ```text
//! version  1 byte
//! count    observations, in the order of their numbers
//! head     instants as deviations from a grid; slots; outcomes; durations of those that are ok; exact ones of the others
//! mail     who has a delivery; shapes of deliveries; sequences; times to acceptance, to arrival, of a login
//! rest     evidence: references and texts (deflated); phases: shapes and lengths
//! crc      CRC-32 of all before it, least significant byte first
//! ```
//!
//! Times of `ok` observations are buckets, 64 to each doubling, and stand as deviations from their own slowly moving mean.
//! References say "as before", "the next new one" or which, so that what stays the same costs nothing. A reader of
//! outcomes and latencies leaves the rest alone.

mod column;
mod rest;

use self::column::{
    Damaged, put_bytes, put_column, put_varint, skip_column, take_bytes, take_column, take_varint, unzigzag, zigzag,
};
use super::encode::SLOT_BITS;
use crate::observation::Outcome;

/// The format; a file may hold blocks of several.
const VERSION: u8 = 1;

/// Most observations of a block: bounds what a reader holds, and how long packing takes (some
/// milliseconds). A day of more has several.
pub(super) const ROWS_MAX: usize = 16_384;

/// Most bytes of evidence in a block, before they are deflated.
pub(super) const TEXT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Numbers counted of a delivery that are the same for most; see [`Mail::facts`].
pub(super) const FACTS: usize = 15;

/// How fast the mean follows: an eighth of each deviation.
const MEAN_SHIFT: u32 = 3;

/// Bits of a bucket's place within its doubling: 64 to each, so that the middle of one is within 1/128 of what it holds.
const BUCKET_BITS: u32 = 6;

/// An observation, as close to its row as to its block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Its number.
    pub id: i64,
    /// Its outcome's code.
    pub outcome: u8,
    pub duration_us: u64,
    /// As the raw row has them.
    pub phases: Vec<u8>,
    /// Position in [`Rows::texts`].
    pub evidence: Option<usize>,
    pub mail: Option<Mail>,
}

/// What a delivery measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mail {
    /// Fate, acceptance, integrity (one more, 0 for none), duplicates, foreign ones, reordered ones, changed ones, messages
    /// (0 for a single one), late, pending, lost, unsent and uncertain ones, login (0 none, 1 refused, 2 let in),
    /// reconnections.
    pub facts: [u64; FACTS],
    pub sequence: u64,
    pub accept_us: Option<u64>,
    pub latency_us: Option<u64>,
    pub login_us: Option<u64>,
}

/// Observations of one check, in the order of their numbers, and the evidence they share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rows {
    pub rows: Vec<Row>,
    pub texts: Vec<String>,
}

/// The little of an observation that most readers want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub id: i64,
    pub outcome: u8,
    pub latency_us: u64,
}

impl Row {
    fn is_ok(&self) -> bool {
        self.outcome == OK
    }
}

/// The code of `ok`.
const OK: u8 = 0;

/// The bucket of a time: itself below 128 µs.
fn bucket(us: u64) -> u64 {
    let exponent = 63_u32.saturating_sub(us.leading_zeros());
    if exponent <= BUCKET_BITS {
        return us;
    }
    let shift = exponent - BUCKET_BITS;
    (u64::from(shift) << BUCKET_BITS) + (us >> shift)
}

/// The middle of a bucket.
fn middle(bucket: u64) -> Result<u64, Damaged> {
    let per_doubling = 1 << BUCKET_BITS;
    if bucket < 2 * per_doubling {
        return Ok(bucket);
    }
    let shift = bucket / per_doubling - 1;
    if shift > u64::from(63 - BUCKET_BITS) {
        return Err(Damaged);
    }
    let place = bucket % per_doubling + per_doubling;
    Ok((place << shift) | (1 << (shift - 1)))
}

/// The slowly moving mean of what went before.
#[derive(Clone, Default)]
struct Mean(Option<i64>);

impl Mean {
    const FRACTION_BITS: u32 = 4;

    fn told(&self) -> i64 {
        self.0.map_or(0, |mean| mean >> Self::FRACTION_BITS)
    }

    fn follow(&mut self, value: i64) {
        let scaled = value << Self::FRACTION_BITS;
        self.0 = Some(self.0.map_or(scaled, |mean| mean + ((scaled - mean) >> MEAN_SHIFT)));
    }

    fn put(&mut self, value: u64) -> u64 {
        let value = value.cast_signed();
        let code = zigzag(value - self.told());
        self.follow(value);
        code
    }

    fn take(&mut self, code: u64) -> Result<u64, Damaged> {
        // Buckets and codes are small; anything else would overflow the mean.
        let value = self.told().checked_add(unzigzag(code)).filter(|v| (0..=0xFFFF).contains(v)).ok_or(Damaged)?;
        self.follow(value);
        Ok(value.cast_unsigned())
    }
}

/// References to a list in the order of first use: 0 for the one before, 1 for the next new one, else two more than the
/// position.
struct References {
    last: usize,
    known: usize,
}

impl References {
    fn new() -> Self {
        Self { last: 0, known: 0 }
    }

    fn put(&mut self, position: usize) -> u64 {
        let code = match position {
            new if new == self.known => 1,
            same if same == self.last => 0,
            other => other as u64 + 2,
        };
        self.known = self.known.max(position + 1);
        self.last = position;
        code
    }

    fn take(&mut self, code: u64) -> Result<usize, Damaged> {
        let position = match code {
            0 => self.last,
            1 => self.known,
            other => usize::try_from(other - 2).map_err(|_| Damaged)?,
        };
        self.known = self.known.max(position.saturating_add(1));
        self.last = position;
        Ok(position)
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Packing

/// Packs observations, at most [`ROWS_MAX`], whose numbers ascend.
pub(super) fn pack(all: &Rows) -> Vec<u8> {
    let rows = &all.rows;
    let mut to = vec![VERSION];
    put_varint(&mut to, rows.len() as u64);
    put_instants(&mut to, rows);
    put_column(&mut to, &rows.iter().map(|r| u64::from(r.outcome)).collect::<Vec<_>>());
    put_times(&mut to, rows, |row| Some(row.duration_us));
    put_mail(&mut to, rows);
    rest::put(&mut to, all);
    let crc = crc32fast::hash(&to);
    to.extend(crc.to_le_bytes());
    to
}

fn put_instants(to: &mut Vec<u8>, rows: &[Row]) {
    let at_ms: Vec<i64> = rows.iter().map(|row| row.id >> SLOT_BITS).collect();
    let mut steps: Vec<i64> = at_ms.windows(2).map(|w| w[1] - w[0]).collect();
    let middle = steps.len() / 2;
    let interval = if steps.is_empty() { 0 } else { *steps.select_nth_unstable(middle).1 };
    let first = at_ms.first().copied().unwrap_or(0);
    put_varint(to, first.cast_unsigned());
    put_varint(to, interval.cast_unsigned());
    let mut grid = Grid { at: first - interval, interval };
    put_column(to, &at_ms.iter().map(|at| zigzag(grid.put(*at))).collect::<Vec<_>>());
    put_column(to, &rows.iter().map(|row| row.id.cast_unsigned() & ((1 << SLOT_BITS) - 1)).collect::<Vec<_>>());
}

/// Where attempts are expected: an interval after the one before, or after where that one should have been when it was
/// near.
struct Grid {
    at: i64,
    interval: i64,
}

impl Grid {
    fn put(&mut self, at: i64) -> i64 {
        let deviation = at.wrapping_sub(self.expected());
        self.follow(at, deviation);
        deviation
    }

    fn take(&mut self, deviation: i64) -> i64 {
        let at = self.expected().wrapping_add(deviation);
        self.follow(at, deviation);
        at
    }

    fn expected(&self) -> i64 {
        self.at.wrapping_add(self.interval)
    }

    fn follow(&mut self, at: i64, deviation: i64) {
        let near = deviation.unsigned_abs() <= self.interval.unsigned_abs() / 2;
        self.at = if near { self.expected() } else { at };
    }
}

/// A time of every row that has it: buckets of those that are ok, the others to the microsecond.
fn put_times(to: &mut Vec<u8>, rows: &[Row], time: impl Fn(&Row) -> Option<u64>) {
    let (mut mean, mut exact) = (Mean::default(), Vec::new());
    let mut codes = Vec::with_capacity(rows.len());
    for row in rows {
        match time(row) {
            Some(us) if row.is_ok() => codes.push(mean.put(bucket(us))),
            Some(us) => put_varint(&mut exact, us),
            None => {}
        }
    }
    put_varint(to, codes.len() as u64);
    put_column(to, &codes);
    put_bytes(to, &exact);
}

fn put_mail(to: &mut Vec<u8>, rows: &[Row]) {
    put_column(to, &rows.iter().map(|row| u64::from(row.mail.is_some())).collect::<Vec<_>>());
    let mails: Vec<&Mail> = rows.iter().filter_map(|row| row.mail.as_ref()).collect();
    if mails.is_empty() {
        return;
    }
    let mut shapes: Vec<Vec<u64>> = Vec::new();
    let mut positions = std::collections::HashMap::new();
    let mut references = References::new();
    let mut codes = Vec::with_capacity(mails.len());
    for mail in &mails {
        let shape = mail.shape();
        let position = *positions.entry(shape.clone()).or_insert_with(|| {
            shapes.push(shape);
            shapes.len() - 1
        });
        codes.push(references.put(position));
    }
    put_varint(to, shapes.len() as u64);
    shapes.iter().flatten().for_each(|n| put_varint(to, *n));
    put_column(to, &codes);
    let mut expected = 0_u64;
    let mut sequences = Vec::with_capacity(mails.len());
    for mail in &mails {
        sequences.push(zigzag(mail.sequence.wrapping_sub(expected).cast_signed()));
        expected = mail.next_sequence();
    }
    put_column(to, &sequences);
    put_times(to, rows, |row| row.mail.as_ref()?.accept_us);
    put_times(to, rows, |row| row.mail.as_ref()?.latency_us);
    put_times(to, rows, |row| row.mail.as_ref()?.login_us);
}

impl Mail {
    /// What most of a check's deliveries have in common: the facts, and which times there are.
    fn shape(&self) -> Vec<u64> {
        let times = [self.accept_us, self.latency_us, self.login_us];
        let times = times.iter().enumerate().map(|(bit, time)| u64::from(time.is_some()) << bit).sum();
        self.facts.into_iter().chain([times]).collect()
    }

    /// Of which message the next delivery begins, as a rule.
    fn next_sequence(&self) -> u64 {
        self.sequence.wrapping_add(self.facts[MESSAGES].max(1))
    }
}

/// The place of the number of messages among the facts.
pub(super) const MESSAGES: usize = 7;

// ---------------------------------------------------------------------------------------------------------------
// Unpacking

/// What the head and the mail of a block say, and what is left of it.
struct Opened<'a> {
    rows: Vec<Row>,
    rest: &'a [u8],
}

/// Unpacks a block.
pub(super) fn unpack(block: &[u8]) -> Result<Rows, Damaged> {
    let mut opened = open(block)?;
    let texts = rest::take(&mut opened.rest, &mut opened.rows)?;
    if !opened.rest.is_empty() {
        return Err(Damaged);
    }
    Ok(Rows { rows: opened.rows, texts })
}

/// The outcomes and latencies of a block.
pub(super) fn points(block: &[u8]) -> Result<Vec<Point>, Damaged> {
    let mut rest = checked(block)?;
    let rest = &mut rest;
    let count = count(rest)?;
    let ids = take_ids(rest, count)?;
    let outcomes = take_outcomes(rest, count)?;
    let mut points: Vec<Point> =
        ids.into_iter().zip(&outcomes).map(|(id, outcome)| Point { id, outcome: *outcome, latency_us: 0 }).collect();
    let is_ok = |n: usize| outcomes.get(n) == Some(&OK);
    take_times(rest, 0..count, is_ok, |n, us| points[n].latency_us = us)?;
    let mails = take_owners(rest, count)?;
    if !mails.is_empty() {
        let shapes = take_shapes(rest, mails.len())?;
        skip_column(rest)?;
        skip_column_with_count(rest)?;
        take_bytes(rest)?;
        let arrived = mails.iter().zip(&shapes).filter(|(_, shape)| shape[FACTS] & LATENCY != 0).map(|(n, _)| *n);
        take_times(rest, arrived, is_ok, |n, us| points[n].latency_us = us)?;
    }
    Ok(points)
}

/// Which times a shape has.
const ACCEPT: u64 = 1;
const LATENCY: u64 = 2;
const LOGIN: u64 = 4;

fn skip_column_with_count(rest: &mut &[u8]) -> Result<(), Damaged> {
    take_varint(rest)?;
    skip_column(rest)
}

/// The content of a block whose digest and version are as they must be.
fn checked(block: &[u8]) -> Result<&[u8], Damaged> {
    let (content, crc) = block.split_last_chunk::<4>().ok_or(Damaged)?;
    if crc32fast::hash(content) != u32::from_le_bytes(*crc) {
        return Err(Damaged);
    }
    match content {
        [VERSION, rest @ ..] => Ok(rest),
        _ => Err(Damaged),
    }
}

fn count(rest: &mut &[u8]) -> Result<usize, Damaged> {
    usize::try_from(take_varint(rest)?).ok().filter(|count| *count <= ROWS_MAX).ok_or(Damaged)
}

fn take_ids(rest: &mut &[u8], count: usize) -> Result<Vec<i64>, Damaged> {
    let first = take_varint(rest)?.cast_signed();
    let interval = take_varint(rest)?.cast_signed();
    let mut grid = Grid { at: first.wrapping_sub(interval), interval };
    let deviations = take_column(rest, count)?;
    let slots = take_column(rest, count)?;
    let ids = deviations.into_iter().zip(slots).map(|(deviation, slot)| {
        let at = grid.take(unzigzag(deviation));
        if !(0..1 << 47).contains(&at) || slot >> SLOT_BITS != 0 {
            return Err(Damaged);
        }
        Ok((at << SLOT_BITS) | slot.cast_signed())
    });
    ids.collect()
}

fn take_outcomes(rest: &mut &[u8], count: usize) -> Result<Vec<u8>, Damaged> {
    let codes = take_column(rest, count)?.into_iter();
    codes.map(|code| u8::try_from(code).ok().filter(|c| usize::from(*c) < Outcome::ALL.len()).ok_or(Damaged)).collect()
}

/// Times of the rows that have one, as [`put_times`] wrote them.
fn take_times(
    rest: &mut &[u8],
    who: impl Iterator<Item = usize>,
    is_ok: impl Fn(usize) -> bool,
    mut give: impl FnMut(usize, u64),
) -> Result<(), Damaged> {
    let count = count(rest)?;
    let mut codes = take_column(rest, count)?.into_iter();
    let mut exact = take_bytes(rest)?;
    let mut mean = Mean::default();
    for row in who {
        let us = match is_ok(row) {
            true => middle(mean.take(codes.next().ok_or(Damaged)?)?)?,
            false => take_varint(&mut exact)?,
        };
        give(row, us);
    }
    if codes.next().is_some() || !exact.is_empty() { Err(Damaged) } else { Ok(()) }
}

/// The rows that have a delivery.
fn take_owners(rest: &mut &[u8], count: usize) -> Result<Vec<usize>, Damaged> {
    let flags = take_column(rest, count)?;
    Ok(flags.iter().enumerate().filter(|(_, flag)| **flag != 0).map(|(n, _)| n).collect())
}

type Shape = [u64; FACTS + 1];

fn take_shapes(rest: &mut &[u8], count: usize) -> Result<Vec<Shape>, Damaged> {
    let known = usize::try_from(take_varint(rest)?).ok().filter(|known| *known <= count).ok_or(Damaged)?;
    let mut shapes = Vec::with_capacity(known);
    for _ in 0..known {
        let mut shape = [0; FACTS + 1];
        for fact in &mut shape {
            *fact = take_varint(rest)?;
        }
        shapes.push(shape);
    }
    let mut references = References::new();
    let codes = take_column(rest, count)?.into_iter();
    codes.map(|code| shapes.get(references.take(code)?).copied().ok_or(Damaged)).collect()
}

fn open(block: &[u8]) -> Result<Opened<'_>, Damaged> {
    let mut content = checked(block)?;
    let rest = &mut content;
    let count = count(rest)?;
    let ids = take_ids(rest, count)?;
    let outcomes = take_outcomes(rest, count)?;
    let row = |(id, outcome)| Row { id, outcome, duration_us: 0, phases: Vec::new(), evidence: None, mail: None };
    let mut rows: Vec<Row> = ids.into_iter().zip(outcomes.iter().copied()).map(row).collect();
    let is_ok = |n: usize| outcomes.get(n) == Some(&OK);
    take_times(rest, 0..count, is_ok, |n, us| rows[n].duration_us = us)?;
    let owners = take_owners(rest, count)?;
    if owners.is_empty() {
        return Ok(Opened { rows, rest: content });
    }
    let shapes = take_shapes(rest, owners.len())?;
    let mut expected = 0_u64;
    let sequences = take_column(rest, owners.len())?;
    for ((n, shape), code) in owners.iter().zip(&shapes).zip(sequences) {
        let mut facts = [0; FACTS];
        facts.copy_from_slice(&shape[..FACTS]);
        let sequence = expected.wrapping_add(unzigzag(code).cast_unsigned());
        let mail = Mail { facts, sequence, accept_us: None, latency_us: None, login_us: None };
        expected = mail.next_sequence();
        rows[*n].mail = Some(mail);
    }
    for (bit, place) in [
        (ACCEPT, (|mail| &mut mail.accept_us) as fn(&mut Mail) -> &mut Option<u64>),
        (LATENCY, |mail| &mut mail.latency_us),
        (LOGIN, |mail| &mut mail.login_us),
    ] {
        let with = owners.iter().zip(&shapes).filter(|(_, shape)| shape[FACTS] & bit != 0).map(|(n, _)| *n);
        take_times(rest, with, is_ok, |n, us| {
            if let Some(mail) = &mut rows[n].mail {
                *place(mail) = Some(us);
            }
        })?;
    }
    Ok(Opened { rows, rest: content })
}

#[cfg(test)]
mod tests;
