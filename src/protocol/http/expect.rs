//! What an HTTP answer must be, and the pure judgement of the one that came.
#![expect(clippy::mutable_key_type, reason = "a JSONPath is ordered by its text alone")]

use std::{borrow::Cow, collections::BTreeMap, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};
use serde_json::Value;

use crate::{
    observation::{Kind, Phase},
    protocol::matcher::{JsonPlace, Matcher, Pattern, quoted},
    value::Timestamp,
};

/// What the answer must be.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// A status (`200`), a class (`"2xx"`), or a list of them; default: 2xx and 3xx. A redirect whose status is listed
    /// here is not followed.
    pub status: Option<Statuses>,
    /// Headers by name: a value to be equal to, or tests such as `{ contains: json }`.
    pub headers: BTreeMap<String, Matcher>,
    /// The body: tests that must all hold.
    pub body: Option<BodyTests>,
    /// Least number of days that the certificate must still be valid for.
    pub certificate_days: Option<u32>,
}

/// Tests of a body; all that are given must hold.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BodyTests {
    /// Holds this text.
    pub contains: Option<String>,
    /// Does not hold this text.
    pub not_contains: Option<String>,
    /// Matches this regular expression.
    pub matches: Option<Pattern>,
    /// Equal to this text, apart from white space at both ends.
    pub equals: Option<String>,
    /// Values in a JSON body, by JSONPath; a path with several values wants each of them to fit.
    pub json: BTreeMap<JsonPlace, Matcher>,
}

/// Statuses that are expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses(Vec<Status>);

/// One expected status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Exactly(u16),
    /// `2xx`: its first digit.
    Class(u16),
}

impl Statuses {
    /// Whether this status is expected.
    pub fn has(&self, status: u16) -> bool {
        self.0.iter().any(|expected| match expected {
            Status::Exactly(code) => *code == status,
            Status::Class(class) => *class == status / 100,
        })
    }
}

impl Default for Statuses {
    fn default() -> Self {
        Self(vec![Status::Class(2), Status::Class(3)])
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, status) in self.0.iter().enumerate() {
            f.write_str(if n == 0 { "" } else { ", " })?;
            match status {
                Status::Exactly(code) => write!(f, "{code}")?,
                Status::Class(class) => write!(f, "{class}xx")?,
            }
        }
        Ok(())
    }
}

impl Status {
    fn read(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no HTTP status; write one such as 200, or a class such as \"2xx\"");
        if let Some(class) = text.to_ascii_lowercase().strip_suffix("xx") {
            let class = class.parse().ok().filter(|class| (1..=5).contains(class));
            return class.map(Self::Class).ok_or_else(wrong);
        }
        let code = text.parse().ok().filter(|code| (100..=999).contains(code));
        code.map(Self::Exactly).ok_or_else(wrong)
    }
}

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::read(&String::deserialize(d)?).map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Statuses {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Statuses;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a status such as 200, a class such as \"2xx\", or a list of them")
            }
            fn visit_u64<E: de::Error>(self, code: u64) -> Result<Statuses, E> {
                self.visit_str(&code.to_string())
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Statuses, E> {
                Ok(Statuses(vec![Status::read(text).map_err(E::custom)?]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Statuses, A::Error> {
                let mut list = Vec::new();
                while let Some(status) = items.next_element()? {
                    list.push(status);
                }
                if list.is_empty() {
                    return Err(de::Error::custom("no status is listed, so none could ever fit"));
                }
                Ok(Statuses(list))
            }
        }
        d.deserialize_any(V)
    }
}

impl JsonSchema for Statuses {
    fn schema_name() -> Cow<'static, str> {
        "Statuses".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let one = json_schema!({
            "anyOf": [
                { "type": "integer", "minimum": 100, "maximum": 999 },
                { "type": "string", "pattern": "^([1-5][xX][xX]|[1-9][0-9][0-9])$" }
            ]
        });
        json_schema!({
            "description": "A status (200), a class (\"2xx\"), or a list of them",
            "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }]
        })
    }
}

/// What an exchange showed.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The status of the last answer.
    pub status: u16,
    /// Those of its headers that matter; a name may come several times.
    pub headers: Vec<(String, String)>,
    /// Its body, decompressed, as far as it was read.
    pub body: Vec<u8>,
    /// The rest of the body was not read.
    pub cut: bool,
    /// End of the certificate's validity and whole days until then.
    pub certificate: Option<(Timestamp, i64)>,
}

