//! One task per check: sleep until due, ask, tell the core, look after what is outstanding.
//!
//! A check never overlaps itself, because its task does one thing at a time; it never delays another, because each
//! has its own; and all of them together never run more than [`ATTEMPTS_MAX`] attempts at once.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::sync::{Semaphore, mpsc};

use super::{
    heart::{self, Job, Reply},
    pulse::Beat,
    stop::Stop,
    vantage::Vantage,
};
use crate::{
    check::{Check, Context, Journal, Lane, Past},
    clock::{self, Reading},
    decide::Event,
    delivery::Key,
    detect::Pace,
    incident::vantage::{self, Excuse},
    observation::{Correction, Flight, Observation},
    protocol::{Boxed, Net},
    schedule::{EARLY_MAX, Schedule, next_run},
    telemetry::Telemetry,
    value::{CheckName, Timestamp},
};

/// Most attempts at one time. Each holds one or two descriptors, and the usual limit of a process is 1,024.
pub(crate) const ATTEMPTS_MAX: usize = 400;

/// Descriptors kept for everything that is not an attempt.
const DESCRIPTORS_KEPT: usize = 64;

/// Descriptors an attempt may hold: two sessions, or one and what it looks up.
const DESCRIPTORS_EACH: usize = 2;

/// How long beyond its own deadline an attempt may run before it is cut off. It should never come to that: every
/// kind of check ends by itself.
const DEADLINE_SLACK: Duration = Duration::from_secs(2);

/// Longest wait for the core to say how soon to ask again; beyond it the check goes on as scheduled.
const PACE_MAX: Duration = Duration::from_secs(2);

/// Pause after a bug in a check's own task, so that it is no tight loop.
const BUG_PAUSE: Duration = Duration::from_secs(10);

/// How long an attempt that has sent something may go on after the stop: usually what it sent is just arriving, and is
/// then told and taken off the server, instead of lying there until the next start.
const LAST_MAX: Duration = Duration::from_millis(1_500);

/// How long a last correction is waited for after the stop: enough to read what has come already.
const LAST_WORD_MAX: Duration = Duration::from_millis(200);

/// Longest goodbye of a check that is asked no more; with [`LAST_MAX`], less than what a stop may take altogether.
const CLOSE_MAX: Duration = Duration::from_millis(2_500);

/// A cron check sleeps at most this long at a time, so that it keeps to the wall clock when that is set.
const CRON_SLEEP_MAX: Duration = Duration::from_secs(20);

/// Longest a check may take to begin: what it takes up of an earlier run is at most what it had sent within its horizon.
pub(crate) const BEGIN_MAX: Duration = Duration::from_secs(30);

/// The permits that all attempts of a process share.
pub(crate) fn permits() -> Arc<Semaphore> {
    static PERMITS: std::sync::OnceLock<Arc<Semaphore>> = std::sync::OnceLock::new();
    PERMITS
        .get_or_init(|| {
            let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
            let attempts = attempts_within(&limits);
            if attempts < ATTEMPTS_MAX {
                tracing::warn!(
                    attempts,
                    "few descriptors are allowed (LimitNOFILE=, ulimit -n): fewer attempts at once"
                );
            }
            Arc::new(Semaphore::new(attempts))
        })
        .clone()
}

/// How many attempts fit into the limit on open files that `/proc/self/limits` shows, with enough left for the store,
/// the channels and the control socket.
fn attempts_within(limits: &str) -> usize {
    let line = limits.lines().find_map(|l| l.strip_prefix("Max open files"));
    let soft = line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<usize>().ok());
    soft.map_or(ATTEMPTS_MAX, |soft| (soft.saturating_sub(DESCRIPTORS_KEPT) / DESCRIPTORS_EACH).clamp(1, ATTEMPTS_MAX))
}

/// When a check is due: on the wall clock, and for a fixed interval also on the monotonic one, which no step of the
/// wall clock moves.
#[derive(Clone, Copy)]
struct Due {
    at: Timestamp,
    instant: Instant,
    /// To confirm a suspicion or a recovery: how soon the next one is wanted, too.
    confirms: Option<Duration>,
    /// Whether the latest attempt told nothing because of the agent itself: the next comes as soon as it can tell
    /// something, at the latest when it is due.
    void: bool,
}

