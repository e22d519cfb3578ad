//! The latest samples of a check, and whether they show a degraded service.
//!
//! A share is judged by asking how likely so many bad samples were if the true share were just the threshold: the
//! upper tail of the binomial distribution. Only when that is very unlikely is the service called degraded, so a
//! service at its threshold does not page by chance, however often it is asked. Several lengths of the recent past
//! are judged, so that a sudden change is seen without waiting for the window to fill.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    observation::{Delivery, Fate, Kind, Observation, Outcome, Phase, Reason, to_ms},
    value::{Ratio, TimeSpan, Timestamp},
};

use super::{Degraded, Edge, flapping};

/// Most samples kept, whatever the window: ten minutes at two a second.
pub const SAMPLES_MAX: usize = 1_200;

/// How unlikely chance must be before slow answers or duplicates count: few enough false alarms for a warning.
pub const CHANCE_SLOW_MAX: f64 = 1e-3;

/// The same for losses. At a 30 s interval a year has a million windows; one false page in a hundred check-years
/// allows each of them about 1e-8.
pub const CHANCE_LOSS_MAX: f64 = 1e-8;

/// Fewest samples from which a quantile is taken.
pub const QUANTILE_SAMPLES_MIN: usize = 10;

/// Good samples in a row that end a degradation, as far as the window holds so many.
pub const HEALED_RUN: usize = 10;

/// What is kept of an observation: 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// When the attempt began.
    pub at: Timestamp,
    /// How it went.
    pub outcome: Outcome,
    /// Its latency in milliseconds.
    pub latency_ms: f32,
    /// Whether a message arrived more than once.
    pub duplicated: bool,
    /// Whether it is a booked loss.
    pub lost: bool,
    /// Whether it is the failure of an account that is known to fail: shown in plots, judged by nothing here.
    pub aside: bool,
}

impl Sample {
    /// What is kept of an observation.
    pub fn of(observation: &Observation) -> Self {
        Self {
            at: observation.at,
            outcome: observation.outcome,
            latency_ms: to_ms(observation.latency()) as f32,
            duplicated: observation.delivery.as_ref().is_some_and(|d| d.duplicates > 0),
            lost: super::is_loss(observation),
            aside: false,
        }
    }
}

/// One observation in a plot.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// When.
    pub at: Timestamp,
    /// How it went.
    pub outcome: Outcome,
    /// Its latency.
    pub ms: f32,
}

impl Point {
    /// Points of a plot: what fits the width of a mail.
    pub const MAX: usize = 40;
}

/// Why a service is called degraded.
#[derive(Clone, Debug, PartialEq)]
pub struct Offence {
    /// From the last sample before the first offending one, to that one.
    pub started: Edge,
    /// The latest offending sample.
    pub last: Timestamp,
    /// In words.
    pub reason: Reason,
}

/// The latest samples of a check, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Window {
    samples: VecDeque<Sample>,
}

/// What is counted, and what it is called.
struct Measure {
    share_max: Option<Ratio>,
    chance_max: f64,
    fewest: usize,
    offends: fn(&Sample) -> bool,
    phase: Phase,
    kind: Kind,
    words: &'static str,
}

impl Window {
    /// Adds a sample and forgets what is older than `span` (though not the latest ones, which flapping and plots
    /// need) and beyond [`SAMPLES_MAX`].
    pub fn push(&mut self, sample: Sample, span: Duration) {
        self.samples.push_back(sample);
        let keep_from = sample.at - span;
        while self.samples.len() > SAMPLES_MAX
            || (self.samples.len() > flapping::OBSERVATIONS && self.samples.front().is_some_and(|s| s.at < keep_from))
        {
            self.samples.pop_front();
        }
    }

