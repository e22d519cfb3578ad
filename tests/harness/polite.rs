//! Well-behaved servers, each as a function of what its client has said: what a hostile one has to play up to the
//! moment at which it turns. They log anybody in, take any mail and deliver nothing.

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::digest;

/// What a server does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Says this.
    Say(Vec<u8>),
    /// Says this, and then makes the TLS handshake.
    SayAndSecure(Vec<u8>),
    /// Waits: no whole command has come.
    Wait,
    /// Is done with this client.
    Leave(Vec<u8>),
}

fn say(text: impl Into<Vec<u8>>) -> Next {
    Next::Say(text.into())
}

/// A server in the middle of a dialogue.
pub trait Polite: Send {
    /// What it says first.
    fn greeting(&mut self) -> &'static str {
        ""
    }

    /// Takes the first whole command off what came, and answers it.
    fn answer(&mut self, heard: &mut Vec<u8>) -> Next;

    /// An answer that goes on for ever: how it begins, and what comes again and again.
    fn endless(&self) -> (&'static [u8], &'static [u8]);

    /// The same of large parts: near the longest that clients of ours read.
    fn large(&self) -> (&'static [u8], Vec<u8>) {
        let (first, again) = self.endless();
        // Of lines, the end stays where it is.
        let (text, end) = again.split_at(again.strip_suffix(b"\r\n").map_or(again.len(), <[u8]>::len));
        (first, [text, &b"x".repeat(self.large_bytes()), end].concat())
    }

    /// How much longer a part is then.
    fn large_bytes(&self) -> usize {
        3_500
    }
}

/// How servers let clients in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// By the password as it is.
    Plain,
    /// By CRAM-MD5 alone.
    Cram,
}

/// The server of a protocol; `None` of one whose clients hear nothing but the handshake of TLS, or no stream at all.
pub fn polite(protocol: &str, login: Login) -> Option<Box<dyn Polite>> {
    Some(match protocol {
        "http" => Box::new(Http),
        "tcp" => Box::new(Redis),
        "dns" => Box::new(NameServer),
        "websocket" => Box::new(WebSocket::default()),
        "mqtt" => Box::new(Broker::default()),
        "smtp" | "lmtp" => Box::new(Mail { login, ..Mail::default() }),
        "imap" => Box::new(Mailbox { login, ..Mailbox::default() }),
        "pop3" => Box::new(Maildrop { login, challenged: false }),
        _ => return None,
    })
}

/// Takes a line off, without its end.
fn line(heard: &mut Vec<u8>) -> Option<String> {
    let end = heard.iter().position(|byte| *byte == b'\n')?;
    let line: Vec<u8> = heard.drain(..=end).collect();
    Some(String::from_utf8_lossy(&line).trim_end().to_owned())
}

/// Takes the head of a request off.
fn head(heard: &mut Vec<u8>) -> Option<String> {
    let end = heard.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    Some(String::from_utf8_lossy(&heard.drain(..end).collect::<Vec<u8>>()).into_owned())
}

const CHALLENGE: &str = "PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2U+";

struct Http;

