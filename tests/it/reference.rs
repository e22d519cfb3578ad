//! docs/configuration.md: every key there is, made from the JSON Schema of both kinds of files and from the examples
//! of the registries. A key added, renamed or described anew makes the file stale, and this test says how to renew it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
};

use bongsu::{
    check::KINDS,
    config::{Document, schema},
    notify::CHANNEL_KINDS,
    protocol::PROTOCOLS,
};
use serde_json::{Map, Value, json};

use crate::harness::anchor;

/// The file.
const FILE: &str = "docs/configuration.md";

const INTRODUCTION: &str = "\
# Configuration: every key

Made from the JSON Schema that `bongsu schema` and `bongsu schema checks` print; a test keeps it true. For a start read
the README, then [`config.yaml`](../config.yaml), which is commented. `bongsu validate` tells every mistake with its
place; `bongsu protocols NAME` tells what a protocol's success proves.

- Required keys are in **bold**. A key left out, or left empty, has its default.
- Unknown keys are refused, but for keys at the top of a file that begin with `x-`: they are yours, for YAML anchors.
- `${env:NAME}`, `${file:/path}` and `${credential:name}` (systemd credentials) stand for secrets, within any text.
- Secrets are masked wherever something is told: those above, what stands under keys such as `password`, passwords in
  URLs, and in URLs of channels the parts that look like tokens (20 characters or more, of several kinds).
- `${account:KEY}` stands for a value of the account whose turn it is, in a check with [several](#accounts).
- Relative paths are relative to the file they stand in.
- A setting of a check is its own, else that of its file's `defaults`, else that of `config.yaml`'s, else built in.

";

/// How a check asks with several accounts.
const ACCOUNTS: &str = "\
## Accounts

A check of any kind can ask with several accounts, one after the other: those of one mailbox server's stores, of one
chat's shards, of the tariffs of one gateway.

```yaml
- name: login
  accounts:
    - { username: probe01, password: \"${credential:probe01}\" }
    - { username: probe02, password: \"${credential:probe02}\" }
  http: { url: \"https://mail.example.com/\", username: \"${account:username}\", password: \"${account:password}\" }
- name: login-by-number
  accounts: { range: \"01..12\", username: \"probe{n}@example.com\", password: \"${file:/etc/bongsu/probe.pw}\" }
  http: { url: \"https://mail.example.com/\", username: \"${account:username}\", password: \"${account:password}\" }
  degraded: { accounts: 25% }
```

- At most 100 accounts, all with the same keys. The first key that is no secret is what an account is called.
- `${account:KEY}` has a value within any text of what is asked (`http` and the like), and nowhere else.
- Each attempt is made with one account. One that fails is asked again at once; one that is known to fail, once a round,
  which takes as many intervals as there are accounts.
- An account is failing from its second failure in a row until its second success in a row. When the share of failing
  accounts reaches `degraded.accounts` (1%, so any one of up to a hundred), the check is degraded: *1 of 12 accounts
  failing: probe07: 535 5.7.8 …*. While another account works, further failures of that one are neither failures of the
  check nor losses.
- When all fail, failures count as always: after `outage.failures` of them the check is down. With several accounts it
  takes failures of at least two.

";

/// The reference while it is being written.
struct Reference {
    /// Definitions of both schemas.
    definitions: Map<String, Value>,
    /// Section titles of definitions described already, by definition.
    described: BTreeMap<String, String>,
    /// Names and descriptions of the kinds of values that were used.
    kinds: BTreeMap<String, String>,
    /// Anchors given so far, which must differ.
    anchors: BTreeSet<String>,
    /// Summaries and examples of protocols, kinds of checks and channels, by the section they belong to.
    registered: BTreeMap<String, (&'static str, &'static str)>,
    text: String,
}

/// An object to be described in a section of its own.
struct Section {
    title: String,
    schema: Value,
}

/// `TimeSpan` as people say it: `time span`.
fn spoken(definition: &str) -> String {
    let mut words = String::new();
    for c in definition.chars() {
        if c.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(c.to_lowercase());
    }
    words
}

/// In a cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn description(schema: &Value) -> &str {
    schema["description"].as_str().unwrap_or_default()
}

/// A constant as one writes it in YAML.
fn constant(value: &Value) -> String {
    format!("`{}`", value.as_str().map_or(value.to_string(), str::to_owned))
}

