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
#[doc(hidden)]
pub mod fuzz;
mod options;

use std::{
    borrow::Cow,
    net::IpAddr,
    sync::{Arc, LazyLock, OnceLock},
};

use reqwest::{
    Client, Method, Response,
    header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, USER_AGENT},
    redirect::Policy,
};
use url::{Host, Url};

use self::{
    client::{ConnectHook, Gathering, HOOKS, HandshakeHook, Hooks, ResolveHook, WitnessHook, failure},
    expect::{Evidence, Expect},
    options::{
        BODY_MAX, BODY_MAX_MAX, HttpOptions, REDIRECTS, REDIRECTS_MAX, Version, authorization, bounded, expected_names,
        headers, method, proxy,
    },
};
use crate::{
    observation::{Kind, Reason, one_line},
    options::Options,
    protocol::{
        Attempt, Boxed, Net, Probe, Protocol,
        matcher::{SHOWN_CHARS_MAX, quoted},
        wire::{Address, Scheme, TlsClient, host_and_port},
    },
    value::Secret,
};

/// Most headers of an answer that are read: ten times what usual servers send.
pub const HEADERS_MAX: usize = 200;

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
    example: "- name: webmail\n  http: { url: \"https://mail.example.com/\", expect: { status: 200, body: { contains: Inbox } } }\n",
    probe_schema: Some(|generator| generator.subschema_for::<HttpOptions>()),
    send_schema: None,
    receive_schema: None,
    probe: Some(|options| Some(Box::new(HttpProbe::build(options)?))),
    send: None,
    receive: None,
};

/// A resolved `http` probe. What few checks have is in a box, for there are thousands.
struct HttpProbe {
    url: Url,
    method: Method,
    headers: Option<Box<HeaderMap>>,
    authorization: Option<HeaderValue>,
    body: Option<Secret>,
    redirects: usize,
    body_max: usize,
    version: Option<Version>,
    proxy: Option<Box<Proxied>>,
    tls: TlsClient,
    expect: Option<Box<Expect>>,
}

/// A proxy, and the client that goes through it: other checks share theirs.
struct Proxied {
    proxy: reqwest::Proxy,
    client: OnceLock<Result<Client, String>>,
}

