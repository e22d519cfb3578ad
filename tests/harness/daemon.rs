//! The binary as a user runs it: a directory with a configuration, the daemon, and commands beside it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tempfile::TempDir;

/// The binary under test.
pub const BONGSU: &str = env!("CARGO_BIN_EXE_bongsu");

/// Longest wait of a test for something that must happen; far beyond what it takes on an idle machine.
pub const WAIT_MAX: Duration = Duration::from_secs(90);

/// A directory with a configuration.
pub struct Place {
    /// The directory.
    pub dir: TempDir,
}

impl Place {
    /// Writes `config.yaml` (socket and database beside it are added) and one file of checks.
    pub fn new(config: &str, checks: &str) -> Self {
        Self::with_agent("", config, checks)
    }

    /// The same with further options of the agent, such as `, nameservers: [192.0.2.1]`.
    pub fn with_agent(agent: &str, config: &str, checks: &str) -> Self {
        Self::within(super::scratch(), agent, config, checks)
    }

    /// The same in memory, where the machine has such a place: for what is about the order of writes, not about disks.
    pub fn in_memory(config: &str, checks: &str) -> Self {
        Self::within(super::scratch_in_memory(), "", config, checks)
    }

    fn within(dir: TempDir, agent: &str, config: &str, checks: &str) -> Self {
        let own = format!("agent: {{ name: test-1, socket: bongsu.sock{agent} }}\nstore: {{ path: bongsu.db }}\n");
        super::write(dir.path(), "config.yaml", &format!("{own}{config}"));
        super::write(dir.path(), "checks/all.yaml", checks);
        Self { dir }
    }

    /// The configuration's path.
    pub fn config(&self) -> PathBuf {
        self.dir.path().join("config.yaml")
    }

    /// Starts the daemon and waits until it says that it watches.
    pub fn start(&self) -> Daemon {
        self.start_with(&[])
    }

    /// The same with further variables in its environment.
    pub fn start_with(&self, variables: &[(&str, &str)]) -> Daemon {
        let daemon = self.spawn_with(variables);
        until("the daemon watches", || {
            assert!(daemon.alive(), "the daemon ended:\n{}", daemon.log());
            daemon.log().contains("watching")
        });
        daemon
    }

    /// Starts the daemon and does not wait.
    pub fn spawn(&self) -> Daemon {
        self.spawn_with(&[])
    }

    /// The same with these variables in its environment.
    pub fn spawn_with(&self, variables: &[(&str, &str)]) -> Daemon {
        self.spawn_under(&[], variables)
    }

    /// The same as the last words of another command, which must become the daemon itself (`nice -n 19`).
    pub fn spawn_under(&self, command: &[&str], variables: &[(&str, &str)]) -> Daemon {
        let words: Vec<&str> = command.iter().copied().chain([BONGSU]).collect();
        let log = self.dir.path().join("daemon.log");
        let output = fs::File::create(&log).expect("own directory");
        let child = Command::new(words[0])
            .args(&words[1..])
            .args(["run", "--config"])
            .arg(self.config())
            .env_remove("RUST_LOG")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a file can be shared"))
            .stderr(output)
            .spawn()
            .expect("the binary was built");
        Daemon { child: std::cell::RefCell::new(child), log }
    }

    /// Runs a command against this configuration.
    pub fn run(&self, args: &[&str]) -> Output {
        Command::new(BONGSU)
            .args(args)
            .arg("--config")
            .arg(self.config())
            .stdin(Stdio::null())
            .output()
            .expect("the binary was built")
    }

    /// Runs a command with `--json` and reads its output.
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let output = self.run(&[args, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
            panic!(
                "{args:?} gives no JSON ({e}): {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            )
        })
    }

    /// One column of a query on the database, as text.
    pub fn query(&self, sql: &str) -> Vec<String> {
        let Ok(database) = Connection::open(self.dir.path().join("bongsu.db")) else { return Vec::new() };
        let _ = database.busy_timeout(Duration::from_secs(5));
        let Ok(mut statement) = database.prepare(sql) else { return Vec::new() };
        let rows = statement.query_map([], |row| {
            Ok(match row.get::<_, rusqlite::types::Value>(0)? {
                rusqlite::types::Value::Null => String::new(),
                rusqlite::types::Value::Integer(n) => n.to_string(),
                rusqlite::types::Value::Real(n) => n.to_string(),
                rusqlite::types::Value::Text(t) => t,
                rusqlite::types::Value::Blob(_) => "blob".into(),
            })
        });
        rows.map(|rows| rows.flatten().collect()).unwrap_or_default()
    }
}

/// A running daemon, killed when dropped.
pub struct Daemon {
    child: std::cell::RefCell<Child>,
    log: PathBuf,
}

impl Daemon {
    /// Whether it still runs.
    pub fn alive(&self) -> bool {
        self.child.borrow_mut().try_wait().expect("own child").is_none()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.borrow().id()
    }

    /// SIGKILL, and its end.
    pub fn kill(&self) {
        let mut child = self.child.borrow_mut();
        let _ = child.kill();
        let _ = child.wait();
    }

    /// A signal by name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status();
        assert!(status.expect("kill exists").success(), "kill -{name}");
    }

    /// SIGTERM; waits for the end and gives its exit code.
    pub fn stop(&self) -> Option<i32> {
        self.signal("TERM");
        until("the daemon ends", || !self.alive());
        self.code()
    }

    /// Its exit code; waits for its end.
    pub fn code(&self) -> Option<i32> {
        self.child.borrow_mut().wait().expect("own child").code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until `done`, and fails the test by `what` otherwise.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < WAIT_MAX, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// All files of a drop folder or a maildir's `new`, as text.
pub fn mails(dir: &Path) -> Vec<String> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).filter(|p| p.is_file()).collect();
    files.sort();
    files.iter().map(|p| fs::read_to_string(p).unwrap_or_default()).collect()
}
