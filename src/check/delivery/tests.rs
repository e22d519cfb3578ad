//! The delivery check over sessions in memory, whose every move is scripted.
use std::{collections::VecDeque, sync::Mutex as StdMutex};

use bytes::Bytes;
use schemars::SchemaGenerator;
use serde_json::Value;
use tokio::sync::mpsc;

mod sessions;

use super::*;
use crate::{
    observation::{Fate, Integrity, Observation, Outcome},
    options::Options,
    protocol::{Arrival, Carries, Nature, Net, ReceiveSession, SendFailure, wire::NetOptions},
};

/// What the way does with one message.
#[derive(Clone, Copy, Debug)]
enum Way {
    Deliver,
    Twice,
    Drop,
    /// Delivered after this many milliseconds.
    Late(u64),
    /// Delivered with a changed sample.
    Change,
    /// Delivered, and never acknowledged.
    NoAck,
    /// Neither delivered nor acknowledged.
    NoAckAndDrop,
    /// Not taken by the network at all.
    Stuck,
    Reject,
    /// The receiving session ends before the message comes.
    HangUp,
    /// Only a stored copy comes.
    Retained,
    /// A stranger's and a forged message come first.
    Strangers,
}

/// A broker in memory: subscribers get what is sent.
#[derive(Default)]
struct Wire {
    ways: StdMutex<VecDeque<Way>>,
    subscribers: StdMutex<Vec<mpsc::UnboundedSender<Result<Arrival, Reason>>>>,
    sent: StdMutex<usize>,
    receiver_is_down: StdMutex<bool>,
    sender_is_down: StdMutex<bool>,
    sending_logins: StdMutex<usize>,
    receiving_logins: StdMutex<usize>,
    /// Whether messages stay at the server, as in a mailbox, and the number of the next.
    mailbox: StdMutex<Option<u64>>,
    /// Handles of messages that were taken off it.
    discarded: StdMutex<Vec<u64>>,
}

impl Wire {
    fn deliver(&self, payload: &[u8], retained: bool) {
        let nature = if retained { Nature::Kept } else { Nature::Message };
        let mut arrival = Arrival { nature, ..Arrival::live(clock::instant(), Bytes::copy_from_slice(payload)) };
        if let Some(next) = self.mailbox.lock().expect("no panic").as_mut() {
            (arrival.copy, arrival.handle) = (Some(*next), Some(*next));
            *next += 1;
        }
        self.subscribers.lock().expect("no panic").retain(|s| s.send(Ok(arrival.clone())).is_ok());
    }
}

struct Ends(Arc<Wire>);

struct Sending(Arc<Wire>, bool);

struct Receiving(mpsc::UnboundedReceiver<Result<Arrival, Reason>>, Arc<Wire>);

impl Sender for Ends {
    fn target(&self) -> String {
        "memory://a".into()
    }
    fn carries(&self) -> Carries {
        Carries { unicode: true, lines: true, line_bytes_max: 4096, bytes_max: 4096 }
    }
    fn open<'a>(&'a self, cx: &'a mut Attempt) -> Boxed<'a, Result<Box<dyn SendSession>, Reason>> {
        Box::pin(async move {
            cx.phase(Phase::Login);
            if *self.0.sender_is_down.lock().expect("no panic") {
                return Err(cx.fail(Kind::Refused, "connection refused"));
            }
            *self.0.sending_logins.lock().expect("no panic") += 1;
            Ok(Box::new(Sending(self.0.clone(), false)) as Box<dyn SendSession>)
        })
    }
}

