//! A bit flipped anywhere in the file: noticed or harmless, never the end of the daemon.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use super::{KEEP, NOW, Place, Whole, at, check, keeping::GENERATED, observed, try_restore, watched};
use crate::{
    observation::{Kind, Outcome, Phase, Reason},
    store::{Cursor, Finding, IncidentQuery, Reader, StoreError, Writer},
    value::Timestamp,
};

/// Files tried, each with one other bit flipped.
const FLIPS: usize = 1_000;

/// A database of a few dozen pages in which every table has rows.
fn filled(place: &Place) {
    use proptest::{
        strategy::{Strategy, ValueTree},
        test_runner::TestRunner,
    };
    let mut writer = place.writer();
    let mut runner = TestRunner::deterministic();
    let commits = proptest::collection::vec(super::generate::commit(), 60);
    writer.commit(&commits.new_tree(&mut runner).expect("generated").current()).expect("a commit");
    for s in 0..600 {
        let mut commit = observed(&format!("mail/c{}", s % 5), at(s), Outcome::Failed, 5);
        if let Some((_, o)) = &mut commit.observation {
            o.reason = Some(Reason::new(Phase::Connect, Kind::Refused, format!("connection {s} refused")));
        }
        writer.commit(&[commit]).expect("a commit");
    }
    super::maintain(&mut writer, NOW, &KEEP);
}

fn restore(writer: &mut Writer) -> Result<Whole, StoreError> {
    try_restore(writer, at(90_000), &[watched("mail/c1", 30), watched("mail/round-trip", 30)])
}

/// No alert and nothing a check goes on from is other than it was written; whether something is there that was not, or
/// is not that was.
fn is_other(restored: &Whole, whole: &Whole) -> bool {
    for incident in &restored.incidents {
        let was = whole.incidents.iter().find(|i| i.id == incident.id);
        assert!(was.is_none_or(|was| was == incident), "an incident has changed: {incident:?}");
    }
    for message in &restored.messages {
        let was = whole.messages.iter().find(|m| m.id == message.id);
        assert!(was.is_none_or(|was| was == message), "a message has changed: {message:?}");
    }
    for (check, state) in &restored.states {
        let was = whole.states.get(check);
        // A further key is what a damaged name of the sum leaves, and nobody asks for it.
        let has = |(key, value): (&String, &Value)| state.memory.get(key) == Some(value);
        let is_whole = was.is_none_or(|was| was.memory.as_object().is_none_or(|o| o.iter().all(has)));
        assert!(is_whole, "what {check} goes on from has changed: {state:?}");
    }
    assert!(restored.next_incident >= whole.next_incident, "a number of an incident would be given again");
    assert!(restored.next_message >= whole.next_message, "a number of a message would be given again");
    restored.incidents != whole.incidents
        || restored.messages != whole.messages
        || !restored.states.keys().eq(whole.states.keys())
        || restored.vantage != whole.vantage
}

/// Everything a daemon and its commands do with a file; whether anything was noticed. Generated rows are not all as a
/// core would make them: `usual` is what is found without any damage, `whole` what is restored.
fn live(path: &Path, usual: &[Finding], whole: Option<&Whole>) -> bool {
    let (mut noticed, mut other) = (false, false);
    let mut note = |failed: bool| noticed |= failed;
    match Writer::open(path, NOW) {
        Err(error) => {
            assert!(!error.to_string().is_empty());
            note(true);
        }
        Ok(mut writer) => {
            match restore(&mut writer) {
                Err(_) => note(true),
                Ok(restored) => other = whole.is_some_and(|whole| is_other(&restored, whole)),
            }
            note(writer.resume(&check("mail/round-trip")).is_err());
            for s in 0..3 {
                let error = writer.commit(&[observed("mail/c1", at(90_000 + s), Outcome::Ok, 5)]).err();
                // What stops a daemon for good; it is noticed, and said.
                note(error.is_some());
            }
            note(writer.maintain(at(400_000), &KEEP).is_err());
        }
    }
    noticed |= read(path, usual);
    assert!(noticed || !other, "something is missing, and nobody notices");
    noticed
}

fn read(path: &Path, usual: &[Finding]) -> bool {
    let reader = match Reader::open(path) {
        Ok(reader) => reader,
        Err(error) => {
            assert!(!matches!(error, StoreError::Missing { .. }), "{error}");
            return true;
        }
    };
    let mut noticed = match reader.check() {
        Ok(audit) => audit.findings != usual,
        Err(_) => true,
    };
    noticed |= reader.checks().is_err();
    noticed |= reader.outbox().is_err();
    noticed |= reader.messages(false, 100).is_err();
    noticed |= reader.recent(&check("mail/c2"), 1_000).is_err();
    match reader.incidents(&IncidentQuery::default()) {
        Ok(all) => noticed |= all.iter().any(|i| reader.incident(i.id).is_err()),
        Err(_) => noticed = true,
    }
    match reader.export(Cursor::at(Timestamp::EPOCH), Timestamp::from_millis(i64::MAX), None, 10_000) {
        // What can be read can be shown.
        Ok(exported) => exported.rows.iter().for_each(|(name, o)| drop(o.to_json(name, "test").to_string())),
        Err(_) => noticed = true,
    }
    noticed
}

/// In memory where the machine has such a place: a thousand files are written and synced.
fn fast_place() -> Place {
    let shm = PathBuf::from("/dev/shm");
    let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.expect("a directory");
    let path = dir.path().join("bongsu.db");
    Place { _dir: dir, path }
}

#[test]
fn a_flipped_bit_is_noticed_or_harmless() {
    let place = fast_place();
    filled(&place);
    let whole = fs::read(&place.path).expect("read");
    live(&place.path, &[], None);
    let usual = place.reader().check().expect("a check").findings;
    assert!(usual.iter().all(|f| GENERATED.contains(&f.rule)), "{usual:?}");
    let anew = |bytes: &[u8]| {
        fs::write(&place.path, bytes).expect("written");
        for suffix in ["db-wal", "db-shm"] {
            let _ = fs::remove_file(place.path.with_extension(suffix));
        }
    };
    anew(&whole);
    let restored = restore(&mut place.writer()).expect("it is whole");
    assert!(restored.incidents.len() > 1 && restored.messages.len() > 1 && restored.states.len() > 1);
    anew(&whole);
    assert!(!live(&place.path, &usual, Some(&restored)), "nothing is wrong with it before");
    let seed = std::env::var("BONGSU_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(7);
    let mut random = fastrand::Rng::with_seed(seed);
    let begun = crate::clock::instant();
    let (mut noticed, mut of_head) = (0, 0);
    for flip in 0..FLIPS {
        // Every tenth in the first page, where the header and the schema begin.
        let offset = if flip % 10 == 0 { random.usize(..4_096) } else { random.usize(..whole.len()) };
        let mut damaged = whole.clone();
        damaged[offset] ^= 1 << random.u8(..8);
        anew(&damaged);
        let found = std::panic::catch_unwind(|| live(&place.path, &usual, Some(&restored)));
        let found = found.unwrap_or_else(|_| panic!("seed {seed}, flip {flip} at {offset}: a panic"));
        noticed += usize::from(found);
        of_head += usize::from(found && offset < 4_096);
    }
    println!("{noticed} of {FLIPS} noticed, {of_head} of them in the first page, in {:?}", begun.elapsed());
    // The others fell into free space, or into a text or a number that still is one.
    assert!(noticed > FLIPS / 10, "{noticed}");
    assert!(begun.elapsed() < Duration::from_secs(300));
}
