//! What a proxy of messages does to each of them, and the account of it: drop, repeat, swap, alter, delay.
//!
//! This is the pure part: the moment is an argument, chance comes from a seed, and a proxy of any protocol hands its
//! messages in and asks what may leave. A message is known by the tracer's token (`bongsu1.…`); what has none passes,
//! unchanged and uncounted. Each message suffers at most one thing, so that whatever bongsu says of it has one cause,
//! and a token seen again (by a second subscriber) suffers the same again and is counted once.
//!
//! A swapped message is held until the next one of its lane (topic, recipient) has left; when none comes in time it
//! leaves by itself and is booked as `held`, not as `swapped`. While one is held, the next is not held as well.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bongsu::{delivery::tracer::TOKEN_BYTES, observation::Integrity};
use unicode_normalization::UnicodeNormalization;

/// What every token begins with.
const MARKER: &str = "bongsu1.";

/// How a message is changed; its token stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Alteration {
    /// Other words: `black` becomes `white`.
    #[default]
    Words,
    /// Composed (NFC), as some systems store text.
    Normalise,
    /// `?` for every character beyond ASCII.
    QuestionMarks,
    /// The last hundred bytes are missing.
    CutEnd,
    /// Characters beyond the BMP are missing.
    DropEmoji,
}

impl Alteration {
    /// What bongsu must call it.
    pub fn class(self) -> Integrity {
        match self {
            Self::Words => Integrity::Corrupt,
            Self::Normalise => Integrity::Normalised,
            Self::QuestionMarks | Self::DropEmoji => Integrity::Transcoded,
            Self::CutEnd => Integrity::Truncated,
        }
    }

    /// The payload changed after its token, or `None` where it holds nothing to change: no token, no emoji.
    pub fn of(self, payload: &[u8]) -> Option<Vec<u8>> {
        const CUT_BYTES: usize = 100;
        let start = find(payload, MARKER.as_bytes())? + TOKEN_BYTES;
        let (head, tail) = (payload.get(..start)?, payload.get(start..)?);
        let text = String::from_utf8_lossy(tail);
        let changed: Vec<u8> = match self {
            Self::Words => text.replacen("black", "white", 1).into_bytes(),
            Self::Normalise => text.nfc().collect::<String>().into_bytes(),
            Self::QuestionMarks => text.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect::<String>().into(),
            Self::CutEnd => {
                let whole = tail.trim_ascii_end();
                // Less than that is no end of a section, but all of it.
                if whole.len() < 2 * CUT_BYTES {
                    return None;
                }
                [&whole[..whole.len() - CUT_BYTES], &tail[whole.len()..]].concat()
            }
            Self::DropEmoji => text.chars().filter(|c| u32::from(*c) < 0x1_0000).collect::<String>().into_bytes(),
        };
        (changed != tail).then(|| [head, &changed].concat())
    }
}

/// How often each thing happens, from 0 to 1, and how it is done. Together at most 1.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    /// Accepted and never seen again.
    pub drop: f64,
    /// Delivered twice.
    pub repeat: f64,
    /// Delivered after the next one.
    pub swap: f64,
    /// Delivered with other text.
    pub alter: f64,
    /// Delivered later, by `delay_by`; what comes meanwhile overtakes it.
    pub delay: f64,
    /// How much later.
    pub delay_by: Duration,
    /// In which way it is altered.
    pub alteration: Alteration,
    /// Longest time that a swapped message is held when no other comes.
    pub hold_max: Duration,
}

/// What was done to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// Nothing.
    Passed,
    /// It was dropped.
    Dropped,
    /// It was delivered twice.
    Repeated,
    /// It was delivered after the next one.
    Swapped,
    /// It was held for the next one, which did not come in time.
    Held,
    /// It was altered.
    Altered,
    /// It was delivered later.
    Delayed,
}

/// A message as a proxy knows it.
pub trait Message: Clone {
    /// The same with other text; `None` where there is nothing to change.
    fn altered(&self, how: Alteration) -> Option<Self>;
}

/// What a proxy does with the message it has just been handed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<M> {
    /// It never leaves.
    Drop,
    /// It is kept; it comes out of [`Mangler::due`], or follows another.
    Keep,
    /// These leave now, in this order; the message itself is the first, or all of them if it is repeated.
    Go(Vec<Leaving<M>>),
}

