//! What one attempt of a check showed: outcome, phases with their times, the reason, the evidence.
//!
//! A failing target is data, never an error. Three families stay apart: the target is bad
//! ([`Outcome::Failed`]), we could not tell ([`Outcome::Unknown`]), and the user's configuration is wrong (which
//! never becomes an observation, because it is refused at load).

mod delivery;

use std::{fmt, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use self::delivery::{Accept, Delivery, Fate, Fates, Flight, Integrity, Login, NEW_LOGINS_FAIL, Reconnection};
use crate::value::{CheckName, Timestamp};

/// Longest text of a [`Reason`] in characters: a mail subject, a journal line and a table cell hold it.
pub const REASON_CHARS_MAX: usize = 400;

/// Most details an observation carries; further ones are dropped, so a hostile server cannot fill the store.
pub const DETAILS_MAX: usize = 24;

/// What one attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It worked within its objective.
    Ok,
    /// It worked, but not as promised: later than its objective, or with a flaw that the reason names (in the spam
    /// folder; some messages of a burst missing; new logins refused while kept sessions work).
    Slow,
    /// It did not work, and the fault lies with the target or the way to it.
    Failed,
    /// We could not tell: the fault lies with the agent (its resolver, its descriptors, its network).
    Unknown,
}

impl Outcome {
    /// All of them, in the order they are documented.
    pub const ALL: [Self; 4] = [Self::Ok, Self::Slow, Self::Failed, Self::Unknown];

    /// The word used in YAML, JSON, SQL and on the terminal.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Slow => "slow",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }

    /// The inverse of [`Outcome::as_str`].
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|o| o.as_str() == word)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A stretch of an attempt: where time went, and where it broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Host name to addresses.
    Resolve,
    /// TCP connection.
    Connect,
    /// TLS handshake and certificate verification.
    Tls,
    /// What the server says first.
    Greeting,
    /// Authentication.
    Login,
    /// Requests and replies of the protocol.
    Exchange,
    /// Handing a message to the server, until its acknowledgement.
    Send,
    /// From the acknowledgement until the message arrives.
    Deliver,
    /// Saying goodbye.
    Close,
}

impl Phase {
    /// All of them, in the order in which they usually happen.
    pub const ALL: [Self; 9] = [
        Self::Resolve,
        Self::Connect,
        Self::Tls,
        Self::Greeting,
        Self::Login,
        Self::Exchange,
        Self::Send,
        Self::Deliver,
        Self::Close,
    ];

    /// The word used everywhere.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Greeting => "greeting",
            Self::Login => "login",
            Self::Exchange => "exchange",
            Self::Send => "send",
            Self::Deliver => "deliver",
            Self::Close => "close",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Which session of a delivery a phase belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The session that sends.
    Send,
    /// The session that receives.
    Receive,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Send => "send",
            Self::Receive => "receive",
        })
    }
}

/// When a phase ran within its attempt. Microseconds are the resolution kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhaseTime {
    /// Which phase.
    pub phase: Phase,
    /// Which session, in a delivery (a plain probe has one session and no side).
    pub side: Option<Side>,
    /// From the start of the attempt to the start of the phase.
    pub start: Duration,
    /// How long it took (until it ended or broke).
    pub took: Duration,
}

/// The class of a failure: what a rule, a template or a report may distinguish without reading texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Nothing came within the deadline.
    Timeout,
    /// The connection was refused.
    Refused,
    /// No way to the host or network.
    Unreachable,
    /// The connection was reset.
    Reset,
    /// The other side closed in the middle of the dialogue.
    Closed,
    /// The name does not exist, or has no address of the family asked for.
    NoAddress,
    /// The name servers answered with an error (SERVFAIL, REFUSED).
    ResolverError,
    /// The certificate is not acceptable: expired, self-signed, for another name, for another purpose.
    Certificate,
    /// The TLS handshake failed for another reason.
    Handshake,
    /// The other side broke the protocol.
    Protocol,
    /// The server said no: bad credentials, a refused request, a negative reply.
    Rejected,
    /// The server said "not now": a temporary negative reply.
    Deferred,
    /// The answer came and was not what the check expects.
    Unexpected,
    /// More came than the check accepts.
    TooLarge,
    /// A message was accepted and was absent at the horizon.
    Lost,
    /// A message arrived changed.
    Corrupt,
    /// A message arrived more than once.
    Duplicate,
    /// A message was perhaps accepted (the acknowledgement never came) and was absent at the horizon.
    Uncertain,
    /// It worked, but later than its objective. Makes the outcome `slow`.
    Slow,
    /// A message reached its reader where they do not look: in the spam folder. Makes the outcome `slow`.
    Misplaced,
    /// The fault is the agent's own: no descriptors, a dead resolver, a bug. Makes the outcome `unknown`.
    Own,
}

