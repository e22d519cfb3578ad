//! What is up now: open incidents first, then every check.

use super::text::{Cell, Screen, Table, Tone, count, rough, visible};
use crate::{
    cli::render::text::measured,
    incident::Incident,
    observation::Reason,
    value::Timestamp,
    web::control::{CheckStatus, StatusReport, StoreTrouble, VantageStatus},
};

/// States in the order they are counted.
const STATES: [&str; 5] = ["up", "suspect", "degraded", "down", "unknown"];

/// Most open incidents shown above the checks: more would push them off any screen.
const OPEN_MAX: usize = 20;

/// How far ahead of now an observation may seem to lie before that is worth a word: it is made while we look.
const CLOCK_SLACK: std::time::Duration = std::time::Duration::from_secs(2);

/// Where the facts come from.
pub enum Source<'a> {
    /// A running daemon.
    Daemon(&'a StatusReport),
    /// The store alone, nobody looking; the latest observation in it.
    Store(Option<Timestamp>),
}

/// The whole status. `open` are the open incidents, `now` the reader's clock.
pub fn status(
    source: &Source<'_>,
    checks: &[CheckStatus],
    open: &[Incident],
    now: Timestamp,
    screen: Screen,
) -> String {
    let mut text = match source {
        Source::Daemon(report) => {
            let uptime = rough(std::time::Duration::from_millis(report.uptime_ms));
            let head = format!("bongsu {} on {}, up {uptime}, {}", report.version, report.agent, counts(checks));
            let mut text = format!("{}\n", visible(&head));
            if let Some(trouble) = &report.store {
                text.push_str(&format!("{}\n", screen.tone(Tone::Bad, &visible(&store_trouble(trouble)))));
            }
            for line in report.vantage.iter().flat_map(|v| vantage(v, now)) {
                text.push_str(&format!("{}\n", screen.tone(Tone::Bad, &visible(&line))));
            }
            if let Some(error) = &report.reload_error {
                for line in reload_trouble(error) {
                    text.push_str(&format!("{}\n", screen.tone(Tone::Bad, &visible(&line))));
                }
            }
            text
        }
        Source::Store(_) => format!("{}\n", counts(checks)),
    };
    if !open.is_empty() {
        text.push('\n');
        text.push_str(&incidents(open, now, screen));
    }
    let mut table = Table::new(&["CHECK", "STATE", "FOR", "LAST", "LATENCY", "REASON"]);
    for check in checks {
        table.row(row(check, now));
    }
    if !table.is_empty() {
        text.push('\n');
        text.push_str(&table.render(screen));
    }
    text
}

/// Most lines shown of why a reload was refused.
const RELOAD_LINES_MAX: usize = 8;

/// Why the latest reload was refused: its first mistakes.
fn reload_trouble(error: &str) -> Vec<String> {
    let told = "the latest reload was refused, the configuration before it is in force:";
    let lines: Vec<&str> = error.lines().collect();
    if let [line] = lines[..] {
        return vec![format!("{told} {line}")];
    }
    let mut shown = vec![told.to_owned()];
    shown.extend(lines.iter().take(RELOAD_LINES_MAX).map(|line| format!("  {line}").trim_end().to_owned()));
    if lines.len() > RELOAD_LINES_MAX {
        shown.push(format!("  … {}; `bongsu validate` shows them", lines.last().copied().unwrap_or_default()));
    }
    shown
}

/// What must be known of the agent itself: that it is cut off, or which of its canaries are silent.
fn vantage(vantage: &VantageStatus, now: Timestamp) -> Vec<String> {
    let silent = vantage.canaries.iter().filter(|c| c.answers == Some(false));
    match vantage.isolated_since {
        Some(since) => vec![format!(
            "isolated for {}, since {}: {}; failures are unknown and nothing is sent until one answers",
            rough(now.since(since)),
            since.to_seconds_text(),
            match vantage.canaries.len() {
                1 => "its only canary does not answer".into(),
                n => format!("none of {n} canaries answers"),
            },
        )],
        None => silent.map(|c| format!("the canary {} does not answer{}", c.target, why(c.error.as_ref()))).collect(),
    }
}

fn why(reason: Option<&Reason>) -> String {
    reason.map_or_else(String::new, |reason| format!(": {reason}"))
}

/// One line for a reader who must know that nobody is looking.
/// `silent` is why a daemon that runs has not answered.
pub fn alone(silent: Option<&str>, last: Option<Timestamp>) -> String {
    let why = silent.unwrap_or("daemon not running");
    match last {
        Some(at) => format!("{why}; as of {}", at.to_seconds_text()),
        None => format!("{why}; nothing observed yet"),
    }
}

