//! Hostile servers: every protocol of the registry, in every role it can play, against a server that turns at any
//! moment of the dialogue in any of the ways of [`ACTS`]. Whatever it does, an attempt ends by its deadline with the
//! right reason, and no secret is told. What differs between protocols is in their own tests.

mod binary;
mod certificates;
mod channels;
mod http;

use std::{
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bongsu::{
    check::{Answer, Context},
    observation::{Kind, Observation, Outcome, Phase},
    protocol::{Net, PROTOCOLS, Protocol, wire::NetOptions},
    value::{Masker, Secret},
};
use futures_util::{StreamExt, stream};
use serde_yaml::{Mapping, Value};

use crate::harness::{
    broker::{Broker, Manner},
    build,
    hostile::{ACTS, Act, Notes, Peer, Plan},
    polite::Login,
    probing::Probing,
    roles::{self, Role},
    settings,
};

/// What no text may hold.
const SECRET: &str = "hunter2-secret";

/// The deadline of each part of an attempt, unless it is looked at more closely.
const TIMEOUT: Duration = Duration::from_millis(500);

/// The deadline of an attempt that is made once more, by itself, because a busy machine may have spoilt the first.
const TIMEOUT_ALONE: Duration = Duration::from_secs(4);

/// How much later an attempt may end on a machine that is busy with many of them. What it is on an idle one is told by
/// `the_end_comes_with_the_deadline`.
const SLACK: Duration = Duration::from_secs(5);

/// Most answers of a dialogue that are looked at; the longest has a dozen.
const TURNS_MAX: usize = 30;

/// Attempts made at the same time: most of the time is spent waiting.
const AT_ONCE: usize = 12;

/// One attempt against one server.
#[derive(Clone)]
struct Case {
    protocol: &'static Protocol,
    role: Role,
    scheme: &'static str,
    plan: Plan,
    /// Further options.
    with: Mapping,
    /// The deadline of each part of the attempt.
    timeout: Duration,
    /// Whether what the server echoes may hold secrets, which the masker must find; without it our own words alone
    /// must hold none.
    masked: bool,
}

/// What came of it.
struct Ended {
    answer: Answer,
    took: Duration,
    /// The deadline that the check gave itself.
    deadline: Duration,
    turned: bool,
    answers: usize,
    secured: bool,
    heard: Vec<u8>,
}

impl Ended {
    fn observation(&self) -> &Observation {
        &self.answer.observation
    }

    fn kind(&self) -> Option<Kind> {
        self.observation().reason.as_ref().map(|reason| reason.kind)
    }

    /// Everything that could be rendered of it.
    fn rendered(&self) -> String {
        let name = "test/check".parse().expect("a name");
        let json = self.observation().to_json(&name, "here");
        format!("{:?}\n{json}\n{:#?}", self.observation(), self.answer.transcript)
    }
}

impl Case {
    fn new(protocol: &'static Protocol, role: Role, turn: usize, act: Act) -> Self {
        let plan = Plan { protocol: protocol.name, login: Login::Plain, turn, act, tls: None, by_command: false };
        let (scheme, masked) = (protocol.schemes[0], act == Act::Echo);
        Self { protocol, role, scheme, plan, with: Mapping::new(), timeout: TIMEOUT, masked }
    }

    fn name(&self) -> String {
        format!("{} as {:?}, turn {}, {:?}", self.scheme, self.role, self.plan.turn, self.plan.act)
    }

    /// Makes the attempt as a check does: a plain probe, or a delivery whose other side is a good broker.
    async fn run(&self) -> Ended {
        let peer = Peer::start(self.plan.clone());
        let place = format!("localhost:{}", peer.address.port());
        let mut options = roles::options(self.protocol, self.role, self.scheme, &place, SECRET);
        if let Some(options) = options.as_mapping_mut() {
            options.extend(self.with.clone());
        }
        let yaml = |value: &Value| serde_yaml::to_string(value).expect("YAML");
        let broker = Broker::start(Manner::Good);
        let other = serde_yaml::from_str(&format!("{{ mqtt: {{ url: 'mqtt://{}', topic: t }} }}", broker.address));
        let other: Value = other.expect("YAML");
        let own = Value::Mapping(Mapping::from_iter([(Value::from(self.protocol.name), options.clone())]));
        let (key, text) = match self.role {
            Role::Probe => (self.protocol.name, yaml(&options)),
            Role::Send => ("delivery", yaml(&delivery(own, other))),
            Role::Receive => ("delivery", yaml(&delivery(other, own))),
        };
        let settings = settings(self.timeout);
        let ask = build(key, &text, &settings);
        let masker = if self.masked { Masker::new([Secret::new(SECRET)]) } else { Masker::default() };
        let nameservers = vec![([192, 0, 2, 1], 53).into()];
        let net = Net::new(NetOptions { nameservers, masker }).expect("a net");
        net.warm();
        let context =
            Context { net, at: bongsu::clock::now(), settings: settings.clone(), explain: true, wait_max: None };
        let begun = Instant::now();
        let deadline = ask.deadline(&settings);
        let answer = tokio::time::timeout(deadline + SLACK, ask.attempt(context)).await;
        let took = begun.elapsed();
        let answer = answer.unwrap_or_else(|_| panic!("{}: no end {SLACK:?} after its deadline", self.name()));
        // What is left on the server and the goodbye have bounds of their own.
        drop(ask);
        let Notes { turned, answers, secured, heard, .. } = &*peer.notes;
        Ended {
            answer,
            took,
            deadline,
            turned: turned.load(SeqCst) > 0,
            answers: answers.load(SeqCst),
            secured: secured.load(SeqCst),
            heard: heard.lock().expect("nobody panics with it").clone(),
        }
    }
}

fn delivery(send: Value, receive: Value) -> Value {
    let times = [("slow", "250ms"), ("lost_after", "500ms")].map(|(k, v)| (Value::from(k), Value::from(v)));
    Value::Mapping(Mapping::from_iter(
        [(Value::from("send"), send), (Value::from("receive"), receive)].into_iter().chain(times),
    ))
}

/// Makes all attempts, several at once; in the order of the cases.
fn run_all(cases: Vec<Case>) -> Vec<(Case, Ended)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let running = stream::iter(cases).map(|case| async move {
            let ended = case.run().await;
            (case, ended)
        });
        running.buffered(AT_ONCE).collect().await
    })
}

