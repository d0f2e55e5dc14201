//! Holds a plan against what config grants and what the installed QEMU has.
//!
//! Closed by default: a type or property passes only when the backend announced it, config granted
//! it, QEMU has it, and no rule of the host forbids it. The result, `CheckedPlan`, is the only
//! thing that `command` renders.

mod assumed;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::absent::absent;
use super::keyval;
use super::paths;
use super::schema::{ProbeError, Properties, Qemu, QemuInfo, TypeQuestion};
use super::type_names::{cpu_type, host_device_types};
use crate::spec::Origin;
use crate::spec::first_version::{FirstVersions, QemuVersion};
use crate::spec::permissions::{Permissions, TypeGrant};
use crate::spec::plan::{Firmware, LaunchPlan, Property, Transport, Typed, Value};
use crate::spec::printable;
use crate::spec::request::{Accelerator, Boot, Choice, LaunchRequest, RequestFile};

/// Why a plan is not started.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The backend broke a rule of the contract.
    #[error("{argument}: {rule}")]
    Rule { argument: String, rule: String },
    /// The plan is sound, but this host, QEMU or request does not allow it.
    #[error("{what}")]
    Unsupported {
        lack: Lack,
        what: String,
        remedy: String,
    },
    #[error(transparent)]
    Probe(#[from] ProbeError),
}

/// What a sound plan does not find here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// The installed QEMU has no such type or property.
    Qemu,
    /// The accelerator is another one.
    Kvm,
    /// A property that config sets for the network device.
    NetworkProperty,
    /// The backend refuses this device of the host's.
    Device(String),
}

fn rule(argument: impl Into<String>, rule: impl Into<String>) -> CheckError {
    CheckError::Rule {
        argument: printable(&argument.into()),
        rule: printable(&rule.into()),
    }
}

/// What the installed QEMU says about the types of one plan.
#[derive(Clone, Debug)]
pub struct Knowledge {
    pub info: Arc<QemuInfo>,
    machine: Option<Arc<Properties>>,
    cpu: Option<Arc<Properties>>,
    devices: HashMap<String, Arc<Properties>>,
}

impl Knowledge {
    /// Asks QEMU about every type of `plan` and of the host's own devices.
    pub async fn gather(
        qemu: &Qemu,
        plan: &LaunchPlan,
        request: &LaunchRequest,
    ) -> Result<Self, ProbeError> {
        let info = qemu.info().await?;
        let name = info
            .machine(&plan.machine.kind)
            .unwrap_or(&plan.machine.kind);
        let machine = qemu.properties(TypeQuestion::Qom(format!("{name}-machine")));
        let machine = machine.await?;
        let cpu = qemu.properties(TypeQuestion::Qom(cpu_type(
            &plan.cpu.kind,
            &request.host.architecture,
        )));
        let cpu = cpu.await?;
        let mut devices = HashMap::new();
        let own = request
            .devices
            .iter()
            .flat_map(|device| host_device_types(request, device, plan.devices.transport));
        for kind in plan
            .extra_devices
            .iter()
            .map(|device| device.kind.clone())
            .chain(own)
        {
            if !devices.contains_key(&kind)
                && let Some(properties) =
                    qemu.properties(TypeQuestion::Device(kind.clone())).await?
            {
                devices.insert(kind, properties);
            }
        }
        Ok(Self {
            info,
            machine,
            cpu,
            devices,
        })
    }

    /// Of a QEMU that has all that `plan` names: what is then held against the plan is what it may
    /// name, and not what is installed. `aliases` are versioned names of machines by their aliases.
    pub fn assumed(
        plan: &LaunchPlan,
        request: &LaunchRequest,
        permissions: &Permissions,
        aliases: &BTreeMap<String, String>,
    ) -> Self {
        assumed::knowledge(plan, request, permissions, aliases)
    }

    /// Whether the installed QEMU's device has the property.
    pub fn device_has(&self, kind: &str, property: &str) -> bool {
        self.devices
            .get(kind)
            .is_some_and(|properties| properties.contains_key(property))
    }
}

