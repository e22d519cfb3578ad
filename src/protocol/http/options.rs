//! Options of `http`, and what can be wrong with them.

use std::{borrow::Cow, collections::BTreeMap};

use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::{
    Method,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::expect::Expect;
use crate::{
    options::Options,
    protocol::wire::{Address, Endpoint, Scheme, TlsOptions},
    value::Secret,
};

/// Most redirects that can be asked for; browsers give up at twenty.
pub const REDIRECTS_MAX: usize = 20;

/// Redirects followed by default: http → https → www → login page, and one more.
pub const REDIRECTS: usize = 5;

/// Body bytes read by default: a health page or the beginning of a web page.
pub const BODY_MAX: usize = 1 << 20;

/// Most body bytes that can be asked for; each running attempt may hold so much memory.
pub const BODY_MAX_MAX: usize = 64 << 20;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Version {
    /// HTTP/1.1 only.
    V1,
    /// HTTP/2 only; without TLS by prior knowledge.
    V2,
}

// YAML reads `1.1` and `2` as numbers; as texts, they are taken as well.
impl TryFrom<String> for Version {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "1.1" => Ok(Self::V1),
            "2" => Ok(Self::V2),
            _ => Err(format!("`{text}` is no version of HTTP that can be asked for; write 1.1 or 2")),
        }
    }
}

impl JsonSchema for Version {
    fn schema_name() -> Cow<'static, str> {
        "HttpVersion".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": "A version of HTTP", "enum": ["1.1", "2", 1.1, 2] })
    }
}

pub(super) fn method(options: &mut Options<'_>, raw: &HttpOptions) -> Option<Method> {
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

pub(super) fn headers(options: &mut Options<'_>, raw: &BTreeMap<String, Secret>) -> Option<HeaderMap> {
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
pub(super) fn authorization(
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
        (None, Some(username), password) => basic(&username, password.unwrap_or_default().expose()),
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

pub(super) fn bounded(
    options: &mut Options<'_>,
    key: &str,
    value: Option<usize>,
    default: usize,
    most: usize,
) -> Option<usize> {
    let value = value.unwrap_or(default);
    if value > most {
        options.problem(key, format!("{value} is more than {most}"), Some("a smaller number will do"));
        return None;
    }
    Some(value)
}

/// A proxy, and what it is told of who asks.
pub struct Proxy {
    /// Where it is.
    pub endpoint: Endpoint,
    /// Basic authentication, if it is wanted.
    pub authorization: Option<HeaderValue>,
}

/// `Some(None)` when no proxy is wanted.
pub(super) fn proxy(options: &mut Options<'_>, raw: &HttpOptions) -> Option<Option<Proxy>> {
    let Some(text) = &raw.proxy else { return Some(None) };
    let schemes =
        [Scheme { name: "http", port: Some(80), tls: false }, Scheme { name: "https", port: Some(443), tls: true }];
    let address = Address::read(options, "proxy", text, &schemes)?;
    // The name in the options is that of the server behind it.
    let tls = TlsOptions { server_name: None, ..raw.tls.clone() };
    let tls = if address.scheme.tls { Some(tls.client(&mut options.child("tls"), &["http/1.1"])?) } else { None };
    let authorization = address.username.as_ref().map(|username| {
        let password = address.password.as_ref().map_or("", |password| password.expose());
        let mut value = HeaderValue::from_str(&basic(username, password)).expect("Base64 can be sent in a header");
        value.set_sensitive(true);
        value
    });
    Some(Some(Proxy { endpoint: address.endpoint(tls), authorization }))
}

/// The value of `Authorization` (RFC 7617).
fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

pub(super) fn expected_names(options: &mut Options<'_>, expect: &Expect) -> Option<()> {
    let mut good = Some(());
    for name in expect.headers.keys().filter(|name| HeaderName::from_bytes(name.as_bytes()).is_err()) {
        good = None;
        let text = format!("`{name}` is no name of a header");
        options.child("expect").child("headers").child(name).problem("", text, Some("use letters, digits and `-`"));
    }
    good
}
