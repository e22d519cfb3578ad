//! `mqtt` against a real mosquitto.
use std::time::Duration;

use bongsu::{
    check::Answer,
    observation::{Kind, Observation, Outcome, Phase},
};

use crate::harness::{
    build, context,
    mosquitto::{Mosquitto, Users},
    settings,
};

async fn probe(yaml: &str) -> Answer {
    let settings = settings(Duration::from_secs(5));
    build("mqtt", yaml, &settings).attempt(context(&settings)).await
}

fn phases(o: &Observation) -> Vec<Phase> {
    o.phases.iter().map(|p| p.phase).collect()
}

#[tokio::test]
async fn both_versions_log_in_ping_and_say_goodbye() {
    let broker = Mosquitto::start(Users::Anyone, "");
    for (version, spoken) in [("", "5"), (", version: 5", "5"), (", version: 3.1.1", "3.1.1")] {
        let Answer { observation: o, transcript } =
            probe(&format!("{{ url: 'mqtt://{}'{version} }}", broker.address)).await;
        assert_eq!((o.outcome, &o.reason), (Outcome::Ok, &None), "{version}");
        assert_eq!(o.details["mqtt_version"], spoken);
        assert_eq!(phases(&o), [Phase::Resolve, Phase::Connect, Phase::Login, Phase::Exchange, Phase::Close]);
        assert_eq!(o.address, Some(broker.address));
        let said: Vec<&str> = transcript.iter().map(|l| l.text.split(' ').next().unwrap_or("")).collect();
        let packets = ["CONNECT", "CONNACK", "PINGREQ", "PINGRESP", "DISCONNECT"];
        assert!(packets.iter().all(|p| said.contains(p)), "{said:?}");
    }
    assert!(!broker.server.log().contains("protocol error"), "{}", broker.server.log());
}

#[tokio::test]
async fn logins_are_accepted_and_refused_in_words() {
    let broker = Mosquitto::start(Users::Named(&[("probe", "geheim")]), "");
    let url = format!("url: 'mqtt://{}', username: probe", broker.address);
    for version in ["5", "3.1.1"] {
        let o = probe(&format!("{{ {url}, password: geheim, version: {version} }}")).await.observation;
        assert_eq!((o.outcome, o.reason), (Outcome::Ok, None), "{version}");
        let Answer { observation: o, transcript } =
            probe(&format!("{{ {url}, password: falsch1, version: {version} }}")).await;
        let reason = o.reason.expect("a failure has a reason");
        assert_eq!((o.outcome, reason.phase, reason.kind), (Outcome::Failed, Phase::Login, Kind::Rejected));
        // mosquitto says "not authorised" for a bad password, in both versions.
        assert!(reason.text.starts_with("login refused: not authorised ("), "{}", reason.text);
        assert!(transcript.iter().all(|l| !l.text.contains("falsch1")), "{transcript:?}");
    }
}

#[tokio::test]
async fn tls_is_verified_and_told() {
    let broker = Mosquitto::start(Users::Anyone, "");
    let url = format!("url: 'mqtts://{}'", broker.tls);
    let ca = format!("tls: {{ ca: '{}' }}", broker.certificate.display());
    let o = probe(&format!("{{ {url}, {ca} }}")).await.observation;
    assert_eq!((o.outcome, &o.reason), (Outcome::Ok, &None));
    assert!(o.tls.as_ref().is_some_and(|t| t.version == "1.3" && t.days_left > Some(1)), "{:?}", o.tls);
    assert!(phases(&o).contains(&Phase::Tls));

    let o = probe(&format!("{{ {url} }}")).await.observation;
    let reason = o.reason.expect("a failure has a reason");
    assert_eq!((o.outcome, reason.phase, reason.kind), (Outcome::Failed, Phase::Tls, Kind::Certificate));

    // Plain MQTT to the TLS port, and TLS to the plain port.
    let o = probe(&format!("{{ url: 'mqtt://{}' }}", broker.tls)).await.observation;
    assert_eq!(o.outcome, Outcome::Failed, "{:?}", o.reason);
    let o = probe(&format!("{{ url: 'mqtts://{}', {ca} }}", broker.address)).await.observation;
    assert_eq!((o.outcome, o.reason.map(|r| r.phase)), (Outcome::Failed, Some(Phase::Tls)));
}

#[tokio::test]
async fn a_frozen_broker_and_a_stopped_one_are_told_apart() {
    let mut broker = Mosquitto::start(Users::Anyone, "");
    let settings = settings(Duration::from_secs(2));
    let ask = build("mqtt", &format!("{{ url: 'mqtt://{}' }}", broker.address), &settings);
    // The kernel still accepts connections of a stopped process: a port check would see nothing.
    broker.server.signal("STOP");
    let reason = ask.attempt(context(&settings)).await.observation.reason.expect("a failure has a reason");
    assert_eq!((reason.phase, reason.kind), (Phase::Login, Kind::Timeout));
    assert!(reason.text.contains("within 2s"), "{}", reason.text);
    broker.server.stop();
    let reason = ask.attempt(context(&settings)).await.observation.reason.expect("a failure has a reason");
    assert_eq!((reason.phase, reason.kind), (Phase::Connect, Kind::Refused));
}

#[tokio::test]
async fn a_url_alone_is_enough() {
    let broker = Mosquitto::start(Users::Anyone, "");
    let ask = bongsu::check::from_url(&format!("mqtt://{}", broker.address)).expect("a good URL");
    assert_eq!((ask.kind(), ask.target()), ("mqtt", format!("mqtt://{}", broker.address)));
    let settings = settings(Duration::from_secs(5));
    assert_eq!(ask.attempt(context(&settings)).await.observation.outcome, Outcome::Ok);
    for (bad, text) in [
        ("mqqt://h", "unknown scheme `mqqt`; did you mean `mqtt`?"),
        ("mqtt://u:hunter2@h/path", "an MQTT URL has no path; name the topic by `topic:`"),
        ("broker", "this is no URL"),
    ] {
        let error = bongsu::check::from_url(bad).err().unwrap_or_else(|| panic!("{bad} is refused"));
        assert!(error.starts_with(text) && !error.contains("hunter2"), "{bad}: {error}");
    }
}
