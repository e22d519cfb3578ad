//! The one dialer: name resolution, TCP, TLS, with every phase timed, every byte bounded and a transcript kept.
//!
//! A probe holds an [`Attempt`] and asks it for streams; phases, the address spoken to, TLS facts, details and the
//! transcript gather in it as they happen, so that a probe which is dropped at its deadline has still told
//! everything it knew, and the phase in which it hung is the reason's.
//!
//! An attempt is begun by [`Attempt::new`] and ended by [`Attempt::finish`], which is also where secrets are masked
//! for good: nothing a peer echoes leaves this module unmasked.

mod connect;
mod endpoint;
mod resolve;
mod tls;
mod verify;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use rustls::client::danger::ServerCertVerifier;
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncWrite};

pub use self::{
    connect::{io_kind, io_text},
    endpoint::{Address, Endpoint, Scheme, host_and_port},
    resolve::{Resolver, system_nameservers},
    tls::{TlsClient, TlsOptions, TlsVersion, certificate_facts, tls_failure},
    verify::Seen,
};
use crate::{
    clock,
    observation::{DETAILS_MAX, Kind, Observation, Outcome, Phase, PhaseTime, Reason, Side, TlsFacts, one_line},
    value::{Masker, TimeSpan, Timestamp},
};

/// Most phases an attempt keeps. A chain of ten redirects has four each, a delivery about twelve; what comes after
/// is still timed as the current phase, but not kept.
pub const PHASES_MAX: usize = 64;

/// Most lines of a transcript; a peer that chatters must not fill the memory of `probe --explain`.
pub const LINES_MAX: usize = 400;

/// Longest line of a transcript in characters: enough for a certificate's subject or a long header.
pub const LINE_CHARS_MAX: usize = 1_000;

/// Longest text value of a detail in characters; details are stored with every observation.
pub const DETAIL_CHARS_MAX: usize = 200;

/// A stream of bytes to a peer, whatever lies beneath.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A stream of bytes to a peer, with or without TLS.
pub type Stream = Box<dyn Io>;

/// What a [`Net`] is made from.
#[derive(Clone, Debug, Default)]
pub struct NetOptions {
    /// Name servers to ask; empty means those of the system's configuration.
    pub nameservers: Vec<SocketAddr>,
    /// Replaces secrets in everything that is told.
    pub masker: Masker,
}

/// What all attempts of a process share: the resolver, the trusted roots, the masker of secrets.
pub struct Net {
    /// Replaces secrets in everything that is told.
    pub masker: Masker,
    resolver: Resolver,
    platform: OnceLock<Result<Arc<dyn ServerCertVerifier>, String>>,
}

impl Net {
    /// Reads the system's resolver configuration unless name servers are given. Opens nothing yet.
    ///
    /// # Errors
    /// When that configuration cannot be read or holds no name server.
    pub fn new(options: NetOptions) -> Result<Arc<Self>, String> {
        let resolver = Resolver::new(&options.nameservers)?;
        Ok(Arc::new(Self { masker: options.masker, resolver, platform: OnceLock::new() }))
    }

    /// The resolver.
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// The verifier that trusts the platform's roots, read from disk once per process.
    fn platform(&self) -> Result<Arc<dyn ServerCertVerifier>, String> {
        self.platform.get_or_init(verify::platform).clone()
    }
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

impl Family {
    /// Whether an address belongs to it.
    pub fn takes(self, address: &std::net::IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }

    /// The word for people: `IPv4`, `IPv6`, and nothing in particular for any.
    pub fn word(self) -> &'static str {
        match self {
            Self::Any => "IP",
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// A line of the transcript.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When, from the start of the attempt.
    pub offset: Duration,
    /// Who said it.
    pub what: Said,
    /// What was said: one line, bounded, secrets masked.
    pub text: String,
}

/// Who said a line of the transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// bongsu about itself.
    Note,
    /// bongsu to the peer.
    Sent,
    /// The peer to bongsu.
    Received,
}

/// One attempt in progress.
pub struct Attempt {
    net: Arc<Net>,
    family: Family,
    at: Timestamp,
    started: Instant,
    deadline: Option<Instant>,
    side: Option<Side>,
    phases: Vec<PhaseTime>,
    current: Option<(Phase, Instant)>,
    /// The phase a reason belongs to when none runs: the latest.
    latest: Phase,
    address: Option<SocketAddr>,
    tls: Option<TlsFacts>,
    chain: Arc<Seen>,
    awaited: Option<String>,
    details: Map<String, Value>,
    transcript: Option<Vec<Line>>,
}

impl Attempt {
    /// Begins an attempt: `at` on the wall clock, `started` on the monotonic one. `explain` keeps a transcript.
    pub fn new(net: Arc<Net>, family: Family, at: Timestamp, started: Instant, explain: bool) -> Self {
        Self {
            net,
            family,
            at,
            started,
            deadline: None,
            side: None,
            phases: Vec::new(),
            current: None,
            latest: Phase::Connect,
            address: None,
            tls: None,
            chain: Arc::default(),
            awaited: None,
            details: Map::new(),
            transcript: explain.then(Vec::new),
        }
    }

