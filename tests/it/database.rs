//! `bongsu db` beside a running daemon and without one, and files that are damaged.

use std::fs;

use crate::harness::{
    daemon::{Place, until},
    http::{Answer, Web},
};

fn place(target: &Web) -> Place {
    let checks = format!(
        "service: web\ndefaults: {{ every: 1s, timeout: 1s, outage: {{ failures: 2, confirm_every: 100ms }} }}\n\
         checks: [ {{ name: front, http: {{ url: \"{0}\" }} }}, {{ name: back, http: {{ url: \"{0}\" }} }} ]\n",
        target.url("/")
    );
    Place::new("", &checks)
}

/// One check, told to a webhook.
fn told_place(target: &Web, hook: &Web) -> Place {
    let config = format!(
        "channels: {{ hook: {{ webhook: {{ url: \"{}\" }} }} }}\n\
         routes: [ {{ steps: [ {{ after: 0s, to: [hook] }} ] }} ]\n",
        hook.url("/")
    );
    let checks = format!(
        "service: web\ndefaults: {{ every: 1s, timeout: 1s, outage: {{ failures: 2, confirm_every: 100ms }} }}\n\
         checks: [ {{ name: front, http: {{ url: \"{}\" }} }} ]\n",
        target.url("/")
    );
    Place::new(&config, &checks)
}

fn text(output: &std::process::Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("ended by itself"), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_database_is_checked_copied_and_exported_beside_its_daemon() {
    let target = Web::start(Answer::Status(503));
    let place = place(&target);
    let daemon = place.start();
    until("there is an incident", || place.query("SELECT count(*) FROM incidents") == ["1"]);
    until("both checks were asked again", || place.query("SELECT count(*) >= 4 FROM observations") == ["1"]);
    let checked = place.json(&["db", "check"]);
    assert_eq!((&checked["ok"], &checked["incidents"]), (&true.into(), &1.into()), "{checked}");

    let copy = place.dir.path().join("copy.db");
    let file = copy.to_str().expect("a plain path");
    let (code, out, err) = text(&place.run(&["db", "backup", file]));
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("checked and complete"), "{out}");
    assert!(fs::metadata(&copy).expect("made").len() > 4_096);
    let (code, _, err) = text(&place.run(&["db", "backup", file]));
    assert_eq!(code, 1);
    assert!(err.contains("exists already") && err.contains("--force"), "{err}");
    let (code, _, err) = text(&place.run(&["db", "backup", file, "--force"]));
    assert_eq!((code, err.as_str()), (0, ""));
    let own = place.dir.path().join("bongsu.db");
    let (code, _, err) = text(&place.run(&["db", "backup", own.to_str().expect("a plain path"), "--force"]));
    assert_eq!(code, 1);
    assert!(err.contains("it is the database itself"), "{err}");
    let (code, out, err) = text(&place.run(&["db", "check", file]));
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.starts_with("ok: ") && out.contains("1 incident"), "{out}");
    let left: Vec<String> = fs::read_dir(place.dir.path())
        .expect("own directory")
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(".bongsu-backup") || name.starts_with("copy.db-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");

    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    let (code, out, err) = text(&place.run(&["db", "export"]));
    assert_eq!((code, err.as_str()), (0, ""));
    let lines: Vec<serde_json::Value> =
        out.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    let stored = place.query("SELECT at || ' ' || check_name || ' ' || outcome FROM observations ORDER BY id");
    let word = |line: &serde_json::Value, name: &str| line[name].as_str().expect("a text").to_owned();
    let exported: Vec<String> =
        lines.iter().map(|l| format!("{} {} {}", word(l, "at"), word(l, "check"), word(l, "outcome"))).collect();
    assert!(stored.len() >= 4, "{stored:?}");
    assert_eq!(exported, stored);
    let first = &lines[0];
    assert_eq!((first["vantage"].as_str(), first["reason"]["phase"].is_string()), (Some("test-1"), true), "{first}");
    assert!(first["phases"].is_array() && first["duration_ms"].is_number(), "{first}");

    let middle = lines[lines.len() / 2]["at"].as_str().expect("a time").to_owned();
    let count = |args: &[&str]| text(&place.run(&[&["db", "export"], args].concat())).1.lines().count();
    assert_eq!(count(&["--since", &middle]) + count(&["--until", &middle]), lines.len());
    assert_eq!(count(&["--check", "web/front"]) + count(&["--check", "web/back"]), lines.len());
    assert_eq!((count(&["--since", "1h"]), count(&["--until", "2020-01-01"])), (lines.len(), 0));
    let (code, _, err) = text(&place.run(&["db", "export", "--check", "web/absent"]));
    assert_eq!(code, 2, "{err}");
    let (code, _, err) = text(&place.run(&["db", "export", "--since", "yesterday"]));
    assert!(code == 2 && err.contains("a day such as"), "{err}");
}

