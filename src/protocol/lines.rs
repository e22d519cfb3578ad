//! Lines of text over a stream, as mail protocols speak: bounded, and safe to drop at any await.
//!
//! What was read and not yet taken, and what is still to be written, stay in [`Lines`]. So a future that is dropped
//! loses nothing: the next call goes on where it was. While a line is waited for, what is queued is written, as a
//! server may say something before it has read everything.
//!
//! A line ends with LF, and a CR before it belongs to the end. Bytes may be anything; lines need not be UTF-8.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::wire::{Attempt, Stream, TlsClient, io_kind, io_text};
use crate::observation::{Kind, Phase, Reason};

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

/// Why nothing more comes.
#[derive(Clone, Debug)]
pub enum Broken {
    /// The stream failed.
    Io(Arc<io::Error>),
    /// The peer closed it; whether in the middle of a line.
    Closed {
        /// Bytes of a line without its end had come.
        within_line: bool,
    },
    /// A line longer than the bound, in bytes.
    TooLong(usize),
}

impl Broken {
    /// The class of the failure.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Io(error) => io_kind(error),
            Self::Closed { .. } => Kind::Closed,
            Self::TooLong(_) => Kind::TooLarge,
        }
    }

    /// In words.
    pub fn text(&self) -> String {
        match self {
            Self::Io(error) => io_text(error),
            Self::Closed { within_line: false } => "the server closed the connection".into(),
            Self::Closed { within_line: true } => "the server closed the connection in the middle of a line".into(),
            Self::TooLong(bytes) => format!("a line of more than {bytes} bytes"),
        }
    }

    /// As a reason at the current phase.
    pub fn reason(&self, cx: &Attempt) -> Reason {
        match self {
            Self::Io(error) => cx.io(error),
            _ => cx.fail(self.kind(), self.text()),
        }
    }

    /// As a reason for someone who waits outside of an attempt.
    pub fn at(&self, phase: Phase) -> Reason {
        Reason::new(phase, self.kind(), self.text())
    }
}

/// A stream of lines, both ways.
pub struct Lines {
    stream: Stream,
    line_bytes_max: usize,
    /// Read, and not yet taken.
    inbound: BytesMut,
    /// Where the search for the end of the line goes on.
    searched: usize,
    /// Queued, and not yet handed to the network.
    outbound: BytesMut,
    /// Bytes handed to the network so far.
    handed: u64,
    unflushed: bool,
    broken: Option<Broken>,
}

impl Lines {
    /// Lines of at most so many bytes, without their ends, over a fresh stream.
    pub fn new(stream: Stream, line_bytes_max: usize) -> Self {
        Self {
            stream,
            line_bytes_max,
            inbound: BytesMut::new(),
            searched: 0,
            outbound: BytesMut::new(),
            handed: 0,
            unflushed: false,
            broken: None,
        }
    }

    /// Makes the TLS handshake on the stream, as after STARTTLS. What the peer said before it and was not taken yet is
    /// refused: an attacker could have put it there, to be taken for the server's words after the handshake.
    ///
    /// # Errors
    /// When something came before the handshake, or it fails.
    pub async fn start_tls(mut self, cx: &mut Attempt, tls: &TlsClient, host: &str) -> Result<Self, Reason> {
        self.flush().await.map_err(|broken| broken.reason(cx))?;
        if !self.inbound.is_empty() {
            let came = String::from_utf8_lossy(&self.inbound[..self.inbound.len().min(SHOWN_BYTES)]).into_owned();
            return Err(cx.fail(Kind::Protocol, format!("the server went on in plain text before TLS: {came}")));
        }
        let stream = cx.tls(self.stream, tls, host).await?;
        Ok(Self { handed: self.handed, ..Self::new(stream, self.line_bytes_max) })
    }

    // -----------------------------------------------------------------------------------------------------------
    // Writing

