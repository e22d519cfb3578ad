//! Options of a delivery: as written, then resolved.

use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value};

use crate::{
    check::{Families, Settings},
    delivery::{ledger::FORGET_AFTER, tracer},
    options::{Options, key_text, suggestion},
    protocol::{Build, PROTOCOLS, Protocol, Receiver, Sender},
    value::{Switch, TimeSpan},
};

/// The objective of a delivery that names none.
pub const SLOW: Duration = Duration::from_secs(5);

/// The horizon of a delivery that names none.
pub const LOST_AFTER: Duration = Duration::from_secs(30);

/// How often a login is made for its own sake beside kept sessions, unless told otherwise.
pub const LOGIN_EVERY: Duration = Duration::from_secs(30);

/// Most messages of one attempt: enough to see a loss of one in a hundred soon, few enough to be no load test.
pub const BURST_MAX: u32 = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(rename = "send")]
    _send: IgnoredAny,
    #[serde(rename = "receive")]
    _receive: IgnoredAny,
    slow: Option<TimeSpan>,
    lost_after: Option<TimeSpan>,
    burst: Option<u32>,
    #[serde(default)]
    sessions: Sessions,
    login_every: Option<Switch<TimeSpan>>,
}

/// How long sessions live.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Sessions {
    /// Both sides log in anew for each attempt.
    #[default]
    Fresh,
    /// Both sides stay logged in; a login is made for its own sake every `login_every`, and when a message is absent.
    Kept,
}

/// What a delivery is made of.
pub struct Resolved {
    /// Sends.
    pub sender: Box<dyn Sender>,
    /// Receives.
    pub receiver: Box<dyn Receiver>,
    /// How it is done.
    pub manner: Manner,
}

/// How a delivery is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// Arrived later is slow.
    pub objective: Duration,
    /// Absent until then is lost.
    pub horizon: Duration,
    /// Messages of one attempt, 1 to `BURST_MAX`.
    pub burst: u32,
    /// Whether sessions are kept between attempts.
    pub kept: bool,
    /// How often a login is made for its own sake beside kept sessions; `None`: never.
    pub login_every: Option<Duration>,
}

impl Default for Manner {
    fn default() -> Self {
        Self { objective: SLOW, horizon: LOST_AFTER, burst: 1, kept: false, login_every: Some(LOGIN_EVERY) }
    }
}

/// Reads the options of a delivery.
pub fn read(options: &mut Options<'_>, settings: &Settings) -> Option<Resolved> {
    let raw = options.read::<Raw>();
    let sender = side(options, "send", |p| p.send);
    let receiver = side(options, "receive", |p| p.receive);
    let raw = raw?;
    let objective = raw.slow.map(|s| s.0).or(settings.slow).unwrap_or(SLOW);
    let horizon = raw.lost_after.map_or(LOST_AFTER, |s| s.0);
    let mut good = true;
    let mut wrong = |key: &str, text: String, hint: &str| {
        options.problem(key, text, Some(hint));
        good = false;
    };
    if objective.is_zero() {
        wrong("slow", "nothing arrives within 0s".into(), "write a time span such as 5s");
    }
    if horizon <= objective {
        let (horizon, objective) = (TimeSpan(horizon), TimeSpan(objective));
        let text = format!("a message is slow after {objective}, so it cannot be lost after {horizon}");
        wrong("lost_after", text, "make `lost_after` longer than `slow`");
    }
    if horizon > FORGET_AFTER {
        let text = format!("a message is remembered for {}", TimeSpan(FORGET_AFTER));
        wrong("lost_after", text, "write a shorter time");
    }
    let burst = raw.burst.unwrap_or(1);
    if burst == 0 || burst > BURST_MAX {
        wrong("burst", format!("an attempt sends 1 to {BURST_MAX} messages"), "write a number such as 20");
    }
    let kept = matches!(raw.sessions, Sessions::Kept);
    if !kept && raw.login_every.is_some() {
        let text = "fresh sessions log in for each attempt anyway".into();
        wrong("login_every", text, "remove it, or write `sessions: kept`");
    }
    let login_every = match raw.login_every {
        None => Some(LOGIN_EVERY),
        Some(every) => every.on().map(|every| every.0),
    };
    if settings.ip == Families::Both {
        wrong("", "a delivery cannot ask both address families in turn".into(), "write two checks, or leave `ip` out");
    }
    let (sender, receiver) = (sender?, receiver?);
    if sender.carries().bytes_max < tracer::TOKEN_BYTES {
        wrong("send", format!("its messages are shorter than {} bytes", tracer::TOKEN_BYTES), "use another protocol");
    }
    let manner = Manner { objective, horizon, burst, kept, login_every };
    good.then_some(Resolved { sender, receiver, manner })
}

