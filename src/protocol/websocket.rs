//! WebSocket (RFC 6455): chat services, gateways and dashboards that push messages to browsers.
//!
//! As a probe, success proves that the server opens a WebSocket to a newcomer and answers a ping, or says what the
//! `exchange` expects; it does not prove that it delivers. As the two sides of a delivery it proves that one client
//! gets what another one sends.
//!
//! | step | frames | section | phase |
//! |---|---|---|---|
//! | upgrade | an HTTP/1.1 request, 101 | 4 | `exchange` |
//! | the probe's `exchange`, or its no-op | text frames; Ping, Pong | 5.6, 5.5.2 | `exchange` |
//! | `first:` of a delivery | text frames | 5.6 | `login` |
//! | listen | Ping, Pong | 5.5.2 | `exchange` |
//! | send | a text or binary frame; the frame of `ack:`, or Ping and Pong | 5.6 | `send` |
//! | goodbye | Close, and the server's, for which a probe does not wait | 5.5.1, 7.1.1 | `close` |
//!
//! WebSocket acknowledges nothing. A message counts as accepted when the server has answered a ping sent after it, as
//! frames are read in order: it then has the message, whatever the program behind it does with it. Where that program
//! answers each message, `ack:` says how. A receiver is ready once `first:` is done and a ping after it is answered.
//!
//! Sessions leave nothing on the server but what `first:` does there. No extension is offered, so frames are never
//! compressed. Redirects are not followed.
//!
//! Bounds: the head of the answer 32 KiB, a message 1 MiB in all its fragments, `PASSED_OVER_MAX` frames that are not
//! what is expected.
//!
//! ```yaml
//! - name: gateway
//!   websocket: { url: "wss://chat.example.com/socket", headers: { Authorization: "Bearer ${env:CHAT_TOKEN}" } }
//! ```

#[doc(hidden)]
pub mod fuzz;
mod options;
mod script;
mod session;
mod upgrade;
mod words;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;

use self::{
    options::{How, Place, Probed, RawProbe, RawReceive, RawSend, Receiving, Sending},
    script::{Act, Field, Wanted},
    session::{Fault, Heard, Session},
};
use super::{
    Arrival, Attempt, Boxed, Probe, Protocol, ReceiveSession, Receiver, SendFailure, SendSession, Sender,
    matcher::quoted,
};
use crate::{
    clock,
    delivery::Carries,
    observation::{Accept, Kind, Phase, Reason},
};

