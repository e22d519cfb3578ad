//! The core by tables of what is told, and by seeded simulation with restarts at any commit.

mod isolation;

use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::{
    alert::{Match, MessageKind, MessageState, Step},
    incident::Severity,
    observation::{Kind, Outcome, Phase, Reason},
};

/// What the store would hold: every commit applied, as SQL would apply it.
#[derive(Default)]
struct Shelf {
    observations: BTreeMap<CheckName, Vec<Observation>>,
    memories: BTreeMap<CheckName, Memory>,
    incidents: BTreeMap<IncidentId, Incident>,
    messages: BTreeMap<MessageId, Message>,
    timeline: Vec<TimelineEntry>,
    vantage: Vantage,
}

impl Shelf {
    fn apply(&mut self, commit: Commit) {
        if let Some((check, observation)) = commit.observation {
            self.observations.entry(check).or_default().push(observation);
        }
        if let Some(row) = commit.state {
            self.memories.insert(row.check, serde_json::from_value(row.memory).expect("a memory round-trips"));
        }
        self.incidents.extend(commit.incidents.into_iter().map(|i| (i.id, i)));
        self.messages.extend(commit.messages.into_iter().map(|m| (m.id, m)));
        self.timeline.extend(commit.timeline);
        self.vantage = commit.vantage.unwrap_or(std::mem::take(&mut self.vantage));
    }

    fn past(&self, plan: &Plan) -> Past {
        let pending = |id: &IncidentId| {
            self.messages.values().any(|m| m.alert.incident == Some(*id) && m.state == MessageState::Pending)
        };
        let incidents: Vec<Incident> =
            self.incidents.values().filter(|i| i.is_open() || pending(&i.id)).cloned().collect();
        let tracked = |(name, all): (&CheckName, &Vec<Observation>)| {
            let memory = self.memories.get(name).cloned();
            let resume = |memory| Tracked::resume(memory, is_in_trouble(&incidents, name));
            let mut tracked = memory.map_or_else(Tracked::default, resume);
            let thresholds = &plan.checks[name].thresholds;
            all[all.len().saturating_sub(700)..].iter().for_each(|o| tracked.remember(thresholds, o));
            (name.clone(), Box::new(tracked))
        };
        Past {
            instance: "test".into(),
            checks: self.observations.iter().map(tracked).collect(),
            incidents,
            messages: self.messages.values().filter(|m| m.state == MessageState::Pending).cloned().collect(),
            next_incident: self.incidents.keys().next_back().map_or(1, |i| i.0 + 1),
            next_message: self.messages.keys().next_back().map_or(1, |m| m.0 + 1),
            vantage: self.vantage.clone(),
        }
    }
}

fn name(text: &str) -> Name {
    text.parse().expect("a good name")
}

fn check(text: &str) -> CheckName {
    text.parse().expect("a good name")
}

fn second(n: u64) -> Timestamp {
    Timestamp::from_millis(1_000 * n as i64)
}

fn step(after_s: u64, to: &str, repeat_s: Option<u64>) -> Step {
    let to = to.split(',').map(name).collect();
    Step { after: Duration::from_secs(after_s), to, repeat: repeat_s.map(Duration::from_secs) }
}

fn plan(routes: Vec<Route>) -> Plan {
    let thresholds = Arc::new(Thresholds { failures: 2, recoveries: 1, ..Thresholds::default() });
    let checks = ["mail/in", "mail/out", "chat/web"]
        .map(|c| {
            let depends_on = if c == "chat/web" { vec![check("mail/in")] } else { vec![] };
            let plan = CheckPlan {
                title: format!("Title of {c}").into(),
                labels: Arc::new(Labels::from([("dc".into(), "gasan".into())])),
                thresholds: thresholds.clone(),
                depends_on: depends_on.into(),
            };
            (check(c), plan)
        })
        .into();
    let channels = [("hook", Some("post")), ("post", None), ("boss", None)]
        .map(|(c, fallback)| (name(c), ChannelPlan { fallback: fallback.map(name) }))
        .into();
    Plan { vantage: name("seoul-1"), checks, routes, channels }
}

