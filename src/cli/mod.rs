//! The command line: one file per command.
//!
//! A command gathers, `render` turns what was gathered into text, [`output::Output`] shows it. Exit codes are the
//! same everywhere: 0 fine, 1 failed, 2 bad usage or configuration.

pub mod alert;
pub mod control;
pub mod db;
pub mod demo;
pub mod history;
pub mod incidents;
pub mod logging;
mod moment;
pub mod outbox;
pub mod output;
pub mod records;
pub mod probe;
pub mod protocols;
pub mod render;
pub mod run;
pub mod schema;
pub mod status;
pub mod validate;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::{Args, ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand, ValueHint};

use self::output::Output;
use crate::{
    config::{self, Config, Mistakes, OsEnvironment, Places},
    protocol::{Net, wire::NetOptions},
    value::Masker,
};

/// Where the configuration is looked for when nobody says: here first, then system-wide.
const CONFIG_HERE: &str = "config.yaml";
const CONFIG_SYSTEM: &str = "/etc/bongsu/config.yaml";

const AFTER_HELP: &str = "\
Exit codes: 0 fine, 1 failed (a check is bad, a message was not delivered), 2 bad usage or configuration.

Examples:
  bongsu demo --for 50s                       watch an outage being noticed, with no configuration at all
  bongsu probe https://chat.example.com/      one attempt, with a waterfall of its phases
  bongsu validate                             is the configuration right?
  bongsu run                                  the daemon
  bongsu status                               what is up now";

/// Watches whether messages get through.
///
/// bongsu is an availability monitor for messaging: chat, mail, brokers, SMS gateways, push. It sends messages and
/// waits for them, finds outages that a port check cannot see, and tells whom you want told.
#[derive(Parser)]
#[command(name = "bongsu", version, after_long_help = AFTER_HELP, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Args)]
pub struct Global {
    /// The configuration [default: ./config.yaml if it exists, else /etc/bongsu/config.yaml]
    ///
    /// Checks are read from the folder `checks` beside it.
    #[arg(long, global = true, env = "BONGSU_CONFIG", value_name = "PATH", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// No colours, also on a terminal (as with NO_COLOR=1 in the environment)
    #[arg(long, global = true)]
    no_color: bool,
}

/// For commands that can answer in JSON.
#[derive(Args, Clone, Copy)]
pub struct Format {
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    Demo(demo::Args),
    Validate(validate::Args),
    Probe(probe::Args),
    Status(status::Args),
    History(history::Args),
    Incidents(incidents::Args),
    Alert(alert::Args),
    Outbox(outbox::Args),
    Db(db::Args),
    Protocols(protocols::Args),
    Schema(schema::Args),
}

/// Whether things are as they should be, once the command itself has worked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They are: exit code 0.
    Fine,
    /// They are not, which has been shown: exit code 1.
    Bad,
}

impl Verdict {
    /// `Fine` when it holds.
    pub fn of(fine: bool) -> Self {
        if fine { Self::Fine } else { Self::Bad }
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// It was tried and did not work: exit code 1.
    Failed(String),
    /// It was asked wrongly: exit code 2.
    Usage(String),
    /// The configuration has mistakes: exit code 2.
    Config(Box<Mistakes>),
    /// The configuration has mistakes, which have been shown: exit code 2.
    Shown,
}

impl Failure {
    /// It was tried and did not work.
    pub fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }

    /// It was asked wrongly.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) | Self::Config(_) | Self::Shown => 2,
        }
    }

    fn text(&self, colour: bool) -> Option<String> {
        match self {
            Self::Failed(text) | Self::Usage(text) => Some(format!("error: {text}")),
            Self::Config(mistakes) => Some(mistakes.render(colour)),
            Self::Shown => None,
        }
    }
}

/// What every command is given.
pub struct Context {
    global: Global,
    give_back: fn(),
    /// Where it writes.
    pub out: Output,
}

impl Context {
    /// The configuration's file: as said, else found.
    pub fn config_path(&self) -> PathBuf {
        match &self.global.config {
            Some(path) => path.clone(),
            None if Path::new(CONFIG_HERE).exists() => CONFIG_HERE.into(),
            None => CONFIG_SYSTEM.into(),
        }
    }

