//! Mistakes while they are being gathered: a file's number and a path in it. Lines and columns are looked up at the
//! end, in one go for each file that has any.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use serde::de::DeserializeOwned;
use serde_yaml::{Mapping, Value};

use super::{
    document::Document,
    mistakes::{Mistake, Mistakes},
    positions::{Marks, Positions, Spot, below, item},
};
use crate::{
    observation::one_line,
    options::{At, Options, Path, Problem, Segment, entry, key_text, suggestion},
    value::{Masker, Secret},
};

/// Most mistakes kept: more than anybody reads, and few enough for a daemon that is given a file of nothing else.
pub(super) const NOTES_MAX: usize = 10_000;

/// A mistake at a path of a document.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Note {
    /// The number of the document.
    pub doc: usize,
    /// Where in it, and what.
    pub problem: Problem,
    /// The part of the value that is meant.
    pub needle: Option<String>,
    /// Another place that belongs to it: in words, and where.
    pub related: Option<(&'static str, usize, Path)>,
}

/// All mistakes so far.
#[derive(Default)]
pub(super) struct Notes {
    /// Each with its number in the order they came. A mistake in defaults meets every check below them, and counts once.
    notes: HashMap<Note, usize>,
    pushed: usize,
    /// Whether some had no place.
    and_more: bool,
    /// Mistakes of files that could not be parsed, complete with their place.
    pub complete: Vec<(usize, Mistake)>,
}

impl Notes {
    /// Adds one.
    pub fn push(&mut self, note: Note) {
        self.pushed += 1;
        if self.notes.len() < NOTES_MAX {
            self.notes.entry(note).or_insert(self.pushed);
        } else {
            self.and_more |= !self.notes.contains_key(&note);
        }
    }

    /// Adds one in the value at a path.
    pub fn value(&mut self, doc: usize, path: Path, text: impl Into<String>, hint: Option<String>) {
        let problem = Problem { path, at: At::Value, text: text.into(), hint };
        self.push(Note { doc, problem, needle: None, related: None });
    }

    /// Adds one in the key at a path.
    pub fn key(&mut self, doc: usize, path: Path, text: impl Into<String>, hint: Option<String>) {
        let problem = Problem { path, at: At::Key, text: text.into(), hint };
        self.push(Note { doc, problem, needle: None, related: None });
    }

    /// How many came: to see whether a part has added any.
    pub fn count(&self) -> usize {
        self.pushed + self.complete.len()
    }

    /// Whether a reference below a path gives nothing.
    pub fn unresolved_below(&self, doc: usize, path: &[Segment]) -> bool {
        self.notes.keys().any(|n| n.needle.is_some() && n.doc == doc && n.problem.path.starts_with(path))
    }

    /// In the order they came. A value whose reference gives nothing need not be told to be empty as well.
    fn without_consequences(notes: HashMap<Note, usize>) -> Vec<Note> {
        let mut notes: Vec<(Note, usize)> = notes.into_iter().collect();
        notes.sort_unstable_by_key(|(_, number)| *number);
        let mut notes: Vec<Note> = notes.into_iter().map(|(note, _)| note).collect();
        let place = |note: &Note| (note.doc, note.problem.path.clone());
        let unresolved: HashSet<(usize, Path)> = notes.iter().filter(|n| n.needle.is_some()).map(place).collect();
        notes.retain(|note| note.needle.is_some() || !unresolved.contains(&place(note)));
        notes
    }