impl SendSession for Sending {
    fn send<'a>(&'a mut self, cx: &'a mut Attempt, payload: &'a [u8]) -> Boxed<'a, Result<(), SendFailure>> {
        Box::pin(async move {
            cx.phase(Phase::Send);
            let wire = self.0.clone();
            let way = wire.ways.lock().expect("no panic").pop_front().unwrap_or(Way::Deliver);
            *wire.sent.lock().expect("no panic") += 1;
            self.1 = !matches!(way, Way::Stuck);
            match way {
                Way::Deliver => wire.deliver(payload, false),
                Way::Twice => {
                    wire.deliver(payload, false);
                    wire.deliver(payload, false);
                }
                Way::Change => {
                    let text = String::from_utf8_lossy(payload).replace("black", "white");
                    wire.deliver(text.as_bytes(), false);
                }
                Way::NoAck => {
                    wire.deliver(payload, false);
                    std::future::pending::<()>().await;
                }
                Way::NoAckAndDrop | Way::Stuck => std::future::pending().await,
                Way::Late(ms) => {
                    let payload = payload.to_vec();
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(ms)).await;
                        wire.deliver(&payload, false);
                    });
                }
                Way::Reject => {
                    let reason = cx.fail(Kind::Rejected, "quota exceeded");
                    return Err(SendFailure { accept: Accept::Rejected, reason });
                }
                Way::HangUp => {
                    let reason = Reason::new(Phase::Deliver, Kind::Closed, "the server closed the connection");
                    for subscriber in wire.subscribers.lock().expect("no panic").drain(..) {
                        let _ = subscriber.send(Err(reason.clone()));
                    }
                }
                Way::Retained => wire.deliver(payload, true),
                Way::Strangers => {
                    wire.deliver(b"{\"temperature\": 21}", false);
                    let mut forged = payload.to_vec();
                    forged[20] ^= 1;
                    wire.deliver(&forged, false);
                    wire.deliver(payload, false);
                }
                Way::Drop => {}
            }
            Ok(())
        })
    }
    fn message_left(&self) -> bool {
        self.1
    }
    fn close<'a>(self: Box<Self>, cx: &'a mut Attempt) -> Boxed<'a, ()> {
        Box::pin(async move { cx.phase(Phase::Close) })
    }
}

impl Receiver for Ends {
    fn target(&self) -> String {
        "memory://b".into()
    }
    fn keeps(&self) -> bool {
        self.0.mailbox.lock().expect("no panic").is_some()
    }
    fn open<'a>(&'a self, cx: &'a mut Attempt) -> Boxed<'a, Result<Box<dyn ReceiveSession>, Reason>> {
        Box::pin(async move {
            cx.phase(Phase::Login);
            if *self.0.receiver_is_down.lock().expect("no panic") {
                return Err(cx.fail(Kind::Rejected, "not authorised"));
            }
            let (tx, rx) = mpsc::unbounded_channel();
            self.0.subscribers.lock().expect("no panic").push(tx);
            *self.0.receiving_logins.lock().expect("no panic") += 1;
            Ok(Box::new(Receiving(rx, self.0.clone())) as Box<dyn ReceiveSession>)
        })
    }
}

impl ReceiveSession for Receiving {
    fn next<'a>(&'a mut self) -> Boxed<'a, Result<Arrival, Reason>> {
        Box::pin(async move {
            self.0.recv().await.unwrap_or_else(|| Err(Reason::new(Phase::Deliver, Kind::Closed, "gone")))
        })
    }
    fn discard(&mut self, handle: u64) {
        self.1.discarded.lock().expect("no panic").push(handle);
    }
    fn close<'a>(self: Box<Self>) -> Boxed<'a, ()> {
        Box::pin(std::future::ready(()))
    }
}

const TIMEOUT: Duration = Duration::from_millis(600);
const OBJECTIVE: Duration = Duration::from_millis(400);
const HORIZON: Duration = Duration::from_millis(1_500);

struct Bench {
    wire: Arc<Wire>,
    ask: DeliveryAsk,
    net: Arc<Net>,
}

impl Bench {
    fn new(ways: impl IntoIterator<Item = Way>) -> Self {
        Self::with(ways, Manner { objective: OBJECTIVE, horizon: HORIZON, ..Manner::default() })
    }