    /// Books a sample anew; returns its outcome before, `None` when it is no longer in the window.
    pub fn correct(&mut self, at: Timestamp, outcome: Outcome, delivery: &Delivery) -> Option<Outcome> {
        let sample = self.samples.iter_mut().rev().find(|s| s.at == at)?;
        let was = sample.outcome;
        sample.outcome = outcome;
        sample.lost = delivery.fate == Fate::Lost;
        sample.duplicated = delivery.duplicates > 0;
        if let Some(latency) = delivery.latency_ms {
            sample.latency_ms = to_ms(latency) as f32;
        }
        Some(was)
    }

    /// Sets a sample aside, or takes it back; returns how it was before.
    pub fn set_aside(&mut self, at: Timestamp, aside: bool) -> bool {
        let sample = self.samples.iter_mut().rev().find(|s| s.at == at);
        sample.is_some_and(|sample| std::mem::replace(&mut sample.aside, aside))
    }

    /// Good and bad in order of time, the inconclusive left out.
    pub fn signs(&self) -> impl DoubleEndedIterator<Item = bool> {
        self.samples.iter().filter(|s| s.outcome != Outcome::Unknown && !s.aside).map(|s| s.outcome != Outcome::Failed)
    }

    /// The latest samples as points of a plot.
    pub fn points(&self) -> Vec<Point> {
        let skip = self.samples.len().saturating_sub(Point::MAX);
        self.samples.iter().skip(skip).map(|s| Point { at: s.at, outcome: s.outcome, ms: s.latency_ms }).collect()
    }

    /// The latest sample.
    pub fn latest(&self) -> Option<&Sample> {
        self.samples.back()
    }

    fn judged(&self, span: Duration, since: Timestamp) -> Vec<&Sample> {
        let Some(newest) = self.samples.back() else { return Vec::new() };
        let from = (newest.at - span).max(since);
        self.samples.iter().filter(|s| s.at >= from && s.outcome != Outcome::Unknown && !s.aside).collect()
    }

    /// Whether the samples since `since` within the window show a degraded service.
    pub fn judge(&self, limits: &Degraded, since: Timestamp) -> Option<Offence> {
        // Most windows hold nothing to judge, and this is asked at every observation.
        let clean = |s: &Sample| s.outcome == Outcome::Ok && !s.duplicated;
        if limits.p95.is_none() && self.samples.iter().all(clean) {
            return None;
        }
        let samples = self.judged(limits.window, since);
        measures(limits)
            .iter()
            .find_map(|m| self.exceeded(m, &samples))
            .or_else(|| self.slow_quantile(limits, &samples))
    }

    fn exceeded(&self, measure: &Measure, samples: &[&Sample]) -> Option<Offence> {
        let share_max = measure.share_max?;
        let bad_in = |part: &[&Sample]| part.iter().filter(|s| (measure.offends)(s)).count();
        if bad_in(samples) < measure.fewest {
            return None;
        }
        let length = suffix_lengths(samples.len()).find(|length| {
            let part = &samples[samples.len() - length..];
            let bad = bad_in(part);
            bad >= measure.fewest
                && bad as f64 >= share_max.0 * part.len() as f64
                && binomial_tail(bad, part.len(), share_max.0) <= measure.chance_max
        })?;
        let part = &samples[samples.len() - length..];
        let text = format!("{} of the last {length} {} (limit {share_max})", bad_in(part), measure.words,);
        self.offence(samples, measure.offends, Reason::new(measure.phase, measure.kind, text))
    }

    fn slow_quantile(&self, limits: &Degraded, samples: &[&Sample]) -> Option<Offence> {
        let limit = limits.p95?;
        let mut latencies: Vec<f32> =
            samples.iter().filter(|s| s.outcome != Outcome::Failed).map(|s| s.latency_ms).collect();
        if latencies.len() < QUANTILE_SAMPLES_MIN {
            return None;
        }
        latencies.sort_by(f32::total_cmp);
        let p95 = latencies[(latencies.len() * 95).div_ceil(100) - 1];
        let limit_ms = to_ms(limit) as f32;
        if p95 <= limit_ms {
            return None;
        }
        let shown = |ms: f32| TimeSpan(Duration::from_secs_f32(ms.max(0.0) / 1_000.0));
        let text = format!("95th percentile of the latency is {}, limit {}", shown(p95), TimeSpan(limit));
        let first = samples.iter().find(|s| s.latency_ms > limit_ms).map(|s| s.at);
        let last = samples.iter().rev().find(|s| s.latency_ms > limit_ms).map(|s| s.at)?;
        let started = Edge { after: self.before(first?), by: first? };
        Some(Offence { started, last, reason: Reason::new(Phase::Exchange, Kind::Slow, text) })
    }

