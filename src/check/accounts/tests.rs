//! The round of accounts over questions that are scripted, and what the detector makes of it.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicUsize, Ordering},
};

use proptest::prelude::*;
use tokio::sync::Notify;

use super::*;
use crate::{
    check::Families,
    clock,
    detect::{Change, Severity, State, Thresholds, Track},
    observation::{Accept, Delivery, Kind, Observation, Phase},
    protocol::{Net, wire::NetOptions},
    value::Timestamp,
};

/// A question whose answers are scripted.
#[derive(Default)]
struct Scripted {
    name: &'static str,
    fails: Mutex<bool>,
    /// Answers never while this is set.
    hangs: Mutex<bool>,
    asked: AtomicUsize,
    outstanding: Mutex<VecDeque<Correction>>,
    /// Told when there is one more.
    more: Notify,
    /// Whether more may come.
    waits: bool,
}

impl Scripted {
    fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self { name, ..Self::default() })
    }

    fn waiting(name: &'static str) -> Arc<Self> {
        Arc::new(Self { name, waits: true, ..Self::default() })
    }

    fn fail(&self, fails: bool) {
        *self.fails.lock().expect("no panic") = fails;
    }

    fn learn(&self, correction: Correction) {
        self.outstanding.lock().expect("no panic").push_back(correction);
        self.more.notify_one();
    }
}

impl Ask for Scripted {
    fn kind(&self) -> &'static str {
        "scripted"
    }
    fn target(&self) -> String {
        format!("scripted://{}", self.name)
    }
    fn deadline(&self, settings: &Settings) -> Duration {
        settings.timeout * u32::try_from(self.name.len()).expect("a short name")
    }
    fn attempt<'a>(&'a self, context: Context) -> Boxed<'a, Answer> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if *self.hangs.lock().expect("no panic") {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            let fails = *self.fails.lock().expect("no panic");
            let outcome = if fails { Outcome::Failed } else { Outcome::Ok };
            let mut observation = Observation::new(context.at, outcome, Duration::from_millis(1));
            observation.reason = fails.then(|| Reason::new(Phase::Login, Kind::Rejected, "535 no"));
            Answer { observation, transcript: Vec::new() }
        })
    }
    fn afterwards<'a>(&'a self) -> Boxed<'a, Option<Correction>> {
        Box::pin(async move {
            loop {
                let found = self.outstanding.lock().expect("no panic").pop_front();
                if found.is_some() || !self.waits {
                    return found;
                }
                self.more.notified().await;
            }
        })
    }
}

fn lost(at: i64) -> Correction {
    let delivery = Delivery::new(Fate::Lost, Accept::Accepted, 1);
    let reason = Some(Reason::new(Phase::Deliver, Kind::Lost, "absent"));
    Correction {
        observed_at: Timestamp::from_millis(at),
        account: None,
        outcome: Outcome::Failed,
        delivery,
        reason,
        details: Default::default(),
    }
}

fn of(asks: &[Arc<Scripted>]) -> AccountsAsk {
    let account = |ask: &Arc<Scripted>| Account { name: ask.name.into(), ask: ask.clone() };
    AccountsAsk::new(asks.iter().map(account).collect())
}

fn context() -> Context {
    let nameservers = vec!["192.0.2.1:53".parse().expect("an address")];
    let net = Net::new(NetOptions { nameservers, ..NetOptions::default() }).expect("a net");
    let settings = Settings { timeout: Duration::from_secs(1), slow: None, ip: Families::Any };
    Context { net, at: clock::now(), settings, explain: false, wait_max: None }
}

/// The accounts of so many attempts, in order.
async fn asked(ask: &AccountsAsk, attempts: usize) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..attempts {
        let observation = ask.attempt(context()).await.observation;
        let account = observation.account.expect("an account was asked");
        let text = observation.reason.map(|reason| reason.text).unwrap_or_default();
        assert!(text.is_empty() || text == format!("{}: 535 no", account.name), "{text}");
        names.push(account.name);
    }
    names
}

