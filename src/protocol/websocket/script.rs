//! Steps of a dialogue in frames, and the template of a message: as written, then resolved.

use std::collections::BTreeMap;

use regex::Regex;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    options::Options,
    protocol::matcher::{JsonPlace, Matcher, Pattern, quoted},
    value::Secret,
};

/// Most steps of a dialogue; a longer one is a program, and has its place in an `exec` check.
pub const STEPS_MAX: usize = 50;

/// Where the message goes in a template.
const PLACE: &str = "{{message}}";

/// One step of a dialogue.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FrameStep {
    /// Send this as a text frame.
    Send(Secret),
    /// Wait for a frame that holds this text.
    Expect(String),
    /// Wait for a frame that matches this regular expression.
    ExpectRegex(Pattern),
    /// Wait for a frame in JSON that holds these values, by JSONPath.
    ExpectJson(BTreeMap<JsonPlace, Matcher>),
}

/// A frame to wait for.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FrameTest {
    /// One that holds this text.
    Expect(String),
    /// One that matches this regular expression.
    ExpectRegex(Pattern),
    /// One in JSON that holds these values, by JSONPath.
    ExpectJson(BTreeMap<JsonPlace, Matcher>),
}

/// A step, ready to be done.
#[derive(Debug)]
pub enum Act {
    /// Send this.
    Send(Secret),
    /// Wait for this.
    Expect(Wanted),
}

/// What a frame must be.
#[derive(Debug)]
pub enum Wanted {
    /// It holds this text.
    Text(String),
    /// It matches.
    Match(Regex),
    /// It is JSON with these values.
    Json(BTreeMap<JsonPlace, Matcher>),
}

impl Wanted {
    /// Tests a frame; the error says what was found and what was expected.
    pub fn check(&self, frame: &str) -> Result<(), String> {
        let found = || format!("expected a frame with {}, got {}", self.shown(), quoted(frame));
        match self {
            Self::Text(text) => frame.contains(text).then_some(()).ok_or_else(found),
            Self::Match(pattern) => pattern.is_match(frame).then_some(()).ok_or_else(found),
            Self::Json(tests) => {
                let Ok(document) = serde_json::from_str::<Value>(frame) else { return Err(found()) };
                for (place, matcher) in tests {
                    let values = place.values(&document);
                    if values.is_empty() {
                        matcher.check(&place.to_string(), None)?;
                    }
                    for value in values {
                        matcher.check(&place.to_string(), Some(value))?;
                    }
                }
                Ok(())
            }
        }
    }

    /// For people.
    pub fn shown(&self) -> String {
        match self {
            Self::Text(text) => quoted(text),
            Self::Match(pattern) => format!("a match of {}", quoted(pattern.as_str())),
            Self::Json(tests) => {
                let places: Vec<String> = tests.keys().map(ToString::to_string).collect();
                format!("the expected {}", places.join(", "))
            }
        }
    }
}

/// Resolves the steps under `key`.
pub fn script(options: &mut Options<'_>, key: &str, steps: Vec<FrameStep>) -> Option<Vec<Act>> {
    if steps.len() > STEPS_MAX {
        let hint = "a long dialogue is better written as a program for an exec check";
        options.problem(key, format!("more than {STEPS_MAX} steps"), Some(hint));
        return None;
    }
    let mut acts = Vec::new();
    let mut good = true;
    for step in steps {
        let test = match step {
            FrameStep::Send(text) => {
                acts.push(Act::Send(text));
                continue;
            }
            FrameStep::Expect(text) => FrameTest::Expect(text),
            FrameStep::ExpectRegex(pattern) => FrameTest::ExpectRegex(pattern),
            FrameStep::ExpectJson(tests) => FrameTest::ExpectJson(tests),
        };
        match wanted(options, key, test) {
            Some(wanted) => acts.push(Act::Expect(wanted)),
            None => good = false,
        }
    }
    good.then_some(acts)
}

/// Resolves a test under `key`.
pub fn wanted(options: &mut Options<'_>, key: &str, test: FrameTest) -> Option<Wanted> {
    let wanted = match test {
        FrameTest::Expect(text) if !text.is_empty() => Wanted::Text(text),
        FrameTest::ExpectRegex(Pattern(pattern)) => Wanted::Match(pattern),
        FrameTest::ExpectJson(tests) if !tests.is_empty() => Wanted::Json(tests),
        FrameTest::Expect(_) | FrameTest::ExpectJson(_) => {
            options.problem(key, "an expected frame is empty", Some("write what must come"));
            return None;
        }
    };
    Some(wanted)
}

/// What is sent around a message.
#[derive(Debug)]
pub struct Template {
    before: Secret,
    after: Secret,
    /// Whether the message stands within a JSON text.
    json: bool,
}

impl Template {
    /// Resolves the template under `message`.
    pub fn read(options: &mut Options<'_>, text: &Secret) -> Option<Self> {
        let parts: Vec<&str> = text.expose().split(PLACE).collect();
        let [before, after] = parts.as_slice() else {
            let text = format!("the message's place is named {} times", parts.len() - 1);
            options.problem("message", text, Some("write {{message}} exactly once"));
            return None;
        };
        // Within a JSON text a letter may stand there, outside of one it may not.
        let json = serde_json::from_str::<Value>(&format!("{before}x{after}")).is_ok();
        if !json && before.trim_start().starts_with(['{', '[']) {
            let hint = "write it as a JSON text, such as { \"text\": \"{{message}}\" }";
            options.problem("message", "this looks like JSON and is none with a message in it", Some(hint));
            return None;
        }
        Some(Self { before: Secret::new(*before), after: Secret::new(*after), json })
    }

