//! What a receiver's answer means for the message. Pure.

use std::time::Duration;

use serde_json::Value;

use super::preset::Preset;
use crate::{alert::message::Attempted, observation::one_line, value::Timestamp};

/// Most characters of a body repeated in an error: enough for a sentence.
const BODY_CHARS_MAX: usize = 200;

/// Longest host of a redirect that is told, in characters: names of the DNS are no longer (RFC 1035, section 2.3.4).
const HOST_CHARS_MAX: usize = 253;

/// An answer, as far as it was read.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// `Retry-After`.
    pub retry_after: Option<String>,
    /// `Location`.
    pub location: Option<String>,
    /// The beginning of the body.
    pub body: String,
}

/// Judges an answer.
pub fn judge(preset: Preset, reply: &Reply, now: Timestamp) -> Attempted {
    let json: Option<Value> = serde_json::from_str(&reply.body).ok();
    let said = match said(json.as_ref(), &reply.body) {
        text if text.is_empty() => String::new(),
        text => format!(": {text}"),
    };
    let status = reply.status;
    match status {
        200..=299 => match hidden_error(preset, json.as_ref(), &reply.body) {
            None => Attempted::Delivered,
            Some(Hidden::Later) => retry(format!("answers {status} with an error{said}"), reply, json.as_ref(), now),
            Some(Hidden::Never) => Attempted::Refused { error: format!("answers {status} with an error{said}") },
        },
        300..=399 => {
            // Following it would send the alert, and its credentials, to whom nobody has named.
            let to = reply.location.as_deref().and_then(host).map_or(String::new(), |host| format!(" to {host}"));
            Attempted::Refused {
                error: format!(
                    "answers {status}, a redirect{to}; redirects are not followed, set `url` to where it leads"
                ),
            }
        }
        408 | 425 | 429 | 500..=599 => retry(format!("answers {status}{said}"), reply, json.as_ref(), now),
        _ => Attempted::Refused { error: format!("answers {status}{said}") },
    }
}

fn retry(error: String, reply: &Reply, json: Option<&Value>, now: Timestamp) -> Attempted {
    let header = reply.retry_after.as_deref().and_then(|text| wish(text, now));
    // Telegram says it in `parameters`, Discord at the top.
    let body = json.and_then(|j| j["parameters"]["retry_after"].as_f64().or_else(|| j["retry_after"].as_f64()));
    let body = body.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    Attempted::Retry { error, retry_after: header.max(body) }
}

/// `Retry-After`: seconds, or a date (RFC 9110, section 10.2.3).
fn wish(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = chrono::DateTime::parse_from_rfc2822(text).ok()?;
    Some(Timestamp::from(date).since(now))
}

enum Hidden {
    Later,
    Never,
}

/// An error told in a 200: Slack's and Telegram's APIs say `"ok": false`, a Teams connector says it in prose.
fn hidden_error(preset: Preset, json: Option<&Value>, body: &str) -> Option<Hidden> {
    /// Slack's words for trouble of its own.
    const PASSING: [&str; 6] =
        ["ratelimited", "rate_limited", "internal_error", "fatal_error", "service_unavailable", "request_timeout"];
    match preset {
        Preset::Slack | Preset::Telegram => {
            let json = json.filter(|j| j["ok"] == Value::Bool(false))?;
            let code = json["error_code"].as_u64();
            let passing = json["error"].as_str().is_some_and(|word| PASSING.contains(&word))
                || code.is_some_and(|code| code == 429 || code >= 500);
            Some(if passing { Hidden::Later } else { Hidden::Never })
        }
        Preset::Teams if body.contains("delivery failed with error") => {
            let passing = ["error 429", "error 5"].iter().any(|word| body.contains(word));
            Some(if passing { Hidden::Later } else { Hidden::Never })
        }
        Preset::Teams | Preset::Generic | Preset::Discord | Preset::Ntfy | Preset::Alertmanager => None,
    }
}

/// The receiver's own words: the field that usually holds them, or the beginning of the body.
fn said(json: Option<&Value>, body: &str) -> String {
    let field =
        json.and_then(|j| ["description", "message", "error", "detail"].iter().find_map(|key| j[*key].as_str()));
    one_line(field.unwrap_or(body), BODY_CHARS_MAX)
}

