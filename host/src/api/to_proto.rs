//! From domain values to messages.

use casemate_proto::v1;

use crate::backend::catalog::chain;
use crate::backend::{BackendInfo, Catalog, CatalogEntry, LoadedBackend, settings};
use crate::qemu::process::Exit;
use crate::spec::files::{FileName, FileWishes, OwnFile};
use crate::spec::identity::Identity;
use crate::spec::permissions::Permissions;
use crate::spec::plan::Finding;
use crate::spec::request::RestartPolicy;
use crate::store::ExitRecord;
use crate::vm::doctor::{BackendDiagnosis, Diagnosis};
use crate::vm::reloading::{BackendReload, ReloadReport};
use crate::vm::status::{VmState, VmStatus};

/// Of a backend.
const IN_SERVICE: &str = "in-service";
const FAILED: &str = "failed";

/// With its findings, as GetVm and CreateVm give it.
pub(super) fn vm(status: &VmStatus) -> v1::Vm {
    let planned = status.planned.as_ref();
    v1::Vm {
        findings: planned
            .map(|planned| findings(&planned.findings))
            .unwrap_or_default(),
        ..vm_in_list(status)
    }
}

/// Without findings, which would be most of a long list.
pub(super) fn vm_in_list(status: &VmStatus) -> v1::Vm {
    let planned = status.planned.as_ref();
    let text = |read: fn(&crate::vm::status::PlannedStatus) -> &String| {
        planned.map(read).cloned().unwrap_or_default()
    };
    v1::Vm {
        id: status.id.to_string(),
        name: status.name.clone(),
        state: vm_state(&status.state).into(),
        detail: status.state.detail(),
        backend: text(|planned| &planned.backend),
        tee: text(|planned| &planned.tee),
        confidential: planned.is_some_and(|planned| planned.confidential),
        vcpus: planned.map_or(0, |planned| planned.vcpus),
        memory_bytes: planned.map_or(0, |planned| planned.memory_bytes),
        machine: text(|planned| &planned.machine),
        cpu: text(|planned| &planned.cpu),
        kernel_cmdline: text(|planned| &planned.kernel_cmdline),
        agent_address: status
            .agent_address
            .map(|address| address.to_string())
            .unwrap_or_default(),
        created_at: status.created_at.to_string(),
        expires_at: status
            .expires_at
            .map(|time| time.to_string())
            .unwrap_or_default(),
        backend_sha256: text(|planned| &planned.backend_sha256),
        qemu_version: text(|planned| &planned.qemu_version),
        pid: status.pid.unwrap_or(0),
        generation: status.generation,
        findings: Vec::new(),
        restart_policy: match status.restart_policy {
            RestartPolicy::Never => v1::RestartPolicy::Never,
            RestartPolicy::OnFailure => v1::RestartPolicy::OnFailure,
            RestartPolicy::Always => v1::RestartPolicy::Always,
        }
        .into(),
        restarts: status.restarts,
        started_at: status
            .started_at
            .map(|time| time.to_string())
            .unwrap_or_default(),
        last_exit: status.last_exit.as_ref().map(exit),
        identity: planned.and_then(|planned| planned.identity.as_ref().map(identity)),
        labels: status.labels.clone(),
        created_by: status.created_by.clone(),
        files: own_files(&status.files),
        data_disks: data_disks(&status.files),
    }
}

/// As they were asked for; none where all are the operator's.
fn own_files(wishes: &FileWishes) -> Option<v1::Files> {
    let name = |file| {
        let name = wishes.own_file(file);
        name.map(|name: &FileName| name.as_str().to_owned())
            .unwrap_or_default()
    };
    wishes.names_own_files().then(|| v1::Files {
        kernel: name(OwnFile::Kernel),
        initrd: name(OwnFile::Initrd),
        firmware: name(OwnFile::Firmware),
        igvm: name(OwnFile::Igvm),
        disk: name(OwnFile::Disk),
        disk_format: wishes
            .disk_format
            .map(|format| format.as_str().to_owned())
            .unwrap_or_default(),
    })
}

