//! Requests and facts of any kind, for property tests: mostly such that a plan comes of them, and
//! now and then with a value that nobody expects.
//!
//! With the feature `arbitrary` only; a component has no use for it.

use proptest::prelude::*;

use crate::bindings::casemate::tee::facts::FactError;
use crate::bindings::casemate::tee::types::{
    BootInputs, Choice, Error, Finding, Firmware, HostContext, HostDevice, HostFile, Identity,
    Launch, LaunchPlan, LaunchRequest, Origin, Setting, SettingSpec, Typed, Value,
};
use crate::facts::QemuFacts;
use crate::files::{Digests, Files};
use crate::guard::{self, GuardFacts};
use crate::memory::property;

/// A launch of a guest that is to be measured, as `casemate measure` makes one up: what no
/// measurement reads is left empty.
pub fn launch_to_measure(
    cpu: &str,
    firmware: Firmware,
    boot: BootInputs,
    objects: Vec<Typed>,
) -> Launch {
    let typed = |kind: &str| Typed {
        kind: kind.to_owned(),
        id: None,
        properties: Vec::new(),
    };
    Launch {
        plan: LaunchPlan {
            machine: typed("q35"),
            cpu: typed(cpu),
            smp: Vec::new(),
            memory: Vec::new(),
            memory_backend: None,
            objects,
            extra_devices: Vec::new(),
            guard: None,
            firmware,
            boot,
            devices: guard::device_rules(),
            generated: Vec::new(),
            leases: Vec::new(),
            abilities: Vec::new(),
            memory_overhead_bytes: 0,
            identity_carrier: None,
            findings: Vec::new(),
            extras: Vec::new(),
        },
        arguments: Vec::new(),
    }
}

pub fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("a\nb\u{1b}[2J\0".to_owned()),
        ".{0,12}",
        "(kernel|disk|x86_64|kvm|tcg|host|q35|pc|auto|pflash|bios|none|ram|memfd|ram1|EPYC)",
    ]
}

/// This text nine times of ten.
pub fn mostly(usual: &'static str) -> impl Strategy<Value = String> {
    prop_oneof![9 => Just(usual.to_owned()), 1 => text()]
}

pub fn origin() -> impl Strategy<Value = Origin> {
    prop_oneof![
        Just(Origin::BuiltIn),
        Just(Origin::Operator),
        Just(Origin::Request)
    ]
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(u64::MAX),
        (0_u64..70).prop_map(|gib| gib << 30),
        (0_u32..64).prop_map(|bit| 1 << bit),
        any::<u64>()
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(16), Just(48), Just(96), Just(4096), 0_usize..100]
        .prop_flat_map(|length| any::<u8>().prop_map(move |byte| vec![byte; length]))
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        text().prop_map(Value::Text),
        number().prop_map(|flags| Value::Text(format!("{flags:#x}"))),
        number().prop_map(Value::Unsigned),
        any::<i64>().prop_map(Value::Integer),
        any::<bool>().prop_map(Value::Boolean),
        bytes().prop_map(Value::Bytes),
        any::<u32>().prop_map(Value::File),
        text().prop_map(Value::HostPath),
    ]
}

fn setting(announced: Vec<SettingSpec>) -> impl Strategy<Value = Setting> {
    (0..announced.len(), value(), any::<bool>(), origin()).prop_map(
        move |(index, value, keep_default, origin)| {
            let spec = announced.get(index);
            Setting {
                key: spec.map(|spec| spec.key.clone()).unwrap_or_default(),
                value: match spec.and_then(|spec| spec.default.clone()) {
                    Some(default) if keep_default => default,
                    _ => value,
                },
                origin,
            }
        },
    )
}

fn file() -> impl Strategy<Value = HostFile> {
    let role = "(kernel|initrd|firmware|firmware-code|firmware-vars|igvm|disk|setting:x)";
    (any::<u32>(), role, text(), 0_u64..3, origin()).prop_map(|(id, role, label, size, origin)| {
        HostFile {
            id,
            role,
            label,
            size,
            origin,
        }
    })
}

fn choice() -> impl Strategy<Value = Option<Choice>> {
    proptest::option::of((text(), origin()).prop_map(|(value, origin)| Choice { value, origin }))
}

