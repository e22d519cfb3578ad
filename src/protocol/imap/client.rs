//! One IMAP connection: commands and their answers (RFC 3501 and RFC 9051, sections 2.2 and 7).
//!
//! [`Client::response`] may be dropped at any await and asked again; what had been read of a response stays. A command
//! may not be dropped and gone on with: who drops it drops the connection.

use std::time::Duration;

use bytes::BytesMut;

use super::codec::{self, Data, Response, Status, StatusLine};
use crate::{
    observation::{Kind, Phase, Reason, one_line},
    protocol::{
        Attempt,
        lines::{Broken, Lines},
        mail::parse::MAIL_BYTES_MAX,
        wire::{Stream, TlsClient},
    },
    value::TimeSpan,
};

/// Longest line in bytes: the hits of a search stand in one, and a crowded folder has many of them.
const LINE_BYTES_MAX: usize = 512 * 1024;

/// Longest literal: the part of a mail that is asked for.
const LITERAL_BYTES_MAX: u64 = MAIL_BYTES_MAX as u64;

/// Longest response with all its literals: a mail, and a few strings beside it.
const RESPONSE_BYTES_MAX: usize = LINE_BYTES_MAX + 2 * MAIL_BYTES_MAX;

/// Most responses to one command: a folder list of a large account, and what other clients change meanwhile.
const RESPONSES_MAX: usize = 10_000;

/// Longest string sent as a literal without being asked for by a server with LITERAL- (RFC 7888, section 4).
const LITERAL_MINUS_BYTES: usize = 4_096;

/// How much of what is no IMAP is shown, in characters.
const SHOWN_CHARS_MAX: usize = 80;

/// Who reads along: an attempt with its transcript, or nobody.
pub trait Ear: Send {
    /// What was sent, without secrets.
    fn said(&mut self, line: &str);
    /// The first line of what came.
    fn heard(&mut self, line: &str);
}

impl Ear for Attempt {
    fn said(&mut self, line: &str) {
        self.sent(line);
    }
    fn heard(&mut self, line: &str) {
        self.received(line);
    }
}

/// Nobody reads along.
pub struct Nobody;

impl Ear for Nobody {
    fn said(&mut self, _: &str) {}
    fn heard(&mut self, _: &str) {}
}

/// Why a connection is of no use any more.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The stream ended or failed.
    Broken(Broken),
    /// The server broke the protocol.
    Protocol(String),
    /// More came than is read.
    TooLarge(String),
    /// The server said goodbye.
    Bye(String),
    /// No answer to this within the bound.
    Silent(&'static str, Duration),
    /// The server refused what cannot be done without.
    Refused(String),
}

impl Fault {
    fn kind(&self) -> Kind {
        match self {
            Self::Broken(broken) => broken.kind(),
            Self::Protocol(_) => Kind::Protocol,
            Self::TooLarge(_) => Kind::TooLarge,
            Self::Bye(_) => Kind::Closed,
            Self::Silent(..) => Kind::Timeout,
            Self::Refused(_) => Kind::Rejected,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Broken(broken) => broken.text(),
            Self::Protocol(text) | Self::TooLarge(text) | Self::Refused(text) => text.clone(),
            Self::Bye(text) => format!("the server ended the session: {text}"),
            Self::Silent(what, wait) => format!("no answer to {what} within {}", TimeSpan(*wait)),
        }
    }

    /// As a reason at the current phase.
    pub fn reason(&self, cx: &Attempt) -> Reason {
        match self {
            Self::Broken(broken) => broken.reason(cx),
            _ => cx.fail(self.kind(), self.text()),
        }
    }

    /// As a reason for someone who waits for a message.
    pub fn at_delivery(&self) -> Reason {
        Reason::new(Phase::Deliver, self.kind(), self.text())
    }
}