/// Why an answer is not the one expected.
pub type Mismatch = (Phase, Kind, String);

impl Expect {
    /// Whether nothing was said.
    pub fn is_usual(&self) -> bool {
        let Self { status, headers, body, certificate_days } = self;
        status.is_none() && headers.is_empty() && body.is_none() && certificate_days.is_none()
    }

    /// Whether the body matters to the verdict.
    pub fn wants_body(&self) -> bool {
        self.body.is_some()
    }

    /// Whether this header matters to the verdict.
    pub fn wants_header(&self, name: &str) -> bool {
        self.headers.keys().any(|wanted| wanted.eq_ignore_ascii_case(name))
    }

    /// Whether a redirect with this status is what the check wants to see.
    pub fn wants_redirect(&self, status: u16) -> bool {
        self.status.as_ref().is_some_and(|statuses| statuses.has(status))
    }

    /// Judges the answer.
    ///
    /// # Errors
    /// The first expectation that failed, with what was found beside what was expected.
    pub fn judge(&self, evidence: &Evidence) -> Result<(), Mismatch> {
        let unexpected = |text| (Phase::Exchange, Kind::Unexpected, text);
        let default = Statuses::default();
        let statuses = self.status.as_ref().unwrap_or(&default);
        if !statuses.has(evidence.status) {
            return Err(unexpected(format!("status {}, expected {statuses}", evidence.status)));
        }
        for (name, matcher) in &self.headers {
            header(name, matcher, &evidence.headers).map_err(unexpected)?;
        }
        if let Some(tests) = &self.body {
            tests.check(&evidence.body).map_err(unexpected)?;
        }
        let Some(least) = self.certificate_days else { return Ok(()) };
        match evidence.certificate {
            Some((not_after, days)) if days < i64::from(least) => {
                let until = not_after.to_seconds_text();
                let text = format!("the certificate is valid for {days} more days (until {until}), expected {least}");
                Err((Phase::Tls, Kind::Certificate, text))
            }
            Some(_) => Ok(()),
            None => {
                let text = format!("no certificate was shown, expected one valid for {least} days");
                Err((Phase::Tls, Kind::Certificate, text))
            }
        }
    }
}

/// A header that comes several times fits when one of its values does.
fn header(name: &str, matcher: &Matcher, headers: &[(String, String)]) -> Result<(), String> {
    let what = format!("header {name}");
    let values = headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    // Headers are text: a number in the configuration stands for its digits.
    let as_text = |matcher: &Matcher| match matcher {
        Matcher::Equals(value @ (Value::Number(_) | Value::Bool(_))) => Matcher::Equals(value.to_string().into()),
        other => other.clone(),
    };
    let matcher = as_text(matcher);
    let mut failure = None;
    for value in values {
        match matcher.check(&what, Some(&Value::String(value.clone()))) {
            Ok(()) => return Ok(()),
            Err(text) => failure = failure.or(Some(text)),
        }
    }
    match failure {
        Some(text) => Err(text),
        None => matcher.check(&what, None),
    }
}

