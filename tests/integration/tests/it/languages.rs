//! Backends in other languages than Rust, as a vendor would build them: they load, keep the rules of
//! the contract, and their plans fit the QEMU that is installed.
//!
//! `cargo xtask languages` builds them and runs these tests; where nobody did, they say so. Facts
//! come from records, because no machine here has these technologies.

mod served;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use casemate_host::backend::settings::SettingValue;
use casemate_host::backend::{
    BackendConfig, BackendEngine, BackendErrorKind, CallError, Limits, LoadedBackend, Protection,
    Tier,
};
use casemate_host::qemu::check::{Knowledge, check};
use casemate_host::qemu::process::Credentials;
use casemate_host::qemu::schema::Qemu;
use casemate_host::regular_file;
use casemate_host::spec::facts::{FactFailure, FactQuestion, FactRecord, FactValue};
use casemate_host::spec::identity::{Identity, IdentitySource};
use casemate_host::spec::permissions::Permissions;
use casemate_host::spec::plan::{BootInputs, Firmware, LaunchPlan, Severity, Value};
use casemate_host::spec::request::{
    Accelerator, Boot, Choice, HostContext, LaunchRequest, RequestFile, Setting,
};
use casemate_host::spec::{Origin, plan};
use casemate_integration::artifacts;
use tempfile::TempDir;
use tokio::sync::OnceCell;
use xtask::languages::{C, JAVASCRIPT, PYTHON, VARIABLE};

/// Plans of which the fastest and the middle are told.
const ROUNDS: usize = 21;
/// What a daemon sends on every architecture where nobody named a machine or a CPU model.
const BUILT_IN_MACHINE: &str = "q35";
const BUILT_IN_CPU: &str = "EPYC";
/// What each example has in its place.
const OWN_CPU: &str = "host";

const ALL: BootInputs = BootInputs {
    kernel: true,
    initrd: true,
    cmdline: true,
};

