//! The part of the core that makes messages and follows their delivery.

use super::{Commit, Core};
use crate::{
    alert::{
        Alert, InsteadOf, Message, MessageId, MessageKind, MessageState, compose,
        message::Attempted,
        outbox,
        plan::{self, Planned},
    },
    incident::{Entry, IncidentId, told::ToldChannel},
    value::{CheckName, Name, Timestamp},
};

/// What messages are called.
pub(super) struct Naming {
    instance: String,
    run: u32,
}

impl Naming {
    pub(super) fn new(instance: String, seed: u64) -> Self {
        Self { instance, run: fastrand::Rng::with_seed(seed).u32(..) }
    }

    /// The idempotency key. It names the run as well: a message may be told before its row is written, and should the
    /// row never be, the next run gives its number to another message.
    pub(super) fn key(&self, id: MessageId) -> String {
        format!("bongsu-{}-{id}-{:08x}", self.instance, self.run)
    }

    fn thread(&self, incident: IncidentId) -> String {
        format!("{}-{}", self.instance, incident.0)
    }

    /// The thread of an isolation's messages: no incident's.
    pub(super) fn thread_of_isolation(&self, since: Timestamp) -> String {
        format!("{}-isolated-{}", self.instance, since.as_millis())
    }
}

impl Core {
    /// Makes the messages that routes and steps ask for now.
    pub(super) fn tell_what_is_due(&mut self, now: Timestamp, id: IncidentId, commit: &mut Commit) {
        let waits = |i| self.not_before(i, now).is_none_or(|at| at > now);
        if self.incidents.get(&id).is_none_or(waits) {
            return;
        }
        let Some(incident) = self.incidents.get_mut(&id) else { return };
        let due = plan::due(&self.plan.routes, incident, now);
        if due == plan::Due::default() {
            return;
        }
        incident.told.steps.extend(due.fired);
        if due.messages.iter().any(|m| m.kind == MessageKind::Partial) {
            incident.told.partial_at = Some(now);
        }
        let withheld = due.withheld.into_iter().map(|(channel, why)| (Entry::NotTold, format!("{channel}: {why}")));
        self.write_lines(now, id, withheld.collect(), commit);
        for planned in due.messages {
            self.tell(now, id, &planned, commit);
        }
        self.write_incident(id, commit);
    }

    fn tell(&mut self, now: Timestamp, id: IncidentId, planned: &Planned, commit: &mut Commit) {
        // Told of it once, and taken out of the configuration since.
        if !self.plan.channels.contains_key(&planned.channel) {
            return;
        }
        let Some(alert) = self.compose(id, planned.kind, now) else { return };
        self.post(now, planned.channel.clone(), alert, now, &planned.because, commit);
    }

    fn compose(&self, id: IncidentId, kind: MessageKind, now: Timestamp) -> Option<Alert> {
        let incident = self.incidents.get(&id)?;
        let recent = |check: &CheckName| self.tracks.get(check).map(|t| t.track.window.points()).unwrap_or_default();
        let mut alert = compose::compose(incident, kind, &self.plan.vantage, now, recent);
        alert.next = plan::told_next(&self.plan.routes, incident);
        Some(alert)
    }

    /// Puts a message into the outbox: the one place where messages are made.
    fn post(&mut self, now: Timestamp, channel: Name, alert: Alert, at: Timestamp, because: &str, commit: &mut Commit) {
        let Some(incident) = alert.incident.and_then(|id| self.incidents.get_mut(&id)) else { return };
        let id = MessageId(self.next_message);
        self.next_message += 1;
        let told = incident.told.channels.entry(channel.clone()).or_insert_with(|| ToldChannel {
            severity: alert.severity,
            first_at: now,
            pending: Vec::new(),
            reached: false,
            messages: 0,
            ended: false,
        });
        told.severity = told.severity.max(alert.severity);
        told.pending.push(id);
        told.ended |= alert.kind.is_final();
        let message = Message {
            id,
            key: self.naming.key(id),
            channel: channel.clone(),
            thread: self.naming.thread(incident.id),
            position: told.messages,
            alert,
            created_at: now,
            state: MessageState::Pending,
            attempts: 0,
            next_at: at,
            last_error: None,
            settled_at: None,
            handed_over: false,
        };
        told.messages += 1;
        let incident = incident.id;
        let line = format!("{channel}: {} ({because})", message.alert.kind.as_str());
        self.write_lines(now, incident, vec![(Entry::Told, line)], commit);
        commit.messages.push(message.clone());
        self.messages.insert(id, message);
    }

