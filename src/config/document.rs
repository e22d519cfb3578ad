//! One YAML file: its text, and its value with aliases and merge keys applied.
//!
//! Parsing is bounded in bytes and in values, so that neither a huge file nor a few lines of nested aliases can
//! exhaust the memory. Of a key written twice the first counts, and reading goes on.

use std::{
    cell::Cell,
    fmt,
    path::{Path as FilePath, PathBuf},
};

use serde::{
    Deserialize,
    de::{self, DeserializeSeed, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor},
};
use serde_yaml::{Mapping, Value};

use super::{
    excerpt::{self, Reach},
    mistakes::Mistake,
    notes::NOTES_MAX,
    positions::{Marks, Positions, lines_of, nested_too_deeply},
    secrets::{Templates, io_text},
};
use crate::{
    files,
    options::{At, Path, Problem, Segment, key_text},
};

/// Longest file. A thousand checks take about 200 KiB.
pub(super) const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most values one file may hold after its aliases are followed: four times what a full file of short values holds
/// would still fit the memory of a small machine.
const VALUES_MAX: usize = 1_000_000;

/// From how many brackets that seem open at once the nesting is looked at before anything is parsed: many more would
/// cost the parser time by their square before it notices. Values nest far less.
const BRACKETS_SUSPECT: usize = 200;

/// A file that was read.
pub(super) struct Document {
    /// Its name, as shown.
    pub file: PathBuf,
    /// Where relative names in it start.
    pub directory: PathBuf,
    /// Its text.
    pub text: String,
    /// Its value as written, where `value` may differ from it.
    raw: Option<Value>,
    /// Its value with secrets in place of references.
    pub value: Value,
    /// Texts with references, in pieces.
    pub templates: Templates,
    /// Whether some key is written twice.
    pub duplicates: bool,
    /// Mistakes in tags and merge keys.
    pub problems: Vec<Problem>,
}

impl Document {
    /// Reads and parses a file; the mistake is complete, with its place.
    pub fn read(file: &FilePath) -> Result<Self, Box<Mistake>> {
        let shown = file.display().to_string();
        let failed = |e: std::io::Error| Mistake::of_file(&*shown, format!("cannot be read: {}", io_text(&e)), None);
        let bytes = files::read(file, FILE_BYTES_MAX).map_err(failed)?;
        let text = String::from_utf8(bytes).map_err(|error| not_utf8(&shown, &error))?;
        let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
        let directory = file.parent().unwrap_or(FilePath::new("")).to_owned();
        let parsed = parse(&text).map_err(|error| error.mistake(&shown, &text))?;
        Ok(Self {
            file: file.into(),
            directory,
            raw: may_refer(&parsed.value).then(|| parsed.value.clone()),
            value: parsed.value,
            templates: Templates::new(),
            duplicates: parsed.duplicates,
            problems: parsed.problems,
            text,
        })
    }

    /// Its value, as written.
    pub fn raw(&self) -> &Value {
        self.raw.as_ref().unwrap_or(&self.value)
    }
}

