//! The loop of one channel: what is due is delivered, one message at a time, and its result told back.
//!
//! Each channel has a loop of its own, so a slow receiver delays only its own messages. Within a channel nothing
//! overlaps: the next message is asked for when the result of the one before is committed, so no message is ever on
//! its way twice at once, and what was superseded a moment ago is not sent.

use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::sync::watch;

use super::Channel;
use crate::{
    alert::{Message, MessageId, message::Attempted},
    clock,
    observation::one_line,
    protocol::Net,
    value::{Name, TimeSpan, Timestamp},
};

/// Longest one delivery may take. Channels end by deadlines of their own, all shorter; this fences the one that
/// does not.
pub const DELIVERY_MAX: Duration = Duration::from_secs(60);

/// Longest sleep without looking at the queue: the wall clock may be set, or the machine suspended, meanwhile.
pub const SLEEP_MAX: Duration = Duration::from_secs(30);

/// How long a delivery in progress, and the commit of its result, may go on after the stop. A delivery that is
/// abandoned is repeated after the start under the same key. Less than the agent gives its tasks to end, so that the
/// loop itself ends and says what it abandons.
pub const STOP_GRACE: Duration = Duration::from_secs(4);

/// The bounds of a loop; tests shorten them.
#[derive(Clone, Copy)]
struct Bounds {
    delivery: Duration,
    sleep: Duration,
    grace: Duration,
}

const BOUNDS: Bounds = Bounds { delivery: DELIVERY_MAX, sleep: SLEEP_MAX, grace: STOP_GRACE };

/// Pause after a message came back although its result was told: whatever is wrong with the queue must not flood
/// the receiver.
const SAME_AGAIN_PAUSE: Duration = Duration::from_secs(1);

/// Longest error told back, in characters.
const ERROR_CHARS_MAX: usize = 400;

/// The outbox as one channel's loop sees it.
pub trait Queue: Send + Sync {
    /// The message to deliver next, of those due at `now`: the oldest.
    fn due(&self, now: Timestamp) -> Option<Message>;

    /// When the next message is due, if there is any.
    fn next_due(&self) -> Option<Timestamp>;

    /// Tells what came of an attempt; resolves when that is committed.
    fn attempted(&self, id: MessageId, result: Attempted) -> impl Future<Output = ()> + Send;

