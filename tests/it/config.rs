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

#[test]
fn good_configurations_load_and_fit_the_schema() {
    let validators = Validators::new();
    let cases = cases("good");
    assert!(cases.len() >= 5, "the corpus has shrunk to {} cases", cases.len());
    for case in &cases {
        let config = load(case).unwrap_or_else(|mistakes| panic!("{}:\n{mistakes}", case.display()));
        for (index, file) in config.files.iter().enumerate() {
            let errors = validators.errors(index == 0, &fs::read_to_string(file).expect("it was just loaded"));
            assert_eq!(errors, Vec::<String>::new(), "{}", file.display());
        }
    }
}

#[test]
fn the_shipped_configuration_loads_and_fits_the_schema() {
    let validators = Validators::new();
    let config = load(Path::new("config.yaml")).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert!(config.summary().checks > 0, "ready checks are shipped");
    for (index, file) in config.files.iter().enumerate() {
        let errors = validators.errors(index == 0, &fs::read_to_string(file).expect("it was just loaded"));
        assert_eq!(errors, Vec::<String>::new(), "{}", file.display());
    }
}

/// The schemas of both kinds of files.
pub(crate) struct Validators {
    config: jsonschema::Validator,
    checks: jsonschema::Validator,
}

impl Validators {
    pub(crate) fn new() -> Self {
        let of = |document| {
            let schema = schema(document);
            assert_eq!(jsonschema::meta::validate(&schema).map_err(|e| e.to_string()), Ok(()), "a valid schema");
            jsonschema::validator_for(&schema).expect("a valid schema")
        };
        Self { config: of(Document::Config), checks: of(Document::Checks) }
    }

    /// What the schema finds wrong with a file's text.
    pub(crate) fn errors(&self, is_config: bool, text: &str) -> Vec<String> {
        let mut value: serde_yaml::Value = serde_yaml::from_str(text).expect("well-formed YAML");
        value.apply_merge().expect("good merges");
        let value: serde_json::Value = serde_json::to_value(value).expect("YAML of JSON's kind");
        let validator = if is_config { &self.config } else { &self.checks };
        validator.iter_errors(&value).map(|e| format!("{}: {e}", e.instance_path())).collect()
    }
}

/// Bad cases whose mistakes a schema can see.
const SCHEMA_SEES: &[&str] = &[
    "unknown-section",
    "unknown-keys-everywhere",
    "missing-service",
    "missing-name",
    "no-checks",
    "wrong-types",
    "checks-not-a-list",
    "check-not-a-mapping",
    "no-protocol",
    "two-protocols",
    "unknown-protocol",
    "misspelt-protocol",
    "time-without-unit",
    "both-every-and-cron",
    "timezone-without-cron",
    "channel-without-kind",
    "channel-unknown-kind",
    "channel-options",
    "thresholds",
    "delivery-incomplete",
    "delivery-cannot-send",
    "accounts-list",
    "accounts-range",
];

#[test]
fn the_schema_refuses_what_a_schema_can_see() {
    let validators = Validators::new();
    for name in SCHEMA_SEES {
        let case = cases("bad").into_iter().find(|case| case.to_string_lossy().ends_with(&format!("-{name}")));
        let case = case.unwrap_or_else(|| panic!("there is no case {name}"));
        let files = ["config.yaml", "checks/shop.yaml"].map(|file| fs::read_to_string(case.join(file)).ok());
        let refused = files
            .iter()
            .zip([true, false])
            .any(|(text, is_config)| text.as_ref().is_some_and(|text| !validators.errors(is_config, text).is_empty()));
        assert!(refused, "{name}");
    }
}

/// Writes a configuration and loads it.
fn load_texts(config: &str, checks: &str) -> Result<Config, Mistakes> {
    let dir = tempfile::tempdir().expect("a scratch directory");
    load_texts_at(dir.path(), config, checks)
}

