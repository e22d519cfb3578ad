//! The control API: what commands ask of a running daemon, as HTTP/1.1 with JSON over its Unix socket.
//!
//! The file's permissions are the authentication: whoever may open the socket may do everything here. The socket is
//! made in a private directory and moved into place with its final mode, so at no instant is it open to others.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v1/status` | | [`StatusReport`] |
//! | `GET /v1/metrics` | | OpenMetrics text |
//! | `POST /v1/incidents/{id}/acknowledge` | [`Acknowledge`] | [`Taken`] |
//! | `POST /v1/incidents/{id}/note` | [`Note`] | [`Taken`] |
//! | `POST /v1/channels/{name}/test` | | [`Tested`] |
//! | `POST /v1/reload` | | [`Reloaded`] |
//!
//! A refusal is a 4xx or 5xx with `{"error": "…"}`.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path as Segments, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::net::{UnixListener, UnixStream};

use crate::{
    incident::{Incident, IncidentId},
    observation::{Observation, Outcome, Reason, to_ms},
    protocol::Boxed,
    store,
    telemetry::{self, Snapshot},
    value::{CheckName, Name, Timestamp},
};

/// Longest request body: a note of [`TEXT_CHARS_MAX`] characters in JSON escapes fits.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// Longest name of a person and longest note, in characters: what a timeline and a mail can show.
pub const TEXT_CHARS_MAX: usize = 4_000;

/// Mode of the socket: its owner and its group may talk to the daemon, nobody else.
const SOCKET_MODE: u32 = 0o660;

/// Longest wait for another daemon to accept on a socket file found in place.
const NEIGHBOUR_TIMEOUT: Duration = Duration::from_secs(1);

/// What the daemon offers to its commands.
pub trait Control: Send + Sync {
    /// How it stands.
    fn status(&self) -> Boxed<'_, StatusReport>;

    /// Takes an incident in hand.
    fn acknowledge(&self, id: IncidentId, by: String, note: String) -> Boxed<'_, Result<Taken, Refusal>>;

    /// Adds a line to an incident's timeline.
    fn note(&self, id: IncidentId, by: String, text: String) -> Boxed<'_, Result<Taken, Refusal>>;

    /// Sends a test message through a channel and says what came of the first attempt.
    fn test_channel(&self, name: Name) -> Boxed<'_, Result<Tested, Refusal>>;

    /// Loads the configuration anew; the old one stays when the new one has mistakes (then listed in the refusal).
    /// Goes on to its end also when nobody waits for it any more.
    fn reload(self: Arc<Self>) -> Boxed<'static, Result<Reloaded, Refusal>>;

    /// The numbers in the OpenMetrics text format.
    fn metrics(&self) -> String;
}

/// Why the daemon does not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such incident or channel.
    NotFound(String),
    /// It cannot be done as things stand: the incident is over, the configuration has mistakes.
    Conflict(String),
    /// The request itself is wrong.
    Invalid(String),
    /// The daemon's own fault: its store does not write.
    Own(String),
}

impl Refusal {
    fn parts(self) -> (StatusCode, String) {
        match self {
            Self::NotFound(text) => (StatusCode::NOT_FOUND, text),
            Self::Conflict(text) => (StatusCode::CONFLICT, text),
            Self::Invalid(text) => (StatusCode::UNPROCESSABLE_ENTITY, text),
            Self::Own(text) => (StatusCode::INTERNAL_SERVER_ERROR, text),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, text) = self.parts();
        (status, Json(json!({ "error": text }))).into_response()
    }
}

/// How the daemon stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The vantage's name.
    pub agent: Name,
    /// Version of the running binary, which an upgrade without a restart leaves behind.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// For how long it has run, on the monotonic clock.
    pub uptime_ms: u64,
    /// The configuration it runs.
    pub config: PathBuf,
    /// When this report was made.
    pub now: Timestamp,
    /// All checks, by name.
    pub checks: Vec<CheckStatus>,
    /// Whether it is cut off itself; absent without canaries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vantage: Option<VantageStatus>,
    /// Its numbers.
    pub metrics: Snapshot,
    /// Why the latest reload was refused; absent once one is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload_error: Option<String>,
    /// Why its store does not write; absent while it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreTrouble>,
}

/// A store that does not write, and what is made of it meanwhile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoreTrouble {
    /// Since when.
    pub since: Timestamp,
    /// Why, and what to do.
    pub error: String,
    /// Changes that wait in memory, and are lost if the daemon ends before the store writes again.
    pub waiting: usize,
    /// Observations that changed nothing and were dropped, because too much waits.
    pub dropped: u64,
    /// Whether alerts are sent before they are recorded.
    pub telling: bool,
    /// Whether the disk does not answer at all, so that whoever reads the file may hang as well.
    #[serde(default)]
    pub hangs: bool,
    /// Incidents as they are and as the store does not know yet; while the disk does not answer, all that are open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub incidents: Vec<Incident>,
}

