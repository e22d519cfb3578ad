//! Bodies by the user's own template (minijinja).
//!
//! A template is tried at load against a sample of every kind of message, so that a mistake is told by
//! `bongsu validate` and not by a missing alert. Names that do not exist are mistakes; `{% if alert.ended %}` asks.

use std::io::{self, Write};

use chrono_tz::Tz;
use minijinja::{Environment, UndefinedBehavior, Value, value::Serde};

use super::preset::context;
use crate::{
    alert::{Alert, AlertCheck, InsteadOf, Message, MessageId, MessageKind, MessageState, Point, ToldNext},
    incident::{Edge, IncidentId, Severity},
    notify::text::Words,
    observation::{Kind, Outcome, Phase, Reason},
    value::Timestamp,
};

/// Largest body a template may make.
const BODY_BYTES_MAX: usize = 256 * 1_024;

/// Most steps a template may take: a loop within a loop would otherwise hold up the whole process.
const FUEL: u64 = 1_000_000;

/// A template that renders every kind of message.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
    json: bool,
}

/// Longest expression or statement, between its braces: the library takes one apart by recursion, which a long chain of
/// operators would let run out of stack.
const EXPRESSION_BYTES_MAX: usize = 1_000;

const NAME: &str = "body";

impl Template {
    /// Parses and tries a template; `json` says that its result must be JSON.
    ///
    /// # Errors
    /// In words, with the line, when it does not parse, render, or make JSON.
    pub fn new(source: String, json: bool) -> Result<Self, String> {
        if let Some(line) = too_long(&source) {
            return Err(format!("line {line}: an expression of more than {EXPRESSION_BYTES_MAX} bytes"));
        }
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.add_template_owned(NAME, source).map_err(|error| told(&error))?;
        let template = Self { environment, json };
        for message in samples() {
            let words = Words { alert: &message.alert, zone: Tz::UTC };
            let kind = message.alert.kind.as_str();
            template.render(&message, &words).map_err(|text| format!("{text} (for a message of the kind `{kind}`)"))?;
        }
        Ok(template)
    }

    /// The body of a message.
    ///
    /// # Errors
    /// In words, when the template does not fit this message.
    pub fn render(&self, message: &Message, words: &Words<'_>) -> Result<Vec<u8>, String> {
        let template = self.environment.get_template(NAME).map_err(|error| told(&error))?;
        let mut body = Bounded(Vec::new());
        template
            .render_captured_to(Value::from(Serde(context(message, words))), &mut body)
            .map_err(|error| told(&error))?;
        if self.json {
            serde_json::from_slice::<serde::de::IgnoredAny>(&body.0).map_err(|error| {
                let (line, column) = (error.line(), error.column());
                format!("line {line}, column {column} of what the template makes is not JSON; write texts as {{{{ title | tojson }}}}")
            })?;
        }
        Ok(body.0)
    }
}

/// The line in which an expression or a statement begins that is longer than the bound.
fn too_long(source: &str) -> Option<usize> {
    let bytes = source.as_bytes();
    let mut at = 0;
    while let Some(begin) = bytes[at..].windows(2).position(|pair| matches!(pair, b"{{" | b"{%")).map(|n| at + n) {
        let mut quote = None;
        let mut end = begin + 2;
        while end < bytes.len() {
            match (quote, bytes[end]) {
                (Some(_), b'\\') => end += 1,
                (Some(open), byte) if byte == open => quote = None,
                (None, byte @ (b'"' | b'\'')) => quote = Some(byte),
                (None, b'}' | b'%') if bytes.get(end + 1) == Some(&b'}') => break,
                _ => {}
            }
            end += 1;
        }
        if end - begin > EXPRESSION_BYTES_MAX {
            return Some(source[..begin].matches('\n').count() + 1);
        }
        at = end.min(bytes.len());
    }
    None
}

struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > BODY_BYTES_MAX {
            return Err(io::Error::other(format!("the body is larger than {BODY_BYTES_MAX} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn told(error: &minijinja::Error) -> String {
    use std::error::Error;
    let line = error.line().map_or(String::new(), |line| format!("line {line} of the template: "));
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    // The reason why writing failed is the source; the error itself only says that it did.
    let source = error.source().map_or(String::new(), |source| format!(" ({source})"));
    format!("{line}{detail}{source}")
}

/// One message of each kind, with what makes a template stumble: quotes, line ends, Hangul, absent parts.
fn samples() -> Vec<Message> {
    let kinds = [
        MessageKind::Problem,
        MessageKind::Worse,
        MessageKind::Reminder,
        MessageKind::Partial,
        MessageKind::Recovery,
        MessageKind::Past,
        MessageKind::Isolated,
        MessageKind::Test,
    ];
    kinds.into_iter().map(sample).collect()
}

fn sample(kind: MessageKind) -> Message {
    let at = |ms: i64| Timestamp::from_millis(1_795_359_000_000 + ms);
    let name = |text: &str| text.parse().expect("a good name");
    let test = matches!(kind, MessageKind::Test | MessageKind::Isolated);
    let started = Edge { after: (kind != MessageKind::Worse).then(|| at(0)), by: at(3_000) };
    let ended =
        (kind.is_final() || kind == MessageKind::Isolated).then(|| Edge { after: Some(at(60_000)), by: at(63_000) });
    let check = AlertCheck {
        name: "mail/submission".parse().expect("a good name"),
        severity: Severity::Down,
        started,
        ended,
        reason: Some(Reason::new(Phase::Login, Kind::Rejected, "535 \"no\" \\ 안녕")),
        flapping: false,
        unwatched: false,
        recent: vec![Point { at: at(0), outcome: Outcome::Ok, ms: 12.5 }],
    };
    let alert = Alert {
        kind,
        incident: (!test).then_some(IncidentId(12)),
        vantage: name("seoul-1"),
        service: name("mail"),
        title: "회사 \"메일\"".into(),
        labels: [("provider".to_owned(), "acme".to_owned())].into(),
        severity: Severity::Down,
        cause: "submission: login: 535 \"no\" \\ 안녕".into(),
        started,
        ended,
        unwatched: false,
        duration_ms: 60_000,
        checks: if test { Vec::new() } else { vec![check] },
        acknowledged_by: (kind == MessageKind::Reminder).then(|| "지원".into()),
        next: matches!(kind, MessageKind::Problem | MessageKind::Worse)
            .then(|| ToldNext { at: at(1_800_000), channels: vec![name("ops-chat")] }),
        instead_of: (kind == MessageKind::Past)
            .then(|| InsteadOf { channel: name("ops-chat"), error: "503 Service Unavailable".into() }),
        others: Default::default(),
        at: at(70_000),
    };
    Message {
        id: MessageId(1),
        key: "seoul-1.12.ops.0".into(),
        channel: name("ops"),
        thread: "seoul-1.12".into(),
        position: 0,
        created_at: alert.at,
        next_at: alert.at,
        alert,
        state: MessageState::Pending,
        attempts: 0,
        last_error: None,
        settled_at: None,
        handed_over: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_renders_what_it_is_given() {
        let source = r#"{"t": {{ title | tojson }}, "k": {{ alert.kind | tojson }}, "key": {{ message.key | tojson }},
            "n": [{% for c in alert.checks %}{{ c.name | tojson }}{% if not loop.last %},{% endif %}{% endfor %}]
            {% if alert.ended %}, "end": {{ alert.ended.by | tojson }}{% endif %}}"#;
        let template = Template::new(source.into(), true).expect("a good template");
        let message = sample(MessageKind::Recovery);
        let body = template.render(&message, &Words { alert: &message.alert, zone: Tz::UTC }).expect("rendered");
        let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(
            body,
            serde_json::json!({
                "t": "[UP] 회사 \"메일\": after 1m", "k": "recovery", "key": "seoul-1.12.ops.0",
                "n": ["mail/submission"], "end": "2026-11-22T14:51:03.000Z"
            })
        );
    }

    #[test]
    fn bad_templates_are_told_with_their_line() {
        let table = [
            ("{{ title", false, "line 1 of the template: unexpected end of input, expected end of variable block"),
            (
                "a\n{{ titel }}",
                false,
                "line 2 of the template: `titel` is undefined (for a message of the kind `problem`)",
            ),
            (
                "{{ alert.ended.by }}",
                false,
                "line 1 of the template: `alert.ended` is undefined (for a message of the kind `problem`)",
            ),
            ("{{ title | tojsn }}", false, "line 1 of the template: filter tojsn is unknown"),
            (
                "{\"text\": \"{{ alert.cause }}\"}",
                true,
                "line 1, column 35 of what the template makes is not JSON; write texts as {{ title | tojson }} (for a message of the kind `problem`)",
            ),
        ];
        for (source, json, expected) in table {
            let error = Template::new(source.into(), json).expect_err(source);
            assert!(error.starts_with(expected) || error == expected, "{source}: {error}");
        }
    }

    #[test]
    fn no_expression_is_long_enough_to_exhaust_the_stack() {
        let chain = |operator: &str, n: usize| format!("{{{{ {}1 }}}}", operator.repeat(n));
        let table = [
            (chain("-", 900), true),
            (chain("1+", 400), true),
            (chain("-", 30_000), false),
            (chain("1+", 30_000), false),
            (format!("a\n{{% if {}1 %}}{{% endif %}}", "not ".repeat(9_000)), false),
            (format!("{{{{ \"}}}}\" ~ {}1 }}}}", "-".repeat(9_000)), false),
            // Literal text has no bound of its own.
            (format!("{{{{ 1 }}}}{}{{{{ 2 }}}}", "x".repeat(9_000)), true),
        ];
        for (source, good) in table {
            // With the stack of the program's main thread: code that is not optimised needs more of it.
            let thread = std::thread::Builder::new().stack_size(8 << 20);
            let (beginning, tried) = (source[..30].to_owned(), move || Template::new(source, false).map(|_| ()));
            let told = thread.spawn(tried).expect("a thread").join().expect("no panic");
            let expected = if good { Ok(()) } else { Err("an expression of more than 1000 bytes") };
            match (told, expected) {
                (Ok(()), Ok(())) => {}
                (Err(text), Err(part)) if text.ends_with(part) => {}
                (told, _) => panic!("{beginning}: {told:?}"),
            }
        }
    }

    #[test]
    fn no_template_makes_an_endless_body() {
        let error =
            Template::new("{% for n in range(99999) %}0123456789{% endfor %}".into(), false).expect_err("too large");
        assert!(error.contains("the body is larger than 262144 bytes"), "{error}");
    }

    #[test]
    fn no_template_runs_for_ever() {
        let source = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
        let error = Template::new(source.into(), false).expect_err("too long");
        assert!(error.contains("fuel"), "{error}");
    }

    #[test]
    fn a_template_that_calls_itself_is_an_error_not_a_crash() {
        let source = "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}";
        assert!(Template::new(source.into(), false).is_err());
    }
}
