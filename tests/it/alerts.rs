//! The alert path of the binary as a user runs it: noticed, told once, kept through failures of receivers.

use std::time::{Duration, Instant};

use crate::harness::{
    daemon::{Place, mails, until},
    free_port,
    http::{Answer, Web},
};

/// One web check of `target` every second, told to a signed webhook and a mail drop at once.
fn place(target: &str, hook: &Web) -> Place {
    let config = format!(
        "channels:\n  hook: {{ webhook: {{ url: \"{}\", secret: \"plain-secret\" }} }}\n  \
         drop: {{ email: {{ url: \"file:mail\", from: \"bongsu <bongsu@localhost>\", to: [\"root@localhost\"] }} }}\n\
         routes: [ {{ steps: [ {{ after: 0s, to: [hook, drop] }} ] }} ]\n",
        hook.url("/hook")
    );
    let checks = format!(
        "service: web\ntitle: The web front\n\
         defaults: {{ every: 1s, timeout: 500ms, outage: {{ failures: 2, confirm_every: 1s, recoveries: 2 }} }}\n\
         checks:\n  - {{ name: front, http: {{ url: \"{target}\" }} }}\n"
    );
    Place::new(&config, &checks)
}

fn kinds(hook: &Web) -> Vec<String> {
    hook.accepted().iter().map(|r| r.json()["kind"].as_str().unwrap_or("?").to_owned()).collect()
}

#[test]
fn an_outage_is_told_once_by_each_channel_and_so_is_its_end() {
    let (target, hook) = (Web::start(Answer::Status(200)), Web::start(Answer::Status(200)));
    let place = place(&target.url("/"), &hook);
    let daemon = place.start();
    until("the check is up", || place.json(&["status"])["checks"][0]["state"] == "up");
    target.set(Answer::Status(503));
    until("the problem is told", || kinds(&hook) == ["problem"]);
    let open = place.json(&["incidents", "list"]);
    assert_eq!(open[0]["service"], "web", "{open}");
    assert!(open[0]["cause"].as_str().is_some_and(|c| c.contains("503")), "{open}");
    target.set(Answer::Status(200));
    until("the recovery is told", || kinds(&hook) == ["problem", "recovery"]);
    until("both mails are there", || mails(&place.dir.path().join("mail")).len() == 2);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());

    let request = &hook.accepted()[0];
    let signature = &request.headers["webhook-signature"];
    assert!(signature.starts_with("v1,"), "{signature}");
    let keys: Vec<String> = hook.accepted().iter().map(|r| r.key().to_owned()).collect();
    assert_ne!(keys[0], keys[1]);
    assert_eq!(place.query("SELECT count(*) FROM incidents"), ["1"]);
    assert_eq!(place.query("SELECT state FROM incidents"), ["closed"]);
    assert_eq!(
        place.query("SELECT count(*) FROM incidents WHERE started_after < started_by AND ended_after < ended_by"),
        ["1"]
    );
    assert_eq!(place.query("SELECT count(*) FROM outbox WHERE state = 'delivered'"), ["4"]);

    let mails = mails(&place.dir.path().join("mail"));
    let header = |mail: &str, name: &str| {
        mail.lines().find_map(|l| l.strip_prefix(name).map(|v| v.trim().to_owned())).unwrap_or_default()
    };
    let problem = mails.iter().find(|m| header(m, "In-Reply-To:").is_empty()).expect("one mail opens the thread");
    let recovery = mails.iter().find(|m| !header(m, "In-Reply-To:").is_empty()).expect("one mail answers");
    assert_eq!(header(recovery, "In-Reply-To:"), header(problem, "Message-ID:"));
    assert_eq!(header(problem, "Auto-Submitted:"), "auto-generated");
}

#[test]
fn a_receiver_that_fails_for_a_while_gets_each_message_once_and_delays_nobody() {
    let (target, hook) = (Web::start(Answer::Status(503)), Web::start(Answer::Status(500)));
    let place = place(&target.url("/"), &hook);
    let _daemon = place.start();
    let drop = place.dir.path().join("mail");
    until("the mail is there although the webhook fails", || mails(&drop).len() == 1);
    until("the webhook was tried and failed", || !hook.requests().is_empty());
    hook.set(Answer::Nothing);
    until("it was tried and not answered", || hook.requests().iter().any(|r| r.answer == Answer::Nothing));
    hook.set(Answer::RetryAfter(429, 1));
    until("it was tried and asked to wait", || hook.requests().iter().any(|r| r.answer == Answer::RetryAfter(429, 1)));
    hook.set(Answer::Status(200));
    until("it has the problem", || kinds(&hook) == ["problem"]);
    let keys: std::collections::BTreeSet<String> = hook.requests().iter().map(|r| r.key().to_owned()).collect();
    assert_eq!(keys.len(), 1, "every attempt carries the same key");
    target.set(Answer::Status(200));
    until("it has the recovery", || kinds(&hook) == ["problem", "recovery"]);
    until("the mail is there too", || mails(&drop).len() == 2);
}

