//! The daemon under systemd, whose place a datagram socket takes: what it is told and when (sd_notify(3)).

use std::{
    cell::RefCell,
    os::unix::net::UnixDatagram,
    time::{Duration, Instant},
};

use rusqlite::Connection;

use crate::harness::daemon::{Daemon, Place, WAIT_MAX, until};

/// The watchdog's limit.
pub(crate) const LIMIT: Duration = Duration::from_secs(2);

/// A check that fails, asked every second: so there is always something to write.
const CHECKS: &str = "service: mail\nchecks:\n  - name: front\n    every: 1s\n    outage: { failures: 1, recoveries: 1 }\n    \
                      tcp: { url: \"tcp://127.0.0.1:1\" }\n  - name: nightly\n    cron: \"0 0 4 1 1 *\"\n    \
                      tcp: { url: \"tcp://127.0.0.1:1\" }\n";

const CONFIG: &str = "channels:\n  drop: { email: { url: \"file:mail\", from: a@localhost, to: [b@localhost] } }\n\
                      routes:\n  - steps: [ { after: 0s, to: [drop] } ]\n";

/// systemd's end of the socket, and all that was told so far, with its time.
pub(crate) struct Systemd {
    socket: UnixDatagram,
    told: RefCell<Vec<(Instant, String)>>,
}

impl Systemd {
    /// Listens beside the configuration.
    pub(crate) fn new(place: &Place) -> Self {
        let socket = UnixDatagram::bind(place.dir.path().join("notify")).expect("own directory");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a socket has timeouts");
        Self { socket, told: RefCell::default() }
    }

    /// Starts the daemon as a service with a watchdog. `pid`: the process the watchdog is about.
    pub(crate) fn start(&self, place: &Place, pid: Option<&str>) -> Daemon {
        let path = place.dir.path().join("notify").display().to_string();
        let limit = LIMIT.as_micros().to_string();
        let mut variables = vec![("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", &limit)];
        variables.extend(pid.map(|pid| ("WATCHDOG_PID", pid)));
        place.spawn_with(&variables)
    }

    /// Takes what came; all messages so far.
    fn told(&self) -> Vec<(Instant, String)> {
        let mut buffer = [0; 4_096];
        let mut told = self.told.borrow_mut();
        while let Ok(read) = self.socket.recv(&mut buffer) {
            told.push((Instant::now(), String::from_utf8_lossy(&buffer[..read]).into_owned()));
        }
        told.clone()
    }

    /// Waits for a message with all of these lines (or beginnings of lines), after the first `after` messages; its
    /// position.
    fn wait(&self, after: usize, lines: &[&str]) -> usize {
        let begun = Instant::now();
        loop {
            let told = self.told();
            let fits = |text: &str| lines.iter().all(|line| text.lines().any(|l| l.starts_with(line)));
            if let Some(at) = told.iter().skip(after).position(|(_, text)| fits(text)) {
                return after + at;
            }
            assert!(begun.elapsed() < WAIT_MAX, "systemd was not told {lines:?}, but {told:#?}");
        }
    }

    /// Watches for so long; the longest time between two meals of the watchdog meanwhile, and how many there were.
    pub(crate) fn watch(&self, span: Duration) -> (Duration, usize) {
        let begun = Instant::now();
        while begun.elapsed() < span {
            self.told();
        }
        let told = self.told();
        let meals = told.iter().filter(|(at, text)| text == "WATCHDOG=1\n" && *at >= begun).map(|(at, _)| *at);
        let mut all: Vec<Instant> = vec![begun];
        all.extend(meals);
        let count = all.len() - 1;
        all.push(Instant::now());
        (all.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default(), count)
    }
}

