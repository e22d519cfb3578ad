//! What was sent and what came of it, and the judgement of that.

use std::time::{Duration, Instant};

use super::socket::Told;
use crate::{
    observation::{Kind, to_ms},
    value::{Ratio, TimeSpan},
};

/// What came of one ping.
#[derive(Clone, Debug, PartialEq)]
enum Fate {
    /// Nothing so far.
    Open,
    /// It came back after this time.
    Answered(Duration),
    /// The network said why it does not arrive.
    Refused,
}

#[derive(Clone, Debug)]
struct Ping {
    sent_at: Instant,
    fate: Fate,
}

/// What a reply was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The first reply to a ping, after this time.
    Answer(Duration),
    /// Another reply to the same ping.
    Duplicate,
    /// It took longer than a reply may take; its ping is lost.
    Late(Duration),
    /// A reply to no ping of ours.
    Foreign,
}

/// The pings of one attempt, by sequence from 1 on.
#[derive(Debug)]
pub(super) struct Tally {
    wait: Duration,
    pings: Vec<Ping>,
    duplicates: u64,
    late: u64,
    altered: u64,
    told: Option<Told>,
}

impl Tally {
    /// Nothing sent yet; a reply may take `wait`.
    pub(super) fn new(wait: Duration) -> Self {
        Self { wait, pings: Vec::new(), duplicates: 0, late: 0, altered: 0, told: None }
    }

    /// How many were sent.
    pub(super) fn sent(&self) -> usize {
        self.pings.len()
    }

    /// How many came back in time.
    pub(super) fn received(&self) -> usize {
        self.pings.iter().filter(|p| matches!(p.fate, Fate::Answered(_))).count()
    }

    /// Whether nothing is waited for.
    pub(super) fn settled(&self) -> bool {
        self.pings.iter().all(|p| p.fate != Fate::Open)
    }

    /// When the last of them counts as lost.
    pub(super) fn lost_at(&self) -> Option<Instant> {
        self.pings.last().map(|p| p.sent_at + self.wait)
    }

    /// The next ping leaves.
    pub(super) fn sends(&mut self, at: Instant) {
        self.pings.push(Ping { sent_at: at, fate: Fate::Open });
    }

    /// A reply with our payload came.
    pub(super) fn answers(&mut self, sequence: u16, at: Instant) -> Heard {
        let wait = self.wait;
        let Some(ping) = self.ping(sequence) else { return Heard::Foreign };
        let took = at.saturating_duration_since(ping.sent_at);
        match ping.fate {
            Fate::Answered(_) => {
                self.duplicates += 1;
                Heard::Duplicate
            }
            Fate::Open | Fate::Refused if took > wait => {
                self.late += 1;
                Heard::Late(took)
            }
            Fate::Open | Fate::Refused => {
                ping.fate = Fate::Answered(took);
                Heard::Answer(took)
            }
        }
    }

    /// A reply to a ping of ours came with another payload.
    pub(super) fn altered(&mut self) {
        self.altered += 1;
    }

    /// The network (or our own system) said why a ping does not arrive; without a sequence, it did not say which.
    pub(super) fn refused(&mut self, sequence: Option<u16>, told: Told) {
        if let Some(ping) = sequence.and_then(|s| self.ping(s)).filter(|p| p.fate == Fate::Open) {
            ping.fate = Fate::Refused;
        }
        self.told = Some(told);
    }

    fn ping(&mut self, sequence: u16) -> Option<&mut Ping> {
        self.pings.get_mut(usize::from(sequence).checked_sub(1)?)
    }

    /// What it comes to.
    pub(super) fn evidence(&self) -> Evidence {
        let took = |p: &Ping| match p.fate {
            Fate::Answered(took) => Some(took),
            Fate::Open | Fate::Refused => None,
        };
        let trips: Vec<Duration> = self.pings.iter().filter_map(took).collect();
        Evidence {
            sent: self.sent(),
            received: trips.len(),
            trips: Trips::of(&trips),
            duplicates: self.duplicates,
            late: self.late,
            altered: self.altered,
            told: self.told.clone(),
        }
    }
}

/// Round trips in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Trips {
    /// The fastest.
    pub(super) min_ms: f64,
    /// The mean.
    pub(super) avg_ms: f64,
    /// The slowest.
    pub(super) max_ms: f64,
    /// Their standard deviation, as ping(8) gives it.
    pub(super) mdev_ms: f64,
}

impl Trips {
    fn of(trips: &[Duration]) -> Option<Self> {
        let ms: Vec<f64> = trips.iter().copied().map(to_ms).collect();
        let count = ms.len() as f64;
        let (min, max) = (ms.iter().copied().reduce(f64::min)?, ms.iter().copied().reduce(f64::max)?);
        let avg = ms.iter().sum::<f64>() / count;
        let variance = ms.iter().map(|one| (one - avg).powi(2)).sum::<f64>() / count;
        Some(Self { min_ms: min, avg_ms: avg, max_ms: max, mdev_ms: variance.sqrt() })
    }
}

/// What an attempt gathered.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Evidence {
    pub(super) sent: usize,
    pub(super) received: usize,
    pub(super) trips: Option<Trips>,
    pub(super) duplicates: u64,
    pub(super) late: u64,
    pub(super) altered: u64,
    pub(super) told: Option<Told>,
}

/// What is still good enough.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limits {
    /// Share of pings that may be lost.
    pub(super) loss_max: Ratio,
    /// Mean round trip beyond which the way is slow.
    pub(super) rtt_slow: Option<Duration>,
}

impl Evidence {
    /// Share of pings that did not come back, from 0 to 1.
    pub(super) fn loss(&self) -> f64 {
        match self.sent {
            0 => 0.0,
            sent => (sent - self.received) as f64 / sent as f64,
        }
    }

