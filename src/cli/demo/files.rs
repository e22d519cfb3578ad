//! The demo's configuration: the files a user would write, in a directory of their own.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use super::{
    broker::Login,
    scenario::{DELIVERY, HEALTH, LOGIN, PORT, SERVICE, Scenario},
};
use crate::incident::Severity;

/// Where everything listens, and with which secrets.
pub struct Places {
    /// The broker.
    pub broker: SocketAddr,
    /// Who may log in there.
    pub login: Login,
    /// The web front.
    pub front: SocketAddr,
    /// The receiver of webhooks.
    pub receiver: SocketAddr,
    /// The secret that webhooks are signed with.
    pub secret: String,
}

/// The database, below the demo's directory.
pub const DATABASE: &str = "bongsu.db";

/// The mail drop, below the demo's directory.
pub const MAIL: &str = "mail";

/// Writes `config.yaml`, `checks/messenger.yaml` and the secrets they name; returns the first one's path.
pub fn write(dir: &Path, scenario: &Scenario, places: &Places) -> io::Result<PathBuf> {
    for folder in ["checks", "secrets", MAIL] {
        fs::create_dir(dir.join(folder))?;
    }
    fs::write(dir.join("secrets/probe.pw"), &places.login.password)?;
    fs::write(dir.join("secrets/hook"), &places.secret)?;
    fs::write(dir.join("checks/messenger.yaml"), checks(scenario, places))?;
    let path = dir.join("config.yaml");
    fs::write(&path, config(dir, places))?;
    Ok(path)
}

fn config(dir: &Path, places: &Places) -> String {
    // A file URL needs an absolute path, its special characters escaped.
    let mail = url::Url::from_file_path(dir.join(MAIL)).map_or_else(|()| "file:///dev/null".into(), String::from);
    format!(
        r#"# Written by `bongsu demo`; what a configuration of your own looks like.
agent:
  name: demo
  socket: bongsu.sock
store:
  path: {DATABASE}
channels:
  team-chat:
    webhook: {{ url: "http://{receiver}/hook", secret: "${{file:secrets/hook}}" }}
  mail-drop:
    email: {{ url: "{mail}", from: "bongsu <bongsu@localhost>", to: [oncall@localhost] }}
routes:
  - steps: [{{ after: 0s, to: [team-chat, mail-drop] }}]
web:
  listen: "127.0.0.1:0"
"#,
        receiver = places.receiver,
    )
}

fn checks(scenario: &Scenario, places: &Places) -> String {
    // Shares over a window make a check degraded, and keep it so until the window has passed. Where the story is
    // an outage, they would only blur its end.
    let degraded = match scenario.severity {
        Severity::Degraded => "{ window: 5s }",
        Severity::Down => "{ slow: off, loss: off, duplicates: off }",
    };
    format!(
        r#"# Written by `bongsu demo`.
service: {SERVICE}
title: Demo messenger
defaults:
  every: 1s
  timeout: 1s
  outage: {{ failures: 3, confirm_every: 1s, recoveries: 2 }}
  degraded: {degraded}
checks:
  # What most monitors look at.
  - name: {HEALTH}
    http: {{ url: "http://{front}/health", expect: {{ status: [200], body: {{ contains: ok }} }} }}
  - name: {PORT}
    tcp: {{ url: "tcp://{broker}" }}
  # What users do.
  - name: {LOGIN}
    mqtt: {{ url: "mqtt://{broker}", username: {user}, password: "${{file:../secrets/probe.pw}}" }}
  - name: {DELIVERY}
    delivery:
      slow: 200ms
      lost_after: 700ms
      send:    {{ mqtt: {{ url: "mqtt://{broker}", topic: bongsu/demo, username: {user}, password: "${{file:../secrets/probe.pw}}" }} }}
      receive: {{ mqtt: {{ url: "mqtt://{broker}", topic: bongsu/demo, username: {user}, password: "${{file:../secrets/probe.pw}}" }} }}
"#,
        front = places.front,
        broker = places.broker,
        user = places.login.username,
    )
}

#[cfg(test)]
mod tests {
    use super::{super::scenario::SCENARIOS, *};

    #[test]
    fn the_files_are_yaml_and_name_what_they_need() {
        let address = "127.0.0.1:1".parse().expect("an address");
        let places = Places {
            broker: address,
            login: Login { username: "probe".into(), password: "pw".into() },
            front: address,
            receiver: address,
            secret: "whsec_c2VjcmV0".into(),
        };
        for scenario in &SCENARIOS {
            let dir = tempfile::tempdir().expect("a directory");
            let path = write(dir.path(), scenario, &places).expect("written");
            let read = |path: PathBuf| fs::read_to_string(path).expect("a file");
            let config: serde_yaml::Value = serde_yaml::from_str(&read(path)).expect("YAML");
            assert_eq!(config["store"]["path"], DATABASE);
            let checks = read(dir.path().join("checks/messenger.yaml"));
            let checks: serde_yaml::Value = serde_yaml::from_str(&checks).expect("YAML");
            let names: Vec<_> = checks["checks"].as_sequence().expect("a list").iter().map(|c| &c["name"]).collect();
            assert_eq!(names, [HEALTH, PORT, LOGIN, DELIVERY]);
            for secret in ["secrets/probe.pw", "secrets/hook"] {
                assert!(!read(dir.path().join(secret)).is_empty());
            }
        }
    }
}
