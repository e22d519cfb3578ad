//! Traces of attempts with several accounts: what is told, in tables; restarts change nothing, on random traces.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    detect::{Change, Severity, State, Thresholds, Track, tests::restored},
    observation::{Accept, Correction, Delivery, Fate},
};

/// An attempt a second: a letter for the account, then `+` for one that worked, `-` for one that failed, `?` for one
/// that told nothing.
fn trace(text: &str, of: u32) -> Vec<Observation> {
    let steps = text.split_whitespace().enumerate();
    steps.map(|(i, step)| observation(i + 1, &step[..1], &step[1..], of)).collect()
}

fn second(n: usize) -> Timestamp {
    Timestamp::from_millis(1_000 * i64::try_from(n).expect("a short trace"))
}

fn observation(n: usize, name: &str, fared: &str, of: u32) -> Observation {
    let outcome = match fared {
        "+" => Outcome::Ok,
        "-" => Outcome::Failed,
        _ => Outcome::Unknown,
    };
    let mut o = Observation::new(second(n), outcome, Duration::from_millis(10));
    if outcome == Outcome::Failed {
        o.reason = Some(Reason::new(Phase::Login, Kind::Rejected, format!("{name}: 535 at {n}")));
    }
    o.account = Some(AccountSeen { name: name.into(), of });
    o
}

fn words(changes: &[Change], n: usize) -> Vec<String> {
    let edge = |e: &Edge| {
        let after = e.after.map_or("-".into(), |a| (a.as_millis() / 1_000).to_string());
        format!("({after},{}]", e.by.as_millis() / 1_000)
    };
    let told = |change: &Change| match change {
        Change::Began(t) => {
            let reason = t.reason.as_ref().map(|r| r.text.clone()).unwrap_or_default();
            format!("{n}: {} {} {reason}", t.severity, edge(&t.started))
        }
        Change::Worsened { .. } => format!("{n}: worsened"),
        Change::Eased => format!("{n}: eased"),
        Change::Ended(e) => format!("{n}: ended {}", edge(e)),
        Change::Relapsed { .. } => format!("{n}: relapsed"),
        Change::Flapping(on) => format!("{n}: flapping {on}"),
    };
    changes.iter().map(told).collect()
}

/// Runs a trace, restarting from what is stored before each step given in `restarts`.
fn run(thresholds: &Thresholds, all: &[Observation], restarts: &[usize]) -> (Track, Vec<String>) {
    let mut track = Track::default();
    let mut stored = track.durable();
    let mut told = Vec::new();
    for (i, o) in all.iter().enumerate() {
        if restarts.contains(&i) {
            track = restored(stored.clone(), thresholds, &all[..i]);
        }
        told.extend(words(&track.observe(thresholds, o), i + 1));
        let json = serde_json::to_value(track.durable()).expect("plain data");
        stored = serde_json::from_value(json).expect("as it was written");
    }
    (track, told)
}

fn thresholds(failures: u32) -> Thresholds {
    Thresholds { failures, ..Thresholds::default() }
}

/// Rounds of three accounts that work, `n` times.
fn rounds(n: usize) -> String {
    "a+ b+ c+ ".repeat(n)
}

#[test]
fn what_is_told_of_accounts() {
    let failing = |n: usize| "a+ b- c+ ".repeat(n);
    let table: Vec<(&str, u32, String, State, Vec<&str>)> = vec![
        ("all is well", 5, rounds(3), State::Up, vec![]),
        ("one attempt that failed is none", 5, "a+ b- b+ c+ a+ b+".into(), State::Up, vec![]),
        (
            "one that fails twice is told as a share, once, and never as an outage or a loss",
            5,
            format!("{}a+ b- b- c+ {}", rounds(1), failing(30)),
            State::Degraded,
            vec!["7: degraded (2,5] 1 of 3 accounts failing: b: 535 at 5"],
        ),
        (
            "it is over when it has worked twice",
            5,
            format!("{}a+ b- b- c+ {}a+ b+ b+ c+", rounds(1), failing(4)),
            State::Up,
            vec!["7: degraded (2,5] 1 of 3 accounts failing: b: 535 at 5", "22: ended (18,21]"],
        ),
        (
            "one that works now and then stays failing",
            5,
            format!("{}a+ b- b- c+ {}", rounds(1), "a+ b+ b- c+ ".repeat(8)),
            State::Degraded,
            vec!["7: degraded (2,5] 1 of 3 accounts failing: b: 535 at 5"],
        ),
        (
            "asked twice in a row, one account is not all of them, however few failures make an outage",
            1,
            format!("{}a+ b- b- c+ {}", rounds(1), failing(9)),
            State::Degraded,
            vec!["7: degraded (2,5] 1 of 3 accounts failing: b: 535 at 5"],
        ),
        (
            "an outage of all is told with the usual number of failures",
            5,
            format!("{}a- a- b- b- c- c- a- b- c-", rounds(1)),
            State::Down,
            vec!["8: down (3,4] a: 535 at 4"],
        ),
        ("from the start as well", 3, "a- a- b- b-".into(), State::Down, vec!["3: down (-,1] a: 535 at 1"]),
        (
            "its end clears them all",
            5,
            format!("{}a- a- b- b- c- c- a- b- c- a+ a+ b+ c+ {}", rounds(1), rounds(5)),
            State::Up,
            vec!["8: down (3,4] a: 535 at 4", "14: ended (12,13]"],
        ),
        (
            "one that was failing before it hides nothing and is hidden by nothing",
            4,
            format!("{}a+ b- b- c+ {}a- a- b- c- c- a- b- c- {}", rounds(1), failing(1), "a+ a+ b- c+ c+ a+ b- c+ "),
            State::Degraded,
            vec!["7: degraded (2,5] 1 of 3 accounts failing: b: 535 at 5", "15: worsened", "24: eased"],
        ),
        (
            "what told nothing changes nothing",
            5,
            format!("{}a+ b- b? b- c+ a? b? c?", rounds(1)),
            State::Degraded,
            vec!["8: degraded (2,5] 1 of 3 accounts failing: b: 535 at 5"],
        ),
    ];
    for (what, failures, text, state, expected) in table {
        let (track, told) = run(&thresholds(failures), &trace(&text, 3), &[]);
        assert_eq!(told, expected, "{what}: {text}");
        assert_eq!(track.memory.state, state, "{what}: {text}");
        assert!(!track.memory.flapping, "{what}: {text}");
    }
}

