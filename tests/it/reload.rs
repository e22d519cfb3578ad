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