impl Polite for Http {
    fn answer(&mut self, heard: &mut Vec<u8>) -> Next {
        match head(heard) {
            Some(_) => say("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nInbox"),
            None => Next::Wait,
        }
    }
    fn endless(&self) -> (&'static [u8], &'static [u8]) {
        (b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n")
    }
}

struct Redis;

impl Polite for Redis {
    fn answer(&mut self, heard: &mut Vec<u8>) -> Next {
        line(heard).map_or(Next::Wait, |_| say("+PONG\r\n"))
    }
    fn endless(&self) -> (&'static [u8], &'static [u8]) {
        (b"", b"-BUSY\r\n")
    }
}

struct NameServer;

impl NameServer {
    /// The answer to a question: one MX record of the name asked for.
    fn told(question: &[u8]) -> Vec<u8> {
        let end = question.iter().skip(12).position(|byte| *byte == 0).map_or(question.len(), |n| 12 + n + 5);
        let mut answer = question[..end.min(question.len())].to_vec();
        answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        answer.extend([0xc0, 12, 0, 15, 0, 1, 0, 0, 1, 0, 0, 7, 0, 10, 2, b'm', b'x', 0xc0, 12]);
        answer
    }
}

impl Polite for NameServer {
    fn answer(&mut self, heard: &mut Vec<u8>) -> Next {
        let Some(length) = heard.first_chunk().map(|length| usize::from(u16::from_be_bytes(*length))) else {
            return Next::Wait;
        };
        if heard.len() < 2 + length {
            return Next::Wait;
        }
        let question: Vec<u8> = heard.drain(..2 + length).skip(2).collect();
        let answer = Self::told(&question);
        let length = u16::try_from(answer.len()).expect("a short answer").to_be_bytes();
        say([&length[..], &answer].concat())
    }
    fn endless(&self) -> (&'static [u8], &'static [u8]) {
        (b"\xff\xff", b"\0\0\0\0")
    }
}

/// The answer to one question by UDP.
pub fn named(question: &[u8]) -> Vec<u8> {
    NameServer::told(question)
}

#[derive(Default)]
struct WebSocket {
    open: bool,
}

impl Polite for WebSocket {
    fn answer(&mut self, heard: &mut Vec<u8>) -> Next {
        const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
        if !self.open {
            let Some(head) = head(heard) else { return Next::Wait };
            let key = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim().to_owned())
            });
            let key = format!("{}{GUID}", key.expect("a client of WebSocket sends its key"));
            let accept = STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, key.as_bytes()));
            self.open = true;
            return say(format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n"
            ));
        }
        // Frames of clients are masked; the ones here are short, but for messages.
        let [first, second, ..] = heard[..] else { return Next::Wait };
        let (skip, length) = match (second & 0x7f, heard.get(2..4)) {
            (126, Some(&[high, low])) => (4, usize::from(u16::from_be_bytes([high, low]))),
            (126, _) => return Next::Wait,
            (length, _) => (2, usize::from(length)),
        };
        if heard.len() < skip + 4 + length {
            return Next::Wait;
        }
        let frame: Vec<u8> = heard.drain(..skip + 4 + length).collect();
        let (mask, masked) = frame[skip..].split_at(4);
        let payload: Vec<u8> = masked.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b).collect();
        match first & 0x0f {
            9 => say([&[0x8a, u8::try_from(length).expect("a short ping")][..], &payload].concat()),
            8 => Next::Leave(vec![0x88, 0]),
            _ => self.answer(heard),
        }
    }
    fn endless(&self) -> (&'static [u8], &'static [u8]) {
        if self.open { (b"", b"\x81\x01x") } else { (b"HTTP/1.1 101 Switching Protocols\r\n", b"X-A: b\r\n") }
    }
    fn large(&self) -> (&'static [u8], Vec<u8>) {
        if !self.open {
            return (b"HTTP/1.1 101 Switching Protocols\r\n", b"X-A: b\r\n".repeat(400));
        }
        // A text frame with its length in eight bytes.
        (b"", [&[0x81, 127][..], &1_000_000_u64.to_be_bytes(), &b"x".repeat(1_000_000)].concat())
    }
}

#[derive(Default)]
struct Broker {
    version: u8,
}

impl Polite for Broker {
    fn answer(&mut self, heard: &mut Vec<u8>) -> Next {
        let mut length = 0_usize;
        let mut size = None;
        for (n, byte) in heard.iter().skip(1).take(4).enumerate() {
            length |= usize::from(byte & 0x7f) << (7 * n);
            if byte & 0x80 == 0 {
                size = Some((n + 2, n + 2 + length));
                break;
            }
        }
        let Some((skip, whole)) = size.filter(|(_, whole)| heard.len() >= *whole) else { return Next::Wait };
        let packet: Vec<u8> = heard.drain(..whole).collect();
        let body = &packet[skip..];
        let five = self.version == 5;
        match packet[0] >> 4 {
            1 => {
                self.version = body[6];
                say(if self.version == 5 { vec![0x20, 3, 0, 0, 0] } else { vec![0x20, 2, 0, 0] })
            }
            3 if packet[0] & 6 != 0 => {
                let at = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                say(vec![0x40, 2, body[at], body[at + 1]])
            }
            8 => say(if five { vec![0x90, 4, body[0], body[1], 0, 1] } else { vec![0x90, 3, body[0], body[1], 1] }),
            10 => say(if five { vec![0xb0, 4, body[0], body[1], 0, 0] } else { vec![0xb0, 2, body[0], body[1]] }),
            12 => say(vec![0xd0, 0]),
            14 => Next::Leave(Vec::new()),
            _ => self.answer(heard),
        }
    }
    fn endless(&self) -> (&'static [u8], &'static [u8]) {
        (b"", b"\x30\x05\0\x01t\0x")
    }
    fn large(&self) -> (&'static [u8], Vec<u8>) {
        // A remaining length of a million, in three bytes.
        let body = b"x".repeat(1_000_000 - 4);
        let properties: &[u8] = if self.version == 5 { b"\0\x01t\0" } else { b"\0\x01tx" };
        (b"", [&[0x30, 0xc0, 0x84, 0x3d][..], properties, &body].concat())
    }
}

struct Mail {
    login: Login,
    data: bool,
    challenged: bool,
    secure: bool,
}

impl Default for Mail {
    fn default() -> Self {
        Self { login: Login::Plain, data: false, challenged: false, secure: false }
    }
}

