//! Alerts by e-mail: through a mail server, or into a drop folder of `.eml` files.
//!
//! ```yaml
//! ops-mail:
//!   email: { url: "smtp+starttls://mx.example.com", username: bongsu, password: "${credential:smtp}",
//!            from: "bongsu <bongsu@example.com>", to: [oncall@example.com] }
//! ```

mod compose;
mod drop;
mod html;
mod plain;
mod smtp;

use std::{
    collections::VecDeque,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono_tz::Tz;
use lettre::{Address as MailAddress, message::Mailbox, transport::smtp::extension::ClientId};
use schemars::JsonSchema;
use serde::Deserialize;

use self::{
    compose::Parties,
    smtp::{Failure, Security, Sent, Server},
};
use super::{Channel, ChannelKind, time_zone};
use crate::{
    alert::{Message, message::Attempted},
    clock,
    options::Options,
    protocol::{
        Attempt, Boxed, Net,
        wire::{Address, Family, Scheme, TlsOptions},
    },
    value::Secret,
};

/// The entry of the registry.
pub static EMAIL: ChannelKind = ChannelKind {
    name: "email",
    summary: "mail by SMTP, or into a drop folder: plain text and HTML, one thread per incident",
    example: "email:\n  url: smtp+starttls://mx.example.com:587\n  username: bongsu\n  password: a-password\n  \
              from: bongsu <bongsu@example.com>\n  to: [oncall@example.com]\n",
    schema: |generator| Raw::json_schema(generator),
    build,
};

/// Longest one mail may take, from the name's resolution to the server's word that it has it. Mail servers answer
/// late on purpose (greet delays of ten seconds are usual), and twice this still leaves the fallback in time.
pub const DELIVERY_MAX: Duration = Duration::from_secs(30);

/// Most recipients of one channel: more want a mailing list.
const RECIPIENTS_MAX: usize = 50;

/// Messages whose delivered recipients are remembered, while others were deferred.
const PARTLY_MAX: usize = 256;

const SCHEMES: &[Scheme] = &[
    Scheme { name: "smtp", port: Some(25), tls: false },
    Scheme { name: "smtp+starttls", port: Some(587), tls: false },
    Scheme { name: "smtps", port: Some(465), tls: true },
];

/// Alerts by e-mail.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Raw {
    /// `smtp+starttls://host[:587]`, `smtps://host[:465]`, `smtp://host[:25]`, or a drop folder: `file:///folder`,
    /// or `file:folder` beside the configuration.
    url: String,
    /// User name, if the server wants one.
    username: Option<String>,
    /// Its password.
    password: Option<Secret>,
    /// Whose mail it is: `bongsu <bongsu@example.com>`.
    from: String,
    /// Whom it is for.
    to: Vec<String>,
    /// Who gets a copy.
    #[serde(default)]
    cc: Vec<String>,
    /// Where answers go.
    reply_to: Option<String>,
    /// What bongsu calls itself in EHLO; the host's name by default.
    helo: Option<String>,
    /// The zone in which times are told, such as `Asia/Seoul`; UTC by default.
    timezone: Option<String>,
    /// Whom to trust.
    #[serde(default)]
    tls: TlsOptions,
}

enum Way {
    Server(Box<Server>),
    Folder(PathBuf),
}

struct Email {
    way: Way,
    parties: Parties,
    zone: Tz,
    /// Whom messages have reached that were deferred for others; forgotten at a restart, after which they are sent
    /// to all again, as a repeated attempt may be.
    partly: Mutex<VecDeque<(String, Vec<MailAddress>)>>,
}

fn build(options: &mut Options<'_>) -> Option<Arc<dyn Channel>> {
    let raw: Raw = options.read()?;
    let way = way(options, &raw);
    let from = mailbox(options, "from", &raw.from);
    let reply_to = raw.reply_to.as_ref().map(|text| mailbox(options, "reply_to", text));
    let to = mailboxes(options, "to", &raw.to);
    let cc = mailboxes(options, "cc", &raw.cc);
    if raw.to.is_empty() {
        options.problem("to", "nobody would get this mail", Some("name at least one address"));
        return None;
    }
    if raw.to.len() + raw.cc.len() > RECIPIENTS_MAX {
        let text = format!("more than {RECIPIENTS_MAX} recipients");
        options.problem("to", text, Some("use a mailing list"));
        return None;
    }
    let zone = time_zone(options, raw.timezone.as_deref());
    let reply_to = match reply_to {
        Some(None) => return None,
        Some(some) => some,
        None => None,
    };
    let parties = Parties { from: from?, to: to?, cc: cc?, reply_to };
    Some(Arc::new(Email { way: way?, parties, zone: zone?, partly: Mutex::default() }))
}

