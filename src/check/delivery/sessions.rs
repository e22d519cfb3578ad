//! The sessions of a delivery: opened, kept, heard, lost and opened anew.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;

use super::{CLOSE_MAX, DeliveryAsk, marked, on_side};
use crate::{
    check::{Context, Journal, Lane},
    clock,
    delivery::{Arriving, CheckKey, Identity, Key, Ledger, Seen, Sighting, Terms, ledger::FORGET_AFTER, tracer},
    observation::{Correction, Login, Phase, Reason, Reconnection, Side},
    protocol::{Arrival, Attempt, Nature, ReceiveSession, SendSession},
    value::{CheckName, Masker, Timestamp},
};

/// How long a receiving session lingers for further copies once nothing is outstanding; then it is closed politely,
/// instead of being held at the server until the next attempt.
const LINGER: Duration = Duration::from_secs(5);

/// Longest wait between two looks at the ledger while only losses are outstanding.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Most messages read at once without waiting: a flooded topic must not hold up an attempt.
const DRAIN_MAX: usize = 1_000;

/// Most own messages that wait to be taken off the server; what is beyond it is found by the next session.
const SPENT_MAX: usize = 10_000;

/// How much older than twice the horizon a message of this check must be, which nobody remembers and no earlier run
/// of the agent sent, to be a leftover: one of another process that asks the same question (`bongsu probe`) is still
/// awaited by it.
const LEFTOVER_SLACK: Duration = Duration::from_secs(60);

/// What is kept between attempts.
pub(super) struct State {
    pub(super) key: Key,
    pub(super) check: CheckKey,
    pub(super) ledger: Ledger,
    pub(super) sequence: u64,
    pub(super) lane: Lane,
    pub(super) journal: Option<Arc<dyn Journal>>,
    sessions: u64,
    pub(super) listening: Option<Listening>,
    /// Why the latest receiving session is gone.
    pub(super) broken: Option<Reason>,
    /// The kept sending session.
    pub(super) sending: Option<Box<dyn SendSession>>,
    /// Why the latest sending session is gone.
    pub(super) sending_broke: Option<String>,
    /// Sessions opened anew in this attempt.
    pub(super) reconnections: Vec<Reconnection>,
    /// Own messages to be taken off the server once what they showed has been told: after a crash before that, they
    /// are found again.
    spent: Vec<Spent>,
    /// From which sequence on nothing is stored before it is sent; `None` while the store writes.
    pub(super) unstored_from: Option<u64>,
    /// When a login was last made for its own sake, and whether it was let in.
    login: Option<(Instant, bool)>,
    pub(super) masker: Masker,
    /// When this run of the agent took the check up, if an earlier one may have left messages of it.
    pub(super) taken_up: Option<Timestamp>,
}

/// A message that is done with, as soon as it is told.
struct Spent {
    session: u64,
    handle: u64,
    sequence: u64,
}

pub(super) struct Listening {
    id: u64,
    session: Box<dyn ReceiveSession>,
}

impl State {
    pub(super) fn new(key: Key, name: &CheckName, terms: Terms) -> Self {
        let check = CheckKey::new(&key, name);
        Self {
            key,
            check,
            ledger: Ledger::new(check, terms),
            sequence: 0,
            lane: Lane::default(),
            journal: None,
            sessions: 0,
            listening: None,
            broken: None,
            sending: None,
            sending_broke: None,
            reconnections: Vec::new(),
            spent: Vec::new(),
            unstored_from: None,
            login: None,
            masker: Masker::default(),
            taken_up: None,
        }
    }

    /// Has the session take off the server what it handed out and has been told by now. What a session left that is
    /// gone is found by the next. To be asked as an attempt or a wait for corrections begins: what the one before gave
    /// back is stored by then.
    fn discard_spent(&mut self) {
        let Self { spent, ledger, listening, journal, unstored_from, .. } = self;
        // While the store does not write, what it knows to be on its way must stay to be found should the agent end.
        let keeps_up = journal.as_ref().is_none_or(|j| j.keeps_up());
        spent.retain(|spent| {
            let is_unknown = || unstored_from.is_some_and(|from| spent.sequence >= from);
            let Some(listening) = listening.as_mut().filter(|l| l.id == spent.session) else {
                return !ledger.is_told(spent.sequence);
            };
            let is_done = ledger.is_told(spent.sequence) && (keeps_up || is_unknown());
            if is_done {
                listening.session.discard(spent.handle);
            }
            !is_done
        });
    }
}

impl DeliveryAsk {
    // -----------------------------------------------------------------------------------------------------------
    // Opening