    fn with(ways: impl IntoIterator<Item = Way>, manner: Manner) -> Self {
        let wire = Arc::new(Wire::default());
        wire.ways.lock().expect("no panic").extend(ways);
        let name = "a/round-trip".parse().expect("a name");
        let ends = || Box::new(Ends(wire.clone()));
        let ask = DeliveryAsk::new(name, ends(), ends(), manner);
        let nameservers = vec!["192.0.2.1:53".parse().expect("an address")];
        let net = Net::new(NetOptions { nameservers, ..NetOptions::default() }).expect("a net");
        Self { wire, ask, net }
    }

    async fn attempt(&self, wait_max: Option<Duration>) -> Observation {
        let settings = Settings { timeout: TIMEOUT, slow: None, ip: Families::Any };
        let context = Context { net: self.net.clone(), at: clock::now(), settings, explain: false, wait_max };
        self.ask.attempt(context).await.observation
    }

    async fn afterwards(&self) -> Option<Correction> {
        tokio::time::timeout(Duration::from_secs(20), self.ask.afterwards()).await.expect("afterwards ends")
    }
}

fn seen(o: &Observation) -> (Outcome, Option<Fate>, Option<Kind>) {
    (o.outcome, o.delivery.as_ref().map(|d| d.fate), o.reason.as_ref().map(|r| r.kind))
}

#[tokio::test]
async fn each_way_has_its_verdict() {
    let table = [
        (Way::Deliver, Outcome::Ok, Fate::Arrived, None),
        (Way::Twice, Outcome::Ok, Fate::Arrived, None),
        (Way::Strangers, Outcome::Ok, Fate::Arrived, None),
        (Way::Late(700), Outcome::Slow, Fate::Late, Some(Kind::Slow)),
        (Way::Drop, Outcome::Failed, Fate::Lost, Some(Kind::Lost)),
        (Way::Retained, Outcome::Failed, Fate::Lost, Some(Kind::Lost)),
        (Way::Change, Outcome::Failed, Fate::Arrived, Some(Kind::Corrupt)),
        (Way::NoAck, Outcome::Failed, Fate::Arrived, Some(Kind::Timeout)),
        (Way::NoAckAndDrop, Outcome::Failed, Fate::Uncertain, Some(Kind::Uncertain)),
        (Way::Stuck, Outcome::Failed, Fate::Unsent, Some(Kind::Timeout)),
        (Way::Reject, Outcome::Failed, Fate::Unsent, Some(Kind::Rejected)),
        (Way::HangUp, Outcome::Failed, Fate::Pending, Some(Kind::Closed)),
    ];
    // All at once: each has a bench of its own, and most of it is waiting.
    let runs = table.map(|(way, outcome, fate, kind)| async move {
        let bench = Bench::new([way]);
        let o = bench.attempt(None).await;
        assert_eq!(seen(&o), (outcome, Some(fate), kind), "{way:?}: {:?}", o.reason);
        o
    });
    let [_, twice, strangers, late, drop, retained, change, no_ack, .., hang_up] =
        <[Observation; 12]>::try_from(futures_util::future::join_all(runs).await).expect("as many as ways");
    let facts = |o: &Observation| o.delivery.clone().expect("a message was sent");
    assert_eq!(facts(&twice).duplicates, 1);
    assert_eq!(facts(&strangers).foreign, 2);
    assert_eq!(facts(&retained).foreign, 1);
    assert_eq!(facts(&change).integrity, Some(Integrity::Corrupt));
    assert!(facts(&late).latency_ms.is_some_and(|l| l >= Duration::from_millis(690)));
    let text = |o: &Observation| o.reason.clone().expect("a failure has a reason").text;
    assert!(text(&drop).starts_with("accepted by memory://a in "), "{}", text(&drop));
    assert!(text(&drop).ends_with(", not arrived within 1.5s"), "{}", text(&drop));
    assert!(text(&no_ack).contains("though the message arrived after"), "{}", text(&no_ack));
    assert_eq!(text(&hang_up), "receiving side: the server closed the connection");
    assert!(hang_up.duration < HORIZON, "nothing is waited for when nobody listens");
    let phases: Vec<_> = late.phases.iter().map(|p| (p.phase, p.side)).collect();
    let (send, receive) = (Some(Side::Send), Some(Side::Receive));
    assert_eq!(phases, [(Phase::Login, receive), (Phase::Login, send), (Phase::Send, send), (Phase::Deliver, receive)]);
}

