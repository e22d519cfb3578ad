//! Commits that change nothing and wait a moment, to be written with others: a transaction costs as much as several attempts.

use std::time::{Duration, Instant};

use crate::{clock, decide::Commit, observation::Outcome};

/// Longest that they wait. What a crash takes of them is time of which nothing is known, and less than it takes to start
/// again.
const WAIT_MAX: Duration = Duration::from_millis(250);

/// What waits, and since when the first of it does.
pub(super) struct Held {
    commits: Vec<Commit>,
    since: Instant,
    most: usize,
}

impl Held {
    /// Nothing yet; at most about so many are to wait.
    pub(super) fn new(most: usize) -> Self {
        Self { commits: Vec::new(), since: clock::instant(), most }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.commits.is_empty()
    }

    /// Whether it is to be written now.
    pub(super) fn is_due(&self) -> bool {
        let waited = clock::instant().saturating_duration_since(self.since);
        !self.is_empty() && (self.commits.len() >= self.most || waited >= WAIT_MAX)
    }

    /// Takes all of it, to be written or added to.
    pub(super) fn take(&mut self) -> Vec<Commit> {
        if self.is_empty() {
            self.since = clock::instant();
        }
        std::mem::take(&mut self.commits)
    }

    /// Lets commits wait if all of them can; gives them back otherwise.
    pub(super) fn keep(&mut self, commits: Vec<Commit>) -> Result<(), Vec<Commit>> {
        if !commits.iter().all(can_wait) {
            return Err(commits);
        }
        self.commits = commits;
        Ok(())
    }
}

/// Whether nobody misses it for a moment: it changes no state, no incident and no message, and leaves the pace of its
/// check as it was.
fn can_wait(commit: &Commit) -> bool {
    let Commit { sending, observation, correction, state, incidents, timeline, messages, vantage } = commit;
    let plain = observation.as_ref().is_none_or(|(_, o)| o.outcome == Outcome::Ok && o.delivery.is_none());
    let changes = sending.is_some() || correction.is_some() || state.is_some() || vantage.is_some();
    plain && !changes && incidents.is_empty() && timeline.is_empty() && messages.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        observation::{Accept, Delivery, Fate, Observation},
        value::Timestamp,
    };

    fn observed(outcome: Outcome) -> Commit {
        let o = Observation::new(Timestamp::EPOCH, outcome, Duration::ZERO);
        Commit { observation: Some(("a/b".parse().expect("a name"), o)), ..Commit::default() }
    }

    #[test]
    fn only_what_changes_nothing_waits() {
        assert!(can_wait(&Commit::default()));
        assert!(can_wait(&observed(Outcome::Ok)));
        for outcome in [Outcome::Slow, Outcome::Failed, Outcome::Unknown] {
            assert!(!can_wait(&observed(outcome)), "{outcome}");
        }
        let mut delivered = observed(Outcome::Ok);
        if let Some((_, o)) = &mut delivered.observation {
            o.delivery = Some(Delivery::new(Fate::Arrived, Accept::Accepted, 1));
        }
        assert!(!can_wait(&delivered));
        let sending = Commit { sending: Some(("a/b".parse().expect("a name"), Vec::new())), ..Commit::default() };
        assert!(!can_wait(&sending));
    }

    #[test]
    fn what_is_in_a_hurry_takes_along_what_waits() {
        let mut held = Held::new(3);
        assert!(held.keep(vec![observed(Outcome::Ok)]).is_ok());
        assert!(!held.is_empty() && !held.is_due());
        let mut all = held.take();
        all.push(observed(Outcome::Failed));
        assert_eq!(held.keep(all).map_err(|all| all.len()), Err(2));
        assert!(held.keep(vec![observed(Outcome::Ok); 3]).is_ok());
        assert!(held.is_due());
    }
}
