//! What can go wrong with the store: what, where, and what to do about it.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use super::open;

/// Findings of an integrity check that are kept: the first few tell the story, a wrecked file has thousands.
pub const FINDINGS_MAX: usize = 10;

/// Why the store could not do as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The directory for the file is missing.
    #[error(
        "cannot create the database {}: its directory does not exist; create it, or set `store.path` to another place",
        path.display()
    )]
    NoDirectory {
        /// The database file.
        path: PathBuf,
    },
    /// There is no such file, and a reader creates none.
    #[error("there is no database at {}; `bongsu run` creates it, or set `store.path` to where it is", path.display())]
    Missing {
        /// The database file.
        path: PathBuf,
    },
    /// The file cannot be opened.
    #[error("cannot open the database {}: {reason}; check its owner and permissions", path.display())]
    Open {
        /// The database file.
        path: PathBuf,
        /// In the words of the operating system or SQLite.
        reason: String,
    },
    /// Another daemon writes to it.
    #[error(
        "the database {} is in use by another bongsu{holder}; stop that one first, or set `store.path` to another file",
        path.display()
    )]
    Locked {
        /// The database file.
        path: PathBuf,
        /// ` (process 123)`, if known.
        holder: String,
    },
    /// Some other program holds SQLite's write lock.
    #[error(
        "another program keeps the database {} locked (while {doing}); end its transaction, such as an open sqlite3 shell",
        path.display()
    )]
    Busy {
        /// The database file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
    },
    /// The file is something else.
    #[error(
        "{} is not a database of bongsu; set `store.path` to another file, this one was left as it is. If it was one, its \
         first page is damaged: move the file with its -wal and -shm aside and restore a backup",
        path.display()
    )]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// The file was taken away from under the writer.
    #[error(
        "the database {} was removed or replaced while bongsu writes to it; what is recorded now is gone when it stops: \
         restart bongsu, which goes on with what is there then, or makes a new one",
        path.display()
    )]
    Gone {
        /// The database file.
        path: PathBuf,
    },
    /// A newer bongsu made it.
    #[error(
        "the database {} has schema version {found}, this bongsu knows versions up to {known}; run the newer bongsu, \
         or restore the backup from before the upgrade",
        path.display()
    )]
    Newer {
        /// The database file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version known.
        known: i64,
    },
    /// SQLite finds the file damaged.
    #[error(
        "the database {} is damaged (while {doing}): {findings}; `bongsu db check` says more. Stop bongsu, move the file \
         with its -wal and -shm aside, and restore a backup (`bongsu db backup` makes them), or save what is left by \
         `sqlite3 FILE .recover`; without a file bongsu begins a new one",
        path.display()
    )]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the check found.
        findings: String,
    },
    /// An earlier bongsu made it, and readers change nothing.
    #[error(
        "the database {} is of an earlier version (schema version {found}, this bongsu reads {known}); `bongsu run` brings \
         it up to date when it starts",
        path.display()
    )]
    Older {
        /// The database file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The version that can be read.
        known: i64,
    },
    /// There is no descriptor to open it with.
    #[error(
        "no file descriptor is left to open the database {}; raise the limit (`ulimit -n`, `LimitNOFILE=` of a unit), or \
         end what holds so many",
        path.display()
    )]
    Descriptors {
        /// The database file.
        path: PathBuf,
    },
    /// No space is left.
    #[error(
        "no space is left for the database {} (while {doing}); free some, or shorten `store.keep`; nothing of this was \
         written",
        path.display()
    )]
    Full {
        /// The database file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
    },
    /// It may not be written.
    #[error(
        "the database {} cannot be written (while {doing}); check its owner, its directory's permissions and whether \
         the file system is mounted read-only",
        path.display()
    )]
    ReadOnly {
        /// The database file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
    },
    /// The disk failed.
    #[error("the disk failed under the database {} (while {doing}): {reason}; look at the kernel's log", path.display())]
    Disk {
        /// The database file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// In SQLite's words.
        reason: String,
    },
    /// What was to be written contradicts what is there, or what is there cannot be understood.
    #[error(
        "the database {} and bongsu disagree (while {doing}): {reason}. The file is damaged or was edited, or this is a bug \
         in bongsu; `bongsu db check` says more. To go on, move the file with its -wal and -shm aside and restore a backup; \
         without a file bongsu begins a new one",
        path.display()
    )]
    Inconsistent {
        /// The database file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What does not fit.
        reason: String,
    },
    /// The target of a backup exists.
    #[error("{} exists already; name another file, or say that it may be replaced (--force)", path.display())]
    Exists {
        /// The target.
        path: PathBuf,
    },
    /// The target of a backup is a database somebody may be using.
    #[error("{} is not replaced by a backup: {why}; name another file", path.display())]
    InUse {
        /// The target.
        path: PathBuf,
        /// What speaks against it.
        why: &'static str,
    },
    /// The copy cannot be written.
    #[error("the copy {} cannot be written: {reason}", path.display())]
    Copy {
        /// The target.
        path: PathBuf,
        /// In the words of the operating system or SQLite.
        reason: String,
    },
    /// Anything else SQLite says.
    #[error("the database {} failed (while {doing}): {source}", path.display())]
    Sqlite {
        /// The database file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// SQLite's error.
        source: rusqlite::Error,
    },
}

/// A failure below the public interface, which does not know the file's name.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
    #[error("{0}")]
    Inconsistent(String),
}

impl Fault {
    /// With the file and the activity, for people.
    pub(super) fn at(self, path: &Path, doing: &'static str) -> StoreError {
        let path = path.to_owned();
        let source = match self {
            Self::Sql(source) => source,
            Self::Inconsistent(reason) => return StoreError::Inconsistent { path, doing, reason },
        };
        let reason = source.to_string();
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => StoreError::Full { path, doing },
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => StoreError::ReadOnly { path, doing },
            Some(ErrorCode::DatabaseCorrupt) => StoreError::Damaged { path, doing, findings: reason },
            Some(ErrorCode::NotADatabase) => StoreError::NotOurs { path },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy { path, doing },
            // SQLite has no word of its own for either.
            Some(ErrorCode::CannotOpen) if open::lacks_descriptors() => StoreError::Descriptors { path },
            Some(ErrorCode::SystemIoFailure) if open::is_full(&path) => StoreError::Full { path, doing },
            Some(ErrorCode::SystemIoFailure) => StoreError::Disk { path, doing, reason },
            Some(ErrorCode::CannotOpen) => StoreError::Open { path, reason },
            Some(ErrorCode::ConstraintViolation) => StoreError::Inconsistent { path, doing, reason },
            _ => StoreError::Sqlite { path, doing, source },
        }
    }
}
