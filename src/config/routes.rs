//! Routes: which incidents go to which channels, after how long an outage.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_yaml::Value;

use super::{
    ConfiguredChannel,
    checks::Checks,
    notes::{Notes, Place},
    raw::{MATCH_KEYS, ROUTE_KEYS, RawMatch, RawStep, STEP_KEYS},
};
use crate::{
    alert::{Match, Route, Step},
    options::suggestion,
    value::{Name, TimeSpan},
};

/// Shortest time between two repeats of a message: nobody reads faster, and the outbox would fill.
const REPEAT_MIN: Duration = Duration::from_secs(1);

pub(super) fn routes(
    place: &Place<'_>,
    names: &BTreeSet<String>,
    channels: &BTreeMap<Name, ConfiguredChannel>,
    checks: &Checks,
    notes: &mut Notes,
) -> Vec<Route> {
    let items = place.items(notes, "routes");
    if items.is_empty() {
        return default_route(channels).into_iter().collect();
    }
    items.iter().filter_map(|item| route(item, names, checks, notes)).collect()
}

fn default_route(channels: &BTreeMap<Name, ConfiguredChannel>) -> Option<Route> {
    let merely_fallback: BTreeSet<&Name> = channels.values().filter_map(|c| c.fallback.as_ref()).collect();
    let to: Vec<Name> = channels.keys().filter(|name| !merely_fallback.contains(name)).cloned().collect();
    (!to.is_empty())
        .then(|| Route { matches: Match::default(), steps: vec![Step { after: Duration::ZERO, to, repeat: None }] })
}

fn route(place: &Place<'_>, names: &BTreeSet<String>, checks: &Checks, notes: &mut Notes) -> Option<Route> {
    if place.value.is_null() {
        place.note(notes, "this route is empty", Some("give it `steps`".into()));
        return None;
    }
    for (key, _) in place.entries(notes, "a route") {
        if !ROUTE_KEYS.contains(&key.as_str()) {
            place.unknown_key(notes, &key, &ROUTE_KEYS);
        }
    }
    let matches = matches(&place.child("match"), checks, notes);
    let steps_place = place.child("steps");
    let items = steps_place.items(notes, "steps");
    let none = matches!(steps_place.value, Value::Null | Value::Sequence(_)) && items.is_empty();
    if none && place.value.is_mapping() {
        let hint = Some("add `steps:` with `- { after: 0s, to: [CHANNEL] }`".into());
        notes.key(place.doc, steps_place.path, "a route without steps tells nobody", hint);
    }
    let mut before = Duration::ZERO;
    let steps = items.iter().filter_map(|item| step(item, &mut before, names, notes)).collect();
    Some(Route { matches, steps })
}

fn matches(place: &Place<'_>, checks: &Checks, notes: &mut Notes) -> Match {
    let raw: RawMatch = place.read_section(notes, &MATCH_KEYS, "what a route matches");
    for (index, service) in raw.service.0.iter().enumerate() {
        if let Some(hint) = checks.unknown_service(service) {
            place.child("service").nth(index).note(notes, format!("there is no service `{service}`"), Some(hint));
        }
    }
    for (index, check) in raw.check.0.iter().enumerate() {
        if let Some(hint) = checks.unknown_check(check) {
            place.child("check").nth(index).note(notes, format!("there is no check `{check}`"), Some(hint));
        }
    }
    Match { services: raw.service.0, checks: raw.check.0, severities: raw.severity.0, labels: raw.labels }
}

/// One step; `before` is when the step above it is due.
fn step(place: &Place<'_>, before: &mut Duration, names: &BTreeSet<String>, notes: &mut Notes) -> Option<Step> {
    if !place.value.is_mapping() {
        place.note(notes, "a step is a mapping such as `{ after: 10m, to: [CHANNEL] }`", None);
        return None;
    }
    let raw: RawStep = place.read_section(notes, &STEP_KEYS, "a step");
    if raw.after.0 < *before {
        let text = format!("this step is due after {}, before the one above it ({})", raw.after, TimeSpan(*before));
        let hint = "put the steps in the order of their `after`, which is 0s where it is left out";
        notes.value(place.doc, place.child("after").path, text, Some(hint.into()));
    }
    *before = raw.after.0.max(*before);
    step_channels(place, &raw.to.0, names, notes);
    if let Some(repeat) = raw.repeat.filter(|repeat| repeat.0 < REPEAT_MIN) {
        let text = format!("repeating every {repeat} is too often; the least is {}", TimeSpan(REPEAT_MIN));
        place.child("repeat").note(notes, text, Some("leave `repeat` out to tell once".into()));
    }
    Some(Step { after: raw.after.0, to: raw.to.0, repeat: raw.repeat.map(|span| span.0) })
}

fn step_channels(place: &Place<'_>, to: &[Name], names: &BTreeSet<String>, notes: &mut Notes) {
    let list = place.child("to");
    if list.value.is_null() || list.value.as_sequence().is_some_and(Vec::is_empty) {
        let hint = Some("name at least one channel: `to: [CHANNEL]`".into());
        notes.value(list.doc, list.path.clone(), "this step tells nobody", hint);
    }
    for (index, name) in to.iter().enumerate() {
        if !names.contains(name.as_str()) {
            let hint = if names.is_empty() {
                "no channels are configured; add them below `channels:`".into()
            } else {
                suggestion(name.as_str(), names.iter().map(String::as_str))
            };
            list.nth(index).note(notes, format!("there is no channel `{name}`"), Some(hint));
        } else if to[..index].contains(name) {
            list.nth(index).note(notes, format!("`{name}` is named twice in one step"), Some("remove one".into()));
        }
    }
}
