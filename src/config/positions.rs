//! Where a path of a YAML document stands in its text.
//!
//! Values are parsed without positions, which is fast; only a file that holds mistakes is parsed again, into a tree
//! of spans. Aliases and merge keys are followed, so a mistake in a merged value is shown where it was written.

use std::{borrow::Cow, collections::HashMap};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, SpannedEventReceiver};
use serde_yaml::Value;

use super::excerpt::{self, Reach};
use crate::options::{At, Path, Segment, key_text, may_be_no_text};

/// Deepest nesting followed; YAML that nests deeper has been refused before.
const DEPTH_MAX: usize = 200;

/// A mapping of more keys than this is looked up by an index: a file may hold a mistake in each of a million.
const UNINDEXED_MAX: usize = 32;

/// Characters between two marks of a line.
const STRIDE: usize = 512;

/// Where the characters of a line stand, so that none is counted from its beginning: one line may hold a whole file,
/// and mistakes by the thousand.
#[derive(Default)]
pub(super) struct Marks(Vec<usize>);

impl Marks {
    /// The marks of a line.
    pub fn of(line: &str) -> Self {
        if line.len() <= STRIDE {
            return Self::default();
        }
        Self(line.char_indices().step_by(STRIDE).skip(1).map(|(at, _)| at).collect())
    }

    /// The byte of `line` at which its `nth` character begins, from 0; its end if it has no such character.
    pub fn offset(&self, line: &str, nth: usize) -> usize {
        let mark = (nth / STRIDE).min(self.0.len());
        let from = mark.checked_sub(1).map_or(0, |mark| self.0[mark]);
        line[from..].char_indices().nth(nth - mark * STRIDE).map_or(line.len(), |(at, _)| from + at)
    }
}

/// A stretch of one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spot {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// In characters.
    pub length: usize,
}

impl Spot {
    const START: Self = Self { line: 1, column: 1, length: 1 };
}

/// A key written twice in one mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Duplicate {
    /// The key.
    pub key: String,
    /// The second one.
    pub again: Spot,
    /// The first one.
    pub first: Spot,
}

/// The spans of one document.
pub(super) struct Positions<'t> {
    lines: Vec<&'t str>,
    /// Of the lines that have any, by their number from 1.
    marks: HashMap<usize, Marks>,
    nodes: Vec<Node>,
    /// The entries of large mappings by their keys.
    indexes: HashMap<usize, HashMap<String, usize>>,
    root: Option<usize>,
    /// Where the second and later documents of the text begin.
    pub more_documents: Vec<Spot>,
}

struct Node {
    start: Marker,
    end: Marker,
    kind: Kind,
}

enum Kind {
    Scalar { text: String, plain: bool },
    Mapping(Vec<(usize, usize)>),
    Sequence(Vec<usize>),
    Alias(Option<usize>),
}

/// The lines of a text, without their ends (LF, CR LF or CR, as YAML 1.2 has it in section 5.4).
pub(super) fn lines_of(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['\n', '\r']) {
        lines.push(&rest[..at]);
        rest = &rest[at..];
        rest = rest.strip_prefix("\r\n").unwrap_or(&rest[1..]);
    }
    lines.push(rest);
    lines
}

/// Where the 256th bracket within others opens, which is the deepest the marked parser goes.
pub(super) fn nested_too_deeply(text: &str) -> Option<(usize, usize)> {
    let error = Parser::new_from_str(text).find_map(Result::err)?;
    let at = error.marker();
    error.info().contains("recursion limit").then(|| (at.line().max(1), at.col() + 1))
}

