//! What a detector remembers across a restart.

use serde::{Deserialize, Serialize};

use super::{Edge, Severity, State, accounts::Accounts};
use crate::{observation::Reason, value::Timestamp};

/// Confirmed bad service in progress.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Trouble {
    /// How bad it is.
    pub severity: Severity,
    /// When it began.
    pub started: Edge,
    /// What was wrong first.
    pub reason: Option<Reason>,
}

/// Observations of one sign in a row.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Run {
    /// How many; 0 when there is none.
    pub count: u32,
    /// The first of them.
    pub first: Timestamp,
    /// What the first one showed, for a bad run.
    #[serde(default)]
    pub reason: Option<Box<Reason>>,
    /// How many of a good run were slow.
    #[serde(default)]
    pub slow: u32,
}

/// That a check could not be judged because the agent was isolated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Void {
    /// Since when the agent was isolated.
    pub since: Timestamp,
    /// Whether it has not been judged since.
    pub lasts: bool,
}

/// What the detector must remember across a restart. What only trouble brings is in boxes: there are thousands of these.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Memory {
    /// The state.
    pub state: State,
    /// Since when.
    pub since: Timestamp,
    /// The latest observation that is part of this memory.
    pub as_of: Timestamp,
    /// Confirmed bad service, if any.
    #[serde(default)]
    pub trouble: Option<Box<Trouble>>,
    /// Bad observations in a row.
    #[serde(default)]
    pub bad: Run,
    /// Good observations in a row since the last bad one; counted while in trouble.
    #[serde(default)]
    pub good: Run,
    /// Inconclusive observations in a row.
    #[serde(default)]
    pub blind: u32,
    /// The latest good observation.
    #[serde(default)]
    pub last_good: Option<Timestamp>,
    /// The latest bad observation (in a degraded check: the latest that offended).
    #[serde(default)]
    pub last_bad: Option<Timestamp>,
    /// Whether it is flapping.
    #[serde(default)]
    pub flapping: bool,
    /// The isolation of the agent in which it could not be judged; forgotten with the first judgement after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub void: Option<Void>,
    /// Samples before this are not judged again: an outage that is over is no evidence of a degradation.
    #[serde(default)]
    pub judged_since: Timestamp,
    /// Accounts that are failing.
    #[serde(default, skip_serializing_if = "Accounts::is_empty")]
    pub accounts: Accounts,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            state: State::Unknown,
            since: Timestamp::EPOCH,
            as_of: Timestamp::EPOCH,
            trouble: None,
            bad: Run::default(),
            good: Run::default(),
            blind: 0,
            last_good: None,
            last_bad: None,
            flapping: false,
            void: None,
            judged_since: Timestamp::EPOCH,
            accounts: Accounts::default(),
        }
    }
}

impl Memory {
    /// Counts anew: what was seen before a time in which nobody could see says nothing of what comes after it.
    /// Confirmed trouble stays; a suspicion or a recovery that was being confirmed begins with the next observation.
    pub fn confirm_anew(&mut self) {
        self.bad = Run::default();
        self.good = Run::default();
    }

    /// Takes nothing for later than now, where the wall clock was ahead: whatever is observed until that time comes again
    /// would count as earlier, and change nothing.
    pub(super) fn not_after(&mut self, now: Timestamp) {
        let Self { since, as_of, trouble, bad, good, last_good, last_bad, void, judged_since, accounts, .. } = self;
        let marks = [since, as_of, &mut bad.first, &mut good.first, judged_since].into_iter();
        let marks = marks.chain(last_good).chain(last_bad).chain(void.as_mut().map(|void| &mut void.since));
        for mark in marks {
            *mark = (*mark).min(now);
        }
        if let Some(trouble) = trouble {
            trouble.started.not_after(now);
        }
        accounts.not_after(now);
    }
}
