//! What is fuzzed: one function for each kind of bytes that come from outside. `tests/fuzz.rs` runs them on stable Rust
//! within the test run; the files in `fuzz_targets` hand them to libFuzzer. A target panics when something is wrong.

use std::{
    fs,
    hash::{DefaultHasher, Hasher},
    io,
    path::Path,
    pin::{Pin, pin},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bongsu::{
    check, clock,
    config::{self, Environment},
    delivery::tracer::{self, CheckKey, Identity, Key},
    notify::CHANNEL_KINDS,
    observation::Reason,
    options::Options,
    protocol::{
        self, Attempt, Carries, PROTOCOLS, Protocol,
        sasl::{Exchange, Mechanism},
        wire::{Family, NetOptions, Stream},
    },
    schedule::Cron,
    value::{CheckName, Masker, Name, Ratio, Secret, TimeSpan, Timestamp},
    web::control::{Control, Refusal, Reloaded, StatusReport, Taken, Tested},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[path = "../tests/harness/roles.rs"]
mod roles;

use roles::{Built, ROLES, Role};

/// Calls a macro with the names of all targets.
#[macro_export]
macro_rules! each_target {
    ($do:ident) => {
        $do! {
            config, options, dialogue, dns, http, icmp, imap, mail, mqtt, pop3, sasl, smtp, websocket,
            webhook_reply, template, tracer, time, control, columns
        }
    };
}

/// What must never be shown.
const SECRET: &str = "hunter2-secret";

// ---------------------------------------------------------------------------------------------------------------
// Configuration

struct Surroundings {
    secret: String,
}

impl Surroundings {
    /// With a secret that this input cannot hold. A fuzzer sees what its input is compared with, and tries that.
    fn of(data: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(data);
        Self { secret: format!("{SECRET}-{:016x}", hasher.finish()) }
    }
}

impl Environment for Surroundings {
    fn variable(&self, name: &str) -> Option<String> {
        (name.len() < 30).then(|| self.secret.clone())
    }
    fn read(&self, _: &Path, _: usize) -> io::Result<Vec<u8>> {
        Ok(self.secret.clone().into())
    }
    fn exists(&self, _: &Path) -> bool {
        false
    }
    fn host_name(&self) -> Option<String> {
        Some("host-1.example.com".into())
    }
}

/// `config.yaml`, and after a line `%%%` a file of checks.
pub fn config(data: &[u8]) {
    static DIRECTORY: OnceLock<Mutex<tempfile::TempDir>> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let directory = made.expect("a scratch directory");
        fs::create_dir(directory.path().join("checks")).expect("own directory");
        Mutex::new(directory)
    });
    let directory = directory.lock().unwrap_or_else(PoisonError::into_inner);
    let between = b"\n%%%\n";
    let at = data.windows(between.len()).position(|window| window == between);
    let (main, checks) = at.map_or((data, &[][..]), |at| (&data[..at], &data[at + between.len()..]));
    fs::write(directory.path().join("config.yaml"), main).expect("own directory");
    fs::write(directory.path().join("checks/a.yaml"), checks).expect("own directory");
    let surroundings = Surroundings::of(data);
    let secret = surroundings.secret.as_str();
    match config::load(directory.path(), &surroundings) {
        Ok(config) => {
            let _ = config.summary();
            for check in &config.checks {
                assert!(!check.fingerprint.contains(secret), "{}", check.fingerprint);
                // A host may come from the environment; whoever shows it masks it.
                assert!(!config.masker.mask(&check.ask.target()).contains(secret));
            }
        }
        Err(mistakes) => {
            assert!(!mistakes.mistakes.is_empty());
            let told = mistakes.to_string();
            assert!(!told.contains(secret), "a secret is told: {told}");
        }
    }
    let _ = config::places(directory.path(), &surroundings);
}

/// The options of a protocol, a kind of check or a kind of channel, named by the first line (`imap receive`, `delivery`,
/// `webhook`). Dialogue scripts, URLs, expectations and templates stand in them.
pub fn options(data: &[u8]) {
    let Some((first, yaml)) = headed(data) else { return };
    let Ok(value) = serde_yaml::from_slice(yaml) else { return };
    if let Some((protocol, role)) = role(first) {
        match roles::build(protocol, role, &value) {
            Ok(Built::Probe(probe)) => assert!(!probe.target().is_empty()),
            Ok(Built::Send(sender)) => assert!(!sender.target().is_empty()),
            Ok(Built::Receive(receiver)) => assert!(!receiver.target().is_empty()),
            Err(problems) => assert!(!problems.is_empty(), "refused without a word"),
        }
        return;
    }
    let mut problems = Vec::new();
    let mut read = Options::new(&value, Vec::new(), Path::new("/nonexistent"), &mut problems);
    let built = if let Some(kind) = CHANNEL_KINDS.iter().find(|kind| kind.name == first) {
        (kind.build)(&mut read).map(|channel| channel.target())
    } else if let Some(kind) = check::KINDS.iter().find(|kind| kind.name == first) {
        let settings = check::Settings { timeout: Duration::from_secs(5), slow: None, ip: check::Families::Any };
        let name = "a/b".parse().expect("a good name");
        (kind.build)(&mut read, &name, &settings).map(|ask| ask.target())
    } else {
        return;
    };
    assert_eq!(built.is_some(), problems.is_empty(), "built, or mistakes told: {problems:?}");
}

