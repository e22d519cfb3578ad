//! Configuration as typed: the sections of `config.yaml` and of check files, before anything is resolved.
//!
//! Doc comments of fields become descriptions in the JSON Schema. Unknown keys are refused by the reader, which
//! knows the fields of every struct here.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{self, IntoDeserializer, SeqAccess, Visitor, value::StrDeserializer},
};

use crate::{
    check::{Families, accounts::ACCOUNTS_MAX},
    incident::Severity,
    value::{CheckName, Name, Ratio, Switch, TimeSpan},
};

/// One value, or a list of them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct OneOrMany<T>(pub Vec<T>);

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for V<T> {
            type Value = OneOrMany<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMany<T>, E> {
                let one: StrDeserializer<'_, E> = text.into_deserializer();
                T::deserialize(one).map(|one| OneOrMany(vec![one]))
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<OneOrMany<T>, E> {
                self.visit_str(&n.to_string())
            }
            fn visit_unit<E: de::Error>(self) -> Result<OneOrMany<T>, E> {
                Ok(OneOrMany(Vec::new()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<OneOrMany<T>, A::Error> {
                let mut all = Vec::new();
                while let Some(one) = seq.next_element()? {
                    all.push(one);
                }
                Ok(OneOrMany(all))
            }
        }
        d.deserialize_any(V(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("OneOrMany{}", T::schema_name()).into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

/// The agent's own settings.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAgent {
    /// The vantage's name, shown in alerts; the host's name by default.
    #[serde(default)]
    pub name: Option<Name>,
    /// Name servers to ask instead of the system's: `192.0.2.53`, `192.0.2.53:5353`, `[2001:db8::53]:53`.
    #[serde(default)]
    pub nameservers: OneOrMany<String>,
    /// Hosts elsewhere by which the agent learns whether it is itself cut off, such as `tcp://192.0.2.1:443` or
    /// `dns://198.51.100.1`: a URL of any protocol that can be probed. They are asked when a check fails (and once a
    /// minute). While none of them answers within 2s, the agent is isolated: silence, refused and broken connections are
    /// `unknown` and declare nothing down (what a server itself has said still counts), nothing is sent, and one summary
    /// is sent after a return from 30s or more. Name two or more, on networks that do not fail together, by address, so
    /// that they do not depend on a name server; at most 8. The outage of a single one would look like an isolation.
    #[serde(default)]
    pub canaries: OneOrMany<String>,
    /// The Unix socket by which commands talk to the daemon.
    #[serde(default)]
    pub socket: Option<String>,
}

/// Where history is kept, and for how long.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStore {
    /// The SQLite file; `/var/lib/bongsu/bongsu.db` by default (or below systemd's state directory).
    #[serde(default)]
    pub path: Option<String>,
    /// How long things are kept.
    #[serde(default)]
    pub keep: Option<RawKeep>,
}

/// How long things are kept.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawKeep {
    /// Observations as rows, which SQL can ask for; 2d by default. Then they are sealed, at a few bytes each.
    #[serde(default)]
    pub raw: Option<TimeSpan>,
    /// Sealed observations; 400d by default.
    #[serde(default)]
    pub blocks: Option<TimeSpan>,
    /// Daily roll-ups, incidents and settled messages; 5y by default.
    #[serde(default)]
    pub daily: Option<TimeSpan>,
}

/// Where the status page will listen.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWeb {
    /// Address and port; 127.0.0.1:8463 by default.
    #[serde(default)]
    pub listen: Option<String>,
}

/// Settings of checks that can be given for all checks, for a file's, or for one.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSettings {
    /// The time between two attempts; 30s by default.
    #[serde(default)]
    pub every: Option<TimeSpan>,
    /// The deadline of one attempt; 5s by default, or the interval if that is shorter.
    #[serde(default)]
    pub timeout: Option<TimeSpan>,
    /// An attempt that took longer than this is slow; `off` by default.
    #[serde(default)]
    pub slow: Option<Switch<TimeSpan>>,
    /// The address families to use; `any` by default.
    #[serde(default)]
    pub ip: Option<Families>,
    /// When a check counts as down, and as up again.
    #[serde(default)]
    pub outage: Option<RawOutage>,
    /// When a check counts as degraded.
    #[serde(default)]
    pub degraded: Option<RawDegraded>,
}

/// When a check counts as down, and as up again.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOutage {
    /// Bad observations in a row that make an outage; 5 by default.
    #[serde(default)]
    pub failures: Option<u32>,
    /// How soon a suspect check is asked again; by default a tenth of its interval, between 1s and 1m.
    #[serde(default)]
    pub confirm_every: Option<TimeSpan>,
    /// Good observations in a row that end an outage; 2 by default. More are awaited where single ones came through
    /// all the while.
    #[serde(default)]
    pub recoveries: Option<u32>,
}

