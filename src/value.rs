//! The small types everything shares: instants, time spans, ratios, names, labels and secrets.
//!
//! Nothing here reads a clock, a file or the environment; every type is a plain value that can be compared,
//! stored and shown. The types that appear in YAML carry their own `Deserialize` and `JsonSchema`, so a bad
//! value is refused with the same words wherever it stands.

mod secret;
mod switch;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    ops::{Add, Sub},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use self::{
    secret::{Masker, Secret},
    switch::Switch,
};

/// Labels of a check or an incident, in a stable order.
pub type Labels = BTreeMap<String, String>;

/// What tells one value from another where keeping the value would take too much memory; the same in every run of one
/// build. Of as many pairs as a database can hold none is likely to be taken for the same.
pub fn digest_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

// ---------------------------------------------------------------------------------------------------------------
// Instants

/// A wall-clock instant: milliseconds since 1970-01-01T00:00:00Z.
///
/// Shown and read as RFC 3339 in UTC with milliseconds. Arithmetic saturates, so no value a server or a file
/// sends can overflow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest instant a SQLite column of bongsu can hold: the epoch itself.
    pub const EPOCH: Self = Self(0);

    /// From milliseconds since the epoch.
    pub const fn from_millis(ms: i64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Time from `earlier` to `self`; zero when `earlier` is later, so a duration is never negative.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The instant as a `chrono` value in UTC (clamped to what chrono can hold).
    pub fn to_utc(self) -> chrono::DateTime<chrono::Utc> {
        chrono::DateTime::from_timestamp_millis(self.0).unwrap_or(if self.0 < 0 {
            chrono::DateTime::<chrono::Utc>::MIN_UTC
        } else {
            chrono::DateTime::<chrono::Utc>::MAX_UTC
        })
    }

    /// `2026-11-22 12:00:00Z`: to the second, for people.
    pub fn to_seconds_text(self) -> String {
        self.to_utc().format("%Y-%m-%d %H:%M:%SZ").to_string()
    }
}

impl<Tz: chrono::TimeZone> From<chrono::DateTime<Tz>> for Timestamp {
    fn from(at: chrono::DateTime<Tz>) -> Self {
        Self(at.timestamp_millis())
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_utc().format("%Y-%m-%dT%H:%M:%S%.3fZ"))
    }
}

impl FromStr for Timestamp {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        chrono::DateTime::parse_from_rfc3339(text)
            .map(Self::from)
            .map_err(|_| format!("`{text}` is not an RFC 3339 time such as 2026-11-22T12:00:00Z"))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Time spans

/// A length of time as written in YAML: `800ms`, `30s`, `1m30s`, `2h`, `7d` (also `w` for weeks, `y` for 365 days).
///
/// At most [`TimeSpan::MAX`]. A bare number is refused, because its unit would be a guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TimeSpan(pub Duration);

impl TimeSpan {
    /// Ten years: longer than any retention bongsu offers, short enough that no sum of spans overflows.
    pub const MAX: Duration = Duration::from_secs(10 * 366 * 86_400);

