//! Sealed days: everything is still there, once, and what is damaged is said to be.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::{DAY, KEEP, Place, at, check, generate, keeping::message, maintain, observed, restore};
use crate::{
    decide::Commit,
    observation::{Accept, Correction, Delivery, Fate, Kind, Observation, Outcome, Phase, Reason},
    store::{Cursor, Keep, encode::DAY_MS},
    value::{CheckName, Timestamp},
};

const NAMES: [&str; 3] = ["mail/a", "mail/b", "chat/왕복"];

/// Long after every day of these tests, and before blocks are too old.
const LATER: Timestamp = Timestamp::from_millis((DAY + 9) * DAY_MS);

/// Observations of three days, in the order in which they are told: not always that of their times.
fn told() -> impl Strategy<Value = Vec<(usize, Observation)>> {
    let offset = prop_oneof![3 => 0..3 * DAY_MS, 1 => (0..3_i64).prop_map(|day| day * DAY_MS)];
    let one = (0..NAMES.len(), offset, generate::observation());
    (prop::collection::vec(one, 1..60), any::<bool>()).prop_map(|(mut all, in_order)| {
        if in_order {
            all.sort_by_key(|(_, offset, _)| *offset);
        }
        let at = |offset| Timestamp::from_millis(DAY * DAY_MS + offset);
        all.into_iter().map(|(name, offset, o)| (name, Observation { at: at(offset), ..o })).collect()
    })
}

fn commit_of((name, o): &(usize, Observation)) -> Commit {
    Commit { observation: Some((check(NAMES[*name]), o.clone())), ..Commit::default() }
}

fn everything(place: &Place) -> BTreeMap<CheckName, Vec<Observation>> {
    let reader = place.reader();
    let all = NAMES.map(check).map(|name| {
        let mut found = Vec::new();
        let keep = |of_day: Vec<Observation>| {
            found.extend(of_day);
            true
        };
        reader.past(&name, Timestamp::EPOCH, LATER, keep).expect("the past");
        (name, found)
    });
    all.into()
}

/// The same by [`Reader::export`], in small parts; each check's in order.
fn exported(place: &Place, only: Option<&CheckName>) -> BTreeMap<CheckName, Vec<Observation>> {
    let reader = place.reader();
    let mut all: BTreeMap<CheckName, Vec<Observation>> = BTreeMap::new();
    let mut next = Some(Cursor::at(Timestamp::EPOCH));
    while let Some(from) = next {
        let part = reader.export(from, LATER, only, 7).expect("an export");
        part.rows.into_iter().for_each(|(name, o)| all.entry(name).or_default().push(o));
        next = part.next;
    }
    all
}

/// Sealed, an observation is what the row was: of an `ok` one times to 1 %, of any other all.
fn assert_kept(sealed: &Observation, row: &Observation) {
    let near = |s: Duration, r: Duration| s.abs_diff(r) <= r / 100;
    let mut s = sealed.clone();
    if row.outcome == Outcome::Ok {
        assert!(near(s.duration, row.duration), "{s:?} for {row:?}");
        s.duration = row.duration;
        assert_eq!(s.phases.len(), row.phases.len());
        for (s, r) in s.phases.iter_mut().zip(&row.phases) {
            assert!(near(s.start, r.start) && near(s.took, r.took), "{s:?} for {r:?}");
            (s.start, s.took) = (r.start, r.took);
        }
        if let (Some(s), Some(r)) = (&mut s.delivery, &row.delivery) {
            for (s, r) in [(&mut s.accept_ms, r.accept_ms), (&mut s.latency_ms, r.latency_ms)] {
                assert!(s.unwrap_or_default().abs_diff(r.unwrap_or_default()) <= r.unwrap_or_default() / 100);
                *s = s.and(r);
            }
            if let (Some(s), Some(r)) = (&mut s.login, &r.login) {
                assert!(near(s.ms, r.ms));
                s.ms = r.ms;
            }
        }
    }
    assert_eq!(s, *row);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn nothing_is_lost_by_sealing(told in told(), cut in 0..40_usize) {
        let place = Place::new();
        let mut writer = place.writer();
        restore(&mut writer, at(0), &NAMES);
        writer.commit(&told.iter().map(commit_of).collect::<Vec<_>>()).expect("a commit");
        let rows = everything(&place);
        prop_assert_eq!(rows.values().map(Vec::len).sum::<usize>(), told.len());
        // The power fails in the middle; everything is there, and there once.
        for _ in 0..cut {
            if !writer.maintain(LATER, &KEEP).expect("upkeep works").more {
                break;
            }
            prop_assert_eq!(everything(&place).values().map(Vec::len).sum::<usize>(), told.len());
        }
        drop(writer);
        let mut writer = place.writer();
        maintain(&mut writer, LATER, &KEEP);
        let raw: i64 = place.sql().query_row("SELECT count(*) FROM observation", [], |r| r.get(0)).expect("a count");
        prop_assert!(raw <= NAMES.len() as i64, "only the latest of each check stays: {}", raw);
        let sealed = everything(&place);
        let mut found: BTreeMap<_, _> = sealed.clone();
        found.retain(|_, all| !all.is_empty());
        prop_assert_eq!(exported(&place, None), found);
        prop_assert_eq!(place.reader().check().expect("a check").findings, []);
        for (name, rows) in &rows {
            let own: Vec<_> = exported(&place, Some(name)).into_values().flatten().collect();
            prop_assert_eq!(&own, &sealed[name]);
            prop_assert_eq!(sealed[name].len(), rows.len());
            for (sealed, row) in sealed[name].iter().zip(rows) {
                assert_kept(sealed, row);
            }
            let reader = place.reader();
            let seen = reader.seen(name, Timestamp::EPOCH, LATER).expect("the past");
            let told = |o: &Observation| (o.at, o.outcome, o.latency());
            prop_assert_eq!(seen.iter().map(|s| (s.at, s.outcome, s.latency)).collect::<Vec<_>>(), sealed[name].iter().map(told).collect::<Vec<_>>());
            // What a restart goes on from comes from blocks as well.
            let recent = reader.recent(name, 10_000).expect("observations");
            prop_assert_eq!(recent.len(), rows.len());
        }
    }
}