fn identity() -> impl Strategy<Value = Option<Identity>> {
    proptest::option::of(
        (text(), bytes()).prop_map(|(algorithm, digest)| Identity { algorithm, digest }),
    )
}

fn device() -> impl Strategy<Value = HostDevice> {
    (
        "(net|disk|share-9p|vfio|x)",
        text(),
        proptest::option::of(("(iommu_platform|disable-legacy|addr|romfile)", value())),
    )
        .prop_map(|(kind, id, other)| HostDevice {
            kind,
            id,
            properties: other
                .map(|(path, value)| property(&path, value))
                .into_iter()
                .chain([property("romfile", Value::Text(String::new()))])
                .collect(),
        })
}

/// A request with settings of those that a backend announces. Files 1 to 3 are a kernel, an initrd
/// and a firmware of `firmware_size` bytes, unless others stand before them.
pub fn request(
    announced: Vec<SettingSpec>,
    firmware_size: u64,
) -> impl Strategy<Value = LaunchRequest> {
    let usual = move |id: u32, role: &str, size: u64| HostFile {
        id,
        role: role.to_owned(),
        label: role.to_owned(),
        size,
        origin: Origin::Operator,
    };
    let files = proptest::collection::vec(file(), 0..3).prop_map(move |mut files| {
        files.extend([
            usual(1, "kernel", 4096),
            usual(2, "initrd", 4096),
            usual(3, "firmware", firmware_size),
        ]);
        files
    });
    let none_or = |files| prop_oneof![3 => Just(Vec::new()), 1 => files];
    let host = (
        mostly("x86_64"),
        mostly("kvm"),
        proptest::collection::vec(setting(announced), 0..3),
        prop_oneof![4 => files, 1 => proptest::collection::vec(file(), 0..6)],
    );
    let size = (
        prop_oneof![Just(0), 1_u32..100, any::<u32>()],
        prop_oneof![9 => (1_u64..100).prop_map(|gib| gib << 30), 1 => number()],
    );
    let rest = (
        mostly("kernel"),
        choice(),
        choice(),
        text(),
        none_or(proptest::collection::vec(device(), 0..3)),
        identity(),
    );
    (host, size, rest).prop_map(
        |(
            (architecture, accelerator, settings, files),
            (vcpus, memory_bytes),
            (boot, machine, cpu, kernel_cmdline, devices, identity),
        )| LaunchRequest {
            host: HostContext {
                architecture,
                accelerator,
                settings,
                files,
            },
            vcpus,
            memory_bytes,
            boot,
            machine,
            cpu,
            kernel_cmdline,
            devices,
            identity,
            extras: Vec::new(),
        },
    )
}

/// Mostly an answer.
pub fn answer<T: Clone + std::fmt::Debug + 'static>(
    value: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Result<T, FactError>> {
    prop_oneof![
        12 => value.prop_map(Ok),
        1 => Just(Err(FactError::Absent)),
        1 => Just(Err(FactError::Denied)),
        1 => text().prop_map(|reason| Err(FactError::Failed(reason))),
    ]
}

prop_compose! {
    /// What QEMU says, with the versioned name of q35.
    pub fn qemu_facts(machine: &'static str)(
        version in answer(mostly("10.1.0")),
        machine in answer(mostly(machine)),
        machine_type in answer(Just(())),
        cpu_model in answer(Just(())),
    ) -> QemuFacts {
        QemuFacts { version, machine, machine_type, cpu_model }
    }
}

prop_compose! {
    /// What KVM, kernel and CPU say, with the usual answer for VM types and slots.
    pub fn guard_facts(vm_types: i64, capacity: &'static str)(
        kvm_device in answer(Just(())),
        vm_types in answer(prop_oneof![9 => Just(vm_types), 1 => any::<i64>()]),
        vendor in answer(mostly("AuthenticAMD")),
        parameter in answer(mostly("Y\n")),
        capacity in answer(mostly(capacity)),
        current in answer(mostly("")),
    ) -> GuardFacts {
        GuardFacts { kvm_device, vm_types, vendor, parameter, capacity, current }
    }
}

/// One content, whichever file is asked for.
#[derive(Debug)]
pub struct OneFile(pub Vec<u8>);

