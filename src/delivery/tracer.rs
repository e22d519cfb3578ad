//! The tracer: the message a delivery check sends, which proves whose it is and shows what the way did to it.
//!
//! A payload is text:
//!
//! ```text
//! bongsu1.<fields>.<mac>
//! ascii: The quick brown fox …
//! hangul-nfc: 봉수가 …
//! ```
//!
//! The first line is one token of base64url letters, which every text protocol carries: the fields of the
//! [`Identity`], which samples follow, their length and hash, and an HMAC-SHA256 over all of that (RFC 2104, cut to
//! 128 bits as its section 5 allows). The lines after it are the integrity section. The MAC covers what was *sent* and
//! never what arrives, so a message whose samples were changed on the way is still known for ours, and the change is
//! classified by comparing with the samples that were sent.
//!
//! What comes in is read leniently: text before the token, folded lines and CRLF are the protocol's business. A token
//! that is not authenticated by this key (forged, another agent's, from an earlier run) is never ours.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{digest, hmac};
use unicode_normalization::UnicodeNormalization;

use super::Carries;
use crate::{
    observation::Integrity,
    value::{CheckName, Timestamp},
};

/// What every token begins with: the format's name and version.
const MARKER: &str = "bongsu1.";

/// check 8, sequence 8, sent 8, nonce 8, layout 2, section length 4, section hash 8.
const FIELDS_BYTES: usize = 46;
/// 46 bytes in base64 without padding.
const FIELDS_CHARS: usize = 62;
/// Half of SHA-256's output: RFC 2104 asks for at least that.
const MAC_BYTES: usize = 16;
/// 16 bytes in base64 without padding.
const MAC_CHARS: usize = 22;

/// Length of the token, and so of the shortest payload.
pub const TOKEN_BYTES: usize = MARKER.len() + FIELDS_CHARS + 1 + MAC_CHARS;

/// How much of a payload is searched for a token; a stranger's message may be of any length.
pub const SEARCH_BYTES_MAX: usize = 256 * 1024;

/// How many beginnings of a token are tried in one payload, so that a hostile one costs a bounded number of HMACs.
pub const CANDIDATES_MAX: usize = 8;

/// Bit of the layout: the samples stand in lines of their own.
const IN_LINES: u16 = 0x8000;
/// Between the samples of a protocol that carries no line ends.
const BETWEEN: &str = " | ";

/// A text of the integrity section: labelled, or a line of its own that must begin with its first character. The order is
/// kept: the longest stands last, as what is cut off is the end, and the trailing spaces never do, as white space at
/// the end of a message is nobody's.
struct Sample {
    label: &'static str,
    needs: Needs,
    text: fn() -> String,
}

/// What a sample asks of a protocol, beside room for it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// Nothing: printable ASCII.
    Ascii,
    /// Text beyond ASCII.
    Unicode,
    /// Lines; the sample is a line without its label.
    Lines,
}

const SAMPLES: [Sample; 8] = [
    // A dot at the start of a line is doubled by SMTP (RFC 5321 section 4.5.2), and ends the message if it is not.
    Sample { label: "leading-dot", needs: Needs::Lines, text: || ".leading-dot".into() },
    Sample { label: "trailing-space", needs: Needs::Lines, text: || "trailing-space: two  ".into() },
    Sample { label: "ascii", needs: Needs::Ascii, text: ascii },
    Sample { label: "hangul-nfc", needs: Needs::Unicode, text: || HANGUL.nfc().collect() },
    Sample { label: "hangul-nfd", needs: Needs::Unicode, text: || HANGUL.nfd().collect() },
    Sample { label: "emoji", needs: Needs::Unicode, text: || EMOJI.into() },
    Sample { label: "right-to-left", needs: Needs::Unicode, text: || RIGHT_TO_LEFT.into() },
    Sample { label: "long-line", needs: Needs::Ascii, text: long_line },
];

/// What a protocol puts into a header of its message, where it has headers beyond ASCII (RFC 2047 encoded words, or
/// raw UTF-8 where the server takes it): Hangul, a letter with an accent, a character beyond the BMP.
pub const HEADER: &str = "봉수 é 🔥";

