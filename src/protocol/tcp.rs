//! `tcp`: a connection, and a scripted dialogue over it for whatever bongsu does not speak by itself.
//!
//! Without a dialogue, success proves that the port accepts a connection (and makes the TLS handshake, for `tcps`),
//! and nothing more: a program that hangs behind it is not found. With a dialogue, it proves that the server says what
//! is expected of it, step by step.
//!
//! The dialogue (RFC 9293 for TCP): resolve → connect → tls (`tcps`, or `starttls` in the dialogue) → greeting, which
//! is what is expected before anything was sent → exchange, all other steps. What is sent goes out exactly as it is
//! written, with no line end added; what is expected is looked for in all bytes that came since the last match, so
//! replies without a line end work as well. Nothing is left on the server but what the dialogue does there.
//!
//! Bounds: [`STEPS_MAX`] steps, [`UNMATCHED_BYTES_MAX`] bytes in which an expected text may be found.
//!
//! ```yaml
//! tcp: { url: "tcp://redis.example.com:6379", dialogue: [{ send: "PING\r\n" }, { expect: "+PONG" }] }
//! ```

use regex::bytes::Regex;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    observation::{Kind, Phase, Reason, one_line},
    options::Options,
    protocol::{
        Attempt, Boxed, Probe, Protocol,
        matcher::{Pattern, SHOWN_CHARS_MAX, quoted},
        wire::{Address, Endpoint, Scheme, Stream, TlsClient, TlsOptions},
    },
    value::Secret,
};

/// Most steps of a dialogue; a longer one is a program, and has its place in an `exec` check.
pub const STEPS_MAX: usize = 50;

/// Most bytes in which an expected text may be found: a greeting or a status page, not a download.
pub const UNMATCHED_BYTES_MAX: usize = 64 * 1024;

/// Bytes asked for in one read.
const READ_BYTES: usize = 4 * 1024;

const SCHEMES: &[Scheme] =
    &[Scheme { name: "tcp", port: None, tls: false }, Scheme { name: "tcps", port: None, tls: true }];

/// The registry's entry.
pub static TCP: Protocol = Protocol {
    name: "tcp",
    schemes: &["tcp", "tcps"],
    summary: "connect to a TCP port, and hold a scripted dialogue",
    proves: "Without a dialogue: the port accepts a connection, which a hung program does as well. With a dialogue: the \
             server answers each step as expected.",
    example: "- name: redis\n  tcp: { url: \"tcp://redis.example.com:6379\", dialogue: [{ send: \"PING\\r\\n\" }, { expect: \"+PONG\" }] }\n",
    probe_schema: Some(|generator| generator.subschema_for::<TcpOptions>()),
    send_schema: None,
    receive_schema: None,
    probe: Some(|options| Some(Box::new(TcpProbe::build(options)?))),
    send: None,
    receive: None,
};

/// Options of `tcp`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TcpOptions {
    /// Where to connect: `tcp://host:port`, or `tcps://host:port` for TLS from the first byte.
    pub url: String,
    /// What to say and what to expect, in order.
    #[serde(default)]
    pub dialogue: Vec<Step>,
    /// Whom to trust, for `tcps` and `starttls`.
    #[serde(default)]
    pub tls: TlsOptions,
}

/// One step of a dialogue.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Send this text exactly as it is; YAML's double quotes know `\r`, `\n` and `\x00`.
    Send(Secret),
    /// Wait for this text.
    Expect(String),
    /// Wait for what matches this regular expression.
    ExpectRegex(Pattern),
    /// Begin TLS now.
    Starttls(bool),
}

/// A resolved `tcp` probe.
struct TcpProbe {
    endpoint: Endpoint,
    scheme: &'static str,
    tls: TlsClient,
    script: Vec<Act>,
}

/// A step, ready to be done.
enum Act {
    Send(Secret),
    Expect { wanted: Wanted, shown: String },
    StartTls,
}

enum Wanted {
    Text(Vec<u8>),
    Match(Regex),
}

