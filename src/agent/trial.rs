//! Trying a channel: one test message, one attempt, no row.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    alert::{Alert, Message, MessageId, MessageKind, MessageState, message::Attempted},
    clock,
    incident::{Edge, Severity},
    notify::Channel,
    observation::to_ms,
    protocol::Net,
    value::{Name, Timestamp},
    web::control::Tested,
};

/// Longest time a trial may take: beyond it the channel's own deadline has failed.
const TRIAL_MAX: std::time::Duration = std::time::Duration::from_secs(60);

/// Sends a test message through a channel and says what its receiver answered. Nothing is queued or tried again.
pub async fn try_channel(name: &Name, channel: &Arc<dyn Channel>, net: &Arc<Net>, vantage: &Name) -> Tested {
    let message = test_message(vantage, name, clock::now(), clock::random_seed());
    let begun = clock::instant();
    let attempted = tokio::time::timeout(TRIAL_MAX, channel.deliver(net, &message))
        .await
        .unwrap_or_else(|_| Attempted::Retry { error: "no answer within a minute".into(), retry_after: None });
    let took = clock::instant().saturating_duration_since(begun);
    let mask = |error: String| net.masker.mask(&error).into_owned();
    let (delivered, may_work_later, error) = match attempted {
        Attempted::Delivered => (true, false, None),
        Attempted::Retry { error, .. } => (false, true, Some(mask(error))),
        Attempted::Refused { error } => (false, false, Some(mask(error))),
    };
    let target = net.masker.mask(&channel.target()).into_owned();
    Tested { channel: name.clone(), target, delivered, may_work_later, error, took_ms: to_ms(took) }
}

/// A message that tells nothing is wrong. `seed` makes its key unlike any other.
fn test_message(vantage: &Name, channel: &Name, now: Timestamp, seed: u64) -> Message {
    let key = format!("test-{seed:016x}");
    Message {
        id: MessageId(0),
        thread: key.clone(),
        key,
        channel: channel.clone(),
        position: 0,
        alert: Alert {
            kind: MessageKind::Test,
            incident: None,
            vantage: vantage.clone(),
            service: "bongsu".parse().expect("a good name"),
            title: "Test message".into(),
            labels: BTreeMap::new(),
            severity: Severity::Degraded,
            cause: format!("nothing is wrong: somebody tries the channel {channel}"),
            started: Edge { after: Some(now), by: now },
            ended: None,
            unwatched: false,
            duration_ms: 0,
            checks: Vec::new(),
            acknowledged_by: None,
            next: None,
            instead_of: None,
            others: Default::default(),
            at: now,
        },
        created_at: now,
        state: MessageState::Pending,
        attempts: 0,
        next_at: now,
        last_error: None,
        settled_at: None,
        handed_over: false,
    }
}