/// Whether some text in it may hold a reference.
fn may_refer(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('$'),
        Value::Sequence(items) => items.iter().any(may_refer),
        Value::Mapping(entries) => entries.values().any(may_refer),
        Value::Tagged(tagged) => may_refer(&tagged.value),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn not_utf8(shown: &str, error: &std::string::FromUtf8Error) -> Mistake {
    let at = error.utf8_error().valid_up_to();
    let before = String::from_utf8_lossy(&error.as_bytes()[..at]);
    let line = lines_of(&before).len();
    let column = lines_of(&before).last().map_or(0, |l| l.chars().count()) + 1;
    let all = String::from_utf8_lossy(error.as_bytes());
    let line_text = excerpt::shown(&lines_of(&all), line - 1, Reach::Line);
    let mut mistake = Mistake::at(shown, line, (column, 1), &line_text, &Marks::default());
    mistake.text = format!("the byte 0x{:02x} is not UTF-8", error.as_bytes()[at]);
    mistake.help = Some("save the file in UTF-8".into());
    mistake
}

/// A text that is no YAML.
#[derive(Debug)]
pub(super) struct Broken {
    text: String,
    place: Option<(usize, usize)>,
    hint: Option<String>,
}

impl Broken {
    fn mistake(self, shown: &str, text: &str) -> Box<Mistake> {
        let Some((line, column)) = self.place else {
            return Box::new(Mistake::of_file(shown, self.text, self.hint));
        };
        let lines = lines_of(text);
        // An end of input is reported beyond the last line; the last line with text shows more.
        let (line, column) = match lines.get(line - 1) {
            Some(l) if !l.trim().is_empty() => (line, column),
            _ => {
                let last = lines.iter().take(line).rposition(|l| !l.trim().is_empty()).unwrap_or(0);
                (last + 1, lines.get(last).map_or(0, |l| l.trim_end().chars().count()) + 1)
            }
        };
        let line_text = lines.get(line - 1).copied().unwrap_or_default();
        let alias = line_text.chars().skip(column - 1).take_while(|c| *c == '*' || c.is_alphanumeric()).count();
        let length = if self.text.contains("unknown anchor") { alias } else { 1 };
        let told = excerpt::shown(&lines, line - 1, Reach::Line);
        let mut mistake = Mistake::at(shown, line, (column, length), &told, &Marks::default());
        mistake.text = self.text;
        mistake.help = self.hint.or_else(|| syntax_hint(&lines, line, column, &mistake.text));
        Box::new(mistake)
    }
}

/// What usually stands behind a syntax error.
fn syntax_hint(lines: &[&str], line: usize, column: usize, text: &str) -> Option<String> {
    let line_text = lines.get(line - 1)?;
    if text.contains("escape character") {
        return Some("a backslash in double quotes begins an escape; double it, or use single quotes".into());
    }
    let indent = &line_text[..line_text.len() - line_text.trim_start().len()];
    let here = line_text.chars().nth(column - 1);
    if indent.contains('\t') || here == Some('\t') {
        return Some("YAML is indented with spaces; replace the tab".into());
    }
    if text.contains("unknown anchor") {
        return Some("an anchor `&name` must stand above its alias `*name`, in the same file".into());
    }
    if text.contains("mapping values are not allowed") {
        return Some("put a text that holds `: ` in quotes, or check the indentation".into());
    }
    if matches!(here, Some('@' | '`' | '%')) {
        return Some(format!("put a text that begins with `{}` in quotes", here.unwrap_or_default()));
    }
    if text.contains("',' or '") && line_text.contains("${") {
        return Some("put a text that holds `${…}` in quotes".into());
    }
    if text.contains("',' or '}'") || text.contains("',' or ']'") {
        return Some("a `{` or `[` above is not closed, or a comma is missing".into());
    }
    if text.contains("unexpected end of stream") || text.contains("quoted scalar") {
        return Some("a quote above is not closed".into());
    }
    if text.contains("expected key") || text.contains("block mapping") || text.contains("'-' indicator") {
        return Some("check the indentation: keys of one mapping stand in the same column".into());
    }
    None
}

/// A text's value.
#[derive(Debug)]
pub(super) struct Parsed {
    /// The value.
    pub value: Value,
    /// Whether some key is written twice.
    pub duplicates: bool,
    /// Mistakes in tags and merge keys.
    pub problems: Vec<Problem>,
}

/// Parses a text that holds at most one document.
pub(super) fn parse(text: &str) -> Result<Parsed, Broken> {
    if let Some(place) = has_many_brackets(text).then(|| nested_too_deeply(text)).flatten() {
        return Err(too_deep(Some(place)));
    }
    let state = State::default();
    let mut documents = serde_yaml::Deserializer::from_str(text);
    let mut value = match documents.next() {
        Some(document) => Build(&state).deserialize(document).map_err(|error| broken(&error, &state))?,
        None => Value::Null,
    };
    // A broken second document is best told as a second document, too.
    if documents.next().is_some() {
        let place = Positions::of(text).more_documents.first().map(|spot| (spot.line, spot.column));
        return Err(Broken {
            text: "a second document begins here; a file holds one".into(),
            place,
            hint: Some("remove the `---`, or split the file".into()),
        });
    }
    let mut problems = Vec::new();
    if state.special.get() {
        apply(&mut value, &mut Vec::new(), &mut problems);
    }
    Ok(Parsed { value, duplicates: state.duplicates.get(), problems })
}

fn too_deep(place: Option<(usize, usize)>) -> Broken {
    let hint = Some("an alias within its own anchor, or far too many brackets".into());
    Broken { text: "this is nested too deeply".into(), place, hint }
}

/// Counts also those within quotes, which takes no parser.
fn has_many_brackets(text: &str) -> bool {
    let mut open = 0_usize;
    text.bytes().any(|byte| {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        open > BRACKETS_SUSPECT
    })
}

fn broken(error: &serde_yaml::Error, state: &State) -> Broken {
    let place = error.location().map(|at| (at.line().max(1), at.column().max(1)));
    let whole = error.to_string();
    if state.values.get() > VALUES_MAX || whole.contains("repetition limit") {
        return Broken {
            text: format!("the aliases of this file stand for more than {} million values", VALUES_MAX / 1_000_000),
            place: None,
            hint: Some("write less of it by aliases of aliases".into()),
        };
    }
    if whole.contains("recursion limit") {
        return too_deep(place);
    }
    // The place is told before the text; libyaml repeats it, and the place of the context with it.
    let text = whole.split(" at line ").next().unwrap_or_default().split(" at position ").next().unwrap_or_default();
    let context = whole.split(", ").find_map(|part| part.strip_prefix("while "));
    let text = text.split_once(": ").filter(|(path, _)| !path.contains(' ')).map_or(text, |(_, text)| text);
    let text = match context.map(|c| c.replace(" at line ", " begun in line ")) {
        Some(context) if !text.contains(&context) => {
            let context = context.split(" column ").next().unwrap_or_default().to_owned();
            format!("{text}, while {context}")
        }
        _ => text.to_owned(),
    };
    Broken { text: format!("this is not YAML: {text}"), place, hint: None }
}

/// Applies merge keys and takes off tags, innermost first.
fn apply(value: &mut Value, path: &mut Path, problems: &mut Vec<Problem>) {
    while let Value::Tagged(tagged) = value {
        // It is not repeated: a password that begins with `!` is one.
        add(
            problems,
            path,
            "a YAML tag has no meaning here".to_owned(),
            "remove it, or put a text that begins with `!` in quotes",
        );
        *value = std::mem::take(&mut tagged.value);
    }
    match value {
        Value::Sequence(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                path.push(Segment::Index(index));
                apply(item, path, problems);
                path.pop();
            }
        }
        Value::Mapping(entries) => {
            for (key, value) in entries.iter_mut() {
                path.push(Segment::Key(key_text(key)));
                apply(value, path, problems);
                path.pop();
            }
            if let Some(merged) = entries.shift_remove("<<") {
                path.push(Segment::Key("<<".into()));
                merge(entries, merged, path, problems);
                path.pop();
            }
        }
        _ => {}
    }
}

