//! What goes wrong on the way of mails, made to happen with the servers themselves, and what must be said of it.

use std::time::Duration;

use bongsu::observation::{Accept, Fate, Integrity, Kind, Observation, Outcome, Phase, Reason};
use serde_json::json;

use super::{
    super::receiving::stranger,
    Bench, PATIENT, hops, is_well,
    route::{Route, USER, Unusual},
};
use crate::harness::{
    dovecot::{Dovecot, PASSWORD},
    lmtp_proxy::Answer,
    off_by,
    policy::Policy,
    proxy::Proxy,
    sweep_clocks,
};

/// Every user's mailbox holds two mails and no more; a user's own words on a full one are of the server.
const TWO_MAILS: &str =
    "mail_plugins = quota\nplugin {\n  quota = maildir:User quota\n  quota_rule = *:messages=2\n}\n";

/// A seconds-long horizon, for messages of which none arrives.
const BRIEF: &str = "slow: 5s, lost_after: 8s";

fn reason(o: &Observation) -> &Reason {
    o.reason.as_ref().unwrap_or_else(|| panic!("it went wrong: {o:?}"))
}

/// Outcome, phase and kind of what went wrong, fate and acceptance of the message.
fn said(o: &Observation) -> (Outcome, Phase, Kind, Option<(Fate, Accept)>) {
    let reason = reason(o);
    (o.outcome, reason.phase, reason.kind, o.delivery.as_ref().map(|d| (d.fate, d.accept)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_named_with_its_side() {
    let route = Route::start();
    let wrong = |yaml: String| yaml.replace(&format!("password: {PASSWORD}"), "password: wrong-word");
    let smtp = route.submission("");
    let o = Bench::new(&wrong(smtp.clone()), &route.imap(""), PATIENT).attempt().await;
    let unsent = Some((Fate::Unsent, Accept::Unreachable));
    assert_eq!(said(&o), (Outcome::Failed, Phase::Login, Kind::Rejected, unsent));
    let text = &reason(&o).text;
    assert!(text.starts_with("sending side: login by PLAIN refused: 535 5.7.8 "), "{text}");
    for (receive, answer) in [
        (route.imap(""), "receiving side: login refused: NO [AUTHENTICATIONFAILED] Authentication failed."),
        (route.pop3(""), "receiving side: login refused: -ERR [AUTH] Authentication failed."),
    ] {
        let o = Bench::new(&smtp, &wrong(receive), PATIENT).attempt().await;
        assert_eq!(said(&o), (Outcome::Failed, Phase::Login, Kind::Rejected, None), "nothing is sent unheard");
        assert!(reason(&o).text.starts_with(answer), "{}", reason(&o).text);
        assert!(!format!("{o:?}").contains("wrong-word"));
    }
    assert_eq!(route.proxy.account().seen.len(), 0);
    route.only_strangers(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_mailbox_is_told_at_once_by_the_mailbox_server_itself() {
    for (tempfail, kind, accept, code) in
        [("no", Kind::Rejected, Accept::Rejected, "552 5.2.2"), ("yes", Kind::Deferred, Accept::Deferred, "452 4.2.2")]
    {
        let dovecot = Dovecot::start_with(&format!("{TWO_MAILS}quota_full_tempfail = {tempfail}\n"));
        let send = format!("lmtp: {{ url: 'lmtp://{}', from: a@example.com, to: {USER}@example.com }}", dovecot.lmtp);
        let receive = format!("imap: {{ url: 'imap://{}', username: {USER}, password: {PASSWORD} }}", dovecot.imap);
        let bench = Bench::new(&send, &receive, PATIENT);
        is_well(&bench.attempt().await, 1);
        // Else the strangers' would be one too many.
        bench.quiet_until("it is taken off", || dovecot.mails(USER, "INBOX").is_empty()).await;
        for n in 0..2 {
            dovecot.deliver(USER, &stranger(&n.to_string()));
        }
        let o = bench.attempt().await;
        assert_eq!(said(&o), (Outcome::Failed, Phase::Send, kind, Some((Fate::Unsent, accept))), "{o:?}");
        assert!(reason(&o).text.contains(code) && reason(&o).text.contains("uota exceeded"), "{}", reason(&o).text);
        let mut client = dovecot.client(USER);
        client.say("SELECT INBOX");
        client.say("STORE 1 +FLAGS (\\Deleted)");
        client.say("EXPUNGE");
        is_well(&bench.attempt().await, 3);
        bench.ask.close().await;
        assert_eq!(dovecot.mails(USER, "INBOX").len(), 1, "the stranger's");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_comes_back_is_told_by_its_bounce_and_without_one_is_lost() {
    let route = Route::start_with(Unusual { dovecot: TWO_MAILS.into(), ..Unusual::default() });
    for n in 0..2 {
        route.dovecot.deliver("full", &stranger(&n.to_string()));
    }
    // The bounce goes to somebody else.
    let send = route.submission_between("office@example.com", "full@example.com", "");
    let bench = Bench::new(&send, &route.imap(""), BRIEF);
    let o = bench.attempt().await;
    assert_eq!(said(&o), (Outcome::Failed, Phase::Deliver, Kind::Lost, Some((Fate::Lost, Accept::Accepted))));
    let text = &reason(&o).text;
    assert!(
        text.starts_with("accepted by smtp+starttls://localhost:") && text.ends_with(", not arrived within 8s"),
        "{text}"
    );
    route.dovecot.wait_for_mails("office", "INBOX", 1);
    bench.ask.close().await;

    // The bounce goes to the mailbox that is watched.
    let send = route.submission_between(&format!("{USER}@example.com"), "full@example.com", "");
    for receive in [route.imap(""), route.pop3("poll: 1s")] {
        for sessions in ["fresh", "kept"] {
            let bench = Bench::new(&send, &receive, &format!("{PATIENT}, sessions: {sessions}"));
            let o = bench.attempt().await;
            assert_eq!(said(&o), (Outcome::Failed, Phase::Deliver, Kind::Lost, Some((Fate::Lost, Accept::Accepted))));
            let text = &reason(&o).text;
            assert!(text.contains(", then returned as undeliverable: 5.2.2 mailbox full: "), "{text}");
            assert!(o.duration < Duration::from_secs(25), "the horizon is not waited for: {:?}", o.duration);
            bench.ask.close().await;
            route.only_strangers(0);
        }
    }
    assert_eq!(route.dovecot.mails("office", "INBOX").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn greylisting_is_deferred_and_then_well() {
    let later = "defer_if_permit Greylisted, come back in a while";
    let policy = Policy::start(move |n| if n == 0 { later.into() } else { "dunno".into() });
    let postfix = format!("smtpd_recipient_restrictions = check_policy_service inet:{}\n", policy.address);
    let route = Route::start_with(Unusual { postfix, ..Unusual::default() });
    let lmtp =
        format!("lmtp: {{ url: 'lmtp://{}', from: a@example.com, to: {USER}@example.com }}", route.proxy.address);
    for (send, words) in
        [(route.submission(""), "Greylisted, come back in a while"), (lmtp, "greylisted, try again later")]
    {
        for (n, sessions) in ["fresh", "kept"].into_iter().enumerate() {
            policy.count_from(0);
            let send = send.replace("a@example.com", &format!("a{n}@example.com"));
            route.proxy.answer(if send.starts_with("lmtp") { Answer::Greylist } else { Answer::Plan });
            let bench = Bench::new(&send, &route.imap(""), &format!("{PATIENT}, sessions: {sessions}"));
            let o = bench.attempt().await;
            assert_eq!(
                said(&o),
                (Outcome::Failed, Phase::Send, Kind::Deferred, Some((Fate::Unsent, Accept::Deferred)))
            );
            assert!(reason(&o).text.contains(words) && reason(&o).text.contains(" 4."), "{}", reason(&o).text);
            is_well(&bench.attempt().await, 2);
            is_well(&bench.attempt().await, 3);
            assert_eq!(bench.corrections(Duration::from_millis(200)).await, []);
            bench.ask.close().await;
            route.only_strangers(0);
        }
    }
    // One that greylists behind a server which has accepted makes a mail late, not lost.
    policy.count_from(1);
    route.proxy.answer(Answer::Greylist);
    let send = route.submission_between("new@example.com", &format!("{USER}@example.com"), "");
    let bench = Bench::new(&send, &route.imap(""), "slow: 500ms, lost_after: 30s");
    let o = bench.attempt().await;
    assert_eq!(said(&o), (Outcome::Slow, Phase::Deliver, Kind::Slow, Some((Fate::Late, Accept::Accepted))));
    bench.ask.close().await;
    route.only_strangers(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_freezes_after_the_data_leaves_it_uncertain_until_it_goes_on() {
    let postfix = "smtpd_tls_auth_only = no\nsmtpd_tls_security_level = none\n".to_owned();
    let route = Route::start_with(Unusual { postfix, ..Unusual::default() });
    let proxy = Proxy::start(([127, 0, 0, 1], route.postfix.port).into());
    let send = format!(
        "smtp: {{ url: 'smtp://{}', username: {USER}, password: {PASSWORD}, from: {USER}@example.com, to: {USER}@example.com }}",
        proxy.address
    );
    for sessions in ["fresh", "kept"] {
        let mut bench = Bench::new(&send, &route.imap(""), &format!("{BRIEF}, sessions: {sessions}"));
        is_arrived(&bench.attempt().await);
        bench.settings.timeout = Duration::from_secs(5);
        // Nothing may leave its queue before it is told to.
        route.postfix.signal(Some("qmgr"), "STOP");
        proxy.hold_from("bongsu1.");
        let freeze = async {
            proxy.held().await;
            route.postfix.signal(None, "STOP");
        };
        let (o, ()) = tokio::join!(bench.attempt(), freeze);
        let expected = (Outcome::Failed, Phase::Send, Kind::Uncertain, Some((Fate::Uncertain, Accept::Uncertain)));
        assert_eq!(said(&o), expected, "{o:?}");
        let text = &reason(&o).text;
        assert!(text.starts_with("sending side: ") && text.ends_with(", not arrived within 8s"), "{text}");
        route.postfix.signal(None, "CONT");
        proxy.release();
        let correction = bench.correction().await;
        assert_eq!((correction.observed_at, correction.outcome), (o.at, Outcome::Failed));
        let d = &correction.delivery;
        assert_eq!((d.fate, d.accept, d.integrity), (Fate::Late, Accept::Uncertain, Some(Integrity::Equal)));
        let text = &correction.reason.as_ref().expect("a reason").text;
        assert!(text.contains(", though the message arrived after "), "{text}");
        bench.settings.timeout = Duration::from_secs(20);
        is_arrived(&bench.attempt().await);
        assert_eq!(bench.corrections(Duration::from_millis(200)).await, []);
        bench.ask.close().await;
        route.only_strangers(0);
    }
}

/// What a short objective says of an attempt that may have been slow on a busy machine.
fn is_arrived(o: &Observation) {
    let d = o.delivery.as_ref().unwrap_or_else(|| panic!("a message was sent: {o:?}"));
    assert!(matches!(d.fate, Fate::Arrived | Fate::Late), "{o:?}");
    assert_eq!((d.accept, d.duplicates, d.integrity), (Accept::Accepted, 0, Some(Integrity::Equal)), "{o:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_in_the_spam_folder_is_misplaced_and_lost_to_who_looks_into_the_inbox_alone() {
    // What is sent to `probe+Junk` is put into that folder, as a filter's rule does.
    let dovecot = "recipient_delimiter = +\nlmtp_save_to_detail_mailbox = yes\n".to_owned();
    let route = Route::start_with(Unusual { dovecot, ..Unusual::default() });
    let send = route.submission("plus: Junk");
    for sessions in ["fresh", "kept"] {
        let bench =
            Bench::new(&send, &route.imap("folders: all, poll: 1s"), &format!("{PATIENT}, sessions: {sessions}"));
        for _ in 0..2 {
            let o = bench.attempt().await;
            let arrived = Some((Fate::Arrived, Accept::Accepted));
            assert_eq!(said(&o), (Outcome::Slow, Phase::Deliver, Kind::Misplaced, arrived));
            assert!(reason(&o).text.starts_with("arrived in the spam folder Junk after "), "{}", reason(&o).text);
            assert_eq!(o.details.get("folder"), Some(&json!("Junk")));
        }
        assert_eq!(bench.corrections(Duration::from_millis(200)).await, []);
        bench.ask.close().await;
        route.only_strangers(0);
    }
    let bench = Bench::new(&send, &route.imap(""), BRIEF);
    let o = bench.attempt().await;
    assert_eq!(said(&o), (Outcome::Failed, Phase::Deliver, Kind::Lost, Some((Fate::Lost, Accept::Accepted))));
    bench.ask.close().await;
    assert_eq!(route.dovecot.mails(USER, "Junk").len(), 1, "what is not watched is not touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_another_program_deletes_first_is_lost_and_the_session_lives() {
    let route = Route::start();
    // There before the session is: nothing but the tracer may be announced while the proxy waits to hold it back.
    route.dovecot.deliver(USER, &stranger("stays"));
    route.dovecot.wait_for_mails(USER, "INBOX", 1);
    let proxy = Proxy::start(route.dovecot.imap);
    let receive = format!("imap: {{ url: 'imap://{}', username: {USER}, password: {PASSWORD} }}", proxy.address);
    let bench = Bench::new(&route.submission(""), &receive, &format!("{BRIEF}, sessions: kept, login_every: off"));
    is_arrived(&bench.attempt().await);
    bench.quiet_until("it is taken off", || route.dovecot.mails(USER, "INBOX").len() == 1).await;
    let mut client = route.dovecot.client(USER);
    client.say("SELECT INBOX");
    // bongsu hears of the mail only when it is gone.
    proxy.hold_from(" EXISTS");
    let deletes = async {
        proxy.held().await;
        tokio::task::block_in_place(|| {
            route.dovecot.wait_for_mails(USER, "INBOX", 2);
            client.say("NOOP");
            client.say("STORE 2 +FLAGS (\\Deleted)");
            client.say("EXPUNGE");
        });
        proxy.release();
    };
    let (o, ()) = tokio::join!(bench.attempt(), deletes);
    assert_eq!(said(&o), (Outcome::Failed, Phase::Deliver, Kind::Lost, Some((Fate::Lost, Accept::Accepted))));
    let o = bench.attempt().await;
    is_arrived(&o);
    let reconnections = o.delivery.map(|d| d.reconnections).unwrap_or_default();
    let why: Vec<&str> = reconnections.iter().map(|r| r.why.as_str()).collect();
    assert_eq!(why, ["a message was lost and nothing has come since"], "it did not break");
    bench.ask.close().await;
    route.only_strangers(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_clock_is_a_day_off_changes_no_latency_and_is_seen_in_the_path() {
    let ahead = Unusual { postfix_environment: off_by("+1d").into(), ..Unusual::default() };
    let behind = Unusual { dovecot_environment: off_by("-1d").into(), ..Unusual::default() };
    for unusual in [ahead, behind] {
        let route = Route::start_with(unusual);
        for receive in [route.imap(""), route.pop3("poll: 1s")] {
            let bench = Bench::new(&route.submission(""), &receive, PATIENT);
            for sequence in 1..=2 {
                let o = bench.attempt().await;
                is_well(&o, sequence);
                let latency = o.delivery.as_ref().and_then(|d| d.latency_ms).expect("it arrived");
                assert!(latency < Duration::from_secs(20), "{latency:?}");
                let hops = hops(&o);
                assert_eq!(hops[0].0, "mx.example.com", "{hops:?}");
                let off = hops.iter().filter_map(|(_, after)| *after).min().expect("two hops");
                assert!((-86_400..-86_300).contains(&off), "{hops:?}");
            }
            bench.ask.close().await;
            route.only_strangers(0);
        }
    }
    sweep_clocks();
}
