//! What is promised of detection with the default settings at an interval of 30 seconds, measured.

use std::{fmt, time::Duration};

use super::world::{Figures, Ill, Rates, Report, Scenario, World};

/// Hours of a year.
const YEAR_H: f64 = 8_766.0;

/// Share of attempts and messages that are lost independently of each other.
const LOSS: f64 = 0.01;

/// Checks of a world: many, so that a world is short.
const CHECKS: usize = 100;

/// Most false pages in a check-year.
pub const FALSE_PAGES_MAX: f64 = 0.01;

/// Longest time to the confirmation of an outage in 99 of 100, where connections are refused.
pub const REFUSED_P99_MS: i64 = 45_000;

/// The same where nothing answers.
pub const SILENT_P99_MS: i64 = 75_000;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Check-years without an outage.
    pub check_years: f64,
    /// Outages of each kind, about.
    pub outages: usize,
}

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    check_years: f64,
    false_pages: u64,
    deliveries: (f64, u64),
    refused: Found,
    silent: Found,
    short: Found,
}

/// How outages of one kind were found.
#[derive(Debug)]
pub struct Found {
    seen: (u64, u64),
    told: u64,
    times_ms: Vec<i64>,
    violations: Vec<String>,
}

impl Found {
    fn of(report: Report) -> Self {
        let Figures { confirmed_ms, seen, told, .. } = report.figures;
        let mut times_ms: Vec<i64> = confirmed_ms.into_iter().map(|(_, ms)| ms).collect();
        times_ms.sort_unstable();
        Self { seen, told, times_ms, violations: report.violations }
    }

    /// The time within which so many of a hundred are confirmed.
    fn percentile(&self, percent: usize) -> i64 {
        let at = (self.times_ms.len() * percent).div_ceil(100).saturating_sub(1);
        self.times_ms.get(at).copied().unwrap_or(0)
    }
}

fn run(seed: u64, probes: usize, deliveries: usize, hours: f64, rates: Rates) -> Report {
    let every = Duration::from_secs(30);
    World::run(Scenario { seed, probes, deliveries, every, hours: hours.ceil() as i64, rates, twin: None })
}

/// Outages of one kind, an hour apart on average, with the losses beside them.
fn outages(seed: u64, ill: &'static [Ill], lengths_ms: &'static [(i64, i64)], count: usize) -> Found {
    let rates = Rates { loss: LOSS, trouble_every_h: 1.0, ills: ill, lengths_ms, ..Rates::NONE };
    Found::of(run(seed, CHECKS, 0, 1.1 * count as f64 / CHECKS as f64 + 1.0, rates))
}

/// Measures all of it.
pub fn measure(seed: u64, extent: Extent) -> Measured {
    let chance = Rates { loss: LOSS, ..Rates::NONE };
    // A tenth as many messages as attempts: the account of a message costs more.
    let hours = extent.check_years * YEAR_H / CHECKS as f64;
    let probes = run(seed, CHECKS, 0, hours, chance);
    let messages = run(seed.wrapping_add(1), 0, CHECKS / 10, hours, chance);
    let years = |report: &Report| report.check_hours as f64 / YEAR_H;
    Measured {
        check_years: years(&probes),
        false_pages: probes.figures.false_pages,
        deliveries: (years(&messages), messages.figures.false_pages),
        refused: outages(seed, &[Ill::Refused], &[(90_000, 600_000)], extent.outages),
        silent: outages(seed, &[Ill::Silent], &[(90_000, 600_000)], extent.outages),
        short: outages(seed, &[Ill::Refused, Ill::Silent], &[(37_501, 60_000)], extent.outages),
    }
}

impl Measured {
    /// Asserts what is promised.
    pub fn hold(&self) {
        for found in [&self.refused, &self.silent, &self.short] {
            assert_eq!(found.violations, Vec::<String>::new());
            assert_eq!(found.seen.0, found.seen.1, "every outage longer than 1.25 intervals is seen");
            assert!(found.seen.1 > 20, "too few outages: {}", found.seen.1);
        }
        for found in [&self.refused, &self.silent] {
            assert_eq!(found.told, found.seen.1, "every outage of more than 90s is an incident");
        }
        let refused = self.refused.percentile(99);
        assert!(refused <= REFUSED_P99_MS, "refused: 99 of 100 confirmed within {refused} ms");
        let silent = self.silent.percentile(99);
        assert!(silent <= SILENT_P99_MS, "no answer: 99 of 100 confirmed within {silent} ms");
        // Of so few years as the test run has, one would be too many by chance alone in one run of hundreds.
        let allowed = (FALSE_PAGES_MAX * self.check_years).ceil() as u64;
        assert!(self.false_pages <= allowed, "{} false pages in {} check-years", self.false_pages, self.check_years);
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = |pages: u64, years: f64| pages as f64 / years;
        let (years, pages) = (self.check_years, self.false_pages);
        writeln!(f, "every 30s, default settings, {}% independent loss", LOSS * 100.0)?;
        writeln!(
            f,
            "probes:     {pages} false pages in {years:.1} check-years, {:.4} a check-year",
            rate(pages, years)
        )?;
        let (years, pages) = self.deliveries;
        writeln!(
            f,
            "deliveries: {pages} false pages in {years:.1} check-years, {:.4} a check-year",
            rate(pages, years)
        )?;
        let rows = [("refused, 90s to 10m", &self.refused), ("no answer, 90s to 10m", &self.silent)];
        for (name, found) in rows.into_iter().chain([("either, 37.5s to 60s", &self.short)]) {
            let (p50, p99, most) = (found.percentile(50), found.percentile(99), found.percentile(100));
            writeln!(
                f,
                "{name}: {} of {} seen, {} told; time to confirmation in the middle {p50} ms, p99 {p99} ms, longest {most} ms",
                found.seen.0, found.seen.1, found.told
            )?;
        }
        Ok(())
    }
}
