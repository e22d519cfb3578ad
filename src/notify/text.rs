//! The words of an alert: title line, facts, intervals, durations, sparkline. Shared by all channels, so that a mail
//! and a chat tell the same incident in the same words.
//!
//! Written for someone who was asleep a minute ago: the state first, then what, since when, how long. Pure.

use std::time::Duration;

use chrono::Datelike;
use chrono_tz::Tz;

use crate::{
    alert::{Alert, AlertCheck, InsteadOf, MessageKind, Point},
    incident::{Edge, Severity},
    observation::{Outcome, Reason, one_line},
    value::{Name, TimeSpan, Timestamp},
};

/// Longest title line in characters: what a phone's lock screen and a mail client's list still show of it is the
/// beginning, and longer ones are folded into several encoded words.
pub const TITLE_CHARS_MAX: usize = 140;

/// Most checks a message lists; the rest are counted. An incident may hold thousands.
pub const CHECKS_MAX: usize = 20;

/// An alert with the time zone in which its times are told.
#[derive(Clone, Copy)]
pub struct Words<'a> {
    /// What is told.
    pub alert: &'a Alert,
    /// Where its reader lives.
    pub zone: Tz,
}

/// A label and what stands beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// `Cause`, `Began` …
    pub label: &'static str,
    /// One line.
    pub value: String,
}

/// One check as a list shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckWords<'a> {
    /// The name within its service when that is the alert's, else the whole name.
    pub name: &'a str,
    /// `down`, `degraded`, `up again`, `no longer watched, last seen down`; with `, flapping`.
    pub state: String,
    /// Since when, or until when.
    pub when: String,
    /// What was wrong first; of a check that is up again, what was.
    pub reason: Option<String>,
    /// Its latest observations.
    pub recent: &'a [Point],
}

impl<'a> Words<'a> {
    /// The state in capitals, which begins every title line.
    pub fn tag(&self) -> String {
        let severity = match self.alert.severity {
            Severity::Down => "DOWN",
            Severity::Degraded => "DEGRADED",
        };
        match self.alert.kind {
            MessageKind::Problem => severity.into(),
            MessageKind::Worse => format!("NOW {severity}"),
            MessageKind::Reminder => format!("STILL {severity}"),
            MessageKind::Partial => "PARTLY UP".into(),
            MessageKind::Recovery | MessageKind::Past if self.alert.unwatched => "NO LONGER WATCHED".into(),
            MessageKind::Recovery => "UP".into(),
            MessageKind::Past => format!("WAS {severity}"),
            MessageKind::Isolated => "WAS CUT OFF".into(),
            MessageKind::Test => "TEST".into(),
        }
    }

    /// The title line: `[DOWN] Company mail: submission: login: 535 …`.
    pub fn title(&self) -> String {
        let alert = self.alert;
        let rest = match alert.kind {
            MessageKind::Problem | MessageKind::Worse => alert.cause.clone(),
            MessageKind::Reminder => format!("for {}: {}", self.lasted(), alert.cause),
            MessageKind::Partial => format!("{} back: {}", self.back(), alert.cause),
            MessageKind::Recovery | MessageKind::Past if alert.unwatched => {
                format!("last seen {}, for {}: {}", self.last_seen(), self.lasted(), alert.cause)
            }
            MessageKind::Recovery => format!("after {}", self.lasted()),
            MessageKind::Past => format!("for {}, now up: {}", self.lasted(), alert.cause),
            MessageKind::Isolated => format!("for {}: {}", self.lasted(), alert.cause),
            MessageKind::Test => format!("bongsu on {} can reach you", alert.vantage),
        };
        let line = match (alert.kind, rest.is_empty()) {
            (MessageKind::Test, _) => format!("[{}] {rest}", self.tag()),
            (_, true) => format!("[{}] {}", self.tag(), alert.title),
            (_, false) => format!("[{}] {}: {rest}", self.tag(), alert.title),
        };
        one_line(&line, TITLE_CHARS_MAX)
    }

