//! Whether every part of the daemon still makes progress: what decides if systemd's watchdog is fed.
//!
//! Each part promises by when it will be heard of again, and is held to it. So a part that has nothing to do proves
//! itself as well as a busy one, and none needs a bound that fits all:
//!
//! | part | promises |
//! |---|---|
//! | a check | to be awake when it is due; to end its attempt by the attempt's own deadline |
//! | the core | to be back from one step (a group of jobs, one wait for the store) |
//! | a channel | to look into the outbox after its longest sleep; to end a delivery by the delivery's own deadline |
//! | the clock | to be back after its longest sleep |
//!
//! A part that is never heard of again has hung, or has died of a bug: its promise lapses, the watchdog starves, and
//! systemd starts the service anew, which loses nothing that was committed. The core would sleep for as long as its
//! queue is empty, so somebody must knock ([`attend`]).
//!
//! Not to be able to work is no reason to be killed. While a disk is full, or another program has the database locked,
//! each try to write is a step that ends; who waits for the store meanwhile, or for a slot among very many attempts,
//! renews its promise by [`Beat::kept`]. A restart would help neither.
//!
//! The store's thread promises nothing, because a write may hang in the kernel for as long as the disk likes. The core
//! waits for none longer than its bound; detection, alerts and answers go on from memory. To starve the watchdog would
//! end them: a process whose thread is stuck in the kernel cannot be killed, so that systemd could not start another, and
//! that one would hang on the same file, before it had told anything.
//!
//! [`attend`]: super::service::attend

use std::{
    collections::BTreeMap,
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    clock,
    value::{CheckName, Name, TimeSpan},
};

/// How much later than promised a part may be: what a loaded machine needs to run a task that is due.
pub(crate) const SLACK: Duration = Duration::from_secs(15);

/// How often who waits for another part renews its own promise.
const KEPT_EVERY: Duration = Duration::from_secs(5);

/// Parts that a log line names; when a thread hangs, a hundred checks may.
const NAMED_MAX: usize = 5;

/// Something that must not stand still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A check's task.
    Check(CheckName),
    /// The thread that decides.
    Core,
    /// A channel's task, which empties its part of the outbox.
    Channel(Name),
    /// The task that gives the core the time.
    Clock,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Check(name) => write!(f, "check {name}"),
            Self::Core => f.write_str("the core"),
            Self::Channel(name) => write!(f, "channel {name}"),
            Self::Clock => f.write_str("the clock"),
        }
    }
}

/// A part that did not keep its promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Overdue {
    part: Part,
    /// For how long.
    by: Duration,
}

/// All promises, by the order in which their parts came.
#[derive(Default)]
struct Promises {
    next: u64,
    open: BTreeMap<u64, (Part, Instant)>,
}

impl Promises {
    fn add(&mut self, part: Part, until: Instant) -> u64 {
        let id = self.next;
        self.next += 1;
        self.open.insert(id, (part, until));
        id
    }

    fn renew(&mut self, id: u64, until: Instant) {
        if let Some((_, promised)) = self.open.get_mut(&id) {
            *promised = until;
        }
    }

    fn overdue(&self, now: Instant) -> Vec<Overdue> {
        let late = |(part, until): &(Part, Instant)| {
            let by = now.saturating_duration_since(*until + SLACK);
            (!by.is_zero()).then(|| Overdue { part: part.clone(), by })
        };
        self.open.values().filter_map(late).collect()
    }
}

/// The promises of a running agent.
#[derive(Default)]
pub(crate) struct Pulse {
    promises: Mutex<Promises>,
}

impl Pulse {
    /// A part begins, and is heard of again within `span`.
    pub(crate) fn begin(self: &Arc<Self>, part: Part, span: Duration) -> Beat {
        let id = self.lock().add(part, clock::instant() + span);
        Beat { pulse: self.clone(), id }
    }

    /// Who should have been heard of by `now`.
    pub(crate) fn overdue(&self, now: Instant) -> Vec<Overdue> {
        self.lock().overdue(now)
    }

