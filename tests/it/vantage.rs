//! An agent that is cut off says so, tells nobody of outages it cannot know, and sums up once when it is back.

use std::{net::TcpListener, time::Duration};

use crate::harness::{
    broker::{Broker, Manner},
    daemon::{Place, until},
    free_port,
    http::{Answer, Web},
};

/// What the agent watches, its canaries, and who is told.
struct World {
    place: Place,
    targets: Vec<Web>,
    canary: Web,
    port: u16,
    listener: Option<TcpListener>,
    hook: Web,
}

impl World {
    fn new() -> Self {
        let hook = Web::start(Answer::Status(200));
        let targets: Vec<Web> = (0..3).map(|_| Web::start(Answer::Status(200))).collect();
        let canary = Web::start(Answer::Status(503));
        let port = free_port();
        let config = format!(
            "channels:\n  hook: {{ webhook: {{ url: \"{}\" }} }}\n  \
             drop: {{ email: {{ url: \"file:mail\", from: \"bongsu@localhost\", to: [\"root@localhost\"] }} }}\n\
             routes: [ {{ steps: [ {{ after: 0s, to: [hook, drop] }} ] }} ]\n",
            hook.url("/hook")
        );
        let checks: String = targets
            .iter()
            .enumerate()
            .map(|(n, web)| format!("  - {{ name: c{n}, http: {{ url: \"{}\" }} }}\n", web.url("/")))
            .collect();
        let checks = format!(
            "service: web\ndefaults: {{ every: 1s, timeout: 1s, outage: {{ failures: 3, confirm_every: 1s, \
             recoveries: 1 }} }}\nchecks:\n{checks}"
        );
        let agent = format!(", canaries: [\"{}\", \"tcp://127.0.0.1:{port}\"]", canary.url("/"));
        let place = Place::with_agent(&agent, &config, &checks);
        let mut world = Self { place, targets, canary, port, listener: None, hook };
        world.network(true);
        world
    }

    /// Everything but the receiver of alerts is there, or goes dark at once: targets and one canary say nothing any
    /// more, the other canary is refused, as by a firewall in between.
    fn network(&mut self, there: bool) {
        let say = |status| if there { Answer::Status(status) } else { Answer::Nothing };
        self.targets.iter().for_each(|web| web.set(say(200)));
        // An error is an answer too.
        self.canary.set(say(503));
        self.listener = there.then(|| TcpListener::bind(("127.0.0.1", self.port)).expect("its own port is free"));
    }

    fn states(&self) -> Vec<String> {
        let status = self.place.json(&["status"]);
        let checks = status["checks"].as_array().cloned().unwrap_or_default();
        checks.iter().map(|c| c["state"].as_str().unwrap_or_default().to_owned()).collect()
    }

    fn kinds(&self) -> Vec<String> {
        self.hook.accepted().iter().map(|r| r.json()["kind"].as_str().unwrap_or("?").to_owned()).collect()
    }

    fn all_up(&self) {
        until("all checks are up", || self.states() == ["up", "up", "up"]);
    }
}

