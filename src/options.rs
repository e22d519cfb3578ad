//! Typed reading of one block of options, every mistake collected with its path.
//!
//! A protocol, a channel and a check kind each read their own options; the loader in `config` turns paths into
//! lines and columns. Reading goes on after a mistake, so that one load tells them all: a value that does not fit
//! is noted, set aside, and the rest is read again without it.

use std::{collections::HashSet, fmt, path::PathBuf};

use serde::{
    de::{
        self, DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess,
        Visitor,
    },
    forward_to_deserialize_any,
};
use serde_yaml::{Mapping, Value};

/// One step of a path into a document.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Segment {
    /// A key of a mapping.
    Key(String),
    /// A position in a sequence.
    Index(usize),
}

/// Where something stands in a document: the steps from its root.
pub type Path = Vec<Segment>;

/// Whether a mistake is in a key or in its value; tells the loader what to underline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum At {
    /// The key itself.
    Key,
    /// The value.
    Value,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Where it is.
    pub path: Path,
    /// Which part of the entry at `path`.
    pub at: At,
    /// What is wrong, in one line without a full stop.
    pub text: String,
    /// What to do about it, in one line.
    pub hint: Option<String>,
}

/// Most mistakes reported for one block; a file of another format would otherwise flood the terminal.
pub const PROBLEMS_MAX: usize = 100;

/// A block of options being read.
pub struct Options<'a> {
    value: &'a Value,
    path: Path,
    base: &'a std::path::Path,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Options<'a> {
    /// A block at `path` of a document whose relative file names are relative to `base`; mistakes go to `problems`.
    pub fn new(value: &'a Value, path: Path, base: &'a std::path::Path, problems: &'a mut Vec<Problem>) -> Self {
        Self { value, path, base, problems }
    }

    /// A file named in the options: relative names are relative to the file they stand in.
    pub fn file(&self, name: &str) -> PathBuf {
        self.base.join(name)
    }

    /// The block as it was written.
    pub fn value(&self) -> &Value {
        self.value
    }

    /// Where the block stands.
    pub fn path(&self) -> &[Segment] {
        &self.path
    }

    /// A block below this one (an absent key reads as null).
    pub fn child(&mut self, key: &str) -> Options<'_> {
        static NULL: Value = Value::Null;
        let mut path = self.path.clone();
        path.push(Segment::Key(key.into()));
        Options { value: self.value.get(key).unwrap_or(&NULL), path, base: self.base, problems: self.problems }
    }

    /// Reads the block as a `T`. `None` when a mistake left nothing to build; the mistakes are then recorded.
    /// A `T` is only returned when nothing was wrong.
    pub fn read<T: DeserializeOwned>(&mut self) -> Option<T> {
        let before = self.problems.len();
        let mut state = State { found: Vec::new(), skip: HashSet::new() };
        let result = loop {
            state.found.clear();
            let mut seen = state.skip.len();
            let outcome = T::deserialize(Reader { value: self.value, path: self.path.clone(), state: &mut state });
            // Mistakes that a reading met and went on from (unknown keys) come again in each reading.
            let met = std::mem::take(&mut state.found);
            for problem in met {
                if !self.problems[before..].contains(&problem) && self.problems.len() - before < PROBLEMS_MAX {
                    self.problems.push(problem);
                }
            }
            match outcome {
                Ok(value) => break Some(value),
                Err(Failure { path, text, missing: Some(key) }) => {
                    // A key that was set aside for its bad value is not missing: it has been reported.
                    let mut full = path.clone();
                    full.push(Segment::Key(key.clone()));
                    if !state.skip.contains(&full) {
                        self.note(Problem { path, at: At::Key, text, hint: None }, before);
                    }
                    break None;
                }
                Err(Failure { path, text, missing: None }) => {
                    self.note(Problem { path: path.clone(), at: At::Value, text, hint: None }, before);
                    state.skip.insert(path.clone());
                    seen += 1;
                    let enough = self.problems.len() - before >= PROBLEMS_MAX;
                    if enough || state.skip.len() < seen || path.len() <= self.path.len() {
                        break None;
                    }
                }
            }
        };
        if self.problems.len() == before { result } else { None }
    }

    fn note(&mut self, problem: Problem, before: usize) {
        if !self.problems[before..].contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// Records a mistake in the value of `key` (or in the whole block, for an empty key).
    pub fn problem(&mut self, key: &str, text: impl Into<String>, hint: Option<&str>) {
        let mut path = self.path.clone();
        path.extend(key.split('.').filter(|k| !k.is_empty()).map(|k| Segment::Key(k.into())));
        self.problems.push(Problem { path, at: At::Value, text: text.into(), hint: hint.map(Into::into) });
    }
}

