//! One UTC day of one check, summed up.
//!
//! Pure. Counts are of attempts; times are what attempts stand for: each speaks for the time until the next one,
//! and never longer than the check's hold, beyond which nothing is known. Availability is made of times, because a
//! suspect check is asked more often, and counting attempts would weigh an outage many times over. So a day's
//! `down` is the sum of its stretches from the first bad attempt to the first good one, as incidents have it.

use sketches_ddsketch::{Config, DDSketch};

use super::{encode::DAY_MS, error::Fault};
use crate::observation::Outcome;

/// Relative error of latency quantiles: 1 % of what is told.
const QUANTILE_ERROR: f64 = 0.01;

/// Most bins of a sketch: from a microsecond to years at 1 % there are about 1,500.
const BINS_MAX: u32 = 2_048;

/// Shortest latency told apart from none, in milliseconds: what the binary form assumes.
const LATENCY_MS_MIN: f64 = 1e-9;

/// Bytes of the digest before a stored sketch: its decoder trusts what it is given, a damaged file must not reach it.
const DIGEST_BYTES: usize = 8;

/// Latencies of attempts, from which quantiles can be told to 1 %; those of several days or checks can be merged.
#[derive(Clone)]
pub struct Latencies(DDSketch);

impl Default for Latencies {
    fn default() -> Self {
        Self(DDSketch::new(Config::new(QUANTILE_ERROR, BINS_MAX, LATENCY_MS_MIN)))
    }
}

impl std::fmt::Debug for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Latencies").field("count", &self.count()).field("p50_ms", &self.quantile_ms(0.5)).finish()
    }
}

impl Latencies {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.count()
    }

    /// The latency in milliseconds that a share `q` (0 to 1) of the attempts did not exceed; `None` when there are
    /// no attempts.
    pub fn quantile_ms(&self, q: f64) -> Option<f64> {
        self.0.quantile(q).ok().flatten()
    }

    /// Adds the latencies of another day or check.
    pub fn merge(&mut self, other: &Self) {
        self.0.merge(&other.0).expect("all sketches are made with the same error, so they fit");
    }

    fn add(&mut self, latency_us: i64) {
        self.0.add(latency_us.max(0) as f64 / 1_000.0);
    }

    /// As a column: a digest, then the binary form of DataDog's sketches; `None` when there are none.
    pub(super) fn to_bytes(&self) -> Option<Vec<u8>> {
        if self.count() == 0 {
            return None;
        }
        let sketch = self.0.to_java_bytes();
        let mut bytes = digest(&sketch).to_vec();
        bytes.extend(sketch);
        Some(bytes)
    }

    /// The inverse of [`Latencies::to_bytes`]; refuses bytes that are damaged or of another error.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, Fault> {
        let damaged = || Fault::Inconsistent("the latencies of a day are damaged".into());
        let (expected, sketch) = bytes.split_at_checked(DIGEST_BYTES).ok_or_else(damaged)?;
        if digest(sketch) != expected {
            return Err(damaged());
        }
        let read = DDSketch::from_java_bytes(sketch).map_err(|_| damaged())?;
        // Merged into one of ours, so that whatever was read fits all others from now on.
        let mut own = Self::default();
        own.0.merge(&read).map_err(|_| damaged())?;
        Ok(own)
    }
}

fn digest(bytes: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut short = [0; DIGEST_BYTES];
    let whole = ring::digest::digest(&ring::digest::SHA256, bytes);
    short.iter_mut().zip(whole.as_ref()).for_each(|(to, from)| *to = *from);
    short
}

/// How many messages of a delivery count as what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub sent: u64,
    pub lost: u64,
    pub late: u64,
    pub duplicated: u64,
}

/// The sums of a day.
#[derive(Clone, Debug)]
pub(super) struct Day {
    end_ms: i64,
    hold_ms: i64,
    /// The attempt that speaks for the time from its instant on.
    last: Option<(i64, Outcome)>,
    /// The time before this instant is counted.
    counted_ms: i64,
    pub attempts: [u64; 4],
    pub up_ms: i64,
    pub down_ms: i64,
    pub unknown_ms: i64,
    pub sent: u64,
    pub lost: u64,
    pub late: u64,
    pub duplicated: u64,
    pub latencies: Latencies,
}

impl Day {
    /// An empty day (counted from 1970-01-01); `carry` is the attempt before it that may still speak in it.
    pub fn new(day: i64, hold_ms: i64, carry: Option<(i64, Outcome)>) -> Self {
        let start_ms = day.saturating_mul(DAY_MS);
        Self {
            end_ms: start_ms.saturating_add(DAY_MS),
            hold_ms: hold_ms.max(0),
            last: carry,
            counted_ms: start_ms,
            attempts: [0; 4],
            up_ms: 0,
            down_ms: 0,
            unknown_ms: 0,
            sent: 0,
            lost: 0,
            late: 0,
            duplicated: 0,
            latencies: Latencies::default(),
        }
    }

