//! IMAP against a real dovecot.

use std::time::{Duration, Instant};

use bongsu::{
    observation::{Integrity, Kind, Outcome, Phase, Reason},
    protocol::Nature,
};
use serde_json::json;

use super::receiving::{self, Session, WAIT_MAX, detail, end, next, quiet, quiet_until, stranger, text, tracer};
use crate::harness::{
    dovecot::{Dovecot, Imap, PASSWORD},
    probing::probe,
    proxy::Proxy,
};

const USER: &str = "probe";

/// Sooner than a look that nothing was said of, which comes two seconds after the one before at the soonest.
const PUSHED_MAX: Duration = Duration::from_millis(1_500);

fn account(address: impl std::fmt::Display) -> String {
    format!("url: 'imap://{address}', username: {USER}, password: {PASSWORD}")
}

async fn open(yaml: &str) -> Result<Session, Reason> {
    receiving::open("imap", yaml).await
}

async fn opened(yaml: &str) -> Session {
    open(yaml).await.unwrap_or_else(|reason| panic!("{yaml}: {reason}"))
}

#[test]
fn logins_are_accepted_and_refused_in_words() {
    let dovecot = Dovecot::start();
    let ca = format!("tls: {{ ca: '{}' }}", dovecot.certificate.display());
    let login = format!("username: {USER}, password: {PASSWORD}");
    let (port, tls_port) = (dovecot.imap.port(), dovecot.imaps.port());
    for (yaml, tls) in [
        (format!("{{ url: 'imap://{}', {login} }}", dovecot.imap), false),
        (format!("{{ url: 'imaps://localhost:{tls_port}', {login}, {ca} }}"), true),
        (format!("{{ url: 'imap+starttls://localhost:{port}', {login}, {ca} }}"), true),
        (format!("{{ url: 'imap://{}', {login}, auth: login }}", dovecot.imap), false),
    ] {
        let seen = probe("imap", &yaml);
        assert_eq!((seen.outcome(), &seen.observation.reason), (Outcome::Ok, &None), "{yaml} {seen:?}");
        let mut phases =
            vec![Phase::Resolve, Phase::Connect, Phase::Greeting, Phase::Login, Phase::Exchange, Phase::Close];
        if tls {
            let mut got = seen.phases();
            got.sort();
            phases.push(Phase::Tls);
            phases.extend(yaml.contains("starttls").then_some(Phase::Greeting));
            phases.sort();
            assert_eq!(got, phases, "{yaml}");
        } else {
            assert_eq!(seen.phases(), phases, "{yaml}");
        }
        assert_eq!(seen.observation.tls.is_some(), tls);
        let said = format!("{:?}", seen.transcript);
        for word in ["CAPABILITY", "AUTHENTICATE", "NOOP", "LOGOUT"] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert!(!said.contains(PASSWORD) && !said.contains("AHByb2JlAHNlY3JldA=="), "{said}");
        assert!(seen.observation.details["imap_capabilities"].as_str().is_some_and(|c| c.contains("IMAP4REV1")));
    }
    let seen = probe("imap", &format!("{{ url: 'imap://{}', username: {USER}, password: wrong-word }}", dovecot.imap));
    let reason = seen.reason();
    assert_eq!((reason.phase, reason.kind), (Phase::Login, Kind::Rejected));
    assert!(reason.text.starts_with("login refused: NO [AUTHENTICATIONFAILED] Authentication failed."), "{reason}");
    assert!(!format!("{seen:?}").contains("wrong-word"));
    // Without credentials the session itself is proved.
    assert_eq!(probe("imap", &format!("{{ url: 'imap://{}' }}", dovecot.imap)).outcome(), Outcome::Ok);
    let seen = probe("imap", &format!("{{ url: 'imap+starttls://localhost:{port}', {login} }}"));
    assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Tls, Kind::Certificate));
}

