//! Transient scopes: systemd makes a cgroup around a process that is there already.
//!
//! A scope has no main process and belongs to no other unit, so a restart of the daemon's service,
//! its crash or an upgrade leaves it alone. When the host shuts down, systemd stops it as any other
//! unit: SIGTERM, at which QEMU quits cleanly, and SIGKILL later. It has no order relative to the
//! daemon's service: one that came after it could not be started before the service says that it is
//! ready.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio_stream::StreamExt as _;
use zbus::zvariant::{OwnedObjectPath, Value};

use super::{ConfineError, PlaceLimits};
use crate::spec::VmId;

/// Holds all VMs of the host, for limits that an operator sets over all of them.
pub(super) const SLICE: &str = "casemate.slice";
/// As the `systemd` library decides it: sd_booted(3).
const SYSTEMD_RUNS: &str = "/run/systemd/system";
/// Fixed, so that a start by hand and one by systemd find the same bus.
const BUS: &str = "unix:path=/run/dbus/system_bus_socket";
/// systemd answers in milliseconds unless it is reloading; a start job has nothing to wait for.
const DEADLINE: Duration = Duration::from_secs(20);
/// systemd collects a unit that ended within milliseconds.
const COLLECT_PAUSE: Duration = Duration::from_millis(50);
const COLLECT_TIME: Duration = Duration::from_secs(2);

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    /// The last parameter is for further units, of which there are none.
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, Value<'_>)],
        auxiliary: &[(&str, &[(&str, Value<'_>)])],
    ) -> zbus::Result<OwnedObjectPath>;

    #[zbus(signal)]
    fn job_removed(
        &self,
        id: u32,
        job: zbus::zvariant::ObjectPath<'_>,
        unit: &str,
        result: &str,
    ) -> zbus::Result<()>;

    #[zbus(property)]
    fn version(&self) -> zbus::Result<String>;
}

pub(super) fn systemd_runs() -> bool {
    Path::new(SYSTEMD_RUNS).is_dir()
}

pub(super) fn unit_of(id: VmId) -> String {
    format!("casemate-vm-{id}.scope")
}

/// A connection for each call: one that is kept would be dead after a restart of D-Bus, and a VM is
/// started seldom.
async fn manager() -> zbus::Result<ManagerProxy<'static>> {
    let connection = zbus::connection::Builder::address(BUS)?.build().await?;
    ManagerProxy::new(&connection).await
}

/// Whether the system bus is there and systemd is on it.
pub(super) async fn answers() -> Result<(), ConfineError> {
    let name = || "any scope".to_owned();
    within_deadline(name(), async { manager().await?.version().await.map(drop) })
        .await?
        .map_err(|source| refused(name(), source))
}

/// Starts the scope around `pid`, and returns when the process is in it.
pub(super) async fn start(
    unit: &str,
    id: VmId,
    pid: u32,
    limits: PlaceLimits,
) -> Result<(), ConfineError> {
    let result = within_deadline(unit.to_owned(), start_and_wait(unit, id, pid, limits))
        .await?
        .map_err(|source| refused(unit.to_owned(), source))?;
    match result.as_str() {
        "done" => Ok(()),
        _ => Err(ConfineError::ScopeJob {
            unit: unit.to_owned(),
            result,
        }),
    }
}

async fn start_and_wait(
    unit: &str,
    id: VmId,
    pid: u32,
    limits: PlaceLimits,
) -> zbus::Result<String> {
    let manager = manager().await?;
    // Before the call, so that the answer cannot be missed.
    let mut removed = manager.receive_job_removed().await?;
    let mut properties = vec![
        ("Description", Value::from(format!("Casemate VM {id}"))),
        ("Slice", Value::from(SLICE)),
        ("PIDs", Value::from(vec![pid])),
        // A scope whose QEMU was killed leaves no failed unit behind.
        ("CollectMode", Value::from("inactive-or-failed")),
        // QEMU makes no cgroups.
        ("Delegate", Value::from(false)),
    ];
    if let Some(memory) = limits.memory_bytes {
        properties.push(("MemoryMax", Value::from(memory)));
        // A guest's memory is nothing for the host's disk.
        properties.push(("MemorySwapMax", Value::from(0_u64)));
    }
    if let Some(tasks) = limits.tasks {
        properties.push(("TasksMax", Value::from(tasks)));
    }
    let begun = Instant::now();
    let job = loop {
        match manager
            .start_transient_unit(unit, "fail", &properties, &[])
            .await
        {
            // The scope of the last start, whose cgroup is gone, is about to be collected.
            Err(error) if is_taken(&error) && begun.elapsed() < COLLECT_TIME => {
                tokio::time::sleep(COLLECT_PAUSE).await;
            }
            job => break job?,
        }
    };
    while let Some(signal) = removed.next().await {
        let removed = signal.args()?;
        if *removed.job() == *job {
            return Ok(removed.result().to_string());
        }
    }
    Err(zbus::Error::Failure(
        "the bus went away before systemd answered".to_owned(),
    ))
}

fn is_taken(error: &zbus::Error) -> bool {
    const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
    matches!(error, zbus::Error::MethodError(name, ..) if name.as_str() == UNIT_EXISTS)
}

async fn within_deadline<T>(
    unit: String,
    answer: impl Future<Output = T>,
) -> Result<T, ConfineError> {
    tokio::time::timeout(DEADLINE, answer)
        .await
        .map_err(|_| ConfineError::ScopeDeadline {
            unit,
            seconds: DEADLINE.as_secs(),
        })
}

fn refused(unit: String, source: zbus::Error) -> ConfineError {
    ConfineError::Scope {
        unit,
        source: Box::new(source),
    }
}
