//! Text for terminals: display width, safe characters, tones, tables.
//!
//! Widths are counted in terminal cells: Hangul syllables, Chinese characters, full-width forms and most emoji take
//! two, combining marks none. What a peer said is made visible before it is shown, so that no server can move the
//! cursor, change colours or reorder the line of whoever looks at it.

use std::{fmt::Write, time::Duration};

use crate::value::TimeSpan;

/// Where text is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Screen {
    /// Cells in a line; `None` for a pipe or a file, where nothing is cut.
    pub width: Option<usize>,
    /// Whether tones become colours.
    pub colour: bool,
}

/// What a piece of text means to its reader; on a terminal, its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Tone {
    /// Nothing in particular.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Broken.
    Bad,
    /// Less important than its surroundings.
    Dim,
    /// More important than its surroundings.
    Strong,
}

impl Screen {
    /// The text in its tone.
    pub fn tone(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            _ if !self.colour || text.is_empty() => return text.to_owned(),
            Tone::Plain => return text.to_owned(),
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "31",
            Tone::Dim => "2",
            Tone::Strong => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// The tone of an outcome's, a state's, a severity's or a message state's word.
pub fn tone_of(word: &str) -> Tone {
    match word {
        "ok" | "up" | "delivered" => Tone::Good,
        "slow" | "suspect" | "degraded" | "pending" => Tone::Warn,
        "failed" | "down" | "refused" | "given_up" => Tone::Bad,
        "unknown" | "superseded" => Tone::Dim,
        _ => Tone::Plain,
    }
}

/// Cells a character takes (Unicode 16, East Asian Wide and Fullwidth, emoji presentation).
pub fn char_width(c: char) -> usize {
    match u32::from(c) {
        0..=0x1f | 0x7f..=0x9f => 0,
        // Combining marks, Hangul vowels and finals that join the syllable before them, joiners, variation selectors.
        0x300..=0x36f
        | 0x483..=0x489
        | 0x591..=0x5bd
        | 0x610..=0x61a
        | 0x64b..=0x65f
        | 0x1160..=0x11ff
        | 0x1ab0..=0x1aff
        | 0x1dc0..=0x1dff
        | 0x200b..=0x200f
        | 0x202a..=0x202e
        | 0x2060..=0x2064
        | 0x2066..=0x206f
        | 0x20d0..=0x20ff
        | 0x302a..=0x302d
        | 0x3099..=0x309a
        | 0xd7b0..=0xd7ff
        | 0xfe00..=0xfe0f
        | 0xfe20..=0xfe2f
        | 0xfeff
        | 0x1f3fb..=0x1f3ff
        | 0xe0000..=0xe01ef => 0,
        0x1100..=0x115f
        | 0x231a..=0x231b
        | 0x2329..=0x232a
        | 0x23e9..=0x23ec
        | 0x23f0
        | 0x23f3
        | 0x25fd..=0x25fe
        | 0x2614..=0x2615
        | 0x2648..=0x2653
        | 0x267f
        | 0x2693
        | 0x26a1
        | 0x26aa..=0x26ab
        | 0x26bd..=0x26be
        | 0x26c4..=0x26c5
        | 0x26ce
        | 0x26d4
        | 0x26ea
        | 0x26f2..=0x26f3
        | 0x26f5
        | 0x26fa
        | 0x26fd
        | 0x2705
        | 0x270a..=0x270b
        | 0x2728
        | 0x274c
        | 0x274e
        | 0x2753..=0x2755
        | 0x2757
        | 0x2795..=0x2797
        | 0x27b0
        | 0x27bf
        | 0x2b1b..=0x2b1c
        | 0x2b50
        | 0x2b55
        | 0x2e80..=0x303e
        | 0x3041..=0x33ff
        | 0x3400..=0x4dbf
        | 0x4e00..=0xa4cf
        | 0xa960..=0xa97f
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe10..=0xfe19
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x16fe0..=0x18dff
        | 0x1aff0..=0x1b2ff
        | 0x1f004
        | 0x1f0cf
        | 0x1f18e
        | 0x1f191..=0x1f19a
        | 0x1f1e6..=0x1f320
        | 0x1f32d..=0x1f335
        | 0x1f337..=0x1f37c
        | 0x1f37e..=0x1f393
        | 0x1f3a0..=0x1f3ca
        | 0x1f3cf..=0x1f3d3
        | 0x1f3e0..=0x1f3f0
        | 0x1f3f4
        | 0x1f3f8..=0x1f43e
        | 0x1f440
        | 0x1f442..=0x1f4fc
        | 0x1f4ff..=0x1f53d
        | 0x1f54b..=0x1f54e
        | 0x1f550..=0x1f567
        | 0x1f57a
        | 0x1f595..=0x1f596
        | 0x1f5a4
        | 0x1f5fb..=0x1f64f
        | 0x1f680..=0x1f6c5
        | 0x1f6cc
        | 0x1f6d0..=0x1f6d2
        | 0x1f6d5..=0x1f6d7
        | 0x1f6dc..=0x1f6df
        | 0x1f6eb..=0x1f6ec
        | 0x1f6f4..=0x1f6fc
        | 0x1f7e0..=0x1f7eb
        | 0x1f7f0
        | 0x1f90c..=0x1f93a
        | 0x1f93c..=0x1f945
        | 0x1f947..=0x1f9ff
        | 0x1fa70..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// Cells a text takes.
pub fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

/// The text with everything that would act on a terminal shown as an escape: control characters, and the marks that
/// reorder a line.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                let _ = write!(shown, "\\u{{{:x}}}", u32::from(c));
            }
            '\r' => shown.push_str("\\r"),
            '\n' => shown.push_str("\\n"),
            '\t' => shown.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(shown, "\\x{:02x}", u32::from(c));
            }
            c => shown.push(c),
        }
    }
    shown
}

