//! The broker as a client sees it: packets built and read byte by byte, apart from the codec it uses.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::*;

/// Longest wait for what must come; generous, because tests share the machine.
const SOON: Duration = Duration::from_secs(10);

/// How long is waited for what must not come.
const NEVER: Duration = Duration::from_millis(150);

struct Client {
    stream: TcpStream,
    v5: bool,
}

/// A length-prefixed string.
fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).expect("short").to_be_bytes()[..], text.as_bytes()].concat()
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let (mut length, mut bytes) = (body.len(), vec![first]);
    loop {
        let more = length > 127;
        bytes.push((length % 128) as u8 | if more { 0x80 } else { 0 });
        length /= 128;
        if !more {
            break;
        }
    }
    [bytes, body.to_vec()].concat()
}

impl Client {
    /// Connects and returns the first byte and the body of the answer.
    async fn dial(broker: &Broker, v5: bool, id: &str, login: Option<(&str, &str)>) -> (Self, Vec<u8>) {
        let stream = TcpStream::connect(broker.address()).await.expect("the broker listens");
        let mut client = Self { stream, v5 };
        let flags = 0x02 | if login.is_some() { 0xc0 } else { 0 };
        let mut body = [text("MQTT"), vec![if v5 { 5 } else { 4 }, flags, 0, 30]].concat();
        if v5 {
            body.push(0);
        }
        body.extend(text(id));
        for part in login.into_iter().flat_map(|(user, password)| [user, password]) {
            body.extend(text(part));
        }
        client.write(&packet(0x10, &body)).await;
        let answer = client.read().await.map(|(_, body)| body).unwrap_or_default();
        (client, answer)
    }

    async fn new(broker: &Broker, v5: bool, id: &str) -> Self {
        let (client, connack) = Self::dial(broker, v5, id, None).await;
        assert_eq!(connack[..2], [0, 0], "accepted without a stored session");
        client
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the broker reads");
    }

    /// First byte and body of the next packet; `None` when the broker has closed.
    async fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        timeout(SOON, self.read_forever()).await.expect("an answer")
    }

    async fn read_forever(&mut self) -> Option<(u8, Vec<u8>)> {
        let first = self.stream.read_u8().await.ok()?;
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = self.stream.read_u8().await.ok()?;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.ok()?;
        Some((first, body))
    }

    async fn silent(&mut self) {
        assert!(timeout(NEVER, self.read_forever()).await.is_err(), "nothing may come");
    }

    async fn subscribe(&mut self, filter: &str, qos: u8) -> Vec<u8> {
        let none: &[u8] = if self.v5 { &[0] } else { &[] };
        let body = [&[0, 7], none, &text(filter), &[qos]].concat();
        self.write(&packet(0x82, &body)).await;
        let (first, body) = self.read().await.expect("SUBACK");
        assert_eq!((first, &body[..2]), (0x90, &[0, 7][..]));
        body[if self.v5 { 3 } else { 2 }..].to_vec()
    }

    /// Publishes and goes through the acknowledgements of its quality of service.
    async fn publish(&mut self, topic: &str, payload: &str, qos: u8, retain: bool) {
        let id: &[u8] = if qos > 0 { &[0, 9] } else { &[] };
        let none: &[u8] = if self.v5 { &[0] } else { &[] };
        let body = [&text(topic), id, none, payload.as_bytes()].concat();
        self.write(&packet(0x30 | qos << 1 | u8::from(retain), &body)).await;
        if qos == 1 {
            self.expect(0x40).await;
        } else if qos == 2 {
            self.expect(0x50).await;
            self.write(&packet(0x62, &[0, 9])).await;
            self.expect(0x70).await;
        }
    }

    async fn expect(&mut self, first: u8) -> Vec<u8> {
        let (got, body) = self.read().await.expect("an open connection");
        assert_eq!(got, first, "{body:?}");
        body
    }

    /// The next message as (flags, topic, payload), acknowledged.
    async fn message(&mut self) -> (u8, String, String) {
        let (first, body) = self.read().await.expect("a message");
        assert_eq!(first & 0xf0, 0x30);
        let topic_end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
        let topic = String::from_utf8(body[2..topic_end].to_vec()).expect("UTF-8");
        let qos = first >> 1 & 3;
        let mut at = topic_end + if qos > 0 { 2 } else { 0 };
        let id = body[topic_end..at].to_vec();
        if self.v5 {
            at += 1 + usize::from(body[at]);
        }
        if qos == 1 {
            self.write(&packet(0x40, &id)).await;
        } else if qos == 2 {
            self.write(&packet(0x50, &id)).await;
            self.expect(0x62).await;
            self.write(&packet(0x70, &id)).await;
        }
        (first & 0x0f, topic, String::from_utf8(body[at..].to_vec()).expect("UTF-8"))
    }
}

