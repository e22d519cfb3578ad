//! The daemon on a disk whose writes hang: the system call that makes a commit safe does not return for a while, by
//! strace's injection, or the file system is frozen under it. Nobody waits for it but the thread that called.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::scarcity::{Injection, Story, times};
use crate::{
    harness::{
        self,
        daemon::{Daemon, until},
        http::Answer,
    },
    service::{LIMIT, Systemd},
};

/// Said once for each hang.
const SAID: &str = "the disk does not answer";

/// Said when it is over.
const OVER: &str = "the store writes again; what was decided meanwhile is written";

/// By then a hang must have been noticed: it begins with the next attempt, a second after strace has come.
const NOTICED_WITHIN: Duration = Duration::from_secs(15);

/// The next sync takes so much longer and then does what it should, or fails.
fn hang(story: &Story, daemon: &Daemon, span: Duration, then: &str) -> Injection {
    // SQLite syncs by fsync or by fdatasync, as it was built.
    let fault = format!("fsync,fdatasync:delay_enter={}{then}:when=1", span.as_micros());
    Injection::attach(daemon, story.place.dir.path(), &[fault])
}

/// Waits until a hang is noticed that began no earlier than now; when that was.
fn noticed(daemon: &Daemon) -> Instant {
    let begun = Instant::now();
    until("the hang is noticed", || daemon.log().contains(SAID));
    assert!(begun.elapsed() < NOTICED_WITHIN, "it took {:?}:\n{}", begun.elapsed(), daemon.log());
    begun
}

