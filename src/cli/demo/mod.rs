//! `bongsu demo`: an outage of a messaging service, replayed at speed and told as bongsu sees it.

pub mod broker;
pub mod files;
pub mod front;
pub mod scenario;
pub mod story;
pub mod watch;
