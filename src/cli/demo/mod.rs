//! `bongsu demo`: an outage of a messaging service, replayed at speed and told as bongsu sees it.
//!
//! Everything is real but the service's misfortune: a broker and a web front on loopback sockets, a configuration in
//! files, the daemon itself, its database, a webhook receiver that checks signatures, a mail drop. The story is told
//! from the outside, by what anybody could see: the documented views of the database, the requests that came, the
//! mails that lie there. It needs no network, no rights and no configuration, and leaves nothing behind.

pub mod broker;
pub mod files;
pub mod front;
pub mod scenario;
pub mod story;
pub mod watch;

use std::{
    fs::Permissions, future::Future, os::unix::fs::PermissionsExt, path::Path, pin::Pin, sync::Arc, time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use self::{
    broker::{Broker, Fault, Login},
    files::Places,
    front::{Front, Receiver},
    scenario::{Scenario, TOTAL_MAX, TOTAL_MIN, Timeline},
    story::{Seen, Story},
    watch::Watch,
};
use super::{Context, Failure, Verdict, render::text::Screen};
use crate::{
    agent, clock,
    config::{self, Config, OsEnvironment},
    value::{TimeSpan, Timestamp},
};

/// How often is looked for news.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How long the demo goes on after the last message, so that the checks are seen to be good again.
const ENCORE: Duration = Duration::from_secs(2);

/// How long the daemon may take to stop; it promises to be faster.
const STOP_MAX: Duration = Duration::from_secs(10);

/// The user that probes log in as.
const USERNAME: &str = "probe";

/// Watch a real outage being replayed and noticed: no configuration, no network, no root
///
/// Starts a small messaging service on this machine, watches it as it would yours, breaks it the way a real one
/// broke, and tells what happens: what users met, what a health page said, the incident, the alerts, the recovery.
#[derive(clap::Args, Clone, Debug)]
#[command(after_long_help = "\
Scenarios:
  R9  silent loss: messages are accepted and never arrive
  R7  six minutes: most logins are turned away
  R8  duplicates and delay: every message is late and comes twice
  R5  login only: new logins fail, open sessions go on

Examples:
  bongsu demo
  bongsu demo --for 50s
  bongsu demo --scenario R8")]
pub struct Args {
    /// The outage to replay, by number or name
    #[arg(long, default_value = "R9", value_name = "SCENARIO")]
    scenario: String,
    /// The time the demo may take, from 30s to 1h; it ends earlier when everything is told
    #[arg(long = "for", default_value = "50s", value_name = "TIME")]
    time: TimeSpan,
}

/// What ends the daemon.
pub type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The daemon's life: runs with this configuration until it is stopped. A parameter, so that the story can be tried
/// with another one.
pub type Daemon = fn(Config, Stop) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Runs the demo.
pub async fn run(args: Args, cx: &mut Context) -> Result<Verdict, Failure> {
    let scenario = scenario::by_name(&args.scenario).map_err(Failure::usage)?;
    if !(TOTAL_MIN..=TOTAL_MAX).contains(&args.time.0) {
        let (min, max) = (TimeSpan(TOTAL_MIN), TimeSpan(TOTAL_MAX));
        return Err(Failure::usage(format!("--for {}: a demo takes from {min} to {max}", args.time)));
    }
    // Logs would tear the story apart; whoever asks for them wants them.
    if std::env::var_os("RUST_LOG").is_some() {
        super::logging::start(cx.out.stderr_colour())?;
    }
    let play = Play { scenario, timeline: Timeline::within(args.time.0), screen: cx.out.screen() };
    let mut tell = |text: &str| cx.out.print(text);
    match play.run(the_daemon, &mut tell).await? {
        End::Told { shortcomings } => Ok(Verdict::of(shortcomings.is_empty())),
        End::Interrupted => Ok(Verdict::Bad),
    }
}

/// The real daemon: the one that `bongsu run` runs.
fn the_daemon(config: Config, stop: Stop) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> {
    let path = config.path.clone();
    let load = move || config::load(&path, &OsEnvironment).map_err(|mistakes| mistakes.to_string());
    Box::pin(async move {
        let never = || Box::pin(std::future::pending()) as futures_util::future::BoxFuture<'static, ()>;
        agent::run(config, Arc::new(load), never, stop, || {}).await.map_err(|error| error.to_string())
    })
}

/// A demo to be played.
pub struct Play {
    /// What is replayed.
    pub scenario: &'static Scenario,
    /// When things happen.
    pub timeline: Timeline,
    /// What it is shown on.
    pub screen: Screen,
}

/// How a demo ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// To the end.
    Told {
        /// What bongsu did not do as it must; empty when all went well.
        shortcomings: Vec<String>,
    },
    /// By the user.
    Interrupted,
}

/// The messaging service and those who are told of its troubles.
struct Stage {
    broker: Broker,
    front: Front,
    receiver: Receiver,
    places: Places,
}

impl Stage {
    async fn build() -> std::io::Result<Self> {
        let password = clock::random_bytes::<12>().iter().map(|byte| format!("{byte:02x}")).collect();
        let login = Login { username: USERNAME.into(), password };
        let secret = front::new_secret();
        let broker = Broker::start(Some(login.clone())).await?;
        let (front, receiver) = (Front::start().await?, Receiver::start(&secret).await?);
        let places =
            Places { broker: broker.address(), login, front: front.address(), receiver: receiver.address(), secret };
        Ok(Self { broker, front, receiver, places })
    }
}

