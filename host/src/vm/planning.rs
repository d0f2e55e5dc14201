//! From a validated wish to a plan that may be started: defaults, files, the backend, the check.
//! Nothing is reserved or started here; `PlanVm` ends here, and `CreateVm` goes on from here.

use std::sync::Arc;

use super::config::{BUILT_IN_CPU, BUILT_IN_MACHINE, NetworkConfig, VmDefaults};
use super::error::CreateError;
use super::manager::Host;
use super::shares::{CERTIFICATES_SHARE, ENVIRONMENT_SHARE};
use super::status::PlannedStatus;
use super::{facts::HostFacts, files};
use crate::backend::{CallError, LoadedBackend};
use crate::probe;
use crate::qemu::check::{CheckedPlan, Knowledge, check};
use crate::spec::Origin;
use crate::spec::facts::FactRecord;
use crate::spec::plan::{Property, Value};
use crate::spec::request::{Boot, Choice, HostContext, HostDevice, LaunchRequest, VmSpec};

/// Longest kernel command line; x86 kernels take 2,048 bytes (COMMAND_LINE_SIZE), others 4,096.
const MAX_CMDLINE: usize = 4_096;

/// A request, its plan, and what it was made from.
#[derive(Debug)]
pub struct Planned {
    pub backend: Arc<LoadedBackend>,
    pub request: LaunchRequest,
    pub checked: CheckedPlan,
    pub facts: FactRecord,
}

/// Plans `spec` on `host`.
pub async fn plan(host: &Host, spec: &VmSpec) -> Result<Planned, CreateError> {
    let backend = host.catalog.choose(spec.backend.as_deref())?;
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
    host.qemu.info().await?;
    let context = context(host, &backend, &spec.settings)?;
    let request = request(&host.defaults, &host.network, spec, context)?;
    let facts = Arc::new(HostFacts::new(Arc::clone(&host.qemu)));
    let outcome = backend.plan(&request, facts).await.inspect_err(|error| {
        if let CallError::Fault { backend, fault } = error {
            host.metrics.backend_fault(backend, fault.kind());
        }
    });
    let outcome = outcome.map_err(CreateError::Backend)?;
    host.metrics.backend_called(backend.name(), outcome.elapsed);
    if spec.require_confidential && !outcome.plan.is_confidential() {
        return Err(CreateError::NotConfidential {
            backend: backend.name().to_owned(),
        });
    }
    let knowledge = Knowledge::gather(&host.qemu, &outcome.plan, &request).await?;
    let checked = check(outcome.plan, &request, backend.permissions(), knowledge)
        .map_err(|error| CreateError::from_check(error, backend.name()))
        .inspect_err(|error| {
            if let CreateError::Backend(CallError::Fault { backend, fault }) = error {
                host.metrics.backend_fault(backend, fault.kind());
            }
        })?;
    Ok(Planned {
        backend,
        request,
        checked,
        facts: outcome.facts,
    })
}

/// What `backend` sees of the host: its settings and the files at hand.
pub fn context(
    host: &Host,
    backend: &LoadedBackend,
    settings: &std::collections::BTreeMap<String, String>,
) -> Result<HostContext, CreateError> {
    let (files, settings) = files::open(&host.defaults, backend.settings_for(settings)?)?;
    Ok(HostContext {
        architecture: probe::architecture().to_owned(),
        accelerator: host.qemu_config.accelerator,
        settings,
        files,
    })
}

fn request(
    defaults: &VmDefaults,
    network: &NetworkConfig,
    spec: &VmSpec,
    host: HostContext,
) -> Result<LaunchRequest, CreateError> {
    let boot = spec.boot.unwrap_or(defaults.boot);
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
            id: "disk0".to_owned(),
            properties: Vec::new(),
        });
    }
    Ok(LaunchRequest {
        host,
        vcpus: spec.vcpus.unwrap_or(defaults.vcpus),
        memory_bytes: spec.memory_bytes.unwrap_or(defaults.memory),
        boot,
        machine: choice(
            spec.machine.as_ref(),
            defaults.machine.as_ref(),
            BUILT_IN_MACHINE,
        ),
        cpu: choice(spec.cpu.as_ref(), defaults.cpu.as_ref(), BUILT_IN_CPU),
        kernel_cmdline,
        devices,
    })
}

fn choice(request: Option<&String>, operator: Option<&String>, built_in: &str) -> Option<Choice> {
    let (value, origin) = match (request, operator) {
        (Some(value), _) => (value.clone(), Origin::Request),
        (None, Some(value)) => (value.clone(), Origin::Operator),
        (None, None) => (built_in.to_owned(), Origin::BuiltIn),
    };
    Some(Choice { value, origin })
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
            machine: plan.machine.kind.clone(),
            cpu: plan.cpu.kind.clone(),
            kernel_cmdline: self.request.kernel_cmdline.clone(),
            qemu_version: self.checked.knowledge().info.version.clone(),
            findings: plan.findings.clone(),
        }
    }
}
