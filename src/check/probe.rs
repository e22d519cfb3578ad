//! A plain probe as a check: one attempt, its deadline, its address families, and a fence around its bugs.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Answer, Ask, Context, Families, Settings, fenced, panicked};
use crate::{
    clock,
    observation::{Correction, Observation, Outcome, Reason},
    protocol::{
        Attempt, Boxed, Probe,
        wire::{Family, Line},
    },
    value::{CheckName, TimeSpan},
};

/// Asks one protocol's probe.
pub struct ProbeAsk {
    kind: &'static str,
    name: CheckName,
    probe: Box<dyn Probe>,
}

impl ProbeAsk {
    /// A check of this name that asks this probe.
    pub fn new(kind: &'static str, name: CheckName, probe: Box<dyn Probe>) -> Self {
        Self { kind, name, probe }
    }

    async fn one(&self, context: &Context, family: Family) -> Answer {
        let started = clock::instant();
        let timeout = context.settings.timeout;
        let mut cx = Attempt::new(context.net.clone(), family, context.at, started, context.explain);
        cx.set_deadline(started + timeout);
        let limited = tokio::time::timeout_at((started + timeout).into(), self.probe.probe(&mut cx));
        let verdict = match fenced(&self.name, limited).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) => Err(cx.overdue(timeout)),
            Err(text) => Err(panicked(&cx, &text)),
        };
        let (observation, transcript) = cx.finish(verdict, clock::instant(), context.settings.slow);
        Answer { observation, transcript }
    }

    async fn both(&self, context: &Context) -> Answer {
        let started = clock::instant();
        let v6 = self.one(context, Family::V6).await;
        let offset = clock::instant().saturating_duration_since(started);
        let v4 = self.one(context, Family::V4).await;
        merge(v6, v4, offset, started, clock::instant())
    }
}

impl Ask for ProbeAsk {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn target(&self) -> String {
        self.probe.target()
    }

    fn deadline(&self, settings: &Settings) -> Duration {
        match settings.ip {
            Families::Both => settings.timeout * 2,
            Families::Any | Families::Ipv4 | Families::Ipv6 => settings.timeout,
        }
    }

    fn attempt<'a>(&'a self, context: Context) -> Boxed<'a, Answer> {
        Box::pin(async move {
            match context.settings.ip {
                Families::Any => self.one(&context, Family::Any).await,
                Families::Ipv4 => self.one(&context, Family::V4).await,
                Families::Ipv6 => self.one(&context, Family::V6).await,
                Families::Both => self.both(&context).await,
            }
        })
    }

    fn afterwards<'a>(&'a self) -> Boxed<'a, Option<Correction>> {
        // Not `ready`, which would hold the place of a correction for as long as it is waited for.
        Box::pin(async { None })
    }
}

/// How bad an outcome is when two are one: a failure is certain, "could not tell" is not.
fn badness(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Ok => 0,
        Outcome::Slow => 1,
        Outcome::Unknown => 2,
        Outcome::Failed => 3,
    }
}

