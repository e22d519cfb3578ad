//! Scripted servers: polite, hostile, and odd in the ways real ones are.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::*;
use crate::{
    clock,
    observation::{Kind, Outcome},
    options::Options,
    protocol::{
        Net,
        testing::{problems, run, said_until, serve_all, silent},
        wire::{Family, NetOptions},
    },
};

const LOGIN: &str = "username: probe, password: hunter2-secret";

/// Greets, and answers each command by what `answer` says of it, over so many connections.
fn play(
    connections: usize,
    greeting: &str,
    mut answer: impl FnMut(&str) -> String + Send + 'static,
) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let said = Arc::new(Mutex::new(Vec::new()));
    let (greeting, kept) = (greeting.to_owned(), said.clone());
    let address = serve_all(connections, move |stream| {
        let mut reader = BufReader::new(stream.try_clone().expect("a socket can be shared"));
        let mut stream = stream;
        let _ = stream.write_all(greeting.as_bytes());
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|n| n > 0) {
            let command = std::mem::take(&mut line).trim_end().to_owned();
            kept.lock().expect("no panic").push(command.clone());
            let reply = answer(&command);
            if reply == "HANG UP" || stream.write_all(reply.as_bytes()).is_err() || command == "QUIT" {
                return;
            }
        }
    });
    (address, said)
}

/// What a polite server with one old mail and one new one answers; it knows CAPA.
fn polite(command: &str) -> String {
    let mail = "Subject: bongsu tracer\r\nX-Bongsu-Tracer: 1\r\n\r\n";
    match command.split(' ').collect::<Vec<_>>().as_slice() {
        ["CAPA"] => "+OK\r\nUSER\r\nUIDL\r\nTOP\r\n.\r\n".into(),
        ["STAT"] => "+OK 2 320\r\n".into(),
        ["LIST"] => "+OK\r\n1 100\r\n2 200\r\n.\r\n".into(),
        ["UIDL"] => "+OK\r\n1 aaa\r\n2 bbb\r\n.\r\n".into(),
        ["TOP", ..] => format!("+OK\r\n{mail}.\r\n"),
        ["RETR", n] => format!("+OK\r\n{mail}mail {n}\r\n..dot\r\n.\r\n"),
        _ => "+OK\r\n".into(),
    }
}

fn probed(address: SocketAddr) -> crate::protocol::testing::Seen {
    run(&POP3, &format!("{{ url: 'pop3://{address}', {LOGIN} }}"), 700)
}

#[test]
fn the_dialogue_is_polite_and_shows_no_secret() {
    let (address, said) = play(1, "+OK ready\r\n", polite);
    let seen = probed(address);
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
    let expected = ["CAPA", "USER probe", "PASS hunter2-secret", "CAPA", "STAT", "QUIT"];
    assert_eq!(said_until(&said, "QUIT"), expected);
    assert_eq!(seen.phases()[2..], [Phase::Greeting, Phase::Login, Phase::Exchange, Phase::Close]);
    assert_eq!(seen.observation.details["pop3_mails"], 2);
}

#[test]
fn mechanisms_fit_what_the_server_offers() {
    let (address, said) = play(1, "+OK ready\r\n", |command| match command {
        "CAPA" => "+OK\r\nSASL PLAIN\r\n.\r\n".into(),
        other => polite(other),
    });
    assert_eq!(probed(address).outcome(), Outcome::Ok);
    assert_eq!(said.lock().expect("no panic")[1], "AUTH PLAIN AHByb2JlAGh1bnRlcjItc2VjcmV0");
    // A command longer than 255 bytes is none: the response follows on its own.
    let (address, said) = play(1, "+OK ready\r\n", |command| match command {
        "CAPA" => "+OK\r\nSASL PLAIN\r\n.\r\n".into(),
        "AUTH PLAIN" => "+ \r\n".into(),
        other => polite(other),
    });
    let long = "x".repeat(300);
    let seen = run(&POP3, &format!("{{ url: 'pop3://{address}', username: probe, password: '{long}' }}"), 700);
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
    assert_eq!(said.lock().expect("no panic")[1], "AUTH PLAIN");
    // No CAPA at all.
    let (address, said) = play(1, "+OK\r\n", |command| match command {
        "CAPA" => "-ERR what?\r\n".into(),
        other => polite(other),
    });
    assert_eq!(probed(address).outcome(), Outcome::Ok);
    assert_eq!(said.lock().expect("no panic")[1], "USER probe");
}

