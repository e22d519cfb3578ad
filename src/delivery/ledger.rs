//! The account of a check's messages: which arrived, when, how often, in which order, and which never did.
//!
//! It is fed with events and asked with a time; it sends nothing and waits for nothing. The messages of one attempt
//! (one, or a burst) form a batch, which is judged as one: its verdict is *booked* when the attempt ends. Whatever
//! changes that verdict later (a late arrival, a horizon that passes, a further copy, a bounce) comes out of
//! [`Ledger::poll`] as one [`Correction`].
//!
//! Where sessions are handed copies of their own (MQTT), a copy is a duplicate only within one session: a message
//! that two sessions saw was delivered to each of them once. Where a message stays on the server and every session
//! sees the same copies (mail), two copies are a duplicate and one copy seen twice is not. An inversion of the
//! sequence counts as reordering and as nothing else.
//!
//! What is open when the agent stops is taken up again by [`Ledger::resume`] from what the store kept.

mod entry;
mod judge;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use serde_json::{Map, Value};

use self::entry::{Answer, Arrival, Batch, Copied, Entry, Sight};
pub use self::judge::{arrived_after_all, shown};
use super::{CheckKey, Identity};
use crate::{
    observation::{Accept, Correction, Delivery, Fate, Flight, Integrity, Login, Outcome, Reason, Reconnection},
    value::Timestamp,
};

/// Most messages remembered; the oldest are forgotten. At twenty a second this covers a quarter of an hour, and a
/// check that sends more within its horizon is refused at load. About 200 bytes each.
pub const ENTRIES_MAX: usize = 20_000;

/// How long after its sending a lost message may still be corrected; nobody waits longer for one.
pub const FORGET_AFTER: Duration = Duration::from_secs(3_600);

/// Most copies (or sessions that saw it) remembered of one message, the oldest is forgotten.
const COPIES_MAX: usize = 32;

/// How long the absence of a message proves nothing after somebody looks again into a mailbox that kept what came
/// meanwhile: what is there must first be read.
pub const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What the check promises, and the words its reasons use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Arrived later than this counts as slow.
    pub objective: Duration,
    /// Absent until then counts as lost.
    pub horizon: Duration,
    /// What is sent to, for people.
    pub sender: String,
}

/// A message about to be sent.
#[derive(Clone, Debug)]
pub struct Sending {
    /// Which one.
    pub identity: Identity,
    /// The start of its attempt, by which corrections name it. Messages of one start form a batch.
    pub observed_at: Timestamp,
    /// When its latency begins to count.
    pub at: Instant,
}

/// A copy of a message that came in.
#[derive(Clone, Debug)]
pub struct Arriving {
    /// The receiving session that saw it.
    pub session: u64,
    /// The server's own identity of this copy, where all sessions see the same copies.
    pub copy: Option<u64>,
    /// How it fared.
    pub integrity: Integrity,
    /// Which part fared so, when it is not the payload.
    pub part: Option<&'static str>,
    /// Why it does not reach its reader as it should.
    pub flaw: Option<String>,
    /// When.
    pub at: Instant,
    /// What the protocol tells of it.
    pub details: Map<String, Value>,
}

/// What an arrival was to the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// The first copy.
    First,
    /// A further copy.
    Duplicate,
    /// Nothing new: another session saw this copy, or its own, before.
    SeenElsewhere,
    /// Nothing this ledger remembers having sent.
    Unknown,
}

/// A verdict on the messages of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// What the attempt came to.
    pub outcome: Outcome,
    /// The facts.
    pub delivery: Delivery,
    /// Why it is not `ok`.
    pub reason: Option<Reason>,
}

/// The account of one check.
pub struct Ledger {
    check: CheckKey,
    terms: Terms,
    /// In order of sending.
    batches: VecDeque<Batch>,
    /// Entries in all batches.
    entries: usize,
    /// The highest sequence that arrived.
    highest: Option<u64>,
    /// Messages of others since the last booking.
    foreign: u32,
}

impl Ledger {
    /// An empty account.
    pub fn new(check: CheckKey, terms: Terms) -> Self {
        Self { check, terms, batches: VecDeque::new(), entries: 0, highest: None, foreign: 0 }
    }

