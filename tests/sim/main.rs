//! The seeded simulation: the real core in worlds in which everything goes wrong, and what must hold in all of them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use std::time::Duration;

use world::{Ill, Rates, Scenario, Site, Sites, World};

#[test]
fn smoke() {
    let rates = Rates {
        loss: 0.002,
        slow: 0.001,
        own_fault: 0.0005,
        hang: 0.0002,
        message: 0.01,
        trouble_every_h: 36.0,
        ills: &[Ill::Refused, Ill::Silent, Ill::Rejecting, Ill::Lossy, Ill::Slow],
        lengths_ms: &[(1_000, 60_000), (60_000, 900_000), (900_000, 14_400_000)],
        store: 0.02,
        kill: 0.01,
        kill_every_h: 24.0,
        stop_every_h: 100.0,
        step_every_h: 0.0,
        suspend_every_h: 100.0,
        gone_every_h: 24.0,
        receiver: 0.15,
        acknowledge_every_h: 6.0,
    };
    let seed = std::env::var("BONGSU_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let hours = std::env::var("HOURS").ok().and_then(|s| s.parse().ok()).unwrap_or(240);
    let every = std::env::var("EVERY").ok().and_then(|s| s.parse().ok()).unwrap_or(300);
    let begun = std::time::Instant::now();
    let scenario = Scenario { seed, probes: 36, deliveries: 4, every: Duration::from_secs(every), hours, rates, twin: None };
    let report = World::run(scenario);
    println!("{}", report.sites);
    println!("{} check-hours, {} observations, {:?}", report.check_hours, report.observations, begun.elapsed());
    let f = &report.figures;
    println!("{} incidents {} troubles {} false, seen {:?} told {} taken {:?}, confirmed {}", f.incidents, f.troubles, f.false_pages, f.seen, f.told, f.taken, f.confirmed_ms.len());
    for v in &report.violations {
        println!("{}", v.chars().take(900).collect::<String>());
    }
    assert!(report.violations.is_empty());
    let _ = Sites::default().of(Site::AttemptLost);
}
