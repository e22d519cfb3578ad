//! The dialogue with scripted peers, polite and hostile.

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    thread::sleep,
    time::Duration,
};

use super::*;
use crate::{
    clock,
    observation::{Accept, Kind, Observation, Outcome},
    options::Problem,
    protocol::{
        Net, SendFailure,
        lmtp::LMTP,
        testing::{SECRET, Seen, problems, run, serve},
        wire::{Family, Line, NetOptions},
    },
    value::{Masker, Secret},
};

const EHLO: &str = "250-mx.example.com\r\n250-SIZE 1000000\r\n250-8BITMIME\r\n250-AUTH PLAIN LOGIN\r\n250 DSN\r\n";

/// A reply that is none: hang up instead.
const HANG_UP: &str = "hang up";
/// A reply that is none: say nothing for longer than anybody waits.
const SILENCE: &str = "silence";

type Step = (&'static str, &'static str);
type Heard = Arc<Mutex<Vec<String>>>;

/// A peer that hears what it expects, line by line, and answers; `.` hears a whole mail. Then it waits for the end.
fn peer(steps: &'static [Step]) -> (SocketAddr, Heard) {
    let heard = Heard::default();
    let kept = heard.clone();
    let address = serve(move |stream| {
        let mut read = BufReader::new(stream.try_clone().expect("a socket can be shared"));
        for (expected, answer) in steps {
            let mut line = String::new();
            if !expected.is_empty() {
                while read.read_line(&mut line).is_ok_and(|n| n > 0) && *expected == "." && !line.ends_with("\r\n.\r\n")
                {
                }
                kept.lock().expect("no panic").push(line.trim_end().to_owned());
                assert!(*expected == "." || line.starts_with(expected), "{line:?} where {expected} is expected");
            }
            match *answer {
                HANG_UP => return,
                SILENCE => sleep(Duration::from_millis(1_500)),
                answer => (&stream).write_all(answer.as_bytes()).expect("the client reads"),
            }
        }
        let _ = read.read_line(&mut String::new());
    });
    (address, heard)
}

fn probe(steps: &'static [Step], more: &str) -> Seen {
    let (address, _) = peer(steps);
    run(&SMTP, &format!("{{ url: 'smtp://{address}', hello: probe.example.com{more} }}"), 700)
}

fn said(transcript: &[Line]) -> Vec<&str> {
    transcript.iter().map(|line| line.text.as_str()).collect()
}

// ---------------------------------------------------------------------------------------------------------------
// The probe

#[test]
fn a_probe_greets_asks_and_says_goodbye() {
    let steps: &[Step] = &[
        ("", "220-mx.example.com ESMTP\r\n220 hi\r\n"),
        ("EHLO probe.example.com\r\n", EHLO),
        ("NOOP\r\n", "250 Ok\r\n"),
        ("QUIT\r\n", "221 Bye\r\n"),
    ];
    let seen = probe(steps, "");
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
    let phases = [Phase::Resolve, Phase::Connect, Phase::Greeting, Phase::Exchange, Phase::Exchange, Phase::Close];
    assert_eq!(seen.phases(), phases);
    let details = &seen.observation.details;
    assert_eq!(details["smtp_greeting"], "mx.example.com ESMTP");
    assert_eq!(details["smtp_extensions"], "8BITMIME, DSN");
    assert_eq!((&details["smtp_size_bytes_max"], &details["smtp_auth"]), (&1_000_000.into(), &"PLAIN LOGIN".into()));
    let lines = said(&seen.transcript);
    for line in ["220 mx.example.com ESMTP", "220 hi", "EHLO probe.example.com", "250 SIZE 1000000", "NOOP", "QUIT"] {
        assert!(lines.contains(&line), "{line}: {lines:?}");
    }
}

#[test]
fn a_server_of_old_is_greeted_by_helo() {
    let steps: &[Step] = &[
        ("", "220 hi\r\n"),
        ("EHLO", "502 5.5.1 what?\r\n"),
        ("HELO probe.example.com\r\n", "250 mx\r\n"),
        ("NOOP", "250 Ok\r\n"),
        ("QUIT", HANG_UP),
    ];
    let seen = probe(steps, "");
    assert_eq!((seen.outcome(), &seen.observation.details["smtp_extensions"]), (Outcome::Ok, &"none".into()));
}

