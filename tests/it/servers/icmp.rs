//! `icmp` against the kernel itself, each time in a network namespace of its own: who may ping, what is lost, what the
//! network says, and a peer that lies.

use std::process::Command;

use serde_json::Value;

use crate::harness::daemon::{BONGSU, Place};

/// Everybody may use datagram sockets.
const ALLOWED: &str = "echo '0 2147483647' > /proc/sys/net/ipv4/ping_group_range";

/// Nobody may, as the kernel has it by default.
const FORBIDDEN: &str = "echo '1 0' > /proc/sys/net/ipv4/ping_group_range";

/// A user without privileges.
const NOBODY: &str = "setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs --bounding-set -all";

/// Root, whose capabilities are another matter than its group.
const ROOT: &str = "";

/// What one attempt with these options shows, as `probe --json` tells it, in a namespace with loopback and `setup`.
fn probe(setup: &str, user: &str, options: &str) -> Value {
    let checks = format!("service: net\nchecks:\n  - name: ping\n    timeout: 5s\n    icmp: {options}\n");
    let place = Place::new("", &checks);
    let config = place.config();
    let script = format!(
        "set -e; ip link set lo up; {setup}\nexec {user} {BONGSU} probe net/ping --json --config {}",
        config.display()
    );
    let output = Command::new("unshare").args(["--net", "sh", "-c", &script]).output().expect("util-linux is there");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        panic!("{setup}: {options}: no JSON ({e}): {out}{err}")
    })
}

/// Rules of a firewall at one end of loopback.
fn firewall(hook: &str, rule: &str) -> String {
    format!(
        "nft add table inet t; nft 'add chain inet t c {{ type filter hook {hook} priority 0; }}'; \
         nft 'add rule inet t c {rule}'"
    )
}

/// `outcome kind`, with the text of the reason.
fn told(seen: &Value) -> (String, String) {
    let reason = &seen["reason"];
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (format!("{} {}", word(&seen["outcome"]), word(&reason["kind"])).trim().to_owned(), word(&reason["text"]))
}

#[test]
fn whoever_may_ping_pings() {
    let v4 = "{ url: \"icmp://127.0.0.1\" }";
    let v6 = "{ url: \"icmp://[::1]\", size: 1400 }";
    let table = [
        (ALLOWED, NOBODY, v4, "datagram"),
        (ALLOWED, NOBODY, v6, "datagram"),
        (ALLOWED, ROOT, v4, "datagram"),
        (FORBIDDEN, ROOT, v4, "raw"),
        (FORBIDDEN, ROOT, v6, "raw"),
        (FORBIDDEN, ROOT, "{ url: \"icmp://127.0.0.1\", size: 65507 }", "raw"),
        (ALLOWED, NOBODY, "{ url: \"icmp://localhost\" }", "datagram"),
    ];
    for (setup, user, options, socket) in table {
        let seen = probe(setup, user, options);
        let details = &seen["details"];
        assert_eq!(told(&seen), ("ok".into(), String::new()), "{setup} {user} {options}: {seen}");
        assert_eq!(details["socket"], socket, "{setup} {user} {options}: {seen}");
        assert_eq!((&details["sent"], &details["received"]), (&3.into(), &3.into()), "{seen}");
        assert_eq!(details["loss"], 0.0, "{seen}");
        let rtt = |key: &str| details[key].as_f64().unwrap_or_else(|| panic!("no {key}: {seen}"));
        let (min, avg, max) = (rtt("rtt_min_ms"), rtt("rtt_avg_ms"), rtt("rtt_max_ms"));
        assert!(0.0 < min && min <= avg && avg <= max && max < 1_000.0, "{seen}");
        assert!(rtt("rtt_mdev_ms") <= max - min, "{seen}");
        let phases: Vec<&str> =
            seen["phases"].as_array().expect("phases").iter().map(|p| p["name"].as_str().expect("a name")).collect();
        assert_eq!(phases, ["resolve", "exchange"]);
    }
}

