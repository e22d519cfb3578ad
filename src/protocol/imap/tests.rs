//! Scripted servers: polite, hostile, and odd in the ways real ones are.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    thread::sleep,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    clock,
    observation::{Kind, Outcome},
    options::Options,
    protocol::{
        Arrival, Net,
        testing::{problems, run, said_until, serve, silent},
        wire::{Family, NetOptions},
    },
};

const LOGIN: &str = "username: probe, password: hunter2-secret";

/// Answers each command by what `answer` says of it (`%` stands for its tag), and keeps what was said.
fn play(
    greeting: &str,
    mut answer: impl FnMut(&str) -> String + Send + 'static,
) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let said = Arc::new(Mutex::new(Vec::new()));
    let (greeting, kept) = (greeting.to_owned(), said.clone());
    let address = serve(move |stream| {
        let mut reader = BufReader::new(stream.try_clone().expect("a socket can be shared"));
        let mut stream = stream;
        let _ = stream.write_all(greeting.as_bytes());
        let mut tag = String::new();
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|n| n > 0) {
            let text = line.trim_end().to_owned();
            line.clear();
            let command = match text.split_once(' ').filter(|(first, _)| first.starts_with('b')) {
                Some((first, command)) => {
                    tag = first.to_owned();
                    command.to_owned()
                }
                None => text,
            };
            kept.lock().expect("no panic").push(command.clone());
            let reply = answer(&command).replace('%', &tag);
            if reply == "HANG UP" || stream.write_all(reply.as_bytes()).is_err() {
                return;
            }
        }
    });
    (address, said)
}

const GREETING: &str = "* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] ready\r\n";

/// What a polite server answers.
fn polite(command: &str) -> String {
    match command.split(' ').next().unwrap_or_default() {
        "CAPABILITY" => "* CAPABILITY IMAP4rev1 IDLE UIDPLUS\r\n% OK\r\n".into(),
        "LOGOUT" => "* BYE bye\r\n% OK\r\n".into(),
        _ => "% OK done\r\n".into(),
    }
}

fn probed(address: SocketAddr) -> crate::protocol::testing::Seen {
    run(&IMAP, &format!("{{ url: 'imap://{address}', {LOGIN} }}"), 700)
}

#[test]
fn the_dialogue_is_polite_and_shows_no_secret() {
    let (address, said) = play(GREETING, polite);
    let seen = probed(address);
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
    let said = said_until(&said, "LOGOUT");
    assert_eq!(said[0], "AUTHENTICATE PLAIN AHByb2JlAGh1bnRlcjItc2VjcmV0");
    assert_eq!(said[1..], ["CAPABILITY", "NOOP", "LOGOUT"]);
    assert_eq!(seen.observation.details["imap_login"], "PLAIN");
    assert_eq!(seen.observation.details["imap_greeting"], "ready");
}

#[test]
fn logins_fit_what_the_server_offers() {
    // Without an initial response, and by the command LOGIN with a password that must be a literal.
    let (address, said) = play("* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] ready\r\n", |command| match command {
        "AUTHENTICATE PLAIN" => "+ \r\n".into(),
        other => polite(other),
    });
    assert_eq!(probed(address).outcome(), Outcome::Ok);
    assert_eq!(said.lock().expect("no panic")[1], "AHByb2JlAGh1bnRlcjItc2VjcmV0");

    let (address, said) = play("* OK ready\r\n", |command| match command {
        "CAPABILITY" => "* CAPABILITY IMAP4rev1\r\n% OK\r\n".into(),
        "LOGIN \"a \\\"b\\\"\" {9}" => "+ go on\r\n".into(),
        other => polite(other),
    });
    let seen = run(&IMAP, &format!("{{ url: 'imap://{address}', username: 'a \"b\"', password: '비밀번' }}"), 700);
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
    assert_eq!(said.lock().expect("no panic")[2], "비밀번");
    assert!(!format!("{seen:?}").contains("비밀번"));

    // In the session by the greeting alone.
    let (address, said) = play("* PREAUTH hi\r\n", polite);
    assert_eq!(probed(address).outcome(), Outcome::Ok);
    assert_eq!(said_until(&said, "LOGOUT"), ["CAPABILITY", "NOOP", "LOGOUT"]);
}

