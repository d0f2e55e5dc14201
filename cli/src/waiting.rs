//! Shows on standard error that a call is still waited for, once that takes longer than a person
//! would think nothing of.

use std::future::Future;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const SILENT_TIME: Duration = Duration::from_secs(1);
/// What is below takes one line of a terminal.
const LONGEST_LINE: usize = 70;

const REDRAW_INTERVAL: Duration = Duration::from_millis(100);

/// `doing` is what the call is to do: "create the VM". Two of these at once would fight for the
/// line; calls that run together are shown as one.
pub(crate) async fn shown<Answer>(doing: &str, call: impl Future<Output = Answer>) -> Answer {
    if !std::io::stderr().is_terminal() {
        return call.await;
    }
    tokio::pin!(call);
    tokio::select! {
        answer = &mut call => return answer,
        () = tokio::time::sleep(SILENT_TIME) => {}
    }
    let spinner = Spinner::start(doing);
    let answer = call.await;
    drop(spinner);
    answer
}

/// As [`shown`], for what is not asked of a daemon; `doing` is told as it is.
pub(crate) async fn shown_of<Answer>(
    doing: &'static str,
    call: impl Future<Output = Answer>,
) -> Answer {
    if !std::io::stderr().is_terminal() {
        return call.await;
    }
    tokio::pin!(call);
    tokio::select! {
        answer = &mut call => return answer,
        () = tokio::time::sleep(SILENT_TIME) => {}
    }
    let spinner = Spinner::start_with(doing.to_owned(), "{spinner} {msg} ({elapsed})");
    let answer = call.await;
    drop(spinner);
    answer
}

/// As [`shown`], for what is waited for in several steps.
#[derive(Debug)]
pub(crate) struct Progress {
    doing: &'static str,
    started: Instant,
    spinner: Option<Spinner>,
}

impl Progress {
    pub(crate) fn new(doing: &'static str) -> Self {
        Self {
            doing,
            started: Instant::now(),
            spinner: None,
        }
    }

    /// Whether anybody looks.
    pub(crate) fn is_seen(&self) -> bool {
        std::io::stderr().is_terminal()
    }

    /// Once it takes long; `below` is one line.
    pub(crate) fn show(&mut self, below: &str) {
        if self.started.elapsed() < SILENT_TIME {
            return;
        }
        let spinner = self.spinner.get_or_insert_with(|| {
            let template = "{spinner} {msg} ({elapsed})\n  {prefix}";
            Spinner::start_with(self.doing.to_owned(), template)
        });
        let below: String = below.chars().take(LONGEST_LINE).collect();
        spinner.0.set_prefix(below);
    }
}

/// Clears its line when it goes, also when the call is broken off.
#[derive(Debug)]
struct Spinner(ProgressBar);

impl Spinner {
    fn start(doing: &str) -> Self {
        let message = format!("waiting for the daemon to {doing}");
        Self::start_with(message, "{spinner} {msg} ({elapsed})")
    }

    fn start_with(message: String, template: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
            .with_elapsed(SILENT_TIME)
            .with_message(message);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(REDRAW_INTERVAL);
        Self(bar)
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
