//! The alert path of the binary as a user runs it: noticed, told once, kept through failures of receivers.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::harness::{
    daemon::{Place, mails, until},
    free_port,
    http::{Answer, Web},
    proxy::Proxy,
    write,
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
         defaults: {{ every: 1s, timeout: 1s, outage: {{ failures: 2, confirm_every: 1s, recoveries: 2 }} }}\n\
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
fn a_kill_after_the_end_of_an_outage_and_before_its_telling_is_known_takes_nobody_the_end() {
    let (target, hook) = (Web::start(Answer::Status(503)), Web::start(Answer::Nothing));
    let place = told_by(&target, &webhook("hook", &hook.url("/"), ""), "{ after: 0s, to: [hook] }");
    let daemon = place.start();
    until("the problem is being told", || !hook.requests().is_empty());
    target.set(Answer::Status(200));
    until("the incident is over", || place.query("SELECT state FROM incidents") == ["closed"]);
    let outbox = "SELECT kind || ' ' || state || ' ' || attempts FROM outbox";
    assert_eq!(place.query(outbox), ["problem pending 0"], "nobody knows whether it was told");
    daemon.kill();
    hook.set(Answer::Status(200));
    let _daemon = place.start();
    until("both ends are told", || kinds(&hook) == ["problem", "recovery"]);
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

/// One web check of `target` every second, with these channels and steps.
fn told_by(target: &Web, channels: &str, steps: &str) -> Place {
    let config = format!("channels:\n{channels}routes: [ {{ steps: [ {steps} ] }} ]\n");
    let checks = format!(
        "service: web\ntitle: The web front\n\
         defaults: {{ every: 1s, timeout: 1s, outage: {{ failures: 2, recoveries: 2 }},\n  \
         degraded: {{ slow: off, loss: off, duplicates: off }} }}\n\
         checks:\n  - {{ name: front, http: {{ url: \"{}\" }} }}\n",
        target.url("/")
    );
    Place::new(&config, &checks)
}

fn webhook(name: &str, url: &str, more: &str) -> String {
    format!("  {name}: {{ webhook: {{ url: \"{url}\", timeout: 30s }}{more} }}\n")
}

fn drop_folder(name: &str) -> String {
    format!("  {name}: {{ email: {{ url: \"file:{name}\", from: bongsu@localhost, to: [root@localhost] }} }}\n")
}

fn number(place: &Place, sql: &str) -> u64 {
    place.query(sql).first().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn unsettled(place: &Place) -> u64 {
    number(place, "SELECT count(*) FROM outbox WHERE state = 'pending'")
}

fn up(place: &Place) -> bool {
    place.query("SELECT state FROM checks") == ["up"]
}

fn output(place: &Place, args: &[&str]) -> (Option<i32>, String) {
    let output = place.run(args);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// Every file in a directory, hidden ones too.
fn files(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect()
}

#[test]
fn what_a_receiver_refuses_goes_to_its_fallback_from_beginning_to_end() {
    let (target, hook) = (Web::start(Answer::Status(200)), Web::start(Answer::Status(404)));
    let channels = webhook("hook", &hook.url("/gone"), ", fallback: mail") + &drop_folder("mail");
    let place = told_by(&target, &channels, "{ after: 0s, to: [hook] }");
    let _daemon = place.start();
    until("the check is up", || up(&place));
    target.set(Answer::Status(503));
    let folder = place.dir.path().join("mail");
    until("the fallback has it", || mails(&folder).len() == 1);
    target.set(Answer::Status(200));
    until("the fallback has the recovery", || mails(&folder).len() == 2);
    until("all is settled", || unsettled(&place) == 0);

    let mails = mails(&folder);
    for (mail, word) in mails.iter().zip(["problem", "recovery"]) {
        assert!(mail.contains(&format!("X-Bongsu-Kind: {word}")), "{mail}");
    }
    assert!(mails[0].contains("hook"), "it says in whose place it comes: {}", mails[0]);
    let header = |mail: &str, name: &str| mail.lines().find_map(|l| l.strip_prefix(name).map(str::to_owned));
    assert_eq!(header(&mails[1], "In-Reply-To:"), header(&mails[0], "Message-ID:"));
    assert_eq!(hook.requests().len(), 1, "a refusal is not asked for twice, and a recovery is not told to nobody");
    let rows =
        place.query("SELECT channel || ' ' || kind || ' ' || state || ' ' || handed_over FROM outbox ORDER BY id");
    assert_eq!(rows, ["hook problem refused 1", "mail problem delivered 0", "mail recovery delivered 0"]);
    let (code, text) = output(&place, &["outbox"]);
    assert_eq!(code, Some(0));
    assert!(text.contains("1 refused") && text.contains("404"), "{text}");
    let json = place.json(&["outbox"]);
    let refused = json["messages"].as_array().and_then(|all| all.iter().find(|m| m["state"] == "refused").cloned());
    let error = refused.as_ref().and_then(|m| m["last_error"].as_str()).unwrap_or_default();
    assert!(error.contains("404"), "{json}");
    let (_, shown) = output(&place, &["incidents", "show", "1"]);
    assert!(shown.contains("hook: refused") && shown.contains("instead of hook"), "{shown}");
}

#[test]
fn steps_go_by_the_age_of_the_outage_and_a_short_one_never_reaches_the_later() {
    let (target, hook) = (Web::start(Answer::Status(200)), Web::start(Answer::Status(200)));
    let channels = webhook("hook", &hook.url("/"), "") + &drop_folder("chief") + &drop_folder("boss");
    let steps = "{ after: 0s, to: [hook] }, { after: 3s, to: [chief] }, { after: 1h, to: [boss] }";
    let place = told_by(&target, &channels, steps);
    let _daemon = place.start();
    until("the check is up", || up(&place));
    target.set(Answer::Status(503));
    let folder = place.dir.path().join("chief");
    until("the second step has come", || mails(&folder).len() == 1);
    let ms = |channel: &str| {
        let sql = format!(
            "SELECT CAST(round((julianday(o.created_at) - julianday(i.started_by)) * 86400000) AS INTEGER)
             FROM outbox o JOIN incidents i ON i.id = o.incident WHERE o.channel = '{channel}' AND kind = 'problem'"
        );
        number(&place, &sql)
    };
    let (first, second) = (ms("hook"), ms("chief"));
    // The outage is as old as its first bad observation; julianday is good to a millisecond.
    assert!(first < second && (2_999..60_000).contains(&second), "after {first} and {second} ms");
    target.set(Answer::Status(200));
    until("both have the recovery", || kinds(&hook) == ["problem", "recovery"] && mails(&folder).len() == 2);
    until("all is settled", || unsettled(&place) == 0);
    assert_eq!(number(&place, "SELECT count(*) FROM outbox"), 4);
    assert!(!place.dir.path().join("boss").exists(), "nobody was told of the end who was not told of the outage");
}

#[test]
fn an_acknowledgement_stops_repeats_and_later_steps_and_survives_a_kill() {
    let (target, hook) = (Web::start(Answer::Status(200)), Web::start(Answer::Status(200)));
    let channels = webhook("hook", &hook.url("/"), "") + &drop_folder("boss");
    // The later step comes once the test has acknowledged, however slow the machine is.
    let later = Duration::from_secs(20);
    let steps = "{ after: 0s, to: [hook], repeat: 1s }, { after: 20s, to: [boss] }";
    let place = told_by(&target, &channels, steps);
    let daemon = place.start();
    until("the check is up", || up(&place));
    target.set(Answer::Status(503));
    let begun = Instant::now();
    until("it is repeated", || kinds(&hook).len() >= 3);
    assert_eq!(kinds(&hook)[..3], ["problem", "reminder", "reminder"]);
    let (code, text) = output(&place, &["incidents", "ack", "1", "--by", "김", "--note", "보는 중"]);
    assert_eq!((code, text.as_str()), (Some(0), "#1 acknowledged\n"));
    assert!(begun.elapsed() < later, "this machine is too slow for this test");
    until("all is settled", || unsettled(&place) == 0);
    let told = kinds(&hook).len();
    let (code, text) = output(&place, &["incidents", "ack", "1", "--by", "이"]);
    assert!(code == Some(1) && text.contains("acknowledged already, by 김"), "{text}");
    daemon.kill();
    let daemon = place.start();
    until("the later step has come and gone", || {
        number(&place, "SELECT count(*) FROM incident_timeline WHERE entry = 'not_told' AND text LIKE 'boss:%'") > 0
    });
    assert_eq!(kinds(&hook).len(), told, "no repeat after the acknowledgement");
    assert!(!place.dir.path().join("boss").exists(), "no later step after the acknowledgement");
    assert_eq!(place.query("SELECT acknowledged_by FROM incidents"), ["김"]);
    target.set(Answer::Status(200));
    until("the recovery is told", || kinds(&hook).last().is_some_and(|k| k == "recovery"));
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    assert_eq!(kinds(&hook).len(), told + 1);
    assert!(!place.dir.path().join("boss").exists());
    let (_, shown) = output(&place, &["incidents", "show", "1"]);
    assert!(shown.contains("by 김: 보는 중"), "{shown}");
}

#[test]
fn a_test_message_is_seen_by_its_receiver_and_leaves_no_row() {
    let (target, hook) = (Web::start(Answer::Status(200)), Web::start(Answer::Status(200)));
    let channels = webhook("hook", &hook.url("/"), ", fallback: mail") + &drop_folder("mail");
    let place = told_by(&target, &channels, "{ after: 0s, to: [hook] }");
    let folder = place.dir.path().join("mail");
    for (running, through) in [(false, "command"), (true, "daemon")] {
        let daemon = running.then(|| place.start());
        if running {
            until("the daemon answers", || place.json(&["status"])["uptime_ms"].is_u64());
        }
        hook.set(Answer::Status(200));
        let tested = place.json(&["alert", "test", "hook"]);
        assert_eq!((&tested["delivered"], &tested["through"]), (&true.into(), &through.into()), "{tested}");
        assert_eq!(kinds(&hook).last().map(String::as_str), Some("test"));
        assert_eq!(place.json(&["alert", "test", "mail"])["delivered"], true);
        let written = files(&folder);
        assert_eq!(written.len(), 1 + usize::from(running), "a mail, and no half-written one: {written:?}");
        // A refusal is the answer to the question: the fallback is not asked in its place.
        hook.set(Answer::Status(404));
        let (code, text) = output(&place, &["alert", "test", "hook"]);
        assert!(code == Some(1) && text.contains("refused") && text.contains("404"), "{text}");
        hook.set(Answer::Status(500));
        let (code, text) = output(&place, &["alert", "test", "hook"]);
        assert!(code == Some(1) && text.contains("would be tried again"), "{text}");
        assert_eq!(files(&folder).len(), written.len());
        assert_eq!(number(&place, "SELECT count(*) FROM outbox") + number(&place, "SELECT count(*) FROM incidents"), 0);
        if let Some(daemon) = daemon {
            assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
        }
    }
    let mut left: Vec<String> = files(place.dir.path())
        .iter()
        .filter_map(|p| Some(p.file_name()?.to_str()?.to_owned()))
        .filter(|name| !name.starts_with("bongsu.db"))
        .collect();
    left.sort();
    assert_eq!(left, ["checks", "config.yaml", "daemon.log", "mail"], "nothing else is left on the disk");
    let keys: std::collections::BTreeSet<String> = hook.requests().iter().map(|r| r.key().to_owned()).collect();
    assert_eq!(keys.len(), hook.requests().len(), "each test has a key of its own");
}

#[test]
fn a_stop_lets_a_delivery_end_and_abandons_one_that_hangs() {
    let (target, hook) = (Web::start(Answer::Status(503)), Web::start(Answer::Status(200)));
    // What stands between daemon and receiver answers late, then not at all.
    let proxy = Proxy::start(hook.address());
    let channels = webhook("hook", &format!("http://{}/", proxy.address), "");
    let place = told_by(&target, &channels, "{ after: 0s, to: [hook] }");
    proxy.delay_down(Duration::from_secs(2));
    let daemon = place.start();
    until("the receiver has the problem, and its answer is on its way", || kinds(&hook) == ["problem"]);
    assert_eq!(unsettled(&place), 1, "the answer has not come");
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    assert_eq!(place.query("SELECT state || ' ' || attempts FROM outbox"), ["delivered 1"], "{}", daemon.log());

    proxy.delay_down(Duration::ZERO);
    target.set(Answer::Status(200));
    proxy.hold_from("POST ");
    let daemon = place.start();
    until("the receiver has the recovery, and its answer hangs", || kinds(&hook) == ["problem", "recovery"]);
    let begun = Instant::now();
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    // The delivery is given four seconds; the rest is for a busy machine.
    assert!(begun.elapsed() < Duration::from_secs(12), "it took {:?} to stop", begun.elapsed());
    assert!(daemon.log().contains("it will be repeated"), "{}", daemon.log());
    assert_eq!(unsettled(&place), 1);
    proxy.release();
    let _daemon = place.start();
    until("it is settled", || unsettled(&place) == 0);
    assert_eq!(kinds(&hook), ["problem", "recovery", "recovery"]);
    let keys: Vec<String> = hook.accepted().iter().map(|r| r.key().to_owned()).collect();
    assert_eq!(keys[1], keys[2], "the repeat has the same key");
}

#[test]
fn a_message_of_a_channel_that_is_taken_away_is_settled() {
    let (target, hook) = (Web::start(Answer::Status(200)), Web::start(Answer::Status(500)));
    let channels = webhook("hook", &hook.url("/"), "") + &drop_folder("mail");
    let place = told_by(&target, &channels, "{ after: 0s, to: [hook] }");
    let daemon = place.start();
    until("the check is up", || up(&place));
    target.set(Answer::Status(503));
    until("it was tried in vain", || !hook.requests().is_empty());
    let config = fs::read_to_string(place.config()).expect("own file");
    let without: String = config.lines().filter(|l| !l.contains("hook:")).map(|l| format!("{l}\n")).collect();
    write(place.dir.path(), "config.yaml", &without.replace("to: [hook]", "to: [mail]"));
    daemon.signal("HUP");
    until("the other channel is told", || mails(&place.dir.path().join("mail")).len() == 1);
    until("nothing waits for a channel that is not there", || unsettled(&place) == 0);
    let error = place.query("SELECT state || ' ' || last_error FROM outbox WHERE channel = 'hook'");
    assert!(error[0].starts_with("refused ") && error[0].contains("not in the configuration"), "{error:?}");
    target.set(Answer::Status(200));
    until("the incident is over", || mails(&place.dir.path().join("mail")).len() == 2);
    until("nothing waits", || unsettled(&place) == 0);
}

#[test]
fn a_target_that_hangs_is_not_taken_for_lateness() {
    let (target, hook) = (Web::start(Answer::Nothing), Web::start(Answer::Status(200)));
    let config = webhook("hook", &hook.url("/"), "");
    // Each attempt takes longer than the pause between confirmations.
    let checks = format!(
        "service: web\ndefaults: {{ every: 2s, timeout: 2s, outage: {{ failures: 4, confirm_every: 1s }} }}\n\
         checks:\n  - {{ name: front, http: {{ url: \"{}\" }} }}\n",
        target.url("/")
    );
    let place = Place::new(&format!("channels:\n{config}"), &checks);
    let _daemon = place.start();
    until("it is told", || kinds(&hook) == ["problem"]);
    let lateness = &place.json(&["status"])["metrics"]["lateness"];
    assert!(lateness["count"].as_u64() >= Some(4), "{lateness}");
    assert!(lateness["p50_ms"].as_f64().is_some_and(|ms| ms < 500.0), "{lateness}");
}