/// A message that leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving<M> {
    /// Its token.
    pub token: String,
    /// As it leaves.
    pub message: M,
    /// What was done to it.
    pub deed: Deed,
}

struct Entry<M> {
    /// Its place among those that came in.
    came: usize,
    lane: String,
    deed: Deed,
    message: M,
    /// When it leaves by itself, while it is kept.
    due: Option<Instant>,
    /// Those that were held for this one.
    followers: Vec<String>,
    has_left: bool,
}

/// Decides, and keeps the account. Share it behind a mutex.
pub struct Mangler<M> {
    rates: Rates,
    chance: fastrand::Rng,
    entries: HashMap<String, Entry<M>>,
    seen: Vec<String>,
    left: Vec<String>,
}

impl<M: Message> Mangler<M> {
    /// One that draws from this seed: the n-th message it sees suffers the same in every run.
    pub fn new(seed: u64, rates: Rates) -> Self {
        let all = [rates.drop, rates.repeat, rates.swap, rates.alter, rates.delay];
        let within = |sum: f64| (0.0..=1.0 + f64::EPSILON).contains(&sum);
        assert!(all.iter().all(|r| within(*r)) && within(all.iter().sum()), "no rates: {rates:?}");
        Self {
            rates,
            chance: fastrand::Rng::with_seed(seed),
            entries: HashMap::new(),
            seen: Vec::new(),
            left: Vec::new(),
        }
    }

    /// Other rates for the messages from now on.
    pub fn now(&mut self, rates: Rates) {
        self.rates = rates;
    }

    /// Lets all that are kept go now, whatever their time.
    pub fn release(&mut self, now: Instant) {
        for due in self.entries.values_mut().filter_map(|e| e.due.as_mut()) {
            *due = now;
        }
    }

    /// A message came in.
    pub fn take(&mut self, token: &str, lane: &str, message: &M, now: Instant) -> Verdict<M> {
        if !self.entries.contains_key(token) {
            self.seen.push(token.to_owned());
            let entry = self.decide(lane, message, now);
            let stays = entry.due.is_some() || entry.deed == Deed::Dropped;
            self.entries.insert(token.to_owned(), entry);
            if !stays {
                self.leave(token);
            }
        }
        let entry = &self.entries[token];
        if entry.deed == Deed::Dropped {
            return Verdict::Drop;
        }
        if !entry.has_left {
            return Verdict::Keep;
        }
        Verdict::Go(self.with_followers(token))
    }

    /// Those kept whose time has come by now, in the order in which they leave.
    pub fn due(&mut self, now: Instant) -> Vec<Leaving<M>> {
        let mut due: Vec<(Instant, String)> = self
            .entries
            .iter()
            .filter_map(|(token, e)| Some((e.due.filter(|due| *due <= now)?, token.clone())))
            .collect();
        due.sort();
        let mut leaving = Vec::new();
        for (_, token) in due {
            // One that left a moment ago may have taken it along.
            let Some(entry) = self.entries.get_mut(&token).filter(|e| e.due.is_some()) else { continue };
            if entry.deed == Deed::Swapped {
                entry.deed = Deed::Held;
            }
            self.leave(&token);
            leaving.extend(self.with_followers(&token));
        }
        leaving
    }

    /// When [`Mangler::due`] has something to say.
    pub fn next_due(&self) -> Option<Instant> {
        self.entries.values().filter_map(|e| e.due).min()
    }

    /// How many messages were seen so far.
    pub fn seen(&self) -> usize {
        self.seen.len()
    }

    /// What was done so far.
    pub fn account(&self) -> Account {
        let mut deeds: BTreeMap<Deed, BTreeSet<String>> = BTreeMap::new();
        for (token, entry) in &self.entries {
            deeds.entry(entry.deed).or_default().insert(token.clone());
        }
        let lanes = self.entries.iter().map(|(token, e)| (token.clone(), e.lane.clone())).collect();
        Account { deeds, lanes, seen: self.seen.clone(), left: self.left.clone() }
    }

    fn decide(&mut self, lane: &str, message: &M, now: Instant) -> Entry<M> {
        let (deed, message) = match self.draw() {
            // It lets the one that is held go instead.
            Deed::Swapped if self.is_held(lane) => (Deed::Passed, message.clone()),
            Deed::Altered => match message.altered(self.rates.alteration) {
                Some(altered) => (Deed::Altered, altered),
                None => (Deed::Passed, message.clone()),
            },
            deed => (deed, message.clone()),
        };
        let due = match deed {
            Deed::Swapped => Some(now + self.rates.hold_max),
            Deed::Delayed => Some(now + self.rates.delay_by),
            _ => None,
        };
        Entry {
            came: self.seen.len(),
            lane: lane.to_owned(),
            deed,
            message,
            due,
            followers: Vec::new(),
            has_left: false,
        }
    }

