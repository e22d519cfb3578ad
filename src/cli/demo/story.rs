//! The story as it is told: what was seen becomes lines of text. Pure; the time of everything is an argument.
//!
//! Each line begins with what was seen at that moment: the health page and the port, which stay green, beside what
//! users do, which does not. So the contrast can be read down the columns without reading a word.

use std::time::Duration;

use super::{
    front::{Received, Signature},
    scenario::{HEALTH, PORT, SERVICE, Scenario, Timeline},
    watch::{IncidentRow, Mail, Observed},
};
use crate::{
    cli::render::text::{Screen, Tone, fit, measured, pad, visible, width, wrap},
    incident::Severity,
    value::{TimeSpan, Timestamp},
};

/// Cells of a line: what a picture in a README and a narrow terminal hold.
pub const WIDTH: usize = 100;

/// Cells of the columns before the text: the time, and what was seen of the health page, the port and by the check
/// that finds the fault.
const COLUMNS: [usize; 4] = [9, 13, 8, 12];

/// Cells before the text.
const MARGIN: usize = COLUMNS[0] + COLUMNS[1] + COLUMNS[2] + COLUMNS[3];

/// Cells of the strips at the end, one for each second if the demo is no longer than this.
const STRIP: usize = 50;

/// Something that was seen.
#[derive(Clone, Debug)]
pub enum Seen {
    /// An attempt of a check.
    Observed(Observed),
    /// The demo broke the service.
    Broke,
    /// The demo repaired it.
    Repaired,
    /// An incident was opened or closed.
    Incident(IncidentRow),
    /// A webhook came.
    Webhook(Received),
    /// A mail came.
    Mail(Mail),
    /// This many messages booked as lost have turned up.
    Late(usize),
}

/// The story so far.
#[derive(Debug)]
pub struct Story {
    scenario: &'static Scenario,
    timeline: Timeline,
    screen: Screen,
    started: Timestamp,
    observed: Vec<Observed>,
    told_all_is_well: bool,
    broke: Option<Timestamp>,
    noticed: Option<Timestamp>,
    opened: Option<IncidentRow>,
    opened_seen: Option<Timestamp>,
    repaired: Option<Timestamp>,
    closed: Option<IncidentRow>,
    incidents: usize,
    hooks: Vec<Signature>,
    mails: Vec<bool>,
    late: usize,
}

impl Story {
    /// A story that begins now.
    pub fn new(scenario: &'static Scenario, timeline: Timeline, screen: Screen, started: Timestamp) -> Self {
        Self {
            scenario,
            timeline,
            screen,
            started,
            observed: Vec::new(),
            told_all_is_well: false,
            broke: None,
            noticed: None,
            opened: None,
            opened_seen: None,
            repaired: None,
            closed: None,
            incidents: 0,
            hooks: Vec::new(),
            mails: Vec::new(),
            late: 0,
        }
    }

    /// What stands before the first event.
    pub fn opening(&self) -> String {
        let s = self.screen;
        let mut text = format!("\n  {}\n\n", s.tone(Tone::Strong, &format!("bongsu demo: {}", self.scenario.title)));
        let replay = format!(
            "{} Here the same happens on this machine, {} in {}: a broker with real sockets, its web front, and bongsu \
             with the configuration of an ordinary user.",
            self.scenario.happened,
            TimeSpan(self.scenario.lasted),
            TimeSpan(self.timeline.outage())
        );
        for line in wrap(&replay, Some(WIDTH - 4)) {
            text.push_str(&format!("  {line}\n"));
        }
        let headings = ["   time", "health page", "port", self.scenario.column];
        let heading: String = headings.iter().zip(COLUMNS).map(|(heading, cells)| pad(heading, cells)).collect();
        let heading = format!("{heading}what happens");
        text.push_str(&format!("\n{}\n", s.tone(Tone::Dim, &heading)));
        text
    }

