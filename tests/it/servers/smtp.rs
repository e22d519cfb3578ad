//! `smtp` against a real postfix.

use std::{path::Path, time::Duration};

use bongsu::{
    clock,
    delivery::{CheckKey, Identity, Key, Seen, tracer},
    observation::{Accept, Integrity, Kind, Outcome, Phase, Reason},
    options::Options,
    protocol::{
        self, Attempt, Net, SendFailure, SendSession, Sender,
        mail::compose::{RAW_HEADER, SUBJECT, WORDS_HEADER},
        wire::{Family, NetOptions},
    },
};
use mail_parser::{HeaderForm, HeaderValue, MessageParser};

use crate::harness::{build, context, postfix::Postfix, probing::probe, proxy::Proxy, settings};

/// Longest an answer of postfix may take on a busy machine.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// An open session, and what it has shown so far.
struct Open {
    cx: Attempt,
    session: Box<dyn SendSession>,
}

fn sender(yaml: &str) -> Box<dyn Sender> {
    let value = serde_yaml::from_str(yaml).expect("well-formed YAML");
    let mut problems = Vec::new();
    let build = protocol::by_name("smtp").and_then(|p| p.send).expect("a protocol that can send");
    let sender = build(&mut Options::new(&value, Vec::new(), Path::new("/"), &mut problems));
    sender.unwrap_or_else(|| panic!("{yaml}: {problems:?}"))
}

async fn open(yaml: &str) -> Result<Open, Reason> {
    let sender = sender(yaml);
    let net = Net::new(NetOptions::default()).expect("a resolver");
    let mut cx = Attempt::new(net, Family::Any, clock::now(), clock::instant(), true);
    let opened = tokio::time::timeout(ANSWER_MAX, sender.open(&mut cx)).await.expect("postfix answers");
    opened.map(|session| Open { cx, session })
}

impl Open {
    async fn send(&mut self, payload: &[u8], timeout: Duration) -> Option<Result<(), SendFailure>> {
        tokio::time::timeout(timeout, self.session.send(&mut self.cx, payload)).await.ok()
    }

    /// Sends one mail over a session that is expected to open, and closes it.
    async fn mail(yaml: &str, payload: &[u8]) -> Result<(), SendFailure> {
        let mut open = open(yaml).await.expect("postfix lets everybody in");
        let sent = open.send(payload, ANSWER_MAX).await.expect("postfix answers");
        open.session.close(&mut open.cx).await;
        sent
    }
}

/// A tracer for what this sender carries, and what proves it.
fn tracer_for(yaml: &str, key: &Key) -> (Vec<u8>, CheckKey) {
    let check = CheckKey::new(key, &"mail/round-trip".parse().expect("a name"));
    let identity = Identity { check, sequence: 7, sent_at: clock::now(), nonce: 9 };
    (tracer::compose(key, &identity, sender(yaml).carries()).payload, check)
}