impl Due {
    fn new(at: Timestamp) -> Self {
        Self { at, instant: clock::when(at), confirms: None, void: false }
    }

    /// The same, unless `pause` from now is sooner; whatever the latest attempt told.
    fn within(self, pause: Duration) -> Self {
        let instant = clock::instant() + pause;
        if instant < self.instant {
            Self { at: clock::now() + pause, instant, void: false, ..self }
        } else {
            Self { void: false, ..self }
        }
    }

    fn at_once(at: Timestamp) -> Self {
        Self { at, instant: clock::instant(), confirms: None, void: false }
    }
}

/// Whether a run that was planned for `at` when the one at `ran` began is made late, now that it has ended: when that
/// outlasted its interval by a little, as one does that waits until the next is due. By more, it is left out.
fn is_caught_up_with(ran: Timestamp, at: Timestamp, now: Timestamp) -> bool {
    at <= now && now.since(at) < at.since(ran) / 2
}

/// Writes down what a check is about to send. While the store does not write, it says so at once, and the check sends all
/// the same: a delivery that is not watched because of the monitor's own disk would be worse than one whose messages
/// nobody knows should the agent end before it is written. Those are no loss to the next run: it never heard of them.
struct Written {
    check: CheckName,
    jobs: mpsc::Sender<Job>,
    behind: Arc<AtomicBool>,
}

impl Journal for Written {
    fn sending<'a>(&'a self, flights: Vec<Flight>) -> Boxed<'a, Result<(), String>> {
        Box::pin(async move {
            let event = Event::Sending { check: self.check.clone(), flights };
            match heart::ask(&self.jobs, |reply| Job::Event { event, reply: Some(reply) }).await {
                Ok(Reply::Done { unwritten: Some(why) }) => Err(why),
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        })
    }

    fn keeps_up(&self) -> bool {
        !self.behind.load(Ordering::Acquire)
    }
}

/// What a check's task works with.
pub(crate) struct Runner {
    pub(crate) check: Arc<Check>,
    pub(crate) net: Arc<Net>,
    pub(crate) jobs: mpsc::Sender<Job>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) beat: Beat,
    pub(crate) stop: Arc<Stop>,
    pub(crate) sight: Arc<Vantage>,
    /// Whether the store does not write.
    pub(crate) behind: Arc<AtomicBool>,
}

impl Runner {
    /// Runs until its stop is wished. An attempt that is in flight then is abandoned, one that sends after [`LAST_MAX`]:
    /// it has told nothing yet, and what it sent is known to the store. Sessions that are kept are ended.
    pub(crate) async fn run(self, first: Timestamp) {
        let begun = tokio::select! {
            biased;
            () = self.stop.wished() => false,
            () = Box::pin(self.resume()) => true,
        };
        if begun {
            self.ask_until(first).await;
        }
        self.beat.within(CLOSE_MAX);
        if Box::pin(tokio::time::timeout(CLOSE_MAX, self.check.ask.close())).await.is_err() {
            tracing::debug!(check = %self.check.name, "its sessions did not end in time");
        }
    }

    /// Takes up what an earlier run left of the check: what it had sent and not told is told, as pending.
    async fn resume(&self) {
        if !self.check.ask.sends() {
            return;
        }
        let name = self.check.name.clone();
        let asked = heart::ask(&self.jobs, |reply| Job::Resume { check: name, reply });
        let resumed = match self.beat.kept(asked).await {
            Ok(Reply::Resumed(Ok(resumed))) => resumed,
            Ok(Reply::Resumed(Err(error))) => {
                tracing::error!(check = %self.check.name, error, "what it goes on from cannot be read; it starts anew");
                return;
            }
            Ok(_) | Err(_) => return,
        };
        let (check, jobs, behind) = (self.check.name.clone(), self.jobs.clone(), self.behind.clone());
        let journal = Arc::new(Written { check, jobs, behind });
        let past = Past {
            key: Key::new(&resumed.key),
            sequence: resumed.sequence,
            flights: resumed.flights,
            journal: Some(journal),
            lane: Lane::default(),
        };
        self.beat.within(BEGIN_MAX);
        for observation in self.check.ask.resume(past).await {
            let event = Event::Observed { check: self.check.name.clone(), observation };
            self.beat.within(PACE_MAX);
            let _ = self.tell(event).await;
        }
    }

