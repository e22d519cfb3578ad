//! The bodies known receivers want, within the limits they set. Pure.
//!
//! Each limit is the receiver's documented one; a text is cut before it is escaped, counting what escaping adds, so
//! no cut leaves half an entity behind.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::alertmanager;
use crate::{
    alert::{Alert, Message, MessageKind},
    incident::Severity,
    notify::text::{Words, cut},
};

/// Whose body it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// The whole alert as JSON.
    #[default]
    Generic,
    /// Slack's incoming webhook (also Mattermost and Rocket.Chat, which read `text`).
    Slack,
    /// Discord's webhook.
    Discord,
    /// Microsoft Teams: a workflow's webhook, with an adaptive card.
    Teams,
    /// Telegram's `sendMessage`: `https://api.telegram.org/bot<token>/sendMessage` with `chat_id`.
    Telegram,
    /// A topic of ntfy: `https://ntfy.sh/topic`.
    Ntfy,
    /// Alertmanager's webhook, version 4.
    Alertmanager,
}

/// What is sent.
#[derive(Debug)]
pub struct Content {
    /// Its type.
    pub content_type: &'static str,
    /// Headers of the receiver's own; values are ASCII.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// Most checks of a generic body: an incident may have thousands, and a receiver may bound what it reads.
pub const GENERIC_CHECKS_MAX: usize = 200;

impl Preset {
    /// What this receiver is sent for a message.
    pub fn content(self, message: &Message, words: &Words<'_>, chat_id: Option<&str>) -> Content {
        let body = match self {
            Self::Generic => generic(message, words),
            Self::Slack => slack(words),
            Self::Discord => discord(words),
            Self::Teams => teams(words),
            Self::Telegram => telegram(words, chat_id.unwrap_or_default()),
            Self::Alertmanager => alertmanager::body(message, words),
            Self::Ntfy => return ntfy(words),
        };
        Content { content_type: "application/json", headers: Vec::new(), body: body.to_string().into_bytes() }
    }
}

/// The alert with what a receiver needs to tell messages apart; also what templates see.
pub fn context(message: &Message, words: &Words<'_>) -> Value {
    let alert = &message.alert;
    let mut bounded = alert.clone();
    bounded.checks.truncate(GENERIC_CHECKS_MAX);
    json!({
        "alert": bounded,
        "checks_total": alert.tally().total(),
        "message": {
            "key": message.key, "channel": message.channel, "thread": message.thread, "position": message.position,
        },
        "tag": words.tag(),
        "title": words.title(),
        "headline": words.headline(),
        "text": words.lines().join("\n"),
        "duration": words.lasted(),
    })
}

fn generic(message: &Message, words: &Words<'_>) -> Value {
    let mut context = context(message, words);
    let mut body = json!({
        "key": message.key,
        "channel": message.channel,
        "thread": message.thread,
        "position": message.position,
        "subject": context["title"].take(),
        "text": context["text"].take(),
        "checks_total": context["checks_total"].take(),
    });
    if let (Value::Object(body), Value::Object(alert)) = (&mut body, context["alert"].take()) {
        body.extend(alert);
    }
    body
}

fn state_line(alert: &Alert) -> String {
    let incident = alert.incident.map_or(String::new(), |id| format!(", incident {id}"));
    format!("bongsu on {}{incident}", alert.vantage)
}

fn check_lines(words: &Words<'_>) -> Vec<String> {
    let (checks, left_out) = words.checks();
    let mut lines: Vec<String> = checks
        .into_iter()
        .map(|check| {
            let reason = check.reason.map_or(String::new(), |reason| format!(": {reason}"));
            format!("{} {} {}{reason}", check.name, check.state, check.when)
        })
        .collect();
    if left_out > 0 {
        lines.push(format!("and {left_out} more"));
    }
    lines
}

#[derive(Clone, Copy)]
enum Mood {
    Bad,
    Poor,
    Good,
    Neutral,
}

fn mood(alert: &Alert) -> Mood {
    match (alert.kind, alert.severity) {
        (MessageKind::Recovery | MessageKind::Past, _) if alert.unwatched => Mood::Poor,
        (MessageKind::Recovery | MessageKind::Past, _) => Mood::Good,
        (MessageKind::Test, _) => Mood::Neutral,
        (MessageKind::Partial | MessageKind::Isolated, _) | (_, Severity::Degraded) => Mood::Poor,
        (MessageKind::Problem | MessageKind::Worse | MessageKind::Reminder, Severity::Down) => Mood::Bad,
    }
}

fn colour(mood: Mood) -> u32 {
    match mood {
        Mood::Bad => 0x00c6_2828,
        Mood::Poor => 0x00b2_6a00,
        Mood::Good => 0x002e_7d32,
        Mood::Neutral => 0x0015_65c0,
    }
}

// Slack: a section's text 3,000 characters, a field's 2,000, ten fields; `&`, `<` and `>` escaped, which also keeps
// an alert from mentioning anybody.

fn slack(words: &Words<'_>) -> Value {
    let text = |text: &str, max: usize| {
        let measure = |c: char| match c {
            '&' => 5,
            '<' | '>' => 4,
            c => c.len_utf16(),
        };
        cut(text, max, measure).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
    };
    let facts = words.facts();
    let fields: Vec<Value> = facts
        .iter()
        .take(10)
        .map(|fact| json!({ "type": "mrkdwn", "text": format!("*{}*\n{}", fact.label, text(&fact.value, 1_900)) }))
        .collect();
    let mut blocks = vec![
        json!({ "type": "section", "text": { "type": "mrkdwn", "text": text(&words.headline(), 2_900) } }),
        json!({ "type": "section", "fields": fields }),
    ];
    let checks = check_lines(words).iter().map(|line| format!("• {line}")).collect::<Vec<_>>().join("\n");
    if !checks.is_empty() {
        blocks.push(json!({ "type": "section", "text": { "type": "mrkdwn", "text": text(&checks, 2_900) } }));
    }
    let state = json!([{ "type": "mrkdwn", "text": text(&state_line(words.alert), 1_900) }]);
    blocks.push(json!({ "type": "context", "elements": state }));
    json!({
        "text": text(&words.title(), 2_900),
        "attachments": [{ "color": format!("#{:06x}", colour(mood(words.alert))), "blocks": blocks }],
    })
}

// Discord: content 2,000 characters; an embed's title 256, description 4,096, field name 256 and value 1,024, 25
// fields; 6,000 over all. Nobody is mentioned, whatever the text says.

fn discord(words: &Words<'_>) -> Value {
    const MARKS: [char; 9] = ['\\', '*', '_', '~', '`', '|', '>', '[', '#'];
    let text = |text: &str, max: usize| {
        let cut = cut(text, max, |c| c.len_utf16() + usize::from(MARKS.contains(&c)));
        cut.chars().flat_map(|c| MARKS.contains(&c).then_some('\\').into_iter().chain([c])).collect::<String>()
    };
    let facts = words.facts();
    let fields: Vec<Value> = facts
        .iter()
        .take(10)
        .map(|fact| json!({ "name": fact.label, "value": text(&fact.value, 300), "inline": false }))
        .collect();
    json!({
        "content": text(&words.title(), 1_900),
        "allowed_mentions": { "parse": [] },
        "embeds": [{
            "title": text(&words.headline(), 250),
            "description": text(&check_lines(words).join("\n"), 1_500),
            "color": colour(mood(words.alert)),
            "fields": fields,
            "footer": { "text": cut(&state_line(words.alert), 200, char::len_utf16) },
            "timestamp": words.alert.at,
        }],
    })
}

// Teams: 28 kB for the whole message. A text block reads a little Markdown; a link is the part that could harm.

fn teams(words: &Words<'_>) -> Value {
    let text = |text: &str, max: usize| cut(&text.replace("](", "] ("), max, char::len_utf8);
    let colour = match mood(words.alert) {
        Mood::Bad => "Attention",
        Mood::Poor => "Warning",
        Mood::Good => "Good",
        Mood::Neutral => "Accent",
    };
    let facts: Vec<Value> =
        words.facts().iter().map(|f| json!({ "title": f.label, "value": text(&f.value, 900) })).collect();
    let mut body = vec![
        json!({
            "type": "TextBlock", "text": text(&words.title(), 600), "wrap": true, "weight": "Bolder",
            "size": "Medium", "color": colour,
        }),
        json!({ "type": "TextBlock", "text": text(&words.headline(), 600), "wrap": true }),
        json!({ "type": "FactSet", "facts": facts }),
    ];
    body.extend(
        check_lines(words)
            .iter()
            .map(|line| json!({ "type": "TextBlock", "text": text(line, 450), "wrap": true, "spacing": "Small" })),
    );
    let state = text(&state_line(words.alert), 200);
    body.push(json!({ "type": "TextBlock", "text": state, "isSubtle": true, "size": "Small", "wrap": true }));
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "contentUrl": null,
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.4",
                "msteams": { "width": "Full" },
                "body": body,
            },
        }],
    })
}

