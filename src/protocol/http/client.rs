//! reqwest with its phases told apart: hooks in the resolver, the connector and the TLS session store mark the
//! moments, and a guard carries them into the attempt even when it is dropped at its deadline.
//!
//! One client serves many checks (it takes kilobytes), and the hooks are the client's. Which check they are called for is
//! told by the task they are called in: a client without a pool connects within the request, never in a task of its own.
//!
//! The order of the marks: the connector is called (connect) → the resolver is called (that was resolve) → the
//! resolver returns (connect) → rustls looks for a session (tls) → the connector returns (exchange).

use std::{
    error::Error as _,
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Instant,
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::{
    NamedGroup,
    client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue},
    pki_types::{CertificateDer, ServerName},
};
use tower::{Layer, Service};

use crate::{
    clock,
    observation::{Kind, Phase, Reason},
    protocol::wire::{
        Attempt, Family, Net, Seen, Witness, below, certificate_facts, io_kind, io_text, tls_error_within, tls_failure,
    },
};

tokio::task_local! {
    /// What the hooks called in this task are for.
    pub static HOOKS: Arc<Hooks>;
}

/// What the hooks called for one attempt share.
pub struct Hooks {
    slot: Mutex<Slot>,
    /// The chain the server showed last.
    pub seen: Arc<Seen>,
}

struct Slot {
    net: Arc<Net>,
    family: Family,
    deadline: Option<Instant>,
    marks: Vec<(Phase, Instant)>,
    addresses: Vec<IpAddr>,
    port: u16,
    notes: Vec<String>,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooks")
    }
}

impl Hooks {
    /// For this attempt, which has seen nothing yet.
    pub fn new(cx: &Attempt) -> Self {
        let slot = Slot {
            net: cx.net().clone(),
            family: cx.family(),
            deadline: cx.deadline(),
            marks: Vec::new(),
            addresses: Vec::new(),
            port: 0,
            notes: Vec::new(),
        };
        Self { slot: Mutex::new(slot), seen: Arc::default() }
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of the check that this task asks for, if it asks for one.
    fn current() -> Option<Arc<Self>> {
        HOOKS.try_with(Arc::clone).ok()
    }

    fn mark(&self, phase: Phase) {
        self.slot().marks.push((phase, clock::instant()));
    }

    /// The connector's first step turned out to be the resolver's.
    fn mark_resolve(&self) {
        let mut slot = self.slot();
        let now = clock::instant();
        match slot.marks.last_mut() {
            Some((phase @ Phase::Connect, _)) => *phase = Phase::Resolve,
            _ => slot.marks.push((Phase::Resolve, now)),
        }
    }
}

/// Carries what the hooks see into the attempt: at every [`Gathering::flush`], and when it is dropped.
pub struct Gathering<'a> {
    /// The attempt.
    pub cx: &'a mut Attempt,
    hooks: &'a Hooks,
}

impl<'a> Gathering<'a> {
    /// Begins to gather for this attempt.
    pub fn begin(cx: &'a mut Attempt, hooks: &'a Hooks) -> Self {
        Self { cx, hooks }
    }

    /// Carries over what has been seen so far.
    pub fn flush(&mut self) {
        let mut slot = self.hooks.slot();
        for (phase, at) in slot.marks.drain(..) {
            self.cx.phase_at(phase, at);
        }
        for note in slot.notes.drain(..) {
            self.cx.note(note);
        }
    }

    /// The addresses of the latest host that was resolved; forgotten before the next request.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.hooks.slot().addresses.clone()
    }

    /// Notes where the next request goes, as far as it is known before its host is resolved.
    pub fn towards(&mut self, literal: Option<IpAddr>, port: u16) {
        let mut slot = self.hooks.slot();
        slot.addresses = literal.into_iter().collect();
        slot.port = port;
    }

    /// The certificate shown by the latest server, if any, with the version of TLS if it is known.
    pub fn certificate(&mut self, version: Option<String>, alpn: Option<&str>) {
        let chain = self.hooks.seen.chain();
        if chain.is_empty() {
            return;
        }
        let mut facts = certificate_facts(&chain, self.cx.at());
        facts.version = version.unwrap_or_default();
        facts.alpn = alpn.map(Into::into);
        self.cx.set_tls_facts(facts);
    }
}

impl Drop for Gathering<'_> {
    fn drop(&mut self) {
        self.flush();
        if self.cx.tls_facts().is_none() {
            self.certificate(None, None);
        }
        let slot = self.hooks.slot();
        // The client does not say which address it tried last; with a single one there is no doubt.
        if let [one] = slot.addresses[..] {
            self.cx.set_address(SocketAddr::new(one, slot.port));
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The hooks

/// The resolver of a client.
pub struct ResolveHook;

/// A failed lookup on its way through the client.
#[derive(Debug)]
pub struct LookupFailed(pub Kind, pub String);

impl fmt::Display for LookupFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.1)
    }
}

