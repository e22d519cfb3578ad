//! Tests against real servers.

mod accounts;
mod crashes;
mod delivery;
mod dns;
mod email;
mod http;
mod icmp;
mod imap;
mod kept;
mod link;
mod lmtp;
mod mail;
mod mangling;
mod mqtt;
mod oauth;
mod pop3;
mod receiving;
mod scenarios;
mod smtp;
mod thousand;
mod time;
mod tls_tcp;
mod unit;
mod websocket;
mod whole;
