//! Days: rolled up they say what the raw observations say, and retention deletes what it should and no more.

use std::{collections::BTreeMap, time::Duration};

use proptest::{prelude::*, sample::select};

use super::{DAY, KEEP, NOW, Place, at, check, maintain, observed, restore};
use crate::{
    alert::{Message, MessageState},
    decide::Commit,
    incident::Incident,
    observation::{Accept, Correction, Delivery, Fate, Observation, Outcome},
    store::{Keep, Writer, encode::DAY_MS},
    value::Timestamp,
};

const NAMES: [&str; 3] = ["mail/a", "mail/b", "chat/왕복"];

/// `restore` is told an interval of 30 s, of which three are held.
const HOLD_MS: i64 = 90_000;

/// Long after every day of these tests.
const LATER: Timestamp = Timestamp::from_millis((DAY + 9) * DAY_MS);

/// A row as the view `availability_daily` gives it.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    attempts: [i64; 4],
    up_ms: i64,
    down_ms: i64,
    unknown_ms: i64,
    messages: [i64; 4],
    quantiles: [Option<f64>; 3],
}

/// One attempt of a check: offset in ms from the start of [`DAY`], check, outcome, latency, fate.
type Attempt = (i64, usize, Outcome, u64, Option<Fate>);

fn delivery(fate: Fate, sequence: u64) -> Delivery {
    let accept = if fate == Fate::Unsent { Accept::Rejected } else { Accept::Accepted };
    let duplicates = u32::from(sequence.is_multiple_of(3));
    Delivery { duplicates, ..Delivery::new(fate, accept, sequence) }
}

fn commit_of(attempt: &Attempt, sequence: usize) -> Commit {
    let (offset, name, outcome, latency_ms, fate) = *attempt;
    let at = Timestamp::from_millis(DAY * DAY_MS + offset);
    let mut o = Observation::new(at, outcome, Duration::from_millis(latency_ms));
    o.delivery = fate.map(|fate| delivery(fate, sequence as u64));
    Commit { observation: Some((check(NAMES[name]), o)), ..Commit::default() }
}

fn attempts() -> impl Strategy<Value = Vec<Attempt>> {
    let fates = select(vec![None, None, Some(Fate::Arrived), Some(Fate::Late), Some(Fate::Lost), Some(Fate::Unsent)]);
    // Three days, with many attempts near their midnights.
    let offset = prop_oneof![
        0..3 * DAY_MS,
        (0..3_i64, -200_000..200_000_i64).prop_map(|(day, near)| (day * DAY_MS + near).clamp(0, 3 * DAY_MS - 1)),
    ];
    let attempt = (offset, 0..NAMES.len(), select(Outcome::ALL.to_vec()), 0..5_000_u64, fates);
    prop::collection::vec(attempt, 1..120).prop_map(|mut all| {
        // One attempt of a check per instant, so that what comes first is no question.
        all.sort_by_key(|a| (a.1, a.0));
        all.dedup_by_key(|a| (a.1, a.0));
        all
    })
}

