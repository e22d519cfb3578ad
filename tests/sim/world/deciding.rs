//! What the agent's core thread and its channels do: decide jobs, write groups, show what is written, deliver.

use std::{collections::VecDeque, hash::Hasher};

use bongsu::{
    alert::{Message, MessageId, MessageKind, MessageState, message::Attempted, outbox},
    decide::{Commit, Event},
    value::Name,
};

use super::{
    What, World,
    asking::Asker,
    sites::Site,
    time::{Ms, ms},
};

/// Most jobs of one group.
const GROUP_MAX: usize = 512;

/// Pause between tries to write a group.
const WRITE_RETRY_MS: Ms = 1_000;

/// Longest sleep of the clock task and of a channel.
const LOOK_AT_LEAST_EVERY_MS: Ms = 30_000;

/// What waits on the core's thread.
#[derive(Default)]
pub struct Heart {
    jobs: VecDeque<(Event, Option<Asker>)>,
    /// A group that the store has refused.
    stuck: Option<Stuck>,
    /// Until when the clock task sleeps.
    tick_at: Option<Ms>,
    writing: bool,
}

struct Stuck {
    group: Vec<Commit>,
    askers: Vec<Asker>,
    /// How often it still will be.
    tries: u32,
}

/// One channel's loop.
#[derive(Default)]
pub struct Line {
    pending: std::collections::BTreeMap<MessageId, Message>,
    /// What is being delivered, until what came of it is written.
    pub sending: Option<MessageId>,
    /// What will come of it.
    result: Option<Attempted>,
}

impl Line {
    /// Of each incident the oldest.
    fn firsts(&self) -> impl Iterator<Item = &Message> {
        let mut seen = Vec::new();
        self.pending.values().filter(move |m| {
            let is_first = m.alert.incident.is_none_or(|id| !seen.contains(&id));
            seen.extend(m.alert.incident);
            is_first
        })
    }
}

impl World {
    /// Something for the core.
    pub(super) fn job(&mut self, event: Event, asker: Option<Asker>) {
        if matches!(event, Event::Observed { .. } | Event::Corrected { .. }) {
            self.observations += 1;
        }
        let Some(agent) = &mut self.agent else { return };
        agent.heart.jobs.push_back((event, asker));
        self.beat();
    }

    /// Takes what is in the queue, group by group, as long as the store writes.
    fn beat(&mut self) {
        loop {
            let wall = self.clock.wall();
            let Some(agent) = &mut self.agent else { return };
            if agent.heart.stuck.is_some() || agent.heart.writing || agent.heart.jobs.is_empty() {
                return;
            }
            let count = agent.heart.jobs.len().min(GROUP_MAX);
            let jobs: Vec<_> = agent.heart.jobs.drain(..count).collect();
            let mut group = Vec::with_capacity(jobs.len());
            let mut askers = Vec::new();
            for (event, asker) in jobs {
                // Somebody may acknowledge what has just ended.
                if let Ok(commit) = agent.core.handle(wall, event) {
                    group.push(commit);
                    askers.extend(asker);
                }
            }
            if !self.write(group, askers) {
                return;
            }
        }
    }

    /// Writes a group, unless the store refuses or the agent is killed; whether it is written and the agent lives.
    pub(super) fn write(&mut self, group: Vec<Commit>, askers: Vec<Asker>) -> bool {
        let is_rich = group.iter().any(|c| !c.incidents.is_empty() || !c.messages.is_empty() || c.vantage.is_some());
        if is_rich && self.random.f64() < self.rates.kill {
            self.sites.hit(Site::KilledBeforeCommit);
            self.kill();
            return false;
        }
        if is_rich && self.random.f64() < self.rates.store {
            self.sites.hit(Site::StoreRefuses);
            let tries = self.random.u32(1..20);
            if let Some(agent) = &mut self.agent {
                agent.heart.stuck = Some(Stuck { group, askers, tries });
            }
            self.queue.push(self.clock.now + WRITE_RETRY_MS, self.owner(), What::StoreAgain);
            return false;
        }
        self.written(&group, askers, is_rich)
    }

