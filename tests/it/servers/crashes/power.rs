//! Power cuts: what one incident's life wrote is replayed up to any moment, as a disk may have kept it.
//!
//! What was synchronised is there. Of the rest any part may be: nothing, all up to a moment, some writes without those
//! before them, or some sectors of them; files that were made may be missing, and ones that were removed may be back,
//! until their directory was synchronised, which is what POSIX promises (ext4 and xfs keep a new file's name with the
//! file). A sector is whole, and bytes that nobody wrote do not change, which is what SQLite assumes of a disk, too.
//!
//! That this would find a loss is shown by disks that lie: they say that something is safe and keep it like the rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use rusqlite::{Connection, OpenFlags};

use super::{
    life::{Site, open_and_check},
    trace::{self, Step},
};
use crate::harness::{daemon::until, scratch_in_memory};

/// States of the disk in one run of the test; `BONGSU_POWER_CUTS` asks for more.
const CUTS: usize = 2_000;

/// Of so many states, one is gone on from by a real daemon.
const GO_ON_EVERY: usize = 200;

/// What a disk writes as a whole.
const SECTOR: usize = 512;

/// States in which a disk that lies is looked at for one loss: a state in five has nothing that is not safe.
const LIES_MAX: usize = 200;

/// After an attempt of the check, the next comes later than this only if the core did not say so in time that the
/// observation is written.
const ANSWERED_WITHIN_NS: u128 = 1_500_000_000;

/// A change of a file's content.
#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

/// A file, whatever its name: what is safe of it, and what was changed since.
#[derive(Clone, Default)]
struct Inode {
    safe: Vec<u8>,
    changes: Vec<Change>,
}

/// A change of the directory: a name stands for another file, or for none.
type Entry = (String, Option<usize>);

/// What a disk says is safe, and is not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lie {
    Nothing,
    /// What a file holds that was written since the first attempt of the check.
    Contents,
    /// What the directory holds.
    Names,
}

/// What the daemon lets others rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Promise {
    /// That there is a database, and whole.
    Database,
    Observation,
    Alert,
    Acknowledgement,
}

/// A disk, and what its user was promised.
struct Disk {
    lie: Lie,
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    safe_names: BTreeMap<String, usize>,
    entries: Vec<Entry>,
    /// Attempts of the check that were told as written.
    observations: usize,
    asked_at: Option<u128>,
    /// Keys of alerts that were sent.
    sent: BTreeSet<String>,
    /// Whether somebody's acknowledgement was answered with a yes.
    acknowledged: bool,
}

impl Disk {
    fn new(lie: Lie) -> Self {
        Self {
            lie,
            inodes: Vec::new(),
            names: BTreeMap::new(),
            safe_names: BTreeMap::new(),
            entries: Vec::new(),
            observations: 0,
            asked_at: None,
            sent: BTreeSet::new(),
            acknowledged: false,
        }
    }

    /// Goes on by one step; what was promised by it.
    fn take(&mut self, at: u128, step: &Step) -> Option<Promise> {
        match step {
            Step::Open(path) => {
                if let Some(name) = concerned(path).filter(|name| !self.names.contains_key(name)) {
                    self.inodes.push(Inode::default());
                    self.enter(name, Some(self.inodes.len() - 1));
                }
            }
            Step::Unlink(path) => {
                if let Some(name) = concerned(path) {
                    self.enter(name, None);
                }
            }
            Step::Write(path, offset, data) => self.change(path, Change::Write(*offset, data.clone())),
            Step::Truncate(path, length) => self.change(path, Change::Truncate(*length)),
            Step::Sync(path) => self.sync(path),
            Step::Said(bytes) => return self.said(at, bytes),
        }
        None
    }

    fn enter(&mut self, name: String, inode: Option<usize>) {
        match inode {
            Some(inode) => self.names.insert(name.clone(), inode),
            None => self.names.remove(&name),
        };
        self.entries.push((name, inode));
    }

    fn change(&mut self, path: &str, change: Change) {
        let inode = concerned(path).and_then(|name| self.names.get(&name).copied());
        if let Some(inode) = inode {
            self.inodes[inode].changes.push(change);
        }
    }

    fn sync(&mut self, path: &str) {
        let Some(name) = concerned(path) else {
            if self.lie != Lie::Names {
                for (name, inode) in std::mem::take(&mut self.entries) {
                    set(&mut self.safe_names, name, inode);
                }
            }
            return;
        };
        if self.lie == Lie::Contents && self.asked_at.is_some() {
            return;
        }
        let Some(number) = self.names.get(&name).copied() else { return };
        let inode = &mut self.inodes[number];
        for change in std::mem::take(&mut inode.changes) {
            apply(&mut inode.safe, &change);
        }
    }

