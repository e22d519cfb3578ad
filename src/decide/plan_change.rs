//! The part of the core that puts a new plan in force.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{Commit, Core, Plan, Tracked};
use crate::{
    alert::MessageState,
    incident::{IncidentId, lifecycle::Lines},
    value::{CheckName, Name, Timestamp},
};

/// What a new plan does not say of itself.
#[derive(Debug, Default)]
pub struct Changes {
    /// What the store knows of checks that are new in it.
    pub known: HashMap<CheckName, Box<Tracked>>,
    /// Checks whose history the store has given another name: the old one, the new one.
    pub renamed: Vec<(CheckName, CheckName)>,
    /// Channels that go elsewhere now, or otherwise.
    pub rebuilt: BTreeSet<Name>,
}

impl Core {
    /// Puts a new plan in force. Checks that were renamed stay in their incidents; checks that are gone leave them, and
    /// incidents left without any are closed. Messages for channels that are gone are settled, and those for channels
    /// that are built anew are due at once.
    pub fn reconfigure(&mut self, now: Timestamp, plan: Arc<Plan>, mut changes: Changes) -> Commit {
        let mut commit = Commit::default();
        self.plan = plan;
        self.rename(&changes.renamed, &mut commit);
        self.tracks.retain(|name, _| self.plan.checks.contains_key(name));
        for name in self.plan.checks.keys() {
            if !self.tracks.contains_key(name) {
                self.tracks.insert(name.clone(), changes.known.remove(name).unwrap_or_default());
            }
        }
        // The wall clock may have been set back since they were stored.
        self.tracks.values_mut().for_each(|t| t.track.not_after(now));
        let open: Vec<IncidentId> = self.open_incidents().map(|i| i.id).collect();
        for id in open {
            let Some(incident) = self.incidents.get_mut(&id) else { continue };
            let gone: Vec<CheckName> =
                incident.members.keys().filter(|c| !self.plan.checks.contains_key(*c)).cloned().collect();
            let lines: Lines = gone.iter().flat_map(|check| incident.forget(check, now)).collect();
            if !lines.is_empty() {
                self.write_lines(now, id, lines, &mut commit);
                self.after_change(now, id, &mut commit);
            }
        }
        self.settle_orphans(now, &mut commit);
        self.hurry(now, |channel| changes.rebuilt.contains(channel), &mut commit);
        self.forget_settled();
        commit
    }

    /// Does to the incidents at hand what the store has done to those in the file, the closed ones too: they are written
    /// again once their last message is settled.
    fn rename(&mut self, renamed: &[(CheckName, CheckName)], commit: &mut Commit) {
        for (from, to) in renamed {
            let mut concerned = Vec::new();
            for incident in self.incidents.values_mut() {
                if let Some(member) = incident.members.remove(from) {
                    incident.members.insert(to.clone(), member);
                    concerned.push(incident.id);
                }
            }
            concerned.into_iter().for_each(|id| self.write_incident(id, commit));
        }
    }

    /// Makes due what waits for these channels: its pauses are of no account any more.
    pub(super) fn hurry(&mut self, now: Timestamp, which: impl Fn(&Name) -> bool, commit: &mut Commit) {
        let waits =
            |m: &&mut crate::alert::Message| m.state == MessageState::Pending && m.next_at > now && which(&m.channel);
        for message in self.messages.values_mut().filter(waits) {
            message.next_at = now;
            commit.messages.retain(|m| m.id != message.id);
            commit.messages.push(message.clone());
        }
    }
}