    /// Turns them into what a person reads; `None` when there are none.
    pub fn into_mistakes(self, documents: &[Document], secrets: &Secrets) -> Option<Mistakes> {
        let duplicates = documents.iter().any(|d| d.duplicates);
        if self.count() == 0 && !duplicates {
            return None;
        }
        let notes = Self::without_consequences(self.notes);
        let mut positions: Vec<Option<Positions<'_>>> = documents.iter().map(|_| None).collect();
        for (doc, document) in documents.iter().enumerate() {
            let related = |n: &Note| n.related.as_ref().is_some_and(|(_, other, _)| *other == doc);
            if document.duplicates || notes.iter().any(|n| n.doc == doc || related(n)) {
                positions[doc] = Some(Positions::of(&document.text));
            }
        }
        let mut placed: Vec<(usize, Spot, Mistake)> =
            self.complete.into_iter().map(|(doc, mistake)| (doc, spot_of(&mistake), mistake)).collect();
        let mut shown =
            Shown { documents, positions: &positions, secrets, masker: secrets.masker(), lines: HashMap::new() };
        for note in &notes {
            if let Some(found) = positions[note.doc].as_ref() {
                let (spot, mistake) = shown.place(note, found);
                placed.push((note.doc, spot, mistake));
            }
        }
        for (doc, found) in positions.iter().enumerate().filter_map(|(doc, p)| Some((doc, p.as_ref()?))) {
            for duplicate in found.duplicates(NOTES_MAX + 1) {
                let mut mistake = shown.at_spot(doc, found, duplicate.again);
                mistake.text = format!("duplicate key `{}`", one_line(&duplicate.key, 60));
                mistake.note = Some(format!("the first is in line {}", duplicate.first.line));
                mistake.help = Some("remove one of the two".into());
                placed.push((doc, duplicate.again, mistake));
            }
        }
        placed.sort_by_key(|(doc, spot, _)| (*doc, *spot));
        let mut mistakes: Vec<Mistake> = placed.into_iter().map(|(_, _, mistake)| mistake).collect();
        mistakes.dedup();
        let and_more = self.and_more || mistakes.len() > NOTES_MAX;
        mistakes.truncate(NOTES_MAX);
        Some(Mistakes { mistakes, and_more })
    }
}

/// What mistakes are shown by.
struct Shown<'d> {
    documents: &'d [Document],
    positions: &'d [Option<Positions<'d>>],
    secrets: &'d Secrets,
    masker: Masker,
    /// The lines of documents, secrets starred out, with their marks.
    lines: HashMap<(usize, usize), (Cow<'d, str>, Marks)>,
}

impl<'d> Shown<'d> {
    fn at_spot(&mut self, doc: usize, positions: &'d Positions<'d>, spot: Spot) -> Mistake {
        let (line, marks) = self.lines.entry((doc, spot.line)).or_insert_with(|| {
            let line = positions.shown(spot.line);
            let line = match self.secrets.starred(&line) {
                Cow::Owned(line) => Cow::Owned(line),
                Cow::Borrowed(_) => line,
            };
            let marks = Marks::of(&line);
            (line, marks)
        });
        let file = self.documents[doc].file.display().to_string();
        Mistake::at(file, spot.line, (spot.column, spot.length), line, marks)
    }

    fn place(&mut self, note: &Note, positions: &'d Positions<'d>) -> (Spot, Mistake) {
        let document = &self.documents[note.doc];
        let mut spot = positions.locate(&note.problem.path, note.problem.at);
        if let Some(needle) = &note.needle {
            spot = positions.narrow(spot, needle);
        }
        let mut mistake = self.at_spot(note.doc, positions, spot);
        let Problem { path, text, hint, .. } = &note.problem;
        mistake.text = masked(text, document, path, &self.masker);
        mistake.help = hint.as_ref().map(|hint| masked(hint, document, path, &self.masker));
        mistake.note = note.related.as_ref().and_then(|(what, doc, path)| {
            let there = self.positions[*doc].as_ref()?.locate(path, At::Value);
            Some(format!("{what} {}:{}:{}", self.documents[*doc].file.display(), there.line, there.column))
        });
        (spot, mistake)
    }
}

/// Secrets, by how they came to be known.
#[derive(Default)]
pub(super) struct Secrets {
    /// Through references: not in the text of any file.
    pub resolved: Vec<Secret>,
    /// Written as they are.
    pub literal: Vec<Secret>,
}

impl Secrets {
    /// A masker for all of them.
    pub fn masker(&self) -> Masker {
        Masker::new(self.resolved.iter().chain(&self.literal).cloned())
    }

