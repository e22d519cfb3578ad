//! Alerts by webhook: one HTTP request for each message, in the form its receiver wants.
//!
//! ```yaml
//! ops-chat:
//!   webhook: { url: "https://hooks.example.com/x", preset: slack, secret: "${credential:hook}" }
//! ```
//!
//! Every attempt carries `Idempotency-Key` and, with a `secret`, the three headers of Standard Webhooks; the key is
//! the same for every attempt of a message, so that a receiver can drop repeats. Redirects are not followed.

mod alertmanager;
#[doc(hidden)]
pub mod fuzz;
mod options;
mod preset;
mod reply;
mod sign;
mod template;

use std::{
    error::Error as _,
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use chrono_tz::Tz;
use reqwest::{
    Client, Method, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use schemars::JsonSchema;
use tokio::time::Instant;

use self::{
    options::{Raw, Verb},
    preset::{Content, Preset},
    reply::Reply,
    sign::Signer,
    template::Template,
};
use super::{Channel, ChannelKind, text::Words, time_zone};
use crate::{
    alert::{Message, message::Attempted},
    clock, files,
    observation::one_line,
    options::Options,
    protocol::{
        Boxed, Net,
        wire::{Family, Seen, TlsClient, io_text, tls_failure},
    },
    value::{Secret, TimeSpan},
};

/// The entry of the registry.
pub static WEBHOOK: ChannelKind = ChannelKind {
    name: "webhook",
    summary: "an HTTP request: generic JSON, Slack, Discord, Teams, Telegram, ntfy, Alertmanager, or a template",
    example: "webhook:\n  url: https://hooks.example.com/alerts\n  secret: whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n",
    schema: |generator| Raw::json_schema(generator),
    build,
};

/// How long a receiver may take when nothing else is said.
const TIMEOUT: TimeSpan = TimeSpan(Duration::from_secs(10));

/// Longest a receiver may be given: below the worker's own bound, so that the channel tells what it waited for.
const TIMEOUT_MAX: Duration = Duration::from_secs(45);

/// Shortest: less would only make failures.
const TIMEOUT_MIN: Duration = Duration::from_millis(100);

/// Most bytes of an answer that are read: only its beginning is told, and a receiver may never stop.
const REPLY_BYTES_MAX: usize = 16 * 1_024;

/// The last part of the timeout, as a divisor of it, in which the rest of a body is waited for no more: by then the status
/// alone is judged.
const BODY_SHARE: u32 = 8;

/// How long what was sent may stay unacknowledged before the system ends a connection.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(60);

/// Largest template file.
const TEMPLATE_BYTES_MAX: usize = 64 * 1_024;

struct Webhook {
    url: Url,
    method: Method,
    preset: Preset,
    template: Option<(Template, HeaderValue)>,
    headers: HeaderMap,
    signer: Option<Signer>,
    login: Option<(String, Secret)>,
    chat_id: Option<String>,
    timeout: Duration,
    zone: Tz,
    tls: TlsClient,
    /// Built at the first delivery, because it needs the process's resolver.
    client: OnceLock<Result<Client, String>>,
}

fn build(options: &mut Options<'_>) -> Option<Arc<dyn Channel>> {
    let raw: Raw = options.read()?;
    let url = url(options, raw.url.expose());
    let template = template(options, &raw);
    let headers = headers(options, &raw);
    let signer = match raw.secret.as_ref().map(Signer::new).transpose() {
        Ok(signer) => Some(signer),
        Err(text) => {
            options.problem("secret", text, Some("write `whsec_` and Base64, or any text"));
            None
        }
    };
    let login = login(options, &raw);
    let timeout = raw.timeout.unwrap_or(TIMEOUT).0;
    let fits = (TIMEOUT_MIN..=TIMEOUT_MAX).contains(&timeout);
    if !fits {
        let text = format!("a time-out is between {} and {}", TimeSpan(TIMEOUT_MIN), TimeSpan(TIMEOUT_MAX));
        options.problem("timeout", text, None);
    }
    if raw.preset == Preset::Telegram && raw.chat_id.is_none() && raw.template.is_none() && raw.template_file.is_none()
    {
        options.problem("preset", "Telegram needs the chat to write to", Some("add `chat_id: \"-100…\"`"));
        return None;
    }
    let named = raw.tls.server_name.is_some();
    if named {
        let text = "a webhook asks for the name in its URL";
        options.problem("tls.server_name", text, Some("put the name into `url`"));
    }
    let tls = raw.tls.client(&mut options.child("tls"), &["h2", "http/1.1"]);
    let zone = time_zone(options, raw.timezone.as_deref());
    if !fits || named {
        return None;
    }
    Some(Arc::new(Webhook {
        url: url?,
        method: match raw.method {
            Verb::Post => Method::POST,
            Verb::Put => Method::PUT,
            Verb::Patch => Method::PATCH,
        },
        preset: raw.preset,
        template: template?,
        headers: headers?,
        signer: signer?,
        login: login?,
        chat_id: raw.chat_id,
        timeout,
        zone: zone?,
        tls: tls?,
        client: OnceLock::new(),
    }))
}

fn url(options: &mut Options<'_>, text: &str) -> Option<Url> {
    let hint = "write it as https://hooks.example.com/alerts";
    // The text is not repeated: it may hold a token.
    let problem = match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => return Some(url),
        Ok(url) => format!("the scheme `{}` does not fit here", url.scheme()),
        Err(error) => format!("this is no URL: {error}"),
    };
    options.problem("url", problem, Some(hint));
    None
}

type Body = Option<(Template, HeaderValue)>;

/// `None` when there are mistakes, `Some(None)` when the preset makes the body.
fn template(options: &mut Options<'_>, raw: &Raw) -> Option<Body> {
    let (key, source) = match (&raw.template, &raw.template_file) {
        (None, None) => {
            if raw.content_type.is_some() {
                let hint = "the preset sets its own; remove it or add a template";
                options.problem("content_type", "a content type without a template", Some(hint));
                return None;
            }
            return Some(None);
        }
        (Some(_), Some(_)) => {
            options.problem("template_file", "there is a `template` as well", Some("keep one of them"));
            return None;
        }
        (Some(source), None) => ("template", source.clone()),
        (None, Some(name)) => ("template_file", file(options, name)?),
    };
    if raw.preset == Preset::Ntfy || raw.preset == Preset::Alertmanager {
        options.problem("preset", "a template replaces what this preset sends", Some("remove one of them"));
        return None;
    }
    let content_type = raw.content_type.as_deref().unwrap_or("application/json");
    let Ok(value) = HeaderValue::from_str(content_type) else {
        options.problem("content_type", "this is no content type", Some("write it as application/json"));
        return None;
    };
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let json = essence == "application/json" || essence.ends_with("+json");
    match Template::new(source, json) {
        Ok(template) => Some(Some((template, value))),
        Err(text) => {
            options.problem(key, one_line(&text, 400), None);
            None
        }
    }
}

fn file(options: &mut Options<'_>, name: &str) -> Option<String> {
    let path = options.file(name);
    let read = files::read(&path, TEMPLATE_BYTES_MAX);
    match read.and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other)) {
        Ok(text) => Some(text),
        Err(error) => {
            options.problem("template_file", format!("{} cannot be read: {error}", path.display()), None);
            None
        }
    }
}

