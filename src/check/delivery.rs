//! The kind `delivery`: send a message, and see whether, when and how it arrives.
//!
//! One attempt, in order: a new receiving session is opened (a message sent before somebody listens proves nothing),
//! then a sending session; one tracer is sent, and from then on arrivals are read while the acknowledgement and the
//! arrival are waited for. The attempt ends with the arrival, at the horizon (`lost_after`), or when the check is next
//! due; what is then still pending gets its fate by [`Ask::afterwards`].
//!
//! The receiving session of an attempt lingers after it, so that late and further copies are seen; the next attempt
//! reads it out and closes it once its own is open.
//!
//! Retained, old and forged messages, and those of strangers, never count as an arrival. Duplicates, foreign messages
//! and inversions are facts of the observation and never fail it.
//!
//! ```yaml
//! - name: round-trip
//!   delivery:
//!     send: { mqtt: { url: "mqtt://broker.example.com", topic: bongsu/tracer } }
//!     receive: { mqtt: { url: "mqtt://broker.example.com", topic: bongsu/tracer } }
//!     slow: 5s          # the objective
//!     lost_after: 30s   # the horizon
//! ```

mod options;

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::sync::Mutex;

use self::options::Resolved;
pub use self::options::{LOST_AFTER, SLOW};
use super::{Answer, Ask, CheckKind, Context, Families, Settings, fenced, panicked};
use crate::{
    clock,
    delivery::{CheckKey, Identity, Key, Ledger, Seen, Terms, ledger::Sending, tracer},
    observation::{Accept, Correction, Kind, Phase, Reason, Side},
    protocol::{Arrival, Attempt, Boxed, Nature, ReceiveSession, Receiver, SendSession, Sender, wire::Family},
    value::{CheckName, Masker},
};

