//! The one dialer: name resolution, TCP, TLS, with every phase timed, every byte bounded and a transcript kept.
//!
//! A probe holds an [`Attempt`] and asks it for streams; phases, the address spoken to, TLS facts, details and the
//! transcript gather in it as they happen, so that a probe which is dropped at its deadline has still told
//! everything it knew, and the phase in which it hung is the reason's.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Map, Value};

use crate::{
    observation::{Kind, Phase, PhaseTime, Reason, Side, TlsFacts},
    value::{Masker, Timestamp},
};

/// What all attempts of a process share: the resolver, the trusted roots, the masker of secrets.
pub struct Net {
    pub masker: Masker,
}

/// Which address families an attempt may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Family {
    /// Whatever the name has; the first that connects.
    #[default]
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

/// One attempt in progress.
pub struct Attempt {
    pub net: Arc<Net>,
    pub family: Family,
    pub at: Timestamp,
    pub started: Instant,
    pub side: Option<Side>,
    pub phases: Vec<PhaseTime>,
    pub current: Option<(Phase, Instant)>,
    pub address: Option<SocketAddr>,
    pub tls: Option<TlsFacts>,
    pub details: Map<String, Value>,
    pub transcript: Option<Vec<Line>>,
}

/// A line of the transcript.
#[derive(Clone, Debug)]
pub struct Line {
    pub offset: Duration,
    pub what: Said,
    pub text: String,
}

/// Who said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// bongsu about itself.
    Note,
    /// bongsu to the peer.
    Sent,
    /// The peer to bongsu.
    Received,
}

impl Attempt {
    pub fn phase(&mut self, phase: Phase) {
        let _ = phase;
    }
    pub fn fail(&self, kind: Kind, text: impl AsRef<str>) -> Reason {
        Reason::new(self.current.map_or(Phase::Connect, |c| c.0), kind, text)
    }
}
