//! `http`: one request over a fresh connection, and what its answer must be.
//!
//! Success proves that the name resolves, the server accepts a new connection (with a valid certificate, for https),
//! and answers this request with the status, headers and body expected. It does not prove that anything behind the
//! page works, unless the page says so and `expect` looks at it.
//!
//! The dialogue (RFC 9110, 9112, 9113): resolve → connect → tls (https) → exchange, which is the request and the
//! answer with its body. A redirect (RFC 9110, section 15.4) is followed by another round of the same phases; to
//! another origin it goes without credentials, without the headers of the options, and never with a body. Nothing is left on the server
//! but what the request itself does there.
//!
//! Bounds: `redirects` hops, `body_max` bytes of the decompressed body, `client::HEADERS_MAX` headers in
//! `client::HEAD_BYTES_MAX` bytes, interim answers in `client::UNTIL_HEAD_BYTES_MAX`. A body longer than `body_max` is a failure when `expect.body` looks at it, and is
//! otherwise left unread.
//!
//! ```yaml
//! http: { url: "https://mail.example.com/", expect: { status: 200, body: { contains: Inbox } } }
//! ```

mod body;
mod client;
mod expect;
#[doc(hidden)]
pub mod fuzz;
mod options;

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
    sync::LazyLock,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, Uri,
    body::{Bytes, Incoming},
    header::{
        ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HOST, HeaderMap, HeaderValue, LOCATION, PROXY_AUTHORIZATION, RANGE,
        USER_AGENT,
    },
};
use url::{Host, Position, Url};

use self::{
    body::{Body, PIECE_BYTES},
    client::{Connection, tunnel},
    expect::{Evidence, Expect},
    options::{
        BODY_MAX, BODY_MAX_MAX, HttpOptions, Proxy, REDIRECTS, REDIRECTS_MAX, Version, authorization, bounded,
        expected_names, headers, method, proxy,
    },
};
use crate::{
    observation::{Kind, Phase, Reason, one_line},
    options::Options,
    protocol::{
        Attempt, Boxed, Probe, Protocol,
        matcher::{SHOWN_CHARS_MAX, quoted},
        wire::{Address, Scheme, Stream, TlsClient},
    },
    value::Secret,
};

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
    proxy: Option<Box<Proxy>>,
    tls: TlsClient,
    expect: Option<Box<Expect>>,
}

