//! The mail a tracer travels in.
//!
//! Its headers are those a good mail has (RFC 5322, RFC 2045), `Auto-Submitted` (RFC 3834), so that no
//! out-of-office reply comes of it, and a few of its own, by which a receiver finds it and sees what the way did to
//! headers. The body is the payload as one part of plain text.
//!
//! The Message-ID holds the payload's first line, which names the tracer: a bounce that returns nothing but headers
//! still tells whose mail it is about.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::DateTime;

use crate::{delivery::tracer, value::Timestamp};

/// What the subject of every tracer begins with, in plain ASCII: receivers search for it.
pub const SUBJECT: &str = "bongsu tracer";

/// The header that marks a tracer; its value is the version of the format.
pub const TRACER_HEADER: &str = "X-Bongsu-Tracer";

/// The header with [`tracer::HEADER`] as encoded words (RFC 2047).
pub const WORDS_HEADER: &str = "X-Bongsu-Header";

/// The header with [`tracer::HEADER`] in raw UTF-8 (RFC 6532), where the server takes it.
pub const RAW_HEADER: &str = "X-Bongsu-Utf8";

/// Longest line in bytes that goes through as it is (RFC 5322, section 2.1.1; RFC 5321, section 4.5.3.1.6).
pub const LINE_BYTES_MAX: usize = 998;

/// Longest first line of a payload that is made a Message-ID: what an envelope identifier may have (RFC 3461,
/// section 4.4).
const ID_BYTES_MAX: usize = 100;

/// Bytes in one encoded word: 45 make 60 letters of Base64, and a word has at most 75 (RFC 2047, section 2).
const WORD_BYTES_MAX: usize = 45;

/// How the body is written (RFC 2045, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As it is; its lines must not be too long.
    EightBit,
    /// ASCII, with what is not as `=F0`.
    QuotedPrintable,
    /// Base64.
    Base64,
}

impl Encoding {
    /// As `Content-Transfer-Encoding` names it.
    pub fn word(self) -> &'static str {
        match self {
            Self::EightBit => "8bit",
            Self::QuotedPrintable => "quoted-printable",
            Self::Base64 => "base64",
        }
    }
}

/// A mail to be composed.
#[derive(Clone, Copy, Debug)]
pub struct Letter<'a> {
    /// Whose mail it is: a bare address.
    pub from: &'a str,
    /// Whom it is for: bare addresses.
    pub to: &'a [String],
    /// Its date.
    pub at: Timestamp,
    /// The Message-ID without what stands behind the `@`; see [`id`].
    pub id: &'a str,
    /// How the body is written; one with lines too long for 8bit becomes quoted-printable.
    pub encoding: Encoding,
    /// Whether the header in raw UTF-8 is among its own.
    pub raw_header: bool,
    /// The body.
    pub payload: &'a [u8],
}

/// The Message-ID's part before the `@`: the payload's first line where it can be one, as a tracer's can; otherwise
/// made from `random`.
pub fn id(payload: &[u8], random: u64) -> Cow<'_, str> {
    let end = payload.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(payload.len());
    let line = std::str::from_utf8(&payload[..end]).unwrap_or_default();
    let atom = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if line.len() <= ID_BYTES_MAX && line.split('.').all(atom) {
        line.into()
    } else {
        format!("bongsu.{random:016x}").into()
    }
}

