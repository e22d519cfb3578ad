//! The part of the core that knows whether the agent itself is cut off.
//!
//! While it is, observations that its isolation explains come in as `unknown`, so nothing is declared down or up by
//! them. What a peer itself has said still counts, and makes messages as usual: their rows wait for the return,
//! because nothing is handed out while [`Core::isolation`] lasts. An incident of which no check can be judged makes no
//! messages: a step or a repeat that falls due meanwhile is told once one of its checks has been judged anew, and
//! [`AFRESH_MAX`] after the return at the latest. The return itself is told in one message for each channel that any
//! route names, unless it came within [`SUMMARY_AFTER`].

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Commit, Core};
use crate::{
    alert::{Alert, InsteadOf, Message, MessageId, MessageKind, MessageState},
    detect::{Track, Void},
    incident::{
        Edge, Incident, IncidentId, Severity, Vantage,
        vantage::{AFRESH_MAX, Isolation, SUMMARY_AFTER},
    },
    observation::Outcome,
    value::{Name, Timestamp},
};

/// The service a summary is about: the agent itself.
const SERVICE: &str = "bongsu";

/// What the canaries say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// None of them answers.
    Isolated {
        /// When that was found.
        since: Timestamp,
        /// The last time one is known to have answered.
        after: Option<Timestamp>,
        /// How many there are.
        canaries: u32,
    },
    /// Nobody could look for a while, or the clock was set: what was being confirmed is confirmed anew.
    Jumped,
    /// One answers, or there are none.
    Clear {
        /// For how long none had answered, on the monotonic clock; absent when the agent has not seen the beginning.
        lasted: Option<Duration>,
    },
}

impl Vantage {
    /// Marks a check that cannot be judged because of the isolation; one that is judged for the first time since counts
    /// anew. Returns whether this is so.
    pub(super) fn mark(&self, track: &mut Track, outcome: Outcome) -> bool {
        match (self.isolation, outcome) {
            (Some(isolation), Outcome::Unknown) => {
                track.memory.void = Some(Void { since: isolation.since, lasts: true });
                false
            }
            (None, Outcome::Unknown) => false,
            (isolation, Outcome::Ok | Outcome::Slow | Outcome::Failed) => {
                let lasted = is_void(track);
                if lasted {
                    track.memory.confirm_anew();
                }
                // While the isolation lasts, its summary still counts the check.
                let counted = track.memory.void.filter(|_| isolation.is_some());
                track.memory.void = counted.map(|void| Void { lasts: false, ..void });
                lasted
            }
        }
    }
}

/// Whether a check could not be judged because of an isolation, and has not been since.
fn is_void(track: &Track) -> bool {
    track.memory.void.is_some_and(|void| void.lasts)
}

impl Core {
    /// The isolation, while it lasts: nothing is to be sent then.
    pub fn isolation(&self) -> Option<&Isolation> {
        self.vantage.isolation.as_ref()
    }

    /// When something that is due at `at` may be told of an incident: later, as long as none of its checks can be
    /// judged, and not before the return (`None`) while the agent is isolated.
    pub(super) fn not_before(&self, incident: &Incident, at: Timestamp) -> Option<Timestamp> {
        let blind = |check| self.tracks.get(check).is_some_and(|t| is_void(&t.track));
        let mut lasting = incident.members.iter().filter(|(_, m)| m.ended.is_none()).map(|(check, _)| blind(check));
        // An incident of which no check lasts is over, and waits for nothing.
        if !lasting.next().is_some_and(|first| first && lasting.all(|blind| blind)) {
            return Some(at);
        }
        match (self.vantage.isolation, self.vantage.returned_at) {
            (Some(_), _) => None,
            (None, Some(returned)) => Some(at.max(returned + AFRESH_MAX)),
            (None, None) => Some(at),
        }
    }

