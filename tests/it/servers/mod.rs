//! Tests against real servers.

mod accounts;
mod delivery;
mod dns;
mod email;
mod http;
mod lmtp;
mod mangling;
mod mqtt;
mod smtp;
mod tls_tcp;
mod websocket;
mod whole;