/// The same by other means: every attempt as a stretch, every day as the overlap with all stretches.
fn recomputed(attempts: &[Attempt]) -> BTreeMap<(usize, i64), Row> {
    let mut rows = BTreeMap::new();
    for name in 0..NAMES.len() {
        let mut own: Vec<(usize, &Attempt)> = attempts.iter().enumerate().filter(|(_, a)| a.1 == name).collect();
        own.sort_by_key(|(_, a)| a.0);
        for day in 0..4 {
            let (from, to) = (day * DAY_MS, (day + 1) * DAY_MS);
            let mut held = [0; 4];
            for (i, (_, a)) in own.iter().enumerate() {
                let next = own.get(i + 1).map_or(i64::MAX, |(_, n)| n.0);
                let (start, end) = (a.0.max(from), (a.0 + HOLD_MS).min(next).min(to));
                held[Outcome::ALL.iter().position(|o| *o == a.2).expect("an outcome")] += (end - start).max(0);
            }
            let of_day: Vec<_> = own.iter().filter(|(_, a)| (from..to).contains(&a.0)).collect();
            if of_day.is_empty() && held == [0; 4] {
                continue;
            }
            let count = |test: &dyn Fn(&(usize, &Attempt)) -> bool| of_day.iter().filter(|a| test(a)).count() as i64;
            let mut latencies: Vec<f64> =
                of_day.iter().filter(|(_, a)| a.2 <= Outcome::Slow).map(|(_, a)| a.3 as f64).collect();
            latencies.sort_by(f64::total_cmp);
            let quantile = |q: usize| (!latencies.is_empty()).then(|| latencies[(latencies.len() - 1) * q / 100]);
            rows.insert(
                (name, day),
                Row {
                    attempts: Outcome::ALL.map(|o| count(&|(_, a)| a.2 == o)),
                    up_ms: held[0] + held[1],
                    down_ms: held[2],
                    unknown_ms: held[3],
                    messages: [
                        count(&|(_, a)| a.4.is_some_and(|f| f != Fate::Unsent)),
                        count(&|(_, a)| a.4 == Some(Fate::Lost)),
                        count(&|(_, a)| a.4 == Some(Fate::Late)),
                        count(&|(i, a)| a.4.is_some() && i.is_multiple_of(3)),
                    ],
                    quantiles: [quantile(50), quantile(95), quantile(99)],
                },
            );
        }
    }
    rows
}

/// What the view says, and whether all of it is rolled up (or none).
fn viewed(place: &Place) -> (BTreeMap<(usize, i64), Row>, Vec<bool>) {
    let sql = place.sql();
    let mut statement = sql
        .prepare(
            "SELECT check_name, CAST(julianday(day) - 2440587.5 AS INTEGER), ok, slow, failed, unknown, up_s, down_s,
                 unknown_s, messages_sent, messages_lost, messages_late, messages_duplicated, p50_ms, p95_ms, p99_ms,
                 final FROM availability_daily",
        )
        .expect("prepared");
    let mut asked = statement.query([]).expect("asked");
    let (mut rows, mut finals) = (BTreeMap::new(), Vec::new());
    while let Some(r) = asked.next().expect("a row") {
        let name: String = r.get(0).expect("a name");
        let name = NAMES.iter().position(|n| *n == name).expect("a name of ours");
        let day: i64 = r.get(1).expect("a day");
        let int = |i| r.get::<_, i64>(i).expect("a count");
        let ms = |i| (r.get::<_, f64>(i).expect("a time") * 1_000.0).round() as i64;
        let quantile = |i| r.get::<_, Option<f64>>(i).expect("a latency");
        let row = Row {
            attempts: [int(2), int(3), int(4), int(5)],
            up_ms: ms(6),
            down_ms: ms(7),
            unknown_ms: ms(8),
            messages: [int(9), int(10), int(11), int(12)],
            quantiles: [quantile(13), quantile(14), quantile(15)],
        };
        assert!(rows.insert((name, day - DAY), row).is_none(), "a day was told twice");
        finals.push(int(16) == 1);
    }
    (rows, finals)
}

fn assert_same(found: &BTreeMap<(usize, i64), Row>, expected: &BTreeMap<(usize, i64), Row>, error: f64) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (key, row) in found {
        let expected = &expected[key];
        for (f, e) in row.quantiles.iter().zip(expected.quantiles) {
            match (f, e) {
                (Some(f), Some(e)) => assert!((f - e).abs() <= e * error + 1e-9, "{key:?}: {row:?} {expected:?}"),
                (f, e) => assert_eq!(*f, e, "{key:?}"),
            }
        }
        assert_eq!(&Row { quantiles: expected.quantiles, ..row.clone() }, expected, "{key:?}");
    }
}

