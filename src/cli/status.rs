//! `bongsu status`: what is up now.

use serde_json::json;

use super::{
    Context, Failure, Format, Verdict, records,
    render::{
        incidents,
        status::{self as render, Source},
    },
};
use crate::{clock, store::ROWS_MAX};

/// What is up now: open incidents, and every check with its state and latest observation
///
/// Asks the running daemon. When there is none, it shows what the store knows and says so. Exits with 0 whatever
/// the state, unless --fail is given.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  bongsu status
  bongsu status --fail || echo 'something is down'
  bongsu status --json | jq '.checks[] | select(.state != \"up\")'")]
pub struct Args {
    /// Exit with 1 when a check is down, or when nobody looks: no daemon is running, or it is isolated
    #[arg(long)]
    fail: bool,
    #[command(flatten)]
    format: Format,
}

/// Gathers and shows it.
pub async fn run(args: Args, cx: &mut Context) -> Result<Verdict, Failure> {
    let store = records::open(cx).await?;
    let open = store.incidents(true, None, ROWS_MAX)?;
    let now = clock::now();
    let (source, checks) = match store.report() {
        Some(report) => (Source::Daemon(report), report.checks.clone()),
        None => (Source::Store(store.last_observed()?), store.checks(cx)?),
    };
    if args.format.json {
        let mut value = json!({ "daemon": store.daemon(), "as_of": store.last_observed()?, "checks": checks });
        if let Source::Daemon(report) = &source {
            value = json!(report);
            value["daemon"] = json!(true);
            value["counts"] = json!(report.counts());
        }
        value["incidents"] = open.iter().map(|i| incidents::list_json(i, now)).collect();
        cx.out.print_json(&value)?;
    } else {
        let text = render::status(&source, &checks, &open, now, cx.out.screen());
        store.say_if_alone(cx)?;
        cx.out.print(&text)?;
    }
    let down = checks.iter().any(|c| c.state == "down");
    let isolated = match &source {
        Source::Daemon(report) => report.vantage.as_ref().is_some_and(|v| v.isolated_since.is_some()),
        Source::Store(_) => false,
    };
    Ok(Verdict::of(!args.fail || (!down && !isolated && store.daemon())))
}
