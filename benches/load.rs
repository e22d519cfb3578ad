//! What it costs the daemon to ask thousands of plain HTTP checks.
//!
//! The real binary runs with real files and a fresh database, detection and storage on, every probe over a connection
//! of its own; no channel, so no alerts. The site that answers lives in the bench's process, whose processor time is
//! not counted. Each run prints one line of JSON:
//!
//! - `start`: from the daemon's start to its first probe and until every check has been asked once, and the processor
//!   time of that; the window that is measured begins after it.
//! - `probes`, `probes_per_s`, `cpu_s_per_1000_probes`: of the window.
//! - `probes_per_100ms_max`: the busiest tenth of a second at the site, the start included.
//! - `rss_mib`, `rss_anonymous_mib`: resident memory at the window's end, and what of it is not the binary itself.
//! - `lateness_ms`, `commit_ms_mean`, `events_per_commit`: the daemon's own numbers, since its start.
//! - `bytes_per_observation`: growth of the database over an empty one, the WAL folded in, per stored observation;
//!   `bytes_per_further_observation` is without what is stored once per check or day.
//!
//! No time is asserted: machines differ. That every check is asked, every observation is `ok` and every one is stored
//! is asserted.
//!
//! ```text
//! cargo bench --bench load
//! cargo bench --bench load -- --checks 5000 --every 10s --seconds 30
//! ```

