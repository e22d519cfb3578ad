//! One mail over one SMTP session (RFC 5321), by lettre on bongsu's own dialer.
//!
//! The dialogue, each stage with what a negative reply means for the message:
//!
//! 1. resolve, connect, TLS, greeting, EHLO, STARTTLS (RFC 3207), AUTH (RFC 4954): whatever goes wrong here is not
//!    about this message, so it is retried, also at a 5yz reply: a blocklist entry, a maintenance greeting (554) or a
//!    login that fails (535) is repaired on the other side, and meanwhile the fallback channel speaks.
//!    TLS that was asked for is never given up: a server that does not offer STARTTLS gets no mail.
//! 2. MAIL, DATA and the mail itself: 4yz is retried, 5yz refused.
//! 3. RCPT for each recipient by itself: one bad address must not keep the mail from the others. Those deferred are
//!    tried again alone, those refused are logged; only when all are refused, the message is.
//!
//! A session is made for each mail and closed after it: alerts are rare, and a kept session would be found dead just
//! when it is needed.

use std::{
    error::Error as _,
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use lettre::{
    Address, Message as Mail,
    transport::smtp::{
        Error,
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, AsyncTokioStream},
        commands::{Data, Mail as MailFrom, Rcpt},
        extension::{ClientId, Extension, MailParameter},
    },
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::{
    observation::{Kind, Phase, Reason},
    protocol::{
        Attempt,
        wire::{Stream, TlsClient, host_and_port},
    },
    value::Secret,
};

/// Most bytes read from a server in one session: replies are short, and lettre bounds them by line only.
const READ_MAX: usize = 64 * 1_024;

/// Most lines read from a server in one session: EHLO has about twenty, every recipient one. lettre parses a reply
/// anew with each of its lines, so that thousands of them would keep a processor busy.
const LINES_MAX: usize = 500;

/// Longest wait for the answer to QUIT: the mail is delivered, and nothing depends on it.
const QUIT_MAX: Duration = Duration::from_secs(1);

/// When TLS begins.
#[derive(Clone, Debug)]
pub enum Security {
    /// Never.
    Plain,
    /// By STARTTLS, or there is no mail.
    StartTls(TlsClient),
    /// With the connection.
    Tls(TlsClient),
}

/// A mail server and how to speak to it.
#[derive(Clone, Debug)]
pub struct Server {
    /// A name or an IP literal.
    pub host: String,
    /// The port.
    pub port: u16,
    /// When TLS begins.
    pub security: Security,
    /// User name and password.
    pub login: Option<(String, Secret)>,
    /// What bongsu calls itself.
    pub helo: ClientId,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&host_and_port(&self.host, self.port))
    }
}

/// What became of a mail for its recipients.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// The server has taken responsibility for these.
    pub accepted: Vec<Address>,
    /// Not now.
    pub deferred: Vec<(Address, String)>,
    /// Never.
    pub refused: Vec<(Address, String)>,
}

/// Why nobody got the mail.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may work later.
    Later(String),
    /// This mail never will.
    Never(String),
}

/// Sends the mail to these recipients (a part of its own, when the others have it already).
///
/// # Errors
/// When it was sent to nobody for a reason that is not about single recipients.
pub async fn send(cx: &mut Attempt, server: &Server, mail: &Mail, to: &[Address]) -> Result<Sent, Failure> {
    let mut session = open(cx, server).await.map_err(|reason| Failure::Later(format!("{server}: {reason}")))?;
    cx.phase(Phase::Send);
    let result = transaction(&mut session, mail, to).await;
    let text = |stage: &str, error: &Error| format!("{server}: {stage}: {}", told(cx, error));
    let result = match result {
        Ok(sent) => Ok(sent),
        Err(Broken::Text(text)) => Err(Failure::Never(format!("{server}: {text}"))),
        Err(Broken::At(stage, error)) if error.is_permanent() => Err(Failure::Never(text(stage, &error))),
        Err(Broken::At(stage, error)) => Err(Failure::Later(text(stage, &error))),
    };
    cx.phase(Phase::Close);
    let _ = tokio::time::timeout(QUIT_MAX, session.quit()).await;
    result
}