/// When a check counts as degraded.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDegraded {
    /// Share of slow observations; 20% by default.
    #[serde(default)]
    pub slow: Option<Switch<Ratio>>,
    /// Share of messages that arrived after their objective; `off` by default (`slow` counts them with all else).
    #[serde(default)]
    pub late: Option<Switch<Ratio>>,
    /// Share of failed attempts and of messages that were lost; 1% by default.
    #[serde(default)]
    pub loss: Option<Switch<Ratio>>,
    /// Share of messages that were not accepted, for good or for now; `off` by default (`loss` counts them with all
    /// else).
    #[serde(default)]
    pub refused: Option<Switch<Ratio>>,
    /// Share of messages that arrived more than once; 1% by default.
    #[serde(default)]
    pub duplicates: Option<Switch<Ratio>>,
    /// Share of messages that arrived after a later one; `off` by default.
    #[serde(default)]
    pub reordered: Option<Switch<Ratio>>,
    /// Share of messages that arrived other than they were sent; 1% by default.
    #[serde(default)]
    pub changed: Option<Switch<Ratio>>,
    /// Messages of others for each of one's own; `off` by default.
    #[serde(default)]
    pub foreign: Option<Switch<Ratio>>,
    /// Share of new logins that were refused while kept sessions deliver; 10% by default.
    #[serde(default)]
    pub login: Option<Switch<Ratio>>,
    /// Share of failing accounts, of a check with several `accounts`; 1% by default.
    #[serde(default)]
    pub accounts: Option<Switch<Ratio>>,
    /// 95th percentile of the latency; `off` by default.
    #[serde(default)]
    pub p95: Option<Switch<TimeSpan>>,
    /// 95th percentile of the time to the server's acknowledgement; `off` by default.
    #[serde(default)]
    pub accept_p95: Option<Switch<TimeSpan>>,
    /// The time over which shares and percentiles are taken; 10m by default.
    #[serde(default)]
    pub window: Option<TimeSpan>,
}

/// Which incidents go to which channels, and after how long an outage.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRoute {
    /// Which incidents; all of them by default.
    #[serde(default, rename = "match")]
    #[allow(dead_code, reason = "named for the schema; read part by part")]
    pub matches: RawMatch,
    /// Who is told when.
    #[allow(dead_code, reason = "named for the schema; read part by part")]
    pub steps: Vec<RawStep>,
}

/// Which incidents a route is for; everything given must fit.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawMatch {
    /// Of one of these services.
    pub service: OneOrMany<Name>,
    /// With one of these checks (`service/check`).
    #[schemars(with = "OneOrMany<String>")]
    pub check: OneOrMany<CheckName>,
    /// Of one of these severities.
    pub severity: OneOrMany<Severity>,
    /// With all of these labels.
    pub labels: BTreeMap<String, String>,
}

// That it must tell somebody is said where it is read.
/// One step of a route.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStep {
    /// Age of the outage at which this step is due; 0s by default.
    #[serde(default)]
    pub after: TimeSpan,
    /// Names of channels; at least one.
    #[serde(default)]
    pub to: OneOrMany<Name>,
    /// How often they are told again while the outage lasts; never by default.
    #[serde(default)]
    pub repeat: Option<TimeSpan>,
}