    fn offence(&self, samples: &[&Sample], offends: fn(&Sample) -> bool, reason: Reason) -> Option<Offence> {
        let first = samples.iter().find(|s| offends(s))?.at;
        let last = samples.iter().rev().find(|s| offends(s))?.at;
        Some(Offence { started: Edge { after: self.before(first), by: first }, last, reason })
    }

    fn before(&self, at: Timestamp) -> Option<Timestamp> {
        self.samples.iter().rev().find(|s| s.at < at && s.outcome != Outcome::Unknown).map(|s| s.at)
    }

    /// The end of a degradation, when the latest [`HEALED_RUN`] samples (or all since `since`, when the window holds
    /// fewer) are fine.
    pub fn healed(&self, limits: &Degraded, since: Timestamp) -> Option<Edge> {
        let samples = self.judged(limits.window, since);
        let offends = |s: &Sample| {
            measures(limits).iter().any(|m| m.share_max.is_some() && (m.offends)(s))
                || limits.p95.is_some_and(|limit| f64::from(s.latency_ms) > to_ms(limit))
        };
        let run = samples.iter().rev().take_while(|s| !offends(s)).count();
        if run == 0 || run < HEALED_RUN.min(samples.len()) {
            return None;
        }
        let by = samples[samples.len() - run].at;
        Some(Edge { after: self.before(by), by })
    }
}

fn measures(limits: &Degraded) -> [Measure; 3] {
    [
        Measure {
            share_max: limits.loss,
            chance_max: CHANCE_LOSS_MAX,
            fewest: 2,
            offends: |s| s.outcome == Outcome::Failed,
            phase: Phase::Deliver,
            kind: Kind::Lost,
            words: "failed or were lost",
        },
        Measure {
            share_max: limits.duplicates,
            chance_max: CHANCE_SLOW_MAX,
            fewest: 2,
            offends: |s| s.duplicated,
            phase: Phase::Deliver,
            kind: Kind::Duplicate,
            words: "arrived more than once",
        },
        Measure {
            share_max: limits.slow,
            chance_max: CHANCE_SLOW_MAX,
            fewest: 3,
            offends: |s| s.outcome == Outcome::Slow,
            phase: Phase::Exchange,
            kind: Kind::Slow,
            words: "were slow",
        },
    ]
}

/// The lengths of the recent past that are judged: 5, 10, 20 … and all of it. A short past is judged first.
fn suffix_lengths(all: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(5_usize), |n| n.checked_mul(2)).take_while(move |n| *n < all).chain(std::iter::once(all))
}

