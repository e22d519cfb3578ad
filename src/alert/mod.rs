//! Alerts: who is told of an incident, when, and why not.
//!
//! A route matches incidents and has steps by the outage's age; each step names channels. What is to be said is put
//! into the outbox as a [`Message`], which carries everything its rendering needs, so that it can be sent, and sent
//! again, without asking anything else. Nothing here sends; `notify` does, and tells the result back.

pub mod compose;
pub mod message;
pub mod outbox;
pub mod plan;

use std::{collections::BTreeMap, time::Duration};

pub use self::message::{Alert, AlertCheck, InsteadOf, Message, MessageKind, MessageState, Tally, ToldNext};
use crate::value::{CheckName, Name};
pub use crate::{
    detect::Point,
    incident::{
        Severity,
        told::{Fired, MessageId, Told, ToldChannel},
    },
};

/// Which incidents a route is for. Every part given must match; a route without parts matches every incident.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Match {
    /// Any of these services.
    pub services: Vec<Name>,
    /// Any of these checks is a member.
    pub checks: Vec<CheckName>,
    /// Any of these severities (as it is now).
    pub severities: Vec<Severity>,
    /// All of these labels.
    pub labels: BTreeMap<String, String>,
}

/// One step of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Age of the outage at which it is due, counted from the first bad observation.
    pub after: Duration,
    /// Whom it tells.
    pub to: Vec<Name>,
    /// How often it tells them again while the outage lasts.
    pub repeat: Option<Duration>,
}

/// Which incidents go to which channels, after how long an outage.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Which incidents.
    pub matches: Match,
    /// Its steps, by rising `after`.
    pub steps: Vec<Step>,
}

/// What planning must know of a channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChannelPlan {
    /// Who gets its messages when it fails.
    pub fallback: Option<Name>,
}
