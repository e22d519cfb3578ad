//! The kind `delivery`: send a message, and see whether, when and how it arrives.
//!
//! One attempt, in order: a receiving session listens (a message sent before somebody listens proves nothing), then a
//! sending session is open; one tracer is sent, or `burst` of them one after the other, and from then on arrivals are
//! read while acknowledgements and arrivals are waited for. The attempt ends when all have arrived, at the horizon
//! (`lost_after`), or when the check is next due; what is then still pending gets its fate by [`Ask::afterwards`].
//!
//! With `sessions: fresh`, both sides log in anew for each attempt; the receiving session lingers after it, so that
//! late and further copies are seen, and the next attempt reads it out and closes it once its own is open. With
//! `sessions: kept`, both stay open; one that broke is opened anew and that is told as a reconnection; and every
//! `login_every`, and whenever a message is absent, a login is made for its own sake, so that refused logins are told
//! apart from a broken delivery.
//!
//! Retained, old and forged messages, and those of strangers, never count as an arrival. Duplicates, foreign messages
//! and inversions are facts of the observation and never fail it.
//!
//! What is about to be sent is in the store before it is sent, where there is one: after a crash, messages in flight
//! get their fate, and their copies are known for the check's own and taken off the server. Nothing is taken off it
//! before its fate has been told, and nothing else ever.
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
mod sessions;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

pub use self::options::{LOST_AFTER, Manner, SLOW};
use self::{options::Resolved, sessions::State};
use super::{Answer, Ask, CheckKind, Context, Families, Past, Settings, fenced, panicked};
use crate::{
    clock,
    delivery::{
        CheckKey, Identity, Key, Ledger, Terms,
        ledger::{ENTRIES_MAX, Sending, Verdict},
        tracer,
    },
    observation::{Accept, Correction, Flight, Kind, Login, Observation, Phase, Reason, Side},
    protocol::{Attempt, Boxed, Receiver, SendSession, Sender, wire::Family},
    value::{CheckName, Timestamp},
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
        let Resolved { sender, receiver, manner } = options::read(options, settings)?;
        Some(Arc::new(DeliveryAsk::new(name.clone(), sender, receiver, manner)))
    },
};

/// Longest wait for a session's goodbye: it says nothing about the delivery any more.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// Longest wait until what is about to be sent is in the store. A store that hangs must not stop the monitoring; then
/// only a crash at this moment would leave a message that nobody knows.
const JOURNAL_MAX: Duration = Duration::from_secs(2);

/// Within how many timeouts all messages of a burst are handed over; what is not sent by then is left out.
const BURST_TIMEOUTS: u32 = 2;

/// Asks whether messages get through.
pub struct DeliveryAsk {
    name: CheckName,
    sender: Box<dyn Sender>,
    receiver: Box<dyn Receiver>,
    manner: Manner,
    state: Mutex<State>,
}

/// What came of sending all messages of an attempt.
struct SentAll {
    /// Whether the session is still good.
    is_whole: bool,
    /// Whether there is anything to wait for.
    waits: bool,
    /// When the last one was sent.
    last: Instant,
}

/// When the waiting of an attempt ended.
struct Sent {
    ended: Instant,
}

impl DeliveryAsk {
    /// A delivery from this sender to this receiver.
    pub fn new(name: CheckName, sender: Box<dyn Sender>, receiver: Box<dyn Receiver>, manner: Manner) -> Self {
        let key = Key::new(&clock::random_bytes());
        let state = Mutex::new(State::new(key, &name, terms(sender.as_ref(), &manner)));
        Self { name, sender, receiver, manner, state }
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
        let identities = self.identities(state);
        self.write_down(state, cx, &identities, context.at).await;
        let mut session = match opened {
            Ok(session) => session,
            Err(reason) => return Ok(self.unreachable(state, identities[0], context.at, &reason)),
        };
        let sent = self.send_all(state, cx, context, session.as_mut(), &identities).await;
        let mut aside = Attempt::new(context.net.clone(), cx.family(), context.at, sent.last, false);
        let goodbye = async {
            if sent.is_whole && self.manner.kept {
                return Some(session);
            }
            // One that did not answer in time is not waited for again.
            if sent.is_whole {
                let _ = tokio::time::timeout(CLOSE_MAX, session.close(&mut aside)).await;
            }
            None
        };
        if !sent.waits {
            let ended = clock::instant();
            state.sending = self.alongside(state, goodbye).await;
            return Ok(Sent { ended });
        }
        let until = self.wait_until(sent.last, cx.started(), context.wait_max);
        let (session, ended) = tokio::join!(goodbye, self.wait(state, cx, context.at, until));
        state.sending = session;
        Ok(Sent { ended })
    }

