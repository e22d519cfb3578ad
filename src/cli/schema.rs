//! `bongsu schema`: JSON Schema of the files, for editors.

use clap::ValueEnum;

use super::{Context, Failure, Verdict};
use crate::config::{Document, schema};

/// JSON Schema of the YAML files, for editors that complete and underline
///
/// Prints the schema of config.yaml, or of a file below checks/. An editor with the YAML language server takes it
/// from a comment in the file's first line (see the example).
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  bongsu schema > config.schema.json
  bongsu schema checks > checks.schema.json
  # first line of a file below checks/:
  #   # yaml-language-server: $schema=../checks.schema.json")]
pub struct Args {
    /// Which file
    #[arg(value_enum, default_value_t = Which::Config)]
    which: Which,
}

#[derive(Clone, Copy, ValueEnum)]
enum Which {
    /// config.yaml
    Config,
    /// A file below checks/
    Checks,
}

/// Prints it.
pub fn run(args: Args, cx: &mut Context) -> Result<Verdict, Failure> {
    let document = match args.which {
        Which::Config => Document::Config,
        Which::Checks => Document::Checks,
    };
    cx.out.print_json(&schema(document))?;
    Ok(Verdict::Fine)
}