    fn lock(&self) -> MutexGuard<'_, Promises> {
        // Each change is a single insertion, replacement or removal, so what a panic leaves is whole.
        self.promises.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part's promise. It ends with the part, unless that ends by a panic: then it lapses, and the watchdog acts.
pub(crate) struct Beat {
    pulse: Arc<Pulse>,
    id: u64,
}

impl Beat {
    /// The part is heard of again within `span` from now.
    pub(crate) fn within(&self, span: Duration) {
        self.until(clock::instant() + span);
    }

    /// The part is heard of again by then.
    pub(crate) fn until(&self, at: Instant) {
        self.pulse.lock().renew(self.id, at);
    }

    /// Waits for another part, renewing the promise meanwhile: that the other one is slow is its own affair.
    pub(crate) async fn kept<T>(&self, wait: impl Future<Output = T>) -> T {
        let mut wait = std::pin::pin!(wait);
        loop {
            self.within(KEPT_EVERY);
            if let Ok(result) = tokio::time::timeout(KEPT_EVERY, &mut wait).await {
                return result;
            }
        }
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.pulse.lock().open.remove(&self.id);
        }
    }
}

/// When systemd's watchdog is fed.
pub(crate) struct Watchdog {
    every: Duration,
    fed_at: Option<Instant>,
    looked_at: Instant,
    pardoned: bool,
    starving: bool,
}

/// What to do after a look at the promises.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Look {
    /// Feed it.
    pub(crate) feed: bool,
    /// What to log: a part is stuck, or none is any more.
    pub(crate) say: Option<Say>,
}

/// What a look found that was not so before.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Say {
    /// These parts are stuck.
    Stuck(String),
    /// None is.
    Well,
}

impl Watchdog {
    /// One that bites after `limit` without food.
    pub(crate) fn new(limit: Duration, now: Instant) -> Self {
        Self { every: limit / 2, fed_at: None, looked_at: now, pardoned: false, starving: false }
    }

    /// How often to look; never more seldom than it is fed.
    pub(crate) fn look_every(&self, longest: Duration) -> Duration {
        self.every.min(longest)
    }

    /// Decides, from who is overdue. `late`: the time between two looks from which on the whole process must have been
    /// standing still (stopped by a signal, or with its machine). All promises lapse then, by nobody's fault, so one
    /// look is pardoned.
    pub(crate) fn look(&mut self, now: Instant, overdue: &[Overdue], late: Duration) -> Look {
        let since = now.saturating_duration_since(mem::replace(&mut self.looked_at, now));
        self.pardoned = !self.pardoned && !overdue.is_empty() && since >= late;
        let starving = !overdue.is_empty() && !self.pardoned;
        let say = match (self.starving, starving) {
            (false, true) => Some(Say::Stuck(named(overdue))),
            (true, false) => Some(Say::Well),
            _ => None,
        };
        self.starving = starving;
        // Whatever keeps the looks from being even must not make a gap of two.
        let due = self.fed_at.is_none_or(|fed| now.saturating_duration_since(fed) + since > self.every);
        let feed = !starving && due;
        if feed {
            self.fed_at = Some(now);
        }
        Look { feed, say }
    }
}

