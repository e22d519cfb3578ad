//! The binary as a user runs it: arguments in, standard output, standard error and exit code out.

use std::{
    io::{Read, Write},
    net::TcpListener,
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness;

/// Longest any command here may take on a busy machine.
const COMMAND_MAX: Duration = Duration::from_secs(60);

/// What one run showed.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("no JSON ({e}): {}\n{}", self.out, self.err))
    }
}

/// The binary in a directory of its own, with nothing of this process's environment that it reads.
fn bongsu(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bongsu"));
    command.args(args).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in ["BONGSU_CONFIG", "NO_COLOR", "RUST_LOG", "JOURNAL_STREAM", "STATE_DIRECTORY"] {
        command.env_remove(name);
    }
    command
}

fn finish(mut command: Command) -> Ran {
    let mut child = command.spawn().expect("the binary starts");
    let (mut out, mut err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    // Both pipes are read meanwhile, so that a talkative command does not wait for us.
    let out = thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).map(|_| text)
    });
    let err = thread::spawn(move || {
        let mut text = String::new();
        err.read_to_string(&mut text).map(|_| text)
    });
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("own child") {
            break status;
        }
        if begun.elapsed() > COMMAND_MAX {
            let _ = child.kill();
            panic!("{command:?} did not end within {COMMAND_MAX:?}");
        }
        thread::sleep(Duration::from_millis(10));
    };
    let text = |reader: thread::JoinHandle<std::io::Result<String>>| {
        reader.join().expect("the reader does not panic").expect("UTF-8")
    };
    Ran { code: status.code().expect("ended by itself"), out: text(out), err: text(err) }
}

fn run(dir: &Path, args: &[&str]) -> Ran {
    finish(bongsu(dir, args))
}

/// A listener that greets whoever connects.
fn greeter(line: &'static str) -> (u16, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = listener.local_addr().expect("bound").port();
    let serving = thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.write_all(line.as_bytes());
        }
    });
    (port, serving)
}

/// A configuration with two checks of one service: one that works, one whose port nobody listens on.
fn two_checks(up: u16) -> TempDir {
    let down = harness::free_port();
    let dir = harness::scratch();
    harness::write(dir.path(), "config.yaml", "agent: { name: test-1 }\nstore: { path: db/bongsu.db }\n");
    let checks = format!(
        "service: 채팅\nchecks:\n  - name: up\n    tcp: {{ url: \"tcp://127.0.0.1:{up}\" }}\n  - name: down\n    tcp: {{ url: \"tcp://127.0.0.1:{down}\" }}\n"
    );
    harness::write(dir.path(), "checks/chat.yaml", &checks);
    dir
}

#[test]
fn every_command_has_its_help() {
    let dir = harness::scratch();
    let commands: &[&[&str]] = &[
        &[],
        &["run"],
        &["demo"],
        &["validate"],
        &["probe"],
        &["status"],
        &["incidents"],
        &["incidents", "list"],
        &["incidents", "show"],
        &["incidents", "ack"],
        &["incidents", "note"],
        &["alert"],
        &["alert", "test"],
        &["outbox"],
        &["db"],
        &["db", "check"],
        &["db", "backup"],
        &["db", "export"],
        &["protocols"],
        &["schema"],
    ];
    for command in commands {
        let mut args = command.to_vec();
        args.push("--help");
        let ran = run(dir.path(), &args);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}");
        for part in ["Usage: bongsu", "Examples:", "--config", "--no-color"] {
            assert!(ran.out.contains(part), "{args:?} lacks {part}:\n{}", ran.out);
        }
        assert!(!ran.out.contains('\x1b'), "{args:?}: colours in a pipe");
    }
    let version = run(dir.path(), &["--version"]);
    assert_eq!((version.code, version.out.as_str()), (0, concat!("bongsu ", env!("CARGO_PKG_VERSION"), "\n")));
}

