//! What fuzzing feeds to the parsers of this module; `fuzz/targets.rs` names it.

use hickory_resolver::proto::{
    op::{Query, ResponseCode},
    rr::{Name, RecordType},
};

use super::{Evidence, Wanted, fits, judge};

/// The bytes of one answer, whatever was asked.
pub fn answer(data: &[u8]) {
    let name = Name::from_ascii("example.com.").expect("a good name");
    let id = data.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
    for record in [RecordType::A, RecordType::MX, RecordType::TXT, RecordType::CNAME, RecordType::ANY] {
        let question = Query::query(name.clone(), record);
        let Ok(message) = fits(&question, data, id) else { continue };
        let evidence = Evidence::of(&message, &question);
        let wanted = Wanted {
            rcode: ResponseCode::NoError,
            contains: vec!["10 mx.example.com".into()],
            equals: Some(vec!["192.0.2.1".into()]),
            at_least: 1,
        };
        if let Err(text) = judge(&wanted, &evidence) {
            assert!(text.chars().count() < 4_000, "{} characters", text.chars().count());
        }
    }
}