/// Connects, greets, turns to TLS and logs in.
async fn open(cx: &mut Attempt, server: &Server) -> Result<AsyncSmtpConnection, Reason> {
    let mut stream = cx.connect(&server.host, server.port).await?;
    let mut greeting = Vec::new();
    match &server.security {
        Security::Plain => {}
        Security::Tls(tls) => stream = cx.tls(stream, tls, &server.host).await?,
        Security::StartTls(tls) => {
            greeting = start_tls(cx, &mut stream, &server.helo).await?;
            stream = cx.tls(stream, tls, &server.host).await?;
        }
    }
    cx.phase(Phase::Greeting);
    let peer = cx.address().unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
    let wire = Wire { stream: Mutex::new(stream), replay: greeting, left: READ_MAX, lines_left: LINES_MAX, peer };
    let mut session = AsyncSmtpConnection::connect_with_transport(Box::new(wire), &server.helo)
        .await
        .map_err(|error| cx.fail(Kind::Rejected, told(cx, &error)))?;
    if let Some((username, password)) = &server.login {
        cx.phase(Phase::Login);
        let mechanisms = [Mechanism::Plain, Mechanism::Login];
        if session.server_info().get_auth_mechanism(&mechanisms).is_none() {
            let hint = match server.security {
                Security::Plain => "; many servers offer it only with TLS: try smtp+starttls://",
                Security::StartTls(_) | Security::Tls(_) => "",
            };
            return Err(cx.fail(Kind::Rejected, format!("the server offers neither AUTH PLAIN nor AUTH LOGIN{hint}")));
        }
        let credentials = Credentials::new(username.clone(), password.expose().to_owned());
        session.auth(&mechanisms, &credentials).await.map_err(|error| {
            // A server may repeat the command; the password in it stands among others, so masking misses it.
            let said = STANDARD.encode(format!("\0{username}\0{}", password.expose()));
            let text = told(cx, &error).replace(&said, "***");
            cx.fail(Kind::Rejected, format!("AUTH as {username}: {text}"))
        })?;
    }
    Ok(session)
}

enum Broken {
    At(&'static str, Error),
    Text(String),
}

async fn transaction(session: &mut AsyncSmtpConnection, mail: &Mail, to: &[Address]) -> Result<Sent, Broken> {
    let at = |stage| move |error| Broken::At(stage, error);
    let from = mail.envelope().from().cloned();
    let beyond_ascii = |address: &Address| !AsRef::<str>::as_ref(address).is_ascii();
    let mut parameters = Vec::new();
    if from.as_ref().is_some_and(beyond_ascii) || to.iter().any(beyond_ascii) {
        if !session.server_info().supports_feature(Extension::SmtpUtfEight) {
            return Err(Broken::Text(
                "an address is not ASCII, and the server does not offer SMTPUTF8 (RFC 6531)".into(),
            ));
        }
        parameters.push(MailParameter::SmtpUtfEight);
    }
    session.command(MailFrom::new(from, parameters)).await.map_err(at("MAIL FROM"))?;
    let mut sent = Sent::default();
    for address in to {
        match session.command(Rcpt::new(address.clone(), Vec::new())).await {
            Ok(_) => sent.accepted.push(address.clone()),
            Err(error) if error.is_permanent() => sent.refused.push((address.clone(), reply(&error))),
            Err(error) if error.is_transient() => sent.deferred.push((address.clone(), reply(&error))),
            Err(error) => return Err(Broken::At("RCPT TO", error)),
        }
    }
    if !sent.accepted.is_empty() {
        session.command(Data).await.map_err(at("DATA"))?;
        session.message(&mail.formatted()).await.map_err(at("the mail"))?;
    }
    Ok(sent)
}

/// A negative reply as the server gave it.
fn reply(error: &Error) -> String {
    let code = error.status().map_or(String::new(), |code| code.to_string());
    let text = error.source().map_or(String::new(), ToString::to_string);
    format!("{code} {text}").trim().to_owned()
}

/// An error for people: the server's own words, or what became of the connection.
fn told(cx: &Attempt, error: &Error) -> String {
    if error.status().is_some() {
        return reply(error);
    }
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(error) => cx.io(error).text,
        None => match error.source().map(ToString::to_string).as_deref() {
            // lettre's words for an end of the stream within a reply.
            Some("incomplete response") => "the server closed the connection".into(),
            Some(other) => other.into(),
            None => error.to_string(),
        },
    }
}