    /// Makes sure that somebody listens. A new session is opened while the old one is read out; gives the old one back
    /// to be closed. A kept session stays, unless a message was lost and nothing has come since: it may be deaf.
    pub(super) async fn listen(
        &self,
        state: &mut State,
        cx: &mut Attempt,
        timeout: Duration,
    ) -> Result<Option<Listening>, Reason> {
        state.reconnections.clear();
        state.discard_spent();
        let is_deaf = state.ledger.has_lost_since_last_arrival();
        if self.manner.kept && !is_deaf {
            self.drain(state).await;
            if state.listening.is_some() {
                return Ok(None);
            }
        }
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
        if self.manner.kept && state.sessions > 0 {
            let why = match (&state.broken, is_deaf) {
                (Some(reason), _) => reason.text.clone(),
                (None, true) => "a message was lost and nothing has come since".into(),
                (None, false) => "closed".into(),
            };
            state.reconnections.push(Reconnection { side: Side::Receive, why });
        }
        state.sessions += 1;
        state.broken = None;
        if self.receiver.keeps() {
            state.ledger.look_again(clock::instant());
        }
        let new = Listening { id: state.sessions, session };
        Ok(state.listening.replace(new))
    }

    /// The kept sending session, or a new one, opened while the old receiving one is closed.
    pub(super) async fn open_sender(
        &self,
        state: &mut State,
        cx: &mut Attempt,
        timeout: Duration,
        old: Option<Listening>,
    ) -> Result<Box<dyn SendSession>, Reason> {
        if let Some(kept) = state.sending.take() {
            self.alongside(state, closed(old)).await;
            return Ok(kept);
        }
        cx.side(Some(Side::Send));
        let deadline = clock::instant() + timeout;
        cx.set_deadline(deadline);
        let opening = tokio::time::timeout_at(deadline.into(), self.sender.open(cx));
        let (opened, ()) = self.alongside(state, async { tokio::join!(opening, closed(old)) }).await;
        let session = match opened {
            Ok(opened) => opened?,
            Err(_) => return Err(cx.overdue(timeout)),
        };
        if let Some(why) = state.sending_broke.take().filter(|_| self.manner.kept) {
            state.reconnections.push(Reconnection { side: Side::Send, why });
        }
        Ok(session)
    }

    /// A login on each side for its own sake, when one is due; one that was refused is tried again at each attempt, and
    /// beside a message that is absent one shows whether it is the sessions or the server.
    pub(super) async fn log_in(&self, state: &mut State, context: &Context, now: Instant) -> Option<Login> {
        let every = self.manner.login_every.filter(|_| self.manner.kept)?;
        let is_due = |(at, ok): (Instant, bool)| !ok || now.saturating_duration_since(at) >= every;
        if !state.login.is_none_or(is_due) && state.ledger.is_settled(context.at) {
            return None;
        }
        let timeout = context.settings.timeout;
        let started = clock::instant();
        let new = || Attempt::new(context.net.clone(), super::Family::Any, context.at, started, false);
        let (mut to_send, mut to_receive) = (new(), new());
        let both = async {
            let sending = tried(&mut to_send, timeout, !self.sender.is_exclusive(), async |cx: &mut Attempt| {
                let session = self.sender.open(cx).await?;
                let _ = tokio::time::timeout(CLOSE_MAX, session.close(cx)).await;
                Ok(())
            });
            let receiving = tried(&mut to_receive, timeout, !self.receiver.is_exclusive(), async |cx: &mut Attempt| {
                let session = self.receiver.open(cx).await?;
                let _ = tokio::time::timeout(CLOSE_MAX, session.close()).await;
                Ok(())
            });
            tokio::join!(sending, receiving)
        };
        let (sent, received) = self.alongside(state, both).await;
        if sent.is_none() && received.is_none() {
            return None;
        }
        let failure = |side: &str, tried: &Option<Result<(), Reason>>| {
            tried.as_ref().and_then(|t| t.as_ref().err()).map(|reason| on_side(side, reason))
        };
        let reason = failure("receiving side", &received).or_else(|| failure("sending side", &sent));
        let ended = clock::instant();
        state.login = Some((ended, reason.is_none()));
        Some(Login { ok: reason.is_none(), ms: ended.saturating_duration_since(started), reason })
    }

    // -----------------------------------------------------------------------------------------------------------
    // Listening

