//! `http`: one request over a fresh connection, and what its answer must be.
//!
//! Success proves that the name resolves, the server accepts a new connection (with a valid certificate, for https),
//! and answers this request with the status, headers and body expected. It does not prove that anything behind the
//! page works, unless the page says so and `expect` looks at it.
//!
//! The dialogue (RFC 9110, 9112, 9113): resolve → connect → tls (https) → exchange, which is the request and the
//! answer with its body. A redirect (RFC 9110, section 15.4) is followed by another round of the same phases; to
//! another origin it goes without credentials and without the headers of the options. Nothing is left on the server
//! but what the request itself does there.
//!
//! Bounds: `redirects` hops, `body_max` bytes of the decompressed body, [`HEADERS_MAX`] headers, and the client's own
//! limit on the size of the head. A body longer than `body_max` is a failure when `expect.body` looks at it, and is
//! otherwise left unread.
//!
//! ```yaml
//! http: { url: "https://mail.example.com/", expect: { status: 200, body: { contains: Inbox } } }
//! ```

mod client;
mod expect;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{
    Client, Method, Response,
    header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT},
    redirect::Policy,
};
use schemars::JsonSchema;
use serde::Deserialize;
use url::{Host, Url};

use self::{
    client::{ConnectHook, Gathering, HandshakeHook, Hooks, ResolveHook, failure},
    expect::{Evidence, Expect},
};
use crate::{
    observation::{Kind, Reason, one_line},
    options::Options,
    protocol::{
        Attempt, Boxed, Net, Probe, Protocol,
        matcher::{SHOWN_CHARS_MAX, quoted},
        wire::{Address, Scheme, TlsClient, TlsOptions, host_and_port},
    },
    value::Secret,
};

/// Most headers of an answer that are read: ten times what usual servers send.
pub const HEADERS_MAX: usize = 200;

/// Most redirects that can be asked for; browsers give up at twenty.
pub const REDIRECTS_MAX: usize = 20;

/// Redirects followed by default: http → https → www → login page, and one more.
pub const REDIRECTS: usize = 5;

/// Body bytes read by default: a health page or the beginning of a web page.
pub const BODY_MAX: usize = 1 << 20;

/// Most body bytes that can be asked for; each running attempt may hold so much memory.
pub const BODY_MAX_MAX: usize = 64 << 20;

const SCHEMES: &[Scheme] =
    &[Scheme { name: "https", port: Some(443), tls: true }, Scheme { name: "http", port: Some(80), tls: false }];

/// The registry's entry.
pub static HTTP: Protocol = Protocol {
    name: "http",
    schemes: &["http", "https"],
    summary: "send an HTTP request and test its answer",
    proves: "The name resolves, a new connection is accepted (with a valid certificate, for https), and the request is \
             answered with the expected status, headers and body. It does not prove that what lies behind the page \
             works, unless the page says so and `expect` looks at it.",
    example: "name: webmail\nhttp: { url: \"https://mail.example.com/\", expect: { status: 200, body: { contains: Inbox } } }\n",
    probe_schema: Some(|generator| generator.subschema_for::<HttpOptions>()),
    send_schema: None,
    receive_schema: None,
    probe: Some(|options| Some(Box::new(HttpProbe::build(options)?))),
    send: None,
    receive: None,
};

/// Options of `http`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpOptions {
    /// Where to ask: `https://host/path`. A user name and password in it are sent as basic authentication.
    pub url: String,
    /// The method; default: GET, or POST with a body.
    pub method: Option<String>,
    /// Headers to send, by name.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// The body to send, as it stands.
    pub body: Option<Secret>,
    /// User name for basic authentication (RFC 7617).
    pub username: Option<String>,
    /// Password for basic authentication.
    pub password: Option<Secret>,
    /// Token for bearer authentication (RFC 6750).
    pub bearer: Option<Secret>,
    /// Redirects to follow (default 5, at most 20); 0 takes a redirect as the answer.
    pub redirects: Option<usize>,
    /// Bytes of the decompressed body to read (default 1 MiB, at most 64 MiB).
    pub body_max: Option<usize>,
    /// The version of HTTP: 1.1 or 2; default: what server and agent agree on.
    pub version: Option<Version>,
    /// Proxy to go through: `http://host:port`. The environment's proxies are not used.
    pub proxy: Option<String>,
    /// Whom to trust, for https.
    #[serde(default)]
    pub tls: TlsOptions,
    /// What the answer must be; default: a status of 2xx or 3xx.
    #[serde(default)]
    pub expect: Expect,
}

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Version {
    /// HTTP/1.1 only.
    #[serde(rename = "1.1")]
    V1,
    /// HTTP/2 only; without TLS by prior knowledge.
    #[serde(rename = "2")]
    V2,
}

