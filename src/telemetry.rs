//! What bongsu tells of itself: counters and histograms, ready to be exported and to be shown by `bongsu status`.
//!
//! One [`Telemetry`] belongs to one agent and is shared by its tasks. Every number has two readers: a scraper, who
//! gets text ([`Telemetry::encode`]), and a person, who gets a [`Snapshot`]. It never reads a clock: ages are
//! computed against the `now` of the reading, so a gauge nobody has touched for an hour does not stand still.
//!
//! Label values come from fixed sets (outcomes, queues, results) and from the configuration (kinds, channels), never
//! from a peer, so the number of series is bounded by the configuration.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::text,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};
use serde::{Deserialize, Serialize};
use sketches_ddsketch::{Config, DDSketch};

use crate::{
    alert::message::Attempted,
    observation::{Outcome, to_ms},
    value::{Name, Timestamp},
};

/// Media type of [`Telemetry::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Relative error of the lateness quantiles: 1 % tells 99 ms from 100 ms, which nobody acts upon.
const QUANTILE_ERROR: f64 = 0.01;

/// Bins of the lateness sketch: at 1 % error they span 1 µs to centuries, in 16 KiB.
const QUANTILE_BINS: u32 = 2_048;

/// Lateness below this counts as none: finer than any timer the scheduler uses.
const LATENESS_SECONDS_MIN: f64 = 1e-6;

/// Somewhere things wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Queue {
    /// Probes due that wait for one of the slots of concurrent probes.
    Probes,
    /// Events that wait for the one who decides.
    Events,
    /// Commits that wait for the store's writer.
    Commits,
}

impl Queue {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Probes, Self::Events, Self::Commits];

    /// The word used as a label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Probes => "probes",
            Self::Events => "events",
            Self::Commits => "commits",
        }
    }
}

