//! What fuzzing feeds to the parsers of this module; `fuzz/targets.rs` names it.

use super::packet::{Version, quoted, reply};

/// One packet.
pub fn packet(data: &[u8]) {
    for version in [Version::V4, Version::V6] {
        for has_header in [false, true] {
            if let Some(echo) = reply(version, has_header, data) {
                assert!(echo.payload.len() < data.len());
            }
        }
        let _ = quoted(version, data);
    }
}
