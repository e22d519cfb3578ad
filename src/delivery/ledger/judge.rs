//! What the facts of a message, and of all messages of an attempt, come to.

use std::time::{Duration, Instant};

use super::{
    Terms, Verdict,
    entry::{Arrival, Batch, Entry, Sight},
};
use crate::{
    observation::{
        Accept, Correction, Delivery, Fate, Fates, Integrity, Kind, Login, NEW_LOGINS_FAIL, Outcome, Phase, Reason,
    },
    value::TimeSpan,
};

type Judgement = (Outcome, Option<Reason>);

impl Batch {
    pub(super) fn verdict(&self, terms: &Terms, now: Instant) -> Verdict {
        let mut fates = Fates::default();
        let mut judgements = Vec::with_capacity(self.entries.len());
        for entry in &self.entries {
            let fate = entry.fate(terms, now);
            *fates.count(fate) += 1;
            judgements.push(entry.judge(fate, terms, now));
        }
        let (outcome, reason) = with_login(of_all(judgements), self.login.as_ref());
        let arrivals = || self.entries.iter().filter_map(|e| e.arrival.as_ref());
        let sum = |of: fn(&Entry) -> u32| self.entries.iter().map(of).fold(0, u32::saturating_add);
        let accepted = |e: &Entry| e.answer.as_ref().filter(|a| a.accept == Accept::Accepted).map(|a| a.after);
        let is_open = !self.entries.iter().all(Entry::is_settled);
        let delivery = Delivery {
            fate: fates.worst(),
            fates: if self.entries.len() > 1 { fates } else { Fates::default() },
            accept: self.entries.iter().map(Entry::accept).max_by_key(|a| badness(*a)).unwrap_or(Accept::Uncertain),
            accept_ms: self.entries.iter().filter_map(accepted).max(),
            latency_ms: arrivals().map(|a| a.latency).max(),
            sequence: self.first(),
            duplicates: sum(|e| e.duplicates),
            foreign: 0,
            reordered: sum(|e| u32::from(e.reordered)),
            changed: sum(|e| u32::from(e.arrival.as_ref().is_some_and(|a| a.integrity != Integrity::Equal))),
            integrity: arrivals().map(|a| a.integrity).max(),
            left_out: self.left_out.clone(),
            login: self.login.clone(),
            reconnections: self.reconnections.clone(),
            open: self.entries.iter().filter(|_| is_open).map(|e| e.flight(self.observed_at, true)).collect(),
        };
        Verdict { outcome, delivery, reason }
    }
}

fn badness(accept: Accept) -> u8 {
    match accept {
        Accept::Accepted => 0,
        Accept::Uncertain => 1,
        Accept::Deferred => 2,
        Accept::Rejected => 3,
        Accept::Unreachable => 4,
    }
}

/// One judgement of many. Half of the messages gone is a failure of the route; fewer are a flaw, which the measures
/// over a window weigh message by message.
fn of_all(judgements: Vec<Judgement>) -> Judgement {
    let all = judgements.len();
    if all == 1 {
        return judgements.into_iter().next().unwrap_or((Outcome::Ok, None));
    }
    let of = |outcome: Outcome| judgements.iter().filter(move |(o, _)| *o == outcome);
    let reason = |outcome: Outcome| {
        let reason = of(outcome).find_map(|(_, reason)| reason.as_ref())?;
        let text = format!("{} of {all} messages: {}", of(outcome).count(), reason.text);
        Some(Reason::new(reason.phase, reason.kind, text))
    };
    let (failed, unknown) = (of(Outcome::Failed).count(), of(Outcome::Unknown).count());
    if failed * 2 >= all && failed > 0 {
        (Outcome::Failed, reason(Outcome::Failed))
    } else if unknown > 0 {
        (Outcome::Unknown, reason(Outcome::Unknown))
    } else if failed > 0 {
        (Outcome::Slow, reason(Outcome::Failed))
    } else if of(Outcome::Slow).count() > 0 {
        (Outcome::Slow, reason(Outcome::Slow))
    } else {
        (Outcome::Ok, None)
    }
}

/// A refused login is told beside a delivery that works, and a working one beside a delivery that does not.
fn with_login((outcome, reason): Judgement, login: Option<&Login>) -> Judgement {
    match (outcome, login) {
        (Outcome::Ok | Outcome::Slow, Some(Login { ok: false, reason: Some(why), .. })) => {
            let text = format!("{NEW_LOGINS_FAIL} while the kept sessions deliver: {}", why.text);
            (Outcome::Slow, Some(Reason::new(Phase::Login, why.kind, text)))
        }
        (Outcome::Failed, Some(Login { ok: true, .. })) => {
            let told = reason.map(|r| Reason::new(r.phase, r.kind, format!("{}; new logins work", r.text)));
            (Outcome::Failed, told)
        }
        _ => (outcome, reason),
    }
}

