//! Whether the process itself stood still: stopped by a signal, or starved of processor time.
//!
//! Whoever sleeps for a quarter of a second and wakes two seconds later has not run for as long, and neither has any
//! attempt beside it. What an attempt shows that was kept from running for a good part of its time (a deadline that
//! passed, a peer that gave up, a slow answer) says nothing of its target. Where the target had enough time in spite of
//! it, it does: an agent that is always short of processor time must still see an outage.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::value::TimeSpan;

/// How often somebody wakes to see whether the process runs. A pause is known to within this.
pub(super) const WAKE_EVERY: Duration = Duration::from_millis(250);

/// The least lateness that counts: what any machine has now and then.
const LATE_MIN: Duration = Duration::from_millis(50);

/// Latenesses remembered: when each wake is late, those of more than four minutes.
const LATE_MAX: usize = 1_024;

/// An attempt is excused that was kept from running for at least one part in so many of its time: what remained was
/// less than twice as much.
const SHARE: u32 = 3;

/// The least pause that excuses anything: no peer gives up within it.
const EXCUSE_MIN: Duration = Duration::from_millis(250);

/// A pause worth a line in the log.
const TOLD_MIN: Duration = Duration::from_secs(2);

/// A pause after which what was seen before it says nothing of what comes after it.
pub(super) const ANEW_MIN: Duration = Duration::from_secs(30);

/// How often at most there is such a line: a machine that is short of processor time is so for long.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// The pauses of this process.
pub(super) struct Stalls {
    /// When somebody is to wake next.
    due: Instant,
    /// Pauses that are over: their ends and lengths.
    late: VecDeque<(Instant, Duration)>,
    told: Option<Instant>,
}

impl Stalls {
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now + WAKE_EVERY, late: VecDeque::new(), told: None }
    }

    /// Somebody woke; gives the pause when it is worth a line.
    pub(super) fn woke(&mut self, now: Instant) -> Option<Duration> {
        let late = self.overdue(now);
        self.due = now + WAKE_EVERY;
        if late.is_zero() {
            return None;
        }
        if self.late.len() == LATE_MAX {
            self.late.pop_front();
        }
        self.late.push_back((now, late));
        let rested = self.told.is_none_or(|told| now.saturating_duration_since(told) >= TOLD_EVERY);
        if late < TOLD_MIN || !rested && late < ANEW_MIN {
            return None;
        }
        self.told = Some(now);
        Some(late)
    }

    /// Why what began then and has just ended tells nothing; `None` when it ran for most of the time.
    pub(super) fn excuse(&self, begun: Instant, now: Instant) -> Option<String> {
        let lasted = now.saturating_duration_since(begun);
        let ended = self.late.iter().rev().take_while(|(end, _)| *end > begun).map(|(_, late)| *late);
        // Whoever is to wake may not have yet, although the pause is over: an attempt may be the first to run.
        let stalled = ended.sum::<Duration>() + self.overdue(now);
        let stalled = stalled.min(lasted);
        let tenths = |span: Duration| {
            let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
            TimeSpan(Duration::from_millis(ms.saturating_add(50) / 100 * 100))
        };
        (stalled >= EXCUSE_MIN && stalled * SHARE >= lasted).then(|| {
            let (stalled, lasted) = (tenths(stalled), tenths(lasted));
            format!("the agent itself stood still for {stalled} of {lasted}, stopped or without processor time")
        })
    }

    fn overdue(&self, now: Instant) -> Duration {
        let late = now.saturating_duration_since(self.due);
        if late < LATE_MIN { Duration::ZERO } else { late }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn an_attempt_is_excused_by_pauses_that_took_a_good_part_of_its_time() {
        let start = crate::clock::instant();
        // Moments at which somebody woke; beginning and end of an attempt; whether it is excused. All in milliseconds.
        let table: [(&[u64], u64, u64, bool); 12] = [
            (&[250, 500, 750, 1_000], 0, 1_010, false),
            (&[250, 540, 790, 1_080, 1_330], 0, 1_340, false),
            // Stopped from 250 to 3,000.
            (&[250, 3_000], 100, 3_001, true),
            (&[250, 3_000, 3_250], 3_001, 3_300, false),
            (&[250, 3_000], 100, 9_000, true),
            (&[250, 3_000, 3_250, 3_500, 3_750, 4_000, 4_250, 4_500], 0, 4_600, true),
            // Awake again, and the attempt is the first to run.
            (&[250], 200, 3_000, true),
            (&[250], 2_990, 3_000, false),
            // Short pauses, one after the other, for half of the time.
            (&[500, 1_000, 1_500, 2_000], 0, 2_010, true),
            (&[250, 500, 750, 1_000, 1_500, 1_750, 2_000, 2_250], 0, 2_260, false),
            // Too short to matter even to the shortest attempt.
            (&[250, 600], 300, 610, false),
            (&[], 0, 10, false),
        ];
        for (woken, begun, ended, expected) in table {
            let mut stalls = Stalls::new(start);
            for at in woken {
                stalls.woke(start + ms(*at));
            }
            let excuse = stalls.excuse(start + ms(begun), start + ms(ended));
            assert_eq!(excuse.is_some(), expected, "{woken:?} {begun} {ended}: {excuse:?}");
        }
    }

    #[test]
    fn a_pause_is_told_with_its_length_and_not_over_and_over() {
        let start = crate::clock::instant();
        let mut stalls = Stalls::new(start);
        assert_eq!(stalls.woke(start + ms(300)), None);
        assert_eq!(stalls.woke(start + ms(5_550)), Some(ms(5_000)));
        let excuse = stalls.excuse(start, start + ms(6_000));
        let text = "the agent itself stood still for 5.3s of 6s, stopped or without processor time";
        assert_eq!(excuse.as_deref(), Some(text));
        assert_eq!(stalls.woke(start + ms(10_000)), None, "once a minute");
        assert_eq!(stalls.woke(start + ms(70_250)), Some(ms(60_000)));
        for n in 0..5_000 {
            stalls.woke(start + ms(70_250 + n * 400));
        }
        assert_eq!(stalls.late.len(), LATE_MAX);
    }
}