    /// The incident is over: whoever was told of it is told so. For a channel that nothing has reached yet, the end
    /// waits until its latest attempt is known: see [`Core::end_for_channel`].
    pub(super) fn tell_the_end(&mut self, now: Timestamp, id: IncidentId, commit: &mut Commit) {
        let Some(incident) = self.incidents.get(&id) else { return };
        let channels: Vec<Name> = incident.told.channels.keys().cloned().collect();
        for channel in channels {
            self.end_for_channel(now, id, &channel, false, commit);
        }
        self.write_incident(id, commit);
    }

    /// Tells one channel of the end. A channel that was reached gets a recovery. One that nothing has reached gets
    /// the whole story in one message, in the place of what is still on its way; but only once an attempt has failed
    /// (`failed`, or known from the message itself): before, a message may be arriving at this moment.
    fn end_for_channel(&mut self, now: Timestamp, id: IncidentId, channel: &Name, failed: bool, commit: &mut Commit) {
        let Some(told) = self.incidents.get(&id).and_then(|i| i.told.channels.get(channel)) else { return };
        if told.ended {
            return;
        }
        if !self.plan.channels.contains_key(channel) {
            let line = format!("{channel}: {}", plan::WhyNot::Gone);
            self.write_lines(now, id, vec![(Entry::NotTold, line)], commit);
            return;
        }
        let pending = told.pending.clone();
        let waiting = |id: &MessageId| self.messages.get(id).is_some_and(|m| m.attempts > 0 && m.next_at > now);
        let (kind, at) = if told.reached {
            (MessageKind::Recovery, now)
        } else if pending.is_empty() {
            // Refused or given up; its fallback was told, and gets the end itself.
            return;
        } else if failed || pending.iter().all(waiting) {
            let at = pending.iter().filter_map(|id| self.messages.get(id)).map(|m| m.next_at).max().unwrap_or(now);
            (MessageKind::Past, at)
        } else {
            return;
        };
        for message in pending {
            self.supersede(now, message, commit);
        }
        if let Some(alert) = self.compose(id, kind, now) {
            let because = if alert.unwatched { "it is no longer watched" } else { "it is over" };
            self.post(now, channel.clone(), alert, at, because, commit);
        }
    }

    fn supersede(&mut self, now: Timestamp, id: MessageId, commit: &mut Commit) {
        let Some(message) = self.messages.get_mut(&id) else { return };
        message.state = MessageState::Superseded;
        message.settled_at = Some(now);
        let (channel, incident) = (message.channel.clone(), message.alert.incident);
        write_message(message.clone(), commit);
        self.settle(incident, &channel, id, false);
    }

    /// Takes a message off the channel's list of those on their way.
    fn settle(&mut self, incident: Option<IncidentId>, channel: &Name, id: MessageId, reached: bool) {
        let told = incident.and_then(|i| self.incidents.get_mut(&i)).and_then(|i| i.told.channels.get_mut(channel));
        if let Some(told) = told {
            told.pending.retain(|p| *p != id);
            told.reached |= reached;
        }
    }

