//! Options of the `mqtt` protocol: as written, then resolved.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Version, codec::Login};
use crate::{
    options::Options,
    protocol::wire::{Address, Endpoint, Scheme, TlsClient, TlsOptions},
    value::{Secret, TimeSpan},
};

const SCHEMES: &[Scheme] =
    &[Scheme { name: "mqtt", port: Some(1883), tls: false }, Scheme { name: "mqtts", port: Some(8883), tls: true }];

/// Seconds; common brokers allow up to many minutes, home routers forget silent connections after a few.
const KEEP_ALIVE_S: u16 = 60;

/// Longest topic in bytes (section 1.5.4: a length of two bytes).
const TOPIC_BYTES_MAX: usize = 65_535;

/// How to reach a broker and log in.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawProbe {
    /// `mqtt://host[:1883]` or `mqtts://host[:8883]`.
    url: String,
    /// User name.
    username: Option<String>,
    /// Password.
    password: Option<Secret>,
    /// Client identifier; by default a new one for each connection, so that no connection ends another.
    client_id: Option<String>,
    /// `5` or `3.1.1`; by default 5, and 3.1.1 in the same attempt when the server does not speak 5.
    version: Option<Word>,
    /// Longest silence before a PINGREQ; the default is 60s, 0 turns it off.
    keep_alive: Option<TimeSpan>,
    /// TLS of `mqtts`.
    tls: Option<TlsOptions>,
}

/// How to reach a broker and log in, and where messages go to.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawSend {
    /// `mqtt://host[:1883]` or `mqtts://host[:8883]`.
    url: String,
    /// User name.
    username: Option<String>,
    /// Password.
    password: Option<Secret>,
    /// Client identifier; by default a new one for each connection, so that no connection ends another.
    client_id: Option<String>,
    /// `5` or `3.1.1`; by default 5, and 3.1.1 in the same attempt when the server does not speak 5.
    version: Option<Word>,
    /// Longest silence before a PINGREQ; the default is 60s, 0 turns it off.
    keep_alive: Option<TimeSpan>,
    /// TLS of `mqtts`.
    tls: Option<TlsOptions>,
    /// The topic to publish to (sending) or the filter to subscribe to (receiving, where `+` and `#` are allowed).
    topic: String,
    /// Quality of service: 0, 1 (default) or 2.
    qos: Option<u8>,
}

/// A version as written: YAML reads `5` as a number and `3.1.1` as text.
#[derive(Clone, Debug, Deserialize)]
struct Word(String);

impl JsonSchema for Word {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MqttVersion".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "description": "The version of MQTT", "enum": [5, "5", "3.1.1"] })
    }
}

/// How to reach a broker and log in, checked.
#[derive(Debug)]
pub struct Broker {
    /// Where.
    pub endpoint: Endpoint,
    /// The URL without credentials, for people.
    pub target: String,
    /// The only version to speak; `None` for 5 and then 3.1.1.
    pub version: Option<Version>,
    client_id: Option<String>,
    username: Option<String>,
    password: Option<Secret>,
    keep_alive_s: u16,
}

/// A broker and a topic.
#[derive(Debug)]
pub struct Place {
    /// The broker.
    pub broker: Broker,
    /// Topic name or filter.
    pub topic: String,
    /// Quality of service.
    pub qos: u8,
}

impl Broker {
    /// Reads the options of a probe.
    pub fn read(options: &mut Options<'_>) -> Option<Self> {
        let raw = options.read::<RawProbe>()?;
        Self::resolve(raw, options)
    }

