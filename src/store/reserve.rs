//! Space set aside beside the database, to be given up when the disk is full.
//!
//! The file holds nothing but zeros, written rather than left as a hole, so that its space is really taken. When a
//! commit finds no space, the file goes and the commit is tried again: an incident and its messages fit many times
//! over. Once the disk has room enough the file is made anew.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{error::StoreError, open, writer::Writer};
use crate::value::Timestamp;

/// Size of the reserve: hundreds of commits that tell of an incident, or hours of plain observations written a minute
/// at a time; small enough for the smallest volume a database is put on.
pub const RESERVE_BYTES: u64 = 4 * 1024 * 1024;

/// Free space below which a disk counts as full. Making the reserve must leave that much, or it would take away
/// again what it has just given.
const SPACE_BYTES_MIN: u64 = RESERVE_BYTES;

/// Zeros written at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// The file of one database, there or not.
pub(super) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    pub fn of(database: &Path) -> Self {
        Self { path: open::beside(database, ".reserve") }
    }

    fn is_held(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|m| m.len() >= RESERVE_BYTES)
    }

    /// Gives the space back; whether there was any.
    pub fn release(&self) -> bool {
        if !fs::metadata(&self.path).is_ok_and(|m| m.is_file() && m.len() > 0) {
            return false;
        }
        // Emptied first: a file system that copies on write may lack the space to remove a name.
        let emptied = OpenOptions::new().write(true).truncate(true).open(&self.path).is_ok();
        fs::remove_file(&self.path).is_ok() || emptied
    }

    /// Whether an error of the store may be cured by the reserve's space.
    pub fn may_cure(&self, error: &StoreError) -> bool {
        match error {
            StoreError::Full { .. } => true,
            // SQLite has other words for it where it is not a write that fails.
            StoreError::Disk { .. } | StoreError::Open { .. } => {
                self.space().is_some_and(|bytes| bytes < SPACE_BYTES_MIN)
            }
            _ => false,
        }
    }

    /// Takes the space, if there is enough; whether it is held now.
    fn make(&self) -> io::Result<bool> {
        if self.is_held() {
            return Ok(true);
        }
        if self.space().is_none_or(|bytes| bytes < RESERVE_BYTES + SPACE_BYTES_MIN) {
            return Ok(false);
        }
        let written = self.fill();
        if written.is_err() {
            // Half a reserve is space taken for nothing.
            let _ = fs::remove_file(&self.path);
        }
        written.map(|()| true)
    }

    fn fill(&self) -> io::Result<()> {
        let mut file = File::create(&self.path)?;
        let zeros = vec![0; CHUNK_BYTES];
        for _ in 0..RESERVE_BYTES / CHUNK_BYTES as u64 {
            file.write_all(&zeros)?;
        }
        file.sync_all()
    }

    /// Bytes the database's owner may still write; `None` when the file system does not say.
    fn space(&self) -> Option<u64> {
        open::space(&self.path)
    }
}

impl Writer {
    /// Opens the database, making it if there is none (its directory must exist), migrating it if it is older, and
    /// checking that it is whole. Only one writer can hold it at a time. On a full disk the reserve is given up for it.
    pub fn open(path: &Path, now: Timestamp) -> Result<Self, StoreError> {
        let reserve = Reserve::of(path);
        match Self::open_once(path, now) {
            Err(error) if reserve.may_cure(&error) && reserve.release() => Self::open_once(path, now),
            other => other,
        }
    }

    /// Sets space aside beside the database, if it is not and the disk has enough. Says whether it is set aside now.
    ///
    /// # Errors
    /// When the file cannot be written although the disk seems to have room for it.
    pub fn keep_reserve(&self) -> io::Result<bool> {
        self.reserve.make()
    }

    /// Gives the reserve's space up, when it may cure what a commit failed of; whether there was any to give.
    pub fn release_reserve(&self, error: &StoreError) -> bool {
        self.reserve.may_cure(error) && self.reserve.release()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_takes_real_space_and_gives_it_back_once() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().expect("a scratch directory");
        let reserve = Reserve::of(&dir.path().join("bongsu.db"));
        assert!(!reserve.is_held() && !reserve.release());
        assert!(reserve.make().expect("there is room"));
        let made = fs::metadata(dir.path().join("bongsu.db.reserve")).expect("made");
        assert_eq!(made.len(), RESERVE_BYTES);
        assert!(made.blocks() * 512 >= RESERVE_BYTES, "{} blocks", made.blocks());
        assert!(reserve.make().expect("it is there"));
        assert!(reserve.release() && !reserve.is_held() && !reserve.release());
        assert_eq!(fs::read_dir(dir.path()).expect("own directory").count(), 0);
    }

    #[test]
    fn only_a_lack_of_space_asks_for_it() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let (path, doing) = (dir.path().join("bongsu.db"), "writing a commit");
        let reserve = Reserve::of(&path);
        assert!(reserve.may_cure(&StoreError::Full { path: path.clone(), doing }));
        // This disk has space, so that is not what an error without a word for it is about.
        assert!(!reserve.may_cure(&StoreError::Disk { path: path.clone(), doing, reason: "disk I/O error".into() }));
        assert!(!reserve.may_cure(&StoreError::Busy { path, doing }));
    }
}
