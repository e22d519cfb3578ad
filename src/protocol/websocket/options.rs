//! Options of the `websocket` protocol: as written, then resolved.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::header::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};
use url::Position;

use super::{
    script::{Act, Field, FrameStep, FrameTest, Template, Wanted, script, wanted},
    upgrade::Request,
};
use crate::{
    options::Options,
    protocol::wire::{Address, Endpoint, Scheme, TlsOptions},
    value::{Secret, TimeSpan},
};

const SCHEMES: &[Scheme] =
    &[Scheme { name: "ws", port: Some(80), tls: false }, Scheme { name: "wss", port: Some(443), tls: true }];

/// Gateways forget silent connections after a minute; some after less.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Headers that are the handshake's own.
const OWN_HEADERS: [&str; 2] = ["upgrade", "connection"];

/// How to reach a server, and what to ask it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawProbe {
    /// `ws://host[:80]/path?query` or `wss://host[:443]/path?query`. A user name and password in it are sent as basic
    /// authentication.
    url: String,
    /// Headers of the upgrade, by name: `Authorization`, `Origin`.
    #[serde(default)]
    headers: BTreeMap<String, Secret>,
    /// The subprotocol to offer, or a list of them, the best first. A server that agrees on none has failed.
    subprotocol: Option<Subprotocols>,
    /// Whom to trust, for `wss`.
    tls: Option<TlsOptions>,
    /// What to say and what to expect after the upgrade, in order; default: a ping and its pong. Frames that are not
    /// what is expected are passed over.
    #[serde(default)]
    exchange: Vec<FrameStep>,
}

/// How to reach a server, and how a message is sent there.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawSend {
    /// `ws://host[:80]/path?query` or `wss://host[:443]/path?query`. A user name and password in it are sent as basic
    /// authentication.
    url: String,
    /// Headers of the upgrade, by name: `Authorization`, `Origin`.
    #[serde(default)]
    headers: BTreeMap<String, Secret>,
    /// The subprotocol to offer, or a list of them, the best first. A server that agrees on none has failed.
    subprotocol: Option<Subprotocols>,
    /// Whom to trust, for `wss`.
    tls: Option<TlsOptions>,
    /// Longest silence before a ping; as long again without an answer ends the session. The default is 30s, 0 turns
    /// it off.
    keep_alive: Option<TimeSpan>,
    /// What to say and what to expect after the upgrade: a login, a subscription.
    #[serde(default)]
    first: Vec<FrameStep>,
    /// The frame around a message, with `{{message}}` exactly once; within a JSON text the message is escaped.
    /// Default: the message as it is.
    message: Option<Secret>,
    /// Send binary frames instead of text frames.
    #[serde(default)]
    binary: bool,
    /// The frame by which the server says that it took the message; default: the pong to a ping sent after it.
    ack: Option<FrameTest>,
}

/// How to reach a server, and how messages come from there.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawReceive {
    /// `ws://host[:80]/path?query` or `wss://host[:443]/path?query`. A user name and password in it are sent as basic
    /// authentication.
    url: String,
    /// Headers of the upgrade, by name: `Authorization`, `Origin`.
    #[serde(default)]
    headers: BTreeMap<String, Secret>,
    /// The subprotocol to offer, or a list of them, the best first. A server that agrees on none has failed.
    subprotocol: Option<Subprotocols>,
    /// Whom to trust, for `wss`.
    tls: Option<TlsOptions>,
    /// Longest silence before a ping; as long again without an answer ends the session. The default is 30s, 0 turns
    /// it off.
    keep_alive: Option<TimeSpan>,
    /// What to say and what to expect after the upgrade: a login, a subscription.
    #[serde(default)]
    first: Vec<FrameStep>,
    /// Where the message stands within a frame of JSON: a JSONPath (`$.text`) or a JSON Pointer (`/text`). Frames
    /// without a text there are passed over. Default: the whole frame is the message.
    field: Option<String>,
}

