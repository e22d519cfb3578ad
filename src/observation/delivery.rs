//! What a delivery attempt measured about its message.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What became of a message as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// Arrived within the objective.
    Arrived,
    /// Arrived after the objective (also: after it had been booked as lost).
    Late,
    /// Absent so far, the horizon not reached.
    Pending,
    /// Accepted, absent at the horizon.
    Lost,
    /// Never accepted (rejected, or the server was not reached), so nothing can arrive.
    Unsent,
    /// Acceptance unknown, absent at the horizon.
    Uncertain,
}

impl Fate {
    /// The word used in JSON and SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Arrived => "arrived",
            Self::Late => "late",
            Self::Pending => "pending",
            Self::Lost => "lost",
            Self::Unsent => "unsent",
            Self::Uncertain => "uncertain",
        }
    }
}

/// What the sending side said of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accept {
    /// The server acknowledged it.
    Accepted,
    /// The server refused it for good.
    Rejected,
    /// The server refused it for now: the same message may be taken later (SMTP's 4xx, greylisting).
    Deferred,
    /// The server was not reached, or the login failed: nothing was sent.
    Unreachable,
    /// Data was sent and no acknowledgement came: it may or may not have been accepted.
    Uncertain,
}

/// Whether what arrived is what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Integrity {
    /// Byte for byte.
    Equal,
    /// Equal after Unicode NFC: composed or decomposed on the way.
    Normalised,
    /// Characters were replaced or re-encoded.
    Transcoded,
    /// The end is missing.
    Truncated,
    /// Anything else.
    Corrupt,
}

impl Integrity {
    /// The word used in JSON and SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Normalised => "normalised",
            Self::Transcoded => "transcoded",
            Self::Truncated => "truncated",
            Self::Corrupt => "corrupt",
        }
    }
}

/// What a delivery attempt measured about its message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// What became of it.
    pub fate: Fate,
    /// What the sending side said.
    pub accept: Accept,
    /// Time to that acknowledgement.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "opt_ms")]
    pub accept_ms: Option<Duration>,
    /// Send to arrival on this process's monotonic clock.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "opt_ms")]
    pub latency_ms: Option<Duration>,
    /// Position in this check's series of messages.
    pub sequence: u64,
    /// Further copies of this message seen so far.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub duplicates: u32,
    /// Messages seen meanwhile that are not this check's: retained, old, forged or a stranger's.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub foreign: u32,
    /// Whether a message with a higher sequence arrived before it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reordered: bool,
    /// Whether it arrived as it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub integrity: Option<Integrity>,
    /// Integrity samples that the protocol cannot carry and that were left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

mod opt_ms {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    // The signature is serde's.
    #[expect(clippy::ref_option)]
    pub fn serialize<S: Serializer>(span: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
        match span {
            Some(span) => s.serialize_f64(crate::observation::to_ms(*span)),
            None => s.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
        let ms = Option::<f64>::deserialize(d)?;
        Ok(ms.and_then(|ms| Duration::try_from_secs_f64(ms / 1_000.0).ok()))
    }
}
