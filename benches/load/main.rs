//! What bongsu costs: processor time, memory, lateness, disk.
//!
//! The real binary runs with real files and a fresh database, detection and storage on, every probe over a connection of its
//! own; no channel, so no alerts. The site that answers lives in the bench's process, whose processor time is not counted.
//! Each figure is printed as a line with its target and whether it holds; `--json` prints lines of JSON instead.
//!
//! | run | what is measured |
//! |---|---|
//! | `http` | 1,000 checks, each every second: processor time, beside that of hyper alone, lateness |
//! | `usual` | 1,000 checks, each every 30 s, the default, and windows that are full: memory |
//! | `https` | 200 checks, each every second, with full and verified handshakes |
//! | `calm` | 100 checks, each every second: lateness |
//! | `many` | 10,000 checks, each every 20 s, and windows that are full: how they start, memory |
//! | `history` | the database: bytes an observation, fresh and sealed; the time to read 90 days of one check |
//! | `soak` | 400 checks, each every 1.2 s, as often as a hundred times as many usual ones: memory, descriptors, log |
//!
//! Memory is `VmRSS` in units of 1,000,000 bytes. Lateness is the daemon's own measure, from when an attempt was due to when
//! it began, over the whole run. Processor time is that of all the daemon's threads, in user and kernel mode, in a window
//! that begins when every check has been asked once.
//!
//! No figure is asserted: machines differ, and lateness says nothing while others compute on the same processors. That every
//! check is asked, every observation is `ok` and every one is stored is asserted.
//!
//! ```text
//! cargo bench --bench load
//! cargo bench --bench load -- http https
//! cargo bench --bench load -- soak --seconds 600
//! cargo bench --bench load -- --checks 5000 --every 10s --seconds 30
//! ```

mod bare;
mod daemon;
mod figures;
mod history;
mod site;

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum};
use serde_json::{Value, json};

use crate::{
    daemon::{Daemon, Place},
    figures::Figure,
    site::Site,
};

/// Longest wait beyond the interval for every check to be asked once, and for the daemon to start and to end.
pub const PATIENCE: Duration = Duration::from_secs(60);

const MB: f64 = 1_000_000.0;

/// Length of the soak when none is given: enough to see what grows with every probe.
const SOAK_SHORT: Duration = Duration::from_secs(180);

/// When the soak has come to its usual size: pools and caches are filled, and the windows of detection, which are a minute
/// long then so that they do not go on filling for ten.
const SOAK_SETTLED: Duration = Duration::from_secs(90);

/// What bongsu costs.
#[derive(Parser)]
struct Args {
    /// Which runs; all of them by default
    runs: Vec<Run>,
    /// A run of its own: so many plain checks
    #[arg(long)]
    checks: Option<usize>,
    /// With --checks: the interval of each
    #[arg(long, default_value = "1s", value_parser = span)]
    every: Duration,
    /// Length of each measured window
    #[arg(long, value_parser = span)]
    seconds: Option<Duration>,
    /// Asked of a process that the bench starts: to ask for so many pages
    #[arg(long, hide = true)]
    bare: Option<usize>,
    /// With --bare: where they are
    #[arg(long, hide = true)]
    address: Vec<SocketAddr>,
    /// Lines of JSON
    #[arg(long)]
    json: bool,
    /// Given by `cargo bench`; without it (`cargo test --benches`) there is one short run, to see that it works
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

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Run {
    Http,
    Usual,
    Https,
    Calm,
    Many,
    History,
    Soak,
}

fn span(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, Duration::from_millis(1)),
        None => (text.strip_suffix('s').unwrap_or(text), Duration::from_secs(1)),
    };
    let number: u32 = number.parse().map_err(|e| format!("{e}; write it as 20s"))?;
    if number == 0 { Err("it must be more than nothing".into()) } else { Ok(unit * number) }
}

/// A load.
#[derive(Clone, Copy)]
struct Load {
    checks: usize,
    every: Duration,
    window: Duration,
    tls: bool,
    /// Whether the daemon has run before, for as long as detection looks back.
    filled: bool,
}

