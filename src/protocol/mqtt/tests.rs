//! The codec under garbage and under scripted packets, the session over a stream in memory.
use std::{sync::Arc, time::Duration};

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::{
    codec::{Codec, Heard, Login},
    session::{Fault, Session},
    *,
};
use crate::protocol::{
    Nature, Net,
    wire::{Family, NetOptions},
};

const CONNACK_5: &[u8] = &[0x20, 3, 0, 0, 0];
const CONNACK_311: &[u8] = &[0x20, 2, 0, 0];

fn login(keep_alive_s: u16) -> Login {
    Login { client_id: "bongsu1".into(), username: Some("u".into()), password: None, keep_alive_s }
}

/// A codec past its login.
fn connected(version: Version) -> Codec {
    let mut codec = Codec::new(version);
    codec.connect(&login(60)).expect("a good login");
    let connack = if version == Version::V5 { CONNACK_5 } else { CONNACK_311 };
    let (heard, breach) = codec.feed(connack, clock::instant());
    assert!(matches!(heard.as_slice(), [Heard::Connack(c)] if c.code == 0) && breach.is_none());
    codec.out().clear();
    codec
}

fn versions() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V5), Just(Version::V311)]
}

#[test]
fn a_first_packet_that_is_no_connack_is_told() {
    for begin in [b"HTTP/1.1 400 Bad Request\r\n".as_slice(), b"SSH-2.0-OpenSSH_9.2\r\n", b"\xd0\x00", b"\x15\x03"] {
        for version in [Version::V5, Version::V311] {
            let mut codec = Codec::new(version);
            codec.connect(&login(60)).expect("a good login");
            let (heard, breach) = codec.feed(begin, clock::instant());
            assert!(heard.is_empty());
            let breach = breach.expect("this is no MQTT");
            assert_eq!(breach.kind, Kind::Protocol);
            assert!(breach.text.contains("no MQTT server"), "{}", breach.text);
        }
    }
}

#[test]
fn an_answer_in_the_old_form_is_understood_however_it_is_cut() {
    let mut codec = Codec::new(Version::V5);
    codec.connect(&login(60)).expect("a good login");
    let mut all = Vec::new();
    for byte in [0x20, 2, 0, 1] {
        let (heard, breach) = codec.feed(&[byte], clock::instant());
        assert_eq!(breach, None);
        all.extend(heard);
    }
    let [Heard::Connack(connack)] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!((connack.code, connack.old_form), (1, true));
    assert_eq!(
        connack_text(connack, Version::V5),
        "unacceptable protocol version (return code 1, in the form of MQTT 3.1.1)"
    );
}

#[test]
fn what_a_server_must_not_send_ends_the_session() {
    let table: [(&[u8], &str); 9] = [
        (CONNACK_5, "a second CONNACK"),
        (&[0x40, 2, 0, 9], "broke MQTT"),             // PUBACK of nothing
        (&[0xc0, 0], "broke MQTT"),                   // PINGREQ
        (&[0x36, 5, 0, 1, b'a', 0, 1], "broke MQTT"), // PUBLISH at QoS 3
        (&[0x00, 0], "broke MQTT"),                   // a packet type that does not exist
        (&[0x30, 0xff, 0xff, 0xff, 0x7f], "more than 1048576 bytes"),
        (&[0x30, 0xff, 0xff, 0xff, 0xff, 0x01], "broke MQTT"), // a length of five bytes
        (&[0x32, 6, 0, 1, b'a', 0, 0, 0], "packet identifier 0"), // PUBLISH
        (&[0x62, 2, 0, 0], "packet identifier 0"),             // PUBREL
    ];
    for (bytes, text) in table {
        let (_, breach) = connected(Version::V5).feed(bytes, clock::instant());
        let breach = breach.unwrap_or_else(|| panic!("{bytes:x?} is a breach"));
        assert!(breach.text.contains(text), "{bytes:x?}: {}", breach.text);
    }
}

