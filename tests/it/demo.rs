//! The demo as a newcomer runs it: the whole path, from a broken broker to the mail about its recovery.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::harness;

/// The demo's own limit is half of this; the rest is for a busy machine.
const DEMO_MAX: Duration = Duration::from_secs(100);

/// Starts the demo in an empty directory for temporary files, and without anything else of ours.
fn start(dir: &std::path::Path, args: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_bongsu"))
        .arg("demo")
        .args(args)
        .env_clear()
        .env("TMPDIR", dir)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts")
}

/// Waits for its end; gives the exit code and both outputs.
fn finish(mut child: Child) -> (Option<i32>, String, String) {
    let begun = Instant::now();
    while child.try_wait().expect("own child").is_none() {
        if begun.elapsed() > DEMO_MAX {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().map(|mut pipe| pipe.read_to_string(&mut out).expect("UTF-8"));
    child.stderr.take().map(|mut pipe| pipe.read_to_string(&mut err).expect("UTF-8"));
    (child.wait().expect("own child").code(), out, err)
}

fn left_behind(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(dir).expect("own directory").map(|entry| entry.expect("an entry").path()).collect()
}

/// Replays a scenario and checks that the story was told in this order.
fn replay(scenario: &str, story: &[&str]) {
    let dir = harness::scratch();
    let (code, out, err) = finish(start(dir.path(), &["--for", "50s", "--scenario", scenario]));
    assert_eq!(code, Some(0), "{out}\n{err}");
    assert_eq!(err, "");
    assert!(!out.contains('\x1b'), "no colours in a pipe:\n{out}");
    let mut rest = out.as_str();
    for part in story {
        let Some((_, after)) = rest.split_once(part) else { panic!("`{part}` is not told, or too early:\n{out}") };
        rest = after;
    }
    assert_eq!(left_behind(dir.path()), Vec::<std::path::PathBuf>::new());
}

#[test]
fn silent_loss_is_found_told_and_healed() {
    let story = [
        "silent loss",
        "all is well",
        "IT BREAKS",
        "✗ lost",
        "noticed after",
        "INCIDENT #1  Demo messenger is down",
        "problem: Demo messenger",
        "REPAIRED",
        "OVER",
        "recovery: Demo messenger",
        "\n  1|down|",
        "✓✓✓✓✓✓✓✓✓✓✓✓✓✓✓✓✓✓✓✓✓✓✓✓✓✓✓✓",
        "✗✗✗✗✗✗✗✗✗✗",
        "Next:",
    ];
    replay("R9", &story);
}

#[test]
fn an_overload_of_logins_is_found_told_and_healed() {
    replay("R7", &["IT BREAKS", "INCIDENT #1  Demo messenger is down", "login", "REPAIRED", "OVER", "1|down|"]);
}

#[test]
fn duplicates_and_delay_are_found_told_and_healed() {
    replay(
        "R8",
        &["IT BREAKS", "! late", "INCIDENT #1  Demo messenger is degraded", "REPAIRED", "OVER", "1|degraded|"],
    );
}

#[test]
fn a_login_that_fails_is_found_told_and_healed() {
    replay("r5", &["IT BREAKS", "✗ refused", "INCIDENT #1  Demo messenger is down", "login", "REPAIRED", "OVER"]);
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    for signal in ["INT", "TERM", "HUP"] {
        let dir = harness::scratch();
        let mut child = start(dir.path(), &[]);
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        while !line.contains("all is well") {
            line.clear();
            assert_ne!(out.read_line(&mut line).expect("UTF-8"), 0, "it ended before it began");
        }
        assert_eq!(left_behind(dir.path()).len(), 1, "it works in one directory");
        let status = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
        assert!(status.expect("kill exists").success());
        let (code, _, err) = finish(child);
        assert_eq!((code, err.as_str()), (Some(1), ""), "{signal}");
        assert_eq!(left_behind(dir.path()), Vec::<std::path::PathBuf>::new(), "{signal}");
    }
}

#[test]
fn wrong_arguments_are_refused_at_once() {
    let dir = harness::scratch();
    let table = [
        (["--scenario", "R99"], "there is no scenario `R99`; there are R9 (silent loss)"),
        (["--for", "5s"], "--for 5s: a demo takes from 30s to 1h"),
        (["--for", "2h"], "--for 2h: a demo takes from 30s to 1h"),
        (["--for", "50"], "with a unit"),
    ];
    for (args, words) in table {
        let (code, out, err) = finish(start(dir.path(), &args));
        assert_eq!((code, out.as_str()), (Some(2), ""), "{args:?}");
        assert!(err.contains(words), "{args:?}: {err}");
    }
}
