//! What the tests start for themselves: free ports, scratch directories, certificates and real servers, each ended
//! by its own process id when the test drops it.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod broker;
pub mod certs;
pub mod daemon;
pub mod dovecot;
pub mod hostile;
pub mod http;
pub mod lmtp_proxy;
pub mod mangler;
pub mod mosquitto;
pub mod mqtt_proxy;
pub mod policy;
pub mod polite;
pub mod ports;
pub mod postfix;
pub mod probing;
pub mod proxy;
pub mod roles;
pub mod websocket;

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bongsu::{
    check::{Ask, Context, Families, Settings},
    options::Options,
    protocol::{Net, wire::NetOptions},
};
pub use ports::{free_port, free_udp_port};
use tempfile::TempDir;

/// Longest a server may take to open its port on a busy machine.
const START_MAX: Duration = Duration::from_secs(60);

/// A scratch directory that servers which drop their privileges may read and write.
pub fn scratch() -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::Builder::new().prefix("bongsu-test-").tempdir().expect("a scratch directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("own directory");
    dir
}

/// The same in memory, where the machine has such a place: a mail server waits for the disk at each step of each mail.
pub fn scratch_in_memory() -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let memory = Path::new("/dev/shm");
    if !memory.is_dir() {
        return scratch();
    }
    let dir = tempfile::Builder::new().prefix("bongsu-test-").tempdir_in(memory).expect("a scratch directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("own directory");
    dir
}

/// What a program's environment must hold for its wall clock to be off by so much (`+1d`, `-90m`); its monotonic clock
/// stays right. Needs the Debian package libfaketime.
pub fn off_by(shift: &str) -> [String; 4] {
    let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
    assert!(Path::new(&library).exists(), "there is no {library}; install the Debian package libfaketime");
    [
        format!("LD_PRELOAD={library}"),
        format!("FAKETIME={shift}"),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".into(),
        "FAKETIME_DONT_RESET=1".into(),
    ]
}

/// Removes what processes with a faked clock have left in shared memory, once they have ended.
pub fn sweep_clocks() {
    for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let id = name.strip_prefix("faketime_shm_").or_else(|| name.strip_prefix("sem.faketime_sem_"));
        if id.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            // Another test may do the same.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Writes a file into a directory and returns its path; world-readable.
pub fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).expect("own directory");
    }
    fs::write(&path, text).expect("own directory");
    path
}

/// Longest the processes of a server that has ended may hold its port.
const LET_GO_MAX: Duration = Duration::from_secs(5);

/// Waits until nobody listens there any more: a server's processes end a moment after the one that made them, and what
/// connects meanwhile is accepted, and then reset.
fn let_go(port: SocketAddr) {
    let begun = Instant::now();
    while TcpStream::connect_timeout(&port, Duration::from_millis(200)).is_ok() && begun.elapsed() < LET_GO_MAX {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A running server.
pub struct Server {
    child: Child,
    log: PathBuf,
    program: String,
    args: Vec<String>,
    package: &'static str,
    ready: SocketAddr,
    /// Kept for as long as the server runs.
    pub dir: TempDir,
}

impl Server {
    /// Starts `program` and waits until `ready` accepts TCP connections. Fails the test, naming the Debian package,
    /// when the program is missing: a test that needs a server never passes without it.
    pub fn start(package: &'static str, program: &str, args: &[&str], dir: TempDir, ready: SocketAddr) -> Self {
        let log = dir.path().join("server.log");
        let child = spawn(package, program, args, dir.path(), &log);
        let args = args.iter().map(ToString::to_string).collect();
        let mut server = Self { child, log, program: program.into(), args, package, ready, dir };
        server.wait();
        server
    }

    /// Starts it anew, as it was, after [`Server::stop`].
    pub fn restart(&mut self) {
        self.stop();
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        self.child = spawn(self.package, &self.program, &args, self.dir.path(), &self.log);
        self.wait();
    }

    fn wait(&mut self) {
        let (program, ready) = (self.program.clone(), self.ready);
        let begun = Instant::now();
        while TcpStream::connect_timeout(&ready, Duration::from_millis(200)).is_err() {
            if let Some(status) = self.child.try_wait().expect("own child") {
                panic!("{program} ended at once ({status}):\n{}", self.log());
            }
            assert!(begun.elapsed() < START_MAX, "{program} did not open {ready}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it printed.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name: `TERM`, `STOP`, `CONT`, `HUP`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status();
        assert!(status.expect("kill exists").success(), "kill -{name}");
    }

    /// Ends it and waits for its end; its directory stays until the value is dropped.
    pub fn stop(&mut self) {
        // Its id may be another's by now.
        if self.child.try_wait().expect("own child").is_some() {
            return;
        }
        // A stopped process does not see TERM until it is continued.
        let _ = Command::new("kill").args(["-CONT", &self.id().to_string()]).status();
        let _ = Command::new("kill").args(["-TERM", &self.id().to_string()]).status();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(5) {
            if self.child.try_wait().expect("own child").is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let_go(self.ready);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(package: &str, program: &str, args: &[&str], dir: &Path, log: &Path) -> Child {
    let output = fs::File::options().create(true).append(true).open(log).expect("own directory");
    let child = Command::new(program)
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("a file can be shared"))
        .stderr(output)
        .spawn();
    child.unwrap_or_else(|e| {
        panic!(
            "{program} does not start ({e}); install the Debian package {package}, or run tests/run --without-servers"
        )
    })
}

/// Builds what a check asks, from its key and its options in YAML. Fails the test on any mistake in them.
pub fn build(key: &str, yaml: &str, settings: &Settings) -> Arc<dyn Ask> {
    let block = serde_yaml::from_str(yaml).expect("well-formed YAML");
    let mut problems = Vec::new();
    let name = "test/check".parse().expect("a name");
    let mut options = Options::new(&block, Vec::new(), Path::new("."), &mut problems);
    let ask = bongsu::check::build(key, &mut options, &name, settings);
    ask.unwrap_or_else(|| panic!("{yaml}: {problems:#?}"))
}

/// Settings with this timeout and nothing else.
pub fn settings(timeout: Duration) -> Settings {
    Settings { timeout, slow: None, ip: Families::Any }
}

/// What an attempt is given; the name server is one that never answers, as the tests dial addresses.
pub fn context(settings: &Settings) -> Context {
    let nameservers = vec!["192.0.2.1:53".parse().expect("an address")];
    let net = Net::new(NetOptions { nameservers, ..NetOptions::default() }).expect("a net");
    Context { net, at: bongsu::clock::now(), settings: settings.clone(), explain: true, wait_max: None }
}

/// The anchor GitHub makes of a heading.
pub fn anchor(title: &str) -> String {
    let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}