/// A day of a check with a delivery a minute, one of them lost, and the days after it.
fn delivered(place: &Place) -> crate::store::Writer {
    let mut writer = place.writer();
    restore(&mut writer, at(0), &["mail/a"]);
    let one = |n: i64| {
        let fate = if n == 700 { Fate::Lost } else { Fate::Arrived };
        let mut o =
            Observation::new(at(n * 60), Outcome::Ok, Duration::from_micros(52_345 + 17 * n.unsigned_abs() % 9_000));
        let mut delivery = Delivery::new(fate, Accept::Accepted, n.unsigned_abs());
        delivery.latency_ms = (fate == Fate::Arrived).then_some(o.duration);
        if fate == Fate::Lost {
            o.outcome = Outcome::Failed;
            o.reason = Some(Reason::new(Phase::Deliver, Kind::Lost, "absent after 5m"));
        }
        o.delivery = Some(delivery);
        Commit { observation: Some((check("mail/a"), o)), ..Commit::default() }
    };
    writer.commit(&(0..3 * 1_440).map(one).collect::<Vec<_>>()).expect("a commit");
    writer
}

#[test]
fn what_is_corrected_in_time_is_sealed_as_corrected() {
    let place = Place::new();
    let mut writer = delivered(&place);
    let arrived =
        Delivery { latency_ms: Some(Duration::from_secs(400)), ..Delivery::new(Fate::Late, Accept::Accepted, 700) };
    let correction = Correction {
        observed_at: at(42_000),
        account: None,
        outcome: Outcome::Slow,
        delivery: arrived.clone(),
        reason: Some(Reason::new(Phase::Deliver, Kind::Slow, "arrived after 6m 40s")),
        details: Default::default(),
    };
    let commit = Commit { correction: Some((check("mail/a"), correction)), ..Commit::default() };
    writer.commit(std::slice::from_ref(&commit)).expect("a commit");
    maintain(&mut writer, LATER, &KEEP);
    // Once more, when it is sealed: changes nothing, fails nothing.
    writer.commit(&[commit]).expect("a commit");
    maintain(&mut writer, LATER, &KEEP);
    let bad: Vec<_> =
        everything(&place)[&check("mail/a")].iter().filter(|o| o.outcome != Outcome::Ok).cloned().collect();
    assert_eq!(bad.len(), 1);
    assert_eq!((bad[0].outcome, bad[0].latency()), (Outcome::Slow, Duration::from_secs(400)));
    assert_eq!(bad[0].delivery.as_ref(), Some(&arrived));
    assert_eq!(bad[0].reason.as_ref().map(|r| r.text.as_str()), Some("arrived after 6m 40s"));
    let bytes: i64 = place.sql().query_row("SELECT sum(length(data)) FROM block", [], |r| r.get(0)).expect("a sum");
    assert!(bytes < 3 * 1_440 * 6, "{bytes} bytes for three days of deliveries");
}

