//! The registry of protocols for people and as JSON: what each proves, can do and takes.

use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::text::{Cell, Screen, Table, Tone, wrap};
use crate::protocol::Protocol;

/// Deepest nesting of options that is listed; deeper ones are in `bongsu schema`.
const DEPTH_MAX: usize = 4;

/// Longest chain of references followed for one option; a schema that refers to itself ends there.
const REFERENCES_MAX: usize = 8;

/// Width of paragraphs where there is no terminal to ask.
const PIPE_CELLS: usize = 100;

/// One option of a protocol.
#[derive(Clone, Debug, PartialEq)]
pub struct OptionRow {
    /// Its key; below a mapping, with dots.
    pub name: String,
    /// What may stand there, in words.
    pub kind: String,
    /// Whether it must be given.
    pub required: bool,
    /// What holds when it is not.
    pub default: Option<Value>,
    /// What it means, in one paragraph.
    pub description: String,
}

/// What it can do, with the schema of its options for that.
fn abilities(p: &Protocol) -> Vec<(&'static str, Option<Vec<OptionRow>>)> {
    [
        ("probe", p.probe.is_some(), p.probe_schema),
        ("send", p.send.is_some(), p.send_schema),
        ("receive", p.receive.is_some(), p.receive_schema),
    ]
    .into_iter()
    .filter(|(_, can, _)| *can)
    .map(|(name, _, schema)| (name, schema.map(options)))
    .collect()
}

/// All protocols, one line each.
pub fn list(all: &[&Protocol], screen: Screen) -> String {
    let mut table = Table::new(&["PROTOCOL", "CAN", "URLS", "SUMMARY"]);
    for p in all {
        let can: Vec<&str> = abilities(p).iter().map(|a| a.0).collect();
        let urls: Vec<String> = p.schemes.iter().map(|s| format!("{s}:")).collect();
        table.row(vec![
            Cell::new(p.name).tone(Tone::Strong),
            can.join(", ").into(),
            urls.join(" ").into(),
            p.summary.into(),
        ]);
    }
    table.render(screen)
}

/// One protocol in full.
pub fn one(p: &Protocol, screen: Screen) -> String {
    let mut text = format!("{}  {}\n\n", screen.tone(Tone::Strong, p.name), p.summary);
    for line in wrap(p.proves, Some(screen.width.unwrap_or(PIPE_CELLS))) {
        text.push_str(&line);
        text.push('\n');
    }
    if !p.schemes.is_empty() {
        let urls: Vec<String> = p.schemes.iter().map(|s| format!("{s}://…")).collect();
        text.push_str(&format!("\nbongsu probe speaks it to {}\n", urls.join(", ")));
    }
    let mut before: Option<Vec<OptionRow>> = None;
    for (ability, rows) in abilities(p) {
        text.push_str(&format!("\n{}\n", screen.tone(Tone::Strong, &format!("options to {ability}"))));
        match rows {
            None => text.push_str("  none\n"),
            Some(rows) if before.as_ref() == Some(&rows) => text.push_str("  the same\n"),
            Some(rows) => {
                text.push_str(&block(&rows, screen));
                before = Some(rows);
            }
        }
    }
    text.push_str(&format!("\n{}\n", screen.tone(Tone::Strong, "example")));
    for line in p.example.trim_end().lines() {
        text.push_str(&format!("  {line}\n"));
    }
    text
}

/// Each option in a line, its meaning below: tables of types and meanings fit no terminal.
fn block(rows: &[OptionRow], screen: Screen) -> String {
    let mut text = String::new();
    for row in rows {
        let default = match (&row.default, row.required) {
            (_, true) => ", required".into(),
            (None | Some(Value::Null), false) => String::new(),
            (Some(Value::String(text)), false) => format!(", default {text}"),
            (Some(Value::Array(all)), false) if all.is_empty() => String::new(),
            (Some(Value::Object(all)), false) if all.is_empty() => String::new(),
            (Some(value), false) => format!(", default {value}"),
        };
        text.push_str(&format!("  {}  {}{default}\n", screen.tone(Tone::Strong, &row.name), row.kind));
        for line in wrap(&row.description, Some(screen.width.unwrap_or(PIPE_CELLS).saturating_sub(6))) {
            text.push_str(&format!("      {line}\n"));
        }
    }
    text
}