/// Both families as one observation: the worse outcome, a reason that names the family, each one's result in the
/// details. `offset` is when the second began.
fn merge(v6: Answer, v4: Answer, offset: Duration, started: Instant, ended: Instant) -> Answer {
    let result = |o: &Observation| match &o.reason {
        Some(reason) => format!("{}: {reason}", o.outcome),
        None => format!("{} in {}", o.outcome, TimeSpan(o.duration)),
    };
    let each = [("ipv6", result(&v6.observation)), ("ipv4", result(&v4.observation))];
    let worst = badness(v6.observation.outcome).max(badness(v4.observation.outcome));
    let reasons: Vec<(&str, Reason)> = [("IPv6", &v6.observation), ("IPv4", &v4.observation)]
        .into_iter()
        .filter(|(_, o)| badness(o.outcome) == worst)
        .filter_map(|(family, o)| Some((family, o.reason.clone()?)))
        .collect();
    let reason = reasons.first().map(|(_, first)| {
        let texts: Vec<String> = reasons.iter().map(|(family, r)| format!("{family}: {}", r.text)).collect();
        Reason::new(first.phase, first.kind, texts.join("; "))
    });
    let mut phases = v6.observation.phases.clone();
    phases.extend(v4.observation.phases.iter().cloned().map(|mut phase| {
        phase.start += offset;
        phase
    }));
    let mut transcript = v6.transcript;
    transcript.extend(v4.transcript.into_iter().map(|line| Line { offset: line.offset + offset, ..line }));
    let v6_is_worse = badness(v6.observation.outcome) > badness(v4.observation.outcome);
    let mut observation = if v6_is_worse { v6.observation } else { v4.observation };
    for (family, result) in each {
        observation.details.insert(family.into(), json!(result));
    }
    observation.reason = reason;
    observation.phases = phases;
    observation.duration = ended.saturating_duration_since(started);
    Answer { observation, transcript }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        observation::{Kind, Phase},
        protocol::{Net, wire::NetOptions},
    };

    /// What the probe under test does.
    #[derive(Clone, Copy)]
    enum Act {
        Ok,
        Hang,
        Panic,
        FailOnV6,
        FailOnBoth,
    }

    impl Probe for Act {
        fn target(&self) -> String {
            "act://".into()
        }
        fn probe<'a>(&'a self, cx: &'a mut Attempt) -> Boxed<'a, Result<(), Reason>> {
            Box::pin(async move {
                cx.phase(Phase::Login);
                match self {
                    Self::Ok => Ok(()),
                    Self::Hang => std::future::pending().await,
                    Self::Panic => panic!("an index out of bounds"),
                    Self::FailOnV6 if cx.family() == Family::V4 => Ok(()),
                    Self::FailOnV6 | Self::FailOnBoth => Err(cx.fail(Kind::Refused, "refused")),
                }
            })
        }
    }

    fn ask(act: Act, ip: Families, timeout: Duration) -> Observation {
        let nameservers = vec!["192.0.2.1:53".parse().expect("an address")];
        let net: Arc<Net> = Net::new(NetOptions { nameservers, ..NetOptions::default() }).expect("a net");
        let settings = Settings { timeout, slow: None, ip };
        let context = Context { net, at: clock::now(), settings, explain: true, wait_max: None };
        let ask = ProbeAsk::new("act", "a/b".parse().expect("a name"), Box::new(act));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(ask.attempt(context)).observation
    }

    #[test]
    fn a_deadline_names_the_phase_that_hung() {
        let o = ask(Act::Hang, Families::Any, Duration::from_millis(50));
        let reason = o.reason.expect("a failure has a reason");
        assert_eq!((o.outcome, reason.phase, reason.kind), (Outcome::Failed, Phase::Login, Kind::Timeout));
        assert!(reason.text.contains("within 50ms"), "{}", reason.text);
        assert_eq!(o.phases.len(), 1);
        assert!(o.phases[0].took >= Duration::from_millis(40));
    }

    #[test]
    fn a_panic_is_fenced() {
        let o = ask(Act::Panic, Families::Any, Duration::from_secs(5));
        let reason = o.reason.expect("an unknown has a reason");
        assert_eq!((o.outcome, reason.kind), (Outcome::Unknown, Kind::Own));
        assert!(reason.text.contains("an index out of bounds"), "{}", reason.text);
    }

    #[test]
    fn families_are_told_apart() {
        let five = Duration::from_secs(5);
        let o = ask(Act::FailOnV6, Families::Both, five);
        assert_eq!(o.outcome, Outcome::Failed);
        assert_eq!(o.reason.expect("a failure has a reason").text, "IPv6: refused");
        assert_eq!(o.details["ipv6"], "failed: login: refused");
        assert!(o.details["ipv4"].as_str().is_some_and(|t| t.starts_with("ok in")));
        assert_eq!(o.phases.len(), 2);
        let o = ask(Act::FailOnBoth, Families::Both, five);
        assert_eq!(o.reason.expect("a failure has a reason").text, "IPv6: refused; IPv4: refused");
        assert_eq!(ask(Act::FailOnV6, Families::Ipv4, five).outcome, Outcome::Ok);
        assert_eq!(ask(Act::Ok, Families::Both, five).reason, None);
    }
}
