//! Web servers by real sockets: scripted answers, redirects, bodies, certificates.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use super::*;
use crate::{
    observation::{Outcome, Phase},
    protocol::{
        Net,
        testing::{SECRET, Seen, problems, run, run_with, serve, serve_all, silent},
        wire::Family,
    },
};

/// Reads the head of a request, without its body.
fn head(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut reader = BufReader::with_capacity(1, stream);
    while !text.ends_with("\r\n\r\n") {
        if reader.read_line(&mut text).unwrap_or(0) == 0 {
            break;
        }
    }
    text
}

fn reply(stream: &mut TcpStream, text: &str) {
    let _ = stream.write_all(text.as_bytes());
}

/// A server that answers every request with these bytes and closes.
fn answering(text: &'static str) -> SocketAddr {
    serve_all(10, move |mut stream| {
        head(&mut stream);
        reply(&mut stream, text);
    })
}

fn get(address: SocketAddr, rest: &str) -> Seen {
    run(&HTTP, &format!("{{ url: \"http://{address}/\", {rest} }}"), 600)
}

#[test]
fn a_request_is_answered() {
    let seen = get(
        answering("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n"),
        "expect: { status: 200, headers: { content-type: text/plain }, body: { equals: ok } }",
    );
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
    assert_eq!(seen.phases(), [Phase::Connect, Phase::Exchange]);
    assert_eq!(seen.observation.details["status"], 200);
    assert_eq!(seen.observation.details["bytes"], 3);
}

#[test]
fn a_name_is_resolved_before_it_is_connected_to() {
    let address = answering("HTTP/1.1 204 No Content\r\n\r\n");
    let seen = run(&HTTP, &format!("url: http://localhost:{}/", address.port()), 1_000);
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
    assert_eq!(seen.phases(), [Phase::Resolve, Phase::Connect, Phase::Exchange]);
    assert_eq!(seen.observation.address, Some(address));
    let seen = run_with(&HTTP, &format!("url: http://localhost:{}/", address.port()), 1_000, Family::V6, &[]);
    assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Connect, Kind::Refused), "{seen:?}");
    let seen = run_with(&HTTP, &format!("url: http://{address}/"), 1_000, Family::V6, &[]);
    assert_eq!(seen.reason().text, "127.0.0.1 is no IPv6 address", "{seen:?}");
}

#[test]
fn bad_answers_are_told() {
    let table = [
        (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
            Kind::Unexpected,
            "status 503, expected 2xx, 3xx",
        ),
        ("", Kind::Closed, "closed the connection before its answer was complete"),
        ("HTTP/1.1 200 OK\r\nContent-Le", Kind::Closed, "closed the connection before its answer was complete"),
        ("SSH-2.0-OpenSSH_9.2\r\n", Kind::Protocol, "not a proper HTTP answer"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", Kind::Closed, "closed the connection"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", Kind::Protocol, "not a proper HTTP answer"),
        (
            "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
            Kind::Protocol,
            "the compressed body of the answer is broken",
        ),
        ("HTTP/1.1 302 Found\r\nLocation: ftp://h/\r\nContent-Length: 0\r\n\r\n", Kind::Protocol, "which is not HTTP"),
        ("HTTP/1.1 302 Found\r\nLocation: http://[::\r\nContent-Length: 0\r\n\r\n", Kind::Protocol, "which is no URL"),
        (
            "HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
            Kind::Protocol,
            "redirect loop: back to http://",
        ),
    ];
    for (text, kind, expected) in table {
        let seen = get(answering(text), "");
        assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Exchange, kind), "{text:?}: {seen:?}");
        assert!(seen.reason().text.contains(expected), "{text:?}: {seen:?}");
    }
}