#[test]
fn a_probe_speaks_each_scheme() {
    let postfix = Postfix::start();
    let tls = format!(", tls: {{ ca: '{}' }}", postfix.certificate().display());
    let (plain, starttls, smtps) = (
        format!("smtp://127.0.0.1:{}", postfix.port),
        format!("smtp+starttls://localhost:{}", postfix.port),
        format!("smtps://localhost:{}", postfix.tls_port),
    );
    use Phase::{Close, Connect, Exchange, Greeting, Resolve, Tls};
    let seen = probe("smtp", &format!("url: '{plain}'"));
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
    assert_eq!(seen.phases(), [Resolve, Connect, Greeting, Exchange, Exchange, Close]);
    let details = &seen.observation.details;
    assert!(details["smtp_greeting"].as_str().is_some_and(|said| said.starts_with("mx.example.com ESMTP Postfix")));
    assert_eq!(details["smtp_extensions"], "PIPELINING, 8BITMIME, SMTPUTF8, DSN, STARTTLS, CHUNKING");
    assert_eq!(details["smtp_size_bytes_max"], 10_240_000);

    let seen = probe("smtp", &format!("{{ url: '{starttls}'{tls} }}"));
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
    assert_eq!(seen.phases(), [Resolve, Connect, Greeting, Exchange, Tls, Exchange, Exchange, Close]);
    assert!(seen.observation.tls.as_ref().is_some_and(|tls| tls.version == "1.3"));
    // Postfix offers no STARTTLS within TLS: what was offered before is forgotten.
    assert_eq!(seen.observation.details["smtp_extensions"], "PIPELINING, 8BITMIME, SMTPUTF8, DSN, CHUNKING");

    let seen = probe("smtp", &format!("{{ url: '{smtps}'{tls} }}"));
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
    assert_eq!(seen.phases(), [Resolve, Connect, Tls, Greeting, Exchange, Exchange, Close]);

    for url in [starttls, smtps] {
        let seen = probe("smtp", &format!("url: '{url}'"));
        assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Tls, Kind::Certificate), "{seen:?}");
    }
    let seen = probe("smtp", &format!("{{ url: '{plain}', username: a, password: b-secret }}"));
    assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Login, Kind::Unexpected), "{seen:?}");
    assert!(seen.reason().text.contains("offered: none; it offers STARTTLS"), "{seen:?}");
    // TLS to the port that speaks first, and plain text to the one that waits for TLS.
    let seen = probe("smtp", &format!("{{ url: 'smtps://localhost:{}'{tls} }}", postfix.port));
    assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Tls, Kind::Handshake), "{seen:?}");
}

#[tokio::test]
async fn tracers_arrive_byte_true_by_every_encoding_and_scheme() {
    let postfix = Postfix::start();
    let tls = format!(", tls: {{ ca: '{}' }}", postfix.certificate().display());
    let key = Key::new(&[3; 32]);
    let ways = [
        format!("url: 'smtp://127.0.0.1:{}'", postfix.port),
        format!("url: 'smtp+starttls://localhost:{}'{tls}", postfix.port),
        format!("url: 'smtps://localhost:{}'{tls}, smtputf8: true", postfix.tls_port),
    ];
    let mut count = 0;
    for way in &ways {
        for encoding in ["auto", "8bit", "quoted-printable", "base64"] {
            let yaml = format!(
                "{{ {way}, from: probe@example.com, to: box@example.com, plus: bongsu, encoding: {encoding} }}"
            );
            let (payload, check) = tracer_for(&yaml, &key);
            assert_eq!(Open::mail(&yaml, &payload).await, Ok(()), "{yaml}");
            count += 1;
            let mails = postfix.wait_for_mails(count);
            let mail = MessageParser::default().parse(&mails[count - 1]).expect("a mail");
            assert!(
                mail.subject().is_some_and(|s| s == format!("{SUBJECT} {}", tracer::HEADER)),
                "{:?}",
                mail.subject()
            );
            let body = mail.body_text(0).expect("a body");
            match tracer::recognise(&key, check, body.as_bytes()) {
                Seen::Ours(found) => assert_eq!(found.integrity, Integrity::Equal, "{yaml}"),
                other => panic!("{yaml}: {other:?}"),
            }
            let header =
                |name| mail.header_as(name, HeaderForm::Text).first().and_then(|v| v.as_text().map(str::to_owned));
            assert_eq!(header(WORDS_HEADER).as_deref(), Some(tracer::HEADER));
            let raw = mail.header(RAW_HEADER).and_then(HeaderValue::as_text);
            assert_eq!(raw, way.contains("smtputf8").then_some(tracer::HEADER), "{yaml}");
            let text = String::from_utf8_lossy(&mails[count - 1]).into_owned();
            assert!(text.contains("<box+bongsu@example.com>"), "{text}");
            assert_eq!(
                text.contains("with ESMTPS") || text.contains("with UTF8SMTPS"),
                !way.contains("'smtp:"),
                "{text}"
            );
        }
    }
}