    /// One sentence.
    pub fn headline(&self) -> String {
        let Alert { title, severity, .. } = self.alert;
        match self.alert.kind {
            MessageKind::Problem => format!("{title} is {severity}."),
            MessageKind::Worse => format!("{title} has become worse: it is {severity} now."),
            MessageKind::Reminder => format!("{title} is still {severity}, for {}.", self.lasted()),
            MessageKind::Partial => format!("{title} is partly up again: {} are back.", self.back()),
            MessageKind::Recovery | MessageKind::Past if self.alert.unwatched => {
                let told = match self.alert.kind {
                    MessageKind::Past => " This could not be told while it lasted.",
                    _ => "",
                };
                format!(
                    "{title} was last seen {}, for {}; what was wrong has left the configuration and is no longer \
                     watched. Nobody saw it up again.{told}",
                    self.last_seen(),
                    self.lasted()
                )
            }
            MessageKind::Recovery => format!("{title} is up again after {}.", self.lasted()),
            MessageKind::Past => format!(
                "{title} was {severity} for {} and is up again. This could not be told while it lasted.",
                self.lasted()
            ),
            MessageKind::Isolated => format!(
                "{} was cut off from {} to {} ({}): {}.",
                self.alert.vantage,
                self.time_near(self.alert.started.by),
                self.time_near(self.alert.ended.map_or(self.alert.at, |e| e.by)),
                self.lasted(),
                self.alert.cause
            ),
            MessageKind::Test => "This is a test: somebody tries this channel. Nothing is wrong.".into(),
        }
    }

    /// What, since when, how long, where: each in one line, absent parts left out.
    pub fn facts(&self) -> Vec<Fact> {
        let alert = self.alert;
        let mut facts = Vec::new();
        let mut fact = |label, value: String| facts.push(Fact { label, value: one_line(&value, 1_000) });
        if let Some(InsteadOf { channel, error }) = &alert.instead_of {
            fact("Sent here", format!("as the fallback of {channel}, which did not take it: {error}"));
        }
        if alert.kind == MessageKind::Test {
            fact("Seen from", alert.vantage.to_string());
            return facts;
        }
        if !alert.cause.is_empty() {
            fact("Cause", alert.cause.clone());
        }
        fact("Began", self.edge(alert.started));
        match alert.ended {
            // Asked every few seconds, so its end is known as well as that.
            Some(ended) if alert.kind == MessageKind::Isolated => {
                fact("Ended", self.time_and_date(ended.by));
                fact("Lasted", self.lasted());
            }
            Some(ended) if alert.unwatched => {
                fact("Watched until", self.time_and_date(ended.by));
                fact("Lasted", format!("{} by then", self.lasted()));
            }
            Some(ended) => {
                fact("Ended", self.edge(ended));
                fact("Lasted", self.lasted());
            }
            None => fact("Lasted", format!("{} so far", self.lasted())),
        }
        if alert.tally().total() > 1 {
            fact("Checks", self.tally());
        }
        if let Some(by) = &alert.acknowledged_by {
            fact("In hand", by.clone());
        }
        if let Some(next) = &alert.next {
            let channels: Vec<&str> = next.channels.iter().map(Name::as_str).collect();
            let when = self.time_near(next.at);
            fact("Told next", format!("{} at {when}, unless somebody takes it in hand", channels.join(", ")));
        }
        fact("Seen from", alert.vantage.to_string());
        if !alert.labels.is_empty() {
            let labels: Vec<String> = alert.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            fact("Labels", labels.join(", "));
        }
        facts
    }

    /// The checks worth listing, the worst and unhealed first, and how many were left out.
    pub fn checks(&self) -> (Vec<CheckWords<'a>>, usize) {
        let mut checks: Vec<&AlertCheck> = self.alert.checks.iter().collect();
        checks.sort_by_key(|c| (c.ended.is_some(), std::cmp::Reverse(c.severity), c.started.by));
        let left_out = checks.len().saturating_sub(CHECKS_MAX) + self.alert.others.total();
        checks.truncate(CHECKS_MAX);
        (checks.into_iter().map(|c| self.check(c)).collect(), left_out)
    }