fn data_disks(wishes: &FileWishes) -> Vec<v1::DataDisk> {
    let disks = wishes.data_disks.iter();
    disks
        .map(|disk| v1::DataDisk {
            id: disk.id.clone(),
            image: disk.image.as_str().to_owned(),
            format: disk.format.as_str().to_owned(),
        })
        .collect()
}

pub(super) fn identity(identity: &Identity) -> v1::VmIdentity {
    v1::VmIdentity {
        algorithm: identity.algorithm.clone(),
        digest: identity.digest_hex(),
        source: identity.source.as_str().to_owned(),
    }
}

fn exit(record: &ExitRecord) -> v1::Exit {
    let (code, signal) = match record.exit {
        Exit::Code(code) => (Some(code), None),
        Exit::Signal(signal) => (None, Some(signal)),
        Exit::Unknown => (None, None),
    };
    v1::Exit {
        reason: record.shutdown.clone().unwrap_or_default(),
        code,
        signal,
        at: record.at.to_string(),
    }
}

pub(super) fn vm_state(state: &VmState) -> v1::VmState {
    match state {
        VmState::Creating => v1::VmState::Creating,
        VmState::Starting => v1::VmState::Starting,
        VmState::Running => v1::VmState::Running,
        VmState::Stopping => v1::VmState::Stopping,
        VmState::Exited(_) => v1::VmState::Exited,
        VmState::Removing => v1::VmState::Removing,
        VmState::Lost(_) => v1::VmState::Lost,
        VmState::Paused(_) => v1::VmState::Paused,
        VmState::Stopped => v1::VmState::Stopped,
        VmState::Failed(_) => v1::VmState::Failed,
        VmState::Unresponsive(_) => v1::VmState::Unresponsive,
    }
}

pub(super) fn findings(findings: &[Finding]) -> Vec<v1::Finding> {
    findings
        .iter()
        .map(|finding| v1::Finding {
            id: finding.id.clone(),
            severity: finding.severity.as_str().to_owned(),
            subject: finding.subject.clone(),
            detail: finding.detail.clone(),
            remedy: finding.remedy.clone(),
        })
        .collect()
}

pub(super) fn backends(catalog: &Catalog) -> Vec<v1::Backend> {
    let default = catalog.default_name();
    let entries = catalog.entries().iter();
    entries.map(|entry| backend(entry, default)).collect()
}

pub(super) fn backend(entry: &CatalogEntry, default: Option<&str>) -> v1::Backend {
    let canary = entry.config.canary.as_ref();
    let shown = match &entry.state {
        Ok(loaded) => loaded_backend(loaded),
        Err(error) => v1::Backend {
            name: entry.config.name.clone(),
            path: entry.config.path.display().to_string(),
            status: FAILED.to_owned(),
            error: chain(error),
            ..v1::Backend::default()
        },
    };
    v1::Backend {
        is_default: default == Some(entry.config.name.as_str()),
        tier: entry.config.tier.as_str().to_owned(),
        canary_of: canary.map(|canary| canary.of.clone()).unwrap_or_default(),
        canary_labels: canary
            .map(|canary| canary.labels.clone().into_iter().collect())
            .unwrap_or_default(),
        ..shown
    }
}

pub(super) fn reload(report: ReloadReport) -> v1::ReloadBackendsResponse {
    let backend = |reload: BackendReload| v1::BackendReload {
        name: reload.name,
        change: reload.change.as_str().to_owned(),
        previous_sha256: reload.before.unwrap_or_default(),
        sha256: reload.now.unwrap_or_default(),
        version: reload.version.unwrap_or_default(),
        error: reload.error.unwrap_or_default(),
    };
    v1::ReloadBackendsResponse {
        backends: report.backends.into_iter().map(backend).collect(),
        changed_keys: report.changed,
        waiting_keys: report.waiting,
    }
}

