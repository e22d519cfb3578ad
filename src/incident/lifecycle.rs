//! The life of an incident: opened by a check's confirmed trouble, joined by others, closed with the last of them.

use super::{Edge, Entry, Incident, IncidentId, Member, Severity};
use crate::{
    detect::{Change, Trouble},
    observation::Reason,
    value::{CheckName, Labels, Timestamp},
};

/// What an incident's timeline gets for a change.
pub type Lines = Vec<(Entry, String)>;

impl Incident {
    /// A new incident, of one check.
    pub fn open(
        id: IncidentId,
        check: &CheckName,
        title: &str,
        labels: &Labels,
        trouble: &Trouble,
        now: Timestamp,
    ) -> Self {
        let mut incident = Self {
            id,
            service: check.service(),
            title: title.to_owned(),
            labels: labels.clone(),
            severity: trouble.severity,
            worst: trouble.severity,
            started: trouble.started,
            ended: None,
            opened_at: now,
            closed_at: None,
            members: std::collections::BTreeMap::new(),
            cause: String::new(),
            acknowledged: None,
            told: super::Told::default(),
        };
        incident.members.insert(check.clone(), Member::new(trouble, now));
        incident.sum_up(now);
        incident
    }

    /// A check with confirmed trouble joins, or is back in trouble.
    pub fn join(&mut self, check: &CheckName, labels: &Labels, trouble: &Trouble, now: Timestamp) -> Lines {
        let reason = reason_text(trouble.reason.as_ref());
        let line = match self.members.get_mut(check) {
            Some(member) => {
                member.ended = None;
                member.unwatched = false;
                member.severity = trouble.severity;
                member.worst = member.worst.max(trouble.severity);
                (Entry::Relapsed, format!("{check} is {} again{reason}", trouble.severity))
            }
            None => {
                self.members.insert(check.clone(), Member::new(trouble, now));
                (Entry::Joined, format!("{check} is {} too{reason}", trouble.severity))
            }
        };
        self.labels.retain(|key, value| labels.get(key) == Some(value));
        let mut lines = vec![line];
        lines.extend(self.sum_up(now));
        lines
    }

    /// A member changes.
    pub fn change(&mut self, check: &CheckName, change: &Change, now: Timestamp) -> Lines {
        let Some(member) = self.members.get_mut(check) else { return Lines::new() };
        let line = match change {
            Change::Began(_) => return Lines::new(),
            Change::Worsened { reason } => {
                member.severity = Severity::Down;
                member.worst = Severity::Down;
                member.reason.clone_from(reason);
                (Entry::Severity, format!("{check} is down{}", reason_text(reason.as_ref())))
            }
            Change::Eased => {
                member.severity = Severity::Degraded;
                (Entry::Severity, format!("{check} works again, but is degraded"))
            }
            Change::Ended(edge) => {
                member.end(*edge);
                member.flapping = false;
                (Entry::Recovered, format!("{check} is up, since {}", edge.by.to_seconds_text()))
            }
            Change::Relapsed { reason } => {
                (Entry::Relapsed, format!("{check} failed again{}", reason_text(reason.as_ref())))
            }
            Change::Flapping(flapping) => {
                member.flapping = *flapping;
                let text = if *flapping { "is flapping; the incident stays open" } else { "has stopped flapping" };
                (Entry::Severity, format!("{check} {text}"))
            }
        };
        let mut lines = vec![line];
        lines.extend(self.sum_up(now));
        lines
    }

    /// A check is no longer watched; for the incident it has ended, though nobody saw it up again.
    pub fn forget(&mut self, check: &CheckName, now: Timestamp) -> Lines {
        let Some(member) = self.members.get_mut(check).filter(|m| m.ended.is_none()) else { return Lines::new() };
        member.end(Edge { after: None, by: now });
        member.unwatched = true;
        let mut lines =
            vec![(Entry::Recovered, format!("{check} is no longer watched: it is not in the configuration"))];
        lines.extend(self.sum_up(now));
        lines
    }

    /// Works out severity, start, end and cause from the members.
    fn sum_up(&mut self, now: Timestamp) -> Lines {
        let mut lines = Lines::new();
        let lasting = || self.members.values().filter(|m| m.ended.is_none());
        let severity = lasting().map(|m| m.severity).max();
        self.cause = self.work_out_cause();
        if let Some(first) = self.members.values().map(|m| m.started).min_by_key(|e| e.by) {
            self.started = first;
        }
        match severity {
            Some(severity) => {
                if severity != self.severity {
                    lines.push((Entry::Severity, format!("{} is {severity} now, was {}", self.service, self.severity)));
                }
                self.severity = severity;
                self.worst = self.worst.max(severity);
                self.ended = None;
            }
            None => {
                self.ended = self.members.values().filter_map(|m| m.ended).max_by_key(|e| e.by);
                self.closed_at = Some(now);
                let lasted = crate::value::TimeSpan(self.duration(now));
                let text = if self.is_unwatched() {
                    format!("closed after {lasted}: what was wrong is no longer watched")
                } else {
                    format!("over after {lasted}")
                };
                lines.push((Entry::Closed, text));
            }
        }
        lines
    }

    /// The first trouble of the worst kind, among those that last (or all, once none does).
    fn work_out_cause(&self) -> String {
        let any_lasts = self.members.values().any(|m| m.ended.is_none());
        let concerned: Vec<_> = self.members.iter().filter(|(_, m)| !any_lasts || m.ended.is_none()).collect();
        let Some((name, first)) =
            concerned.iter().min_by_key(|(_, m)| (std::cmp::Reverse(m.worst), m.started.by)).copied()
        else {
            return String::new();
        };
        let reason = first.reason.as_ref().map_or_else(|| "no reason known".to_owned(), Reason::to_string);
        match concerned.len() {
            1 => format!("{}: {reason}", name.check()),
            n => format!("{}: {reason} (and {} more)", name.check(), n - 1),
        }
    }
}

impl Member {
    fn new(trouble: &Trouble, now: Timestamp) -> Self {
        Self {
            severity: trouble.severity,
            worst: trouble.severity,
            started: trouble.started,
            ended: None,
            reason: trouble.reason.clone(),
            confirmed_at: now,
            flapping: false,
            unwatched: false,
        }
    }

    /// It has ended. Under a clock that was set back meanwhile, the end may lie before the beginning, or the last bad
    /// observation after the first good one: then it has lasted no time that could be told, and ended by then.
    fn end(&mut self, edge: Edge) {
        let by = edge.by.max(self.started.by);
        self.ended = Some(Edge { after: edge.after.filter(|after| *after <= by), by });
    }
}

fn reason_text(reason: Option<&Reason>) -> String {
    reason.map_or_else(String::new, |r| format!(": {r}"))
}
