//! Reads a mail that came in (RFC 5322, MIME: RFC 2045–2047): which part holds the tracer, whether the mail is itself,
//! a word of a server about it, or an answer by a machine; how its headers fared, and the way it took.
//!
//! A mail is whatever strangers and gateways make of it, so nothing here fails: what cannot be read is a message
//! without a tracer. What a mail is, is decided in this order:
//!
//! 1. A report (`multipart/report`, RFC 6522): one of failure is a bounce (RFC 3464), any other (delayed, delivered,
//!    read) proves nothing.
//! 2. It carries the tracer's own header: it is the message.
//! 3. It is from a mail daemon, or from nobody with the original attached: a bounce of a server that knows no reports.
//! 4. It says that a machine answered (RFC 3834), or quotes or replies to a mail: it proves nothing.
//! 5. Anything else is a message, whoever's it is.

mod bounce;
mod path;

use bytes::Bytes;
use mail_parser::{
    HeaderName, HeaderValue, Message, MessageParser, MessagePart, PartType, decoders::html::html_to_text,
};
use serde_json::Value;

use super::compose::{RAW_HEADER, SUBJECT, TRACER_HEADER, WORDS_HEADER};
use crate::{delivery::tracer, observation::Integrity, protocol::Nature};

/// Most bytes of a mail that are fetched and read: a tracer has about 5 KiB, a bounce of it with all its headers about
/// 20 KiB. A stranger's mail of any size costs no more than this.
pub const MAIL_BYTES_MAX: usize = 128 * 1024;

/// Most words that may name a mail within a mail. Beyond it the mail is not taken apart: its nesting could exhaust the
/// stack, and a report about a tracer to one reader has a handful of them.
const NESTED_MAX: usize = 100;

/// What every tracer's token begins with.
const MARKER: &str = "bongsu1.";

/// What a mail turned out to be.
#[derive(Clone, Debug)]
pub struct Read {
    /// The text that holds the tracer, if any does; else the mail's first text. Transfer encodings undone, in UTF-8.
    pub payload: Bytes,
    /// What it is to a delivery.
    pub nature: Nature,
    /// The worst of the headers that carry text beyond ASCII, and its name; `None` for what is no tracer mail.
    pub beside: Option<(Integrity, &'static str)>,
    /// The hops it took, oldest first: who took it, and how many seconds after the hop before by the servers' clocks.
    pub path: Option<Value>,
}

/// Reads a mail, or the beginning of one.
pub fn read(raw: &[u8]) -> Read {
    let raw = &raw[..raw.len().min(MAIL_BYTES_MAX)];
    match parsed(raw) {
        Some(message) => taken_apart(&message),
        // Without a header, or nested beyond reason: nothing that anybody would call a mail.
        None => Read { payload: Bytes::copy_from_slice(raw), nature: Nature::Kept, beside: None, path: None },
    }
}

/// Whether these headers (or the beginning of a mail) could be those of a tracer, a bounce of one or an answer to one:
/// what is worth fetching as a whole.
pub fn is_worth_reading(raw: &[u8]) -> bool {
    let Some(message) = parsed(&raw[..raw.len().min(MAIL_BYTES_MAX)]) else { return false };
    has_header(&message, TRACER_HEADER)
        || message.subject().is_some_and(|s| s.contains(SUBJECT))
        || is_report(&message)
        || bounce::is_from_daemon(&message)
}

fn parsed(raw: &[u8]) -> Option<Message<'_>> {
    if is_nested_too_deeply(raw) {
        return None;
    }
    MessageParser::new()
        .with_mime_headers()
        .with_address_headers()
        .with_message_ids()
        .header_text(HeaderName::Subject)
        .header_received(HeaderName::Received)
        .header_text(HeaderName::AutoSubmitted)
        .header_text(WORDS_HEADER)
        .parse(raw)
}

/// The words by which a part says, or inherits, that it is a mail.
fn is_nested_too_deeply(raw: &[u8]) -> bool {
    let counted = |word: &[u8]| raw.windows(word.len()).filter(|w| w.eq_ignore_ascii_case(word)).count();
    counted(b"rfc822") + counted(b"global") + counted(b"digest") > NESTED_MAX
}

fn taken_apart(message: &Message<'_>) -> Read {
    let payload = payload(message);
    let is_tracer = contains(&payload, MARKER.as_bytes());
    let nature = nature(message, &payload, is_tracer);
    let beside = if nature == Nature::Message && (is_tracer || has_header(message, TRACER_HEADER)) {
        beside(message)
    } else {
        None
    };
    Read { payload, nature, beside, path: path::path(message) }
}

// ---------------------------------------------------------------------------------------------------------------
// The text

/// The text with the tracer: of plain parts first (what a report says and returns of headers after the others), then of
/// HTML. Where none has it, the token that is the Message-ID still names the mail.
fn payload(message: &Message<'_>) -> Bytes {
    let mut leaves = Vec::new();
    collect(message, &mut leaves);
    leaves.sort_by_key(|leaf| bounce::is_status(leaf) || bounce::is_original(leaf));
    let plain = leaves.iter().filter_map(|leaf| match &leaf.body {
        PartType::Text(text) => Some(text.as_bytes()),
        // Of no known type, or declared to be a file: still the text that was sent.
        PartType::Binary(bytes) | PartType::InlineBinary(bytes) => Some(bytes.as_ref()),
        _ => None,
    });
    if let Some(found) = plain.clone().find(|text| contains(text, MARKER.as_bytes())) {
        return Bytes::copy_from_slice(found);
    }
    for leaf in &leaves {
        if let PartType::Html(html) = &leaf.body {
            let text = html_to_text(html);
            if text.contains(MARKER) {
                return text.into();
            }
        }
    }
    let body = plain.clone().next().unwrap_or_default();
    match token_in_headers(message) {
        Some(token) => [token.as_bytes(), b"\n", body].concat().into(),
        None => Bytes::copy_from_slice(body),
    }
}