#[tokio::test]
async fn attempts_go_round_and_say_whose_they_are() {
    let asks = [Scripted::new("a"), Scripted::new("bbb"), Scripted::new("c")];
    let ask = of(&asks);
    assert_eq!(asked(&ask, 4).await, ["a", "bbb", "c", "a"]);
    asks[1].fail(true);
    assert_eq!(asked(&ask, 7).await, ["bbb", "bbb", "c", "a", "bbb", "c", "a"]);
    asks[1].fail(false);
    assert_eq!(asked(&ask, 5).await, ["bbb", "bbb", "c", "a", "bbb"]);
    let settings = context().settings;
    assert_eq!(ask.deadline(&settings), Duration::from_secs(3), "the longest");
    assert_eq!((ask.kind(), ask.target().as_str()), ("scripted", "scripted://a and others"));
    let each: Vec<String> = ask.each().into_iter().map(|(name, _)| name).collect();
    assert_eq!(each, ["a", "bbb", "c"]);
    let seen = ask.each()[2].1.attempt(context()).await.observation.account;
    assert_eq!(seen, Some(AccountSeen { name: "c".into(), of: 3 }));
}

#[tokio::test]
async fn an_attempt_that_is_cut_off_holds_up_nobody() {
    let asks = [Scripted::new("a"), Scripted::new("b")];
    let ask = of(&asks);
    *asks[0].hangs.lock().expect("no panic") = true;
    for _ in 0..3 {
        let cut = tokio::time::timeout(Duration::from_millis(5), ask.attempt(context())).await;
        assert!(cut.is_err());
        assert_eq!(asked(&ask, 1).await, ["b"]);
    }
    assert_eq!(asks[0].asked.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn corrections_of_every_account_are_handed_on_whoever_is_asked() {
    let asks = [Scripted::waiting("a"), Scripted::new("b"), Scripted::waiting("c")];
    let ask = of(&asks);
    // Dropped in mid-wait, as when the next attempt is due: nothing is lost by that.
    assert!(tokio::time::timeout(Duration::from_millis(5), ask.afterwards()).await.is_err());
    asks[2].learn(lost(1));
    let found = ask.afterwards().await.expect("one is outstanding");
    assert_eq!(found.account, Some(AccountSeen { name: "c".into(), of: 3 }));
    assert_eq!(found.reason.map(|reason| reason.text).as_deref(), Some("c: absent"));
    // While one is asked, the others are heard.
    let attempt = ask.attempt(context());
    let meanwhile = async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        asks[2].learn(lost(2));
        asks[2].learn(lost(3));
    };
    let (answer, ()) = tokio::join!(attempt, meanwhile);
    assert_eq!(answer.observation.account.expect("an account").name, "a");
    assert!(asks[2].outstanding.lock().expect("no panic").is_empty(), "they were heard at once");
    for at in [2, 3] {
        let found = ask.afterwards().await.expect("both are handed on");
        assert_eq!(found.observed_at, Timestamp::from_millis(at));
    }
}

#[tokio::test]
async fn nothing_is_outstanding_when_no_account_has_anything() {
    let asks = [Scripted::new("a"), Scripted::new("b")];
    let ask = of(&asks);
    assert_eq!(ask.afterwards().await, None);
    // An account with much to tell does not keep another from telling.
    asks[0].outstanding.lock().expect("no panic").extend((0..3).map(lost));
    asks[1].learn(lost(9));
    let mut told = Vec::new();
    while let Some(found) = ask.afterwards().await {
        told.push(found.account.expect("an account").name);
    }
    told.sort();
    assert_eq!(told, ["a", "a", "a", "b"]);
}

#[tokio::test]
async fn losses_that_come_to_light_later_count_for_whose_turn_it_is() {
    let asks = [Scripted::new("a"), Scripted::new("b")];
    let ask = of(&asks);
    for at in 0..2 {
        asks[0].learn(lost(at));
        assert!(ask.afterwards().await.is_some());
    }
    asks[0].fail(true);
    assert_eq!(asked(&ask, 3).await, ["a", "b", "a"], "it is known to fail, so it is not asked again at once");
}

// ---------------------------------------------------------------------------------------------------------------
// With the detector

/// What the detector tells of `attempts` attempts of `count` accounts, a second each; `broken` says at which of them
/// which account (from 0) fails.
fn watched(
    count: usize,
    attempts: usize,
    failures: u32,
    broken: impl Fn(usize, usize) -> bool,
) -> (Track, Vec<String>) {
    let thresholds = Thresholds { failures, ..Thresholds::default() };
    let (mut turns, mut track, mut told) = (Turns::new(count), Track::default(), Vec::new());
    for n in 0..attempts {
        let index = turns.begin();
        let fails = broken(n, index);
        let at = Timestamp::from_millis(1_000 * i64::try_from(n + 1).expect("few"));
        let outcome = if fails { Outcome::Failed } else { Outcome::Ok };
        let mut o = Observation::new(at, outcome, Duration::from_millis(5));
        let name = format!("probe{:02}", index + 1);
        o.reason = fails.then(|| Reason::new(Phase::Login, Kind::Rejected, format!("{name}: 535 5.7.8 no")));
        o.account = Some(AccountSeen { name, of: u32::try_from(count).expect("few") });
        turns.end(index, Some(fails));
        for change in track.observe(&thresholds, &o) {
            told.push(match change {
                Change::Began(t) => format!("{} {}: {}", n + 1, t.severity, t.reason.expect("a reason").text),
                Change::Worsened { .. } => format!("{} worsened", n + 1),
                Change::Eased => format!("{} eased", n + 1),
                Change::Ended(_) => format!("{} ended", n + 1),
                Change::Relapsed { .. } => format!("{} relapsed", n + 1),
                Change::Flapping(on) => format!("{} flapping {on}", n + 1),
            });
        }
    }
    (track, told)
}

#[test]
fn one_of_twelve_is_told_once_and_never_as_an_outage() {
    let (track, told) = watched(12, 600, 5, |n, account| account == 6 && n >= 30);
    assert_eq!(told, ["33 degraded: 1 of 12 accounts failing: probe07: 535 5.7.8 no"]);
    assert_eq!(track.memory.state, State::Degraded);
    let (track, told) = watched(12, 600, 5, |n, account| account == 6 && (30..300).contains(&n));
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1].ends_with("ended") && track.memory.state == State::Up, "{told:?}");
}

