//! Webhooks by real sockets: what is sent, how it is signed, and how answers are taken.

use std::{path::Path, time::Instant};

use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{
    alert::MessageKind,
    notify::{testing, text::tests::alert},
    options::Segment,
    value::Masker,
};

/// What a scripted receiver does with one connection.
enum Act {
    /// Answers so.
    Say(&'static str),
    /// Answers so, and leaves the connection open.
    SayAndHang(&'static str),
    /// Reads the request and never answers.
    Hang,
    /// Answers 500 with a body that never ends.
    Endless,
    /// Closes at once.
    Close,
}

/// A request as it came in.
struct Seen {
    head: String,
    body: Vec<u8>,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Serves one connection for each act and returns what was asked.
async fn receiver(listener: TcpListener, acts: Vec<Act>) -> Vec<Seen> {
    let mut seen = Vec::new();
    for act in acts {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut read = Vec::new();
        let end = loop {
            if let Some(end) = read.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            assert_ne!(stream.read_buf(&mut read).await.expect("a request"), 0, "a whole head");
        };
        let head = String::from_utf8(read[..end].to_vec()).expect("an ASCII head");
        let mut request = Seen { head, body: read[end..].to_vec() };
        let length = request.header("content-length").map_or(0, |n| n.parse().expect("a length"));
        while request.body.len() < length {
            stream.read_buf(&mut request.body).await.expect("a body");
        }
        seen.push(request);
        match act {
            Act::Say(answer) => stream.write_all(answer.as_bytes()).await.expect("an open connection"),
            Act::Hang | Act::SayAndHang(_) => {
                if let Act::SayAndHang(answer) = act {
                    stream.write_all(answer.as_bytes()).await.expect("an open connection");
                }
                let mut byte = [0];
                let _ = stream.read(&mut byte).await;
            }
            Act::Endless => {
                let _ = stream.write_all(b"HTTP/1.1 500 Oops\r\ncontent-type: text/plain\r\n\r\n").await;
                while stream.write_all(&[b'x'; 4_096]).await.is_ok() {}
            }
            Act::Close => {}
        }
    }
    seen
}

/// Builds a channel to a receiver that acts so and delivers the message once for each act.
async fn play(more: &str, message: &Message, acts: Vec<Act>) -> (Vec<Attempted>, Vec<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let port = listener.local_addr().expect("bound").port();
    let yaml = format!("url: http://localhost:{port}/services/T0/token-in-path\n{more}");
    let channel = testing::build(&WEBHOOK, &yaml, Path::new(".")).expect("good options");
    let net = testing::net(Masker::default());
    let times = acts.len();
    let deliveries = async {
        let mut results = Vec::new();
        for _ in 0..times {
            results.push(channel.deliver(&net, message).await);
        }
        results
    };
    tokio::join!(deliveries, receiver(listener, acts))
}

fn message() -> Message {
    testing::message(alert(MessageKind::Problem))
}

fn error(attempted: &Attempted) -> &str {
    match attempted {
        Attempted::Delivered => "delivered",
        Attempted::Retry { error, .. } | Attempted::Refused { error } => error,
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn a_message_is_delivered_signed_and_keyed() {
    let secret = STANDARD.encode("a key of thirty-two bytes length");
    let yaml = format!("secret: whsec_{secret}\nheaders: {{ X-Team: mail }}\nbearer: token");
    let (results, seen) = play(&yaml, &message(), vec![Act::Say(OK)]).await;
    assert_eq!(results, [Attempted::Delivered]);
    let request = &seen[0];
    assert!(request.head.starts_with("POST /services/T0/token-in-path HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("idempotency-key"), Some("seoul-1.12.ops.0"));
    assert_eq!(request.header("authorization"), Some("Bearer token"));
    assert_eq!(request.header("x-team"), Some("mail"));
    assert_eq!(request.header("webhook-id"), Some("seoul-1.12.ops.0"));
    // Verified by hand, as a receiver would, not by the code that signed it.
    let timestamp = request.header("webhook-timestamp").expect("a timestamp");
    let age = clock::now().as_millis() / 1_000 - timestamp.parse::<i64>().expect("seconds");
    assert!((0..60).contains(&age), "{age}");
    let signed = [format!("seoul-1.12.ops.0.{timestamp}.").as_bytes(), &request.body].concat();
    let signature = request.header("webhook-signature").and_then(|s| s.strip_prefix("v1,")).expect("version 1");
    let signature = STANDARD.decode(signature).expect("Base64");
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"a key of thirty-two bytes length");
    ring::hmac::verify(&key, &signed, &signature).expect("the signature fits");
    let body: serde_json::Value = serde_json::from_slice(&request.body).expect("JSON");
    assert_eq!(body["key"], "seoul-1.12.ops.0");
}

#[tokio::test]
async fn every_attempt_has_the_same_key_and_body() {
    let answers = vec![Act::Say("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"), Act::Say(OK)];
    let (results, seen) = play("", &message(), answers).await;
    assert!(matches!(&results[0], Attempted::Retry { retry_after: None, .. }), "{results:?}");
    assert_eq!(results[1], Attempted::Delivered);
    assert_eq!(seen[0].header("idempotency-key"), seen[1].header("idempotency-key"));
    assert_eq!(seen[0].body, seen[1].body);
}

#[tokio::test]
async fn answers_are_told_in_the_receivers_words() {
    let acts = vec![
        Act::Say("HTTP/1.1 429 Slow down\r\nretry-after: 17\r\ncontent-length: 4\r\n\r\neasy"),
        Act::Say("HTTP/1.1 404 No\r\ncontent-length: 7\r\n\r\nno_team"),
        Act::Say("HTTP/1.1 307 There\r\nlocation: http://127.0.0.1:1/steal?t=1\r\ncontent-length: 0\r\n\r\n"),
        Act::Close,
    ];
    let (results, seen) = play("", &message(), acts).await;
    let Attempted::Retry { error: text, retry_after } = &results[0] else { panic!("{results:?}") };
    assert!(text.contains("answers 429: easy"), "{text}");
    assert_eq!(*retry_after, Some(Duration::from_secs(17)));
    assert!(matches!(&results[1], Attempted::Refused { error } if error.contains("answers 404: no_team")));
    assert!(matches!(&results[2], Attempted::Refused { error } if error.contains("a redirect to 127.0.0.1")));
    assert!(matches!(&results[3], Attempted::Retry { .. }), "{results:?}");
    assert_eq!(seen.len(), 4, "the redirect was not followed");
    for result in &results {
        assert!(error(result).starts_with("localhost:") && !error(result).contains("token"), "{result:?}");
    }
}

#[tokio::test]
async fn a_receiver_that_hangs_or_never_ends_is_left_in_time() {
    let begun = Instant::now();
    let (results, _) = play("timeout: 300ms", &message(), vec![Act::Hang, Act::Endless]).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(error(&results[0]).ends_with("no answer within 300ms"), "{results:?}");
    assert!(
        matches!(&results[1], Attempted::Retry { error, .. } if error.contains("answers 500: xxxx")),
        "{results:?}"
    );
    assert!(error(&results[1]).len() < 400);
}

#[tokio::test]
async fn a_status_counts_though_its_body_never_comes() {
    let stalled = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n";
    let no = "HTTP/1.1 404 No\r\ncontent-length: 99\r\n\r\nno_team";
    let acts = vec![Act::SayAndHang(stalled), Act::SayAndHang(no)];
    let (results, _) = play("timeout: 600ms", &message(), acts).await;
    assert_eq!(results[0], Attempted::Delivered);
    assert!(
        matches!(&results[1], Attempted::Refused { error } if error.contains("answers 404: no_team")),
        "{results:?}"
    );
}

#[tokio::test]
async fn a_receiver_that_is_not_there_is_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let port = listener.local_addr().expect("bound").port();
    drop(listener);
    let net = testing::net(Masker::default());
    for (url, expected) in [
        (format!("http://127.0.0.1:{port}/x"), "connection refused"),
        ("http://name.invalid/x".to_owned(), "name.invalid"),
    ] {
        let channel = testing::build(&WEBHOOK, &format!("url: {url}\ntimeout: 5s"), Path::new(".")).expect("good");
        let result = channel.deliver(&net, &message()).await;
        assert!(matches!(&result, Attempted::Retry { error, .. } if error.contains(expected)), "{result:?}");
    }
}

#[tokio::test]
async fn a_private_ca_is_trusted_and_a_stranger_is_not() {
    let key = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("ca.pem"), key.cert.pem()).expect("own directory");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let port = listener.local_addr().expect("bound").port();
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private)
        .expect("a certificate with its key");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let serve = async {
        for _ in 0..3 {
            let (stream, _) = listener.accept().await.expect("a connection");
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let mut buffer = [0; 65_536];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(OK.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        }
    };
    let ask = async {
        let net = testing::net(Masker::default());
        let mut results = Vec::new();
        for tls in ["{}", "{ ca: ca.pem }", "{ insecure: true }"] {
            let yaml = format!("url: https://localhost:{port}/x\ntls: {tls}");
            let channel = testing::build(&WEBHOOK, &yaml, dir.path()).expect("good options");
            results.push(channel.deliver(&net, &message()).await);
        }
        results
    };
    let (results, ()) = tokio::join!(ask, serve);
    assert!(matches!(&results[0], Attempted::Retry { error, .. } if error.contains("certificate")), "{results:?}");
    assert_eq!(results[1..], [Attempted::Delivered, Attempted::Delivered]);
}

#[tokio::test]
async fn a_template_makes_the_body_and_ntfy_its_headers() {
    let yaml = "template: '{\"msg\": {{ title | tojson }}}'\nmethod: PUT";
    let (results, seen) = play(yaml, &message(), vec![Act::Say(OK)]).await;
    assert_eq!(results, [Attempted::Delivered]);
    assert!(seen[0].head.starts_with("PUT "));
    let body: serde_json::Value = serde_json::from_slice(&seen[0].body).expect("JSON");
    assert_eq!(body["msg"], "[DOWN] 회사 메일: submission: login: 535 5.7.8 <no> \"entry\" & more");
    let (results, seen) = play("preset: ntfy", &message(), vec![Act::Say(OK)]).await;
    assert_eq!(results, [Attempted::Delivered]);
    assert_eq!(seen[0].header("priority"), Some("5"));
    assert!(seen[0].header("title").expect("a title").starts_with("=?UTF-8?B?"));
}

#[tokio::test]
async fn any_key_becomes_a_header() {
    let mut message = message();
    message.key = "서울-1\r\nx: y".into();
    let (results, seen) = play("secret: s", &message, vec![Act::Say(OK)]).await;
    assert_eq!(results, [Attempted::Delivered]);
    assert_eq!(seen[0].header("webhook-id"), seen[0].header("idempotency-key"));
    assert_eq!(seen[0].header("webhook-id"), Some("%EC%84%9C%EC%9A%B8-1%0D%0Ax%3A+y"));
    assert_eq!(seen[0].header("x"), None);
}

#[test]
fn targets_show_no_token() {
    let table = [
        ("https://hooks.slack.com/services/T0/B0/secret", "https://hooks.slack.com/services/…"),
        ("https://api.telegram.org/bot123:abc/sendMessage", "https://api.telegram.org/…"),
        ("https://user:hunter2@example.com:8443/", "https://example.com:8443/"),
        ("https://example.com/tokentokentoken", "https://example.com/…"),
        ("https://example.com", "https://example.com/"),
        ("https://example.com/?token=x", "https://example.com/"),
    ];
    for (url, target) in table {
        let yaml = format!("url: \"{url}\"");
        let channel = testing::build(&WEBHOOK, &yaml, Path::new(".")).expect(url);
        assert_eq!(channel.target(), target);
    }
}

#[test]
fn mistakes_are_told_where_they_stand() {
    let table = [
        ("url: ftp://x", "url: the scheme `ftp` does not fit here"),
        ("url: nonsense", "url: this is no URL: relative URL without a base"),
        ("{}", ": `url` is missing"),
        ("{ url: 'http://x', preset: slak }", "preset: unknown value `slak`; did you mean `slack`?"),
        ("{ url: 'http://x', secret: 'whsec_???' }", "secret: what follows whsec_ is no Base64"),
        (
            "{ url: 'http://x', template: '{{ titel }}' }",
            "template: line 1 of the template: `titel` is undefined (for a message of the kind `problem`)",
        ),
        (
            "{ url: 'http://x', template: 'x', content_type: text/plain, preset: ntfy }",
            "preset: a template replaces what this preset sends",
        ),
        (
            "{ url: 'http://x', template_file: absent.j2 }",
            "template_file: ./absent.j2 cannot be read: No such file or directory (os error 2)",
        ),
        (
            "{ url: 'http://x', template_file: /dev/zero }",
            "template_file: /dev/zero cannot be read: it is not a plain file",
        ),
        ("{ url: 'http://x', content_type: text/plain }", "content_type: a content type without a template"),
        ("{ url: 'http://x', headers: { 'a b': c } }", "headers.a b: `a b` is no header"),
        ("{ url: 'http://x', headers: { a: \"x\\ny\" } }", "headers.a: a header's value is printable ASCII"),
        ("{ url: 'http://x', headers: { Host: y } }", "headers.Host: the header `host` is set by the request itself"),
        ("{ url: 'http://x', bearer: a, username: b }", "bearer: there is a user name or password as well"),
        ("{ url: 'http://x', password: b }", "password: a password needs its user name"),
        ("{ url: 'http://x', timeout: 5m }", "timeout: a time-out is between 100ms and 45s"),
        ("{ url: 'http://x', preset: telegram }", "preset: Telegram needs the chat to write to"),
        ("{ url: 'http://x', timezone: Asia/Soul }", "timezone: `Asia/Soul` is no time zone"),
        ("{ url: 'http://x', tls: { server_name: y } }", "tls.server_name: a webhook asks for the name in its URL"),
    ];
    for (yaml, expected) in table {
        let problems = testing::build(&WEBHOOK, yaml, Path::new(".")).err().expect(yaml);
        let problem = &problems[0];
        let path: Vec<&str> =
            problem.path.iter().map(|s| if let Segment::Key(key) = s { key.as_str() } else { "[]" }).collect();
        assert_eq!(format!("{}: {}", path.join("."), problem.text), expected, "{yaml}");
        assert_eq!(problems.len(), 1, "{yaml}: {problems:?}");
    }
}