/// The reader's days as rows.
fn read(place: &Place, now: Timestamp) -> BTreeMap<(usize, i64), Row> {
    let day = |d: i64| Timestamp::from_millis(d * DAY_MS).to_utc().date_naive();
    let days = place.reader().daily(None, day(0), day(DAY + 5), now).expect("days");
    let row = |d: &super::super::Daily| {
        let name = NAMES.iter().position(|n| *n == d.check.as_str()).expect("a name of ours");
        let number = (d.day - day(DAY)).num_days();
        let ms = |span: Duration| span.as_millis() as i64;
        let row = Row {
            attempts: d.attempts.map(u64::cast_signed),
            up_ms: ms(d.up),
            down_ms: ms(d.down),
            unknown_ms: ms(d.unknown),
            messages: [d.messages_sent, d.messages_lost, d.messages_late, d.messages_duplicated].map(u64::cast_signed),
            quantiles: [0.5, 0.95, 0.99].map(|q| d.quantile_ms(q)),
        };
        ((name, number), row)
    };
    days.iter().map(row).collect()
}

fn write(writer: &mut Writer, attempts: &[Attempt]) {
    restore(writer, NOW, &NAMES);
    let group: Vec<_> = attempts.iter().enumerate().map(|(i, a)| commit_of(a, i)).collect();
    writer.commit(&group).expect("a commit");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn rolled_up_or_not_a_day_says_what_its_attempts_say(attempts in attempts()) {
        let place = Place::new();
        let mut writer = place.writer();
        write(&mut writer, &attempts);
        let expected = recomputed(&attempts);
        let (rows, finals) = viewed(&place);
        assert_same(&rows, &expected, 1e-9);
        prop_assert!(finals.iter().all(|f| !f));
        assert_same(&read(&place, LATER), &expected, 0.0101);

        // The second day and the third still open, then none.
        maintain(&mut writer, at(86_400 + 3_600), &KEEP);
        assert_same(&viewed(&place).0, &expected, 0.0101);
        assert_same(&read(&place, LATER), &expected, 0.0101);
        drop(writer);
        let mut writer = place.writer();
        maintain(&mut writer, LATER, &Keep { raw: Duration::from_secs(90 * 86_400), ..KEEP });
        let (rows, finals) = viewed(&place);
        assert_same(&rows, &expected, 0.0101);
        prop_assert!(finals.iter().all(|f| *f));
        assert_same(&read(&place, LATER), &expected, 0.0101);
        // Without the raw observations, the days say the same.
        maintain(&mut writer, LATER, &KEEP);
        assert_same(&viewed(&place).0, &expected, 0.0101);
    }

    #[test]
    fn what_comes_late_changes_a_rolled_up_day(mut attempts in attempts(), late in attempts(), fixes in prop::collection::vec((any::<prop::sample::Index>(), select(Outcome::ALL.to_vec())), 1..6)) {
        let place = Place::new();
        let mut writer = place.writer();
        write(&mut writer, &attempts);
        let keep = Keep { raw: Duration::from_secs(90 * 86_400), ..KEEP };
        maintain(&mut writer, LATER, &keep);
        // In the middle of rolling up what comes late, more comes late.
        let before = attempts.len();
        for attempt in late {
            if !attempts.iter().any(|a| (a.0, a.1) == (attempt.0, attempt.1)) {
                attempts.push(attempt);
            }
        }
        for (i, attempt) in attempts.iter().enumerate().skip(before) {
            writer.commit(&[commit_of(attempt, i)]).expect("a commit");
            writer.maintain(LATER, &keep).expect("upkeep works");
        }
        for (index, outcome) in fixes {
            let i = index.index(attempts.len());
            (attempts[i].2, attempts[i].4) = (outcome, Some(Fate::Late));
            let (offset, name, ..) = attempts[i];
            let correction = Correction {
                observed_at: Timestamp::from_millis(DAY * DAY_MS + offset),
                account: None,
                outcome,
                delivery: delivery(Fate::Late, i as u64),
                reason: None,
                details: Default::default(),
            };
            let commit = Commit { correction: Some((check(NAMES[name]), correction)), ..Commit::default() };
            writer.commit(&[commit]).expect("a commit");
            writer.maintain(LATER, &keep).expect("upkeep works");
        }
        maintain(&mut writer, LATER, &keep);
        assert_same(&viewed(&place).0, &recomputed(&attempts), 0.0101);
        drop(writer);
        prop_assert_eq!(maintain(&mut place.writer(), LATER, &keep), (0, 0));
    }
}

