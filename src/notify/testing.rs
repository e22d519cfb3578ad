//! What the tests of the channels share.

use std::{path::Path, sync::Arc};

use crate::{
    alert::{Alert, Message, MessageId, MessageState},
    notify::{Channel, ChannelKind},
    options::{Options, Problem},
    protocol::{Net, wire::NetOptions},
    value::Masker,
};

/// A network with this masker.
pub fn net(masker: Masker) -> Arc<Net> {
    Net::new(NetOptions { nameservers: Vec::new(), masker }).expect("the system has a resolver configuration")
}

/// A message that says this.
pub fn message(alert: Alert) -> Message {
    Message {
        id: MessageId(7),
        key: "seoul-1.12.ops.0".into(),
        channel: "ops".parse().expect("a name"),
        thread: "seoul-1.12".into(),
        position: 0,
        created_at: alert.at,
        next_at: alert.at,
        alert,
        state: MessageState::Pending,
        attempts: 0,
        last_error: None,
        settled_at: None,
        handed_over: false,
    }
}

/// Builds a channel from the YAML of its options.
pub fn build(kind: &ChannelKind, yaml: &str, base: &Path) -> Result<Arc<dyn Channel>, Vec<Problem>> {
    let value = serde_yaml::from_str(yaml).expect("well-formed YAML");
    let mut problems = Vec::new();
    let channel = (kind.build)(&mut Options::new(&value, Vec::new(), base, &mut problems));
    match channel {
        Some(channel) if problems.is_empty() => Ok(channel),
        _ => Err(problems),
    }
}
