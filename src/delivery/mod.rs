//! Delivery: whose a message is and whether it came unchanged ([`tracer`]), and what became of each one ([`ledger`]).
//!
//! Nothing here sends or receives: payloads, times and keys are arguments, so every account can be replayed.

pub mod ledger;
pub mod tracer;

pub use self::{
    ledger::{Arriving, Ledger, Sighting, Terms},
    tracer::{CheckKey, Found, Identity, Key, Seen},
};

/// What a protocol can carry; integrity samples beyond it are left out, and the observation says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carries {
    /// Text beyond ASCII.
    pub unicode: bool,
    /// Line ends within the message.
    pub lines: bool,
    /// Longest line in bytes, without its end, that goes through unbroken.
    pub line_bytes_max: usize,
    /// Longest payload in bytes; at least [`tracer::TOKEN_BYTES`], without which no message can be told from another.
    pub bytes_max: usize,
}
