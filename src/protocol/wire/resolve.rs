//! Host names to addresses, without ever blocking a thread: hickory's resolver on the system's configuration.
//!
//! A hung name server is named as the cause. Whether it is dead or merely has no answer for this one name makes all
//! the difference: a dead resolver is the agent's own trouble and says nothing about the target. So when nothing
//! came in time, the same servers are asked one control question (the root's name servers, which any resolver knows).
//!
//! Nothing is cached: a cache would hide the outage of a name for as long as its records live.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::{Message, MessageType, OpCode, Query},
        rr::{Name, RData, RecordType},
    },
};
use tokio::net::UdpSocket;

use super::{Attempt, Family};
use crate::{
    clock, files,
    observation::{Kind, Phase, Reason},
    value::TimeSpan,
};

/// Longest a lookup waits for the name servers; most of a usual timeout of five seconds stays for the target.
pub const LOOKUP_MAX: Duration = Duration::from_secs(3);

/// Share of what the deadline leaves that a lookup may use, so that its end can be told before the deadline.
const LOOKUP_SHARE: f64 = 0.6;

/// Longest wait for the control question.
const CONTROL_MAX: Duration = Duration::from_secs(1);

/// Share of what the deadline leaves that the control question may use.
const CONTROL_SHARE: f64 = 0.5;

/// One server's share of a lookup before the next one is asked; three are asked at once.
const SERVER_MAX: Duration = Duration::from_millis(1_500);

/// Servers asked at the same time: as many as resolv.conf(5) can name.
const SERVERS_AT_ONCE: usize = 3;

/// Wait for the other family's addresses once one family's are there (RFC 8305, section 3: 50 ms).
const OTHER_FAMILY_MAX: Duration = Duration::from_millis(50);

/// How often the system's files are looked at for changes: a new network must not need a restart.
const RELOAD_EVERY: Duration = Duration::from_secs(5);

/// Largest answer to a control question that is read; only its header counts.
const CONTROL_BYTES_MAX: usize = 1_500;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Longest resolv.conf(5): of its servers three count.
const RESOLV_CONF_BYTES_MAX: usize = 64 * 1024;

const HOSTS: &str = "/etc/hosts";

/// The asynchronous resolver, with the system's configuration or with name servers of its own.
pub struct Resolver {
    given: Vec<SocketAddr>,
    current: Mutex<Current>,
}

struct Current {
    resolver: Arc<TokioResolver>,
    servers: Arc<[SocketAddr]>,
    stamp: Stamp,
    checked: Instant,
}

/// When the system's files were last written.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp([Option<SystemTime>; 2]);

impl Stamp {
    fn read() -> Self {
        Self([RESOLV_CONF, HOSTS].map(|file| fs::metadata(file).and_then(|m| m.modified()).ok()))
    }
}

impl Resolver {
    /// A resolver that asks these name servers, or those of the system when none are given.
    ///
    /// # Errors
    /// When the system's configuration is there but cannot be used.
    pub fn new(nameservers: &[SocketAddr]) -> Result<Self, String> {
        let current = Current::build(nameservers)?;
        Ok(Self { given: nameservers.to_vec(), current: Mutex::new(current) })
    }

    /// The name servers, in order.
    pub fn servers(&self) -> Arc<[SocketAddr]> {
        self.current().1
    }

    /// The name servers for people: `127.0.0.1:53, 192.0.2.53:53`.
    pub fn servers_text(&self) -> String {
        let servers: Vec<String> = self.servers().iter().map(ToString::to_string).collect();
        servers.join(", ")
    }

    fn current(&self) -> (Arc<TokioResolver>, Arc<[SocketAddr]>) {
        let now = clock::instant();
        // A panic while it was held leaves a complete value: it is only ever replaced whole.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(current.checked) >= RELOAD_EVERY {
            current.checked = now;
            if Stamp::read() != current.stamp {
                match Current::build(&self.given) {
                    Ok(new) => *current = new,
                    // Half-written: the old one goes on until the file is whole.
                    Err(error) => tracing::warn!(%error, "the resolver keeps its former configuration"),
                }
            }
        }
        (current.resolver.clone(), current.servers.clone())
    }
}

