//! The story as it is told: what was seen becomes lines of text. Pure; the time of everything is an argument.
//!
//! Each line begins with what was seen at that moment: the health page and the port, which stay green, beside what
//! users do, which does not. So the contrast can be read down the columns without reading a word.

mod ending;

use std::time::Duration;

use super::{
    files::MAIL,
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

/// Lines that one text may take; what a server said can be longer than what its reader wants.
const LINES_MAX: usize = 3;

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
        want(
            self.opened.as_ref().is_none_or(|row| row.cause.contains(self.scenario.cause)),
            &format!("its cause does not name `{}`", self.scenario.cause),
        );
        want(self.closed.is_some(), "its end was not noticed");
        want(!self.scenario.late || self.late > 0, "no lost message was found to be late");
        let lost = self.observed.iter().any(|o| o.fate.as_deref() == Some("lost"));
        want(self.scenario.loses || !lost, "messages were booked as lost that were not");
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
            lines.push(format!("alarm   {} after it broke", seconds(row.opened_at.since(broke))));
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
        lines.push_str(&self.more(&format!("        {} (Standard Webhooks)", received.signature.as_str())));
        lines
    }

    fn see_mail(&mut self, at: Timestamp, mail: &Mail) -> String {
        self.mails.push(mail.answers);
        let mut lines = self.line(at, Tone::Plain, &format!("mail    {}", visible(&mail.subject)));
        let parties = match mail.answers {
            true => format!("to {}, in the same thread", mail.to),
            false => format!("from {} to {}", mail.from, mail.to),
        };
        let file = mail.file.file_name().map_or(String::new(), |name| format!("{MAIL}/{}", name.to_string_lossy()));
        for line in [parties, file] {
            lines.push_str(&self.more(&format!("        {}", visible(&line))));
        }
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
            text.push_str(&format!("{:MARGIN$}{line}\n", ""));
        }
        for line in &lines[1.min(lines.len())..] {
            for (n, line) in wrap_keeping(&visible(line), room).into_iter().take(LINES_MAX).enumerate() {
                text.push_str(&self.more(&if n == 0 { line } else { format!("        {line}") }));
            }
        }
        text
    }

    fn line(&self, at: Timestamp, tone: Tone, line: &str) -> String {
        let mut lines = wrap_keeping(line, WIDTH - MARGIN).into_iter().take(LINES_MAX);
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
            // What is still awaited when the next attempt begins is booked as slow, until its horizon has passed.
            (_, Some("pending" | "uncertain")) => (Tone::Bad, "✗ missing"),
            ("failed", Some("lost" | "late")) => (Tone::Bad, "✗ lost"),
            ("slow", _) => (Tone::Warn, "! late"),
            ("failed", Some(_)) => (Tone::Bad, "✗ not sent"),
            ("failed", None) => (Tone::Bad, "✗ refused"),
            _ => (Tone::Dim, "? unknown"),
        }
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{super::scenario, *};

    const START: Timestamp = Timestamp::from_millis(1_795_417_200_000);

    fn at(seconds: f64) -> Timestamp {
        START + Duration::from_secs_f64(seconds)
    }

    fn observed(check: &str, began: f64, outcome: &str, latency_ms: f64, fate: Option<&str>) -> Seen {
        let lost = "accepted by mqtt://127.0.0.1:40000 in 0.3ms, not arrived within 700ms";
        Seen::Observed(Observed {
            check: check.into(),
            at: at(began),
            outcome: outcome.into(),
            latency_ms,
            reason: (outcome == "failed").then(|| lost.into()),
            fate: fate.map(Into::into),
        })
    }

    fn incident(closed: Option<f64>) -> Seen {
        Seen::Incident(IncidentRow {
            id: 1,
            title: "Demo messenger".into(),
            state: if closed.is_some() { "closed" } else { "open" }.into(),
            worst: "down".into(),
            started_after: Some(at(7.9)),
            started_by: at(8.9),
            opened_at: at(11.6),
            closed_at: closed.map(at),
            duration: Duration::from_secs(20),
            cause: "delivery: deliver: accepted by mqtt://127.0.0.1:40000 in 0.3ms, not arrived within 700ms".into(),
        })
    }

    fn webhook(seconds: f64, kind: &str, signature: Signature) -> Seen {
        let body = format!(r#"{{"kind":"{kind}","title":"Demo messenger"}}"#);
        Seen::Webhook(Received { at: at(seconds), headers: Vec::new(), body: body.into_bytes(), signature })
    }

    fn mail(subject: &str, answers: bool) -> Seen {
        Seen::Mail(Mail {
            file: PathBuf::from("/tmp/x/mail/20261123T074122.630Z-problem-bongsu-1.eml"),
            subject: subject.into(),
            from: "bongsu <bongsu@localhost>".into(),
            to: "oncall@localhost".into(),
            answers,
        })
    }

    /// A second of each check: the green ones, and the one that finds the fault.
    fn second(n: u32, lost: bool) -> Vec<(f64, Seen)> {
        let n = f64::from(n);
        let (outcome, latency_ms, fate) = if lost { ("failed", 700.0, "lost") } else { ("ok", 3.2, "arrived") };
        vec![
            (n + 0.1, observed(scenario::HEALTH, n + 0.1, "ok", 1.0, None)),
            (n + 0.2, observed(scenario::PORT, n + 0.2, "ok", 0.1, None)),
            (n + 0.9 + latency_ms / 1e3, observed(scenario::DELIVERY, n + 0.9, outcome, latency_ms, Some(fate))),
        ]
    }

    /// The usual course of the first scenario.
    fn course() -> Vec<(f64, Seen)> {
        let mut course: Vec<(f64, Seen)> = (0..32).flat_map(|n| second(n, (8..28).contains(&n))).collect();
        course.extend([
            (8.0, Seen::Broke),
            (11.6, incident(None)),
            (11.7, webhook(11.7, "problem", Signature::Valid)),
            (11.8, mail("[DOWN] Demo messenger: delivery", false)),
            (28.0, Seen::Repaired),
            (28.95, Seen::Late(3)),
            (29.9, incident(Some(29.9))),
            (30.0, webhook(30.0, "recovery", Signature::Valid)),
            (30.1, mail("[UP] Demo messenger: after 20s", true)),
        ]);
        course.sort_by(|a, b| a.0.total_cmp(&b.0));
        course
    }

    fn story(screen: Screen) -> Story {
        Story::new(&scenario::SCENARIOS[0], Timeline::within(Duration::from_secs(50)), screen, START)
    }

    fn told(course: Vec<(f64, Seen)>, screen: Screen) -> (String, Story) {
        let mut story = story(screen);
        let mut text = story.opening();
        for (seconds, seen) in course {
            text.push_str(&story.see(at(seconds), seen));
        }
        let row = "1|down|2026-11-23T07:41:19.911Z|20|delivery: deliver: accepted by mqtt://127.0.0.1:40000".into();
        text.push_str(&story.ending(at(32.0), "SELECT id FROM incidents", &[row], 32));
        (text, story)
    }

    #[test]
    fn the_usual_course_is_told_like_this() {
        let (text, story) = told(course(), Screen::default());
        assert_eq!(text, include_str!("story/usual.txt"));
        assert!(story.is_complete());
        assert_eq!(story.shortcomings(), Vec::<String>::new());
    }

    #[test]
    fn colours_change_nothing_but_the_colour() {
        let (plain, _) = told(course(), Screen::default());
        let (coloured, _) = told(course(), Screen { width: None, colour: true });
        assert!(coloured.contains("\x1b[31m") && coloured.contains("\x1b[32m"));
        let mut stripped = String::new();
        let mut rest = coloured.as_str();
        while let Some((before, code)) = rest.split_once('\x1b') {
            stripped.push_str(before);
            rest = code.split_once('m').expect("a code ends").1;
        }
        stripped.push_str(rest);
        assert_eq!(stripped, plain);
    }

    #[test]
    fn no_line_is_too_wide_or_acts_on_the_terminal() {
        let hostile = format!("\x1b[2J{}\u{202e} {}", "가나다 ".repeat(80), "x".repeat(300));
        let mut course = course();
        course.push((31.0, mail(&hostile, true)));
        let Seen::Incident(mut row) = incident(None) else { unreachable!("made as an incident") };
        (row.cause, row.title, row.id) = (hostile.clone(), hostile.clone(), 2);
        course.push((31.1, Seen::Incident(row)));
        let body = serde_json::json!({ "kind": hostile, "title": hostile }).to_string().into_bytes();
        let signature = Signature::Wrong;
        course.push((31.2, Seen::Webhook(Received { at: at(31.2), headers: Vec::new(), body, signature })));
        let (text, _) = told(course, Screen::default());
        for line in text.lines() {
            assert!(width(line) <= WIDTH, "{} cells: {line}", width(line));
            assert!(!line.contains(['\x1b', '\u{202e}']), "{line:?}");
        }
    }

    #[test]
    fn what_goes_wrong_is_said() {
        fn without(unwanted: fn(&Seen) -> bool) -> Vec<String> {
            let mut course = course();
            course.retain(|(_, seen)| !unwanted(seen));
            told(course, Screen::default()).1.shortcomings()
        }
        let none = without(|seen| matches!(seen, Seen::Incident(_)));
        assert_eq!(none, ["0 incidents were opened, not one", "its end was not noticed"]);
        let mails = without(|seen| matches!(seen, Seen::Mail(_)));
        assert_eq!(mails, ["0 mails came, not one for the problem and one for the recovery"]);
        let late = without(|seen| matches!(seen, Seen::Late(_)));
        assert_eq!(late, ["no lost message was found to be late"]);
        let end = without(|seen| matches!(seen, Seen::Incident(row) if row.closed_at.is_some()));
        assert_eq!(end, ["its end was not noticed"]);

        let mut more = course();
        more.push((31.0, webhook(31.0, "recovery", Signature::Wrong)));
        more.push((31.0, mail("again", false)));
        more.push((31.1, observed(scenario::HEALTH, 31.1, "failed", 1.0, None)));
        let (text, story) = told(more, Screen::default());
        let wrong = [
            "3 webhooks came, not one for the problem and one for the recovery",
            "3 mails came, not one for the problem and one for the recovery",
            "a webhook was not signed rightly",
            "the mails are not in one thread",
            "messenger/health-page should have stayed up",
        ];
        assert_eq!(story.shortcomings(), wrong);
        assert!(text.contains("This did not go as it must:\n  - 3 webhooks"), "{text}");
    }

    #[test]
    fn a_story_without_events_ends_as_well() {
        let (text, story) = told(Vec::new(), Screen::default());
        assert!(!story.is_complete() && !story.shortcomings().is_empty());
        assert!(text.contains("0 of 0 good"), "{text}");
    }
}