/// The first line, and the rest.
fn headed(data: &[u8]) -> Option<(&str, &[u8])> {
    let end = data.iter().position(|byte| *byte == b'\n')?;
    Some((std::str::from_utf8(&data[..end]).ok()?, &data[end + 1..]))
}

/// `imap receive`: a protocol and a role it can play.
fn role(text: &str) -> Option<(&'static Protocol, Role)> {
    let mut words = text.split(' ');
    let protocol = protocol::by_name(words.next()?)?;
    let role = match words.next()? {
        "probe" => Role::Probe,
        "send" => Role::Send,
        "receive" => Role::Receive,
        _ => return None,
    };
    roles::can(protocol, role).then_some((protocol, role))
}

// ---------------------------------------------------------------------------------------------------------------
// What servers say

/// Speaks these bytes and then closes; reads whatever it is told.
struct Scripted {
    bytes: Arc<[u8]>,
    at: usize,
    /// How many bytes come at once.
    piece: usize,
}

impl AsyncRead for Scripted {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let end = self.bytes.len().min(self.at + self.piece.min(room.remaining()));
        room.put_slice(&self.bytes[self.at..end]);
        self.at = end;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Scripted {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What a future comes to without waiting. The stream above is always ready, so one that waits does so for a timer,
/// which its caller's deadline would end.
fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    // Channels within a session may want to be asked more than once.
    (0..64).find_map(|_| match future.as_mut().poll(&mut context) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    })
}

/// A whole session with a server of any protocol, in memory. The first line names the protocol, the role, and in pieces
/// of how many bytes the rest comes (`imap receive 7`).
pub fn dialogue(data: &[u8]) {
    /// Most messages taken from one server.
    const TAKEN_MAX: usize = 200;
    let Some((first, script)) = headed(data) else { return };
    let Some((protocol, role)) = role(first) else { return };
    let Some(built) = played(protocol, role) else { return };
    let piece = first.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(usize::MAX).max(1);
    *SCRIPT.lock().unwrap_or_else(PoisonError::into_inner) = Some((script.into(), piece));
    let (at, started) = (clock::now(), clock::instant());
    let mut cx = Attempt::new(net(), Family::Any, at, started, true);
    let _entered = runtime().enter();
    let verdict = match built {
        Built::Probe(probe) => at_once(probe.probe(&mut cx)),
        Built::Send(sender) => at_once(async {
            let mut session = sender.open(&mut cx).await?;
            let sent = session.send(&mut cx, "text beyond ASCII: 봉수\n.\nFrom x".as_bytes()).await;
            let _ = (session.message_left(), session.left_out());
            session.close(&mut cx).await;
            sent.map_err(|failure| failure.reason)
        }),
        Built::Receive(receiver) => at_once(async {
            let mut session = receiver.open(&mut cx).await?;
            let mut taken = Vec::new();
            let ended = loop {
                match session.next().await {
                    Ok(arrival) if taken.len() < TAKEN_MAX => {
                        arrival.handle.into_iter().for_each(|handle| session.discard(handle));
                        taken.push(arrival);
                    }
                    Ok(_) => break Ok(()),
                    Err(reason) => break Err(reason),
                }
            };
            session.close().await;
            ended
        }),
    };
    let verdict: Result<(), Reason> = verdict.unwrap_or_else(|| Err(cx.overdue(Duration::from_secs(5))));
    let (observation, transcript) = cx.finish(verdict, clock::instant(), None);
    let told = format!("{observation:?} {transcript:?}");
    assert!(!told.contains(SECRET), "a secret is told: {told}");
}

/// What the server says, and in pieces of how many bytes.
static SCRIPT: Mutex<Option<(Arc<[u8]>, usize)>> = Mutex::new(None);

