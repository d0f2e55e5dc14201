//! A launch digest as the component computes it, with what the host hashes for it, and the digest of
//! a large file beside the program that everybody has for it.

use std::hint::black_box;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use casemate_host::backend::{BackendConfig, BackendEngine, Launched, Limits, LoadedBackend};
use casemate_host::spec::Origin;
use casemate_host::spec::facts::FactRecord;
use casemate_host::spec::plan::{BootInputs, Firmware, LaunchPlan};
use casemate_host::spec::request::{Accelerator, Boot, HostContext, LaunchRequest, RequestFile};
use casemate_host::vm::sealed::sealed_copy;

use crate::report::Figure;
use crate::sample::{Samples, microseconds, timed};
use crate::site::Site;

const WARM: &str = "measure-snp-warm";
const COLD: &str = "digest-128-mib";
const BASELINE: &str = "sha384sum-128-mib";
const RATIO: &str = "digest-to-sha384sum";
pub(crate) const NAMES: &[&str] = &[WARM, COLD, BASELINE, RATIO];

const BACKEND: &str = "sev-snp";
/// Microseconds.
const WARM_BUDGET: f64 = 15_000.0;
const RATIO_BUDGET: f64 = 1.5;
const WARM_UP: usize = 5;
const ROUNDS: usize = 200;
const COLD_ROUNDS: usize = 5;
const LARGE: usize = 128 << 20;

pub(crate) async fn measure(site: &Site) -> Result<Vec<Figure>> {
    let config: BackendConfig = site
        .packaged_backend(BACKEND)?
        .try_into()
        .context("the packaged backend is not of the config's form")?;
    let engine = BackendEngine::new(Limits::default())?;
    let backend = LoadedBackend::load(&engine, &config, &[]).await?;
    let mut figures = Vec::new();
    match &site.snp_firmware {
        Some(firmware) => figures.push(warm(site, &backend, firmware).await?),
        None => println!("  {WARM} left out: the distribution has no firmware with kernel hashes"),
    }
    figures.extend(cold(&backend).await?);
    Ok(figures)
}

/// Firmware of 4 MiB, kernel and initrd, all hashed before by the host.
async fn warm(site: &Site, backend: &LoadedBackend, firmware: &Path) -> Result<Figure> {
    let files = [
        ("firmware", firmware),
        ("kernel", &site.kernel),
        ("initrd", &site.initrd),
    ];
    let files = (1..).zip(files).map(|(id, (role, path))| {
        let file = std::fs::File::open(path)?;
        let (copy, size) = sealed_copy(&file)?;
        Ok(RequestFile {
            id,
            role: role.to_owned(),
            path: path.to_owned(),
            size,
            origin: Origin::Operator,
            handle: Ok(Arc::new(copy)),
        })
    });
    let request = LaunchRequest {
        host: HostContext {
            architecture: "x86_64".to_owned(),
            accelerator: Accelerator::Kvm,
            settings: Vec::new(),
            files: files.collect::<std::io::Result<_>>()?,
        },
        vcpus: 4,
        memory_bytes: 2048 << 20,
        boot: Boot::Kernel,
        machine: None,
        cpu: None,
        kernel_cmdline: "quiet console=null".to_owned(),
        devices: Vec::new(),
        data_disks: Vec::new(),
        identity: None,
    };
    let boot = BootInputs {
        kernel: true,
        initrd: true,
        cmdline: true,
    };
    let plan = LaunchPlan::to_measure("EPYC-v4", Firmware::Bios(1), boot);
    let facts = FactRecord::default();
    let mut samples = Samples::default();
    for round in 0..WARM_UP + ROUNDS {
        let launch = Launched {
            plan: &plan,
            arguments: &[],
            facts: &facts,
        };
        let source = Arc::new(FactRecord::default());
        let (time, outcome) = timed(backend.measure(&request, &launch, source)).await;
        let outcome = outcome?.context("the component measures nothing")?;
        ensure!(!outcome.registers.is_empty(), "there is no register");
        black_box(outcome);
        if round >= WARM_UP {
            samples.add(microseconds(time));
        }
        tokio::task::yield_now().await;
    }
    Ok(Figure::new(WARM, "us", &samples).with_budget(WARM_BUDGET))
}

/// A file that was just written is hashed anew each time.
async fn cold(backend: &LoadedBackend) -> Result<Vec<Figure>> {
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let path = folder.path().join("initrd");
    let block: Vec<u8> = (0..1_u32 << 20).map(|n| (n ^ (n >> 7)) as u8).collect();
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for _ in 0..COLD_ROUNDS {
        let mut file = std::fs::File::create(&path)?;
        for _ in 0..LARGE / block.len() {
            file.write_all(&block)?;
        }
        let (copy, size) = sealed_copy(&std::fs::File::open(&path)?)?;
        let file = RequestFile {
            id: 1,
            role: "initrd".to_owned(),
            path: path.clone(),
            size,
            origin: Origin::Operator,
            handle: Ok(Arc::new(copy)),
        };
        let (time, digest) = timed(backend.file_digest(&file)).await;
        digest.map_err(|reason| anyhow::anyhow!(reason))?;
        ours.add(microseconds(time));
        let (time, done) = timed(sha384sum(&path)).await;
        done?;
        theirs.add(microseconds(time));
    }
    Ok(vec![
        Figure::new(COLD, "us", &ours),
        Figure::new(BASELINE, "us", &theirs),
        Figure::ratio(RATIO, &ours, &theirs).with_budget(RATIO_BUDGET),
    ])
}

#[expect(
    clippy::disallowed_methods,
    reason = "the baseline, and none of the daemon's processes"
)]
async fn sha384sum(path: &Path) -> Result<()> {
    let mut command = tokio::process::Command::new("sha384sum");
    let status = command.arg(path).stdout(Stdio::null()).status().await?;
    ensure!(status.success(), "sha384sum failed");
    Ok(())
}
