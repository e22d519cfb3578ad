//! Whether the agent itself is cut off: its canaries, asked before a failure is told.
//!
//! All checks share one asking at a time. While the agent is isolated, the canaries are asked every few seconds until
//! one answers; else once a minute, so that a canary that has died is noticed before it is needed, and a summary can
//! say when the network was last known to be there. The core learns of a change through the same queue as
//! observations, and before those that it explains.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::{Notify, mpsc, watch};

use super::{
    heart::Job,
    stall::{ANEW_MIN, Stalls, WAKE_EVERY},
};
use crate::{
    check::canary::Canary,
    clock::{self, Jump, Reading},
    decide::{Event, Sight},
    incident::vantage::{Answer, Isolation},
    observation::Reason,
    protocol::Net,
    telemetry::Telemetry,
    value::{TimeSpan, Timestamp},
    web::control::{CanaryStatus, VantageStatus},
};

/// For how long an answer counts: several checks that fail at the same moment ask once.
const LOOK_FRESH: Duration = Duration::from_secs(1);

/// How often the canaries are asked while none answers.
const ISOLATED_EVERY: Duration = Duration::from_secs(3);

/// How often they are asked while all is well.
const CLEAR_EVERY: Duration = Duration::from_secs(60);

/// How often the clocks are compared.
const CLOCKS_EVERY: Duration = Duration::from_secs(1);

/// What is asked, and by what.
struct Asked {
    canaries: Vec<Canary>,
    net: Arc<Net>,
}

/// How a canary answered last.
#[derive(Clone, Default)]
struct Seen {
    answers: Option<bool>,
    error: Option<Reason>,
}

/// How the vantage stands.
#[derive(Clone, Default)]
struct Stand {
    isolated: Option<Isolated>,
    /// When the latest isolation ended.
    returned: Option<Instant>,
    /// The last time a canary answered.
    answered_at: Option<Timestamp>,
    /// How each canary answered last, in the order of the configuration.
    seen: Vec<Seen>,
}

#[derive(Clone, Copy)]
struct Isolated {
    at: Timestamp,
    /// When this run of the agent saw it begin.
    begun: Option<Instant>,
    canaries: usize,
}

/// The vantage, shared by all checks.
pub(crate) struct Vantage {
    asked: Mutex<Arc<Asked>>,
    stand: watch::Sender<Stand>,
    /// When the canaries were asked last; locked while they are.
    latest: tokio::sync::Mutex<Option<Instant>>,
    changed: Notify,
    /// When the clocks were last seen to have parted, and how.
    jumped: Mutex<Option<(Instant, Jump)>>,
    stalls: Mutex<Stalls>,
    jobs: mpsc::Sender<Job>,
    telemetry: Arc<Telemetry>,
}

/// Whom a canary asks; a secret may be a part of its URL.
fn told(canary: &Canary, net: &Net) -> String {
    net.masker.mask(&canary.target()).into_owned()
}

impl Vantage {
    /// A vantage that stands as the store knows it.
    pub(crate) fn new(
        canaries: Vec<Canary>,
        net: Arc<Net>,
        isolation: Option<Isolation>,
        jobs: mpsc::Sender<Job>,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        let isolated = isolation.map(|i| Isolated { at: i.since, begun: None, canaries: i.canaries as usize });
        if isolated.is_some() {
            telemetry.isolated(true);
        }
        if let [only] = &canaries[..] {
            tracing::warn!(
                canary = told(only, &net),
                "there is only one canary: its own outage will look like an isolation"
            );
        }
        let seen = vec![Seen::default(); canaries.len()];
        Self {
            asked: Mutex::new(Arc::new(Asked { canaries, net })),
            stand: watch::Sender::new(Stand { isolated, seen, ..Stand::default() }),
            latest: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            jumped: Mutex::default(),
            stalls: Mutex::new(Stalls::new(clock::instant())),
            jobs,
            telemetry,
        }
    }

