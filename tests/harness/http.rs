//! A web server of the tests' own: answers as it is told, and remembers what it was asked.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// With this status and an empty JSON object.
    Status(u16),
    /// With 429 or 503 and a `Retry-After` of this many seconds.
    RetryAfter(u16, u64),
    /// Not at all: the request is read, and nothing is said.
    Nothing,
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Request {
    /// When its last byte was read.
    pub at: Instant,
    /// What was answered.
    pub answer: Answer,
    /// Its path.
    pub path: String,
    /// Headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {:?}", self.body))
    }

    /// The idempotency key.
    pub fn key(&self) -> &str {
        self.headers.get("webhook-id").or_else(|| self.headers.get("idempotency-key")).map_or("", String::as_str)
    }
}

struct State {
    answer: Mutex<Answer>,
    refused: Mutex<Vec<String>>,
    delay: Mutex<Duration>,
    requests: Mutex<Vec<Request>>,
    stop: AtomicBool,
}

/// The server; it ends when dropped.
pub struct Web {
    address: SocketAddr,
    state: Arc<State>,
}

impl Web {
    /// Starts on a free loopback port.
    pub fn start(answer: Answer) -> Self {
        Self::start_on("127.0.0.1", answer)
    }

    /// The same on another address of this machine.
    pub fn start_on(host: &str, answer: Answer) -> Self {
        let listener = TcpListener::bind((host, 0)).expect("an address of this machine has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let state = Arc::new(State {
            answer: Mutex::new(answer),
            refused: Mutex::default(),
            delay: Mutex::default(),
            requests: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.stop.load(Ordering::Acquire) {
                    return;
                }
                let shared = shared.clone();
                thread::spawn(move || {
                    let _ = serve(stream, &shared);
                });
            }
        });
        Self { address, state }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL on it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers otherwise from now on.
    pub fn set(&self, answer: Answer) {
        *self.state.answer.lock().expect("no panic holds it") = answer;
    }

    /// Refuses these user names of basic authentication from now on, with 403.
    pub fn refuse(&self, users: &[&str]) {
        *self.state.refused.lock().expect("no panic holds it") = users.iter().map(|u| (*u).to_owned()).collect();
    }

    /// Takes this long between reading a request and answering it.
    pub fn set_delay(&self, delay: Duration) {
        *self.state.delay.lock().expect("no panic holds it") = delay;
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().expect("no panic holds it").clone()
    }

    /// All requests that were answered with 200.
    pub fn accepted(&self) -> Vec<Request> {
        self.requests().into_iter().filter(|r| r.answer == Answer::Status(200)).collect()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
    }
}

/// The user name of basic authentication.
pub fn user(headers: &BTreeMap<String, String>) -> Option<String> {
    let encoded = headers.get("authorization")?.strip_prefix("Basic ")?;
    let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    decoded.split_once(':').map(|(user, _)| user.to_owned())
}

fn serve(stream: TcpStream, state: &State) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let length: usize = headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let refused = user(&headers).is_some_and(|u| state.refused.lock().expect("no panic holds it").contains(&u));
    let answer = if refused { Answer::Status(403) } else { *state.answer.lock().expect("no panic holds it") };
    let request = Request { at: Instant::now(), answer, path, headers, body };
    state.requests.lock().expect("no panic holds it").push(request);
    let delay = *state.delay.lock().expect("no panic holds it");
    thread::sleep(delay);
    let mut stream = stream;
    let (status, extra) = match answer {
        Answer::Status(status) => (status, String::new()),
        Answer::RetryAfter(status, seconds) => (status, format!("retry-after: {seconds}\r\n")),
        Answer::Nothing => {
            // Held open until the other side gives up.
            let mut rest = [0; 64];
            while stream.read(&mut rest)? > 0 {}
            return Ok(());
        }
    };
    // In one piece: what stands between, or a reader, may take each write for itself.
    let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: 2\r\n{extra}");
    stream.write_all(format!("{head}connection: close\r\n\r\n{{}}").as_bytes())
}
