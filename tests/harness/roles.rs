//! Options for whatever a protocol of the registry can do, made from its own example and its own schema: what loops
//! over the registry needs to know no protocol, and a new one is tested as soon as it is in it.
#![allow(dead_code, reason = "each test binary uses its own part")]

use bongsu::{
    cli::render::protocols::options as rows,
    options::{Options, Problem},
    protocol::{Probe, Protocol, Receiver, Sender},
};
use serde_yaml::{Mapping, Value};

/// What a protocol can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Probe,
    Send,
    Receive,
}

/// All of them.
pub const ROLES: [Role; 3] = [Role::Probe, Role::Send, Role::Receive];

/// What has been built for a role.
pub enum Built {
    Probe(Box<dyn Probe>),
    Send(Box<dyn Sender>),
    Receive(Box<dyn Receiver>),
}

/// Whether a protocol can do it.
pub fn can(protocol: &Protocol, role: Role) -> bool {
    match role {
        Role::Probe => protocol.probe.is_some(),
        Role::Send => protocol.send.is_some(),
        Role::Receive => protocol.receive.is_some(),
    }
}

/// The options of a role whose server stands at `place` (`127.0.0.1:25`): those of the example that the role knows,
/// with these secrets for all its secrets, and what else a role usually wants.
pub fn options(protocol: &Protocol, role: Role, scheme: &str, place: &str, secret: &str) -> Value {
    let schema = match role {
        Role::Probe => protocol.probe_schema,
        Role::Send => protocol.send_schema,
        Role::Receive => protocol.receive_schema,
    };
    let known: Vec<String> = rows(schema.expect("a role has a schema")).into_iter().map(|row| row.name).collect();
    let usual = [
        ("url", format!("{scheme}://{place}")),
        ("username", "probe".into()),
        ("password", secret.into()),
        ("topic", "t/hostile".into()),
        ("from", "probe@example.com".into()),
        ("to", "reader@example.com".into()),
    ];
    let example: Vec<Mapping> = serde_yaml::from_str(protocol.example).expect("an example is YAML");
    let example = example.first().and_then(|check| check.get(protocol.name)).and_then(Value::as_mapping).cloned();
    let mut options = Mapping::new();
    for (key, value) in example.unwrap_or_default() {
        let name = key.as_str().unwrap_or_default().to_owned();
        if role == Role::Probe || known.contains(&name) {
            options.insert(key, filled(value, &name, scheme, place, secret));
        }
    }
    for (key, value) in usual {
        // A server named without a URL stays so.
        let is_there = options.contains_key(key) || key == "url" && options.contains_key("server");
        if known.iter().any(|name| name == key) && !is_there {
            options.insert(key.into(), value.into());
        }
    }
    Value::Mapping(options)
}

/// An option of the example, with our server and our secret in it.
fn filled(value: Value, key: &str, scheme: &str, place: &str, secret: &str) -> Value {
    match value {
        Value::String(text) if key == "server" => Value::String(text.replace(&text, place)),
        Value::String(text) if key == "url" => {
            let path = text.split_once("://").and_then(|(_, rest)| rest.find(['/', '?']).map(|at| &rest[at..]));
            Value::String(format!("{scheme}://{place}{}", path.unwrap_or_default()))
        }
        Value::String(text) => match (text.find("${"), text.rfind('}')) {
            (Some(from), Some(to)) => Value::String(format!("{}{secret}{}", &text[..from], &text[to + 1..])),
            _ => Value::String(text),
        },
        Value::Mapping(map) => {
            Value::Mapping(map.into_iter().map(|(k, v)| (k, filled(v, "", scheme, place, secret))).collect())
        }
        Value::Sequence(list) => {
            Value::Sequence(list.into_iter().map(|v| filled(v, "", scheme, place, secret)).collect())
        }
        other => other,
    }
}

/// Builds a role from its options; the mistakes in them, if there are any.
pub fn build(protocol: &Protocol, role: Role, options: &Value) -> Result<Built, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut read = Options::new(options, Vec::new(), std::path::Path::new("/nonexistent"), &mut problems);
    let built = match role {
        Role::Probe => protocol.probe.and_then(|build| build(&mut read)).map(Built::Probe),
        Role::Send => protocol.send.and_then(|build| build(&mut read)).map(Built::Send),
        Role::Receive => protocol.receive.and_then(|build| build(&mut read)).map(Built::Receive),
    };
    match built {
        Some(built) if problems.is_empty() => Ok(built),
        _ => Err(problems),
    }
}
