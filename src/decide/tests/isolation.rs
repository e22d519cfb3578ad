//! An isolated agent declares nothing, tells one summary afterwards, and confirms everything afresh; whenever it is
//! killed meanwhile.

use super::*;

impl World {
    fn blind(&mut self, at_s: u64, of: &str) {
        let mut observation = Observation::new(second(at_s), Outcome::Unknown, Duration::from_millis(5));
        observation.reason = Some(Reason::new(Phase::Connect, Kind::Own, "the agent is isolated"));
        self.event(at_s, Event::Observed { check: check(of), observation });
    }

    fn isolated(&mut self, at_s: u64) {
        self.event(
            at_s,
            Event::Vantage(Sight::Isolated { since: second(at_s), after: Some(second(at_s - 1)), canaries: 2 }),
        );
    }

    fn clear(&mut self, at_s: u64) {
        self.event(at_s, Event::Vantage(Sight::Clear { lasted: None }));
    }

    fn summaries(&self) -> Vec<&Message> {
        self.shelf.messages.values().filter(|m| m.alert.kind == MessageKind::Isolated).collect()
    }
}

#[test]
fn an_isolation_declares_nothing_and_is_summed_up_once_for_each_channel() {
    let routes = everything_to(vec![step(0, "hook,post", None), step(3_600, "boss,hook", None)]);
    let mut world = World::new(routes);
    for of in ["mail/in", "mail/out", "chat/web"] {
        world.see(10, of, true);
    }
    world.isolated(100);
    world.isolated(103);
    assert_eq!(world.core.isolation().map(|i| i.since), Some(second(100)), "saying it again changes nothing");
    for s in [101, 104, 107, 110, 113, 116] {
        world.blind(s, "mail/in");
        world.blind(s, "chat/web");
    }
    world.see(117, "mail/out", true);
    world.event(120, Event::Tick);
    assert!(world.told.is_empty() && world.shelf.incidents.is_empty(), "{:?}", world.told);
    for _ in 0..2 {
        world.restart();
        assert_eq!(world.core.isolation().map(|i| i.since), Some(second(100)), "a restart does not forget it");
    }
    world.clear(560);
    world.clear(561);
    world.restart();
    world.clear(570);
    assert_eq!(world.told, ["560 boss isolated", "560 hook isolated", "560 post isolated"]);
    let summary = &world.summaries()[0].alert;
    assert_eq!(summary.cause, "none of 2 canaries answered: 2 checks could not be judged; nothing was declared down");
    assert_eq!((summary.started.by, summary.ended.map(|e| e.by)), (second(100), Some(second(560))));
    assert_eq!(summary.duration_ms, 460_000);
    let keys: std::collections::BTreeSet<&str> = world.summaries().iter().map(|m| m.key.as_str()).collect();
    assert_eq!(keys.len(), 3, "{keys:?}");
}

#[test]
fn a_blip_is_not_told_and_a_step_of_the_clock_makes_none_longer() {
    let told = |lasted: Option<u64>, back_at: u64| {
        let mut world = World::new(everything_to(vec![step(0, "hook", None)]));
        world.isolated(100);
        let lasted = lasted.map(Duration::from_secs);
        world.event(back_at, Event::Vantage(Sight::Clear { lasted }));
        world.told.len()
    };
    assert_eq!(told(None, 129), 0);
    assert_eq!(told(None, 130), 1);
    assert_eq!(told(Some(5), 3_700), 0, "the wall clock was set forward meanwhile");
    assert_eq!(told(Some(60), 100), 1, "the wall clock was set back meanwhile");
}

