//! The account of a check's messages: which arrived, when, how often, in which order, and which never did.
//!
//! It is fed with events and asked with a time; it sends nothing and waits for nothing. A message's verdict is
//! *booked* when its attempt ends. Whatever changes that verdict later (a late arrival, a horizon that passes, a
//! further copy) comes out of [`Ledger::poll`] as one [`Correction`].
//!
//! A copy counts as a duplicate only within one receiving session: a message that two sessions saw was delivered to
//! each of them once. An inversion of the sequence counts as reordering and as nothing else.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::Identity;
use crate::{
    observation::{Accept, Correction, Delivery, Fate, Integrity, Kind, Outcome, Phase, Reason},
    value::{TimeSpan, Timestamp},
};

/// Most messages remembered; the oldest is forgotten. At ten attempts a second this covers two minutes, at one a
/// minute a day.
pub const ENTRIES_MAX: usize = 1_440;

/// How long after its sending a lost message may still be corrected; nobody waits longer for one.
pub const FORGET_AFTER: Duration = Duration::from_secs(3_600);

/// Most receiving sessions remembered for one message, the oldest is forgotten: an attempt has two at once.
const SESSIONS_MAX: usize = 4;

/// What the check promises, and the words its reasons use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Arrived later than this counts as slow.
    pub objective: Duration,
    /// Absent until then counts as lost.
    pub horizon: Duration,
    /// What is sent to, for people.
    pub sender: String,
}

/// A message about to be sent.
#[derive(Clone, Debug)]
pub struct Sending {
    /// Which one.
    pub identity: Identity,
    /// The start of its attempt, by which corrections name it.
    pub observed_at: Timestamp,
    /// When its latency begins to count.
    pub at: Instant,
    /// Integrity samples that it does not carry.
    pub left_out: Vec<String>,
}

/// What an arrival was to the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// The first copy.
    First,
    /// A further copy in the same session.
    Duplicate,
    /// The first copy in this session, seen by another session before.
    SeenElsewhere,
    /// Nothing this ledger remembers having sent.
    Unknown,
}

/// A verdict on one message.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// What the attempt came to.
    pub outcome: Outcome,
    /// The facts.
    pub delivery: Delivery,
    /// Why it is not `ok`.
    pub reason: Option<Reason>,
}

struct Entry {
    sending: Sending,
    answer: Option<Answer>,
    latency: Option<Duration>,
    integrity: Option<Integrity>,
    /// Sessions that saw it.
    sessions: VecDeque<u64>,
    duplicates: u32,
    reordered: bool,
    /// Why it can no longer be seen arriving.
    blind: Option<Reason>,
    booked: Option<Verdict>,
}

struct Answer {
    accept: Accept,
    after: Duration,
    reason: Option<Reason>,
}

/// The account of one check.
pub struct Ledger {
    terms: Terms,
    /// In order of sending.
    entries: VecDeque<Entry>,
    /// The highest sequence that arrived.
    highest: Option<u64>,
    /// Messages of others since the last booking.
    foreign: u32,
}

impl Ledger {
    /// An empty account.
    pub fn new(terms: Terms) -> Self {
        Self { terms, entries: VecDeque::new(), highest: None, foreign: 0 }
    }

    /// A message is about to be sent.
    pub fn sent(&mut self, sending: Sending) {
        if self.entries.len() == ENTRIES_MAX {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry {
            sending,
            answer: None,
            latency: None,
            integrity: None,
            sessions: VecDeque::new(),
            duplicates: 0,
            reordered: false,
            blind: None,
            booked: None,
        });
    }

    /// The sending side answered, or failed to: `reason` says why it is not an acceptance.
    pub fn answered(&mut self, sequence: u64, accept: Accept, at: Instant, reason: Option<Reason>) {
        if let Some(entry) = self.entry(sequence) {
            let after = at.saturating_duration_since(entry.sending.at);
            entry.answer = Some(Answer { accept, after, reason });
        }
    }

    /// A tracer of this check came in through a receiving session.
    pub fn arrived(&mut self, session: u64, identity: &Identity, integrity: Integrity, at: Instant) -> Sighting {
        let highest = self.highest;
        let Some(entry) = self.entry(identity.sequence).filter(|e| e.sending.identity == *identity) else {
            self.foreign();
            return Sighting::Unknown;
        };
        if entry.sessions.contains(&session) {
            entry.duplicates = entry.duplicates.saturating_add(1);
            return Sighting::Duplicate;
        }
        if entry.sessions.len() == SESSIONS_MAX {
            entry.sessions.pop_front();
        }
        entry.sessions.push_back(session);
        if entry.latency.is_some() {
            return Sighting::SeenElsewhere;
        }
        entry.latency = Some(at.saturating_duration_since(entry.sending.at));
        entry.integrity = Some(integrity);
        entry.reordered = highest.is_some_and(|h| h > identity.sequence);
        self.highest = highest.max(Some(identity.sequence));
        Sighting::First
    }