/// The attempt as it was, or made once more by itself if it was not as expected.
fn settled(case: &Case, ended: Ended, expected: impl Fn(&Ended) -> bool) -> Ended {
    if expected(&ended) {
        return ended;
    }
    let case = Case { timeout: TIMEOUT_ALONE, ..case.clone() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(case.run())
}

/// The protocols and roles of the registry whose servers listen on a port.
fn played() -> impl Iterator<Item = (&'static Protocol, Role)> {
    // The system's own ICMP answers pings; no program listens for them.
    let listening = PROTOCOLS.iter().copied().filter(|p| p.name != "icmp");
    listening.flat_map(|p| roles::ROLES.into_iter().filter(|role| roles::can(p, *role)).map(move |role| (p, role)))
}

/// The classes of reasons that an act may have, whoever it is done to.
fn fitting(case: &Case) -> Vec<Kind> {
    // Datagrams that are no answer may be anybody's: the real one is still waited for.
    let patient = (case.protocol.name == "dns").then_some(Kind::Timeout);
    kinds(case.plan.act).iter().copied().chain(patient).collect()
}

fn kinds(act: Act) -> &'static [Kind] {
    use Kind::{Closed, Handshake, Protocol, Rejected, Reset, Timeout, TooLarge, Unexpected};
    match act {
        Act::Silence | Act::Drip | Act::Half => &[Timeout],
        // A protocol whose answer has an end of its own tells what was missing.
        Act::Close => &[Closed, Unexpected, Handshake],
        Act::HalfAndClose => &[Closed, Protocol, Unexpected, Handshake],
        Act::Reset => &[Reset, Closed, Handshake],
        Act::EndlessLine | Act::EndlessLines | Act::EndlessLargeLines => {
            &[TooLarge, Protocol, Unexpected, Rejected, Handshake, Timeout]
        }
        Act::Garbage | Act::EndlessGarbage | Act::Echo => {
            &[Protocol, TooLarge, Unexpected, Rejected, Handshake, Timeout, Closed]
        }
        Act::Good | Act::TlsAlert | Act::PlainText | Act::Say(_) => &[],
    }
}

