//! What is promised of detection with the default settings at an interval of 30 seconds, measured.

use std::{fmt, time::Duration};

use super::world::{Figures, Ill, Rates, Report, Scenario, run_all};

/// Hours of a year.
const YEAR_H: f64 = 8_766.0;

/// Share of attempts and messages that are lost independently of each other.
const LOSS: f64 = 0.01;

/// Checks of a world: many, so that a world is short.
const CHECKS: usize = 100;

/// Longest world, in hours: short, so that no processor waits long for the last one.
const WORLD_HOURS_MAX: f64 = 240.0;

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
    fn of(reports: Vec<Report>) -> Self {
        let mut found = Self { seen: (0, 0), told: 0, times_ms: Vec::new(), violations: Vec::new() };
        for Report { figures: Figures { confirmed_ms, seen, told, .. }, violations, .. } in reports {
            found.seen = (found.seen.0 + seen.0, found.seen.1 + seen.1);
            found.told += told;
            found.times_ms.extend(confirmed_ms.into_iter().map(|(_, ms)| ms));
            found.violations.extend(violations);
        }
        found.times_ms.sort_unstable();
        found
    }

    /// The time within which so many of a hundred are confirmed.
    fn percentile(&self, percent: usize) -> i64 {
        let at = (self.times_ms.len() * percent).div_ceil(100).saturating_sub(1);
        self.times_ms.get(at).copied().unwrap_or(0)
    }
}

/// So many hours of so many checks, in worlds of their own.
fn worlds(seeds: &mut fastrand::Rng, (probes, deliveries): (usize, usize), hours: f64, rates: Rates) -> Vec<Scenario> {
    let every = Duration::from_secs(30);
    let count = (hours / WORLD_HOURS_MAX).ceil().max(1.0);
    let hours = (hours / count).ceil() as i64;
    let world = |_| Scenario { seed: seeds.u64(..), probes, deliveries, every, hours, rates, twin: None };
    (0..count as usize).map(world).collect()
}

/// Outages of one kind, an hour apart on average, with the losses beside them.
fn outages(
    seeds: &mut fastrand::Rng,
    ills: &'static [Ill],
    lengths_ms: &'static [(i64, i64)],
    count: usize,
) -> Vec<Scenario> {
    let rates = Rates { loss: LOSS, trouble_every_h: 1.0, ills, lengths_ms, ..Rates::NONE };
    worlds(seeds, (CHECKS, 0), 1.1 * count as f64 / CHECKS as f64 + 1.0, rates)
}

/// Check-years of these worlds. Their quiet ends do not count: nothing is lost there.
fn years(worlds: &[Scenario]) -> f64 {
    let hours = worlds.iter().map(|s| s.hours as f64 * (s.probes + s.deliveries) as f64);
    hours.sum::<f64>() / YEAR_H
}

/// Measures all of it; `progress` is told of every world that has come to its end, and of how many.
pub fn measure(seed: u64, extent: Extent, progress: impl Fn(usize, usize) + Sync) -> Measured {
    let chance = Rates { loss: LOSS, ..Rates::NONE };
    let seeds = &mut fastrand::Rng::with_seed(seed);
    let hours = extent.check_years * YEAR_H / CHECKS as f64;
    // A tenth as many messages as attempts: the account of a message costs more.
    let parts = [
        worlds(seeds, (CHECKS, 0), hours, chance),
        worlds(seeds, (0, CHECKS / 10), hours, chance),
        outages(seeds, &[Ill::Refused], &[(90_000, 600_000)], extent.outages),
        outages(seeds, &[Ill::Silent], &[(90_000, 600_000)], extent.outages),
        outages(seeds, &[Ill::Refused, Ill::Silent], &[(37_501, 60_000)], extent.outages),
    ];
    let counts = parts.each_ref().map(Vec::len);
    let [probe_years, delivery_years, ..] = parts.each_ref().map(|worlds| years(worlds));
    let mut reports = run_all(parts.into_iter().flatten().collect(), progress).into_iter();
    let [probes, messages, refused, silent, short] =
        counts.map(|count| reports.by_ref().take(count).collect::<Vec<Report>>());
    let false_pages = |reports: &[Report]| reports.iter().map(|r| r.figures.false_pages).sum();
    Measured {
        check_years: probe_years,
        false_pages: false_pages(&probes),
        deliveries: (delivery_years, false_pages(&messages)),
        refused: Found::of(refused),
        silent: Found::of(silent),
        short: Found::of(short),
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
