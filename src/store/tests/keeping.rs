//! What goes in comes out, whole or not at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::prelude::*;
use serde_json::json;

use super::{NOW, Place, at, check, generate, gone_on_from, observed, restore, try_restore, watched};
use crate::{
    alert::{Message, MessageId, MessageState},
    decide::{Commit, StateRow},
    incident::{Incident, IncidentId, TimelineEntry},
    observation::{
        Accept, AccountSeen, Correction, Delivery, Fate, Integrity, Kind, Observation, Outcome, Phase, PhaseTime,
        Reason,
    },
    store::{IncidentQuery, Renamed, StoreError, Writer},
    value::{CheckName, Name, Timestamp},
};

/// One generated value, for tests that need some.
fn one<T: std::fmt::Debug>(strategy: impl Strategy<Value = T>) -> T {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    strategy.new_tree(&mut TestRunner::deterministic()).expect("a value").current()
}

pub(super) fn message(id: u64, channel: &str, incident: Option<u64>, next_at: Timestamp) -> Message {
    let mut m = one(generate::message());
    m.id = MessageId(id);
    m.key = format!("bongsu-{id}");
    m.channel = channel.parse().expect("a good name");
    m.alert.incident = incident.map(IncidentId);
    (m.state, m.next_at, m.settled_at) = (MessageState::Pending, next_at, None);
    m
}

fn messages(all: Vec<Message>) -> Commit {
    Commit { messages: all, ..Commit::default() }
}

/// What is kept of an observation: everything, but of a plain `ok` one no measurements, and phases to 4 %.
fn assert_kept(stored: &Observation, given: &Observation) {
    let plain = given.outcome == Outcome::Ok && given.reason.is_none() && given.delivery.is_none();
    let mut expected = given.clone();
    if plain {
        expected.details.retain(|name, value| !(value.is_number() && name.ends_with("_ms")));
        let names = |o: &Observation| o.phases.iter().map(|p| (p.phase, p.side)).collect::<Vec<_>>();
        assert_eq!(names(stored), names(&expected));
        for (s, e) in stored.phases.iter().zip(&expected.phases) {
            let error = s.took.as_secs_f64() - e.took.as_secs_f64();
            assert!(error.abs() <= e.took.as_secs_f64() * 0.04 + 1e-6, "{s:?} for {e:?}");
        }
        expected.phases.clone_from(&stored.phases);
    }
    assert_eq!(*stored, expected);
}