fn merge(entries: &mut Mapping, merged: Value, path: &Path, problems: &mut Vec<Problem>) {
    match merged {
        Value::Mapping(more) => {
            for (key, value) in more {
                entries.entry(key).or_insert(value);
            }
        }
        Value::Sequence(items) if items.iter().all(Value::is_mapping) => {
            for item in items {
                merge(entries, item, path, problems);
            }
        }
        _ => {
            let hint = "write `<<: *anchor`, the anchor being on a mapping";
            add(problems, path, "`<<` merges a mapping, or a list of mappings".into(), hint);
        }
    }
}

/// One more than can be kept shows that there were more.
fn add(problems: &mut Vec<Problem>, path: &Path, text: String, hint: &str) {
    if problems.len() <= NOTES_MAX {
        problems.push(Problem { path: path.clone(), at: At::Value, text, hint: Some(hint.into()) });
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Building the value

#[derive(Default)]
struct State {
    values: Cell<usize>,
    duplicates: Cell<bool>,
    /// Whether a merge key or a tag was met.
    special: Cell<bool>,
}

#[derive(Clone, Copy)]
struct Build<'s>(&'s State);

impl<'de> DeserializeSeed<'de> for Build<'_> {
    type Value = Value;
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.0.values.set(self.0.values.get() + 1);
        if self.0.values.get() > VALUES_MAX {
            return Err(de::Error::custom("too many values"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Build<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::String(value.to_string()))
    }
    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(Value::String(value.to_string()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.into()))
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Sequence(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Mapping::new();
        while let Some(key) = map.next_key_seed(self)? {
            let value = map.next_value_seed(self)?;
            if key.as_str() == Some("<<") {
                self.0.special.set(true);
            }
            if entries.contains_key(&key) {
                self.0.duplicates.set(true);
            } else {
                entries.insert(key, value);
            }
        }
        Ok(Value::Mapping(entries))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Value, A::Error> {
        self.0.special.set(true);
        let (tag, contents) = data.variant_seed(Tag)?;
        let value = contents.newtype_variant_seed(self)?;
        Ok(Value::Tagged(Box::new(serde_yaml::value::TaggedValue { tag: serde_yaml::value::Tag::new(tag), value })))
    }
}

struct Tag;

impl<'de> DeserializeSeed<'de> for Tag {
    type Value = String;
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        // An empty tag (`!`) cannot be shown, nor held by a tagged value.
        String::deserialize(deserializer).map(|tag| if tag.is_empty() { "!".into() } else { tag })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Value {
        serde_yaml::from_str(text).expect("well-formed YAML")
    }

    fn error(text: &str) -> (String, Option<(usize, usize)>) {
        let broken = parse(text).expect_err(text);
        (broken.text, broken.place)
    }

    #[test]
    fn values_are_those_of_the_yaml_library() {
        for text in [
            "",
            "a: 1\nb: [x, 2.5, -3, true, null, ~, 0x1F, .inf, 1e3, '5', \"q\", 18446744073709551615]",
            "1: x\ntrue: y\n? [a]\n: z",
            "a: &x { b: 1 }\nc: *x",
            "t: |\n  lines\n  more\n",
        ] {
            assert_eq!(parse(text).expect(text).value, plain(text), "{text}");
        }
    }

    #[test]
    fn merges_apply_and_the_first_of_two_keys_counts() {
        let merged =
            parse("a: &a { x: 1, y: 1 }\nb: &b { <<: *a, y: 2 }\nc: { <<: [*b, { z: 3 }], x: 0 }").expect("YAML");
        assert_eq!(merged.value.get("c"), Some(&plain("{ x: 0, y: 2, z: 3 }")));
        assert!(!merged.duplicates);
        let twice = parse("a: 1\na: 2\n").expect("YAML but for the duplicate");
        assert_eq!((twice.value, twice.duplicates), (plain("a: 1"), true));
        let bad = parse("a: { <<: 5 }\nb: !T [1]\nc: !U x").expect("YAML");
        let texts: Vec<&str> = bad.problems.iter().map(|p| p.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "`<<` merges a mapping, or a list of mappings",
                "a YAML tag has no meaning here",
                "a YAML tag has no meaning here"
            ]
        );
        assert_eq!(bad.value, plain("{ a: {}, b: [1], c: x }"));
    }

    #[test]
    fn what_may_refer_is_kept_as_written() {
        for (text, expected) in [
            ("a: b", false),
            ("a: '${env:X}'", true),
            ("a: [1, { b: !t '${env:X}' }]", true),
            // Only the value shows it, not the text of the file.
            ("a: \"\\x24{env:X}\"", true),
            ("a: &x ['${file:x}']\nb: *x", true),
        ] {
            assert_eq!(may_refer(&plain(text)), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_yaml_or_too_much_is_refused() {
        assert_eq!(error("a: b: c").1, Some((1, 5)));
        assert_eq!(error("a: 1\n---\nb: 2\n").1, Some((2, 1)));
        assert_eq!(error("&a [*a]").0, "this is nested too deeply");
        assert_eq!(error(&"[".repeat(5_000)).0, "this is nested too deeply");
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for n in 1..12 {
            let before = n - 1;
            bomb.push_str(&format!("a{n}: &a{n} [{}]\n", vec![format!("*a{before}"); 10].join(", ")));
        }
        assert!(error(&bomb).0.starts_with("the aliases of this file stand for more than"), "{:?}", error(&bomb));
    }
}
