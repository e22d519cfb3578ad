//! `bongsu run`: the daemon.

use std::sync::Arc;

use futures_util::FutureExt;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Mutex,
};

use super::{Context, Failure, Verdict, logging};
use crate::{
    agent::{self, Loader},
    config::{self, OsEnvironment},
};

/// The daemon: asks every check on its schedule, records what it sees, tells whom it must
///
/// Runs in the foreground until SIGTERM or SIGINT; SIGHUP loads the configuration anew (mistakes are told and the
/// old one stays in force). Logs go to the journal under systemd, else to standard error; RUST_LOG chooses what.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  bongsu run
  bongsu run --config /etc/bongsu/config.yaml
  RUST_LOG=bongsu=debug bongsu run")]
pub struct Args {}

/// Loads the configuration and hands it to the agent.
pub async fn run(_: Args, cx: &mut Context) -> Result<Verdict, Failure> {
    logging::start()?;
    let config = cx.load()?;
    let path = cx.config_path();
    let loader: Loader = Arc::new(move || config::load(&path, &OsEnvironment).map_err(|m| m.to_string()));
    let cannot = |e: std::io::Error| Failure::failed(format!("cannot listen to signals: {e}"));
    let hangup = Arc::new(Mutex::new(signal(SignalKind::hangup()).map_err(cannot)?));
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let reload = move || {
        let hangup = hangup.clone();
        async move {
            hangup.lock().await.recv().await;
        }
        .boxed()
    };
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    agent::run(config, loader, reload, stop).await.map_err(|e| Failure::failed(e.to_string()))?;
    Ok(Verdict::Fine)
}
