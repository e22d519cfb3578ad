//! The way a mail took, by its `Received:` headers (RFC 5321, section 4.4), which each server puts above those before.
//!
//! Times are the servers' own and are told as they are: seconds, as that is what they write; negative or a day off
//! where a clock is. They are evidence of where time went, never a latency.

use mail_parser::{HeaderName, Host, Message};
use serde_json::{Map, Value};

use crate::observation::one_line;

/// Most hops that are told; a mail between two companies has about six.
pub const HOPS_MAX: usize = 12;

/// Longest name of a server that is told, in characters.
const NAME_CHARS_MAX: usize = 80;

/// The hops, oldest first: `[{"by": "mx1"}, {"by": "mx2", "after_s": 3}]`, and how many more there are.
pub fn path(message: &Message<'_>) -> Option<Value> {
    let mut hops = Vec::new();
    let mut before = None;
    let mut more = 0_u32;
    for header in message.headers().iter().rev().filter(|h| h.name == HeaderName::Received) {
        if hops.len() == HOPS_MAX {
            more += 1;
            continue;
        }
        let received = header.value().as_received();
        let by = received.and_then(|r| r.by.as_ref()).map_or("?".into(), |host| match host {
            Host::Name(name) => one_line(name, NAME_CHARS_MAX),
            Host::IpAddr(address) => address.to_string(),
        });
        let at = received.and_then(|r| r.date).filter(mail_parser::DateTime::is_valid).map(|d| d.to_timestamp());
        let mut hop = Map::new();
        hop.insert("by".into(), by.into());
        if let (Some(before), Some(at)) = (before, at) {
            hop.insert("after_s".into(), Value::from(at - before));
        }
        before = at.or(before);
        hops.push(Value::Object(hop));
    }
    if more > 0 {
        hops.push(Value::Object(Map::from_iter([("more".to_owned(), more.into())])));
    }
    (!hops.is_empty()).then_some(Value::Array(hops))
}
