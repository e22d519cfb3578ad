//! Notification: from a row of the outbox to a receiver who said yes.
//!
//! A channel kind is one file and one line in [`CHANNEL_KINDS`].

pub mod email;
#[cfg(test)]
mod testing;
pub mod text;
pub mod webhook;
pub mod worker;

use std::sync::Arc;

use chrono_tz::Tz;
use schemars::{Schema, SchemaGenerator};

use crate::{
    alert::{Message, message::Attempted},
    options::{Options, nearest},
    protocol::{Boxed, Net},
};

/// All kinds of channels.
pub static CHANNEL_KINDS: &[&ChannelKind] = &[&email::EMAIL, &webhook::WEBHOOK];

/// An entry of the registry.
pub struct ChannelKind {
    /// The key in YAML: `email`, `webhook`.
    pub name: &'static str,
    /// What it does, in one line without a full stop.
    pub summary: &'static str,
    /// YAML of a channel that uses it (the value of a key below `channels:`), which tests load as it stands.
    pub example: &'static str,
    /// JSON Schema of its options.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// Builds it; `None` when the options hold mistakes (then recorded there).
    pub build: fn(&mut Options<'_>) -> Option<Arc<dyn Channel>>,
}

/// One channel: where alerts go.
pub trait Channel: Send + Sync {
    /// `email`, `webhook`.
    fn kind(&self) -> &'static str;

    /// Where it goes, for people, without secrets.
    fn target(&self) -> String;

    /// One attempt to deliver one message, ending by the channel's own deadline. Never marks anything.
    fn deliver<'a>(&'a self, net: &'a Arc<Net>, message: &'a Message) -> Boxed<'a, Attempted>;
}

/// The channel kind with this key, if there is one.
pub fn by_name(name: &str) -> Option<&'static ChannelKind> {
    CHANNEL_KINDS.iter().copied().find(|kind| kind.name == name)
}

/// The zone named by the option `timezone`: UTC when absent, `None` when it is wrong (then recorded).
fn time_zone(options: &mut Options<'_>, name: Option<&str>) -> Option<Tz> {
    let Some(name) = name else { return Some(Tz::UTC) };
    if let Ok(zone) = name.parse() {
        return Some(zone);
    }
    let known = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
    let hint = nearest(name, known).map_or("write it as Asia/Seoul".into(), |near| format!("did you mean `{near}`?"));
    options.problem("timezone", format!("`{name}` is no time zone"), Some(&hint));
    None
}
