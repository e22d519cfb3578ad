//! The ledger by tables, and against a reference model that works everything out from the whole history anew.

use proptest::prelude::*;

use super::*;
use crate::{
    delivery::Key,
    observation::{Kind, Phase},
};

const OBJECTIVE: Duration = Duration::from_millis(50);
const HORIZON: Duration = Duration::from_millis(200);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn check() -> CheckKey {
    CheckKey::new(&Key::new(&[1; 32]), &"a/b".parse().expect("a name"))
}

fn ledger() -> Ledger {
    Ledger::new(check(), Terms { objective: OBJECTIVE, horizon: HORIZON, sender: "mqtt://b:1883".into() })
}

fn identity(sequence: u64) -> Identity {
    Identity { check: check(), sequence, sent_at: Timestamp::EPOCH, nonce: sequence * 31 }
}

fn sending(sequence: u64, at: Instant) -> Sending {
    Sending { identity: identity(sequence), observed_at: start(sequence), at }
}

/// Attempts of one message each begin at the millisecond of its sequence.
fn start(sequence: u64) -> Timestamp {
    Timestamp::from_millis(i64::try_from(sequence).expect("small"))
}

impl Ledger {
    /// A copy of a session's own.
    fn came(&mut self, session: u64, identity: &Identity, integrity: Integrity, at: Instant) -> Sighting {
        self.arrived(identity, Arriving { integrity, ..arriving(session, None, at) })
    }

    fn booked(&mut self, sequence: u64, now: Instant) -> Option<Verdict> {
        self.book(start(sequence), now).map(|(verdict, _)| verdict)
    }
}

fn arriving(session: u64, copy: Option<u64>, at: Instant) -> Arriving {
    Arriving { session, copy, integrity: Integrity::Equal, part: None, flaw: None, at, details: Map::new() }
}

fn accepted(ledger: &mut Ledger, sequence: u64, at: Instant) {
    ledger.sent(sending(sequence, at));
    ledger.answered(sequence, Accept::Accepted, at + Duration::from_micros(1_200), None);
}

#[test]
fn a_lost_message_that_comes_late_is_corrected_once() {
    let (mut l, t) = (ledger(), crate::clock::instant());
    accepted(&mut l, 1, t);
    let lost = l.booked(1, t + HORIZON).expect("it was sent");
    assert_eq!((lost.outcome, lost.delivery.fate), (Outcome::Failed, Fate::Lost));
    let reason = lost.reason.expect("a failure has a reason");
    assert_eq!((reason.phase, reason.kind), (Phase::Deliver, Kind::Lost));
    assert_eq!(reason.text, "accepted by mqtt://b:1883 in 1.2ms, not arrived within 200ms");
    assert_eq!(l.poll(t + HORIZON), None);
    assert!(l.is_outstanding(t + HORIZON));

    assert_eq!(l.came(1, &identity(1), Integrity::Equal, t + ms(300)), Sighting::First);
    let late = l.poll(t + ms(300)).expect("a correction");
    assert_eq!((late.outcome, late.delivery.fate), (Outcome::Slow, Fate::Late));
    assert_eq!(late.reason.expect("slow has a reason").text, "arrived after 300ms, objective 50ms");
    assert_eq!(late.delivery.latency_ms, Some(ms(300)));
    assert_eq!(late.observed_at, Timestamp::from_millis(1));
    assert_eq!(l.poll(t + ms(300)), None);
    assert!(!l.is_outstanding(t + ms(300)));
}

#[test]
fn a_pending_message_becomes_late_or_lost() {
    for (arrives, fate, outcome) in [(true, Fate::Late, Outcome::Slow), (false, Fate::Lost, Outcome::Failed)] {
        let (mut l, t) = (ledger(), crate::clock::instant());
        accepted(&mut l, 1, t);
        let pending = l.booked(1, t + ms(100)).expect("it was sent");
        assert_eq!((pending.outcome, pending.delivery.fate), (Outcome::Slow, Fate::Pending));
        assert_eq!(l.poll(t + ms(150)), None, "more waiting is no news");
        assert_eq!(l.next_horizon(), Some(t + HORIZON));
        if arrives {
            l.came(1, &identity(1), Integrity::Equal, t + ms(180));
        }
        let later = l.poll(t + HORIZON).expect("a correction");
        assert_eq!((later.outcome, later.delivery.fate), (outcome, fate));
        assert_eq!(l.next_horizon(), None);
    }
}