#[test]
fn hostile_servers_are_bounded() {
    type Peer = fn(TcpStream);
    let table: [(Peer, &str, Kind, &str); 5] = [
        // One byte at a time, for ever.
        (
            |mut s| {
                head(&mut s);
                while s.write_all(b"H").is_ok() {
                    std::thread::sleep(Duration::from_millis(50));
                }
            },
            "",
            Kind::Timeout,
            "no answer from 127.0.0.1:",
        ),
        (
            |mut s| {
                head(&mut s);
                reply(&mut s, "HTTP/1.1 200 OK\r\nX: ");
                while s.write_all(&[b'x'; 8192]).is_ok() {}
            },
            "",
            Kind::TooLarge,
            "the headers of the answer, or the length they announce, are too large",
        ),
        (
            |mut s| {
                head(&mut s);
                reply(&mut s, "HTTP/1.1 200 OK\r\n");
                while s.write_all(b"X-A: b\r\n").is_ok() {}
            },
            "",
            Kind::TooLarge,
            "the headers of the answer, or the length they announce, are too large",
        ),
        (
            |mut s| {
                head(&mut s);
                reply(&mut s, "HTTP/1.1 200 OK\r\n\r\n");
                while s.write_all(&[b'x'; 8192]).is_ok() {}
            },
            "body_max: 100000, expect: { body: { not_contains: y } }",
            Kind::TooLarge,
            "the body is longer than body_max, 100000 bytes",
        ),
        (
            |mut s| {
                let _ = s.read(&mut [0; 1]);
                let socket = socket2::SockRef::from(&s);
                socket.set_linger(Some(Duration::ZERO)).expect("a socket");
            },
            "",
            Kind::Reset,
            "the peer reset the connection",
        ),
    ];
    for (peer, rest, kind, expected) in table {
        let seen = get(serve(peer), rest);
        assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Exchange, kind), "{seen:?}");
        assert!(seen.reason().text.contains(expected), "{seen:?}");
    }
    // Interim answers without end, by which no answer ever comes (RFC 9110, section 15.2).
    let flood = serve(|mut s| {
        head(&mut s);
        let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(1_000);
        while s.write_all(interim.as_bytes()).is_ok() {}
    });
    let seen = get(flood, "");
    assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Exchange, Kind::TooLarge), "{seen:?}");
    assert!(seen.reason().text.contains("196608 bytes came, and the head of the answer is not complete"), "{seen:?}");
    // A few before the answer are none of the answer's (section 15.2.1 and RFC 8297).
    let hinted = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
                  HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    assert_eq!(get(answering(hinted), "expect: { status: 200, body: { equals: ok } }").outcome(), Outcome::Ok);
    // An endless body that nobody looks at is left unread.
    let endless = serve(|mut s| {
        head(&mut s);
        reply(&mut s, "HTTP/1.1 200 OK\r\n\r\n");
        while s.write_all(&[b'x'; 8192]).is_ok() {}
    });
    let seen = get(endless, "body_max: 100000");
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
    assert_eq!(seen.observation.details["bytes"], 100_000);
}

#[test]
fn a_gzip_bomb_is_bounded_by_its_decompressed_size() {
    // 10 MB of zeros in 10 kB: gzip's header, then deflate blocks (RFC 1951) by the system's gzip.
    let output = std::process::Command::new("sh").args(["-c", "head -c 10000000 /dev/zero | gzip -9"]).output();
    let bomb = output.expect("sh, head and gzip are there").stdout;
    assert!(bomb.len() < 20_000 && bomb.len() > 1_000);
    let address = serve(move |mut s| {
        head(&mut s);
        reply(&mut s, &format!("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", bomb.len()));
        let _ = s.write_all(&bomb);
    });
    let seen = get(address, "expect: { body: { contains: a } }");
    assert_eq!((seen.reason().kind, seen.reason().phase), (Kind::TooLarge, Phase::Exchange), "{seen:?}");
}

#[test]
fn packed_bodies_are_unpacked() {
    let packed = |program: &str| {
        let output =
            std::process::Command::new("sh").args(["-c", &format!("printf 'all is well' | {program}")]).output();
        output.expect("sh and the programs are there").stdout
    };
    let gzip = packed("gzip");
    // RFC 1950: header, a stored block of RFC 1951, Adler-32 of the content.
    let zlib = [&b"\x78\x01\x01\x0b\x00\xf4\xff"[..], b"all is well", &0x17ba_040a_u32.to_be_bytes()].concat();
    let twice = [&gzip[..], &gzip].concat();
    let cut = gzip[..gzip.len() - 3].to_vec();
    let table = [
        ("gzip", gzip.clone(), Ok("all is well")),
        ("X-GZip", twice, Ok("all is wellall is well")),
        ("deflate", zlib, Ok("all is well")),
        ("identity", b"all is well".to_vec(), Ok("all is well")),
        ("gzip", Vec::new(), Ok("")),
        ("gzip", cut, Err("the compressed body of the answer is broken: ")),
        ("gzip", b"all is well".to_vec(), Err("the compressed body of the answer is broken: ")),
    ];
    for (coding, bytes, expected) in table {
        let length = bytes.len();
        let address = serve(move |mut s| {
            assert!(head(&mut s).contains("accept-encoding: gzip, deflate\r\n"));
            reply(
                &mut s,
                &format!("HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {length}\r\n\r\n"),
            );
            let _ = s.write_all(&bytes);
        });
        let body = expected.unwrap_or("all");
        let seen = get(address, &format!("expect: {{ body: {{ equals: '{body}' }} }}"));
        match expected {
            Ok(_) => assert_eq!(seen.outcome(), Outcome::Ok, "{coding}: {seen:?}"),
            Err(text) => {
                assert_eq!(seen.reason().kind, Kind::Protocol, "{coding}: {seen:?}");
                assert!(seen.reason().text.starts_with(text), "{coding}: {seen:?}");
            }
        }
    }
}