fn way(options: &mut Options<'_>, raw: &Raw) -> Option<Way> {
    if let Some(path) = raw.url.strip_prefix("file:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() {
            options.problem("url", "the drop folder has no name", Some("write it as file:///var/lib/bongsu/mail"));
            return None;
        }
        return Some(Way::Folder(options.file(path)));
    }
    let hint = "write it as smtp+starttls://host, smtps://host, smtp://host or file:///folder";
    if !raw.url.contains("://") {
        options.problem("url", "this is no URL of a mail server or a drop folder", Some(hint));
        return None;
    }
    let address = Address::read(options, "url", &raw.url, SCHEMES)?;
    let tls = raw.tls.client(&mut options.child("tls"), &[])?;
    let security = match address.scheme.name {
        "smtps" => Security::Tls(tls),
        "smtp+starttls" => Security::StartTls(tls),
        _ => Security::Plain,
    };
    let username = raw.username.clone().or(address.username);
    let password = raw.password.clone().or(address.password);
    let login = match (username, password) {
        (Some(username), Some(password)) => Some((username, password)),
        (None, None) => None,
        (Some(_), None) => {
            options.problem("username", "a user name needs its password", Some("add `password: ${credential:smtp}`"));
            return None;
        }
        (None, Some(_)) => {
            options.problem("password", "a password needs its user name", Some("add `username:`"));
            return None;
        }
    };
    let helo = match &raw.helo {
        None => ClientId::default(),
        Some(name) => helo(options, name)?,
    };
    Some(Way::Server(Box::new(Server { host: address.host, port: address.port, security, login, helo })))
}

fn helo(options: &mut Options<'_>, name: &str) -> Option<ClientId> {
    match name.trim_matches(['[', ']']).parse() {
        Ok(IpAddr::V4(address)) => return Some(ClientId::Ipv4(address)),
        Ok(IpAddr::V6(address)) => return Some(ClientId::Ipv6(address)),
        Err(_) => {}
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || name.len() > 255 || !name.chars().all(fits) {
        let text = format!("`{}` is no host name", crate::observation::one_line(name, 60));
        options.problem("helo", text, Some("write it as bongsu.example.com"));
        return None;
    }
    Some(ClientId::Domain(name.into()))
}

fn mailboxes(options: &mut Options<'_>, key: &str, texts: &[String]) -> Option<Vec<Mailbox>> {
    // All of them are read, so that every mistake is told.
    let read: Vec<Option<Mailbox>> = texts.iter().map(|text| mailbox(options, key, text)).collect();
    read.into_iter().collect()
}

/// `a@example.com`, `Name <a@example.com>`; the name in any script, with or without quotes.
fn mailbox(options: &mut Options<'_>, key: &str, text: &str) -> Option<Mailbox> {
    let (name, address) = match text.trim().strip_suffix('>').and_then(|rest| rest.rsplit_once('<')) {
        Some((name, address)) => (name.trim().trim_matches('"').trim(), address),
        None => ("", text),
    };
    match address.trim().parse::<MailAddress>() {
        Ok(address) if !name.chars().any(char::is_control) => {
            Some(Mailbox::new(Some(name.to_owned()).filter(|n| !n.is_empty()), address))
        }
        _ => {
            let text = format!("`{}` is no mail address", crate::observation::one_line(text, 100));
            options.problem(key, text, Some("write it as name@example.com or Name <name@example.com>"));
            None
        }
    }
}

impl Channel for Email {
    fn kind(&self) -> &'static str {
        "email"
    }

    fn target(&self) -> String {
        let to: Vec<&str> = self.parties.to.iter().map(|m| m.email.as_ref()).collect();
        let to = to.join(", ");
        match &self.way {
            Way::Server(server) => format!("mail to {to} by {server}"),
            Way::Folder(folder) => format!("mail to {to} in {}", folder.display()),
        }
    }

    fn deliver<'a>(&'a self, net: &'a Arc<Net>, message: &'a Message) -> Boxed<'a, Attempted> {
        Box::pin(async move {
            let mail = match compose::mail(&self.parties, message, self.zone) {
                Ok(mail) => mail,
                Err(error) => return Attempted::Refused { error: format!("the mail cannot be written: {error}") },
            };
            let error = match &self.way {
                Way::Server(server) => return self.send(net, server, message, &mail).await,
                Way::Folder(folder) => {
                    let bytes = mail.formatted();
                    let written = drop::write(folder, message, &bytes);
                    match tokio::time::timeout(DELIVERY_MAX, written).await {
                        Ok(Ok(_)) => return Attempted::Delivered,
                        Ok(Err(error)) => format!("{}: {error}", folder.display()),
                        Err(_) => format!("{}: not written within {} s", folder.display(), DELIVERY_MAX.as_secs()),
                    }
                }
            };
            Attempted::Retry { error, retry_after: None }
        })
    }
}