fn headers(options: &mut Options<'_>, raw: &Raw) -> Option<HeaderMap> {
    /// Set by the request itself; a second one would contradict it.
    const OWN: [&str; 3] = ["content-length", "transfer-encoding", "host"];
    let mut headers = HeaderMap::new();
    let mut good = true;
    for (name, value) in &raw.headers {
        let key = format!("headers.{name}");
        match (name.parse::<HeaderName>(), HeaderValue::from_str(value.expose())) {
            (Ok(name), Ok(_)) if OWN.contains(&name.as_str()) => {
                options.problem(&key, format!("the header `{name}` is set by the request itself"), None);
                good = false;
            }
            (Ok(name), Ok(mut value)) => {
                value.set_sensitive(true);
                headers.insert(name, value);
            }
            (Err(_), _) => {
                options.problem(&key, format!("`{}` is no header", one_line(name, 60)), None);
                good = false;
            }
            (_, Err(_)) => {
                options.problem(&key, "a header's value is printable ASCII", None);
                good = false;
            }
        }
    }
    good.then_some(headers)
}

fn login(options: &mut Options<'_>, raw: &Raw) -> Option<Option<(String, Secret)>> {
    if raw.bearer.is_some() && (raw.username.is_some() || raw.password.is_some()) {
        options.problem("bearer", "there is a user name or password as well", Some("keep one of them"));
        return None;
    }
    if let Some(bearer) = &raw.bearer {
        if HeaderValue::from_str(bearer.expose()).is_err() {
            options.problem("bearer", "a token is printable ASCII", None);
            return None;
        }
        return Some(Some((String::new(), bearer.clone())));
    }
    match (&raw.username, &raw.password) {
        (Some(username), password) => Some(Some((username.clone(), password.clone().unwrap_or_default()))),
        (None, None) => Some(None),
        (None, Some(_)) => {
            options.problem("password", "a password needs its user name", Some("add `username:`"));
            None
        }
    }
}

