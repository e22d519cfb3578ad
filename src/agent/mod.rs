//! The daemon: the one place that starts threads and tasks, and that ends them.
//!
//! ```text
//!   a task per check ──events──▶ the core's thread ──commit──▶ the store's thread ──▶ SQLite
//!      (checks.rs)  ◀──pace────    (heart.rs)     ◀──done────      (hand.rs)
//!                                                 ──after it──▶ board ──▶ a task per channel
//! ```
//!
//! The core takes events in groups, and has each group written in one transaction by the store's writer, for which it
//! waits, but not for ever. Only what is committed is shown to others: the pace to the checks, messages to the channels;
//! unless the store does not write for so long that telling is worth more (`backlog.rs`). Each part promises by when it is
//! heard of again (`pulse.rs`), and systemd's watchdog is fed while all keep their promises.

mod backlog;
mod board;
mod checks;
mod control;
mod hand;
mod heart;
mod past;
mod pulse;
mod reload;
mod service;
mod stall;
mod stop;
mod trial;
mod vantage;
mod writing;

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use tokio::{net::UnixListener, sync::watch, task::JoinHandle};

use self::{
    board::Board,
    checks::Runner,
    heart::{Heart, Job, Reply, Setup},
    pulse::{Part, Pulse},
    stop::Stop,
    vantage::Vantage,
};
pub use self::{heart::HeartError, trial::try_channel};
use crate::{
    alert::ChannelPlan,
    check::Check,
    clock,
    config::Config,
    decide::{CheckPlan, Event, Plan},
    notify,
    protocol::{Net, wire::NetOptions},
    store::{self, Keep, Watched},
    telemetry::Telemetry,
    value::{CheckName, Name, Timestamp},
};

/// Longest time from the wish to stop to the end of the process; what is in flight then is abandoned (its rows are
/// written, so it is taken up at the next start).
pub const STOP_MAX: Duration = Duration::from_secs(5);

/// The part of it that tasks may take; the rest is the store's, to write what they told last.
const TASKS_STOP_MAX: Duration = Duration::from_millis(4_500);

/// How often the store is given time for roll-ups and deletions.
const MAINTAIN_EVERY: Duration = Duration::from_secs(60);

/// Longest sleep of the clock task: a step of the wall clock is noticed within this.
const TICK_MAX: Duration = Duration::from_secs(30);

/// Why the daemon could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The store cannot be opened, or is damaged.
    #[error(transparent)]
    Store(#[from] store::StoreError),
    /// The network cannot be set up.
    #[error("cannot set up the network: {0}")]
    Net(String),
    /// The control socket cannot be opened.
    #[error("cannot open the control socket: {0}")]
    Socket(std::io::Error),
    /// The core's thread is gone.
    #[error("the core has stopped: {0}")]
    Heart(String),
}

/// Loads the configuration anew, for a reload; the text is what its mistakes are told as.
pub type Loader = Arc<dyn Fn() -> Result<Config, String> + Send + Sync>;

/// A running agent, as its parts share it.
pub(crate) struct Shared {
    version: &'static str,
    started_at: Timestamp,
    config_path: PathBuf,
    vantage: Name,
    sight: Arc<Vantage>,
    jobs: tokio::sync::mpsc::Sender<Job>,
    /// Whether the store does not write.
    behind: Arc<AtomicBool>,
    board: Arc<Board>,
    telemetry: Arc<Telemetry>,
    pulse: Arc<Pulse>,
    stop: watch::Sender<bool>,
    loader: Loader,
    give_back: fn(),
    reload_error: Mutex<Option<String>>,
    /// Whether a reload was put off until the store writes again.
    reload_owed: AtomicBool,
    running: tokio::sync::Mutex<Running>,
}

/// What a reload replaces.
struct Running {
    config: Arc<Config>,
    net: Arc<Net>,
    checks: HashMap<CheckName, Task>,
    channels: BTreeMap<Name, Task>,
    /// Those that were asked to end and may not have: a stop in the middle of a reload waits for them as well.
    ending: Vec<Task>,
}

