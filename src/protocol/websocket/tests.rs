//! `websocket` against scripted peers: what they may do wrong, and what becomes of a message then.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    thread::sleep,
};

use super::*;
use crate::{
    observation::Outcome,
    options::{Options, Problem},
    protocol::{
        Net,
        testing::{SECRET, Seen, problems, run, serve, serve_all, silent},
        wire::{Family, NetOptions},
    },
};

const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// Reads the request and answers 101 as it should be.
fn accept(stream: &mut TcpStream) -> String {
    let request = head(stream);
    let key = request.lines().find_map(|l| l.strip_prefix("Sec-WebSocket-Key: ")).expect("a key");
    let answer = upgrade::accept(key);
    let text = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {answer}\r\n\r\n"
    );
    say(stream, text.as_bytes());
    request
}

fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("the client asks for an upgrade");
        head.extend(byte);
    }
    String::from_utf8(head).expect("the request is text")
}

fn say(stream: &mut TcpStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes);
}

/// A server's frame: not masked.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len();
    let head = match length {
        0..126 => vec![first, length as u8],
        126..65_536 => [&[first, 126][..], &(length as u16).to_be_bytes()].concat(),
        _ => [&[first, 127][..], &(length as u64).to_be_bytes()].concat(),
    };
    [&head, payload].concat()
}

/// The client's next frame, unmasked; `None` when it has hung up.
fn hear(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).ok()?;
    assert!(head[1] & 0x80 != 0, "a client masks its frames (section 5.3)");
    let mut length = usize::from(head[1] & 0x7f);
    if length == 126 {
        let mut bytes = [0; 2];
        stream.read_exact(&mut bytes).ok()?;
        length = usize::from(u16::from_be_bytes(bytes));
    }
    let mut mask = [0; 4];
    stream.read_exact(&mut mask).ok()?;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).ok()?;
    payload.iter_mut().enumerate().for_each(|(n, b)| *b ^= mask[n % 4]);
    Some((head[0], payload))
}

/// Answers pings and the close frame as it should, until the client hangs up; gives what else came.
fn behave(stream: &mut TcpStream) -> Vec<(u8, Vec<u8>)> {
    let mut heard = Vec::new();
    while let Some((first, payload)) = hear(stream) {
        match first {
            PING => say(stream, &frame(PONG, &payload)),
            CLOSE => say(stream, &frame(CLOSE, &payload)),
            _ => heard.push((first, payload)),
        }
    }
    heard
}

fn ask(address: SocketAddr, more: &str) -> Seen {
    run(&WEBSOCKET, &format!("{{ url: 'ws://{address}/socket?token={SECRET}'{more} }}"), 1_000)
}

#[test]
fn a_ping_is_answered_and_a_goodbye_said() {
    let (tell, told) = std::sync::mpsc::channel();
    let address = serve(move |mut stream| {
        let request = accept(&mut stream);
        // A pong that nobody asked for, and the server's own ping.
        say(&mut stream, &[frame(PONG, b"x"), frame(PING, b"y"), frame(TEXT, b"hello")].concat());
        tell.send((request, behave(&mut stream))).expect("the test waits");
    });
    let seen = ask(address, &format!(", headers: {{ Authorization: 'Bearer {SECRET}' }}"));
    let (request, heard) = told.recv().expect("the peer ends");
    assert!(request.starts_with("GET /socket?token=hunter2-secret HTTP/1.1\r\nHost: 127.0.0.1:"), "{request}");
    assert!(request.contains("\r\nSec-WebSocket-Version: 13\r\n"), "{request}");
    assert!(request.contains("\r\nAuthorization: Bearer hunter2-secret\r\n"), "{request}");
    assert!(!request.contains("Sec-WebSocket-Protocol"), "{request}");
    assert_eq!(heard, [(PONG, b"y".to_vec())]);
    assert_eq!((seen.outcome(), &seen.observation.reason), (Outcome::Ok, &None));
    assert_eq!(seen.phases(), [Phase::Resolve, Phase::Connect, Phase::Exchange, Phase::Close]);
    let said: Vec<&str> = seen.transcript.iter().map(|l| l.text.as_str()).collect();
    assert!(["101 Switching Protocols", "Ping", "Pong", "Close 1000"].iter().all(|t| said.contains(t)), "{said:?}");
}