    /// A message came in that does not count: a stranger's, a stored, an old or a forged one.
    pub fn foreign(&mut self) {
        self.foreign = self.foreign.saturating_add(1);
    }

    /// Whether this message has arrived.
    pub fn has_arrived(&self, sequence: u64) -> bool {
        self.entries.iter().rev().any(|e| e.sending.identity.sequence == sequence && e.latency.is_some())
    }

    /// Nobody listens any more, for this reason: from now on, the absence of what is pending proves nothing.
    pub fn blind(&mut self, now: Instant, reason: &Reason) {
        for entry in &mut self.entries {
            if entry.fate(&self.terms, now) == Fate::Pending && entry.blind.is_none() {
                entry.blind = Some(reason.clone());
            }
        }
    }

    /// The verdict on a message as its attempt ends. What changes it afterwards comes out of [`Ledger::poll`].
    pub fn book(&mut self, sequence: u64, now: Instant) -> Option<Verdict> {
        let foreign = std::mem::take(&mut self.foreign);
        let terms = self.terms.clone();
        let entry = self.entry(sequence)?;
        let mut verdict = entry.verdict(&terms, now);
        verdict.delivery.foreign = foreign;
        entry.booked = Some(verdict.clone());
        Some(verdict)
    }

    /// The next correction of a booked verdict as of `now`.
    pub fn poll(&mut self, now: Instant) -> Option<Correction> {
        while self.entries.front().is_some_and(|e| e.age(now) >= FORGET_AFTER.max(self.terms.horizon * 2)) {
            self.entries.pop_front();
        }
        for entry in &mut self.entries {
            let Some(booked) = &entry.booked else { continue };
            let mut verdict = entry.verdict(&self.terms, now);
            verdict.delivery.foreign = booked.delivery.foreign;
            // Nothing new is known of a message whose text alone (how long it is absent) has changed.
            if (verdict.outcome, &verdict.delivery) == (booked.outcome, &booked.delivery) {
                continue;
            }
            entry.booked = Some(verdict.clone());
            return Some(Correction {
                observed_at: entry.sending.observed_at,
                account: None,
                outcome: verdict.outcome,
                delivery: verdict.delivery,
                reason: verdict.reason,
            });
        }
        None
    }

    /// Whether a booked message may still meet another fate: pending, or lost not too long ago.
    pub fn is_outstanding(&self, now: Instant) -> bool {
        self.entries.iter().any(|e| {
            e.booked.is_some()
                && e.age(now) < FORGET_AFTER
                && matches!(e.fate(&self.terms, now), Fate::Pending | Fate::Lost | Fate::Uncertain)
        })
    }

    /// When the next horizon of a booked message passes.
    pub fn next_horizon(&self, now: Instant) -> Option<Instant> {
        let waiting = self.entries.iter().filter(|e| e.booked.is_some() && e.blind.is_none());
        let pending = waiting.filter(|e| e.fate(&self.terms, now) == Fate::Pending);
        pending.map(|e| e.sending.at + self.terms.horizon).min()
    }

    fn entry(&mut self, sequence: u64) -> Option<&mut Entry> {
        // The one asked for is nearly always the latest.
        self.entries.iter_mut().rev().find(|e| e.sending.identity.sequence == sequence)
    }
}

