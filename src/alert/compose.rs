//! What a message says: an incident and its checks' latest samples, made into an [`Alert`].

use super::{Alert, AlertCheck, MessageKind, Point, Tally};
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
    let mut others = Tally::default();
    for (_, member) in members.iter().skip(CHECKS_MAX) {
        others.add(member.severity, member.ended.is_some(), member.unwatched);
    }
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
            unwatched: member.unwatched,
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
        unwatched: incident.is_unwatched(),
        duration_ms: u64::try_from(incident.duration(now).as_millis()).unwrap_or(u64::MAX),
        checks,
        others,
        acknowledged_by: incident.acknowledged.as_ref().map(|a| a.by.clone()),
        next: None,
        instead_of: None,
        at: now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incident::{Edge, IncidentId, Member, Severity};

    #[test]
    fn of_many_checks_the_worst_are_shown_and_all_are_counted() {
        let at = Timestamp::from_millis;
        let started = Edge { after: None, by: at(0) };
        let member = |n: usize| Member {
            severity: if n.is_multiple_of(5) { Severity::Degraded } else { Severity::Down },
            worst: Severity::Down,
            started,
            ended: (n >= 40).then_some(started),
            confirmed_at: at(0),
            reason: None,
            flapping: false,
            unwatched: n >= 48,
        };
        let name = |n: usize| -> CheckName { format!("mail/c{n}").parse().expect("a name") };
        let incident = Incident {
            id: IncidentId(1),
            service: "mail".parse().expect("a name"),
            title: "mail".into(),
            labels: Default::default(),
            severity: Severity::Down,
            worst: Severity::Down,
            started,
            ended: None,
            opened_at: at(0),
            closed_at: None,
            members: (0..50).map(|n| (name(n), member(n))).collect(),
            cause: "c0".into(),
            acknowledged: None,
            told: Default::default(),
        };
        let vantage = "v".parse().expect("a name");
        let alert = compose(&incident, MessageKind::Problem, &vantage, at(1), |_| Vec::new());
        assert_eq!(alert.checks.len(), CHECKS_MAX);
        assert!(alert.checks.iter().all(|c| c.ended.is_none()), "those that last come first");
        assert_eq!(alert.tally(), Tally { down: 32, degraded: 8, back: 8, unwatched: 2 });
        assert_eq!(alert.others.total(), 50 - CHECKS_MAX);
    }
}