const HANGUL: &str = "봉수가 올랐다 한강 넘어 서울까지";
/// Beyond the Basic Multilingual Plane: fire, mountain, a joined sequence with skin tone, a clef, a flag.
const EMOJI: &str = "🔥🗻👩🏽‍🚒𝄞🇰🇷";
/// Arabic and Hebrew with Arabic digits between, and a right-to-left mark.
const RIGHT_TO_LEFT: &str = "منارة ٢٠١٢ מגדלור\u{200f}";

fn ascii() -> String {
    r##"Sphinx of black quartz, judge my vow 0123456789 !"#$%&'()*+,-./:;<=>?@[\]^_`{}~"##.into()
}

/// 1,200 characters: longer than a mail line may be (998, RFC 5322 section 2.1.1), an IRC message (512, RFC 2812
/// section 2.3) and an SMS (160). Each block names its position, so a reader sees where it was cut.
fn long_line() -> String {
    (0..1_200).step_by(6).map(|position| format!("{position:05}-")).collect()
}

/// The key that authenticates tracers.
#[derive(Clone)]
pub struct Key(hmac::Key);

impl Key {
    /// A key of 256 random bits.
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    fn mac(&self, signed: &[u8]) -> [u8; MAC_BYTES] {
        let tag = hmac::sign(&self.0, signed);
        let mut mac = [0; MAC_BYTES];
        mac.copy_from_slice(&tag.as_ref()[..MAC_BYTES]);
        mac
    }
}

/// Which check a tracer belongs to: derived from its name and the key, so it tells an onlooker nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CheckKey([u8; 8]);

impl CheckKey {
    /// The key of the check with this name.
    pub fn new(key: &Key, name: &CheckName) -> Self {
        let tag = hmac::sign(&key.0, format!("check {name}").as_bytes());
        Self(array(&tag.as_ref()[..8]))
    }
}

/// What makes a message this one and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Whose it is.
    pub check: CheckKey,
    /// Position in the check's series.
    pub sequence: u64,
    /// When it was made, on the wall clock.
    pub sent_at: Timestamp,
    /// Random, so that no message can be foretold.
    pub nonce: u64,
}

/// A payload ready to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Composed {
    /// The bytes.
    pub payload: Vec<u8>,
    /// Samples that the protocol cannot carry.
    pub left_out: Vec<String>,
}

/// What a message that came in turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A tracer of this check, made with this key.
    Ours(Found),
    /// A tracer made with this key, of another check, and when it was made.
    OtherCheck(Timestamp),
    /// It has the form of a tracer and is not authenticated by this key: forged, another agent's, or an earlier run's.
    Unproven,
    /// No tracer at all.
    Stranger,
}

/// A tracer of ours that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which one.
    pub identity: Identity,
    /// Whether its samples are what was sent.
    pub integrity: Integrity,
}

/// The payload of a tracer for a protocol that can carry this much.
pub fn compose(key: &Key, identity: &Identity, carries: Carries) -> Composed {
    let mut layout = if carries.lines { IN_LINES } else { 0 };
    let mut left_out = Vec::new();
    for (bit, sample) in SAMPLES.iter().enumerate() {
        let with = layout | 1 << bit;
        let section = section(with);
        let longest = section.split('\n').map(str::len).max().unwrap_or(0);
        let fits = TOKEN_BYTES + section.len() <= carries.bytes_max && longest <= carries.line_bytes_max;
        let carried = match sample.needs {
            Needs::Ascii => true,
            Needs::Unicode => carries.unicode,
            Needs::Lines => carries.lines,
        };
        if fits && carried {
            layout = with;
        } else {
            left_out.push(sample.label.to_owned());
        }
    }
    let section = section(layout);
    let fields = fields(identity, layout, &section);
    let head = format!("{MARKER}{}", URL_SAFE_NO_PAD.encode(fields));
    let mac = URL_SAFE_NO_PAD.encode(key.mac(head.as_bytes()));
    Composed { payload: format!("{head}.{mac}{section}").into_bytes(), left_out }
}

