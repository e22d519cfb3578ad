//! `bongsu incidents`: stretches of bad service, and what people do about them.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    Context, Failure, Format, Verdict,
    control::{self, Client},
    records,
    render::incidents as render,
};
use crate::{clock, incident::IncidentId, store::IncidentRecord, value::Name, web::control::Taken};

/// Incidents: list them, look at one, take one in hand, note something
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_long_help = "\
Examples:
  bongsu incidents                           the latest, open ones first
  bongsu incidents list --open
  bongsu incidents show 7
  bongsu incidents ack 7 --note 'on it'
  bongsu incidents note 7 'the provider confirms an outage'"
)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: List,
}

#[derive(Subcommand)]
enum Command {
    List(List),
    Show(Show),
    Ack(Ack),
    Note(Note),
}

/// The latest incidents, open ones first
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  bongsu incidents list
  bongsu incidents list --open --service mail
  bongsu incidents list --json | jq '.[].duration_ms'")]
struct List {
    /// Only those that still last
    #[arg(long)]
    open: bool,
    /// Only those of this service
    #[arg(long, value_name = "NAME")]
    service: Option<Name>,
    /// Show at most this many
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    #[command(flatten)]
    format: Format,
}

/// One incident: its checks, both ends as intervals, messages and their delivery, timeline
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  bongsu incidents show 7
  bongsu incidents show '#7' --json")]
struct Show {
    /// The incident's number
    #[arg(value_name = "ID", value_parser = incident_id)]
    id: IncidentId,
    #[command(flatten)]
    format: Format,
}

/// Take an incident in hand: stops repeats and later steps, and says so on the timeline
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  bongsu incidents ack 7
  bongsu incidents ack 7 --by kim --note 'on it'")]
struct Ack {
    /// The incident's number
    #[arg(value_name = "ID", value_parser = incident_id)]
    id: IncidentId,
    /// What you say to it
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
    /// Who you are [default: the user who runs the command]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// Note something on an incident's timeline
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  bongsu incidents note 7 'the provider confirms an outage'")]
struct Note {
    /// The incident's number
    #[arg(value_name = "ID", value_parser = incident_id)]
    id: IncidentId,
    /// What you say
    #[arg(value_name = "TEXT")]
    text: String,
    /// Who you are [default: the user who runs the command]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// `7` or `#7`.
fn incident_id(text: &str) -> Result<IncidentId, String> {
    let digits = text.strip_prefix('#').unwrap_or(text);
    digits.parse().map(IncidentId).map_err(|_| "an incident's number is expected, such as 7 or #7".to_owned())
}

/// Does what was asked; a list when nothing was.
pub async fn run(args: Args, cx: &mut Context) -> Result<Verdict, Failure> {
    match args.command.unwrap_or(Command::List(args.list)) {
        Command::List(args) => list(&args, cx).await,
        Command::Show(args) => show(&args, cx).await,
        Command::Ack(args) => {
            let daemon = Client::connect(&cx.places()?.agent.socket).await?;
            let taken = daemon.acknowledge(args.id, &args.by.unwrap_or_else(control::who), &args.note).await?;
            done(cx, &format!("{} acknowledged\n", args.id), taken)
        }
        Command::Note(args) => {
            let daemon = Client::connect(&cx.places()?.agent.socket).await?;
            let taken = daemon.note(args.id, &args.by.unwrap_or_else(control::who), &args.text).await?;
            done(cx, &format!("noted on {}\n", args.id), taken)
        }
    }
}

fn done(cx: &mut Context, text: &str, taken: Taken) -> Result<Verdict, Failure> {
    cx.out.print(text)?;
    if let Some(warning) = taken.warning {
        cx.out.note(&format!("warning: {warning}"));
    }
    Ok(Verdict::Fine)
}

async fn list(args: &List, cx: &mut Context) -> Result<Verdict, Failure> {
    let store = records::open(cx).await?;
    let incidents = store.incidents(args.open, args.service.as_ref(), args.limit as usize)?;
    let now = clock::now();
    if args.format.json {
        let all: Value = incidents.iter().map(|i| render::list_json(i, now)).collect();
        cx.out.print_json(&all)?;
    } else {
        let text = render::list(&incidents, now, cx.out.screen());
        store.say_if_alone(cx)?;
        cx.out.print(&text)?;
        if incidents.len() == args.limit as usize {
            cx.out.note(&format!("at most {} are shown; see --limit", args.limit));
        }
    }
    Ok(Verdict::Fine)
}

async fn show(args: &Show, cx: &mut Context) -> Result<Verdict, Failure> {
    let store = records::open(cx).await?;
    let Some(IncidentRecord { incident, timeline, messages }) = store.incident(args.id)? else {
        return Err(Failure::failed(format!("there is no incident {}; `bongsu incidents` lists them", args.id)));
    };
    let now = clock::now();
    if args.format.json {
        cx.out.print_json(&json!(render::show_json(&incident, &timeline, &messages, now)))?;
    } else {
        let text = render::show(&incident, &timeline, &messages, now, cx.out.screen());
        store.say_if_alone(cx)?;
        cx.out.print(&text)?;
    }
    Ok(Verdict::Fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_with_and_without_their_mark() {
        for (text, id) in [("7", Some(7)), ("#7", Some(7)), ("", None), ("##7", None), ("-1", None), ("7x", None)] {
            assert_eq!(incident_id(text).ok(), id.map(IncidentId), "{text}");
        }
    }
}