/// A subprotocol's name, or a list of them.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
enum Subprotocols {
    One(String),
    Many(Vec<String>),
}

impl<'de> Deserialize<'de> for Subprotocols {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Subprotocols;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name or a list of names")
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<Subprotocols, E> {
                Ok(Subprotocols::One(name.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Subprotocols, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = items.next_element()? {
                    names.push(name);
                }
                Ok(Subprotocols::Many(names))
            }
        }
        d.deserialize_any(V)
    }
}

/// How to reach a server, checked.
#[derive(Debug)]
pub struct Place {
    /// Where to dial.
    pub endpoint: Endpoint,
    /// The URL without credentials and query, for people.
    pub target: String,
    /// What to ask for.
    pub request: Request,
    /// Longest silence before a ping; zero for none.
    pub keep_alive: Duration,
}

/// A probe, checked.
#[derive(Debug)]
pub struct Probed {
    /// Where.
    pub place: Place,
    /// What to do there; empty for a ping.
    pub exchange: Vec<Act>,
}

/// A sender, checked.
#[derive(Debug)]
pub struct Sending {
    /// Where.
    pub place: Place,
    /// What comes first.
    pub first: Vec<Act>,
    /// How a message is sent; its sessions share it.
    pub how: Arc<How>,
}

/// How a message is sent.
#[derive(Debug)]
pub struct How {
    /// What stands around it.
    pub template: Option<Template>,
    /// Whether its frame is binary.
    pub binary: bool,
    /// By which frame the server takes it.
    pub ack: Option<Wanted>,
}

/// A receiver, checked.
#[derive(Debug)]
pub struct Receiving {
    /// Where.
    pub place: Place,
    /// What comes first.
    pub first: Vec<Act>,
    /// Where the message stands within a frame.
    pub field: Option<Field>,
}

impl Probed {
    /// Reads the options of a probe.
    pub fn read(options: &mut Options<'_>) -> Option<Self> {
        let raw = options.read::<RawProbe>()?;
        let place = Place::resolve(options, &raw.url, &raw.headers, raw.subprotocol, raw.tls, None);
        let exchange = script(options, "exchange", raw.exchange);
        Some(Self { place: place?, exchange: exchange? })
    }
}

impl Sending {
    /// Reads the options of a sender.
    pub fn read(options: &mut Options<'_>) -> Option<Self> {
        let raw = options.read::<RawSend>()?;
        let place = Place::resolve(options, &raw.url, &raw.headers, raw.subprotocol, raw.tls, raw.keep_alive);
        let first = script(options, "first", raw.first);
        let template = raw.message.map(|text| Template::read(options, &text));
        let ack = raw.ack.map(|test| wanted(options, "ack", test));
        let template = template.map_or(Some(None), |t| t.map(Some));
        let ack = ack.map_or(Some(None), |a| a.map(Some));
        let how = Arc::new(How { template: template?, binary: raw.binary, ack: ack? });
        Some(Self { place: place?, first: first?, how })
    }
}

impl Receiving {
    /// Reads the options of a receiver.
    pub fn read(options: &mut Options<'_>) -> Option<Self> {
        let raw = options.read::<RawReceive>()?;
        let place = Place::resolve(options, &raw.url, &raw.headers, raw.subprotocol, raw.tls, raw.keep_alive);
        let first = script(options, "first", raw.first);
        let field = raw.field.map_or(Some(None), |text| Field::read(options, &text).map(Some));
        Some(Self { place: place?, first: first?, field: field? })
    }
}