    pub(super) fn store_again(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        let Some(stuck) = &mut agent.heart.stuck else { return };
        stuck.tries -= 1;
        self.disturbed = self.disturbed.max(self.clock.now);
        if stuck.tries > 0 {
            self.queue.push(self.clock.now + WRITE_RETRY_MS, self.owner(), What::StoreAgain);
            return;
        }
        let Some(Stuck { group, askers, .. }) = agent.heart.stuck.take() else { return };
        if self.written(&group, askers, true) {
            self.beat();
        }
    }

    fn written(&mut self, group: &[Commit], askers: Vec<Asker>, is_rich: bool) -> bool {
        self.store.commit(group);
        if is_rich {
            self.hasher.write_i64(self.clock.now);
            self.hasher.write(format!("{group:?}").as_bytes());
            let ends_on_the_way = self.ends_on_the_way(group);
            for commit in group {
                self.judge_commit(commit);
            }
            if self.random.f64() < self.rates.kill {
                self.sites.hit(Site::KilledAfterCommit);
                self.kill();
                return false;
            }
            if ends_on_the_way && self.random.f64() < self.rates.kill_at_end {
                self.sites.hit(Site::KilledAtTheEnd);
                self.kill();
                return false;
            }
        }
        // What follows may bring further jobs; they are written one group after the other.
        if let Some(agent) = &mut self.agent {
            agent.heart.writing = true;
        }
        if is_rich {
            let messages: Vec<Message> = group.iter().flat_map(|c| c.messages.iter().cloned()).collect();
            self.post(&messages);
            if group.iter().any(|c| c.vantage.is_some()) {
                let channels: Vec<Name> = self.plan.channels.keys().cloned().collect();
                channels.iter().for_each(|channel| self.look(channel));
            }
        }
        self.plan_tick();
        for asker in askers {
            self.answer(asker);
        }
        if let Some(agent) = &mut self.agent {
            agent.heart.writing = false;
        }
        true
    }

    /// Whether an incident ends with this group of which a message is being delivered.
    fn ends_on_the_way(&self, group: &[Commit]) -> bool {
        let Some(agent) = &self.agent else { return false };
        let lines = agent.lines.values().filter(|line| line.result.is_some());
        let sending: Vec<&Message> = lines.filter_map(|l| l.pending.get(&l.sending?)).collect();
        let mut ended = group.iter().flat_map(|c| &c.incidents).filter(|i| !i.is_open() && self.judge.is_open(i.id));
        ended.any(|incident| sending.iter().any(|m| m.alert.incident == Some(incident.id)))
    }

    /// Tells somebody that what they told is written.
    fn answer(&mut self, asker: Asker) {
        match asker {
            Asker::Check { index, number, at } => {
                let Some(agent) = &self.agent else { return };
                let pace = agent.core.pace(&self.checks[index].name);
                self.paced(index, number, at, pace);
            }
            Asker::Line(channel) => {
                if let Some(line) = self.agent.as_mut().and_then(|a| a.lines.get_mut(&channel)) {
                    line.sending = None;
                }
                self.look(&channel);
            }
        }
    }

    /// Plans the core's next look at the time: when it asks for it, seen by the wall clock as it is now.
    fn plan_tick(&mut self) {
        let (now, wall) = (self.clock.now, self.clock.wall());
        let owner = self.owner();
        let Some(agent) = &mut self.agent else { return };
        let Some(due) = agent.core.next_timeout() else { return };
        let at = now + ms(due.since(wall)).min(LOOK_AT_LEAST_EVERY_MS) + 1;
        if agent.heart.tick_at.is_some_and(|planned| planned > now && planned <= at) {
            return;
        }
        agent.heart.tick_at = Some(at);
        self.queue.push(at, owner, What::Tick);
    }

