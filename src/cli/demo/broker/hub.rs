//! Who has subscribed to what, and which message goes to whom; without sockets and clocks.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use mqtt_protocol_core::mqtt::packet::{Property, Qos, RetainHandling, SubEntry, SubOpts};
use tokio::sync::mpsc;

use super::Fault;

/// Most subscriptions of one session.
const SUBSCRIPTIONS_MAX: usize = 100;

/// Most topics with a retained message.
const RETAINED_MAX: usize = 1_000;

/// Messages that [`Fault::Withhold`] keeps: a backlog that bursts through once the jam clears is short, the rest of
/// it is lost.
const WITHHELD_MAX: usize = 3;

/// Messages on their way to one session; a receiver that does not read loses what comes beyond.
pub const QUEUE_MAX: usize = 1_000;

/// Time between two copies of a duplicated message.
const COPIES_APART: Duration = Duration::from_millis(150);

/// What the broker has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Logins that succeeded.
    pub logins: u64,
    /// Connections and logins that were turned away.
    pub refused: u64,
    /// Messages taken and, at QoS 1 and 2, acknowledged.
    pub accepted: u64,
    /// Messages handed to a receiver's session, copies included.
    pub delivered: u64,
    /// Messages taken and then dropped or lost: by a fault, or because a bound was reached.
    pub dropped: u64,
}

/// A message as it was published.
#[derive(Clone, Debug)]
pub struct Published {
    /// Its topic.
    pub topic: String,
    /// Its body.
    pub payload: Vec<u8>,
    /// Its quality of service.
    pub qos: Qos,
    /// Whether it is to be kept for later subscribers.
    pub retain: bool,
    /// MQTT 5 properties that a broker passes on.
    pub properties: Vec<Property>,
}

/// A message for one session.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// What was published.
    pub message: Arc<Published>,
    /// The lower of what was published and what was subscribed.
    pub qos: Qos,
    /// Whether it is marked as a stored one.
    pub retain: bool,
    /// How much later it is to be delivered.
    pub after: Duration,
}

/// What a session is told.
#[derive(Debug)]
pub enum Told {
    /// Deliver this.
    Deliver(Delivery),
    /// The same client has logged in anew: end.
    TakenOver,
}

/// A session's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(u64);

struct Session {
    client: String,
    subscriptions: HashMap<String, SubOpts>,
    queue: mpsc::Sender<Told>,
}

/// All sessions and what they have subscribed to.
#[derive(Default)]
pub struct Hub {
    sessions: BTreeMap<SessionId, Session>,
    next_id: u64,
    retained: BTreeMap<String, Arc<Published>>,
    withheld: VecDeque<(SessionId, Arc<Published>)>,
    fault: Fault,
    attempts: u64,
    counts: Counts,
}

impl Hub {
    /// Switches the fault.
    pub fn set_fault(&mut self, fault: Fault) {
        self.fault = fault;
        self.attempts = 0;
    }

    /// What has been done so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// A connection or a login was turned away.
    pub fn count_refused(&mut self) {
        self.counts.refused += 1;
    }

    /// Whether the next login is turned away for overload: evenly spread, so that of ten attempts exactly as many
    /// fail as the fault says.
    pub fn overloaded(&mut self) -> bool {
        let Fault::Overload(of_ten) = self.fault else { return false };
        let of_ten = u64::from(of_ten.min(10));
        self.attempts += 1;
        self.attempts * of_ten / 10 > (self.attempts - 1) * of_ten / 10
    }

    /// A client has logged in; whoever used its identifier before is told to go.
    pub fn log_in(&mut self, client: &str) -> (SessionId, mpsc::Receiver<Told>) {
        self.sessions.retain(|_, old| {
            let same = old.client == client;
            if same {
                // A full queue is a receiver that does not read; its connection ends by its keep-alive.
                let _ = old.queue.try_send(Told::TakenOver);
            }
            !same
        });
        let (queue, told) = mpsc::channel(QUEUE_MAX);
        let id = SessionId(self.next_id);
        self.next_id += 1;
        self.counts.logins += 1;
        self.sessions.insert(id, Session { client: client.to_owned(), subscriptions: HashMap::new(), queue });
        (id, told)
    }

    /// A session has ended.
    pub fn leave(&mut self, id: SessionId) {
        self.sessions.remove(&id);
    }

