//! Alerts: who is told of an incident, when, and why not.
//!
//! A route matches incidents and has steps by the outage's age; each step names channels. What is to be said is put
//! into the outbox as a [`Message`], which carries everything its rendering needs, so that it can be sent, and sent
//! again, without asking anything else. Nothing here sends; `notify` does, and tells the result back.

pub mod message;
pub mod outbox;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::message::{Alert, AlertCheck, Message, MessageId, MessageKind, MessageState, Point};
use crate::{
    incident::Severity,
    value::{CheckName, Name, Timestamp},
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

/// What has been told of one incident; part of the incident, so it survives restarts with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// Channels that have been told, with what became of the latest message.
    #[serde(default)]
    pub channels: BTreeMap<Name, ToldChannel>,
    /// For each route and step (`"0.1"`): how often it has fired, and when last.
    #[serde(default)]
    pub steps: BTreeMap<String, Fired>,
}

/// What one channel knows of an incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToldChannel {
    /// The worst it has been told.
    pub severity: Severity,
    /// When it was first told (the message's row was made).
    pub first_at: Timestamp,
    /// Messages still on their way to it.
    #[serde(default)]
    pub pending: Vec<MessageId>,
    /// Whether it has received at least one message on this incident.
    #[serde(default)]
    pub reached: bool,
}

/// How often a step has fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fired {
    /// How often.
    pub times: u32,
    /// When last.
    pub last_at: Timestamp,
}