async fn broker() -> Broker {
    Broker::start(None).await.expect("loopback")
}

#[tokio::test]
async fn messages_pass_at_every_quality_of_service_and_between_versions() {
    let broker = broker().await;
    for (receiver_v5, sender_v5) in [(false, false), (true, true), (false, true), (true, false)] {
        for qos in 0..=2 {
            let mut receiver = Client::new(&broker, receiver_v5, "r").await;
            assert_eq!(receiver.subscribe("demo/+/길", qos).await, [qos]);
            let mut sender = Client::new(&broker, sender_v5, "s").await;
            for sent_qos in 0..=2 {
                sender.publish("demo/x/길", "봉수 🔥", sent_qos, false).await;
                let expected = (qos.min(sent_qos) << 1, "demo/x/길".to_owned(), "봉수 🔥".to_owned());
                assert_eq!(receiver.message().await, expected);
            }
            sender.publish("demo/other", "x", 1, false).await;
            receiver.silent().await;
        }
    }
    let counts = broker.counts();
    assert_eq!((counts.logins, counts.accepted, counts.delivered, counts.dropped), (24, 48, 36, 0));
}

#[tokio::test]
async fn pings_unsubscribes_and_goodbyes_are_answered() {
    let broker = broker().await;
    for v5 in [false, true] {
        let mut client = Client::new(&broker, v5, "c").await;
        client.write(&[0xc0, 0]).await;
        client.expect(0xd0).await;
        client.subscribe("a/#", 0).await;
        client.subscribe("a/b", 1).await;
        client.publish("a/b", "one copy", 0, false).await;
        assert_eq!(client.message().await.2, "one copy");
        let none: &[u8] = if v5 { &[0] } else { &[] };
        client.write(&packet(0xa2, &[&[0, 3], none, &text("a/#")].concat())).await;
        assert_eq!(client.expect(0xb0).await[..2], [0, 3]);
        client.publish("a/c", "x", 0, false).await;
        client.silent().await;
        client.write(&[0xe0, 0]).await;
        assert_eq!(client.read().await, None);
    }
}

#[tokio::test]
async fn a_message_is_retained_until_an_empty_one() {
    let broker = broker().await;
    let mut sender = Client::new(&broker, false, "s").await;
    sender.publish("a/b", "kept", 1, true).await;
    let mut receiver = Client::new(&broker, true, "r").await;
    receiver.subscribe("a/+", 1).await;
    assert_eq!(receiver.message().await, (0x03, "a/b".into(), "kept".into()));
    sender.publish("a/b", "", 1, true).await;
    assert_eq!(receiver.message().await, (0x02, "a/b".into(), String::new()));
    let mut late = Client::new(&broker, true, "late").await;
    late.subscribe("a/+", 1).await;
    late.silent().await;
}

#[tokio::test]
async fn only_the_right_login_is_let_in() {
    let login = Login { username: "probe".into(), password: "열쇠".into() };
    let broker = Broker::start(Some(login)).await.expect("loopback");
    let table = [
        (Some(("probe", "열쇠")), true),
        (Some(("probe", "wrong")), false),
        (Some(("other", "열쇠")), false),
        (None, false),
    ];
    for (login, let_in) in table {
        for (v5, refusal) in [(false, 5), (true, 0x87)] {
            let (mut client, connack) = Client::dial(&broker, v5, "c", login).await;
            assert_eq!(connack[1], if let_in { 0 } else { refusal }, "{login:?}");
            if !let_in {
                assert_eq!(client.read().await, None);
            }
        }
    }
    assert_eq!(broker.counts().refused, 6);
}

#[tokio::test]
async fn a_second_login_takes_the_session_over() {
    let broker = broker().await;
    for v5 in [false, true] {
        let mut first = Client::new(&broker, v5, "same").await;
        first.subscribe("a", 0).await;
        let mut second = Client::new(&broker, v5, "same").await;
        if v5 {
            assert_eq!(first.expect(0xe0).await[0], 0x8e, "session taken over");
        }
        assert_eq!(first.read().await, None);
        second.publish("a", "x", 1, false).await;
        second.silent().await;
    }
}

#[tokio::test]
async fn a_client_without_a_name_is_given_one() {
    let broker = broker().await;
    let (_, connack) = Client::dial(&broker, true, "", None).await;
    assert_eq!(connack[1], 0);
    let shown = String::from_utf8_lossy(&connack);
    assert!(shown.contains("anonymous-"), "{shown}");
    Client::new(&broker, false, "").await;
}