/// An example, with a host that has all it asks for.
struct Example {
    name: &'static str,
    folder: &'static str,
    tier: Tier,
    tee: &'static str,
    architecture: &'static str,
    /// As QEMU calls it in general, and by its version.
    machine: [&'static str; 2],
    guard_type: &'static str,
    /// The property that carries an identity.
    carrier: Option<&'static str>,
    /// What of the request's boot files and texts is passed.
    boot: BootInputs,
    /// Whether a guest starts from a disk by firmware that a request names.
    firmware: bool,
    facts: fn() -> Vec<(FactQuestion, FactValue)>,
}

const EXAMPLES: [Example; 3] = [
    Example {
        name: JAVASCRIPT,
        folder: "javascript",
        tier: Tier::Std,
        tee: "csv",
        architecture: "x86_64",
        machine: ["q35", "pc-q35-7.2"],
        guard_type: "sev-guest",
        carrier: None,
        boot: ALL,
        firmware: true,
        facts: hygon,
    },
    Example {
        name: PYTHON,
        folder: "python",
        tier: Tier::Std,
        tee: "cca",
        architecture: "aarch64",
        machine: ["virt", "virt-10.0"],
        guard_type: "rme-guest",
        carrier: Some("personalization-value"),
        boot: ALL,
        firmware: true,
        facts: arm,
    },
    Example {
        name: C,
        folder: "c",
        tier: Tier::Strict,
        tee: "se",
        architecture: "s390x",
        machine: ["s390-ccw-virtio", "s390-ccw-virtio-7.2"],
        guard_type: "s390-pv-guest",
        carrier: None,
        boot: BootInputs {
            initrd: false,
            cmdline: false,
            ..ALL
        },
        firmware: false,
        facts: ibm,
    },
];

fn present(path: &str) -> (FactQuestion, FactValue) {
    (FactQuestion::Device(path.to_owned()), FactValue::Present)
}

fn type_of_qemu(name: &str, properties: &[&str]) -> (FactQuestion, FactValue) {
    let names = properties.iter().map(|name| (*name).to_owned()).collect();
    (
        FactQuestion::QemuType(name.to_owned()),
        FactValue::Names(names),
    )
}

fn hygon() -> Vec<(FactQuestion, FactValue)> {
    let text = |path: &str| {
        let question = FactQuestion::ReadText(path.to_owned());
        (question, FactValue::Text("Y\n".to_owned()))
    };
    let register = |letters: &[u8; 4]| u32::from_le_bytes(*letters);
    vec![
        present("/dev/kvm"),
        present("/dev/sev"),
        (
            FactQuestion::Cpuid {
                leaf: 0,
                subleaf: 0,
            },
            FactValue::Cpuid {
                eax: 0xd,
                ebx: register(b"Hygo"),
                ecx: register(b"uine"),
                edx: register(b"nGen"),
            },
        ),
        text("/sys/module/kvm_amd/parameters/sev"),
        text("/sys/module/kvm_amd/parameters/sev_es"),
        type_of_qemu("sev-guest", &["policy", "kernel-hashes"]),
    ]
}

fn arm() -> Vec<(FactQuestion, FactValue)> {
    vec![
        present("/dev/kvm"),
        type_of_qemu(
            "rme-guest",
            &["measurement-algorithm", "personalization-value"],
        ),
    ]
}

fn ibm() -> Vec<(FactQuestion, FactValue)> {
    let ultravisor = "/sys/firmware/uv/prot_virt_host".to_owned();
    vec![
        present("/dev/kvm"),
        (
            FactQuestion::ReadText(ultravisor),
            FactValue::Text("1\n".to_owned()),
        ),
        (FactQuestion::KvmCapability(180), FactValue::Signed(1)),
        type_of_qemu("s390-pv-guest", &[]),
    ]
}

/// An example that is built and loaded, and a folder for files of requests.
struct Loaded {
    example: &'static Example,
    backend: LoadedBackend,
    files: TempDir,
}

async fn loaded(example: &'static Example) -> Option<&'static Loaded> {
    static ONCE: [OnceCell<Option<Loaded>>; EXAMPLES.len()] =
        [const { OnceCell::const_new() }; EXAMPLES.len()];
    let index = EXAMPLES.iter().position(|one| one.name == example.name);
    let once = &ONCE[index.expect("it is one of them")];
    once.get_or_init(|| load(example)).await.as_ref()
}

async fn load(example: &'static Example) -> Option<Loaded> {
    let component = artifacts::example(example.name);
    let required = std::env::var_os(VARIABLE).is_some();
    assert!(component.is_some() || !required, "{}", example.name);
    let component = component?;
    let config = artifacts::example_backend(example.folder, &component);
    let config: BackendConfig = config.try_into().expect("it is of the config's form");
    let engine = BackendEngine::new(Limits::default()).expect("an engine");
    let started = Instant::now();
    let backend = LoadedBackend::load(&engine, &config, &[]).await;
    let backend = backend.unwrap_or_else(|error| {
        panic!(
            "{}: {}",
            example.name,
            casemate_host::backend::catalog::chain(&error)
        )
    });
    let size = std::fs::metadata(&component).expect("it is there").len();
    println!(
        "{}: {} KiB, loaded in {:.1} s",
        example.name,
        size >> 10,
        started.elapsed().as_secs_f64()
    );
    Some(Loaded {
        example,
        backend,
        files: tempfile::tempdir().expect("a folder"),
    })
}

impl Loaded {
    fn facts(&self) -> FactRecord {
        let mut record = FactRecord::default();
        let [alias, versioned] = self.example.machine;
        let machine = [alias, versioned].map(|name| {
            let question = FactQuestion::QemuMachine(name.to_owned());
            (question, FactValue::Text(versioned.to_owned()))
        });
        for (question, answer) in (self.example.facts)().into_iter().chain(machine) {
            assert!(record.insert(question, Ok(answer)), "there is room");
        }
        record
    }

    /// A file of a request; the id is its place in the list.
    fn file(&self, id: u32, role: &str, content: &[u8]) -> RequestFile {
        let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(content));
        let path = self.files.path().join(digest);
        // Tests share the folder, and one may be reading it.
        let written = tempfile::NamedTempFile::new_in(self.files.path()).expect("a file");
        std::fs::write(written.path(), content).expect("it can be written");
        written.persist(&path).expect("it can be renamed");
        opened(id, role, &path)
    }

    fn request(&self) -> LaunchRequest {
        let settings = self.backend.settings_for(&Default::default());
        let settings = settings.expect("the defaults are valid").into_iter();
        let settings = settings.map(|(input, origin)| Setting {
            key: input.key,
            value: match input.value {
                SettingValue::Plain(value) => value,
                SettingValue::File(path) => panic!("{}", path.display()),
            },
            origin,
        });
        LaunchRequest {
            host: HostContext {
                architecture: self.example.architecture.to_owned(),
                accelerator: Accelerator::Kvm,
                settings: settings.collect(),
                files: vec![
                    self.file(1, "kernel", b"a kernel"),
                    self.file(2, "initrd", b"an initrd"),
                    self.file(3, "firmware", &firmware(0x0080_0000, 1024)),
                ],
            },
            vcpus: 2,
            memory_bytes: 1 << 30,
            boot: Boot::Kernel,
            machine: built_in(BUILT_IN_MACHINE),
            cpu: built_in(BUILT_IN_CPU),
            kernel_cmdline: "console=ttyS0".to_owned(),
            devices: Vec::new(),
            data_disks: Vec::new(),
            identity: None,
        }
    }

    async fn plan(
        &self,
        request: &LaunchRequest,
        facts: FactRecord,
    ) -> Result<LaunchPlan, CallError> {
        let outcome = self.backend.plan(request, Arc::new(facts)).await;
        outcome.map(|outcome| outcome.plan)
    }

    /// The backend's own answer: a fault is none.
    async fn refusal(
        &self,
        request: &LaunchRequest,
        facts: FactRecord,
    ) -> (BackendErrorKind, String) {
        match self.plan(request, facts).await {
            Err(CallError::Backend(error)) => {
                assert!(
                    !error.message.is_empty() && !error.remedy.is_empty(),
                    "{error:?}"
                );
                assert!(!error.message.ends_with('.'), "{error:?}");
                (error.kind, error.subject)
            }
            Err(fault) => panic!("{}: {fault}", self.example.name),
            Ok(plan) => panic!("{}: {plan:?}", self.example.name),
        }
    }
}

fn built_in(value: &str) -> Option<Choice> {
    Some(Choice {
        value: value.to_owned(),
        origin: Origin::BuiltIn,
    })
}

fn opened(id: u32, role: &str, path: &Path) -> RequestFile {
    let handle = regular_file::open(path).expect("it is there");
    RequestFile {
        id,
        role: role.to_owned(),
        size: handle.metadata().expect("it is open").len(),
        path: path.to_owned(),
        origin: Origin::Operator,
        handle: Ok(Arc::new(handle)),
    }
}

/// The end of an OVMF image with an entry for the hashes of a kernel: address and size, the entry's
/// length, its GUID.
fn firmware(address: u32, size: u32) -> Vec<u8> {
    let mut image = vec![0xff; 64 << 10];
    let mut entry = Vec::new();
    entry.extend(address.to_le_bytes());
    entry.extend(size.to_le_bytes());
    entry.extend(26_u16.to_le_bytes());
    entry.extend([
        0x1f, 0x37, 0x55, 0x72, 0x3b, 0x3a, 0x04, 0x4b, 0x92, 0x7b, 0x1d, 0xa6, 0xef, 0xa8, 0xd4,
        0x54,
    ]);
    let start = image.len() - 100;
    image[start..start + entry.len()].copy_from_slice(&entry);
    image
}

fn value<'a>(plan: &'a LaunchPlan, path: &str) -> Option<&'a Value> {
    let guard = plan.objects.first().expect("the guard");
    let mut properties = guard.properties.iter();
    let found = properties.find(|property| property.path == path);
    found.map(|property| &property.value)
}

