//! When a check is due: every so often, or by a cron line in a time zone; spread over the interval, never in a burst.
//!
//! A check with an interval runs on a grid of its own: the instants that lie a fixed offset after the multiples of
//! its interval. The offset is a hash of the check's name, so thousands of checks with one interval are spread
//! evenly over it, a restart moves none of them, and every member of a fleet computes the same instants. Offsets come in
//! steps, so that a few checks begin together and cost one wake. Cron lines say themselves when they are due; see
//! [`Cron`]. Nothing here reads a clock.

use std::time::Duration;

pub use self::cron::Cron;
use crate::value::{CheckName, Timestamp};

mod cron;

/// How many checks begin in a second after a start or a reload, as long as their intervals leave the room: an agent
/// with 1,000 checks has asked each of them after ten seconds, and a hundred connections a second disturb nobody.
pub const STARTS_PER_SECOND: u64 = 100;

/// Offsets are multiples of it: what is due at about the same time is due at the same time. A process that is woken for
/// twenty attempts at once spends a good deal less than one that is woken twenty times, and no check needs to be apart
/// from others by less.
const STEP_MS: i64 = 20;

/// At most so many places has an interval, however long it is: the longer it is, the more it takes for some to meet.
const PLACES_MAX: i64 = 500;

/// Shortest interval of the grid: the resolution of [`Timestamp`].
const INTERVAL_MIN: Duration = Duration::from_millis(1);

/// What [`Schedule::interval`] says of a cron line with fewer than two runs ahead.
const INTERVAL_WITHOUT_RUNS: Duration = Duration::from_secs(86_400);

/// When a check is due.
#[derive(Clone, Debug)]
pub enum Schedule {
    /// At a fixed interval.
    Every(Duration),
    /// By a cron line.
    Cron(Cron),
}

impl Schedule {
    /// The first instant after `after` at which a check of this name is due; `None` when it never is again.
    pub fn next(&self, name: &CheckName, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Every(every) => {
                let every_ms = millis(*every);
                let step_ms = step_ms(every_ms);
                let offset_ms = share(name, every_ms) / step_ms * step_ms;
                let after_ms = after.as_millis();
                let into_ms = after_ms.checked_sub(offset_ms)?.rem_euclid(every_ms);
                after_ms.checked_add(every_ms - into_ms).map(Timestamp::from_millis)
            }
            Self::Cron(cron) => cron.next(after),
        }
    }

    /// When it is first due after a start or reload at `now` with `checks` checks in all: spread, so that the start
    /// is no burst. A cron line is not run at the start: it is first due when it says.
    ///
    /// The window is as long as [`STARTS_PER_SECOND`] asks, at least a second and at most the interval, so a lone
    /// check runs within a second, and 10,000 checks with an interval of 30 s start no faster than they go on.
    pub fn first(&self, name: &CheckName, now: Timestamp, checks: usize) -> Option<Timestamp> {
        match self {
            Self::Every(every) => {
                let checks = u64::try_from(checks).unwrap_or(u64::MAX);
                let window = Duration::from_millis(checks.saturating_mul(1_000) / STARTS_PER_SECOND);
                let window_ms = millis(window.max(Duration::from_secs(1)).min(*every));
                now.as_millis().checked_add(share(name, window_ms)).map(Timestamp::from_millis)
            }
            Self::Cron(cron) => cron.next(now),
        }
    }

    /// When it is due after the run that [`Schedule::first`] gave: on its grid, at least a twentieth of the interval
    /// later, so that the start does not ask twice at once; and never much more than an interval later, because an
    /// outage that begins right after a start must be noticed as soon as any other.
    pub fn second(&self, name: &CheckName, first: Timestamp) -> Option<Timestamp> {
        match self {
            // One millisecond less, because `next` is strictly later than what it is given.
            Self::Every(every) => self.next(name, first + (*every / 20).saturating_sub(INTERVAL_MIN)),
            Self::Cron(cron) => cron.next(first),
        }
    }

    /// The usual time between two runs (for a cron line: between the next two after `now`; a day if there are none).
    pub fn interval(&self, now: Timestamp) -> Duration {
        match self {
            Self::Every(every) => (*every).max(INTERVAL_MIN),
            Self::Cron(cron) => {
                let next = cron.next(now);
                let two = next.and_then(|one| Some((one, cron.next(one)?)));
                two.map_or(INTERVAL_WITHOUT_RUNS, |(one, two)| two.since(one))
            }
        }
    }
}

/// By how much a timer may fire before the wall clock shows its time. A run that lies further in the future than this
/// was planned under a clock that has been set back since.
pub const EARLY_MAX: Duration = Duration::from_secs(2);

