//! What a daemon must know when it starts: open incidents, pending messages, states, recent observations.
//!
//! Of the last two there is much when checks are many, so they are given one by one as they are read.

use std::time::Duration;

use rusqlite::{OptionalExtension, TransactionBehavior, params};

use super::{
    error::{Fault, StoreError},
    read, recent, rows, summed,
    writer::{Writer, known},
};
use crate::{
    alert::{Message, MessageId},
    incident::{Incident, IncidentId, Vantage},
    observation::Observation,
    value::{CheckName, Timestamp},
};

/// Observations given back per check even if its window holds fewer: what flapping looks at.
pub const RECENT_MIN: usize = 20;

/// Most observations given back per check: a window of ten minutes at five a second.
pub const RECENT_MAX: usize = 3_000;

/// Intervals for which one observation speaks: one missed attempt is no gap, two in a row are.
const HOLD_INTERVALS: u32 = 3;

/// Shortest time for which one observation speaks: a probe may well take its whole timeout.
const HOLD_MIN: Duration = Duration::from_secs(60);

/// Longest: a month, for a check that runs once a week.
const HOLD_MAX: Duration = Duration::from_secs(31 * 86_400);

/// A check as the store must know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Its name.
    pub check: CheckName,
    /// How far back its detector looks.
    pub window: Duration,
    /// The usual time between two attempts: tells how long one observation speaks for the time after it.
    pub interval: Duration,
}

/// The durable state of a check.
#[derive(Clone, Debug, PartialEq)]
pub struct RestoredState {
    /// The state's word.
    pub state: String,
    /// Since when it is in that state.
    pub since: Timestamp,
    /// All that the detector must remember.
    pub memory: serde_json::Value,
}

/// What [`Writer::restore`] gives back.
#[derive(Clone, Debug, PartialEq)]
pub struct Restored {
    /// Open incidents, and closed ones of which messages are still on their way, by number.
    pub incidents: Vec<Incident>,
    /// Pending messages, by number.
    pub messages: Vec<Message>,
    /// The number of the next incident.
    pub next_incident: IncidentId,
    /// The number of the next message.
    pub next_message: MessageId,
    /// How the vantage stood.
    pub vantage: Vantage,
}

impl Writer {
    /// Takes in which checks are watched, and reads what the core goes on from, but for states and observations.
    pub fn restore(&mut self, watched: &[Watched]) -> Result<Restored, StoreError> {
        self.try_restore(watched).map_err(|e| {
            self.known.clear();
            e.at(&self.path, "reading what was known")
        })
    }

    /// Gives the states of all checks that have one, also of checks that are not watched any more.
    pub fn states(&self, mut each: impl FnMut(CheckName, RestoredState)) -> Result<(), StoreError> {
        let mut read = || -> Result<(), Fault> {
            let mut statement = self.connection.prepare(
                "SELECT k.name, s.state, s.since, s.memory FROM state s JOIN known_check k ON k.id = s.check_id",
            )?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let (name, memory): (String, String) = (row.get(0)?, row.get(3)?);
                let memory = summed::from_json(&memory, &format!("the memory of {name}"))?;
                let since = Timestamp::from_millis(row.get(2)?);
                each(read::check_name(&name)?, RestoredState { state: row.get(1)?, since, memory });
            }
            Ok(())
        };
        read().map_err(|e| e.at(&self.path, "reading what detectors remember"))
    }

    /// Gives the recent observations of these checks, each's oldest first, with its place among `watched`: all of its
    /// window and at least [`RECENT_MIN`], as far as they are kept, and at most [`RECENT_MAX`]. Without what no detector
    /// looks at: phases, address, TLS facts and details, but for those of messages.
    pub fn recent(
        &self,
        now: Timestamp,
        watched: &[Watched],
        each: impl FnMut(usize, &Observation),
    ) -> Result<(), StoreError> {
        let wanted = |w: &Watched| (w.check.clone(), now - w.window);
        recent::of_all(&self.connection, watched.iter().map(wanted), each)
            .map_err(|e| e.at(&self.path, "reading recent observations"))
    }

    fn try_restore(&mut self, watched: &[Watched]) -> Result<Restored, Fault> {
        let Self { connection, known: all, .. } = self;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        all.reserve(watched.len().saturating_sub(all.len()));
        for w in watched {
            let hold = w.interval.saturating_mul(HOLD_INTERVALS).clamp(HOLD_MIN, HOLD_MAX);
            let id = known(&tx, all, &w.check)?.id;
            tx.prepare_cached("UPDATE known_check SET hold_ms = ?2 WHERE id = ?1 AND hold_ms IS NOT ?2")?
                .execute(params![id, i64::try_from(hold.as_millis()).unwrap_or(i64::MAX)])?;
        }
        let next = |table: &str| -> Result<u64, Fault> {
            let given: Option<i64> = tx
                .query_row("SELECT seq FROM sqlite_sequence WHERE name = ?1", [table], |row| row.get(0))
                .optional()?;
            // A count that is damaged must not give a number again: its row would be overwritten.
            let there: Option<i64> = tx.query_row(&format!("SELECT max(id) FROM {table}"), [], |row| row.get(0))?;
            Ok(u64::try_from(given.max(there).unwrap_or(0)).unwrap_or(0).saturating_add(1))
        };
        // Of a closed one a message may be on its way, after which its end is told.
        let unsettled = "SELECT id, json FROM incident WHERE closed_at IS NULL
                            OR id IN (SELECT incident FROM message WHERE state = 'pending') ORDER BY id";
        let restored = Restored {
            vantage: rows::vantage(&tx)?,
            incidents: read::incidents(&tx, unsettled, [])?,
            messages: read::messages(&tx, "SELECT id, json FROM message WHERE state = 'pending' ORDER BY id", [])?,
            next_incident: IncidentId(next("incident")?),
            next_message: MessageId(next("message")?),
        };
        tx.commit()?;
        Ok(restored)
    }
}