#[tokio::test]
async fn shared_subscriptions_and_bad_filters_are_refused() {
    let broker = broker().await;
    let mut v5 = Client::new(&broker, true, "five").await;
    assert_eq!(v5.subscribe("$share/g/a", 1).await, [0x9e]);
    assert_eq!(v5.subscribe("a/#/b", 1).await, [0x8f]);
    let mut v3 = Client::new(&broker, false, "three").await;
    assert_eq!(v3.subscribe("$share/g/a", 1).await, [0x80]);
    for n in 0..100 {
        assert_eq!(v3.subscribe(&format!("t/{n}"), 1).await, [1]);
    }
    assert_eq!(v3.subscribe("one/more", 1).await, [0x80]);
}

/// A receiver and a sender on a broker with this fault.
async fn with_fault(fault: Fault) -> (Broker, Client, Client) {
    let broker = broker().await;
    let mut receiver = Client::new(&broker, true, "r").await;
    receiver.subscribe("t", 1).await;
    let sender = Client::new(&broker, false, "s").await;
    broker.set_fault(fault);
    (broker, receiver, sender)
}

#[tokio::test]
async fn a_dropped_message_is_acknowledged_all_the_same() {
    let (broker, mut receiver, mut sender) = with_fault(Fault::DropSilently).await;
    for qos in 0..=2 {
        sender.publish("t", "lost", qos, false).await;
    }
    // A ping is answered after the publish at QoS 0 has been taken.
    sender.write(&[0xc0, 0]).await;
    sender.expect(0xd0).await;
    receiver.silent().await;
    broker.set_fault(Fault::Healthy);
    sender.publish("t", "through", 1, false).await;
    assert_eq!(receiver.message().await.2, "through");
    let counts = broker.counts();
    assert_eq!((counts.accepted, counts.delivered, counts.dropped), (4, 1, 3));
}

#[tokio::test]
async fn withheld_messages_turn_up_with_the_next_one() {
    let (broker, mut receiver, mut sender) = with_fault(Fault::Withhold).await;
    for n in 0..5 {
        sender.publish("t", &format!("kept {n}"), 1, false).await;
    }
    receiver.silent().await;
    broker.set_fault(Fault::Healthy);
    receiver.silent().await;
    sender.publish("t", "fresh", 1, false).await;
    let mut came = Vec::new();
    for _ in 0..4 {
        came.push(receiver.message().await.2);
    }
    assert_eq!(came, ["kept 2", "kept 3", "kept 4", "fresh"]);
    assert_eq!(broker.counts().dropped, 2);
}

#[tokio::test]
async fn messages_come_late_and_more_than_once() {
    let (broker, mut receiver, mut sender) = with_fault(Fault::DelayAndDuplicate(Duration::from_millis(300), 3)).await;
    let begun = Instant::now();
    sender.publish("t", "slow", 1, false).await;
    for _ in 0..3 {
        assert_eq!(receiver.message().await.2, "slow");
        assert!(begun.elapsed() >= Duration::from_millis(300));
    }
    broker.set_fault(Fault::Delay(Duration::from_millis(200)));
    let begun = Instant::now();
    sender.publish("t", "late", 1, false).await;
    assert_eq!(receiver.message().await.2, "late");
    assert!(begun.elapsed() >= Duration::from_millis(200));
    broker.set_fault(Fault::Duplicate(2));
    sender.publish("t", "twice", 1, false).await;
    assert_eq!((receiver.message().await.2, receiver.message().await.2), ("twice".into(), "twice".into()));
    receiver.silent().await;
}

#[tokio::test]
async fn refused_logins_leave_kept_sessions_alone() {
    let (broker, mut receiver, mut sender) = with_fault(Fault::RefuseLogin).await;
    let (_, connack) = Client::dial(&broker, false, "new", None).await;
    assert_eq!(connack, [0, 5]);
    sender.publish("t", "still here", 1, false).await;
    assert_eq!(receiver.message().await.2, "still here");
    broker.set_fault(Fault::Overload(8));
    let mut codes = Vec::new();
    for _ in 0..10 {
        codes.push(Client::dial(&broker, false, "new", None).await.1[1]);
    }
    assert_eq!(codes.iter().filter(|code| **code == 3).count(), 8, "{codes:?}");
    broker.set_fault(Fault::Healthy);
    Client::new(&broker, false, "new").await;
}

