//! HTTP over the streams of the one dialer: hyper writes the request and reads the answer.
//!
//! A connection is driven by the task that waits for its answer, and only while it waits. So nothing runs on by itself,
//! and of an attempt that is dropped at its deadline nothing is left, whatever the server still wants to be told.
//!
//! Until the head of the answer is there, a server may send without end what is no answer: interim heads (1xx; RFC 9110,
//! section 15.2), pings and settings (RFC 9113, section 6). hyper reads on as long as there is something to read, so what
//! comes before the head is counted here, and bounded.

use std::{
    error::Error as _,
    fmt, io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    client::conn::{http1, http2},
    header::{HOST, HeaderValue, PROXY_AUTHORIZATION},
    rt::Executor,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    observation::{Kind, Phase, Reason},
    protocol::wire::{Attempt, Stream, below, io_kind, io_text, tls_error_within, tls_failure},
};

/// Most headers of an answer that are read: ten times what usual servers send.
pub const HEADERS_MAX: usize = 200;

/// Longest head of an answer in bytes, over HTTP/1.1 and, unpacked, over HTTP/2: servers send a few thousand.
pub const HEAD_BYTES_MAX: usize = 64 << 10;

/// Most bytes taken from a server until the head of its answer is complete: with it, whatever came before it.
pub const UNTIL_HEAD_BYTES_MAX: usize = 3 * HEAD_BYTES_MAX;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection for one request.
pub struct Connection {
    sender: Sender,
    driver: Driver,
    until_head: Arc<AtomicUsize>,
}

enum Sender {
    V1(http1::SendRequest<Full<Bytes>>),
    V2(http2::SendRequest<Full<Bytes>>),
}

enum Driver {
    V1(Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>),
    V2(Box<V2>),
    Ended(Option<hyper::Error>),
}

struct V2 {
    connection: http2::Connection<TokioIo<Counted>, Full<Bytes>, Begun>,
    begun: Begun,
    running: FuturesUnordered<Task>,
}

impl Connection {
    /// Begins to speak HTTP/1.1, or HTTP/2 when `v2`, over this stream.
    ///
    /// # Errors
    /// When the stream breaks at once.
    pub async fn begin(cx: &Attempt, stream: Stream, v2: bool) -> Result<Self, Reason> {
        let until_head = Arc::new(AtomicUsize::new(UNTIL_HEAD_BYTES_MAX));
        let stream = TokioIo::new(Counted { stream, until_head: until_head.clone() });
        if v2 {
            let begun = Begun::default();
            let mut builder = http2::Builder::new(begun.clone());
            builder.max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX));
            let (sender, connection) = builder.handshake(stream).await.map_err(|error| failure(cx, &error))?;
            let driver = Driver::V2(Box::new(V2 { connection, begun, running: FuturesUnordered::new() }));
            return Ok(Self { sender: Sender::V2(sender), driver, until_head });
        }
        let mut builder = http1::Builder::new();
        builder.max_headers(HEADERS_MAX).max_buf_size(HEAD_BYTES_MAX);
        let (sender, connection) = builder.handshake(stream).await.map_err(|error| failure(cx, &error))?;
        Ok(Self { sender: Sender::V1(sender), driver: Driver::V1(Box::pin(connection.with_upgrades())), until_head })
    }

    /// Sends the request and waits for the head of the answer.
    ///
    /// # Errors
    /// When the connection breaks, or the answer is no HTTP, or its head too large.
    pub async fn ask(&mut self, cx: &Attempt, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Reason> {
        let Self { sender, driver, until_head } = self;
        let answer = match sender {
            Sender::V1(sender) => driver.with(sender.send_request(request)).await,
            Sender::V2(sender) => driver.with(sender.send_request(request)).await,
        };
        let answer = answer.map_err(|error| driver.failure(cx, &error))?;
        until_head.store(usize::MAX, Ordering::Relaxed);
        Ok(answer)
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// When the connection breaks, or the body is not framed as HTTP has it.
    pub async fn chunk(&mut self, cx: &Attempt, body: &mut Incoming) -> Result<Option<Bytes>, Reason> {
        loop {
            match self.driver.with(body.frame()).await {
                // What is no data is trailers, which nobody asks for.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(_) => continue,
                },
                Some(Err(error)) => return Err(self.driver.failure(cx, &error)),
                None => return Ok(None),
            }
        }
    }

    /// Says goodbye as far as it can be said without waiting: what TLS and HTTP/2 send before the connection is closed.
    pub async fn close(self) {
        let Self { sender, mut driver, .. } = self;
        drop(sender);
        std::future::poll_fn(|context| {
            driver.drive(context);
            Poll::Ready(())
        })
        .await;
    }
}

impl Driver {
    /// Drives the connection until this is ready.
    async fn with<T>(&mut self, waited: impl Future<Output = T>) -> T {
        let mut waited = pin!(waited);
        std::future::poll_fn(|context| {
            if let Poll::Ready(value) = waited.as_mut().poll(context) {
                return Poll::Ready(value);
            }
            self.drive(context);
            waited.as_mut().poll(context)
        })
        .await
    }