    /// Takes in what was seen, and gives the lines that tell it (none for what is nothing new).
    pub fn see(&mut self, at: Timestamp, seen: Seen) -> String {
        match seen {
            Seen::Observed(observed) => self.see_observed(observed),
            Seen::Broke => {
                self.broke = Some(at);
                self.chapter(at, Tone::Bad, "IT BREAKS", &[self.scenario.broke.into()])
            }
            Seen::Repaired => {
                self.repaired = Some(at);
                self.chapter(at, Tone::Good, "REPAIRED", &[self.scenario.repaired.into()])
            }
            Seen::Incident(row) if row.closed_at.is_none() => self.see_opened(at, row),
            Seen::Incident(row) => self.see_closed(at, row),
            Seen::Webhook(received) => self.see_webhook(&received),
            Seen::Mail(mail) => self.see_mail(at, &mail),
            Seen::Late(count) => {
                self.late += count;
                let messages = if count == 1 { "1 message" } else { &format!("{count} messages") };
                self.line(at, Tone::Plain, &format!("{messages} booked as lost turned up: now booked as late"))
            }
        }
    }

    /// Whether everything that a story has was told.
    pub fn is_complete(&self) -> bool {
        self.closed.is_some() && self.hooks.len() >= 2 && self.mails.len() >= 2
    }

    /// What is missing or wrong, once the time is over; empty when bongsu did what the scenario demands.
    pub fn shortcomings(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut want = |holds: bool, text: &str| {
            if !holds {
                wrong.push(text.to_owned());
            }
        };
        want(self.incidents == 1, &format!("{} incidents were opened, not one", self.incidents));
        let worst = self.opened.as_ref().map(|row| self.closed.as_ref().unwrap_or(row).worst.as_str());
        let severity = self.scenario.severity.as_str();
        want(worst.is_none_or(|worst| worst == severity), &format!("it was not called {severity}"));
        want(self.closed.is_some(), "its end was not noticed");
        for (name, count) in [("webhooks", self.hooks.len()), ("mails", self.mails.len())] {
            want(count == 2, &format!("{count} {name} came, not one for the problem and one for the recovery"));
        }
        want(self.hooks.iter().all(|s| *s == Signature::Valid), "a webhook was not signed rightly");
        want(self.mails.iter().skip(1).all(|answers| *answers), "the mails are not in one thread");
        for check in self.scenario.unharmed {
            let bad = self.observed.iter().find(|o| o.check == *check && is_bad(o));
            want(bad.is_none(), &format!("{SERVICE}/{check} should have stayed up"));
        }
        wrong
    }

    // -----------------------------------------------------------------------------------------------------------
    // What was seen

    fn see_observed(&mut self, observed: Observed) -> String {
        let found = observed.check == self.scenario.found_by;
        let (at, bad) = (observed.at, is_bad(&observed));
        let took = Duration::try_from_secs_f64(observed.latency_ms / 1_000.0).unwrap_or_default();
        let reason = observed.reason.clone();
        self.observed.push(observed);
        if !found {
            return String::new();
        }
        if !bad && !self.told_all_is_well {
            self.told_all_is_well = true;
            let what = if self.scenario.column == "logins" { "a login takes" } else { "a message arrives after" };
            return self.line(at, Tone::Plain, &format!("all is well: {what} {}", measured(took)));
        }
        let Some(broke) = self.broke.filter(|broke| bad && self.noticed.is_none() && at + took >= *broke) else {
            return String::new();
        };
        // An attempt is told by its beginning and noticed at its end.
        let noticed = at + took;
        self.noticed = Some(noticed);
        let after = seconds(noticed.since(broke));
        let mut text = self.line(noticed, Tone::Warn, &format!("noticed after {after}; asked again, to be sure"));
        for line in wrap(&visible(&reason.unwrap_or_default()), Some(WIDTH - MARGIN)) {
            text.push_str(&self.more(&line));
        }
        text
    }

    fn see_opened(&mut self, at: Timestamp, row: IncidentRow) -> String {
        self.incidents += 1;
        let mut lines = vec![format!("{} is {}", row.title, row.worst)];
        lines.push(format!("cause   {}", row.cause));
        let began = match row.started_after {
            Some(after) => format!("began   between {} and {}", clock(after), clock(row.started_by)),
            None => format!("began   by {}", clock(row.started_by)),
        };
        lines.push(began);
        if let Some(broke) = self.broke {
            lines.push(format!("sure    {} after it broke", seconds(row.opened_at.since(broke))));
        }
        let tone = if row.worst == Severity::Down.as_str() { Tone::Bad } else { Tone::Warn };
        let text = self.chapter(row.opened_at, tone, &format!("INCIDENT #{}", row.id), &lines);
        self.opened_seen.get_or_insert(at);
        self.opened.get_or_insert(row);
        text
    }

