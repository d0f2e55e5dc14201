//! Between the contract's types and domain types. Everything that a backend returns is checked
//! here for shape: identifiers, control characters, counts, references.

use std::collections::BTreeSet;

use super::bindings::casemate::tee::types as wit;
use super::call::{BackendError, BackendErrorKind, ToolArgument, ToolWish};
use super::describe::{BackendInfo, Protection};
use crate::spec::plan::{
    Ability, BootInputs, DeviceRules, Finding, Firmware, GeneratedFile, LaunchPlan, Lease,
    PflashFirmware, Property, Severity, Transport, Typed, Value,
};
use crate::spec::request::{HostContext, LaunchRequest};
use crate::spec::{HOST_ID_PREFIX, Origin, is_qemu_id, printable, printable_start};

/// Most entries of a list in a plan. A plan that needs more is no plan for one VM.
const MAX_ENTRIES: usize = 256;
/// Longest text of a plan; QEMU's longest honest value is a base64 of 4096 bytes.
const MAX_TEXT: usize = 64 << 10;
/// Most findings of an answer and the longest text of one: they are shown with the VM.
const MAX_FINDINGS: usize = 64;
const MAX_FINDING_TEXT: usize = 1 << 10;
/// Bytes that QEMU may take beside the guest's memory: more than any host has for that.
const MAX_OVERHEAD: u64 = 1 << 40;
/// Deepest dotted path; QEMU's own structures are not deeper than a handful.
const MAX_DEPTH: usize = 8;

/// A rule that an answer breaks: where, and which.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{argument}: {rule}")]
pub struct Violation {
    /// The part of the plan, as a person would point at it: `objects[0] secret.file`.
    pub argument: String,
    pub rule: String,
}

impl Violation {
    pub fn new(argument: impl Into<String>, rule: impl Into<String>) -> Self {
        Self {
            argument: printable(&argument.into()),
            rule: printable(&rule.into()),
        }
    }
}

// === to the backend ===

pub(super) fn host_to_wit(host: &HostContext) -> wit::HostContext {
    wit::HostContext {
        architecture: host.architecture.clone(),
        accelerator: host.accelerator.as_str().to_owned(),
        settings: host
            .settings
            .iter()
            .map(|setting| wit::Setting {
                key: setting.key.clone(),
                value: value_to_wit(&setting.value),
                origin: origin_to_wit(setting.origin),
            })
            .collect(),
        files: host
            .files
            .iter()
            .map(|file| wit::HostFile {
                id: file.id,
                role: file.role.clone(),
                label: file.label(),
                size: file.size,
                origin: origin_to_wit(file.origin),
            })
            .collect(),
    }
}

pub(super) fn request_to_wit(request: &LaunchRequest) -> wit::LaunchRequest {
    let choice = |choice: &Option<crate::spec::request::Choice>| {
        choice.as_ref().map(|choice| wit::Choice {
            value: choice.value.clone(),
            origin: origin_to_wit(choice.origin),
        })
    };
    wit::LaunchRequest {
        host: host_to_wit(&request.host),
        vcpus: request.vcpus,
        memory_bytes: request.memory_bytes,
        boot: request.boot.as_str().to_owned(),
        machine: choice(&request.machine),
        cpu: choice(&request.cpu),
        kernel_cmdline: request.kernel_cmdline.clone(),
        devices: request
            .devices
            .iter()
            .map(|device| wit::HostDevice {
                kind: device.kind.clone(),
                id: device.id.clone(),
                properties: properties_to_wit(&device.properties),
            })
            .collect(),
        identity: request.identity.as_ref().map(|identity| wit::Identity {
            algorithm: identity.algorithm.clone(),
            digest: identity.digest.clone(),
        }),
        extras: Vec::new(),
    }
}

pub(super) fn extras_to_wit(extras: &[(String, String)]) -> Vec<wit::Extra> {
    let extras = extras.iter().map(|(key, value)| wit::Extra {
        key: key.clone(),
        value: value.clone(),
    });
    extras.collect()
}

fn origin_to_wit(origin: Origin) -> wit::Origin {
    match origin {
        Origin::BuiltIn => wit::Origin::BuiltIn,
        Origin::Operator => wit::Origin::Operator,
        Origin::Request => wit::Origin::Request,
    }
}

