//! Bursts, kept sessions, logins beside them, crashes, and what is taken off the server.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::{
    check::{Journal, Lane},
    observation::Fates,
};

fn kept() -> Manner {
    Manner { objective: OBJECTIVE, horizon: HORIZON, kept: true, login_every: None, ..Manner::default() }
}

fn logins(bench: &Bench) -> (usize, usize) {
    (*bench.wire.sending_logins.lock().expect("no panic"), *bench.wire.receiving_logins.lock().expect("no panic"))
}

fn text(o: &Observation) -> String {
    o.reason.as_ref().map(|r| r.text.clone()).unwrap_or_default()
}

#[tokio::test]
async fn a_burst_is_sent_in_one_session_and_counted() {
    let ways = [Way::Deliver, Way::Drop, Way::Twice, Way::Change, Way::Deliver, Way::Late(800)];
    let bench = Bench::with(ways, Manner { objective: OBJECTIVE, horizon: HORIZON, burst: 6, ..Manner::default() });
    let o = bench.attempt(None).await;
    let d = o.delivery.clone().expect("messages were sent");
    assert_eq!(d.fates, Fates { arrived: 4, late: 1, lost: 1, ..Fates::default() });
    assert_eq!((d.fate, d.duplicates, d.changed, d.integrity), (Fate::Lost, 1, 1, Some(Integrity::Corrupt)));
    assert_eq!((o.outcome, d.sequence, logins(&bench)), (Outcome::Slow, 1, (1, 1)));
    assert!(text(&o).starts_with("2 of 6 messages: accepted by memory://a in "), "{}", text(&o));
    let d = bench.attempt(None).await.delivery.expect("messages were sent");
    assert_eq!((d.sequence, d.fates.arrived), (7, 6));
}

#[tokio::test]
async fn a_refused_message_does_not_end_the_burst() {
    let ways = [Way::Deliver, Way::Reject, Way::Deliver];
    let bench = Bench::with(ways, Manner { objective: OBJECTIVE, horizon: HORIZON, burst: 3, ..Manner::default() });
    let d = bench.attempt(None).await.delivery.expect("messages were sent");
    assert_eq!(d.fates, Fates { arrived: 2, unsent: 1, ..Fates::default() });
    assert_eq!(d.accept, Accept::Rejected);
}

#[tokio::test]
async fn kept_sessions_log_in_once_and_say_when_they_were_opened_anew() {
    let bench = Bench::with([Way::Deliver, Way::Deliver, Way::HangUp], kept());
    for sequence in 1..=2 {
        let o = bench.attempt(None).await;
        assert_eq!(seen(&o), (Outcome::Ok, Some(Fate::Arrived), None));
        let d = o.delivery.expect("a message was sent");
        assert_eq!((d.sequence, d.reconnections, logins(&bench)), (sequence, vec![], (1, 1)));
    }
    let o = bench.attempt(None).await;
    assert_eq!(seen(&o), (Outcome::Failed, Some(Fate::Pending), Some(Kind::Closed)));
    let o = bench.attempt(None).await;
    assert_eq!(seen(&o), (Outcome::Ok, Some(Fate::Arrived), None));
    let why = "receiving side: the server closed the connection".to_owned();
    let expected = [crate::observation::Reconnection { side: Side::Receive, why }];
    assert_eq!(o.delivery.expect("a message was sent").reconnections, expected);
    assert_eq!(logins(&bench), (1, 2));
    let d = bench.attempt(None).await.delivery.expect("a message was sent");
    assert_eq!((d.reconnections.len(), logins(&bench)), (0, (1, 2)), "told once");
}

