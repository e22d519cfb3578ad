//! What is watched: when it is really in trouble, and how it answers.

use std::{collections::VecDeque, time::Duration};

use bongsu::observation::{Kind, Observation, Outcome, Phase, Reason};

use super::{
    Rates,
    sites::{Site, Sites},
    time::Ms,
};

/// How something is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ill {
    /// Connections are refused.
    Refused,
    /// Nothing answers.
    Silent,
    /// It answers, and says no.
    Rejecting,
    /// Half of what is asked is lost.
    Lossy,
    /// It answers late.
    Slow,
}

impl Ill {
    /// Whether nothing gets through while it lasts.
    pub fn is_whole(self) -> bool {
        matches!(self, Self::Refused | Self::Silent | Self::Rejecting)
    }
}

/// A stretch of trouble, in true time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// How it is broken.
    pub ill: Ill,
    /// Since when.
    pub from: Ms,
    /// Until when.
    pub to: Ms,
}

/// Single faults are remembered for as long as any window of the detection reaches.
const FAULTS_KEPT: usize = 64;

/// One target.
#[derive(Default)]
pub struct Target {
    /// The latest trouble; it may be over, or lie ahead.
    pub trouble: Option<Trouble>,
    /// When the trouble before it was over.
    pub mended_at: Option<Ms>,
    /// Single faults, by when they were put in.
    faults: VecDeque<Ms>,
    /// When an attempt last began that failed.
    pub failed_at: Option<Ms>,
    /// Whether the agent's own network is cut.
    pub cut: bool,
    /// Until when nobody could have judged it, for a reason of its own.
    pub disturbed: Ms,
}

impl Target {
    /// The trouble of now, if any.
    pub fn ill(&self, now: Ms) -> Option<Ill> {
        self.trouble.filter(|t| (t.from..t.to).contains(&now)).map(|t| t.ill)
    }

    /// Notes a single fault.
    pub fn fault(&mut self, now: Ms) {
        if self.faults.len() == FAULTS_KEPT {
            self.faults.pop_front();
        }
        self.faults.push_back(now);
    }

    /// Whether there was trouble since then.
    pub fn was_ill_since(&self, since: Ms, now: Ms) -> bool {
        self.trouble.is_some_and(|t| t.from <= now && t.to >= since)
    }

    /// How many single faults there were since then.
    pub fn faults_since(&self, since: Ms) -> usize {
        self.faults.iter().filter(|at| **at >= since).count()
    }
}

/// How long an attempt takes that is answered.
const ANSWERED: Duration = Duration::from_millis(40);

/// How long one takes that is slow.
const SLOWLY: Duration = Duration::from_millis(3_500);

/// What an attempt of a probe shows that begins now, by the trouble of that moment; nothing when it does not end.
pub fn ask(
    target: &mut Target,
    rates: &Rates,
    timeout: Duration,
    (now, at): (Ms, bongsu::value::Timestamp),
    random: &mut fastrand::Rng,
    sites: &mut Sites,
) -> Option<Observation> {
    let observed = |outcome, took, reason: Option<(Phase, Kind, &str)>| {
        let mut observation = Observation::new(at, outcome, took);
        observation.reason = reason.map(|(phase, kind, text)| Reason::new(phase, kind, text));
        Some(observation)
    };
    if random.f64() < rates.hang {
        sites.hit(Site::AttemptHangs);
        target.disturbed = target.disturbed.max(now + super::CUT_MS);
        return None;
    }
    if random.f64() < rates.own_fault {
        sites.hit(Site::AttemptOwnFault);
        target.disturbed = target.disturbed.max(now);
        return observed(Outcome::Unknown, ANSWERED, Some((Phase::Connect, Kind::Own, "no descriptors")));
    }
    if target.cut {
        return observed(Outcome::Failed, timeout, Some((Phase::Connect, Kind::Timeout, "timeout")));
    }
    let ill = target.ill(now);
    let lost = match ill {
        Some(Ill::Lossy) => random.bool(),
        _ => random.f64() < rates.loss,
    };
    let failed = match ill {
        Some(Ill::Refused) => Some((Site::AttemptRefused, Duration::from_millis(2), Phase::Connect, Kind::Refused)),
        Some(Ill::Silent) => Some((Site::AttemptSilent, timeout, Phase::Connect, Kind::Timeout)),
        Some(Ill::Rejecting) => Some((Site::AttemptRejected, ANSWERED, Phase::Login, Kind::Rejected)),
        _ if lost => Some((Site::AttemptLost, timeout, Phase::Exchange, Kind::Timeout)),
        _ => None,
    };
    if let Some((site, took, phase, kind)) = failed {
        sites.hit(site);
        target.failed_at = Some(now);
        if ill.is_none() {
            target.fault(now);
        }
        return observed(Outcome::Failed, took, Some((phase, kind, kind.as_str())));
    }
    if ill == Some(Ill::Slow) || random.f64() < rates.slow {
        sites.hit(Site::AttemptSlow);
        target.fault(now);
        return observed(Outcome::Slow, SLOWLY, Some((Phase::Exchange, Kind::Slow, "slow")));
    }
    observed(Outcome::Ok, ANSWERED, None)
}
