//! One incident's life, as short as it can be, and what must be true after its end at any moment.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bongsu::store::Writer;
use rusqlite::{Connection, OpenFlags};

use crate::{
    harness::{
        daemon::{BONGSU, Place, WAIT_MAX, until},
        http::{Answer, Request, Web},
    },
    kills::{configuration, told_once},
};

/// After a request of the check, the next comes later than this only if the core did not say so in time that the
/// observation is written.
const ANSWERED_WITHIN: Duration = Duration::from_millis(1_500);

/// Who acknowledges.
const PERSON: &str = "somebody";

/// A target, a receiver of alerts, and a daemon's directory.
pub struct Site {
    pub target: Web,
    pub hook: Web,
    pub place: Place,
}

impl Site {
    pub fn new() -> Self {
        let (target, hook) = (Web::start(Answer::Status(503)), Web::start(Answer::Status(200)));
        let (config, checks) = configuration(&target, &hook);
        let place = Place::in_memory(&config, &checks);
        Self { target, hook, place }
    }

    pub fn database(&self) -> PathBuf {
        self.place.dir.path().join("bongsu.db")
    }

    /// The file in which a daemon under strace logs.
    fn log(&self) -> PathBuf {
        self.place.dir.path().join("daemon.log")
    }

    /// Lives one incident's life from a fresh start to a polite stop, under a program that may end it at any moment.
    pub fn live(&self, under: &[String]) -> Lived {
        let log = fs::File::create(self.log()).expect("own directory");
        let child = Command::new(&under[0])
            .args(&under[1..])
            .arg(BONGSU)
            .args(["run", "--config"])
            .arg(self.place.config())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn();
        let child =
            child.unwrap_or_else(|e| panic!("{} does not start ({e}); install the Debian package strace", under[0]));
        let mut under = Under { child, daemon: None };
        let told = |kind: &str| self.hook.accepted().iter().any(|r| r.json()["kind"] == kind);
        let mut acknowledged = false;
        let mut lives = under.waits_for(|| told("problem"));
        if lives {
            acknowledged = self.place.run(&["incidents", "ack", "1", "--by", PERSON]).status.success();
            self.target.set(Answer::Status(200));
            lives = under.waits_for(|| told("recovery"));
        }
        if lives {
            under.terminate();
            under.waits_for(|| false);
        }
        let ended = under.child.wait().expect("own child").success();
        Lived { acknowledged, ended }
    }

    fn rows(&self, sql: &str) -> Vec<String> {
        self.place.query(sql)
    }

    /// What must be true, whenever the daemon ended; `at` says when that was.
    pub fn verify(&self, lived: &Lived, at: &str) {
        if !self.database().exists() {
            assert!(self.hook.requests().is_empty() && !lived.acknowledged, "{at}: no database, and it was told");
            return;
        }
        let answered = answered(&self.target.requests());
        let accepted: BTreeSet<String> = self.hook.accepted().iter().map(|r| r.key().to_owned()).collect();
        let sent: BTreeSet<String> = self.hook.requests().iter().map(|r| r.key().to_owned()).collect();
        open_and_check(&self.database()).unwrap_or_else(|why| panic!("{at}: {why}"));
        let rows: BTreeSet<String> = self.rows("SELECT key FROM outbox").into_iter().collect();
        assert!(rows.is_superset(&sent), "{at}: {sent:?} were sent, {rows:?} are written");
        let delivered = self.rows("SELECT key FROM outbox WHERE state = 'delivered'");
        assert!(delivered.iter().all(|k| accepted.contains(k)), "{at}: {delivered:?} are delivered, not {accepted:?}");
        let stored = self.rows("SELECT at FROM observations").len();
        assert!(stored >= answered, "{at}: {answered} observations were written, {stored} are there");
        if lived.acknowledged {
            assert_eq!(self.rows("SELECT acknowledged_by FROM incidents"), [PERSON], "{at}: it was acknowledged");
        }
    }

    /// Starts a daemon on what is left, and sees the incident through to its end, told as often as it should be.
    pub fn go_on(&self, at: &str) {
        let daemon = self.place.start();
        let pending = "SELECT count(*) FROM outbox WHERE state = 'pending'";
        if self.rows("SELECT id FROM incidents").is_empty() && self.hook.requests().is_empty() {
            self.target.set(Answer::Status(503));
        }
        until("the outage is an incident", || !self.rows("SELECT id FROM incidents").is_empty());
        self.target.set(Answer::Status(200));
        until("the incident is over", || self.rows("SELECT state FROM incidents") == ["closed"]);
        until("all is told", || self.rows(pending) == ["0"]);
        assert_eq!(daemon.stop(), Some(0), "{at}: {}", daemon.log());
        told_once(&self.hook.accepted(), &self.place, at);
    }
}

/// How a life ended.
pub struct Lived {
    /// Whether the acknowledgement was answered with a yes.
    pub acknowledged: bool,
    /// Whether it came to its own end.
    pub ended: bool,
}

/// A daemon under another program.
struct Under {
    child: Child,
    daemon: Option<u32>,
}

impl Under {
    /// Waits until `done`, as long as it lives; whether it does.
    fn waits_for(&mut self, done: impl Fn() -> bool) -> bool {
        let begun = Instant::now();
        while self.child.try_wait().expect("own child").is_none() {
            if done() {
                return true;
            }
            assert!(begun.elapsed() < WAIT_MAX, "it neither goes on nor ends");
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// The process that the program above it has started.
    fn daemon(&mut self) -> Option<u32> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        self.daemon = children.split_whitespace().next().and_then(|n| n.parse().ok()).or(self.daemon);
        self.daemon
    }

    fn terminate(&mut self) {
        if let Some(daemon) = self.daemon() {
            let _ = Command::new("kill").args(["-TERM", &daemon.to_string()]).status();
        }
    }
}

impl Drop for Under {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if let Some(daemon) = self.daemon() {
                let _ = Command::new("kill").args(["-KILL", &daemon.to_string()]).status();
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// How many attempts were told as written: those after which the next came as soon as it does then.
fn answered(requests: &[Request]) -> usize {
    requests.windows(2).filter(|two| two[1].at.saturating_duration_since(two[0].at) < ANSWERED_WITHIN).count()
}

/// Opens a database with the code of the daemon, which must find it whole, and has SQLite look at all of it; what is
/// wrong with it.
pub fn open_and_check(path: &Path) -> Result<(), String> {
    let now = bongsu::clock::now();
    let mut writer = Writer::open(path, now).map_err(|e| format!("it does not open: {e}"))?;
    let gone_on = writer.restore(&[]).and_then(|_| writer.states(|_, _| {}));
    gone_on.map_err(|e| format!("it cannot be gone on from: {e}"))?;
    drop(writer);
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("it is there");
    let found: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("it is SQLite");
    (found == "ok").then_some(()).ok_or(found)
}
