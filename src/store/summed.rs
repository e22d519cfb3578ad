//! Text that shows whether it still is as it was written.
//!
//! SQLite has no checksums: a bit that flips within a text leaves a text. Of most rows that is a wrong letter in a list;
//! of an incident, an alert or what a check goes on from it is a wrong word in front of somebody, or worse, a state that
//! never was. So their JSON ends with a sum of what stands before it, as one more key, which SQLite's own functions read
//! over. Text without a sum was written before there were any, and is taken as it is.

use std::borrow::Cow;

use serde::{Serialize, de::DeserializeOwned};

use super::{encode, error::Fault};

/// The last key; eight hexadecimal digits, a quote and a brace follow.
const KEY: &str = ",\"sum\":\"";

/// Digits of a sum: CRC-32, which finds every change within 32 bits that are side by side.
const DIGITS: usize = 8;

/// A value as JSON with its sum. What is no object, or has no members, has no place for one.
pub(super) fn to_json<T: Serialize>(value: &T) -> Result<String, Fault> {
    let mut json = encode::to_json(value)?;
    if json.len() > "{}".len() && json.ends_with('}') {
        json.pop();
        let sum = crc32fast::hash(json.as_bytes());
        json.push_str(KEY);
        json.push_str(&format!("{sum:08x}\"}}"));
    }
    Ok(json)
}

/// JSON text as a value, unless its sum does not match; `what` names the row it stands in.
pub(super) fn from_json<T: DeserializeOwned>(text: &str, what: &str) -> Result<T, Fault> {
    let json = opened(text)
        .ok_or_else(|| Fault::Inconsistent(format!("{what} is not as it was written: its sum does not match")))?;
    encode::from_json(&json, what)
}

/// The JSON without its sum; `None` when that does not match.
fn opened(text: &str) -> Option<Cow<'_, str>> {
    let parts = || {
        let (rest, sum) = text.strip_suffix("\"}")?.split_at_checked(text.len().checked_sub(2 + DIGITS)?)?;
        Some((rest.strip_suffix(KEY)?, sum))
    };
    let Some((body, sum)) = parts() else { return Some(text.into()) };
    (format!("{:08x}", crc32fast::hash(body.as_bytes())) == sum).then(|| format!("{body}}}").into())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_has_a_sum_is_read_again_and_so_is_what_never_was() {
        for value in [json!({}), json!(null), json!([1]), json!({"a": 1}), json!({"a": {"sum": "00000000"}})] {
            let text = to_json(&value).expect("JSON");
            assert!(serde_json::from_str::<Value>(&text).is_ok(), "SQLite must read it: {text}");
            assert_eq!(from_json::<Value>(&text, "it").expect("whole"), value, "{text}");
            assert_eq!(from_json::<Value>(&value.to_string(), "it").expect("whole"), value);
        }
    }

    #[test]
    fn no_flipped_bit_changes_what_is_read() {
        let value = json!({"text": "connection refused äöü", "count": 12, "open": true, "inner": {"a": [1, 2]}});
        let text = to_json(&value).expect("JSON");
        let (mut found, mut harmless) = (0, 0);
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let Ok(flipped) = String::from_utf8(bytes) else { continue };
            match from_json::<Value>(&flipped, "incident 3") {
                Err(error) => {
                    found += 1;
                    assert!(error.to_string().contains("incident 3"), "{error}");
                }
                Ok(mut read) => {
                    // The name of the sum itself, which then is a key that nobody asks for.
                    harmless += 1;
                    let object = read.as_object_mut().expect("an object");
                    object.retain(|key, _| value.get(key).is_some());
                    assert_eq!(read, value, "{flipped}");
                }
            }
        }
        assert!(found > text.len() && harmless < 40, "{found} {harmless}");
    }
}
