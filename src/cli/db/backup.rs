//! `bongsu db backup`: a copy of the database, taken while the daemon runs.

use std::path::PathBuf;

use clap::ValueHint;
use serde_json::json;

use crate::{
    cli::{Context, Failure, Format, Verdict, db::bytes},
    store::{Reader, Replace},
};

/// Copy the database to a file, while the daemon goes on writing
///
/// The copy is of one instant, is checked before it gets its name, and is on the disk when the command ends. It is one
/// file; to restore it, stop the daemon, move the database with its -wal and -shm aside, put the copy in its place and
/// give it to the daemon's user.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  bongsu db backup /var/backups/bongsu-$(date +%F).db
  bongsu db backup /var/backups/bongsu.db --force     each night over the last one")]
pub(super) struct Args {
    /// Where to
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// Replace the file if it exists (never a database in use)
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    format: Format,
}

pub(super) fn run(args: &Args, cx: &mut Context) -> Result<Verdict, Failure> {
    let path = cx.places()?.store.path;
    cx.out.progress(&format!("copying {} …", path.display()));
    let replace = if args.force { Replace::Existing } else { Replace::Never };
    let size = Reader::open_any(&path)?.backup(&args.file, replace)?;
    if args.format.json {
        cx.out.print_json(&json!({ "path": path, "backup": args.file, "bytes": size }))?;
    } else {
        cx.out.print(&format!("{}, {}: checked and complete\n", args.file.display(), bytes(size)))?;
    }
    Ok(Verdict::Fine)
}
