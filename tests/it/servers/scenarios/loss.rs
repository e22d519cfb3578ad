//! What a way does to messages: several copies, late ones, losses that turn up after all, and text that is changed.

use std::time::Duration;

use bongsu::clock;

use super::{MailSystem, Stage};
use crate::harness::{
    daemon::until,
    mangler::{Alteration, Rates},
    mosquitto::{Mosquitto, Users},
    mqtt_proxy::MqttProxy,
};

const TOLD: &str = "{ after: 0s, to: [hook, mail] }";

fn place(address: std::net::SocketAddr) -> String {
    format!("{{ mqtt: {{ url: 'mqtt://{address}', topic: t }} }}")
}

#[test]
fn copies_and_delay_are_a_degradation_and_no_loss() {
    let broker = Mosquitto::start(Users::Anyone, "");
    let late = MqttProxy::start(broker.address, 1, Rates::default());
    let twice = MqttProxy::start(late.address, 1, Rates::default());
    let kept = "slow: 1500ms, lost_after: 20s, sessions: kept";
    let check = format!("delivery: {{ send: {}, receive: {}, {kept} }}", place(broker.address), place(twice.address));
    let defaults = "every: 1s, timeout: 1s";
    let stage = Stage::new(MailSystem::start(), &[("chat", check)], defaults, TOLD);
    let daemon = stage.play();
    let onset = clock::now();
    twice.now(Rates { repeat: 1.0, ..Rates::default() });
    late.now(Rates { delay: 1.0, delay_by: Duration::from_secs(2), ..Rates::default() });
    stage.wait_for("R8", onset, &["problem"]);
    let problem = &stage.told()[0];
    println!("{}", problem.text);
    let member = stage.row("SELECT severity || ' ' || phase || ' ' || kind FROM incident_checks");
    assert!(["degraded deliver duplicate", "degraded exchange slow"].contains(&member.as_str()), "{member}");
    let suffered = "SELECT count(*) FROM observations WHERE fate = 'late' AND duplicates > 0";
    until("more is seen of it", || stage.number(suffered) >= 12);
    let mended = clock::now();
    late.now(Rates::default());
    twice.now(Rates::default());
    stage.wait_for("R8", mended, &["problem", "recovery"]);
    until("the last one has met its fate", || stage.number("SELECT sum(messages_pending) FROM observations") == 0);
    let sums = "SELECT messages_lost || ' ' || (messages_late >= 12) || ' ' || (messages_duplicated >= 12) || ' ' || \
                availability FROM availability_daily";
    assert_eq!(stage.place.query(sums), ["0 1 1 1.0"]);
    assert_eq!(stage.number("SELECT count(*) FROM observations WHERE outcome = 'failed'"), 0);
    assert_eq!(stage.number("SELECT count(*) FROM incident_timeline WHERE entry = 'corrected'"), 0);
    stage.is_one_incident("degraded");
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

/// Messages that are accepted vanish, until they turn up together with the next that works.
fn silent_loss(stage: &Stage, story: &str, set: impl Fn(Rates), release: impl FnOnce()) {
    let daemon = stage.play();
    let onset = clock::now();
    set(Rates { delay: 1.0, delay_by: Duration::from_secs(3_600), ..Rates::default() });
    stage.wait_for(story, onset, &["problem"]);
    let problem = &stage.told()[0];
    println!("{}", problem.text);
    assert_eq!(stage.row("SELECT severity || ' ' || phase || ' ' || kind FROM incident_checks"), "down deliver lost");
    assert!(problem.text.contains("accepted by") && problem.text.contains("not arrived within"), "{}", problem.text);
    let lost = "SELECT count(*) FROM observations WHERE fate = 'lost' AND accept = 'accepted'";
    let booked = stage.number(lost);
    assert!(booked >= 3, "{booked}");
    let today = "SELECT messages_lost || ' ' || messages_late || ' ' || availability FROM availability_daily";
    let before: Vec<f64> = numbers(&stage.row(today));
    assert!(before[0] >= 3.0 && before[1] == 0.0 && before[2] < 0.99, "{before:?}");

    let arrived = "SELECT count(*) FROM observations WHERE fate = 'arrived'";
    let arrived_before = stage.number(arrived);
    let mended = clock::now();
    set(Rates::default());
    until("the next one works", || stage.number(arrived) > arrived_before);
    release();
    stage.wait_for(story, mended, &["problem", "recovery"]);
    until("none is lost any more", || stage.number("SELECT sum(messages_lost) FROM observations") == 0);
    let after: Vec<f64> = numbers(&stage.row(today));
    println!("{story}: lost, late and availability {before:?}, then {after:?}");
    assert!(after[0] == 0.0 && after[1] >= booked as f64 && after[2] > before[2], "{before:?} {after:?}");
    assert!((after[2] - 1.0).abs() < 1e-9, "what is late has arrived: {after:?}");
    let lines = stage.place.query("SELECT text FROM incident_timeline WHERE entry = 'corrected'");
    println!("{lines:#?}");
    assert!(lines.len() >= 3, "{lines:?}");
    assert!(
        lines.iter().all(|l| l.contains(" arrived after all, after ") && l.ends_with("late, not lost")),
        "{lines:?}"
    );
    assert_eq!(stage.number("SELECT sum(duplicates) + sum(reordered > 1) FROM observations"), 0);
    stage.is_one_incident("down");
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

fn numbers(row: &str) -> Vec<f64> {
    row.split(' ').map(|n| n.parse().unwrap_or_else(|e| panic!("{row}: {e}"))).collect()
}

#[test]
fn what_turns_up_after_all_was_not_lost_in_mqtt() {
    let broker = Mosquitto::start(Users::Anyone, "");
    let proxy = MqttProxy::start(broker.address, 1, Rates::default());
    let (send, receive) = (place(broker.address), place(proxy.address));
    let check = format!("delivery: {{ send: {send}, receive: {receive}, slow: 1500ms, lost_after: 2s }}");
    let defaults = "every: 1s, timeout: 1s, outage: { failures: 3, confirm_every: 1s }";
    let stage = Stage::new(MailSystem::start(), &[("chat", check)], defaults, TOLD);
    silent_loss(&stage, "R9 mqtt", |rates| proxy.now(rates), || proxy.release());
}

#[test]
fn what_turns_up_after_all_was_not_lost_in_mail() {
    let mail = MailSystem::start();
    let check = mail.delivery("slow: 4s, lost_after: 6s");
    let defaults = "every: 3s, timeout: 3s, outage: { failures: 3, confirm_every: 3s }";
    let stage = Stage::new(mail, &[("mail", check)], defaults, TOLD);
    let proxy = &stage.mail.proxy;
    silent_loss(&stage, "R9 mail", |rates| proxy.now(rates), || proxy.release());
}

#[test]
fn text_that_is_changed_is_told_by_how_it_was_changed() {
    let ways = [
        ("normalising", Alteration::Normalise),
        ("asking", Alteration::QuestionMarks),
        ("cutting", Alteration::CutEnd),
        ("emoji", Alteration::DropEmoji),
    ];
    let broker = Mosquitto::start(Users::Anyone, "");
    let proxies = ways.map(|_| MqttProxy::start(broker.address, 1, Rates::default()));
    let mail = MailSystem::start();
    let mut services: Vec<(&str, String)> = Vec::new();
    for ((name, _), proxy) in ways.iter().zip(&proxies) {
        let side = |address| format!("{{ mqtt: {{ url: 'mqtt://{address}', topic: {name} }} }}");
        let (send, receive) = (side(broker.address), side(proxy.address));
        services.push((name, format!("delivery: {{ send: {send}, receive: {receive}, slow: 10s, lost_after: 30s }}")));
    }
    services.push(("mail", mail.delivery("slow: 10s, lost_after: 30s")));
    // What carries ASCII alone sees nothing of it.
    services.push(("plain", format!("mqtt: {{ url: 'mqtt://{}' }}", proxies[1].address)));
    let defaults = "every: 2s, timeout: 2s, outage: { failures: 3, confirm_every: 500ms }";
    let stage = Stage::new(mail, &services, defaults, TOLD);
    let _daemon = stage.play();
    let onset = clock::now();
    let changing = |alteration| Rates { alter: 1.0, alteration, ..Rates::default() };
    for ((_, alteration), proxy) in ways.iter().zip(&proxies) {
        proxy.now(changing(*alteration));
    }
    stage.mail.proxy.now(changing(Alteration::QuestionMarks));
    stage.wait_for("R11", onset, &["problem"; 5]);
    let told = stage.told();
    let all = ways.iter().map(|(name, how)| (*name, how.class())).chain([("mail", Alteration::QuestionMarks.class())]);
    for (name, class) in all {
        let problem = told.iter().find(|t| t.alert["service"] == name).unwrap_or_else(|| panic!("{name} is told"));
        assert!(problem.text.contains(&format!("arrived {}", class.as_str())), "{name}: {}", problem.text);
        let of = format!("FROM incident_checks WHERE check_name = '{name}/way'");
        assert_eq!(stage.row(&format!("SELECT severity || ' ' || phase || ' ' || kind {of}")), "down deliver corrupt");
        let of = format!("FROM observations WHERE check_name = '{name}/way' AND outcome = 'failed'");
        assert_eq!(stage.place.query(&format!("SELECT DISTINCT integrity {of}")), [class.as_str()], "{name}");
        assert_eq!(stage.number(&format!("SELECT count(*) {of} AND fate <> 'arrived'")), 0, "{name}: none is lost");
    }
    println!("{}", told[0].text);
    let mended = clock::now();
    for proxy in &proxies {
        proxy.now(Rates::default());
    }
    stage.mail.proxy.now(Rates::default());
    until("all are up again", || stage.kinds().iter().filter(|k| *k == "recovery").count() == 5);
    println!("R11: the last recovery told {:?} after the fact", clock::now().since(mended));
    assert_eq!(stage.number("SELECT count(*) FROM incidents"), 5);
    assert_eq!(stage.number("SELECT count(*) FROM observations WHERE check_name = 'plain/way' AND outcome <> 'ok'"), 0);
}
