//! What the agent's vantage does: asks its canaries, makes void what its isolation or a jump of the clocks explains.

use std::time::Instant;

use bongsu::{
    decide::{Event, Sight},
    incident::vantage::{self, Excuse, Isolation},
    observation::{Correction, Observation},
    value::Timestamp,
};

use super::{
    What, World,
    sites::Site,
    time::{Ms, Owner, ms},
};

/// How often the canaries are asked while all is well, and while none answers.
const CLEAR_EVERY_MS: Ms = 60_000;

/// See [`CLEAR_EVERY_MS`].
const ISOLATED_EVERY_MS: Ms = 3_000;

/// Within what time the agent notices that the clocks have parted.
const CLOCKS_EVERY_MS: Ms = 1_000;

/// What an incident waits for after a return before its reminders go on, and some more for a check to be judged.
const AFTER_RETURN_MS: Ms = 400_000;

/// How the vantage stands.
pub struct Sighted {
    /// Since when the agent is isolated, and when this run of it saw that begin.
    isolated: Option<(Timestamp, Option<Instant>)>,
    returned: Option<Instant>,
    answered_at: Option<Timestamp>,
    /// Tells the plan to ask that is in force.
    planned: Ms,
}

impl Sighted {
    /// As the store knows it.
    pub fn new(isolation: Option<Isolation>) -> Self {
        Self { isolated: isolation.map(|i| (i.since, None)), returned: None, answered_at: None, planned: -1 }
    }

    fn explains(&self, begun: Instant) -> Option<&'static str> {
        match (self.isolated, self.returned) {
            (Some(_), _) => Some("the agent is isolated"),
            (None, Some(returned)) if begun <= returned => Some("the agent was isolated meanwhile"),
            (None, _) => None,
        }
    }
}

impl World {
    /// Makes an observation void that the agent itself explains; whether it did.
    pub(super) fn voids(&mut self, observation: &mut Observation, begun: Instant, jumped: bool) -> bool {
        let why = match vantage::excuse_of(observation) {
            Excuse::None => None,
            Excuse::Ask => self.why_void(begun, true),
            Excuse::IfIsolated => self.why_void(begun, false),
        };
        let Some(why) = why.or(jumped.then_some("the wall clock was set during the attempt")) else { return false };
        vantage::void(observation, why);
        true
    }

    /// The same for what came to light of an earlier attempt.
    pub(super) fn voids_fate(&mut self, correction: &mut Correction) {
        let age = self.wall().since(correction.observed_at);
        let instant = self.clock.instant();
        let begun = instant.checked_sub(age).unwrap_or(instant);
        let why = match vantage::excuse_of_fate(correction) {
            Excuse::None => None,
            Excuse::Ask => self.why_void(begun, true),
            Excuse::IfIsolated => self.why_void(begun, false),
        };
        if let Some(why) = why {
            vantage::void_fate(correction, why);
        }
    }

    fn why_void(&mut self, begun: Instant, ask: bool) -> Option<&'static str> {
        let known = self.agent.as_ref()?.sighted.explains(begun);
        if known.is_some() || !ask {
            return known;
        }
        self.conclude_sight();
        self.agent.as_ref()?.sighted.explains(begun)
    }

    /// Something could be judged again: perhaps a canary answers.
    pub(super) fn look_again(&mut self) {
        if self.agent.as_ref().is_some_and(|a| a.sighted.isolated.is_some()) {
            self.conclude_sight();
        }
    }

    /// The canaries are asked from time to time.
    pub(super) fn ask_canaries(&mut self) {
        let now = self.clock.now;
        if self.rates.cut_every_h <= 0.0 && self.cut_until == 0 {
            return;
        }
        let Some(agent) = &self.agent else { return };
        if agent.sighted.planned > now {
            return;
        }
        self.conclude_sight();
        let owner = self.owner();
        let Some(agent) = &mut self.agent else { return };
        let every = if agent.sighted.isolated.is_some() { ISOLATED_EVERY_MS } else { CLEAR_EVERY_MS };
        agent.sighted.planned = now + every;
        self.queue.push(now + every, owner, What::Canaries);
    }

    fn conclude_sight(&mut self) {
        let (wall, instant, is_cut) = (self.wall(), self.clock.instant(), self.clock.now < self.cut_until);
        let now = self.clock.now;
        let owner = self.owner();
        let Some(agent) = &mut self.agent else { return };
        let sighted = &mut agent.sighted;
        if !is_cut {
            sighted.answered_at = Some(wall);
        }
        match (sighted.isolated, is_cut) {
            (None, false) | (Some(_), true) => {}
            (None, true) => {
                let after = sighted.answered_at.filter(|at| *at < wall);
                sighted.isolated = Some((wall, Some(instant)));
                sighted.planned = now + ISOLATED_EVERY_MS;
                self.queue.push(now + ISOLATED_EVERY_MS, owner, What::Canaries);
                self.job(Event::Vantage(Sight::Isolated { since: wall, after, canaries: 2 }), None);
            }
            (Some((_, begun)), false) => {
                let lasted = begun.map(|begun| instant.saturating_duration_since(begun));
                (sighted.isolated, sighted.returned) = (None, Some(instant));
                self.disturbed = self.disturbed.max(now + AFTER_RETURN_MS);
                self.job(Event::Vantage(Sight::Clear { lasted }), None);
                self.ask_void_ones();
            }
        }
    }

    /// The agent's network is cut for a while.
    pub(super) fn network_cut(&mut self) {
        self.plan_some(self.rates.cut_every_h, What::NetworkCut);
        if self.rates.cut_every_h <= 0.0 || self.clock.now < self.cut_until {
            return;
        }
        self.sites.hit(Site::NetworkCut);
        let spans = [(1_000, 30_000), (30_000, 600_000), (600_000, 7_200_000)];
        let (least, most) = spans[self.random.usize(..spans.len())];
        self.cut_until = self.clock.now + self.random.i64(least..most);
        self.disturbed = self.disturbed.max(self.cut_until + AFTER_RETURN_MS);
        self.targets.iter_mut().for_each(|t| t.cut = true);
        self.queue.push(self.cut_until, Owner::World, What::NetworkBack);
    }

    /// It is there again; what waited in the mailboxes can be read.
    pub(super) fn network_back(&mut self) {
        if self.clock.now < self.cut_until {
            return;
        }
        self.targets.iter_mut().for_each(|t| t.cut = false);
        if self.clock.now >= self.asleep_until {
            let instant = self.clock.instant();
            (0..self.checks.len()).for_each(|check| self.read_mailbox(check, instant));
        }
    }

    /// The clocks part: what is in flight will be void, and the core is told of it soon.
    pub(super) fn clocks_part(&mut self, by: Ms) {
        if by < ms(bongsu::clock::JUMP_MIN) {
            return;
        }
        let owner = self.owner();
        let Some(agent) = &mut self.agent else { return };
        agent.runners.iter_mut().filter_map(|r| r.flying.as_mut()).for_each(|f| f.jumped = true);
        let at = self.clock.now.max(self.asleep_until) + CLOCKS_EVERY_MS;
        self.queue.push(at, owner, What::Jumped);
    }

    /// The agent notices it.
    pub(super) fn jumped(&mut self) {
        self.job(Event::Vantage(Sight::Jumped), None);
    }
}
