//! Who is to be told now: routes and steps against one incident, and when to look again.

use std::{fmt, time::Duration};

use super::{Fired, Match, MessageKind, Route, Step, ToldNext};
use crate::{
    incident::Incident,
    value::{Name, TimeSpan, Timestamp},
};

/// How long some checks must be up again, while others of the incident are not, before that is told: those who wait
/// for the whole to return want to know of hours, not of seconds.
pub const PARTIAL_AFTER: Duration = Duration::from_secs(300);

/// A message to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Where it goes.
    pub channel: Name,
    /// What it tells.
    pub kind: MessageKind,
    /// Which rule asks for it, for the timeline.
    pub because: String,
}

/// Why a message was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyNot {
    /// The channel has been told as much already, by another route or step.
    AlreadyTold,
    /// Somebody has taken the incident in hand.
    Acknowledged,
    /// The channel has been taken out of the configuration.
    Gone,
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AlreadyTold => "it has been told already",
            Self::Acknowledged => "the incident is acknowledged",
            Self::Gone => "the channel is not in the configuration any more",
        })
    }
}

/// What is due at one instant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Due {
    /// Messages to make.
    pub messages: Vec<Planned>,
    /// Steps that have fired, by [`step_key`].
    pub fired: Vec<(String, Fired)>,
    /// Messages not made, and why.
    pub withheld: Vec<(Name, WhyNot)>,
}

impl Match {
    /// Whether a route with this match is for the incident as it is now.
    pub fn matches(&self, incident: &Incident) -> bool {
        let any = |wanted: bool, found: bool| !wanted || found;
        let services = |name: &Name| incident.members.keys().any(|c| c.service() == *name) || incident.service == *name;
        any(!self.services.is_empty(), self.services.iter().any(services))
            && any(!self.checks.is_empty(), self.checks.iter().any(|c| incident.members.contains_key(c)))
            && any(!self.severities.is_empty(), self.severities.contains(&incident.severity))
            && self.labels.iter().all(|(key, value)| incident.labels.get(key) == Some(value))
    }
}

/// The identity of a step: its content, so that it survives a reload which only moves it.
pub fn step_key(route: &Route, step: &Step) -> String {
    let list = |names: &[Name]| names.iter().map(Name::as_str).collect::<Vec<_>>().join(",");
    let matches = &route.matches;
    let checks: Vec<&str> = matches.checks.iter().map(crate::value::CheckName::as_str).collect();
    let severities: Vec<&str> = matches.severities.iter().map(|s| s.as_str()).collect();
    let labels: Vec<String> = matches.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    format!(
        "{}|{}|{}|{}@{}>{}",
        list(&matches.services),
        checks.join(","),
        severities.join(","),
        labels.join(","),
        TimeSpan(step.after),
        list(&step.to)
    )
}

/// What is due for an open incident at `now`.
pub fn due(routes: &[Route], incident: &Incident, now: Timestamp) -> Due {
    let mut due = Due::default();
    let age = now.since(incident.started.by);
    let acknowledged = incident.acknowledged.is_some();
    for route in routes.iter().filter(|r| r.matches.matches(incident)) {
        for (index, step) in route.steps.iter().enumerate() {
            let key = step_key(route, step);
            let fired = incident.told.steps.get(&key);
            let kind = match fired {
                None if age >= step.after => MessageKind::Problem,
                Some(fired) if step.repeat.is_some_and(|repeat| now.since(fired.last_at) >= repeat) => {
                    MessageKind::Reminder
                }
                _ => continue,
            };
            let times = fired.map_or(0, |f| f.times) + 1;
            due.fired.push((key, Fired { times, last_at: now }));
            for channel in &step.to {
                tell(&mut due, incident, channel, kind, index, step, acknowledged);
            }
        }
    }
    worse(&mut due, incident);
    partial(&mut due, incident, now);
    due
}