    /// One attempt of the day; they come in the order of their times.
    pub fn push(&mut self, at_ms: i64, outcome: Outcome, latency_us: i64, delivery: Option<Counts>) {
        self.hold_until(at_ms);
        self.last = Some((at_ms, outcome));
        self.attempts[position(outcome)] += 1;
        if matches!(outcome, Outcome::Ok | Outcome::Slow) {
            self.latencies.add(latency_us);
        }
        if let Some(d) = delivery {
            self.sent += d.sent;
            self.lost += d.lost;
            self.late += d.late;
            self.duplicated += d.duplicated;
        }
    }

    /// Ends the day, or an open day at `now_ms`; gives what it leaves to the next.
    pub fn finish(&mut self, now_ms: i64) -> Option<(i64, Outcome)> {
        self.hold_until(self.end_ms.min(now_ms));
        self.last
    }

    /// Whether there is anything to tell.
    pub fn is_empty(&self) -> bool {
        self.attempts == [0; 4] && self.up_ms + self.down_ms + self.unknown_ms == 0
    }

    fn hold_until(&mut self, at_ms: i64) {
        let Some((since_ms, outcome)) = self.last else { return };
        let until_ms = at_ms.min(since_ms.saturating_add(self.hold_ms)).min(self.end_ms);
        let held_ms = until_ms.saturating_sub(since_ms.max(self.counted_ms)).max(0);
        self.counted_ms = self.counted_ms.max(until_ms);
        match outcome {
            Outcome::Ok | Outcome::Slow => self.up_ms += held_ms,
            Outcome::Failed => self.down_ms += held_ms,
            Outcome::Unknown => self.unknown_ms += held_ms,
        }
    }
}

/// The position of an outcome in [`Day::attempts`].
pub(super) fn position(outcome: Outcome) -> usize {
    match outcome {
        Outcome::Ok => 0,
        Outcome::Slow => 1,
        Outcome::Failed => 2,
        Outcome::Unknown => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_attempt_speaks_until_the_next_but_not_beyond_its_hold() {
        let s = 1_000;
        let start = 20_000 * DAY_MS;
        // (hold, carry, attempts, up, down, unknown), seconds from the start of the day
        type Case = (i64, Option<(i64, Outcome)>, &'static [(i64, Outcome)], [i64; 3]);
        let cases: [Case; 6] = [
            (90, None, &[], [0, 0, 0]),
            (90, Some((-30, Outcome::Ok)), &[], [60, 0, 0]),
            (90, Some((-100, Outcome::Ok)), &[], [0, 0, 0]),
            (90, Some((-30, Outcome::Failed)), &[(30, Outcome::Ok)], [90, 30, 0]),
            (
                90,
                None,
                &[(0, Outcome::Ok), (30, Outcome::Failed), (33, Outcome::Failed), (40, Outcome::Slow)],
                [120, 10, 0],
            ),
            (90, None, &[(86_390, Outcome::Unknown)], [0, 0, 10]),
        ];
        for (hold, carry, attempts, [up, down, unknown]) in cases {
            let mut day = Day::new(20_000, hold * s, carry.map(|(at, o)| (start + at * s, o)));
            for (at, outcome) in attempts {
                day.push(start + at * s, *outcome, 1_000, None);
            }
            day.finish(i64::MAX);
            assert_eq!([day.up_ms, day.down_ms, day.unknown_ms], [up * s, down * s, unknown * s], "{attempts:?}");
        }
    }

    #[test]
    fn latencies_come_back_merge_and_refuse_damage() {
        let mut low = Latencies::default();
        let mut high = Latencies::default();
        (0..1_000).for_each(|i| low.add(i * 1_000));
        (0..1_000).for_each(|i| high.add(1_000_000 + i * 1_000));
        let bytes = low.to_bytes().expect("there are some");
        let mut both = Latencies::from_bytes(&bytes).expect("undamaged");
        assert_eq!(both.quantile_ms(0.95), low.quantile_ms(0.95));
        both.merge(&high);
        let median = both.quantile_ms(0.5).expect("there are some");
        assert!((median - 999.0).abs() <= 10.0, "{median}");
        for i in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[i] ^= 0x40;
            assert!(Latencies::from_bytes(&damaged).is_err());
            assert!(Latencies::from_bytes(&bytes[..i]).is_err());
        }
        assert_eq!(Latencies::default().to_bytes(), None);
    }

    #[test]
    fn an_open_day_ends_now() {
        let mut day = Day::new(0, DAY_MS, None);
        day.push(1_000, Outcome::Ok, 5, None);
        assert_eq!(day.finish(4_000), Some((1_000, Outcome::Ok)));
        assert_eq!(day.up_ms, 3_000);
        day.finish(4_000);
        assert_eq!(day.up_ms, 3_000, "ending it again counts nothing twice");
    }
}