#[tokio::test]
async fn a_late_message_corrects_the_loss_already_booked() {
    let bench = Bench::new([Way::Late(2_000)]);
    let o = bench.attempt(None).await;
    assert_eq!(seen(&o), (Outcome::Failed, Some(Fate::Lost), Some(Kind::Lost)));
    let correction = bench.afterwards().await.expect("it came after all");
    assert_eq!((correction.outcome, correction.delivery.fate), (Outcome::Slow, Fate::Late));
    assert_eq!(correction.observed_at, o.at);
    assert_eq!(bench.afterwards().await, None);
}

#[tokio::test]
async fn an_attempt_ends_when_the_next_is_due_and_the_fate_follows() {
    for (way, outcome, fate) in
        [(Way::Late(1_100), Outcome::Slow, Fate::Late), (Way::Drop, Outcome::Failed, Fate::Lost)]
    {
        let bench = Bench::new([way]);
        let o = bench.attempt(Some(Duration::from_millis(500))).await;
        assert_eq!(seen(&o), (Outcome::Slow, Some(Fate::Pending), Some(Kind::Slow)), "{way:?}");
        assert!(o.duration < Duration::from_millis(1_050), "{:?}", o.duration);
        let correction = bench.afterwards().await.expect("its fate");
        assert_eq!((correction.outcome, correction.delivery.fate), (outcome, fate), "{way:?}");
    }
}

#[tokio::test]
async fn late_and_repeated_messages_are_read_out_by_the_next_attempt() {
    let bench = Bench::new([Way::Late(1_700), Way::Deliver]);
    assert_eq!(seen(&bench.attempt(None).await).1, Some(Fate::Lost));
    // Nobody asks for corrections meanwhile; the lingering session holds what came.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let second = bench.attempt(None).await;
    assert_eq!(seen(&second), (Outcome::Ok, Some(Fate::Arrived), None));
    let facts = second.delivery.expect("a message was sent");
    assert_eq!((facts.sequence, facts.duplicates, facts.foreign, facts.reordered), (2, 0, 0, 0));
    let correction = bench.afterwards().await.expect("the first was late");
    assert_eq!((correction.delivery.sequence, correction.delivery.fate), (1, Fate::Late));
}

#[tokio::test]
async fn an_inversion_is_reordering_and_nothing_else() {
    let bench = Bench::new([Way::Late(1_100), Way::Deliver]);
    let short = Some(Duration::from_millis(10));
    assert_eq!(seen(&bench.attempt(short).await).1, Some(Fate::Pending));
    let second = bench.attempt(short).await;
    assert_eq!(seen(&second), (Outcome::Ok, Some(Fate::Arrived), None));
    let correction = bench.afterwards().await.expect("the first is late");
    let first = correction.delivery;
    assert_eq!((first.sequence, first.fate, first.reordered, first.duplicates), (1, Fate::Late, 1, 0));
}

