//! Rows that more than one kind of change writes.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{
    encode::{self, first_id},
    error::Fault,
    summed,
};
use crate::{
    incident::Vantage,
    observation::{Delivery, Flight},
    value::Timestamp,
};

/// How the vantage stands.
pub(super) fn write_vantage(tx: &Transaction<'_>, vantage: &Vantage) -> Result<(), Fault> {
    let json = summed::to_json(vantage)?;
    tx.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('vantage', ?1)", [json])?;
    Ok(())
}

/// How the vantage stood; all is well where nothing was ever written of it.
pub(super) fn vantage(connection: &Connection) -> Result<Vantage, Fault> {
    let found: Option<String> =
        connection.query_row("SELECT value FROM meta WHERE key = 'vantage'", [], |row| row.get(0)).optional()?;
    found.map_or_else(|| Ok(Vantage::default()), |json| summed::from_json(&json, "the vantage"))
}

/// Milliseconds tried when all numbers of one are taken: 256 attempts in the same millisecond do not happen, and
/// if a clock stands still they must not stop the store.
const SPILL_MS: i64 = 1_000;

/// What became of an observation's messages, under the observation's number.
pub(super) fn write_delivery(
    tx: &Transaction<'_>,
    id: i64,
    check_id: i64,
    duration_us: i64,
    d: &Delivery,
) -> Result<(), Fault> {
    // A single message's fate says it all.
    let fates = (d.fates.messages() > 1).then_some(d.fates);
    tx.prepare_cached(
        "INSERT OR REPLACE INTO delivery (id, check_id, duration_us, fate, accept, accept_us, latency_us, sequence,
             duplicates, foreign_, reordered, integrity, changed, messages, late, pending, lost, unsent, uncertain,
             login_ok, login_us, reconnections)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22)",
    )?
    .execute(params![
        id,
        check_id,
        duration_us,
        encode::fate_code(d.fate),
        encode::accept_code(d.accept),
        d.accept_ms.map(encode::to_us),
        d.latency_ms.map(encode::to_us),
        // SQLite's integers have a sign; the two casts bring back every value.
        d.sequence.cast_signed(),
        d.duplicates,
        d.foreign,
        d.reordered,
        d.integrity.map(encode::integrity_code),
        d.changed,
        fates.map(|f| f.messages()),
        fates.map(|f| f.late),
        fates.map(|f| f.pending),
        fates.map(|f| f.lost),
        fates.map(|f| f.unsent),
        fates.map(|f| f.uncertain),
        d.login.as_ref().map(|l| l.ok),
        d.login.as_ref().map(|l| encode::to_us(l.ms)),
        d.reconnections.len() as i64,
    ])?;
    Ok(())
}

/// Messages about to be sent, or whose fate is open.
pub(super) fn write_flights(tx: &Transaction<'_>, check_id: i64, flights: &[Flight]) -> Result<(), Fault> {
    let mut insert = tx.prepare_cached(
        "INSERT OR REPLACE INTO flight (check_id, observed_at, sequence, nonce, sent_at, accept, accept_us, arrival_us,
             integrity, bounced, duplicates, reordered, booked)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?;
    for f in flights {
        insert.execute(params![
            check_id,
            f.observed_at.as_millis(),
            f.sequence.cast_signed(),
            f.nonce.cast_signed(),
            f.sent_at.as_millis(),
            f.answer.map(|(accept, _)| encode::accept_code(accept)),
            f.answer.map(|(_, after)| encode::to_us(after)),
            f.arrival.map(|(after, _)| encode::to_us(after)),
            f.arrival.map(|(_, integrity)| encode::integrity_code(integrity)),
            f.bounced,
            f.duplicates,
            f.reordered,
            f.booked,
        ])?;
    }
    Ok(())
}

/// Of an attempt's messages, keeps those whose fate is still open.
pub(super) fn settle_flights(
    tx: &Transaction<'_>,
    check_id: i64,
    observed_at: Timestamp,
    open: &[Flight],
) -> Result<(), Fault> {
    tx.prepare_cached("DELETE FROM flight WHERE check_id = ?1 AND observed_at = ?2")?
        .execute([check_id, observed_at.as_millis()])?;
    write_flights(tx, check_id, open)
}

/// A check's messages whose fate is open, in order of sending.
pub(super) fn flights(connection: &Connection, check_id: i64) -> Result<Vec<Flight>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT observed_at, sequence, nonce, sent_at, accept, accept_us, arrival_us, integrity, bounced, duplicates,
             reordered, booked
         FROM flight WHERE check_id = ?1 ORDER BY observed_at, sequence",
    )?;
    let mut rows = statement.query([check_id])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let accept = row.get::<_, Option<i64>>(4)?.map(encode::accept_of).transpose()?;
        let after = encode::from_us(row.get::<_, Option<i64>>(5)?.unwrap_or(0));
        let integrity = row.get::<_, Option<i64>>(7)?.map(encode::integrity_of).transpose()?;
        let arrived_after = encode::from_us(row.get::<_, Option<i64>>(6)?.unwrap_or(0));
        found.push(Flight {
            sequence: row.get::<_, i64>(1)?.cast_unsigned(),
            nonce: row.get::<_, i64>(2)?.cast_unsigned(),
            sent_at: Timestamp::from_millis(row.get(3)?),
            observed_at: Timestamp::from_millis(row.get(0)?),
            answer: accept.map(|accept| (accept, after)),
            arrival: integrity.map(|integrity| (arrived_after, integrity)),
            bounced: row.get(8)?,
            duplicates: row.get(9)?,
            reordered: row.get(10)?,
            booked: row.get(11)?,
        });
    }
    Ok(found)
}

/// The lowest free number at or after an instant whose first number is taken.
pub(super) fn next_free(tx: &Transaction<'_>, at: Timestamp) -> Result<i64, Fault> {
    let start = first_id(at);
    let mut highest = tx.prepare_cached("SELECT max(id) FROM observation WHERE id >= ?1 AND id < ?2")?;
    for ms in 0..SPILL_MS {
        let from = start.saturating_add(ms << encode::SLOT_BITS);
        let to = from.saturating_add(1 << encode::SLOT_BITS);
        let taken: Option<i64> = highest.query_row([from, to], |row| row.get(0))?;
        let free = taken.map_or(from, |taken| taken + 1);
        if free < to {
            return Ok(free);
        }
    }
    Err(Fault::Inconsistent(format!("no number is free for an observation at {at}")))
}
