//! The program: parses the command line, runs it, gives the exit code.

use std::process::ExitCode;

use bongsu::{cli, clock};

fn main() -> ExitCode {
    one_heap();
    // The daemon counts its uptime from here.
    clock::uptime();
    cli::main(cli::parse(), give_back)
}

/// One heap for all threads: what one has given back the others use. Of its own accord glibc gives each a heap of its
/// own, which makes a fifth more memory with a thousand checks.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "nothing safe sets it")]
fn one_heap() {
    // SAFETY: it sets a number, while there is no other thread yet that could read it.
    unsafe { nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1) };
}

/// Gives the system back what the heap holds without use: reading a configuration takes much more than keeping it, and
/// glibc gives back of its own accord only what lies at the end.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "nothing safe does it")]
fn give_back() {
    // SAFETY: it touches nothing that is in use, and locks the heap meanwhile.
    unsafe { nix::libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn one_heap() {}

#[cfg(not(target_env = "gnu"))]
fn give_back() {}