// Telegram: 4,096 UTF-16 units. Plain text: its markup has no way to carry an arbitrary one safely through a cut.

fn telegram(words: &Words<'_>, chat_id: &str) -> Value {
    let text = format!("{}\n\n{}\n\n{}", words.title(), words.lines().join("\n"), state_line(words.alert));
    let chat_id = chat_id.parse::<i64>().map_or_else(|_| json!(chat_id), |number| json!(number));
    json!({
        "chat_id": chat_id,
        "text": cut(&text, 4_096, char::len_utf16),
        "link_preview_options": { "is_disabled": true },
    })
}

// ntfy: a body beyond 4,096 bytes becomes an attachment. Titles beyond ASCII are encoded words (RFC 2047).

fn ntfy(words: &Words<'_>) -> Content {
    let (priority, tag) = match mood(words.alert) {
        Mood::Bad if words.alert.kind == MessageKind::Reminder => ("4", "rotating_light"),
        Mood::Bad => ("5", "rotating_light"),
        Mood::Poor => ("4", "warning"),
        Mood::Good => ("3", "white_check_mark"),
        Mood::Neutral => ("3", "test_tube"),
    };
    let text = format!("{}\n{}", words.lines().join("\n"), state_line(words.alert));
    Content {
        content_type: "text/plain; charset=utf-8",
        headers: vec![
            ("Title", encoded_word(&cut(&words.title(), 250, char::len_utf8))),
            ("Priority", priority.into()),
            ("Tags", tag.into()),
        ],
        body: cut(&text, 4_000, char::len_utf8).into_bytes(),
    }
}

