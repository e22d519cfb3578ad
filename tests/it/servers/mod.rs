//! Tests against real servers.

mod dns;
mod http;
mod tls_tcp;
mod delivery;
mod mqtt;
mod email;
