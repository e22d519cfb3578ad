//! Messages in flight: kept before they are sent, until the fate of all of their attempt is final.

use std::time::Duration;

use super::{NOW, Place, at, check, maintain};
use crate::{
    decide::Commit,
    observation::{Accept, Correction, Delivery, Fate, Flight, Integrity, Observation, Outcome},
    value::Timestamp,
};

fn flight(sequence: u64, observed_at: Timestamp) -> Flight {
    // Numbers beyond what a signed integer holds come back as they were.
    Flight::new(sequence, u64::MAX - sequence, observed_at + Duration::from_millis(3), observed_at)
}

fn sending(flights: &[Flight]) -> Commit {
    Commit { sending: Some((check("chat/a"), flights.to_vec())), ..Commit::default() }
}

fn observed(observed_at: Timestamp, flights: Vec<Flight>) -> Commit {
    let mut o = Observation::new(observed_at, Outcome::Slow, Duration::from_millis(20));
    o.delivery = Some(Delivery { open: flights, ..Delivery::new(Fate::Pending, Accept::Accepted, 7) });
    Commit { observation: Some((check("chat/a"), o)), ..Commit::default() }
}

#[test]
fn what_is_in_flight_survives_until_its_fate_is_final() {
    let place = Place::new();
    let mut writer = place.writer();
    let nothing = writer.resume(&check("chat/a")).expect("readable");
    assert_eq!((nothing.sequence, nothing.flights), (0, vec![]));

    let [first, second] = [flight(7, at(10)), flight(8, at(10))];
    writer.commit(&[sending(&[first, second])]).expect("a commit");
    drop(writer);
    let mut writer = place.writer();
    let cut_off = writer.resume(&check("chat/a")).expect("readable");
    assert_eq!((cut_off.sequence, &cut_off.flights), (8, &vec![first, second]));
    assert_eq!(cut_off.key, nothing.key, "messages of earlier runs are known for one's own");
    assert_eq!(writer.resume(&check("chat/b")).expect("readable").flights, [], "each check has its own");

    let arrived = Flight {
        answer: Some((Accept::Accepted, Duration::from_micros(1_200))),
        arrival: Some((Duration::from_micros(46_200), Integrity::Normalised)),
        duplicates: 2,
        reordered: true,
        booked: true,
        ..first
    };
    let open = Flight { answer: Some((Accept::Uncertain, Duration::from_millis(5))), booked: true, ..second };
    writer.commit(&[observed(at(10), vec![arrived, open])]).expect("a commit");
    // One of its attempt is open, so both stay, also beyond further attempts.
    let third = flight(9, at(20));
    writer.commit(&[sending(&[third])]).expect("a commit");
    assert_eq!(writer.resume(&check("chat/a")).expect("readable").flights, [arrived, open, third]);

    let correction = Correction {
        observed_at: at(10),
        account: None,
        outcome: Outcome::Slow,
        delivery: Delivery::new(Fate::Late, Accept::Uncertain, 7),
        reason: None,
        details: Default::default(),
    };
    writer
        .commit(&[Commit { correction: Some((check("chat/a"), correction)), ..Commit::default() }])
        .expect("a commit");
    let resumed = writer.resume(&check("chat/a")).expect("readable");
    assert_eq!((resumed.sequence, resumed.flights), (9, vec![third]), "the fate of all of the attempt is final");
}

#[test]
fn the_sequence_goes_on_after_what_was_told_last() {
    let place = Place::new();
    let mut writer = place.writer();
    let mut commit = observed(at(10), vec![]);
    if let Some((_, o)) = &mut commit.observation {
        let fates = crate::observation::Fates { arrived: 20, ..Default::default() };
        o.delivery = Some(Delivery { fates, ..Delivery::new(Fate::Arrived, Accept::Accepted, 101) });
    }
    writer.commit(&[commit]).expect("a commit");
    assert_eq!(writer.resume(&check("chat/a")).expect("readable").sequence, 120);
}

#[test]
fn nobody_waits_for_ever() {
    let place = Place::new();
    let mut writer = place.writer();
    let (old, young) = (flight(1, NOW - Duration::from_secs(3 * 3_600)), flight(2, NOW - Duration::from_secs(60)));
    writer.commit(&[sending(&[old, young])]).expect("a commit");
    maintain(&mut writer, NOW, &super::KEEP);
    assert_eq!(writer.resume(&check("chat/a")).expect("readable").flights, [young]);
}