impl Play {
    /// Plays it, the text given to `tell` as it comes. Removes everything it made, also when it is interrupted.
    pub async fn run(
        self,
        daemon: Daemon,
        tell: &mut (dyn FnMut(&str) -> Result<(), Failure> + Send),
    ) -> Result<End, Failure> {
        // Before anything is made that would have to be removed.
        let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot("listen for signals"))?;
        let mut terminate = signal(SignalKind::terminate()).map_err(cannot("listen for signals"))?;
        let mut hangup = signal(SignalKind::hangup()).map_err(cannot("listen for signals"))?;
        let dir = tempfile::Builder::new().prefix("bongsu-demo-").permissions(Permissions::from_mode(0o700)).tempdir();
        let dir = dir.map_err(cannot("make a directory"))?;
        let stage = Stage::build().await.map_err(cannot("open a port on the loopback"))?;
        let path = files::write(dir.path(), self.scenario, &stage.places).map_err(cannot("write the configuration"))?;
        let config = config::load(&path, &OsEnvironment).map_err(|mistakes| Failure::Config(Box::new(mistakes)))?;

        let (stop, stopped) = oneshot::channel::<()>();
        let wait: Stop = Box::pin(async move {
            // A sender that is gone wants the end as well.
            let _ = stopped.await;
        });
        let mut running = tokio::spawn(daemon(config, wait));
        let result = tokio::select! {
            result = self.tell_story(&stage, dir.path(), tell) => result,
            ended = &mut running => {
                let why = match ended {
                    Ok(Ok(())) => "it ended by itself".into(),
                    Ok(Err(error)) => error,
                    Err(error) => error.to_string(),
                };
                return Err(Failure::failed(format!("the daemon of the demo has stopped: {why}")));
            }
            _ = interrupt.recv() => tell("\n  Interrupted; everything the demo made is removed.\n").map(|()| End::Interrupted),
            _ = terminate.recv() => Ok(End::Interrupted),
            _ = hangup.recv() => Ok(End::Interrupted),
        };
        // The receiver may be gone already.
        let _ = stop.send(());
        if timeout(STOP_MAX, &mut running).await.is_err() {
            running.abort();
        }
        dir.close().map_err(cannot("remove the demo's directory"))?;
        result
    }

    async fn tell_story(
        &self,
        stage: &Stage,
        dir: &Path,
        tell: &mut (dyn FnMut(&str) -> Result<(), Failure> + Send),
    ) -> Result<End, Failure> {
        let started = clock::now();
        let begun = clock::instant();
        let database = dir.join(files::DATABASE);
        let mut story = Story::new(self.scenario, self.timeline, self.screen, started);
        let mut watch = Watch::new(database.clone(), dir.join(files::MAIL));
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tell(&story.opening())?;
        let (mut broken, mut repaired) = (false, false);
        loop {
            looks.tick().await;
            let elapsed = clock::instant().saturating_duration_since(begun);
            watch = self.look(watch, stage, &mut story, tell).await?;
            if !broken && elapsed >= self.timeline.broke {
                broken = true;
                stage.broker.set_fault(self.scenario.fault);
                tell(&story.see(clock::now(), Seen::Broke))?;
            }
            if !repaired && elapsed >= self.timeline.repaired {
                repaired = true;
                stage.broker.set_fault(Fault::Healthy);
                tell(&story.see(clock::now(), Seen::Repaired))?;
            }
            if elapsed >= self.timeline.end {
                break;
            }
            if repaired && story.is_complete() {
                sleep(ENCORE.min(self.timeline.end - elapsed)).await;
                self.look(watch, stage, &mut story, tell).await?;
                break;
            }
        }
        let (query, rows) = blocking(move || watch::shown_rows(&database)).await?;
        tell(&story.ending(clock::now(), query, &rows, stage.front.asked()))?;
        Ok(End::Told { shortcomings: story.shortcomings() })
    }

    /// One look at everything; what is new is told in the order in which it happened.
    async fn look(
        &self,
        mut watch: Watch,
        stage: &Stage,
        story: &mut Story,
        tell: &mut (dyn FnMut(&str) -> Result<(), Failure> + Send),
    ) -> Result<Watch, Failure> {
        let (watch, news) = blocking(move || {
            let news = watch.look()?;
            Ok((watch, news))
        })
        .await?;
        let now = clock::now();
        let mut seen: Vec<(Timestamp, Seen)> = Vec::new();
        seen.extend(news.observed.into_iter().map(|o| (o.ended_at(), Seen::Observed(o))));
        if news.late > 0 {
            seen.push((now, Seen::Late(news.late)));
        }
        seen.extend(
            news.incidents.into_iter().map(|row| (row.closed_at.unwrap_or(row.opened_at), Seen::Incident(row))),
        );
        seen.extend(stage.receiver.take().into_iter().map(|received| (received.at, Seen::Webhook(received))));
        seen.extend(news.mails.into_iter().map(|mail| (now, Seen::Mail(mail))));
        seen.sort_by_key(|(at, _)| *at);
        for (at, seen) in seen {
            tell(&story.see(at, seen))?;
        }
        Ok(watch)
    }
}

/// Reads the database on a thread where waiting is allowed.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, rusqlite::Error> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Failure::failed(format!("cannot read the demo's database: {error}"))),
        Err(error) => Err(Failure::failed(format!("cannot read the demo's database: {error}"))),
    }
}

fn cannot(what: &'static str) -> impl Fn(std::io::Error) -> Failure {
    move |error| Failure::failed(format!("the demo cannot {what}: {error}"))
}