/// A net on which every server says it.
fn net() -> Arc<protocol::Net> {
    static NET: OnceLock<Arc<protocol::Net>> = OnceLock::new();
    let connection = || {
        let script = SCRIPT.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (bytes, piece) = script.expect("there is a script before there is a connection");
        Box::new(Scripted { bytes, at: 0, piece }) as Stream
    };
    let made = || {
        let options =
            NetOptions { nameservers: vec![([192, 0, 2, 1], 53).into()], masker: Masker::new([Secret::new(SECRET)]) };
        protocol::Net::standing_in(options, connection).expect("a net")
    };
    NET.get_or_init(made).clone()
}

/// Every role of every protocol that dials a stream, made once.
fn played(protocol: &Protocol, role: Role) -> Option<&'static Built> {
    static ALL: OnceLock<Vec<(&'static str, Role, Built)>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        // A client of HTTP and packets of ICMP go other ways than the one dialer; of TLS, the handshake is not ours.
        let dialed = PROTOCOLS.iter().filter(|p| !["http", "icmp", "tls"].contains(&p.name));
        let roles =
            dialed.flat_map(|p| ROLES.into_iter().filter(|role| roles::can(p, *role)).map(move |role| (*p, role)));
        roles
            .map(|(protocol, role)| {
                let mut options = roles::options(protocol, role, protocol.schemes[0], "127.0.0.1:9", SECRET);
                if protocol.name == "dns"
                    && let Some(options) = options.as_mapping_mut()
                {
                    options.insert("over".into(), "tcp".into());
                }
                let built = roles::build(protocol, role, &options);
                let built =
                    built.unwrap_or_else(|problems| panic!("{} {role:?} {options:?}: {problems:?}", protocol.name));
                (protocol.name, role, built)
            })
            .collect()
    });
    all.iter().find(|(name, its, _)| (*name, *its) == (protocol.name, role)).map(|(.., built)| built)
}

fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"))
}

pub fn dns(data: &[u8]) {
    protocol::dns::fuzz::answer(data);
}

pub fn http(data: &[u8]) {
    protocol::http::fuzz::answer(data);
}

pub fn icmp(data: &[u8]) {
    protocol::icmp::fuzz::packet(data);
}

pub fn imap(data: &[u8]) {
    protocol::imap::fuzz::answers(data);
}

pub fn mqtt(data: &[u8]) {
    protocol::mqtt::fuzz::packets(data);
}

pub fn pop3(data: &[u8]) {
    protocol::pop3::fuzz::answers(data);
}

pub fn smtp(data: &[u8]) {
    protocol::smtp::fuzz::replies(data);
}

pub fn websocket(data: &[u8]) {
    protocol::websocket::fuzz::answers(data);
}

/// Challenges, one in each line, to each mechanism.
pub fn sasl(data: &[u8]) {
    let all = [
        Mechanism::Plain,
        Mechanism::Login,
        Mechanism::CramMd5,
        Mechanism::ScramSha1,
        Mechanism::ScramSha256,
        Mechanism::XOAuth2,
        Mechanism::OAuthBearer,
    ];
    for mechanism in all {
        let password = Secret::new(SECRET);
        let Ok(mut exchange) = Exchange::new(mechanism, "user", &password, "fyko+d2lbbFgONRv9qkxdawL") else {
            continue;
        };
        let _ = exchange.initial();
        for challenge in data.split(|byte| *byte == b'\n') {
            if let Err(text) = exchange.respond(challenge) {
                assert!(!text.contains(SECRET));
                break;
            }
        }
        let scram = matches!(mechanism, Mechanism::ScramSha1 | Mechanism::ScramSha256);
        // The server has to prove that it knows the password, which no input holds.
        assert!(exchange.finish().is_err() || !scram);
        let _ = exchange.complaint();
    }
}

/// A mail: its headers, its parts, its path, and whether it is a bounce.
pub fn mail(data: &[u8]) {
    use protocol::mail::parse;
    let _ = parse::is_worth_reading(data);
    let read = parse::read(data);
    let (key, check) = whose();
    let _ = tracer::recognise(&key, check, &read.payload);
}

// ---------------------------------------------------------------------------------------------------------------
// Messages, alerts

fn whose() -> (Key, CheckKey) {
    let key = Key::new(&[7; 32]);
    let name: CheckName = "mail/round-trip".parse().expect("a good name");
    let check = CheckKey::new(&key, &name);
    (key, check)
}

