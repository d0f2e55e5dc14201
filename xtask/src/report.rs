//! What the person at the terminal sees: one aligned line a step, with its time.
//!
//! On a terminal the running step has a spinner with the last line of what it does. Elsewhere, a
//! line is printed when the step has run for a while, so that a log shows that things move.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::interrupt::Interrupt;

/// Width of the column of step names; the longest name in use fits.
const NAME_WIDTH: usize = 26;
/// Width of what a step says about itself, so that the times are aligned.
const SUMMARY_WIDTH: usize = 54;
/// Without a terminal a running step says something this often.
const QUIET_INTERVAL: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Plain,
    Coloured,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Terminal,
    Lines,
}

#[derive(Debug)]
pub struct Report {
    style: Style,
    output: Output,
    interrupt: Interrupt,
}

impl Report {
    /// `interrupt` tells a step that was stopped from one that failed.
    pub fn new(interrupt: Interrupt) -> Self {
        let output = if std::io::stdout().is_terminal() {
            Output::Terminal
        } else {
            Output::Lines
        };
        // NO_COLOR counts when it is set and not empty.
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let style = match output {
            Output::Terminal if !no_colour => Style::Coloured,
            _ => Style::Plain,
        };
        Self {
            style,
            output,
            interrupt,
        }
    }

    pub fn heading(&self, text: &str) {
        println!("{}", self.paint("1", text));
    }

    /// A line below the heading that belongs to no step.
    pub fn note(&self, text: &str) {
        println!("  {text}");
    }

    /// Text of another program, shown as it is, a little indented.
    pub fn quote(&self, text: &str) {
        for line in text.trim_end().lines() {
            println!("    {line}");
        }
    }

    /// Begins a step; the returned value prints the line when it is done.
    pub fn step(&self, name: &str) -> Step<'_> {
        let bar = match self.output {
            Output::Lines => None,
            Output::Terminal => {
                let template = if self.style == Style::Coloured {
                    "  {prefix:26} {spinner:.cyan} {wide_msg}"
                } else {
                    "  {prefix:26} {spinner} {wide_msg}"
                };
                let style = ProgressStyle::with_template(template)
                    .unwrap_or_else(|_| ProgressStyle::default_spinner());
                let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout())
                    .with_style(style)
                    .with_prefix(name.to_owned());
                bar.enable_steady_tick(Duration::from_millis(120));
                Some(bar)
            }
        };
        let now = Instant::now();
        Step {
            report: self,
            name: name.to_owned(),
            bar,
            started: now,
            last_line: now,
            finished: false,
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        match self.style {
            Style::Plain => text.to_owned(),
            Style::Coloured => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

/// One running step. Dropped before [`Step::done`] or [`Step::failed`], it says that it was not finished.
#[derive(Debug)]
pub struct Step<'report> {
    report: &'report Report,
    name: String,
    bar: Option<ProgressBar>,
    started: Instant,
    last_line: Instant,
    finished: bool,
}

impl Step<'_> {
    /// Shows what is going on right now.
    pub fn progress(&mut self, doing: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(doing.to_owned());
        } else if self.last_line.elapsed() >= QUIET_INTERVAL {
            self.last_line = Instant::now();
            self.line(doing, "90", "...");
        }
    }

    /// A line that stays, printed while the step runs on.
    pub fn note(&self, text: &str) {
        let print = || println!("  {text}");
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Ends the step with a line that says what came of it.
    pub fn done(mut self, summary: &str) {
        self.finished = true;
        self.end("32", "ok", summary);
    }

    /// Ends the step with a line that says what is wrong, where that is no error of the chore.
    pub fn failed(mut self, summary: &str) {
        self.finished = true;
        self.end("31", "failed", summary);
    }

    fn end(&self, colour: &str, mark: &str, summary: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.line(summary, colour, mark);
    }

    fn line(&self, text: &str, colour: &str, mark: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        let mark = self.report.paint(colour, &format!("{mark:<7}"));
        println!(
            "  {:NAME_WIDTH$} {mark} {text:SUMMARY_WIDTH$} {seconds:7.1} s",
            self.name
        );
        // A log that is being followed should show the line now.
        let _ = std::io::stdout().flush();
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if self.report.interrupt.is_asked() {
            self.end("33", "stopped", "");
        } else {
            self.end("31", "failed", "");
        }
    }
}