    /// The clock task wakes.
    pub(super) fn tick(&mut self) {
        let wall = self.clock.wall();
        let Some(agent) = &mut self.agent else { return };
        agent.heart.tick_at = None;
        if agent.core.next_timeout().is_some_and(|due| due <= wall) {
            self.job(Event::Tick, None);
        }
        self.plan_tick();
    }

    /// Shows committed messages to their channels.
    pub(super) fn post(&mut self, messages: &[Message]) {
        let Some(agent) = &mut self.agent else { return };
        let mut concerned = Vec::new();
        for message in messages {
            let Some(line) = agent.lines.get_mut(&message.channel) else { continue };
            if message.state == MessageState::Pending {
                line.pending.insert(message.id, message.clone());
            } else {
                line.pending.remove(&message.id);
            }
            if !concerned.contains(&message.channel) {
                concerned.push(message.channel.clone());
            }
        }
        for channel in concerned {
            self.look(&channel);
        }
    }

    /// A channel looks for what is due, and delivers it.
    pub(super) fn look(&mut self, channel: &Name) {
        let (now, wall, owner) = (self.clock.now, self.clock.wall(), self.owner());
        let is_isolated = self.agent.as_ref().is_some_and(|a| a.core.isolation().is_some());
        let Some(line) = self.agent.as_mut().and_then(|a| a.lines.get_mut(channel)) else { return };
        if line.sending.is_some() || is_isolated {
            return;
        }
        let is_due = |m: &&Message| m.next_at <= wall || m.next_at.since(wall) > outbox::RETRY_AFTER_MAX;
        let Some(message) = line.firsts().filter(is_due).min_by_key(|m| (m.next_at, m.id)).cloned() else {
            if let Some(next) = line.firsts().map(|m| m.next_at).min() {
                let at = now + ms(next.since(wall)).min(LOOK_AT_LEAST_EVERY_MS) + 1;
                self.queue.push(at, owner, What::Look(channel.clone()));
            }
            return;
        };
        self.hasher.write_i64(now);
        self.hasher.write(message.key.as_bytes());
        if message.alert.kind == MessageKind::Problem && self.random.f64() < self.rates.brief {
            self.end_early(&message);
        }
        let Some(receiver) = self.receivers.get_mut(channel) else { return };
        let is_cut = now < self.cut_until;
        let (result, took) = receiver.deliver(&message, (now, is_cut), &self.rates, &mut self.random, &mut self.sites);
        let is_known = self.judge.messages.get(&message.id).is_some_and(|m| m.key == message.key);
        if let Some(line) = self.agent.as_mut().and_then(|a| a.lines.get_mut(channel)) {
            (line.sending, line.result) = (Some(message.id), Some(result));
        }
        if !is_known {
            self.violation(format!("{} was sent before its row was written", message.key));
        }
        self.queue.push(now + took, owner, What::Attempted(channel.clone()));
    }

    /// What this message tells is over by now, and its receiver does not answer until that is known.
    fn end_early(&mut self, message: &Message) {
        let (now, names) = (self.clock.now, self.judge.members(message.alert.incident));
        for (check, target) in self.checks.iter().zip(&mut self.targets) {
            if let Some(trouble) = target.trouble.as_mut().filter(|_| names.contains(&check.name)) {
                trouble.to = trouble.to.min(now);
            }
        }
        if let Some(receiver) = self.receivers.get_mut(&message.channel) {
            // Some good attempts at the pace of a confirmation, a tenth of the interval.
            receiver.hung_until = now + ms(self.scenario.every) / 10 * 4;
        }
    }

    /// A delivery has come to something: that is written before the next is looked for.
    pub(super) fn attempted(&mut self, channel: &Name) {
        let Some(line) = self.agent.as_mut().and_then(|a| a.lines.get_mut(channel)) else { return };
        let (Some(message), Some(result)) = (line.sending, line.result.take()) else { return };
        self.job(Event::Attempted { message, result }, Some(Asker::Line(channel.clone())));
    }
}