fn value_to_wit(value: &Value) -> wit::Value {
    match value {
        Value::Text(text) => wit::Value::Text(text.clone()),
        Value::Integer(number) => wit::Value::Integer(*number),
        Value::Unsigned(number) => wit::Value::Unsigned(*number),
        Value::Boolean(flag) => wit::Value::Boolean(*flag),
        Value::Bytes(bytes) => wit::Value::Bytes(bytes.clone()),
        Value::File(id) => wit::Value::File(*id),
        Value::HostPath(path) => wit::Value::HostPath(path.clone()),
    }
}

pub(super) fn plan_to_wit(plan: &LaunchPlan) -> wit::LaunchPlan {
    wit::LaunchPlan {
        machine: typed_to_wit(&plan.machine),
        cpu: typed_to_wit(&plan.cpu),
        smp: properties_to_wit(&plan.smp),
        memory: properties_to_wit(&plan.memory),
        memory_backend: plan.memory_backend.as_ref().map(typed_to_wit),
        objects: plan.objects.iter().map(typed_to_wit).collect(),
        extra_devices: plan.extra_devices.iter().map(typed_to_wit).collect(),
        guard: plan.guard.clone(),
        firmware: match &plan.firmware {
            Firmware::None => wit::Firmware::None,
            Firmware::Bios(id) => wit::Firmware::Bios(*id),
            Firmware::Igvm(id) => wit::Firmware::Igvm(*id),
            Firmware::Pflash(pflash) => wit::Firmware::Pflash(wit::PflashFirmware {
                code: pflash.code,
                vars_template: pflash.vars_template,
                options: properties_to_wit(&pflash.options),
            }),
        },
        boot: [
            (plan.boot.kernel, wit::BootInputs::KERNEL),
            (plan.boot.initrd, wit::BootInputs::INITRD),
            (plan.boot.cmdline, wit::BootInputs::CMDLINE),
        ]
        .into_iter()
        .filter(|(is_set, _)| *is_set)
        .fold(wit::BootInputs::empty(), |all, (_, one)| all | one),
        devices: wit::DeviceRules {
            transport: plan.devices.transport.device_suffix().to_owned(),
            virtio_properties: properties_to_wit(&plan.devices.virtio_properties),
            refused: plan.devices.refused.clone(),
        },
        generated: plan
            .generated
            .iter()
            .map(|file| wit::GeneratedFile {
                id: file.id,
                label: file.label.clone(),
                content: file.content.clone(),
            })
            .collect(),
        leases: plan
            .leases
            .iter()
            .map(|lease| wit::Lease {
                name: lease.name.clone(),
                amount: lease.amount,
            })
            .collect(),
        abilities: plan
            .abilities
            .iter()
            .map(|ability| ability.name().to_owned())
            .collect(),
        memory_overhead_bytes: plan.memory_overhead_bytes,
        identity_carrier: plan.identity_carrier.clone(),
        findings: plan.findings.iter().map(finding_to_wit).collect(),
        extras: Vec::new(),
    }
}

fn typed_to_wit(typed: &Typed) -> wit::Typed {
    wit::Typed {
        kind: typed.kind.clone(),
        id: typed.id.clone(),
        properties: properties_to_wit(&typed.properties),
    }
}

fn properties_to_wit(properties: &[Property]) -> Vec<wit::Property> {
    let properties = properties.iter().map(|property| wit::Property {
        path: property.path.clone(),
        value: value_to_wit(&property.value),
    });
    properties.collect()
}

fn finding_to_wit(finding: &Finding) -> wit::Finding {
    wit::Finding {
        id: finding.id.clone(),
        severity: match finding.severity {
            Severity::Pass => wit::Severity::Pass,
            Severity::Note => wit::Severity::Note,
            Severity::Warn => wit::Severity::Warn,
            Severity::Fail => wit::Severity::Fail,
        },
        subject: finding.subject.clone(),
        detail: finding.detail.clone(),
        remedy: finding.remedy.clone(),
    }
}

// === from the backend ===