#[tokio::test]
async fn a_kept_session_that_may_be_deaf_is_opened_anew() {
    let bench = Bench::with([Way::Deliver, Way::Drop, Way::Deliver], kept());
    assert_eq!(bench.attempt(None).await.outcome, Outcome::Ok);
    assert_eq!(seen(&bench.attempt(None).await).1, Some(Fate::Lost));
    let o = bench.attempt(None).await;
    let d = o.delivery.clone().expect("a message was sent");
    assert_eq!((o.outcome, d.reconnections.len(), logins(&bench)), (Outcome::Ok, 1, (1, 2)), "{d:?}");
    assert_eq!(d.reconnections[0].why, "a message was lost and nothing has come since");
    bench.attempt(None).await;
    assert_eq!(logins(&bench), (1, 2));
}

#[tokio::test]
async fn a_send_that_was_not_acknowledged_ends_its_kept_session() {
    let bench = Bench::with([Way::NoAck, Way::Deliver], kept());
    assert_eq!(seen(&bench.attempt(None).await), (Outcome::Failed, Some(Fate::Arrived), Some(Kind::Timeout)));
    let o = bench.attempt(None).await;
    let d = o.delivery.expect("a message was sent");
    assert_eq!((o.outcome, d.reconnections.len(), d.reconnections[0].side), (Outcome::Ok, 1, Side::Send));
    assert_eq!(logins(&bench), (2, 1));
}

#[tokio::test]
async fn refused_logins_and_a_broken_delivery_are_told_apart() {
    let manner = Manner { login_every: Some(Duration::ZERO), ..kept() };
    let bench = Bench::with([Way::Deliver, Way::Deliver, Way::Drop], manner);
    let o = bench.attempt(None).await;
    assert_eq!((o.outcome, o.delivery.and_then(|d| d.login).map(|l| l.ok)), (Outcome::Ok, Some(true)));
    // New logins fail, the kept session delivers.
    *bench.wire.receiver_is_down.lock().expect("no panic") = true;
    let o = bench.attempt(None).await;
    let d = o.delivery.clone().expect("a message was sent");
    assert_eq!((o.outcome, d.fate, d.login.as_ref().map(|l| l.ok)), (Outcome::Slow, Fate::Arrived, Some(false)));
    let expected = "new logins fail while the kept sessions deliver: receiving side: not authorised";
    assert_eq!((text(&o), o.reason.map(|r| r.phase)), (expected.into(), Some(Phase::Login)));
    // The other way round.
    *bench.wire.receiver_is_down.lock().expect("no panic") = false;
    let o = bench.attempt(None).await;
    assert_eq!(seen(&o), (Outcome::Failed, Some(Fate::Lost), Some(Kind::Lost)));
    assert!(text(&o).ends_with("not arrived within 1.5s; new logins work"), "{}", text(&o));
}

#[tokio::test]
async fn logins_beside_kept_sessions_are_made_at_their_own_pace() {
    let bench = Bench::with([], Manner { login_every: Some(Duration::from_secs(600)), ..kept() });
    for n in 0..3 {
        let login = bench.attempt(None).await.delivery.expect("a message was sent").login;
        assert_eq!(login.is_some(), n == 0);
    }
    *bench.wire.sender_is_down.lock().expect("no panic") = true;
    let bench = Bench::with([], Manner { login_every: Some(Duration::from_secs(600)), ..kept() });
    bench.attempt(None).await;
}

#[tokio::test]
async fn kept_sessions_end_an_attempt_when_the_next_is_due_and_miss_nothing() {
    let bench = Bench::with([Way::Late(150), Way::Late(10), Way::Late(900)], kept());
    let due = Some(Duration::from_millis(60));
    let first = bench.attempt(due).await;
    assert_eq!(seen(&first), (Outcome::Ok, Some(Fate::Pending), None), "it is not late yet");
    let second = bench.attempt(due).await;
    assert_eq!(seen(&second), (Outcome::Ok, Some(Fate::Arrived), None));
    let correction = bench.afterwards().await.expect("the first came as well");
    assert_eq!((correction.outcome, correction.delivery.fate), (Outcome::Ok, Fate::Arrived));
    assert_eq!((correction.observed_at, correction.delivery.reordered), (first.at, 1));
    let third = bench.attempt(due).await;
    assert_eq!(seen(&third).1, Some(Fate::Pending));
    let correction = bench.afterwards().await.expect("the third came late");
    assert_eq!((correction.outcome, correction.delivery.fate), (Outcome::Slow, Fate::Late));
}