impl<'t> Positions<'t> {
    /// Reads the spans of a text. A text the marked parser does not understand has spans up to there.
    pub fn of(text: &'t str) -> Self {
        let mut builder = Builder::default();
        // The values were parsed by another parser; where the two disagree, what was understood must do.
        let _ = Parser::new_from_str(text).load(&mut builder, true);
        while !builder.open.is_empty() {
            builder.end(Span::default());
        }
        let lines = lines_of(text);
        let long = lines.iter().enumerate().filter(|(_, line)| line.len() > STRIDE);
        let mut positions = Self {
            marks: long.map(|(index, line)| (index + 1, Marks::of(line))).collect(),
            lines,
            nodes: builder.nodes,
            indexes: HashMap::new(),
            root: builder.roots.first().copied(),
            more_documents: Vec::new(),
        };
        positions.indexes = positions.indexes_of_large();
        positions.more_documents = builder.documents.iter().skip(1).map(|s| positions.spot(s.start, s.end)).collect();
        positions
    }

    /// The text of a line.
    pub fn line(&self, line: usize) -> &'t str {
        self.lines.get(line.saturating_sub(1)).copied().unwrap_or_default()
    }

    /// The same as it may be shown, what is called a secret starred out.
    pub fn shown(&self, line: usize) -> Cow<'t, str> {
        excerpt::shown(&self.lines, line.saturating_sub(1), Reach::Value)
    }

    /// Where a path stands; of a path that is not there, the nearest place above it.
    pub fn locate(&self, path: &[Segment], at: At) -> Spot {
        let Some(root) = self.root else { return Spot::START };
        let (mut key, mut node, mut at) = (None, root, at);
        for segment in path {
            match self.step(node, segment, 0) {
                Some((k, n)) => (key, node) = (k, n),
                None => {
                    at = At::Key;
                    break;
                }
            }
        }
        match (at, key) {
            (At::Key, Some(key)) => self.whole(key),
            (At::Key, None) => self.beginning(node),
            (At::Value, key) => self.value(key, node),
        }
    }

    /// The byte of a line at which its `nth` character begins, from 0.
    fn offset(&self, line: usize, nth: usize) -> usize {
        let text = self.line(line);
        self.marks.get(&line).map_or_else(|| Marks::default().offset(text, nth), |marks| marks.offset(text, nth))
    }

    fn indexes_of_large(&self) -> HashMap<usize, HashMap<String, usize>> {
        let mut indexes = HashMap::new();
        for (node, found) in self.nodes.iter().enumerate() {
            let Kind::Mapping(entries) = &found.kind else { continue };
            if entries.len() > UNINDEXED_MAX {
                let mut index = HashMap::with_capacity(entries.len());
                for (at, (key, _)) in entries.iter().enumerate() {
                    let Kind::Scalar { text, plain } = &self.nodes[self.target(*key)].kind else { continue };
                    for word in [Some(text.clone()), read_as(text, *plain)].into_iter().flatten() {
                        index.entry(word).or_insert(at);
                    }
                }
                indexes.insert(node, index);
            }
        }
        indexes
    }

    /// The first `count_max` keys that are written twice.
    pub fn duplicates(&self, count_max: usize) -> Vec<Duplicate> {
        let mut found = Vec::new();
        for node in &self.nodes {
            let Kind::Mapping(entries) = &node.kind else { continue };
            let mut seen: HashMap<&str, usize> = HashMap::new();
            for (key, _) in entries {
                if found.len() == count_max {
                    return found;
                }
                let Kind::Scalar { text, .. } = &self.nodes[*key].kind else { continue };
                match seen.get(text.as_str()) {
                    Some(first) => {
                        found.push(Duplicate { key: text.clone(), again: self.whole(*key), first: self.whole(*first) })
                    }
                    None => {
                        seen.insert(text, *key);
                    }
                }
            }
        }
        found
    }

    /// Narrows a spot to where `needle` stands in its line, if it does.
    pub fn narrow(&self, spot: Spot, needle: &str) -> Spot {
        let line = self.line(spot.line);
        let from = self.offset(spot.line, spot.column - 1);
        match line[from..].find(needle) {
            Some(at) => Spot {
                column: spot.column + line[from..from + at].chars().count(),
                length: needle.chars().count(),
                ..spot
            },
            None => spot,
        }
    }

    fn target(&self, mut node: usize) -> usize {
        for _ in 0..DEPTH_MAX {
            match self.nodes[node].kind {
                Kind::Alias(Some(target)) => node = target,
                _ => break,
            }
        }
        node
    }

    fn step(&self, node: usize, segment: &Segment, depth: usize) -> Option<(Option<usize>, usize)> {
        let node = self.target(node);
        match (&self.nodes[node].kind, segment) {
            (Kind::Sequence(items), Segment::Index(index)) => items.get(*index).map(|item| (None, *item)),
            (Kind::Mapping(entries), Segment::Key(word)) => {
                if let Some((key, value)) = self.entry(node, entries, word) {
                    return Some((Some(*key), *value));
                }
                if depth > DEPTH_MAX {
                    return None;
                }
                let (_, merged) = self.entry(node, entries, "<<")?;
                match &self.nodes[self.target(*merged)].kind {
                    Kind::Sequence(items) => items.iter().find_map(|item| self.step(*item, segment, depth + 1)),
                    _ => self.step(*merged, segment, depth + 1),
                }
            }
            _ => None,
        }
    }

    fn entry<'e>(&self, node: usize, entries: &'e [(usize, usize)], word: &str) -> Option<&'e (usize, usize)> {
        match self.indexes.get(&node) {
            Some(index) => index.get(word).map(|at| &entries[*at]),
            None => entries.iter().find(|(key, _)| self.is_key(*key, word)),
        }
    }

    fn is_key(&self, node: usize, word: &str) -> bool {
        let Kind::Scalar { text, plain } = &self.nodes[self.target(node)].kind else { return false };
        text == word || read_as(text, *plain).is_some_and(|read| read == word)
    }

    fn value(&self, key: Option<usize>, node: usize) -> Spot {
        let found = &self.nodes[node];
        let empty = match &found.kind {
            Kind::Scalar { text, plain } => *plain && text.is_empty(),
            Kind::Mapping(_) | Kind::Sequence(_) => !self.is_flow(found),
            Kind::Alias(_) => false,
        };
        match key {
            // A block below a key is best shown by its key.
            Some(key) if empty => self.whole(key),
            _ if empty => self.beginning(node),
            _ => self.whole(node),
        }
    }

    /// The first word of a node: of a block, its first key.
    fn beginning(&self, node: usize) -> Spot {
        let mut node = node;
        for _ in 0..DEPTH_MAX {
            let found = &self.nodes[node];
            match &found.kind {
                Kind::Mapping(entries) if !self.is_flow(found) => match entries.first() {
                    Some((key, _)) => node = *key,
                    None => break,
                },
                Kind::Sequence(items) if !self.is_flow(found) => match items.first() {
                    Some(item) => node = *item,
                    None => break,
                },
                _ => break,
            }
        }
        self.whole(node)
    }

    fn is_flow(&self, node: &Node) -> bool {
        let line = node.start.line();
        self.line(line)[self.offset(line, node.start.col())..].starts_with(['{', '['])
    }

    fn whole(&self, node: usize) -> Spot {
        let node = &self.nodes[node];
        self.spot(node.start, node.end)
    }

    fn spot(&self, start: Marker, end: Marker) -> Spot {
        let line = start.line().max(1);
        let rest = self.line(line)[self.offset(line, start.col())..].trim_end();
        let ends_here = end.line() == start.line() && end.col() > start.col();
        let length_max = if ends_here { end.col() - start.col() } else { usize::MAX };
        Spot { line, column: start.col() + 1, length: rest.chars().take(length_max).count().max(1) }
    }
}