/// A program's name and not a path: which file it is, config says.
pub(super) fn tool_from_wit(
    wish: wit::ToolCommand,
    request: &LaunchRequest,
) -> Result<ToolWish, Violation> {
    bounded("command.arguments", wish.arguments.len())?;
    let files = request.host.files.iter().map(|file| file.id).collect();
    let reader = Reader { files };
    let arguments = wish.arguments.into_iter().map(|argument| {
        Ok(match argument {
            wit::ToolArgument::Text(text) => ToolArgument::Text(plain("command.arguments", text)?),
            wit::ToolArgument::File(id) => {
                ToolArgument::File(reader.file("command.arguments", id)?)
            }
            wit::ToolArgument::LaunchCommand => ToolArgument::LaunchCommand,
        })
    });
    Ok(ToolWish {
        program: name("command.program", wish.program)?,
        arguments: arguments.collect::<Result<_, Violation>>()?,
    })
}

pub(super) fn error_from_wit(error: wit::Error) -> BackendError {
    BackendError {
        kind: match error.code {
            wit::ErrorCode::UnsupportedHost => BackendErrorKind::UnsupportedHost,
            wit::ErrorCode::InvalidRequest => BackendErrorKind::InvalidRequest,
            wit::ErrorCode::UnsuitableFile => BackendErrorKind::UnsuitableFile,
            wit::ErrorCode::Unavailable => BackendErrorKind::Unavailable,
            wit::ErrorCode::Other(_) => BackendErrorKind::Other,
        },
        subject: shown(&error.subject),
        message: shown(&error.message),
        remedy: shown(&error.remedy),
        details: error
            .details
            .iter()
            .take(MAX_ENTRIES)
            .map(|extra| (shown(&extra.key), shown(&extra.value)))
            .collect(),
    }
}

/// Text for people only: shortened and made harmless instead of refused, because a broken message
/// must not hide the error it is about.
fn shown(text: &str) -> String {
    printable_start(text, 2_000)
}

/// The beginning of a text that is no name: enough to find it by.
fn brief(text: &str) -> String {
    printable_start(text, 80)
}

pub(super) fn findings_from_wit(findings: Vec<wit::Finding>) -> Result<Vec<Finding>, Violation> {
    if findings.len() > MAX_FINDINGS {
        return Err(Violation::new(
            "findings",
            format!("{} are more than {MAX_FINDINGS}", findings.len()),
        ));
    }
    let plain = |at: &str, text: String| {
        if text.len() > MAX_FINDING_TEXT {
            return Err(Violation::new(
                at,
                format!("{} bytes are more than {MAX_FINDING_TEXT}", text.len()),
            ));
        }
        plain(at, text)
    };
    findings
        .into_iter()
        .enumerate()
        .map(|(index, finding)| {
            let at = |field: &str| format!("findings[{index}].{field}");
            Ok(Finding {
                id: name(&at("id"), finding.id)?,
                severity: match finding.severity {
                    wit::Severity::Pass => Severity::Pass,
                    wit::Severity::Note => Severity::Note,
                    wit::Severity::Warn => Severity::Warn,
                    wit::Severity::Fail => Severity::Fail,
                },
                subject: plain(&at("subject"), finding.subject)?,
                detail: plain(&at("detail"), finding.detail)?,
                remedy: plain(&at("remedy"), finding.remedy)?,
            })
        })
        .collect()
}