    fn resolve(raw: RawProbe, options: &mut Options<'_>) -> Option<Self> {
        let address = Address::read(options, "url", &raw.url, SCHEMES);
        let version = raw.version.map(|word| version(&word.0, options));
        let keep_alive_s = raw.keep_alive.map_or(Some(KEEP_ALIVE_S), |span| keep_alive(span, options));
        let tls = tls(raw.tls, address.as_ref(), options);
        if let Some(id) = raw.client_id.as_ref().filter(|id| id.is_empty() || id.contains('\0')) {
            let text = format!("`{}` is no client identifier", id.escape_default());
            options.problem("client_id", text, Some("leave it out to get a new one for each connection"));
            return None;
        }
        let address = address?;
        if !address.path.is_empty() {
            options.problem("url", "an MQTT URL has no path", Some("name the topic by `topic:`"));
            return None;
        }
        let from_url = (&address.username, &address.password);
        let twice =
            (from_url.0.is_some() && raw.username.is_some()) || (from_url.1.is_some() && raw.password.is_some());
        if twice {
            options.problem("url", "the URL and the options both name a login", Some("leave one of them out"));
            return None;
        }
        let username = raw.username.or_else(|| address.username.clone());
        let password = raw.password.or_else(|| address.password.clone());
        // MQTT 3.1.1, section 3.1.2.9; MQTT 5 allows it.
        if password.is_some() && username.is_none() && version != Some(Some(Version::V5)) {
            let hint = "add `username:`, or `version: 5`, which allows a password alone";
            options.problem("password", "MQTT 3.1.1 takes no password without a user name", Some(hint));
            return None;
        }
        let scheme = address.scheme.name;
        let endpoint = address.endpoint(tls?);
        let target = format!("{scheme}://{endpoint}");
        let version = match version {
            Some(version) => Some(version?),
            None => None,
        };
        let client_id = raw.client_id;
        Some(Self { endpoint, target, version, client_id, username, password, keep_alive_s: keep_alive_s? })
    }

    /// Whether a second connection would end the first (section 3.1.4): the client identifier is fixed.
    pub fn is_exclusive(&self) -> bool {
        self.client_id.is_some()
    }

    /// Who we say we are in a connection; `random` makes the identifier unique.
    pub fn login(&self, random: u64) -> Login {
        // 22 letters and digits: every server takes up to 23 of those (MQTT 3.1.1, section 3.1.3.1).
        let client_id = self.client_id.clone().unwrap_or_else(|| format!("bongsu{random:016x}"));
        Login {
            client_id,
            username: self.username.clone(),
            password: self.password.clone(),
            keep_alive_s: self.keep_alive_s,
        }
    }
}

impl Place {
    /// Reads the options of a sender.
    pub fn to_send(options: &mut Options<'_>) -> Option<Self> {
        Self::read(options, |topic| {
            topic
                .contains(['+', '#'])
                .then_some("a message goes to one topic, so `+` and `#` have no place in its name")
        })
    }

    /// Reads the options of a receiver.
    pub fn to_receive(options: &mut Options<'_>) -> Option<Self> {
        Self::read(options, |filter| {
            if filter.starts_with("$share/") {
                return Some(
                    "a shared subscription hands each message to one of its members only, so some would be missed",
                );
            }
            is_filter_wrong(filter).then_some("`+` must fill a level of its own, `#` the last one")
        })
    }

    fn read(options: &mut Options<'_>, wrong: impl Fn(&str) -> Option<&'static str>) -> Option<Self> {
        let raw = options.read::<RawSend>()?;
        let qos = raw.qos.unwrap_or(1);
        let mut good = true;
        if qos > 2 {
            options.problem("qos", format!("there is no quality of service {qos}"), Some("write 0, 1 or 2"));
            good = false;
        }
        let hint = "write it as bongsu/tracer";
        let bad = if raw.topic.is_empty() || raw.topic.len() > TOPIC_BYTES_MAX || raw.topic.contains('\0') {
            Some("a topic has 1 to 65535 bytes and no NUL")
        } else {
            wrong(&raw.topic)
        };
        if let Some(text) = bad {
            options.problem("topic", text, Some(hint));
            good = false;
        }
        let broker = Broker::resolve(
            RawProbe {
                url: raw.url,
                username: raw.username,
                password: raw.password,
                client_id: raw.client_id,
                version: raw.version,
                keep_alive: raw.keep_alive,
                tls: raw.tls,
            },
            options,
        )?;
        good.then_some(Self { broker, topic: raw.topic, qos })
    }
}

/// Section 4.7.1.
fn is_filter_wrong(filter: &str) -> bool {
    let levels: Vec<&str> = filter.split('/').collect();
    levels.iter().enumerate().any(|(n, level)| {
        let hash = level.contains('#') && (*level != "#" || n + 1 != levels.len());
        hash || (level.contains('+') && *level != "+")
    })
}

fn version(word: &str, options: &mut Options<'_>) -> Option<Version> {
    match word {
        "5" | "5.0" => Some(Version::V5),
        "3.1.1" | "4" => Some(Version::V311),
        other => {
            options.problem("version", format!("`{other}` is no version spoken here"), Some("write 5 or 3.1.1"));
            None
        }
    }
}

fn keep_alive(span: TimeSpan, options: &mut Options<'_>) -> Option<u16> {
    match u16::try_from(span.0.as_secs()) {
        Ok(seconds) if span.0.subsec_millis() == 0 => Some(seconds),
        _ => {
            options.problem("keep_alive", "keep alive is counted in whole seconds, up to 65535", Some("write 60s"));
            None
        }
    }
}

