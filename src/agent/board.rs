//! What is committed and still to be sent, as the channels' tasks see it.
//!
//! The board is written by the core's thread, after the transaction that holds the message: so nothing is sent before
//! its row exists. Results go back as events.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{mpsc, watch};

use super::{
    heart::{self, Job},
    pulse::Beat,
};
use crate::{
    alert::{Message, MessageId, MessageState, message::Attempted, outbox},
    decide::Event,
    incident::IncidentId,
    notify::worker::{self, Queue},
    telemetry::Telemetry,
    value::{Name, Timestamp},
};

/// All messages not yet settled, by channel.
#[derive(Default)]
pub(crate) struct Board {
    pending: Mutex<HashMap<Name, BTreeMap<MessageId, Message>>>,
    changes: watch::Sender<u64>,
    /// Whether nothing is to be sent for now: the agent is isolated, and every attempt would only fail.
    held: AtomicBool,
}

impl Board {
    /// Takes in committed messages.
    pub(crate) fn publish<'m>(&self, messages: impl IntoIterator<Item = &'m Message>) {
        let mut changed = false;
        {
            let mut pending = self.lock();
            for message in messages {
                changed = true;
                let of_channel = pending.entry(message.channel.clone()).or_default();
                if message.state == MessageState::Pending {
                    of_channel.insert(message.id, message.clone());
                } else {
                    of_channel.remove(&message.id);
                }
            }
        }
        if changed {
            self.changes.send_modify(|n| *n += 1);
        }
    }

    /// Holds back all messages, or lets them go.
    pub(crate) fn hold(&self, held: bool) {
        if self.held.swap(held, Ordering::AcqRel) != held {
            self.changes.send_modify(|n| *n += 1);
        }
    }

    /// How many messages wait, and when the oldest of them was made.
    pub(crate) fn depth(&self) -> (usize, Option<Timestamp>) {
        let pending = self.lock();
        let all = pending.values().flat_map(BTreeMap::values);
        (pending.values().map(BTreeMap::len).sum(), all.map(|m| m.created_at).min())
    }

    /// The messages of a channel that may be sent at all: of each incident only the oldest, so that a receiver reads
    /// a story in its order.
    fn first_of_each<T>(&self, channel: &Name, take: impl FnOnce(&mut dyn Iterator<Item = &Message>) -> T) -> T {
        let pending = self.lock();
        let mut seen: Vec<IncidentId> = Vec::new();
        let mut firsts =
            pending.get(channel).into_iter().flat_map(BTreeMap::values).filter(|m| match m.alert.incident {
                Some(id) if seen.contains(&id) => false,
                Some(id) => {
                    seen.push(id);
                    true
                }
                None => true,
            });
        take(&mut firsts)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, BTreeMap<MessageId, Message>>> {
        // Only whole messages are inserted and removed, so a panic elsewhere leaves nothing half done.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a message may be sent now. A time further off than any pause the outbox makes was set under a clock that
/// has been put back since.
fn is_due(message: &Message, now: Timestamp) -> bool {
    message.next_at <= now || message.next_at.since(now) > outbox::RETRY_AFTER_MAX
}

/// One channel's view of the board.
pub(crate) struct Line {
    channel: Name,
    board: Arc<Board>,
    jobs: mpsc::Sender<Job>,
    telemetry: Arc<Telemetry>,
    beat: Beat,
}

impl Line {
    pub(crate) fn new(
        channel: Name,
        board: Arc<Board>,
        jobs: mpsc::Sender<Job>,
        telemetry: Arc<Telemetry>,
        beat: Beat,
    ) -> Self {
        Self { channel, board, jobs, telemetry, beat }
    }
}

impl Queue for Line {
    fn due(&self, now: Timestamp) -> Option<Message> {
        let held = self.board.held.load(Ordering::Acquire);
        let first = || {
            self.board.first_of_each(&self.channel, |firsts| {
                firsts.filter(|m| is_due(m, now)).min_by_key(|m| (m.next_at, m.id)).cloned()
            })
        };
        let message = if held { None } else { first() };
        // By then the loop has told what came of the message, or looks again.
        self.beat.within(if message.is_some() { worker::DELIVERY_MAX } else { worker::SLEEP_MAX });
        message
    }

    fn next_due(&self) -> Option<Timestamp> {
        if self.board.held.load(Ordering::Acquire) {
            return None;
        }
        self.board.first_of_each(&self.channel, |firsts| firsts.map(|m| m.next_at).min())
    }

    async fn attempted(&self, id: MessageId, result: Attempted) {
        self.telemetry.notified(&self.channel, &result);
        let event = Event::Attempted { message: id, result };
        let asked = heart::ask(&self.jobs, |reply| Job::Event { event, reply: Some(reply) });
        if let Err(error) = self.beat.kept(asked).await {
            tracing::warn!(channel = %self.channel, message = %id, %error, "the result of a delivery is not stored");
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.board.changes.subscribe()
    }
}