#[test]
fn an_isolated_agent_declares_nothing_and_sums_up_once_whatever_kills_it() {
    let mut world = World::new();
    let daemon = world.place.start();
    world.all_up();
    world.network(false);
    until("the agent is isolated", || !world.place.json(&["status"])["vantage"]["isolated_since"].is_null());
    until("no check can be judged", || world.states() == ["unknown", "unknown", "unknown"]);
    assert_eq!(daemon.log().matches("ERROR the agent is isolated").count(), 1, "one local notice: {}", daemon.log());
    let since = world.place.json(&["status"])["vantage"]["isolated_since"].clone();
    let shown = String::from_utf8_lossy(&world.place.run(&["status"]).stdout).into_owned();
    assert!(shown.contains("isolated for") && shown.contains("none of 2 canaries answers"), "{shown}");
    assert_eq!(world.place.run(&["status", "--fail"]).status.code(), Some(1), "nobody can look");
    let others = "SELECT count(*) FROM observations WHERE outcome = 'unknown' AND (kind <> 'own' OR reason NOT LIKE \
                  'the agent is isolated (none of 2 canaries answers); %')";
    assert_eq!(world.place.query(others), ["0"]);

    // A crash does not end the isolation, and does not forget when it began.
    daemon.kill();
    let daemon = world.place.start();
    until("it knows", || world.place.json(&["status"])["vantage"]["isolated_since"] == since);
    std::thread::sleep(Duration::from_secs(30));
    assert!(world.kinds().is_empty() && world.place.query("SELECT id FROM outbox").is_empty(), "{:?}", world.kinds());
    world.network(true);
    until("the summary is told", || !world.kinds().is_empty());
    world.all_up();
    daemon.kill();
    let daemon = world.place.start();
    world.all_up();
    let told = world.hook.accepted()[0].json();
    let cause = told["cause"].as_str().unwrap_or_default();
    assert_eq!(cause, "none of 2 canaries answered: 3 checks could not be judged; nothing was declared down", "{told}");
    let text = told["text"].as_str().unwrap_or_default();
    assert!(text.starts_with("test-1 was cut off from "), "{text}");
    assert_eq!(world.place.query("SELECT count(*) FROM incidents"), ["0"]);
    until("both channels have it", || {
        world.place.query("SELECT channel || ' ' || kind FROM outbox WHERE state = 'delivered' ORDER BY 1")
            == ["drop isolated", "hook isolated"]
    });
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_blip_of_the_whole_network_is_told_nobody_and_one_silent_target_is_an_outage() {
    let mut world = World::new();
    let daemon = world.place.start();
    world.all_up();
    world.network(false);
    until("the agent is isolated", || !world.place.json(&["status"])["vantage"]["isolated_since"].is_null());
    world.network(true);
    until("it is back", || daemon.log().contains("not isolated any more"));
    world.all_up();
    world.targets[1].set(Answer::Nothing);
    until("the outage is told", || world.kinds() == ["problem"]);
    assert_eq!(world.hook.accepted()[0].json()["checks"][0]["name"], "web/c1");
    // One canary is enough.
    world.canary.set(Answer::Nothing);
    world.targets[1].set(Answer::Status(200));
    until("the recovery is told", || world.kinds() == ["problem", "recovery"]);
    world.targets[2].set(Answer::Nothing);
    until("the next outage is told", || world.kinds() == ["problem", "recovery", "problem"]);
    // All of them are asked at the start, also when one answers.
    daemon.kill();
    let _daemon = world.place.start();
    until("the dead canary is named", || world.place.json(&["status"])["vantage"]["canaries"][0]["answers"] == false);
    assert_eq!(world.place.json(&["status"])["vantage"]["canaries"][1]["answers"], true);
    assert_eq!(world.place.query("SELECT count(*) FROM outbox WHERE kind = 'isolated'"), ["0"]);
}

#[test]
fn a_server_that_says_no_is_down_also_while_the_agent_is_isolated_and_is_told_after_the_return() {
    let mut world = World::new();
    let _daemon = world.place.start();
    world.all_up();
    world.network(false);
    until("the agent is isolated", || !world.place.json(&["status"])["vantage"]["isolated_since"].is_null());
    world.targets[0].set(Answer::Status(500));
    until("the incident is there", || world.place.query("SELECT count(*) FROM incidents") == ["1"]);
    until("its messages wait", || world.place.query("SELECT count(*) FROM outbox WHERE state = 'pending'") == ["2"]);
    std::thread::sleep(Duration::from_secs(1));
    assert!(world.kinds().is_empty(), "nothing is sent while isolated");
    world.network(true);
    until("all is told", || world.kinds() == ["problem", "recovery"]);
}

#[test]
fn a_reload_takes_the_canaries_away_and_ends_the_isolation() {
    let mut world = World::new();
    let daemon = world.place.start();
    world.all_up();
    world.network(false);
    until("the agent is isolated", || !world.place.json(&["status"])["vantage"]["isolated_since"].is_null());
    let file = world.place.config();
    let text = std::fs::read_to_string(&file).expect("own directory");
    let begin = text.find(", canaries").expect("it has canaries");
    let end = text[begin..].find(']').expect("the list ends") + begin + 1;
    std::fs::write(&file, format!("{}{}", &text[..begin], &text[end..])).expect("own directory");
    daemon.signal("HUP");
    until("failures are told", || world.kinds() == ["problem"]);
    assert!(world.place.json(&["status"])["vantage"].is_null());
}

#[test]
fn messages_that_nobody_could_see_arrive_are_not_booked_as_lost() {
    let (broker, canary) = (Broker::start(Manner::Good), Web::start(Answer::Status(200)));
    let side = format!("{{ mqtt: {{ url: \"mqtt://{}\", topic: t }} }}", broker.address);
    let checks = format!(
        "service: chat\ndefaults: {{ every: 1s, timeout: 1s, outage: {{ failures: 3 }} }}\nchecks:\n  - {{ name: trip, \
         delivery: {{ send: {side}, receive: {side}, slow: 1s, lost_after: 3s, sessions: kept }} }}\n"
    );
    let agent = format!(", canaries: [\"{}\"]", canary.url("/"));
    let place = Place::with_agent(&agent, "channels: {}\n", &checks);
    let _daemon = place.start();
    let state = || place.query("SELECT state FROM checks");
    until("messages arrive", || state() == ["up"]);
    canary.set(Answer::Nothing);
    broker.now(Manner::Drops);
    let lost = |outcome: &str| {
        let sql = "SELECT count(*) FROM observations WHERE fate = 'lost' AND outcome = ";
        place.query(&format!("{sql}'{outcome}'"))[0].parse::<u32>().expect("a number")
    };
    until("losses are void", || lost("unknown") >= 3);
    assert_eq!((lost("failed"), place.query("SELECT count(*) FROM incidents")), (0, vec!["0".to_owned()]));
    canary.set(Answer::Status(200));
    until("losses count again", || lost("failed") >= 3);
    until("and make an incident", || place.query("SELECT count(*) FROM incidents") == ["1"]);
}
