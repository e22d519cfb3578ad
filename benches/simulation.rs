//! What is promised of detection, measured over check-years of the simulation in `tests/sim`.
//!
//! With the default settings at an interval of 30 seconds and 1 % independent loss: false pages in a check-year, and the
//! time from the beginning of an outage to its incident. The promises are asserted; how long the bench takes is not.
//! All processors take part, and how far it has come is told on standard error. It follows from its seed, which it
//! prints; without `--bench` (`cargo test --benches`) it is short.
//!
//! ```text
//! cargo bench --bench simulation
//! cargo bench --bench simulation -- --check-years 1000 --seed 7
//! ```

#[path = "../tests/sim/figures.rs"]
mod figures;
#[allow(dead_code, reason = "the tests look at more")]
#[path = "../tests/sim/world/mod.rs"]
mod world;

use clap::Parser;

/// What detection promises, measured.
#[derive(Parser)]
struct Args {
    /// Check-years without an outage
    #[arg(long)]
    check_years: Option<f64>,
    /// Outages of each kind
    #[arg(long)]
    outages: Option<usize>,
    /// From which all chance follows
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Given by `cargo bench`; without it there is one short run, to see that it works
    #[arg(long)]
    bench: bool,
    /// Asked by test runners; there are no tests to list here
    #[arg(long)]
    list: bool,
    /// How test runners want the list
    #[arg(long)]
    format: Option<String>,
    /// Asked by test runners
    #[arg(long)]
    ignored: bool,
}

fn main() {
    let args = Args::parse();
    if args.list {
        return;
    }
    let (check_years, outages) = if args.bench { (300.0, 10_000) } else { (0.1, 200) };
    let extent = figures::Extent {
        check_years: args.check_years.unwrap_or(check_years),
        outages: args.outages.unwrap_or(outages),
    };
    println!("seed {}", args.seed);
    let figures = figures::measure(args.seed, extent, |done, all| eprint!("\r{done} of {all} worlds"));
    eprintln!();
    println!("{figures}");
    figures.hold();
}
