//! The HTML of a mail: one table with styles on its elements, because that is what Outlook (Word's renderer) and
//! Gmail (which drops style sheets) both show. No image, no link, no script: nothing to load, block or track.
//!
//! The latency plot is a row of table cells whose bottom bar has a height; background colours are set with
//! `bgcolor` as well. Colours are chosen to stay readable when a client inverts them for its dark mode.

use std::fmt::Write;

use crate::{
    alert::{MessageKind, Point},
    incident::Severity,
    notify::text::{CheckWords, Words, level, plot_legend, tallest_ms},
    observation::Outcome,
};

/// Most checks drawn with a plot: Gmail cuts a mail at 102 kB, and a plot has about 6 kB.
const PLOTS_MAX: usize = 8;

/// Height of a plot in pixels.
const PLOT_HEIGHT_PX: usize = 40;

const FONT: &str = "font-family:-apple-system,'Segoe UI',Roboto,'Apple SD Gothic Neo','Malgun Gothic',sans-serif";
const RED: &str = "#c62828";
const AMBER: &str = "#b26a00";
const GREEN: &str = "#2e7d32";
const BLUE: &str = "#1565c0";
const GREY: &str = "#757575";

/// The whole document.
pub fn body(words: &Words<'_>, footer: &[String]) -> String {
    let mut html = String::with_capacity(8 * 1_024);
    let colour = colour(words);
    let _ = write!(
        html,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{title}</title></head>\n\
         <body style=\"margin:0;padding:0\">\n\
         <table role=\"presentation\" width=\"100%\" cellpadding=\"0\" cellspacing=\"0\" border=\"0\"><tr>\
         <td align=\"left\" style=\"padding:12px\">\n\
         <table role=\"presentation\" width=\"640\" cellpadding=\"0\" cellspacing=\"0\" border=\"0\" \
         style=\"max-width:640px;width:100%;{FONT};font-size:14px;line-height:20px\">\n\
         <tr><td bgcolor=\"{colour}\" style=\"background-color:{colour};color:#ffffff;padding:12px 16px;\
         font-size:18px;line-height:24px;font-weight:bold\">{tag}&ensp;{service}</td></tr>\n\
         <tr><td style=\"padding:12px 16px 4px 16px;font-size:16px;line-height:22px\">{headline}</td></tr>\n",
        title = escaped(&words.title()),
        tag = escaped(&words.tag()),
        service = escaped(&words.alert.title),
        headline = escaped(&words.headline()),
    );
    facts(&mut html, words);
    let (checks, left_out) = words.checks();
    for (number, check) in checks.iter().enumerate() {
        write_check(&mut html, check, number < PLOTS_MAX);
    }
    if left_out > 0 {
        let _ = writeln!(html, "<tr><td style=\"padding:8px 16px;color:{GREY}\">and {left_out} more</td></tr>");
    }
    let footer: Vec<String> = footer.iter().map(|line| escaped(line)).collect();
    let _ = write!(
        html,
        "<tr><td style=\"padding:16px;color:{GREY};font-size:12px;line-height:16px\">{}</td></tr>\n\
         </table>\n</td></tr></table>\n</body></html>\n",
        footer.join("<br>")
    );
    html
}