impl Letter<'_> {
    /// The mail, every line of it ended by CRLF.
    pub fn compose(&self) -> Vec<u8> {
        let words = words(tracer::HEADER);
        let body = with_crlf(self.payload);
        let longest = body.split(|byte| *byte == b'\n').map(<[u8]>::len).max().unwrap_or(0);
        let encoding = match self.encoding {
            // The CR is one of them.
            Encoding::EightBit if longest > LINE_BYTES_MAX + 1 => Encoding::QuotedPrintable,
            encoding => encoding,
        };
        let domain = self.from.rsplit('@').next().unwrap_or_default();
        let mut headers = vec![
            ("From", format!("<{}>", self.from)),
            ("To", self.to.iter().map(|to| format!("<{to}>")).collect::<Vec<_>>().join(",\r\n ")),
            ("Date", date(self.at)),
            ("Message-ID", format!("<{}@{domain}>", self.id)),
            ("Subject", format!("{SUBJECT} {words}")),
            (TRACER_HEADER, "1".into()),
            (WORDS_HEADER, words),
        ];
        if self.raw_header {
            headers.push((RAW_HEADER, tracer::HEADER.into()));
        }
        headers.extend([
            ("Auto-Submitted", "auto-generated".into()),
            ("MIME-Version", "1.0".into()),
            ("Content-Type", "text/plain; charset=utf-8".into()),
            ("Content-Transfer-Encoding", encoding.word().into()),
        ]);
        let mut mail: Vec<u8> = Vec::with_capacity(1_024 + body.len() * 2);
        for (name, value) in headers {
            mail.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        mail.extend_from_slice(b"\r\n");
        match encoding {
            Encoding::EightBit => mail.extend_from_slice(&body),
            Encoding::QuotedPrintable => mail.extend_from_slice(&quoted_printable::encode(&body)),
            Encoding::Base64 => {
                // 57 bytes make a line of 76 letters (RFC 2045, section 6.8).
                for chunk in body.chunks(57) {
                    mail.extend_from_slice(STANDARD.encode(chunk).as_bytes());
                    mail.extend_from_slice(b"\r\n");
                }
            }
        }
        mail
    }
}

/// As text travels: every line ended by CRLF, the last one too.
fn with_crlf(payload: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(payload.len() + payload.len() / 32 + 2);
    let mut bytes = payload.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\r' => {
                bytes.next_if_eq(&b'\n');
                text.extend_from_slice(b"\r\n");
            }
            b'\n' => text.extend_from_slice(b"\r\n"),
            other => text.push(other),
        }
    }
    if !text.ends_with(b"\r\n") {
        text.extend_from_slice(b"\r\n");
    }
    text
}

/// Encoded words (RFC 2047), cut between characters, each on a line of its own.
fn words(text: &str) -> String {
    let mut words = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (word, after) = rest.split_at(rest.floor_char_boundary(WORD_BYTES_MAX));
        words.push(format!("=?UTF-8?B?{}?=", STANDARD.encode(word)));
        rest = after;
    }
    words.join("\r\n ")
}

/// RFC 5322, section 3.3, in UTC.
fn date(at: Timestamp) -> String {
    DateTime::from_timestamp_millis(at.as_millis()).unwrap_or_default().to_rfc2822()
}

#[cfg(test)]
mod tests {
    use mail_parser::{HeaderForm, HeaderValue, MessageParser};

    use super::*;
    use crate::{
        delivery::{CheckKey, Identity, Key},
        protocol::Carries,
    };

    fn payload(line_bytes_max: usize) -> Vec<u8> {
        let key = Key::new(&[7; 32]);
        let name = "mail/round-trip".parse().expect("a name");
        let at = Timestamp::from_millis(1_795_359_000_000);
        let identity = Identity { check: CheckKey::new(&key, &name), sequence: 1, sent_at: at, nonce: 2 };
        let carries = Carries { unicode: true, lines: true, line_bytes_max, bytes_max: 65_536 };
        tracer::compose(&key, &identity, carries).payload
    }

    fn compose(payload: &[u8], encoding: Encoding, raw_header: bool) -> Vec<u8> {
        let to = ["probe+bongsu@example.com".to_owned(), "b@example.com".to_owned()];
        let at = Timestamp::from_millis(1_795_359_000_000);
        let id = id(payload, 7);
        Letter { from: "probe@example.com", to: &to, at, id: &id, encoding, raw_header, payload }.compose()
    }

