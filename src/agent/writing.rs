//! How the core's thread writes what was decided, and what it does when the store does not.
//!
//! A commit waits in the [`Backlog`](super::backlog) from its decision until it is written; usually that is at once. A
//! store that cannot write (no space, no right to, another program's lock, a failing disk, a file found damaged) holds
//! nobody up: it is tried again with growing pauses, commands and checks are answered from memory meanwhile, and the
//! log says it once for each kind of failure.

use std::sync::atomic::Ordering;

use super::heart::{Beating, STEP_MAX};
use crate::{
    alert::Message,
    clock,
    decide::Commit,
    store::{RESERVE_BYTES, StoreError},
    web::control::StoreTrouble,
};

/// Most commits of one transaction: large enough that a busy minute costs few fsyncs, small enough that an alert waits
/// for milliseconds.
pub(super) const GROUP_MAX: usize = 512;

impl Beating {
    /// Takes in commits, shows what they say, and writes them as soon as the store lets it.
    ///
    /// # Errors
    /// When trying again cannot help: what was decided of an incident or an alert contradicts what is stored.
    pub(super) fn write(&mut self, commits: Vec<Commit>) -> Result<(), StoreError> {
        self.show(&commits);
        let seen = self.backlog.hold(commits);
        self.post(&seen);
        self.write_if_due()
    }

    /// Tries to write what waits, if it is time, and lets alerts go when that has failed for too long.
    pub(super) fn write_if_due(&mut self) -> Result<(), StoreError> {
        if self.backlog.is_due(clock::instant()) {
            self.write_all()?;
        }
        self.tell_without_rows();
        self.outlets.behind.store(self.backlog.trouble().is_some(), Ordering::Release);
        // What is gathered while all is well is no trouble.
        let waits = self.backlog.trouble().is_some() || self.backlog.spares_space();
        self.outlets.telemetry.unwritten(if waits { self.backlog.len() } else { 0 }, self.backlog.dropped());
        Ok(())
    }

    /// Writes also what is held back to spare space; not while the store does not write, which is tried in its time.
    pub(super) fn write_rest(&mut self) -> Result<(), StoreError> {
        if self.backlog.trouble().is_some() { Ok(()) } else { self.write_all() }
    }

    /// Tries to write all that waits, now. When it returns `Ok`, it may still wait.
    pub(super) fn write_all(&mut self) -> Result<(), StoreError> {
        let mut most = GROUP_MAX;
        while !self.backlog.is_empty() {
            let begun = clock::instant();
            self.written = begun;
            // To try and to be refused is progress: nothing hangs.
            self.beat.within(STEP_MAX);
            let group = self.backlog.first(most);
            let count = group.len();
            match self.writer.commit(group) {
                Ok(()) => {
                    self.outlets.telemetry.committed(count, clock::instant().saturating_duration_since(begun));
                    let messages = self.backlog.written(count, begun);
                    self.post(&messages);
                }
                // One of them contradicts what is stored; the others do not suffer for it.
                Err(error) if is_final(&error) && count > 1 => {
                    tracing::debug!(%error, "the changes of this group are written one by one");
                    most = 1;
                }
                Err(error) if is_final(&error) && self.backlog.strip_first() => {
                    tracing::error!(%error, "an observation is not stored, because of what is stored before it");
                    most = GROUP_MAX;
                }
                Err(error) if is_final(&error) => return Err(error),
                Err(error) if self.writer.release_reserve(&error) => {
                    tracing::error!(
                        %error,
                        "the disk is full: the reserve of {} MiB beside the database is given up for what matters",
                        RESERVE_BYTES / 1024 / 1024
                    );
                    self.backlog.spare_space(true);
                }
                Err(error) => {
                    self.could_not(&error);
                    return Ok(());
                }
            }
        }
        if let Some(over) = self.backlog.recovered() {
            tracing::warn!(
                since = %over.since.to_seconds_text(),
                dropped = over.dropped,
                "the store writes again; what was decided meanwhile is written{}",
                if over.told { ", and what was told without a row has its row" } else { "" }
            );
        }
        Ok(())
    }