fn main() {
    let args = Args::parse();
    if args.list {
        return;
    }
    if let Some(pages) = args.bare {
        bare::ask(pages, &args.address, args.seconds.unwrap_or(PATIENCE));
        return;
    }
    let load = |checks, every_ms| Load {
        checks,
        every: Duration::from_millis(every_ms),
        window: args.seconds.unwrap_or(Duration::from_secs(20)),
        tls: false,
        filled: false,
    };
    if let Some(checks) = args.checks {
        println!("{}", measure(Load { every: args.every, ..load(checks, 1_000) }).detail);
        return;
    }
    if !args.bench {
        // The same code over less, so that it does not rot.
        for tls in [false, true] {
            measure(Load { tls, filled: tls, window: Duration::from_secs(2), ..load(20, 1_000) });
        }
        bare::measure(&Site::open(20, false), 20, Duration::from_secs(1));
        history::figures(2);
        return;
    }
    let wanted = |run| args.runs.is_empty() || args.runs.contains(&run);
    let tell = |run: &str, (figures, detail): (Vec<Figure>, Value)| match args.json {
        true => println!("{}", json!({ "run": run, "figures": figures, "detail": detail })),
        false => figures.iter().for_each(Figure::print),
    };
    if wanted(Run::Http) {
        tell("http", http(load(1_000, 1_000)));
    }
    if wanted(Run::Usual) {
        tell("usual", usual(Load { filled: true, ..load(1_000, 30_000) }));
    }
    if wanted(Run::Https) {
        tell("https", https(Load { tls: true, ..load(200, 1_000) }));
    }
    if wanted(Run::Calm) {
        tell("calm", calm(load(100, 1_000)));
    }
    if wanted(Run::Many) {
        tell("many", many(Load { filled: true, ..load(10_000, 20_000) }));
    }
    if wanted(Run::History) {
        tell("history", history::figures(90));
    }
    if wanted(Run::Soak) {
        tell("soak", soak(Load { window: args.seconds.unwrap_or(SOAK_SHORT), ..load(400, 1_200) }));
    }
}

type Told = (Vec<Figure>, Value);

fn http(load: Load) -> Told {
    let m = measure(load);
    let bare = bare::measure(&Site::open(load.checks, false), load.checks, load.window);
    let figures = vec![
        Figure::at_most("processor time for 1,000 plain probes", m.cpu_s_per_1000, "s", 0.15),
        Figure::without_target("the same requests by hyper alone", bare, "s"),
        Figure::at_least("probes a second, sustained", m.probes_per_s, "", 990.0),
        Figure::at_most("lateness at 1,000 probes a second, p99", m.lateness_p99_ms, "ms", 50.0),
    ];
    (figures, m.detail)
}

fn usual(load: Load) -> Told {
    let m = measure(load);
    let figures = vec![
        Figure::at_most("memory with 1,000 checks", m.rss_mb, "MB", 20.0),
        Figure::at_most("memory with 1,000 checks, reloaded five times", m.rss_reloaded_mb, "MB", 20.0),
    ];
    (figures, m.detail)
}

fn https(load: Load) -> Told {
    let m = measure(load);
    let name = "processor time for 1,000 probes with verified handshakes";
    (vec![Figure::at_most(name, m.cpu_s_per_1000, "s", 1.0)], m.detail)
}

fn calm(load: Load) -> Told {
    let m = measure(load);
    (vec![Figure::at_most("lateness at 100 probes a second, p99", m.lateness_p99_ms, "ms", 5.0)], m.detail)
}

fn many(load: Load) -> Told {
    let m = measure(load);
    // What a burst is: in ten milliseconds, many times what falls into them when all is spread evenly.
    let even = load.checks as f64 / (load.every.as_secs_f64() * 100.0);
    let figures = vec![
        Figure::at_most("10,000 checks are started after", m.ready_s, "s", 1.0),
        Figure::at_most("busiest 10 ms, in times of the mean", m.busiest_10ms as f64 / even, "", 10.0),
        Figure::at_most("memory with 10,000 checks", m.rss_mb, "MB", 60.0),
        Figure::at_most("memory with 10,000 checks, reloaded five times", m.rss_reloaded_mb, "MB", 60.0),
    ];
    (figures, m.detail)
}

// ---------------------------------------------------------------------------------------------------------------
// A load and what it costs

struct Measured {
    ready_s: f64,
    cpu_s_per_1000: f64,
    probes_per_s: f64,
    busiest_10ms: usize,
    lateness_p99_ms: f64,
    rss_mb: f64,
    /// After [`RELOADS`] of the same configuration.
    rss_reloaded_mb: f64,
    detail: Value,
}

/// Reading a configuration takes memory that must be given back.
const RELOADS: usize = 5;

