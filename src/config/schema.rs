//! JSON Schema (draft 2020-12) of both kinds of files, for editors: the structs of `raw` and the options of every
//! registered protocol, kind of check and channel, put together.
//!
//! A schema cannot know names, files or secrets, so it accepts some files that `load` refuses; every file that
//! `load` accepts fits it.

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::raw::{OneOrMany, RawAgent, RawCheck, RawRoute, RawService, RawSettings, RawStore, RawWeb};
use crate::{check::KINDS, notify::CHANNEL_KINDS, protocol::PROTOCOLS, value::Name};

/// Which kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    /// `config.yaml`.
    Config,
    /// A file below `checks/`.
    Checks,
}

/// The schema of a kind of file.
pub fn schema(document: Document) -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let (title, mut root) = match document {
        Document::Config => ("bongsu: config.yaml", config(&mut generator)),
        Document::Checks => ("bongsu: a check file", checks(&mut generator)),
    };
    let definitions = generator.take_definitions(true);
    let mut whole = Map::new();
    whole.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
    whole.insert("title".into(), json!(title));
    whole.append(&mut root);
    whole.insert("$defs".into(), Value::Object(definitions));
    Value::Object(whole)
}

fn config(generator: &mut SchemaGenerator) -> Map<String, Value> {
    let mut properties = Map::new();
    property::<RawAgent>(&mut properties, generator, "agent", "The agent's own settings");
    property::<RawStore>(&mut properties, generator, "store", "Where history is kept, and for how long");
    property::<RawSettings>(&mut properties, generator, "defaults", "Settings of all checks that say nothing else");
    let channels = json!({
        "description": "Where alerts go: channels by name",
        "type": ["object", "null"],
        "propertyNames": generator.subschema_for::<Name>(),
        "additionalProperties": channel(generator),
    });
    properties.insert("channels".into(), channels);
    let routes = json!({
        "description": "Which incidents go to which channels, after how long an outage",
        "type": ["array", "null"],
        "items": generator.subschema_for::<RawRoute>(),
    });
    properties.insert("routes".into(), routes);
    property::<RawWeb>(&mut properties, generator, "web", "Where the status page will listen");
    property::<OneOrMany<String>>(
        &mut properties,
        generator,
        "checks",
        "Directories of check files; `checks` by default",
    );
    object(properties, &[], &["object", "null"])
}

fn checks(generator: &mut SchemaGenerator) -> Map<String, Value> {
    let mut properties = properties_of::<RawService>(generator);
    property::<RawSettings>(&mut properties, generator, "defaults", "Settings of the checks of this file");
    let items = check(generator);
    properties.insert(
        "checks".into(),
        json!({ "description": "The checks", "type": "array", "minItems": 1, "items": items }),
    );
    object(properties, &["service", "checks"], &["object"])
}

fn check(generator: &mut SchemaGenerator) -> Value {
    let mut properties = properties_of::<RawCheck>(generator);
    properties.append(&mut properties_of::<RawSettings>(generator));
    let mut kinds = Vec::new();
    for protocol in PROTOCOLS {
        if let Some(options) = protocol.probe_schema {
            properties.insert(protocol.name.into(), described(options(generator), protocol.summary));
            kinds.push(protocol.name);
        }
    }
    for kind in KINDS {
        properties.insert(kind.name.into(), described((kind.schema)(generator), kind.summary));
        kinds.push(kind.name);
    }
    let mut check = object(properties, &["name"], &["object"]);
    check.remove("patternProperties");
    check.insert("oneOf".into(), one_of(&kinds));
    check.insert("not".into(), json!({ "required": ["every", "cron"] }));
    check.insert("dependentRequired".into(), json!({ "timezone": ["cron"] }));
    Value::Object(check)
}

fn channel(generator: &mut SchemaGenerator) -> Value {
    let mut properties = Map::new();
    property::<Name>(
        &mut properties,
        generator,
        "fallback",
        "The channel that gets the messages this one cannot deliver",
    );
    let mut kinds = Vec::new();
    for kind in CHANNEL_KINDS {
        properties.insert(kind.name.into(), described((kind.schema)(generator), kind.summary));
        kinds.push(kind.name);
    }
    let mut channel = object(properties, &[], &["object"]);
    channel.remove("patternProperties");
    channel.insert("oneOf".into(), one_of(&kinds));
    Value::Object(channel)
}

/// Exactly one of these keys is there. (Without any key there is nothing to choose, and nothing fits.)
fn one_of(keys: &[&str]) -> Value {
    match keys.is_empty() {
        true => json!([false]),
        false => keys.iter().map(|key| json!({ "required": [key] })).collect(),
    }
}

fn object(properties: Map<String, Value>, required: &[&str], types: &[&str]) -> Map<String, Value> {
    let types = if let [one] = types { json!(one) } else { json!(types) };
    let mut object = Map::new();
    object.insert("type".into(), types);
    object.insert("properties".into(), Value::Object(properties));
    // Keys of the user's own, for anchors.
    object.insert("patternProperties".into(), json!({ "^x-": true }));
    object.insert("additionalProperties".into(), json!(false));
    if !required.is_empty() {
        object.insert("required".into(), json!(required));
    }
    object
}

fn property<T: JsonSchema>(
    properties: &mut Map<String, Value>,
    generator: &mut SchemaGenerator,
    key: &str,
    description: &str,
) {
    let schema = generator.subschema_for::<Option<T>>();
    properties.insert(key.into(), described(schema, description));
}

/// The properties of a struct, to be put among others.
fn properties_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Map<String, Value> {
    match T::json_schema(generator).remove("properties") {
        Some(Value::Object(properties)) => properties,
        _ => Map::new(),
    }
}

fn described(schema: Schema, description: &str) -> Value {
    match schema.to_value() {
        Value::Object(mut schema) => {
            schema.insert("description".into(), json!(description));
            Value::Object(schema)
        }
        other => other,
    }
}