#[test]
fn a_login_shows_no_challenge_and_says_what_else_there_is() {
    let (address, _) = play(1, "+OK\r\n", |command| match command {
        "CAPA" => "+OK\r\nSASL SCRAM-SHA-256 PLAIN CRAM-MD5\r\n.\r\n".into(),
        "AUTH CRAM-MD5" => "+ PDEuMkBob3N0Pg==\r\n".into(),
        command if command.starts_with("AUTH") => "-ERR [AUTH] user not found\r\n".into(),
        other => polite(other),
    });
    let text = "login refused: -ERR [AUTH] user not found; if the password is right, SCRAM may not work for this user: try \
                `auth: plain`";
    assert_eq!(probed(address).reason().text, text);
    let (address, _) = play(1, "+OK\r\n", |command| match command {
        "CAPA" => "+OK\r\nSASL CRAM-MD5\r\n.\r\n".into(),
        "AUTH CRAM-MD5" => "+ PDEuMkBob3N0Pg==\r\n".into(),
        _ => "+OK 0 0\r\n".into(),
    });
    let seen = probed(address);
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
    let lines: Vec<&str> = seen.transcript.iter().map(|line| line.text.as_str()).collect();
    assert!(lines.contains(&"+ (challenge)") && !format!("{lines:?}").contains("PDEuMkBob3N0Pg"), "{lines:?}");
}

#[test]
fn refusals_and_violations_are_told() {
    type Answer = fn(&str) -> String;
    let table: [(&str, Answer, Phase, Kind, &str); 11] = [
        (
            "-ERR [SYS/TEMP] down\r\n",
            polite,
            Phase::Greeting,
            Kind::Deferred,
            "the connection is refused: -ERR [SYS/TEMP] down",
        ),
        ("* OK IMAP\r\n", polite, Phase::Greeting, Kind::Protocol, "what is no POP3: \"* OK IMAP\""),
        ("", polite, Phase::Greeting, Kind::Timeout, "no greeting"),
        (
            "+OK\r\n",
            |c| if c.starts_with("USER") { "-ERR nobody\r\n".into() } else { polite(c) },
            Phase::Login,
            Kind::Rejected,
            "login refused: -ERR nobody",
        ),
        (
            "+OK\r\n",
            |c| if c.starts_with("PASS") { "-ERR [AUTH] hunter2-secret?\r\n".into() } else { polite(c) },
            Phase::Login,
            Kind::Rejected,
            "login refused: -ERR [AUTH] ",
        ),
        (
            "+OK\r\n",
            |c| if c.starts_with("PASS") { "-ERR [IN-USE] locked\r\n".into() } else { polite(c) },
            Phase::Login,
            Kind::Deferred,
            "login refused: -ERR [IN-USE] locked",
        ),
        (
            "+OK\r\n",
            |c| if c.starts_with("PASS") { "HANG UP".into() } else { polite(c) },
            Phase::Login,
            Kind::Closed,
            "the server closed",
        ),
        (
            "+OK\r\n",
            |c| if c == "STAT" { "-ERR no\r\n".into() } else { polite(c) },
            Phase::Exchange,
            Kind::Rejected,
            "STAT refused: -ERR no",
        ),
        (
            "+OK\r\n",
            |c| if c == "STAT" { String::new() } else { polite(c) },
            Phase::Exchange,
            Kind::Timeout,
            "no answer",
        ),
        (
            "+OK\r\n",
            |c| if c == "CAPA" { "+OK\r\nSASL PLAIN\r\n.\r\n".into() } else { "+ ?\r\n".into() },
            Phase::Login,
            Kind::Protocol,
            "login by PLAIN: a challenge that is no Base64",
        ),
        (
            "+OK\r\n",
            |c| if c == "CAPA" { "+OK\r\nSASL PLAIN\r\n.\r\n".into() } else { "hello\r\n".into() },
            Phase::Login,
            Kind::Protocol,
            "what is no POP3",
        ),
    ];
    for (greeting, answer, phase, kind, text) in table {
        let (address, _) = play(1, greeting, answer);
        let seen = probed(address);
        let reason = seen.reason();
        assert_eq!((reason.phase, reason.kind), (phase, kind), "{greeting}: {reason}");
        assert!(reason.text.contains(text), "{greeting}: {reason}");
    }
    let seen = run(&POP3, &format!("{{ url: 'pop3://{}', {LOGIN} }}", silent()), 300);
    assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Greeting, Kind::Timeout));
}

