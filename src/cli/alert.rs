//! `bongsu alert test`: does a channel reach anybody?

use clap::Subcommand;
use serde_json::json;

use super::{
    Context, Failure, Format, Verdict,
    control::{Client, Trouble},
    render::text::{Tone, measured, visible},
};
use crate::{agent, config::Config, options::suggestion, value::Name, web::control::Tested};

/// Try where alerts go
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  bongsu alert test ops-mail
  bongsu alert test ops-chat --json")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send a test message through a channel and say what its receiver answered
    ///
    /// Through the daemon when it runs (so it is the daemon's network, user and secrets that are tried), else
    /// directly from the configuration. Nothing is queued or tried again: exits with 1 when the first attempt fails.
    #[command(after_long_help = "\
Examples:
  bongsu alert test ops-mail
  bongsu alert test ops-chat --json")]
    Test {
        /// The channel's name, as in config.yaml
        #[arg(value_name = "CHANNEL")]
        channel: String,
        #[command(flatten)]
        format: Format,
    },
}

/// Sends the message and tells what came of it.
pub async fn run(args: Args, cx: &mut Context) -> Result<Verdict, Failure> {
    let Command::Test { channel, format } = args.command;
    let name: Name = channel.parse().map_err(Failure::Usage)?;
    let places = cx.places()?;
    let (tested, directly) = match Client::connect(&places.agent.socket).await {
        Ok(daemon) => {
            cx.out.progress(&format!("the daemon sends a test message to {name} …"));
            (daemon.test_channel(&name).await?, false)
        }
        Err(Trouble::NotRunning(_)) => {
            let config = cx.load()?;
            cx.out.progress(&format!("sending a test message to {name} …"));
            (directly(&config, &name).await?, true)
        }
        Err(trouble) => return Err(trouble.into()),
    };
    if format.json {
        let mut value = json!(tested);
        value["through"] = json!(if directly { "command" } else { "daemon" });
        cx.out.print_json(&value)?;
    } else {
        let text = told(&tested, directly, cx.out.screen());
        cx.out.print(&text)?;
    }
    Ok(Verdict::of(tested.delivered))
}

fn told(tested: &Tested, directly: bool, screen: super::render::text::Screen) -> String {
    let took = std::time::Duration::try_from_secs_f64(tested.took_ms / 1_000.0).map(measured).unwrap_or_default();
    let (word, tone) = match (tested.delivered, tested.may_work_later) {
        (true, _) => ("delivered", Tone::Good),
        (false, true) => ("failed (a real message would be tried again)", Tone::Warn),
        (false, false) => ("refused", Tone::Bad),
    };
    let mut text = format!("{}  {}  {}", screen.tone(tone, word), tested.channel, visible(&tested.target));
    text.push_str(&format!("  {took}{}\n", if directly { "  (daemon not running: sent by this command)" } else { "" }));
    if let Some(error) = &tested.error {
        text.push_str(&format!("  {}\n", visible(error)));
    }
    text
}

/// One attempt, without a daemon and without a row anywhere.
async fn directly(config: &Config, name: &Name) -> Result<Tested, Failure> {
    let configured = config.channels.get(name).ok_or_else(|| {
        let names: Vec<&str> = config.channels.keys().map(Name::as_str).collect();
        let hint = if names.is_empty() { "none is configured".into() } else { suggestion(name.as_str(), names) };
        Failure::usage(format!("there is no channel `{name}`; {hint}"))
    })?;
    let net = super::net(config)?;
    Ok(agent::try_channel(name, &configured.channel, &net, &config.agent.name).await)
}
