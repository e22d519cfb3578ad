//! Where to dial: host, port and TLS, and how they are read from a URL.

use std::{fmt, net::IpAddr};

use url::{Host, Url};

use super::TlsClient;
use crate::{
    options::{Options, suggestion},
    value::Secret,
};

/// A host, a port, and TLS from the first byte if there is any.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// A name or an IP literal (without brackets).
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// Set when TLS begins with the connection.
    pub tls: Option<TlsClient>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&host_and_port(&self.host, self.port))
    }
}

/// `mx.example.com:25`, `[2001:db8::1]:25`.
pub fn host_and_port(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

/// A URL scheme of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// As it is written: `mqtts`.
    pub name: &'static str,
    /// The port when the URL names none; `None` for a protocol without a well-known one.
    pub port: Option<u16>,
    /// Whether TLS begins with the connection.
    pub tls: bool,
}

/// What a URL in the options says, checked.
#[derive(Clone, Debug)]
pub struct Address {
    /// The scheme, one of those asked for.
    pub scheme: Scheme,
    /// A name or an IP literal (without brackets).
    pub host: String,
    /// The port written, or the scheme's.
    pub port: u16,
    /// The user name, percent-decoded.
    pub username: Option<String>,
    /// The password, percent-decoded.
    pub password: Option<Secret>,
    /// The path, without its leading slash, percent-decoded; empty if there is none.
    pub path: String,
    /// The parsed URL, without user name and password.
    pub url: Url,
}

impl Address {
    /// Reads the URL under `key`; what is wrong with it is recorded there, and never shows its password.
    pub fn read(options: &mut Options<'_>, key: &str, text: &str, schemes: &[Scheme]) -> Option<Self> {
        match Self::parse(text, schemes) {
            Ok(address) => Some(address),
            Err((problem, hint)) => {
                options.problem(key, problem, Some(&hint));
                None
            }
        }
    }

    /// The same without options to record mistakes in: the error is a text and a hint.
    ///
    /// # Errors
    /// When the text is no URL, has another scheme, no host, or needs a port.
    pub fn parse(text: &str, schemes: &[Scheme]) -> Result<Self, (String, String)> {
        let example = || {
            format!("write it as {}://host{}", schemes[0].name, if schemes[0].port.is_some() { "" } else { ":port" })
        };
        // The text itself is not repeated: it may hold a password.
        let mut url = Url::parse(text).map_err(|e| (format!("this is no URL: {e}"), example()))?;
        let scheme = *schemes.iter().find(|s| s.name == url.scheme()).ok_or_else(|| {
            let known: Vec<&str> = schemes.iter().map(|s| s.name).collect();
            (format!("the scheme `{}` does not fit here", url.scheme()), suggestion(url.scheme(), known))
        })?;
        let host = match url.host() {
            Some(Host::Domain(name)) if !name.is_empty() => decoded(name),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            _ => return Err(("the URL names no host".into(), example())),
        };
        let port = url
            .port()
            .or(scheme.port)
            .filter(|port| *port != 0)
            .ok_or_else(|| ("the URL names no port".to_owned(), example()))?;
        let username = Some(decoded(url.username())).filter(|name| !name.is_empty());
        let password = url.password().map(|word| Secret::new(decoded(word)));
        let path = decoded(url.path().strip_prefix('/').unwrap_or(url.path()));
        // Both fail only for URLs without a host, which were refused above.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        Ok(Self { scheme, host, port, username, password, path, url })
    }

    /// Where it points, dialled with this TLS if the scheme wants TLS.
    pub fn endpoint(&self, tls: Option<TlsClient>) -> Endpoint {
        Endpoint { host: self.host.clone(), port: self.port, tls: tls.filter(|_| self.scheme.tls) }
    }
}

/// Percent-decoded; bytes that are no UTF-8 are replaced.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let byte = match tail {
            [high, low, ..] if *first == b'%' => {
                let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
                digit(*high).zip(digit(*low)).map(|(high, low)| high << 4 | low)
            }
            _ => None,
        };
        rest = if byte.is_some() { &tail[2..] } else { tail };
        bytes.push(byte.unwrap_or(*first));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMES: &[Scheme] = &[
        Scheme { name: "mqtt", port: Some(1883), tls: false },
        Scheme { name: "mqtts", port: Some(8883), tls: true },
        Scheme { name: "tcp", port: None, tls: false },
    ];

    #[test]
    fn urls_are_taken_apart() {
        let table = [
            ("mqtt://broker", "broker:1883", None, None, ""),
            ("mqtts://[2001:db8::1]/a/b", "[2001:db8::1]:8883", None, None, "a/b"),
            ("mqtt://u%40x:p%2Fw@192.0.2.1:99/", "192.0.2.1:99", Some("u@x"), Some("p/w"), ""),
            ("tcp://host:7", "host:7", None, None, ""),
        ];
        for (text, place, username, password, path) in table {
            let address = Address::parse(text, SCHEMES).expect(text);
            assert_eq!(address.endpoint(None).to_string(), place, "{text}");
            assert_eq!(address.username.as_deref(), username, "{text}");
            assert_eq!(address.password.as_ref().map(Secret::expose), password, "{text}");
            assert_eq!(address.path, path, "{text}");
            assert!(!address.url.as_str().contains("p%2Fw"), "{text}");
        }
    }

    #[test]
    fn bad_urls_are_told_without_their_password() {
        let table = [
            ("broker", "this is no URL: relative URL without a base"),
            ("mqqt://u:hunter2@h", "the scheme `mqqt` does not fit here"),
            ("mqtt://u:hunter2@h:99999", "this is no URL: invalid port number"),
            ("mqtt:///x", "the URL names no host"),
            ("tcp://host", "the URL names no port"),
            ("tcp://host:0", "the URL names no port"),
        ];
        for (text, expected) in table {
            let (problem, hint) = Address::parse(text, SCHEMES).expect_err(text);
            assert_eq!(problem, expected, "{text}");
            assert!(!hint.contains("hunter2") && !hint.is_empty(), "{text}: {hint}");
        }
    }
}