fn measure(load: Load) -> Measured {
    let mut place = Place::new();
    let site = Site::open(load.checks, load.tls);
    place.write_checks(load.checks, load.every, &site);
    if load.filled {
        place.fill(load.checks, load.every);
    }
    let begun = Instant::now();
    let mut daemon = place.start();
    let ready_s = begun.elapsed().as_secs_f64();
    let all_asked = site.all_asked(load.every + PATIENCE).duration_since(begun).as_secs_f64();
    let (cpu_start_s, window, probes_before) = (daemon.cpu_s(), Instant::now(), site.probes());
    thread::sleep(load.window);
    let (cpu_s, probes) = (daemon.cpu_s() - cpu_start_s, site.probes() - probes_before);
    let seconds = window.elapsed().as_secs_f64();
    let (rss, anonymous) = (daemon.rss_bytes() / MB, daemon.anonymous_bytes() / MB);
    let status = place.status();
    (0..RELOADS).for_each(|_| daemon.reload());
    let rss_reloaded = daemon.rss_bytes() / MB;
    let first_s = site.first().duration_since(begun).as_secs_f64();
    daemon.stop();

    let metrics = &status["metrics"];
    let (observations, told, asked) = (place.all_ok(), number(&metrics["probes"]["ok"]), site.probes() as i64);
    assert!(probes > 0, "no probes in {seconds:.1} s, after every check had been asked once");
    // What is in flight when the daemon stops is abandoned, having told nothing yet.
    assert!(
        told as i64 <= observations && observations <= asked,
        "{told} ok by the status, {observations} stored, {asked} asked of the site"
    );
    let commits = &metrics["commits"];
    Measured {
        ready_s,
        cpu_s_per_1000: cpu_s / probes as f64 * 1_000.0,
        probes_per_s: probes as f64 / seconds,
        busiest_10ms: site.busiest(Duration::from_millis(10)),
        lateness_p99_ms: number(&metrics["lateness"]["p99_ms"]),
        rss_mb: rss,
        rss_reloaded_mb: rss_reloaded,
        detail: json!({
            "checks": load.checks, "every_ms": load.every.as_millis() as u64, "tls": load.tls, "seconds": seconds,
            "ready_s": ready_s, "first_probe_s": first_s, "all_asked_s": all_asked, "cpu_until_then_s": cpu_start_s,
            "probes": probes, "probes_per_s": probes as f64 / seconds, "cpu_s_per_1000": cpu_s / probes as f64 * 1_000.0,
            "busiest_10ms": site.busiest(Duration::from_millis(10)), "busiest_100ms": site.busiest(Duration::from_millis(100)),
            "rss_mb": rss, "rss_reloaded_mb": rss_reloaded, "rss_anonymous_mb": anonymous, "lateness": metrics["lateness"], "commit_mean_ms": commits["mean_ms"],
            "events_per_commit": number(&commits["events"]) / number(&commits["count"]),
        }),
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("the daemon tells this number")
}

// ---------------------------------------------------------------------------------------------------------------
// The soak

/// What is looked at each second.
struct Look {
    rss_mb: f64,
    descriptors: usize,
    wal_mb: f64,
}

fn soak(load: Load) -> Told {
    let place = Place::with_brief_windows();
    let site = Site::open(load.checks, load.tls);
    place.write_checks(load.checks, load.every, &site);
    let daemon = place.start();
    let begun = Instant::now();
    let look = |daemon: &Daemon| Look {
        rss_mb: daemon.rss_bytes() / MB,
        descriptors: daemon.descriptors(),
        wal_mb: place.bytes("bongsu.db-wal") as f64 / MB,
    };
    let mut looks = Vec::new();
    while begun.elapsed() < load.window {
        thread::sleep(Duration::from_secs(1));
        looks.push(look(&daemon));
    }
    let probes = site.probes();
    daemon.stop();
    place.all_ok();
    let settled = looks.len().min(SOAK_SETTLED.as_secs() as usize);
    let (early, late) = (&looks[settled * 2 / 3..settled], &looks[looks.len() - looks.len().div_ceil(10)..]);
    let most = |looks: &[Look], of: fn(&Look) -> f64| looks.iter().map(of).fold(0.0, f64::max);
    let grown = most(late, |l| l.rss_mb) / most(early, |l| l.rss_mb);
    let more = most(late, |l| l.descriptors as f64) - most(early, |l| l.descriptors as f64);
    let figures = vec![
        Figure::at_most("soak: memory at the end, in times of that when settled", grown, "", 1.1),
        Figure::at_most("soak: descriptors more at the end", more, "", 16.0),
        Figure::at_most("soak: largest write-ahead log", most(&looks, |l| l.wal_mb), "MB", 16.8),
    ];
    let each = |of: fn(&Look) -> f64| looks.iter().step_by(looks.len().div_ceil(20)).map(of).collect::<Vec<_>>();
    let detail = json!({
        "seconds": load.window.as_secs(), "probes": probes, "rss_mb": each(|l| l.rss_mb),
        "descriptors": each(|l| l.descriptors as f64), "wal_mb": each(|l| l.wal_mb),
    });
    (figures, detail)
}
