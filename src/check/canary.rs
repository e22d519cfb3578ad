//! Canaries: hosts elsewhere that are asked only to learn whether the agent itself still has a network.

use std::{fmt, sync::Arc, time::Duration};

use super::{Ask, Context, Families, Settings, from_url};
use crate::{
    clock,
    incident::vantage::{Answer, answer_of},
    observation::Reason,
    protocol::Net,
};

/// Most canaries of one agent: all are asked at once, each with a descriptor or two of those that are kept aside.
pub const CANARIES_MAX: usize = 8;

/// How long a canary may take. Whoever asks holds a verdict back meanwhile, and a host that answers at all does so in
/// a fraction of it.
pub const CANARY_TIMEOUT: Duration = Duration::from_secs(2);

/// How far beyond it an attempt may run before it is cut off.
const SLACK: Duration = Duration::from_millis(500);

/// A host elsewhere that usually answers.
#[derive(Clone)]
pub struct Canary {
    ask: Arc<dyn Ask>,
}

impl Canary {
    /// The canary of a URL: the probe of the protocol that speaks it.
    ///
    /// # Errors
    /// When no protocol speaks it, or the URL does not fit; in words for the user.
    pub fn from_url(url: &str) -> Result<Self, String> {
        from_url(url).map(|ask| Self { ask })
    }

    /// What is asked, for people, without secrets.
    pub fn target(&self) -> String {
        self.ask.target()
    }

    /// Asks once; ends within [`CANARY_TIMEOUT`] and a little. With what it says of the network comes why it did not
    /// answer.
    pub async fn ask(&self, net: &Arc<Net>) -> (Answer, Option<Reason>) {
        let settings = Settings { timeout: CANARY_TIMEOUT, slow: None, ip: Families::Any };
        let context = Context { net: net.clone(), at: clock::now(), settings, explain: false, wait_max: None };
        match tokio::time::timeout(CANARY_TIMEOUT + SLACK, self.ask.attempt(context)).await {
            Ok(answer) => (answer_of(&answer.observation), answer.observation.reason),
            Err(_) => (Answer::Silent, None),
        }
    }
}

impl fmt::Debug for Canary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Canary({})", self.target())
    }
}

impl PartialEq for Canary {
    fn eq(&self, other: &Self) -> bool {
        self.target() == other.target()
    }
}