/// The same at a place that stays: where a check stands is part of what it is.
fn load_texts_at(dir: &Path, config: &str, checks: &str) -> Result<Config, Mistakes> {
    fs::create_dir_all(dir.join("checks")).expect("own directory");
    fs::write(dir.join("config.yaml"), config).expect("own directory");
    fs::write(dir.join("checks/a.yaml"), checks).expect("own directory");
    load(dir)
}

/// An example as a list item, whichever way it was written.
fn list_item(example: &str) -> String {
    let lines = example.trim_end().lines();
    if example.trim_start().starts_with("- ") {
        return lines.map(|line| format!("  {line}\n")).collect();
    }
    lines.enumerate().map(|(at, line)| format!("  {}{line}\n", if at == 0 { "- " } else { "  " })).collect()
}

#[test]
fn every_example_of_the_registries_loads_and_fits_the_schema() {
    struct Generous;
    impl Environment for Generous {
        fn variable(&self, _: &str) -> Option<String> {
            Some("a-secret".into())
        }
        fn read(&self, _: &Path, _: usize) -> io::Result<Vec<u8>> {
            Ok(b"a-secret".to_vec())
        }
        fn exists(&self, _: &Path) -> bool {
            false
        }
        fn host_name(&self) -> Option<String> {
            None
        }
    }
    install_provider();
    let validators = Validators::new();
    let dir = tempfile::tempdir().expect("a scratch directory");
    let mut checks = String::from("service: examples\nchecks:\n");
    let protocols = bongsu::protocol::PROTOCOLS.iter().filter(|p| p.probe.is_some()).map(|p| p.example);
    let examples: Vec<&str> = protocols.chain(bongsu::check::KINDS.iter().map(|k| k.example)).collect();
    for example in &examples {
        checks.push_str(&list_item(example));
    }
    let mut config = String::from("channels:\n");
    for kind in bongsu::notify::CHANNEL_KINDS {
        config.push_str(&format!("  {}-example:\n", kind.name));
        config.extend(kind.example.trim_end().lines().map(|line| format!("    {line}\n")));
    }
    fs::create_dir(dir.path().join("checks")).expect("own directory");
    fs::write(dir.path().join("config.yaml"), &config).expect("own directory");
    fs::write(dir.path().join("checks/a.yaml"), &checks).expect("own directory");
    let loaded = config::load(dir.path(), &Generous).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(loaded.summary().checks, examples.len());
    assert_eq!(loaded.summary().channels, bongsu::notify::CHANNEL_KINDS.len());
    assert_eq!(validators.errors(true, &config), Vec::<String>::new(), "{config}");
    assert_eq!(validators.errors(false, &checks), Vec::<String>::new(), "{checks}");
}

#[test]
fn defaults_hold_where_nothing_is_written() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    fs::write(dir.path().join("config.yaml"), "").expect("own directory");
    let config = load(dir.path()).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(config.agent.name.as_str(), "host-1.example.com");
    assert_eq!(config.store.path, Path::new("/var/lib/bongsu/bongsu.db"));
    assert_eq!(config.agent.socket, Path::new("/var/lib/bongsu/bongsu.sock"));
    assert_eq!(config.web.listen.to_string(), "127.0.0.1:8463");
    assert!(config.routes.is_empty() && config.checks.is_empty() && config.channels.is_empty());
    assert_eq!(config.summary().files, 1);
    let missing = load(&dir.path().join("none.yaml")).err().expect("there is no such file");
    assert_eq!(missing.mistakes.len(), 1);
}