    const UNITS: [(&'static str, u64); 5] =
        [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

    // Written but never shown: a retention of five years reads better than 1825 days, a duration never needs it.
    const LONG_UNITS: [(&'static str, u64); 2] = [("w", 7 * 86_400_000), ("y", 365 * 86_400_000)];
}

impl FromStr for TimeSpan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is not a time span; write it with a unit, such as 800ms, 30s, 1m30s, 2h or 7d");
        let mut rest = text.trim();
        let mut total_ms: u64 = 0;
        let mut unit_before = u64::MAX;
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
            let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
            rest = &rest[digits..];
            let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            let unit = TimeSpan::UNITS
                .iter()
                .chain(&TimeSpan::LONG_UNITS)
                .find(|(name, _)| *name == &rest[..letters])
                .ok_or_else(wrong)?
                .1;
            rest = &rest[letters..];
            if unit >= unit_before {
                return Err(format!("`{text}` names its units out of order; write the longest first, such as 1m30s"));
            }
            unit_before = unit;
            total_ms = total_ms.saturating_add((number * unit as f64).round() as u64);
        }
        let span = Duration::from_millis(total_ms);
        if span > Self::MAX {
            return Err(format!("`{text}` is longer than ten years"));
        }
        Ok(Self(span))
    }
}

impl fmt::Display for TimeSpan {
    /// The two largest units that say something: `1m30s`, `4h20m`, `812ms`; exact for every span of YAML's form
    /// that needs no more than two.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if ms == 0 {
            return f.write_str(if self.0.is_zero() { "0s" } else { "0ms" });
        }
        let mut written = 0;
        for (name, unit) in Self::UNITS.iter().rev() {
            if ms >= *unit && written < 2 {
                // Seconds carry milliseconds as a fraction below ten, which is how latencies are read.
                if *name == "s" && written == 0 && ms % 1_000 != 0 && ms < 10_000 {
                    return write!(f, "{}s", (ms as f64 / 1_000.0));
                }
                if *name == "ms" && written > 0 {
                    break;
                }
                write!(f, "{}{name}", ms / unit)?;
                ms %= unit;
                written += 1;
            } else if written > 0 {
                break;
            }
        }
        Ok(())
    }
}

impl From<Duration> for TimeSpan {
    fn from(span: Duration) -> Self {
        Self(span)
    }
}

impl Serialize for TimeSpan {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TimeSpan {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl de::Visitor<'_> for V {
            type Value = TimeSpan;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time span with a unit, such as 800ms, 30s, 1m30s, 2h or 7d")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<TimeSpan, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<TimeSpan, E> {
                if n == 0 {
                    return Ok(TimeSpan::default());
                }
                Err(E::custom(format!("`{n}` has no unit; write {n}s for seconds or {n}ms for milliseconds")))
            }
        }
        d.deserialize_any(V)
    }
}

impl JsonSchema for TimeSpan {
    fn schema_name() -> Cow<'static, str> {
        "TimeSpan".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A time span with its unit: 800ms, 30s, 1m30s, 2h, 7d",
            "anyOf": [
                { "type": "string", "pattern": r"^(\d+(\.\d+)?(ms|s|m|h|d|w|y))+$" },
                { "const": 0 },
                { "type": "string", "pattern": r"\$\{" }
            ]
        })
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Ratios

/// A share between 0 and 1, written `20%` or `0.2`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Default)]
pub struct Ratio(pub f64);

impl FromStr for Ratio {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a share; write 20% or 0.2");
        let value = match text.trim().strip_suffix('%') {
            Some(percent) => percent.trim().parse::<f64>().map_err(|_| wrong())? / 100.0,
            None => text.trim().parse::<f64>().map_err(|_| wrong())?,
        };
        if (0.0..=1.0).contains(&value) { Ok(Self(value)) } else { Err(format!("`{text}` is not between 0% and 100%")) }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", (self.0 * 10_000.0).round() / 100.0)
    }
}

impl Serialize for Ratio {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ratio {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl de::Visitor<'_> for V {
            type Value = Ratio;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a share such as 20% or 0.2")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Ratio, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_f64<E: de::Error>(self, n: f64) -> Result<Ratio, E> {
                n.to_string().parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Ratio, E> {
                n.to_string().parse().map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Ratio, E> {
                n.to_string().parse().map_err(E::custom)
            }
        }
        d.deserialize_any(V)
    }
}

impl JsonSchema for Ratio {
    fn schema_name() -> Cow<'static, str> {
        "Ratio".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A share: 20% or 0.2",
            "anyOf": [
                { "type": "string", "pattern": r"^\d+(\.\d+)?%?$" },
                { "type": "number", "minimum": 0, "maximum": 1 }
            ]
        })
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Names

