//! What is measured of a sample, and which share of it makes a service degraded.

use std::time::Duration;

use super::Degraded;
use crate::{
    observation::{Correction, Delivery, Kind, Observation, Outcome, Phase, Reason, to_ms},
    value::{Ratio, Timestamp},
};

/// How unlikely chance must be before slow answers or duplicates count: few enough false alarms for a warning.
pub const CHANCE_SLOW_MAX: f64 = 1e-3;

/// The same for losses. At a 30 s interval a year has a million windows; one false page in a hundred check-years
/// allows each of them about 1e-8.
pub const CHANCE_LOSS_MAX: f64 = 1e-8;

/// What is kept of an observation: 24 bytes, and some more of a delivery.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// When the attempt began.
    pub at: Timestamp,
    /// How it went.
    pub outcome: Outcome,
    /// Its latency in milliseconds.
    pub latency_ms: f32,
    /// Whether it is the failure of an account that is known to fail: shown in plots, judged by nothing here.
    pub aside: bool,
    /// What became of its messages.
    pub messages: Option<Box<Messages>>,
}

/// What is kept of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Messages {
    /// How many were sent or tried.
    pub all: u32,
    /// Arrived after the objective.
    pub late: u32,
    /// Did not get through.
    pub missing: u32,
    /// Were not accepted.
    pub refused: u32,
    /// Further copies.
    pub duplicates: u32,
    /// Arrived after a later one.
    pub reordered: u32,
    /// Arrived other than they were sent.
    pub changed: u32,
    /// Messages of others.
    pub foreign: u32,
    /// Whether they arrived where their reader does not look.
    pub is_misplaced: bool,
    /// The time to the acknowledgement in milliseconds.
    pub accept_ms: Option<f32>,
    /// Whether a login for its own sake was let in, where one was made.
    pub login: Option<bool>,
}

impl Messages {
    fn of(d: &Delivery, reason: Option<&Reason>) -> Self {
        let fates = d.all_fates();
        Self {
            all: fates.messages(),
            late: fates.late,
            missing: fates.missing(),
            refused: fates.unsent,
            duplicates: d.duplicates,
            reordered: d.reordered,
            changed: d.changed,
            foreign: d.foreign,
            is_misplaced: reason.is_some_and(|r| r.kind == Kind::Misplaced),
            accept_ms: d.accept_ms.map(|ms| to_ms(ms) as f32),
            login: d.login.as_ref().map(|l| l.ok),
        }
    }

    fn is_clean(&self) -> bool {
        let bad = [self.late, self.missing, self.refused, self.duplicates, self.reordered, self.changed, self.foreign];
        bad.iter().all(|n| *n == 0) && !self.is_misplaced && self.login != Some(false)
    }
}

impl Sample {
    /// What is kept of an observation.
    pub fn of(observation: &Observation) -> Self {
        let messages = observation.delivery.as_ref().map(|d| Box::new(Messages::of(d, observation.reason.as_ref())));
        let latency_ms = to_ms(observation.latency()) as f32;
        Self { at: observation.at, outcome: observation.outcome, latency_ms, aside: false, messages }
    }

    /// Books it anew.
    pub fn correct(&mut self, correction: &Correction) {
        self.outcome = correction.outcome;
        self.messages = Some(Box::new(Messages::of(&correction.delivery, correction.reason.as_ref())));
        if let Some(latency) = correction.delivery.latency_ms {
            self.latency_ms = to_ms(latency) as f32;
        }
    }

    /// Whether no measure could find anything wrong with it, times aside.
    pub fn is_clean(&self) -> bool {
        self.outcome == Outcome::Ok && self.messages.as_ref().is_none_or(|m| m.is_clean())
    }

    /// Whether a login for its own sake was let in, where one was made.
    pub fn login(&self) -> Option<bool> {
        self.messages.as_ref()?.login
    }
}

/// How many of how many offend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Count {
    /// Those that offend.
    pub bad: u32,
    /// All.
    pub all: u32,
}