#[test]
fn the_cascade_reaches_the_checks() {
    let config = load(Path::new("tests/config/good/02-cascade")).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let shown: Vec<String> = config
        .checks
        .iter()
        .map(|check| {
            let slow = check.settings.slow.map_or("off".into(), |slow| format!("{slow:?}"));
            let depends: Vec<&str> = check.depends_on.iter().map(|name| name.as_str()).collect();
            format!(
                "{} [{}] timeout {:?} slow {slow} confirm {:?} failures {} labels {:?} after {depends:?}",
                check.name,
                check.title,
                check.settings.timeout,
                check.thresholds.confirm_every,
                check.thresholds.failures,
                check.labels,
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            "mail/front [Company mail] timeout 2s slow 500ms confirm 6s failures 3 labels {\"site\": \"gasan\", \"team\": \"web\"} after []",
            "mail/own [Company mail] timeout 1s slow off confirm 1s failures 7 labels {\"site\": \"pangyo\", \"team\": \"web\"} after [\"mail/front\", \"shop/front\"]",
            "shop/front [shop] timeout 10s slow 2s confirm 2s failures 3 labels {} after []",
        ]
    );
}

#[test]
fn each_account_has_its_own_question() {
    let config = load(Path::new("tests/config/good/08-accounts")).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let of = |name: &str| {
        let check = config.checks.iter().find(|check| check.name.check() == name).expect("it was written");
        let each = check.ask.each().into_iter().map(|(name, ask)| format!("{name} → {}", ask.target()));
        (each.collect::<Vec<_>>(), check.thresholds.degraded.accounts.map(|share| share.to_string()))
    };
    let (listed, share) = of("listed");
    let url = "https://mail.example.com/";
    assert_eq!(listed, ["probe01", "probe02", "probe03"].map(|name| format!("{name} → {url}")));
    assert_eq!(share.as_deref(), Some("30%"));
    let (range, share) = of("range");
    assert_eq!((range.len(), share), (12, None));
    let last = &range[11];
    assert!(last.starts_with("probe12@example.com → https://mail.example.com/probe12@example.com"), "{last}");
    assert_eq!(of("delivery").1.as_deref(), Some("10%"), "from the defaults");
    assert_eq!(of("delivery").0.len(), 3);
    let names: Vec<String> = of("tokens-only").0;
    assert!(names[0].starts_with("account 1 → ") && names[1].starts_with("account 2 → "), "{names:?}");
    for secret in ["pw-01-hunter2-swordfish", "pw-12-hunter2-swordfish", "aaaaaaaa", "12345"] {
        assert_eq!(config.masker.mask(secret), "***", "{secret}");
    }
}

#[test]
fn a_name_that_holds_a_secret_is_not_shown() {
    let checks = "service: s\nchecks:\n  - name: a\n    accounts: [{ user: probe-one, password: probe-one }, { user: \
                  probe-two, password: probe-two }]\n    http: { url: \"https://h.example.com/\", username: \
                  \"${account:user}\", password: \"${account:password}\" }\n";
    let config = load_texts("", checks).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let names: Vec<String> = config.checks[0].ask.each().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["account 1", "account 2"]);
}

#[test]
fn a_fingerprint_changes_with_every_account() {
    let place = tempfile::tempdir().expect("a scratch directory");
    let of = |accounts: &str| {
        let checks = format!(
            "service: s\nchecks:\n  - name: a\n    accounts: {accounts}\n    http: {{ url: \"https://h.example.com/\", \
             username: \"${{account:user}}\", password: \"${{account:pw}}\" }}\n"
        );
        let config = load_texts_at(place.path(), "", &checks).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        config.checks[0].fingerprint.clone()
    };
    let first = of("[{ user: one, pw: one-secret }, { user: two, pw: two-secret }]");
    assert_eq!(first, of("[ { user: one, pw: one-secret }, { user: two, pw: two-secret } ]"));
    assert_ne!(first, of("[{ user: one, pw: one-secret }, { user: two, pw: new-secret }]"));
    assert_ne!(first, of("[{ user: one, pw: one-secret }]"));
    assert!(first.len() == 64 && first.bytes().all(|b| b.is_ascii_hexdigit()), "a digest and nothing else: {first}");
}