impl Files for OneFile {
    fn read(&self, _file: u32, offset: u64, length: u32) -> Result<Vec<u8>, String> {
        let start = usize::try_from(offset).map_err(|error| error.to_string())?;
        let end = start.saturating_add(length as usize).min(self.0.len());
        let bytes = self.0.get(start..end);
        bytes
            .map(<[u8]>::to_vec)
            .ok_or_else(|| "past the end".to_owned())
    }
}

/// Contents by the id of the file, hashed here and not by a host.
#[derive(Debug, Default)]
pub struct MemoryFiles(pub std::collections::BTreeMap<u32, Vec<u8>>);

impl MemoryFiles {
    fn content(&self, file: u32) -> Result<&Vec<u8>, String> {
        let content = self.0.get(&file);
        content.ok_or_else(|| format!("file {file} is not of this request"))
    }
}

impl Files for MemoryFiles {
    fn read(&self, file: u32, offset: u64, length: u32) -> Result<Vec<u8>, String> {
        let content = self.content(file)?;
        let start = usize::try_from(offset).map_err(|error| error.to_string())?;
        let end = start.saturating_add(length as usize).min(content.len());
        let bytes = content.get(start..end).map(<[u8]>::to_vec);
        bytes.ok_or_else(|| "past the end".to_owned())
    }
}

impl Digests for MemoryFiles {
    fn digest(&self, file: u32, algorithm: &str, ranges: &[(u64, u64)]) -> Result<Vec<u8>, String> {
        let content = self.content(file)?;
        let mut bytes = Vec::new();
        for (offset, length) in ranges {
            let span = usize::try_from(*offset)
                .ok()
                .zip(usize::try_from(*length).ok())
                .and_then(|(start, length)| content.get(start..start.checked_add(length)?));
            bytes.extend_from_slice(span.ok_or("past the end")?);
        }
        hash(algorithm, if ranges.is_empty() { content } else { &bytes })
    }

    fn digest_pages(&self, file: u32, algorithm: &str, page_size: u32) -> Result<Vec<u8>, String> {
        let mut digests = Vec::new();
        for page in self.content(file)?.chunks(page_size as usize) {
            let mut page = page.to_vec();
            page.resize(page_size as usize, 0);
            digests.extend(hash(algorithm, &page)?);
        }
        Ok(digests)
    }
}

fn hash(algorithm: &str, bytes: &[u8]) -> Result<Vec<u8>, String> {
    use sha2::Digest as _;
    Ok(match algorithm {
        "sha-256" => sha2::Sha256::digest(bytes).to_vec(),
        "sha-384" => sha2::Sha384::digest(bytes).to_vec(),
        _ => return Err(format!("{algorithm} is not known")),
    })
}

fn is_harmless(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

fn typed_is_harmless(typed: &Typed) -> bool {
    let values = typed.properties.iter().all(|property| {
        is_harmless(&property.path)
            && match &property.value {
                Value::Text(text) => is_harmless(text),
                _ => true,
            }
    });
    values && is_harmless(&typed.kind) && typed.id.as_deref().is_none_or(is_harmless)
}

/// Whether findings can be shown to a person and written to a log.
pub fn findings_are_harmless(findings: &[Finding]) -> bool {
    findings
        .iter()
        .flat_map(|finding| {
            [
                &finding.id,
                &finding.subject,
                &finding.detail,
                &finding.remedy,
            ]
        })
        .all(|text| is_harmless(text))
}

/// Whether a refusal says what is at fault and what to do, and can be shown.
pub fn refusal_is_complete(error: &Error) -> bool {
    let texts = [&error.subject, &error.message, &error.remedy];
    texts
        .into_iter()
        .all(|text| is_harmless(text) && !text.is_empty())
}

/// Whether a plan holds no text that would mean something to a log or a terminal.
pub fn plan_is_harmless(plan: &LaunchPlan) -> bool {
    let typed = [&plan.machine, &plan.cpu]
        .into_iter()
        .chain(&plan.memory_backend)
        .chain(&plan.objects)
        .chain(&plan.extra_devices);
    typed.into_iter().all(typed_is_harmless) && findings_are_harmless(&plan.findings)
}
