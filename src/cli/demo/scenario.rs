//! The outages that the demo replays: real ones, reduced to what a monitor would have met on the wire.

use std::time::Duration;

use super::broker::Fault;
use crate::incident::Severity;

/// Shortest demo: below this there is no room for a calm beginning, an outage and its end.
pub const TOTAL_MIN: Duration = Duration::from_secs(30);

/// Longest demo.
pub const TOTAL_MAX: Duration = Duration::from_secs(3_600);

/// How long the service works before it breaks: enough for every check to have been good a few times.
const CALM_MAX: Duration = Duration::from_secs(8);

/// The check that looks at the health page, as most monitors do.
pub const HEALTH: &str = "health-page";
/// The check that looks at the port.
pub const PORT: &str = "port";
/// The check that logs in.
pub const LOGIN: &str = "login";
/// The check that sends messages and waits for them.
pub const DELIVERY: &str = "delivery";
/// The service they belong to.
pub const SERVICE: &str = "messenger";

/// A real outage and its replay.
#[derive(Debug, PartialEq)]
pub struct Scenario {
    /// Its number.
    pub id: &'static str,
    /// Its name.
    pub title: &'static str,
    /// What happened, in one sentence.
    pub happened: &'static str,
    /// How long it lasted then.
    pub lasted: Duration,
    /// What the broker does meanwhile.
    pub fault: Fault,
    /// What breaks, as the demo knows it.
    pub broke: &'static str,
    /// What is repaired.
    pub repaired: &'static str,
    /// The check that must find it.
    pub found_by: &'static str,
    /// The heading of what that check sees.
    pub column: &'static str,
    /// How bad bongsu must call it.
    pub severity: Severity,
    /// What bongsu must say, in one sentence.
    pub must_say: &'static str,
    /// A word that the cause must hold: the phase that is to be blamed.
    pub cause: &'static str,
    /// Whether messages booked as lost must turn up as late.
    pub late: bool,
    /// Whether any message may be booked as lost.
    pub loses: bool,
    /// Checks that must stay up all along.
    pub unharmed: &'static [&'static str],
}

/// All of them; the first is replayed by default.
pub static SCENARIOS: [Scenario; 4] = [
    Scenario {
        id: "R9",
        title: "silent loss",
        happened: "KakaoTalk, 1 January 2017, 00:00 to 00:37: messages were shown as sent and never arrived.",
        lasted: Duration::from_secs(37 * 60),
        fault: Fault::Withhold,
        broke: "The broker loses every message, and goes on acknowledging each.",
        repaired: "The broker delivers again.",
        found_by: DELIVERY,
        column: "messages",
        severity: Severity::Down,
        must_say: "down, because what was accepted does not arrive; what turns up later is booked as late, not lost",
        cause: "deliver",
        late: true,
        loses: true,
        unharmed: &[HEALTH, PORT, LOGIN],
    },
    Scenario {
        id: "R7",
        title: "six minutes",
        happened: "KakaoTalk, 13 May 2024, 13:44 to 13:50: a faulty update, and 80 % of the users could not send.",
        lasted: Duration::from_secs(6 * 60),
        fault: Fault::Overload(8),
        broke: "The broker turns away 8 of 10 logins.",
        repaired: "The broker lets everybody in again.",
        found_by: DELIVERY,
        column: "messages",
        severity: Severity::Down,
        must_say: "down, its beginning told as the interval between the last good attempt and the first bad one",
        cause: "login",
        late: false,
        loses: false,
        unharmed: &[HEALTH, PORT],
    },
    Scenario {
        id: "R8",
        title: "duplicates and delay",
        happened: "KakaoTalk, 13 February 2017, 15:31 to 15:47: messages took over ten seconds and came several times.",
        lasted: Duration::from_secs(16 * 60),
        fault: Fault::DelayAndDuplicate(Duration::from_millis(400), 2),
        broke: "The broker delivers every message 0.4 s late, and twice.",
        repaired: "The broker is as fast as before.",
        found_by: DELIVERY,
        column: "messages",
        severity: Severity::Degraded,
        must_say: "degraded, because messages are slow and come twice; none is lost",
        cause: "deliver",
        late: false,
        loses: false,
        unharmed: &[HEALTH, PORT, LOGIN],
    },
    Scenario {
        id: "R5",
        title: "login only",
        happened: "KakaoTalk, 18 July 2024, 10:54 to 12:20: new logins failed while open sessions went on working.",
        lasted: Duration::from_secs(86 * 60),
        fault: Fault::RefuseLogin,
        broke: "The broker refuses every new login.",
        repaired: "The broker lets users log in again.",
        found_by: LOGIN,
        column: "logins",
        severity: Severity::Down,
        must_say: "down, and the phase it names is the login: the network and the port are not blamed",
        cause: "login",
        late: false,
        loses: false,
        unharmed: &[HEALTH, PORT],
    },
];

/// The scenario of this number or name, whatever its case.
pub fn by_name(name: &str) -> Result<&'static Scenario, String> {
    let found = SCENARIOS.iter().find(|s| s.id.eq_ignore_ascii_case(name) || s.title.eq_ignore_ascii_case(name));
    found.ok_or_else(|| {
        let known: Vec<String> = SCENARIOS.iter().map(|s| format!("{} ({})", s.id, s.title)).collect();
        format!("there is no scenario `{name}`; there are {}", known.join(", "))
    })
}

/// When things happen, counted from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// When the service breaks.
    pub broke: Duration,
    /// When it is repaired.
    pub repaired: Duration,
    /// When the demo ends at the latest.
    pub end: Duration,
}

impl Timeline {
    /// A timeline that fits into this time: calm, an outage of nearly half of it, and the rest for the recovery.
    pub fn within(total: Duration) -> Self {
        let broke = (total / 6).min(CALM_MAX);
        Self { broke, repaired: broke + total * 2 / 5, end: total }
    }

    /// How long the outage lasts.
    pub fn outage(&self) -> Duration {
        self.repaired - self.broke
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_found_and_consistent() {
        for scenario in &SCENARIOS {
            assert_eq!(by_name(&scenario.id.to_lowercase()), Ok(scenario));
            assert_eq!(by_name(scenario.title), Ok(scenario));
            assert!(!scenario.unharmed.contains(&scenario.found_by), "{}", scenario.id);
            assert!(scenario.unharmed.contains(&HEALTH), "{}: the health page is green", scenario.id);
            assert_ne!(scenario.fault, Fault::Healthy);
        }
        let error = by_name("R99").expect_err("unknown");
        assert!(error.contains("R9 (silent loss), R7 (six minutes)"), "{error}");
    }

    #[test]
    fn a_timeline_leaves_room_for_every_part() {
        for seconds in [30, 50, 60, 90, 600, 3_600] {
            let timeline = Timeline::within(Duration::from_secs(seconds));
            assert!(timeline.broke >= Duration::from_secs(5), "{timeline:?}");
            assert!(timeline.outage() >= Duration::from_secs(12), "{timeline:?}");
            assert!(timeline.end - timeline.repaired >= Duration::from_secs(13), "{timeline:?}");
        }
        let usual = Timeline::within(Duration::from_secs(50));
        assert_eq!((usual.broke.as_secs(), usual.repaired.as_secs()), (8, 28));
    }
}