/// As what the key `text` is read where that is not the text itself: `0x1F:` is the key 31.
fn read_as(text: &str, plain: bool) -> Option<String> {
    let value = (plain && may_be_no_text(text)).then(|| serde_yaml::from_str::<Value>(text))?.ok()?;
    Some(key_text(&value)).filter(|read| read != text)
}

#[derive(Default)]
struct Builder {
    nodes: Vec<Node>,
    anchors: HashMap<usize, usize>,
    open: Vec<Open>,
    roots: Vec<usize>,
    documents: Vec<Span>,
}

struct Open {
    node: usize,
    key: Option<usize>,
}

impl Builder {
    fn add(&mut self, span: Span, kind: Kind, anchor: usize) -> usize {
        let node = self.nodes.len();
        self.nodes.push(Node { start: span.start, end: span.end, kind });
        if anchor != 0 {
            self.anchors.insert(anchor, node);
        }
        match self.open.last_mut() {
            None => self.roots.push(node),
            Some(open) => match &mut self.nodes[open.node].kind {
                Kind::Sequence(items) => items.push(node),
                Kind::Mapping(entries) => match open.key.take() {
                    None => open.key = Some(node),
                    Some(key) => entries.push((key, node)),
                },
                Kind::Scalar { .. } | Kind::Alias(_) => {}
            },
        }
        node
    }