    fn said(&mut self, at: u128, bytes: &[u8]) -> Option<Promise> {
        let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
        if text.starts_with("get ") {
            let before = self.asked_at.replace(at)?;
            self.observations += usize::from(at - before < ANSWERED_WITHIN_NS);
            return (at - before < ANSWERED_WITHIN_NS).then_some(Promise::Observation);
        }
        // The only command in this life.
        if text.starts_with("http/1.1 200 ") {
            self.acknowledged = true;
            return Some(Promise::Acknowledgement);
        }
        let key = text.lines().find_map(|l| l.strip_prefix("idempotency-key: ").or(l.strip_prefix("webhook-id: ")))?;
        self.sent.insert(key.trim().to_owned()).then_some(Promise::Alert)
    }

    /// Writes what a disk may hold of it into a directory.
    fn cut(&self, dir: &Path, random: &mut fastrand::Rng) {
        let mut names = self.safe_names.clone();
        for (name, inode) in &self.entries {
            if random.bool() {
                set(&mut names, name.clone(), *inode);
            }
        }
        for (name, inode) in names {
            fs::write(dir.join(name), self.inodes[inode].kept(random)).expect("own directory");
        }
    }
}

impl Inode {
    /// What is kept of it.
    fn kept(&self, random: &mut fastrand::Rng) -> Vec<u8> {
        let mut content = self.safe.clone();
        let mode = random.u32(..5);
        let until = random.usize(..=self.changes.len());
        for (n, change) in self.changes.iter().enumerate() {
            match mode {
                0 => {}
                1 => apply(&mut content, change),
                2 if n < until => apply(&mut content, change),
                3 if random.bool() => apply(&mut content, change),
                4 => apply_torn(&mut content, change, random),
                _ => {}
            }
        }
        content
    }
}

fn set(names: &mut BTreeMap<String, usize>, name: String, inode: Option<usize>) {
    match inode {
        Some(inode) => names.insert(name, inode),
        None => names.remove(&name),
    };
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Truncate(length) => content.resize(usize::try_from(*length).expect("a small file"), 0),
        Change::Write(offset, data) => {
            let from = usize::try_from(*offset).expect("a small file");
            if content.len() < from + data.len() {
                content.resize(from + data.len(), 0);
            }
            content[from..from + data.len()].copy_from_slice(data);
        }
    }
}

/// Applies some sectors of a write.
fn apply_torn(content: &mut Vec<u8>, change: &Change, random: &mut fastrand::Rng) {
    let Change::Write(offset, data) = change else {
        if random.bool() {
            apply(content, change);
        }
        return;
    };
    let mut at = 0;
    while at < data.len() {
        let from = usize::try_from(*offset).expect("a small file") + at;
        let length = (SECTOR - from % SECTOR).min(data.len() - at);
        if random.bool() {
            apply(content, &Change::Write(from as u64, data[at..at + length].to_vec()));
        }
        at += length;
    }
}

/// The name of a file that holds data: the index of the write-ahead log is made anew after a power cut, and the lock
/// is nobody's.
fn concerned(path: &str) -> Option<String> {
    let name = Path::new(path).file_name()?.to_str()?;
    ["bongsu.db", "bongsu.db-wal", "bongsu.db-journal"].contains(&name).then(|| name.to_owned())
}

/// Everything that one incident's life did to its database and said.
fn record() -> Vec<(u128, Step)> {
    let site = Site::new();
    let lived = site.live(&trace::strace(site.place.dir.path()));
    assert!(lived.ended && lived.acknowledged, "it ended well");
    let dir = site.place.dir.path().to_str().expect("a name of our own");
    let matters = |step: &Step| match step {
        Step::Open(path) | Step::Unlink(path) | Step::Write(path, ..) | Step::Truncate(path, _) => {
            concerned(path).is_some()
        }
        Step::Sync(path) => concerned(path).is_some() || path == dir,
        Step::Said(_) => true,
    };
    trace::read(site.place.dir.path()).into_iter().filter(|(_, step)| matters(step)).collect()
}