/// The entry of the registry.
pub static WEBSOCKET: Protocol = Protocol {
    name: "websocket",
    schemes: &["ws", "wss"],
    summary: "WebSocket: upgrade and ping, a dialogue in frames, messages both ways",
    proves: "A probe proves that the server opens a WebSocket and answers a ping, or says what is expected of it, not \
             that it delivers. A delivery from websocket to websocket proves that one client gets what another sends.",
    example: "\
- name: gateway
  websocket: { url: \"wss://chat.example.com/socket\", headers: { Authorization: \"Bearer ${env:CHAT_TOKEN}\" } }
",
    probe_schema: Some(|g| g.subschema_for::<RawProbe>()),
    send_schema: Some(|g| g.subschema_for::<RawSend>()),
    receive_schema: Some(|g| g.subschema_for::<RawReceive>()),
    probe: Some(|options| Some(Box::new(Probed::read(options)?))),
    send: Some(|options| Some(Box::new(Sending::read(options)?))),
    receive: Some(|options| Some(Box::new(Receiving::read(options)?))),
};

/// Longest payload sent: beyond what any tracer needs, below what common servers take by default.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// Most frames that are passed over for one that is expected: a busier channel is none for a probe.
const PASSED_OVER_MAX: usize = 1_000;

/// Most messages kept that came before the session was ready.
const EARLY_MAX: usize = 256;

/// Most bytes of them.
const EARLY_BYTES_MAX: usize = 4 << 20;

/// Longest wait for the server's part of the goodbye: it says nothing about the service any more.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

// ---------------------------------------------------------------------------------------------------------------
// Opening

async fn open(place: &Place, cx: &mut Attempt) -> Result<Session, Reason> {
    let mut stream = cx.dial(&place.endpoint).await?;
    cx.phase(Phase::Exchange);
    let upgraded = upgrade::upgrade(cx, &mut stream, &place.request).await?;
    if let Some(subprotocol) = upgraded.subprotocol {
        cx.detail("subprotocol", subprotocol);
    }
    Ok(Session::new(stream, upgraded.rest, place.keep_alive).await)
}

/// The steps in order. What is sent is told by its length alone: it may hold a login.
async fn play(cx: &mut Attempt, session: &mut Session, script: &[Act]) -> Result<(), Reason> {
    for (n, act) in script.iter().enumerate() {
        match act {
            Act::Send(text) => {
                cx.sent(format!("step {}: text frame of {} bytes", n + 1, text.expose().len()));
                session.text(text.expose().to_owned()).map_err(|fault| fault.reason(cx))?;
                session.flush().await.map_err(|fault| fault.reason(cx))?;
            }
            Act::Expect(wanted) => expect(cx, session, wanted).await?,
        }
    }
    Ok(())
}

/// Waits for a frame; others are passed over.
async fn expect(cx: &mut Attempt, session: &mut Session, wanted: &Wanted) -> Result<(), Reason> {
    let mut missing = format!("expected a frame with {}, got nothing", wanted.shown());
    for _ in 0..PASSED_OVER_MAX {
        cx.awaits(&missing);
        let frame = match session.next().await {
            Ok(Heard::Message(frame)) => frame,
            Ok(Heard::Pong(_)) => continue,
            Err(fault) => {
                let reason = fault.reason(cx);
                return Err(Reason::new(reason.phase, reason.kind, format!("{}; {missing}", reason.text)));
            }
        };
        let text = String::from_utf8_lossy(&frame);
        cx.received(format!("frame {}", quoted(&text)));
        match wanted.check(&text) {
            Ok(()) => return Ok(()),
            Err(other) => missing = other,
        }
    }
    Err(cx.fail(Kind::TooLarge, format!("{PASSED_OVER_MAX} frames came; {missing}")))
}

/// A ping's payload that no other ping has.
fn ping_payload() -> Bytes {
    Bytes::from(format!("bongsu{:016x}", clock::random_seed()))
}

/// A ping and its own pong; messages that come meanwhile are handed over.
async fn ping(session: &mut Session, mut message: impl FnMut(Bytes)) -> Result<(), Fault> {
    let payload = ping_payload();
    session.ping(&payload)?;
    loop {
        match session.next().await? {
            Heard::Pong(answer) if answer == payload => return Ok(()),
            // Section 5.5.3: a pong that nobody asked for means nothing.
            Heard::Pong(_) => {}
            Heard::Message(bytes) => message(bytes),
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Probe

impl Probe for Probed {
    fn target(&self) -> String {
        self.place.target.clone()
    }

    fn probe<'a>(&'a self, cx: &'a mut Attempt) -> Boxed<'a, Result<(), Reason>> {
        Box::pin(async move {
            let mut session = open(&self.place, cx).await?;
            if self.exchange.is_empty() {
                cx.sent("Ping");
                cx.awaits("the upgrade was made, the ping is not answered");
                ping(&mut session, drop).await.map_err(|fault| fault.reason(cx))?;
                cx.received("Pong");
            } else {
                play(cx, &mut session, &self.exchange).await?;
            }
            cx.phase(Phase::Close);
            cx.sent("Close 1000");
            let _ = tokio::time::timeout(GOODBYE_MAX, session.leave()).await;
            cx.end_phase();
            Ok(())
        })
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Sending

impl Sender for Sending {
    fn target(&self) -> String {
        self.place.target.clone()
    }

    fn carries(&self) -> Carries {
        Carries { unicode: true, lines: true, line_bytes_max: PAYLOAD_BYTES_MAX, bytes_max: PAYLOAD_BYTES_MAX }
    }

    fn open<'a>(&'a self, cx: &'a mut Attempt) -> Boxed<'a, Result<Box<dyn SendSession>, Reason>> {
        Box::pin(async move {
            let mut session = open(&self.place, cx).await?;
            log_in(cx, &mut session, &self.first).await?;
            Ok(Box::new(Publishing { session, how: self.how.clone(), begins: None }) as Box<dyn SendSession>)
        })
    }
}

/// The steps that come first, if there are any.
async fn log_in(cx: &mut Attempt, session: &mut Session, first: &[Act]) -> Result<(), Reason> {
    if !first.is_empty() {
        cx.phase(Phase::Login);
        play(cx, session, first).await?;
    }
    cx.end_phase();
    Ok(())
}

struct Publishing {
    session: Session,
    how: Arc<How>,
    /// How much had been handed to the network when the latest message was queued.
    begins: Option<u64>,
}

impl Publishing {
    async fn publish(&mut self, cx: &mut Attempt, payload: &[u8]) -> Result<(), Fault> {
        self.begins = None;
        // What came before says nothing about this message.
        for _ in 0..PASSED_OVER_MAX {
            match self.session.next().now_or_never() {
                Some(Ok(_)) => {}
                Some(Err(fault)) => return Err(fault),
                None => break,
            }
        }
        self.session.flush().await?;
        self.begins = Some(self.session.written());
        let frame = match &self.how.template {
            Some(template) => template.fill(&String::from_utf8_lossy(payload)).into_bytes(),
            None => payload.to_vec(),
        };
        let kind = if self.how.binary { "binary" } else { "text" };
        cx.sent(format!("{kind} frame of {} bytes", frame.len()));
        match String::from_utf8(frame) {
            Ok(text) if !self.how.binary => self.session.text(text)?,
            Ok(text) => self.session.binary(text.as_bytes())?,
            Err(error) => self.session.binary(error.as_bytes())?,
        }
        let Some(ack) = &self.how.ack else {
            cx.sent("Ping");
            ping(&mut self.session, drop).await?;
            cx.received("Pong");
            return Ok(());
        };
        for _ in 0..PASSED_OVER_MAX {
            cx.awaits(format!("no frame came with {}", ack.shown()));
            if let Heard::Message(frame) = self.session.next().await? {
                let text = String::from_utf8_lossy(&frame);
                cx.received(format!("frame {}", quoted(&text)));
                if ack.check(&text).is_ok() {
                    return Ok(());
                }
            }
        }
        let text = format!("{PASSED_OVER_MAX} frames came, none with {}", ack.shown());
        Err(Fault::Breach(Kind::TooLarge, text))
    }

    fn failure(&self, cx: &Attempt, fault: &Fault) -> SendFailure {
        let reason = fault.reason(cx);
        let accept = match fault {
            Fault::Goodbye { .. } if !self.message_left() => Accept::Unreachable,
            Fault::Goodbye { .. } if reason.kind == Kind::Rejected => Accept::Rejected,
            // "Try again later": the message was not taken.
            Fault::Goodbye { code: Some(1013), .. } => Accept::Deferred,
            _ if self.message_left() => Accept::Uncertain,
            _ => Accept::Unreachable,
        };
        let text = match accept {
            Accept::Uncertain => format!("{}, before it acknowledged the message", reason.text),
            _ => reason.text,
        };
        SendFailure { accept, reason: Reason::new(reason.phase, reason.kind, text) }
    }
}

impl SendSession for Publishing {
    fn send<'a>(&'a mut self, cx: &'a mut Attempt, payload: &'a [u8]) -> Boxed<'a, Result<(), SendFailure>> {
        Box::pin(async move {
            cx.phase(Phase::Send);
            if let Err(fault) = self.publish(cx, payload).await {
                return Err(self.failure(cx, &fault));
            }
            cx.end_phase();
            Ok(())
        })
    }

    fn message_left(&self) -> bool {
        self.begins.is_some_and(|begins| self.session.written() > begins)
    }

    fn idle<'a>(&'a mut self) -> Boxed<'a, Reason> {
        Box::pin(async move {
            loop {
                if let Err(fault) = self.session.next().await {
                    return fault.at_delivery();
                }
            }
        })
    }

    fn close<'a>(mut self: Box<Self>, cx: &'a mut Attempt) -> Boxed<'a, ()> {
        Box::pin(async move {
            cx.phase(Phase::Close);
            cx.sent("Close 1000");
            match tokio::time::timeout(GOODBYE_MAX, self.session.close()).await {
                Ok(true) => cx.received("Close"),
                _ => cx.note("no close frame came in return"),
            }
            cx.end_phase();
        })
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Receiving

impl Receiver for Receiving {
    fn target(&self) -> String {
        self.place.target.clone()
    }

    fn open<'a>(&'a self, cx: &'a mut Attempt) -> Boxed<'a, Result<Box<dyn ReceiveSession>, Reason>> {
        Box::pin(async move {
            let mut session = open(&self.place, cx).await?;
            log_in(cx, &mut session, &self.first).await?;
            cx.phase(Phase::Exchange);
            cx.sent("Ping");
            let mut inbox = Inbox { field: self.field.clone(), arrivals: VecDeque::new() };
            let mut bytes = 0;
            let early = |frame: Bytes| {
                bytes += frame.len();
                if inbox.arrivals.len() < EARLY_MAX && bytes <= EARLY_BYTES_MAX {
                    inbox.take(frame);
                }
            };
            ping(&mut session, early).await.map_err(|fault| fault.reason(cx))?;
            cx.received("Pong");
            cx.end_phase();
            Ok(Box::new(Listening { session, inbox }) as Box<dyn ReceiveSession>)
        })
    }
}

struct Listening {
    session: Session,
    inbox: Inbox,
}

struct Inbox {
    field: Option<Field>,
    /// Messages of frames that were read; a frame may hold several.
    arrivals: VecDeque<Arrival>,
}

impl Inbox {
    fn take(&mut self, frame: Bytes) {
        let at = clock::instant();
        match &self.field {
            None => self.arrivals.push_back(Arrival::live(at, frame)),
            Some(field) => {
                let texts = field.texts(&String::from_utf8_lossy(&frame));
                self.arrivals.extend(texts.into_iter().map(|text| Arrival::live(at, text.into())));
            }
        }
    }
}

impl ReceiveSession for Listening {
    fn next<'a>(&'a mut self) -> Boxed<'a, Result<Arrival, Reason>> {
        Box::pin(async move {
            loop {
                if let Some(arrival) = self.inbox.arrivals.pop_front() {
                    return Ok(arrival);
                }
                match self.session.next().await {
                    Ok(Heard::Message(frame)) => self.inbox.take(frame),
                    Ok(Heard::Pong(_)) => {}
                    Err(fault) => return Err(fault.at_delivery()),
                }
            }
        })
    }

    fn close<'a>(mut self: Box<Self>) -> Boxed<'a, ()> {
        Box::pin(async move {
            let _ = tokio::time::timeout(GOODBYE_MAX, self.session.close()).await;
        })
    }
}

#[cfg(test)]
mod tests;