use std::{
    convert::Infallible,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rusqlite::Connection;
use serde::Serialize;
use serde_json::Value;

const BONGSU: &str = env!("CARGO_BIN_EXE_bongsu");

/// Addresses the site listens on, 127.0.0.1 and up: one alone would run out of client ports (28,000, each kept for a
/// minute after its connection) at a few hundred connections a second.
const SITE_ADDRESSES: u8 = 16;

/// Checks of one service, and so of one file.
const CHECKS_PER_SERVICE: usize = 100;

/// Deadline of an attempt: the daemon's own default.
const TIMEOUT: Duration = Duration::from_secs(5);

/// `USER_HZ`, the unit of times in /proc: 100 on every architecture Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Longest wait beyond the interval for every check to be asked once, and for the daemon to start and to end.
const PATIENCE: Duration = Duration::from_secs(60);

const MIB: f64 = 1024.0 * 1024.0;

/// What the daemon costs under load.
#[derive(Parser)]
struct Args {
    /// Checks of a single run; without it there are three runs: two at 500 probes a second, one at 1,000
    #[arg(long)]
    checks: Option<usize>,
    /// Interval of each check, in whole seconds
    #[arg(long, default_value = "1s", value_parser = seconds)]
    every: Duration,
    /// Length of the measured window, in whole seconds
    #[arg(long, default_value = "20s", value_parser = seconds)]
    seconds: Duration,
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

fn seconds(text: &str) -> Result<Duration, String> {
    let number: u64 = text.strip_suffix('s').unwrap_or(text).parse().map_err(|e| format!("{e}; write it as 20s"))?;
    if number == 0 { Err("it must be at least 1s".into()) } else { Ok(Duration::from_secs(number)) }
}

#[derive(Clone, Copy)]
struct Run {
    checks: usize,
    every: Duration,
    window: Duration,
}

fn main() {
    let args = Args::parse();
    if args.list {
        return;
    }
    let run = |checks, every_s| Run { checks, every: Duration::from_secs(every_s), window: args.seconds };
    let runs = match args.checks {
        Some(checks) => vec![Run { checks, every: args.every, window: args.seconds }],
        None if args.bench => vec![run(1_000, 2), run(1_000, 1), run(10_000, 20)],
        None => vec![Run { window: Duration::from_secs(2), ..run(20, 1) }],
    };
    for run in runs {
        println!("{}", serde_json::to_string(&measure(run)).expect("plain data"));
    }
}

#[derive(Serialize)]
struct Report {
    bench: &'static str,
    checks: usize,
    every_s: u64,
    seconds: f64,
    start: Start,
    probes: usize,
    probes_per_s: f64,
    probes_per_100ms_max: usize,
    cpu_s_per_1000_probes: f64,
    rss_mib: f64,
    rss_anonymous_mib: f64,
    lateness_ms: Lateness,
    commit_ms_mean: f64,
    events_per_commit: f64,
    observations: i64,
    bytes_per_observation: f64,
    bytes_per_further_observation: f64,
}

#[derive(Serialize)]
struct Start {
    first_probe_ms: u128,
    all_started_ms: u128,
    cpu_s: f64,
}

#[derive(Serialize)]
struct Lateness {
    p50: f64,
    p99: f64,
    max: f64,
}

fn measure(run: Run) -> Report {
    let place = Place::new();
    // A run without checks leaves the empty database that growth is measured from.
    place.start().stop();
    let empty_bytes = place.database_bytes();
    let site = Site::open(run.checks);
    place.write_checks(run, &site);

    let begun = Instant::now();
    let daemon = place.start();
    let all_started = site.all_asked(run.every + PATIENCE);
    let (cpu_start_s, window, probes_before) = (daemon.cpu_s(), Instant::now(), site.probes());
    thread::sleep(run.window);
    let (cpu_s, probes) = (daemon.cpu_s() - cpu_start_s, site.probes() - probes_before);
    let seconds = window.elapsed().as_secs_f64();
    let [rss_mib, rss_anonymous_mib] = ["VmRSS:", "RssAnon:"].map(|field| daemon.memory_mib(field));
    let status = place.status().expect("a running daemon tells how it stands");
    daemon.stop();

    let (metrics, observations) = (&status["metrics"], place.all_ok());
    let (told, asked) = (number(&metrics["probes"]["ok"]), site.probes() as i64);
    assert!(probes > 0, "no probes in {seconds:.1} s, after every check had been asked once");
    // What is in flight when the daemon stops is abandoned, having told nothing yet.
    assert!(
        told as i64 <= observations && observations <= asked,
        "{told} ok by the status, {observations} stored, {asked} asked of the site"
    );
    let (first, busiest) = site.spread();
    let per_observation = |bytes: i64| bytes as f64 / observations as f64;
    let lateness = |key: &str| rounded(number(&metrics["lateness"][key]));
    Report {
        bench: "load",
        checks: run.checks,
        every_s: run.every.as_secs(),
        seconds: rounded(seconds),
        start: Start {
            first_probe_ms: first.duration_since(begun).as_millis(),
            all_started_ms: all_started.duration_since(begun).as_millis(),
            cpu_s: rounded(cpu_start_s),
        },
        probes,
        probes_per_s: rounded(probes as f64 / seconds),
        probes_per_100ms_max: busiest,
        cpu_s_per_1000_probes: rounded(cpu_s / probes as f64 * 1_000.0),
        rss_mib: rounded(rss_mib),
        rss_anonymous_mib: rounded(rss_anonymous_mib),
        lateness_ms: Lateness { p50: lateness("p50_ms"), p99: lateness("p99_ms"), max: lateness("max_ms") },
        commit_ms_mean: rounded(number(&metrics["commits"]["mean_ms"])),
        events_per_commit: rounded(number(&metrics["commits"]["events"]) / number(&metrics["commits"]["count"])),
        observations,
        bytes_per_observation: rounded(per_observation(place.database_bytes() - empty_bytes)),
        bytes_per_further_observation: rounded(per_observation(place.observation_bytes())),
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("the daemon tells this number")
}

/// To a thousandth: more says nothing.
fn rounded(number: f64) -> f64 {
    (number * 1_000.0).round() / 1_000.0
}

// ---------------------------------------------------------------------------------------------------------------
// The daemon

/// A directory with a configuration and a database.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("the temporary directory can be written");
        fs::create_dir(dir.path().join("checks")).expect("own directory");
        let place = Self { dir };
        place.write_config(Duration::from_secs(1));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write_config(&self, every: Duration) {
        // A deadline beyond the interval is refused.
        let (every_ms, timeout_ms) = (every.as_millis(), every.min(TIMEOUT).as_millis());
        let text = format!(
            "agent: {{ name: load, socket: bongsu.sock }}\nstore: {{ path: bongsu.db }}\n\
             defaults: {{ every: {every_ms}ms, timeout: {timeout_ms}ms }}\n"
        );
        fs::write(self.path("config.yaml"), text).expect("own directory");
    }

    fn write_checks(&self, run: Run, site: &Site) {
        self.write_config(run.every);
        let urls: Vec<String> = (0..run.checks).map(|n| site.url(n)).collect();
        for (service, urls) in urls.chunks(CHECKS_PER_SERVICE).enumerate() {
            let mut text = format!("service: load-{service:03}\nchecks:\n");
            for (n, url) in urls.iter().enumerate() {
                text.push_str(&format!("  - {{ name: page-{n:02}, http: {{ url: \"{url}\" }} }}\n"));
            }
            fs::write(self.path("checks").join(format!("load-{service:03}.yaml")), text).expect("own directory");
        }
    }

    /// Starts the daemon and waits until it can be asked.
    fn start(&self) -> Daemon {
        let log = self.path("daemon.log");
        let output = File::create(&log).expect("own directory");
        let child = Command::new(BONGSU)
            .args(["run", "--config"])
            .arg(self.path("config.yaml"))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a file can be shared"))
            .stderr(output)
            .spawn()
            .expect("the binary was built");
        let mut daemon = Daemon { child, log };
        let begun = Instant::now();
        while !self.path("bongsu.sock").exists() {
            assert!(daemon.alive() && begun.elapsed() < PATIENCE, "the daemon does not start:\n{}", daemon.told());
            thread::sleep(Duration::from_millis(5));
        }
        daemon
    }

    fn status(&self) -> Option<Value> {
        let mut command = Command::new(BONGSU);
        command.args(["status", "--json", "--config"]).arg(self.path("config.yaml"));
        let output = command.stdin(Stdio::null()).output().expect("the binary was built");
        serde_json::from_slice(&output.stdout).ok().filter(|status: &Value| status["daemon"] == true)
    }

    /// Bytes of the database; the daemon must have ended.
    fn database_bytes(&self) -> i64 {
        let bytes = |name: &str| fs::metadata(self.path(name)).map_or(0, |m| m.len().cast_signed());
        assert_eq!(bytes("bongsu.db-wal"), 0, "the daemon leaves no WAL behind when it ends");
        bytes("bongsu.db")
    }

    fn database(&self) -> Connection {
        Connection::open(self.path("bongsu.db")).expect("the daemon made it")
    }

    /// How many observations are stored; all must be `ok`.
    fn all_ok(&self) -> i64 {
        let database = self.database();
        let mut statement = database
            .prepare("SELECT outcome, count(*), coalesce(max(reason), '') FROM observations GROUP BY 1")
            .expect("a documented view");
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        let rows = rows.and_then(|rows| rows.collect::<Result<Vec<(String, i64, String)>, _>>());
        match &rows.expect("documented columns")[..] {
            [(outcome, count, _)] if outcome == "ok" => *count,
            other => panic!("not all observations are ok: {other:?}"),
        }
    }

    /// Bytes of the table that grows with every observation.
    fn observation_bytes(&self) -> i64 {
        let sql = "SELECT sum(pgsize) FROM dbstat WHERE name = 'observation'";
        self.database().query_row(sql, [], |row| row.get(0)).expect("the bundled SQLite has dbstat")
    }
}

/// A running daemon, killed when dropped.
struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    fn alive(&mut self) -> bool {
        self.child.try_wait().expect("own child").is_none()
    }

    fn told(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn proc(&self, name: &str) -> String {
        let path = Path::new("/proc").join(self.child.id().to_string()).join(name);
        fs::read_to_string(path).unwrap_or_else(|e| panic!("the daemon is gone ({e}):\n{}", self.told()))
    }

    /// Processor time since its start, of all its threads, in user and kernel mode.
    fn cpu_s(&self) -> f64 {
        let stat = self.proc("stat");
        // proc_pid_stat(5): the name in brackets may hold anything; utime and stime are the 12th and 13th after it.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11).take(2);
        fields.map(|ticks| ticks.parse::<f64>().expect("ticks are a number")).sum::<f64>() / TICKS_PER_SECOND
    }

    fn memory_mib(&self, field: &str) -> f64 {
        let status = self.proc("status");
        let kib = status.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse().ok());
        kib.map(|kib: f64| kib * 1024.0 / MIB).expect("the kernel tells it in kB")
    }

    /// SIGTERM, and its end, which must be a good one.
    fn stop(mut self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().is_ok_and(|s| s.success()), "kill -TERM {id}");
        let begun = Instant::now();
        while self.alive() {
            assert!(begun.elapsed() < PATIENCE, "the daemon does not end:\n{}", self.told());
            thread::sleep(Duration::from_millis(5));
        }
        let status = self.child.wait().expect("own child");
        assert!(status.success(), "the daemon ended with {status}:\n{}", self.told());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The site

/// What the site was asked.
struct Seen {
    /// When each check was asked first.
    first: Vec<Option<Instant>>,
    /// Checks not asked yet.
    missing: usize,
    /// When anything was asked.
    asked: Vec<Instant>,
}

/// A site of one page per check, on a thread of its own for as long as the bench runs.
struct Site {
    addresses: Vec<SocketAddr>,
    seen: Arc<Mutex<Seen>>,
}

impl Site {
    fn open(pages: usize) -> Self {
        let seen = Arc::new(Mutex::new(Seen { first: vec![None; pages], missing: pages, asked: Vec::new() }));
        let bind = |last| {
            let listener = std::net::TcpListener::bind((Ipv4Addr::new(127, 0, 0, last), 0));
            let listener = listener.expect("all of 127.0.0.0/8 is the loopback device's");
            listener.set_nonblocking(true).expect("a listener can be made so");
            listener
        };
        let listeners: Vec<_> = (1..=SITE_ADDRESSES).map(bind).collect();
        let addresses = listeners.iter().map(|l| l.local_addr().expect("a bound listener has one")).collect();
        let shared = seen.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let accepting = listeners.into_iter().map(|listener| accept(listener, shared.clone()));
                futures_util::future::join_all(accepting).await
            });
        });
        Self { addresses, seen }
    }

    fn url(&self, page: usize) -> String {
        format!("http://{}/{page}", self.addresses[page % self.addresses.len()])
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    fn probes(&self) -> usize {
        self.seen().asked.len()
    }

    /// Waits until every page has been asked for; tells when the last one was.
    fn all_asked(&self, max: Duration) -> Instant {
        let begun = Instant::now();
        while self.seen().missing > 0 {
            assert!(begun.elapsed() < max, "{} checks are not asked within {max:?}", self.seen().missing);
            thread::sleep(Duration::from_millis(5));
        }
        self.seen().first.iter().flatten().max().copied().expect("a run has checks")
    }

    /// When it was asked first, and the most probes in any tenth of a second.
    fn spread(&self) -> (Instant, usize) {
        let seen = self.seen();
        let first = *seen.asked.first().expect("a run has probes");
        let tenth = |at: &Instant| at.duration_since(first).as_millis() / 100;
        let busiest = seen.asked.chunk_by(|a, b| tenth(a) == tenth(b)).map(<[Instant]>::len).max();
        (first, busiest.unwrap_or(0))
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: std::net::TcpListener, seen: Arc<Mutex<Seen>>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("it does not block");
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: those in use come back.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let seen = seen.clone();
        tokio::spawn(async move {
            let answer = service_fn(|request| std::future::ready(Ok::<_, Infallible>(page(&seen, &request))));
            // A daemon that stops drops connections; what it then did not hear is its own matter.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

fn page(seen: &Mutex<Seen>, request: &Request<Incoming>) -> Response<String> {
    let now = Instant::now();
    let mut guard = lock(seen);
    let seen = &mut *guard;
    seen.asked.push(now);
    let page = request.uri().path().trim_start_matches('/').parse::<usize>();
    if let Some(first @ None) = page.ok().and_then(|page| seen.first.get_mut(page)) {
        *first = Some(now);
        seen.missing -= 1;
    }
    Response::new("fine\n".into())
}