    /// Tells when the caller will drop the attempt, so that the resolver can end before that and say why.
    /// It is told again for each part of a longer attempt.
    pub fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = Some(deadline);
    }

    /// What all attempts share.
    pub fn net(&self) -> &Arc<Net> {
        &self.net
    }

    /// The address families allowed.
    pub fn family(&self) -> Family {
        self.family
    }

    /// When the attempt began, on the wall clock.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// When the attempt began, on the monotonic clock.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// When the caller will drop it, if told.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Which session of a delivery the following phases belong to.
    pub fn side(&mut self, side: Option<Side>) {
        self.end_phase();
        self.side = side;
    }

    /// Begins a phase and ends the one before.
    pub fn phase(&mut self, phase: Phase) {
        self.phase_at(phase, clock::instant());
    }

    /// As [`Attempt::phase`], for a hook that saw the moment elsewhere.
    pub fn phase_at(&mut self, phase: Phase, at: Instant) {
        self.end_phase_at(at);
        self.current = Some((phase, at));
        self.latest = phase;
        self.awaited = None;
    }

    /// Says what is waited for, until the next phase: told when the attempt is dropped at its deadline.
    pub fn awaits(&mut self, what: impl Into<String>) {
        self.awaited = Some(what.into());
    }

    /// Ends the running phase, if one runs.
    pub fn end_phase(&mut self) {
        self.end_phase_at(clock::instant());
    }

    /// As [`Attempt::end_phase`], for a hook that saw the moment elsewhere.
    pub fn end_phase_at(&mut self, at: Instant) {
        let Some((phase, begun)) = self.current.take() else { return };
        if self.phases.len() < PHASES_MAX {
            let start = begun.saturating_duration_since(self.started);
            let took = at.saturating_duration_since(begun);
            self.phases.push(PhaseTime { phase, side: self.side, start, took });
        }
    }

    /// The phase that runs, or the latest that ran.
    pub fn current_phase(&self) -> Phase {
        self.latest
    }

    /// A reason at the current phase; secrets in the text are masked.
    pub fn fail(&self, kind: Kind, text: impl AsRef<str>) -> Reason {
        Reason::new(self.latest, kind, self.net.masker.mask(text.as_ref()))
    }

    /// What an error of the stream means: the peer closed, reset, cannot be reached, or the agent itself is short of
    /// something.
    pub fn io(&self, error: &io::Error) -> Reason {
        if let Some((kind, text)) = tls::failure_within(error) {
            return self.fail(kind, text);
        }
        self.fail(io_kind(error), io_text(error))
    }

    /// The reason of an attempt that the caller dropped `timeout` after its start: the phase that ran is named, and
    /// what was being waited for.
    pub fn overdue(&self, timeout: Duration) -> Reason {
        let span = TimeSpan(timeout);
        let peer = self.address.map_or(String::new(), |a| format!(" from {a}"));
        let text = match self.latest {
            Phase::Resolve => {
                format!("name servers {} did not answer within {span}", self.net.resolver.servers_text())
            }
            Phase::Connect => match self.address {
                Some(address) => format!("no connection to {address} within {span}"),
                None => format!("no connection within {span}"),
            },
            Phase::Tls => format!("TLS handshake{peer} not finished within {span}"),
            Phase::Greeting => format!("connected, but no greeting{peer} within {span}"),
            Phase::Login => format!("no answer to the login{peer} within {span}"),
            Phase::Send => format!("no acknowledgement{peer} within {span}"),
            Phase::Exchange | Phase::Deliver | Phase::Close => format!("no answer{peer} within {span}"),
        };
        match &self.awaited {
            Some(awaited) => self.fail(Kind::Timeout, format!("{text}; {awaited}")),
            None => self.fail(Kind::Timeout, text),
        }
    }