    async fn ask_until(&self, first: Timestamp) {
        let mut due = Due::new(first);
        // The first attempt may come shortly before the check's regular time, which is then passed over once.
        let mut second = self.check.schedule.second(&self.check.name, first);
        loop {
            let waited = tokio::select! {
                biased;
                () = self.stop.wished() => None,
                waited = AssertUnwindSafe(self.look_after(&mut due)).catch_unwind() => Some(waited),
            };
            let Some(waited) = waited else {
                let _ = Box::pin(tokio::time::timeout(LAST_MAX, self.tell_last())).await;
                return;
            };
            let asked = match waited {
                Ok(()) => Box::pin(self.ask_unless(due, second.take())).await,
                Err(bug) => Some(Err(bug)),
            };
            let Some(result) = asked else { return };
            match result {
                Ok(Some(next)) => due = next,
                Ok(None) => {
                    tracing::warn!(check = %self.check.name, "is never due again");
                    return;
                }
                Err(_) => {
                    tracing::error!(check = %self.check.name, "a bug in bongsu stopped this check; it goes on in a moment");
                    due = Due::new(clock::now() + BUG_PAUSE);
                }
            }
        }
    }

    /// Asks; returns when the next attempt is due, or the panic of a bug; `None` when it was told to stop. The asking has
    /// a box of its own, so that a sleeping check, which most are most of the time, holds only what sleeping needs.
    async fn ask_unless(&self, due: Due, second: Option<Timestamp>) -> Option<std::thread::Result<Option<Due>>> {
        let mut asked = std::pin::pin!(AssertUnwindSafe(self.ask(due, second)).catch_unwind());
        tokio::select! {
            biased;
            () = self.stop.wished() => {}
            result = &mut asked => return Some(result),
        }
        if self.check.ask.sends() {
            let last = async {
                if asked.await.is_ok() {
                    self.tell_last().await;
                }
            };
            let _ = tokio::time::timeout(LAST_MAX, last).await;
        }
        None
    }

    /// Tells what has already come to light about earlier attempts.
    async fn tell_last(&self) {
        if !self.check.ask.sends() {
            return;
        }
        let ask = &self.check.ask;
        while let Ok(Some(correction)) = tokio::time::timeout(LAST_WORD_MAX, ask.afterwards()).await {
            self.tell(Event::Corrected { check: self.check.name.clone(), correction }).await;
        }
    }

    /// One attempt with what belongs to it.
    async fn ask(&self, due: Due, second: Option<Timestamp>) -> Option<Due> {
        // Others hold the permits, each for no longer than it has promised.
        let Ok(permit) = self.beat.kept(self.permits.acquire()).await else { return None };
        let clocks = clock::reading();
        let (now, begun) = (clocks.wall, clock::instant());
        self.telemetry.late(begun.saturating_duration_since(due.instant));
        let regular = next_run(&self.check.schedule, &self.check.name, now, due.at, second);
        let context = Context {
            net: self.net.clone(),
            at: now,
            settings: self.check.settings.clone(),
            explain: false,
            wait_max: regular.map(|at| at.since(now)).into_iter().chain(due.confirms).min(),
        };
        let limit = self.check.ask.deadline(&self.check.settings) + DEADLINE_SLACK;
        self.beat.within(limit + PACE_MAX);
        let answer = tokio::time::timeout(limit, self.check.ask.attempt(context)).await;
        let Ok(answer) = answer else {
            tracing::error!(check = %self.check.name, ?limit, "an attempt did not end by its deadline and was cut off");
            return self.regular(due, second);
        };
        // What follows waits for the disk, not for the network.
        drop(permit);
        let mut observation = answer.observation;
        let void = self.judge(&mut observation, begun, &clocks).await;
        if due.void && !void {
            self.sight.look_again();
        }
        self.telemetry.probed(self.check.ask.kind(), observation.outcome, observation.duration);
        let event = Event::Observed { check: self.check.name.clone(), observation };
        let pace = self.tell(event).await;
        match pace {
            // An attempt that took longer than the pause leaves none; that is not the agent being late.
            Pace::Confirm(every) => Some(Due {
                at: (now + every).max(clock::now()),
                instant: (begun + every).max(clock::instant()),
                confirms: Some(every),
                void,
            }),
            Pace::Regular if regular.is_some_and(|at| is_caught_up_with(now, at, clock::now())) => {
                regular.map(|at| Due { void, ..Due::at_once(at) })
            }
            // Asked anew: the attempt may have outlasted its interval, or the clock been set meanwhile.
            Pace::Regular => self.regular(due, second).map(|due| Due { void, ..due }),
        }
    }

