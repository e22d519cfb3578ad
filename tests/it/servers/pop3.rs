//! POP3 against a real dovecot.

use bongsu::{
    observation::{Integrity, Kind, Outcome, Phase},
    protocol::Nature,
};

use super::receiving::{self, Session, WAIT_MAX, detail, end, next, quiet, quiet_until, stranger, text, tracer};
use crate::harness::{
    dovecot::{Dovecot, PASSWORD},
    probing::probe,
    proxy::Proxy,
};

const USER: &str = "probe";

async fn opened(address: impl std::fmt::Display) -> Session {
    let yaml = format!("url: 'pop3://{address}', username: {USER}, password: {PASSWORD}, poll: 1s");
    receiving::open("pop3", &yaml).await.unwrap_or_else(|reason| panic!("{yaml}: {reason}"))
}

#[test]
fn logins_are_accepted_and_refused_in_words() {
    let dovecot = Dovecot::start();
    dovecot.deliver(USER, &stranger("x"));
    let ca = format!("tls: {{ ca: '{}' }}", dovecot.certificate.display());
    let login = format!("username: {USER}, password: {PASSWORD}");
    let (port, tls_port) = (dovecot.pop3.port(), dovecot.pop3s.port());
    for (yaml, tls) in [
        (format!("{{ url: 'pop3://{}', {login} }}", dovecot.pop3), false),
        (format!("{{ url: 'pop3://{}', {login}, auth: login }}", dovecot.pop3), false),
        (format!("{{ url: 'pop3s://localhost:{tls_port}', {login}, {ca} }}"), true),
        (format!("{{ url: 'pop3+starttls://localhost:{port}', {login}, {ca} }}"), true),
    ] {
        let seen = probe("pop3", &yaml);
        assert_eq!((seen.outcome(), &seen.observation.reason), (Outcome::Ok, &None), "{yaml} {seen:?}");
        assert_eq!(seen.observation.tls.is_some(), tls);
        assert_eq!(seen.observation.details["pop3_mails"], 1);
        let said = format!("{:?}", seen.transcript);
        for word in ["CAPA", "AUTH", "STAT", "QUIT"] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert!(!said.contains(PASSWORD) && !said.contains("AHByb2JlAHNlY3JldA=="), "{said}");
    }
    let seen = probe("pop3", &format!("{{ url: 'pop3://{}', username: {USER}, password: wrong-word }}", dovecot.pop3));
    let reason = seen.reason();
    assert_eq!((reason.phase, reason.kind), (Phase::Login, Kind::Rejected));
    assert!(reason.text.starts_with("login refused: -ERR [AUTH] Authentication failed."), "{reason}");
    assert_eq!(probe("pop3", &format!("{{ url: 'pop3://{}' }}", dovecot.pop3)).outcome(), Outcome::Ok);
}

#[tokio::test]
async fn what_is_new_is_read_and_only_the_own_is_deleted() {
    let dovecot = Dovecot::start();
    dovecot.deliver(USER, &tracer("old"));
    dovecot.deliver(USER, &stranger("before"));
    let mut session = opened(dovecot.pop3).await;
    let old = next(&mut session).await;
    assert_eq!(text(&old), "bongsu1.old");
    quiet(&mut session).await;
    dovecot.deliver(USER, &stranger("at noon?\r\n.hidden dot"));
    dovecot.deliver(USER, &tracer("one"));
    let strangers = next(&mut session).await;
    assert_eq!(text(&strangers), "at noon?\r\n.hidden dot");
    let arrival = next(&mut session).await;
    assert_eq!((text(&arrival).as_str(), &arrival.nature), ("bongsu1.one", &Nature::Message));
    assert_eq!(arrival.beside, Some((Integrity::Equal, "X-Bongsu-Header")));
    assert_eq!(detail(&arrival, "path").and_then(|p| p[1]["after_s"].as_i64()), Some(1));
    // Another session sees the same copies.
    let mut other = opened(dovecot.pop3).await;
    assert_eq!((next(&mut other).await.copy, next(&mut other).await.copy), (old.copy, arrival.copy));
    // While it waits, and at its end.
    session.discard(old.handle.expect("a handle"));
    quiet_until(&mut session, "it is taken off", || dovecot.mails(USER, "INBOX").len() == 3).await;
    session.discard(arrival.handle.expect("a handle"));
    session.close().await;
    let left: Vec<String> =
        dovecot.mails(USER, "INBOX").iter().map(|mail| String::from_utf8_lossy(mail).into_owned()).collect();
    assert!(left.len() == 2 && left.iter().all(|mail| mail.contains("Subject: lunch")), "{left:?}");
    other.close().await;
    assert_eq!(dovecot.mails(USER, "INBOX").len(), 2);
}

#[tokio::test]
async fn a_maildrop_that_others_hold_is_waited_for() {
    let dovecot = Dovecot::start_with("pop3_lock_session = yes\n");
    let mut session = opened(dovecot.pop3).await;
    let mut other = std::net::TcpStream::connect(dovecot.pop3).expect("dovecot listens");
    {
        use std::io::{Read, Write};
        let mut room = [0; 1_000];
        for line in ["USER probe\r\n", "PASS secret\r\n"] {
            assert!(other.read(&mut room).expect("an answer") > 0);
            other.write_all(line.as_bytes()).expect("dovecot reads");
        }
        assert!(other.read(&mut room).expect("an answer") > 0);
    }
    dovecot.deliver(USER, &tracer("one"));
    for _ in 0..4 {
        quiet(&mut session).await;
    }
    drop(other);
    assert_eq!(text(&next(&mut session).await), "bongsu1.one");
    session.close().await;
}

#[tokio::test]
async fn a_large_mail_costs_its_headers_and_a_dead_server_is_told() {
    let mut dovecot = Dovecot::start();
    let proxy = Proxy::start(dovecot.pop3);
    let mut session = opened(proxy.address).await;
    dovecot.deliver(USER, &stranger(&"x".repeat(70).repeat(20_000)));
    let arrival = next(&mut session).await;
    assert_eq!(arrival.payload.len(), 0);
    dovecot.deliver(USER, &tracer("one"));
    assert_eq!(text(&next(&mut session).await), "bongsu1.one");
    dovecot.server.stop();
    let reason = end(&mut session).await;
    assert_eq!(reason.phase, Phase::Deliver);
    assert!(matches!(reason.kind, Kind::Closed | Kind::Reset | Kind::Refused), "{reason}");
    tokio::time::timeout(WAIT_MAX, session.close()).await.expect("it closes at once");
}