/// What came in, as it is and in the place of a sample of a real tracer.
pub fn tracer(data: &[u8]) {
    let (key, check) = whose();
    let seen = tracer::recognise(&key, check, data);
    let identity = Identity { check, sequence: 3, sent_at: Timestamp::from_millis(1_790_000_000_123), nonce: 0xfeed };
    let carries = Carries { unicode: true, lines: true, line_bytes_max: 1 << 16, bytes_max: 1 << 16 };
    let sent = tracer::compose(&key, &identity, carries).payload;
    if let tracer::Seen::Ours(found) = seen {
        // Nobody else has the key: it is one of the corpus.
        assert_eq!(found.identity.check, check);
    }
    let at = data.first().map_or(0, |byte| usize::from(*byte) * sent.len() / 256);
    let changed = [&sent[..at], data, &sent[at..]].concat();
    let _ = tracer::recognise(&key, check, &changed);
    let _ = tracer::compare(&String::from_utf8_lossy(&sent), data);
}

pub fn webhook_reply(data: &[u8]) {
    bongsu::notify::webhook::fuzz::reply(data);
}

pub fn template(data: &[u8]) {
    bongsu::notify::webhook::fuzz::template(data);
}

// ---------------------------------------------------------------------------------------------------------------
// Small texts

/// Time spans, shares, instants, names and cron lines.
pub fn time(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(span) = text.parse::<TimeSpan>() {
        assert!(span.0 <= TimeSpan::MAX);
        let shown = span.to_string();
        let again: TimeSpan = shown.parse().unwrap_or_else(|e| panic!("{text}: {shown}: {e}"));
        assert!(again.0 <= span.0, "{text}: {shown}");
    }
    if let Ok(ratio) = text.parse::<Ratio>() {
        assert!((0.0..=1.0).contains(&ratio.0));
    }
    if let Ok(name) = text.parse::<Name>() {
        assert_eq!(name.as_str(), text);
    }
    if let Ok(name) = text.parse::<CheckName>() {
        assert_eq!(format!("{}/{}", name.service(), name.check()), text);
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        let _ = (at.to_string(), at.to_seconds_text());
    }
    for zone in [chrono_tz::Tz::UTC, chrono_tz::Tz::Asia__Seoul, chrono_tz::Tz::America__New_York] {
        match Cron::parse(&text, zone) {
            Ok(cron) => {
                // The night in which clocks go forward in New York.
                let mut at = Timestamp::from_millis(1_772_953_200_000);
                for _ in 0..4 {
                    let Some(next) = cron.next(at) else { break };
                    assert!(next > at, "{text}: {next} is not after {at}");
                    at = next;
                }
            }
            Err(error) => assert!(!error.is_empty() && error.chars().count() < 400, "{error}"),
        }
    }
}

pub fn columns(data: &[u8]) {
    bongsu::store::fuzz::columns(data);
}

// ---------------------------------------------------------------------------------------------------------------
// The control API

struct Agent;

impl Control for Agent {
    fn status(&self) -> protocol::Boxed<'_, StatusReport> {
        unreachable!("only requests with a body are made")
    }
    fn acknowledge(
        &self,
        _: bongsu::incident::IncidentId,
        by: String,
        note: String,
    ) -> protocol::Boxed<'_, Result<Taken, Refusal>> {
        assert!(!by.is_empty() && !(by + &note).contains('\n'));
        Box::pin(std::future::ready(Ok(Taken::default())))
    }
    fn note(
        &self,
        _: bongsu::incident::IncidentId,
        by: String,
        text: String,
    ) -> protocol::Boxed<'_, Result<Taken, Refusal>> {
        assert!(!by.is_empty() && !text.is_empty() && !text.contains('\n'));
        Box::pin(std::future::ready(Ok(Taken::default())))
    }
    fn test_channel(&self, name: Name) -> protocol::Boxed<'_, Result<Tested, Refusal>> {
        Box::pin(std::future::ready(Err(Refusal::NotFound(name.to_string()))))
    }
    fn reload(self: std::sync::Arc<Self>) -> protocol::Boxed<'static, Result<Reloaded, Refusal>> {
        Box::pin(std::future::ready(Ok(Reloaded::default())))
    }
    fn metrics(&self) -> String {
        String::new()
    }
}

/// A request (its path, a line end, its body), and the daemon's answer as a command reads it.
pub fn control(data: &[u8]) {
    use tower::ServiceExt;
    if let Ok(report) = serde_json::from_slice::<StatusReport>(data) {
        let _ = (report.counts(), serde_json::to_string(&report).expect("it can be written"));
    }
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let path = String::from_utf8_lossy(&data[..at]).into_owned();
    let body = axum::body::Body::from(data.get(at + 1..).unwrap_or_default().to_vec());
    let Ok(request) = axum::http::Request::post(path).body(body) else { return };
    let router = bongsu::web::control::router(Arc::new(Agent));
    let response = at_once(router.oneshot(request)).expect("nothing is waited for").expect("it cannot fail");
    assert!(response.status().as_u16() < 500, "{}", response.status());
}