    fn regular(&self, ran: Due, second: Option<Timestamp>) -> Option<Due> {
        next_run(&self.check.schedule, &self.check.name, clock::now(), ran.at, second).map(Due::new)
    }

    /// Makes an observation void that the agent itself explains: by its isolation, because it stood still, or because the
    /// clocks parted while it was made. Returns whether it did.
    async fn judge(&self, observation: &mut Observation, begun: Instant, clocks: &Reading) -> bool {
        let excuse = vantage::excuse_of(observation);
        // Before anything is waited for.
        let stalled = if excuse == Excuse::None { None } else { self.sight.why_stalled(begun) };
        let why = match excuse {
            Excuse::None => None,
            Excuse::Ask => self.sight.why_void(begun, true).await,
            Excuse::IfIsolated => self.sight.why_void(begun, false).await,
        };
        let why = why.map(|why| ("isolation", why)).or(stalled.map(|why| ("stall", why)));
        let jump = || self.sight.jump_since(begun, clocks).map(|jump| ("clock", format!("{jump} during the attempt")));
        let Some((cause, why)) = why.or_else(jump) else { return false };
        vantage::void(observation, &why);
        self.telemetry.void(cause);
        true
    }

    /// The same for what came to light of an earlier attempt.
    async fn judge_fate(&self, correction: &mut Correction) {
        let age = clock::now().since(correction.observed_at);
        // Older than this machine's running time: then as old as can be told.
        let begun = clock::instant().checked_sub(age).unwrap_or_else(clock::instant);
        let excuse = vantage::excuse_of_fate(correction);
        let stalled = if excuse == Excuse::None { None } else { self.sight.why_stalled(begun) };
        let why = match excuse {
            Excuse::None => None,
            Excuse::Ask => self.sight.why_void(begun, true).await,
            Excuse::IfIsolated => self.sight.why_void(begun, false).await,
        };
        if let Some((cause, why)) = why.map(|why| ("isolation", why)).or(stalled.map(|why| ("stall", why))) {
            vantage::void_fate(correction, &why);
            self.telemetry.void(cause);
        }
    }

    /// How soon a check is asked anew once the agent can tell something again: spread, so that not all are at once.
    fn soon(&self) -> Duration {
        let pause_ms = u64::try_from(self.check.thresholds.confirm_every.as_millis()).unwrap_or(u64::MAX).max(1);
        Duration::from_millis(clock::random_seed() % pause_ms)
    }

    async fn tell(&self, event: Event) -> Pace {
        let asked = heart::ask(&self.jobs, |reply| Job::Event { event, reply: Some(reply) });
        match tokio::time::timeout(PACE_MAX, asked).await {
            Ok(Ok(Reply::Pace(pace))) => pace,
            // The core is busy or the disk is slow: the event is in its queue, the answer is not worth waiting for.
            Ok(Ok(_)) | Err(_) => Pace::Regular,
            Ok(Err(error)) => {
                tracing::warn!(check = %self.check.name, %error, "an observation is not stored");
                Pace::Regular
            }
        }
    }