#[test]
fn a_login_shows_no_challenge_and_says_what_else_there_is() {
    // GNU Mailutils and Cyrus offer SCRAM also where the users' passwords are kept in a way that it cannot use.
    let greeting = "* OK [CAPABILITY IMAP4rev1 AUTH=SCRAM-SHA-256 AUTH=CRAM-MD5 AUTH=PLAIN] x\r\n";
    let (address, _) = play(greeting, |command| match command {
        "AUTHENTICATE SCRAM-SHA-256" => "+ \r\n".into(),
        _ => "% NO AUTHENTICATE SCRAM-SHA-256 authentication failed\r\n".into(),
    });
    let seen = probed(address);
    let text = "login refused: NO AUTHENTICATE SCRAM-SHA-256 authentication failed; if the password is right, SCRAM \
                may not work for this user: try `auth: plain`";
    assert_eq!(seen.reason().text, text);

    let (address, _) = play(greeting, |command| match command {
        "AUTHENTICATE CRAM-MD5" => "+ PDEuMkBob3N0Pg==\r\n".into(),
        other => polite(other),
    });
    let seen = run(&IMAP, &format!("{{ url: 'imap://{address}', {LOGIN}, auth: cram-md5 }}"), 700);
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
    let lines: Vec<&str> = seen.transcript.iter().map(|line| line.text.as_str()).collect();
    assert!(lines.contains(&"+ (challenge)") && !format!("{lines:?}").contains("PDEuMkBob3N0Pg"), "{lines:?}");
}

#[test]
fn refusals_and_violations_are_told() {
    type Answer = fn(&str) -> String;
    let hostile: Answer = |_| "* OK echo hunter2-secret\r\n% NO [ALERT] hunter2-secret is wrong\r\n".into();
    let table: [(&str, Answer, Phase, Kind, &str); 17] = [
        ("* BYE too many\r\n", polite, Phase::Greeting, Kind::Rejected, "the server greeted with BYE too many"),
        ("* BYE [UNAVAILABLE] x\r\n", polite, Phase::Greeting, Kind::Deferred, "BYE [UNAVAILABLE] x"),
        ("220 mx ESMTP\r\n", polite, Phase::Greeting, Kind::Protocol, "what is no IMAP: \"220 mx ESMTP\""),
        ("HTTP/1.1 400 Bad Request\r\n", polite, Phase::Greeting, Kind::Protocol, "what is no IMAP"),
        ("* 3 EXISTS\r\n", polite, Phase::Greeting, Kind::Protocol, "the server did not greet"),
        ("* NO\r\n", polite, Phase::Greeting, Kind::Protocol, "the server greeted with NO"),
        ("", polite, Phase::Greeting, Kind::Timeout, "no greeting"),
        ("* OK [CAPABILITY X LOGINDISABLED] x\r\n", polite, Phase::Login, Kind::Rejected, "(LOGINDISABLED); use TLS"),
        ("* OK x\r\n", |_| "% OK\r\n".into(), Phase::Greeting, Kind::Protocol, "no answer to CAPABILITY but OK"),
        (
            GREETING,
            |_| "% NO [AUTHENTICATIONFAILED] no\r\n".into(),
            Phase::Login,
            Kind::Rejected,
            "login refused: NO [AUTHENTICATIONFAILED] no",
        ),
        (
            GREETING,
            |_| "% NO [UNAVAILABLE] later\r\n".into(),
            Phase::Login,
            Kind::Deferred,
            "login refused: NO [UNAVAILABLE] later",
        ),
        (GREETING, hostile, Phase::Login, Kind::Rejected, "login refused: NO [ALERT] "),
        (
            GREETING,
            |_| "+ !!!\r\n".into(),
            Phase::Login,
            Kind::Protocol,
            "login by PLAIN: a challenge that is no Base64",
        ),
        (
            GREETING,
            |_| "b77 OK\r\n".into(),
            Phase::Login,
            Kind::Protocol,
            "the server answered b77, which was not asked",
        ),
        (GREETING, |_| "HANG UP".into(), Phase::Login, Kind::Closed, "the server closed the connection"),
        (
            GREETING,
            |c| if c == "NOOP" { "* BYE going down\r\n".into() } else { polite(c) },
            Phase::Exchange,
            Kind::Closed,
            "the server ended the session: BYE going down",
        ),
        (
            GREETING,
            |c| if c == "NOOP" { "% NO not now\r\n".into() } else { with_capabilities(c) },
            Phase::Exchange,
            Kind::Rejected,
            "NOOP refused: NO not now",
        ),
    ];
    for (greeting, answer, phase, kind, text) in table {
        let (address, _) = play(greeting, answer);
        let seen = probed(address);
        let reason = seen.reason();
        assert_eq!((reason.phase, reason.kind), (phase, kind), "{greeting}: {reason}");
        assert!(reason.text.contains(text), "{greeting}: {reason}");
    }
}

