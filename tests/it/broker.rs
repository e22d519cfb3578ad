//! `mqtt` and `delivery` against a scripted broker that misbehaves as real ones do.
use std::time::Duration;

use bongsu::observation::{Accept, Fate, Integrity, Kind, Observation, Outcome, Phase};

use crate::harness::{
    broker::{Broker, Manner},
    build, context, settings,
};

async fn probe(manner: Manner, more: &str) -> Observation {
    let broker = Broker::start(manner);
    let timeout = if manner == Manner::Silent { Duration::from_secs(2) } else { Duration::from_secs(10) };
    let settings = settings(timeout);
    let ask = build("mqtt", &format!("{{ url: 'mqtt://{}'{more} }}", broker.address), &settings);
    ask.attempt(context(&settings)).await.observation
}

async fn deliver(manner: Manner) -> Observation {
    let broker = Broker::start(manner);
    let settings = settings(Duration::from_secs(2));
    let place = format!("{{ mqtt: {{ url: 'mqtt://{}', topic: t }} }}", broker.address);
    let yaml = format!("{{ send: {place}, receive: {place}, slow: 3s, lost_after: 4s }}");
    build("delivery", &yaml, &settings).attempt(context(&settings)).await.observation
}

#[tokio::test]
async fn each_manner_of_a_broker_has_its_reason() {
    let (login, exchange) = (Phase::Login, Phase::Exchange);
    let table = [
        (Manner::Silent, login, Kind::Timeout, "within 2s"),
        (
            Manner::RefusesLogin(0x86),
            login,
            Kind::Rejected,
            "login refused: bad user name or password (reason code 0x86)",
        ),
        (Manner::RefusesLogin(0x87), login, Kind::Rejected, "login refused: not authorised (reason code 0x87)"),
        (Manner::RefusesLogin(0x88), login, Kind::Rejected, "login refused: server unavailable (reason code 0x88)"),
        (Manner::Greets("220 mail.example.com ESMTP\r\n"), login, Kind::Protocol, "what answers is no MQTT server"),
    ];
    for (manner, phase, kind, text) in table {
        let o = probe(manner, "").await;
        let reason = o.reason.unwrap_or_else(|| panic!("{manner:?} fails"));
        assert_eq!((o.outcome, reason.phase, reason.kind), (Outcome::Failed, phase, kind), "{manner:?}");
        assert!(reason.text.contains(text), "{manner:?}: {}", reason.text);
    }
    for (code, text) in [(4, "bad user name or password"), (5, "not authorised"), (3, "server unavailable")] {
        let reason =
            probe(Manner::RefusesLogin(code), ", version: 3.1.1").await.reason.expect("a failure has a reason");
        assert_eq!(reason.text, format!("login refused: {text} (return code {code})"));
    }
    let o = deliver(Manner::RefusesSubscriptions).await;
    let reason = o.reason.expect("a failure has a reason");
    assert_eq!((o.outcome, reason.phase, reason.kind), (Outcome::Failed, exchange, Kind::Rejected));
    assert_eq!(reason.text, "receiving side: subscription to t refused: unspecified error (reason code 0x80)");
    assert_eq!(o.delivery, None, "nothing was sent");
}

#[tokio::test]
async fn an_older_server_gets_the_older_version_unless_told_otherwise() {
    for manner in [Manner::HangsUpOn5, Manner::Refuses5InOldForm, Manner::Refuses5] {
        let o = probe(manner, "").await;
        assert_eq!((o.outcome, &o.reason), (Outcome::Ok, &None), "{manner:?}");
        assert_eq!(o.details["mqtt_version"], "3.1.1");
        let told = o.details["mqtt_fallback"].as_str().expect("the fallback is told");
        assert!(told.starts_with("MQTT 5 was refused ("), "{told}");
        assert_eq!(o.phases.iter().filter(|p| p.phase == Phase::Connect).count(), 2);

        let o = probe(manner, ", version: 5").await;
        assert_eq!((o.outcome, o.reason.map(|r| r.phase)), (Outcome::Failed, Some(Phase::Login)), "{manner:?}");
        let o = probe(manner, ", version: 3.1.1").await;
        assert_eq!((o.outcome, o.details.get("mqtt_fallback")), (Outcome::Ok, None), "{manner:?}");
    }
}

#[tokio::test]
async fn each_manner_of_delivering_has_its_verdict() {
    let table = [
        (Manner::Good, Outcome::Ok, Fate::Arrived, Accept::Accepted, None),
        (Manner::Twice, Outcome::Ok, Fate::Arrived, Accept::Accepted, None),
        (Manner::Drops, Outcome::Failed, Fate::Lost, Accept::Accepted, Some(Kind::Lost)),
        (Manner::Transcodes, Outcome::Failed, Fate::Arrived, Accept::Accepted, Some(Kind::Corrupt)),
        (Manner::NoAck, Outcome::Failed, Fate::Arrived, Accept::Uncertain, Some(Kind::Timeout)),
    ];
    for (manner, outcome, fate, accept, kind) in table {
        let o = deliver(manner).await;
        assert_eq!((o.outcome, o.reason.as_ref().map(|r| r.kind)), (outcome, kind), "{manner:?}: {:?}", o.reason);
        let d = o.delivery.expect("a message was sent");
        assert_eq!((d.fate, d.accept), (fate, accept), "{manner:?}");
        let integrity = match manner {
            Manner::Drops => None,
            Manner::Transcodes => Some(Integrity::Transcoded),
            _ => Some(Integrity::Equal),
        };
        assert_eq!(d.integrity, integrity, "{manner:?}");
    }
}

#[tokio::test]
async fn duplicates_are_counted_once_they_are_seen() {
    let broker = Broker::start(Manner::Twice);
    let settings = settings(Duration::from_secs(2));
    let place = format!("{{ mqtt: {{ url: 'mqtt://{}', topic: t }} }}", broker.address);
    let ask = build("delivery", &format!("{{ send: {place}, receive: {place} }}"), &settings);
    let d = ask.attempt(context(&settings)).await.observation.delivery.expect("a message was sent");
    // The second copy may come a moment after the verdict; then it is a correction.
    let duplicates = if d.duplicates == 0 {
        let correction = tokio::time::timeout(Duration::from_secs(20), ask.afterwards()).await.expect("it comes");
        let correction = correction.expect("a second copy");
        assert_eq!((correction.outcome, correction.delivery.fate), (Outcome::Ok, Fate::Arrived));
        correction.delivery.duplicates
    } else {
        d.duplicates
    };
    assert_eq!(duplicates, 1);
    // A broker that has come to its senses.
    broker.now(Manner::Good);
    let d = ask.attempt(context(&settings)).await.observation.delivery.expect("a message was sent");
    assert_eq!((d.sequence, d.duplicates, d.reordered, d.foreign), (2, 0, 0, 0));
}
