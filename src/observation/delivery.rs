//! What a delivery attempt measured about its message.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Reason, Side};
use crate::value::Timestamp;

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

/// How many messages of an attempt met which fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Fates {
    /// Arrived within the objective.
    pub arrived: u32,
    /// Arrived after it.
    pub late: u32,
    /// Absent so far.
    pub pending: u32,
    /// Accepted, absent at the horizon.
    pub lost: u32,
    /// Never accepted.
    pub unsent: u32,
    /// Acceptance unknown, absent at the horizon.
    pub uncertain: u32,
}

impl Fates {
    /// Those of one message.
    pub fn of(fate: Fate) -> Self {
        let mut fates = Self::default();
        *fates.count(fate) += 1;
        fates
    }

    /// The count of one fate.
    pub fn count(&mut self, fate: Fate) -> &mut u32 {
        match fate {
            Fate::Arrived => &mut self.arrived,
            Fate::Late => &mut self.late,
            Fate::Pending => &mut self.pending,
            Fate::Lost => &mut self.lost,
            Fate::Unsent => &mut self.unsent,
            Fate::Uncertain => &mut self.uncertain,
        }
    }

    /// All messages.
    pub fn messages(self) -> u32 {
        [self.arrived, self.late, self.pending, self.lost, self.unsent, self.uncertain]
            .into_iter()
            .fold(0, u32::saturating_add)
    }

    /// Those that did not get through, as far as that is known.
    pub fn missing(self) -> u32 {
        self.lost.saturating_add(self.unsent).saturating_add(self.uncertain)
    }

    /// What is told of all of them in one word: pending as long as one is, else the worst there is.
    pub fn worst(self) -> Fate {
        let order = [
            (self.pending, Fate::Pending),
            (self.lost, Fate::Lost),
            (self.uncertain, Fate::Uncertain),
            (self.unsent, Fate::Unsent),
            (self.late, Fate::Late),
        ];
        order.into_iter().find(|(count, _)| *count > 0).map_or(Fate::Arrived, |(_, fate)| fate)
    }

    fn is_of_one(&self) -> bool {
        self.messages() <= 1
    }
}

/// How the reason of a delivery begins that works while a login made for its own sake does not.
pub const NEW_LOGINS_FAIL: &str = "new logins fail";

/// A login made for its own sake, beside kept sessions that need none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Login {
    /// Whether both sides let us in.
    pub ok: bool,
    /// From the start to the end of the slower side's login.
    #[serde(with = "ms")]
    pub ms: Duration,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// A kept session that had to be opened anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconnection {
    /// Which.
    pub side: Side,
    /// How the one before it ended, in one line.
    pub why: String,
}

/// A message as it is kept across a restart of the agent, as long as one of its attempt has an open fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flight {
    /// Position in the check's series.
    pub sequence: u64,
    /// The random part of its identity.
    pub nonce: u64,
    /// When it was made, on the wall clock: part of its identity.
    pub sent_at: Timestamp,
    /// The observation it belongs to, by the start of its attempt.
    pub observed_at: Timestamp,
    /// What the sending side said and after what time; `None` while it had not answered.
    pub answer: Option<(Accept, Duration)>,
    /// After what time it arrived and how, if it did.
    pub arrival: Option<(Duration, Integrity)>,
    /// Whether it was returned as undeliverable.
    pub bounced: bool,
    /// Further copies seen.
    pub duplicates: u32,
    /// Whether one with a higher sequence arrived before it.
    pub reordered: bool,
    /// Whether its observation has been told.
    pub booked: bool,
}

impl Flight {
    /// A message about to be sent.
    pub fn new(sequence: u64, nonce: u64, sent_at: Timestamp, observed_at: Timestamp) -> Self {
        Self {
            sequence,
            nonce,
            sent_at,
            observed_at,
            answer: None,
            arrival: None,
            bounced: false,
            duplicates: 0,
            reordered: false,
            booked: false,
        }
    }
}

/// What a delivery attempt measured about its message, or about the messages of its burst.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// What became of it; of a burst, see [`Fates::worst`].
    pub fate: Fate,
    /// What became of each message of a burst (of a single one, `fate` tells it).
    #[serde(default, skip_serializing_if = "Fates::is_of_one")]
    pub fates: Fates,
    /// What the sending side said; of a burst, the worst of it.
    pub accept: Accept,
    /// Time to that acknowledgement; of a burst, the longest.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "opt_ms")]
    pub accept_ms: Option<Duration>,
    /// Send to arrival on this process's monotonic clock; of a burst, the longest.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "opt_ms")]
    pub latency_ms: Option<Duration>,
    /// Position in this check's series of messages; of a burst, that of its first.
    pub sequence: u64,
    /// Further copies seen so far.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub duplicates: u32,
    /// Messages seen meanwhile that are not this check's: retained, old, forged or a stranger's.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub foreign: u32,
    /// Messages before which one with a higher sequence arrived.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reordered: u32,
    /// Messages that arrived other than they were sent.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub changed: u32,
    /// Whether they arrived as they were sent: the worst that was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub integrity: Option<Integrity>,
    /// Integrity samples that the protocol cannot carry and that were left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// A fresh login beside kept sessions, where one was due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<Login>,
    /// Kept sessions that had to be opened anew for this attempt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reconnections: Vec<Reconnection>,
    /// All of the attempt's messages, as long as the fate of one may still change. Kept in the store's own table, not
    /// told.
    #[serde(skip)]
    pub open: Vec<Flight>,
}

impl Delivery {
    /// One message of which nothing more is known.
    pub fn new(fate: Fate, accept: Accept, sequence: u64) -> Self {
        Self {
            fate,
            fates: Fates::default(),
            accept,
            accept_ms: None,
            latency_ms: None,
            sequence,
            duplicates: 0,
            foreign: 0,
            reordered: 0,
            changed: 0,
            integrity: None,
            left_out: Vec::new(),
            login: None,
            reconnections: Vec::new(),
            open: Vec::new(),
        }
    }

    /// How many messages met which fate.
    pub fn all_fates(&self) -> Fates {
        if self.fates.messages() == 0 { Fates::of(self.fate) } else { self.fates }
    }
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

mod ms {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(span: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(crate::observation::to_ms(*span))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        let ms = f64::deserialize(d)?;
        Ok(Duration::try_from_secs_f64(ms / 1_000.0).unwrap_or_default())
    }
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