/// The nearest of `known` to `word`, when it is near enough to be a slip.
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    known
        .into_iter()
        .map(|k| (strsim::jaro_winkler(&word.to_lowercase(), &k.to_lowercase()), k))
        .filter(|(similarity, _)| *similarity > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}

/// A hint that names the nearest known word, or all of them when none is near.
pub fn suggestion<'k>(word: &str, known: impl IntoIterator<Item = &'k str> + Clone) -> String {
    match nearest(word, known.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let all: Vec<&str> = known.into_iter().collect();
            format!("known here: {}", all.join(", "))
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The reader: a serde deserializer over a YAML value that knows its path.

struct State {
    found: Vec<Problem>,
    skip: HashSet<Path>,
}

#[derive(Debug)]
struct Failure {
    path: Path,
    text: String,
    missing: Option<String>,
}

impl Failure {
    fn at(mut self, path: &Path) -> Self {
        // The innermost place wins; an error made by `custom` has none yet.
        if self.path.is_empty() {
            self.path.clone_from(path);
        }
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

impl de::Error for Failure {
    fn custom<T: fmt::Display>(msg: T) -> Self {
        Self { path: Vec::new(), text: msg.to_string(), missing: None }
    }
    fn missing_field(field: &'static str) -> Self {
        Self { path: Vec::new(), text: format!("`{field}` is missing"), missing: Some(field.into()) }
    }
    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format_args!("{} where {} is expected", shown(unexpected), plainly(expected)))
    }
    fn invalid_value(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format_args!("{} does not fit: {} is expected", shown(unexpected), plainly(expected)))
    }
    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format_args!("unknown value `{variant}`; {}", suggestion(variant, expected.iter().copied())))
    }
}

/// What is expected, in the words of YAML instead of Rust's.
fn plainly(expected: &dyn de::Expected) -> String {
    let text = expected.to_string();
    match text.as_str() {
        "a string" | "str" | "String" => "a text".into(),
        "a boolean" => "`true` or `false`".into(),
        "a sequence" => "a list".into(),
        "a map" => "a mapping of keys".into(),
        "u8" => "a whole number from 0 to 255".into(),
        "u16" => "a whole number from 0 to 65535".into(),
        "u32" | "u64" | "usize" => "a whole number, 0 or more,".into(),
        "i8" | "i16" | "i32" | "i64" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        _ if text.starts_with("struct ") => "a mapping of keys".into(),
        _ => text,
    }
}

fn shown(unexpected: de::Unexpected<'_>) -> String {
    match unexpected {
        de::Unexpected::Bool(b) => format!("`{b}`"),
        de::Unexpected::Unsigned(n) => format!("the number {n}"),
        de::Unexpected::Signed(n) => format!("the number {n}"),
        de::Unexpected::Float(n) => format!("the number {n}"),
        de::Unexpected::Str(s) => format!("the text `{}`", crate::observation::one_line(s, 60)),
        de::Unexpected::Unit | de::Unexpected::Option => "nothing".into(),
        de::Unexpected::Seq => "a list".into(),
        de::Unexpected::Map => "a mapping".into(),
        other => other.to_string(),
    }
}

struct Reader<'v, 's> {
    value: &'v Value,
    path: Path,
    state: &'s mut State,
}

