//! Whether a wall clock that has gone ahead may be believed.
//!
//! Pure. Nothing tells a machine that was off for a month from one whose clock is a month ahead, but that a wrong clock is
//! usually set right before long.

use std::time::Duration;

use crate::value::Timestamp;

/// How long a clock that has gone ahead must go on steadily: time synchronisation sets one right within minutes.
const STEADY_MIN: Duration = Duration::from_secs(3_600);

/// What the wall clock may gain or lose meanwhile. One that is corrected gently does so by two seconds an hour.
const STEP_MAX: Duration = Duration::from_secs(60);

/// Since when the wall clock goes on steadily, and what it showed then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doubt {
    pub now: Timestamp,
    /// For how long the process had been running.
    pub running: Duration,
}

impl Doubt {
    /// Takes in another reading; whether the clock has been steady for long enough.
    pub fn is_over(&mut self, now: Timestamp, running: Duration) -> bool {
        let steady = running.saturating_sub(self.running);
        let expected = self.now + steady;
        if now.since(expected).max(expected.since(now)) > STEP_MAX {
            *self = Self { now, running };
            return false;
        }
        steady >= STEADY_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_believed_when_it_was_steady_for_an_hour() {
        let (second, start) = (Duration::from_secs(1), Timestamp::from_millis(1_795_359_000_000));
        let mut doubt = Doubt { now: start, running: second };
        let mut after = |wall_s: u32, running_s: u32| doubt.is_over(start + second * wall_s, second * (1 + running_s));
        assert!(!after(0, 0) && !after(3_599, 3_599) && after(3_600, 3_600) && after(9_002, 9_000));
        // Set back, then ahead again: the hour begins anew each time.
        assert!(!after(100, 9_060) && !after(9_120, 9_120) && !after(12_719, 12_719) && after(12_720, 12_720));
    }
}
