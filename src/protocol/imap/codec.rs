//! What IMAP looks like on the wire (RFC 3501 and RFC 9051, sections 4 and 9): responses taken apart, strings and
//! folder names put together. Pure; what reads and writes is in [`super::client`].
//!
//! It is lenient on purpose: what a response says beyond what is asked of it is passed over, so that an extension or a
//! slip of a server costs nothing.

use std::borrow::Cow;

use base64::{Engine, alphabet, engine};

/// Deepest nesting of lists that is read; nothing asked for here is deeper than three.
const DEPTH_MAX: usize = 16;

/// A response, taken apart.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// `+ …`: the server waits for more of a command.
    Continue(String),
    /// `OK`, `NO`, `BAD`, `BYE`, `PREAUTH`, tagged or not.
    Status(Option<String>, StatusLine),
    /// `* 3 EXISTS`, `* LIST …`.
    Data(Data),
    /// It has the form of no response.
    Odd,
}

/// What a status response says.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusLine {
    /// Its first word.
    pub status: Status,
    /// The code in brackets, in capitals, and what follows within them.
    pub code: Option<(String, String)>,
    /// The text for people.
    pub text: String,
}

/// The first word of a status response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words of the RFC")]
pub enum Status {
    Ok,
    No,
    Bad,
    Bye,
    Preauth,
}

impl StatusLine {
    /// The whole of it for people: `NO [AUTHENTICATIONFAILED] wrong password`.
    pub fn shown(&self) -> String {
        let word = match self.status {
            Status::Ok => "OK",
            Status::No => "NO",
            Status::Bad => "BAD",
            Status::Bye => "BYE",
            Status::Preauth => "PREAUTH",
        };
        let code = self.code.as_ref().map_or(String::new(), |(name, more)| {
            if more.is_empty() { format!(" [{name}]") } else { format!(" [{name} {more}]") }
        });
        format!("{word}{code} {}", self.text).trim_end().to_owned()
    }

    /// Whether it carries this code.
    pub fn has_code(&self, name: &str) -> bool {
        self.code.as_ref().is_some_and(|(code, _)| code == name)
    }

    /// The number that this code carries.
    pub fn number(&self, name: &str) -> Option<u32> {
        self.code.as_ref().filter(|(code, _)| code == name)?.1.trim().parse().ok()
    }
}

/// What another untagged response says.
#[derive(Clone, Debug, PartialEq)]
pub struct Data {
    /// The number before its name: `3` of `3 EXISTS`.
    pub number: Option<u32>,
    /// Its name in capitals.
    pub name: String,
    /// What follows.
    pub values: Vec<Value>,
}

/// A piece of data.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A bare word, NIL and numbers included.
    Atom(String),
    /// A quoted string or a literal.
    Text(Vec<u8>),
    /// A list in parentheses.
    List(Vec<Value>),
}

impl Value {
    /// As bytes, whichever way it was written; a list has none.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Atom(word) => Some(word.as_bytes()),
            Self::Text(text) => Some(text),
            Self::List(_) => None,
        }
    }

    /// The bare word.
    pub fn atom(&self) -> Option<&str> {
        match self {
            Self::Atom(word) => Some(word),
            _ => None,
        }
    }

    /// The items of the list.
    pub fn list(&self) -> Option<&[Value]> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }
}

/// Whether a response that begins with this line is one line whatever it ends with: the text of a status response may
/// look like the announcement of a literal and is none.
pub fn is_one_line(first: &[u8]) -> bool {
    let word = first.split(|b| *b == b' ').nth(1).unwrap_or_default();
    first.first() == Some(&b'+') || status(&String::from_utf8_lossy(word)).is_some()
}

