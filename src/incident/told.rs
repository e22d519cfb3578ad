//! What has been told of an incident, and to whom. It is part of the incident, so it survives a restart with it.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{
    detect::Severity,
    value::{Name, Timestamp},
};

/// The number of a message, unique within one database, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MessageId(pub u64);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What has been told of one incident; part of the incident, so it survives restarts with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// Channels that have been told, with what became of the latest message.
    #[serde(default)]
    pub channels: BTreeMap<Name, ToldChannel>,
    /// For each step (see [`crate::alert::plan::step_key`]): how often it has fired, and when last.
    #[serde(default)]
    pub steps: BTreeMap<String, Fired>,
    /// When a partial recovery was told last.
    #[serde(default)]
    pub partial_at: Option<Timestamp>,
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
    /// How many messages were made for it.
    #[serde(default)]
    pub messages: u32,
    /// Whether it has been told (or is being told) of the end.
    #[serde(default)]
    pub ended: bool,
}

/// How often a step has fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fired {
    /// How often.
    pub times: u32,
    /// When last.
    pub last_at: Timestamp,
}
