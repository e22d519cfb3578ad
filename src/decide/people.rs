//! The part of the core that takes in what people say.

use super::{Commit, Core, Refused};
use crate::{
    incident::{Acknowledgement, Entry, IncidentId},
    observation::one_line,
    value::Timestamp,
};

/// Longest note or name a person may give, in characters.
pub const NOTE_CHARS_MAX: usize = 1_000;

impl Core {
    pub(super) fn acknowledge(
        &mut self,
        now: Timestamp,
        id: IncidentId,
        by: &str,
        note: &str,
        commit: &mut Commit,
    ) -> Result<(), Refused> {
        let incident = self.incidents.get_mut(&id).filter(|i| i.is_open()).ok_or(Refused::NoSuchIncident(id))?;
        if let Some(earlier) = &incident.acknowledged {
            return Err(Refused::AlreadyAcknowledged { incident: id, by: earlier.by.clone() });
        }
        let (by, note) = (one_line(by, NOTE_CHARS_MAX), one_line(note, NOTE_CHARS_MAX));
        let text = if note.is_empty() { format!("by {by}") } else { format!("by {by}: {note}") };
        incident.acknowledged = Some(Acknowledgement { at: now, by, note });
        self.write_lines(now, id, vec![(Entry::Acknowledged, text)], commit);
        self.write_incident(id, commit);
        Ok(())
    }

    pub(super) fn note(
        &mut self,
        now: Timestamp,
        id: IncidentId,
        by: &str,
        text: &str,
        commit: &mut Commit,
    ) -> Result<(), Refused> {
        if !(1..self.next_incident).contains(&id.0) {
            return Err(Refused::NoSuchIncident(id));
        }
        let text = format!("{}: {}", one_line(by, NOTE_CHARS_MAX), one_line(text, NOTE_CHARS_MAX));
        self.write_lines(now, id, vec![(Entry::Note, text)], commit);
        Ok(())
    }
}
