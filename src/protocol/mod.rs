//! What bongsu can speak: the registry of protocols, and what each must offer.
//!
//! A protocol is one file and one line in [`PROTOCOLS`]. Its entry says in words what it does, builds what it can
//! do (`probe`, `send`, `receive`) from its own options, and carries the schema of those options; help, docs,
//! the JSON Schema, `bongsu probe URL` and the contract tests all loop over the registry.
//!
//! A protocol's code holds a dialogue and the judgement of it, and nothing else: it sets no deadline, never
//! retries, never logs, never decides severity. Deadlines are set by the caller, who drops the future; so every
//! future here must be safe to drop at any await, and whatever it had learnt by then is in its [`Attempt`].

pub mod dns;
pub mod http;
pub mod icmp;
pub mod imap;
pub mod lines;
pub mod lmtp;
pub mod mail;
mod matcher;
pub mod mqtt;
pub mod pop3;
pub mod sasl;
pub mod smtp;
pub mod tcp;
#[cfg(test)]
pub(crate) mod testing;
pub mod tls;
pub mod websocket;
pub mod wire;

use std::{pin::Pin, time::Instant};

use bytes::Bytes;
use schemars::{Schema, SchemaGenerator};
use serde_json::Value;

pub use self::wire::{Attempt, Net};
pub use crate::delivery::Carries;
use crate::{
    observation::{Accept, Integrity, Reason},
    options::Options,
};

/// All protocols, in the order `bongsu protocols` lists them.
pub static PROTOCOLS: &[&Protocol] = &[
    &http::HTTP,
    &tcp::TCP,
    &tls::TLS,
    &icmp::ICMP,
    &dns::DNS,
    &websocket::WEBSOCKET,
    &mqtt::MQTT,
    &smtp::SMTP,
    &lmtp::LMTP,
    &imap::IMAP,
    &pop3::POP3,
];

/// A boxed future, as traits with dynamic dispatch need it.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Builds one ability of a protocol from its options; `None` when the options hold mistakes (then recorded there).
pub type Build<T> = fn(&mut Options<'_>) -> Option<Box<T>>;

/// An entry of the registry.
pub struct Protocol {
    /// The key in YAML: `http`, `mqtt`.
    pub name: &'static str,
    /// URL schemes that select it in `bongsu probe URL`: `["mqtt", "mqtts"]`.
    pub schemes: &'static [&'static str],
    /// What it does, in one line without a full stop.
    pub summary: &'static str,
    /// What success proves to a user, and what it does not; a few sentences.
    pub proves: &'static str,
    /// YAML of a check that uses it (a list item of `checks:`), which tests load as it stands.
    pub example: &'static str,
    /// JSON Schema of its options as a plain probe.
    pub probe_schema: Option<fn(&mut SchemaGenerator) -> Schema>,
    /// JSON Schema of its options as the sending side of a delivery.
    pub send_schema: Option<fn(&mut SchemaGenerator) -> Schema>,
    /// JSON Schema of its options as the receiving side of a delivery.
    pub receive_schema: Option<fn(&mut SchemaGenerator) -> Schema>,
    /// Reach it, log in if credentials are given, do its own no-op.
    pub probe: Option<Build<dyn Probe>>,
    /// Send a message.
    pub send: Option<Build<dyn Sender>>,
    /// Wait for a message.
    pub receive: Option<Build<dyn Receiver>>,
}

/// The protocol with this key, if there is one.
pub fn by_name(name: &str) -> Option<&'static Protocol> {
    PROTOCOLS.iter().copied().find(|p| p.name == name)
}

/// The protocol that speaks URLs of this scheme, if there is one.
pub fn by_scheme(scheme: &str) -> Option<&'static Protocol> {
    PROTOCOLS.iter().copied().find(|p| p.schemes.contains(&scheme))
}

/// One question asked of one endpoint.
pub trait Probe: Send + Sync {
    /// What is probed, for people: `mqtt://broker.example.com:1883`, without secrets.
    fn target(&self) -> String;

    /// One attempt. `Ok` means the endpoint did all that was asked. What was learnt goes into `cx` as it is learnt.
    fn probe<'a>(&'a self, cx: &'a mut Attempt) -> Boxed<'a, Result<(), Reason>>;
}

/// The sending side of a delivery check.
pub trait Sender: Send + Sync {
    /// What is sent to, for people, without secrets.
    fn target(&self) -> String;

    /// What its messages can carry.
    fn carries(&self) -> Carries;

    /// Whether a second session would end or block the first (a fixed MQTT client identifier): then no login is made
    /// beside a kept session.
    fn is_exclusive(&self) -> bool {
        false
    }

    /// Connects and logs in.
    fn open<'a>(&'a self, cx: &'a mut Attempt) -> Boxed<'a, Result<Box<dyn SendSession>, Reason>>;
}

