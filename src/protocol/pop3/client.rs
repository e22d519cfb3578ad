//! One POP3 connection: commands, answers of one line and of many (RFC 1939, section 3; codes of RFC 2449 and RFC 3206).

use crate::{
    observation::{Kind, Phase, Reason},
    protocol::{
        Attempt,
        lines::Lines,
        wire::{Stream, TlsClient},
    },
};

/// Longest line: RFC 2449 allows 512 bytes, tokens in challenges need more. Mails are not read by lines.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// Most lines of an answer: the mails of a maildrop that is still looked at.
pub const MESSAGES_MAX: usize = 50_000;

/// Most bytes of such an answer, as it is kept: an identifier has at most 70 (RFC 1939, section 7).
const LISTING_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes read at once of a mail.
const CHUNK_BYTES: usize = 16 * 1024;

/// Why a command did not do.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The connection is of no use any more.
    Gone(Reason),
    /// The server said no; all it said.
    Refused(Answer),
}

/// What the server said in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether it begins with `+OK`.
    pub is_ok: bool,
    /// The rest of it.
    pub text: String,
}

impl Answer {
    /// Takes a line apart; `None` for one that is no answer.
    pub fn read(line: &str) -> Option<Self> {
        let rest = |word: &str| {
            let (first, rest) = line.split_at_checked(word.len())?;
            let ends = rest.is_empty() || rest.starts_with([' ', '\t']);
            (first.eq_ignore_ascii_case(word) && ends).then(|| rest.trim().to_owned())
        };
        let ok = rest("+OK").map(|text| Self { is_ok: true, text });
        ok.or_else(|| rest("-ERR").map(|text| Self { is_ok: false, text }))
    }

    /// The response code in brackets: `IN-USE`, `SYS/TEMP`.
    pub fn code(&self) -> Option<String> {
        let (code, _) = self.text.strip_prefix('[')?.split_once(']')?;
        Some(code.split(' ').next().unwrap_or_default().to_ascii_uppercase())
    }

    /// Whether another session holds the maildrop, or the last login was too short ago.
    pub fn is_busy(&self) -> bool {
        matches!(self.code().as_deref(), Some("IN-USE" | "LOGIN-DELAY"))
    }

    /// What a refusal is: for now where its code says so.
    pub fn kind(&self) -> Kind {
        if self.is_busy() || self.code().as_deref() == Some("SYS/TEMP") { Kind::Deferred } else { Kind::Rejected }
    }

    /// For people.
    pub fn shown(&self) -> String {
        format!("{} {}", if self.is_ok { "+OK" } else { "-ERR" }, self.text).trim_end().to_owned()
    }
}

/// A connection.
pub struct Client {
    lines: Lines,
}

impl Client {
    /// Over a fresh stream.
    pub fn new(stream: Stream) -> Self {
        Self { lines: Lines::new(stream, LINE_BYTES_MAX) }
    }

    /// The TLS handshake after STLS.
    pub async fn start_tls(self, cx: &mut Attempt, tls: &TlsClient, host: &str) -> Result<Self, Reason> {
        Ok(Self { lines: self.lines.start_tls(cx, tls, host).await? })
    }

    /// The next line, whatever it is.
    pub async fn line(&mut self, cx: &mut Attempt) -> Result<String, Reason> {
        let line = self.lines.line().await.map_err(|broken| broken.reason(cx))?;
        let line = String::from_utf8_lossy(&line).into_owned();
        cx.received(&line);
        Ok(line)
    }

    /// The next line of a login, of which no challenge is shown: what SCRAM and CRAM-MD5 say can be guessed at by who
    /// has a list of passwords.
    pub async fn line_hidden(&mut self, cx: &mut Attempt) -> Result<String, Reason> {
        let line = self.lines.line().await.map_err(|broken| broken.reason(cx))?;
        let line = String::from_utf8_lossy(&line).into_owned();
        cx.received(if line.starts_with("+ ") { "+ (challenge)" } else { line.as_str() });
        Ok(line)
    }

    /// The next line, which must be an answer.
    pub async fn answer(&mut self, cx: &mut Attempt) -> Result<Answer, Reason> {
        let line = self.line(cx).await?;
        let beginning: String = line.chars().take(80).collect();
        Answer::read(&line)
            .ok_or_else(|| cx.fail(Kind::Protocol, format!("the server sent what is no POP3: \"{beginning}\"")))
    }

    /// Says a line, and shows `shown` of it.
    pub fn say(&mut self, cx: &mut Attempt, shown: &str, line: &str) {
        cx.sent(shown);
        self.lines.push_line(line);
    }

    /// A command of which nothing is secret, and its answer.
    pub async fn command(&mut self, cx: &mut Attempt, line: &str) -> Result<Answer, Reason> {
        self.say(cx, line, line);
        self.answer(cx).await
    }

    /// A command that must do.
    pub async fn must(&mut self, cx: &mut Attempt, line: &str) -> Result<Answer, Fault> {
        let answer = self.command(cx, line).await.map_err(Fault::Gone)?;
        if answer.is_ok { Ok(answer) } else { Err(Fault::Refused(answer)) }
    }

    /// A command with an answer of many lines.
    pub async fn listing(&mut self, cx: &mut Attempt, line: &str) -> Result<Vec<String>, Fault> {
        self.must(cx, line).await?;
        let mut all = Vec::new();
        let mut bytes = 0;
        loop {
            let line = self.lines.line().await.map_err(|broken| Fault::Gone(broken.reason(cx)))?;
            if line.as_ref() == b"." {
                return Ok(all);
            }
            if all.len() == MESSAGES_MAX {
                let text = format!("the list of mails is longer than {MESSAGES_MAX} lines");
                return Err(Fault::Gone(cx.fail(Kind::TooLarge, text)));
            }
            let line = line.strip_prefix(b".").unwrap_or(&line);
            bytes += line.len() + size_of::<String>();
            if bytes > LISTING_BYTES_MAX {
                let text = format!("the list of mails is longer than {LISTING_BYTES_MAX} bytes");
                return Err(Fault::Gone(cx.fail(Kind::TooLarge, text)));
            }
            all.push(String::from_utf8_lossy(line).into_owned());
        }
    }