#[test]
fn bad_usage_and_bad_configuration_are_2() {
    let dir = harness::scratch();
    let table: &[(&[&str], &str)] = &[
        (&[], "Usage: bongsu"),
        (&["nonsense"], "unrecognized subcommand"),
        (&["probe"], "required"),
        (&["probe", "--all", "mail/in"], "cannot be used with"),
        (&["probe", "gopher://x"], "unknown scheme `gopher`"),
        (&["probe", "tcp://127.0.0.1:1", "--timeout", "5"], "unit"),
        (&["probe", "tcp://127.0.0.1:1", "--timeout", "0s"], "no time"),
        (&["probe", "tcp://127.0.0.1:1", "--ip", "v5"], "ipv4"),
        (&["probe", "tcp://127.0.0.1:1", "--parallel", "0"], "--parallel"),
        (&["probe", "mail/in"], "config.yaml"),
        (&["incidents", "show", "x"], "number is expected"),
        (&["incidents", "show"], "<ID>"),
        (&["incidents", "--limit", "0"], "--limit"),
        (&["alert", "test", "a b"], "a name has letters"),
        (&["protocols", "htpp"], "did you mean `http`?"),
        (&["schema", "mail"], "possible values"),
        (&["validate", "absent.yaml"], "absent.yaml"),
        (&["status", "--config", "absent.yaml"], "absent.yaml"),
        (&["run", "--config", "absent.yaml"], "absent.yaml"),
    ];
    for (args, part) in table {
        let mut command = bongsu(dir.path(), args);
        // Whatever is installed on this machine is not what is tested.
        if !args.contains(&"--config") {
            command.env("BONGSU_CONFIG", dir.path().join("config.yaml"));
        }
        let ran = finish(command);
        assert_eq!(ran.code, 2, "{args:?}: {}{}", ran.out, ran.err);
        assert_eq!(ran.out, "", "{args:?}");
        assert!(ran.err.contains(part), "{args:?} does not say `{part}`:\n{}", ran.err);
    }
}

#[test]
fn validate_tells_what_is_there_or_every_mistake() {
    let dir = two_checks(9);
    let good = run(dir.path(), &["validate"]);
    assert_eq!(
        (good.code, good.out.as_str()),
        (0, "ok: 2 checks in 1 service, 0 channels, 0 routes\n"),
        "{}",
        good.err
    );
    assert!(good.err.contains("warning: there are no channels"), "{}", good.err);
    let json = run(dir.path(), &["validate", "config.yaml", "--json"]);
    assert_eq!((json.code, &json.json()["ok"], &json.json()["checks"]), (0, &true.into(), &2.into()));
    assert_eq!(json.err, "", "quiet in a pipe");

    let bad = "service: 채팅\nchecks:\n  - name: up\n    tpc: { url: \"tcp://127.0.0.1:9\" }\n  - name: up\n    every: 5\n    tcp: { url: \"tcp://127.0.0.1:9\" }\n";
    harness::write(dir.path(), "checks/chat.yaml", bad);
    let ran = run(dir.path(), &["validate"]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    for part in [
        "checks/chat.yaml:4:5: unknown protocol",
        "checks/chat.yaml:5:11: duplicate",
        "checks/chat.yaml:6:12",
        "mistakes in",
    ] {
        assert!(ran.err.contains(part), "{part}:\n{}", ran.err);
    }
    let json = run(dir.path(), &["validate", "--json"]);
    assert_eq!((json.code, &json.json()["ok"]), (2, &false.into()));
    let mistakes = json.json()["mistakes"].as_array().map_or(0, Vec::len);
    assert!(mistakes >= 2, "{}", json.out);
}

#[test]
fn the_configuration_is_found_where_it_is_said_to_be() {
    let dir = two_checks(9);
    let elsewhere = harness::scratch();
    let path = dir.path().join("config.yaml");
    let text = path.to_str().expect("UTF-8");
    let told = "ok: 2 checks in 1 service, 0 channels, 0 routes\n";
    assert_eq!(run(elsewhere.path(), &["--config", text, "validate"]).out, told);
    assert_eq!(run(elsewhere.path(), &["validate", "--config", text]).out, told);
    assert_eq!(run(elsewhere.path(), &["validate", text]).out, told);
    assert_eq!(run(dir.path(), &["validate"]).out, told);
    let mut command = bongsu(elsewhere.path(), &["validate"]);
    command.env("BONGSU_CONFIG", &path);
    assert_eq!(finish(command).out, told);
}

#[test]
fn protocols_and_schemas_are_printed() {
    let dir = harness::scratch();
    let all = run(dir.path(), &["protocols", "--json"]).json();
    let names: Vec<&str> = all.as_array().expect("a list").iter().filter_map(|p| p["name"].as_str()).collect();
    for name in ["http", "tcp", "tls", "dns", "mqtt"] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
        let one = run(dir.path(), &["protocols", name]);
        assert_eq!((one.code, one.err.as_str()), (0, ""), "{name}");
        assert!(one.out.contains("example") && one.out.contains("options to probe"), "{}", one.out);
        let json = run(dir.path(), &["protocols", name, "--json"]).json();
        let options = json["abilities"]["probe"]["options"].as_array().expect("a list");
        assert!(!options.is_empty(), "{json:#}");
        assert!(options.iter().all(|o| o["description"] != "" && o["type"] != ""), "{json:#}");
    }
    let list = run(dir.path(), &["protocols"]);
    assert!(names.iter().all(|n| list.out.contains(n)), "{}", list.out);
    for args in [&["schema"][..], &["schema", "config"], &["schema", "checks"]] {
        let schema = run(dir.path(), args).json();
        assert!(schema["$schema"].is_string(), "{args:?}");
        jsonschema::draft202012::meta::validate(&schema).unwrap_or_else(|e| panic!("{args:?}: {e}"));
    }
}