/// The alternatives of a schema without `null`, which means a key left empty.
fn alternatives(schema: &Value) -> Option<Vec<&Value>> {
    let all = schema["anyOf"].as_array().or(schema["oneOf"].as_array())?;
    Some(all.iter().filter(|one| one["type"] != "null").collect())
}

/// Whether it is a mapping with keys of its own.
fn has_keys(schema: &Value) -> bool {
    let keyed = |schema: &Value| schema["properties"].is_object() && schema["required"] != json!([]);
    keyed(schema) || alternatives(schema).is_some_and(|all| !all.is_empty() && all.into_iter().all(keyed))
}

impl Reference {
    fn definition(&self, reference: &Value) -> Option<(String, Value)> {
        let name = reference["$ref"].as_str()?.strip_prefix("#/$defs/")?;
        Some((name.to_owned(), self.definitions.get(name).expect("a schema refers to what it defines").clone()))
    }

    /// What kind of value a key at `path` takes; mappings met on the way are put on `sections`.
    fn kind(&mut self, schema: &Value, path: &str, sections: &mut Vec<Section>) -> String {
        if let Some((name, target)) = self.definition(schema) {
            return self.kind_of_definition(&name, &target, path, sections);
        }
        if has_keys(schema) {
            sections.push(Section { title: path.to_owned(), schema: schema.clone() });
            return format!("[mapping](#{})", anchor(path));
        }
        if let Some(all) = alternatives(schema) {
            let mut kinds: Vec<String> = all.into_iter().map(|one| self.kind(one, path, sections)).collect();
            kinds.dedup();
            return match kinds.as_slice() {
                // One or several.
                [one, many] if *many == format!("list of {one}") => format!("{one}, or a list"),
                // Constants are one set, whatever the number of their kinds.
                _ if kinds.iter().all(|kind| kind.starts_with('`')) => kinds.join(", "),
                _ => kinds.join(" or "),
            };
        }
        if let Some(all) = schema["enum"].as_array() {
            // The same constant as a text and as a number is one to YAML's writer.
            let mut all: Vec<String> = all.iter().filter(|one| !one.is_boolean()).map(constant).collect();
            all.sort();
            all.dedup();
            return all.join(", ");
        }
        if !schema["const"].is_null() {
            return constant(&schema["const"]);
        }
        self.plain_kind(schema, path, sections)
    }

    fn kind_of_definition(&mut self, name: &str, target: &Value, path: &str, sections: &mut Vec<Section>) -> String {
        if has_keys(target) {
            let title = self.described.entry(name.to_owned()).or_insert_with(|| {
                sections.push(Section { title: path.to_owned(), schema: target.clone() });
                path.to_owned()
            });
            return format!("[mapping](#{})", anchor(title));
        }
        let constants = alternatives(target).is_some_and(|all| all.iter().all(|one| !one["const"].is_null()));
        if constants || target["enum"].is_array() {
            return self.kind(target, path, sections);
        }
        let mut told = description(target).to_owned();
        for one in alternatives(target).unwrap_or_default() {
            if self.definition(one).is_some_and(|(_, target)| has_keys(&target)) {
                let _ = write!(told, ": {}", self.kind(one, path, sections));
            }
        }
        self.kinds.insert(spoken(name), told);
        format!("[{}](#kinds-of-values)", spoken(name))
    }

    fn plain_kind(&mut self, schema: &Value, path: &str, sections: &mut Vec<Section>) -> String {
        let types: Vec<&str> = match &schema["type"] {
            Value::Array(all) => all.iter().filter_map(Value::as_str).filter(|t| *t != "null").collect(),
            one => one.as_str().into_iter().collect(),
        };
        match types.as_slice() {
            ["string"] => "text".into(),
            ["integer"] => "whole number".into(),
            ["number"] => "number".into(),
            ["boolean"] => "`true`, `false`".into(),
            ["string", "number", "boolean"] => "text".into(),
            ["array"] => format!("list of {}", self.kind(&schema["items"], &format!("{path}[]"), sections)),
            ["object"] => {
                let patterns = schema["patternProperties"].as_object().and_then(|all| all.values().next());
                let value = patterns.unwrap_or(&schema["additionalProperties"]);
                format!("{} by name", self.kind(value, &format!("{path}.NAME"), sections))
            }
            _ => "any value".into(),
        }
    }