impl Channel for Webhook {
    fn kind(&self) -> &'static str {
        "webhook"
    }

    /// The scheme, the host and the port, with the first part of the path when it is a plain word and not the last:
    /// the rest is where receivers put their tokens.
    fn target(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        let port = self.url.port().map_or(String::new(), |port| format!(":{port}"));
        let mut parts = self.url.path_segments().into_iter().flatten();
        let plain = |part: &str| part.len() <= 16 && part.chars().all(|c| c.is_ascii_alphabetic() || c == '-');
        let path = match (parts.next().unwrap_or_default(), parts.next()) {
            ("", None) => "/".into(),
            (first, Some(_)) if plain(first) => format!("/{first}/…"),
            _ => "/…".to_owned(),
        };
        format!("{}://{host}{port}{path}", self.url.scheme())
    }

    fn deliver<'a>(&'a self, net: &'a Arc<Net>, message: &'a Message) -> Boxed<'a, Attempted> {
        Box::pin(async move {
            let content = match self.content(message) {
                Ok(content) => content,
                Err(error) => return Attempted::Refused { error: format!("the body cannot be made: {error}") },
            };
            let host = self.place();
            let ends = Instant::from_std(clock::instant() + self.timeout);
            match tokio::time::timeout_at(ends, self.exchange(net, message, content, ends)).await {
                Ok(Ok(reply)) => prefixed(&host, reply::judge(self.preset, &reply, clock::now())),
                Ok(Err(error)) => Attempted::Retry { error: format!("{host}: {error}"), retry_after: None },
                Err(_) => {
                    let error = format!("{host}: no answer within {}", TimeSpan(self.timeout));
                    Attempted::Retry { error, retry_after: None }
                }
            }
        })
    }
}

fn prefixed(host: &str, attempted: Attempted) -> Attempted {
    match attempted {
        Attempted::Delivered => Attempted::Delivered,
        Attempted::Retry { error, retry_after } => Attempted::Retry { error: format!("{host} {error}"), retry_after },
        Attempted::Refused { error } => Attempted::Refused { error: format!("{host} {error}") },
    }
}