/// The length of the literal that a line announces at its end: `{12}`, `{12+}`, `~{12}`.
pub fn literal(line: &[u8]) -> Option<u64> {
    let inner = line.strip_suffix(b"}")?;
    let inner = inner.strip_suffix(b"+").unwrap_or(inner);
    let digits = inner.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let (before, number) = inner.split_at(inner.len() - digits);
    if digits == 0 || before.last() != Some(&b'{') {
        return None;
    }
    // More digits than any number has are a length beyond any bound.
    Some(std::str::from_utf8(number).ok()?.parse().unwrap_or(u64::MAX))
}

fn status(word: &str) -> Option<Status> {
    [("OK", Status::Ok), ("NO", Status::No), ("BAD", Status::Bad), ("BYE", Status::Bye), ("PREAUTH", Status::Preauth)]
        .into_iter()
        .find_map(|(name, status)| name.eq_ignore_ascii_case(word).then_some(status))
}

/// Takes a response apart: its lines joined by CRLF, literals within, without the last line's end.
pub fn response(bytes: &[u8]) -> Response {
    if let Some(rest) = bytes.strip_prefix(b"+") {
        return Response::Continue(String::from_utf8_lossy(rest).trim().to_owned());
    }
    let mut words = bytes.splitn(3, |b| *b == b' ');
    let tag = String::from_utf8_lossy(words.next().unwrap_or_default()).into_owned();
    let word = String::from_utf8_lossy(words.next().unwrap_or_default()).into_owned();
    let rest = words.next().unwrap_or_default();
    if tag.is_empty() {
        return Response::Odd;
    }
    if let Some(status) = status(&word) {
        let tag = Some(tag).filter(|tag| tag != "*");
        return Response::Status(tag, status_line(status, &String::from_utf8_lossy(rest)));
    }
    if tag != "*" || word.is_empty() {
        return Response::Odd;
    }
    let (number, name, rest) = match word.parse() {
        Ok(number) => {
            let at = rest.iter().position(|b| *b == b' ').unwrap_or(rest.len());
            (Some(number), String::from_utf8_lossy(&rest[..at]).to_ascii_uppercase(), &rest[at..])
        }
        Err(_) => (None, word.to_ascii_uppercase(), rest),
    };
    Response::Data(Data { number, name, values: Reader { bytes: rest, at: 0 }.values(0) })
}

fn status_line(status: Status, rest: &str) -> StatusLine {
    let coded = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (code, text) = match coded {
        Some((code, text)) => {
            let (name, more) = code.split_once(' ').unwrap_or((code, ""));
            (Some((name.to_ascii_uppercase(), more.to_owned())), text)
        }
        None => (None, rest),
    };
    StatusLine { status, code, text: text.trim().to_owned() }
}

/// Longest announcement of a literal with the line's end: braces, a plus, and more digits than any length that is read.
const ANNOUNCEMENT_BYTES_MAX: usize = 32;

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Values up to the end of the list, or of everything.
    fn values(&mut self, depth: usize) -> Vec<Value> {
        let mut values = Vec::new();
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\r' | b'\n' => self.at += 1,
                b')' => {
                    self.at += 1;
                    if depth > 0 {
                        break;
                    }
                }
                b'(' if depth < DEPTH_MAX => {
                    self.at += 1;
                    values.push(Value::List(self.values(depth + 1)));
                }
                b'(' => {
                    self.at = self.bytes.len();
                }
                b'"' => values.push(Value::Text(self.quoted())),
                b'{' => match self.literal() {
                    Some(text) => values.push(Value::Text(text)),
                    None => values.push(self.atom()),
                },
                b'~' if self.bytes.get(self.at + 1) == Some(&b'{') => self.at += 1,
                _ => values.push(self.atom()),
            }
        }
        values
    }

    fn quoted(&mut self) -> Vec<u8> {
        self.at += 1;
        let mut text = Vec::new();
        while let Some(byte) = self.peek() {
            self.at += 1;
            match byte {
                b'"' => break,
                b'\\' => {
                    text.extend(self.peek());
                    self.at += 1;
                }
                other => text.push(other),
            }
        }
        text
    }

    fn literal(&mut self) -> Option<Vec<u8>> {
        let rest = &self.bytes[self.at..];
        // No further than an announcement reaches: a line of nothing but braces would be read again for each.
        let near = &rest[..rest.len().min(ANNOUNCEMENT_BYTES_MAX)];
        let end = near.windows(2).position(|w| w == b"\r\n")?;
        let length = usize::try_from(literal(&rest[..end])?).ok()?;
        let text = rest.get(end + 2..)?.get(..length)?.to_vec();
        self.at += end + 2 + length;
        Some(text)
    }

    /// A word; what stands in brackets belongs to it, spaces and parentheses included: `BODY[HEADER.FIELDS (TO)]<0>`.
    fn atom(&mut self) -> Value {
        let begin = self.at;
        let mut within = false;
        while let Some(byte) = self.peek() {
            match byte {
                b'[' => within = true,
                b']' => within = false,
                b' ' | b'(' | b')' | b'"' if !within && self.at > begin => break,
                b'\r' | b'\n' => break,
                _ => {}
            }
            self.at += 1;
        }
        Value::Atom(String::from_utf8_lossy(&self.bytes[begin..self.at]).into_owned())
    }
}

