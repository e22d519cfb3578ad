//! The thread on which the core decides and the store writes.
//!
//! Jobs come through one bounded queue. The thread takes what is there, up to [`GROUP_MAX`], lets the core decide each,
//! and writes all commits in one transaction; only then it answers, and shows the messages to the channels. What changes
//! nothing is answered at once and written a little later (`held.rs`). When the store cannot write, nothing is answered and nothing is sent: the group is tried again until it is written.

use std::{
    collections::HashMap,
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
    board::Board,
    held::Held,
    past::{rename, restore},
    pulse::{Beat, Part, Pulse},
    service::Standing,
};
use crate::{
    clock,
    decide::{Commit, Core, Event, Plan, Refused, StateRow},
    detect::{Pace, State},
    incident::vantage::Isolation,
    store::{Keep, Resumed, StoreError, Watched, Writer},
    telemetry::{Queue, Telemetry},
    value::{CheckName, Timestamp},
    web::control::{CheckStatus, LastSeen},
};

/// Most jobs waiting; beyond it those who have something to tell wait, so memory is bounded when the disk hangs.
pub(crate) const JOBS_MAX: usize = 8_192;

/// Most jobs of one transaction: large enough that a busy minute costs few fsyncs, small enough that an alert waits
/// for milliseconds.
const GROUP_MAX: usize = 512;

/// Least time between two transactions: what comes meanwhile is written together. At most fifty fsyncs a second is
/// what any disk can do beside its other work, and no alert waits for longer than this.
const GROUP_EVERY: Duration = Duration::from_millis(20);

/// Pause between tries to write a group.
const WRITE_RETRY: Duration = Duration::from_secs(1);

/// Longest one step of the thread may take: a transaction on a disk that stalls, or reading what thousands of checks
/// go on from. What takes longer has hung.
const STEP_MAX: Duration = Duration::from_secs(60);

