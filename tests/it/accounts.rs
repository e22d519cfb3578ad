//! A check with several accounts, by the binary as a user runs it: one that is refused is told as one of them.

use crate::harness::{
    daemon::{Place, until},
    http::{Answer, Web, user},
};

/// Three accounts of a web server, asked twice a second.
fn place(target: &Web, hook: &Web) -> Place {
    let config = format!(
        "channels:\n  hook: {{ webhook: {{ url: \"{}\" }} }}\n\
         routes: [ {{ steps: [ {{ after: 0s, to: [hook] }} ] }} ]\n",
        hook.url("/hook")
    );
    let checks = format!(
        "service: mail\n\
         defaults: {{ every: 500ms, outage: {{ failures: 2, confirm_every: 300ms, recoveries: 2 }} }}\n\
         checks:\n  - name: login\n    \
         accounts: {{ range: \"01..03\", username: \"probe{{n}}\", password: \"correct-horse-{{n}}\" }}\n    \
         http: {{ url: \"{}\", username: \"${{account:username}}\", password: \"${{account:password}}\" }}\n",
        target.url("/${account:username}")
    );
    Place::new(&config, &checks)
}

fn told(hook: &Web) -> Vec<(String, String)> {
    let text = |r: &serde_json::Value, key: &str| r[key].as_str().unwrap_or("?").to_owned();
    hook.accepted().iter().map(|r| r.json()).map(|r| (text(&r, "kind"), text(&r, "severity"))).collect()
}

fn pair(kind: &str, severity: &str) -> (String, String) {
    (kind.into(), severity.into())
}

#[test]
fn one_of_three_accounts_is_told_as_one_of_three_until_it_works_again() {
    let (target, hook) = (Web::start(Answer::Status(200)), Web::start(Answer::Status(200)));
    let place = place(&target, &hook);
    let daemon = place.start();
    until("all three were asked", || {
        let users: Vec<String> = target.requests().iter().filter_map(|r| user(&r.headers)).collect();
        ["probe01", "probe02", "probe03"].iter().all(|name| users.iter().any(|user| user == name))
    });
    assert!(target.requests().iter().all(|r| user(&r.headers).is_some_and(|user| r.path == format!("/{user}"))));

    target.refuse(&["probe02"]);
    until("it is told", || told(&hook) == [pair("problem", "degraded")]);
    let cause = hook.accepted()[0].json()["cause"].as_str().unwrap_or_default().to_owned();
    assert!(cause.contains("1 of 3 accounts failing: probe02: ") && cause.contains("403"), "{cause}");
    let failed = "SELECT count(*) FROM observations WHERE account = 'probe02' AND outcome = 'failed'";
    let many = |n: u32| place.query(failed).first().and_then(|c| c.parse::<u32>().ok()).is_some_and(|c| c >= n);
    until("it goes on failing", || many(6));
    // A restart in the middle changes nothing.
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    let daemon = place.start();
    until("it still fails", || many(10));
    assert_eq!(place.query("SELECT state FROM checks"), ["degraded"]);
    assert_eq!(told(&hook).len(), 1, "it is told once: {:?}", told(&hook));

    let all = place.json(&["probe", "mail/login", "--all-accounts"]);
    let outcomes: Vec<String> =
        all.as_array().into_iter().flatten().map(|o| format!("{} {}", o["account"]["name"], o["outcome"])).collect();
    assert_eq!(outcomes, ["\"probe01\" \"ok\"", "\"probe02\" \"failed\"", "\"probe03\" \"ok\""], "{all}");
    let one = place.json(&["probe", "mail/login"]);
    assert_eq!(one["account"], serde_json::json!({ "name": "probe01", "of": 3 }), "{one}");
    let text = String::from_utf8_lossy(&place.run(&["probe", "mail/login", "--all-accounts"]).stdout).into_owned();
    assert!(text.contains("mail/login (probe02)") && text.contains("probe02: "), "{text}");

    target.refuse(&[]);
    until("its recovery is told", || told(&hook).len() == 2);
    assert_eq!(told(&hook)[1].0, "recovery");
    assert_eq!(place.query("SELECT count(*) FROM incidents"), ["1"]);
    assert_eq!(place.query("SELECT worst FROM incidents"), ["degraded"]);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());

    // Each account is stored with its attempts, what is equal is stored once, and no secret is.
    assert_eq!(
        place.query("SELECT DISTINCT account FROM observations ORDER BY account"),
        ["probe01", "probe02", "probe03"]
    );
    let written = place.query("SELECT count(*) FROM evidence");
    let attempts = place.query("SELECT count(*) FROM observations");
    let (written, attempts) = (written[0].parse::<u32>().unwrap_or(0), attempts[0].parse::<u32>().unwrap_or(0));
    assert!((4..=30).contains(&written) && attempts > written, "{written} pieces of evidence for {attempts} attempts");
    assert_eq!(place.query("SELECT json FROM evidence WHERE json LIKE '%correct-horse%'"), Vec::<String>::new());
    assert!(!daemon.log().contains("correct-horse"), "{}", daemon.log());
}

#[test]
fn an_outage_of_all_accounts_is_an_outage() {
    let (target, hook) = (Web::start(Answer::Status(200)), Web::start(Answer::Status(200)));
    let place = place(&target, &hook);
    let _daemon = place.start();
    until("the check is up", || place.json(&["status"])["checks"][0]["state"] == "up");
    target.set(Answer::Status(503));
    until("it is told", || told(&hook) == [pair("problem", "down")]);
    let cause = hook.accepted()[0].json()["cause"].as_str().unwrap_or_default().to_owned();
    assert!(cause.contains("503") && !cause.contains("accounts"), "{cause}");
    target.set(Answer::Status(200));
    until("its end is told", || told(&hook).len() == 2);
    assert_eq!(told(&hook)[1].0, "recovery");
}
