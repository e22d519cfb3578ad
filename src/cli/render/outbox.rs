//! The outbox: what is still to be told, what was, and what could not be.

use serde_json::{Value, json};

use super::text::{Cell, Screen, Table, count, rough, tone_of};
use crate::{
    alert::{Message, MessageState},
    store::OutboxCounts,
    value::Timestamp,
};

/// Counts, the oldest, and the rows given.
pub fn outbox(counts: &OutboxCounts, rows: &[Message], now: Timestamp, screen: Screen) -> String {
    let parts: Vec<String> =
        by_state(counts).iter().filter(|(_, n)| *n > 0).map(|(state, n)| format!("{n} {}", words(*state))).collect();
    let mut text = match parts.is_empty() {
        true => "no messages\n".to_owned(),
        false => parts.join(", ") + "\n",
    };
    if let Some(oldest) = counts.oldest_pending {
        text.push_str(&format!("the oldest pending is {} old\n", rough(now.since(oldest))));
    }
    let mut table = Table::new(&["ID", "CHANNEL", "TELLS", "INCIDENT", "STATE", "AGE", "ATTEMPTS", "NEXT", "ERROR"]);
    for m in rows {
        table.row(vec![
            m.id.to_string().into(),
            m.channel.as_str().into(),
            m.alert.kind.as_str().into(),
            m.alert.incident.map(|i| i.to_string()).unwrap_or_default().into(),
            Cell::new(words(m.state)).tone(tone_of(m.state.as_str())),
            Cell::new(rough(now.since(m.created_at))).right(),
            Cell::new(m.attempts.to_string()).right(),
            next(m, now).into(),
            m.last_error.as_deref().unwrap_or_default().into(),
        ]);
    }
    if !table.is_empty() {
        text.push('\n');
        text.push_str(&table.render(screen));
    }
    text
}

/// How many messages are in each state.
pub fn by_state(counts: &OutboxCounts) -> [(MessageState, u64); 5] {
    [
        (MessageState::Pending, counts.pending),
        (MessageState::Delivered, counts.delivered),
        (MessageState::Refused, counts.refused),
        (MessageState::GivenUp, counts.given_up),
        (MessageState::Superseded, counts.superseded),
    ]
}

fn words(state: MessageState) -> &'static str {
    match state {
        MessageState::GivenUp => "given up",
        other => other.as_str(),
    }
}

fn next(m: &Message, now: Timestamp) -> String {
    match (m.state, m.next_at > now) {
        (MessageState::Pending, true) => format!("in {}", rough(m.next_at.since(now))),
        (MessageState::Pending, false) => "now".into(),
        _ => String::new(),
    }
}

/// What happened to the messages that are shown no more than asked for.
pub fn left_out(shown: usize, total: u64) -> Option<String> {
    let more = total.saturating_sub(shown as u64);
    (more > 0).then(|| {
        let more = usize::try_from(more).unwrap_or(usize::MAX);
        format!("{} not shown; see --limit", count(more, "more message"))
    })
}

/// One message as JSON, without what only its rendering needs.
pub fn message_json(m: &Message) -> Value {
    let mut value = json!(m);
    if let Some(checks) = value.pointer_mut("/alert/checks").and_then(Value::as_array_mut) {
        for check in checks {
            if let Some(check) = check.as_object_mut() {
                check.remove("recent");
            }
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::incidents::tests::{at, message};

    #[test]
    fn counts_rows_and_the_next_attempt_are_told() {
        let oldest_pending = Some(at(42));
        let counts = OutboxCounts { pending: 2, delivered: 12, given_up: 1, oldest_pending, ..Default::default() };
        let rows = [message(MessageState::Pending), message(MessageState::GivenUp)];
        assert_eq!(
            outbox(&counts, &rows, at(80), Screen::default()),
            "2 pending, 12 delivered, 1 given up\n\
             the oldest pending is 38s old\n\
             \n\
             ID  CHANNEL   TELLS    INCIDENT  STATE     AGE  ATTEMPTS  NEXT    ERROR\n\
             3   ops-chat  problem  #7        pending   38s         2  in 10s  503 Service Unavailable\n\
             3   ops-chat  problem  #7        given up  38s         2          503 Service Unavailable\n"
        );
        assert!(outbox(&counts, &rows, at(90), Screen::default()).contains("  now "));
        assert_eq!(outbox(&OutboxCounts::default(), &[], at(0), Screen::default()), "no messages\n");
    }

    #[test]
    fn what_is_not_shown_is_counted() {
        assert_eq!(left_out(3, 3), None);
        assert_eq!(left_out(3, 2), None);
        assert_eq!(left_out(3, 5).as_deref(), Some("2 more messages not shown; see --limit"));
    }
}
