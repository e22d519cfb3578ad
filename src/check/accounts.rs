//! One question with several accounts: each attempt asks with one of them, and they go round.
//!
//! One account that is locked, full or forgotten must neither look like an outage of all nor hide one; [`turns`] says
//! whose turn it is, and [`crate::detect::accounts`] what their failures mean. Each account has an [`Ask`] of its own,
//! with whatever that keeps between attempts. What comes to light after an attempt is heard of all accounts at any
//! time, also while another one is being asked.

pub mod turns;

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};

use self::turns::Turns;
use super::{Answer, Ask, Context, Lane, Past, Settings};
use crate::{
    observation::{ACCOUNT_CHARS_MAX, AccountSeen, Correction, Fate, Observation, Outcome, Reason, one_line},
    protocol::Boxed,
};

/// Most accounts of one check: at the usual interval each is asked about once an hour then, and an account that fails
/// should not go unnoticed for longer. Each keeps what its kind of check keeps: a ledger, a session that lingers.
pub const ACCOUNTS_MAX: usize = 100;

/// Most corrections kept until they are asked for. An attempt that lasts its usual time sees a few.
const CORRECTIONS_MAX: usize = 1_000;

/// An account: what tells it apart, and the question with it.
pub struct Account {
    /// Its name, for people: one line of at most [`ACCOUNT_CHARS_MAX`] characters, no secret.
    pub name: String,
    /// What is asked.
    pub ask: Arc<dyn Ask>,
}

/// Asks with one account after the other.
pub struct AccountsAsk {
    accounts: Vec<Arc<One>>,
    state: Mutex<State>,
}

/// What is kept between attempts.
struct State {
    turns: Turns,
    /// What came to light of some accounts while another was asked.
    corrections: VecDeque<Correction>,
}

/// One account of several.
struct One {
    seen: AccountSeen,
    ask: Arc<dyn Ask>,
}

impl AccountsAsk {
    /// A question with these accounts; at least one.
    pub fn new(accounts: Vec<Account>) -> Self {
        let of = u32::try_from(accounts.len()).unwrap_or(u32::MAX);
        let state = Mutex::new(State { turns: Turns::new(accounts.len()), corrections: VecDeque::new() });
        let one = |Account { name, ask }| {
            Arc::new(One { seen: AccountSeen { name: one_line(&name, ACCOUNT_CHARS_MAX), of }, ask })
        };
        let accounts = accounts.into_iter().map(one).collect();
        Self { accounts, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // It is never held across anything that could panic halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What comes next of one account.
    async fn outstanding(&self, index: usize) -> (usize, Option<Correction>) {
        let found = match self.accounts.get(index) {
            Some(one) => one.afterwards().await,
            None => None,
        };
        (index, found)
    }

    fn learn(&self, index: usize, correction: &Correction) {
        if let Some(failed) = failed(correction.outcome, Some(correction.delivery.fate)) {
            self.state().turns.correct(index, failed);
        }
    }

    /// Asks with one account while the others are heard.
    async fn ask(&self, index: usize, one: &One, context: Context) -> Answer {
        let others = (0..self.accounts.len()).filter(|other| *other != index);
        let mut others: FuturesUnordered<_> = others.map(|other| self.outstanding(other)).collect();
        let mut attempt = pin!(one.attempt(context));
        loop {
            tokio::select! {
                biased;
                answer = &mut attempt => return answer,
                Some((other, found)) = others.next(), if !others.is_empty() => {
                    let Some(correction) = found else { continue };
                    self.learn(other, &correction);
                    let mut state = self.state();
                    state.corrections.push_back(correction);
                    // One that is full hears no more until it is emptied; nothing of it is lost meanwhile.
                    if state.corrections.len() < CORRECTIONS_MAX {
                        others.push(self.outstanding(other));
                    }
                }
            }
        }
    }
}

impl Ask for AccountsAsk {
    fn kind(&self) -> &'static str {
        self.accounts.first().map_or("", |one| one.kind())
    }

    fn target(&self) -> String {
        let targets: Vec<String> = self.accounts.iter().map(|one| one.target()).collect();
        let first = targets.first().cloned().unwrap_or_default();
        let same = targets.iter().all(|target| *target == first);
        if same { first } else { format!("{first} and others") }
    }

    fn deadline(&self, settings: &Settings) -> Duration {
        self.accounts.iter().map(|one| one.deadline(settings)).max().unwrap_or_default()
    }

    fn attempt<'a>(&'a self, context: Context) -> Boxed<'a, Answer> {
        Box::pin(async move {
            let index = self.state().turns.begin();
            let one = self.accounts[index].clone();
            let answer = self.ask(index, &one, context).await;
            let fate = answer.observation.delivery.as_ref().map(|delivery| delivery.fate);
            self.state().turns.end(index, failed(answer.observation.outcome, fate));
            answer
        })
    }

    fn afterwards<'a>(&'a self) -> Boxed<'a, Option<Correction>> {
        Box::pin(async move {
            if let Some(correction) = self.state().corrections.pop_front() {
                return Some(correction);
            }
            let all = (0..self.accounts.len()).map(|index| self.outstanding(index));
            let mut all: FuturesUnordered<_> = all.collect();
            while let Some((index, found)) = all.next().await {
                if let Some(correction) = found {
                    self.learn(index, &correction);
                    return Some(correction);
                }
            }
            None
        })
    }

    fn too_often(&self, every: Duration) -> Option<(String, &'static str)> {
        let every = every * u32::try_from(self.accounts.len()).unwrap_or(u32::MAX);
        self.accounts.iter().find_map(|one| one.ask.too_often(every))
    }

    fn sends(&self) -> bool {
        self.accounts.iter().any(|one| one.sends())
    }

    /// The accounts share the check's sequences, so that a message in flight is known for its account's.
    fn resume<'a>(&'a self, past: Past) -> Boxed<'a, Vec<Observation>> {
        Box::pin(async move {
            let of = self.accounts.len() as u64;
            let mut untold = Vec::new();
            for (index, one) in (0..).zip(&self.accounts) {
                let flights = past.flights.iter().filter(|f| f.sequence % of == index).copied().collect();
                let lane = Lane { index, of };
                untold.extend(one.resume(Past { flights, lane, ..past.clone() }).await);
            }
            untold.sort_by_key(|o| o.at);
            untold
        })
    }

    fn close<'a>(&'a self) -> Boxed<'a, ()> {
        Box::pin(async move {
            futures_util::future::join_all(self.accounts.iter().map(|one| one.close())).await;
        })
    }

    fn each(&self) -> Vec<(String, Arc<dyn Ask>)> {
        self.accounts.iter().map(|one| (one.seen.name.clone(), one.clone() as Arc<dyn Ask>)).collect()
    }
}