#[test]
fn availability_is_of_known_time_and_comes_with_its_coverage() {
    let place = Place::new();
    let mut writer = place.writer();
    restore(&mut writer, NOW, &["mail/a"]);
    // 1,000 s up at 30 s a step, 100 s down probed every second, 100 s unknown, then 800 s up and nothing more.
    let mut group = Vec::new();
    group.extend((0..1_000).step_by(20).map(|s| observed("mail/a", at(s), Outcome::Ok, 10)));
    group.extend((1_000..1_100).map(|s| observed("mail/a", at(s), Outcome::Failed, 10)));
    group.extend((1_100..1_200).step_by(50).map(|s| observed("mail/a", at(s), Outcome::Unknown, 10)));
    group.extend((1_200..1_930).step_by(20).map(|s| observed("mail/a", at(s), Outcome::Ok, 10)));
    writer.commit(&group).expect("a commit");
    let (up, down) = (1_000.0 + 720.0 + 90.0, 100.0);
    let day = at(0).to_utc().date_naive();
    let days = place.reader().daily(Some(&check("mail/a")), day, day, at(4_000)).expect("days");
    assert_eq!(days.len(), 1);
    assert!((days[0].availability().expect("known") - up / (up + down)).abs() < 1e-9);
    assert!((days[0].coverage() - (up + down) / 4_000.0).abs() < 1e-9);
    maintain(&mut writer, LATER, &KEEP);
    let (availability, coverage): (f64, f64) = place
        .sql()
        .query_row("SELECT availability, coverage FROM availability_daily", [], |r| Ok((r.get(0)?, r.get(1)?)))
        .expect("a row");
    assert!((availability - up / (up + down)).abs() < 1e-9);
    assert!((coverage - (up + down) / 86_400.0).abs() < 1e-9);
}

#[test]
fn a_large_day_is_rolled_up_in_slices() {
    let place = Place::new();
    let mut writer = place.writer();
    let group: Vec<_> =
        (0..12_000).map(|i| observed(&format!("mail/c{}", i % 1_200), at(i), Outcome::Ok, 10)).collect();
    writer.commit(&group).expect("a commit");
    let mut calls = 0;
    loop {
        let done = writer.maintain(at(86_400 + 3_600), &KEEP).expect("upkeep works");
        assert!(done.rolled_rows <= 5_000);
        calls += 1;
        // The day is not there in part.
        let finals = place
            .sql()
            .query_row("SELECT count(*) FROM availability_daily WHERE final", [], |row| row.get::<_, i64>(0))
            .expect("a count");
        assert!(finals == 0 || finals == 1_200, "{finals} rows in the middle");
        if !done.more {
            assert_eq!(finals, 1_200);
            break;
        }
    }
    assert!(calls > 5, "{calls}");
}

#[test]
fn retention_deletes_exactly_what_is_old() {
    let place = Place::new();
    let mut writer = place.writer();
    for day in 0..6_i64 {
        let group: Vec<_> = (0..2_000)
            .map(|i| commit_of(&(day * DAY_MS + i * 43_000, 0, Outcome::Failed, 5, Some(Fate::Lost)), 1))
            .collect();
        writer.commit(&group).expect("a commit");
    }
    let count = |sql: &str| place.sql().query_row(sql, [], |row| row.get::<_, i64>(0)).expect("a count");
    let all = |place: &Place| {
        let sql = place.sql();
        ["observation", "delivery"]
            .map(|t| sql.query_row(&format!("SELECT count(*) FROM {t}"), [], |r| r.get::<_, i64>(0)).expect("a count"))
    };
    // Noon of the sixth day: two days back is noon of the fourth, so the first three go.
    let now = at(5 * 86_400 + 43_200);
    let (days, _) = maintain(&mut writer, now, &KEEP);
    assert_eq!(days, 5);
    assert_eq!(all(&place), [6_000, 6_000]);
    assert_eq!(count(&format!("SELECT min(id >> 8) / {DAY_MS} FROM observation")), DAY + 3);
    assert_eq!(count("SELECT count(*) FROM daily"), 5);
    assert_eq!(maintain(&mut writer, now, &KEEP), (0, 0));
    // A day is never deleted before it is rolled up, whatever is asked.
    let hasty = Keep { raw: Duration::ZERO, ..KEEP };
    maintain(&mut writer, at(5 * 86_400 + 1_800), &hasty);
    assert_eq!(all(&place), [2_000, 2_000]);
    let brief = Keep { daily: Duration::from_secs(2 * 86_400), ..KEEP };
    maintain(&mut writer, now, &brief);
    assert_eq!(count(&format!("SELECT min(day) - {DAY} FROM daily")), 3);
    // What is not there raw any more is sealed.
    let sealed = place.reader().seen(&check(NAMES[0]), Timestamp::EPOCH, LATER).expect("observations");
    assert_eq!(sealed.len(), 12_000);
    assert!(sealed.iter().all(|seen| seen.outcome == Outcome::Failed && seen.latency == Duration::from_millis(5)));
}

