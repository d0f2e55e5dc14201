//! Rules of the contract that an answer alone can break. What the installed QEMU, the operator's grants
//! and a second call would show is not among them.

use std::collections::BTreeSet;

use crate::announce::announces_no_identity;
use crate::bindings::casemate::tee::types::{
    BackendInfo, BootInputs, Error, Finding, Firmware, LaunchPlan, LaunchRequest, Property,
    Protection, Severity, TypeUse, Typed, Value,
};
use crate::names::is_id;

/// Properties of objects and machine that are the host's.
const HOSTS: [&str; 3] = ["memory-backend", "confidential-guest-support", "accel"];
const TRANSPORTS: [&str; 3] = ["pci", "ccw", "mmio"];
/// Kinds of `host-device`.
const DEVICES: [&str; 6] = ["net", "disk", "share-9p", "vsock", "vfio", "console"];
const ABILITIES: [&str; 3] = ["pause", "reset", "powerdown"];
/// The count is the request's.
const SMP: [&str; 11] = [
    "maxcpus", "sockets", "dies", "clusters", "modules", "cores", "threads", "books", "drawers",
    "trays", "nodes",
];
/// The size is the request's.
const MEMORY: [&str; 2] = ["slots", "maxmem"];
const FIRMWARE: [&str; 5] = [
    "code.readonly",
    "code.unit",
    "code.format",
    "vars.unit",
    "vars.format",
];

/// The rules that the answer breaks, in words; none: it breaks none of those that are known here.
pub fn violations(
    info: &BackendInfo,
    request: &LaunchRequest,
    answer: &Result<LaunchPlan, Error>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    match answer {
        Ok(plan) => plan_violations(info, request, plan, &mut wrong),
        Err(error) => {
            for (name, text) in [
                ("subject", &error.subject),
                ("message", &error.message),
                ("remedy", &error.remedy),
            ] {
                if text.is_empty() {
                    wrong.push(format!("the error has no {name}"));
                }
                harmless(&format!("the error's {name}"), text, &mut wrong);
            }
        }
    }
    wrong
}

fn plan_violations(
    info: &BackendInfo,
    request: &LaunchRequest,
    plan: &LaunchPlan,
    wrong: &mut Vec<String>,
) {
    let objects: Vec<&Typed> = plan.memory_backend.iter().chain(&plan.objects).collect();
    for object in &objects {
        announced("object", object, &info.objects, wrong);
    }
    for device in &plan.extra_devices {
        announced("device", device, &info.devices, wrong);
    }
    ids(plan, &objects, wrong);
    files(request, plan, &objects, wrong);
    guard(info, plan, wrong);
    identity(info, request, plan, wrong);
    boot(request, plan, wrong);
    words(plan, wrong);
    for property in plan
        .machine
        .properties
        .iter()
        .chain(objects.iter().flat_map(|o| &o.properties))
    {
        if HOSTS.contains(&property.path.as_str()) {
            wrong.push(format!("property {} is the host's", property.path));
        }
    }
    for finding in &plan.findings {
        if finding.severity == Severity::Fail {
            wrong.push(format!(
                "finding {} is a fail, which is an error",
                finding.id
            ));
        }
        if finding.severity != Severity::Pass && finding.remedy.is_empty() {
            wrong.push(format!("finding {} has no remedy", finding.id));
        }
        for text in [
            &finding.id,
            &finding.subject,
            &finding.detail,
            &finding.remedy,
        ] {
            harmless(&format!("finding {}", finding.id), text, wrong);
        }
    }
    if let Some(extra) = plan.extras.first() {
        wrong.push(format!(
            "extras key {:?} is not defined for plans",
            extra.key
        ));
    }
}