    /// Takes up what an earlier run left open, as of `wall` and `now`. Nobody has listened meanwhile (`why`), so the
    /// absence of these messages proves nothing until [`Ledger::look_again`]. Returns the verdicts that were never
    /// told, with the start of their attempts: pending.
    pub fn resume(
        &mut self,
        flights: &[Flight],
        wall: Timestamp,
        now: Instant,
        why: &Reason,
    ) -> Vec<(Timestamp, Verdict)> {
        let mut flights: Vec<&Flight> = flights.iter().filter(|f| wall.since(f.sent_at) < FORGET_AFTER).collect();
        flights.sort_by_key(|f| f.sequence);
        let mut untold = Vec::new();
        for flight in flights.into_iter().rev().take(ENTRIES_MAX).rev() {
            // Before the machine was started there is no instant; then it is as old as can be told.
            let at = now.checked_sub(wall.since(flight.sent_at)).unwrap_or(now);
            self.push(flight.observed_at, Entry::resumed(flight, at, why));
            if flight.arrival.is_some() {
                self.highest = self.highest.max(Some(flight.sequence));
            }
            if !flight.booked && untold.last() != Some(&flight.observed_at) {
                untold.push(flight.observed_at);
            }
        }
        let mut verdicts = Vec::new();
        for batch in &mut self.batches {
            let mut verdict = batch.verdict(&self.terms, now);
            if untold.contains(&batch.observed_at) {
                verdicts.push((batch.observed_at, verdict.clone()));
            }
            verdict.delivery.open.clear();
            batch.booked = Some(verdict);
            batch.due = batch.next_horizon(&self.terms, now);
        }
        verdicts
    }

    /// A message is about to be sent.
    pub fn sent(&mut self, sending: Sending) {
        let Identity { sequence, nonce, sent_at, .. } = sending.identity;
        self.push(sending.observed_at, Entry::new(sequence, nonce, sent_at, sending.at));
    }

    fn push(&mut self, observed_at: Timestamp, entry: Entry) {
        while self.entries >= ENTRIES_MAX
            && let Some(forgotten) = self.batches.pop_front()
        {
            self.entries -= forgotten.entries.len();
        }
        self.entries += 1;
        match self.batches.back_mut() {
            Some(batch) if batch.observed_at == observed_at && batch.booked.is_none() => batch.entries.push(entry),
            _ => self.batches.push_back(Batch::new(observed_at, entry)),
        }
    }

    /// The messages of the attempt that began then, as they are to be stored before they are sent.
    pub fn flights(&self, observed_at: Timestamp) -> Vec<Flight> {
        let batch = self.batches.iter().rev().find(|b| b.observed_at == observed_at);
        batch.map_or_else(Vec::new, |b| b.entries.iter().map(|e| e.flight(observed_at, false)).collect())
    }

    /// The sending side answered, or failed to: `reason` says why it is not an acceptance.
    pub fn answered(&mut self, sequence: u64, accept: Accept, at: Instant, reason: Option<Reason>) {
        if let Some((batch, entry)) = self.find(sequence) {
            let after = at.saturating_duration_since(batch.entries[entry].at);
            batch.entries[entry].answer = Some(Answer { accept, after, reason });
            batch.touched = true;
        }
    }

    /// What the messages of this attempt do not carry.
    pub fn left_out(&mut self, observed_at: Timestamp, what: impl IntoIterator<Item = String>) {
        let Some(batch) = self.batches.iter_mut().rev().find(|b| b.observed_at == observed_at) else { return };
        for what in what {
            if !batch.left_out.contains(&what) {
                batch.left_out.push(what);
            }
        }
    }

    /// What else was seen in the attempt: a login for its own sake, sessions opened anew.
    pub fn sessions(&mut self, observed_at: Timestamp, login: Option<Login>, reconnections: Vec<Reconnection>) {
        if let Some(batch) = self.batches.iter_mut().rev().find(|b| b.observed_at == observed_at) {
            (batch.login, batch.reconnections) = (login, reconnections);
        }
    }

