//! How the core's thread has written what was decided, and what it does when the store does not.
//!
//! A commit waits in the [`Backlog`](super::backlog) from its decision until it is written; usually that is at once. A
//! store that cannot write (no space, no right to, another program's lock, a failing disk, a file found damaged) holds
//! nobody up: it is tried again with growing pauses, commands and checks are answered from memory meanwhile, and the
//! log says it once for each kind of failure. Nor does one that does not come back: the work is done on a thread of its
//! own ([`Hand`](super::hand)), is waited for as long as a disk may take, and counts as not written until it is known what
//! came of it. While there is trouble, a try is waited for only so long as one takes that goes well.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    hand::{Done, HANG_MAX, Refusal, Renames, Work},
    heart::{Beating, Reply, STEP_MAX, Setup},
    past::Remembered,
};
use crate::{
    alert::Message,
    clock,
    decide::Commit,
    incident::Incident,
    store::{Maintained, RESERVE_BYTES, Resumed, StoreError},
    value::{CheckName, Timestamp},
    web::control::StoreTrouble,
};

/// Most commits of one transaction: large enough that a busy minute costs few fsyncs, small enough that an alert waits
/// for milliseconds.
pub(super) const GROUP_MAX: usize = 512;

/// How long a try is waited for while there is trouble: many times what a transaction takes on a disk that works, so that
/// what waits is written without a pause once it does; little enough that nobody notices the tries before.
const TRY_MAX: Duration = Duration::from_millis(250);

/// How long a new plan may wait for what is read for it, with the checks it changes and all channels at rest: what
/// thousands of checks go on from lies all over the file. Beyond it the old plan goes on.
const PREPARE_MAX: Duration = Duration::from_secs(15);

/// How long a check that begins waits for a disk that does not answer, before it begins without what it could go on from:
/// better watched so than not at all.
const RESUME_MAX: Duration = Duration::from_secs(30);