impl BodyTests {
    fn check(&self, body: &[u8]) -> Result<(), String> {
        let text = String::from_utf8_lossy(body);
        let found =
            || if text.is_empty() { "the body is empty".into() } else { format!("the body is {}", quoted(&text)) };
        if let Some(expected) = &self.equals
            && text.trim() != expected.trim()
        {
            return Err(format!("{}, expected {}", found(), quoted(expected)));
        }
        if let Some(part) = &self.contains
            && !text.contains(part.as_str())
        {
            return Err(format!("{}, expected to contain {}", found(), quoted(part)));
        }
        if let Some(part) = &self.not_contains
            && let Some(at) = text.find(part.as_str())
        {
            let from = text[..at].char_indices().rev().nth(20).map_or(0, |(i, _)| i);
            return Err(format!("the body contains {}: {}", quoted(part), quoted(&text[from..])));
        }
        if let Some(Pattern(pattern)) = &self.matches
            && !pattern.is_match(&text)
        {
            return Err(format!("{}, expected to match {}", found(), quoted(pattern.as_str())));
        }
        if self.json.is_empty() {
            return Ok(());
        }
        let document: Value =
            serde_json::from_slice(body).map_err(|e| format!("{}, which is no JSON: {e}", found()))?;
        for (place, matcher) in &self.json {
            let what = place.to_string();
            let values = place.values(&document);
            if values.is_empty() {
                matcher.check(&what, None)?;
            }
            for value in values {
                matcher.check(&what, Some(value))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(status: u16, body: &str) -> Evidence {
        Evidence {
            status,
            headers: vec![("content-type".into(), "application/json".into()), ("x-n".into(), "5".into())],
            body: body.into(),
            cut: false,
            certificate: Some((Timestamp::from_millis(0), 5)),
        }
    }

    #[test]
    fn answers_are_judged() {
        let json = r#"{"ok": false, "n": 3, "brokers": [{"up": true}, {"up": false}]}"#;
        let long = "가".repeat(500);
        let table: &[(&str, Evidence, Result<(), &str>)] = &[
            ("{}", evidence(204, ""), Ok(())),
            ("{}", evidence(304, ""), Ok(())),
            ("{}", evidence(503, ""), Err("status 503, expected 2xx, 3xx")),
            ("status: 200", evidence(503, ""), Err("status 503, expected 200")),
            ("status: [200, 4XX]", evidence(404, ""), Ok(())),
            ("headers: { Content-Type: application/json, x-n: 5 }", evidence(200, ""), Ok(())),
            (
                "headers: { content-type: { contains: html } }",
                evidence(200, ""),
                Err("header content-type is \"application/json\", expected to contain \"html\""),
            ),
            ("headers: { x-none: a }", evidence(200, ""), Err("header x-none is absent, expected \"a\"")),
            ("body: { contains: Inbox }", evidence(200, "the Inbox of"), Ok(())),
            ("body: { contains: Inbox }", evidence(200, ""), Err("the body is empty, expected to contain \"Inbox\"")),
            (
                "body: { contains: Inbox }",
                evidence(200, "Sorry\nno"),
                Err("the body is \"Sorry no\", expected to contain \"Inbox\""),
            ),
            (
                "body: { not_contains: error }",
                evidence(200, "an error"),
                Err("the body contains \"error\": \"an error\""),
            ),
            ("body: { equals: ok }", evidence(200, "ok\n"), Ok(())),
            ("body: { matches: '^a' }", evidence(200, "b"), Err("the body is \"b\", expected to match \"^a\"")),
            ("body: { json: { $.n: 3 } }", evidence(200, json), Ok(())),
            ("body: { json: { $.ok: true } }", evidence(200, json), Err("$.ok is false, expected true")),
            ("body: { json: { $.none: true } }", evidence(200, json), Err("$.none is absent, expected true")),
            (
                "body: { json: { '$.brokers[*].up': true } }",
                evidence(200, json),
                Err("$.brokers[*].up is false, expected true"),
            ),
            ("body: { json: { $.n: { at_least: 5 } } }", evidence(200, json), Err("$.n is 3, expected at least 5")),
            ("certificate_days: 5", evidence(200, ""), Ok(())),
            (
                "certificate_days: 14",
                evidence(200, ""),
                Err("the certificate is valid for 5 more days (until 1970-01-01 00:00:00Z), expected 14"),
            ),
        ];
        for (yaml, evidence, expected) in table {
            let expect: Expect = serde_yaml::from_str(yaml).expect(yaml);
            let got = expect.judge(evidence).map_err(|(_, _, text)| text);
            assert_eq!(got, expected.map_err(String::from), "{yaml}");
        }
        let expect: Expect = serde_yaml::from_str("body: { json: { $.a: 1 } }").expect("YAML");
        let (_, _, text) = expect.judge(&evidence(200, &long)).expect_err("no JSON");
        assert!(text.chars().count() < 300 && text.contains("which is no JSON"), "{text}");
    }

    #[test]
    fn bad_statuses_are_refused() {
        for bad in ["status: 99", "status: 6xx", "status: []", "status: ok", "status: 1000"] {
            assert!(serde_yaml::from_str::<Expect>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hostile_bodies_do_not_break_the_judgement() {
        let expect: Expect =
            serde_yaml::from_str("body: { json: { $..a: 1 }, not_contains: zz, matches: '.' }").expect("YAML");
        for body in [&b"\xff\xfe\x00"[..], &[b'['; 10_000], b"{\"a\":1e999}", "😀".repeat(300).as_bytes()] {
            let evidence = Evidence { status: 200, body: body.to_vec(), ..Evidence::default() };
            assert!(expect.judge(&evidence).is_err());
        }
    }
}
