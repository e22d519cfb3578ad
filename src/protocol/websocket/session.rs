//! Frames over an opened connection. Every wait here may be dropped at any time: what was read, what is still to be
//! written and what was heard stay in the [`Session`].
//!
//! The framing is `tungstenite`'s; this module keeps the connection alive, counts what was handed to the network, and
//! turns everything that ends a session into a [`Fault`].

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{Sink, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        error::ProtocolError,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::words;
use crate::{
    clock,
    observation::{Kind, Phase, Reason, one_line},
    protocol::{
        Attempt,
        wire::{Stream, io_kind, io_text},
    },
    value::TimeSpan,
};

/// Largest message and largest frame accepted. Tracers take two kilobytes; a stranger's message may be larger, and a
/// hostile length must not make us hold more.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

/// Most bytes that wait to be written: a message and its pings. A server that reads nothing must not make us hold more.
const WRITE_BYTES_MAX: usize = 4 << 20;

/// Longest reason of a close frame that is told, in characters; the frame holds 123 bytes.
const WORDS_CHARS_MAX: usize = 123;

/// Why a session is over.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The stream failed.
    Io(Arc<io::Error>),
    /// The server closed the stream without a close frame.
    Closed,
    /// The server closed the session by a close frame (section 5.5.1).
    Goodbye {
        /// Its code, if it has one.
        code: Option<u16>,
        /// Its reason.
        words: String,
    },
    /// The server broke the protocol.
    Breach(Kind, String),
    /// The server did not answer a ping.
    Silent(Duration),
}

impl Fault {
    /// The class of the failure.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Io(error) => io_kind(error),
            Self::Closed => Kind::Closed,
            Self::Goodbye { code, .. } => code.map_or(Kind::Closed, words::kind),
            Self::Breach(kind, _) => *kind,
            Self::Silent(_) => Kind::Timeout,
        }
    }

    /// In words.
    pub fn text(&self) -> String {
        match self {
            Self::Io(error) => io_text(error),
            Self::Closed => "the server closed the connection without a close frame".into(),
            Self::Goodbye { code: None, .. } => "the server closed the session without a code".into(),
            Self::Goodbye { code: Some(code), words } => {
                let said = if words.is_empty() { String::new() } else { format!(": {words}") };
                format!("the server closed the session: {} (code {code}){said}", words::close(*code))
            }
            Self::Breach(_, text) => text.clone(),
            Self::Silent(wait) => format!("nothing came within {} of a ping", TimeSpan(*wait)),
        }
    }

    /// As a reason at the current phase.
    pub fn reason(&self, cx: &Attempt) -> Reason {
        match self {
            Self::Io(error) => cx.io(error),
            _ => cx.fail(self.kind(), self.text()),
        }
    }

    /// As a reason for someone who waits for a message.
    pub fn at_delivery(&self) -> Reason {
        Reason::new(Phase::Deliver, self.kind(), self.text())
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let protocol = |text: String| Self::Breach(Kind::Protocol, text);
        match error {
            Error::Io(error) => Self::Io(Arc::new(error)),
            Error::ConnectionClosed
            | Error::AlreadyClosed
            | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake | ProtocolError::SendAfterClosing) => {
                Self::Closed
            }
            Error::Protocol(error) => protocol(format!("the server broke the protocol: {error}")),
            Error::Utf8(_) => protocol("the server sent a text frame that is no UTF-8".into()),
            Error::Capacity(_) => {
                let text = format!("the server sent a message longer than {MESSAGE_BYTES_MAX} bytes");
                Self::Breach(Kind::TooLarge, text)
            }
            Error::WriteBufferFull(_) => Self::Breach(Kind::Closed, "the server reads nothing any more".into()),
            error => protocol(error.to_string()),
        }
    }
}

/// What the server sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A message; text is UTF-8.
    Message(Bytes),
    /// The answer to a ping, with the ping's payload.
    Pong(Bytes),
}

/// One opened connection.
pub struct Session {
    frames: WebSocketStream<Counted>,
    fault: Option<Fault>,
    unflushed: bool,
    keep_alive: Duration,
    last_heard: Instant,
    /// When the keep-alive ping was sent that nothing came after yet.
    pinged: Option<Instant>,
}

