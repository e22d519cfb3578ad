//! From an alert to a mail: headers, threading, and both bodies.
//!
//! Every mail of an incident is in one thread. The first one's Message-ID is derived from the thread and the channel,
//! all others' from their message's key, and they refer to the first one's. So nothing about earlier mails need be
//! remembered, and a repeated attempt makes the same mail again, byte for byte but for its boundary.

use std::{fmt::Write, time::SystemTime};

use chrono_tz::Tz;
use lettre::{
    Message as Mail,
    message::{
        Mailbox, MultiPart, SinglePart,
        header::{HeaderName, HeaderValue},
    },
};
use ring::digest;

use super::{html, plain};
use crate::{
    alert::{Message, MessageKind},
    incident::Severity,
    notify::text::Words,
    observation::one_line,
};

/// Longest value of a header of our own in characters.
const HEADER_CHARS_MAX: usize = 200;

/// Who writes to whom.
#[derive(Clone, Debug)]
pub struct Parties {
    /// Whose mail it is.
    pub from: Mailbox,
    /// Whom it is for; at least one.
    pub to: Vec<Mailbox>,
    /// Who gets a copy.
    pub cc: Vec<Mailbox>,
    /// Where answers go.
    pub reply_to: Option<Mailbox>,
}

/// The mail of a message.
///
/// # Errors
/// When the mail cannot be built from these parties.
pub fn mail(parties: &Parties, message: &Message, zone: Tz) -> Result<Mail, lettre::error::Error> {
    let words = Words { alert: &message.alert, zone };
    let created = u64::try_from(message.created_at.as_millis()).unwrap_or(0);
    let mut builder = Mail::builder()
        .from(parties.from.clone())
        .date(SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(created.min(DATE_MS_MAX)))
        .message_id(Some(message_id(parties, message)))
        .subject(words.title());
    for to in &parties.to {
        builder = builder.to(to.clone());
    }
    for cc in &parties.cc {
        builder = builder.cc(cc.clone());
    }
    if let Some(reply_to) = &parties.reply_to {
        builder = builder.reply_to(reply_to.clone());
    }
    if message.position > 0 {
        let first = first_id(parties, message);
        builder = builder.in_reply_to(first.clone()).references(first);
    }
    for (name, value) in headers(message) {
        builder = builder.raw_header(HeaderValue::new(name, one_line(&value, HEADER_CHARS_MAX)));
    }
    let footer = footer(message);
    builder.multipart(
        MultiPart::alternative()
            .singlepart(SinglePart::plain(plain::body(&words, &footer)))
            .singlepart(SinglePart::html(html::body(&words, &footer))),
    )
}

/// The last millisecond of the year 9999: a mail's date cannot name a later one.
const DATE_MS_MAX: u64 = 253_402_300_799_999;

fn headers(message: &Message) -> Vec<(HeaderName, String)> {
    let alert = &message.alert;
    let mut headers = vec![
        // RFC 3834: no out-of-office reply, please. Exchange heeds a header of its own.
        (HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned()),
        (HeaderName::new_from_ascii_str("X-Auto-Response-Suppress"), "All".to_owned()),
        (HeaderName::new_from_ascii_str("X-Bongsu-Key"), message.key.clone()),
        (HeaderName::new_from_ascii_str("X-Bongsu-Kind"), alert.kind.as_str().to_owned()),
        (HeaderName::new_from_ascii_str("X-Bongsu-Vantage"), alert.vantage.to_string()),
        // Outlook threads by these, whatever the subject.
        (HeaderName::new_from_ascii_str("Thread-Topic"), format!("bongsu {}", message.thread)),
        (HeaderName::new_from_ascii_str("Thread-Index"), thread_index(message)),
    ];
    if let Some(incident) = alert.incident {
        headers.push((HeaderName::new_from_ascii_str("X-Bongsu-Incident"), incident.0.to_string()));
        headers.push((HeaderName::new_from_ascii_str("X-Bongsu-Service"), alert.service.to_string()));
    }
    let urgent = matches!(alert.kind, MessageKind::Problem | MessageKind::Worse) && alert.severity == Severity::Down;
    if urgent {
        headers.push((HeaderName::new_from_ascii_str("Importance"), "high".to_owned()));
    }
    headers
}