/// One protocol as JSON.
pub fn one_json(p: &Protocol) -> Value {
    let mut can = Map::new();
    for (ability, rows) in abilities(p) {
        let rows: Vec<Value> = rows
            .unwrap_or_default()
            .iter()
            .map(|row| {
                let mut value = json!({
                    "name": row.name, "type": row.kind, "required": row.required, "description": row.description,
                });
                if let Some(default) = &row.default {
                    value["default"] = default.clone();
                }
                value
            })
            .collect();
        can.insert(ability.into(), json!({ "options": rows }));
    }
    json!({
        "name": p.name, "schemes": p.schemes, "summary": p.summary, "proves": p.proves, "abilities": can,
        "example": p.example,
    })
}

/// The options of a schema, flat, in the order they are declared.
pub fn options(schema: fn(&mut SchemaGenerator) -> Schema) -> Vec<OptionRow> {
    let mut generator = SchemaGenerator::default();
    let schema = schema(&mut generator).to_value();
    let definitions = Value::Object(generator.take_definitions(true));
    let mut rows = Vec::new();
    Walk { definitions: &definitions }.mapping(&schema, "", 0, &mut rows);
    rows
}

struct Walk<'a> {
    definitions: &'a Value,
}

impl<'a> Walk<'a> {
    /// The schema itself, or what it refers to; for an optional value, what it is when given.
    fn resolve(&self, schema: &'a Value) -> &'a Value {
        let mut schema = schema;
        for _ in 0..REFERENCES_MAX {
            let next = match (schema.get("$ref").and_then(Value::as_str), given(schema)) {
                (Some(reference), _) => reference.rsplit('/').next().and_then(|name| self.definitions.get(name)),
                (None, Some(only)) => Some(only),
                (None, None) => return schema,
            };
            match next {
                Some(next) => schema = next,
                None => return schema,
            }
        }
        schema
    }

    fn mapping(&self, schema: &'a Value, prefix: &str, depth: usize, rows: &mut Vec<OptionRow>) {
        let schema = self.resolve(schema);
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for part in schema["allOf"].as_array().into_iter().flatten() {
            self.mapping(part, prefix, depth, rows);
        }
        for (key, value) in schema["properties"].as_object().into_iter().flatten() {
            let target = self.resolve(value);
            let name = format!("{prefix}{key}");
            let text = |v: &Value| v["description"].as_str().map(one_paragraph);
            rows.push(OptionRow {
                kind: self.kind(value, 0),
                required: required.contains(&key.as_str()),
                default: value.get("default").cloned(),
                description: text(value).or_else(|| text(target)).unwrap_or_default(),
                name: name.clone(),
            });
            if depth + 1 < DEPTH_MAX {
                self.below(target, &name, depth + 1, rows);
            }
        }
    }

    /// The options below an option: of a mapping, of each item of a list, of each value of a mapping by name.
    fn below(&self, schema: &'a Value, name: &str, depth: usize, rows: &mut Vec<OptionRow>) {
        let parts = [("", Some(schema)), ("[]", schema.get("items")), (".*", schema.get("additionalProperties"))];
        for (mark, part) in parts {
            let Some(part) = part.map(|p| self.resolve(p)) else { continue };
            if part.get("properties").is_some() {
                self.mapping(part, &format!("{name}{mark}."), depth, rows);
            }
        }
        // Of a choice, all that any of them takes.
        for choice in ["oneOf", "anyOf"].iter().filter_map(|key| schema[*key].as_array()).flatten() {
            let choice = self.resolve(choice);
            let mut found = Vec::new();
            if depth < DEPTH_MAX {
                self.below(choice, name, depth + 1, &mut found);
            }
            let new: Vec<OptionRow> =
                found.into_iter().filter(|row| !rows.iter().any(|known| known.name == row.name)).collect();
            rows.extend(new);
        }
    }

    /// What may stand there, in words.
    fn kind(&self, schema: &'a Value, depth: usize) -> String {
        if depth > DEPTH_MAX {
            return "…".into();
        }
        let named = given(schema).unwrap_or(schema);
        match named.get("$ref").and_then(Value::as_str).and_then(|r| r.rsplit('/').next()) {
            Some("TimeSpan") => return "time span".into(),
            Some("Ratio") => return "share".into(),
            Some("Secret") => return "secret".into(),
            Some("Name") => return "name".into(),
            _ => {}
        }
        let schema = self.resolve(schema);
        if let Some(words) = schema["enum"].as_array() {
            return join(words.iter().map(word));
        }
        if let Some(constant) = schema.get("const") {
            return word(constant);
        }
        for key in ["oneOf", "anyOf"] {
            if let Some(choices) = schema[key].as_array() {
                return join(choices.iter().map(|c| self.kind(c, depth + 1)));
            }
        }
        match &schema["type"] {
            Value::Array(types) => join(types.iter().filter(|t| *t != "null").map(|t| self.typed(t, schema, depth))),
            one => self.typed(one, schema, depth),
        }
    }

    fn typed(&self, kind: &Value, schema: &'a Value, depth: usize) -> String {
        match kind.as_str().unwrap_or_default() {
            "string" => "text".into(),
            "boolean" => "true | false".into(),
            "array" => match schema.get("items") {
                Some(items) => format!("list of {}", self.kind(items, depth + 1)),
                None => "list".into(),
            },
            "object" => match schema.get("additionalProperties").filter(|a| a.is_object()) {
                Some(values) => format!("mapping to {}", self.kind(values, depth + 1)),
                None => "mapping".into(),
            },
            "" => "anything".into(),
            other => other.into(),
        }
    }
}

/// Of `anyOf: [X, null]`, the X.
fn given(schema: &Value) -> Option<&Value> {
    let choices = schema.get("anyOf")?.as_array()?;
    let null = json!({ "type": "null" });
    match choices.as_slice() {
        [only, other] | [other, only] if *other == null => Some(only),
        _ => None,
    }
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn join(words: impl Iterator<Item = String>) -> String {
    let mut all: Vec<String> = Vec::new();
    for word in words {
        if !all.contains(&word) {
            all.push(word);
        }
    }
    all.join(" | ")
}

fn one_paragraph(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::{
        protocol::PROTOCOLS,
        value::{Secret, TimeSpan},
    };

    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        Fresh,
        /// Kept open.
        Kept,
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Expect {
        /// Any of these.
        #[serde(default)]
        status: Vec<u16>,
    }

    /// A block that holds itself.
    #[derive(Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "only its schema is read")]
    struct Raw {
        /// Where to,
        /// in a URL.
        url: String,
        password: Option<Secret>,
        /// How long.
        #[serde(default)]
        wait: TimeSpan,
        #[serde(default = "fresh")]
        mode: Mode,
        expect: Option<Expect>,
        #[serde(default)]
        headers: BTreeMap<String, String>,
        #[serde(default)]
        steps: Vec<Expect>,
        again: Option<Box<Raw>>,
    }

    fn fresh() -> Mode {
        Mode::Fresh
    }

    #[test]
    fn options_are_read_from_the_schema() {
        let rows = options(SchemaGenerator::subschema_for::<Raw>);
        let told: Vec<String> = rows
            .iter()
            .take(10)
            .map(|r| format!("{} [{}] {}", r.name, r.kind, if r.required { "required" } else { "" }))
            .collect();
        assert_eq!(
            told,
            [
                "url [text] required",
                "password [secret] ",
                "wait [time span] ",
                "mode [fresh | kept] ",
                "expect [mapping] ",
                "expect.status [list of integer] ",
                "headers [mapping to text] ",
                "steps [list of mapping] ",
                "steps[].status [list of integer] ",
                "again [mapping] ",
            ]
        );
        assert_eq!(rows[0].description, "Where to, in a URL.");
        assert_eq!(rows[3].default, Some(json!("fresh")));
        let deepest = rows.iter().map(|r| r.name.matches("again.").count()).max();
        assert_eq!(deepest, Some(DEPTH_MAX - 1), "a schema that holds itself ends");
    }

    #[test]
    fn every_protocol_is_shown_with_its_options_and_example() {
        for p in PROTOCOLS {
            let text = one(p, Screen { width: Some(100), colour: false });
            assert!(text.contains(p.summary) && text.contains("example"), "{text}");
            let json = one_json(p);
            for (ability, rows) in abilities(p) {
                let rows = rows.unwrap_or_default();
                assert_eq!(json["abilities"][ability]["options"].as_array().map(Vec::len), Some(rows.len()));
                for row in rows {
                    assert!(text.contains(&row.name), "{} of {} is not shown", row.name, p.name);
                    assert!(!row.kind.is_empty() && row.kind != "anything", "{} of {}: what is it?", row.name, p.name);
                }
            }
        }
        let names: Vec<&str> = PROTOCOLS.iter().map(|p| p.name).collect();
        let text = list(PROTOCOLS, Screen::default());
        assert!(names.iter().all(|n| text.contains(n)), "{text}");
    }
}
