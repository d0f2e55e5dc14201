//! From a validated wish to a plan that may be started: defaults, files, the backend, the check.
//! Nothing is reserved or started here; `PlanVm` ends here, and `CreateVm` goes on from here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use casemate_attestation::Measurement;

use super::config::NetworkConfig;
use super::error::CreateError;
use super::live::Live;
use super::manager::Host;
use super::shares::{CERTIFICATES_SHARE, ENVIRONMENT_SHARE};
use super::status::PlannedStatus;
use super::{facts::HostFacts, files, measuring};
use crate::backend::{BackendErrorKind, CallError, LoadedBackend};
use crate::probe;
use crate::qemu::check::{CheckedPlan, Knowledge, check};
use crate::qemu::descriptors::{self, Descriptors};
use crate::spec::Origin;
use crate::spec::facts::FactRecord;
use crate::spec::files::{DiskFormat, FileWishes};
use crate::spec::identity::{Identity, IdentityWish};
use crate::spec::plan::{Property, Value};
use crate::spec::request::{
    Boot, Choice, DataDiskFile, DiskImage, HostContext, HostDevice, LaunchRequest, VmSpec,
};

/// Longest kernel command line; x86 kernels take 2,048 bytes (COMMAND_LINE_SIZE), others 4,096.
const MAX_CMDLINE: usize = 4_096;

/// A request, its plan, and what it was made from.
#[derive(Debug)]
pub struct Planned {
    /// The config that it was made with.
    pub live: Arc<Live>,
    pub backend: Arc<LoadedBackend>,
    pub request: LaunchRequest,
    /// Of the image that it boots from.
    pub disk_format: DiskFormat,
    pub checked: CheckedPlan,
    pub facts: FactRecord,
    /// None only until it is made.
    pub measurement: Option<Measurement>,
}

/// Plans `spec` on `host`, with the config of `live`.
pub async fn plan(host: &Host, live: &Arc<Live>, spec: &VmSpec) -> Result<Planned, CreateError> {
    let backend = live.choose(&spec.backend, &spec.labels).await?;
    let architecture = probe::architecture();
    if !backend
        .info()
        .architectures
        .iter()
        .any(|name| name == architecture)
    {
        return Err(CreateError::Architecture {
            backend: backend.name().to_owned(),
            served: backend.info().architectures.join(", "),
            host: architecture,
        });
    }
    // A backend would report a missing QEMU in its own words, and worse.
    live.qemu.info().await?;
    let mut context = context(
        live,
        &backend,
        &spec.settings,
        spec.disk.as_ref(),
        &spec.files,
    )?;
    let data_disks = files::open_data_disks(&live.images, &spec.files)?;
    seal(host, &mut context).await;
    let mut request = request(live, spec, context, data_disks)?;
    request.identity = identity(live, spec, backend.info().carries_identity);
    let facts = Arc::new(HostFacts::new(Arc::clone(&live.qemu)));
    let outcome = backend.plan(&request, facts).await;
    let outcome = outcome.map_err(|error| {
        host.count_fault(&error);
        missing_file(&request, error)
    })?;
    host.metrics.backend_called(backend.name(), outcome.elapsed);
    if spec.require_confidential && !outcome.plan.is_confidential() {
        return Err(CreateError::NotConfidential {
            backend: backend.name().to_owned(),
        });
    }
    let knowledge = Knowledge::gather(&live.qemu, &outcome.plan, &request).await?;
    let checked = check(
        outcome.plan,
        &request,
        backend.permissions(),
        &backend.info().first_versions,
        knowledge,
    )
    .map_err(|error| CreateError::from_check(error, backend.name()))
    .inspect_err(|error| {
        if let CreateError::Backend(error) = error {
            host.count_fault(error);
        }
    })?;
    let mut planned = Planned {
        live: Arc::clone(live),
        backend,
        request,
        disk_format: disk_format(live, spec),
        checked,
        facts: outcome.facts,
        measurement: None,
    };
    measuring::measure(host, &mut planned).await?;
    Ok(planned)
}

