//! The daemon on a disk that is full, fails or is held by another, and with too few descriptors: it never ends, never
//! calls anything down that works, tells what it must, and recovers without a hand.
//!
//! A small tmpfs needs root to be mounted; the system calls fail by strace's injection. What else can be short is in
//! `starving.rs`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rusqlite::Connection;
use serde_json::Value;

use crate::harness::{
    self,
    daemon::{BONGSU, Daemon, Place, until},
    http::{Answer, Web},
};

/// Size of the disk: the reserve, a database, and as much again as the reserve wants to see free.
const DISK_BYTES: &str = "24m";

/// A file system of its own, gone when dropped.
pub(super) struct Disk(pub(super) PathBuf);

impl Disk {
    pub(super) fn mount(at: PathBuf) -> Self {
        fs::create_dir_all(&at).expect("own directory");
        let options = format!("size={DISK_BYTES},mode=777");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&at).status();
        assert!(status.expect("mount exists").success(), "a tmpfs cannot be mounted; these tests need root");
        Self(at)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Takes all space there is.
    fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.filler()).expect("own disk");
        for size in [1 << 16, 1 << 12] {
            while file.write_all(&vec![7; size]).is_ok() {}
        }
    }

    /// Takes all space there is and will be, until told to stop.
    fn keep_full(&self) -> Filling {
        let (stop, at) = (Arc::new(AtomicBool::new(false)), Self(self.0.clone()));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                at.fill();
                std::thread::sleep(Duration::from_millis(2));
            }
            std::mem::forget(at);
        });
        Filling { stop, thread: Some(thread) }
    }

    /// Whether not even a page finds room.
    fn is_full(&self) -> bool {
        let file = self.0.join("page");
        let is_full = fs::write(&file, [7; 4_096]).is_err();
        fs::remove_file(file).expect("own disk");
        is_full
    }

    fn free(&self) {
        fs::remove_file(self.filler()).expect("it was filled");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a daemon of a failed test may still hold its files.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

struct Filling {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Filling {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One check of a web server, told to a webhook, with the database in a directory of its own.
pub(super) struct Story {
    pub(super) place: Place,
    pub(super) target: Web,
    pub(super) hook: Web,
}

impl Story {
    pub(super) fn new() -> Self {
        Self::with_checks(1)
    }

    pub(super) fn with_checks(checks: usize) -> Self {
        let (target, hook) = (Web::start(Answer::Status(200)), Web::start(Answer::Status(200)));
        let dir = harness::scratch();
        let config = format!(
            "agent: {{ name: test-1, socket: bongsu.sock }}\nstore: {{ path: db/bongsu.db }}\n\
             channels: {{ hook: {{ webhook: {{ url: \"{}\" }} }} }}\n\
             routes: [ {{ steps: [ {{ after: 0s, to: [hook] }} ] }} ]\n",
            hook.url("/")
        );
        let names = (0..checks).map(|n| format!("  - {{ name: c{n}, http: {{ url: \"{}\" }} }}\n", target.url("/")));
        let list: String = names.collect();
        let text = format!(
            "service: web\ndefaults: {{ every: 1s, timeout: 1s, outage: {{ failures: 2, confirm_every: 100ms, recoveries: 2 }},\n\
             \x20 degraded: {{ slow: off, loss: off, duplicates: off }} }}\nchecks:\n{list}"
        );
        harness::write(dir.path(), "config.yaml", &config);
        harness::write(dir.path(), "checks/all.yaml", &text);
        fs::create_dir(dir.path().join("db")).expect("own directory");
        Self { place: Place { dir }, target, hook }
    }

    fn db(&self) -> PathBuf {
        self.place.dir.path().join("db/bongsu.db")
    }

    pub(super) fn start(&self) -> Daemon {
        let daemon = self.place.start();
        self.until_up();
        daemon
    }

    pub(super) fn until_up(&self) {
        until("the checks are up", || {
            self.status()["counts"]["down"].is_null() && self.status()["counts"]["up"].is_u64()
        });
    }

    pub(super) fn status(&self) -> Value {
        self.place.json(&["status"])
    }

    /// One column of a query, as text; nothing when it cannot be asked.
    pub(super) fn query(&self, sql: &str) -> Vec<String> {
        let ask = || -> rusqlite::Result<Vec<String>> {
            let database = Connection::open(self.db())?;
            database.busy_timeout(Duration::from_secs(5))?;
            let mut statement = database.prepare(sql)?;
            let rows = statement.query_map([], |row| row.get::<_, rusqlite::types::Value>(0))?;
            rows.map(|value| Ok(format!("{:?}", value?))).collect()
        };
        ask().unwrap_or_default()
    }

    pub(super) fn count(&self, sql: &str) -> usize {
        let text = self.query(sql).pop().unwrap_or_default();
        text.trim_start_matches("Integer(").trim_end_matches(')').parse().unwrap_or(0)
    }

    /// How often each kind of message came, each under how many keys.
    pub(super) fn told(&self, kind: &str) -> (usize, usize) {
        let all: Vec<_> = self.hook.accepted().into_iter().filter(|r| r.json()["kind"] == kind).collect();
        let keys: std::collections::BTreeSet<_> = all.iter().map(|r| r.key().to_owned()).collect();
        (all.len(), keys.len())
    }

    pub(super) fn outage(&self, number: usize) {
        let begun = std::time::Instant::now();
        self.target.set(Answer::Status(503));
        until("the problem is told", || self.told("problem").0 >= number);
        self.target.set(Answer::Status(200));
        until("the recovery is told", || self.told("recovery").0 >= number);
        println!("outage {number} took {:?}", begun.elapsed());
    }

    /// Every incident closed, told once at each end, written, and nothing wrong with the file.
    pub(super) fn all_is_written(&self, incidents: usize) {
        until("all is written", || {
            self.count("SELECT count(*) FROM incidents WHERE state = 'closed'") == incidents
                && self.count("SELECT count(*) FROM outbox WHERE state = 'delivered'") == 2 * incidents
        });
        assert_eq!(self.count("SELECT count(*) FROM incidents"), incidents);
        assert_eq!(self.count("SELECT count(*) FROM outbox"), 2 * incidents);
        assert_eq!((self.told("problem"), self.told("recovery")), ((incidents, incidents), (incidents, incidents)));
        let keys: BTreeMap<String, usize> = self.hook.accepted().iter().fold(BTreeMap::new(), |mut keys, r| {
            *keys.entry(r.key().to_owned()).or_default() += 1;
            keys
        });
        let stored = self.query("SELECT key FROM outbox");
        assert!(keys.iter().all(|(key, n)| *n == 1 && stored.iter().any(|s| s.contains(key))), "{keys:?} {stored:?}");
        let double = "SELECT count(*) - count(DISTINCT at || check_name) FROM observations";
        assert_eq!(self.count(double), 0, "an observation is stored once");
        let checked = self.place.json(&["db", "check"]);
        assert_eq!(checked["ok"], true, "{checked}");
    }
}

pub(super) fn times(daemon: &Daemon, text: &str) -> usize {
    daemon.log().matches(text).count()
}

#[test]
fn a_full_disk_gives_up_its_reserve_for_the_incident_and_gets_it_back() {
    let story = Story::new();
    let disk = Disk::mount(story.place.dir.path().join("db"));
    let daemon = story.start();
    let reserve = disk.0.join("bongsu.db.reserve");
    assert!(reserve.is_file(), "the space is set aside");
    disk.fill();
    until("the reserve is given up", || daemon.log().contains("the reserve of 4 MiB beside the database is given up"));
    assert!(!reserve.exists());
    story.outage(1);
    // Recorded as ever, although nothing but the reserve was left.
    story.all_is_written(1);
    assert_eq!(times(&daemon, "the store does not write"), 0, "{}", daemon.log());
    assert_eq!(times(&daemon, "is given up"), 1, "{}", daemon.log());
    disk.free();
    until("the reserve is there again", || reserve.is_file());
    until("it is said", || daemon.log().contains("the reserve beside the database is made anew"));
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

#[test]
fn a_disk_without_any_space_stops_neither_watching_nor_telling_nor_answering() {
    let story = Story::new();
    let disk = Disk::mount(story.place.dir.path().join("db"));
    let daemon = story.start();
    let filling = disk.keep_full();
    until("it is noticed", || daemon.log().contains("is given up") && disk.is_full());
    // Long enough for what the check would have to say.
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(story.hook.accepted().len(), 0, "nothing is down: {}", daemon.log());
    assert_eq!(story.status()["counts"]["up"], 1);

    story.target.set(Answer::Status(503));
    until("the problem is told", || story.told("problem").0 == 1);
    let begun = std::time::Instant::now();
    let status = story.status();
    assert!(begun.elapsed() < Duration::from_secs(5), "it answers itself: {:?}", begun.elapsed());
    assert_eq!((&status["daemon"], &status["counts"]["down"]), (&true.into(), &1.into()), "{status}");
    assert_eq!(status["incidents"][0]["id"], 1, "{status}");
    let why = status["store"]["error"].as_str().unwrap_or_default();
    assert!(why.contains("no space is left") && status["store"]["telling"] == true, "{status}");
    let text = String::from_utf8_lossy(&story.place.run(&["status"]).stdout).into_owned();
    assert!(text.contains("the store does not write since") && text.contains("#1"), "{text}");
    let acknowledged = story.place.run(&["incidents", "ack", "1", "--note", "on it"]);
    let warned = String::from_utf8_lossy(&acknowledged.stderr).into_owned();
    assert_eq!(acknowledged.status.code(), Some(0), "{warned}");
    assert!(warned.contains("should bongsu end before, it is lost"), "{warned}");
    let reload = story.place.run(&["incidents", "list"]);
    assert!(String::from_utf8_lossy(&reload.stdout).contains("#1"), "incidents answer too");
    daemon.signal("HUP");
    until("a reload is put off", || {
        daemon.log().contains("as soon as the store writes again, without a further reload")
    });
    story.target.set(Answer::Status(200));
    until("the recovery is told", || story.told("recovery").0 == 1);
    story.outage(2);
    assert_eq!(times(&daemon, "the store does not write; it is tried again"), 1, "said once:\n{}", daemon.log());
    assert_eq!(times(&daemon, "alerts are sent before they are recorded"), 1, "{}", daemon.log());

    drop(filling);
    disk.free();
    until("it writes again", || daemon.log().contains("the store writes again"));
    until("the reload is made up for", || daemon.log().contains("configuration reloaded"));
    story.all_is_written(2);
    assert_eq!(story.count("SELECT count(*) FROM incident_timeline WHERE entry = 'acknowledged'"), 1);
    assert!(story.status()["store"].is_null());
    // Nothing is told twice, neither now nor by the next daemon.
    story.outage(3);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    let daemon = story.start();
    story.outage(4);
    story.all_is_written(4);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_daemon_starts_on_a_full_disk_with_what_its_reserve_leaves() {
    let story = Story::new();
    let disk = Disk::mount(story.place.dir.path().join("db"));
    let daemon = story.start();
    daemon.kill();
    disk.fill();
    let daemon = story.start();
    story.outage(1);
    story.all_is_written(1);
    disk.free();
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

/// The file can be opened in what little there is, and what is new cannot be written.
#[test]
fn a_daemon_with_many_new_checks_starts_on_a_full_disk() {
    let story = Story::new();
    let disk = Disk::mount(story.place.dir.path().join("db"));
    let daemon = story.start();
    until("the reserve is there", || disk.0.join("bongsu.db.reserve").is_file());
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    let new = |n| {
        format!(
            "  - {{ name: new{n}-{}, every: 1d, http: {{ url: \"{}\" }} }}\n",
            "x".repeat(40),
            story.target.url("/")
        )
    };
    let list: String = (0..400).map(new).collect();
    harness::write(story.place.dir.path(), "checks/new.yaml", &format!("service: more\nchecks:\n{list}"));
    disk.fill();
    let filler = File::options().write(true).open(disk.filler()).expect("it was filled");
    let bytes = filler.metadata().expect("own file").len();
    filler.set_len(bytes - 13 * 4_096).expect("own file");
    let daemon = story.start();
    assert!(daemon.log().contains("the reserve beside the database is given up to go on"), "{}", daemon.log());
    story.outage(1);
    disk.free();
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

/// What SQLite keeps beside a file to read it finds no room there.
#[test]
fn on_a_full_disk_commands_read_what_can_be_read_and_say_what_is_short() {
    let story = Story::new();
    let disk = Disk::mount(story.place.dir.path().join("db"));
    let daemon = story.start();
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    disk.fill();
    for command in [&["incidents"][..], &["db", "check"], &["history", "web/c0"], &["outbox"]] {
        let asked = story.place.run(command);
        assert_eq!(asked.status.code(), Some(0), "{command:?}: {}", String::from_utf8_lossy(&asked.stderr));
    }
    disk.free();
    let daemon = story.start();
    daemon.kill();
    fs::remove_file(disk.0.join("bongsu.db-shm")).expect("it was killed");
    disk.fill();
    let said = story.place.run(&["history", "web/c0"]);
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.is_empty() || said.contains("no space is left for the database"), "{said}");
    disk.free();
}

#[test]
fn a_command_without_descriptors_says_so() {
    let story = Story::new();
    let daemon = story.start();
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    // As many as it needs before it opens the database, and none left for that: how many depends on the machine.
    let said = (4..24).map(|most| {
        let script = format!("ulimit -n {most}; exec {BONGSU} db check --config {}", story.place.config().display());
        let asked = Command::new("sh").args(["-c", &script]).output().expect("a shell");
        String::from_utf8_lossy(&asked.stderr).into_owned()
    });
    let said: Vec<_> = said.collect();
    let named = said.iter().any(|said| said.contains("no file descriptor is left to open the database"));
    assert!(named, "{said:#?}");
    assert!(!said.iter().any(|said| said.contains("check its owner")), "{said:#?}");
}

#[test]
fn a_crash_before_anything_could_be_written_tells_what_lasts_anew_under_another_key() {
    let story = Story::new();
    let disk = Disk::mount(story.place.dir.path().join("db"));
    let daemon = story.start();
    let filling = disk.keep_full();
    // Until then it may find room in what its reserve leaves, before that is taken as well.
    until("the reserve is taken as well", || daemon.log().contains("is given up") && disk.is_full());
    story.target.set(Answer::Status(503));
    until("the problem is told", || story.told("problem").0 == 1);
    daemon.kill();
    drop(filling);
    disk.free();
    assert_eq!(story.count("SELECT count(*) FROM incidents"), 0, "nobody wrote of it");
    // A receiver that knows the key must not take the message of what is found now for the one before.
    let daemon = story.place.start();
    until("the problem is told again", || story.told("problem") == (2, 2));
    story.target.set(Answer::Status(200));
    until("the recovery is told", || story.told("recovery").0 == 1);
    until("all is written", || story.count("SELECT count(*) FROM incidents WHERE state = 'closed'") == 1);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

/// strace on a running daemon, ended when dropped: then its system calls work again.
pub(super) struct Injection(Child);

impl Injection {
    pub(super) fn attach(daemon: &Daemon, dir: &Path, faults: &[String]) -> Self {
        let log = dir.join("strace.log");
        let mut command = Command::new("strace");
        command.args(["-f", "-o", "/dev/null", "-p", &daemon.id().to_string()]);
        for fault in faults {
            command.args(["-e", &format!("inject={fault}")]);
        }
        let calls: Vec<&str> = faults.iter().filter_map(|f| f.split(':').next()).collect();
        command.args(["-e", &format!("trace={}", calls.join(","))]);
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).expect("own directory"));
        let child = child.spawn().expect("strace is installed (Debian package strace)");
        until("strace is attached", || fs::read_to_string(&log).unwrap_or_default().contains("attached"));
        Self(child)
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        // Asked to end it detaches; killed it would take the daemon's threads with it.
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

/// An outage and its end while one system call fails, each time with a daemon of its own.
fn through(faults: impl IntoIterator<Item = String>) {
    for fault in faults {
        let story = Story::new();
        let daemon = story.start();
        let injection = Injection::attach(&daemon, story.place.dir.path(), std::slice::from_ref(&fault));
        story.outage(1);
        drop(injection);
        story.all_is_written(1);
        assert_eq!(daemon.stop(), Some(0), "{fault}: {}", daemon.log());
        println!("{fault}: {} times noticed", times(&daemon, "the store does not write"));
    }
}

#[test]
fn a_sync_that_fails_anywhere_in_an_incidents_life_neither_loses_nor_repeats_it() {
    // SQLite syncs by fsync or by fdatasync, as it was built.
    through([1, 2, 3, 4, 5, 6, 8].map(|n| format!("fsync,fdatasync:error=EIO:when={n}")));
}

#[test]
fn a_write_that_fails_anywhere_in_an_incidents_life_neither_loses_nor_repeats_it() {
    let single = [1, 2, 3, 4, 6, 9, 14, 21, 33].map(|n| format!("pwrite64:error=EIO:when={n}"));
    through(single.into_iter().chain(["pwrite64:error=EIO:when=2+7".into(), "pread64:error=EIO:when=1..60".into()]));
}

#[test]
fn a_disk_that_is_full_for_a_moment_neither_loses_nor_repeats_an_incident() {
    let single = [1, 2, 5, 11, 17].map(|n| format!("pwrite64:error=ENOSPC:when={n}"));
    through(single.into_iter().chain(["pwrite64:error=ENOSPC:when=3..40".into()]));
}

#[test]
fn a_file_system_that_became_read_only_is_gone_through_in_memory() {
    let story = Story::new();
    let daemon = story.start();
    let read_only = ["pwrite64", "write", "ftruncate"].map(|call| match call {
        // Plain writes go to sockets as well; the database's own are positioned.
        "write" => "fallocate:error=EROFS:when=1+".to_owned(),
        other => format!("{other}:error=EROFS:when=1+"),
    });
    let injection = Injection::attach(&daemon, story.place.dir.path(), &read_only);
    story.outage(1);
    story.outage(2);
    let trouble = story.status()["store"].clone();
    assert!(trouble["error"].is_string() && trouble["telling"] == true, "{trouble}");
    assert_eq!(story.count("SELECT count(*) FROM incidents"), 0, "nothing could be written");
    drop(injection);
    until("it writes again", || daemon.log().contains("the store writes again"));
    story.all_is_written(2);
    assert!(times(&daemon, "the store does not write; it is tried again") <= 2, "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

#[test]
fn another_program_that_holds_the_database_delays_no_alert() {
    let story = Story::new();
    let daemon = story.start();
    let other = Connection::open(story.db()).expect("own database");
    other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let locked = std::time::Instant::now();
    story.outage(1);
    std::thread::sleep(Duration::from_secs(60).saturating_sub(locked.elapsed()));
    story.outage(2);
    assert!(daemon.log().contains("another program keeps the database"), "{}", daemon.log());
    assert_eq!(story.status()["daemon"], true);
    other.execute_batch("ROLLBACK").expect("given back");
    until("it writes again", || daemon.log().contains("the store writes again"));
    story.all_is_written(2);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

#[test]
fn a_file_damaged_under_a_running_daemon_ends_neither_watching_nor_telling() {
    let story = Story::new();
    let daemon = story.start();
    until("something is stored", || story.count("SELECT count(*) FROM observations") > 2);
    // What the daemon holds in memory of the file is stale once another program has written to it.
    let other = Connection::open(story.db()).expect("own database");
    other.execute("UPDATE meta SET value = value WHERE key = 'created_at'", []).expect("written");
    let _ = other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    let mut bytes = fs::read(story.db()).expect("own file");
    for byte in bytes.iter_mut().skip(4_096).step_by(7) {
        *byte ^= 0x5A;
    }
    fs::write(story.db(), &bytes).expect("own file");
    drop(other);
    story.outage(1);
    story.outage(2);
    assert!(daemon.log().contains("is damaged"), "{}", daemon.log());
    let status = story.status();
    assert!(status["store"]["error"].as_str().is_some_and(|e| e.contains("is damaged")), "{status}");
    assert_eq!((story.told("problem"), story.told("recovery")), ((2, 2), (2, 2)));
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    assert!(daemon.log().contains("these changes are lost"), "{}", daemon.log());
    let daemon = story.place.spawn();
    until("it does not start with such a file", || !daemon.alive());
    assert!(daemon.log().contains("restore a backup"), "{}", daemon.log());
}

#[test]
fn too_few_descriptors_make_nothing_down_and_end_nothing() {
    let story = Story::with_checks(12);
    let log = story.place.dir.path().join("daemon.log");
    let output = File::create(&log).expect("own directory");
    let mut child = Command::new("prlimit")
        .args(["--nofile=40", BONGSU, "run", "--config"])
        .arg(story.place.config())
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("a file can be shared"))
        .stderr(output)
        .spawn()
        .expect("prlimit exists (Debian package util-linux)");
    let told = || fs::read_to_string(&log).unwrap_or_default();
    until("the checks are up", || told().contains("watching") && story.status()["counts"]["up"] == 12);
    // Whoever connects and says nothing takes a descriptor each, until there is none.
    let socket = story.place.dir.path().join("bongsu.sock");
    let held: Vec<UnixStream> = (0..60).map_while(|_| UnixStream::connect(&socket).ok()).collect();
    assert!(held.len() >= 40, "{}", held.len());
    until("attempts cannot tell", || {
        story.count("SELECT count(*) FROM observations WHERE outcome = 'unknown'") >= 12 && told().contains("unknown")
            || told().contains("cannot tell whether it works")
    });
    let reasons = story.query("SELECT DISTINCT reason FROM observations WHERE outcome = 'unknown'");
    assert!(reasons.iter().any(|r| r.contains("no file descriptor left")), "{reasons:?}");
    assert_eq!(story.count("SELECT count(*) FROM observations WHERE outcome = 'failed'"), 0, "{}", told());
    assert_eq!(story.hook.accepted().len(), 0, "{}", told());
    drop(held);
    until("all are up again", || story.status()["counts"]["up"] == 12);
    story.target.set(Answer::Status(503));
    until("the problem is told", || story.told("problem").0 == 1);
    assert!(child.try_wait().expect("own child").is_none(), "{}", told());
    let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert_eq!(child.wait().expect("own child").code(), Some(0), "{}", told());
}
