//! Detection: from observations to the state of a check.
//!
//! [`Track::observe`] is the one transition function. It reads no clock, draws no random number and keeps a bounded
//! memory: the latest samples in [`Window`], and in [`Memory`] what must survive a restart.
//!
//! One bad observation makes a check `suspect`; it is then asked again at `confirm_every` until `failures` in a row
//! make it `down`, or a good one clears it. `recoveries` good ones in a row end an outage; where some came through all
//! the while, so many that chance is ruled out. Slow answers, losses and duplicates over a window make it `degraded`,
//! likewise (see [`window`]). An `unknown` observation is neither good nor bad. Of a check with several accounts, those
//! that fail while others work are told as a share (see [`accounts`]).

pub mod accounts;
pub mod flapping;
mod measure;
mod memory;
mod thresholds;
pub mod window;

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::{
    accounts::Accounts,
    memory::{Memory, Run, Trouble, Void},
    thresholds::{Degraded, Thresholds},
    window::{Point, Sample, Window},
};
use crate::{
    observation::{AccountSeen, Correction, Fate, Observation, Outcome, Reason},
    value::Timestamp,
};

/// How bad it is. The order is the order of badness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It works, but slowly, with losses, with duplicates, or not for all accounts.
    Degraded,
    /// It does not work.
    Down,
}

impl Severity {
    /// The word used in YAML, JSON, SQL and mails.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Between which two observations something changed: after `after` (absent when nothing was seen before), at the
/// latest `by`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Edge {
    /// The last observation on the old side.
    pub after: Option<Timestamp>,
    /// The first observation on the new side.
    pub by: Timestamp,
}

impl Edge {
    fn not_after(&mut self, now: Timestamp) {
        self.after = self.after.map(|at| at.min(now));
        self.by = self.by.min(now);
    }
}

/// The state of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Never observed, or not for a while: neither up nor down.
    Unknown,
    /// It works.
    Up,
    /// The latest observation was bad; being confirmed.
    Suspect,
    /// It works badly.
    Degraded,
    /// It does not work.
    Down,
}

impl State {
    /// The word used everywhere.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

/// A change that matters to incidents.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Bad service is confirmed.
    Began(Trouble),
    /// Degraded service has become an outage.
    Worsened {
        /// What is wrong now.
        reason: Option<Reason>,
    },
    /// The outage is over, but the service is slow, or some of its accounts fail.
    Eased,
    /// Bad service is over.
    Ended(Edge),
    /// It failed again while its recovery was awaited (flapping).
    Relapsed {
        /// What is wrong now.
        reason: Option<Reason>,
    },
    /// It has begun to flap, or has stopped.
    Flapping(bool),
}

/// How soon the check is to be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As scheduled.
    Regular,
    /// To confirm a suspicion or a recovery.
    Confirm(Duration),
}

/// One check's detector.
#[derive(Clone, Debug, Default)]
pub struct Track {
    /// What survives a restart.
    pub memory: Memory,
    /// The latest samples.
    pub window: Window,
    rounds: accounts::Rounds,
}

/// What an observation means for detection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Good,
    Bad,
    /// A message that is late already and may still be lost: judged when its fate is known.
    Open,
    /// The failure of an account that is known to fail while others work.
    Aside,
    Blind,
}

impl Sign {
    fn of(observation: &Observation) -> Self {
        let pending = observation.delivery.as_ref().is_some_and(|d| d.fate == Fate::Pending);
        match observation.outcome {
            Outcome::Failed => Self::Bad,
            Outcome::Unknown => Self::Blind,
            Outcome::Ok | Outcome::Slow if pending => Self::Open,
            Outcome::Ok | Outcome::Slow => Self::Good,
        }
    }
}

impl Track {
    /// A detector with its stored memory, before it has taken in what was observed ([`Track::remember`]).
    pub fn resume(memory: Memory) -> Self {
        Self { memory, ..Self::default() }
    }

    /// Takes in an observation from before the start, oldest first: those since the memory was stored, and before it as
    /// far back as the window reaches.
    pub fn remember(&mut self, thresholds: &Thresholds, observation: &Observation) {
        let aside = self.memory.accounts.has_set_aside(observation);
        self.rounds.remember(observation);
        self.window.push(Sample { aside, ..Sample::of(observation) }, thresholds.degraded.window);
        // Observations after `as_of` did not change the stored memory, so only the marks move.
        if observation.at > self.memory.as_of {
            match Sign::of(observation) {
                Sign::Good => self.memory.last_good = Some(observation.at),
                Sign::Bad if !aside => self.memory.last_bad = Some(observation.at),
                Sign::Bad | Sign::Aside | Sign::Open | Sign::Blind => {}
            }
            self.memory.as_of = observation.at;
        }
    }

