//! What `bongsu validate` says of a configuration that can be loaded.

use std::collections::BTreeSet;

use super::text::count;
use crate::config::{Config, Summary};

/// `ok: 12 checks in 3 services, 2 channels, 1 route`.
pub fn held(summary: &Summary) -> String {
    format!(
        "ok: {} in {}, {}, {}",
        count(summary.checks, "check"),
        count(summary.services, "service"),
        count(summary.channels, "channel"),
        count(summary.routes, "route")
    )
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
        let summary = Summary { checks: 12, services: 3, channels: 2, routes: 1, files: 4 };
        assert_eq!(held(&summary), "ok: 12 checks in 3 services, 2 channels, 1 route");
        let summary = Summary { checks: 0, services: 0, channels: 0, routes: 0, files: 1 };
        assert_eq!(held(&summary), "ok: 0 checks in 0 services, 0 channels, 0 routes");
    }
}
