//! Options of `smtp` and `lmtp`: as written, then resolved.

use std::fmt;

use lettre::{Address as MailAddress, transport::smtp::extension::ClientId};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};

use super::dialogue::Dialect;
use crate::{
    options::Options,
    protocol::{
        mail::compose::Encoding,
        sasl::Mechanism,
        wire::{Address, Endpoint, Scheme, TlsClient, TlsOptions},
    },
    value::Secret,
};

/// Schemes of SMTP.
pub const SMTP_SCHEMES: &[Scheme] = &[
    Scheme { name: "smtp", port: Some(25), tls: false },
    Scheme { name: STARTTLS, port: Some(587), tls: false },
    Scheme { name: "smtps", port: Some(465), tls: true },
];

/// The scheme of LMTP, which RFC 2033 keeps from port 25; 24 is what IANA has for private mail systems, and what
/// common servers use.
pub const LMTP_SCHEMES: &[Scheme] = &[Scheme { name: "lmtp", port: Some(24), tls: false }];

const STARTTLS: &str = "smtp+starttls";

/// Most recipients of one tracer: more would be a mailing, not a probe.
pub const RECIPIENTS_MAX: usize = 16;

/// Longest address in bytes (RFC 5321, section 4.5.3.1.3, without its brackets).
const ADDRESS_BYTES_MAX: usize = 254;

/// Longest name said in EHLO (RFC 5321, section 4.5.3.1.2).
const HELLO_BYTES_MAX: usize = 255;

/// How to reach a mail server and log in.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "MailServer")]
pub struct RawProbe {
    /// `smtp://host[:25]`, `smtp+starttls://host[:587]` or `smtps://host[:465]`; for `lmtp`, `lmtp://host[:24]`.
    url: String,
    /// User name; without it there is no login.
    username: Option<String>,
    /// Password; the access token for `xoauth2` and `oauthbearer`.
    password: Option<Secret>,
    /// How to log in; by default the best the server offers, and no password as it is over a connection others can
    /// read. A mechanism named here is used wherever it is offered.
    auth: Option<Mechanism>,
    /// What bongsu calls itself in EHLO; the host's full name by default, or `[127.0.0.1]` if it has none.
    hello: Option<String>,
    /// Whom to trust, for TLS.
    tls: Option<TlsOptions>,
}

/// How to reach a mail server and log in, and what mail to send.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "MailSending")]
pub struct RawSend {
    /// `smtp://host[:25]`, `smtp+starttls://host[:587]` or `smtps://host[:465]`; for `lmtp`, `lmtp://host[:24]`.
    url: String,
    /// User name; without it there is no login.
    username: Option<String>,
    /// Password; the access token for `xoauth2` and `oauthbearer`.
    password: Option<Secret>,
    /// How to log in; by default the best the server offers, and no password as it is over a connection others can
    /// read. A mechanism named here is used wherever it is offered.
    auth: Option<Mechanism>,
    /// What bongsu calls itself in EHLO; the host's full name by default, or `[127.0.0.1]` if it has none.
    hello: Option<String>,
    /// Whom to trust, for TLS.
    tls: Option<TlsOptions>,
    /// Whose mail it is: the sender of the envelope, to whom bounces go, and of the mail. A bare address.
    from: String,
    /// Whom it is for: a bare address, or up to 16 of them. It counts as sent when the server takes it for one.
    to: Recipients,
    /// A sub-address: `bongsu` makes `probe+bongsu@example.com` of `probe@example.com`, which a filter can file.
    plus: Option<String>,
    /// What the server is to report about the delivery (RFC 3461), where it offers that.
    dsn: Option<RawDsn>,
    /// How the body is written; `auto` (default) is `8bit` where the server offers 8BITMIME, else `quoted-printable`.
    #[serde(default)]
    encoding: Written,
    /// Also send a header in raw UTF-8, and allow such addresses, where the server offers SMTPUTF8 (RFC 6531).
    #[serde(default)]
    smtputf8: bool,
}

/// What the server is to report about a delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "DeliveryReports")]
pub struct RawDsn {
    /// When to report: `never` alone, or any of the others. By default as the server likes, which is on failure.
    notify: Vec<Notify>,
    /// What a report of failure returns of the mail: its `headers`, or it in `full`.
    ret: Option<Ret>,
}

/// When to report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Notify {
    Never,
    Success,
    Failure,
    Delay,
}

/// What to return.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Ret {
    Headers,
    Full,
}

/// How the body is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(rename = "BodyEncoding")]
pub enum Written {
    #[default]
    #[serde(rename = "auto")]
    Auto,
    #[serde(rename = "8bit")]
    EightBit,
    #[serde(rename = "quoted-printable")]
    QuotedPrintable,
    #[serde(rename = "base64")]
    Base64,
}