fn identity(
    info: &BackendInfo,
    request: &LaunchRequest,
    plan: &LaunchPlan,
    wrong: &mut Vec<String>,
) {
    let carries_none = announces_no_identity(&info.extras) || info.protection == Protection::None;
    match (&request.identity, &plan.identity_carrier) {
        (Some(_), Some(carrier)) if carries_none => wrong.push(format!(
            "{carrier} carries an identity, and it is announced that nothing does"
        )),
        (Some(identity), Some(carrier)) if !carries(plan, carrier, &identity.digest) => {
            wrong.push(format!(
                "no object has {carrier} with the bytes of the identity, and zeros after them"
            ));
        }
        (Some(_), None) => {
            wrong.push("the request has an identity that nothing carries".to_owned());
        }
        (None, Some(carrier)) => wrong.push(format!(
            "{carrier} carries an identity that the request has not"
        )),
        (Some(_), Some(_)) | (None, None) => {}
    }
}

/// Whether a property of that name is the digest, whole and at the left, padded with zeros.
fn carries(plan: &LaunchPlan, carrier: &str, digest: &[u8]) -> bool {
    let mut properties = plan.objects.iter().flat_map(|object| &object.properties);
    properties.any(|property| match &property.value {
        Value::Bytes(bytes) if property.path == carrier => bytes
            .strip_prefix(digest)
            .is_some_and(|rest| rest.iter().all(|byte| *byte == 0)),
        _ => false,
    })
}

/// Boot inputs that the request has, and says.
fn boot(request: &LaunchRequest, plan: &LaunchPlan, wrong: &mut Vec<String>) {
    let has = |input: BootInputs| plan.boot.contains(input);
    for (input, role) in [
        (BootInputs::KERNEL, "kernel"),
        (BootInputs::INITRD, "initrd"),
    ] {
        let is_there = request.host.files.iter().any(|file| file.role == role);
        if has(input) && !is_there {
            wrong.push(format!(
                "the plan boots with a file {role} that the request has not"
            ));
        }
    }
    let is_kernel = has(BootInputs::KERNEL);
    if !is_kernel && (has(BootInputs::INITRD) || has(BootInputs::CMDLINE)) {
        wrong.push("initrd and command line come with a kernel only".to_owned());
    }
    if is_kernel && request.boot == "disk" {
        wrong.push("the plan boots with a kernel, and the request from its disk".to_owned());
    }
    let tells = |finding: &Finding| finding.subject == "kernel-cmdline";
    let is_left = is_kernel && !has(BootInputs::CMDLINE) && !request.kernel_cmdline.is_empty();
    if is_left && !plan.findings.iter().any(tells) {
        wrong.push("the command line is left out, and no finding tells it".to_owned());
    }
}

/// Words of which the contract has a list.
fn words(plan: &LaunchPlan, wrong: &mut Vec<String>) {
    let mut of = |what: &str, word: &str, known: &[&str]| {
        if !known.contains(&word) {
            let known = known.join(", ");
            wrong.push(format!("{what} {word:?} is none of {known}"));
        }
    };
    of("transport", &plan.devices.transport, &TRANSPORTS);
    for kind in &plan.devices.refused {
        of("the refused device", kind, &DEVICES);
    }
    for ability in &plan.abilities {
        of("ability", ability, &ABILITIES);
    }
    for property in &plan.smp {
        of("smp property", &property.path, &SMP);
    }
    for property in &plan.memory {
        of("memory property", &property.path, &MEMORY);
    }
    if let Firmware::Pflash(pair) = &plan.firmware {
        for option in &pair.options {
            of("firmware option", &option.path, &FIRMWARE);
        }
    }
}

/// A type, and all properties of it, as `describe` announces them.
fn announced(what: &str, typed: &Typed, uses: &[TypeUse], wrong: &mut Vec<String>) {
    let Some(of_type) = uses.iter().find(|one| one.kind == typed.kind) else {
        wrong.push(format!("{what} type {} is not announced", typed.kind));
        return;
    };
    for property in &typed.properties {
        let is_path = fits_any(&of_type.paths, &property.path);
        // A path among `paths` alone would keep the component from being loaded.
        if !fits_any(&of_type.properties, &property.path) {
            wrong.push(format!(
                "property {}.{} is not announced",
                typed.kind, property.path
            ));
        }
        match &property.value {
            Value::HostPath(_) if !is_path => wrong.push(format!(
                "property {}.{} has a host path and is not announced as a path",
                typed.kind, property.path
            )),
            Value::Text(text) => harmless(&property.path, text, wrong),
            _ => {}
        }
    }
}

