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
fn a_horizon_that_passed_unnoticed_is_told_whatever_the_sessions_do_before() {
    let closed = Reason::new(Phase::Deliver, Kind::Closed, "receiving side: closed");
    for (breaks, is_opened_anew) in [(true, false), (false, true), (true, true)] {
        let (mut l, t) = (ledger(), crate::clock::instant());
        accepted(&mut l, 1, t);
        l.booked(1, t + ms(100)).expect("it was sent");
        if breaks {
            l.blind(t + HORIZON + ms(1), &closed);
        }
        if is_opened_anew {
            l.look_again(t + HORIZON + ms(1));
        }
        let later = l.poll(t + HORIZON + ms(2)).expect("a correction");
        assert_eq!((later.outcome, later.delivery.fate), (Outcome::Failed, Fate::Lost));
    }
}

#[test]
fn what_arrives_after_all_is_told_by_how_many_came() {
    let correction = |fates: crate::observation::Fates, latency| {
        let delivery = Delivery { fates, latency_ms: latency, ..Delivery::new(fates.worst(), Accept::Accepted, 1) };
        let (observed_at, outcome) = (Timestamp::from_millis(1_795_359_003_000), Outcome::Slow);
        Correction { observed_at, account: None, outcome, delivery, reason: None, details: Map::new() }
    };
    let fates = |late, lost| crate::observation::Fates { late, lost, ..Default::default() };
    let table = [
        (
            Some(1),
            correction(fates(1, 0), Some(ms(4_200))),
            Some("the message of 2026-11-22 14:50:03Z arrived after all, after 4.2s: late, not lost"),
        ),
        (
            Some(20),
            correction(fates(17, 3), None),
            Some("17 of the 20 messages of 2026-11-22 14:50:03Z arrived after all: late, not lost"),
        ),
        // A further copy, a loss that is booked, and what nobody remembers.
        (Some(0), correction(fates(1, 0), Some(ms(1))), None),
        (Some(0), correction(fates(0, 1), None), None),
        (None, correction(fates(1, 0), None), None),
    ];
    for (missed, correction, expected) in table {
        assert_eq!(arrived_after_all(missed, &correction).as_deref(), expected, "{missed:?}");
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
                    // It is late once the objective has passed, which alone is no news.
                    Fate::Pending if *outcome == Outcome::Ok => Outcome::Ok,
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

// ---------------------------------------------------------------------------------------------------------------
// Bursts, copies, bounces, restarts

fn burst(ledger: &mut Ledger, first: u64, count: u64, at: Instant) {
    for sequence in first..first + count {
        ledger.sent(Sending { identity: identity(sequence), observed_at: start(first), at });
        ledger.answered(sequence, Accept::Accepted, at + ms(1), None);
    }
}

#[test]
fn a_burst_is_judged_as_one_and_counted_message_by_message() {
    // Arrived after so many ms, of six messages; then what is told at the horizon.
    type Row = ([Option<u64>; 6], Outcome, Fate, Option<&'static str>);
    let table: [Row; 5] = [
        ([Some(3); 6], Outcome::Ok, Fate::Arrived, None),
        (
            [Some(3), Some(3), Some(90), Some(3), Some(3), Some(3)],
            Outcome::Slow,
            Fate::Late,
            Some("1 of 6 messages: arrived after 90.0ms, objective 50ms"),
        ),
        (
            [Some(3), None, Some(3), Some(3), None, Some(3)],
            Outcome::Slow,
            Fate::Lost,
            Some("2 of 6 messages: accepted by mqtt://b:1883 in 1.0ms, not arrived within 200ms"),
        ),
        (
            [None, None, Some(3), Some(90), None, Some(3)],
            Outcome::Failed,
            Fate::Lost,
            Some("3 of 6 messages: accepted by mqtt://b:1883 in 1.0ms, not arrived within 200ms"),
        ),
        // Tail loss: the last of the series is seen to be missing as well.
        (
            [Some(3), Some(3), Some(3), Some(3), Some(3), None],
            Outcome::Slow,
            Fate::Lost,
            Some("1 of 6 messages: accepted by mqtt://b:1883 in 1.0ms, not arrived within 200ms"),
        ),
    ];
    for (arrivals, outcome, fate, text) in table {
        let (mut l, t) = (ledger(), crate::clock::instant());
        burst(&mut l, 10, 6, t);
        for (n, after) in (10..).zip(arrivals) {
            if let Some(after) = after {
                l.came(1, &identity(n), Integrity::Equal, t + ms(after));
            }
        }
        let verdict = l.booked(10, t + HORIZON).expect("they were sent");
        let d = &verdict.delivery;
        assert_eq!((verdict.outcome, d.fate, d.sequence), (outcome, fate, 10));
        assert_eq!(verdict.reason.as_ref().map(|r| r.text.as_str()), text);
        let count = |of: &dyn Fn(&Option<u64>) -> bool| arrivals.iter().filter(|a| of(a)).count() as u32;
        assert_eq!(d.fates.lost, count(&|a| a.is_none()));
        assert_eq!(d.fates.late, count(&|a| a.is_some_and(|a| a > 50)));
        assert_eq!(d.fates.messages(), 6);
        assert_eq!(!d.open.is_empty(), d.fates.lost > 0, "what is lost may still come");
    }
}

#[test]
fn a_burst_is_pending_until_its_last_horizon() {
    let (mut l, t) = (ledger(), crate::clock::instant());
    for (n, sent) in [(1, t), (2, t + ms(100))] {
        l.sent(Sending { identity: identity(n), observed_at: start(1), at: sent });
        l.answered(n, Accept::Accepted, sent, None);
    }
    let pending = l.booked(1, t + ms(110)).expect("they were sent");
    assert_eq!((pending.delivery.fate, pending.delivery.fates.pending), (Fate::Pending, 2));
    assert_eq!(l.next_horizon(), Some(t + HORIZON));
    let one = l.poll(t + HORIZON).expect("a correction");
    assert_eq!((one.delivery.fate, one.delivery.fates.pending, one.delivery.fates.lost), (Fate::Pending, 1, 1));
    assert_eq!(l.next_horizon(), Some(t + HORIZON + ms(100)));
    assert_eq!(l.poll(t + HORIZON + ms(50)), None);
    let both = l.poll(t + HORIZON + ms(100)).expect("a correction");
    assert_eq!((both.outcome, both.delivery.fate, both.delivery.fates.lost), (Outcome::Failed, Fate::Lost, 2));
    assert_eq!(l.next_horizon(), None);
}

#[test]
fn copies_that_stay_on_the_server_are_told_apart() {
    let (mut l, t) = (ledger(), crate::clock::instant());
    accepted(&mut l, 1, t);
    let mut see = |session, copy| l.arrived(&identity(1), arriving(session, Some(copy), t + ms(5)));
    assert_eq!(see(1, 77), Sighting::First);
    assert_eq!(see(2, 77), Sighting::SeenElsewhere, "the same copy, seen by the next session");
    assert_eq!(see(2, 78), Sighting::Duplicate, "another copy in the mailbox");
    assert_eq!(see(1, 78), Sighting::SeenElsewhere);
    assert_eq!(l.booked(1, t + ms(6)).expect("it was sent").delivery.duplicates, 1);
    // Also after completion.
    assert_eq!(l.arrived(&identity(1), arriving(3, Some(79), t + ms(50))), Sighting::Duplicate);
    assert_eq!(l.poll(t + ms(50)).expect("a correction").delivery.duplicates, 2);
}

#[test]
fn a_message_is_told_when_its_fate_is_and_not_while_that_is_only_known() {
    let (mut ledger, at) = (ledger(), Instant::now());
    accepted(&mut ledger, 1, at);
    ledger.came(1, &identity(1), Integrity::Equal, at + ms(5));
    assert!(!ledger.is_told(1), "it is not booked");
    ledger.booked(1, at + ms(6));
    assert!(ledger.is_told(1));
    // A further copy changes no fate.
    assert_eq!(ledger.came(1, &identity(1), Integrity::Equal, at + ms(7)), Sighting::Duplicate);
    assert!(ledger.is_told(1));
    accepted(&mut ledger, 2, at);
    ledger.booked(2, at + ms(2));
    assert!(ledger.is_told(2), "told as pending");
    ledger.came(1, &identity(2), Integrity::Equal, at + ms(9));
    assert!(!ledger.is_told(2), "its arrival is known and was told to nobody");
    assert_eq!(std::iter::from_fn(|| ledger.poll(at + ms(10))).count(), 2);
    assert!(ledger.is_told(2));
    assert!(ledger.is_told(99), "nobody remembers it");
}

#[test]
fn a_bounce_settles_a_message_at_once() {
    let (mut l, t) = (ledger(), crate::clock::instant());
    accepted(&mut l, 1, t);
    assert_eq!(l.bounced(&identity(1), "5.2.2 mailbox full"), Sighting::First);
    assert_eq!(l.bounced(&identity(1), "5.2.2 mailbox full"), Sighting::SeenElsewhere);
    assert_eq!(l.bounced(&identity(2), "5.2.2 mailbox full"), Sighting::Unknown);
    assert!(l.is_settled(start(1)));
    let verdict = l.booked(1, t + ms(10)).expect("it was sent");
    let reason = verdict.reason.expect("a failure has a reason");
    assert_eq!((verdict.outcome, verdict.delivery.fate, reason.kind), (Outcome::Failed, Fate::Lost, Kind::Lost));
    let text = "accepted by mqtt://b:1883 in 1.2ms, then returned as undeliverable: 5.2.2 mailbox full";
    assert_eq!(reason.text, text);
    assert!(verdict.delivery.open.is_empty());
}

#[test]
fn what_reaches_its_reader_in_the_wrong_place_or_shape_is_told() {
    type Row = (Integrity, Option<&'static str>, Option<&'static str>, Outcome, Kind, &'static str);
    let table: [Row; 3] = [
        (
            Integrity::Transcoded,
            Some("header Subject"),
            None,
            Outcome::Failed,
            Kind::Corrupt,
            "arrived transcoded (header Subject) after 3.0ms",
        ),
        (
            Integrity::Equal,
            None,
            Some("in the spam folder Junk"),
            Outcome::Slow,
            Kind::Misplaced,
            "arrived in the spam folder Junk after 3.0ms",
        ),
        (
            Integrity::Corrupt,
            None,
            Some("in the spam folder Junk"),
            Outcome::Failed,
            Kind::Corrupt,
            "arrived corrupt after 3.0ms",
        ),
    ];
    for (integrity, part, flaw, outcome, kind, text) in table {
        let (mut l, t) = (ledger(), crate::clock::instant());
        accepted(&mut l, 1, t);
        let arriving = Arriving { integrity, part, flaw: flaw.map(Into::into), ..arriving(1, Some(1), t + ms(3)) };
        l.arrived(&identity(1), arriving);
        let verdict = l.booked(1, t + ms(3)).expect("it was sent");
        let reason = verdict.reason.expect("it has a flaw");
        assert_eq!((verdict.outcome, reason.kind, reason.text.as_str()), (outcome, kind, text));
        assert_eq!(verdict.delivery.changed, u32::from(integrity != Integrity::Equal));
    }
}

#[test]
fn logins_and_deliveries_are_told_beside_each_other() {
    let refused = Reason::new(Phase::Login, Kind::Rejected, "receiving side: 535 5.7.8 no");
    let login = |ok: bool| Login { ok, ms: ms(3), reason: (!ok).then(|| refused.clone()) };
    let table = [
        (true, Some(true), Outcome::Ok, None),
        (true, None, Outcome::Ok, None),
        (
            true,
            Some(false),
            Outcome::Slow,
            Some((Phase::Login, "new logins fail while the kept sessions deliver: receiving side: 535 5.7.8 no")),
        ),
        (
            false,
            Some(true),
            Outcome::Failed,
            Some((Phase::Deliver, "accepted by mqtt://b:1883 in 1.2ms, not arrived within 200ms; new logins work")),
        ),
        (
            false,
            Some(false),
            Outcome::Failed,
            Some((Phase::Deliver, "accepted by mqtt://b:1883 in 1.2ms, not arrived within 200ms")),
        ),
    ];
    for (arrives, logs_in, outcome, reason) in table {
        let (mut l, t) = (ledger(), crate::clock::instant());
        accepted(&mut l, 1, t);
        if arrives {
            l.came(1, &identity(1), Integrity::Equal, t + ms(3));
        }
        l.sessions(start(1), logs_in.map(login), Vec::new());
        let verdict = l.booked(1, t + HORIZON).expect("it was sent");
        assert_eq!(verdict.outcome, outcome, "{arrives} {logs_in:?}");
        assert_eq!(verdict.reason.as_ref().map(|r| (r.phase, r.text.as_str())), reason);
        assert_eq!(verdict.delivery.login.map(|l| l.ok), logs_in);
    }
}

fn restarted() -> Reason {
    Reason::new(Phase::Deliver, Kind::Own, "the agent was restarted")
}

#[test]
fn what_was_in_flight_at_a_crash_is_told_and_gets_its_fate() {
    let flight = |sequence: u64, answer, booked| Flight {
        answer,
        booked,
        ..Flight::new(sequence, identity(sequence).nonce, Timestamp::EPOCH, start(sequence))
    };
    let flights = [flight(3, Some((Accept::Accepted, ms(2))), true), flight(4, None, false)];
    let wall = Timestamp::from_millis(10_000);
    // (comes after all, a mailbox is looked into again) and what is then told of message 4, a minute later.
    for (comes, looks, fate, outcome) in [
        (true, true, Fate::Late, Outcome::Slow),
        (false, true, Fate::Uncertain, Outcome::Failed),
        (false, false, Fate::Pending, Outcome::Unknown),
    ] {
        let (mut l, t) = (ledger(), crate::clock::instant() + Duration::from_secs(3_600));
        let untold = l.resume(&flights, wall, t, &restarted());
        let [(at, verdict)] = untold.as_slice() else { panic!("one was never told: {untold:?}") };
        assert_eq!((*at, verdict.outcome, verdict.delivery.fate), (start(4), Outcome::Unknown, Fate::Pending));
        assert_eq!(verdict.delivery.open, [Flight { booked: true, ..flights[1] }]);
        assert_eq!(l.poll(t), None, "nothing is known yet");
        if looks {
            l.look_again(t);
            assert_eq!(l.next_horizon(), Some(t + LOOK_AGAIN));
        }
        if comes {
            assert_eq!(l.arrived(&identity(4), arriving(1, Some(9), t + ms(1))), Sighting::First);
        }
        let mut told = Vec::new();
        while let Some(correction) = l.poll(t + LOOK_AGAIN) {
            told.push((correction.delivery.sequence, correction.delivery.fate, correction.outcome));
        }
        let of_4 = told.iter().rev().find(|(sequence, ..)| *sequence == 4);
        match fate {
            Fate::Pending => assert_eq!(of_4, None),
            _ => assert_eq!(of_4, Some(&(4, fate, outcome))),
        }
        let of_3 = told.iter().any(|(sequence, fate, _)| (*sequence, *fate) == (3, Fate::Lost));
        assert_eq!(of_3, looks, "{told:?}");
    }
}

proptest! {
    /// Whatever happens, and wherever the agent is cut off: what the store was told last of each message is what a
    /// straightforward account of all events says of it.
    #[test]
    fn bursts_and_restarts_agree_with_the_model(
        steps in proptest::collection::vec((0_u64..80, 0_u8..8, 0_u64..12, 0_u64..3), 1..60)
    ) {
        let t = crate::clock::instant() + Duration::from_secs(7_200);
        let (mut l, mut now) = (ledger(), Duration::ZERO);
        // Of each message: when it was sent, its first arrival, its copies, whether it bounced; the model.
        let mut sent: Vec<Duration> = Vec::new();
        let mut came: std::collections::BTreeMap<u64, (Duration, Vec<u64>)> = Default::default();
        let mut bounced = std::collections::BTreeSet::new();
        // What the store holds: the batches, and the flights.
        let mut store: std::collections::BTreeMap<u64, (Outcome, Delivery)> = Default::default();
        let mut kept: Vec<Flight> = Vec::new();
        let settle = |kept: &mut Vec<Flight>, observed_at: Timestamp, open: &[Flight]| {
            kept.retain(|f| f.observed_at != observed_at);
            kept.extend_from_slice(open);
        };
        for (pause, what, number, copy) in steps {
            now += ms(pause);
            match what {
                // A burst, told at once or (0) cut off by a crash.
                0..=2 => {
                    let (first, count) = (sent.len() as u64, number % 4 + 1);
                    for sequence in first..first + count {
                        sent.push(now);
                        let sent_at = Timestamp::EPOCH + now;
                        let identity = Identity { sent_at, ..identity(sequence) };
                        l.sent(Sending { identity, observed_at: start(first), at: t + now });
                    }
                    settle(&mut kept, start(first), &l.flights(start(first)));
                    for sequence in first..first + count {
                        l.answered(sequence, Accept::Accepted, t + now, None);
                    }
                    if what > 0 {
                        let (verdict, _) = l.book(start(first), t + now).expect("sent");
                        settle(&mut kept, start(first), &verdict.delivery.open);
                        store.insert(first, (verdict.outcome, verdict.delivery));
                    } else {
                        // The crash: all that was not stored is gone.
                        l = ledger();
                        came.values_mut().for_each(|(_, copies)| copies.clear());
                        let wall = Timestamp::EPOCH + now;
                        for (at, verdict) in l.resume(&kept, wall, t + now, &restarted()) {
                            settle(&mut kept, at, &verdict.delivery.open);
                            store.insert(at.as_millis() as u64, (verdict.outcome, verdict.delivery));
                        }
                        l.look_again(t + now);
                    }
                }
                3..=6 if number < sent.len() as u64 => {
                    let sent_at = Timestamp::EPOCH + sent[number as usize];
                    let identity = Identity { sent_at, ..identity(number) };
                    let sighting = l.arrived(&identity, arriving(1, Some(copy), t + now));
                    // After a restart, the first copy of a message that came before is taken for the one known.
                    let known = came.get(&number).map(|(_, copies)| copies.is_empty() || copies.contains(&copy));
                    match sighting {
                        Sighting::First => {
                            prop_assert!(known.is_none());
                            came.insert(number, (now, vec![copy]));
                        }
                        Sighting::Duplicate => {
                            prop_assert_eq!(known, Some(false));
                            came.get_mut(&number).expect("it came").1.push(copy);
                        }
                        Sighting::SeenElsewhere => {
                            prop_assert_eq!(known, Some(true));
                            let copies = &mut came.get_mut(&number).expect("it came").1;
                            if copies.is_empty() {
                                copies.push(copy);
                            }
                        }
                        // Only what was settled before a restart is forgotten.
                        Sighting::Unknown => prop_assert!(known.is_some() || bounced.contains(&number)),
                    }
                }
                7 if number < sent.len() as u64
                    && l.bounced(&identity(number), "5.2.2 full") == Sighting::First =>
                {
                    bounced.insert(number);
                }
                _ => {}
            }
            while let Some(c) = l.poll(t + now) {
                let first = c.observed_at.as_millis() as u64;
                settle(&mut kept, c.observed_at, &c.delivery.open);
                store.insert(first, (c.outcome, c.delivery));
            }
        }
        // Long after, everything has its fate.
        now += Duration::from_secs(10);
        while let Some(c) = l.poll(t + now) {
            store.insert(c.observed_at.as_millis() as u64, (c.outcome, c.delivery));
        }
        let firsts: Vec<u64> = store.keys().copied().collect();
        for (n, first) in firsts.iter().enumerate() {
            let end = firsts.get(n + 1).copied().unwrap_or(sent.len() as u64);
            let mut fates = crate::observation::Fates::default();
            for sequence in *first..end {
                let fate = match came.get(&sequence) {
                    Some((at, _)) if *at - sent[sequence as usize] <= OBJECTIVE => Fate::Arrived,
                    Some(_) => Fate::Late,
                    None if bounced.contains(&sequence) => Fate::Lost,
                    // Of a message whose acknowledgement a crash swallowed, acceptance is not known.
                    None => Fate::Lost,
                };
                *fates.count(fate) += 1;
            }
            let mut told = store[first].1.all_fates();
            (told.lost, told.uncertain) = (told.lost + told.uncertain, 0);
            prop_assert_eq!(told, fates, "batch {} of {:?}", first, store[first]);
        }
        prop_assert_eq!(store.values().map(|(_, d)| u64::from(d.all_fates().messages())).sum::<u64>(), sent.len() as u64);
    }
}