/// The text cut to `cells`, the cut marked by `…`. Never splits a character, nor a mark from its letter.
pub fn fit(text: &str, cells: usize) -> String {
    if width(text) <= cells {
        return text.to_owned();
    }
    let mut cut = String::new();
    let mut used = 0;
    for c in text.chars() {
        let next = used + char_width(c);
        if next + 1 > cells {
            break;
        }
        cut.push(c);
        used = next;
    }
    if cells > 0 {
        cut.push('…');
    }
    cut
}

/// The text followed by spaces up to `cells`.
pub fn pad(text: &str, cells: usize) -> String {
    let spaces = cells.saturating_sub(width(text));
    format!("{text}{:spaces$}", "")
}

/// The text in lines of at most `cells`, broken at spaces where there are any.
pub fn wrap(text: &str, cells: Option<usize>) -> Vec<String> {
    let Some(cells) = cells.map(|c| c.max(8)) else { return text.lines().map(str::to_owned).collect() };
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split(' ').filter(|w| !w.is_empty()) {
            if !line.is_empty() && width(&line) + 1 + width(word) > cells {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            for c in word.chars() {
                if width(&line) + char_width(c) > cells {
                    lines.push(std::mem::take(&mut line));
                }
                line.push(c);
            }
        }
        lines.push(line);
    }
    lines
}

/// A measured time, in three figures: `0.41ms`, `12.3ms`, `812ms`, `2.35s`, `1m30s`.
pub fn measured(span: Duration) -> String {
    let ms = span.as_secs_f64() * 1_000.0;
    match ms {
        ms if ms < 9.995 => format!("{ms:.2}ms"),
        ms if ms < 99.95 => format!("{ms:.1}ms"),
        ms if ms < 999.5 => format!("{ms:.0}ms"),
        ms if ms < 9_995.0 => format!("{:.2}s", ms / 1_000.0),
        ms if ms < 59_950.0 => format!("{:.1}s", ms / 1_000.0),
        _ => TimeSpan(Duration::from_secs(span.as_secs())).to_string(),
    }
}

/// How long ago, or how long: whole seconds and up, two units.
pub fn rough(span: Duration) -> String {
    TimeSpan(Duration::from_secs(span.as_secs())).to_string()
}

/// `1 check`, `3 checks`.
pub fn count(n: usize, one: &str) -> String {
    format!("{n} {one}{}", if n == 1 { "" } else { "s" })
}

/// A cell of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
    right: bool,
}

impl Cell {
    /// A cell; what would act on the terminal is shown as an escape.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self { text: visible(text.as_ref()), ..Self::default() }
    }

    /// A cell in the tone of its own word.
    pub fn word(word: &str) -> Self {
        Self::new(word).tone(tone_of(word))
    }

    /// The same in a tone.
    pub fn tone(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }

    /// The same, set to the right.
    pub fn right(self) -> Self {
        Self { right: true, ..self }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text)
    }
}

/// Cells between two columns.
const GAP: usize = 2;

/// Fewest cells the last column keeps when a line is too narrow: less tells nothing.
const LAST_MIN: usize = 16;

