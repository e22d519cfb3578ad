//! The retry schedule of the outbox: what becomes of a message after an attempt to deliver it.
//!
//! Pure: the time and the randomness are arguments, and the answer is a value that its caller commits. A message is
//! tried until its receiver says yes or says no for good, at most for [`GIVE_UP_AFTER`]. Its channel's fallback is
//! given a copy once: at once when the receiver refuses, after about [`FALLBACK_AFTER`] when it does not answer
//! (the original goes on being tried, because a receiver that comes back should hold the whole story), and at the
//! latest when the message is given up.

use std::time::Duration;

use super::message::{Attempted, Message, MessageKind, MessageState};
use crate::{observation::one_line, value::Timestamp};

/// Attempts in vain before a message is given up, however old it seems: half of what a day of the longest pauses has.
const GIVE_UP_ATTEMPTS_MIN: u32 = 12;

/// How long a message is tried before it is given up: over a night and a working day somebody will have repaired
/// the receiver or read the fallback.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(86_400);

/// Longest pause after the first failed attempt; it doubles with each further one. Short, because most failures of
/// a receiver are restarts.
pub const PAUSE_FIRST: Duration = Duration::from_secs(5);

/// Shortest pause, so that jitter never makes a tight loop.
pub const PAUSE_MIN: Duration = Duration::from_secs(1);

/// Longest pause of our own choice: a receiver that comes back after hours is noticed within ten minutes.
pub const PAUSE_MAX: Duration = Duration::from_secs(600);

/// Longest pause a receiver may ask for: an alert that is later than an hour had better be tried unasked.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);

/// How old an undelivered message becomes before the fallback speaks. A minute is a restart; longer is an outage
/// of the receiver, and somebody must be told by another way.
pub const FALLBACK_AFTER: Duration = Duration::from_secs(60);

/// Failed attempts it takes as well. One failure is a blip, even of a message that is old already because the agent
/// was stopped meanwhile; two with a pause between them are not. Two is also the most that fits into
/// [`FALLBACK_AFTER`] when every attempt hangs until its deadline.
pub const FALLBACK_ATTEMPTS: u32 = 2;

/// Longest error kept with a message, in characters.
const ERROR_CHARS_MAX: usize = 400;

/// What becomes of a message: the fields that change, and whether its fallback gets a copy now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// How its delivery stands now.
    pub state: MessageState,
    /// Attempts made, this one included.
    pub attempts: u32,
    /// When it is to be tried again (unchanged once settled).
    pub next_at: Timestamp,
    /// What went wrong last; kept after a delivery, to tell why it came late.
    pub last_error: Option<String>,
    /// When it was settled.
    pub settled_at: Option<Timestamp>,
    /// Whether the fallback channel is to be given a copy now. True at most once in the life of a message.
    pub hand_over: bool,
}

impl Step {
    /// Writes the step into the message it was made for.
    pub fn apply(&self, message: &mut Message) {
        message.state = self.state;
        message.attempts = self.attempts;
        message.next_at = self.next_at;
        message.last_error.clone_from(&self.last_error);
        message.settled_at = self.settled_at;
        message.handed_over |= self.hand_over;
    }
}

/// Decides what follows from an attempt that ended at `now`.
pub fn after_attempt(message: &Message, result: &Attempted, now: Timestamp, random: &mut fastrand::Rng) -> Step {
    let mut step = Step {
        state: message.state,
        attempts: message.attempts.saturating_add(1),
        next_at: message.next_at,
        last_error: message.last_error.clone(),
        settled_at: message.settled_at,
        hand_over: false,
    };
    // The message was settled while the attempt ran (superseded, say). Only a yes still counts: it is a fact.
    if message.state != MessageState::Pending && *result != Attempted::Delivered {
        return step;
    }
    match result {
        Attempted::Delivered => {
            step.state = MessageState::Delivered;
            step.settled_at = Some(now);
        }
        Attempted::Refused { error } => {
            step.state = MessageState::Refused;
            step.settled_at = Some(now);
            step.last_error = Some(one_line(error, ERROR_CHARS_MAX));
            step.hand_over = may_hand_over(message);
        }
        Attempted::Retry { error, retry_after } => {
            step.last_error = Some(one_line(error, ERROR_CHARS_MAX));
            retry(&mut step, message, *retry_after, now, random);
        }
    }
    step
}