impl Wanted {
    /// The end of the first place where it is found; it is not within the first `searched` bytes. A text is not looked for
    /// there again: what comes byte by byte would be read anew for each.
    fn end_in(&self, bytes: &[u8], searched: usize) -> Option<usize> {
        match self {
            Self::Text(text) => {
                let from = (searched + 1).saturating_sub(text.len());
                let at = bytes[from..].windows(text.len()).position(|window| window == text)?;
                Some(from + at + text.len())
            }
            Self::Match(pattern) => pattern.find(bytes).map(|found| found.end()),
        }
    }
}

impl TcpProbe {
    fn build(options: &mut Options<'_>) -> Option<Self> {
        let raw: TcpOptions = options.read()?;
        let address = Address::read(options, "url", &raw.url, SCHEMES);
        let tls = raw.tls.client(&mut options.child("tls"), &[]);
        let script = script(options, raw.dialogue, address.as_ref().is_some_and(|a| a.scheme.tls));
        let (address, tls) = (address?, tls?);
        let endpoint = address.endpoint(Some(tls.clone()));
        Some(Self { endpoint, scheme: address.scheme.name, tls, script: script? })
    }

    async fn attempt(&self, cx: &mut Attempt) -> Result<(), Reason> {
        let mut stream = cx.dial(&self.endpoint).await?;
        let mut unmatched = Vec::new();
        let mut said = false;
        for act in &self.script {
            match act {
                Act::Send(text) => {
                    said = true;
                    enter(cx, Phase::Exchange);
                    cx.sent(escaped(text.expose().as_bytes()));
                    // Nobody may be reading at the other end; the caller's deadline ends that.
                    stream.write_all(text.expose().as_bytes()).await.map_err(|e| cx.io(&e))?;
                    stream.flush().await.map_err(|e| cx.io(&e))?;
                }
                Act::Expect { wanted, shown } => {
                    enter(cx, if said { Phase::Exchange } else { Phase::Greeting });
                    expect(cx, &mut stream, &mut unmatched, wanted, shown).await?;
                }
                Act::StartTls => {
                    // What came before the handshake could be an attacker's words, taken for the server's after it.
                    if !unmatched.is_empty() {
                        let text =
                            format!("the server went on in plain text before TLS: {}", quoted(&escaped(&unmatched)));
                        return Err(cx.fail(Kind::Protocol, text));
                    }
                    stream = cx.tls(stream, &self.tls, &self.endpoint.host).await?;
                    said = true;
                }
            }
        }
        cx.end_phase();
        Ok(())
    }
}

impl Probe for TcpProbe {
    fn target(&self) -> String {
        format!("{}://{}", self.scheme, self.endpoint)
    }

    fn probe<'a>(&'a self, cx: &'a mut Attempt) -> Boxed<'a, Result<(), Reason>> {
        Box::pin(self.attempt(cx))
    }
}

/// Begins a phase unless it is the one that runs.
fn enter(cx: &mut Attempt, phase: Phase) {
    if cx.running() != Some(phase) {
        cx.phase(phase);
    }
}

/// Reads until the text is there; what follows it stays for the next step.
async fn expect(
    cx: &mut Attempt,
    stream: &mut Stream,
    unmatched: &mut Vec<u8>,
    wanted: &Wanted,
    shown: &str,
) -> Result<(), Reason> {
    let mut heard = Vec::new();
    let found = read_until(cx, stream, unmatched, &mut heard, wanted, shown).await;
    hear(cx, &mut heard);
    found
}

