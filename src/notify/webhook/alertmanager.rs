//! The body Alertmanager's webhook receivers know: version "4". Pure.
//!
//! Each check is one alert. Its labels must be the same from its beginning to its end, because receivers match the
//! two by them; what changes meanwhile (severity, cause) stands in the annotations.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    alert::{AlertCheck, Message, MessageKind},
    notify::text::Words,
    value::Timestamp,
};

/// Most alerts of one message; the rest are counted in `truncatedAlerts`.
const ALERTS_MAX: usize = 200;

/// Alertmanager's zero time: the alert still fires.
const NEVER: &str = "0001-01-01T00:00:00Z";

type Labels = BTreeMap<String, String>;

struct One {
    firing: bool,
    labels: Labels,
    annotations: Labels,
    starts_at: Timestamp,
    ends_at: Option<Timestamp>,
}

/// The whole body.
pub fn body(message: &Message, words: &Words<'_>) -> Value {
    let alert = &message.alert;
    let group: Labels = [("service".to_owned(), alert.service.to_string())].into();
    let mut all: Vec<One> = alert.checks.iter().map(|check| of_check(message, words, check)).collect();
    if all.is_empty() {
        all.push(of_whole(message, words));
    }
    let truncated = all.len().saturating_sub(ALERTS_MAX);
    let firing = all.iter().any(|one| one.firing);
    all.truncate(ALERTS_MAX);
    json!({
        "version": "4",
        "groupKey": format!("{{}}:{{service={:?}}}", alert.service.as_str()),
        "truncatedAlerts": truncated,
        "status": status(firing),
        "receiver": message.channel,
        "groupLabels": group,
        "commonLabels": common(&all, |one| &one.labels),
        "commonAnnotations": common(&all, |one| &one.annotations),
        "externalURL": "",
        "alerts": all.iter().map(|one| json!({
            "status": status(one.firing),
            "labels": one.labels,
            "annotations": one.annotations,
            "startsAt": one.starts_at,
            "endsAt": one.ends_at.map_or(json!(NEVER), |at| json!(at)),
            "generatorURL": "",
            "fingerprint": fingerprint(&one.labels),
        })).collect::<Vec<Value>>(),
    })
}

fn status(firing: bool) -> &'static str {
    if firing { "firing" } else { "resolved" }
}

fn of_check(message: &Message, words: &Words<'_>, check: &AlertCheck) -> One {
    let alert = &message.alert;
    let mut one = of_whole(message, words);
    // A check without an end of its own ends with its incident.
    one.ends_at = check.ended.or(alert.ended).map(|edge| edge.by);
    one.firing = one.ends_at.is_none() && !alert.kind.is_final();
    one.starts_at = check.started.by;
    one.labels.insert("check".into(), check.name.to_string());
    one.annotations.insert("severity".into(), check.severity.as_str().into());
    if let Some(reason) = &check.reason {
        one.annotations.insert("description".into(), reason.to_string());
    }
    one
}

fn of_whole(message: &Message, words: &Words<'_>) -> One {
    let alert = &message.alert;
    let name = match alert.kind {
        MessageKind::Test => "BongsuTest",
        MessageKind::Isolated => "BongsuIsolated",
        _ => "BongsuIncident",
    };
    // Labels of the configuration come first: what bongsu itself says of an alert cannot be replaced by them.
    let mut labels: Labels = alert.labels.iter().map(|(k, v)| (label_name(k), v.clone())).collect();
    labels.insert("alertname".into(), name.into());
    labels.insert("service".into(), alert.service.to_string());
    labels.insert("vantage".into(), alert.vantage.to_string());
    if let Some(incident) = alert.incident {
        labels.insert("incident".into(), incident.0.to_string());
    }
    let annotations = [
        ("summary".to_owned(), words.title()),
        ("description".to_owned(), alert.cause.clone()),
        ("severity".to_owned(), alert.severity.as_str().to_owned()),
    ];
    One {
        firing: alert.ended.is_none() && !alert.kind.is_final(),
        labels,
        annotations: annotations.into(),
        starts_at: alert.started.by,
        ends_at: alert.ended.map(|edge| edge.by),
    }
}

/// A label's name as Prometheus allows it: `[a-zA-Z_][a-zA-Z0-9_]*`.
fn label_name(name: &str) -> String {
    let mut fit: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if !fit.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        fit.insert(0, '_');
    }
    fit
}

