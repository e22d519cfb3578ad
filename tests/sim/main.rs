//! The seeded simulation: the real core in worlds in which everything goes wrong, and what must hold in all of them.
//!
//! A run of a world follows from its seed alone; the seed is printed, and `BONGSU_SEED` sets the first of them. What is
//! measured of detection over check-years is printed by `cargo bench --bench simulation`, which is optimised.

#[allow(dead_code, reason = "the bench measures more")]
mod figures;
mod world;

use std::time::{Duration, Instant};

use world::{Ill, Rates, Report, Scenario, Site, Sites, World, run_all};

/// Everything goes wrong, often.
const ALL: Rates = Rates {
    loss: 0.003,
    slow: 0.002,
    own_fault: 0.001,
    hang: 0.000_3,
    message: 0.02,
    trouble_every_h: 36.0,
    ills: &[Ill::Refused, Ill::Silent, Ill::Rejecting, Ill::Lossy, Ill::Slow],
    lengths_ms: &[(1_000, 60_000), (60_000, 900_000), (900_000, 14_400_000)],
    store: 0.01,
    kill: 0.005,
    kill_at_end: 0.9,
    kill_every_h: 48.0,
    stop_every_h: 100.0,
    step_every_h: 0.0,
    suspend_every_h: 100.0,
    gone_every_h: 24.0,
    cut_every_h: 60.0,
    receiver: 0.15,
    brief: 0.15,
    acknowledge_every_h: 12.0,
};

/// The same with a wall clock that is set now and then. In such a world a moment is no moment any more, so fewer
/// properties can be looked at; it is a part of all worlds.
const STEPS: Rates = Rates { step_every_h: 14.0, ..ALL };

/// Checks of a world.
const CHECKS: i64 = 40;

/// Fewest hits of each site in the whole.
const HITS_MIN: u64 = 100;

/// Check-hours of the whole.
const CHECK_HOURS: i64 = 1_000_000;

/// What the whole consists of: the interval of the checks, the hours of a world, and how many worlds. A check-hour
/// costs as much as it has attempts, so most of them are of checks that are asked every quarter of an hour, and only
/// some of the default of 30 seconds. Every fifth world has a wall clock that is set.
const PARTS: [(u64, i64, u64); 3] = [(900, 1_100, 21), (300, 450, 5), (30, 48, 5)];

fn seed() -> u64 {
    let seed = std::env::var("BONGSU_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    println!("BONGSU_SEED={seed}");
    seed
}

fn scenario(seed: u64, every_s: u64, hours: i64, rates: Rates) -> Scenario {
    let every = Duration::from_secs(every_s);
    Scenario { seed, probes: CHECKS as usize - 4, deliveries: 4, every, hours, rates, twin: None }
}

fn hold(reports: &[Report]) {
    let violations: Vec<&String> = reports.iter().flat_map(|r| &r.violations).collect();
    let shown: Vec<String> = violations.iter().take(20).map(|v| v.chars().take(1_000).collect()).collect();
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), shown.join("\n"));
}

#[test]
fn every_property_holds_in_a_million_check_hours() {
    let (begun, mut seed) = (Instant::now(), seed());
    let mut scenarios = Vec::new();
    for (every_s, hours, worlds) in PARTS {
        for n in 0..worlds {
            let rates = if n % 5 == 4 { STEPS } else { ALL };
            scenarios.push(scenario(seed, every_s, hours, rates));
            seed = seed.wrapping_add(1);
        }
    }
    let reports = run_all(scenarios, |_, _| {});
    let mut sites = Sites::default();
    reports.iter().for_each(|r| sites.add(&r.sites));
    let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    let check_hours: i64 = reports.iter().map(|r| r.check_hours).sum();
    println!(
        "{check_hours} check-hours in {} worlds, {} observations, {} troubles, {} incidents, {} messages taken and {} \
         repeats under their key, in {:.0?}\nfaults:\n{sites}",
        reports.len(),
        sum(|r| r.observations),
        sum(|r| r.figures.troubles),
        sum(|r| r.figures.incidents),
        sum(|r| r.figures.taken.0),
        sum(|r| r.figures.taken.1),
        begun.elapsed(),
    );
    hold(&reports);
    assert!(check_hours >= CHECK_HOURS, "{check_hours} check-hours");
    for site in Site::ALL {
        assert!(sites.of(site) >= HITS_MIN, "{site:?} was hit {} times", sites.of(site));
    }
}

#[test]
fn two_runs_of_one_seed_are_the_same() {
    let seed = seed();
    let run = |seed| World::run(scenario(seed, 300, 72, STEPS));
    let (one, other, next) = (run(seed), run(seed), run(seed.wrapping_add(1)));
    let parts_at = one.trace.iter().zip(&other.trace).position(|(a, b)| a != b);
    assert_eq!((parts_at, one.trace.len()), (None, other.trace.len()), "the traces part in this hour, seed {seed}");
    assert_eq!((one.sites, one.observations), (other.sites, other.observations));
    assert_ne!(one.trace, next.trace, "another seed is another world");
}

#[test]
fn what_the_simulation_takes_for_the_store_is_the_store() {
    let seed = seed();
    let memory = std::path::Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let dir = dir.expect("a scratch directory");
    // Killed often: both are compared at each start.
    let rates = Rates { kill_every_h: 3.0, trouble_every_h: 12.0, ..STEPS };
    let scenario = Scenario { twin: Some(dir.path().join("twin.db")), ..scenario(seed, 300, 60, rates) };
    let report = World::run(scenario);
    println!("{} check-hours, {} observations", report.check_hours, report.observations);
    hold(&[report]);
}

#[test]
fn outages_are_found_in_time_and_chance_pages_nobody() {
    let figures = figures::measure(seed(), figures::Extent { check_years: 0.3, outages: 300 }, |_, _| {});
    println!("{figures}");
    figures.hold();
}
