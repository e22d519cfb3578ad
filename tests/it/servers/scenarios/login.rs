//! Only new logins fail, as in July 2024 at KakaoTalk and in February 2022 at Slack; and the other way round.

use std::time::Duration;

use bongsu::clock;

use super::{MailSystem, Stage, time};
use crate::harness::{
    daemon::until,
    mangler::Rates,
    mosquitto::{Mosquitto, Users},
    mqtt_proxy::MqttProxy,
    proxy::Proxy,
};

/// Short intervals; the usual thresholds.
const DEFAULTS: &str = "every: 2s, timeout: 2s, outage: { failures: 3, confirm_every: 200ms }";

const KEPT: &str = "slow: 10s, lost_after: 30s, sessions: kept, login_every: 200ms";

/// Longest an attempt takes with all its logins.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);

fn user(url: impl std::fmt::Display) -> String {
    format!("{{ mqtt: {{ url: 'mqtt://{url}', topic: bongsu/t, username: probe, password: geheim }} }}")
}

/// What is told of refused logins while the kept sessions deliver.
fn only_logins_fail(stage: &Stage, story: &str, breaks: impl FnOnce(), mends: impl FnOnce()) {
    let daemon = stage.play();
    let onset = clock::now();
    breaks();
    let broken = clock::now();
    stage.wait_for(story, onset, &["problem"]);
    let problem = &stage.told()[0];
    println!("{}", problem.text);
    assert_eq!(problem.alert["severity"], "degraded", "{}", problem.alert);
    let member = "SELECT severity || ' ' || phase || ' ' || kind FROM incident_checks";
    assert_eq!(stage.row(member), "degraded login rejected");
    assert!(problem.text.contains("new logins failed") && problem.text.contains("login"), "{}", problem.text);
    assert_eq!(stage.place.json(&["status"])["checks"][0]["state"], "degraded");
    // Meanwhile messages go on arriving.
    let refused = "FROM observations WHERE login = 'failed' AND fate <> 'pending'";
    until("more is seen of it", || stage.number(&format!("SELECT count(*) {refused}")) >= 8);
    assert_eq!(stage.place.query(&format!("SELECT DISTINCT fate || ' ' || outcome {refused}")), ["arrived slow"]);
    let mended = clock::now();
    mends();
    let sound = clock::now();
    stage.wait_for(story, mended, &["problem", "recovery"]);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    assert_eq!(stage.row("SELECT DISTINCT availability FROM availability_daily"), "1", "it was up all the while");
    assert_eq!(stage.number("SELECT sum(reconnections) FROM observations"), 0, "the sessions were kept");
    assert_eq!(stage.place.query("SELECT DISTINCT fate FROM observations WHERE fate <> 'pending'"), ["arrived"]);
    // An attempt is told by its beginning, and its login comes at its end.
    let edge = |column: &str| time(&stage.row(&format!("SELECT {column} FROM incidents")));
    assert!(edge("started_after") <= broken && edge("started_by") + ATTEMPT_MAX >= onset, "{story}: {onset}");
    assert!(edge("ended_after") <= sound && edge("ended_by") + ATTEMPT_MAX >= mended, "{story}: {mended}");
}

#[test]
fn a_broker_that_lets_nobody_in_still_delivers_to_who_is_in() {
    let [broker, strict] = ["geheim", "anders"].map(|word| Mosquitto::start(Users::Named(&[("probe", word)]), ""));
    // mosquitto ends sessions whose password was changed, so new ones are led to one that knows another.
    let front = Proxy::start(broker.address);
    let check = format!("delivery: {{ send: {0}, receive: {0}, {KEPT} }}", user(front.address));
    let stage = Stage::new(MailSystem::start(), &[("chat", check)], DEFAULTS, "{ after: 0s, to: [hook, mail] }");
    only_logins_fail(&stage, "R5 mqtt", || front.lead_to(strict.address), || front.lead_to(broker.address));
    let _daemon = stage.place.start();
    stage.is_one_incident("degraded");
}

#[test]
fn a_mail_system_that_lets_nobody_in_still_delivers_to_who_is_in() {
    let mail = MailSystem::start();
    let check = mail.delivery(KEPT);
    let stage = Stage::new(mail, &[("mail", check)], DEFAULTS, "{ after: 0s, to: [hook, mail] }");
    let dovecot = &stage.mail.dovecot;
    only_logins_fail(&stage, "R5 mail", || dovecot.refuse(&["probe"]), || dovecot.refuse(&[]));
    let _daemon = stage.place.start();
    stage.is_one_incident("degraded");
}

#[test]
fn sessions_that_have_gone_deaf_are_a_broken_delivery_beside_logins_that_work() {
    let broker = Mosquitto::start(Users::Named(&[("probe", "geheim")]), "");
    let front = MqttProxy::start(broker.address, 1, Rates::default());
    // Logins are tried at the usual interval, which is longer than this outage.
    let kept = "slow: 1s, lost_after: 2s, sessions: kept";
    let check = format!("delivery: {{ send: {0}, receive: {0}, {kept} }}", user(front.address));
    let defaults = DEFAULTS;
    let stage = Stage::new(MailSystem::start(), &[("chat", check)], defaults, "{ after: 0s, to: [hook, mail] }");
    let _daemon = stage.play();
    let onset = clock::now();
    front.now(Rates { drop: 1.0, ..Rates::default() });
    stage.wait_for("R5 reversed", onset, &["problem"]);
    let problem = &stage.told()[0];
    println!("{}", problem.text);
    let member = "SELECT severity || ' ' || phase || ' ' || kind FROM incident_checks";
    assert_eq!(stage.row(member), "down deliver lost");
    assert!(problem.text.contains("; new logins work"), "{}", problem.text);
    assert_eq!(stage.number("SELECT count(*) FROM observations WHERE login = 'failed'"), 0);
    let mended = clock::now();
    front.now(Rates::default());
    stage.wait_for("R5 reversed", mended, &["problem", "recovery"]);
    stage.is_one_incident("down");
}
