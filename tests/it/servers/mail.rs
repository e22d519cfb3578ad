//! Mail from end to end: sent by smtp to postfix, which hands it to dovecot, and read there by imap and by pop3.

use std::{sync::Arc, time::Duration};

use bongsu::{
    check::{Ask, Settings},
    observation::{Accept, Fate, Integrity, Observation, Outcome},
    protocol::Nature,
};

use super::receiving::{self, next, text};
use crate::harness::{
    build, context,
    dovecot::{Dovecot, PASSWORD},
    postfix::Postfix,
    settings,
};

const USER: &str = "probe";

struct Bench {
    dovecot: Dovecot,
    postfix: Postfix,
    settings: Settings,
}

impl Bench {
    fn new(full: &[&str]) -> Self {
        let dovecot = Dovecot::start_where(full, "");
        let postfix = Postfix::start_with(&format!(
            "virtual_transport = lmtp:inet:127.0.0.1:{}\nlmtp_destination_recipient_limit = 1",
            dovecot.lmtp.port()
        ));
        Self { dovecot, postfix, settings: settings(Duration::from_secs(20)) }
    }

    fn ask(&self, to: &str, receive: &str, more: &str) -> Arc<dyn Ask> {
        let send = format!(
            "smtp: {{ url: 'smtp://127.0.0.1:{}', from: {USER}@example.com, to: {to}@example.com{more} }}",
            self.postfix.port
        );
        let yaml = format!("{{ send: {{ {send} }}, receive: {{ {receive} }}, slow: 5s, lost_after: 10s }}");
        build("delivery", &yaml, &self.settings)
    }

    async fn attempt(&self, ask: &Arc<dyn Ask>) -> Observation {
        ask.attempt(context(&self.settings)).await.observation
    }
}

#[tokio::test]
async fn what_is_sent_arrives_unchanged() {
    let bench = Bench::new(&[]);
    let login = format!("username: {USER}, password: {PASSWORD}");
    let imap = format!("imap: {{ url: 'imap://{}', {login} }}", bench.dovecot.imap);
    let pop3 = format!("pop3: {{ url: 'pop3://{}', {login}, poll: 1s }}", bench.dovecot.pop3);
    bench.dovecot.deliver(USER, b"Subject: lunch\r\n\r\nat noon?\r\n");
    for receive in [&imap, &pop3] {
        for more in ["", ", encoding: quoted-printable", ", encoding: base64"] {
            let ask = bench.ask(USER, receive, more);
            for sequence in 1..=2 {
                let o = bench.attempt(&ask).await;
                assert_eq!((o.outcome, &o.reason), (Outcome::Ok, &None), "{receive}{more}");
                let d = o.delivery.expect("a message was sent");
                assert_eq!((d.fate, d.accept, d.sequence), (Fate::Arrived, Accept::Accepted, sequence));
                assert_eq!(d.integrity, Some(Integrity::Equal), "{receive}{more}");
                assert_eq!((d.duplicates, d.reordered), (0, false), "{receive}{more}");
            }
        }
    }
}

#[tokio::test]
async fn a_full_mailbox_bounces_in_the_servers_words() {
    let bench = Bench::new(&["full"]);
    let login = format!("username: {USER}, password: {PASSWORD}");
    let imap = format!("url: 'imap://{}', {login}", bench.dovecot.imap);
    let mut session = receiving::open("imap", &imap).await.unwrap_or_else(|reason| panic!("{reason}"));
    // Only what the sender's side does with it is of interest here: the message never arrives where it is waited for.
    let ask = bench.ask("full", &format!("imap: {{ {imap} }}"), "");
    let (attempt, bounce) = tokio::join!(bench.attempt(&ask), next(&mut session));
    assert_eq!(attempt.delivery.map(|d| d.accept), Some(Accept::Accepted));
    let Nature::Bounce(line) = &bounce.nature else { panic!("{bounce:?}") };
    assert!(line.starts_with("5.2.2 mailbox full: 552 5.2.2 "), "{line}");
    // It names the message it is about.
    assert!(text(&bounce).contains("bongsu1."), "{bounce:?}");
    assert_eq!(bounce.beside, None);
    session.close().await;
}
