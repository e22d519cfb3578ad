//! The store's thread, and the core's end of it.
//!
//! A system call on a dying disk or a hung network file system may not return for minutes, and nobody can call it back.
//! So the store's one writer lives on a thread of its own, where nothing waits but what must. The core hands it one piece
//! of work at a time, and waits for what comes of it: nearly always for milliseconds, never longer than it has said. What
//! is not back by then is still with the store: it may come to be done or to fail, so it is neither given again nor taken
//! back, and nothing else is handed over before it is known which.
//!
//! Work is given by its owner, never copied: a group of commits is shared until it is written, and is whole again in one
//! hand after that.

use std::{
    collections::HashSet,
    io,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use super::{
    heart::Setup,
    past::{Remembered, rename, rename_back, restore},
};
use crate::{
    clock,
    decide::Commit,
    store::{Keep, Maintained, Resumed, StoreError, Writer},
    value::{CheckName, TimeSpan, Timestamp},
};

/// How long the store may be at one piece of work before the disk counts as one that does not answer. Longer than it
/// waits for another program's transaction, which it has words of its own for, and than a disk with much to do usually
/// takes; all that the core has to decide waits for as long, once. Less than the time after which alerts go without their
/// rows, so that those that come meanwhile are not late either.
pub(super) const HANG_MAX: Duration = Duration::from_secs(3);

/// Something for the store to do.
pub(super) enum Work {
    /// Write these commits in one transaction.
    Commit(Arc<Vec<Commit>>),
    /// Rename checks and read what the core goes on from under a new plan, but for checks that it tracks already.
    Prepare(Arc<Setup>, Timestamp, HashSet<CheckName>),
    /// Undo these renames: their plan did not come into force.
    RenameBack(Renames),
    /// Read what a check goes on from.
    Resume(CheckName),
    /// Do a piece of upkeep.
    Maintain(Timestamp, Keep),
    /// Set space aside.
    Reserve,
}

impl Work {
    /// What it is, for people.
    fn what(&self) -> &'static str {
        match self {
            Self::Commit(_) => "a write to the database",
            Self::Prepare(..) => "reading from the database for a new configuration",
            Self::RenameBack(_) => "renaming checks in the database",
            Self::Resume(_) => "reading from the database what a check goes on from",
            Self::Maintain(..) => "upkeep of the database",
            Self::Reserve => "a write to the reserve beside the database",
        }
    }
}

/// Checks that were given another name: the old one, the new one.
pub(super) type Renames = Vec<(CheckName, CheckName)>;

/// What came of a piece of work.
pub(super) enum Done {
    /// The group is written, or nothing of it is.
    Committed(Result<(), Refusal>),
    /// What the core goes on from, and what was renamed for it.
    Prepared(Result<Remembered, StoreError>, Renames),
    /// What this check goes on from.
    Resumed(CheckName, Result<Resumed, StoreError>),
    /// A piece of upkeep.
    Maintained(Result<Maintained, StoreError>),
    /// Whether space is set aside.
    Reserved(io::Result<bool>),
    /// Renames are undone, as far as the store could.
    RenamedBack,
}

/// Why a group is not written.
pub(super) struct Refusal {
    pub(super) error: StoreError,
    /// Whether the reserve was given up for it, so that it may fit now.
    pub(super) released: bool,
}

/// The core's end.
pub(super) struct Hand {
    /// Gone when no more work comes.
    work: Option<mpsc::SyncSender<Work>>,
    done: mpsc::Receiver<Done>,
    opened: Option<mpsc::Receiver<Result<Remembered, StoreError>>>,
    busy: Option<Busy>,
    thread: Option<thread::JoinHandle<()>>,
}

/// What the store is at.
struct Busy {
    what: &'static str,
    since: Instant,
    /// Whether it was said that it takes too long.
    said: bool,
}

