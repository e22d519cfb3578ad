//! Tests against real servers.

mod accounts;
mod delivery;
mod dns;
mod email;
mod http;
mod imap;
mod lmtp;
mod mangling;
mod mqtt;
mod pop3;
mod receiving;
mod scarcity;
mod smtp;
mod tls_tcp;
mod websocket;
mod whole;
