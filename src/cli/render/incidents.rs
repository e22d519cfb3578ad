//! Incidents as a list, and one with everything known of it.

use serde_json::{Value, json};

use super::text::{Cell, Screen, Table, Tone, rough, tone_of, visible, wrap};
use crate::{
    alert::Message,
    incident::{Edge, Incident, TimelineEntry},
    observation::to_ms,
    value::Timestamp,
};

/// A list, as given.
pub fn list(incidents: &[Incident], now: Timestamp, screen: Screen) -> String {
    if incidents.is_empty() {
        return "no incidents\n".into();
    }
    let mut table = Table::new(&["ID", "SERVICE", "SEVERITY", "BEGAN", "LASTED", "STATE", "CAUSE"]);
    for incident in incidents {
        table.row(vec![
            incident.id.to_string().into(),
            incident.service.as_str().into(),
            Cell::word(incident.worst.as_str()),
            incident.started.by.to_seconds_text().into(),
            Cell::new(rough(incident.duration(now))).right(),
            state(incident),
            incident.cause.as_str().into(),
        ]);
    }
    table.render(screen)
}

fn state(incident: &Incident) -> Cell {
    match (incident.is_open(), &incident.acknowledged) {
        (true, None) => Cell::new("open").tone(Tone::Bad),
        (true, Some(a)) => Cell::new(format!("open, taken by {}", a.by)).tone(Tone::Warn),
        (false, _) => Cell::new("over").tone(Tone::Good),
    }
}

/// Between which two observations something changed.
pub fn edge(edge: &Edge) -> String {
    match edge.after {
        Some(after) => format!(
            "between {} and {} ({})",
            after.to_seconds_text(),
            edge.by.to_seconds_text(),
            super::text::measured(edge.by.since(after))
        ),
        None => format!("at the latest {} (nothing was seen before)", edge.by.to_seconds_text()),
    }
}

/// One incident with its members, messages and timeline.
pub fn show(
    incident: &Incident,
    timeline: &[TimelineEntry],
    messages: &[Message],
    now: Timestamp,
    screen: Screen,
) -> String {
    let severity = incident.worst.as_str();
    let mut text = format!(
        "{}  {}  {}  {}\n",
        screen.tone(Tone::Strong, &incident.id.to_string()),
        screen.tone(Tone::Strong, &visible(&incident.title)),
        screen.tone(tone_of(severity), severity),
        if incident.is_open() { "open" } else { "over" },
    );
    let mut facts = Table::new(&["", "", ""]);
    let mut fact = |name: &str, value: String| {
        let room = screen.width.map(|w| w.saturating_sub(16));
        for (i, line) in wrap(&visible(&value), room).iter().enumerate() {
            let name = if i == 0 { name } else { "" };
            facts.row(vec!["".into(), Cell::new(name).tone(Tone::Dim), line.into()]);
        }
    };
    fact("service", incident.service.to_string());
    fact("cause", incident.cause.clone());
    fact("began", edge(&incident.started));
    fact("ended", incident.ended.as_ref().map_or_else(|| "not yet".into(), edge));
    fact("lasted", rough(incident.duration(now)));
    fact("confirmed", incident.opened_at.to_seconds_text());
    if let Some(a) = &incident.acknowledged {
        let note = if a.note.is_empty() { String::new() } else { format!(": {}", a.note) };
        fact("taken by", format!("{} at {}{note}", a.by, a.at.to_seconds_text()));
    }
    if !incident.labels.is_empty() {
        let labels: Vec<String> = incident.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        fact("labels", labels.join(" "));
    }
    text.push_str(&facts.render(screen));
    for (heading, part) in [
        ("checks", members(incident, screen)),
        ("messages", told(messages, screen)),
        ("timeline", times(timeline, screen)),
    ] {
        if !part.is_empty() {
            text.push_str(&format!("\n{}\n{part}", screen.tone(Tone::Strong, heading)));
        }
    }
    text
}