#[test]
fn a_damaged_block_names_its_check_and_day_and_harms_no_other() {
    let place = Place::new();
    let mut writer = delivered(&place);
    writer.commit(&[observed("mail/b", at(60), Outcome::Ok, 5)]).expect("a commit");
    maintain(&mut writer, LATER, &KEEP);
    place
        .sql()
        .execute("UPDATE block SET data = CAST(substr(data, 1, 500) || x'A5' || substr(data, 502) AS BLOB) WHERE id >> 44 = ?1", [DAY + 1])
        .expect("damaged");
    let reader = place.reader();
    let of = |from, to| reader.seen(&check("mail/a"), at(from), at(to)).map(|all| all.len());
    let error = of(0, 3 * 86_400).expect_err("damage is found").to_string();
    assert!(error.contains("mail/a of 2024-10-05 are damaged"), "{error}");
    assert!(reader.past(&check("mail/a"), at(86_400), at(90_000), |_| true).is_err());
    assert_eq!(of(0, 86_400).expect("the day before"), 1_440);
    assert_eq!(of(2 * 86_400, 3 * 86_400).expect("the day after"), 1_440);
    assert_eq!(reader.seen(&check("mail/b"), at(0), at(86_400)).expect("another check").len(), 1);
}

#[test]
fn a_check_that_is_asked_seldom_still_tells_how_it_stands() {
    let place = Place::new();
    let mut writer = place.writer();
    restore(&mut writer, at(0), &["mail/weekly"]);
    let mut failed = Observation::new(at(60), Outcome::Failed, Duration::from_millis(5));
    failed.reason = Some(Reason::new(Phase::Connect, Kind::Refused, "connection refused"));
    let commit = Commit { observation: Some((check("mail/weekly"), failed.clone())), ..Commit::default() };
    writer.commit(&[commit]).expect("a commit");
    maintain(&mut writer, LATER, &KEEP);
    let checks = place.reader().checks().expect("checks");
    assert_eq!(checks[0].last.as_ref(), Some(&failed));
    let shown: String =
        place.sql().query_row("SELECT last_outcome FROM checks", [], |row| row.get(0)).expect("the view tells it too");
    assert_eq!(shown, "failed");
    assert_eq!(restore(&mut writer, LATER, &["mail/weekly"]).recent[&check("mail/weekly")], [failed]);
}

#[test]
fn blocks_go_when_their_time_is_over() {
    let place = Place::new();
    let mut writer = delivered(&place);
    maintain(&mut writer, LATER, &KEEP);
    let days = |place: &Place| -> i64 {
        place.sql().query_row("SELECT count(DISTINCT id >> 44) FROM block", [], |row| row.get(0)).expect("a count")
    };
    assert_eq!(days(&place), 3);
    let keep = Keep { blocks: Duration::from_secs(8 * 86_400), ..KEEP };
    maintain(&mut writer, LATER, &keep);
    assert_eq!(days(&place), 2);
    assert_eq!(everything(&place)[&check("mail/a")].len(), 2 * 1_440);
}

#[test]
fn a_day_of_many_observations_has_several_blocks() {
    let place = Place::new();
    let mut writer = place.writer();
    restore(&mut writer, at(0), &["mail/a"]);
    let count = 40_000;
    let commits: Vec<_> = (0..count)
        .map(|n| observed("mail/a", Timestamp::from_millis(at(0).as_millis() + n * 2_000), Outcome::Ok, 7))
        .collect();
    commits.chunks(5_000).for_each(|group| writer.commit(group).expect("a commit"));
    maintain(&mut writer, LATER, &KEEP);
    let parts: i64 = place.sql().query_row("SELECT count(*) FROM block", [], |row| row.get(0)).expect("a count");
    assert_eq!(parts, (count as usize).div_ceil(crate::store::block::ROWS_MAX) as i64);
    let seen = place.reader().seen(&check("mail/a"), at(0), LATER).expect("the past");
    assert_eq!(seen.len(), count as usize);
    assert!(seen.is_sorted_by_key(|s| s.at));
}

