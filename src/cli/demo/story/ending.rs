//! The end of the story: the row in the database, what each check saw from beginning to end, and where to go next.

use super::{
    super::{
        scenario::{HEALTH, PORT},
        watch::Observed,
    },
    Story, WIDTH, is_bad, seconds,
};
use crate::{
    cli::render::text::{Tone, fit, pad, visible, width, wrap},
    value::Timestamp,
};

/// Cells of a strip, one for each second if the demo is no longer than this.
const STRIP: usize = 50;

/// Cells before a strip.
const LABEL: usize = 17;

impl Story {
    /// The summary. `green` counts the requests that the health page answered, by its own account.
    pub fn ending(&self, at: Timestamp, query: &str, rows: &[String], green: u64) -> String {
        let s = self.screen;
        let mut text = format!("\n  {}\n", s.tone(Tone::Dim, &format!("$ sqlite3 bongsu.db \"{query}\"")));
        for row in rows {
            text.push_str(&format!("  {}\n", fit(&visible(row), WIDTH - 2)));
        }
        text.push_str(&format!(
            "\n  What each of them saw, from left to right in {}:\n\n",
            seconds(at.since(self.started))
        ));
        for (label, check) in [("health page", HEALTH), ("port", PORT), (self.scenario.column, self.scenario.found_by)]
        {
            text.push_str(&self.strip(label, check, at));
        }
        text.push_str(&self.marks(at));
        text.push_str(&self.moral(green));
        text
    }

    /// A cell for each stretch of time: bad if anything in it was.
    fn strip(&self, label: &str, check: &str, end: Timestamp) -> String {
        let of_check: Vec<&Observed> = self.observed.iter().filter(|o| o.check == check).collect();
        let mut cells = vec![None; self.cells(end)];
        for observed in &of_check {
            let (bad, cell) = (is_bad(observed), self.cell(observed.at, end));
            cells[cell] = Some(cells[cell].unwrap_or(false) || bad);
        }
        // Where no attempt began, the one before still speaks.
        let mut before = None;
        let strip: String = cells
            .into_iter()
            .map(|cell| {
                before = cell.or(before);
                match before {
                    None => " ".into(),
                    Some(false) => self.screen.tone(Tone::Good, "✓"),
                    Some(true) => self.screen.tone(Tone::Bad, "✗"),
                }
            })
            .collect();
        let bad = of_check.iter().filter(|o| is_bad(o)).count();
        let verdict = match bad {
            0 => format!("{} of {} good", of_check.len(), of_check.len()),
            bad => format!("{bad} of {} bad", of_check.len()),
        };
        let tone = if bad == 0 { Tone::Good } else { Tone::Bad };
        format!("    {} {strip}  {}\n", pad(label, 12), self.screen.tone(tone, &verdict))
    }

    fn cells(&self, end: Timestamp) -> usize {
        let seconds = usize::try_from(end.since(self.started).as_secs()).unwrap_or(STRIP);
        seconds.clamp(1, STRIP)
    }

    fn cell(&self, at: Timestamp, end: Timestamp) -> usize {
        let whole = end.since(self.started).as_millis().max(1);
        let cells = self.cells(end);
        let cell = at.since(self.started).as_millis() * cells as u128 / whole;
        usize::try_from(cell).unwrap_or(0).min(cells - 1)
    }

    /// Marks below the strips: what we did, then what bongsu did.
    fn marks(&self, end: Timestamp) -> String {
        let ours = [(self.broke, "^ broke"), (self.repaired, "^ repaired")];
        let opened = self.opened.as_ref().map(|row| row.opened_at);
        let closed = self.closed.as_ref().and_then(|row| row.closed_at);
        let theirs = [(opened, "^ alert"), (closed, "^ all clear")];
        let mut text = String::new();
        for marks in [ours, theirs] {
            let mut line = " ".repeat(LABEL);
            for (at, label) in marks {
                let Some(at) = at else { continue };
                let place = LABEL + self.cell(at, end);
                let gap = place.saturating_sub(width(&line)).max(usize::from(width(&line) > LABEL));
                line.push_str(&" ".repeat(gap));
                line.push_str(label);
            }
            text.push_str(&format!("{}\n", self.screen.tone(Tone::Dim, line.trim_end())));
        }
        text
    }

    fn moral(&self, green: u64) -> String {
        let s = self.screen;
        let shortcomings = self.shortcomings();
        let mut text = String::from("\n");
        match (self.opened.as_ref(), self.broke) {
            (Some(opened), Some(broke)) if shortcomings.is_empty() => {
                let alert = seconds(opened.opened_at.since(broke));
                let moral = format!(
                    "The health page answered all {green} requests with 200, and the port was open all along. bongsu \
                     raised the alarm {alert} after it broke: {}. In eight real outages the first public word came \
                     after 14 to 74 minutes.",
                    self.scenario.must_say
                );
                for line in wrap(&moral, Some(WIDTH - 4)) {
                    text.push_str(&format!("  {}\n", s.tone(Tone::Strong, &line)));
                }
            }
            _ => {
                text.push_str(&format!("  {}\n", s.tone(Tone::Bad, "This did not go as it must:")));
                for wrong in shortcomings {
                    text.push_str(&format!("  - {wrong}\n"));
                }
            }
        }
        text.push_str("\n  Next:\n");
        let next = [
            ("bongsu probe mqtt://broker.example.com", "one attempt at a server of yours, phase by phase"),
            ("bongsu validate && bongsu run", "your own checks: README.md, ten lines of YAML"),
            ("bongsu demo --scenario R8", "late and twice; R7: six minutes, R5: login only"),
        ];
        for (command, what) in next {
            text.push_str(&format!("    {} {}\n", s.tone(Tone::Strong, &pad(command, 40)), s.tone(Tone::Dim, what)));
        }
        text
    }
}