fn tls(raw: Option<TlsOptions>, address: Option<&Address>, options: &mut Options<'_>) -> Option<Option<TlsClient>> {
    let encrypted = address.is_some_and(|a| a.scheme.tls);
    if raw.is_some() && address.is_some() && !encrypted {
        options.problem("tls", "`mqtt://` has no TLS", Some("write mqtts:// in the URL"));
        return None;
    }
    if !encrypted {
        return Some(None);
    }
    // No ALPN: brokers that know it do without, and gateways that do not know "mqtt" refuse it.
    raw.unwrap_or_default().client(&mut options.child("tls"), &[]).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    type ReadPlace = fn(&mut Options<'_>) -> Option<Place>;

    fn read(yaml: &str, how: ReadPlace) -> Result<Place, Vec<String>> {
        let value = serde_yaml::from_str(yaml).expect("well-formed YAML");
        let mut problems = Vec::new();
        let got = how(&mut Options::new(&value, Vec::new(), std::path::Path::new("."), &mut problems));
        let texts: Vec<String> = problems.iter().map(|p| p.text.clone()).collect();
        assert_eq!(got.is_none(), !texts.is_empty(), "{yaml}: {texts:?}");
        got.ok_or(texts)
    }

    #[test]
    fn good_options_are_read() {
        let place =
            read("{ url: 'mqtts://[::1]', topic: 'a/+/#', qos: 2, version: 3.1.1, keep_alive: 0 }", Place::to_receive)
                .expect("good options");
        assert_eq!(place.broker.target, "mqtts://[::1]:8883");
        assert_eq!((place.qos, place.broker.version), (2, Some(Version::V311)));
        let place =
            read("{ url: 'mqtt://u:p%40@h', topic: 'a b/한글', version: 5 }", Place::to_send).expect("good options");
        assert_eq!(place.broker.target, "mqtt://h:1883");
        assert_eq!((place.qos, place.broker.version), (1, Some(Version::V5)));
        let login = place.broker.login(7);
        assert_eq!(login.client_id, "bongsu0000000000000007");
        assert_eq!(login.username.as_deref(), Some("u"));
        assert_eq!(login.password.as_ref().map(Secret::expose), Some("p@"));
        assert!(!format!("{place:?}").contains("p@"));
    }

    #[test]
    fn bad_options_are_told() {
        let table: [(&str, ReadPlace, &str); 15] = [
            ("{ url: 'mqtt://h', topic: a, qos: 3 }", Place::to_send, "there is no quality of service 3"),
            ("{ url: 'mqtt://h', topic: 'a/#' }", Place::to_send, "a message goes to one topic"),
            ("{ url: 'mqtt://h', topic: 'a/#/b' }", Place::to_receive, "`+` must fill a level"),
            ("{ url: 'mqtt://h', topic: 'a/b+' }", Place::to_receive, "`+` must fill a level"),
            ("{ url: 'mqtt://h', topic: '$share/g/a' }", Place::to_receive, "a shared subscription"),
            ("{ url: 'mqtt://h', topic: '' }", Place::to_receive, "a topic has 1 to 65535 bytes"),
            ("{ url: 'mqtt://h/a', topic: a }", Place::to_send, "an MQTT URL has no path"),
            ("{ url: 'http://h', topic: a }", Place::to_send, "the scheme `http` does not fit here"),
            ("{ url: 'mqtt://h', topic: a, version: 4.0 }", Place::to_send, "is no version spoken here"),
            ("{ url: 'mqtt://h', topic: a, keep_alive: 500ms }", Place::to_send, "keep alive is counted in whole"),
            ("{ url: 'mqtt://h', topic: a, tls: {} }", Place::to_send, "`mqtt://` has no TLS"),
            ("{ url: 'mqtt://h', topic: a, password: secret }", Place::to_send, "takes no password without"),
            ("{ url: 'mqtt://u@h', topic: a, username: v }", Place::to_send, "both name a login"),
            ("{ url: 'mqtt://h', topic: a, client_id: '' }", Place::to_send, "is no client identifier"),
            ("{ url: 'mqtt://h' }", Place::to_send, "`topic` is missing"),
        ];
        for (yaml, how, text) in table {
            let problems = read(yaml, how).expect_err(yaml);
            assert!(problems.iter().any(|p| p.contains(text)), "{yaml}: {problems:?}");
        }
    }
}
