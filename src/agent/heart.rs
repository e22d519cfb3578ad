//! The thread on which the core decides.
//!
//! Jobs come through one bounded queue. The thread takes what is there, up to [`GROUP_MAX`], lets the core decide each,
//! and has all commits written in one transaction (by `hand.rs`); then it answers, and shows the messages to the channels.
//! What changes nothing may wait a moment, to be written with others. When the store cannot write, or does not come back
//! from it, what is decided waits in memory, everybody is answered from there, and writing is tried again: `writing.rs`
//! says how.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{
    mpsc::{self, error::TryRecvError},
    oneshot, watch,
};

use super::{
    AgentError,
    backlog::Backlog,
    board::Board,
    hand::Hand,
    past::Remembered,
    pulse::{Beat, Part, Pulse},
    service::Standing,
    writing::{GROUP_MAX, Resuming},
};
use crate::{
    clock,
    decide::{Changes, Commit, Core, Event, Plan, Refused, StateRow},
    detect::{Pace, State},
    incident::vantage::Isolation,
    store::{Keep, Resumed, StoreError, Watched},
    telemetry::{Queue, Telemetry},
    value::{CheckName, Name, Timestamp},
    web::control::{CheckStatus, LastSeen, StoreTrouble},
};

/// Most jobs waiting; beyond it those who have something to tell wait, so memory is bounded.
pub(crate) const JOBS_MAX: usize = 8_192;

/// Least time between two transactions: what comes meanwhile is written together. At most fifty fsyncs a second is
/// what any disk can do beside its other work, and no alert waits for longer than this.
const GROUP_EVERY: Duration = Duration::from_millis(20);

/// How often the queue is looked at while something waits to be written: nobody notices such a delay, and the thread
/// can see to the store in between.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Longest one step of the thread may take: deciding, and one wait for the store, which has bounds of its own. What takes
/// longer has hung.
pub(super) const STEP_MAX: Duration = Duration::from_secs(60);

/// Something for the core or the store.
#[expect(clippy::large_enum_variant, reason = "nearly all jobs are observations; a box for each would cost more")]
pub(crate) enum Job {
    /// An event, with whom to tell its result once it is committed.
    Event { event: Event, reply: Option<oneshot::Sender<Reply>> },
    /// A new plan, and which of its channels are built anew.
    Reconfigure { setup: Setup, rebuilt: BTreeSet<Name>, reply: oneshot::Sender<Reply> },
    /// Which checks are to be asked again soon.
    Paces { reply: oneshot::Sender<Reply> },
    /// How all checks stand.
    Status { reply: oneshot::Sender<Reply> },
    /// What a check that begins to be asked goes on from.
    Resume { check: CheckName, reply: oneshot::Sender<Reply> },
    /// Time for the store's upkeep.
    Maintain,
    /// Nothing; whoever takes it shows that it is awake.
    Knock,
}

/// What a configuration is for the core and the store.
pub(crate) struct Setup {
    pub(crate) plan: Arc<Plan>,
    pub(crate) watched: Vec<Watched>,
    pub(crate) renames: Vec<(CheckName, CheckName)>,
    pub(crate) keep: Keep,
}

impl Job {
    /// An event whose result nobody waits for.
    pub(crate) fn quiet(event: Event) -> Self {
        Self::Event { event, reply: None }
    }
}

/// What came of a job.
#[derive(Debug)]
pub(crate) enum Reply {
    /// It is committed; the check it was about is to be asked again so soon.
    Pace(Pace),
    /// It is committed; or it is taken and, for the reason given, not written yet.
    Done {
        /// Why it is not written.
        unwritten: Option<String>,
    },
    /// It cannot be done as the store stands.
    Failed(String),
    /// A person's wish was refused.
    Refused(Refused),
    /// Checks that confirm something, and how soon each is to be asked again.
    Paces(HashMap<CheckName, Duration>),
    /// How all checks stand, and why the store does not write, if so.
    Status(Vec<CheckStatus>, Option<StoreTrouble>),
    /// What a check goes on from; an error when the store cannot tell.
    Resumed(Result<Resumed, String>),
}

/// The core does not answer any more.
#[derive(Debug, thiserror::Error)]
#[error("the core has stopped")]
pub struct HeartError;