    fn end(&mut self, span: Span) {
        if let Some(open) = self.open.pop() {
            let node = &mut self.nodes[open.node];
            // A block ends where the next token begins, which may be lines below.
            node.end = span.end;
        }
    }
}

impl<'input> SpannedEventReceiver<'input> for Builder {
    fn on_event(&mut self, event: Event<'input>, span: Span) {
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let plain = style == ScalarStyle::Plain;
                self.add(span, Kind::Scalar { text: text.into_owned(), plain }, anchor);
            }
            Event::Alias(anchor) => {
                let target = self.anchors.get(&anchor).copied();
                self.add(span, Kind::Alias(target), 0);
            }
            Event::SequenceStart(anchor, _) => {
                let node = self.add(span, Kind::Sequence(Vec::new()), anchor);
                self.open.push(Open { node, key: None });
            }
            Event::MappingStart(anchor, _) => {
                let node = self.add(span, Kind::Mapping(Vec::new()), anchor);
                self.open.push(Open { node, key: None });
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(span),
            Event::DocumentStart(_) => self.documents.push(span),
            Event::DocumentEnd | Event::StreamStart | Event::StreamEnd | Event::Nothing => {}
        }
    }
}

/// A path one key longer.
pub(super) fn below(path: &[Segment], key: &str) -> Path {
    let mut longer = path.to_vec();
    longer.push(Segment::Key(key.into()));
    longer
}

