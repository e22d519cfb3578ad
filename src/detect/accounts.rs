//! Which of a check's accounts fail while others work.
//!
//! A check with several accounts asks them in turn. An account is failing from its second failure in a row until its
//! second success in a row. While any other account works, the failures of a failing one are set aside: they are told
//! once, as a share ("1 of 12 accounts failing"), and are neither good nor bad for the service as a whole. When all
//! accounts are failing, every failure counts.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Edge, window::Offence};
use crate::{
    observation::{AccountSeen, Kind, Observation, Outcome, Phase, Reason},
    value::{Ratio, Timestamp},
};

/// Attempts of one kind in a row after which an account counts as failing, or as working again.
const CONFIRMED: u8 = 2;

/// Rounds after which an account that is not asked any more is forgotten: it was taken out of the configuration. In
/// one round each is asked at least once in twice as many attempts as there are accounts.
const FORGOTTEN_ROUNDS: u64 = 4;

/// Most further names in the text of a reason.
const NAMES_MAX: usize = 5;

/// The accounts that are failing, or are suspected to be. Only what must survive a restart: it changes when an account
/// fails or recovers, not with each attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Accounts {
    /// How many accounts the check has.
    of: u32,
    /// The accounts that failed lately, by name.
    troubled: BTreeMap<String, Troubled>,
    /// When an account last stopped failing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended: Option<Edge>,
}

/// An account that failed lately.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Troubled {
    /// Failures in a row, up to [`CONFIRMED`].
    bad: u8,
    /// Successes in a row since, up to [`CONFIRMED`].
    good: u8,
    /// Whether it counts as failing.
    failing: bool,
    /// From its last success to its first failure.
    started: Edge,
    /// Its latest failure.
    last: Timestamp,
    /// Its first success since.
    good_since: Option<Timestamp>,
    /// What its first failure showed.
    reason: Option<Reason>,
    /// The first and the latest failure that was set aside.
    aside: Option<(Timestamp, Timestamp)>,
}

/// What is known of the rounds since the start of the process.
#[derive(Clone, Debug, Default)]
pub(super) struct Rounds {
    /// Attempts.
    turn: u64,
    /// When each account was asked last, by attempt, and when it last worked.
    asked: BTreeMap<String, (u64, Option<Timestamp>)>,
}

impl Rounds {
    /// As [`super::Memory::not_after`].
    pub fn not_after(&mut self, now: Timestamp) {
        for (_, worked) in self.asked.values_mut() {
            *worked = worked.map(|at| at.min(now));
        }
    }

    /// Takes in an observation from before the start.
    pub fn remember(&mut self, observation: &Observation) {
        if let Some(account) = &observation.account {
            let worked = matches!(observation.outcome, Outcome::Ok | Outcome::Slow);
            let known = self.asked.entry(account.name.clone()).or_default();
            known.1 = known.1.max(worked.then_some(observation.at));
        }
    }

    fn last_good(&self, name: &str) -> Option<Timestamp> {
        self.asked.get(name)?.1
    }

    fn is_forgotten(&self, name: &str, of: u32) -> bool {
        let asked = self.asked.get(name).map_or(0, |(turn, _)| *turn);
        self.turn - asked > FORGOTTEN_ROUNDS * u64::from(of.max(1))
    }
}

impl Accounts {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes in that an attempt begins its judgement: counts the turn, and forgets accounts that are gone. `keep` is
    /// how long failures that were set aside matter.
    pub(super) fn turn(&mut self, rounds: &mut Rounds, observation: &Observation, keep: Duration) {
        let Some(seen) = &observation.account else {
            if !self.is_empty() {
                (*self, *rounds) = (Self::default(), Rounds::default());
            }
            return;
        };
        self.of = seen.of;
        rounds.turn += 1;
        rounds.asked.entry(seen.name.clone()).or_default().0 = rounds.turn;
        let gone: Vec<String> =
            rounds.asked.keys().filter(|name| rounds.is_forgotten(name, seen.of)).cloned().collect();
        for name in gone {
            rounds.asked.remove(&name);
        }
        let keep_from = observation.at - keep;
        self.troubled.retain(|name, t| !rounds.is_forgotten(name, seen.of) && (t.bad > 0 || t.last >= keep_from));
    }

    /// Takes in how an account fared at an instant; returns whether the failure is set aside.
    pub(super) fn observe(
        &mut self,
        rounds: &mut Rounds,
        seen: &AccountSeen,
        good: bool,
        at: Timestamp,
        reason: Option<&Reason>,
    ) -> bool {
        if good {
            let known = rounds.asked.entry(seen.name.clone()).or_default();
            known.1 = known.1.max(Some(at));
            self.good(&seen.name, at);
            return false;
        }
        let after = rounds.last_good(&seen.name);
        // The fate of a message may come to light after a later one got through.
        if after.is_some_and(|good| good > at) {
            return false;
        }
        self.bad(&seen.name, at, after, reason)
    }

