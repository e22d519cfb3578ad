//! The daemon without processor time, without a name server, on a disk that may not be written, and one too many: it
//! declares nothing that is not so, and goes on by itself.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::scarcity::{Disk, Story, times};
use crate::harness::{
    self,
    daemon::{Place, until},
    free_udp_port,
    http::{Answer, Web},
};

#[test]
fn a_process_that_is_stopped_again_and_again_declares_nothing() {
    let story = Story::with_checks(6);
    // So that there nearly always is an attempt in flight.
    story.target.set_delay(Duration::from_millis(400));
    let daemon = story.start();
    for _ in 0..8 {
        daemon.signal("STOP");
        std::thread::sleep(Duration::from_millis(2_300));
        daemon.signal("CONT");
        // Longer than a suspicion takes to be confirmed.
        std::thread::sleep(Duration::from_millis(250));
    }
    story.target.set_delay(Duration::ZERO);
    story.until_up();
    let excused = "FROM observations WHERE outcome = 'unknown' AND reason LIKE 'the agent itself stood still for %'";
    until("it is said of attempts", || story.count(&format!("SELECT count(*) {excused}")) > 0);
    let failed = story.query("SELECT reason FROM observations WHERE outcome = 'failed'");
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(story.hook.accepted().len(), 0, "{}", daemon.log());
    assert_eq!(times(&daemon, "this process stood still"), 1, "once a minute:\n{}", daemon.log());
    story.outage(1);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

/// Programs that take all of one processor.
struct Busy(Vec<Child>);

impl Busy {
    fn on(processor: &str, how_many: usize) -> Self {
        let one = |_| {
            let mut command = Command::new("taskset");
            command.args(["-c", processor, "nice", "-n", "10", "sh", "-c", "while :; do :; done"]);
            command.stdin(Stdio::null()).spawn().expect("taskset exists (Debian package util-linux)")
        };
        Self((0..how_many).map(one).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn a_process_that_gets_hardly_any_processor_time_declares_nothing() {
    let story = Story::with_checks(10);
    // Only what others leave of one processor, and only when they leave some.
    let daemon = story.place.spawn_under(&["taskset", "-c", "0", "chrt", "--idle", "0"], &[]);
    until("it watches", || daemon.log().contains("watching"));
    story.until_up();
    let busy = Busy::on("0", 6);
    std::thread::sleep(Duration::from_secs(12));
    drop(busy);
    story.until_up();
    assert_eq!(story.hook.accepted().len(), 0, "{}", daemon.log());
    let outcomes = story.query("SELECT outcome || ' ' || count(*) FROM observations GROUP BY outcome");
    println!("{outcomes:?}");
    story.outage(1);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

/// A name server that knows every name as an address of this machine, or hangs.
struct Names {
    address: SocketAddr,
    hangs: Arc<AtomicBool>,
}

impl Names {
    fn start() -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_udp_port()));
        let socket = UdpSocket::bind(address).expect("the port is free");
        let hangs = Arc::new(AtomicBool::new(false));
        let hung = hangs.clone();
        std::thread::spawn(move || {
            let mut message = [0; 1_500];
            while let Ok((read, peer)) = socket.recv_from(&mut message) {
                if !hung.load(Ordering::Acquire)
                    && let Some(answer) = answer(&message[..read])
                {
                    let _ = socket.send_to(&answer, peer);
                }
            }
        });
        Self { address, hangs }
    }
}

/// RFC 1035, section 4.1: the question as it came, and for type A one record that points at it.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let name = question.get(12..)?.iter().position(|b| *b == 0)?;
    let end = 12 + name + 5;
    let is_a = question.get(end - 4..end - 2)? == [0, 1];
    let mut message = question.get(..end)?.to_vec();
    message[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    if is_a {
        message.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
    }
    Some(message)
}

#[test]
fn a_name_server_that_hangs_makes_nothing_down_and_stops_no_alert_that_needs_none() {
    let names = Names::start();
    let (by_name, by_address) = (Web::start(Answer::Status(200)), Web::start(Answer::Status(200)));
    let (hook, far) = (Web::start(Answer::Status(200)), Web::start(Answer::Status(200)));
    let config = format!(
        "channels:\n  hook: {{ webhook: {{ url: \"{}\" }} }}\n  far: {{ webhook: {{ url: \"http://hook.test:{}/\" }} }}\n\
         routes: [ {{ steps: [ {{ after: 0s, to: [hook, far] }} ] }} ]\n",
        hook.url("/"),
        far.address().port()
    );
    let checks = format!(
        "service: web\ndefaults: {{ every: 1s, timeout: 1s, outage: {{ failures: 2, confirm_every: 100ms, recoveries: 2 }},\n\
         \x20 degraded: {{ slow: off, loss: off, duplicates: off }} }}\nchecks:\n\
         \x20 - {{ name: named, http: {{ url: \"http://web.test:{}/\" }} }}\n\
         \x20 - {{ name: plain, http: {{ url: \"{}\" }} }}\n",
        by_name.address().port(),
        by_address.url("/")
    );
    let place = Place::with_agent(&format!(", nameservers: [\"{}\"]", names.address), &config, &checks);
    let daemon = place.start();
    until("both are up", || place.json(&["status"])["counts"]["up"] == 2);

    names.hangs.store(true, Ordering::Release);
    until("it cannot tell", || place.query("SELECT state FROM checks WHERE check_name = 'web/named'") == ["unknown"]);
    by_address.set(Answer::Status(503));
    until("the problem is told by address", || !hook.accepted().is_empty());
    until("the other receiver is tried", || {
        place.query("SELECT count(*) FROM outbox WHERE channel = 'far' AND attempts > 0") == ["1"]
    });
    assert_eq!(far.accepted().len(), 0, "its address cannot be found");
    let reasons = place.query("SELECT DISTINCT reason FROM observations WHERE outcome = 'unknown'");
    assert!(reasons.iter().all(|r| r.contains(&format!("name server {}", names.address))), "{reasons:?}");
    assert!(!reasons.is_empty());

    names.hangs.store(false, Ordering::Release);
    until("the other receiver is told", || !far.accepted().is_empty());
    by_address.set(Answer::Status(200));
    until("all are up", || place.json(&["status"])["counts"]["up"] == 2);
    until("the end is told to both", || {
        [&hook, &far].iter().all(|h| h.accepted().last().is_some_and(|r| r.json()["kind"] == "recovery"))
    });
    // At most the one whose lookup ended as the name server woke, so that it seemed to know other names only.
    let failed = place.query("SELECT reason FROM observations WHERE check_name = 'web/named' AND outcome = 'failed'");
    assert!(failed.len() <= 1 && failed.iter().all(|r| r.contains("though it answers other questions")), "{failed:?}");
    assert_eq!(place.query("SELECT count(*) FROM incidents"), ["1"]);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

#[test]
fn a_disk_that_may_not_be_written_is_named_at_start_and_still_read() {
    let story = Story::new();
    let disk = Disk::mount(story.place.dir.path().join("db"));
    let daemon = story.start();
    story.outage(1);
    story.all_is_written(1);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    let remount = |how: &str| {
        let options = format!("remount,{how}");
        let status = Command::new("mount").args(["-o", &options]).arg(&disk.0).status();
        assert!(status.expect("mount exists").success(), "{options}");
    };
    remount("ro");
    let daemon = story.place.spawn();
    until("it does not start", || !daemon.alive());
    let log = daemon.log();
    assert!(log.contains("cannot be written") && log.contains("mounted read-only"), "{log}");
    let incidents = story.place.run(&["incidents", "list"]);
    assert!(String::from_utf8_lossy(&incidents.stdout).contains("#1"), "{incidents:?}");
    assert_eq!(story.place.json(&["db", "check"])["ok"], true);
    remount("rw");
    let daemon = story.start();
    story.outage(2);
    story.all_is_written(2);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

#[test]
fn a_second_daemon_on_the_same_socket_asks_and_tells_nothing() {
    let first = Story::new();
    let daemon = first.start();
    let (target, hook) = (Web::start(Answer::Status(503)), Web::start(Answer::Status(200)));
    let dir = harness::scratch();
    let socket = first.place.dir.path().join("bongsu.sock");
    let config = format!(
        "agent: {{ name: test-2, socket: \"{}\" }}\nstore: {{ path: bongsu.db }}\n\
         channels: {{ hook: {{ webhook: {{ url: \"{}\" }} }} }}\n\
         routes: [ {{ steps: [ {{ after: 0s, to: [hook] }} ] }} ]\n",
        socket.display(),
        hook.url("/")
    );
    let checks = format!(
        "service: web\ndefaults: {{ every: 1s, timeout: 1s, outage: {{ failures: 1 }} }}\nchecks:\n{}",
        (0..50)
            .map(|n| format!("  - {{ name: c{n}, http: {{ url: \"{}\" }} }}\n", target.url("/")))
            .collect::<String>()
    );
    harness::write(dir.path(), "config.yaml", &config);
    harness::write(dir.path(), "checks/all.yaml", &checks);
    let second = Place { dir };
    let refused = second.spawn();
    until("it ends", || !refused.alive());
    assert!(refused.log().contains("another daemon answers on"), "{}", refused.log());
    assert_eq!((target.requests().len(), hook.requests().len()), (0, 0), "{}", refused.log());
    assert_eq!(first.status()["daemon"], true, "the first one still has its socket");
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}
