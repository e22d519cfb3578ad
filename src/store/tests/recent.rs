//! The latest observations of many checks, read all at once: the same as each check's for itself.

use std::{collections::BTreeMap, time::Duration};

use super::{KEEP, NOW, Place, at, check, gone_on_from, maintain, observed};
use crate::{
    observation::{Observation, Outcome},
    store::{RECENT_MAX, RECENT_MIN, Watched, Writer, read},
    value::{CheckName, Timestamp},
};

/// Reads both ways; how many were found of each.
fn both_ways(writer: &Writer, now: Timestamp, watched: &[Watched]) -> BTreeMap<CheckName, usize> {
    let mut found: Vec<Vec<Observation>> = vec![Vec::new(); watched.len()];
    writer.recent(now, watched, |place, o| found[place].push(o.clone())).expect("observations");
    let mut counts = BTreeMap::new();
    for (w, found) in watched.iter().zip(found) {
        let alone = read::recent(&writer.connection, &w.check, now - w.window, RECENT_MIN, RECENT_MAX);
        let alone: Vec<_> = alone.expect("observations").iter().map(gone_on_from).collect();
        let found: Vec<_> = found.iter().map(gone_on_from).collect();
        assert_eq!(found, alone, "{}", w.check);
        counts.insert(w.check.clone(), found.len());
    }
    counts
}

fn watched(name: &str, window_s: u64) -> Watched {
    Watched { check: check(name), window: Duration::from_secs(window_s), interval: Duration::from_secs(30) }
}

/// Every so often one of each, the attempts of one check in one commit.
fn write(writer: &mut Writer, checks: &[(&str, i64)], to_s: i64) {
    for (name, every_s) in checks {
        let one = |s: i64| observed(name, at(s), if s % 7 == 0 { Outcome::Failed } else { Outcome::Ok }, s as u64);
        let all: Vec<_> = (0..to_s).step_by(*every_s as usize).map(one).collect();
        writer.commit(&all).expect("a commit");
    }
}

#[test]
fn windows_of_all_lengths_are_read_as_each_for_itself() {
    let place = Place::new();
    let mut writer = place.writer();
    assert!(both_ways(&writer, at(0), &[watched("mail/a", 600)]).values().all(|n| *n == 0), "nothing is stored");
    write(&mut writer, &[("mail/a", 1), ("mail/b", 10), ("mail/c", 60), ("mail/gone", 5)], 4_000);
    let all = [watched("mail/a", 600), watched("mail/b", 600), watched("mail/c", 60), watched("mail/never", 600)];
    let counts = both_ways(&writer, at(4_000), &all);
    let counts: Vec<_> = counts.into_values().collect();
    assert_eq!(counts, [600, 60, RECENT_MIN, 0]);
    // A window that reaches beyond what is stored, and one of more than is ever read.
    let counts = both_ways(&writer, at(4_000), &[watched("mail/a", 86_400), watched("mail/b", 86_400)]);
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [RECENT_MAX, 400]);
    // Clocks that were set back: what is stored last lies before the rest.
    writer.commit(&[observed("mail/b", at(1_234), Outcome::Failed, 5)]).expect("a commit");
    both_ways(&writer, at(4_000), &[watched("mail/b", 86_400)]);
}

#[test]
fn a_check_that_is_seldom_asked_among_many_is_read_by_its_chain() {
    let place = Place::new();
    let mut writer = place.writer();
    write(&mut writer, &[("mail/seldom", 1_000), ("mail/a", 1), ("mail/b", 1)], 30_000);
    let counts = both_ways(&writer, at(30_000), &[watched("mail/seldom", 600), watched("mail/b", 60)]);
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [60, RECENT_MIN]);
}

#[test]
fn what_is_sealed_is_read_with_what_is_not() {
    let place = Place::new();
    let mut writer = place.writer();
    let old: Vec<_> = (0..50).map(|n| observed("mail/a", at(n * 60 - 4 * 86_400), Outcome::Ok, 5)).collect();
    writer.commit(&old).expect("a commit");
    maintain(&mut writer, NOW, &KEEP);
    let new: Vec<_> = (0..5).map(|n| observed("mail/a", at(n * 60), Outcome::Ok, 5)).collect();
    writer.commit(&new).expect("a commit");
    writer.commit(&(0..700).map(|s| observed("mail/b", at(s), Outcome::Ok, 5)).collect::<Vec<_>>()).expect("a commit");
    let counts = both_ways(&writer, at(700), &[watched("mail/a", 600), watched("mail/b", 600)]);
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [RECENT_MIN, 600]);
}
