//! The store as a whole, on real files.

mod clocks;
mod files;
mod flights;
mod flips;
mod generate;
mod keeping;
mod recent;
mod rolling;
mod sealing;

use std::{collections::BTreeMap, ops::Deref, path::PathBuf, time::Duration};

use super::{Keep, Reader, Restored, RestoredState, StoreError, Watched, Writer, encode::DAY_MS};
use crate::{
    decide::Commit,
    observation::{Observation, Outcome},
    value::{CheckName, Timestamp},
};

/// A directory that goes away, with a database in it.
struct Place {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

/// Any day with a past: 2024-10-04.
const DAY: i64 = 20_000;

const NOW: Timestamp = Timestamp::from_millis(DAY * DAY_MS + 12 * 3_600_000);

const KEEP: Keep = Keep {
    raw: Duration::from_secs(2 * 86_400),
    blocks: Duration::from_secs(400 * 86_400),
    daily: Duration::from_secs(400 * 86_400),
};

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("bongsu.db");
        Self { _dir: dir, path }
    }

    fn writer(&self) -> Writer {
        Writer::open(&self.path, NOW).expect("the database opens")
    }

    fn reader(&self) -> Reader {
        Reader::open(&self.path).expect("the database opens to read")
    }

    fn sql(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(&self.path).expect("SQLite opens it")
    }
}

fn check(name: &str) -> CheckName {
    name.parse().expect("a good name")
}

/// An instant, in seconds after the start of [`DAY`].
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(DAY * DAY_MS + seconds * 1_000)
}

fn observed(name: &str, at: Timestamp, outcome: Outcome, latency_ms: u64) -> Commit {
    let o = Observation::new(at, outcome, Duration::from_millis(latency_ms));
    Commit { observation: Some((check(name), o)), ..Commit::default() }
}

fn watched(name: &str, interval_s: u64) -> Watched {
    Watched { check: check(name), window: Duration::from_secs(600), interval: Duration::from_secs(interval_s) }
}

/// All that a daemon goes on from.
struct Whole {
    rest: Restored,
    states: BTreeMap<CheckName, RestoredState>,
    recent: BTreeMap<CheckName, Vec<Observation>>,
}

impl Deref for Whole {
    type Target = Restored;

    fn deref(&self) -> &Restored {
        &self.rest
    }
}

fn try_restore(writer: &mut Writer, now: Timestamp, watched: &[Watched]) -> Result<Whole, StoreError> {
    let rest = writer.restore(watched)?;
    let (mut states, mut recent) = (BTreeMap::new(), BTreeMap::<CheckName, Vec<Observation>>::new());
    writer.states(|check, state| {
        states.insert(check, state);
    })?;
    writer.recent(now, watched, |place, observation| {
        recent.entry(watched[place].check.clone()).or_default().push(observation.clone());
    })?;
    Ok(Whole { rest, states, recent })
}

fn restore(writer: &mut Writer, now: Timestamp, names: &[&str]) -> Whole {
    let watched: Vec<_> = names.iter().map(|name| watched(name, 30)).collect();
    try_restore(writer, now, &watched).expect("what was known can be read")
}

/// An observation without what no detector looks at.
fn gone_on_from(o: &Observation) -> Observation {
    match o.delivery {
        Some(_) => o.clone(),
        None => Observation {
            reason: o.reason.clone(),
            account: o.account.clone(),
            ..Observation::new(o.at, o.outcome, o.duration)
        },
    }
}

/// Upkeep until there is nothing left to do.
fn maintain(writer: &mut Writer, now: Timestamp, keep: &Keep) -> (usize, usize) {
    let (mut days, mut deleted) = (0, 0);
    for _ in 0..100_000 {
        let done = writer.maintain(now, keep).expect("upkeep works");
        days += done.rolled_days;
        deleted += done.deleted_rows;
        if !done.more {
            return (days, deleted);
        }
    }
    panic!("upkeep never ends");
}
