//! Bounces: what a server says of a message it could not deliver. As a report (RFC 3464; RFC 6533 for addresses beyond
//! ASCII), or in words alone, as older servers do.

use mail_parser::{Message, MessagePart, MimeHeaders, PartType};

use super::has_header;
use crate::observation::one_line;

/// Longest line that tells of a bounce, in characters: a status, what it means, and the diagnostic of the server.
const LINE_CHARS_MAX: usize = 300;

/// Whether this part holds the fields of a delivery report.
pub fn is_status(part: &MessagePart<'_>) -> bool {
    part.is_content_type("message", "delivery-status") || part.is_content_type("message", "global-delivery-status")
}

/// Whether this part is the original, or its headers (RFC 6522, section 4).
pub fn is_original(part: &MessagePart<'_>) -> bool {
    part.is_message()
        || part.is_content_type("text", "rfc822-headers")
        || part.is_content_type("message", "global-headers")
}

/// The failure that a report tells of, in one line; `None` when it tells of none (delayed, delivered, read).
pub fn report(message: &Message<'_>) -> Option<String> {
    let part = message.parts.iter().find(|part| is_status(part))?;
    let text = String::from_utf8_lossy(part.contents());
    // Fields of the message, then a block for each reader, with empty lines between (section 2.1).
    let mut failed = None;
    for block in unfolded(&text).split("\n\n") {
        let action = field(block, "Action").unwrap_or_default().to_ascii_lowercase();
        if action.starts_with("failed") {
            failed = Some(block.to_owned());
            break;
        }
        // A server that leaves the action out, and still says that it is permanent.
        if action.is_empty() && field(block, "Status").is_some_and(|s| s.starts_with('5')) {
            failed.get_or_insert(block.to_owned());
        }
    }
    let block = failed?;
    let status = field(&block, "Status").unwrap_or_default();
    // `5.1.1 (bad destination mailbox address)`: the comment is the server's.
    let status = status.split([' ', '(']).next().unwrap_or_default();
    let diagnostic = field(&block, "Diagnostic-Code").unwrap_or_default();
    // `smtp; 550 5.1.1 no such user`
    let diagnostic = diagnostic.split_once(';').map_or(diagnostic.as_str(), |(_, text)| text).trim();
    Some(told(status, diagnostic))
}

fn told(status: &str, diagnostic: &str) -> String {
    let words = words(status).map_or(String::new(), |words| format!(" {words}"));
    let line = match (status, diagnostic) {
        ("", "") => "delivery failed, for a reason that is not told".into(),
        ("", diagnostic) => diagnostic.to_owned(),
        (status, "") => format!("{status}{words}"),
        (status, diagnostic) => format!("{status}{words}: {diagnostic}"),
    };
    one_line(&squeezed(&line), LINE_CHARS_MAX)
}

/// Enhanced status codes (RFC 3463) as people call them; without the first digit, which only says how final it is.
fn words(status: &str) -> Option<&'static str> {
    Some(match status.split_once('.')?.1 {
        "1.1" | "1.10" => "no such mailbox",
        "1.2" => "no such domain",
        "1.8" => "sender's address refused",
        "2.1" => "mailbox disabled",
        "2.2" => "mailbox full",
        "2.3" => "message too long for the mailbox",
        "3.1" => "the system's mail store is full",
        "3.4" => "message too big",
        "4.1" => "no answer from the host",
        "4.2" => "bad connection",
        "4.4" => "no route",
        "4.6" => "mail loop",
        "4.7" => "delivery time expired",
        "6.1" | "6.3" => "content not supported",
        "7.1" => "refused by policy",
        "7.23" | "7.24" => "SPF failed",
        "7.20" | "7.21" | "7.22" => "DKIM failed",
        "7.26" => "not authenticated",
        _ => return None,
    })
}

/// Whether a mail server itself wrote it, by name or by the header that only exim writes.
pub fn is_from_daemon(message: &Message<'_>) -> bool {
    let address = message.from().and_then(|a| a.first()).and_then(|a| a.address()).unwrap_or_default();
    let local = address.split('@').next().unwrap_or_default();
    local.eq_ignore_ascii_case("mailer-daemon") || has_header(message, "X-Failed-Recipients")
}

/// What a bounce without a report says: the first line with a reply or status code of failure, or else the subject.
pub fn in_words(message: &Message<'_>) -> String {
    let text = message.parts.iter().find_map(|part| match &part.body {
        PartType::Text(text) => Some(text.as_ref()),
        _ => None,
    });
    let line = text.unwrap_or_default().lines().find(|line| has_code(line)).or(message.subject());
    one_line(&squeezed(line.unwrap_or("delivery failed, for a reason that is not told")), LINE_CHARS_MAX)
}

/// `550 …`, `5.1.1 …`, also with a bracket or `#` around it, as a word of its own.
fn has_code(line: &str) -> bool {
    line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '-')).any(|word| {
        let word = word.trim_matches(['.', '-']);
        let code = word.split('-').next().unwrap_or_default();
        let is_reply = code.len() == 3 && code.starts_with(['4', '5']) && code.bytes().all(|b| b.is_ascii_digit());
        let mut parts = word.split('.');
        let number = |part: Option<&str>| {
            part.is_some_and(|p| (1..=3).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()))
        };
        let is_status = matches!(parts.next(), Some("4" | "5"))
            && number(parts.next())
            && number(parts.next())
            && parts.next().is_none();
        is_reply || is_status
    })
}

/// LF alone, and no folds.
fn unfolded(text: &str) -> String {
    let text = text.replace("\r\n", "\n");
    text.replace("\n ", " ").replace("\n\t", " ")
}

fn field(block: &str, name: &str) -> Option<String> {
    block.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

/// Runs of white space as one space.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
