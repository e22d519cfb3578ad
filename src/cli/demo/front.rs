//! Two small HTTP servers of the demo: the messenger's front, whose health page stays green whatever happens behind
//! it, and the receiver of webhooks, which keeps what it was sent and checks the signature.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode},
    routing::{get, post},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use ring::hmac;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{clock, value::Timestamp};

/// Longest body taken; an alert with all its checks and points has some tens of kilobytes.
const BODY_BYTES_MAX: usize = 256 * 1_024;

/// Requests kept; the oldest are forgotten.
const KEPT_MAX: usize = 1_000;

/// How old or new a signed request may be; the tolerance that Standard Webhooks recommends.
const SIGNED_WITHIN: Duration = Duration::from_secs(300);

/// What a signing secret begins with (Standard Webhooks).
const SECRET_PREFIX: &str = "whsec_";

/// A running server; dropping it ends it.
struct Running {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(router: Router) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            // It ends only by being dropped: errors of single connections are dealt with inside.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, task })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The front

/// The messenger's web front: what most monitors look at.
pub struct Front {
    running: Running,
    asked: Arc<Mutex<u64>>,
}

impl Front {
    /// Starts it on a free loopback port. `/health` answers 200 and `{"status":"ok"}`, always; `/` has a page.
    pub async fn start() -> io::Result<Self> {
        let asked = Arc::new(Mutex::new(0));
        let router = Router::new()
            .route("/health", get(health))
            .route("/", get(|| async { "Demo messenger: write to your friends.\n" }))
            .with_state(asked.clone());
        Ok(Self { running: Running::start(router).await?, asked })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.running.address
    }

    /// How often the health page was asked for; it was green each time.
    pub fn asked(&self) -> u64 {
        *lock(&self.asked)
    }
}

async fn health(State(asked): State<Arc<Mutex<u64>>>) -> Json<Value> {
    *lock(&asked) += 1;
    Json(json!({ "status": "ok" }))
}

// ---------------------------------------------------------------------------------------------------------------
// The receiver

/// A webhook as it was received.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// When.
    pub at: Timestamp,
    /// Its headers, names in lower case; a value that is not text is left out.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
    /// Whether it was signed with the secret, and recently.
    pub signature: Signature,
}

impl Received {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Its body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// What came of checking a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// Made with the secret, over this very body.
    Valid,
    /// Made with another secret or over another body.
    Wrong,
    /// Right, but made too long ago, or in the future: a replay.
    Stale,
    /// Not there, or not readable.
    Missing,
}

impl Signature {
    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "signature valid",
            Self::Wrong => "signature WRONG",
            Self::Stale => "signature too old",
            Self::Missing => "not signed",
        }
    }
}

/// The receiver of webhooks: somebody's chat.
pub struct Receiver {
    running: Running,
    shared: Arc<Inbox>,
}

struct Inbox {
    key: hmac::Key,
    received: Mutex<VecDeque<Received>>,
}

impl Receiver {
    /// Starts it on a free loopback port; `secret` is a Standard Webhooks secret, `whsec_` and Base64.
    pub async fn start(secret: &str) -> io::Result<Self> {
        let bytes = STANDARD.decode(secret.strip_prefix(SECRET_PREFIX).unwrap_or(secret));
        let bytes = bytes.map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let shared = Arc::new(Inbox { key: hmac::Key::new(hmac::HMAC_SHA256, &bytes), received: Mutex::default() });
        let router = Router::new()
            .route("/hook", post(receive))
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(shared.clone());
        Ok(Self { running: Running::start(router).await?, shared })
    }

    /// Where it listens; the path is `/hook`.
    pub fn address(&self) -> SocketAddr {
        self.running.address
    }

    /// What has come since this was last asked.
    pub fn take(&self) -> Vec<Received> {
        lock(&self.shared.received).drain(..).collect()
    }
}

/// A new secret: 24 random bytes, as Standard Webhooks wants at least.
pub fn new_secret() -> String {
    format!("{SECRET_PREFIX}{}", STANDARD.encode(clock::random_bytes::<24>()))
}

async fn receive(State(inbox): State<Arc<Inbox>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let at = clock::now();
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let signature =
        check(&inbox.key, at, header("webhook-id"), header("webhook-timestamp"), header("webhook-signature"), &body);
    let headers = headers.iter().filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())));
    let received = Received { at, headers: headers.collect(), body: body.to_vec(), signature };
    let mut kept = lock(&inbox.received);
    if kept.len() == KEPT_MAX {
        kept.pop_front();
    }
    kept.push_back(received);
    if signature == Signature::Valid { StatusCode::NO_CONTENT } else { StatusCode::UNAUTHORIZED }
}

