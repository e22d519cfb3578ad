//! Whose turn it is: a pure function of how each account fared.
//!
//! Accounts go round. One whose result differs from how it is known to fare (it failed, or a failing one worked) is
//! asked again at once, once, so that both an outage and its end are noticed as soon as with a single account; then
//! the round goes on. One that is known to fail is asked once a round, like any other. So among any `2 · N` attempts
//! each of `N` accounts has at least one, whatever happens.

/// The history that matters of one account.
#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    /// Whether it failed the last time that two results in a row were the same.
    failing: bool,
    /// Whether its latest attempt failed.
    latest: Option<bool>,
}

/// Whose turn it is.
#[derive(Debug)]
pub struct Turns {
    accounts: Vec<Standing>,
    /// The next in the round.
    next: usize,
    /// To be asked before the round goes on.
    again: Option<usize>,
    /// Whether the attempt under way is such a second one.
    repeated: bool,
}

impl Turns {
    /// Of so many accounts, at least one.
    pub fn new(count: usize) -> Self {
        Self { accounts: vec![Standing::default(); count.max(1)], next: 0, again: None, repeated: false }
    }

    /// Begins an attempt: the account to ask. The round goes on even if it never ends.
    pub fn begin(&mut self) -> usize {
        if let Some(index) = self.again.take() {
            self.repeated = true;
            return index;
        }
        self.repeated = false;
        let index = self.next;
        self.next = (self.next + 1) % self.accounts.len();
        index
    }

    /// The attempt under way has ended; `failed` is absent when it told nothing.
    pub fn end(&mut self, index: usize, failed: Option<bool>) {
        let Some(failed) = failed else { return };
        if self.correct(index, failed) && !self.repeated {
            self.again = Some(index);
        }
    }

    /// An earlier attempt has come to this; returns whether the account needs a second one to be sure.
    pub fn correct(&mut self, index: usize, failed: bool) -> bool {
        let Some(standing) = self.accounts.get_mut(index) else { return false };
        let twice = standing.latest == Some(failed);
        standing.latest = Some(failed);
        if twice {
            standing.failing = failed;
        }
        standing.failing != failed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs attempts of accounts `a`, `b` …; `script` tells how each attempt ends: `o`, `f`, `?` for nothing told, `-`
    /// for one that never ends.
    fn asked(count: usize, script: &str) -> String {
        let mut turns = Turns::new(count);
        let mut asked = String::new();
        for c in script.chars() {
            let index = turns.begin();
            asked.push(char::from(b'a' + u8::try_from(index).expect("few accounts")));
            match c {
                'o' => turns.end(index, Some(false)),
                'f' => turns.end(index, Some(true)),
                '?' => turns.end(index, None),
                _ => {}
            }
        }
        asked
    }

    #[test]
    fn whose_turn_it_is() {
        let table = [
            (3, "ooooooo", "abcabca", "all is well: they go round"),
            (3, "ofoooo", "abbcab", "a failure is confirmed or not, at once"),
            (3, "offoofoofoo", "abbcabcabca", "one that is known to fail is asked once a round"),
            (3, "offooooooo", "abbcabbcab", "a failing one that works is asked again at once"),
            (3, "offooofoof", "abbcabbcab", "and stays failing unless it works twice"),
            (3, "ffffffffff", "aabbccabca", "an outage of all"),
            (2, "f?ooff", "aababb", "what tells nothing is not repeated"),
            (3, "------", "abcabc", "an attempt that never ends does not hold up the others"),
            (1, "offfoo", "aaaaaa", "one account"),
        ];
        for (count, script, expected, what) in table {
            assert_eq!(asked(count, script), expected, "{what}");
        }
    }

    proptest! {
        #[test]
        fn nobody_waits_longer_than_two_attempts_each(
            count in 1_usize..14,
            script in "[of?-]{0,200}",
            corrections in prop::collection::vec((0_usize..14, any::<bool>(), 0_usize..200), 0..40),
        ) {
            let mut turns = Turns::new(count);
            let mut asked = Vec::new();
            for (i, c) in script.chars().enumerate() {
                for (index, failed, _) in corrections.iter().filter(|(_, _, at)| *at == i) {
                    turns.correct(*index, *failed);
                }
                let index = turns.begin();
                asked.push(index);
                match c {
                    'o' => turns.end(index, Some(false)),
                    'f' => turns.end(index, Some(true)),
                    '?' => turns.end(index, None),
                    _ => {}
                }
            }
            for part in asked.windows(2 * count) {
                for account in 0..count {
                    prop_assert!(part.contains(&account), "{} of {} in {:?}", account, count, part);
                }
            }
            // And none is asked more than twice in a row, unless it is alone.
            prop_assert!(count == 1 || asked.windows(3).all(|three| three.iter().any(|a| *a != three[0])));
        }
    }
}
