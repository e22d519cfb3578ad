//! Upkeep in small slices: rolling up closed days, deleting what is past its retention, giving back space.
//!
//! Each call does one bounded piece of work, so the one thread that commits can make it between commits. Closed
//! days are read from the raw observations in order; their sums are in memory until the day is read to its end,
//! and only then written, so a crash in between merely starts the day again. Raw observations go by whole UTC
//! days, and never before their day is rolled up and sealed.
//!
//! A wall clock that is wrong must not make any of this happen before its time, and what it has moved is moved back when
//! it is right again: see [`Writer::maintain_by`] and [`Upkeep::amend`]. What arrives for a day that is sealed stays raw
//! until that day is over; then it is added to its blocks, and the day is rolled up from them once more.

use std::{collections::BTreeSet, time::Duration};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::{
    doubt::Doubt,
    encode::{day_of, first_id_of_day},
    error::{Fault, StoreError},
    open,
    roll::{Roll, first_day},
    seal::{Seal, day_and_check, first_block_of_day},
    writer::Writer,
};
use crate::value::Timestamp;

/// How long after midnight a day is rolled up: verdicts and late arrivals of its last messages come first.
pub const ROLL_UP_AFTER: Duration = Duration::from_secs(3_600);

/// Rows deleted in one call.
const DELETE_ROWS_MAX: i64 = 5_000;

/// Blocks deleted in one call: some megabytes.
const BLOCKS_MAX: i64 = 200;

/// Incidents deleted in one call, with all their messages and timelines.
const INCIDENTS_MAX: i64 = 100;

/// How often old incidents and free space are looked for; neither is urgent.
const LOOK_EVERY: Duration = Duration::from_secs(3_600);

/// How long things are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Raw observations with their evidence; whole UTC days, so up to a day longer. Then they are sealed.
    pub raw: Duration,
    /// Sealed observations, counted from when the attempts were made.
    pub blocks: Duration,
    /// Daily roll-ups, closed incidents, settled messages.
    pub daily: Duration,
}

/// What one call of [`Writer::maintain`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maintained {
    /// Observations summed up.
    pub rolled_rows: usize,
    /// Days whose roll-up was finished.
    pub rolled_days: usize,
    /// Days whose raw observations were sealed.
    pub sealed_days: usize,
    /// Rows deleted, of all tables.
    pub deleted_rows: usize,
    /// Whether there is more to do at once.
    pub more: bool,
    /// Whether all of it is put off, from this call on, because the wall clock cannot be believed yet.
    pub put_off: bool,
}

/// Where upkeep stands.
#[derive(Default)]
pub(super) struct Upkeep {
    /// Days before this one are rolled up; `None` until the first is.
    rolled_until: Option<i64>,
    /// Days before this one may have lost raw observations.
    raw_from: Option<i64>,
    /// Days rolled up or sealed that have changed since.
    dirty: BTreeSet<i64>,
    roll: Option<Roll>,
    seal: Option<Seal>,
    /// A changed day that was sealed, and whose blocks hold all of it again.
    added: Option<i64>,
    /// Why the clock is not believed, if it is not.
    doubt: Option<Doubt>,
    /// Whether raw rows before `raw_from` may be left.
    deleting: bool,
    look_at: Timestamp,
    pub(super) checkpoint_at: Timestamp,
    /// Set after a rollback: what stands here may be ahead of the file.
    stale: bool,
}

