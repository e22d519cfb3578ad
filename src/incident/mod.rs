//! Incidents: stretches of bad service, with their checks, their cause, and a start and an end that are intervals.
//!
//! An outage begins somewhere between the last good observation and the first bad one, and ends between the last
//! bad and the first good. Both ends are kept as such; no time of confirmation ever stands in for them.

pub mod lifecycle;
pub mod told;
pub mod vantage;

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::told::{Fired, Told, ToldChannel};
pub use self::vantage::Vantage;
pub use crate::detect::{Edge, Severity};
use crate::{
    observation::Reason,
    value::{CheckName, Labels, Name, Timestamp},
};

/// The number of an incident, unique within one database, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IncidentId(pub u64);

impl fmt::Display for IncidentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// One check's part in an incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// How bad it is now (or was last, once ended).
    pub severity: Severity,
    /// How bad it was at its worst.
    pub worst: Severity,
    /// From good to bad.
    pub started: Edge,
    /// From bad to good; absent while it lasts.
    pub ended: Option<Edge>,
    /// What was wrong first.
    pub reason: Option<Reason>,
    /// When this was confirmed.
    pub confirmed_at: Timestamp,
    /// Whether the check is flapping.
    #[serde(default)]
    pub flapping: bool,
    /// Whether its part ended because it left the configuration: nobody saw it up again.
    #[serde(default)]
    pub unwatched: bool,
}

/// Someone has taken it in hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// When.
    pub at: Timestamp,
    /// Who, as they said.
    pub by: String,
    /// What they said.
    pub note: String,
}

/// A stretch of bad service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// Its number.
    pub id: IncidentId,
    /// The service it is about.
    pub service: Name,
    /// The service's title, for people.
    pub title: String,
    /// The labels all its checks share.
    pub labels: Labels,
    /// How bad it is now (or was last, once ended).
    pub severity: Severity,
    /// How bad it was at its worst.
    pub worst: Severity,
    /// When it began: the earliest edge of its members.
    pub started: Edge,
    /// When it ended: the latest edge of its members; absent while it lasts.
    pub ended: Option<Edge>,
    /// When bongsu was sure of it.
    pub opened_at: Timestamp,
    /// When bongsu was sure of its end.
    pub closed_at: Option<Timestamp>,
    /// Its checks.
    pub members: BTreeMap<CheckName, Member>,
    /// The cause in one line.
    pub cause: String,
    /// Who has taken it in hand.
    pub acknowledged: Option<Acknowledgement>,
    /// Whom it was told, and what is still to be told: see `alert`.
    #[serde(default)]
    pub told: Told,
}

impl Incident {
    /// Whether it still lasts.
    pub fn is_open(&self) -> bool {
        self.closed_at.is_none()
    }

    /// Whether it is over only because what was wrong with it last is no longer watched.
    pub fn is_unwatched(&self) -> bool {
        let ended = |edge: Option<Edge>| edge.map(|e| e.by);
        let last = |m: &Member| m.unwatched && ended(m.ended) == ended(self.ended);
        !self.is_open() && self.members.values().any(last)
    }

    /// How long it has lasted by `now`, from the first bad observation to the first good one.
    pub fn duration(&self, now: Timestamp) -> Duration {
        self.ended.map_or(now, |e| e.by).since(self.started.by)
    }
}

/// What a line of an incident's timeline is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// The incident was opened.
    Opened,
    /// A check joined it.
    Joined,
    /// It grew worse or better.
    Severity,
    /// A check recovered.
    Recovered,
    /// A check failed again before the incident ended.
    Relapsed,
    /// A message was put into the outbox.
    Told,
    /// A message was not sent, and why.
    NotTold,
    /// A message's delivery changed: delivered, handed to the fallback, given up.
    Delivery,
    /// Booked losses were corrected by late arrivals.
    Corrected,
    /// Somebody acknowledged it.
    Acknowledged,
    /// Somebody noted something.
    Note,
    /// The incident ended.
    Closed,
}

impl Entry {
    /// The word used in JSON and SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Joined => "joined",
            Self::Severity => "severity",
            Self::Recovered => "recovered",
            Self::Relapsed => "relapsed",
            Self::Told => "told",
            Self::NotTold => "not_told",
            Self::Delivery => "delivery",
            Self::Corrected => "corrected",
            Self::Acknowledged => "acknowledged",
            Self::Note => "note",
            Self::Closed => "closed",
        }
    }
}

/// One line of an incident's timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineEntry {
    /// Of which incident.
    pub incident: IncidentId,
    /// When it was written.
    pub at: Timestamp,
    /// What it is about.
    pub entry: Entry,
    /// In words, one line.
    pub text: String,
}