impl Current {
    fn build(given: &[SocketAddr]) -> Result<Self, String> {
        let stamp = Stamp::read();
        let (config, mut options) =
            if given.is_empty() { system()? } else { (with_servers(given), ResolverOpts::default()) };
        options.cache_size = 0;
        options.timeout = SERVER_MAX;
        options.attempts = 2;
        options.num_concurrent_reqs = SERVERS_AT_ONCE;
        let servers = servers_of(&config);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let resolver = builder.build().map_err(|e| format!("the resolver cannot be set up: {e}"))?;
        Ok(Self { resolver: Arc::new(resolver), servers: servers.into(), stamp, checked: clock::instant() })
    }
}

/// The name servers of the system, in order; the local machine's when none are configured (resolv.conf(5)).
///
/// # Errors
/// When `/etc/resolv.conf` is there but cannot be read.
pub fn system_nameservers() -> Result<Vec<SocketAddr>, String> {
    Ok(servers_of(&system()?.0))
}

fn servers_of(config: &ResolverConfig) -> Vec<SocketAddr> {
    let address = |server: &NameServerConfig| {
        let port = server.connections.first().map_or(53, |c| c.port);
        SocketAddr::new(server.ip, port)
    };
    config.name_servers().iter().map(address).collect()
}

fn with_servers(servers: &[SocketAddr]) -> ResolverConfig {
    let server = |address: &SocketAddr| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = address.port();
            connection
        });
        NameServerConfig::new(address.ip(), true, connections.into())
    };
    ResolverConfig::from_name_servers(servers.iter().map(server).collect())
}

/// resolv.conf(5): without the file, or without a name server in it, the one on the local machine is asked.
fn system() -> Result<(ResolverConfig, ResolverOpts), String> {
    let local = || (with_servers(&[SocketAddr::from((Ipv4Addr::LOCALHOST, 53))]), ResolverOpts::default());
    let text = match files::read(Path::new(RESOLV_CONF), RESOLV_CONF_BYTES_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(local()),
        Err(error) => return Err(format!("{RESOLV_CONF} cannot be read: {error}")),
    };
    if !String::from_utf8_lossy(&text).lines().any(|line| line.trim_start().starts_with("nameserver")) {
        return Ok(local());
    }
    hickory_resolver::system_conf::parse_resolv_conf(&text).map_err(|e| format!("{RESOLV_CONF} cannot be used: {e}"))
}

impl Attempt {
    /// The addresses of a host, in the order in which they should be tried: IPv6 and IPv4 in turn. An IP literal and
    /// `localhost` need no name server.
    ///
    /// # Errors
    /// When there is no address of the family, or the name servers answer with an error or not at all.
    pub async fn resolve(&mut self, host: &str) -> Result<Vec<IpAddr>, Reason> {
        self.phase(Phase::Resolve);
        let (resolver, servers) = self.net().resolver.current();
        let result = resolve(&resolver, &servers, host, self.family(), self.deadline()).await;
        match result {
            Ok((addresses, note)) => {
                self.end_phase();
                if let Some(note) = note {
                    self.note(note);
                }
                Ok(addresses)
            }
            Err((kind, text)) => Err(self.fail(kind, text)),
        }
    }
}

impl Resolver {
    /// As [`Attempt::resolve`], for a hook of a client that dials for itself: the error is a class and a text.
    ///
    /// # Errors
    /// As [`Attempt::resolve`].
    pub async fn lookup(
        &self,
        host: &str,
        family: Family,
        deadline: Option<Instant>,
    ) -> Result<Vec<IpAddr>, (Kind, String)> {
        let (resolver, servers) = self.current();
        resolve(&resolver, &servers, host, family, deadline).await.map(|(addresses, _)| addresses)
    }
}

type Resolved = Result<(Vec<IpAddr>, Option<String>), (Kind, String)>;