#[tokio::test]
async fn a_mail_is_pushed_and_read_and_strangers_are_left_alone() {
    let dovecot = Dovecot::start();
    dovecot.deliver(USER, &stranger("before"));
    let mut session = opened(&account(dovecot.imap)).await;
    quiet(&mut session).await;
    dovecot.deliver(USER, &stranger("at noon?"));
    let first = next(&mut session).await;
    assert_eq!((text(&first).as_str(), &first.nature, first.beside), ("at noon?", &Nature::Message, None));
    dovecot.deliver(USER, &tracer("one"));
    let arrival = next(&mut session).await;
    assert_eq!((text(&arrival).as_str(), &arrival.nature), ("bongsu1.one", &Nature::Message));
    assert_eq!(arrival.beside, Some((Integrity::Equal, "X-Bongsu-Header")));
    assert_eq!((arrival.flaw.as_deref(), detail(&arrival, "folder")), (None, None));
    // dovecot's own hop is above the two of the mail.
    let path = detail(&arrival, "path").expect("a path");
    assert_eq!(path.get(0), Some(&json!({ "by": "relay.example.com" })), "{path}");
    assert_eq!(path.get(1), Some(&json!({ "by": "mx.example.com", "after_s": 1 })), "{path}");
    assert!(arrival.copy.is_some() && first.copy.is_some() && arrival.copy != first.copy);
    // Pushed, not polled: of several, one is quick on a busy machine as well.
    let (mut took, mut handles) = (Vec::new(), vec![arrival.handle]);
    for n in 0..5 {
        let begun = Instant::now();
        dovecot.deliver(USER, &tracer(&n.to_string()));
        handles.push(next(&mut session).await.handle);
        took.push(begun.elapsed());
    }
    assert!(took.iter().min() < Some(&PUSHED_MAX), "{took:?}");
    handles.into_iter().for_each(|handle| session.discard(handle.expect("it stays on the server")));
    session.close().await;
    assert_eq!(dovecot.mails(USER, "INBOX").len(), 2, "both of the stranger's");
    let mut client = dovecot.client(USER);
    client.say("EXAMINE INBOX");
    let flags = client.say("FETCH 1:* (FLAGS)");
    assert!(!flags.contains("\\Seen") && !flags.contains("\\Deleted"), "{flags}");
}

#[tokio::test]
async fn what_was_left_is_handed_out_and_taken_off() {
    let dovecot = Dovecot::start();
    dovecot.deliver(USER, &tracer("old"));
    dovecot.deliver(USER, &stranger("x"));
    dovecot.deliver(USER, &tracer("older still"));
    let mut session = opened(&account(dovecot.imap)).await;
    let (first, second) = (next(&mut session).await, next(&mut session).await);
    assert_eq!((text(&first).as_str(), text(&second).as_str()), ("bongsu1.old", "bongsu1.older still"));
    // Another session sees the same copies, and a mail that comes meanwhile is seen by both.
    let mut other = opened(&account(dovecot.imap)).await;
    assert_eq!((next(&mut other).await.copy, next(&mut other).await.copy), (first.copy, second.copy));
    dovecot.deliver(USER, &tracer("new"));
    let (here, there) = (next(&mut session).await, next(&mut other).await);
    assert_eq!((text(&here).as_str(), here.copy), ("bongsu1.new", there.copy));
    // What is discarded goes while the session waits.
    session.discard(first.handle.expect("a handle"));
    session.discard(here.handle.expect("a handle"));
    quiet_until(&mut session, "both are taken off", || dovecot.mails(USER, "INBOX").len() == 2).await;
    session.discard(second.handle.expect("a handle"));
    // A handle that nobody gave out is none.
    session.discard(999);
    session.close().await;
    let left = dovecot.mails(USER, "INBOX");
    assert!(left.len() == 1 && String::from_utf8_lossy(&left[0]).contains("Subject: lunch"), "{left:?}");
    // The other session discards what is gone already, and goes on.
    other.discard(there.handle.expect("a handle"));
    quiet(&mut other).await;
    dovecot.deliver(USER, &tracer("last"));
    assert_eq!(text(&next(&mut other).await), "bongsu1.last");
    other.close().await;
}

#[tokio::test]
async fn without_push_it_is_polled() {
    let dovecot = Dovecot::start();
    let without = Dovecot::start_with("imap_capability = IMAP4rev1 UIDPLUS\n");
    for (dovecot, more) in [(&dovecot, ", idle: false, poll: 1s"), (&without, ", poll: 1s")] {
        let mut session = opened(&format!("{}{more}", account(dovecot.imap))).await;
        quiet(&mut session).await;
        for n in 0..3 {
            dovecot.deliver(USER, &stranger("x"));
            dovecot.deliver(USER, &tracer(&n.to_string()));
            assert_eq!(text(&next(&mut session).await), "x");
            let arrival = next(&mut session).await;
            assert_eq!(text(&arrival), format!("bongsu1.{n}"));
            session.discard(arrival.handle.expect("a handle"));
            // Waiting in turns that are dropped loses nothing.
            quiet(&mut session).await;
        }
        session.close().await;
        assert_eq!(dovecot.mails(USER, "INBOX").len(), 3);
    }
}

