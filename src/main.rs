//! The program: parses the command line, runs it, gives the exit code.

use std::process::ExitCode;

use bongsu::{cli, clock};

fn main() -> ExitCode {
    // The daemon counts its uptime from here.
    clock::uptime();
    cli::main(cli::parse())
}