#[tokio::test]
async fn they_load_describe_themselves_and_announce_what_their_config_grants() {
    for example in &EXAMPLES {
        let Some(loaded) = loaded(example).await else {
            continue;
        };
        let backend = &loaded.backend;
        assert_eq!(backend.tier(), example.tier);
        assert_eq!(
            backend.info().carries_identity,
            example.carrier.is_some(),
            "{}",
            example.name
        );
        assert_eq!(backend.info().tee, example.tee);
        assert_eq!(backend.info().protection, Protection::Guard);
        assert_eq!(backend.info().architectures, [example.architecture]);
        let granted = Permissions::clone(backend.permissions());
        let announced = Permissions {
            host_paths: granted.host_paths.clone(),
            ..backend.info().announced.clone()
        };
        assert_eq!(granted, announced, "{}", example.name);
    }
}

#[tokio::test]
async fn they_plan_the_same_each_time() {
    for example in &EXAMPLES {
        let Some(loaded) = loaded(example).await else {
            continue;
        };
        let request = loaded.request();
        let mut plans = Vec::new();
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let started = Instant::now();
            let plan = loaded.plan(&request, loaded.facts()).await;
            times.push(started.elapsed());
            plans.push(plan.unwrap_or_else(|error| panic!("{}: {error}", example.name)));
        }
        times.sort();
        println!(
            "{}: a plan takes {:.1} ms, at best {:.1} ms",
            example.name,
            times[ROUNDS / 2].as_secs_f64() * 1e3,
            times[0].as_secs_f64() * 1e3
        );
        assert!(plans.iter().all(|plan| *plan == plans[0]));
        let plan = &plans[0];
        assert_eq!(plan.machine.kind, example.machine[1]);
        assert_eq!(plan.cpu.kind, OWN_CPU);
        // What was replaced is told, and nothing else.
        let told = |subject: &str| plan.findings.iter().any(|one| one.subject == subject);
        assert_eq!(told("machine"), example.machine[0] != BUILT_IN_MACHINE);
        assert!(told("cpu"), "{:?}", plan.findings);
        let guard = plan.objects.first().expect("the guard");
        assert_eq!(guard.kind, example.guard_type);
        assert_eq!(guard.id, plan.guard);
        assert_eq!(plan.boot, example.boot);
    }
}

