//! The only reader of the operating system's time and randomness.
//!
//! Everything else takes `now` and random values as arguments, which is what makes replay and simulation
//! possible. `tests/tidy.rs` refuses a clock read anywhere else.

use std::{
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ring::rand::{SecureRandom, SystemRandom};

use crate::value::Timestamp;

/// The wall clock, in milliseconds since the epoch. A clock before 1970 reads as 1970.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// The monotonic clock: for durations within one process.
pub fn instant() -> Instant {
    Instant::now()
}

/// Monotonic time since the first call in this process.
pub fn uptime() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// `N` bytes from the operating system's secure generator, for keys and identities.
///
/// # Panics
/// When the operating system has no randomness to give; nothing can be authenticated then, so the process stops.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// A seed for a generator of jitter and the like.
pub fn random_seed() -> u64 {
    u64::from_le_bytes(random_bytes())
}
