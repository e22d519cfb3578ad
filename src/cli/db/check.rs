//! `bongsu db check`: is the database whole?

use std::path::{Path, PathBuf};

use clap::ValueHint;
use serde_json::json;

use crate::{
    cli::{
        Context, Failure, Format, Verdict,
        db::bytes,
        render::text::{Tone, count, visible},
    },
    store::{Audit, Finding, Reader, StoreError},
};

/// What is to be done about a file that is damaged.
const ADVICE: &str = "\
What to do: the daemon goes on with what it has in memory, and does not start again with this file if SQLite finds it
damaged. Stop it, move the file with its -wal and -shm aside, and either put a backup in its place (`bongsu db backup`
makes them), or save what is left with `sqlite3 FILE .recover | sqlite3 NEW`, or begin a new one by starting the daemon.
A single row that cannot be read harms only what reads it; retention removes it in time.";

/// Is the database whole? SQLite's own check, and what bongsu relies on beyond it
///
/// Reads all of it, beside a running daemon or without one, and changes nothing. Exits with 1 when something is wrong,
/// and says what, and what to do.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  bongsu db check
  bongsu db check /var/backups/bongsu.db
  bongsu db check --json | jq '.findings[]'")]
pub(super) struct Args {
    /// The file [default: the database of the configuration]
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) file: Option<PathBuf>,
    #[command(flatten)]
    format: Format,
}

pub(super) fn run(args: &Args, cx: &mut Context) -> Result<Verdict, Failure> {
    let path = match &args.file {
        Some(file) => file.clone(),
        None => cx.places()?.store.path,
    };
    cx.out.progress(&format!("reading {} …", path.display()));
    let audit = match Reader::open_any(&path).and_then(|reader| reader.check()) {
        Ok(audit) => audit,
        Err(error @ (StoreError::Damaged { .. } | StoreError::NotOurs { .. } | StoreError::Inconsistent { .. })) => {
            let finding = Finding { rule: "it can be opened", count: 1, first: error.to_string() };
            Audit { findings: vec![finding], ..Audit::default() }
        }
        Err(error) => return Err(error.into()),
    };
    let whole = audit.findings.is_empty();
    if args.format.json {
        let mut value = json!(audit);
        value["path"] = json!(path);
        value["ok"] = json!(whole);
        cx.out.print_json(&value)?;
    } else if whole {
        cx.out.print(&fine(&path, &audit))?;
    } else {
        let mut text = String::new();
        for finding in &audit.findings {
            let line = format!("{}: not so: {finding}", path.display());
            text.push_str(&format!("{}\n", cx.out.screen().tone(Tone::Bad, &visible(&line))));
        }
        cx.out.print(&text)?;
        cx.out.note(ADVICE);
    }
    Ok(Verdict::of(whole))
}

fn fine(path: &Path, audit: &Audit) -> String {
    if let Some(version) = audit.earlier {
        return format!(
            "ok: {}, {}: SQLite finds nothing wrong. It is of an earlier version (schema version {version}), so the rest is \
             not looked at; `bongsu run` brings it up to date when it starts\n",
            path.display(),
            bytes(audit.bytes),
        );
    }
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    format!(
        "ok: {}, {}: {}, {}, {}\n",
        path.display(),
        bytes(audit.bytes),
        count(number(audit.observations), "observation"),
        count(number(audit.incidents), "incident"),
        count(number(audit.messages), "message"),
    )
}
