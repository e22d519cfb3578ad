//! Every target of `fuzz/` on stable Rust, without coverage: each is given its corpus, and then inputs made from it
//! by seeded changes, for [`SECONDS`] or as long as `BONGSU_FUZZ_SECONDS` says (`tests/run` says a minute).
//!
//! An input that makes a target panic, or take longer than [`INPUT_MAX`], is written below `target/tmp/fuzz` and told; it
//! is tried again by `cargo fuzz run --sanitizer none -O NAME FILE`, and kept in `fuzz/corpus/NAME` once that is mended.

use std::{
    collections::BTreeSet,
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

#[path = "../fuzz/targets.rs"]
mod targets;

/// How long each target runs unless the environment says otherwise: long enough to see that it works at all.
const SECONDS: u64 = 2;

/// Longest time of one input: code that is not optimised, on a machine that is busy with other tests as well.
const INPUT_MAX: Duration = Duration::from_secs(60);

/// Time of one input from which on it is told.
const INPUT_TOLD: Duration = Duration::from_secs(2);

/// Longest input: what lies beyond it is bounded by the readers' own limits, which their own tests try.
const INPUT_BYTES_MAX: usize = 64 * 1024;

/// Most memory that a target may come to hold, in KiB: the tests' own code, a corpus, and the largest bounds of ours.
const RSS_KIB_MAX: u64 = 512 * 1024;

/// The same inputs each time, so that what failed fails again.
const SEED: u64 = 20_261_126;

type Target = fn(&[u8]);

macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() { in_a_main_thread(|| fuzz(stringify!($name), targets::$name)); })*
    };
}

each_target!(tests);

#[test]
fn each_target_has_its_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names: BTreeSet<String> = NAMES.iter().map(ToString::to_string).collect();
    let listed = |dir: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(root.join(dir)).expect("the directory is there").flatten();
        entries.map(|e| e.path().file_stem().expect("a name").to_string_lossy().into_owned()).collect()
    };
    assert_eq!(listed("fuzz_targets"), names, "fuzz/fuzz_targets has a file for each target");
    assert_eq!(listed("corpus"), names, "fuzz/corpus has a directory for each target");
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("the manifest is there");
    for name in NAMES {
        let path = format!("path = \"fuzz_targets/{name}.rs\"");
        assert!(manifest.contains(&path), "fuzz/Cargo.toml has no [[bin]] with {path}");
        assert!(!corpus(name).is_empty(), "fuzz/corpus/{name} is empty");
    }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<PathBuf> =
        fs::read_dir(&directory).expect("each target has a corpus").flatten().map(|e| e.path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).expect("the corpus is readable")).collect()
}

