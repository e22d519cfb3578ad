//! House rules, checked mechanically: what may import what, who may read a clock, what every file must say.
//!
//! A failing rule says what to use instead.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The modules from the ground up. A module may import from itself and from those above it in this list.
const FLOORS: [&str; 21] = [
    "value",
    "clock",
    "files",
    "observation",
    "options",
    "schedule",
    "delivery",
    "detect",
    "incident",
    "alert",
    "decide",
    "telemetry",
    "protocol",
    "check",
    "store",
    "notify",
    "web",
    "config",
    "agent",
    "cli",
    "main",
];

/// Modules without clocks, tasks, sockets, files or SQL, so that they can be replayed and simulated.
const PURE: [&str; 9] =
    ["value", "observation", "options", "schedule", "delivery", "detect", "incident", "alert", "decide"];

/// What a pure module must not name.
const IMPURE: [&str; 8] =
    ["tokio::", "std::fs", "std::net::Tcp", "std::net::Udp", "rusqlite::", "reqwest::", "std::thread", "crate::clock"];

/// Reads of the operating system's time and randomness; only `clock.rs` may.
const CLOCKS: [&str; 7] = [
    "Instant::now(",
    "SystemTime::now(",
    "Utc::now(",
    "Local::now(",
    "SystemRandom::new(",
    "fastrand::Rng::new(",
    "UNIX_EPOCH.elapsed(",
];

/// Longest file before its tests.
const LINES_MAX: usize = 500;

/// Who may start tasks and threads: the agent, and the demo, which plays the servers that are watched.
const SPAWNERS: [&str; 2] = ["src/agent", "src/cli/demo"];

struct Source {
    path: String,
    module: String,
    /// The lines before the tests, without comments.
    code: Vec<(usize, String)>,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&root.join("src"), &mut files);
    files.sort();
    assert!(files.len() > 40, "the sources were not found below {}", root.display());
    files.iter().map(|file| source(root, file)).collect()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the source tree is readable").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

fn source(root: &Path, file: &Path) -> Source {
    let path = file.strip_prefix(root).expect("below the root").display().to_string();
    let text = fs::read_to_string(file).expect("the source tree is readable");
    let module = path.trim_start_matches("src/").split(['/', '.']).next().unwrap_or_default().to_owned();
    let code = text
        .lines()
        .enumerate()
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(n, line)| (n + 1, line.to_owned()))
        .collect();
    Source { path, module, code, text }
}

/// Files that hold only tests, which the rules about code do not concern.
fn is_test(source: &Source) -> bool {
    ["/tests.rs", "/tests/", "/testing.rs"].iter().any(|t| source.path.contains(t))
}

fn report(rule: &str, instead: &str, breaches: &[String]) {
    assert!(breaches.is_empty(), "{rule}; {instead}:\n  {}", breaches.join("\n  "));
}