/// What generated commits do not care about: which incident an alert is of, and what a detector's memory looks like.
pub const GENERATED: [&str; 2] = ["an alert belongs to an incident", "what checks go on from can be read"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_field_comes_back_after_a_restart(groups in prop::collection::vec(prop::collection::vec(generate::commit(), 1..6), 1..5)) {
        let place = Place::new();
        let mut observations: BTreeMap<(CheckName, Timestamp), Vec<Observation>> = BTreeMap::new();
        let mut states: BTreeMap<CheckName, StateRow> = BTreeMap::new();
        let mut incidents: BTreeMap<IncidentId, Incident> = BTreeMap::new();
        let mut timeline: BTreeMap<IncidentId, Vec<TimelineEntry>> = BTreeMap::new();
        let mut outbox: BTreeMap<MessageId, Message> = BTreeMap::new();
        let mut vantage = crate::incident::Vantage::default();
        for group in &groups {
            place.writer().commit(group).expect("a commit");
            for c in group {
                if let Some((check, o)) = &c.observation {
                    observations.entry((check.clone(), o.at)).or_default().push(o.clone());
                }
                if let Some(row) = &c.state {
                    states.insert(row.check.clone(), row.clone());
                }
                incidents.extend(c.incidents.iter().map(|i| (i.id, i.clone())));
                vantage = c.vantage.clone().unwrap_or(vantage);
                outbox.extend(c.messages.iter().map(|m| (m.id, m.clone())));
                for entry in &c.timeline {
                    timeline.entry(entry.incident).or_default().push(entry.clone());
                }
            }
        }
        let names = ["mail/submission", "mail/round-trip", "채팅/왕복", "sms-1/gateway"];
        let restored = restore(&mut place.writer(), NOW, &names);
        for (name, row) in &states {
            let back = &restored.states[name];
            prop_assert_eq!((back.state.as_str(), back.since, &back.memory), (row.state, row.since, &row.memory));
        }
        prop_assert_eq!(restored.states.len(), states.len());
        let pending: Vec<_> = outbox.values().filter(|m| m.state == MessageState::Pending).cloned().collect();
        let waited_for: BTreeSet<_> = pending.iter().filter_map(|m| m.alert.incident).collect();
        let unsettled = incidents.values().filter(|i| i.is_open() || waited_for.contains(&i.id));
        prop_assert_eq!(&restored.incidents, &unsettled.cloned().collect::<Vec<_>>());
        prop_assert_eq!(&restored.messages, &pending);
        prop_assert_eq!(&restored.vantage, &vantage);
        prop_assert_eq!(restored.next_incident.0, incidents.keys().map(|i| i.0).max().unwrap_or(0) + 1);
        prop_assert_eq!(restored.next_message.0, outbox.keys().map(|m| m.0).max().unwrap_or(0) + 1);

        let reader = place.reader();
        let mut all: Vec<_> = incidents.values().cloned().collect();
        all.reverse();
        prop_assert_eq!(reader.incidents(&IncidentQuery::default()).expect("incidents"), all);
        for (id, incident) in &incidents {
            let record = reader.incident(*id).expect("an answer").expect("the incident");
            prop_assert_eq!(&record.incident, incident);
            prop_assert_eq!(record.timeline, timeline.remove(id).unwrap_or_default());
        }
        for (name, restored) in &restored.recent {
            let given: Vec<_> = observations.iter().filter(|((c, _), _)| c == name).flat_map(|(_, o)| o).collect();
            prop_assert_eq!(restored.len(), given.len());
            let stored = reader.recent(name, given.len()).expect("observations");
            for ((restored, stored), given) in restored.iter().zip(&stored).zip(given) {
                assert_kept(stored, given);
                prop_assert_eq!(gone_on_from(restored), gone_on_from(stored));
            }
        }
        let found = reader.check().expect("a check").findings;
        let found: Vec<_> = found.iter().filter(|f| !GENERATED.contains(&f.rule)).collect();
        prop_assert!(found.is_empty(), "{found:?}");
    }
}

#[test]
fn a_group_is_written_whole_or_not_at_all() {
    let place = Place::new();
    let mut writer = place.writer();
    writer.commit(&[messages(vec![message(1, "ops", Some(1), NOW)])]).expect("a commit");
    let mut twin = message(2, "ops", Some(1), NOW);
    twin.key = "bongsu-1".into();
    let group = [observed("mail/a", at(0), Outcome::Failed, 5), messages(vec![message(3, "ops", None, NOW), twin])];
    let error = writer.commit(&group).expect_err("a key is used twice");
    assert!(matches!(error, StoreError::Inconsistent { .. }), "{error}");
    let reader = place.reader();
    assert_eq!(reader.recent(&check("mail/a"), 10).expect("observations"), []);
    assert!(reader.checks().expect("checks").is_empty());
    assert_eq!(reader.messages(false, 10).expect("messages").len(), 1);
    // The writer goes on as if nothing had been tried.
    writer.commit(&group[..1]).expect("a commit");
    assert_eq!(reader.recent(&check("mail/a"), 10).expect("observations").len(), 1);
}

#[test]
fn a_message_never_changes_its_key() {
    let place = Place::new();
    let mut writer = place.writer();
    writer.commit(&[messages(vec![message(1, "ops", None, NOW)])]).expect("a commit");
    let mut other = message(1, "ops", None, NOW);
    other.key = "another".into();
    let error = writer.commit(&[messages(vec![other])]).expect_err("another key");
    assert!(error.to_string().contains("message 1 has another key"), "{error}");
}

