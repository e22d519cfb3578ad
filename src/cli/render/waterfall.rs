//! The phases of an attempt as bars over time: where it went, and where it broke.

use std::time::Duration;

use super::text::{Screen, Tone, measured, pad};
use crate::observation::{Observation, PhaseTime, Side};

/// Widest bar in cells: beyond it a longer bar tells nothing more.
const BAR_CELLS_MAX: usize = 60;

/// Narrowest: fewer cells cannot tell the phases apart.
const BAR_CELLS_MIN: usize = 10;

/// Cells before and after the bars: indent, label, gaps, the time, the mark of what broke.
const FRAME_CELLS: usize = 2 + LABEL_CELLS + 1 + 1 + TIME_CELLS + 2;

/// The longest label, `receive greeting`.
const LABEL_CELLS: usize = 16;

/// The longest time, `59.9ms` or `1h30m`, with room.
const TIME_CELLS: usize = 8;

/// Eighths of a cell, from the left.
const EIGHTHS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// One line per phase, to one scale; the phase in which it broke is marked. Empty without phases.
pub fn waterfall(observation: &Observation, screen: Screen) -> String {
    let phases = &observation.phases;
    let Some(total) = phases.iter().map(|p| p.start.saturating_add(p.took)).max() else { return String::new() };
    let total = total.max(observation.duration);
    let cells = screen.width.unwrap_or(80).saturating_sub(FRAME_CELLS).clamp(BAR_CELLS_MIN, BAR_CELLS_MAX);
    // The phase may have run more than once (redirects, two families): the last of its name is the one that broke.
    let broken = observation.reason.as_ref().and_then(|r| phases.iter().rposition(|p| p.phase == r.phase));
    let mut text = String::new();
    for (i, phase) in phases.iter().enumerate() {
        let tone = match broken {
            Some(at) if at == i => Tone::Bad,
            _ => Tone::Good,
        };
        let bar = screen.tone(tone, bar(phase, total, cells).trim_end());
        let spaces = cells.saturating_sub(bar_cells(phase, total, cells));
        let mark = if broken == Some(i) { " ✗" } else { "" };
        let time = format!("{:>TIME_CELLS$}", measured(phase.took));
        let offset = " ".repeat(start_cell(phase, total, cells));
        let label = pad(&label(phase), LABEL_CELLS);
        text.push_str(&format!("  {label} {offset}{bar}{:spaces$} {time}{}\n", "", screen.tone(Tone::Bad, mark)));
    }
    text
}

fn label(phase: &PhaseTime) -> String {
    match phase.side {
        None => phase.phase.to_string(),
        Some(Side::Send) => format!("send {}", phase.phase),
        Some(Side::Receive) => format!("receive {}", phase.phase),
    }
}

/// Eighths of a cell from the start of the attempt.
fn eighths(at: Duration, total: Duration, cells: usize) -> usize {
    if total.is_zero() {
        return 0;
    }
    ((at.as_secs_f64() / total.as_secs_f64()).clamp(0.0, 1.0) * (cells * 8) as f64).round() as usize
}

/// The cell in which the bar begins; one is always left for it.
fn start_cell(phase: &PhaseTime, total: Duration, cells: usize) -> usize {
    (eighths(phase.start, total, cells) / 8).min(cells - 1)
}

fn bar(phase: &PhaseTime, total: Duration, cells: usize) -> String {
    let start = start_cell(phase, total, cells) * 8;
    let end = eighths(phase.start.saturating_add(phase.took), total, cells);
    // Even the shortest phase is seen.
    let length = end.saturating_sub(start).clamp(1, cells * 8 - start);
    let mut bar = "█".repeat(length / 8);
    if !length.is_multiple_of(8) {
        bar.push(EIGHTHS[length % 8 - 1]);
    }
    bar
}

fn bar_cells(phase: &PhaseTime, total: Duration, cells: usize) -> usize {
    start_cell(phase, total, cells) + bar(phase, total, cells).chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::render::text::width,
        observation::{Kind, Outcome, Phase, Reason},
        value::Timestamp,
    };

    fn observed(phases: &[(Phase, Option<Side>, u64, u64)], broken: Option<Phase>) -> Observation {
        let total = phases.iter().map(|p| p.2 + p.3).max().unwrap_or(0);
        let mut o = Observation::new(Timestamp::EPOCH, Outcome::Ok, Duration::from_micros(total));
        o.phases = phases
            .iter()
            .map(|&(phase, side, start, took)| PhaseTime {
                phase,
                side,
                start: Duration::from_micros(start),
                took: Duration::from_micros(took),
            })
            .collect();
        o.reason = broken.map(|phase| Reason::new(phase, Kind::Timeout, "no answer"));
        o
    }

    #[test]
    fn bars_are_to_scale_over_time() {
        let o = observed(
            &[
                (Phase::Resolve, None, 0, 10_000),
                (Phase::Connect, None, 10_000, 10_000),
                (Phase::Tls, None, 20_000, 60_000),
                (Phase::Exchange, None, 80_000, 80_000),
            ],
            Some(Phase::Exchange),
        );
        let screen = Screen { width: Some(46), colour: false };
        assert_eq!(
            waterfall(&o, screen),
            "  resolve          █                  10.0ms\n\
             \x20 connect           █                 10.0ms\n\
             \x20 tls                ██████           60.0ms\n\
             \x20 exchange                 ████████   80.0ms ✗\n"
        );
    }

    #[test]
    fn sides_of_a_delivery_are_named() {
        let o = observed(&[(Phase::Connect, Some(Side::Receive), 0, 1), (Phase::Send, Some(Side::Send), 1, 1)], None);
        let text = waterfall(&o, Screen::default());
        let labels: Vec<&str> = text.lines().map(|l| l[..18].trim()).collect();
        assert_eq!(labels, ["receive connect", "send send"]);
    }

    #[test]
    fn no_times_break_the_frame() {
        let spans = [0, 1, 7, 999, 1_000_000, u64::from(u32::MAX)];
        for start in spans {
            for took in spans {
                for cells in [Some(0), Some(40), Some(200), None] {
                    let o = observed(&[(Phase::Tls, None, 0, 5), (Phase::Close, None, start, took)], None);
                    let text = waterfall(&o, Screen { width: cells, colour: false });
                    assert_eq!(text.lines().count(), 2);
                    let widths: Vec<usize> = text.lines().map(width).collect();
                    assert_eq!(widths[0], widths[1], "{text}");
                    assert!(widths[0] <= FRAME_CELLS + BAR_CELLS_MAX, "{text}");
                }
            }
        }
        assert_eq!(waterfall(&observed(&[], None), Screen::default()), "");
    }
}