#[test]
fn properties_of_a_connack_are_checked() {
    let table: [(&[u8], bool); 7] = [
        (&[33, 0, 0], false),       // receive maximum 0
        (&[39, 0, 0, 0, 0], false), // maximum packet size 0
        (&[36, 2], false),          // maximum QoS 2 is said by leaving it out
        (&[36, 0, 19, 0, 9], true), // maximum QoS 0, keep alive 9 s
        (&[34, 0, 0], true),        // no topic aliases
        (&[0xff], false),
        (&[31, 0, 2, b'h', 0xff], false), // a reason string that is no UTF-8
    ];
    for (properties, good) in table {
        let mut codec = Codec::new(Version::V5);
        codec.connect(&login(60)).expect("a good login");
        let n = u8::try_from(properties.len()).expect("short");
        let packet = [&[0x20, n + 3, 0, 0, n], properties].concat();
        let (heard, breach) = codec.feed(&packet, clock::instant());
        assert_eq!((heard.len(), breach.is_none()), (usize::from(good), good), "{properties:x?}: {breach:?}");
        if let [Heard::Connack(connack)] = heard.as_slice() {
            let said = (connack.qos_max, connack.keep_alive_s);
            assert_eq!(said, if properties[0] == 36 { (Some(0), Some(9)) } else { (None, None) });
        }
    }
}