/// Whether an attempt says that its account fails; `None` when it does not tell.
fn failed(outcome: Outcome, fate: Option<Fate>) -> Option<bool> {
    match outcome {
        Outcome::Failed => Some(true),
        Outcome::Unknown => None,
        Outcome::Ok | Outcome::Slow => (fate != Some(Fate::Pending)).then_some(false),
    }
}

impl One {
    /// A reason that says whose it is.
    fn whose(&self, reason: &Reason) -> Reason {
        Reason::new(reason.phase, reason.kind, format!("{}: {}", self.seen.name, reason.text))
    }
}

impl Ask for One {
    fn kind(&self) -> &'static str {
        self.ask.kind()
    }

    fn target(&self) -> String {
        self.ask.target()
    }

    fn deadline(&self, settings: &Settings) -> Duration {
        self.ask.deadline(settings)
    }

    fn attempt<'a>(&'a self, context: Context) -> Boxed<'a, Answer> {
        Box::pin(async move {
            let mut answer = self.ask.attempt(context).await;
            let observation = &mut answer.observation;
            observation.reason = observation.reason.take().map(|reason| self.whose(&reason));
            observation.account = Some(self.seen.clone());
            answer
        })
    }

    fn sends(&self) -> bool {
        self.ask.sends()
    }

    fn resume<'a>(&'a self, past: Past) -> Boxed<'a, Vec<Observation>> {
        Box::pin(async move {
            let mut untold = self.ask.resume(past).await;
            for observation in &mut untold {
                observation.reason = observation.reason.take().map(|reason| self.whose(&reason));
                observation.account = Some(self.seen.clone());
            }
            untold
        })
    }

    fn close<'a>(&'a self) -> Boxed<'a, ()> {
        self.ask.close()
    }

    fn afterwards<'a>(&'a self) -> Boxed<'a, Option<Correction>> {
        Box::pin(async move {
            let mut correction = self.ask.afterwards().await?;
            correction.reason = correction.reason.take().map(|reason| self.whose(&reason));
            correction.account = Some(self.seen.clone());
            Some(correction)
        })
    }
}

#[cfg(test)]
mod tests;