#[test]
fn a_suspicion_begins_anew_after_the_return() {
    let mut world = World::new(everything_to(vec![step(0, "hook", None)]));
    world.see(10, "mail/in", true);
    world.see(20, "mail/in", false);
    world.isolated(21);
    for s in [22, 25] {
        world.blind(s, "mail/in");
    }
    world.restart();
    world.clear(28);
    world.see(30, "mail/in", false);
    assert_eq!(world.core.state(&check("mail/in")).map(|s| s.0), Some(State::Suspect));
    assert!(world.told.is_empty(), "one before the isolation and one after it are not two in a row");
    world.see(33, "mail/in", false);
    assert_eq!(world.told, ["33 hook problem"]);
    assert_eq!(
        world.shelf.incidents[&IncidentId(1)].started.by,
        second(20),
        "a canary answered then: it was seen to fail"
    );
}

#[test]
fn what_was_being_confirmed_is_confirmed_anew_after_a_step_of_the_clock_or_a_suspend() {
    let mut world = World::new(everything_to(vec![step(0, "hook", None)]));
    world.see(10, "mail/in", true);
    world.see(20, "mail/in", false);
    world.event(21, Event::Vantage(Sight::Jumped));
    world.see(30, "mail/in", false);
    assert!(world.told.is_empty(), "one before it and one after it are not two in a row");
    world.see(33, "mail/in", false);
    assert_eq!(world.told, ["33 hook problem"]);
    world.answer(34, "hook", &Attempted::Delivered);
    world.event(40, Event::Vantage(Sight::Jumped));
    world.see(41, "mail/in", false);
    assert_eq!(world.told.len(), 1, "an outage goes on");
    world.see(43, "mail/in", true);
    assert_eq!(world.told[1..], ["43 hook recovery"]);
}

#[test]
fn after_a_clock_was_set_back_nothing_counts_as_later_than_what_is_seen_now() {
    let mut world = World::new(everything_to(vec![step(0, "hook", None)]));
    world.see(10_000, "mail/in", true);
    world.see(10_003, "mail/in", false);
    world.see(10_006, "mail/in", false);
    assert_eq!(world.told, ["10006 hook problem"]);
    let later = Attempted::Retry { error: "busy".into(), retry_after: Some(Duration::from_secs(3_000)) };
    world.answer(10_007, "hook", &later);
    // An hour back: what was to wait until 13007 would wait for 9000 seconds.
    world.event(6_500, Event::Vantage(Sight::Jumped));
    let waiting: Vec<Timestamp> = world.core.messages.values().map(|message| message.next_at).collect();
    assert!(!waiting.is_empty() && waiting.iter().all(|next| *next == second(6_500)), "{waiting:?}");
    let memory = &world.core.tracks[&check("mail/in")].track.memory;
    let marks = [memory.last_good, memory.last_bad, Some(memory.as_of), Some(memory.judged_since)];
    assert!(marks.into_iter().flatten().all(|mark| mark <= second(6_500)), "{memory:?}");
    world.see(6_510, "mail/in", true);
    world.see(6_512, "mail/in", true);
    let memory = &world.core.tracks[&check("mail/in")].track.memory;
    assert_eq!((memory.last_good, memory.trouble.is_none()), (Some(second(6_512)), true), "{memory:?}");
}

#[test]
fn an_open_incident_waits_for_fresh_evidence_before_it_is_told_of_again() {
    let mut world = World::new(everything_to(vec![step(0, "hook", Some(100)), step(200, "boss", None)]));
    world.see(0, "mail/in", false);
    world.see(3, "mail/in", false);
    world.answer(4, "hook", &Attempted::Delivered);
    world.isolated(50);
    world.blind(52, "mail/in");
    world.event(240, Event::Tick);
    assert_eq!(world.core.next_timeout(), None, "nothing is due while nothing can be known");
    world.clear(250);
    assert_eq!(world.told[1..], ["250 boss isolated", "250 hook isolated"]);
    assert_eq!(world.core.next_timeout(), Some(second(550)), "but an incident does not wait for ever");
    world.see(260, "mail/in", false);
    assert_eq!(world.told[3..], ["260 hook reminder", "260 boss problem"]);
    assert_eq!(world.core.next_timeout(), Some(second(360)));

    let mut world = World::new(everything_to(vec![step(0, "hook", Some(100))]));
    world.see(0, "mail/in", false);
    world.see(3, "mail/in", false);
    world.answer(4, "hook", &Attempted::Delivered);
    world.isolated(50);
    world.blind(52, "mail/in");
    world.clear(60);
    world.see(61, "mail/in", true);
    assert_eq!(world.told, ["3 hook problem", "61 hook recovery"]);
}

