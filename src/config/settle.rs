//! How a check's settings come about: its own, else its file's, else those of `config.yaml`, else built in.
//!
//! Two settings that contradict each other are a mistake only where somebody wrote the contradiction: a value from a
//! more general level gives way to a more specific one. A check with `every: 1s` below the default `timeout: 5s` has
//! a timeout of 1s; a check that says both itself is refused.

use std::time::Duration;

use super::{
    notes::Notes,
    positions::below,
    raw::{RawDegraded, RawOutage, RawSettings},
};
use crate::{
    check::{Families, Settings},
    detect::{Degraded, Thresholds},
    options::Path,
    value::{Ratio, Switch, TimeSpan},
};

/// Shortest interval: below it, one check is a load test.
const EVERY_MIN: Duration = Duration::from_millis(100);
/// Longest interval: what is asked more rarely is better asked by a cron line that says when.
const EVERY_MAX: Duration = Duration::from_secs(31 * 86_400);
/// Longest deadline of one attempt: nobody waits longer for a server, and a daemon that stops must wait for it.
const TIMEOUT_MAX: Duration = Duration::from_secs(3_600);
/// Longest window of shares and percentiles: all its observations are held in memory.
const WINDOW_MAX: Duration = Duration::from_secs(86_400);
/// Most observations in a row that can be asked for; with more, an outage would never be told.
const IN_A_ROW_MAX: u32 = 1_000;
/// The usual time between two confirmations of a suspect check lies between these.
const CONFIRM_DEFAULT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

const EVERY: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(5);

/// Settings at one level, and where they were written.
#[derive(Clone, Debug, Default)]
pub(super) struct Level {
    /// The document.
    pub doc: usize,
    /// The mapping that holds them.
    pub path: Path,
    /// As typed, without the keys that hold mistakes.
    pub raw: RawSettings,
    /// Whether no key was left out. With one left out, the others cannot be compared.
    pub whole: bool,
}

/// When the check is asked, as far as its settings depend on it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Timing {
    /// By `every`.
    Every,
    /// By a cron line with this usual time between two runs.
    Cron(Duration),
}

/// What came out.
pub(super) struct Settled {
    /// The interval, or that of the cron line.
    pub every: Duration,
    /// How it is asked.
    pub settings: Settings,
    /// When it counts as down, up, degraded.
    pub thresholds: Thresholds,
}

/// Where a value came from: the index of its level (the lower the more specific), the keys below it.
type Origin<'k> = (usize, &'k [&'k str]);

struct Settling<'l, 'n> {
    levels: &'l [&'l Level],
    notes: &'n mut Notes,
}

/// Settles the settings of one check. `levels` go from the check to the most general; `objective` says that `slow`
/// is a latency of its own, not a part of the timeout.
pub(super) fn settle(levels: &[&Level], timing: Timing, objective: bool, notes: &mut Notes) -> Settled {
    let mut settling = Settling { levels, notes };
    let (every_from, every) = settling.every(timing);
    let ip = settling.pick(|s| s.ip).map_or(Families::default(), |(_, ip)| ip);
    let timeout = settling.timeout(every_from, every, ip);
    let slow = settling.slow(timeout, objective);
    let settings = Settings { timeout: timeout.1, slow, ip };
    let thresholds = settling.thresholds(every_from, every);
    Settled { every, settings, thresholds }
}

impl Settling<'_, '_> {
    /// The most specific value, and its level.
    fn pick<T>(&self, get: impl Fn(&RawSettings) -> Option<T>) -> Option<(usize, T)> {
        self.levels.iter().enumerate().find_map(|(level, l)| Some((level, get(&l.raw)?)))
    }

    fn pick_span(&self, get: impl Fn(&RawSettings) -> Option<TimeSpan>) -> Option<(usize, Duration)> {
        self.pick(get).map(|(level, span)| (level, span.0))
    }

    fn wrong(&mut self, (level, keys): Origin<'_>, text: String, hint: Option<String>) {
        let level = self.levels[level];
        let path = keys.iter().fold(level.path.clone(), |path, key| below(&path, key));
        self.notes.value(level.doc, path, text, hint);
    }