fn retry(step: &mut Step, message: &Message, wish: Option<Duration>, now: Timestamp, random: &mut fastrand::Rng) {
    let give_up_at = message.created_at + GIVE_UP_AFTER;
    // What a clock that was set a day ahead makes old has not been tried for a day.
    let old = now >= give_up_at;
    if old && step.attempts >= GIVE_UP_ATTEMPTS_MIN {
        step.state = MessageState::GivenUp;
        step.settled_at = Some(now);
        step.hand_over = may_hand_over(message);
        return;
    }
    let pause = pause(pause_ceiling(step.attempts, now.since(message.created_at)), random);
    let wish = wish.unwrap_or_default().min(RETRY_AFTER_MAX);
    // Never before the receiver's wish, and some jitter beyond it, or all messages would come in the same second.
    let wished = if wish > pause { wish + up_to(wish / 10, random) } else { pause };
    step.next_at = if old { now + wished } else { (now + wished).min(give_up_at) };
    if !may_hand_over(message) {
        return;
    }
    let fallback_at = message.created_at + FALLBACK_AFTER;
    let tried_enough = step.attempts >= FALLBACK_ATTEMPTS && now >= fallback_at;
    // A receiver that asks for a longer pause than we would wait for it has answered the question itself.
    let put_off = wish > FALLBACK_AFTER;
    if tried_enough || put_off {
        step.hand_over = true;
    } else if now < fallback_at && wish <= pause {
        // So that the attempt which decides about the fallback is made when it is due, not a pause later.
        step.next_at = step.next_at.min(fallback_at);
    }
}

/// A test asks about one channel only; a copy by another would answer for it. And nobody is told twice.
fn may_hand_over(message: &Message) -> bool {
    !message.handed_over && message.alert.kind != MessageKind::Test
}

/// Longest pause after this many failed attempts of a message of this age: 5 s, 10 s, 20 s … 10 min, and never more
/// than half as long as the message has been waiting, so that a receiver that was down for a minute has its messages
/// within half a minute of its return, however often it was tried meanwhile.
pub fn pause_ceiling(attempts: u32, age: Duration) -> Duration {
    let doubled = PAUSE_FIRST * (1 << attempts.saturating_sub(1).min(16));
    // Every attempt had its pause: so old it is at least, also when the clock was set back meanwhile.
    let age = age.max(PAUSE_MIN * attempts);
    doubled.min(age / 2).clamp(PAUSE_FIRST, PAUSE_MAX)
}

/// Full jitter: anything between [`PAUSE_MIN`] and the ceiling, so that messages that failed together do not come
/// back together.
fn pause(ceiling: Duration, random: &mut fastrand::Rng) -> Duration {
    PAUSE_MIN + up_to(ceiling - PAUSE_MIN, random)
}