    /// Takes nothing for later than now, where the wall clock was ahead.
    pub fn not_after(&mut self, now: Timestamp) {
        self.memory.not_after(now);
        self.rounds.not_after(now);
        self.window.not_after(now);
    }

    /// Takes in one observation; returns what changed, in order. Observations come in the order of their attempts.
    pub fn observe(&mut self, thresholds: &Thresholds, observation: &Observation) -> Vec<Change> {
        let mut changes = Vec::new();
        let at = observation.at;
        let sign = self.sign(thresholds, observation);
        let sample = Sample { aside: sign == Sign::Aside, ..Sample::of(observation) };
        self.window.push(sample, thresholds.degraded.window);
        self.memory.as_of = self.memory.as_of.max(at);
        match sign {
            Sign::Bad => self.bad(thresholds, at, observation.reason.as_ref(), &mut changes),
            Sign::Good => self.good(thresholds, at, observation.outcome, observation.reason.as_ref(), &mut changes),
            Sign::Open | Sign::Aside => self.judge(thresholds, at, observation.reason.as_ref(), &mut changes),
            Sign::Blind => self.blind(thresholds, at),
        }
        self.flap(thresholds, at, &mut changes);
        changes
    }

    fn sign(&mut self, thresholds: &Thresholds, observation: &Observation) -> Sign {
        self.memory.accounts.turn(&mut self.rounds, observation, thresholds.degraded.window);
        let sign = Sign::of(observation);
        let (account, at, reason) = (observation.account.as_ref(), observation.at, observation.reason.as_ref());
        match sign {
            Sign::Good | Sign::Bad if self.sets_aside(account, sign == Sign::Good, at, reason) => Sign::Aside,
            Sign::Good | Sign::Bad | Sign::Open | Sign::Aside | Sign::Blind => sign,
        }
    }

    /// Takes in how an account fared; whether that is a failure to set aside.
    fn sets_aside(
        &mut self,
        account: Option<&AccountSeen>,
        good: bool,
        at: Timestamp,
        reason: Option<&Reason>,
    ) -> bool {
        let Self { memory, rounds, .. } = self;
        account.is_some_and(|account| memory.accounts.observe(rounds, account, good, at, reason))
    }

    /// Takes in the fate of a message whose observation was `pending` or booked as lost.
    pub fn correct(&mut self, thresholds: &Thresholds, correction: &Correction) -> Vec<Change> {
        let mut changes = Vec::new();
        let at = correction.observed_at;
        let reason = correction.reason.as_ref();
        let was = self.window.correct(correction);
        let settled = correction.delivery.fate != Fate::Pending && correction.outcome != Outcome::Unknown;
        let good = correction.outcome != Outcome::Failed;
        let aside = settled && self.sets_aside(correction.account.as_ref(), good, at, reason);
        let was_aside = self.window.set_aside(at, aside);
        let overtaken = self.memory.last_good.is_some_and(|good| good > at);
        match (was, correction.outcome) {
            _ if aside || was_aside => self.judge(thresholds, self.memory.as_of, reason, &mut changes),
            // Pending has become lost. If a later message got through, it is one loss; else the run goes on.
            (Some(Outcome::Slow | Outcome::Ok), Outcome::Failed) if !overtaken => {
                self.bad(thresholds, at, reason, &mut changes);
            }
            // Pending has arrived after all.
            (Some(Outcome::Slow | Outcome::Ok), Outcome::Ok | Outcome::Slow) if !overtaken => {
                self.good(thresholds, at, correction.outcome, reason, &mut changes);
            }
            // Booked as lost, and arrived: it never was a failure.
            (Some(Outcome::Failed), Outcome::Ok | Outcome::Slow) => {
                if self.memory.trouble.is_none() && self.memory.bad.count > 0 && at >= self.memory.bad.first {
                    self.memory.bad.count -= 1;
                    if self.memory.bad.count == 0 {
                        self.memory.bad = Run::default();
                        self.enter(State::Up, self.memory.as_of);
                    }
                }
                self.judge(thresholds, self.memory.as_of, reason, &mut changes);
            }
            _ => self.judge(thresholds, self.memory.as_of, reason, &mut changes),
        }
        changes
    }