/// `host-nodes.*` fits `host-nodes.0`.
fn fits_any(announced: &[String], path: &str) -> bool {
    announced.iter().any(|pattern| {
        let (pattern, path): (Vec<&str>, Vec<&str>) =
            (pattern.split('.').collect(), path.split('.').collect());
        pattern.len() == path.len()
            && pattern.iter().zip(path).all(|(wanted, segment)| {
                *wanted == segment
                    || (*wanted == "*" && segment.bytes().all(|byte| byte.is_ascii_digit()))
            })
    })
}

fn ids(plan: &LaunchPlan, objects: &[&Typed], wrong: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for typed in objects.iter().copied().chain(&plan.extra_devices) {
        match &typed.id {
            Some(id) if !is_id(id) => wrong.push(format!("{id:?} is no id")),
            Some(id) if !seen.insert(id) => wrong.push(format!("id {id:?} is there twice")),
            Some(_) => {}
            // A device may do without.
            None if plan
                .extra_devices
                .iter()
                .any(|device| std::ptr::eq(device, typed)) => {}
            None => wrong.push(format!("{} has no id", typed.kind)),
        }
    }
}

fn files(request: &LaunchRequest, plan: &LaunchPlan, objects: &[&Typed], wrong: &mut Vec<String>) {
    let mut known: BTreeSet<u32> = request.host.files.iter().map(|file| file.id).collect();
    for generated in &plan.generated {
        if !known.insert(generated.id) {
            wrong.push(format!(
                "generated file {} has the id of another",
                generated.id
            ));
        }
    }
    let of_firmware = match &plan.firmware {
        Firmware::None => Vec::new(),
        Firmware::Bios(id) | Firmware::Igvm(id) => vec![*id],
        Firmware::Pflash(pair) => std::iter::once(pair.code)
            .chain(pair.vars_template)
            .collect(),
    };
    let of_properties = objects
        .iter()
        .copied()
        .chain(&plan.extra_devices)
        .flat_map(|typed| &typed.properties)
        .filter_map(|Property { value, .. }| match value {
            Value::File(id) => Some(*id),
            _ => None,
        });
    for id in of_firmware.into_iter().chain(of_properties) {
        if !known.contains(&id) {
            wrong.push(format!(
                "file {id} is neither of the request nor of the plan"
            ));
        }
    }
}

fn guard(info: &BackendInfo, plan: &LaunchPlan, wrong: &mut Vec<String>) {
    match (info.protection, &plan.guard) {
        (Protection::Guard, None) => wrong.push("a guard is promised and none is given".to_owned()),
        (Protection::None, Some(guard)) => {
            wrong.push(format!("guard {guard:?} is given, and none is promised"));
        }
        (Protection::Guard, Some(guard))
            if !plan
                .objects
                .iter()
                .any(|object| object.id.as_ref() == Some(guard)) =>
        {
            wrong.push(format!("guard {guard:?} is no object of the plan"));
        }
        _ => {}
    }
}

