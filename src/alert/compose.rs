//! What a message says: an incident and its checks' latest samples, made into an [`Alert`].

use super::{Alert, AlertCheck, MessageKind, Point};
use crate::{
    incident::Incident,
    value::{CheckName, Name, Timestamp},
};

/// Most checks shown in one message; the incident holds them all.
pub const CHECKS_MAX: usize = 20;

/// The alert of an incident as it is at `now`; `recent` gives the latest samples of a check.
pub fn compose(
    incident: &Incident,
    kind: MessageKind,
    vantage: &Name,
    now: Timestamp,
    recent: impl Fn(&CheckName) -> Vec<Point>,
) -> Alert {
    let mut members: Vec<_> = incident.members.iter().collect();
    // Those that last come first, then the worst, then the earliest.
    members.sort_by_key(|(name, m)| (m.ended.is_some(), std::cmp::Reverse(m.worst), m.started.by, (*name).clone()));
    let checks = members
        .into_iter()
        .take(CHECKS_MAX)
        .map(|(name, member)| AlertCheck {
            name: name.clone(),
            severity: member.severity,
            started: member.started,
            ended: member.ended,
            reason: member.reason.clone(),
            flapping: member.flapping,
            recent: recent(name),
        })
        .collect();
    Alert {
        kind,
        incident: Some(incident.id),
        vantage: vantage.clone(),
        service: incident.service.clone(),
        title: incident.title.clone(),
        labels: incident.labels.clone(),
        severity: if kind.is_final() { incident.worst } else { incident.severity },
        cause: incident.cause.clone(),
        started: incident.started,
        ended: incident.ended,
        duration_ms: u64::try_from(incident.duration(now).as_millis()).unwrap_or(u64::MAX),
        checks,
        acknowledged_by: incident.acknowledged.as_ref().map(|a| a.by.clone()),
        instead_of: None,
        at: now,
    }
}