/// Seals all that is read before the guest writes anything: the backend, the digests and QEMU have
/// the same bytes. A disk stays a descriptor of the operator's image.
async fn seal(host: &Host, context: &mut HostContext) {
    for file in &mut context.files {
        if file.role != "disk" {
            *file = host.sealed.sealed(file.clone()).await;
        }
    }
}

/// The identity that a VM carries. Where no report could carry one it gets none, because nobody could
/// verify it, but where it is named: the backend refuses it then, and no wish is dropped.
fn identity(live: &Live, spec: &VmSpec, is_carried: bool) -> Option<Identity> {
    match &spec.identity {
        IdentityWish::Kept(identity) => identity.clone(),
        IdentityWish::Named(identity) => Some(identity.clone()),
        IdentityWish::Usual if !is_carried => None,
        IdentityWish::Usual => Some(match &live.defaults.identity {
            Some(digest) => Identity::of_operator(digest.clone()),
            None => {
                Identity::of_configuration(&spec.environment, spec.certificates.server_ca.as_ref())
            }
        }),
    }
}

/// What `backend` sees of the host: its settings and the files at hand.
pub fn context(
    live: &Live,
    backend: &LoadedBackend,
    settings: &std::collections::BTreeMap<String, String>,
    disk: Option<&DiskImage>,
    wishes: &FileWishes,
) -> Result<HostContext, CreateError> {
    let settings = backend.settings_for(settings)?;
    let own = files::open_own(&live.images, wishes)?;
    let described = described_firmware(live, &backend.info().firmware_features);
    let replaces = |role: &str| wishes.replaces(role);
    let operators = files::Operators {
        defaults: &live.defaults,
        described: &described,
        disk,
        is_replaced: &replaces,
    };
    let (files, settings) = files::open(operators, own, settings);
    Ok(HostContext {
        architecture: probe::architecture().to_owned(),
        accelerator: live.qemu_config.accelerator,
        settings,
        files,
    })
}

/// Firmware that has `features`, as the packages on this host describe theirs; best first.
fn described_firmware(live: &Live, features: &[String]) -> Vec<PathBuf> {
    // What somebody named is used, whatever a package describes.
    if features.is_empty() || live.defaults.origin("vm.firmware") != Origin::BuiltIn {
        return Vec::new();
    }
    let descriptors = Descriptors::of(descriptors::read(live.defaults.firmware_descriptors()));
    let fitting = descriptors.fitting(probe::architecture(), features);
    fitting.map(Path::to_owned).collect()
}

/// A backend that finds fault with a file that could not be opened: the host knows better why.
fn missing_file(request: &LaunchRequest, error: CallError) -> CreateError {
    if let CallError::Backend(answer) = &error
        && answer.kind == BackendErrorKind::UnsuitableFile
        && let Some(missing) = request
            .file_with_role(&answer.subject)
            .and_then(files::missing)
    {
        return missing;
    }
    CreateError::Backend(error)
}

/// What a VM boots from. Who brings a file to boot from means it.
fn boot(spec: &VmSpec, default: Boot) -> Boot {
    let files = &spec.files;
    match spec.boot {
        Some(boot) => boot,
        None if files.disk.is_some() => Boot::Disk,
        None if files.kernel.is_some() || files.initrd.is_some() => Boot::Kernel,
        None => default,
    }
}

/// Of the first start, else of the request, else the operator's.
fn disk_format(live: &Live, spec: &VmSpec) -> DiskFormat {
    let first = spec.disk.as_ref().and_then(|disk| disk.format);
    first.or(spec.files.disk_format).unwrap_or(live.disk.format)
}

