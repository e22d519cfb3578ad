//! A group that the store has: whatever happens until it is known what came of it, each commit is written once, in
//! order, and each message is shown once.

use super::*;
use crate::detect::Trouble;

/// Most commits of a group here.
const MOST: usize = 2;

/// What is held at most here.
const HELD: usize = 4;

/// What may happen.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// An attempt that changes nothing.
    Plain,
    /// A commit with a new message.
    Tells,
    /// The oldest are handed over.
    Hands,
    /// The store has written them.
    Writes,
    /// It could not.
    Fails,
    /// They are found to contradict what is stored, and are to be handed over anew, with others.
    Returns,
    /// It is said that the disk does not answer, and time passes until alerts go without rows.
    Hangs,
    /// What was shown longest ago is delivered.
    Delivered,
    /// Too much waits.
    Sheds,
}

const STEPS: [Step; 9] = [
    Step::Plain,
    Step::Tells,
    Step::Hands,
    Step::Writes,
    Step::Fails,
    Step::Returns,
    Step::Hangs,
    Step::Delivered,
    Step::Sheds,
];

/// Beside the backlog, what it must agree with.
struct Model {
    backlog: Backlog,
    now: Instant,
    second: i64,
    /// Plain attempts held, and those written: the second of each.
    plain: Vec<i64>,
    written: Vec<i64>,
    /// Messages made, and how often each was shown to its channel as new.
    made: u64,
    shown: BTreeMap<u64, usize>,
    to_deliver: Vec<u64>,
    /// States of messages in the order in which they were written.
    rows: Vec<(u64, MessageState)>,
    /// What the store has, as it was when it was handed over.
    handed: Option<(Arc<Vec<Commit>>, Vec<Commit>)>,
    /// All that has happened.
    steps: Vec<Step>,
}

impl Model {
    fn new() -> Self {
        Self {
            backlog: Backlog::default(),
            now: crate::clock::instant(),
            second: 0,
            plain: Vec::new(),
            written: Vec::new(),
            made: 0,
            shown: BTreeMap::new(),
            to_deliver: Vec::new(),
            rows: Vec::new(),
            handed: None,
            steps: Vec::new(),
        }
    }

    fn hold(&mut self, commit: Commit) {
        let seen = self.backlog.hold(vec![commit]);
        assert!(seen.iter().all(|m| m.state == MessageState::Delivered), "{:?}", self.steps);
    }

    fn show(&mut self, messages: &[Message]) {
        for message in messages.iter().filter(|m| m.state == MessageState::Pending) {
            *self.shown.entry(message.id.0).or_default() += 1;
            self.to_deliver.push(message.id.0);
        }
    }

    /// Whether such a step can happen now.
    fn may(&self, step: Step) -> bool {
        match step {
            Step::Plain | Step::Tells | Step::Sheds => true,
            Step::Hands => self.handed.is_none() && !self.backlog.is_empty(),
            Step::Writes | Step::Fails | Step::Returns | Step::Hangs => self.handed.is_some(),
            Step::Delivered => !self.to_deliver.is_empty(),
        }
    }

    fn step(&mut self, step: Step) {
        self.steps.push(step);
        self.second += 1;
        self.now += S;
        match step {
            Step::Plain => {
                self.plain.push(self.second);
                self.hold(seen(1, self.second));
            }
            Step::Tells => {
                self.made += 1;
                self.hold(told(self.made, MessageState::Pending));
            }
            Step::Hands => self.hand_over(),
            Step::Writes => {
                self.store_writes();
                let messages = self.backlog.written(self.now);
                self.show(&messages);
            }
            Step::Fails => {
                self.store_lets_go();
                self.backlog.failed(at(self.second), self.now, "failed".into());
            }
            Step::Returns => {
                self.store_lets_go();
                self.backlog.take_back();
            }
            Step::Hangs => {
                self.backlog.hangs((at(self.second), self.now), "hangs".into());
                self.now += TELL_AFTER;
                self.backlog.begins_to_tell(self.now);
            }
            Step::Delivered => {
                let id = self.to_deliver.remove(0);
                self.hold(told(id, MessageState::Delivered));
            }
            Step::Sheds => self.backlog.thin(HELD),
        }
        let messages = self.backlog.untold();
        self.show(&messages);
        self.agree();
    }

