//! Commits that wait: what is shown when, what is dropped, what stays in order.

mod handed;

use super::*;
use crate::{
    alert::{Alert, MessageKind, MessageState},
    decide::StateRow,
    incident::{Edge, Entry, Severity, TimelineEntry, Vantage},
    observation::{Accept, Delivery, Fate, Observation, Outcome},
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_millis(1_795_000_000_000 + second * 1_000)
}

fn check(n: usize) -> CheckName {
    format!("mail/c{n}").parse().expect("a good name")
}

fn seen(n: usize, second: i64) -> Commit {
    let observation = Observation::new(at(second), Outcome::Ok, Duration::from_millis(1));
    Commit { observation: Some((check(n), observation)), ..Commit::default() }
}

fn state(n: usize, second: i64) -> Commit {
    let row = StateRow { check: check(n), state: "down", since: at(second), memory: serde_json::Value::Null };
    Commit { state: Some(row), ..seen(n, second) }
}

fn told(id: u64, state: MessageState) -> Commit {
    let name: crate::value::Name = "ops".parse().expect("a good name");
    let message = Message {
        id: MessageId(id),
        key: format!("k{id}"),
        channel: name.clone(),
        thread: "t".into(),
        position: 0,
        alert: Alert {
            kind: MessageKind::Problem,
            incident: None,
            vantage: name.clone(),
            service: name,
            title: String::new(),
            labels: Default::default(),
            severity: Severity::Down,
            cause: String::new(),
            started: Edge { after: None, by: at(0) },
            ended: None,
            unwatched: false,
            duration_ms: 0,
            checks: vec![],
            acknowledged_by: None,
            next: None,
            instead_of: None,
            others: Default::default(),
            at: at(0),
        },
        created_at: at(0),
        state,
        attempts: 0,
        next_at: at(0),
        last_error: None,
        settled_at: None,
        handed_over: false,
    };
    Commit { messages: vec![message], ..Commit::default() }
}

fn line(second: i64) -> Commit {
    let entry = TimelineEntry { incident: IncidentId(1), at: at(second), entry: Entry::Note, text: "x".into() };
    Commit { timeline: vec![entry], ..Commit::default() }
}

fn ids(messages: &[Message]) -> Vec<(u64, MessageState)> {
    messages.iter().map(|m| (m.id.0, m.state)).collect()
}

/// The store writes the oldest, at most so many.
fn write(b: &mut Backlog, most: usize, now: Instant) -> Vec<Message> {
    b.hand_over(most).expect("something waits");
    b.written(now)
}

const S: Duration = Duration::from_secs(1);

#[test]
fn a_message_is_shown_once_with_its_row_or_before_it() {
    use MessageState::{Delivered, Pending, Superseded};
    let start = crate::clock::instant();
    let mut b = Backlog::default();
    // The store writes: shown when written.
    assert_eq!(ids(&b.hold(vec![told(1, Pending)])), []);
    assert!(b.is_due(start) && b.untold().is_empty());
    assert_eq!(ids(&write(&mut b, 1, start)), [(1, Pending)]);
    assert_eq!(b.recovered(), None);
    // It does not: nothing new is shown at first, then everything that was not.
    assert_eq!(ids(&b.hold(vec![told(2, Pending)])), []);
    assert!(b.failed(at(0), start, "full".into()) && !b.failed(at(1), start + S, "full".into()));
    assert!(b.failed(at(2), start + S, "locked".into()), "another failure is news");
    // What came of the first, which its channel has, is shown at once: it must not be sent again meanwhile.
    assert_eq!(ids(&b.hold(vec![told(1, Delivered)])), [(1, Delivered)]);
    assert!(!b.begins_to_tell(start + TELL_AFTER - S) && b.untold().is_empty());
    assert!(b.begins_to_tell(start + TELL_AFTER) && !b.begins_to_tell(start + TELL_AFTER), "said once");
    assert_eq!(ids(&b.untold()), [(2, Pending)]);
    assert_eq!(ids(&b.hold(vec![told(2, Delivered), told(3, Pending)])), [(2, Delivered)]);
    assert_eq!(ids(&b.untold()), [(3, Pending)]);
    assert_eq!(ids(&b.untold()), []);
    b.hold(vec![told(4, Pending), told(5, Pending)]);
    // Settled before anybody saw it: shown as it is now, or not at all.
    assert_eq!(ids(&b.hold(vec![told(5, Superseded)])), []);
    // Written at last, in parts: only what was never shown is shown now, so what was delivered is not sent again.
    assert_eq!(ids(&write(&mut b, 4, start + 9 * S)), []);
    assert_eq!(ids(&write(&mut b, 3, start + 9 * S)), [(4, Pending), (5, Superseded)]);
    assert_eq!(b.recovered(), Some(Recovered { since: at(0), dropped: 0, told: true }));
    assert_eq!(b.recovered(), None);
}