impl StatusReport {
    /// How many checks are in each state.
    pub fn counts(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for check in &self.checks {
            *counts.entry(check.state.as_str()).or_default() += 1;
        }
        counts
    }
}

/// How the vantage stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VantageStatus {
    /// Since when none of the canaries has answered; absent while one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolated_since: Option<Timestamp>,
    /// The canaries, in the order of the configuration.
    pub canaries: Vec<CanaryStatus>,
}

/// How one canary stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CanaryStatus {
    /// What is asked, without secrets.
    pub target: String,
    /// Whether it answered when it was asked last; absent when it was not asked yet or could not be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<bool>,
    /// Why it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Reason>,
}

/// How one check stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// Its name.
    pub check: CheckName,
    /// `up`, `suspect`, `degraded`, `down` or `unknown`.
    pub state: String,
    /// Since when; absent before the first observation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Whether it is flapping.
    #[serde(default)]
    pub flapping: bool,
    /// Its latest observation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastSeen>,
}

/// The latest observation of a check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastSeen {
    /// When it began.
    pub at: Timestamp,
    /// What it came to.
    pub outcome: Outcome,
    /// Its latency.
    pub latency_ms: f64,
    /// Why it was not `ok`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// As the store knows it, which is all there is without a daemon (the store keeps no word on flapping).
impl From<store::CheckStatus> for CheckStatus {
    fn from(stored: store::CheckStatus) -> Self {
        let (state, since) = stored.state.map_or(("unknown".into(), None), |(state, since)| (state, Some(since)));
        Self { check: stored.check, state, since, flapping: false, last: stored.last.as_ref().map(LastSeen::from) }
    }
}

impl From<&Observation> for LastSeen {
    fn from(o: &Observation) -> Self {
        Self { at: o.at, outcome: o.outcome, latency_ms: to_ms(o.latency()), reason: o.reason.clone() }
    }
}

/// Body of an acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acknowledge {
    /// Who takes it in hand.
    pub by: String,
    /// What they say to it.
    #[serde(default)]
    pub note: String,
}

/// Body of a note.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// Who says it.
    pub by: String,
    /// What they say.
    pub text: String,
}

/// What came of a person's wish that was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// What the person must know: it is not recorded yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// What came of a test message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tested {
    /// The channel.
    pub channel: Name,
    /// Where it went, without secrets.
    pub target: String,
    /// Whether the receiver said yes.
    pub delivered: bool,
    /// Whether it may work later.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_work_later: bool,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long the attempt took.
    pub took_ms: f64,
}

/// What a reload changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Checks that are new.
    pub added: usize,
    /// Checks that are not the same any more.
    pub changed: usize,
    /// Checks that are gone.
    pub removed: usize,
    /// Checks that go on as if nothing had happened.
    pub kept: usize,
}

// ---------------------------------------------------------------------------------------------------------------
// The server's side