/// What holds for every attempt.
fn check(case: &Case, ended: &Ended) {
    let (name, o) = (case.name(), ended.observation());
    assert_ne!(o.outcome, Outcome::Unknown, "{name}: {o:?}");
    let rendered = ended.rendered();
    for secret in [SECRET.into(), STANDARD.encode(SECRET), STANDARD.encode(format!("\0probe\0{SECRET}"))] {
        assert!(!rendered.contains(&secret), "{name}: {secret} is told: {rendered}");
    }
    for line in &ended.answer.transcript {
        assert!(line.text.chars().count() <= 1_000, "{name}: {line:?}");
    }
    assert!(ended.answer.transcript.len() <= 400, "{name}");
    if let Some(reason) = &o.reason {
        assert!(!reason.text.is_empty() && reason.text.chars().count() <= 400, "{name}: {reason:?}");
        // A reset may come with the last packet of the connection's making.
        let connected = !matches!(reason.phase, Phase::Resolve | Phase::Connect);
        assert!(connected || (case.plan.act, reason.kind) == (Act::Reset, Kind::Reset), "{name}: {reason:?}");
    }
}

#[test]
fn whatever_a_server_does_at_its_first_word_is_told() {
    let mut cases = Vec::new();
    for (protocol, role) in played() {
        // A handshake is all that `tls` asks for; it has a test of its own.
        if protocol.name != "tls" {
            cases.extend(ACTS.map(|act| Case::new(protocol, role, 0, act)));
        }
    }
    for (case, ended) in run_all(cases) {
        let name = case.name();
        let fits = |ended: &Ended| ended.turned && ended.kind().is_some_and(|kind| fitting(&case).contains(&kind));
        let ended = settled(&case, ended, fits);
        check(&case, &ended);
        assert!(fits(&ended), "{name}: {}", ended.rendered());
        assert_eq!(ended.observation().outcome, Outcome::Failed, "{name}: {}", ended.rendered());
    }
}

#[test]
fn whatever_a_server_does_in_mid_dialogue_is_told() {
    let mut goods = Vec::new();
    for (protocol, role) in played().filter(|(p, _)| p.name != "tls") {
        goods.push(Case { timeout: TIMEOUT_ALONE, ..Case::new(protocol, role, TURNS_MAX, Act::Good) });
    }
    let mut cases = Vec::new();
    for (case, ended) in run_all(goods) {
        // Whoever adds a protocol adds its well-behaved server, so that it is tested beyond its first word.
        assert!(ended.answers > 0, "{}: tests/harness/polite.rs has no server that answers", case.name());
        let expected = if case.role == Role::Probe { Outcome::Ok } else { Outcome::Failed };
        let ended = settled(&case, ended, |ended| ended.observation().outcome == expected);
        assert_eq!(ended.observation().outcome, expected, "{}: {}", case.name(), ended.rendered());
        check(&case, &ended);
        for turn in 1..ended.answers {
            cases.extend(ACTS.map(|act| Case::new(case.protocol, case.role, turn, act)));
        }
    }
    let count = cases.len();
    let all = run_all(cases);
    let mut settled_all = Vec::new();
    for (case, ended) in all {
        let fits = |ended: &Ended| {
            ended.kind().is_none_or(|kind| {
                // A message that was perhaps taken and never came.
                let undelivered = case.role != Role::Probe && matches!(kind, Kind::Lost | Kind::Uncertain);
                ended.turned && (undelivered || fitting(&case).contains(&kind))
            })
        };
        let ended = settled(&case, ended, fits);
        check(&case, &ended);
        assert!(fits(&ended), "{}: {}", case.name(), ended.rendered());
        settled_all.push((case, ended));
    }
    let all = settled_all;
    // Until its verdict, no server gets away with silence; after it, nothing that it does matters.
    for (case, ended) in all.iter().filter(|(case, _)| case.role == Role::Probe && case.plan.act == Act::Silence) {
        let o = ended.observation();
        let others = all.iter().filter(|(other, _)| {
            (other.scheme, other.role, other.plan.turn) == (case.scheme, case.role, case.plan.turn)
                && matches!(other.plan.act, Act::Half | Act::Close | Act::Reset)
        });
        for (other, seen) in others {
            assert_eq!(seen.observation().outcome, o.outcome, "{}: {:?}", other.name(), seen.observation());
        }
    }
    println!("{count} attempts, each against a server that turned in mid-dialogue");
}