/// Every fact, missing in every way: what stands in the way is told, and nothing traps.
#[tokio::test]
async fn a_host_that_lacks_something_is_told_so() {
    for example in &EXAMPLES {
        let Some(loaded) = loaded(example).await else {
            continue;
        };
        let request = loaded.request();
        let facts = (example.facts)();
        for missing in 0..facts.len() {
            for failure in [
                FactFailure::Absent,
                FactFailure::Denied,
                FactFailure::Failed("a\u{1b}[31m \"reason\"\nof 𝄞 signs".to_owned()),
            ] {
                let mut record = FactRecord::default();
                for (index, (question, answer)) in facts.iter().enumerate() {
                    let answer = match index == missing {
                        true => Err(failure.clone()),
                        false => Ok(answer.clone()),
                    };
                    record.insert(question.clone(), answer);
                }
                let [alias, versioned] = example.machine;
                let machine = FactQuestion::QemuMachine(alias.to_owned());
                record.insert(machine, Ok(FactValue::Text(versioned.to_owned())));
                let (question, _) = &facts[missing];
                let found = loaded
                    .backend
                    .check(&request.host, Arc::new(record.clone()))
                    .await;
                let found = found.unwrap_or_else(|fault| panic!("{question}: {fault}"));
                let mut severities = found.iter().map(|finding| finding.severity);
                let fails = severities.any(|severity| severity == Severity::Fail);
                let said = format!("{}: {question} {failure:?}: {found:#?}", example.name);
                match loaded.plan(&request, record).await {
                    // One that may not look leaves it to QEMU, and says so.
                    Ok(plan) => {
                        let remarks = &plan.findings;
                        let warned = remarks
                            .iter()
                            .any(|finding| finding.severity == Severity::Warn);
                        // What the other generation needs is not asked of the host.
                        let unused = *question
                            == FactQuestion::ReadText(
                                "/sys/module/kvm_amd/parameters/sev".to_owned(),
                            );
                        assert!(warned || unused, "{said}");
                        assert!(!fails, "{said}");
                    }
                    Err(CallError::Backend(error)) => assert!(fails, "{error}: {said}"),
                    Err(fault) => panic!("{said}: {fault}"),
                }
            }
        }
    }
}