    fn draw(&mut self) -> Deed {
        let mut drawn = self.chance.f64();
        let r = &self.rates;
        let table = [
            (r.drop, Deed::Dropped),
            (r.repeat, Deed::Repeated),
            (r.swap, Deed::Swapped),
            (r.alter, Deed::Altered),
            (r.delay, Deed::Delayed),
        ];
        for (rate, deed) in table {
            if drawn < rate {
                return deed;
            }
            drawn -= rate;
        }
        // Rates that sum up to one leave nothing but a rounding error to pass.
        Deed::Passed
    }

    fn is_held(&self, lane: &str) -> bool {
        self.entries.values().any(|e| e.lane == lane && e.deed == Deed::Swapped && e.due.is_some())
    }

    /// Books that a message has left, and with it those of its lane that were held for the next one.
    fn leave(&mut self, token: &str) {
        let entry = self.entries.get_mut(token).expect("it was inserted before");
        entry.due = None;
        entry.has_left = true;
        let (lane, came) = (entry.lane.clone(), entry.came);
        self.left.push(token.to_owned());
        let mut followers = Vec::new();
        for (other, e) in &mut self.entries {
            // One that came earlier and was delayed is not the next one.
            let waits = e.lane == lane && e.came < came && e.deed == Deed::Swapped;
            if waits && e.due.take().is_some() {
                e.has_left = true;
                followers.push(other.clone());
            }
        }
        self.left.extend(followers.iter().cloned());
        self.entries.get_mut(token).expect("it was there before").followers = followers;
    }

    fn with_followers(&self, token: &str) -> Vec<Leaving<M>> {
        let entry = &self.entries[token];
        let copies = if entry.deed == Deed::Repeated { 2 } else { 1 };
        let one = |token: &String| {
            let entry = &self.entries[token];
            Leaving { token: token.clone(), message: entry.message.clone(), deed: entry.deed }
        };
        let token = token.to_owned();
        std::iter::repeat_n(&token, copies).chain(&entry.followers).map(one).collect()
    }
}

/// What was done to which message, by token.
#[derive(Clone, Debug, Default)]
pub struct Account {
    deeds: BTreeMap<Deed, BTreeSet<String>>,
    lanes: HashMap<String, String>,
    /// All that were seen, in the order in which they came in.
    pub seen: Vec<String>,
    /// Those that left, in the order in which they did for the first time.
    pub left: Vec<String>,
}

impl Account {
    /// Those to which this was done.
    pub fn of(&self, deed: Deed) -> BTreeSet<String> {
        self.deeds.get(&deed).cloned().unwrap_or_default()
    }

    /// The same by the sequence numbers within their tokens, as observations tell them.
    pub fn sequences(&self, deed: Deed) -> BTreeSet<u64> {
        self.of(deed).iter().map(|token| sequence(token)).collect()
    }

    /// Those that left after one of their lane that had come in later: what a reader sees as out of order.
    pub fn reordered(&self) -> BTreeSet<String> {
        let came: HashMap<&String, usize> = self.seen.iter().enumerate().map(|(n, token)| (token, n)).collect();
        let mut latest: HashMap<&String, usize> = HashMap::new();
        let mut behind = BTreeSet::new();
        for token in &self.left {
            let latest = latest.entry(&self.lanes[token]).or_default();
            if came[token] < *latest {
                behind.insert(token.clone());
            }
            *latest = came[token].max(*latest);
        }
        behind
    }
}

/// The token within a payload: the first that has its form, blanks and line ends within it (folds) left out.
pub fn token_in(payload: &[u8]) -> Option<String> {
    let mut from = 0;
    while let Some(at) = find(&payload[from..], MARKER.as_bytes()) {
        let start = from + at;
        let letters = payload[start..].iter().filter(|b| !b.is_ascii_whitespace()).take(TOKEN_BYTES);
        let token: Vec<u8> = letters.copied().collect();
        let parts: Vec<&[u8]> = token.split(|b| *b == b'.').collect();
        if let ([_, fields, mac], TOKEN_BYTES) = (parts.as_slice(), token.len())
            && URL_SAFE_NO_PAD.decode(fields).is_ok()
            && URL_SAFE_NO_PAD.decode(mac).is_ok()
        {
            return String::from_utf8(token).ok();
        }
        from = start + MARKER.len();
    }
    None
}