#[test]
fn who_may_not_ping_does_not_know() {
    for url in ["icmp://127.0.0.1", "icmp://[::1]"] {
        let (outcome, text) = told(&probe(FORBIDDEN, NOBODY, &format!("{{ url: \"{url}\" }}")));
        assert_eq!(outcome, "unknown own");
        assert!(text.contains("net.ipv4.ping_group_range") && text.contains("CAP_NET_RAW"), "{text}");
    }
    // A firewall of the agent's own machine says nothing about the target either.
    let drop = firewall("output", "drop");
    let (outcome, text) = told(&probe(&format!("{ALLOWED}; {drop}"), NOBODY, "{ url: \"icmp://127.0.0.1\" }"));
    assert_eq!(outcome, "unknown own");
    assert!(text.starts_with("a ping cannot be sent: the agent's own system does not permit"), "{text}");
}

#[test]
fn loss_is_counted_and_judged() {
    let rule = |test: &str| firewall("input", &format!("icmp type echo-request {test} drop"));
    // By turns, so that it is known which are lost: the first of three, the first two of three, all.
    let table = [
        ("numgen inc mod 3 < 1", "{ url: \"icmp://127.0.0.1\" }", "slow slow", "1 of 3 pings lost (33%)", 2),
        (
            "numgen inc mod 3 < 1",
            "{ url: \"icmp://127.0.0.1\", loss_max: 10% }",
            "failed timeout",
            "1 of 3 pings lost (33%), more than 10%",
            2,
        ),
        (
            "numgen inc mod 3 < 2",
            "{ url: \"icmp://127.0.0.1\" }",
            "failed timeout",
            "2 of 3 pings lost (67%), more than 50%",
            1,
        ),
        ("", "{ url: \"icmp://127.0.0.1\", wait: 200ms }", "failed timeout", "no answer to 3 pings", 0),
        // The last reply may take until long after the deadline; the count is told before it.
        ("", "{ url: \"icmp://127.0.0.1\", wait: 60s, count: 5 }", "failed timeout", "no answer to 5 pings", 0),
    ];
    for (test, options, outcome, text, received) in table {
        for (range, user) in [(ALLOWED, NOBODY), (FORBIDDEN, ROOT)] {
            let seen = probe(&format!("{range}; {}", rule(test)), user, options);
            assert_eq!(told(&seen), (outcome.into(), text.into()), "{test} {options}: {seen}");
            assert_eq!(seen["details"]["received"], received, "{seen}");
            assert!(seen["duration_ms"].as_f64().expect("a duration") < 5_000.0, "{seen}");
        }
    }
    let options = "{ url: \"icmp://127.0.0.1\", count: 100, interval: 10ms, loss_max: 100% }";
    let seen = probe(&format!("{ALLOWED}; {}", rule("numgen random mod 100 < 30")), NOBODY, options);
    let received = seen["details"]["received"].as_u64().expect("a count");
    // Seven standard deviations around seventy.
    assert!((38..100).contains(&received), "{seen}");
    assert_eq!(told(&seen).0, "slow slow", "{seen}");
}

