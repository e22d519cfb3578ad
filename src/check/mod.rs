//! Checks: one question each, asked on a schedule.
//!
//! What is asked is an [`Ask`]: a plain probe of one protocol, or a kind of its own (`delivery`) from [`KINDS`].

use std::{sync::Arc, time::Duration};

use schemars::{Schema, SchemaGenerator};

use crate::{
    detect::Thresholds,
    observation::{Correction, Observation},
    options::Options,
    protocol::{Boxed, Net, wire::Line},
    schedule::Schedule,
    value::{CheckName, Labels, Timestamp},
};

/// A check as resolved from YAML.
pub struct Check {
    /// `service/check`.
    pub name: CheckName,
    /// The service's title, for people.
    pub title: String,
    /// Labels of the service and the check.
    pub labels: Labels,
    /// When it is asked.
    pub schedule: Schedule,
    /// How it is asked.
    pub settings: Settings,
    /// What is asked.
    pub ask: Arc<dyn Ask>,
    /// When it counts as suspect, down, degraded.
    pub thresholds: Thresholds,
    /// Checks this one cannot work without.
    pub depends_on: Vec<CheckName>,
    /// The name its history is kept under, if it was renamed.
    pub formerly: Option<CheckName>,
    /// The YAML of the check after defaults, secrets unresolved: two equal texts are the same check at reload.
    pub fingerprint: String,
}

/// How a check is asked, whatever its kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Deadline of one attempt (of a delivery: of each session's opening and of the send).
    pub timeout: Duration,
    /// A longer attempt is `slow`; for a delivery, this is the objective of its latency.
    pub slow: Option<Duration>,
    /// Address families.
    pub ip: Families,
}

/// Which address families are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Families {
    /// Whatever the name has, the first that connects.
    #[default]
    Any,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
    /// Each of the two, in turn; both must work.
    Both,
}

/// What an attempt is given.
#[derive(Clone)]
pub struct Context {
    /// Resolver, roots, masker.
    pub net: Arc<Net>,
    /// When the attempt begins, on the wall clock.
    pub at: Timestamp,
    /// The settings of the check.
    pub settings: Settings,
    /// Whether a transcript is wanted.
    pub explain: bool,
}

/// What an attempt gives back.
#[derive(Debug)]
pub struct Answer {
    /// What it showed.
    pub observation: Observation,
    /// What was said, if a transcript was asked for; secrets are masked.
    pub transcript: Vec<Line>,
}

/// One question. Implementations keep what they need between attempts (a delivery: its ledger) behind a lock of
/// their own; attempts of one check never overlap.
pub trait Ask: Send + Sync {
    /// `http`, `mqtt`, `delivery` …
    fn kind(&self) -> &'static str;

    /// What is asked, for people, without secrets.
    fn target(&self) -> String;

    /// The longest an attempt can take, from its settings.
    fn deadline(&self, settings: &Settings) -> Duration;

    /// One attempt; ends by its deadline, whatever the peer does. Never panics on what a peer sends.
    fn attempt<'a>(&'a self, context: Context) -> Boxed<'a, Answer>;

    /// What comes to light after the verdict, one correction at a time; `None` when nothing is outstanding. The
    /// caller drops it when the next attempt is due.
    fn afterwards<'a>(&'a self) -> Boxed<'a, Option<Correction>>;
}

/// A kind of check other than a plain probe.
pub struct CheckKind {
    /// The key in YAML.
    pub name: &'static str,
    /// What it asks, in one line without a full stop.
    pub summary: &'static str,
    /// YAML of a check that uses it, which tests load as it stands.
    pub example: &'static str,
    /// JSON Schema of its options.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// Builds it; `None` when the options hold mistakes (then recorded there).
    pub build: fn(&mut Options<'_>, &CheckName, &Settings) -> Option<Arc<dyn Ask>>,
}

/// All kinds of checks other than plain probes.
pub static KINDS: &[&CheckKind] = &[];
