//! Tests against real servers.

mod delivery;
mod mqtt;