struct World {
    core: Core,
    shelf: Shelf,
    told: Vec<String>,
}

impl World {
    fn new(routes: Vec<Route>) -> Self {
        let core = Core::new(Arc::new(plan(routes)), Past { instance: "test".into(), ..Past::default() }, 7);
        Self { core, shelf: Shelf::default(), told: Vec::new() }
    }

    fn event(&mut self, at_s: u64, event: Event) {
        let commit = self.core.handle(second(at_s), event).expect("no refusal in these stories");
        for message in &commit.messages {
            if !self.shelf.messages.contains_key(&message.id) {
                self.told.push(format!("{at_s} {} {}", message.channel, message.alert.kind.as_str()));
            }
        }
        self.shelf.apply(commit);
    }

    fn see(&mut self, at_s: u64, of: &str, good: bool) {
        let outcome = if good { Outcome::Ok } else { Outcome::Failed };
        let mut observation = Observation::new(second(at_s), outcome, Duration::from_millis(5));
        if !good {
            observation.reason = Some(Reason::new(Phase::Connect, Kind::Refused, "connection refused"));
        }
        self.event(at_s, Event::Observed { check: check(of), observation });
    }

    /// Answers all that is due to a channel.
    fn answer(&mut self, at_s: u64, channel: &str, result: &Attempted) {
        let due: Vec<MessageId> = self
            .core
            .unsettled()
            .filter(|m| m.channel.as_str() == channel && m.next_at <= second(at_s))
            .map(|m| m.id)
            .collect();
        let mut due = due;
        due.sort();
        for message in due {
            self.event(at_s, Event::Attempted { message, result: result.clone() });
        }
    }

    fn restart(&mut self) {
        self.core = Core::new(self.core.plan().clone(), self.shelf.past(self.core.plan()), 7);
    }
}

fn retry() -> Attempted {
    Attempted::Retry { error: "503".into(), retry_after: None }
}

fn everything_to(steps: Vec<Step>) -> Vec<Route> {
    vec![Route { matches: Match::default(), steps }]
}

#[test]
fn an_outage_is_told_once_and_its_recovery_to_the_same() {
    let mut world = World::new(everything_to(vec![step(0, "hook,post", None), step(3_600, "boss", None)]));
    for s in [10, 20] {
        world.see(s, "mail/in", true);
    }
    for s in [30, 33, 36, 39] {
        world.see(s, "mail/in", false);
    }
    world.answer(34, "hook", &Attempted::Delivered);
    world.answer(34, "post", &Attempted::Delivered);
    world.see(60, "mail/in", true);
    assert_eq!(world.told, ["33 hook problem", "33 post problem", "60 hook recovery", "60 post recovery"]);
    let incident = &world.shelf.incidents[&IncidentId(1)];
    assert_eq!(incident.started, crate::incident::Edge { after: Some(second(20)), by: second(30) });
    assert_eq!(incident.ended, Some(crate::incident::Edge { after: Some(second(39)), by: second(60) }));
    assert_eq!(incident.cause, "in: connect: connection refused");
    let keys: Vec<&str> = world.shelf.messages.values().map(|m| m.key.as_str()).collect();
    let run = keys[0].rsplit('-').next().expect("a key ends with its run");
    assert_eq!(keys, [1, 2, 3, 4].map(|n| format!("bongsu-test-{n}-{run}")));
}

#[test]
fn a_number_given_again_by_another_run_has_another_key() {
    // What a run tells before it is written, and never writes, is not known to the next one.
    let key = |seed| {
        let routes = everything_to(vec![step(0, "hook", None)]);
        let mut world = World::new(routes.clone());
        world.core = Core::new(Arc::new(plan(routes)), Past { instance: "test".into(), ..Past::default() }, seed);
        world.see(20, "mail/in", true);
        for s in [30, 33, 36, 39, 42] {
            world.see(s, "mail/in", false);
        }
        world.shelf.messages.values().map(|m| m.key.clone()).collect::<Vec<_>>()
    };
    assert_eq!((key(1), key(1).len()), (key(1), 1));
    assert_ne!(key(1), key(2));
}

