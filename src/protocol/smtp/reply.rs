//! What a mail server says: replies (RFC 5321, section 4.2) and the extensions it offers (section 4.1.1.1). Pure.

use crate::observation::{Kind, one_line};

/// Longest line of a reply; the standard's 512 (RFC 5321, section 4.5.3.1.5), and room for the talkative.
pub const REPLY_LINE_BYTES_MAX: usize = 4 * 1024;

/// Most lines of a reply: the longest list of extensions known has twenty.
pub const REPLY_LINES_MAX: usize = 100;

/// How much of what is no reply is shown, in characters.
const SHOWN_CHARS_MAX: usize = 80;

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Three digits, the first of them from 2 to 5.
    pub code: u16,
    /// The texts of its lines, without code; at least one.
    pub lines: Vec<String>,
}

/// What breaks the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// The class.
    pub kind: Kind,
    /// In words.
    pub text: String,
}

impl Reply {
    /// 2yz: done.
    pub fn is_done(&self) -> bool {
        self.code / 100 == 2
    }

    /// 4yz: not now.
    pub fn is_transient(&self) -> bool {
        self.code / 100 == 4
    }

    /// The class of a failure told by it: not now, no, or a reply that has no place here.
    pub fn kind(&self) -> Kind {
        match self.code / 100 {
            4 => Kind::Deferred,
            5 => Kind::Rejected,
            _ => Kind::Protocol,
        }
    }

    /// Code and text in one line, as the server said them; an enhanced status code (RFC 2034) that each line repeats
    /// is said once.
    pub fn text(&self) -> String {
        let status = self.lines[0].split(' ').next().filter(|word| is_status(word));
        let mut text = format!("{} {}", self.code, self.lines[0]);
        for line in &self.lines[1..] {
            let rest = status.and_then(|status| line.strip_prefix(status)).unwrap_or(line).trim();
            if !rest.is_empty() {
                text.push(' ');
                text.push_str(rest);
            }
        }
        text.trim_end().to_owned()
    }
}

/// Whether a word is an enhanced status code: `5.7.1`.
fn is_status(word: &str) -> bool {
    let parts: Vec<&str> = word.split('.').collect();
    parts.len() == 3 && parts.iter().all(|p| (1..=3).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()))
}

/// A reply that is being read, line by line.
#[derive(Debug, Default)]
pub struct Partial(Option<Reply>);

impl Partial {
    /// Takes the next line; gives the reply with its last one.
    pub fn feed(&mut self, line: &[u8]) -> Result<Option<Reply>, Breach> {
        let shown =
            || one_line(&String::from_utf8_lossy(&line[..line.len().min(4 * SHOWN_CHARS_MAX)]), SHOWN_CHARS_MAX);
        let breach = |text: String| Err(Breach { kind: Kind::Protocol, text });
        let Some((code, more, text)) = parse(line) else {
            return breach(format!("no reply of a mail server: \"{}\"", shown()));
        };
        let reply = self.0.get_or_insert_with(|| Reply { code, lines: Vec::new() });
        if reply.code != code {
            return breach(format!("a reply that begins with {} goes on with \"{}\"", reply.code, shown()));
        }
        if reply.lines.len() == REPLY_LINES_MAX {
            let text = format!("a reply of more than {REPLY_LINES_MAX} lines");
            return Err(Breach { kind: Kind::TooLarge, text });
        }
        reply.lines.push(text);
        Ok(if more { None } else { self.0.take() })
    }
}

fn parse(line: &[u8]) -> Option<(u16, bool, String)> {
    let (code, rest) = line.split_at_checked(3)?;
    if !(b'2'..=b'5').contains(&code[0]) || !code.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let code = code.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    let (more, text) = match rest {
        [] => (false, rest),
        [b' ', text @ ..] => (false, text),
        [b'-', text @ ..] => (true, text),
        _ => return None,
    };
    Some((code, more, String::from_utf8_lossy(text).trim_end().to_owned()))
}

/// What a server offers beyond the basics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// The longest mail taken in bytes (RFC 1870); `None` when it is not said or not limited.
    pub size_bytes_max: Option<u64>,
    /// Mechanisms to log in with (RFC 4954).
    pub auth: Vec<String>,
    keywords: Vec<String>,
}

