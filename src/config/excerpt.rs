//! Lines of a file as they may be shown: what stands where a secret would stand is starred out.
//!
//! This looks at the text alone, because a file that is no YAML has nothing else, and because YAML has many ways to write
//! one value. Whatever follows a key that is called like a secret is taken for one; references are shown, for they are
//! none. A line keeps its length, so that columns stay right.

use std::borrow::Cow;

use super::secrets::is_secret_key;

/// Headers whose values are no secrets; of all others it cannot be known.
const PLAIN_HEADERS: [&str; 8] =
    ["accept", "accept-encoding", "accept-language", "cache-control", "content-type", "host", "origin", "user-agent"];

/// How references begin.
const REFERENCES: [&str; 4] = ["${env:", "${credential:", "${file:", "${account"];

/// Longest line in bytes that is read value by value; of a longer one, what follows the first secret is hidden whole.
const LINE_BYTES_MAX: usize = 8 << 10;

/// Longest URL that is looked into.
const URL_BYTES_MAX: usize = 4 << 10;

/// Most lines above one that are looked at for the keys that it belongs to: a private key has fifty.
const LINES_ABOVE_MAX: usize = 200;

/// How far a secret is taken to reach in its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// To the end of the value: the file is YAML.
    Value,
    /// To the end of the line: it is none, and nobody can tell where a value ends.
    Line,
}

/// The line with this index, of all lines of a file.
pub(super) fn shown<'l>(lines: &[&'l str], index: usize, reach: Reach) -> Cow<'l, str> {
    let Some(line) = lines.get(index).copied() else { return Cow::Borrowed("") };
    let reach = if line.len() > LINE_BYTES_MAX { Reach::Line } else { reach };
    let mut hidden = userinfo_and_query(line);
    let keys = keys_of(line);
    let parents = parents(lines, index);
    let mut within = parents.first().copied();
    if keys.is_empty() || reach == Reach::Line && !has_own_key(line) {
        // It goes on with a value that begins above.
        if parents.iter().any(|key| is_secret_key(key)) {
            hidden.push((0, line.len()));
        }
    }
    let mut seen = 0;
    for Key { name, from } in keys {
        if closes(&line[seen..from]) {
            within = parents.first().copied();
        }
        seen = from;
        let secret = is_secret_key(name)
            || within.is_some_and(|parent| parent.eq_ignore_ascii_case("headers"))
                && !PLAIN_HEADERS.contains(&&*name.to_ascii_lowercase());
        if secret {
            let until = if reach == Reach::Value { value_end(line, from) } else { line.len() };
            if !says_nothing(&line[from..until]) {
                hidden.push(within_quotes(line, from, until));
            }
            if until == line.len() {
                break;
            }
        }
        // In a flow mapping the keys that follow are within it.
        if line[from..].trim_start().starts_with('{') {
            within = Some(name);
        }
    }
    if hidden.is_empty() {
        return Cow::Borrowed(line);
    }
    Cow::Owned(starred(line, &hidden))
}

/// A key in a line.
struct Key<'l> {
    name: &'l str,
    /// The byte after its colon.
    from: usize,
}

/// Whatever looks like a key: a word before a colon that a space or the end follows, or in quotes.
fn keys_of(line: &str) -> Vec<Key<'_>> {
    let mut keys = Vec::new();
    for (at, _) in line.match_indices(':') {
        let before = line[..at].trim_end();
        let bare = before.trim_end_matches(['"', '\'']);
        let quoted = bare.len() < before.len();
        if !quoted && !line[at + 1..].chars().next().is_none_or(char::is_whitespace) {
            continue;
        }
        let word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
        let start = bare.rfind(|c| !word(c)).map_or(0, |i| i + bare[i..].chars().next().map_or(0, char::len_utf8));
        let name = bare[start..].trim_start_matches('-');
        if !name.is_empty() {
            keys.push(Key { name, from: at + 1 });
        }
    }
    keys
}

/// Whether the line begins with a key of a block, or with an item of a list.
fn has_own_key(line: &str) -> bool {
    let text = line.trim_start().trim_start_matches("- ").trim_start();
    keys_of(text).first().is_some_and(|key| {
        let before = &text[..key.from - 1];
        before.trim_end().trim_matches(['"', '\'']) == key.name
    })
}

