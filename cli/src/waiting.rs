//! Shows on standard error that a call is still waited for, once that takes longer than a person
//! would think nothing of.

use std::future::Future;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const SILENT_TIME: Duration = Duration::from_secs(1);
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

/// Clears its line when it goes, also when the call is broken off.
struct Spinner(ProgressBar);

impl Spinner {
    fn start(doing: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
            .with_elapsed(SILENT_TIME)
            .with_message(format!("waiting for the daemon to {doing}"));
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
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