    fn see_closed(&mut self, at: Timestamp, row: IncidentRow) -> String {
        if self.opened.as_ref().is_none_or(|opened| opened.id != row.id) {
            self.incidents += 1;
            self.opened.get_or_insert_with(|| row.clone());
        }
        let mut lines = vec![format!("incident #{} lasted {}", row.id, seconds(row.duration))];
        if let (Some(broke), Some(repaired)) = (self.broke, self.repaired) {
            lines[0].push_str(&format!("; it was broken for {}", seconds(repaired.since(broke))));
        }
        let text = self.chapter(row.closed_at.unwrap_or(at), Tone::Good, "OVER", &lines);
        self.closed.get_or_insert(row);
        text
    }

    fn see_webhook(&mut self, received: &Received) -> String {
        self.hooks.push(received.signature);
        let body = received.json();
        let text = |key: &str| body[key].as_str().map(visible);
        let what = match (text("kind"), text("title"), text("cause")) {
            (Some(kind), Some(title), _) => format!("{kind}: {title}"),
            _ => visible(&crate::observation::one_line(&String::from_utf8_lossy(&received.body), 60)),
        };
        let tone = if received.signature == Signature::Valid { Tone::Plain } else { Tone::Bad };
        let mut lines = self.line(received.at, tone, &format!("webhook {what}"));
        let key = received.header("webhook-id").map_or(String::new(), |key| format!(", key {}", visible(key)));
        lines.push_str(&self.more(&format!("        {}{key}", received.signature.as_str())));
        lines
    }

    fn see_mail(&mut self, at: Timestamp, mail: &Mail) -> String {
        self.mails.push(mail.answers);
        let mut lines = self.line(at, Tone::Plain, &format!("mail    {}", visible(&mail.subject)));
        let thread = if mail.answers { ", in the same thread" } else { "" };
        lines.push_str(&self.more(&format!("        to {}{thread}", visible(&mail.to))));
        lines
    }

    // -----------------------------------------------------------------------------------------------------------
    // Lines

    /// An event worth a heading.
    fn chapter(&self, at: Timestamp, tone: Tone, heading: &str, lines: &[String]) -> String {
        let s = self.screen;
        let room = WIDTH - MARGIN;
        let mut text = String::new();
        let first = lines.first().map_or("", String::as_str);
        let mut wrapped = wrap(&format!("{heading}  {}", visible(first)), Some(room)).into_iter();
        if let Some(line) = wrapped.next() {
            // The heading's two spaces are one after wrapping.
            let rest = line.strip_prefix(heading).unwrap_or("").trim_start();
            text.push_str(&format!("{}{}  {rest}\n", self.margin(at), s.tone(tone, &s.tone(Tone::Strong, heading))));
        }
        for line in wrapped {
            text.push_str(&self.more(&line));
        }
        for line in &lines[1.min(lines.len())..] {
            for (n, line) in wrap_keeping(&visible(line), room).into_iter().enumerate() {
                text.push_str(&self.more(&if n == 0 { line } else { format!("        {line}") }));
            }
        }
        text
    }

    fn line(&self, at: Timestamp, tone: Tone, line: &str) -> String {
        let mut lines = wrap_keeping(line, WIDTH - MARGIN).into_iter();
        let first = lines.next().unwrap_or_default();
        let mut text = format!("{}{}\n", self.margin(at), self.screen.tone(tone, &first));
        for line in lines {
            text.push_str(&self.more(&format!("        {line}")));
        }
        text
    }

    /// A further line below one with a time.
    fn more(&self, line: &str) -> String {
        format!("{:MARGIN$}{}\n", "", self.screen.tone(Tone::Dim, &fit(line, WIDTH - MARGIN)))
    }