fn footer(message: &Message) -> Vec<String> {
    let alert = &message.alert;
    let mut lines = Vec::new();
    if let Some(id) = alert.incident.filter(|_| alert.ended.is_none() && alert.acknowledged_by.is_none()) {
        lines.push(format!("To take it in hand, on {}: bongsu incidents ack {}", alert.vantage, id.0));
    }
    let incident = alert.incident.map_or(String::new(), |id| format!(", incident {id}"));
    lines.push(format!("bongsu on {}{incident}", alert.vantage));
    lines.push(format!("Message {}", one_line(&message.key, HEADER_CHARS_MAX)));
    lines
}

/// The Message-ID: the same for every attempt.
fn message_id(parties: &Parties, message: &Message) -> String {
    if message.position == 0 {
        first_id(parties, message)
    } else {
        id(parties, &hex(&hash(&["message", &message.key])))
    }
}

/// The Message-ID of the first mail of the thread in this channel.
fn first_id(parties: &Parties, message: &Message) -> String {
    id(parties, &hex(&hash(&["thread", &message.thread, message.channel.as_str()])))
}

fn id(parties: &Parties, left: &str) -> String {
    // A Message-ID is ASCII (RFC 5322, section 3.6.4): a domain beyond it is written in its encoded form.
    let domain = parties.from.email.domain();
    let domain = if domain.is_ascii() && !domain.starts_with('[') {
        domain.to_owned()
    } else {
        url::Host::parse(domain)
            .ok()
            .filter(|h| matches!(h, url::Host::Domain(_)))
            .map_or("bongsu.invalid".into(), |h| h.to_string())
    };
    format!("<{left}@{domain}>")
}

/// Outlook's header: a byte, five bytes of time, a GUID for the thread; five bytes more for each reply.
fn thread_index(message: &Message) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let thread = hash(&["thread", &message.thread, message.channel.as_str()]);
    let mut index = vec![1];
    index.extend_from_slice(&thread[16..21]);
    index.extend_from_slice(&thread[..16]);
    if message.position > 0 {
        // What a reply's bytes say (elapsed time, a random nibble) only sorts the thread; the position does that.
        index.push(0);
        index.extend_from_slice(&message.position.to_be_bytes());
    }
    STANDARD.encode(index)
}

/// A digest of these parts; their lengths are part of it, so no two lists of parts have the same.
fn hash(parts: &[&str]) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    context.finish().as_ref().to_vec()
}

