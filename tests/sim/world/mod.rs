//! A world in which the real core lives: virtual clocks, targets that break, a store, receivers, and a seed from which
//! all of it follows.
//!
//! Real are the core with everything below it (detection, incidents, alerts, the outbox), the schedule, the ledger of
//! messages, the configuration with its defaults, and in some worlds the store. Played are the network, the mail
//! system, the receivers, the clocks, and what `agent` does with tasks and threads: a queue of jobs, groups written
//! one after the other, a loop for each channel.

mod asking;
mod deciding;
mod judge;
mod mail;
mod receiver;
mod seeing;
mod sites;
mod store;
mod target;
mod time;

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hasher},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use bongsu::{
    check::Check,
    config::{Config, OsEnvironment},
    decide::{Core, Event, Plan},
    incident::IncidentId,
    store::Watched,
    value::{Name, Timestamp},
};

use self::{
    asking::Runner,
    deciding::{Heart, Line},
    judge::Judge,
    mail::Letter,
    receiver::Receiver,
    seeing::Sighted,
    store::Store,
    target::{Target, Trouble},
    time::{Clock, Ms, Owner, Queue, ms},
};
pub use self::{
    judge::Figures,
    sites::{Site, Sites},
    target::Ill,
};

/// After how long an attempt that does not end is cut off: its own deadline, and some more.
pub const CUT_MS: Ms = 7_000;

/// Milliseconds of an hour.
pub const HOUR_MS: Ms = 3_600_000;

/// How long a world goes on without any fault at its end: for the longest pause of the outbox, and for as many
/// attempts as flapping and degradation look at.
fn quiet_ms(every: Duration) -> Ms {
    3 * HOUR_MS + 30 * ms(every)
}

/// How often faults happen. Rates are chances for each occasion unless they say otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// A single attempt or message is lost.
    pub loss: f64,
    /// A single attempt is slow.
    pub slow: f64,
    /// A single attempt fails by a fault of the agent's own.
    pub own_fault: f64,
    /// A single attempt does not end.
    pub hang: f64,
    /// A message fares otherwise than it should, losses aside.
    pub message: f64,
    /// Hours between two troubles of a target, on average; 0 for none.
    pub trouble_every_h: f64,
    /// How targets break.
    pub ills: &'static [Ill],
    /// How long they stay broken, in milliseconds: from and to, each as likely as the others.
    pub lengths_ms: &'static [(Ms, Ms)],
    /// The store refuses a group that holds more than observations.
    pub store: f64,
    /// The agent is killed at such a group, before or after it is written.
    pub kill: f64,
    /// The agent is killed when the end of an incident is written while a message of it is being delivered.
    pub kill_at_end: f64,
    /// Hours between two kills at any other moment, two stops, two steps of the wall clock, two suspends, and between
    /// two times in which a receiver is gone; 0 for none.
    pub kill_every_h: f64,
    /// See `kill_every_h`.
    pub stop_every_h: f64,
    /// See `kill_every_h`.
    pub step_every_h: f64,
    /// See `kill_every_h`.
    pub suspend_every_h: f64,
    /// See `kill_every_h`.
    pub gone_every_h: f64,
    /// Hours between two times in which the agent's own network is cut; 0 for none.
    pub cut_every_h: f64,
    /// A receiver fares otherwise than it should at one delivery.
    pub receiver: f64,
    /// An outage is over as soon as its beginning is being told, and until its end is known the receiver does not answer.
    pub brief: f64,
    /// Hours between two looks of somebody who acknowledges what is open; 0 for none.
    pub acknowledge_every_h: f64,
}

