//! The vantage: whether the agent itself is cut off, and which failures that explains.
//!
//! When none of the agent's canaries answers, it is isolated. A failure that isolation can bring about tells nothing
//! of its target then: it becomes `unknown`. A failure in which a peer spoke (a rejection, a wrong status) stands: it
//! needed the network to be told.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    observation::{Correction, Fate, Kind, Observation, Outcome, Phase, Reason},
    value::Timestamp,
};

/// Shortest isolation of which people are told afterwards. A shorter one has delayed a judgement by a few attempts and
/// hidden nothing; it is in the log.
pub const SUMMARY_AFTER: Duration = Duration::from_secs(30);

/// Longest time after a return for which an incident waits to be judged anew before its reminders go on: a check that
/// is asked once an hour must not hold them back for an hour.
pub const AFRESH_MAX: Duration = Duration::from_secs(300);

/// An isolation that lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// The last time a canary is known to have answered; absent when none has since the agent started.
    pub after: Option<Timestamp>,
    /// When none did.
    pub since: Timestamp,
    /// How many canaries were asked.
    pub canaries: u32,
}

/// How the vantage stands; stored, so that a crash neither loses the summary of an isolation nor tells it twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vantage {
    /// The isolation, while it lasts.
    #[serde(default)]
    pub isolation: Option<Isolation>,
    /// When the latest one ended.
    #[serde(default)]
    pub returned_at: Option<Timestamp>,
}

/// What isolation has to do with an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excuse {
    /// Nothing: the outcome stands, isolated or not.
    None,
    /// It can be its effect: the canaries must be asked before anybody is told.
    Ask,
    /// It can be its effect only if the agent is known to have been isolated meanwhile: nobody asks because of it.
    IfIsolated,
}

/// Whether a failure of this kind can come about because the agent is cut off.
///
/// Besides silence these are all the ways in which a device nearby answers in the place of a host that cannot be
/// reached: it resets or refuses (a firewall that rejects), breaks a handshake, shows a certificate of its own (a
/// captive portal). What a peer says in its own protocol is taken for the peer's.
pub fn explains(phase: Phase, kind: Kind) -> bool {
    match kind {
        Kind::Timeout
        | Kind::Unreachable
        | Kind::Refused
        | Kind::Reset
        | Kind::Closed
        | Kind::NoAddress
        | Kind::ResolverError
        | Kind::Handshake
        | Kind::Certificate
        | Kind::Lost
        | Kind::Uncertain => true,
        // No name server answers; other faults of the agent's own (no descriptors) have nothing to do with its network.
        Kind::Own => phase == Phase::Resolve,
        Kind::Protocol
        | Kind::Rejected
        | Kind::Deferred
        | Kind::Unexpected
        | Kind::TooLarge
        | Kind::Corrupt
        | Kind::Duplicate
        | Kind::Slow
        | Kind::Misplaced => false,
    }
}

fn excuse(outcome: Outcome, reason: Option<&Reason>) -> Excuse {
    match (outcome, reason) {
        (Outcome::Ok, _) => Excuse::None,
        // A message that waited at the server until the agent could fetch it, a connection that needed a second try.
        (Outcome::Slow, Some(reason)) if reason.kind == Kind::Slow => Excuse::IfIsolated,
        (Outcome::Slow, _) => Excuse::None,
        (Outcome::Failed | Outcome::Unknown, Some(reason)) if explains(reason.phase, reason.kind) => Excuse::Ask,
        (Outcome::Failed | Outcome::Unknown, _) => Excuse::None,
    }
}

/// What isolation has to do with what an attempt showed.
pub fn excuse_of(observation: &Observation) -> Excuse {
    excuse(observation.outcome, observation.reason.as_ref())
}

/// What isolation has to do with what became of a message.
pub fn excuse_of_fate(correction: &Correction) -> Excuse {
    if correction.delivery.fate == Fate::Pending {
        Excuse::None
    } else {
        excuse(correction.outcome, correction.reason.as_ref())
    }
}

/// What one canary's attempt says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// There is a network: somebody answered, be it with an error.
    Answered,
    /// Nobody answered.
    Silent,
    /// It could not be asked; that proves nothing.
    CannotTell,
}

/// What a canary's attempt says of the network.
pub fn answer_of(observation: &Observation) -> Answer {
    match (observation.outcome, &observation.reason) {
        (Outcome::Ok | Outcome::Slow, _) => Answer::Answered,
        (_, Some(reason)) if explains(reason.phase, reason.kind) => Answer::Silent,
        (Outcome::Failed, _) => Answer::Answered,
        (Outcome::Unknown, _) => Answer::CannotTell,
    }
}