async fn resolve(
    resolver: &TokioResolver,
    servers: &[SocketAddr],
    host: &str,
    family: Family,
    deadline: Option<Instant>,
) -> Resolved {
    if let Some(fixed) = literal(host) {
        let addresses: Vec<IpAddr> = fixed.into_iter().filter(|ip| family.takes(ip)).collect();
        if addresses.is_empty() {
            return Err((Kind::NoAddress, format!("{host} is no {} address", family.word())));
        }
        return Ok((addresses, None));
    }
    let name = Name::from_str_relaxed(host).map_err(|e| (Kind::NoAddress, format!("`{host}` is no host name: {e}")))?;
    let begun = clock::instant();
    let budget = share(deadline, LOOKUP_SHARE, LOOKUP_MAX);
    let found = tokio::time::timeout(budget, ask(resolver, &name, family)).await.unwrap_or_default();
    match judged(host, family, found) {
        Verdict::Addresses(addresses) => {
            let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let note = format!("{host} is {} (by {})", list.join(", "), listed(servers));
            Ok((addresses, Some(note)))
        }
        Verdict::Failed(kind, text) => Err((kind, text)),
        Verdict::Silent(error) => {
            let waited = clock::instant().saturating_duration_since(begun);
            let alive = control(servers, share(deadline, CONTROL_SHARE, CONTROL_MAX)).await;
            Err(silence(host, servers, waited, error, alive))
        }
    }
}

