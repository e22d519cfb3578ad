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

const NAME: &str = "body";

impl Template {
    /// Parses and tries a template; `json` says that its result must be JSON.
    ///
    /// # Errors
    /// In words, with the line, when it does not parse, render, or make JSON.
    pub fn new(source: String, json: bool) -> Result<Self, String> {
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