    /// How soon the check is to be asked again.
    pub fn pace(&self, thresholds: &Thresholds) -> Pace {
        let recovering = self.severity() == Some(Severity::Down) && self.memory.good.count > 0 && !self.memory.flapping;
        let refused = self.memory.trouble.is_none() && self.window.latest().is_some_and(|s| s.login() == Some(false));
        match self.memory.state {
            // New logins fail: soon it is known whether that lasts.
            State::Up | State::Unknown if refused => Pace::Confirm(thresholds.confirm_every),
            State::Suspect => Pace::Confirm(thresholds.confirm_every),
            State::Down if recovering => Pace::Confirm(thresholds.confirm_every),
            State::Unknown | State::Up | State::Degraded | State::Down => Pace::Regular,
        }
    }

    fn severity(&self) -> Option<Severity> {
        self.memory.trouble.as_ref().map(|t| t.severity)
    }

    fn enter(&mut self, state: State, at: Timestamp) {
        if self.memory.state != state {
            self.memory.state = state;
            self.memory.since = at;
        }
    }

    fn bad(&mut self, thresholds: &Thresholds, at: Timestamp, reason: Option<&Reason>, changes: &mut Vec<Change>) {
        let (memory, window) = (&mut self.memory, &self.window);
        let was_good = memory.good.count;
        memory.blind = 0;
        memory.good = Run::default();
        memory.last_bad = Some(memory.last_bad.map_or(at, |last| last.max(at)));
        if memory.bad.count == 0 {
            memory.bad = Run { count: 0, first: at, reason: reason.cloned().map(Box::new), slow: 0 };
        }
        memory.bad.count = memory.bad.count.saturating_add(1);
        memory.bad.first = memory.bad.first.min(at);
        let confirmed = memory.bad.count >= thresholds.failures && !memory.accounts.only_one_since(memory.bad.first);
        match memory.trouble.as_mut() {
            Some(trouble) if trouble.severity == Severity::Down => {
                let relapsed = was_good >= thresholds.recoveries && memory.state != State::Down;
                if memory.state != State::Down {
                    self.enter(State::Down, at);
                }
                if relapsed {
                    changes.push(Change::Relapsed { reason: reason.cloned() });
                }
            }
            Some(trouble) if confirmed => {
                trouble.severity = Severity::Down;
                trouble.reason = memory.bad.reason.as_deref().cloned();
                self.enter(State::Down, at);
                let reason = self.memory.bad.reason.as_deref().cloned();
                changes.push(Change::Worsened { reason });
            }
            None if confirmed => {
                let run =
                    Edge { after: memory.last_good.filter(|good| *good < memory.bad.first), by: memory.bad.first };
                // Single attempts that came through do not make it younger.
                let failing_since = window.failing_since(&thresholds.degraded, memory.judged_since);
                let started = failing_since.filter(|since| since.by < run.by).unwrap_or(run);
                let trouble =
                    Trouble { severity: Severity::Down, started, reason: memory.bad.reason.as_deref().cloned() };
                memory.trouble = Some(Box::new(trouble.clone()));
                self.enter(State::Down, at);
                changes.push(Change::Began(trouble));
            }
            Some(_) | None => self.enter(State::Suspect, at),
        }
    }

    fn good(
        &mut self,
        thresholds: &Thresholds,
        at: Timestamp,
        outcome: Outcome,
        reason: Option<&Reason>,
        changes: &mut Vec<Change>,
    ) {
        let memory = &mut self.memory;
        memory.blind = 0;
        memory.bad = Run::default();
        if memory.good.count == 0 {
            memory.good = Run { count: 0, first: at, reason: None, slow: 0 };
        }
        memory.good.count = memory.good.count.saturating_add(1);
        memory.good.slow += u32::from(outcome == Outcome::Slow);
        memory.last_good = Some(memory.last_good.map_or(at, |last| last.max(at)));
        match self.severity() {
            Some(Severity::Down) if self.memory.good.count < self.recoveries(thresholds) => {
                self.enter(State::Down, at);
            }
            Some(Severity::Down) if self.memory.flapping => self.enter(State::Up, at),
            Some(Severity::Down) => self.recover(thresholds, at, changes),
            Some(Severity::Degraded) => {
                self.enter(State::Degraded, at);
                self.judge(thresholds, at, reason, changes);
            }
            None => {
                self.enter(State::Up, at);
                self.judge(thresholds, at, reason, changes);
            }
        }
    }

    /// Good observations in a row that end this outage: as many as are asked for, and more when single ones came
    /// through all the while, so that a few of them in a row are no recovery yet.
    fn recoveries(&self, thresholds: &Thresholds) -> u32 {
        let Memory { judged_since, good, .. } = &self.memory;
        thresholds.recoveries.max(self.window.good_run_needed(&thresholds.degraded, *judged_since, good.first))
    }

