//! Tests against real servers.

mod dns;
mod http;
mod tls_tcp;