fn encoded_word(text: &str) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let plain = text.chars().all(|c| c == ' ' || c.is_ascii_graphic());
    if plain { text.into() } else { format!("=?UTF-8?B?{}?=", STANDARD.encode(text)) }
}

#[cfg(test)]
mod tests {
    use chrono_tz::Tz;

    use super::*;
    use crate::{
        alert::AlertCheck,
        notify::{testing, text::tests::alert},
        observation::{Kind, Phase, Reason},
    };

    const ALL: [Preset; 7] = [
        Preset::Generic,
        Preset::Slack,
        Preset::Discord,
        Preset::Teams,
        Preset::Telegram,
        Preset::Ntfy,
        Preset::Alertmanager,
    ];

    fn content(preset: Preset, alert: &Alert) -> Content {
        let message = testing::message(alert.clone());
        preset.content(&message, &Words { alert, zone: Tz::UTC }, Some("-1001"))
    }

    fn body(preset: Preset, alert: &Alert) -> Value {
        serde_json::from_slice(&content(preset, alert).body).expect("JSON")
    }

    /// What has left the configuration while it was down.
    fn unwatched() -> Alert {
        let mut alert = alert(MessageKind::Recovery);
        alert.unwatched = true;
        alert.checks.iter_mut().for_each(|check| check.unwatched = true);
        alert
    }

    #[test]
    fn nobody_is_told_that_what_is_no_longer_watched_is_up() {
        for preset in ALL {
            let content = content(preset, &unwatched());
            let text = String::from_utf8(content.body).expect("UTF-8").to_lowercase();
            assert!(text.contains("no longer watched") && !text.contains("is up again"), "{preset:?}: {text}");
        }
        assert_eq!(body(Preset::Generic, &unwatched())["unwatched"], true);
        assert_eq!(body(Preset::Teams, &unwatched())["attachments"][0]["content"]["body"][0]["color"], "Warning");
    }

    /// The largest and most awkward alert there is.
    fn monster() -> Alert {
        let mut alert = alert(MessageKind::Problem);
        alert.title = "카카오톡 <@here> *&* ".repeat(100);
        alert.cause = "&<>*_`|[x](http://example.com) 😀 @everyone <!channel> ".repeat(100);
        alert.labels = (0..200).map(|n| (format!("label-{n}"), "<&>값".repeat(20))).collect();
        let reason = Some(Reason::new(Phase::Login, Kind::Rejected, "<&*😀".repeat(200)));
        let check = AlertCheck { reason, ..alert.checks[0].clone() };
        alert.checks = std::iter::repeat_n(check, 1_000).collect();
        alert
    }

    #[test]
    fn the_generic_body_is_the_alert_with_its_key() {
        let alert = alert(MessageKind::Problem);
        let body = body(Preset::Generic, &alert);
        assert_eq!(body["key"], "seoul-1.12.ops.0");
        assert_eq!(body["kind"], "problem");
        assert_eq!(body["severity"], "down");
        assert_eq!(body["title"], "회사 메일");
        assert_eq!(body["subject"], "[DOWN] 회사 메일: submission: login: 535 5.7.8 <no> \"entry\" & more");
        assert_eq!(body["started"], json!({ "after": "2026-11-22T14:50:02.000Z", "by": "2026-11-22T14:50:05.000Z" }));
        assert_eq!(body["checks"].as_array().map(Vec::len), Some(2));
        let back: Alert = serde_json::from_value(body).expect("an alert can be read from it");
        assert_eq!(back, alert);
    }