/// A store that does not write, in a line.
fn store_trouble(trouble: &StoreTrouble) -> String {
    let mut line = format!(
        "the store does not write since {}: {}; {} in memory only, lost if the daemon ends before",
        trouble.since.to_seconds_text(),
        trouble.error,
        count(trouble.waiting, "change"),
    );
    if trouble.telling {
        line.push_str("; alerts are sent before they are recorded");
    }
    if trouble.dropped > 0 {
        line.push_str(&format!(
            "; {} dropped",
            count(usize::try_from(trouble.dropped).unwrap_or(usize::MAX), "observation")
        ));
    }
    line
}

fn counts(checks: &[CheckStatus]) -> String {
    let parts = STATES.iter().filter_map(|state| {
        let n = checks.iter().filter(|c| c.state == *state).count();
        (n > 0).then(|| format!("{n} {state}"))
    });
    let parts: Vec<String> = parts.collect();
    match parts.len() {
        0 => "no checks".into(),
        _ => format!("{}: {}", count(checks.len(), "check"), parts.join(", ")),
    }
}

fn incidents(open: &[Incident], now: Timestamp, screen: Screen) -> String {
    let mut table = Table::new(&["INCIDENT", "SERVICE", "SEVERITY", "FOR", "TAKEN BY", "CAUSE"]);
    for incident in open.iter().take(OPEN_MAX) {
        let taken = incident.acknowledged.as_ref().map(|a| a.by.as_str()).unwrap_or_default();
        table.row(vec![
            incident.id.to_string().into(),
            incident.service.as_str().into(),
            Cell::word(incident.severity.as_str()),
            Cell::new(rough(incident.duration(now))).right(),
            taken.into(),
            incident.cause.as_str().into(),
        ]);
    }
    let more = open.len().saturating_sub(OPEN_MAX);
    let more = if more > 0 { format!("and {more} more: `bongsu incidents list --open`\n") } else { String::new() };
    table.render(screen) + &more
}

/// How long ago something was seen; a wall clock that was set back since makes it lie ahead.
fn when(at: Timestamp, now: Timestamp) -> String {
    let ahead = at.since(now);
    if ahead > CLOCK_SLACK { format!("in {}", rough(ahead)) } else { format!("{} ago", rough(now.since(at))) }
}

