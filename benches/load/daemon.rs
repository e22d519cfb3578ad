//! The real binary with real files: a configuration, a database, and what the system says of the process.

use std::{
    fs::{self, File},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rusqlite::Connection;
use serde_json::Value;

use crate::{PATIENCE, history, site::Site};

const BONGSU: &str = env!("CARGO_BIN_EXE_bongsu");

/// Checks of one service, and so of one file.
const CHECKS_PER_SERVICE: usize = 100;

/// Deadline of an attempt: the daemon's own default.
const TIMEOUT: Duration = Duration::from_secs(5);

/// `USER_HZ`, the unit of times in /proc: 100 on every architecture Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A directory with a configuration and a database.
pub struct Place {
    dir: tempfile::TempDir,
    brief: bool,
    /// Observations that were in the database before.
    filled: usize,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("the temporary directory can be written");
        fs::create_dir(dir.path().join("checks")).expect("own directory");
        Self { dir, brief: false, filled: 0 }
    }

    /// The same for a daemon whose detection looks back for a minute only.
    pub fn with_brief_windows() -> Self {
        Self { brief: true, ..Self::new() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write_config(&self, every: Duration) {
        // A deadline beyond the interval is refused.
        let (every_ms, timeout_ms) = (every.as_millis(), every.min(TIMEOUT).as_millis());
        let text = format!(
            "agent: {{ name: load, socket: bongsu.sock }}\nstore: {{ path: bongsu.db }}\n\
             defaults: {{ every: {every_ms}ms, timeout: {timeout_ms}ms{} }}\n",
            if self.brief { ", degraded: { window: 1m }" } else { "" }
        );
        fs::write(self.path("config.yaml"), text).expect("own directory");
    }

    /// Checks that ask one page each.
    pub fn write_checks(&self, checks: usize, every: Duration, site: &Site) {
        self.write_config(every);
        let tls = match site.authority() {
            Some(pem) => {
                fs::write(self.path("ca.pem"), pem).expect("own directory");
                format!(", tls: {{ ca: \"{}\" }}", self.path("ca.pem").display())
            }
            None => String::new(),
        };
        let urls: Vec<String> = (0..checks).map(|n| site.url(n)).collect();
        for (service, urls) in urls.chunks(CHECKS_PER_SERVICE).enumerate() {
            let mut text = format!("service: load-{service:03}\nchecks:\n");
            for (n, url) in urls.iter().enumerate() {
                text.push_str(&format!("  - {{ name: page-{n:02}, http: {{ url: \"{url}\"{tls} }} }}\n"));
            }
            fs::write(self.path("checks").join(format!("load-{service:03}.yaml")), text).expect("own directory");
        }
    }

    /// Makes the database that a daemon leaves which has run for long.
    pub fn fill(&mut self, checks: usize, every: Duration) {
        let name = |n: usize| format!("load-{:03}/page-{:02}", n / CHECKS_PER_SERVICE, n % CHECKS_PER_SERVICE);
        let names: Vec<_> = (0..checks).map(|n| name(n).parse().expect("a name")).collect();
        self.filled = history::fill(&self.path("bongsu.db"), &names, every);
    }

    /// Starts the daemon and waits until it says that all of it runs, as a service manager does.
    pub fn start(&self) -> Daemon {
        let notices = self.path("notify.sock");
        let _ = fs::remove_file(&notices);
        let socket = UnixDatagram::bind(&notices).expect("own directory");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time");
        let log = self.path("daemon.log");
        let output = File::create(&log).expect("own directory");
        let child = Command::new(BONGSU)
            .args(["run", "--config"])
            .arg(self.path("config.yaml"))
            .env_remove("RUST_LOG")
            .env("NOTIFY_SOCKET", &notices)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a file can be shared"))
            .stderr(output)
            .spawn()
            .expect("the binary was built");
        let mut daemon = Daemon { child, log };
        let begun = Instant::now();
        let mut notice = [0; 4_096];
        loop {
            let length = socket.recv(&mut notice).unwrap_or(0);
            if String::from_utf8_lossy(&notice[..length]).lines().any(|line| line == "READY=1") {
                return daemon;
            }
            assert!(daemon.alive() && begun.elapsed() < PATIENCE, "the daemon does not start:\n{}", daemon.told());
        }
    }

    /// What the daemon says of itself.
    pub fn status(&self) -> Value {
        let mut command = Command::new(BONGSU);
        command.args(["status", "--json", "--config"]).arg(self.path("config.yaml"));
        let output = command.stdin(Stdio::null()).output().expect("the binary was built");
        let status = serde_json::from_slice(&output.stdout).ok().filter(|status: &Value| status["daemon"] == true);
        status.expect("a running daemon tells how it stands")
    }

    /// Size of a file; 0 when it does not exist.
    pub fn bytes(&self, name: &str) -> u64 {
        fs::metadata(self.path(name)).map_or(0, |m| m.len())
    }

    /// How many observations the daemon has stored; all must be `ok`.
    pub fn all_ok(&self) -> i64 {
        let database = Connection::open(self.path("bongsu.db")).expect("the daemon made it");
        let mut statement = database
            .prepare("SELECT outcome, count(*), coalesce(max(reason), '') FROM observations GROUP BY 1")
            .expect("a documented view");
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        let rows = rows.and_then(|rows| rows.collect::<Result<Vec<(String, i64, String)>, _>>());
        match &rows.expect("documented columns")[..] {
            [(outcome, count, _)] if outcome == "ok" => *count - self.filled as i64,
            other => panic!("not all observations are ok: {other:?}"),
        }
    }
}

/// Processor time of a process since its start, of all its threads, in user and kernel mode.
pub fn cpu_s_of(process: &str) -> f64 {
    let stat = fs::read_to_string(Path::new("/proc").join(process).join("stat")).expect("the process runs");
    // proc_pid_stat(5): the name in brackets may hold anything; utime and stime are the 12th and 13th after it.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11).take(2);
    fields.map(|ticks| ticks.parse::<f64>().expect("ticks are a number")).sum::<f64>() / TICKS_PER_SECOND
}

/// A running daemon, killed when dropped.
pub struct Daemon {
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
    pub fn cpu_s(&self) -> f64 {
        cpu_s_of(&self.child.id().to_string())
    }

    /// Resident memory in bytes.
    pub fn rss_bytes(&self) -> f64 {
        self.memory("VmRSS:")
    }

    /// What of it is the process's own and not a file's.
    pub fn anonymous_bytes(&self) -> f64 {
        self.memory("RssAnon:")
    }

    fn memory(&self, field: &str) -> f64 {
        let status = self.proc("status");
        let kib = status.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse().ok());
        kib.map(|kib: f64| kib * 1024.0).expect("the kernel tells it in kB")
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        let path = Path::new("/proc").join(self.child.id().to_string()).join("fd");
        fs::read_dir(path).map_or(0, Iterator::count)
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().is_ok_and(|s| s.success()), "kill {name} {id}");
    }

    /// SIGHUP, and the end of what it begins, which must be a configuration in force.
    pub fn reload(&mut self) {
        let reloads = |daemon: &Self| daemon.told().matches("configuration reloaded").count();
        let (before, begun) = (reloads(self), Instant::now());
        self.signal("-HUP");
        while reloads(self) == before {
            assert!(self.alive() && begun.elapsed() < PATIENCE, "the daemon does not reload:\n{}", self.told());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGTERM, and its end, which must be a good one.
    pub fn stop(mut self) {
        self.signal("-TERM");
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
