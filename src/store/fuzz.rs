//! What fuzzing feeds to the parsers of this module; `fuzz/targets.rs` names it.

use std::time::Duration;

use super::{block, day::Latencies, encode};
use crate::{
    alert::Message,
    incident::Incident,
    observation::{Observation, Outcome},
    value::{CheckName, Timestamp},
};

/// Columns of a row, as a damaged or edited file may hold them.
pub fn columns(data: &[u8]) {
    let phases = encode::unpack_phases(data);
    if let Some(packed) = encode::pack_phases(&phases, false) {
        assert_eq!(encode::unpack_phases(&packed), phases, "phases come back");
    }
    let _ = Latencies::from_bytes(data);
    // With a digest that fits, or nothing of the block would be read.
    let block = [data, &crc32fast::hash(data).to_le_bytes()[..]].concat();
    let _ = (block::unpack(&block).is_ok(), block::points(&block).is_ok());
    let number = data.first_chunk().map_or(0, |bytes| i64::from_be_bytes(*bytes));
    let _ = (encode::at_of(number).to_string(), encode::outcome_of(number), encode::fate_of(number));
    let Ok(json) = std::str::from_utf8(data) else { return };
    let mut o = Observation::new(Timestamp::from_millis(number), Outcome::Failed, Duration::ZERO);
    o.phases = phases;
    if encode::read_evidence(json, &mut o).is_ok() {
        let name: CheckName = "a/b".parse().expect("a good name");
        let _ = (o.to_json(&name, "v").to_string(), encode::evidence_json(&o).expect("it can be written"));
    }
    if let Ok(incident) = encode::from_json::<Incident>(json, "an incident") {
        let again = encode::to_json(&incident).expect("it can be written");
        assert!(encode::from_json::<Incident>(&again, "an incident").is_ok(), "{again}");
    }
    if let Ok(message) = encode::from_json::<Message>(json, "a message") {
        let again = encode::to_json(&message).expect("it can be written");
        assert!(encode::from_json::<Message>(&again, "a message").is_ok(), "{again}");
    }
}
