//! A new configuration while the daemon runs: what goes on, what begins anew, and what nobody may lose by it.

use std::{fs, io::Write, os::unix::net::UnixStream, time::Duration};

use crate::harness::{
    daemon::{Place, until},
    http::{Answer, Web},
    write,
};

fn webhook(name: &str, hook: &Web, more: &str) -> String {
    format!("  {name}: {{ webhook: {{ url: \"{}\", timeout: 30s{more} }} }}\n", hook.url("/"))
}

/// Web checks of service `web` every second, by name and target.
fn checks(all: &[(&str, String)]) -> String {
    let all: String =
        all.iter().map(|(name, url)| format!("  - {{ name: {name}, http: {{ url: \"{url}\" }} }}\n")).collect();
    format!(
        "service: web\ndefaults: {{ every: 1s, timeout: 1s, outage: {{ failures: 2, recoveries: 1 }} }}\nchecks:\n{all}"
    )
}

fn place(channels: &str, to: &str, all: &[(&str, String)]) -> Place {
    let config = format!("channels:\n{channels}routes: [ {{ steps: [ {{ after: 0s, to: [{to}] }} ] }} ]\n");
    Place::new(&config, &checks(all))
}

/// Changes the text of `config.yaml`.
fn edit(place: &Place, from: &str, to: &str) {
    let config = fs::read_to_string(place.config()).expect("own file");
    assert!(config.contains(from), "{config}");
    write(place.dir.path(), "config.yaml", &config.replace(from, to));
}

fn kinds(hook: &Web) -> Vec<String> {
    hook.accepted().iter().map(|r| r.json()["kind"].as_str().unwrap_or("?").to_owned()).collect()
}

#[test]
fn a_reload_whose_caller_goes_away_is_carried_out() {
    let (target, other) = (Web::start(Answer::Status(200)), Web::start(Answer::Status(200)));
    let hook = Web::start(Answer::Nothing);
    let all = |path: &str| [("front", target.url("/")), ("other", other.url(path))];
    let place = place(&webhook("hook", &hook, ""), "hook", &all("/"));
    let daemon = place.start();
    until("both are asked", || !target.requests().is_empty() && !other.requests().is_empty());
    target.set(Answer::Status(503));
    until("the problem is being told", || !hook.requests().is_empty());
    // The channel's task has a delivery that hangs, which the reload waits for a while to end.
    edit(&place, "timeout: 30s", "timeout: 29s");
    write(place.dir.path(), "checks/all.yaml", &checks(&all("/changed")));
    let mut caller = UnixStream::connect(place.dir.path().join("bongsu.sock")).expect("the daemon listens");
    caller.write_all(b"POST /v1/reload HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").expect("it reads");
    std::thread::sleep(Duration::from_millis(700));
    drop(caller);
    hook.set(Answer::Status(200));
    until("the changed check is asked", || other.requests().iter().any(|r| r.path == "/changed"));
    until("the changed channel delivers", || kinds(&hook) == ["problem"]);
    assert!(daemon.log().contains("configuration reloaded"), "{}", daemon.log());
}

#[test]
fn a_check_that_is_renamed_during_its_outage_is_told_back_once_it_is() {
    let (target, hook) = (Web::start(Answer::Status(503)), Web::start(Answer::Status(200)));
    let old = [("old", target.url("/"))];
    let place = place(&webhook("hook", &hook, ""), "hook", &old);
    let daemon = place.start();
    until("the problem is told", || kinds(&hook) == ["problem"]);
    let renamed = checks(&[("new", target.url("/"))]).replace("name: new,", "name: new, formerly: old,");
    write(place.dir.path(), "checks/all.yaml", &renamed);
    daemon.signal("HUP");
    until("it is reloaded", || daemon.log().contains("configuration reloaded"));
    let asked = target.requests().len();
    until("it is asked under its new name", || target.requests().len() > asked + 1);
    assert_eq!(kinds(&hook), ["problem"], "it is as down as before");
    assert_eq!(place.query("SELECT check_name FROM incident_checks"), ["web/new"]);
    assert_eq!(place.query("SELECT name FROM known_check"), ["web/new"]);
    target.set(Answer::Status(200));
    until("the recovery is told", || kinds(&hook) == ["problem", "recovery"]);
    assert_eq!(place.query("SELECT name FROM known_check"), ["web/new"]);
    assert_eq!(place.query("SELECT count(*) FROM incidents"), ["1"]);
}