#[test]
fn a_probe_shows_the_phases_and_its_verdict_is_the_exit_code() {
    let (port, _serving) = greeter("220 welcome\r\n");
    let dir = harness::scratch();
    let url = format!("tcp://127.0.0.1:{port}");
    let ok = run(dir.path(), &["probe", &url]);
    assert_eq!((ok.code, ok.err.as_str()), (0, ""), "{}", ok.out);
    assert!(ok.out.starts_with("ok ") && ok.out.contains("connect") && ok.out.contains('█'), "{}", ok.out);
    assert!(ok.out.contains(&format!("address      127.0.0.1:{port}")), "{}", ok.out);

    let json = run(dir.path(), &["probe", &url, "--json", "--explain"]).json();
    assert_eq!(json["outcome"], "ok");
    let phases: Vec<&Value> = json["phases"].as_array().into_iter().flatten().map(|p| &p["name"]).collect();
    assert!(phases.contains(&&"connect".into()), "{json:#}");
    assert!(json["transcript"].is_array(), "{json:#}");

    let closed = format!("tcp://127.0.0.1:{}", harness::free_port());
    let failed = run(dir.path(), &["probe", &closed]);
    assert_eq!(failed.code, 1, "{}", failed.out);
    assert!(failed.out.starts_with("failed ") && failed.out.contains("(refused)"), "{}", failed.out);

    let two = run(dir.path(), &["probe", &url, &closed, "--json"]);
    assert_eq!((two.code, two.json().as_array().map(Vec::len)), (1, Some(2)), "{}", two.out);
}