    /// Notes that two settings contradict each other, if both are known.
    fn contradiction(&mut self, origin: Origin<'_>, text: String, hint: impl Into<String>) {
        if self.levels.iter().all(|level| level.whole) {
            self.wrong(origin, text, Some(hint.into()));
        }
    }

    /// Holds a span between two bounds.
    fn bounded(&mut self, origin: Origin<'_>, span: Duration, min: Duration, max: Duration) -> Duration {
        let shown = |span: Duration| TimeSpan(span).to_string();
        if span < min {
            let text = format!("{} is too short; the least is {}", shown(span), shown(min));
            self.wrong(origin, text, None);
        } else if span > max {
            let text = format!("{} is too long; the most is {}", shown(span), shown(max));
            self.wrong(origin, text, None);
        }
        span.clamp(min, max)
    }

    /// The interval and its level; a cron line is the check's own, so it counts as most specific.
    fn every(&mut self, timing: Timing) -> (Option<usize>, Duration) {
        match (timing, self.pick_span(|s| s.every)) {
            (Timing::Cron(interval), _) => (None, interval),
            (Timing::Every, Some((level, every))) => {
                (Some(level), self.bounded((level, &["every"]), every, EVERY_MIN, EVERY_MAX))
            }
            (Timing::Every, None) => (Some(self.levels.len()), EVERY),
        }
    }

    /// The timeout and its level. All attempts of one run fit into the interval.
    fn timeout(&mut self, every_from: Option<usize>, every: Duration, ip: Families) -> (usize, Duration) {
        let room = if ip == Families::Both { every / 2 } else { every };
        let Some((level, timeout)) = self.pick_span(|s| s.timeout) else {
            let timeout = if every_from.is_some() { TIMEOUT.min(room) } else { TIMEOUT };
            return (self.levels.len(), timeout);
        };
        let least = Duration::from_millis(1);
        let timeout = self.bounded((level, &["timeout"]), timeout, least, TIMEOUT_MAX);
        match every_from {
            Some(from) if timeout > room && level <= from => {
                let (twice, every) = (if room < every { "twice " } else { "" }, TimeSpan(every));
                let text =
                    format!("{twice}the timeout of {} is longer than the interval of {every}", TimeSpan(timeout));
                let hint = "an attempt that hangs would delay the next one; lower `timeout` or raise `every`";
                let hint = if room < every.0 { format!("`ip: both` makes two attempts; {hint}") } else { hint.into() };
                self.contradiction((level, &["timeout"]), text, hint);
                (level, room)
            }
            Some(_) => (level, timeout.min(room)),
            None => (level, timeout),
        }
    }

    fn slow(&mut self, (timeout_from, timeout): (usize, Duration), objective: bool) -> Option<Duration> {
        let (level, slow) = self.pick(|s| s.slow)?;
        let slow = slow.on()?.0;
        if slow.is_zero() {
            let hint = Some("write `slow: off` to have no such limit".into());
            self.wrong((level, &["slow"]), "every attempt takes longer than 0s".into(), hint);
            return None;
        }
        if objective || slow < timeout {
            return Some(slow);
        }
        if level <= timeout_from {
            let text = format!(
                "nothing can be slow: an attempt that takes {} has failed at its timeout of {}",
                TimeSpan(slow),
                TimeSpan(timeout)
            );
            self.contradiction((level, &["slow"]), text, "lower `slow` or raise `timeout`");
        }
        None
    }

    fn thresholds(&mut self, every_from: Option<usize>, every: Duration) -> Thresholds {
        let built_in = Thresholds::default();
        let failures = self.in_a_row("failures", built_in.failures, |o| o.failures);
        let recoveries = self.in_a_row("recoveries", built_in.recoveries, |o| o.recoveries);
        let confirm_every = self.confirm_every(every_from, every);
        let degraded = self.degraded(every_from, every, built_in.degraded);
        Thresholds { failures, confirm_every, recoveries, degraded }
    }