    /// Changes whenever `due` or `next_due` may answer otherwise than before; its end ends the loop.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// Delivers a channel's messages until `stop` resolves or the queue is gone; ends within [`STOP_GRACE`] of that.
pub async fn run(
    name: Name,
    channel: Arc<dyn Channel>,
    net: Arc<Net>,
    queue: impl Queue,
    stop: impl Future<Output = ()>,
) {
    run_within(BOUNDS, name, channel, net, queue, stop).await;
}

async fn run_within(
    bounds: Bounds,
    name: Name,
    channel: Arc<dyn Channel>,
    net: Arc<Net>,
    queue: impl Queue,
    stop: impl Future<Output = ()>,
) {
    let mut stop = pin!(stop);
    let mut changes = queue.changes();
    let mut latest: Option<(MessageId, u32)> = None;
    loop {
        // Before the queue is asked, so that a change after the question ends the sleep.
        changes.borrow_and_update();
        let now = clock::now();
        let Some(message) = queue.due(now) else {
            let sleep = queue.next_due().map_or(bounds.sleep, |at| at.since(now)).min(bounds.sleep);
            tokio::select! {
                biased;
                () = &mut stop => return,
                changed = changes.changed() => if changed.is_err() { return },
                // A millisecond more: a due time is reached, not approached.
                () = tokio::time::sleep(sleep + Duration::from_millis(1)) => {}
            }
            continue;
        };
        let this = (message.id, message.attempts);
        if latest.replace(this) == Some(this) {
            tracing::error!(channel = %name, message = %message.id, "the outbox gives out a message twice");
            tokio::select! {
                biased;
                () = &mut stop => return,
                () = tokio::time::sleep(SAME_AGAIN_PAUSE) => {}
            }
        }
        let mut attempt = pin!(async {
            let result = masked(deliver(bounds.delivery, &name, &*channel, &net, &message).await, &net);
            log(&name, &message, &result);
            queue.attempted(message.id, result).await;
        });
        tokio::select! {
            () = &mut attempt => {}
            () = &mut stop => {
                if tokio::time::timeout(bounds.grace, attempt).await.is_err() {
                    tracing::warn!(channel = %name, key = message.key, "stopped during a delivery; it will be repeated");
                }
                return;
            }
        }
    }
}

/// One attempt, fenced: by a deadline, and against a panic, which must not take the other messages with it.
async fn deliver(within: Duration, name: &Name, channel: &dyn Channel, net: &Arc<Net>, message: &Message) -> Attempted {
    let delivery = AssertUnwindSafe(async { channel.deliver(net, message).await }).catch_unwind();
    let error = match tokio::time::timeout(within, delivery).await {
        Ok(Ok(result)) => return result,
        Ok(Err(_)) => format!("the {} channel {name} panicked; this is a bug in bongsu", channel.kind()),
        Err(_) => format!("{} did not come to an end within {}", channel.target(), TimeSpan(within)),
    };
    Attempted::Retry { error, retry_after: None }
}

fn masked(result: Attempted, net: &Net) -> Attempted {
    let mask = |error: String| one_line(&net.masker.mask(&error), ERROR_CHARS_MAX);
    match result {
        Attempted::Delivered => Attempted::Delivered,
        Attempted::Retry { error, retry_after } => Attempted::Retry { error: mask(error), retry_after },
        Attempted::Refused { error } => Attempted::Refused { error: mask(error) },
    }
}

fn log(name: &Name, message: &Message, result: &Attempted) {
    let (kind, key, attempt) = (message.alert.kind.as_str(), &message.key, message.attempts.saturating_add(1));
    match result {
        Attempted::Delivered => tracing::info!(channel = %name, kind, key, attempt, "alert delivered"),
        Attempted::Retry { error, .. } => {
            tracing::warn!(channel = %name, kind, key, attempt, error, "alert not delivered, to be retried");
        }
        Attempted::Refused { error } => {
            tracing::error!(channel = %name, kind, key, attempt, error, "alert refused by its receiver");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::{sync::oneshot, time::Instant};

    use super::*;
    use crate::{
        alert::{MessageKind, MessageState, outbox},
        notify::{testing, text},
        protocol::Boxed,
        value::Masker,
    };

    /// A queue in memory that applies the real schedule.
    struct Fake {
        messages: Mutex<Vec<Message>>,
        results: Mutex<Vec<(u64, Attempted)>>,
        changes: watch::Sender<u64>,
    }

    impl Fake {
        fn new(messages: Vec<Message>) -> Arc<Self> {
            Arc::new(Self { messages: Mutex::new(messages), results: Mutex::default(), changes: watch::channel(0).0 })
        }

        fn results(&self) -> Vec<(u64, Attempted)> {
            self.results.lock().expect("no panic").clone()
        }

        fn pending(&self) -> Vec<Message> {
            let messages = self.messages.lock().expect("no panic");
            messages.iter().filter(|m| m.state == MessageState::Pending).cloned().collect()
        }
    }

    impl Queue for Arc<Fake> {
        fn due(&self, now: Timestamp) -> Option<Message> {
            self.pending().into_iter().filter(|m| m.next_at <= now).min_by_key(|m| (m.next_at, m.id))
        }
        fn next_due(&self) -> Option<Timestamp> {
            self.pending().iter().map(|m| m.next_at).min()
        }
        async fn attempted(&self, id: MessageId, result: Attempted) {
            tokio::time::sleep(Duration::from_millis(3)).await;
            let mut messages = self.messages.lock().expect("no panic");
            let message = messages.iter_mut().find(|m| m.id == id).expect("a message of this queue");
            let step = outbox::after_attempt(message, &result, clock::now(), &mut fastrand::Rng::with_seed(id.0));
            step.apply(message);
            self.results.lock().expect("no panic").push((id.0, result));
            self.changes.send_modify(|n| *n += 1);
        }
        fn changes(&self) -> watch::Receiver<u64> {
            self.changes.subscribe()
        }
    }

    type Script = Box<dyn Fn(&Message) -> (Duration, Attempted) + Send + Sync>;

    struct Scripted {
        script: Script,
        at_once: AtomicUsize,
        most_at_once: AtomicUsize,
    }

    impl Scripted {
        fn new(script: impl Fn(&Message) -> (Duration, Attempted) + Send + Sync + 'static) -> Arc<Self> {
            Arc::new(Self { script: Box::new(script), at_once: 0.into(), most_at_once: 0.into() })
        }
    }

    impl Channel for Scripted {
        fn kind(&self) -> &'static str {
            "scripted"
        }
        fn target(&self) -> String {
            "the script".into()
        }
        fn deliver<'a>(&'a self, _: &'a Arc<Net>, message: &'a Message) -> Boxed<'a, Attempted> {
            Box::pin(async move {
                let (took, result) = (self.script)(message);
                let running = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
                self.most_at_once.fetch_max(running, Ordering::SeqCst);
                tokio::time::sleep(took).await;
                self.at_once.fetch_sub(1, Ordering::SeqCst);
                result
            })
        }
    }

    fn message(id: u64) -> Message {
        let mut message = testing::message(text::tests::alert(MessageKind::Problem));
        message.id = MessageId(id);
        message.created_at = clock::now();
        message.next_at = message.created_at;
        message
    }

    fn retry(error: &str) -> Attempted {
        Attempted::Retry { error: error.into(), retry_after: None }
    }

    const SHORT: Bounds =
        Bounds { delivery: Duration::from_millis(50), sleep: SLEEP_MAX, grace: Duration::from_millis(300) };

    fn name() -> Name {
        "ops".parse().expect("a name")
    }