    /// Runs a future to its end while whoever listens is heard.
    pub(super) async fn alongside<T>(&self, state: &mut State, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                biased;
                done = &mut future => return done,
                () = self.hear(state) => {}
            }
        }
    }

    /// Hears one message, or that a session is gone. Waits forever when there is none.
    pub(super) async fn hear(&self, state: &mut State) {
        let State { listening, sending, .. } = state;
        let heard = async {
            match listening {
                Some(listening) => (listening.id, listening.session.next().await),
                None => std::future::pending().await,
            }
        };
        let idle = async {
            match sending {
                Some(session) => session.idle().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            (session, arrival) = heard => match arrival {
                Ok(arrival) => self.take(state, session, arrival),
                Err(reason) => {
                    let text = state.masker.mask(&reason.text);
                    let reason = on_side("receiving side", &Reason::new(Phase::Deliver, reason.kind, text));
                    state.ledger.blind(clock::instant(), &reason);
                    state.broken = Some(reason);
                    state.listening = None;
                }
            },
            reason = idle => {
                let text = state.masker.mask(&reason.text);
                state.sending_broke = Some(on_side("sending side", &Reason::new(Phase::Send, reason.kind, text)).text);
                state.sending = None;
            }
        }
    }

    /// Hears what has already come, without waiting.
    pub(super) async fn drain(&self, state: &mut State) {
        for _ in 0..DRAIN_MAX {
            if self.hear(state).now_or_never().is_none() {
                return;
            }
        }
    }

    /// Puts one message that came in on the account, and has it taken off the server if it is our own.
    fn take(&self, state: &mut State, session: u64, arrival: Arrival) {
        let seen = tracer::recognise(&state.key, state.check, &arrival.payload);
        let handle = arrival.handle;
        let sequence = match &seen {
            Seen::Ours(found) => found.identity.sequence,
            Seen::OtherCheck(_) | Seen::Unproven | Seen::Stranger => 0,
        };
        let is_own = match (seen, arrival.nature.clone()) {
            (Seen::Ours(found), Nature::Message) => {
                let sighting = state.ledger.arrived(&found.identity, arriving(session, found.integrity, arrival));
                sighting != Sighting::Unknown || self.is_leftover(state, &found.identity)
            }
            (Seen::Ours(found), Nature::Bounce(text)) => {
                let text = state.masker.mask(&text);
                let sighting = state.ledger.bounced(&found.identity, &text);
                sighting != Sighting::Unknown || self.is_leftover(state, &found.identity)
            }
            // The sender's own copy is no stranger's; what a server had retained is not what was just sent.
            (Seen::Ours(_), Nature::Kept) if handle.is_some() => true,
            (Seen::OtherCheck(sent_at), Nature::Message | Nature::Kept) => {
                state.ledger.foreign();
                clock::now().since(sent_at) > FORGET_AFTER + LEFTOVER_SLACK
            }
            (Seen::Ours(_) | Seen::OtherCheck(_) | Seen::Unproven | Seen::Stranger, _) => {
                state.ledger.foreign();
                false
            }
        };
        if let Some(handle) = handle.filter(|_| is_own && state.spent.len() < SPENT_MAX) {
            state.spent.push(Spent { session, handle, sequence });
        }
    }

    /// Whether nobody waits for a message of this check that the ledger does not know. What an earlier run had not
    /// told is known from the store; so what else it sent has been told, and the run ended before it took it off.
    fn is_leftover(&self, state: &State, identity: &Identity) -> bool {
        let is_stored = identity.nonce == marked(identity.nonce, true) && state.lane.has(identity.sequence);
        let was_told = is_stored && state.taken_up.is_some_and(|at| identity.sent_at < at);
        was_told || clock::now().since(identity.sent_at) > self.manner.horizon * 2 + LEFTOVER_SLACK
    }

    pub(super) async fn next_correction(&self, state: &mut State) -> Option<Correction> {
        let linger_until = clock::instant() + LINGER;
        state.discard_spent();
        loop {
            let now = clock::instant();
            if let Some(correction) = state.ledger.poll(now) {
                return Some(correction);
            }
            let horizon = state.ledger.next_horizon();
            let until = match (&state.listening, horizon) {
                (None, None) if state.sending.is_none() => return None,
                (_, Some(horizon)) => horizon.min(now + LOOK_EVERY),
                _ if self.manner.kept || state.ledger.is_outstanding(now) => now + LOOK_EVERY,
                _ if now < linger_until => linger_until,
                _ => {
                    state.discard_spent();
                    closed(state.listening.take()).await;
                    return None;
                }
            };
            let _ = tokio::time::timeout_at(until.into(), self.hear(state)).await;
        }
    }

    /// Says goodbye on both sides; what is to be taken off the server is.
    pub(super) async fn close_all(&self, state: &mut State) {
        // Dropped: a sending session leaves nothing behind, and a goodbye says nothing any more.
        state.sending = None;
        // What has just come and is news stays: nobody will tell it, so the next run finds it again. So do the messages
        // of an attempt that was cut off.
        self.drain(state).await;
        state.discard_spent();
        closed(state.listening.take()).await;
    }
}

async fn closed(old: Option<Listening>) {
    if let Some(old) = old {
        let _ = tokio::time::timeout(CLOSE_MAX, old.session.close()).await;
    }
}

/// One login within its timeout; `None` when it must not be tried beside the kept session.
async fn tried(
    cx: &mut Attempt,
    timeout: Duration,
    wanted: bool,
    login: impl AsyncFnOnce(&mut Attempt) -> Result<(), Reason>,
) -> Option<Result<(), Reason>> {
    if !wanted {
        return None;
    }
    let deadline = clock::instant() + timeout;
    cx.set_deadline(deadline);
    match tokio::time::timeout_at(deadline.into(), login(cx)).await {
        Ok(result) => Some(result),
        Err(_) => Some(Err(cx.overdue(timeout))),
    }
}

fn arriving(session: u64, integrity: crate::observation::Integrity, arrival: Arrival) -> Arriving {
    let (integrity, part) = match arrival.beside {
        Some((beside, part)) if beside > integrity => (beside, Some(part)),
        _ => (integrity, None),
    };
    let details = arrival.details.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Arriving { session, copy: arrival.copy, integrity, part, flaw: arrival.flaw, at: arrival.at, details }
}
