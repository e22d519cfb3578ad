//! Name servers by real sockets: scripted answers, good and malformed.

use std::{
    io::{Read, Write},
    net::{TcpListener, UdpSocket as StdUdpSocket},
};

use hickory_resolver::proto::rr::{
    RData, Record,
    rdata::{A, CNAME, MX, TXT},
};

use super::*;
use crate::{
    observation::Outcome,
    protocol::testing::{Seen, problems, run},
};

fn record(data: RData) -> Record {
    Record::from_rdata(Name::from_ascii("a.test.").expect("a name"), 60, data)
}

fn a(address: [u8; 4]) -> Record {
    record(RData::A(A(address.into())))
}

/// The answer to a question as it came, with these records.
fn answer(question: &[u8], records: &[Record], code: ResponseCode) -> Message {
    let asked = Message::from_vec(question).expect("the probe sends a proper question");
    let mut answer = Message::response(asked.metadata.id, OpCode::Query);
    answer.metadata.response_code = code;
    answer.add_queries(asked.queries);
    answer.add_answers(records.to_vec());
    answer
}

fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().expect("a message can be written")
}

/// A name server that answers one question with these datagrams.
fn server(script: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = StdUdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = socket.local_addr().expect("a bound socket has an address");
    std::thread::spawn(move || {
        let mut buffer = [0; 2_000];
        let _ = socket.set_read_timeout(Some(std::time::Duration::from_secs(5)));
        let Ok((read, peer)) = socket.recv_from(&mut buffer) else { return };
        for datagram in script(&buffer[..read]) {
            let _ = socket.send_to(&datagram, peer);
        }
        std::thread::sleep(std::time::Duration::from_millis(600));
    });
    address
}

fn ask(server: SocketAddr, rest: &str) -> Seen {
    run(&DNS, &format!("{{ server: \"{server}\", name: a.test, {rest} }}"), 400)
}

#[test]
fn answers_are_judged() {
    let evidence =
        |rcode, answers: &[&str]| Evidence { rcode, answers: answers.iter().map(ToString::to_string).collect() };
    let ok = |answers: &[&str]| evidence(ResponseCode::NoError, answers);
    let table: &[(&str, Evidence, Result<(), &str>)] = &[
        ("{}", ok(&["192.0.2.7"]), Ok(())),
        ("{}", ok(&[]), Err("no records, expected at least 1")),
        ("{}", evidence(ResponseCode::ServFail, &[]), Err("SERVFAIL, expected NOERROR")),
        ("{}", evidence(ResponseCode::Unknown(99), &[]), Err("rcode 99, expected NOERROR")),
        ("rcode: nxdomain", evidence(ResponseCode::NXDomain, &[]), Ok(())),
        ("contains: [10 MX.test]", ok(&["10 mx.test.", "20 my.test."]), Ok(())),
        ("contains: [30 mx.test]", ok(&["10 mx.test."]), Err("10 mx.test., expected 30 mx.test among them")),
        ("contains: ['2001:db8:0::7']", ok(&["2001:db8::7"]), Ok(())),
        ("contains: ['\"v=spf1 -all\"']", ok(&["v=spf1 -all"]), Ok(())),
        ("equals: [b, a]", ok(&["a.", "b."]), Ok(())),
        ("equals: [a]", ok(&["a.", "b."]), Err("a., b., expected a")),
        ("equals: []", ok(&[]), Ok(())),
        ("at_least: 3", ok(&["a", "b"]), Err("a, b, expected at least 3")),
    ];
    for (yaml, evidence, expected) in table {
        let value =
            serde_yaml::from_str(&format!("{{ server: 127.0.0.1, expect: {{ {} }} }}", yaml.trim_matches(['{', '}'])));
        let value = value.expect(yaml);
        let mut found = Vec::new();
        let probe = DnsProbe::build(&mut Options::new(&value, Vec::new(), std::path::Path::new("."), &mut found));
        let wanted = probe.unwrap_or_else(|| panic!("{yaml}: {found:?}")).wanted;
        assert_eq!(judge(&wanted, evidence), expected.map_err(String::from), "{yaml}");
    }
}