/// A check that waits for the store to say what it goes on from.
pub(super) struct Resuming {
    pub(super) check: CheckName,
    pub(super) since: Instant,
    pub(super) reply: oneshot::Sender<Reply>,
}

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

    /// Looks what has come of a try that was not waited for, tries to write what waits, if it is time, and lets alerts go
    /// when that has failed for too long.
    pub(super) fn write_if_due(&mut self) -> Result<(), StoreError> {
        if self.hand.is_busy() {
            self.look(Duration::ZERO)?;
        }
        if self.backlog.is_due(clock::instant()) {
            self.write_all()?;
        }
        self.say_if_over();
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
    fn write_all(&mut self) -> Result<(), StoreError> {
        loop {
            let most = if self.singly > 0 { 1 } else { GROUP_MAX };
            if self.hand.is_busy() {
                return Ok(());
            }
            let Some(group) = self.backlog.hand_over(most) else { break };
            self.written = clock::instant();
            if !self.ask(Work::Commit(group))? {
                return Ok(());
            }
        }
        self.say_if_over();
        Ok(())
    }

    /// Writes what it can before the end, and says what is lost.
    pub(super) fn write_last(&mut self) -> Result<(), StoreError> {
        self.ending = true;
        // A try that was not waited for is now, unless it is one that hangs.
        self.look(if self.hand.hangs() { Duration::ZERO } else { HANG_MAX })?;
        self.write_all()?;
        if self.backlog.is_empty() {
            return Ok(());
        }
        tracing::error!(
            changes = self.backlog.len(),
            "stopped before the store wrote again; these changes are lost{}",
            match self.backlog.handed() {
                0 => String::new(),
                handed => format!(", but perhaps the {handed} among them that the disk has and has not answered for"),
            }
        );
        Ok(())
    }

    // -----------------------------------------------------------------------------------------------------------
    // What the store is given, and what comes of it

    /// Gives the store something to do and waits, within bounds. Whether it was done, so that the store can go on.
    fn ask(&mut self, work: Work) -> Result<bool, StoreError> {
        // To try and to be refused is progress, and so is to stop waiting: nothing hangs here.
        self.beat.within(STEP_MAX);
        self.hand.give(work, clock::instant());
        let another_comes = self.backlog.trouble().is_some() && !self.ending;
        self.look(if another_comes { TRY_MAX } else { HANG_MAX })
    }

    /// Waits at most so long for what comes of the work that was given, and sees to it. Whether it was done.
    fn look(&mut self, most: Duration) -> Result<bool, StoreError> {
        if let Some((done, took)) = self.hand.wait(most) {
            return self.settle(done, took);
        }
        let now = clock::instant();
        if let Some((since, error)) = self.hand.begins_to_hang(now) {
            let at = clock::now() - now.saturating_duration_since(since);
            if self.backlog.hangs((at, since), error.clone()) {
                let waiting = self.backlog.len();
                tracing::error!(
                    error,
                    waiting,
                    "the store does not write; what is decided waits in memory until it does"
                );
            }
        }
        Ok(false)
    }

    fn settle(&mut self, done: Done, took: Duration) -> Result<bool, StoreError> {
        match done {
            Done::Committed(result) => return self.committed(result, took),
            // Of a plan that was put off meanwhile. Nothing was written since under the new names.
            Done::Prepared(_, renamed) if !renamed.is_empty() => return self.ask(Work::RenameBack(renamed)),
            Done::Prepared(..) | Done::RenamedBack => {}
            Done::Resumed(check, resumed) => self.resumed(&check, resumed),
            Done::Maintained(result) => self.maintained(result),
            Done::Reserved(result) => self.reserved(result),
        }
        Ok(true)
    }

    fn committed(&mut self, result: Result<(), Refusal>, took: Duration) -> Result<bool, StoreError> {
        let count = self.backlog.handed();
        match result {
            Ok(()) => {
                self.outlets.telemetry.committed(count, took);
                self.singly = self.singly.saturating_sub(count);
                let messages = self.backlog.written(self.written);
                self.post(&messages);
                Ok(true)
            }
            Err(Refusal { error, .. }) if is_final(&error) => {
                self.backlog.take_back();
                // One of them contradicts what is stored; the others do not suffer for it.
                if count > 1 {
                    tracing::debug!(%error, "the changes of this group are written one by one");
                    self.singly = count;
                } else if self.backlog.strip_first() {
                    tracing::error!(%error, "an observation is not stored, because of what is stored before it");
                    self.singly = 0;
                } else {
                    return Err(error);
                }
                Ok(true)
            }
            Err(Refusal { error, released: true }) => {
                tracing::error!(
                    %error,
                    "the disk is full: the reserve of {} MiB beside the database is given up for what matters",
                    RESERVE_BYTES / 1024 / 1024
                );
                self.backlog.take_back();
                self.backlog.spare_space(true);
                Ok(true)
            }
            Err(Refusal { error, released: false }) => {
                self.could_not(&error);
                Ok(false)
            }
        }
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

    /// Nothing waits any more, neither here nor for the disk.
    fn say_if_over(&mut self) {
        if self.hand.is_busy() || !self.backlog.is_empty() {
            return;
        }
        if let Some(over) = self.backlog.recovered() {
            tracing::warn!(
                since = %over.since.to_seconds_text(),
                dropped = over.dropped,
                "the store writes again; what was decided meanwhile is written{}",
                if over.told { ", and what was told without a row has its row" } else { "" }
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

    /// What the core goes on from under a new plan, and what was renamed for it; or why the store cannot say.
    pub(super) fn prepare(&mut self, now: Timestamp, setup: &Arc<Setup>) -> Result<(Remembered, Renames), String> {
        if let Some(trouble) = self.backlog.trouble() {
            return Err(trouble.error.clone());
        }
        self.beat.within(STEP_MAX);
        let tracked = setup.plan.checks.keys().filter(|name| self.core.tracks(name)).cloned().collect();
        self.hand.give(Work::Prepare(setup.clone(), now, tracked), clock::instant());
        if let Some((Done::Prepared(past, renamed), _)) = self.hand.wait(PREPARE_MAX) {
            return past.map(|past| (past, renamed)).map_err(|e| e.to_string());
        }
        self.look(Duration::ZERO).map_err(|e| e.to_string())?;
        Err(self.backlog.trouble().map_or_else(|| "the store did not answer in time".into(), |t| t.error.clone()))
    }

    /// Has read what checks go on from, as soon as the store holds all of it: on a disk that is full from the start, at
    /// once.
    pub(super) fn resume(&mut self) -> Result<(), StoreError> {
        while !self.hand.is_busy() {
            let ready = self.resuming.iter().map(|r| &r.check).find(|check| !self.backlog.concerns(check)).cloned();
            let Some(check) = ready else { return Ok(()) };
            self.ask(Work::Resume(check))?;
        }
        let Some(trouble) = self.backlog.trouble().filter(|_| self.hand.hangs()) else { return Ok(()) };
        let now = clock::instant();
        for waited in self.resuming.extract_if(.., |r| now.saturating_duration_since(r.since) >= RESUME_MAX) {
            let _ = waited.reply.send(Reply::Resumed(Err(trouble.error.clone())));
        }
        Ok(())
    }

    /// What was read too long ago, so that more is known of the check by now, is read again.
    fn resumed(&mut self, check: &CheckName, resumed: Result<Resumed, StoreError>) {
        if self.backlog.concerns(check) {
            return;
        }
        if let Some(position) = self.resuming.iter().position(|r| r.check == *check) {
            let Resuming { reply, .. } = self.resuming.remove(position);
            let _ = reply.send(Reply::Resumed(resumed.map_err(|e| e.to_string())));
        }
    }

    /// Has a piece of upkeep done.
    pub(super) fn maintain(&mut self) -> Result<(), StoreError> {
        self.upkeep_left = false;
        if self.backlog.trouble().is_none() {
            self.ask(Work::Maintain(clock::now(), self.setup.keep))?;
        }
        Ok(())
    }

    fn maintained(&mut self, result: Result<Maintained, StoreError>) {
        match result {
            Ok(done) => {
                tracing::debug!(?done, "upkeep of the store");
                if done.put_off {
                    tracing::warn!(
                        "the clock is days ahead of what was recorded last: until it has been steady for an hour, nothing \
                         is rolled up or deleted"
                    );
                }
                self.upkeep_left = done.more;
                if self.upkeep_error.take().is_some() {
                    tracing::warn!("upkeep of the store works again");
                }
            }
            Err(error) => {
                let told = error.to_string();
                if self.upkeep_error.as_ref() != Some(&told) {
                    tracing::error!(%error, "upkeep of the store failed; it is tried again each minute");
                    self.upkeep_error = Some(told);
                }
            }
        }
    }

    /// Has space set aside again, once there is enough.
    pub(super) fn keep_reserve(&mut self) -> Result<(), StoreError> {
        if !self.hand.is_busy() {
            self.ask(Work::Reserve)?;
        }
        Ok(())
    }

    fn reserved(&mut self, result: std::io::Result<bool>) {
        match result {
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

    // -----------------------------------------------------------------------------------------------------------
    // What is shown

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
            hangs: self.hand.hangs(),
            incidents: self.unread_incidents(),
        })
    }

    /// Incidents that nobody can read in the file as they are: while the disk does not answer, also what is written there.
    fn unread_incidents(&self) -> Vec<Incident> {
        let mut found = self.backlog.incidents();
        if self.hand.hangs() {
            found.retain(|i| !i.is_open());
            found.extend(self.core.open_incidents().cloned());
        }
        found
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
}

/// Whether trying again cannot help: another process that reads what is there anew can. A file found damaged is not among
/// it: what is in memory is sound, and an agent that goes on watching and telling is worth more than one that cannot
/// start again.
fn is_final(error: &StoreError) -> bool {
    matches!(error, StoreError::Inconsistent { .. })
}