    /// The time and what was seen at that time.
    fn margin(&self, at: Timestamp) -> String {
        let time = at.since(self.started).as_secs_f64();
        let mut margin = pad(&format!("{time:>6.1}s"), COLUMNS[0]);
        for (check, cells) in [HEALTH, PORT, self.scenario.found_by].into_iter().zip(&COLUMNS[1..]) {
            let (tone, text) = self.status(check, at);
            margin.push_str(&self.screen.tone(tone, &pad(&fit(text, cells - 1), *cells)));
        }
        margin
    }

    /// What the last attempt of a check that had ended by then showed.
    fn status(&self, check: &str, at: Timestamp) -> (Tone, &'static str) {
        let Some(last) = self.observed.iter().rev().find(|o| o.check == check && o.at <= at) else {
            return (Tone::Dim, "-");
        };
        match (last.outcome.as_str(), last.fate.as_deref()) {
            ("ok", _) if check == HEALTH => (Tone::Good, "✓ 200 OK"),
            ("ok", _) if check == PORT => (Tone::Good, "✓ open"),
            ("ok", Some(_)) => (Tone::Good, "✓ arrive"),
            ("ok", None) => (Tone::Good, "✓ let in"),
            ("slow", _) => (Tone::Warn, "! late"),
            ("failed", Some("lost" | "pending" | "uncertain" | "late")) => (Tone::Bad, "✗ lost"),
            ("failed", Some(_)) => (Tone::Bad, "✗ not sent"),
            ("failed", None) => (Tone::Bad, "✗ refused"),
            _ => (Tone::Dim, "? unknown"),
        }
    }

    // -----------------------------------------------------------------------------------------------------------
    // The end

    /// The summary: the row in the database, what each check saw second by second, and where to go next.
    pub fn ending(&self, at: Timestamp, query: &str, rows: &[String]) -> String {
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
        text.push_str(&self.moral());
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
            let mut line = " ".repeat(17);
            for (at, label) in marks {
                let Some(at) = at else { continue };
                let place = 17 + self.cell(at, end);
                let gap = place.saturating_sub(width(&line)).max(usize::from(width(&line) > 17));
                line.push_str(&" ".repeat(gap));
                line.push_str(label);
            }
            text.push_str(&format!("{}\n", self.screen.tone(Tone::Dim, line.trim_end())));
        }
        text
    }

    fn moral(&self) -> String {
        let s = self.screen;
        let shortcomings = self.shortcomings();
        let mut text = String::from("\n");
        match (self.opened.as_ref(), self.broke) {
            (Some(opened), Some(broke)) if shortcomings.is_empty() => {
                let alert = seconds(opened.opened_at.since(broke));
                let moral = format!(
                    "The health page and the port were green all along. bongsu raised the alarm {alert} after it broke: \
                     {}. In eight real outages the first public word came after 14 to 74 minutes.",
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

/// Whether an attempt was not as it should be.
fn is_bad(observed: &Observed) -> bool {
    matches!(observed.outcome.as_str(), "failed" | "slow")
}

/// `4.3 s`, `2m10s`.
fn seconds(span: Duration) -> String {
    if span < Duration::from_secs(60) { format!("{:.1} s", span.as_secs_f64()) } else { TimeSpan(span).to_string() }
}

/// The time of day, in UTC.
fn clock(at: Timestamp) -> String {
    let text = at.to_utc().format("%H:%M:%S%.3f").to_string();
    // Tenths of a second, cut and not rounded: an interval must not be told wider or narrower at its good end.
    format!("{}Z", text.get(..10).unwrap_or(&text))
}

/// Like [`wrap`], but a line that fits keeps its spaces, by which it is aligned with others.
fn wrap_keeping(line: &str, cells: usize) -> Vec<String> {
    if width(line) <= cells {
        return vec![line.to_owned()];
    }
    let (label, rest) = match line.find("  ") {
        Some(end) => {
            let rest = line[end..].trim_start();
            (&line[..line.len() - rest.len()], rest)
        }
        None => ("", line),
    };
    let mut lines = wrap(rest, Some(cells - width(label).max(8)));
    if let Some(first) = lines.first_mut() {
        first.insert_str(0, label);
    }
    lines
}
