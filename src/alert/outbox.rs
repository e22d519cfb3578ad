//! The retry schedule of the outbox.
use std::time::Duration;
/// How long a message is tried before it is given up.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(86_400);
