//! `bongsu protocols`: what can be spoken.

use serde_json::Value;

use super::{Context, Failure, Format, Verdict, render::protocols};
use crate::{
    options::suggestion,
    protocol::{PROTOCOLS, by_name},
};

/// What can be spoken: each protocol, what its success proves, and its options
///
/// Without a name, all protocols in a line each; with one, everything about it, with an example to copy.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  bongsu protocols
  bongsu protocols mqtt
  bongsu protocols --json | jq '.[].name'")]
pub struct Args {
    /// The protocol's name, as in YAML
    #[arg(value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    format: Format,
}

/// Lists them, or tells of one.
pub fn run(args: &Args, cx: &mut Context) -> Result<Verdict, Failure> {
    let screen = cx.out.screen();
    match &args.name {
        None if args.format.json => {
            let all: Value = PROTOCOLS.iter().map(|p| protocols::one_json(p)).collect();
            cx.out.print_json(&all)?;
        }
        None => cx.out.print(&protocols::list(PROTOCOLS, screen))?,
        Some(name) => {
            let unknown = || {
                let names = PROTOCOLS.iter().map(|p| p.name);
                Failure::usage(format!("there is no protocol `{name}`; {}", suggestion(name, names)))
            };
            let protocol = by_name(name).ok_or_else(unknown)?;
            if args.format.json {
                cx.out.print_json(&protocols::one_json(protocol))?;
            } else {
                cx.out.print(&protocols::one(protocol, screen))?;
            }
        }
    }
    Ok(Verdict::Fine)
}