/// Sends a job and waits for its reply.
pub(crate) async fn ask(
    jobs: &mpsc::Sender<Job>,
    job: impl FnOnce(oneshot::Sender<Reply>) -> Job,
) -> Result<Reply, HeartError> {
    let (reply, answer) = oneshot::channel();
    jobs.send(job(reply)).await.map_err(|_| HeartError)?;
    answer.await.map_err(|_| HeartError)
}

/// The running thread, from outside.
pub(crate) struct Heart {
    pub(crate) jobs: mpsc::Sender<Job>,
    pub(crate) next_timeout: watch::Receiver<Option<Timestamp>>,
    pub(crate) standing: watch::Receiver<Standing>,
    /// Whether the store does not write.
    pub(crate) behind: Arc<AtomicBool>,
    /// The isolation in which an earlier run ended.
    pub(crate) isolation: Option<Isolation>,
    stop: Arc<AtomicBool>,
    end: oneshot::Receiver<String>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Heart {
    /// Opens the store, restores the core and starts the thread.
    pub(crate) async fn start(
        path: PathBuf,
        setup: Setup,
        board: Arc<Board>,
        telemetry: Arc<Telemetry>,
        pulse: Arc<Pulse>,
    ) -> Result<Self, AgentError> {
        let (jobs, queue) = mpsc::channel(JOBS_MAX);
        let (timeout, next_timeout) = watch::channel(None);
        let (stand, standing) = watch::channel(Standing::default());
        let (opened, open_result) = oneshot::channel::<Result<Option<Isolation>, StoreError>>();
        let (ended, end) = oneshot::channel();
        let setup = Arc::new(setup);
        let hand = Hand::start(path, setup.clone()).map_err(|e| AgentError::Heart(e.to_string()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, behind) = (stop.clone(), Arc::new(AtomicBool::new(false)));
        let shown = behind.clone();
        let thread = thread::Builder::new()
            .name("core".into())
            .spawn(move || {
                let outlets = Outlets { board, telemetry, timeout, stand, behind: shown };
                let beating = match Beating::open(hand, setup, outlets, &pulse) {
                    Ok(beating) => {
                        // Stopped meanwhile: nobody is there for whom it would go on.
                        if opened.send(Ok(beating.core.isolation().copied())).is_err() {
                            return;
                        }
                        beating
                    }
                    Err(error) => {
                        let _ = opened.send(Err(error));
                        return;
                    }
                };
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| beating.run(queue, &stopped)));
                let _ = ended.send(match result {
                    Ok(Ok(())) => "it was told to stop".into(),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "a bug in the core; what was committed is safe".into(),
                });
            })
            .map_err(|e| AgentError::Heart(e.to_string()))?;
        let isolation =
            open_result.await.map_err(|_| AgentError::Heart("a bug while it was opening the store".into()))??;
        Ok(Self { jobs, next_timeout, standing, behind, isolation, stop, end, thread: Some(thread) })
    }

    /// Resolves when the thread has ended unasked, with why.
    pub(crate) async fn ended(&mut self) -> String {
        (&mut self.end).await.unwrap_or_else(|_| "its thread is gone".into())
    }