#[test]
fn one_of_two_does_not_flap() {
    let text = format!("a+ b+ a- a- b+ {}", "a- b+ ".repeat(60));
    let (track, told) = run(&thresholds(5), &trace(&text, 2), &[]);
    assert_eq!(told, ["5: degraded (1,3] 1 of 2 accounts failing: a: 535 at 3"]);
    assert_eq!((track.memory.state, track.memory.flapping), (State::Degraded, false));
    let text = format!("{text} {}", "b- b- a- b- a- b- ");
    let (track, told) = run(&thresholds(5), &trace(&text, 2), &[]);
    assert_eq!(told.last().map(String::as_str), Some("130: worsened"), "then both fail");
    assert_eq!(track.memory.state, State::Down);
}

#[test]
fn the_share_has_a_threshold_of_its_own() {
    let mut limits = thresholds(5);
    let broken = |n: usize| -> String {
        let all = ["a", "b", "c", "d"];
        let one = |i: usize| if i < n { format!("{0}- {0}- ", all[i]) } else { format!("{}+ ", all[i]) };
        (0..6).map(|_| (0..4).rev().map(one).collect::<String>()).collect()
    };
    let severity = |limits: &Thresholds, n: usize| {
        run(limits, &trace(&broken(n), 4), &[]).0.memory.trouble.map(|trouble| trouble.severity)
    };
    limits.degraded.accounts = Some(Ratio(0.5));
    assert_eq!(severity(&limits, 1), None);
    assert_eq!(severity(&limits, 2), Some(Severity::Degraded));
    limits.degraded.accounts = None;
    assert_eq!(severity(&limits, 2), None);
    assert_eq!(severity(&limits, 4), Some(Severity::Down), "an outage is one whatever the share");
}

#[test]
fn several_are_told_by_name() {
    let mut accounts = Accounts { of: 20, ..Accounts::default() };
    let mut rounds = Rounds::default();
    for (i, name) in ["h", "a", "b", "c", "d", "e", "f", "g"].iter().enumerate() {
        let seen = AccountSeen { name: (*name).into(), of: 20 };
        let reason = Reason::new(Phase::Login, Kind::Rejected, "535 5.7.8 no");
        for n in [2 * i + 1, 2 * i + 2] {
            assert!(!accounts.observe(&mut rounds, &seen, false, second(n), Some(&reason)));
        }
    }
    let offence = accounts.judge(Some(Ratio(0.01))).expect("many are failing");
    assert_eq!(offence.reason.text, "8 of 20 accounts failing: h: 535 5.7.8 no; also a, b, c, d, e and 2 more");
    assert_eq!((offence.reason.phase, offence.reason.kind), (Phase::Login, Kind::Rejected));
    assert_eq!((offence.started.by, offence.last), (second(1), second(16)));
}

#[test]
fn an_account_that_was_taken_out_is_forgotten() {
    let gone = format!("{}a+ b- b- c+ ", rounds(1));
    let mut all = trace(&format!("{gone}{}", "a+ c+ ".repeat(20)), 3);
    all.iter_mut().skip(7).for_each(|o| o.account.as_mut().expect("it has one").of = 2);
    let (track, told) = run(&thresholds(5), &all, &[]);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1].contains("ended"), "{told:?}");
    assert!(track.memory.accounts.troubled.is_empty());
    // So it is when the accounts are taken out as a whole.
    all.iter_mut().skip(7).for_each(|o| o.account = None);
    let (track, told) = run(&thresholds(5), &all, &[]);
    assert!(told.len() == 2 && track.memory.accounts.is_empty(), "{told:?}");
}