#[test]
fn systemd_is_told_what_it_must_know() {
    let place = Place::new(CONFIG, CHECKS);
    let systemd = Systemd::new(&place);
    let daemon = systemd.start(&place, None);

    let ready = systemd.wait(0, &["READY=1", "STATUS=2 checks"]);
    assert!(systemd.told()[..ready].iter().all(|(_, text)| !text.contains("WATCHDOG")), "{:?}", systemd.told());
    // By then it answers, and its checks are scheduled.
    assert_eq!(place.json(&["status"])["checks"].as_array().map(Vec::len), Some(2));
    systemd.wait(ready, &["STATUS=2 checks, 1 down"]);

    let (gap, meals) = systemd.watch(LIMIT * 3);
    assert!(gap < LIMIT, "the watchdog would have bitten: {gap:?}");
    assert!((3..=7).contains(&meals), "{meals} meals in {:?}, one each half of the limit", LIMIT * 3);

    // A database that another program has locked is waited for, however long; nobody is killed for that.
    let locker = Connection::open(place.dir.path().join("bongsu.db")).expect("the database is there");
    locker.busy_timeout(Duration::from_secs(20)).expect("a busy timeout");
    locker.execute_batch("BEGIN IMMEDIATE").expect("nobody else holds it for long");
    until("the store is refused", || daemon.log().contains("the store does not write; it is tried again"));
    let (gap, _) = systemd.watch(LIMIT * 3);
    assert!(gap < LIMIT, "the watchdog would have bitten: {gap:?}\n{}", daemon.log());
    // A reload is put off meanwhile, and made up for without another signal.
    let before = systemd.told().len();
    daemon.signal("HUP");
    let begun = systemd.wait(before, &["RELOADING=1", "MONOTONIC_USEC="]);
    let put_off = systemd.wait(begun, &["READY=1"]);
    assert!(daemon.log().contains("as soon as the store writes again, without a further reload"), "{}", daemon.log());
    assert!(!daemon.log().contains("configuration reloaded"), "{}", daemon.log());
    let (gap, _) = systemd.watch(LIMIT * 2);
    assert!(gap < LIMIT, "the watchdog would have bitten: {gap:?}\n{}", daemon.log());
    locker.execute_batch("ROLLBACK").expect("it held the lock");
    let begun = systemd.wait(put_off + 1, &["RELOADING=1"]);
    let reloaded = systemd.wait(begun, &["READY=1"]);
    assert!(daemon.log().contains("the store writes again"), "{}", daemon.log());
    assert_eq!(daemon.log().matches("configuration reloaded").count(), 1, "{}", daemon.log());

    // A configuration with mistakes is reloaded as well, as far as systemd is concerned: the service goes on.
    crate::harness::write(place.dir.path(), "checks/all.yaml", "servise: mail");
    daemon.signal("HUP");
    let refused = systemd.wait(reloaded + 1, &["READY=1", "STATUS=2 checks"]);
    assert!(daemon.log().contains("the new configuration is not used"), "{}", daemon.log());

    let begun = Instant::now();
    daemon.signal("TERM");
    systemd.wait(refused, &["STOPPING=1"]);
    until("the daemon ends", || !daemon.alive());
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}

#[test]
fn a_stop_does_not_wait_for_a_reload_that_the_store_holds_up() {
    let place = Place::new(CONFIG, CHECKS);
    let systemd = Systemd::new(&place);
    let daemon = systemd.start(&place, None);
    systemd.wait(0, &["READY=1"]);
    let locker = Connection::open(place.dir.path().join("bongsu.db")).expect("the database is there");
    locker.busy_timeout(Duration::from_secs(20)).expect("a busy timeout");
    locker.execute_batch("BEGIN IMMEDIATE").expect("nobody else holds it for long");
    until("the store is refused", || daemon.log().contains("the store does not write; it is tried again"));
    let before = systemd.told().len();
    daemon.signal("HUP");
    systemd.wait(before, &["RELOADING=1"]);
    // A moment later it waits for a try to write, or has been put off; the stop waits for neither.
    let begun = Instant::now();
    daemon.signal("TERM");
    systemd.wait(before, &["STOPPING=1"]);
    until("the daemon ends", || !daemon.alive());
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}\n{}", begun.elapsed(), daemon.log());
}

#[test]
fn a_stop_does_not_wait_for_a_start_that_the_store_holds_up() {
    let place = Place::new(CONFIG, CHECKS);
    assert_eq!(place.start().stop(), Some(0));
    let (database, mark) = (place.dir.path().join("bongsu.db"), place.dir.path().join("bongsu.db.lock"));
    std::fs::remove_file(&mark).expect("the daemon has left it");
    let locker = Connection::open(database).expect("the database is there");
    locker.execute_batch("BEGIN EXCLUSIVE").expect("nobody else holds it");
    let systemd = Systemd::new(&place);
    let daemon = systemd.start(&place, None);
    until("it opens the store", || mark.exists());
    daemon.signal("TERM");
    systemd.wait(0, &["STOPPING=1"]);
    until("the daemon ends", || !daemon.alive());
    assert_eq!(daemon.code(), Some(0), "it was told to stop, and has not failed: {}", daemon.log());
    assert!(systemd.told().iter().all(|(_, text)| !text.contains("READY=1")), "{:?}", systemd.told());
    assert!(!daemon.log().contains("watching"), "{}", daemon.log());
}

#[test]
fn a_watchdog_of_another_process_is_not_fed() {
    let place = Place::new("", CHECKS);
    let systemd = Systemd::new(&place);
    let daemon = systemd.start(&place, Some("1"));
    systemd.wait(0, &["READY=1"]);
    assert_eq!(systemd.watch(LIMIT * 2).1, 0, "{:?}", systemd.told());
    assert_eq!(daemon.stop(), Some(0));
}
