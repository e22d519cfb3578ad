//! What the agent's task of each check does: asks when due, tells the core, looks after what is outstanding.

use std::time::{Duration, Instant};

use bongsu::{
    decide::Event,
    detect::Pace,
    observation::Observation,
    schedule::next_run,
    value::{Name, Timestamp},
};

use super::{
    CUT_MS, What, World,
    mail::{Letter, Mail},
    target,
    time::{Ms, ms},
};

/// Longest wait for the core to say how soon to ask again.
const PACE_MAX: Duration = Duration::from_secs(2);

/// When a check is due, on both clocks.
#[derive(Clone, Copy)]
pub struct Due {
    at: Timestamp,
    instant: Instant,
    /// How soon the one after it is wanted, while something is being confirmed.
    confirms: Option<Duration>,
    /// Whether the latest attempt told nothing because of the agent itself.
    void: bool,
}

/// One check's task.
pub struct Runner {
    due: Due,
    second: Option<Timestamp>,
    /// The attempt on its way: what a probe will show; nothing yet of a message.
    pub flying: Option<Flying>,
    mail: Option<Mail>,
    /// Tells plans of this check that are still in force from those that are not.
    number: u64,
}

/// Who waits until what they told is written.
pub enum Asker {
    /// A check, to learn how soon to ask again.
    Check {
        /// Which.
        index: usize,
        /// Of an attempt: for as long as this is so.
        number: Option<u64>,
        /// Since when.
        at: Ms,
    },
    /// A channel.
    Line(Name),
}

/// An attempt on its way.
pub struct Flying {
    at: Timestamp,
    begun: Instant,
    second: Option<Timestamp>,
    /// Whether the clocks have parted meanwhile.
    pub jumped: bool,
    void: bool,
    shows: Option<Observation>,
}

impl World {
    /// Starts the tasks of all checks.
    pub(super) fn begin_to_ask(&mut self) {
        let (wall, instant, all) = (self.wall(), self.clock.instant(), self.checks.len());
        let mut untold = Vec::new();
        for (index, check) in self.checks.iter().enumerate() {
            let first = check.schedule.first(&check.name, wall, all).expect("an interval is always due");
            let mail = check.ask.sends().then(|| {
                let (flights, sequence) = self.store.flights(&check.name);
                let (mail, observations) = Mail::resume(&check.name, &flights, sequence, wall, instant);
                untold.extend(observations.into_iter().map(|o| (index, o)));
                mail
            });
            let due = Due { at: first, instant: instant + first.since(wall), confirms: None, void: false };
            let second = check.schedule.second(&check.name, first);
            let runner = Runner { due, second, flying: None, mail, number: 0 };
            if let Some(agent) = &mut self.agent {
                agent.runners.push(runner);
            }
        }
        for index in 0..all {
            self.sleep_until_due(index);
        }
        for (index, observation) in untold {
            let check = self.checks[index].name.clone();
            self.job(Event::Observed { check, observation }, None);
        }
    }

    pub(super) fn runner(&mut self, index: usize) -> Option<&mut Runner> {
        self.agent.as_mut()?.runners.get_mut(index)
    }

    fn current(&mut self, index: usize, number: u64) -> bool {
        self.runner(index).is_some_and(|r| r.number == number)
    }

    /// Plans the next attempt for when it is due.
    fn sleep_until_due(&mut self, index: usize) {
        let Some(runner) = self.runner(index) else { return };
        runner.number += 1;
        let (number, instant) = (runner.number, runner.due.instant);
        let at = self.clock.now + self.clock.until(instant);
        self.queue.push(at, self.owner(), What::Ask(index, number));
    }

    fn schedule(&mut self, index: usize, at: Timestamp, second: Option<Timestamp>, void: bool) {
        let (wall, instant) = (self.wall(), self.clock.instant());
        let check = &self.checks[index];
        let next = next_run(&check.schedule, &check.name, wall, at, second).expect("an interval is always due");
        let due = Due { at: next, instant: instant + next.since(wall), confirms: None, void };
        if let Some(runner) = self.runner(index) {
            runner.due = due;
        }
        self.sleep_until_due(index);
    }