impl Written {
    /// The encoding asked for; `None` leaves it to what the server offers.
    pub fn fixed(self) -> Option<Encoding> {
        match self {
            Self::Auto => None,
            Self::EightBit => Some(Encoding::EightBit),
            Self::QuotedPrintable => Some(Encoding::QuotedPrintable),
            Self::Base64 => Some(Encoding::Base64),
        }
    }
}

/// One address or several.
#[derive(Clone, Debug)]
struct Recipients(Vec<String>);

impl<'de> Deserialize<'de> for Recipients {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Recipients;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address or a list of addresses")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Recipients, E> {
                Ok(Recipients(vec![text.into()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Recipients, A::Error> {
                let mut all = Vec::new();
                while let Some(one) = seq.next_element()? {
                    all.push(one);
                }
                Ok(Recipients(all))
            }
        }
        d.deserialize_any(OneOrMany)
    }
}

impl JsonSchema for Recipients {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Recipients".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<String>();
        let many = json_schema!({ "type": "array", "items": one.clone(), "minItems": 1, "maxItems": RECIPIENTS_MAX });
        json_schema!({ "anyOf": [one, many] })
    }
}

/// A mail server, and how to log in, checked.
#[derive(Debug)]
pub struct Server {
    /// Which protocol it speaks.
    pub dialect: Dialect,
    /// Where.
    pub endpoint: Endpoint,
    /// TLS that begins by the command STARTTLS.
    pub starttls: Option<TlsClient>,
    /// What bongsu calls itself.
    pub hello: String,
    /// As whom to log in, if at all.
    pub login: Option<Login>,
    /// The URL without credentials, for people.
    pub target: String,
}

/// Who logs in, and how.
#[derive(Debug)]
pub struct Login {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: Secret,
    /// The mechanism asked for.
    pub auth: Option<Mechanism>,
}

/// What mail is sent, checked.
#[derive(Debug)]
pub struct Envelope {
    /// Whose mail it is.
    pub from: String,
    /// Whom it is for; from 1 to [`RECIPIENTS_MAX`].
    pub to: Vec<String>,
    /// What is to be reported: the parameters of RFC 3461 for MAIL and for RCPT.
    pub dsn: Option<(String, String)>,
    /// How the body is written.
    pub written: Written,
    /// Whether a raw header is wanted, and addresses may be beyond ASCII.
    pub smtputf8: bool,
}

impl Server {
    /// Reads the options of a probe.
    pub fn read(options: &mut Options<'_>, dialect: Dialect) -> Option<Self> {
        let raw = options.read::<RawProbe>()?;
        Self::resolve(raw, options, dialect)
    }

    fn resolve(raw: RawProbe, options: &mut Options<'_>, dialect: Dialect) -> Option<Self> {
        let schemes = if dialect == Dialect::Smtp { SMTP_SCHEMES } else { LMTP_SCHEMES };
        let address = Address::read(options, "url", &raw.url, schemes);
        let hello = hello(raw.hello, options);
        let address = address?;
        if !address.path.is_empty() {
            options.problem("url", "the URL of a mail server has no path", Some("leave out what follows the host"));
            return None;
        }
        let starttls = address.scheme.name == STARTTLS;
        let encrypted = address.scheme.tls || starttls;
        if raw.tls.is_some() && !encrypted {
            let hint =
                if dialect == Dialect::Smtp { "write smtp+starttls:// or smtps:// in the URL" } else { "leave it out" };
            options.problem("tls", format!("`{}://` has no TLS", address.scheme.name), Some(hint));
            return None;
        }
        let login = login(raw.username, raw.password, raw.auth, &address, options)?;
        let tls = encrypted.then(|| raw.tls.unwrap_or_default().client(&mut options.child("tls"), &[]));
        let tls = match tls {
            Some(tls) => Some(tls?),
            None => None,
        };
        let endpoint = address.endpoint(tls.clone());
        let target = format!("{}://{endpoint}", address.scheme.name);
        Some(Self { dialect, endpoint, starttls: tls.filter(|_| starttls), hello: hello?, login, target })
    }
}

impl Envelope {
    /// Reads the options of a sender.
    pub fn read(options: &mut Options<'_>, dialect: Dialect) -> Option<(Server, Self)> {
        let raw = options.read::<RawSend>()?;
        let from = bare(&raw.from, "from", raw.smtputf8, options);
        let to = recipients(raw.to.0, raw.plus.as_deref(), raw.smtputf8, options);
        let dsn = raw.dsn.map(|dsn| parameters(&dsn, options));
        let (url, username, password) = (raw.url, raw.username, raw.password);
        let probe = RawProbe { url, username, password, auth: raw.auth, hello: raw.hello, tls: raw.tls };
        let server = Server::resolve(probe, options, dialect)?;
        let dsn = match dsn {
            Some(dsn) => Some(dsn?),
            None => None,
        };
        Some((server, Self { from: from?, to: to?, dsn, written: raw.encoding, smtputf8: raw.smtputf8 }))
    }
}