impl Upkeep {
    pub fn load(connection: &Connection) -> Result<Self, Fault> {
        let read = |key: &str| -> Result<Option<i64>, Fault> {
            Ok(connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |r| r.get(0)).optional()?)
        };
        let dirty = connection
            .prepare("SELECT day FROM dirty_day")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        let (rolled_until, raw_from) = (read("rolled_until")?, read("raw_from")?);
        Ok(Self { rolled_until, raw_from, dirty, deleting: raw_from.is_some(), ..Self::default() })
    }

    /// After a rollback: read again before the next use.
    pub fn restart_roll_up(&mut self) {
        self.stale = true;
    }

    fn refresh(&mut self, connection: &Connection) -> Result<(), Fault> {
        if self.stale {
            let (look_at, checkpoint_at, doubt) = (self.look_at, self.checkpoint_at, self.doubt);
            *self = Self { look_at, checkpoint_at, doubt, ..Self::load(connection)? };
        }
        Ok(())
    }

    /// An observation of this day and number is new or has changed.
    pub fn changed(&mut self, tx: &Transaction<'_>, day: i64, id: i64) -> Result<(), Fault> {
        self.refresh(tx)?;
        if self.roll.as_ref().is_some_and(|roll| roll.day == day && (roll.ready.is_some() || id <= roll.cursor)) {
            self.roll = None;
        }
        if self.seal.as_ref().is_some_and(|seal| seal.day == day) {
            self.seal = None;
        }
        self.added = self.added.filter(|added| *added != day);
        let rolled = self.rolled_until.is_some_and(|until| day < until);
        if (rolled || self.is_sealed(day)) && self.dirty.insert(day) {
            tx.execute("INSERT OR IGNORE INTO dirty_day (day) VALUES (?1)", [day])?;
        }
        Ok(())
    }

    fn is_sealed(&self, day: i64) -> bool {
        self.raw_from.is_some_and(|from| day < from)
    }

    /// Takes back what was moved too far while the wall clock was ahead: days that are not over are not rolled up, and
    /// those within their retention not to be deleted. What is sealed stays so.
    fn amend(&mut self, connection: &mut Connection, now: Timestamp, keep: &Keep) -> Result<(), Fault> {
        let raw_from = match self.raw_from {
            Some(from) if from > day_of(now - keep.raw) => {
                let last: Option<i64> = connection
                    .prepare_cached("SELECT max(id) FROM block WHERE id < ?1")?
                    .query_row([first_block_of_day(from)], |row| row.get(0))?;
                let unsealed = last.map_or(0, |id| day_and_check(id).0 + 1);
                Some(day_of(now - keep.raw).max(unsealed).min(from))
            }
            other => other,
        };
        // From there on all observations are there to roll days up anew.
        let open = day_of(now).max(raw_from.unwrap_or(0));
        let rolled_until = self.rolled_until.map(|until| until.min(open));
        if (raw_from, rolled_until) == (self.raw_from, self.rolled_until) {
            return Ok(());
        }
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (key, value) in [("raw_from", raw_from), ("rolled_until", rolled_until)] {
            if value.is_some() {
                tx.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", params![key, value])?;
            }
        }
        // A day that is open is read as it is, whatever changes in it.
        let open = rolled_until.unwrap_or(0).max(raw_from.unwrap_or(0));
        tx.execute("DELETE FROM dirty_day WHERE day >= ?1", [open])?;
        tx.commit()?;
        self.dirty.retain(|day| *day < open);
        (self.raw_from, self.rolled_until, self.roll, self.seal) = (raw_from, rolled_until, None, None);
        Ok(())
    }
}

/// How long messages whose fate is open are kept: what comes later than an hour is corrected no more.
const FLIGHTS_KEPT: Duration = Duration::from_secs(2 * 3_600);

impl Writer {
    /// Does one bounded piece of upkeep: a few milliseconds, next to nothing when there is nothing to do. Call it
    /// between commits; while [`Maintained::more`] is set, soon again.
    pub fn maintain(&mut self, now: Timestamp, keep: &Keep) -> Result<Maintained, StoreError> {
        if self.file.is_none() || open::identity(&self.path) != self.file {
            return Err(StoreError::Gone { path: self.path.clone() });
        }
        let mut done = Maintained::default();
        let result = self.try_maintain(now, keep, &mut done);
        if result.is_err() {
            self.upkeep.restart_roll_up();
        }
        result.map(|()| done).map_err(|e| e.at(&self.path, "maintaining it"))
    }

