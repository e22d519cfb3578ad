//! What the protocols' own tests share: building a probe from YAML, running it as the runner does, scripted peers.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::Mutex,
    time::Duration,
};

use super::{Attempt, Net, Protocol, wire::Family, wire::Line, wire::NetOptions};
use crate::{
    clock,
    observation::{Observation, Outcome, Phase, Reason},
    options::{Options, Problem, Segment},
    value::{Masker, Secret},
};

/// A secret that no observation and no transcript may show.
pub const SECRET: &str = "hunter2-secret";

/// What an attempt showed.
#[derive(Debug)]
pub struct Seen {
    pub observation: Observation,
    pub transcript: Vec<Line>,
}

impl Seen {
    pub fn outcome(&self) -> Outcome {
        self.observation.outcome
    }

    pub fn reason(&self) -> &Reason {
        self.observation.reason.as_ref().unwrap_or_else(|| panic!("there is no reason: {self:?}"))
    }

    pub fn phases(&self) -> Vec<Phase> {
        self.observation.phases.iter().map(|p| p.phase).collect()
    }
}

/// The mistakes of a block of options, as `path: text`.
pub fn problems(protocol: &Protocol, yaml: &str) -> Vec<String> {
    let value = serde_yaml::from_str(yaml).expect("well-formed YAML");
    let mut problems = Vec::new();
    let build = protocol.probe.expect("a protocol that can probe");
    let built = build(&mut Options::new(&value, Vec::new(), Path::new("."), &mut problems));
    assert_eq!(built.is_some(), problems.is_empty(), "built, or mistakes told: {problems:?}");
    problems.iter().map(told).collect()
}

fn told(problem: &Problem) -> String {
    let step = |s: &Segment| match s {
        Segment::Key(key) => key.clone(),
        Segment::Index(index) => index.to_string(),
    };
    let path: Vec<String> = problem.path.iter().map(step).collect();
    format!("{}: {} ({})", path.join("."), problem.text, problem.hint.as_deref().unwrap_or_default())
}

/// What a scripted server has heard up to a probe's goodbye, which the probe does not see answered.
pub fn said_until(said: &Mutex<Vec<String>>, goodbye: &str) -> Vec<String> {
    let begun = clock::instant();
    loop {
        let said = said.lock().expect("no panic").clone();
        if said.last().is_some_and(|last| last == goodbye) || begun.elapsed() > Duration::from_secs(10) {
            return said;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Builds the probe and makes one attempt, dropped at its deadline as the runner does.
pub fn run(protocol: &Protocol, yaml: &str, timeout_ms: u64) -> Seen {
    run_with(protocol, yaml, timeout_ms, Family::Any, &[])
}

/// As [`run`], with a family and name servers.
pub fn run_with(protocol: &Protocol, yaml: &str, timeout_ms: u64, family: Family, nameservers: &[SocketAddr]) -> Seen {
    let value = serde_yaml::from_str(yaml).expect("well-formed YAML");
    let mut problems = Vec::new();
    let build = protocol.probe.expect("a protocol that can probe");
    let probe = build(&mut Options::new(&value, Vec::new(), Path::new("."), &mut problems));
    let probe = probe.unwrap_or_else(|| panic!("{yaml}: {problems:?}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let seen = runtime.block_on(async {
        let options = NetOptions { nameservers: nameservers.to_vec(), masker: Masker::new([Secret::new(SECRET)]) };
        let net = Net::new(options).expect("a resolver");
        let timeout = Duration::from_millis(timeout_ms);
        let started = clock::instant();
        let mut cx = Attempt::new(net, family, clock::now(), started, true);
        cx.set_deadline(started + timeout);
        let verdict = match tokio::time::timeout(timeout, probe.probe(&mut cx)).await {
            Ok(verdict) => verdict,
            Err(_) => Err(cx.overdue(timeout)),
        };
        let (observation, transcript) = cx.finish(verdict, clock::instant(), None);
        Seen { observation, transcript }
    });
    let all = format!("{seen:?}");
    assert!(!all.contains(SECRET), "a secret is shown: {all}");
    seen
}

/// A peer that handles one connection by this script, in a thread of its own.
pub fn serve(script: impl FnOnce(TcpStream) + Send + 'static) -> SocketAddr {
    serve_all(1, {
        let mut script = Some(script);
        move |stream| {
            if let Some(script) = script.take() {
                script(stream);
            }
        }
    })
}

/// A peer that handles so many connections, one after the other.
pub fn serve_all(connections: usize, mut script: impl FnMut(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound listener has an address");
    std::thread::spawn(move || {
        for _ in 0..connections {
            let Ok((stream, _)) = listener.accept() else { return };
            // A script that waits for a probe that is gone must not keep the thread for ever.
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            let _ = stream.set_write_timeout(Some(Duration::from_secs(5)));
            script(stream);
        }
    });
    address
}

/// A peer that accepts connections and never says a word.
pub fn silent() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound listener has an address");
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept() {
            kept.push(stream);
        }
    });
    address
}