#[test]
fn checks_of_a_service_and_their_dependents_share_an_incident() {
    let mut world = World::new(everything_to(vec![step(0, "hook", None)]));
    for of in ["mail/in", "mail/out", "chat/web"] {
        world.see(1, of, true);
        world.see(10, of, false);
        world.see(13, of, false);
    }
    assert_eq!(world.told, ["13 hook problem"]);
    assert_eq!(world.shelf.incidents.len(), 1);
    assert_eq!(world.shelf.incidents[&IncidentId(1)].members.len(), 3);
    world.answer(14, "hook", &Attempted::Delivered);
    world.see(20, "mail/in", true);
    world.see(21, "chat/web", true);
    assert_eq!(world.told.len(), 1, "two of three are back: not over");
    world.event(400, Event::Tick);
    assert_eq!(world.told.last().map(String::as_str), Some("400 hook partial"));
    world.see(500, "mail/out", true);
    assert_eq!(world.told.last().map(String::as_str), Some("500 hook recovery"));
}

#[test]
fn a_channel_that_leaves_the_plan_is_owed_nothing() {
    let mut world = World::new(everything_to(vec![step(0, "hook,boss", None)]));
    for s in [10, 13] {
        world.see(s, "mail/in", false);
    }
    world.answer(14, "boss", &Attempted::Delivered);
    world.answer(14, "hook", &retry());
    let mut smaller = Plan { routes: everything_to(vec![step(0, "post", None)]), ..(**world.core.plan()).clone() };
    smaller.channels.retain(|channel, _| channel.as_str() == "post");
    let commit = world.core.reconfigure(second(20), Arc::new(smaller), Changes::default());
    world.shelf.apply(commit);
    let hook = &world.shelf.messages[&MessageId(1)];
    assert_eq!((hook.state, hook.attempts, hook.settled_at), (MessageState::Refused, 1, Some(second(20))));
    assert!(hook.last_error.as_deref().is_some_and(|e| e.contains("not in the configuration")), "{hook:?}");
    world.event(21, Event::Tick);
    world.answer(21, "post", &Attempted::Delivered);
    world.restart();
    world.see(30, "mail/in", true);
    assert_eq!(world.told, ["13 hook problem", "13 boss problem", "21 post problem", "30 post recovery"]);
    let pending = |m: &&Message| m.state == MessageState::Pending;
    let waits: Vec<&str> = world.shelf.messages.values().filter(pending).map(|m| m.channel.as_str()).collect();
    assert_eq!(waits, ["post"], "nothing waits for a channel that is not there");
    let untold = world.shelf.timeline.iter().filter(|l| l.entry == Entry::NotTold && l.text.contains("not in the"));
    assert_eq!(untold.count(), 3, "hook's message, and both ends: {:#?}", world.shelf.timeline);
}

#[test]
fn steps_repeats_and_acknowledgement() {
    let steps = vec![step(0, "hook", Some(100)), step(250, "boss", None)];
    let mut world = World::new(everything_to(steps));
    world.see(0, "mail/in", false);
    world.see(3, "mail/in", false);
    let mut ticks = 0;
    while let Some(at) = world.core.next_timeout().filter(|at| *at <= second(320)) {
        world.event(at.as_millis() as u64 / 1_000, Event::Tick);
        ticks += 1;
        assert!(ticks < 10, "time goes on");
    }
    assert_eq!(
        world.told,
        ["3 hook problem", "103 hook reminder", "203 hook reminder", "250 boss problem", "303 hook reminder"]
    );
    // Each message says who is told next.
    let next =
        |m: &Message| m.alert.next.as_ref().map(|n| format!("{} at {}", n.channels[0], n.at.as_millis() / 1_000));
    let said: Vec<String> = world.shelf.messages.values().filter_map(next).collect();
    assert_eq!(said, ["hook at 103", "hook at 203", "boss at 250", "hook at 303", "hook at 403"]);
    let ack = Event::Acknowledge { incident: IncidentId(1), by: "kim".into(), note: "on it".into() };
    world.event(330, ack.clone());
    assert_eq!(plan::told_next(&world.core.plan().routes, &world.shelf.incidents[&IncidentId(1)]), None);
    world.event(600, Event::Tick);
    assert_eq!(world.told.len(), 5, "an acknowledged incident is not repeated");
    assert!(matches!(world.core.handle(second(601), ack), Err(Refused::AlreadyAcknowledged { .. })));
}