    /// Puts other canaries in force.
    pub(crate) fn reconfigure(&self, canaries: Vec<Canary>, net: Arc<Net>) {
        let mut asked = self.asked();
        if asked.canaries != canaries {
            self.stand.send_modify(|stand| stand.seen = vec![Seen::default(); canaries.len()]);
        }
        *asked = Arc::new(Asked { canaries, net });
        self.changed.notify_one();
    }

    fn asked(&self) -> MutexGuard<'_, Arc<Asked>> {
        // Only whole values are put in, so a panic elsewhere leaves nothing half done.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why an attempt that began at `begun` tells nothing of its target; `None` when it does. With `ask`, the canaries
    /// are asked unless their answer is known; that takes at most twice as long as a canary may.
    pub(crate) async fn why_void(&self, begun: Instant, ask: bool) -> Option<String> {
        if self.asked().canaries.is_empty() {
            return None;
        }
        let known = self.stand.borrow().explains(begun);
        if known.is_some() || !ask {
            return known;
        }
        self.look(LOOK_FRESH, false).await;
        self.stand.borrow().explains(begun)
    }

    /// Something that could not be judged can be judged again: perhaps a canary answers.
    pub(crate) fn look_again(&self) {
        if self.stand.borrow().isolated.is_some() {
            self.changed.notify_one();
        }
    }

    /// Resolves once the agent is not isolated.
    pub(crate) async fn returned(&self) {
        let _ = self.stand.subscribe().wait_for(|stand| stand.isolated.is_none()).await;
    }

    /// How it stands, for `status`; `None` without canaries.
    pub(crate) fn status(&self) -> Option<VantageStatus> {
        let asked = self.asked().clone();
        let stand = self.stand.borrow().clone();
        let of = |(canary, seen): (&Canary, Seen)| CanaryStatus {
            target: told(canary, &asked.net),
            answers: seen.answers,
            error: seen.error.filter(|_| seen.answers == Some(false)),
        };
        let canaries: Vec<CanaryStatus> = asked.canaries.iter().zip(stand.seen).map(of).collect();
        (!canaries.is_empty()).then_some(VantageStatus { isolated_since: stand.isolated.map(|i| i.at), canaries })
    }