/// With the stack that a program's main thread has; those of tests are smaller, and code that is not optimised needs more.
fn in_a_main_thread(run: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(8 << 20).spawn(run).expect("a thread");
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn fuzz(name: &str, target: Target) {
    let seconds = std::env::var("BONGSU_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SECONDS);
    let corpus = corpus(name);
    let mut makes = Makes::new(&corpus);
    let watch = Watch::start(name);
    let begun = Instant::now();
    let (mut count, mut slowest) = (0_u64, Duration::ZERO);
    // Each input of the corpus as it is, and some changes at least of a slow target.
    while begun.elapsed() < Duration::from_secs(seconds) || count < corpus.len() as u64 + 100 {
        let input = corpus.get(count as usize).cloned().unwrap_or_else(|| makes.next());
        let took = watch.run(target, input.clone());
        if took > INPUT_TOLD {
            println!("{name}: {took:.1?}: {}", kept(name, &input));
        }
        (count, slowest) = (count + 1, slowest.max(took));
    }
    let rss_kib = peak_rss_kib();
    println!(
        "{name}: {count} inputs in {:.1} s, the slowest took {:.1} ms, {} MiB at most",
        begun.elapsed().as_secs_f64(),
        slowest.as_secs_f64() * 1e3,
        rss_kib / 1024
    );
    assert!(rss_kib < RSS_KIB_MAX, "{name} came to hold {rss_kib} KiB");
}

fn peak_rss_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("Linux tells the peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
}

// ---------------------------------------------------------------------------------------------------------------
// One input

/// Since when an input runs, if one does, and which.
type Running = Option<(Instant, Vec<u8>)>;

/// Runs inputs, and ends the process when one takes too long: a thread that does not end can be stopped in no other way.
struct Watch {
    name: String,
    current: Arc<Mutex<Running>>,
    done: Arc<AtomicBool>,
}

impl Watch {
    fn start(name: &str) -> Self {
        let watch = Self { name: name.into(), current: Arc::default(), done: Arc::default() };
        let (name, current, done) = (watch.name.clone(), watch.current.clone(), watch.done.clone());
        std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(200));
                let current = current.lock().expect("nobody panics with it").clone();
                if let Some((_, input)) = current.filter(|(begun, _)| begun.elapsed() > INPUT_MAX) {
                    println!("{name}: no end after {INPUT_MAX:?}: {}", kept(&name, &input));
                    std::process::exit(101);
                }
            }
        });
        watch
    }

    fn run(&self, target: Target, input: Vec<u8>) -> Duration {
        let begun = Instant::now();
        *self.current.lock().expect("nobody panics with it") = Some((begun, input.clone()));
        let ended = catch_unwind(|| target(&input));
        *self.current.lock().expect("nobody panics with it") = None;
        assert!(ended.is_ok(), "{}: {}", self.name, kept(&self.name, &input));
        begun.elapsed()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

/// Writes an input where it can be looked at, and says how to try it again.
fn kept(name: &str, input: &[u8]) -> String {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    fs::create_dir_all(&directory).expect("the target directory is writable");
    let sum =
        input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, b| (sum ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    let file = directory.join(format!("{name}-{sum:016x}"));
    fs::write(&file, input).expect("the target directory is writable");
    format!(
        "cargo fuzz run --sanitizer none -O {name} {}; it begins with {}",
        file.display(),
        input[..input.len().min(200)].escape_ascii()
    )
}

// ---------------------------------------------------------------------------------------------------------------
// Inputs

/// Makes inputs: one of the corpus, changed a few times.
struct Makes<'c> {
    corpus: &'c [Vec<u8>],
    /// Words and numbers of the corpus, to be put where others stand.
    words: Vec<&'c [u8]>,
    random: fastrand::Rng,
}

/// What parsers stumble over.
const ODD: [&[u8]; 30] = [
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x80\x00\x00\x00",
    b"\r\n",
    b"\n\n",
    b"\r",
    b"-1",
    b"0",
    b"1e309",
    b"18446744073709551616",
    b"9223372036854775807",
    b"4294967296",
    b"65536",
    b"{",
    b"}",
    b"[",
    b"(((((((((",
    b"\"",
    b"'",
    b"\\",
    b"=",
    b"=?utf-8?B?",
    b"\xed\xa0\x80",
    "\u{feff}".as_bytes(),
    "가".as_bytes(),
    "\u{202e}".as_bytes(),
    b"${",
    b"{{",
    b"%",
];

impl<'c> Makes<'c> {
    fn new(corpus: &'c [Vec<u8>]) -> Self {
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte >= 0x80;
        let words = |input: &'c Vec<u8>| input.chunk_by(move |a, b| is_word(a) == is_word(b)).filter(|w| w.len() < 40);
        let words: BTreeSet<&[u8]> = corpus.iter().flat_map(words).collect();
        Self { corpus, words: words.into_iter().collect(), random: fastrand::Rng::with_seed(SEED) }
    }

    fn next(&mut self) -> Vec<u8> {
        let mut input = self.random.choice(self.corpus).cloned().unwrap_or_default();
        // Mostly few changes, which come far into a parser; now and then many.
        for _ in 0..1 << self.random.u32(0..5) {
            self.change(&mut input);
            input.truncate(INPUT_BYTES_MAX);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let random = &mut self.random;
        let (from, to) = part(random, input);
        match random.u32(0..11) {
            0 => drop(input.drain(from..to)),
            1 => {
                let at = random.usize(0..=input.len());
                let copy = input[from..to].to_vec();
                input.splice(at..at, copy);
            }
            // Many times over: nesting, lists, lines without end.
            2 => {
                let copy = input[from..to.min(from + 16)].repeat(1 << random.u32(0..12));
                input.splice(from..from, copy.into_iter().take(INPUT_BYTES_MAX));
            }
            3 | 4 if from < to => input[from] ^= 1 << random.u32(0..8),
            5 if from < to => input[from] = random.u8(..),
            6 => {
                let odd = random.choice(ODD).unwrap_or_default();
                input.splice(from..from, odd.iter().copied());
            }
            7 | 8 => {
                let word = random.choice(&self.words).copied().unwrap_or_default();
                let end =
                    input[from..].iter().position(|b| !b.is_ascii_alphanumeric()).map_or(input.len(), |n| from + n);
                input.splice(from..end, word.iter().copied());
            }
            9 => {
                let other = random.choice(self.corpus).map_or(&[][..], Vec::as_slice);
                let (a, b) = part(random, other);
                input.splice(from..to, other[a..b].iter().copied());
            }
            10 => input.truncate(to),
            _ => {}
        }
    }
}

/// A stretch of the input, mostly a short one.
fn part(random: &mut fastrand::Rng, input: &[u8]) -> (usize, usize) {
    let from = random.usize(0..=input.len());
    let longest = 1 << random.u32(0..11);
    let length = random.usize(0..=(input.len() - from).min(longest));
    (from, from + length)
}