/// Names of crate modules used in a line: `crate::alert::…` and the first parts of `crate::{alert, store::…}`.
fn imports(code: &[(usize, String)]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut depth = 0_usize;
    for (n, line) in code {
        let mut rest = line.as_str();
        if depth == 0
            && let Some(at) = line.find("crate::{")
        {
            depth = 1;
            rest = &line[at + "crate::{".len()..];
        } else if depth == 0 {
            for (at, _) in line.match_indices("crate::") {
                let name: String = line[at + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                found.push((*n, name));
            }
            continue;
        }
        let mut word = String::new();
        for c in rest.chars() {
            match c {
                '{' => depth += 1,
                '}' => {
                    if depth == 1 && !word.is_empty() && !word.starts_with('#') {
                        found.push((*n, std::mem::take(&mut word)));
                    }
                    depth -= 1;
                    if depth == 0 {
                        break;
                    }
                }
                ',' | ':' if depth == 1 => {
                    if !word.is_empty() && !word.starts_with('#') {
                        found.push((*n, std::mem::take(&mut word)));
                    }
                    if c == ':' {
                        word = "#".into();
                    }
                }
                c if depth == 1 && (c.is_alphanumeric() || c == '_') && !word.starts_with('#') => word.push(c),
                _ => {}
            }
            if c == ',' && depth == 1 {
                word.clear();
            }
        }
        if depth == 1 && !word.is_empty() && !word.starts_with('#') {
            found.push((*n, word));
        }
    }
    found
}

#[test]
fn imports_point_downward() {
    let floor: BTreeMap<&str, usize> = FLOORS.iter().enumerate().map(|(i, m)| (*m, i)).collect();
    let mut breaches = Vec::new();
    for source in sources().iter().filter(|s| s.module != "lib" && !is_test(s)) {
        let Some(own) = floor.get(source.module.as_str()) else {
            breaches.push(format!("{}: module `{}` has no floor", source.path, source.module));
            continue;
        };
        for (line, name) in imports(&source.code) {
            if floor.get(name.as_str()).is_some_and(|other| other > own) {
                breaches.push(format!(
                    "{}:{line}: `{}` imports `{name}`, which stands above it",
                    source.path, source.module
                ));
            }
        }
    }
    report("imports point downward", "move the shared type down, or hand the value in", &breaches);
}

#[test]
fn the_map_lists_the_modules_as_they_stand() {
    let sources = sources();
    let lib = &sources.iter().find(|s| s.path == "src/lib.rs").expect("the crate's root").text;
    let of = |prefix: &str, end: char| -> Vec<&str> {
        lib.lines().filter_map(|l| l.strip_prefix(prefix)?.split(end).next()).collect()
    };
    let floors: Vec<&str> = FLOORS.iter().copied().filter(|m| *m != "main").collect();
    assert_eq!(of("pub mod ", ';'), floors, "the `pub mod` lines of src/lib.rs stand in the order of FLOORS");
    assert_eq!(of("//! | [`", '`'), floors, "the table in src/lib.rs stands in the order of FLOORS");
    let pure: Vec<&str> = lib.lines().filter(|l| l.contains("`] | P |")).filter_map(|l| l.split('`').nth(1)).collect();
    assert_eq!(pure, PURE, "the table in src/lib.rs marks the modules of PURE");
}

#[test]
fn pure_modules_stay_pure() {
    let mut breaches = Vec::new();
    for source in sources().iter().filter(|s| PURE.contains(&s.module.as_str()) && !is_test(s)) {
        for (line, text) in &source.code {
            breaches.extend(
                IMPURE.iter().filter(|i| text.contains(**i)).map(|i| format!("{}:{line}: names {i}", source.path)),
            );
        }
    }
    report(
        "pure modules touch neither clock, task, socket, file nor SQL",
        "take what you need as an argument",
        &breaches,
    );
}

#[test]
fn only_the_clock_reads_time_and_randomness() {
    let mut breaches = Vec::new();
    for source in sources().iter().filter(|s| s.path != "src/clock.rs" && !is_test(s)) {
        for (line, text) in &source.code {
            breaches.extend(
                CLOCKS.iter().filter(|c| text.contains(**c)).map(|c| format!("{}:{line}: calls {c}", source.path)),
            );
        }
    }
    report("only clock.rs reads the clock", "use clock::now(), clock::instant() or clock::random_seed()", &breaches);
}

#[test]
fn only_the_agent_spawns() {
    let spawns = ["tokio::spawn(", "spawn_local(", "thread::spawn(", "thread::Builder::new("];
    let mut breaches = Vec::new();
    for source in sources().iter().filter(|s| !is_test(s) && !SPAWNERS.iter().any(|p| s.path.starts_with(p))) {
        for (line, text) in &source.code {
            breaches.extend(
                spawns.iter().filter(|c| text.contains(**c)).map(|c| format!("{}:{line}: calls {c}", source.path)),
            );
        }
    }
    report("only the agent starts tasks", "use join or select in place", &breaches);
}

#[test]
fn every_file_says_what_it_is() {
    let missing: Vec<String> =
        sources().iter().filter(|s| !s.text.starts_with("//!")).map(|s| s.path.clone()).collect();
    report("every file begins with its module doc", "say in //! what it is for", &missing);
}

#[test]
fn files_are_short() {
    let long: Vec<String> = sources()
        .iter()
        .filter(|s| !is_test(s))
        .filter_map(|s| {
            let lines = s.text.lines().take_while(|l| !l.starts_with("#[cfg(test)]")).count();
            (lines > LINES_MAX).then(|| format!("{}: {lines} lines", s.path))
        })
        .collect();
    report("a file has at most 500 lines before its tests", "find the natural seam", &long);
}

#[test]
fn a_protocol_is_one_file_and_one_registry_line() {
    // Whoever names a protocol outside of its own file and the registry makes the next one cost more.
    let mut breaches = Vec::new();
    for source in sources().iter().filter(|s| !is_test(s)) {
        for protocol in bongsu::protocol::PROTOCOLS.iter().map(|p| p.name) {
            let own =
                source.path.starts_with(&format!("src/protocol/{protocol}")) || source.path == "src/protocol/mod.rs";
            let demo = source.path.starts_with("src/cli/demo");
            if own || demo {
                continue;
            }
            for (line, text) in &source.code {
                if text.contains(&format!("protocol::{protocol}::")) {
                    breaches.push(format!("{}:{line}: names protocol::{protocol}", source.path));
                }
            }
        }
    }
    report("nothing but the registry names a protocol", "ask the registry", &breaches);
}

#[test]
fn there_is_one_tls_provider_and_no_openssl() {
    let lock =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).expect("the lock file is there");
    let unwanted = ["openssl-sys", "openssl", "native-tls", "aws-lc-rs", "aws-lc-sys"];
    let found: Vec<String> = lock
        .lines()
        .filter_map(|l| l.strip_prefix("name = \"")?.strip_suffix('"'))
        .filter(|name| unwanted.contains(name))
        .map(ToOwned::to_owned)
        .collect();
    report("all TLS is rustls with ring", "turn off the feature that brings this crate in", &found);
}

#[test]
fn the_import_reader_reads_imports() {
    let code = |text: &str| text.lines().enumerate().map(|(i, l)| (i + 1, l.to_owned())).collect::<Vec<_>>();
    let names = |text: &str| imports(&code(text)).into_iter().map(|(_, n)| n).collect::<Vec<_>>();
    assert_eq!(names("use crate::store::Writer;"), ["store"]);
    assert_eq!(
        names("use crate::{\n    alert::{Message, plan::x},\n    clock,\n    detect::Pace,\n};"),
        ["alert", "clock", "detect"]
    );
    assert_eq!(names("use crate::{clock, value::Name};\nlet x = crate::web::y();"), ["clock", "value", "web"]);
}