/// Says what it can along with the success of the login.
fn with_capabilities(command: &str) -> String {
    if command.starts_with("AUTH") { "% OK [CAPABILITY IMAP4rev1] in\r\n".into() } else { polite(command) }
}

#[test]
fn what_has_no_end_is_cut_off() {
    let flood = |bytes: &'static [u8]| {
        serve(move |mut stream| {
            let _ = stream.write_all(GREETING.as_bytes());
            let _ = stream.read(&mut [0; 100]);
            while stream.write_all(bytes).is_ok() {}
        })
    };
    let long: &'static [u8] = format!("* OK {}\r\n", "x".repeat(500_000)).into_bytes().leak();
    let cases: [(SocketAddr, &str); 5] = [
        (flood(long), "has no end"),
        (flood(b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"), "a line of more than"),
        (flood(b"* OK still there\r\n"), "has no end"),
        (flood(b"* LIST (()()()()()()()()()()()()()()()()()()()()()()()())\r\n"), "has no end"),
        (flood(b"* 1 FETCH (BODY[] {4294967295}\r\n"), "a literal of 4294967295 bytes"),
    ];
    for (address, text) in cases {
        let seen = run(&IMAP, &format!("{{ url: 'imap://{address}', {LOGIN} }}"), 10_000);
        assert_eq!(seen.reason().kind, Kind::TooLarge, "{}", seen.reason());
        assert!(seen.reason().text.contains(text), "{}", seen.reason());
    }
    let seen = run(&IMAP, &format!("{{ url: 'imap://{}', {LOGIN} }}", silent()), 300);
    assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Greeting, Kind::Timeout));
}

#[test]
fn tls_that_was_asked_for_is_never_left_out() {
    let cases: [(&str, &str, Kind, &str); 4] = [
        ("* PREAUTH in\r\n", "", Kind::Protocol, "after which TLS cannot begin"),
        ("* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] x\r\n", "", Kind::Unexpected, "does not offer STARTTLS"),
        ("* OK [CAPABILITY STARTTLS] x\r\n", "% NO not today\r\n", Kind::Rejected, "STARTTLS refused: NO not today"),
        // Words put in before the handshake are not taken for the server's.
        (
            "* OK [CAPABILITY STARTTLS] x\r\n",
            "% OK go\r\n* CAPABILITY AUTH=PLAIN\r\n",
            Kind::Protocol,
            "went on in plain text before TLS",
        ),
    ];
    for (greeting, answer, kind, text) in cases {
        let (address, said) = play(greeting, move |command| match command {
            "STARTTLS" => answer.to_owned(),
            _ => String::new(),
        });
        let seen = run(&IMAP, &format!("{{ url: 'imap+starttls://{address}', {LOGIN} }}"), 700);
        assert_eq!(seen.reason().kind, kind, "{greeting}: {}", seen.reason());
        assert!(seen.reason().text.contains(text), "{greeting}: {}", seen.reason());
        assert!(!said.lock().expect("no panic").iter().any(|c| c.contains("AUTH") || c.contains("LOGIN")));
    }
}

