//! What an answer must look like: tests of a text, a header or a JSON value, and how a failed one is told.
//!
//! Patterns and paths are compiled when the configuration is read, so a bad one is refused there with its place, and
//! a probe never compiles anything. A failed test shows what was found beside what was expected.

use std::{borrow::Cow, cmp::Ordering, fmt};

use regex::Regex;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::Value;
use serde_json_path::JsonPath;

use crate::observation::one_line;

/// Longest piece of a peer's answer that a reason shows, in characters.
pub const SHOWN_CHARS_MAX: usize = 120;

/// A text in quotes, cut so that it fits a reason.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", one_line(text, SHOWN_CHARS_MAX))
}

/// A regular expression, compiled when it is read.
#[derive(Clone, Debug)]
pub struct Pattern(pub Regex);

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Regex::new(&text).map(Self).map_err(|error| {
            // The crate draws a picture over several lines; its last line says what is wrong.
            let error = error.to_string();
            let last = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            de::Error::custom(format!("`{text}` is no regular expression: {last}"))
        })
    }
}

impl JsonSchema for Pattern {
    fn schema_name() -> Cow<'static, str> {
        "Pattern".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": "A regular expression (Rust's regex syntax), found anywhere in the text", "type": "string" })
    }
}

/// A JSONPath (RFC 9535), parsed when it is read; ordered by its text so that it can be a key.
#[derive(Clone, Debug)]
pub struct JsonPlace {
    text: String,
    path: JsonPath,
}

impl JsonPlace {
    /// The values at this place.
    pub fn values<'v>(&self, document: &'v Value) -> Vec<&'v Value> {
        self.path.query(document).all()
    }
}

impl fmt::Display for JsonPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for JsonPlace {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for JsonPlace {}

impl PartialOrd for JsonPlace {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for JsonPlace {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl<'de> Deserialize<'de> for JsonPlace {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        match JsonPath::parse(&text) {
            Ok(path) => Ok(Self { text, path }),
            Err(error) => Err(de::Error::custom(format!(
                "`{text}` is no JSONPath (RFC 9535), such as $.status or $.items[0].name: {}",
                error.message()
            ))),
        }
    }
}

impl JsonSchema for JsonPlace {
    fn schema_name() -> Cow<'static, str> {
        "JsonPlace".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": "A JSONPath (RFC 9535)", "type": "string", "pattern": r"^\$" })
    }
}

/// What a value must be: a plain value (equal to it), or a mapping of tests that must all hold.
#[derive(Clone, Debug)]
pub enum Matcher {
    /// Equal to this.
    Equals(Value),
    /// Passes all of these.
    Tests(Box<Tests>),
}

/// Tests of one value; all that are given must hold.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tests {
    /// Equal to this.
    pub equals: Option<Value>,
    /// Not equal to this.
    pub not: Option<Value>,
    /// Holds this text.
    pub contains: Option<String>,
    /// Does not hold this text.
    pub not_contains: Option<String>,
    /// Matches this regular expression.
    pub matches: Option<Pattern>,
    /// Whether it is there at all.
    pub exists: Option<bool>,
    /// A number, at least this.
    pub at_least: Option<f64>,
    /// A number, at most this.
    pub at_most: Option<f64>,
}