#[tokio::test]
async fn postfix_refuses_and_defers_and_the_session_goes_on() {
    let postfix = Postfix::start_with(
        "smtpd_recipient_restrictions = check_recipient_access inline:{ { grey@example.com = 450 4.7.1 greylisted } }\n\
         smtpd_end_of_data_restrictions = check_sender_access inline:{ { slow@example.com = 451 4.7.1 not now } }\n\
         body_checks = regexp:{ { /^poison/ REJECT no poison here } }\n\
         message_size_limit = 9000",
    );
    let to = |to: &str| format!("{{ url: 'smtp://127.0.0.1:{}', from: a@example.com, to: [{to}] }}", postfix.port);
    let relayed = Open::mail(&to("b@elsewhere.example"), b"x").await.expect_err("refused");
    assert_eq!((relayed.accept, relayed.reason.kind), (Accept::Rejected, Kind::Rejected));
    assert!(relayed.reason.text.contains("554 5.7.1") && relayed.reason.text.contains("Relay access denied"));
    let grey = Open::mail(&to("grey@example.com"), b"x").await.expect_err("deferred");
    assert_eq!((grey.accept, grey.reason.kind), (Accept::Deferred, Kind::Deferred));
    assert!(grey.reason.text.contains("450 4.7.1"), "{grey:?}");

    let late = Open::mail(&to("b@example.com").replace("a@", "slow@"), b"x").await.expect_err("deferred");
    assert_eq!((late.accept, late.reason.kind), (Accept::Deferred, Kind::Deferred));
    assert!(late.reason.text.starts_with("mail refused: 451 4.7.1"), "{late:?}");

    let mut session = open(&to("b@elsewhere.example, c@example.com")).await.expect("it opens");
    let mut accepts = Vec::new();
    for payload in [&b"poison"[..], b"good", &[b'x'; 9_001], b"good too"] {
        let sent = session.send(payload, ANSWER_MAX).await.expect("postfix answers");
        accepts.push(sent.map_err(|failure| failure.reason.text));
    }
    assert!(accepts[0].as_ref().is_err_and(|text| text.contains("550 5.7.1 no poison here")), "{accepts:?}");
    assert!(accepts[2].as_ref().is_err_and(|text| text.contains("takes mails of up to 9000 bytes")), "{accepts:?}");
    assert_eq!((&accepts[1], &accepts[3]), (&Ok(()), &Ok(())), "{accepts:?}");
    session.session.close(&mut session.cx).await;
    let (observation, _) = session.cx.finish(Ok(()), clock::instant(), None);
    let refused = observation.details["smtp_refused"].as_str().expect("a text").to_owned();
    assert!(refused.starts_with("b@elsewhere.example: 554 5.7.1"), "{refused}");
    assert_eq!(postfix.wait_for_mails(2).len(), 2);
}

#[tokio::test]
async fn silence_and_a_cut_after_the_mail_leave_it_uncertain() {
    let postfix = Postfix::start();
    let proxy = Proxy::start(([127, 0, 0, 1], postfix.port).into());
    let yaml = format!("{{ url: 'smtp://{}', from: a@example.com, to: b@example.com }}", proxy.address);
    let mut silent = open(&yaml).await.expect("it opens");
    proxy.hold_from("bongsu-silence");
    assert_eq!(silent.send(b"bongsu-silence", Duration::from_secs(2)).await, None, "postfix' answer is held back");
    assert!(silent.session.message_left());
    let reason = silent.cx.overdue(Duration::from_secs(2));
    assert_eq!((reason.phase, reason.kind), (Phase::Send, Kind::Timeout));
    assert!(reason.text.contains("the server's word on it is missing"), "{reason}");
    // It was taken all the same.
    postfix.wait_for_mails(1);

    proxy.release();
    let mut cut = open(&yaml).await.expect("it opens");
    proxy.hold_from("bongsu-cut");
    let cutting = async {
        proxy.held().await;
        proxy.cut();
    };
    let (sent, ()) = tokio::join!(cut.send(b"bongsu-cut", ANSWER_MAX), cutting);
    let failure = sent.expect("the end is noticed").expect_err("no answer came");
    assert_eq!(failure.accept, Accept::Uncertain, "{failure:?}");
    assert!(failure.reason.text.ends_with("before it acknowledged the mail"), "{failure:?}");

    proxy.release();
    let mut early = open(&yaml).await.expect("it opens");
    proxy.hold_from("RCPT TO");
    assert_eq!(early.send(b"x", Duration::from_secs(1)).await, None);
    assert!(!early.session.message_left(), "no byte of the mail went out");
}

