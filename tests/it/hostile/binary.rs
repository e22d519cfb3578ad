//! The program itself: however much a server sends, it holds little of it, and tells no secret.

use std::{
    fs,
    process::{Command, Stdio},
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use bongsu::protocol::PROTOCOLS;

use super::SECRET;
use crate::harness::{
    hostile::{Act, Peer, Plan},
    polite::Login,
    scratch, write,
};

/// Most memory of the program beyond what it needs against a silent server, in KiB.
const GROWTH_KIB_MAX: u64 = 64 * 1024;

/// Longest the program may take with a deadline of a second, on a busy machine.
const END_MAX: Duration = Duration::from_secs(15);

/// The program's peak of memory in KiB, and what it printed, when it probes this.
fn probed(what: &[&str]) -> (u64, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_bongsu"))
        .args(["probe", "--json", "--explain", "--timeout", "1s"])
        .args(what)
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let (begun, mut peak_kib) = (Instant::now(), 0);
    let status = format!("/proc/{}/status", child.id());
    while child.try_wait().expect("own child").is_none() {
        // Gone when the process ends between two looks.
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        peak_kib = line.trim().trim_end_matches(" kB").parse().unwrap_or(peak_kib);
        assert!(begun.elapsed() < END_MAX, "{what:?}: no end after {END_MAX:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().expect("own child");
    (peak_kib, String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn a_body_that_swells_is_not_held() {
    /// What comes out of the compressed body, in MiB.
    const SWOLLEN_MIB: u64 = 400;
    let shell = format!("head -c {SWOLLEN_MIB}M /dev/zero | gzip -1");
    let packed = Command::new("sh").args(["-c", &shell]).output().expect("every Debian has gzip").stdout;
    assert!(packed.len() < 4 << 20, "{} bytes", packed.len());
    let head = format!("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", packed.len());
    let answer: &'static [u8] = [head.as_bytes(), &packed].concat().leak();
    let (login, tls, act) = (Login::Plain, None, Act::Say(answer));
    let peer = Peer::start(Plan { protocol: "http", login, turn: 0, act, tls, by_command: false });
    let dir = scratch();
    let check = format!("http: {{ url: 'http://{}/', expect: {{ body: {{ contains: Inbox }} }} }}", peer.address);
    write(dir.path(), "checks/a.yaml", &format!("service: a\nchecks:\n  - name: b\n    {check}\n"));
    let config = write(dir.path(), "config.yaml", "").display().to_string();
    let (peak_kib, told) = probed(&["a/b", "--config", &config]);
    assert!(told.contains("\"outcome\": \"failed\""), "{told}");
    assert!(peak_kib < 2 * GROWTH_KIB_MAX, "{peak_kib} KiB: {told}");
    println!(
        "a body of {SWOLLEN_MIB} MiB in {} KiB: the program held {} MiB at most",
        packed.len() / 1024,
        peak_kib / 1024
    );
}

/// The most answers of a dialogue after which its server turns; nothing comes of the later ones before the goodbye.
const TURNS: usize = 6;

/// The turns of a probe's dialogue with a good server of this protocol.
fn turns(protocol: &'static str, url: impl Fn(u16) -> String) -> usize {
    let (login, tls, act) = (Login::Plain, None, Act::Good);
    let peer = Peer::start(Plan { protocol, login, turn: 0, act, tls, by_command: false });
    probed(&[&url(peer.address.port())]);
    peer.notes.answers.load(SeqCst).clamp(1, TURNS)
}

#[test]
fn memory_stays_bounded_whatever_is_sent() {
    let (mut most, mut runs) = ((0, String::new()), 0);
    for protocol in PROTOCOLS.iter().filter(|p| p.probe.is_some() && !["icmp", "tls"].contains(&p.name)) {
        let user = if ["dns", "tcp"].contains(&protocol.name) { "" } else { &format!("probe:{SECRET}@") };
        let path = if protocol.name == "dns" { "/example.com?type=MX" } else { "" };
        let url = |port: u16| format!("{}://{user}localhost:{port}{path}", protocol.schemes[0]);
        let mut idle_kib = 0;
        for turn in 0..turns(protocol.name, url) {
            for act in [Act::Silence, Act::EndlessLine, Act::EndlessLines, Act::EndlessLargeLines, Act::EndlessGarbage]
            {
                // What silence takes does not depend on when it begins.
                if act == Act::Silence && turn > 0 {
                    continue;
                }
                let (login, tls) = (Login::Plain, None);
                let peer = Peer::start(Plan { protocol: protocol.name, login, turn, act, tls, by_command: false });
                let (peak_kib, told) = probed(&[&url(peer.address.port())]);
                let name = format!("{}, turn {turn}, {act:?}", protocol.name);
                // An open port is all that a plain URL of `tcp` asks for.
                if protocol.name != "tcp" && turn == 0 {
                    assert!(told.contains("\"outcome\": \"failed\""), "{name}: {told}");
                }
                assert!(!told.contains(SECRET), "{name}: {told}");
                if act == Act::Silence {
                    idle_kib = peak_kib;
                }
                let growth_kib = peak_kib.saturating_sub(idle_kib);
                assert!(growth_kib < GROWTH_KIB_MAX, "{name}: {growth_kib} KiB more");
                most = most.max((growth_kib, name));
                runs += 1;
            }
        }
    }
    println!("{runs} runs of the program; against silence, {} took most: {} MiB more", most.1, most.0 / 1024);
}