/// Makes an observation one that could not tell; `why` comes before what it showed.
pub fn void(observation: &mut Observation, why: &str) {
    observation.reason = Some(voided(observation.reason.as_ref(), why));
    observation.outcome = Outcome::Unknown;
}

/// The same for what became of a message.
pub fn void_fate(correction: &mut Correction, why: &str) {
    correction.reason = Some(voided(correction.reason.as_ref(), why));
    correction.outcome = Outcome::Unknown;
}

fn voided(reason: Option<&Reason>, why: &str) -> Reason {
    match reason {
        Some(Reason { phase, text, .. }) => Reason::new(*phase, Kind::Own, format!("{why}; {text}")),
        None => Reason::new(Phase::Exchange, Kind::Own, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observation(outcome: Outcome, phase: Phase, kind: Kind) -> Observation {
        let mut observation = Observation::new(Timestamp::EPOCH, outcome, Duration::ZERO);
        observation.reason = Some(Reason::new(phase, kind, "it broke"));
        observation
    }

    #[test]
    fn what_isolation_can_bring_about_is_asked_for_and_what_a_peer_says_stands() {
        use Outcome::{Failed, Ok, Slow, Unknown};
        // Outcome, phase and kind of an attempt; its excuse; and what it would say as a canary's.
        let table = [
            (Failed, Phase::Connect, Kind::Timeout, Excuse::Ask, Answer::Silent),
            (Failed, Phase::Exchange, Kind::Timeout, Excuse::Ask, Answer::Silent),
            (Failed, Phase::Connect, Kind::Unreachable, Excuse::Ask, Answer::Silent),
            (Failed, Phase::Connect, Kind::Refused, Excuse::Ask, Answer::Silent),
            (Failed, Phase::Exchange, Kind::Reset, Excuse::Ask, Answer::Silent),
            (Failed, Phase::Greeting, Kind::Closed, Excuse::Ask, Answer::Silent),
            (Failed, Phase::Resolve, Kind::NoAddress, Excuse::Ask, Answer::Silent),
            (Failed, Phase::Resolve, Kind::ResolverError, Excuse::Ask, Answer::Silent),
            (Failed, Phase::Tls, Kind::Handshake, Excuse::Ask, Answer::Silent),
            (Failed, Phase::Tls, Kind::Certificate, Excuse::Ask, Answer::Silent),
            (Failed, Phase::Deliver, Kind::Lost, Excuse::Ask, Answer::Silent),
            (Failed, Phase::Deliver, Kind::Uncertain, Excuse::Ask, Answer::Silent),
            (Failed, Phase::Login, Kind::Rejected, Excuse::None, Answer::Answered),
            (Failed, Phase::Greeting, Kind::Deferred, Excuse::None, Answer::Answered),
            (Failed, Phase::Exchange, Kind::Unexpected, Excuse::None, Answer::Answered),
            (Failed, Phase::Exchange, Kind::TooLarge, Excuse::None, Answer::Answered),
            (Failed, Phase::Exchange, Kind::Protocol, Excuse::None, Answer::Answered),
            (Failed, Phase::Deliver, Kind::Corrupt, Excuse::None, Answer::Answered),
            (Failed, Phase::Deliver, Kind::Duplicate, Excuse::None, Answer::Answered),
            (Unknown, Phase::Resolve, Kind::Own, Excuse::Ask, Answer::Silent),
            (Unknown, Phase::Connect, Kind::Own, Excuse::None, Answer::CannotTell),
            (Slow, Phase::Deliver, Kind::Slow, Excuse::IfIsolated, Answer::Answered),
            (Slow, Phase::Deliver, Kind::Misplaced, Excuse::None, Answer::Answered),
            (Ok, Phase::Exchange, Kind::Slow, Excuse::None, Answer::Answered),
        ];
        for (outcome, phase, kind, expected, answer) in table {
            let observation = observation(outcome, phase, kind);
            assert_eq!(excuse_of(&observation), expected, "{outcome} {phase} {kind}");
            assert_eq!(answer_of(&observation), answer, "{outcome} {phase} {kind}");
        }
        let bare = Observation::new(Timestamp::EPOCH, Failed, Duration::ZERO);
        assert_eq!((excuse_of(&bare), answer_of(&bare)), (Excuse::None, Answer::Answered));
    }

    #[test]
    fn a_void_observation_says_why_and_keeps_what_it_showed() {
        let mut observation = observation(Outcome::Failed, Phase::Connect, Kind::Timeout);
        void(&mut observation, "the agent is isolated (none of 2 canaries answers)");
        assert_eq!(observation.outcome, Outcome::Unknown);
        let reason = observation.reason.expect("it says why");
        assert_eq!((reason.phase, reason.kind), (Phase::Connect, Kind::Own));
        assert_eq!(reason.text, "the agent is isolated (none of 2 canaries answers); it broke");
    }
}
