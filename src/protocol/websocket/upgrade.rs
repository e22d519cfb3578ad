//! The opening handshake (RFC 6455, section 4): the request, the answer read within bounds, and its judgement.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::digest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    clock,
    observation::{Kind, Reason, one_line},
    protocol::{Attempt, matcher::SHOWN_CHARS_MAX, wire::Stream},
    value::Secret,
};

/// Longest head of an answer; web servers themselves allow about as much for a request.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Bytes asked for in one read.
const READ_BYTES: usize = 4 * 1024;

/// Most bytes of a refusal's words that are read: a line of them is told.
const WORDS_BYTES_MAX: usize = 1024;

/// Longest wait for a refusal's words once its status is known.
const WORDS_MAX: Duration = Duration::from_millis(500);

/// What the server appends to the key before hashing (section 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What is asked for.
#[derive(Debug)]
pub struct Request {
    /// `host`, `host:port`: the header unless the options give another.
    pub host: String,
    /// Path and query.
    pub resource: String,
    /// The path alone, for people: a query may hold a token.
    pub path: String,
    /// Subprotocols offered, the best first.
    pub subprotocols: Vec<String>,
    /// Further headers.
    pub headers: Vec<(String, Secret)>,
}

/// The answer's head, parsed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Head {
    status: u16,
    /// `401 Unauthorized`.
    line: String,
    /// Names in lower case; of a header given twice, both.
    headers: Vec<(String, String)>,
}

impl Head {
    fn values(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect()
    }

    fn has_token(&self, name: &str, token: &str) -> bool {
        self.values(name).iter().flat_map(|v| v.split(',')).any(|v| v.trim().eq_ignore_ascii_case(token))
    }
}

/// An opened connection.
pub struct Upgraded {
    /// The subprotocol that was agreed on.
    pub subprotocol: Option<String>,
    /// What the server sent behind its head already.
    pub rest: Vec<u8>,
}

/// Asks for the upgrade over a fresh stream.
pub async fn upgrade(cx: &mut Attempt, stream: &mut Stream, request: &Request) -> Result<Upgraded, Reason> {
    let key = STANDARD.encode(clock::random_bytes::<16>());
    cx.sent(format!("GET {}, upgrade to websocket{}", request.path, offered(&request.subprotocols)));
    stream.write_all(written(request, &key).as_bytes()).await.map_err(|e| cx.io(&e))?;
    stream.flush().await.map_err(|e| cx.io(&e))?;
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = head_end(&bytes) {
            break end;
        }
        if !b"HTTP/1.".starts_with(&bytes[..bytes.len().min(7)]) {
            let text = format!("what answers is no HTTP server: \"{}\"", shown(&bytes));
            return Err(cx.fail(Kind::Protocol, text));
        }
        if bytes.len() >= HEAD_BYTES_MAX {
            let text = format!("the head of the answer to the upgrade is longer than {HEAD_BYTES_MAX} bytes");
            return Err(cx.fail(Kind::TooLarge, text));
        }
        let mut chunk = [0; READ_BYTES];
        let read = stream.read(&mut chunk).await.map_err(|e| cx.io(&e))?;
        if read == 0 {
            return Err(cx.fail(Kind::Closed, "the server closed the connection before it answered the upgrade"));
        }
        bytes.extend_from_slice(&chunk[..read]);
    };
    let mut rest = bytes.split_off(end);
    let Some(head) = parsed(&bytes) else {
        return Err(cx.fail(Kind::Protocol, format!("the answer is no HTTP: \"{}\"", shown(&bytes))));
    };
    cx.received(&head.line);
    if head.status != 101 {
        let words = read_words(stream, &head, &mut rest);
        // What is missing of them by then is not worth waiting for: the status has said it.
        let _ = tokio::time::timeout(WORDS_MAX, words).await;
    }
    match judged(&head, &rest, &key, &request.subprotocols) {
        Ok(subprotocol) => Ok(Upgraded { subprotocol, rest }),
        Err((kind, text)) => Err(cx.fail(kind, text)),
    }
}

/// Reads the words of a refusal, which often come in a packet after its head.
async fn read_words(stream: &mut Stream, head: &Head, rest: &mut Vec<u8>) {
    let length = head.values("content-length").first().and_then(|v| v.parse().ok()).unwrap_or(0);
    let wanted = WORDS_BYTES_MAX.min(length);
    while rest.len() < wanted {
        let mut chunk = [0; WORDS_BYTES_MAX];
        match stream.read(&mut chunk).await {
            Ok(read @ 1..) => rest.extend_from_slice(&chunk[..read]),
            _ => return,
        }
    }
}

fn offered(subprotocols: &[String]) -> String {
    if subprotocols.is_empty() { String::new() } else { format!(", subprotocol {}", subprotocols.join(" or ")) }
}