impl Running {
    /// Ends those that are to end, at the same time: several hung receivers cost one grace, not one each.
    async fn end(&mut self) {
        futures_util::future::join_all(self.ending.iter_mut().map(Task::end)).await;
        self.ending.clear();
    }
}

/// A task that can be asked to end.
struct Task {
    fingerprint: Arc<str>,
    stop: Arc<Stop>,
    handle: JoinHandle<()>,
}

impl Task {
    /// Asks it to end, and waits until it has; may be given up and called again.
    async fn end(&mut self) {
        self.stop.wish();
        if !self.handle.is_finished() && tokio::time::timeout(STOP_MAX, &mut self.handle).await.is_err() {
            tracing::warn!("a task did not end in time and was abandoned");
        }
    }
}

/// Runs the daemon until `stop` resolves, or it cannot go on. `reload` resolves each time a reload is wanted.
/// `give_back` is called when a configuration was read and much memory may be free.
///
/// # Errors
/// When the store, the network or the control socket cannot be set up, or the core's thread ends unasked.
pub async fn run(
    config: Config,
    loader: Loader,
    mut reload: impl FnMut() -> futures_util::future::BoxFuture<'static, ()>,
    stop: impl Future<Output = ()>,
    give_back: fn(),
) -> Result<(), AgentError> {
    let mut stop = std::pin::pin!(stop);
    let starting = start(config, loader, give_back, stop.as_mut());
    let started = service::patiently(starting, service::EXTEND_EVERY, service::starting).await?;
    let Some((shared, mut heart, listener)) = started else {
        service::stopping();
        return Ok(());
    };
    let router = crate::web::control::router(shared.clone());
    let mut stopped = shared.stop.subscribe();
    let server = tokio::spawn(async move {
        let wait = async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(wait).await {
            tracing::error!(%error, "the control socket is gone");
        }
    });
    let clock = tokio::spawn(tick(shared.clone(), heart.next_timeout.clone()));
    let standing = heart.standing.clone();
    let sight = shared.sight.clone();
    let sight = tokio::spawn(async move { tokio::join!(sight.watch(), sight.watch_clocks(), sight.watch_itself()) });
    {
        let running = shared.running.lock().await;
        let (checks, channels) = (running.checks.len(), running.channels.len());
        tracing::info!(version = shared.version, vantage = %shared.vantage, checks, channels, "watching");
    }
    service::ready(&standing.borrow());
    let attending = tokio::spawn(service::attend(shared.pulse.clone(), shared.jobs.clone(), standing.clone()));
    let reloads = async {
        loop {
            tokio::select! {
                () = reload() => {}
                () = shared.reload_is_owed() => {}
            }
            service::reloading();
            // The outcome is logged and kept for `status`; the old configuration goes on after a mistake.
            let _ = shared.clone().reload().await;
            service::ready(&standing.borrow());
        }
    };
    // Neither waits for a reload, which the store may hold up.
    let result = tokio::select! {
        () = &mut stop => Ok(()),
        error = heart.ended() => Err(AgentError::Heart(error)),
        () = reloads => Ok(()),
    };
    service::stopping();
    attending.abort();
    let deadline = clock::instant() + STOP_MAX;
    let left = || deadline.saturating_duration_since(clock::instant());
    clock.abort();
    sight.abort();
    let socket = shared.shut_down().await;
    // Whoever still holds the socket is cut off: its answer could only be that the daemon stops.
    server.abort();
    heart.stop(left()).await;
    let _ = std::fs::remove_file(socket);
    result
}