    /// An attempt to deliver a message has come to something.
    pub(super) fn attempted(&mut self, now: Timestamp, id: MessageId, result: &Attempted, commit: &mut Commit) {
        // A message that was superseded while it was being sent is settled already.
        let Some(message) = self.messages.get_mut(&id) else { return };
        let step = outbox::after_attempt(message, result, now, &mut self.random);
        step.apply(message);
        let message = message.clone();
        write_message(message.clone(), commit);
        let Some(incident) = message.alert.incident else {
            if step.hand_over {
                self.hand_over_summary(now, &message, commit);
            }
            return;
        };
        let first_error = message.attempts == 1;
        let error = message.last_error.clone().unwrap_or_default();
        let line = match message.state {
            MessageState::Delivered => Some(format!("{}: {} delivered", message.channel, message.alert.kind.as_str())),
            MessageState::Refused => Some(format!("{}: refused: {error}", message.channel)),
            MessageState::GivenUp => {
                Some(format!("{}: given up after {} attempts: {error}", message.channel, message.attempts))
            }
            MessageState::Pending if first_error => Some(format!("{}: will be tried again: {error}", message.channel)),
            MessageState::Pending | MessageState::Superseded => None,
        };
        self.write_lines(now, incident, line.into_iter().map(|l| (Entry::Delivery, l)).collect(), commit);
        if message.state != MessageState::Pending {
            let reached = message.state == MessageState::Delivered;
            self.settle(Some(incident), &message.channel, id, reached);
        }
        if step.hand_over {
            self.hand_over(now, &message, commit);
        }
        let closed = self.incidents.get(&incident).is_some_and(|i| !i.is_open());
        if closed && !message.alert.kind.is_final() {
            let failed = message.state == MessageState::Pending;
            self.end_for_channel(now, incident, &message.channel, failed, commit);
        }
        self.write_incident(incident, commit);
    }

    /// Settles what waits for channels that are not in the plan: nobody would ever try to deliver it, and it would
    /// count as waiting for ever.
    pub(super) fn settle_orphans(&mut self, now: Timestamp, commit: &mut Commit) {
        let gone = |m: &&Message| m.state == MessageState::Pending && !self.plan.channels.contains_key(&m.channel);
        let orphans: Vec<MessageId> = self.messages.values().filter(gone).map(|m| m.id).collect();
        for id in orphans {
            let Some(message) = self.messages.get_mut(&id) else { continue };
            message.state = MessageState::Refused;
            message.settled_at = Some(now);
            message.last_error = Some(plan::WhyNot::Gone.to_string());
            let (channel, incident) = (message.channel.clone(), message.alert.incident);
            write_message(message.clone(), commit);
            self.settle(incident, &channel, id, false);
            if let Some(incident) = incident {
                let line = format!("{channel}: {}", plan::WhyNot::Gone);
                self.write_lines(now, incident, vec![(Entry::NotTold, line)], commit);
                self.write_incident(incident, commit);
            }
        }
    }

    /// Gives a copy of a message that its channel does not take to the fallback channel, unless that one has been
    /// told of the incident in its own right.
    fn hand_over(&mut self, now: Timestamp, message: &Message, commit: &mut Commit) {
        let Some(fallback) = self.plan.channels.get(&message.channel).and_then(|c| c.fallback.clone()) else { return };
        let Some(incident) = message.alert.incident.and_then(|id| self.incidents.get(&id)) else { return };
        let id = incident.id;
        if let Some(told) = incident.told.channels.get(&fallback) {
            let knows = match message.alert.kind {
                // What is on its way to it is followed by an end of its own.
                kind if kind.is_final() => told.ended || incident.is_open() || !told.pending.is_empty(),
                MessageKind::Worse => told.severity >= message.alert.severity,
                _ => true,
            };
            if knows {
                let line = format!("{fallback} (instead of {}): {}", message.channel, plan::WhyNot::AlreadyTold);
                self.write_lines(now, id, vec![(Entry::NotTold, line)], commit);
                return;
            }
        }
        // Nothing of it has reached the fallback: the end of something unknown tells nothing, so it hears of the whole.
        let kind = if incident.is_open() { message.alert.kind } else { MessageKind::Past };
        let Some(mut alert) = self.compose(id, kind, now) else { return };
        let error = message.last_error.clone().unwrap_or_default();
        alert.instead_of = Some(InsteadOf { channel: message.channel.clone(), error });
        let because = format!("instead of {}", message.channel);
        self.post(now, fallback, alert, now, &because, commit);
    }
}

/// Puts a message as it is now into the commit, once.
fn write_message(message: Message, commit: &mut Commit) {
    commit.messages.retain(|m| m.id != message.id);
    commit.messages.push(message);
}
