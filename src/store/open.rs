//! Opening the file: whose it is, who holds it, whether it is whole, and which version it has.
//!
//! `PRAGMA application_id` tells a database of bongsu from any other, `PRAGMA user_version` is the number of
//! migrations it has seen. A new file and every migration are made in one transaction each, so a crash leaves the
//! version before or the version after. The writer holds an advisory lock on a file beside the database for as long
//! as it lives: SQLite's own lock is free between transactions and would let two daemons alternate.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, TransactionBehavior, config::DbConfig};

use super::error::{FINDINGS_MAX, Fault, StoreError};
use crate::value::Timestamp;

/// `bngs`: marks a file as ours.
pub(super) const APPLICATION_ID: i64 = 0x626e_6773;

/// One SQL text per version, first to last; never changed once released.
pub(super) const MIGRATIONS: &[&str] =
    &[include_str!("migrations/001.sql"), include_str!("migrations/002.sql"), include_str!("migrations/003.sql")];

/// The views, made anew after every migration.
pub(super) const VIEWS: &str = include_str!("migrations/views.sql");

/// Longest wait for another program's transaction (a sqlite3 shell, a backup): longer would stall the monitoring.
pub(super) const BUSY_WAIT: Duration = Duration::from_secs(2);

/// The WAL file is cut to this after a checkpoint, so that one burst does not keep its space for ever.
const WAL_BYTES_KEPT: i64 = 16 * 1024 * 1024;

/// Tables looked at closely at start: what a daemon goes on from, and small beside the observations.
const CLOSELY: [&str; 7] = ["meta", "known_check", "state", "incident", "incident_member", "message", "flight"];

/// Statements kept prepared: more than the writer and a reader use.
const STATEMENTS_KEPT: usize = 64;

/// Pages kept in memory, in KiB: the newest ones, to which everything is appended. What is older the system keeps.
const CACHE_KIB: i64 = 512;

/// Size of the index of a WAL, at least.
const INDEX_BYTES: u64 = 32 * 1024;

/// Opens the database for its one writer, making or migrating it.
pub(super) fn open_writer(path: &Path, now: Timestamp) -> Result<(Connection, File), StoreError> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        return Err(StoreError::NoDirectory { path: path.to_owned() });
    }
    let lock = lock(path)?;
    let mut connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(|e| Fault::from(e).at(path, "opening it"))?;
    let fault = |e: rusqlite::Error| Fault::from(e).at(path, "opening it");
    connection.busy_timeout(BUSY_WAIT).map_err(fault)?;
    prepare_once(&connection).map_err(fault)?;

    let found = version(&connection, path)?;
    if found == 0 {
        // Must come before the first table; later it would need a VACUUM of the whole file.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(fault)?;
    }
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())).map_err(fault)?;
    // FULL, because NORMAL loses acknowledged commits when the power fails, and a commit may hold an alert.
    connection.pragma_update(None, "synchronous", "FULL").map_err(fault)?;
    connection.pragma_update_and_check(None, "journal_size_limit", WAL_BYTES_KEPT, |_| Ok(())).map_err(fault)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB).map_err(fault)?;
    if found > 0 {
        quick_check(&connection, path)?;
    }
    migrate(&mut connection, path, found, now)?;
    Ok((connection, lock))
}

/// Opens the database for reading, beside a writer or without one; also one of an earlier version, if `any`.
pub(super) fn open_reader(path: &Path, any: bool) -> Result<Connection, StoreError> {
    if !path.is_file() {
        return Err(StoreError::Missing { path: path.to_owned() });
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let open = |uri: String| -> Result<Connection, StoreError> {
        let connection =
            Connection::open_with_flags(uri, flags).map_err(|e| Fault::from(e).at(path, "opening it to read"))?;
        connection.busy_timeout(BUSY_WAIT).map_err(|e| Fault::from(e).at(path, "opening it to read"))?;
        prepare_once(&connection).map_err(|e| Fault::from(e).at(path, "opening it to read"))?;
        let found = version(&connection, path)?;
        if found == 0 {
            return Err(StoreError::NotOurs { path: path.to_owned() });
        }
        let known = MIGRATIONS.len() as i64;
        if found < known && !any {
            return Err(StoreError::Older { path: path.to_owned(), found, known });
        }
        Ok(connection)
    };
    let uri = file_uri(path)?;
    match open(uri.clone()) {
        // In a directory that may not be written, or on a full disk, SQLite cannot make the index of the WAL. Without a
        // WAL there is no writer and nothing beside the file to read, so it can be read as a file that does not change.
        Err(
            StoreError::Open { .. } | StoreError::ReadOnly { .. } | StoreError::Full { .. } | StoreError::Disk { .. },
        ) if wal_bytes(path) == 0 => open(format!("{uri}?immutable=1")),
        other => other,
    }
}

/// Statements stay prepared, and stay as they were prepared: otherwise SQLite plans anew for every value bound where
/// its planner might look at it, such as a key or a LIMIT, which costs many times what the statement does.
fn prepare_once(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

fn file_uri(path: &Path) -> Result<String, StoreError> {
    let reason = |reason: String| StoreError::Open { path: path.to_owned(), reason };
    let absolute = std::path::absolute(path).map_err(|e| reason(e.to_string()))?;
    let url = url::Url::from_file_path(&absolute).map_err(|()| reason("its name is no absolute path".into()))?;
    Ok(url.into())
}

/// Size of the write-ahead log beside a database; 0 when there is none.
pub(super) fn wal_bytes(path: &Path) -> u64 {
    std::fs::metadata(beside(path, "-wal")).map_or(0, |m| m.len())
}

/// Bytes the owner of a file may still write beside it; `None` when the file system does not say.
pub(super) fn space(path: &Path) -> Option<u64> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let found = rustix::fs::statvfs(parent).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Whether there is no room even for the index of a WAL.
pub(super) fn is_full(path: &Path) -> bool {
    space(path).is_some_and(|bytes| bytes < INDEX_BYTES)
}

/// Whether a file cannot be opened for lack of descriptors: what opened none must not hold one.
pub(super) fn lacks_descriptors() -> bool {
    use rustix::io::Errno;
    let lacks = |e: std::io::Error| {
        let error = e.raw_os_error().unwrap_or(0);
        error == Errno::MFILE.raw_os_error() || error == Errno::NFILE.raw_os_error()
    };
    File::open("/dev/null").err().is_some_and(lacks)
}

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Takes the writer's lock and writes who has it.
fn lock(path: &Path) -> Result<File, StoreError> {
    let cannot = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            StoreError::ReadOnly { path: path.to_owned(), doing: "making its lock file" }
        }
        std::io::ErrorKind::StorageFull => StoreError::Full { path: path.to_owned(), doing: "making its lock file" },
        _ => StoreError::Open { path: path.to_owned(), reason: format!("its lock file: {e}") },
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(beside(path, ".lock"))
        .map_err(cannot)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // Bounded: a process number has few digits, and the file may be anything. Unreadable is unknown.
            let _ = (&file).take(20).read_to_string(&mut text);
            let pid = text.trim().parse::<u32>().ok();
            let holder = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
            return Err(StoreError::Locked { path: path.to_owned(), holder });
        }
        Err(TryLockError::Error(e)) => return Err(cannot(e)),
    }
    file.set_len(0).map_err(cannot)?;
    file.rewind().map_err(cannot)?;
    writeln!(file, "{}", std::process::id()).map_err(cannot)?;
    Ok(file)
}