#[test]
fn an_outage_that_ends_before_it_could_be_delivered_is_told_in_one_message() {
    let mut world = World::new(everything_to(vec![step(0, "boss", None)]));
    world.see(0, "mail/in", false);
    world.see(3, "mail/in", false);
    world.answer(3, "boss", &retry());
    world.see(4, "mail/in", true);
    assert_eq!(world.told, ["3 boss problem", "4 boss past"]);
    assert_eq!(world.shelf.messages[&MessageId(1)].state, MessageState::Superseded);
    world.answer(100, "boss", &Attempted::Delivered);
    assert_eq!(world.told.len(), 2);
    assert!(world.shelf.messages[&MessageId(2)].alert.ended.is_some());
}

#[test]
fn a_message_on_its_way_when_the_outage_ends_decides_what_the_end_is() {
    for (result, expected) in [(Attempted::Delivered, "5 boss recovery"), (retry(), "5 boss past")] {
        let mut world = World::new(everything_to(vec![step(0, "boss", None)]));
        world.see(0, "mail/in", false);
        world.see(3, "mail/in", false);
        world.see(4, "mail/in", true);
        assert_eq!(world.told, ["3 boss problem"], "it may be arriving at this moment");
        world.answer(5, "boss", &result);
        assert_eq!(world.told.last().map(String::as_str), Some(expected));
    }
}

#[test]
fn a_refused_message_goes_to_the_fallback_which_then_gets_the_recovery() {
    let mut world = World::new(everything_to(vec![step(0, "hook", None)]));
    world.see(0, "mail/in", false);
    world.see(3, "mail/in", false);
    world.answer(3, "hook", &Attempted::Refused { error: "404".into() });
    world.answer(4, "post", &Attempted::Delivered);
    world.see(9, "mail/in", true);
    assert_eq!(world.told, ["3 hook problem", "3 post problem", "9 post recovery"]);
    let instead_of = world.shelf.messages[&MessageId(2)].alert.instead_of.clone().expect("a fallback says for whom");
    assert_eq!((instead_of.channel, instead_of.error.as_str()), (name("hook"), "404"));
}

#[test]
fn a_fallback_that_stands_in_for_the_recovery_alone_is_told_the_whole() {
    let mut world = World::new(everything_to(vec![step(0, "hook", None)]));
    world.see(0, "mail/in", false);
    world.see(3, "mail/in", false);
    world.answer(3, "hook", &Attempted::Delivered);
    world.see(9, "mail/in", true);
    world.answer(9, "hook", &Attempted::Refused { error: "404".into() });
    assert_eq!(world.told, ["3 hook problem", "9 hook recovery", "9 post past"]);
}

#[test]
fn a_degradation_that_becomes_an_outage_is_told_as_worse_and_matched_again() {
    let down_only = Match { severities: vec![Severity::Down], ..Match::default() };
    let routes = vec![
        Route { matches: Match::default(), steps: vec![step(0, "post", None)] },
        Route { matches: down_only, steps: vec![step(0, "boss", None)] },
    ];
    let mut world = World::new(routes);
    for s in 0..5 {
        let observation = Observation::new(second(s), Outcome::Slow, Duration::from_secs(3));
        world.event(s, Event::Observed { check: check("mail/in"), observation });
    }
    assert_eq!(world.told, ["4 post problem"]);
    world.see(5, "mail/in", false);
    world.see(6, "mail/in", false);
    assert_eq!(world.told[1..], ["6 boss problem", "6 post worse"]);
}