#[test]
fn an_outage_of_all_is_told_after_as_many_failures_as_with_one_account() {
    for count in [1, 2, 3, 12, 100] {
        for failures in 3..8 {
            let (track, told) = watched(count, 300, failures, |n, _| n >= 150);
            let expected = format!("{} down", 150 + failures);
            assert!(told[0].starts_with(&expected) && told.len() == 1, "{count} accounts, {failures}: {told:?}");
            assert_eq!(track.memory.trouble.map(|t| t.severity), Some(Severity::Down));
        }
        // And over after as many successes, whoever is asked first.
        let (track, told) = watched(count, 500, 5, |n, _| (150..250).contains(&n));
        assert_eq!(told[1..], ["252 ended"], "{count} accounts: {told:?}");
        assert_eq!(track.memory.state, State::Up);
    }
}

#[test]
fn an_account_that_fails_hides_no_outage_of_all() {
    for count in [2, 3, 12] {
        let (track, told) = watched(count, 300, 5, |n, account| account == 1 || n >= 150);
        assert_eq!(told.len(), 2, "{told:?}");
        let worsened: usize = told[1].strip_suffix(" worsened").expect("it is an outage").parse().expect("a number");
        assert!((155..=156).contains(&worsened), "at most the turn of the one that was failing later: {told:?}");
        assert_eq!(track.memory.trouble.map(|t| t.severity), Some(Severity::Down));
    }
}