impl Session {
    /// A session over a stream that has been upgraded; `rest` is what came behind the upgrade already.
    pub async fn new(stream: Stream, rest: Vec<u8>, keep_alive: Duration) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(WRITE_BYTES_MAX)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let stream = Counted { stream, written: 0 };
        let frames = WebSocketStream::from_partially_read(stream, rest, Role::Client, Some(config)).await;
        let last_heard = clock::instant();
        Self { frames, fault: None, unflushed: false, keep_alive, last_heard, pinged: None }
    }

    /// Bytes handed to the network so far.
    pub fn written(&self) -> u64 {
        self.frames.get_ref().written
    }

    /// Waits until everything queued is handed to the network.
    pub async fn flush(&mut self) -> Result<(), Fault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Queues a text frame.
    pub fn text(&mut self, text: String) -> Result<(), Fault> {
        self.queue(Message::text(text))
    }

    /// Queues a binary frame.
    pub fn binary(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.queue(Message::binary(bytes.to_vec()))
    }

    /// Queues a ping (section 5.5.2).
    pub fn ping(&mut self, payload: &Bytes) -> Result<(), Fault> {
        self.queue(Message::Ping(payload.clone()))
    }

    fn queue(&mut self, message: Message) -> Result<(), Fault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        self.unflushed = true;
        Pin::new(&mut self.frames).start_send(message).map_err(|error| self.broken(error.into()))
    }

    /// What comes next. Keeps the session alive while it waits. A fault stays: the session is over.
    pub async fn next(&mut self) -> Result<Heard, Fault> {
        loop {
            if let Some(fault) = &self.fault {
                return Err(fault.clone());
            }
            let heard = match self.due() {
                None => poll_fn(|cx| self.poll_next(cx)).await,
                Some(due) => match tokio::time::timeout_at(due.into(), poll_fn(|cx| self.poll_next(cx))).await {
                    Ok(heard) => heard,
                    Err(_) => {
                        self.keep_alive()?;
                        continue;
                    }
                },
            };
            if let Some(heard) = heard? {
                return Ok(heard);
            }
        }
    }

    /// When something must be done about a silent server.
    fn due(&self) -> Option<Instant> {
        (!self.keep_alive.is_zero()).then(|| self.pinged.unwrap_or(self.last_heard) + self.keep_alive)
    }

    fn keep_alive(&mut self) -> Result<(), Fault> {
        if self.pinged.is_some() {
            self.fault = Some(Fault::Silent(self.keep_alive));
            return Ok(());
        }
        self.pinged = Some(clock::instant());
        self.ping(&Bytes::from_static(b"bongsu"))
    }

    /// Says goodbye by a close frame without waiting for the server's, which would count as the service's time.
    pub async fn leave(&mut self) {
        if self.queue(Message::Close(Some(farewell()))).is_ok() && self.flush().await.is_ok() {
            let _ = self.frames.get_mut().shutdown().await;
        }
    }

    /// Says goodbye by a close frame and waits for the server's (section 7.1.1). Whether that came.
    pub async fn close(&mut self) -> bool {
        if self.queue(Message::Close(Some(farewell()))).is_err() {
            return false;
        }
        loop {
            match self.next().await {
                Ok(_) => {}
                Err(fault) => return matches!(fault, Fault::Goodbye { .. }),
            }
        }
    }

    fn broken(&mut self, fault: Fault) -> Fault {
        self.fault.get_or_insert(fault).clone()
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let flushed = ready!(Pin::new(&mut self.frames).poll_flush(cx));
        self.unflushed = false;
        Poll::Ready(flushed.map_err(|error| self.broken(error.into())))
    }

    /// `None` for what concerns the session alone, such as the server's own pings.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Heard>, Fault>> {
        let mut unwritten = None;
        if self.unflushed
            && let Poll::Ready(Err(error)) =
                Pin::new(&mut self.frames).poll_flush(cx).map_ok(|()| self.unflushed = false)
        {
            unwritten = Some(Fault::from(error));
        }
        // A failed write is told only when nothing more can be read: the server may have said why.
        let next = match Pin::new(&mut self.frames).poll_next(cx) {
            Poll::Ready(next) => next,
            Poll::Pending => match unwritten {
                Some(fault) => return Poll::Ready(Err(self.broken(fault))),
                None => return Poll::Pending,
            },
        };
        let fault = match next {
            Some(Ok(Message::Close(frame))) => {
                let code = frame.as_ref().map(|f| u16::from(f.code)).filter(|code| *code != words::NO_CODE);
                let words = frame.map_or(String::new(), |f| one_line(&f.reason, WORDS_CHARS_MAX));
                // The answer to it goes out as far as it can at once.
                let _ = Pin::new(&mut self.frames).poll_flush(cx);
                Fault::Goodbye { code, words }
            }
            Some(Ok(message)) => {
                (self.last_heard, self.pinged) = (clock::instant(), None);
                return Poll::Ready(Ok(match message {
                    Message::Text(text) => Some(Heard::Message(text.into())),
                    Message::Binary(bytes) => Some(Heard::Message(bytes)),
                    Message::Pong(payload) => Some(Heard::Pong(payload)),
                    Message::Ping(_) | Message::Close(_) | Message::Frame(_) => {
                        self.unflushed = true;
                        None
                    }
                }));
            }
            Some(Err(error)) => unwritten.unwrap_or_else(|| error.into()),
            None => Fault::Closed,
        };
        Poll::Ready(Err(self.broken(fault)))
    }
}

fn farewell() -> CloseFrame {
    CloseFrame { code: CloseCode::Normal, reason: "".into() }
}

/// A stream that counts what the network has taken.
struct Counted {
    stream: Stream,
    written: u64,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.written += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