    /// Lets the thread write what is in its queue and end; gives up after `max`.
    pub(crate) async fn stop(mut self, max: Duration) {
        self.stop.store(true, Ordering::Release);
        // A last job wakes the thread; should the queue be full, it is awake anyway.
        let _ = self.jobs.try_send(Job::quiet(Event::Tick));
        if tokio::time::timeout(max, &mut self.end).await.is_err() {
            tracing::error!("the store did not finish writing in time; what was not committed is lost");
            return;
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Where the thread shows what it has committed.
pub(super) struct Outlets {
    pub(super) board: Arc<Board>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) timeout: watch::Sender<Option<Timestamp>>,
    stand: watch::Sender<Standing>,
    pub(super) behind: Arc<AtomicBool>,
}

/// What lives on the thread.
pub(super) struct Beating {
    pub(super) core: Core,
    pub(super) hand: Hand,
    pub(super) backlog: Backlog,
    pub(super) setup: Arc<Setup>,
    pub(super) last: HashMap<CheckName, LastSeen>,
    states: HashMap<CheckName, &'static str>,
    pub(super) outlets: Outlets,
    pub(super) beat: Beat,
    /// When the latest transaction began.
    pub(super) written: Instant,
    /// Whether it is told to stop, and writes what it can for the last time.
    pub(super) ending: bool,
    /// Of how many waiting commits one contradicts what is stored, so that they are written one by one.
    pub(super) singly: usize,
    /// Whether the store's upkeep stopped before it was done.
    pub(super) upkeep_left: bool,
    /// What kept the upkeep from being done, as far as it was told.
    pub(super) upkeep_error: Option<String>,
    /// Whether it was told that no space can be set aside.
    pub(super) reserve_told: bool,
    /// Checks that wait for the store to say what they go on from.
    pub(super) resuming: Vec<Resuming>,
}

type Answer = (Option<oneshot::Sender<Reply>>, Answering);

/// What a reply will be, once the group is committed.
enum Answering {
    Pace(CheckName),
    Done,
    Refused(Refused),
}

impl Beating {
    fn open(mut hand: Hand, setup: Arc<Setup>, outlets: Outlets, pulse: &Arc<Pulse>) -> Result<Self, StoreError> {
        let Remembered { past, last: seen } = hand.open()?;
        outlets.board.publish(&past.messages);
        let checks = setup.plan.checks.len();
        let mut last = HashMap::with_capacity(checks);
        last.extend(seen);
        let core = Core::new(setup.plan.clone(), past, clock::random_seed());
        outlets.board.hold(core.isolation().is_some());
        let mut beating = Self {
            core,
            hand,
            backlog: Backlog::default(),
            setup,
            last,
            states: HashMap::with_capacity(checks),
            outlets,
            beat: pulse.begin(Part::Core, STEP_MAX),
            written: clock::instant(),
            ending: false,
            singly: 0,
            upkeep_left: false,
            upkeep_error: None,
            reserve_told: false,
            resuming: Vec::new(),
        };
        beating.keep_reserve()?;
        beating.stand();
        Ok(beating)
    }

    fn run(mut self, mut queue: mpsc::Receiver<Job>, stop: &AtomicBool) -> Result<(), StoreError> {
        // Members of open incidents that left the configuration while the agent was not running.
        let commit = self.core.reconfigure(clock::now(), self.setup.plan.clone(), Changes::default());
        self.write(vec![commit])?;
        // Steps that fell due meanwhile.
        self.group(vec![Job::quiet(Event::Tick)])?;
        while !(stop.load(Ordering::Acquire) && queue.is_empty()) {
            self.beat.within(STEP_MAX);
            let first = match queue.try_recv() {
                Ok(job) => job,
                // Nothing waits: time for what upkeep has left over.
                Err(TryRecvError::Empty) if self.upkeep_left => {
                    self.maintain()?;
                    continue;
                }
                Err(TryRecvError::Empty) if !self.backlog.is_empty() || self.hand.is_busy() => {
                    thread::sleep(LOOK_EVERY);
                    self.write_if_due()?;
                    self.resume()?;
                    continue;
                }
                Err(_) => match queue.blocking_recv() {
                    Some(job) => job,
                    None => break,
                },
            };
            if !stop.load(Ordering::Acquire) {
                let busy = GROUP_EVERY.saturating_sub(clock::instant().saturating_duration_since(self.written));
                thread::sleep(busy);
            }
            let mut jobs = vec![first];
            while jobs.len() < GROUP_MAX
                && let Ok(job) = queue.try_recv()
            {
                jobs.push(job);
            }
            self.outlets.telemetry.queue(Queue::Events, queue.len());
            self.beat.within(STEP_MAX);
            self.group(jobs)?;
        }
        self.write_last()
    }

    /// Decides a group of jobs, writes it, answers.
    fn group(&mut self, jobs: Vec<Job>) -> Result<(), StoreError> {
        let mut commits = Vec::with_capacity(jobs.len());
        let mut answers: Vec<Answer> = Vec::with_capacity(jobs.len());
        let mut maintain = false;
        for job in jobs {
            let now = clock::now();
            match job {
                Job::Event { event, reply } => {
                    let about = match &event {
                        Event::Observed { check, .. } | Event::Corrected { check, .. } => Some(check.clone()),
                        _ => None,
                    };
                    match self.core.handle(now, event) {
                        Ok(commit) => {
                            commits.push(commit);
                            answers.push((reply, about.map_or(Answering::Done, Answering::Pace)));
                        }
                        Err(refused) => answers.push((reply, Answering::Refused(refused))),
                    }
                }
                Job::Reconfigure { setup, rebuilt, reply } => {
                    // What was decided under the old plan is written first: renaming works on rows.
                    self.write(std::mem::take(&mut commits))?;
                    self.write_rest()?;
                    match self.reconfigure(now, setup, rebuilt) {
                        Ok(commit) => {
                            commits.push(commit);
                            answers.push((Some(reply), Answering::Done));
                        }
                        Err(why) => drop(reply.send(Reply::Failed(why))),
                    }
                }
                Job::Paces { reply } => {
                    let _ = reply.send(Reply::Paces(self.core.confirming().collect()));
                }
                Job::Status { reply } => {
                    let _ = reply.send(Reply::Status(self.status(), self.trouble()));
                }
                Job::Resume { check, reply } => {
                    // What this group holds of the check is part of it.
                    self.write(std::mem::take(&mut commits))?;
                    self.write_rest()?;
                    self.resuming.push(Resuming { check, since: clock::instant(), reply });
                    self.resume()?;
                }
                Job::Maintain => maintain = true,
                Job::Knock => {}
            }
        }
        self.write(commits)?;
        for (reply, answering) in answers {
            let Some(reply) = reply else { continue };
            let _ = reply.send(match answering {
                Answering::Pace(check) => Reply::Pace(self.core.pace(&check)),
                Answering::Done => Reply::Done { unwritten: self.unwritten() },
                Answering::Refused(refused) => Reply::Refused(refused),
            });
        }
        self.resume()?;
        if maintain {
            self.keep_reserve()?;
            self.maintain()?;
        }
        Ok(())
    }

    /// Shows how many checks are in which state.
    pub(super) fn stand(&self) {
        let states = self.core.plan().checks.keys().map(|name| self.core.state(name).map(|(state, _, _)| state));
        let standing = Standing::of(states);
        self.outlets.stand.send_if_modified(|shown| std::mem::replace(shown, standing) != *shown);
    }

    /// A change of state is worth a line; one to `unknown` a warning, because nobody else is told of it. Whether it is
    /// one.
    pub(super) fn log_state(&mut self, row: &StateRow) -> bool {
        if self.states.insert(row.check.clone(), row.state) == Some(row.state) {
            return false;
        }
        let reason = self.last.get(&row.check).and_then(|l| l.reason.as_ref()).map(ToString::to_string);
        let reason = reason.as_deref();
        if row.state == State::Unknown.as_str() {
            tracing::warn!(check = %row.check, reason, "cannot tell whether it works");
        } else {
            tracing::info!(check = %row.check, state = row.state, reason, "state");
        }
        true
    }

    /// Puts a new plan in force, or says why the store does not let it; then nothing has changed.
    fn reconfigure(&mut self, now: Timestamp, setup: Setup, rebuilt: BTreeSet<Name>) -> Result<Commit, String> {
        let setup = Arc::new(setup);
        let (Remembered { past, last }, renamed) = self.prepare(now, &setup)?;
        self.setup = setup;
        self.last.retain(|name, _| self.setup.plan.checks.contains_key(name));
        self.last.extend(last);
        self.states.retain(|name, _| self.setup.plan.checks.contains_key(name));
        let changes = Changes { known: past.checks, renamed, rebuilt };
        let commit = self.core.reconfigure(now, self.setup.plan.clone(), changes);
        self.stand();
        Ok(commit)
    }

    fn status(&self) -> Vec<CheckStatus> {
        let stand = |name: &CheckName| {
            let (state, since, flapping) = self.core.state(name)?;
            Some(CheckStatus {
                check: name.clone(),
                state: state.as_str().into(),
                since: (since > Timestamp::EPOCH).then_some(since),
                flapping,
                last: self.last.get(name).cloned(),
            })
        };
        self.core.plan().checks.keys().filter_map(stand).collect()
    }
}