    fn hand_over(&mut self) {
        let group = self.backlog.hand_over(MOST).expect("something waits");
        assert!(group.len() <= MOST && self.backlog.hand_over(MOST).is_none(), "one at a time: {:?}", self.steps);
        let as_it_was = group.to_vec();
        self.handed = Some((group, as_it_was));
    }

    /// The store has written the group, and has let go of it.
    fn store_writes(&mut self) {
        let (group, _) = self.handed.take().expect("it has one");
        let seconds = group.iter().filter_map(|c| Some(c.observation.as_ref()?.1.at.as_millis() / 1_000));
        self.written.extend(seconds.map(|s| s - at(0).as_millis() / 1_000));
        self.rows.extend(group.iter().flat_map(|c| &c.messages).map(|m| (m.id.0, m.state)));
    }

    fn store_lets_go(&mut self) {
        self.handed = None;
    }

    fn agree(&self) {
        let (b, steps) = (&self.backlog, &self.steps);
        if let Some((group, as_it_was)) = &self.handed {
            assert_eq!(**group, *as_it_was, "what the store has is left alone: {steps:?}");
            assert!(b.handed() == group.len() && !b.is_due(self.now + TELL_AFTER * 100) && !b.is_empty(), "{steps:?}");
        } else {
            assert_eq!(b.handed(), 0, "{steps:?}");
        }
        let waiting = b.all().filter(|c| c.observation.is_some()).count();
        let known = self.written.len() + waiting + usize::try_from(b.dropped()).expect("few");
        assert_eq!(known, self.plain.len(), "every attempt is written, waits or is counted as dropped: {steps:?}");
        assert_eq!(b.concerns(&check(1)), waiting > 0, "{steps:?}");
        assert!(self.written.is_sorted_by(|a, b| a < b), "{:?} are written after {steps:?}", self.written);
        assert!(self.shown.values().all(|times| *times == 1), "{:?} shown after {steps:?}", self.shown);
    }

    /// The disk works again, and everything is written.
    fn end(&mut self) {
        if self.handed.is_some() {
            self.step(Step::Writes);
        }
        while !self.backlog.is_empty() {
            assert!(self.backlog.is_due(self.now + PAUSE_MAX), "{:?}", self.steps);
            self.step(Step::Hands);
            self.step(Step::Writes);
        }
        while !self.to_deliver.is_empty() {
            self.step(Step::Delivered);
            self.step(Step::Hands);
            self.step(Step::Writes);
        }
        self.backlog.recovered();
        assert!(self.backlog.trouble().is_none() && self.backlog.is_empty());
        assert_eq!(self.shown.len() as u64, self.made, "each message was shown: {:?}", self.steps);
        for id in 1..=self.made {
            let rows: Vec<_> = self.rows.iter().filter(|(of, _)| *of == id).map(|(_, state)| *state).collect();
            let shed = [MessageState::Delivered];
            let all = [MessageState::Pending, MessageState::Delivered];
            let is_shed = self.steps.iter().any(|s| matches!(s, Step::Sheds));
            assert!(rows == all || (is_shed && rows == shed), "{id} has {rows:?} after {:?}", self.steps);
        }
    }
}

/// Goes through all sequences of so many steps that begin so; how many there are.
fn go_through(begun: &[Step], left: usize) -> usize {
    let mut model = Model::new();
    begun.iter().for_each(|step| model.step(*step));
    if left == 0 {
        model.end();
        return 1;
    }
    let possible: Vec<Step> = STEPS.into_iter().filter(|step| model.may(*step)).collect();
    possible.into_iter().map(|step| go_through(&[begun, &[step]].concat(), left - 1)).sum()
}