    /// A command with a mail, or a part of one, as the answer; at most so many bytes.
    pub async fn mail(&mut self, cx: &mut Attempt, line: &str, bytes_max: usize) -> Result<Vec<u8>, Fault> {
        self.must(cx, line).await?;
        let mut body = Body::default();
        loop {
            let chunk = self.lines.some(CHUNK_BYTES).await.map_err(|broken| Fault::Gone(broken.reason(cx)))?;
            if body.feed(&chunk) {
                return Ok(body.text);
            }
            if body.text.len() > bytes_max {
                let text = format!("a mail that the server called shorter has more than {bytes_max} bytes");
                return Err(Fault::Gone(cx.fail(Kind::TooLarge, text)));
            }
        }
    }

    /// Says QUIT without waiting for the answer, which would count as the service's time: a server may keep it back.
    pub async fn leave(&mut self, cx: &mut Attempt) {
        self.say(cx, "QUIT", "QUIT");
        self.lines.shut().await;
    }

    /// QUIT, by which deletions are done, and the end of the stream.
    pub async fn quit(&mut self, cx: &mut Attempt) -> Result<Answer, Reason> {
        let answer = self.command(cx, "QUIT").await?;
        self.lines.shut().await;
        Ok(answer)
    }
}

impl Fault {
    /// As a reason; `what` was asked.
    pub fn reason(self, cx: &Attempt, what: &str) -> Reason {
        match self {
            Self::Gone(reason) => reason,
            Self::Refused(answer) => cx.fail(answer.kind(), format!("{what} refused: {}", answer.shown())),
        }
    }
}

/// As a reason for someone who waits for a message.
pub fn at_delivery(reason: &Reason) -> Reason {
    Reason::new(Phase::Deliver, reason.kind, &reason.text)
}

/// Undoes dot-stuffing and finds the end (RFC 1939, section 3), in whatever pieces the bytes come.
#[derive(Debug, Default)]
struct Body {
    text: Vec<u8>,
    state: At,
}

/// Where in a line the next byte stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Begin,
    /// After a dot at the beginning.
    Dot,
    /// After such a dot and a CR.
    DotCr,
    Within,
}

impl Body {
    /// Takes the next bytes; whether the end was among them.
    fn feed(&mut self, bytes: &[u8]) -> bool {
        for &byte in bytes {
            self.state = match (self.state, byte) {
                (At::Begin, b'.') => {
                    self.state = At::Dot;
                    continue;
                }
                (At::Dot, b'\r') => {
                    self.state = At::DotCr;
                    continue;
                }
                (At::Dot | At::DotCr, b'\n') => return true,
                (At::DotCr, _) => {
                    self.text.push(b'\r');
                    At::Within
                }
                (_, b'\n') => At::Begin,
                _ => At::Within,
            };
            self.text.push(byte);
        }
        false
    }
}

/// A body in these pieces: its text, and whether it ended.
pub(super) fn undotted<'d>(pieces: impl Iterator<Item = &'d [u8]>) -> (Vec<u8>, bool) {
    let mut body = Body::default();
    for piece in pieces {
        if body.feed(piece) {
            return (body.text, true);
        }
    }
    (body.text, false)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn answers_are_read() {
        let table = [
            ("+OK", Some((true, "", None, Kind::Rejected))),
            ("+ok ready <1.2@host>", Some((true, "ready <1.2@host>", None, Kind::Rejected))),
            ("-ERR no", Some((false, "no", None, Kind::Rejected))),
            ("-ERR [IN-USE] locked", Some((false, "[IN-USE] locked", Some("IN-USE"), Kind::Deferred))),
            ("-err [login-delay 5]", Some((false, "[login-delay 5]", Some("LOGIN-DELAY"), Kind::Deferred))),
            ("-ERR [SYS/TEMP] x", Some((false, "[SYS/TEMP] x", Some("SYS/TEMP"), Kind::Deferred))),
            ("-ERR [AUTH] x", Some((false, "[AUTH] x", Some("AUTH"), Kind::Rejected))),
            ("+OKAY", None),
            ("220 hi", None),
            ("", None),
            ("한글", None),
        ];
        for (line, expected) in table {
            let got = Answer::read(line);
            let got = got.as_ref().map(|a| (a.is_ok, a.text.as_str(), a.code(), a.kind()));
            let expected = expected.map(|(ok, text, code, kind)| (ok, text, code.map(str::to_owned), kind));
            assert_eq!(got, expected, "{line}");
        }
    }

    proptest! {
        #[test]
        fn bodies_come_back_in_whatever_pieces(
            lines in proptest::collection::vec("[.\\r a]{0,4}", 0..6), at in 0..60_usize
        ) {
            let whole: String = lines.iter().map(|l| format!("{l}\r\n")).collect();
            let stuffed: String =
                lines.iter().map(|l| if l.starts_with('.') { format!(".{l}\r\n") } else { format!("{l}\r\n") }).collect();
            let wire = format!("{stuffed}.\r\n");
            let (first, second) = wire.as_bytes().split_at(at.min(wire.len() - 1));
            let mut body = Body::default();
            prop_assert!(!body.feed(first) && body.feed(second));
            prop_assert_eq!(String::from_utf8_lossy(&body.text), whole);
        }
    }
}