/// What is asked for is in the plan, or the answer says why not: never a fault, whatever it is.
#[tokio::test]
async fn what_cannot_be_is_refused_by_its_name() {
    use BackendErrorKind::{InvalidRequest, UnsuitableFile, UnsupportedHost};
    type Change = fn(&mut LaunchRequest);
    let choice = |value: &str| {
        Some(Choice {
            value: value.to_owned(),
            origin: Origin::Request,
        })
    };
    let cases: [(&str, Change, BackendErrorKind); 6] = [
        (
            "architecture",
            |request| request.host.architecture = "riscv64".to_owned(),
            UnsupportedHost,
        ),
        (
            "accelerator",
            |request| request.host.accelerator = Accelerator::Tcg,
            UnsupportedHost,
        ),
        (
            "kernel",
            |request| request.host.files.retain(|file| file.role != "kernel"),
            UnsupportedHost,
        ),
        (
            "kernel",
            |request| request.host.files[0].size = 0,
            UnsuitableFile,
        ),
        ("disk", |request| request.boot = Boot::Disk, UnsupportedHost),
        (
            "firmware",
            |request| {
                request.host.files.retain(|file| file.role != "firmware");
                request.boot = Boot::Disk;
                request.host.files[0].role = "disk".to_owned();
            },
            InvalidRequest,
        ),
    ];
    for example in &EXAMPLES {
        let Some(loaded) = loaded(example).await else {
            continue;
        };
        for (subject, change, kind) in cases {
            if subject == "firmware" && !example.firmware {
                continue;
            }
            let mut request = loaded.request();
            change(&mut request);
            let refusal = loaded.refusal(&request, loaded.facts()).await;
            assert_eq!(refusal, (kind, subject.to_owned()), "{}", example.name);
        }
        for name in [
            "",
            "q35,kernel=/etc/shadow",
            "max,+avx",
            "-x",
            "\u{202e}machine 𝄞",
        ] {
            let mut request = loaded.request();
            request.cpu = choice(name);
            let refusal = loaded.refusal(&request, loaded.facts()).await;
            assert_eq!(refusal, (InvalidRequest, "cpu".to_owned()), "{name:?}");
            let mut request = loaded.request();
            request.machine = choice(name);
            let mut facts = loaded.facts();
            let question = FactQuestion::QemuMachine(name.to_owned());
            facts.insert(question, Err(FactFailure::Absent));
            let refusal = loaded.refusal(&request, facts).await;
            assert_eq!(refusal, (InvalidRequest, "machine".to_owned()), "{name:?}");
        }
        // Numbers that a language may have no exact number for.
        let mut request = loaded.request();
        (request.vcpus, request.memory_bytes) = (u32::MAX, (u64::MAX >> 20) << 20);
        let plan = loaded.plan(&request, loaded.facts()).await;
        plan.unwrap_or_else(|error| panic!("{}: {error}", example.name));
    }
}

#[tokio::test]
async fn an_identity_is_carried_whole_or_refused() {
    for example in &EXAMPLES {
        let Some(loaded) = loaded(example).await else {
            continue;
        };
        for length in [1, 32, 48, 64] {
            let digest: Vec<u8> = (1..=length).collect();
            let mut request = loaded.request();
            request.identity = Some(Identity {
                algorithm: "raw".to_owned(),
                digest: digest.clone(),
                source: IdentitySource::Request,
            });
            let Some(carrier) = example.carrier else {
                let refusal = loaded.refusal(&request, loaded.facts()).await;
                let wanted = (BackendErrorKind::InvalidRequest, "identity".to_owned());
                assert_eq!(refusal, wanted);
                continue;
            };
            let plan = loaded.plan(&request, loaded.facts()).await;
            let plan = plan.unwrap_or_else(|error| panic!("{}: {error}", example.name));
            let mut padded = digest;
            padded.resize(64, 0);
            assert_eq!(plan.identity_carrier.as_deref(), Some(carrier));
            let carried = value(&plan, carrier);
            assert_eq!(carried, Some(&Value::Bytes(padded)));
        }
    }
}

