//! Checks: one question each, asked on a schedule.
//!
//! What is asked is an [`Ask`]: a plain probe of one protocol, or a kind of its own (`delivery`) from [`KINDS`]; with
//! several [`accounts`], one of these for each.

pub mod accounts;
pub mod canary;
pub mod delivery;
pub mod probe;

use std::{any::Any, panic::AssertUnwindSafe, path::Path, sync::Arc, time::Duration};

use futures_util::FutureExt;

use schemars::{Schema, SchemaGenerator};

use crate::{
    delivery::Key,
    detect::Thresholds,
    observation::{Correction, Flight, Kind, Observation, Reason},
    options::{Options, Problem, suggestion},
    protocol::{self, Attempt, Boxed, Net, PROTOCOLS, wire::Line},
    schedule::Schedule,
    value::{CheckName, Labels, Timestamp},
};

/// A check as resolved from YAML. What is usually the same for many of them, they share.
pub struct Check {
    /// `service/check`.
    pub name: CheckName,
    /// The service's title, for people.
    pub title: Arc<str>,
    /// Labels of the service and the check.
    pub labels: Arc<Labels>,
    /// When it is asked.
    pub schedule: Schedule,
    /// How it is asked.
    pub settings: Settings,
    /// What is asked.
    pub ask: Arc<dyn Ask>,
    /// When it counts as suspect, down, degraded.
    pub thresholds: Arc<Thresholds>,
    /// Checks this one cannot work without.
    pub depends_on: Arc<[CheckName]>,
    /// The name its history is kept under, if it was renamed.
    pub formerly: Option<CheckName>,
    /// A digest of all of this after defaults, secrets and named files included: where two are equal within one process,
    /// the checks are the same.
    pub fingerprint: Arc<str>,
}

/// How a check is asked, whatever its kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Deadline of one attempt (of a delivery: of each session's opening and of the send).
    pub timeout: Duration,
    /// A longer attempt is `slow`; for a delivery, this is the objective of its latency.
    pub slow: Option<Duration>,
    /// Address families.
    pub ip: Families,
}

/// Which address families are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Families {
    /// Whatever the name has, the first that connects.
    #[default]
    Any,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
    /// Each of the two, in turn; both must work.
    Both,
}

/// What an attempt is given.
#[derive(Clone)]
pub struct Context {
    /// Resolver, roots, masker.
    pub net: Arc<Net>,
    /// When the attempt begins, on the wall clock.
    pub at: Timestamp,
    /// The settings of the check.
    pub settings: Settings,
    /// Whether a transcript is wanted.
    pub explain: bool,
    /// The time until the check is next due: a delivery waits no longer than this (or its objective, if that is
    /// longer), and tells the fate of a message that is still pending by [`Ask::afterwards`]. `None`: until its horizon.
    pub wait_max: Option<Duration>,
}

/// What an attempt gives back.
#[derive(Debug)]
pub struct Answer {
    /// What it showed.
    pub observation: Observation,
    /// What was said, if a transcript was asked for; secrets are masked.
    pub transcript: Vec<Line>,
}

/// One question. Implementations keep what they need between attempts (a delivery: its ledger) behind a lock of
/// their own; attempts of one check never overlap.
pub trait Ask: Send + Sync {
    /// `http`, `mqtt`, `delivery` …
    fn kind(&self) -> &'static str;

    /// What is asked, for people, without secrets.
    fn target(&self) -> String;

    /// The longest an attempt can take, from its settings.
    fn deadline(&self, settings: &Settings) -> Duration;

    /// One attempt; ends by its deadline, whatever the peer does. Never panics on what a peer sends.
    fn attempt<'a>(&'a self, context: Context) -> Boxed<'a, Answer>;

    /// What comes to light after the verdict, one correction at a time; `None` when nothing is outstanding. Asked
    /// only of what [sends](Ask::sends); the caller drops it when the next attempt is due.
    fn afterwards<'a>(&'a self) -> Boxed<'a, Option<Correction>>;

    /// What speaks against asking at this interval, and what to do about it.
    fn too_often(&self, every: Duration) -> Option<(String, &'static str)> {
        let _ = every;
        None
    }

    /// Whether it sends messages, of which an earlier run may have left some: then [`Ask::resume`] is asked first.
    fn sends(&self) -> bool {
        false
    }

    /// Takes up what an earlier run left; asked once, before the first attempt. Returns observations of attempts that
    /// the end of that run cut off, oldest first: what was sent and never told.
    fn resume<'a>(&'a self, past: Past) -> Boxed<'a, Vec<Observation>> {
        let _ = past;
        Box::pin(std::future::ready(Vec::new()))
    }

    /// The question with each of its accounts alone, by the account's name; empty when it knows of no accounts.
    fn each(&self) -> Vec<(String, Arc<dyn Ask>)> {
        Vec::new()
    }

    /// Ends sessions that are kept, and takes what is our own off the servers; asked once nothing is asked any more.
    /// Bounded by itself.
    fn close<'a>(&'a self) -> Boxed<'a, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// What an earlier run of the agent left of a check.
#[derive(Clone)]
pub struct Past {
    /// By what the check's messages are known for its own.
    pub key: Key,
    /// The highest sequence used.
    pub sequence: u64,
    /// Messages whose fate is open.
    pub flights: Vec<Flight>,
    /// Where messages are written down before they are sent; `None` where nothing is kept.
    pub journal: Option<Arc<dyn Journal>>,
    /// Which sequences to use.
    pub lane: Lane,
}