/// The request (section 4.1).
fn written(request: &Request, key: &str) -> String {
    let mut text = format!("GET {} HTTP/1.1\r\n", request.resource);
    let mut header = |name: &str, value: &str| text.push_str(&format!("{name}: {value}\r\n"));
    let given = |name: &str| request.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    if !given("host") {
        header("Host", &request.host);
    }
    header("Upgrade", "websocket");
    header("Connection", "Upgrade");
    header("Sec-WebSocket-Key", key);
    header("Sec-WebSocket-Version", "13");
    if !request.subprotocols.is_empty() {
        header("Sec-WebSocket-Protocol", &request.subprotocols.join(", "));
    }
    if !given("user-agent") {
        header("User-Agent", concat!("bongsu/", env!("CARGO_PKG_VERSION")));
    }
    for (name, value) in &request.headers {
        header(name, value.expose());
    }
    text.push_str("\r\n");
    text
}

/// Where the head ends, its empty line included.
fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)
}

fn shown(bytes: &[u8]) -> String {
    one_line(&String::from_utf8_lossy(&bytes[..bytes.len().min(4 * SHOWN_CHARS_MAX)]), SHOWN_CHARS_MAX)
}

/// A head (RFC 9112, sections 4 and 5), or `None` when it has no such form.
fn parsed(bytes: &[u8]) -> Option<Head> {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split("\r\n").take_while(|line| !line.is_empty());
    let line = lines.next()?.strip_prefix("HTTP/1.1 ")?.trim().to_owned();
    let status = line.split(' ').next()?.parse().ok().filter(|status| (100..600).contains(status))?;
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':')?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Some(Head { status, line, headers })
}

/// What fuzzing feeds to this module.
pub fn fuzz(data: &[u8]) {
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    let end = head_end(data).unwrap_or(data.len());
    let Some(head) = parsed(&data[..end]) else { return };
    for asked in [&[][..], &["chat".to_owned()]] {
        match judged(&head, &data[end..], KEY, asked) {
            Ok(agreed) => assert!(head.status == 101 && agreed.is_none_or(|a| asked.contains(&a))),
            Err((_, text)) => assert!(!text.is_empty()),
        }
    }
}

/// The answer to a key (section 4.2.2, 5.4).
pub fn accept(key: &str) -> String {
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes());
    STANDARD.encode(hash)
}

/// Whether the server opened the connection as it was asked to (section 4.1); the subprotocol, or why not.
fn judged(head: &Head, rest: &[u8], key: &str, asked: &[String]) -> Result<Option<String>, (Kind, String)> {
    if head.status != 101 {
        return Err(refused(head, rest));
    }
    let breach = |text: &str| Err((Kind::Protocol, format!("the server's upgrade is wrong: {text}")));
    if !head.has_token("upgrade", "websocket") {
        return breach("it does not say `Upgrade: websocket`");
    }
    if !head.has_token("connection", "upgrade") {
        return breach("it does not say `Connection: Upgrade`");
    }
    match head.values("sec-websocket-accept").as_slice() {
        [value] if *value == accept(key) => {}
        [] => return breach("there is no Sec-WebSocket-Accept"),
        _ => return breach("its Sec-WebSocket-Accept does not answer our key"),
    }
    if !head.values("sec-websocket-extensions").is_empty() {
        return breach("it names an extension, and none was offered");
    }
    match head.values("sec-websocket-protocol").as_slice() {
        [] if asked.is_empty() => Ok(None),
        [] => {
            let text = format!("the server agreed on no subprotocol; offered: {}", asked.join(", "));
            Err((Kind::Unexpected, text))
        }
        [agreed] if asked.iter().any(|a| a == agreed) => Ok(Some((*agreed).to_owned())),
        [other, ..] => {
            let text = format!("the server chose the subprotocol `{}`, which was not offered", one_line(other, 40));
            Err((Kind::Protocol, text))
        }
    }
}

