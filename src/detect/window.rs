//! The latest samples of a check, and whether they show a degraded service.
//!
//! A share is judged by asking how likely so many bad samples were if the true share were just the threshold: the
//! upper tail of the binomial distribution. Only when that is very unlikely is the service called degraded, so a
//! service at its threshold does not page by chance, however often it is asked. Several lengths of the recent past
//! are judged, so that a sudden change is seen without waiting for the window to fill.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

pub use super::measure::{CHANCE_LOSS_MAX, CHANCE_SLOW_MAX, Sample};
use super::{
    Degraded, Edge, flapping,
    measure::{Count, Quantile, Share, quantiles, shares},
};
use crate::{
    observation::{Correction, Kind, NEW_LOGINS_FAIL, Outcome, Reason, to_ms},
    value::{Ratio, TimeSpan, Timestamp},
};

/// Most samples kept, whatever the window: ten minutes at two a second.
pub const SAMPLES_MAX: usize = 1_200;

/// Fewest samples from which a quantile is taken.
pub const QUANTILE_SAMPLES_MIN: usize = 10;

/// Fewest attempts or messages of which a share is taken, where there are so many.
pub const JUDGED_MIN: u32 = 5;

/// Good samples in a row that end a degradation, as far as the window holds so many.
pub const HEALED_RUN: usize = 10;

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

impl Window {
    /// Adds a sample and forgets what is older than `span` (though not the latest ones, which flapping and plots
    /// need) and beyond [`SAMPLES_MAX`].
    pub fn push(&mut self, sample: Sample, span: Duration) {
        let keep_from = sample.at - span;
        if self.samples.len() == self.samples.capacity() {
            // By so much more, not twice as much: a window that is full grows no more.
            self.samples.reserve_exact(self.samples.len() / 4 + 4);
        }
        self.samples.push_back(sample);
        while self.samples.len() > SAMPLES_MAX
            || (self.samples.len() > flapping::OBSERVATIONS && self.samples.front().is_some_and(|s| s.at < keep_from))
        {
            self.samples.pop_front();
        }
    }

    /// Forgets samples that are later than now, where the wall clock was ahead.
    pub fn not_after(&mut self, now: Timestamp) {
        self.samples.retain(|sample| sample.at <= now);
    }

    /// Books a sample anew; returns its outcome before, `None` when it is no longer in the window.
    pub fn correct(&mut self, correction: &Correction) -> Option<Outcome> {
        let sample = self.samples.iter_mut().rev().find(|s| s.at == correction.observed_at)?;
        let was = sample.outcome;
        sample.correct(correction);
        Some(was)
    }