/// A path one position longer.
pub(super) fn item(path: &[Segment], index: usize) -> Path {
    let mut longer = path.to_vec();
    longer.push(Segment::Index(index));
    longer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        text.split('.')
            .filter(|s| !s.is_empty())
            .map(|s| s.parse().ok().filter(|n| *n < 100).map_or_else(|| Segment::Key(s.into()), Segment::Index))
            .collect()
    }

    fn at(text: &str, place: &str, part: At) -> (usize, usize, String) {
        let positions = Positions::of(text);
        let spot = positions.locate(&path(place), part);
        let meant: String = positions.line(spot.line).chars().skip(spot.column - 1).take(spot.length).collect();
        (spot.line, spot.column, meant)
    }

    #[test]
    fn keys_and_values_are_found() {
        let text = "service: 메일\nchecks:\n  - name: a\n    http: { url: \"x y\", 404: [1, 2] }\n  - name: b\n    empty:\n    list:\n    - 7\n    text: |\n      long\n";
        let table = [
            ("service", At::Key, 1, 1, "service"),
            ("service", At::Value, 1, 10, "메일"),
            ("checks.0", At::Key, 3, 5, "name"),
            ("checks.0.http", At::Value, 4, 11, "{ url: \"x y\", 404: [1, 2] }"),
            ("checks.0.http.url", At::Value, 4, 18, "\"x y\""),
            ("checks.0.http.404.1", At::Value, 4, 34, "2"),
            ("checks.0.http.none.x", At::Value, 4, 5, "http"),
            ("checks.1.empty", At::Value, 6, 5, "empty"),
            ("checks.1.list", At::Value, 7, 5, "list"),
            ("checks.1.list.0", At::Value, 8, 7, "7"),
            ("checks.1.text", At::Value, 10, 7, "long"),
            ("", At::Key, 1, 1, "service"),
            ("checks", At::Value, 2, 1, "checks"),
        ];
        for (place, part, line, column, meant) in table {
            assert_eq!(at(text, place, part), (line, column, meant.to_owned()), "{place} {part:?}");
        }
    }

    #[test]
    fn aliases_and_merges_are_followed() {
        let text = "x-a: &a { every: 1s }\nx-b: &b\n  slow: 2s\nc: *a\nd:\n  <<: [*a, *b]\n  name: n\ne: { <<: *b }\n";
        let table = [
            ("c", At::Value, 4, 4, "*a"),
            ("c.every", At::Value, 1, 18, "1s"),
            ("d.every", At::Value, 1, 18, "1s"),
            ("d.slow", At::Key, 3, 3, "slow"),
            ("e.slow", At::Value, 3, 9, "2s"),
        ];
        for (place, part, line, column, meant) in table {
            assert_eq!(at(text, place, part), (line, column, meant.to_owned()), "{place} {part:?}");
        }
    }

    #[test]
    fn duplicates_are_all_found_whatever_the_line_ends() {
        for end in ["\n", "\r\n", "\r"] {
            let text = format!("a: 1{end}b: {{ c: 1, c: 2, c: 3 }}{end}a: 2{end}");
            let found: Vec<_> = Positions::of(&text)
                .duplicates(10)
                .into_iter()
                .map(|d| (d.key, d.again.line, d.again.column, d.first.line, d.first.column))
                .collect();
            assert_eq!(
                found,
                [("a".into(), 3, 1, 1, 1), ("c".into(), 2, 12, 2, 6), ("c".into(), 2, 18, 2, 6)],
                "{end:?}"
            );
        }
    }

    #[test]
    fn keys_of_a_large_mapping_are_found() {
        let mut text: String = (0..100).map(|n| format!("key{n}: [{n}]\n")).collect();
        text.push_str("0x1F: hex\n'007': agent\ntrue: yes\n<<: { merged: 1 }\nkey7: again\n");
        for (place, line, meant) in [
            ("key7", 8, "key7"),
            ("key99.0", 100, "99"),
            ("31", 101, "0x1F"),
            ("007", 102, "'007'"),
            ("true", 103, "true"),
            ("merged", 104, "merged"),
        ] {
            let part = if place.ends_with(".0") { At::Value } else { At::Key };
            let number = place.starts_with(|c: char| c.is_ascii_digit());
            let path = if number { vec![Segment::Key(place.into())] } else { path(place) };
            let positions = Positions::of(&text);
            let spot = positions.locate(&path, part);
            let found: String = positions.line(spot.line).chars().skip(spot.column - 1).take(spot.length).collect();
            assert_eq!((spot.line, &*found), (line, meant), "{place}");
        }
    }

    proptest::proptest! {
        #[test]
        fn marks_find_every_character(line in "[a-z한\u{1f600}é]{0,2000}", nth in 0..2_100_usize) {
            let plain = line.char_indices().nth(nth).map_or(line.len(), |(at, _)| at);
            proptest::prop_assert_eq!(Marks::of(&line).offset(&line, nth), plain);
        }
    }

    #[test]
    fn a_broken_text_has_positions_up_to_there() {
        assert_eq!(at("a: 1\nb: [1, {\n", "b.1", At::Value).0, 2);
        assert_eq!(at("", "a.b", At::Value), (1, 1, String::new()));
    }
}