/// An answer, and the connection by which its body is still to come.
struct Answer {
    connection: Connection,
    head: Response<Incoming>,
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
        let proxy = proxy(options, &raw);
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
            proxy: proxy?.map(Box::new),
            tls: tls?,
            expect: Some(raw.expect).filter(|expect| !expect.is_usual()).map(Box::new),
        })
    }

    fn expect(&self) -> &Expect {
        static USUAL: LazyLock<Expect> = LazyLock::new(Expect::default);
        self.expect.as_deref().unwrap_or(&USUAL)
    }

    async fn attempt(&self, cx: &mut Attempt) -> Result<(), Reason> {
        let answer = self.ask(cx).await?;
        let evidence = self.read(cx, answer).await?;
        cx.end_phase();
        self.expect().judge(&evidence).map_err(|(phase, kind, text)| {
            let reason = cx.fail(kind, self.hidden(&text));
            Reason { phase, ..reason }
        })
    }

    /// Sends the request and follows redirects, until an answer is final.
    async fn ask(&self, cx: &mut Attempt) -> Result<Answer, Reason> {
        let mut url = self.url.clone();
        let mut method = self.method.clone();
        let mut visited = Vec::new();
        loop {
            let answer = self.request(cx, &url, &method).await?;
            let status = answer.head.status().as_u16();
            let target = answer.head.headers().get(LOCATION);
            let follows = matches!(status, 301 | 302 | 303 | 307 | 308);
            let (true, Some(target)) = (follows && self.redirects > 0, target) else { return Ok(answer) };
            if self.expect().wants_redirect(status) {
                return Ok(answer);
            }
            let target = String::from_utf8_lossy(target.as_bytes()).into_owned();
            visited.push(url.clone());
            let next = self.redirect(cx, &url, &target, &visited)?;
            // RFC 9110, sections 15.4.2 to 15.4.4: 303 always asks by GET, 301 and 302 do so after a POST.
            if status == 303 && method != Method::HEAD || status < 303 && method == Method::POST {
                method = Method::GET;
            }
            if self.body_for(&method).is_some() && next.origin() != self.url.origin() {
                let text = format!("redirect to {}, another origin: the body is not sent there", shown(&next));
                return Err(cx.fail(Kind::Unexpected, text));
            }
            cx.note(format!("redirect to {}", shown(&next)));
            cx.detail("redirects", visited.len());
            url = next;
        }
    }

    /// The body of a request by this method: a redirect may change it.
    fn body_for(&self, method: &Method) -> Option<&Secret> {
        self.body.as_ref().filter(|_| *method == self.method)
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

    async fn request(&self, cx: &mut Attempt, url: &Url, method: &Method) -> Result<Answer, Reason> {
        cx.forget_address();
        let stream = self.connect(cx, url).await?;
        let v2 = match (url.scheme(), &self.proxy) {
            // Without TLS nothing tells whether a proxy can speak it.
            ("http", Some(_)) => false,
            ("http", None) => self.version == Some(Version::V2),
            _ => self.version == Some(Version::V2) || cx.tls_facts().is_some_and(|f| f.alpn.as_deref() == Some("h2")),
        };
        let request = self.written(cx, url, method, v2)?;
        cx.phase(Phase::Exchange);
        if cx.explains() {
            cx.sent(format!("{method} {}", shown(url)));
        }
        let mut connection = Connection::begin(cx, stream, v2).await?;
        let head = connection.ask(cx, request).await?;
        if cx.explains() {
            cx.received(format!("{:?} {}", head.version(), head.status()));
            for (name, value) in head.headers() {
                let line = format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()));
                cx.received(self.hidden(&line));
            }
        }
        Ok(Answer { connection, head })
    }

    /// A stream to the server of this URL, or through the proxy to it.
    async fn connect(&self, cx: &mut Attempt, url: &Url) -> Result<Stream, Reason> {
        let https = url.scheme() == "https";
        let port = url.port_or_known_default().unwrap_or_default();
        let (host, literal) = host(url);
        let stream = match self.proxy.as_deref() {
            None => match literal {
                Some(address) if !cx.family().takes(&address) => {
                    cx.phase(Phase::Connect);
                    return Err(cx.fail(Kind::NoAddress, format!("{address} is no {} address", cx.family().word())));
                }
                Some(address) => Box::new(cx.connect_any(&[SocketAddr::new(address, port)]).await?),
                None => cx.connect(&host, port).await?,
            },
            Some(proxy) => {
                let stream = cx.dial(&proxy.endpoint).await?;
                if !https {
                    return Ok(stream);
                }
                let authority = format!("{}:{port}", url.host_str().unwrap_or_default());
                tunnel(cx, stream, &authority, proxy.authorization.as_ref()).await?
            }
        };
        if https { cx.tls(stream, &self.tls, &host).await } else { Ok(stream) }
    }

    /// The request as it is sent.
    fn written(&self, cx: &Attempt, url: &Url, method: &Method, v2: bool) -> Result<Request<Full<Bytes>>, Reason> {
        let mut headers = HeaderMap::new();
        let own = url.origin() == self.url.origin();
        if let Some(own) = self.headers.as_deref().filter(|_| own) {
            headers.clone_from(own);
        }
        if let Some(authorization) = self.authorization.as_ref().filter(|_| own) {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let proxied = self.proxy.as_deref().filter(|_| url.scheme() == "http");
        if let Some(authorization) = proxied.and_then(|proxy| proxy.authorization.as_ref()) {
            headers.insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        let agent = HeaderValue::from_static(concat!("bongsu/", env!("CARGO_PKG_VERSION")));
        headers.entry(USER_AGENT).or_insert(agent);
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        // A part of something packed cannot be unpacked.
        if !headers.contains_key(RANGE) {
            headers.entry(ACCEPT_ENCODING).or_insert(HeaderValue::from_static(body::ACCEPTED));
        }
        let unsendable = |what: &str| cx.fail(Kind::Protocol, format!("{} {what}", shown(url)));
        let authority = &url[Position::BeforeHost..Position::AfterPort];
        let path = &url[Position::BeforePath..Position::AfterQuery];
        // RFC 9113, section 8.3.1: there the host is a part of the target.
        let host = match headers.remove(HOST) {
            Some(host) => host,
            None => HeaderValue::from_str(authority).map_err(|_| unsendable("names a host that cannot be sent"))?,
        };
        let target = if v2 {
            let authority = host.to_str().map_err(|_| unsendable("is asked by a `Host` that HTTP/2 cannot send"))?;
            format!("{}://{authority}{path}", url.scheme())
        } else {
            headers.insert(HOST, host);
            if proxied.is_some() { format!("{}://{authority}{path}", url.scheme()) } else { path.to_owned() }
        };
        let target = Uri::try_from(target).map_err(|error| unsendable(&format!("cannot be asked for: {error}")))?;
        let body = self.body_for(method).map(|body| Bytes::copy_from_slice(body.expose().as_bytes()));
        let mut request = Request::new(Full::new(body.unwrap_or_default()));
        *request.method_mut() = method.clone();
        *request.uri_mut() = target;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// Reads the body as far as it is allowed.
    async fn read(&self, cx: &mut Attempt, answer: Answer) -> Result<Evidence, Reason> {
        let Answer { mut connection, head } = answer;
        let (head, mut incoming) = head.into_parts();
        let headers = head.headers.iter().filter(|(name, _)| self.expect().wants_header(name.as_str()));
        let headers = headers.map(|(k, v)| (k.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned()));
        let certificate = cx.tls_facts().and_then(|facts| facts.not_after.zip(facts.days_left));
        let mut evidence =
            Evidence { status: head.status.as_u16(), headers: headers.collect(), certificate, ..Evidence::default() };
        cx.detail("status", evidence.status);
        cx.detail("http", format!("{:?}", head.version));
        let mut body = Body::new(&head.headers, self.body_max, self.expect().wants_body() || cx.explains());
        let broken = |cx: &Attempt, error: body::Broken| cx.fail(Kind::Protocol, error.to_string());
        'reading: loop {
            let Some(chunk) = connection.chunk(cx, &mut incoming).await? else {
                body.end().map_err(|error| broken(cx, error))?;
                break;
            };
            for piece in chunk.chunks(PIECE_BYTES) {
                body.feed(piece).map_err(|error| broken(cx, error))?;
                if body.taken().cut {
                    break 'reading;
                }
                tokio::task::consume_budget().await;
            }
        }
        let taken = body.taken();
        evidence.cut = taken.cut;
        evidence.body = std::mem::take(&mut taken.kept);
        cx.detail("bytes", taken.bytes);
        connection.close().await;
        if cx.explains() && !evidence.body.is_empty() {
            let beginning = &evidence.body[..evidence.body.len().min(4 * SHOWN_CHARS_MAX)];
            let beginning = one_line(&String::from_utf8_lossy(beginning), SHOWN_CHARS_MAX);
            cx.received(self.hidden(&beginning));
        }
        if evidence.cut && self.expect().wants_body() {
            let text = format!("the body is longer than body_max, {} bytes", self.body_max);
            return Err(cx.fail(Kind::TooLarge, text));
        }
        Ok(evidence)
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

/// The host of a URL without brackets, and the address if it is one.
fn host(url: &Url) -> (Cow<'_, str>, Option<IpAddr>) {
    match url.host() {
        Some(Host::Ipv4(address)) => (address.to_string().into(), Some(address.into())),
        Some(Host::Ipv6(address)) => (address.to_string().into(), Some(address.into())),
        Some(Host::Domain(name)) => (name.into(), None),
        None => ("".into(), None),
    }
}

#[cfg(test)]
mod tests;
