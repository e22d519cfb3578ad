//! A daemon that is killed again and again while its mails are on their way: each is accounted for, and none stays.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    super::receiving::stranger,
    route::{Route, USER, Unusual},
};
use crate::harness::{
    daemon::{Place, until},
    mangler::{Rates, sequence},
};

/// Kills in one run of the test; `BONGSU_KILLS` asks for more.
const KILLS: u64 = 20;

/// Longest life of a daemon between two kills: some attempts of each check.
const LIFE_MS_MAX: u64 = 1_500;

fn checks(route: &Route) -> String {
    let (send, receive) = (route.submission(""), route.imap(""));
    let check = |sessions: &str| {
        format!(
            "  - name: {sessions}\n    every: 400ms\n    delivery: {{ send: {{ {send} }}, receive: {{ {receive} }}, \
             slow: 15s, lost_after: 20s, sessions: {sessions} }}\n"
        )
    };
    let outage = "outage: { failures: 50 }, degraded: { slow: off, loss: off, duplicates: off }";
    format!("service: mail\ndefaults: {{ timeout: 10s, {outage} }}\nchecks:\n{}{}", check("fresh"), check("kept"))
}

fn number(place: &Place, sql: &str) -> u64 {
    place.query(sql).first().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{sql} gives no number"))
}

/// Fates by sequence, of one check.
fn fates(place: &Place, check: &str) -> BTreeMap<u64, String> {
    let sql = format!("SELECT sequence || ' ' || fate FROM observations WHERE check_name = '{check}' AND fate <> ''");
    let rows = place.query(&sql);
    let all: BTreeMap<u64, String> = rows
        .iter()
        .filter_map(|row| row.split_once(' '))
        .map(|(n, fate)| (n.parse().expect("a number"), fate.to_owned()))
        .collect();
    assert_eq!(all.len(), rows.len(), "each sequence is one observation's");
    all
}

#[test]
fn whenever_it_is_killed_each_mail_is_accounted_for_and_none_stays() {
    let seed = std::env::var("BONGSU_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    let kills = std::env::var("BONGSU_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS);
    println!("BONGSU_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    // Some mails come twice, the second copy perhaps when nobody remembers the first.
    let rates = Rates { repeat: 0.3, ..Rates::default() };
    let route = Route::start_with(Unusual { seed, rates, ..Unusual::default() });
    let place = Place::new("", &checks(&route));
    for n in 0..kills {
        let daemon = place.spawn();
        route.dovecot.deliver(USER, &stranger(&n.to_string()));
        std::thread::sleep(Duration::from_millis(random.u64(0..LIFE_MS_MAX)));
        daemon.kill();
    }
    let daemon = place.start();
    let last = "SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now')";
    let last = place.query(last).remove(0);
    let later = |check: &str| {
        let of = format!("check_name = 'mail/{check}' AND at > '{last}' AND fate = 'arrived'");
        number(&place, &format!("SELECT count(*) FROM observations WHERE {of}"))
    };
    until("mails arrive again", || later("fresh") > 2 && later("kept") > 2);
    let open = format!("SELECT count(*) FROM observations WHERE fate = 'pending' AND at < '{last}'");
    until("what was on its way at a kill is settled", || number(&place, &open) == 0);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());

    let of_check = |check: &str| fates(&place, &format!("mail/{check}"));
    let all = [of_check("fresh"), of_check("kept")];
    println!(
        "{kills} kills, {} mails on their way, {} observations",
        route.proxy.account().seen.len(),
        all.iter().map(BTreeMap::len).sum::<usize>()
    );
    let mut told: BTreeMap<&str, usize> = BTreeMap::new();
    for fate in all.iter().flat_map(BTreeMap::values) {
        *told.entry(fate).or_default() += 1;
    }
    println!("{told:?}");
    // By check and sequence: both checks count from one.
    let account = route.proxy.account();
    let mut tokens: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for token in &account.left {
        assert!(tokens.entry(check_of(token)).or_default().insert(sequence(token)), "a sequence was used twice");
    }
    assert_eq!(tokens.len(), 2, "two checks have sent");
    let arrived = |all: &BTreeMap<u64, String>| -> BTreeSet<u64> {
        all.iter().filter(|(_, fate)| matches!(fate.as_str(), "arrived" | "late")).map(|(n, _)| *n).collect()
    };
    let mut said: Vec<BTreeSet<u64>> = all.iter().map(arrived).collect();
    let mut done: Vec<BTreeSet<u64>> = tokens.into_values().collect();
    said.sort();
    done.sort();
    assert_eq!(said, done, "what has left has arrived, and nothing else");
    // What was cut off before it was taken may be uncertain, or never sent; nothing is lost or open.
    assert!(told.keys().all(|fate| ["arrived", "late", "uncertain", "unsent"].contains(fate)), "{told:?}");
    // What has not come might still.
    let uncertain = told.get("uncertain").copied().unwrap_or(0);
    assert_eq!(number(&place, "SELECT count(*) FROM flight"), uncertain as u64, "all others have ended");
    route.only_strangers(kills as usize);
    assert_eq!(route.proxy.failures(), Vec::<String>::new());
}

#[test]
fn a_polite_stop_waits_for_what_is_just_arriving() {
    // Well within what a stop waits for, of which dovecot takes half a second to tell of a mail.
    let (delay_by, hold_max) = (Duration::from_millis(150), Duration::from_secs(1));
    let rates = Rates { delay: 1.0, delay_by, hold_max, ..Rates::default() };
    let route = Route::start_with(Unusual { rates, ..Unusual::default() });
    let place = Place::new("", &checks(&route).replace("every: 400ms", "every: 20s"));
    let seen = route.proxy.counter();
    let daemon = place.start();
    until("both mails are on their way", || seen() == 2);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    assert_eq!(place.query("SELECT fate FROM observations"), ["arrived", "arrived"], "{}", daemon.log());
    assert_eq!(number(&place, "SELECT count(*) FROM flight"), 0);
    route.only_strangers(0);
}

/// The part of a token that names its check.
fn check_of(token: &str) -> String {
    // Eight bytes, of which ten letters tell seven.
    token.split('.').nth(1).unwrap_or_default().chars().take(10).collect()
}
