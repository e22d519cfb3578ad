//! Detection: from observations to the state of a check. Pure; see [`Track::observe`].

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

/// What makes a check degraded, over a window.
#[derive(Clone, Debug, PartialEq)]
pub struct Degraded {
    /// Share of slow observations.
    pub slow: Option<Ratio>,
    /// Share of lost messages.
    pub loss: Option<Ratio>,
    /// Share of messages that arrived more than once.
    pub duplicates: Option<Ratio>,
    /// 95th percentile of the latency.
    pub p95: Option<Duration>,
    /// The window.
    pub window: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            failures: 5,
            confirm_every: Duration::from_secs(3),
            recoveries: 2,
            degraded: Degraded {
                slow: Some(Ratio(0.2)),
                loss: Some(Ratio(0.01)),
                duplicates: Some(Ratio(0.01)),
                p95: None,
                window: Duration::from_secs(600),
            },
        }
    }
}
