//! What `bongsu validate` says of a configuration that can be loaded.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::text::count;
use crate::config::Config;

/// How much of everything a configuration holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Checks.
    pub checks: usize,
    /// Services.
    pub services: usize,
    /// Channels.
    pub channels: usize,
    /// Routes.
    pub routes: usize,
}

impl Held {
    /// What this configuration holds.
    pub fn of(config: &Config) -> Self {
        Self {
            checks: config.checks.len(),
            services: config.checks.iter().map(|c| c.name.service()).collect::<BTreeSet<_>>().len(),
            channels: config.channels.len(),
            routes: config.routes.len(),
        }
    }

    /// `ok: 12 checks in 3 services, 2 channels, 1 route`.
    pub fn text(&self) -> String {
        format!(
            "ok: {} in {}, {}, {}",
            count(self.checks, "check"),
            count(self.services, "service"),
            count(self.channels, "channel"),
            count(self.routes, "route")
        )
    }

    /// The same as JSON.
    pub fn json(&self) -> Value {
        json!({ "checks": self.checks, "services": self.services, "channels": self.channels, "routes": self.routes })
    }
}

/// What loads and will hardly be meant.
pub fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.checks.is_empty() {
        warnings.push("there are no checks: nothing will be watched".to_owned());
    }
    if config.channels.is_empty() {
        warnings.push("there are no channels: incidents are recorded and nobody is told".to_owned());
    }
    if !config.channels.is_empty() && !config.routes.is_empty() {
        let routed: BTreeSet<_> = config.routes.iter().flat_map(|r| &r.steps).flat_map(|s| &s.to).collect();
        let fallbacks: BTreeSet<_> = config.channels.values().filter_map(|c| c.fallback.as_ref()).collect();
        for name in config.channels.keys().filter(|n| !routed.contains(n) && !fallbacks.contains(n)) {
            warnings.push(format!("channel `{name}` is in no route and is no fallback: nothing will ever go there"));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_counted() {
        let held = Held { checks: 12, services: 3, channels: 2, routes: 1 };
        assert_eq!(held.text(), "ok: 12 checks in 3 services, 2 channels, 1 route");
        assert_eq!(Held::default().text(), "ok: 0 checks in 0 services, 0 channels, 0 routes");
        assert_eq!(held.json()["checks"], json!(12));
    }
}