    fn drive(&mut self, context: &mut Context<'_>) {
        let ended = match self {
            Self::V1(connection) => connection.as_mut().poll(context),
            Self::V2(v2) => {
                let V2 { connection, begun, running } = &mut **v2;
                let ended = Pin::new(connection).poll(context);
                // What they begin in their turn is driven as well.
                loop {
                    running.extend(begun.take());
                    while let Poll::Ready(Some(())) = running.poll_next_unpin(context) {}
                    if begun.is_empty() {
                        break;
                    }
                }
                // The tasks still have something to say when the connection itself is done.
                if running.is_empty() { ended } else { Poll::Pending }
            }
            Self::Ended(_) => return,
        };
        if let Poll::Ready(result) = ended {
            *self = Self::Ended(result.err());
        }
    }

    /// What an error means; that of the connection says more than that of the request which it ended.
    fn failure(&self, cx: &Attempt, error: &hyper::Error) -> Reason {
        match self {
            Self::Ended(Some(cause)) if error.is_canceled() => failure(cx, cause),
            _ => failure(cx, error),
        }
    }
}

/// The tasks that HTTP/2 begins, until the driver takes them.
#[derive(Clone, Default)]
struct Begun(Arc<Mutex<Vec<Task>>>);

impl Begun {
    fn take(&self) -> Vec<Task> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Begun {
    fn execute(&self, future: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(future));
    }
}

/// Asks a proxy for a tunnel to `authority`, a host with its port (RFC 9110, section 9.3.6), and gives the stream through
/// it.
///
/// # Errors
/// When the proxy refuses, or its answer is no HTTP.
pub async fn tunnel(
    cx: &mut Attempt,
    stream: Stream,
    authority: &str,
    authorization: Option<&HeaderValue>,
) -> Result<Stream, Reason> {
    cx.phase(Phase::Connect);
    let mut connection = Connection::begin(cx, stream, false).await?;
    let mut request = Request::builder().method(Method::CONNECT).uri(authority).header(HOST, authority);
    if let Some(authorization) = authorization {
        request = request.header(PROXY_AUTHORIZATION, authorization);
    }
    let request = request.body(Full::default());
    let request =
        request.map_err(|error| cx.fail(Kind::Protocol, format!("{authority} cannot be asked for: {error}")))?;
    let answer = connection.ask(cx, request).await?;
    if !answer.status().is_success() {
        let text = format!("the proxy answers {} when asked for {authority}", answer.status());
        return Err(cx.fail(Kind::Rejected, text));
    }
    let through = connection.driver.with(hyper::upgrade::on(answer)).await;
    let through = through.map_err(|error| failure(cx, &error))?;
    cx.end_phase();
    Ok(Box::new(TokioIo::new(through)))
}

// ---------------------------------------------------------------------------------------------------------------
// What comes before the head

/// A stream of which only so much is read until the head of the answer is there.
struct Counted {
    stream: Stream,
    until_head: Arc<AtomicUsize>,
}

/// More came before the head was complete than is taken.
#[derive(Debug)]
struct TooMuch;

impl fmt::Display for TooMuch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{UNTIL_HEAD_BYTES_MAX} bytes came, and the head of the answer is not complete")
    }
}

impl std::error::Error for TooMuch {}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = self.until_head.load(Ordering::Relaxed);
        if room == 0 {
            return Poll::Ready(Err(io::Error::other(TooMuch)));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if room != usize::MAX {
            let read = buffer.filled().len() - before;
            self.until_head.store(room.saturating_sub(read), Ordering::Relaxed);
        }
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Errors

/// What an error of hyper's means.
fn failure(cx: &Attempt, error: &hyper::Error) -> Reason {
    if let Some(error) = tls_error_within(error) {
        let (kind, text) = tls_failure(error, cx.tls_facts(), cx.at());
        return cx.fail(kind, text);
    }
    let closed = "the server closed the connection before its answer was complete";
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return cx.fail(Kind::Closed, closed);
    }
    let mut innermost = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            if let Some(much) = error.get_ref().and_then(|inner| inner.downcast_ref::<TooMuch>()) {
                return cx.fail(Kind::TooLarge, much.to_string());
            }
            if error.get_ref().is_none() || io_kind(error) != Kind::Protocol {
                return cx.fail(io_kind(error), io_text(error));
            }
        }
        innermost = error.to_string();
        cause = below(error);
    }
    let ended = ["before end", "closed before", "unexpected EOF", "unexpected end"];
    if ended.iter().any(|words| innermost.contains(words)) {
        cx.fail(Kind::Closed, closed)
    } else if innermost.contains("head is too large") {
        cx.fail(Kind::TooLarge, "the headers of the answer, or the length they announce, are too large")
    } else {
        cx.fail(Kind::Protocol, format!("not a proper HTTP answer: {innermost}"))
    }
}