/// The first 128 bits, enough to be unique.
fn hex(hash: &[u8]) -> String {
    let mut text = String::from("bongsu.");
    for byte in &hash[..16] {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use mail_parser::{MessageParser, MimeHeaders};

    use super::*;
    use crate::notify::{testing, text::tests::alert};

    fn parties() -> Parties {
        Parties {
            from: Mailbox::new(Some("봉수".into()), "bongsu@example.com".parse().expect("an address")),
            to: vec![
                "oncall@example.com".parse().expect("an address"),
                Mailbox::new(Some("박, 지원".into()), "b@example.com".parse().expect("an address")),
            ],
            cc: vec!["c@example.com".parse().expect("an address")],
            reply_to: Some("team@example.com".parse().expect("an address")),
        }
    }

    fn message(kind: MessageKind, position: u32) -> Message {
        let mut message = testing::message(alert(kind));
        message.position = position;
        message.key = format!("seoul-1.12.ops.{position}");
        message
    }

    fn formatted(message: &Message) -> Vec<u8> {
        mail(&parties(), message, Tz::UTC).expect("good parties").formatted()
    }

    #[test]
    fn a_mail_says_all_it_must() {
        let bytes = formatted(&message(MessageKind::Problem, 0));
        assert!(bytes.is_ascii(), "no server needs 8BITMIME for it");
        let text = String::from_utf8(bytes.clone()).expect("ASCII");
        assert!(text.lines().all(|line| line.len() <= 998), "RFC 5322, section 2.1.1");
        let parsed = MessageParser::default().parse(&bytes).expect("a mail");
        assert_eq!(parsed.subject(), Some("[DOWN] 회사 메일: submission: login: 535 5.7.8 <no> \"entry\" & more"));
        let from = parsed.from().and_then(|a| a.first()).expect("a sender");
        assert_eq!((from.name(), from.address()), (Some("봉수"), Some("bongsu@example.com")));
        let to = parsed.to().expect("receivers");
        assert_eq!(to.last().and_then(|a| a.name()), Some("박, 지원"));
        assert_eq!(to.iter().count(), 2);
        let header = |name: &str| parsed.header_raw(name).map(str::trim).map(str::to_owned);
        assert_eq!(header("Auto-Submitted").as_deref(), Some("auto-generated"));
        assert_eq!(header("X-Auto-Response-Suppress").as_deref(), Some("All"));
        assert_eq!(header("X-Bongsu-Key").as_deref(), Some("seoul-1.12.ops.0"));
        assert_eq!(header("X-Bongsu-Incident").as_deref(), Some("12"));
        assert_eq!(header("Importance").as_deref(), Some("high"));
        assert_eq!(parsed.date().map(|d| d.to_rfc3339()).as_deref(), Some("2026-11-22T14:53:17Z"));
        assert_eq!(parsed.parts[0].content_type().map(|c| c.subtype()), Some(Some("alternative")));
        let plain = parsed.body_text(0).expect("plain text");
        assert!(plain.starts_with("회사 메일 is down."), "{plain}");
        assert!(plain.contains("▁▁▂▃▆█××××"), "{plain}");
        let html = parsed.body_html(0).expect("HTML");
        assert!(html.contains("회사 메일") && html.contains("&lt;no&gt;"), "{html}");
    }

    #[test]
    fn all_mails_of_an_incident_are_one_thread() {
        let parse = |kind, position| {
            let bytes = formatted(&message(kind, position));
            let parsed = MessageParser::default().parse(&bytes).expect("a mail").into_owned();
            let id = parsed.message_id().expect("an id").to_owned();
            let refers = parsed.references().as_text().map(str::to_owned);
            let replies = parsed.in_reply_to().as_text().map(str::to_owned);
            (id, refers, replies)
        };
        let (first, refers, replies) = parse(MessageKind::Problem, 0);
        assert_eq!((refers, replies), (None, None));
        assert!(first.starts_with("bongsu.") && first.ends_with("@example.com"), "{first}");
        let (second, refers, replies) = parse(MessageKind::Recovery, 1);
        assert_eq!((refers.as_deref(), replies.as_deref()), (Some(first.as_str()), Some(first.as_str())));
        let (third, ..) = parse(MessageKind::Recovery, 2);
        assert!(first != second && second != third);
        assert_eq!(parse(MessageKind::Recovery, 1).0, second, "another attempt has the same id");
    }

    #[test]
    fn channels_and_incidents_have_threads_of_their_own() {
        let base = message(MessageKind::Problem, 0);
        let mut other_channel = base.clone();
        other_channel.channel = "drop".parse().expect("a name");
        let mut other_thread = base.clone();
        other_thread.thread = "seoul-1.13".into();
        let ids = [base, other_channel, other_thread].map(|m| first_id(&parties(), &m));
        assert!(ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2]);
    }

    #[test]
    fn nobody_injects_a_header() {
        let evil = "x\r\nBcc: evil@example.com\r\n\r\nbody";
        let mut message = message(MessageKind::Problem, 1);
        message.key = evil.into();
        message.thread = evil.into();
        message.alert.title = evil.into();
        message.alert.cause = evil.into();
        message.alert.acknowledged_by = Some(evil.into());
        let bytes = mail(&parties(), &message, Tz::UTC).expect("good parties").formatted();
        let parsed = MessageParser::default().parse(&bytes).expect("a mail");
        assert!(parsed.bcc().is_none(), "{}", String::from_utf8_lossy(&bytes));
        assert!(parsed.header_raw("X-Bongsu-Kind").is_some(), "the headers go on after the evil ones");
        assert_eq!(parsed.text_body_count(), 1);
    }

    #[test]
    fn ids_are_ascii_whatever_the_domain() {
        let mut parties = parties();
        for (address, domain) in [
            ("a@봉수.한국", "xn--9n3bo6g.xn--3e0b707e"),
            ("a@[192.0.2.1]", "bongsu.invalid"),
            ("a@localhost", "localhost"),
        ] {
            parties.from = Mailbox::new(None, address.parse().expect(address));
            let id = message_id(&parties, &message(MessageKind::Problem, 0));
            assert!(id.is_ascii() && id.ends_with(&format!("@{domain}>")), "{id}");
        }
    }
}