/// The sequence number within a token, as an observation tells it.
pub fn sequence(token: &str) -> u64 {
    let fields = token.split('.').nth(1).and_then(|fields| URL_SAFE_NO_PAD.decode(fields).ok()).unwrap_or_default();
    let bytes = fields.get(8..16).unwrap_or_else(|| panic!("{token} is no token"));
    u64::from_be_bytes(bytes.try_into().expect("eight bytes were taken"))
}

/// Where a text begins within another.
pub fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}

/// A payload as bongsu composes it for a protocol that carries everything, with a key of the tests' own.
pub fn tracer(sequence: u64) -> Vec<u8> {
    use bongsu::{
        delivery::{Carries, CheckKey, Identity, Key, tracer::compose},
        value::Timestamp,
    };
    let key = Key::new(&[7; 32]);
    let check = CheckKey::new(&key, &"test/check".parse().expect("a name"));
    let identity = Identity { check, sequence, sent_at: Timestamp::from_millis(0), nonce: sequence };
    let carries = Carries { unicode: true, lines: true, line_bytes_max: 1 << 20, bytes_max: 1 << 20 };
    compose(&key, &identity, carries).payload
}

/// What bongsu says of a payload made by [`tracer`].
pub fn judged(payload: &[u8]) -> Option<(u64, Integrity)> {
    use bongsu::delivery::{CheckKey, Key, Seen, tracer::recognise};
    let key = Key::new(&[7; 32]);
    match recognise(&key, CheckKey::new(&key, &"test/check".parse().expect("a name")), payload) {
        Seen::Ours(found) => Some((found.identity.sequence, found.integrity)),
        _ => None,
    }
}

mod tests {
    use super::*;

    impl Message for Vec<u8> {
        fn altered(&self, how: Alteration) -> Option<Self> {
            how.of(self)
        }
    }

    fn rates(all: [f64; 5]) -> Rates {
        let [drop, repeat, swap, alter, delay] = all;
        let (delay_by, hold_max) = (Duration::from_secs(3), Duration::from_secs(10));
        Rates { drop, repeat, swap, alter, delay, delay_by, hold_max, alteration: Alteration::Words }
    }

    fn token(sequence: u64) -> String {
        token_in(&tracer(sequence)).expect("a tracer has a token")
    }

    #[test]
    fn each_alteration_has_its_class() {
        for how in [
            Alteration::Words,
            Alteration::Normalise,
            Alteration::QuestionMarks,
            Alteration::CutEnd,
            Alteration::DropEmoji,
        ] {
            let changed = how.of(&tracer(5)).expect("a tracer holds all samples");
            assert_eq!(judged(&changed), Some((5, how.class())), "{how:?}");
            assert_eq!(how.of(&tracer(5)[..TOKEN_BYTES]), None, "{how:?}: nothing but the token");
            assert_eq!(how.of("black 🔥".as_bytes()), None, "{how:?}: no token");
        }
        assert_eq!(judged(&tracer(5)), Some((5, Integrity::Equal)));
    }

    #[test]
    fn tokens_are_found_and_read() {
        assert_eq!(sequence(&token(0x0102_0304_0506)), 0x0102_0304_0506);
        let mail = [b"Hello bongsu1.no\r\n".as_slice(), &tracer(9)].concat();
        assert_eq!(token_in(&mail), Some(token(9)));
        let mut folded = tracer(9);
        folded.splice(40..40, *b"\r\n ");
        assert_eq!(token_in(&folded), Some(token(9)));
        for stranger in ["", "bongsu1.", "{\"temperature\": 5}"] {
            assert_eq!(token_in(stranger.as_bytes()), None);
        }
    }

    /// Hands in `count` messages, one each second, and collects what leaves.
    fn play(seed: u64, rates: Rates, count: u64) -> (Vec<Leaving<Vec<u8>>>, Account) {
        let mut mangler = Mangler::new(seed, rates);
        let begun = Instant::now();
        let mut left = Vec::new();
        for n in 0..count {
            let now = begun + Duration::from_secs(n);
            left.extend(mangler.due(now));
            if let Verdict::Go(leaving) = mangler.take(&token(n), "lane", &tracer(n), now) {
                left.extend(leaving);
            }
        }
        while let Some(due) = mangler.next_due() {
            left.extend(mangler.due(due));
        }
        (left, mangler.account())
    }