/// The entry of the registry.
pub static DELIVERY: CheckKind = CheckKind {
    name: "delivery",
    summary: "whether a message that is sent arrives, how fast and unchanged",
    example: "\
- name: round-trip
  delivery:
    send: { mqtt: { url: \"mqtt://broker.example.com\", topic: bongsu/tracer } }
    receive: { mqtt: { url: \"mqtt://broker.example.com\", topic: bongsu/tracer } }
    slow: 5s
    lost_after: 30s
",
    schema: options::schema,
    build: |options, name, settings| {
        let Resolved { sender, receiver, objective, horizon } = options::read(options, settings)?;
        Some(Arc::new(DeliveryAsk::new(name.clone(), sender, receiver, objective, horizon)))
    },
};

/// Longest wait for a session's goodbye: it says nothing about the delivery any more.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// How long a receiving session lingers for further copies once nothing is outstanding; then it is closed politely,
/// instead of being held at the server until the next attempt.
const LINGER: Duration = Duration::from_secs(5);

/// Longest wait between two looks at the ledger while only losses are outstanding.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Most messages read at once without waiting: a flooded topic must not hold up an attempt.
const DRAIN_MAX: usize = 1_000;

/// Asks whether messages get through.
pub struct DeliveryAsk {
    name: CheckName,
    sender: Box<dyn Sender>,
    receiver: Box<dyn Receiver>,
    objective: Duration,
    horizon: Duration,
    key: Key,
    check: CheckKey,
    state: Mutex<State>,
}

/// What is kept between attempts.
struct State {
    ledger: Ledger,
    sequence: u64,
    sessions: u64,
    listening: Option<Listening>,
    /// Why the latest receiving session is gone.
    broken: Option<Reason>,
    masker: Masker,
}

struct Listening {
    id: u64,
    session: Box<dyn ReceiveSession>,
}

/// What an attempt came to once something could be sent.
struct Sent {
    sequence: u64,
    ended: Instant,
}

impl DeliveryAsk {
    /// A delivery from this sender to this receiver.
    pub fn new(
        name: CheckName,
        sender: Box<dyn Sender>,
        receiver: Box<dyn Receiver>,
        objective: Duration,
        horizon: Duration,
    ) -> Self {
        let key = Key::new(&clock::random_bytes());
        let check = CheckKey::new(&key, &name);
        let ledger = Ledger::new(Terms { objective, horizon, sender: sender.target() });
        let state =
            State { ledger, sequence: 0, sessions: 0, listening: None, broken: None, masker: Masker::default() };
        Self { name, sender, receiver, objective, horizon, key, check, state: Mutex::new(state) }
    }

    // -----------------------------------------------------------------------------------------------------------
    // An attempt

    async fn exchange(&self, state: &mut State, cx: &mut Attempt, context: &Context) -> Result<Sent, Reason> {
        let timeout = context.settings.timeout;
        let old = self.listen(state, cx, timeout).await.map_err(|reason| on_side("receiving side", &reason))?;
        let opened = self.open_sender(state, cx, timeout, old).await;
        if state.listening.is_none() {
            let gone = state.broken.clone().unwrap_or_else(|| cx.fail(Kind::Closed, "closed"));
            return Err(on_side("receiving side", &gone));
        }
        state.sequence += 1;
        let sequence = state.sequence;
        let identity = Identity { check: self.check, sequence, sent_at: clock::now(), nonce: clock::random_seed() };
        let composed = tracer::compose(&self.key, &identity, self.sender.carries());
        let at = clock::instant();
        state.ledger.sent(Sending { identity, observed_at: context.at, at, left_out: composed.left_out });
        let mut session = match opened {
            Ok(session) => session,
            Err(reason) => {
                let reason = on_side("sending side", &reason);
                state.ledger.answered(sequence, Accept::Unreachable, at, Some(reason));
                return Ok(Sent { sequence, ended: clock::instant() });
            }
        };
        let accept = self.send(state, cx, timeout, session.as_mut(), sequence, &composed.payload).await;
        let mut aside = Attempt::new(context.net.clone(), cx.family(), context.at, at, false);
        // One that did not answer in time is not waited for again.
        let goodbye = async {
            if accept != Accept::Uncertain {
                let _ = tokio::time::timeout(CLOSE_MAX, session.close(&mut aside)).await;
            }
        };
        if matches!(accept, Accept::Rejected | Accept::Deferred | Accept::Unreachable) {
            let ended = clock::instant();
            self.alongside(state, goodbye).await;
            return Ok(Sent { sequence, ended });
        }
        let next_due = context.wait_max.map(|wait| (at + self.objective).max(cx.started() + wait));
        let until = (at + self.horizon).min(next_due.unwrap_or(at + self.horizon));
        let ((), ended) = tokio::join!(goodbye, self.wait(state, cx, sequence, until));
        Ok(Sent { sequence, ended })
    }

    /// Opens the new receiving session while the old one is read out; gives the old one back to be closed.
    async fn listen(
        &self,
        state: &mut State,
        cx: &mut Attempt,
        timeout: Duration,
    ) -> Result<Option<Listening>, Reason> {
        cx.side(Some(Side::Receive));
        let deadline = clock::instant() + timeout;
        cx.set_deadline(deadline);
        let opening = tokio::time::timeout_at(deadline.into(), self.receiver.open(cx));
        let opened = self.alongside(state, opening).await;
        let session = match opened {
            Ok(opened) => opened?,
            Err(_) => return Err(cx.overdue(timeout)),
        };
        self.drain(state).await;
        state.sessions += 1;
        let new = Listening { id: state.sessions, session };
        Ok(state.listening.replace(new))
    }

    /// Opens the sending session while the old receiving one is closed.
    async fn open_sender(
        &self,
        state: &mut State,
        cx: &mut Attempt,
        timeout: Duration,
        old: Option<Listening>,
    ) -> Result<Box<dyn SendSession>, Reason> {
        cx.side(Some(Side::Send));
        let deadline = clock::instant() + timeout;
        cx.set_deadline(deadline);
        let opening = tokio::time::timeout_at(deadline.into(), self.sender.open(cx));
        let (opened, ()) = self.alongside(state, async { tokio::join!(opening, closed(old)) }).await;
        match opened {
            Ok(opened) => opened,
            Err(_) => Err(cx.overdue(timeout)),
        }
    }

    async fn send(
        &self,
        state: &mut State,
        cx: &mut Attempt,
        timeout: Duration,
        session: &mut dyn SendSession,
        sequence: u64,
        payload: &[u8],
    ) -> Accept {
        let deadline = clock::instant() + timeout;
        cx.set_deadline(deadline);
        let sending = tokio::time::timeout_at(deadline.into(), session.send(cx, payload));
        let sent = self.alongside(state, sending).await;
        let at = clock::instant();
        cx.end_phase_at(at);
        let (accept, reason) = match sent {
            Ok(Ok(())) => (Accept::Accepted, None),
            Ok(Err(failure)) => (failure.accept, Some(failure.reason)),
            Err(_) if session.message_left() => (Accept::Uncertain, Some(cx.overdue(timeout))),
            Err(_) => (Accept::Unreachable, Some(cx.overdue(timeout))),
        };
        let reason = reason.map(|reason| on_side("sending side", &reason));
        state.ledger.answered(sequence, accept, at, reason);
        accept
    }

    /// Waits for the message, at most until then; tells when the wait ended.
    async fn wait(&self, state: &mut State, cx: &mut Attempt, sequence: u64, until: Instant) -> Instant {
        if !state.ledger.has_arrived(sequence) {
            cx.side(Some(Side::Receive));
            cx.phase(Phase::Deliver);
            let arrival = async {
                while state.listening.is_some() && !state.ledger.has_arrived(sequence) {
                    self.hear(state).await;
                }
            };
            // Absent until then is what the ledger books.
            let _ = tokio::time::timeout_at(until.into(), arrival).await;
        }
        let ended = clock::instant();
        cx.end_phase_at(ended);
        self.drain(state).await;
        ended
    }

    // -----------------------------------------------------------------------------------------------------------
    // Listening

    /// Runs a future to its end while whoever listens is heard.
    async fn alongside<T>(&self, state: &mut State, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                biased;
                done = &mut future => return done,
                () = self.hear(state) => {}
            }
        }
    }

    /// Hears one message, or that the session is gone. Waits forever when nobody listens.
    async fn hear(&self, state: &mut State) {
        let Some(listening) = &mut state.listening else { return std::future::pending().await };
        match listening.session.next().await {
            Ok(arrival) => {
                let session = listening.id;
                self.take(state, session, &arrival);
            }
            Err(reason) => {
                let text = state.masker.mask(&reason.text);
                let reason = on_side("receiving side", &Reason::new(Phase::Deliver, reason.kind, text));
                state.ledger.blind(clock::instant(), &reason);
                state.broken = Some(reason);
                state.listening = None;
            }
        }
    }

    /// Hears what has already come, without waiting.
    async fn drain(&self, state: &mut State) {
        for _ in 0..DRAIN_MAX {
            if self.hear(state).now_or_never().is_none() {
                return;
            }
        }
    }

    fn take(&self, state: &mut State, session: u64, arrival: &Arrival) {
        // The server says that it had this in store: it is not what was just sent, whoever made it.
        if arrival.nature != Nature::Message {
            state.ledger.foreign();
            return;
        }
        match tracer::recognise(&self.key, self.check, &arrival.payload) {
            Seen::Ours(found) => {
                state.ledger.arrived(session, &found.identity, found.integrity, arrival.at);
            }
            Seen::OtherCheck | Seen::Unproven | Seen::Stranger => state.ledger.foreign(),
        }
    }

    async fn next_correction(&self, state: &mut State) -> Option<Correction> {
        let linger_until = clock::instant() + LINGER;
        loop {
            let now = clock::instant();
            if let Some(correction) = state.ledger.poll(now) {
                return Some(correction);
            }
            let horizon = state.ledger.next_horizon(now);
            let until = match (&state.listening, horizon) {
                (None, None) => return None,
                (_, Some(horizon)) => horizon,
                (Some(_), None) if state.ledger.is_outstanding(now) => now + LOOK_EVERY,
                (Some(_), None) if now < linger_until => linger_until,
                (Some(_), None) => {
                    closed(state.listening.take()).await;
                    return None;
                }
            };
            let _ = tokio::time::timeout_at(until.into(), self.hear(state)).await;
        }
    }
}

async fn closed(old: Option<Listening>) {
    if let Some(old) = old {
        let _ = tokio::time::timeout(CLOSE_MAX, old.session.close()).await;
    }
}

/// A reason that says which session it is about; said once.
fn on_side(side: &str, reason: &Reason) -> Reason {
    if reason.text.starts_with(side) {
        return reason.clone();
    }
    Reason::new(reason.phase, reason.kind, format!("{side}: {}", reason.text))
}

impl Ask for DeliveryAsk {
    fn kind(&self) -> &'static str {
        DELIVERY.name
    }

    fn target(&self) -> String {
        let (from, to) = (self.sender.target(), self.receiver.target());
        if from == to { from } else { format!("{from} → {to}") }
    }

    fn deadline(&self, settings: &Settings) -> Duration {
        // Both openings, the send, the wait, and a goodbye on each side.
        settings.timeout * 3 + self.horizon + CLOSE_MAX * 2
    }

    fn attempt<'a>(&'a self, context: Context) -> Boxed<'a, Answer> {
        Box::pin(async move {
            let mut state = self.state.lock().await;
            state.masker = context.net.masker.clone();
            let family = match context.settings.ip {
                Families::Any | Families::Both => Family::Any,
                Families::Ipv4 => Family::V4,
                Families::Ipv6 => Family::V6,
            };
            let started = clock::instant();
            let mut cx = Attempt::new(context.net.clone(), family, context.at, started, context.explain);
            let sent = match fenced(&self.name, self.exchange(&mut state, &mut cx, &context)).await {
                Ok(sent) => sent,
                Err(text) => Err(panicked(&cx, &text)),
            };
            let (verdict, ended) = match sent {
                Ok(sent) => (Ok(state.ledger.book(sent.sequence, sent.ended)), sent.ended),
                Err(reason) => (Err(reason), clock::instant()),
            };
            let said = match &verdict {
                Ok(verdict) => verdict.as_ref().and_then(|v| v.reason.clone()).map_or(Ok(()), Err),
                Err(reason) => Err(reason.clone()),
            };
            let (mut observation, transcript) = cx.finish(said, ended, None);
            if let Ok(Some(verdict)) = verdict {
                observation.outcome = verdict.outcome;
                observation.delivery = Some(verdict.delivery);
            }
            Answer { observation, transcript }
        })
    }

    fn afterwards<'a>(&'a self) -> Boxed<'a, Option<Correction>> {
        Box::pin(async move {
            let mut state = self.state.lock().await;
            match fenced(&self.name, self.next_correction(&mut state)).await {
                Ok(correction) => correction,
                // Told in the log; the next attempt opens a session of its own.
                Err(_) => {
                    state.listening = None;
                    None
                }
            }
        })
    }
}

#[cfg(test)]
mod tests;