/// How many mails of the open folder are marked as deleted.
fn marked(client: &mut Imap) -> usize {
    client.say("NOOP");
    let said = client.say("SEARCH DELETED");
    let hits = said.lines().find_map(|line| line.strip_prefix("* SEARCH")).unwrap_or_else(|| panic!("{said}"));
    hits.split_whitespace().count()
}

#[tokio::test]
async fn mails_of_others_that_are_marked_deleted_stay() {
    for capability in ["IMAP4rev1 IDLE", "IMAP4rev1 IDLE UIDPLUS"] {
        let dovecot = Dovecot::start_with(&format!("imap_capability = {capability}\n"));
        let mut session = opened(&account(dovecot.imap)).await;
        dovecot.deliver(USER, &stranger("marked"));
        next(&mut session).await;
        let mut client = dovecot.client(USER);
        client.say("SELECT INBOX");
        client.say("STORE 1 +FLAGS (\\Deleted)");
        for n in 0..2 {
            dovecot.deliver(USER, &tracer(&n.to_string()));
            let arrival = next(&mut session).await;
            let plus = capability.contains("UIDPLUS");
            // Of the first nothing was left yet.
            assert_eq!(detail(&arrival, "left_on_server").is_some(), n > 0 && !plus, "{arrival:?}");
            session.discard(arrival.handle.expect("a handle"));
            // Where it stays, beside the stranger's and those before it.
            let is_done = || if plus { dovecot.mails(USER, "INBOX").len() == 1 } else { marked(&mut client) == n + 2 };
            quiet_until(&mut session, "it is taken off, or marked", is_done).await;
        }
        if capability.contains("UIDPLUS") {
            let left = dovecot.mails(USER, "INBOX");
            assert!(String::from_utf8_lossy(&left[0]).contains("marked"));
            session.close().await;
            continue;
        }
        assert_eq!(dovecot.mails(USER, "INBOX").len(), 3);
        // Once the other mail is not marked any more, all of bongsu's go.
        client.say("STORE 1 -FLAGS (\\Deleted)");
        dovecot.deliver(USER, &tracer("last"));
        let arrival = next(&mut session).await;
        session.discard(arrival.handle.expect("a handle"));
        session.close().await;
        let left = dovecot.mails(USER, "INBOX");
        assert!(left.iter().any(|mail| String::from_utf8_lossy(mail).contains("marked")), "{left:?}");
    }
}

#[tokio::test]
async fn folders_say_where_a_mail_went() {
    let dovecot = Dovecot::start();
    let mut client = dovecot.client(USER);
    for name in ["Archive", "&wqTTONVo-"] {
        assert!(client.say(&format!("CREATE {name}")).contains(" OK "));
    }
    let mut session = opened(&format!("{}, folders: all, poll: 1s", account(dovecot.imap))).await;
    quiet(&mut session).await;
    for (folder, flaw, nature) in [
        ("Junk", Some("in the spam folder Junk"), Nature::Message),
        ("Trash", Some("in the trash folder Trash"), Nature::Message),
        ("Sent", None, Nature::Kept),
        ("Archive", None, Nature::Message),
        ("&wqTTONVo-", None, Nature::Message),
    ] {
        let mail = String::from_utf8(tracer("x")).expect("text");
        client.say("NOOP");
        let command = format!("APPEND {folder} {{{}+}}\r\n{mail}", mail.len());
        assert!(client.say(&command).contains(" OK "), "{folder}");
        let arrival = next(&mut session).await;
        assert_eq!((arrival.flaw.as_deref(), &arrival.nature), (flaw, &nature), "{folder}");
        let shown = if folder.starts_with('&') { "스팸함" } else { folder };
        assert_eq!(detail(&arrival, "folder"), Some(json!(shown)));
        session.discard(arrival.handle.expect("a handle"));
    }
    dovecot.deliver(USER, &tracer("in"));
    let arrival = next(&mut session).await;
    assert_eq!((detail(&arrival, "folder"), arrival.flaw), (Some(json!("INBOX")), None));
    session.close().await;
    for folder in ["Junk", "Trash", "Sent", "Archive", "&wqTTONVo-"] {
        assert_eq!(dovecot.mails(USER, folder).len(), 0, "{folder}");
    }
    assert_eq!(dovecot.mails(USER, "INBOX").len(), 1, "not discarded");

    // One folder by its name, and one that is not there.
    dovecot.shift(USER, "INBOX", "Junk");
    let mut session = opened(&format!("{}, folder: Junk", account(dovecot.imap))).await;
    let arrival = next(&mut session).await;
    assert_eq!((text(&arrival).as_str(), arrival.flaw.as_deref()), ("bongsu1.in", Some("in the spam folder Junk")));
    let reason = open(&format!("{}, folder: 없음", account(dovecot.imap))).await.err().expect("it is refused");
    assert_eq!((reason.phase, reason.kind), (Phase::Exchange, Kind::Rejected));
    assert!(reason.text.starts_with("the folder 없음 cannot be opened: NO "), "{reason}");
}