    /// The same with a reading of the wall clock that may be wrong, and the time that this process has run, which is not:
    /// while the wall clock is more than a day ahead of what is rolled up, nothing is done until it has gone on steadily
    /// for an hour. After a machine was off for long that hour is of no account, and a clock that is not set yet, or was
    /// set wrong for a while, makes nobody's history too old.
    pub fn maintain_by(&mut self, now: Timestamp, running: Duration, keep: &Keep) -> Result<Maintained, StoreError> {
        let mut believed = || -> Result<(bool, bool), Fault> {
            self.upkeep.refresh(&self.connection)?;
            let closed = day_of(now - ROLL_UP_AFTER);
            let known = match self.upkeep.rolled_until {
                None => first_day(&self.connection, 0)?,
                until => until,
            };
            if known.is_none_or(|day| closed <= day + 1) {
                self.upkeep.doubt = None;
                return Ok((true, false));
            }
            let begins = self.upkeep.doubt.is_none();
            let doubt = self.upkeep.doubt.get_or_insert(Doubt { now, running });
            Ok((doubt.is_over(now, running), begins))
        };
        match believed().map_err(|e| e.at(&self.path, "maintaining it"))? {
            (true, _) => self.maintain(now, keep),
            (false, begins) => Ok(Maintained { put_off: begins, ..Maintained::default() }),
        }
    }

    fn try_maintain(&mut self, now: Timestamp, keep: &Keep, done: &mut Maintained) -> Result<(), Fault> {
        self.upkeep.refresh(&self.connection)?;
        self.upkeep.amend(&mut self.connection, now, keep)?;
        let added = self.add_to_sealed(now, done)?;
        if added {
            self.roll_up(now, done)?;
        }
        if added && done.rolled_rows == 0 {
            self.retire_raw(now, keep, done)?;
            self.delete_blocks(now, keep, done)?;
            self.delete_daily(now, keep, done)?;
        }
        if is_due(now, self.upkeep.look_at, LOOK_EVERY) {
            let deleted = self.delete_incidents(now, keep)? + self.delete_flights(now)?;
            done.deleted_rows += deleted;
            if deleted > 0 || self.give_back()? {
                done.more = true;
            } else {
                self.upkeep.look_at = now + LOOK_EVERY;
            }
        }
        self.checkpoint(now)
    }

    // -----------------------------------------------------------------------------------------------------------
    // Roll-up

    /// Adds what has come for a sealed day since to its blocks, so that it can be rolled up from them. Whether there is
    /// nothing left to add.
    fn add_to_sealed(&mut self, now: Timestamp, done: &mut Maintained) -> Result<bool, Fault> {
        let closed = day_of(now - ROLL_UP_AFTER);
        let changed = self.upkeep.dirty.first().copied().filter(|day| *day < closed && self.upkeep.is_sealed(*day));
        let Some(day) = changed.filter(|day| self.upkeep.added != Some(*day)) else { return Ok(true) };
        done.more = true;
        if self.upkeep.seal.as_ref().is_none_or(|seal| seal.day != day) {
            self.upkeep.seal = Some(Seal::start(day, true));
        }
        let Some(seal) = &mut self.upkeep.seal else { return Ok(false) };
        if seal.go_on(&mut self.connection)? {
            (self.upkeep.seal, self.upkeep.added, self.upkeep.roll) = (None, Some(day), None);
            done.sealed_days = 1;
        }
        Ok(false)
    }

    fn roll_up(&mut self, now: Timestamp, done: &mut Maintained) -> Result<(), Fault> {
        let closed = day_of(now - ROLL_UP_AFTER);
        if self.upkeep.roll.is_none() {
            let Some(day) = self.next_day(closed)? else { return Ok(()) };
            self.upkeep.roll = Some(Roll::start(&self.connection, day, self.upkeep.is_sealed(day))?);
        }
        let Some(roll) = &mut self.upkeep.roll else { return Ok(()) };
        done.more = true;
        if roll.ready.is_none() {
            done.rolled_rows = roll.read(&self.connection)?;
            return Ok(());
        }
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let again = self.upkeep.rolled_until.is_some_and(|until| roll.day < until);
        if !roll.write(&tx, again)? {
            tx.commit()?;
            return Ok(());
        }
        let (day, carries, carry_changed) = (roll.day, roll.carries, roll.carry_changed);
        let mut rolled_until = self.upkeep.rolled_until;
        let mut dirty = self.upkeep.dirty.clone();
        if again {
            tx.execute("DELETE FROM dirty_day WHERE day = ?1", [day])?;
            dirty.remove(&day);
            // What was added to its blocks is there twice.
            self.upkeep.deleting |= self.upkeep.is_sealed(day);
            if carry_changed && rolled_until.is_some_and(|until| day + 1 < until) {
                tx.execute("INSERT OR IGNORE INTO dirty_day (day) VALUES (?1)", [day + 1])?;
                dirty.insert(day + 1);
            }
        } else {
            let next = if carries { day + 1 } else { first_day(&tx, day + 1)?.unwrap_or(closed).min(closed) };
            rolled_until = Some(next.max(day + 1));
            tx.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('rolled_until', ?1)", [rolled_until])?;
        }
        tx.commit()?;
        (self.upkeep.rolled_until, self.upkeep.dirty, self.upkeep.roll) = (rolled_until, dirty, None);
        done.rolled_days = 1;
        Ok(())
    }

