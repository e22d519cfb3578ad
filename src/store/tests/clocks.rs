//! A wall clock that goes ahead and comes back: nothing of the past is lost by it.

use std::time::Duration;

use proptest::{prelude::*, sample::select};

use super::{DAY, KEEP, NOW, Place, at, check, maintain, observed, restore};
use crate::{
    decide::Commit,
    observation::{Kind, Observation, Outcome, Phase, Reason},
    store::{Cursor, Keep, Writer, encode::DAY_MS},
    value::Timestamp,
};

const HOUR: Duration = Duration::from_secs(3_600);

const FAR: Timestamp = Timestamp::from_millis((DAY + 2_000) * DAY_MS);

/// An attempt that failed, with evidence that is the same each time.
fn failed(name: &str, at: Timestamp) -> Commit {
    let mut o = Observation::new(at, Outcome::Failed, Duration::from_millis(7));
    o.reason = Some(Reason::new(Phase::Connect, Kind::Refused, "connection refused"));
    Commit { observation: Some((check(name), o)), ..Commit::default() }
}

/// All that is there of a check, by each way to read it, which must agree.
fn all(place: &Place, name: &str) -> Vec<Observation> {
    let (reader, name) = (place.reader(), check(name));
    let mut past = Vec::new();
    let keep = |of_day: Vec<Observation>| {
        past.extend(of_day);
        true
    };
    reader.past(&name, Timestamp::EPOCH, FAR, keep).expect("the past");
    let (mut exported, mut next) = (Vec::new(), Some(Cursor::at(Timestamp::EPOCH)));
    while let Some(from) = next {
        let part = reader.export(from, FAR, Some(&name), 7).expect("an export");
        exported.extend(part.rows.into_iter().map(|(_, o)| o));
        next = part.next;
    }
    exported.sort_by_key(|o| o.at);
    assert_eq!(exported, past);
    let between = reader.between(&name, Timestamp::EPOCH, FAR).expect("observations");
    assert_eq!(between, past);
    assert!(
        past.iter().all(|o| o.outcome != Outcome::Failed || o.reason.is_some() || o.at < day(-400)),
        "evidence is lost: {past:?}"
    );
    past
}

fn day(n: i64) -> Timestamp {
    at(n * 86_400)
}

/// What the roll-up of a day and check has counted.
fn counted(place: &Place, n: i64) -> i64 {
    let sql = "SELECT coalesce(sum(ok + slow + failed + unknown), 0) FROM daily WHERE day = ?1";
    place.sql().query_row(sql, [DAY + n], |row| row.get(0)).expect("a count")
}

#[test]
fn a_clock_that_goes_ahead_for_a_while_makes_nothing_old() {
    for days in [30, 410] {
        let place = Place::new();
        let mut writer = place.writer();
        restore(&mut writer, NOW, &["mail/a"]);
        for n in -9..0 {
            writer.commit(&[failed("mail/a", day(n) + HOUR)]).expect("a commit");
        }
        maintain(&mut writer, NOW, &KEEP);
        writer.commit(&[failed("mail/a", NOW)]).expect("a commit");
        let tables = |place: &Place| {
            ["block", "observation", "daily", "meta"].map(|table| {
                let sql = format!("SELECT count(*) FROM {table}");
                place.sql().query_row(&sql, [], |row| row.get::<_, i64>(0)).expect("a count")
            })
        };
        let before = tables(&place);
        let wrong = NOW + Duration::from_secs(days * 86_400);
        let done = writer.maintain_by(wrong, HOUR, &KEEP).expect("upkeep works");
        assert!(done.put_off && !done.more, "{done:?}");
        for minute in 1..60 {
            let passed = Duration::from_secs(60 * minute);
            let done = writer.maintain_by(wrong + passed, HOUR + passed, &KEEP).expect("upkeep works");
            assert_eq!(done, crate::store::Maintained::default(), "said once, and nothing is done");
        }
        assert_eq!(tables(&place), before);
        // A day more than was recorded needs no hour, and one that was off for long goes on after it.
        let done = writer.maintain_by(NOW + HOUR, 3 * HOUR, &KEEP).expect("upkeep works");
        assert!(!done.put_off);
        assert!(writer.maintain_by(wrong, 3 * HOUR, &KEEP).expect("upkeep works").put_off);
        assert!(writer.maintain_by(wrong + HOUR, 4 * HOUR, &KEEP).expect("upkeep works").more);
    }
}

