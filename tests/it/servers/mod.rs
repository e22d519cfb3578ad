//! Tests against real servers.

mod delivery;
mod dns;
mod http;
mod mqtt;
mod tls_tcp;
