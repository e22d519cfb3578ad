//! Ports for the servers that the tests start. Test processes run side by side, and a server opens its port only some
//! time after it was chosen: a port that the kernel handed out and took back would meanwhile go to somebody else. So
//! they come from below the range that the kernel hands out itself, and the test's process holds a lock on each.

use std::{
    fs::{self, File, OpenOptions},
    net::{TcpListener, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU16, Ordering},
    },
};

/// Above the ports of services; below those that the kernel gives to who asks for none in particular.
const FIRST: u16 = 12_000;
const LAST: u16 = 31_999;

/// A TCP port of the loopback that nobody uses, this process's own until it ends.
pub fn free_port() -> u16 {
    free(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
}

/// The same for both UDP and TCP, as a name server needs it.
pub fn free_udp_port() -> u16 {
    free(|port| UdpSocket::bind(("127.0.0.1", port)).is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok())
}

fn free(is_free: impl Fn(u16) -> bool) -> u16 {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    let ports = LAST - FIRST + 1;
    // Processes begin at different places, lest each try all that the others hold.
    let begin = || AtomicU16::new((std::process::id().wrapping_mul(37) % u32::from(ports)) as u16);
    for _ in 0..ports {
        let port = FIRST + NEXT.get_or_init(begin).fetch_add(1, Ordering::Relaxed) % ports;
        if is_held(port) && is_free(port) {
            return port;
        }
    }
    panic!("every port of {FIRST} to {LAST} is in use");
}

/// Takes the port's lock, for as long as this process lives.
fn is_held(port: u16) -> bool {
    static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let directory = locks();
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(directory.join(port.to_string()));
    let Ok(file) = file else { return false };
    if file.try_lock().is_err() {
        return false;
    }
    HELD.lock().expect("nobody panics with it").push(file);
    true
}

fn locks() -> PathBuf {
    let directory = std::env::temp_dir().join("bongsu-test-ports");
    if fs::create_dir(&directory).is_ok() {
        // Whoever tests on this machine uses the same.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).expect("own directory");
    }
    directory
}
