//! Generated values of everything a commit can hold.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use proptest::{option, prelude::*, sample::select};
use serde_json::json;

use super::check;
use crate::{
    alert::{Alert, AlertCheck, Fired, Message, MessageId, MessageKind, MessageState, Point, Told, ToldChannel},
    decide::{Commit, StateRow},
    incident::{
        Acknowledgement, Edge, Entry, Incident, IncidentId, Member, Severity, TimelineEntry, Vantage,
        vantage::Isolation,
    },
    observation::{
        Accept, AccountSeen, Delivery, Fate, Fates, Integrity, Kind, Login, Observation, Outcome, Phase, PhaseTime,
        Reason, Reconnection, Side, TlsFacts,
    },
    value::{CheckName, Name, Timestamp},
};

pub fn name() -> impl Strategy<Value = Name> {
    select(vec!["mail", "채팅", "sms-1", "ops.chat"]).prop_map(|n| n.parse().expect("a good name"))
}

pub fn check_name() -> impl Strategy<Value = CheckName> {
    select(vec!["mail/submission", "mail/round-trip", "채팅/왕복", "sms-1/gateway"]).prop_map(check)
}

/// Any instant of two years.
fn instant() -> impl Strategy<Value = Timestamp> {
    (1_700_000_000_000_i64..1_763_000_000_000).prop_map(Timestamp::from_millis)
}

fn span() -> impl Strategy<Value = Duration> {
    prop_oneof![0..100_u64, 0..5_000_000_u64, 0..400_000_000_u64].prop_map(Duration::from_micros)
}

fn text() -> impl Strategy<Value = String> {
    select(vec!["", "535 5.7.8 no", "인증 실패 🔥", "it's; DROP TABLE \"x\" -- \\ \u{7f}", "a\u{1100}\u{1161}"])
        .prop_map(str::to_owned)
}

fn reason() -> impl Strategy<Value = Reason> {
    let kinds = vec![Kind::Timeout, Kind::Refused, Kind::Certificate, Kind::Lost, Kind::NoAddress, Kind::Own];
    (select(Phase::ALL.to_vec()), select(kinds), text()).prop_map(|(p, k, t)| Reason::new(p, k, t))
}

fn phases() -> impl Strategy<Value = Vec<PhaseTime>> {
    let side = select(vec![None, Some(Side::Send), Some(Side::Receive)]);
    let phase = (select(Phase::ALL.to_vec()), side, span(), span());
    prop::collection::vec(phase.prop_map(|(phase, side, start, took)| PhaseTime { phase, side, start, took }), 0..12)
}

fn delivery() -> impl Strategy<Value = Delivery> {
    let fates = [Fate::Arrived, Fate::Late, Fate::Pending, Fate::Lost, Fate::Unsent, Fate::Uncertain];
    let accepts = [Accept::Accepted, Accept::Rejected, Accept::Deferred, Accept::Unreachable, Accept::Uncertain];
    let integrities =
        [Integrity::Equal, Integrity::Normalised, Integrity::Transcoded, Integrity::Truncated, Integrity::Corrupt];
    let verdicts = (select(fates.to_vec()), select(accepts.to_vec()), option::of(select(integrities.to_vec())));
    let left_out = prop::collection::vec(text(), 0..3);
    let numbers = (any::<u64>(), any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>());
    let login = (any::<bool>(), span(), option::of(reason())).prop_map(|(ok, ms, reason)| Login { ok, ms, reason });
    let reconnection = text().prop_map(|why| Reconnection { side: Side::Receive, why });
    let sessions = (option::of(login), prop::collection::vec(reconnection, 0..3));
    (verdicts, burst(), option::of(span()), option::of(span()), numbers, left_out, sessions).prop_map(
        |((fate, accept, integrity), fates, accept_ms, latency_ms, numbers, left_out, (login, reconnections))| {
            let (sequence, duplicates, foreign, reordered, changed) = numbers;
            Delivery {
                fates,
                accept_ms,
                latency_ms,
                duplicates,
                foreign,
                reordered,
                changed,
                integrity,
                left_out,
                login,
                reconnections,
                ..Delivery::new(fate, accept, sequence)
            }
        },
    )
}