    /// Until when an attempt waits: for the horizon, or until the check is next due. Fresh sessions wait for the
    /// objective in any case; kept ones see the arrival also while the next attempt is made.
    fn wait_until(&self, sent: Instant, started: Instant, wait_max: Option<Duration>) -> Instant {
        let horizon = sent + self.manner.horizon;
        let Some(wait) = wait_max else { return horizon };
        let due = started + wait;
        horizon.min(if self.manner.kept { due } else { due.max(sent + self.manner.objective) })
    }

    /// Who the messages of an attempt are.
    fn identities(&self, state: &mut State) -> Vec<Identity> {
        let sent_at = clock::now();
        let is_stored = state.journal.is_some();
        (0..self.manner.burst)
            .map(|_| {
                state.sequence = state.lane.after(state.sequence);
                let nonce = marked(clock::random_seed(), is_stored);
                Identity { check: state.check, sequence: state.sequence, sent_at, nonce }
            })
            .collect()
    }

    /// Nothing is sent before the store knows of it, so that nothing is unknown after a crash.
    async fn write_down(&self, state: &mut State, cx: &mut Attempt, identities: &[Identity], observed_at: Timestamp) {
        let Some(journal) = state.journal.clone() else { return };
        let flight = |i: &Identity| Flight::new(i.sequence, i.nonce, i.sent_at, observed_at);
        let writing = tokio::time::timeout(JOURNAL_MAX, journal.sending(identities.iter().map(flight).collect()));
        if matches!(self.alongside(state, writing).await, Ok(Ok(()))) {
            state.unstored_from = None;
        } else {
            state.unstored_from = state.unstored_from.or(identities.first().map(|i| i.sequence));
            cx.detail("not_stored_before_sending", true);
        }
    }

    /// The one message that is on the account of a sending side that cannot be reached.
    fn unreachable(&self, state: &mut State, identity: Identity, observed_at: Timestamp, reason: &Reason) -> Sent {
        let at = clock::instant();
        state.ledger.sent(Sending { identity, observed_at, at });
        let reason = on_side("sending side", reason);
        state.ledger.answered(identity.sequence, Accept::Unreachable, at, Some(reason));
        Sent { ended: clock::instant() }
    }

    /// Sends all messages.
    async fn send_all(
        &self,
        state: &mut State,
        cx: &mut Attempt,
        context: &Context,
        session: &mut dyn SendSession,
        identities: &[Identity],
    ) -> SentAll {
        let timeout = context.settings.timeout;
        let until = clock::instant() + timeout * BURST_TIMEOUTS;
        let mut sent = SentAll { is_whole: true, waits: false, last: clock::instant() };
        for (n, identity) in identities.iter().enumerate() {
            if n > 0 && clock::instant() >= until {
                cx.detail("burst_cut_after", n);
                break;
            }
            let composed = tracer::compose(&state.key, identity, self.sender.carries());
            let at = clock::instant();
            sent.last = at;
            state.ledger.sent(Sending { identity: *identity, observed_at: context.at, at });
            state.ledger.left_out(context.at, composed.left_out);
            let accept = self.send(state, cx, timeout, session, identity.sequence, &composed.payload).await;
            state.ledger.left_out(context.at, session.left_out());
            sent.waits |= matches!(accept, Accept::Accepted | Accept::Uncertain);
            if matches!(accept, Accept::Uncertain | Accept::Unreachable) {
                sent.is_whole = false;
                break;
            }
        }
        sent
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
        cx.side(Some(Side::Send));
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
        if matches!(accept, Accept::Uncertain | Accept::Unreachable) {
            state.sending_broke = reason.as_ref().map(|r| r.text.clone());
        }
        state.ledger.answered(sequence, accept, at, reason);
        accept
    }