    /// Takes in what the canaries say. What is known already changes nothing, so it may be said again.
    pub(super) fn sighted(&mut self, now: Timestamp, sight: Sight, commit: &mut Commit) {
        match (self.vantage.isolation, sight) {
            (None, Sight::Isolated { since, after, canaries }) => {
                self.vantage.isolation = Some(Isolation { after, since, canaries });
            }
            (Some(isolation), Sight::Clear { lasted }) => {
                let lasted = lasted.unwrap_or_else(|| now.since(isolation.since));
                self.vantage.isolation = None;
                self.vantage.returned_at = Some(now);
                if lasted >= SUMMARY_AFTER {
                    self.sum_up_isolation(now, isolation, lasted, commit);
                }
                let open: Vec<IncidentId> = self.open_incidents().map(|i| i.id).collect();
                for id in open {
                    self.tell_what_is_due(now, id, commit);
                }
            }
            (_, Sight::Jumped) => {
                // Stored with each check's next observation; a crash before it leaves the count as it was.
                let unsure =
                    |t: &&mut Box<super::Tracked>| t.track.memory.bad.count > 0 || t.track.memory.good.count > 0;
                self.tracks.values_mut().filter(unsure).for_each(|t| t.track.memory.confirm_anew());
                self.tracks.values_mut().for_each(|t| t.track.not_after(now));
                // How long they were to wait was told by a clock that has been set since.
                self.hurry(now, |_| true, commit);
                return;
            }
            (None, Sight::Clear { .. }) | (Some(_), Sight::Isolated { .. }) => return,
        }
        commit.vantage = Some(self.vantage.clone());
    }

    /// One message on the whole isolation for each channel that any route names.
    fn sum_up_isolation(&mut self, now: Timestamp, isolation: Isolation, lasted: Duration, commit: &mut Commit) {
        for channel in self.summary_channels() {
            let alert = self.summary(now, isolation, lasted);
            self.post_summary(now, channel, alert, self.naming.thread_of_isolation(isolation.since), commit);
        }
    }

    fn summary_channels(&self) -> BTreeSet<Name> {
        let named = self.plan.routes.iter().flat_map(|r| &r.steps).flat_map(|s| &s.to);
        named.filter(|channel| self.plan.channels.contains_key(*channel)).cloned().collect()
    }

    fn summary(&self, now: Timestamp, isolation: Isolation, lasted: Duration) -> Alert {
        let void = |t: &super::Tracked| t.track.memory.void.is_some_and(|void| void.since >= isolation.since);
        let checks = match self.tracks.values().filter(|t| void(t)).count() {
            0 => "no check was asked".to_owned(),
            1 => "1 check could not be judged".to_owned(),
            n => format!("{n} checks could not be judged"),
        };
        let opened = self.incidents.values().filter(|i| i.opened_at >= isolation.since).count();
        let declared = match opened {
            0 => "nothing was declared down".to_owned(),
            1 => "1 incident was opened by what a peer itself had said".to_owned(),
            n => format!("{n} incidents were opened by what peers themselves had said"),
        };
        Alert {
            kind: MessageKind::Isolated,
            incident: None,
            vantage: self.plan.vantage.clone(),
            service: SERVICE.parse().expect("`bongsu` is a name"),
            title: format!("bongsu on {}", self.plan.vantage),
            labels: BTreeMap::new(),
            severity: Severity::Degraded,
            cause: format!("none of {} canaries answered: {checks}; {declared}", isolation.canaries),
            started: Edge { after: isolation.after, by: isolation.since },
            ended: Some(Edge { after: None, by: now }),
            unwatched: false,
            duration_ms: u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX),
            checks: Vec::new(),
            others: Default::default(),
            acknowledged_by: None,
            next: None,
            instead_of: None,
            at: now,
        }
    }

    fn post_summary(&mut self, now: Timestamp, channel: Name, alert: Alert, thread: String, commit: &mut Commit) {
        let id = MessageId(self.next_message);
        self.next_message += 1;
        let message = Message {
            id,
            key: self.naming.key(id),
            channel,
            thread,
            position: 0,
            alert,
            created_at: now,
            state: MessageState::Pending,
            attempts: 0,
            next_at: now,
            last_error: None,
            settled_at: None,
            handed_over: false,
        };
        commit.messages.push(message.clone());
        self.messages.insert(id, message);
    }

    /// A summary that its channel does not take goes to its fallback, unless that got one in its own right.
    pub(super) fn hand_over_summary(&mut self, now: Timestamp, message: &Message, commit: &mut Commit) {
        let Some(fallback) = self.plan.channels.get(&message.channel).and_then(|c| c.fallback.clone()) else { return };
        if self.summary_channels().contains(&fallback) {
            return;
        }
        let error = message.last_error.clone().unwrap_or_default();
        let instead_of = Some(InsteadOf { channel: message.channel.clone(), error });
        let alert = Alert { instead_of, at: now, ..message.alert.clone() };
        self.post_summary(now, fallback, alert, message.thread.clone(), commit);
    }
}