/// A string in quotes, where it may stand in quotes: printable ASCII. What may not must be sent as a literal.
pub fn quoted(text: &[u8]) -> Option<String> {
    if text.len() > QUOTED_BYTES_MAX || !text.iter().all(|b| (b' '..=b'~').contains(b)) {
        return None;
    }
    let text = String::from_utf8_lossy(text).replace('\\', "\\\\").replace('"', "\\\"");
    Some(format!("\"{text}\""))
}

/// Longest string sent in quotes: servers bound their lines, and a literal has no such bound.
const QUOTED_BYTES_MAX: usize = 1_000;

/// A folder's name as IMAP4rev1 writes it: modified UTF-7 (RFC 3501, section 5.1.3).
pub fn encode_name(name: &str) -> String {
    let mut out = String::new();
    let mut units: Vec<u8> = Vec::new();
    let flush = |units: &mut Vec<u8>, out: &mut String| {
        if !units.is_empty() {
            out.push('&');
            out.push_str(&MODIFIED.encode(&units));
            out.push('-');
            units.clear();
        }
    };
    for c in name.chars() {
        if (' '..='~').contains(&c) {
            flush(&mut units, &mut out);
            out.push(c);
            if c == '&' {
                out.push('-');
            }
        } else {
            let mut pair = [0; 2];
            units.extend(c.encode_utf16(&mut pair).iter().flat_map(|unit| unit.to_be_bytes()));
        }
    }
    flush(&mut units, &mut out);
    out
}

/// The name for people; what is no modified UTF-7 stays as it is.
pub fn decode_name(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    decoded(&text).unwrap_or_else(|| text.into_owned())
}

fn decoded(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let (inner, after) = after.split_once('-')?;
        if inner.is_empty() {
            out.push('&');
        } else {
            let bytes = MODIFIED.decode(inner).ok().filter(|bytes| bytes.len() % 2 == 0)?;
            let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
            out.push_str(&String::from_utf16(&units).ok()?);
        }
        rest = after;
    }
    out.push_str(rest);
    Some(out)
}

/// Base64 with `,` for `/` and without padding.
const MODIFIED: engine::GeneralPurpose = engine::GeneralPurpose::new(
    &alphabet::IMAP_MUTF7,
    engine::GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(engine::DecodePaddingMode::RequireNone)
        // Some servers leave bits behind that a strict reader refuses.
        .with_decode_allow_trailing_bits(true),
);

/// The last part of a folder's name, by its delimiter.
pub fn last_part<'n>(name: &'n str, delimiter: Option<&str>) -> &'n str {
    match delimiter.filter(|d| !d.is_empty()) {
        Some(delimiter) => name.rsplit(delimiter).next().unwrap_or(name),
        None => name,
    }
}