/// A resolved `http` probe.
struct HttpProbe {
    url: Url,
    method: Method,
    headers: HeaderMap,
    authorization: Option<HeaderValue>,
    body: Option<Secret>,
    redirects: usize,
    body_max: usize,
    version: Option<Version>,
    proxy: Option<reqwest::Proxy>,
    tls: TlsClient,
    expect: Expect,
    hooks: Arc<Hooks>,
    client: OnceLock<Result<Client, String>>,
}

impl HttpProbe {
    fn build(options: &mut Options<'_>) -> Option<Self> {
        let raw: HttpOptions = options.read()?;
        let address = Address::read(options, "url", &raw.url, SCHEMES);
        let method = method(options, &raw);
        let headers = headers(options, &raw.headers);
        let authorization = authorization(options, &raw, address.as_ref());
        let redirects = bounded(options, "redirects", raw.redirects, REDIRECTS, REDIRECTS_MAX);
        let body_max = bounded(options, "body_max", raw.body_max, BODY_MAX, BODY_MAX_MAX);
        let proxy = proxy(options, raw.proxy.as_deref());
        let alpn: &[&str] = match raw.version {
            None => &["h2", "http/1.1"],
            Some(Version::V1) => &["http/1.1"],
            Some(Version::V2) => &["h2"],
        };
        let tls = raw.tls.client(&mut options.child("tls"), alpn);
        let names = expected_names(options, &raw.expect);
        if raw.expect.certificate_days.is_some() && address.as_ref().is_some_and(|a| !a.scheme.tls) {
            let hint = "write the URL with https, or leave it out";
            options.problem("expect.certificate_days", "there is no certificate without https", Some(hint));
            return None;
        }
        names?;
        Some(Self {
            url: address?.url,
            method: method?,
            headers: headers?,
            authorization: authorization?,
            body: raw.body,
            redirects: redirects?,
            body_max: body_max?,
            version: raw.version,
            proxy: proxy?,
            tls: tls?,
            expect: raw.expect,
            hooks: Arc::default(),
            client: OnceLock::new(),
        })
    }

    /// The client of this check, built at its first attempt: roots and resolver are the process's.
    fn client(&self, net: &Net) -> Result<&Client, String> {
        let build = || {
            let mut tls = self.tls.config(net, self.hooks.seen.clone())?;
            tls.resumption = HandshakeHook::resumption(&self.hooks);
            let mut builder = Client::builder()
                .tls_backend_preconfigured(tls)
                .tls_info(true)
                .no_proxy()
                .pool_max_idle_per_host(0)
                .redirect(Policy::none())
                .referer(false)
                .http1_max_headers(HEADERS_MAX)
                .dns_resolver(ResolveHook(self.hooks.clone()))
                .connector_layer(ConnectHook(self.hooks.clone()));
            builder = match self.version {
                None => builder,
                Some(Version::V1) => builder.http1_only(),
                Some(Version::V2) => builder.http2_prior_knowledge(),
            };
            if let Some(proxy) = &self.proxy {
                builder = builder.proxy(proxy.clone());
            }
            builder.build().map_err(|e| format!("the HTTP client cannot be set up: {}", e.without_url()))
        };
        self.client.get_or_init(build).as_ref().map_err(Clone::clone)
    }