    /// The peer that is spoken to.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Notes the peer that is spoken to (or tried).
    pub fn set_address(&mut self, address: SocketAddr) {
        self.address = Some(address);
    }

    /// What TLS showed so far.
    pub fn tls_facts(&self) -> Option<&TlsFacts> {
        self.tls.as_ref()
    }

    /// The chain the server showed in the latest handshake, its own certificate first.
    pub fn chain(&self) -> Vec<rustls::pki_types::CertificateDer<'static>> {
        self.chain.chain()
    }

    /// Notes what TLS showed.
    pub fn set_tls_facts(&mut self, facts: TlsFacts) {
        self.tls = Some(facts);
    }

    /// Adds evidence by name. A key set again is replaced; beyond [`DETAILS_MAX`] keys, new ones are dropped.
    pub fn detail(&mut self, key: &str, value: impl Into<Value>) {
        if self.details.len() >= DETAILS_MAX && !self.details.contains_key(key) {
            return;
        }
        let value = match value.into() {
            Value::String(text) => Value::String(one_line(&self.net.masker.mask(&text), DETAIL_CHARS_MAX)),
            other => other,
        };
        self.details.insert(key.into(), value);
    }

    /// Whether a transcript is kept, for a caller that would have to build its text at some cost.
    pub fn explains(&self) -> bool {
        self.transcript.is_some()
    }

    /// Into the transcript: what was sent. Credentials are left out by the caller, not sent here.
    pub fn sent(&mut self, text: impl AsRef<str>) {
        self.line(Said::Sent, text.as_ref());
    }

    /// Into the transcript: what the peer said.
    pub fn received(&mut self, text: impl AsRef<str>) {
        self.line(Said::Received, text.as_ref());
    }

    /// Into the transcript: what bongsu itself has to say.
    pub fn note(&mut self, text: impl AsRef<str>) {
        self.line(Said::Note, text.as_ref());
    }

    fn line(&mut self, what: Said, text: &str) {
        let Some(lines) = &mut self.transcript else { return };
        let offset = clock::instant().saturating_duration_since(self.started);
        let text = match lines.len() {
            LINES_MAX.. => return,
            n if n + 1 == LINES_MAX => "… (the transcript is cut here)".into(),
            _ => one_line(&self.net.masker.mask(text), LINE_CHARS_MAX),
        };
        lines.push(Line { offset, what, text });
    }

    /// Ends the attempt. `verdict` is the probe's own, or the reason given by [`Attempt::overdue`]; an attempt that
    /// took longer than `slow` is slow, one that failed by the agent's own fault is unknown.
    pub fn finish(
        mut self,
        verdict: Result<(), Reason>,
        ended: Instant,
        slow: Option<Duration>,
    ) -> (Observation, Vec<Line>) {
        self.end_phase_at(ended);
        let duration = ended.saturating_duration_since(self.started);
        let (outcome, reason) = match verdict {
            Err(reason) => {
                let outcome = if reason.kind == Kind::Own { Outcome::Unknown } else { Outcome::Failed };
                let text = self.net.masker.mask(&reason.text);
                (outcome, Some(Reason::new(reason.phase, reason.kind, text)))
            }
            Ok(()) => match slow.filter(|slow| duration > *slow) {
                Some(slow) => (Outcome::Slow, Some(self.slowness(duration, slow))),
                None => (Outcome::Ok, None),
            },
        };
        let observation = Observation {
            at: self.at,
            outcome,
            duration,
            phases: self.phases,
            reason,
            address: self.address,
            tls: self.tls,
            delivery: None,
            details: self.details,
        };
        (observation, self.transcript.unwrap_or_default())
    }

    /// Why an attempt is slow: the phase that took longest.
    fn slowness(&self, duration: Duration, slow: Duration) -> Reason {
        let (took, objective) = (TimeSpan(duration), TimeSpan(slow));
        let Some(longest) = self.phases.iter().max_by_key(|p| p.took) else {
            return self.fail(Kind::Slow, format!("took {took}, objective {objective}"));
        };
        let share = TimeSpan(longest.took);
        let text = format!("took {took}, objective {objective}; {} took {share}", longest.phase);
        Reason::new(longest.phase, Kind::Slow, text)
    }
}