/// The schema version of a file: 0 for a new one. Refuses files that are not ours or newer than we are.
fn version(connection: &Connection, path: &Path) -> Result<i64, StoreError> {
    let read = |sql: &str| -> Result<i64, StoreError> {
        connection.query_row(sql, [], |row| row.get(0)).map_err(|e| Fault::from(e).at(path, "reading its version"))
    };
    let (owner, found) = (read("PRAGMA application_id")?, read("PRAGMA user_version")?);
    let empty = read("SELECT count(*) FROM sqlite_schema")? == 0;
    let known = MIGRATIONS.len() as i64;
    match (owner, found) {
        (0, 0) if empty => Ok(0),
        (APPLICATION_ID, found) if found > known => Err(StoreError::Newer { path: path.to_owned(), found, known }),
        (APPLICATION_ID, found) if found > 0 => Ok(found),
        _ => Err(StoreError::NotOurs { path: path.to_owned() }),
    }
}

fn migrate(connection: &mut Connection, path: &Path, found: i64, now: Timestamp) -> Result<(), StoreError> {
    let known = MIGRATIONS.len() as i64;
    if found == known {
        return Ok(());
    }
    let doing = if found == 0 { "making it" } else { "migrating it to this version" };
    let mut run = || -> Result<(), Fault> {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Dropped first: a migration may change a table that a view names.
        let views: Vec<String> = tx
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'view'")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for view in views {
            tx.execute_batch(&format!("DROP VIEW \"{}\"", view.replace('"', "\"\"")))?;
        }
        for sql in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(0)) {
            tx.execute_batch(sql)?;
        }
        tx.execute_batch(VIEWS)?;
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
        tx.pragma_update(None, "user_version", known)?;
        if found == 0 {
            let instance: String = crate::clock::random_bytes::<16>().iter().map(|b| format!("{b:02x}")).collect();
            tx.execute("INSERT INTO meta (key, value) VALUES ('instance', ?1)", [instance])?;
            tx.execute("INSERT INTO meta (key, value) VALUES ('created_at', ?1)", [now.as_millis()])?;
        }
        Ok(tx.commit()?)
    };
    run().map_err(|e| e.at(path, doing))
}

/// SQLite's own check of every page (about a second per gigabyte), but of every index entry only where a table is small
/// and a daemon goes on from it.
fn quick_check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let look = || -> Result<Vec<String>, Fault> {
        let mut found = findings(connection, "quick_check")?;
        let close: &[&str] = if found.is_empty() { &CLOSELY } else { &[] };
        for table in close {
            found.extend(integrity_of(connection, table)?);
        }
        Ok(found)
    };
    let findings = look().map_err(|e| e.at(path, "checking it at start"))?;
    if findings.is_empty() {
        return Ok(());
    }
    Err(StoreError::Damaged { path: path.to_owned(), doing: "checking it at start", findings: findings.join("; ") })
}

/// What `PRAGMA quick_check` or `PRAGMA integrity_check` finds; nothing when all is well.
pub(super) fn findings(connection: &Connection, pragma: &str) -> Result<Vec<String>, Fault> {
    let mut statement = connection.prepare(&format!("PRAGMA {pragma}({FINDINGS_MAX})"))?;
    let lines: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(lines.into_iter().filter(|line| line != "ok").collect())
}

/// What SQLite finds wrong with one table and its indexes; of one that is not there yet, nothing.
fn integrity_of(connection: &Connection, table: &str) -> Result<Vec<String>, Fault> {
    let known = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?1";
    if connection.query_row(known, [table], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(Vec::new());
    }
    let mut statement = connection.prepare(&format!("PRAGMA integrity_check({table})"))?;
    let lines: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(lines.into_iter().filter(|line| line != "ok").take(FINDINGS_MAX).collect())
}

/// What tells one file from another at the same path: device and inode.
pub(super) fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}