#[test]
fn tries_are_spaced_out_and_never_further_than_the_longest_pause() {
    let mut now = crate::clock::instant();
    let mut b = Backlog::default();
    assert!(!b.is_due(now), "nothing waits");
    b.hold(vec![seen(1, 0), Commit::default()]);
    assert_eq!(b.len(), 1, "what says nothing does not wait");
    assert!(b.concerns(&check(1)) && !b.concerns(&check(2)));
    let mut pauses = Vec::new();
    for _ in 0..8 {
        b.failed(at(0), now, "full".into());
        let pause = (0..).map(|s| s * S).find(|s| b.is_due(now + *s)).expect("it is tried again");
        pauses.push(pause.as_secs());
        now += pause;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 10, 10, 10, 10]);
}

#[test]
fn a_nearly_full_disk_is_written_to_seldom_unless_it_matters() {
    let now = crate::clock::instant();
    let mut b = Backlog::default();
    b.hold(vec![seen(1, 0)]);
    write(&mut b, 1, now);
    b.spare_space(true);
    b.hold(vec![seen(1, 1)]);
    assert!(!b.is_due(now + 59 * S) && b.is_due(now + 60 * S));
    b.hold(vec![state(1, 2)]);
    assert!(b.is_due(now + S), "a change of state takes what waits with it");
    b.spare_space(false);
    write(&mut b, 2, now);
    b.hold(vec![seen(1, 3)]);
    assert!(b.is_due(now + S));
}

#[test]
fn what_waits_is_bounded_and_loses_what_changes_nothing_first() {
    let mut b = Backlog::default();
    for n in 0..100_i64 {
        b.hold(vec![if n % 10 == 0 { state(1, n) } else { seen(1, n) }]);
        b.thin(40);
        assert!(b.len() <= 40, "{} wait after {n}", b.len());
    }
    let states = b.commits.iter().filter(|c| c.state.is_some()).count();
    let last = b.commits.last().and_then(|c| c.observation.as_ref()).map(|(_, o)| o.at);
    assert_eq!((states, last), (10, Some(at(99))), "no change of state is lost, and the newest is there");
    let kept = b.commits.iter().filter(|c| c.observation.is_some()).count();
    assert_eq!(kept as u64 + b.dropped(), 100, "every observation is kept or counted");
    let times: Vec<_> = b.commits.iter().filter_map(|c| Some(c.observation.as_ref()?.1.at)).collect();
    assert!(times.is_sorted(), "{times:?}");
}

