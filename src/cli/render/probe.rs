//! One attempt as a person reads it: verdict, waterfall, evidence, reason, transcript; and many as a table.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{
    text::{Cell, Screen, Table, Tone, count, fit, measured, tone_of, visible, width, wrap},
    waterfall::waterfall,
};
use crate::{
    observation::{Accept, Delivery, Observation, Outcome, TlsFacts, to_ms},
    protocol::wire::{Line, Said},
};

/// Cells of the names of evidence.
const NAME_CELLS: usize = 12;

/// Days below which a certificate's end is worth a look.
const CERTIFICATE_DAYS_FEW: i64 = 14;

/// One attempt with what it was about.
pub struct Probed<'a> {
    /// `service/check`, or the URL.
    pub name: &'a str,
    /// What was asked, without secrets.
    pub target: &'a str,
    /// What it showed.
    pub observation: &'a Observation,
    /// What was said; `None` when nobody asked for it.
    pub transcript: Option<&'a [Line]>,
}

/// One attempt in full.
pub fn one(probed: &Probed<'_>, screen: Screen) -> String {
    let o = probed.observation;
    let word = o.outcome.as_str();
    let mut text = screen.tone(tone_of(word), word);
    text.push_str(&format!("  {}", screen.tone(Tone::Strong, &visible(probed.name))));
    if probed.target != probed.name {
        text.push_str(&format!("  {}", visible(probed.target)));
    }
    text.push_str(&format!("  {}\n", measured(o.latency())));
    text.push_str(&waterfall(o, screen));
    text.push_str(&evidence(o, screen));
    if let Some(lines) = probed.transcript {
        text.push_str(&transcript(lines, screen));
    }
    text
}