    /// Queues bytes, as they are; the caller bounds them. Nothing is written before [`Lines::flush`] or a read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.outbound.extend_from_slice(bytes);
    }

    /// Queues a line; CRLF is added.
    pub fn push_line(&mut self, line: &str) {
        self.push(line.as_bytes());
        self.push(b"\r\n");
    }

    /// Writes all that is queued. Reads nothing: of a peer that talks instead of listening, this may never end.
    ///
    /// # Errors
    /// When the stream has failed.
    pub async fn flush(&mut self) -> Result<(), Broken> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        let written = poll_fn(|cx| self.poll_write(cx)).await;
        written.map_err(|error| self.fault(Broken::Io(Arc::new(error))))
    }

    /// How many bytes have been queued so far, written or not: the position of what is queued next.
    pub fn position(&self) -> u64 {
        self.handed + self.outbound.len() as u64
    }

    /// Whether a byte beyond this position has been handed to the network.
    pub fn is_written_beyond(&self, position: u64) -> bool {
        self.handed > position
    }

    /// Writes all that is queued and says that nothing more will come. What fails here was no use any more.
    pub async fn shut(&mut self) {
        if self.flush().await.is_ok() {
            let _ = poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx)).await;
        }
    }

    // -----------------------------------------------------------------------------------------------------------
    // Reading

    /// The next line, without its end. What is queued is written meanwhile.
    ///
    /// # Errors
    /// When the stream has ended or failed, or the line is longer than the bound; it stays so.
    pub async fn line(&mut self) -> Result<BytesMut, Broken> {
        loop {
            if let Some(line) = self.take_line()? {
                return Ok(line);
            }
            self.more().await?;
        }
    }

    /// Exactly so many bytes, as they come; the caller bounds them.
    ///
    /// # Errors
    /// When the stream has ended or failed.
    pub async fn exact(&mut self, bytes: usize) -> Result<BytesMut, Broken> {
        while self.inbound.len() < bytes {
            self.more().await?;
        }
        self.searched = 0;
        Ok(self.inbound.split_to(bytes))
    }

    /// What there is, at least one byte and at most so many: for a body that is read through and not kept.
    ///
    /// # Errors
    /// When the stream has ended or failed.
    pub async fn some(&mut self, bytes_max: usize) -> Result<BytesMut, Broken> {
        while self.inbound.is_empty() {
            self.more().await?;
        }
        self.searched = 0;
        Ok(self.inbound.split_to(self.inbound.len().min(bytes_max.max(1))))
    }

    fn take_line(&mut self) -> Result<Option<BytesMut>, Broken> {
        if let Some(at) = self.inbound[self.searched..].iter().position(|byte| *byte == b'\n') {
            let mut line = self.inbound.split_to(self.searched + at);
            self.inbound.advance(1);
            self.searched = 0;
            if line.last() == Some(&b'\r') {
                line.truncate(line.len() - 1);
            }
            return if line.len() > self.line_bytes_max { Err(self.too_long()) } else { Ok(Some(line)) };
        }
        self.searched = self.inbound.len();
        // The CR of its end may be among them.
        if self.inbound.len() > self.line_bytes_max + 1 { Err(self.too_long()) } else { Ok(None) }
    }

    fn too_long(&mut self) -> Broken {
        self.fault(Broken::TooLong(self.line_bytes_max))
    }

    /// The first fault stays: what comes after it is not to be trusted.
    fn fault(&mut self, broken: Broken) -> Broken {
        self.broken.get_or_insert(broken).clone()
    }

    /// Reads once, and writes what is queued while it waits.
    async fn more(&mut self) -> Result<(), Broken> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        poll_fn(|cx| self.poll_more(cx)).await.map_err(|broken| self.fault(broken))
    }

    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        // A failed write is told only when nothing more can be read: the server may have said why.
        let unwritten = match self.poll_write(cx) {
            Poll::Ready(Err(error)) => Some(error),
            _ => None,
        };
        let failed = |error: io::Error| Poll::Ready(Err(Broken::Io(Arc::new(error))));
        let mut room = [0; READ_BYTES];
        let mut buffer = ReadBuf::new(&mut room);
        match (Pin::new(&mut self.stream).poll_read(cx, &mut buffer), unwritten) {
            (Poll::Pending, None) => Poll::Pending,
            (Poll::Pending, Some(error)) | (Poll::Ready(Err(_)), Some(error)) => failed(error),
            (Poll::Ready(Err(error)), None) => failed(error),
            (Poll::Ready(Ok(())), _) if buffer.filled().is_empty() => {
                Poll::Ready(Err(Broken::Closed { within_line: !self.inbound.is_empty() }))
            }
            (Poll::Ready(Ok(())), _) => {
                self.inbound.extend_from_slice(buffer.filled());
                Poll::Ready(Ok(()))
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outbound.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.outbound) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.outbound.advance(n);
                    self.handed += n as u64;
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
}