#[test]
fn a_damaged_file_is_told_at_start_and_by_the_check_and_a_backup_cures_it() {
    let target = Web::start(Answer::Status(200));
    let place = place(&target);
    let (own, copy) = (place.dir.path().join("bongsu.db"), place.dir.path().join("copy.db"));
    {
        let daemon = place.start();
        until("something is seen", || place.query("SELECT count(*) > 3 FROM observations") == ["1"]);
        assert_eq!(place.run(&["db", "backup", copy.to_str().expect("a plain path")]).status.code(), Some(0));
        assert_eq!(daemon.stop(), Some(0));
    }
    // The pages of the tables, as a disk that gives back something else.
    let mut bytes = fs::read(&own).expect("its file");
    for byte in bytes.iter_mut().skip(4_096).step_by(7) {
        *byte ^= 0x5A;
    }
    fs::write(&own, &bytes).expect("own file");
    let daemon = place.spawn();
    until("the daemon ends", || !daemon.alive());
    for part in ["is damaged", "bongsu db check", "restore a backup"] {
        assert!(daemon.log().contains(part), "{part}: {}", daemon.log());
    }
    let (code, out, err) = text(&place.run(&["db", "check"]));
    assert_eq!(code, 1, "{out}{err}");
    assert!(out.contains("not so: ") && err.contains("What to do"), "{out}{err}");
    let json = place.json(&["db", "check"]);
    assert_eq!(json["ok"], false, "{json}");
    assert!(json["findings"][0]["rule"].is_string(), "{json}");

    fs::rename(&own, place.dir.path().join("aside.db")).expect("own file");
    fs::copy(&copy, &own).expect("own file");
    let daemon = place.start();
    until("it goes on", || place.json(&["status"])["counts"]["up"] == 2);
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(text(&place.run(&["db", "check"])).0, 0);
}

#[test]
fn rows_that_contradict_each_other_are_found_beside_sqlites_own_check() {
    let target = Web::start(Answer::Status(503));
    let place = place(&target);
    {
        let daemon = place.start();
        until("there is an incident", || place.query("SELECT count(*) FROM incidents") == ["1"]);
        assert_eq!(daemon.stop(), Some(0));
    }
    let sql = rusqlite::Connection::open(place.dir.path().join("bongsu.db")).expect("own database");
    let table = [
        (
            "INSERT INTO flight VALUES (99, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0)",
            "a message in flight belongs to a known check",
        ),
        ("DELETE FROM incident_member", "its members are not those of its rows"),
        ("UPDATE incident SET json = replace(json, '}', ']')", "incident 1 cannot be read"),
        ("UPDATE observation SET previous = 2 WHERE previous IS NOT NULL", "a check's chain of observations"),
        ("UPDATE state SET memory = '{'", "what checks go on from can be read"),
        ("DELETE FROM evidence", "the evidence of an observation is there"),
        ("DROP VIEW outbox", "the view `outbox` is missing or changed"),
        ("UPDATE meta SET value = x'00' WHERE key = 'tracer_key'", "it knows what it is"),
    ];
    for (change, finding) in table {
        sql.execute(change, []).unwrap_or_else(|e| panic!("{change}: {e}"));
        let (code, out, _) = text(&place.run(&["db", "check"]));
        assert_eq!(code, 1, "{change}: {out}");
        assert!(out.contains(finding), "{change}: {out}");
    }
}

/// Files tried, each with one other byte changed; the store's own tests try a thousand, without a daemon around it.
const FLIPS: usize = 25;

#[test]
fn a_daemon_with_a_changed_byte_in_its_file_says_so_or_tells_what_it_would_have_told() {
    let (target, hook) = (Web::start(Answer::Status(503)), Web::start(Answer::Status(500)));
    let place = told_place(&target, &hook);
    let path = place.dir.path().join("bongsu.db");
    {
        let daemon = place.start();
        let waiting = "SELECT count(*) FROM outbox WHERE state = 'pending' AND attempts > 0";
        until("an alert waits", || place.query(waiting) == ["1"]);
        assert_eq!(daemon.stop(), Some(0));
    }
    let whole = fs::read(&path).expect("own file");
    let words = |request: &crate::harness::http::Request| {
        let json = request.json();
        (json["kind"].clone(), json["service"].clone(), json["cause"].clone(), request.key().to_owned())
    };
    let expected = words(&hook.requests()[0]);
    hook.set(Answer::Status(200));
    let mut random = fastrand::Rng::with_seed(11);
    let (mut refused, mut told) = (0, 0);
    for flip in 0..FLIPS {
        let mut damaged = whole.clone();
        let offset = random.usize(..whole.len());
        damaged[offset] ^= 1 << random.u8(..8);
        fs::write(&path, &damaged).expect("own file");
        for suffix in ["db-wal", "db-shm"] {
            let _ = fs::remove_file(path.with_extension(suffix));
        }
        let before = hook.accepted().len();
        let daemon = place.spawn();
        until("it tells what waits, or ends", || hook.accepted().len() > before || !daemon.alive());
        if daemon.alive() {
            told += 1;
            assert_eq!(daemon.stop(), Some(0), "flip {flip} at {offset}: {}", daemon.log());
        } else {
            refused += 1;
            let log = daemon.log();
            assert!(log.contains("restore") && log.contains("bongsu.db"), "flip {flip} at {offset}: {log}");
        }
        assert!(
            !daemon.log().contains("panicked") && !daemon.log().contains("a bug in"),
            "flip {flip}: {}",
            daemon.log()
        );
        for request in &hook.accepted()[before..] {
            let told = words(request);
            // Killed between two tries the same alert comes again, under the same key; nothing else may come.
            assert_eq!(told, expected, "flip {flip} at {offset}: {}", daemon.log());
        }
    }
    println!("{refused} of {FLIPS} were refused, {told} went on");
    assert_eq!(refused + told, FLIPS);
    assert!(told > 0);
}
