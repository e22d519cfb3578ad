//! The wall clock is set while the daemon runs (by libfaketime, which leaves the monotonic clock alone): no outage that
//! is none, no time span below zero, and the schedule goes on.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::harness::{
    daemon::{Daemon, Place, until},
    http::{Answer, Web},
};

/// Where Debian and its relatives keep the library, below the directory of the machine's kind.
fn library() -> PathBuf {
    let kinds = fs::read_dir("/usr/lib").expect("a system has libraries").flatten().map(|e| e.path());
    let found = kinds.chain(["/usr/lib".into()]).map(|d| d.join("faketime/libfaketime.so.1")).find(|f| f.exists());
    found.expect("Debian's package faketime is installed: tests/run does so")
}

fn set(file: &Path, offset_s: i64) {
    let new = file.with_extension("new");
    fs::write(&new, format!("{offset_s:+}\n")).expect("own directory");
    fs::rename(new, file).expect("own directory");
}

fn start(place: &Place, file: &Path) -> Daemon {
    let library = library();
    place.start_with(&[
        ("LD_PRELOAD", library.to_str().expect("a plain path")),
        ("FAKETIME_TIMESTAMP_FILE", file.to_str().expect("a plain path")),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ])
}

fn number(place: &Place, sql: &str) -> u64 {
    place.query(sql).first().and_then(|n| n.parse().ok()).unwrap_or(0)
}

const SPANS: &str = "SELECT count(*) FROM (
    SELECT duration_s AS span FROM incidents UNION ALL SELECT latency_ms FROM observations
    UNION ALL SELECT duration_ms FROM observations UNION ALL SELECT up_s FROM availability_daily
    UNION ALL SELECT down_s FROM availability_daily UNION ALL SELECT unknown_s FROM availability_daily)
    WHERE span < 0";

#[test]
fn steps_of_an_hour_and_a_day_declare_nothing_and_the_schedule_goes_on() {
    let (target, hook, silent) =
        (Web::start(Answer::Status(200)), Web::start(Answer::Status(200)), Web::start(Answer::Nothing));
    let config = format!(
        "channels:\n  hook: {{ webhook: {{ url: \"{}\" }} }}\nroutes: [ {{ steps: [ {{ after: 0s, to: [hook] }} ] }} ]\n",
        hook.url("/")
    );
    // `silent` has an attempt in flight nearly always, and never confirms.
    let checks = format!(
        "service: web\ndefaults: {{ every: 1s, timeout: 1s, outage: {{ failures: 2, confirm_every: 1s }} }}\nchecks:\n  \
         - {{ name: front, http: {{ url: \"{}\" }} }}\n  \
         - {{ name: silent, every: 3s, timeout: 3s, outage: {{ failures: 1000 }}, http: {{ url: \"{}\" }} }}\n  \
         - {{ name: by-cron, cron: \"* * * * * *\", http: {{ url: \"{}\" }} }}\n",
        target.url("/"),
        silent.url("/"),
        target.url("/cron")
    );
    let place = Place::new(&config, &checks);
    let file = place.dir.path().join("offset");
    set(&file, 0);
    let daemon = start(&place, &file);
    let fronts = || number(&place, "SELECT count(*) FROM observations WHERE check_name = 'web/front'");
    until("the check is asked", || fronts() >= 2);
    let void = "SELECT count(*) FROM observations WHERE outcome = 'unknown' AND reason LIKE 'the wall clock was set%'";
    let mut offset_s = 0;
    for (jumps, step_s) in (1..).zip([3_600, -3_600, 86_400, -86_400]) {
        let cron = cron_count(&target);
        offset_s += step_s;
        set(&file, offset_s);
        let word = if step_s > 0 { "set forward by" } else { "set back by" };
        until("the step is noticed", || daemon.log().matches("in flight is void").count() == jumps);
        assert!(daemon.log().contains(word), "{}", daemon.log());
        let seen = fronts();
        until("the schedule goes on", || fronts() >= seen + 3);
        until("and that of the cron line", || cron_count(&target) >= cron + 2);
    }
    until("what was in flight is void", || number(&place, void) >= 2);
    let json = place.json(&["status"]);
    assert_eq!(json["checks"][1]["state"], "up", "{json}");
    assert_eq!(place.query("SELECT count(*) FROM incidents"), ["0"]);
    assert!(hook.requests().is_empty(), "nobody is told");
    let failed = "SELECT count(*) FROM observations WHERE outcome = 'failed' AND check_name <> 'web/silent'";
    assert_eq!(place.query(failed), ["0"]);
    assert_eq!(place.query(SPANS), ["0"]);
    assert_eq!(daemon.stop(), Some(0));
}

/// How often the check with the cron line was asked.
fn cron_count(target: &Web) -> usize {
    target.requests().iter().filter(|r| r.path == "/cron").count()
}

#[test]
fn an_outage_lasts_over_a_step_and_has_no_span_below_zero() {
    let (target, hook) = (Web::start(Answer::Status(200)), Web::start(Answer::Status(200)));
    let config = format!(
        "channels:\n  hook: {{ webhook: {{ url: \"{}\" }} }}\n\
         routes: [ {{ steps: [ {{ after: 0s, to: [hook], repeat: 2h }} ] }} ]\n",
        hook.url("/")
    );
    let checks = format!(
        "service: web\ndefaults: {{ every: 1s, timeout: 1s, outage: {{ failures: 2, confirm_every: 1s }} }}\nchecks:\n  \
         - {{ name: front, http: {{ url: \"{}\" }} }}\n",
        target.url("/")
    );
    let kinds = || -> Vec<String> {
        hook.accepted().iter().map(|r| r.json()["kind"].as_str().unwrap_or("?").to_owned()).collect()
    };
    let place = Place::new(&config, &checks);
    let file = place.dir.path().join("offset");
    set(&file, 0);
    let daemon = start(&place, &file);
    target.set(Answer::Status(503));
    until("it is told", || kinds() == ["problem"]);
    set(&file, -86_400);
    until("the step is noticed", || daemon.log().contains("set back by 1d"));
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(kinds(), ["problem"], "one outage, whatever the clock says");
    target.set(Answer::Status(200));
    until("the recovery is told", || kinds() == ["problem", "recovery"]);
    let told = hook.accepted()[1].json();
    assert!(told["duration_ms"].as_i64().is_some_and(|ms| ms >= 0), "{told}");
    assert_eq!(place.query(SPANS), ["0"]);
    let (status, incidents) = (place.run(&["status"]), place.run(&["incidents", "list"]));
    let shown = [status.stdout, incidents.stdout].concat();
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert!(!shown.split_whitespace().any(|w| w.starts_with('-') && w.len() > 1), "{shown}");
    assert_eq!(daemon.stop(), Some(0));
}
