//! Options of `dns`, and what can be wrong with them.

use std::net::{IpAddr, SocketAddr};

use hickory_resolver::proto::{
    op::{Query, ResponseCode},
    rr::{Name, RecordType},
};
use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

use super::Wanted;
use crate::{
    options::{Options, suggestion},
    protocol::wire::{TlsOptions, system_nameservers},
};

/// Options of `dns`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsOptions {
    /// All in one: `dns://server:port/name?type=MX`; instead of `server`, `name` and `type`.
    pub url: Option<String>,
    /// The name server, as `host` or `host:port`; default: the first of the system's.
    pub server: Option<String>,
    /// The name to ask for; default: the root.
    pub name: Option<String>,
    /// The type of record, such as A, AAAA, MX, TXT; default: A, and NS for the root.
    #[serde(rename = "type")]
    pub record: Option<String>,
    /// How to ask: by `udp` (default), `tcp` or `tls`.
    #[serde(default)]
    pub over: Over,
    /// Whom to trust, over `tls`.
    #[serde(default)]
    pub tls: TlsOptions,
    /// What the answer must be; default: NOERROR with at least one record.
    #[serde(default)]
    pub expect: Expect,
}

/// What carries the question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Over {
    /// Datagrams, and TCP when the answer does not fit.
    #[default]
    Udp,
    /// TCP (RFC 7766).
    Tcp,
    /// TLS (RFC 7858).
    Tls,
}

/// What the answer must be; all that is given must hold.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// The response code: NOERROR (default), NXDOMAIN, REFUSED …
    pub rcode: Option<String>,
    /// Records that must be among the answers, as `dig +short` shows them.
    pub contains: Vec<String>,
    /// The answers, no more and no less, in any order.
    pub equals: Option<Vec<String>>,
    /// Least number of answers (default 1 for NOERROR).
    pub at_least: Option<usize>,
}

/// Response codes by the words in which people write them.
pub(super) const RCODES: &[(&str, ResponseCode)] = &[
    ("NOERROR", ResponseCode::NoError),
    ("FORMERR", ResponseCode::FormErr),
    ("SERVFAIL", ResponseCode::ServFail),
    ("NXDOMAIN", ResponseCode::NXDomain),
    ("NOTIMP", ResponseCode::NotImp),
    ("REFUSED", ResponseCode::Refused),
    ("NOTAUTH", ResponseCode::NotAuth),
    ("NOTZONE", ResponseCode::NotZone),
];

const TYPES: &[&str] =
    &["A", "AAAA", "CAA", "CNAME", "MX", "NAPTR", "NS", "PTR", "SOA", "SRV", "TLSA", "TXT", "SVCB", "HTTPS"];

/// `dns://192.0.2.53:53/example.com?type=MX` (after RFC 4501, which has no place for `over`).
pub(super) fn from_url(options: &mut Options<'_>, text: &str, raw: &mut DnsOptions) -> Option<()> {
    let mut problem = |text: String| options.problem("url", text, Some("write it as dns://server/name?type=A"));
    if raw.server.is_some() || raw.name.is_some() || raw.record.is_some() {
        problem("`url` already says server, name and type".into());
        return None;
    }
    let url = match Url::parse(text) {
        Ok(url) if url.scheme() == "dns" => url,
        Ok(url) => {
            problem(format!("the scheme `{}` does not fit here", url.scheme()));
            return None;
        }
        Err(error) => {
            problem(format!("this is no URL: {error}"));
            return None;
        }
    };
    raw.server = url.host_str().filter(|host| !host.is_empty()).map(|host| match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    });
    // The parser has percent-encoded what is not ASCII; a plus is a plus.
    let path = format!("p={}", url.path().trim_start_matches('/').replace('+', "%2B"));
    let name = url::form_urlencoded::parse(path.as_bytes()).next().map_or(String::new(), |(_, name)| name.into_owned());
    raw.name = Some(name).filter(|name| !name.is_empty());
    for (key, value) in url.query_pairs() {
        if !key.eq_ignore_ascii_case("type") {
            problem(format!("`{key}` is unknown here"));
            return None;
        }
        raw.record = Some(value.into_owned());
    }
    Some(())
}

/// `Some(None)` for the system's own.
pub(super) fn server(options: &mut Options<'_>, text: Option<&str>, over: Over) -> Option<Option<(String, u16)>> {
    let port = if over == Over::Tls { 853 } else { 53 };
    let Some(text) = text else {
        // Told when the configuration is read rather than by every attempt.
        return match system_nameservers() {
            Ok(_) if over != Over::Tls => Some(None),
            Ok(_) => {
                options.problem("over", "the system's name server is not asked by TLS", Some("name a `server`"));
                None
            }
            Err(error) => {
                options.problem("", error, Some("name a `server`"));
                None
            }
        };
    };
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Some(Some((address.to_string(), port)));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(Some((address.ip().to_string(), address.port())));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, digits)) => (host, digits.parse().ok().filter(|port| *port != 0)),
        None => (text, Some(port)),
    };
    match (url::Host::parse(host), port) {
        (Ok(host), Some(port)) => Some(Some((host.to_string(), port))),
        _ => {
            let hint = "write it as 192.0.2.53, [2001:db8::53]:53 or ns.example.com";
            options.problem("server", format!("`{text}` is no name server"), Some(hint));
            None
        }
    }
}

pub(super) fn question(options: &mut Options<'_>, name: Option<&str>, record: Option<&str>) -> Option<Query> {
    let text = name.unwrap_or(".");
    let mut name = match Name::from_str_relaxed(text) {
        Ok(name) => name,
        Err(error) => {
            let hint = "write it as mail.example.com";
            options.problem("name", format!("`{text}` is no name to ask for: {error}"), Some(hint));
            return None;
        }
    };
    name.set_fqdn(true);
    let record = record.unwrap_or(if name.is_root() { "NS" } else { "A" });
    match record.to_ascii_uppercase().parse::<RecordType>() {
        Ok(record) => Some(Query::query(name, record)),
        Err(_) => {
            let hint = suggestion(&record.to_ascii_uppercase(), TYPES.iter().copied());
            options.problem("type", format!("`{record}` is no type of record"), Some(&hint));
            None
        }
    }
}

pub(super) fn wanted(options: &mut Options<'_>, expect: Expect) -> Option<Wanted> {
    let word = expect.rcode.as_deref().unwrap_or("NOERROR").to_ascii_uppercase();
    let Some((_, rcode)) = RCODES.iter().find(|(known, _)| *known == word) else {
        let hint = suggestion(&word, RCODES.iter().map(|(known, _)| *known));
        options.problem("expect.rcode", format!("`{word}` is no response code"), Some(&hint));
        return None;
    };
    let free = expect.equals.is_some() || *rcode != ResponseCode::NoError;
    Some(Wanted {
        rcode: *rcode,
        contains: expect.contains,
        at_least: expect.at_least.unwrap_or(usize::from(!free)),
        equals: expect.equals,
    })
}