    /// Whether a text holds one of them as it is.
    pub fn show_in(&self, text: &str) -> bool {
        let all = self.resolved.iter().chain(&self.literal).map(Secret::expose);
        all.filter(|secret| secret.len() >= Masker::BYTES_MIN).any(|secret| text.contains(secret))
    }

    /// A line of a file with the secrets in it starred out; it keeps its length, so that columns stay right.
    fn starred<'l>(&self, line: &'l str) -> Cow<'l, str> {
        let mut line = Cow::Borrowed(line);
        let parts = self.literal.iter().flat_map(|secret| secret.expose().lines());
        for part in parts.map(str::trim).filter(|part| part.len() >= Masker::BYTES_MIN) {
            if line.contains(part) {
                line = Cow::Owned(line.replace(part, &"*".repeat(part.chars().count())));
            }
        }
        line
    }
}

fn spot_of(mistake: &Mistake) -> Spot {
    Spot { line: mistake.line.unwrap_or(0), column: mistake.column.unwrap_or(0), length: 0 }
}

/// Shortest piece of a secret that may not be left in a message about the very value it stands in.
const PIECE_CHARS: usize = 4;

/// A message without secrets. Where the value itself came through a reference, not even pieces of it are left: a
/// message may have cut it short.
fn masked(text: &str, document: &Document, path: &[Segment], masker: &Masker) -> String {
    match (at(document.raw(), path), at(&document.value, path)) {
        (Some(Value::String(raw)), Some(Value::String(value))) if raw != value => hiding(text, raw, value, masker),
        _ => masker.mask(text).into_owned(),
    }
}

/// A message without any piece of `value`, for which `raw` was written.
pub(super) fn hiding(text: &str, raw: &str, value: &str, masker: &Masker) -> String {
    let mut text = text.to_owned();
    for whole in [value.to_owned(), one_line(value, value.len() + 2)] {
        text = text.replace(&format!("`{whole}`"), "`***`");
    }
    let exact = masker.mask(&text).into_owned();
    let flat: Vec<char> = one_line(value, value.len() + 2).chars().collect();
    let left = flat.windows(PIECE_CHARS).any(|piece| {
        let piece: String = piece.iter().collect();
        exact.contains(&piece) && !raw.contains(&piece)
    });
    if left {
        return "the value of this reference does not fit here; it is not shown, since it may be a secret".into();
    }
    exact
}

/// The value at a path.
pub(super) fn at<'v>(value: &'v Value, path: &[Segment]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, segment| match segment {
        Segment::Index(index) => value.get(*index),
        Segment::Key(word) => entry(value.as_mapping()?, word),
    })
}

/// A value and where it stands.
#[derive(Clone)]
pub(super) struct Place<'d> {
    /// The number of the document.
    pub doc: usize,
    /// The document.
    pub document: &'d Document,
    /// The value, references resolved.
    pub value: &'d Value,
    /// Its path.
    pub path: Path,
}

static NULL: Value = Value::Null;

impl<'d> Place<'d> {
    /// The whole of a document.
    pub fn root(doc: usize, document: &'d Document) -> Self {
        Self { doc, document, value: &document.value, path: Vec::new() }
    }

    /// The value of a key; null when there is none.
    pub fn child(&self, key: &str) -> Self {
        let value = at(self.value, &[Segment::Key(key.into())]).unwrap_or(&NULL);
        Self { value, path: below(&self.path, key), ..*self }
    }

    /// An item of a list; of a single value that stands for a list, the value itself.
    pub fn nth(&self, index: usize) -> Self {
        match self.value {
            Value::Sequence(items) => {
                Self { value: items.get(index).unwrap_or(&NULL), path: item(&self.path, index), ..*self }
            }
            _ => self.clone(),
        }
    }

