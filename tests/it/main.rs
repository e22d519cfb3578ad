//! Integration tests, in one binary so that they link once. What needs a real server lives below `servers`, which
//! `tests/run --without-servers` leaves out by name.
#[path = "../harness/mod.rs"]
mod harness;

mod accounts;
mod alerts;
mod broker;
mod cli;
mod config;
mod database;
mod demo;
mod documents;
mod hostile;
mod kills;
mod metrics;
mod reference;
mod reload;
mod servers;
mod service;
mod shipped;
mod vantage;