/// Which promises one of the states is breaking that a disk may be in, and how.
fn broken(disk: &Disk, seed: u64) -> Vec<(Promise, String)> {
    let dir = scratch_in_memory();
    disk.cut(dir.path(), &mut fastrand::Rng::with_seed(seed));
    let database = dir.path().join("bongsu.db");
    if let Err(why) = open_and_check(&database) {
        return vec![(Promise::Database, why)];
    }
    let connection = Connection::open_with_flags(&database, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("it is there");
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).expect("a view");
    let mut broken = Vec::new();
    let stored = number("SELECT count(*) FROM observations");
    if stored < disk.observations as i64 {
        let how = format!("{} observations were written, {stored} are there", disk.observations);
        broken.push((Promise::Observation, how));
    }
    let mut statement = connection.prepare("SELECT key FROM outbox").expect("a view");
    let rows: BTreeSet<String> =
        statement.query_map([], |row| row.get(0)).expect("a query").map(|row| row.expect("a row")).collect();
    if !rows.is_superset(&disk.sent) {
        broken.push((Promise::Alert, format!("{:?} were sent, {rows:?} are written", disk.sent)));
    }
    if disk.acknowledged && number("SELECT count(*) FROM incidents WHERE acknowledged_by IS NOT NULL") == 0 {
        broken.push((Promise::Acknowledgement, "it was acknowledged and is not".into()));
    }
    broken
}

/// A real daemon starts on it, watches, and ends politely.
fn go_on(disk: &Disk, seed: u64, at: &str) {
    let site = Site::new();
    disk.cut(site.place.dir.path(), &mut fastrand::Rng::with_seed(seed));
    let daemon = site.place.start();
    until("it asks", || site.target.requests().len() > 1);
    assert_eq!(daemon.stop(), Some(0), "{at}: {}", daemon.log());
}

fn seed() -> u64 {
    let seed = std::env::var("BONGSU_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("BONGSU_SEED={seed}");
    seed
}

#[test]
fn no_power_cut_loses_what_was_written() {
    let mut random = fastrand::Rng::with_seed(seed());
    let cuts = std::env::var("BONGSU_POWER_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(CUTS);
    let steps = record();
    // Each moment once, and others by chance: most have many states.
    let by_chance = (0..).map_while(|_| Some(random.usize(..=steps.len())));
    let mut moments: Vec<usize> = (0..=steps.len()).chain(by_chance).take(cuts).collect();
    moments.sort_unstable();
    let (mut disk, mut taken) = (Disk::new(Lie::Nothing), 0);
    for (n, moment) in moments.into_iter().enumerate() {
        for (at, step) in &steps[taken..moment] {
            disk.take(*at, step);
        }
        taken = moment;
        let seed = random.u64(..);
        let at = format!("state {n}, after step {moment} of {}, seed {seed}", steps.len());
        assert_eq!(broken(&disk, seed), [], "{at}");
        if n.is_multiple_of(GO_ON_EVERY) {
            go_on(&disk, seed, &at);
        }
    }
    for (at, step) in &steps[taken..] {
        disk.take(*at, step);
    }
    println!(
        "{cuts} states of a disk from {} steps, {} observations and {} alerts acknowledged in the end",
        steps.len(),
        disk.observations,
        disk.sent.len()
    );
    assert!(disk.observations > 2 && disk.sent.len() >= 2 && disk.acknowledged, "the record holds what was promised");
}

/// Whether a disk in this state may break a promise.
fn may_break(disk: &Disk, promise: Promise, random: &mut fastrand::Rng) -> bool {
    (0..LIES_MAX).any(|_| broken(disk, random.u64(..)).iter().any(|(of, _)| *of == promise))
}

#[test]
fn a_disk_that_lies_is_found_out_by_every_promise() {
    let mut random = fastrand::Rng::with_seed(seed());
    let steps = record();
    let (mut contents, mut names) = (Disk::new(Lie::Contents), Disk::new(Lie::Names));
    let mut found = BTreeMap::new();
    for (n, (at, step)) in steps.iter().enumerate() {
        names.take(*at, step);
        if let Some(promise) = contents.take(*at, step) {
            for (lie, disk) in [("contents", &contents), ("names", &names)] {
                let said = format!("step {n} of {}: a disk that lies about {lie} keeps {promise:?}", steps.len());
                assert!(may_break(disk, promise, &mut random), "{said}");
            }
            *found.entry(format!("{promise:?}")).or_insert(0) += 1;
        }
    }
    println!("{found:?}, each broken by a disk that lies about contents, and by one that lies about names");
    assert_eq!(found.len(), 3, "{found:?}");
}