    /// The items of a list that may be absent; anything else is a mistake.
    pub fn items(&self, notes: &mut Notes, what: &str) -> Vec<Self> {
        match self.value {
            Value::Null => Vec::new(),
            Value::Sequence(items) => (0..items.len()).map(|index| self.nth(index)).collect(),
            _ => {
                notes.value(
                    self.doc,
                    self.path.clone(),
                    format!("a list of {what} is expected here"),
                    Some("begin each with `- `".into()),
                );
                Vec::new()
            }
        }
    }

    /// The entries of a mapping that may be absent; anything else is a mistake.
    pub fn entries(&self, notes: &mut Notes, what: &str) -> Vec<(String, Self)> {
        match self.value {
            Value::Null => Vec::new(),
            Value::Mapping(entries) => entries
                .iter()
                .map(|(key, value)| {
                    let key = key_text(key);
                    let place = Self { value, path: below(&self.path, &key), ..*self };
                    (key, place)
                })
                .collect(),
            _ => {
                notes.value(self.doc, self.path.clone(), format!("{what} is expected here, a mapping of keys"), None);
                Vec::new()
            }
        }
    }

    /// Reads the value as a `T`; its mistakes become notes.
    pub fn read<T: DeserializeOwned>(&self, notes: &mut Notes) -> Option<T> {
        self.options(notes, |options| options.read())
    }

    /// Reads a `T` from some keys of a mapping. Keys that hold mistakes are left out of it, so that the rest can be
    /// judged; the flag tells whether nothing was left out.
    pub fn read_keys<T: DeserializeOwned + Default>(&self, notes: &mut Notes, keys: &[&str]) -> (T, bool) {
        let mut part = Mapping::new();
        for (key, value) in self.value.as_mapping().into_iter().flatten() {
            if keys.contains(&key_text(key).as_str()) {
                part.insert(key.clone(), value.clone());
            }
        }
        let read = |part: &Mapping, problems: &mut Vec<Problem>| {
            let part = Value::Mapping(part.clone());
            Options::new(&part, self.path.clone(), &self.document.directory, problems).read()
        };
        let mut problems = Vec::new();
        if let Some(whole) = read(&part, &mut problems) {
            return (whole, true);
        }
        part.retain(|key, _| {
            let key = Segment::Key(key_text(key));
            problems.iter().all(|problem| problem.path.get(self.path.len()) != Some(&key))
        });
        let rest = read(&part, &mut Vec::new()).unwrap_or_default();
        self.take(notes, problems);
        (rest, false)
    }

    /// Reads a `T` from a mapping that may have these keys and no others.
    pub fn read_section<T: DeserializeOwned + Default>(&self, notes: &mut Notes, keys: &[&str], what: &str) -> T {
        for (key, _) in self.entries(notes, what) {
            if !keys.contains(&key.as_str()) {
                self.unknown_key(notes, &key, keys);
            }
        }
        self.read_keys(notes, keys).0
    }

    /// Lets `build` read the value as a block of options.
    pub fn options<T>(&self, notes: &mut Notes, build: impl FnOnce(&mut Options<'_>) -> T) -> T {
        let mut problems = Vec::new();
        let built = build(&mut Options::new(self.value, self.path.clone(), &self.document.directory, &mut problems));
        self.take(notes, problems);
        built
    }

    fn take(&self, notes: &mut Notes, problems: Vec<Problem>) {
        for problem in problems {
            notes.push(Note { doc: self.doc, problem, needle: None, related: None });
        }
    }

    /// Notes a key of this mapping that nobody knows.
    pub fn unknown_key(&self, notes: &mut Notes, key: &str, known: &[&str]) {
        let hint = suggestion(key, known.iter().copied());
        notes.key(self.doc, below(&self.path, key), format!("unknown key `{}`", one_line(key, 60)), Some(hint));
    }

    /// Notes a mistake in this value.
    pub fn note(&self, notes: &mut Notes, text: impl Into<String>, hint: Option<String>) {
        notes.value(self.doc, self.path.clone(), text, hint);
    }

    /// The value as written, references unresolved.
    pub fn raw(&self) -> &'d Value {
        at(self.document.raw(), &self.path).unwrap_or(&NULL)
    }
}