/// Rows under headings, the columns as wide as they need; only the last is cut to fit the screen.
#[derive(Clone, Debug, Default)]
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table.
    pub fn new(headings: &[&'static str]) -> Self {
        Self { headings: headings.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table, each line ended by a newline; empty without rows.
    pub fn render(&self, screen: Screen) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        // A heading stands where its column's text does.
        let head = |(i, heading): (usize, &&str)| Cell {
            right: self.rows.iter().any(|row| row.get(i).is_some_and(|c| c.right)),
            ..Cell::new(heading).tone(Tone::Dim)
        };
        let heads: Vec<Cell> = self.headings.iter().enumerate().map(head).collect();
        let has_heads = self.headings.iter().any(|h| !h.is_empty());
        let columns = self.headings.len();
        let mut widths = vec![0; columns];
        for row in self.rows.iter().chain(has_heads.then_some(&heads)) {
            for (cells, cell) in widths.iter_mut().zip(row) {
                *cells = width(&cell.text).max(*cells);
            }
        }
        let before: usize = widths.iter().take(columns.saturating_sub(1)).map(|w| w + GAP).sum();
        if let (Some(screen), Some(last)) = (screen.width, widths.last_mut()) {
            *last = (*last).min(screen.saturating_sub(before).max(LAST_MIN));
        }
        let mut text = String::new();
        for row in has_heads.then_some(&heads).into_iter().chain(&self.rows) {
            text.push_str(&line(row, &widths, screen));
            text.push('\n');
        }
        text
    }
}

fn line(row: &[Cell], widths: &[usize], screen: Screen) -> String {
    let mut line = String::new();
    let last = row.iter().rposition(|c| !c.text.is_empty());
    for (i, (cell, cells)) in row.iter().zip(widths).enumerate() {
        if Some(i) > last {
            break;
        }
        let text = fit(&cell.text, *cells);
        let spaces = cells - width(&text);
        let toned = screen.tone(cell.tone, &text);
        match (cell.right, Some(i) == last) {
            (true, _) => {
                let _ = write!(line, "{:spaces$}{toned}", "");
            }
            (false, true) => line.push_str(&toned),
            (false, false) => {
                let _ = write!(line, "{toned}{:spaces$}", "");
            }
        }
        if Some(i) != last {
            line.push_str(&" ".repeat(GAP));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_counted_in_cells() {
        let table = [
            ("", 0),
            ("mail", 4),
            ("카카오톡", 8),
            ("한", 2),
            // The same syllable decomposed: a leading consonant, and two parts that join it.
            ("\u{1112}\u{1161}\u{11ab}", 2),
            ("e\u{301}", 1),
            ("😀", 2),
            ("ﾊﾝ", 2),
            ("█▏…", 3),
            ("烽燧", 4),
        ];
        for (text, cells) in table {
            assert_eq!(width(text), cells, "{text}");
        }
    }

    #[test]
    fn cuts_fit_and_never_split_a_letter() {
        let table = [
            ("mail", 4, "mail"),
            ("mails", 4, "mai…"),
            ("카카오톡", 8, "카카오톡"),
            ("카카오톡", 7, "카카오…"),
            ("카카오톡", 6, "카카…"),
            ("카카오톡", 1, "…"),
            ("카카오톡", 0, ""),
            ("ae\u{301}bc", 3, "ae\u{301}…"),
        ];
        for (text, cells, cut) in table {
            assert_eq!(fit(text, cells), cut, "{text} in {cells}");
        }
        for cells in 0..12 {
            assert!(width(&fit("a한b글c字d", cells)) <= cells);
        }
    }

    #[test]
    fn nothing_a_peer_says_acts_on_the_terminal() {
        assert_eq!(visible("a\x1b[31mb\r\n\t\u{202e}c\x7f\u{9b}"), "a\\x1b[31mb\\r\\n\\t\\u{202e}c\\x7f\\x9b");
        assert_eq!(visible("카카오톡 😀"), "카카오톡 😀");
    }

    #[test]
    fn times_have_three_figures() {
        let table = [
            (0, "0.00ms"),
            (410, "0.41ms"),
            (9_994, "9.99ms"),
            (9_996, "10.0ms"),
            (12_340, "12.3ms"),
            (812_000, "812ms"),
            (999_600, "1.00s"),
            (2_350_000, "2.35s"),
            (59_900_000, "59.9s"),
            (90_000_000, "1m30s"),
            (3_700_000_000, "1h1m"),
        ];
        for (us, text) in table {
            assert_eq!(measured(Duration::from_micros(us)), text, "{us} µs");
        }
    }

    #[test]
    fn tables_align_double_width_text_and_cut_only_the_last_column() {
        let mut table = Table::new(&["NAME", "MS", "REASON"]);
        table.row(vec!["카카오톡".into(), Cell::new("7").right(), "a reason that is long".into()]);
        table.row(vec!["mail".into(), Cell::new("812").right(), Cell::default()]);
        let plain = Screen::default();
        assert_eq!(
            table.render(plain),
            "NAME       MS  REASON\n\
             카카오톡    7  a reason that is long\n\
             mail      812\n"
        );
        let narrow = Screen { width: Some(32), colour: false };
        assert_eq!(table.render(narrow).lines().nth(1), Some("카카오톡    7  a reason that is…"));
        let colour = Screen { width: None, colour: true };
        let mut table = Table::new(&["", ""]);
        table.row(vec![Cell::word("down"), "x".into()]);
        assert_eq!(table.render(colour), "\x1b[31mdown\x1b[0m  x\n");
        assert_eq!(Table::new(&["A"]).render(plain), "");
    }

    #[test]
    fn text_wraps_at_spaces_and_inside_words_that_do_not_fit() {
        assert_eq!(wrap("one two three", Some(8)), ["one two", "three"]);
        assert_eq!(wrap("카카오톡카카오", Some(8)), ["카카오톡", "카카오"]);
        assert_eq!(wrap("a b\nc", None), ["a b", "c"]);
    }
}