impl Place {
    fn resolve(
        options: &mut Options<'_>,
        url: &str,
        headers: &BTreeMap<String, Secret>,
        subprotocol: Option<Subprotocols>,
        tls: Option<TlsOptions>,
        keep_alive: Option<TimeSpan>,
    ) -> Option<Self> {
        let address = Address::read(options, "url", url, SCHEMES);
        let headers = checked(options, headers);
        let subprotocols = subprotocols(options, subprotocol);
        let encrypted = address.as_ref().is_some_and(|a| a.scheme.tls);
        let mut good = true;
        if tls.is_some() && address.is_some() && !encrypted {
            options.problem("tls", "`ws://` has no TLS", Some("write wss:// in the URL"));
            good = false;
        }
        // ALPN: the upgrade is HTTP/1.1 (RFC 6455; over HTTP/2 it is another one, RFC 8441).
        let tls = if encrypted {
            Some(tls.unwrap_or_default().client(&mut options.child("tls"), &["http/1.1"])?)
        } else {
            None
        };
        let (address, mut headers, subprotocols) = (address?, headers?, subprotocols?);
        if address.url.fragment().is_some() {
            options.problem("url", "a WebSocket URL has no fragment", Some("leave out `#` and what follows it"));
            good = false;
        }
        if let Some(name) = &address.username {
            if headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization")) {
                options.problem("url", "the URL and the headers both name a login", Some("leave one of them out"));
                good = false;
            }
            let password = address.password.as_ref().map_or("", |p| p.expose());
            let basic = format!("Basic {}", STANDARD.encode(format!("{name}:{password}")));
            headers.push(("Authorization".into(), Secret::new(basic)));
        }
        let endpoint = address.endpoint(tls);
        let path = address.url.path();
        let request = Request {
            host: address.url[Position::BeforeHost..Position::AfterPort].to_owned(),
            resource: address.url[Position::BeforePath..Position::AfterQuery].to_owned(),
            path: path.to_owned(),
            subprotocols,
            headers,
        };
        let shown = if path == "/" { "" } else { path };
        let target = format!("{}://{endpoint}{shown}", address.scheme.name);
        let keep_alive = keep_alive.map_or(KEEP_ALIVE, |span| span.0);
        good.then_some(Self { endpoint, target, request, keep_alive })
    }
}

fn checked(options: &mut Options<'_>, raw: &BTreeMap<String, Secret>) -> Option<Vec<(String, Secret)>> {
    let mut headers = Vec::new();
    let mut good = true;
    for (name, value) in raw {
        let lower = name.to_ascii_lowercase();
        let problem = if HeaderName::from_bytes(name.as_bytes()).is_err() {
            Some((format!("`{name}` is no name of a header"), "use letters, digits and `-`"))
        } else if lower == "sec-websocket-protocol" {
            Some((format!("`{name}` is set by `subprotocol`"), "name the subprotocol there"))
        } else if OWN_HEADERS.contains(&lower.as_str()) || lower.starts_with("sec-websocket-") {
            Some((format!("`{name}` is the handshake's own header"), "leave it out"))
        } else if HeaderValue::from_str(value.expose()).is_err() {
            let text = format!("the value of `{name}` cannot be sent in a header");
            Some((text, "line ends and characters beyond ASCII cannot be sent"))
        } else {
            None
        };
        match problem {
            Some((text, hint)) => {
                good = false;
                options.child("headers").child(name).problem("", text, Some(hint));
            }
            None => headers.push((name.clone(), value.clone())),
        }
    }
    good.then_some(headers)
}

fn subprotocols(options: &mut Options<'_>, names: Option<Subprotocols>) -> Option<Vec<String>> {
    let names = match names {
        None => Vec::new(),
        Some(Subprotocols::One(name)) => vec![name],
        Some(Subprotocols::Many(names)) => names,
    };
    // A token of HTTP, as the name of a header is.
    let bad = names
        .iter()
        .enumerate()
        .find(|(n, name)| HeaderName::from_bytes(name.as_bytes()).is_err() || names[..*n].contains(name));
    if let Some((_, name)) = bad {
        let text = format!("`{}` is no name of a subprotocol, or is named twice", name.escape_default());
        options.problem("subprotocol", text, Some("write it as chat or v12.stomp"));
        return None;
    }
    Some(names)
}
