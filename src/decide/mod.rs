//! One event in, one commit out.
//!
//! [`Core`] holds what is known of every check and every incident that still concerns somebody. It is given events
//! with their time and answers each with one [`Commit`]: observation, new state, incident change and messages, which
//! the store writes in one transaction. It never reads a clock, sleeps, sends or stores; its only randomness is the
//! seeded jitter of the outbox. So the same events give the same commits, in a simulation, a replay and on every
//! member of a fleet.

mod isolation;
mod people;
mod plan_change;
mod telling;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

pub use self::{isolation::Sight, people::NOTE_CHARS_MAX, plan_change::Changes};
use crate::{
    alert::{ChannelPlan, Message, MessageId, Route, message::Attempted, plan},
    delivery::ledger,
    detect::{Change, Memory, Pace, State, Thresholds, Track, Trouble},
    incident::{Entry, Incident, IncidentId, TimelineEntry, Vantage, lifecycle::Lines},
    observation::{Correction, Flight, Observation},
    value::{CheckName, Labels, Name, Timestamp, digest_of},
};

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly all events are observations; a box for each would cost more")]
pub enum Event {
    /// A check is about to send messages.
    Sending {
        /// Which check.
        check: CheckName,
        /// Its messages.
        flights: Vec<Flight>,
    },
    /// An attempt of a check has its verdict.
    Observed {
        /// Of which check.
        check: CheckName,
        /// What it showed.
        observation: Observation,
    },
    /// A message that was pending or lost has met its fate.
    Corrected {
        /// Of which check.
        check: CheckName,
        /// What is known now.
        correction: Correction,
    },
    /// The notifier tried to deliver a message.
    Attempted {
        /// Which.
        message: MessageId,
        /// What came of it.
        result: Attempted,
    },
    /// Somebody has taken an incident in hand.
    Acknowledge {
        /// Which.
        incident: IncidentId,
        /// Who.
        by: String,
        /// What they say.
        note: String,
    },
    /// Somebody notes something.
    Note {
        /// On which incident.
        incident: IncidentId,
        /// Who.
        by: String,
        /// What they say.
        text: String,
    },
    /// What the agent's canaries say, when that has changed or an agent begins.
    Vantage(Sight),
    /// Time has passed: steps and repeats may be due.
    Tick,
}

/// Why an event was refused; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No incident with this number is open.
    #[error("no open incident has the number {}", .0.0)]
    NoSuchIncident(IncidentId),
    /// It is acknowledged already.
    #[error("incident {incident} is acknowledged already, by {by}")]
    AlreadyAcknowledged {
        /// Which.
        incident: IncidentId,
        /// By whom.
        by: String,
    },
}

/// What one event changes. The store writes it in one transaction, or nothing of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Commit {
    /// Messages about to be sent.
    pub sending: Option<(CheckName, Vec<Flight>)>,
    /// The observation.
    pub observation: Option<(CheckName, Observation)>,
    /// A correction of an earlier observation.
    pub correction: Option<(CheckName, Correction)>,
    /// The check's state, when it changed.
    pub state: Option<StateRow>,
    /// Incidents that are new or changed, whole.
    pub incidents: Vec<Incident>,
    /// New lines of timelines.
    pub timeline: Vec<TimelineEntry>,
    /// Messages that are new or changed, whole.
    pub messages: Vec<Message>,
    /// How the vantage stands, when that changed.
    pub vantage: Option<Vantage>,
}

impl Commit {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The durable part of a check's state.
#[derive(Clone, Debug, PartialEq)]
pub struct StateRow {
    /// The check.
    pub check: CheckName,
    /// The state's word, for the views.
    pub state: &'static str,
    /// Since when it is in that state.
    pub since: Timestamp,
    /// All that the detector must remember (a [`Memory`]), as JSON.
    pub memory: serde_json::Value,
}

/// What the core must know of a check; shared with others where it is the same.
#[derive(Clone, Debug)]
pub struct CheckPlan {
    /// The service's title.
    pub title: Arc<str>,
    /// Labels of service and check.
    pub labels: Arc<Labels>,
    /// When it is suspect, down, degraded.
    pub thresholds: Arc<Thresholds>,
    /// Checks it cannot work without.
    pub depends_on: Arc<[CheckName]>,
}

/// What the core must know of the configuration.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The vantage's name.
    pub vantage: Name,
    /// All checks.
    pub checks: BTreeMap<CheckName, CheckPlan>,
    /// Which incidents go where.
    pub routes: Vec<Route>,
    /// All channels.
    pub channels: BTreeMap<Name, ChannelPlan>,
}

