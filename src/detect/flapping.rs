//! Flapping: changes between good and bad over the latest observations, weighted by age, as Nagios and Icinga do.
//!
//! A flapping check keeps its incident open and says so; neither the problem nor the recovery is swallowed.

/// How many of the latest observations are looked at.
pub const OBSERVATIONS: usize = 20;

/// Weighted share of changes from which a check is flapping: two outages with their recoveries (4 changes in 19, about
/// 0.21) stay below, a third goes above.
pub const ENTER: f64 = 0.25;

/// Share below which it no longer is.
pub const LEAVE: f64 = 0.17;

/// Whether a check is flapping, given whether it was and the signs of its latest observations (`true` is good),
/// oldest first; only the last [`OBSERVATIONS`] count.
pub fn judge(was: bool, signs: impl DoubleEndedIterator<Item = bool>) -> bool {
    let share = weighted_changes(signs);
    if was { share >= LEAVE } else { share >= ENTER }
}

/// Share of changes in `[0, 1]`: the newest possible change weighs 1.2, the oldest 0.8.
fn weighted_changes(signs: impl DoubleEndedIterator<Item = bool>) -> f64 {
    let mut newer = None;
    let mut sum = 0.0;
    let pairs = (OBSERVATIONS - 1) as f64;
    for (age, sign) in signs.rev().take(OBSERVATIONS).enumerate() {
        if newer.is_some_and(|newer| newer != sign) {
            let weight = 1.2 - 0.4 * (age as f64 - 1.0) / (pairs - 1.0);
            sum += weight;
        }
        newer = Some(sign);
    }
    sum / pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signs(text: &str) -> Vec<bool> {
        text.chars().map(|c| c == 'g').collect()
    }

    #[test]
    fn what_flaps_and_what_does_not() {
        let table = [
            ("", false),
            ("gggggggggggggggggggg", false),
            ("bbbbbbbbbbbbbbbbbbbb", false),
            ("gggggggbbbbbgggggggg", false),
            ("ggbbbbbggggbbbbbgggg", false),
            ("gbgbgbgbgbgbgbgbgbgb", true),
            ("ggbggbggbggbggbggbgg", true),
            ("gbbbggbbbggbbbgggggg", true),
        ];
        for (text, expected) in table {
            assert_eq!(judge(false, signs(text).into_iter()), expected, "{text}");
        }
    }

    #[test]
    fn it_takes_calm_to_leave() {
        assert!(judge(true, signs("ggggggggggggbgbggggg").into_iter()));
        assert!(!judge(true, signs("gggggggggggggbbggggg").into_iter()));
    }

    #[test]
    fn newer_changes_weigh_more() {
        let early = weighted_changes(signs("gbgggggggggggggggggg").into_iter());
        let late = weighted_changes(signs("ggggggggggggggggggbg").into_iter());
        assert!(late > early, "{late} {early}");
        let all = weighted_changes(signs("gbgbgbgbgbgbgbgbgbgb").into_iter());
        assert!((all - 1.0).abs() < 1e-9, "every change is the whole: {all}");
    }
}
