//! `delivery` from mqtt to mqtt through a real mosquitto, and through a proxy before it.
use std::{sync::Arc, time::Duration};

use bongsu::{
    check::{Ask, Settings},
    observation::{Accept, Fate, Integrity, Kind, Observation, Outcome, Phase, Side},
};

use crate::harness::{
    build, context,
    mosquitto::{Mosquitto, Users, publish},
    proxy::Proxy,
    settings,
};

const TOPIC: &str = "bongsu/시험";

struct Bench {
    ask: Arc<dyn Ask>,
    settings: Settings,
}

impl Bench {
    /// From one place to another, with these further options.
    fn new(send: &str, receive: &str, more: &str) -> Self {
        let settings = settings(Duration::from_secs(10));
        let yaml = format!("{{ send: {{ mqtt: {{ {send} }} }}, receive: {{ mqtt: {{ {receive} }} }}{more} }}");
        Self { ask: build("delivery", &yaml, &settings), settings }
    }

    async fn attempt(&self) -> Observation {
        self.ask.attempt(context(&self.settings)).await.observation
    }
}

fn place(address: impl std::fmt::Display) -> String {
    format!("url: 'mqtt://{address}', topic: '{TOPIC}'")
}

#[tokio::test]
async fn messages_arrive_whatever_the_version_and_quality() {
    let broker = Mosquitto::start(Users::Anyone, "");
    let at = place(broker.address);
    for (sends, receives) in [("5", "5"), ("3.1.1", "3.1.1"), ("5", "3.1.1"), ("3.1.1", "5")] {
        for qos in 0..=2 {
            let side = |version| format!("{at}, version: {version}, qos: {qos}");
            let bench = Bench::new(&side(sends), &side(receives), "");
            for sequence in 1..=2 {
                let o = bench.attempt().await;
                assert_eq!((o.outcome, &o.reason), (Outcome::Ok, &None), "{sends} to {receives} at QoS {qos}");
                let d = o.delivery.expect("a message was sent");
                assert_eq!((d.fate, d.accept, d.integrity), (Fate::Arrived, Accept::Accepted, Some(Integrity::Equal)));
                assert_eq!((d.sequence, d.duplicates, d.foreign, d.reordered), (sequence, 0, 0, 0));
                assert_eq!(d.left_out, Vec::<String>::new());
                assert!(d.latency_ms.is_some() && d.accept_ms.is_some());
                let sides: Vec<_> = o.phases.iter().filter(|p| p.phase == Phase::Login).map(|p| p.side).collect();
                assert_eq!(sides, [Some(Side::Receive), Some(Side::Send)]);
            }
        }
    }
}

#[tokio::test]
async fn retained_and_strangers_messages_never_count() {
    let broker = Mosquitto::start(Users::Anyone, "");
    // Somebody kept a message on the topic, one that even looks like a tracer.
    let forged = format!("bongsu1.{}.{}\nascii: x", "A".repeat(60), "A".repeat(22));
    publish(broker.address, TOPIC, forged.as_bytes(), true);
    let at = format!("{}, version: 3.1.1", place(broker.address));
    let bench = Bench::new(&at, &at, "");
    let o = bench.attempt().await;
    assert_eq!((o.outcome, &o.reason), (Outcome::Ok, &None));
    // MQTT 3.1.1 cannot ask for no retained messages.
    assert_eq!(o.delivery.expect("a message was sent").foreign, 1);

    // A stranger publishes on the topic all the while.
    let address = broker.address;
    let stranger = tokio::task::spawn_blocking(move || {
        for n in 0..20 {
            publish(address, TOPIC, format!("{{\"temperature\": {n}}}").as_bytes(), false);
        }
    });
    let o = bench.attempt().await;
    assert_eq!((o.outcome, &o.reason), (Outcome::Ok, &None));
    stranger.await.expect("the stranger is served");
    // They are counted, in this attempt or the next one.
    let first = o.delivery.expect("a message was sent").foreign;
    let second = bench.attempt().await.delivery.expect("a message was sent").foreign;
    assert!(first + second >= 20, "{first} and {second}");
}