fn named(overdue: &[Overdue]) -> String {
    let each = overdue.iter().take(NAMED_MAX).map(|o| {
        let by = Duration::from_secs(o.by.as_secs().max(1));
        format!("{} ({} overdue)", o.part, TimeSpan(by))
    });
    let mut all: Vec<String> = each.collect();
    if overdue.len() > NAMED_MAX {
        all.push(format!("{} more", overdue.len() - NAMED_MAX));
    }
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATE: Duration = Duration::from_secs(30);

    fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn check(name: &str) -> Part {
        Part::Check(name.parse().expect("a name"))
    }

    #[test]
    fn a_part_is_overdue_once_it_breaks_its_promise() {
        let begun = clock::instant();
        let mut promises = Promises::default();
        let idle = promises.add(check("mail/nightly"), begun + s(86_400));
        let core = promises.add(Part::Core, begun + s(60));
        let outbox = promises.add(Part::Channel("ops".parse().expect("a name")), begun + s(30));
        assert_eq!(promises.overdue(begun + s(45)), []);
        let late = promises.overdue(begun + s(46));
        assert_eq!(late, [Overdue { part: Part::Channel("ops".parse().expect("a name")), by: s(1) }]);
        promises.renew(outbox, begun + s(200));
        assert_eq!(promises.overdue(begun + s(75)), []);
        assert_eq!(promises.overdue(begun + s(80)), [Overdue { part: Part::Core, by: s(5) }]);
        promises.open.remove(&core);
        assert_eq!(promises.overdue(begun + s(214)), []);
        promises.open.remove(&idle);
        assert_eq!(promises.overdue(begun + s(90_000)).len(), 1);
        // Whoever is gone renews nothing.
        promises.renew(core, begun);
        assert_eq!(promises.overdue(begun + s(214)), []);
    }

    #[test]
    fn a_promise_ends_with_its_part_unless_that_dies_of_a_bug() {
        let pulse = Arc::new(Pulse::default());
        let beat = pulse.begin(Part::Clock, Duration::ZERO);
        let later = clock::instant() + s(100);
        assert_eq!(pulse.overdue(later).len(), 1);
        beat.within(s(1_000));
        assert_eq!(pulse.overdue(later), []);
        drop(beat);
        assert_eq!(pulse.overdue(clock::instant() + s(10_000)), []);
        let beat = pulse.begin(check("mail/front"), Duration::ZERO);
        let died = std::thread::spawn(move || {
            let _beat = beat;
            panic!("a bug");
        });
        assert!(died.join().is_err());
        let overdue = pulse.overdue(later);
        assert_eq!(overdue.len(), 1);
        assert_eq!(overdue[0].part, check("mail/front"));
    }

    #[tokio::test]
    async fn who_waits_for_another_keeps_its_promise() {
        let pulse = Arc::new(Pulse::default());
        let beat = pulse.begin(Part::Clock, Duration::ZERO);
        let begun = clock::instant();
        assert_eq!(beat.kept(std::future::ready(5)).await, 5);
        assert_eq!(pulse.overdue(begun + KEPT_EVERY + SLACK), []);
        let long = pulse.overdue(begun + KEPT_EVERY + SLACK + s(100));
        assert_eq!(long.len(), 1, "a wait that is over keeps nothing");
    }

    #[test]
    fn the_watchdog_is_fed_at_half_its_time_while_all_is_well() {
        let begun = clock::instant();
        let mut dog = Watchdog::new(s(60), begun);
        assert_eq!(dog.look_every(s(10)), s(10));
        assert_eq!(Watchdog::new(s(4), begun).look_every(s(10)), s(2));
        let looks = (1..=12).map(|n| dog.look(begun + s(10 * n), &[], LATE));
        let fed: Vec<usize> = looks.enumerate().filter(|(_, look)| look.feed).map(|(n, _)| n).collect();
        assert_eq!(fed, [0, 3, 6, 9], "every 30 s");
    }

    #[test]
    fn it_starves_while_a_part_is_stuck_and_says_so_once() {
        let begun = clock::instant();
        let mut dog = Watchdog::new(s(20), begun);
        assert!(dog.look(begun + s(10), &[], LATE).feed);
        let stuck: Vec<Overdue> = (0..7).map(|n| Overdue { part: check(&format!("mail/c{n}")), by: s(n) }).collect();
        let look = dog.look(begun + s(20), &stuck, LATE);
        assert!(!look.feed);
        let Some(Say::Stuck(text)) = look.say else { panic!("nothing is said") };
        assert!(text.starts_with("check mail/c0 (1s overdue), check mail/c1 (1s overdue)"), "{text}");
        assert!(text.ends_with("check mail/c4 (4s overdue), 2 more"), "{text}");
        assert_eq!(dog.look(begun + s(30), &stuck, LATE), Look::default());
        assert_eq!(dog.look(begun + s(40), &[], LATE), Look { feed: true, say: Some(Say::Well) });
    }

    #[test]
    fn a_process_that_stood_still_is_pardoned_once() {
        let begun = clock::instant();
        let mut dog = Watchdog::new(s(60), begun);
        dog.look(begun + s(10), &[], LATE);
        let stuck = [Overdue { part: Part::Core, by: s(5) }];
        assert!(dog.look(begun + s(50), &stuck, LATE).feed, "the process was stopped for 40 s");
        assert!(!dog.look(begun + s(100), &stuck, LATE).feed, "twice in a row is no accident");
        assert!(!dog.look(begun + s(110), &stuck, LATE).feed);
    }
}