/// What became of a burst, or nothing for a single message.
fn burst() -> impl Strategy<Value = Fates> {
    let some = prop::collection::vec(0..50_u32, 6).prop_map(|n| Fates {
        arrived: n[0] + 2,
        late: n[1],
        pending: n[2],
        lost: n[3],
        unsent: n[4],
        uncertain: n[5],
    });
    prop_oneof![Just(Fates::default()), some]
}

fn tls() -> impl Strategy<Value = TlsFacts> {
    (select(vec!["1.2", "1.3"]), option::of(text()), option::of(instant()), option::of(-500..500_i64)).prop_map(
        |(version, subject, not_after, days_left)| TlsFacts {
            version: version.into(),
            cipher: None,
            alpn: subject.clone(),
            issuer: subject.clone(),
            subject,
            not_after,
            days_left,
        },
    )
}

pub fn observation() -> impl Strategy<Value = Observation> {
    let addresses: Vec<SocketAddr> =
        ["192.0.2.7:587", "[2001:db8::1]:443"].iter().map(|a| a.parse().expect("an address")).collect();
    let details = prop::collection::btree_map(
        select(vec!["status", "lateness_ms", "서버"]),
        prop_oneof![
            any::<u32>().prop_map(|n| json!(n)),
            text().prop_map(|t| json!(t)),
            Just(json!([1, { "a": null }]))
        ],
        0..3,
    );
    let evidence = (option::of(reason()), option::of(select(addresses)), option::of(tls()), details);
    let account = option::of((text(), 1..=100_u32)).prop_map(|a| a.map(|(name, of)| AccountSeen { name, of }));
    let evidence = (evidence, account);
    (instant(), select(Outcome::ALL.to_vec()), span(), phases(), option::of(delivery()), evidence).prop_map(
        |(at, outcome, duration, phases, delivery, ((reason, address, tls, details), account))| Observation {
            at,
            outcome,
            duration,
            phases,
            reason,
            address,
            tls,
            delivery,
            account,
            details: details.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        },
    )
}

fn edge() -> impl Strategy<Value = Edge> {
    (option::of(instant()), instant()).prop_map(|(after, by)| Edge { after, by })
}

fn severity() -> impl Strategy<Value = Severity> {
    select(vec![Severity::Degraded, Severity::Down])
}

fn member() -> impl Strategy<Value = Member> {
    (severity(), edge(), option::of(edge()), option::of(reason()), instant(), any::<bool>()).prop_map(
        |(severity, started, ended, reason, confirmed_at, flapping)| Member {
            severity,
            worst: Severity::Down,
            started,
            ended,
            reason,
            confirmed_at,
            flapping,
            unwatched: flapping && ended.is_some(),
        },
    )
}

fn told() -> impl Strategy<Value = Told> {
    (name(), severity(), instant(), prop::collection::vec((1..9_u64).prop_map(MessageId), 0..3)).prop_map(
        |(channel, severity, at, pending)| Told {
            channels: BTreeMap::from([(
                channel,
                ToldChannel { severity, first_at: at, pending, reached: true, messages: 3, ended: false },
            )]),
            partial_at: Some(at),
            steps: BTreeMap::from([("0.1".into(), Fired { times: 2, last_at: at })]),
        },
    )
}

pub fn incident() -> impl Strategy<Value = Incident> {
    let members = prop::collection::btree_map(check_name(), member(), 0..4);
    let acknowledged =
        option::of((instant(), text(), text()).prop_map(|(at, by, note)| Acknowledgement { at, by, note }));
    let ends = (edge(), option::of((edge(), instant())), instant());
    (1..6_u64, (name(), text(), text()), severity(), ends, members, acknowledged, told()).prop_map(
        |(id, (service, title, cause), severity, (started, end, opened_at), members, acknowledged, told)| Incident {
            id: IncidentId(id),
            service,
            title,
            labels: BTreeMap::from([("datacenter".into(), "가산".into())]),
            severity,
            worst: Severity::Down,
            started,
            ended: end.map(|(edge, _)| edge),
            opened_at,
            closed_at: end.map(|(_, at)| at),
            members,
            cause,
            acknowledged,
            told,
        },
    )
}