    fn in_a_row(&mut self, key: &str, built_in: u32, get: impl Fn(&RawOutage) -> Option<u32>) -> u32 {
        let Some((level, n)) = self.pick(|s| get(s.outage.as_ref()?)) else { return built_in };
        if !(1..=IN_A_ROW_MAX).contains(&n) {
            self.wrong((level, &["outage", key]), format!("{n} is not between 1 and {IN_A_ROW_MAX}"), None);
        }
        n.clamp(1, IN_A_ROW_MAX)
    }

    fn confirm_every(&mut self, every_from: Option<usize>, every: Duration) -> Duration {
        let keys = ["outage", "confirm_every"];
        let Some((level, confirm)) = self.pick_span(|s| s.outage.as_ref()?.confirm_every) else {
            return (every / 10).clamp(CONFIRM_DEFAULT.0, CONFIRM_DEFAULT.1).min(every.max(EVERY_MIN));
        };
        let confirm = self.bounded((level, &keys), confirm, EVERY_MIN, EVERY_MAX);
        match every_from {
            Some(from) if confirm > every && level <= from => {
                let text = format!("{} is longer than the interval of {}", TimeSpan(confirm), TimeSpan(every));
                let hint = "a suspect check is asked sooner than usual, not later";
                self.contradiction((level, &keys), text, hint);
                every
            }
            _ => confirm.min(every.max(EVERY_MIN)),
        }
    }

    fn quantile(&mut self, key: &'static str, get: fn(&RawDegraded) -> Option<Switch<TimeSpan>>) -> Option<Duration> {
        let (level, limit) = self.pick(|s| get(s.degraded.as_ref()?))?;
        let limit = limit.on()?.0;
        if limit.is_zero() {
            let hint = Some(format!("write `{key}: off` to have no such limit"));
            self.wrong((level, &["degraded", key]), "every attempt takes longer than 0s".into(), hint);
        }
        Some(limit)
    }

