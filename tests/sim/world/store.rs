//! What survives the agent: a model of the store, and where asked for the real one beside it.
//!
//! The model keeps what [`Writer`] would give back. With a twin, every commit goes to both, and at every start both
//! must give the same back.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    path::Path,
    time::Duration,
};

use bongsu::{
    alert::{Message, MessageId, MessageState},
    decide::{Commit, Past, Plan, Tracked, is_in_trouble},
    detect::Memory,
    incident::{Incident, IncidentId, Vantage},
    observation::{Flight, Observation},
    store::{RECENT_MIN, Watched, Writer},
    value::{CheckName, Timestamp},
};

/// Observations kept of a check: what any window of the simulated checks holds.
const RECENT_KEPT: usize = 400;

/// What is known of one check.
#[derive(Default)]
struct Known {
    memory: Option<serde_json::Value>,
    recent: VecDeque<Observation>,
    flights: Vec<Flight>,
    sequence: u64,
}

/// What a check goes on from: what its detector remembered, and its latest observations, oldest first.
type Remembered = (Option<Memory>, Vec<Observation>);

/// The store.
#[derive(Default)]
pub struct Store {
    checks: HashMap<CheckName, Known>,
    incidents: BTreeMap<IncidentId, Incident>,
    messages: BTreeMap<MessageId, Message>,
    next_incident: u64,
    next_message: u64,
    vantage: Vantage,
    twin: Option<Writer>,
}

impl Store {
    /// An empty one; with a path, the real one is written beside it.
    pub fn new(twin: Option<&Path>, now: Timestamp) -> Self {
        let open = |path: &Path| Writer::open(path, now).expect("a fresh database can be made");
        Self { twin: twin.map(open), ..Self::default() }
    }

    /// Writes a group.
    pub fn commit(&mut self, group: &[Commit]) {
        for commit in group {
            self.write(commit);
        }
        if let Some(twin) = &mut self.twin {
            twin.commit(group).expect("the database can be written");
        }
    }

    fn write(&mut self, commit: &Commit) {
        if let Some((check, flights)) = &commit.sending {
            let known = self.checks.entry(check.clone()).or_default();
            known.flights.extend(flights.iter().copied());
            known.sequence = flights.iter().map(|f| f.sequence).max().unwrap_or(0).max(known.sequence);
        }
        if let Some((check, observation)) = &commit.observation {
            let known = self.checks.entry(check.clone()).or_default();
            if let Some(delivery) = &observation.delivery {
                settle(&mut known.flights, observation.at, &delivery.open);
            }
            let mut stored = observation.clone();
            stored.delivery = stored.delivery.map(|d| bongsu::observation::Delivery { open: Vec::new(), ..d });
            if known.recent.len() == RECENT_KEPT {
                known.recent.pop_front();
            }
            known.recent.push_back(stored);
        }
        if let Some((check, correction)) = &commit.correction {
            let known = self.checks.entry(check.clone()).or_default();
            settle(&mut known.flights, correction.observed_at, &correction.delivery.open);
            if let Some(found) = known.recent.iter_mut().rev().find(|o| o.at == correction.observed_at) {
                found.outcome = correction.outcome;
                found.reason.clone_from(&correction.reason);
                found.delivery =
                    Some(bongsu::observation::Delivery { open: Vec::new(), ..correction.delivery.clone() });
            }
        }
        if let Some(row) = &commit.state {
            self.checks.entry(row.check.clone()).or_default().memory = Some(row.memory.clone());
        }
        if let Some(vantage) = &commit.vantage {
            self.vantage = vantage.clone();
        }
        for incident in &commit.incidents {
            self.next_incident = self.next_incident.max(incident.id.0);
            self.incidents.insert(incident.id, incident.clone());
        }
        for message in &commit.messages {
            self.next_message = self.next_message.max(message.id.0);
            self.messages.insert(message.id, message.clone());
        }
    }