#[test]
fn nothing_is_left_of_an_attempt_whose_server_pings_and_does_not_read() {
    let (tell, told) = std::sync::mpsc::channel();
    let address = serve(move |mut s| {
        // RFC 9113: an empty SETTINGS (section 6.5), then PING (section 6.7), each of which wants its answer.
        let _ = s.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
        let ping = [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], &[7; 8]].concat().repeat(500);
        while s.write_all(&ping).is_ok() {}
        let _ = tell.send(());
    });
    let seen = get(address, "version: 2");
    assert_eq!(seen.outcome(), Outcome::Failed, "{seen:?}");
    told.recv_timeout(Duration::from_secs(20)).expect("its connection is closed");
}

#[test]
fn the_phase_that_hangs_is_named() {
    let address = silent();
    let seen = get(address, "");
    assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Exchange, Kind::Timeout), "{seen:?}");
    assert_eq!(seen.observation.address, Some(address));
    let seen = run(&HTTP, &format!("url: https://{address}/"), 400);
    assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Tls, Kind::Timeout), "{seen:?}");
    assert_eq!(seen.phases(), [Phase::Connect, Phase::Tls]);
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
    let hung = socket.local_addr().expect("a bound socket has an address");
    let seen = run_with(&HTTP, "url: http://x.test/", 1_000, Family::Any, &[hung]);
    assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Resolve, Kind::Own), "{seen:?}");
    assert_eq!(seen.outcome(), Outcome::Unknown);
    assert!(seen.reason().text.contains(&hung.to_string()), "{seen:?}");
    assert!(seen.observation.duration < Duration::from_millis(1_000), "{seen:?}");
}