fn tell(
    due: &mut Due,
    incident: &Incident,
    channel: &Name,
    kind: MessageKind,
    index: usize,
    step: &Step,
    acknowledged: bool,
) {
    if due.messages.iter().any(|m| m.channel == *channel) {
        due.withheld.push((channel.clone(), WhyNot::AlreadyTold));
        return;
    }
    let told = incident.told.channels.get(channel);
    let kind = match (kind, told) {
        // The first step of a further route has nothing new for a channel that knows this severity.
        (MessageKind::Problem, Some(told)) if index == 0 && told.severity >= incident.severity => {
            due.withheld.push((channel.clone(), WhyNot::AlreadyTold));
            return;
        }
        (MessageKind::Problem, Some(told)) if told.severity < incident.severity => MessageKind::Worse,
        (MessageKind::Problem, Some(_)) => MessageKind::Reminder,
        (kind, _) => kind,
    };
    if acknowledged && kind != MessageKind::Worse {
        due.withheld.push((channel.clone(), WhyNot::Acknowledged));
        return;
    }
    let because = format!("step after {}", TimeSpan(step.after));
    due.messages.push(Planned { channel: channel.clone(), kind, because });
}

/// Whoever was told of a degradation is told of the outage it has become, acknowledged or not.
fn worse(due: &mut Due, incident: &Incident) {
    for (channel, told) in &incident.told.channels {
        if told.severity < incident.severity && !due.messages.iter().any(|m| m.channel == *channel) {
            due.messages.push(Planned {
                channel: channel.clone(),
                kind: MessageKind::Worse,
                because: format!("it is {} now", incident.severity),
            });
        }
    }
}

fn partial(due: &mut Due, incident: &Incident, now: Timestamp) {
    let Some(at) = partial_due(incident) else { return };
    if now < at {
        return;
    }
    for channel in incident.told.channels.keys() {
        if !due.messages.iter().any(|m| m.channel == *channel) {
            let because = "some checks have recovered".to_owned();
            due.messages.push(Planned { channel: channel.clone(), kind: MessageKind::Partial, because });
        }
    }
}

/// When the recovery of some checks is to be told, if there is one that has not been.
fn partial_due(incident: &Incident) -> Option<Timestamp> {
    let lasts = incident.members.values().any(|m| m.ended.is_none());
    let back = incident.members.values().filter(|m| !m.unwatched);
    let ended = back.filter_map(|m| m.ended).map(|e| e.by).max()?;
    let untold = incident.told.partial_at.is_none_or(|told| told < ended);
    (lasts && untold && incident.is_open()).then_some(ended + PARTIAL_AFTER)
}

/// Who is told next of an open incident, if it lasts until then; nobody, once it is acknowledged.
pub fn told_next(routes: &[Route], incident: &Incident) -> Option<ToldNext> {
    if incident.acknowledged.is_some() || !incident.is_open() {
        return None;
    }
    let at = steps_ahead(routes, incident).map(|(at, _)| at).min()?;
    let mut channels: Vec<Name> = Vec::new();
    for (_, step) in steps_ahead(routes, incident).filter(|(due, _)| *due == at) {
        channels.extend(step.to.iter().filter(|c| !channels.contains(c)).cloned().collect::<Vec<_>>());
    }
    Some(ToldNext { at, channels })
}

/// The steps that are not due yet, and those that repeat, with when they are.
fn steps_ahead<'a>(routes: &'a [Route], incident: &'a Incident) -> impl Iterator<Item = (Timestamp, &'a Step)> {
    routes.iter().filter(|r| r.matches.matches(incident)).flat_map(move |route| {
        route.steps.iter().filter_map(move |step| {
            let at = match incident.told.steps.get(&step_key(route, step)) {
                None => incident.started.by + step.after,
                Some(fired) => fired.last_at + step.repeat?,
            };
            Some((at, step))
        })
    })
}

/// When to look at an open incident again, if nothing happens before.
pub fn next_due(routes: &[Route], incident: &Incident) -> Option<Timestamp> {
    let steps = steps_ahead(routes, incident).map(|(at, _)| at);
    let partial = partial_due(incident).filter(|_| !incident.told.channels.is_empty());
    steps.chain(partial).min()
}