#[tokio::test]
async fn own_messages_are_taken_off_the_server_once_they_are_told() {
    let bench = Bench::new([Way::Strangers, Way::Twice, Way::Late(700)]);
    *bench.wire.mailbox.lock().expect("no panic") = Some(1);
    let discarded = || bench.wire.discarded.lock().expect("no panic").clone();
    // 1 and 2 are a stranger's and a forged one.
    assert_eq!(bench.attempt(None).await.outcome, Outcome::Ok);
    assert_eq!(discarded(), [0_u64; 0], "not before it is told");
    bench.afterwards().await;
    assert_eq!(discarded(), [3]);
    let d = bench.attempt(None).await.delivery.expect("a message was sent");
    assert_eq!(d.duplicates, 1);
    let third = bench.attempt(Some(Duration::from_millis(10))).await;
    assert_eq!(discarded(), [3, 4, 5], "both copies");
    assert_eq!(seen(&third).1, Some(Fate::Pending));
    assert_eq!(bench.afterwards().await.expect("it came late").delivery.fate, Fate::Late);
    bench.ask.close().await;
    assert_eq!(discarded(), [3, 4, 5, 6], "late ones too");
}

/// Keeps what is to be sent, with how many messages had been sent by then.
#[derive(Default)]
struct Paper {
    wire: Arc<Wire>,
    flights: StdMutex<Vec<Flight>>,
    sent_before: StdMutex<Vec<usize>>,
    /// Whether it takes nothing.
    is_full: AtomicBool,
}