impl Rates {
    /// Nothing ever goes wrong.
    pub const NONE: Self = Self {
        loss: 0.0,
        slow: 0.0,
        own_fault: 0.0,
        hang: 0.0,
        message: 0.0,
        trouble_every_h: 0.0,
        ills: &[],
        lengths_ms: &[],
        store: 0.0,
        kill: 0.0,
        kill_at_end: 0.0,
        kill_every_h: 0.0,
        stop_every_h: 0.0,
        step_every_h: 0.0,
        suspend_every_h: 0.0,
        gone_every_h: 0.0,
        cut_every_h: 0.0,
        receiver: 0.0,
        brief: 0.0,
        acknowledge_every_h: 0.0,
    };
}

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// From which all chance follows.
    pub seed: u64,
    /// Probes.
    pub probes: usize,
    /// Checks that send messages.
    pub deliveries: usize,
    /// The interval of every check.
    pub every: Duration,
    /// For how long, the quiet end not counted.
    pub hours: i64,
    /// What goes wrong.
    pub rates: Rates,
    /// Where the real store is written beside the model of it, if it is.
    pub twin: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// Check-hours, the quiet end counted.
    pub check_hours: i64,
    /// Observations and corrections that the core was given.
    pub observations: u64,
    /// Faults by site.
    pub sites: Sites,
    /// Hashes of everything that was committed and sent, one for each hour.
    pub trace: Vec<u64>,
    /// What was measured.
    pub figures: Figures,
    /// Which properties did not hold, where.
    pub violations: Vec<String>,
}