/// With the object of the QEMU that is installed.
#[tokio::test]
async fn a_plan_for_csv_is_what_qemu_takes() {
    let Some(loaded) = loaded(&EXAMPLES[0]).await else {
        return;
    };
    let mut request = loaded.request();
    let plan = loaded.plan(&request, loaded.facts()).await;
    let plan = plan.expect("it plans");
    for (path, wanted) in [
        ("cbitpos", Value::Unsigned(47)),
        ("reduced-phys-bits", Value::Unsigned(1)),
        // Encrypted registers, and nobody may debug.
        ("policy", Value::Unsigned(5)),
        ("sev-device", Value::HostPath("/dev/sev".to_owned())),
        ("kernel-hashes", Value::Boolean(true)),
    ] {
        assert_eq!(value(&plan, path), Some(&wanted), "{path}");
    }
    assert_eq!(plan.firmware, Firmware::Bios(3));
    let leases: Vec<_> = plan
        .leases
        .iter()
        .map(|lease| (&*lease.name, lease.amount))
        .collect();
    assert_eq!(leases, [("sev_es", 1)]);
    let qemu = artifacts::qemus().remove(0);
    let qemu = Qemu::new(qemu, Credentials::Daemon);
    let knowledge = Knowledge::gather(&qemu, &plan, &request).await;
    let checked = check(
        plan,
        &request,
        loaded.backend.permissions(),
        &loaded.backend.info().first_versions,
        knowledge.expect("QEMU answers"),
    );
    checked.expect("the plan keeps the host's rules");
    // QEMU would say so too, in its own words and after a start.
    let cbit = |setting: &&mut Setting| setting.key == "cbitpos";
    let mut wrong = request.clone();
    let setting = wrong.host.settings.iter_mut().find(cbit);
    setting.expect("it has a default").value = plan::Value::Unsigned(u64::MAX);
    let refusal = loaded.refusal(&wrong, loaded.facts()).await;
    let wanted = (BackendErrorKind::InvalidRequest, "cbitpos".to_owned());
    assert_eq!(refusal, wanted);
    // The first generation has another policy and another counter.
    for setting in &mut request.host.settings {
        if setting.key == "generation" {
            setting.value = plan::Value::Text("csv".to_owned());
        }
    }
    let plan = loaded.plan(&request, loaded.facts()).await;
    let plan = plan.expect("it plans");
    assert_eq!(value(&plan, "policy"), Some(&Value::Unsigned(1)));
    assert_eq!(plan.leases[0].name, "sev");
}

/// A daemon's own firmware is an image for PCs.
#[tokio::test]
async fn a_realm_takes_no_firmware_that_nobody_named() {
    let Some(loaded) = loaded(&EXAMPLES[1]).await else {
        return;
    };
    let mut request = loaded.request();
    for origin in [Origin::Operator, Origin::Request] {
        request.host.files[2].origin = origin;
        let plan = loaded.plan(&request, loaded.facts()).await;
        assert_eq!(plan.expect("it plans").firmware, Firmware::Bios(3));
    }
    request.host.files[2].origin = Origin::BuiltIn;
    let plan = loaded.plan(&request, loaded.facts()).await;
    let plan = plan.expect("it starts with its kernel");
    assert_eq!(plan.firmware, Firmware::None);
    let mut subjects = plan.findings.iter().map(|finding| &*finding.subject);
    assert!(subjects.any(|subject| subject == "firmware"), "{plan:?}");
    request.boot = Boot::Disk;
    request.host.files[0].role = "disk".to_owned();
    let refusal = loaded.refusal(&request, loaded.facts()).await;
    let wanted = (BackendErrorKind::InvalidRequest, "firmware".to_owned());
    assert_eq!(refusal, wanted);
}

/// The image is read by the component: it holds what QEMU would refuse, and what would start a
/// kernel that nobody checks.
#[tokio::test]
async fn a_kernel_is_started_by_firmware_that_checks_it() {
    let Some(loaded) = loaded(&EXAMPLES[0]).await else {
        return;
    };
    for image in [
        Vec::new(),
        vec![0; 100],
        vec![0xff; 64 << 10],
        firmware(0, 0),
        firmware(0x0080_0000, 175),
    ] {
        let mut request = loaded.request();
        request.host.files[2] = loaded.file(3, "firmware", &image);
        let refusal = loaded.refusal(&request, loaded.facts()).await;
        let wanted = (BackendErrorKind::UnsuitableFile, "firmware".to_owned());
        assert_eq!(refusal, wanted, "{} bytes", image.len());
    }
    let mut request = loaded.request();
    request.host.files[2] = opened(3, "firmware", &artifacts::ovmf());
    let (kind, _) = loaded.refusal(&request, loaded.facts()).await;
    assert_eq!(kind, BackendErrorKind::UnsuitableFile);
    if let Some(path) = artifacts::confidential_firmware("OVMF.amdsev.fd") {
        request.host.files[2] = opened(3, "firmware", &path);
        let plan = loaded.plan(&request, loaded.facts()).await;
        plan.expect("it checks kernels");
    }
}
