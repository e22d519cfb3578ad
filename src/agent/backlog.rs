//! What is decided and not written yet, above all while the store cannot write.
//!
//! Deciding goes on whatever the disk does. Commits wait here, in order, and are written when the store writes again;
//! tries are spaced out, and nobody sleeps over them. A new message is shown to its channel when its row is written;
//! what becomes of one that was shown is shown at once, or it would be sent again while its result waits. When the
//! store has not written for [`TELL_AFTER`], it is shown without: an outage that nobody is told of because the
//! monitor's own disk is full is the one failure a monitor must not have. Its key is the one its row will have, and
//! what comes of it is one more commit that waits; so once the store writes again the row says that it was delivered,
//! and it is told once. Only if the process ends before, nothing is known of it, and an outage that still lasts is
//! told anew, under another key.
//!
//! While all is well, what changes nothing waits here too, for [`GATHER_EVERY`] at most.
//!
//! The oldest are handed to the store as a group. They still wait, and are known as such, until it is said that they are
//! written, which ends them, or that they are not, which makes them the oldest again. While a write hangs neither is
//! known: such a group is neither handed over again nor changed.
//!
//! Memory is bounded: beyond [`HELD_MAX`] commits, the group that is handed over aside, the oldest lose first the
//! observations that changed nothing, then everything that a later commit says anew.
//!
//! Neither clock, file nor thread: times are arguments.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    alert::{Message, MessageId, MessageState},
    decide::Commit,
    incident::{Incident, IncidentId},
    observation::{Observation, Outcome},
    value::{CheckName, Timestamp},
};

/// Most commits held: a thousand checks, each asked twice a minute, fill it in ten minutes, in some 20 MB.
const HELD_MAX: usize = 20_000;

/// Most timeline lines held once it comes to dropping.
const LINES_MAX: usize = 5_000;

/// First pause before the store is tried again; each further one is twice as long.
const PAUSE_FIRST: Duration = Duration::from_secs(1);

/// Longest: so soon at the latest a disk with space again is noticed.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// How long the store may fail before alerts are sent without their rows: longer than another program's transaction
/// usually takes, short beside the time an outage takes to be confirmed.
pub(super) const TELL_AFTER: Duration = Duration::from_secs(5);

/// While the reserve is used up and the disk is full, what changes nothing is written together this seldom: each
/// transaction takes pages of its own, and the space is for the next incident.
const FRUGAL_EVERY: Duration = Duration::from_secs(60);

/// How long what changes nothing may wait to be written with others: a transaction costs as much as several attempts.
/// What a crash takes of it is time of which nothing is known, and less than it takes to start again.
const GATHER_EVERY: Duration = Duration::from_millis(250);

/// As many are written at once.
const GATHER_MAX: usize = 512;

/// Kinds of failure remembered as told: a disk that dies hangs, fails and hangs again.
const TOLD_MAX: usize = 16;

/// Why and since when the store does not write.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub(super) since: Timestamp,
    pub(super) error: String,
    began: Instant,
    try_at: Instant,
    pause: Duration,
    /// The errors that were told.
    told: Vec<String>,
    /// Whether messages are shown without their rows.
    pub(super) telling: bool,
}

/// The commits that wait.
#[derive(Default)]
pub(super) struct Backlog {
    commits: Vec<Commit>,
    /// Older than these: the group that the store has.
    handed: Option<Arc<Vec<Commit>>>,
    /// New messages as they are now, which no row tells of yet and no channel has seen.
    unseen: BTreeMap<MessageId, Message>,
    trouble: Option<Trouble>,
    /// Observations dropped since the trouble began.
    dropped: u64,
    /// Whether the reserve is used up, and when something was last written.
    frugal: bool,
    written: Option<Instant>,
}