    /// A tracer of this check came in.
    pub fn arrived(&mut self, identity: &Identity, arriving: Arriving) -> Sighting {
        let highest = self.highest;
        let known = identity.check == self.check;
        let found = self.find(identity.sequence).filter(|(batch, n)| {
            let entry = &batch.entries[*n];
            known && entry.nonce == identity.nonce && entry.sent_at == identity.sent_at
        });
        let Some((batch, entry)) = found else {
            self.foreign();
            return Sighting::Unknown;
        };
        let entry = &mut batch.entries[entry];
        let copied = arriving.copy.map_or(Copied::Session(arriving.session), Copied::Server);
        let seen = entry.copies.contains(&copied);
        // Of a message that arrived in an earlier run, the first copy is the one that was seen then.
        let knows_copies = !entry.copies.is_empty();
        if !seen {
            if entry.copies.len() == COPIES_MAX {
                entry.copies.pop_front();
            }
            entry.copies.push_back(copied);
        }
        let is_further = match copied {
            Copied::Session(_) => seen,
            Copied::Server(_) => !seen && knows_copies,
        };
        if is_further {
            entry.duplicates = entry.duplicates.saturating_add(1);
            batch.touched = true;
            return Sighting::Duplicate;
        }
        if entry.arrival.is_some() {
            return Sighting::SeenElsewhere;
        }
        entry.arrival = Some(Arrival {
            latency: arriving.at.saturating_duration_since(entry.at),
            integrity: arriving.integrity,
            part: arriving.part,
            flaw: arriving.flaw,
        });
        entry.reordered = highest.is_some_and(|h| h > identity.sequence);
        batch.touched = true;
        batch.details.extend(arriving.details);
        self.highest = highest.max(Some(identity.sequence));
        Sighting::First
    }

    /// A server says that it could not deliver this message.
    pub fn bounced(&mut self, identity: &Identity, text: &str) -> Sighting {
        let known = identity.check == self.check;
        let found = self.find(identity.sequence).filter(|(b, n)| known && b.entries[*n].nonce == identity.nonce);
        let Some((batch, entry)) = found else {
            self.foreign();
            return Sighting::Unknown;
        };
        let entry = &mut batch.entries[entry];
        let first = entry.bounced.is_none();
        entry.bounced.get_or_insert_with(|| text.to_owned());
        batch.touched = true;
        if first { Sighting::First } else { Sighting::SeenElsewhere }
    }

    /// A message came in that does not count: a stranger's, a stored, an old or a forged one.
    pub fn foreign(&mut self) {
        self.foreign = self.foreign.saturating_add(1);
    }

    /// Whether all messages of this attempt have met their fate: they arrived, bounced or were never accepted.
    pub fn is_settled(&self, observed_at: Timestamp) -> bool {
        let batch = self.batches.iter().rev().find(|b| b.observed_at == observed_at);
        batch.is_none_or(|b| b.entries.iter().all(Entry::is_settled))
    }

    /// Nobody listens any more, for this reason: from now on, the absence of what is pending proves nothing.
    pub fn blind(&mut self, now: Instant, reason: &Reason) {
        let is_pending = |e: &Entry| e.fate(&self.terms, now) == Fate::Pending && !matches!(e.sight, Sight::Blind(_));
        for batch in &mut self.batches {
            batch.see(&self.terms, now, is_pending, &Sight::Blind(reason.clone()));
        }
    }

    /// Somebody looks again into a mailbox that has kept what came meanwhile: what is absent there is absent.
    pub fn look_again(&mut self, now: Instant) {
        let was_blind = |e: &Entry| matches!(e.sight, Sight::Blind(_));
        for batch in &mut self.batches {
            batch.see(&self.terms, now, was_blind, &Sight::Until(now + LOOK_AGAIN));
        }
    }

    /// The verdict on an attempt's messages as it ends, with the evidence that came with them. What changes it
    /// afterwards comes out of [`Ledger::poll`]. `None` when nothing was sent.
    pub fn book(&mut self, observed_at: Timestamp, now: Instant) -> Option<(Verdict, Map<String, Value>)> {
        let foreign = std::mem::take(&mut self.foreign);
        let batch = self.batches.iter_mut().rev().find(|b| b.observed_at == observed_at)?;
        let mut verdict = batch.verdict(&self.terms, now);
        verdict.delivery.foreign = foreign;
        batch.book(&self.terms, now, verdict.clone());
        Some((verdict, std::mem::take(&mut batch.details)))
    }