    /// The rows of a mapping's table.
    fn rows(&mut self, section: &Section, sections: &mut Vec<Section>) {
        let alternatives = alternatives(&section.schema).unwrap_or_default();
        let forms: Vec<Value> = match section.schema["properties"].is_object() {
            true => vec![section.schema.clone()],
            false => alternatives.into_iter().cloned().collect(),
        };
        let is_choice = forms.len() > 1;
        for form in forms {
            let required: Vec<&str> =
                form["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let Some(properties) = form["properties"].as_object() else { continue };
            let inherited = self.inherited(&section.title, properties);
            for (key, property) in properties.iter().filter(|(key, _)| !inherited.contains(*key)) {
                let kind = self.kind(property, &below(&section.title, key), sections);
                let mut told = if is_choice { description(&form) } else { description(property) }.to_owned();
                if told.is_empty() {
                    told = self
                        .definition(property)
                        .map_or_else(String::new, |(_, target)| description(&target).to_owned());
                }
                told = sentence(&told) + &self.values(property);
                told.push_str(&default(property, &told));
                let key = if required.contains(&key.as_str()) && !is_choice {
                    format!("**`{key}`**")
                } else {
                    format!("`{key}`")
                };
                let _ = writeln!(self.text, "| {key} | {kind} | {} |", cell(&told));
            }
            if !inherited.is_empty() {
                let keys: Vec<String> = inherited.iter().map(|key| format!("`{key}`")).collect();
                let _ = writeln!(self.text, "| {} | | As in [`defaults`](#defaults). |", keys.join(", "));
            }
        }
    }

    /// Keys of a check that are those of `defaults`, which are described there.
    fn inherited(&self, title: &str, properties: &Map<String, Value>) -> Vec<String> {
        let settings = &self.definitions["RawSettings"]["properties"];
        let settings = settings.as_object().expect("settings have keys");
        if title == "defaults" || !settings.iter().all(|(key, schema)| properties.get(key) == Some(schema)) {
            return Vec::new();
        }
        settings.keys().cloned().collect()
    }

    /// What each of a key's constants means, where that is said.
    fn values(&self, property: &Value) -> String {
        let target = self.definition(property).map_or_else(|| property.clone(), |(_, target)| target);
        let all = alternatives(&target).unwrap_or_default();
        let constants = all.iter().filter(|one| !one["const"].is_null() && !description(one).is_empty());
        constants.map(|one| format!(" {}: {}", constant(&one["const"]), description(one))).collect()
    }

    /// A mapping and, after it, those within it.
    fn describe(&mut self, section: &Section) {
        let anchor = anchor(&section.title);
        assert!(self.anchors.insert(anchor.clone()), "two sections have the anchor {anchor}");
        let level = if section.title.contains(['.', '[']) { "####" } else { "###" };
        let _ = write!(self.text, "{level} `{}`\n\n", section.title);
        let own = self.registered.get(&section.title).copied();
        let told = own.map_or(description(&section.schema), |(summary, _)| summary);
        if !told.is_empty() {
            let _ = write!(self.text, "{}\n\n", sentence(told));
        }
        let choice: Vec<String> = section.schema["oneOf"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|one| one.get("required").filter(|_| one.get("properties").is_none()))
            .filter_map(|keys| keys[0].as_str().map(|key| format!("`{key}`")))
            .collect();
        if choice.len() > 1 {
            let _ = write!(self.text, "Exactly one of {}.\n\n", choice.join(", "));
        }
        if let Some((_, example)) = own {
            let _ = write!(self.text, "```yaml\n{}\n```\n\n", example.trim_end());
        }
        self.text.push_str("| key | value | meaning |\n|---|---|---|\n");
        let mut within = Vec::new();
        self.rows(section, &mut within);
        self.text.push('\n');
        for section in within {
            self.describe(&section);
        }
    }

    /// The keys at the top of a file.
    fn file(&mut self, heading: &str, words: &str, document: &Value) {
        let _ = write!(self.text, "## {heading}\n\n{words}\n\n| key | value | meaning |\n|---|---|---|\n");
        let mut sections = Vec::new();
        self.rows(&Section { title: String::new(), schema: document.clone() }, &mut sections);
        self.text.push('\n');
        for section in sections {
            self.describe(&section);
        }
    }
}

fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// With a capital letter and a full stop.
fn sentence(text: &str) -> String {
    let mut chars = text.trim_end_matches('.').chars();
    let head = chars.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    if head.is_empty() { head } else { format!("{head}{}.", chars.as_str()) }
}

/// A default that the description does not tell.
fn default(property: &Value, told: &str) -> String {
    match &property["default"] {
        Value::Null => String::new(),
        Value::Array(all) if all.is_empty() => String::new(),
        Value::Object(all) if all.is_empty() => String::new(),
        _ if told.contains("default") => String::new(),
        other => format!(" Default: {}.", constant(other)),
    }
}

fn reference() -> String {
    let (config, checks) = (schema(Document::Config), schema(Document::Checks));
    let mut definitions = Map::new();
    for (name, definition) in [&config, &checks].into_iter().filter_map(|s| s["$defs"].as_object()).flatten() {
        let before = definitions.insert(name.clone(), definition.clone());
        assert!(before.is_none_or(|before| before == *definition), "{name} means two things");
    }
    let probes = PROTOCOLS.iter().filter(|p| p.probe.is_some()).map(|p| (p.name, p.summary, p.example));
    let kinds = KINDS.iter().map(|kind| (kind.name, kind.summary, kind.example));
    let checks_of =
        probes.chain(kinds).map(|(name, summary, example)| (format!("checks[].{name}"), (summary, example)));
    let channels =
        CHANNEL_KINDS.iter().map(|kind| (format!("channels.NAME.{}", kind.name), (kind.summary, kind.example)));
    let mut reference = Reference {
        definitions,
        described: BTreeMap::new(),
        kinds: BTreeMap::new(),
        anchors: BTreeSet::new(),
        registered: checks_of.chain(channels).collect(),
        text: INTRODUCTION.to_owned(),
    };
    reference.file("config.yaml", "All of it can be left out.", &config);
    reference.file("Check files", "Every `*.yaml` and `*.yml` below `checks/`, in any depth.", &checks);
    reference.text.push_str(ACCOUNTS);
    reference.text.push_str("## Kinds of values\n\n| value | meaning |\n|---|---|\n");
    for (name, told) in &reference.kinds {
        let _ = writeln!(reference.text, "| {name} | {} |", cell(told));
    }
    reference.text
}

#[test]
fn the_configuration_reference_is_true() {
    let made = reference();
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(FILE, &made).expect("own repository");
    }
    let shipped = fs::read_to_string(FILE).unwrap_or_default();
    let differs = made.lines().zip(shipped.lines()).find(|(made, shipped)| made != shipped);
    assert!(
        made == shipped,
        "{FILE} is stale, first at {differs:?}; UPDATE_EXPECTED=1 cargo test --test it reference writes it anew"
    );
}

