//! What the core goes on from: read from the store at the start, and again when the configuration changes.

use std::collections::HashMap;

use super::{hand::Renames, heart::Setup};
use crate::{
    decide::{Known, Past},
    store::{Renamed, StoreError, Writer},
    value::{CheckName, Timestamp},
};

/// Gives checks that were renamed the history under their former names; those that have it now, and why not all, if so.
pub(super) fn rename(writer: &mut Writer, renames: &[(CheckName, CheckName)]) -> (Renames, Result<(), StoreError>) {
    let mut done = Renames::new();
    for (from, to) in renames {
        match writer.rename(from, to) {
            Ok(renamed) => {
                tracing::debug!(%from, %to, ?renamed, "history of a renamed check");
                if renamed == Renamed::Done {
                    done.push((from.clone(), to.clone()));
                }
            }
            Err(error) => return (done, Err(error)),
        }
    }
    (done, Ok(()))
}

/// Undoes that, because the old plan stays in force. Nothing was written since, so the old names are free.
pub(super) fn rename_back(writer: &mut Writer, renames: &[(CheckName, CheckName)]) {
    for (from, to) in renames.iter().rev() {
        if let Err(error) = writer.rename(to, from) {
            tracing::warn!(%from, %to, %error, "a check keeps its new name in the store until the new plan is in force");
        }
    }
}

/// What the core goes on from.
pub(super) fn restore(writer: &mut Writer, setup: &Setup, now: Timestamp) -> Result<Past, StoreError> {
    let restored = writer.restore(now, &setup.watched)?;
    let mut checks: HashMap<CheckName, Known> = HashMap::new();
    for (name, state) in restored.states {
        match serde_json::from_value(state.memory) {
            Ok(memory) => checks.entry(name).or_default().0 = Some(memory),
            Err(error) => tracing::error!(check = %name, %error, "its stored state is not understood; it starts anew"),
        }
    }
    for (name, observations) in restored.recent {
        checks.entry(name).or_default().1 = observations;
    }
    Ok(Past {
        instance: writer.instance().to_owned(),
        checks,
        incidents: restored.incidents,
        messages: restored.messages,
        next_incident: restored.next_incident.0,
        next_message: restored.next_message.0,
        vantage: restored.vantage,
    })
}