#[test]
fn old_incidents_go_with_their_messages_but_nothing_that_is_still_to_be_told() {
    let place = Place::new();
    let mut writer = place.writer();
    let incident = |id: u64, closed: Option<Timestamp>| -> Incident {
        let json = serde_json::json!({
            "id": id, "service": "mail", "title": "Mail", "labels": {}, "severity": "down", "worst": "down",
            "started": { "after": null, "by": at(0) }, "ended": closed.map(|at| serde_json::json!({ "after": at, "by": at })),
            "opened_at": at(0), "closed_at": closed, "members": {}, "cause": "x", "acknowledged": null,
        });
        serde_json::from_value(json).expect("an incident")
    };
    let message = |id: u64, of: u64, state: MessageState| -> Message {
        let json = serde_json::json!({
            "id": id, "key": format!("k{id}"), "channel": "ops", "thread": "t", "position": 0, "state": state,
            "alert": { "kind": "problem", "incident": of, "vantage": "v", "service": "mail", "title": "Mail",
                "labels": {}, "severity": "down", "cause": "x", "started": { "after": null, "by": at(0) },
                "duration_ms": 0, "checks": [], "at": at(0) },
            "created_at": at(0), "attempts": 1, "next_at": at(0), "settled_at": at(1),
        });
        serde_json::from_value(json).expect("a message")
    };
    let commit = Commit {
        incidents: vec![
            incident(1, Some(at(10))),
            incident(2, None),
            incident(3, Some(at(10))),
            incident(4, Some(at(10))),
        ],
        messages: vec![message(1, 1, MessageState::Delivered), message(2, 3, MessageState::Pending)],
        ..Commit::default()
    };
    writer.commit(&[commit]).expect("a commit");
    let keep = Keep { daily: Duration::from_secs(3_600), ..KEEP };
    maintain(&mut writer, at(3_605), &keep);
    let ids = |place: &Place| -> Vec<u64> {
        let reader = place.reader();
        reader.incidents(&Default::default()).expect("incidents").iter().map(|i| i.id.0).collect()
    };
    assert_eq!(ids(&place), [4, 3, 2, 1]);
    // The next look is an hour later.
    maintain(&mut writer, at(7_300), &keep);
    assert_eq!(ids(&place), [3, 2]);
    assert_eq!(place.reader().messages(false, 10).expect("messages").len(), 1);
    // Numbers are not given again.
    assert_eq!(restore(&mut writer, NOW, &[]).next_incident.0, 5);
}

#[test]
fn space_is_given_back() {
    let place = Place::new();
    let mut writer = place.writer();
    let fat = |i: i64| {
        let mut commit = commit_of(&(i * 10_000, 0, Outcome::Failed, 5, None), 1);
        if let Some((_, o)) = &mut commit.observation {
            o.details.insert("body".into(), format!("{i:04000}").into());
        }
        commit
    };
    writer.commit(&(0..4_000).map(fat).collect::<Vec<_>>()).expect("a commit");
    let pages =
        |place: &Place| place.sql().query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0)).expect("a count");
    let before = pages(&place);
    for hour in 0..3 {
        maintain(&mut writer, LATER + Duration::from_secs(3_601 * hour), &KEEP);
    }
    assert!(before > 3_900 && pages(&place) < 2_500, "{before} pages became {}", pages(&place));
}