/// All parts that hold no others, those of mails within the mail included.
fn collect<'m, 'x>(message: &'m Message<'x>, leaves: &mut Vec<&'m MessagePart<'x>>) {
    for part in &message.parts {
        match &part.body {
            PartType::Message(inner) => collect(inner, leaves),
            PartType::Multipart(_) => {}
            _ => leaves.push(part),
        }
    }
}

/// The token in the Message-ID, of this mail or of one within it.
fn token_in_headers(message: &Message<'_>) -> Option<String> {
    let own = message.message_id().filter(|id| id.contains(MARKER));
    own.map(ToOwned::to_owned).or_else(|| {
        message.parts.iter().find_map(|part| match &part.body {
            PartType::Message(inner) => token_in_headers(inner),
            _ => None,
        })
    })
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|w| w == word)
}

fn has_header(message: &Message<'_>, name: &'static str) -> bool {
    message.header(name).is_some()
}

// ---------------------------------------------------------------------------------------------------------------
// What it is

fn nature(message: &Message<'_>, payload: &[u8], is_tracer: bool) -> Nature {
    if is_report(message) {
        return bounce::report(message).map_or(Nature::Kept, Nature::Bounce);
    }
    if has_header(message, TRACER_HEADER) {
        return Nature::Message;
    }
    let is_attached = is_tracer && message.parts.iter().any(bounce::is_original);
    let from_nobody = message.return_path().as_text().is_some_and(|p| matches!(p.trim(), "<>" | ""));
    if bounce::is_from_daemon(message) || (from_nobody && is_attached && !is_automatic(message)) {
        return Nature::Bounce(bounce::in_words(message));
    }
    if is_automatic(message) || (is_tracer && (is_reply(message) || is_quoted(payload))) {
        return Nature::Kept;
    }
    Nature::Message
}

fn is_report(message: &Message<'_>) -> bool {
    use mail_parser::MimeHeaders;
    let is_of = |part: &MessagePart<'_>| {
        part.is_content_type("multipart", "report")
            || bounce::is_status(part)
            || part.is_content_type("message", "disposition-notification")
    };
    // The report's parts stand at the top: a stranger may attach a mail that is a report.
    message.parts.iter().any(is_of)
}

/// RFC 3834, section 5, and what programs older than it write. A tracer itself says `auto-generated`.
fn is_automatic(message: &Message<'_>) -> bool {
    let said = |name: HeaderName<'static>| message.header(name).and_then(HeaderValue::as_text).unwrap_or_default();
    let replied = said(HeaderName::AutoSubmitted).trim_start().to_ascii_lowercase();
    replied.starts_with("auto-replied")
        || replied.starts_with("auto-notified")
        || said(HeaderName::Other("Precedence".into())).trim().eq_ignore_ascii_case("auto_reply")
        || ["X-Autoreply", "X-Autorespond", "X-Autoresponder"].into_iter().any(|name| has_header(message, name))
}

fn is_reply(message: &Message<'_>) -> bool {
    !matches!(message.in_reply_to(), HeaderValue::Empty)
}

/// Whether the tracer stands in a line that quotes it.
fn is_quoted(payload: &[u8]) -> bool {
    let line = payload.split(|b| *b == b'\n').find(|line| contains(line, MARKER.as_bytes()));
    line.is_some_and(|line| line.trim_ascii_start().starts_with(b">"))
}

// ---------------------------------------------------------------------------------------------------------------
// Its headers

/// The worst of the headers that carry [`tracer::HEADER`].
fn beside(message: &Message<'_>) -> Option<(Integrity, &'static str)> {
    let mut seen = Vec::new();
    if let Some(text) = message.header(WORDS_HEADER) {
        seen.push((
            tracer::compare(tracer::HEADER, text.as_text().unwrap_or_default().trim().as_bytes()),
            WORDS_HEADER,
        ));
    }
    if let Some(bytes) = raw_header(message, RAW_HEADER) {
        seen.push((tracer::compare(tracer::HEADER, &bytes), RAW_HEADER));
    }
    if let Some(text) = message.subject() {
        seen.push((subject_integrity(text), "Subject"));
    }
    // The first of equals: what was written for the comparison before the subject, which lists and filters rewrite.
    seen.into_iter().reduce(|worst, one| if one.0 > worst.0 { one } else { worst })
}

/// What stands before the known beginning is a list's or a filter's, as is what stands after the sample.
fn subject_integrity(text: &str) -> Integrity {
    let Some((_, tail)) = text.split_once(SUBJECT) else { return Integrity::Corrupt };
    let tail = tail.trim();
    if tail.strip_prefix(tracer::HEADER).is_some_and(|rest| rest.starts_with(' ')) {
        return Integrity::Equal;
    }
    tracer::compare(tracer::HEADER, tail.as_bytes())
}

/// A header's bytes as they came, unfolded.
fn raw_header(message: &Message<'_>, name: &str) -> Option<Vec<u8>> {
    let header = message.headers().iter().rev().find(|h| h.name().eq_ignore_ascii_case(name))?;
    let bytes = message.raw_message().get(header.offset_start() as usize..header.offset_end() as usize)?;
    Some(bytes.trim_ascii().iter().copied().filter(|b| !matches!(b, b'\r' | b'\n')).collect())
}

#[cfg(test)]
mod tests;
