//! Deliveries with three accounts through a real mosquitto: one may log in and publish, one is refused at login, of one
//! the broker drops what it publishes.

use std::{path::Path, sync::Arc, time::Duration};

use bongsu::{
    check::Ask,
    config,
    observation::{Fate, Kind, Observation, Outcome, Phase},
};

use crate::harness::{
    context,
    mosquitto::{Mosquitto, Users},
    scratch, settings, write,
};

const USERS: [(&str, &str); 3] =
    [("probe01", "first-secret"), ("probe02", "second-secret"), ("probe03", "third-secret")];

/// Loads a check whose `probe02` has another password than the broker knows.
fn load(dir: &Path, check: &str) -> Arc<dyn Ask> {
    write(dir, "config.yaml", "");
    let accounts = "[{ username: probe01, password: first-secret, topic: bongsu/1 }, { username: probe02, password: \
                    wrong-secret, topic: bongsu/2 }, { username: probe03, password: third-secret, topic: bongsu/3 }]";
    let checks = format!("service: broker\nchecks:\n  - name: it\n    accounts: {accounts}\n{check}");
    write(dir, "checks/a.yaml", &checks);
    let config = config::load(dir, &config::OsEnvironment).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    config.checks[0].ask.clone()
}

async fn attempts(ask: &Arc<dyn Ask>, count: usize, wait_max: Option<Duration>) -> Vec<(String, Observation)> {
    let mut all = Vec::new();
    for _ in 0..count {
        let mut context = context(&settings(Duration::from_secs(10)));
        context.wait_max = wait_max;
        let o = ask.attempt(context).await.observation;
        all.push((o.account.clone().expect("every attempt has an account").name, o));
    }
    all
}

#[tokio::test]
async fn a_login_is_proved_for_each_account() {
    let broker = Mosquitto::start(Users::Named(&USERS), "");
    let dir = scratch();
    let options = "username: \"${account:username}\", password: \"${account:password}\"";
    let ask = load(dir.path(), &format!("    mqtt: {{ url: \"mqtt://{}\", {options} }}\n", broker.address));
    let seen: Vec<(String, Outcome)> =
        attempts(&ask, 7, None).await.into_iter().map(|(name, o)| (name, o.outcome)).collect();
    let expected = [
        ("probe01", Outcome::Ok),
        ("probe02", Outcome::Failed),
        ("probe02", Outcome::Failed),
        ("probe03", Outcome::Ok),
        ("probe01", Outcome::Ok),
        ("probe02", Outcome::Failed),
        ("probe03", Outcome::Ok),
    ];
    assert_eq!(seen, expected.map(|(name, outcome)| (name.to_owned(), outcome)));
}

#[tokio::test]
async fn what_becomes_of_a_message_is_told_with_its_account() {
    let rules = scratch();
    let acl = "user probe01\ntopic readwrite bongsu/#\nuser probe02\ntopic readwrite bongsu/#\nuser probe03\n\
               topic read bongsu/#\n";
    let acl = write(rules.path(), "acl", acl);
    let broker = Mosquitto::start(Users::Named(&USERS), &format!("acl_file {}", acl.display()));
    let dir = scratch();
    // mosquitto acknowledges in MQTT 3.1.1 what its rules forbid, and drops it.
    let side = format!(
        "{{ mqtt: {{ url: \"mqtt://{}\", version: 3.1.1, topic: \"${{account:topic}}\", username: \
         \"${{account:username}}\", password: \"${{account:password}}\" }} }}",
        broker.address
    );
    let delivery = format!("    delivery: {{ send: {side}, receive: {side}, slow: 2s, lost_after: 8s }}\n");
    let ask = load(dir.path(), &delivery);
    let seen = attempts(&ask, 4, Some(Duration::from_secs(3))).await;
    let names: Vec<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["probe01", "probe02", "probe02", "probe03"]);
    assert_eq!((seen[0].1.outcome, &seen[0].1.reason), (Outcome::Ok, &None));
    let refused = seen[1].1.reason.clone().expect("a failure has a reason");
    assert_eq!((refused.phase, refused.kind), (Phase::Login, Kind::Rejected));
    assert!(refused.text.starts_with("probe02: receiving side: "), "{}", refused.text);
    let pending = seen[3].1.delivery.as_ref().map(|d| d.fate);
    assert_eq!((seen[3].1.outcome, pending), (Outcome::Slow, Some(Fate::Pending)));

    // Another account's turn comes before the horizon of that message; its fate is told all the same.
    let next = attempts(&ask, 1, Some(Duration::from_secs(3))).await;
    assert_eq!((next[0].0.as_str(), next[0].1.outcome), ("probe01", Outcome::Ok));
    let lost = tokio::time::timeout(Duration::from_secs(20), ask.afterwards()).await.expect("its horizon passes");
    let lost = lost.expect("a correction");
    assert_eq!((lost.observed_at, lost.outcome, lost.delivery.fate), (seen[3].1.at, Outcome::Failed, Fate::Lost));
    assert_eq!(lost.account, seen[3].1.account);
    let reason = lost.reason.expect("a loss has a reason");
    assert!(reason.text.starts_with("probe03: accepted by "), "{}", reason.text);
}
