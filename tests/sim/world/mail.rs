//! A check that sends messages: the real ledger, and a mail system with its own ways of failing.

use std::time::{Duration, Instant};

use bongsu::{
    delivery::{Arriving, CheckKey, Identity, Key, Ledger, Terms, ledger::Sending},
    observation::{Accept, Correction, Flight, Integrity, Kind, Observation, Phase, Reason},
    value::{CheckName, Timestamp},
};

use super::{
    Rates,
    sites::{Site, Sites},
    target::{Ill, Target},
    time::{Ms, ms},
};

/// What a delivery promises unless told otherwise.
const OBJECTIVE: Duration = Duration::from_secs(5);

/// When its message counts as lost unless told otherwise.
const HORIZON: Duration = Duration::from_secs(30);

/// How long a message takes.
const TRANSIT_MS: Ms = 300;

/// A copy of a message, or what is told of it, on its way to the mailbox.
#[derive(Clone, Debug)]
pub struct Letter {
    identity: Identity,
    copy: u64,
    integrity: Integrity,
    bounced: bool,
}

/// One check's sender and receiver.
pub struct Mail {
    ledger: Ledger,
    check: CheckKey,
    sequence: u64,
    copies: u64,
    looks_again: bool,
}

/// How an attempt goes on once its message is sent.
pub struct Sent {
    /// To be stored before.
    pub flights: Vec<Flight>,
    /// What comes, and after how long.
    pub letters: Vec<(Ms, Letter)>,
    /// After how long the attempt ends, unless its message comes before.
    pub ends: Ms,
}

fn terms() -> Terms {
    Terms { objective: OBJECTIVE, horizon: HORIZON, sender: "mail".into() }
}

impl Mail {
    /// Goes on from what an earlier run has stored; returns also what it had not told.
    pub fn resume(
        name: &CheckName,
        flights: &[Flight],
        sequence: u64,
        wall: Timestamp,
        now: Instant,
    ) -> (Self, Vec<Observation>) {
        let check = CheckKey::new(&Key::new(&[7; 32]), name);
        let why = Reason::new(Phase::Deliver, Kind::Own, "the agent was restarted while the message was on its way");
        let mut ledger = Ledger::new(check, terms());
        let untold = ledger.resume(flights, wall, now, &why).into_iter().map(|(at, verdict)| {
            let mut observation = Observation::new(at, verdict.outcome, Duration::ZERO);
            (observation.reason, observation.delivery) = (verdict.reason, Some(verdict.delivery));
            observation
        });
        let untold = untold.collect();
        (Self { ledger, check, sequence, copies: 0, looks_again: true }, untold)
    }

    /// Begins an attempt. `wait_max` is how long it may wait for its message.
    #[expect(clippy::too_many_arguments, reason = "what the world lends for a moment")]
    pub fn send(
        &mut self,
        target: &mut Target,
        rates: &Rates,
        timeout: Duration,
        (now, at, instant): (Ms, Timestamp, Instant),
        wait_max: Option<Duration>,
        random: &mut fastrand::Rng,
        sites: &mut Sites,
    ) -> Sent {
        if std::mem::take(&mut self.looks_again) {
            self.ledger.look_again(instant);
        }
        self.sequence += 1;
        let identity = Identity { check: self.check, sequence: self.sequence, sent_at: at, nonce: random.u64(..) | 1 };
        self.ledger.sent(Sending { identity, observed_at: at, at: instant });
        let flights = self.ledger.flights(at);
        if target.cut {
            let reason = Reason::new(Phase::Connect, Kind::Timeout, "timeout");
            self.ledger.answered(self.sequence, Accept::Unreachable, instant + timeout, Some(reason));
            return Sent { flights, letters: Vec::new(), ends: ms(timeout) };
        }
        let ill = target.ill(now);
        let refusal = match ill {
            Some(Ill::Refused) => {
                let took = Duration::from_millis(2);
                Some((Site::AttemptRefused, Accept::Unreachable, took, Phase::Connect, Kind::Refused))
            }
            Some(Ill::Silent) => {
                Some((Site::AttemptSilent, Accept::Unreachable, timeout, Phase::Connect, Kind::Timeout))
            }
            Some(Ill::Rejecting) => {
                let took = Duration::from_millis(40);
                Some((Site::AttemptRejected, Accept::Rejected, took, Phase::Send, Kind::Rejected))
            }
            _ => None,
        };
        if let Some((site, accept, took, phase, kind)) = refusal {
            sites.hit(site);
            target.failed_at = Some(now);
            let reason = Reason::new(phase, kind, kind.as_str());
            self.ledger.answered(self.sequence, accept, instant + took, Some(reason));
            return Sent { flights, letters: Vec::new(), ends: ms(took) };
        }
        let way = Way::of(ill, rates, random);
        if let Some(site) = way.site() {
            sites.hit(site);
            target.fault(now);
        }
        let is_acknowledged = !matches!(way, Way::Unacknowledged | Way::Uncertain);
        let (accept, took) =
            if is_acknowledged { (Accept::Accepted, Duration::from_millis(40)) } else { (Accept::Uncertain, timeout) };
        let reason = (!is_acknowledged).then(|| Reason::new(Phase::Send, Kind::Timeout, "no acknowledgement"));
        self.ledger.answered(self.sequence, accept, instant + took, reason);
        let due = wait_max.map_or(HORIZON, |wait| HORIZON.min(wait.max(OBJECTIVE)));
        Sent { flights, letters: self.letters(way, identity, random), ends: ms(due.max(took)) }
    }

