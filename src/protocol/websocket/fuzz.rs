//! What fuzzing feeds to the parsers of this module; `fuzz/targets.rs` names it.

use super::{script::Field, upgrade};

/// The head of an answer to the upgrade, and places within frames.
pub fn answers(data: &[u8]) {
    upgrade::fuzz(data);
    let frame = String::from_utf8_lossy(data);
    let path: serde_json::Value = "$..text".into();
    let path = serde_json::from_value(path).expect("a good path");
    for field in [Field::Pointer("/a/0".into()), Field::Path(path)] {
        let _ = field.texts(&frame);
    }
}