#[test]
fn messages_carry_their_flags() {
    let mut codec = connected(Version::V311);
    // QoS 1, DUP, retained; then QoS 0.
    let (heard, breach) =
        codec.feed(&[0x3b, 7, 0, 1, b't', 0, 7, b'h', b'i', 0x30, 4, 0, 1, b't', b'x'], clock::instant());
    assert_eq!(breach, None);
    let flags: Vec<_> = heard
        .iter()
        .map(|h| match h {
            Heard::Publish(a) => (a.payload.to_vec(), a.nature.clone(), a.details.len()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(flags, [(b"hi".to_vec(), Nature::Kept, 1), (b"x".to_vec(), Nature::Message, 0)]);
    assert_eq!(&codec.out()[..], [0x40, 2, 0, 7], "the QoS 1 message is acknowledged");
}

proptest! {
    #[test]
    fn garbage_never_panics(version in versions(), bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        Codec::new(version).feed(&bytes, clock::instant());
        let mut codec = Codec::new(version);
        codec.connect(&login(60)).expect("a good login");
        codec.feed(&bytes, clock::instant());
        connected(version).feed(&bytes, clock::instant());
    }

    #[test]
    fn garbled_packets_never_panic(
        version in versions(), kind in 0_u8..16, flags in 0_u8..16,
        body in proptest::collection::vec(prop_oneof![Just(0_u8), 0..60_u8, any::<u8>()], 0..60)
    ) {
        let mut packet = vec![kind << 4 | flags, u8::try_from(body.len()).expect("short")];
        packet.extend(&body);
        let mut codec = connected(version);
        let id = codec.publish("t", 2, b"x").expect("a good message").expect("QoS 2 has an identifier");
        codec.publish("t", 1, b"x").expect("a good message");
        codec.subscribe("t/#", 1).expect("a good filter");
        codec.feed(&packet, clock::instant());
        codec.feed(&packet, clock::instant());
        let [high, low] = id.to_be_bytes();
        codec.feed(&[0x50, 2, high, low], clock::instant());
        codec.feed(&packet, clock::instant());
        // Before the login, and as a CONNACK with arbitrary properties.
        let mut codec = Codec::new(version);
        codec.connect(&login(60)).expect("a good login");
        packet[0] = 0x20;
        codec.feed(&packet, clock::instant());
    }

    #[test]
    fn packets_may_be_cut_anywhere(version in versions(), cut in 0_usize..40) {
        let properties: &[u8] = if version == Version::V5 { &[0] } else { &[] };
        let mut bytes = vec![0x32, u8::try_from(5 + properties.len() + 5).expect("short"), 0, 1, b't', 0, 9];
        bytes.extend(properties);
        bytes.extend(b"hello");
        bytes.extend([0xd0, 0]);
        let mut codec = connected(version);
        let at = cut.min(bytes.len());
        let (mut heard, first) = codec.feed(&bytes[..at], clock::instant());
        let (rest, second) = codec.feed(&bytes[at..], clock::instant());
        heard.extend(rest);
        prop_assert!(first.is_none() && second.is_none());
        let good = matches!(heard.as_slice(), [Heard::Publish(a), Heard::Pingresp] if a.payload == b"hello".as_slice());
        prop_assert!(good, "{heard:?}");
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The session

fn attempt() -> Attempt {
    let nameservers = vec!["192.0.2.1:53".parse().expect("an address")];
    let net: Arc<Net> = Net::new(NetOptions { nameservers, ..NetOptions::default() }).expect("a net");
    Attempt::new(net, Family::Any, clock::now(), clock::instant(), false)
}

async fn session(version: Version, keep_alive_s: u16) -> (Box<Session>, DuplexStream) {
    let (ours, mut theirs) = tokio::io::duplex(4096);
    let mut session = Box::new(Session::new(Box::new(ours), version));
    let connack = if version == Version::V5 { CONNACK_5 } else { CONNACK_311 };
    theirs.write_all(connack).await.expect("room in the pipe");
    session.connect(&login(keep_alive_s)).await.expect("a good login");
    let mut connect = [0; 256];
    let n = theirs.read(&mut connect).await.expect("CONNECT");
    assert_eq!(connect[0], 0x10, "{:x?}", &connect[..n]);
    (session, theirs)
}

fn publishing(session: Box<Session>, qos: u8) -> Box<Publishing> {
    Box::new(Publishing { session, topic: "t".into(), qos, position: None })
}

#[tokio::test]
async fn answers_to_a_message_are_judged() {
    // The first message of a connection has the identifier 1.
    type Sent = Result<(), (Accept, Kind)>;
    let table: [(u8, &[u8], Sent); 8] = [
        (1, &[0x40, 2, 0, 1], Ok(())),
        (1, &[0x40, 3, 0, 1, 0x10], Ok(())),
        (1, &[0x40, 3, 0, 1, 0x87], Err((Accept::Rejected, Kind::Rejected))),
        (2, &[0x50, 2, 0, 1, 0x70, 2, 0, 1], Ok(())),
        (2, &[0x50, 3, 0, 1, 0x10, 0x70, 2, 0, 1], Ok(())),
        (2, &[0x50, 3, 0, 1, 0x97], Err((Accept::Rejected, Kind::Rejected))),
        (1, &[0xe0, 1, 0x95], Err((Accept::Rejected, Kind::Rejected))),
        (1, &[0xe0, 1, 0x8b], Err((Accept::Uncertain, Kind::Closed))),
    ];
    for (qos, answer, expected) in table {
        let (session, mut theirs) = session(Version::V5, 0).await;
        let mut sending = publishing(session, qos);
        let mut cx = attempt();
        let (sent, ()) = tokio::join!(sending.send(&mut cx, b"hello"), async {
            let mut packet = [0; 64];
            let n = theirs.read(&mut packet).await.expect("PUBLISH");
            assert_eq!(packet[0], 0x30 | qos << 1, "{:x?}: neither retained nor DUP", &packet[..n]);
            // QoS 2 goes in two steps.
            let (first, rest) =
                if qos == 2 && answer.len() > 5 { answer.split_at(answer.len() - 4) } else { (answer, &[][..]) };
            theirs.write_all(first).await.expect("room in the pipe");
            if !rest.is_empty() {
                theirs.read_exact(&mut packet[..4]).await.expect("PUBREL");
                assert_eq!(&packet[..4], [0x62, 2, 0, 1]);
                theirs.write_all(rest).await.expect("room in the pipe");
            }
        });
        assert_eq!(sent.map_err(|f| (f.accept, f.reason.kind)), expected, "QoS {qos}, {answer:x?}");
        assert!(sending.message_left());
    }
}

#[tokio::test]
async fn a_hang_up_before_the_acknowledgement_is_uncertain() {
    let (session, mut theirs) = session(Version::V311, 0).await;
    let mut sending = publishing(session, 1);
    let mut cx = attempt();
    let (sent, ()) = tokio::join!(sending.send(&mut cx, b"hello"), async move {
        let _ = theirs.read(&mut [0; 64]).await;
        drop(theirs);
    });
    let failure = sent.expect_err("no acknowledgement came");
    assert_eq!(
        (failure.accept, failure.reason.kind, failure.reason.phase),
        (Accept::Uncertain, Kind::Closed, Phase::Send)
    );
}

#[tokio::test]
async fn a_message_that_never_left_is_not_uncertain() {
    let (ours, _theirs) = tokio::io::duplex(1);
    let mut sending = publishing(Box::new(Session::new(Box::new(ours), Version::V311)), 1);
    assert!(!sending.message_left());
    let mut cx = attempt();
    // Not connected: the library refuses, nothing is written.
    let failure = sending.send(&mut cx, b"x").await.expect_err("not connected");
    assert_eq!(failure.accept, Accept::Rejected);
    assert!(!sending.message_left());
}

#[tokio::test]
async fn waiting_may_be_dropped_at_any_byte() {
    let (mut session, mut theirs) = session(Version::V311, 0).await;
    let mut received = Vec::new();
    for n in 0..3_u8 {
        for byte in [0x32, 6, 0, 1, b't', 0, n + 1, n] {
            theirs.write_all(&[byte]).await.expect("room in the pipe");
            let wait = tokio::time::timeout(Duration::from_millis(2), session.next());
            if let Ok(Ok(Heard::Publish(arrival))) = wait.await {
                received.push(arrival.payload.to_vec());
            }
        }
    }
    assert_eq!(received, [[0], [1], [2]]);
    let mut acks = [0; 12];
    let flush = tokio::time::timeout(Duration::from_millis(20), session.next()).await;
    assert!(flush.is_err(), "nothing more comes");
    theirs.read_exact(&mut acks).await.expect("three PUBACKs");
    assert_eq!(acks, [0x40, 2, 0, 1, 0x40, 2, 0, 2, 0x40, 2, 0, 3]);
}

#[tokio::test]
async fn a_session_keeps_itself_alive_and_notices_silence() {
    let (mut session, mut theirs) = session(Version::V5, 1).await;
    let server = async {
        let mut packet = [0; 2];
        theirs.read_exact(&mut packet).await.expect("PINGREQ");
        assert_eq!(packet, [0xc0, 0]);
        theirs.write_all(&[0xd0, 0]).await.expect("room in the pipe");
        theirs.read_exact(&mut packet).await.expect("a second PINGREQ");
        // No answer to this one.
        theirs
    };
    let client = async {
        loop {
            if let Err(fault) = session.next().await {
                return fault;
            }
        }
    };
    let both = async { tokio::join!(client, server) };
    let (fault, _theirs) = tokio::time::timeout(Duration::from_secs(10), both).await.expect("silence is noticed");
    assert!(matches!(fault, Fault::Silent(_)));
    assert_eq!(fault.at_delivery().text, "no PINGRESP within 1s");
    assert!(matches!(session.next().await, Err(Fault::Silent(_))), "a fault stays");
}

#[tokio::test]
async fn a_message_before_the_suback_is_kept() {
    let (mut session, mut theirs) = session(Version::V311, 0).await;
    let bytes = [0x30, 4, 0, 1, b't', b'x', 0x90, 3, 0, 1, 1, 0x30, 4, 0, 1, b't', b'y'];
    theirs.write_all(&bytes).await.expect("room in the pipe");
    let ack = session.subscribe("t", 1).await.expect("a SUBACK");
    assert_eq!(ack.code, 1);
    for expected in [b"x", b"y"] {
        let Ok(Heard::Publish(arrival)) = session.next().await else { panic!("a message") };
        assert_eq!(&arrival.payload[..], expected);
    }
}