#[test]
fn options_are_checked() {
    let table = [
        ("{ url: 'imap://h/INBOX' }", "url: this URL has no path"),
        ("{ url: 'http://h' }", "url: the scheme `http` does not fit here"),
        ("{ url: 'imap://h', username: a }", "username: a login needs a password"),
        ("{ url: 'imap://h', password: a }", "password: a login needs a user name"),
        ("{ url: 'imap://u:p@h', username: a, password: b }", "url: the URL and the options both name a login"),
        ("{ url: 'imap://h', auth: plain }", "auth: there is nothing to log in with"),
        ("{ url: 'imap://h', tls: {} }", "tls: `imap://` has no TLS"),
    ];
    for (yaml, text) in table {
        let got = problems(&IMAP, yaml);
        assert!(got.iter().any(|p| p.starts_with(text)), "{yaml}: {got:?}");
    }
    let table = [
        ("", "a mailbox needs a login"),
        ("username: a, password: b, folder: A, folders: all", "cannot both be given"),
        ("username: a, password: b, folders: []", "0 folders"),
        ("username: a, password: b, folder: 'a*'", "is no name of a folder"),
        ("username: a, password: b, poll: 10ms", "a poll is every"),
        ("username: a, password: b, keep_alive: 1h", "keep alive is"),
        ("username: a, password: b, folders: some", "folders"),
    ];
    for (more, text) in table {
        let yaml = format!("{{ url: 'imap://h', {more} }}");
        let value = serde_yaml::from_str(&yaml).expect("well-formed YAML");
        let mut problems = Vec::new();
        let read = options::read_receive(&mut Options::new(&value, Vec::new(), Path::new("."), &mut problems));
        assert!(read.is_none() && problems.iter().any(|p| format!("{p:?}").contains(text)), "{yaml}: {problems:?}");
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Receiving

/// A folder in which a mail appears as soon as somebody waits; `odd` answers first.
fn mailbox(odd: impl Fn(&str) -> Option<String> + Send + 'static) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    play("* PREAUTH [CAPABILITY IMAP4rev1 IDLE UIDPLUS] hi\r\n", move |command| {
        if let Some(reply) = odd(command) {
            return reply;
        }
        let words: Vec<&str> = command.split(' ').collect();
        match words.as_slice() {
            ["SELECT", ..] => "* 1 EXISTS\r\n* OK [UIDVALIDITY 7]\r\n* OK [UIDNEXT 2]\r\n% OK [READ-WRITE]\r\n".into(),
            ["UID", "SEARCH", "SUBJECT", ..] => "* SEARCH\r\n% OK\r\n".into(),
            ["UID", "SEARCH", "UID", "2:*"] => "* SEARCH 2\r\n% OK\r\n".into(),
            ["UID", "SEARCH", ..] => "* SEARCH 2\r\n% OK\r\n".into(),
            ["UID", "FETCH", uid, ..] => fetched(uid),
            ["IDLE"] => "+ idling\r\n* 2 EXISTS\r\n".into(),
            _ => polite(command),
        }
    })
}

