//! A thousand VMs: what a list of them costs, and what each holds in the daemon's memory.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use casemate_proto::v1;
use tonic::Code;

use crate::calls::RawCall;
use crate::create;
use crate::daemon::{Daemon, Emulator};
use crate::report::Figure;
use crate::sample::{Samples, milliseconds, timed};
use crate::site::Site;

const LIST: &str = "list-1000-vms";
const CPU: &str = "list-1000-vms-server-cpu";
const DECODED: &str = "list-1000-vms-decoded";
const EMPTY: &str = "empty-call";
const RATIO: &str = "list-to-empty-call";
const MEMORY: &str = "memory-per-vm";
pub(crate) const NAMES: &[&str] = &[LIST, CPU, DECODED, EMPTY, RATIO, MEMORY];

/// Milliseconds.
const LIST_BUDGET: f64 = 1.0;
/// KiB.
const MEMORY_BUDGET: f64 = 64.0;
const VMS: usize = 1_000;
/// VMs that are there before memory is first looked at: what the first ones cost is the caches'.
const FIRST_VMS: usize = 10;
/// VMs that are created at the same time, so that a thousand do not take minutes.
const AT_ONCE: usize = 8;
const WARM_UP: usize = 20;
const ROUNDS: usize = 500;
/// What the creates leave running is over by then.
const SETTLING: Duration = Duration::from_secs(1);
const NO_VM: &str = "00000000-0000-4000-8000-000000000000";

pub(crate) async fn measure(site: &Site) -> Result<Vec<Figure>> {
    let backend = create::backend(site)?;
    let daemon = Daemon::start(site, Emulator::Scripted, vec![backend]).await?;
    create_many(&daemon, FIRST_VMS).await?;
    tokio::time::sleep(SETTLING).await;
    let before = daemon.resident_kib()?;
    create_many(&daemon, VMS - FIRST_VMS).await?;
    tokio::time::sleep(SETTLING).await;
    let growth = daemon.resident_kib()? - before;
    let memory = Samples::from_iter([growth / (VMS - FIRST_VMS) as f64]);

    let channel = daemon.channel().await?;
    let mut raw = RawCall::new(channel.clone(), "/casemate.v1.VmService/ListVms");
    let mut client = daemon.vms().await?;
    let (mut list, mut cpu, mut decoded, mut empty) =
        <(Samples, Samples, Samples, Samples)>::default();
    // In turn, so that whatever else the machine does meets all of them alike.
    for round in 0..WARM_UP + ROUNDS {
        let cpu_before = daemon.cpu_milliseconds()?;
        let (list_time, length) = timed(raw.call()).await;
        let cpu_time = daemon.cpu_milliseconds()? - cpu_before;
        ensure!(length? > 0, "a list of VMs is not empty");
        let (decoded_time, answer) = timed(client.list_vms(v1::ListVmsRequest::default())).await;
        let count = answer?.into_inner().vms.len();
        ensure!(count == VMS, "{count} VMs are listed instead of {VMS}");
        let request = v1::GetVmRequest {
            id: NO_VM.to_owned(),
        };
        let (empty_time, answer) = timed(client.get_vm(request)).await;
        ensure!(
            answer.is_err_and(|status| status.code() == Code::NotFound),
            "there is a VM {NO_VM}"
        );
        if round >= WARM_UP {
            list.add(milliseconds(list_time));
            cpu.add(cpu_time);
            decoded.add(milliseconds(decoded_time));
            empty.add(milliseconds(empty_time));
        }
    }
    Ok(vec![
        Figure::new(LIST, "ms", &list).with_budget(LIST_BUDGET),
        Figure::new(CPU, "ms", &cpu),
        Figure::new(DECODED, "ms", &decoded),
        Figure::new(EMPTY, "ms", &empty),
        Figure::ratio(RATIO, &list, &empty),
        Figure::new(MEMORY, "KiB", &memory).with_budget(MEMORY_BUDGET),
    ])
}

async fn create_many(daemon: &Daemon, count: usize) -> Result<()> {
    let client = daemon.vms().await?;
    let mut creating = tokio::task::JoinSet::new();
    for _ in 0..count {
        if creating.len() >= AT_ONCE {
            finish_one(daemon, &mut creating).await?;
        }
        let mut client = client.clone();
        let request = v1::CreateVmRequest {
            spec: Some(create::spec()),
            ..Default::default()
        };
        creating.spawn(async move { client.create_vm(request).await.map(drop) });
    }
    while !creating.is_empty() {
        finish_one(daemon, &mut creating).await?;
    }
    Ok(())
}

async fn finish_one(
    daemon: &Daemon,
    creating: &mut tokio::task::JoinSet<Result<(), tonic::Status>>,
) -> Result<()> {
    match creating.join_next().await {
        Some(created) => created
            .context("a create was broken off")?
            .with_context(|| daemon.log_tail()),
        None => Ok(()),
    }
}
