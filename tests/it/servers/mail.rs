//! The way of mails as a company has it: handed in at a real postfix by STARTTLS and login, on to a mailbox server by
//! LMTP, read from a real dovecot by IMAP or POP3; certificates of an authority of one's own.

mod failures;
mod killed;
mod route;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bongsu::{
    check::{Ask, Settings},
    observation::{Accept, Correction, Fate, Integrity, Observation, Outcome, Phase, Side},
};
use serde_json::{Value, json};

pub use self::route::{Route, USER, Unusual};
use super::receiving::{WAIT_MAX, stranger};
use crate::harness::{build, context, settings};

/// A delivery and how it is asked.
pub struct Bench {
    pub ask: Arc<dyn Ask>,
    pub settings: Settings,
}

impl Bench {
    /// From one side to another (`smtp: { … }`), with these further options.
    pub fn new(send: &str, receive: &str, more: &str) -> Self {
        let settings = settings(Duration::from_secs(20));
        let yaml = format!("{{ send: {{ {send} }}, receive: {{ {receive} }}, {more} }}");
        Self { ask: build("delivery", &yaml, &settings), settings }
    }

    pub async fn attempt(&self) -> Observation {
        self.ask.attempt(context(&self.settings)).await.observation
    }

    /// The next correction, which must come.
    pub async fn correction(&self) -> Correction {
        let waited = tokio::time::timeout(WAIT_MAX, self.ask.afterwards()).await.expect("a correction in time");
        waited.expect("something is outstanding")
    }

    /// What comes to light within this time.
    pub async fn corrections(&self, wait: Duration) -> Vec<Correction> {
        let mut all = Vec::new();
        let until = tokio::time::Instant::now() + wait;
        while let Ok(Some(correction)) = tokio::time::timeout_at(until, self.ask.afterwards()).await {
            all.push(correction);
        }
        all
    }

    /// Between attempts until this is so, which the sessions see to; nothing comes to light meanwhile.
    pub async fn quiet_until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < WAIT_MAX, "waited in vain: {what}");
            assert_eq!(self.corrections(LOOK_EVERY).await, []);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// How often it is looked whether something has become so.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Times that only a route that is broken exceeds, on a busy machine as well.
const PATIENT: &str = "slow: 20s, lost_after: 30s";

/// What a healthy attempt says.
fn is_well(o: &Observation, sequence: u64) {
    assert_eq!((o.outcome, &o.reason), (Outcome::Ok, &None));
    let d = o.delivery.as_ref().expect("a message was sent");
    assert_eq!((d.fate, d.accept, d.sequence), (Fate::Arrived, Accept::Accepted, sequence));
    assert_eq!((d.integrity, d.changed, d.duplicates, d.reordered), (Some(Integrity::Equal), 0, 0, 0));
    assert!(d.latency_ms.is_some() && d.accept_ms.is_some(), "{d:?}");
}

/// The names of the servers a mail took its way over, oldest first, and the seconds each took.
fn hops(o: &Observation) -> Vec<(String, Option<i64>)> {
    let path = o.details.get("path").and_then(Value::as_array).cloned().unwrap_or_default();
    let hop = |hop: &Value| (hop["by"].as_str().unwrap_or("?").to_owned(), hop["after_s"].as_i64());
    path.iter().map(hop).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn mails_arrive_unchanged_by_every_way_and_nothing_stays() {
    let route = Route::start();
    route.dovecot.deliver(USER, &stranger("before"));
    let smtp = route.submission("");
    let lmtp =
        format!("lmtp: {{ url: 'lmtp://{}', from: a@example.com, to: {USER}@example.com }}", route.proxy.address);
    let printable = route.submission("encoding: quoted-printable");
    let (imap, polled) = (route.imap(""), route.imap("idle: false, poll: 1s"));
    let pop3 = route.pop3("poll: 1s");
    for (send, receive, hops_min) in
        [(&smtp, &imap, 2), (&printable, &polled, 2), (&lmtp, &imap, 1), (&smtp, &pop3, 2), (&lmtp, &pop3, 1)]
    {
        for sessions in ["fresh", "kept"] {
            let bench = Bench::new(send, receive, &format!("{PATIENT}, sessions: {sessions}"));
            for sequence in 1..=3 {
                let o = bench.attempt().await;
                is_well(&o, sequence);
                // As it stands, a mail carries no line longer than 998 bytes.
                let left_out = o.delivery.as_ref().map_or(0, |d| d.left_out.len());
                assert_eq!(left_out, usize::from(send != &printable), "{send}");
                let hops = hops(&o);
                assert!(hops.len() >= hops_min, "{sessions} {send} {receive}: {:?}", o.details);
                assert_eq!(hops[0].1, None, "{hops:?}");
                assert!(hops[1..].iter().all(|(_, after)| after.is_some_and(|s| (0..60).contains(&s))), "{hops:?}");
                assert_eq!(hops_min == 2, hops[0].0 == "mx.example.com", "{hops:?}");
                let anew = sequence == 1 || sessions == "fresh";
                let logins = o.phases.iter().filter(|p| p.phase == Phase::Login && p.side == Some(Side::Receive));
                assert_eq!(logins.count() > 0, anew, "{sessions}: {:?}", o.phases);
            }
            assert_eq!(bench.corrections(Duration::from_millis(300)).await, []);
            bench.ask.close().await;
            route.only_strangers(1);
        }
    }
    assert_eq!(route.proxy.failures(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_mails_in_between_are_left_alone_and_copies_are_all_taken_off() {
    let route = Route::start();
    let bench =
        Bench::new(&route.submission(""), &route.imap("folders: all, poll: 1s"), &format!("{PATIENT}, sessions: kept"));
    route.repeat_all();
    for sequence in 1..=5 {
        route.dovecot.deliver(USER, &stranger(&format!("hello {sequence}")));
        let o = bench.attempt().await;
        assert_eq!((o.outcome, &o.reason), (Outcome::Ok, &None));
        let d = o.delivery.expect("a message was sent");
        assert_eq!((d.sequence, d.fate), (sequence, Fate::Arrived));
        let mut copies = d.duplicates;
        while copies == 0 {
            let correction = bench.correction().await;
            assert_eq!((correction.observed_at, correction.outcome), (o.at, Outcome::Ok));
            copies = correction.delivery.duplicates;
        }
        assert_eq!(copies, 1);
    }
    bench.ask.close().await;
    let left = route.only_strangers(5);
    for (n, mail) in left.iter().enumerate() {
        assert!(String::from_utf8_lossy(mail).contains(&format!("hello {}", n + 1)));
    }
    let mut client = route.dovecot.client(USER);
    client.say("EXAMINE INBOX");
    let flags = client.say("FETCH 1:* (FLAGS)");
    assert!(!flags.contains("\\Seen") && !flags.contains("\\Deleted"), "{flags}");
    assert_eq!(json!(route.proxy.failures()), json!([]));
}