    /// One line for each new kind of failure, not for each try.
    fn could_not(&mut self, error: &StoreError) {
        let news = self.backlog.failed(clock::now(), clock::instant(), error.to_string());
        if news {
            tracing::error!(
                %error,
                waiting = self.backlog.len(),
                "the store does not write; it is tried again until it does, and what is decided waits in memory"
            );
        }
    }

    fn tell_without_rows(&mut self) {
        if self.backlog.begins_to_tell(clock::instant()) {
            tracing::error!("the store still does not write: alerts are sent before they are recorded");
        }
        let messages = self.backlog.untold();
        self.post(&messages);
    }

    /// Shows messages to their channels.
    fn post(&mut self, messages: &[Message]) {
        if messages.is_empty() {
            return;
        }
        self.outlets.board.publish(messages);
        let (depth, oldest) = self.outlets.board.depth();
        self.outlets.telemetry.outbox(depth, oldest);
    }

    /// What is known as soon as it is decided: how checks stand, what happened to incidents, whether the agent is
    /// isolated, when the core is to be given the time.
    fn show(&mut self, commits: &[Commit]) {
        let mut moved = false;
        for commit in commits {
            if let Some((check, observation)) = &commit.observation {
                self.last.insert(check.clone(), observation.into());
            }
            if let Some(row) = &commit.state {
                moved |= self.log_state(row);
            }
            for line in &commit.timeline {
                tracing::info!(incident = line.incident.0, entry = line.entry.as_str(), "{}", line.text);
            }
        }
        if moved {
            self.stand();
        }
        // Before any message is shown: an isolation holds back also those that wait for their rows.
        self.outlets.board.hold(self.core.isolation().is_some());
        let next = self.core.next_timeout();
        self.outlets.timeout.send_if_modified(|timeout| std::mem::replace(timeout, next) != next);
    }

    /// Why the store does not write, for people; `None` when it does.
    pub(super) fn trouble(&self) -> Option<StoreTrouble> {
        let trouble = self.backlog.trouble()?;
        Some(StoreTrouble {
            since: trouble.since,
            error: trouble.error.clone(),
            waiting: self.backlog.len(),
            dropped: self.backlog.dropped(),
            telling: trouble.telling,
            incidents: self.backlog.incidents(),
        })
    }

    /// What somebody is told whose wish was taken and is not written yet.
    pub(super) fn unwritten(&self) -> Option<String> {
        if let Some(trouble) = self.backlog.trouble() {
            return Some(format!(
                "it is taken and will be recorded as soon as the store writes again; should bongsu end before, it is \
                 lost: {}",
                trouble.error
            ));
        }
        let spared = "the disk is full, and what changes nothing is recorded once a minute";
        (self.backlog.spares_space() && !self.backlog.is_empty()).then(|| spared.into())
    }

    /// Space set aside again, once there is enough.
    pub(super) fn keep_reserve(&mut self) {
        match self.writer.keep_reserve() {
            Ok(held) => {
                if held && self.backlog.spares_space() {
                    tracing::warn!("the disk has space again, and the reserve beside the database is made anew");
                }
                if !held && !self.backlog.spares_space() && !self.reserve_told {
                    tracing::warn!("the disk is nearly full: no space can be set aside beside the database");
                }
                self.backlog.spare_space(!held && self.backlog.spares_space());
                self.reserve_told = !held;
            }
            Err(error) if !std::mem::replace(&mut self.reserve_told, true) => {
                tracing::warn!(%error, "no space can be set aside beside the database; it is tried again each minute");
            }
            Err(_) => {}
        }
    }
}

/// Whether trying again cannot help: another process that reads what is there anew can. A file found damaged is not among
/// it: what is in memory is sound, and an agent that goes on watching and telling is worth more than one that cannot
/// start again.
fn is_final(error: &StoreError) -> bool {
    matches!(error, StoreError::Inconsistent { .. })
}