#[tokio::test]
async fn an_idle_session_notices_that_postfix_ends_it() {
    let postfix = Postfix::start_with("smtpd_timeout = 1s");
    let yaml = format!("{{ url: 'smtp://127.0.0.1:{}', from: a@example.com, to: b@example.com }}", postfix.port);
    let mut open = open(&yaml).await.expect("it opens");
    assert_eq!(open.send(b"first", ANSWER_MAX).await, Some(Ok(())));
    let reason = tokio::time::timeout(ANSWER_MAX, open.session.idle()).await.expect("it ends");
    assert_eq!((reason.phase, reason.kind), (Phase::Send, Kind::Closed));
    assert!(reason.text.contains("421 4.4.2"), "{reason}");
    let failure = open.send(b"second", ANSWER_MAX).await.expect("an answer").expect_err("the session is gone");
    assert_eq!(failure.accept, Accept::Unreachable, "{failure:?}");
}

#[tokio::test]
async fn a_report_names_the_mail_it_is_about() {
    let postfix = Postfix::start();
    let yaml = format!(
        "{{ url: 'smtp://127.0.0.1:{}', from: a@example.com, to: b@example.com, dsn: {{ notify: [success], ret: headers }} }}",
        postfix.port
    );
    let key = Key::new(&[3; 32]);
    let (payload, check) = tracer_for(&yaml, &key);
    assert_eq!(Open::mail(&yaml, &payload).await, Ok(()));
    let mails = postfix.wait_for_mails(2);
    let report = mails.iter().find(|mail| String::from_utf8_lossy(mail).contains("multipart/report"));
    let report = report.expect("a report of success");
    assert!(String::from_utf8_lossy(report).contains("Original-Envelope-Id: bongsu1."));
    // It returns headers only, and still names the tracer.
    assert!(matches!(tracer::recognise(&key, check, report), Seen::Ours(_)));
}

#[tokio::test]
async fn a_frozen_server_and_a_stopped_one_are_told_apart() {
    let mut postfix = Postfix::start();
    let proxy = Proxy::start(([127, 0, 0, 1], postfix.port).into());
    let settings = settings(Duration::from_secs(2));
    let ask = build("smtp", &format!("url: 'smtp://{}'", proxy.address), &settings);
    assert_eq!(ask.target(), format!("smtp://{}", proxy.address));
    proxy.hold_from("220 ");
    let reason = ask.attempt(context(&settings)).await.observation.reason.expect("a failure has a reason");
    assert_eq!((reason.phase, reason.kind), (Phase::Greeting, Kind::Timeout), "{reason}");
    let ask = build("smtp", &format!("url: 'smtp://127.0.0.1:{}'", postfix.port), &settings);
    postfix.stop();
    let reason = ask.attempt(context(&settings)).await.observation.reason.expect("a failure has a reason");
    assert_eq!((reason.phase, reason.kind), (Phase::Connect, Kind::Refused), "{reason}");
    let ask = bongsu::check::from_url("smtp+starttls://mx.example.com").expect("a good URL");
    assert_eq!((ask.kind(), ask.target()), ("smtp", "smtp+starttls://mx.example.com:587".to_owned()));
}