/// Checks a Standard Webhooks signature: HMAC-SHA256 over `id.timestamp.body`, one of several `v1,<Base64>`.
fn check(
    key: &hmac::Key,
    now: Timestamp,
    id: Option<&str>,
    timestamp: Option<&str>,
    signatures: Option<&str>,
    body: &[u8],
) -> Signature {
    let (Some(id), Some(timestamp), Some(signatures)) = (id, timestamp, signatures) else { return Signature::Missing };
    let Ok(seconds) = timestamp.parse::<i64>() else { return Signature::Missing };
    let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat();
    let right = signatures
        .split(' ')
        .filter_map(|one| one.strip_prefix("v1,"))
        .filter_map(|one| STANDARD.decode(one).ok())
        .any(|tag| hmac::verify(key, &signed, &tag).is_ok());
    let sent = Timestamp::from_millis(seconds.saturating_mul(1_000));
    if !right {
        Signature::Wrong
    } else if now.since(sent) > SIGNED_WITHIN || sent.since(now) > SIGNED_WITHIN {
        Signature::Stale
    } else {
        Signature::Valid
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is locked here is a number or a queue, changed in one step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    async fn ask(address: SocketAddr, request: String) -> String {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers and closes");
        answer
    }

    #[tokio::test]
    async fn the_health_page_is_green() {
        let front = Front::start().await.expect("loopback");
        for n in 1..=3 {
            let request = "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            let answer = ask(front.address(), request.into()).await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(answer.ends_with(r#"{"status":"ok"}"#), "{answer}");
            assert_eq!(front.asked(), n);
        }
    }

    #[test]
    fn the_example_of_the_standard_is_verified() {
        // From the test vectors of the Standard Webhooks reference libraries.
        let secret = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(secret).expect("Base64"));
        let now = Timestamp::from_millis(1_614_265_330_000);
        let (id, at) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330");
        let body = br#"{"test": 2432232314}"#;
        let good = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let bad = "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=";
        let other = "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let later = now + Duration::from_secs(301);
        let table = [
            (now, Some(id), Some(at), Some(good.to_owned()), &body[..], Signature::Valid),
            (now, Some(id), Some(at), Some(format!("{bad} {good}")), body, Signature::Valid),
            (now, Some(id), Some(at), Some(bad.to_owned()), body, Signature::Wrong),
            (now, Some(id), Some(at), Some(other.to_owned()), body, Signature::Wrong),
            (now, Some("msg_x"), Some(at), Some(good.to_owned()), body, Signature::Wrong),
            (now, Some(id), Some(at), Some(good.to_owned()), b"{}", Signature::Wrong),
            (later, Some(id), Some(at), Some(good.to_owned()), body, Signature::Stale),
            (now, Some(id), Some("soon"), Some(good.to_owned()), body, Signature::Missing),
            (now, None, Some(at), Some(good.to_owned()), body, Signature::Missing),
            (now, Some(id), Some(at), None, body, Signature::Missing),
        ];
        for (now, id, at, signatures, body, expected) in table {
            assert_eq!(check(&key, now, id, at, signatures.as_deref(), body), expected, "{signatures:?}");
        }
    }

    #[tokio::test]
    async fn what_is_received_is_kept_and_judged() {
        let secret = new_secret();
        let receiver = Receiver::start(&secret).await.expect("loopback");
        let key = STANDARD.decode(&secret[SECRET_PREFIX.len()..]).expect("Base64");
        let (body, at) = (r#"{"kind":"problem"}"#, clock::now().as_millis() / 1_000);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), format!("m-1.{at}.{body}").as_bytes());
        let signed = format!(
            "POST /hook HTTP/1.1\r\nHost: x\r\nConnection: close\r\nwebhook-id: m-1\r\nwebhook-timestamp: {at}\r\n\
             Webhook-Signature: v1,{}\r\nContent-Length: {}\r\n\r\n{body}",
            STANDARD.encode(tag),
            body.len()
        );
        let unsigned = "POST /hook HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
        assert!(ask(receiver.address(), signed).await.starts_with("HTTP/1.1 204"));
        assert!(ask(receiver.address(), unsigned.into()).await.starts_with("HTTP/1.1 401"));
        let all = receiver.take();
        assert_eq!(all.iter().map(|r| r.signature).collect::<Vec<_>>(), [Signature::Valid, Signature::Missing]);
        assert_eq!((all[0].header("webhook-id"), &all[0].json()["kind"]), (Some("m-1"), &json!("problem")));
        assert_eq!(receiver.take(), []);
    }

    #[tokio::test]
    async fn a_body_without_end_is_refused() {
        let receiver = Receiver::start(&new_secret()).await.expect("loopback");
        let length = BODY_BYTES_MAX + 1;
        let request = format!(
            "POST /hook HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{}",
            "x".repeat(length)
        );
        let mut stream = TcpStream::connect(receiver.address()).await.expect("it listens");
        // It may hang up before it has read everything.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert_eq!(receiver.take(), []);
    }
}
