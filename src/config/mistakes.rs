//! Mistakes as a person reads them: place, what is wrong, the line, what to do.
//!
//! Columns are counted in characters, as editors do; the caret line is laid out in terminal cells, so that it
//! stands under the right word after Hangul, an emoji or a tab. Nothing shown here holds a control character.

use std::fmt;

use serde::Serialize;
use unicode_normalization::char::is_combining_mark;

use super::positions::Marks;

/// Longest part of a line shown, in terminal cells: it must fit a window beside its number.
const SOURCE_CELLS_MAX: usize = 110;

/// The same in bytes, for characters that take no cell.
const SOURCE_BYTES_MAX: usize = 1_024;

/// Cells kept before the mistake when a long line is cut.
const SOURCE_CELLS_BEFORE: usize = 40;

/// Most mistakes shown; a wrong directory full of other YAML would otherwise flood the terminal.
pub const SHOWN_MAX: usize = 500;

/// One mistake in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// The file.
    pub file: String,
    /// Its line, from 1; absent when the mistake is in no line (a file that cannot be read).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The column in characters, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// How many characters are meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<usize>,
    /// What is wrong.
    pub text: String,
    /// The offending line as far as it is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Another place that belongs to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// The line below `source` that points at the mistake.
    #[serde(skip)]
    pub caret: Option<String>,
}

impl Mistake {
    /// A mistake of a whole file.
    pub fn of_file(file: impl Into<String>, text: impl Into<String>, help: Option<String>) -> Self {
        Self {
            file: file.into(),
            line: None,
            column: None,
            length: None,
            text: text.into(),
            source: None,
            note: None,
            help,
            caret: None,
        }
    }

    /// A mistake in a line: `column` and `length` in characters, `line_text` the whole line with its marks.
    pub(super) fn at(
        file: impl Into<String>,
        line: usize,
        (column, length): (usize, usize),
        line_text: &str,
        marks: &Marks,
    ) -> Self {
        let (source, caret) = excerpt(line_text, marks.offset(line_text, column.saturating_sub(1)), length);
        Self {
            line: Some(line),
            column: Some(column),
            length: Some(length),
            source: Some(source),
            caret: Some(caret),
            ..Self::of_file(file, "", None)
        }
    }
}

/// All mistakes of one load, by file and line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mistakes {
    /// The mistakes.
    pub mistakes: Vec<Mistake>,
    /// Whether there are more than could be kept.
    pub and_more: bool,
}

impl From<Vec<Mistake>> for Mistakes {
    fn from(mistakes: Vec<Mistake>) -> Self {
        Self { mistakes, and_more: false }
    }
}

impl Mistakes {
    /// How many files hold them.
    pub fn files(&self) -> usize {
        let mut files: Vec<&str> = self.mistakes.iter().map(|m| m.file.as_str()).collect();
        files.sort_unstable();
        files.dedup();
        files.len()
    }