#[test]
fn checks_are_probed_by_name_pattern_and_all_together() {
    let (port, _serving) = greeter("hello\n");
    let dir = two_checks(port);
    let up = run(dir.path(), &["probe", "채팅/up"]);
    assert_eq!(up.code, 0, "{}{}", up.out, up.err);
    assert!(up.out.contains("채팅/up"), "{}", up.out);
    assert_eq!(run(dir.path(), &["probe", "채팅/up", "--json"]).json()["vantage"], "test-1");
    for args in [&["probe", "--all"][..], &["probe", "채팅"], &["probe", "*"], &["probe", "채팅/*", "--parallel", "1"]]
    {
        let all = run(dir.path(), args);
        assert_eq!((all.code, all.err.as_str()), (1, ""), "{args:?}: {}", all.out);
        let lines: Vec<&str> = all.out.lines().collect();
        assert!(lines[0].starts_with("OUTCOME  CHECK"), "{args:?}: {}", all.out);
        assert!(lines[1].starts_with("failed   채팅/down") && lines[2].starts_with("ok       채팅/up"), "{}", all.out);
        assert!(lines[3].starts_with("2 checks: 1 ok, 1 failed, in "), "{}", all.out);
    }
    let json = run(dir.path(), &["probe", "--all", "--json"]);
    assert_eq!((json.code, json.json().as_array().map(Vec::len)), (1, Some(2)));
    let unknown = run(dir.path(), &["probe", "채팅/upp"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.err.contains("did you mean `채팅/up`?"), "{}", unknown.err);
}

#[test]
fn a_deadline_ends_a_probe_of_a_silent_server() {
    // Accepts into its backlog and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let url = format!("http://{}/", silent.local_addr().expect("bound"));
    let dir = harness::scratch();
    let begun = Instant::now();
    let ran = run(dir.path(), &["probe", &url, "--timeout", "300ms"]);
    assert_eq!(ran.code, 1, "{}", ran.out);
    assert!(ran.out.contains("(timeout)"), "{}", ran.out);
    assert!(begun.elapsed() < Duration::from_secs(20), "the deadline held");
}

#[test]
fn a_password_in_a_url_is_never_shown() {
    let (port, _serving) = greeter("nonsense\r\n");
    let dir = harness::scratch();
    let url = format!("mqtt://probe:hunter2%2B@127.0.0.1:{port}");
    for args in [&["probe", &url, "--explain"][..], &["probe", &url, "--explain", "--json"]] {
        let ran = run(dir.path(), args);
        assert_eq!(ran.code, 1, "{}{}", ran.out, ran.err);
        for secret in ["hunter2%2B", "hunter2+"] {
            assert!(!ran.out.contains(secret) && !ran.err.contains(secret), "{args:?}:\n{}{}", ran.out, ran.err);
        }
    }
}

#[test]
fn a_reader_who_leaves_causes_no_error() {
    let dir = harness::scratch();
    for args in [&["schema"][..], &["protocols", "--json"], &["--help"], &["protocols"]] {
        let mut child = bongsu(dir.path(), args).spawn().expect("the binary starts");
        // Nobody reads: the first write meets a closed pipe.
        drop(child.stdout.take());
        let ran = child.wait_with_output().expect("own child");
        let err = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!((ran.status.code(), err.as_str()), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn a_full_disk_under_standard_output_is_an_error() {
    let dir = harness::scratch();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let mut command = bongsu(dir.path(), &["schema"]);
    command.stdout(full);
    let ran = command.output().expect("the binary starts");
    assert_eq!(ran.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("cannot write"));
}

#[test]
fn without_a_daemon_commands_say_so() {
    let dir = two_checks(9);
    for args in [&["incidents", "ack", "7"][..], &["incidents", "note", "7", "x"]] {
        let ran = run(dir.path(), args);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{args:?}");
        assert!(ran.err.contains("daemon is not running") && ran.err.contains("bongsu run"), "{args:?}: {}", ran.err);
    }
    for args in [&["status"][..], &["incidents"], &["incidents", "show", "7"], &["outbox"]] {
        let ran = run(dir.path(), args);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{args:?}");
        assert!(ran.err.contains("daemon is not running") && ran.err.contains("no database"), "{args:?}: {}", ran.err);
    }
    let ran = run(dir.path(), &["alert", "test", "ops"]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    assert!(ran.err.contains("there is no channel `ops`"), "{}", ran.err);
}

#[test]
fn a_secret_only_the_daemon_may_read_keeps_nobody_from_asking() {
    let dir = two_checks(9);
    let config = "agent: { name: test-1 }\nstore: { path: db/bongsu.db }\nchannels:\n  hook: { webhook: { url: \"${credential:hook}\" } }\n";
    harness::write(dir.path(), "config.yaml", config);
    let ran = run(dir.path(), &["incidents", "ack", "7"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.contains("daemon is not running"), "{}", ran.err);
    assert_eq!(run(dir.path(), &["validate"]).code, 2);
}

#[test]
fn the_store_is_read_without_a_daemon() {
    use bongsu::{
        decide::Commit,
        observation::{Kind, Observation, Outcome, Phase, Reason},
        store::Writer,
        value::Timestamp,
    };
    let dir = two_checks(9);
    std::fs::create_dir(dir.path().join("db")).expect("own directory");
    let at = Timestamp::from_millis(1_795_000_000_000);
    let mut writer = Writer::open(&dir.path().join("db/bongsu.db"), at).expect("a new database");
    let mut observation = Observation::new(at, Outcome::Failed, Duration::from_millis(12));
    observation.reason = Some(Reason::new(Phase::Connect, Kind::Refused, "connection refused"));
    let check = "채팅/down".parse().expect("a name");
    writer.commit(&[Commit { observation: Some((check, observation)), ..Commit::default() }]).expect("committed");
    drop(writer);

    let status = run(dir.path(), &["status"]);
    assert_eq!(status.code, 0, "{}", status.err);
    let told = format!("daemon not running; as of {}\n", at.to_seconds_text());
    assert_eq!(status.err, told);
    assert!(status.out.contains("채팅/down") && status.out.contains("connect: connection refused"), "{}", status.out);
    assert_eq!(run(dir.path(), &["status", "--fail"]).code, 1, "nobody looks");
    let json = run(dir.path(), &["status", "--json"]).json();
    assert_eq!((&json["daemon"], &json["checks"][0]["last"]["outcome"]), (&false.into(), &"failed".into()));

    let incidents = run(dir.path(), &["incidents"]);
    assert_eq!((incidents.code, incidents.out.as_str(), incidents.err.as_str()), (0, "no incidents\n", told.as_str()));
    assert_eq!(run(dir.path(), &["incidents", "list", "--json"]).json(), Value::Array(vec![]));
    let absent = run(dir.path(), &["incidents", "show", "#7"]);
    assert_eq!(absent.code, 1);
    assert!(absent.err.contains("there is no incident #7"), "{}", absent.err);
    let outbox = run(dir.path(), &["outbox"]);
    assert_eq!((outbox.code, outbox.out.as_str()), (0, "no messages\n"));
    assert_eq!(run(dir.path(), &["outbox", "--json"]).json()["counts"]["pending"], 0);
}

#[test]
fn a_channel_is_tried_without_a_daemon() {
    let dir = two_checks(9);
    let config = "agent: { name: test-1 }\nstore: { path: db/bongsu.db }\nchannels:\n  drop: { email: { url: \"file:mail\", from: a@example.com, to: [b@example.com] } }\n  gone: { webhook: { url: \"http://127.0.0.1:1/x\" } }\n";
    harness::write(dir.path(), "config.yaml", config);
    std::fs::create_dir(dir.path().join("mail")).expect("own directory");
    let ran = run(dir.path(), &["alert", "test", "drop"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    assert!(ran.out.starts_with("delivered  drop"), "{}", ran.out);
    let mails: Vec<_> = std::fs::read_dir(dir.path().join("mail")).expect("own directory").collect();
    assert_eq!(mails.len(), 1, "{mails:?}");
    let json = run(dir.path(), &["alert", "test", "gone", "--json"]);
    assert_eq!(json.code, 1, "{}", json.out);
    assert_eq!((&json.json()["delivered"], &json.json()["through"]), (&false.into(), &"command".into()));
    let slip = run(dir.path(), &["alert", "test", "dorp"]);
    assert_eq!(slip.code, 2);
    assert!(slip.err.contains("did you mean `drop`?"), "{}", slip.err);
}

/// A daemon of the test's own, ended when the test drops it.
struct Daemon(std::process::Child);

impl Daemon {
    fn start(dir: &Path) -> Self {
        let mut command = bongsu(dir, &["run"]);
        let log = std::fs::File::create(dir.join("run.log")).expect("own directory");
        command.stdout(Stdio::null()).stderr(log);
        Self(command.spawn().expect("the binary starts"))
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.0.id().to_string()]).status();
        assert!(sent.expect("kill exists").success());
    }

    fn end(&mut self) -> Option<i32> {
        self.signal("TERM");
        let begun = Instant::now();
        while begun.elapsed() < COMMAND_MAX {
            if let Some(status) = self.0.try_wait().expect("own child") {
                return status.code();
            }
            thread::sleep(Duration::from_millis(20));
        }
        None
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a command again and again until its answer is as wanted.
fn until(dir: &Path, args: &[&str], wanted: impl Fn(&Ran) -> bool) -> Ran {
    let begun = Instant::now();
    loop {
        let ran = run(dir, args);
        if wanted(&ran) {
            return ran;
        }
        assert!(begun.elapsed() < COMMAND_MAX, "{args:?}: {}{}", ran.out, ran.err);
        thread::sleep(Duration::from_millis(100));
    }
}

/// What docs/metrics.md has curl ask for.
fn metrics(socket: &Path) -> String {
    let mut stream = UnixStream::connect(socket).expect("the daemon listens");
    stream.write_all(b"GET /v1/metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers and closes");
    answer
}

#[test]
fn a_daemon_answers_its_commands() {
    let (port, _serving) = greeter("hello\n");
    let dir = two_checks(port);
    let config = "agent: { name: test-1, socket: bongsu.sock }\nstore: { path: db/bongsu.db }\n\
                  defaults: { every: 1s, outage: { failures: 2, confirm_every: 1s } }\n\
                  channels:\n  drop: { email: { url: \"file:mail\", from: a@example.com, to: [b@example.com] } }\n";
    harness::write(dir.path(), "config.yaml", config);
    for name in ["db", "mail"] {
        std::fs::create_dir(dir.path().join(name)).expect("own directory");
    }
    let dir = dir.path();
    let mut daemon = Daemon::start(dir);
    let status = until(dir, &["status"], |ran| ran.out.contains("#1"));
    assert_eq!((status.code, status.err.as_str()), (0, ""));
    let head = format!("bongsu {} on test-1, up ", env!("CARGO_PKG_VERSION"));
    assert!(status.out.starts_with(&head) && status.out.contains("2 checks: 1 up, 1 down"), "{}", status.out);
    assert_eq!(run(dir, &["status", "--fail"]).code, 1);
    let json = run(dir, &["status", "--json"]).json();
    assert_eq!(
        (&json["daemon"], &json["counts"]["down"], &json["incidents"][0]["id"]),
        (&true.into(), &1.into(), &1.into())
    );
    assert!(json["metrics"]["probes"]["failed"].as_u64() >= Some(2), "{json:#}");

    let by = ["--by", "김"];
    assert_eq!(
        run(dir, &[&["incidents", "ack", "1", "--note", "보고 있음"][..], &by].concat()).out,
        "#1 acknowledged\n"
    );
    assert_eq!(run(dir, &[&["incidents", "note", "1", "provider called"][..], &by].concat()).out, "noted on #1\n");
    let unknown = run(dir, &["incidents", "ack", "99"]);
    assert_eq!(unknown.code, 1);
    assert!(unknown.err.contains("99"), "{}", unknown.err);
    let show = run(dir, &["incidents", "show", "1"]).out;
    for part in ["taken by   김", "보고 있음", "provider called", "채팅/down", "connection refused"] {
        assert!(show.contains(part), "{part}:\n{show}");
    }
    let tested = run(dir, &["alert", "test", "drop", "--json"]);
    assert_eq!((tested.code, &tested.json()["through"]), (0, &"daemon".into()), "{}", tested.err);
    until(dir, &["outbox"], |ran| ran.out.contains("delivered"));
    let second = run(dir, &["run"]);
    assert_eq!(second.code, 1, "two daemons on one database: {}", second.err);

    let checks = std::fs::read_to_string(dir.join("checks/chat.yaml")).expect("written above");
    harness::write(dir, "checks/chat.yaml", &checks.replace("tcp:", "tpc:"));
    daemon.signal("HUP");
    let refused = until(dir, &["status"], |ran| ran.out.contains("reload was refused"));
    assert!(refused.out.contains("2 checks: 1 up, 1 down"), "{}", refused.out);
    let metrics = metrics(&dir.join("bongsu.sock"));
    for line in ["bongsu_reloads_total{result=\"accepted\"} 0", "bongsu_reloads_total{result=\"refused\"} 1"] {
        assert!(metrics.lines().any(|l| l == line), "{metrics}");
    }
    assert_eq!(daemon.end(), Some(0));
    let log = std::fs::read_to_string(dir.join("run.log")).expect("own file");
    assert!(log.contains("tpc"), "{log}");
    let after = run(dir, &["status"]);
    assert!(
        after.err.starts_with("daemon not running; as of ") && after.out.contains("#1"),
        "{}{}",
        after.out,
        after.err
    );
}

#[test]
fn logs_go_to_standard_error_and_a_bad_filter_is_told() {
    let dir = harness::scratch();
    let mut command = bongsu(dir.path(), &["run", "--config", "absent.yaml"]);
    command.env("RUST_LOG", "bongsu=loud");
    let ran = finish(command);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    assert!(ran.err.contains("RUST_LOG=`bongsu=loud`"), "{}", ran.err);
}