fn harmless(what: &str, text: &str, wrong: &mut Vec<String>) {
    if text.chars().any(char::is_control) {
        wrong.push(format!("{what} holds a control character"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announce::no_identity;
    use crate::answer::{invalid_request, pass};
    use crate::bindings::casemate::tee::types::{
        DeviceRules, Extra, GeneratedFile, PflashFirmware,
    };
    use crate::harness::Case;

    const MACHINE: &str = "pc-q35-10.0";

    fn info() -> BackendInfo {
        BackendInfo {
            tee: "none".to_owned(),
            protection: Protection::None,
            name: "x".to_owned(),
            vendor: "x".to_owned(),
            version: "1".to_owned(),
            architectures: vec!["x86_64".to_owned()],
            needs: Vec::new(),
            objects: vec![TypeUse {
                kind: "secret".to_owned(),
                properties: vec!["data".to_owned(), "nodes.*".to_owned(), "file".to_owned()],
                paths: vec!["file".to_owned()],
            }],
            devices: vec![TypeUse {
                kind: "device".to_owned(),
                properties: Vec::new(),
                paths: Vec::new(),
            }],
            machine_texts: Vec::new(),
            settings: Vec::new(),
            firmware_features: Vec::new(),
            extras: Vec::new(),
        }
    }

    fn typed(kind: &str, id: Option<&str>, properties: Vec<Property>) -> Typed {
        Typed {
            kind: kind.to_owned(),
            id: id.map(str::to_owned),
            properties,
        }
    }

    fn property(path: &str, value: Value) -> Property {
        Property {
            path: path.to_owned(),
            value,
        }
    }

    fn plan() -> LaunchPlan {
        LaunchPlan {
            machine: typed(MACHINE, None, Vec::new()),
            cpu: typed("max", None, Vec::new()),
            smp: Vec::new(),
            memory: Vec::new(),
            memory_backend: None,
            objects: vec![typed(
                "secret",
                Some("one"),
                vec![
                    property("data", Value::Text("x".to_owned())),
                    property("nodes.0", Value::Unsigned(1)),
                    property("file", Value::File(1)),
                ],
            )],
            extra_devices: Vec::new(),
            guard: None,
            firmware: Firmware::None,
            boot: BootInputs::KERNEL | BootInputs::CMDLINE,
            devices: DeviceRules {
                transport: "pci".to_owned(),
                virtio_properties: Vec::new(),
                refused: Vec::new(),
            },
            generated: Vec::new(),
            leases: Vec::new(),
            abilities: Vec::new(),
            memory_overhead_bytes: 0,
            identity_carrier: None,
            findings: vec![pass("x.y", "x", "z")],
            extras: Vec::new(),
        }
    }

    #[test]
    fn what_is_right_is_not_complained_about() {
        let request = Case::default().request;
        assert_eq!(violations(&info(), &request, &Ok(plan())), [""; 0]);
        let error = invalid_request("vcpus", "too many", "ask for fewer");
        assert_eq!(violations(&info(), &request, &Err(error)), [""; 0]);
    }

    #[test]
    fn each_broken_rule_is_named() {
        type Change = fn(&mut LaunchPlan);
        let cases: [(&str, Change); 21] = [
            ("object type rng is not announced", |plan| {
                plan.objects.push(typed("rng", Some("two"), Vec::new()));
            }),
            ("device type pvpanic is not announced", |plan| {
                plan.extra_devices
                    .push(typed("pvpanic", Some("two"), Vec::new()));
            }),
            ("property secret.format is not announced", |plan| {
                plan.objects[0]
                    .properties
                    .push(property("format", Value::Boolean(true)));
            }),
            ("is not announced as a path", |plan| {
                plan.objects[0].properties[0].value = Value::HostPath("/x".to_owned());
            }),
            ("id \"one\" is there twice", |plan| {
                plan.objects.push(plan.objects[0].clone());
            }),
            ("\"casemate-x\" is no id", |plan| {
                plan.objects[0].id = Some("casemate-x".to_owned());
            }),
            ("secret has no id", |plan| plan.objects[0].id = None),
            ("file 9 is neither", |plan| {
                plan.firmware = Firmware::Bios(9);
            }),
            ("generated file 1 has the id of another", |plan| {
                plan.generated.push(GeneratedFile {
                    id: 1,
                    label: "x".to_owned(),
                    content: Vec::new(),
                });
            }),
            ("none is promised", |plan| {
                plan.guard = Some("one".to_owned());
            }),
            ("carries an identity", |plan| {
                plan.identity_carrier = Some("data".to_owned());
            }),
            ("property memory-backend is the host's", |plan| {
                plan.machine
                    .properties
                    .push(property("memory-backend", Value::Boolean(true)));
            }),
            ("transport \"usb\" is none of", |plan| {
                plan.devices.transport = "usb".to_owned();
            }),
            ("refused device \"vsok\" is none of", |plan| {
                plan.devices.refused.push("vsok".to_owned());
            }),
            ("ability \"fly\" is none of", |plan| {
                plan.abilities.push("fly".to_owned());
            }),
            ("smp property \"cpus\" is none of", |plan| {
                plan.smp.push(property("cpus", Value::Unsigned(2)));
            }),
            ("memory property \"size\" is none of", |plan| {
                plan.memory.push(property("size", Value::Unsigned(2)));
            }),
            ("firmware option \"code.cache\" is none of", |plan| {
                plan.firmware = Firmware::Pflash(PflashFirmware {
                    code: 1,
                    vars_template: None,
                    options: vec![property("code.cache", Value::Boolean(true))],
                });
            }),
            ("come with a kernel only", |plan| {
                plan.boot = BootInputs::CMDLINE;
            }),
            ("the command line is left out", |plan| {
                plan.boot = BootInputs::KERNEL;
            }),
            ("extras key \"x\"", |plan| {
                plan.extras.push(Extra {
                    key: "x".to_owned(),
                    value: String::new(),
                });
            }),
        ];
        let request = Case::default().request;
        for (words, change) in cases {
            let mut plan = plan();
            change(&mut plan);
            let found = violations(&info(), &request, &Ok(plan));
            assert!(
                found.len() == 1 && found[0].contains(words),
                "{words}: {found:?}"
            );
        }
        let guarded = BackendInfo {
            protection: Protection::Guard,
            ..info()
        };
        let found = violations(&guarded, &request, &Ok(plan()));
        assert_eq!(found, ["a guard is promised and none is given"]);
        let identity = Case::default().with_identity("raw", vec![1]).request;
        let found = violations(&info(), &identity, &Ok(plan()));
        assert_eq!(found, ["the request has an identity that nothing carries"]);
    }

    /// As the host has it: a device needs no id, and a path is a property like others.
    #[test]
    fn what_a_host_takes_and_loads_is_what_is_taken_here() {
        let request = Case::default().request;
        let mut plan = plan();
        plan.extra_devices.push(typed("device", None, Vec::new()));
        assert_eq!(violations(&info(), &request, &Ok(plan.clone())), [""; 0]);
        let mut unloadable = info();
        unloadable.objects[0].properties.retain(|one| one != "file");
        let found = violations(&unloadable, &request, &Ok(plan));
        assert_eq!(found, ["property secret.file is not announced"]);
    }

    /// The contract names the field and its bytes, and who announces none has none.
    #[test]
    fn an_identity_is_carried_whole_by_who_may() {
        let request = Case::default().with_identity("raw", vec![1, 2]).request;
        let carrying = |bytes: &[u8]| {
            let mut plan = plan();
            plan.identity_carrier = Some("data".to_owned());
            plan.objects[0].properties[0].value = Value::Bytes(bytes.to_vec());
            plan.guard = Some("one".to_owned());
            plan
        };
        let guarded = BackendInfo {
            protection: Protection::Guard,
            ..info()
        };
        let found =
            |info: &BackendInfo, bytes: &[u8]| violations(info, &request, &Ok(carrying(bytes)));
        assert_eq!(found(&guarded, &[1, 2, 0, 0]), [""; 0]);
        for bytes in [&[0, 0, 1, 2][..], &[1], &[1, 2, 3]] {
            let found = found(&guarded, bytes);
            assert!(
                found.len() == 1 && found[0].contains("bytes of the identity"),
                "{found:?}"
            );
        }
        let carries_none = BackendInfo {
            extras: vec![no_identity()],
            ..guarded
        };
        for info in [carries_none, info()] {
            let found = found(&info, &[1, 2]);
            assert!(
                found
                    .iter()
                    .any(|one| one.contains("announced that nothing does")),
                "{found:?}"
            );
        }
    }
}
