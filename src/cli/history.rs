//! `bongsu history`: what was seen of one check.

use std::time::Duration;

use super::{
    Context, Failure, Format, Verdict,
    moment::when,
    records,
    render::text::{Cell, Table, measured, tone_of},
};
use crate::{
    clock,
    observation::{Observation, Outcome},
    store::Reader,
    value::{CheckName, Timestamp},
};

/// What was seen of a check: its attempts, the latest last
///
/// Reads rows and sealed days alike, so everything that is kept (store.keep). Of a sealed attempt that was fine, times are
/// told to 1 %.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  bongsu history mail/round-trip
  bongsu history mail/round-trip --since 90d --bad
  bongsu history mail/round-trip --since 2026-11-01 --until 2026-11-02 --limit 100000 --json")]
pub struct Args {
    /// The check
    #[arg(value_name = "SERVICE/CHECK")]
    check: CheckName,
    /// From then on: a time (RFC 3339), a day, or how long ago [default: 24h]
    #[arg(long, value_name = "WHEN", value_parser = when)]
    since: Option<Timestamp>,
    /// Until before then
    #[arg(long, value_name = "WHEN", value_parser = when)]
    until: Option<Timestamp>,
    /// Only attempts that were not fine
    #[arg(long)]
    bad: bool,
    /// Show at most this many, the latest
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    #[command(flatten)]
    format: Format,
}

/// Time looked back when nobody says.
const SINCE: Duration = Duration::from_secs(86_400);

/// Reads and shows it.
pub async fn run(args: &Args, cx: &mut Context) -> Result<Verdict, Failure> {
    let places = cx.places()?;
    records::unless_it_hangs(cx).await?;
    let reader = Reader::open(&places.store.path)?;
    if !reader.knows(&args.check)? {
        let text = format!("nothing is known of a check `{}`; `bongsu status` lists them", args.check);
        return Err(Failure::usage(text));
    }
    let now = clock::now();
    let (since, until) = (args.since.unwrap_or(now - SINCE), args.until.unwrap_or(now + SINCE));
    let mut shown: std::collections::VecDeque<Observation> = Default::default();
    let mut left_out = 0_usize;
    reader.past(&args.check, since, until, |of_day| {
        for o in of_day.into_iter().filter(|o| !args.bad || o.outcome != Outcome::Ok) {
            shown.push_back(o);
            if shown.len() > args.limit as usize {
                shown.pop_front();
                left_out += 1;
            }
        }
        true
    })?;
    let text = if args.format.json {
        let line = |o: &Observation| o.to_json(&args.check, places.agent.name.as_str()).to_string() + "\n";
        shown.iter().map(line).collect()
    } else {
        table(shown.iter()).render(cx.out.screen())
    };
    cx.out.print(&text)?;
    if left_out > 0 {
        cx.out.note(&format!("{left_out} earlier ones are left out; --limit shows more"));
    }
    Ok(Verdict::Fine)
}

fn table<'a>(rows: impl Iterator<Item = &'a Observation>) -> Table {
    let mut table = Table::new(&["AT", "OUTCOME", "LATENCY", "MESSAGE", "WHY"]);
    for o in rows {
        let word = o.outcome.as_str();
        table.row(vec![
            o.at.to_string().into(),
            Cell::new(word).tone(tone_of(word)),
            Cell::new(measured(o.latency())).right(),
            o.delivery.as_ref().map(|d| d.fate.as_str()).unwrap_or_default().into(),
            o.reason.as_ref().map(ToString::to_string).unwrap_or_default().into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::render::text::Screen,
        observation::{Accept, Delivery, Fate, Kind, Phase, Reason},
    };

    #[test]
    fn each_attempt_is_a_line_with_its_fate_and_reason() {
        let mut o = Observation::new(Timestamp::from_millis(1_000), Outcome::Failed, Duration::from_millis(5_000));
        o.reason = Some(Reason::new(Phase::Deliver, Kind::Lost, "absent after 5m"));
        o.delivery = Some(Delivery::new(Fate::Lost, Accept::Accepted, 3));
        let text = table([o].iter()).render(Screen { width: None, colour: false });
        let line = text.lines().nth(1).expect("a heading and a line");
        for word in ["1970-01-01T00:00:01.000Z", "failed", "lost", "deliver: absent after 5m"] {
            assert!(line.contains(word), "{word}: {line}");
        }
    }
}