#[test]
fn when_everything_matters_the_latest_of_each_stays() {
    use MessageState::{Delivered, Pending};
    let start = crate::clock::instant();
    let mut b = Backlog::default();
    b.hold(vec![told(1, Pending)]);
    b.failed(at(0), start, "full".into());
    b.begins_to_tell(start + TELL_AFTER);
    assert_eq!(ids(&b.untold()), [(1, Pending)]);
    assert_eq!(ids(&b.hold(vec![told(1, Delivered)])), [(1, Delivered)]);
    for n in 0..500 {
        let vantage = Vantage { returned_at: Some(at(n)), ..Vantage::default() };
        let sighted = Commit { vantage: (n % 7 == 0).then_some(vantage), ..Commit::default() };
        b.hold(vec![state(usize::try_from(n % 3).expect("small"), n), line(n), sighted]);
        b.thin(60);
    }
    // Lines of timelines are all different: they stay, up to their own bound.
    let lines = b.commits.iter().flat_map(|c| &c.timeline).count();
    assert_eq!(lines, 500);
    let latest = b.commits.iter().rev().find_map(|c| c.vantage.as_ref()).and_then(|v| v.returned_at);
    assert_eq!(latest, Some(at(497)), "how the vantage stands is there");
    let messages: Vec<_> = b.commits.iter().flat_map(|c| &c.messages).cloned().collect();
    assert_eq!(ids(&messages), [(1, Delivered)], "the latest of a message stays");
    let states: Vec<_> = b.commits.iter().filter_map(|c| c.state.as_ref()).collect();
    for n in 0..3 {
        let latest = states.iter().rfind(|s| s.check == check(n)).expect("each check has its latest state");
        assert!(latest.since >= at(497));
    }
    assert_eq!(ids(&b.untold()), [], "nothing that was shown is shown again");
    b.hold(vec![told(2, Pending)]);
    assert_eq!(ids(&b.untold()), [(2, Pending)]);
    let all = b.len();
    assert_eq!(ids(&write(&mut b, all, start)), []);
}

#[test]
fn what_contradicts_the_store_loses_its_observation_and_nothing_else() {
    let mut b = Backlog::default();
    b.hold(vec![state(1, 0), seen(1, 1), told(1, MessageState::Pending)]);
    assert!(b.strip_first(), "a change of state with its observation");
    assert!(b.commits[0].state.is_some() && b.commits[0].observation.is_none() && b.len() == 3);
    assert!(!b.strip_first(), "what is left of it must be written");
    write(&mut b, 1, crate::clock::instant());
    assert!(b.strip_first() && b.len() == 1, "nothing was left");
    assert!(!b.strip_first() && b.len() == 1, "an alert is never dropped");
    assert_eq!(b.dropped(), 2);
}

#[test]
fn timelines_have_a_bound_of_their_own() {
    let mut b = Backlog::default();
    for n in 0..30_000 {
        b.hold(vec![line(n)]);
    }
    assert!(b.len() <= HELD_MAX, "{}", b.len());
    assert_eq!(b.commits.last().map(|c| c.timeline[0].at), Some(at(29_999)));
}

#[test]
fn only_what_nobody_waits_for_is_gathered() {
    let failed = |outcome| {
        let mut commit = seen(1, 1);
        commit.observation.as_mut().expect("an observation").1.outcome = outcome;
        commit
    };
    let mut delivered = seen(1, 1);
    delivered.observation.as_mut().expect("an observation").1.delivery =
        Some(Delivery::new(Fate::Arrived, Accept::Accepted, 1));
    let sending = Commit { sending: Some((check(1), Vec::new())), ..Commit::default() };
    let hurried =
        [failed(Outcome::Slow), failed(Outcome::Failed), failed(Outcome::Unknown), delivered, sending, state(1, 1)];
    let now = Instant::now();
    for commit in hurried {
        let mut backlog = Backlog::default();
        backlog.hold(vec![seen(2, 0)]);
        write(&mut backlog, 1, now);
        backlog.hold(vec![seen(2, 1)]);
        assert!(!backlog.is_due(now), "a plain attempt waits");
        backlog.hold(vec![commit]);
        assert!(backlog.is_due(now), "and goes with what does not");
    }
    let mut backlog = Backlog::default();
    backlog.hold(vec![seen(1, 0)]);
    assert!(backlog.is_due(now), "after a rest it is written at once");
    write(&mut backlog, 1, now);
    backlog.hold(vec![seen(1, 1)]);
    assert!(!backlog.is_due(now + GATHER_EVERY / 2) && backlog.is_due(now + GATHER_EVERY));
    backlog.hold(vec![seen(1, 2); GATHER_MAX]);
    assert!(backlog.is_due(now), "or when it is enough");
}