/// A share that is looked at.
pub struct Share {
    /// From which share on it offends, if it is looked at.
    pub max: Option<Ratio>,
    /// How unlikely chance must be.
    pub chance_max: f64,
    /// Fewest that offend.
    pub fewest: u32,
    /// What of a sample counts; `None` when it says nothing of this.
    pub count: fn(&Sample) -> Option<Count>,
    /// Where it is wrong.
    pub phase: Phase,
    /// How.
    pub kind: Kind,
    /// What offends, in words that follow `3 of the last 5`.
    pub words: &'static str,
}

/// A 95th percentile that is looked at.
pub struct Quantile {
    /// Above which it offends, if it is looked at.
    pub max: Option<Duration>,
    /// The time of a sample in milliseconds, if it has one.
    pub ms: fn(&Sample) -> Option<f32>,
    /// Where it is wrong.
    pub phase: Phase,
    /// What it is the percentile of.
    pub words: &'static str,
}

/// A count of messages, for samples that have any.
macro_rules! messages {
    ($field:ident) => {
        |s| s.messages.as_ref().map(|m| Count { bad: m.$field.min(m.all), all: m.all })
    };
}

/// All shares, the graver first: one trouble is told, with the words of the first that offends.
pub fn shares(limits: &Degraded) -> [Share; 10] {
    let share = |max, kind, count, words| Share {
        max,
        chance_max: CHANCE_SLOW_MAX,
        fewest: 2,
        count,
        phase: Phase::Deliver,
        kind,
        words,
    };
    let grave = |share: Share| Share { chance_max: CHANCE_LOSS_MAX, ..share };
    [
        grave(share(limits.loss, Kind::Lost, lost, "failed or were lost")),
        grave(share(limits.changed, Kind::Corrupt, messages!(changed), "messages arrived changed")),
        Share {
            phase: Phase::Send,
            ..grave(share(limits.refused, Kind::Rejected, messages!(refused), "messages were not accepted"))
        },
        Share {
            phase: Phase::Login,
            fewest: 3,
            ..share(limits.login, Kind::Rejected, refused_logins, "new logins failed")
        },
        share(limits.duplicates, Kind::Duplicate, messages!(duplicates), "messages arrived more than once"),
        share(limits.reordered, Kind::Unexpected, messages!(reordered), "messages arrived after a later one"),
        Share { fewest: 3, ..share(limits.late, Kind::Slow, messages!(late), "messages arrived late") },
        Share { fewest: 3, ..share(limits.slow, Kind::Misplaced, misplaced, "messages arrived where nobody looks") },
        Share { fewest: 3, phase: Phase::Exchange, ..share(limits.slow, Kind::Slow, slow, "attempts were slow") },
        share(limits.foreign, Kind::Unexpected, messages!(foreign), "messages had a stranger's beside them"),
    ]
}

/// All percentiles.
pub fn quantiles(limits: &Degraded) -> [Quantile; 2] {
    let latency = |s: &Sample| (s.outcome != Outcome::Failed).then_some(s.latency_ms);
    [
        Quantile { max: limits.p95, ms: latency, phase: Phase::Exchange, words: "the latency" },
        Quantile {
            max: limits.accept_p95,
            ms: |s| s.messages.as_ref()?.accept_ms,
            phase: Phase::Send,
            words: "the time to the acknowledgement",
        },
    ]
}

/// Messages that did not get through; of what sent none, attempts that failed. A message that arrived changed is
/// counted as that.
fn lost(s: &Sample) -> Option<Count> {
    let failed = u32::from(s.outcome == Outcome::Failed);
    Some(match &s.messages {
        None => Count { bad: failed, all: 1 },
        Some(m) if m.missing == 0 && m.changed == 0 => Count { bad: failed, all: m.all },
        Some(m) => Count { bad: m.missing, all: m.all },
    })
}

fn slow(s: &Sample) -> Option<Count> {
    let otherwise = s.messages.as_ref().is_some_and(|m| m.login == Some(false) || m.missing > 0 || m.is_misplaced);
    Some(Count { bad: u32::from(s.outcome == Outcome::Slow && !otherwise), all: 1 })
}

fn misplaced(s: &Sample) -> Option<Count> {
    s.messages.as_ref().map(|m| Count { bad: u32::from(m.is_misplaced), all: 1 })
}

fn refused_logins(s: &Sample) -> Option<Count> {
    s.login().map(|ok| Count { bad: u32::from(!ok), all: 1 })
}