/// UIDs as a set: `3,7,9`.
pub fn set(uids: &[u32]) -> String {
    let each: Vec<Cow<'_, str>> = uids.iter().map(|uid| uid.to_string().into()).collect();
    each.join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn atom(word: &str) -> Value {
        Value::Atom(word.into())
    }

    fn text(text: &str) -> Value {
        Value::Text(text.as_bytes().to_vec())
    }

    #[test]
    fn status_responses_are_read() {
        type Case<'a> = (&'a str, Option<&'a str>, Status, Option<(&'a str, &'a str)>, &'a str);
        let table: [Case<'_>; 7] = [
            ("* OK Dovecot ready.", None, Status::Ok, None, "Dovecot ready."),
            ("a1 OK", Some("a1"), Status::Ok, None, ""),
            ("* ok [capability IMAP4rev1 IDLE] hi", None, Status::Ok, Some(("CAPABILITY", "IMAP4rev1 IDLE")), "hi"),
            ("a2 NO [AUTHENTICATIONFAILED] no", Some("a2"), Status::No, Some(("AUTHENTICATIONFAILED", "")), "no"),
            ("* OK [UIDNEXT 4392] Predicted", None, Status::Ok, Some(("UIDNEXT", "4392")), "Predicted"),
            ("* BYE [unclosed", None, Status::Bye, None, "[unclosed"),
            ("* PREAUTH {5}", None, Status::Preauth, None, "{5}"),
        ];
        for (line, tag, status, code, words) in table {
            let Response::Status(got, said) = response(line.as_bytes()) else { panic!("{line}") };
            assert_eq!((got.as_deref(), said.status, said.text.as_str()), (tag, status, words), "{line}");
            assert_eq!(said.code.as_ref().map(|(n, m)| (n.as_str(), m.as_str())), code, "{line}");
        }
        let Response::Status(_, said) = response(b"* OK [UIDNEXT 7] x") else { panic!("a status") };
        assert_eq!((said.number("UIDNEXT"), said.number("UIDVALIDITY")), (Some(7), None));
        assert_eq!(said.shown(), "OK [UIDNEXT 7] x");
    }

    #[test]
    fn data_is_read() {
        let table: [(&str, Option<u32>, &str, Vec<Value>); 8] = [
            ("* 23 EXISTS", Some(23), "EXISTS", vec![]),
            ("* SEARCH 2 84", None, "SEARCH", vec![atom("2"), atom("84")]),
            ("* SEARCH", None, "SEARCH", vec![]),
            (
                r#"* LIST (\HasNoChildren \Junk) "." "Ju\"nk""#,
                None,
                "LIST",
                vec![Value::List(vec![atom("\\HasNoChildren"), atom("\\Junk")]), text("."), text("Ju\"nk")],
            ),
            ("* LIST () NIL {5}\r\na)\"\r\n", None, "LIST", vec![Value::List(vec![]), atom("NIL"), text("a)\"\r\n")]),
            (
                "* 5 FETCH (UID 7 BODY[HEADER.FIELDS (TO)]<0> {3}\r\na b FLAGS (\\Seen))",
                Some(5),
                "FETCH",
                vec![Value::List(vec![
                    atom("UID"),
                    atom("7"),
                    atom("BODY[HEADER.FIELDS (TO)]<0>"),
                    text("a b"),
                    atom("FLAGS"),
                    Value::List(vec![atom("\\Seen")]),
                ])],
            ),
            (
                "* 5 fetch (BODY[] ~{2}\r\n\x00\x01)",
                Some(5),
                "FETCH",
                vec![Value::List(vec![atom("BODY[]"), text("\0\x01")])],
            ),
            (
                "* STATUS INBOX (UIDNEXT 3)",
                None,
                "STATUS",
                vec![atom("INBOX"), Value::List(vec![atom("UIDNEXT"), atom("3")])],
            ),
        ];
        for (line, number, name, values) in table {
            assert_eq!(response(line.as_bytes()), Response::Data(Data { number, name: name.into(), values }), "{line}");
        }
        assert_eq!(response(b"+ idling"), Response::Continue("idling".into()));
        for odd in ["", " ", "*", "* ", "HTTP/1.1 400 Bad Request", "a1 EXISTS"] {
            assert_eq!(response(odd.as_bytes()), Response::Odd, "{odd:?}");
        }
    }

    #[test]
    fn literals_are_announced() {
        let table = [
            ("* 1 FETCH (BODY[] {310}", Some(310)),
            ("* 1 FETCH (BODY[] {310+}", Some(310)),
            ("* 1 FETCH (BINARY[] ~{0}", Some(0)),
            ("* 1 FETCH (BODY[] {4294967295}", Some(4_294_967_295)),
            ("* 1 FETCH (BODY[] {99999999999999999999999}", Some(u64::MAX)),
            ("* 1 FETCH (BODY[] {}", None),
            ("* 1 FETCH (BODY[] {-1}", None),
            ("* 1 FETCH (BODY[] {5} ", None),
            ("}", None),
            ("{}", None),
        ];
        for (line, length) in table {
            assert_eq!(literal(line.as_bytes()), length, "{line}");
        }
        for (line, one) in
            [("* OK what is {5}", true), ("a1 NO {5}", true), ("+ {5}", true), ("* LIST () NIL {5}", false)]
        {
            assert_eq!(is_one_line(line.as_bytes()), one, "{line}");
        }
    }

    #[test]
    fn folder_names_are_written_as_the_rfc_says() {
        let table = [
            ("INBOX", "INBOX"),
            ("~peter/mail/台北/日本語", "~peter/mail/&U,BTFw-/&ZeVnLIqe-"),
            ("A&B", "A&-B"),
            ("스팸메일함", "&wqTTOLpUx3zVaA-"),
            ("🔥", "&2D3dJQ-"),
        ];
        for (name, wire) in table {
            assert_eq!(encode_name(name), wire);
            assert_eq!(decode_name(wire.as_bytes()), name);
        }
        for wrong in ["&", "a&b", "&!!-", "&AGE-&AAA-x&"] {
            assert!(!decode_name(wrong.as_bytes()).is_empty());
        }
        assert_eq!(decode_name("메일".as_bytes()), "메일");
    }

    #[test]
    fn strings_are_quoted_where_they_may_be() {
        assert_eq!(quoted(br#"a "b" \c"#).as_deref(), Some(r#""a \"b\" \\c""#));
        for no in ["한글".as_bytes(), b"a\r\nb", b"\0", &[b'a'; 1_001]] {
            assert_eq!(quoted(no), None);
        }
        assert_eq!(set(&[1, 5, 9]), "1,5,9");
        assert_eq!((last_part("a/b/c", Some("/")), last_part("a.b", None)), ("c", "a.b"));
    }

    #[test]
    fn what_looks_like_literals_takes_no_longer_than_it_is_long() {
        let line = format!("* 1 FETCH {}", "{1 ".repeat(170_000));
        let begun = crate::clock::instant();
        let Response::Data(data) = response(line.as_bytes()) else { panic!("data") };
        assert_eq!(data.values.len(), 170_000);
        let took = crate::clock::instant().saturating_duration_since(begun);
        // With a pass for each of them it would be minutes.
        assert!(took < std::time::Duration::from_secs(10), "{took:?}");
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = format!("* X {}", "(".repeat(100_000));
        assert!(matches!(response(deep.as_bytes()), Response::Data(_)));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (response(&bytes), literal(&bytes), decode_name(&bytes));
            let line = [b"* 1 FETCH (", bytes.as_slice()].concat();
            let _ = response(&line);
        }

        #[test]
        fn names_come_back(name in "[ -~가-힣🔥é]{0,20}") {
            prop_assert_eq!(decode_name(encode_name(&name).as_bytes()), name);
        }
    }
}