    fn check(&self, check: &'a AlertCheck) -> CheckWords<'a> {
        let own = check.name.as_str().strip_prefix(self.alert.service.as_str()).and_then(|n| n.strip_prefix('/'));
        let (word, when) = match check.ended {
            Some(ended) if check.unwatched => {
                let word = match check.severity {
                    Severity::Down => "no longer watched, last seen down",
                    Severity::Degraded => "no longer watched, last seen degraded",
                };
                (word, format!("since {}", self.time_near(ended.by)))
            }
            Some(ended) => ("up again", format!("since {}", self.time_near(ended.by))),
            None => (check.severity.as_str(), format!("since {}", self.time_near(check.started.by))),
        };
        CheckWords {
            name: own.unwrap_or(check.name.as_str()),
            state: if check.flapping { format!("{word}, flapping") } else { word.into() },
            when,
            // Beside `up again`, the bare reason would read as if it still held.
            reason: (check.reason.as_ref())
                .filter(|r| !self.is_whole_cause(own.unwrap_or_default(), r))
                .map(|r| if check.ended.is_some() { format!("was {r}") } else { r.to_string() }),
            recent: &check.recent[check.recent.len().saturating_sub(Point::MAX)..],
        }
    }

    /// Whether the cause says all of this reason, as that of a lone check does: nobody reads it twice.
    fn is_whole_cause(&self, own: &str, reason: &Reason) -> bool {
        self.alert.tally().total() == 1 && self.alert.cause == format!("{own}: {reason}")
    }

    /// The whole message in a few plain lines, as a chat shows it below the title line.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.headline()];
        lines.extend(self.facts().into_iter().map(|f| format!("{}: {}", f.label, f.value)));
        let (checks, left_out) = self.checks();
        for check in checks {
            let reason = check.reason.map_or(String::new(), |r| format!(": {r}"));
            lines.push(format!("- {} {} {}{reason}", check.name, check.state, check.when));
        }
        if left_out > 0 {
            lines.push(format!("- and {left_out} more"));
        }
        lines
    }

    /// How long it has lasted: `4h20m`. Of what lasted seconds, nobody wants the milliseconds.
    pub fn lasted(&self) -> String {
        let lasted = self.alert.duration();
        let whole = Duration::from_secs(lasted.as_secs());
        TimeSpan(if whole.is_zero() { lasted } else { whole }).to_string()
    }

    /// How bad it was when it was seen last, of what is no longer watched.
    fn last_seen(&self) -> Severity {
        let seen = self.alert.checks.iter().filter(|c| c.unwatched).map(|c| c.severity);
        seen.max().unwrap_or(self.alert.severity)
    }

    fn back(&self) -> String {
        let tally = self.alert.tally();
        format!("{} of {} checks", tally.back, tally.total())
    }

    fn tally(&self) -> String {
        let tally = self.alert.tally();
        let parts = [
            (tally.down, "down"),
            (tally.degraded, "degraded"),
            (tally.back, "up again"),
            (tally.unwatched, "no longer watched"),
        ];
        let parts: Vec<String> =
            parts.into_iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
        parts.join(", ")
    }

    /// When something changed, as the interval it is known to lie in:
    /// `2026-11-22, between 14:50:02Z and 14:50:05Z`.
    pub fn edge(&self, edge: Edge) -> String {
        let by = edge.by;
        let Some(after) = edge.after else {
            return format!("{} {} or earlier", self.date(by), self.time(by));
        };
        if after.as_millis() / 1_000 >= by.as_millis() / 1_000 {
            format!("{} {}", self.date(by), self.time(by))
        } else if self.date(after) == self.date(by) {
            format!("{}, between {} and {}", self.date(by), self.time(after), self.time(by))
        } else {
            let (from, to) = (self.date(after), self.date(by));
            format!("between {from} {} and {to} {}", self.time(after), self.time(by))
        }
    }