    async fn attempt(&self, cx: &mut Attempt) -> Result<(), Reason> {
        let client = self.client(cx.net()).map_err(|text| cx.fail(Kind::Own, text))?;
        let mut gathering = Gathering::begin(cx, &self.hooks);
        let answer = self.ask(client, &mut gathering).await?;
        let evidence = self.read(&mut gathering, answer).await?;
        gathering.cx.end_phase();
        self.expect.judge(&evidence).map_err(|(phase, kind, text)| {
            let reason = gathering.cx.fail(kind, text);
            Reason { phase, ..reason }
        })
    }

    /// Sends the request and follows redirects, until an answer is final.
    async fn ask(&self, client: &Client, gathering: &mut Gathering<'_>) -> Result<Response, Reason> {
        let mut url = self.url.clone();
        let mut method = self.method.clone();
        let mut visited = Vec::new();
        loop {
            let answer = self.request(client, gathering, &url, &method).await?;
            let status = answer.status();
            let target = answer.headers().get(LOCATION);
            let follows = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
            let (true, Some(target)) = (follows && self.redirects > 0, target) else { return Ok(answer) };
            if self.expect.wants_redirect(status.as_u16()) {
                return Ok(answer);
            }
            let target = String::from_utf8_lossy(target.as_bytes()).into_owned();
            visited.push(url.clone());
            let next = self.redirect(gathering.cx, &url, &target, &visited)?;
            // RFC 9110, sections 15.4.2 to 15.4.4: 303 always asks by GET, 301 and 302 do so after a POST.
            if status.as_u16() == 303 && method != Method::HEAD || status.as_u16() < 303 && method == Method::POST {
                method = Method::GET;
            }
            gathering.cx.note(format!("redirect to {}", shown(&next)));
            gathering.cx.detail("redirects", visited.len());
            url = next;
        }
    }

    /// Where a redirect leads, unless it leads nowhere.
    fn redirect(&self, cx: &Attempt, from: &Url, target: &str, visited: &[Url]) -> Result<Url, Reason> {
        let mut next = from
            .join(target)
            .map_err(|e| cx.fail(Kind::Protocol, format!("redirect to {}, which is no URL: {e}", quoted(target))))?;
        if !matches!(next.scheme(), "http" | "https") || next.host().is_none() {
            return Err(cx.fail(Kind::Protocol, format!("redirect to {}, which is not HTTP", quoted(target))));
        }
        // A server may not choose whom bongsu logs in as, and a fragment is not sent.
        let _ = next.set_username("");
        let _ = next.set_password(None);
        next.set_fragment(None);
        if visited.contains(&next) {
            return Err(cx.fail(Kind::Protocol, format!("redirect loop: back to {}", shown(&next))));
        }
        if visited.len() > self.redirects {
            let text = format!("more than {} redirects, the last one to {}", self.redirects, shown(&next));
            return Err(cx.fail(Kind::Protocol, text));
        }
        Ok(next)
    }

    async fn request(
        &self,
        client: &Client,
        gathering: &mut Gathering<'_>,
        url: &Url,
        method: &Method,
    ) -> Result<Response, Reason> {
        let literal = literal(url);
        if let Some(address) = literal.filter(|address| !gathering.cx.family().takes(address)) {
            let text = format!("{address} is no {} address", gathering.cx.family().word());
            return Err(gathering.cx.fail(Kind::NoAddress, text));
        }
        gathering.towards(literal, url.port_or_known_default().unwrap_or_default());
        let mut request = client.request(method.clone(), url.clone());
        request = request.header(USER_AGENT, concat!("bongsu/", env!("CARGO_PKG_VERSION")));
        if url.origin() == self.url.origin() {
            request = request.headers(self.headers.clone());
            if let Some(authorization) = &self.authorization {
                request = request.header(AUTHORIZATION, authorization.clone());
            }
        }
        if let Some(body) = self.body.as_ref().filter(|_| *method == self.method) {
            request = request.body(body.expose().to_owned());
        }
        if gathering.cx.explains() {
            gathering.cx.sent(format!("{method} {}", shown(url)));
        }
        let place = host_and_port(url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return Err(failure(gathering, error, &place)),
        };
        gathering.flush();
        note(gathering, &answer);
        Ok(answer)
    }

