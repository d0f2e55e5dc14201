//! The ladder down: power button, `quit`, SIGTERM, SIGKILL, each with a deadline. It ends when the
//! process is reaped, whatever the guest does.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::qemu::process::{Exit, QemuProcess};
use crate::qemu::qmp::Qmp;

/// QEMU's own way out takes milliseconds.
const QUIT_TIME: Duration = Duration::from_secs(5);
const TERMINATE_TIME: Duration = Duration::from_secs(5);

/// Whether the guest is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Courtesy {
    PowerButton(Duration),
    None,
}

pub(super) async fn stop(process: &mut QemuProcess, qmp: &mut Qmp, courtesy: Courtesy) -> Exit {
    if let Courtesy::PowerButton(limit) = courtesy
        && let Some(exit) = try_command(process, qmp, "system_powerdown", limit).await
    {
        return exit;
    }
    if let Some(exit) = try_command(process, qmp, "quit", QUIT_TIME).await {
        return exit;
    }
    process.signal(Signal::TERM);
    if let Ok(exit) = tokio::time::timeout(TERMINATE_TIME, process.wait()).await {
        return exit;
    }
    process.kill().await
}

/// Sends `command` and waits for the end. An answer is no proof: `quit` races its own reply, and a
/// guest may ignore the power button.
async fn try_command(
    process: &mut QemuProcess,
    qmp: &mut Qmp,
    command: &str,
    limit: Duration,
) -> Option<Exit> {
    let exchange = async {
        let answered = qmp
            .execute_within(command, json!({}), limit.min(QUIT_TIME))
            .await;
        if let Err(error) = answered {
            tracing::debug!(%error, "on the way down");
        }
        process.wait().await
    };
    tokio::time::timeout(limit, exchange).await.ok()
}