#[tokio::test]
async fn what_the_rules_of_the_broker_drop_is_lost() {
    // mosquitto acknowledges what its rules forbid in MQTT 3.1.1, and drops it; in MQTT 5 it says so.
    let dir = crate::harness::scratch();
    let acl = crate::harness::write(dir.path(), "acl", "topic read #\n");
    let broker = Mosquitto::start(Users::Anyone, &format!("acl_file {}", acl.display()));
    let at = place(broker.address);
    let old = format!("{at}, version: 3.1.1");
    let o = Bench::new(&old, &at, ", slow: 1s, lost_after: 1500ms").attempt().await;
    let reason = o.reason.expect("a failure has a reason");
    assert_eq!((o.outcome, reason.phase, reason.kind), (Outcome::Failed, Phase::Deliver, Kind::Lost));
    let target = format!("accepted by mqtt://{} in ", broker.address);
    assert!(
        reason.text.starts_with(&target) && reason.text.ends_with("ms, not arrived within 1.5s"),
        "{}",
        reason.text
    );
    assert_eq!(o.delivery.map(|d| d.fate), Some(Fate::Lost));

    let o = Bench::new(&at, &at, "").attempt().await;
    let reason = o.reason.expect("a failure has a reason");
    assert_eq!((o.outcome, reason.phase, reason.kind), (Outcome::Failed, Phase::Send, Kind::Rejected));
    assert!(reason.text.contains("message refused: not authorised"), "{}", reason.text);
    assert_eq!(o.delivery.map(|d| (d.fate, d.accept)), Some((Fate::Unsent, Accept::Rejected)));
}

#[tokio::test]
async fn a_late_message_is_slow() {
    let broker = Mosquitto::start(Users::Anyone, "");
    let proxy = Proxy::start(broker.address);
    let bench = Bench::new(&place(broker.address), &place(proxy.address), ", slow: 2s, lost_after: 20s");
    assert_eq!(bench.attempt().await.outcome, Outcome::Ok);
    // Every answer of the broker comes 3 s late: to the login, to the subscription, and then the message.
    proxy.delay_down(Duration::from_secs(3));
    let o = bench.attempt().await;
    assert_eq!((o.outcome, o.reason.map(|r| r.kind)), (Outcome::Slow, Some(Kind::Slow)));
    let d = o.delivery.expect("a message was sent");
    assert_eq!((d.fate, d.duplicates), (Fate::Late, 0));
    assert!(d.latency_ms.is_some_and(|l| l >= Duration::from_millis(2_990)), "{:?}", d.latency_ms);
}

#[tokio::test]
async fn a_message_that_comes_after_its_loss_was_booked_corrects_it() {
    let broker = Mosquitto::start(Users::Anyone, "");
    let proxy = Proxy::start(broker.address);
    let bench = Bench::new(&place(broker.address), &place(proxy.address), ", slow: 3s, lost_after: 4s");
    proxy.hold_from("bongsu1.");
    let o = bench.attempt().await;
    assert_eq!((o.outcome, o.reason.as_ref().map(|r| r.kind)), (Outcome::Failed, Some(Kind::Lost)));
    proxy.release();
    let correction = tokio::time::timeout(Duration::from_secs(20), bench.ask.afterwards()).await.expect("it comes");
    let correction = correction.expect("a correction");
    assert_eq!((correction.observed_at, correction.outcome), (o.at, Outcome::Slow));
    assert_eq!((correction.delivery.fate, correction.delivery.sequence), (Fate::Late, 1));
    assert!(correction.delivery.latency_ms.is_some_and(|l| l >= Duration::from_secs(4)));
    // The next one is what it should be: no duplicate, no inversion.
    let next = bench.attempt().await;
    let d = next.delivery.expect("a message was sent");
    assert_eq!((next.outcome, d.sequence, d.duplicates, d.reordered), (Outcome::Ok, 2, 0, 0));
}