// That it must have a service is said where it is read, which goes on without one.
/// The head of a check file.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawService {
    /// Name of the service all checks of this file belong to.
    #[serde(default)]
    pub service: Option<Name>,
    /// What people call the service; its name by default.
    #[serde(default)]
    pub title: Option<String>,
    /// Labels of all checks of this file.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

// That it must have a name is said where it is read.
/// What a check has beside its settings and the question it asks.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCheck {
    /// Its name within the service.
    #[serde(default)]
    pub name: Option<Name>,
    /// A cron line of five or six fields (the first of six is seconds), instead of `every`.
    #[serde(default)]
    pub cron: Option<String>,
    /// The IANA time zone of `cron`: `Asia/Seoul`; UTC by default.
    #[serde(default)]
    pub timezone: Option<String>,
    /// Further labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Checks this one cannot work without: names of this service, or `service/check`.
    #[serde(default)]
    pub depends_on: OneOrMany<String>,
    /// The name (or `service/check`) it had before: its history is kept.
    #[serde(default)]
    pub formerly: Option<String>,
    /// Accounts to ask with, one after the other: a list of mappings with keys of your own, or a range such as
    /// `{ range: "01..12", username: "probe{n}" }`. Texts of what is asked refer to them by `${account:username}`.
    #[serde(default, rename = "accounts")]
    pub _accounts: RawAccounts,
}

/// The accounts of a check. Read part by part, since their keys are the user's own.
#[derive(Debug, Default)]
pub(super) struct RawAccounts;

impl<'de> Deserialize<'de> for RawAccounts {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        de::IgnoredAny::deserialize(d).map(|_| Self)
    }
}

impl JsonSchema for RawAccounts {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Accounts".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let value = json_schema!({ "type": ["string", "number", "boolean"] });
        let range = json_schema!({
            "description": "From the first to the last number, both included; zeros at the front are kept: `01..12`",
            "type": "string", "pattern": "^[0-9]{1,9}\\.\\.[0-9]{1,9}$",
        });
        json_schema!({ "anyOf": [
            {
                "type": "array", "minItems": 1, "maxItems": ACCOUNTS_MAX,
                "items": { "type": "object", "minProperties": 1, "additionalProperties": value },
            },
            {
                "description": "Accounts that differ by a number, with further keys of your own: `{n}` in their \
                                values is the number",
                "type": "object", "required": ["range"], "minProperties": 2,
                "properties": { "range": range }, "additionalProperties": value,
            },
        ] })
    }
}

/// Keys of [`RawAgent`].
pub(super) const AGENT_KEYS: [&str; 4] = ["name", "nameservers", "canaries", "socket"];
/// Keys of [`RawStore`].
pub(super) const STORE_KEYS: [&str; 2] = ["path", "keep"];
/// Keys of [`RawWeb`].
pub(super) const WEB_KEYS: [&str; 1] = ["listen"];
/// Keys of [`RawRoute`].
pub(super) const ROUTE_KEYS: [&str; 2] = ["match", "steps"];
/// Keys of [`RawMatch`].
pub(super) const MATCH_KEYS: [&str; 4] = ["service", "check", "severity", "labels"];
/// Keys of [`RawStep`].
pub(super) const STEP_KEYS: [&str; 3] = ["after", "to", "repeat"];
/// Keys of [`RawSettings`].
pub(super) const SETTINGS_KEYS: [&str; 6] = ["every", "timeout", "slow", "ip", "outage", "degraded"];
/// Keys of [`RawCheck`].
pub(super) const CHECK_KEYS: [&str; 7] = ["name", "cron", "timezone", "labels", "depends_on", "formerly", "accounts"];
/// Keys of [`RawService`].
pub(super) const SERVICE_KEYS: [&str; 3] = ["service", "title", "labels"];
/// Keys at the top of `config.yaml`.
pub(super) const CONFIG_KEYS: [&str; 7] = ["agent", "store", "defaults", "channels", "routes", "web", "checks"];
/// Keys at the top of a check file.
pub(super) const FILE_KEYS: [&str; 5] = ["service", "title", "labels", "defaults", "checks"];

/// Whether a top-level key is the user's own: a place for anchors.
pub(super) fn is_own_key(key: &str) -> bool {
    key.starts_with("x-")
}