    #[test]
    fn what_leaves_is_what_the_account_says() {
        for seed in 0..40 {
            let (left, account) = play(seed, rates([0.1, 0.1, 0.1, 0.1, 0.1]), 200);
            let copies = |token: &String| left.iter().filter(|l| &l.token == token).count();
            for token in &account.seen {
                let deed = *account.deeds.iter().find(|(_, all)| all.contains(token)).expect("each has one").0;
                let expected = match deed {
                    Deed::Dropped => 0,
                    Deed::Repeated => 2,
                    _ => 1,
                };
                assert_eq!(copies(token), expected, "{seed}: {deed:?}");
            }
            assert_eq!(account.deeds.values().map(BTreeSet::len).sum::<usize>(), 200);
            for leaving in &left {
                let integrity = if leaving.deed == Deed::Altered { Integrity::Corrupt } else { Integrity::Equal };
                assert_eq!(judged(&leaving.message), Some((sequence(&leaving.token), integrity)));
            }
            // Seconds apart, a message is overtaken when it was swapped, or delayed and not the last.
            let late: BTreeSet<String> = &account.of(Deed::Swapped) | &account.of(Deed::Delayed);
            assert!(account.reordered().is_subset(&late), "{seed}");
            assert!(account.of(Deed::Swapped).is_subset(&account.reordered()), "{seed}");
            for deed in [Deed::Dropped, Deed::Repeated, Deed::Altered, Deed::Delayed] {
                assert!((5..40).contains(&account.of(deed).len()), "{seed}: {deed:?} is near its rate");
            }
        }
    }

    #[test]
    fn a_seed_says_it_all() {
        let all = || play(7, rates([0.2, 0.2, 0.2, 0.2, 0.2]), 50);
        assert_eq!(all().0, all().0);
        assert_eq!(all().1.left, all().1.left);
        assert_ne!(play(8, rates([0.2; 5]), 50).1.left, all().1.left);
    }

    #[test]
    fn a_swapped_message_follows_the_next_or_its_bound() {
        let begun = Instant::now();
        let mut mangler = Mangler::new(1, rates([0.0, 0.0, 1.0, 0.0, 0.0]));
        let take = |m: &mut Mangler<Vec<u8>>, n: u64| m.take(&token(n), "lane", &tracer(n), begun);
        assert_eq!(take(&mut mangler, 1), Verdict::Keep);
        // Another lane does not let it go.
        assert_eq!(mangler.take(&token(9), "other", &tracer(9), begun), Verdict::Keep);
        let Verdict::Go(leaving) = take(&mut mangler, 2) else { panic!("the next one leaves") };
        let order = |all: &[Leaving<Vec<u8>>]| all.iter().map(|l| sequence(&l.token)).collect::<Vec<_>>();
        assert_eq!(order(&leaving), [2, 1]);
        // A second subscriber gets the same, and nothing is counted twice.
        assert_eq!(take(&mut mangler, 2), Verdict::Go(leaving));
        assert_eq!(take(&mut mangler, 3), Verdict::Keep);
        assert_eq!(mangler.due(begun + Duration::from_secs(9)), []);
        assert_eq!(order(&mangler.due(begun + Duration::from_secs(10))).len(), 2);
        let account = mangler.account();
        assert_eq!(account.sequences(Deed::Swapped), BTreeSet::from([1]));
        assert_eq!(account.sequences(Deed::Passed), BTreeSet::from([2]));
        assert_eq!(account.sequences(Deed::Held), BTreeSet::from([3, 9]));
        assert_eq!(account.reordered(), BTreeSet::from([token(1)]));
        assert_eq!(mangler.next_due(), None);
    }

    #[test]
    fn what_cannot_be_altered_passes() {
        let mut mangler = Mangler::new(1, rates([0.0, 0.0, 0.0, 1.0, 0.0]));
        let bare = tracer(1)[..TOKEN_BYTES].to_vec();
        assert!(matches!(mangler.take(&token(1), "lane", &bare, Instant::now()), Verdict::Go(_)));
        assert_eq!(mangler.account().sequences(Deed::Passed), BTreeSet::from([1]));
    }
}
