//! Files as they are met: new, old, newer, foreign, damaged, held by another, copied.

use std::{collections::BTreeSet, fs, time::Duration};

use super::{NOW, Place, at, check, observed};
use crate::{
    observation::Outcome,
    store::{
        Keep, Reader, Replace, StoreError, Writer,
        open::{APPLICATION_ID, MIGRATIONS, VIEWS},
    },
};

#[test]
fn a_new_database_keeps_its_identity() {
    let place = Place::new();
    let first = place.writer().instance().to_owned();
    assert_eq!(first.len(), 32);
    assert_eq!(place.writer().instance(), first);
    assert_eq!(place.reader().instance().expect("an identity"), first);
    assert_ne!(Place::new().writer().instance(), first);
    let mode: String = place.sql().query_row("PRAGMA journal_mode", [], |row| row.get(0)).expect("a mode");
    assert_eq!(mode, "wal");
}

#[test]
fn what_cannot_be_opened_says_what_to_do() {
    let place = Place::new();
    let dir = place.path.parent().expect("it lies in a directory");
    let far = dir.join("missing/bongsu.db");
    let error = Writer::open(&far, NOW).err().expect("no directory");
    assert!(error.to_string().contains("its directory does not exist; create it"), "{error}");
    let error = Reader::open(&place.path).err().expect("no file");
    assert!(error.to_string().contains("`bongsu run` creates it"), "{error}");

    let text = dir.join("notes.txt");
    fs::write(&text, "These are notes and no database, and they are longer than a page header. ".repeat(20))
        .expect("written");
    let other = dir.join("other.db");
    rusqlite::Connection::open(&other).expect("opened").execute_batch("CREATE TABLE t (x)").expect("a table");
    for path in [&text, &other] {
        let before = fs::read(path).expect("read");
        for error in [Writer::open(path, NOW).err(), Reader::open(path).err()] {
            let error = error.expect("it is not ours");
            assert!(matches!(error, StoreError::NotOurs { .. }), "{error}");
        }
        assert_eq!(fs::read(path).expect("read"), before, "it was left as it is");
    }
    // An empty file is a new database, as `touch` or a crash at the very start leave it.
    let empty = dir.join("empty.db");
    fs::write(&empty, "").expect("written");
    assert!(matches!(Reader::open(&empty), Err(StoreError::NotOurs { .. })));
    Writer::open(&empty, NOW).expect("made");
}

#[test]
fn a_second_writer_is_refused_until_the_first_is_gone() {
    let place = Place::new();
    let first = place.writer();
    let error = Writer::open(&place.path, NOW).err().expect("held");
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    assert!(error.to_string().contains(&format!("(process {})", std::process::id())), "{error}");
    drop(first);
    place.writer();
}

#[test]
fn a_file_taken_away_is_noticed() {
    let place = Place::new();
    let mut writer = place.writer();
    let day = Duration::from_secs(86_400);
    let keep = Keep { raw: day, blocks: day, daily: day };
    writer.maintain(NOW, &keep).expect("it is there");
    fs::remove_file(&place.path).expect("removed");
    let error = writer.maintain(NOW, &keep).expect_err("it is gone");
    assert!(error.to_string().contains("was removed or replaced"), "{error}");
    fs::write(&place.path, "").expect("another one");
    assert!(matches!(writer.maintain(NOW, &keep), Err(StoreError::Gone { .. })));
}

#[test]
fn a_newer_database_is_left_alone() {
    let place = Place::new();
    drop(place.writer());
    place.sql().pragma_update(None, "user_version", 1_000).expect("set");
    for error in [Writer::open(&place.path, NOW).err(), Reader::open(&place.path).err()] {
        let error = error.expect("newer").to_string();
        assert!(error.contains("schema version 1000") && error.contains("run the newer bongsu"), "{error}");
    }
}

/// What a release with schema version 1 left behind; never changed.
const FIXTURE_V1: &str = include_str!("../fixtures/v1.sql");