/// A machine without a clock of its own begins in 1970, until it is told the time.
#[test]
fn a_clock_that_begins_anew_hides_nothing() {
    let place = Place::new();
    let mut writer = place.writer();
    restore(&mut writer, NOW, &["mail/a"]);
    for n in -9..=0 {
        writer.commit(&[failed("mail/a", day(n) + HOUR)]).expect("a commit");
    }
    maintain(&mut writer, NOW, &KEEP);
    drop(writer);
    let mut writer = place.writer();
    let known = restore(&mut writer, Timestamp::EPOCH, &["mail/a"]);
    assert_eq!(known.recent[&check("mail/a")].len(), 10);
    writer.commit(&[failed("mail/a", Timestamp::EPOCH + HOUR)]).expect("a commit");
    maintain(&mut writer, Timestamp::EPOCH + 2 * HOUR, &KEEP);
    assert_eq!((counted(&place, -9), counted(&place, -1)), (1, 1));
    maintain(&mut writer, NOW + HOUR, &KEEP);
    writer.commit(&[failed("mail/a", NOW + HOUR)]).expect("a commit");
    assert_eq!(all(&place, "mail/a").len(), 12);
    let seen = place.reader().seen(&check("mail/a"), day(-20), FAR).expect("the past");
    assert_eq!(seen.len(), 11, "those before the clock began anew among them");
    assert_eq!(place.reader().check().expect("a check").findings, []);
}

#[test]
fn what_arrives_before_the_boundary_is_read_rolled_up_and_sealed() {
    let place = Place::new();
    let mut writer = place.writer();
    restore(&mut writer, NOW, &["mail/a", "mail/b"]);
    for n in -4..=0 {
        writer.commit(&[failed("mail/a", day(n) + HOUR), failed("mail/b", day(n) + 2 * HOUR)]).expect("a commit");
    }
    // The clock is a month ahead for long enough to be believed, then right again.
    let wrong = day(30) + HOUR;
    maintain(&mut writer, wrong, &KEEP);
    writer.commit(&[failed("mail/a", wrong)]).expect("a commit");
    maintain(&mut writer, wrong + 2 * HOUR, &KEEP);
    assert_eq!(counted(&place, 0), 2);
    writer.commit(&[failed("mail/a", NOW), failed("mail/c", NOW)]).expect("a commit");
    assert_eq!(all(&place, "mail/a").len(), 7);
    maintain(&mut writer, NOW + HOUR, &KEEP);
    drop(writer);
    let mut writer = place.writer();
    let known = restore(&mut writer, NOW, &["mail/a"]);
    assert!(known.recent[&check("mail/a")].iter().any(|o| o.at == NOW), "what came last is gone on from");
    maintain(&mut writer, NOW + HOUR, &KEEP);
    writer.commit(&[failed("mail/a", NOW + 2 * HOUR)]).expect("a commit");
    assert_eq!((all(&place, "mail/a").len(), all(&place, "mail/c").len()), (8, 1));
    // Days go by; each is rolled up when it is over, and kept raw for as long as ever.
    for n in 1..9 {
        writer.commit(&[failed("mail/a", day(n) + HOUR)]).expect("a commit");
        maintain(&mut writer, day(n) + 2 * HOUR, &KEEP);
        let raw = "SELECT count(*) FROM observation WHERE (id >> 8) / 86400000 = ?1";
        let raw: i64 = place.sql().query_row(raw, [DAY + n - 1], |row| row.get(0)).expect("a count");
        assert!(n == 1 || raw == 1, "{raw} of the day before day {n}");
    }
    assert_eq!((counted(&place, 0), counted(&place, 1), counted(&place, 7)), (5, 1, 1));
    assert_eq!((all(&place, "mail/a").len(), all(&place, "mail/b").len(), all(&place, "mail/c").len()), (16, 5, 1));
    let left: i64 = place
        .sql()
        .query_row("SELECT count(*) FROM observation WHERE id < (?1 * 86400000) << 8", [DAY + 6], |row| row.get(0))
        .expect("a count");
    assert_eq!(left, 2, "the latest of the two checks that have none since");
    assert_eq!(place.reader().check().expect("a check").findings, []);
}

