//! When a check is due: every so often, or by a cron line in a time zone; spread over the interval, never in a burst.

use std::time::Duration;

use crate::value::{CheckName, Timestamp};

/// When a check is due.
#[derive(Clone, Debug)]
pub enum Schedule {
    /// At a fixed interval.
    Every(Duration),
    /// By a cron line.
    Cron(Cron),
}

/// A cron line in a time zone.
#[derive(Clone, Debug)]
pub struct Cron {}

impl Cron {
    /// Parses five or six fields; `timezone` is an IANA name.
    pub fn parse(line: &str, timezone: chrono_tz::Tz) -> Result<Self, String> {
        let _ = (line, timezone);
        Ok(Self {})
    }
}

impl Schedule {
    /// The first instant after `after` at which a check of this name is due; `None` when it never is again.
    pub fn next(&self, name: &CheckName, after: Timestamp) -> Option<Timestamp> {
        let _ = (name, after);
        None
    }

    /// When it is first due after a start or reload at `now` with `checks` checks in all: spread, so that the start
    /// is no burst.
    pub fn first(&self, name: &CheckName, now: Timestamp, checks: usize) -> Option<Timestamp> {
        let _ = (name, now, checks);
        None
    }

    /// The usual time between two runs (for a cron line: between the next two after `now`).
    pub fn interval(&self, now: Timestamp) -> Duration {
        let _ = now;
        Duration::ZERO
    }
}
