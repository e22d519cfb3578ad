//! Tests against real servers.

mod accounts;
mod delivery;
mod dns;
mod email;
mod http;
mod mqtt;
mod tls_tcp;
mod whole;