/// What was stored, to go on from.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// The database's own identity, part of every message's key.
    pub instance: String,
    /// The detectors as they were.
    pub checks: HashMap<CheckName, Box<Tracked>>,
    /// Open incidents, and closed ones of which messages are still on their way.
    pub incidents: Vec<Incident>,
    /// Messages not yet settled.
    pub messages: Vec<Message>,
    /// The number of the next incident.
    pub next_incident: u64,
    /// The number of the next message.
    pub next_message: u64,
    /// How the vantage stood.
    pub vantage: Vantage,
}

/// All that is known, and the rules by which it changes.
pub struct Core {
    plan: Arc<Plan>,
    naming: telling::Naming,
    /// Boxed: the table has up to twice as many places as checks.
    tracks: HashMap<CheckName, Box<Tracked>>,
    incidents: BTreeMap<IncidentId, Incident>,
    messages: BTreeMap<MessageId, Message>,
    next_incident: u64,
    next_message: u64,
    vantage: Vantage,
    random: fastrand::Rng,
}

/// A check's detector, and what of it is stored.
#[derive(Clone, Debug, Default)]
pub struct Tracked {
    track: Track,
    /// The digest of the memory that is stored. That two differ and are taken for the same costs a restart the latest
    /// change of one check, and happens less often than that a disk forgets it.
    stored: Option<u64>,
}

impl Tracked {
    /// A detector with its stored memory, before it has taken in what was observed. Trouble that no open incident
    /// knows of ([`is_in_trouble`]: the check had left the configuration) is forgotten, so that it is detected, and
    /// told, anew.
    pub fn resume(memory: Memory, in_trouble: bool) -> Self {
        let stored = Some(digest_of(&memory));
        let memory = match memory.trouble.is_some() && !in_trouble {
            true => Memory { last_good: memory.last_good, ..Memory::default() },
            false => memory,
        };
        Self { track: Track::resume(memory), stored }
    }

    /// Counts anew what was being confirmed: for a time nobody has looked.
    pub fn confirm_anew(&mut self) {
        self.track.memory.confirm_anew();
    }

    /// Takes in an observation of before; oldest first, as far back as the window reaches.
    pub fn remember(&mut self, thresholds: &Thresholds, observation: &Observation) {
        self.track.remember(thresholds, observation);
    }
}

/// Whether one of these incidents is open for the check.
pub fn is_in_trouble(incidents: &[Incident], check: &CheckName) -> bool {
    incidents.iter().any(|i| i.is_open() && i.members.get(check).is_some_and(|m| m.ended.is_none()))
}

