//! Asking a running daemon, over its Unix socket.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{Method, StatusCode};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{net::UnixStream, time::timeout};

use super::Failure;
use crate::{
    incident::IncidentId,
    value::Name,
    web::control::{Acknowledge, Note, Reloaded, StatusReport, Taken, Tested},
};

/// Longest wait for the daemon to accept: it does nothing else meanwhile than answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest wait for an answer that the daemon has at hand.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Longest wait for how it stands: people look on, and the store can be asked instead.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for a test message: beyond the longest deadline of a channel.
const TEST_TIMEOUT: Duration = Duration::from_secs(120);

/// Longest answer read: a status of 10,000 checks takes 5 MB.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why the daemon did not do what it was asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody listens on the socket.
    NotRunning(PathBuf),
    /// The socket's permissions keep us out.
    Denied(PathBuf),
    /// It said no.
    Refused(String),
    /// It answered otherwise than expected, or not at all.
    Broken(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning(socket) => write!(
                f,
                "the daemon is not running (nobody answers on {}); start it with `bongsu run` or `systemctl start bongsu`",
                socket.display()
            ),
            Self::Denied(socket) => write!(
                f,
                "{} may not be opened by this user; run the command as the daemon's user, as a member of its group, or as root",
                socket.display()
            ),
            Self::Refused(text) => f.write_str(text),
            Self::Broken(text) => write!(f, "the daemon gave no good answer: {text}"),
        }
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        Self::Failed(trouble.to_string())
    }
}

/// A running daemon.
pub struct Client {
    http: reqwest::Client,
}

impl Client {
    /// Reaches the daemon that listens on `socket`.
    pub async fn connect(socket: &Path) -> Result<Self, Trouble> {
        let tried = timeout(CONNECT_TIMEOUT, UnixStream::connect(socket)).await;
        match tried.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(_) => {}
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Err(Trouble::NotRunning(socket.into()));
            }
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Err(Trouble::Denied(socket.into())),
            Err(e) => return Err(Trouble::Broken(format!("{}: {e}", socket.display()))),
        }
        let http = reqwest::Client::builder()
            .unix_socket(socket)
            .no_proxy()
            // No TLS on the socket: reading the platform's roots would be time for nothing.
            .tls_certs_only(std::iter::empty())
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| Trouble::Broken(e.to_string()))?;
        Ok(Self { http })
    }

    /// How it stands.
    pub async fn status(&self) -> Result<StatusReport, Trouble> {
        self.ask(Method::GET, "/v1/status", &Value::Null, STATUS_TIMEOUT).await
    }

    /// Takes an incident in hand.
    pub async fn acknowledge(&self, id: IncidentId, by: &str, note: &str) -> Result<Taken, Trouble> {
        let body = Acknowledge { by: by.into(), note: note.into() };
        self.ask(Method::POST, &format!("/v1/incidents/{}/acknowledge", id.0), &body, ANSWER_TIMEOUT).await
    }

    /// Adds a line to an incident's timeline.
    pub async fn note(&self, id: IncidentId, by: &str, text: &str) -> Result<Taken, Trouble> {
        let body = Note { by: by.into(), text: text.into() };
        self.ask(Method::POST, &format!("/v1/incidents/{}/note", id.0), &body, ANSWER_TIMEOUT).await
    }

    /// Sends a test message through a channel.
    pub async fn test_channel(&self, name: &Name) -> Result<Tested, Trouble> {
        self.ask(Method::POST, &format!("/v1/channels/{name}/test"), &Value::Null, TEST_TIMEOUT).await
    }

    /// Has the configuration loaded anew.
    pub async fn reload(&self) -> Result<Reloaded, Trouble> {
        self.ask(Method::POST, "/v1/reload", &Value::Null, ANSWER_TIMEOUT).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        within: Duration,
    ) -> Result<T, Trouble> {
        let body = serde_json::to_vec(body).map_err(|e| Trouble::Broken(e.to_string()))?;
        let mut url = reqwest::Url::parse("http://bongsu/").expect("a constant URL");
        // Percent-encodes what is not ASCII in a channel's name.
        url.set_path(path);
        let exchange = async {
            let mut response = self.http.request(method, url).body(body).send().await?;
            let status = response.status();
            let mut answer = Vec::new();
            while let Some(chunk) = response.chunk().await? {
                if answer.len() + chunk.len() > ANSWER_BYTES_MAX {
                    break;
                }
                answer.extend_from_slice(&chunk);
            }
            Ok::<_, reqwest::Error>((status, answer))
        };
        match timeout(within, exchange).await {
            Err(_) => Err(Trouble::Broken(format!("nothing within {}", crate::value::TimeSpan(within)))),
            Ok(Err(e)) => Err(Trouble::Broken(e.without_url().to_string())),
            Ok(Ok((status, answer))) => understood(status, &answer),
        }
    }
}