/// How much of what came too early is shown.
const SHOWN_BYTES: usize = 100;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
    }

    #[test]
    fn lines_end_with_lf_and_are_bounded() {
        block_on(async {
            let (near, mut far) = duplex(64);
            let mut lines = Lines::new(Box::new(near), 5);
            far.write_all(b"12345\r\na\n\r\n\r\r\n1234567").await.expect("room");
            for expected in [&b"12345"[..], b"a", b"", b"\r"] {
                assert_eq!(lines.line().await.expect("a line"), expected);
            }
            for _ in 0..2 {
                let broken = lines.line().await.expect_err("too long");
                assert_eq!((broken.kind(), broken.text().as_str()), (Kind::TooLarge, "a line of more than 5 bytes"));
            }
            assert!(lines.flush().await.is_err(), "it stays broken");
        });
        block_on(async {
            let (near, mut far) = duplex(64);
            let mut lines = Lines::new(Box::new(near), 5);
            far.write_all(b"123456\n").await.expect("room");
            assert_eq!(lines.line().await.expect_err("too long").kind(), Kind::TooLarge);
        });
    }

    #[test]
    fn an_end_is_told_and_what_came_before_it_is_given() {
        block_on(async {
            let (near, mut far) = duplex(64);
            let mut lines = Lines::new(Box::new(near), 100);
            far.write_all(b"bye\r\nhal").await.expect("room");
            drop(far);
            lines.push_line("QUIT");
            assert_eq!(lines.line().await.expect("a line"), "bye");
            let broken = lines.line().await.expect_err("the end");
            assert!(matches!(broken.kind(), Kind::Closed), "{broken:?}");
        });
    }

    #[test]
    fn literals_and_lines_mix() {
        block_on(async {
            let (near, mut far) = duplex(64);
            let mut lines = Lines::new(Box::new(near), 100);
            far.write_all(b"* {5}\r\na\nb\nc)\r\nrest").await.expect("room");
            assert_eq!(lines.line().await.expect("a line"), "* {5}");
            assert_eq!(lines.exact(5).await.expect("five bytes"), "a\nb\nc");
            assert_eq!(lines.line().await.expect("a line"), ")");
            assert_eq!(lines.some(2).await.expect("some"), "re");
            assert_eq!(lines.exact(2).await.expect("two"), "st");
            assert!(lines.exact(1).now_or_never().is_none());
        });
    }

    #[test]
    fn what_is_queued_goes_out_while_a_line_is_waited_for() {
        block_on(async {
            // Little room both ways: whoever does not read while it writes hangs.
            let (near, far) = duplex(8);
            let (mut read, mut write) = tokio::io::split(far);
            let mut lines = Lines::new(Box::new(near), 1_000);
            let begin = lines.position();
            lines.push(&[b'x'; 500]);
            assert!(!lines.is_written_beyond(begin) && lines.position() == begin + 500);
            let peer = async {
                write.write_all(&[b'y'; 500]).await.expect("read");
                let mut heard = vec![0; 500];
                read.read_exact(&mut heard).await.expect("written");
                write.write_all(b"\n").await.expect("read");
            };
            let (line, ()) = tokio::join!(lines.line(), peer);
            assert_eq!(line.expect("a line").len(), 500);
            assert!(lines.is_written_beyond(begin + 499) && !lines.is_written_beyond(begin + 500));
        });
    }

    #[test]
    fn plain_text_before_tls_is_refused() {
        use crate::{
            clock,
            options::Options,
            protocol::wire::{Family, Net, NetOptions, TlsOptions},
        };
        block_on(async {
            let (near, mut far) = duplex(64);
            let mut lines = Lines::new(Box::new(near), 100);
            far.write_all(b"220 go\r\n250 injected\r\n").await.expect("room");
            assert_eq!(lines.line().await.expect("a line"), "220 go");
            let nameservers = vec!["192.0.2.1:53".parse().expect("an address")];
            let net = Net::new(NetOptions { nameservers, ..NetOptions::default() }).expect("a net");
            let mut cx = Attempt::new(net, Family::Any, clock::now(), clock::instant(), false);
            let mut problems = Vec::new();
            let null = serde_yaml::Value::Null;
            let mut options = Options::new(&null, Vec::new(), std::path::Path::new("."), &mut problems);
            let tls = TlsOptions::default().client(&mut options, &[]).expect("good options");
            let reason = lines.start_tls(&mut cx, &tls, "localhost").await.err().expect("refused");
            assert_eq!(reason.kind, Kind::Protocol);
            assert!(reason.text.contains("in plain text before TLS: 250 injected"), "{reason}");
        });
    }

    proptest! {
        /// However the bytes are cut, and however often a wait is dropped, the lines are the same.
        #[test]
        fn no_wait_that_is_dropped_loses_a_byte(
            sent in prop::collection::vec("[a-c]{0,12}", 1..8),
            cuts in prop::collection::vec(1_usize..7, 1..20),
        ) {
            let heard = block_on(async {
                let (near, mut far) = duplex(4_096);
                let mut lines = Lines::new(Box::new(near), 12);
                let bytes = sent.iter().fold(Vec::new(), |mut bytes, line| {
                    bytes.extend_from_slice(line.as_bytes());
                    bytes.extend_from_slice(b"\r\n");
                    bytes
                });
                let (mut at, mut heard) = (0, Vec::new());
                for cut in cuts.iter().cycle() {
                    let end = bytes.len().min(at + cut);
                    far.write_all(&bytes[at..end]).await.expect("room");
                    at = end;
                    while let Some(line) = lines.line().now_or_never() {
                        heard.push(String::from_utf8(line.expect("a line").to_vec()).expect("text"));
                    }
                    if at == bytes.len() {
                        break;
                    }
                }
                let last = tokio::time::timeout(Duration::from_millis(1), lines.line()).await;
                assert!(last.is_err(), "nothing more");
                heard
            });
            prop_assert_eq!(heard, sent);
        }
    }
}