fn alert() -> impl Strategy<Value = Alert> {
    let kinds =
        [MessageKind::Problem, MessageKind::Recovery, MessageKind::Past, MessageKind::Isolated, MessageKind::Test];
    let checks = prop::collection::vec((check_name(), member(), instant(), any::<u16>()), 0..3);
    (select(kinds.to_vec()), option::of(1..6_u64), name(), text(), edge(), checks, instant()).prop_map(
        |(kind, incident, service, cause, started, checks, at)| Alert {
            kind,
            incident: incident.map(IncidentId),
            vantage: service.clone(),
            title: cause.clone(),
            service,
            labels: BTreeMap::new(),
            severity: Severity::Down,
            cause,
            started,
            ended: None,
            unwatched: false,
            duration_ms: 5,
            checks: checks
                .into_iter()
                .map(|(name, member, at, ms)| AlertCheck {
                    name,
                    severity: member.severity,
                    started: member.started,
                    ended: member.ended,
                    reason: member.reason,
                    flapping: member.flapping,
                    unwatched: member.unwatched,
                    recent: vec![Point { at, outcome: Outcome::Slow, ms: f32::from(ms) / 8.0 }],
                })
                .collect(),
            acknowledged_by: None,
            next: None,
            instead_of: None,
            others: Default::default(),
            at,
        },
    )
}

pub fn message() -> impl Strategy<Value = Message> {
    let states = [MessageState::Pending, MessageState::Delivered, MessageState::Refused, MessageState::GivenUp];
    let rest = (select(states.to_vec()), any::<u32>(), option::of(text()), option::of(instant()), any::<bool>());
    (1..9_u64, name(), any::<u32>(), alert(), (instant(), instant()), rest).prop_map(
        |(
            id,
            channel,
            position,
            alert,
            (created_at, next_at),
            (state, attempts, last_error, settled_at, handed_over),
        )| {
            Message {
                id: MessageId(id),
                // One key per number, as the core gives them.
                key: format!("bongsu-{id}"),
                channel,
                thread: format!("thread-{position}"),
                position,
                alert,
                created_at,
                state,
                attempts,
                next_at,
                last_error,
                settled_at,
                handed_over,
            }
        },
    )
}

fn timeline() -> impl Strategy<Value = TimelineEntry> {
    let entries = [Entry::Opened, Entry::NotTold, Entry::Corrected, Entry::Note, Entry::Closed];
    (1..6_u64, instant(), select(entries.to_vec()), text()).prop_map(|(id, at, entry, text)| TimelineEntry {
        incident: IncidentId(id),
        at,
        entry,
        text,
    })
}

fn state() -> impl Strategy<Value = StateRow> {
    (check_name(), select(vec!["up", "down", "suspect"]), instant(), any::<i32>()).prop_map(
        |(check, state, since, n)| StateRow {
            check, state, since, memory: json!({ "bad_in_a_row": n, "말": [null] })
        },
    )
}

fn vantage() -> impl Strategy<Value = Vantage> {
    (option::of((option::of(instant()), instant(), any::<u32>())), option::of(instant())).prop_map(
        |(isolation, returned_at)| Vantage {
            isolation: isolation.map(|(after, since, canaries)| Isolation { after, since, canaries }),
            returned_at,
        },
    )
}

pub fn commit() -> impl Strategy<Value = Commit> {
    (
        option::of((check_name(), observation())),
        option::of(state()),
        prop::collection::vec(incident(), 0..2),
        prop::collection::vec(timeline(), 0..2),
        prop::collection::vec(message(), 0..2),
        option::of(vantage()),
    )
        .prop_map(|(observation, state, incidents, timeline, messages, vantage)| Commit {
            sending: None,
            observation,
            correction: None,
            state,
            incidents,
            timeline,
            messages,
            vantage,
        })
}