#[tokio::test]
async fn nothing_is_sent_when_nobody_can_listen() {
    let bench = Bench::new([]);
    *bench.wire.receiver_is_down.lock().expect("no panic") = true;
    let o = bench.attempt(None).await;
    assert_eq!(seen(&o), (Outcome::Failed, None, Some(Kind::Rejected)));
    assert_eq!(o.reason.expect("a failure has a reason").text, "receiving side: not authorised");
    assert_eq!(*bench.wire.sent.lock().expect("no panic"), 0);
    assert_eq!(bench.afterwards().await, None);

    *bench.wire.receiver_is_down.lock().expect("no panic") = false;
    *bench.wire.sender_is_down.lock().expect("no panic") = true;
    let o = bench.attempt(None).await;
    assert_eq!(seen(&o), (Outcome::Failed, Some(Fate::Unsent), Some(Kind::Refused)));
    assert_eq!(o.reason.expect("a failure has a reason").text, "sending side: connection refused");
}

#[tokio::test]
async fn a_dropped_wait_for_corrections_loses_nothing() {
    let bench = Bench::new([Way::Late(1_800)]);
    assert_eq!(seen(&bench.attempt(None).await).1, Some(Fate::Lost));
    let mut correction = None;
    for _ in 0..1_000 {
        let wait = tokio::time::timeout(Duration::from_millis(7), bench.ask.afterwards());
        if let Ok(Some(c)) = wait.await {
            correction = Some(c);
            break;
        }
    }
    assert_eq!(correction.expect("a correction").delivery.fate, Fate::Late);
}

fn mistakes(yaml: &str) -> Vec<String> {
    let value = serde_yaml::from_str(yaml).expect("well-formed YAML");
    let mut problems = Vec::new();
    let settings = Settings { timeout: TIMEOUT, slow: None, ip: Families::Any };
    let name = "a/b".parse().expect("a name");
    let mut options = Options::new(&value, Vec::new(), std::path::Path::new("."), &mut problems);
    let built = super::super::build("delivery", &mut options, &name, &settings);
    assert_eq!(built.is_none(), !problems.is_empty(), "{yaml}");
    problems.into_iter().map(|p| p.text).collect()
}

#[test]
fn options_are_checked() {
    let good = "{ mqtt: { url: 'mqtt://h', topic: t } }";
    assert_eq!(
        mistakes(&format!("{{ send: {good}, receive: {good}, slow: 1s, lost_after: 2s, sessions: fresh }}")),
        [""; 0]
    );
    let table = [
        (format!("{{ send: {good} }}"), vec!["`receive` is missing"]),
        (format!("{{ send: {good}, receive: {{ mqqt: {{}} }} }}"), vec!["unknown protocol `mqqt`"]),
        (format!("{{ send: {good}, receive: }}"), vec!["exactly one protocol is expected here"]),
        (
            format!("{{ send: {good}, receive: {good}, slow: 9s, lost_after: 9s }}"),
            vec!["a message is slow after 9s, so it cannot be lost after 9s"],
        ),
        (format!("{{ send: {good}, receive: {good}, lost_after: 2h }}"), vec!["a message is remembered for 1h"]),
        (
            format!("{{ send: {good}, receive: {good}, sessions: once }}"),
            vec!["unknown value `once`; known here: fresh, kept"],
        ),
        // All mistakes at once, whichever block they are in.
        (
            "{ send: { mqtt: { url: 'mqtt://h' } }, receive: { mqtt: { topic: t } }, slower: 1s }".into(),
            vec!["unknown key `slower`", "`topic` is missing", "`url` is missing"],
        ),
    ];
    for (yaml, expected) in table {
        assert_eq!(mistakes(&yaml), expected, "{yaml}");
    }
}

#[test]
fn the_schema_takes_the_example() {
    let mut generator = SchemaGenerator::default();
    let mut root: Value = options::schema(&mut generator).into();
    root["$defs"] = Value::Object(generator.take_definitions(true));
    let validator = jsonschema::validator_for(&root).expect("a valid schema");
    let checks: Value = serde_yaml::from_str(DELIVERY.example).expect("YAML");
    assert!(validator.is_valid(&checks[0]["delivery"]), "{root}");
    assert!(!validator.is_valid(&serde_json::json!({ "send": {}, "receive": {} })));
}