fn common(all: &[One], of: fn(&One) -> &Labels) -> Labels {
    let Some((first, rest)) = all.split_first() else { return Labels::new() };
    let everywhere = |key: &String, value: &String| rest.iter().all(|one| of(one).get(key) == Some(value));
    of(first).iter().filter(|(k, v)| everywhere(k, v)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// Prometheus's own: FNV-1a of 64 bits over the sorted names and values, each followed by a byte of 255.
fn fingerprint(labels: &Labels) -> String {
    const OFFSET: u64 = 14_695_981_039_346_656_037;
    const PRIME: u64 = 1_099_511_628_211;
    let add = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(PRIME);
    let sum = labels.iter().flat_map(|(k, v)| [k, v]).fold(OFFSET, |sum, text| add(text.bytes().fold(sum, add), 255));
    format!("{sum:016x}")
}

#[cfg(test)]
mod tests {
    use chrono_tz::Tz;

    use super::*;
    use crate::notify::{testing, text::tests::alert};

    fn body_of(message: &Message) -> Value {
        body(message, &Words { alert: &message.alert, zone: Tz::UTC })
    }

    #[test]
    fn a_firing_group_has_alertmanagers_form() {
        let message = testing::message(alert(MessageKind::Problem));
        let body = body_of(&message);
        let keys: Vec<&String> = body.as_object().expect("an object").keys().collect();
        assert_eq!(
            keys,
            [
                "version",
                "groupKey",
                "truncatedAlerts",
                "status",
                "receiver",
                "groupLabels",
                "commonLabels",
                "commonAnnotations",
                "externalURL",
                "alerts"
            ]
        );
        assert_eq!(body["version"], "4");
        assert_eq!(body["groupKey"], "{}:{service=\"mail\"}");
        assert_eq!((&body["status"], &body["receiver"]), (&json!("firing"), &json!("ops")));
        assert_eq!(body["commonLabels"]["datacenter"], "gasan");
        assert_eq!(body["commonLabels"].get("check"), None);
        let one = &body["alerts"][1];
        assert_eq!(one["labels"]["check"], "mail/submission");
        assert_eq!(one["startsAt"], "2026-11-22T14:50:05.000Z");
        assert_eq!(one["endsAt"], NEVER);
        assert_eq!(one["annotations"]["description"], "login: 535 5.7.8 <no> \"entry\" & more");
        assert_eq!(one["fingerprint"].as_str().map(str::len), Some(16));
    }

    #[test]
    fn the_end_is_matched_to_the_beginning() {
        let firing = body_of(&testing::message(alert(MessageKind::Problem)));
        let resolved = body_of(&testing::message(alert(MessageKind::Recovery)));
        assert_eq!(resolved["status"], "resolved");
        for n in 0..2 {
            assert_eq!(resolved["alerts"][n]["status"], "resolved");
            assert_eq!(firing["alerts"][n]["fingerprint"], resolved["alerts"][n]["fingerprint"]);
            assert_eq!(firing["alerts"][n]["labels"], resolved["alerts"][n]["labels"]);
            assert_ne!(resolved["alerts"][n]["endsAt"], NEVER);
        }
        let partial = body_of(&testing::message(alert(MessageKind::Partial)));
        assert_eq!(partial["status"], "firing");
        assert_eq!(
            (&partial["alerts"][0]["status"], &partial["alerts"][1]["status"]),
            (&json!("resolved"), &json!("firing"))
        );
    }

    #[test]
    fn fingerprints_are_prometheus_own() {
        // prometheus/common/model: LabelSet{}.Fingerprint() is the offset itself.
        assert_eq!(fingerprint(&Labels::new()), "cbf29ce484222325");
        let one: Labels = [("a".to_owned(), "b".to_owned())].into();
        // FNV-1a over 61 ff 62 ff.
        let bytes: [u8; 4] = [0x61, 0xff, 0x62, 0xff];
        let sum =
            bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
        assert_eq!(fingerprint(&one), format!("{sum:016x}"));
    }

    #[test]
    fn many_alerts_are_cut_and_counted() {
        let mut alert = alert(MessageKind::Problem);
        alert.checks = std::iter::repeat_n(alert.checks[0].clone(), 1_000).collect();
        alert.labels.insert("1st.label".into(), "x".into());
        let body = body_of(&testing::message(alert));
        assert_eq!(body["alerts"].as_array().map(Vec::len), Some(ALERTS_MAX));
        assert_eq!(body["truncatedAlerts"], 800);
        assert_eq!(body["commonLabels"]["_1st_label"], "x");
    }
}