#[test]
fn what_the_sender_said_stands() {
    let refusal = |kind| Some(Reason::new(Phase::Send, kind, "no acknowledgement within 5s"));
    let table = [
        (Accept::Rejected, None, Fate::Unsent, Kind::Rejected),
        (Accept::Unreachable, None, Fate::Unsent, Kind::Rejected),
        (Accept::Uncertain, None, Fate::Uncertain, Kind::Uncertain),
        (Accept::Uncertain, Some(ms(10)), Fate::Arrived, Kind::Rejected),
        (Accept::Uncertain, Some(ms(60)), Fate::Late, Kind::Rejected),
    ];
    for (accept, arrives, fate, kind) in table {
        let (mut l, t) = (ledger(), crate::clock::instant());
        l.sent(sending(1, t));
        l.answered(1, accept, t + ms(5), refusal(Kind::Rejected));
        if let Some(after) = arrives {
            l.came(1, &identity(1), Integrity::Equal, t + after);
        }
        let verdict = l.booked(1, t + HORIZON).expect("it was sent");
        let reason = verdict.reason.expect("a failure has a reason");
        assert_eq!((verdict.outcome, verdict.delivery.fate, reason.kind), (Outcome::Failed, fate, kind));
        assert_eq!(verdict.delivery.accept_ms, None);
    }
}

#[test]
fn a_broken_receiver_proves_no_loss() {
    let (mut l, t) = (ledger(), crate::clock::instant());
    accepted(&mut l, 1, t);
    l.blind(t + ms(8), &Reason::new(Phase::Deliver, Kind::Closed, "receiving side: closed"));
    let verdict = l.booked(1, t + ms(10)).expect("it was sent");
    assert_eq!((verdict.outcome, verdict.delivery.fate), (Outcome::Failed, Fate::Pending));
    assert_eq!(verdict.reason.expect("a failure has a reason").kind, Kind::Closed);
    assert_eq!(l.poll(t + HORIZON * 2), None);
    assert_eq!(l.next_horizon(), None);
    l.came(2, &identity(1), Integrity::Equal, t + ms(500));
    assert_eq!(l.poll(t + ms(500)).expect("a later session saw it").delivery.fate, Fate::Late);
}

#[test]
fn a_changed_message_fails_however_late() {
    let (mut l, t) = (ledger(), crate::clock::instant());
    accepted(&mut l, 1, t);
    l.came(1, &identity(1), Integrity::Transcoded, t + ms(3));
    let verdict = l.booked(1, t + ms(3)).expect("it was sent");
    let reason = verdict.reason.expect("a failure has a reason");
    assert_eq!((verdict.outcome, reason.kind), (Outcome::Failed, Kind::Corrupt));
    assert_eq!(reason.text, "arrived transcoded after 3.0ms");
    assert_eq!(verdict.delivery.integrity, Some(Integrity::Transcoded));
}

#[test]
fn memory_is_bounded_and_the_forgotten_is_foreign() {
    let (mut l, t) = (ledger(), crate::clock::instant());
    for sequence in 0..=ENTRIES_MAX as u64 {
        accepted(&mut l, sequence, t);
    }
    assert_eq!(l.entries, ENTRIES_MAX);
    assert_eq!(l.came(1, &identity(0), Integrity::Equal, t), Sighting::Unknown);
    let forged = Identity { nonce: 1, ..identity(5) };
    assert_eq!(l.came(1, &forged, Integrity::Equal, t), Sighting::Unknown);
    assert_eq!(l.booked(5, t).expect("remembered").delivery.foreign, 2);
    assert_eq!(l.booked(6, t).expect("remembered").delivery.foreign, 0);
    l.poll(t + FORGET_AFTER);
    assert!(l.batches.is_empty());
}

#[test]
fn times_are_shown_for_people() {
    let table = [(1_234, "1.2ms"), (812_900, "812ms"), (99_900, "99.9ms"), (2_500_000, "2.5s"), (90_400_000, "1m30s")];
    for (us, text) in table {
        assert_eq!(shown(Duration::from_micros(us)), text);
    }
}

// -----------------------------------------------------------------------------------------------------------
// Against a reference model: the whole history is kept and every answer is worked out from it anew.

