//! Moments as people give them on the command line.

use crate::{
    clock,
    value::{TimeSpan, Timestamp},
};

/// A time (RFC 3339), the beginning of a day (UTC), or how long ago.
pub(super) fn when(text: &str) -> Result<Timestamp, String> {
    seen_from(clock::now(), text)
}

fn seen_from(now: Timestamp, text: &str) -> Result<Timestamp, String> {
    let day = format!("{text}T00:00:00Z");
    if let Ok(at) = text.parse::<Timestamp>().or_else(|_| day.parse()) {
        return Ok(at);
    }
    let ago = text.parse::<TimeSpan>().map_err(|_| {
        "a time such as 2026-11-22T12:00:00Z, a day such as 2026-11-22, or a span such as 2h is expected".to_owned()
    })?;
    Ok(now - ago.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_people_give_them() {
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        let now = at("2026-11-22T12:00:00.250Z");
        for (text, wanted) in [
            ("2026-11-22T12:00:00Z", "2026-11-22T12:00:00Z"),
            ("2026-11-22T12:00:00+09:00", "2026-11-22T03:00:00Z"),
            ("2026-11-22", "2026-11-22T00:00:00Z"),
            ("2h", "2026-11-22T10:00:00.250Z"),
            ("0s", "2026-11-22T12:00:00.250Z"),
        ] {
            assert_eq!(seen_from(now, text), Ok(at(wanted)), "{text}");
        }
        for text in ["", "yesterday", "2026-13-01", "12", "-2h"] {
            assert!(seen_from(now, text).is_err(), "{text}");
        }
    }
}
