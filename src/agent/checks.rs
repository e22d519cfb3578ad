//! One task per check: sleep until due, ask, tell the core, look after what is outstanding.
//!
//! A check never overlaps itself, because its task does one thing at a time; it never delays another, because each
//! has its own; and all of them together never run more than [`ATTEMPTS_MAX`] attempts at once.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::sync::{Semaphore, mpsc, watch};

use super::heart::{self, Job, Reply};
use crate::{
    check::{Check, Context, Journal, Lane, Past},
    clock,
    decide::Event,
    delivery::Key,
    detect::Pace,
    observation::Flight,
    protocol::{Boxed, Net},
    schedule::Schedule,
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

/// Longest goodbye of a check that is asked no more; half of what a stop may take altogether.
const CLOSE_MAX: Duration = Duration::from_millis(2_500);

/// A cron check sleeps at most this long at a time, so that it keeps to the wall clock when that is set.
const CRON_SLEEP_MAX: Duration = Duration::from_secs(20);

/// By how much a timer may fire before the wall clock shows its time. A run that lies further in the future than this
/// was planned under a clock that has been set back since.
const EARLY_MAX: Duration = Duration::from_secs(2);

/// When a check that was due at `ran` runs next, asked at `now`. `second` is the run after its first one, which may
/// pass a regular time over. Whatever the wall clock has done in between, the answer lies after `now`, and for a
/// fixed interval less than two of them.
fn next_run(
    schedule: &Schedule,
    name: &CheckName,
    now: Timestamp,
    ran: Timestamp,
    second: Option<Timestamp>,
) -> Option<Timestamp> {
    let base = if ran.since(now) > EARLY_MAX { now } else { now.max(ran) };
    let soon = |at: &Timestamp| *at > base && at.since(base) < schedule.interval(base) * 2;
    second.filter(soon).or_else(|| schedule.next(name, base))
}

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
}

impl Due {
    fn new(at: Timestamp) -> Self {
        Self { at, instant: clock::instant() + at.since(clock::now()) }
    }
}

/// Writes down what a check is about to send.
struct Written {
    check: CheckName,
    jobs: mpsc::Sender<Job>,
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
}

/// What a check's task works with.
pub(crate) struct Runner {
    pub(crate) check: Arc<Check>,
    pub(crate) net: Arc<Net>,
    pub(crate) jobs: mpsc::Sender<Job>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) permits: Arc<Semaphore>,
}