/// A plan that may be started.
#[derive(Clone, Debug)]
pub struct CheckedPlan {
    plan: LaunchPlan,
    knowledge: Knowledge,
}

impl CheckedPlan {
    pub fn plan(&self) -> &LaunchPlan {
        &self.plan
    }

    pub fn knowledge(&self) -> &Knowledge {
        &self.knowledge
    }
}

/// Checks `plan`. `first_versions` are for messages about what QEMU lacks.
pub fn check(
    plan: LaunchPlan,
    request: &LaunchRequest,
    permissions: &Permissions,
    first_versions: &FirstVersions,
    knowledge: Knowledge,
) -> Result<CheckedPlan, CheckError> {
    let checker = Checker {
        permissions,
        first_versions,
        knowledge: &knowledge,
        request,
    };
    checker.machine(&plan.machine)?;
    checker.cpu(&plan.cpu)?;
    checker.numbers("smp", &plan.smp, &paths::SMP_PROPERTIES)?;
    checker.numbers("memory", &plan.memory, &paths::MEMORY_PROPERTIES)?;
    if let Some(backend) = &plan.memory_backend {
        if !backend.kind.starts_with("memory-backend-") {
            return Err(rule(
                "memory-backend",
                format!("{:?} backs no memory", backend.kind),
            ));
        }
        if backend
            .properties
            .iter()
            .any(|property| property.path == "size")
        {
            return Err(rule(
                "memory-backend.size",
                "the host sets it from the request",
            ));
        }
        checker.object("memory-backend", backend)?;
    }
    for (index, object) in plan.objects.iter().enumerate() {
        checker.object(&format!("objects[{index}]"), object)?;
    }
    for (index, device) in plan.extra_devices.iter().enumerate() {
        checker.device(&format!("extra-devices[{index}]"), device)?;
    }
    checker.virtio_properties(&plan)?;
    checker.firmware(&plan)?;
    checker.host_rules(&plan)?;
    Ok(CheckedPlan { plan, knowledge })
}

struct Checker<'a> {
    permissions: &'a Permissions,
    first_versions: &'a FirstVersions,
    knowledge: &'a Knowledge,
    request: &'a LaunchRequest,
}