/// When a check that was due at `ran` runs next, asked at `now`. `second` is the run after its first one, which may
/// pass a regular time over. Whatever the wall clock has done in between, the answer lies after `now`, and for a
/// fixed interval less than two of them.
pub fn next_run(
    schedule: &Schedule,
    name: &CheckName,
    now: Timestamp,
    ran: Timestamp,
    second: Option<Timestamp>,
) -> Option<Timestamp> {
    let base = if ran.since(now) > EARLY_MAX { now } else { now.max(ran) };
    let soon = |at: &Timestamp| *at > base && at.since(base) < schedule.interval(base) * 2;
    second.filter(soon).or_else(|| schedule.next(name, base))
}

/// Whole milliseconds of an interval, at least one.
fn millis(span: Duration) -> i64 {
    i64::try_from(span.max(INTERVAL_MIN).as_millis()).unwrap_or(i64::MAX)
}

/// How far the places within an interval are apart: the shortest multiple of [`STEP_MS`] that leaves at most
/// [`PLACES_MAX`].
fn step_ms(every_ms: i64) -> i64 {
    (every_ms - 1) / (PLACES_MAX * STEP_MS) * STEP_MS + STEP_MS
}

/// The name's own place within a span: the same in every build and on every machine, even over many names.
fn share(name: &CheckName, span_ms: i64) -> i64 {
    let place = (u128::from(hash(name.as_str())) * u128::try_from(span_ms).unwrap_or(0)) >> 64;
    i64::try_from(place).unwrap_or(0)
}