impl<'de> Deserialize<'de> for Matcher {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Matcher;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value, or tests such as { contains: text } or { matches: regex }")
            }
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Matcher, E> {
                Ok(Matcher::Equals(value.into()))
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Matcher, E> {
                Ok(Matcher::Equals(value.into()))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Matcher, E> {
                Ok(Matcher::Equals(value.into()))
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Matcher, E> {
                Ok(Matcher::Equals(value.into()))
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<Matcher, E> {
                Ok(Matcher::Equals(value.into()))
            }
            fn visit_unit<E: de::Error>(self) -> Result<Matcher, E> {
                Ok(Matcher::Equals(Value::Null))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Matcher, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element::<Value>()? {
                    list.push(item);
                }
                Ok(Matcher::Equals(Value::Array(list)))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Matcher, A::Error> {
                Tests::deserialize(MapAccessDeserializer::new(map)).map(|tests| Matcher::Tests(Box::new(tests)))
            }
        }
        d.deserialize_any(V)
    }
}

impl JsonSchema for Matcher {
    fn schema_name() -> Cow<'static, str> {
        "Matcher".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let tests = generator.subschema_for::<Tests>();
        json_schema!({
            "description": "A value to be equal to, or tests that must all hold",
            "anyOf": [{ "type": ["string", "number", "boolean", "array", "null"] }, tests]
        })
    }
}

impl Matcher {
    /// Tests what was found; `None` when nothing was there. The error says what was found and what was expected.
    ///
    /// # Errors
    /// When a test fails.
    pub fn check(&self, what: &str, found: Option<&Value>) -> Result<(), String> {
        match self {
            Self::Equals(expected) => equal(what, found, expected),
            Self::Tests(tests) => tests.check(what, found),
        }
    }
}

impl Tests {
    fn check(&self, what: &str, found: Option<&Value>) -> Result<(), String> {
        if let Some(wanted) = self.exists
            && wanted != found.is_some()
        {
            let expected = if wanted { "expected to be there" } else { "expected to be absent" };
            return Err(format!("{what} is {}, {expected}", shown(found)));
        }
        if let Some(expected) = &self.equals {
            equal(what, found, expected)?;
        }
        if let Some(unwanted) = &self.not
            && found.is_some_and(|value| same(value, unwanted))
        {
            return Err(format!("{what} is {}, expected anything else", shown(found)));
        }
        let text = found.map(text_of);
        let text = text.as_deref();
        if let Some(part) = &self.contains
            && !text.is_some_and(|text| text.contains(part))
        {
            return Err(format!("{what} is {}, expected to contain {}", shown(found), quoted(part)));
        }
        if let Some(part) = &self.not_contains
            && text.is_some_and(|text| text.contains(part))
        {
            return Err(format!("{what} is {}, expected not to contain {}", shown(found), quoted(part)));
        }
        if let Some(Pattern(pattern)) = &self.matches
            && !text.is_some_and(|text| pattern.is_match(text))
        {
            return Err(format!("{what} is {}, expected to match {}", shown(found), quoted(pattern.as_str())));
        }
        let number = text.and_then(|text| text.trim().parse::<f64>().ok());
        if let Some(least) = self.at_least
            && !number.is_some_and(|n| n >= least)
        {
            return Err(format!("{what} is {}, expected at least {least}", shown(found)));
        }
        if let Some(most) = self.at_most
            && !number.is_some_and(|n| n <= most)
        {
            return Err(format!("{what} is {}, expected at most {most}", shown(found)));
        }
        Ok(())
    }
}

fn equal(what: &str, found: Option<&Value>, expected: &Value) -> Result<(), String> {
    if found.is_some_and(|value| same(value, expected)) {
        return Ok(());
    }
    Err(format!("{what} is {}, expected {}", shown(found), shown(Some(expected))))
}

/// Equal values; 1 and 1.0 are the same number.
fn same(found: &Value, expected: &Value) -> bool {
    match (found.as_f64(), expected.as_f64()) {
        (Some(found_number), Some(number)) => found == expected || found_number == number,
        _ => found == expected,
    }
}

fn text_of(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => Cow::Borrowed(text),
        other => Cow::Owned(other.to_string()),
    }
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None => "absent".into(),
        Some(Value::String(text)) => quoted(text),
        Some(other) => one_line(&other.to_string(), SHOWN_CHARS_MAX),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn matcher(yaml: &str) -> Matcher {
        serde_yaml::from_str(yaml).expect(yaml)
    }

    #[test]
    fn values_are_tested_and_told() {
        let table: &[(&str, Option<Value>, Result<(), &str>)] = &[
            ("true", Some(json!(true)), Ok(())),
            ("true", Some(json!(false)), Err("it is false, expected true")),
            ("true", None, Err("it is absent, expected true")),
            ("1", Some(json!(1.0)), Ok(())),
            ("'1'", Some(json!(1)), Err("it is 1, expected \"1\"")),
            ("[1, 2]", Some(json!([1, 2])), Ok(())),
            ("{ not: 5 }", Some(json!(5)), Err("it is 5, expected anything else")),
            ("{ contains: ok }", Some(json!("look")), Ok(())),
            ("{ contains: ok }", Some(json!("no")), Err("it is \"no\", expected to contain \"ok\"")),
            ("{ contains: ok }", None, Err("it is absent, expected to contain \"ok\"")),
            ("{ not_contains: ok }", None, Ok(())),
            ("{ matches: '^a.c$' }", Some(json!("abc")), Ok(())),
            ("{ matches: '^a.c$' }", Some(json!("abd")), Err("it is \"abd\", expected to match \"^a.c$\"")),
            ("{ exists: false }", None, Ok(())),
            ("{ exists: false }", Some(json!(null)), Err("it is null, expected to be absent")),
            ("{ at_least: 3, at_most: 5 }", Some(json!(4)), Ok(())),
            ("{ at_least: 3 }", Some(json!("2")), Err("it is \"2\", expected at least 3")),
            ("{ at_most: 3 }", Some(json!("many")), Err("it is \"many\", expected at most 3")),
        ];
        for (yaml, found, expected) in table {
            let got = matcher(yaml).check("it", found.as_ref());
            assert_eq!(got, expected.map_err(String::from), "{yaml} on {found:?}");
        }
    }

    #[test]
    fn bad_patterns_are_refused_when_read() {
        for (yaml, part) in [("{ matches: '(' }", "unclosed group"), ("{ match: a }", "unknown field `match`")] {
            let error = serde_yaml::from_str::<Matcher>(yaml).expect_err(yaml).to_string();
            assert!(error.contains(part), "{error}");
        }
        let error = serde_yaml::from_str::<JsonPlace>("'$.['").expect_err("no path").to_string();
        assert!(error.contains("is no JSONPath"), "{error}");
    }
}
