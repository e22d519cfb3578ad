//! One alert for one channel: what it says, and how its delivery stands.

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use crate::{detect::Point, incident::told::MessageId};
use crate::{
    incident::{Edge, IncidentId, Severity},
    observation::Reason,
    value::{CheckName, Labels, Name, Timestamp},
};

/// What a message tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageKind {
    /// An incident has begun (or has reached this channel's step).
    Problem,
    /// It has become worse.
    Worse,
    /// It still lasts.
    Reminder,
    /// Some of its checks have recovered, others have not.
    Partial,
    /// It is over.
    Recovery,
    /// It began and ended before this channel could be told of its beginning.
    Past,
    /// The agent itself was cut off for a while, and could judge nothing meanwhile.
    Isolated,
    /// Nothing is wrong: somebody tries the channel.
    Test,
}

impl MessageKind {
    /// The word used in JSON and SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Problem => "problem",
            Self::Worse => "worse",
            Self::Reminder => "reminder",
            Self::Partial => "partial",
            Self::Recovery => "recovery",
            Self::Past => "past",
            Self::Isolated => "isolated",
            Self::Test => "test",
        }
    }

    /// Whether the incident is over for the receiver after this message.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Recovery | Self::Past)
    }
}

/// How a message's delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageState {
    /// To be sent at `next_at`.
    Pending,
    /// The receiver said yes.
    Delivered,
    /// The receiver refused it for good.
    Refused,
    /// It was tried for as long as [`crate::alert::outbox::GIVE_UP_AFTER`] and is not tried any more.
    GivenUp,
    /// A later message says it better (the incident ended before it could be told).
    Superseded,
}

impl MessageState {
    /// The word used in JSON and SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Refused => "refused",
            Self::GivenUp => "given_up",
            Self::Superseded => "superseded",
        }
    }

    /// The inverse of [`MessageState::as_str`].
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Pending, Self::Delivered, Self::Refused, Self::GivenUp, Self::Superseded]
            .into_iter()
            .find(|s| s.as_str() == word)
    }
}

/// A channel that did not take a message, for which another stands in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InsteadOf {
    /// The channel.
    pub channel: Name,
    /// What went wrong with it, in words.
    pub error: String,
}

/// Who is told next, if it lasts until then and nobody takes it in hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldNext {
    /// When.
    pub at: Timestamp,
    /// By which channels.
    pub channels: Vec<Name>,
}

/// One check as an alert shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertCheck {
    /// Its name.
    pub name: CheckName,
    /// How bad it is (or was last).
    pub severity: Severity,
    /// From good to bad.
    pub started: Edge,
    /// From bad to good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Edge>,
    /// What was wrong first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Whether it is flapping.
    #[serde(default)]
    pub flapping: bool,
    /// Whether it ended because the check left the configuration: nobody saw it up again.
    #[serde(default)]
    pub unwatched: bool,
    /// Its latest observations, oldest first, for the plot; at most [`Point::MAX`].
    #[serde(default)]
    pub recent: Vec<Point>,
}

/// How many checks an alert leaves out, by how they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Down.
    pub down: usize,
    /// Degraded.
    pub degraded: usize,
    /// Up again.
    pub back: usize,
    /// No longer watched, and last seen in trouble.
    #[serde(default)]
    pub unwatched: usize,
}

impl Tally {
    /// Counts one check.
    pub fn add(&mut self, severity: Severity, ended: bool, unwatched: bool) {
        match (ended, severity) {
            (true, _) if unwatched => self.unwatched += 1,
            (true, _) => self.back += 1,
            (false, Severity::Down) => self.down += 1,
            (false, Severity::Degraded) => self.degraded += 1,
        }
    }

    /// All of them.
    pub fn total(&self) -> usize {
        self.down + self.degraded + self.back + self.unwatched
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.total() == 0
    }
}

/// What a message says: everything a template may show. Serialised, it is the `alert` of every template and the
/// generic webhook body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// What is told.
    pub kind: MessageKind,
    /// The incident; absent in a test message and in one about the agent itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident: Option<IncidentId>,
    /// The place the agent looks from.
    pub vantage: Name,
    /// The service.
    pub service: Name,
    /// Its title.
    pub title: String,
    /// Labels its checks share.
    pub labels: Labels,
    /// How bad it is (or was last).
    pub severity: Severity,
    /// The cause in one line.
    pub cause: String,
    /// When it began.
    pub started: Edge,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Edge>,
    /// Whether it is over only because what was wrong last is no longer watched: nobody saw it up again.
    #[serde(default)]
    pub unwatched: bool,
    /// How long it has lasted, in milliseconds.
    pub duration_ms: u64,
    /// Its checks; of many, those that matter most.
    pub checks: Vec<AlertCheck>,
    /// The checks that `checks` has no room for.
    #[serde(default, skip_serializing_if = "Tally::is_empty")]
    pub others: Tally,
    /// Who has taken it in hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged_by: Option<String>,
    /// Who is told next, if anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<ToldNext>,
    /// The channel this should have gone to, when it comes by its fallback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead_of: Option<InsteadOf>,
    /// When the message was made.
    pub at: Timestamp,
}

impl Alert {
    /// How all its checks stand, also those it leaves out.
    pub fn tally(&self) -> Tally {
        let mut tally = self.others;
        for check in &self.checks {
            tally.add(check.severity, check.ended.is_some(), check.unwatched);
        }
        tally
    }

    /// How long it has lasted.
    pub fn duration(&self) -> Duration {
        Duration::from_millis(self.duration_ms)
    }
}

/// One alert for one channel: a row of the outbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Its number.
    pub id: MessageId,
    /// The idempotency key: the same for every attempt, never used for another message, also not by another
    /// database. Receivers that see a key twice may drop the second.
    pub key: String,
    /// Where it goes.
    pub channel: Name,
    /// The thread it belongs to: the same for all messages of an incident.
    pub thread: String,
    /// How many messages of the incident this channel was given before: the first opens a thread.
    pub position: u32,
    /// What it says.
    pub alert: Alert,
    /// When it was made.
    pub created_at: Timestamp,
    /// How its delivery stands.
    pub state: MessageState,
    /// Attempts made.
    pub attempts: u32,
    /// When it is to be tried (again).
    pub next_at: Timestamp,
    /// What went wrong last.
    #[serde(default)]
    pub last_error: Option<String>,
    /// When it was delivered, refused, given up or superseded.
    #[serde(default)]
    pub settled_at: Option<Timestamp>,
    /// Whether its fallback has been given a copy.
    #[serde(default)]
    pub handed_over: bool,
}

/// What came of one attempt to deliver a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempted {
    /// The receiver said yes.
    Delivered,
    /// It may work later: network error, time-out, 408, 429, 5xx, a mail server's 4xx. `retry_after` is the
    /// receiver's own wish.
    Retry {
        /// In words.
        error: String,
        /// How long the receiver asks to wait.
        retry_after: Option<Duration>,
    },
    /// It will never work: another 4xx, a mail server's 5xx, a template that cannot be rendered.
    Refused {
        /// In words.
        error: String,
    },
}
