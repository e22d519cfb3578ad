//! What fuzzing feeds to the parsers of this module; `fuzz/targets.rs` names it.

use super::reply::{Extensions, Partial};

/// Replies, line by line, and what they say of the server's extensions.
pub fn replies(data: &[u8]) {
    let mut partial = Partial::default();
    for line in data.split(|byte| *byte == b'\n') {
        match partial.feed(line.strip_suffix(b"\r").unwrap_or(line)) {
            Ok(Some(reply)) => {
                assert!((200..600).contains(&reply.code) && !reply.lines.is_empty(), "{reply:?}");
                let _ = (reply.text(), reply.kind(), Extensions::read(&reply).told());
            }
            Ok(None) => {}
            Err(breach) => {
                assert!(breach.text.chars().count() < 400, "{}", breach.text);
                return;
            }
        }
    }
}