#[test]
fn failures_of_a_probe_are_told_where_they_are() {
    type Case = (&'static [Step], Phase, Kind, &'static str);
    let table: [Case; 16] = [
        (&[("", "554 5.7.1 go away\r\n")], Phase::Greeting, Kind::Rejected, "does not serve: 554 5.7.1 go away"),
        (&[("", "421-busy\r\n421 later\r\n")], Phase::Greeting, Kind::Deferred, "does not serve: 421 busy later"),
        (&[("", "250 hi\r\n")], Phase::Greeting, Kind::Protocol, "does not serve: 250 hi"),
        (&[("", "SSH-2.0-OpenSSH_9.2\r\n")], Phase::Greeting, Kind::Protocol, "no reply of a mail server: \"SSH-2.0"),
        (&[("", "\x00\x01\x02\n")], Phase::Greeting, Kind::Protocol, "no reply of a mail server"),
        (&[("", HANG_UP)], Phase::Greeting, Kind::Closed, "the server closed the connection"),
        (&[("", "220 hal"), ("EHLO", "")], Phase::Greeting, Kind::Timeout, "connected, but no greeting"),
        (&[("", SILENCE)], Phase::Greeting, Kind::Timeout, "connected, but no greeting"),
        (
            &[("", "220 hi\r\n"), ("EHLO", "250-mx\r\n250-SI"), ("", HANG_UP)],
            Phase::Exchange,
            Kind::Closed,
            "in the middle of a line",
        ),
        (
            &[("", "220 hi\r\n"), ("EHLO", "250-mx\r\n550 x\r\n")],
            Phase::Exchange,
            Kind::Protocol,
            "a reply that begins with 250 goes on",
        ),
        (
            &[("", "220 hi\r\n"), ("EHLO", "500 a\r\n"), ("HELO", "550 5.7.1 b\r\n")],
            Phase::Exchange,
            Kind::Rejected,
            "HELO probe.example.com refused: 550 5.7.1 b",
        ),
        (
            &[("", "220 hi\r\n"), ("EHLO", "451 4.7.1 not yet\r\n")],
            Phase::Exchange,
            Kind::Deferred,
            "EHLO probe.example.com refused: 451",
        ),
        (&[("", "220 hi\r\n"), ("EHLO", SILENCE)], Phase::Exchange, Kind::Timeout, "; EHLO was not answered"),
        (
            &[("", "220 hi\r\n"), ("EHLO", EHLO), ("NOOP", "421 4.3.2 down\r\n")],
            Phase::Exchange,
            Kind::Deferred,
            "NOOP refused: 421 4.3.2 down",
        ),
        // Replies to what was never asked, all at once: the second of them answers EHLO.
        (
            &[("", "220 hi\r\n554 5.5.1 nonsense\r\n554 5.5.1 nonsense\r\n")],
            Phase::Exchange,
            Kind::Rejected,
            "HELO probe.example.com refused: 554",
        ),
        (
            &[("", "220 hi\r\n"), ("EHLO", EHLO), ("NOOP", SILENCE)],
            Phase::Exchange,
            Kind::Timeout,
            "NOOP was not answered",
        ),
    ];
    for (steps, phase, kind, text) in table {
        let seen = probe(steps, "");
        let reason = seen.reason();
        assert_eq!((reason.phase, reason.kind), (phase, kind), "{steps:?}: {reason}");
        assert!(reason.text.contains(text), "{steps:?}: {reason}");
    }
}

#[test]
fn endless_lines_and_replies_are_cut() {
    let endless = |piece: &'static [u8]| serve(move |mut stream| while stream.write_all(piece).is_ok() {});
    for (piece, text) in
        [(&b"220 xxxxxxxx"[..], "a line of more than 4096 bytes"), (b"220-x\r\n", "a reply of more than 100 lines")]
    {
        let seen = run(&SMTP, &format!("url: 'smtp://{}'", endless(piece)), 2_000);
        assert_eq!((seen.reason().kind, seen.reason().phase), (Kind::TooLarge, Phase::Greeting), "{seen:?}");
        assert!(seen.reason().text.contains(text), "{seen:?}");
    }
}

#[test]
fn one_byte_at_a_time_is_enough() {
    let address = serve(|mut stream| {
        for byte in b"220 hi\r\n250 mx\r\n250 Ok\r\n221 Bye\r\n" {
            stream.write_all(&[*byte]).expect("the client reads");
            sleep(Duration::from_millis(2));
        }
        let _ = BufReader::new(stream).lines().count();
    });
    assert_eq!(run(&SMTP, &format!("url: 'smtp://{address}'"), 5_000).outcome(), Outcome::Ok);
}

