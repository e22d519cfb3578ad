//! MQTT over a stream. Every wait here may be dropped at any time: what was read, what is still to be written and what
//! was heard stay in the [`Session`].

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    Version,
    codec::{Ack, Breach, Codec, Connack, Heard, Login},
    words,
};
use crate::{
    clock,
    observation::{Kind, Phase, Reason},
    protocol::{
        Attempt,
        wire::{Stream, io_kind, io_text},
    },
    value::TimeSpan,
};

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

/// Why a session is over.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The stream failed.
    Io(Arc<io::Error>),
    /// The server closed it without a word.
    Closed,
    /// The server broke the protocol.
    Breach(Breach),
    /// The server said goodbye (MQTT 5 DISCONNECT).
    Ended {
        /// Why.
        code: u8,
        /// All of it, for people.
        text: String,
    },
    /// The server did not answer a keep-alive PINGREQ.
    Silent(Duration),
}

impl Fault {
    /// The class of the failure.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Io(error) => io_kind(error),
            Self::Closed | Self::Ended { .. } => Kind::Closed,
            Self::Breach(breach) => breach.kind,
            Self::Silent(_) => Kind::Timeout,
        }
    }

    /// In words.
    pub fn text(&self) -> String {
        match self {
            Self::Io(error) => io_text(error),
            Self::Closed => "the server closed the connection".into(),
            Self::Breach(breach) => breach.text.clone(),
            Self::Ended { text, .. } => text.clone(),
            Self::Silent(wait) => format!("no PINGRESP within {}", TimeSpan(*wait)),
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

impl From<Breach> for Fault {
    fn from(breach: Breach) -> Self {
        Self::Breach(breach)
    }
}

/// One connection to a server.
pub struct Session {
    stream: Stream,
    codec: Codec,
    heard: VecDeque<Heard>,
    /// Bytes handed to the stream so far.
    written: u64,
    unflushed: bool,
    fault: Option<Fault>,
    keep_alive: Duration,
    last_sent: Instant,
    pings: u32,
    ping_sent: Instant,
    /// What the server said at login.
    pub connack: Connack,
}

impl Session {
    /// A session over a fresh stream; nothing is sent yet.
    pub fn new(stream: Stream, version: Version) -> Self {
        let now = clock::instant();
        Self {
            stream,
            codec: Codec::new(version),
            heard: VecDeque::new(),
            written: 0,
            unflushed: false,
            fault: None,
            keep_alive: Duration::ZERO,
            last_sent: now,
            pings: 0,
            ping_sent: now,
            connack: Connack::default(),
        }
    }

    /// CONNECT and its answer, whatever it says.
    pub async fn connect(&mut self, login: &Login) -> Result<&Connack, Fault> {
        self.codec.connect(login)?;
        match self.next().await? {
            Heard::Connack(connack) => {
                let seconds = connack.keep_alive_s.unwrap_or(login.keep_alive_s);
                self.keep_alive = Duration::from_secs(u64::from(seconds));
                self.last_sent = clock::instant();
                self.connack = connack;
                Ok(&self.connack)
            }
            _ => Err(Breach { kind: Kind::Protocol, text: "no CONNACK".into() }.into()),
        }
    }

    /// PINGREQ, and its answer and those of all before it. Messages that come meanwhile are dropped.
    pub async fn ping(&mut self) -> Result<(), Fault> {
        self.send_ping()?;
        while self.pings > 0 {
            self.next().await?;
        }
        Ok(())
    }

    /// Queues a message; its identifier, and the position in the stream at which it begins.
    pub fn publish(&mut self, topic: &str, qos: u8, payload: &[u8]) -> Result<(Option<u16>, u64), Breach> {
        let position = self.written + self.codec.out().len() as u64;
        let id = self.codec.publish(topic, qos, payload)?;
        self.last_sent = clock::instant();
        Ok((id, position))
    }

    /// Whether a byte beyond this position has been handed to the stream.
    pub fn is_written_beyond(&self, position: u64) -> bool {
        self.written > position
    }

    /// The acknowledgement of a message: PUBACK, or at QoS 2 the PUBCOMP (or the PUBREC that refuses it).
    pub async fn acknowledged(&mut self, id: u16) -> Result<Ack, Fault> {
        let mut told = None;
        loop {
            match self.next().await? {
                Heard::Puback(ack) if ack.id == id => return Ok(ack),
                Heard::Pubrec(ack) if ack.id == id => {
                    if ack.code >= 0x80 {
                        return Ok(ack);
                    }
                    if ack.code != 0 {
                        self.codec.release(id)?;
                        told = Some(ack);
                    }
                }
                Heard::Pubcomp(ack) if ack.id == id => return Ok(told.unwrap_or(ack)),
                _ => {}
            }
        }
    }

    /// SUBSCRIBE and its answer. Messages that come before the answer are kept.
    pub async fn subscribe(&mut self, filter: &str, qos: u8) -> Result<Ack, Fault> {
        self.codec.subscribe(filter, qos)?;
        self.last_sent = clock::instant();
        let mut early = VecDeque::new();
        let mut bytes = 0;
        loop {
            match self.next().await? {
                Heard::Suback(ack) => {
                    early.append(&mut self.heard);
                    self.heard = early;
                    return Ok(ack);
                }
                // Section 3.8.4: the server may send messages before the SUBACK. Bounded as the answer is due.
                Heard::Publish(message) => {
                    bytes += message.payload.len();
                    if early.len() < EARLY_MAX && bytes <= EARLY_BYTES_MAX {
                        early.push_back(Heard::Publish(message));
                    }
                }
                _ => {}
            }
        }
    }

    /// UNSUBSCRIBE and its answer.
    pub async fn unsubscribe(&mut self, filter: &str) -> Result<(), Fault> {
        self.codec.unsubscribe(filter)?;
        while !matches!(self.next().await?, Heard::Unsuback) {}
        Ok(())
    }

    /// DISCONNECT, and the end of the stream. What fails here was no use any more.
    pub async fn disconnect(&mut self) {
        if self.fault.is_some() || self.codec.disconnect().is_err() {
            return;
        }
        let written = poll_fn(|cx| self.poll_write(cx)).await;
        if written.is_ok() {
            let _ = poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx)).await;
        }
    }

    /// The next packet. Keeps the session alive while it waits. A fault stays: the session is over.
    pub async fn next(&mut self) -> Result<Heard, Fault> {
        loop {
            if let Some(heard) = self.heard.pop_front() {
                match &heard {
                    Heard::Pingresp => self.pings = self.pings.saturating_sub(1),
                    Heard::Disconnect { code, words } => {
                        let said = words.as_ref().map_or(String::new(), |w| format!(": {w}"));
                        let text =
                            format!("the server disconnected: {} (code 0x{code:02x}){said}", words::reason(*code));
                        self.fault = Some(Fault::Ended { code: *code, text });
                        continue;
                    }
                    _ => {}
                }
                return Ok(heard);
            }
            if let Some(fault) = &self.fault {
                return Err(fault.clone());
            }
            match self.due() {
                None => self.pump().await,
                Some(due) => {
                    if tokio::time::timeout_at(due.into(), self.pump()).await.is_err() {
                        self.keep_alive()?;
                    }
                }
            }
        }
    }

    /// When something must be done about the keep alive (section 3.1.2.10).
    fn due(&self) -> Option<Instant> {
        if self.keep_alive.is_zero() {
            return None;
        }
        // At three quarters: the server counts from when it receives, and a busy agent is late.
        Some(if self.pings > 0 { self.ping_sent + self.keep_alive } else { self.last_sent + self.keep_alive * 3 / 4 })
    }

    fn keep_alive(&mut self) -> Result<(), Fault> {
        if self.pings == 0 {
            return self.send_ping();
        }
        self.fault = Some(Fault::Silent(self.keep_alive));
        Ok(())
    }

    fn send_ping(&mut self) -> Result<(), Fault> {
        self.codec.ping()?;
        self.pings += 1;
        self.ping_sent = clock::instant();
        self.last_sent = self.ping_sent;
        Ok(())
    }

    /// Moves bytes both ways until something was heard or the session ended.
    async fn pump(&mut self) {
        poll_fn(|cx| self.poll_pump(cx)).await;
    }

    fn poll_pump(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // A failed write is told only when nothing more can be read: the server may have said why.
            let unwritten = match self.poll_write(cx) {
                Poll::Ready(Err(error)) => Some(error),
                _ => None,
            };
            match self.poll_read(cx) {
                Poll::Pending => match unwritten {
                    Some(error) => self.fault = Some(Fault::Io(Arc::new(error))),
                    None => return Poll::Pending,
                },
                Poll::Ready(Err(error)) => self.fault = Some(Fault::Io(Arc::new(unwritten.unwrap_or(error)))),
                Poll::Ready(Ok(0)) => self.fault = Some(Fault::Closed),
                Poll::Ready(Ok(_)) => {}
            }
            if self.codec.out().len() > WRITE_BYTES_MAX {
                let text = "the server reads nothing any more".into();
                self.fault.get_or_insert(Breach { kind: Kind::Closed, text }.into());
            }
            if self.fault.is_some() || !self.heard.is_empty() {
                // Acknowledgements of what was heard go out with the next poll; most can at once.
                let _ = self.poll_write(cx);
                return Poll::Ready(());
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.codec.out().is_empty() {
            let out = self.codec.out();
            match Pin::new(&mut self.stream).poll_write(cx, out) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    super::codec::written(out, n);
                    self.written += n as u64;
                    self.unflushed = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                other => return other,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = [0; READ_BYTES];
        let mut buffer = ReadBuf::new(&mut room);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => {
                let bytes = buffer.filled();
                let (heard, breach) = self.codec.feed(bytes, clock::instant());
                self.heard.extend(heard);
                if let Some(breach) = breach {
                    self.fault = Some(breach.into());
                }
                Poll::Ready(Ok(bytes.len()))
            }
        }
    }
}

/// Most messages kept that came before the SUBACK: a topic busier than this is none for a probe.
const EARLY_MAX: usize = 256;

/// Most bytes of them.
const EARLY_BYTES_MAX: usize = 4 << 20;

/// Most bytes that wait to be written: a message, and acknowledgements. A server that sends without end and reads nothing
/// must not make us hold more.
const WRITE_BYTES_MAX: usize = 4 << 20;