#[tokio::test]
async fn a_frozen_broker_accepts_and_says_nothing_until_it_thaws() {
    let (broker, _receiver, mut sender) = with_fault(Fault::Freeze).await;
    let mut stream = TcpStream::connect(broker.address()).await.expect("it accepts");
    let connect = packet(0x10, &[text("MQTT"), vec![4, 2, 0, 30], text("c")].concat());
    stream.write_all(&connect).await.expect("it accepts");
    let mut client = Client { stream, v5: false };
    client.silent().await;
    sender.write(&[0xc0, 0]).await;
    sender.silent().await;
    broker.set_fault(Fault::Healthy);
    assert_eq!(client.expect(0x20).await, [0, 0]);
    sender.expect(0xd0).await;
}

#[tokio::test]
async fn what_is_too_large_or_no_mqtt_ends_the_connection_and_nothing_else() {
    let broker = broker().await;
    let mut good = Client::new(&broker, true, "good").await;
    good.subscribe("t", 0).await;
    // Announces 256 MiB.
    let mut huge = Client::new(&broker, true, "huge").await;
    huge.write(&[0x30, 0xff, 0xff, 0xff, 0x7f]).await;
    assert_eq!(huge.expect(0xe0).await[0], 0x95, "packet too large");
    assert_eq!(huge.read().await, None);
    // A publish before CONNECT, a second CONNECT, HTTP.
    let connect = packet(0x10, &[text("MQTT"), vec![4, 2, 0, 0], text("c")].concat());
    for bytes in [packet(0x30, &text("t")), [connect.clone(), connect].concat(), b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
        let stream = TcpStream::connect(broker.address()).await.expect("the broker listens");
        let mut bad = Client { stream, v5: false };
        bad.write(&bytes).await;
        while bad.read().await.is_some() {}
    }
    // A wildcard in a published topic.
    let mut bad = Client::new(&broker, false, "bad").await;
    bad.write(&packet(0x30, &text("t/#"))).await;
    assert_eq!(bad.read().await, None);
    good.publish("t", "unharmed", 0, false).await;
    assert_eq!(good.message().await.2, "unharmed");
}

#[tokio::test]
async fn a_client_that_takes_one_message_at_a_time_gets_them_all() {
    let broker = broker().await;
    let stream = TcpStream::connect(broker.address()).await.expect("the broker listens");
    let mut slow = Client { stream, v5: true };
    // Receive Maximum 1, Maximum Packet Size 60.
    let properties = [8, 0x21, 0, 1, 0x27, 0, 0, 0, 60];
    slow.write(&packet(0x10, &[text("MQTT"), vec![5, 2, 0, 30], properties.to_vec(), text("slow")].concat())).await;
    slow.expect(0x20).await;
    slow.subscribe("t", 1).await;
    let mut sender = Client::new(&broker, false, "s").await;
    for n in 0..5 {
        sender.publish("t", &format!("{n}"), 1, false).await;
        sender.publish("t", &"x".repeat(100), 1, false).await;
    }
    for n in 0..5 {
        assert_eq!(slow.message().await.2, n.to_string());
    }
    slow.silent().await;
}

#[test]
fn no_bytes_stop_the_broker() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
    let broker = runtime.block_on(broker());
    let valid = prop_oneof![
        Just(packet(0x10, &[text("MQTT"), vec![4, 2, 0, 0], text("c")].concat())),
        Just(packet(0x10, &[text("MQTT"), vec![5, 2, 0, 0, 0], text("c")].concat())),
        Just(packet(0x82, &[&[0, 7][..], &text("t"), &[1]].concat())),
        Just(packet(0x32, &[&text("t")[..], &[0, 9], b"x"].concat())),
    ];
    let noise = proptest::collection::vec(any::<u8>(), 0..40);
    let piece = prop_oneof![3 => valid, 1 => noise.clone(), 1 => (any::<u8>(), noise).prop_map(|(f, b)| packet(f, &b))];
    proptest!(ProptestConfig::with_cases(300), |(pieces in proptest::collection::vec(piece, 1..6))| {
        runtime.block_on(async {
            let mut stream = TcpStream::connect(broker.address()).await.expect("the broker listens");
            // The broker may have hung up by the second piece.
            let _ = stream.write_all(&pieces.concat()).await;
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("it hangs up after the last byte");
        });
    });
    runtime.block_on(async {
        let mut client = Client::new(&broker, true, "after").await;
        client.subscribe("after/t", 1).await;
        client.publish("after/t", "alive", 1, false).await;
        assert_eq!(client.message().await.2, "alive");
    });
}