/// Something for the core or the store.
#[expect(clippy::large_enum_variant, reason = "nearly all jobs are observations; a box for each would cost more")]
pub(crate) enum Job {
    /// An event, with whom to tell its result once it is committed.
    Event { event: Event, reply: Option<oneshot::Sender<Reply>> },
    /// A new plan.
    Reconfigure { setup: Setup, reply: oneshot::Sender<Reply> },
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
    /// It is committed.
    Done,
    /// A person's wish was refused.
    Refused(Refused),
    /// How all checks stand.
    Status(Vec<CheckStatus>),
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
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::Builder::new()
            .name("core".into())
            .spawn(move || {
                let outlets = Outlets { board, telemetry, timeout, stand };
                let beating = match Beating::open(&path, setup, outlets, &pulse) {
                    Ok(beating) => {
                        let _ = opened.send(Ok(beating.core.isolation().copied()));
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
        Ok(Self { jobs, next_timeout, standing, isolation, stop, end, thread: Some(thread) })
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
struct Outlets {
    board: Arc<Board>,
    telemetry: Arc<Telemetry>,
    timeout: watch::Sender<Option<Timestamp>>,
    stand: watch::Sender<Standing>,
}

/// What lives on the thread.
struct Beating {
    core: Core,
    writer: Writer,
    setup: Setup,
    last: HashMap<CheckName, LastSeen>,
    states: HashMap<CheckName, &'static str>,
    outlets: Outlets,
    beat: Beat,
    held: Held,
    /// When the latest transaction began.
    written: Instant,
    /// Whether the store's upkeep stopped before it was done.
    upkeep_left: bool,
}

type Answer = (Option<oneshot::Sender<Reply>>, Answering);

/// What a reply will be, once the group is committed.
enum Answering {
    Pace(CheckName),
    Done,
    Refused(Refused),
}

impl Beating {
    fn open(path: &std::path::Path, setup: Setup, outlets: Outlets, pulse: &Arc<Pulse>) -> Result<Self, StoreError> {
        let now = clock::now();
        let mut writer = Writer::open(path, now)?;
        rename(&mut writer, &setup.renames)?;
        let past = restore(&mut writer, &setup, now)?;
        outlets.board.publish(&past.messages);
        let last = past
            .checks
            .iter()
            .filter_map(|(name, (_, observations))| Some((name.clone(), last_seen(observations.last()?))))
            .collect();
        let core = Core::new(setup.plan.clone(), past, clock::random_seed());
        outlets.board.hold(core.isolation().is_some());
        let beating = Self {
            core,
            writer,
            setup,
            last,
            states: HashMap::new(),
            outlets,
            beat: pulse.begin(Part::Core, STEP_MAX),
            held: Held::new(GROUP_MAX),
            written: clock::instant(),
            upkeep_left: false,
        };
        beating.stand();
        Ok(beating)
    }

    fn run(mut self, mut queue: mpsc::Receiver<Job>, stop: &AtomicBool) -> Result<(), StoreError> {
        // Members of open incidents that left the configuration while the agent was not running.
        let commit = self.core.reconfigure(clock::now(), self.setup.plan.clone(), HashMap::new());
        self.write(&[commit], stop)?;
        // Steps that fell due meanwhile.
        self.group(vec![Job::quiet(Event::Tick)], stop)?;
        while !(stop.load(Ordering::Acquire) && queue.is_empty()) {
            self.beat.within(STEP_MAX);
            if self.held.is_due() {
                let held = self.held.take();
                self.write(&held, stop)?;
            }
            let first = match queue.try_recv() {
                Ok(job) => job,
                // Nothing waits: time for what upkeep has left over.
                Err(TryRecvError::Empty) if self.upkeep_left => {
                    self.maintain();
                    continue;
                }
                Err(TryRecvError::Empty) if !self.held.is_empty() => {
                    thread::sleep(GROUP_EVERY);
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
            self.group(jobs, stop)?;
        }
        let held = self.held.take();
        self.write(&held, stop)
    }

    /// Decides a group of jobs, writes it unless nothing in it is in a hurry, answers.
    fn group(&mut self, jobs: Vec<Job>, stop: &AtomicBool) -> Result<(), StoreError> {
        let mut commits = self.held.take();
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
                Job::Reconfigure { setup, reply } => {
                    // What was decided under the old plan is written first: renaming works on rows.
                    self.write(&commits, stop)?;
                    commits = vec![self.reconfigure(now, setup)?];
                    answers.push((Some(reply), Answering::Done));
                }
                Job::Status { reply } => {
                    self.write(&std::mem::take(&mut commits), stop)?;
                    let _ = reply.send(Reply::Status(self.status()));
                }
                Job::Resume { check, reply } => {
                    // What this group holds of the check is part of it.
                    self.write(&std::mem::take(&mut commits), stop)?;
                    let _ = reply.send(Reply::Resumed(self.writer.resume(&check).map_err(|e| e.to_string())));
                }
                Job::Maintain => maintain = true,
                Job::Knock => {}
            }
        }
        if let Err(commits) = self.held.keep(commits) {
            self.write(&commits, stop)?;
        }
        for (reply, answering) in answers {
            let Some(reply) = reply else { continue };
            let _ = reply.send(match answering {
                Answering::Pace(check) => Reply::Pace(self.core.pace(&check)),
                Answering::Done => Reply::Done,
                Answering::Refused(refused) => Reply::Refused(refused),
            });
        }
        if maintain {
            self.maintain();
        }
        Ok(())
    }

    /// Writes commits, again and again until it works; then shows what they hold.
    fn write(&mut self, commits: &[Commit], stop: &AtomicBool) -> Result<(), StoreError> {
        let events = commits.iter().filter(|c| !c.is_empty()).count();
        if events > 0 {
            let begun = clock::instant();
            self.written = begun;
            let mut failed = false;
            while let Err(error) = self.writer.commit(commits) {
                if is_final(&error) || stop.load(Ordering::Acquire) {
                    return Err(error);
                }
                tracing::error!(%error, "the store does not write; trying again");
                failed = true;
                // To try and to be refused is progress: nothing hangs.
                self.beat.within(STEP_MAX);
                thread::sleep(WRITE_RETRY);
            }
            if failed {
                tracing::warn!("the store writes again");
            }
            self.outlets.telemetry.committed(events, clock::instant().saturating_duration_since(begun));
        }
        self.publish(commits, events);
        Ok(())
    }

    fn publish(&mut self, commits: &[Commit], events: usize) {
        let mut moved = false;
        for commit in commits {
            if let Some((check, observation)) = &commit.observation {
                self.last.insert(check.clone(), last_seen(observation));
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
        self.outlets.board.hold(self.core.isolation().is_some());
        self.outlets.board.publish(commits.iter().flat_map(|c| &c.messages));
        if events > 0 {
            let (depth, oldest) = self.outlets.board.depth();
            self.outlets.telemetry.outbox(depth, oldest);
        }
        let next = self.core.next_timeout();
        self.outlets.timeout.send_if_modified(|timeout| std::mem::replace(timeout, next) != next);
    }

    /// Shows how many checks are in which state.
    fn stand(&self) {
        let states = self.core.plan().checks.keys().map(|name| self.core.state(name).map(|(state, _, _)| state));
        let standing = Standing::of(states);
        self.outlets.stand.send_if_modified(|shown| std::mem::replace(shown, standing) != *shown);
    }

    /// A change of state is worth a line; one to `unknown` a warning, because nobody else is told of it. Whether it is
    /// one.
    fn log_state(&mut self, row: &StateRow) -> bool {
        if self.states.insert(row.check.clone(), row.state) == Some(row.state) {
            return false;
        }
        let reason = self.last.get(&row.check).and_then(|l| l.reason.as_ref()).map(ToString::to_string);
        let reason = reason.unwrap_or_default();
        if row.state == State::Unknown.as_str() {
            tracing::warn!(check = %row.check, reason, "cannot tell whether it works");
        } else {
            tracing::info!(check = %row.check, state = row.state, reason, "state");
        }
        true
    }

    fn reconfigure(&mut self, now: Timestamp, setup: Setup) -> Result<Commit, StoreError> {
        rename(&mut self.writer, &setup.renames)?;
        let past = restore(&mut self.writer, &setup, now)?;
        self.setup = setup;
        self.last.retain(|name, _| self.setup.plan.checks.contains_key(name));
        self.states.retain(|name, _| self.setup.plan.checks.contains_key(name));
        let commit = self.core.reconfigure(now, self.setup.plan.clone(), past.checks);
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

    fn maintain(&mut self) {
        match self.writer.maintain(clock::now(), &self.setup.keep) {
            Ok(done) => {
                tracing::debug!(?done, "upkeep of the store");
                self.upkeep_left = done.more;
            }
            Err(error) => {
                self.upkeep_left = false;
                tracing::error!(%error, "upkeep of the store failed; it is tried again in a minute");
            }
        }
    }
}

fn last_seen(observation: &crate::observation::Observation) -> LastSeen {
    LastSeen {
        at: observation.at,
        outcome: observation.outcome,
        latency_ms: crate::observation::to_ms(observation.latency()),
        reason: observation.reason.clone(),
    }
}

/// Whether trying again cannot help.
fn is_final(error: &StoreError) -> bool {
    matches!(error, StoreError::Damaged { .. } | StoreError::Inconsistent { .. } | StoreError::NotOurs { .. })
}
