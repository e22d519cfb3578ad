//! What fuzzing feeds to the parsers of this module; `fuzz/targets.rs` names it.

use super::codec;

/// One response, one line, one folder's name.
pub fn answers(data: &[u8]) {
    let _ = (codec::response(data), codec::literal(data), codec::is_one_line(data), codec::decode_name(data));
    if let Ok(text) = std::str::from_utf8(data) {
        assert_eq!(codec::decode_name(codec::encode_name(text).as_bytes()), text, "a folder's name comes back");
        let part = codec::last_part(text, text.get(..1));
        assert!(text.ends_with(part));
    }
    if let Some(quoted) = codec::quoted(data) {
        let response = codec::response(format!("* X {quoted}").as_bytes());
        let codec::Response::Data(read) = response else { panic!("{quoted} is no data but {response:?}") };
        assert_eq!(read.values.first().and_then(codec::Value::bytes), Some(data), "a string comes back");
    }
}