    #[test]
    fn slack_gets_blocks_that_mention_nobody() {
        let body = body(Preset::Slack, &alert(MessageKind::Problem));
        assert_eq!(body["text"], "[DOWN] 회사 메일: submission: login: 535 5.7.8 &lt;no&gt; \"entry\" &amp; more");
        let blocks = &body["attachments"][0]["blocks"];
        assert_eq!(body["attachments"][0]["color"], "#c62828");
        assert_eq!(blocks[0]["text"]["text"], "회사 메일 is down.");
        assert_eq!(blocks[1]["fields"][1]["text"], "*Began*\n2026-11-22, between 14:50:02Z and 14:50:05Z");
        assert_eq!(blocks[3]["elements"][0]["text"], "bongsu on seoul-1, incident #12");
    }

    #[test]
    fn discord_gets_an_embed_that_mentions_nobody() {
        let body = body(Preset::Discord, &monster());
        assert_eq!(body["allowed_mentions"], json!({ "parse": [] }));
        assert!(!body["embeds"][0]["description"].as_str().expect("text").contains("](http"));
    }

    #[test]
    fn teams_gets_a_card_and_telegram_a_text() {
        let recovery = alert(MessageKind::Recovery);
        let card = body(Preset::Teams, &recovery);
        let content = &card["attachments"][0]["content"];
        assert_eq!((&content["type"], &content["body"][0]["color"]), (&json!("AdaptiveCard"), &json!("Good")));
        let text = body(Preset::Telegram, &recovery);
        assert_eq!(text["chat_id"], -1_001);
        assert!(text["text"].as_str().expect("text").starts_with("[UP] 회사 메일: after 4h20m\n\n"));
    }

    #[test]
    fn ntfy_gets_text_with_headers() {
        let content = content(Preset::Ntfy, &alert(MessageKind::Problem));
        assert_eq!(content.headers[1], ("Priority", "5".into()));
        assert!(content.headers[0].1.starts_with("=?UTF-8?B?") && content.headers[0].1.is_ascii());
        assert!(String::from_utf8(content.body).expect("text").starts_with("회사 메일 is down.\nCause: "));
        assert_eq!(encoded_word("[UP] Mail"), "[UP] Mail");
        assert!(encoded_word("a\r\nX: y").starts_with("=?"));
    }

    #[test]
    fn no_receiver_is_sent_more_than_it_takes() {
        fn strings(value: &Value, longest: &mut usize) {
            match value {
                Value::String(text) => *longest = (*longest).max(text.encode_utf16().count()),
                Value::Array(items) => items.iter().for_each(|v| strings(v, longest)),
                Value::Object(map) => map.values().for_each(|v| strings(v, longest)),
                Value::Null | Value::Bool(_) | Value::Number(_) => {}
            }
        }
        let monster = monster();
        for (preset, string_max, bytes_max) in [
            (Preset::Slack, 3_000, 60_000),
            (Preset::Discord, 2_000, 20_000),
            (Preset::Teams, 1_000, 28_000),
            (Preset::Telegram, 4_096, 20_000),
        ] {
            let bytes = content(preset, &monster).body.len();
            let mut longest = 0;
            strings(&body(preset, &monster), &mut longest);
            assert!(longest <= string_max && bytes <= bytes_max, "{preset:?}: {longest} characters, {bytes} bytes");
        }
        let discord = body(Preset::Discord, &monster);
        let mut total = 0;
        for key in ["title", "description"] {
            total += discord["embeds"][0][key].as_str().expect("text").encode_utf16().count();
        }
        for field in discord["embeds"][0]["fields"].as_array().expect("fields") {
            total += field["value"].as_str().expect("text").encode_utf16().count() + 10;
        }
        assert!(total <= 5_800, "{total}");
        assert!(content(Preset::Ntfy, &monster).body.len() <= 4_096);
        assert!(content(Preset::Generic, &monster).body.len() < 1_000_000);
    }

    #[test]
    fn every_preset_renders_every_kind() {
        for kind in [
            MessageKind::Problem,
            MessageKind::Worse,
            MessageKind::Reminder,
            MessageKind::Partial,
            MessageKind::Recovery,
            MessageKind::Past,
            MessageKind::Isolated,
            MessageKind::Test,
        ] {
            for preset in ALL {
                let mut alert = alert(kind);
                alert.checks.clear();
                alert.incident = None;
                let content = content(preset, &alert);
                assert!(!content.body.is_empty(), "{preset:?} {kind:?}");
                assert!(content.headers.iter().all(|(_, value)| value.is_ascii()));
            }
        }
    }
}