/// Where a check writes down what must outlive a crash of the agent.
pub trait Journal: Send + Sync {
    /// Returns once these messages are stored, or with why they are not. Safe to drop.
    fn sending<'a>(&'a self, flights: Vec<Flight>) -> Boxed<'a, Result<(), String>>;

    /// Whether what was told so far is stored, as far as is known.
    fn keeps_up(&self) -> bool;
}

/// Which sequences one of several askers of the same check uses: those that leave `index` when divided by `of`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// Below `of`.
    pub index: u64,
    /// How many share the sequences; at least 1.
    pub of: u64,
}

impl Default for Lane {
    fn default() -> Self {
        Self { index: 0, of: 1 }
    }
}

impl Lane {
    /// Whether this sequence is one of it.
    pub fn has(self, sequence: u64) -> bool {
        sequence % self.of.max(1) == self.index
    }

    /// The lowest sequence of this lane beyond `sequence`.
    pub fn after(self, sequence: u64) -> u64 {
        let next = sequence.wrapping_add(1);
        let of = self.of.max(1);
        next.wrapping_add((self.index + of - next % of) % of)
    }
}

/// A kind of check other than a plain probe.
pub struct CheckKind {
    /// The key in YAML.
    pub name: &'static str,
    /// What it asks, in one line without a full stop.
    pub summary: &'static str,
    /// YAML of a check that uses it, which tests load as it stands.
    pub example: &'static str,
    /// JSON Schema of its options.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// Builds it; `None` when the options hold mistakes (then recorded there).
    pub build: fn(&mut Options<'_>, &CheckName, &Settings) -> Option<Arc<dyn Ask>>,
}

/// All kinds of checks other than plain probes.
pub static KINDS: &[&CheckKind] = &[&delivery::DELIVERY];

/// The deadline of a check that names none.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// Every key by which a check may say what it asks: the protocols that can be probed, then the kinds.
pub fn known_keys() -> Vec<&'static str> {
    let protocols = PROTOCOLS.iter().filter(|p| p.probe.is_some()).map(|p| p.name);
    protocols.chain(KINDS.iter().map(|k| k.name)).collect()
}

/// Builds what is asked under `key` from its options; `None` when they hold mistakes, which are then recorded there.
pub fn build(key: &str, options: &mut Options<'_>, name: &CheckName, settings: &Settings) -> Option<Arc<dyn Ask>> {
    if let Some(kind) = KINDS.iter().find(|k| k.name == key) {
        return (kind.build)(options, name, settings);
    }
    let Some(protocol) = protocol::by_name(key) else {
        options.problem("", format!("unknown check `{key}`"), Some(&suggestion(key, known_keys())));
        return None;
    };
    let Some(build) = protocol.probe else {
        options.problem("", format!("`{key}` cannot be probed"), Some("use it in a delivery"));
        return None;
    };
    Some(Arc::new(probe::ProbeAsk::new(protocol.name, name.clone(), build(options)?)))
}

/// What `bongsu probe URL` asks: the probe of the protocol that speaks the URL's scheme, all else by default.
///
/// # Errors
/// When no protocol speaks it, or the URL does not fit; in words for the user, never with the URL's password.
pub fn from_url(url: &str) -> Result<Arc<dyn Ask>, String> {
    let schemes = || PROTOCOLS.iter().filter(|p| p.probe.is_some()).flat_map(|p| p.schemes.iter().copied());
    let known: Vec<&str> = schemes().collect();
    let Some((scheme, _)) = url.split_once(':') else {
        return Err(format!("this is no URL; write it with its scheme, one of: {}", known.join(", ")));
    };
    let scheme = scheme.to_ascii_lowercase();
    let Some(protocol) = protocol::by_scheme(&scheme).filter(|p| p.probe.is_some()) else {
        return Err(format!("unknown scheme `{scheme}`; {}", suggestion(&scheme, known)));
    };
    let mut block = serde_yaml::Mapping::new();
    block.insert("url".into(), url.into());
    let name = "url/probe".parse::<CheckName>()?;
    let settings = Settings { timeout: TIMEOUT, slow: None, ip: Families::Any };
    let mut problems = Vec::new();
    let block = serde_yaml::Value::Mapping(block);
    let mut options = Options::new(&block, Vec::new(), Path::new("."), &mut problems);
    build(protocol.name, &mut options, &name, &settings).ok_or_else(|| {
        let told = |p: &Problem| p.hint.as_ref().map_or(p.text.clone(), |hint| format!("{}; {hint}", p.text));
        problems.iter().map(told).collect::<Vec<_>>().join("; ")
    })
}

/// Runs a part of an attempt so that a bug in it ends this attempt only: a panic becomes a reason of the agent's own
/// (outcome `unknown`), and a loud line in the log.
async fn fenced<T>(check: &CheckName, future: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(future).catch_unwind().await.map_err(|panic| {
        let text = panic_text(panic.as_ref());
        tracing::error!(check = %check, "a check panicked, which is a bug in bongsu: {text}");
        text
    })
}

fn panicked(cx: &Attempt, text: &str) -> Reason {
    cx.fail(Kind::Own, format!("the check panicked, which is a bug in bongsu: {text}"))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