#[test]
fn every_key_of_the_schema_is_in_the_reference() {
    let made = reference();
    let mut keys = BTreeSet::new();
    for document in [Document::Config, Document::Checks] {
        collect(&schema(document), &mut keys);
    }
    assert!(keys.len() > 80, "only {} keys were found", keys.len());
    let missing: Vec<&String> = keys.iter().filter(|key| !made.contains(&format!("`{key}`"))).collect();
    assert_eq!(missing, Vec::<&String>::new());
}

#[test]
fn the_example_with_accounts_loads() {
    let example = ACCOUNTS.split("```").nth(1).expect("an example").trim_start_matches("yaml\n");
    let dir = crate::harness::scratch();
    crate::harness::write(dir.path(), "config.yaml", "");
    crate::harness::write(dir.path(), "checks/a.yaml", &format!("service: mail\nchecks:\n{example}"));
    let config = bongsu::config::load(dir.path(), &crate::documents::Generous).unwrap_or_else(|m| panic!("{m}"));
    let accounts: Vec<usize> = config.checks.iter().map(|check| check.ask.each().len()).collect();
    assert_eq!(accounts, [2, 12]);
}

/// Names of all properties anywhere in a schema.
fn collect(schema: &Value, keys: &mut BTreeSet<String>) {
    match schema {
        Value::Object(all) => {
            keys.extend(all.get("properties").and_then(Value::as_object).into_iter().flat_map(|p| p.keys().cloned()));
            all.values().for_each(|value| collect(value, keys));
        }
        Value::Array(all) => all.iter().for_each(|value| collect(value, keys)),
        _ => {}
    }
}