    /// What the core goes on from.
    pub fn restore(&mut self, instance: &str, now: Timestamp, watched: &[Watched], plan: &Plan) -> Past {
        let recent = |w: &Watched| -> Option<Vec<Observation>> {
            let all = &self.checks.get(&w.check)?.recent;
            let since = now - w.window;
            let beyond = all.iter().rev().enumerate().find(|(n, o)| *n >= RECENT_MIN && o.at < since);
            let kept = beyond.map_or(all.len(), |(n, _)| n);
            let mut kept: Vec<Observation> = all.iter().skip(all.len() - kept).cloned().collect();
            kept.sort_by_key(|o| o.at);
            Some(kept)
        };
        let remembered: BTreeMap<CheckName, Remembered> = watched
            .iter()
            .map(|w| {
                let memory = self.checks.get(&w.check).and_then(|k| k.memory.clone());
                let memory = memory.map(|m| serde_json::from_value(m).expect("a memory is read as it was written"));
                (w.check.clone(), (memory, recent(w).unwrap_or_default()))
            })
            .collect();
        self.messages.retain(|_, m| m.state == MessageState::Pending);
        let waiting: BTreeSet<IncidentId> = self.messages.values().filter_map(|m| m.alert.incident).collect();
        self.incidents.retain(|id, i| i.is_open() || waiting.contains(id));
        let incidents: Vec<Incident> = self.incidents.values().cloned().collect();
        let tracked = |(name, (memory, recent)): (&CheckName, &Remembered)| {
            let resume = |memory| Tracked::resume(memory, is_in_trouble(&incidents, name));
            let mut tracked = memory.clone().map_or_else(Tracked::default, resume);
            recent.iter().for_each(|o| tracked.remember(&plan.checks[name].thresholds, o));
            (name.clone(), Box::new(tracked))
        };
        let past = Past {
            instance: instance.to_owned(),
            checks: remembered.iter().map(tracked).collect(),
            incidents,
            messages: self.messages.values().cloned().collect(),
            next_incident: self.next_incident + 1,
            next_message: self.next_message + 1,
            vantage: self.vantage.clone(),
        };
        self.compare(&past, &remembered, now, watched);
        past
    }

    /// The messages of a check whose fate is open, and the highest sequence used.
    pub fn flights(&self, check: &CheckName) -> (Vec<Flight>, u64) {
        let known = self.checks.get(check);
        known.map_or_else(Default::default, |k| {
            let mut flights = k.flights.clone();
            flights.sort_by_key(|f| (f.observed_at, f.sequence));
            (flights, k.sequence)
        })
    }

    fn compare(
        &mut self,
        past: &Past,
        remembered: &BTreeMap<CheckName, Remembered>,
        now: Timestamp,
        watched: &[Watched],
    ) {
        let Some(twin) = &mut self.twin else { return };
        let real = twin.restore(watched).expect("the database can be read");
        let (mut states, mut found) = (HashMap::new(), vec![Vec::new(); watched.len()]);
        twin.states(|check, state| drop(states.insert(check, state))).expect("the database can be read");
        twin.recent(now, watched, |place, o| found[place].push(o.clone())).expect("the database can be read");
        assert_eq!(real.incidents, past.incidents, "open incidents");
        assert_eq!(real.messages, past.messages, "pending messages");
        assert_eq!(real.vantage, past.vantage, "the vantage");
        assert_eq!((real.next_incident.0, real.next_message.0), (past.next_incident, past.next_message));
        for (w, found) in watched.iter().zip(found) {
            let (memory, recent) = &remembered[&w.check];
            let stored = states.get(&w.check).map(|s| serde_json::from_value(s.memory.clone()).expect("a memory"));
            assert_eq!(&stored, memory, "{}", w.check);
            assert_eq!(found.len(), recent.len(), "{}", w.check);
            for (real, model) in found.iter().zip(recent) {
                let of =
                    |o: &Observation| (o.at, o.outcome, o.latency().max(Duration::from_millis(1)), o.reason.clone());
                assert_eq!(of(real), of(model), "{}", w.check);
                assert_eq!(real.delivery, model.delivery, "{}", w.check);
            }
            let resumed = twin.resume(&w.check).expect("the database can be read");
            assert_eq!(
                resumed.flights,
                self.checks
                    .get(&w.check)
                    .map(|k| {
                        let mut flights = k.flights.clone();
                        flights.sort_by_key(|f| (f.observed_at, f.sequence));
                        flights
                    })
                    .unwrap_or_default(),
                "{}",
                w.check
            );
        }
    }
}

fn settle(flights: &mut Vec<Flight>, observed_at: Timestamp, open: &[Flight]) {
    flights.retain(|f| f.observed_at != observed_at);
    flights.extend(open.iter().copied());
}