/// The keys above a line that it is indented below, the nearest first.
fn parents<'l>(lines: &[&'l str], index: usize) -> Vec<&'l str> {
    let indent = |line: &str| line.len() - line.trim_start_matches([' ', '\t', '-']).len();
    let mut least = indent(lines[index]);
    // A list may stand as deep as its key.
    if lines[index].trim_start().starts_with("- ") {
        least += 1;
    }
    let mut found = Vec::new();
    for line in lines[..index].iter().rev().take(LINES_ABOVE_MAX) {
        if line.trim().is_empty() || line.trim_start().starts_with('#') || indent(line) >= least {
            continue;
        }
        least = indent(line);
        match keys_of(line).last() {
            Some(key) => found.push(key.name),
            // The middle of a value: what it belongs to is above it.
            None => least += 1,
        }
        if least == 0 {
            break;
        }
    }
    found
}

/// Whether a flow mapping ends here; the bracket of a reference ends none.
fn closes(text: &str) -> bool {
    let mut refers = false;
    text.char_indices().any(|(at, c)| {
        refers |= text[at..].starts_with("${");
        let closes = c == '}' && !refers;
        refers &= c != '}';
        closes
    })
}

/// Whether a value is one reference and nothing else, or none at all.
fn says_nothing(value: &str) -> bool {
    let value = value.trim().trim_matches(['"', '\'']);
    let name = REFERENCES.iter().find_map(|kind| value.strip_prefix(kind));
    let plain = |name: &str| name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/'));
    matches!(value, "" | "~" | "null") || name.is_some_and(|name| plain(name.strip_suffix('}').unwrap_or(name)))
}

/// The same range without the quotes at both of its ends.
fn within_quotes(line: &str, from: usize, until: usize) -> (usize, usize) {
    let value = &line[from..until];
    let begin = from + (value.len() - value.trim_start().len());
    let value = value.trim();
    match value.chars().next() {
        Some(quote @ ('"' | '\'')) if value.len() > 1 && value.ends_with(quote) => (begin + 1, begin + value.len() - 1),
        _ => (begin, until),
    }
}

/// Where the value that begins at a byte ends.
fn value_end(line: &str, from: usize) -> usize {
    let rest = &line[from..];
    let begin = from + (rest.len() - rest.trim_start().len());
    let value = &line[begin..];
    let ends = |close: char| {
        let mut escaped = false;
        value.char_indices().skip(1).find_map(|(at, c)| {
            let end = c == close && !escaped;
            escaped = close == '"' && c == '\\' && !escaped;
            end.then_some(at + c.len_utf8())
        })
    };
    let end = match value.chars().next() {
        Some('"') => ends('"'),
        // Two of them are one within the value.
        Some('\'') => Some(value.replace("''", "\u{1}\u{1}")).and_then(|v| Some(v[1..].find('\'')? + 2)),
        Some('{') => ends('}'),
        Some('[') => ends(']'),
        // In a block such a value may hold commas and brackets; what is hidden too much does no harm.
        _ if !line[..from].contains('{') => None,
        _ => {
            // The bracket that closes a reference is none of the mapping's.
            let mut refers = false;
            value.char_indices().find_map(|(at, c)| {
                refers |= value[at..].starts_with("${");
                let end = matches!(c, ',' | '}') && !refers;
                refers &= c != '}';
                end.then_some(at)
            })
        }
    };
    begin + end.unwrap_or(value.len())
}