    /// How many messages of the attempt that began then are missing, as far as is known.
    pub fn missing(&self, at: Timestamp) -> Option<u32> {
        let sample = self.samples.iter().rev().find(|s| s.at == at)?;
        sample.messages.as_ref().map(|m| m.missing)
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

    /// Whether the samples since `since` within the window show a degraded service. `latest` is the reason of what
    /// was observed last: it tells more of the same trouble.
    pub fn judge(&self, limits: &Degraded, since: Timestamp, latest: Option<&Reason>) -> Option<Offence> {
        // Most windows hold nothing to judge, and this is asked at every observation.
        let timeless = limits.p95.is_none() && limits.accept_p95.is_none();
        if timeless && self.samples.iter().all(Sample::is_clean) {
            return None;
        }
        let samples = self.judged(limits.window, since);
        let mut offence = shares(limits)
            .iter()
            .find_map(|share| self.exceeded(share, &samples))
            .or_else(|| quantiles(limits).iter().find_map(|quantile| self.too_long(quantile, &samples)))?;
        if let Some(latest) = latest.filter(|l| l.phase == offence.reason.phase && l.kind != Kind::Slow) {
            let text = match latest.text.strip_prefix(NEW_LOGINS_FAIL) {
                Some(rest) => format!("{}{rest}", offence.reason.text),
                None => format!("{}: {}", offence.reason.text, latest.text),
            };
            offence.reason = Reason::new(offence.reason.phase, offence.reason.kind, text);
        }
        Some(offence)
    }

    fn exceeded(&self, share: &Share, samples: &[&Sample]) -> Option<Offence> {
        let max = share.max?;
        let counted: Vec<(Count, &Sample)> = samples.iter().filter_map(|s| Some(((share.count)(s)?, *s))).collect();
        let sum = |part: &[(Count, &Sample)]| {
            part.iter().fold(Count::default(), |sum, (count, _)| Count {
                bad: sum.bad.saturating_add(count.bad),
                all: sum.all.saturating_add(count.all),
            })
        };
        if sum(&counted).bad < share.fewest {
            return None;
        }
        let count = suffix_lengths(counted.len()).map(|length| sum(&counted[counted.len() - length..])).find(|c| {
            c.all >= JUDGED_MIN.min(sum(&counted).all)
                && c.bad >= share.fewest
                && f64::from(c.bad) >= max.0 * f64::from(c.all)
                && binomial_tail(c.bad as usize, c.all as usize, max.0) <= share.chance_max
        })?;
        let text = format!("{} of the last {} {} (limit {max})", count.bad, count.all, share.words);
        let first = onset(counted.iter().rev().map(|(count, s)| (*count, s.at)), max)?;
        let last = counted.iter().rev().find(|(count, _)| count.bad > 0)?.1.at;
        let started = Edge { after: self.before(first), by: first };
        Some(Offence { started, last, reason: Reason::new(share.phase, share.kind, text) })
    }

    fn too_long(&self, quantile: &Quantile, samples: &[&Sample]) -> Option<Offence> {
        let limit = quantile.max?;
        let mut times: Vec<f32> = samples.iter().filter_map(|s| (quantile.ms)(s)).collect();
        if times.len() < QUANTILE_SAMPLES_MIN {
            return None;
        }
        times.sort_by(f32::total_cmp);
        let p95 = times[(times.len() * 95).div_ceil(100) - 1];
        let limit_ms = to_ms(limit) as f32;
        if p95 <= limit_ms {
            return None;
        }
        let shown = |ms: f32| TimeSpan(Duration::from_secs_f64(f64::from(ms.max(0.0)) / 1_000.0));
        let words = quantile.words;
        let text = format!("95th percentile of {words} is {}, limit {}", shown(p95), TimeSpan(limit));
        let offends = |s: &&&Sample| (quantile.ms)(s).is_some_and(|ms| ms > limit_ms);
        let first = samples.iter().find(offends)?.at;
        let last = samples.iter().rev().find(offends)?.at;
        let started = Edge { after: self.before(first), by: first };
        Some(Offence { started, last, reason: Reason::new(quantile.phase, Kind::Slow, text) })
    }

    /// The beginning of the failures that go on at the newest sample, also where some attempts between them came
    /// through: from the last sample before them to the first of them. `None` where no share of losses is looked at.
    pub fn failing_since(&self, limits: &Degraded, since: Timestamp) -> Option<Edge> {
        let samples = self.judged(limits.window, since);
        let first = onset(samples.iter().rev().map(|s| (failed(s), s.at)), limits.loss?)?;
        Some(Edge { after: self.before(first), by: first })
    }

    /// How many good samples in a row, from `run_from` on, show that the failures before them are over: so many that
    /// they are no chance, given how many came through between those. 0 when none did, or where no share of losses is
    /// looked at.
    pub fn good_run_needed(&self, limits: &Degraded, since: Timestamp, run_from: Timestamp) -> u32 {
        let Some(max) = limits.loss else { return 0 };
        let mut samples = self.judged(limits.window, since);
        samples.retain(|s| s.at < run_from);
        let Some(first) = onset(samples.iter().rev().map(|s| (failed(s), s.at)), max) else { return 0 };
        let failing = samples.iter().filter(|s| s.at >= first);
        run_beyond_chance(failing.map(|s| s.outcome != Outcome::Failed)).min(HEALED_RUN) as u32
    }

    fn before(&self, at: Timestamp) -> Option<Timestamp> {
        self.samples.iter().rev().find(|s| s.at < at && s.outcome != Outcome::Unknown).map(|s| s.at)
    }

    /// The end of a degradation, when the latest [`HEALED_RUN`] samples (or all since `since`, when the window holds
    /// fewer) are fine. While the window still offends, by what began at `offends_since`, as many are asked for as are
    /// no chance: when all went wrong until then, its end need not wait until the window has forgotten that.
    pub fn healed(&self, limits: &Degraded, since: Timestamp, offends_since: Option<Timestamp>) -> Option<Edge> {
        let samples = self.judged(limits.window, since);
        let (shares, quantiles) = (shares(limits), quantiles(limits));
        let mut refused = false;
        let fine: Vec<bool> = samples
            .iter()
            .map(|s| {
                // Between two logins the answer of the latest stands.
                refused = s.login().map_or(refused, |ok| !ok);
                let in_share = |share: &Share| share.max.is_some() && (share.count)(s).is_some_and(|c| c.bad > 0);
                let too_long =
                    |q: &Quantile| q.max.is_some_and(|max| (q.ms)(s).is_some_and(|ms| f64::from(ms) > to_ms(max)));
                let is_refused = refused && limits.login.is_some();
                !is_refused && !shares.iter().any(in_share) && !quantiles.iter().any(too_long)
            })
            .collect();
        let run = fine.iter().rev().take_while(|fine| **fine).count();
        let needed = match offends_since {
            None => HEALED_RUN.min(samples.len()),
            Some(began) => {
                let before = samples.iter().zip(&fine).take(samples.len() - run).filter(|(s, _)| s.at >= began);
                HEALED_RUN.max(run_beyond_chance(before.map(|(_, fine)| *fine)))
            }
        };
        if run == 0 || run < needed {
            return None;
        }
        let by = samples[samples.len() - run].at;
        Some(Edge { after: self.before(by), by })
    }
}

/// How many good ones in a row are no chance, given these before them; 0 when there was none among those.
fn run_beyond_chance(before: impl Iterator<Item = bool>) -> usize {
    let (good, all) = before.fold((0_u32, 0_u32), |(good, all), fine| (good + u32::from(fine), all + 1));
    if good == 0 {
        return 0;
    }
    let share = f64::from(good) / f64::from(all);
    // Nobody waits for more than the window holds; a share of one never gets there.
    (CHANCE_SLOW_MAX.ln() / share.ln()).ceil().clamp(1.0, SAMPLES_MAX as f64 + 1.0) as usize
}

fn failed(s: &Sample) -> Count {
    Count { bad: u32::from(s.outcome == Outcome::Failed), all: 1 }
}

/// When a share began to be too high, of samples from the newest backwards: the bad one since which they are least
/// likely under the share that is allowed (the likelihood ratio of a change at that point). A single one long before
/// is not part of it, while good ones in between are no end of it.
fn onset(newest_first: impl Iterator<Item = (Count, Timestamp)>, max: Ratio) -> Option<Timestamp> {
    // A share of nothing or of all has no logarithm.
    let allowed = max.0.clamp(1e-6, 1.0 - 1e-6);
    let mut sum = Count::default();
    let mut best: Option<(f64, Timestamp)> = None;
    for (count, at) in newest_first {
        sum = Count { bad: sum.bad.saturating_add(count.bad), all: sum.all.saturating_add(count.all) };
        if count.bad == 0 {
            continue;
        }
        let share = f64::from(sum.bad) / f64::from(sum.all);
        let good = f64::from(sum.all - sum.bad.min(sum.all));
        let of_good = if good > 0.0 { good * ((1.0 - share) / (1.0 - allowed)).ln() } else { 0.0 };
        let ratio = f64::from(sum.bad) * (share / allowed).ln() + of_good;
        if best.is_none_or(|(most, _)| ratio >= most) {
            best = Some((ratio, at));
        }
    }
    best.map(|(_, at)| at)
}

/// The lengths of the recent past that are judged: one sample (which may be a burst of messages), then 5, 10, 20 …
/// and all of it. A short past is judged first.
fn suffix_lengths(all: usize) -> impl Iterator<Item = usize> {
    let growing = std::iter::successors(Some(5_usize), |n| n.checked_mul(2));
    std::iter::once(1).chain(growing).take_while(move |n| *n < all).chain(std::iter::once(all))
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
    use crate::{
        detect::{Thresholds, measure::Messages},
        observation::Phase,
        value::Ratio,
    };

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
            let messages = (c == 'd').then(|| Box::new(Messages { all: 1, duplicates: 1, ..Messages::default() }));
            let sample = Sample { at, outcome, latency_ms: 10.0, aside: false, messages };
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
            let offence = window(outcomes).judge(&limits, Timestamp::EPOCH, None);
            assert_eq!(offence.map(|o| o.reason.kind), expected, "{outcomes}");
        }
    }

    #[test]
    fn a_degradation_begins_after_the_sample_before_the_first_slow_one() {
        let offence = window("oooosssss")
            .judge(&Thresholds::default().degraded, Timestamp::EPOCH, None)
            .expect("five slow in a row");
        assert_eq!(offence.started, Edge { after: Some(second(4)), by: second(5) });
        assert_eq!(offence.last, second(9));
        assert_eq!(offence.reason.text, "5 of the last 5 attempts were slow (limit 20%)");
    }

    #[test]
    fn it_ends_with_the_first_good_sample_of_a_long_enough_run() {
        let limits = Thresholds::default().degraded;
        assert_eq!(window("ssssssooooooooo").healed(&limits, Timestamp::EPOCH, None), None);
        let edge = window("ssssssoooooooooo").healed(&limits, Timestamp::EPOCH, None);
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
                Sample { at, outcome: Outcome::Ok, latency_ms: 1.0, aside: false, messages: None },
                Duration::from_secs(600),
            );
        }
        assert_eq!(busy.samples.len(), SAMPLES_MAX);
    }

    #[test]
    fn the_quantile_is_a_threshold_of_its_own() {
        let mut limits = Thresholds::default().degraded;
        limits.p95 = Some(Duration::from_millis(9));
        let offence = window("oooooooooo").judge(&limits, Timestamp::EPOCH, None).expect("all above 9 ms");
        assert_eq!(offence.reason.text, "95th percentile of the latency is 10ms, limit 9ms");
        limits.p95 = Some(Duration::from_millis(10));
        assert_eq!(window("oooooooooo").judge(&limits, Timestamp::EPOCH, None), None);
    }

    /// Samples of deliveries, a second apart.
    fn deliveries(messages: impl IntoIterator<Item = (Outcome, Messages)>) -> Window {
        let mut window = Window::default();
        for (n, (outcome, messages)) in messages.into_iter().enumerate() {
            let messages = Some(Box::new(messages));
            let sample = Sample { at: second(n as i64 + 1), outcome, latency_ms: 10.0, aside: false, messages };
            window.push(sample, Duration::from_secs(600));
        }
        window
    }

    #[test]
    fn every_measure_is_a_threshold() {
        let one = Messages { all: 1, ..Messages::default() };
        type Limit = fn(&mut crate::detect::Degraded);
        let table: [(Outcome, Messages, Limit, &str); 9] = [
            (
                Outcome::Failed,
                Messages { missing: 1, ..one },
                |d| d.loss = Some(Ratio(0.01)),
                "deliver lost: 5 of the last 5 failed or were lost (limit 1%)",
            ),
            (
                Outcome::Failed,
                Messages { changed: 1, ..one },
                |d| d.changed = Some(Ratio(0.01)),
                "deliver corrupt: 5 of the last 5 messages arrived changed (limit 1%)",
            ),
            (
                Outcome::Failed,
                Messages { refused: 1, ..one },
                |d| d.refused = Some(Ratio(0.01)),
                "send rejected: 5 of the last 5 messages were not accepted (limit 1%)",
            ),
            (
                Outcome::Slow,
                Messages { login: Some(false), ..one },
                |d| d.login = Some(Ratio(0.1)),
                "login rejected: 5 of the last 5 new logins failed (limit 10%)",
            ),
            (
                Outcome::Ok,
                Messages { duplicates: 1, ..one },
                |d| d.duplicates = Some(Ratio(0.01)),
                "deliver duplicate: 5 of the last 5 messages arrived more than once (limit 1%)",
            ),
            (
                Outcome::Ok,
                Messages { reordered: 1, ..one },
                |d| d.reordered = Some(Ratio(0.1)),
                "deliver unexpected: 5 of the last 5 messages arrived after a later one (limit 10%)",
            ),
            (
                Outcome::Slow,
                Messages { late: 1, ..one },
                |d| d.late = Some(Ratio(0.1)),
                "deliver slow: 5 of the last 5 messages arrived late (limit 10%)",
            ),
            (
                Outcome::Slow,
                Messages { is_misplaced: true, ..one },
                |d| d.slow = Some(Ratio(0.2)),
                "deliver misplaced: 5 of the last 5 messages arrived where nobody looks (limit 20%)",
            ),
            (
                Outcome::Ok,
                Messages { foreign: 3, ..one },
                |d| d.foreign = Some(Ratio(0.1)),
                "deliver unexpected: 5 of the last 5 messages had a stranger's beside them (limit 10%)",
            ),
        ];
        for (outcome, messages, limit, expected) in table {
            let mut limits = crate::detect::Degraded {
                slow: None,
                loss: None,
                duplicates: None,
                changed: None,
                login: None,
                ..Thresholds::default().degraded
            };
            let window = deliveries([(outcome, messages); 5]);
            assert_eq!(window.judge(&limits, Timestamp::EPOCH, None), None, "{expected}");
            limit(&mut limits);
            let reason = window.judge(&limits, Timestamp::EPOCH, None).expect(expected).reason;
            assert_eq!(format!("{} {}: {}", reason.phase, reason.kind, reason.text), expected);
            // It heals once as many good ones have come as are asked for.
            let good = (Outcome::Ok, Messages { login: messages.login.map(|_| true), ..one });
            let healing = deliveries([(outcome, messages); 5].into_iter().chain([good; 9]));
            assert_eq!(healing.healed(&limits, Timestamp::EPOCH, None), None, "{expected}");
            let healed = deliveries([(outcome, messages); 5].into_iter().chain([good; 10]));
            let edge = Edge { after: Some(second(5)), by: second(6) };
            assert_eq!(healed.healed(&limits, Timestamp::EPOCH, None), Some(edge), "{expected}");
        }
    }

    #[test]
    fn the_time_to_the_acknowledgement_is_a_threshold() {
        let messages = Messages { all: 1, accept_ms: Some(120.0), ..Messages::default() };
        let mut limits = Thresholds::default().degraded;
        limits.accept_p95 = Some(Duration::from_millis(100));
        let offence = deliveries([(Outcome::Ok, messages); 10]).judge(&limits, Timestamp::EPOCH, None);
        let text = "95th percentile of the time to the acknowledgement is 120ms, limit 100ms";
        assert_eq!(offence.expect("all above 100 ms").reason.text, text);
    }

    #[test]
    fn a_burst_counts_message_by_message() {
        let limits = Thresholds::default().degraded;
        let burst = |missing| {
            let outcome = if missing > 0 { Outcome::Slow } else { Outcome::Ok };
            (outcome, Messages { all: 20, missing, ..Messages::default() })
        };
        // One of a hundred is what the limit allows; a fifth of each burst is not, and one burst shows it.
        assert_eq!(deliveries([0, 0, 1, 0, 0].map(burst)).judge(&limits, Timestamp::EPOCH, None), None);
        let offence = deliveries([0, 0, 0, 9].map(burst)).judge(&limits, Timestamp::EPOCH, None).expect("9 of 20");
        assert_eq!(offence.reason.text, "9 of the last 20 failed or were lost (limit 1%)");
        assert_eq!(offence.started, Edge { after: Some(second(3)), by: second(4) });
        let offence =
            deliveries([2, 2, 1, 3, 2, 2].map(burst)).judge(&limits, Timestamp::EPOCH, None).expect("a tenth");
        assert_eq!(offence.reason.text, "12 of the last 120 failed or were lost (limit 1%)");
    }

    #[test]
    fn a_refused_login_stands_until_one_is_let_in() {
        let limits = Thresholds::default().degraded;
        let one = |login| {
            let outcome = if login == Some(false) { Outcome::Slow } else { Outcome::Ok };
            (outcome, Messages { all: 1, login, ..Messages::default() })
        };
        let refused = [Some(false); 5].map(one);
        let untested = deliveries(refused.into_iter().chain([None; 20].map(one)));
        assert_eq!(untested.healed(&limits, Timestamp::EPOCH, None), None, "nobody has logged in since");
        let tested = deliveries(refused.into_iter().chain([Some(true)].map(one)).chain([None; 9].map(one)));
        assert_eq!(
            tested.healed(&limits, Timestamp::EPOCH, None),
            Some(Edge { after: Some(second(5)), by: second(6) })
        );
    }

    #[test]
    fn the_latest_reason_of_the_same_phase_is_told_with_the_share() {
        let limits = Thresholds::default().degraded;
        let messages = Messages { all: 1, login: Some(false), ..Messages::default() };
        let window = deliveries([(Outcome::Slow, messages); 5]);
        let latest = |phase| Reason::new(phase, Kind::Rejected, "receiving side: 535 no");
        let text = |phase| window.judge(&limits, Timestamp::EPOCH, Some(&latest(phase))).expect("refused").reason.text;
        assert_eq!(text(Phase::Login), "5 of the last 5 new logins failed (limit 10%): receiving side: 535 no");
        assert_eq!(text(Phase::Connect), "5 of the last 5 new logins failed (limit 10%)");
        // What is said already is not said twice.
        let kept =
            Reason::new(Phase::Login, Kind::Rejected, format!("{NEW_LOGINS_FAIL} while the kept sessions deliver"));
        let text = window.judge(&limits, Timestamp::EPOCH, Some(&kept)).expect("refused").reason.text;
        assert_eq!(text, "5 of the last 5 new logins failed (limit 10%) while the kept sessions deliver");
    }
}
