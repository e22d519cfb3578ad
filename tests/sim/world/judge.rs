//! What must hold in every world, and what is measured.

use std::collections::{BTreeMap, BTreeSet};

use bongsu::{
    alert::{Message, MessageId, MessageKind, MessageState},
    decide::Commit,
    detect::State,
    incident::{Edge, Incident, IncidentId, Severity},
    value::{CheckName, Name},
};

use super::{
    HOUR_MS, World,
    target::{Ill, Trouble},
    time::{Ms, ms},
};

/// Most violations kept; one defect shows itself many times.
const VIOLATIONS_MAX: usize = 20;

/// By how much a step may be late: the longest sleep of the clock, and as long as the store may refuse.
const LATE_MAX_MS: Ms = 90_000;

/// What was measured of detection.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Times from the beginning of an undisturbed outage to its incident, by how it broke.
    pub confirmed_ms: Vec<(Ill, Ms)>,
    /// Incidents with an outage that was none, or a degradation.
    pub false_pages: u64,
    /// Outages that were long enough, and whether an attempt saw each: seen, all.
    pub seen: (u64, u64),
    /// Of those the ones that became an incident.
    pub told: u64,
    /// Troubles in all.
    pub troubles: u64,
    /// Incidents in all.
    pub incidents: u64,
    /// Messages that were taken by a receiver, and repeats of them under their key.
    pub taken: (u64, u64),
}

/// What the world has seen being decided.
#[derive(Default)]
pub struct Judge {
    /// Every incident as it was written last.
    incidents: BTreeMap<IncidentId, Incident>,
    /// Every message as it was written last.
    pub messages: BTreeMap<MessageId, Message>,
    /// The outage behind a member of an incident, where there is just one.
    behind: BTreeMap<(IncidentId, CheckName), Trouble>,
    /// When the wall clock was set last.
    pub clock_set_at: Option<Ms>,
    /// Incidents in whose life the wall clock was set.
    timeless: BTreeSet<IncidentId>,
    acknowledged: BTreeMap<IncidentId, Ms>,
    /// What was measured.
    pub figures: Figures,
    /// What did not hold.
    pub violations: Vec<String>,
}

impl Judge {
    /// The members of an incident as it was written last.
    pub fn members(&self, id: Option<IncidentId>) -> Vec<CheckName> {
        let incident = id.and_then(|id| self.incidents.get(&id));
        incident.map_or_else(Vec::new, |i| i.members.keys().cloned().collect())
    }

    /// Whether it was open when it was written last.
    pub fn is_open(&self, id: IncidentId) -> bool {
        self.incidents.get(&id).is_some_and(Incident::is_open)
    }
}

impl World {
    pub(super) fn violation(&mut self, what: String) {
        if self.judge.violations.len() < VIOLATIONS_MAX {
            let (seed, at) = (self.scenario.seed, self.clock.now);
            self.judge.violations.push(format!("seed {seed}, after {at} ms: {what}"));
        }
    }

    /// Looks at what was just written.
    pub(super) fn judge_commit(&mut self, commit: &Commit) {
        for message in &commit.messages {
            let known = self.judge.messages.insert(message.id, message.clone());
            if known.is_none_or(|k| k.state == MessageState::Pending) {
                continue;
            }
            self.violation(format!("{} was settled and is written again", message.key));
        }
        for incident in &commit.incidents {
            self.judge_intervals(incident);
            let before = self.judge.incidents.insert(incident.id, incident.clone());
            if before.is_none() {
                self.judge_opening(incident, commit);
            }
            if self.judge.clock_set_at.is_some_and(|at| self.clock.now - at < 2 * HOUR_MS) {
                self.judge.timeless.insert(incident.id);
            }
            if incident.acknowledged.is_some() {
                self.judge.acknowledged.entry(incident.id).or_insert(self.clock.now);
            }
            let members = incident.members.iter();
            let began = members.filter(|(check, _)| before.as_ref().is_none_or(|b| !b.members.contains_key(*check)));
            for (check, member) in began.map(|(c, m)| (c.clone(), m.clone())).collect::<Vec<_>>() {
                self.judge_beginning(incident.id, &check, member.severity, member.started);
            }
            self.judge_ends(incident, before.as_ref());
        }
    }