/// The routes of the control API.
pub fn router(state: Arc<dyn Control>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/metrics", get(metrics))
        .route("/v1/incidents/{id}/acknowledge", post(acknowledge))
        .route("/v1/incidents/{id}/note", post(note))
        .route("/v1/channels/{name}/test", post(test_channel))
        .route("/v1/reload", post(reload))
        .fallback(|| async {
            Refusal::NotFound("there is no such request; is the command newer than the daemon?".into())
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(state)
}

type Shared = State<Arc<dyn Control>>;

async fn status(State(control): Shared) -> Json<StatusReport> {
    Json(control.status().await)
}

async fn metrics(State(control): Shared) -> Response {
    ([(header::CONTENT_TYPE, telemetry::CONTENT_TYPE)], control.metrics()).into_response()
}

async fn acknowledge(
    State(control): Shared,
    Segments(id): Segments<String>,
    body: bytes::Bytes,
) -> Result<Json<Taken>, Refusal> {
    let (id, Acknowledge { by, note }) = (incident_id(&id)?, read(&body)?);
    control.acknowledge(id, line("by", &by, true)?, line("note", &note, false)?).await.map(Json)
}

async fn note(
    State(control): Shared,
    Segments(id): Segments<String>,
    body: bytes::Bytes,
) -> Result<Json<Taken>, Refusal> {
    let (id, Note { by, text }) = (incident_id(&id)?, read(&body)?);
    control.note(id, line("by", &by, true)?, line("text", &text, true)?).await.map(Json)
}

async fn test_channel(State(control): Shared, Segments(name): Segments<String>) -> Result<Json<Tested>, Refusal> {
    let name = name.parse().map_err(Refusal::Invalid)?;
    control.test_channel(name).await.map(Json)
}

async fn reload(State(control): Shared) -> Result<Json<Reloaded>, Refusal> {
    control.reload().await.map(Json)
}

fn incident_id(text: &str) -> Result<IncidentId, Refusal> {
    let wrong = |_| Refusal::Invalid(format!("`{text}` is not the number of an incident"));
    text.parse().map(IncidentId).map_err(wrong)
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|e| Refusal::Invalid(format!("the request's body is wrong: {e}")))
}

/// One trimmed line of a request, its control characters replaced.
fn line(what: &str, text: &str, required: bool) -> Result<String, Refusal> {
    let line = crate::observation::one_line(text, TEXT_CHARS_MAX + 1);
    match line.chars().count() {
        0 if required => Err(Refusal::Invalid(format!("`{what}` must not be empty"))),
        n if n > TEXT_CHARS_MAX => {
            Err(Refusal::Invalid(format!("`{what}` is longer than {TEXT_CHARS_MAX} characters")))
        }
        _ => Ok(line),
    }
}

/// Opens the control socket at `path`. A file left by a daemon that died is replaced; one on which a daemon still
/// answers is an error.
pub async fn listen(path: &Path) -> io::Result<UnixListener> {
    let told = |e: io::Error, what: &str| io::Error::new(e.kind(), format!("{what} {}: {e}", path.display()));
    let neighbour = tokio::time::timeout(NEIGHBOUR_TIMEOUT, UnixStream::connect(path)).await;
    if !matches!(neighbour, Ok(Err(_))) {
        let text = format!(
            "another daemon answers on {}; stop it first, or give this one its own agent.socket",
            path.display()
        );
        return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
    }
    if fs::symlink_metadata(path).is_ok_and(|m| !std::os::unix::fs::FileTypeExt::is_socket(&m.file_type())) {
        let text = format!("{} exists and is not a socket; remove it or change agent.socket", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|e| told(e, "cannot make the directory of"))?;
    // Mode 0700: nobody can connect before the socket has its own mode.
    let private = tempfile::Builder::new().prefix(".b").tempdir_in(parent).map_err(|e| told(e, "cannot make"))?;
    let made = private.path().join("s");
    let listener = UnixListener::bind(&made).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidInput => {
            told(e, "the path is too long for a socket; give agent.socket a shorter one than")
        }
        _ => told(e, "cannot open the control socket"),
    })?;
    fs::set_permissions(&made, fs::Permissions::from_mode(SOCKET_MODE))
        .map_err(|e| told(e, "cannot set the mode of"))?;
    fs::rename(&made, path).map_err(|e| told(e, "cannot put in place"))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Mutex;

    use axum::{body::Body, http::Request};
    use tower::ServiceExt;

    /// A daemon that notes what it is asked.
    #[derive(Default)]
    struct Noted(Mutex<Vec<String>>);

    impl Noted {
        fn add(&self, text: String) {
            self.0.lock().expect("no test panics while it holds this").push(text);
        }
    }

    impl Control for Noted {
        fn status(&self) -> Boxed<'_, StatusReport> {
            Box::pin(async {
                StatusReport {
                    agent: "seoul-1".parse().expect("a name"),
                    version: "0.1.0".into(),
                    started_at: Timestamp::from_millis(0),
                    uptime_ms: 5,
                    config: "/etc/bongsu/config.yaml".into(),
                    now: Timestamp::from_millis(5),
                    checks: vec![],
                    vantage: Some(VantageStatus { isolated_since: None, canaries: vec![] }),
                    metrics: Snapshot::default(),
                    reload_error: None,
                    store: None,
                }
            })
        }
        fn acknowledge(&self, id: IncidentId, by: String, note: String) -> Boxed<'_, Result<Taken, Refusal>> {
            Box::pin(async move {
                self.add(format!("ack {id} {by}: {note}"));
                match id.0 {
                    9 => Err(Refusal::NotFound("there is no incident #9".into())),
                    8 => Ok(Taken { warning: Some("not recorded yet".into()) }),
                    _ => Ok(Taken::default()),
                }
            })
        }
        fn note(&self, id: IncidentId, by: String, text: String) -> Boxed<'_, Result<Taken, Refusal>> {
            Box::pin(async move {
                self.add(format!("note {id} {by}: {text}"));
                Ok(Taken::default())
            })
        }
        fn test_channel(&self, channel: Name) -> Boxed<'_, Result<Tested, Refusal>> {
            Box::pin(async move {
                let target = "file:///mail".into();
                Ok(Tested { channel, target, delivered: true, may_work_later: false, error: None, took_ms: 1.5 })
            })
        }
        fn reload(self: Arc<Self>) -> Boxed<'static, Result<Reloaded, Refusal>> {
            Box::pin(async { Err(Refusal::Conflict("config.yaml:1:1: unknown key `x`".into())) })
        }
        fn metrics(&self) -> String {
            "# EOF\n".into()
        }
    }

    async fn ask(control: &Arc<Noted>, method: &str, path: &str, body: &str) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).expect("a request");
        let response = router(control.clone()).oneshot(request).await.expect("infallible");
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("a small body");
        (status, String::from_utf8(bytes.to_vec()).expect("UTF-8"))
    }

    #[tokio::test]
    async fn requests_have_their_answers() {
        let control = Arc::new(Noted::default());
        let long = format!(r#"{{"by":"kim","text":"{}"}}"#, "가".repeat(TEXT_CHARS_MAX + 1));
        let huge = format!(r#"{{"by":"kim","text":"{}"}}"#, "x".repeat(BODY_BYTES_MAX));
        let table = [
            ("GET", "/v1/metrics", "", 200, "# EOF"),
            ("POST", "/v1/incidents/7/acknowledge", r#"{"by":" kim ","note":"보고\n있음"}"#, 200, "{}"),
            ("POST", "/v1/incidents/7/acknowledge", r#"{"by":"kim"}"#, 200, "{}"),
            ("POST", "/v1/incidents/8/acknowledge", r#"{"by":"kim"}"#, 200, r#"{"warning":"not recorded yet"}"#),
            ("POST", "/v1/incidents/9/acknowledge", r#"{"by":"kim"}"#, 404, "there is no incident #9"),
            ("POST", "/v1/incidents/x/acknowledge", r#"{"by":"kim"}"#, 422, "not the number of an incident"),
            ("POST", "/v1/incidents/7/acknowledge", r#"{"by":" "}"#, 422, "`by` must not be empty"),
            ("POST", "/v1/incidents/7/note", r#"{"by":"kim"}"#, 422, "missing field `text`"),
            ("POST", "/v1/incidents/7/note", r#"{"by":"kim","text":"a","x":1}"#, 422, "unknown field `x`"),
            ("POST", "/v1/incidents/7/note", "not json", 422, "the request's body is wrong"),
            ("POST", "/v1/incidents/7/note", &long, 422, "longer than 4000 characters"),
            ("POST", "/v1/incidents/7/note", &huge, 413, "length limit"),
            ("POST", "/v1/incidents/7/note", r#"{"by":"kim","text":"done"}"#, 200, "{}"),
            ("POST", "/v1/channels/ops-mail/test", "", 200, r#""delivered":true"#),
            ("POST", "/v1/channels/a%20b/test", "", 422, "a name has letters"),
            ("POST", "/v1/reload", "", 409, "unknown key `x`"),
            ("GET", "/v1/reload", "", 405, ""),
            ("GET", "/v2/status", "", 404, "newer than the daemon"),
        ];
        for (method, path, body, status, part) in table {
            let (got, text) = ask(&control, method, path, body).await;
            assert_eq!(got, status, "{method} {path} {body:.80}: {text}");
            assert!(text.contains(part), "{method} {path}: {text}");
        }
        let noted = control.0.lock().expect("no test panics while it holds this").clone();
        assert_eq!(
            noted,
            ["ack #7 kim: 보고 있음", "ack #7 kim: ", "ack #8 kim: ", "ack #9 kim: ", "note #7 kim: done"]
        );
        let (_, text) = ask(&control, "GET", "/v1/status", "").await;
        let report: StatusReport = serde_json::from_str(&text).expect("a report");
        assert_eq!(report, control.status().await);
    }

    #[tokio::test]
    async fn the_socket_is_private_and_replaces_only_a_dead_one() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let path = dir.path().join("run/control.sock");
        let first = listen(&path).await.expect("a free path");
        let mode = fs::metadata(&path).expect("in place").permissions().mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
        let busy = listen(&path).await.expect_err("the first still listens");
        assert!(busy.to_string().contains("another daemon answers"), "{busy}");
        drop(first);
        let second = listen(&path).await.expect("the first is dead");
        UnixStream::connect(&path).await.expect("the second listens");
        drop(second);
        let left: Vec<_> = fs::read_dir(path.parent().expect("a directory")).expect("own directory").collect();
        assert_eq!(left.len(), 1, "nothing but the socket: {left:?}");
        let file = dir.path().join("file");
        fs::write(&file, "precious").expect("own directory");
        let refused = listen(&file).await.expect_err("not a socket");
        assert!(refused.to_string().contains("is not a socket"), "{refused}");
        assert_eq!(fs::read_to_string(&file).expect("kept"), "precious");
    }
}