#[test]
fn a_fingerprint_changes_with_the_check_and_its_secrets() {
    let place = tempfile::tempdir().expect("a scratch directory");
    let checks = |every: &str, password: &str| {
        format!(
            "service: s\nchecks:\n  - name: a\n    every: {every}\n    http: {{ url: \"https://probe:{password}@h.example.com/\", \
             headers: {{ X-Token: \"${{env:TOKEN}}\" }} }}\n"
        )
    };
    let of = |every: &str, password: &str| {
        let checks = checks(every, password);
        let config = load_texts_at(place.path(), "", &checks).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        config.checks[0].fingerprint.clone()
    };
    let first = of("10s", "one-secret");
    assert_eq!(first, of("10000ms", "one-secret"), "another way to write the same");
    assert_ne!(first, of("20s", "one-secret"));
    assert_ne!(first, of("10s", "two-secret"), "another password is another check");
}

#[test]
fn a_fingerprint_changes_with_the_files_and_name_servers_a_check_works_with() {
    let place = tempfile::tempdir().expect("a scratch directory");
    let pem = || rcgen::generate_simple_self_signed(["h.example.com".to_owned()]).expect("a certificate").cert.pem();
    let load = |config: &str| {
        fs::write(place.path().join("config.yaml"), config).expect("written");
        let config = self::load(place.path()).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        config.checks[0].fingerprint.clone()
    };
    fs::create_dir(place.path().join("checks")).expect("made");
    let check = "service: s\nchecks:\n  - name: a\n    tls: { url: \"tls://h.example.com\", tls: { ca: ca.pem } }\n";
    fs::write(place.path().join("checks/s.yaml"), check).expect("written");
    fs::write(place.path().join("checks/ca.pem"), pem()).expect("written");
    let first = load("");
    assert_eq!(first, load("web: { listen: \"127.0.0.1:1\" }"));
    let other = load("agent: { nameservers: [192.0.2.53] }");
    assert_ne!(first, other);
    fs::write(place.path().join("checks/ca.pem"), pem()).expect("renewed");
    assert_ne!(first, load(""), "what is trusted has changed");
}

#[test]
fn a_file_too_long_is_refused_without_being_read_whole() {
    let checks = format!("service: s\n# {}\n", "x".repeat(5 << 20));
    let mistakes = load_texts("", &checks).err().expect("too long");
    assert!(mistakes.to_string().contains("is longer than the 4096 KiB allowed"), "{mistakes}");
}

/// No file keeps the daemon that is given it busy for minutes, or fills its memory.
#[test]
fn files_of_nothing_but_mistakes_are_told_within_bounds() {
    const BYTES: usize = 300_000;
    let repeated = |text: &str| text.repeat(BYTES / text.len());
    let numbered = |text: &str| (0..BYTES / text.len()).map(|n| text.replace('#', &n.to_string())).collect::<String>();
    let check = |rest: String| format!("service: s\nchecks:\n- {{ name: n, http: {{ url: 'http://h/', {rest} }} }}\n");
    for (checks, told) in [
        (repeated("["), "this is nested too deeply"),
        (repeated("{a: "), "this is nested too deeply"),
        (format!("service: s\nchecks:\n{}", repeated("- {}\n")), "more than 10000 mistakes in 1 file"),
        (format!("service: s\nchecks: [{}x]", repeated("x,")), "more than 10000 mistakes in 1 file"),
        (format!("service: s\nchecks:\n{}", repeated("- !x y\n")), "more than 10000 mistakes in 1 file"),
        (format!("service: s\nchecks:\n{}", repeated("- { name: '${env:X' }\n")), "more than 10000 mistakes in 1 file"),
        (numbered("key#: 1\n"), "more than 10000 mistakes in 1 file"),
        (numbered("#: 1\n"), "more than 10000 mistakes in 1 file"),
        (format!("{{ {} }}", numbered("한국#: 1, ")), "more than 10000 mistakes in 1 file"),
        (repeated("service: s\n"), "more than 10000 mistakes in 1 file"),
        (check(format!("expect: {{ status: [{}x] }}", repeated("x,"))), "100 mistakes in 1 file"),
    ] {
        let mistakes = load_texts("", &checks).err().expect("nothing but mistakes");
        let (text, begins) = (mistakes.to_string(), checks.chars().take(60).collect::<String>());
        assert!(text.contains(told), "{begins}: {}", text.lines().last().unwrap_or_default());
        assert!(text.len() < 500_000, "{begins}: {} bytes", text.len());
    }
}

