//! A copy of the database, whole and of one instant, taken beside its writer.
//!
//! The copy is made under another name in the target's directory, checked, synced, and only then moved into place: at
//! no instant is there half a copy under the name that was asked for.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use rusqlite::{
    Connection, ErrorCode,
    backup::{Backup, StepResult},
};

use super::{
    error::{Fault, StoreError},
    open,
    reader::Reader,
    writer::Writer,
};

const DOING: &str = "copying the database";

/// Whether a copy may take the place of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// A file that exists is an error.
    Never,
    /// It is replaced in one step, unless a database in use stands there.
    Existing,
}

impl Reader {
    /// Copies the database to a file while a daemon goes on writing; gives the copy's size in bytes.
    ///
    /// # Errors
    /// When the target exists and may not be replaced, or is this database or another one in use; when it cannot be
    /// written; when what was copied is found damaged. Then nothing is left of the copy.
    pub fn backup(&self, to: &Path, replace: Replace) -> Result<u64, StoreError> {
        backup(&self.connection, &self.path, to, replace)
    }
}

impl Writer {
    /// SQLite's full integrity check: what it finds, nothing when all is well.
    pub fn check(&self) -> Result<Vec<String>, StoreError> {
        open::findings(&self.connection, "integrity_check").map_err(|e| e.at(&self.path, "checking it"))
    }

    /// See [`Reader::backup`]; blocks the writer for as long as it takes.
    pub fn backup(&self, to: &Path, replace: Replace) -> Result<u64, StoreError> {
        backup(&self.connection, &self.path, to, replace)
    }
}

fn backup(from: &Connection, path: &Path, to: &Path, replace: Replace) -> Result<u64, StoreError> {
    refuse(path, to, replace)?;
    let cannot = |e: std::io::Error| StoreError::Copy { path: to.to_owned(), reason: e.to_string() };
    let directory = directory_of(to);
    // Removed when it is dropped; readable by its owner only, as what it holds is for operators.
    let made = tempfile::Builder::new().prefix(".bongsu-backup-").tempfile_in(&directory).map_err(cannot)?;
    copy(from, path, made.path(), to)?;
    made.as_file().sync_all().map_err(cannot)?;
    let bytes = made.as_file().metadata().map_err(cannot)?.len();
    let placed = match replace {
        Replace::Never => made.persist_noclobber(to),
        Replace::Existing => made.persist(to),
    };
    placed.map_err(|e| match e.error.kind() {
        std::io::ErrorKind::AlreadyExists => StoreError::Exists { path: to.to_owned() },
        _ => cannot(e.error),
    })?;
    // The name must survive a power cut as well as the content.
    File::open(&directory).and_then(|d| d.sync_all()).map_err(cannot)?;
    Ok(bytes)
}

fn directory_of(path: &Path) -> PathBuf {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

fn refuse(path: &Path, to: &Path, replace: Replace) -> Result<(), StoreError> {
    let in_use = |why| Err(StoreError::InUse { path: to.to_owned(), why });
    if !directory_of(to).is_dir() {
        let reason = "its directory does not exist".into();
        return Err(StoreError::Copy { path: to.to_owned(), reason });
    }
    if let Some(why) = is_companion(path, to) {
        return in_use(why);
    }
    if to.symlink_metadata().is_err() {
        return Ok(());
    }
    if replace == Replace::Never {
        return Err(StoreError::Exists { path: to.to_owned() });
    }
    if !to.is_file() {
        return in_use("it is no plain file");
    }
    if open::identity(to).is_some() && open::identity(to) == open::identity(path) {
        return in_use("it is the database itself");
    }
    // A log left beside would be taken for the copy's own and destroy it.
    if open::wal_bytes(to) > 0 {
        return in_use("it is a database with a write-ahead log beside it, so somebody may be using it");
    }
    Ok(())
}

/// Why a name is not for a copy: what lies under it belongs to a database, or would be taken for it.
fn is_companion(path: &Path, to: &Path) -> Option<&'static str> {
    let there = open::identity(to);
    let ours = |suffix: &&str| {
        let companion = open::beside(path, suffix);
        same_name(&companion, to) || (there.is_some() && there == open::identity(&companion))
    };
    if COMPANIONS.iter().chain(&[".lock", ".reserve"]).any(ours) {
        return Some("it belongs to the database");
    }
    let name = to.file_name()?.to_str()?;
    let database = COMPANIONS.iter().find_map(|suffix| name.strip_suffix(suffix))?;
    to.with_file_name(database).exists().then_some("it would be taken for the log of the database beside it")
}

/// What SQLite keeps beside a database.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Whether two paths, of files there or not, lead to one name in one directory.
fn same_name(a: &Path, b: &Path) -> bool {
    let directory = |path: &Path| open::identity(&directory_of(path));
    a.file_name() == b.file_name() && directory(a) == directory(b)
}

/// Copies into an empty file and looks whether what arrived is whole.
fn copy(from: &Connection, path: &Path, made: &Path, to: &Path) -> Result<(), StoreError> {
    let run = || -> Result<Vec<String>, Fault> {
        let mut target = Connection::open(made)?;
        // All pages in one step: one read transaction, so the writer beside it cannot make it begin anew.
        match Backup::new(from, &mut target)?.step(-1)? {
            StepResult::Done => {}
            _ => return Err(busy().into()),
        }
        // A single file, whoever carries it away: no log beside it.
        target.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()))?;
        let findings = open::findings(&target, "integrity_check")?;
        target.close().map_err(|(_, e)| e)?;
        Ok(findings)
    };
    match run() {
        Ok(findings) if findings.is_empty() => Ok(()),
        Ok(findings) => Err(StoreError::Damaged { path: path.to_owned(), doing: DOING, findings: findings.join("; ") }),
        Err(Fault::Sql(e)) if is_of_source(&e) => Err(Fault::Sql(e).at(path, DOING)),
        Err(e) => Err(StoreError::Copy { path: to.to_owned(), reason: e.to_string() }),
    }
}

fn busy() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY), None)
}

/// Whether it is the database that is at fault, and not the place of the copy.
fn is_of_source(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked
        )
    )
}
