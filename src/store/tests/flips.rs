//! A bit flipped anywhere in the file: noticed or harmless, never the end of the daemon.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{KEEP, NOW, Place, at, check, keeping::GENERATED, observed, watched};
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

/// Everything a daemon and its commands do with a file; whether anything was noticed. Generated rows are not all as a
/// core would make them: `usual` is what is found without any damage.
fn live(path: &Path, usual: &[Finding]) -> bool {
    let mut noticed = false;
    let mut note = |failed: bool| noticed |= failed;
    match Writer::open(path, NOW) {
        Err(_) => note(true),
        Ok(mut writer) => {
            match writer.restore(at(90_000), &[watched("mail/c1", 30), watched("mail/round-trip", 30)]) {
                Err(_) => note(true),
                Ok(restored) => {
                    let text = format!("{restored:?}");
                    assert!(!text.is_empty());
                }
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
    noticed | read(path, usual)
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
    live(&place.path, &[]);
    let usual = place.reader().check().expect("a check").findings;
    assert!(usual.iter().all(|f| GENERATED.contains(&f.rule)), "{usual:?}");
    fs::write(&place.path, &whole).expect("written");
    assert!(!live(&place.path, &usual), "nothing is wrong with it before");
    let seed = std::env::var("BONGSU_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(7);
    let mut random = fastrand::Rng::with_seed(seed);
    let begun = crate::clock::instant();
    let (mut noticed, mut of_head) = (0, 0);
    for flip in 0..FLIPS {
        // Every tenth in the first page, where the header and the schema begin.
        let offset = if flip % 10 == 0 { random.usize(..4_096) } else { random.usize(..whole.len()) };
        let mut damaged = whole.clone();
        damaged[offset] ^= 1 << random.u8(..8);
        fs::write(&place.path, &damaged).expect("written");
        for suffix in ["db-wal", "db-shm"] {
            let _ = fs::remove_file(place.path.with_extension(suffix));
        }
        let found = std::panic::catch_unwind(|| live(&place.path, &usual));
        let found = found.unwrap_or_else(|_| panic!("seed {seed}, flip {flip} at {offset}: a panic"));
        noticed += usize::from(found);
        of_head += usize::from(found && offset < 4_096);
    }
    println!("{noticed} of {FLIPS} noticed, {of_head} of them in the first page, in {:?}", begun.elapsed());
    // The others fell into free space, or into a text or a number that still is one.
    assert!(noticed > FLIPS / 10, "{noticed}");
    assert!(begun.elapsed() < Duration::from_secs(300));
}