/// An open sending session.
pub trait SendSession: Send {
    /// Sends one payload and waits for the server's acknowledgement. Must be safe to drop; dropped after the first
    /// byte of the message left, the send counts as uncertain.
    fn send<'a>(&'a mut self, cx: &'a mut Attempt, payload: &'a [u8]) -> Boxed<'a, Result<(), SendFailure>>;

    /// Whether any byte of the latest message has been handed to the network: told after a send was dropped at its
    /// deadline, to tell `unreachable` from `uncertain`.
    fn message_left(&self) -> bool;

    /// What the latest message did not carry, beyond what [`Carries`] leaves out: known once the server has said what
    /// it takes (a raw header beyond ASCII, say).
    fn left_out(&self) -> Vec<String> {
        Vec::new()
    }

    /// Keeps an idle session alive, and ends with why once the session is gone: closed by the server, or not answered
    /// any more. Must be safe to drop at any time and to be asked anew. A session without a keep-alive of its own
    /// waits forever, and its end shows at the next send.
    fn idle<'a>(&'a mut self) -> Boxed<'a, Reason> {
        Box::pin(std::future::pending())
    }

    /// Says goodbye, as the protocol wants it.
    fn close<'a>(self: Box<Self>, cx: &'a mut Attempt) -> Boxed<'a, ()>;
}

/// Why a send was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendFailure {
    /// Rejected, deferred, unreachable or uncertain; never accepted.
    pub accept: Accept,
    /// In words.
    pub reason: Reason,
}

/// The receiving side of a delivery check.
pub trait Receiver: Send + Sync {
    /// What is received from, for people, without secrets.
    fn target(&self) -> String;

    /// Whether messages wait at the server for whoever logs in next (a mailbox), so that one which came while nobody
    /// listened is found, and its absence proves something.
    fn keeps(&self) -> bool {
        false
    }

    /// Whether a second session would end or block the first (a fixed MQTT client identifier, POP3's locked maildrop):
    /// then no login is made beside a kept session.
    fn is_exclusive(&self) -> bool {
        false
    }

    /// Connects, logs in and starts to listen. Once this returns `Ok`, a message sent from then on will be seen.
    fn open<'a>(&'a self, cx: &'a mut Attempt) -> Boxed<'a, Result<Box<dyn ReceiveSession>, Reason>>;
}

/// An open receiving session.
pub trait ReceiveSession: Send {
    /// The next message of whatever origin; keeps the session alive while waiting. An error means that the session
    /// is gone. Must be safe to drop: no message may be lost by it.
    fn next<'a>(&'a mut self) -> Boxed<'a, Result<Arrival, Reason>>;

    /// Takes the message with this handle ([`Arrival::handle`]) off the server; asked only for bongsu's own. It is
    /// done while [`ReceiveSession::next`] is waited for, or by [`ReceiveSession::close`] at the latest.
    fn discard(&mut self, handle: u64) {
        let _ = handle;
    }

    /// Removes what was discarded and what the session itself left on the server, and says goodbye.
    fn close<'a>(self: Box<Self>) -> Boxed<'a, ()>;
}

/// A message that came in, before anybody looked whose it is.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// When its last byte was read; of a message found in store, when it was found.
    pub at: Instant,
    /// Its body, as the protocol hands it to a user: transfer encodings undone, text in UTF-8.
    pub payload: Bytes,
    /// What it is to the delivery.
    pub nature: Nature,
    /// The server's own identity of this copy, which all sessions see alike, where a message stays on the server
    /// (folder, validity and UID of a mail). Two copies of one message are a duplicate, one copy seen twice is not.
    /// `None` where each session is handed copies of its own.
    pub copy: Option<u64>,
    /// By what the session takes it off the server again; `None` where nothing stays.
    pub handle: Option<u64>,
    /// How the parts fared that the protocol carries beside the payload (the headers of a mail): the worst of them
    /// and its name.
    pub beside: Option<(Integrity, &'static str)>,
    /// Why it does not reach its reader as it should although it arrived: `in the spam folder Junk`.
    pub flaw: Option<String>,
    /// What is told of it as evidence: the folder, the hops of its path.
    pub details: Vec<(&'static str, Value)>,
}

impl Arrival {
    /// A message just handed over, of which nothing stays on the server.
    pub fn live(at: Instant, payload: Bytes) -> Self {
        Self {
            at,
            payload,
            nature: Nature::Message,
            copy: None,
            handle: None,
            beside: None,
            flaw: None,
            details: Vec::new(),
        }
    }
}

/// What a message that came in is to a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nature {
    /// A message that reached its reader.
    Message,
    /// A copy that proves nothing: one the server had retained (MQTT), one the sender kept (a folder of sent mail).
    Kept,
    /// The word of a server that a message could not be delivered (a bounce), in one line. Its payload names the
    /// message it is about.
    Bounce(String),
}