#[test]
fn what_has_no_end_is_cut_off() {
    for (bytes, text) in
        [(&b"xxxxxxxxxxxxxxxxxxxxxxxxxxxx"[..], "a line of more than"), (b"+OK\r\n", "longer than 50000 lines")]
    {
        let address = serve_all(1, move |mut stream| {
            let _ = stream.write_all(b"+OK\r\n");
            let _ = stream.read(&mut [0; 100]);
            while stream.write_all(bytes).is_ok() {}
        });
        let seen = run(&POP3, &format!("{{ url: 'pop3://{address}', {LOGIN} }}"), 10_000);
        assert_eq!(seen.reason().kind, Kind::TooLarge, "{}", seen.reason());
        assert!(seen.reason().text.contains(text), "{}", seen.reason());
    }
}

#[test]
fn tls_that_was_asked_for_is_never_left_out() {
    type Answer = fn(&str) -> String;
    let cases: [(Answer, Kind, &str); 3] = [
        (polite, Kind::Unexpected, "does not offer STLS"),
        (|_| "-ERR what?\r\n".into(), Kind::Rejected, "STLS refused: -ERR what?"),
        (
            |c| if c == "STLS" { "+OK\r\n+OK injected\r\n".into() } else { "+OK\r\nSTLS\r\n.\r\n".into() },
            Kind::Protocol,
            "went on in plain text before TLS",
        ),
    ];
    for (answer, kind, text) in cases {
        let (address, said) = play(1, "+OK\r\n", answer);
        let seen = run(&POP3, &format!("{{ url: 'pop3+starttls://{address}', {LOGIN} }}"), 700);
        assert_eq!(seen.reason().kind, kind, "{}", seen.reason());
        assert!(seen.reason().text.contains(text), "{}", seen.reason());
        assert!(!said.lock().expect("no panic").iter().any(|c| c.contains("USER") || c.contains("AUTH")));
    }
}