    /// The agent is not isolated any more: what told nothing because of that is asked soon.
    pub(super) fn ask_void_ones(&mut self) {
        let (wall, instant) = (self.wall(), self.clock.instant());
        for index in 0..self.checks.len() {
            let pause_ms = ms(self.checks[index].thresholds.confirm_every).max(1);
            let pause = Duration::from_millis(self.random.u64(..pause_ms as u64));
            let Some(runner) = self.runner(index).filter(|r| r.due.void && r.flying.is_none()) else { continue };
            runner.due.void = false;
            if instant + pause < runner.due.instant {
                let confirms = runner.due.confirms;
                runner.due = Due { at: wall + pause, instant: instant + pause, confirms, void: false };
                self.sleep_until_due(index);
            }
        }
    }

    pub(super) fn ask(&mut self, index: usize, number: u64) {
        if !self.current(index, number) {
            return;
        }
        let (now, at, instant) = (self.clock.now, self.wall(), self.clock.instant());
        let check = self.checks[index].clone();
        // What has come for earlier messages ends no wait for one that is not yet sent.
        if now >= self.cut_until {
            self.read_mailbox(index, instant);
        }
        let Some(runner) = self.runner(index).filter(|r| r.number == number) else { return };
        runner.number += 1;
        let (number, second, due) = (runner.number, runner.second.take(), runner.due);
        runner.flying = Some(Flying { at, begun: instant, second, jumped: false, void: false, shows: None });
        let timeout = check.settings.timeout;
        let is_probe = runner.mail.is_none();
        let owner = self.owner();
        if is_probe {
            let (rates, target) = (self.rates, &mut self.targets[index]);
            match target::ask(target, &rates, timeout, (now, at), &mut self.random, &mut self.sites) {
                Some(observation) => {
                    let ends = now + ms(observation.duration);
                    if let Some(flying) = self.runner(index).and_then(|r| r.flying.as_mut()) {
                        flying.shows = Some(observation);
                    }
                    self.queue.push(ends, owner, What::End(index, number));
                }
                None => self.queue.push(now + CUT_MS, owner, What::Cut(index, number)),
            }
            return;
        }
        let regular = next_run(&check.schedule, &check.name, at, due.at, second);
        let wait_max = regular.map(|next| next.since(at)).into_iter().chain(due.confirms).min();
        self.send(index, number, timeout, wait_max);
    }

    fn send(&mut self, index: usize, number: u64, timeout: Duration, wait_max: Option<Duration>) {
        let when = (self.clock.now, self.wall(), self.clock.instant());
        let Self { agent, targets, rates, random, sites, .. } = self;
        let Some(mail) = agent.as_mut().and_then(|a| a.runners[index].mail.as_mut()) else { return };
        let sent = mail.send(&mut targets[index], rates, timeout, when, wait_max, random, sites);
        for (after, letter) in sent.letters {
            self.queue.push(when.0 + after, super::Owner::World, What::Letter(index, letter));
        }
        self.queue.push(when.0 + sent.ends, self.owner(), What::End(index, number));
        let check = self.checks[index].name.clone();
        self.job(Event::Sending { check, flights: sent.flights }, None);
    }

    /// Something reaches a mailbox; the agent sees it when it runs and the machine is awake.
    pub(super) fn letter(&mut self, index: usize, letter: Letter) {
        self.mailboxes[index].push(letter);
        if self.clock.now < self.asleep_until.max(self.cut_until) {
            return;
        }
        let instant = self.clock.instant();
        self.read_mailbox(index, instant);
    }

    pub(super) fn read_mailbox(&mut self, index: usize, instant: Instant) {
        let Some(runner) = self.agent.as_mut().and_then(|a| a.runners.get_mut(index)) else { return };
        let Some(mail) = &mut runner.mail else { return };
        let waiting = runner.flying.as_ref().map(|f| f.at);
        let letters = std::mem::take(&mut self.mailboxes[index]);
        let mut settled = false;
        for letter in &letters {
            settled |= mail.comes(letter, instant, waiting);
        }
        if settled {
            let number = runner.number;
            self.end(index, number);
        } else if waiting.is_none() && !letters.is_empty() {
            self.look_after(index);
        }
    }

