//! Virtual time: what really passes, the machine's two clocks, and what happens when.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use bongsu::value::Timestamp;

/// True time, in milliseconds since the world began.
pub type Ms = i64;

/// What the wall clock shows when a world begins.
const EPOCH: i64 = 1_795_348_800_000;

/// A span in milliseconds.
pub fn ms(span: Duration) -> Ms {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// The clocks of the machine.
pub struct Clock {
    /// What has really passed.
    pub now: Ms,
    /// For how long of it the machine slept.
    pub slept: Ms,
    /// By how much the wall clock was set.
    pub set: Ms,
    /// The instant at which the monotonic clock began; any will do, because only differences are looked at.
    base: Instant,
}

impl Clock {
    /// Clocks at the beginning of a world.
    pub fn new() -> Self {
        Self { now: 0, slept: 0, set: 0, base: bongsu::clock::instant() }
    }

    /// The wall clock.
    pub fn wall(&self) -> Timestamp {
        Timestamp::from_millis(EPOCH + self.now + self.set)
    }

    /// The monotonic clock, which does not run while the machine sleeps.
    pub fn instant(&self) -> Instant {
        self.base + Duration::from_millis(u64::try_from(self.now - self.slept).unwrap_or(0))
    }

    /// How long from now until a monotonic instant.
    pub fn until(&self, instant: Instant) -> Ms {
        ms(instant.saturating_duration_since(self.instant()))
    }
}

/// Whose an event is: the world's own go on while the agent is stopped and the machine asleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The world.
    World,
    /// This run of the agent.
    Run(u64),
}

struct Entry<W> {
    at: Ms,
    number: u64,
    owner: Owner,
    what: W,
}

impl<W> PartialEq for Entry<W> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl<W> Eq for Entry<W> {}

impl<W> PartialOrd for Entry<W> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<W> Ord for Entry<W> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// What is to happen, in order of time; of one time, in the order in which it was planned.
pub struct Queue<W> {
    heap: BinaryHeap<Reverse<Entry<W>>>,
    number: u64,
}

impl<W> Queue<W> {
    /// An empty one.
    pub fn new() -> Self {
        Self { heap: BinaryHeap::new(), number: 0 }
    }

    /// Plans something.
    pub fn push(&mut self, at: Ms, owner: Owner, what: W) {
        self.number += 1;
        self.heap.push(Reverse(Entry { at, number: self.number, owner, what }));
    }

    /// The next that happens, unless it is later than `end`.
    pub fn pop(&mut self, end: Ms) -> Option<(Ms, Owner, W)> {
        if self.heap.peek().is_none_or(|Reverse(entry)| entry.at > end) {
            return None;
        }
        self.heap.pop().map(|Reverse(e)| (e.at, e.owner, e.what))
    }

    /// The machine sleeps for so long: the timers of the agent wait, the world does not.
    pub fn sleep(&mut self, span: Ms) {
        let entries = std::mem::take(&mut self.heap).into_vec();
        self.heap = entries
            .into_iter()
            .map(|Reverse(mut entry)| {
                if matches!(entry.owner, Owner::Run(_)) {
                    entry.at += span;
                }
                Reverse(entry)
            })
            .collect();
    }
}