/// What can happen.
#[derive(Clone, Debug)]
enum Step {
    /// The clock is set, by so many hours.
    Set(i64),
    /// Time passes, in hours, and so often something is seen.
    Pass(i64, i64),
    Restart,
    Maintain,
    /// A few pieces of upkeep, of which something may be left.
    MaintainInPart(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        select(vec![-900, -49, -30, -5, 5, 30, 49, 100, 900]).prop_map(Step::Set),
        (1..40_i64, 1..6_i64).prop_map(|(hours, times)| Step::Pass(hours, times)),
        Just(Step::Restart),
        Just(Step::Maintain),
        (1..6_usize).prop_map(Step::MaintainInPart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn however_the_clock_is_set_nothing_is_lost(steps in prop::collection::vec(step(), 1..30)) {
        let keep = Keep { raw: 24 * HOUR, blocks: 24 * 9_000 * HOUR, daily: 24 * 9_000 * HOUR };
        let place = Place::new();
        let mut writer = place.writer();
        restore(&mut writer, NOW, &["mail/a", "mail/b"]);
        let (mut now, mut told) = (NOW.as_millis(), [0_usize, 0]);
        for step in steps {
            match step {
                Step::Set(hours) => now += hours * 3_600_000,
                Step::Pass(hours, times) => {
                    for _ in 0..times {
                        // No two at one instant, however often the clock shows it.
                        now += hours * 3_600_000 / times + told[0] as i64 + 1;
                        told[0] += 1;
                        writer.commit(&[failed("mail/a", Timestamp::from_millis(now))]).expect("a commit");
                    }
                    told[1] += 1;
                    let outcome = observed("mail/b", Timestamp::from_millis(now + 1), Outcome::Ok, 5);
                    writer.commit(&[outcome]).expect("a commit");
                }
                Step::Restart => {
                    drop(writer);
                    writer = place.writer();
                    restore(&mut writer, Timestamp::from_millis(now), &["mail/a", "mail/b"]);
                }
                Step::Maintain => {
                    maintain(&mut writer, Timestamp::from_millis(now), &keep);
                }
                Step::MaintainInPart(pieces) => {
                    for _ in 0..pieces {
                        writer.maintain(Timestamp::from_millis(now), &keep).expect("upkeep works");
                    }
                }
            }
        }
        prop_assert_eq!([all(&place, "mail/a").len(), all(&place, "mail/b").len()], told);
        settle(&mut writer, now, &keep);
        prop_assert_eq!([all(&place, "mail/a").len(), all(&place, "mail/b").len()], told);
        let sum: i64 = place
            .sql()
            .query_row("SELECT coalesce(sum(ok + slow + failed + unknown), 0) FROM daily", [], |row| row.get(0))
            .expect("a sum");
        prop_assert_eq!(sum as usize, told[0] + told[1]);
        prop_assert_eq!(place.reader().check().expect("a check").findings, []);
    }
}

/// Upkeep when all of it is long over.
fn settle(writer: &mut Writer, now: i64, keep: &Keep) {
    let _ = writer.commit(&[]);
    maintain(writer, Timestamp::from_millis(now.max(NOW.as_millis()) + 300 * DAY_MS), keep);
}