#[test]
fn attempts_in_the_same_millisecond_do_not_collide() {
    let place = Place::new();
    let mut writer = place.writer();
    let group: Vec<_> = (0..50)
        .flat_map(|i| [observed("mail/a", at(7), Outcome::Ok, i), observed("mail/b", at(7), Outcome::Ok, 100 + i)])
        .collect();
    writer.commit(&group).expect("a commit");
    // And when the clock goes back to an instant that was before.
    writer.commit(&[observed("mail/a", at(3), Outcome::Slow, 1)]).expect("a commit");
    writer.commit(&[observed("mail/a", at(7), Outcome::Failed, 2)]).expect("a commit");
    let stored = place.reader().recent(&check("mail/a"), 100).expect("observations");
    assert_eq!(stored.len(), 52);
    assert_eq!(stored[0].at, at(3));
    assert!(stored[1..].iter().all(|o| o.at == at(7)));
    let restored = restore(&mut writer, at(10), &["mail/a"]);
    assert_eq!(restored.recent[&check("mail/a")], stored);
}

#[test]
fn instants_beyond_reason_are_kept_within_it() {
    let place = Place::new();
    let mut writer = place.writer();
    for ms in [i64::MIN, -1, 0, i64::MAX] {
        writer.commit(&[observed("mail/a", Timestamp::from_millis(ms), Outcome::Ok, 1)]).expect("a commit");
    }
    assert_eq!(place.reader().recent(&check("mail/a"), 10).expect("observations").len(), 4);
    super::maintain(&mut writer, NOW, &super::KEEP);
}

fn delivery(fate: Fate, latency: Option<Duration>) -> Delivery {
    Delivery {
        accept_ms: Some(Duration::from_millis(12)),
        latency_ms: latency,
        foreign: 2,
        left_out: vec!["emoji".into()],
        ..Delivery::new(fate, Accept::Accepted, 41)
    }
}

#[test]
fn a_correction_rewrites_its_observation_and_no_other() {
    let place = Place::new();
    let mut writer = place.writer();
    let mut lost = Observation::new(at(60), Outcome::Failed, Duration::from_secs(300));
    lost.reason = Some(Reason::new(Phase::Deliver, Kind::Lost, "absent after 5m"));
    lost.delivery = Some(delivery(Fate::Lost, None));
    lost.address = Some("192.0.2.7:1883".parse().expect("an address"));
    lost.phases =
        vec![PhaseTime { phase: Phase::Send, side: None, start: Duration::ZERO, took: Duration::from_micros(812) }];
    let commit = |name: &str| Commit { observation: Some((check(name), lost.clone())), ..Commit::default() };
    writer.commit(&[commit("chat/a"), commit("chat/b")]).expect("a commit");
    let arrived = Delivery {
        integrity: Some(Integrity::Normalised),
        duplicates: 3,
        ..delivery(Fate::Late, Some(Duration::from_secs(400)))
    };
    let correction = Correction {
        observed_at: at(60),
        outcome: Outcome::Slow,
        delivery: arrived.clone(),
        reason: None,
        details: Default::default(),
        account: None,
    };
    let commit = Commit { correction: Some((check("chat/b"), correction.clone())), ..Commit::default() };
    writer.commit(std::slice::from_ref(&commit)).expect("a commit");
    // Of an instant nothing is known of: changes nothing, fails nothing.
    let unknown = Correction { observed_at: at(61), ..correction };
    writer.commit(&[Commit { correction: Some((check("chat/b"), unknown)), ..Commit::default() }]).expect("a commit");

    let reader = place.reader();
    assert_eq!(reader.recent(&check("chat/a"), 10).expect("observations"), std::slice::from_ref(&lost));
    let corrected = Observation { outcome: Outcome::Slow, delivery: Some(arrived), reason: None, ..lost.clone() };
    let stored = reader.recent(&check("chat/b"), 10).expect("observations");
    assert_eq!(stored, std::slice::from_ref(&corrected));
    assert_eq!(stored[0].latency(), Duration::from_secs(400));
    drop(reader);
    drop(writer);
    assert_eq!(restore(&mut place.writer(), at(900), &["chat/b"]).recent[&check("chat/b")], [corrected]);
}

