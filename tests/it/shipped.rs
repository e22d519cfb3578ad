//! What is shipped works as it stands: the ready checks are polite, the templates load, `config.yaml` runs.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use bongsu::{config, schedule::Schedule};
use serde_yaml::Value;
use url::Url;

use crate::{
    config::Validators,
    documents::Generous,
    harness::{
        self,
        daemon::{Place, mails},
    },
};

/// What a shipped check may ask: a host, and the paths on it (none: any). The operators' own documents name these
/// hosts, or public third-party sources, which the files then say.
const ALLOWED: &[(&str, &[&str])] = &[
    ("kauth.kakao.com", &[]),
    ("kapi.kakao.com", &[]),
    ("accounts.kakao.com", &[]),
    ("dapi.kakao.com", &[]),
    ("apps.kakao.com", &[]),
    ("talk-apps.kakao.com", &[]),
    ("booking-loco.kakao.com", &["tls"]),
    ("katalk.kakao.com", &[]),
    ("up-m.talk.kakao.com", &[]),
    ("up-v.talk.kakao.com", &[]),
    ("up-a.talk.kakao.com", &[]),
    ("api.line.me", &[]),
    ("api-data.line.me", &[]),
    ("api.line-status.info", &[]),
    ("access.line.me", &["/.well-known/openid-configuration"]),
    ("www.nate.com", &[]),
    ("nateonweb.nate.com", &[]),
    ("slack.com", &["/api/api.test"]),
    ("api.telegram.org", &[]),
    ("discord.com", &["/api/v10/gateway"]),
    ("matrix.org", &["/_matrix/client/versions"]),
];

/// No public service is asked more often than this as long as it is well.
const EVERY_MIN: Duration = Duration::from_secs(60);

/// Nor more often than this while a failure is being confirmed.
const CONFIRM_EVERY_MIN: Duration = Duration::from_secs(15);

/// Keys of a protocol's options that a polite check has no need of.
const POLITE_KEYS: [&str; 4] = ["url", "redirects", "expect", "days"];

/// The files of a folder with this ending.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(folder).expect("own repository").map(|entry| entry.expect("readable").path());
    let mut files: Vec<PathBuf> = all.filter(|path| path.to_string_lossy().ends_with(ending)).collect();
    files.sort();
    files
}

fn load(path: &Path) -> config::Config {
    let _ = rustls::crypto::ring::default_provider().install_default();
    config::load(path, &Generous).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

#[test]
fn shipped_checks_are_polite() {
    let config = load(Path::new("config.yaml"));
    assert!(config.checks.len() >= 20, "only {} checks", config.checks.len());
    for check in &config.checks {
        let Schedule::Every(every) = check.schedule else { panic!("{} is not asked at an interval", check.name) };
        assert!(every >= EVERY_MIN, "{} is asked every {every:?}", check.name);
        let confirm_every = check.thresholds.confirm_every;
        assert!(confirm_every >= CONFIRM_EVERY_MIN, "{} is confirmed every {confirm_every:?}", check.name);
    }
}

#[test]
fn shipped_checks_ask_known_hosts_plainly() {
    let mut asked = 0;
    for file in files("checks", ".yaml") {
        let text = fs::read_to_string(&file).expect("own repository");
        let value: Value = serde_yaml::from_str(&text).expect("well-formed YAML");
        for check in value["checks"].as_sequence().expect("checks") {
            let protocol = ["http", "tls"].into_iter().find(|protocol| check.get(protocol).is_some());
            let protocol = protocol.unwrap_or_else(|| panic!("{}: {check:?} is no plain request", file.display()));
            let options = check[protocol].as_mapping().expect("options");
            for key in options.keys().filter_map(Value::as_str) {
                assert!(POLITE_KEYS.contains(&key), "{}: {key}", file.display());
            }
            let url = check[protocol]["url"].as_str().expect("a URL");
            let url = Url::parse(url).unwrap_or_else(|e| panic!("{url}: {e}"));
            let host = url.host_str().unwrap_or_default();
            let (_, paths) = ALLOWED.iter().find(|(allowed, _)| *allowed == host).unwrap_or_else(|| {
                panic!("{}: {host} is not among the hosts that may be watched", file.display());
            });
            assert!(paths.is_empty() || paths.contains(&url.path()) || paths.contains(&protocol), "{url}");
            let plain = ["https", "tls"].contains(&url.scheme()) && url.port().is_none_or(|port| port == 443);
            assert!(plain && url.username().is_empty() && url.query().is_none(), "{url}");
            asked += 1;
        }
    }
    assert_eq!(asked, load(Path::new("config.yaml")).checks.len());
}

#[test]
fn templates_load_and_fit_the_schema() {
    let validators = Validators::new();
    let templates = files("checks/templates", ".yaml.txt");
    assert!(templates.len() >= 3, "{templates:?}");
    for template in templates {
        let dir = harness::scratch();
        let text = fs::read_to_string(&template).expect("own repository");
        harness::write(dir.path(), "config.yaml", "");
        let name = template.file_stem().and_then(|stem| stem.to_str()).expect("a name ending in .yaml");
        harness::write(dir.path(), &format!("checks/{name}"), &text);
        assert!(load(dir.path()).summary().checks > 0, "{}", template.display());
        assert_eq!(validators.errors(false, &text), Vec::<String>::new(), "{}", template.display());
    }
}

/// The shipped configuration in a directory of its own. Its name server is one that nobody runs, so that no test
/// asks the services that are shipped checks of.
fn place() -> Place {
    let dir = harness::scratch();
    let text = fs::read_to_string("config.yaml").expect("own repository");
    let commented = text.lines().find(|line| line.contains("# nameservers:")).expect("an example of name servers");
    let nobody = format!("  nameservers: [\"127.0.0.1:{}\"]", harness::free_udp_port());
    harness::write(dir.path(), "config.yaml", &text.replace(commented, &nobody));
    for file in files("checks", ".yaml") {
        let text = fs::read_to_string(&file).expect("own repository");
        harness::write(dir.path(), &file.to_string_lossy(), &text);
    }
    Place { dir }
}

#[test]
fn the_shipped_configuration_runs_as_it_stands() {
    let place = place();
    let daemon = place.start();
    let status = place.json(&["status"]);
    let checks = load(Path::new("config.yaml")).checks.len();
    assert_eq!(status["checks"].as_array().map(Vec::len), Some(checks), "{status}");
    let tested = place.run(&["alert", "test", "drop"]);
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stderr));
    let mails = mails(&place.dir.path().join("mail"));
    assert_eq!(mails.len(), 1, "one mail beside the configuration");
    assert!(mails[0].contains("root@localhost"), "{}", mails[0]);
    assert!(place.dir.path().join("bongsu.db").exists());
    assert_eq!(daemon.stop(), Some(0));
}