impl Entry {
    fn judge(&self, fate: Fate, terms: &Terms, now: Instant) -> Judgement {
        let refusal = self.answer.as_ref().and_then(|a| a.reason.as_ref());
        let horizon = TimeSpan(terms.horizon);
        if let Some(arrival) = &self.arrival {
            return judge_arrival(arrival, fate, refusal, terms);
        }
        match fate {
            Fate::Arrived | Fate::Late => (Outcome::Ok, None),
            Fate::Unsent => match refusal {
                Some(refusal) => failed(refusal.phase, refusal.kind, refusal.text.clone()),
                None => failed(Phase::Send, Kind::Rejected, "not accepted".into()),
            },
            Fate::Pending => {
                let blind = match &self.sight {
                    Sight::Blind(why) => Some(why),
                    Sight::Clear | Sight::Until(_) => None,
                };
                if let Some(known) = refusal.or(blind) {
                    return failed(known.phase, known.kind, known.text.clone());
                }
                let age = now.saturating_duration_since(self.at);
                if age < terms.objective {
                    return (Outcome::Ok, None);
                }
                let age = shown(age);
                slow(Kind::Slow, format!("{}, not arrived within {age} so far", self.accepted(terms)))
            }
            Fate::Lost => match &self.bounced {
                Some(bounce) => failed(
                    Phase::Deliver,
                    Kind::Lost,
                    format!("{}, then returned as undeliverable: {bounce}", self.accepted(terms)),
                ),
                None => failed(
                    Phase::Deliver,
                    Kind::Lost,
                    format!("{}, not arrived within {horizon}", self.accepted(terms)),
                ),
            },
            Fate::Uncertain => {
                let why = refusal.map_or("not acknowledged", |r| r.text.as_str());
                failed(Phase::Send, Kind::Uncertain, format!("{why}, not arrived within {horizon}"))
            }
        }
    }

    fn accepted(&self, terms: &Terms) -> String {
        let after = self.answer.as_ref().map_or(Duration::ZERO, |a| a.after);
        format!("accepted by {} in {}", terms.sender, shown(after))
    }
}

fn failed(phase: Phase, kind: Kind, text: String) -> Judgement {
    let outcome = if kind == Kind::Own { Outcome::Unknown } else { Outcome::Failed };
    (outcome, Some(Reason::new(phase, kind, text)))
}

fn slow(kind: Kind, text: String) -> Judgement {
    (Outcome::Slow, Some(Reason::new(Phase::Deliver, kind, text)))
}

fn judge_arrival(arrival: &Arrival, fate: Fate, refusal: Option<&Reason>, terms: &Terms) -> Judgement {
    let latency = shown(arrival.latency);
    if arrival.integrity != Integrity::Equal {
        let part = arrival.part.map_or(String::new(), |part| format!(" ({part})"));
        return failed(
            Phase::Deliver,
            Kind::Corrupt,
            format!("arrived {}{part} after {latency}", arrival.integrity.as_str()),
        );
    }
    // Who sends sees an error, and sends again: that the message came through all the same is told.
    if let Some(refusal) = refusal {
        let text = format!("{}, though the message arrived after {latency}", refusal.text);
        return failed(refusal.phase, refusal.kind, text);
    }
    if let Some(flaw) = &arrival.flaw {
        return slow(Kind::Misplaced, format!("arrived {flaw} after {latency}"));
    }
    if fate == Fate::Arrived {
        return (Outcome::Ok, None);
    }
    slow(Kind::Slow, format!("arrived after {latency}, objective {}", TimeSpan(terms.objective)))
}

/// Tells that messages arrived which counted as `missed` until now. Losses are the trouble itself, and further copies
/// are counted: neither is told message by message.
pub fn arrived_after_all(missed: Option<u32>, correction: &Correction) -> Option<String> {
    let fates = correction.delivery.all_fates();
    let came = missed?.checked_sub(fates.missing()).filter(|came| *came > 0)?;
    let at = correction.observed_at.to_seconds_text();
    let which = match fates.messages() {
        1 => format!("the message of {at}"),
        all => format!("{came} of the {all} messages of {at}"),
    };
    let after = correction.delivery.latency_ms.map_or(String::new(), |after| format!(", after {}", shown(after)));
    Some(format!("{which} arrived after all{after}: late, not lost"))
}

/// A measured time for people: `1.2ms`, `812ms`, `2.5s`, `1m30s`.
pub fn shown(span: Duration) -> String {
    let tenths = span.as_micros() / 100;
    if tenths < 1_000 {
        return format!("{}.{}ms", tenths / 10, tenths % 10);
    }
    // Beyond ten seconds milliseconds say nothing.
    let ms = if span.as_secs() >= 10 { span.as_secs() * 1_000 } else { span.as_millis() as u64 };
    TimeSpan(Duration::from_millis(ms)).to_string()
}