/// The extensions that matter to who sends mail, and are told.
const TOLD: [&str; 6] = ["PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "STARTTLS", "CHUNKING"];

impl Extensions {
    /// Reads a reply to EHLO or LHLO; its first line is the server's name.
    pub fn read(reply: &Reply) -> Self {
        let mut extensions = Self::default();
        for line in &reply.lines[1..] {
            // Servers of old wrote `AUTH=LOGIN`, some still do beside the standard's form.
            let line = line.to_ascii_uppercase().replacen("AUTH=", "AUTH ", 1);
            let mut words = line.split_ascii_whitespace();
            let Some(keyword) = words.next() else { continue };
            match keyword {
                "AUTH" => {
                    for mechanism in words {
                        if !extensions.auth.iter().any(|known| known == mechanism) {
                            extensions.auth.push(mechanism.into());
                        }
                    }
                }
                "SIZE" => {
                    extensions.size_bytes_max = words.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0);
                }
                _ => {}
            }
            extensions.keywords.push(keyword.into());
        }
        extensions
    }

    /// Whether it offers this one.
    pub fn offers(&self, keyword: &str) -> bool {
        self.keywords.iter().any(|known| known == keyword)
    }

    /// Those that matter, for people.
    pub fn told(&self) -> String {
        let told: Vec<&str> = TOLD.into_iter().filter(|keyword| self.offers(keyword)).collect();
        if told.is_empty() { "none".into() } else { told.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(lines: &[&str]) -> Result<Option<Reply>, Breach> {
        let mut partial = Partial::default();
        let (last, first) = lines.split_last().expect("a line");
        for line in first {
            assert_eq!(partial.feed(line.as_bytes())?, None, "{line}");
        }
        partial.feed(last.as_bytes())
    }

    #[test]
    fn replies_are_read_and_told() {
        let table: [(&[&str], &str, Kind); 7] = [
            (&["250 2.1.0 Ok"], "250 2.1.0 Ok", Kind::Protocol),
            (&["250"], "250", Kind::Protocol),
            (&["354 "], "354", Kind::Protocol),
            (&["550-5.7.1 no,", "550-5.7.1 really", "550 5.7.1 no"], "550 5.7.1 no, really no", Kind::Rejected),
            (&["421-try", "421 later"], "421 try later", Kind::Deferred),
            (&["451-4.3.0 a", "451 5.3.0 b"], "451 4.3.0 a 5.3.0 b", Kind::Deferred),
            (&["554 봉수\u{7}"], "554 봉수\u{7}", Kind::Rejected),
        ];
        for (lines, text, kind) in table {
            let reply = read(lines).expect("a reply").expect("its last line");
            assert_eq!((reply.text().as_str(), reply.kind()), (text, kind));
            assert_eq!((reply.is_done(), reply.is_transient()), (reply.code < 300, kind == Kind::Deferred));
        }
    }

    #[test]
    fn what_is_no_reply_is_told() {
        let many: Vec<String> = (0..=REPLY_LINES_MAX).map(|_| "250-x".into()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let table: [(&[&str], &str); 7] = [
            (&["SSH-2.0-OpenSSH_9.2"], "no reply of a mail server: \"SSH-2.0-OpenSSH_9.2\""),
            (&[""], "no reply of a mail server: \"\""),
            (&["25"], "no reply"),
            (&["250x"], "no reply"),
            (&["199 x"], "no reply"),
            (&["250-a", "251 b"], "a reply that begins with 250 goes on with \"251 b\""),
            (&many, "a reply of more than 100 lines"),
        ];
        for (lines, text) in table {
            let breach = read(lines).expect_err("no reply");
            assert!(breach.text.contains(text), "{breach:?}");
        }
    }

    #[test]
    fn extensions_are_read() {
        let lines = [
            "250-mx",
            "250-size 10240000",
            "250-AUTH=LOGIN plain",
            "250-AUTH PLAIN SCRAM-SHA-256",
            "250-DSN",
            "250 8BITMIME",
        ];
        let extensions = Extensions::read(&read(&lines).expect("a reply").expect("its last line"));
        assert_eq!(extensions.size_bytes_max, Some(10_240_000));
        assert_eq!(extensions.auth, ["LOGIN", "PLAIN", "SCRAM-SHA-256"]);
        assert!(extensions.offers("DSN") && extensions.offers("AUTH") && !extensions.offers("STARTTLS"));
        assert_eq!(extensions.told(), "8BITMIME, DSN");
        let none =
            Extensions::read(&read(&["250-DSN", "250-SIZE 0", "250 SIZE x"]).expect("a reply").expect("its last"));
        assert_eq!((none.size_bytes_max, none.told().as_str()), (None, "none"), "the first line is a name");
    }

    proptest! {
        #[test]
        fn no_line_panics(lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 1..6)) {
            let mut partial = Partial::default();
            for line in &lines {
                if let Ok(Some(reply)) = partial.feed(line) {
                    prop_assert!((200..600).contains(&reply.code));
                    Extensions::read(&reply);
                    reply.text();
                }
            }
        }
    }
}