#[derive(Clone, Debug)]
enum Event {
    Send,
    Arrive { sequence: u64, session: u64 },
    Stranger,
    Book { sequence: u64 },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => Just(Event::Send),
        4 => (0_u64..8, 0_u64..3).prop_map(|(sequence, session)| Event::Arrive { sequence, session }),
        1 => Just(Event::Stranger),
        3 => (0_u64..8).prop_map(|sequence| Event::Book { sequence }),
    ]
}

/// What the history says of one message at its end.
fn model(history: &[(Duration, Event)], sequence: u64, now: Duration) -> (Fate, Option<Duration>, u32, bool) {
    let sent_at = |wanted: u64| {
        let mut sends = history.iter().filter(|(_, e)| matches!(e, Event::Send));
        sends.nth(wanted as usize).map(|(at, _)| *at)
    };
    let sent = sent_at(sequence).expect("asked of sent messages only");
    let arrivals: Vec<(usize, Duration, u64, u64)> = history
        .iter()
        .enumerate()
        .filter_map(|(i, (at, e))| match e {
            Event::Arrive { sequence, session } => {
                let sends_before = history[..i].iter().filter(|(_, e)| matches!(e, Event::Send)).count();
                ((*sequence as usize) < sends_before).then_some((i, *at, *sequence, *session))
            }
            _ => None,
        })
        .collect();
    let own: Vec<_> = arrivals.iter().filter(|a| a.2 == sequence).collect();
    let sessions: std::collections::HashSet<u64> = own.iter().map(|a| a.3).collect();
    let duplicates = (own.len() - sessions.len()) as u32;
    let Some(first) = own.first() else {
        return (if now - sent >= HORIZON { Fate::Lost } else { Fate::Pending }, None, 0, false);
    };
    let latency = first.1 - sent;
    let reordered = arrivals.iter().any(|a| a.0 < first.0 && a.2 > sequence);
    (if latency <= OBJECTIVE { Fate::Arrived } else { Fate::Late }, Some(latency), duplicates, reordered)
}

proptest! {
    #[test]
    fn the_ledger_agrees_with_the_model(steps in proptest::collection::vec((0_u64..60, event()), 0..60)) {
        let (mut l, t) = (ledger(), crate::clock::instant());
        let mut now = Duration::ZERO;
        let mut sends = 0;
        let mut foreign = 0;
        let mut history = Vec::new();
        // The latest word on each booked message, as a store would hold it.
        let mut books = std::collections::BTreeMap::new();
        for (pause, event) in steps {
            now += ms(pause);
            history.push((now, event.clone()));
            match event {
                Event::Send => {
                    accepted(&mut l, sends, t + now);
                    sends += 1;
                }
                Event::Arrive { sequence, session } => {
                    let sighting = l.came(session, &identity(sequence), Integrity::Equal, t + now);
                    prop_assert_eq!(sighting == Sighting::Unknown, sequence >= sends);
                    foreign += u32::from(sequence >= sends);
                }
                Event::Stranger => {
                    l.foreign();
                    foreign += 1;
                }
                Event::Book { sequence } => {
                    let verdict = l.booked(sequence, t + now);
                    prop_assert_eq!(verdict.is_some(), sequence < sends);
                    if let Some(verdict) = verdict {
                        prop_assert_eq!(verdict.delivery.foreign, foreign);
                        books.insert(sequence, (verdict.outcome, verdict.delivery));
                    }
                    foreign = 0;
                }
            }
            while let Some(c) = l.poll(t + now) {
                let before = books.insert(c.delivery.sequence, (c.outcome, c.delivery.clone()));
                prop_assert!(before.is_some_and(|b| b != (c.outcome, c.delivery)), "news about the booked only");
            }
            for (sequence, (outcome, delivery)) in &books {
                let (fate, latency, duplicates, reordered) = model(&history, *sequence, now);
                prop_assert_eq!(delivery.fate, fate);
                prop_assert_eq!(delivery.latency_ms, latency);
                prop_assert_eq!(delivery.duplicates, duplicates);
                prop_assert_eq!(delivery.reordered, u32::from(reordered));
                let expected = match fate {
                    Fate::Arrived => Outcome::Ok,
                    Fate::Late | Fate::Pending => Outcome::Slow,
                    Fate::Lost | Fate::Unsent | Fate::Uncertain => Outcome::Failed,
                };
                prop_assert_eq!(*outcome, expected);
            }
            let outstanding = books.values().any(|(_, d)| matches!(d.fate, Fate::Pending | Fate::Lost));
            prop_assert_eq!(l.is_outstanding(t + now), outstanding);
        }
    }
}
