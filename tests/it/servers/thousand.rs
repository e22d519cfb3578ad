//! A thousand messages over a mail route and over MQTT, twenty a second: what was done to them on the way and what
//! bongsu says must agree exactly, burst by burst.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bongsu::{
    check::{Ask, Context},
    clock,
    observation::{Delivery, Fates},
    value::Timestamp,
};

use super::{
    mail::{Route, USER, Unusual},
    receiving::stranger,
};
use crate::harness::{
    build, context,
    mangler::{Account, Deed, Rates, sequence},
    mosquitto::{Mosquitto, Users},
    mqtt_proxy::MqttProxy,
    settings,
};

const BURSTS: u64 = 50;
const BURST: u64 = 20;

/// Twenty a second.
const REAL: Duration = Duration::from_secs(1);

/// Where the rate is not the point.
const QUICK: Duration = Duration::from_millis(300);

/// Longest wait for the last of it, and how long it must then stay so.
const SETTLE_MAX: Duration = Duration::from_secs(90);
const STAYS: Duration = Duration::from_secs(2);

/// The loss horizon; the objective is close to it, so that a busy machine makes nothing late.
const TERMS: &str = "slow: 20s, lost_after: 25s";

fn rates() -> Rates {
    // A message that is held for the next one of its lane waits for the next burst at most.
    let hold_max = Duration::from_secs(10);
    Rates { drop: 0.03, repeat: 0.02, swap: 0.01, alter: 0.01, hold_max, ..Rates::default() }
}

/// What is counted of a burst.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Counts {
    first: u64,
    fates: Fates,
    duplicates: u32,
    reordered: u32,
    changed: u32,
}

impl Counts {
    fn of(d: &Delivery) -> Self {
        Self {
            first: d.sequence,
            fates: d.all_fates(),
            duplicates: d.duplicates,
            reordered: d.reordered,
            changed: d.changed,
        }
    }
}

/// What the account of a proxy promises for each burst.
fn promised(account: &Account) -> Vec<Counts> {
    let [dropped, repeated, altered] =
        [Deed::Dropped, Deed::Repeated, Deed::Altered].map(|deed| account.sequences(deed));
    let left: Vec<u64> = account.left.iter().map(|token| sequence(token)).collect();
    let mut behind = BTreeSet::new();
    let mut highest = 0;
    for n in left {
        if n < highest {
            behind.insert(n);
        }
        highest = highest.max(n);
    }
    let burst = |n: u64| {
        let first = n * BURST + 1;
        let within = |all: &BTreeSet<u64>| all.range(first..first + BURST).count() as u32;
        let lost = within(&dropped);
        let fates = Fates { arrived: BURST as u32 - lost, lost, ..Fates::default() };
        Counts { first, fates, duplicates: within(&repeated), reordered: within(&behind), changed: within(&altered) }
    };
    (0..BURSTS).map(burst).collect()
}

/// Sends all bursts at this pace, and takes down what is said of them in the end.
async fn play(ask: &Arc<dyn Ask>, pace: Duration, account: impl Fn() -> Account) -> Vec<Counts> {
    let settings = settings(Duration::from_secs(20));
    let mut said: BTreeMap<Timestamp, Counts> = BTreeMap::new();
    let begun = Instant::now();
    let net = context(&settings).net;
    for n in 1..=BURSTS {
        let due = begun + pace * n as u32;
        let wait_max = Some(due.saturating_duration_since(Instant::now()));
        let context = Context { net: net.clone(), at: clock::now(), wait_max, ..context(&settings) };
        let o = ask.attempt(context).await.observation;
        let d = o.delivery.as_ref().unwrap_or_else(|| panic!("messages were sent: {:?}", o.reason));
        said.insert(o.at, Counts::of(d));
        while let Ok(Some(c)) = tokio::time::timeout_at(due.into(), ask.afterwards()).await {
            said.insert(c.observed_at, Counts::of(&c.delivery));
        }
    }
    let took = begun.elapsed();
    println!("{} messages in {took:.1?}: {:.1} a second", BURSTS * BURST, (BURSTS * BURST) as f64 / took.as_secs_f64());
    let all = |said: &BTreeMap<Timestamp, Counts>| said.values().cloned().collect::<Vec<_>>();
    let last = Instant::now() + SETTLE_MAX;
    let mut until = last;
    loop {
        if all(&said) == promised(&account()) {
            until = until.min(Instant::now() + STAYS);
        }
        match tokio::time::timeout_at(until.into(), ask.afterwards()).await {
            Ok(Some(c)) => {
                said.insert(c.observed_at, Counts::of(&c.delivery));
                if until != last {
                    // It changed once more after it was right.
                    until = last;
                }
            }
            Ok(None) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(_) => return all(&said),
        }
    }
}