proptest! {
    #[test]
    fn one_account_alone_is_never_an_outage(
        count in 2_usize..14, which in 0_usize..14, failures in 1_u32..6, script in prop::collection::vec(any::<bool>(), 1..60),
    ) {
        let fails = |n: usize, account: usize| account == which % count && script[n % script.len()];
        let (track, told) = watched(count, 400, failures, fails);
        prop_assert!(!told.iter().any(|t| t.contains("down") || t.contains("worsened")), "{:?}", told);
        prop_assert_ne!(track.memory.state, State::Down);
    }

    #[test]
    fn an_outage_of_all_is_always_told(
        count in 1_usize..14, failures in 1_u32..6, script in prop::collection::vec(any::<bool>(), 1..120),
    ) {
        // Whatever went before, when nobody works any more it is told within a few attempts.
        let long = script.len();
        let (track, told) = watched(count, long + 3 * failures as usize + 8, failures, |n, _| n >= long || script[n]);
        prop_assert_eq!(track.memory.trouble.map(|t| t.severity), Some(Severity::Down), "{:?}", told);
    }
}

/// Remembers what it was given to go on from.
struct Resuming(Mutex<Vec<(Lane, Vec<u64>)>>);

impl Ask for Resuming {
    fn kind(&self) -> &'static str {
        "delivery"
    }
    fn target(&self) -> String {
        "memory://".into()
    }
    fn deadline(&self, settings: &Settings) -> Duration {
        settings.timeout
    }
    fn attempt<'a>(&'a self, _: Context) -> Boxed<'a, Answer> {
        Box::pin(std::future::pending())
    }
    fn afterwards<'a>(&'a self) -> Boxed<'a, Option<Correction>> {
        Box::pin(std::future::ready(None))
    }
    fn sends(&self) -> bool {
        true
    }
    fn resume<'a>(&'a self, past: Past) -> Boxed<'a, Vec<Observation>> {
        Box::pin(async move {
            let sequences = past.flights.iter().map(|f| f.sequence).collect();
            self.0.lock().expect("no panic").push((past.lane, sequences));
            let at = |f: &crate::observation::Flight| Observation::new(f.observed_at, Outcome::Unknown, Duration::ZERO);
            past.flights.iter().map(at).collect()
        })
    }
}

#[tokio::test]
async fn messages_in_flight_go_to_the_account_that_sent_them() {
    let asks: Vec<Arc<Resuming>> = (0..3).map(|_| Arc::new(Resuming(Mutex::new(Vec::new())))).collect();
    let accounts = asks.iter().zip(["a", "b", "c"]);
    let all = AccountsAsk::new(accounts.map(|(ask, name)| Account { name: name.into(), ask: ask.clone() }).collect());
    assert!(all.sends());
    let at = |sequence: u64| Timestamp::from_millis(1_000 - sequence as i64);
    let flight = |sequence| crate::observation::Flight::new(sequence, 1, Timestamp::EPOCH, at(sequence));
    let past = Past {
        key: crate::delivery::Key::new(&[1; 32]),
        sequence: 9,
        flights: [3, 4, 5, 7, 9].map(flight).to_vec(),
        journal: None,
        lane: Lane::default(),
    };
    let untold = all.resume(past).await;
    let whose: Vec<_> = untold.iter().map(|o| (o.at, o.account.clone().map(|a| a.name))).collect();
    let expected = [(9, "a"), (7, "b"), (5, "c"), (4, "b"), (3, "a")];
    assert_eq!(whose, expected.map(|(sequence, name)| (at(sequence), Some(name.to_owned()))));
    for (index, (ask, sequences)) in (0..).zip(asks.iter().zip([vec![3, 9], vec![4, 7], vec![5]])) {
        let lane = Lane { index, of: 3 };
        assert_eq!(*ask.0.lock().expect("no panic"), [(lane, sequences)]);
        assert_eq!((lane.after(9), lane.after(9) % 3), ([12, 10, 11][index as usize], index));
    }
}