    #[test]
    fn a_mail_is_read_again_as_it_was_meant() {
        for encoding in [Encoding::EightBit, Encoding::QuotedPrintable, Encoding::Base64] {
            let line_bytes_max = if encoding == Encoding::EightBit { LINE_BYTES_MAX } else { usize::MAX };
            let payload = payload(line_bytes_max);
            let raw = compose(&payload, encoding, false);
            let mail = MessageParser::default().parse(&raw).expect("a mail");
            assert_eq!(mail.subject(), Some(format!("{SUBJECT} {}", tracer::HEADER).as_str()));
            let words = mail.header_as(WORDS_HEADER, HeaderForm::Text);
            assert_eq!(words.first().and_then(HeaderValue::as_text), Some(tracer::HEADER));
            assert_eq!(mail.header_raw(TRACER_HEADER).map(str::trim), Some("1"));
            assert_eq!(mail.header_raw("Content-Transfer-Encoding").map(str::trim), Some(encoding.word()));
            assert_eq!(mail.header(RAW_HEADER), None);
            assert_eq!(mail.date().map(mail_parser::DateTime::to_timestamp), Some(1_795_359_000));
            let to: Vec<_> = mail.to().into_iter().flat_map(|to| to.iter()).filter_map(|a| a.address()).collect();
            assert_eq!(to, ["probe+bongsu@example.com", "b@example.com"]);
            let token = String::from_utf8_lossy(&payload[..tracer::TOKEN_BYTES]).into_owned();
            assert_eq!(mail.message_id(), Some(format!("{token}@example.com").as_str()));
            let body = mail.body_text(0).expect("a body").replace("\r\n", "\n");
            assert_eq!(body.as_bytes(), [&payload[..], b"\n"].concat(), "{encoding:?}");
            for line in raw.split(|byte| *byte == b'\n') {
                let Some((b'\r', line)) = line.split_last() else {
                    assert!(line.is_empty(), "every line ends with CRLF");
                    continue;
                };
                let max = if encoding == Encoding::EightBit { LINE_BYTES_MAX } else { 130 };
                assert!(line.len() <= max && !line.contains(&b'\r'), "{}", String::from_utf8_lossy(line));
                assert!(line.is_ascii() || encoding == Encoding::EightBit);
            }
        }
    }

    #[test]
    fn the_raw_header_is_raw() {
        let raw = compose(b"x", Encoding::EightBit, true);
        let mail = MessageParser::default().parse(&raw).expect("a mail");
        let value = mail.header(RAW_HEADER).and_then(HeaderValue::as_text);
        assert_eq!(value, Some(tracer::HEADER));
        let text = String::from_utf8(raw).expect("UTF-8");
        assert!(text.contains(&format!("\r\n{RAW_HEADER}: {}\r\n", tracer::HEADER)), "{text}");
    }

    #[test]
    fn lines_too_long_for_8bit_are_not_sent_so() {
        let longest = [b'x'; LINE_BYTES_MAX];
        assert!(compose(&longest, Encoding::EightBit, false).ends_with(&[&longest[..], b"\r\n"].concat()));
        let raw = compose(&[b'x'; LINE_BYTES_MAX + 1], Encoding::EightBit, false);
        let mail = MessageParser::default().parse(&raw).expect("a mail");
        assert_eq!(mail.header_raw("Content-Transfer-Encoding").map(str::trim), Some("quoted-printable"));
        assert_eq!(mail.body_text(0).expect("a body").trim_end().len(), LINE_BYTES_MAX + 1);
    }

    #[test]
    fn line_ends_are_made_crlf() {
        for (from, to) in
            [("", "\r\n"), ("a", "a\r\n"), ("a\nb\r\nc\rd\n", "a\r\nb\r\nc\r\nd\r\n"), ("\n\n", "\r\n\r\n")]
        {
            assert_eq!(with_crlf(from.as_bytes()), to.as_bytes(), "{from:?}");
        }
    }

    #[test]
    fn words_are_short_and_cut_between_characters() {
        let text = "봉수".repeat(40);
        let words = words(&text);
        assert!(words.split("\r\n ").all(|word| word.len() <= 75 && word.starts_with("=?UTF-8?B?")), "{words}");
        let raw = format!("Subject: {words}\r\n\r\n");
        assert_eq!(MessageParser::default().parse(&raw).expect("a mail").subject(), Some(text.as_str()));
    }

    #[test]
    fn an_id_is_the_tracers_or_random() {
        assert_eq!(id(b"bongsu1.ab-_9.c\nmore", 1), "bongsu1.ab-_9.c");
        let long = [b'a'; ID_BYTES_MAX + 1];
        for other in [&b""[..], b"a b", b"a..b", b".a", b"a>\r\nX: y", "봉".as_bytes(), &[0xff], &long] {
            assert_eq!(id(other, 0xab), "bongsu.00000000000000ab");
        }
    }
}