    /// As text, in colour for a terminal if wanted.
    pub fn render(&self, colour: bool) -> String {
        let paint =
            |code: &str, text: &str| if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
        let mut out = String::new();
        for mistake in self.mistakes.iter().take(SHOWN_MAX) {
            let place = match (mistake.line, mistake.column) {
                (Some(line), Some(column)) => format!("{}:{line}:{column}", mistake.file),
                _ => mistake.file.clone(),
            };
            out.push_str(&format!("{}: {}\n", paint("1", &place), paint("1;31", &mistake.text)));
            if let (Some(line), Some(source), Some(caret)) = (mistake.line, &mistake.source, &mistake.caret) {
                let gutter = " ".repeat(line.to_string().len());
                out.push_str(&format!("  {} {source}\n", paint("34", &format!("{line} |"))));
                out.push_str(&format!("  {} {}\n", paint("34", &format!("{gutter} |")), paint("1;31", caret)));
            }
            for (word, text) in [("note", &mistake.note), ("help", &mistake.help)] {
                if let Some(text) = text {
                    out.push_str(&format!("  {}: {text}\n", paint("36", word)));
                }
            }
            out.push('\n');
        }
        if self.mistakes.len() > SHOWN_MAX {
            out.push_str(&format!("… and {} more\n\n", self.mistakes.len() - SHOWN_MAX));
        }
        let least = if self.and_more { "more than " } else { "" };
        let (mistakes, files) = (counted(self.mistakes.len(), "mistake"), counted(self.files(), "file"));
        out.push_str(&format!("{least}{mistakes} in {files}"));
        out
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Mistakes {}

/// `1 file`, `2 files`.
pub fn counted(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// Terminal cells a character takes: 2 for East Asian wide ones and emoji, 0 for those that join the one before.
/// (Unicode Standard Annex #11, the blocks whose characters are wide throughout.)
pub fn cells(c: char) -> usize {
    match c {
        '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' => 0,
        // Hangul vowels and finals that stand alone in decomposed text join the consonant before them.
        '\u{1160}'..='\u{11ff}' | '\u{d7b0}'..='\u{d7fb}' => 0,
        _ if is_combining_mark(c) => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{231a}'..='\u{231b}'
        | '\u{23e9}'..='\u{23ec}'
        | '\u{2614}'..='\u{2615}'
        | '\u{26a1}'
        | '\u{2705}'
        | '\u{274c}'
        | '\u{2753}'..='\u{2755}'
        | '\u{2757}'
        | '\u{2795}'..='\u{2797}'
        | '\u{2b50}'
        | '\u{2e80}'..='\u{303e}'
        | '\u{3041}'..='\u{a4cf}'
        | '\u{a960}'..='\u{a97f}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff01}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1f64f}'
        | '\u{1f680}'..='\u{1f6ff}'
        | '\u{1f900}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

/// The part of a line that is shown, and the line of carets below it, for a mistake of `length` characters that begins
/// at the byte `start`. Reads no more of the line than that part.
fn excerpt(line: &str, start: usize, length: usize) -> (String, String) {
    let mut total = 0;
    let is_long = line.char_indices().any(|(at, c)| {
        total += cells(c);
        total > SOURCE_CELLS_MAX || at > SOURCE_BYTES_MAX
    });
    let mut first = 0;
    if is_long {
        let mut before = 0;
        let fitting = line[..start].char_indices().rev().take_while(|(at, c)| {
            before += cells(*c);
            before <= SOURCE_CELLS_BEFORE && start - at <= SOURCE_BYTES_MAX / 2
        });
        first = fitting.last().map_or(start, |(at, _)| at);
    }
    let mut source = String::from(if first > 0 { "…" } else { "" });
    let mut caret = String::from(if first > 0 { " " } else { "" });
    let (mut width, mut carets, mut meant) = (0, 0, 0);
    for (at, c) in line[first..].char_indices() {
        if width + cells(c) > SOURCE_CELLS_MAX || at > SOURCE_BYTES_MAX {
            source.push('…');
            break;
        }
        width += cells(c);
        // A control character could steer the terminal; tabs stay, so that both lines are indented alike.
        source.push(if c.is_control() && c != '\t' { '\u{fffd}' } else { c });
        if first + at < start {
            caret.push_str(if c == '\t' { "\t" } else { &"  "[..cells(c)] });
        } else if meant < length {
            meant += 1;
            carets += cells(c);
        }
    }
    caret.push_str(&"^".repeat(carets.max(1)));
    (source, caret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_stands_under_the_word() {
        let table = [
            ("  timout: 5s", 3, 6, "  timout: 5s", "  ^^^^^^"),
            ("\tname: x", 2, 4, "\tname: x", "\t^^^^"),
            ("이름: 값", 5, 1, "이름: 값", "      ^^"),
            ("a\u{1b}[31m: 1", 1, 1, "a\u{fffd}[31m: 1", "^"),
            ("e\u{301}: x", 5, 1, "e\u{301}: x", "   ^"),
            ("", 1, 0, "", "^"),
            ("ab", 9, 4, "ab", "  ^"),
        ];
        for (line, column, length, source, caret) in table {
            let start = Marks::default().offset(line, column - 1);
            assert_eq!(excerpt(line, start, length), (source.to_owned(), caret.to_owned()), "{line}");
        }
    }

    #[test]
    fn a_long_line_is_cut_around_the_mistake() {
        let line = format!("{}WRONG{}", "a".repeat(300), "b".repeat(300));
        let (source, caret) = excerpt(&line, 300, 5);
        assert_eq!(source, format!("…{}WRONG{}…", "a".repeat(40), "b".repeat(65)));
        assert_eq!(caret, format!(" {}^^^^^", " ".repeat(40)));
    }

    #[test]
    fn the_whole_reads_well() {
        let mut first = Mistake::at("checks/a.yaml", 12, (3, 6), "  timout: 5s", &Marks::default());
        first.text = "unknown key `timout`".into();
        first.help = Some("did you mean `timeout`?".into());
        let mistakes =
            Mistakes::from(vec![first, Mistake::of_file("config.yaml", "cannot be read: no such file", None)]);
        assert_eq!(
            mistakes.to_string(),
            "checks/a.yaml:12:3: unknown key `timout`\n  12 |   timout: 5s\n     |   ^^^^^^\n  help: did you mean \
             `timeout`?\n\nconfig.yaml: cannot be read: no such file\n\n2 mistakes in 2 files"
        );
        assert!(mistakes.render(true).contains("\x1b[1;31munknown key"), "colour only when asked");
    }
}