    /// Both ends are intervals that begin before they end, the second is not before the first, and an incident holds
    /// its members.
    fn judge_intervals(&mut self, incident: &Incident) {
        let parts = incident.members.values().map(|m| (m.started, m.ended));
        for (started, ended) in parts.chain([(incident.started, incident.ended)]) {
            let is_wrong = started.after.is_some_and(|after| after > started.by)
                || ended.is_some_and(|e| e.after.is_some_and(|after| after > e.by) || e.by < started.by);
            let is_outside = started.by < incident.started.by
                || ended.is_some_and(|e| incident.ended.is_some_and(|whole| e.by > whole.by));
            if is_wrong || is_outside {
                self.violation(format!("{}: {started:?} to {ended:?} in {incident:?}", incident.id));
            }
        }
        if incident.is_open() == incident.ended.is_some() {
            self.violation(format!("{} is open and ended, or neither", incident.id));
        }
    }

    /// In such a world no moment of the wall clock stands for one of true time.
    fn was_clock_set(&self) -> bool {
        self.judge.clock_set_at.is_some()
    }

    /// A new incident is told by the steps that are due at once, in the same transaction.
    fn judge_opening(&mut self, incident: &Incident, commit: &Commit) {
        self.judge.figures.incidents += 1;
        let told: Vec<&Name> = commit
            .messages
            .iter()
            .filter(|m| m.alert.incident == Some(incident.id) && m.alert.kind == MessageKind::Problem)
            .map(|m| &m.channel)
            .collect();
        let expected = if incident.service.as_str() == "s1" { &["ops", "team"][..] } else { &["ops"][..] };
        for channel in expected {
            if told.iter().filter(|c| c.as_str() == *channel).count() != 1 {
                self.violation(format!("{}: {channel} is not told once of its beginning: {told:?}", incident.id));
            }
        }
    }

    /// Nothing is told that was not: behind an outage is an outage, or as many failures as make one by chance.
    fn judge_beginning(&mut self, id: IncidentId, check: &CheckName, severity: Severity, started: Edge) {
        let now = self.clock.now;
        let Some(index) = self.checks.iter().position(|c| c.name == *check) else { return };
        let window = ms(self.checks[index].thresholds.degraded.window);
        let every = ms(self.checks[index].schedule.interval(self.clock.wall()));
        let failures = self.checks[index].thresholds.failures as usize;
        let since = now - window.max(every * 20) - every * 2 - 120_000;
        let target = &self.targets[index];
        let (was_ill, faults) = (target.was_ill_since(since, now), target.faults_since(since));
        let fewest = if severity == Severity::Down { failures } else { 2 };
        if !was_ill {
            self.judge.figures.false_pages += 1;
            if faults < fewest {
                self.violation(format!("{id}: {check} is {severity} and only {faults} attempts ever failed"));
            }
            return;
        }
        let target = &self.targets[index];
        let Some(trouble) = target.trouble.filter(|t| t.ill.is_whole() && severity == Severity::Down) else { return };
        let is_alone = target.faults_since(trouble.from - window) == 0
            && target.mended_at.is_none_or(|at| at < trouble.from - window - every * 2)
            && self.disturbed < trouble.from - every * 2
            && self.targets[index].disturbed < trouble.from - every * 2
            && !self.was_clock_set();
        if !is_alone {
            return;
        }
        let (from, to) = (self.wall_at(trouble.from), self.wall_at(trouble.to));
        if started.by < from || started.by > to || started.after.is_some_and(|after| after >= from) {
            self.violation(format!("{id}: {check} was down from {from}, told as {started:?}"));
        }
        self.judge.figures.confirmed_ms.push((trouble.ill, now - trouble.from));
        self.judge.behind.insert((id, check.clone()), trouble);
    }

    fn wall_at(&self, at: Ms) -> bongsu::value::Timestamp {
        bongsu::value::Timestamp::from_millis(self.clock.wall().as_millis() - (self.clock.now - at))
    }