#[test]
fn redirects_are_followed_without_credentials_for_others() {
    let (tell, told) = std::sync::mpsc::channel();
    let other = serve(move |mut s| {
        tell.send(head(&mut s)).expect("the test listens");
        reply(&mut s, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let mut step = 0;
    let first = serve_all(2, move |mut s| {
        let request = head(&mut s).to_lowercase();
        assert!(
            request.contains("authorization: basic dXNlcjpodW50ZXIyLXNlY3JldA==".to_lowercase().as_str()),
            "{request}"
        );
        assert!(request.contains("x-key: hunter2-secret"), "{request}");
        step += 1;
        let target = if step == 1 { "/next?token=1".to_owned() } else { format!("http://evil:word@{other}/") };
        reply(&mut s, &format!("HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n"));
    });
    let yaml = format!(
        "{{ url: \"http://user:{SECRET}@{first}/\", headers: {{ X-Key: {SECRET} }}, expect: {{ body: {{ equals: ok }} }} }}"
    );
    let seen = run(&HTTP, &yaml, 2_000);
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
    assert_eq!(seen.observation.details["redirects"], 2);
    assert_eq!(seen.observation.address, Some(other));
    let elsewhere = told.recv().expect("the second server was asked").to_lowercase();
    assert!(!elsewhere.contains("authorization") && !elsewhere.contains("x-key"), "{elsewhere}");
    let lines: Vec<&str> = seen.transcript.iter().map(|l| l.text.as_str()).collect();
    assert!(lines.iter().any(|l| l.ends_with("/next?…")), "{lines:?}");
}

#[test]
fn a_body_is_not_sent_to_another_origin() {
    let other = serve_all(1, |mut s| {
        let request = head(&mut s);
        assert!(request.starts_with("GET / "), "{request}");
        reply(&mut s, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    // RFC 9110, section 15.4: after these the same method asks again, but for a POST after 301 and 302.
    for (status, method) in [(307, "POST"), (308, "POST"), (301, "PUT"), (307, "PUT")] {
        let first = serve(move |mut s| {
            head(&mut s);
            reply(&mut s, &format!("HTTP/1.1 {status} X\r\nLocation: http://{other}/\r\nContent-Length: 0\r\n\r\n"));
        });
        let seen = get(first, &format!("method: {method}, body: 'password={SECRET}'"));
        assert_eq!(seen.reason().kind, Kind::Unexpected, "{status} {method}: {seen:?}");
        assert_eq!(
            seen.reason().text,
            format!("redirect to http://{other}/, another origin: the body is not sent there"),
        );
    }
    let first = serve(move |mut s| {
        head(&mut s);
        reply(&mut s, &format!("HTTP/1.1 302 X\r\nLocation: http://{other}/\r\nContent-Length: 0\r\n\r\n"));
    });
    let seen = get(first, &format!("body: 'password={SECRET}'"));
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
}

#[test]
fn redirects_are_bounded_and_may_be_the_answer() {
    let mut n = 0;
    let endless = serve_all(20, move |mut s| {
        head(&mut s);
        n += 1;
        reply(&mut s, &format!("HTTP/1.1 301 Moved\r\nLocation: /{n}\r\nContent-Length: 0\r\n\r\n"));
    });
    let seen = get(endless, "redirects: 3");
    assert!(seen.reason().text.starts_with("more than 3 redirects"), "{seen:?}");
    assert_eq!(seen.phases().len(), 8, "{seen:?}");
    assert_eq!(get(endless, "redirects: 0").outcome(), Outcome::Ok);
    assert_eq!(get(endless, "expect: { status: [200, 301] }").outcome(), Outcome::Ok);
}

#[test]
fn a_post_carries_its_body() {
    let address = serve(|mut s| {
        let request = head(&mut s);
        assert!(request.starts_with("POST /x?a=b HTTP/1.1\r\n"), "{request}");
        assert!(request.to_lowercase().contains("content-length: 5"), "{request}");
        let mut body = [0; 5];
        s.read_exact(&mut body).expect("a body");
        assert_eq!(&body, b"hello");
        reply(&mut s, "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    });
    let seen = run(&HTTP, &format!("{{ url: \"http://{address}/x?a=b\", body: hello }}"), 1_000);
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
}

#[test]
fn a_proxy_is_asked_in_place_of_the_server() {
    let proxy = serve(|mut s| {
        let request = head(&mut s).to_lowercase();
        assert!(request.starts_with("get http://h.test/a http/1.1\r\n"), "{request}");
        assert!(request.contains("proxy-authorization: basic"), "{request}");
        reply(&mut s, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    let seen = run(&HTTP, &format!("{{ url: \"http://h.test/a\", proxy: \"http://u:{SECRET}@{proxy}\" }}"), 1_000);
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
    assert_eq!(seen.observation.address, Some(proxy));
}

#[test]
fn a_tunnel_is_asked_of_a_proxy() {
    let proxy = serve_all(2, |mut s| {
        let request = head(&mut s).to_lowercase();
        assert!(request.starts_with("connect [2001:db8::1]:443 http/1.1\r\n"), "{request}");
        assert!(request.contains("\r\nhost: [2001:db8::1]:443\r\n"), "{request}");
        if request.contains("proxy-authorization: basic") {
            reply(&mut s, "HTTP/1.1 200 OK\r\n\r\nno handshake\r\n");
        } else {
            reply(&mut s, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let seen = run(&HTTP, &format!("{{ url: 'https://[2001:db8::1]/', proxy: 'http://{proxy}' }}"), 1_000);
    assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Connect, Kind::Rejected), "{seen:?}");
    let expected = "the proxy answers 407 Proxy Authentication Required when asked for [2001:db8::1]:443";
    assert_eq!(seen.reason().text, expected);
    let seen = run(&HTTP, &format!("{{ url: 'https://[2001:db8::1]/', proxy: 'http://u:{SECRET}@{proxy}' }}"), 1_000);
    assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Tls, Kind::Handshake), "{seen:?}");
}

#[test]
fn a_client_is_used_again_over_a_fresh_connection() {
    let address = answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let value = serde_yaml::from_str(&format!("url: http://{address}/")).expect("YAML");
    let mut found = Vec::new();
    let probe = HttpProbe::build(&mut Options::new(&value, Vec::new(), std::path::Path::new("."), &mut found));
    let probe = probe.expect("good options");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let net = Net::new(crate::protocol::wire::NetOptions::default()).expect("a resolver");
        for _ in 0..3 {
            let started = crate::clock::instant();
            let mut cx = Attempt::new(net.clone(), Family::Any, crate::clock::now(), started, false);
            let verdict = probe.probe(&mut cx).await;
            let (observation, lines) = cx.finish(verdict, crate::clock::instant(), Some(Duration::ZERO));
            assert_eq!(observation.outcome, Outcome::Slow);
            assert_eq!(observation.phases.len(), 2, "{observation:?}");
            assert!(lines.is_empty());
        }
    });
}

#[test]
fn the_target_shows_no_credentials() {
    let value = serde_yaml::from_str("url: \"https://u:pw@h.test/a?token=x\"").expect("YAML");
    let mut found = Vec::new();
    let probe = HttpProbe::build(&mut Options::new(&value, Vec::new(), std::path::Path::new("."), &mut found));
    assert_eq!(probe.expect("good options").target(), "https://h.test/a?…");
}

#[test]
fn an_echo_does_not_show_what_was_logged_in_with() {
    let address = serve_all(1, |mut stream| {
        let asked = head(&mut stream).replace("\r\n", " ");
        let text = format!("HTTP/1.1 200 OK\r\nX-Echo: {asked}\r\nContent-Length: {}\r\n\r\n{asked}", asked.len());
        reply(&mut stream, &text);
    });
    let seen = get(address, "username: u, password: hunter2, expect: { body: { equals: nothing } }");
    let said = format!("{seen:?}");
    assert!(said.contains("authorization: Basic ***") && !said.contains("dTpodW50ZXIy"), "{said}");
}

#[test]
fn a_redirect_forgets_the_address_of_the_first_server() {
    // Nobody listens there, and the name has two addresses: which one it was is not known.
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("loopback has a port");
    let address = serve_all(1, move |mut stream| {
        head(&mut stream);
        let to = format!("http://localhost:{}/", free.port());
        reply(&mut stream, &format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"));
    });
    let seen = get(address, "");
    assert_eq!(seen.reason().kind, Kind::Refused, "{seen:?}");
    assert_ne!(seen.observation.address, Some(address));
}

#[test]
fn mistakes_in_the_options_are_told() {
    let table = [
        ("url: htp://h", "url: the scheme `htp` does not fit here (did you mean `http`?)"),
        ("url: 'http://'", "url: this is no URL: empty host"),
        ("{ url: 'http://h', method: 'G T' }", "method: `G T` is no method"),
        ("{ url: 'http://h', headers: { 'a b': c } }", "headers.a b: `a b` is no name of a header"),
        ("{ url: 'http://h', headers: { a: \"b\\nc\" } }", "headers.a: the value of `a` cannot be sent"),
        ("{ url: 'http://h', redirects: 21 }", "redirects: 21 is more than 20"),
        ("{ url: 'http://h', bearer: a, username: b }", "bearer: there are two ways to log in"),
        ("{ url: 'http://h', password: b }", "password: a password needs its user name"),
        ("{ url: 'http://h', version: 3 }", "version: `3` is no version of HTTP"),
        ("{ url: 'http://h', proxy: 'socks://h' }", "proxy: the scheme `socks` does not fit here"),
        ("{ url: 'http://h', expect: { status: 20x } }", "expect.status: `20x` is no HTTP status"),
        (
            "{ url: 'http://h', expect: { body: { matches: '(' } } }",
            "expect.body.matches: `(` is no regular expression: unclosed group",
        ),
        ("{ url: 'http://h', expect: { body: { json: { $.: 1 } } } }", "is no JSONPath (RFC 9535)"),
        (
            "{ url: 'http://h', expect: { certificate_days: 14 } }",
            "expect.certificate_days: there is no certificate without https",
        ),
        ("{ url: 'http://h', method: HEAD, expect: { body: { contains: a } } }", "expect.body: the answer to HEAD"),
        ("{ url: 'http://h', expect: { stat: 200 } }", "expect.stat: unknown key `stat` (did you mean `status`?)"),
    ];
    for (yaml, expected) in table {
        let got = problems(&HTTP, yaml);
        assert!(got.iter().any(|p| p.contains(expected)), "{yaml}: {got:?}");
    }
}