/// Greeting, EHLO and STARTTLS in plain text; returns the greeting.
///
/// By hand, because what a man in the middle adds behind the reply to STARTTLS must not be taken for something said
/// under TLS (the command injection of CVE-2011-0411, turned to clients).
async fn start_tls(cx: &mut Attempt, stream: &mut Stream, helo: &ClientId) -> Result<Vec<u8>, Reason> {
    let mut read = Vec::new();
    cx.phase(Phase::Greeting);
    let greeting = plain_reply(cx, stream, &mut read, 220).await?;
    say(cx, stream, &format!("EHLO {helo}\r\n")).await?;
    let offer = plain_reply(cx, stream, &mut read, 250).await?;
    let offers = |line: &str| line.get(4..).is_some_and(|word| word.trim().eq_ignore_ascii_case("STARTTLS"));
    if !String::from_utf8_lossy(&offer).lines().any(offers) {
        let text = "the server does not offer STARTTLS, and without it nothing is sent; use smtps:// or smtp://";
        return Err(cx.fail(Kind::Rejected, text));
    }
    say(cx, stream, "STARTTLS\r\n").await?;
    plain_reply(cx, stream, &mut read, 220).await?;
    if !read.is_empty() {
        return Err(cx.fail(Kind::Protocol, "the server went on in plain text after its reply to STARTTLS"));
    }
    Ok(greeting)
}

async fn say(cx: &Attempt, stream: &mut Stream, command: &str) -> Result<(), Reason> {
    let written = async {
        stream.write_all(command.as_bytes()).await?;
        stream.flush().await
    };
    written.await.map_err(|error| cx.io(&error))
}

/// One whole reply with the code wanted; what was read beyond it stays in `read`.
async fn plain_reply(cx: &Attempt, stream: &mut Stream, read: &mut Vec<u8>, wanted: u16) -> Result<Vec<u8>, Reason> {
    loop {
        if let Some(end) = reply_end(read) {
            let rest = read.split_off(end);
            let whole = std::mem::replace(read, rest);
            if whole.starts_with(wanted.to_string().as_bytes()) {
                return Ok(whole);
            }
            return Err(cx.fail(Kind::Rejected, String::from_utf8_lossy(&whole)));
        }
        let mut chunk = [0; 1_024];
        let count = stream.read(&mut chunk).await.map_err(|error| cx.io(&error))?;
        if count == 0 {
            return Err(cx.fail(Kind::Closed, "the server closed the connection"));
        }
        read.extend_from_slice(&chunk[..count]);
        if read.len() > READ_MAX {
            return Err(cx.fail(Kind::TooLarge, "the server's reply has no end"));
        }
    }
}

/// Where the first whole reply ends: after the line whose fourth character is not a hyphen (RFC 5321, section 4.2.1).
fn reply_end(read: &[u8]) -> Option<usize> {
    let mut start = 0;
    while let Some(length) = read[start..].iter().position(|byte| *byte == b'\n') {
        let end = start + length + 1;
        if read.get(start + 3) != Some(&b'-') {
            return Some(end);
        }
        start = end;
    }
    None
}

/// A stream as lettre wants it, with a bound on what is read.
struct Wire {
    // Only for `Sync`, which lettre asks for: it is never locked, because every use has the stream to itself.
    stream: Mutex<Stream>,
    /// The greeting that was read before TLS. A server does not greet again after STARTTLS (RFC 3207, section 4.2),
    /// while lettre's session begins by reading a greeting.
    replay: Vec<u8>,
    left: usize,
    lines_left: usize,
    peer: SocketAddr,
}

impl Wire {
    fn stream(&mut self) -> Pin<&mut Stream> {
        Pin::new(self.stream.get_mut().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl AsyncTokioStream for Wire {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.replay.is_empty() {
            let count = self.replay.len().min(buffer.remaining());
            buffer.put_slice(&self.replay[..count]);
            self.replay.drain(..count);
            return Poll::Ready(Ok(()));
        }
        if self.left == 0 || self.lines_left == 0 {
            return Poll::Ready(Err(io::Error::other("the server's replies have no end")));
        }
        let before = buffer.filled().len();
        let polled = self.stream().poll_read(cx, buffer);
        let read = &buffer.filled()[before..];
        let lines = read.iter().filter(|byte| **byte == b'\n').count();
        self.left = self.left.saturating_sub(read.len());
        self.lines_left = self.lines_left.saturating_sub(lines);
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}
