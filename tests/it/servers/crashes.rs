//! The daemon's end at any moment: nothing that was acknowledged is lost, nothing is told that is not written, and the
//! database opens. (SIGKILL at random moments: `kills`.)
//!
//! - `calls`: SIGKILL at every file system call of one incident's life.
//! - `power`: the writes of one incident's life, replayed up to any moment as a disk may have kept them when the power
//!   failed.

mod calls;
mod life;
mod power;
mod trace;
