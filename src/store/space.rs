//! Giving space back: free pages to the file system, and what a long reader has kept in the write-ahead log.

use std::time::Duration;

use super::{error::Fault, maintain::is_due, open, writer::Writer};
use crate::value::Timestamp;

/// A write-ahead log of this size means a reader has kept it from being folded in.
const WAL_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How often a large log is folded in by force.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);

/// Free pages worth giving back: 8 MiB of pages of 4 KiB, and a quarter of the file; daily work reuses the others.
const FREE_PAGES_MIN: i64 = 2_048;

/// Free pages given back in one call.
const FREE_PAGES_STEP: usize = 500;

impl Writer {
    /// Gives free pages back to the file system when they are many; whether there are more.
    pub(super) fn give_back(&self) -> Result<bool, Fault> {
        let read = |sql: &str| self.connection.query_row(sql, [], |row| row.get::<_, i64>(0));
        let (free, all) = (read("PRAGMA freelist_count")?, read("PRAGMA page_count")?);
        if free <= FREE_PAGES_MIN.max(all / 4) {
            return Ok(false);
        }
        // One row per page given back.
        let mut statement = self.connection.prepare(&format!("PRAGMA incremental_vacuum({FREE_PAGES_STEP})"))?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        Ok(true)
    }

    /// Commits fold the log in by themselves; one that grew because of a long reader is folded in here and cut.
    pub(super) fn checkpoint(&mut self, now: Timestamp) -> Result<(), Fault> {
        if !is_due(now, self.upkeep.checkpoint_at, CHECKPOINT_EVERY) {
            return Ok(());
        }
        self.upkeep.checkpoint_at = now + CHECKPOINT_EVERY;
        if open::wal_bytes(&self.path) <= WAL_BYTES_MAX {
            return Ok(());
        }
        // Without waiting: while a reader is still there, the next minute will do.
        self.connection.busy_timeout(Duration::ZERO)?;
        let result = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        self.connection.busy_timeout(open::BUSY_WAIT)?;
        Ok(result?)
    }
}
