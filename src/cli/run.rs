//! `bongsu run`: the daemon.

use std::{future::pending, sync::Arc};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Mutex,
};

use super::{Context, Failure, Verdict, logging};
use crate::{
    agent,
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

/// Loads the configuration and hands it to the agent, with the signals that reload and end it.
pub async fn run(_: Args, cx: &mut Context) -> Result<Verdict, Failure> {
    logging::start(cx.out.stderr_colour())?;
    // Before anything slow: a signal that comes during the start must not be lost.
    let hangup = Arc::new(Mutex::new(catch(SignalKind::hangup())?));
    let (mut terminate, mut interrupt) = (catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?);
    // A daemon's messages and its status name the file wherever they are read.
    let path = cx.config_path();
    let path = std::path::absolute(&path).unwrap_or(path);
    let config = config::load(&path, &OsEnvironment).map_err(|m| Failure::Config(Box::new(m)))?;
    let loader: agent::Loader =
        Arc::new(move || config::load(&path, &OsEnvironment).map_err(|mistakes| mistakes.to_string()));
    let reload = move || {
        let hangup = hangup.clone();
        let wait = async move {
            if hangup.lock().await.recv().await.is_none() {
                // No more signals will come: no more reloads.
                pending::<()>().await;
            }
        };
        Box::pin(wait) as futures_util::future::BoxFuture<'static, ()>
    };
    let stop = async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!("stopping: {name}");
    };
    agent::run(config, loader, reload, stop, cx.give_back).await.map_err(|e| Failure::failed(e.to_string()))?;
    Ok(Verdict::Fine)
}

fn catch(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|e| Failure::failed(format!("cannot listen for signals: {e}")))
}