fn fetched(uid: &str) -> String {
    let mail = format!("Subject: x\r\n\r\nmail {uid}\r\n");
    format!("* 2 FETCH (UID {uid} BODY[]<0> {{{}}}\r\n{mail})\r\n% OK\r\n", mail.len())
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

async fn open(address: SocketAddr, more: &str) -> Result<Box<dyn ReceiveSession>, Reason> {
    let yaml = format!("{{ url: 'imap://{address}', {LOGIN}{more} }}");
    let value = serde_yaml::from_str(&yaml).expect("well-formed YAML");
    let mut problems = Vec::new();
    let receive = IMAP.receive.expect("it can receive");
    let receiver = receive(&mut Options::new(&value, Vec::new(), Path::new("."), &mut problems));
    let receiver = receiver.unwrap_or_else(|| panic!("{yaml}: {problems:?}"));
    let net = Net::new(NetOptions::default()).expect("a resolver");
    let mut cx = Attempt::new(net, Family::Any, clock::now(), clock::instant(), true);
    tokio::time::timeout(Duration::from_secs(10), receiver.open(&mut cx)).await.expect("an answer in time")
}

async fn next(session: &mut Box<dyn ReceiveSession>) -> Result<Arrival, Reason> {
    tokio::time::timeout(Duration::from_secs(20), session.next()).await.expect("in time")
}

fn text(arrival: &Arrival) -> String {
    String::from_utf8_lossy(&arrival.payload).trim_end().to_owned()
}

#[test]
fn a_new_mail_is_fetched_without_touching_its_flags_and_taken_off_alone() {
    let (address, said) = mailbox(|_| None);
    block_on(async {
        let mut session = open(address, "").await.unwrap_or_else(|reason| panic!("{reason}"));
        let arrival = next(&mut session).await.expect("a mail");
        assert_eq!(text(&arrival), "mail 2");
        session.discard(arrival.handle.expect("a handle"));
        session.close().await;
    });
    let said = said.lock().expect("no panic");
    let expected = [
        "SELECT \"INBOX\"",
        "UID SEARCH SUBJECT \"bongsu tracer\"",
        "IDLE",
        "DONE",
        "UID SEARCH UID 2:*",
        "UID FETCH 2 (UID BODY.PEEK[]<0.131072>)",
        "UID STORE 2 +FLAGS.SILENT (\\Deleted)",
        "UID EXPUNGE 2",
        "LOGOUT",
    ];
    // The mail is handed out while its round goes on, or the session has begun to wait again.
    let said: Vec<&str> = said.iter().map(String::as_str).collect();
    let mut rest = expected.iter().peekable();
    for command in &said {
        rest.next_if(|expected| *expected == command);
    }
    assert_eq!(rest.peek(), None, "{said:?}");
}

#[test]
fn odd_servers_are_coped_with() {
    type Odd = fn(&str) -> Option<String>;
    let table: [(&str, &str, Odd); 9] = [
        ("a search that finds nothing in an open range, as GNU Mailutils", "", |command| match command {
            "UID SEARCH UID 2:*" => Some("* SEARCH\r\n% OK\r\n".into()),
            "UID FETCH 2:* (UID)" => Some("* 1 FETCH (UID 1)\r\n* 2 FETCH (UID 2)\r\n% OK\r\n".into()),
            _ => None,
        }),
        ("IDLE that tells nothing before its end", ", poll: 1s", |command| match command {
            "IDLE" => Some("+ idling\r\n".into()),
            "DONE" => Some("* 2 EXISTS\r\n% OK\r\n".into()),
            _ => None,
        }),
        ("no UIDNEXT", "", |command| match command {
            c if c.starts_with("SELECT") => Some("* 1 EXISTS\r\n* OK [UIDVALIDITY 7]\r\n% OK\r\n".into()),
            "UID FETCH * (UID)" => Some("* 1 FETCH (UID 1)\r\n% OK\r\n".into()),
            _ => None,
        }),
        ("an answer of IMAP4rev2", "", |command| {
            (command == "UID SEARCH UID 2:*").then(|| "* ESEARCH (TAG \"%\") UID ALL 2\r\n% OK\r\n".into())
        }),
        ("IDLE that is refused", ", poll: 1s", |command| match command {
            "IDLE" => Some("% BAD what?\r\n".into()),
            "NOOP" => Some("* 2 EXISTS\r\n% OK\r\n".into()),
            _ => None,
        }),
        ("IDLE that the server ends", "", |command| {
            (command == "IDLE").then(|| "+ x\r\n* 2 EXISTS\r\n% OK\r\n".into())
        }),
        ("flags of other mails in between", "", |command| {
            command
                .starts_with("UID FETCH 2")
                .then(|| format!("* 1 FETCH (UID 1 FLAGS (\\Seen))\r\n* 9 EXPUNGE\r\n{}", fetched("2")))
        }),
        ("text that looks like a literal", "", |command| {
            (command == "IDLE").then(|| "+ idle {5}\r\n* OK still {99}\r\n* 2 EXISTS\r\n".into())
        }),
        ("an EXISTS that comes before it is waited for", "", |command| {
            command.starts_with("UID SEARCH SUBJECT").then(|| "* SEARCH\r\n* 2 EXISTS\r\n% OK\r\n".into())
        }),
    ];
    for (name, more, odd) in table {
        let (address, _) = mailbox(odd);
        block_on(async {
            let mut session = open(address, more).await.unwrap_or_else(|reason| panic!("{name}: {reason}"));
            let arrival = next(&mut session).await.unwrap_or_else(|reason| panic!("{name}: {reason}"));
            assert_eq!(text(&arrival), "mail 2", "{name}");
            session.close().await;
        });
    }
}

#[test]
fn a_server_that_tells_nothing_while_it_idles_is_polled() {
    let (address, said) = mailbox(|command| match command.split(':').next().unwrap_or_default() {
        "IDLE" => Some("+ idling\r\n".into()),
        "DONE" | "NOOP" => Some("* 2 EXISTS\r\n% OK\r\n".into()),
        c if c.starts_with("UID SEARCH UID ") => {
            Some(format!("* SEARCH {}\r\n% OK\r\n", &c["UID SEARCH UID ".len()..]))
        }
        _ => None,
    });
    block_on(async {
        let mut session = open(address, ", poll: 1s").await.unwrap_or_else(|reason| panic!("{reason}"));
        for uid in 2..5 {
            assert_eq!(text(&next(&mut session).await.expect("a mail")), format!("mail {uid}"));
        }
    });
    let said = said.lock().expect("no panic");
    let waits: Vec<&str> = said.iter().map(String::as_str).filter(|c| ["IDLE", "NOOP"].contains(c)).collect();
    assert_eq!(waits[..3], ["IDLE", "IDLE", "NOOP"], "{said:?}");
}

#[test]
fn a_mail_that_is_gone_is_passed_over() {
    let (address, _) = mailbox(|command| match command {
        "UID SEARCH UID 2:*" => Some("* SEARCH 3 2\r\n% OK\r\n".into()),
        c if c.starts_with("UID FETCH 2") => Some("% OK\r\n".into()),
        _ => None,
    });
    block_on(async {
        let mut session = open(address, "").await.unwrap_or_else(|reason| panic!("{reason}"));
        assert_eq!(text(&next(&mut session).await.expect("a mail")), "mail 3");
    });
}

#[test]
fn the_end_of_a_session_is_told() {
    type Odd = fn(&str) -> Option<String>;
    let table: [(Odd, Kind, &str); 5] = [
        (
            |c| (c == "IDLE").then(|| "+ x\r\n* BYE idle for too long\r\n".into()),
            Kind::Closed,
            "the server ended the session: BYE idle for too long",
        ),
        (|c| (c == "IDLE").then(|| "HANG UP".into()), Kind::Closed, "the server closed the connection"),
        (|c| (c == "DONE").then(String::new), Kind::Timeout, "no answer to DONE within 5s"),
        (|c| (c == "IDLE").then(|| "+ x\r\n\x00\x01\x02\r\n".into()), Kind::Protocol, "what is no IMAP"),
        (
            |c| c.starts_with("UID FETCH").then(|| "* 2 FETCH (BODY[] {4294967295}\r\n".into()),
            Kind::TooLarge,
            "a literal of 4294967295",
        ),
    ];
    for (odd, kind, text) in table {
        let (address, said) = mailbox(odd);
        block_on(async {
            let mut session = open(address, ", keep_alive: 1s").await.unwrap_or_else(|reason| panic!("{reason}"));
            // The peer that says goodbye hangs up when nothing more is said to it.
            let ended = async {
                loop {
                    match next(&mut session).await {
                        Ok(_) => {}
                        Err(reason) => return reason,
                    }
                }
            };
            let reason = tokio::time::timeout(Duration::from_secs(20), ended).await.expect("it ends");
            assert_eq!((reason.phase, reason.kind), (Phase::Deliver, kind), "{reason} {said:?}");
            assert!(reason.text.contains(text), "{reason}");
            assert_eq!(next(&mut session).await.expect_err("it stays so"), reason);
        });
    }
}

#[test]
fn a_wait_that_is_dropped_at_any_time_loses_nothing() {
    let address = serve(|stream| {
        let mut reader = BufReader::new(stream.try_clone().expect("a socket can be shared"));
        let mut stream = stream;
        let mut trickle = |text: &str| {
            for byte in text.bytes() {
                let _ = stream.write_all(&[byte]);
                sleep(Duration::from_micros(700));
            }
        };
        trickle("* PREAUTH [CAPABILITY IMAP4rev1 IDLE UIDPLUS] hi\r\n");
        let (mut line, mut tag, mut uid) = (String::new(), String::new(), 1);
        while reader.read_line(&mut line).is_ok_and(|n| n > 0) {
            let text = std::mem::take(&mut line);
            if let Some((first, _)) = text.split_once(' ').or(text.trim_end().split_once(' ')) {
                tag = first.to_owned();
            }
            let command = text.trim_end().split_once(' ').map_or("", |(_, command)| command);
            let reply = match command.split(' ').collect::<Vec<_>>().as_slice() {
                ["SELECT", ..] => "* 0 EXISTS\r\n* OK [UIDVALIDITY 7]\r\n* OK [UIDNEXT 2]\r\n% OK\r\n".into(),
                ["UID", "SEARCH", "UID", from] => {
                    format!("* SEARCH {}\r\n% OK\r\n", from.trim_end_matches(":*"))
                }
                ["UID", "FETCH", n, ..] => fetched(n),
                _ if command == "IDLE" => {
                    uid += 1;
                    format!("+ x\r\n* {uid} EXISTS\r\n")
                }
                _ => "% OK\r\n".into(),
            };
            trickle(&reply.replace('%', &tag));
        }
    });
    block_on(async {
        let mut session = open(address, "").await.unwrap_or_else(|reason| panic!("{reason}"));
        let begun = Instant::now();
        let mut came = Vec::new();
        while came.len() < 5 {
            assert!(begun.elapsed() < Duration::from_secs(20), "{came:?}");
            if let Ok(arrival) = tokio::time::timeout(Duration::from_millis(3), session.next()).await {
                came.push(text(&arrival.expect("a mail")));
            }
        }
        assert_eq!(came, ["mail 2", "mail 3", "mail 4", "mail 5", "mail 6"]);
    });
}

#[test]
fn gmail_is_told_to_move_what_is_taken_off() {
    let (address, said) = play("* PREAUTH [CAPABILITY IMAP4rev1 IDLE UIDPLUS MOVE X-GM-EXT-1] hi\r\n", |command| {
        match command.split(' ').collect::<Vec<_>>().as_slice() {
            ["LIST", ..] => "* LIST () \"/\" INBOX\r\n* LIST (\\Trash) \"/\" \"[Gmail]/Bin\"\r\n% OK\r\n".into(),
            ["SELECT", ..] => "* 1 EXISTS\r\n* OK [UIDVALIDITY 7]\r\n* OK [UIDNEXT 2]\r\n% OK\r\n".into(),
            ["UID", "SEARCH", "UID", ..] => "* SEARCH 2\r\n% OK\r\n".into(),
            ["UID", "FETCH", n, ..] => fetched(n),
            ["IDLE"] => "+ idling\r\n* 2 EXISTS\r\n".into(),
            _ => polite(command),
        }
    });
    block_on(async {
        let mut session = open(address, "").await.unwrap_or_else(|reason| panic!("{reason}"));
        let arrival = next(&mut session).await.expect("a mail");
        session.discard(arrival.handle.expect("a handle"));
        session.close().await;
    });
    let said = said.lock().expect("no panic");
    assert!(said.iter().any(|c| c == "UID MOVE 2 \"[Gmail]/Bin\""), "{said:?}");
    assert!(!said.iter().any(|c| c.contains("EXPUNGE")), "{said:?}");
}
