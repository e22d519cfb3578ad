//! `bongsu db`: the database itself: is it whole, a copy of it, what is in it.

mod backup;
mod check;
mod export;

use super::{Context, Failure, Verdict, records};

/// The database: check that it is whole, copy it while the daemon runs, export observations
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  bongsu db check
  bongsu db backup /var/backups/bongsu.db --force
  bongsu db export --check mail/round-trip --since 1d")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Check(check::Args),
    Backup(backup::Args),
    Export(export::Args),
}

impl Args {
    /// Whether the database of the configuration is not looked at.
    fn is_elsewhere(&self) -> bool {
        matches!(&self.command, Command::Check(args) if args.file.is_some())
    }
}

/// Does what was asked.
pub async fn run(args: Args, cx: &mut Context) -> Result<Verdict, Failure> {
    if !args.is_elsewhere() {
        records::unless_it_hangs(cx).await?;
    }
    match args.command {
        Command::Check(args) => check::run(&args, cx),
        Command::Backup(args) => backup::run(&args, cx),
        Command::Export(args) => export::run(&args, cx),
    }
}

/// A size for people: 812 B, 12.3 MB.
fn bytes(n: u64) -> String {
    let units = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match units.into_iter().find(|(size, _)| n >= *size) {
        Some((size, unit)) => format!("{:.1} {unit}", n as f64 / size as f64),
        None => format!("{n} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_rounded_for_people() {
        for (n, text) in
            [(0, "0 B"), (999, "999 B"), (12_345, "12.3 kB"), (4_194_304, "4.2 MB"), (7_000_000_000, "7.0 GB")]
        {
            assert_eq!(bytes(n), text);
        }
    }
}