/// User names and passwords in URLs, and what is called like a secret in their queries.
fn userinfo_and_query(line: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut seen = 0;
    for (at, mark) in line.match_indices("://") {
        let from = at + mark.len();
        // One within another, such as in a query, is a part of it.
        if from < seen {
            continue;
        }
        let url = &line[from..line.floor_char_boundary(from + URL_BYTES_MAX)];
        let url = &url[..url.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`')).unwrap_or(url.len())];
        seen = from + url.len();
        let authority = &url[..url.find(['/', '?', '#']).unwrap_or(url.len())];
        if let Some(end) = authority.rfind('@') {
            let begin = authority.find(':').filter(|colon| *colon < end).map_or(0, |colon| colon + 1);
            found.push((from + begin, from + end));
        }
        let Some(query) = url.find('?') else { continue };
        let mut begin = query + 1;
        for pair in url[query + 1..].split('&') {
            if let Some((name, _)) = pair.split_once('=')
                && is_secret_key(name)
            {
                found.push((from + begin + name.len() + 1, from + begin + pair.len()));
            }
            begin += pair.len() + 1;
        }
    }
    found
}

/// The line with these ranges of bytes starred out, but for spaces and for references in them.
fn starred(line: &str, hidden: &[(usize, usize)]) -> String {
    let mut masked = vec![false; line.len()];
    for (from, until) in hidden {
        masked[*from..*until].fill(true);
    }
    for (at, _) in line.match_indices("${") {
        let rest = &line[at..];
        let refers = REFERENCES.iter().any(|kind| rest.starts_with(kind));
        if let Some(end) = rest.find(['}', ' ', '"']).filter(|end| refers && rest[*end..].starts_with('}')) {
            masked[at..=at + end].fill(false);
        }
    }
    let star = |(at, c): (usize, char)| if masked[at] && !matches!(c, ' ' | '\t') { '*' } else { c };
    line.char_indices().map(star).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<&str> {
        text.lines().collect()
    }

    #[test]
    fn what_follows_the_key_of_a_secret_is_hidden() {
        let table = [
            ("password: hunter2", "password: *******"),
            ("password: @hunter2", "password: ********"),
            ("password: \"hunter2\\secret\"", "password: \"**************\""),
            ("  - { username: u, password: a\"b, topic: t }", "  - { username: u, password: ***, topic: t }"),
            ("{ password: 'it''s', topic: t }", "{ password: '*****', topic: t }"),
            ("{ password: \"a, \\\" b\", topic: t }", "{ password: \"** ** *\", topic: t }"),
            ("{ password: { value: x y }, topic: t }", "{ password: * ****** * ** topic: t }"),
            ("{ \"password\":\"x\", topic: t }", "{ \"password\":\"*\", topic: t }"),
            ("password: \"${env:PASSWORD}\"", "password: \"${env:PASSWORD}\""),
            ("password: a${env:PASSWORD}b", "password: *${env:PASSWORD}*"),
            ("headers: { Cookie: \"${env:C}\" }, foo: 1", "headers: { Cookie: \"${env:C}\" }, foo: 1"),
            ("{ password: ${env:PASSWORD}, topic: t }", "{ password: ${env:PASSWORD}, topic: t }"),
            ("url: https://u:hunter2@h/a?token=x1&b=c", "url: https://u:*******@h/a?token=**&b=c"),
            ("url: https://KEY@h/", "url: https://***@h/"),
            ("headers: { Accept: text/plain, Cookie: sid=1 }", "headers: { Accept: text/plain, Cookie: ***** }"),
            ("topic: a:b # password", "topic: a:b # password"),
            ("메일: 서울", "메일: 서울"),
        ];
        for (line, expected) in table {
            let got = shown(&[line], 0, Reach::Value);
            if expected.contains("** topic") {
                // How much more is hidden is not promised.
                assert!(!got.contains("x y") && got.chars().count() == line.chars().count(), "{line}: {got}");
                continue;
            }
            assert_eq!(got, expected, "{line}");
            assert_eq!(got.chars().count(), line.chars().count());
        }
    }

    #[test]
    fn of_what_is_no_yaml_the_rest_of_the_line_is_hidden() {
        let table = [
            ("{ password: a, b: c }", "{ password: ** ** * *"),
            ("password: 'a's' x", "password: ***** *"),
            ("password: {hunter2", "password: ********"),
        ];
        for (line, expected) in table {
            assert_eq!(shown(&[line], 0, Reach::Line), expected, "{line}");
        }
    }

    #[test]
    fn the_lines_below_belong_to_it() {
        let text = lines(
            "mqtt:\n  password: |\n    hunter2\n    a: b\n  topic: t\n  token:\n    - s1\n  headers:\n    Accept: a\n    X-Key: k\n",
        );
        let all: Vec<_> = (0..text.len()).map(|index| shown(&text, index, Reach::Line)).collect();
        let expected = [
            "mqtt:",
            "  password: *",
            "    *******",
            "    a: b",
            "  topic: t",
            "  token:",
            "    * **",
            "  headers:",
            "    Accept: a",
            "    X-Key: *",
        ];
        assert_eq!(all[..3], expected[..3]);
        assert_eq!(all[4..], expected[4..]);
    }
}
