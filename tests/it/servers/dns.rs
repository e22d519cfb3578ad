//! `dns`, and name resolution for every other protocol, against a real unbound.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    time::Duration,
};

use bongsu::observation::{Kind, Outcome, Phase};
use bongsu::protocol::wire::Family;

use crate::harness::{
    Server,
    certs::Authority,
    free_port, free_udp_port,
    probing::{Probing, probe},
    scratch, write,
};

/// What an attempt should tell.
type Told<T> = Result<T, (Kind, &'static str)>;

/// A name server that answers every question with SERVFAIL; its port.
fn failing() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = socket.local_addr().expect("a bound socket has an address").port();
    std::thread::spawn(move || {
        let mut message = [0; 1_500];
        while let Ok((read, peer)) = socket.recv_from(&mut message) {
            // QR set; rcode 2 (RFC 1035, section 4.1.1); the rest of the question is sent back as it came.
            message[2] |= 0x80;
            message[3] = 0x82;
            let _ = socket.send_to(&message[..read], peer);
        }
    });
    port
}

/// A running unbound, its address, and its port for TLS; `ca.pem` lies in its directory.
fn unbound() -> (Server, SocketAddr, u16) {
    let dir = scratch();
    let authority = Authority::new();
    let pair = authority.server(&["localhost", "127.0.0.1"], -1, 40);
    write(dir.path(), "ca.pem", &authority.pem());
    write(dir.path(), "cert.pem", &pair.certificate);
    write(dir.path(), "key.pem", &pair.key);
    let tls = free_port();
    let path = dir.path().display().to_string();
    let port = free_udp_port();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let failing = failing();
    let text: String = (0..20).map(|n| format!("local-data: 'big.test. 60 IN TXT \"{n:0>200}\"'\n  ")).collect();
    let config = format!(
        r#"
server:
  interface: 127.0.0.1@{port}
  interface: ::1@{port}
  interface: 127.0.0.1@{tls}
  tls-port: {tls}
  tls-service-key: "{path}/key.pem"
  tls-service-pem: "{path}/cert.pem"
  port: {port}
  do-daemonize: no
  username: ""
  chroot: ""
  pidfile: "{path}/pid"
  directory: "{path}"
  use-syslog: no
  logfile: ""
  module-config: "iterator"
  do-not-query-localhost: no
  local-zone: "test." static
  local-data: "both.test. 60 IN A 127.0.0.1"
  local-data: "both.test. 60 IN AAAA ::1"
  local-data: "four.test. 60 IN A 127.0.0.1"
  local-data: "six.test. 60 IN AAAA ::1"
  local-data: "mail.test. 60 IN MX 10 mx.test."
  local-data: 'mail.test. 60 IN TXT "v=spf1 -all"'
  {text}
  local-zone: "refused.test." always_refuse
  local-zone: "silent.test." deny
  local-zone: "." static
  local-data: ". 60 IN NS a.root-servers.test."
  local-zone: "broken.test." transparent
forward-zone:
  name: "broken.test."
  forward-addr: 127.0.0.1@{failing}
remote-control:
  control-enable: no
"#
    );
    let config = write(dir.path(), "unbound.conf", &config).display().to_string();
    (Server::start("unbound", "unbound", &["-c", &config], dir, address), address, tls)
}

#[test]
fn a_real_name_server_is_judged() {
    let (server, address, tls) = unbound();
    let table: &[(&str, Told<()>)] = &[
        ("name: both.test", Ok(())),
        ("name: both.test, expect: { equals: [127.0.0.1] }", Ok(())),
        ("name: both.test, type: AAAA, expect: { equals: ['::1'] }", Ok(())),
        ("name: both.test, over: tcp", Ok(())),
        ("name: mail.test, type: MX, expect: { contains: [10 mx.test] }", Ok(())),
        ("name: mail.test, type: TXT, expect: { contains: [v=spf1 -all] }", Ok(())),
        ("name: big.test, type: TXT, expect: { at_least: 20 }", Ok(())),
        ("name: BOTH.test., expect: { equals: [192.0.2.1] }", Err((Kind::Unexpected, "127.0.0.1, expected 192.0.2.1"))),
        ("name: none.test", Err((Kind::Unexpected, "NXDOMAIN, expected NOERROR"))),
        ("name: none.test, expect: { rcode: NXDOMAIN }", Ok(())),
        ("name: four.test, type: AAAA", Err((Kind::Unexpected, "no records, expected at least 1"))),
        ("name: a.refused.test", Err((Kind::Unexpected, "REFUSED, expected NOERROR"))),
        ("name: a.broken.test", Err((Kind::Unexpected, "SERVFAIL, expected NOERROR"))),
        ("", Ok(())),
    ];
    for (rest, expected) in table {
        let seen = probe("dns", &format!("{{ server: \"{address}\", {rest} }}"));
        match expected {
            Ok(()) => assert_eq!(seen.outcome(), Outcome::Ok, "{rest}: {seen:?}"),
            Err((kind, text)) => {
                assert_eq!((seen.reason().kind, seen.reason().text.as_str()), (*kind, *text), "{rest}: {seen:?}");
            }
        }
    }
    let ca = server.dir.path().join("ca.pem").display().to_string();
    let yaml = format!("{{ server: \"localhost:{tls}\", over: tls, name: both.test, tls: {{ ca: {ca} }} }}");
    let seen = probe("dns", &yaml);
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
    assert_eq!(seen.phases(), [Phase::Resolve, Phase::Connect, Phase::Tls, Phase::Exchange]);
    let seen = probe("dns", &format!("{{ server: \"[::1]:{}\", name: both.test }}", address.port()));
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
    let seen = probe("dns", &format!("{{ server: \"{address}\", name: big.test, type: TXT }}"));
    assert_eq!(seen.observation.details["truncated"], true, "{seen:?}");
}

