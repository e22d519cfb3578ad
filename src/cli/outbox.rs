//! `bongsu outbox`: what is still to be told.

use serde_json::json;

use super::{Context, Failure, Format, Verdict, render::outbox as render};
use crate::{alert::MessageState, clock};

/// Messages: what is still to be told, what was, what could not be
///
/// Shows the pending ones first, then the latest of the others. Exits with 0 also when some could not be delivered.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  bongsu outbox
  bongsu outbox --pending
  bongsu outbox --json | jq '.messages[] | select(.state == \"given_up\")'")]
pub struct Args {
    /// Only those that are still to be sent
    #[arg(long)]
    pending: bool,
    /// Show at most this many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    #[command(flatten)]
    format: Format,
}

/// Reads and shows it.
pub async fn run(args: Args, cx: &mut Context) -> Result<Verdict, Failure> {
    let store = super::records::open(cx).await?;
    let now = clock::now();
    let counts = store.outbox()?;
    let rows = store.messages(args.pending, args.limit as usize)?;
    let states = render::by_state(&counts);
    let total = states.iter().filter(|(s, _)| !args.pending || *s == MessageState::Pending).map(|(_, n)| n).sum();
    if args.format.json {
        let states: serde_json::Map<_, _> = states.iter().map(|(s, n)| (s.as_str().to_owned(), json!(n))).collect();
        cx.out.print_json(&json!({
            "daemon": store.daemon(), "counts": states, "oldest_pending": counts.oldest_pending,
            "messages": rows.iter().map(render::message_json).collect::<Vec<_>>(),
        }))?;
    } else {
        let text = render::outbox(&counts, &rows, now, cx.out.screen());
        store.say_if_alone(cx)?;
        cx.out.print(&text)?;
        if let Some(line) = render::left_out(rows.len(), total) {
            cx.out.note(&line);
        }
    }
    Ok(Verdict::Fine)
}