impl<'de> de::Deserializer<'de> for Reader<'_, '_> {
    type Error = Failure;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        let path = self.path.clone();
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(b) => visitor.visit_bool(*b),
            Value::Number(n) => match (n.as_u64(), n.as_i64(), n.as_f64()) {
                (Some(n), _, _) => visitor.visit_u64(n),
                (_, Some(n), _) => visitor.visit_i64(n),
                (_, _, Some(n)) => visitor.visit_f64(n),
                _ => Err(de::Error::custom("a number out of range")),
            },
            Value::String(s) => visitor.visit_str(s),
            Value::Sequence(items) => visitor.visit_seq(Items { items, next: 0, path: &path, state: self.state }),
            Value::Mapping(_) => visitor.visit_map(Entries::new(self.value, &path, self.state, None)),
            Value::Tagged(tagged) => {
                return Reader { value: &tagged.value, path: self.path, state: self.state }.deserialize_any(visitor);
            }
        }
        .map_err(|e| e.at(&path))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        let path = self.path.clone();
        match self.value {
            Value::Mapping(_) => visitor.visit_map(Entries::new(self.value, &path, self.state, Some(fields))),
            // A section left empty (`http:`) has all its defaults; what it must have is then told as missing.
            Value::Null => visitor.visit_map(Entries::new(self.value, &path, self.state, Some(fields))),
            _ => return self.deserialize_any(visitor),
        }
        .map_err(|e| e.at(&path))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        let path = self.path.clone();
        match self.value {
            Value::String(s) => visitor.visit_enum(s.as_str().into_deserializer()),
            Value::Mapping(m) if m.len() == 1 => visitor.visit_enum(Variant { reader: self }),
            Value::Mapping(_) => Err(de::Error::custom("exactly one key is expected here")),
            _ => return self.deserialize_any(visitor),
        }
        .map_err(|e: Failure| e.at(&path))
    }

    // A word like `on`, `1.0` or `yes` is often meant as text; YAML reads it as a number or a boolean.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        let path = self.path.clone();
        match self.value {
            Value::Number(n) => visitor.visit_str(&n.to_string()).map_err(|e: Failure| e.at(&path)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_str(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

struct Items<'v, 's> {
    items: &'v [Value],
    next: usize,
    path: &'s Path,
    state: &'s mut State,
}

impl<'de> SeqAccess<'de> for Items<'_, '_> {
    type Error = Failure;
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Failure> {
        while let Some(value) = self.items.get(self.next) {
            let mut path = self.path.clone();
            path.push(Segment::Index(self.next));
            self.next += 1;
            if !self.state.skip.contains(&path) {
                let read = seed.deserialize(Reader { value, path: path.clone(), state: self.state });
                return read.map(Some).map_err(|e| e.at(&path));
            }
        }
        Ok(None)
    }
}

struct Entries<'v, 's> {
    entries: Vec<(String, &'v Value)>,
    next: usize,
    path: &'s Path,
    state: &'s mut State,
}

impl<'v, 's> Entries<'v, 's> {
    fn new(value: &'v Value, path: &'s Path, state: &'s mut State, fields: Option<&'static [&'static str]>) -> Self {
        let mut entries = Vec::new();
        for (key, value) in value.as_mapping().into_iter().flatten() {
            let key = key_text(key);
            let mut at = path.clone();
            at.push(Segment::Key(key.clone()));
            if let Some(fields) = fields.filter(|fields| !fields.contains(&key.as_str())) {
                let hint = suggestion(&key, fields.iter().copied());
                state.found.push(Problem {
                    path: at,
                    at: At::Key,
                    text: format!("unknown key `{key}`"),
                    hint: Some(hint),
                });
            } else if !state.skip.contains(&at) {
                entries.push((key, value));
            }
        }
        Self { entries, next: 0, path, state }
    }
}

/// The text of a mapping's key; YAML reads `on:` and `404:` as other than text.
pub fn key_text(key: &Value) -> String {
    match key {
        Value::String(s) => s.clone(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::Null => "null".into(),
        Value::Sequence(_) => "[…]".into(),
        Value::Mapping(_) => "{…}".into(),
        Value::Tagged(tagged) => key_text(&tagged.value),
    }
}

/// The value of the key that is shown as `word`.
pub fn entry<'v>(mapping: &'v Mapping, word: &str) -> Option<&'v Value> {
    if let Some(value) = mapping.get(word) {
        return Some(value);
    }
    if may_be_no_text(word)
        && let Some(value) = serde_yaml::from_str::<Value>(word).ok().and_then(|key| mapping.get(key))
    {
        return Some(value);
    }
    mapping.iter().find(|(key, _)| !key.is_string() && key_text(key) == word).map(|(_, value)| value)
}

/// Whether YAML may read this word, unquoted, as something else than a text.
pub fn may_be_no_text(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | '~'))
        || matches!(word.to_ascii_lowercase().as_str(), "true" | "false" | "null")
}

impl<'de> MapAccess<'de> for Entries<'_, '_> {
    type Error = Failure;
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Failure> {
        match self.entries.get(self.next) {
            Some((key, _)) => {
                let mut path = self.path.clone();
                path.push(Segment::Key(key.clone()));
                seed.deserialize(key.as_str().into_deserializer()).map(Some).map_err(|e: Failure| e.at(&path))
            }
            None => Ok(None),
        }
    }
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Failure> {
        let (key, value) = &self.entries[self.next];
        self.next += 1;
        let mut path = self.path.clone();
        path.push(Segment::Key(key.clone()));
        seed.deserialize(Reader { value, path: path.clone(), state: self.state }).map_err(|e| e.at(&path))
    }
}

struct Variant<'v, 's> {
    reader: Reader<'v, 's>,
}

impl<'de, 'v, 's> EnumAccess<'de> for Variant<'v, 's> {
    type Error = Failure;
    type Variant = Reader<'v, 's>;
    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Reader<'v, 's>), Failure> {
        let Some((key, value)) = self.reader.value.as_mapping().and_then(|m| m.iter().next()) else {
            return Err(de::Error::custom("a mapping with one key is expected here"));
        };
        let key = key_text(key);
        let variant = seed.deserialize(key.as_str().into_deserializer())?;
        let mut path = self.reader.path;
        path.push(Segment::Key(key));
        Ok((variant, Reader { value, path, state: self.reader.state }))
    }
}

impl<'de> VariantAccess<'de> for Reader<'_, '_> {
    type Error = Failure;
    fn unit_variant(self) -> Result<(), Failure> {
        if self.value.is_null() { Ok(()) } else { Err(de::Error::custom("no value is expected here")) }
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Failure> {
        let path = self.path.clone();
        seed.deserialize(self).map_err(|e| e.at(&path))
    }
    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Failure> {
        de::Deserializer::deserialize_any(self, visitor)
    }
    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Failure> {
        de::Deserializer::deserialize_struct(self, "", fields, visitor)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::value::TimeSpan;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        status: Vec<u16>,
        #[serde(default)]
        slow: Option<TimeSpan>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        url: String,
        expect: Option<Inner>,
        #[serde(default)]
        mode: Mode,
    }

    #[derive(Debug, Deserialize, PartialEq, Default)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        #[default]
        Fresh,
        Kept,
    }

    fn read(yaml: &str) -> (Option<Outer>, Vec<String>) {
        let value: Value = serde_yaml::from_str(yaml).expect("well-formed YAML");
        let mut problems = Vec::new();
        let got = Options::new(&value, Vec::new(), std::path::Path::new("."), &mut problems).read::<Outer>();
        let texts = problems.iter().map(|p| {
            let path: Vec<String> = p
                .path
                .iter()
                .map(|s| match s {
                    Segment::Key(k) => k.clone(),
                    Segment::Index(i) => i.to_string(),
                })
                .collect();
            format!(
                "{} {:?}: {}{}",
                path.join("."),
                p.at,
                p.text,
                p.hint.as_ref().map_or(String::new(), |h| format!(" ({h})"))
            )
        });
        (got, texts.collect())
    }

    #[test]
    fn a_good_block_is_read() {
        let (got, problems) = read("url: x\nexpect: { status: [200], slow: 1s }\nmode: kept");
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(got.expect("no problems").mode, Mode::Kept);
    }

    #[test]
    fn every_mistake_of_a_block_is_told() {
        let (got, problems) = read("urll: x\nexpect: { status: [200, abc, -1], slow: 5, stat: 1 }\nmode: keptt");
        assert_eq!(got, None);
        assert_eq!(
            problems,
            [
                "urll Key: unknown key `urll` (did you mean `url`?)",
                "expect.stat Key: unknown key `stat` (did you mean `status`?)",
                "expect.status.1 Value: the text `abc` where a whole number from 0 to 65535 is expected",
                "expect.status.2 Value: the number -1 does not fit: a whole number from 0 to 65535 is expected",
                "expect.slow Value: `5` has no unit; write 5s for seconds or 5ms for milliseconds",
                "mode Value: unknown value `keptt`; did you mean `kept`?",
                " Key: `url` is missing",
            ]
        );
    }

    #[test]
    fn a_key_set_aside_is_not_missing_as_well() {
        let (_, problems) = read("url: [1]");
        assert_eq!(problems, ["url Value: a list where a text is expected"]);
    }
}