#[test]
fn every_earlier_version_is_migrated() {
    for version in 1..=MIGRATIONS.len() {
        let place = Place::new();
        let sql = place.sql();
        sql.execute_batch(MIGRATIONS[0]).expect("the first version");
        sql.execute_batch(FIXTURE_V1).expect("its content");
        for migration in &MIGRATIONS[1..version] {
            sql.execute_batch(migration).expect("a migration");
        }
        sql.execute_batch(VIEWS).expect("the views");
        sql.pragma_update(None, "application_id", APPLICATION_ID).expect("set");
        sql.pragma_update(None, "user_version", version as i64).expect("set");
        drop(sql);
        let earlier = version < MIGRATIONS.len();
        match Reader::open(&place.path) {
            Err(error @ StoreError::Older { .. }) if earlier => {
                assert!(error.to_string().contains("`bongsu run` brings it up to date"), "{error}");
            }
            other => assert!(!earlier && other.is_ok(), "version {version}"),
        }
        let any = Reader::open_any(&place.path).expect("it can be checked and copied");
        let audit = any.check().expect("a check");
        // What this one's checks go on from has another form by now.
        assert!((audit.findings.is_empty() || !earlier) && audit.earlier.is_some() == earlier, "{audit:?}");
        any.backup(&place.path.with_file_name("copy.db"), Replace::Never).expect("a copy of the same version");
        drop(any);
        let mut writer = place.writer();
        assert_eq!(writer.instance(), "00112233445566778899aabbccddeeff");
        let restored = super::restore(&mut writer, at(120), &["mail/a"]);
        let recent = &restored.recent[&check("mail/a")];
        assert_eq!(recent.iter().map(|o| o.outcome).collect::<Vec<_>>(), [Outcome::Ok, Outcome::Failed]);
        assert_eq!(recent[1].reason.as_ref().map(|r| r.text.as_str()), Some("connection refused"));
        assert_eq!(restored.states[&check("mail/a")].state, "suspect");
        let now: i64 = place.sql().query_row("PRAGMA user_version", [], |row| row.get(0)).expect("a version");
        assert_eq!(now, MIGRATIONS.len() as i64);
    }
}

/// A database with enough rows for several pages, closed so that there is no log beside it.
fn filled(place: &Place) {
    let mut writer = place.writer();
    for round in 0..10 {
        let group: Vec<_> = (0..300)
            .map(|i| observed(&format!("mail/c{}", i % 7), at(round * 1_000 + i), Outcome::Failed, 5))
            .collect();
        writer.commit(&group).expect("a commit");
    }
}

#[test]
fn a_damaged_file_is_an_error_and_never_a_panic() {
    let place = Place::new();
    filled(&place);
    let whole = fs::read(&place.path).expect("read");
    let mut refused = 0;
    let mut seed = fastrand::Rng::with_seed(7);
    // The header byte by byte, then pages at random; some damage lies in free space and harms nobody.
    let places = (0..100).step_by(3).chain(std::iter::repeat_with(|| seed.usize(100..whole.len())).take(50));
    for offset in places.collect::<Vec<_>>() {
        let mut damaged = whole.clone();
        let end = (offset + 24).min(damaged.len());
        damaged[offset..end].iter_mut().for_each(|byte| *byte ^= 0xA5);
        fs::write(&place.path, &damaged).expect("written");
        let _ = fs::remove_file(place.path.with_extension("db-wal"));
        let _ = fs::remove_file(place.path.with_extension("db-shm"));
        match Writer::open(&place.path, NOW) {
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().is_empty());
            }
            Ok(mut writer) => {
                let _ = super::try_restore(&mut writer, at(20_000), &[super::watched("mail/c1", 30)]);
                let _ = writer.commit(&[observed("mail/c1", at(20_000), Outcome::Ok, 5)]);
                let _ = writer.maintain(at(400_000), &super::KEEP);
                let _ = writer.check();
            }
        }
        if let Ok(reader) = Reader::open(&place.path) {
            let _ = reader.checks();
            let _ = reader.recent(&check("mail/c2"), 100);
            let _ = reader.messages(false, 10);
        }
    }
    assert!(refused > 20, "damage was noticed {refused} times of 84");
    // Cut off in the middle, as a full disk or a bad copy leaves it.
    fs::write(&place.path, &whole[..whole.len() / 2]).expect("written");
    let error = Writer::open(&place.path, NOW).err().expect("half a file").to_string();
    assert!(error.contains("is damaged") && error.contains("restore a backup"), "{error}");
}

