//! `bongsu demo`: an outage of a messaging service, replayed at speed and told as bongsu sees it.

pub mod broker;
pub mod front;