#[test]
fn a_reload_leaves_the_deliveries_of_other_channels_alone() {
    let target = Web::start(Answer::Status(503));
    let (slow, other) = (Web::start(Answer::Status(200)), Web::start(Answer::Status(200)));
    // Longer than a task that is to end may take.
    slow.set_delay(Duration::from_secs(7));
    let channels = webhook("slow", &slow, "") + &webhook("other", &other, "");
    let place = place(&channels, "slow, other", &[("front", target.url("/"))]);
    let daemon = place.start();
    until("both have it", || slow.requests().len() == 1 && other.requests().len() == 1);
    let config = fs::read_to_string(place.config()).expect("own file");
    let line = config.lines().find(|l| l.contains("  other: ")).expect("it is there");
    edit(&place, line, &line.replace("30s", "29s"));
    daemon.signal("HUP");
    until("it is reloaded", || daemon.log().contains("configuration reloaded"));
    assert_eq!(place.query("SELECT state FROM outbox WHERE channel = 'slow'"), ["pending"], "nobody waited for it");
    until("it is told", || {
        place.query("SELECT state || ' ' || attempts FROM outbox WHERE channel = 'slow'") == ["delivered 1"]
    });
    assert_eq!(slow.requests().len(), 1, "once");
}

#[test]
fn a_stop_during_a_reload_waits_for_the_deliveries_that_the_reload_ends() {
    let (target, hook) = (Web::start(Answer::Status(503)), Web::start(Answer::Status(200)));
    hook.set_delay(Duration::from_secs(2));
    let place = place(&webhook("hook", &hook, ""), "hook", &[("front", target.url("/"))]);
    let daemon = place.start();
    until("the problem is being told", || hook.requests().len() == 1);
    edit(&place, "timeout: 30s", "timeout: 29s");
    daemon.signal("HUP");
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    let told = place.query("SELECT state || ' ' || attempts FROM outbox");
    assert_eq!(told, ["delivered 1"], "{}", daemon.log());
}

#[test]
fn a_channel_that_goes_elsewhere_now_has_no_pause_of_the_old_receiver() {
    let (target, busy) = (Web::start(Answer::Status(503)), Web::start(Answer::RetryAfter(429, 3_000)));
    let hook = Web::start(Answer::Status(200));
    let place = place(&webhook("hook", &busy, ""), "hook", &[("front", target.url("/"))]);
    let daemon = place.start();
    until("it is asked to wait", || place.query("SELECT attempts FROM outbox") == ["1"]);
    edit(&place, &busy.url("/"), &hook.url("/"));
    daemon.signal("HUP");
    until("the new receiver is told", || kinds(&hook) == ["problem"]);
}

#[test]
fn what_is_being_confirmed_is_confirmed_however_seldom_the_check_is_due() {
    let target = Web::start(Answer::Status(503));
    let checks = |cron: &str| {
        format!(
            "service: web\ndefaults: {{ timeout: 1s, outage: {{ failures: 20, confirm_every: 3s }} }}\nchecks:\n  \
             - {{ name: front, cron: \"{cron}\", http: {{ url: \"{}\" }} }}\n",
            target.url("/")
        )
    };
    let place = Place::new("", &checks("* * * * * *"));
    let daemon = place.start();
    until("it is suspect", || place.json(&["status"])["checks"][0]["state"] == "suspect");
    // Due once a year from now on.
    write(place.dir.path(), "checks/all.yaml", &checks("0 0 4 1 1 *"));
    daemon.signal("HUP");
    until("it is reloaded", || daemon.log().contains("configuration reloaded"));
    let asked = target.requests().len();
    until("it is asked again after the reload", || target.requests().len() > asked);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    let asked = target.requests().len();
    let _daemon = place.start();
    until("it is asked again after the restart", || target.requests().len() > asked);
}

#[test]
fn a_check_that_is_taken_away_during_its_outage_is_not_told_as_up() {
    let (target, hook) = (Web::start(Answer::Status(503)), Web::start(Answer::Status(200)));
    let place = place(&webhook("hook", &hook, ""), "hook", &[("front", target.url("/"))]);
    let daemon = place.start();
    until("the problem is told", || kinds(&hook) == ["problem"]);
    // All of them by accident: that is a mistake, as it is where the directory is named.
    let (checks, away) = (place.dir.path().join("checks"), place.dir.path().join("away"));
    fs::rename(&checks, &away).expect("own directory");
    daemon.signal("HUP");
    until("it is refused", || daemon.log().contains("checks is not there"));
    assert!(place.json(&["status"])["reload_error"].is_string());
    assert_eq!(kinds(&hook), ["problem"]);
    // On purpose.
    fs::create_dir(&checks).expect("own directory");
    daemon.signal("HUP");
    until("the end is told", || kinds(&hook) == ["problem", "recovery"]);
    let told = hook.accepted()[1].json();
    assert_eq!((&told["unwatched"], &told["checks"][0]["unwatched"]), (&true.into(), &true.into()), "{told}");
    let subject = told["subject"].as_str().unwrap_or_default();
    assert!(subject.starts_with("[NO LONGER WATCHED] web: last seen down, for "), "{told}");
    assert_eq!(place.query("SELECT state FROM incidents"), ["closed"]);
    // A start with none is a start with none.
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    fs::remove_dir(&checks).expect("it is empty");
    let _daemon = place.start();
}
