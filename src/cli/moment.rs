//! Moments as people give them on the command line.

use crate::{
    clock,
    value::{TimeSpan, Timestamp},
};

/// A time (RFC 3339), the beginning of a day (UTC), or how long ago.
pub(super) fn when(text: &str) -> Result<Timestamp, String> {
    let day = format!("{text}T00:00:00Z");
    if let Ok(at) = text.parse::<Timestamp>().or_else(|_| day.parse()) {
        return Ok(at);
    }
    let ago = text.parse::<TimeSpan>().map_err(|_| {
        "a time such as 2026-11-22T12:00:00Z, a day such as 2026-11-22, or a span such as 2h is expected".to_owned()
    })?;
    Ok(clock::now() - ago.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: std::time::Duration = std::time::Duration::from_secs(3_600);

    #[test]
    fn moments_are_read_as_people_give_them() {
        let noon = Timestamp::from_millis(1_795_348_800_000);
        for (text, wanted) in [("2026-11-22T12:00:00Z", Some(noon)), ("2026-11-22", Some(noon - 12 * HOUR))] {
            assert_eq!(when(text).ok(), wanted, "{text}");
        }
        let ago = clock::now().since(when("2h").expect("a span"));
        assert!(ago >= 2 * HOUR && ago < 3 * HOUR);
        for text in ["", "yesterday", "2026-13-01", "12"] {
            assert!(when(text).is_err(), "{text}");
        }
    }
}
