//! The start of a daemon with three backends, and what it holds in memory when it is idle.

use std::time::Duration;

use anyhow::Result;

use crate::daemon::{Daemon, Emulator};
use crate::report::Figure;
use crate::sample::{Samples, milliseconds};
use crate::site::Site;

const READY: &str = "start-to-ready";
const READY_REAL: &str = "start-to-ready-real-qemu";
const MEMORY: &str = "idle-memory";
pub(crate) const NAMES: &[&str] = &[READY, READY_REAL, MEMORY];

/// Milliseconds, compilation of the backends included.
const READY_BUDGET: f64 = 400.0;
/// MiB.
const MEMORY_BUDGET: f64 = 40.0;
const ROUNDS: usize = 12;
/// The backends that are not shipped, beside the one that is.
const FIXTURES: [&str; 2] = ["umbra", "sealed"];
/// What a start leaves running, such as the end of the QEMU that was probed, is over by then.
const SETTLING: Duration = Duration::from_millis(300);

pub(crate) async fn measure(site: &Site) -> Result<Vec<Figure>> {
    let mut backends = vec![site.packaged_backend("plain-kvm")?];
    for name in FIXTURES {
        backends.push(site.backend(name)?);
    }
    let (ready, memory) = rounds(site, Emulator::Scripted, &backends).await?;
    let mut figures = vec![
        Figure::new(READY, "ms", &ready).with_budget(READY_BUDGET),
        Figure::new(MEMORY, "MiB", &memory).with_budget(MEMORY_BUDGET),
    ];
    if let Some(path) = Site::real_qemu() {
        let (ready, _) = rounds(site, Emulator::Real(path), &backends).await?;
        figures.push(Figure::new(READY_REAL, "ms", &ready).with_budget(READY_BUDGET));
    }
    Ok(figures)
}

async fn rounds(
    site: &Site,
    emulator: Emulator,
    backends: &[toml::Table],
) -> Result<(Samples, Samples)> {
    let (mut ready, mut memory) = (Samples::default(), Samples::default());
    for _ in 0..ROUNDS {
        let daemon = Daemon::start(site, emulator, backends.to_vec()).await?;
        ready.add(milliseconds(daemon.ready_after()));
        tokio::time::sleep(SETTLING).await;
        memory.add(daemon.resident_kib()? / 1024.0);
    }
    Ok((ready, memory))
}
