//! Tests against real servers.

mod delivery;
mod dns;
mod email;
mod http;
mod mangling;
mod mqtt;
mod tls_tcp;
mod websocket;
mod whole;