    #[tokio::test]
    async fn messages_go_out_one_by_one_in_order() {
        let queue = Fake::new((1..=20).map(message).collect());
        let channel = Scripted::new(|_| (Duration::from_millis(2), Attempted::Delivered));
        let (stop, stopped) = oneshot::channel::<()>();
        let running = run(name(), channel.clone(), testing::net(Masker::default()), queue.clone(), async {
            let _ = stopped.await;
        });
        let watch = async {
            let mut changes = queue.changes();
            changes.wait_for(|n| *n == 20).await.expect("the queue lives");
            let _ = stop.send(());
        };
        tokio::join!(running, watch);
        let ids: Vec<u64> = queue.results().into_iter().map(|(id, _)| id).collect();
        assert_eq!(ids, (1..=20).collect::<Vec<_>>());
        assert_eq!(channel.most_at_once.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_new_message_ends_the_sleep_at_once() {
        let queue = Fake::new(vec![]);
        let channel = Scripted::new(|_| (Duration::ZERO, Attempted::Delivered));
        let (stop, stopped) = oneshot::channel::<()>();
        let begun = Instant::now();
        let running = run(name(), channel, testing::net(Masker::default()), queue.clone(), async {
            let _ = stopped.await;
        });
        let feed = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            queue.messages.lock().expect("no panic").push(message(1));
            queue.changes.send_modify(|n| *n += 1);
            let mut changes = queue.changes();
            changes.wait_for(|n| *n == 2).await.expect("the queue lives");
            let _ = stop.send(());
        };
        tokio::join!(running, feed);
        assert_eq!(queue.results(), [(1, Attempted::Delivered)]);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn errors_are_masked_and_bounded_and_panics_fenced() {
        let queue = Fake::new((1..=4).map(message).collect());
        let channel = Scripted::new(|m| match m.id.0 {
            1 => (Duration::ZERO, retry(&format!("hunter2 {}", "x".repeat(9_999)))),
            2 => panic!("a bug"),
            3 => (Duration::from_secs(60), Attempted::Delivered),
            _ => (Duration::ZERO, Attempted::Refused { error: "no hunter2".into() }),
        });
        let net = testing::net(Masker::new([crate::value::Secret::new("hunter2")]));
        let (stop, stopped) = oneshot::channel::<()>();
        let running = run_within(SHORT, name(), channel, net, queue.clone(), async {
            let _ = stopped.await;
        });
        let watch = async {
            let mut changes = queue.changes();
            changes.wait_for(|n| *n == 4).await.expect("the queue lives");
            let _ = stop.send(());
        };
        tokio::join!(running, watch);
        let results = queue.results();
        let error = |n: usize| match &results[n].1 {
            Attempted::Retry { error, .. } | Attempted::Refused { error } => error.clone(),
            Attempted::Delivered => "delivered".into(),
        };
        assert!(error(0).starts_with("*** xxx") && error(0).chars().count() == ERROR_CHARS_MAX, "{}", error(0));
        assert_eq!(error(1), "the scripted channel ops panicked; this is a bug in bongsu");
        assert_eq!(error(2), "the script did not come to an end within 50ms");
        assert_eq!(error(3), "no ***");
        assert_eq!(queue.pending().len(), 3, "only the refused one is settled");
    }

    #[tokio::test]
    async fn stopping_lets_a_delivery_end_but_does_not_wait_for_one_that_hangs() {
        for (took, results, ended_within) in [(100, 1, 1_000), (60_000, 0, 5_000)] {
            let queue = Fake::new(vec![message(1), message(2)]);
            let channel = Scripted::new(move |_| (Duration::from_millis(took), Attempted::Delivered));
            let begun = Instant::now();
            let stop = tokio::time::sleep(Duration::from_millis(50));
            run_within(
                Bounds { delivery: DELIVERY_MAX, ..SHORT },
                name(),
                channel,
                testing::net(Masker::default()),
                queue.clone(),
                stop,
            )
            .await;
            assert_eq!(queue.results().len(), results, "took {took} ms");
            let elapsed = begun.elapsed();
            assert!(elapsed < Duration::from_millis(ended_within), "took {took} ms: {elapsed:?}");
        }
        let queue = Fake::new(vec![]);
        let stop = tokio::time::sleep(Duration::from_millis(50));
        let begun = Instant::now();
        run_within(SHORT, name(), Scripted::new(|_| unreachable!()), testing::net(Masker::default()), queue, stop)
            .await;
        assert!(begun.elapsed() < Duration::from_secs(5), "an idle loop stops at once");
    }

    #[tokio::test]
    async fn a_failed_message_comes_again_and_lets_others_pass() {
        let queue = Fake::new(vec![message(1), message(2)]);
        let failures = AtomicUsize::new(0);
        let channel = Scripted::new(move |m| {
            let fails = m.id.0 == 1 && failures.fetch_add(1, Ordering::SeqCst) == 0;
            (Duration::ZERO, if fails { retry("503") } else { Attempted::Delivered })
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let running = run(name(), channel, testing::net(Masker::default()), queue.clone(), async {
            let _ = stopped.await;
        });
        let watch = async {
            let mut changes = queue.changes();
            changes.wait_for(|n| *n == 3).await.expect("the queue lives");
            let _ = stop.send(());
        };
        tokio::join!(running, watch);
        let expected = [(1, retry("503")), (2, Attempted::Delivered), (1, Attempted::Delivered)];
        assert_eq!(queue.results(), expected);
    }
}