pub(super) fn plan_from_wit(
    plan: wit::LaunchPlan,
    request: &LaunchRequest,
    info: &BackendInfo,
) -> Result<LaunchPlan, Violation> {
    if let Some(extra) = plan.extras.first() {
        return Err(Violation::new(
            format!("extras.{}", extra.key),
            "this host knows no such key, so it could not do what it asks for",
        ));
    }
    bounded("objects", plan.objects.len())?;
    bounded("extra-devices", plan.extra_devices.len())?;
    bounded("generated", plan.generated.len())?;
    bounded("leases", plan.leases.len())?;
    bounded("abilities", plan.abilities.len())?;

    let mut known_files: BTreeSet<u32> = request.host.files.iter().map(|file| file.id).collect();
    let generated = plan
        .generated
        .into_iter()
        .enumerate()
        .map(|(index, file)| {
            if !known_files.insert(file.id) {
                return Err(Violation::new(
                    format!("generated[{index}].id"),
                    format!("id {} is already a file of this request", file.id),
                ));
            }
            let label = name(&format!("generated[{index}].label"), file.label)?;
            Ok(GeneratedFile {
                id: file.id,
                label,
                content: file.content,
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let reader = Reader { files: known_files };

    let plan = LaunchPlan {
        machine: reader.typed("machine", plan.machine)?,
        cpu: reader.typed("cpu", plan.cpu)?,
        smp: reader.properties("smp", plan.smp)?,
        memory: reader.properties("memory", plan.memory)?,
        memory_backend: plan
            .memory_backend
            .map(|object| reader.typed("memory-backend", object))
            .transpose()?,
        objects: reader.list("objects", plan.objects)?,
        extra_devices: reader.list("extra-devices", plan.extra_devices)?,
        guard: plan.guard,
        firmware: match plan.firmware {
            wit::Firmware::None => Firmware::None,
            wit::Firmware::Bios(id) => Firmware::Bios(reader.file("firmware.bios", id)?),
            wit::Firmware::Igvm(id) => Firmware::Igvm(reader.file("firmware.igvm", id)?),
            wit::Firmware::Pflash(pflash) => Firmware::Pflash(PflashFirmware {
                code: reader.file("firmware.pflash.code", pflash.code)?,
                vars_template: pflash
                    .vars_template
                    .map(|id| reader.file("firmware.pflash.vars-template", id))
                    .transpose()?,
                options: reader.properties("firmware.pflash.options", pflash.options)?,
            }),
        },
        boot: BootInputs {
            kernel: plan.boot.contains(wit::BootInputs::KERNEL),
            initrd: plan.boot.contains(wit::BootInputs::INITRD),
            cmdline: plan.boot.contains(wit::BootInputs::CMDLINE),
        },
        devices: DeviceRules {
            transport: match plan.devices.transport.as_str() {
                "pci" => Transport::Pci,
                "ccw" => Transport::Ccw,
                "mmio" => Transport::Mmio,
                other => {
                    return Err(Violation::new(
                        "devices.transport",
                        format!("{other:?} is none of pci, ccw, mmio"),
                    ));
                }
            },
            virtio_properties: reader
                .properties("devices.virtio-properties", plan.devices.virtio_properties)?,
            refused: refused_kinds(plan.devices.refused)?,
        },
        generated,
        leases: plan
            .leases
            .into_iter()
            .map(|lease| {
                let name = name("leases", lease.name)?;
                Ok(Lease {
                    name,
                    amount: lease.amount,
                })
            })
            .collect::<Result<_, Violation>>()?,
        abilities: plan
            .abilities
            .iter()
            .map(|text| ability(text))
            .collect::<Result<_, _>>()?,
        memory_overhead_bytes: plan.memory_overhead_bytes,
        identity_carrier: plan.identity_carrier,
        findings: findings_from_wit(plan.findings)?,
    };
    if plan.memory_overhead_bytes > MAX_OVERHEAD {
        return Err(Violation::new(
            "memory-overhead-bytes",
            format!(
                "{} are more than {MAX_OVERHEAD}",
                plan.memory_overhead_bytes
            ),
        ));
    }
    check_references(&plan, request, info)?;
    Ok(plan)
}

/// Kinds of device, of the form that kinds have: a later minor version may bring more of them.
fn refused_kinds(kinds: Vec<String>) -> Result<Vec<String>, Violation> {
    const AT: &str = "devices.refused";
    bounded(AT, kinds.len())?;
    kinds.into_iter().map(|kind| name(AT, kind)).collect()
}

fn check_references(
    plan: &LaunchPlan,
    request: &LaunchRequest,
    info: &BackendInfo,
) -> Result<(), Violation> {
    let mut ids = BTreeSet::new();
    let objects = plan.memory_backend.iter().chain(&plan.objects);
    for object in objects.clone() {
        let Some(id) = &object.id else {
            return Err(Violation::new(
                format!("object {}", object.kind),
                "an object needs an id",
            ));
        };
        unique(&mut ids, id)?;
    }
    for id in plan
        .extra_devices
        .iter()
        .filter_map(|device| device.id.as_ref())
    {
        unique(&mut ids, id)?;
    }
    for id in request.devices.iter().map(|device| &device.id) {
        unique(&mut ids, id)?;
    }
    if let Some(guard) = &plan.guard
        && !plan
            .objects
            .iter()
            .any(|object| object.id.as_ref() == Some(guard))
    {
        return Err(Violation::new(
            "guard",
            format!("{guard:?} is the id of no object of the plan"),
        ));
    }
    match (info.protection, &plan.guard) {
        (Protection::Guard, None) => {
            return Err(Violation::new(
                "guard",
                "the backend announces protection `guard`, and this plan has none",
            ));
        }
        (Protection::None, Some(_)) => {
            return Err(Violation::new(
                "guard",
                "the backend announces protection `none`, and this plan has a guard",
            ));
        }
        _ => {}
    }
    match (&request.identity, &plan.identity_carrier) {
        (None, Some(carrier)) => {
            return Err(Violation::new(
                "identity-carrier",
                format!("{carrier:?} is to carry an identity, and the request has none"),
            ));
        }
        (Some(_), None) => {
            return Err(Violation::new(
                "identity-carrier",
                "the request has an identity, and nothing of the plan carries it",
            ));
        }
        (Some(_), Some(carrier)) if !info.carries_identity => {
            return Err(Violation::new(
                "identity-carrier",
                format!(
                    "{carrier:?} is to carry an identity, and the backend says that nothing does"
                ),
            ));
        }
        (Some(identity), Some(carrier)) if !carries(&plan.objects, carrier, &identity.digest) => {
            return Err(Violation::new(
                "identity-carrier",
                format!(
                    "no object of the plan has the property {carrier:?} with the bytes of the \
                     identity, and zeros after them"
                ),
            ));
        }
        (Some(_), Some(_)) | (None, None) => {}
    }
    for (wanted, role, at) in [
        (plan.boot.kernel, "kernel", "boot.kernel"),
        (plan.boot.initrd, "initrd", "boot.initrd"),
    ] {
        if wanted && request.file_with_role(role).is_none() {
            return Err(Violation::new(
                at,
                format!("the request has no file with role {role:?}"),
            ));
        }
    }
    if (plan.boot.initrd || plan.boot.cmdline) && !plan.boot.kernel {
        return Err(Violation::new(
            "boot",
            "QEMU takes initrd and command line only with a kernel",
        ));
    }
    if let Some(fail) = plan
        .findings
        .iter()
        .find(|finding| finding.severity == Severity::Fail)
    {
        return Err(Violation::new(
            format!("findings {}", fail.id),
            "a plan that fails a check has to be an error",
        ));
    }
    Ok(())
}

/// Whether a property of that name is the digest, whole and at the left, padded with zeros.
fn carries(objects: &[Typed], carrier: &str, digest: &[u8]) -> bool {
    let mut properties = objects.iter().flat_map(|object| &object.properties);
    properties.any(|property| match &property.value {
        Value::Bytes(bytes) if property.path == carrier => bytes
            .strip_prefix(digest)
            .is_some_and(|rest| rest.iter().all(|byte| *byte == 0)),
        _ => false,
    })
}

fn unique<'a>(ids: &mut BTreeSet<&'a str>, id: &'a str) -> Result<(), Violation> {
    if ids.insert(id) {
        return Ok(());
    }
    Err(Violation::new(
        format!("id {id:?}"),
        "it is used twice, or is a device of the host",
    ))
}

fn ability(text: &str) -> Result<Ability, Violation> {
    match text {
        "pause" => Ok(Ability::Pause),
        "reset" => Ok(Ability::Reset),
        "powerdown" => Ok(Ability::Powerdown),
        _ => Err(Violation::new(
            "abilities",
            format!("{text:?} is none of pause, reset, powerdown"),
        )),
    }
}

/// Reads values, knowing which file ids exist.
struct Reader {
    files: BTreeSet<u32>,
}

impl Reader {
    fn list(&self, at: &str, list: Vec<wit::Typed>) -> Result<Vec<Typed>, Violation> {
        list.into_iter()
            .enumerate()
            .map(|(index, typed)| self.typed(&format!("{at}[{index}]"), typed))
            .collect()
    }

    fn typed(&self, at: &str, typed: wit::Typed) -> Result<Typed, Violation> {
        let kind = name(&format!("{at}.kind"), typed.kind)?;
        let id = typed
            .id
            .map(|id| identifier(&format!("{at}.id"), id))
            .transpose()?;
        let properties = self.properties(&format!("{at} {kind}"), typed.properties)?;
        Ok(Typed {
            kind,
            id,
            properties,
        })
    }

    fn properties(&self, at: &str, list: Vec<wit::Property>) -> Result<Vec<Property>, Violation> {
        bounded(at, list.len())?;
        let mut seen = BTreeSet::new();
        list.into_iter()
            .map(|property| {
                let path = property_path(at, property.path)?;
                let at = format!("{at}.{path}");
                if !seen.insert(path.clone()) {
                    return Err(Violation::new(at, "it is set twice"));
                }
                let value = self.value(&at, property.value)?;
                Ok(Property { path, value })
            })
            .collect()
    }

    fn value(&self, at: &str, value: wit::Value) -> Result<Value, Violation> {
        Ok(match value {
            wit::Value::Text(text) => Value::Text(plain(at, text)?),
            wit::Value::Integer(number) => Value::Integer(number),
            wit::Value::Unsigned(number) => Value::Unsigned(number),
            wit::Value::Boolean(flag) => Value::Boolean(flag),
            wit::Value::Bytes(bytes) if bytes.len() > MAX_TEXT => {
                return Err(Violation::new(
                    at,
                    format!("{} bytes are too many", bytes.len()),
                ));
            }
            wit::Value::Bytes(bytes) => Value::Bytes(bytes),
            wit::Value::File(id) => Value::File(self.file(at, id)?),
            wit::Value::HostPath(path) => Value::HostPath(plain(at, path)?),
        })
    }

    fn file(&self, at: &str, id: u32) -> Result<u32, Violation> {
        if self.files.contains(&id) {
            return Ok(id);
        }
        Err(Violation::new(
            at,
            format!("file {id} is not of this request"),
        ))
    }
}

pub(super) fn bounded(at: &str, count: usize) -> Result<(), Violation> {
    if count > MAX_ENTRIES {
        return Err(Violation::new(
            at,
            format!("{count} entries are more than {MAX_ENTRIES}"),
        ));
    }
    Ok(())
}

pub(super) fn plain(at: &str, text: String) -> Result<String, Violation> {
    if let Some(control) = text.chars().find(|c| c.is_control()) {
        return Err(Violation::new(
            at,
            format!("it holds the control character {control:?}"),
        ));
    }
    if text.len() > MAX_TEXT {
        return Err(Violation::new(
            at,
            format!("{} bytes are too many", text.len()),
        ));
    }
    Ok(text)
}

/// Names of types, roles and findings: nothing that QEMU's option syntax gives a meaning to.
pub(super) fn name(at: &str, text: String) -> Result<String, Violation> {
    let fits = !text.is_empty()
        && text.len() <= 128
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._+".contains(&b));
    if fits {
        return Ok(text);
    }
    Err(Violation::new(
        at,
        format!("{:?} is no name (letters, digits, `-._+`)", brief(&text)),
    ))
}

/// An id of the backend's: the host's prefix is left out.
fn identifier(at: &str, text: String) -> Result<String, Violation> {
    if !is_qemu_id(&text) {
        return Err(Violation::new(
            at,
            format!(
                "{:?} is no id (a letter, then letters, digits, `-._`)",
                brief(&text)
            ),
        ));
    }
    if text.starts_with(HOST_ID_PREFIX) {
        return Err(Violation::new(
            at,
            format!("ids that start with {HOST_ID_PREFIX} are the host's"),
        ));
    }
    Ok(text)
}

fn property_path(at: &str, path: String) -> Result<String, Violation> {
    let fits = path.len() <= 256
        && path.split('.').count() <= MAX_DEPTH
        && path.split('.').all(|segment| {
            !segment.is_empty()
                && segment
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_+".contains(&b))
        });
    if fits {
        return Ok(path);
    }
    Err(Violation::new(
        at,
        format!(
            "{:?} is no property path (names joined by dots, {MAX_DEPTH} at most)",
            brief(&path)
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_devices_that_a_plan_refuses_are_names_and_few() {
        let kinds = |kinds: &[&str]| kinds.iter().map(|kind| (*kind).to_owned()).collect();
        let fine: Vec<String> = kinds(&["vfio", "share-9p", "of-a-later-minor"]);
        assert_eq!(refused_kinds(fine.clone()), Ok(fine));
        for odd in [&["vsock\n"][..], &[""], &["vfio,id=x"], &["vfio"; 257]] {
            let violation = refused_kinds(kinds(odd)).unwrap_err();
            assert_eq!(violation.argument, "devices.refused");
        }
    }
}