    /// The frame's text for this message.
    pub fn fill(&self, message: &str) -> String {
        let (before, after) = (self.before.expose(), self.after.expose());
        if !self.json {
            return format!("{before}{message}{after}");
        }
        let escaped = Value::from(message).to_string();
        // Without the quotes, which the template has.
        format!("{before}{}{after}", &escaped[1..escaped.len() - 1])
    }
}

/// Where the text stands within a frame of JSON.
#[derive(Clone, Debug)]
pub enum Field {
    /// By JSONPath (RFC 9535).
    Path(JsonPlace),
    /// By JSON Pointer (RFC 6901).
    Pointer(String),
}

impl Field {
    /// Resolves the place under `field`.
    pub fn read(options: &mut Options<'_>, text: &str) -> Option<Self> {
        if text.starts_with('/') {
            return Some(Self::Pointer(text.to_owned()));
        }
        match serde_json::from_value(Value::from(text)) {
            Ok(place) => Some(Self::Path(place)),
            Err(error) => {
                options.problem("field", error.to_string(), Some("write it as $.text or /text"));
                None
            }
        }
    }

    /// The texts that stand there; none when the frame is no JSON or has no text there.
    pub fn texts(&self, frame: &str) -> Vec<String> {
        let Ok(document) = serde_json::from_str::<Value>(frame) else { return Vec::new() };
        let values = match self {
            Self::Path(place) => place.values(&document),
            Self::Pointer(pointer) => document.pointer(pointer).into_iter().collect(),
        };
        values.into_iter().filter_map(|value| value.as_str().map(ToOwned::to_owned)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn template(text: &str) -> Result<Template, Vec<String>> {
        let mut problems = Vec::new();
        let null = serde_yaml::Value::Null;
        let read =
            Template::read(&mut Options::new(&null, Vec::new(), Path::new("."), &mut problems), &Secret::new(text));
        read.ok_or_else(|| problems.into_iter().map(|p| p.text).collect())
    }

    #[test]
    fn templates_name_the_place_once() {
        let fill = |text: &str| template(text).expect(text).fill("a\"b\nc 봉");
        assert_eq!(fill("{{message}}"), "a\"b\nc 봉");
        assert_eq!(fill("PUB x {{message}}\n"), "PUB x a\"b\nc 봉\n");
        assert_eq!(fill(r#"{"text":"{{message}}"}"#), r#"{"text":"a\"b\nc 봉"}"#);
        assert_eq!(fill(r#"["say", "> {{message}}"]"#), r#"["say", "> a\"b\nc 봉"]"#);
        assert_eq!(fill(r#""{{message}}""#), r#""a\"b\nc 봉""#);
        for (text, problem) in [
            ("no place", "the message's place is named 0 times"),
            ("{{message}} {{message}}", "the message's place is named 2 times"),
            (r#"{"text": {{message}}}"#, "this looks like JSON and is none with a message in it"),
            (r#"{"text": "{{message}}"#, "this looks like JSON and is none with a message in it"),
        ] {
            assert_eq!(template(text).expect_err(text), [problem], "{text}");
        }
    }

    #[test]
    fn frames_are_tested_and_told() {
        let json = |yaml: &str| Wanted::Json(serde_yaml::from_str(yaml).expect(yaml));
        let table = [
            (Wanted::Text("ok".into()), "look", Ok(())),
            (Wanted::Text("ok".into()), "no", Err("expected a frame with \"ok\", got \"no\"")),
            (Wanted::Match(Regex::new("^a$").expect("a pattern")), "a", Ok(())),
            (
                Wanted::Match(Regex::new("^a$").expect("a pattern")),
                "b",
                Err("expected a frame with a match of \"^a$\", got \"b\""),
            ),
            (json("{ $.type: ready, $.n: { at_least: 2 } }"), r#"{"type": "ready", "n": 3}"#, Ok(())),
            (json("{ $.type: ready }"), r#"{"type": "wait"}"#, Err("$.type is \"wait\", expected \"ready\"")),
            (json("{ $.type: ready }"), "{}", Err("$.type is absent, expected \"ready\"")),
            (json("{ $.type: ready }"), "ready", Err("expected a frame with the expected $.type, got \"ready\"")),
        ];
        for (wanted, frame, expected) in table {
            assert_eq!(wanted.check(frame), expected.map_err(String::from), "{wanted:?} on {frame}");
        }
    }

    #[test]
    fn fields_are_taken_out() {
        let frame = r#"{"type": "say", "text": "봉\n수", "all": [{"text": "a"}, {"text": 5}, {"text": "b"}]}"#;
        let texts = |field: &str| {
            let (null, mut problems) = (serde_yaml::Value::Null, Vec::new());
            let field = Field::read(&mut Options::new(&null, Vec::new(), Path::new("."), &mut problems), field);
            field.map(|field| field.texts(frame)).ok_or_else(|| problems[0].text.clone())
        };
        assert_eq!(texts("$.text").expect("a path"), ["봉\n수"]);
        assert_eq!(texts("/text").expect("a pointer"), ["봉\n수"]);
        assert_eq!(texts("$.all[*].text").expect("a path"), ["a", "b"]);
        assert_eq!(texts("/none").expect("a pointer"), [""; 0]);
        assert!(texts("text").expect_err("no place").contains("is no JSONPath"));
        assert_eq!(Field::Pointer("/text".into()).texts("no JSON"), [""; 0]);
    }

    proptest! {
        #[test]
        fn a_message_survives_its_template(message in ".*") {
            let filled = template(r#"{"a": [1, "> {{message}} <"]}"#).expect("a template").fill(&message);
            let document: Value = serde_json::from_str(&filled).expect("JSON");
            prop_assert_eq!(&document["a"][1], &Value::from(format!("> {message} <")));
        }
    }
}
