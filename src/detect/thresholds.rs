//! When a check counts as down, up again, or degraded.

use std::time::Duration;

use crate::value::Ratio;

/// When a check counts as down, up again, or degraded.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds {
    /// Bad observations in a row that make an outage; at least 1.
    pub failures: u32,
    /// How soon a suspect check is asked again.
    pub confirm_every: Duration,
    /// Good observations in a row that end an outage; at least 1.
    pub recoveries: u32,
    /// What makes it degraded.
    pub degraded: Degraded,
}

/// What makes a check degraded, over a window. A share or a percentile that is absent is not looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Degraded {
    /// Share of slow observations.
    pub slow: Option<Ratio>,
    /// Share of messages that arrived after their objective.
    pub late: Option<Ratio>,
    /// Share of failed attempts and lost messages.
    pub loss: Option<Ratio>,
    /// Share of messages that were not accepted, for good or for now.
    pub refused: Option<Ratio>,
    /// Share of messages that arrived more than once.
    pub duplicates: Option<Ratio>,
    /// Share of messages that arrived after a later one.
    pub reordered: Option<Ratio>,
    /// Share of messages that arrived other than they were sent.
    pub changed: Option<Ratio>,
    /// Messages of others for each of one's own.
    pub foreign: Option<Ratio>,
    /// Share of new logins refused while kept sessions deliver.
    pub login: Option<Ratio>,
    /// Share of failing accounts.
    pub accounts: Option<Ratio>,
    /// 95th percentile of the latency.
    pub p95: Option<Duration>,
    /// 95th percentile of the time to the acknowledgement.
    pub accept_p95: Option<Duration>,
    /// The window.
    pub window: Duration,
}

impl Default for Degraded {
    fn default() -> Self {
        Self {
            slow: Some(Ratio(0.2)),
            late: None,
            loss: Some(Ratio(0.01)),
            refused: None,
            duplicates: Some(Ratio(0.01)),
            reordered: None,
            changed: Some(Ratio(0.01)),
            foreign: None,
            login: Some(Ratio(0.1)),
            accounts: Some(Ratio(0.01)),
            p95: None,
            accept_p95: None,
            window: Duration::from_secs(600),
        }
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { failures: 5, confirm_every: Duration::from_secs(3), recoveries: 2, degraded: Degraded::default() }
    }
}
