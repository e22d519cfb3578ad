//! `bongsu run`: the daemon.

use super::{Context, Failure, Verdict, logging};

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
    todo!()
}