impl Email {
    async fn send(&self, net: &Arc<Net>, server: &Server, message: &Message, mail: &lettre::Message) -> Attempted {
        let reached = self.reached(&message.key);
        let everyone = self.parties.to.iter().chain(&self.parties.cc).map(|m| &m.email);
        let mut to: Vec<MailAddress> = Vec::new();
        for address in everyone {
            if !reached.contains(address) && !to.contains(address) {
                to.push(address.clone());
            }
        }
        let begun = clock::instant();
        let mut cx = Attempt::new(net.clone(), Family::Any, clock::now(), begun, false);
        cx.set_deadline(begun + DELIVERY_MAX);
        let result = tokio::time::timeout(DELIVERY_MAX, smtp::send(&mut cx, server, mail, &to)).await;
        match result {
            Ok(Ok(sent)) => self.judge(message, server, reached, sent),
            Ok(Err(Failure::Later(error))) => Attempted::Retry { error, retry_after: None },
            Ok(Err(Failure::Never(error))) => Attempted::Refused { error },
            Err(_) => {
                let error = format!("{server}: {}", cx.overdue(DELIVERY_MAX));
                Attempted::Retry { error, retry_after: None }
            }
        }
    }

    fn judge(&self, message: &Message, server: &Server, mut reached: Vec<MailAddress>, sent: Sent) -> Attempted {
        let list = |list: &[(MailAddress, String)]| {
            let each: Vec<String> = list.iter().map(|(address, reply)| format!("{address}: {reply}")).collect();
            each.join("; ")
        };
        for (address, reply) in &sent.refused {
            tracing::error!(%address, reply, key = message.key, "the mail server refuses a recipient");
        }
        reached.extend(sent.accepted);
        if !sent.deferred.is_empty() {
            let others =
                if reached.is_empty() { String::new() } else { format!(" ({} others have it)", reached.len()) };
            self.remember(&message.key, reached);
            let error = format!("{server}: {}{others}", list(&sent.deferred));
            return Attempted::Retry { error, retry_after: None };
        }
        self.remember(&message.key, Vec::new());
        if reached.is_empty() {
            return Attempted::Refused { error: format!("{server}: {}", list(&sent.refused)) };
        }
        Attempted::Delivered
    }

    fn reached(&self, key: &str) -> Vec<MailAddress> {
        let partly = self.partly.lock().unwrap_or_else(PoisonError::into_inner);
        partly.iter().find(|(k, _)| k == key).map_or(Vec::new(), |(_, reached)| reached.clone())
    }

    fn remember(&self, key: &str, reached: Vec<MailAddress>) {
        let mut partly = self.partly.lock().unwrap_or_else(PoisonError::into_inner);
        partly.retain(|(k, _)| k != key);
        if !reached.is_empty() {
            if partly.len() >= PARTLY_MAX {
                partly.pop_front();
            }
            partly.push_back((key.into(), reached));
        }
    }
}

#[cfg(test)]
mod tests;
