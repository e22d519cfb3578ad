//! What the core goes on from: read from the store at the start, and again when the configuration changes.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use super::{hand::Renames, heart::Setup};
use crate::{
    decide::{self, Past, Tracked},
    detect::Thresholds,
    store::{Renamed, StoreError, Watched, Writer},
    value::{CheckName, Timestamp},
    web::control::LastSeen,
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

/// What the core goes on from, and what was seen last of each check.
pub(super) struct Remembered {
    pub(super) past: Past,
    pub(super) last: HashMap<CheckName, LastSeen>,
}

/// How long nobody may have looked at a check, twice its interval at least, for what was seen before it to be confirmed by
/// what comes after it.
const UNSEEN_MAX: Duration = Duration::from_secs(60);

/// Reads what the core goes on from: of checks, of those of the plan that it does not track already.
pub(super) fn restore(
    writer: &mut Writer,
    setup: &Setup,
    now: Timestamp,
    tracked: &HashSet<CheckName>,
) -> Result<Remembered, StoreError> {
    let restored = writer.restore(&setup.watched)?;
    let is_new = |w: &&Watched| !tracked.contains(&w.check) && setup.plan.checks.contains_key(&w.check);
    let new: Vec<Watched> = setup.watched.iter().filter(is_new).cloned().collect();
    let places: HashMap<&CheckName, usize> = new.iter().enumerate().map(|(place, w)| (&w.check, place)).collect();
    let mut found: Vec<(Box<Tracked>, Option<LastSeen>)> = new.iter().map(|_| Default::default()).collect();
    writer.states(|name, state| {
        let Some(place) = places.get(&name) else { return };
        match serde_json::from_value(state.memory) {
            Ok(memory) => {
                *found[*place].0 = Tracked::resume(memory, decide::is_in_trouble(&restored.incidents, &name));
            }
            Err(error) => tracing::error!(check = %name, %error, "its stored state is not understood; it starts anew"),
        }
    })?;
    let thresholds: Vec<&Thresholds> = new.iter().map(|w| &*setup.plan.checks[&w.check].thresholds).collect();
    writer.recent(now, &new, |place, observation| {
        found[place].0.remember(thresholds[place], observation);
        found[place].1 = Some(observation.into());
    })?;
    let mut checks = HashMap::with_capacity(new.len());
    let mut last = HashMap::with_capacity(new.len());
    for (w, (mut tracked, seen)) in new.into_iter().zip(found) {
        let gap = seen.as_ref().map_or(Duration::MAX, |seen| now.since(seen.at).max(seen.at.since(now)));
        if gap > UNSEEN_MAX.max(w.interval * 2) {
            tracked.confirm_anew();
        }
        last.extend(seen.map(|seen| (w.check.clone(), seen)));
        checks.insert(w.check, tracked);
    }
    let past = Past {
        instance: writer.instance().to_owned(),
        checks,
        incidents: restored.incidents,
        messages: restored.messages,
        next_incident: restored.next_incident.0,
        next_message: restored.next_message.0,
        vantage: restored.vantage,
    };
    Ok(Remembered { past, last })
}
