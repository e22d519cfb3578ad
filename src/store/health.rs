//! Is the file whole, and a copy of it.

use std::path::Path;

use rusqlite::{Connection, backup::Backup};

use super::{
    error::{Fault, StoreError},
    open,
    reader::Reader,
    writer::Writer,
};

impl Reader {
    /// SQLite's full integrity check: what it finds, nothing when all is well.
    pub fn check(&self) -> Result<Vec<String>, StoreError> {
        self.ask("checking it", |c| open::findings(c, "integrity_check"))
    }

    /// Copies the database to a new file while a daemon goes on writing. The copy is of one instant.
    pub fn backup(&self, to: &Path) -> Result<(), StoreError> {
        backup(&self.connection, &self.path, to)
    }
}

impl Writer {
    /// See [`Reader::check`].
    pub fn check(&self) -> Result<Vec<String>, StoreError> {
        open::findings(&self.connection, "integrity_check").map_err(|e| e.at(&self.path, "checking it"))
    }

    /// See [`Reader::backup`]; blocks the writer for as long as it takes.
    pub fn backup(&self, to: &Path) -> Result<(), StoreError> {
        backup(&self.connection, &self.path, to)
    }
}

fn backup(from: &Connection, path: &Path, to: &Path) -> Result<(), StoreError> {
    if to.exists() {
        return Err(StoreError::Exists { path: to.to_owned() });
    }
    if !to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).is_dir() {
        return Err(StoreError::NoDirectory { path: to.to_owned() });
    }
    let copy = || -> Result<(), Fault> {
        let mut target = Connection::open(to)?;
        // All pages in one step: one read transaction, so the writer beside it cannot make it begin anew.
        Backup::new(from, &mut target)?.step(-1)?;
        // A single file, whoever carries it away: no log beside it.
        target.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()))?;
        Ok(())
    };
    copy().map_err(|e| {
        // Half a copy is worse than none; if it cannot be removed, the error says enough.
        let _ = std::fs::remove_file(to);
        let of_target =
            matches!(&e, Fault::Sql(e) if e.sqlite_error_code() != Some(rusqlite::ErrorCode::DatabaseCorrupt));
        e.at(if of_target { to } else { path }, "copying the database")
    })
}