fn members(incident: &Incident, screen: Screen) -> String {
    let mut text = String::new();
    for (name, member) in &incident.members {
        let word = member.worst.as_str();
        let flapping = if member.flapping { ", flapping" } else { "" };
        let name = screen.tone(Tone::Strong, name.as_str());
        text.push_str(&format!("  {name}  {}{flapping}\n", screen.tone(tone_of(word), word)));
        text.push_str(&format!("    went bad   {}\n", edge(&member.started)));
        if let Some(ended) = &member.ended {
            let label = if member.unwatched { "unwatched" } else { "recovered" };
            text.push_str(&format!("    {label}  {}\n", edge(ended)));
        }
        if let Some(reason) = &member.reason {
            text.push_str(&format!("    reason     {} ({})\n", visible(&reason.to_string()), reason.kind));
        }
    }
    text
}

fn told(messages: &[Message], screen: Screen) -> String {
    let mut table = Table::new(&["", "AT", "CHANNEL", "TELLS", "STATE", "ATTEMPTS", "ERROR"]);
    for m in messages {
        let settled = m.settled_at.map(|at| format!(" at {}", at.to_seconds_text())).unwrap_or_default();
        table.row(vec![
            "".into(),
            m.created_at.to_seconds_text().into(),
            m.channel.as_str().into(),
            m.alert.kind.as_str().into(),
            Cell::new(format!("{}{settled}", m.state.as_str())).tone(tone_of(m.state.as_str())),
            Cell::new(m.attempts.to_string()).right(),
            m.last_error.as_deref().unwrap_or_default().into(),
        ]);
    }
    table.render(screen)
}

fn times(timeline: &[TimelineEntry], screen: Screen) -> String {
    let mut table = Table::new(&["", "", "", ""]);
    for entry in timeline {
        table.row(vec![
            "".into(),
            entry.at.to_seconds_text().into(),
            Cell::new(entry.entry.as_str()).tone(Tone::Dim),
            entry.text.as_str().into(),
        ]);
    }
    table.render(screen)
}

/// One incident of a list, as JSON.
pub fn list_json(incident: &Incident, now: Timestamp) -> Value {
    let mut value = json!(incident);
    value["open"] = json!(incident.is_open());
    value["duration_ms"] = json!(to_ms(incident.duration(now)));
    value
}