impl Polite for Mail {
    fn greeting(&mut self) -> &'static str {
        "220 mx.example.com ready\r\n"
    }
    fn answer(&mut self, heard: &mut Vec<u8>) -> Next {
        let Some(line) = line(heard) else { return Next::Wait };
        if self.data {
            self.data = line != ".";
            return if self.data { self.answer(heard) } else { say("250 2.0.0 queued as 1A2B\r\n") };
        }
        if std::mem::take(&mut self.challenged) {
            return say("235 2.7.0 in\r\n");
        }
        match line.split(' ').next().unwrap_or_default().to_ascii_uppercase().as_str() {
            "EHLO" | "LHLO" => {
                let auth = if self.login == Login::Cram { "CRAM-MD5" } else { "PLAIN LOGIN" };
                let tls = if self.secure { "" } else { "250-STARTTLS\r\n" };
                say(format!("250-mx.example.com\r\n{tls}250-8BITMIME\r\n250-SMTPUTF8\r\n250 AUTH {auth}\r\n"))
            }
            "STARTTLS" => {
                self.secure = true;
                Next::SayAndSecure(b"220 2.0.0 go\r\n".to_vec())
            }
            "AUTH" if self.login == Login::Cram => {
                self.challenged = true;
                say(format!("334 {CHALLENGE}\r\n"))
            }
            "AUTH" => say("235 2.7.0 in\r\n"),
            "DATA" => {
                self.data = true;
                say("354 go on\r\n")
            }
            "QUIT" => Next::Leave(b"221 2.0.0 bye\r\n".to_vec()),
            _ => say("250 2.1.0 ok\r\n"),
        }
    }
    fn endless(&self) -> (&'static [u8], &'static [u8]) {
        (b"", b"250-x\r\n")
    }
}

struct Mailbox {
    login: Login,
    tag: String,
    challenged: bool,
    idle: bool,
}

impl Default for Mailbox {
    fn default() -> Self {
        Self { login: Login::Plain, tag: String::new(), challenged: false, idle: false }
    }
}

impl Polite for Mailbox {
    fn greeting(&mut self) -> &'static str {
        match self.login {
            Login::Plain => "* OK [CAPABILITY IMAP4rev1 IDLE UIDPLUS STARTTLS AUTH=PLAIN SASL-IR] ready\r\n",
            Login::Cram => "* OK [CAPABILITY IMAP4rev1 IDLE UIDPLUS STARTTLS AUTH=CRAM-MD5] ready\r\n",
        }
    }
    fn answer(&mut self, heard: &mut Vec<u8>) -> Next {
        let Some(line) = line(heard) else { return Next::Wait };
        if std::mem::take(&mut self.challenged) || std::mem::take(&mut self.idle) {
            return say(format!("{} OK done\r\n", self.tag));
        }
        let (tag, command) = line.split_once(' ').unwrap_or((&line, ""));
        self.tag = tag.to_owned();
        let words: Vec<String> = command.split(' ').map(str::to_ascii_uppercase).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["STARTTLS"] => Next::SayAndSecure(format!("{tag} OK go\r\n").into_bytes()),
            ["AUTHENTICATE", "CRAM-MD5"] => {
                self.challenged = true;
                say(format!("+ {CHALLENGE}\r\n"))
            }
            ["AUTHENTICATE", _] => {
                self.challenged = true;
                say("+ \r\n")
            }
            ["CAPABILITY"] => say(format!("* CAPABILITY IMAP4rev1 IDLE UIDPLUS AUTH=PLAIN SASL-IR\r\n{tag} OK\r\n")),
            ["SELECT", ..] => say(format!(
                "* 0 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n* OK [UIDNEXT 2] x\r\n{tag} OK [READ-WRITE] done\r\n"
            )),
            ["UID", "SEARCH", ..] => say(format!("* SEARCH\r\n{tag} OK done\r\n")),
            ["IDLE"] => {
                self.idle = true;
                say("+ idling\r\n")
            }
            ["LOGOUT"] => Next::Leave(format!("* BYE bye\r\n{tag} OK\r\n").into_bytes()),
            _ => say(format!("{tag} OK done\r\n")),
        }
    }
    fn endless(&self) -> (&'static [u8], &'static [u8]) {
        (b"", b"* OK still there\r\n")
    }
    fn large_bytes(&self) -> usize {
        500_000
    }
}

struct Maildrop {
    login: Login,
    challenged: bool,
}

impl Polite for Maildrop {
    fn greeting(&mut self) -> &'static str {
        "+OK ready\r\n"
    }
    fn answer(&mut self, heard: &mut Vec<u8>) -> Next {
        let Some(line) = line(heard) else { return Next::Wait };
        if std::mem::take(&mut self.challenged) {
            return say("+OK in\r\n");
        }
        match line.split(' ').next().unwrap_or_default().to_ascii_uppercase().as_str() {
            "CAPA" => {
                let auth = if self.login == Login::Cram { "CRAM-MD5" } else { "PLAIN" };
                say(format!("+OK\r\nSASL {auth}\r\nSTLS\r\nUIDL\r\n.\r\n"))
            }
            "STLS" => Next::SayAndSecure(b"+OK go\r\n".to_vec()),
            "AUTH" if self.login == Login::Cram => {
                self.challenged = true;
                say(format!("+ {CHALLENGE}\r\n"))
            }
            "STAT" => say("+OK 0 0\r\n"),
            "UIDL" | "LIST" => say("+OK\r\n.\r\n"),
            "QUIT" => Next::Leave(b"+OK bye\r\n".to_vec()),
            _ => say("+OK\r\n"),
        }
    }
    fn endless(&self) -> (&'static [u8], &'static [u8]) {
        (b"+OK\r\n", b"x\r\n")
    }
    fn large_bytes(&self) -> usize {
        15_000
    }
}