/// Reads `send: { <protocol>: { … } }`.
fn side<T: ?Sized>(options: &mut Options<'_>, key: &str, ability: fn(&Protocol) -> Option<Build<T>>) -> Option<Box<T>> {
    // An absent side is told as missing.
    options.value().get(key)?;
    let mut block = options.child(key);
    let able: Vec<&str> = PROTOCOLS.iter().filter(|p| ability(p).is_some()).map(|p| p.name).collect();
    let names: Vec<String> = block.value().as_mapping().into_iter().flatten().map(|(name, _)| key_text(name)).collect();
    let [name] = names.as_slice() else {
        let hint = format!("write {key}: {{ {}: {{ … }} }}", able.first().unwrap_or(&"mqtt"));
        block.problem("", "exactly one protocol is expected here", Some(&hint));
        return None;
    };
    let known = PROTOCOLS.iter().find(|p| p.name == name);
    let Some(build) = known.and_then(|p| ability(p)) else {
        let text = match known {
            Some(_) => format!("`{name}` cannot {key}"),
            None => format!("unknown protocol `{name}`"),
        };
        let hint = suggestion(name, able);
        block.problem(name, text, Some(&hint));
        return None;
    };
    build(&mut block.child(name))
}

/// JSON Schema of the options.
pub fn schema(generator: &mut SchemaGenerator) -> Schema {
    type Side = fn(&Protocol) -> Option<fn(&mut SchemaGenerator) -> Schema>;
    let mut side = |of: Side, description: &str| {
        let mut properties = Map::new();
        for protocol in PROTOCOLS {
            if let Some(schema) = of(protocol) {
                properties.insert(protocol.name.into(), schema(generator).into());
            }
        }
        Value::from(json_schema!({
            "description": description, "type": "object", "properties": properties,
            "additionalProperties": false, "minProperties": 1, "maxProperties": 1,
        }))
    };
    let send = side(|p| p.send_schema, "How the message is sent: one protocol with its options");
    let receive = side(|p| p.receive_schema, "How it is received: one protocol with its options");
    let described = |text: &str, schema: Schema| {
        let mut schema = schema;
        schema.insert("description".into(), text.into());
        schema
    };
    let slow =
        described("The objective: arrived later counts as slow; 5s by default", generator.subschema_for::<TimeSpan>());
    let lost = described(
        "The horizon: absent until then counts as lost; 30s by default",
        generator.subschema_for::<TimeSpan>(),
    );
    let sessions = generator.subschema_for::<Sessions>();
    let login_every = described(
        "How often a login is made for its own sake beside kept sessions; 30s by default",
        generator.subschema_for::<Switch<TimeSpan>>(),
    );
    let burst = json_schema!({
        "description": "Messages of one attempt, one after the other; 1 by default",
        "type": "integer", "minimum": 1, "maximum": BURST_MAX,
    });
    json_schema!({
        "type": "object", "additionalProperties": false, "required": ["send", "receive"],
        "properties": { "send": send, "receive": receive, "slow": slow, "lost_after": lost,
            "burst": burst, "sessions": sessions, "login_every": login_every },
    })
}