    /// A time with its date: `2026-11-22 14:50:05Z`.
    pub fn time_and_date(&self, at: Timestamp) -> String {
        format!("{} {}", self.date(at), self.time(at))
    }

    /// A time, with its date when that is not the message's own.
    fn time_near(&self, at: Timestamp) -> String {
        if self.date(at) == self.date(self.alert.at) { self.time(at) } else { self.time_and_date(at) }
    }

    fn date(&self, at: Timestamp) -> String {
        // Formatted by hand: chrono's own formatting of years beyond 9999 has a sign.
        let at = at.to_utc().with_timezone(&self.zone);
        format!("{:04}-{:02}-{:02}", at.year(), at.month(), at.day())
    }

    fn time(&self, at: Timestamp) -> String {
        let at = at.to_utc().with_timezone(&self.zone);
        if self.zone == Tz::UTC { at.format("%H:%M:%SZ").to_string() } else { at.format("%H:%M:%S %Z").to_string() }
    }
}

/// Latencies as a line of blocks, the latest at the right: `▁▂▁▁×××`; `×` failed, `·` could not tell.
pub fn sparkline(points: &[Point]) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let tallest = tallest_ms(points);
    let block = |p: &Point| match p.outcome {
        Outcome::Failed => '×',
        Outcome::Unknown => '·',
        // Rounded up: the tallest is the last block, and only nothing at all is below the first.
        Outcome::Ok | Outcome::Slow => BLOCKS[level(p.ms, tallest, BLOCKS.len()).saturating_sub(1)],
    };
    points.iter().map(block).collect()
}

/// A latency as a level from 0 (none) to `levels` (the tallest).
pub fn level(ms: f32, tallest: f32, levels: usize) -> usize {
    if !ms.is_finite() || ms <= 0.0 || tallest <= 0.0 {
        return 0;
    }
    // The share is within 0..=1, so the product fits whatever a file or a server sent.
    ((f64::from(ms) / f64::from(tallest)).clamp(0.0, 1.0) * levels as f64).ceil() as usize
}

/// The longest latency among those that came to an end.
pub fn tallest_ms(points: &[Point]) -> f32 {
    let ended = points.iter().filter(|p| matches!(p.outcome, Outcome::Ok | Outcome::Slow));
    ended.map(|p| p.ms).filter(|ms| ms.is_finite()).fold(0.0, f32::max)
}

/// What a plot shows, in words: `latest 40: 31 ok, 9 failed; at most 812ms`.
pub fn plot_legend(points: &[Point]) -> String {
    let counts = Outcome::ALL.map(|o| (points.iter().filter(|p| p.outcome == o).count(), o));
    let counts: Vec<String> = counts.into_iter().filter(|(n, _)| *n > 0).map(|(n, o)| format!("{n} {o}")).collect();
    let tallest = tallest_ms(points);
    let bound = if tallest > 0.0 { format!("; at most {}", ms_text(tallest)) } else { String::new() };
    format!("latest {}: {}{bound}", points.len(), counts.join(", "))
}

/// `0.4ms`, `812ms`, `3.2s`.
pub fn ms_text(ms: f32) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.1}ms"),
        ms if ms < 1_000.0 => format!("{ms:.0}ms"),
        ms if ms < 60_000.0 => format!("{:.1}s", ms / 1_000.0),
        ms => TimeSpan(Duration::from_millis(ms as u64)).to_string(),
    }
}

/// Cuts a text so that the sum of `measure` over its characters is at most `limit`; a cut is marked by `…`. Never
/// cuts a character apart.
pub fn cut(text: &str, limit: usize, measure: fn(char) -> usize) -> String {
    if text.chars().map(measure).sum::<usize>() <= limit {
        return text.into();
    }
    let room = limit.saturating_sub(measure('…'));
    let mut used = 0;
    let mut kept: String = text
        .chars()
        .take_while(|c| {
            used += measure(*c);
            used <= room
        })
        .collect();
    kept.truncate(kept.trim_end().len());
    if limit >= measure('…') {
        kept.push('…');
    }
    kept
}