#[test]
fn a_link_that_leads_back_is_told_once() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    fs::create_dir_all(dir.path().join("checks/mail")).expect("own directory");
    std::os::unix::fs::symlink("..", dir.path().join("checks/mail/up")).expect("own directory");
    let checks = "service: s\nchecks: [{ name: n, tcp: { url: 'tcp://h:1' } }]\n";
    let mistakes = load_texts_at(dir.path(), "", checks).err().expect("a circle").to_string();
    assert!(
        mistakes.contains("checks/mail/up leads back to ") && mistakes.ends_with("1 mistake in 1 file"),
        "{mistakes}"
    );
}

#[test]
fn a_thousand_checks_load() {
    let mut checks = String::from("service: many\nchecks:\n");
    for n in 0..1_000 {
        checks.push_str(&format!("  - name: c{n}\n    every: 30s\n    http: {{ url: \"https://h{n}.example.com/\", expect: {{ status: 200 }} }}\n"));
    }
    let config = load_texts("", &checks).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(config.summary().checks, 1_000);
    // All wrong: the positions of a thousand mistakes are found in one go.
    let mistakes = load_texts("", &checks.replace("every: 30s", "evry: 30s")).err().expect("all wrong");
    assert_eq!(mistakes.mistakes.len(), 1_000);
    assert_eq!(mistakes.mistakes[999].line, Some(3 * 1_000 + 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_bytes_make_it_panic(config in prop::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,200}") {
        let dir = tempfile::tempdir().expect("a scratch directory");
        fs::create_dir(dir.path().join("checks")).expect("own directory");
        fs::write(dir.path().join("config.yaml"), &config).expect("own directory");
        fs::write(dir.path().join("checks/a.yaml"), &text).expect("own directory");
        if let Err(mistakes) = load(dir.path()) {
            prop_assert!(!mistakes.to_string().is_empty());
        }
    }

    /// Texts of YAML's own characters, nearer to the edges than random ones.
    #[test]
    fn no_yaml_makes_it_panic(text in "([a-c:\\-\\[\\]{},&*!|>'\"#%@?~<$ 0-9\n\t]|checks|name|http|every|<<){0,80}") {
        let _ = load_texts(&text, &format!("service: s\n{text}")).map_err(|mistakes| mistakes.to_string());
    }

    /// A good file with a piece replaced: most mistakes people make are near a good file.
    #[test]
    fn no_mutation_makes_it_panic(case in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), gone in 0usize..20, put in "([a-z:\\-\\[\\]{},&*!'\" \n\t가-힣]|\\$\\{env:TOKEN\\}){0,8}") {
        let all = cases("good");
        let config = load(case.get::<PathBuf>(&all)).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let texts: Vec<String> = config.files.iter().map(|f| fs::read_to_string(f).expect("it was just loaded")).collect();
        let mut mutated: Vec<char> = texts.concat().chars().collect();
        let from = at.index(mutated.len().max(1)).min(mutated.len());
        let to = (from + gone).min(mutated.len());
        mutated.splice(from..to, put.chars());
        let text: String = mutated.into_iter().collect();
        if let Err(mistakes) = load_texts(&text, &text) {
            let shown = mistakes.to_string();
            prop_assert!(!shown.contains("hunter2-swordfish"), "{}", shown);
        }
    }
}