impl Runner {
    /// Runs until `stop` turns true. An attempt that is in flight then is abandoned: it has told nothing yet, and what
    /// it sent is known to the store. Sessions that are kept are ended.
    pub(crate) async fn run(self, first: Timestamp, mut stop: watch::Receiver<bool>) {
        let begun = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => false,
            () = self.resume() => true,
        };
        if begun {
            self.ask_until(first, &mut stop).await;
        }
        if tokio::time::timeout(CLOSE_MAX, self.check.ask.close()).await.is_err() {
            tracing::debug!(check = %self.check.name, "its sessions did not end in time");
        }
    }

    /// Takes up what an earlier run left of the check: what it had sent and not told is told, as pending.
    async fn resume(&self) {
        if !self.check.ask.sends() {
            return;
        }
        let name = self.check.name.clone();
        let resumed = match heart::ask(&self.jobs, |reply| Job::Resume { check: name, reply }).await {
            Ok(Reply::Resumed(Ok(resumed))) => resumed,
            Ok(Reply::Resumed(Err(error))) => {
                tracing::error!(check = %self.check.name, error, "what it goes on from cannot be read; it starts anew");
                return;
            }
            Ok(_) | Err(_) => return,
        };
        let journal = Arc::new(Written { check: self.check.name.clone(), jobs: self.jobs.clone() });
        let past = Past {
            key: Key::new(&resumed.key),
            sequence: resumed.sequence,
            flights: resumed.flights,
            journal: Some(journal),
            lane: Lane::default(),
        };
        for observation in self.check.ask.resume(past).await {
            let event = Event::Observed { check: self.check.name.clone(), observation };
            let _ = self.tell(event).await;
        }
    }

    async fn ask_until(&self, first: Timestamp, stop: &mut watch::Receiver<bool>) {
        let mut due = Due::new(first);
        // The first attempt may come shortly before the check's regular time, which is then passed over once.
        let mut second = self.check.schedule.second(&self.check.name, first);
        loop {
            let step = AssertUnwindSafe(self.step(due, second.take())).catch_unwind();
            let result = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                result = step => result,
            };
            match result {
                Ok(Some(next)) => due = next,
                Ok(None) => {
                    tracing::warn!(check = %self.check.name, "is never due again");
                    return;
                }
                Err(_) => {
                    tracing::error!(check = %self.check.name, "a bug in bongsu stopped this check; it goes on in a moment");
                    due = Due { at: clock::now() + BUG_PAUSE, instant: clock::instant() + BUG_PAUSE };
                }
            }
        }
    }

    /// Waits until the check is due and asks; returns when the next attempt is due. The asking has a box of its own,
    /// so that a sleeping check, which most are most of the time, holds only what sleeping needs.
    async fn step(&self, due: Due, second: Option<Timestamp>) -> Option<Due> {
        self.look_after(due).await;
        Box::pin(self.ask(due, second)).await
    }

    /// One attempt with what belongs to it.
    async fn ask(&self, due: Due, second: Option<Timestamp>) -> Option<Due> {
        let Ok(permit) = self.permits.acquire().await else { return None };
        let (now, begun) = (clock::now(), clock::instant());
        self.telemetry.late(begun.saturating_duration_since(due.instant));
        let regular = next_run(&self.check.schedule, &self.check.name, now, due.at, second);
        let context = Context {
            net: self.net.clone(),
            at: now,
            settings: self.check.settings.clone(),
            explain: false,
            wait_max: regular.map(|at| at.since(now)),
        };
        let limit = self.check.ask.deadline(&self.check.settings) + DEADLINE_SLACK;
        let answer = tokio::time::timeout(limit, self.check.ask.attempt(context)).await;
        let Ok(answer) = answer else {
            tracing::error!(check = %self.check.name, ?limit, "an attempt did not end by its deadline and was cut off");
            return self.regular(due, second);
        };
        // What follows waits for the disk, not for the network.
        drop(permit);
        let observation = answer.observation;
        self.telemetry.probed(self.check.ask.kind(), observation.outcome, observation.duration);
        let event = Event::Observed { check: self.check.name.clone(), observation };
        let pace = self.tell(event).await;
        match pace {
            // An attempt that took longer than the pause leaves none; that is not the agent being late.
            Pace::Confirm(every) => {
                Some(Due { at: (now + every).max(clock::now()), instant: (begun + every).max(clock::instant()) })
            }
            // Asked anew: the attempt may have outlasted its interval, or the clock been set meanwhile.
            Pace::Regular => self.regular(due, second),
        }
    }

    fn regular(&self, ran: Due, second: Option<Timestamp>) -> Option<Due> {
        next_run(&self.check.schedule, &self.check.name, clock::now(), ran.at, second).map(Due::new)
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
    async fn look_after(&self, due: Due) {
        let mut due = due;
        let mut outstanding = true;
        loop {
            let sleep = self.sleep(due);
            if !outstanding {
                return sleep.await;
            }
            tokio::select! {
                () = sleep => return,
                correction = self.check.ask.afterwards() => match correction {
                    Some(correction) => {
                        let event = Event::Corrected { check: self.check.name.clone(), correction };
                        if let Pace::Confirm(every) = Box::pin(self.tell(event)).await {
                            let sooner = clock::instant() + every;
                            if sooner < due.instant {
                                due = Due { at: clock::now() + every, instant: sooner };
                            }
                        }
                    }
                    None => outstanding = false,
                },
            }
        }
    }

    async fn sleep(&self, due: Due) {
        match self.check.schedule {
            Schedule::Every(_) => tokio::time::sleep_until(due.instant.into()).await,
            Schedule::Cron(_) => {
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
                    tokio::time::sleep(left.min(CRON_SLEEP_MAX)).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(n: i64) -> Timestamp {
        Timestamp::from_millis(1_000 * n)
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

    #[test]
    fn whatever_the_wall_clock_does_the_next_run_is_near() {
        let name: CheckName = "web/front".parse().expect("a name");
        let every = Schedule::Every(Duration::from_secs(10));
        let cron = crate::schedule::Cron::parse("*/2 * * * *", chrono_tz::UTC).expect("a cron line");
        let day = 86_400;
        let noon = 20_000 * day + day / 2;
        // Where the clock stands when asked, against when the check was due: in time, early, late, set back, set forward.
        for step in [0, -1, 1, 30, -3, -3_600, -day, 3_600, day] {
            let (now, ran) = (second(noon + step), second(noon));
            for (schedule, longest) in [(&every, 20), (&Schedule::Cron(cron.clone()), 240)] {
                let next = next_run(schedule, &name, now, ran, None).expect("it is due again");
                assert!(next > now, "{step}: {next}");
                assert!(next.since(now) <= Duration::from_secs(longest), "{step}: {next} is far from {now}");
            }
            let planned = every.second(&name, ran);
            let next = next_run(&every, &name, now, ran, planned).expect("it is due again");
            assert!(next > now && next.since(now) < Duration::from_secs(25), "{step}: {next}");
        }
        // A timer that fires a little early does not make the same run again.
        let ran = every.next(&name, second(noon)).expect("it is due");
        assert_eq!(next_run(&every, &name, ran - Duration::from_millis(3), ran, None), every.next(&name, ran));
    }
}