    /// Asks the canaries from time to time, for as long as it is polled.
    pub(crate) async fn watch(&self) {
        loop {
            self.look(Duration::ZERO, true).await;
            let mut stand = self.stand.subscribe();
            let isolated = stand.borrow_and_update().isolated.is_some();
            let every = if isolated { ISOLATED_EVERY } else { CLEAR_EVERY };
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = self.changed.notified() => {}
                // A check has found out meanwhile.
                _ = stand.wait_for(|stand| stand.isolated.is_some() != isolated) => {}
            }
        }
    }

    /// What happened to the clocks since an attempt began at `begun`, when they were read as `clocks`. Both are looked
    /// at: the clocks because they may have parted within the last second, and what was seen of them because a step
    /// forward and one back leave no difference.
    pub(crate) fn jump_since(&self, begun: Instant, clocks: &Reading) -> Option<Jump> {
        let seen = *self.jumped.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = seen.filter(|(at, _)| *at >= begun).map(|(_, jump)| jump);
        seen.or_else(|| clocks.jump(&clock::reading()))
    }

    /// Compares the clocks from time to time, for as long as it is polled. What was in flight when they parted is made
    /// void by its own check: see [`Vantage::jump_since`].
    pub(crate) async fn watch_clocks(&self) {
        let mut before = clock::reading();
        loop {
            tokio::time::sleep(CLOCKS_EVERY).await;
            let after = clock::reading();
            if let Some(jump) = before.jump(&after) {
                tracing::warn!("{jump}; what was in flight is void, and what was being confirmed is confirmed anew");
                self.telemetry.clock_jumped();
                *self.jumped.lock().unwrap_or_else(PoisonError::into_inner) = Some((clock::instant(), jump));
                let _ = self.jobs.send(Job::quiet(Event::Vantage(Sight::Jumped))).await;
            }
            before = after;
        }
    }

    /// Why what began at `begun` and has just ended tells nothing: this process stood still for a good part of it.
    pub(crate) fn why_stalled(&self, begun: Instant) -> Option<String> {
        self.stalls().excuse(begun, clock::instant())
    }

    /// Sees whether this process runs, for as long as it is polled.
    pub(crate) async fn watch_itself(&self) {
        loop {
            tokio::time::sleep(WAKE_EVERY).await;
            let told = self.stalls().woke(clock::instant());
            if let Some(pause) = told {
                tracing::warn!(
                    pause_ms = pause.as_millis(),
                    "this process stood still: it was stopped, or got no processor time; what timed out meanwhile is void"
                );
            }
            if told.is_some_and(|pause| pause >= ANEW_MIN) {
                let _ = self.jobs.send(Job::quiet(Event::Vantage(Sight::Jumped))).await;
            }
        }
    }

    fn stalls(&self) -> MutexGuard<'_, Stalls> {
        // Each change is a single one, so what a panic elsewhere leaves is whole.
        self.stalls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the canaries, unless that was done within `fresh`. Ends with the first that answers, unless all are of
    /// interest.
    async fn look(&self, fresh: Duration, all: bool) {
        // Who waits for an asking that began after this takes its answer: however many wait, there are two at most.
        let called = clock::instant();
        let mut latest = self.latest.lock().await;
        if latest.is_some_and(|at| called.saturating_duration_since(at) < fresh) {
            return;
        }
        let begun = clock::instant();
        let asked = self.asked().clone();
        let mut asking: FuturesUnordered<_> = asked
            .canaries
            .iter()
            .enumerate()
            .map(|(index, canary)| {
                let net = &asked.net;
                async move { (index, canary.ask(net).await) }
            })
            .collect();
        let mut answers = Vec::with_capacity(asked.canaries.len());
        while let Some((index, (answer, reason))) = asking.next().await {
            self.note(&asked, index, answer, reason);
            answers.push(answer);
            if answer == Answer::Answered && !all {
                break;
            }
        }
        drop(asking);
        self.conclude(&answers).await;
        *latest = Some(begun);
    }

    /// Writes down how a canary answered; a change is worth a line while others answer.
    fn note(&self, asked: &Arc<Asked>, index: usize, answer: Answer, reason: Option<Reason>) {
        let answers = match answer {
            Answer::Answered => Some(true),
            Answer::Silent => Some(false),
            Answer::CannotTell => None,
        };
        if !Arc::ptr_eq(&self.asked(), asked) {
            return;
        }
        let Some(canary) = asked.canaries.get(index) else { return };
        let mut was = None;
        self.stand.send_if_modified(|stand| {
            if let Some(seen) = stand.seen.get_mut(index) {
                was = seen.answers;
                *seen = Seen { answers, error: reason.clone() };
            }
            false
        });
        match (was, answers) {
            (None | Some(true), Some(false)) => {
                let reason = reason.map(|r| r.to_string()).unwrap_or_default();
                tracing::warn!(canary = told(canary, &asked.net), reason, "a canary does not answer");
            }
            (Some(false), Some(true)) => tracing::info!(canary = told(canary, &asked.net), "a canary answers again"),
            _ => {}
        }
    }

    /// What the answers mean. Tells the core before anybody else learns of it.
    async fn conclude(&self, answers: &[Answer]) {
        let now = clock::now();
        let isolated = self.stand.borrow().isolated;
        let clear = answers.is_empty() || answers.contains(&Answer::Answered);
        if answers.contains(&Answer::Answered) {
            self.stand.send_if_modified(|stand| {
                stand.answered_at = Some(now);
                false
            });
        }
        match isolated {
            None if clear => {}
            // One that could not be asked might have answered.
            _ if !clear && answers.contains(&Answer::CannotTell) => {}
            Some(_) if !clear => {}
            None => self.leave(now, answers.len()).await,
            Some(isolated) => self.come_back(isolated).await,
        }
    }

    async fn leave(&self, now: Timestamp, canaries: usize) {
        // From here on nothing is awaited: whoever asked may be dropped at any await, and the core must not know less
        // or more than the checks do.
        let Ok(permit) = self.jobs.reserve().await else { return };
        let after = self.stand.borrow().answered_at.filter(|at| *at < now);
        let count = u32::try_from(canaries).unwrap_or(u32::MAX);
        permit.send(Job::quiet(Event::Vantage(Sight::Isolated { since: now, after, canaries: count })));
        self.stand.send_modify(|stand| {
            stand.isolated = Some(Isolated { at: now, begun: Some(clock::instant()), canaries });
        });
        self.telemetry.isolated(true);
        tracing::error!(
            "the agent is isolated: {}. Failures are not told, and nothing is sent until one answers",
            none_of(canaries)
        );
    }

    async fn come_back(&self, isolated: Isolated) {
        let Ok(permit) = self.jobs.reserve().await else { return };
        let now = clock::instant();
        let lasted = isolated.begun.map(|begun| now.saturating_duration_since(begun));
        permit.send(Job::quiet(Event::Vantage(Sight::Clear { lasted })));
        self.stand.send_modify(|stand| {
            stand.isolated = None;
            stand.returned = Some(now);
        });
        self.telemetry.isolated(false);
        let lasted = TimeSpan(lasted.unwrap_or_else(|| clock::now().since(isolated.at)));
        tracing::warn!("the agent is not isolated any more, after {lasted}; everything is confirmed afresh");
    }
}