#[test]
fn what_a_peer_may_do_wrong_is_told() {
    type Peer = fn(TcpStream);
    let exchange = Phase::Exchange;
    let table: Vec<(Peer, Kind, &str)> = vec![
        (
            |mut s| {
                say(&mut s, b"220 mail.example.com ESMTP\r\n");
                head(&mut s);
            },
            Kind::Protocol,
            "what answers is no HTTP server: \"220 mail",
        ),
        (|mut s| drop(head(&mut s)), Kind::Closed, "the server closed the connection before it answered the upgrade"),
        (
            |mut s| {
                head(&mut s);
                say(&mut s, b"HTTP/1.1 101 Switching");
            },
            Kind::Closed,
            "the server closed the connection before it answered the upgrade",
        ),
        (
            |mut s| {
                head(&mut s);
                say(&mut s, b"HTTP/1.1 101 x\r\n");
                while s.write_all(b"X-Filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n").is_ok() {}
            },
            Kind::TooLarge,
            "the head of the answer to the upgrade is longer than 32768 bytes",
        ),
        (
            |mut s| {
                head(&mut s);
                say(&mut s, b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAA\r\n\r\n");
            },
            Kind::Protocol,
            "the server's upgrade is wrong: its Sec-WebSocket-Accept does not answer our key",
        ),
        (
            |mut s| {
                head(&mut s);
                say(
                    &mut s,
                    b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n",
                );
                sleep(Duration::from_millis(50));
                say(&mut s, b"{\"error\":\"no token\"}");
            },
            Kind::Rejected,
            "upgrade refused: 401 Unauthorized: {\"error\":\"no token\"}",
        ),
        (
            |mut s| {
                head(&mut s);
                say(&mut s, b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nContent-Length: 20\r\n\r\nno");
                sleep(Duration::from_millis(1_500));
            },
            Kind::Rejected,
            "upgrade refused: 403 Forbidden: no",
        ),
        (
            |mut s| {
                accept(&mut s);
                // Masked, as only a client's may be (section 5.1).
                say(&mut s, &[TEXT, 0x81, 1, 2, 3, 4, b'a' ^ 1]);
                behave(&mut s);
            },
            Kind::Protocol,
            "the server broke the protocol: Received a masked frame from server",
        ),
        (
            |mut s| {
                accept(&mut s);
                say(&mut s, &[&[TEXT, 127][..], &u64::MAX.to_be_bytes()].concat());
                behave(&mut s);
            },
            Kind::TooLarge,
            "the server sent a message longer than 1048576 bytes",
        ),
        (
            |mut s| {
                accept(&mut s);
                // A message without an end, in fragments that are small enough each.
                let piece = [b'x'; 60_000];
                say(&mut s, &frame(0x01, &piece));
                while s.write_all(&frame(0x00, &piece)).is_ok() {}
            },
            Kind::TooLarge,
            "the server sent a message longer than 1048576 bytes",
        ),
        (
            |mut s| {
                accept(&mut s);
                say(&mut s, &frame(TEXT, b"\xff\xfe"));
                behave(&mut s);
            },
            Kind::Protocol,
            "the server sent a text frame that is no UTF-8",
        ),
        (
            |mut s| {
                accept(&mut s);
                say(&mut s, &[frame(0xc1, b"compressed"), frame(PONG, b"x")].concat());
                behave(&mut s);
            },
            Kind::Protocol,
            "the server broke the protocol: Reserved bits are non-zero",
        ),
        (
            |mut s| {
                accept(&mut s);
                hear(&mut s);
                say(&mut s, &frame(TEXT, b"cut off")[..4]);
            },
            Kind::Closed,
            "the server closed the connection without a close frame",
        ),
        (
            |mut s| {
                accept(&mut s);
                say(&mut s, &frame(CLOSE, b"\x03\xf3out of memory"));
                behave(&mut s);
            },
            Kind::Closed,
            "the server closed the session: internal error of the server (code 1011): out of memory",
        ),
        (
            |mut s| {
                accept(&mut s);
                say(&mut s, &frame(CLOSE, b"\x03\xf0"));
                behave(&mut s);
            },
            Kind::Rejected,
            "the server closed the session: against its policy (code 1008)",
        ),
        (
            |mut s| {
                accept(&mut s);
                say(&mut s, &frame(CLOSE, b""));
                behave(&mut s);
            },
            Kind::Closed,
            "the server closed the session without a code",
        ),
        (
            |mut s| {
                head(&mut s);
                sleep(Duration::from_millis(1_500));
            },
            Kind::Timeout,
            "no answer from 127.0.0.1:",
        ),
        (
            |mut s| {
                accept(&mut s);
                say(&mut s, &frame(PONG, b"another"));
                sleep(Duration::from_millis(1_500));
            },
            Kind::Timeout,
            "within 1s; the upgrade was made, the ping is not answered",
        ),
    ];
    for (peer, kind, text) in table {
        let seen = ask(serve(peer), "");
        let reason = seen.reason();
        assert_eq!((reason.phase, reason.kind), (exchange, kind), "{reason}");
        assert!(reason.text.contains(text), "{text}: {reason}");
    }
    assert_eq!(ask(silent(), "").reason().kind, Kind::Timeout);
}

#[test]
fn one_byte_at_a_time_is_slow_and_right() {
    let address = serve(|mut stream| {
        let request = head(&mut stream);
        let key = request.lines().find_map(|l| l.strip_prefix("Sec-WebSocket-Key: ")).expect("a key");
        let accept = upgrade::accept(key);
        let text = format!(
            "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\nX: {}\r\n\r\n",
            "y".repeat(700)
        );
        stream.set_nodelay(true).expect("a socket");
        // The message comes in three fragments, a ping between them (section 5.4).
        let pieces = [frame(0x01, "봉".as_bytes()), frame(PING, b"p"), frame(0x00, b"-"), frame(0x80, "수".as_bytes())];
        for byte in [text.as_bytes(), &pieces.concat()].concat() {
            say(&mut stream, &[byte]);
        }
        behave(&mut stream);
    });
    let seen = run(&WEBSOCKET, &format!("{{ url: 'ws://{address}', exchange: [{{ expect: 봉-수 }}] }}"), 5_000);
    assert_eq!((seen.outcome(), &seen.observation.reason), (Outcome::Ok, &None));
}

#[test]
fn an_exchange_is_held_step_by_step() {
    let steps = ", exchange: [{ expect: hello }, { send: hunter2-secret }, { expect_json: { $.type: welcome } }, \
                 { send: bye }, { expect_regex: '^b.e$' }]";
    let peer = |answer: &'static str| {
        serve(move |mut stream| {
            accept(&mut stream);
            say(&mut stream, &[frame(TEXT, b"noise"), frame(TEXT, b"hello")].concat());
            assert_eq!(hear(&mut stream), Some((TEXT, SECRET.as_bytes().to_vec())));
            say(&mut stream, &frame(TEXT, answer.as_bytes()));
            if let Some((TEXT, bye)) = hear(&mut stream) {
                say(&mut stream, &frame(0x82, &bye));
            }
            behave(&mut stream);
        })
    };
    let seen = ask(peer(r#"{"type": "welcome"}"#), steps);
    assert_eq!((seen.outcome(), &seen.observation.reason), (Outcome::Ok, &None));
    // What is sent may be a login: its length is told.
    assert!(seen.transcript.iter().any(|l| l.text == "step 2: text frame of 14 bytes"), "{:?}", seen.transcript);
    let reason = ask(peer(r#"{"type": "denied"}"#), steps).reason().clone();
    assert_eq!(reason.kind, Kind::Timeout);
    assert!(reason.text.ends_with("within 1s; $.type is \"denied\", expected \"welcome\""), "{reason}");
    let address = serve(|mut stream| {
        accept(&mut stream);
        say(&mut stream, &frame(CLOSE, b"\x0b\xb8no token"));
        behave(&mut stream);
    });
    let reason = ask(address, steps).reason().clone();
    assert_eq!(reason.kind, Kind::Rejected);
    let text = "the server closed the session: unauthorised (code 3000): no token; expected a frame with \"hello\", got nothing";
    assert_eq!(reason.text, text);
    let address = serve(|mut stream| {
        accept(&mut stream);
        while stream.write_all(&frame(TEXT, b"noise")).is_ok() {}
    });
    let reason = ask(address, steps).reason().clone();
    assert_eq!(
        (reason.kind, reason.text.as_str()),
        (Kind::TooLarge, "1000 frames came; expected a frame with \"hello\", got \"noise\"")
    );
}

// ---------------------------------------------------------------------------------------------------------------
// The sides of a delivery

fn built<T: ?Sized>(build: super::super::Build<T>, yaml: &str) -> Result<Box<T>, Vec<Problem>> {
    let value = serde_yaml::from_str(yaml).expect("well-formed YAML");
    let mut problems = Vec::new();
    let built = build(&mut Options::new(&value, Vec::new(), Path::new("."), &mut problems));
    built.ok_or(problems)
}

fn sender(address: SocketAddr, more: &str) -> Box<dyn Sender> {
    let yaml = format!("{{ url: 'ws://{address}', keep_alive: 150ms{more} }}");
    built(WEBSOCKET.send.expect("it can send"), &yaml).unwrap_or_else(|p| panic!("{yaml}: {p:?}"))
}

fn receiver(address: SocketAddr, more: &str) -> Box<dyn Receiver> {
    let yaml = format!("{{ url: 'ws://{address}', keep_alive: 150ms{more} }}");
    built(WEBSOCKET.receive.expect("it can receive"), &yaml).unwrap_or_else(|p| panic!("{yaml}: {p:?}"))
}

fn attempt() -> Attempt {
    let net = Net::new(NetOptions { nameservers: vec![], ..NetOptions::default() }).expect("a resolver");
    Attempt::new(net, Family::Any, clock::now(), clock::instant(), true)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

/// Opens a sender and sends one message; how that ended, within half a second.
fn send(address: SocketAddr, more: &str, payload: &[u8]) -> (Option<Result<(), SendFailure>>, bool) {
    let sender = sender(address, more);
    block_on(async {
        let mut cx = attempt();
        let mut session = sender.open(&mut cx).await.expect("it opens");
        let sent = tokio::time::timeout(Duration::from_millis(500), session.send(&mut cx, payload)).await;
        (sent.ok(), session.message_left())
    })
}

#[test]
fn a_message_is_framed_as_the_options_say() {
    let table: [(&str, u8, &str); 4] = [
        ("", TEXT, "봉 \"수\"\n"),
        (", binary: true", 0x82, "봉 \"수\"\n"),
        (", message: 'SAY {{message}}'", TEXT, "SAY 봉 \"수\"\n"),
        (r#", message: '{"say":"{{message}}"}'"#, TEXT, r#"{"say":"봉 \"수\"\n"}"#),
    ];
    for (more, first, text) in table {
        let (tell, told) = std::sync::mpsc::channel();
        let address = serve(move |mut stream| {
            accept(&mut stream);
            tell.send(behave(&mut stream)).expect("the test waits");
        });
        let (sent, left) = send(address, more, "봉 \"수\"\n".as_bytes());
        assert_eq!((sent, left), (Some(Ok(())), true), "{more}");
        assert_eq!(told.recv().expect("the peer ends"), [(first, text.as_bytes().to_vec())], "{more}");
    }
}

#[test]
fn what_becomes_of_a_message_is_told() {
    type Peer = fn(&mut TcpStream);
    type Failed = Option<(Accept, Kind)>;
    let ack = ", ack: { expect_json: { $.ok: true } }";
    let table: Vec<(&str, Peer, Failed, &str)> = vec![
        (
            ack,
            |s| {
                hear(s);
                say(
                    s,
                    &[frame(TEXT, b"noise"), frame(TEXT, br#"{"ok": false}"#), frame(TEXT, br#"{"ok": true}"#)]
                        .concat(),
                );
            },
            None,
            "",
        ),
        (
            "",
            |s| {
                hear(s);
                say(s, &frame(CLOSE, b"\x03\xf1too long"));
            },
            Some((Accept::Rejected, Kind::Rejected)),
            "the server closed the session: the message is too big (code 1009): too long",
        ),
        (
            "",
            |s| {
                hear(s);
                say(s, &frame(CLOSE, b"\x03\xf5"));
            },
            Some((Accept::Deferred, Kind::Deferred)),
            "the server closed the session: try again later (code 1013)",
        ),
        (
            "",
            |s| {
                hear(s);
                say(s, &frame(CLOSE, b"\x03\xe9"));
            },
            Some((Accept::Uncertain, Kind::Closed)),
            "the server closed the session: the server is going away (code 1001), before it acknowledged the message",
        ),
        (
            ack,
            |s| {
                hear(s);
                while s.write_all(&frame(TEXT, b"noise")).is_ok() {}
            },
            Some((Accept::Uncertain, Kind::TooLarge)),
            "1000 frames came, none with the expected $.ok, before it acknowledged the message",
        ),
    ];
    for (more, peer, failure, text) in table {
        let address = serve(move |mut stream| {
            accept(&mut stream);
            peer(&mut stream);
            behave(&mut stream);
        });
        let (sent, left) = send(address, more, b"message");
        let failed = sent.expect("it ends").err();
        assert_eq!(failed.as_ref().map(|f| (f.accept, f.reason.kind)), failure, "{text}: {failed:?}");
        if let Some(failed) = failed {
            assert_eq!((failed.reason.phase, failed.reason.text.as_str(), left), (Phase::Send, text, true));
        }
    }
    // Nobody answers: the caller drops the send, and is told that the message has left.
    let address = serve(|mut stream| {
        accept(&mut stream);
        while stream.read(&mut [0; 100]).is_ok_and(|n| n > 0) {
            // It sends enough to count as alive.
            say(&mut stream, &frame(TEXT, b"noise"));
        }
    });
    assert_eq!(send(address, "", b"message"), (None, true));
    // A server that was gone before.
    let address = serve(|mut stream| {
        accept(&mut stream);
        say(&mut stream, &frame(CLOSE, b"\x03\xe8"));
    });
    let sender = sender(address, "");
    block_on(async {
        let mut cx = attempt();
        let mut session = sender.open(&mut cx).await.expect("it opens");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let failure = session.send(&mut cx, b"message").await.expect_err("it is gone");
        assert_eq!((failure.accept, session.message_left()), (Accept::Unreachable, false));
        assert_eq!(failure.reason.text, "the server closed the session: normal end (code 1000)");
        assert_eq!(session.idle().await.kind, Kind::Closed);
    });
}

#[test]
fn first_steps_are_the_login() {
    let first = ", first: [{ send: 'login hunter2-secret' }, { expect: welcome }]";
    let peer = |answer: &'static [u8]| {
        move |mut stream: TcpStream| {
            accept(&mut stream);
            assert_eq!(hear(&mut stream), Some((TEXT, b"login hunter2-secret".to_vec())));
            say(&mut stream, answer);
            behave(&mut stream);
        }
    };
    let good: &[u8] = b"\x81\x07welcome";
    let bad: &[u8] = b"\x88\x02\x03\xf0";
    for (answer, good) in [(good, true), (bad, false)] {
        let address = serve_all(2, peer(answer));
        block_on(async {
            let mut cx = attempt();
            let sending = sender(address, first).open(&mut cx).await.map(|_| ());
            let receiving = receiver(address, first).open(&mut cx).await.map(|_| ());
            for opened in [sending, receiving] {
                assert_eq!(opened.is_ok(), good);
                if let Err(reason) = opened {
                    assert_eq!((reason.phase, reason.kind), (Phase::Login, Kind::Rejected));
                    assert!(reason.text.contains("(code 1008); expected a frame with \"welcome\""), "{reason}");
                }
            }
        });
    }
}

#[test]
fn messages_are_taken_out_of_frames_and_survive_a_dropped_wait() {
    let address = serve(|mut stream| {
        accept(&mut stream);
        // One before the session is ready.
        say(&mut stream, &frame(TEXT, br#"{"text": "early"}"#));
        let Some((PING, payload)) = hear(&mut stream) else { panic!("a ping was expected") };
        say(&mut stream, &frame(PONG, &payload));
        let rest =
            [frame(TEXT, br#"{"status": 1}"#), frame(TEXT, br#"{"text": "a"}"#), frame(0x82, br#"{"text": "b"}"#)];
        for byte in rest.concat() {
            say(&mut stream, &[byte]);
            sleep(Duration::from_millis(2));
        }
        behave(&mut stream);
    });
    let receiver = receiver(address, ", field: /text");
    block_on(async {
        let mut session = receiver.open(&mut attempt()).await.expect("it opens");
        let mut got = Vec::new();
        while got.len() < 3 {
            // Dropped at every await there is.
            let next = tokio::time::timeout(Duration::from_millis(1), session.next()).await;
            if let Ok(arrival) = next {
                got.push(String::from_utf8(arrival.expect("the session lasts").payload.to_vec()).expect("text"));
            }
        }
        assert_eq!(got, ["early", "a", "b"]);
        session.close().await;
    });
}

#[test]
fn a_dead_peer_ends_the_session() {
    let script = |mut stream: TcpStream| {
        accept(&mut stream);
        // The receiver's first ping is answered, and two more; then the peer is dead, its connection open.
        for _ in 0..3 {
            if let Some((PING, payload)) = hear(&mut stream) {
                say(&mut stream, &frame(PONG, &payload));
            }
        }
        sleep(Duration::from_secs(2));
    };
    block_on(async {
        let receiver = receiver(serve(script), "");
        let mut session = receiver.open(&mut attempt()).await.expect("it opens");
        let begun = clock::instant();
        let reason = session.next().await.expect_err("the peer is dead");
        assert_eq!((reason.phase, reason.kind), (Phase::Deliver, Kind::Timeout));
        assert_eq!(reason.text, "nothing came within 150ms of a ping");
        assert!(clock::instant() - begun >= Duration::from_millis(400), "it was kept alive before");
        let sender = sender(serve(script), "");
        let mut session = sender.open(&mut attempt()).await.expect("it opens");
        assert_eq!(session.idle().await.text, "nothing came within 150ms of a ping");
    });
}

#[test]
fn mistakes_in_the_options_are_told() {
    let table = [
        ("url: http://h", "url: the scheme `http` does not fit here (known here: ws, wss)"),
        ("{ url: 'ws://h', tls: {} }", "tls: `ws://` has no TLS (write wss:// in the URL)"),
        ("url: 'ws://h/#x'", "url: a WebSocket URL has no fragment (leave out `#` and what follows it)"),
        (
            "{ url: 'ws://u:p@h', headers: { authorization: x } }",
            "url: the URL and the headers both name a login (leave one of them out)",
        ),
        (
            "{ url: 'ws://h', headers: { 'a b': x } }",
            "headers.a b: `a b` is no name of a header (use letters, digits and `-`)",
        ),
        (
            "{ url: 'ws://h', headers: { Upgrade: x } }",
            "headers.Upgrade: `Upgrade` is the handshake's own header (leave it out)",
        ),
        (
            "{ url: 'ws://h', headers: { Sec-WebSocket-Protocol: x } }",
            "headers.Sec-WebSocket-Protocol: `Sec-WebSocket-Protocol` is set by `subprotocol` (name the subprotocol there)",
        ),
        (
            "{ url: 'ws://h', headers: { x: \"a\\r\\nb\" } }",
            "headers.x: the value of `x` cannot be sent in a header (line ends and characters beyond ASCII cannot be sent)",
        ),
        (
            "{ url: 'ws://h', subprotocol: [a, a] }",
            "subprotocol: `a` is no name of a subprotocol, or is named twice (write it as chat or v12.stomp)",
        ),
        (
            "{ url: 'ws://h', exchange: [{ expect: '' }] }",
            "exchange: an expected frame is empty (write what must come)",
        ),
    ];
    for (yaml, expected) in table {
        assert_eq!(problems(&WEBSOCKET, yaml), [expected], "{yaml}");
    }
    let many = vec!["{ send: a }"; 51].join(", ");
    assert!(
        problems(&WEBSOCKET, &format!("{{ url: 'ws://h', exchange: [{many}] }}"))[0]
            .starts_with("exchange: more than 50 steps")
    );
    let send = |yaml: &str| built(WEBSOCKET.send.expect("it can send"), yaml).err().map(|p| p[0].text.clone());
    assert_eq!(send("{ url: 'ws://h', message: hello }").as_deref(), Some("the message's place is named 0 times"));
    assert_eq!(send("{ url: 'ws://h', ack: { expect: '' } }").as_deref(), Some("an expected frame is empty"));
    let receive = |yaml: &str| built(WEBSOCKET.receive.expect("it can receive"), yaml).err().map(|p| p[0].text.clone());
    assert!(receive("{ url: 'ws://h', field: text }").is_some_and(|text| text.contains("is no JSONPath")));
    let probe = built(WEBSOCKET.probe.expect("it can probe"), "url: 'wss://u:hunter2@[::1]/a?b=c'");
    assert_eq!(probe.map(|p| p.target()).ok().as_deref(), Some("wss://[::1]:443/a"));
}
