//! Options of the `imap` protocol: as written, then resolved.

use std::{fmt, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};

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
    Scheme { name: "imap", port: Some(143), tls: false },
    Scheme { name: "imaps", port: Some(993), tls: true },
    Scheme { name: "imap+starttls", port: Some(143), tls: false },
];

/// How often other folders are looked at, and the only one where the server does not push.
const POLL: Duration = Duration::from_secs(5);

/// Longest silence before the server is asked for a word. RFC 2177 allows 29 minutes; home routers and firewalls
/// forget silent connections after a few, and nothing of it is noticed before the server is asked.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// RFC 2177: a server may end a session that idled for 30 minutes.
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(29 * 60);

/// Shortest poll and keep alive: more would be a load without a use.
const WAIT_MIN: Duration = Duration::from_secs(1);

/// Most folders watched at once: each costs a round trip at every poll.
pub const FOLDERS_MAX: usize = 50;

/// How to reach a server and log in.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ImapProbe")]
pub struct RawProbe {
    /// `imap://host[:143]`, `imaps://host[:993]`, or `imap+starttls://host[:143]`.
    url: String,
    /// User name.
    username: Option<String>,
    /// Password, or the access token of `xoauth2` and `oauthbearer`.
    password: Option<Secret>,
    /// How to log in; by default the best that the server offers, without ever sending a password in the clear.
    auth: Option<Mechanism>,
    /// TLS of `imaps` and `imap+starttls`.
    tls: Option<TlsOptions>,
}

/// How to reach a server and log in, and where to look for mails.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ImapReceive")]
pub struct RawReceive {
    /// `imap://host[:143]`, `imaps://host[:993]`, or `imap+starttls://host[:143]`.
    url: String,
    /// User name.
    username: Option<String>,
    /// Password, or the access token of `xoauth2` and `oauthbearer`.
    password: Option<Secret>,
    /// How to log in; by default the best that the server offers, without ever sending a password in the clear.
    auth: Option<Mechanism>,
    /// TLS of `imaps` and `imap+starttls`.
    tls: Option<TlsOptions>,
    /// The folder to watch, as the server names it; the default is INBOX.
    folder: Option<String>,
    /// Several folders: a list, or `all`. A mail in the spam folder then counts as arrived with a flaw.
    folders: Option<RawFolders>,
    /// How often to look where the server does not push: other folders than INBOX, or any without IDLE; the default
    /// is 5s.
    poll: Option<TimeSpan>,
    /// Whether to let the server push (IDLE), where it can; the default is true.
    idle: Option<bool>,
    /// Longest silence before the server is asked for a word; the default is 60s.
    keep_alive: Option<TimeSpan>,
}

/// Folders as written: `all` (every folder but drafts and those that hold no mails of their own), or names as the
/// server has them.
#[derive(Clone, Debug)]
struct RawFolders(Wanted);

impl<'de> Deserialize<'de> for RawFolders {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct AllOrNames;
        impl<'de> Visitor<'de> for AllOrNames {
            type Value = RawFolders;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`all` or a list of folders")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<RawFolders, E> {
                if text == "all" { Ok(RawFolders(Wanted::All)) } else { Err(E::unknown_variant(text, &["all"])) }
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawFolders, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = seq.next_element()? {
                    names.push(name);
                }
                Ok(RawFolders(Wanted::Named(names)))
            }
        }
        d.deserialize_any(AllOrNames)
    }
}

impl JsonSchema for RawFolders {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Folders".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let name = generator.subschema_for::<String>();
        json_schema!({ "anyOf": [
            { "const": "all" },
            { "type": "array", "items": name, "minItems": 1, "maxItems": FOLDERS_MAX },
        ] })
    }
}

/// Which folders are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// These.
    Named(Vec<String>),
    /// All.
    All,
}

/// Where to look for mails, checked.
#[derive(Debug)]
pub struct Place {
    /// The account.
    pub account: Account,
    /// Which folders.
    pub wanted: Wanted,
    /// How often other folders are looked at.
    pub poll: Duration,
    /// Whether the server may push.
    pub idle: bool,
    /// Longest silence before the server is asked for a word.
    pub keep_alive: Duration,
}

/// Reads the options of a probe.
pub fn read_probe(options: &mut Options<'_>) -> Option<Account> {
    let RawProbe { url, username, password, auth, tls } = options.read()?;
    Account::resolve(Raw { url, username, password, auth, tls }, SCHEMES, options)
}

/// Reads the options of a receiver.
pub fn read_receive(options: &mut Options<'_>) -> Option<Place> {
    let RawReceive { url, username, password, auth, tls, folder, folders, poll, idle, keep_alive } = options.read()?;
    let account = Account::resolve(Raw { url, username, password, auth, tls }, SCHEMES, options);
    let mut good = true;
    let mut wrong = |options: &mut Options<'_>, key: &str, text: String, hint: &str| {
        options.problem(key, text, Some(hint));
        good = false;
    };
    if account.as_ref().is_some_and(|a| a.login.is_none()) {
        wrong(options, "url", "a mailbox needs a login".into(), "add `username:` and `password:`");
    }
    let key = if folder.is_some() { "folder" } else { "folders" };
    let wanted = match (folder, folders) {
        (Some(_), Some(_)) => {
            wrong(options, "folder", "`folder` and `folders` cannot both be given".into(), "leave one of them out");
            Wanted::All
        }
        (None, Some(RawFolders(wanted))) => wanted,
        (folder, None) => Wanted::Named(vec![folder.unwrap_or_else(|| "INBOX".into())]),
    };
    if let Wanted::Named(names) = &wanted {
        if names.is_empty() || names.len() > FOLDERS_MAX {
            let text = format!("{} folders; from 1 to {FOLDERS_MAX} can be watched", names.len());
            wrong(options, key, text, "write `folders: [INBOX, Junk]`");
        }
        if let Some(name) = names.iter().find(|n| n.is_empty() || n.contains(['\0', '\r', '\n', '*', '%'])) {
            let text = format!("`{}` is no name of a folder", name.escape_default());
            wrong(options, key, text, "write it as the server names it: `Junk`, `INBOX/spam`");
        }
    }
    let poll = poll.map_or(POLL, |span| span.0);
    if poll < WAIT_MIN || poll > KEEP_ALIVE_MAX {
        wrong(options, "poll", "a poll is every 1s to 29m".into(), "write 5s");
    }
    let keep_alive = keep_alive.map_or(KEEP_ALIVE, |span| span.0);
    if keep_alive < WAIT_MIN || keep_alive > KEEP_ALIVE_MAX {
        let hint = "write 60s; servers end sessions that are silent for longer than half an hour";
        wrong(options, "keep_alive", "keep alive is 1s to 29m".into(), hint);
    }
    let account = account?;
    good.then_some(Place { account, wanted, poll, idle: idle.unwrap_or(true), keep_alive })
}