#[test]
fn a_question_is_answered() {
    let cname = record(RData::CNAME(CNAME(Name::from_ascii("b.test.").expect("a name"))));
    let address = server(move |q| vec![bytes(&answer(q, &[cname.clone(), a([192, 0, 2, 7])], ResponseCode::NoError))]);
    let seen = ask(address, "expect: { equals: [192.0.2.7] }");
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
    assert_eq!(seen.phases(), [Phase::Resolve, Phase::Exchange]);
    assert_eq!(seen.observation.address, Some(address));
    assert_eq!(seen.observation.details["answers"], "192.0.2.7");

    // The chain may stand in any order; what is not in it is no answer.
    let of = |owner: &str, data| Record::from_rdata(Name::from_ascii(owner).expect("a name"), 60, data);
    let to = |target: &str| RData::CNAME(CNAME(Name::from_ascii(target).expect("a name")));
    let records = [
        of("c.test.", RData::A(A([192, 0, 2, 9].into()))),
        of("b.test.", to("c.test.")),
        of("a.test.", to("B.test.")),
        of("other.test.", RData::A(A([192, 0, 2, 66].into()))),
    ];
    let address = server(move |q| vec![bytes(&answer(q, &records, ResponseCode::NoError))]);
    let seen = ask(address, "expect: { equals: [192.0.2.9] }");
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
    let circle = [of("a.test.", to("b.test.")), of("b.test.", to("a.test."))];
    let address = server(move |q| vec![bytes(&answer(q, &circle, ResponseCode::NoError))]);
    assert_eq!(ask(address, "type: A").reason().text, "no records, expected at least 1");

    let mx = record(RData::MX(MX::new(10, Name::from_ascii("mx.test.").expect("a name"))));
    let address = server(move |q| vec![bytes(&answer(q, std::slice::from_ref(&mx), ResponseCode::NoError))]);
    let seen = ask(address, "type: mx, expect: { contains: [10 mx.test] }");
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
}

#[test]
fn what_is_not_the_answer_is_passed_over() {
    let address = server(|q| {
        let good = answer(q, &[a([192, 0, 2, 7])], ResponseCode::NoError);
        let mut other_id = answer(q, &[a([203, 0, 113, 1])], ResponseCode::NoError);
        other_id.metadata.id ^= 1;
        let mut other_question = answer(q, &[a([203, 0, 113, 2])], ResponseCode::NoError);
        other_question.queries[0].name = Name::from_ascii("evil.test.").expect("a name");
        let mut query = answer(q, &[], ResponseCode::NoError);
        query.metadata.message_type = MessageType::Query;
        let garbage = vec![0xff; 40];
        vec![bytes(&other_id), bytes(&other_question), bytes(&query), garbage, vec![], bytes(&good)]
    });
    let seen = ask(address, "expect: { equals: [192.0.2.7] }");
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
}

#[test]
fn failures_are_told() {
    let refused = {
        let socket = StdUdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
        socket.local_addr().expect("a bound socket has an address")
    };
    let table = [
        (server(|_| vec![]), Kind::Timeout, "no answer from 127.0.0.1:"),
        (
            server(|q| {
                let mut wrong = answer(q, &[], ResponseCode::NoError);
                wrong.metadata.id ^= 1;
                vec![bytes(&wrong)]
            }),
            Kind::Timeout,
            "what came was not the answer: it carries another id",
        ),
        (server(|_| vec![vec![1]; FOREIGN_MAX + 5]), Kind::Protocol, "100 datagrams came and none was the answer"),
        (
            server(|q| vec![bytes(&answer(q, &[], ResponseCode::Refused))]),
            Kind::Unexpected,
            "REFUSED, expected NOERROR",
        ),
        (server(|q| vec![bytes(&answer(q, &[], ResponseCode::NoError))]), Kind::Unexpected, "no records"),
        (refused, Kind::Refused, "connection refused"),
    ];
    for (address, kind, text) in table {
        let seen = ask(address, "type: A");
        assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Exchange, kind), "{seen:?}");
        assert!(seen.reason().text.contains(text), "{seen:?}");
    }
}

