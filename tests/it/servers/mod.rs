//! Tests against real servers.

mod delivery;
mod dns;
mod email;
mod http;
mod imap;
mod mqtt;
mod tls_tcp;
mod whole;