impl Stand {
    /// Why an attempt that began at `begun` tells nothing: the agent is isolated, or was when it began or later.
    fn explains(&self, begun: Instant) -> Option<String> {
        match (self.isolated, self.returned) {
            (Some(isolated), _) => Some(format!("the agent is isolated ({})", none_of(isolated.canaries))),
            (None, Some(returned)) if begun <= returned => Some("the agent was isolated meanwhile".into()),
            (None, _) => None,
        }
    }
}

fn none_of(canaries: usize) -> String {
    match canaries {
        1 => "its only canary does not answer".into(),
        n => format!("none of {n} canaries answers"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tokio::net::TcpListener;

    use super::*;
    use crate::protocol::wire::NetOptions;

    /// A vantage with one canary on this port of the loopback, and what it tells the core.
    fn vantage(port: u16) -> (Vantage, mpsc::Receiver<Job>) {
        let nameservers = vec!["192.0.2.1:53".parse().expect("an address")];
        let net = Net::new(NetOptions { nameservers, ..NetOptions::default() }).expect("a net");
        let (jobs, told) = mpsc::channel(8);
        let telemetry = Telemetry::new("0.1.0", &"v".parse().expect("a name"), clock::now());
        let canary = Canary::from_url(&format!("tcp://127.0.0.1:{port}")).expect("a URL");
        (Vantage::new(vec![canary], net, None, jobs, Arc::new(telemetry)), told)
    }

    fn told(jobs: &mut mpsc::Receiver<Job>) -> Vec<Sight> {
        let sight = |job| match job {
            Job::Event { event: Event::Vantage(sight), .. } => sight,
            _ => panic!("only the vantage is told of"),
        };
        std::iter::from_fn(|| jobs.try_recv().ok()).map(sight).collect()
    }

    #[tokio::test]
    async fn checks_that_fail_at_once_share_one_asking() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let (vantage, mut jobs) = vantage(listener.local_addr().expect("bound").port());
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let server = tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        let begun = clock::instant();
        let answers = join_all((0..50).map(|_| vantage.why_void(begun, true))).await;
        assert!(answers.iter().all(Option::is_none), "{answers:?}");
        // A connection counts for its client before its server has taken it in.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!((asked.load(Ordering::SeqCst), told(&mut jobs).len()), (1, 0));
        assert_eq!(vantage.why_void(begun, false).await, None);
        server.abort();
    }

    /// A network that is gone answers nothing, and an asking takes as long as a canary may take.
    #[tokio::test]
    async fn however_many_wait_for_a_silent_canary_it_is_asked_twice_at_most() {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = socket.local_addr().expect("bound");
        let (mut vantage, mut jobs) = vantage(1);
        let canary = Canary::from_url(&format!("dns://{address}/example.com")).expect("a URL");
        vantage
            .asked
            .get_mut()
            .map(|asked| *asked = Arc::new(Asked { canaries: vec![canary], net: asked.net.clone() }))
            .ok();
        let heard = Arc::new(AtomicUsize::new(0));
        let count = heard.clone();
        let listener = tokio::spawn(async move {
            while socket.recv(&mut [0; 512]).await.is_ok() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        vantage.look(Duration::ZERO, true).await;
        let once = heard.swap(0, Ordering::SeqCst);
        assert!(once > 0 && told(&mut jobs).len() == 1, "{once}");
        let late = async {
            // When that asking is too old for them, and not over.
            tokio::time::sleep(LOOK_FRESH + Duration::from_millis(200)).await;
            join_all((0..20).map(|_| vantage.look(LOOK_FRESH, false))).await;
        };
        tokio::join!(vantage.look(Duration::ZERO, true), late);
        let twice = heard.load(Ordering::SeqCst);
        assert!(twice <= 2 * once, "{twice} datagrams, {once} for one asking");
        listener.abort();
    }

    #[tokio::test]
    async fn the_core_learns_once_of_each_change_and_what_began_before_a_return_is_void() {
        let port = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = port.local_addr().expect("bound");
        drop(port);
        let (vantage, mut jobs) = vantage(address.port());
        let begun = clock::instant();
        // One who is dropped while it asks leaves nothing behind.
        let dropped = tokio::time::timeout(Duration::ZERO, vantage.why_void(begun, true)).await;
        assert!(dropped.is_err() || dropped.is_ok_and(|why| why.is_some()));
        let answers = join_all((0..50).map(|_| vantage.why_void(begun, true))).await;
        let why = "the agent is isolated (its only canary does not answer)";
        assert!(answers.iter().all(|answer| answer.as_deref() == Some(why)), "{answers:?}");
        assert!(matches!(told(&mut jobs)[..], [Sight::Isolated { canaries: 1, after: None, .. }]));
        let status = vantage.status().expect("it has a canary");
        assert!(status.isolated_since.is_some() && status.canaries[0].answers == Some(false), "{status:?}");
        let _listener = TcpListener::bind(address).await.expect("its own port");
        vantage.look(Duration::ZERO, true).await;
        vantage.returned().await;
        assert!(matches!(told(&mut jobs)[..], [Sight::Clear { lasted: Some(_) }]));
        assert_eq!(vantage.why_void(begun, false).await.as_deref(), Some("the agent was isolated meanwhile"));
        assert_eq!(vantage.why_void(clock::instant(), true).await, None);
    }

    #[tokio::test]
    async fn an_isolation_of_an_earlier_run_ends_with_its_canaries() {
        let (vantage, mut jobs) = vantage(9);
        let isolation = Isolation { after: None, since: Timestamp::from_millis(5_000), canaries: 2 };
        let asked = vantage.asked().clone();
        let vantage = Vantage::new(vec![], asked.net.clone(), Some(isolation), vantage.jobs, vantage.telemetry);
        assert_eq!(vantage.status(), None);
        vantage.look(Duration::ZERO, true).await;
        assert!(matches!(told(&mut jobs)[..], [Sight::Clear { lasted: None }]));
        assert_eq!(vantage.why_void(clock::instant(), true).await, None);
    }

    #[test]
    fn steps_there_and_back_between_two_readings_are_not_forgotten() {
        let (vantage, _jobs) = vantage(9);
        let (begun, clocks) = (clock::instant(), clock::reading());
        assert_eq!(vantage.jump_since(begun, &clocks), None);
        let jump = Jump::Forward(Duration::from_secs(3_600));
        *vantage.jumped.lock().expect("no panic") = Some((clock::instant(), jump));
        assert_eq!(vantage.jump_since(begun, &clocks), Some(jump));
        assert_eq!(vantage.jump_since(clock::instant(), &clock::reading()), None);
    }
}