/// One incident with everything, as JSON.
pub fn show_json(incident: &Incident, timeline: &[TimelineEntry], messages: &[Message], now: Timestamp) -> Value {
    let mut value = list_json(incident, now);
    value["timeline"] = json!(timeline);
    value["messages"] = messages.iter().map(super::outbox::message_json).collect();
    value
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        alert::{Alert, MessageId, MessageKind, MessageState, Told},
        incident::{Acknowledgement, Entry, IncidentId, Member, Severity},
        observation::{Kind, Phase, Reason},
    };

    pub(crate) fn at(second: i64) -> Timestamp {
        Timestamp::from_millis(second * 1_000)
    }

    /// Incident 7: one check of `mail`, bad between second 20 and 30, taken in hand at 50.
    pub(crate) fn incident() -> Incident {
        let started = Edge { after: Some(at(20)), by: at(30) };
        let member = Member {
            severity: Severity::Down,
            worst: Severity::Down,
            started,
            ended: None,
            reason: Some(Reason::new(Phase::Connect, Kind::Refused, "connection refused")),
            confirmed_at: at(42),
            flapping: false,
            unwatched: false,
        };
        Incident {
            id: IncidentId(7),
            service: "mail".parse().expect("a name"),
            title: "Company mail".into(),
            labels: BTreeMap::from([("provider".into(), "acme".into())]),
            severity: Severity::Down,
            worst: Severity::Down,
            started,
            ended: None,
            opened_at: at(42),
            closed_at: None,
            members: BTreeMap::from([("mail/in".parse().expect("a name"), member)]),
            cause: "connect: connection refused".into(),
            acknowledged: Some(Acknowledgement { at: at(50), by: "kim".into(), note: "보고 있음".into() }),
            told: Told::default(),
        }
    }

    /// Message 3: the problem of incident 7 to `ops-chat`, tried twice.
    pub(crate) fn message(state: MessageState) -> Message {
        let incident = incident();
        Message {
            id: MessageId(3),
            key: "k-3".into(),
            channel: "ops-chat".parse().expect("a name"),
            thread: "t-7".into(),
            position: 0,
            alert: Alert {
                kind: MessageKind::Problem,
                incident: Some(incident.id),
                vantage: "seoul-1".parse().expect("a name"),
                service: incident.service.clone(),
                title: incident.title.clone(),
                labels: incident.labels.clone(),
                severity: Severity::Down,
                cause: incident.cause.clone(),
                started: incident.started,
                ended: None,
                unwatched: false,
                duration_ms: 12_000,
                checks: vec![],
                acknowledged_by: None,
                next: None,
                instead_of: None,
                others: Default::default(),
                at: at(42),
            },
            created_at: at(42),
            state,
            attempts: 2,
            next_at: at(90),
            last_error: Some("503 Service Unavailable".into()),
            settled_at: (state != MessageState::Pending).then(|| at(60)),
            handed_over: false,
        }
    }

    #[test]
    fn a_list_tells_each_in_a_line() {
        let mut over = incident();
        over.id = IncidentId(6);
        over.acknowledged = None;
        over.ended = Some(Edge { after: Some(at(80)), by: at(90) });
        over.closed_at = Some(at(95));
        assert_eq!(
            list(&[incident(), over], at(630), Screen::default()),
            "ID  SERVICE  SEVERITY  BEGAN                 LASTED  STATE               CAUSE\n\
             #7  mail     down      1970-01-01 00:00:30Z     10m  open, taken by kim  connect: connection refused\n\
             #6  mail     down      1970-01-01 00:00:30Z      1m  over                connect: connection refused\n"
        );
        assert_eq!(list(&[], at(0), Screen::default()), "no incidents\n");
    }

    #[test]
    fn one_is_told_with_intervals_messages_and_timeline() {
        let timeline = [TimelineEntry {
            incident: IncidentId(7),
            at: at(42),
            entry: Entry::Opened,
            text: "mail/in is down".into(),
        }];
        let text = show(&incident(), &timeline, &[message(MessageState::Delivered)], at(90), Screen::default());
        assert_eq!(
            text,
            "#7  Company mail  down  open\n\
             \x20 service    mail\n\
             \x20 cause      connect: connection refused\n\
             \x20 began      between 1970-01-01 00:00:20Z and 1970-01-01 00:00:30Z (10.0s)\n\
             \x20 ended      not yet\n\
             \x20 lasted     1m\n\
             \x20 confirmed  1970-01-01 00:00:42Z\n\
             \x20 taken by   kim at 1970-01-01 00:00:50Z: 보고 있음\n\
             \x20 labels     provider=acme\n\
             \n\
             checks\n\
             \x20 mail/in  down\n\
             \x20   went bad   between 1970-01-01 00:00:20Z and 1970-01-01 00:00:30Z (10.0s)\n\
             \x20   reason     connect: connection refused (refused)\n\
             \n\
             messages\n\
             \x20 AT                    CHANNEL   TELLS    STATE                              ATTEMPTS  ERROR\n\
             \x20 1970-01-01 00:00:42Z  ops-chat  problem  delivered at 1970-01-01 00:01:00Z         2  503 Service Unavailable\n\
             \n\
             timeline\n\
             \x20 1970-01-01 00:00:42Z  opened  mail/in is down\n"
        );
        let json = show_json(&incident(), &timeline, &[message(MessageState::Pending)], at(90));
        assert_eq!((&json["open"], &json["duration_ms"]), (&json!(true), &json!(60_000.0)));
        assert_eq!(json["timeline"][0]["entry"], json!("opened"));
        assert_eq!(json["messages"][0]["state"], json!("pending"));
    }

    #[test]
    fn an_outage_that_was_there_from_the_start_says_so() {
        let text = edge(&Edge { after: None, by: at(30) });
        assert_eq!(text, "at the latest 1970-01-01 00:00:30Z (nothing was seen before)");
    }
}