/// `None` when `stop` resolves before the store is open: a long check, or a disk that does not answer, is not waited
/// for. What its threads are at then ends with the process, and has told and changed nothing.
async fn start(
    config: Config,
    loader: Loader,
    give_back: fn(),
    stop: Pin<&mut impl Future<Output = ()>>,
) -> Result<Option<(Arc<Shared>, Heart, UnixListener)>, AgentError> {
    let now = clock::now();
    let net = network(&config)?;
    let telemetry = Arc::new(Telemetry::new(env!("CARGO_PKG_VERSION"), &config.agent.name, now));
    let board = Arc::new(Board::default());
    let (path, pulse) = (config.store.path.clone(), Arc::new(Pulse::default()));
    let opening = Heart::start(path, setup(&config, now), board.clone(), telemetry.clone(), pulse.clone());
    let heart = tokio::select! {
        biased;
        () = stop => return Ok(None),
        heart = opening => heart?,
    };
    // Before anything is asked or sent: a daemon whose socket another one has is not to do either.
    let listener = crate::web::control::listen(&config.agent.socket).await.map_err(AgentError::Socket)?;
    let sight = Arc::new(Vantage::new(
        config.agent.canaries.clone(),
        net.clone(),
        heart.isolation,
        heart.jobs.clone(),
        telemetry.clone(),
    ));
    let shared = Arc::new(Shared {
        version: env!("CARGO_PKG_VERSION"),
        started_at: now,
        config_path: config.path.clone(),
        vantage: config.agent.name.clone(),
        sight,
        jobs: heart.jobs.clone(),
        behind: heart.behind.clone(),
        board,
        telemetry,
        pulse,
        stop: watch::Sender::new(false),
        loader,
        give_back,
        reload_error: Mutex::new(None),
        reload_owed: AtomicBool::new(false),
        running: tokio::sync::Mutex::new(Running {
            checks: HashMap::with_capacity(config.checks.len()),
            config: Arc::new(config),
            net,
            channels: BTreeMap::new(),
            ending: Vec::new(),
        }),
    });
    {
        let mut running = shared.running.lock().await;
        // Reading the trusted roots takes tens of milliseconds, which must not count as the first probe's.
        let warm = running.net.clone();
        let _ = tokio::task::spawn_blocking(move || warm.warm()).await;
        shared.start_channels(&mut running);
        shared.start_checks(&mut running).await;
    }
    give_back();
    Ok(Some((shared, heart, listener)))
}

fn network(config: &Config) -> Result<Arc<Net>, AgentError> {
    let options = NetOptions { nameservers: config.agent.nameservers.clone(), masker: config.masker.clone() };
    Net::new(options).map_err(AgentError::Net)
}

fn setup(config: &Config, now: Timestamp) -> Setup {
    let watched = |c: &Arc<Check>| Watched {
        check: c.name.clone(),
        window: c.thresholds.degraded.window,
        interval: c.schedule.interval(now),
    };
    Setup {
        plan: Arc::new(plan_of(config)),
        watched: config.checks.iter().map(watched).collect(),
        renames: config.checks.iter().filter_map(|c| Some((c.formerly.clone()?, c.name.clone()))).collect(),
        keep: Keep { raw: config.store.keep_raw, blocks: config.store.keep_blocks, daily: config.store.keep_daily },
    }
}

/// What the core must know of a configuration.
pub fn plan_of(config: &Config) -> Plan {
    let check = |c: &Arc<Check>| {
        let plan = CheckPlan {
            title: c.title.clone(),
            labels: c.labels.clone(),
            thresholds: c.thresholds.clone(),
            depends_on: c.depends_on.clone(),
        };
        (c.name.clone(), plan)
    };
    Plan {
        vantage: config.agent.name.clone(),
        checks: config.checks.iter().map(check).collect(),
        routes: config.routes.clone(),
        channels: config
            .channels
            .iter()
            .map(|(name, c)| (name.clone(), ChannelPlan { fallback: c.fallback.clone() }))
            .collect(),
    }
}