#[test]
fn what_a_peer_says_counts_while_isolated_and_the_summary_says_so() {
    let mut world = World::new(everything_to(vec![step(0, "hook", None)]));
    world.isolated(10);
    world.see(11, "mail/in", false);
    world.see(14, "mail/in", false);
    world.blind(14, "chat/web");
    assert_eq!(world.shelf.incidents.len(), 1);
    world.clear(100);
    let cause = &world.summaries()[0].alert.cause;
    assert!(
        cause.ends_with("1 check could not be judged; 1 incident was opened by what a peer itself had said"),
        "{cause}"
    );
}

#[test]
fn a_refused_summary_goes_to_the_fallback_that_got_none() {
    for (to, expected) in [
        ("hook", vec!["60 hook isolated", "61 post isolated"]),
        ("hook,post", vec!["60 hook isolated", "60 post isolated"]),
    ] {
        let mut world = World::new(everything_to(vec![step(0, to, None)]));
        world.isolated(10);
        world.clear(60);
        world.answer(61, "hook", &Attempted::Refused { error: "410".into() });
        assert_eq!(world.told, expected);
        world.answer(62, "post", &Attempted::Delivered);
        assert_eq!(world.core.unsettled().count(), 0);
    }
}

/// A life with isolations, in which nothing is told that is not true: while isolated every check is blind, and nothing
/// is handed out.
#[test]
fn lives_with_isolations_and_restarts_at_any_commit() {
    let (mut summed_up, mut incidents) = (0, 0);
    for seed in 0..30 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::new(everything_to(vec![step(0, "hook", Some(60)), step(90, "post", None)]));
        let (mut down, mut isolated, mut long) = (false, None, 0);
        for s in 1..900 {
            let calm = s > 800;
            if random.f32() < 0.02 {
                down = !down;
            }
            match isolated {
                None if !calm && random.f32() < 0.01 => {
                    isolated = Some(s);
                    world.isolated(s);
                }
                Some(since) if calm || random.f32() < 0.02 => {
                    long += usize::from(s - since >= 30);
                    isolated = None;
                    world.clear(s);
                    // Said again after a crash that came before anybody noted that it had been said.
                    if random.bool() {
                        world.restart();
                        world.clear(s);
                    }
                }
                _ => {}
            }
            let opened = world.shelf.incidents.len();
            for of in ["mail/in", "chat/web"] {
                match isolated {
                    Some(_) => world.blind(s, of),
                    None => world.see(s, of, calm || !down),
                }
            }
            let told = world.told.len();
            world.event(s, Event::Tick);
            if isolated.is_some() {
                assert_eq!(world.shelf.incidents.len(), opened, "seed {seed}: an incident of an isolated agent");
                assert_eq!(world.told.len(), told, "seed {seed}: {:?}", world.told.last());
            } else {
                for channel in ["hook", "post"] {
                    let result = if calm || random.bool() { Attempted::Delivered } else { retry() };
                    world.answer(s, channel, &result);
                }
            }
            if random.f32() < 0.05 {
                world.restart();
            }
        }
        for s in [10_000, 20_000] {
            for channel in ["hook", "post"] {
                world.answer(s, channel, &Attempted::Delivered);
            }
        }
        assert_eq!(world.summaries().len(), long * 2, "seed {seed}: one for each channel and isolation");
        assert_eq!((world.core.open_incidents().count(), world.core.unsettled().count()), (0, 0), "seed {seed}");
        summed_up += long;
        incidents += world.shelf.incidents.len();
    }
    assert!(summed_up > 40 && incidents > 40, "the lives hardly meet anything: {summed_up}, {incidents}");
}