fn colour(words: &Words<'_>) -> &'static str {
    match (words.alert.kind, words.alert.severity) {
        (MessageKind::Recovery | MessageKind::Past, _) if words.alert.unwatched => AMBER,
        (MessageKind::Recovery | MessageKind::Past, _) => GREEN,
        (MessageKind::Test, _) => BLUE,
        (MessageKind::Partial | MessageKind::Isolated, _) | (_, Severity::Degraded) => AMBER,
        (MessageKind::Problem | MessageKind::Worse | MessageKind::Reminder, Severity::Down) => RED,
    }
}

fn facts(html: &mut String, words: &Words<'_>) {
    html.push_str(
        "<tr><td style=\"padding:4px 16px\"><table role=\"presentation\" cellpadding=\"0\" cellspacing=\"0\" \
         border=\"0\">\n",
    );
    for fact in words.facts() {
        let _ = writeln!(
            html,
            "<tr><td valign=\"top\" style=\"padding:2px 16px 2px 0;color:{GREY};white-space:nowrap\">{}</td>\
             <td valign=\"top\" style=\"padding:2px 0;word-break:break-word\">{}</td></tr>",
            escaped(fact.label),
            escaped(&fact.value)
        );
    }
    html.push_str("</table></td></tr>\n");
}

fn write_check(html: &mut String, check: &CheckWords<'_>, with_plot: bool) {
    let colour = match check.state.split(',').next() {
        Some("up again") => GREEN,
        Some("degraded" | "no longer watched") => AMBER,
        _ => RED,
    };
    let _ = write!(
        html,
        "<tr><td style=\"padding:10px 16px 0 16px\"><b>{}</b> <span style=\"color:{colour}\">{}</span> {}",
        escaped(check.name),
        escaped(&check.state),
        escaped(&check.when)
    );
    if let Some(reason) = &check.reason {
        let _ = write!(html, "<br><span style=\"word-break:break-word\">{}</span>", escaped(reason));
    }
    html.push_str("</td></tr>\n");
    if with_plot && !check.recent.is_empty() {
        plot(html, check.recent);
    }
}

fn plot(html: &mut String, points: &[Point]) {
    let tallest = tallest_ms(points);
    let _ = write!(
        html,
        "<tr><td style=\"padding:6px 16px 0 16px\"><table role=\"presentation\" cellpadding=\"0\" cellspacing=\"0\" \
         border=\"0\" height=\"{PLOT_HEIGHT_PX}\" style=\"height:{PLOT_HEIGHT_PX}px;border-bottom:1px solid {GREY}\">\
         <tr>"
    );
    for point in points {
        let (height, colour, mark) = match point.outcome {
            Outcome::Ok => (level(point.ms, tallest, PLOT_HEIGHT_PX).max(1), BLUE, "&nbsp;"),
            Outcome::Slow => (level(point.ms, tallest, PLOT_HEIGHT_PX).max(1), AMBER, "&nbsp;"),
            // Told by a sign as well: not everybody tells red from blue.
            Outcome::Failed => (PLOT_HEIGHT_PX, RED, "&times;"),
            Outcome::Unknown => (2, GREY, "&nbsp;"),
        };
        let _ = write!(
            html,
            "<td valign=\"bottom\" width=\"12\" style=\"padding:0 1px;vertical-align:bottom\">\
             <div style=\"width:12px;height:{height}px;background-color:{colour};color:#ffffff;font-size:11px;\
             line-height:{height}px;text-align:center;overflow:hidden\">{mark}</div></td>"
        );
    }
    let _ = writeln!(
        html,
        "</tr></table><span style=\"color:{GREY};font-size:12px\">{}</span></td></tr>",
        escaped(&plot_legend(points))
    );
}

/// Text as HTML shows it, also within an attribute.
fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c if c.is_control() => html.push(' '),
            c => html.push(c),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use chrono_tz::Tz;

    use super::*;
    use crate::{
        alert::AlertCheck,
        notify::text::tests::{alert, at},
    };

    const EVERY: [MessageKind; 8] = [
        MessageKind::Problem,
        MessageKind::Worse,
        MessageKind::Reminder,
        MessageKind::Partial,
        MessageKind::Recovery,
        MessageKind::Past,
        MessageKind::Isolated,
        MessageKind::Test,
    ];

    /// Every element opened is closed, in order; returns the text between them.
    fn well_formed(html: &str) -> String {
        let (mut open, mut text, mut rest) = (Vec::new(), String::new(), html);
        while let Some(start) = rest.find('<') {
            text.push_str(&rest[..start]);
            let end = rest[start..].find('>').expect("a tag ends") + start;
            let tag = &rest[start + 1..end];
            let name = tag.trim_start_matches('/').split(' ').next().expect("a name");
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            match tag {
                tag if tag.starts_with('!') || matches!(name, "meta" | "br") => {}
                tag if tag.starts_with('/') => assert_eq!(open.pop().as_deref(), Some(name), "{tag}"),
                _ => open.push(name.to_owned()),
            }
            rest = &rest[end + 1..];
        }
        assert_eq!(open, Vec::<String>::new());
        text
    }

    #[test]
    fn every_kind_is_well_formed_and_tells_its_facts() {
        for kind in EVERY {
            let alert = alert(kind);
            let words = Words { alert: &alert, zone: Tz::UTC };
            let text = well_formed(&body(&words, &["bongsu".into()]));
            assert!(text.contains(&escaped(&words.headline())), "{kind:?}: {text}");
            for fact in words.facts() {
                assert!(text.contains(&escaped(&fact.value)), "{kind:?}: {fact:?}");
            }
        }
    }

    #[test]
    fn what_is_no_longer_watched_is_not_green() {
        let mut alert = alert(MessageKind::Recovery);
        assert!(body(&Words { alert: &alert, zone: Tz::UTC }, &[]).contains(GREEN));
        alert.unwatched = true;
        alert.checks.iter_mut().for_each(|check| check.unwatched = true);
        alert.checks.iter_mut().for_each(|check| check.recent.clear());
        let html = body(&Words { alert: &alert, zone: Tz::UTC }, &[]);
        assert!(html.contains("no longer watched, last seen down") && !html.contains(GREEN), "{html}");
    }

    #[test]
    fn nothing_of_an_alert_becomes_markup() {
        let mut alert = alert(MessageKind::Problem);
        let evil = "<script>alert(1)</script>\" onload='x' &amp;";
        alert.title = evil.into();
        alert.cause = evil.into();
        alert.acknowledged_by = Some(evil.into());
        let html = body(&Words { alert: &alert, zone: Tz::UTC }, &[evil.into()]);
        assert!(!html.contains("<script") && !html.contains("onload='"), "{html}");
        well_formed(&html);
    }

    #[test]
    fn a_plot_marks_failures_and_bounds_heights() {
        let alert = alert(MessageKind::Problem);
        let html = body(&Words { alert: &alert, zone: Tz::UTC }, &[]);
        assert_eq!(html.matches("&times;").count(), 4);
        assert_eq!(html.matches("height:40px;background-color:#1565c0").count(), 1, "the tallest fills the plot");
        assert!(html.contains("latest 10: 6 ok, 4 failed; at most 250ms"));
    }

    #[test]
    fn the_largest_mail_is_shown_whole_by_gmail() {
        let mut alert = alert(MessageKind::Problem);
        let recent: Vec<Point> =
            (0..400_u16).map(|n| Point { at: at(0), outcome: Outcome::Failed, ms: f32::from(n) }).collect();
        let check = AlertCheck { recent, ..alert.checks[1].clone() };
        alert.checks = std::iter::repeat_n(check, 500).collect();
        let html = body(&Words { alert: &alert, zone: Tz::UTC }, &[]);
        assert!(html.len() < 100_000, "{} bytes", html.len());
    }
}
