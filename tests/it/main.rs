//! Integration tests, in one binary so that they link once. What needs a real server lives below `servers`, which
//! `tests/run --without-servers` leaves out by name.
<<<<<<< HEAD
mod cli;
=======
mod broker;
>>>>>>> h-mqtt
#[path = "../harness/mod.rs"]
mod harness;
mod servers;