#[test]
fn recent_observations_fill_the_window_and_hold_at_least_twenty() {
    let place = Place::new();
    let mut writer = place.writer();
    let often: Vec<_> = (0..200).map(|i| observed("mail/often", at(i * 10), Outcome::Ok, 1)).collect();
    let seldom: Vec<_> = (0..40).map(|i| observed("mail/seldom", at(i * 50), Outcome::Ok, 1)).collect();
    writer.commit(&often).expect("a commit");
    writer.commit(&seldom).expect("a commit");
    let watched = [watched("mail/often", 10), watched("mail/seldom", 50), watched("mail/never", 50)];
    let restored = try_restore(&mut writer, at(1_995), &watched).expect("restored");
    assert_eq!(restored.recent[&check("mail/often")].len(), 60);
    assert_eq!(restored.recent[&check("mail/seldom")].len(), 20);
    assert!(!restored.recent.contains_key(&check("mail/never")));
    let first = restored.recent[&check("mail/seldom")][0].at;
    assert_eq!(first, at(1_000));
}

#[test]
fn a_renamed_check_keeps_its_history() {
    let place = Place::new();
    let mut writer = place.writer();
    let mut incident = one(generate::incident());
    incident.members.clear();
    let (old, new) = (check("mail/old"), check("mail/new"));
    incident.members.insert(old.clone(), one(member_of()));
    incident.closed_at = None;
    let commit = Commit { incidents: vec![incident.clone()], ..observed("mail/old", at(0), Outcome::Ok, 1) };
    writer.commit(&[commit]).expect("a commit");
    assert_eq!(writer.rename(&old, &new).expect("renamed"), Renamed::Done);
    assert_eq!(writer.rename(&old, &new).expect("renamed before"), Renamed::NoHistory);
    writer.commit(&[observed("mail/new", at(30), Outcome::Ok, 1)]).expect("a commit");
    assert_eq!(place.reader().recent(&new, 10).expect("observations").len(), 2);
    let restored = restore(&mut writer, NOW, &[]);
    assert_eq!(restored.incidents[0].members.keys().collect::<Vec<_>>(), [&new]);
    writer.commit(&[observed("mail/old", at(60), Outcome::Ok, 1)]).expect("a commit");
    assert_eq!(writer.rename(&old, &new).expect("two histories"), Renamed::NameTaken);
}

fn member_of() -> impl Strategy<Value = crate::incident::Member> {
    generate::incident().prop_filter_map("an incident with a member", |i| i.members.into_values().next())
}

#[test]
fn a_message_waits_for_the_earlier_one_of_its_incident_and_channel() {
    let place = Place::new();
    let mut writer = place.writer();
    let ops: Name = "ops".parse().expect("a good name");
    let group = vec![
        message(1, "ops", Some(1), at(100)),
        message(2, "ops", Some(1), at(0)),
        message(3, "ops", Some(2), at(10)),
        message(4, "mail", Some(1), at(0)),
        message(5, "ops", None, at(20)),
        message(6, "ops", None, at(5)),
    ];
    writer.commit(&[messages(group.clone())]).expect("a commit");
    let reader = place.reader();
    let due = |now| -> Vec<u64> { reader.due(&ops, now, 10).expect("due").iter().map(|m| m.id.0).collect() };
    assert_eq!(due(at(0)), [] as [u64; 0]);
    assert_eq!(due(at(20)), [3, 5, 6]);
    assert_eq!(due(at(100)), [1, 3, 5, 6]);
    assert_eq!(reader.due(&ops, at(100), 2).expect("due").len(), 2);
    assert_eq!(reader.next_due(&ops).expect("due"), Some(at(5)));
    assert_eq!(reader.next_due(&"sms".parse().expect("a good name")).expect("due"), None);

    for state in [MessageState::Delivered, MessageState::Superseded] {
        let mut first = group[0].clone();
        (first.state, first.settled_at) = (state, Some(at(101)));
        writer.commit(&[messages(vec![first])]).expect("a commit");
        assert_eq!(due(at(100)), [2, 3, 5, 6]);
    }
    let counts = reader.outbox().expect("counts");
    assert_eq!((counts.pending, counts.superseded, counts.delivered), (5, 1, 0));
    assert_eq!(counts.oldest_pending, group.iter().map(|m| m.created_at).min());
}