fn row(check: &CheckStatus, now: Timestamp) -> Vec<Cell> {
    let state = if check.flapping { format!("{}, flapping", check.state) } else { check.state.clone() };
    let tone = super::text::tone_of(&check.state);
    let ago = |at: Timestamp| rough(now.since(at));
    let last = check.last.as_ref();
    let latency = last.and_then(|l| std::time::Duration::try_from_secs_f64(l.latency_ms / 1_000.0).ok());
    vec![
        check.check.as_str().into(),
        Cell::new(state).tone(tone),
        Cell::new(check.since.map(ago).unwrap_or_default()).right(),
        Cell::new(last.map(|l| when(l.at, now)).unwrap_or_else(|| "never".into())).right(),
        Cell::new(latency.map(measured).unwrap_or_default()).right(),
        last.and_then(|l| l.reason.as_ref()).map(ToString::to_string).unwrap_or_default().into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::render::incidents::tests::incident,
        observation::{Kind, Outcome, Phase},
        telemetry::Snapshot,
        web::control::{CanaryStatus, LastSeen},
    };

    fn check(name: &str, state: &str, reason: Option<&str>) -> CheckStatus {
        CheckStatus {
            check: name.parse().expect("a name"),
            state: state.into(),
            since: Some(Timestamp::from_millis(0)),
            flapping: false,
            last: Some(LastSeen {
                at: Timestamp::from_millis(60_000),
                outcome: if reason.is_some() { Outcome::Failed } else { Outcome::Ok },
                latency_ms: 12.34,
                reason: reason.map(|r| Reason::new(Phase::Connect, Kind::Refused, r)),
            }),
        }
    }

    fn report() -> StatusReport {
        StatusReport {
            agent: "seoul-1".parse().expect("a name"),
            version: "0.1.0".into(),
            started_at: Timestamp::EPOCH,
            uptime_ms: 11_520_000,
            config: "config.yaml".into(),
            now: Timestamp::from_millis(70_000),
            checks: vec![],
            vantage: None,
            metrics: Snapshot::default(),
            reload_error: None,
            store: None,
        }
    }

    #[test]
    fn incidents_come_first_then_every_check() {
        let mut new = check("mail/new", "unknown", None);
        (new.last, new.since) = (None, None);
        let checks = [check("mail/in", "down", Some("connection refused")), new, check("카톡/front", "up", None)];
        let text = status(
            &Source::Daemon(&report()),
            &checks,
            &[incident()],
            Timestamp::from_millis(70_000),
            Screen::default(),
        );
        assert_eq!(
            text,
            "bongsu 0.1.0 on seoul-1, up 3h12m, 3 checks: 1 up, 1 down, 1 unknown\n\
             \n\
             INCIDENT  SERVICE  SEVERITY  FOR  TAKEN BY  CAUSE\n\
             #7        mail     down      40s  kim       connect: connection refused\n\
             \n\
             CHECK       STATE      FOR     LAST  LATENCY  REASON\n\
             mail/in     down     1m10s  10s ago   12.3ms  connect: connection refused\n\
             mail/new    unknown           never\n\
             카톡/front  up       1m10s  10s ago   12.3ms\n"
        );
    }

    #[test]
    fn a_flood_of_incidents_leaves_room_for_the_checks() {
        let open = vec![incident(); OPEN_MAX + 3];
        let text =
            status(&Source::Store(None), &[check("a/b", "up", None)], &open, Timestamp::EPOCH, Screen::default());
        assert_eq!(text.matches("#7").count(), OPEN_MAX);
        assert!(text.contains("and 3 more: `bongsu incidents list --open`\n\nCHECK"), "{text}");
    }

    #[test]
    fn an_isolated_agent_says_so_and_a_silent_canary_is_named() {
        let mut report = report();
        let canary = |target: &str, answers| CanaryStatus {
            target: target.into(),
            answers,
            error: (answers == Some(false)).then(|| Reason::new(Phase::Connect, Kind::Timeout, "nothing within 2s")),
        };
        let canaries = vec![canary("tcp://192.0.2.1:443", Some(true)), canary("dns://198.51.100.1/.", Some(false))];
        report.vantage = Some(VantageStatus { isolated_since: None, canaries });
        let now = Timestamp::from_millis(70_000);
        let text = status(&Source::Daemon(&report), &[], &[], now, Screen::default());
        assert!(
            text.ends_with("\nthe canary dns://198.51.100.1/. does not answer: connect: nothing within 2s\n"),
            "{text}"
        );
        report.vantage.as_mut().expect("set above").isolated_since = Some(Timestamp::EPOCH);
        let text = status(&Source::Daemon(&report), &[], &[], now, Screen::default());
        let line = "isolated for 1m10s, since 1970-01-01 00:00:00Z: none of 2 canaries answers; failures are unknown \
                    and nothing is sent until one answers\n";
        assert!(text.ends_with(line), "{text}");
    }

    #[test]
    fn a_refused_reload_and_a_missing_daemon_are_told() {
        let mut report = report();
        report.reload_error = Some("config.yaml:3:1: unknown key `x`".into());
        let text = status(&Source::Daemon(&report), &[], &[], Timestamp::EPOCH, Screen::default());
        assert!(text.contains("no checks\nthe latest reload was refused"), "{text}");
        assert!(text.contains("config.yaml:3:1: unknown key `x`"), "{text}");
        report.reload_error = Some(format!("{}3 mistakes in 1 file", "a.yaml:1:1: x\n  1 | y\n    | ^\n\n".repeat(3)));
        let text = status(&Source::Daemon(&report), &[], &[], Timestamp::EPOCH, Screen::default());
        let told = "in force:\n  a.yaml:1:1: x\n    1 | y\n      | ^\n\n  a.yaml:1:1: x\n    1 | y\n      | ^\n\n  … 3 mistakes \
                    in 1 file; `bongsu validate` shows them\n";
        assert!(text.ends_with(told), "{text}");
        assert_eq!(alone(None, Some(Timestamp::EPOCH)), "daemon not running; as of 1970-01-01 00:00:00Z");
        assert_eq!(alone(None, None), "daemon not running; nothing observed yet");
        let silent = "the daemon gave no good answer: nothing within 5s";
        assert_eq!(alone(Some(silent), None), format!("{silent}; nothing observed yet"));
    }

    #[test]
    fn a_store_that_does_not_write_is_told_with_what_becomes_of_it() {
        let mut report = report();
        let mut trouble = StoreTrouble {
            since: Timestamp::EPOCH,
            error: "no space is left".into(),
            waiting: 3,
            dropped: 0,
            telling: false,
            hangs: false,
            incidents: vec![],
        };
        let mut told = |trouble: &StoreTrouble| {
            report.store = Some(trouble.clone());
            status(&Source::Daemon(&report), &[], &[], Timestamp::EPOCH, Screen::default())
        };
        let line = "the store does not write since 1970-01-01 00:00:00Z: no space is left; 3 changes in memory only, \
                    lost if the daemon ends before";
        assert!(told(&trouble).contains(&format!("{line}\n")), "{}", told(&trouble));
        (trouble.telling, trouble.dropped) = (true, 1);
        let line = format!("{line}; alerts are sent before they are recorded; 1 observation dropped\n");
        assert!(told(&trouble).contains(&line), "{}", told(&trouble));
    }

    #[test]
    fn numbers_no_clock_gives_do_no_harm() {
        let mut odd = check("a/b", "up", None);
        for latency_ms in [f64::NAN, f64::INFINITY, -1.0] {
            odd.last.as_mut().expect("set above").latency_ms = latency_ms;
            let text = status(&Source::Store(None), &[odd.clone()], &[], Timestamp::EPOCH, Screen::default());
            assert!(text.contains("a/b"), "{text}");
        }
    }
}