/// Gives the core the time when routes and steps ask for it, and the store time for its upkeep.
async fn tick(shared: Arc<Shared>, mut next: watch::Receiver<Option<Timestamp>>) {
    let mut maintained = clock::instant();
    let beat = shared.pulse.begin(Part::Clock, TICK_MAX);
    loop {
        beat.within(TICK_MAX);
        let due = *next.borrow_and_update();
        let wait = due.map_or(TICK_MAX, |at| at.since(clock::now())).min(TICK_MAX);
        tokio::select! {
            changed = next.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(wait + Duration::from_millis(1)) => {
                let job = Job::quiet(Event::Tick);
                if due.is_some_and(|at| at <= clock::now()) && beat.kept(shared.jobs.send(job)).await.is_err() {
                    return;
                }
            }
        }
        if clock::instant().saturating_duration_since(maintained) >= MAINTAIN_EVERY {
            maintained = clock::instant();
            if beat.kept(shared.jobs.send(Job::Maintain)).await.is_err() {
                return;
            }
        }
    }
}

impl Shared {
    /// Starts the tasks of all channels that have none.
    fn start_channels(&self, running: &mut Running) {
        for (name, configured) in &running.config.channels {
            if running.channels.contains_key(name) {
                continue;
            }
            let stop = Arc::new(Stop::default());
            let stopped = stop.clone();
            let beat = self.pulse.begin(Part::Channel(name.clone()), notify::worker::SLEEP_MAX);
            let (board, jobs, telemetry) = (self.board.clone(), self.jobs.clone(), self.telemetry.clone());
            let queue = board::Line::new(name.clone(), board, jobs, telemetry, beat);
            let (channel, net, task_name) = (configured.channel.clone(), running.net.clone(), name.clone());
            let handle = tokio::spawn(async move {
                notify::worker::run(task_name, channel, net, queue, stopped.wished()).await;
            });
            let fingerprint = configured.fingerprint.clone();
            running.channels.insert(name.clone(), Task { fingerprint, stop, handle });
        }
    }

    /// Starts the tasks of all checks that have none. What was being confirmed goes on being confirmed: a check that is due
    /// once a night is not to be suspect for a day.
    async fn start_checks(&self, running: &mut Running) {
        let confirming = match heart::ask(&self.jobs, |reply| Job::Paces { reply }).await {
            Ok(Reply::Paces(confirming)) => confirming,
            Ok(_) | Err(_) => HashMap::new(),
        };
        let (now, all) = (clock::now(), running.config.checks.len());
        let permits = checks::permits();
        for check in &running.config.checks {
            if running.checks.contains_key(&check.name) {
                continue;
            }
            let due = check.schedule.first(&check.name, now, all);
            let confirms = confirming.get(&check.name).map(|every| now + *every);
            let Some(first) = due.into_iter().chain(confirms).min() else {
                tracing::warn!(check = %check.name, "is never due");
                continue;
            };
            let stop = Arc::new(Stop::default());
            let runner = Runner {
                check: check.clone(),
                net: running.net.clone(),
                jobs: self.jobs.clone(),
                telemetry: self.telemetry.clone(),
                permits: permits.clone(),
                beat: self.pulse.begin(Part::Check(check.name.clone()), checks::BEGIN_MAX),
                stop: stop.clone(),
                sight: self.sight.clone(),
                behind: self.behind.clone(),
            };
            let handle = tokio::spawn(runner.run(first));
            running.checks.insert(check.name.clone(), Task { fingerprint: check.fingerprint.clone(), stop, handle });
        }
    }

    /// Ends all tasks within [`TASKS_STOP_MAX`]; gives the path of the control socket.
    async fn shut_down(&self) -> PathBuf {
        self.stop.send_replace(true);
        let mut running = self.running.lock().await;
        let Running { checks, channels, ending, .. } = &mut *running;
        ending.extend(checks.drain().map(|(_, task)| task));
        ending.extend(std::mem::take(channels).into_values());
        if tokio::time::timeout(TASKS_STOP_MAX, running.end()).await.is_err() {
            tracing::warn!(
                "some deliveries did not end in time and were abandoned; they are taken up at the next start"
            );
        }
        running.config.agent.socket.clone()
    }
}