#[test]
fn starttls_that_is_asked_for_is_never_left_out() {
    const OFFER: &str = "250-mx\r\n250 STARTTLS\r\n";
    type Case = (&'static [Step], Phase, Kind, &'static str);
    let table: [Case; 5] = [
        (
            &[("", "220 hi\r\n"), ("EHLO", EHLO)],
            Phase::Tls,
            Kind::Unexpected,
            "does not offer STARTTLS; it offers 8BITMIME, DSN",
        ),
        (
            &[("", "220 hi\r\n"), ("EHLO", "500 a\r\n"), ("HELO", "250 b\r\n")],
            Phase::Tls,
            Kind::Unexpected,
            "does not offer STARTTLS",
        ),
        (
            &[("", "220 hi\r\n"), ("EHLO", OFFER), ("STARTTLS", "454 4.7.0 no key\r\n")],
            Phase::Tls,
            Kind::Deferred,
            "STARTTLS refused: 454 4.7.0 no key",
        ),
        (
            &[("", "220 hi\r\n"), ("EHLO", OFFER), ("STARTTLS", "220 go\r\n250-injected\r\n")],
            Phase::Exchange,
            Kind::Protocol,
            "went on in plain text before TLS: 250-injected",
        ),
        (
            &[("", "220 hi\r\n"), ("EHLO", OFFER), ("STARTTLS", "220 go\r\n"), ("", "250 nonsense\r\n")],
            Phase::Tls,
            Kind::Handshake,
            "",
        ),
    ];
    for (steps, phase, kind, text) in table {
        let (address, _) = peer(steps);
        let seen = run(&SMTP, &format!("url: 'smtp+starttls://{address}'"), 2_000);
        let reason = seen.reason();
        // The last words may come before the handshake begins, or within it.
        if text.is_empty() && reason.text.contains("went on in plain text") {
            continue;
        }
        assert_eq!((reason.phase, reason.kind), (phase, kind), "{steps:?}: {reason}");
        assert!(reason.text.contains(text), "{steps:?}: {reason}");
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Login

const OFFER: Step = ("EHLO", "250-mx\r\n250 AUTH PLAIN LOGIN CRAM-MD5 XOAUTH2\r\n");
const HI: Step = ("", "220 hi\r\n");
const USER_ASKED: &str = "334 VXNlcm5hbWU6\r\n";

fn logging_in(steps: &'static [Step], auth: &str) -> Seen {
    let seen = probe(steps, &format!(", username: tim, password: {SECRET}{auth}"));
    let told = format!("{seen:?}");
    // \0tim\0hunter2-secret, and its parts
    for secret in [SECRET, "AHRpbQBodW50ZXIyLXNlY3JldA", "aHVudGVyMi1zZWNyZXQ"] {
        assert!(!told.contains(secret), "{told}");
    }
    seen
}

#[test]
fn logins_are_made_by_each_mechanism() {
    let plain: &[Step] = &[
        HI,
        OFFER,
        ("AUTH PLAIN AHRpbQBodW50ZXIyLXNlY3JldA==\r\n", "235 2.7.0 Ok\r\n"),
        ("NOOP", "250 Ok\r\n"),
        ("QUIT", HANG_UP),
    ];
    let login: &[Step] = &[
        HI,
        OFFER,
        ("AUTH LOGIN\r\n", USER_ASKED),
        ("dGlt\r\n", "334 UGFzc3dvcmQ6\r\n"),
        ("aHVudGVyMi1zZWNyZXQ=\r\n", "235 2.7.0 Ok\r\n"),
        ("NOOP", "250 Ok\r\n"),
        ("QUIT", HANG_UP),
    ];
    let cram: &[Step] = &[
        HI,
        OFFER,
        ("AUTH CRAM-MD5\r\n", "334 PDEyMzQ1NkBteD4=\r\n"),
        ("dGltIDJlZGMyNjYzZTE3NTRhNDM5NDRlZWU3MWI1OGYxN2Y0\r\n", "235 2.7.0 Ok\r\n"),
        ("NOOP", "250 Ok\r\n"),
        ("QUIT", HANG_UP),
    ];
    // The connection goes to loopback, so PLAIN is good enough.
    for (steps, auth, name) in
        [(plain, "", "PLAIN"), (login, ", auth: login", "LOGIN"), (cram, ", auth: cram-md5", "CRAM-MD5")]
    {
        let seen = logging_in(steps, auth);
        assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
        assert_eq!(seen.observation.details["smtp_login"], name);
        let lines = said(&seen.transcript);
        assert!(lines.iter().any(|line| line.contains("(credentials)")), "{lines:?}");
        assert!(seen.phases().contains(&Phase::Login));
    }
}

#[test]
fn refused_logins_are_told_in_the_servers_words() {
    type Case = (&'static [Step], &'static str, Kind, &'static str);
    let table: [Case; 9] = [
        (
            &[HI, OFFER, ("AUTH", "535 5.7.8 bad credentials\r\n")],
            "",
            Kind::Rejected,
            "login by PLAIN refused: 535 5.7.8 bad credentials",
        ),
        (
            &[HI, OFFER, ("AUTH", "454 4.7.0 try later\r\n")],
            "",
            Kind::Deferred,
            "login by PLAIN refused: 454 4.7.0 try later",
        ),
        (&[HI, OFFER, ("AUTH", "250 sure\r\n")], "", Kind::Protocol, "refused: 250 sure"),
        (&[HI, OFFER, ("AUTH", "334 !!\r\n")], "", Kind::Protocol, "a challenge that is no Base64"),
        (&[HI, OFFER, ("AUTH", USER_ASKED)], "", Kind::Protocol, "a challenge where none is due in PLAIN"),
        (
            &[HI, OFFER, ("AUTH", "334 eyJzdGF0dXMiOiI0MDEifQ==\r\n"), ("\r\n", "535 5.7.8 no\r\n")],
            ", auth: xoauth2",
            Kind::Rejected,
            "login by XOAUTH2 refused: 535 5.7.8 no ({\"status\":\"401\"})",
        ),
        (
            &[HI, OFFER],
            ", auth: scram-sha-256",
            Kind::Unexpected,
            "does not offer SCRAM-SHA-256 here; offered: PLAIN, LOGIN, CRAM-MD5, XOAUTH2",
        ),
        (
            &[HI, ("EHLO", "250-mx\r\n250 STARTTLS\r\n")],
            "",
            Kind::Unexpected,
            "offered: none; it offers STARTTLS, which smtp+starttls:// uses",
        ),
        (&[HI, OFFER, ("AUTH", HANG_UP)], "", Kind::Closed, "the server closed the connection"),
    ];
    for (steps, auth, kind, text) in table {
        let seen = logging_in(steps, auth);
        let reason = seen.reason();
        assert_eq!((reason.phase, reason.kind), (Phase::Login, kind), "{steps:?}: {reason}");
        assert!(reason.text.contains(text), "{steps:?}: {reason}");
    }
}

#[test]
fn a_login_that_is_repeated_is_not_shown() {
    // \0tim\0pw1: too short for its parts to be looked for, and nothing is known of the answer to a challenge.
    let plain: &[Step] = &[HI, OFFER, ("AUTH", "535 5.7.8 not understood: AUTH PLAIN AHRpbQBwdzE=\r\n")];
    let seen = probe(plain, ", username: tim, password: pw1");
    assert!(seen.reason().text.ends_with("not understood: AUTH PLAIN ***"), "{seen:?}");
    // RFC 2195, section 2.
    const ANSWERED: &str = "535 no: dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw\r\n";
    const CHALLENGE: &str = "334 PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+\r\n";
    let cram: &[Step] = &[HI, OFFER, ("AUTH", CHALLENGE), ("dGltI", ANSWERED)];
    let seen = probe(cram, ", username: tim, password: tanstaaftanstaaf, auth: cram-md5");
    assert!(seen.reason().text.contains("535 no: ***") && !format!("{seen:?}").contains("dGltIGI5"), "{seen:?}");
}

#[test]
fn a_success_without_the_servers_proof_is_not_believed() {
    let steps: &[Step] = &[
        HI,
        ("EHLO", "250-mx\r\n250 AUTH SCRAM-SHA-256 PLAIN\r\n"),
        ("AUTH SCRAM-SHA-256 biws", "235 2.7.0 welcome\r\n"),
    ];
    let seen = logging_in(steps, "");
    assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Login, Kind::Protocol));
    assert!(seen.reason().text.contains("did not prove that it knows the password"), "{seen:?}");
}

#[test]
fn a_long_first_message_is_said_after_the_empty_challenge() {
    let address = serve(|stream| {
        let mut read = BufReader::new(stream.try_clone().expect("a socket can be shared")).lines();
        let mut hear = || read.next().and_then(Result::ok).unwrap_or_default();
        let say = |text: &str| (&stream).write_all(text.as_bytes()).expect("the client reads");
        say("220 hi\r\n");
        hear();
        say("250-mx\r\n250 AUTH XOAUTH2\r\n");
        assert_eq!(hear(), "AUTH XOAUTH2");
        say("334 \r\n");
        assert!(hear().len() > 600);
        say("235 Ok\r\n");
        hear();
        say("250 Ok\r\n");
        hear();
    });
    let token = "t".repeat(500);
    let yaml = format!("{{ url: 'smtp://{address}', username: a, password: {token}, auth: xoauth2 }}");
    assert_eq!(run(&SMTP, &yaml, 2_000).outcome(), Outcome::Ok);
}

// ---------------------------------------------------------------------------------------------------------------
// Sending

/// What became of some mails over one session.
struct Mailed {
    sent: Vec<Result<(), SendFailure>>,
    left: bool,
    left_out: Vec<String>,
    observation: Observation,
}

fn sender(protocol: &Protocol, yaml: &str) -> Result<Box<dyn Sender>, Vec<Problem>> {
    let value = serde_yaml::from_str(yaml).expect("well-formed YAML");
    let mut problems = Vec::new();
    let build = protocol.send.expect("a protocol that can send");
    build(&mut Options::new(&value, Vec::new(), Path::new("."), &mut problems)).ok_or(problems)
}

/// Sends these payloads, each with a deadline as the check has one.
fn mailed(protocol: &Protocol, yaml: &str, payloads: &[&str]) -> Mailed {
    let sender = sender(protocol, yaml).unwrap_or_else(|problems| panic!("{yaml}: {problems:?}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let nameservers = vec!["192.0.2.1:53".parse().expect("an address")];
        let net = Net::new(NetOptions { nameservers, masker: Masker::new([Secret::new(SECRET)]) }).expect("a net");
        let mut cx = Attempt::new(net, Family::Any, clock::now(), clock::instant(), true);
        let mut session = sender.open(&mut cx).await.expect("the session opens");
        let mut sent = Vec::new();
        for payload in payloads {
            let timeout = Duration::from_millis(600);
            let done = tokio::time::timeout(timeout, session.send(&mut cx, payload.as_bytes())).await;
            sent.push(done.unwrap_or_else(|_| {
                let accept = if session.message_left() { Accept::Uncertain } else { Accept::Unreachable };
                Err(SendFailure { accept, reason: cx.overdue(timeout) })
            }));
        }
        let (left, left_out) = (session.message_left(), session.left_out());
        session.close(&mut cx).await;
        let (observation, _) = cx.finish(Ok(()), clock::instant(), None);
        Mailed { sent, left, left_out, observation }
    })
}

fn options(scheme: &str, address: SocketAddr, more: &str) -> String {
    format!("{{ url: '{scheme}://{address}', from: a@example.com, to: b@example.com{more} }}")
}

const GREET: [Step; 2] = [("", "220 hi\r\n"), ("EHLO", EHLO)];

/// A transaction whose steps are answered so.
macro_rules! steps {
    ($($step:expr),* $(,)?) => { &[GREET[0], GREET[1], $($step),*] };
}

#[test]
fn a_mail_is_sent_and_the_next_one_too() {
    let steps: &[Step] = steps![
        ("MAIL FROM:<a@example.com> SIZE=", "250 2.1.0 Ok\r\n"),
        ("RCPT TO:<b@example.com>\r\n", "250 2.1.5 Ok\r\n"),
        ("DATA\r\n", "354 go on\r\n"),
        (".", "250 2.0.0 queued as X1\r\n"),
        ("MAIL", "250 Ok\r\n"),
        ("RCPT", "251 forwarded\r\n"),
        ("DATA", "354 go on\r\n"),
        (".", "250 2.0.0 queued as X2\r\n"),
        ("QUIT", "221 Bye\r\n"),
    ];
    let (address, heard) = peer(steps);
    let got = mailed(&SMTP, &options("smtp", address, ""), &[".\n.봉수\nb", "second"]);
    assert_eq!(got.sent, [Ok(()), Ok(())]);
    assert!(got.left && got.left_out.is_empty());
    assert_eq!(got.observation.details["smtp_accepted"], "250 2.0.0 queued as X2");
    assert_eq!(got.observation.details["smtp_encoding"], "8bit");
    let heard = heard.lock().expect("no panic").clone();
    assert!(heard[1].ends_with(" BODY=8BITMIME"), "{heard:?}");
    let (head, body) = heard[4].split_once("\r\n\r\n").expect("a header and a body");
    assert_eq!(body, "..\r\n..봉수\r\nb\r\n.");
    let size: usize = heard[1].split(['=', ' ']).nth(3).and_then(|n| n.parse().ok()).expect("a size");
    // Two dots were added, and the line that ends the mail.
    assert_eq!(size, heard[4].len() + 2 - 2 - ".\r\n".len(), "{head}");
    assert!(head.contains("\r\nSubject: bongsu tracer =?UTF-8?B?") && head.contains("Auto-Submitted: auto-generated"));
}

#[test]
fn what_the_server_says_decides_what_has_become_of_a_mail() {
    use Accept::{Deferred, Rejected, Uncertain, Unreachable};
    const MAIL: Step = ("MAIL", "250 Ok\r\n");
    const RCPT: Step = ("RCPT", "250 Ok\r\n");
    const DATA: Step = ("DATA", "354 go\r\n");
    type Case = (&'static [Step], Accept, Kind, bool, &'static str);
    let table: [Case; 18] = [
        (steps![("MAIL", "550 5.7.1 no\r\n")], Rejected, Kind::Rejected, false, "MAIL refused: 550 5.7.1 no"),
        (steps![("MAIL", "452 4.3.1 full\r\n")], Deferred, Kind::Deferred, false, "MAIL refused: 452 4.3.1 full"),
        (steps![("MAIL", HANG_UP)], Unreachable, Kind::Closed, false, "the server closed the connection"),
        (steps![("MAIL", SILENCE)], Unreachable, Kind::Timeout, false, "; MAIL was not answered"),
        (steps![("MAIL", "hello\r\n")], Unreachable, Kind::Protocol, false, "no reply of a mail server: \"hello\""),
        (
            steps![MAIL, ("RCPT", "550 5.1.1 nobody\r\n")],
            Rejected,
            Kind::Rejected,
            false,
            "mail refused: 550 5.1.1 nobody",
        ),
        (
            steps![MAIL, ("RCPT", "450 4.7.1 greylisted\r\n")],
            Deferred,
            Kind::Deferred,
            false,
            "mail refused: 450 4.7.1 greylisted",
        ),
        (steps![MAIL, ("RCPT", "421 4.3.2 down\r\n")], Deferred, Kind::Deferred, false, "421 4.3.2 down"),
        (steps![MAIL, RCPT, ("DATA", "554 5.5.1 no\r\n")], Rejected, Kind::Rejected, false, "DATA refused: 554"),
        (steps![MAIL, RCPT, ("DATA", "451 4.3.0 later\r\n")], Deferred, Kind::Deferred, false, "DATA refused: 451"),
        (steps![MAIL, RCPT, ("DATA", "250 already\r\n")], Unreachable, Kind::Protocol, false, "DATA refused: 250"),
        (steps![MAIL, RCPT, ("DATA", SILENCE)], Unreachable, Kind::Timeout, false, "DATA was not answered"),
        (
            steps![MAIL, RCPT, DATA, (".", "554 5.7.1 spam\r\n")],
            Rejected,
            Kind::Rejected,
            true,
            "mail refused: 554 5.7.1 spam",
        ),
        (steps![MAIL, RCPT, DATA, (".", "451 4.7.1 later\r\n")], Deferred, Kind::Deferred, true, "mail refused: 451"),
        (steps![MAIL, RCPT, DATA, (".", HANG_UP)], Uncertain, Kind::Closed, true, "before it acknowledged the mail"),
        (
            steps![MAIL, RCPT, DATA, (".", SILENCE)],
            Uncertain,
            Kind::Timeout,
            true,
            "the server's word on it is missing",
        ),
        (steps![MAIL, RCPT, DATA, (".", "nonsense\r\n")], Uncertain, Kind::Protocol, true, "before it acknowledged"),
        (steps![MAIL, RCPT, DATA, (".", "354 more\r\n")], Uncertain, Kind::Protocol, true, "mail refused: 354 more"),
    ];
    for (steps, accept, kind, left, text) in table {
        let (address, _) = peer(steps);
        let got = mailed(&SMTP, &options("smtp", address, ""), &["x"]);
        let failure = got.sent[0].clone().expect_err("refused");
        assert_eq!((failure.accept, failure.reason.kind, got.left), (accept, kind, left), "{steps:?}: {failure:?}");
        assert_eq!(failure.reason.phase, Phase::Send);
        assert!(failure.reason.text.contains(text), "{steps:?}: {failure:?}");
    }
}

#[test]
fn a_session_goes_on_after_a_refusal_and_not_after_a_mail_cut_off() {
    let steps: &[Step] = steps![
        ("MAIL", "250 Ok\r\n"),
        ("RCPT", "450 4.7.1 greylisted\r\n"),
        ("RSET", "250 Ok\r\n"),
        ("MAIL", "250 Ok\r\n"),
        ("RCPT", "250 Ok\r\n"),
        ("DATA", "354 go\r\n"),
        (".", "554 5.7.1 spam\r\n"),
        ("RSET", "250 Ok\r\n"),
        ("MAIL", "250 Ok\r\n"),
        ("RCPT", "250 Ok\r\n"),
        ("DATA", "354 go\r\n"),
        (".", "250 Ok\r\n"),
    ];
    let got = mailed(&SMTP, &options("smtp", peer(steps).0, ""), &["a", "b", "c"]);
    let accepts: Vec<_> = got.sent.into_iter().map(|sent| sent.map_err(|failure| failure.accept)).collect();
    assert_eq!(accepts, [Err(Accept::Deferred), Err(Accept::Rejected), Ok(())]);

    // Dropped while the answer to RCPT is due: the late answer is not taken for another.
    let address = serve(|stream| {
        let mut read = BufReader::new(stream.try_clone().expect("a socket can be shared")).lines();
        let mut hear = |verb: &str| {
            let line = read.next().and_then(Result::ok).unwrap_or_default();
            assert!(line.starts_with(verb), "{line} where {verb} is expected");
        };
        let say = |text: &str| (&stream).write_all(text.as_bytes()).expect("the client reads");
        say("220 hi\r\n");
        hear("EHLO");
        say("250 mx\r\n");
        hear("MAIL");
        say("250 Ok\r\n");
        hear("RCPT");
        sleep(Duration::from_millis(800));
        say("550 5.1.1 nobody\r\n");
        for verb in ["RSET", "MAIL", "RCPT"] {
            hear(verb);
            say("250 Ok\r\n");
        }
        hear("DATA");
        sleep(Duration::from_millis(800));
        say("354 go on\r\n");
        hear("");
    });
    let got = mailed(&SMTP, &options("smtp", address, ""), &["a", "b", "c"]);
    let failures: Vec<_> = got.sent.into_iter().map(|sent| sent.expect_err("not sent")).collect();
    assert!(failures.iter().all(|failure| failure.accept == Accept::Unreachable), "{failures:?}");
    assert!(failures[0].reason.text.contains("RCPT was not answered"), "{failures:?}");
    assert!(failures[1].reason.text.contains("DATA was not answered"), "{failures:?}");
    assert!(failures[2].reason.text.contains("left in the middle of a mail"), "{failures:?}");
}

#[test]
fn one_recipient_of_several_is_enough() {
    let steps: &[Step] = steps![
        ("MAIL", "250 Ok\r\n"),
        ("RCPT TO:<b+bongsu@x.example>", "550 5.1.1 nobody\r\n"),
        ("RCPT TO:<c+bongsu@x.example>", "250 Ok\r\n"),
        ("DATA", "354 go\r\n"),
        (".", "250 Ok\r\n"),
    ];
    let (address, _) = peer(steps);
    let yaml =
        format!("{{ url: 'smtp://{address}', from: a@x.example, to: [b@x.example, c@x.example], plus: bongsu }}");
    let got = mailed(&SMTP, &yaml, &["x"]);
    assert_eq!(got.sent, [Ok(())]);
    assert_eq!(got.observation.details["smtp_refused"], "b+bongsu@x.example: 550 5.1.1 nobody");

    let steps: &[Step] =
        steps![("MAIL", "250 Ok\r\n"), ("RCPT", "550 5.1.1 nobody\r\n"), ("RCPT", "450 4.2.1 busy\r\n")];
    let yaml = format!("{{ url: 'smtp://{}', from: a@x.example, to: [b@x.example, c@x.example] }}", peer(steps).0);
    let failure = mailed(&SMTP, &yaml, &["x"]).sent.remove(0).expect_err("nobody gets it");
    assert_eq!(
        (failure.accept, failure.reason.text.as_str()),
        (Accept::Deferred, "mail refused: c@x.example: 450 4.2.1 busy")
    );
}

#[test]
fn a_mail_is_written_as_the_server_can_take_it() {
    const TAKEN: [Step; 4] =
        [("MAIL", "250 Ok\r\n"), ("RCPT", "250 Ok\r\n"), ("DATA", "354 go\r\n"), (".", "250 Ok\r\n")];
    const ALL: &str = "250-mx\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 DSN\r\n";
    const NONE: &str = "250 mx\r\n";
    const RAW: &str = "X-Bongsu-Utf8: 봉수";
    type Case = (&'static [Step], &'static str, &'static str, &'static [&'static str], &'static [&'static str]);
    let dsn = ", dsn: { notify: [failure, delay], ret: headers }";
    let table: [Case; 6] = [
        (
            &[HI, ("EHLO", NONE), TAKEN[0], TAKEN[1], TAKEN[2], TAKEN[3]],
            "",
            "MAIL FROM:<a@example.com>",
            &["quoted-printable", "=EB=B4=89"],
            &[],
        ),
        (
            &[HI, ("EHLO", ALL), TAKEN[0], TAKEN[1], TAKEN[2], TAKEN[3]],
            ", encoding: base64",
            "MAIL FROM:<a@example.com>",
            &["base64", "67SJ"],
            &[],
        ),
        (
            &[HI, ("EHLO", ALL), TAKEN[0], TAKEN[1], TAKEN[2], TAKEN[3]],
            "",
            "MAIL FROM:<a@example.com> BODY=8BITMIME",
            &["8bit", "\r\n봉"],
            &[],
        ),
        (
            &[HI, ("EHLO", ALL), TAKEN[0], TAKEN[1], TAKEN[2], TAKEN[3]],
            ", smtputf8: true",
            "MAIL FROM:<a@example.com> BODY=8BITMIME SMTPUTF8",
            &["8bit", RAW],
            &[],
        ),
        (
            &[HI, ("EHLO", NONE), TAKEN[0], TAKEN[1], TAKEN[2], TAKEN[3]],
            ", smtputf8: true, dsn: { notify: [never] }",
            "MAIL FROM:<a@example.com>",
            &["quoted-printable"],
            &["header-8bit", "dsn"],
        ),
        (
            &[HI, ("EHLO", ALL), TAKEN[0], TAKEN[1], TAKEN[2], TAKEN[3]],
            dsn,
            "MAIL FROM:<a@example.com> BODY=8BITMIME RET=HDRS ENVID=bongsu.",
            &["8bit"],
            &[],
        ),
    ];
    for (steps, more, mail, contains, left_out) in table {
        let (address, heard) = peer(steps);
        let got = mailed(&SMTP, &options("smtp", address, more), &["봉"]);
        assert_eq!(got.sent, [Ok(())], "{more}");
        assert_eq!(got.left_out, left_out, "{more}");
        let heard = heard.lock().expect("no panic").clone();
        assert!(heard[1].starts_with(mail), "{more}: {heard:?}");
        assert_eq!(heard[1].contains("ENVID"), more == dsn);
        assert_eq!(
            heard[2],
            format!("RCPT TO:<b@example.com>{}", if more == dsn { " NOTIFY=FAILURE,DELAY" } else { "" })
        );
        assert!(contains.iter().all(|part| heard[4].contains(part)), "{more}: {}", heard[4]);
        assert_eq!(heard[4].contains(RAW), contains.contains(&RAW));
    }
    let refused: [(&'static [Step], &str, &str); 3] = [
        (&[HI, ("EHLO", NONE)], ", encoding: 8bit", "does not offer 8BITMIME"),
        (&[HI, ("EHLO", "250-mx\r\n250 SIZE 20\r\n")], "", "takes mails of up to 20 bytes; this one has"),
        (&[HI, ("EHLO", NONE)], ", smtputf8: true, from: 봉수@example.com", "does not offer SMTPUTF8"),
    ];
    for (steps, more, text) in refused {
        let yaml = format!(
            "{{ url: 'smtp://{}', to: b@example.com{more}{} }}",
            peer(steps).0,
            if more.contains("from") { "" } else { ", from: a@example.com" }
        );
        let got = mailed(&SMTP, &yaml, &["x"]);
        let failure = got.sent[0].clone().expect_err("refused");
        assert_eq!((failure.accept, failure.reason.kind, got.left), (Accept::Rejected, Kind::Rejected, false));
        assert!(failure.reason.text.contains(text), "{failure:?}");
    }
}

#[test]
fn in_lmtp_each_mailbox_has_its_word() {
    const LHLO: [Step; 2] = [("", "220 store LMTP\r\n"), ("LHLO", "250-store\r\n250-PIPELINING\r\n250 8BITMIME\r\n")];
    let probed: &[Step] = &[LHLO[0], LHLO[1], ("NOOP", "250 Ok\r\n"), ("QUIT", "221 Bye\r\n")];
    let seen = run(&LMTP, &format!("url: 'lmtp://{}'", peer(probed).0), 2_000);
    assert_eq!(
        (seen.outcome(), &seen.observation.details["lmtp_extensions"]),
        (Outcome::Ok, &"PIPELINING, 8BITMIME".into())
    );
    let refused: &[Step] = &[LHLO[0], ("LHLO", "500 what?\r\n")];
    let seen = run(&LMTP, &format!("url: 'lmtp://{}'", peer(refused).0), 2_000);
    assert!(seen.reason().text.starts_with("LHLO ") && seen.reason().kind == Kind::Rejected, "{seen:?}");

    let begin = |last: &'static [Step]| {
        let mut steps = vec![LHLO[0], LHLO[1], ("MAIL", "250 Ok\r\n")];
        steps.extend([
            ("RCPT", "250 Ok\r\n"),
            ("RCPT", "250 Ok\r\n"),
            ("RCPT", "550 5.1.1 nobody\r\n"),
            ("DATA", "354 go\r\n"),
        ]);
        steps.extend(last);
        let (address, _) = peer(Vec::leak(steps));
        format!("{{ url: 'lmtp://{address}', from: a@x.example, to: [b@x.example, c@x.example, d@x.example] }}")
    };
    let got = mailed(&LMTP, &begin(&[(".", "552 5.2.2 <b> over quota\r\n250 2.1.5 <c> saved\r\n")]), &["x"]);
    assert_eq!(got.sent, [Ok(())]);
    assert_eq!(got.observation.details["lmtp_refused"], "b@x.example: 552 5.2.2 <b> over quota");
    assert_eq!(got.observation.details["lmtp_accepted"], "250 2.1.5 <c> saved");
    let got = mailed(&LMTP, &begin(&[(".", "552 5.2.2 full\r\n451 4.2.0 later\r\n")]), &["x"]);
    assert_eq!(got.sent[0].clone().map_err(|failure| failure.accept), Err(Accept::Deferred));
    let got = mailed(&LMTP, &begin(&[(".", "250 saved\r\n"), ("", HANG_UP)]), &["x"]);
    assert_eq!(got.sent[0].clone().map_err(|failure| failure.accept), Err(Accept::Uncertain));
}

// ---------------------------------------------------------------------------------------------------------------
// Options

#[test]
fn mistakes_in_the_options_are_told() {
    let table = [
        ("url: mx.example.com", "url: this is no URL"),
        ("url: imap://h", "url: the scheme `imap` does not fit here"),
        ("url: smtp://h/inbox", "url: the URL of a mail server has no path"),
        ("{ url: 'smtp://h', tls: {} }", "tls: `smtp://` has no TLS (write smtp+starttls:// or smtps:// in the URL)"),
        ("{ url: 'smtp://h', username: u }", "username: a user name without a password"),
        ("{ url: 'smtp://h', password: p }", "password: a password without a user name"),
        ("{ url: 'smtp://u:p@h', username: u }", "url: the URL and the options both name a login"),
        ("{ url: 'smtp://h', auth: plain }", "auth: there is nobody to log in"),
        ("{ url: 'smtp://u:p@h', auth: plan }", "auth: unknown value `plan`; did you mean `plain`?"),
        ("{ url: 'smtp://h', hello: 'a b' }", "hello: `a b` is no name of a host"),
        ("{ url: 'smtp://h', from: a@b }", "from: unknown key `from`"),
    ];
    for (yaml, expected) in table {
        let got = problems(&SMTP, yaml);
        assert!(got.iter().any(|p| p.contains(expected)), "{yaml}: {got:?}");
    }
    let table = [
        ("from: nobody, to: b@x.example", "`nobody` is no address"),
        ("from: 'A <a@x.example>', to: b@x.example", "is no address"),
        ("from: \"a@x.example>\\r\\nRSET\", to: b@x.example", "is no address"),
        ("from: a@x.example, to: []", "0 recipients, where 1 to 16 are expected"),
        ("from: a@x.example, to: [b@x.example, '']", "`` is no address"),
        ("from: a@x.example, to: 봉수@x.example", "`봉수@x.example` is an address beyond ASCII"),
        ("from: a@x.example, to: b@x.example, plus: 'a b'", "`a b` is no sub-address"),
        ("from: a@x.example, to: b@x.example, dsn: { notify: [never, delay] }", "`never` stands beside other words"),
        ("from: a@x.example, to: b@x.example, dsn: { notify: [sometimes] }", "unknown value `sometimes`"),
        ("from: a@x.example, to: b@x.example, encoding: 7bit", "unknown value `7bit`"),
        ("to: b@x.example", "`from` is missing"),
    ];
    for (yaml, expected) in table {
        let got = sender(&SMTP, &format!("{{ url: 'smtp://h', {yaml} }}")).err().expect(yaml);
        assert!(got.iter().any(|p| p.text.contains(expected)), "{yaml}: {got:?}");
    }
}

#[test]
fn what_is_carried_depends_on_the_encoding() {
    let longest = |more: &str| {
        let yaml = format!("{{ url: 'smtps://h', from: a@x.example, to: b@x.example{more} }}");
        let sender = sender(&SMTP, &yaml).unwrap_or_else(|problems| panic!("{problems:?}"));
        assert_eq!(sender.target(), "smtps://h:465");
        sender.carries().line_bytes_max
    };
    assert_eq!((longest(""), longest(", encoding: 8bit")), (998, 998));
    assert!(longest(", encoding: base64") > 2_000 && longest(", encoding: quoted-printable") > 2_000);
}
