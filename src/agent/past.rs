//! What the core goes on from: read from the store at the start, and again when the configuration changes.

use std::collections::HashMap;

use super::heart::Setup;
use crate::{
    decide::{Known, Past},
    store::{StoreError, Writer},
    value::{CheckName, Timestamp},
};

/// Gives checks that were renamed the history under their former names.
pub(super) fn rename(writer: &mut Writer, renames: &[(CheckName, CheckName)]) -> Result<(), StoreError> {
    for (from, to) in renames {
        let renamed = writer.rename(from, to)?;
        tracing::debug!(%from, %to, ?renamed, "history of a renamed check");
    }
    Ok(())
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