#[tokio::test]
async fn another_program_may_take_mails_away_and_make_folders_anew() {
    let dovecot = Dovecot::start();
    let mut client = dovecot.client(USER);
    client.say("CREATE Probe");
    let append = |client: &mut Imap, text: &str| {
        let mail = String::from_utf8(tracer(text)).expect("text");
        assert!(client.say(&format!("APPEND Probe {{{}+}}\r\n{mail}", mail.len())).contains(" OK "));
    };
    for n in 0..5 {
        append(&mut client, &n.to_string());
    }
    let mut session = opened(&format!("{}, folders: [INBOX, Probe], poll: 1s", account(dovecot.imap))).await;
    let first = next(&mut session).await;
    client.say("SELECT Probe");
    client.say("STORE 2:3 +FLAGS (\\Deleted)");
    client.say("EXPUNGE");
    let mut rest = Vec::new();
    while rest.last().is_none_or(|last| last != "bongsu1.4") {
        rest.push(text(&next(&mut session).await));
    }
    assert!(rest.contains(&"bongsu1.3".to_owned()), "{rest:?}");
    // The folder by this name is another one, where the same UIDs are other mails.
    client.say("SELECT INBOX");
    client.say("DELETE Probe");
    client.say("CREATE Probe");
    append(&mut client, "another");
    let arrival = next(&mut session).await;
    assert_eq!(text(&arrival), "bongsu1.another");
    assert_ne!(arrival.copy, first.copy);
    session.discard(first.handle.expect("a handle"));
    quiet(&mut session).await;
    session.close().await;
    assert_eq!(dovecot.mails(USER, "Probe").len(), 1, "the old handle names no mail of the new folder");
}

#[tokio::test]
async fn a_server_that_ends_or_falls_silent_is_told() {
    let mut dovecot = Dovecot::start();
    let proxy = Proxy::start(dovecot.imap);
    let mut silent = opened(&format!("{}, keep_alive: 1s", account(proxy.address))).await;
    let mut ended = opened(&account(dovecot.imap)).await;
    quiet(&mut silent).await;
    quiet(&mut ended).await;
    // Kept alive all the while.
    for _ in 0..4 {
        quiet(&mut silent).await;
    }
    proxy.hold_from("DONE");
    let reason = end(&mut silent).await;
    assert_eq!((reason.phase, reason.kind), (Phase::Deliver, Kind::Timeout), "{reason}");
    assert!(reason.text.contains("no answer to DONE within 5s"), "{reason}");
    assert_eq!(end(&mut silent).await, reason, "it stays so");
    let begun = Instant::now();
    tokio::time::timeout(WAIT_MAX, silent.close()).await.expect("it closes at once");
    // Its goodbye would be waited for five seconds.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    dovecot.server.stop();
    let reason = end(&mut ended).await;
    assert_eq!(reason.phase, Phase::Deliver);
    assert!(matches!(reason.kind, Kind::Closed | Kind::Reset), "{reason}");
}

#[tokio::test]
async fn a_large_mail_and_a_crowd_of_them_cost_little() {
    let dovecot = Dovecot::start();
    let mut session = opened(&account(dovecot.imap)).await;
    dovecot.deliver(USER, &stranger(&"x".repeat(70).repeat(20_000)));
    let arrival = next(&mut session).await;
    assert!(arrival.payload.len() <= 128 * 1024, "{}", arrival.payload.len());
    // While nobody waits, many strangers' mails come, and one that is ours.
    for n in 0..30 {
        dovecot.deliver(USER, &if n == 20 { tracer("hidden") } else { stranger("x") });
    }
    loop {
        let arrival = next(&mut session).await;
        if text(&arrival) == "bongsu1.hidden" {
            break;
        }
    }
    session.close().await;
}