#[test]
fn whatever_happens_while_a_group_is_handed_over_it_is_written_once_and_told_once() {
    let runs = go_through(&[], 7);
    println!("{runs} runs");
    assert!(runs > 30_000, "{runs}");
}

#[test]
fn whatever_happens_for_long_holds_too() {
    let mut random = fastrand::Rng::with_seed(7);
    let (mut hung, mut shed) = (0, 0);
    for _ in 0..300 {
        let mut model = Model::new();
        for _ in 0..80 {
            let step = STEPS[random.usize(..STEPS.len())];
            if model.may(step) {
                hung += usize::from(matches!(step, Step::Hangs));
                shed += usize::from(matches!(step, Step::Sheds) && model.handed.is_some());
                model.step(step);
            }
        }
        model.end();
    }
    assert!(hung > 300 && shed > 300, "{hung} {shed}");
}

#[test]
fn what_is_handed_over_still_waits() {
    let opened = |n: u64, title: &str| {
        let edge = Edge { after: None, by: at(0) };
        let trouble = Trouble { severity: Severity::Down, started: edge, reason: None };
        let incident = Incident::open(IncidentId(n), &check(1), title, &Default::default(), &trouble, at(0));
        Commit { incidents: vec![incident], ..line(1) }
    };
    let mut b = Backlog::default();
    b.hold(vec![opened(1, "first"), Commit { incidents: opened(2, "then").incidents, ..state(1, 2) }]);
    let group = b.hand_over(9).expect("something waits");
    b.hold(vec![Commit { incidents: opened(1, "now").incidents, ..seen(2, 3) }]);
    assert_eq!((b.len(), b.handed(), group.len()), (3, 2, 2));
    let known: Vec<(u64, String)> = b.incidents().into_iter().map(|i| (i.id.0, i.title)).collect();
    assert_eq!(known, [(2, "then".into()), (1, "now".into())], "as they are now, whether handed over or not");
    assert!(b.concerns(&check(1)) && b.concerns(&check(2)));
    drop(group);
    assert!(b.failed(at(4), crate::clock::instant(), "full".into()));
    assert_eq!((b.len(), b.handed()), (3, 0));
    let kinds: Vec<bool> = b.commits.iter().map(|c| c.timeline.is_empty()).collect();
    assert_eq!(kinds, [false, true, true], "the oldest are the first again");
}

#[test]
fn a_hang_counts_from_its_beginning_and_each_kind_of_trouble_is_told_once() {
    let start = crate::clock::instant();
    let mut b = Backlog::default();
    b.hold(vec![told(1, MessageState::Pending)]);
    b.hand_over(9).expect("something waits");
    assert!(b.hangs((at(0), start), "no answer".into()));
    let began = b.trouble().expect("there is").since;
    assert_eq!(began, at(0));
    assert!(!b.begins_to_tell(start + TELL_AFTER - S) && b.begins_to_tell(start + TELL_AFTER));
    assert_eq!(ids(&b.untold()), [(1, MessageState::Pending)]);
    assert!(b.failed(at(30), start + 30 * S, "failed".into()), "that is another kind");
    assert!(!b.is_due(start + 30 * S) && b.is_due(start + 31 * S));
    b.hand_over(9).expect("it waits again");
    assert!(!b.hangs((at(31), start + 31 * S), "no answer".into()), "that was told");
    assert_eq!(b.trouble().expect("there is").error, "no answer");
    assert_eq!(b.trouble().expect("there is").since, at(0), "it is one trouble");
    assert_eq!(ids(&b.written(start + 60 * S)), [], "it was shown");
    assert_eq!(b.recovered(), Some(Recovered { since: at(0), dropped: 0, told: true }));
}