struct Made {
    content_type: HeaderValue,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Webhook {
    fn place(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        self.url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"))
    }

    fn content(&self, message: &Message) -> Result<Made, String> {
        let words = Words { alert: &message.alert, zone: self.zone };
        if let Some((template, content_type)) = &self.template {
            let body = template.render(message, &words)?;
            return Ok(Made { content_type: content_type.clone(), headers: Vec::new(), body });
        }
        let Content { content_type, headers, body } = self.preset.content(message, &words, self.chat_id.as_deref());
        Ok(Made { content_type: HeaderValue::from_static(content_type), headers, body })
    }

    /// One request and the beginning of its answer; the caller drops it when it `ends`.
    async fn exchange(&self, net: &Arc<Net>, message: &Message, made: Made, ends: Instant) -> Result<Reply, String> {
        let client = self.client.get_or_init(|| self.client(net)).as_ref().map_err(Clone::clone)?;
        let mut request = client.request(self.method.clone(), self.url.clone());
        request = match &self.login {
            Some((username, bearer)) if username.is_empty() => request.bearer_auth(bearer.expose()),
            Some((username, password)) => request.basic_auth(username, Some(password.expose())),
            None => request,
        };
        let key = header_key(&message.key);
        request = request.header("Idempotency-Key", &key).header(CONTENT_TYPE, made.content_type);
        for (name, value) in made.headers {
            request = request.header(name, value);
        }
        if let Some(signer) = &self.signer {
            let now = clock::now();
            request = request
                .header("webhook-signature", signer.sign(&key, now, &made.body))
                .header("webhook-timestamp", sign::seconds(now))
                .header("webhook-id", key);
        }
        // The user's own headers last: they replace ours of the same name.
        let sent = request.headers(self.headers.clone()).body(made.body).send().await;
        let mut response = sent.map_err(|error| told(&error))?;
        let header = |name: &str| {
            response.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let (retry_after, location) = (header("retry-after"), header("location"));
        let status = response.status().as_u16();
        let mut body = Vec::new();
        // The status has been given: what goes wrong with the body does not change it, nor that it does not come.
        let reading = async {
            while let Ok(Some(chunk)) = response.chunk().await {
                body.extend_from_slice(&chunk[..chunk.len().min(REPLY_BYTES_MAX - body.len())]);
                if body.len() >= REPLY_BYTES_MAX {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout_at(ends - self.timeout / BODY_SHARE, reading).await;
        Ok(Reply { status, retry_after, location, body: String::from_utf8_lossy(&body).into_owned() })
    }

    fn client(&self, net: &Arc<Net>) -> Result<Client, String> {
        let mut builder = Client::builder()
            .user_agent(concat!("bongsu/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            // A kept connection would be found dead just when it is needed: alerts are rare.
            .pool_max_idle_per_host(0)
            // A receiver that takes nothing more must not hold its connection for ever.
            .tcp_user_timeout(UNACKNOWLEDGED_MAX)
            .dns_resolver(Arc::new(Lookup { net: net.clone(), timeout: self.timeout }));
        builder = builder.tls_backend_preconfigured(match self.url.scheme() {
            "https" => self.tls.config(net, Arc::new(Seen::default()))?,
            // Never used, but reqwest builds no client without one; it need not read the platform's roots.
            _ => trustless()?,
        });
        builder.build().map_err(|error| format!("the HTTP client cannot be built: {}", error.without_url()))
    }
}

/// A TLS configuration that trusts nobody.
fn trustless() -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| format!("TLS cannot be set up: {error}"))?;
    Ok(builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}

/// The process's resolver, as reqwest asks it.
struct Lookup {
    net: Arc<Net>,
    timeout: Duration,
}

impl reqwest::dns::Resolve for Lookup {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let (net, timeout) = (self.net.clone(), self.timeout);
        Box::pin(async move {
            let deadline = clock::instant() + timeout;
            match net.resolver().lookup(name.as_str(), Family::Any, Some(deadline)).await {
                Ok(addresses) => {
                    let addresses = addresses.into_iter().map(|address| SocketAddr::new(address, 0));
                    Ok(Box::new(addresses) as reqwest::dns::Addrs)
                }
                Err((_, text)) => Err(Box::<dyn std::error::Error + Send + Sync>::from(text)),
            }
        })
    }
}

/// What went wrong, without the URL, which may hold a token.
fn told(error: &reqwest::Error) -> String {
    let mut source = error.source();
    let mut innermost = None;
    while let Some(error) = source {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return tls_failure(tls, None, clock::now()).1;
        }
        if let Some(io) = error.downcast_ref::<io::Error>() {
            match io.get_ref() {
                Some(inner) => {
                    if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
                        return tls_failure(tls, None, clock::now()).1;
                    }
                }
                None => return io_text(io),
            }
        }
        innermost = Some(error.to_string());
        source = error.source();
    }
    innermost.unwrap_or_else(|| "the request failed".into())
}

/// A key as a header's value: printable ASCII as it stands, anything else percent-encoded. Signed in this form.
fn header_key(key: &str) -> String {
    if key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return key.into();
    }
    url::form_urlencoded::byte_serialize(key.as_bytes()).collect()
}

#[cfg(test)]
mod tests;