impl Journal for Paper {
    fn sending<'a>(&'a self, flights: Vec<Flight>) -> Boxed<'a, Result<(), String>> {
        if !self.keeps_up() {
            return Box::pin(std::future::ready(Err("it is full".into())));
        }
        self.sent_before.lock().expect("no panic").push(*self.wire.sent.lock().expect("no panic"));
        self.flights.lock().expect("no panic").extend(flights);
        Box::pin(std::future::ready(Ok(())))
    }

    fn keeps_up(&self) -> bool {
        !self.is_full.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn what_the_store_knows_stays_on_the_server_while_its_fate_cannot_be_stored() {
    let manner = Manner { objective: OBJECTIVE, horizon: HORIZON, kept: true, ..Manner::default() };
    let bench = Bench::with([Way::Late(5); 4], manner);
    *bench.wire.mailbox.lock().expect("no panic") = Some(1);
    let paper = Arc::new(Paper { wire: bench.wire.clone(), ..Paper::default() });
    bench.ask.resume(past(vec![], Some(paper.clone()))).await;
    let discarded = || bench.wire.discarded.lock().expect("no panic").clone();
    assert_eq!(bench.attempt(None).await.outcome, Outcome::Ok);
    paper.is_full.store(true, Ordering::SeqCst);
    // It is sent and judged all the same, and says so.
    for _ in 0..2 {
        let attempt = bench.attempt(None).await;
        assert_eq!((attempt.outcome, &attempt.details["not_stored_before_sending"]), (Outcome::Ok, &true.into()));
    }
    assert_eq!(discarded(), [2], "one of which the store never heard");
    paper.is_full.store(false, Ordering::SeqCst);
    let attempt = bench.attempt(None).await;
    assert_eq!(attempt.details.get("not_stored_before_sending"), None);
    assert_eq!(discarded(), [2, 1, 3]);
}

fn past(flights: Vec<Flight>, journal: Option<Arc<dyn Journal>>) -> Past {
    Past { key: Key::new(&[5; 32]), sequence: 40, flights, journal, lane: Lane { index: 1, of: 3 } }
}

#[tokio::test]
async fn what_was_in_flight_at_a_crash_is_found_in_the_mailbox() {
    let bench =
        Bench::with([Way::Drop], Manner { objective: OBJECTIVE, horizon: HORIZON, burst: 2, ..Manner::default() });
    *bench.wire.mailbox.lock().expect("no panic") = Some(1);
    let paper = Arc::new(Paper { wire: bench.wire.clone(), ..Paper::default() });
    assert_eq!(bench.ask.resume(past(vec![], Some(paper.clone()))).await, []);
    // The second message of the burst is read and told to nobody, because the attempt is cut off.
    let cut = tokio::time::timeout(Duration::from_millis(200), bench.attempt(None)).await;
    assert!(cut.is_err(), "the attempt waits for the first message");
    bench.ask.close().await;
    assert_eq!(*bench.wire.discarded.lock().expect("no panic"), [0_u64; 0], "what was not told stays");
    let flights = paper.flights.lock().expect("no panic").clone();
    assert_eq!(flights.iter().map(|f| f.sequence).collect::<Vec<_>>(), [43, 46], "every third, beyond 40");
    assert_eq!(*paper.sent_before.lock().expect("no panic"), [0], "written down before it was sent");

    let next = Bench::new([Way::Late(60)]);
    *next.wire.mailbox.lock().expect("no panic") = Some(7);
    let untold = next.ask.resume(Past { sequence: 46, ..past(flights.clone(), None) }).await;
    let [told] = untold.as_slice() else { panic!("one attempt was cut off: {untold:?}") };
    assert_eq!((told.outcome, told.at, told.duration), (Outcome::Unknown, flights[0].observed_at, Duration::ZERO));
    let reason = "the agent was restarted while the message was on its way";
    assert!(text(told).contains(reason), "{}", text(told));
    // The mailbox still holds the second; it is handed out when the next attempt begins to listen.
    let identity = Identity {
        check: CheckKey::new(&Key::new(&[5; 32]), &"a/round-trip".parse().expect("a name")),
        sequence: flights[1].sequence,
        sent_at: flights[1].sent_at,
        nonce: flights[1].nonce,
    };
    let left = tracer::compose(&Key::new(&[5; 32]), &identity, Ends(next.wire.clone()).carries()).payload;
    let (attempt, ()) = tokio::join!(next.attempt(None), async {
        while logins(&next).1 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        next.wire.deliver(&left, false);
    });
    assert_eq!(seen(&attempt), (Outcome::Ok, Some(Fate::Arrived), None));
    assert_eq!(attempt.delivery.map(|d| (d.sequence, d.foreign)), Some((49, 0)));
    let mut last = None;
    while let Some(correction) = next.afterwards().await {
        assert_eq!(correction.observed_at, flights[0].observed_at);
        last = Some(correction.delivery.fates);
        if last.is_some_and(|f| f.pending == 0) {
            break;
        }
    }
    let expected = Fates { late: 1, uncertain: 1, ..Fates::default() };
    let arrived = Fates { arrived: 1, late: 0, ..expected };
    assert!(last == Some(expected) || last == Some(arrived), "{last:?}");
}

#[tokio::test]
async fn leftovers_of_a_run_nobody_remembers_are_cleared_away() {
    let bench = Bench::new([Way::Late(60)]);
    *bench.wire.mailbox.lock().expect("no panic") = Some(1);
    bench.ask.resume(past(vec![], None)).await;
    let key = Key::new(&[5; 32]);
    let made = |name: &str, age: Duration| {
        let check = CheckKey::new(&key, &name.parse().expect("a name"));
        let identity = Identity { check, sequence: 5, sent_at: clock::now() - age, nonce: 9 };
        tracer::compose(&key, &identity, Ends(bench.wire.clone()).carries()).payload
    };
    let hour = Duration::from_secs(3_600);
    let (attempt, ()) = tokio::join!(bench.attempt(None), async {
        while logins(&bench).1 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Of another process that still waits for it; left by one that was killed; of other checks, young and old.
        bench.wire.deliver(&made("a/round-trip", Duration::from_secs(1)), false);
        bench.wire.deliver(&made("a/round-trip", hour), false);
        bench.wire.deliver(&made("a/other", Duration::from_secs(1)), false);
        bench.wire.deliver(&made("a/other", hour * 2), false);
    });
    assert_eq!((attempt.outcome, attempt.delivery.map(|d| d.foreign)), (Outcome::Ok, Some(4)));
    bench.afterwards().await;
    let mut discarded = bench.wire.discarded.lock().expect("no panic").clone();
    discarded.sort_unstable();
    assert_eq!(discarded.len(), 3, "two leftovers and the attempt's own: {discarded:?}");
    assert!(!discarded.contains(&1) && !discarded.contains(&3), "{discarded:?}");
}

#[tokio::test]
async fn what_an_earlier_run_had_told_and_not_taken_off_goes_at_once() {
    let bench = Bench::new([Way::Late(60)]);
    *bench.wire.mailbox.lock().expect("no panic") = Some(1);
    let paper = Arc::new(Paper { wire: bench.wire.clone(), ..Paper::default() });
    let second = Duration::from_secs(1);
    bench.ask.resume(past(vec![], Some(paper))).await;
    let key = Key::new(&[5; 32]);
    let made = |sequence: u64, nonce: u64, sent_at: Timestamp| {
        let check = CheckKey::new(&key, &"a/round-trip".parse().expect("a name"));
        let identity = Identity { check, sequence, sent_at, nonce };
        tracer::compose(&key, &identity, Ends(bench.wire.clone()).carries()).payload
    };
    let (attempt, ()) = tokio::join!(bench.attempt(None), async {
        while logins(&bench).1 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Its own of then; one of another account, and one of a `bongsu probe`, which may still be waited for; one of now.
        bench.wire.deliver(&made(37, marked(9, true), clock::now() - second), false);
        bench.wire.deliver(&made(38, marked(9, true), clock::now() - second), false);
        bench.wire.deliver(&made(37, marked(9, false), clock::now() - second), false);
        bench.wire.deliver(&made(37, marked(9, true), clock::now()), false);
    });
    assert_eq!((attempt.outcome, attempt.delivery.map(|d| d.foreign)), (Outcome::Ok, Some(4)));
    bench.afterwards().await;
    let discarded = bench.wire.discarded.lock().expect("no panic").clone();
    assert!(discarded.contains(&1) && discarded.len() == 2, "its own, then and now: {discarded:?}");
    assert!(discarded.iter().all(|copy| ![2, 3, 4].contains(copy)), "{discarded:?}");
}

#[tokio::test]
async fn what_arrived_of_an_earlier_attempt_is_taken_off_only_when_that_is_told() {
    let bench = Bench::new([Way::Late(60)]);
    *bench.wire.mailbox.lock().expect("no panic") = Some(1);
    let flight = Flight::new(37, 9, clock::now(), clock::now());
    assert_eq!(bench.ask.resume(past(vec![flight], None)).await.len(), 1);
    let key = Key::new(&[5; 32]);
    let check = CheckKey::new(&key, &"a/round-trip".parse().expect("a name"));
    let identity = Identity { check, sequence: 37, sent_at: flight.sent_at, nonce: 9 };
    let left = tracer::compose(&key, &identity, Ends(bench.wire.clone()).carries()).payload;
    let (attempt, ()) = tokio::join!(bench.attempt(None), async {
        while logins(&bench).1 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        bench.wire.deliver(&left, false);
    });
    assert_eq!(attempt.outcome, Outcome::Ok);
    let discarded = || bench.wire.discarded.lock().expect("no panic").clone();
    let correction = bench.afterwards().await.expect("the earlier one has arrived");
    assert_eq!((correction.observed_at, correction.delivery.fate), (flight.observed_at, Fate::Arrived));
    assert_eq!(discarded(), [2], "the attempt's own is told, the correction is not stored yet");
    bench.afterwards().await;
    assert_eq!(discarded(), [2, 1]);
}