#[test]
fn evidence_is_written_once_and_bounded() {
    let place = Place::new();
    let mut writer = place.writer();
    let with = |second: i64, status: i64, lateness: i64| {
        let mut o = Observation::new(at(second), Outcome::Ok, Duration::from_millis(3));
        o.details.insert("status".into(), json!(status));
        o.details.insert("lateness_ms".into(), json!(lateness));
        Commit { observation: Some((check("mail/a"), o)), ..Commit::default() }
    };
    let steady: Vec<_> = (0..100).map(|i| with(i, 200 + i % 3, i)).collect();
    writer.commit(&steady).expect("a commit");
    let count = |place: &Place| -> i64 {
        place.sql().query_row("SELECT count(*) FROM evidence", [], |row| row.get(0)).expect("a count")
    };
    assert_eq!(count(&place), 3);
    let restless: Vec<_> = (0..500).map(|i| with(100 + i, 1_000 + i, 0)).collect();
    writer.commit(&restless).expect("a commit");
    assert_eq!(count(&place), 60);
    let last = place.reader().recent(&check("mail/a"), 1).expect("observations");
    assert!(last[0].details.is_empty());

    // Twelve accounts in turn are as steady as one.
    let before = count(&place);
    let turns: Vec<_> = (0..240)
        .map(|i| {
            let mut o = Observation::new(at(4_000 + i), Outcome::Ok, Duration::from_millis(3));
            o.account = Some(AccountSeen { name: format!("probe{:02}", i % 12), of: 12 });
            Commit { observation: Some((check("mail/accounts"), o)), ..Commit::default() }
        })
        .collect();
    writer.commit(&turns).expect("a commit");
    assert_eq!(count(&place), before + 12);
    let last = place.reader().recent(&check("mail/accounts"), 1).expect("observations");
    assert_eq!(last[0].account, Some(AccountSeen { name: "probe11".into(), of: 12 }));
    let shown: Vec<String> = place
        .sql()
        .prepare("SELECT DISTINCT account FROM observations WHERE check_name = 'mail/accounts' ORDER BY account")
        .expect("the view has it")
        .query_map([], |row| row.get(0))
        .expect("rows")
        .collect::<Result<_, _>>()
        .expect("texts");
    assert_eq!((shown.len(), shown[11].as_str()), (12, "probe11"));

    let mut huge = Observation::new(at(900), Outcome::Failed, Duration::from_millis(3));
    huge.reason = Some(Reason::new(Phase::Exchange, Kind::Unexpected, "too much"));
    huge.details.insert("body".into(), json!("x".repeat(1_000_000)));
    writer.commit(&[Commit { observation: Some((check("mail/a"), huge.clone())), ..Commit::default() }]).expect("ok");
    let last = place.reader().recent(&check("mail/a"), 1).expect("observations");
    assert_eq!(last[0].reason, huge.reason);
    assert!(last[0].details["dropped_bytes"].as_u64().is_some_and(|n| n > 1_000_000));
}

#[test]
fn a_writer_can_go_to_another_thread() {
    fn movable<T: Send>() {}
    movable::<Writer>();
    movable::<crate::store::Reader>();
}