fn loaded_backend(loaded: &LoadedBackend) -> v1::Backend {
    let info = loaded.info();
    v1::Backend {
        name: loaded.name().to_owned(),
        tee: info.tee.clone(),
        protection: info.protection.as_str().to_owned(),
        carries_identity: info.carries_identity,
        vendor: info.vendor.clone(),
        version: info.version.clone(),
        api_version: loaded.api_version().to_owned(),
        sha256: loaded.sha256().to_owned(),
        path: loaded.path().display().to_string(),
        architectures: info.architectures.clone(),
        status: IN_SERVICE.to_owned(),
        tier: loaded.tier().as_str().to_owned(),
        settings: backend_settings(loaded),
        grants: grants(info, loaded.permissions()),
        ..v1::Backend::default()
    }
}

pub(super) fn diagnosis(diagnosis: &Diagnosis) -> v1::CheckHostResponse {
    v1::CheckHostResponse {
        host_findings: findings(&diagnosis.host),
        backends: diagnosis.backends.iter().map(diagnosed_backend).collect(),
        usable: diagnosis.is_usable(),
    }
}

fn diagnosed_backend(diagnosis: &BackendDiagnosis) -> v1::BackendDiagnosis {
    let told = v1::BackendDiagnosis {
        name: diagnosis.name.clone(),
        findings: findings(&diagnosis.findings),
        usable: diagnosis.is_usable(),
        ..v1::BackendDiagnosis::default()
    };
    match &diagnosis.state {
        Ok(loaded) => v1::BackendDiagnosis {
            tee: loaded.info().tee.clone(),
            protection: loaded.info().protection.as_str().to_owned(),
            status: IN_SERVICE.to_owned(),
            ..told
        },
        Err(reason) => v1::BackendDiagnosis {
            status: FAILED.to_owned(),
            error: reason.clone(),
            ..told
        },
    }
}

fn backend_settings(loaded: &LoadedBackend) -> Vec<v1::BackendSetting> {
    let effective = loaded
        .settings_for(&std::collections::BTreeMap::new())
        .unwrap_or_default();
    loaded
        .info()
        .settings
        .iter()
        .map(|spec| {
            let value = effective.iter().find(|(input, _)| input.key == spec.key);
            let value = value.map(|(input, _)| match &input.value {
                settings::SettingValue::Plain(value) => settings::show(value),
                settings::SettingValue::File(path) => path.display().to_string(),
            });
            v1::BackendSetting {
                key: spec.key.clone(),
                kind: spec.kind_text.clone(),
                value: value.unwrap_or_default(),
                description: spec.description.clone(),
                per_request: spec.per_request,
            }
        })
        .collect()
}

fn grants(info: &BackendInfo, effective: &Permissions) -> Vec<v1::Grant> {
    let mut grants: Vec<v1::Grant> = info
        .needs
        .iter()
        .map(|need| v1::Grant {
            kind: "fact".to_owned(),
            what: format!("{} {}", need.pattern.fact, need.pattern.pattern)
                .trim()
                .to_owned(),
            reason: need.reason.clone(),
            granted: effective.facts.contains(&need.pattern),
        })
        .collect();
    for (kind, announced, granted) in [
        ("object", &info.announced.objects, &effective.objects),
        ("device", &info.announced.devices, &effective.devices),
    ] {
        for (name, announced) in announced {
            let properties: Vec<&str> = announced.properties.iter().map(String::as_str).collect();
            let missing: Option<Vec<&str>> = granted.get(name).map(|granted| {
                let missing = announced.properties.difference(&granted.properties);
                missing.map(String::as_str).collect()
            });
            let (granted, reason) = match missing.as_deref() {
                Some([]) => (true, String::new()),
                Some(missing) => (false, format!("not granted: {}", missing.join(", "))),
                None => (false, String::new()),
            };
            grants.push(v1::Grant {
                kind: kind.to_owned(),
                what: format!("{name} ({})", properties.join(", ")),
                granted,
                reason,
            });
        }
    }
    grants.extend(info.announced.machine_texts.iter().map(|name| v1::Grant {
        kind: "machine-text".to_owned(),
        what: name.clone(),
        reason: String::new(),
        granted: effective.machine_texts.contains(name),
    }));
    grants
}