    /// As [`super::Memory::not_after`].
    pub(super) fn not_after(&mut self, now: Timestamp) {
        self.ended.iter_mut().for_each(|edge| edge.not_after(now));
        for t in self.troubled.values_mut() {
            t.started.not_after(now);
            t.last = t.last.min(now);
            t.good_since = t.good_since.map(|at| at.min(now));
            t.aside = t.aside.map(|(first, last)| (first.min(now), last.min(now)));
        }
    }

    fn good(&mut self, name: &str, at: Timestamp) {
        let Some(t) = self.troubled.get_mut(name) else { return };
        if at < t.last {
            return;
        }
        if !t.failing {
            (t.bad, t.good) = (0, 0);
            if t.aside.is_none() {
                self.troubled.remove(name);
            }
            return;
        }
        t.good = (t.good + 1).min(CONFIRMED);
        let since = *t.good_since.get_or_insert(at);
        if t.good == CONFIRMED {
            (t.failing, t.bad, t.good, t.good_since) = (false, 0, 0, None);
            self.ended = Some(Edge { after: Some(t.last), by: since });
        }
    }

    fn bad(&mut self, name: &str, at: Timestamp, after: Option<Timestamp>, reason: Option<&Reason>) -> bool {
        let others_work = self.failing().count() < self.of as usize;
        let t = self.troubled.entry(name.to_owned()).or_insert_with(|| Troubled {
            bad: 0,
            good: 0,
            failing: false,
            started: Edge { after, by: at },
            last: at,
            good_since: None,
            reason: None,
            aside: None,
        });
        let aside = t.failing && others_work;
        if t.bad == 0 {
            (t.started, t.reason) = (Edge { after, by: at }, reason.cloned());
        }
        t.bad = (t.bad + 1).min(CONFIRMED);
        (t.good, t.good_since) = (0, None);
        t.last = t.last.max(at);
        t.failing |= t.bad == CONFIRMED;
        if aside {
            t.aside = Some((t.aside.map_or(at, |(first, _)| first), at));
        }
        aside
    }

    /// Whether this failure was set aside when it was judged.
    pub(super) fn has_set_aside(&self, observation: &Observation) -> bool {
        let troubled = observation.account.as_ref().and_then(|account| self.troubled.get(&account.name));
        let span = troubled.and_then(|t| t.aside);
        observation.outcome == Outcome::Failed
            && span.is_some_and(|(first, last)| (first..=last).contains(&observation.at))
    }

    /// Whether a run of failures that began at `first` is of one account only, though there are others: asked twice in
    /// a row, it alone would be taken for all.
    pub(super) fn only_one_since(&self, first: Timestamp) -> bool {
        self.of > 1 && self.troubled.values().filter(|t| t.bad > 0 && t.last >= first).count() == 1
    }

    /// An outage of all has ended with the success at `first`: what failed only during it says nothing of single
    /// accounts. Those that had failed alone before are taken to fail still.
    pub(super) fn outage_over(&mut self, first: Timestamp) {
        self.troubled.retain(|_, t| t.last >= first || (t.failing && t.aside.is_some()));
    }

    fn failing(&self) -> impl Iterator<Item = (&String, &Troubled)> {
        self.troubled.iter().filter(|(_, t)| t.failing)
    }

    /// Whether so many accounts are failing that the check is degraded.
    pub(super) fn judge(&self, share_max: Option<Ratio>) -> Option<Offence> {
        let (share_max, count) = (share_max?, self.failing().count());
        if count == 0 || (count as f64) < share_max.0 * f64::from(self.of) {
            return None;
        }
        let (name, first) = self.failing().min_by_key(|(_, t)| t.started.by)?;
        let last = self.failing().map(|(_, t)| t.last).max()?;
        let (phase, kind, words) = match &first.reason {
            Some(reason) => (reason.phase, reason.kind, reason.text.as_str()),
            None => (Phase::Exchange, Kind::Unexpected, "failed"),
        };
        // The account's own reason says whose it is already.
        let words = if words.starts_with(name.as_str()) { words.to_owned() } else { format!("{name}: {words}") };
        let others: Vec<&str> =
            self.failing().map(|(other, _)| other.as_str()).filter(|other| other != name).take(NAMES_MAX).collect();
        let more = count - 1 - others.len();
        let also = match (others.is_empty(), more) {
            (true, _) => String::new(),
            (false, 0) => format!("; also {}", others.join(", ")),
            (false, _) => format!("; also {} and {more} more", others.join(", ")),
        };
        let text = format!("{count} of {} accounts failing: {words}{also}", self.of);
        Some(Offence { started: first.started, last, reason: Reason::new(phase, kind, text) })
    }

    /// The end of a degradation of which the window says `edge`: not before the last account that was failing worked.
    pub(super) fn healed(&self, edge: Edge) -> Edge {
        self.ended.filter(|ended| ended.by > edge.by).unwrap_or(edge)
    }
}

#[cfg(test)]
mod tests;