#[test]
fn an_outage_that_ends_while_its_receiver_is_down_is_told_in_one_message() {
    let (target, hook) = (Web::start(Answer::Status(503)), Web::start(Answer::Status(500)));
    let place = place(&target.url("/"), &hook);
    let _daemon = place.start();
    until("the webhook was tried and failed", || !hook.requests().is_empty());
    target.set(Answer::Status(200));
    until("the incident is over", || place.query("SELECT state FROM incidents") == ["closed"]);
    hook.set(Answer::Status(200));
    until("the whole story is told", || kinds(&hook) == ["past"]);
    let told = hook.accepted()[0].json();
    assert!(told["started"]["by"].is_string() && told["ended"]["by"].is_string(), "{told}");
}

#[test]
fn a_refused_connection_is_alerted_within_the_bound_of_its_thresholds() {
    let hook = Web::start(Answer::Status(200));
    let port = free_port();
    let config = format!(
        "channels:\n  hook: {{ webhook: {{ url: \"{}\" }} }}\nroutes: [ {{ steps: [ {{ after: 0s, to: [hook] }} ] }} ]\n",
        hook.url("/")
    );
    let checks = format!(
        "service: port\ndefaults: {{ every: 10s, outage: {{ failures: 3, confirm_every: 1s }} }}\n\
         checks:\n  - {{ name: tcp, tcp: {{ url: \"tcp://127.0.0.1:{port}\" }} }}\n"
    );
    let place = Place::new(&config, &checks);
    let listener = std::net::TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    let _daemon = place.start();
    until("the check is up", || place.json(&["status"])["checks"][0]["state"] == "up");
    drop(listener);
    let begun = Instant::now();
    until("it is told", || kinds(&hook) == ["problem"]);
    println!("from refusal to the alert at its receiver: {:?}", begun.elapsed());
    // At most one interval, two confirmations and what a loaded machine adds: the wait above has its own, larger bound.
    let cause = hook.accepted()[0].json()["cause"].as_str().unwrap_or_default().to_owned();
    assert!(cause.contains("connect"), "{cause}");
    let confirmed = place.query("SELECT count(*) FROM observations WHERE outcome = 'failed'");
    assert!(confirmed[0].parse::<u32>().is_ok_and(|n| n >= 3), "{confirmed:?}");
}

#[test]
fn a_silent_listener_is_found_and_named() {
    let (target, hook) = (Web::start(Answer::Nothing), Web::start(Answer::Status(200)));
    let place = place(&target.url("/"), &hook);
    let _daemon = place.start();
    until("it is told", || kinds(&hook) == ["problem"]);
    let told = hook.accepted()[0].json();
    assert!(told["cause"].as_str().is_some_and(|c| c.contains("exchange")), "{told}");
}

#[test]
fn a_reload_keeps_what_is_the_same_and_a_bad_file_changes_nothing() {
    let (target, hook) = (Web::start(Answer::Status(200)), Web::start(Answer::Status(200)));
    let place = place(&target.url("/"), &hook);
    let daemon = place.start();
    until("the check is up", || place.json(&["status"])["checks"][0]["state"] == "up");
    let since = place.json(&["status"])["checks"][0]["since"].clone();
    crate::harness::write(place.dir.path(), "checks/more.yaml", "service: more\nchecks: [ { name: x, htp: {} } ]\n");
    daemon.signal("HUP");
    until("the mistake is told", || daemon.log().contains("more.yaml:2"));
    let status = place.json(&["status"]);
    assert_eq!(status["checks"].as_array().map(Vec::len), Some(1));
    assert!(status["reload_error"].is_string(), "{status}");
    let good = format!(
        "service: more\ndefaults: {{ every: 1s }}\nchecks: [ {{ name: x, http: {{ url: \"{}\" }} }} ]\n",
        target.url("/x")
    );
    crate::harness::write(place.dir.path(), "checks/more.yaml", &good);
    daemon.signal("HUP");
    until("the new check is up", || place.json(&["status"])["checks"][0]["state"] == "up");
    let status = place.json(&["status"]);
    assert_eq!(status["checks"][1]["since"], since, "{status}");
    std::thread::sleep(Duration::from_millis(10));
    assert!(daemon.alive());
}