#[test]
fn a_check_that_leaves_the_configuration_leaves_its_incident() {
    let mut world = World::new(everything_to(vec![step(0, "hook", None)]));
    world.see(0, "mail/in", false);
    world.see(3, "mail/in", false);
    world.answer(3, "hook", &Attempted::Delivered);
    let mut smaller = plan(everything_to(vec![step(0, "hook", None)]));
    smaller.checks.remove(&check("mail/in"));
    let commit = world.core.reconfigure(second(9), Arc::new(smaller), Changes::default());
    assert_eq!(commit.incidents.len(), 1);
    assert!(!commit.incidents[0].is_open());
    let alert = &commit.messages[0].alert;
    assert_eq!((alert.kind, alert.unwatched, alert.checks[0].unwatched), (MessageKind::Recovery, true, true));
    let closed = commit.timeline.iter().find(|line| line.entry == Entry::Closed).expect("it is over");
    assert_eq!(closed.text, "closed after 9s: what was wrong is no longer watched");
}

#[test]
fn a_check_that_leaves_makes_no_recovery_and_takes_none_away() {
    let mut world = World::new(everything_to(vec![step(0, "hook", None)]));
    for s in [0, 3] {
        world.see(s, "mail/in", false);
        world.see(s, "mail/out", false);
    }
    world.answer(3, "hook", &Attempted::Delivered);
    let mut smaller = (**world.core.plan()).clone();
    smaller.checks.remove(&check("mail/in"));
    let commit = world.core.reconfigure(second(9), Arc::new(smaller), Changes::default());
    world.shelf.apply(commit);
    world.event(900, Event::Tick);
    assert_eq!(world.told, ["3 hook problem"], "nothing is up again");
    world.see(910, "mail/out", true);
    let told = world.shelf.messages.values().next_back().expect("the recovery").alert.clone();
    assert_eq!((told.kind, told.unwatched), (MessageKind::Recovery, false), "what was left is up again");
    assert_eq!((told.tally().back, told.tally().unwatched), (1, 1));
}

#[test]
fn a_check_that_comes_back_to_an_open_incident_that_it_had_left_is_detected_anew() {
    let mut world = World::new(everything_to(vec![step(0, "hook", None)]));
    for s in [0, 3] {
        world.see(s, "mail/in", false);
        world.see(s, "mail/out", false);
    }
    let whole = world.core.plan().clone();
    let mut smaller = (*whole).clone();
    smaller.checks.remove(&check("mail/in"));
    let commit = world.core.reconfigure(second(9), Arc::new(smaller), Changes::default());
    world.shelf.apply(commit);
    let known = world.shelf.past(&whole).checks;
    let commit = world.core.reconfigure(second(12), whole, Changes { known, ..Changes::default() });
    world.shelf.apply(commit);
    let state = |world: &World| world.core.state(&check("mail/in")).map(|(state, ..)| state);
    let is_member = |world: &World| is_in_trouble(&world.shelf.past(world.core.plan()).incidents, &check("mail/in"));
    assert_ne!(state(&world), Some(State::Down), "it is not down in no incident");
    assert!(!is_member(&world));
    world.see(15, "mail/in", false);
    world.see(18, "mail/in", false);
    assert_eq!((state(&world), is_member(&world)), (Some(State::Down), true));
    world.see(30, "mail/in", true);
    world.see(30, "mail/out", true);
    assert!(world.shelf.incidents.values().all(|i| !i.is_open()), "{:?}", world.shelf.incidents);
}