async fn read_until(
    cx: &mut Attempt,
    stream: &mut Stream,
    unmatched: &mut Vec<u8>,
    heard: &mut Vec<u8>,
    wanted: &Wanted,
    shown: &str,
) -> Result<(), Reason> {
    let mut searched = 0;
    loop {
        if let Some(end) = wanted.end_in(unmatched, searched) {
            unmatched.drain(..end);
            return Ok(());
        }
        searched = unmatched.len();
        let missed = missing(cx, shown, unmatched);
        cx.awaits(missed);
        if unmatched.len() >= UNMATCHED_BYTES_MAX {
            let text = format!("{UNMATCHED_BYTES_MAX} bytes came without {shown}");
            return Err(cx.fail(Kind::TooLarge, text));
        }
        let mut chunk = [0; READ_BYTES];
        let room = READ_BYTES.min(UNMATCHED_BYTES_MAX - unmatched.len());
        let read = stream.read(&mut chunk[..room]).await.map_err(|e| cx.io(&e))?;
        if read == 0 {
            let text = format!("the server closed the connection; {}", missing(cx, shown, unmatched));
            // A goodbye with other words is an answer, only not the one expected.
            let kind = if unmatched.is_empty() { Kind::Closed } else { Kind::Unexpected };
            return Err(cx.fail(kind, text));
        }
        if cx.explains() {
            // By lines, however they come: a secret that is repeated byte by byte is found only in one piece.
            heard.extend_from_slice(&chunk[..read]);
            if heard.ends_with(b"\n") {
                hear(cx, heard);
            }
        }
        unmatched.extend_from_slice(&chunk[..read]);
    }
}

/// Into the transcript: what was heard since the last time.
fn hear(cx: &mut Attempt, heard: &mut Vec<u8>) {
    if !heard.is_empty() {
        cx.received(escaped(heard));
        heard.clear();
    }
}

/// What was expected, beside what came; of a secret that has come in part nothing is shown.
fn missing(cx: &Attempt, shown: &str, unmatched: &[u8]) -> String {
    if unmatched.is_empty() {
        return format!("expected {shown}, got nothing");
    }
    let beginning = &unmatched[..unmatched.len().min(4 * SHOWN_CHARS_MAX)];
    let told = one_line(&escaped(beginning), SHOWN_CHARS_MAX);
    // More may be on its way: as good as cut.
    let cut = format!("{}…", told.trim_end_matches('…'));
    let masked = cx.net().masker.mask(&cut);
    let masked = if told.ends_with('…') { &masked } else { masked.trim_end_matches('…') };
    format!("expected {shown}, got \"{masked}\"")
}

/// Bytes for people: text as it is, control characters and what is no UTF-8 as escapes.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\r' | '\n' | '\t' | '\\' => text.extend(c.escape_default()),
                c if c.is_control() => text.push_str(&format!("\\x{:02x}", u32::from(c))),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