    /// Waits for the messages, at most until then; tells when the wait ended.
    async fn wait(&self, state: &mut State, cx: &mut Attempt, observed_at: Timestamp, until: Instant) -> Instant {
        if !state.ledger.is_settled(observed_at) {
            cx.side(Some(Side::Receive));
            cx.phase(Phase::Deliver);
            let arrival = async {
                while state.listening.is_some() && !state.ledger.is_settled(observed_at) {
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

    /// The verdict on what was sent, with what was seen of the sessions beside it.
    async fn book(&self, state: &mut State, cx: &mut Attempt, context: &Context, ended: Instant) -> Option<Verdict> {
        let login: Option<Login> = self.log_in(state, context, ended).await;
        let reconnections = std::mem::take(&mut state.reconnections);
        state.ledger.sessions(context.at, login, reconnections);
        let (verdict, details) = state.ledger.book(context.at, ended)?;
        for (name, value) in &details {
            cx.detail(name, value.clone());
        }
        Some(verdict)
    }

    async fn attempt_with(&self, state: &mut State, context: Context) -> Answer {
        state.masker = context.net.masker.clone();
        let family = match context.settings.ip {
            Families::Any | Families::Both => Family::Any,
            Families::Ipv4 => Family::V4,
            Families::Ipv6 => Family::V6,
        };
        let started = clock::instant();
        let mut cx = Attempt::new(context.net.clone(), family, context.at, started, context.explain);
        let asked = async {
            let sent = self.exchange(state, &mut cx, &context).await;
            match sent {
                Ok(Sent { ended }) => (Ok(self.book(state, &mut cx, &context, ended).await), ended),
                Err(reason) => (Err(reason), clock::instant()),
            }
        };
        let (verdict, ended) = match fenced(&self.name, asked).await {
            Ok(answer) => answer,
            Err(text) => (Err(panicked(&cx, &text)), clock::instant()),
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
    }
}

/// A nonce whose last bit tells the messages that a store knows of from those of a `bongsu probe`, which are nobody's but
/// its own as long as it runs.
fn marked(nonce: u64, is_stored: bool) -> u64 {
    nonce & !1 | u64::from(is_stored)
}

fn terms(sender: &dyn Sender, manner: &Manner) -> Terms {
    Terms { objective: manner.objective, horizon: manner.horizon, sender: sender.target() }
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
        // Both openings, the sends, the wait, a login for its own sake, and the goodbyes of it all.
        settings.timeout * (3 + BURST_TIMEOUTS + 1) + self.manner.horizon + CLOSE_MAX * 4 + JOURNAL_MAX
    }

    fn attempt<'a>(&'a self, context: Context) -> Boxed<'a, Answer> {
        Box::pin(async move {
            let mut state = self.state.lock().await;
            self.attempt_with(&mut state, context).await
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

    fn too_often(&self, every: Duration) -> Option<(String, &'static str)> {
        let attempts = self.manner.horizon.as_millis() / every.as_millis().max(1);
        let messages = attempts.saturating_mul(u128::from(self.manner.burst));
        (messages > ENTRIES_MAX as u128).then(|| {
            let text =
                format!("{messages} messages are sent until one counts as lost, and {ENTRIES_MAX} are remembered");
            (text, "ask less often, send a smaller `burst`, or lower `lost_after`")
        })
    }

    fn sends(&self) -> bool {
        true
    }

    fn resume<'a>(&'a self, past: Past) -> Boxed<'a, Vec<Observation>> {
        Box::pin(async move {
            let mut state = self.state.lock().await;
            let why =
                Reason::new(Phase::Deliver, Kind::Own, "the agent was restarted while the message was on its way");
            let check = CheckKey::new(&past.key, &self.name);
            state.ledger = Ledger::new(check, terms(self.sender.as_ref(), &self.manner));
            // Who keeps nothing had no earlier run.
            state.taken_up = past.journal.is_some().then(clock::now);
            let untold = state.ledger.resume(&past.flights, clock::now(), clock::instant(), &why);
            (state.key, state.check, state.journal, state.lane) = (past.key, check, past.journal, past.lane);
            state.sequence = past.sequence;
            let told = |(at, verdict): (Timestamp, Verdict)| {
                let mut observation = Observation::new(at, verdict.outcome, Duration::ZERO);
                (observation.reason, observation.delivery) = (verdict.reason, Some(verdict.delivery));
                observation
            };
            untold.into_iter().map(told).collect()
        })
    }

    fn close<'a>(&'a self) -> Boxed<'a, ()> {
        Box::pin(async move {
            let mut state = self.state.lock().await;
            let _ = fenced(&self.name, self.close_all(&mut state)).await;
        })
    }
}

#[cfg(test)]
mod tests;
