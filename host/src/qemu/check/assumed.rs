//! Knowledge of a QEMU that nobody looked at: it has all that a plan names. What the plan may name is
//! judged all the same, so that a backend can be tried where there is no QEMU.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{Knowledge, schema_path};
use crate::qemu::schema::{Properties, QemuInfo};
use crate::qemu::type_names::host_device_types;
use crate::spec::permissions::Permissions;
use crate::spec::plan::{Firmware, LaunchPlan, Property, Value};
use crate::spec::request::LaunchRequest;

/// A type that takes every plain value but a free text.
const ANY_SCALAR: &str = "any";
/// How QEMU calls the type of a free text.
const FREE_TEXT: &str = "string";

pub(super) fn knowledge(
    plan: &LaunchPlan,
    request: &LaunchRequest,
    permissions: &Permissions,
    aliases: &BTreeMap<String, String>,
) -> Knowledge {
    let mut machines: HashMap<String, String> = aliases
        .iter()
        .flat_map(|(alias, name)| [(alias.clone(), name.clone()), (name.clone(), name.clone())])
        .collect();
    let kind = &plan.machine.kind;
    machines.entry(kind.clone()).or_insert_with(|| kind.clone());
    Knowledge {
        info: Arc::new(QemuInfo::assumed(machines, objects(plan))),
        machine: Some(Arc::new(machine(plan, permissions))),
        cpu: Some(Arc::new(scalars(&plan.cpu.properties))),
        devices: devices(plan, request),
    }
}

/// Whether a text is free is not to be seen in it. One that is announced is.
fn machine(plan: &LaunchPlan, permissions: &Permissions) -> Properties {
    let properties = plan.machine.properties.iter().map(|property| {
        let is_free = permissions.machine_texts.contains(&property.path);
        let kind = if is_free { FREE_TEXT } else { ANY_SCALAR };
        (property.path.clone(), kind.to_owned())
    });
    properties.collect()
}

fn scalars(properties: &[Property]) -> Properties {
    let properties = properties.iter();
    properties
        .map(|property| (property.path.clone(), ANY_SCALAR.to_owned()))
        .collect()
}

fn objects(plan: &LaunchPlan) -> HashMap<String, Properties> {
    let mut objects: HashMap<String, Properties> = HashMap::new();
    for object in plan.memory_backend.iter().chain(&plan.objects) {
        let known = objects.entry(object.kind.clone()).or_default();
        for property in &object.properties {
            let kind = match property.value {
                Value::Boolean(_) => "boolean",
                Value::Integer(_) | Value::Unsigned(_) => "int",
                Value::Text(_) | Value::Bytes(_) | Value::File(_) | Value::HostPath(_) => "str",
            };
            known.insert(schema_path(&property.path), kind.to_owned());
        }
    }
    if matches!(plan.firmware, Firmware::Igvm(_)) {
        objects.entry("igvm-cfg".to_owned()).or_default();
    }
    objects
}

/// The host's own devices have what the operator sets for them, and a virtio one what the plan sets
/// for all of these.
fn devices(plan: &LaunchPlan, request: &LaunchRequest) -> HashMap<String, Arc<Properties>> {
    let mut devices: HashMap<String, Properties> = HashMap::new();
    for device in &plan.extra_devices {
        let known = devices.entry(device.kind.clone()).or_default();
        known.extend(scalars(&device.properties));
    }
    for device in &request.devices {
        let types = host_device_types(request, device, plan.devices.transport);
        for (index, kind) in types.into_iter().enumerate() {
            let is_virtio = kind.starts_with("virtio-");
            let known = devices.entry(kind).or_default();
            if index == 0 {
                known.extend(scalars(&device.properties));
            }
            if is_virtio {
                known.extend(scalars(&plan.devices.virtio_properties));
            }
        }
    }
    let devices = devices.into_iter();
    devices
        .map(|(kind, properties)| (kind, Arc::new(properties)))
        .collect()
}
