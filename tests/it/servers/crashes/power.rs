//! Power cuts: what one incident's life wrote is replayed up to any moment, as a disk may have kept it.
//!
//! What was synchronised is there. Of the rest any part may be: nothing, all up to a moment, some writes without those
//! before them, or some sectors of them; files that were made may be missing, and ones that were removed may be back,
//! until their directory (or the new file itself, as on ext4 and xfs) was synchronised. A sector is whole, and bytes
//! that nobody wrote do not change, which is what SQLite assumes of a disk, too.

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

/// A disk, and what its user was promised.
#[derive(Clone, Default)]
struct Disk {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    safe_names: BTreeMap<String, usize>,
    entries: Vec<Entry>,
    /// Attempts of the check that were told as written.
    observations: usize,
    asked_at: Option<u128>,
    /// Keys of alerts that were sent.
    sent: BTreeSet<String>,
}

impl Disk {
    fn take(&mut self, at: u128, step: &Step) {
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
            Step::Said(bytes) => self.said(at, bytes),
        }
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
            // The directory is the only other thing that is synchronised.
            for (name, inode) in std::mem::take(&mut self.entries) {
                set(&mut self.safe_names, name, inode);
            }
            return;
        };
        let Some(number) = self.names.get(&name).copied() else { return };
        let inode = &mut self.inodes[number];
        for change in std::mem::take(&mut inode.changes) {
            apply(&mut inode.safe, &change);
        }
        self.entries.retain(|(entry, of)| (entry, *of) != (&name, Some(number)));
        self.safe_names.insert(name, number);
    }

    fn said(&mut self, at: u128, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
        if text.starts_with("get ") {
            let before = self.asked_at.replace(at);
            self.observations += usize::from(before.is_some_and(|before| at - before < ANSWERED_WITHIN_NS));
        }
        let key = text.lines().find_map(|l| l.strip_prefix("idempotency-key: ").or(l.strip_prefix("webhook-id: ")));
        self.sent.extend(key.map(|key| key.trim().to_owned()));
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

/// Everything that one incident's life did.
fn record() -> Vec<(u128, Step)> {
    let site = Site::new();
    let lived = site.live(&trace::strace(site.place.dir.path()));
    assert!(lived.ended && lived.acknowledged, "it ended well");
    trace::read(site.place.dir.path())
}

fn check(disk: &Disk, seed: u64, at: &str) {
    let dir = scratch_in_memory();
    let mut random = fastrand::Rng::with_seed(seed);
    disk.cut(dir.path(), &mut random);
    let database = dir.path().join("bongsu.db");
    open_and_check(&database, at);
    let connection = Connection::open_with_flags(&database, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("it is there");
    let stored: i64 = connection.query_row("SELECT count(*) FROM observations", [], |r| r.get(0)).expect("a view");
    assert!(
        stored >= disk.observations as i64,
        "{at}: {} observations were written, {stored} are there",
        disk.observations
    );
    let mut statement = connection.prepare("SELECT key FROM outbox").expect("a view");
    let rows: BTreeSet<String> =
        statement.query_map([], |row| row.get(0)).expect("a query").map(|row| row.expect("a row")).collect();
    assert!(rows.is_superset(&disk.sent), "{at}: {:?} were sent, {rows:?} are written", disk.sent);
}

/// A real daemon starts on it, watches, and ends politely.
fn go_on(disk: &Disk, seed: u64, at: &str) {
    let site = Site::new();
    disk.cut(site.place.dir.path(), &mut fastrand::Rng::with_seed(seed));
    let daemon = site.place.start();
    until("it asks", || site.target.requests().len() > 1);
    assert_eq!(daemon.stop(), Some(0), "{at}: {}", daemon.log());
}

#[test]
fn no_power_cut_loses_what_was_written() {
    let seed = std::env::var("BONGSU_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("BONGSU_SEED={seed}");
    let cuts = std::env::var("BONGSU_POWER_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(CUTS);
    let steps = record();
    let mut random = fastrand::Rng::with_seed(seed);
    // Only steps that change something make another state.
    let of_files: Vec<usize> = (0..steps.len()).filter(|n| !matches!(steps[*n].1, Step::Said(_))).collect();
    let mut moments: Vec<(usize, u64)> = (0..cuts).map(|_| (random.usize(..=steps.len()), random.u64(..))).collect();
    moments.sort_unstable();
    let (mut disk, mut taken) = (Disk::default(), 0);
    for (n, (moment, seed)) in moments.into_iter().enumerate() {
        for (at, step) in &steps[taken..moment] {
            disk.take(*at, step);
        }
        taken = moment;
        let at = format!("state {n}, after step {moment} of {}, seed {seed}", steps.len());
        check(&disk, seed, &at);
        if n.is_multiple_of(GO_ON_EVERY) {
            go_on(&disk, seed, &at);
        }
    }
    for (at, step) in &steps[taken..] {
        disk.take(*at, step);
    }
    println!(
        "{cuts} states of a disk from {} steps ({} on files), {} observations and {} alerts acknowledged in the end",
        steps.len(),
        of_files.len(),
        disk.observations,
        disk.sent.len()
    );
    assert!(disk.observations > 2 && disk.sent.len() >= 2, "the record holds what was promised");
}