impl std::error::Error for LookupFailed {}

impl Resolve for ResolveHook {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let none = || LookupFailed(Kind::Own, "the resolver was called outside of an attempt".into());
            let hooks = Hooks::current().ok_or_else(none)?;
            hooks.mark_resolve();
            let (net, family, deadline) = {
                let slot = hooks.slot();
                (slot.net.clone(), slot.family, slot.deadline)
            };
            let addresses = net.resolver().lookup(name.as_str(), family, deadline).await;
            let addresses = addresses.map_err(|(kind, text)| LookupFailed(kind, text))?;
            let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let mut slot = hooks.slot();
            slot.marks.push((Phase::Connect, clock::instant()));
            slot.notes.push(format!("{} is {}", name.as_str(), list.join(", ")));
            slot.addresses.clone_from(&addresses);
            Ok(Box::new(addresses.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs)
        })
    }
}

/// A session store that stores nothing and marks the moment at which a handshake begins.
#[derive(Debug)]
pub struct HandshakeHook;

impl HandshakeHook {
    /// As the resumption of a configuration.
    pub fn resumption() -> Resumption {
        Resumption::store(Arc::new(Self))
    }
}

/// Notes the chains that servers show.
#[derive(Debug)]
pub struct WitnessHook;

impl Witness for WitnessHook {
    fn shown(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) {
        if let Some(hooks) = Hooks::current() {
            hooks.seen.shown(leaf, rest);
        }
    }
}

impl ClientSessionStore for HandshakeHook {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        if let Some(hooks) = Hooks::current() {
            hooks.mark(Phase::Tls);
        }
        None
    }
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {}
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}

/// Marks the start and the end of the connector.
#[derive(Clone)]
pub struct ConnectHook;

/// A connector between two marks.
#[derive(Clone)]
pub struct Marked<S>(S);

impl<S> Layer<S> for ConnectHook {
    type Service = Marked<S>;
    fn layer(&self, inner: S) -> Marked<S> {
        Marked(inner)
    }
}

impl<S, R> Service<R> for Marked<S>
where
    S: Service<R>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let hooks = Hooks::current();
        if let Some(hooks) = &hooks {
            hooks.mark(Phase::Connect);
        }
        let connecting = self.0.call(request);
        Box::pin(async move {
            let connected = connecting.await;
            // A failed connection stays in the phase in which it failed.
            if let (Ok(_), Some(hooks)) = (&connected, hooks) {
                hooks.mark(Phase::Exchange);
            }
            connected
        })
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Errors

/// What an error of the client means. Its own words may hold the URL, so only its causes are told.
pub fn failure(gathering: &mut Gathering<'_>, error: reqwest::Error, place: &str) -> Reason {
    gathering.flush();
    gathering.certificate(None, None);
    let cx = &*gathering.cx;
    if let Some(error) = tls_error_within(&error) {
        let (kind, text) = tls_failure(error, cx.tls_facts(), cx.at());
        return cx.fail(kind, text);
    }
    let mut innermost = String::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(LookupFailed(kind, text)) = error.downcast_ref() {
            return cx.fail(*kind, text);
        }
        let io: Option<&io::Error> = error.downcast_ref();
        if let Some(error) = io.filter(|error| error.get_ref().is_none() || io_kind(error) != Kind::Protocol) {
            return cx.fail(io_kind(error), io_told(cx, error, &gathering.addresses(), place));
        }
        innermost = error.to_string();
        cause = below(error);
    }
    if innermost.is_empty() {
        innermost = error.without_url().to_string();
    }
    let ended = ["before message", "before end", "closed before", "unexpected EOF", "unexpected end"];
    let packed = ["gzip", "deflate", "corrupt"];
    let says = |words: &[&str]| words.iter().any(|word| innermost.contains(word));
    let (kind, text) = if says(&ended) {
        (Kind::Closed, "the server closed the connection before its answer was complete".into())
    } else if innermost.contains("head is too large") {
        (Kind::TooLarge, "the headers of the answer, or the length they announce, are too large".into())
    } else if says(&packed) {
        (Kind::Protocol, format!("the compressed body of the answer is broken: {innermost}"))
    } else {
        (Kind::Protocol, format!("not a proper HTTP answer: {innermost}"))
    };
    cx.fail(kind, text)
}

/// An error of I/O in words; while connecting, with the address, or with all of them when there are several.
fn io_told(cx: &Attempt, error: &io::Error, addresses: &[IpAddr], place: &str) -> String {
    let words = io_text(error);
    match (cx.current_phase(), addresses) {
        (Phase::Connect, [address]) => format!("{place} ({address}): {words}"),
        (Phase::Connect, [_, _, ..]) => {
            let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            format!("{place} ({}): {words}", list.join(", "))
        }
        (Phase::Connect, []) => format!("{place}: {words}"),
        (Phase::Tls, _) => format!("{words} during the TLS handshake"),
        _ => words,
    }
}