/// Whose message this is, and how it fared.
pub fn recognise(key: &Key, check: CheckKey, payload: &[u8]) -> Seen {
    let searched = &payload[..payload.len().min(SEARCH_BYTES_MAX)];
    let mut best = Seen::Stranger;
    let starts = searched.windows(MARKER.len()).enumerate().filter(|(_, w)| *w == MARKER.as_bytes());
    for (start, _) in starts.take(CANDIDATES_MAX) {
        let Some((token, after)) = token(&searched[start..]) else { continue };
        best = Seen::Unproven;
        let Some(fields) = authenticated(key, &token) else { continue };
        let identity = Identity {
            check: CheckKey(array(&fields[..8])),
            sequence: u64::from_be_bytes(array(&fields[8..16])),
            sent_at: Timestamp::from_millis(i64::from_be_bytes(array(&fields[16..24]))),
            nonce: u64::from_be_bytes(array(&fields[24..32])),
        };
        if identity.check != check {
            return Seen::OtherCheck(identity.sent_at);
        }
        let arrived = &payload[start + after..];
        return Seen::Ours(Found { identity, integrity: judge(&fields, arrived) });
    }
    best
}

/// The integrity section as it is sent: what follows the token.
fn section(layout: u16) -> String {
    let between = if layout & IN_LINES != 0 { "\n" } else { BETWEEN };
    let mut section = String::new();
    for (bit, sample) in SAMPLES.iter().enumerate() {
        if layout & 1 << bit != 0 {
            section.push_str(between);
            if sample.needs != Needs::Lines {
                section.push_str(sample.label);
                section.push_str(": ");
            }
            section.push_str(&(sample.text)());
        }
    }
    section
}

fn fields(identity: &Identity, layout: u16, section: &str) -> [u8; FIELDS_BYTES] {
    let mut fields = [0; FIELDS_BYTES];
    fields[..8].copy_from_slice(&identity.check.0);
    fields[8..16].copy_from_slice(&identity.sequence.to_be_bytes());
    fields[16..24].copy_from_slice(&identity.sent_at.as_millis().to_be_bytes());
    fields[24..32].copy_from_slice(&identity.nonce.to_be_bytes());
    fields[32..34].copy_from_slice(&layout.to_be_bytes());
    fields[34..38].copy_from_slice(&u32::try_from(section.len()).unwrap_or(u32::MAX).to_be_bytes());
    fields[38..46].copy_from_slice(&hash(section.as_bytes()));
    fields
}

fn hash(bytes: &[u8]) -> [u8; 8] {
    array(&digest::digest(&digest::SHA256, bytes).as_ref()[..8])
}

/// The first `N` bytes; every caller slices exactly as many.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[..N]);
    array
}

/// The token's characters without the white space a protocol folded into it, and where it ends.
fn token(text: &[u8]) -> Option<([u8; TOKEN_BYTES], usize)> {
    // A fold is a line end and a few blanks; more than this is no token of ours.
    const FOLDED_BYTES_MAX: usize = 64;
    let mut token = [0; TOKEN_BYTES];
    let mut filled = 0;
    for (at, &byte) in text.iter().enumerate().take(TOKEN_BYTES + FOLDED_BYTES_MAX) {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                token[filled] = byte;
                filled += 1;
                if filled == TOKEN_BYTES {
                    return Some((token, at + 1));
                }
            }
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ => return None,
        }
    }
    None
}

fn authenticated(key: &Key, token: &[u8; TOKEN_BYTES]) -> Option<[u8; FIELDS_BYTES]> {
    let (head, tail) = token.split_at(MARKER.len() + FIELDS_CHARS);
    let mac = URL_SAFE_NO_PAD.decode(tail.strip_prefix(b".")?).ok()?;
    let expected = key.mac(head);
    // In constant time: every byte is looked at, whatever the first ones were.
    let differs = mac.iter().zip(&expected).fold(mac.len() ^ MAC_BYTES, |d, (a, b)| d | usize::from(a ^ b));
    if differs != 0 {
        return None;
    }
    URL_SAFE_NO_PAD.decode(&head[MARKER.len()..]).ok()?.try_into().ok()
}

fn judge(fields: &[u8; FIELDS_BYTES], arrived: &[u8]) -> Integrity {
    let sent = section(u16::from_be_bytes([fields[32], fields[33]]));
    let known = hash(sent.as_bytes()) == fields[38..46];
    let arrived = without_line_ends(arrived);
    if known {
        return compare(sent.trim_ascii(), arrived.trim_ascii());
    }
    // Made by a version with other samples: their hash still tells equal from changed.
    let whole = [b"\n".as_slice(), arrived.trim_ascii()].concat();
    if hash(&whole) == fields[38..46] { Integrity::Equal } else { Integrity::Corrupt }
}

