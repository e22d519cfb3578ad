//! Standard output and error: whether they are terminals, how wide, in colour; a reader who left ends nothing badly.

use std::io::{self, IsTerminal, Write};

use serde_json::Value;

use super::{Failure, render::text::Screen};

/// Fewest cells believed of a terminal: a smaller figure comes from one that does not know its size.
const WIDTH_MIN: usize = 20;

/// Where a command writes.
pub struct Output {
    screen: Screen,
    stderr_is_terminal: bool,
    stderr_colour: bool,
    progress_shown: bool,
}

impl Output {
    /// Asks the process's own streams; `no_color` is the user's option.
    pub fn new(no_color: bool) -> Self {
        // https://no-color.org: set and not empty, whatever its value.
        let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        let wanted = !no_color && !set("NO_COLOR") && !dumb;
        let terminal = io::stdout().is_terminal();
        let width = terminal.then(terminal_size::terminal_size).flatten().map(|(w, _)| usize::from(w.0));
        Self {
            screen: Screen { width: width.filter(|w| *w >= WIDTH_MIN), colour: terminal && wanted },
            stderr_is_terminal: io::stderr().is_terminal() && !dumb,
            stderr_colour: io::stderr().is_terminal() && wanted,
            progress_shown: false,
        }
    }

    /// What text is rendered for.
    pub fn screen(&self) -> Screen {
        self.screen
    }

    /// Whether errors are shown in colour.
    pub fn stderr_colour(&self) -> bool {
        self.stderr_colour
    }

    /// Writes to standard output. A reader who left (`bongsu … | head`) wants no more and is not told of an error.
    pub fn print(&mut self, text: &str) -> Result<(), Failure> {
        self.stream(text).map(|_| ())
    }

    /// The same for a part of what is written; says whether anybody still reads.
    pub fn stream(&mut self, text: &str) -> Result<bool, Failure> {
        self.clear_progress();
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(e) => Err(Failure::failed(format!("cannot write: {e}"))),
        }
    }

    /// Writes JSON, indented, with a newline.
    pub fn print_json(&mut self, value: &Value) -> Result<(), Failure> {
        self.print(&format!("{value:#}\n"))
    }

    /// Writes a line to standard error.
    pub fn note(&mut self, line: &str) {
        self.clear_progress();
        // With standard error gone there is nobody left to tell.
        let _ = writeln!(io::stderr().lock(), "{line}");
    }

    /// Shows how far a command is, on a terminal only; the next output wipes it away.
    pub fn progress(&mut self, text: &str) {
        if self.stderr_is_terminal {
            let mut stderr = io::stderr().lock();
            let _ = write!(stderr, "\r\x1b[K{}", super::render::text::fit(text, 70)).and_then(|()| stderr.flush());
            self.progress_shown = true;
        }
    }

    fn clear_progress(&mut self) {
        if std::mem::take(&mut self.progress_shown) {
            let mut stderr = io::stderr().lock();
            let _ = write!(stderr, "\r\x1b[K").and_then(|()| stderr.flush());
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.clear_progress();
    }
}