#[test]
fn the_end_comes_with_the_deadline() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let mut late = Vec::new();
    for (protocol, role) in played().filter(|(p, role)| p.name != "tls" && *role == Role::Probe) {
        for act in [Act::Silence, Act::Drip, Act::EndlessLines, Act::EndlessGarbage] {
            // One by one: this is about the attempt, not about how busy the machine is.
            let case = Case::new(protocol, role, 0, act);
            let ended = runtime.block_on(case.run());
            let over = ended.took.saturating_sub(ended.deadline);
            assert!(over < SLACK, "{}: {over:?}", case.name());
            late.push((over, case.name()));
        }
    }
    late.sort();
    let (over, name) = late.last().expect("there are protocols");
    println!("{} attempts, the latest ended {:.1} ms after its deadline: {name}", late.len(), over.as_secs_f64() * 1e3);
}

#[test]
fn a_hostile_name_server_ends_nothing_but_the_lookup() {
    for act in [Act::Silence, Act::Half, Act::Garbage, Act::EndlessGarbage, Act::Echo, Act::Close, Act::Reset] {
        let plan = Plan { protocol: "dns", login: Login::Plain, turn: 0, act, tls: None, by_command: false };
        let peer = Peer::start(plan);
        let probing = Probing { timeout: TIMEOUT, nameservers: &[peer.address], ..Probing::default() };
        let begun = Instant::now();
        let seen = probing.run("tcp", "url: tcp://mail.example.com:25");
        assert!(begun.elapsed() < TIMEOUT + SLACK, "{act:?}: {:?}", begun.elapsed());
        assert!(peer.notes.turned.load(SeqCst) > 0, "{act:?}: the name server was asked");
        assert_eq!(seen.reason().phase, Phase::Resolve, "{act:?}: {seen:?}");
        let kind = seen.reason().kind;
        match act {
            // A dead resolver is the agent's own trouble and says nothing about the target.
            Act::Silence | Act::Close | Act::Reset => {
                assert_eq!((seen.outcome(), kind), (Outcome::Unknown, Kind::Own), "{act:?}: {seen:?}");
            }
            // One that answers, if wrongly, is alive.
            _ => assert!(matches!(kind, Kind::ResolverError | Kind::Own), "{act:?}: {seen:?}"),
        }
    }
}

#[test]
fn answers_to_challenges_are_not_told() {
    let mut cases = Vec::new();
    for (protocol, role) in played().filter(|(p, _)| ["smtp", "imap", "pop3"].contains(&p.name)) {
        let mut case = Case::new(protocol, role, TURNS_MAX, Act::Good);
        case.plan.login = Login::Cram;
        // It is not chosen unasked.
        case.with.insert("auth".into(), "cram-md5".into());
        cases.push(case.clone());
        case.plan.act = Act::Echo;
        cases.extend((1..6).map(|turn| Case { plan: Plan { turn, ..case.plan.clone() }, ..case.clone() }));
    }
    for (case, ended) in run_all(cases) {
        check(&case, &ended);
        let heard = String::from_utf8_lossy(&ended.heard).into_owned();
        // `probe`, a space and a digest.
        let answer = heard.lines().find(|line| line.starts_with("cHJvYmUg"));
        assert!(answer.is_some() || case.plan.act == Act::Echo, "{}: {heard}", case.name());
        if let Some(answer) = answer.filter(|_| case.plan.act == Act::Good) {
            assert!(!ended.rendered().contains(answer), "{}: {}", case.name(), ended.rendered());
        }
    }
}
