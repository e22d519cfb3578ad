//! One event in, one commit out.
//!
//! [`Core`] holds what is known of every check and every open incident. It is given events with their time and
//! answers each with one [`Commit`]: observation, new state, incident change and messages, which the store writes in
//! one transaction. It never reads a clock, sleeps, sends or stores.

use crate::{
    alert::{Message, MessageId, message::Attempted},
    incident::{Incident, IncidentId, TimelineEntry},
    observation::{Correction, Observation},
    value::{CheckName, Timestamp},
};

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An attempt of a check has its verdict.
    Observed { check: CheckName, observation: Observation },
    /// A message that was pending or lost has met its fate.
    Corrected { check: CheckName, correction: Correction },
    /// The notifier tried to deliver a message.
    Attempted { message: MessageId, result: Attempted },
    /// Somebody acknowledges an incident.
    Acknowledge { incident: IncidentId, by: String, note: String },
    /// Somebody notes something.
    Note { incident: IncidentId, by: String, text: String },
    /// Somebody tries a channel.
    TestChannel { channel: crate::value::Name },
    /// Time has passed: steps and repeats may be due.
    Tick,
}

/// What one event changes. The store writes it in one transaction, or nothing of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Commit {
    /// The observation.
    pub observation: Option<(CheckName, Observation)>,
    /// A correction of an earlier observation.
    pub correction: Option<(CheckName, Correction)>,
    /// The check's state, when it changed.
    pub state: Option<StateRow>,
    /// Incidents that are new or changed, whole.
    pub incidents: Vec<Incident>,
    /// New lines of timelines.
    pub timeline: Vec<TimelineEntry>,
    /// Messages that are new or changed, whole.
    pub messages: Vec<Message>,
}

/// The durable part of a check's state.
#[derive(Clone, Debug, PartialEq)]
pub struct StateRow {
    /// The check.
    pub check: CheckName,
    /// The state's word, for the views.
    pub state: &'static str,
    /// Since when it is in that state.
    pub since: Timestamp,
    /// All that the detector must remember, as JSON.
    pub memory: serde_json::Value,
}
