//! Options of the `pop3` protocol: as written, then resolved.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    options::Options,
    protocol::{
        mail::account::{Account, Raw},
        sasl::Mechanism,
        wire::{Scheme, TlsOptions},
    },
    value::{Secret, TimeSpan},
};

const SCHEMES: &[Scheme] = &[
    Scheme { name: "pop3", port: Some(110), tls: false },
    Scheme { name: "pop3s", port: Some(995), tls: true },
    Scheme { name: "pop3+starttls", port: Some(110), tls: false },
];

/// How often to log in and look, unless it is said otherwise.
const POLL: Duration = Duration::from_secs(5);

/// Shortest and longest time between two looks.
const POLL_MIN: Duration = Duration::from_secs(1);
const POLL_MAX: Duration = Duration::from_secs(3_600);

/// How to reach a server and log in.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Pop3Probe")]
pub struct RawProbe {
    /// `pop3://host[:110]`, `pop3s://host[:995]`, or `pop3+starttls://host[:110]`.
    url: String,
    /// User name.
    username: Option<String>,
    /// Password, or the access token of `xoauth2` and `oauthbearer`.
    password: Option<Secret>,
    /// How to log in; by default the best that the server offers, without ever sending a password in the clear.
    auth: Option<Mechanism>,
    /// TLS of `pop3s` and `pop3+starttls`.
    tls: Option<TlsOptions>,
}

/// How to reach a server and log in, and how often to look.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Pop3Receive")]
pub struct RawReceive {
    /// `pop3://host[:110]`, `pop3s://host[:995]`, or `pop3+starttls://host[:110]`.
    url: String,
    /// User name.
    username: Option<String>,
    /// Password, or the access token of `xoauth2` and `oauthbearer`.
    password: Option<Secret>,
    /// How to log in; by default the best that the server offers, without ever sending a password in the clear.
    auth: Option<Mechanism>,
    /// TLS of `pop3s` and `pop3+starttls`.
    tls: Option<TlsOptions>,
    /// How often to log in and look: POP3 shows new mails to a new login only. The default is 5s.
    poll: Option<TimeSpan>,
}

/// Where to look for mails, checked.
#[derive(Debug)]
pub struct Place {
    /// The account.
    pub account: Account,
    /// How often to look.
    pub poll: Duration,
}

/// Reads the options of a probe.
pub fn read_probe(options: &mut Options<'_>) -> Option<Account> {
    let RawProbe { url, username, password, auth, tls } = options.read()?;
    Account::resolve(Raw { url, username, password, auth, tls }, SCHEMES, options)
}

/// Reads the options of a receiver.
pub fn read_receive(options: &mut Options<'_>) -> Option<Place> {
    let RawReceive { url, username, password, auth, tls, poll } = options.read()?;
    let account = Account::resolve(Raw { url, username, password, auth, tls }, SCHEMES, options);
    let poll = poll.map_or(POLL, |span| span.0);
    let mut good = true;
    if account.as_ref().is_some_and(|a| a.login.is_none()) {
        options.problem("url", "a mailbox needs a login", Some("add `username:` and `password:`"));
        good = false;
    }
    if !(POLL_MIN..=POLL_MAX).contains(&poll) {
        options.problem("poll", "a poll is every 1s to 1h", Some("write 5s"));
        good = false;
    }
    let account = account?;
    good.then_some(Place { account, poll })
}
