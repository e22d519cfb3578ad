//! Tests against real servers.

mod delivery;
mod dns;
mod email;
mod http;
mod imap;
mod lmtp;
mod mail;
mod mqtt;
mod pop3;
mod receiving;
mod smtp;
mod tls_tcp;
mod whole;