#[test]
fn a_check_without_accounts_remembers_nothing_of_them() {
    let mut all = trace(&rounds(3), 3);
    all.iter_mut().for_each(|o| o.account = None);
    let (track, _) = run(&thresholds(5), &all, &[]);
    let json = serde_json::to_value(track.durable()).expect("plain data");
    assert_eq!(json.get("accounts"), None);
    // And one with accounts that work says the same at every attempt, so that it is not stored anew.
    let all = trace(&rounds(9), 3);
    let (at_eight, at_nine) = (run(&thresholds(5), &all[..24], &[]).0, run(&thresholds(5), &all, &[]).0);
    assert_eq!(at_eight.durable(), at_nine.durable());
}

fn fate(n: usize, name: &str, fate: Fate) -> (Observation, Correction) {
    let delivery = |fate| Delivery::new(fate, Accept::Accepted, 1);
    let mut pending = observation(n, name, "+", 3);
    (pending.outcome, pending.delivery) = (Outcome::Slow, Some(delivery(Fate::Pending)));
    let reason = Reason::new(Phase::Deliver, Kind::Lost, format!("{name}: absent at the horizon"));
    let correction = Correction {
        observed_at: second(n),
        account: pending.account.clone(),
        outcome: if fate == Fate::Lost { Outcome::Failed } else { Outcome::Slow },
        delivery: delivery(fate),
        reason: (fate == Fate::Lost).then_some(reason),
        details: Default::default(),
    };
    (pending, correction)
}

#[test]
fn messages_that_are_lost_later_count_for_their_account() {
    let thresholds = thresholds(5);
    let mut track = Track::default();
    let mut told = Vec::new();
    for n in 0..20 {
        for (i, name) in ["a", "c"].iter().enumerate() {
            told.extend(words(&track.observe(&thresholds, &observation(3 * n + 1 + i, name, "+", 3)), n));
        }
        let (pending, lost) = fate(3 * n + 3, "b", Fate::Lost);
        told.extend(words(&track.observe(&thresholds, &pending), n));
        told.extend(words(&track.correct(&thresholds, &lost), n));
    }
    // The losses that are known are not judged as losses of the service; the two before were too few.
    assert_eq!(told, ["2: degraded (-,3] 1 of 3 accounts failing: b: absent at the horizon"]);
    for n in 20..24 {
        let (pending, late) = fate(3 * n + 3, "b", Fate::Late);
        told.extend(words(&track.observe(&thresholds, &pending), n));
        told.extend(words(&track.correct(&thresholds, &late), n));
        told.extend(words(&track.observe(&thresholds, &observation(3 * n + 4, "a", "+", 3)), n));
    }
    assert!(track.memory.accounts.judge(Some(Ratio(0.01))).is_none(), "it arrived twice: {told:?}");
}

proptest! {
    #[test]
    fn restarts_change_nothing(
        steps in prop::collection::vec(prop::sample::select(vec!["+", "+", "+", "-", "?"]), 0..90),
        broken in prop::collection::vec((0_usize..90, 1_usize..40, 0_usize..3), 0..3),
        restarts in prop::collection::vec(0_usize..90, 0..8),
    ) {
        let mut all = Vec::new();
        for (i, fared) in steps.iter().enumerate() {
            let name = ["a", "b", "c"][i % 3];
            let is_broken = broken.iter().any(|(from, long, who)| (*from..from + long).contains(&i) && *who == i % 3);
            all.push(observation(i + 1, name, if is_broken { "-" } else { fared }, 3));
        }
        let mut thresholds = thresholds(4);
        // Shares and flapping look at single samples, of which a restart knows those set aside only by their span.
        (thresholds.degraded.slow, thresholds.degraded.loss, thresholds.degraded.duplicates) = (None, None, None);
        let outages = |told: Vec<String>| told.into_iter().filter(|t| !t.contains("flapping")).collect::<Vec<_>>();
        let (track, told) = run(&thresholds, &all, &[]);
        let (again, told_again) = run(&thresholds, &all, &restarts);
        if !told.iter().chain(&told_again).any(|t| t.contains("flapping") || t.contains("relapsed")) {
            prop_assert_eq!(outages(told_again), outages(told));
            prop_assert_eq!(again.memory.accounts, track.memory.accounts);
        }
    }

    #[test]
    fn an_outage_needs_more_than_one_account(
        fared in prop::collection::vec(any::<bool>(), 0..120), failures in 1_u32..6,
    ) {
        // Of three that go round, two work and the third does as it likes.
        let all: Vec<Observation> = fared.iter().enumerate().map(|(i, good)| {
            let name = ["a", "b", "b", "c"][i % 4];
            observation(i + 1, name, if *good || name != "b" { "+" } else { "-" }, 3)
        }).collect();
        let (track, told) = run(&thresholds(failures), &all, &[]);
        prop_assert!(!told.iter().any(|t| t.contains("down") || t.contains("worsened")), "{:?}", told);
        let turns: Vec<bool> =
            told.iter().filter(|t| !t.contains("flapping")).map(|t| t.contains("degraded")).collect();
        prop_assert!(turns.windows(2).all(|two| two[0] != two[1]), "{:?}", told);
        prop_assert_ne!(track.memory.state, State::Down);
    }
}