/// Probability of at least `bad` successes in `all` independent trials of probability `share`.
fn binomial_tail(bad: usize, all: usize, share: f64) -> f64 {
    if bad == 0 || share >= 1.0 {
        return 1.0;
    }
    if share <= 0.0 {
        return 0.0;
    }
    // Terms in logarithms: the first may be far below the smallest double while a later one is not.
    let log_odds = (share / (1.0 - share)).ln();
    let mut log_term = all as f64 * (1.0 - share).ln();
    let mut sum = 0.0;
    for k in 0..=all {
        if k > 0 {
            log_term += ((all - k + 1) as f64 / k as f64).ln() + log_odds;
        }
        if k >= bad {
            sum += log_term.exp();
        }
    }
    sum.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::Thresholds;

    fn window(outcomes: &str) -> Window {
        let mut window = Window::default();
        for (i, c) in outcomes.chars().enumerate() {
            let outcome = match c {
                'o' | 'd' => Outcome::Ok,
                's' => Outcome::Slow,
                'f' => Outcome::Failed,
                _ => Outcome::Unknown,
            };
            let at = Timestamp::from_millis(1_000 * (i as i64 + 1));
            let sample = Sample { at, outcome, latency_ms: 10.0, duplicated: c == 'd', lost: false, aside: false };
            window.push(sample, Duration::from_secs(600));
        }
        window
    }

    fn second(n: i64) -> Timestamp {
        Timestamp::from_millis(1_000 * n)
    }

    #[test]
    fn the_tail_is_the_binomial_one() {
        let table = [
            (1, 20, 0.01, 0.182_093),
            (2, 20, 0.01, 0.016_859),
            (5, 5, 0.2, 0.000_32),
            (11, 20, 0.2, 0.000_563),
            (0, 9, 0.3, 1.0),
        ];
        for (bad, all, share, expected) in table {
            let tail = binomial_tail(bad, all, share);
            assert!((tail - expected).abs() < 1e-5, "{bad} of {all} at {share}: {tail}");
        }
    }

    #[test]
    fn what_is_degraded_and_what_is_chance() {
        let limits = Thresholds::default().degraded;
        let table = [
            ("oooooooooooooooooooo", None),
            ("ooooooooooooooooooof", None),
            ("fooooooooofooooooooo", None),
            ("oooooooooooooooofoff", None),
            ("fofofofofofofofofofo", Some(Kind::Lost)),
            ("sss", None),
            ("sssss", Some(Kind::Slow)),
            ("ooooooooooooooosssss", Some(Kind::Slow)),
            ("osoooosooooosoooosoo", None),
            ("ooooooooooodddoooooo", Some(Kind::Duplicate)),
            ("????????????????????", None),
        ];
        for (outcomes, expected) in table {
            let offence = window(outcomes).judge(&limits, Timestamp::EPOCH);
            assert_eq!(offence.map(|o| o.reason.kind), expected, "{outcomes}");
        }
    }

    #[test]
    fn a_degradation_begins_after_the_sample_before_the_first_slow_one() {
        let offence =
            window("oooosssss").judge(&Thresholds::default().degraded, Timestamp::EPOCH).expect("five slow in a row");
        assert_eq!(offence.started, Edge { after: Some(second(4)), by: second(5) });
        assert_eq!(offence.last, second(9));
        assert_eq!(offence.reason.text, "5 of the last 5 were slow (limit 20%)");
    }

    #[test]
    fn it_ends_with_the_first_good_sample_of_a_long_enough_run() {
        let limits = Thresholds::default().degraded;
        assert_eq!(window("ssssssooooooooo").healed(&limits, Timestamp::EPOCH), None);
        let edge = window("ssssssoooooooooo").healed(&limits, Timestamp::EPOCH);
        assert_eq!(edge, Some(Edge { after: Some(second(6)), by: second(7) }));
    }

    #[test]
    fn the_window_is_bounded() {
        let long = "o".repeat(5_000);
        assert_eq!(window(&long).samples.len(), 601);
        assert!(window(&long).points().len() <= Point::MAX);
        let mut busy = Window::default();
        for i in 0..5_000 {
            let at = Timestamp::from_millis(i);
            busy.push(
                Sample { at, outcome: Outcome::Ok, latency_ms: 1.0, duplicated: false, lost: false, aside: false },
                Duration::from_secs(600),
            );
        }
        assert_eq!(busy.samples.len(), SAMPLES_MAX);
    }

    #[test]
    fn the_quantile_is_a_threshold_of_its_own() {
        let mut limits = Thresholds::default().degraded;
        limits.p95 = Some(Duration::from_millis(9));
        let offence = window("oooooooooo").judge(&limits, Timestamp::EPOCH).expect("all above 9 ms");
        assert_eq!(offence.reason.text, "95th percentile of the latency is 10ms, limit 9ms");
        limits.p95 = Some(Duration::from_millis(10));
        assert_eq!(window("oooooooooo").judge(&limits, Timestamp::EPOCH), None);
    }
}