/// The name of a service, a check within it, or a channel: 1 to 64 of `a-z A-Z 0-9 . _ -` or any letter beyond
/// ASCII (`카카오톡` is a good name), beginning with a letter or a digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// Longest name in characters: it must fit a mail subject, a metric label and a terminal column.
    pub const CHARS_MAX: usize = 64;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let fits = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-');
        if text.is_empty() {
            return Err("a name must not be empty".into());
        }
        if text.chars().count() > Self::CHARS_MAX {
            return Err(format!("`{text}` is longer than {} characters", Self::CHARS_MAX));
        }
        if let Some(bad) = text.chars().find(|c| !fits(*c)) {
            return Err(format!("`{text}` holds {bad:?}; a name has letters, digits, `.`, `_` and `-` only"));
        }
        if !text.starts_with(char::is_alphanumeric) {
            return Err(format!("`{text}` must begin with a letter or a digit"));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Name {
    fn schema_name() -> Cow<'static, str> {
        "Name".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A name: letters (of any script) and digits, and within them `.`, `_` and `-`",
            "type": "string", "minLength": 1, "maxLength": Name::CHARS_MAX,
        })
    }
}

/// The full name of a check: `service/check`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckName(Arc<str>);

impl CheckName {
    /// Joins a service's name and a check's.
    pub fn new(service: &Name, check: &Name) -> Self {
        Self(format!("{service}/{check}").into())
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the slash.
    pub fn service(&self) -> Name {
        Name(self.0.split('/').next().unwrap_or_default().into())
    }

    /// The part after the slash.
    pub fn check(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, check)| check)
    }
}

impl FromStr for CheckName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (service, check) =
            text.split_once('/').ok_or_else(|| format!("`{text}` is not of the form service/check"))?;
        Ok(Self::new(&service.parse()?, &check.parse()?))
    }
}

impl fmt::Display for CheckName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for CheckName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for CheckName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_spans_are_read_and_shown() {
        let table = [
            ("800ms", 800, "800ms"),
            ("30s", 30_000, "30s"),
            ("1m30s", 90_000, "1m30s"),
            ("4h20m", 15_600_000, "4h20m"),
            ("7d", 604_800_000, "7d"),
            ("1.5s", 1_500, "1.5s"),
            ("90s", 90_000, "1m30s"),
        ];
        for (text, ms, shown) in table {
            let span: TimeSpan = text.parse().expect(text);
            assert_eq!(span.0.as_millis(), ms, "{text}");
            assert_eq!(span.to_string(), shown, "{text}");
        }
        for bad in ["", "5", "s", "5x", "1s1m", "-5s", "1m 30s x", "99999999d", "1..5s"] {
            assert!(bad.parse::<TimeSpan>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ratios_are_shares() {
        assert_eq!("20%".parse::<Ratio>(), Ok(Ratio(0.2)));
        assert_eq!("0.2".parse::<Ratio>(), Ok(Ratio(0.2)));
        assert_eq!(Ratio(0.015).to_string(), "1.5%");
        for bad in ["120%", "-1%", "x", ""] {
            assert!(bad.parse::<Ratio>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_checked() {
        for good in ["mail", "카카오톡", "a.b-c_d", "7"] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "a b", "a/b", "-a", "a\n", &"x".repeat(65)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
        let name: CheckName = "mail/round-trip".parse().expect("a good name");
        assert_eq!((name.service().as_str(), name.check()), ("mail", "round-trip"));
    }

    #[test]
    fn instants_never_give_a_negative_span() {
        let (a, b) = (Timestamp::from_millis(1_000), Timestamp::from_millis(2_000));
        assert_eq!(a.since(b), Duration::ZERO);
        assert_eq!(b.since(a), Duration::from_secs(1));
        let text = "2026-11-22T12:00:00.123Z";
        assert_eq!(text.parse::<Timestamp>().expect("RFC 3339").to_string(), text);
    }
}