    /// The attempt has come to its end.
    pub(super) fn end(&mut self, index: usize, number: u64) {
        if !self.current(index, number) {
            return;
        }
        let instant = self.clock.instant();
        let Some(runner) = self.runner(index) else { return };
        let Some(flying) = &mut runner.flying else { return };
        let took = instant.saturating_duration_since(flying.begun);
        let shows = flying.shows.take();
        let shown = shows.or_else(|| runner.mail.as_mut()?.book(flying.at, instant, took));
        runner.number += 1;
        let number = runner.number;
        let (begun, jumped, was_void) = (flying.begun, flying.jumped, runner.due.void);
        let Some(mut observation) = shown else { return };
        let void = self.voids(&mut observation, begun, jumped);
        if was_void && !void {
            self.look_again();
        }
        if let Some(flying) = self.runner(index).and_then(|r| r.flying.as_mut()) {
            flying.void = void;
        }
        let at = self.clock.now + ms(PACE_MAX);
        self.queue.push(at, self.owner(), What::Unanswered(index, number));
        self.note(index, &observation);
        let check = self.checks[index].name.clone();
        self.job(
            Event::Observed { check, observation },
            Some(Asker::Check { index, number: Some(number), at: self.clock.now }),
        );
    }

    fn note(&mut self, index: usize, observation: &Observation) {
        use std::hash::Hasher;
        self.hasher.write_usize(index);
        self.hasher.write_i64(observation.at.as_millis());
        self.hasher.write_u8(observation.outcome as u8);
    }

    /// The attempt did not end: nothing is told of it.
    pub(super) fn cut(&mut self, index: usize, number: u64) {
        if !self.current(index, number) {
            return;
        }
        let Some(flying) = self.runner(index).and_then(|r| r.flying.take()) else { return };
        let ran = self.runner(index).map_or(flying.at, |r| r.due.at);
        self.schedule(index, ran, flying.second, false);
    }

    /// The core has not said in time how soon to ask again.
    pub(super) fn unanswered(&mut self, index: usize, number: u64) {
        if self.current(index, number) {
            self.go_on(index, Pace::Regular);
        }
    }

    /// The core has said how soon to ask again.
    pub(super) fn paced(&mut self, index: usize, number: Option<u64>, asked_at: Ms, pace: Pace) {
        match number {
            Some(number) if self.current(index, number) => self.go_on(index, pace),
            None if self.clock.now - asked_at <= ms(PACE_MAX) => self.bring_forward(index, pace),
            _ => {}
        }
    }

    /// A correction may make a check suspect that sleeps.
    fn bring_forward(&mut self, index: usize, pace: Pace) {
        let (wall, instant) = (self.wall(), self.clock.instant());
        let Some(runner) = self.runner(index).filter(|r| r.flying.is_none()) else { return };
        if let Pace::Confirm(every) = pace
            && instant + every < runner.due.instant
        {
            let void = runner.due.void;
            runner.due = Due { at: wall + every, instant: instant + every, confirms: Some(every), void };
            self.sleep_until_due(index);
        }
    }

    fn go_on(&mut self, index: usize, pace: Pace) {
        let (wall, instant) = (self.wall(), self.clock.instant());
        let Some(runner) = self.runner(index) else { return };
        let Some(flying) = runner.flying.take() else { return };
        match pace {
            Pace::Confirm(every) => {
                let at = (flying.at + every).max(wall);
                let due = (flying.begun + every).max(instant);
                runner.due = Due { at, instant: due, confirms: Some(every), void: flying.void };
                self.sleep_until_due(index);
            }
            Pace::Regular => {
                let ran = runner.due.at;
                self.schedule(index, ran, flying.second, flying.void);
            }
        }
        self.look_after(index);
    }

    /// Tells what has come to light of earlier attempts.
    pub(super) fn look_after(&mut self, index: usize) {
        let instant = self.clock.instant();
        loop {
            let Some(runner) = self.runner(index).filter(|r| r.flying.is_none()) else { return };
            let Some(mail) = &mut runner.mail else { return };
            let Some(mut correction) = mail.poll(instant) else { break };
            self.voids_fate(&mut correction);
            let check = self.checks[index].name.clone();
            self.job(
                Event::Corrected { check, correction },
                Some(Asker::Check { index, number: None, at: self.clock.now }),
            );
        }
        let horizon = self.runner(index).and_then(|r| r.mail.as_ref()?.next_horizon());
        if let Some(horizon) = horizon {
            let at = self.clock.now + self.clock.until(horizon) + 1;
            self.queue.push(at, self.owner(), What::Horizon(index));
        }
    }
}