#[test]
fn a_reader_sees_whole_groups_while_the_writer_writes() {
    let place = Place::new();
    let mut writer = place.writer();
    writer.commit(&[observed("mail/a", at(0), Outcome::Ok, 1)]).expect("a commit");
    let path = place.path.clone();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let reading = std::thread::spawn(move || {
        let reader = Reader::open(&path).expect("opened to read");
        let mut seen = BTreeSet::new();
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            let count = reader.recent(&check("mail/a"), 10_000).expect("observations").len();
            assert_eq!(count % 10, 1, "a group was seen in part");
            seen.insert(count);
        }
        seen
    });
    for round in 0..100 {
        let group: Vec<_> = (0..10).map(|i| observed("mail/a", at(1 + round * 10 + i), Outcome::Ok, 1)).collect();
        writer.commit(&group).expect("a commit");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let seen = reading.join().expect("the reader did well");
    assert!(!seen.is_empty());
    assert_eq!(place.reader().recent(&check("mail/a"), 10_000).expect("observations").len(), 1_001);
}

#[test]
fn a_copy_taken_in_the_middle_of_a_transaction_is_consistent() {
    let place = Place::new();
    let mut writer = place.writer();
    writer.commit(&[observed("mail/a", at(0), Outcome::Ok, 1)]).expect("a commit");
    let big: Vec<_> = (0..20_000).map(|i| observed("mail/a", at(1 + i), Outcome::Failed, 1)).collect();
    let (db, wal) = (place.path.clone(), place.path.with_extension("db-wal"));
    let writing = std::thread::spawn(move || {
        writer.commit(&big).expect("a commit");
        writer
    });
    let mut copies = 0;
    while !writing.is_finished() && copies < 20 {
        let copy = Place::new();
        // The file before its log: the log then holds at least what the file lacks.
        fs::copy(&db, &copy.path).expect("copied");
        fs::copy(&wal, copy.path.with_extension("db-wal")).expect("copied");
        let found = copy.writer();
        assert!(found.check().expect("a check").is_empty());
        let count = copy.reader().between(&check("mail/a"), at(0), at(30_000)).expect("observations").len();
        assert!(count == 1 || count == crate::store::ROWS_MAX, "{count}");
        copies += 1;
        std::thread::sleep(Duration::from_millis(3));
    }
    writing.join().expect("the writer did well");
    assert!(copies > 0);
}

#[test]
fn a_backup_is_whole_and_overwrites_only_what_it_may() {
    let place = Place::new();
    filled(&place);
    let mut writer = place.writer();
    let target = place.path.with_file_name("copy.db");
    place.reader().backup(&target, Replace::Never).expect("a backup beside the writer");
    assert!(matches!(writer.backup(&target, Replace::Never), Err(StoreError::Exists { .. })));
    let nowhere = writer.backup(&place.path.with_file_name("no/copy.db"), Replace::Never);
    assert!(matches!(nowhere, Err(StoreError::Copy { .. })), "{nowhere:?}");
    let itself = writer.backup(&place.path, Replace::Existing);
    assert!(matches!(itself, Err(StoreError::InUse { .. })), "{itself:?}");
    let other = place.path.with_file_name("other.db");
    let used = Writer::open(&other, NOW).expect("another database");
    assert!(matches!(writer.backup(&other, Replace::Existing), Err(StoreError::InUse { .. })), "its log is beside it");
    drop(used);
    // Under none of the names that belong to it, there or not, by whatever way.
    let directory = place.path.parent().expect("it lies in a directory");
    let way = directory.join("way");
    std::os::unix::fs::symlink(directory, &way).expect("a link");
    let mut belongs = Vec::new();
    for suffix in ["-wal", "-shm", "-journal", ".lock", ".reserve"] {
        belongs.extend([directory, &way].map(|at| at.join(format!("bongsu.db{suffix}"))));
    }
    belongs.push(directory.join("other.db-journal"));
    fs::hard_link(directory.join("bongsu.db-wal"), directory.join("another-name")).expect("a link");
    belongs.push(directory.join("another-name"));
    for target in belongs {
        let refused = writer.backup(&target, Replace::Existing);
        assert!(matches!(refused, Err(StoreError::InUse { .. })), "{}: {refused:?}", target.display());
    }
    writer.backup(&other, Replace::Existing).expect("nobody uses it any more");
    assert_eq!(Reader::open(&other).expect("opened").instance().expect("an identity"), writer.instance());
    writer.commit(&[observed("mail/c1", at(90_000), Outcome::Ok, 5)]).expect("a commit");
    let copy = Reader::open(&target).expect("opened");
    assert_eq!(copy.check().expect("a check").findings, []);
    assert_eq!(copy.instance().expect("an identity"), writer.instance());
    let before = copy.recent(&check("mail/c1"), 1_000).expect("observations").len();
    assert_eq!(place.reader().recent(&check("mail/c1"), 1_000).expect("observations").len(), before + 1);
}