/// The host of an address; its path and query may hold a token.
fn host(location: &str) -> Option<String> {
    url::Url::parse(location).ok()?.host_str().map(|host| one_line(host, HOST_CHARS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T12:00:00Z".parse().expect("a time")
    }

    fn shown(attempted: &Attempted) -> String {
        match attempted {
            Attempted::Delivered => "delivered".into(),
            Attempted::Retry { error, retry_after } => format!("retry {retry_after:?} {error}"),
            Attempted::Refused { error } => format!("refused {error}"),
        }
    }

    #[test]
    fn a_redirect_to_an_endless_host_is_told_in_a_line() {
        let location = Some(format!("https://{}/", "a.".repeat(7_000)));
        let reply = Reply { status: 301, location, ..Reply::default() };
        let Attempted::Refused { error } = judge(Preset::Generic, &reply, now()) else { panic!("it is not followed") };
        assert!(error.contains("…") && error.chars().count() < 400, "{error}");
    }

    #[test]
    fn statuses_are_judged() {
        let table = [
            (200, "", "delivered"),
            (204, "", "delivered"),
            (202, "{\"ok\":false}", "delivered"),
            (
                301,
                "",
                "refused answers 301, a redirect to other.example.com; redirects are not followed, set `url` to where it leads",
            ),
            (400, "<b>no</b>\nway", "refused answers 400: <b>no</b> way"),
            (401, "{\"message\":\"bad token\"}", "refused answers 401: bad token"),
            (404, "", "refused answers 404"),
            (408, "", "retry None answers 408"),
            (410, "gone", "refused answers 410: gone"),
            (425, "", "retry None answers 425"),
            (429, "", "retry None answers 429"),
            (500, "oops", "retry None answers 500: oops"),
            (503, "", "retry None answers 503"),
            (599, "", "retry None answers 599"),
            (999, "", "refused answers 999"),
        ];
        for (status, body, expected) in table {
            let location = Some("https://other.example.com/token?x=secret".into());
            let reply = Reply { status, body: body.into(), location, retry_after: None };
            assert_eq!(shown(&judge(Preset::Generic, &reply, now())), expected);
        }
    }

    #[test]
    fn errors_within_a_200_are_found() {
        let table = [
            (Preset::Slack, "ok", "delivered"),
            (Preset::Slack, r#"{"ok":true}"#, "delivered"),
            (
                Preset::Slack,
                r#"{"ok":false,"error":"channel_not_found"}"#,
                "refused answers 200 with an error: channel_not_found",
            ),
            (
                Preset::Slack,
                r#"{"ok":false,"error":"ratelimited"}"#,
                "retry None answers 200 with an error: ratelimited",
            ),
            (
                Preset::Telegram,
                r#"{"ok":false,"error_code":429,"description":"Too Many Requests","parameters":{"retry_after":7}}"#,
                "retry Some(7s) answers 200 with an error: Too Many Requests",
            ),
            (Preset::Telegram, r#"{"ok":true,"result":{}}"#, "delivered"),
            (Preset::Teams, "1", "delivered"),
            (
                Preset::Teams,
                "Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 429",
                "retry None answers 200 with an error: Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 429",
            ),
            (
                Preset::Teams,
                "Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 413",
                "refused answers 200 with an error: Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 413",
            ),
        ];
        for (preset, body, expected) in table {
            let reply = Reply { status: 200, body: body.into(), ..Reply::default() };
            assert_eq!(shown(&judge(preset, &reply, now())), expected);
        }
    }

    #[test]
    fn the_receivers_wish_is_read_wherever_it_stands() {
        let table = [
            (Some("120"), "", Some(120_000)),
            (Some(" 0.5 "), "", Some(500)),
            (Some("Sun, 22 Nov 2026 12:01:30 GMT"), "", Some(90_000)),
            (Some("Sun, 22 Nov 2026 11:00:00 GMT"), "", Some(0)),
            (Some("soon"), "", None),
            (Some("-5"), "", None),
            (Some("NaN"), "", None),
            (Some("1e300"), "", None),
            (None, r#"{"retry_after":1.5,"global":false}"#, Some(1_500)),
            (None, r#"{"parameters":{"retry_after":30}}"#, Some(30_000)),
            (Some("2"), r#"{"retry_after":9}"#, Some(9_000)),
            (None, r#"{"retry_after":-1}"#, None),
        ];
        for (header, body, ms) in table {
            let reply =
                Reply { status: 429, retry_after: header.map(Into::into), body: body.into(), ..Reply::default() };
            let Attempted::Retry { retry_after, .. } = judge(Preset::Discord, &reply, now()) else {
                panic!("{header:?}")
            };
            assert_eq!(retry_after, ms.map(Duration::from_millis), "{header:?} {body}");
        }
    }
}
