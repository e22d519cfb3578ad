//! What the account holds of a message, and of the messages of an attempt.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use serde_json::{Map, Value};

use super::{Terms, Verdict};
use crate::{
    observation::{Accept, Fate, Flight, Integrity, Login, Reason, Reconnection},
    value::Timestamp,
};

/// What is known of a message.
pub(super) struct Entry {
    pub(super) sequence: u64,
    pub(super) nonce: u64,
    pub(super) sent_at: Timestamp,
    pub(super) at: Instant,
    pub(super) answer: Option<Answer>,
    pub(super) arrival: Option<Arrival>,
    pub(super) copies: VecDeque<Copied>,
    pub(super) duplicates: u32,
    pub(super) reordered: bool,
    pub(super) sight: Sight,
    pub(super) bounced: Option<String>,
}

pub(super) struct Answer {
    pub(super) accept: Accept,
    pub(super) after: Duration,
    pub(super) reason: Option<Reason>,
}

pub(super) struct Arrival {
    pub(super) latency: Duration,
    pub(super) integrity: Integrity,
    pub(super) part: Option<&'static str>,
    pub(super) flaw: Option<String>,
}

/// By what a copy is known again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Copied {
    Session(u64),
    Server(u64),
}

/// Whether somebody would see the message arrive.
#[derive(Clone)]
pub(super) enum Sight {
    /// A session listens.
    Clear,
    /// Nobody does, for this reason: its absence proves nothing.
    Blind(Reason),
    /// Somebody looks again: until then its absence proves nothing.
    Until(Instant),
}

/// The messages of one attempt.
pub(super) struct Batch {
    pub(super) observed_at: Timestamp,
    /// Of consecutive sequences.
    pub(super) entries: Vec<Entry>,
    pub(super) left_out: Vec<String>,
    pub(super) login: Option<Login>,
    pub(super) reconnections: Vec<Reconnection>,
    /// What was told last, the open flights aside.
    pub(super) booked: Option<Verdict>,
    /// Whether something happened since.
    pub(super) touched: bool,
    /// When the next of its horizons passes.
    pub(super) due: Option<Instant>,
    /// Evidence that came with what happened since.
    pub(super) details: Map<String, Value>,
}

impl Batch {
    pub(super) fn new(observed_at: Timestamp, first: Entry) -> Self {
        Self {
            observed_at,
            entries: vec![first],
            left_out: Vec::new(),
            login: None,
            reconnections: Vec::new(),
            booked: None,
            touched: false,
            due: None,
            details: Map::new(),
        }
    }

    pub(super) fn first(&self) -> u64 {
        self.entries.first().map_or(0, |e| e.sequence)
    }

    pub(super) fn age(&self, now: Instant) -> Duration {
        self.entries.last().map_or(Duration::ZERO, |e| now.saturating_duration_since(e.at))
    }

    pub(super) fn book(&mut self, terms: &Terms, now: Instant, mut verdict: Verdict) {
        verdict.delivery.open.clear();
        self.booked = Some(verdict);
        self.touched = false;
        self.due = self.next_horizon(terms, now);
    }

    /// Those of its messages are seen so from now on. Where there are none, a horizon that has passed and was not yet
    /// told stays due.
    pub(super) fn see(&mut self, terms: &Terms, now: Instant, which: impl Fn(&Entry) -> bool, sight: &Sight) {
        let mut changed = false;
        for entry in self.entries.iter_mut().filter(|e| which(e)) {
            entry.sight = sight.clone();
            changed = true;
        }
        if changed {
            self.touched = true;
            self.due = self.next_horizon(terms, now);
        }
    }

    /// When the first of the horizons passes that have not passed yet.
    pub(super) fn next_horizon(&self, terms: &Terms, now: Instant) -> Option<Instant> {
        let waiting = self.entries.iter().filter(|e| !e.is_settled());
        waiting.filter_map(|e| e.horizon(terms)).filter(|horizon| *horizon > now).min()
    }
}

impl Entry {
    pub(super) fn new(sequence: u64, nonce: u64, sent_at: Timestamp, at: Instant) -> Self {
        Self {
            sequence,
            nonce,
            sent_at,
            at,
            answer: None,
            arrival: None,
            copies: VecDeque::new(),
            duplicates: 0,
            reordered: false,
            sight: Sight::Clear,
            bounced: None,
        }
    }

    pub(super) fn flight(&self, observed_at: Timestamp, booked: bool) -> Flight {
        Flight {
            sequence: self.sequence,
            nonce: self.nonce,
            sent_at: self.sent_at,
            observed_at,
            answer: self.answer.as_ref().map(|a| (a.accept, a.after)),
            arrival: self.arrival.as_ref().map(|a| (a.latency, a.integrity)),
            bounced: self.bounced.is_some(),
            duplicates: self.duplicates,
            reordered: self.reordered,
            booked,
        }
    }

    /// A message of an earlier run, which nobody has listened for since (`why`).
    pub(super) fn resumed(flight: &Flight, at: Instant, why: &Reason) -> Self {
        let mut entry = Self::new(flight.sequence, flight.nonce, flight.sent_at, at);
        entry.answer = flight.answer.map(|(accept, after)| {
            let reason = (accept != Accept::Accepted).then(|| why.clone());
            Answer { accept, after, reason }
        });
        entry.arrival =
            flight.arrival.map(|(latency, integrity)| Arrival { latency, integrity, part: None, flaw: None });
        entry.bounced = flight.bounced.then(|| "see the log of that time".into());
        (entry.duplicates, entry.reordered) = (flight.duplicates, flight.reordered);
        entry.sight = Sight::Blind(why.clone());
        entry
    }

    pub(super) fn accept(&self) -> Accept {
        self.answer.as_ref().map_or(Accept::Uncertain, |a| a.accept)
    }

    /// Whether nothing but a further copy can be news.
    pub(super) fn is_settled(&self) -> bool {
        let unsent = self.answer.as_ref().is_some_and(|a| !matches!(a.accept, Accept::Accepted | Accept::Uncertain));
        self.arrival.is_some() || unsent || self.bounced.is_some()
    }

    /// When its absence becomes a loss; `None` while nobody would see it arrive.
    pub(super) fn horizon(&self, terms: &Terms) -> Option<Instant> {
        let horizon = self.at + terms.horizon;
        match self.sight {
            Sight::Clear => Some(horizon),
            Sight::Until(sighted) => Some(horizon.max(sighted)),
            Sight::Blind(_) => None,
        }
    }

    pub(super) fn fate(&self, terms: &Terms, now: Instant) -> Fate {
        match (&self.arrival, self.accept()) {
            (Some(arrival), _) if arrival.latency <= terms.objective => Fate::Arrived,
            (Some(_), _) => Fate::Late,
            (None, Accept::Rejected | Accept::Deferred | Accept::Unreachable) => Fate::Unsent,
            (None, _) if self.bounced.is_some() => Fate::Lost,
            (None, _) if self.horizon(terms).is_none_or(|horizon| now < horizon) => Fate::Pending,
            (None, Accept::Accepted) => Fate::Lost,
            (None, Accept::Uncertain) => Fate::Uncertain,
        }
    }
}