#[cfg(unix)]
#[test]
fn a_file_that_may_only_be_read_can_be_read() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    filled(&place);
    let dir = place.path.parent().expect("it lies in a directory");
    fs::set_permissions(dir, fs::Permissions::from_mode(0o555)).expect("set");
    // The superuser may write anyway; then this says less.
    let count = place.reader().recent(&check("mail/c1"), 10).expect("observations").len();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("set");
    assert_eq!(count, 10);
}

/// docs/store.md describes every view with every column, in order, and nothing that is not there.
#[test]
fn the_documented_views_are_the_views() {
    let doc = include_str!("../../../docs/store.md");
    let mut documented: Vec<(String, Vec<String>)> = Vec::new();
    for line in doc.lines() {
        if let Some(name) = line.strip_prefix("## `").and_then(|rest| rest.strip_suffix('`')) {
            documented.push((name.to_owned(), Vec::new()));
        } else if line.starts_with("## ") {
            documented.push((String::new(), Vec::new()));
        } else if let Some(rest) = line.strip_prefix("| `")
            && let Some((_, columns)) = documented.last_mut()
        {
            columns.push(rest.split('`').next().unwrap_or_default().to_owned());
        }
    }
    documented.retain(|(name, _)| !name.is_empty());
    let place = Place::new();
    drop(place.writer());
    let sql = place.sql();
    let mut views: BTreeSet<String> = sql
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'view' AND name <> 'open_daily'")
        .expect("prepared")
        .query_map([], |row| row.get(0))
        .expect("asked")
        .collect::<Result<_, _>>()
        .expect("names");
    for (view, columns) in documented {
        assert!(views.remove(&view), "`{view}` is documented and is no view, or documented twice");
        let real: Vec<String> = sql
            .prepare(&format!("SELECT * FROM {view} LIMIT 0"))
            .expect("the view can be asked")
            .column_names()
            .map(str::to_owned)
            .collect();
        assert_eq!(columns, real, "columns of `{view}`");
    }
    assert!(views.is_empty(), "not documented: {views:?}");
}

#[test]
fn queries_in_the_documentation_work() {
    let place = Place::new();
    filled(&place);
    let sql = place.sql();
    let doc = include_str!("../../../docs/store.md");
    let mut count = 0;
    for block in doc.split("```sql\n").skip(1) {
        let query = block.split("```").next().expect("a block has an end");
        let query: String = query.lines().filter(|l| !l.starts_with("--")).map(|l| format!("{l}\n")).collect();
        for statement in query.split(';').filter(|s| !s.trim().is_empty()) {
            let mut prepared = sql.prepare(statement).unwrap_or_else(|e| panic!("{statement}: {e}"));
            let mut rows = prepared.query([]).expect("asked");
            while rows.next().expect("answered").is_some() {}
            count += 1;
        }
    }
    assert!(count >= 4, "{count}");
}
