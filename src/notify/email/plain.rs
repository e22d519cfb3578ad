//! The plain text of a mail: what a text-only client, a pager and a screen reader show.

use crate::notify::text::{Words, plot_legend, sparkline, wrap};

/// Columns of a line: what fits an 80-column client with a mark of quotation or two.
const WIDTH: usize = 76;

/// Where the values of facts begin.
const VALUE_COLUMN: usize = 11;

/// The whole text. `footer` are its last lines, below the mark that clients take for the beginning of a signature.
pub fn body(words: &Words<'_>, footer: &[String]) -> String {
    let mut lines = wrap(&words.headline(), WIDTH, 0);
    lines.push(String::new());
    for fact in words.facts() {
        let text = format!("{:<VALUE_COLUMN$}{}", fact.label, fact.value);
        lines.extend(aligned(&text, &fact.value, VALUE_COLUMN));
    }
    let (checks, left_out) = words.checks();
    if !checks.is_empty() {
        lines.push(String::new());
        lines.push("Checks".into());
    }
    for check in checks {
        lines.push(String::new());
        lines.extend(wrap(&format!("  {} {} {}", check.name, check.state, check.when), WIDTH, 4));
        if let Some(reason) = &check.reason {
            lines.extend(wrap(&format!("    {reason}"), WIDTH, 4));
        }
        if !check.recent.is_empty() {
            lines.push(format!("    {}", sparkline(check.recent)));
            lines.extend(wrap(&format!("    {}", plot_legend(check.recent)), WIDTH, 4));
        }
    }
    if left_out > 0 {
        lines.push(String::new());
        lines.push(format!("  and {left_out} more"));
    }
    lines.push(String::new());
    lines.push("-- ".into());
    lines.extend(footer.iter().flat_map(|line| wrap(line, WIDTH, 2)));
    lines.push(String::new());
    lines.join("\n")
}

/// A label with its value, further lines below the value. Breaking the value alone keeps the label's padding.
fn aligned(text: &str, value: &str, column: usize) -> Vec<String> {
    let label = &text[..text.len() - value.len()];
    let broken = wrap(value, WIDTH - column, 0);
    broken
        .into_iter()
        .enumerate()
        .map(|(n, line)| if n == 0 { format!("{label}{line}") } else { format!("{}{line}", " ".repeat(column)) })
        .collect()
}

#[cfg(test)]
mod tests {
    use chrono_tz::Tz;

    use super::*;
    use crate::{
        alert::MessageKind,
        notify::text::{columns, tests::alert},
    };

    #[test]
    fn the_text_of_a_problem() {
        let mut alert = alert(MessageKind::Problem);
        alert.cause = "submission: login: 535 5.7.8 Error: authentication failed: the backend of the mail server \
                       does not answer"
            .into();
        let text = body(&Words { alert: &alert, zone: Tz::UTC }, &["bongsu on seoul-1, incident #12".into()]);
        assert_eq!(
            text,
            "\
회사 메일 is down.

Cause      submission: login: 535 5.7.8 Error: authentication failed: the
           backend of the mail server does not answer
Began      2026-11-22, between 14:50:02Z and 14:50:05Z
Lasted     3m12s so far
Checks     1 down, 1 degraded
Seen from  seoul-1
Labels     datacenter=gasan

Checks

  submission down since 14:50:05Z
    login: 535 5.7.8 <no> \"entry\" & more
    ▁▁▂▃▆█××××
    latest 10: 6 ok, 4 failed; at most 250ms

  webmail degraded, flapping since 14:51:30Z

-- 
bongsu on seoul-1, incident #12
"
        );
    }

    #[test]
    fn no_line_is_wider_than_a_text_client_shows() {
        let mut alert = alert(MessageKind::Reminder);
        alert.cause = "아주 긴 까닭이 여기에 적혀 있다 ".repeat(30);
        alert.acknowledged_by = Some("word ".repeat(50));
        let text = body(&Words { alert: &alert, zone: Tz::Asia__Seoul }, &["x ".repeat(100)]);
        for line in text.lines() {
            assert!(line.chars().map(columns).sum::<usize>() <= WIDTH, "{line}");
        }
    }
}