#[test]
fn a_write_that_hangs_delays_neither_detection_nor_alerts_nor_answers() {
    const HANG: Duration = Duration::from_secs(40);
    let story = Story::new();
    let daemon = story.start();
    let begun = Instant::now();
    let injection = hang(&story, &daemon, HANG, "");
    // The next attempt is written a second later at the latest.
    std::thread::sleep(Duration::from_secs(3));
    story.target.set(Answer::Status(503));
    until("the problem is told", || story.told("problem").0 == 1);
    assert!(begun.elapsed() < HANG, "it was told while the write hung: {:?}\n{}", begun.elapsed(), daemon.log());
    let asked = Instant::now();
    let status = story.status();
    assert!(asked.elapsed() < Duration::from_secs(5), "it answers itself: {:?}", asked.elapsed());
    assert_eq!((&status["daemon"], &status["counts"]["down"]), (&true.into(), &1.into()), "{status}");
    assert_eq!(status["incidents"][0]["id"], 1, "{status}");
    let why = status["store"]["error"].as_str().unwrap_or_default();
    assert!(why.contains(SAID) && status["store"]["telling"] == true, "{status}");
    assert!(status["store"]["waiting"].as_u64() > Some(1), "{status}");
    let text = String::from_utf8_lossy(&story.place.run(&["status"]).stdout).into_owned();
    assert!(text.contains("the store does not write since") && text.contains(SAID) && text.contains("#1"), "{text}");
    let acknowledged = story.place.run(&["incidents", "ack", "1", "--note", "on it"]);
    let warned = String::from_utf8_lossy(&acknowledged.stderr).into_owned();
    assert_eq!(acknowledged.status.code(), Some(0), "{warned}");
    assert!(warned.contains("should bongsu end before, it is lost"), "{warned}");
    daemon.signal("HUP");
    until("a reload is put off", || {
        daemon.log().contains("as soon as the store writes again, without a further reload")
    });
    story.target.set(Answer::Status(200));
    until("the recovery is told", || story.told("recovery").0 == 1);
    assert!(!daemon.log().contains(OVER), "{}", daemon.log());
    assert!(begun.elapsed() < HANG, "all of it while the write hung: {:?}\n{}", begun.elapsed(), daemon.log());
    assert_eq!(story.count("SELECT count(*) FROM incidents"), 0, "nothing of it is written");

    until("it writes again", || daemon.log().contains(OVER));
    assert!(begun.elapsed() > HANG, "did it hang? {:?}\n{}", begun.elapsed(), daemon.log());
    drop(injection);
    until("the reload is made up for", || daemon.log().contains("configuration reloaded"));
    story.all_is_written(1);
    assert_eq!(story.count("SELECT count(*) FROM incident_timeline WHERE entry = 'acknowledged'"), 1);
    assert!(story.status()["store"].is_null());
    assert_eq!(times(&daemon, "the store does not write"), 1, "said once:\n{}", daemon.log());
    assert_eq!(times(&daemon, "alerts are sent before they are recorded"), 1, "{}", daemon.log());
    let gaps = "SELECT count(*) FROM observations WHERE outcome = 'unknown'";
    assert_eq!(story.count(gaps), 0, "it was not the agent that stood still");
    story.outage(2);
    story.all_is_written(2);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

#[test]
fn a_write_that_hangs_and_fails_then_is_made_anew() {
    let story = Story::new();
    let daemon = story.start();
    let injection = hang(&story, &daemon, Duration::from_secs(15), ":error=EIO");
    noticed(&daemon);
    story.outage(1);
    until("it is said what it came to", || daemon.log().contains("the disk failed under the database"));
    drop(injection);
    until("it writes again", || daemon.log().contains(OVER));
    story.all_is_written(1);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

/// A file system in a file, so that it can be frozen: then whoever writes to it hangs in the kernel, and cannot even be
/// killed, as on a disk that is gone.
struct Ice(PathBuf);

impl Ice {
    /// `None` on a machine without loop devices, as some containers are.
    fn mount(dir: &Path, at: &Path) -> Option<Self> {
        let found = Command::new("losetup").arg("--find").output();
        if !found.is_ok_and(|found| found.status.success()) {
            return None;
        }
        let image = dir.join("image");
        File::create(&image).and_then(|file| file.set_len(64 << 20)).expect("own directory");
        run(Command::new("mkfs.ext4").arg("-q").arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(at));
        Some(Self(at.to_owned()))
    }

    /// Freezes it until what is returned is dropped, or the test is gone in another way.
    fn freeze(&self) -> Frozen {
        run(Command::new("fsfreeze").arg("-f").arg(&self.0));
        // Whoever ends the test with all its group leaves this one, which then reads the end of its input.
        let thaw = "cat; exec fsfreeze -u \"$0\"";
        let guard = Command::new("setsid").args(["sh", "-c", thaw]).arg(&self.0).stdin(Stdio::piped()).spawn();
        Frozen(guard.expect("setsid exists (Debian package util-linux)"))
    }
}

impl Drop for Ice {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

struct Frozen(Child);

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
    assert!(status.success(), "{command:?}; these tests need root and a loop device");
}

/// Runs a command that must answer soon; both of its outputs.
fn answer(story: &Story, words: &[&str]) -> String {
    let asked = Instant::now();
    let output = story.place.run(words);
    assert!(asked.elapsed() < Duration::from_secs(5), "{words:?} took {:?}", asked.elapsed());
    assert!(output.status.success(), "{words:?}: {output:?}");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_frozen_file_system_stops_neither_the_daemon_nor_commands_nor_a_stop() {
    let story = Story::new();
    let Some(ice) = Ice::mount(story.place.dir.path(), &story.place.dir.path().join("db")) else {
        eprintln!("left out: there is no loop device here, and so no file system to be frozen");
        return;
    };
    let daemon = story.start();
    story.target.set(Answer::Status(503));
    until("the problem is told", || story.told("problem").0 == 1);
    until("it is written", || story.count("SELECT count(*) FROM outbox WHERE state = 'delivered'") == 1);
    let frozen = ice.freeze();
    noticed(&daemon);
    // What is stored already can be asked for as well, although the file cannot be read safely.
    let text = answer(&story, &["status"]);
    assert!(text.contains("the store does not write since") && text.contains(SAID) && text.contains("#1"), "{text}");
    story.target.set(Answer::Status(200));
    until("the recovery is told", || story.told("recovery").0 == 1);
    story.outage(2);
    let text = answer(&story, &["incidents", "list"]);
    assert!(text.contains("#1") && text.contains("#2") && text.contains("only the open incidents are known"), "{text}");
    let copy = story.place.dir.path().join("copy.db").display().to_string();
    for words in
        [&["outbox"][..], &["history", "web/front"], &["db", "check"], &["db", "backup", &copy], &["db", "export"]]
    {
        let asked = Instant::now();
        let refused = story.place.run(words);
        assert!(asked.elapsed() < Duration::from_secs(5), "{words:?} took {:?}", asked.elapsed());
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(1) && why.contains("the database is not read"), "{words:?}: {refused:?}");
    }

    let begun = Instant::now();
    daemon.signal("TERM");
    // A thread that hangs in the kernel keeps its process from being gone, as it does for any process; all others end.
    let stat = || fs::read_to_string(format!("/proc/{}/stat", daemon.id())).unwrap_or_default();
    until("the daemon ends", || !daemon.alive() || stat().contains(") Z "));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}\n{}", begun.elapsed(), daemon.log());
    assert!(daemon.alive(), "its thread cannot have ended: was the file system frozen?");
    let log = daemon.log();
    assert!(log.contains("stopped before the store wrote again") && log.contains("these changes are lost"), "{log}");
    drop(frozen);
    until("the process is gone", || !daemon.alive());
    let daemon = story.start();
    assert_eq!(story.place.json(&["db", "check"])["ok"], true);
    until("what was stored of the incident is seen to its end", || {
        story.query("SELECT state FROM incidents WHERE id = 1").iter().any(|state| state.contains("closed"))
    });
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

#[test]
fn a_reload_whose_renaming_hangs_is_put_off_and_loses_no_history() {
    let story = Story::new();
    let (dir, url) = (story.place.dir.path(), story.target.url("/"));
    let checks = |name: &str, more: &str| {
        let check = format!("  - {{ name: {name}, every: 1h, timeout: 1s, http: {{ url: \"{url}\" }}{more} }}\n");
        harness::write(dir, "checks/all.yaml", &format!("service: web\nchecks:\n{check}"));
    };
    checks("c0", "");
    let daemon = story.start();
    until("its first attempt is written", || story.count("SELECT count(*) FROM observations") == 1);
    // Longer than a new plan waits. Nothing but the renaming is to be written now.
    let injection = hang(&story, &daemon, Duration::from_secs(25), "");
    checks("c9", ", formerly: c0");
    daemon.signal("HUP");
    until("it is put off", || daemon.log().contains("without a further reload: the disk does not answer"));
    assert!(daemon.log().contains("reading from the database for a new configuration"), "{}", daemon.log());
    until("it is made up for", || daemon.log().contains("configuration reloaded"));
    drop(injection);
    let of = |check: &str| story.count(&format!("SELECT count(*) FROM observations WHERE check_name = '{check}'"));
    // The old configuration was in force meanwhile: the check was asked under its old name.
    until("all history has the new name", || of("web/c9") >= 2);
    assert_eq!(of("web/c0"), 0, "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

#[test]
fn the_watchdog_is_fed_however_long_a_write_hangs() {
    // Longer than any part that is watched may be silent, with the time a loaded machine is given on top.
    const HANG: Duration = Duration::from_secs(95);
    let story = Story::new();
    let systemd = Systemd::new(&story.place);
    let daemon = systemd.start(&story.place, None);
    until("it watches", || daemon.log().contains("watching"));
    story.until_up();
    let injection = hang(&story, &daemon, HANG, "");
    let begun = noticed(&daemon);
    let (gap, _) = systemd.watch((HANG - Duration::from_secs(5)).saturating_sub(begun.elapsed()));
    assert!(gap < LIMIT, "the watchdog would have bitten: {gap:?}\n{}", daemon.log());
    assert!(!daemon.log().contains("stuck"), "{}", daemon.log());
    until("it writes again", || daemon.log().contains(OVER));
    drop(injection);
    story.outage(1);
    story.all_is_written(1);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}