impl Core {
    /// A core that goes on from what was stored. `seed`: for the jitter of retries and the keys.
    pub fn new(plan: Arc<Plan>, past: Past, seed: u64) -> Self {
        let mut tracks = HashMap::with_capacity(plan.checks.len());
        let mut known = past.checks;
        for name in plan.checks.keys() {
            tracks.insert(name.clone(), known.remove(name).unwrap_or_default());
        }
        Self {
            plan,
            naming: telling::Naming::new(past.instance, seed),
            tracks,
            incidents: past.incidents.into_iter().map(|i| (i.id, i)).collect(),
            messages: past.messages.into_iter().map(|m| (m.id, m)).collect(),
            next_incident: past.next_incident.max(1),
            next_message: past.next_message.max(1),
            vantage: past.vantage,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// The plan in force.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Whether a check has a detector, which goes on whatever the store holds.
    pub fn tracks(&self, check: &CheckName) -> bool {
        self.tracks.contains_key(check)
    }

    /// The state of a check, since when, and whether it is flapping.
    pub fn state(&self, check: &CheckName) -> Option<(State, Timestamp, bool)> {
        self.tracks.get(check).map(|t| &t.track.memory).map(|m| (m.state, m.since, m.flapping))
    }

    /// How soon a check is to be asked again.
    pub fn pace(&self, check: &CheckName) -> Pace {
        match (self.tracks.get(check), self.plan.checks.get(check)) {
            (Some(tracked), Some(plan)) => tracked.track.pace(&plan.thresholds),
            _ => Pace::Regular,
        }
    }

    /// Checks that confirm a suspicion or a recovery, and how soon each is to be asked again.
    pub fn confirming(&self) -> impl Iterator<Item = (CheckName, Duration)> {
        self.tracks.keys().filter_map(|check| match self.pace(check) {
            Pace::Confirm(every) => Some((check.clone(), every)),
            Pace::Regular => None,
        })
    }

    /// Incidents that last.
    pub fn open_incidents(&self) -> impl Iterator<Item = &Incident> {
        self.incidents.values().filter(|i| i.is_open())
    }

    /// Messages not yet settled.
    pub fn unsettled(&self) -> impl Iterator<Item = &Message> {
        self.messages.values()
    }

    /// When to send [`Event::Tick`], if nothing else happens before.
    pub fn next_timeout(&self) -> Option<Timestamp> {
        let due = |i: &Incident| self.not_before(i, plan::next_due(&self.plan.routes, i)?);
        self.open_incidents().filter_map(due).min()
    }

    /// One event in, one commit out.
    ///
    /// # Errors
    /// When a person asks for something that does not exist or is done already.
    pub fn handle(&mut self, now: Timestamp, event: Event) -> Result<Commit, Refused> {
        let mut commit = Commit::default();
        match event {
            Event::Sending { check, flights } => commit.sending = Some((check, flights)),
            Event::Observed { check, observation } => self.observed(now, check, observation, &mut commit),
            Event::Corrected { check, correction } => self.corrected(now, check, correction, &mut commit),
            Event::Attempted { message, result } => self.attempted(now, message, &result, &mut commit),
            Event::Acknowledge { incident, by, note } => self.acknowledge(now, incident, &by, &note, &mut commit)?,
            Event::Note { incident, by, text } => self.note(now, incident, &by, &text, &mut commit)?,
            Event::Vantage(sight) => self.sighted(now, sight, &mut commit),
            Event::Tick => {
                let open: Vec<IncidentId> = self.open_incidents().map(|i| i.id).collect();
                for id in open {
                    self.tell_what_is_due(now, id, &mut commit);
                }
            }
        }
        self.forget_settled();
        Ok(commit)
    }

    fn observed(&mut self, now: Timestamp, check: CheckName, observation: Observation, commit: &mut Commit) {
        let (Some(tracked), Some(plan)) = (self.tracks.get_mut(&check), self.plan.checks.get(&check)) else {
            // The check has been removed while its attempt was on its way.
            return;
        };
        let judged_anew = self.vantage.mark(&mut tracked.track, observation.outcome);
        let changes = tracked.track.observe(&plan.thresholds, &observation);
        self.store_state(&check, commit);
        commit.observation = Some((check.clone(), observation));
        self.apply(now, &check, changes, commit);
        if judged_anew && let Some(id) = self.incident_of(&check) {
            self.tell_what_is_due(now, id, commit);
        }
    }

    fn corrected(&mut self, now: Timestamp, check: CheckName, correction: Correction, commit: &mut Commit) {
        let (Some(tracked), Some(plan)) = (self.tracks.get_mut(&check), self.plan.checks.get(&check)) else {
            return;
        };
        let missed = tracked.track.window.missing(correction.observed_at);
        let changes = tracked.track.correct(&plan.thresholds, &correction);
        self.store_state(&check, commit);
        let text = ledger::arrived_after_all(missed, &correction);
        if let (Some(id), Some(text)) = (self.incident_of(&check), text) {
            self.write_lines(now, id, vec![(Entry::Corrected, format!("{check}: {text}"))], commit);
        }
        commit.correction = Some((check.clone(), correction));
        self.apply(now, &check, changes, commit);
    }

    fn store_state(&mut self, check: &CheckName, commit: &mut Commit) {
        let Some(tracked) = self.tracks.get_mut(check) else { return };
        let durable = tracked.track.durable();
        let digest = digest_of(&durable);
        if tracked.stored.replace(digest) == Some(digest) {
            return;
        }
        // A memory holds only maps with text keys, numbers and texts, which JSON can always hold.
        let memory = serde_json::to_value(&durable).unwrap_or_default();
        let row = StateRow { check: check.clone(), state: durable.state.as_str(), since: durable.since, memory };
        commit.state = Some(row);
    }

    /// The open incident a check is a lasting or former member of.
    fn incident_of(&self, check: &CheckName) -> Option<IncidentId> {
        self.open_incidents().find(|i| i.members.contains_key(check)).map(|i| i.id)
    }

    fn apply(&mut self, now: Timestamp, check: &CheckName, changes: Vec<Change>, commit: &mut Commit) {
        for change in changes {
            let (id, lines) = match &change {
                Change::Began(trouble) => self.began(now, check, trouble),
                other => {
                    let Some(id) = self.incident_of(check) else { continue };
                    let Some(incident) = self.incidents.get_mut(&id) else { continue };
                    (id, incident.change(check, other, now))
                }
            };
            self.write_lines(now, id, lines, commit);
            self.after_change(now, id, commit);
        }
    }

    /// Confirmed trouble joins the incident of its own service, or of a failed check it depends on, or opens one.
    fn began(&mut self, now: Timestamp, check: &CheckName, trouble: &Trouble) -> (IncidentId, Lines) {
        let (title, labels) =
            self.plan.checks.get(check).map_or_else(Default::default, |c| (c.title.clone(), c.labels.clone()));
        let flapping = self.tracks.get(check).is_some_and(|t| t.track.memory.flapping);
        let (id, mut lines) = match self.home_of(check) {
            Some(id) => match self.incidents.get_mut(&id) {
                Some(incident) => (id, incident.join(check, &labels, trouble, now)),
                None => (id, Lines::new()),
            },
            None => {
                let id = IncidentId(self.next_incident);
                self.next_incident += 1;
                let incident = Incident::open(id, check, &title, &labels, trouble, now);
                let line = format!("{check} is {}: {}", trouble.severity, incident.cause);
                self.incidents.insert(id, incident);
                (id, vec![(Entry::Opened, line)])
            }
        };
        if flapping && let Some(incident) = self.incidents.get_mut(&id) {
            lines.extend(incident.change(check, &Change::Flapping(true), now));
        }
        (id, lines)
    }

    fn home_of(&self, check: &CheckName) -> Option<IncidentId> {
        let service = check.service();
        let failed: BTreeSet<CheckName> = self.failed_dependencies(check);
        self.open_incidents()
            .find(|i| i.service == service || i.members.contains_key(check))
            .or_else(|| {
                self.open_incidents().find(|i| i.members.iter().any(|(c, m)| m.ended.is_none() && failed.contains(c)))
            })
            .map(|i| i.id)
    }

    /// What `check` depends on, directly or not, as far as it is in confirmed trouble. Bounded by the number of
    /// checks, also should a plan hold a circle.
    fn failed_dependencies(&self, check: &CheckName) -> BTreeSet<CheckName> {
        let mut seen = BTreeSet::new();
        let mut open = vec![check.clone()];
        while let Some(next) = open.pop() {
            for dependency in self.plan.checks.get(&next).map_or(&[][..], |c| &c.depends_on) {
                if seen.insert(dependency.clone()) {
                    open.push(dependency.clone());
                }
            }
        }
        seen.retain(|c| self.tracks.get(c).is_some_and(|t| t.track.memory.trouble.is_some()));
        seen
    }

    fn after_change(&mut self, now: Timestamp, id: IncidentId, commit: &mut Commit) {
        match self.incidents.get(&id) {
            Some(incident) if incident.is_open() => self.tell_what_is_due(now, id, commit),
            Some(_) => self.tell_the_end(now, id, commit),
            None => return,
        }
        self.write_incident(id, commit);
    }

    fn write_lines(&self, now: Timestamp, id: IncidentId, lines: Lines, commit: &mut Commit) {
        let entry = |(entry, text): (Entry, String)| TimelineEntry { incident: id, at: now, entry, text };
        commit.timeline.extend(lines.into_iter().map(entry));
    }

    /// Puts the incident as it is now into the commit, once.
    fn write_incident(&self, id: IncidentId, commit: &mut Commit) {
        let Some(incident) = self.incidents.get(&id) else { return };
        commit.incidents.retain(|i| i.id != id);
        commit.incidents.push(incident.clone());
    }

    /// Closed incidents of which nothing is on its way any more are the store's alone.
    fn forget_settled(&mut self) {
        self.messages.retain(|_, m| m.state == crate::alert::MessageState::Pending);
        let waiting: BTreeSet<IncidentId> = self.messages.values().filter_map(|m| m.alert.incident).collect();
        self.incidents.retain(|id, i| i.is_open() || waiting.contains(id));
    }
}

#[cfg(test)]
mod tests;
