//! Rows that more than one kind of change writes.

use rusqlite::{Transaction, params};

use super::{encode, error::Fault};
use crate::observation::{Delivery, Observation};

/// The columns of a delivery, in the order in which they are written.
pub(super) const DELIVERY_COLUMNS: &str =
    "fate, accept, accept_us, latency_us, sequence, duplicates, foreign_, reordered, integrity";

/// What became of an observation's message.
pub(super) fn insert_delivery(
    tx: &Transaction<'_>,
    id: i64,
    check_id: i64,
    o: &Observation,
    d: &Delivery,
) -> Result<(), Fault> {
    tx.prepare_cached(&format!(
        "INSERT INTO delivery (id, check_id, duration_us, {DELIVERY_COLUMNS})
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)"
    ))?
    .execute(params![
        id,
        check_id,
        encode::to_us(o.duration),
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
    ])?;
    Ok(())
}
