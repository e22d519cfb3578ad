//! Integration tests, in one binary so that they link once. What needs a real server lives below `servers`, which
//! `tests/run --without-servers` leaves out by name.
mod cli;
mod demo;
#[path = "../harness/mod.rs"]
mod harness;
mod servers;