impl Checker<'_> {
    fn unsupported(&self, what: &str, first: Option<QemuVersion>) -> CheckError {
        absent(&self.knowledge.info.version, what, first)
    }

    /// A type of a plan that QEMU does not have; `noun` is what it would be.
    fn no_type(&self, noun: &str, kind: &str) -> CheckError {
        let first = self.first_versions.of_type(kind);
        self.unsupported(&format!("has no {noun} {kind:?}"), first)
    }

    /// `path` as grants write it, `shown` as the plan does.
    fn no_property(&self, kind: &str, path: &str, shown: &str) -> CheckError {
        let first = self.first_versions.of_property(kind, path);
        self.unsupported(&format!("has no property {shown:?} of {kind}"), first)
    }

    fn machine(&self, machine: &Typed) -> Result<(), CheckError> {
        if machine.id.is_some() {
            return Err(rule("machine.id", "a machine has no id"));
        }
        let Some(known) = self
            .knowledge
            .machine
            .as_ref()
            .filter(|_| self.knowledge.info.machine(&machine.kind).is_some())
        else {
            return Err(self.unsupported(&format!("has no machine {:?}", machine.kind), None));
        };
        for property in &machine.properties {
            let at = format!("machine.{}", property.path);
            if let Some(instead) = paths::machine_owner(&property.path) {
                return Err(rule(at, format!("the host renders it from {instead}")));
            }
            if paths::is_path("machine", &property.path) {
                return Err(rule(
                    at,
                    "QEMU opens or writes it as a file; a machine names no file",
                ));
            }
            // `-machine` hands it to the accelerator (QEMU, `qemu_apply_legacy_machine_options`).
            if property.path == "kernel-irqchip" {
                if matches!(&property.value, Value::Text(text) if matches!(text.as_str(), "on" | "off" | "split"))
                {
                    continue;
                }
                return Err(rule(at, "it is the text on, off or split"));
            }
            let Some(kind) = known.get(&property.path) else {
                let what = format!("has no property {:?} of {}", property.path, machine.kind);
                return Err(self.unsupported(&what, None));
            };
            let is_text = matches!(kind.as_str(), "str" | "string");
            if is_text && !self.permissions.machine_texts.contains(&property.path) {
                return Err(rule(
                    at,
                    "it is a text, which needs an announcement in `machine-texts` and a grant in config",
                ));
            }
            scalar(&at, &property.value, kind)?;
        }
        Ok(())
    }

    fn cpu(&self, cpu: &Typed) -> Result<(), CheckError> {
        if cpu.id.is_some() {
            return Err(rule("cpu.id", "a CPU model has no id"));
        }
        let Some(known) = &self.knowledge.cpu else {
            return Err(self.unsupported(&format!("has no CPU model {:?}", cpu.kind), None));
        };
        if cpu.kind == "host" && self.request.host.accelerator != Accelerator::Kvm {
            return Err(CheckError::Unsupported {
                lack: Lack::Kvm,
                what: "CPU model \"host\" needs the accelerator kvm".to_owned(),
                remedy: "set `qemu.accelerator = \"kvm\"`, or choose another CPU model".to_owned(),
            });
        }
        for property in &cpu.properties {
            let at = format!("cpu.{}", property.path);
            let Some(kind) = known.get(&property.path) else {
                let what = format!(
                    "has no property {:?} of CPU model {}",
                    property.path, cpu.kind
                );
                return Err(self.unsupported(&what, None));
            };
            scalar(&at, &property.value, kind)?;
            // `-cpu` splits at every comma (QEMU, `parse_cpu_option`), doubled or not.
            if matches!(&property.value, Value::Text(text) if text.contains(',')) {
                return Err(rule(at, "`-cpu` has no way to write a comma"));
            }
        }
        Ok(())
    }

    /// `-smp` and `-m` take counts and sizes only.
    fn numbers(
        &self,
        option: &str,
        properties: &[Property],
        allowed: &[&str],
    ) -> Result<(), CheckError> {
        for property in properties {
            let at = format!("{option}.{}", property.path);
            if !allowed.contains(&property.path.as_str()) {
                return Err(rule(
                    at,
                    format!(
                        "the host renders it, or it is none of {}",
                        allowed.join(", ")
                    ),
                ));
            }
            if !matches!(property.value, Value::Unsigned(_)) {
                return Err(rule(at, "it has to be `unsigned`"));
            }
        }
        Ok(())
    }

    fn object(&self, at: &str, object: &Typed) -> Result<(), CheckError> {
        let grant = granted(at, "objects", &object.kind, &self.permissions.objects)?;
        let Some(known) = self.knowledge.info.object(&object.kind) else {
            return Err(self.no_type("object type", &object.kind));
        };
        for property in &object.properties {
            let at = format!("{at} {}.{}", object.kind, property.path);
            let path = schema_path(&property.path);
            self.may_set(&at, &object.kind, &path, property, grant)?;
            let Some(kind) = known.get(&path) else {
                return Err(self.no_property(&object.kind, &path, &property.path));
            };
            json_kind(&at, &property.value, kind)?;
        }
        let entries = object
            .properties
            .iter()
            .map(|p| (p.path.clone(), serde_json::Value::Null));
        keyval::nest(entries)
            .map_err(|error| rule(format!("{at} {}", object.kind), error.to_string()))?;
        Ok(())
    }

    fn device(&self, at: &str, device: &Typed) -> Result<(), CheckError> {
        let grant = granted(at, "devices", &device.kind, &self.permissions.devices)?;
        let Some(known) = self.knowledge.devices.get(&device.kind) else {
            return Err(self.no_type("device", &device.kind));
        };
        for property in &device.properties {
            let at = format!("{at} {}.{}", device.kind, property.path);
            self.may_set(&at, &device.kind, &property.path, property, grant)?;
            // The bus is an option of `-device` itself, not a property of the type.
            if property.path == "bus" {
                scalar(&at, &property.value, "str")?;
                continue;
            }
            let Some(kind) = known.get(&property.path) else {
                return Err(self.no_property(&device.kind, &property.path, &property.path));
            };
            match &property.value {
                Value::File(_) | Value::HostPath(_) => {}
                value => scalar(&at, value, kind)?,
            }
        }
        Ok(())
    }

    /// The grant, and the rule that paths are files or granted host paths and nothing else is.
    fn may_set(
        &self,
        at: &str,
        kind: &str,
        path: &str,
        property: &Property,
        grant: &TypeGrant,
    ) -> Result<(), CheckError> {
        if !grant.properties.contains(path) {
            return Err(rule(
                at,
                format!(
                    "it is not granted: config must grant property {path:?} of {kind:?}, and the backend must announce it"
                ),
            ));
        }
        let is_path = grant.paths.contains(path) || paths::is_path(kind, path);
        match (&property.value, is_path) {
            (Value::File(_), true) => Ok(()),
            (Value::HostPath(host_path), true) => {
                if self.permissions.allows_host_path(host_path) {
                    Ok(())
                } else {
                    Err(rule(
                        at,
                        format!("host path {host_path:?} is not granted (`grants.host-paths`)"),
                    ))
                }
            }
            (Value::File(_) | Value::HostPath(_), false) => Err(rule(
                at,
                "a file or host path goes only into a property that is announced as a path",
            )),
            // Nothing is opened for an empty path (`romfile=`).
            (Value::Text(text), true) if text.is_empty() => Ok(()),
            (value, true) => Err(rule(
                at,
                format!(
                    "QEMU takes it as a path, so it has to be a `file` or a granted `host-path`, not `{}`",
                    value.kind()
                ),
            )),
            (_, false) => Ok(()),
        }
    }

    /// Properties for all virtio devices of the host. What ties a device to its counterpart is the
    /// host's: `fsdev=` would give one share the other's folder.
    fn virtio_properties(&self, plan: &LaunchPlan) -> Result<(), CheckError> {
        for property in &plan.devices.virtio_properties {
            let at = format!("devices.virtio-properties.{}", property.path);
            if HOST_OWNED_DEVICE.contains(&property.path.as_str()) {
                return Err(rule(at, "the host renders it"));
            }
            if paths::is_path("virtio", &property.path) {
                return Err(rule(at, "QEMU takes it as a path"));
            }
            for device in &self.request.devices {
                for kind in host_device_types(self.request, device, plan.devices.transport) {
                    let known = self.knowledge.devices.get(&kind);
                    if let Some(kind) = known.and_then(|known| known.get(&property.path)) {
                        if matches!(kind.as_str(), "str" | "string") {
                            return Err(rule(
                                at,
                                "it is a text, and only numbers, booleans and enums go to all devices",
                            ));
                        }
                        scalar(&at, &property.value, kind)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn firmware(&self, plan: &LaunchPlan) -> Result<(), CheckError> {
        match &plan.firmware {
            Firmware::None | Firmware::Bios(_) => Ok(()),
            Firmware::Igvm(_) if self.knowledge.info.object("igvm-cfg").is_none() => {
                let what = "is built without IGVM (no object type \"igvm-cfg\")";
                Err(self.unsupported(what, self.first_versions.of_type("igvm-cfg")))
            }
            Firmware::Igvm(_) => Ok(()),
            Firmware::Pflash(pflash) => {
                let template = pflash.vars_template.unwrap_or(pflash.code);
                for (path, file) in [("code.format", pflash.code), ("vars.format", template)] {
                    let is_raw = !pflash.options.iter().any(|option| {
                        option.path == path && option.value != Value::Text("raw".to_owned())
                    });
                    if !is_raw && self.request.file(file).is_none() {
                        return Err(rule(
                            format!("firmware.pflash.options.{path}"),
                            "a generated file is raw: another format could name further files of the host",
                        ));
                    }
                }
                for option in &pflash.options {
                    let at = format!("firmware.pflash.options.{}", option.path);
                    match (option.path.as_str(), &option.value) {
                        ("code.readonly", Value::Boolean(_)) => {}
                        ("code.unit" | "vars.unit", Value::Unsigned(0..=1)) => {}
                        ("code.format" | "vars.format", Value::Text(format))
                            if matches!(format.as_str(), "raw" | "qcow2") => {}
                        _ => {
                            return Err(rule(
                                at,
                                "options are code.readonly (boolean), code.unit and vars.unit (0 or 1), code.format and vars.format (raw or qcow2)",
                            ));
                        }
                    }
                }
                Ok(())
            }
        }
    }

    /// What the operator sets for a device is used or refused. On other transports than PCI the
    /// properties of PCI do not exist, and are left out.
    fn operator_properties(&self, plan: &LaunchPlan) -> Result<(), CheckError> {
        if plan.devices.transport != Transport::Pci {
            return Ok(());
        }
        for device in &self.request.devices {
            let types = host_device_types(self.request, device, plan.devices.transport);
            let Some(kind) = types.first() else { continue };
            for property in &device.properties {
                if !self.knowledge.device_has(kind, &property.path) {
                    return Err(CheckError::Unsupported {
                        lack: Lack::NetworkProperty,
                        what: format!(
                            "{kind} of QEMU {} has no property {:?}, which config sets for device {:?}",
                            self.knowledge.info.version, property.path, device.id
                        ),
                        remedy: "mend `network.properties` in the config file".to_owned(),
                    });
                }
            }
        }
        Ok(())
    }

    /// What the operator or the caller named is used, or the plan fails.
    fn named_choices(&self, plan: &LaunchPlan) -> Result<(), CheckError> {
        let named = |choice: &Option<Choice>| {
            let choice = choice
                .as_ref()
                .filter(|choice| choice.origin != Origin::BuiltIn);
            choice.map(|choice| choice.value.clone())
        };
        let versioned = |name: &str| self.knowledge.info.machine(name).map(str::to_owned);
        if let Some(machine) = named(&self.request.machine)
            && versioned(&machine) != versioned(&plan.machine.kind)
        {
            return Err(rule(
                "machine",
                format!("{machine:?} was asked for by name"),
            ));
        }
        if let Some(cpu) = named(&self.request.cpu)
            && plan.cpu.kind != cpu
            && !plan
                .cpu
                .kind
                .strip_prefix(&cpu)
                .is_some_and(|rest| rest.starts_with("-v"))
        {
            return Err(rule("cpu", format!("{cpu:?} was asked for by name")));
        }
        if self.request.boot == Boot::Disk && plan.boot.kernel {
            return Err(rule("boot.kernel", "the request boots from its disk"));
        }
        self.named_files(plan)
    }

    /// A caller's file that is left lying is a wish that was dropped. A file of a setting is the
    /// backend's own business.
    fn named_files(&self, plan: &LaunchPlan) -> Result<(), CheckError> {
        let mut named = plan.named_files();
        // QEMU gets a copy of it, which is a use all the same.
        if let Firmware::Pflash(pflash) = &plan.firmware {
            named.extend(pflash.vars_template);
        }
        let is_used = |file: &RequestFile| match file.role.as_str() {
            "kernel" => plan.boot.kernel,
            "initrd" => plan.boot.initrd,
            "disk" => self.request.boot == Boot::Disk,
            role => role.starts_with("setting:") || named.contains(&file.id),
        };
        let mut of_request = self.request.host.files.iter();
        match of_request.find(|file| file.origin == Origin::Request && !is_used(file)) {
            Some(file) => Err(rule(
                file.role.as_str(),
                "the request names this file, and the plan does not use it",
            )),
            None => Ok(()),
        }
    }

    fn host_rules(&self, plan: &LaunchPlan) -> Result<(), CheckError> {
        if let Some(device) = self
            .request
            .devices
            .iter()
            .find(|device| plan.devices.refused.contains(&device.kind))
        {
            return Err(CheckError::Unsupported {
                lack: Lack::Device(device.id.clone()),
                what: format!(
                    "the backend cannot have the device {:?} ({})",
                    device.id, device.kind
                ),
                remedy: "leave the device out, or choose another backend".to_owned(),
            });
        }
        for device in &self.request.devices {
            for kind in host_device_types(self.request, device, plan.devices.transport) {
                if !self.knowledge.devices.contains_key(&kind) {
                    return Err(self.no_type("device", &kind));
                }
            }
        }
        self.operator_properties(plan)?;
        self.named_choices(plan)?;
        if plan.guard.is_some() && self.request.host.accelerator != Accelerator::Kvm {
            return Err(CheckError::Unsupported {
                lack: Lack::Kvm,
                what: "the plan guards the guest, and a guard without KVM protects nothing"
                    .to_owned(),
                remedy: "set `qemu.accelerator = \"kvm\"`, or name a backend without protection"
                    .to_owned(),
            });
        }
        Ok(())
    }
}

/// Options of a host device that connect it.
const HOST_OWNED_DEVICE: [&str; 9] = [
    "id",
    "bus",
    "netdev",
    "fsdev",
    "mount_tag",
    "drive",
    "chardev",
    "iothread",
    "driver",
];

fn granted<'a>(
    at: &str,
    what: &str,
    kind: &str,
    grants: &'a std::collections::BTreeMap<String, TypeGrant>,
) -> Result<&'a TypeGrant, CheckError> {
    grants.get(kind).ok_or_else(|| {
        rule(at, format!(
            "type {kind:?} is not granted: the backend must announce it, and config must grant it (`grants.{what}`)"
        ))
    })
}

/// A path with list indices as `*`, as schema and grants write it.
fn schema_path(path: &str) -> String {
    path.split('.')
        .map(|segment| {
            if segment.bytes().all(|b| b.is_ascii_digit()) {
                "*"
            } else {
                segment
            }
        })
        .collect::<Vec<_>>()
        .join(".")
}

/// A value for a keyval option whose QOM property has the type `kind`.
fn scalar(at: &str, value: &Value, kind: &str) -> Result<(), CheckError> {
    if kind.starts_with("link<") || kind.starts_with("child<") || kind == "struct" {
        return Err(rule(at, "it refers to an object, which only the host does"));
    }
    let is_free_text = matches!(kind, "str" | "string");
    match value {
        Value::Boolean(_) | Value::Integer(_) | Value::Unsigned(_) => Ok(()),
        Value::Text(_) if is_free_text => Ok(()),
        // An enum member, a number in text form: nothing that option syntax gives a meaning to.
        Value::Text(text)
            if !text.is_empty()
                && text.len() <= 64
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._+:".contains(&b)) =>
        {
            Ok(())
        }
        Value::Text(text) => Err(rule(
            at,
            format!("{text:?} is no value of QEMU type {kind:?} (letters, digits, `-._+:`)"),
        )),
        other => Err(rule(
            at,
            format!("a `{}` does not fit QEMU type {kind:?}", other.kind()),
        )),
    }
}

/// A value for a JSON option whose QAPI member has the kind `kind`.
fn json_kind(at: &str, value: &Value, kind: &str) -> Result<(), CheckError> {
    let fits = match (value, kind) {
        (Value::Boolean(_), "boolean") => true,
        (Value::Integer(_) | Value::Unsigned(_), "int" | "number") => true,
        (Value::Text(_) | Value::Bytes(_) | Value::File(_) | Value::HostPath(_), "str") => true,
        (Value::Text(text), kind) => kind
            .strip_prefix("enum(")
            .and_then(|rest| rest.strip_suffix(')'))
            .is_some_and(|values| values.split('|').any(|value| value == text)),
        _ => false,
    };
    if fits {
        return Ok(());
    }
    Err(rule(
        at,
        format!("a `{}` does not fit QEMU's type {kind}", value.kind()),
    ))
}