    /// Adds or replaces a subscription; `false` when the session has too many.
    pub fn subscribe(&mut self, id: SessionId, entry: &SubEntry) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        let (filter, options) = (entry.topic_filter(), *entry.sub_opts());
        let new = !session.subscriptions.contains_key(filter);
        if new && session.subscriptions.len() >= SUBSCRIPTIONS_MAX {
            return false;
        }
        session.subscriptions.insert(filter.to_owned(), options);
        let wanted = match options.rh() {
            RetainHandling::SendRetained => true,
            RetainHandling::SendRetainedIfNotExists => new,
            RetainHandling::DoNotSendRetained => false,
        };
        if wanted {
            for (_, message) in self.retained.iter().filter(|(topic, _)| matches(filter, topic)) {
                let qos = lower(message.qos, options.qos());
                let delivery = Delivery { message: message.clone(), qos, retain: true, after: Duration::ZERO };
                push(session, delivery, &mut self.counts);
            }
        }
        true
    }

    /// Removes a subscription; `false` when there was none.
    pub fn unsubscribe(&mut self, id: SessionId, filter: &str) -> bool {
        self.sessions.get_mut(&id).is_some_and(|session| session.subscriptions.remove(filter).is_some())
    }

    /// A session has published a message: it goes to all who want it, as far as the fault lets it.
    pub fn publish(&mut self, from: SessionId, message: Published) {
        self.counts.accepted += 1;
        let message = Arc::new(message);
        let (after, copies) = match self.fault {
            Fault::DropSilently => {
                self.counts.dropped += 1;
                return;
            }
            Fault::Withhold => {
                self.withheld.push_back((from, message));
                if self.withheld.len() > WITHHELD_MAX {
                    self.withheld.pop_front();
                    self.counts.dropped += 1;
                }
                return;
            }
            Fault::Delay(after) => (after, 1),
            Fault::Duplicate(copies) => (Duration::ZERO, copies),
            Fault::DelayAndDuplicate(after, copies) => (after, copies),
            Fault::Healthy | Fault::RefuseLogin | Fault::Overload(_) | Fault::Freeze => (Duration::ZERO, 1),
        };
        for (from, kept) in std::mem::take(&mut self.withheld) {
            self.route(from, &kept, Duration::ZERO);
        }
        self.retain(&message);
        for copy in 0..copies {
            self.route(from, &message, after + COPIES_APART * copy);
        }
    }

    fn retain(&mut self, message: &Arc<Published>) {
        if !message.retain {
            return;
        }
        if message.payload.is_empty() {
            self.retained.remove(&message.topic);
        } else if self.retained.len() < RETAINED_MAX || self.retained.contains_key(&message.topic) {
            self.retained.insert(message.topic.clone(), message.clone());
        }
    }

    fn route(&mut self, from: SessionId, message: &Arc<Published>, after: Duration) {
        for (id, session) in &self.sessions {
            let wanted = session
                .subscriptions
                .iter()
                .filter(|(filter, options)| matches(filter, &message.topic) && !(options.nl() && *id == from))
                .map(|(_, options)| options)
                .max_by_key(|options| options.qos() as u8);
            let Some(options) = wanted else { continue };
            let qos = lower(message.qos, options.qos());
            let retain = message.retain && options.rap();
            push(session, Delivery { message: message.clone(), qos, retain, after }, &mut self.counts);
        }
    }
}

fn push(session: &Session, delivery: Delivery, counts: &mut Counts) {
    match session.queue.try_send(Told::Deliver(delivery)) {
        Ok(()) => counts.delivered += 1,
        Err(_) => counts.dropped += 1,
    }
}

fn lower(a: Qos, b: Qos) -> Qos {
    if (a as u8) < (b as u8) { a } else { b }
}

/// Whether a topic is one of those a filter names (MQTT 5, 4.7).
pub fn matches(filter: &str, topic: &str) -> bool {
    // A wildcard at the beginning does not reach the server's own topics.
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for part in filter.split('/') {
        match (part, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (part, Some(level)) if part == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// Whether a filter is well formed: `#` alone at the end, `+` alone in its level.
pub fn is_filter(filter: &str) -> bool {
    let levels = filter.split('/').count();
    !filter.is_empty()
        && filter.split('/').enumerate().all(|(n, part)| match part {
            "#" => n + 1 == levels,
            "+" => true,
            part => !part.contains(['#', '+']),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_the_standard_says() {
        let table = [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/+", "a/b", true),
            ("a/+", "a/b/c", false),
            ("a/+", "a", false),
            ("a/+/c", "a//c", true),
            ("+", "a", true),
            ("+", "/a", false),
            ("+/+", "/a", true),
            ("/+", "/a", true),
            ("#", "a/b/c", true),
            ("a/#", "a/b/c", true),
            ("a/#", "a", true),
            ("a/#", "ab", false),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("센서/+", "센서/온도", true),
        ];
        for (filter, topic, expected) in table {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        }
        for bad in ["", "a#", "a/#/b", "a+", "+a/b", "#/a"] {
            assert!(!is_filter(bad), "{bad}");
        }
        for good in ["a", "/", "+", "#", "a/+/b/#", "$share"] {
            assert!(is_filter(good), "{good}");
        }
    }

    #[test]
    fn overload_turns_away_its_share_evenly() {
        for of_ten in 0..=10 {
            let mut hub = Hub::default();
            hub.set_fault(Fault::Overload(of_ten));
            let turned_away = (0..30).filter(|_| hub.overloaded()).count();
            assert_eq!(turned_away, of_ten as usize * 3);
        }
        let mut hub = Hub::default();
        hub.set_fault(Fault::Overload(8));
        let pattern: Vec<bool> = (0..10).map(|_| hub.overloaded()).collect();
        let longest = pattern.split(|away| !away).map(<[bool]>::len).max();
        assert_eq!(longest, Some(4), "{pattern:?}");
    }
}