/// What an answer without an upgrade means.
fn refused(head: &Head, rest: &[u8]) -> (Kind, String) {
    let line = one_line(&head.line, SHOWN_CHARS_MAX);
    let media = head.values("content-type").first().map_or(String::new(), |v| one_line(v, 60));
    match head.status {
        300..400 => {
            let to = head.values("location").first().map_or(String::new(), |v| format!(" to {}", one_line(v, 100)));
            (Kind::Unexpected, format!("upgrade redirected: {line}{to}"))
        }
        400..600 => {
            let kind = match head.status {
                408 | 425 | 429 | 503 => Kind::Deferred,
                _ => Kind::Rejected,
            };
            // A page for browsers says less than its status.
            let said = shown(rest);
            let is_told = !said.is_empty() && (media.starts_with("text/plain") || media.contains("json"));
            let said = if is_told { format!(": {said}") } else { String::new() };
            (kind, format!("upgrade refused: {line}{said}"))
        }
        _ => {
            let with = if media.is_empty() { String::new() } else { format!(" with {media}") };
            (Kind::Unexpected, format!("no upgrade: the server answered {line}{with}, expected 101"))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_key_of_the_standard_is_answered() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn answers_are_judged() {
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let good = "Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        let head = |line: &str, headers: &str| format!("HTTP/1.1 {line}\r\n{headers}\r\n\r\n");
        let up = |more: &str| head("101 Switching Protocols", &format!("{good}{more}"));
        let chat: &[&str] = &["chat", "superchat"];
        let protocol = |text| Err((Kind::Protocol, text));
        type Judged = Result<Option<&'static str>, (Kind, &'static str)>;
        let table: Vec<(String, &str, &[&str], Judged)> = vec![
            (up(""), "", &[], Ok(None)),
            (up("\r\nSec-WebSocket-Protocol: superchat"), "", chat, Ok(Some("superchat"))),
            (
                up(""),
                "",
                chat,
                Err((Kind::Unexpected, "the server agreed on no subprotocol; offered: chat, superchat")),
            ),
            (
                up("\r\nSec-WebSocket-Protocol: x"),
                "",
                chat,
                protocol("the server chose the subprotocol `x`, which was not offered"),
            ),
            (
                up("\r\nSec-WebSocket-Protocol: x"),
                "",
                &[],
                protocol("the server chose the subprotocol `x`, which was not offered"),
            ),
            (
                up("\r\nSec-WebSocket-Extensions: permessage-deflate"),
                "",
                &[],
                protocol("the server's upgrade is wrong: it names an extension, and none was offered"),
            ),
            (
                up("").replace("s3p", "S3p"),
                "",
                &[],
                protocol("the server's upgrade is wrong: its Sec-WebSocket-Accept does not answer our key"),
            ),
            (
                up("").replace("Sec-WebSocket-Accept", "X"),
                "",
                &[],
                protocol("the server's upgrade is wrong: there is no Sec-WebSocket-Accept"),
            ),
            (
                up("").replace("Upgrade: WebSocket", "Upgrade: h2c"),
                "",
                &[],
                protocol("the server's upgrade is wrong: it does not say `Upgrade: websocket`"),
            ),
            (
                up("").replace("keep-alive, Upgrade", "close"),
                "",
                &[],
                protocol("the server's upgrade is wrong: it does not say `Connection: Upgrade`"),
            ),
            (
                head("401 Unauthorized", "Content-Type: text/plain"),
                "Missing token\n",
                &[],
                Err((Kind::Rejected, "upgrade refused: 401 Unauthorized: Missing token")),
            ),
            (head("403 Forbidden", ""), "", &[], Err((Kind::Rejected, "upgrade refused: 403 Forbidden"))),
            (
                head("404 Not Found", "Content-Type: text/html"),
                "<html>",
                &[],
                Err((Kind::Rejected, "upgrade refused: 404 Not Found")),
            ),
            (head("502 Bad Gateway", ""), "", &[], Err((Kind::Rejected, "upgrade refused: 502 Bad Gateway"))),
            (
                head("503 Service Unavailable", ""),
                "",
                &[],
                Err((Kind::Deferred, "upgrade refused: 503 Service Unavailable")),
            ),
            (
                head("301 Moved", "Location: https://b/"),
                "",
                &[],
                Err((Kind::Unexpected, "upgrade redirected: 301 Moved to https://b/")),
            ),
            (
                head("200 OK", "Content-Type: text/html"),
                "<html>",
                &[],
                Err((Kind::Unexpected, "no upgrade: the server answered 200 OK with text/html, expected 101")),
            ),
        ];
        for (text, rest, asked, expected) in table {
            let asked: Vec<String> = asked.iter().map(ToString::to_string).collect();
            let head = parsed(text.as_bytes()).expect("a head");
            let expected = expected.map(|a| a.map(String::from)).map_err(|(kind, text)| (kind, text.to_owned()));
            assert_eq!(judged(&head, rest.as_bytes(), key, &asked), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_head_is_none() {
        for text in [
            "",
            "HTTP/1.0 101 x\r\n\r\n",
            "HTTP/1.1 abc\r\n\r\n",
            "HTTP/1.1 99 x\r\n\r\n",
            "HTTP/1.1 101 x\r\nno colon\r\n\r\n",
        ] {
            assert_eq!(parsed(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parsed(b"HTTP/1.1 101\r\n\r\n").map(|h| h.status), Some(101));
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(status in "HTTP/1.1 ([0-9]{3}|.{0,9}) .{0,9}", lines in "([a-z-]{0,9}:? ?.{0,20}\r\n){0,9}") {
            if let Some(head) = parsed(format!("{status}\r\n{lines}\r\n").as_bytes()) {
                prop_assert!(judged(&head, b"\xff", "key", &[]).is_err());
            }
        }
    }
}