    /// Reads the body as far as it is allowed.
    async fn read(&self, gathering: &mut Gathering<'_>, mut answer: Response) -> Result<Evidence, Reason> {
        let headers = answer.headers().iter();
        let headers = headers.map(|(k, v)| (k.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned()));
        let facts = gathering.cx.tls_facts();
        let certificate = facts.and_then(|facts| facts.not_after.zip(facts.days_left));
        let mut evidence = Evidence {
            status: answer.status().as_u16(),
            headers: headers.collect(),
            certificate,
            ..Evidence::default()
        };
        gathering.cx.detail("status", evidence.status);
        gathering.cx.detail("http", format!("{:?}", answer.version()));
        let mut bytes = 0;
        loop {
            let chunk = match answer.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) if error.is_decode() => {
                    return Err(gathering.cx.fail(Kind::Protocol, "the compressed body of the answer is broken"));
                }
                Err(error) => return Err(failure(gathering, error, "")),
            };
            let room = self.body_max - bytes;
            evidence.cut = chunk.len() > room;
            let taken = &chunk[..chunk.len().min(room)];
            bytes += taken.len();
            if self.expect.wants_body() || gathering.cx.explains() {
                evidence.body.extend_from_slice(taken);
            }
            if evidence.cut {
                break;
            }
        }
        gathering.cx.detail("bytes", bytes);
        if gathering.cx.explains() && !evidence.body.is_empty() {
            let beginning = &evidence.body[..evidence.body.len().min(4 * SHOWN_CHARS_MAX)];
            let beginning = one_line(&String::from_utf8_lossy(beginning), SHOWN_CHARS_MAX);
            gathering.cx.received(beginning);
        }
        if evidence.cut && self.expect.wants_body() {
            let text = format!("the body is longer than body_max, {} bytes", self.body_max);
            return Err(gathering.cx.fail(Kind::TooLarge, text));
        }
        Ok(evidence)
    }
}

impl Probe for HttpProbe {
    fn target(&self) -> String {
        shown(&self.url)
    }

    fn probe<'a>(&'a self, cx: &'a mut Attempt) -> Boxed<'a, Result<(), Reason>> {
        Box::pin(self.attempt(cx))
    }
}

/// A URL for people: its query, which often holds a token, is left out.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    if url.query().is_some() {
        url.set_query(Some("…"));
    }
    one_line(&url.as_str().replace("%E2%80%A6", "…"), 2 * SHOWN_CHARS_MAX)
}

fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
        Host::Domain(_) => None,
    }
}