impl Kind {
    /// The word used in JSON and SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::NoAddress => "no_address",
            Self::ResolverError => "resolver_error",
            Self::Certificate => "certificate",
            Self::Handshake => "handshake",
            Self::Protocol => "protocol",
            Self::Rejected => "rejected",
            Self::Deferred => "deferred",
            Self::Unexpected => "unexpected",
            Self::TooLarge => "too_large",
            Self::Lost => "lost",
            Self::Corrupt => "corrupt",
            Self::Duplicate => "duplicate",
            Self::Uncertain => "uncertain",
            Self::Slow => "slow",
            Self::Misplaced => "misplaced",
            Self::Own => "own",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why an attempt was not `ok`: where it broke, how, and in words.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reason {
    /// Where it broke.
    pub phase: Phase,
    /// The class.
    pub kind: Kind,
    /// One line for people, with the peer's own words where it said any; at most [`REASON_CHARS_MAX`] characters,
    /// control characters replaced.
    pub text: String,
}

impl Reason {
    /// A reason; the text is made one bounded, printable line.
    pub fn new(phase: Phase, kind: Kind, text: impl AsRef<str>) -> Self {
        Self { phase, kind, text: one_line(text.as_ref(), REASON_CHARS_MAX) }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.phase, self.text)
    }
}

/// One printable line of at most `chars_max` characters: control characters become spaces, a cut is marked by `…`.
pub fn one_line(text: &str, chars_max: usize) -> String {
    let mut line = String::with_capacity(text.len().min(chars_max.saturating_mul(4)));
    for (count, c) in text.trim().chars().enumerate() {
        if count + 1 == chars_max {
            line.push('…');
            break;
        }
        line.push(if c.is_control() { ' ' } else { c });
    }
    line
}

/// What the TLS handshake showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsFacts {
    /// `1.2` or `1.3`; empty when the handshake failed before it was agreed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// The cipher suite's IANA name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cipher: Option<String>,
    /// The protocol agreed by ALPN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpn: Option<String>,
    /// Subject of the leaf certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Its issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// End of its validity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// Whole days from the attempt to `not_after`; negative once expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days_left: Option<i64>,
}

/// Longest name of an account in characters: an address of mail fits, and it stands at the head of reasons.
pub const ACCOUNT_CHARS_MAX: usize = 100;

/// Which of a check's accounts an attempt was made with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountSeen {
    /// Its name: one line of at most [`ACCOUNT_CHARS_MAX`] characters, no secret.
    pub name: String,
    /// How many accounts the check has.
    pub of: u32,
}

/// One attempt of a check.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// When the attempt began.
    pub at: Timestamp,
    /// What it came to.
    pub outcome: Outcome,
    /// From its start to its verdict; for a delivery that arrived, see also [`Delivery::latency_ms`].
    pub duration: Duration,
    /// Where the time went, in order of start.
    pub phases: Vec<PhaseTime>,
    /// Why it is not `ok`.
    pub reason: Option<Reason>,
    /// The peer that was spoken to (or tried last).
    pub address: Option<SocketAddr>,
    /// What TLS showed.
    pub tls: Option<TlsFacts>,
    /// What became of the message, for a delivery check.
    pub delivery: Option<Delivery>,
    /// With which account, for a check that has several.
    pub account: Option<AccountSeen>,
    /// Further evidence, by name: `status`, `lateness_ms`, `server` … At most [`DETAILS_MAX`].
    pub details: Map<String, Value>,
}

impl Observation {
    /// An observation with nothing but its verdict.
    pub fn new(at: Timestamp, outcome: Outcome, duration: Duration) -> Self {
        Self {
            at,
            outcome,
            duration,
            phases: Vec::new(),
            reason: None,
            address: None,
            tls: None,
            delivery: None,
            account: None,
            details: Map::new(),
        }
    }

    /// The time people care about: delivery latency where a message arrived, else the attempt's duration.
    pub fn latency(&self) -> Duration {
        self.delivery.as_ref().and_then(|d| d.latency_ms).unwrap_or(self.duration)
    }