fn request(
    live: &Live,
    spec: &VmSpec,
    host: HostContext,
    data_disks: Vec<DataDiskFile>,
) -> Result<LaunchRequest, CreateError> {
    let (defaults, network) = (&live.defaults, &live.network);
    let boot = boot(spec, defaults.boot);
    let mut kernel_cmdline = spec
        .kernel_cmdline
        .clone()
        .unwrap_or_else(|| defaults.kernel_cmdline.clone());
    if let Some(suffix) = &spec.kernel_cmdline_suffix {
        kernel_cmdline.push(' ');
        kernel_cmdline.push_str(suffix);
    }
    if kernel_cmdline.len() > MAX_CMDLINE || kernel_cmdline.contains(char::is_control) {
        return Err(CreateError::KernelCmdline { limit: MAX_CMDLINE });
    }
    let mut devices = vec![HostDevice {
        kind: "net".to_owned(),
        id: network.id.clone(),
        properties: network_properties(network)?,
    }];
    for id in [ENVIRONMENT_SHARE, CERTIFICATES_SHARE] {
        devices.push(HostDevice {
            kind: "share-9p".to_owned(),
            id: id.to_owned(),
            properties: Vec::new(),
        });
    }
    if boot == Boot::Disk {
        devices.push(HostDevice {
            kind: "disk".to_owned(),
            id: live.disk.id.clone(),
            properties: Vec::new(),
        });
    }
    devices.extend(data_disks.iter().map(|one| HostDevice {
        kind: "disk".to_owned(),
        id: one.device_id(),
        properties: Vec::new(),
    }));
    Ok(LaunchRequest {
        host,
        vcpus: spec.vcpus.unwrap_or(defaults.vcpus),
        memory_bytes: spec.memory_bytes.unwrap_or(defaults.memory),
        boot,
        machine: Some(choice(
            spec.machine.as_ref(),
            &defaults.machine,
            defaults.origin("vm.machine"),
        )),
        cpu: Some(choice(
            spec.cpu.as_ref(),
            &defaults.cpu,
            defaults.origin("vm.cpu"),
        )),
        kernel_cmdline,
        devices,
        data_disks,
        identity: None,
    })
}

fn choice(request: Option<&String>, default: &str, origin: Origin) -> Choice {
    match request {
        Some(value) => Choice {
            value: value.clone(),
            origin: Origin::Request,
        },
        None => Choice {
            value: default.to_owned(),
            origin,
        },
    }
}

fn network_properties(network: &NetworkConfig) -> Result<Vec<Property>, CreateError> {
    network
        .properties
        .iter()
        .map(|(name, value)| {
            let value = match value {
                toml::Value::String(text) => Value::Text(text.clone()),
                toml::Value::Integer(number) => Value::Integer(*number),
                toml::Value::Boolean(flag) => Value::Boolean(*flag),
                _ => {
                    return Err(CreateError::NetworkProperty { name: name.clone() });
                }
            };
            Ok(Property {
                path: name.clone(),
                value,
            })
        })
        .collect()
}

impl Planned {
    /// What everyone may see of it.
    pub fn status(&self) -> PlannedStatus {
        let plan = self.checked.plan();
        PlannedStatus {
            backend: self.backend.name().to_owned(),
            backend_sha256: self.backend.sha256().to_owned(),
            tee: self.backend.info().tee.clone(),
            confidential: plan.is_confidential(),
            vcpus: self.request.vcpus,
            memory_bytes: self.request.memory_bytes,
            memory_overhead_bytes: plan.memory_overhead_bytes,
            leases: plan.lease_amounts(),
            machine: plan.machine.kind.clone(),
            cpu: plan.cpu.kind.clone(),
            kernel_cmdline: self.request.kernel_cmdline.clone(),
            identity: self.request.identity.clone(),
            qemu_version: self.checked.knowledge().info.version.clone(),
            abilities: plan.abilities.clone(),
            findings: plan.findings.clone(),
            measurement: self.measurement.clone().map(Arc::new),
        }
    }
}