#[test]
fn options_are_checked() {
    for (yaml, text) in [
        ("{ url: 'pop3://h/x' }", "url: this URL has no path"),
        ("{ url: 'imap://h' }", "url: the scheme `imap` does not fit here"),
        ("{ url: 'pop3://h', username: a }", "username: a login needs a password"),
        ("{ url: 'pop3://h', tls: {} }", "tls: `pop3://` has no TLS"),
    ] {
        let got = problems(&POP3, yaml);
        assert!(got.iter().any(|p| p.starts_with(text)), "{yaml}: {got:?}");
    }
    for (more, text) in [("", "a mailbox needs a login"), (", username: a, password: b, poll: 0s", "a poll is every")] {
        let value = serde_yaml::from_str(&format!("{{ url: 'pop3://h'{more} }}")).expect("well-formed YAML");
        let mut problems = Vec::new();
        let read = options::read_receive(&mut Options::new(&value, Vec::new(), Path::new("."), &mut problems));
        assert!(read.is_none() && problems.iter().any(|p| p.text.contains(text)), "{more}: {problems:?}");
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Receiving

async fn open(address: SocketAddr) -> Result<Box<dyn ReceiveSession>, Reason> {
    let value = serde_yaml::from_str(&format!("{{ url: 'pop3://{address}', {LOGIN}, poll: 1s }}")).expect("YAML");
    let mut problems = Vec::new();
    let receive = POP3.receive.expect("it can receive");
    let receiver = receive(&mut Options::new(&value, Vec::new(), Path::new("."), &mut problems));
    let receiver = receiver.unwrap_or_else(|| panic!("{problems:?}"));
    let net = Net::new(NetOptions::default()).expect("a resolver");
    let mut cx = Attempt::new(net, Family::Any, clock::now(), clock::instant(), true);
    tokio::time::timeout(Duration::from_secs(10), receiver.open(&mut cx)).await.expect("an answer in time")
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

#[test]
fn a_deletion_that_was_not_confirmed_ends_the_session() {
    let (mut visits, mut pending) = (0, false);
    let (address, said) = play(6, "+OK\r\n", move |command| match command {
        // Of the first listing the second mail is not there yet; nor is the first one after its deletion was done.
        "QUIT" => {
            visits += 1;
            if std::mem::take(&mut pending) && visits == 3 { "HANG UP".into() } else { "+OK\r\n".into() }
        }
        "UIDL" if visits == 0 => "+OK\r\n1 aaa\r\n.\r\n".into(),
        "DELE 2" => {
            pending = true;
            "+OK\r\n".into()
        }
        other => polite(other),
    });
    block_on(async {
        let mut session = open(address).await.unwrap_or_else(|reason| panic!("{reason}"));
        let mut texts = Vec::new();
        for _ in 0..2 {
            let arrival = tokio::time::timeout(Duration::from_secs(10), session.next()).await.expect("in time");
            let arrival = arrival.unwrap_or_else(|reason| panic!("{reason}"));
            let text = String::from_utf8_lossy(&arrival.payload).into_owned();
            if text.starts_with("mail 2") {
                session.discard(arrival.handle.expect("a handle"));
            }
            texts.push(text);
        }
        texts.sort();
        assert_eq!(texts, ["mail 1\r\n.dot\r\n", "mail 2\r\n.dot\r\n"]);
        // The server hangs up instead of confirming: the session is gone, and the next one finds the mail in store.
        let ended = tokio::time::timeout(Duration::from_secs(10), session.next()).await.expect("in time");
        assert_eq!(ended.expect_err("it is gone").kind, Kind::Closed);
        session.close().await;
    });
    let said = said.lock().expect("no panic");
    assert!(said.iter().any(|c| c == "DELE 2") && !said.iter().any(|c| c == "DELE 1"), "{said:?}");
}

#[test]
fn mails_of_one_identifier_are_told_apart() {
    // popa3d: two mails of somebody else's and, since the second visit, a bounce, none of which has a `Received`.
    let mut visits = 0;
    let (address, said) = play(6, "+OK\r\n", move |command| match command {
        "QUIT" => {
            visits += 1;
            "+OK\r\n".into()
        }
        "UIDL" if visits == 0 => "+OK\r\n1 aaa\r\n2 aaa\r\n.\r\n".into(),
        "UIDL" => "+OK\r\n1 aaa\r\n2 aaa\r\n3 aaa\r\n.\r\n".into(),
        "TOP 3 0" | "RETR 3" => "+OK\r\nFrom: MAILER-DAEMON@x.example\r\n\r\nmail 3\r\n.\r\n".into(),
        c if c.starts_with("TOP") => "+OK\r\nSubject: lunch\r\n\r\n.\r\n".into(),
        other => polite(other),
    });
    block_on(async {
        let mut session = open(address).await.unwrap_or_else(|reason| panic!("{reason}"));
        let arrival = tokio::time::timeout(Duration::from_secs(10), session.next()).await.expect("in time");
        session.discard(arrival.unwrap_or_else(|reason| panic!("{reason}")).handle.expect("a handle"));
        session.close().await;
    });
    let said = said.lock().expect("no panic");
    let deleted: Vec<&str> = said.iter().map(String::as_str).filter(|c| c.starts_with("DELE")).collect();
    assert_eq!(deleted, ["DELE 3"], "{said:?}");
}

#[test]
fn a_maildrop_that_is_held_is_tried_again() {
    let mut tries = 0;
    let (address, _) = play(8, "+OK\r\n", move |command| {
        if command.starts_with("PASS") {
            tries += 1;
            if tries == 1 || tries == 3 {
                return "-ERR [IN-USE] another session\r\n".into();
            }
        }
        polite(command)
    });
    block_on(async {
        let mut session = open(address).await.unwrap_or_else(|reason| panic!("{reason}"));
        let arrival = tokio::time::timeout(Duration::from_secs(10), session.next()).await.expect("in time");
        assert!(arrival.is_ok(), "{arrival:?}");
    });
}

#[test]
fn a_server_without_identifiers_is_refused() {
    let (address, _) = play(1, "+OK\r\n", |c| if c == "UIDL" { "-ERR no\r\n".into() } else { polite(c) });
    let reason = block_on(open(address)).err().expect("it is refused");
    assert_eq!((reason.phase, reason.kind), (Phase::Exchange, Kind::Rejected));
    assert!(reason.text.contains("UIDL, by which mails are told apart, is refused: -ERR no"), "{reason}");
}