    /// The end of an outage lies within the interval that is told, and those who were told of it are told of its end.
    fn judge_ends(&mut self, incident: &Incident, before: Option<&Incident>) {
        for (check, member) in &incident.members {
            let Some(ended) = member.ended else { continue };
            let Some(trouble) = self.judge.behind.remove(&(incident.id, check.clone())) else { continue };
            let Some(index) = self.checks.iter().position(|c| c.name == *check) else { continue };
            let target = &self.targets[index];
            let is_clean = target.faults_since(trouble.from) == 0 && target.trouble == Some(trouble);
            let to = self.wall_at(trouble.to);
            if is_clean && !self.was_clock_set() && (ended.by < to || ended.after.is_some_and(|a| a >= to)) {
                self.violation(format!("{}: {check} was up from {to}, told as {ended:?}", incident.id));
            }
        }
        if !incident.is_open() && before.is_some_and(Incident::is_open) {
            self.judge_steps(incident);
        }
    }

    /// Once over, every step that was due has been told, and none twice.
    fn judge_steps(&mut self, incident: &Incident) {
        let lasted = ms(incident.closed_at.unwrap_or(incident.started.by).since(incident.started.by));
        let of = |channel: &str| {
            let to = |m: &&Message| m.alert.incident == Some(incident.id) && m.channel.as_str() == channel;
            self.judge.messages.values().filter(to).filter(|m| m.alert.instead_of.is_none()).collect::<Vec<_>>()
        };
        let count = |channel: &str, kind: MessageKind| of(channel).iter().filter(|m| m.alert.kind == kind).count();
        let mut wrong = Vec::new();
        for channel in ["ops", "team", "boss"] {
            if count(channel, MessageKind::Problem) > 1 {
                wrong
                    .push(format!("{channel} is told of its beginning {} times", count(channel, MessageKind::Problem)));
            }
        }
        let boss = of("boss").iter().filter(|m| !m.alert.kind.is_final()).count() as Ms;
        let repeats = lasted / HOUR_MS + 1;
        // What has become worse, or has recovered in part, is told beside the steps.
        let beside = |channel: &str| count(channel, MessageKind::Worse) + count(channel, MessageKind::Partial);
        // What is old already when it is known is told of several steps at once.
        let is_young = ms(incident.opened_at.since(incident.started.by)) < 300_000;
        let is_timely = !self.judge.timeless.contains(&incident.id);
        if is_timely && boss > repeats + beside("boss") as Ms {
            wrong.push(format!("boss was told {boss} times in {lasted} ms"));
        }
        if count("ops", MessageKind::Reminder) > 1 {
            wrong.push("the step of 30 m was told twice".into());
        }
        let undisturbed = self.disturbed < self.clock.now - LATE_MAX_MS;
        if is_timely && is_young && undisturbed && !self.judge.acknowledged.contains_key(&incident.id) {
            if lasted > 300_000 + LATE_MAX_MS && boss == 0 {
                wrong.push(format!("boss was not told within {lasted} ms"));
            }
            if lasted > 1_800_000 + LATE_MAX_MS && count("ops", MessageKind::Reminder) == 0 {
                wrong.push(format!("the step of 30 m was not told within {lasted} ms"));
            }
        }
        for text in wrong {
            self.violation(format!("{}: {text}", incident.id));
        }
    }

