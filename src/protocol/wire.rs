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
mod facts;
mod resolve;
mod tls;
mod verify;

use std::{
    borrow::Cow,
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
    facts::{certificate_facts, days_between, expiry},
    resolve::{Resolver, system_nameservers},
    tls::{PEM_BYTES_MAX, TlsClient, TlsOptions, TlsVersion, below, tls_error_within, tls_failure},
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

/// Most texts that an attempt keeps out of what is told: each account of a delivery logs in twice, in a few steps.
pub const CONCEALED_MAX: usize = 32;

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

/// A stream for every connection that would be made.
type StandIn = Box<dyn Fn() -> Stream + Send + Sync>;

/// What all attempts of a process share: the resolver, the trusted roots, the masker of secrets.
pub struct Net {
    /// Replaces secrets in everything that is told.
    pub masker: Masker,
    resolver: Resolver,
    stand_in: Option<StandIn>,
    platform: OnceLock<Result<Arc<dyn ServerCertVerifier>, String>>,
}

impl Net {
    /// Reads the system's resolver configuration unless name servers are given. Opens nothing yet.
    ///
    /// # Errors
    /// When that configuration cannot be read or holds no name server.
    pub fn new(options: NetOptions) -> Result<Arc<Self>, String> {
        let resolver = Resolver::new(&options.nameservers)?;
        Ok(Arc::new(Self { masker: options.masker, resolver, stand_in: None, platform: OnceLock::new() }))
    }

    /// A net whose connections are these streams: for the fuzzing of whole dialogues, in memory.
    ///
    /// # Errors
    /// As [`Net::new`].
    #[doc(hidden)]
    pub fn standing_in(
        options: NetOptions,
        connection: impl Fn() -> Stream + Send + Sync + 'static,
    ) -> Result<Arc<Self>, String> {
        let resolver = Resolver::new(&options.nameservers)?;
        let stand_in: Option<StandIn> = Some(Box::new(connection));
        Ok(Arc::new(Self { masker: options.masker, resolver, stand_in, platform: OnceLock::new() }))
    }

    /// The resolver.
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// Reads the platform's roots now rather than at the first handshake, whose time it would count in. Blocks for
    /// some milliseconds.
    pub fn warm(&self) {
        let _ = self.platform();
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
    /// What this attempt sent and nobody may read.
    concealed: Masker,
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
            concealed: Masker::default(),
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

    /// As [`Attempt::phase`], for who saw the moment elsewhere.
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

    /// As [`Attempt::end_phase`], for who saw the moment elsewhere.
    pub fn end_phase_at(&mut self, at: Instant) {
        let Some((phase, begun)) = self.current.take() else { return };
        if self.phases.len() < PHASES_MAX {
            let start = begun.saturating_duration_since(self.started);
            let took = at.saturating_duration_since(begun);
            self.phases.push(PhaseTime { phase, side: self.side, start, took });
        }
    }

    /// The phase that runs, if one runs.
    pub fn running(&self) -> Option<Phase> {
        self.current.map(|(phase, _)| phase)
    }

    /// The phase that runs, or the latest that ran.
    pub fn current_phase(&self) -> Phase {
        self.latest
    }

    /// Keeps this text out of all that is told of the attempt: a login as it was sent, which the peer may repeat, and from
    /// which a password could be read or guessed. At most [`CONCEALED_MAX`] are kept.
    pub fn conceal(&mut self, sent: &str) {
        self.concealed = self.concealed.with(sent, CONCEALED_MAX);
    }

    fn masked<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.concealed.mask(text) {
            Cow::Borrowed(text) => self.net.masker.mask(text),
            Cow::Owned(text) => Cow::Owned(self.net.masker.mask(&text).into_owned()),
        }
    }

    /// A reason at the current phase; secrets in the text are masked.
    pub fn fail(&self, kind: Kind, text: impl AsRef<str>) -> Reason {
        Reason::new(self.latest, kind, self.masked(text.as_ref()))
    }

    /// What an error of the stream means: the peer closed, reset, cannot be reached, or the agent itself is short of
    /// something.
    pub fn io(&self, error: &io::Error) -> Reason {
        if let Some(inner) = tls_error_within(error) {
            let (kind, text) = tls_failure(inner, self.tls.as_ref(), self.at);
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

    /// Forgets the peer: another one is tried next, whose address is not known yet.
    pub fn forget_address(&mut self) {
        self.address = None;
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
            Value::String(text) => Value::String(one_line(&self.masked(&text), DETAIL_CHARS_MAX)),
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
        let Some(count) = self.transcript.as_ref().map(Vec::len) else { return };
        let offset = clock::instant().saturating_duration_since(self.started);
        let text = match count {
            LINES_MAX.. => return,
            n if n + 1 == LINES_MAX => "… (the transcript is cut here)".into(),
            _ => one_line(&self.masked(text), LINE_CHARS_MAX),
        };
        self.transcript.get_or_insert_default().push(Line { offset, what, text });
    }

    /// Ends the attempt. `verdict` is the probe's own, or the reason given by [`Attempt::overdue`]; an attempt that
    /// took longer than `slow` is slow, as is one whose verdict is of a kind that says so; one that failed by the
    /// agent's own fault is unknown.
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
                let outcome = match reason.kind {
                    Kind::Own => Outcome::Unknown,
                    Kind::Slow | Kind::Misplaced => Outcome::Slow,
                    _ => Outcome::Failed,
                };
                let text = self.masked(&reason.text);
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
            account: None,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Secret;

    const SECRET: &str = "hunter2-secret";

    fn attempt(explain: bool) -> Attempt {
        let options = NetOptions { nameservers: vec![], masker: Masker::new([Secret::new(SECRET)]) };
        let net = Net::new(options).expect("a resolver");
        Attempt::new(net, Family::Any, Timestamp::from_millis(0), clock::instant(), explain)
    }

    #[test]
    fn an_attempt_ends_with_its_verdict() {
        let late = Duration::from_millis(1_300);
        let table = [
            (Ok(()), None, Outcome::Ok, None),
            (Ok(()), Some(Duration::from_secs(2)), Outcome::Ok, None),
            (
                Ok(()),
                Some(Duration::from_millis(800)),
                Outcome::Slow,
                Some("took 1.3s, objective 800ms; exchange took 1.2s"),
            ),
            (Err(Kind::Refused), None, Outcome::Failed, Some("said *** to me")),
            (Err(Kind::Own), None, Outcome::Unknown, Some("said *** to me")),
            (Err(Kind::Slow), None, Outcome::Slow, Some("said *** to me")),
        ];
        for (verdict, slow, outcome, text) in table {
            let mut cx = attempt(false);
            let started = cx.started();
            cx.phase_at(Phase::Connect, started);
            cx.phase_at(Phase::Exchange, started + Duration::from_millis(100));
            // Not masked beforehand: the end of an attempt is the last line of defence.
            let verdict = verdict.map_err(|kind| Reason::new(Phase::Exchange, kind, format!("said {SECRET} to me")));
            let (observation, lines) = cx.finish(verdict, started + late, slow);
            assert_eq!(observation.outcome, outcome);
            assert_eq!(observation.duration, late);
            assert_eq!(observation.reason.as_ref().map(|r| r.text.as_str()), text);
            let phases: Vec<(Phase, u128)> = observation.phases.iter().map(|p| (p.phase, p.took.as_millis())).collect();
            assert_eq!(phases, [(Phase::Connect, 100), (Phase::Exchange, 1_200)]);
            assert!(lines.is_empty());
        }
    }

    #[test]
    fn an_overdue_attempt_names_what_it_waited_for() {
        let mut cx = attempt(false);
        let timeout = Duration::from_secs(2);
        cx.phase(Phase::Resolve);
        assert!(cx.overdue(timeout).text.starts_with("name servers "));
        cx.phase(Phase::Connect);
        cx.set_address(([192, 0, 2, 1], 25).into());
        assert_eq!(cx.overdue(timeout).text, "no connection to 192.0.2.1:25 within 2s");
        cx.phase(Phase::Greeting);
        cx.awaits("expected \"220\", got nothing");
        let reason = cx.overdue(timeout);
        assert_eq!(
            reason.text,
            "connected, but no greeting from 192.0.2.1:25 within 2s; expected \"220\", got nothing"
        );
        assert_eq!((reason.phase, reason.kind), (Phase::Greeting, Kind::Timeout));
        cx.phase(Phase::Exchange);
        assert_eq!(cx.overdue(timeout).text, "no answer from 192.0.2.1:25 within 2s");
    }

    #[test]
    fn everything_is_bounded_and_masked() {
        let mut cx = attempt(true);
        for n in 0..10_000 {
            cx.phase(Phase::Exchange);
            cx.received(format!("{n} {SECRET} {}", "가".repeat(LINE_CHARS_MAX)));
            cx.detail(&format!("key {n}"), format!("{SECRET} {}", "x".repeat(1_000)));
        }
        cx.detail("key 0", 5);
        let (observation, lines) = cx.finish(Ok(()), clock::instant(), None);
        assert_eq!(observation.phases.len(), PHASES_MAX);
        assert_eq!(observation.details.len(), DETAILS_MAX);
        assert_eq!(observation.details["key 0"], 5);
        assert_eq!(lines.len(), LINES_MAX);
        assert!(lines.iter().all(|l| l.text.chars().count() <= LINE_CHARS_MAX));
        assert!(!format!("{observation:?} {lines:?}").contains(SECRET));
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(future)
    }

    #[test]
    fn the_next_address_is_tried_when_one_fails() {
        block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
            let port = listener.local_addr().expect("a bound listener has an address").port();
            let mut cx = attempt(true);
            let addresses: [SocketAddr; 3] =
                ["[::1]:1".parse().expect("an address"), ([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], port).into()];
            assert!(cx.connect_any(&addresses).await.is_ok());
            assert_eq!(cx.address(), Some(addresses[2]));
            let reason = cx.connect_any(&addresses[..2]).await.expect_err("nobody listens there");
            assert_eq!(reason.phase, Phase::Connect);
            assert!(reason.text.contains("IPv4 127.0.0.1:1: connection refused"), "{reason}");
            assert!(reason.text.contains("IPv6 [::1]:1: "), "{reason}");
            assert_eq!(reason.kind, Kind::Refused);
            let reason = cx.connect_any(&[]).await.expect_err("no address");
            assert_eq!(reason.kind, Kind::NoAddress);
        });
    }

    #[test]
    fn a_silent_address_is_joined_by_the_next() {
        block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
            let good = listener.local_addr().expect("a bound listener has an address");
            // A full backlog: the kernel drops what comes further, so a connection neither succeeds nor fails.
            let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
            full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback has a free port");
            full.listen(0).expect("a bound socket listens");
            let silent = full.local_addr().ok().and_then(|a| a.as_socket()).expect("a bound socket has an address");
            let mut kept = Vec::new();
            for _ in 0..4 {
                let wait = Duration::from_millis(50);
                kept.push(std::net::TcpStream::connect_timeout(&silent, wait));
            }
            let mut cx = attempt(true);
            let begun = clock::instant();
            assert!(cx.connect_any(&[silent, good]).await.is_ok());
            let took = clock::instant().saturating_duration_since(begun);
            assert!(took >= connect::STAGGER && took < Duration::from_secs(2), "{took:?}");
            assert_eq!(cx.address(), Some(good));
        });
    }

    #[test]
    fn errors_of_streams_are_classed() {
        let table = [
            (io::Error::from_raw_os_error(111), Kind::Refused, "connection refused"),
            (io::Error::from_raw_os_error(104), Kind::Reset, "the peer reset the connection"),
            (io::Error::from_raw_os_error(113), Kind::Unreachable, "host unreachable"),
            (io::Error::from_raw_os_error(101), Kind::Unreachable, "network unreachable"),
            (
                io::Error::from_raw_os_error(24),
                Kind::Own,
                "the agent has no file descriptor left (EMFILE); raise LimitNOFILE",
            ),
            (io::Error::from_raw_os_error(12), Kind::Own, "the system has no memory left (ENOMEM)"),
            (io::Error::from_raw_os_error(110), Kind::Timeout, "the connection timed out"),
            (io::ErrorKind::UnexpectedEof.into(), Kind::Closed, "the peer closed the connection"),
            (io::Error::other("odd"), Kind::Protocol, "odd"),
        ];
        for (error, kind, text) in table {
            let reason = attempt(false).io(&error);
            assert_eq!((reason.kind, reason.text.as_str()), (kind, text));
        }
    }
}