#[test]
fn what_is_kept_as_rows_for_as_long_as_its_roll_up_is_sealed_all_the_same() {
    for (raw_days, daily_days) in [(2, 2), (2, 1), (3, 2)] {
        let days = |n: u64| Duration::from_secs(n * 86_400);
        let keep = Keep { raw: days(raw_days), blocks: days(400), daily: days(daily_days) };
        let place = Place::new();
        let mut writer = delivered(&place);
        for hour in 70..220 {
            maintain(&mut writer, at(hour * 3_600), &keep);
        }
        let kept = everything(&place)[&check("mail/a")].len();
        assert_eq!(kept, 3 * 1_440, "rows for {raw_days} days, roll-ups for {daily_days}");
        let rolled: i64 = place.sql().query_row("SELECT count(*) FROM daily", [], |row| row.get(0)).expect("a count");
        assert_eq!(rolled, 0);
        assert_eq!(exported(&place, None)[&check("mail/a")].len(), kept);
    }
}

#[test]
fn what_is_rolled_back_in_the_middle_of_sealing_is_sealed_anew() {
    let place = Place::new();
    let mut writer = delivered(&place);
    let keep = Keep { daily: Duration::from_secs(2 * 86_400), ..KEEP };
    for _ in 0..200 {
        let done = writer.maintain(at(5 * 86_400), &keep).expect("upkeep works");
        // A group that is refused, as far as upkeep knows in the middle of a day.
        let (first, mut other) = (message(1, "ops", None, at(0)), message(1, "ops", None, at(0)));
        other.key = "another".into();
        let twice = Commit { messages: vec![first, other], ..Commit::default() };
        assert!(writer.commit(&[twice]).is_err());
        if !done.more {
            break;
        }
    }
    maintain(&mut writer, LATER, &keep);
    assert_eq!(everything(&place)[&check("mail/a")].len(), 3 * 1_440);
}

#[test]
fn what_is_damaged_of_one_check_hides_no_other() {
    let place = Place::new();
    let mut writer = delivered(&place);
    writer.commit(&[observed("mail/b", at(60), Outcome::Ok, 5)]).expect("a commit");
    maintain(&mut writer, LATER, &KEEP);
    // Seen since, and its evidence damaged in between.
    let mut failed = Observation::new(LATER, Outcome::Failed, Duration::from_millis(5));
    failed.reason = Some(Reason::new(Phase::Connect, Kind::Refused, "connection refused"));
    for (seconds, outcome) in [(1, Outcome::Ok), (2, Outcome::Failed), (3, Outcome::Ok)] {
        let at = LATER + Duration::from_secs(seconds);
        let o = match outcome {
            Outcome::Failed => Observation { at, ..failed.clone() },
            _ => Observation::new(at, outcome, Duration::from_millis(5)),
        };
        writer.commit(&[Commit { observation: Some((check("mail/c"), o)), ..Commit::default() }]).expect("a commit");
    }
    let sql = place.sql();
    sql.execute("UPDATE evidence SET json = '{' WHERE json LIKE '%refused%'", []).expect("damaged");
    sql.execute("UPDATE block SET data = x'0102' WHERE id >> 44 = ?1", [DAY + 2]).expect("damaged");
    let count = |known: &super::Whole, name: &str| known.recent.get(&check(name)).map_or(0, Vec::len);
    let known = restore(&mut writer, LATER, &["mail/a", "mail/b", "mail/c"]);
    assert_eq!((count(&known, "mail/a"), count(&known, "mail/b"), count(&known, "mail/c")), (0, 1, 2));
    let checks = place.reader().checks().expect("checks");
    let told: Vec<_> = checks.iter().map(|c| (c.check.as_str(), c.last.is_some())).collect();
    assert_eq!(told, [("mail/a", false), ("mail/b", true), ("mail/c", true)]);
    assert!(place.reader().knows(&check("mail/a")).expect("checks"));
}

#[test]
fn a_sealed_day_is_told_also_when_its_roll_up_is_gone() {
    let place = Place::new();
    let mut writer = delivered(&place);
    writer.commit(&[observed("mail/b", at(60), Outcome::Ok, 5)]).expect("a commit");
    let keep = Keep { daily: Duration::from_secs(7 * 86_400), ..KEEP };
    maintain(&mut writer, LATER, &keep);
    let rolled: i64 =
        place.sql().query_row("SELECT count(DISTINCT day) FROM daily", [], |row| row.get(0)).expect("a count");
    assert_eq!(rolled, 2);
    let all = everything(&place);
    assert_eq!((all[&check("mail/a")].len(), all[&check("mail/b")].len()), (3 * 1_440, 1));
}