    /// An outage is over: enough good observations have come. When most of them were slow, the service is
    /// back but degraded; so it is when accounts have failed since.
    fn recover(&mut self, thresholds: &Thresholds, at: Timestamp, changes: &mut Vec<Change>) {
        let memory = &mut self.memory;
        let edge = Edge { after: memory.last_bad, by: memory.good.first };
        memory.judged_since = memory.good.first;
        let mostly_slow = memory.good.slow * 2 > memory.good.count;
        memory.accounts.outage_over(memory.good.first);
        let some_fail = memory.accounts.judge(thresholds.degraded.accounts).is_some();
        match memory.trouble.as_mut() {
            Some(trouble) if mostly_slow || some_fail => {
                trouble.severity = Severity::Degraded;
                memory.last_bad = Some(at);
                self.enter(State::Degraded, at);
                changes.push(Change::Eased);
            }
            _ => {
                memory.trouble = None;
                self.enter(State::Up, at);
                changes.push(Change::Ended(edge));
            }
        }
    }

    fn blind(&mut self, thresholds: &Thresholds, at: Timestamp) {
        self.memory.blind = self.memory.blind.saturating_add(1);
        if self.memory.blind >= thresholds.failures {
            self.enter(State::Unknown, at);
        }
    }

    /// Enters or leaves `degraded` by what the window shows. Never while an outage is confirmed or suspected: those
    /// have their own verdict, and telling of one trouble twice is noise.
    fn judge(&mut self, thresholds: &Thresholds, at: Timestamp, reason: Option<&Reason>, changes: &mut Vec<Change>) {
        if self.severity() == Some(Severity::Down) || self.memory.bad.count > 0 {
            return;
        }
        let limits = &thresholds.degraded;
        let by_account = self.memory.accounts.judge(limits.accounts);
        let is_by_account = by_account.is_some();
        let verdict = by_account.or_else(|| self.window.judge(limits, self.memory.judged_since, reason));
        match (verdict, self.memory.trouble.as_ref()) {
            (Some(offence), None) => {
                let trouble =
                    Trouble { severity: Severity::Degraded, started: offence.started, reason: Some(offence.reason) };
                self.memory.last_bad = Some(offence.last);
                self.memory.trouble = Some(Box::new(trouble.clone()));
                self.enter(State::Degraded, at);
                changes.push(Change::Began(trouble));
            }
            (Some(offence), Some(trouble)) => {
                let began = Some(trouble.started.by).filter(|_| !is_by_account);
                self.memory.last_bad = Some(offence.last);
                if began.is_some() {
                    self.heal(limits, at, began, changes);
                }
            }
            (None, Some(_)) => self.heal(limits, at, None, changes),
            (None, None) => {}
        }
    }

    fn heal(&mut self, limits: &Degraded, at: Timestamp, offends_since: Option<Timestamp>, changes: &mut Vec<Change>) {
        let Some(edge) = self.window.healed(limits, self.memory.judged_since, offends_since) else { return };
        let edge = self.memory.accounts.healed(edge);
        self.memory.trouble = None;
        self.memory.judged_since = edge.by;
        self.enter(State::Up, at);
        changes.push(Change::Ended(edge));
    }

    fn flap(&mut self, thresholds: &Thresholds, at: Timestamp, changes: &mut Vec<Change>) {
        let flapping = flapping::judge(self.memory.flapping, self.window.signs());
        if flapping == self.memory.flapping {
            return;
        }
        self.memory.flapping = flapping;
        if self.memory.trouble.is_some() {
            changes.push(Change::Flapping(flapping));
        }
        // A recovery that flapping held back is told once it has stopped.
        if !flapping && self.severity() == Some(Severity::Down) && self.memory.state == State::Up {
            self.recover(thresholds, at, changes);
        }
    }

    /// What must be stored: everything but the marks that [`Track::remember`] finds again in the observations.
    pub fn durable(&self) -> Memory {
        let in_trouble = self.memory.trouble.is_some() || self.memory.bad.count > 0;
        let mut memory = self.memory.clone();
        if !in_trouble {
            memory.last_good = None;
            memory.last_bad = None;
            memory.as_of = Timestamp::EPOCH;
            memory.good = Run::default();
        } else if memory.trouble.as_ref().is_some_and(|t| t.severity == Severity::Degraded) && memory.bad.count == 0 {
            memory.last_good = None;
            memory.as_of = Timestamp::EPOCH;
            memory.good = Run::default();
        }
        memory
    }
}

#[cfg(test)]
mod tests;