/// Line ends are the protocol's, not the message's: mail sends CRLF where the payload had LF.
fn without_line_ends(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    for (at, &byte) in text.iter().enumerate() {
        if byte != b'\r' || text.get(at + 1) != Some(&b'\n') {
            plain.push(byte);
        }
    }
    plain
}

/// How what arrived relates to what was sent.
pub fn compare(sent: &str, arrived: &[u8]) -> Integrity {
    if arrived == sent.as_bytes() {
        return Integrity::Equal;
    }
    let text = std::str::from_utf8(arrived);
    if text.is_ok_and(|text| text.nfc().eq(sent.nfc())) {
        return Integrity::Normalised;
    }
    if is_beginning(sent, arrived) {
        return Integrity::Truncated;
    }
    if is_transcoded(sent, arrived) { Integrity::Transcoded } else { Integrity::Corrupt }
}

/// Whether the end is missing: cut anywhere, also within a character, perhaps normalised before.
fn is_beginning(sent: &str, arrived: &[u8]) -> bool {
    if sent.as_bytes().starts_with(arrived) {
        return true;
    }
    // What is left of a character that was cut is at most three bytes, or the replacement of them.
    let valid = match std::str::from_utf8(arrived) {
        Ok(text) => text.strip_suffix('\u{fffd}').unwrap_or(text),
        Err(e) if arrived.len() - e.valid_up_to() < 4 => {
            std::str::from_utf8(&arrived[..e.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    let composed: String = sent.nfc().collect();
    let decomposed: String = sent.nfd().collect();
    sent.starts_with(valid) || composed.starts_with(valid) || decomposed.starts_with(valid)
}

/// Whether only characters beyond ASCII changed: replaced (`?`, U+FFFD), dropped, escaped, or the bytes of another
/// encoding. Samples of ASCII alone, labels and their number must be as they were.
fn is_transcoded(sent: &str, arrived: &[u8]) -> bool {
    let between: &[u8] = if sent.contains('\n') { b"\n" } else { BETWEEN.as_bytes() };
    let sent: Vec<&[u8]> = split(sent.as_bytes(), between);
    let arrived: Vec<&[u8]> = split(arrived, between);
    sent.len() == arrived.len()
        && sent.iter().zip(&arrived).all(|(sent, arrived)| sent == arrived || is_sample_transcoded(sent, arrived))
}

fn is_sample_transcoded(sent: &[u8], arrived: &[u8]) -> bool {
    let label = sent.iter().position(|b| *b == b':').map_or(0, |at| at + 1);
    if sent.is_ascii() || arrived.get(..label) != Some(&sent[..label]) {
        return false;
    }
    let mut rest = &arrived[label..];
    while let Some(&byte) = rest.first() {
        let taken = if byte.is_ascii() { stand_in(rest) } else { 1 };
        if taken == 0 {
            return false;
        }
        rest = &rest[taken..];
    }
    true
}

/// Length of the ASCII text at the start of `rest` that a gateway writes in place of a character; 0 when it is none.
fn stand_in(rest: &[u8]) -> usize {
    let hex = |from: usize| rest[from.min(rest.len())..].iter().take(8).take_while(|b| b.is_ascii_hexdigit()).count();
    match rest {
        [b' ' | b'?' | b'_' | b'.' | 0x1a, ..] => 1,
        [b'\\', b'u' | b'U' | b'x', ..] if hex(2) >= 2 => 2 + hex(2),
        [b'U', b'+', ..] if hex(2) >= 4 => 2 + hex(2),
        [b'&', b'#', ..] => {
            // `&#48393;`, `&#xBD09;`
            let inner = rest[2..].iter().take(8).take_while(|b| b.is_ascii_hexdigit() || **b == b'x').count();
            if inner > 0 && rest.get(2 + inner) == Some(&b';') { inner + 3 } else { 0 }
        }
        [b'=' | b'%', ..] if hex(1) >= 2 => 3,
        _ => 0,
    }
}

fn split<'t>(text: &'t [u8], between: &[u8]) -> Vec<&'t [u8]> {
    let mut parts = Vec::new();
    let mut start = 0;
    while let Some(at) = text[start..].windows(between.len()).position(|w| w == between) {
        parts.push(&text[start..start + at]);
        start += at + between.len();
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: Carries = Carries { unicode: true, lines: true, line_bytes_max: 1 << 20, bytes_max: 1 << 20 };

    fn key() -> Key {
        Key::new(&[7; 32])
    }

    fn check() -> CheckKey {
        CheckKey::new(&key(), &"mqtt/round-trip".parse().expect("a name"))
    }

    fn identity(sequence: u64) -> Identity {
        Identity { check: check(), sequence, sent_at: Timestamp::from_millis(1_790_000_000_123), nonce: 0xfeed }
    }

    fn judged(change: impl FnOnce(String) -> Vec<u8>) -> Option<Integrity> {
        let sent = String::from_utf8(compose(&key(), &identity(3), ALL).payload).expect("a tracer is text");
        match recognise(&key(), check(), &change(sent)) {
            Seen::Ours(found) => Some(found.integrity),
            _ => None,
        }
    }

    #[test]
    fn changes_on_the_way_are_classified() {
        type Change = fn(String) -> Vec<u8>;
        let latin1_read_as_utf8: Change = |t| t.bytes().map(char::from).collect::<String>().into_bytes();
        let questions: Change = |t| t.chars().map(|c| if c.is_ascii() { c as u8 } else { b'?' }).collect();
        let table: [(&str, Change, Integrity); 18] = [
            ("as sent", String::into_bytes, Integrity::Equal),
            ("CRLF", |t| t.replace('\n', "\r\n").into_bytes(), Integrity::Equal),
            ("a line end more", |t| format!("{t}\r\n\n").into_bytes(), Integrity::Equal),
            ("text before it", |t| format!("[list] fwd: {t}").into_bytes(), Integrity::Equal),
            ("the token folded", |t| format!("{}\r\n {}", &t[..40], &t[40..]).into_bytes(), Integrity::Equal),
            ("composed", |t| t.nfc().collect::<String>().into_bytes(), Integrity::Normalised),
            ("decomposed", |t| t.nfd().collect::<String>().into_bytes(), Integrity::Normalised),
            ("cut in the long line", |t| t.as_bytes()[..t.len() - 500].to_vec(), Integrity::Truncated),
            ("cut in a character", |t| t.as_bytes()[..TOKEN_BYTES + 120].to_vec(), Integrity::Truncated),
            ("samples gone", |t| t.as_bytes()[..TOKEN_BYTES].to_vec(), Integrity::Truncated),
            ("cut at the emoji", |t| t.split("🔥").next().unwrap_or("").as_bytes().to_vec(), Integrity::Truncated),
            ("composed and cut", |t| t.nfc().take(200).collect::<String>().into_bytes(), Integrity::Truncated),
            ("question marks", questions, Integrity::Transcoded),
            ("mojibake", latin1_read_as_utf8, Integrity::Transcoded),
            ("emoji dropped", |t| t.replace(EMOJI, "").into_bytes(), Integrity::Transcoded),
            ("escaped", |t| t.replace('봉', "\\ubd09").replace('🔥', "&#x1F525;").into_bytes(), Integrity::Transcoded),
            ("a word changed", |t| t.replace("black", "white").into_bytes(), Integrity::Corrupt),
            ("a footer", |t| format!("{t}\n-- \nSent by a list").into_bytes(), Integrity::Corrupt),
        ];
        for (what, change, integrity) in table {
            assert_eq!(judged(change), Some(integrity), "{what}");
        }
    }

    #[test]
    fn what_a_protocol_cannot_carry_is_left_out_and_named() {
        let of = |unicode, lines, line_bytes_max, bytes_max| {
            compose(&key(), &identity(1), Carries { unicode, lines, line_bytes_max, bytes_max })
        };
        let (any, unicode) = (1 << 20, ["hangul-nfc", "hangul-nfd", "emoji", "right-to-left"]);
        assert_eq!(of(true, true, any, any).left_out, [""; 0]);
        assert_eq!(of(false, true, any, any).left_out, unicode);
        assert_eq!(of(true, true, 998, any).left_out, ["long-line"]);
        assert_eq!(of(true, false, any, any).left_out, ["leading-dot", "trailing-space"]);
        assert_eq!(of(true, true, any, 1_000).left_out, ["long-line"]);
        let none = of(false, false, any, 140);
        assert_eq!(none.left_out.len(), SAMPLES.len());
        assert_eq!(none.payload.len(), TOKEN_BYTES);
        assert!(!of(true, false, any, any).payload.contains(&b'\n'));
        let of = |unicode, lines, bytes_max| of(unicode, lines, any, bytes_max);
        for (unicode, lines, bytes_max) in [(true, false, 1 << 20), (false, false, 140), (false, true, 300)] {
            let composed = of(unicode, lines, bytes_max);
            assert!(composed.payload.len() <= bytes_max);
            let found = Found { identity: identity(1), integrity: Integrity::Equal };
            assert_eq!(recognise(&key(), check(), &composed.payload), Seen::Ours(found));
        }
    }

    #[test]
    fn what_is_not_ours_is_never_ours() {
        let payload = compose(&key(), &identity(9), ALL).payload;
        let other_key = Key::new(&[8; 32]);
        assert_eq!(recognise(&other_key, check(), &payload), Seen::Unproven);
        let other_check = CheckKey::new(&key(), &"mqtt/other".parse().expect("a name"));
        assert_eq!(recognise(&key(), other_check, &payload), Seen::OtherCheck(identity(9).sent_at));
        for stranger in ["", "hello", "bongsu1.", "bongsu1.short", "bongsu2.AAAA"] {
            assert_eq!(recognise(&key(), check(), stranger.as_bytes()), Seen::Stranger, "{stranger}");
        }
        let forged = format!("{MARKER}{}.{}", "A".repeat(FIELDS_CHARS), "A".repeat(MAC_CHARS));
        assert_eq!(recognise(&key(), check(), forged.as_bytes()), Seen::Unproven);
        // A quoted forgery before a genuine token does not hide it.
        let both = [forged.as_bytes(), b"\n", &payload].concat();
        assert!(matches!(recognise(&key(), check(), &both), Seen::Ours(_)));
    }

    proptest! {
        #[test]
        fn every_identity_comes_back(
            sequence: u64, sent_ms: i64, nonce: u64, unicode: bool, lines: bool, bytes_max in 0_usize..3_000
        ) {
            let identity =
                Identity { check: check(), sequence, sent_at: Timestamp::from_millis(sent_ms), nonce };
            let composed = compose(&key(), &identity, Carries { unicode, lines, line_bytes_max: bytes_max, bytes_max });
            prop_assert!(composed.payload.len() <= bytes_max.max(TOKEN_BYTES));
            let found = Found { identity, integrity: Integrity::Equal };
            prop_assert_eq!(recognise(&key(), check(), &composed.payload), Seen::Ours(found));
        }

        #[test]
        fn the_identity_survives_any_change_of_the_samples(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut payload = compose(&key(), &identity(5), ALL).payload;
            payload.truncate(TOKEN_BYTES);
            payload.push(b'\n');
            payload.extend(tail);
            let ours = matches!(recognise(&key(), check(), &payload), Seen::Ours(f) if f.identity == identity(5));
            prop_assert!(ours);
        }

        #[test]
        fn no_changed_token_is_ours(at in 0..TOKEN_BYTES, to: u8) {
            let mut payload = compose(&key(), &identity(5), ALL).payload;
            // A blank within the token is a fold, not a change.
            prop_assume!(payload[at] != to && !to.is_ascii_whitespace());
            payload[at] = to;
            payload.truncate(TOKEN_BYTES);
            let seen = recognise(&key(), check(), &payload);
            prop_assert!(matches!(seen, Seen::Unproven | Seen::Stranger), "{seen:?}");
        }

        #[test]
        fn a_cut_is_truncated_wherever_it_falls(share in 0.0_f64..1.0) {
            let payload = compose(&key(), &identity(5), ALL).payload;
            let keep = TOKEN_BYTES + ((payload.len() - TOKEN_BYTES - 1) as f64 * share) as usize;
            let Seen::Ours(found) = recognise(&key(), check(), &payload[..keep]) else { panic!("ours") };
            prop_assert_eq!(found.integrity, Integrity::Truncated);
        }

        #[test]
        fn garbage_is_a_stranger(payload in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            prop_assert_eq!(recognise(&key(), check(), &payload), Seen::Stranger);
        }

        #[test]
        fn comparing_never_panics(sent in ".{0,60}", arrived in proptest::collection::vec(any::<u8>(), 0..80)) {
            let judged = compare(&sent, &arrived);
            prop_assert_eq!(judged == Integrity::Equal, sent.as_bytes() == arrived);
        }
    }
}
