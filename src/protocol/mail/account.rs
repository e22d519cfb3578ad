//! An account on a server that keeps mail: where, how encrypted, and how to log in. The options that the protocols which
//! fetch mail share.

use std::net::SocketAddr;

use crate::{
    options::Options,
    protocol::{
        sasl::{self, Mechanism},
        wire::{Address, Endpoint, Scheme, TlsClient, TlsOptions},
    },
    value::Secret,
};

/// When TLS begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Never.
    Plain,
    /// With the connection.
    Tls,
    /// When asked for, before the login.
    StartTls,
}

/// The options as written.
pub struct Raw {
    /// Where.
    pub url: String,
    /// User name.
    pub username: Option<String>,
    /// Password, or token.
    pub password: Option<Secret>,
    /// The only mechanism to use.
    pub auth: Option<Mechanism>,
    /// Whom to trust.
    pub tls: Option<TlsOptions>,
}

/// The options, checked.
#[derive(Debug)]
pub struct Account {
    /// Where; with TLS if that begins with the connection.
    pub endpoint: Endpoint,
    /// When TLS begins.
    pub security: Security,
    /// How TLS is made, also after a STARTTLS.
    pub tls: Option<TlsClient>,
    /// The URL without credentials, for people.
    pub target: String,
    /// User name and password.
    pub login: Option<(String, Secret)>,
    /// The only mechanism to use.
    pub auth: Option<Mechanism>,
}

impl Account {
    /// Checks the options. Of `schemes`, those that end in `+starttls` begin TLS when asked for.
    pub fn resolve(raw: Raw, schemes: &[Scheme], options: &mut Options<'_>) -> Option<Self> {
        let address = Address::read(options, "url", &raw.url, schemes);
        let security = address.as_ref().map(|a| match a.scheme {
            Scheme { tls: true, .. } => Security::Tls,
            Scheme { name, .. } if name.ends_with("+starttls") => Security::StartTls,
            _ => Security::Plain,
        });
        let tls = tls(raw.tls, address.as_ref(), security, options);
        let address = address?;
        let mut good = true;
        let mut wrong = |key: &str, text: &str, hint: &str| {
            options.problem(key, text, Some(hint));
            good = false;
        };
        if !address.path.is_empty() {
            wrong("url", "this URL has no path", "write only the host and, if need be, the port");
        }
        let twice = (address.username.is_some() && raw.username.is_some())
            || (address.password.is_some() && raw.password.is_some());
        if twice {
            wrong("url", "the URL and the options both name a login", "leave one of them out");
        }
        let login = match (raw.username.or(address.username.clone()), raw.password.or(address.password.clone())) {
            (Some(username), Some(password)) => Some((username, password)),
            (None, None) => None,
            (Some(_), None) => {
                wrong("username", "a login needs a password", "add `password: \"${file:/path}\"`");
                None
            }
            (None, Some(_)) => {
                wrong("password", "a login needs a user name", "add `username:`");
                None
            }
        };
        if raw.auth.is_some() && login.is_none() {
            wrong("auth", "there is nothing to log in with", "add `username:` and `password:`");
        }
        let tls = tls?;
        let endpoint = address.endpoint(tls.clone());
        let target = format!("{}://{endpoint}", address.scheme.name);
        good.then_some(Self { endpoint, security: security?, tls, target, login, auth: raw.auth })
    }

    /// Whether nobody else can read along once the login begins.
    pub fn is_private(&self, peer: Option<SocketAddr>) -> bool {
        sasl::is_private(self.security != Security::Plain, peer)
    }
}

fn tls(
    raw: Option<TlsOptions>,
    address: Option<&Address>,
    security: Option<Security>,
    options: &mut Options<'_>,
) -> Option<Option<TlsClient>> {
    if security == Some(Security::Plain) {
        if raw.is_some() {
            let name = address.map_or("", |a| a.scheme.name);
            let hint = format!("write {name}s:// or {name}+starttls:// in the URL");
            options.problem("tls", format!("`{name}://` has no TLS"), Some(&hint));
            return None;
        }
        return Some(None);
    }
    raw.unwrap_or_default().client(&mut options.child("tls"), &[]).map(Some)
}
