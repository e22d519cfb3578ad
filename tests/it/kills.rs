//! SIGKILL at random moments: no incident and no alert is lost, and a repeat comes only under the same key.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::harness::{
    daemon::{Daemon, Place, until},
    http::{Answer, Request, Web},
};

/// Kills in one run of the test; `BONGSU_KILLS` asks for more.
const KILLS: usize = 300;

/// Stories that are told side by side, each with a daemon of its own: most of the time they wait.
const STORIES: usize = 5;

/// Kills within each outage, half before its end and half after.
const KILLS_EACH: usize = 6;

fn kills() -> usize {
    std::env::var("BONGSU_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS)
}

struct Story {
    place: Place,
    hook: Web,
    daemon: Daemon,
    random: fastrand::Rng,
    killed: usize,
}

/// What a story came to.
struct Tally {
    killed: usize,
    incidents: usize,
    messages: usize,
    repeats: usize,
}

impl Story {
    /// Lets the daemon live for a moment, kills it, starts it again: at start-up, while probing, while writing, while
    /// sending, as chance has it.
    fn kill_and_restart(&mut self) {
        std::thread::sleep(Duration::from_millis(self.random.u64(0..700)));
        self.daemon.kill();
        self.killed += 1;
        self.daemon = self.place.spawn();
    }

    fn count(&self, sql: &str) -> usize {
        self.place.query(sql).first().and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    fn tell(seed: u64, kills: usize) -> Tally {
        let (target, hook) = (Web::start(Answer::Status(200)), Web::start(Answer::Status(200)));
        let (config, checks) = configuration(&target, &hook);
        // Long enough that some kills fall between the request and its answer: those must be repeated under their key.
        hook.set_delay(Duration::from_millis(150));
        let place = Place::new(&config, &checks);
        let daemon = place.start();
        let mut story = Self { place, hook, daemon, random: fastrand::Rng::with_seed(seed), killed: 0 };
        let cycles = kills.div_ceil(KILLS_EACH);
        for cycle in 1..=cycles {
            target.set(Answer::Status(503));
            for _ in 0..KILLS_EACH / 2 {
                story.kill_and_restart();
            }
            let of = |state: &str| format!("SELECT count(*) FROM incidents WHERE state = '{state}'");
            until("the outage is an incident", || story.count(&of("open")) == 1);
            target.set(Answer::Status(200));
            for _ in 0..KILLS_EACH / 2 {
                story.kill_and_restart();
            }
            until("the incident is over", || story.count(&of("closed")) == cycle);
            until("all is told", || story.count("SELECT count(*) FROM outbox WHERE state = 'pending'") == 0);
        }
        let at = format!("seed {seed}");
        assert_eq!(story.count("SELECT count(*) FROM incidents"), cycles, "every outage is one incident, {at}");
        let accepted = story.hook.accepted();
        told_once(&accepted, &story.place, &at);
        assert_eq!(story.place.query("PRAGMA integrity_check"), ["ok"]);
        let messages = accepted.iter().map(|r| r.key()).collect::<BTreeSet<_>>().len();
        Tally { killed: story.killed, incidents: cycles, messages, repeats: accepted.len() - messages }
    }
}

/// A check that is quick to judge, and a channel that is told at once.
pub fn configuration(target: &Web, hook: &Web) -> (String, String) {
    let config = format!(
        "channels: {{ hook: {{ webhook: {{ url: \"{}\" }} }} }}\nroutes: [ {{ steps: [ {{ after: 0s, to: [hook] }} ] }} ]\n",
        hook.url("/")
    );
    let checks = format!(
        "service: web\ndefaults: {{ every: 1s, timeout: 1s, outage: {{ failures: 2, confirm_every: 100ms, recoveries: 2 }},\n\
         \x20 degraded: {{ slow: off, loss: off, duplicates: off }} }}\n\
         checks: [ {{ name: front, http: {{ url: \"{}\" }} }} ]\n",
        target.url("/")
    );
    (config, checks)
}

/// What was received under one key is one message, and one that the store knows as delivered; and of each incident its
/// beginning and its end were told, once each.
pub fn told_once(accepted: &[Request], place: &Place, at: &str) {
    let mut by_key: BTreeMap<&str, BTreeSet<&[u8]>> = BTreeMap::new();
    for request in accepted {
        by_key.entry(request.key()).or_default().insert(&request.body);
    }
    let delivered: BTreeSet<String> =
        place.query("SELECT key FROM outbox WHERE state IN ('delivered', 'superseded')").into_iter().collect();
    for (key, bodies) in &by_key {
        assert_eq!(bodies.len(), 1, "{at}: {key} came with different bodies");
        assert!(delivered.contains(*key), "{at}: {key} was received and is not in the store");
    }
    let mut by_end: BTreeMap<(String, String), BTreeSet<&str>> = BTreeMap::new();
    for request in accepted {
        let json = request.json();
        let kind = json["kind"].as_str().unwrap_or_default().to_owned();
        by_end.entry((json["incident"].to_string(), kind)).or_default().insert(request.key());
    }
    for id in place.query("SELECT id FROM incidents") {
        let keys = |kind: &str| by_end.get(&(id.clone(), kind.to_owned())).map_or(0, BTreeSet::len);
        let told = (keys("problem"), keys("recovery"), keys("past"));
        // A message that was being sent at a kill is sent again; so a problem may have come and its end be told with it.
        assert!(matches!(told, (1, 1, 0) | (0, 0, 1) | (1, 0, 1)), "{at}: incident {id} was told {told:?}");
    }
}

#[test]
fn no_kill_loses_or_invents_an_incident_or_an_alert() {
    let seed = std::env::var("BONGSU_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("BONGSU_SEED={seed}");
    let each = kills().div_ceil(STORIES);
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let tell = |n: usize| scope.spawn(move || Story::tell(seed.wrapping_add(n as u64), each));
        let stories: Vec<_> = (0..STORIES).map(tell).collect();
        stories.into_iter().map(|story| story.join().expect("a story that fails has said why")).collect()
    });
    let sum = |of: fn(&Tally) -> usize| tallies.iter().map(of).sum::<usize>();
    let killed = sum(|t| t.killed);
    assert!(killed >= kills(), "{killed} kills");
    println!(
        "{killed} kills, {} incidents, {} messages, {} repeats under their key",
        sum(|t| t.incidents),
        sum(|t| t.messages),
        sum(|t| t.repeats)
    );
}