fn script(options: &mut Options<'_>, dialogue: Vec<Step>, tls: bool) -> Option<Vec<Act>> {
    if dialogue.len() > STEPS_MAX {
        let hint = "a long dialogue is better written as a program for an exec check";
        options.problem("dialogue", format!("more than {STEPS_MAX} steps"), Some(hint));
        return None;
    }
    let mut encrypted = tls;
    let mut problem = None;
    let mut script = Vec::new();
    for step in dialogue {
        match step {
            Step::Send(text) => script.push(Act::Send(text)),
            Step::Expect(text) if text.is_empty() => {
                problem = Some(("an expected text is empty", "write what must come"))
            }
            Step::Expect(text) => {
                let shown = quoted(&escaped(text.as_bytes()));
                script.push(Act::Expect { wanted: Wanted::Text(text.into_bytes()), shown });
            }
            Step::ExpectRegex(Pattern(pattern)) => {
                let shown = format!("a match of {}", quoted(pattern.as_str()));
                match Regex::new(pattern.as_str()) {
                    Ok(pattern) => script.push(Act::Expect { wanted: Wanted::Match(pattern), shown }),
                    Err(_) => problem = Some(("a pattern fits text only, not bytes", "write a simpler pattern")),
                }
            }
            Step::Starttls(false) => {}
            Step::Starttls(true) if encrypted => {
                problem = Some(("TLS has already begun", "leave `starttls` out, or write the URL with tcp://"));
            }
            Step::Starttls(true) => {
                encrypted = true;
                script.push(Act::StartTls);
            }
        }
    }
    match problem {
        Some((text, hint)) => {
            options.problem("dialogue", text, Some(hint));
            None
        }
        None => Some(script),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpStream,
    };

    use super::*;
    use crate::{
        observation::Outcome,
        protocol::testing::{SECRET, Seen, problems, run, serve, silent},
    };

    fn reply(stream: &mut TcpStream, text: &str) {
        let _ = stream.write_all(text.as_bytes());
    }

    fn hear(stream: &mut TcpStream, bytes: usize) -> String {
        let mut buffer = vec![0; bytes];
        stream.read_exact(&mut buffer).expect("the probe sends what it should");
        String::from_utf8(buffer).expect("text")
    }

    fn smtp_like(address: std::net::SocketAddr) -> Seen {
        let yaml = format!(
            r#"{{ url: "tcp://{address}", dialogue: [{{ expect_regex: "^220 .*\\r\\n" }}, {{ send: "NOOP\r\n" }}, {{ expect: "250" }}] }}"#
        );
        run(&TCP, &yaml, 400)
    }

    #[test]
    fn a_dialogue_goes_step_by_step_and_sends_nothing_more() {
        let address = serve(|mut stream| {
            reply(&mut stream, "220 mx ready\r\n");
            assert_eq!(hear(&mut stream, 6), "NOOP\r\n");
            // Without a line end, and in two pieces.
            reply(&mut stream, "2");
            std::thread::sleep(std::time::Duration::from_millis(30));
            reply(&mut stream, "50");
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).expect("the probe closes");
            assert!(rest.is_empty());
        });
        let seen = smtp_like(address);
        assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
        assert_eq!(seen.phases(), [Phase::Resolve, Phase::Connect, Phase::Greeting, Phase::Exchange]);
    }

    #[test]
    fn refusals_violations_and_hang_ups_are_told() {
        type Peer = fn(TcpStream);
        let table: [(Peer, Phase, Kind, &str); 6] = [
            (
                |mut s| reply(&mut s, "421 too busy\r\n"),
                Phase::Greeting,
                Kind::Unexpected,
                "the server closed the connection; expected a match of \"^220 .*\\r\\n\", got \"421 too busy\\r\\n\"",
            ),
            (
                |mut s| {
                    reply(&mut s, "220 hi\r\n");
                    hear(&mut s, 6);
                    reply(&mut s, "500 what?\r\n");
                },
                Phase::Exchange,
                Kind::Unexpected,
                "the server closed the connection; expected \"250\", got \"500 what?\\r\\n\"",
            ),
            (drop, Phase::Greeting, Kind::Closed, "the server closed the connection; expected"),
            (
                |mut s| while s.write_all(&[b'x'; 8192]).is_ok() {},
                Phase::Greeting,
                Kind::TooLarge,
                "65536 bytes came without a match of",
            ),
            (
                |s| std::thread::sleep(std::time::Duration::from_millis(s.ttl().map_or(800, |_| 800))),
                Phase::Greeting,
                Kind::Timeout,
                "connected, but no greeting from 127.0.0.1:",
            ),
            (
                |mut s| {
                    for _ in 0..30 {
                        reply(&mut s, "2");
                        std::thread::sleep(std::time::Duration::from_millis(20));
                    }
                },
                Phase::Greeting,
                Kind::Timeout,
                "got \"222",
            ),
        ];
        for (peer, phase, kind, text) in table {
            let seen = smtp_like(serve(peer));
            let reason = seen.reason();
            assert_eq!((reason.phase, reason.kind), (phase, kind), "{reason}");
            assert!(reason.text.contains(text), "{reason}");
        }
    }

    #[test]
    fn a_secret_repeated_byte_by_byte_or_cut_is_not_shown() {
        for (before, pause) in [("", true), (&*"x".repeat(SHOWN_CHARS_MAX - 8), false)] {
            let before = before.to_owned();
            let address = serve(move |mut s| {
                reply(&mut s, "hello\r\n");
                let mut asked = [0; 100];
                let read = s.read(&mut asked).unwrap_or(0);
                reply(&mut s, &before);
                for byte in asked[..read].chunks(if pause { 1 } else { 100 }) {
                    let _ = s.write_all(byte);
                    std::thread::sleep(std::time::Duration::from_millis(if pause { 3 } else { 0 }));
                }
            });
            let dialogue = format!("[{{ expect: hello }}, {{ send: \"AUTH {SECRET}\\n\" }}, {{ expect: OK }}]");
            let seen = run(&TCP, &format!("{{ url: 'tcp://{address}', dialogue: {dialogue} }}"), 1_000);
            assert_eq!(seen.reason().kind, Kind::Unexpected, "{seen:?}");
            let told = format!("{:?} {:?}", seen.reason(), seen.transcript);
            assert!(told.contains("AUTH ***") && !told.contains("hunt"), "{told}");
            assert!(!seen.transcript.iter().any(|line| line.text == "h"), "{told}");
        }
    }

    #[test]
    fn a_port_without_a_listener_is_refused() {
        let address = serve(drop);
        let _ = TcpStream::connect(address).map(|mut s| s.read(&mut [0]));
        std::thread::sleep(std::time::Duration::from_millis(50));
        let seen = run(&TCP, &format!("url: tcp://{address}"), 1_000);
        assert_eq!(seen.reason().kind, Kind::Refused, "{seen:?}");
        assert_eq!(seen.reason().text, format!("{address}: connection refused"));
    }

    #[test]
    fn a_silent_port_is_open_to_a_port_check_only() {
        let address = silent();
        assert_eq!(run(&TCP, &format!("url: tcp://{address}"), 1_000).outcome(), Outcome::Ok);
        assert_eq!(smtp_like(address).reason().kind, Kind::Timeout);
    }

    #[test]
    fn garbage_for_tls_is_a_handshake_failure() {
        let garbage = serve(|mut stream| reply(&mut stream, "SSH-2.0-OpenSSH_9.2\r\n"));
        let seen = run(&TCP, &format!("url: tcps://{garbage}"), 1_000);
        assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Tls, Kind::Handshake), "{seen:?}");
        let plain = serve(|mut stream| {
            reply(&mut stream, "ready\r\n250 injected\r\n");
            std::thread::sleep(std::time::Duration::from_millis(500));
        });
        let yaml =
            format!(r#"{{ url: "tcp://{plain}", dialogue: [{{ expect: "ready\r\n" }}, {{ starttls: true }}] }}"#);
        let seen = run(&TCP, &yaml, 1_000);
        assert!(seen.reason().text.contains("in plain text before TLS"), "{seen:?}");
    }

    #[test]
    fn mistakes_in_the_options_are_told() {
        let table = [
            ("url: tcp://h", "url: the URL names no port"),
            ("url: tcpp://h:1", "url: the scheme `tcpp` does not fit here"),
            ("{ url: 'tcp://h:1', dialogue: [{ sned: a }] }", "dialogue.0: unknown value `sned`; did you mean `send`?"),
            ("{ url: 'tcp://h:1', dialogue: [{ expect: '' }] }", "dialogue: an expected text is empty"),
            ("{ url: 'tcps://h:1', dialogue: [{ starttls: true }] }", "dialogue: TLS has already begun"),
            ("{ url: 'tcp://h:1', tls: { ca: /none.pem } }", "tls.ca: /none.pem cannot be read"),
        ];
        for (yaml, expected) in table {
            let got = problems(&TCP, yaml);
            assert!(got.iter().any(|p| p.contains(expected)), "{yaml}: {got:?}");
        }
    }

    #[test]
    fn a_text_is_found_in_whatever_pieces_it_comes() {
        let wanted = Wanted::Text(b"+PONG".to_vec());
        let bytes = b"++PO+PONG+PONG";
        for first in 0..bytes.len() {
            let early = wanted.end_in(&bytes[..first], 0);
            assert_eq!(early, (first >= 9).then_some(9), "{first}");
            if early.is_none() {
                assert_eq!(wanted.end_in(bytes, first), Some(9), "{first}");
            }
        }
    }

    #[test]
    fn bytes_are_shown_as_escapes() {
        assert_eq!(escaped(b"a\r\n\x00\xff\\ \xea\xb0\x80"), r"a\r\n\x00\xff\\ 가");
    }
}