impl Hand {
    /// Starts the thread, which opens the store first.
    pub(super) fn start(path: PathBuf, setup: Arc<Setup>) -> io::Result<Self> {
        let (work, given) = mpsc::sync_channel(1);
        let (result, done) = mpsc::sync_channel(1);
        let (first, opened) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("store".into()).spawn(move || {
            let mut writer = match open(path, &setup) {
                Ok((writer, past)) => {
                    let _ = first.send(Ok(past));
                    writer
                }
                Err(error) => {
                    let _ = first.send(Err(error));
                    return;
                }
            };
            drop(setup);
            // Until the core's end is gone; then the file is closed.
            while let Ok(work) = given.recv() {
                if result.send(carry_out(&mut writer, work)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { work: Some(work), done, opened: Some(opened), busy: None, thread: Some(thread) })
    }

    /// Waits until the store is open, however long its check takes: what the core goes on from.
    pub(super) fn open(&mut self) -> Result<Remembered, StoreError> {
        match self.opened.take().map(|opened| opened.recv()) {
            Some(Ok(opened)) => opened,
            Some(Err(_)) | None => self.died(),
        }
    }

    /// Whether it is at something; then nothing else can be given.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.is_some()
    }

    /// Whether it was said that what it is at takes too long.
    pub(super) fn hangs(&self) -> bool {
        self.busy.as_ref().is_some_and(|busy| busy.said)
    }

    /// Gives it something to do. It must be free.
    pub(super) fn give(&mut self, work: Work, now: Instant) {
        debug_assert!(self.busy.is_none(), "one piece of work at a time");
        self.busy = Some(Busy { what: work.what(), since: now, said: false });
        // A channel of one takes what a free thread has not fetched yet, without waiting.
        if self.work.as_ref().is_none_or(|to| to.send(work).is_err()) {
            self.died();
        }
    }

    /// Waits for what comes of its work, at most so long: that, and how long it took.
    pub(super) fn wait(&mut self, most: Duration) -> Option<(Done, Duration)> {
        let busy = self.busy.as_ref()?;
        match self.done.recv_timeout(most) {
            Ok(done) => {
                let took = clock::instant().saturating_duration_since(busy.since);
                self.busy = None;
                Some((done, took))
            }
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            Err(mpsc::RecvTimeoutError::Disconnected) => self.died(),
        }
    }

    /// Whether what it is at takes too long, which is said once: since when, and the words for it.
    pub(super) fn begins_to_hang(&mut self, now: Instant) -> Option<(Instant, String)> {
        let busy = self.busy.as_mut()?;
        if busy.said || now.saturating_duration_since(busy.since) < HANG_MAX {
            return None;
        }
        busy.said = true;
        Some((busy.since, words(busy.what)))
    }

    /// A bug there is a bug here: the core ends by it as if it were its own.
    fn died(&mut self) -> ! {
        match self.thread.take().map(thread::JoinHandle::join) {
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            Some(Ok(())) | None => panic!("the store's thread ended unasked"),
        }
    }
}

impl Drop for Hand {
    /// Lets the thread close the file, and end. One that hangs is left to itself: it ends with the process.
    fn drop(&mut self) {
        self.work = None;
        let Some(thread) = self.thread.take() else { return };
        if self.busy.is_some() {
            return;
        }
        // Nothing comes any more but the end of the channel.
        if !matches!(self.done.recv_timeout(HANG_MAX), Err(mpsc::RecvTimeoutError::Timeout)) {
            // Its bugs have been told.
            let _ = thread.join();
        }
    }
}

/// Words for a disk that does not answer: the same each time, so that they are told once.
fn words(what: &str) -> String {
    format!(
        "the disk does not answer: {what} has not come back within {}, and nothing else is tried until it has; look at \
         the kernel's log, and whether the file system is still there",
        TimeSpan(HANG_MAX)
    )
}

fn open(path: PathBuf, setup: &Setup) -> Result<(Writer, Remembered), StoreError> {
    let now = clock::now();
    let mut writer = Writer::open(&path, now)?;
    let (_, past) = prepare(&mut writer, setup, now, &HashSet::new());
    Ok((writer, past?))
}

/// Renames checks and reads what the core goes on from, which writes what is new in the plan: on a full disk, into the
/// space of the reserve. What was renamed, also if the rest fails.
fn prepare(
    writer: &mut Writer,
    setup: &Setup,
    now: Timestamp,
    tracked: &HashSet<CheckName>,
) -> (Renames, Result<Remembered, StoreError>) {
    let mut renamed = Renames::new();
    let mut once = |writer: &mut Writer| {
        let (done, result) = rename(writer, &setup.renames);
        renamed.extend(done);
        result.and_then(|()| restore(writer, setup, now, tracked))
    };
    let mut result = once(writer);
    if let Err(error) = &result
        && writer.release_reserve(error)
    {
        tracing::error!(%error, "the disk is full: the reserve beside the database is given up to go on");
        result = once(writer);
    }
    (renamed, result)
}

fn carry_out(writer: &mut Writer, work: Work) -> Done {
    match work {
        Work::Commit(group) => {
            let result = writer.commit(&group);
            // Before anything is said of it: the core then has the only one.
            drop(group);
            Done::Committed(result.map_err(|error| Refusal { released: writer.release_reserve(&error), error }))
        }
        Work::Prepare(setup, now, tracked) => match prepare(writer, &setup, now, &tracked) {
            (renamed, Ok(past)) => Done::Prepared(Ok(past), renamed),
            (renamed, Err(error)) => {
                rename_back(writer, &renamed);
                Done::Prepared(Err(error), Renames::new())
            }
        },
        Work::RenameBack(renamed) => {
            rename_back(writer, &renamed);
            Done::RenamedBack
        }
        Work::Resume(check) => {
            let resumed = writer.resume(&check);
            Done::Resumed(check, resumed)
        }
        Work::Maintain(now, keep) => Done::Maintained(writer.maintain_by(now, clock::uptime(), &keep)),
        Work::Reserve => Done::Reserved(writer.keep_reserve()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rusqlite::Connection;

    use super::*;
    use crate::{
        decide::{Plan, StateRow},
        store::Watched,
    };

    fn name(text: &str) -> CheckName {
        text.parse().expect("a good name")
    }

    fn state_of(check: &str) -> Arc<Vec<Commit>> {
        let row = StateRow { check: name(check), state: "down", since: Timestamp::EPOCH, memory: 5.into() };
        Arc::new(vec![Commit { state: Some(row), ..Commit::default() }])
    }

    fn setup(check: &str, formerly: Option<&str>) -> Arc<Setup> {
        let (window, interval) = (Duration::from_secs(600), Duration::from_secs(30));
        let renames = formerly.map(|old| (name(old), name(check)));
        let keep = Keep { raw: window, blocks: window, daily: window };
        let watched = vec![Watched { check: name(check), window, interval }];
        let vantage = "test-1".parse().expect("a good name");
        let plan = Plan { vantage, checks: BTreeMap::new(), routes: Vec::new(), channels: BTreeMap::new() };
        Arc::new(Setup { plan: Arc::new(plan), watched, renames: renames.into_iter().collect(), keep })
    }

    /// A hand with a database of its own, in a directory that goes with it.
    fn hand() -> (tempfile::TempDir, Hand) {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let mut hand = Hand::start(dir.path().join("b.db"), setup("mail/old", None)).expect("a thread");
        hand.open().expect("a fresh database");
        (dir, hand)
    }

    fn names(dir: &tempfile::TempDir) -> Vec<String> {
        let file = Connection::open(dir.path().join("b.db")).expect("own file");
        let mut statement =
            file.prepare("SELECT k.name FROM state s JOIN known_check k ON k.id = s.check_id").expect("SQL");
        let rows = statement.query_map([], |row| row.get(0)).expect("rows");
        rows.map(|row| row.expect("a name")).collect()
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_is_not_back_in_time_is_waited_for_again_and_said_once() {
        let (dir, mut hand) = hand();
        let other = Connection::open(dir.path().join("b.db")).expect("own file");
        other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
        let (group, begun) = (state_of("mail/old"), clock::instant());
        hand.give(Work::Commit(group.clone()), begun);
        assert!(hand.wait(Duration::from_millis(50)).is_none() && hand.is_busy());
        assert!(hand.begins_to_hang(begun + HANG_MAX - Duration::from_millis(1)).is_none() && !hand.hangs());
        let (since, words) = hand.begins_to_hang(begun + HANG_MAX).expect("it takes too long");
        assert!(since == begun && words.starts_with("the disk does not answer: a write to the database"), "{words}");
        assert!(hand.begins_to_hang(begun + LONG).is_none() && hand.hangs(), "said once");
        let Some((Done::Committed(Err(refusal)), took)) = hand.wait(LONG) else { panic!("another has the lock") };
        assert!(matches!(refusal.error, StoreError::Busy { .. }) && !refusal.released, "{}", refusal.error);
        assert!(took < HANG_MAX, "a lock is not taken for a disk that does not answer: {took:?}");
        assert!(!hand.is_busy() && !hand.hangs() && hand.wait(Duration::ZERO).is_none());
        assert_eq!(Arc::strong_count(&group), 1, "the store has let go of it");
        other.execute_batch("ROLLBACK").expect("it had the lock");
        hand.give(Work::Commit(group.clone()), begun);
        assert!(matches!(hand.wait(LONG), Some((Done::Committed(Ok(())), _))));
        assert_eq!((Arc::strong_count(&group), names(&dir)), (1, vec!["mail/old".into()]));
        drop((other, hand));
        assert!(!dir.path().join("b.db-wal").exists(), "the file is closed by then");
    }

    #[test]
    fn a_plan_that_does_not_come_into_force_leaves_the_old_names() {
        let (dir, mut hand) = hand();
        let now = clock::instant();
        hand.give(Work::Commit(state_of("mail/old")), now);
        assert!(matches!(hand.wait(LONG), Some((Done::Committed(Ok(())), _))));
        hand.give(Work::Prepare(setup("mail/new", Some("mail/old")), Timestamp::EPOCH, HashSet::new()), now);
        let Some((Done::Prepared(Ok(remembered), renamed), _)) = hand.wait(LONG) else { panic!("it can be read") };
        assert_eq!(remembered.past.instance.len(), 32, "the database's own identity");
        assert_eq!(
            (renamed.clone(), names(&dir)),
            (vec![(name("mail/old"), name("mail/new"))], vec!["mail/new".into()])
        );
        hand.give(Work::RenameBack(renamed), now);
        assert!(matches!(hand.wait(LONG), Some((Done::RenamedBack, _))));
        assert_eq!(names(&dir), ["mail/old"]);
    }

    #[test]
    fn a_store_that_cannot_be_opened_says_why() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let mut hand = Hand::start(dir.path().join("gone/b.db"), setup("mail/old", None)).expect("a thread");
        assert!(matches!(hand.open(), Err(StoreError::NoDirectory { .. })));
    }
}