    /// The one JSON form: the same from `probe --json`, the API and an export. Absent parts are left out, times
    /// are RFC 3339 in UTC, durations are milliseconds.
    pub fn to_json(&self, check: &CheckName, vantage: &str) -> Value {
        let mut map = Map::new();
        map.insert("check".into(), json!(check));
        map.insert("at".into(), json!(self.at));
        map.insert("vantage".into(), json!(vantage));
        map.extend(self.to_json_map());
        Value::Object(map)
    }

    fn to_json_map(&self) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("outcome".into(), json!(self.outcome));
        map.insert("duration_ms".into(), json!(to_ms(self.duration)));
        if !self.phases.is_empty() {
            let phases = self.phases.iter().map(|p| {
                let mut phase = json!({ "name": p.phase, "start_ms": to_ms(p.start), "ms": to_ms(p.took) });
                if let Some(side) = p.side {
                    phase["side"] = json!(side);
                }
                phase
            });
            map.insert("phases".into(), phases.collect());
        }
        if let Some(reason) = &self.reason {
            map.insert("reason".into(), json!(reason));
        }
        if let Some(address) = &self.address {
            map.insert("address".into(), json!(address.to_string()));
        }
        if let Some(tls) = &self.tls {
            map.insert("tls".into(), json!(tls));
        }
        if let Some(delivery) = &self.delivery {
            map.insert("delivery".into(), json!(delivery));
        }
        if let Some(account) = &self.account {
            map.insert("account".into(), json!(account));
        }
        if !self.details.is_empty() {
            map.insert("details".into(), Value::Object(self.details.clone()));
        }
        map
    }
}

/// Milliseconds with microsecond resolution.
pub fn to_ms(span: Duration) -> f64 {
    (span.as_nanos() as f64 / 1_000.0).round() / 1_000.0
}

/// A later finding about an earlier observation: a message booked as pending or lost has met its fate.
#[derive(Clone, Debug, PartialEq)]
pub struct Correction {
    /// The observation it is about, by the start of its attempt.
    pub observed_at: Timestamp,
    /// The account of that attempt, for a check that has several.
    pub account: Option<AccountSeen>,
    /// The outcome as it must now be booked.
    pub outcome: Outcome,
    /// The delivery facts as they must now be booked.
    pub delivery: Delivery,
    /// Why, in the words of a reason; `None` when nothing is wrong any more.
    pub reason: Option<Reason>,
    /// Further evidence that came with it (the path of a late mail), by name.
    pub details: Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_documented_form() {
        let mut o = Observation::new(Timestamp::from_millis(1_000), Outcome::Failed, Duration::from_micros(2_000_300));
        o.phases.push(PhaseTime {
            phase: Phase::Connect,
            side: None,
            start: Duration::ZERO,
            took: Duration::from_micros(410),
        });
        o.reason = Some(Reason::new(Phase::Login, Kind::Rejected, "535 5.7.8\r\nno"));
        o.account = Some(AccountSeen { name: "probe01".into(), of: 12 });
        let check = "mail/round-trip".parse().expect("a name");
        let json = o.to_json(&check, "seoul-1");
        assert_eq!(
            json,
            json!({
                "check": "mail/round-trip", "at": "1970-01-01T00:00:01.000Z", "vantage": "seoul-1",
                "outcome": "failed", "duration_ms": 2000.3,
                "phases": [{ "name": "connect", "start_ms": 0.0, "ms": 0.41 }],
                "reason": { "phase": "login", "kind": "rejected", "text": "535 5.7.8  no" },
                "account": { "name": "probe01", "of": 12 }
            })
        );
    }

    #[test]
    fn a_reason_is_one_bounded_line() {
        let long = "x".repeat(10_000);
        assert_eq!(Reason::new(Phase::Tls, Kind::Protocol, long).text.chars().count(), REASON_CHARS_MAX);
        assert_eq!(one_line("a\x07b\n", 10), "a b");
        assert_eq!(one_line("no bound", usize::MAX), "no bound");
    }

    #[test]
    fn words_and_values_agree() {
        for o in Outcome::ALL {
            assert_eq!(Outcome::from_word(o.as_str()), Some(o));
            assert_eq!(json!(o), json!(o.as_str()));
        }
        for p in Phase::ALL {
            assert_eq!(json!(p), json!(p.as_str()));
        }
        let d = Delivery {
            latency_ms: Some(Duration::from_millis(1500)),
            duplicates: 1,
            integrity: Some(Integrity::Equal),
            ..Delivery::new(Fate::Late, Accept::Accepted, 3)
        };
        let back: Delivery = serde_json::from_value(json!(d)).expect("round trip");
        assert_eq!(back, d);
    }
}
