//! CreateVm over gRPC, and how much of it is the daemon's own.
//!
//! The daemon counts the time from QEMU's exec until its monitor answers
//! (`casemate_qemu_start_seconds`); what is left of a create is the daemon's share. The daemon
//! works while QEMU starts, so the share is told a second time in a way that flatters nobody: the
//! whole create minus what the same QEMU takes to its greeting when nothing else is done.

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use casemate_proto::v1;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::daemon::{self, Daemon, Emulator};
use crate::report::Figure;
use crate::sample::{Samples, milliseconds, timed};
use crate::site::Site;

const OWN: &str = "create-own-share";
const OWN_STRICT: &str = "create-minus-by-hand";
const WHOLE: &str = "create";
const QEMU: &str = "create-qemu-start";
const BY_HAND: &str = "qemu-by-hand";
const RATIO: &str = "create-to-by-hand";
pub(crate) const NAMES: &[&str] = &[WHOLE, QEMU, OWN, BY_HAND, OWN_STRICT, RATIO];

const REAL_WHOLE: &str = "create-real-qemu";
const REAL_QEMU: &str = "create-real-qemu-start";
const REAL_OWN: &str = "create-real-own-share";
pub(crate) const REAL_NAMES: &[&str] = &[REAL_WHOLE, REAL_QEMU, REAL_OWN];

/// Milliseconds, without a measurement.
const BUDGET: f64 = 5.0;
const WARM_UP: usize = 10;
const ROUNDS: usize = 200;
/// A real QEMU is slow to start and to end, and its figures are for comparison.
const REAL_WARM_UP: usize = 1;
const REAL_ROUNDS: usize = 10;
const START_METRIC: &str = "casemate_qemu_start_seconds_sum";

#[derive(Debug, Default)]
struct Creates {
    whole: Samples,
    qemu: Samples,
    own: Samples,
}

pub(crate) async fn measure(site: &Site) -> Result<Vec<Figure>> {
    let creates = creates(site, Emulator::Scripted, WARM_UP, ROUNDS).await?;
    let by_hand = by_hand(site).await?;
    let strict = creates.whole.minus(by_hand.p50());
    Ok(vec![
        Figure::new(WHOLE, "ms", &creates.whole),
        Figure::new(QEMU, "ms", &creates.qemu),
        Figure::new(OWN, "ms", &creates.own).with_budget(BUDGET),
        Figure::new(BY_HAND, "ms", &by_hand),
        Figure::new(OWN_STRICT, "ms", &strict).with_budget(BUDGET),
        Figure::ratio(RATIO, &creates.whole, &by_hand),
    ])
}

/// With the installed QEMU, emulating; nothing where there is none.
pub(crate) async fn measure_real(site: &Site) -> Result<Vec<Figure>> {
    let Some(path) = Site::real_qemu() else {
        return Ok(Vec::new());
    };
    let creates = creates(site, Emulator::Real(path), REAL_WARM_UP, REAL_ROUNDS).await?;
    Ok(vec![
        Figure::new(REAL_WHOLE, "ms", &creates.whole),
        Figure::new(REAL_QEMU, "ms", &creates.qemu),
        Figure::new(REAL_OWN, "ms", &creates.own),
    ])
}

/// One after the other, each VM removed before the next.
async fn creates(
    site: &Site,
    emulator: Emulator,
    warm_up: usize,
    rounds: usize,
) -> Result<Creates> {
    let daemon = Daemon::start(site, emulator, vec![backend(site)?]).await?;
    let mut client = daemon.vms().await?;
    let mut creates = Creates::default();
    for round in 0..warm_up + rounds {
        let before = daemon.metric(START_METRIC).await?;
        let request = v1::CreateVmRequest {
            spec: Some(spec()),
            ..Default::default()
        };
        let (time, answer) = timed(client.create_vm(request)).await;
        let answer = answer.with_context(|| daemon.log_tail())?.into_inner();
        let qemu = (daemon.metric(START_METRIC).await? - before) * 1e3;
        ensure!(qemu > 0.0, "casemated did not count QEMU's start");
        let id = answer.vm.context("CreateVm gave no VM")?.id;
        client
            .remove_vm(v1::RemoveVmRequest {
                id,
                ..Default::default()
            })
            .await?;
        if round >= warm_up {
            let whole = milliseconds(time);
            creates.whole.add(whole);
            creates.qemu.add(qemu);
            creates.own.add(whole - qemu);
        }
    }
    Ok(creates)
}

/// The shipped backend without firmware: the guest's kernel is started directly.
pub(crate) fn backend(site: &Site) -> Result<toml::Table> {
    let mut backend = site.packaged_backend("plain-kvm")?;
    backend.insert(
        "settings".to_owned(),
        toml::toml! { firmware = "none" }.into(),
    );
    Ok(backend)
}

/// What a caller of the predecessor passes, too: a few variables for the guest.
pub(crate) fn spec() -> v1::VmSpec {
    let environment = [
        ("AGENT_CVM_GRPC_URL", "10.0.2.2:7001"),
        ("AGENT_LOG_LEVEL", "info"),
    ];
    v1::VmSpec {
        name: "bench".to_owned(),
        environment: environment
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..v1::VmSpec::default()
    }
}

/// The scripted QEMU from its start to its greeting, with nobody around it.
async fn by_hand(site: &Site) -> Result<Samples> {
    let folder = daemon::folder()?;
    let fake_qemu = daemon::stage_fake_qemu(site, folder.path())?;
    let mut samples = Samples::default();
    for round in 0..WARM_UP + ROUNDS {
        let time = start_by_hand(&fake_qemu).await?;
        if round >= WARM_UP {
            samples.add(time);
        }
    }
    Ok(samples)
}

/// Milliseconds.
async fn start_by_hand(fake_qemu: &Path) -> Result<f64> {
    let mut command = daemon::program(fake_qemu);
    command
        .env_clear()
        .args(["-machine", "q35", "-S", "-qmp", "stdio"])
        // An end of its input would end it.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let started = Instant::now();
    let mut child = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the scripted QEMU")?;
    let output = child.stdout.take().context("a pipe was asked for")?;
    let mut greeting = String::new();
    BufReader::new(output)
        .read_line(&mut greeting)
        .await
        .context("cannot read the greeting")?;
    let time = milliseconds(started.elapsed());
    ensure!(greeting.contains("QMP"), "{greeting:?} is no greeting");
    child.kill().await.context("cannot end the scripted QEMU")?;
    Ok(time)
}