fn evidence(o: &Observation, screen: Screen) -> String {
    let mut text = String::new();
    let mut put = |name: &str, value: String, tone: Tone| {
        let room = screen.width.map(|w| w.saturating_sub(NAME_CELLS + 3));
        for (i, line) in wrap(&visible(&value), room).iter().enumerate() {
            let name = if i == 0 { fit(name, NAME_CELLS) } else { String::new() };
            let spaces = NAME_CELLS - width(&name);
            let name = screen.tone(Tone::Dim, &name);
            text.push_str(&format!("  {name}{:spaces$} {}\n", "", screen.tone(tone, line)));
        }
    };
    if let Some(address) = o.address {
        put("address", address.to_string(), Tone::Plain);
    }
    if let Some(tls) = &o.tls {
        let few = tls.days_left.is_some_and(|d| d < CERTIFICATE_DAYS_FEW);
        put("tls", tls_text(tls), if few { Tone::Warn } else { Tone::Plain });
    }
    if let Some(account) = &o.account {
        put("account", format!("{} (of {})", account.name, account.of), Tone::Plain);
    }
    if let Some(delivery) = &o.delivery {
        put("delivery", delivery_text(delivery), Tone::Plain);
    }
    for (name, value) in &o.details {
        put(&visible(name), plain(value), Tone::Plain);
    }
    if let Some(reason) = &o.reason {
        let tone = if o.outcome == Outcome::Slow { Tone::Warn } else { Tone::Bad };
        put("reason", format!("{reason} ({})", reason.kind), tone);
    }
    text
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn tls_text(tls: &TlsFacts) -> String {
    let mut parts: Vec<String> = Some(&tls.version).filter(|v| !v.is_empty()).cloned().into_iter().collect();
    parts.extend(tls.cipher.clone());
    parts.extend(tls.alpn.as_ref().map(|a| format!("ALPN {a}")));
    parts.extend(tls.subject.as_ref().map(|s| format!("certificate {s}")));
    parts.extend(tls.issuer.as_ref().map(|i| format!("issued by {i}")));
    parts.extend(tls.days_left.map(|days| match days {
        1 => "1 day left".into(),
        d if d < 0 => format!("expired {} ago", count(usize::try_from(-d).unwrap_or(usize::MAX), "day")),
        d => format!("{d} days left"),
    }));
    parts.join(", ")
}

fn delivery_text(d: &Delivery) -> String {
    let mut parts = vec![match d.latency_ms {
        Some(latency) => format!("{} after {}", d.fate.as_str(), measured(latency)),
        None => d.fate.as_str().to_owned(),
    }];
    let accept = match d.accept {
        Accept::Accepted => "accepted",
        Accept::Rejected => "rejected",
        Accept::Deferred => "deferred",
        Accept::Unreachable => "not handed over",
        Accept::Uncertain => "acceptance uncertain",
    };
    parts.push(match d.accept_ms {
        Some(took) => format!("{accept} after {}", measured(took)),
        None => accept.to_owned(),
    });
    parts.push(format!("message {}", d.sequence));
    parts.extend(d.integrity.map(|i| format!("integrity {}", i.as_str())));
    let fates = d.all_fates();
    if fates.messages() > 1 {
        let counts = [
            ("arrived", fates.arrived),
            ("late", fates.late),
            ("pending", fates.pending),
            ("lost", fates.lost),
            ("unsent", fates.unsent),
            ("uncertain", fates.uncertain),
        ];
        let counts = counts.iter().filter(|(_, n)| *n > 0).map(|(word, n)| format!("{n} {word}"));
        parts.push(format!("{} messages ({})", fates.messages(), counts.collect::<Vec<_>>().join(", ")));
    }
    if d.duplicates > 0 {
        parts.push(count(d.duplicates as usize, "duplicate"));
    }
    if d.changed > 0 && fates.messages() > 1 {
        parts.push(format!("{} changed", d.changed));
    }
    if d.foreign > 0 {
        parts.push(format!("{} foreign", d.foreign));
    }
    if d.reordered > 0 {
        parts.push(if fates.messages() > 1 { format!("{} reordered", d.reordered) } else { "reordered".into() });
    }
    parts.extend(d.login.as_ref().map(|login| match login.ok {
        true => format!("new logins work ({})", measured(login.ms)),
        false => "new logins fail".into(),
    }));
    parts.extend(d.reconnections.iter().map(|r| format!("{} session opened anew ({})", r.side, r.why)));
    if !d.left_out.is_empty() {
        parts.push(format!("left out: {}", d.left_out.join(" ")));
    }
    parts.join(", ")
}

/// What was said, a line each, with its offset from the start of the attempt.
fn transcript(lines: &[Line], screen: Screen) -> String {
    let mut text = format!("  {}\n", screen.tone(Tone::Dim, "transcript"));
    for said in lines {
        let (arrow, tone) = match said.what {
            Said::Note => ("·", Tone::Dim),
            Said::Sent => ("→", Tone::Plain),
            Said::Received => ("←", Tone::Plain),
        };
        let body = said.text.trim_end_matches(['\r', '\n']);
        for (i, line) in body.split('\n').enumerate() {
            let offset = if i == 0 { measured(said.offset) } else { String::new() };
            let arrow = if i == 0 { arrow } else { " " };
            let line = screen.tone(tone, &visible(line.trim_end_matches('\r')));
            text.push_str(&format!("  {offset:>8} {arrow} {line}\n"));
        }
    }
    text
}

/// The transcript as JSON.
pub fn transcript_json(lines: &[Line]) -> Value {
    let lines = lines.iter().map(|l| {
        let mut map = Map::new();
        map.insert("offset_ms".into(), json!(to_ms(l.offset)));
        let who = match l.what {
            Said::Note => "note",
            Said::Sent => "sent",
            Said::Received => "received",
        };
        map.insert("who".into(), json!(who));
        map.insert("text".into(), json!(l.text));
        Value::Object(map)
    });
    lines.collect()
}

/// Many attempts as a table, the bad ones first, and a line that sums them up.
pub fn many(all: &[Probed<'_>], took: Duration, screen: Screen) -> String {
    let mut order: Vec<&Probed<'_>> = all.iter().collect();
    let rank = |o: Outcome| Outcome::ALL.len() - Outcome::ALL.iter().position(|x| *x == o).unwrap_or(0);
    let badness = |o: Outcome| if o == Outcome::Failed { 0 } else { rank(o) };
    order.sort_by(|a, b| {
        badness(a.observation.outcome).cmp(&badness(b.observation.outcome)).then_with(|| a.name.cmp(b.name))
    });
    let mut table = Table::new(&["OUTCOME", "CHECK", "LATENCY", "REASON"]);
    for probed in order {
        let o = probed.observation;
        table.row(vec![
            Cell::word(o.outcome.as_str()),
            probed.name.into(),
            Cell::new(measured(o.latency())).right(),
            o.reason.as_ref().map(ToString::to_string).unwrap_or_default().into(),
        ]);
    }
    let counts = Outcome::ALL.iter().filter_map(|outcome| {
        let n = all.iter().filter(|p| p.observation.outcome == *outcome).count();
        (n > 0).then(|| format!("{n} {outcome}"))
    });
    let counts: Vec<String> = counts.collect();
    format!("{}{}: {}, in {}\n", table.render(screen), count(all.len(), "check"), counts.join(", "), measured(took))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        observation::{Fate, Fates, Integrity, Kind, Login, Phase, PhaseTime, Reason, Reconnection, Side},
        value::Timestamp,
    };

    fn failed_login() -> Observation {
        let mut o = Observation::new(Timestamp::EPOCH, Outcome::Failed, Duration::from_millis(100));
        o.phases = vec![
            PhaseTime { phase: Phase::Connect, side: None, start: Duration::ZERO, took: Duration::from_millis(20) },
            PhaseTime {
                phase: Phase::Login,
                side: None,
                start: Duration::from_millis(20),
                took: Duration::from_millis(80),
            },
        ];
        o.address = Some("192.0.2.7:587".parse().expect("an address"));
        o.tls = Some(TlsFacts {
            version: "1.3".into(),
            cipher: None,
            alpn: None,
            subject: Some("CN=mx.example.com".into()),
            issuer: None,
            not_after: None,
            days_left: Some(3),
        });
        o.details.insert("server".into(), json!("mx\x1b[2J"));
        o.details.insert("status".into(), json!(535));
        o.reason = Some(Reason::new(Phase::Login, Kind::Rejected, "535 5.7.8 no"));
        o
    }

    #[test]
    fn one_attempt_is_told_in_full() {
        let o = failed_login();
        let line = |ms, what, text: &str| Line { offset: Duration::from_millis(ms), what, text: text.into() };
        let lines = [
            line(0, Said::Note, "connect 192.0.2.7:587"),
            line(20, Said::Sent, "AUTH PLAIN ***\r\n"),
            line(100, Said::Received, "535-5.7.8\r\n535 \x1b]0;no\r\n"),
        ];
        let probed = Probed {
            name: "mail/submission",
            target: "smtp://mx.example.com:587",
            observation: &o,
            transcript: Some(&lines),
        };
        let text = one(&probed, Screen { width: Some(60), colour: false });
        assert_eq!(
            text,
            "failed  mail/submission  smtp://mx.example.com:587  100ms\n\
             \x20 connect          ██████                           20.0ms\n\
             \x20 login                  ████████████████████████   80.0ms ✗\n\
             \x20 address      192.0.2.7:587\n\
             \x20 tls          1.3, certificate CN=mx.example.com, 3 days\n\
             \x20              left\n\
             \x20 server       mx\\x1b[2J\n\
             \x20 status       535\n\
             \x20 reason       login: 535 5.7.8 no (rejected)\n\
             \x20 transcript\n\
             \x20   0.00ms · connect 192.0.2.7:587\n\
             \x20   20.0ms → AUTH PLAIN ***\n\
             \x20    100ms ← 535-5.7.8\n\
             \x20            535 \\x1b]0;no\n"
        );
    }

    #[test]
    fn a_handshake_that_failed_has_no_version() {
        let mut o = failed_login();
        let tls = o.tls.as_mut().expect("it made a handshake");
        tls.version.clear();
        assert!(tls_text(tls).starts_with("certificate CN="), "{}", tls_text(tls));
    }

    #[test]
    fn delivery_facts_are_told() {
        let mut d = Delivery {
            accept_ms: Some(Duration::from_millis(40)),
            latency_ms: Some(Duration::from_millis(12_000)),
            duplicates: 2,
            foreign: 1,
            reordered: 1,
            integrity: Some(Integrity::Normalised),
            left_out: vec!["emoji".into()],
            ..Delivery::new(Fate::Late, Accept::Accepted, 17)
        };
        assert_eq!(
            delivery_text(&d),
            "late after 12.0s, accepted after 40.0ms, message 17, integrity normalised, 2 duplicates, 1 foreign, \
             reordered, left out: emoji"
        );
        (d.fates, d.changed, d.left_out) = (Fates { arrived: 17, late: 2, lost: 1, ..Fates::default() }, 1, vec![]);
        d.login = Some(Login { ok: true, ms: Duration::from_millis(30), reason: None });
        let why = "receiving side: the server closed the connection".into();
        d.reconnections = vec![Reconnection { side: Side::Receive, why }];
        assert_eq!(
            delivery_text(&d),
            "late after 12.0s, accepted after 40.0ms, message 17, integrity normalised, 20 messages (17 arrived, \
             2 late, 1 lost), 2 duplicates, 1 changed, 1 foreign, 1 reordered, new logins work (30.0ms), \
             receive session opened anew (receiving side: the server closed the connection)"
        );
    }

    #[test]
    fn a_certificates_days_are_told_as_days() {
        let days = |days_left| {
            let mut o = failed_login();
            let mut tls = o.tls.take().expect("set above");
            tls.days_left = days_left;
            tls_text(&tls)
        };
        for (left, text) in [(Some(1), ", 1 day left"), (Some(-1), ", expired 1 day ago"), (Some(41), ", 41 days left")]
        {
            assert!(days(left).ends_with(text), "{}", days(left));
        }
        assert_eq!(days(None), "1.3, certificate CN=mx.example.com");
        assert!(days(Some(i64::MIN + 1)).contains("expired"));
    }

    #[test]
    fn many_attempts_have_the_bad_ones_first() {
        let ok = Observation::new(Timestamp::EPOCH, Outcome::Ok, Duration::from_millis(7));
        let slow = Observation::new(Timestamp::EPOCH, Outcome::Slow, Duration::from_millis(900));
        let failed = failed_login();
        let probed = |name, observation| Probed { name, target: "", observation, transcript: None };
        let all = [probed("b/ok", &ok), probed("a/slow", &slow), probed("카톡/login", &failed)];
        assert_eq!(
            many(&all, Duration::from_millis(950), Screen::default()),
            "OUTCOME  CHECK       LATENCY  REASON\n\
             failed   카톡/login    100ms  login: 535 5.7.8 no\n\
             slow     a/slow        900ms\n\
             ok       b/ok         7.00ms\n\
             3 checks: 1 ok, 1 slow, 1 failed, in 950ms\n"
        );
    }
}