/// Simulates all of these, one on each processor at a time, and gives what came of them in their order. `progress` is told
/// of every world that has come to its end: how many have, and of how many.
pub fn run_all(scenarios: Vec<Scenario>, progress: impl Fn(usize, usize) + Sync) -> Vec<Report> {
    let all = scenarios.len();
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let left = Mutex::new(scenarios.into_iter().enumerate());
    let done = Mutex::new(BTreeMap::new());
    let work = || {
        loop {
            // Not in the head of a loop: it would be held while the world lives.
            let next = left.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((place, scenario)) = next else { return };
            let report = World::run(scenario);
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            done.insert(place, report);
            progress(done.len(), all);
        }
    };
    thread::scope(|scope| {
        for _ in 0..processors.min(all) {
            scope.spawn(work);
        }
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

/// What happens in a world.
enum What {
    /// A check is due; the number tells whether that is still so.
    Ask(usize, u64),
    /// Its attempt ends.
    End(usize, u64),
    /// Its attempt is cut off.
    Cut(usize, u64),
    /// The core has not answered in time.
    Unanswered(usize, u64),
    /// A message comes to light by itself.
    Horizon(usize),
    /// The core wants to know the time.
    Tick,
    /// The store is tried again.
    StoreAgain,
    /// A channel looks for what is due.
    Look(Name),
    /// A delivery has come to something.
    Attempted(Name),
    /// Something reaches a mailbox.
    Letter(usize, Letter),
    /// A target breaks.
    Breaks(usize),
    /// A target works again.
    Mended(usize),
    /// An outage is old enough to be confirmed.
    Found(usize, Trouble),
    /// Nothing was wrong for long enough.
    Calm(usize, Trouble),
    /// The agent is killed.
    Kill,
    /// It is stopped for a while.
    Stop,
    /// It is started.
    Start,
    /// The wall clock is set.
    Step,
    /// The machine falls asleep.
    Sleep,
    /// It wakes.
    Wake,
    /// The agent's network is cut.
    NetworkCut,
    /// It is there again.
    NetworkBack,
    /// The canaries are asked.
    Canaries,
    /// The agent notices that the clocks have parted.
    Jumped,
    /// A receiver goes.
    Gone,
    /// Somebody looks at what is open.
    Person,
}

/// A running agent.
struct Agent {
    core: Core,
    heart: Heart,
    runners: Vec<Runner>,
    lines: BTreeMap<Name, Line>,
    sighted: Sighted,
}

/// The world.
pub struct World {
    scenario: Scenario,
    rates: Rates,
    random: fastrand::Rng,
    sites: Sites,
    clock: Clock,
    queue: Queue<What>,
    checks: Vec<Arc<Check>>,
    plan: Arc<Plan>,
    watched: Vec<Watched>,
    store: Store,
    targets: Vec<Target>,
    mailboxes: Vec<Vec<Letter>>,
    receivers: BTreeMap<Name, Receiver>,
    agent: Option<Agent>,
    run: u64,
    /// Until when the agent's network is cut.
    cut_until: Ms,
    /// Until when the machine sleeps.
    asleep_until: Ms,
    /// Until when nobody could have judged anything.
    disturbed: Ms,
    judge: Judge,
    hasher: DefaultHasher,
    trace: Vec<u64>,
    observations: u64,
}

impl World {
    /// Simulates it from beginning to end.
    pub fn run(scenario: Scenario) -> Report {
        let mut world = Self::new(scenario);
        world.begin();
        let end = world.scenario.hours * HOUR_MS;
        world.live(end);
        world.calm_down();
        world.live(end + quiet_ms(world.scenario.every));
        world.conclude()
    }

    fn new(scenario: Scenario) -> Self {
        let config = configuration(&scenario);
        let clock = Clock::new();
        let plan = Arc::new(bongsu::agent::plan_of(&config));
        let watched = config.checks.iter().map(|c| Watched {
            check: c.name.clone(),
            window: c.thresholds.degraded.window,
            interval: c.schedule.interval(clock.wall()),
        });
        let all = config.checks.len();
        Self {
            random: fastrand::Rng::with_seed(scenario.seed),
            rates: scenario.rates,
            sites: Sites::default(),
            queue: Queue::new(),
            watched: watched.collect(),
            store: Store::new(scenario.twin.as_deref(), clock.wall()),
            targets: (0..all).map(|_| Target::default()).collect(),
            mailboxes: vec![Vec::new(); all],
            receivers: plan.channels.keys().map(|name| (name.clone(), Receiver::default())).collect(),
            checks: config.checks,
            plan,
            clock,
            agent: None,
            run: 0,
            cut_until: 0,
            asleep_until: 0,
            disturbed: 0,
            judge: Judge::default(),
            hasher: DefaultHasher::new(),
            trace: Vec::new(),
            observations: 0,
            scenario,
        }
    }

    fn begin(&mut self) {
        for check in 0..self.checks.len() {
            self.plan_trouble(check);
        }
        let Rates { kill_every_h, stop_every_h, step_every_h, suspend_every_h, gone_every_h, .. } = self.rates;
        self.plan_some(kill_every_h, What::Kill);
        self.plan_some(stop_every_h, What::Stop);
        self.plan_some(step_every_h, What::Step);
        self.plan_some(suspend_every_h, What::Sleep);
        self.plan_some(gone_every_h, What::Gone);
        self.plan_some(self.rates.cut_every_h, What::NetworkCut);
        self.plan_some(self.rates.acknowledge_every_h, What::Person);
        self.start();
    }

    /// Plans something that happens so often, by chance.
    fn plan_some(&mut self, every_h: f64, what: What) {
        if every_h > 0.0 {
            let gap = self.gap(every_h);
            self.queue.push(self.clock.now + gap, Owner::World, what);
        }
    }

    fn gap(&mut self, every_h: f64) -> Ms {
        let hours = -(1.0 - self.random.f64()).ln() * every_h;
        (hours * HOUR_MS as f64) as Ms + 1
    }

    fn plan_trouble(&mut self, check: usize) {
        self.plan_some(self.rates.trouble_every_h, What::Breaks(check));
    }

    fn live(&mut self, end: Ms) {
        while let Some((at, owner, what)) = self.queue.pop(end) {
            while (self.trace.len() as Ms + 1) * HOUR_MS <= at {
                self.trace.push(self.hasher.finish());
            }
            self.clock.now = at;
            if owner != Owner::World && owner != Owner::Run(self.run) {
                continue;
            }
            self.happens(what);
        }
        self.clock.now = end;
    }

    /// From now on nothing goes wrong any more.
    fn calm_down(&mut self) {
        self.rates = Rates::NONE;
        let now = self.clock.now;
        if now < self.cut_until {
            self.cut_until = now;
            self.network_back();
        }
        self.receivers.values_mut().for_each(|r| (r.gone_until, r.hung_until) = (now, now));
        for target in &mut self.targets {
            if let Some(trouble) = &mut target.trouble {
                trouble.to = trouble.to.min(now);
            }
        }
        if self.agent.is_none() {
            self.start();
        }
    }

    fn conclude(mut self) -> Report {
        self.judge_the_end();
        self.trace.push(self.hasher.finish());
        let hours = self.scenario.hours + quiet_ms(self.scenario.every) / HOUR_MS;
        Report {
            check_hours: hours * self.checks.len() as i64,
            observations: self.observations,
            sites: self.sites,
            trace: self.trace,
            figures: self.judge.figures,
            violations: self.judge.violations,
        }
    }

    fn happens(&mut self, what: What) {
        let concerns_machine =
            matches!(what, What::Kill | What::Stop | What::Start | What::Step | What::Sleep | What::Person);
        if concerns_machine && self.clock.now < self.asleep_until {
            self.queue.push(self.asleep_until, Owner::World, what);
            return;
        }
        match what {
            What::Ask(check, number) => self.ask(check, number),
            What::End(check, number) => self.end(check, number),
            What::Cut(check, number) => self.cut(check, number),
            What::Unanswered(check, number) => self.unanswered(check, number),
            What::Horizon(check) => self.look_after(check),
            What::Tick => self.tick(),
            What::StoreAgain => self.store_again(),
            What::Look(channel) => self.look(&channel),
            What::Attempted(channel) => self.attempted(&channel),
            What::Letter(check, letter) => self.letter(check, letter),
            What::Breaks(check) => self.breaks(check),
            What::Mended(check) => self.plan_trouble(check),
            What::Found(check, trouble) => self.judge_found(check, trouble),
            What::Calm(check, trouble) => self.judge_calm(check, trouble),
            What::Kill => {
                self.plan_some(self.rates.kill_every_h, What::Kill);
                if self.rates.kill_every_h > 0.0 {
                    self.kill();
                }
            }
            What::Stop => {
                self.plan_some(self.rates.stop_every_h, What::Stop);
                if self.rates.stop_every_h > 0.0 && self.agent.is_some() {
                    self.sites.hit(Site::Stopped);
                    self.kill();
                }
            }
            What::Start => self.start(),
            What::Step => self.step(),
            What::Sleep => self.sleep(),
            What::Wake => self.wake(),
            What::NetworkCut => self.network_cut(),
            What::NetworkBack => self.network_back(),
            What::Canaries => self.ask_canaries(),
            What::Jumped => self.jumped(),
            What::Gone => self.gone(),
            What::Person => self.person(),
        }
    }

    fn breaks(&mut self, check: usize) {
        if self.rates.trouble_every_h <= 0.0 {
            return;
        }
        let ill = self.rates.ills[self.random.usize(..self.rates.ills.len())];
        let (least, most) = self.rates.lengths_ms[self.random.usize(..self.rates.lengths_ms.len())];
        let now = self.clock.now;
        let trouble = Trouble { ill, from: now, to: now + self.random.i64(least..most) };
        let before = self.targets[check].trouble.replace(trouble);
        self.targets[check].mended_at = before.map(|t| t.to);
        self.queue.push(trouble.to, Owner::World, What::Mended(check));
        self.queue.push(now + self.found_within(check, ill), Owner::World, What::Found(check, trouble));
        self.queue.push(trouble.to + self.calm_after(check), Owner::World, What::Calm(check, trouble));
    }

    /// Starts the agent.
    fn start(&mut self) {
        if self.agent.is_some() {
            return;
        }
        self.run += 1;
        self.disturbed = self.disturbed.max(self.clock.now);
        let wall = self.clock.wall();
        let instance = format!("world-{:x}", self.scenario.seed);
        let past = self.store.restore(&instance, wall, &self.watched, &self.plan);
        let (pending, past_isolation) = (past.messages.clone(), past.vantage.isolation);
        let mut core = Core::new(self.plan.clone(), past, self.random.u64(..));
        let first = core.reconfigure(wall, self.plan.clone(), Default::default());
        let sighted = Sighted::new(past_isolation);
        let lines = self.plan.channels.keys().map(|name| (name.clone(), Line::default())).collect();
        self.agent = Some(Agent { core, heart: Heart::default(), runners: Vec::new(), lines, sighted });
        self.post(&pending);
        self.begin_to_ask();
        if self.write(vec![first], Vec::new()) {
            self.job(Event::Tick, None);
        }
        self.ask_canaries();
    }

    /// Ends the agent as SIGKILL does, and plans its next start.
    fn kill(&mut self) {
        let Some(agent) = self.agent.take() else { return };
        if agent.lines.values().any(|line| line.sending.is_some()) {
            self.sites.hit(Site::KilledWhileSending);
        }
        if agent.runners.iter().any(|r| r.flying.is_some()) {
            self.sites.hit(Site::KilledWhileAsking);
        }
        // Events of this run are nobody's from now on.
        self.run += 1;
        let pause = if self.random.bool() { self.random.i64(200..3_000) } else { self.random.i64(3_000..2 * HOUR_MS) };
        self.disturbed = self.disturbed.max(self.clock.now + pause);
        self.queue.push(self.clock.now + pause, Owner::World, What::Start);
    }

    fn step(&mut self) {
        self.plan_some(self.rates.step_every_h, What::Step);
        if self.rates.step_every_h <= 0.0 {
            return;
        }
        let by = if self.random.bool() { self.random.i64(1_000..60_000) } else { self.random.i64(60_000..2 * HOUR_MS) };
        // What was set back is set forward again some day, or the epoch would come near.
        let forward = self.clock.set < -6 * HOUR_MS || self.random.bool();
        self.sites.hit(if forward { Site::StepForward } else { Site::StepBack });
        self.clock.set += if forward { by } else { -by };
        self.disturbed = self.disturbed.max(self.clock.now);
        self.clocks_part(by);
        self.judge.clock_set_at = Some(self.clock.now);
    }

    fn sleep(&mut self) {
        self.plan_some(self.rates.suspend_every_h, What::Sleep);
        if self.rates.suspend_every_h <= 0.0 {
            return;
        }
        self.sites.hit(Site::Suspended);
        let span = self.random.i64(5_000..8 * HOUR_MS);
        self.queue.sleep(span);
        // The world goes on; what the agent would have seen meanwhile, it sees when it wakes.
        self.clock.slept += span;
        self.asleep_until = self.clock.now + span;
        self.disturbed = self.disturbed.max(self.asleep_until);
        self.queue.push(self.asleep_until, Owner::World, What::Wake);
        self.clocks_part(span);
    }

    fn wake(&mut self) {
        let instant = self.clock.instant();
        for check in 0..self.checks.len() {
            self.read_mailbox(check, instant);
        }
    }

    fn gone(&mut self) {
        self.plan_some(self.rates.gone_every_h, What::Gone);
        let (now, span) = (self.clock.now, self.random.i64(1_000..HOUR_MS));
        let which = self.random.usize(..self.receivers.len());
        if let Some(receiver) = self.receivers.values_mut().nth(which).filter(|_| self.rates.gone_every_h > 0.0) {
            receiver.gone_until = now + span;
        }
    }

    fn person(&mut self) {
        self.plan_some(self.rates.acknowledge_every_h, What::Person);
        let Some(agent) = self.agent.as_ref().filter(|_| self.rates.acknowledge_every_h > 0.0) else { return };
        let open: Vec<IncidentId> = agent.core.open_incidents().map(|i| i.id).collect();
        if open.is_empty() {
            return;
        }
        let incident = open[self.random.usize(..open.len())];
        self.sites.hit(Site::Acknowledged);
        self.job(Event::Acknowledge { incident, by: "somebody".into(), note: String::new() }, None);
    }

    /// By when an outage that nothing disturbs is confirmed: the longest time to its first attempt, and as many
    /// attempts as are asked for, each as long as it takes or as the pause is.
    fn found_within(&self, check: usize, ill: Ill) -> Ms {
        let check = &self.checks[check];
        let every = ms(check.schedule.interval(self.clock.wall()));
        let took = if ill == Ill::Silent { ms(check.settings.timeout) } else { 100 };
        let each = ms(check.thresholds.confirm_every).max(took) + 100;
        let waiting = if check.ask.sends() { 40_000 } else { 6_000 };
        every * 21 / 20 + waiting + Ms::from(check.thresholds.failures) * each
    }

    /// How long after a trouble nothing is left of it: as many attempts as flapping and degradation look at.
    fn calm_after(&self, check: usize) -> Ms {
        let every = ms(self.checks[check].schedule.interval(self.clock.wall()));
        let window = ms(self.checks[check].thresholds.degraded.window);
        every * 24 + window + 60_000
    }

    fn wall(&self) -> Timestamp {
        self.clock.wall()
    }

    fn owner(&self) -> Owner {
        Owner::Run(self.run)
    }
}

/// The configuration: services of five checks each, everything else by default.
fn configuration(scenario: &Scenario) -> Config {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let agent = "agent: { name: sim-1, socket: s.sock, canaries: [\"tcp://127.0.0.1:9\", \"tcp://127.0.0.1:10\"] }\nstore: { path: s.db }\n";
    let channels = "channels:\n  ops: { webhook: { url: \"http://127.0.0.1:9/ops\" }, fallback: pager }\n  \
        boss: { webhook: { url: \"http://127.0.0.1:9/boss\" } }\n  team: { webhook: { url: \"http://127.0.0.1:9/team\" } }\n  \
        pager: { webhook: { url: \"http://127.0.0.1:9/pager\" } }\n";
    let routes = "routes:\n  - steps: [ { after: 0s, to: [ops] }, { after: 5m, to: [boss], repeat: 1h }, { after: 30m, to: [ops] } ]\n  \
        - { match: { service: s1 }, steps: [ { after: 0s, to: [team, ops] } ] }\n";
    std::fs::write(dir.path().join("config.yaml"), format!("{agent}{channels}{routes}")).expect("own directory");
    std::fs::create_dir(dir.path().join("checks")).expect("own directory");
    let every = scenario.every.as_secs();
    let all = scenario.probes + scenario.deliveries;
    for (service, checks) in (0..all).collect::<Vec<_>>().chunks(5).enumerate() {
        let mut text = format!("service: s{service}\ndefaults: {{ every: {every}s }}\nchecks:\n");
        for check in checks {
            let asked = if *check < scenario.probes {
                "tcp: { url: \"tcp://127.0.0.1:9\" }".to_owned()
            } else {
                let side = |topic: usize| format!("{{ mqtt: {{ url: \"mqtt://127.0.0.1\", topic: t/{topic} }} }}");
                format!("delivery: {{ send: {}, receive: {} }}", side(*check), side(*check))
            };
            text.push_str(&format!("  - {{ name: c{check}, {asked} }}\n"));
        }
        std::fs::write(dir.path().join(format!("checks/s{service}.yaml")), text).expect("own directory");
    }
    let config = bongsu::config::load(dir.path(), &OsEnvironment);
    config.unwrap_or_else(|mistakes| panic!("the configuration of the simulation is wrong:\n{mistakes}"))
}