/// FNV-1a, then the finaliser of MurmurHash3. The finaliser is needed because names often differ in their last
/// characters only, which FNV-1a alone leaves in the low bits, and [`share`] reads the high ones.
fn hash(text: &str) -> u64 {
    let fnv = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mut mixed = (fnv ^ (fnv >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_795_348_800_000);

    fn name(text: &str) -> CheckName {
        text.parse().expect("a name")
    }

    fn seconds(n: i64) -> Timestamp {
        Timestamp::from_millis(1_000 * n)
    }

    fn every(seconds: u64) -> Schedule {
        Schedule::Every(Duration::from_secs(seconds))
    }

    /// The most that begin in one of the seconds that the instants touch.
    fn busiest_second(due: impl Iterator<Item = Timestamp>) -> (usize, usize) {
        let mut seconds = BTreeMap::<i64, usize>::new();
        for at in due {
            *seconds.entry(at.as_millis().div_euclid(1_000)).or_default() += 1;
        }
        (seconds.values().copied().max().unwrap_or(0), seconds.len())
    }

    #[test]
    fn ten_thousand_checks_are_spread_evenly() {
        let names: Vec<_> = (0..10_000).map(|n| name(&format!("load/check-{n:05}"))).collect();
        let schedule = every(30);
        let a_moment_before = NOW - Duration::from_millis(1);
        let regular = |name: &CheckName| schedule.next(name, a_moment_before);
        let started = |name: &CheckName| schedule.first(name, NOW, 10_000);
        for due in [&regular as &dyn Fn(&CheckName) -> Option<Timestamp>, &started] {
            let (most, seconds) = busiest_second(names.iter().filter_map(due));
            assert_eq!(seconds, 30);
            assert!(most * 2 * 30 < 10_000 * 3, "{most} in one second, the mean is {}", 10_000 / 30);
        }
        // A start of 1,000 checks takes ten seconds although the interval would allow thirty.
        let (most, seconds) = busiest_second(names[..1_000].iter().filter_map(|n| schedule.first(n, NOW, 1_000)));
        assert_eq!(seconds, 10);
        assert!(most < 150, "{most}");
    }

    #[test]
    fn a_few_begin_together() {
        let table = [(10, 20), (100, 20), (1_000, 20), (10_000, 20), (10_001, 40), (30_000, 60), (86_400_000, 172_800)];
        for (every_ms, step) in table {
            assert_eq!(step_ms(every_ms), step, "{every_ms}");
            let schedule = Schedule::Every(Duration::from_millis(every_ms.unsigned_abs()));
            let start = NOW.as_millis() / every_ms * every_ms;
            let offset = |n| {
                let due = schedule.next(&name(&format!("a/{n}")), Timestamp::from_millis(start - 1)).expect("due");
                due.as_millis() - start
            };
            let offsets: BTreeSet<i64> = (0..5_000).map(offset).collect();
            assert!(offsets.iter().all(|offset| offset % step == 0 && *offset < every_ms), "{every_ms}: {offsets:?}");
            let places = (every_ms + step - 1) / step;
            assert!(
                places <= PLACES_MAX && offsets.len() as i64 > places * 9 / 10,
                "{every_ms}: {} of {places}",
                offsets.len()
            );
        }
    }

    #[test]
    fn a_lone_check_starts_within_a_second_or_its_interval() {
        for n in 0..500 {
            let name = name(&format!("a/{n}"));
            assert!(every(3_600).first(&name, NOW, 1).expect("due") - Duration::from_secs(1) < NOW);
            let quick = Schedule::Every(Duration::from_millis(200));
            assert!(quick.first(&name, NOW, 10_000).expect("due") - Duration::from_millis(200) < NOW);
        }
    }

    #[test]
    fn the_run_after_the_first_is_on_the_grid_and_not_at_once() {
        for seconds in [1, 30, 60, 86_400] {
            let schedule = every(seconds);
            for n in 0..500 {
                let name = name(&format!("svc-{n}/x"));
                let first = schedule.first(&name, NOW, 500).expect("due");
                let second = schedule.second(&name, first).expect("due");
                assert!(second.since(first) >= Duration::from_secs(seconds) / 20, "{first} {second}");
                assert!(second.since(first) <= Duration::from_secs(seconds) * 21 / 20, "{first} {second}");
                let third = schedule.next(&name, second).expect("due");
                assert_eq!(third.since(second), Duration::from_secs(seconds));
            }
        }
    }

    #[test]
    fn offsets_never_change_between_builds() {
        let table = [
            ("mail/submission", 30_000, 1_627),
            ("mail/round-trip", 60_000, 6_175),
            ("카카오톡/로그인", 60_000, 5_313),
            ("a/b", 1_000, 947),
        ];
        for (text, span_ms, offset_ms) in table {
            assert_eq!(share(&name(text), span_ms), offset_ms, "{text}");
        }
        // In steps of 60 ms.
        assert_eq!(every(30).next(&name("mail/submission"), NOW), Some(NOW + Duration::from_millis(1_620)));
    }

    #[test]
    fn cron_lines_are_not_run_at_the_start() {
        let cron = Schedule::Cron(Cron::parse("0 * * * *", chrono_tz::UTC).expect("a line"));
        let (name, half_past) = (name("a/b"), NOW + Duration::from_secs(1_800));
        let next = Some(NOW + Duration::from_secs(3_600));
        assert_eq!(cron.first(&name, half_past, 1), next);
        assert_eq!(cron.next(&name, half_past), next);
        assert_eq!(cron.interval(half_past), Duration::from_secs(3_600));
    }

    #[test]
    fn whatever_the_wall_clock_does_the_next_run_is_near() {
        let name = name("web/front");
        let tenth = every(10);
        let cron = Cron::parse("*/2 * * * *", chrono_tz::UTC).expect("a cron line");
        let day = 86_400;
        let noon = 20_000 * day + day / 2;
        // Where the clock stands when asked, against when the check was due: in time, early, late, set back, set forward.
        for step in [0, -1, 1, 30, -3, -3_600, -day, 3_600, day] {
            let (now, ran) = (seconds(noon + step), seconds(noon));
            for (schedule, longest) in [(&tenth, 20), (&Schedule::Cron(cron.clone()), 240)] {
                let next = next_run(schedule, &name, now, ran, None).expect("it is due again");
                assert!(next > now, "{step}: {next}");
                assert!(next.since(now) <= Duration::from_secs(longest), "{step}: {next} is far from {now}");
            }
            let planned = tenth.second(&name, ran);
            let next = next_run(&tenth, &name, now, ran, planned).expect("it is due again");
            assert!(next > now && next.since(now) < Duration::from_secs(25), "{step}: {next}");
        }
        // A timer that fires a little early does not make the same run again.
        let ran = tenth.next(&name, seconds(noon)).expect("it is due");
        assert_eq!(next_run(&tenth, &name, ran - Duration::from_millis(3), ran, None), tenth.next(&name, ran));
    }

    #[test]
    fn the_end_of_time_is_no_panic() {
        let cron = Schedule::Cron(Cron::parse("* * * * *", chrono_tz::Asia::Seoul).expect("a line"));
        for schedule in [every(30), Schedule::Every(Duration::ZERO), Schedule::Every(Duration::MAX), cron] {
            for ms in [i64::MIN, -1, 0, i64::MAX - 1, i64::MAX] {
                let at = Timestamp::from_millis(ms);
                for due in [schedule.next(&name("a/b"), at), schedule.second(&name("a/b"), at)] {
                    assert!(due.is_none_or(|due| due > at), "{schedule:?} after {ms}: {due:?}");
                }
                let first = schedule.first(&name("a/b"), at, usize::MAX);
                assert!(first.is_none_or(|first| first >= at), "{schedule:?} at {ms}: {first:?}");
                schedule.interval(at);
            }
        }
    }

    proptest! {
        #[test]
        fn next_is_the_nearest_instant_of_the_grid(
            n in 0_u32..1_000_000, every_ms in 1_u64..100_000_000, after in -10_000_000_000_000_i64..10_000_000_000_000,
        ) {
            let (name, every) = (name(&format!("s/{n}")), Duration::from_millis(every_ms));
            let (schedule, after) = (Schedule::Every(every), Timestamp::from_millis(after));
            let next = schedule.next(&name, after).expect("far from the end of time");
            prop_assert!(next > after && next - every <= after);
            prop_assert_eq!(schedule.next(&name, next), Some(next + every));
            prop_assert_eq!(schedule.next(&name, next - Duration::from_millis(1)), Some(next));
        }
    }
}