/// A web server of the simplest kind on both families; its port.
fn answering() -> u16 {
    let (v4, v6, port) = loop {
        let v4 = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let port = v4.local_addr().expect("a bound listener has an address").port();
        if let Ok(v6) = TcpListener::bind(("::1", port)) {
            break (v4, v6, port);
        }
    };
    for listener in [v4, v6] {
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
                let _ = stream.read(&mut [0; 1_000]);
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
            }
        });
    }
    port
}

#[test]
fn names_are_resolved_for_every_protocol() {
    let (_server, address, _) = unbound();
    let port = answering();
    let nameservers = [address];
    let table: &[(&str, Family, Told<&str>)] = &[
        ("both.test", Family::Any, Ok("[::1]")),
        ("both.test", Family::V4, Ok("127.0.0.1")),
        ("both.test", Family::V6, Ok("[::1]")),
        ("four.test", Family::Any, Ok("127.0.0.1")),
        ("six.test.", Family::Any, Ok("[::1]")),
        ("four.test", Family::V6, Err((Kind::NoAddress, "four.test has no IPv6 address"))),
        ("six.test", Family::V4, Err((Kind::NoAddress, "six.test has no IPv4 address"))),
        ("mail.test", Family::Any, Err((Kind::NoAddress, "mail.test has no IP address"))),
        ("none.test", Family::Any, Err((Kind::NoAddress, "none.test does not exist (NXDOMAIN)"))),
        (
            "a.refused.test",
            Family::Any,
            Err((Kind::ResolverError, "the name servers answer a.refused.test with Query Refused")),
        ),
        (
            "a.broken.test",
            Family::Any,
            Err((Kind::ResolverError, "the name servers answer a.broken.test with Server Failure")),
        ),
    ];
    for (name, family, expected) in table {
        for (protocol, url) in [("tcp", format!("tcp://{name}:{port}")), ("http", format!("http://{name}:{port}/"))] {
            let probing = Probing { nameservers: &nameservers, family: *family, ..Probing::default() };
            let seen = probing.run(protocol, &format!("{{ url: \"{url}\" }}"));
            match expected {
                Ok(ip) => {
                    assert_eq!(seen.outcome(), Outcome::Ok, "{url} {family:?}: {seen:?}");
                    let peer = seen.observation.address.map(|a| a.to_string());
                    assert_eq!(peer, Some(format!("{ip}:{port}")), "{url} {family:?}: {seen:?}");
                }
                Err((kind, text)) => {
                    assert_eq!(seen.reason().phase, Phase::Resolve, "{url} {family:?}: {seen:?}");
                    assert_eq!((seen.reason().kind, seen.reason().text.as_str()), (*kind, *text), "{url}: {seen:?}");
                }
            }
        }
    }
}

#[test]
fn a_hung_name_server_is_named_and_blocks_nobody() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
    let hung = socket.local_addr().expect("a bound socket has an address");
    let (_server, good, _) = unbound();
    let port = answering();
    let url = |name: &str| format!("url: tcp://{name}:{port}");

    let probing = Probing { nameservers: &[hung], timeout: Duration::from_secs(2), family: Family::Any };
    let seen = probing.run("tcp", &url("both.test"));
    assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Resolve, Kind::Own), "{seen:?}");
    assert_eq!(seen.outcome(), Outcome::Unknown, "our own trouble says nothing about the target");
    assert!(seen.reason().text.starts_with(&format!("name server {hung} did not answer within ")), "{seen:?}");
    assert!(seen.observation.duration < Duration::from_secs(2), "told before the deadline: {seen:?}");
    assert_eq!(probing.run("tcp", &url("127.0.0.1")).outcome(), Outcome::Ok, "an address needs no name server");

    // The server answers other questions, only not this one: that is the name's trouble.
    let probing = Probing { nameservers: &[good], ..probing };
    let seen = probing.run("tcp", &url("a.silent.test"));
    assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Resolve, Kind::Timeout), "{seen:?}");
    assert!(seen.reason().text.contains("did not answer for a.silent.test"), "{seen:?}");
    assert_eq!(seen.outcome(), Outcome::Failed);

    // A second name server helps out.
    let both = [hung, good];
    let seen = Probing { nameservers: &both, ..probing }.run("tcp", &url("both.test"));
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
}