/// Addresses that need no name server (RFC 6761, section 6.3, for `localhost`).
fn literal(host: &str) -> Option<Vec<IpAddr>> {
    if let Ok(address) = host.parse() {
        return Some(vec![address]);
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let local = name.eq_ignore_ascii_case("localhost");
    local.then(|| vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
}

/// A share of what the deadline leaves, at most `longest`.
fn share(deadline: Option<Instant>, share: f64, longest: Duration) -> Duration {
    deadline.map_or(longest, |at| at.saturating_duration_since(clock::instant()).mul_f64(share).min(longest))
}

fn listed(servers: &[SocketAddr]) -> String {
    let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
    servers.join(", ")
}

/// What each family's question came to; `None` while unanswered, or when it was not asked.
#[derive(Default)]
struct Found {
    v4: Option<Result<Vec<IpAddr>, NetError>>,
    v6: Option<Result<Vec<IpAddr>, NetError>>,
}

/// Asks for A and AAAA at the same time. Once one of them has brought addresses, the other has little time left.
async fn ask(resolver: &TokioResolver, name: &Name, family: Family) -> Found {
    let mut found = Found::default();
    if family != Family::Any {
        let record = if family == Family::V4 { RecordType::A } else { RecordType::AAAA };
        let answer = Some(one(resolver, name, record).await);
        match family {
            Family::V6 => found.v6 = answer,
            Family::V4 | Family::Any => found.v4 = answer,
        }
        return found;
    }
    let (v4, v6) = (one(resolver, name, RecordType::A), one(resolver, name, RecordType::AAAA));
    tokio::pin!(v4, v6);
    loop {
        let some =
            |answer: &Option<Result<Vec<IpAddr>, NetError>>| matches!(answer, Some(Ok(list)) if !list.is_empty());
        let enough = some(&found.v4) || some(&found.v6);
        tokio::select! {
            answer = &mut v4, if found.v4.is_none() => found.v4 = Some(answer),
            answer = &mut v6, if found.v6.is_none() => found.v6 = Some(answer),
            () = tokio::time::sleep(OTHER_FAMILY_MAX), if enough => return found,
            else => return found,
        }
    }
}

async fn one(resolver: &TokioResolver, name: &Name, record: RecordType) -> Result<Vec<IpAddr>, NetError> {
    let lookup = resolver.lookup(name.clone(), record).await?;
    let address = |data: &RData| match data {
        RData::A(a) => Some(IpAddr::from(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::from(aaaa.0)),
        _ => None,
    };
    Ok(lookup.answers().iter().filter_map(|record| address(&record.data)).collect())
}

/// What the answers of a lookup mean.
#[derive(Debug, PartialEq)]
enum Verdict {
    Addresses(Vec<IpAddr>),
    Failed(Kind, String),
    /// No name server answered; with what the network said, if it said anything.
    Silent(Option<String>),
}

fn judged(host: &str, family: Family, found: Found) -> Verdict {
    let addresses = |answer: &Option<Result<Vec<IpAddr>, NetError>>| match answer {
        Some(Ok(list)) => list.clone(),
        _ => Vec::new(),
    };
    let (mut v4, mut v6) = (addresses(&found.v4).into_iter(), addresses(&found.v6).into_iter());
    // IPv6 first, then in turn (RFC 8305, section 4).
    let mut all = Vec::new();
    loop {
        let pair = [v6.next(), v4.next()];
        if pair == [None, None] {
            break;
        }
        all.extend(pair.into_iter().flatten());
    }
    if !all.is_empty() {
        return Verdict::Addresses(all);
    }
    let (mut silent, mut said, mut negative) = (false, None, None);
    let asked = [(Family::V4, found.v4), (Family::V6, found.v6)];
    for (_, answer) in asked.into_iter().filter(|(one, _)| family == Family::Any || family == *one) {
        match answer {
            None | Some(Err(NetError::Timeout | NetError::NoConnections | NetError::Busy)) => silent = true,
            Some(Err(NetError::Io(error))) => {
                silent = true;
                said = Some(error.to_string());
            }
            Some(Err(error)) if error.is_nx_domain() => {
                negative.get_or_insert((Kind::NoAddress, format!("{host} does not exist (NXDOMAIN)")));
            }
            Some(Ok(_)) => {
                negative.get_or_insert((Kind::NoAddress, format!("{host} has no {} address", family.word())));
            }
            Some(Err(error)) if error.is_no_records_found() => {
                negative.get_or_insert((Kind::NoAddress, format!("{host} has no {} address", family.word())));
            }
            Some(Err(NetError::Dns(DnsError::ResponseCode(code)))) => {
                negative =
                    Some((Kind::ResolverError, format!("the name servers answer {host} with {}", code.to_str())));
            }
            Some(Err(error)) => {
                negative = Some((Kind::ResolverError, format!("the name servers answer {host} wrongly: {error}")));
            }
        }
    }
    match negative {
        // Half an answer is no verdict about the name, unless it says that the name does not exist at all.
        Some((Kind::NoAddress, text)) if silent && !text.ends_with("(NXDOMAIN)") => Verdict::Silent(said),
        Some((kind, text)) => Verdict::Failed(kind, text),
        None => Verdict::Silent(said),
    }
}

/// What it means that no name server answered, from what became of the control question.
fn silence(host: &str, servers: &[SocketAddr], waited: Duration, error: Option<String>, alive: bool) -> (Kind, String) {
    let list = listed(servers);
    let one = servers.len() == 1;
    let noun = if one { "name server" } else { "name servers" };
    // To a tenth of a second: how long exactly depends on the deadline and tells nothing.
    let span = TimeSpan(Duration::from_millis(u64::try_from(waited.as_millis()).unwrap_or(0) / 100 * 100));
    if alive {
        let others = if one { "it answers" } else { "they answer" };
        let text = format!("{noun} {list} did not answer for {host} within {span}, though {others} other questions");
        return (Kind::Timeout, text);
    }
    let what = match error {
        Some(error) => format!("cannot be asked ({error})"),
        None => format!("did not answer within {span}"),
    };
    (Kind::Own, format!("{noun} {list} {what}, nor a control question: the agent's own resolver does not work"))
}

/// Whether any of these servers answers a question that every resolver can: which are the root's name servers?
async fn control(servers: &[SocketAddr], longest: Duration) -> bool {
    let asked = servers.iter().map(|server| Box::pin(answers(*server)));
    let any = async {
        let mut running: FuturesUnordered<_> = asked.collect();
        while let Some(answered) = running.next().await {
            if answered {
                return true;
            }
        }
        false
    };
    tokio::time::timeout(longest, any).await.unwrap_or(false)
}

async fn answers(server: SocketAddr) -> bool {
    let id = u16::from_le_bytes(clock::random_bytes());
    let mut question = Message::new(id, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(Name::root(), RecordType::NS));
    let local: SocketAddr =
        if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let exchange = async {
        let socket = UdpSocket::bind(local).await?;
        socket.connect(server).await?;
        let question = question.to_vec().map_err(io::Error::other)?;
        socket.send(&question).await?;
        let mut answer = [0; CONTROL_BYTES_MAX];
        // Any answer will do, an error as well; what does not carry the question's id is somebody else's.
        loop {
            let read = socket.recv(&mut answer).await?;
            if read >= 12 && answer[..2] == id.to_be_bytes() && answer[2] & 0x80 != 0 {
                return io::Result::Ok(());
            }
        }
    };
    exchange.await.is_ok()
}

#[cfg(test)]
mod tests {
    use hickory_resolver::{net::NoRecords, proto::op::ResponseCode};

    use super::*;

    fn records(list: &[&str]) -> Option<Result<Vec<IpAddr>, NetError>> {
        Some(Ok(list.iter().map(|a| a.parse().expect("an address")).collect()))
    }

    fn none(code: ResponseCode) -> Option<Result<Vec<IpAddr>, NetError>> {
        Some(Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords::new(Query::default(), code)))))
    }

    fn code(code: ResponseCode) -> Option<Result<Vec<IpAddr>, NetError>> {
        Some(Err(NetError::Dns(DnsError::ResponseCode(code))))
    }

    #[test]
    fn answers_are_judged() {
        use Family::{Any, V4, V6};
        use Kind::{NoAddress, ResolverError};
        use ResponseCode::{NXDomain, NoError, Refused, ServFail};
        let failed = |kind, text: &str| Verdict::Failed(kind, text.into());
        let table = [
            (
                Any,
                records(&["192.0.2.1", "192.0.2.2"]),
                records(&["2001:db8::1"]),
                Verdict::Addresses(
                    ["2001:db8::1", "192.0.2.1", "192.0.2.2"].map(|a| a.parse().expect("an address")).into(),
                ),
            ),
            (
                Any,
                records(&["192.0.2.1"]),
                code(ServFail),
                Verdict::Addresses(vec!["192.0.2.1".parse().expect("an address")]),
            ),
            (Any, none(NXDomain), none(NXDomain), failed(NoAddress, "h does not exist (NXDOMAIN)")),
            (Any, none(NXDomain), None, failed(NoAddress, "h does not exist (NXDOMAIN)")),
            (Any, none(NoError), none(NoError), failed(NoAddress, "h has no IP address")),
            (Any, none(NoError), None, Verdict::Silent(None)),
            (V6, None, none(NoError), failed(NoAddress, "h has no IPv6 address")),
            (V4, records(&[]), None, failed(NoAddress, "h has no IPv4 address")),
            (V4, code(ServFail), None, failed(ResolverError, "the name servers answer h with Server Failure")),
            (Any, none(NoError), code(Refused), failed(ResolverError, "the name servers answer h with Query Refused")),
            (Any, None, None, Verdict::Silent(None)),
            (Any, Some(Err(NetError::Timeout)), None, Verdict::Silent(None)),
        ];
        for (n, (family, v4, v6, expected)) in table.into_iter().enumerate() {
            assert_eq!(judged("h", family, Found { v4, v6 }), expected, "row {n}");
        }
    }

    #[test]
    fn literals_need_no_name_server() {
        assert_eq!(literal("192.0.2.1"), Some(vec!["192.0.2.1".parse().expect("an address")]));
        assert_eq!(literal("::1"), Some(vec![Ipv6Addr::LOCALHOST.into()]));
        assert_eq!(literal("LocalHost.").map(|l| l.len()), Some(2));
        assert_eq!(literal("localhost.example.com"), None);
    }

    #[test]
    fn a_dead_resolver_is_the_agents_own_fault() {
        let servers = ["127.0.0.1:53".parse().expect("an address")];
        let waited = Duration::from_secs(2);
        let (kind, text) = silence("h", &servers, waited, None, false);
        assert_eq!(kind, Kind::Own);
        assert!(text.starts_with("name server 127.0.0.1:53 did not answer within 2s"), "{text}");
        let (kind, text) = silence("h", &servers, waited, None, true);
        assert_eq!(kind, Kind::Timeout);
        assert_eq!(text, "name server 127.0.0.1:53 did not answer for h within 2s, though it answers other questions");
    }
}