type Label = [(&'static str, &'static str); 1];
type ProbeLabels = [(&'static str, &'static str); 2];
type ChannelLabels = [(&'static str, String); 2];
type Histograms = Family<Label, Histogram, fn() -> Histogram>;

/// The numbers of one agent.
pub struct Telemetry {
    registry: Registry,
    probes: Family<ProbeLabels, Counter>,
    probe_seconds: Histograms,
    lateness_seconds: Histogram,
    commits: Counter,
    commit_events: Histogram,
    commit_seconds: Histogram,
    queue_length: Family<Label, Gauge>,
    unwritten: Gauge,
    dropped: Gauge,
    outbox_messages: Gauge,
    outbox_oldest_seconds: Gauge<f64, AtomicU64>,
    notifications: Family<ChannelLabels, Counter>,
    reloads: Family<Label, Counter>,
    reload_refused: Gauge,
    isolated: Gauge,
    isolations: Counter,
    clock_jumps: Counter,
    void: Family<Label, Counter>,
    uptime_seconds: Gauge<f64, AtomicU64>,
    tally: Mutex<Tally>,
}

/// What a snapshot needs and the registry does not give back.
struct Tally {
    started_at: Timestamp,
    lateness: DDSketch,
    lateness_max: Duration,
    commit_events: u64,
    commit_took: Duration,
    outbox_oldest_at: Option<Timestamp>,
    probes: BTreeMap<&'static str, u64>,
    notifications: BTreeMap<Name, BTreeMap<&'static str, u64>>,
    reloads: BTreeMap<&'static str, u64>,
    last_reload_at: Option<Timestamp>,
}

impl Telemetry {
    /// What came of a reload, as a label.
    const ACCEPTED: &str = "accepted";

    /// See [`Telemetry::ACCEPTED`].
    const REFUSED: &str = "refused";

    /// Numbers of an agent of this version that started at `started_at`, all zero.
    pub fn new(version: &str, vantage: &Name, started_at: Timestamp) -> Self {
        // 100 µs to 52 s: a loopback probe to the longest deadline anybody sets.
        fn latencies() -> Histogram {
            Histogram::new(exponential_buckets(0.0001, 2.0, 20))
        }
        let mut registry = Registry::with_prefix("bongsu");
        let labels = [("version", version.to_owned()), ("vantage", vantage.as_str().to_owned())];
        registry.register("build", "Version and vantage of this agent", Info::new(labels));
        let telemetry = Self {
            probes: Family::default(),
            probe_seconds: Family::new_with_constructor(latencies),
            lateness_seconds: latencies(),
            commits: Counter::default(),
            // 1 to 4,096: beyond the most the writer puts into one group.
            commit_events: Histogram::new(exponential_buckets(1.0, 2.0, 13)),
            commit_seconds: latencies(),
            queue_length: Family::default(),
            unwritten: Gauge::default(),
            dropped: Gauge::default(),
            outbox_messages: Gauge::default(),
            outbox_oldest_seconds: Gauge::default(),
            notifications: Family::default(),
            reloads: Family::default(),
            reload_refused: Gauge::default(),
            isolated: Gauge::default(),
            isolations: Counter::default(),
            clock_jumps: Counter::default(),
            void: Family::default(),
            uptime_seconds: Gauge::default(),
            tally: Mutex::new(Tally::new(started_at)),
            registry,
        };
        // Whoever waits for the first must have seen none.
        for word in [Self::ACCEPTED, Self::REFUSED] {
            telemetry.reloads.get_or_create(&[("result", word)]).inc_by(0);
        }
        telemetry.registered()
    }

    fn registered(mut self) -> Self {
        let r = &mut self.registry;
        r.register("probes", "Attempts by kind of check and outcome", self.probes.clone());
        let probe_seconds = self.probe_seconds.clone();
        r.register_with_unit("probe", "Time an attempt took, by kind of check", Unit::Seconds, probe_seconds);
        let lateness = self.lateness_seconds.clone();
        r.register_with_unit("lateness", "From when an attempt was due to when it began", Unit::Seconds, lateness);
        r.register("commits", "Transactions written", self.commits.clone());
        r.register("commit_events", "Events written in one transaction", self.commit_events.clone());
        let commit_seconds = self.commit_seconds.clone();
        r.register_with_unit("commit", "Time one transaction took", Unit::Seconds, commit_seconds);
        r.register("queue_length", "What waits, by queue", self.queue_length.clone());
        r.register("store_unwritten", "Changes that wait because the store does not write", self.unwritten.clone());
        let dropped = self.dropped.clone();
        r.register("store_dropped", "Observations dropped since the store stopped writing", dropped);
        r.register("outbox_messages", "Messages that are not settled", self.outbox_messages.clone());
        let oldest = self.outbox_oldest_seconds.clone();
        r.register_with_unit("outbox_oldest", "Age of the oldest message not settled", Unit::Seconds, oldest);
        let notifications = self.notifications.clone();
        r.register("notifications", "Attempts to deliver a message, by channel and result", notifications);
        r.register("reloads", "Reloads of the configuration, by result", self.reloads.clone());
        let refused = self.reload_refused.clone();
        r.register("reload_refused", "Whether the latest reload was refused: 1, or 0", refused);
        r.register("isolated", "Whether no canary answers: 1, or 0", self.isolated.clone());
        r.register("isolations", "How often no canary answered any more", self.isolations.clone());
        r.register("clock_jumps", "Steps of the wall clock, and suspends of the machine", self.clock_jumps.clone());
        r.register(
            "void_observations",
            "Observations that could not tell because of the agent, by cause",
            self.void.clone(),
        );
        let uptime = self.uptime_seconds.clone();
        r.register_with_unit("uptime", "Time since this agent started", Unit::Seconds, uptime);
        self
    }

    /// An attempt of a check has its verdict. `kind` is the check's ([`crate::check::Ask::kind`]).
    pub fn probed(&self, kind: &'static str, outcome: Outcome, took: Duration) {
        self.probes.get_or_create(&[("kind", kind), ("outcome", outcome.as_str())]).inc();
        self.probe_seconds.get_or_create(&[("kind", kind)]).observe(took.as_secs_f64());
        *self.tally().probes.entry(outcome.as_str()).or_default() += 1;
    }

    /// An attempt began this much after it was due.
    pub fn late(&self, lateness: Duration) {
        self.lateness_seconds.observe(lateness.as_secs_f64());
        let mut tally = self.tally();
        tally.lateness.add(lateness.as_secs_f64());
        tally.lateness_max = tally.lateness_max.max(lateness);
    }

    /// A transaction with this many events was written.
    pub fn committed(&self, events: usize, took: Duration) {
        self.commits.inc();
        self.commit_events.observe(events as f64);
        self.commit_seconds.observe(took.as_secs_f64());
        let mut tally = self.tally();
        tally.commit_events += events as u64;
        tally.commit_took = tally.commit_took.saturating_add(took);
    }

    /// So many changes wait for the store to write again, and so many observations were dropped meanwhile.
    pub fn unwritten(&self, waiting: usize, dropped: u64) {
        self.unwritten.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.dropped.set(i64::try_from(dropped).unwrap_or(i64::MAX));
    }

    /// A queue has this length now.
    pub fn queue(&self, queue: Queue, length: usize) {
        self.queue_length.get_or_create(&[("queue", queue.as_str())]).set(i64::try_from(length).unwrap_or(i64::MAX));
    }

    /// The outbox holds this many messages that are not settled, the oldest made at `oldest_at`.
    pub fn outbox(&self, unsettled: usize, oldest_at: Option<Timestamp>) {
        self.outbox_messages.set(i64::try_from(unsettled).unwrap_or(i64::MAX));
        self.tally().outbox_oldest_at = oldest_at;
    }

    /// The notifier tried to deliver a message.
    pub fn notified(&self, channel: &Name, result: &Attempted) {
        let word = match result {
            Attempted::Delivered => "delivered",
            Attempted::Retry { .. } => "retry",
            Attempted::Refused { .. } => "refused",
        };
        self.notifications.get_or_create(&[("channel", channel.as_str().to_owned()), ("result", word.into())]).inc();
        *self.tally().notifications.entry(channel.clone()).or_default().entry(word).or_default() += 1;
    }

    /// The configuration was reloaded, or refused.
    pub fn reloaded(&self, accepted: bool, at: Timestamp) {
        let word = if accepted { Self::ACCEPTED } else { Self::REFUSED };
        self.reloads.get_or_create(&[("result", word)]).inc();
        self.reload_refused.set(i64::from(!accepted));
        let mut tally = self.tally();
        *tally.reloads.entry(word).or_default() += 1;
        tally.last_reload_at = Some(at);
    }

    /// The agent has become isolated, or is so no more.
    pub fn isolated(&self, isolated: bool) {
        self.isolated.set(i64::from(isolated));
        if isolated {
            self.isolations.inc();
        }
    }

    /// The wall clock was set, or the machine suspended.
    pub fn clock_jumped(&self) {
        self.clock_jumps.inc();
    }

    /// An observation was made void, by `isolation`, `stall` or `clock`.
    pub fn void(&self, cause: &'static str) {
        self.void.get_or_create(&[("cause", cause)]).inc();
    }

    /// Everything in the OpenMetrics text format (see [`CONTENT_TYPE`]).
    pub fn encode(&self, now: Timestamp) -> String {
        let (oldest, uptime) = {
            let tally = self.tally();
            (tally.outbox_oldest_at.map_or(0.0, |at| now.since(at).as_secs_f64()), now.since(tally.started_at))
        };
        self.outbox_oldest_seconds.set(oldest);
        self.uptime_seconds.set(uptime.as_secs_f64());
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("writing to a String does not fail");
        text
    }

    /// The numbers a person asks for.
    pub fn snapshot(&self, now: Timestamp) -> Snapshot {
        let queues = Queue::ALL.map(|q| (q.as_str(), self.queue_length.get_or_create(&[("queue", q.as_str())]).get()));
        let tally = self.tally();
        let owned = |map: &BTreeMap<&'static str, u64>| map.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
        Snapshot {
            probes: owned(&tally.probes),
            lateness: Lateness {
                count: tally.lateness.count() as u64,
                p50_ms: tally.lateness_ms(0.50),
                p99_ms: tally.lateness_ms(0.99),
                max_ms: to_ms(tally.lateness_max),
            },
            commits: Commits {
                count: self.commits.get(),
                events: tally.commit_events,
                mean_ms: mean_ms(tally.commit_took, self.commits.get()),
            },
            queues: queues.into_iter().map(|(q, n)| (q.to_owned(), u64::try_from(n).unwrap_or(0))).collect(),
            outbox: Outbox {
                unsettled: u64::try_from(self.outbox_messages.get()).unwrap_or(0),
                oldest_ms: tally.outbox_oldest_at.map(|at| to_ms(now.since(at))),
            },
            notifications: tally.notifications.iter().map(|(c, map)| (c.to_string(), owned(map))).collect(),
            reloads: owned(&tally.reloads),
            last_reload_at: tally.last_reload_at,
        }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        // Every change of a tally is a single addition, so one left by a panic elsewhere is whole.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tally {
    fn new(started_at: Timestamp) -> Self {
        Self {
            started_at,
            lateness: DDSketch::new(Config::new(QUANTILE_ERROR, QUANTILE_BINS, LATENESS_SECONDS_MIN)),
            lateness_max: Duration::ZERO,
            commit_events: 0,
            commit_took: Duration::ZERO,
            outbox_oldest_at: None,
            probes: BTreeMap::new(),
            notifications: BTreeMap::new(),
            reloads: BTreeMap::new(),
            last_reload_at: None,
        }
    }

    fn lateness_ms(&self, quantile: f64) -> f64 {
        let seconds = self.lateness.quantile(quantile).ok().flatten().unwrap_or(0.0);
        Duration::try_from_secs_f64(seconds).map_or(0.0, to_ms)
    }
}

fn mean_ms(total: Duration, count: u64) -> f64 {
    match count {
        0 => 0.0,
        n => Duration::try_from_secs_f64(total.as_secs_f64() / n as f64).map_or(0.0, to_ms),
    }
}

/// The numbers of an agent at one moment. Counts are since its start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Attempts by outcome.
    pub probes: BTreeMap<String, u64>,
    /// How late attempts began.
    pub lateness: Lateness,
    /// What was written.
    pub commits: Commits,
    /// What waits, by queue.
    pub queues: BTreeMap<String, u64>,
    /// What is still to be told.
    pub outbox: Outbox,
    /// Attempts to deliver, by channel and result.
    pub notifications: BTreeMap<String, BTreeMap<String, u64>>,
    /// Reloads by result.
    pub reloads: BTreeMap<String, u64>,
    /// When the configuration was last reloaded or refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reload_at: Option<Timestamp>,
}

/// How late attempts began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lateness {
    /// Attempts counted.
    pub count: u64,
    /// Median.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// The worst.
    pub max_ms: f64,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Commits {
    /// Transactions.
    pub count: u64,
    /// Events in them.
    pub events: u64,
    /// Mean time of a transaction.
    pub mean_ms: f64,
}

/// What is still to be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outbox {
    /// Messages not settled.
    pub unsettled: u64,
    /// Age of the oldest of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_ms: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect("a good name")
    }

    fn busy() -> Telemetry {
        let t = Telemetry::new("0.1.0", &name("seoul-1"), Timestamp::from_millis(0));
        t.probed("http", Outcome::Ok, Duration::from_millis(12));
        t.probed("http", Outcome::Ok, Duration::from_millis(15));
        t.probed("mqtt", Outcome::Failed, Duration::from_secs(5));
        for ms in 1..=100 {
            t.late(Duration::from_millis(ms));
        }
        t.committed(3, Duration::from_millis(4));
        t.committed(1, Duration::from_millis(2));
        t.queue(Queue::Commits, 7);
        t.unwritten(5, 4);
        t.outbox(2, Some(Timestamp::from_millis(1_000)));
        t.notified(&name("ops"), &Attempted::Delivered);
        t.notified(&name("ops"), &Attempted::Retry { error: "503".into(), retry_after: None });
        t.reloaded(true, Timestamp::from_millis(500));
        t.reloaded(false, Timestamp::from_millis(600));
        t
    }

    #[test]
    fn every_number_is_exported_under_its_name() {
        let text = busy().encode(Timestamp::from_millis(61_000));
        for line in [
            "bongsu_build_info{version=\"0.1.0\",vantage=\"seoul-1\"} 1",
            "bongsu_probes_total{kind=\"http\",outcome=\"ok\"} 2",
            "bongsu_probes_total{kind=\"mqtt\",outcome=\"failed\"} 1",
            "bongsu_probe_seconds_count{kind=\"http\"} 2",
            "bongsu_lateness_seconds_count 100",
            "bongsu_commits_total 2",
            "bongsu_commit_events_sum 4.0",
            "bongsu_commit_seconds_count 2",
            "bongsu_queue_length{queue=\"commits\"} 7",
            "bongsu_store_unwritten 5",
            "bongsu_store_dropped 4",
            "bongsu_outbox_messages 2",
            "bongsu_outbox_oldest_seconds 60.0",
            "bongsu_notifications_total{channel=\"ops\",result=\"delivered\"} 1",
            "bongsu_notifications_total{channel=\"ops\",result=\"retry\"} 1",
            "bongsu_reloads_total{result=\"accepted\"} 1",
            "bongsu_reload_refused 1",
            "bongsu_uptime_seconds 61.0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "OpenMetrics ends with its mark");
        let t = busy();
        t.reloaded(true, Timestamp::from_millis(700));
        assert!(t.encode(Timestamp::from_millis(61_000)).contains("\nbongsu_reload_refused 0\n"));
    }

    #[test]
    fn an_age_grows_without_anybody_touching_it_and_ends_with_the_outbox() {
        let t = busy();
        let oldest = |now_ms| t.snapshot(Timestamp::from_millis(now_ms)).outbox.oldest_ms;
        assert_eq!(oldest(2_000), Some(1_000.0));
        assert_eq!(oldest(9_000), Some(8_000.0));
        t.outbox(0, None);
        assert_eq!(oldest(9_000), None);
        assert!(t.encode(Timestamp::from_millis(9_000)).contains("bongsu_outbox_oldest_seconds 0.0"));
    }

    #[test]
    fn a_snapshot_tells_the_same_and_survives_json() {
        let s = busy().snapshot(Timestamp::from_millis(2_000));
        assert_eq!(s.probes, BTreeMap::from([("failed".into(), 1), ("ok".into(), 2)]));
        assert_eq!((s.commits.count, s.commits.events, s.commits.mean_ms), (2, 4, 3.0));
        assert_eq!((s.queues["commits"], s.queues["probes"]), (7, 0));
        assert_eq!(s.notifications["ops"], BTreeMap::from([("delivered".into(), 1), ("retry".into(), 1)]));
        assert_eq!(s.last_reload_at, Some(Timestamp::from_millis(600)));
        assert_eq!(s.lateness.max_ms, 100.0);
        assert!((s.lateness.p50_ms - 50.0).abs() < 2.0, "{:?}", s.lateness);
        assert!((s.lateness.p99_ms - 99.0).abs() < 2.0, "{:?}", s.lateness);
        let text = serde_json::to_string(&s).expect("plain data");
        assert_eq!(serde_json::from_str::<Snapshot>(&text).expect("round trip"), s);
    }

    #[test]
    fn nothing_yet_is_zero_not_nonsense() {
        let t = Telemetry::new("0.1.0", &name("a"), Timestamp::from_millis(0));
        let s = t.snapshot(Timestamp::from_millis(0));
        assert_eq!((s.lateness, s.commits, s.outbox), (Lateness::default(), Commits::default(), Outbox::default()));
    }
}