    /// The whole configuration, its secrets resolved.
    pub fn load(&self) -> Result<Config, Failure> {
        config::load(&self.config_path(), &OsEnvironment).map_err(|m| Failure::Config(Box::new(m)))
    }

    /// Where the daemon and its database are. Works also for somebody who may not read the configuration's secrets.
    pub fn places(&self) -> Result<Places, Failure> {
        config::places(&self.config_path(), &OsEnvironment).map_err(|m| Failure::Config(Box::new(m)))
    }
}

/// What the attempts of a command share, for a whole configuration.
pub fn net(config: &Config) -> Result<Arc<Net>, Failure> {
    net_of(config.agent.nameservers.clone(), config.masker.clone())
}

/// The same for attempts that need no configuration.
pub fn net_of(nameservers: Vec<SocketAddr>, masker: Masker) -> Result<Arc<Net>, Failure> {
    Net::new(NetOptions { nameservers, masker }).map_err(Failure::Failed)
}

/// Parses the process's command line; help, version and bad usage end the process here.
pub fn parse() -> Cli {
    let mut command = Cli::command();
    // Help and errors of usage are shown while parsing, so before the option is known.
    if std::env::args_os().any(|argument| argument == "--no-color") {
        command = command.color(ColorChoice::Never);
    }
    Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|e| e.exit())
}

/// Runs a parsed command line to its end and gives the exit code. `give_back` gives free memory back to the system.
pub fn main(cli: Cli, give_back: fn()) -> ExitCode {
    let Cli { global, command } = cli;
    let mut cx = Context { out: Output::new(global.no_color), global, give_back };
    // One provider for all of TLS; it is an error only when there is one already, which is then this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let result = match runtime(&command) {
        Ok(runtime) => runtime.block_on(dispatch(command, &mut cx)),
        Err(e) => Err(Failure::failed(format!("cannot start the runtime: {e}"))),
    };
    match result {
        Ok(Verdict::Fine) => ExitCode::SUCCESS,
        Ok(Verdict::Bad) => ExitCode::from(1),
        Err(failure) => {
            if let Some(text) = failure.text(cx.out.stderr_colour()) {
                cx.out.note(&text);
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

/// The daemon uses half of the processors: it has a thread for the store beside, the system does as much for its sockets
/// as it does itself, and threads that have little to do cost by waking each other. A command that asks one thing starts
/// faster on one thread.
fn runtime(command: &Command) -> std::io::Result<tokio::runtime::Runtime> {
    match command {
        Command::Run(_) | Command::Demo(_) => {
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            let workers = (processors / 2).max(1);
            tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()
        }
        _ => tokio::runtime::Builder::new_current_thread().enable_all().build(),
    }
}

async fn dispatch(command: Command, cx: &mut Context) -> Result<Verdict, Failure> {
    match command {
        Command::Run(args) => run::run(args, cx).await,
        Command::Demo(args) => demo::run(args, cx).await,
        Command::Validate(args) => validate::run(args, cx),
        Command::Probe(args) => probe::run(args, cx).await,
        Command::Status(args) => status::run(args, cx).await,
        Command::History(args) => history::run(&args, cx).await,
        Command::Incidents(args) => incidents::run(args, cx).await,
        Command::Alert(args) => alert::run(args, cx).await,
        Command::Outbox(args) => outbox::run(args, cx).await,
        Command::Db(args) => db::run(args, cx).await,
        Command::Protocols(args) => protocols::run(&args, cx),
        Command::Schema(args) => schema::run(args, cx),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_explains_itself_with_an_example() {
        fn walk(command: &mut clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let help = command.render_long_help().to_string();
            assert!(command.get_about().is_some(), "{path} says nothing of itself");
            if command.get_subcommands().next().is_none() {
                assert!(help.contains("Example"), "{path} has no example:\n{help}");
            }
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{path}: {} is not explained", argument.get_id());
            }
            for sub in command.get_subcommands_mut() {
                walk(sub, &path);
            }
        }
        let mut command = Cli::command();
        command.build();
        walk(&mut command, "");
    }
}