    /// The day to be rolled up next, among those before `closed`.
    fn next_day(&self, closed: i64) -> Result<Option<i64>, Fault> {
        if let Some(dirty) = self.upkeep.dirty.first().filter(|day| **day < closed) {
            return Ok(Some(*dirty));
        }
        let next = match self.upkeep.rolled_until {
            Some(until) => Some(until),
            None => first_day(&self.connection, 0)?,
        };
        Ok(next.filter(|day| *day < closed))
    }

    // -----------------------------------------------------------------------------------------------------------
    // Retention

    /// Seals the first day whose raw observations are past their retention, or deletes what is sealed.
    fn retire_raw(&mut self, now: Timestamp, keep: &Keep, done: &mut Maintained) -> Result<(), Fault> {
        if self.upkeep.deleting {
            return self.delete_raw(done);
        }
        let Some(rolled_until) = self.upkeep.rolled_until else { return Ok(()) };
        let needed = self.upkeep.dirty.first().copied().into_iter().chain(self.upkeep.roll.as_ref().map(|r| r.day));
        let limit = needed.fold(day_of(now - keep.raw).min(rolled_until), i64::min);
        let from = self.upkeep.raw_from.unwrap_or(0);
        if self.upkeep.raw_from.is_some() && from >= limit {
            self.upkeep.seal = None;
            return Ok(());
        }
        done.more = true;
        let day = match first_day(&self.connection, from)?.filter(|day| *day < limit) {
            // What is past the retention of blocks already is not worth sealing.
            Some(day) if day < day_of(now - keep.blocks) => day,
            Some(day) => {
                if self.upkeep.seal.as_ref().is_none_or(|seal| seal.day != day) {
                    self.upkeep.seal = Some(Seal::start(day, false));
                }
                let Some(seal) = &mut self.upkeep.seal else { return Ok(()) };
                if !seal.go_on(&mut self.connection)? {
                    return Ok(());
                }
                self.upkeep.seal = None;
                done.sealed_days = 1;
                day
            }
            None => limit - 1,
        };
        let next = Some(day + 1);
        self.connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('raw_from', ?1)", [next])?;
        (self.upkeep.raw_from, self.upkeep.deleting) = (next, true);
        Ok(())
    }