/// Notes what the head of an answer says.
fn note(gathering: &mut Gathering<'_>, answer: &Response) {
    if let Some(address) = answer.remote_addr() {
        gathering.cx.set_address(address);
        gathering.towards(Some(address.ip()), address.port());
    }
    if let Some(info) = answer.extensions().get::<reqwest::tls::TlsInfo>() {
        let version = info.version().map(|version| match version {
            reqwest::tls::Version::TLS_1_2 => "1.2".to_owned(),
            reqwest::tls::Version::TLS_1_3 => "1.3".to_owned(),
            other => format!("{other:?}"),
        });
        let alpn = (answer.version() == reqwest::Version::HTTP_2).then_some("h2");
        gathering.certificate(version, alpn);
    }
    if gathering.cx.explains() {
        gathering.cx.received(format!("{:?} {}", answer.version(), answer.status()));
        for (name, value) in answer.headers() {
            gathering.cx.received(format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())));
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Options

fn method(options: &mut Options<'_>, raw: &HttpOptions) -> Option<Method> {
    let Some(name) = &raw.method else {
        return Some(if raw.body.is_some() { Method::POST } else { Method::GET });
    };
    match Method::from_bytes(name.to_ascii_uppercase().as_bytes()) {
        Ok(method) if method != Method::CONNECT => Some(method),
        _ => {
            let hint = "write one such as GET, HEAD or POST";
            options.problem("method", format!("`{name}` is no method to ask with"), Some(hint));
            None
        }
    }
}

fn headers(options: &mut Options<'_>, raw: &BTreeMap<String, Secret>) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    let mut good = true;
    for (name, value) in raw {
        let header = HeaderName::from_bytes(name.as_bytes());
        let mut content = HeaderValue::from_str(value.expose());
        if let Ok(content) = &mut content {
            content.set_sensitive(true);
        }
        match (header, content) {
            (Ok(header), Ok(content)) => {
                headers.insert(header, content);
            }
            (Err(_), _) => {
                good = false;
                let text = format!("`{name}` is no name of a header");
                options.child("headers").child(name).problem("", text, Some("use letters, digits and `-`"));
            }
            (_, Err(_)) => {
                good = false;
                let hint = "line ends and control characters cannot be sent";
                let text = format!("the value of `{name}` cannot be sent in a header");
                options.child("headers").child(name).problem("", text, Some(hint));
            }
        }
    }
    good.then_some(headers)
}

/// `Some(None)` when there is nothing to log in with.
fn authorization(
    options: &mut Options<'_>,
    raw: &HttpOptions,
    address: Option<&Address>,
) -> Option<Option<HeaderValue>> {
    let in_url = address.and_then(|a| a.username.clone());
    let username = raw.username.clone().or(in_url);
    let password = raw.password.clone().or(address.and_then(|a| a.password.clone()));
    let text = match (&raw.bearer, username, password) {
        (None, None, None) => return Some(None),
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
            let hint = "keep `bearer`, or `username` and `password`";
            options.problem("bearer", "there are two ways to log in here", Some(hint));
            return None;
        }
        (Some(token), None, None) => format!("Bearer {}", token.expose()),
        (None, None, Some(_)) => {
            options.problem("password", "a password needs its user name", Some("add `username`"));
            return None;
        }
        (None, Some(username), password) => {
            let password = password.unwrap_or_default();
            format!("Basic {}", STANDARD.encode(format!("{username}:{}", password.expose())))
        }
    };
    match HeaderValue::from_str(&text) {
        Ok(mut value) => {
            value.set_sensitive(true);
            Some(Some(value))
        }
        Err(_) => {
            options.problem("bearer", "this token cannot be sent in a header", Some("is there a line end in it?"));
            None
        }
    }
}

fn bounded(options: &mut Options<'_>, key: &str, value: Option<usize>, default: usize, most: usize) -> Option<usize> {
    let value = value.unwrap_or(default);
    if value > most {
        options.problem(key, format!("{value} is more than {most}"), Some("a smaller number will do"));
        return None;
    }
    Some(value)
}

/// `Some(None)` when no proxy is wanted.
fn proxy(options: &mut Options<'_>, raw: Option<&str>) -> Option<Option<reqwest::Proxy>> {
    let Some(text) = raw else { return Some(None) };
    let schemes =
        [Scheme { name: "http", port: Some(80), tls: false }, Scheme { name: "https", port: Some(443), tls: true }];
    let address = Address::read(options, "proxy", text, &schemes)?;
    match reqwest::Proxy::all(address.url.as_str()) {
        Ok(proxy) => Some(Some(match (&address.username, &address.password) {
            (Some(username), password) => {
                proxy.basic_auth(username, password.as_ref().map_or("", |password| password.expose()))
            }
            _ => proxy,
        })),
        Err(error) => {
            let text = format!("this is no proxy: {}", error.without_url());
            options.problem("proxy", text, Some("write it as http://host:port"));
            None
        }
    }
}

fn expected_names(options: &mut Options<'_>, expect: &Expect) -> Option<()> {
    let mut good = Some(());
    for name in expect.headers.keys().filter(|name| HeaderName::from_bytes(name.as_bytes()).is_err()) {
        good = None;
        let text = format!("`{name}` is no name of a header");
        options.child("expect").child("headers").child(name).problem("", text, Some("use letters, digits and `-`"));
    }
    good
}

#[cfg(test)]
mod tests;
