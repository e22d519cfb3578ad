//! bongsu watches whether messages get through.

pub mod agent;
pub mod alert;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod decide;
pub mod delivery;
pub mod detect;
pub mod incident;
pub mod notify;
pub mod observation;
pub mod options;
pub mod protocol;
pub mod schedule;
pub mod store;
pub mod telemetry;
pub mod value;
pub mod web;