fn hello(name: Option<String>, options: &mut Options<'_>) -> Option<String> {
    let Some(name) = name else {
        // A server may refuse a name without a domain (RFC 5321, section 4.1.4), but not an address.
        let own = ClientId::default().to_string();
        return Some(if own.contains('.') { own } else { "[127.0.0.1]".into() });
    };
    if name.is_empty() || name.len() > HELLO_BYTES_MAX || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        let hint = "write a host name such as probe.example.com, or an address such as [192.0.2.1]";
        options.problem("hello", format!("`{}` is no name of a host", name.escape_debug()), Some(hint));
        return None;
    }
    Some(name)
}

fn login(
    username: Option<String>,
    password: Option<Secret>,
    auth: Option<Mechanism>,
    address: &Address,
    options: &mut Options<'_>,
) -> Option<Option<Login>> {
    let mut wrong = |key: &str, text: &str, hint: &str| {
        options.problem(key, text, Some(hint));
        None
    };
    let twice =
        (address.username.is_some() && username.is_some()) || (address.password.is_some() && password.is_some());
    if twice {
        return wrong("url", "the URL and the options both name a login", "leave one of them out");
    }
    match (username.or_else(|| address.username.clone()), password.or_else(|| address.password.clone())) {
        (Some(username), Some(password)) => Some(Some(Login { username, password, auth })),
        (Some(_), None) => wrong("username", "a user name without a password", "add `password:`"),
        (None, Some(_)) => wrong("password", "a password without a user name", "add `username:`"),
        (None, None) if auth.is_some() => {
            wrong("auth", "there is nobody to log in", "add `username:` and `password:`, or leave it out")
        }
        (None, None) => Some(None),
    }
}

/// An address as the envelope and the headers carry it.
fn bare(text: &str, key: &str, utf8: bool, options: &mut Options<'_>) -> Option<String> {
    let text = text.trim();
    if text.parse::<MailAddress>().is_err() || text.len() > ADDRESS_BYTES_MAX {
        let hint = "write the address alone, as in probe@example.com";
        options.problem(key, format!("`{}` is no address", text.escape_debug()), Some(hint));
        return None;
    }
    if !utf8 && !text.is_ascii() {
        let hint = "write its domain as xn--…, or set `smtputf8: true` for a server that offers SMTPUTF8";
        options.problem(key, format!("`{text}` is an address beyond ASCII"), Some(hint));
        return None;
    }
    Some(text.to_owned())
}

fn recipients(to: Vec<String>, plus: Option<&str>, utf8: bool, options: &mut Options<'_>) -> Option<Vec<String>> {
    if to.is_empty() || to.len() > RECIPIENTS_MAX {
        let text = format!("{} recipients, where 1 to {RECIPIENTS_MAX} are expected", to.len());
        options.problem("to", text, Some("write one address"));
        return None;
    }
    let atom =
        |tag: &str| !tag.is_empty() && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+=".contains(&byte));
    if let Some(tag) = plus.filter(|tag| !atom(tag)) {
        let text = format!("`{}` is no sub-address", tag.escape_debug());
        options.problem("plus", text, Some("write letters, digits, `-` or `_`, as in bongsu"));
        return None;
    }
    let all: Vec<Option<String>> = to
        .into_iter()
        .map(|address| {
            let tagged = match (plus, address.rsplit_once('@')) {
                (Some(tag), Some((user, domain))) => format!("{user}+{tag}@{domain}"),
                _ => address,
            };
            bare(&tagged, "to", utf8, options)
        })
        .collect();
    all.into_iter().collect()
}

/// The parameters of MAIL and of RCPT (RFC 3461, sections 4.3 and 4.1), each with its leading space.
fn parameters(dsn: &RawDsn, options: &mut Options<'_>) -> Option<(String, String)> {
    if dsn.notify.contains(&Notify::Never) && dsn.notify.iter().any(|word| *word != Notify::Never) {
        options.problem(
            "dsn.notify",
            "`never` stands beside other words",
            Some("write `never` alone, or leave it out"),
        );
        return None;
    }
    let words: Vec<&str> = [
        (Notify::Never, "NEVER"),
        (Notify::Success, "SUCCESS"),
        (Notify::Failure, "FAILURE"),
        (Notify::Delay, "DELAY"),
    ]
    .into_iter()
    .filter(|(word, _)| dsn.notify.contains(word))
    .map(|(_, text)| text)
    .collect();
    let rcpt = if words.is_empty() { String::new() } else { format!(" NOTIFY={}", words.join(",")) };
    let mail = match dsn.ret {
        Some(Ret::Headers) => " RET=HDRS",
        Some(Ret::Full) => " RET=FULL",
        None => "",
    };
    Some((mail.into(), rcpt))
}