#[test]
fn a_truncated_answer_is_asked_for_again_over_tcp() {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = tcp.local_addr().expect("a bound listener has an address");
    let udp = StdUdpSocket::bind(address).expect("the same port for UDP");
    let long: Vec<Record> = (0..100).map(|n| record(RData::TXT(TXT::new(vec![format!("{n:0>100}")])))).collect();
    std::thread::spawn(move || {
        let mut buffer = [0; 2_000];
        let (read, peer) = udp.recv_from(&mut buffer).expect("a question");
        let mut short = answer(&buffer[..read], &[], ResponseCode::NoError);
        short.metadata.truncation = true;
        udp.send_to(&bytes(&short), peer).expect("an answer");
        let (mut stream, _) = tcp.accept().expect("a connection");
        let mut length = [0; 2];
        stream.read_exact(&mut length).expect("a length");
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut question).expect("a question");
        let answer = bytes(&answer(&question, &long, ResponseCode::NoError));
        let length = u16::try_from(answer.len()).expect("short enough").to_be_bytes();
        // In pieces: the length, and the answer a moment later.
        stream.write_all(&length).expect("an answer");
        std::thread::sleep(std::time::Duration::from_millis(20));
        stream.write_all(&answer).expect("an answer");
    });
    let seen =
        run(&DNS, &format!("{{ server: \"{address}\", name: a.test, type: TXT, expect: {{ at_least: 100 }} }}"), 2_000);
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
    assert_eq!(seen.observation.details["truncated"], true);
    assert!(seen.phases().contains(&Phase::Connect));
}

#[test]
fn a_hang_up_in_mid_answer_over_tcp_is_told() {
    let address = crate::protocol::testing::serve(|mut stream| {
        let _ = stream.read(&mut [0; 500]);
        let _ = stream.write_all(&[1, 0, 9, 9]);
    });
    let seen = ask(address, "over: tcp");
    assert_eq!(seen.reason().kind, Kind::Closed, "{seen:?}");
}

#[test]
fn urls_and_servers_are_read() {
    let target = |yaml: &str| {
        let value = serde_yaml::from_str(yaml).expect(yaml);
        let mut found = Vec::new();
        let probe = DnsProbe::build(&mut Options::new(&value, Vec::new(), std::path::Path::new("."), &mut found));
        probe.unwrap_or_else(|| panic!("{yaml}: {found:?}")).target()
    };
    assert_eq!(target("url: 'dns://192.0.2.1:5353/mail.test?type=mx'"), "dns://192.0.2.1:5353/mail.test?type=MX");
    assert_eq!(target("url: 'dns://198.51.100.1'"), "dns://198.51.100.1:53/.?type=NS");
    assert_eq!(target("url: 'dns://[2001:db8::1]/a.test'"), "dns://[2001:db8::1]:53/a.test?type=A");
    assert_eq!(target("url: 'dns://198.51.100.1/메일.한국'"), target("{ server: 198.51.100.1, name: 메일.한국 }"));
    assert_eq!(target("{ server: '2001:db8::1', name: a.test, over: tls }"), "dns://[2001:db8::1]:853/a.test?type=A");
    assert_eq!(target("{ name: a.test, type: AAAA }"), "dns:///a.test?type=AAAA");

    let table = [
        ("{ server: 'a b', name: a }", "server: `a b` is no name server"),
        ("{ server: 'h:0', name: a }", "server: `h:0` is no name server"),
        ("{ server: h, name: 'a..b' }", "name: `a..b` is no name to ask for"),
        ("{ server: h, name: a, type: CNMAE }", "type: `CNMAE` is no type of record (did you mean `CNAME`?)"),
        (
            "{ server: h, expect: { rcode: NXDOMIAN } }",
            "expect.rcode: `NXDOMIAN` is no response code (did you mean `NXDOMAIN`?)",
        ),
        ("{ url: 'dns://h/a', name: b }", "url: `url` already says"),
        ("{ url: 'dns://h/a?class=CH' }", "url: `class` is unknown here"),
        ("{ name: a, over: tls }", "over: the system's name server is not asked by TLS"),
    ];
    for (yaml, expected) in table {
        let got = problems(&DNS, yaml);
        assert!(got.iter().any(|p| p.contains(expected)), "{yaml}: {got:?}");
    }
}