fn understood<T: DeserializeOwned>(status: StatusCode, answer: &[u8]) -> Result<T, Trouble> {
    if status.is_success() {
        return serde_json::from_slice(answer).map_err(|e| Trouble::Broken(e.to_string()));
    }
    let told = serde_json::from_slice::<Value>(answer).ok();
    match told.as_ref().and_then(|v| v["error"].as_str()) {
        Some(text) => Err(Trouble::Refused(text.into())),
        None => Err(Trouble::Broken(format!("status {status}"))),
    }
}

/// Who is asking, as far as the environment says: also behind `sudo`; else by number.
pub fn who() -> String {
    use std::os::unix::fs::MetadataExt;
    let named = ["SUDO_USER", "USER", "LOGNAME"].into_iter().filter_map(|name| std::env::var(name).ok());
    let mut named = named.filter(|name| !name.trim().is_empty());
    // A process's own entry belongs to the user it runs as.
    let numbered = || std::fs::metadata("/proc/self").map(|m| format!("user {}", m.uid())).ok();
    named.next().or_else(numbered).unwrap_or_else(|| "somebody".into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::{Json, Router, routing::post};
    use serde_json::json;

    use super::*;
    use crate::web::control;

    fn ready() {
        let _ = rustls::crypto::ring::default_provider().install_default();
    }

    #[tokio::test]
    async fn a_daemon_that_is_not_there_is_told_as_such() {
        ready();
        let dir = tempfile::tempdir().expect("a scratch directory");
        let socket = dir.path().join("s");
        let absent = Client::connect(&socket).await.err();
        assert_eq!(absent, Some(Trouble::NotRunning(socket.clone())));
        drop(control::listen(&socket).await.expect("a free path"));
        let dead = Client::connect(&socket).await.err();
        assert_eq!(dead, Some(Trouble::NotRunning(socket.clone())));
        let text = Trouble::NotRunning(socket).to_string();
        assert!(text.contains("not running") && text.contains("bongsu run"), "{text}");
    }

    #[tokio::test]
    async fn answers_and_refusals_come_through() {
        ready();
        let dir = tempfile::tempdir().expect("a scratch directory");
        let socket = dir.path().join("s");
        let listener = control::listen(&socket).await.expect("a free path");
        let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
        let noted = asked.clone();
        let app = Router::new()
            .route(
                "/v1/incidents/{id}/acknowledge",
                post(move |axum::extract::Path(id): axum::extract::Path<u64>, body: String| async move {
                    noted.lock().expect("no panic while held").push(format!("{id} {body}"));
                    Json(json!({}))
                }),
            )
            .route(
                "/v1/incidents/{id}/note",
                post(|| async { (StatusCode::NOT_FOUND, Json(json!({ "error": "there is no incident #9" }))) }),
            )
            .route("/v1/status", axum::routing::get(|| async { "not JSON" }))
            .route(
                "/v1/channels/{name}/test",
                post(|axum::extract::Path(name): axum::extract::Path<String>| async move {
                    Json(json!({ "channel": name, "target": "t", "delivered": true, "took_ms": 1.0 }))
                }),
            );
        let serve = async move { axum::serve(listener, app).await };
        let ask = async {
            let client = Client::connect(&socket).await.expect("it listens");
            client.acknowledge(IncidentId(7), "kim", "보고").await.expect("accepted");
            assert_eq!(*asked.lock().expect("no panic while held"), [r#"7 {"by":"kim","note":"보고"}"#]);
            let refused = client.note(IncidentId(9), "kim", "x").await;
            assert_eq!(refused, Err(Trouble::Refused("there is no incident #9".into())));
            let name: Name = "당직-메일".parse().expect("a name");
            assert_eq!(client.test_channel(&name).await.expect("delivered").channel, name);
            assert!(matches!(client.status().await, Err(Trouble::Broken(_))));
            assert!(matches!(client.reload().await, Err(Trouble::Broken(t)) if t.contains("404")));
        };
        tokio::select! {
            _ = serve => panic!("the server ended"),
            () = ask => {}
        }
    }
}