/// What is said and what was done, burst by burst, and as sums.
fn agree(said: &[Counts], account: &Account) -> Counts {
    let expected = promised(account);
    for (said, expected) in said.iter().zip(&expected) {
        assert_eq!(said, expected);
    }
    assert_eq!((said.len(), account.seen.len()), (BURSTS as usize, (BURSTS * BURST) as usize));
    let sum = |of: &dyn Fn(&Counts) -> u32| said.iter().map(of).sum::<u32>();
    let fates = Fates {
        arrived: sum(&|c| c.fates.arrived),
        late: sum(&|c| c.fates.late),
        lost: sum(&|c| c.fates.lost),
        ..Fates::default()
    };
    let total = Counts {
        first: 1,
        fates,
        duplicates: sum(&|c| c.duplicates),
        reordered: sum(&|c| c.reordered),
        changed: sum(&|c| c.changed),
    };
    println!("{total:?}");
    assert_eq!(fates.messages(), (BURSTS * BURST) as u32);
    total
}

const ALL: Fates = Fates { arrived: 1_000, late: 0, pending: 0, lost: 0, unsent: 0, uncertain: 0 };

fn is_flawless(total: &Counts) {
    assert_eq!((total.fates, total.duplicates, total.changed, total.reordered), (ALL, 0, 0, 0), "{total:?}");
}

/// The seed lets each happen.
fn is_mangled(total: &Counts) {
    let all = [total.fates.lost, total.duplicates, total.reordered, total.changed];
    assert!(all.iter().all(|n| *n > 0), "{total:?}");
}

fn manner() -> String {
    format!("{TERMS}, burst: {BURST}, sessions: kept")
}

async fn over_mail(pace: Duration, rates: Rates) -> Counts {
    let route = Route::start_with(Unusual { seed: 11, rates, in_order: true, ..Unusual::default() });
    let yaml = format!("{{ send: {{ {} }}, receive: {{ {} }}, {} }}", route.submission(""), route.imap(""), manner());
    let ask = build("delivery", &yaml, &settings(Duration::from_secs(20)));
    for n in 0..3 {
        route.dovecot.deliver(USER, &stranger(&n.to_string()));
    }
    let said = play(&ask, pace, || route.proxy.account()).await;
    assert_eq!(route.proxy.failures(), Vec::<String>::new());
    let total = agree(&said, &route.proxy.account());
    ask.close().await;
    route.only_strangers(3);
    total
}

async fn over_mqtt(pace: Duration, rates: Rates) -> Counts {
    let broker = Mosquitto::start(Users::Anyone, "");
    let proxy = MqttProxy::start(broker.address, 12, rates);
    let place = |address| format!("{{ mqtt: {{ url: 'mqtt://{address}', topic: t, qos: 1 }} }}");
    let yaml = format!("{{ send: {}, receive: {}, {} }}", place(broker.address), place(proxy.address), manner());
    let ask = build("delivery", &yaml, &settings(Duration::from_secs(20)));
    let said = play(&ask, pace, || proxy.account()).await;
    assert_eq!(proxy.missed(), BTreeSet::new());
    let total = agree(&said, &proxy.account());
    ask.close().await;
    total
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_mails_over_a_healthy_route_are_all_in_order() {
    is_flawless(&over_mail(REAL, Rates::default()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_mails_over_a_bad_route_are_counted_exactly() {
    is_mangled(&over_mail(QUICK, rates()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_messages_over_a_healthy_broker_are_all_in_order() {
    is_flawless(&over_mqtt(REAL, Rates::default()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_messages_over_a_bad_way_to_a_broker_are_counted_exactly() {
    is_mangled(&over_mqtt(QUICK, rates()).await);
}
