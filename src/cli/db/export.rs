//! `bongsu db export`: observations as JSON lines.

use crate::{
    cli::{Context, Failure, Verdict, moment::when},
    store::{Cursor, Exported, Reader},
    value::{CheckName, Timestamp},
};

/// Observations read in one transaction: some megabytes of text at most, so that a slow reader of ours holds nothing.
const ROWS_EACH: usize = 1_000;

/// Observations as JSON, one a line
///
/// The form is that of `bongsu probe --json`. First come sealed days (store.keep.blocks), a day and check after the other,
/// then the days since (store.keep.raw), oldest first. Of plain successes phases are kept to 4 % and evidence without
/// measurements; of sealed ones, other times to 1 %.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  bongsu db export > observations.jsonl
  bongsu db export --check mail/round-trip --since 2h | jq 'select(.outcome != \"ok\") | .reason.text'
  bongsu db export --since 2026-11-22 --until 2026-11-23T06:00:00Z")]
pub(super) struct Args {
    /// Only those of this check
    #[arg(long, value_name = "SERVICE/CHECK")]
    check: Option<CheckName>,
    /// From then on: a time (RFC 3339), a day, or how long ago, such as 2h
    #[arg(long, value_name = "WHEN", value_parser = when)]
    since: Option<Timestamp>,
    /// Until before then
    #[arg(long, value_name = "WHEN", value_parser = when)]
    until: Option<Timestamp>,
    /// JSON lines are what it writes anyway
    #[arg(long, hide = true)]
    json: bool,
}

pub(super) fn run(args: &Args, cx: &mut Context) -> Result<Verdict, Failure> {
    let places = cx.places()?;
    let reader = Reader::open(&places.store.path)?;
    if let Some(check) = &args.check
        && !reader.knows(check)?
    {
        return Err(Failure::usage(format!("nothing is known of a check `{check}`; `bongsu status` lists them")));
    }
    let until = args.until.unwrap_or(Timestamp::from_millis(i64::MAX));
    let mut next = Some(Cursor::at(args.since.unwrap_or(Timestamp::EPOCH)));
    while let Some(from) = next {
        let Exported { rows, next: more } = reader.export(from, until, args.check.as_ref(), ROWS_EACH)?;
        let mut text = String::new();
        for (check, observation) in rows {
            text.push_str(&observation.to_json(&check, places.agent.name.as_str()).to_string());
            text.push('\n');
        }
        // Whoever has left wants no more.
        next = if cx.out.stream(&text)? { more } else { None };
    }
    Ok(Verdict::Fine)
}
