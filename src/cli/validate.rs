//! `bongsu validate`: is the configuration right?

use std::path::PathBuf;

use clap::ValueHint;
use serde_json::{Value, json};

use super::{
    Context, Failure, Format, Verdict,
    render::validate::{held, warnings},
};
use crate::config::{self, OsEnvironment};

/// Check the configuration and tell every mistake, with its place and what to do
///
/// Reads the configuration and all files of checks, resolves secrets, and contacts nobody. Exits with 2 when there
/// are mistakes; warnings alone are fine.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  bongsu validate
  bongsu validate ./config.yaml
  bongsu validate --json | jq '.mistakes[].text'")]
pub struct Args {
    /// The configuration to check instead of the one in use
    #[arg(value_name = "PATH", value_hint = ValueHint::FilePath)]
    path: Option<PathBuf>,
    #[command(flatten)]
    format: Format,
}

/// Loads the configuration and says what it holds, or all that is wrong with it.
pub fn run(args: Args, cx: &mut Context) -> Result<Verdict, Failure> {
    let path = args.path.unwrap_or_else(|| cx.config_path());
    let shown = path.display().to_string();
    match config::load(&path, &OsEnvironment) {
        Ok(config) => {
            let (summary, warnings) = (config.summary(), warnings(&config));
            if args.format.json {
                let mut value = json!({ "ok": true, "config": shown });
                if let (Value::Object(value), Value::Object(summary)) = (&mut value, json!(summary)) {
                    value.extend(summary);
                    value.insert("warnings".into(), json!(warnings));
                }
                cx.out.print_json(&value)?;
            } else {
                cx.out.print(&format!("{}\n", held(&summary)))?;
                for warning in warnings {
                    cx.out.note(&format!("warning: {warning}"));
                }
            }
            Ok(Verdict::Fine)
        }
        Err(mistakes) if args.format.json => {
            cx.out.print_json(
                &json!({ "ok": false, "config": shown, "mistakes": mistakes.mistakes, "and_more": mistakes.and_more }),
            )?;
            Err(Failure::Shown)
        }
        Err(mistakes) => Err(Failure::Config(Box::new(mistakes))),
    }
}
