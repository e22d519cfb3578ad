//! The agent's own link is pulled: the daemon runs in a network of its own, joined to this one by a cable.

use std::{process::Command, time::Duration};

use crate::harness::{
    daemon::{Place, until},
    http::{Answer, Web},
};

/// Addresses kept for tests of networks (RFC 2544), which no machine has beside it.
const HERE: &str = "198.18.77.1";
const THERE: &str = "198.18.77.2";

/// A network namespace with one cable to this one. Both are gone when it is dropped.
struct Cable {
    space: String,
    end: String,
}

impl Cable {
    fn new() -> Self {
        let id = std::process::id();
        let (space, end, far) = (format!("bongsu-{id}"), format!("bg{id}a"), format!("bg{id}b"));
        let cable = Self { space, end };
        let (space, end) = (&cable.space, &cable.end);
        for line in [
            format!("netns add {space}"),
            format!("link add {end} type veth peer name {far}"),
            format!("link set {far} netns {space}"),
            format!("addr add {HERE}/30 dev {end}"),
            format!("link set {end} up"),
            format!("-n {space} addr add {THERE}/30 dev {far}"),
            format!("-n {space} link set {far} up"),
            format!("-n {space} link set lo up"),
        ] {
            ip(&line);
        }
        cable
    }

    /// Plugs it in, or pulls it.
    fn plug(&self, there: bool) {
        ip(&format!("link set {} {}", self.end, if there { "up" } else { "down" }));
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        // The cable goes with its far end.
        let _ = Command::new("ip").args(["netns", "del", &self.space]).status();
        let _ = Command::new("ip").args(["link", "del", &self.end]).stderr(std::process::Stdio::null()).status();
    }
}

fn ip(line: &str) {
    let done = Command::new("ip").args(line.split(' ')).output().expect("the Debian package iproute2 is installed");
    assert!(done.status.success(), "ip {line}: {}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_pulled_cable_is_the_agents_own_fault_and_told_once_when_it_is_back() {
    let cable = Cable::new();
    let here = |answer| Web::start_on(HERE, answer);
    let (target, canary, hook) = (here(Answer::Status(200)), here(Answer::Status(200)), here(Answer::Status(200)));
    let config = format!(
        "channels: {{ hook: {{ webhook: {{ url: \"{}\" }} }} }}\nroutes: [ {{ steps: [ {{ after: 0s, to: [hook] }} ] }} ]\n",
        hook.url("/")
    );
    let checks = format!(
        "service: web\ndefaults: {{ every: 1s, timeout: 1s, outage: {{ failures: 2, confirm_every: 1s }} }}\n\
         checks: [ {{ name: front, http: {{ url: \"{}\" }} }} ]\n",
        target.url("/")
    );
    let place = Place::with_agent(&format!(", canaries: [\"{}\"]", canary.url("/")), &config, &checks);
    let daemon = place.spawn_under(&["ip", "netns", "exec", &cable.space], &[]);
    let state = || place.json(&["status"])["checks"][0]["state"].as_str().unwrap_or_default().to_owned();
    let kinds = || -> Vec<String> {
        hook.accepted().iter().map(|r| r.json()["kind"].as_str().unwrap_or("?").to_owned()).collect()
    };
    until("the check is up", || daemon.log().contains("watching") && state() == "up");

    cable.plug(false);
    until("the agent is isolated", || !place.json(&["status"])["vantage"]["isolated_since"].is_null());
    until("the check cannot be judged", || state() == "unknown");
    // Longer than the shortest isolation of which people are told.
    std::thread::sleep(Duration::from_secs(31));
    assert_eq!(state(), "unknown");
    assert_eq!(place.query("SELECT count(*) FROM incidents"), ["0"], "{}", daemon.log());

    cable.plug(true);
    until("the check is up again", || state() == "up");
    until("it is told", || !kinds().is_empty());
    assert_eq!(kinds(), ["isolated"]);
    // What the link explains is nothing that the target did.
    assert_eq!(place.query("SELECT DISTINCT outcome FROM observations ORDER BY 1"), ["ok", "unknown"]);

    // With the link there, a target that is gone is told as ever.
    drop(target);
    until("it is down", || state() == "down");
    until("that is told", || kinds().len() == 2);
    assert_eq!(kinds(), ["isolated", "problem"]);
    assert_eq!(daemon.stop(), Some(0));
}
