//! What fuzzing feeds to the parsers of this module; `fuzz/targets.rs` names it.

use std::time::Duration;

use super::{
    preset::Preset,
    reply::{Reply, judge},
    template::Template,
};
use crate::{alert::message::Attempted, value::Timestamp};

/// An answer: status, `Retry-After`, `Location` and body, in lines.
pub fn reply(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.splitn(4, '\n');
    let mut next = || lines.next().unwrap_or_default().to_owned();
    let reply = Reply {
        status: next().trim().parse().unwrap_or(500),
        retry_after: Some(next()),
        location: Some(next()),
        body: next(),
    };
    let now = Timestamp::from_millis(1_790_000_000_000);
    for preset in [Preset::Generic, Preset::Slack, Preset::Telegram, Preset::Teams, Preset::Discord, Preset::Ntfy] {
        match judge(preset, &reply, now) {
            Attempted::Delivered => assert!((200..300).contains(&reply.status)),
            Attempted::Retry { error, retry_after } => {
                // The outbox adds it to the present.
                let _ = now + retry_after.unwrap_or(Duration::ZERO);
                assert!(error.chars().count() < 500, "{error}");
            }
            Attempted::Refused { error } => assert!(error.chars().count() < 500, "{error}"),
        }
    }
}

/// A template's source: it is tried with every kind of message.
pub fn template(data: &[u8]) {
    let source = String::from_utf8_lossy(data).into_owned();
    let _ = Template::new(source, data.len().is_multiple_of(2));
}