fn up_to(span: Duration, random: &mut fastrand::Rng) -> Duration {
    Duration::from_millis(random.u64(0..=u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        alert::message::{Alert, MessageId},
        incident::{Edge, Severity},
    };

    fn message() -> Message {
        let at = Timestamp::from_millis(1_000_000);
        let name = "ops".parse().expect("a name");
        Message {
            id: MessageId(1),
            key: "k".into(),
            channel: name,
            thread: "t".into(),
            position: 0,
            alert: Alert {
                kind: MessageKind::Problem,
                incident: None,
                vantage: "v".parse().expect("a name"),
                service: "s".parse().expect("a name"),
                title: "S".into(),
                labels: Default::default(),
                severity: Severity::Down,
                cause: "c".into(),
                started: Edge { after: None, by: at },
                ended: None,
                unwatched: false,
                duration_ms: 0,
                checks: vec![],
                acknowledged_by: None,
                next: None,
                instead_of: None,
                others: Default::default(),
                at,
            },
            created_at: at,
            state: MessageState::Pending,
            attempts: 0,
            next_at: at,
            last_error: None,
            settled_at: None,
            handed_over: false,
        }
    }

    fn retry_after(seconds: u64) -> Attempted {
        Attempted::Retry { error: "503".into(), retry_after: Some(Duration::from_secs(seconds)) }
    }

    fn failed() -> Attempted {
        Attempted::Retry { error: "503".into(), retry_after: None }
    }

    #[test]
    fn each_result_settles_as_it_should() {
        use MessageState::{Delivered, GivenUp, Pending, Refused, Superseded};
        let refused = Attempted::Refused { error: "404".into() };
        // state before, attempts before, age in seconds, handed over, result; state after, hand over
        let table = [
            (Pending, 0, 0, false, Attempted::Delivered, Delivered, false),
            (Pending, 7, 90_000, false, Attempted::Delivered, Delivered, false),
            (Pending, 0, 0, false, refused.clone(), Refused, true),
            (Pending, 0, 0, true, refused.clone(), Refused, false),
            (Pending, 0, 0, false, failed(), Pending, false),
            (Pending, 0, 7_200, false, failed(), Pending, false),
            (Pending, 1, 59, false, failed(), Pending, false),
            (Pending, 1, 60, false, failed(), Pending, true),
            (Pending, 1, 60, true, failed(), Pending, false),
            (Pending, 5, 20, false, failed(), Pending, false),
            (Pending, 0, 0, false, retry_after(61), Pending, true),
            (Pending, 0, 0, false, retry_after(30), Pending, false),
            (Pending, 99, 86_399, true, failed(), Pending, false),
            (Pending, 99, 86_400, true, failed(), GivenUp, false),
            (Pending, 99, 86_400, false, failed(), GivenUp, true),
            (Superseded, 3, 70, false, failed(), Superseded, false),
            (Superseded, 3, 70, false, refused, Superseded, false),
            (Superseded, 3, 70, false, Attempted::Delivered, Delivered, false),
        ];
        for (number, (state, attempts, age, handed_over, result, after, hand_over)) in table.into_iter().enumerate() {
            let mut message = Message { state, attempts, handed_over, ..message() };
            let now = message.created_at + Duration::from_secs(age);
            let step = after_attempt(&message, &result, now, &mut fastrand::Rng::with_seed(1));
            assert_eq!((step.state, step.hand_over), (after, hand_over), "row {number}");
            assert_eq!(step.attempts, attempts + 1, "row {number}");
            assert_eq!(step.settled_at.is_some(), state == Pending && after != Pending || after == Delivered);
            step.apply(&mut message);
            assert_eq!(message.handed_over, handed_over || hand_over, "row {number}");
        }
    }

    #[test]
    fn a_test_message_is_never_handed_over() {
        let mut message = message();
        message.alert.kind = MessageKind::Test;
        let refused = Attempted::Refused { error: "404".into() };
        let step = after_attempt(&message, &refused, message.created_at, &mut fastrand::Rng::with_seed(1));
        assert!(!step.hand_over);
    }

    #[test]
    fn the_receivers_wish_is_honoured_within_bounds() {
        for (wish, least, most) in
            [(0, 1, 5), (2, 1, 5), (30, 30, 33), (86_400, 3_600, 3_960), (u64::MAX, 3_600, 3_960)]
        {
            for seed in 0..200 {
                let message = message();
                let mut random = fastrand::Rng::with_seed(seed);
                let step = after_attempt(&message, &retry_after(wish), message.created_at, &mut random);
                let pause = step.next_at.since(message.created_at).as_secs_f64();
                assert!((f64::from(least)..=f64::from(most)).contains(&pause), "{wish}: {pause}");
                assert!(wish > 5 || pause >= wish.min(1) as f64);
            }
        }
    }

    /// Runs a message against a receiver that answers with failures until `back_at` seconds, each attempt taking
    /// `took` seconds; returns when it was delivered and when it was handed over, in seconds, and the attempts.
    fn run(back_at: u64, took: u64, seed: u64) -> (Option<f64>, Vec<f64>, u32) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut message = message();
        let start = message.created_at;
        let mut handed_over = Vec::new();
        while message.state == MessageState::Pending {
            let now = message.next_at + Duration::from_secs(took);
            let up = message.next_at >= start + Duration::from_secs(back_at);
            let result = if up { Attempted::Delivered } else { failed() };
            let step = after_attempt(&message, &result, now, &mut random);
            if step.hand_over {
                handed_over.push(now.since(start).as_secs_f64());
            }
            step.apply(&mut message);
        }
        let delivered = message.settled_at.filter(|_| message.state == MessageState::Delivered);
        (delivered.map(|at| at.since(start).as_secs_f64()), handed_over, message.attempts)
    }

    #[test]
    fn a_receiver_down_for_a_minute_makes_the_fallback_speak_once() {
        for seed in 0..500 {
            // Answers at once with 500, or hangs until the deadline of a webhook (10 s) or a mail (30 s).
            for (took, latest) in [(0, 61.0), (10, 71.0), (30, 91.0)] {
                let (delivered, handed_over, _) = run(61, took, seed);
                assert_eq!(handed_over.len(), 1, "seed {seed} took {took}: {handed_over:?}");
                assert!((60.0..=latest).contains(&handed_over[0]), "seed {seed} took {took}: {handed_over:?}");
                let delivered = delivered.expect("it comes back");
                assert!(
                    delivered <= 1.5 * (61.0 + took as f64) + took as f64 + 0.1,
                    "seed {seed} took {took}: {delivered}"
                );
            }
            assert_eq!(run(45, 0, seed).1, Vec::<f64>::new(), "a restart does not wake the fallback");
        }
    }

    #[test]
    fn a_receiver_that_never_comes_back_is_given_up_after_a_day() {
        for seed in 0..50 {
            let (delivered, handed_over, attempts) = run(u64::MAX / 2_000, 10, seed);
            assert_eq!((delivered, handed_over.len()), (None, 1));
            assert!((150..=600).contains(&attempts), "{attempts} attempts in a day");
        }
    }

    #[test]
    fn a_clock_that_was_set_ahead_makes_nobody_give_up() {
        let busy = Attempted::Retry { error: "connection refused".into(), retry_after: None };
        let (mut message, mut random) = (message(), fastrand::Rng::with_seed(1));
        let mut now = message.created_at + GIVE_UP_AFTER + Duration::from_secs(3_600);
        while message.state == MessageState::Pending {
            let step = after_attempt(&message, &busy, now, &mut random);
            (message.attempts, message.state, message.next_at) = (step.attempts, step.state, step.next_at);
            now = message.next_at;
        }
        assert_eq!((message.attempts, message.state), (GIVE_UP_ATTEMPTS_MIN, MessageState::GivenUp));
    }

    proptest! {
        #[test]
        fn pauses_stay_within_their_bounds(attempts: u32, age_s in 0..100_000_u64, seed: u64) {
            let age = Duration::from_secs(age_s);
            let ceiling = pause_ceiling(attempts, age);
            prop_assert!((PAUSE_FIRST..=PAUSE_MAX).contains(&ceiling));
            prop_assert!(ceiling <= pause_ceiling(attempts.saturating_add(1), age), "never shrinks with attempts");
            prop_assert!(ceiling <= pause_ceiling(attempts, age + PAUSE_MIN), "never shrinks with age");
            let pause = pause(ceiling, &mut fastrand::Rng::with_seed(seed));
            prop_assert!((PAUSE_MIN..=ceiling).contains(&pause));
        }

        #[test]
        fn any_step_is_bounded_and_hands_over_at_most_once(
            attempts in 0..1_000_u32, age_ms in 0..200_000_000_u64, back_ms in 0..10_000_000_u64,
            wish in proptest::option::of(any::<u64>()), handed_over: bool, seed: u64,
        ) {
            let message = Message { attempts, handed_over, ..message() };
            // Also with a clock that was set back behind the message's making.
            let now = message.created_at + Duration::from_millis(age_ms) - Duration::from_millis(back_ms);
            let give_up_at = message.created_at + GIVE_UP_AFTER;
            let result = Attempted::Retry { error: "x".into(), retry_after: wish.map(Duration::from_secs) };
            let step = after_attempt(&message, &result, now, &mut fastrand::Rng::with_seed(seed));
            prop_assert!(!(step.hand_over && handed_over));
            match step.state {
                MessageState::Pending => {
                    prop_assert!(step.next_at > now);
                    prop_assert!(step.next_at <= now + RETRY_AFTER_MAX + RETRY_AFTER_MAX / 10);
                    let tried = step.attempts >= GIVE_UP_ATTEMPTS_MIN;
                    prop_assert!(!tried && now >= give_up_at || step.next_at <= give_up_at);
                }
                MessageState::GivenUp => prop_assert!(now >= give_up_at && step.attempts >= GIVE_UP_ATTEMPTS_MIN),
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