    /// Sleeps until the check is due; meanwhile tells what comes to light about earlier attempts. A correction that
    /// makes the check suspect brings the next attempt forward.
    async fn look_after(&self, due: &mut Due) {
        // Most checks only sleep, most of the time; what else there is to wait for has a box of its own.
        if due.void || self.check.ask.sends() {
            Box::pin(self.look_further(due)).await;
        } else {
            self.sleep(due).await;
        }
    }

    async fn look_further(&self, due: &mut Due) {
        let mut outstanding = true;
        loop {
            let (planned, void) = (*due, due.void);
            let told = tokio::select! {
                // What is known already is told before the next attempt, however short the pause.
                biased;
                correction = self.check.ask.afterwards(), if outstanding => match correction {
                    Some(correction) => Some(self.tell_correction(correction)),
                    None => {
                        outstanding = false;
                        None
                    }
                },
                () = self.sight.returned(), if void => {
                    *due = due.within(self.soon());
                    None
                },
                () = self.sleep(&planned) => return,
            };
            let Some(told) = told else { continue };
            if let Pace::Confirm(every) = told.await {
                let sooner = clock::instant() + every;
                if sooner < due.instant {
                    *due = Due { at: clock::now() + every, instant: sooner, confirms: Some(every), ..*due };
                }
            }
        }
    }

    async fn tell_correction(&self, mut correction: Correction) -> Pace {
        self.judge_fate(&mut correction).await;
        self.tell(Event::Corrected { check: self.check.name.clone(), correction }).await
    }

    async fn sleep(&self, due: &Due) {
        match self.check.schedule {
            // How long a confirmation waits does not depend on what the wall clock shows.
            Schedule::Cron(_) if due.confirms.is_none() => Box::pin(self.sleep_by_the_wall(due)).await,
            _ => {
                self.beat.until(due.instant);
                tokio::time::sleep_until(due.instant.into()).await;
            }
        }
    }

    async fn sleep_by_the_wall(&self, due: &Due) {
        let (mut at, begun, start) = (due.at, clock::now(), clock::instant());
        loop {
            let now = clock::now();
            let passed = clock::instant().saturating_duration_since(start);
            if (begun + passed).since(now) > EARLY_MAX {
                // The wall clock was set back: what is due next may be sooner now.
                at = self.check.schedule.next(&self.check.name, now).unwrap_or(at).min(at);
            }
            let left = at.since(now);
            if left.is_zero() {
                return;
            }
            self.beat.within(CRON_SLEEP_MAX);
            tokio::time::sleep(left.min(CRON_SLEEP_MAX)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a task holds while it sleeps, as most do most of the time: ten thousand of them are ten thousand times that.
    #[test]
    fn a_sleeping_check_is_small() {
        fn bytes<F>(_: impl Fn(Runner, Timestamp) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = bytes(Runner::run);
        assert!(bytes <= 600, "{bytes}");
    }

    #[test]
    fn an_attempt_that_waited_until_the_next_one_is_due_does_not_cost_it() {
        let at = |ms: i64| Timestamp::from_millis(ms);
        // The interval is ten seconds: the clock when the attempt ended, and whether the next one is made at once.
        for (ended, expected) in
            [(9_999, false), (10_000, true), (10_002, true), (14_999, true), (15_000, false), (60_000, false)]
        {
            assert_eq!(is_caught_up_with(at(0), at(10_000), at(ended)), expected, "{ended}");
        }
    }

    #[test]
    fn attempts_leave_descriptors_for_the_rest() {
        let limits = |soft: &str| {
            format!("Limit  Soft Limit  Hard Limit  Units\nMax open files            {soft}    4096   files\n")
        };
        for (soft, expected) in [("1024", 400), ("256", 96), ("40", 1), ("unlimited", 400)] {
            assert_eq!(attempts_within(&limits(soft)), expected, "{soft}");
        }
        assert_eq!(attempts_within(""), ATTEMPTS_MAX);
    }
}