    /// The next correction of a booked verdict as of `now`.
    pub fn poll(&mut self, now: Instant) -> Option<Correction> {
        let forget_after = FORGET_AFTER.max(self.terms.horizon * 2);
        while self.batches.front().is_some_and(|b| b.age(now) >= forget_after)
            && let Some(forgotten) = self.batches.pop_front()
        {
            self.entries -= forgotten.entries.len();
        }
        for batch in &mut self.batches {
            let Some(booked) = &batch.booked else { continue };
            if !batch.touched && batch.due.is_none_or(|due| due > now) {
                continue;
            }
            let mut verdict = batch.verdict(&self.terms, now);
            verdict.delivery.foreign = booked.delivery.foreign;
            let open = std::mem::take(&mut verdict.delivery.open);
            // Nothing new is known of a message whose text alone (how long it is absent) has changed.
            let is_news = (verdict.outcome, &verdict.delivery) != (booked.outcome, &booked.delivery);
            batch.book(&self.terms, now, verdict.clone());
            let details = std::mem::take(&mut batch.details);
            if is_news {
                verdict.delivery.open = open;
                let Verdict { outcome, delivery, reason } = verdict;
                return Some(Correction {
                    observed_at: batch.observed_at,
                    account: None,
                    outcome,
                    delivery,
                    reason,
                    details,
                });
            }
        }
        None
    }

    /// Whether a booked message may still meet another fate: pending, or lost not too long ago.
    pub fn is_outstanding(&self, now: Instant) -> bool {
        let is_open = |b: &&Batch| b.booked.as_ref().is_some_and(|told| !is_closed(told));
        self.batches.iter().filter(is_open).any(|b| {
            let open = |e: &Entry| !e.is_settled() && now.saturating_duration_since(e.at) < FORGET_AFTER;
            b.entries.iter().any(open)
        })
    }

    /// Whether a message was booked as lost and none of a higher sequence has come since: whoever listens may be deaf.
    pub fn has_lost_since_last_arrival(&self) -> bool {
        let newer = |b: &&Batch| self.highest.is_none_or(|h| b.entries.last().is_some_and(|e| e.sequence > h));
        self.batches.iter().rev().take_while(newer).any(|b| {
            let missing = |v: &Verdict| v.delivery.all_fates().lost + v.delivery.all_fates().uncertain > 0;
            b.booked.as_ref().is_some_and(missing)
        })
    }

    /// Whether the fate of a message has come out of [`Ledger::book`] or [`Ledger::poll`], so that it need not be found
    /// again to be known. One that is not remembered need not either.
    pub fn is_told(&self, sequence: u64) -> bool {
        let Some((batch, _)) = self.position(sequence) else { return true };
        let batch = &self.batches[batch];
        batch.booked.as_ref().is_some_and(|told| !batch.touched || is_closed(told))
    }

    /// When the next horizon of a booked message passes.
    pub fn next_horizon(&self) -> Option<Instant> {
        self.batches.iter().filter(|b| b.booked.is_some()).filter_map(|b| b.due).min()
    }

    fn find(&mut self, sequence: u64) -> Option<(&mut Batch, usize)> {
        let (batch, entry) = self.position(sequence)?;
        Some((&mut self.batches[batch], entry))
    }

    /// The batch of a message, and the message within it.
    fn position(&self, sequence: u64) -> Option<(usize, usize)> {
        let batch = self.batches.partition_point(|b| b.first() <= sequence).checked_sub(1)?;
        let entry = self.batches[batch].entries.iter().position(|e| e.sequence == sequence)?;
        Some((batch, entry))
    }
}

/// Whether no message of these may still meet another fate.
fn is_closed(told: &Verdict) -> bool {
    let fates = told.delivery.all_fates();
    fates.pending + fates.lost + fates.uncertain == 0
}

#[cfg(test)]
mod tests;