    fn letters(&mut self, way: Way, identity: Identity, random: &mut fastrand::Rng) -> Vec<(Ms, Letter)> {
        let mut letter = |integrity, bounced| {
            self.copies += 1;
            // Copies are told apart by the server, also across runs of the agent.
            let copy = (identity.sequence << 8) | (self.copies & 0xff);
            Letter { identity, copy, integrity, bounced }
        };
        let objective = ms(OBJECTIVE);
        match way {
            Way::Well | Way::Unacknowledged => vec![(TRANSIT_MS, letter(Integrity::Equal, false))],
            Way::Lost | Way::Uncertain => Vec::new(),
            Way::Late => vec![(random.i64(objective + 1..20_000), letter(Integrity::Equal, false))],
            Way::VeryLate => vec![(random.i64(31_000..900_000), letter(Integrity::Equal, false))],
            Way::Twice => {
                let second = random.i64(TRANSIT_MS..120_000);
                vec![(TRANSIT_MS, letter(Integrity::Equal, false)), (second, letter(Integrity::Equal, false))]
            }
            Way::Changed => vec![(TRANSIT_MS, letter(Integrity::Truncated, false))],
            Way::Bounced => vec![(random.i64(TRANSIT_MS..60_000), letter(Integrity::Equal, true))],
        }
    }

    /// Something has come in; whether the attempt of `waiting` has nothing to wait for any more.
    pub fn comes(&mut self, letter: &Letter, instant: Instant, waiting: Option<Timestamp>) -> bool {
        if letter.bounced {
            self.ledger.bounced(&letter.identity, "no such mailbox");
        } else {
            let arriving = Arriving {
                session: 0,
                copy: Some(letter.copy),
                integrity: letter.integrity,
                part: None,
                flaw: None,
                at: instant,
                details: serde_json::Map::new(),
            };
            self.ledger.arrived(&letter.identity, arriving);
        }
        waiting.is_some_and(|at| self.ledger.is_settled(at))
    }

    /// What the attempt that began then showed.
    pub fn book(&mut self, at: Timestamp, instant: Instant, took: Duration) -> Option<Observation> {
        let (verdict, _) = self.ledger.book(at, instant)?;
        let mut observation = Observation::new(at, verdict.outcome, took);
        (observation.reason, observation.delivery) = (verdict.reason, Some(verdict.delivery));
        Some(observation)
    }

    /// What has come to light of earlier attempts.
    pub fn poll(&mut self, instant: Instant) -> Option<Correction> {
        self.ledger.poll(instant)
    }

    /// When something comes to light by itself.
    pub fn next_horizon(&self) -> Option<Instant> {
        self.ledger.next_horizon()
    }
}

/// What becomes of a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Well,
    Lost,
    Late,
    VeryLate,
    Twice,
    Changed,
    Bounced,
    Unacknowledged,
    Uncertain,
}

impl Way {
    fn of(ill: Option<Ill>, rates: &Rates, random: &mut fastrand::Rng) -> Self {
        match ill {
            Some(Ill::Lossy) if random.bool() => return Self::Lost,
            Some(Ill::Slow) => return Self::Late,
            _ => {}
        }
        if random.f64() < rates.loss {
            return Self::Lost;
        }
        if random.f64() >= rates.message {
            return Self::Well;
        }
        let ways = [
            Self::Late,
            Self::VeryLate,
            Self::Twice,
            Self::Changed,
            Self::Bounced,
            Self::Unacknowledged,
            Self::Uncertain,
        ];
        ways[random.usize(..ways.len())]
    }

    fn site(self) -> Option<Site> {
        Some(match self {
            Self::Well => return None,
            Self::Lost => Site::MessageLost,
            Self::Late => Site::MessageLate,
            Self::VeryLate => Site::MessageVeryLate,
            Self::Twice => Site::MessageTwice,
            Self::Changed => Site::MessageChanged,
            Self::Bounced => Site::MessageBounced,
            Self::Unacknowledged => Site::AcknowledgementLost,
            Self::Uncertain => Site::MessageUncertain,
        })
    }
}
