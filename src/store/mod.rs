//! The store: one SQLite file with everything that must survive a restart.
//!
//! One [`Writer`] takes commits in groups, one transaction each; any number of [`Reader`]s look on. The writer is
//! plain and synchronous: the agent calls it on a thread that has nothing else to do, because any call may hang with the
//! disk. Nothing here spawns, sleeps or reads a clock (`now` is an argument); the only randomness is the identity given to
//! a new database.
//!
//! ```text
//! Commit ──▶ Writer::commit ──▶ observation, delivery, evidence   raw, by time
//!                           ──▶ state                             what detectors remember
//!                           ──▶ incident, incident_member, timeline
//!                           ──▶ message                           the outbox
//!            Writer::maintain ─▶ daily                            closed days, with latency sketches
//!                             ─▶ block                            days past `keep.raw`, a few bytes an observation
//! ```
//!
//! The journal is a write-ahead log and `synchronous` is FULL, so a commit that was acknowledged survives a power
//! cut. The tables are private; people who query the file use the views, which docs/store.md describes.

mod audit;
mod block;
mod daily;
mod day;
mod doubt;
mod encode;
mod error;
mod export;
#[doc(hidden)]
pub mod fuzz;
mod health;
mod maintain;
mod open;
mod read;
mod reader;
mod recent;
mod rename;
mod reserve;
mod restore;
mod roll;
mod rows;
mod seal;
mod sealed;
mod space;
mod summed;
mod writer;

#[cfg(test)]
mod tests;

pub use self::{
    audit::{Audit, Finding},
    daily::Daily,
    day::Latencies,
    error::StoreError,
    export::{Cursor, Exported},
    health::Replace,
    maintain::{Keep, Maintained, ROLL_UP_AFTER},
    reader::{CheckStatus, IncidentQuery, IncidentRecord, OutboxCounts, ROWS_MAX, Reader},
    rename::Renamed,
    reserve::RESERVE_BYTES,
    restore::{RECENT_MAX, RECENT_MIN, Restored, RestoredState, Watched},
    sealed::Seen,
    writer::{Resumed, Writer},
};
