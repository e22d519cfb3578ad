//! One attempt of a plain probe, by the library's own interface, dropped at its deadline as the runner does.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use bongsu::{
    clock,
    observation::{Observation, Outcome, Phase, Reason},
    options::Options,
    protocol::{
        self, Attempt, Net,
        wire::{Family, Line, NetOptions},
    },
};

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

/// How an attempt is made.
pub struct Probing<'a> {
    pub timeout: Duration,
    pub family: Family,
    pub nameservers: &'a [SocketAddr],
}

impl Default for Probing<'_> {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(5), family: Family::Any, nameservers: &[] }
    }
}

impl Probing<'_> {
    /// Builds the probe of this protocol from YAML and makes one attempt.
    pub fn run(&self, protocol: &str, yaml: &str) -> Seen {
        let value = serde_yaml::from_str(yaml).expect("well-formed YAML");
        let mut problems = Vec::new();
        let protocol = protocol::by_name(protocol).expect("a known protocol");
        let build = protocol.probe.expect("a protocol that can probe");
        let probe = build(&mut Options::new(&value, Vec::new(), Path::new("/"), &mut problems));
        let probe = probe.unwrap_or_else(|| panic!("{yaml}: {problems:?}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let nameservers = self.nameservers.to_vec();
            let net = Net::new(NetOptions { nameservers, ..NetOptions::default() }).expect("a resolver");
            net.warm();
            let started = Instant::now();
            let mut cx = Attempt::new(net, self.family, clock::now(), started, true);
            cx.set_deadline(started + self.timeout);
            let verdict = match tokio::time::timeout(self.timeout, probe.probe(&mut cx)).await {
                Ok(verdict) => verdict,
                Err(_) => Err(cx.overdue(self.timeout)),
            };
            let (observation, transcript) = cx.finish(verdict, Instant::now(), None);
            Seen { observation, transcript }
        })
    }
}

/// One attempt with the defaults.
pub fn probe(protocol: &str, yaml: &str) -> Seen {
    Probing::default().run(protocol, yaml)
}
