//! The only reader of the operating system's time and randomness.
//!
//! Everything else takes `now` and random values as arguments, which is what makes replay and simulation
//! possible. `tests/tidy.rs` refuses a clock read anywhere else.

use std::{
    fmt,
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ring::rand::{SecureRandom, SystemRandom};
use rustix::time::{ClockId, clock_gettime};

use crate::value::{TimeSpan, Timestamp};

/// The wall clock, in milliseconds since the epoch. A clock before 1970 reads as 1970.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// The monotonic clock: for durations within one process.
pub fn instant() -> Instant {
    Instant::now()
}

/// When the wall clock comes to show this time, if nobody sets it: the present moment if it is past. Exact, so that what
/// is due at one time wakes at one moment, whenever each was told.
pub fn when(at: Timestamp) -> Instant {
    let shows = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = Duration::from_millis(u64::try_from(at.as_millis()).unwrap_or(0));
    instant() + at.saturating_sub(shows)
}

/// Monotonic time since the first call in this process.
pub fn uptime() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// All clocks at one moment, to see later whether they went on together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The wall clock.
    pub wall: Timestamp,
    /// Time since the machine was booted, while it was running.
    pub running: Duration,
    /// Time since the machine was booted, suspended or not.
    pub booted: Duration,
}

/// Something that happened to the clocks; by whole seconds, because no two clocks can be read at the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jump {
    /// The wall clock was set forward by this much.
    Forward(Duration),
    /// The wall clock was set back by this much.
    Back(Duration),
    /// The machine was suspended for this long.
    Suspended(Duration),
}

/// The least that counts as a jump. A clock that is being corrected gently (by at most 500 parts in a million, see
/// adjtimex(2)) gains or loses less in an hour; and reading several clocks takes a moment in which the process may not
/// run.
pub const JUMP_MIN: Duration = Duration::from_secs(2);

/// Reads all clocks.
pub fn reading() -> Reading {
    let since_boot = |clock| {
        let time = clock_gettime(clock);
        Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
    };
    Reading { wall: now(), running: since_boot(ClockId::Monotonic), booted: since_boot(ClockId::Boottime) }
}

impl Reading {
    /// What happened to the clocks between this reading and a later one. A suspend comes before a step: after a long
    /// sleep the wall clock is usually set right as well.
    pub fn jump(&self, later: &Self) -> Option<Jump> {
        let running = later.running.saturating_sub(self.running);
        let booted = later.booted.saturating_sub(self.booted);
        let suspended = booted.saturating_sub(running);
        if suspended >= JUMP_MIN {
            return Some(Jump::Suspended(seconds(suspended)));
        }
        // The wall clock goes on while the machine sleeps.
        let expected = self.wall + booted;
        let (ahead, behind) = (later.wall.since(expected), expected.since(later.wall));
        match (ahead >= JUMP_MIN, behind >= JUMP_MIN) {
            (true, _) => Some(Jump::Forward(seconds(ahead))),
            (_, true) => Some(Jump::Back(seconds(behind))),
            (false, false) => None,
        }
    }
}

/// To the nearest second.
fn seconds(span: Duration) -> Duration {
    Duration::from_secs((span + Duration::from_millis(500)).as_secs())
}

impl fmt::Display for Jump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forward(by) => write!(f, "the wall clock was set forward by {}", TimeSpan(*by)),
            Self::Back(by) => write!(f, "the wall clock was set back by {}", TimeSpan(*by)),
            Self::Suspended(by) => write!(f, "the machine was suspended for {}", TimeSpan(*by)),
        }
    }
}

/// `N` bytes from the operating system's secure generator, for keys and identities.
///
/// # Panics
/// When the operating system has no randomness to give; nothing can be authenticated then, so the process stops.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// A seed for a generator of jitter and the like.
pub fn random_seed() -> u64 {
    u64::from_le_bytes(random_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_the_wall_clock_is_a_moment() {
        let hour = Duration::from_secs(3_600);
        let (begun, began_at) = (instant(), now());
        let (moment, past) = (when(began_at + hour), when(began_at - hour));
        let took = begun.elapsed();
        // The clock that was read shows whole milliseconds.
        let ahead = moment - begun;
        assert!(ahead + Duration::from_millis(1) + took >= hour && ahead <= hour + took, "{ahead:?} in {took:?}");
        assert!(past >= begun && past <= begun + took);
    }

    #[test]
    fn steps_and_suspends_are_told_from_time_that_passes() {
        let hour = 3_600_000;
        // Milliseconds by which the wall clock, the running one and the one since boot have gone on; what that was.
        let table = [
            (0, 0, 0, None),
            (5_000, 5_000, 5_000, None),
            (6_999, 5_000, 5_000, None),
            (3_001, 5_000, 5_000, None),
            (7_000, 5_000, 5_000, Some("the wall clock was set forward by 2s")),
            (3_000, 5_000, 5_000, Some("the wall clock was set back by 2s")),
            (hour + 1_000, 1_000, 1_000, Some("the wall clock was set forward by 1h")),
            (-hour, 0, 0, Some("the wall clock was set back by 1h")),
            (-24 * hour + 1_000, 1_000, 1_000, Some("the wall clock was set back by 1d")),
            (hour - 400, 1_000, 1_000, Some("the wall clock was set forward by 59m59s")),
            (hour + 600, 1_000, 1_000, Some("the wall clock was set forward by 1h")),
            (hour, 1_000, hour as u64, Some("the machine was suspended for 59m59s")),
            (1_000, 1_000, hour as u64, Some("the machine was suspended for 59m59s")),
            (2_500, 1_000, 2_500, None),
        ];
        let before = Reading {
            wall: Timestamp::from_millis(1_795_359_000_000),
            running: Duration::from_secs(1_000),
            booted: Duration::from_secs(9_000),
        };
        for (wall, running, booted, expected) in table {
            let later = Reading {
                wall: Timestamp::from_millis(before.wall.as_millis() + wall),
                running: before.running + Duration::from_millis(running),
                booted: before.booted + Duration::from_millis(booted),
            };
            assert_eq!(before.jump(&later).map(|j| j.to_string()).as_deref(), expected, "{wall} {running} {booted}");
        }
        let (first, second) = (reading(), reading());
        assert!(second.running >= first.running && second.booted >= first.booted, "{first:?} {second:?}");
        assert_eq!(first.jump(&second), None, "clocks that were left alone");
    }
}