    fn degraded(&mut self, every_from: Option<usize>, every: Duration, built_in: Degraded) -> Degraded {
        let share = |settling: &Self, get: &dyn Fn(&RawDegraded) -> Option<Switch<Ratio>>, usual: Option<Ratio>| {
            settling.pick(|s| get(s.degraded.as_ref()?)).map_or(usual, |(_, share)| share.on())
        };
        let p95 = self.quantile("p95", |d| d.p95);
        let accept_p95 = self.quantile("accept_p95", |d| d.accept_p95);
        let window = match self.pick_span(|s| s.degraded.as_ref()?.window) {
            None => built_in.window,
            Some((level, window)) => {
                let keys = ["degraded", "window"];
                let window = self.bounded((level, &keys), window, Duration::from_secs(1), WINDOW_MAX);
                if every_from.is_some_and(|from| level <= from) && window < every {
                    let text = format!(
                        "a window of {} holds no more than one observation at an interval of {}",
                        TimeSpan(window),
                        TimeSpan(every)
                    );
                    self.contradiction((level, &keys), text, "make it many intervals long");
                }
                window
            }
        };
        Degraded {
            slow: share(self, &|d| d.slow, built_in.slow),
            late: share(self, &|d| d.late, built_in.late),
            loss: share(self, &|d| d.loss, built_in.loss),
            refused: share(self, &|d| d.refused, built_in.refused),
            duplicates: share(self, &|d| d.duplicates, built_in.duplicates),
            reordered: share(self, &|d| d.reordered, built_in.reordered),
            changed: share(self, &|d| d.changed, built_in.changed),
            foreign: share(self, &|d| d.foreign, built_in.foreign),
            login: share(self, &|d| d.login, built_in.login),
            accounts: share(self, &|d| d.accounts, built_in.accounts),
            p95,
            accept_p95,
            window,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(yaml: &str) -> Level {
        Level { doc: 0, path: Vec::new(), raw: serde_yaml::from_str(yaml).expect("settings"), whole: true }
    }

    fn settled(levels: &[&str], timing: Timing, objective: bool) -> (Settled, usize) {
        let levels: Vec<Level> = levels.iter().map(|yaml| level(yaml)).collect();
        let mut notes = Notes::default();
        let settled = settle(&levels.iter().collect::<Vec<_>>(), timing, objective, &mut notes);
        (settled, notes.count())
    }

    #[test]
    fn the_more_specific_level_wins_and_the_more_general_gives_way() {
        // Levels from the check upward; then every, timeout, slow, confirm_every in ms, and mistakes.
        type Row<'r> = (&'r [&'r str], u64, u64, Option<u64>, u64, usize);
        let table: [Row<'_>; 14] = [
            (&["{}"], 30_000, 5_000, None, 3_000, 0),
            (&["{ every: 1s }"], 1_000, 1_000, None, 1_000, 0),
            (&["{ every: 500ms }"], 500, 500, None, 500, 0),
            (&["{ every: 1s }", "{ timeout: 4s }"], 1_000, 1_000, None, 1_000, 0),
            (&["{ timeout: 4s }", "{ every: 1s }"], 1_000, 1_000, None, 1_000, 1),
            (&["{ every: 1s, timeout: 4s }"], 1_000, 1_000, None, 1_000, 1),
            (&["{ timeout: 1m }"], 30_000, 30_000, None, 3_000, 1),
            (&["{ slow: 2s }"], 30_000, 5_000, Some(2_000), 3_000, 0),
            (&["{ slow: 5s }"], 30_000, 5_000, None, 3_000, 1),
            (&["{ timeout: 1s }", "{ slow: 2s }"], 30_000, 1_000, None, 3_000, 0),
            (&["{ slow: off }", "{ slow: 2s }"], 30_000, 5_000, None, 3_000, 0),
            (&["{ every: 1h }"], 3_600_000, 5_000, None, 60_000, 0),
            (&["{ every: 2s }", "{ outage: { confirm_every: 5s } }"], 2_000, 2_000, None, 2_000, 0),
            (
                &["{ every: 10ms, timeout: 0, slow: 0, outage: { failures: 0, confirm_every: 1m } }"],
                100,
                1,
                None,
                100,
                5,
            ),
        ];
        for (levels, every, timeout, slow, confirm, mistakes) in table {
            let (got, count) = settled(levels, Timing::Every, false);
            let ms = |span: Duration| u64::try_from(span.as_millis()).expect("a short span");
            assert_eq!(
                (
                    ms(got.every),
                    ms(got.settings.timeout),
                    got.settings.slow.map(ms),
                    ms(got.thresholds.confirm_every),
                    count
                ),
                (every, timeout, slow, confirm, mistakes),
                "{levels:?}"
            );
        }
    }

    #[test]
    fn an_objective_may_exceed_the_timeout_and_a_cron_line_has_no_interval_to_exceed() {
        assert_eq!(settled(&["{ slow: 10s }"], Timing::Every, true).0.settings.slow, Some(Duration::from_secs(10)));
        let (got, mistakes) = settled(&["{ timeout: 10m }"], Timing::Cron(Duration::from_secs(60)), false);
        assert_eq!((got.settings.timeout, mistakes), (Duration::from_secs(600), 0));
    }

    #[test]
    fn degradation_is_inherited_key_by_key() {
        let (got, mistakes) = settled(
            &[
                "{ degraded: { loss: off, p95: 2s, login: off } }",
                "{ degraded: { slow: 50%, loss: 3%, reordered: 2%, accept_p95: 1s, window: 1h } }",
            ],
            Timing::Every,
            false,
        );
        assert_eq!(mistakes, 0);
        let expected = Degraded {
            slow: Some(Ratio(0.5)),
            loss: None,
            login: None,
            reordered: Some(Ratio(0.02)),
            p95: Some(Duration::from_secs(2)),
            accept_p95: Some(Duration::from_secs(1)),
            window: Duration::from_secs(3_600),
            ..Degraded::default()
        };
        assert_eq!(got.thresholds.degraded, expected);
        assert_eq!(settled(&["{ every: 1h, degraded: { window: 10m } }"], Timing::Every, false).1, 1);
        assert_eq!(settled(&["{ every: 1h }", "{ degraded: { window: 10m } }"], Timing::Every, false).1, 0);
    }
}