/// Columns a character takes in a monospaced font: Hangul, kana, ideographs and emoji take two.
pub fn columns(c: char) -> usize {
    match u32::from(c) {
        0x0300..=0x036F | 0x200B..=0x200F | 0xFE00..=0xFE0F => 0,
        0x1100..=0x115F | 0x2E80..=0xA4CF | 0xAC00..=0xD7A3 | 0xF900..=0xFAFF | 0xFE30..=0xFE6F => 2,
        0xFF00..=0xFF60 | 0xFFE0..=0xFFE6 | 0x1F300..=0x1FAFF | 0x20000..=0x3FFFD => 2,
        _ => 1,
    }
}

/// Breaks a line at spaces so that none is wider than `width` columns, further lines indented by `indent` spaces.
/// A word that is too wide by itself stays whole: an address or a URL must remain one.
pub fn wrap(text: &str, width: usize, indent: usize) -> Vec<String> {
    let wide = |text: &str| text.chars().map(columns).sum::<usize>();
    let mut lines = Vec::new();
    let mut line = String::new();
    let leading = text.len() - text.trim_start_matches(' ').len();
    line.push_str(&text[..leading]);
    let mut empty = true;
    for word in text.split_whitespace() {
        if !empty && wide(&line) + 1 + wide(word) > width {
            lines.push(std::mem::replace(&mut line, " ".repeat(indent)));
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    lines.push(line);
    lines
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::alert::{Tally, ToldNext};
    use crate::{
        incident::IncidentId,
        observation::{Kind, Phase},
    };

    /// 2026-11-22T14:50:00Z.
    pub fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(1_795_359_000_000 + seconds * 1_000)
    }

    pub fn alert(kind: MessageKind) -> Alert {
        let over = kind.is_final();
        let started = Edge { after: Some(at(2)), by: at(5) };
        let ended = over.then_some(Edge { after: Some(at(15_600)), by: at(15_605) });
        let recent = (0..10_u16).map(|n| Point {
            at: at(i64::from(n) - 10),
            outcome: if n < 6 { Outcome::Ok } else { Outcome::Failed },
            ms: f32::from(n * n) * 10.0,
        });
        let reason = Reason::new(Phase::Login, Kind::Rejected, "535 5.7.8 <no> \"entry\" & more");
        let checks = vec![
            AlertCheck {
                name: "mail/webmail".parse().expect("a name"),
                severity: Severity::Degraded,
                started: Edge { after: Some(at(60)), by: at(90) },
                ended: (over || kind == MessageKind::Partial).then_some(Edge { after: Some(at(300)), by: at(301) }),
                reason: None,
                flapping: true,
                unwatched: false,
                recent: vec![],
            },
            AlertCheck {
                name: "mail/submission".parse().expect("a name"),
                severity: Severity::Down,
                started,
                ended,
                reason: Some(reason),
                flapping: false,
                unwatched: false,
                recent: recent.collect(),
            },
        ];
        if kind == MessageKind::Isolated {
            return isolated();
        }
        Alert {
            kind,
            incident: Some(IncidentId(12)),
            vantage: "seoul-1".parse().expect("a name"),
            service: "mail".parse().expect("a name"),
            title: "회사 메일".into(),
            labels: [("datacenter".to_owned(), "gasan".to_owned())].into(),
            severity: Severity::Down,
            cause: "submission: login: 535 5.7.8 <no> \"entry\" & more".into(),
            started,
            ended,
            unwatched: false,
            duration_ms: if over { 15_600_000 } else { 192_000 },
            checks,
            acknowledged_by: None,
            next: None,
            instead_of: None,
            others: Default::default(),
            at: at(197),
        }
    }

    fn isolated() -> Alert {
        Alert {
            kind: MessageKind::Isolated,
            incident: None,
            vantage: "seoul-1".parse().expect("a name"),
            service: "bongsu".parse().expect("a name"),
            title: "bongsu on seoul-1".into(),
            labels: Default::default(),
            severity: Severity::Degraded,
            cause: "none of 2 canaries answered: 42 checks could not be judged; nothing was declared down".into(),
            started: Edge { after: Some(at(-27)), by: at(3) },
            ended: Some(Edge { after: None, by: at(461) }),
            unwatched: false,
            duration_ms: 458_000,
            checks: Vec::new(),
            acknowledged_by: None,
            next: None,
            instead_of: None,
            others: Default::default(),
            at: at(461),
        }
    }

    fn words(alert: &Alert) -> Words<'_> {
        Words { alert, zone: Tz::UTC }
    }

    #[test]
    fn every_kind_has_its_title_and_headline() {
        let cause = "submission: login: 535 5.7.8 <no> \"entry\" & more";
        let table = [
            (MessageKind::Problem, format!("[DOWN] 회사 메일: {cause}"), "회사 메일 is down."),
            (
                MessageKind::Worse,
                format!("[NOW DOWN] 회사 메일: {cause}"),
                "회사 메일 has become worse: it is down now.",
            ),
            (
                MessageKind::Reminder,
                format!("[STILL DOWN] 회사 메일: for 3m12s: {cause}"),
                "회사 메일 is still down, for 3m12s.",
            ),
            (
                MessageKind::Partial,
                format!("[PARTLY UP] 회사 메일: 1 of 2 checks back: {cause}"),
                "회사 메일 is partly up again: 1 of 2 checks are back.",
            ),
            (MessageKind::Recovery, "[UP] 회사 메일: after 4h20m".into(), "회사 메일 is up again after 4h20m."),
            (
                MessageKind::Past,
                format!("[WAS DOWN] 회사 메일: for 4h20m, now up: {cause}"),
                "회사 메일 was down for 4h20m and is up again. This could not be told while it lasted.",
            ),
            (
                MessageKind::Isolated,
                "[WAS CUT OFF] bongsu on seoul-1: for 7m38s: none of 2 canaries answered: 42 checks could not be judged; \
                 nothing was declared down"
                    .into(),
                "seoul-1 was cut off from 14:50:03Z to 14:57:41Z (7m38s): none of 2 canaries answered: 42 checks could \
                 not be judged; nothing was declared down.",
            ),
            (
                MessageKind::Test,
                "[TEST] bongsu on seoul-1 can reach you".into(),
                "This is a test: somebody tries this channel. Nothing is wrong.",
            ),
        ];
        for (kind, title, headline) in table {
            let alert = alert(kind);
            assert_eq!(words(&alert).title(), title);
            assert_eq!(words(&alert).headline(), headline);
        }
    }

    #[test]
    fn what_is_no_longer_watched_is_not_told_as_up() {
        let mut alert = alert(MessageKind::Recovery);
        alert.unwatched = true;
        let until = Edge { after: None, by: at(15_605) };
        (alert.ended, alert.checks[1].ended, alert.checks[1].unwatched) = (Some(until), Some(until), true);
        let cause = "submission: login: 535 5.7.8 <no> \"entry\" & more";
        let title = format!("[NO LONGER WATCHED] 회사 메일: last seen down, for 4h20m: {cause}");
        assert_eq!(words(&alert).title(), title);
        assert_eq!(
            words(&alert).lines().join("\n"),
            "회사 메일 was last seen down, for 4h20m; what was wrong has left the configuration and is no longer watched. \
             Nobody saw it up again.\n\
             Cause: submission: login: 535 5.7.8 <no> \"entry\" & more\n\
             Began: 2026-11-22, between 14:50:02Z and 14:50:05Z\n\
             Watched until: 2026-11-22 19:10:05Z\n\
             Lasted: 4h20m by then\n\
             Checks: 1 up again, 1 no longer watched\n\
             Seen from: seoul-1\n\
             Labels: datacenter=gasan\n\
             - submission no longer watched, last seen down since 19:10:05Z: was login: 535 5.7.8 <no> \"entry\" & more\n\
             - webmail up again, flapping since 14:55:01Z"
        );
        alert.kind = MessageKind::Past;
        assert_eq!(words(&alert).title(), title);
        assert!(words(&alert).headline().ends_with("This could not be told while it lasted."));
    }

    #[test]
    fn a_problem_reads_well_at_three_in_the_morning() {
        let mut alert = alert(MessageKind::Problem);
        let channel = "ops-chat".parse().expect("a name");
        alert.instead_of = Some(InsteadOf { channel, error: "503 Service Unavailable".into() });
        alert.acknowledged_by = Some("지원".into());
        let channels = ["boss", "ops-chat"].map(|c| c.parse().expect("a name")).into();
        alert.next = Some(ToldNext { at: at(1_800), channels });
        assert_eq!(
            words(&alert).lines().join("\n"),
            "회사 메일 is down.\n\
             Sent here: as the fallback of ops-chat, which did not take it: 503 Service Unavailable\n\
             Cause: submission: login: 535 5.7.8 <no> \"entry\" & more\n\
             Began: 2026-11-22, between 14:50:02Z and 14:50:05Z\n\
             Lasted: 3m12s so far\n\
             Checks: 1 down, 1 degraded\n\
             In hand: 지원\n\
             Told next: boss, ops-chat at 15:20:00Z, unless somebody takes it in hand\n\
             Seen from: seoul-1\n\
             Labels: datacenter=gasan\n\
             - submission down since 14:50:05Z: login: 535 5.7.8 <no> \"entry\" & more\n\
             - webmail degraded, flapping since 14:51:30Z"
        );
    }

    #[test]
    fn an_isolation_is_told_with_its_times_and_what_it_left_unjudged() {
        assert_eq!(
            words(&isolated()).facts().iter().map(|f| format!("{}: {}", f.label, f.value)).collect::<Vec<_>>(),
            [
                "Cause: none of 2 canaries answered: 42 checks could not be judged; nothing was declared down",
                "Began: 2026-11-22, between 14:49:33Z and 14:50:03Z",
                "Ended: 2026-11-22 14:57:41Z",
                "Lasted: 7m38s",
                "Seen from: seoul-1",
            ]
        );
    }

    #[test]
    fn an_outage_that_is_over_tells_both_times() {
        let alert = alert(MessageKind::Past);
        let lines = words(&alert).lines();
        assert!(lines.contains(&"Began: 2026-11-22, between 14:50:02Z and 14:50:05Z".to_owned()), "{lines:?}");
        assert!(lines.contains(&"Ended: 2026-11-22, between 19:10:00Z and 19:10:05Z".to_owned()), "{lines:?}");
        assert!(lines.contains(&"Lasted: 4h20m".to_owned()), "{lines:?}");
    }

    #[test]
    fn intervals_say_what_is_known() {
        let alert = alert(MessageKind::Problem);
        let edge = |after: Option<i64>, by| Edge { after: after.map(at), by: at(by) };
        let seoul = Words { alert: &alert, zone: Tz::Asia__Seoul };
        let table = [
            (edge(Some(2), 5), words(&alert), "2026-11-22, between 14:50:02Z and 14:50:05Z"),
            (edge(None, 5), words(&alert), "2026-11-22 14:50:05Z or earlier"),
            (edge(Some(5), 5), words(&alert), "2026-11-22 14:50:05Z"),
            (edge(Some(32_990), 33_010), words(&alert), "between 2026-11-22 23:59:50Z and 2026-11-23 00:00:10Z"),
            (edge(Some(2), 5), seoul, "2026-11-22, between 23:50:02 KST and 23:50:05 KST"),
        ];
        for (edge, words, text) in table {
            assert_eq!(words.edge(edge), text);
        }
    }

    #[test]
    fn long_lists_are_cut_and_counted() {
        let mut alert = alert(MessageKind::Problem);
        let one = alert.checks[0].clone();
        alert.checks.extend(std::iter::repeat_n(one, 1_000));
        let (checks, left_out) = words(&alert).checks();
        assert_eq!((checks.len(), left_out), (CHECKS_MAX, 982));
        assert_eq!(checks[0].name, "submission", "the worst first");
        assert_eq!(words(&alert).lines().last().map(String::as_str), Some("- and 982 more"));
        // Those that were left out when the message was made count as well.
        alert.others = Tally { down: 5, degraded: 1, back: 12, unwatched: 0 };
        assert_eq!(words(&alert).lines().last().map(String::as_str), Some("- and 1000 more"));
        let tally = alert.tally();
        let checks = format!("Checks: {} down, {} degraded", tally.down, tally.degraded);
        assert!(words(&alert).lines().iter().any(|l| l.starts_with(&checks)), "{:?}", words(&alert).lines());
        assert_eq!(tally.total(), alert.checks.len() + 18);
    }

    #[test]
    fn what_was_wrong_with_a_check_that_is_up_again_is_told_as_past() {
        let alert = alert(MessageKind::Recovery);
        let (checks, _) = words(&alert).checks();
        let healed = checks.iter().find(|c| c.state == "up again").expect("a recovery has a healed check");
        assert!(healed.reason.as_ref().is_some_and(|r| r.starts_with("was ")), "{healed:?}");
    }

    #[test]
    fn the_cause_of_a_lone_check_is_not_said_twice() {
        let mut alert = alert(MessageKind::Problem);
        alert.checks.retain(|c| c.name.check() == "submission");
        let line = |alert: &Alert| words(alert).lines().last().cloned();
        assert_eq!(line(&alert).as_deref(), Some("- submission down since 14:50:05Z"));
        // What was wrong first is not what is wrong now.
        alert.cause = "submission: deliver: lost".into();
        assert!(line(&alert).is_some_and(|l| l.contains(": login: 535 ")));
    }

    #[test]
    fn nothing_in_a_message_makes_a_second_line() {
        let mut alert = alert(MessageKind::Problem);
        alert.title = "a\r\nBcc: x@example.com\r\n".into();
        alert.cause = "x\u{0}\n".repeat(500);
        let title = words(&alert).title();
        assert!(!title.chars().any(char::is_control), "{title:?}");
        assert_eq!(title.chars().count(), TITLE_CHARS_MAX);
        assert!(words(&alert).facts().iter().all(|f| !f.value.chars().any(char::is_control)));
    }

    #[test]
    fn a_sparkline_marks_failures_and_survives_odd_numbers() {
        let point = |outcome, ms| Point { at: at(0), outcome, ms };
        let points = [
            point(Outcome::Ok, 1.0),
            point(Outcome::Slow, 80.0),
            point(Outcome::Ok, 40.0),
            point(Outcome::Failed, 5_000.0),
            point(Outcome::Unknown, 0.0),
            point(Outcome::Ok, f32::NAN),
            point(Outcome::Ok, 0.0),
        ];
        assert_eq!(sparkline(&points), "▁█▄×·▁▁");
        assert_eq!(plot_legend(&points), "latest 7: 4 ok, 1 slow, 1 failed, 1 unknown; at most 80ms");
        assert_eq!(sparkline(&[]), "");
        assert_eq!([0.42, 812.4, 3_210.0, 600_000.0].map(ms_text), ["0.4ms", "812ms", "3.2s", "10m"]);
    }

    #[test]
    fn cuts_and_breaks_respect_characters() {
        assert_eq!(cut("메시지", 2, |_| 1), "메…");
        assert_eq!(cut("메시지", 3, |_| 1), "메시지");
        assert_eq!(cut("메시지", 7, char::len_utf8), "메…");
        assert_eq!(cut("😀😀", 3, char::len_utf16), "😀…");
        assert_eq!(cut("abc", 0, |_| 1), "");
        assert_eq!(wrap("  one two three four", 12, 4), ["  one two", "    three", "    four"]);
        assert_eq!(wrap("메시지가 오지 않는다", 13, 0), ["메시지가 오지", "않는다"]);
        assert_eq!(wrap("https://example.com/a/very/long/url x", 10, 0).len(), 2);
        assert_eq!(wrap("", 10, 0), [""]);
        assert_eq!(TimeSpan(Duration::from_millis(192_000)).to_string(), "3m12s");
    }
}