    /// Deletes raw observations of days that are sealed, but for the latest of a check: it tells how the check stands.
    fn delete_raw(&mut self, done: &mut Maintained) -> Result<(), Fault> {
        let from = self.upkeep.raw_from.unwrap_or(0);
        // What has come for a sealed day is not in its blocks yet.
        let from = self.upkeep.dirty.first().map_or(from, |day| from.min(*day));
        self.known.values_mut().for_each(|known| known.forget_evidence_before(from));
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let before = first_id_of_day(from);
        let mut deleted = tx
            .prepare_cached(
                "DELETE FROM observation WHERE id IN (
                     SELECT o.id FROM observation o WHERE o.id < ?1 AND NOT EXISTS
                         (SELECT 1 FROM latest l WHERE l.check_id = o.check_id AND l.observation = o.id)
                     ORDER BY o.id LIMIT ?2)",
            )?
            .execute([before, DELETE_ROWS_MAX])?;
        deleted += delete_first(&tx, "delivery", before)?;
        deleted += tx
            .prepare_cached(
                "DELETE FROM evidence WHERE (day, check_id, number) IN
                     (SELECT day, check_id, number FROM evidence WHERE day < ?1 ORDER BY 1, 2, 3 LIMIT ?2)",
            )?
            .execute([from, DELETE_ROWS_MAX])?;
        tx.commit()?;
        self.upkeep.deleting = deleted > 0;
        done.deleted_rows += deleted;
        // Another day may be due.
        done.more = true;
        Ok(())
    }

    /// Messages of which nobody expects anything any more. Those of a check that is gone have nobody to settle them.
    fn delete_flights(&mut self, now: Timestamp) -> Result<usize, Fault> {
        let before = (now - FLIGHTS_KEPT).as_millis();
        Ok(self.connection.execute("DELETE FROM flight WHERE sent_at < ?1", [before])?)
    }

    fn delete_blocks(&mut self, now: Timestamp, keep: &Keep, done: &mut Maintained) -> Result<(), Fault> {
        let before = first_block_of_day(day_of(now - keep.blocks));
        let deleted = self
            .connection
            .prepare_cached("DELETE FROM block WHERE id IN (SELECT id FROM block WHERE id < ?1 ORDER BY id LIMIT ?2)")?
            .execute([before, BLOCKS_MAX])?;
        done.deleted_rows += deleted;
        done.more |= deleted > 0;
        Ok(())
    }

    fn delete_daily(&mut self, now: Timestamp, keep: &Keep, done: &mut Maintained) -> Result<(), Fault> {
        // What is not sealed yet is.
        let before = day_of(now - keep.daily).min(self.upkeep.raw_from.unwrap_or(0));
        let deleted = self
            .connection
            .prepare_cached(
                "DELETE FROM daily WHERE (day, check_id) IN
                     (SELECT day, check_id FROM daily WHERE day < ?1 ORDER BY day, check_id LIMIT ?2)",
            )?
            .execute([before, DELETE_ROWS_MAX])?;
        done.deleted_rows += deleted;
        done.more |= deleted > 0;
        Ok(())
    }

    /// Closed incidents with nothing left to send, and settled messages of no incident.
    fn delete_incidents(&mut self, now: Timestamp, keep: &Keep) -> Result<usize, Fault> {
        let before = (now - keep.daily).as_millis();
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let old: Vec<i64> = tx
            .prepare_cached(
                "SELECT id FROM incident i WHERE closed_at < ?1
                     AND NOT EXISTS (SELECT 1 FROM message m WHERE m.incident = i.id AND m.state = 'pending')
                 ORDER BY id LIMIT ?2",
            )?
            .query_map([before, INCIDENTS_MAX], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        let mut deleted = 0;
        for id in old {
            for sql in [
                "DELETE FROM timeline WHERE incident = ?1",
                "DELETE FROM incident_member WHERE incident = ?1",
                "DELETE FROM message WHERE incident = ?1",
                "DELETE FROM incident WHERE id = ?1",
            ] {
                deleted += tx.prepare_cached(sql)?.execute([id])?;
            }
        }
        deleted += tx
            .prepare_cached(
                "DELETE FROM message WHERE id IN
                     (SELECT id FROM message WHERE incident IS NULL AND state <> 'pending' AND settled_at < ?1 LIMIT ?2)",
            )?
            .execute([before, INCIDENTS_MAX])?;
        tx.commit()?;
        Ok(deleted)
    }
}

/// Whether something done every so often is due. A time further off was set while the clock was ahead.
pub(super) fn is_due(now: Timestamp, at: Timestamp, every: Duration) -> bool {
    now >= at || at > now + every
}

/// Deletes the first rows with a number below `before`, at most [`DELETE_ROWS_MAX`].
fn delete_first(tx: &Transaction<'_>, table: &str, before: i64) -> Result<usize, Fault> {
    let sql = format!("DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE id < ?1 ORDER BY id LIMIT ?2)");
    Ok(tx.prepare_cached(&sql)?.execute([before, DELETE_ROWS_MAX])?)
}
