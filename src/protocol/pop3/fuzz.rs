//! What fuzzing feeds to the parsers of this module; `fuzz/targets.rs` names it.

use super::{client, watch};

/// Lines of answers, and a mail in whatever pieces.
pub fn answers(data: &[u8]) {
    for line in String::from_utf8_lossy(data).lines() {
        if let Some(answer) = client::Answer::read(line) {
            let _ = (answer.code(), answer.is_busy(), answer.kind(), answer.shown());
        }
        let _ = watch::pair(line);
    }
    let whole = client::undotted(data.chunks(data.len().max(1)));
    assert_eq!(client::undotted(data.chunks(1)), whole, "the pieces do not matter");
    assert!(whole.0.len() <= data.len());
}