/// A piece of a command.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// As it is.
    Text(&'a str),
    /// A string, in quotes or as a literal.
    String(&'a [u8]),
}

/// The answer to a command.
#[derive(Debug)]
pub struct Reply {
    /// How it ended.
    pub done: StatusLine,
    /// The untagged status responses before that.
    pub statuses: Vec<StatusLine>,
    /// The other untagged responses.
    pub data: Vec<Data>,
}

impl Reply {
    /// Whether it ended with OK.
    pub fn is_ok(&self) -> bool {
        self.done.status == Status::Ok
    }

    /// The number in a code that came with any of it.
    pub fn number(&self, code: &str) -> Option<u32> {
        self.statuses.iter().chain([&self.done]).find_map(|s| s.number(code))
    }

    /// The data with this name.
    pub fn named<'r>(&'r self, name: &'r str) -> impl Iterator<Item = &'r Data> {
        self.data.iter().filter(move |d| d.name == name)
    }
}

/// A connection.
pub struct Client {
    lines: Lines,
    /// What has come of a response that is not complete.
    partial: BytesMut,
    /// The literal that comes next.
    literal: Option<usize>,
    tags: u32,
    /// What the server says it can, in capitals.
    pub capabilities: Vec<String>,
    /// What the server asks in a login is not for those who read along.
    pub hides_challenges: bool,
    /// Something may have come into the selected folder.
    pub news: bool,
    bye: Option<String>,
    /// A goodbye of the server is the answer to ours.
    leaving: bool,
}

impl Client {
    /// A connection over a fresh stream; nothing has been read yet.
    pub fn new(stream: Stream) -> Self {
        let lines = Lines::new(stream, LINE_BYTES_MAX);
        Self {
            lines,
            partial: BytesMut::new(),
            literal: None,
            tags: 0,
            capabilities: Vec::new(),
            hides_challenges: false,
            news: false,
            bye: None,
            leaving: false,
        }
    }

    /// The TLS handshake after STARTTLS. What the server said it can before it is forgotten (RFC 9051, section 6.2.1).
    pub async fn start_tls(self, cx: &mut Attempt, tls: &TlsClient, host: &str) -> Result<Self, Reason> {
        let lines = self.lines.start_tls(cx, tls, host).await?;
        Ok(Self { lines, capabilities: Vec::new(), ..self })
    }

    /// Whether the server says that it can do this.
    pub fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|c| c == capability)
    }

    // -----------------------------------------------------------------------------------------------------------
    // Responses

    /// The next response. Safe to drop.
    pub async fn response(&mut self, ear: &mut dyn Ear) -> Result<Response, Fault> {
        loop {
            if let Some(bytes) = self.literal {
                let text = self.lines.exact(bytes).await.map_err(|broken| self.broken(broken))?;
                self.partial.extend_from_slice(&text);
                self.literal = None;
            }
            let line = self.lines.line().await.map_err(|broken| self.broken(broken))?;
            let is_first = self.partial.is_empty();
            if is_first {
                let is_hidden = self.hides_challenges && line.starts_with(b"+ ");
                ear.heard(&if is_hidden { "+ (challenge)".into() } else { String::from_utf8_lossy(&line) });
            }
            self.partial.extend_from_slice(&line);
            if !(is_first && codec::is_one_line(&line))
                && let Some(bytes) = codec::literal(&line)
            {
                self.literal = Some(self.bounded(bytes)?);
                self.partial.extend_from_slice(b"\r\n");
                continue;
            }
            let whole = std::mem::take(&mut self.partial);
            let response = codec::response(&whole);
            self.note(&response);
            if response == Response::Odd {
                let shown = one_line(&String::from_utf8_lossy(&whole), SHOWN_CHARS_MAX);
                return Err(Fault::Protocol(format!("the server sent what is no IMAP: \"{shown}\"")));
            }
            return Ok(response);
        }
    }

    fn bounded(&self, bytes: u64) -> Result<usize, Fault> {
        let room = RESPONSE_BYTES_MAX.saturating_sub(self.partial.len()) as u64;
        if bytes > LITERAL_BYTES_MAX.min(room) {
            let text = format!("the server announced a literal of {bytes} bytes; at most {LITERAL_BYTES_MAX} are read");
            return Err(Fault::TooLarge(text));
        }
        // At most LITERAL_BYTES_MAX.
        Ok(bytes as usize)
    }

    /// The end of the stream after a goodbye is the goodbye.
    fn broken(&self, broken: Broken) -> Fault {
        match (&self.bye, broken) {
            (Some(bye), Broken::Closed { .. } | Broken::Io(_)) => Fault::Bye(bye.clone()),
            (_, broken) => Fault::Broken(broken),
        }
    }

    /// What is of interest whenever it comes.
    fn note(&mut self, response: &Response) {
        match response {
            Response::Data(data) if data.name == "EXISTS" || data.name == "RECENT" => self.news = true,
            Response::Data(data) if data.name == "CAPABILITY" => {
                self.capabilities = data.values.iter().filter_map(|v| v.atom()).map(str::to_ascii_uppercase).collect();
            }
            Response::Status(tag, said) => {
                if let Some((_, list)) = said.code.as_ref().filter(|(name, _)| name == "CAPABILITY") {
                    self.capabilities = list.split_ascii_whitespace().map(str::to_ascii_uppercase).collect();
                }
                if tag.is_none() && said.status == Status::Bye {
                    self.bye = Some(said.shown());
                }
            }
            _ => {}
        }
    }

    // -----------------------------------------------------------------------------------------------------------
    // Commands

    /// A command of one line, shown as it is.
    pub async fn simple(&mut self, ear: &mut dyn Ear, command: &str) -> Result<Reply, Fault> {
        self.command(ear, command, &[Part::Text(command)]).await
    }

    /// A command and its answer; `shown` is what whoever reads along sees of it.
    pub async fn command(&mut self, ear: &mut dyn Ear, shown: &str, parts: &[Part<'_>]) -> Result<Reply, Fault> {
        let tag = self.begin(ear, shown);
        for part in parts {
            match part {
                Part::Text(text) => self.lines.push(text.as_bytes()),
                Part::String(text) => {
                    if let Some(quoted) = codec::quoted(text) {
                        self.lines.push(quoted.as_bytes());
                    } else if let Some(refusal) = self.push_literal(ear, &tag, text).await? {
                        return Ok(refusal);
                    }
                }
            }
        }
        self.lines.push(b"\r\n");
        match self.wait(ear, &tag, false).await? {
            Waited::Done(reply) => Ok(reply),
            Waited::Asked(_) => Err(Fault::Protocol("the server asks for more where nothing is due".into())),
        }
    }

    /// Begins a command that is gone on with by [`Client::go_on`]: AUTHENTICATE, IDLE.
    pub async fn open_command(&mut self, ear: &mut dyn Ear, shown: &str, command: &str) -> Result<Open, Fault> {
        let tag = self.begin(ear, shown);
        self.lines.push_line(command);
        let waited = self.wait(ear, &tag, true).await?;
        Ok(Open { tag, waited })
    }

    /// Says what an open command goes on with, and waits for what the server says to it.
    pub async fn go_on(&mut self, ear: &mut dyn Ear, tag: String, line: &str) -> Result<Open, Fault> {
        self.lines.push_line(line);
        let waited = self.wait(ear, &tag, true).await?;
        Ok(Open { tag, waited })
    }

    /// Says LOGOUT without waiting for the answer, which would count as the service's time: a server may keep it back.
    pub async fn leave(&mut self, ear: &mut dyn Ear) {
        self.begin(ear, "LOGOUT");
        self.lines.push_line("LOGOUT");
        self.lines.shut().await;
    }

    /// LOGOUT and the end of the stream; what fails here was no use any more.
    pub async fn log_out(&mut self, ear: &mut dyn Ear) {
        self.leaving = true;
        if self.simple(ear, "LOGOUT").await.is_ok() {
            self.lines.shut().await;
        }
    }

    fn is_old(&self, tag: &str) -> bool {
        tag == "DONE" || tag.strip_prefix('b').and_then(|n| n.parse().ok()).is_some_and(|n: u32| n < self.tags)
    }

    fn begin(&mut self, ear: &mut dyn Ear, shown: &str) -> String {
        self.tags += 1;
        let tag = format!("b{}", self.tags);
        ear.said(&format!("{tag} {shown}"));
        self.lines.push(tag.as_bytes());
        self.lines.push(b" ");
        tag
    }

    /// Some when the server refuses it.
    async fn push_literal(&mut self, ear: &mut dyn Ear, tag: &str, text: &[u8]) -> Result<Option<Reply>, Fault> {
        let unasked = self.can("LITERAL+")
            || ((self.can("LITERAL-") || self.can("IMAP4REV2")) && text.len() <= LITERAL_MINUS_BYTES);
        if unasked {
            self.lines.push_line(&format!("{{{}+}}", text.len()));
        } else {
            self.lines.push_line(&format!("{{{}}}", text.len()));
            if let Waited::Done(reply) = self.wait(ear, tag, true).await? {
                return Ok(Some(reply));
            }
        }
        self.lines.push(text);
        Ok(None)
    }

    async fn wait(&mut self, ear: &mut dyn Ear, tag: &str, continues: bool) -> Result<Waited, Fault> {
        let (mut statuses, mut data) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        for _ in 0..RESPONSES_MAX {
            match self.response(ear).await? {
                Response::Continue(text) if continues => return Ok(Waited::Asked(text)),
                Response::Status(Some(its), done) if its == tag => {
                    return Ok(Waited::Done(Reply { done, statuses, data }));
                }
                // The server ended an IDLE by itself before it heard DONE, which it then knows no command for.
                Response::Status(Some(its), _) if self.is_old(&its) => {}
                Response::Status(Some(its), _) => {
                    return Err(Fault::Protocol(format!("the server answered {its}, which was not asked")));
                }
                Response::Status(None, said) if said.status == Status::Bye && !self.leaving => {
                    return Err(Fault::Bye(said.shown()));
                }
                Response::Status(None, said) => {
                    let code = said.code.as_ref().map_or(0, |(name, rest)| name.len() + rest.len());
                    bytes += said.text.len() + code + size_of::<StatusLine>();
                    statuses.push(said);
                }
                Response::Data(said) => {
                    bytes += said.values.iter().map(size).sum::<usize>();
                    data.push(said);
                }
                Response::Continue(_) | Response::Odd => {}
            }
            if bytes > ANSWER_BYTES_MAX {
                break;
            }
        }
        Err(Fault::TooLarge("the server's answer to one command has no end".into()))
    }
}

/// Most bytes of the answer to one command, as it is kept: ten thousand folders, or a long search.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

fn size(value: &codec::Value) -> usize {
    let own = match value {
        codec::Value::Atom(word) => word.len(),
        codec::Value::Text(text) => text.len(),
        codec::Value::List(items) => items.iter().map(size).sum(),
    };
    own + size_of::<codec::Value>()
}

/// A command that the server may want more of.
#[derive(Debug)]
pub struct Open {
    /// Which.
    pub tag: String,
    /// What the server said.
    pub waited: Waited,
}

/// What a wait ended with.
#[derive(Debug)]
pub enum Waited {
    /// The command is over.
    Done(Reply),
    /// The server waits for more; what it said to that.
    Asked(String),
}