/// The client of all checks that connect in the same way.
struct Shared(Result<Client, String>);

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
        if method == Some(Method::HEAD) && raw.expect.wants_body() {
            let hint = "ask by GET, or leave `expect.body` out";
            options.problem("expect.body", "the answer to HEAD never has a body", Some(hint));
            return None;
        }
        Some(Self {
            url: address?.url,
            method: method?,
            headers: Some(headers?).filter(|headers| !headers.is_empty()).map(Box::new),
            authorization: authorization?,
            body: raw.body,
            redirects: redirects?,
            body_max: body_max?,
            version: raw.version,
            proxy: proxy?.map(|proxy| Box::new(Proxied { proxy, client: OnceLock::new() })),
            tls: tls?,
            expect: Some(raw.expect).filter(|expect| !expect.is_usual()).map(Box::new),
        })
    }

    /// The client of this check, built at its first attempt: roots and resolver are the process's. It asks for each check in
    /// that check's own task, where the hooks of the attempt are found.
    fn client(&self, net: &Net) -> Result<Client, String> {
        let build = || {
            let mut tls = self.tls.config(net, Arc::new(WitnessHook))?;
            tls.resumption = HandshakeHook::resumption();
            let mut builder = Client::builder()
                .tls_backend_preconfigured(tls)
                .tls_info(true)
                .no_proxy()
                .pool_max_idle_per_host(0)
                // For connections that live longer than one answer.
                .tcp_keepalive(None)
                .tcp_keepalive_interval(None)
                .tcp_keepalive_retries(None)
                .tcp_user_timeout(None)
                .redirect(Policy::none())
                .referer(false)
                .http1_max_headers(HEADERS_MAX)
                .dns_resolver(ResolveHook)
                .connector_layer(ConnectHook);
            builder = match self.version {
                None => builder,
                Some(Version::V1) => builder.http1_only(),
                Some(Version::V2) => builder.http2_prior_knowledge(),
            };
            if let Some(proxied) = &self.proxy {
                builder = builder.proxy(proxied.proxy.clone());
            }
            builder.build().map_err(|e| format!("the HTTP client cannot be set up: {}", e.without_url()))
        };
        match &self.proxy {
            Some(proxied) => proxied.client.get_or_init(build).clone(),
            None => self.tls.shared(|| Shared(build())).0.clone(),
        }
    }

    fn expect(&self) -> &Expect {
        static USUAL: LazyLock<Expect> = LazyLock::new(Expect::default);
        self.expect.as_deref().unwrap_or(&USUAL)
    }

    async fn attempt(&self, cx: &mut Attempt) -> Result<(), Reason> {
        let hooks = Arc::new(Hooks::new(cx));
        HOOKS.scope(hooks.clone(), self.attempt_hooked(cx, &hooks)).await
    }

    async fn attempt_hooked(&self, cx: &mut Attempt, hooks: &Hooks) -> Result<(), Reason> {
        let client = self.client(cx.net()).map_err(|text| cx.fail(Kind::Own, text))?;
        let mut gathering = Gathering::begin(cx, hooks);
        let answer = self.ask(&client, &mut gathering).await?;
        let evidence = self.read(&mut gathering, answer).await?;
        gathering.cx.end_phase();
        self.expect().judge(&evidence).map_err(|(phase, kind, text)| {
            let reason = gathering.cx.fail(kind, self.hidden(&text));
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
            if self.expect().wants_redirect(status.as_u16()) {
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
        gathering.cx.forget_address();
        gathering.towards(literal, url.port_or_known_default().unwrap_or_default());
        let mut request = client.request(method.clone(), url.clone());
        request = request.header(USER_AGENT, concat!("bongsu/", env!("CARGO_PKG_VERSION")));
        if url.origin() == self.url.origin() {
            if let Some(headers) = self.headers.as_deref() {
                request = request.headers(headers.clone());
            }
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
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => {
                let port = url.port_or_known_default().unwrap_or_default();
                return Err(failure(gathering, error, &host_and_port(url.host_str().unwrap_or_default(), port)));
            }
        };
        gathering.flush();
        self.note(gathering, &answer);
        Ok(answer)
    }

    /// Reads the body as far as it is allowed.
    async fn read(&self, gathering: &mut Gathering<'_>, mut answer: Response) -> Result<Evidence, Reason> {
        let headers = answer.headers().iter().filter(|(name, _)| self.expect().wants_header(name.as_str()));
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
                Err(error) => return Err(failure(gathering, error, "")),
            };
            let room = self.body_max - bytes;
            evidence.cut = chunk.len() > room;
            let taken = &chunk[..chunk.len().min(room)];
            bytes += taken.len();
            if self.expect().wants_body() || gathering.cx.explains() {
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
            gathering.cx.received(self.hidden(&beginning));
        }
        if evidence.cut && self.expect().wants_body() {
            let text = format!("the body is longer than body_max, {} bytes", self.body_max);
            return Err(gathering.cx.fail(Kind::TooLarge, text));
        }
        Ok(evidence)
    }

    /// Notes what the head of an answer says.
    fn note(&self, gathering: &mut Gathering<'_>, answer: &Response) {
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
                let line = format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()));
                gathering.cx.received(self.hidden(&line));
            }
        }
    }

    /// A text of the server's without our basic authentication, which a server may well echo; the password in it is
    /// encoded, so that masking it does not find it.
    fn hidden<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let value = self.authorization.as_ref().and_then(|value| value.to_str().ok());
        match value.and_then(|value| value.strip_prefix("Basic ")).filter(|token| text.contains(token)) {
            Some(token) => Cow::Owned(text.replace(token, "***")),
            None => Cow::Borrowed(text),
        }
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

#[cfg(test)]
mod tests;