impl Entry {
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.sending.at)
    }

    fn accept(&self) -> Accept {
        self.answer.as_ref().map_or(Accept::Uncertain, |a| a.accept)
    }

    fn fate(&self, terms: &Terms, now: Instant) -> Fate {
        match (self.latency, self.accept()) {
            (Some(latency), _) if latency <= terms.objective => Fate::Arrived,
            (Some(_), _) => Fate::Late,
            (None, Accept::Rejected | Accept::Deferred | Accept::Unreachable) => Fate::Unsent,
            (None, _) if self.blind.is_some() || self.age(now) < terms.horizon => Fate::Pending,
            (None, Accept::Accepted) => Fate::Lost,
            (None, Accept::Uncertain) => Fate::Uncertain,
        }
    }

    fn verdict(&self, terms: &Terms, now: Instant) -> Verdict {
        let fate = self.fate(terms, now);
        let (outcome, reason) = self.judge(fate, terms, now);
        let delivery = Delivery {
            fate,
            accept: self.accept(),
            accept_ms: self.answer.as_ref().filter(|a| a.accept == Accept::Accepted).map(|a| a.after),
            latency_ms: self.latency,
            sequence: self.sending.identity.sequence,
            duplicates: self.duplicates,
            foreign: 0,
            reordered: self.reordered,
            integrity: self.integrity,
            left_out: self.sending.left_out.clone(),
        };
        Verdict { outcome, delivery, reason }
    }

    fn judge(&self, fate: Fate, terms: &Terms, now: Instant) -> (Outcome, Option<Reason>) {
        let failed = |phase, kind, text: String| {
            let outcome = if kind == Kind::Own { Outcome::Unknown } else { Outcome::Failed };
            (outcome, Some(Reason::new(phase, kind, text)))
        };
        let slow = |text: String| (Outcome::Slow, Some(Reason::new(Phase::Deliver, Kind::Slow, text)));
        let refusal = self.answer.as_ref().and_then(|a| a.reason.as_ref());
        let horizon = TimeSpan(terms.horizon);
        match fate {
            Fate::Arrived | Fate::Late => {
                let latency = shown(self.latency.unwrap_or_default());
                let integrity = self.integrity.unwrap_or(Integrity::Equal);
                if integrity != Integrity::Equal {
                    let text = format!("arrived {} after {latency}", integrity.as_str());
                    return failed(Phase::Deliver, Kind::Corrupt, text);
                }
                // Who sends sees an error, and sends again: that the message came through all the same is told.
                if let Some(refusal) = refusal {
                    let text = format!("{}, though the message arrived after {latency}", refusal.text);
                    return failed(refusal.phase, refusal.kind, text);
                }
                if fate == Fate::Arrived {
                    return (Outcome::Ok, None);
                }
                slow(format!("arrived after {latency}, objective {}", TimeSpan(terms.objective)))
            }
            Fate::Unsent => match refusal {
                Some(refusal) => failed(refusal.phase, refusal.kind, refusal.text.clone()),
                None => failed(Phase::Send, Kind::Rejected, "not accepted".into()),
            },
            Fate::Pending => {
                if let Some(known) = refusal.or(self.blind.as_ref()) {
                    return failed(known.phase, known.kind, known.text.clone());
                }
                slow(format!("{}, not arrived within {} so far", self.accepted(terms), shown(self.age(now))))
            }
            Fate::Lost => {
                failed(Phase::Deliver, Kind::Lost, format!("{}, not arrived within {horizon}", self.accepted(terms)))
            }
            Fate::Uncertain => {
                let why = refusal.map_or("not acknowledged", |r| r.text.as_str());
                failed(Phase::Send, Kind::Uncertain, format!("{why}, not arrived within {horizon}"))
            }
        }
    }

    fn accepted(&self, terms: &Terms) -> String {
        let after = self.answer.as_ref().map_or(Duration::ZERO, |a| a.after);
        format!("accepted by {} in {}", terms.sender, shown(after))
    }
}

