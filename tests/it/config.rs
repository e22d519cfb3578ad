//! The configuration as a whole: a corpus of bad ones, each beside its exact message, a corpus of good ones, the
//! JSON Schema against both, and input of any kind.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Once,
};

use bongsu::config::{self, Config, Document, Environment, Mistakes, OsEnvironment, schema};
use proptest::prelude::*;

/// Surroundings that are the same on every machine.
struct Fixed;

impl Environment for Fixed {
    fn variable(&self, name: &str) -> Option<String> {
        let table = HashMap::from([
            ("TOKEN", "hunter2-swordfish"),
            ("EMPTY", ""),
            ("BROKER_HOST", "broker.example.com"),
            ("CREDENTIALS_DIRECTORY", "tests/config/credentials"),
        ]);
        table.get(name).map(|value| (*value).into())
    }
    fn read(&self, path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
        OsEnvironment.read(path, bytes_max)
    }
    fn exists(&self, _: &Path) -> bool {
        false
    }
    fn host_name(&self) -> Option<String> {
        Some("host-1.example.com".into())
    }
}

/// TLS options are judged with the process's one provider, which `main` installs.
fn install_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

fn load(path: &Path) -> Result<Config, Mistakes> {
    install_provider();
    config::load(path, &Fixed)
}

fn cases(corpus: &str) -> Vec<PathBuf> {
    let root = Path::new("tests/config").join(corpus);
    let mut cases: Vec<PathBuf> = fs::read_dir(&root)
        .unwrap_or_else(|e| panic!("{}: {e}", root.display()))
        .map(|entry| entry.expect("a readable directory").path())
        .collect();
    cases.sort();
    cases
}

/// What a user sees for a case, with the case's own directory left out of the file names.
fn message(case: &Path) -> String {
    match load(case) {
        Ok(_) => "no mistakes\n".into(),
        Err(mistakes) => format!("{mistakes}\n").replace(&format!("{}/", case.display()), ""),
    }
}

#[test]
fn every_bad_configuration_gives_its_exact_message() {
    let update = std::env::var_os("UPDATE_EXPECTED").is_some();
    let cases = cases("bad");
    assert!(cases.len() >= 45, "the corpus has shrunk to {} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let got = message(case);
        let file = case.join("expected.txt");
        if update {
            fs::write(&file, &got).expect("own repository");
        }
        let expected = fs::read_to_string(&file).unwrap_or_default();
        if got != expected {
            wrong.push(format!("--- {}\nexpected:\n{expected}\ngot:\n{got}", case.display()));
        }
        assert_ne!(got, "no mistakes\n", "{} is not bad", case.display());
    }
    assert!(wrong.is_empty(), "{}\n(UPDATE_EXPECTED=1 rewrites them)", wrong.join("\n"));
}

#[test]
fn no_message_tells_a_secret() {
    for case in cases("bad") {
        let Err(mistakes) = load(&case) else { continue };
        let all = format!("{mistakes} {}", serde_json::to_string(&mistakes).expect("mistakes are plain data"));
        for secret in ["hunter2-swordfish", "swordfish", "s3cr3t-in-url", "aHVudGVyMg"] {
            assert!(!all.contains(secret), "{}: {all}", case.display());
        }
    }
}