#[test]
fn a_check_that_is_renamed_stays_in_its_incident_under_its_new_name() {
    let mut world = World::new(everything_to(vec![step(0, "hook", None)]));
    for s in [0, 3] {
        world.see(s, "mail/in", false);
    }
    world.answer(3, "hook", &Attempted::Delivered);
    let mut renamed = (**world.core.plan()).clone();
    let one = renamed.checks.remove(&check("mail/in")).expect("it is there");
    renamed.checks.insert(check("mail/new"), one);
    // As the store does it.
    let rename = |shelf: &mut Shelf| {
        let observations = shelf.observations.remove(&check("mail/in")).expect("it was asked");
        shelf.observations.insert(check("mail/new"), observations);
        let memory = shelf.memories.remove(&check("mail/in")).expect("it has changed");
        shelf.memories.insert(check("mail/new"), memory);
        for incident in shelf.incidents.values_mut() {
            let member = incident.members.remove(&check("mail/in")).expect("it is down");
            incident.members.insert(check("mail/new"), member);
        }
    };
    rename(&mut world.shelf);
    let known = world.shelf.past(&renamed).checks;
    let pair = (check("mail/in"), check("mail/new"));
    let changes = Changes { known, renamed: vec![pair], ..Changes::default() };
    let commit = world.core.reconfigure(second(9), Arc::new(renamed), changes);
    assert_eq!(commit.messages, [], "nothing has recovered");
    world.shelf.apply(commit);
    let names = |world: &World| -> Vec<String> {
        world.shelf.incidents.values().flat_map(|i| i.members.keys().map(ToString::to_string)).collect()
    };
    assert_eq!(names(&world), ["mail/new"]);
    assert!(world.core.state(&check("mail/new")).is_some_and(|(state, ..)| state == State::Down));
    world.see(30, "mail/new", true);
    assert_eq!(world.told, ["3 hook problem", "30 hook recovery"]);
    assert_eq!(names(&world), ["mail/new"], "the old name is written nowhere any more");
}

#[test]
fn what_waits_for_a_channel_that_is_built_anew_is_due_at_once() {
    let mut world = World::new(everything_to(vec![step(0, "hook,boss", None)]));
    for s in [10, 13] {
        world.see(s, "mail/in", false);
    }
    let wait = Attempted::Retry { error: "429".into(), retry_after: Some(Duration::from_secs(3_000)) };
    world.answer(14, "boss", &wait);
    world.answer(14, "hook", &wait);
    let plan = world.core.plan().clone();
    let changes = Changes { rebuilt: [name("hook")].into(), ..Changes::default() };
    let commit = world.core.reconfigure(second(20), plan, changes);
    world.shelf.apply(commit);
    let next = |channel: &str| {
        let of = |m: &&Message| m.channel == name(channel);
        world.shelf.messages.values().find(of).map(|m| (m.state, m.attempts, m.next_at))
    };
    assert_eq!(next("hook"), Some((MessageState::Pending, 1, second(20))));
    assert!(next("boss").is_some_and(|(_, _, at)| at >= second(3_014)), "{:?}", next("boss"));
}

#[test]
fn events_of_unknown_checks_messages_and_incidents_change_nothing() {
    let mut world = World::new(everything_to(vec![step(0, "hook", None)]));
    world.see(0, "gone/check", false);
    world.event(1, Event::Attempted { message: MessageId(99), result: Attempted::Delivered });
    assert!(world.shelf.observations.is_empty() && world.shelf.messages.is_empty());
    let note = Event::Note { incident: IncidentId(5), by: "kim".into(), text: "x".into() };
    assert_eq!(world.core.handle(second(2), note), Err(Refused::NoSuchIncident(IncidentId(5))));
}