#[test]
fn what_the_network_says_is_told() {
    let unreachable = "192.0.2.7: host unreachable";
    let refused = "no answer to 3 pings; 127.0.0.1 says: ";
    let route = |kind: &str| format!("ip route add {kind} 192.0.2.0/24");
    let reject = |with: &str| firewall("input", &format!("icmp type echo-request reject with icmp type {with}"));
    let reject6 = |with: &str| firewall("input", &format!("icmpv6 type echo-request reject with icmpv6 type {with}"));
    // A link on which nobody answers for the neighbour's address.
    let link = "ip link add near type veth peer name far; ip addr add 192.0.2.1/24 dev near; ip link set near up; \
                ip link set far up"
        .to_owned();
    let table = [
        (String::from(":"), "192.0.2.7", "failed unreachable", "192.0.2.7: network unreachable".to_owned()),
        (route("unreachable"), "192.0.2.7", "failed unreachable", unreachable.to_owned()),
        (route("blackhole"), "192.0.2.7", "failed unreachable", "192.0.2.7: ".to_owned()),
        (String::from(":"), "[2001:db8::7]", "failed unreachable", "2001:db8::7: ".to_owned()),
        (link, "192.0.2.7", "failed unreachable", "no answer to 3 pings; 192.0.2.1 says: host unreachable".to_owned()),
        (reject("host-unreachable"), "127.0.0.1", "failed unreachable", format!("{refused}host unreachable")),
        (reject("port-unreachable"), "127.0.0.1", "failed unreachable", format!("{refused}port unreachable")),
        (reject("admin-prohibited"), "127.0.0.1", "failed rejected", format!("{refused}administratively prohibited")),
        (
            reject6("no-route"),
            "[::1]",
            "failed unreachable",
            "no answer to 3 pings; ::1 says: no route to the destination".to_owned(),
        ),
    ];
    for (setup, host, outcome, text) in table {
        for (range, user) in [(ALLOWED, NOBODY), (FORBIDDEN, ROOT)] {
            let options = format!("{{ url: \"icmp://{host}\", wait: 4500ms }}");
            let seen = probe(&format!("{range}; {setup}"), user, &options);
            let (was, said) = told(&seen);
            assert_eq!(was, outcome, "{setup}: {seen}");
            assert!(said.starts_with(&text), "{setup}: {said}");
        }
    }
}

/// A peer in the kernel's place. To each ping it sends garbage, the request itself, a reply with another payload, one
/// with another sequence, and 30 ms later the proper reply, twice.
const LIAR: &str = r#"
import socket, struct, sys, time
def checksum(data):
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total > 0xffff: total = (total >> 16) + (total & 0xffff)
    return ~total & 0xffff
def message(kind, identifier, sequence, payload):
    head = struct.pack('!BBHHH', kind, 0, 0, identifier, sequence) + payload
    return head[:2] + struct.pack('!H', checksum(head)) + head[4:]
peer = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
open(sys.argv[1], 'w').close()
peer.settimeout(10)
while True:
    packet = peer.recv(2000)[20:]
    kind, _, _, identifier, sequence = struct.unpack('!BBHHH', packet[:8])
    if kind != 8: continue
    payload = packet[8:]
    def say(data): peer.sendto(data, ('127.0.0.1', 0))
    say(b'\x00garbage')
    say(message(0, identifier, sequence, b'x' * len(payload)))
    say(message(0, identifier, sequence + 500, payload))
    say(message(0, identifier, 0, payload))
    say(message(0, identifier ^ 1, sequence, payload))
    time.sleep(0.03)
    say(message(0, identifier, sequence, payload))
    say(message(0, identifier, sequence, payload))
"#;

#[test]
fn a_peer_that_lies_is_not_believed() {
    for (range, user) in [(ALLOWED, NOBODY), (FORBIDDEN, ROOT)] {
        let dir = crate::harness::scratch();
        let script = crate::harness::write(dir.path(), "liar.py", LIAR);
        let there = dir.path().join("there");
        // The peer ends by itself once nothing comes any more.
        let setup = format!(
            "{range}; echo 1 > /proc/sys/net/ipv4/icmp_echo_ignore_all; \
             /usr/bin/python3 {} {there} >/dev/null 2>&1 & while ! test -e {there}; do sleep 0.05; done",
            script.display(),
            there = there.display()
        );
        let options = "{ url: \"icmp://127.0.0.1\", count: 4, rtt_slow: 20ms }";
        let seen = probe(&setup, user, options);
        let details = &seen["details"];
        assert_eq!(told(&seen).0, "slow slow", "{seen}");
        assert!(told(&seen).1.ends_with("on average, objective 20ms"), "{seen}");
        assert_eq!((&details["received"], &details["altered"]), (&4.into(), &4.into()), "{seen}");
        // The last reply ends the attempt, before it comes once more.
        assert_eq!(details["duplicates"], 3, "{seen}");
        assert!(details["rtt_min_ms"].as_f64().expect("a time") >= 30.0, "{seen}");
    }
}
