//! Tests against real servers.

mod delivery;
mod dns;
mod email;
mod http;
mod imap;
mod mqtt;
mod pop3;
mod receiving;
mod tls_tcp;
mod whole;