/// One life of the whole core under a seed: observations, answers of receivers, ticks and restarts at random; then
/// all is well and everything that is owed is delivered.
fn live(seed: u64) -> World {
    let mut random = fastrand::Rng::with_seed(seed);
    let routes = vec![
        Route { matches: Match::default(), steps: vec![step(0, "hook", Some(120)), step(60, "post", None)] },
        Route {
            matches: Match { severities: vec![Severity::Down], ..Match::default() },
            steps: vec![step(0, "boss", None)],
        },
    ];
    let mut world = World::new(routes);
    let checks = ["mail/in", "mail/out", "chat/web"];
    let mut good = [true; 3];
    for s in 1..600 {
        let calm = s > 500;
        let which = random.usize(0..3);
        if random.f32() < 0.1 {
            good[which] = !good[which];
        }
        world.see(s, checks[which], calm || good[which]);
        if calm {
            for of in checks {
                world.see(s, of, true);
            }
        }
        if random.f32() < 0.4 {
            world.event(s, Event::Tick);
        }
        for channel in ["hook", "post", "boss"] {
            let result = match random.u8(0..4) {
                _ if calm => Attempted::Delivered,
                0 => retry(),
                1 if channel == "hook" => Attempted::Refused { error: "410".into() },
                2 => continue,
                _ => Attempted::Delivered,
            };
            world.answer(s, channel, &result);
        }
        if random.f32() < 0.05 {
            world.restart();
        }
    }
    // What retries far in the future is delivered in the end.
    for s in [10_000, 20_000, 30_000] {
        for channel in ["hook", "post", "boss"] {
            world.answer(s, channel, &Attempted::Delivered);
        }
    }
    world
}

#[test]
fn whatever_happens_everyone_told_is_told_the_end_once() {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 0..120 {
        let world = live(seed);
        for message in world.shelf.messages.values() {
            *seen.entry(message.alert.kind.as_str()).or_default() += 1;
            *seen.entry(message.state.as_str()).or_default() += 1;
        }
        assert_eq!(world.core.open_incidents().count(), 0, "seed {seed}: all is well in the end");
        assert_eq!(world.core.unsettled().count(), 0, "seed {seed}: nothing is owed in the end");
        for incident in world.shelf.incidents.values() {
            assert!(incident.started.after.is_none_or(|a| a < incident.started.by), "seed {seed}");
            let ended = incident.ended.expect("it is over");
            assert!(ended.by >= incident.started.by, "seed {seed}: {incident:?}");
            for channel in ["hook", "post", "boss"] {
                let of = |m: &&Message| m.alert.incident == Some(incident.id) && m.channel.as_str() == channel;
                let delivered: Vec<&Message> =
                    world.shelf.messages.values().filter(of).filter(|m| m.state == MessageState::Delivered).collect();
                let heard = delivered.iter().filter(|m| !m.alert.kind.is_final()).count();
                let kinds = |kind| delivered.iter().filter(|m| m.alert.kind == kind).count();
                let told = format!("seed {seed}, {channel}: {delivered:?}");
                if heard > 0 {
                    let refused_end = world
                        .shelf
                        .messages
                        .values()
                        .filter(of)
                        .any(|m| m.alert.kind == MessageKind::Recovery && m.state == MessageState::Refused);
                    assert_eq!(kinds(MessageKind::Recovery) + usize::from(refused_end), 1, "{told}");
                    assert_eq!(kinds(MessageKind::Past), 0, "{told}");
                }
                assert!(kinds(MessageKind::Problem) <= 1, "{told}");
                assert!(kinds(MessageKind::Past) <= 1, "{told}");
            }
            let told_anyone = world.shelf.messages.values().any(|m| m.alert.incident == Some(incident.id));
            assert!(told_anyone, "seed {seed}: an incident nobody was told of");
        }
        let mut keys: Vec<&str> = world.shelf.messages.values().map(|m| m.key.as_str()).collect();
        let all = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), all, "seed {seed}: a key was used twice");
    }
    for word in ["problem", "reminder", "recovery", "past", "delivered", "refused", "superseded"] {
        assert!(seen.get(word).is_some_and(|n| *n >= 20), "the simulation hardly meets `{word}`: {seen:?}");
    }
}

#[test]
fn one_seed_is_one_history() {
    for seed in [1, 42, 4_711] {
        assert_eq!(live(seed).told, live(seed).told);
    }
}