/// A measured time for people: `1.2ms`, `812ms`, `2.5s`, `1m30s`.
pub fn shown(span: Duration) -> String {
    let tenths = span.as_micros() / 100;
    if tenths < 1_000 {
        return format!("{}.{}ms", tenths / 10, tenths % 10);
    }
    // Beyond ten seconds milliseconds say nothing.
    let ms = if span.as_secs() >= 10 { span.as_secs() * 1_000 } else { span.as_millis() as u64 };
    TimeSpan(Duration::from_millis(ms)).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::delivery::{CheckKey, Key};

    const OBJECTIVE: Duration = Duration::from_millis(50);
    const HORIZON: Duration = Duration::from_millis(200);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn ledger() -> Ledger {
        Ledger::new(Terms { objective: OBJECTIVE, horizon: HORIZON, sender: "mqtt://b:1883".into() })
    }

    fn identity(sequence: u64) -> Identity {
        let check = CheckKey::new(&Key::new(&[1; 32]), &"a/b".parse().expect("a name"));
        Identity { check, sequence, sent_at: Timestamp::EPOCH, nonce: sequence * 31 }
    }

    fn sending(sequence: u64, at: Instant) -> Sending {
        let observed_at = Timestamp::from_millis(i64::try_from(sequence).expect("small"));
        Sending { identity: identity(sequence), observed_at, at, left_out: vec![] }
    }

    fn accepted(ledger: &mut Ledger, sequence: u64, at: Instant) {
        ledger.sent(sending(sequence, at));
        ledger.answered(sequence, Accept::Accepted, at + Duration::from_micros(1_200), None);
    }

    #[test]
    fn a_lost_message_that_comes_late_is_corrected_once() {
        let (mut l, t) = (ledger(), crate::clock::instant());
        accepted(&mut l, 1, t);
        let lost = l.book(1, t + HORIZON).expect("it was sent");
        assert_eq!((lost.outcome, lost.delivery.fate), (Outcome::Failed, Fate::Lost));
        let reason = lost.reason.expect("a failure has a reason");
        assert_eq!((reason.phase, reason.kind), (Phase::Deliver, Kind::Lost));
        assert_eq!(reason.text, "accepted by mqtt://b:1883 in 1.2ms, not arrived within 200ms");
        assert_eq!(l.poll(t + HORIZON), None);
        assert!(l.is_outstanding(t + HORIZON));

        assert_eq!(l.arrived(1, &identity(1), Integrity::Equal, t + ms(300)), Sighting::First);
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
            let pending = l.book(1, t + ms(100)).expect("it was sent");
            assert_eq!((pending.outcome, pending.delivery.fate), (Outcome::Slow, Fate::Pending));
            assert_eq!(l.poll(t + ms(150)), None, "more waiting is no news");
            assert_eq!(l.next_horizon(t + ms(150)), Some(t + HORIZON));
            if arrives {
                l.arrived(1, &identity(1), Integrity::Equal, t + ms(180));
            }
            let later = l.poll(t + HORIZON).expect("a correction");
            assert_eq!((later.outcome, later.delivery.fate), (outcome, fate));
            assert_eq!(l.next_horizon(t + HORIZON), None);
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
                l.arrived(1, &identity(1), Integrity::Equal, t + after);
            }
            let verdict = l.book(1, t + HORIZON).expect("it was sent");
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
        let verdict = l.book(1, t + ms(10)).expect("it was sent");
        assert_eq!((verdict.outcome, verdict.delivery.fate), (Outcome::Failed, Fate::Pending));
        assert_eq!(verdict.reason.expect("a failure has a reason").kind, Kind::Closed);
        assert_eq!(l.poll(t + HORIZON * 2), None);
        assert_eq!(l.next_horizon(t), None);
        l.arrived(2, &identity(1), Integrity::Equal, t + ms(500));
        assert_eq!(l.poll(t + ms(500)).expect("a later session saw it").delivery.fate, Fate::Late);
    }

    #[test]
    fn a_changed_message_fails_however_late() {
        let (mut l, t) = (ledger(), crate::clock::instant());
        accepted(&mut l, 1, t);
        l.arrived(1, &identity(1), Integrity::Transcoded, t + ms(3));
        let verdict = l.book(1, t + ms(3)).expect("it was sent");
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
        assert_eq!(l.entries.len(), ENTRIES_MAX);
        assert_eq!(l.arrived(1, &identity(0), Integrity::Equal, t), Sighting::Unknown);
        let forged = Identity { nonce: 1, ..identity(5) };
        assert_eq!(l.arrived(1, &forged, Integrity::Equal, t), Sighting::Unknown);
        assert_eq!(l.book(5, t).expect("remembered").delivery.foreign, 2);
        assert_eq!(l.book(6, t).expect("remembered").delivery.foreign, 0);
        l.poll(t + FORGET_AFTER);
        assert!(l.entries.is_empty());
    }

    #[test]
    fn times_are_shown_for_people() {
        let table =
            [(1_234, "1.2ms"), (812_900, "812ms"), (99_900, "99.9ms"), (2_500_000, "2.5s"), (90_400_000, "1m30s")];
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
                        let sighting = l.arrived(session, &identity(sequence), Integrity::Equal, t + now);
                        prop_assert_eq!(sighting == Sighting::Unknown, sequence >= sends);
                        foreign += u32::from(sequence >= sends);
                    }
                    Event::Stranger => {
                        l.foreign();
                        foreign += 1;
                    }
                    Event::Book { sequence } => {
                        let verdict = l.book(sequence, t + now);
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
                    prop_assert_eq!(delivery.reordered, reordered);
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
}