/// What was over when the store wrote again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recovered {
    pub(super) since: Timestamp,
    pub(super) dropped: u64,
    pub(super) told: bool,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.commits.is_empty() && self.handed.is_none()
    }

    pub(super) fn len(&self) -> usize {
        self.handed() + self.commits.len()
    }

    /// How many of them the store has.
    pub(super) fn handed(&self) -> usize {
        self.handed.as_ref().map_or(0, |group| group.len())
    }

    fn all(&self) -> impl Iterator<Item = &Commit> {
        self.handed.iter().flat_map(|group| group.iter()).chain(&self.commits)
    }

    pub(super) fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether anything waits that tells of a check's messages.
    pub(super) fn concerns(&self, check: &CheckName) -> bool {
        let is_of = |name: Option<&CheckName>| name == Some(check);
        self.all().any(|c| {
            is_of(c.sending.as_ref().map(|(name, _)| name))
                || is_of(c.observation.as_ref().map(|(name, _)| name))
                || is_of(c.correction.as_ref().map(|(name, _)| name))
        })
    }

    /// Hands over the oldest, at most so many; nothing while a group is handed over, or when nothing waits.
    pub(super) fn hand_over(&mut self, most: usize) -> Option<Arc<Vec<Commit>>> {
        if self.handed.is_some() || self.commits.is_empty() {
            return None;
        }
        let group = if self.commits.len() <= most {
            std::mem::take(&mut self.commits)
        } else {
            self.commits.drain(..most).collect()
        };
        self.handed = Some(Arc::new(group));
        self.handed.clone()
    }

    /// Takes in what was decided; gives the messages to be shown at once, because their channels have seen them before.
    pub(super) fn hold(&mut self, commits: Vec<Commit>) -> Vec<Message> {
        let mut seen = Vec::new();
        for message in commits.iter().flat_map(|c| &c.messages) {
            let is_new = message.state == MessageState::Pending && message.attempts == 0;
            if is_new || self.unseen.contains_key(&message.id) {
                self.unseen.insert(message.id, message.clone());
            } else {
                seen.push(message.clone());
            }
        }
        let mut commits: Vec<Commit> = commits.into_iter().filter(|c| !c.is_empty()).collect();
        if self.commits.is_empty() {
            self.commits = commits;
        } else {
            self.commits.append(&mut commits);
        }
        self.thin(HELD_MAX);
        seen
    }

    /// Whether it is time to write what waits.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        if self.commits.is_empty() || self.handed.is_some() {
            return false;
        }
        match &self.trouble {
            Some(trouble) => now >= trouble.try_at,
            None if self.frugal => self.has_rested(now, FRUGAL_EVERY) || self.commits.iter().any(matters),
            None => {
                let enough = self.commits.len() >= GATHER_MAX || self.has_rested(now, GATHER_EVERY);
                enough || self.commits.iter().any(is_waited_for)
            }
        }
    }

    fn has_rested(&self, now: Instant, every: Duration) -> bool {
        self.written.is_none_or(|at| now.saturating_duration_since(at) >= every)
    }

    /// From now on space is spared, or not any more.
    pub(super) fn spare_space(&mut self, frugal: bool) {
        self.frugal = frugal;
    }

    pub(super) fn spares_space(&self) -> bool {
        self.frugal
    }

    /// The store did not write what was handed over, for this reason. Says whether that is news.
    pub(super) fn failed(&mut self, at: Timestamp, now: Instant, error: String) -> bool {
        self.take_back();
        let trouble = self.trouble_since(at, now);
        trouble.try_at = now + trouble.pause;
        trouble.pause = (trouble.pause * 2).min(PAUSE_MAX);
        trouble.is_for(error)
    }

    /// Since then the store has not come back from what it was given. Says whether that is news.
    pub(super) fn hangs(&mut self, since: (Timestamp, Instant), error: String) -> bool {
        self.trouble_since(since.0, since.1).is_for(error)
    }

    fn trouble_since(&mut self, at: Timestamp, began: Instant) -> &mut Trouble {
        self.trouble.get_or_insert_with(|| Trouble {
            since: at,
            error: String::new(),
            began,
            try_at: began,
            pause: PAUSE_FIRST,
            told: Vec::new(),
            telling: false,
        })
    }

    /// What was handed over is not written: it waits again, before all others.
    pub(super) fn take_back(&mut self) {
        let Some(group) = self.handed.take() else { return };
        // The store has let go of it, so this is the only one.
        let mut group = Arc::unwrap_or_clone(group);
        group.append(&mut self.commits);
        self.commits = group;
        self.thin(HELD_MAX);
    }

    /// What was handed over is written; gives the messages that have their row now and were not shown before.
    pub(super) fn written(&mut self, now: Instant) -> Vec<Message> {
        self.written = Some(now);
        if let Some(trouble) = &mut self.trouble {
            // It writes: what is left need not wait for the next try.
            trouble.try_at = now;
        }
        let Some(group) = self.handed.take() else { return Vec::new() };
        group.iter().flat_map(|c| &c.messages).filter_map(|m| self.unseen.remove(&m.id)).collect()
    }

    /// The oldest cannot be written because of what is stored of the observation it speaks of: it loses that, and keeps
    /// what it says of states, incidents and messages. Says whether there was anything to lose.
    pub(super) fn strip_first(&mut self) -> bool {
        let Some(first) = self.commits.first_mut() else { return false };
        let stripped = first.observation.is_some() || first.correction.is_some() || first.sending.is_some();
        (first.observation, first.correction, first.sending) = (None, None, None);
        self.dropped += u64::from(stripped);
        if first.is_empty() {
            self.commits.remove(0);
        }
        stripped
    }

    /// Everything is written: what is over, if there was trouble.
    pub(super) fn recovered(&mut self) -> Option<Recovered> {
        let dropped = std::mem::take(&mut self.dropped);
        let trouble = self.trouble.take()?;
        Some(Recovered { since: trouble.since, dropped, told: trouble.telling })
    }

    /// Whether alerts go without their rows from now on; says so once.
    pub(super) fn begins_to_tell(&mut self, now: Instant) -> bool {
        match &mut self.trouble {
            Some(trouble) if !trouble.telling && now.saturating_duration_since(trouble.began) >= TELL_AFTER => {
                trouble.telling = true;
                true
            }
            _ => false,
        }
    }

    /// Messages to be shown without their rows: each once.
    pub(super) fn untold(&mut self) -> Vec<Message> {
        if !self.trouble.as_ref().is_some_and(|t| t.telling) {
            return Vec::new();
        }
        std::mem::take(&mut self.unseen).into_values().collect()
    }

    /// Incidents as they are and as no row says yet.
    pub(super) fn incidents(&self) -> Vec<Incident> {
        let mut found: Vec<&Incident> = Vec::new();
        for incident in self.all().flat_map(|c| &c.incidents) {
            found.retain(|i| i.id != incident.id);
            found.push(incident);
        }
        found.into_iter().cloned().collect()
    }

    /// Beyond `most` commits, the older half loses what can be spared.
    fn thin(&mut self, most: usize) {
        if self.commits.len() <= most {
            return;
        }
        let old = self.commits.len() - most / 2;
        for commit in &mut self.commits[..old] {
            let plain = !matters(commit) && commit.observation.as_ref().is_some_and(|(_, o)| o.delivery.is_none());
            if plain && commit.observation.take().is_some() {
                self.dropped += 1;
            }
        }
        self.commits.retain(|c| !c.is_empty());
        if self.commits.len() > most * 3 / 4 {
            let old = self.commits.len() - most / 2;
            self.squeeze(old);
            self.commits.retain(|c| !c.is_empty());
        }
    }

    /// Of the oldest `old`, keeps only what no later commit says anew.
    fn squeeze(&mut self, old: usize) {
        let (mut states, mut incidents, mut messages) =
            (HashSet::<CheckName>::new(), HashSet::<IncidentId>::new(), HashSet::<MessageId>::new());
        let (mut lines, mut vantage) = (0, false);
        for (position, commit) in self.commits.iter_mut().enumerate().rev() {
            let is_old = position < old;
            if is_old {
                self.dropped += u64::from(commit.observation.take().is_some());
                (commit.sending, commit.correction) = (None, None);
            }
            if let Some(row) = &commit.state
                && !states.insert(row.check.clone())
                && is_old
            {
                commit.state = None;
            }
            commit.incidents.retain(|i| incidents.insert(i.id) || !is_old);
            commit.messages.retain(|m| messages.insert(m.id) || !is_old);
            if is_old && vantage {
                commit.vantage = None;
            }
            vantage |= commit.vantage.is_some();
            lines += commit.timeline.len();
            if is_old && lines > LINES_MAX {
                commit.timeline.clear();
            }
        }
    }
}

impl Trouble {
    /// It is for this reason now. Says whether that was never told of it.
    fn is_for(&mut self, error: String) -> bool {
        let news = error != self.error && !self.told.contains(&error);
        if news && self.told.len() < TOLD_MAX {
            self.told.push(error.clone());
        }
        self.error = error;
        news
    }
}

/// Whether a commit changes something beyond adding one more observation.
fn matters(commit: &Commit) -> bool {
    commit.state.is_some()
        || !commit.incidents.is_empty()
        || !commit.timeline.is_empty()
        || !commit.messages.is_empty()
        || commit.correction.is_some()
        || commit.vantage.is_some()
}

/// Whether somebody could miss it: all but a plain attempt that was fine.
fn is_waited_for(commit: &Commit) -> bool {
    let is_plain = |o: &Observation| o.outcome == Outcome::Ok && o.delivery.is_none();
    matters(commit) || commit.sending.is_some() || commit.observation.as_ref().is_some_and(|(_, o)| !is_plain(o))
}

#[cfg(test)]
mod tests;
