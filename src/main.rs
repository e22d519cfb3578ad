//! The program: parses the command line, runs it, gives the exit code.

use std::process::ExitCode;

use bongsu::cli::{self, Cli};
use clap::Parser;

fn main() -> ExitCode {
    // The daemon counts its uptime from here.
    bongsu::clock::uptime();
    cli::main(Cli::parse())
}
