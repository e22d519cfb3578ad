//! What systemd is told (sd_notify(3)): starting, ready, reloading, stopping, how things stand, and that the daemon is
//! alive. Without `NOTIFY_SOCKET` all of it does nothing.

use std::{fmt, sync::Arc, time::Duration};

use sd_notify::NotifyState;
use tokio::sync::{mpsc, watch};

use super::{
    heart::Job,
    pulse::{Pulse, Say, Watchdog},
};
use crate::{clock, detect::State};

/// How often it is told that the start goes on; well before systemd's own limit of 90 s, of which other services may
/// have been given less.
pub(crate) const EXTEND_EVERY: Duration = Duration::from_secs(10);

/// How much longer the start may take each time it is told.
const EXTEND_BY: Duration = Duration::from_secs(60);

/// Longest start: a database of the size that one disk holds is checked within it; what hangs is ended.
const START_MAX: Duration = Duration::from_secs(2 * 3_600);

/// Longest time between two looks at who makes progress, and two knocks at the core.
const LOOK_MAX: Duration = Duration::from_secs(10);

/// A look this much later than planned means that the whole process stood still.
const STILL: Duration = Duration::from_secs(5);

/// Least time between two lines of status; whatever flaps, systemd reads one line a second.
const STATUS_EVERY: Duration = Duration::from_secs(1);

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd was not told");
    }
}

/// How all checks stand, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// All checks.
    pub(crate) checks: usize,
    /// Those in each state that is worth a word.
    pub(crate) states: [usize; 4],
}

/// The states told beside the number of checks, the worst first.
const TOLD: [State; 4] = [State::Down, State::Degraded, State::Suspect, State::Unknown];

impl Standing {
    /// Counts these.
    pub(crate) fn of(states: impl Iterator<Item = Option<State>>) -> Self {
        let mut standing = Self::default();
        for state in states {
            standing.checks += 1;
            if let Some(at) = TOLD.iter().position(|told| Some(*told) == state) {
                standing.states[at] += 1;
            }
        }
        standing
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.checks, if self.checks == 1 { "check" } else { "checks" })?;
        let mut told = TOLD.iter().zip(self.states).filter(|(_, count)| *count > 0);
        told.try_for_each(|(state, count)| write!(f, ", {count} {}", state.as_str()))
    }
}

/// The first checks are scheduled (or a reload is over).
pub(crate) fn ready(standing: &Standing) {
    tell(&[NotifyState::Ready, NotifyState::Status(&standing.to_string())]);
}

/// A reload has begun. systemd wants to know when, by the monotonic clock (`Type=notify-reload`).
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(stamp) => tell(&[NotifyState::Reloading, stamp]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The daemon is on its way out.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// The start takes its time: a large database is being checked.
pub(crate) fn starting() {
    let usec = u32::try_from(EXTEND_BY.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::ExtendTimeoutUsec(usec), NotifyState::Status("checking the database")]);
}

/// Waits for the start, and calls `extend` again and again while it lasts, for at most [`START_MAX`].
pub(crate) async fn patiently<T>(start: impl Future<Output = T>, every: Duration, mut extend: impl FnMut()) -> T {
    let mut start = std::pin::pin!(start);
    let end = clock::instant() + START_MAX;
    loop {
        match tokio::time::timeout(every, &mut start).await {
            Ok(started) => return started,
            Err(_) if clock::instant() < end => extend(),
            Err(_) => return start.await,
        }
    }
}

/// Feeds systemd's watchdog while all parts make progress, if it wants that of this process; knocks at the core, which
/// would otherwise sleep while nothing is to be done; tells how the checks stand. Never ends.
pub(crate) async fn attend(pulse: Arc<Pulse>, jobs: mpsc::Sender<Job>, standing: watch::Receiver<Standing>) {
    let limit = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
    tokio::join!(report(standing), async {
        if let Some(limit) = limit {
            feed(&pulse, &jobs, limit).await;
        }
    });
}

async fn report(mut standing: watch::Receiver<Standing>) {
    while standing.changed().await.is_ok() {
        let text = standing.borrow_and_update().to_string();
        tell(&[NotifyState::Status(&text)]);
        tokio::time::sleep(STATUS_EVERY).await;
    }
}

async fn feed(pulse: &Pulse, jobs: &mpsc::Sender<Job>, limit: Duration) {
    let mut watchdog = Watchdog::new(limit, clock::instant());
    let every = watchdog.look_every(LOOK_MAX);
    loop {
        let now = clock::instant();
        let look = watchdog.look(now, &pulse.overdue(now), every + STILL);
        match look.say {
            Some(Say::Stuck(parts)) => {
                tracing::error!("{parts}: stuck; the watchdog is not fed, so that systemd starts the service anew");
            }
            Some(Say::Well) => tracing::warn!("no part is stuck any more; the watchdog is fed again"),
            None => {}
        }
        if look.feed {
            tell(&[NotifyState::Watchdog]);
        }
        // Only an empty queue lets it sleep.
        if jobs.capacity() == jobs.max_capacity() {
            let _ = jobs.try_send(Job::Knock);
        }
        tokio::time::sleep(every).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_counted_by_their_states() {
        let table: [(&[Option<State>], &str); 4] = [
            (&[], "0 checks"),
            (&[Some(State::Up)], "1 check"),
            (&[Some(State::Up), None, Some(State::Down)], "3 checks, 1 down"),
            (
                &[
                    Some(State::Unknown),
                    Some(State::Degraded),
                    Some(State::Suspect),
                    Some(State::Down),
                    Some(State::Down),
                ],
                "5 checks, 2 down, 1 degraded, 1 suspect, 1 unknown",
            ),
        ];
        for (states, text) in table {
            assert_eq!(Standing::of(states.iter().copied()).to_string(), text);
        }
    }

    #[tokio::test]
    async fn a_long_start_asks_for_more_time() {
        let every = Duration::from_millis(20);
        let mut asked = 0;
        let start = async {
            tokio::time::sleep(Duration::from_millis(110)).await;
            "started"
        };
        assert_eq!(patiently(start, every, || asked += 1).await, "started");
        assert!((1..=5).contains(&asked), "{asked}");
        assert_eq!(patiently(std::future::ready(1), every, || panic!("a short one does not")).await, 1);
    }
}