    /// An outage is old enough: it must be known by now, unless something has kept the agent from seeing it.
    pub(super) fn judge_found(&mut self, index: usize, trouble: Trouble) {
        self.judge.figures.troubles += 1;
        let now = self.clock.now;
        let every = ms(self.checks[index].schedule.interval(self.clock.wall()));
        let target = &self.targets[index];
        // At the end of a world troubles end early.
        let is_it = target.trouble == Some(trouble);
        if !is_it || !trouble.ill.is_whole() || self.disturbed.max(target.disturbed) > trouble.from - every * 2 {
            return;
        }
        if trouble.to - trouble.from > every * 5 / 4 {
            self.judge.figures.seen.1 += 1;
            let was_seen = target.failed_at.is_some_and(|at| at >= trouble.from);
            self.judge.figures.seen.0 += u64::from(was_seen);
            if !was_seen {
                self.violation(format!("c{index}: nobody saw {trouble:?}"));
            }
            let name = &self.checks[index].name;
            let is_told = self.judge.incidents.values().any(|i| {
                i.members.get(name).is_some_and(|m| m.confirmed_at >= self.wall_at(trouble.from))
                    || (i.is_open() && i.members.get(name).is_some_and(|m| m.ended.is_none()))
            });
            self.judge.figures.told += u64::from(is_told);
        }
        let Some(agent) = &self.agent else { return };
        let state = agent.core.state(&self.checks[index].name).map(|(state, _, _)| state);
        if trouble.to > now && state != Some(State::Down) {
            self.violation(format!("c{index}: {trouble:?} is not found by {now}: {state:?}"));
        }
    }

    /// Nothing was wrong for long enough: nothing is said to be.
    pub(super) fn judge_calm(&mut self, index: usize, trouble: Trouble) {
        let target = &self.targets[index];
        let since = trouble.to.min(self.clock.now);
        let is_calm = target.trouble == Some(trouble)
            && self.disturbed.max(target.disturbed) <= since
            && target.faults_since(since) == 0;
        let Some(agent) = self.agent.as_ref().filter(|_| is_calm) else { return };
        let name = &self.checks[index].name;
        let state = agent.core.state(name).map(|(state, _, _)| state);
        let lasts = agent.core.open_incidents().any(|i| i.members.get(name).is_some_and(|m| m.ended.is_none()));
        if lasts || state != Some(State::Up) {
            self.violation(format!("c{index}: it works since {since} and is {state:?}, in an incident: {lasts}"));
        }
    }

    /// After the quiet end: nothing is open, nothing on its way, and what is written is what was received.
    pub(super) fn judge_the_end(&mut self) {
        let mut wrong = Vec::new();
        for incident in self.judge.incidents.values().filter(|i| i.is_open()) {
            wrong.push(format!("{} is still open: {:?}", incident.id, incident.members));
        }
        let by_key: BTreeMap<&str, &Message> = self.judge.messages.values().map(|m| (m.key.as_str(), m)).collect();
        if by_key.len() != self.judge.messages.len() {
            wrong.push("two messages have one key".into());
        }
        for (name, receiver) in &self.receivers {
            wrong.extend(receiver.complaints.iter().map(|c| format!("{name} received {c}")));
            for (key, taken) in &receiver.taken {
                self.judge.figures.taken.0 += 1;
                self.judge.figures.taken.1 += u64::from(taken.times - 1);
                match by_key.get(key.as_str()) {
                    None => wrong.push(format!("{name} received {key}, which is not in the store")),
                    Some(m) if m.channel != *name => wrong.push(format!("{name} received {key} of {}", m.channel)),
                    Some(_) => {}
                }
            }
        }
        for message in self.judge.messages.values() {
            let receiver = &self.receivers[&message.channel];
            let was_taken = receiver.taken.contains_key(&message.key);
            match message.state {
                MessageState::Pending => wrong.push(format!("{} is still on its way", message.key)),
                MessageState::Delivered if !was_taken => wrong.push(format!("{} is not delivered", message.key)),
                MessageState::Refused if !receiver.refused.contains(&message.key) => {
                    wrong.push(format!("{} was not refused", message.key));
                }
                _ => {}
            }
            let story = (message.alert.incident, &message.channel);
            let is_end = |m: &&Message| (m.alert.incident, &m.channel) == story && m.alert.kind.is_final();
            let ends = self.judge.messages.values().filter(is_end).count();
            if message.alert.incident.is_some()
                && message.state == MessageState::Delivered
                && !message.alert.kind.is_final()
                && ends != 1
            {
                wrong.push(format!("{} was delivered, and {ends} ends were told", message.key));
            }
        }
        for text in wrong {
            self.violation(text);
        }
    }
}
