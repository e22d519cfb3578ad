//! The latest observations of many checks at once.
//!
//! Following each check's chain reads a page of the file for nearly every observation, because those of different checks
//! lie mixed. Where most of what lies there is wanted, it is read from one end to the other instead: once backward, to
//! see from where on it is wanted, and once forward, so that nothing is held.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Row};
use serde::Deserialize;

use super::{
    encode,
    error::Fault,
    read,
    restore::{RECENT_MAX, RECENT_MIN},
    sealed,
};
use crate::{
    observation::{AccountSeen, Observation, Reason},
    value::{CheckName, Timestamp},
};

/// Rows looked at for one that is wanted, beyond which chains are cheaper: a check that is seldom asked has its latest
/// observations far apart.
const SCAN_SHARE: usize = 8;

/// Rows looked at before that is judged.
const SCAN_MIN: usize = 10_000;

/// What is wanted of a check.
struct Wanted {
    /// Its place among those asked for.
    place: usize,
    check: CheckName,
    since: Timestamp,
    /// How many were seen, going backward.
    count: usize,
    /// The earliest of them.
    first: i64,
    /// Whether that is all that is wanted.
    all: bool,
    /// The day and number of the evidence read last; that of the next is mostly the same.
    evidence: Option<(i64, i64)>,
    /// What it says that is gone on from.
    says: Says,
    /// Whether it was said that not all of it can be read.
    damaged: bool,
}

impl Wanted {
    fn new(place: usize, check: CheckName, since: Timestamp) -> Self {
        let says = Says::default();
        Self { place, check, since, count: 0, first: i64::MAX, all: false, evidence: None, says, damaged: false }
    }

    /// Takes in the one before; whether it is wanted.
    fn take(&mut self, id: i64) -> bool {
        self.all |= self.count >= RECENT_MAX || (self.count >= RECENT_MIN && encode::at_of(id) < self.since);
        if !self.all {
            self.count += 1;
            self.first = id;
        }
        !self.all
    }

    /// What is damaged of one check keeps no other from being watched, nor this one.
    fn say_damaged(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.damaged, true) {
            tracing::error!(
                check = %self.check,
                reason,
                "not all of what was seen lately can be read; it goes on from the rest, and `bongsu db check` says more"
            );
        }
    }

    /// An observation without a message.
    fn plain(&mut self, connection: &Connection, check: i64, row: &Row<'_>) -> Result<Observation, Fault> {
        let id = row.get(0)?;
        let (outcome, latency_us) = encode::verdict_parts(row.get(2)?)?;
        let mut observation = Observation::new(encode::at_of(id), outcome, encode::from_us(latency_us));
        let Some(number) = row.get::<_, Option<i64>>(3)? else { return Ok(observation) };
        let day = encode::day_of_id(id);
        if self.evidence != Some((day, number)) {
            let json: Option<String> = connection
                .prepare_cached("SELECT json FROM evidence WHERE day = ?1 AND check_id = ?2 AND number = ?3")?
                .query_row([day, check, number], |row| row.get(0))
                .optional()?;
            self.says = json.map_or(Ok(Says::default()), |json| encode::from_json(&json, "evidence"))?;
            self.evidence = Some((day, number));
        }
        observation.reason.clone_from(&self.says.reason);
        observation.account.clone_from(&self.says.account);
        Ok(observation)
    }
}

/// What is gone on from of an observation's evidence.
#[derive(Default, Deserialize)]
struct Says {
    reason: Option<Reason>,
    account: Option<AccountSeen>,
}

/// Gives of each check its observations since an instant and at least [`RECENT_MIN`], as far as they are kept, and at
/// most [`RECENT_MAX`]: its place, and the observation, each check's oldest first. Observations without a message come
/// without phases, address, TLS facts and details: nothing is gone on from those. What is damaged is left out, and logged
/// once for each check.
pub(super) fn of_all(
    connection: &Connection,
    checks: impl Iterator<Item = (CheckName, Timestamp)>,
    mut each: impl FnMut(usize, &Observation),
) -> Result<(), Fault> {
    let mut wanted = HashMap::with_capacity(checks.size_hint().0);
    for (place, (check, since)) in checks.enumerate() {
        if let Some(id) = sealed::check_id(connection, &check)? {
            wanted.insert(id, Wanted::new(place, check, since));
        }
    }
    look_back(connection, &mut wanted)?;
    let (mut whole, rest): (HashMap<i64, Wanted>, HashMap<i64, Wanted>) = wanted.into_iter().partition(|(_, w)| w.all);
    if let Some(first) = whole.values().map(|w| w.first).min() {
        let mut statement = connection.prepare(
            "SELECT o.id, o.check_id, o.verdict, o.evidence, d.id IS NOT NULL
               FROM observation o LEFT JOIN delivery d ON d.id = o.id WHERE o.id >= ?1 ORDER BY o.id",
        )?;
        let mut rows = statement.query([first])?;
        while let Some(row) = rows.next()? {
            let (id, check): (i64, i64) = (row.get(0)?, row.get(1)?);
            let Some(of) = whole.get_mut(&check).filter(|of| id >= of.first) else { continue };
            let read = match row.get(4)? {
                true => read::observation_by_id(connection, id).map(|found| found.map(|(observation, _)| observation)),
                false => of.plain(connection, check, row).map(Some),
            };
            match read {
                Ok(found) => found.iter().for_each(|observation| each(of.place, observation)),
                Err(Fault::Inconsistent(reason)) => of.say_damaged(&reason),
                Err(error) => return Err(error),
            }
        }
    }
    for mut of in rest.into_values() {
        let (found, damage) = read::readable(connection, &of.check, of.since, RECENT_MIN, RECENT_MAX)?;
        if let Some(damage) = damage {
            of.say_damaged(&damage.to_string());
        }
        found.iter().for_each(|observation| each(of.place, observation));
    }
    Ok(())
}

/// Goes back until it is seen from where on each check is wanted, or too little of what is seen is.
fn look_back(connection: &Connection, wanted: &mut HashMap<i64, Wanted>) -> Result<(), Fault> {
    let raw_from = sealed::raw_from_id(connection)?;
    let mut statement = connection.prepare("SELECT id, check_id FROM observation WHERE id >= ?1 ORDER BY id DESC")?;
    let mut rows = statement.query([raw_from])?;
    let (mut open, mut seen, mut taken) = (wanted.len(), 0, 0);
    while open > 0 {
        let Some(row) = rows.next()? else {
            // Where nothing is sealed, there is nothing before.
            wanted.values_mut().for_each(|w| w.all |= raw_from == 0);
            return Ok(());
        };
        seen += 1;
        if seen > SCAN_MIN + SCAN_SHARE * taken {
            return Ok(());
        }
        let Some(of) = wanted.get_mut(&row.get(1)?).filter(|of| !of.all) else { continue };
        match of.take(row.get(0)?) {
            true => taken += 1,
            false => open -= 1,
        }
    }
    Ok(())
}