    /// Failed when none came back or too many are lost; slow when some are, or the way takes long.
    pub(super) fn judge(&self, limits: &Limits) -> Result<(), (Kind, String)> {
        let lost = self.sent - self.received;
        let share = Ratio((self.loss() * 100.0).round() / 100.0);
        let why = self.told.as_ref().map_or(String::new(), |told| format!("; {}", told.text));
        let late = if self.late > 0 { format!("; {} came too late", self.late) } else { String::new() };
        let pings = if self.sent == 1 { "ping" } else { "pings" };
        if self.received == 0 {
            let kind = self.told.as_ref().map_or(Kind::Timeout, |told| told.kind);
            let text = format!("no answer to {} {pings}{why}{late}", self.sent);
            return Err((kind, text));
        }
        // In whole pings, so that no rounding of shares decides.
        if lost as f64 > limits.loss_max.0 * self.sent as f64 {
            let text =
                format!("{lost} of {} {pings} lost ({share}), more than {}{why}{late}", self.sent, limits.loss_max);
            return Err((self.told.as_ref().map_or(Kind::Timeout, |told| told.kind), text));
        }
        if lost > 0 {
            return Err((Kind::Slow, format!("{lost} of {} {pings} lost ({share}){why}{late}", self.sent)));
        }
        match (self.trips, limits.rtt_slow) {
            (Some(trips), Some(objective)) if trips.avg_ms > to_ms(objective) => {
                let took = TimeSpan(Duration::from_secs_f64(trips.avg_ms / 1_000.0));
                Err((Kind::Slow, format!("round trips took {took} on average, objective {}", TimeSpan(objective))))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const WAIT: Duration = Duration::from_secs(1);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn replies_are_told_apart() {
        let at = clock::instant();
        let mut tally = Tally::new(WAIT);
        assert!(tally.settled() && tally.lost_at().is_none());
        for n in 0..4 {
            tally.sends(at + ms(100 * n));
        }
        assert_eq!(tally.lost_at(), Some(at + ms(1_300)));
        assert_eq!(tally.answers(0, at), Heard::Foreign);
        assert_eq!(tally.answers(5, at), Heard::Foreign);
        assert_eq!(tally.answers(2, at + ms(130)), Heard::Answer(ms(30)));
        assert_eq!(tally.answers(2, at + ms(140)), Heard::Duplicate);
        assert_eq!(tally.answers(1, at + ms(1_001)), Heard::Late(ms(1_001)));
        let told = Told { kind: Kind::Unreachable, text: "x".into() };
        tally.refused(Some(3), told.clone());
        tally.refused(Some(2), told.clone());
        tally.refused(Some(99), told.clone());
        tally.refused(None, told.clone());
        // A router was hasty: the reply itself is the better evidence.
        assert_eq!(tally.answers(3, at + ms(250)), Heard::Answer(ms(50)));
        assert!(!tally.settled());
        tally.altered();
        let evidence = tally.evidence();
        assert_eq!((evidence.sent, evidence.received, evidence.loss()), (4, 2, 0.5));
        assert_eq!((evidence.duplicates, evidence.late, evidence.altered), (1, 1, 1));
        let trips = evidence.trips.expect("two came back");
        assert_eq!((trips.min_ms, trips.avg_ms, trips.max_ms, trips.mdev_ms), (30.0, 40.0, 50.0, 10.0));
        assert_eq!(evidence.told, Some(told));
    }

    #[test]
    fn loss_and_slowness_are_judged() {
        let trips = Some(Trips { min_ms: 1.0, avg_ms: 153.0, max_ms: 300.0, mdev_ms: 2.0 });
        let told = || Some(Told { kind: Kind::Unreachable, text: "192.0.2.1 says: host unreachable".into() });
        let unreachable = "no answer to 3 pings; 192.0.2.1 says: host unreachable";
        let failed = |kind, text: &str| Err((kind, text.to_owned()));
        let table = [
            (3, 3, 0.5, None, None, Ok(())),
            (3, 3, 0.5, Some(200), None, Ok(())),
            (3, 3, 0.5, Some(100), None, failed(Kind::Slow, "round trips took 153ms on average, objective 100ms")),
            (3, 0, 0.5, None, None, failed(Kind::Timeout, "no answer to 3 pings; 2 came too late")),
            (1, 0, 1.0, None, None, failed(Kind::Timeout, "no answer to 1 ping; 2 came too late")),
            (3, 0, 0.5, None, told(), failed(Kind::Unreachable, &format!("{unreachable}; 2 came too late"))),
            (3, 2, 0.5, None, None, failed(Kind::Slow, "1 of 3 pings lost (33%); 2 came too late")),
            (3, 1, 0.5, None, None, failed(Kind::Timeout, "2 of 3 pings lost (67%), more than 50%; 2 came too late")),
            (4, 2, 0.5, None, None, failed(Kind::Slow, "2 of 4 pings lost (50%); 2 came too late")),
            (4, 3, 0.0, None, None, failed(Kind::Timeout, "1 of 4 pings lost (25%), more than 0%; 2 came too late")),
            (10, 1, 1.0, None, None, failed(Kind::Slow, "9 of 10 pings lost (90%); 2 came too late")),
        ];
        for (n, (sent, received, loss_max, rtt_slow, told, expected)) in table.into_iter().enumerate() {
            let trips = trips.filter(|_| received > 0);
            let evidence = Evidence { sent, received, trips, duplicates: 1, late: 2, altered: 0, told };
            let limits = Limits { loss_max: Ratio(loss_max), rtt_slow: rtt_slow.map(ms) };
            assert_eq!(evidence.judge(&limits), expected, "row {n}");
        }
    }
}