#[tokio::test]
async fn an_attempt_ends_when_the_next_is_due() {
    let broker = Mosquitto::start(Users::Anyone, "");
    let proxy = Proxy::start(broker.address);
    let bench = Bench::new(&place(broker.address), &place(proxy.address), ", slow: 200ms, lost_after: 6s");
    proxy.hold_from("bongsu1.");
    let mut context = context(&bench.settings);
    context.wait_max = Some(Duration::from_millis(700));
    let o = bench.ask.attempt(context).await.observation;
    assert_eq!((o.outcome, o.delivery.map(|d| d.fate)), (Outcome::Slow, Some(Fate::Pending)));
    assert!(o.duration < Duration::from_millis(5_900), "{:?}", o.duration);
    let lost = tokio::time::timeout(Duration::from_secs(20), bench.ask.afterwards()).await.expect("its horizon passes");
    let lost = lost.expect("a correction");
    assert_eq!(
        (lost.outcome, lost.delivery.fate, lost.reason.map(|r| r.kind)),
        (Outcome::Failed, Fate::Lost, Some(Kind::Lost))
    );
}

#[tokio::test]
async fn a_receiver_that_breaks_is_told_and_proves_no_loss() {
    let broker = Mosquitto::start(Users::Anyone, "");
    let proxy = Proxy::start(broker.address);
    let bench = Bench::new(&place(broker.address), &place(proxy.address), ", slow: 1s, lost_after: 10s");
    // The message is on its way to the receiver when the connection is cut.
    proxy.hold_from("bongsu1.");
    let cut = async {
        proxy.held().await;
        proxy.cut();
        proxy.release();
    };
    let (o, ()) = tokio::join!(bench.attempt(), cut);
    let reason = o.reason.expect("a failure has a reason");
    assert_eq!((o.outcome, reason.phase), (Outcome::Failed, Phase::Deliver));
    assert!(matches!(reason.kind, Kind::Closed | Kind::Reset), "{reason:?}");
    assert!(reason.text.starts_with("receiving side: "), "{}", reason.text);
    assert_eq!(o.delivery.map(|d| d.fate), Some(Fate::Pending));
    assert!(o.duration < Duration::from_secs(9), "{:?}", o.duration);
}

#[tokio::test]
async fn an_acknowledgement_that_never_comes_is_uncertain() {
    let broker = Mosquitto::start(Users::Anyone, "");
    let (sending, receiving) = (Proxy::start(broker.address), Proxy::start(broker.address));
    let mut bench = Bench::new(&place(sending.address), &place(receiving.address), ", slow: 9s, lost_after: 10s");
    bench.settings.timeout = Duration::from_secs(4);
    // The message goes up, its acknowledgement does not come down; the message itself arrives.
    sending.hold_from("bongsu1.");
    let o = bench.attempt().await;
    let reason = o.reason.expect("a failure has a reason");
    assert_eq!((o.outcome, reason.phase, reason.kind), (Outcome::Failed, Phase::Send, Kind::Timeout));
    assert!(reason.text.contains("though the message arrived after"), "{}", reason.text);
    assert_eq!(o.delivery.map(|d| (d.fate, d.accept)), Some((Fate::Arrived, Accept::Uncertain)));

    // Now neither comes.
    sending.release();
    sending.hold_from("bongsu1.");
    receiving.hold_from("bongsu1.");
    let o = bench.attempt().await;
    let reason = o.reason.expect("a failure has a reason");
    assert_eq!((o.outcome, reason.phase, reason.kind), (Outcome::Failed, Phase::Send, Kind::Uncertain));
    assert_eq!(o.delivery.map(|d| d.fate), Some(Fate::Uncertain));
}
