//! The command line in the predecessor's README, property by property, and what Casemate makes of
//! each: the same, or something else with its reason. What Casemate adds has its reason too, and
//! nothing is unexplained on either side.
//!
//! Two oracles: the README's line is data, taken over word by word; and QEMU itself starts from
//! both command lines and says what machine it built.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use casemate_host::config::{ConfigFile, Inputs};
use casemate_host::qemu::command::{self, Form, Resources, UserNetwork};
use casemate_host::qemu::process::Credentials;
use casemate_host::qemu::schema::QemuInfo;
use casemate_host::spec::Origin;
use casemate_host::spec::facts::{AnswerFuture, FactQuestion, FactSource, FactValue};
use casemate_host::spec::request::{Accelerator, Boot, Choice, HostContext, LaunchRequest};
use casemate_host::vm::facts::HostFacts;
use casemate_host::vm::files::{self, Operators};
use casemate_host::vm::shares::{CERTIFICATES_SHARE, ENVIRONMENT_SHARE};
use casemate_integration::artifacts;
use serde_json::{Value as Json, json};

use crate::argv::bench::{Bench, PausedQemu, QMP_FD, QMP_SOCKET, host_devices};

const KVM_FD: i32 = 4;
const ID: &str = "6f9619ff-8b86-4011-b42d-00c04fc964ff";

/// As the README has it, but for the shares' folders, which it leaves to the reader.
#[rustfmt::skip]
const PREDECESSOR: &[&str] = &[
    "-enable-kvm",
    "-machine", "q35",
    "-cpu", "EPYC",
    "-smp", "4,maxcpus=64",
    "-m", "2048M,slots=5,maxmem=10240M",
    "-no-reboot",
    "-drive", "if=pflash,format=raw,unit=0,file=/usr/share/OVMF/OVMF_CODE.fd,readonly=on",
    "-drive", "if=pflash,format=raw,unit=1,file=img/OVMF_VARS.fd",
    "-netdev", "user,id=vmnic,hostfwd=tcp::7020-:7002",
    "-device", "virtio-net-pci,disable-legacy=on,iommu_platform=true,netdev=vmnic,romfile=",
    "-kernel", "img/bzImage",
    "-append", "quiet console=null",
    "-initrd", "img/rootfs.cpio.gz",
    "-nographic",
    "-monitor", "pty",
    "-fsdev", "local,id=cert_fs,path=certs,security_model=mapped",
    "-device", "virtio-9p-pci,fsdev=cert_fs,mount_tag=certs_share",
    "-fsdev", "local,id=env_fs,path=env,security_model=mapped",
    "-device", "virtio-9p-pci,fsdev=env_fs,mount_tag=env_share",
];

#[derive(Clone, Copy, Debug)]
enum Ours {
    Same,
    /// Another value, and why.
    Other(&'static str, &'static str),
    /// No argument, and what does it instead.
    Elsewhere(&'static str),
}
use Ours::{Elsewhere, Other, Same};

const BY_DESCRIPTOR: &str = "QEMU opens the very file that the backend read, by its descriptor";
const PER_VM: &str = "each VM has a folder of its own, so no VM sees another's secrets";
const SHARE_ID: &str = "the share's tag is its id, one name instead of two";
const SPELLED_OUT: &str = "`mapped` is QEMU's short form of the same model";

/// Option, property, the predecessor's value, ours. `{…}` is filled in at run time.
#[rustfmt::skip]
const ROWS: &[(&str, &str, &str, Ours)] = &[
    ("-enable-kvm", "", "", Elsewhere("`-accel kvm`, which also takes the device's descriptor")),
    ("-machine", "type", "q35", Other("{q35}", "a version, so that a guest stays the same after an upgrade of QEMU")),
    ("-cpu", "model", "EPYC", Same),
    ("-smp", "cpus", "4", Same),
    ("-smp", "maxcpus", "64", Same),
    ("-m", "size", "2048M", Same),
    ("-m", "slots", "5", Same),
    ("-m", "maxmem", "10240M", Same),
    ("-no-reboot", "", "", Same),
    ("-drive 0", "if", "pflash", Same),
    ("-drive 0", "format", "raw", Same),
    ("-drive 0", "unit", "0", Same),
    ("-drive 0", "file", "/usr/share/OVMF/OVMF_CODE.fd", Other("{code}", BY_DESCRIPTOR)),
    ("-drive 0", "readonly", "on", Same),
    ("-drive 1", "if", "pflash", Same),
    ("-drive 1", "format", "raw", Same),
    ("-drive 1", "unit", "1", Same),
    ("-drive 1", "file", "img/OVMF_VARS.fd", Other("{vars}", "a copy for each VM, which goes with it: two VMs cannot write to one store")),
    ("-netdev vmnic", "type", "user", Same),
    ("-netdev vmnic", "id", "vmnic", Same),
    ("-netdev vmnic", "hostfwd", "tcp::7020-:7002", Elsewhere("`hostfwd_add` over QMP before the guest runs: a port that is taken is tried again, and it is bound on one address, not on all")),
    ("-device net", "driver", "virtio-net-pci", Same),
    ("-device net", "disable-legacy", "on", Same),
    ("-device net", "iommu_platform", "true", Other("on", "the same boolean in QEMU's usual word")),
    ("-device net", "netdev", "vmnic", Same),
    ("-device net", "romfile", "", Same),
    ("-kernel", "", "img/bzImage", Other("{kernel}", BY_DESCRIPTOR)),
    ("-append", "", "quiet console=null", Same),
    ("-initrd", "", "img/rootfs.cpio.gz", Other("{initrd}", BY_DESCRIPTOR)),
    ("-nographic", "", "", Elsewhere("`-display none`, and the serial port goes to the console file: a daemon has no terminal")),
    ("-monitor", "", "pty", Elsewhere("QMP on a socket that only the daemon can reach")),
    ("-fsdev certs_share", "driver", "local", Same),
    ("-fsdev certs_share", "id", "cert_fs", Other("certs_share", SHARE_ID)),
    ("-fsdev certs_share", "path", "certs", Other("{certs}", PER_VM)),
    ("-fsdev certs_share", "security_model", "mapped", Other("mapped-xattr", SPELLED_OUT)),
    ("-device certs_share", "driver", "virtio-9p-pci", Same),
    ("-device certs_share", "fsdev", "cert_fs", Other("certs_share", SHARE_ID)),
    ("-device certs_share", "mount_tag", "certs_share", Same),
    ("-fsdev env_share", "driver", "local", Same),
    ("-fsdev env_share", "id", "env_fs", Other("env_share", SHARE_ID)),
    ("-fsdev env_share", "path", "env", Other("{env}", PER_VM)),
    ("-fsdev env_share", "security_model", "mapped", Other("mapped-xattr", SPELLED_OUT)),
    ("-device env_share", "driver", "virtio-9p-pci", Same),
    ("-device env_share", "fsdev", "env_fs", Other("env_share", SHARE_ID)),
    ("-device env_share", "mount_tag", "env_share", Same),
];

const NAMED: &str = "the VM's id is in every list of processes, and the guest can read it";
const NOTHING_UNASKED: &str =
    "nothing that nobody asked for: no VGA, floppy, disc drive or host file";
const MONITOR: &str = "QMP, which tells when the guest runs and when it ends";
const CONSOLE: &str = "the guest's console is kept in a file of the VM's folder";
const MEMORY: &str =
    "guest memory is an object of its own, which a confidential guest and helpers need";
const CONFINED: &str = "a guest that breaks out of QEMU finds little to do";
const READ_ONLY: &str = "the guest has no business in its own configuration";
const DEVICE_FD: &str = "QEMU needs no right on /dev/kvm of its own (8.2 and newer)";

/// What only we have: option, property, value, reason.
#[rustfmt::skip]
const EXTRAS: &[(&str, &str, &str, &str)] = &[
    ("-name", "guest", "{id}", NAMED),
    ("-uuid", "", "{id}", NAMED),
    ("-nodefaults", "", "", NOTHING_UNASKED),
    ("-no-user-config", "", "", NOTHING_UNASKED),
    ("-display", "", "none", "in place of -nographic"),
    ("-sandbox", "enable", "on", CONFINED),
    ("-sandbox", "obsolete", "deny", CONFINED),
    ("-sandbox", "elevateprivileges", "deny", CONFINED),
    ("-sandbox", "spawn", "deny", CONFINED),
    ("-sandbox", "resourcecontrol", "deny", CONFINED),
    ("-chardev casemate-qmp", "backend", "socket", MONITOR),
    ("-chardev casemate-qmp", "id", "casemate-qmp", MONITOR),
    ("-chardev casemate-qmp", "fd", "3", "the socket listens before QEMU is started, so nobody waits for it to appear"),
    ("-chardev casemate-qmp", "server", "on", MONITOR),
    ("-chardev casemate-qmp", "wait", "off", MONITOR),
    ("-mon", "chardev", "casemate-qmp", MONITOR),
    ("-mon", "mode", "control", MONITOR),
    ("-S", "", "", "the guest runs only when its port is forwarded and its guard is read back"),
    ("-accel", "accel", "kvm", "in place of -enable-kvm"),
    ("-machine", "dump-guest-core", "off", "a core dump of QEMU holds no guest memory"),
    ("-machine", "memory-backend", "ram1", MEMORY),
    ("-object ram1", "qom-type", "memory-backend-ram", MEMORY),
    ("-object ram1", "id", "ram1", MEMORY),
    ("-object ram1", "size", "2147483648", MEMORY),
    ("-device net", "addr", "0x2", "the predecessor's default config, whatever its README shows: the slot names the guest's interface"),
    ("-fsdev certs_share", "readonly", "on", READ_ONLY),
    ("-fsdev env_share", "readonly", "on", READ_ONLY),
    ("-chardev casemate-console", "backend", "file", CONSOLE),
    ("-chardev casemate-console", "id", "casemate-console", CONSOLE),
    ("-chardev casemate-console", "path", "{console}", CONSOLE),
    ("-chardev casemate-console", "append", "on", "a console that was emptied by hand goes on at its end"),
    ("-serial", "", "chardev:casemate-console", CONSOLE),
];

/// What only we have where `-accel kvm` takes its device as a descriptor.
#[rustfmt::skip]
const EXTRAS_WITH_DEVICE_FD: &[(&str, &str, &str, &str)] = &[
    ("-add-fd", "fd", "4", DEVICE_FD),
    ("-add-fd", "set", "1", DEVICE_FD),
    ("-accel", "device", "/dev/fdset/1", DEVICE_FD),
];

/// Properties by option. An option that can be there more than once has its object's name too.
type Properties = BTreeMap<(String, String), String>;

/// QEMU's option syntax read back, without anything of the code that writes it.
fn parse(arguments: &[String]) -> Properties {
    let mut options: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut words = arguments.iter();
    while let Some(option) = words.next() {
        let mut value = || {
            words
                .next()
                .unwrap_or_else(|| panic!("{option} has no value"))
                .as_str()
        };
        let properties = match option.as_str() {
            "-enable-kvm" | "-no-reboot" | "-nographic" | "-nodefaults" | "-no-user-config"
            | "-S" => {
                vec![(String::new(), String::new())]
            }
            "-kernel" | "-append" | "-initrd" | "-monitor" | "-uuid" | "-display" | "-serial" => {
                vec![(String::new(), value().to_owned())]
            }
            "-object" => json_properties(value()),
            "-machine" => keyval("type", value()),
            "-cpu" => keyval("model", value()),
            "-smp" => keyval("cpus", value()),
            "-m" => keyval("size", value()),
            "-netdev" => keyval("type", value()),
            "-device" | "-fsdev" => keyval("driver", value()),
            "-chardev" => keyval("backend", value()),
            "-accel" => keyval("accel", value()),
            "-sandbox" => keyval("enable", value()),
            "-drive" | "-name" | "-mon" | "-add-fd" => keyval("", value()),
            other => panic!("{other} is in neither table"),
        };
        options.push((option.clone(), properties));
    }
    let get = |properties: &[(String, String)], wanted: &str| {
        properties
            .iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value.clone())
    };
    // Both sides name a share by its tag only in the device.
    let tags: BTreeMap<String, String> = options
        .iter()
        .filter_map(|(_, properties)| {
            Some((get(properties, "fsdev")?, get(properties, "mount_tag")?))
        })
        .collect();
    let mut parsed = Properties::new();
    for (option, properties) in options {
        let object = match option.as_str() {
            "-drive" => get(&properties, "unit"),
            "-netdev" | "-object" | "-chardev" => get(&properties, "id"),
            "-fsdev" => get(&properties, "id").and_then(|id| tags.get(&id).cloned()),
            "-device" => get(&properties, "mount_tag").or(Some("net".to_owned())),
            _ => None,
        };
        let option = object.map_or(option.clone(), |object| format!("{option} {object}"));
        for (name, value) in properties {
            let again = parsed.insert((option.clone(), name.clone()), value);
            assert_eq!(again, None, "{option} {name} is there twice");
        }
    }
    parsed
}

fn keyval(implied: &str, text: &str) -> Vec<(String, String)> {
    // A doubled comma is a comma of the value.
    let text = text.replace(",,", "\u{0}");
    text.split(',')
        .enumerate()
        .map(|(index, part)| match part.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.replace('\u{0}', ",")),
            None if index == 0 && !implied.is_empty() => (implied.to_owned(), part.to_owned()),
            None => panic!("{part:?} is no property"),
        })
        .collect()
}

fn json_properties(text: &str) -> Vec<(String, String)> {
    let object: serde_json::Map<String, Json> = serde_json::from_str(text).expect("an object");
    let show = |value: &Json| value.as_str().map_or(value.to_string(), str::to_owned);
    object
        .iter()
        .map(|(name, value)| (name.clone(), show(value)))
        .collect()
}

fn predecessor() -> Vec<String> {
    PREDECESSOR.iter().map(|&word| word.to_owned()).collect()
}

/// The facts of this host, with a KVM that can be used: the command line is to be that of a host
/// that has it, wherever this test runs.
#[derive(Debug)]
struct WithKvm(Arc<HostFacts>);

impl FactSource for WithKvm {
    fn answer<'a>(&'a self, question: &'a FactQuestion) -> AnswerFuture<'a> {
        match question {
            FactQuestion::Device(path) if path == "/dev/kvm" => {
                Box::pin(async { Ok(FactValue::Present) })
            }
            other => self.0.answer(other),
        }
    }
}

/// Our command for the predecessor's request, and what goes with it.
struct Ready {
    folder: tempfile::TempDir,
    arguments: Vec<String>,
    descriptors: Vec<(OwnedFd, i32)>,
    resources: Resources,
    request: LaunchRequest,
    info: Arc<QemuInfo>,
}

/// As the daemon does it, with the config that the README's line stands for.
async fn ours(program: &Path, accelerator: Accelerator) -> Ready {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = toml::toml! {
        max-memory = "10G"
        firmware = "pflash"
    };
    let bench = Bench::new(program, settings).await;
    let info = bench.qemu.info().await.expect("QEMU is probed");
    let inputs = Inputs {
        file: ConfigFile::Usual("/no/such/file".into()),
        flags: vec![
            format!("vm.kernel={}", artifacts::kernel().display()),
            format!("vm.initrd={}", artifacts::initrd().display()),
        ],
        environment: Vec::new(),
    };
    let defaults = inputs.load().expect("a valid config").config.vm;
    let settings = bench
        .backend
        .settings_for(&BTreeMap::new())
        .expect("valid settings");
    let (files, settings) = files::open(Operators::all(&defaults, &[]), Vec::new(), settings);
    let built_in = |name: &str| {
        Some(Choice {
            value: name.to_owned(),
            origin: Origin::BuiltIn,
        })
    };
    let request = LaunchRequest {
        host: HostContext {
            architecture: "x86_64".to_owned(),
            accelerator,
            settings,
            files,
        },
        vcpus: defaults.vcpus,
        memory_bytes: defaults.memory,
        boot: Boot::Kernel,
        machine: built_in(&defaults.machine),
        cpu: built_in(&defaults.cpu),
        kernel_cmdline: defaults.kernel_cmdline,
        devices: host_devices(Boot::Kernel),
        data_disks: Vec::new(),
        identity: None,
    };
    let facts = Arc::new(WithKvm(bench.host_facts()));
    let plan = bench
        .plan(&request, facts)
        .await
        .expect("it can be planned")
        .plan;
    let checked = bench
        .check(&request, plan)
        .await
        .expect("the plan is allowed");

    let inside = |name: &str| folder.path().join(name);
    for share in ["env", "certs"] {
        std::fs::create_dir(inside(share)).expect("a folder");
    }
    let template = request
        .file_with_role("firmware-vars")
        .expect("Debian's OVMF");
    std::fs::copy(&template.path, inside("vars.fd")).expect("a copy");
    let passed = files::pass(&request.host.files, |_| true, Credentials::Daemon);
    let passed = passed.expect("the files can be passed");
    let text = |name: &str| inside(name).to_str().expect("UTF-8").to_owned();
    let resources = Resources {
        data_disks: BTreeMap::new(),
        files: passed.paths,
        firmware_vars: Some(text("vars.fd")),
        disk: None,
        shares: [(ENVIRONMENT_SHARE, "env"), (CERTIFICATES_SHARE, "certs")]
            .map(|(share, folder)| (share.to_owned(), text(folder)))
            .into(),
        console: text("console.log"),
        user_network: UserNetwork::Open,
    };
    let kvm_fd = (accelerator == Accelerator::Kvm && info.kvm_device).then_some(KVM_FD);
    let form = Form::Managed {
        qmp_fd: QMP_FD,
        kvm_fd,
        console_fd: None,
    };
    let arguments = command::render(ID, &request, &checked, &resources, &form);
    let arguments = arguments.expect("it can be rendered");
    Ready {
        folder,
        arguments,
        descriptors: passed.descriptors,
        resources,
        request,
        info,
    }
}

impl Ready {
    fn path_in_qemu(&self, role: &str) -> String {
        let file = self
            .request
            .file_with_role(role)
            .expect("the file is there");
        self.resources.files[&file.id].clone()
    }

    /// A value of the tables with its `{…}` filled in.
    fn fill(&self, value: &str) -> String {
        match value {
            "{q35}" => self.info.machine("q35").expect("QEMU has q35").to_owned(),
            "{code}" => self.path_in_qemu("firmware-code"),
            "{kernel}" => self.path_in_qemu("kernel"),
            "{initrd}" => self.path_in_qemu("initrd"),
            "{vars}" => self
                .resources
                .firmware_vars
                .clone()
                .expect("pflash has variables"),
            "{certs}" => self.resources.shares[CERTIFICATES_SHARE].clone(),
            "{env}" => self.resources.shares[ENVIRONMENT_SHARE].clone(),
            "{console}" => self.resources.console.clone(),
            "{id}" => ID.to_owned(),
            other => other.to_owned(),
        }
    }
}

#[tokio::test]
async fn every_property_of_the_predecessors_command_is_ours_or_has_its_reason() {
    for program in artifacts::qemus() {
        let ready = ours(&program, Accelerator::Kvm).await;
        let mut theirs = parse(&predecessor());
        let mut left = parse(&ready.arguments);
        let at = |option: &str, property: &str| (option.to_owned(), property.to_owned());
        for (option, property, value, row) in ROWS {
            let key = at(option, property);
            assert_eq!(
                theirs.remove(&key).as_deref(),
                Some(*value),
                "{option} {property}"
            );
            let (wanted, reason) = match *row {
                Same => (Some((*value).to_owned()), "the same"),
                Other(value, reason) => (Some(ready.fill(value)), reason),
                Elsewhere(reason) => (None, reason),
            };
            assert!(!reason.is_empty());
            assert_eq!(left.remove(&key), wanted, "{option} {property}: {reason}");
        }
        assert_eq!(theirs, Properties::new(), "these are in no row");

        let with_device = if ready.info.kvm_device {
            EXTRAS_WITH_DEVICE_FD
        } else {
            &[]
        };
        for (option, property, value, reason) in EXTRAS.iter().chain(with_device) {
            assert!(!reason.is_empty());
            let found = left.remove(&at(option, property));
            assert_eq!(
                found,
                Some(ready.fill(value)),
                "{option} {property}: {reason}"
            );
        }
        assert_eq!(left, Properties::new(), "these have no reason");
    }
}

/// What a QEMU says about the machine that it built.
#[derive(Debug, PartialEq)]
struct Machine {
    machine: Json,
    cpus: usize,
    cpu: Json,
    max_cpus: Json,
    memory: Json,
    cmdline: Json,
    /// Flash chips: format, whether read-only, and size.
    flash: Vec<(Json, Json, Json)>,
    /// Devices that were asked for, with the properties that the command lines set.
    devices: BTreeSet<String>,
    kernel: PathBuf,
    initrd: PathBuf,
    /// Forwards to the guest's port.
    forwards: usize,
}

/// Which properties of a device are compared.
const COMPARED: [(&str, &[&str]); 2] = [
    (
        "virtio-net-pci",
        &["disable-legacy", "iommu_platform", "romfile", "netdev"],
    ),
    ("virtio-9p-pci", &["mount_tag"]),
];

async fn examine(qemu: &mut PausedQemu) -> anyhow::Result<Machine> {
    let cpus = qemu.ask("query-cpus-fast", json!({})).await?;
    let first = cpus[0]["qom-path"].as_str().unwrap_or_default().to_owned();
    let mut flash = Vec::new();
    let block = qemu.ask("query-block", json!({})).await?;
    for chip in ["pflash0", "pflash1"] {
        let devices = block.as_array().into_iter().flatten();
        let inserted = devices
            .filter(|device| device["device"] == chip)
            .map(|device| &device["inserted"]);
        for chip in inserted {
            let virtual_size = chip["image"]["virtual-size"].clone();
            flash.push((chip["drv"].clone(), chip["ro"].clone(), virtual_size));
        }
    }
    let mut devices = BTreeSet::new();
    for parent in ["/machine/peripheral", "/machine/peripheral-anon"] {
        let children = qemu.ask("qom-list", json!({"path": parent})).await?;
        for child in children.as_array().into_iter().flatten() {
            let kind = child["type"].as_str().unwrap_or_default();
            let Some(kind) = kind
                .strip_prefix("child<")
                .and_then(|rest| rest.strip_suffix('>'))
            else {
                continue;
            };
            let path = format!("{parent}/{}", child["name"].as_str().unwrap_or_default());
            let mut line = kind.to_owned();
            for (_, properties) in COMPARED.iter().filter(|(compared, _)| *compared == kind) {
                for property in *properties {
                    let value = qemu.get(&path, property).await?;
                    line.push_str(&format!(" {property}={value}"));
                }
            }
            devices.insert(line);
        }
    }
    // A descriptor's path leads to the file behind it.
    let pid = qemu.pid();
    let file = |path: Json| {
        let path = path
            .as_str()
            .unwrap_or_default()
            .replace("/self/", &format!("/{pid}/"));
        std::fs::canonicalize(path)
    };
    let listing = qemu.human("info usernet").await?;
    let forwards = listing
        .lines()
        .filter(|line| line.contains("HOST_FORWARD") && line.contains(" 7002 "))
        .count();
    Ok(Machine {
        machine: qemu.get("/machine", "type").await?,
        cpus: cpus.as_array().map_or(0, Vec::len),
        cpu: qemu.get(&first, "type").await?,
        max_cpus: qemu.get("/machine", "smp").await?["maxcpus"].clone(),
        memory: qemu.get("/machine", "memory").await?,
        cmdline: qemu.get("/machine", "append").await?,
        flash,
        devices,
        kernel: file(qemu.get("/machine", "kernel").await?)?,
        initrd: file(qemu.get("/machine", "initrd").await?)?,
        forwards,
    })
}

/// The README's line made startable on this host: TCG, files that are there, any free port. It
/// starts paused, with a QMP of the test's own beside its monitor.
fn startable(folder: &Path) -> Vec<String> {
    let vars = folder.join("theirs.fd");
    std::fs::copy("/usr/share/OVMF/OVMF_VARS.fd", &vars).expect("a copy");
    let replace = [
        ("tcp::7020-", "tcp::0-".to_owned()),
        ("img/OVMF_VARS.fd", vars.display().to_string()),
        ("img/bzImage", artifacts::kernel().display().to_string()),
        (
            "img/rootfs.cpio.gz",
            artifacts::initrd().display().to_string(),
        ),
        (
            "path=certs",
            format!("path={}", folder.join("certs").display()),
        ),
        ("path=env", format!("path={}", folder.join("env").display())),
    ];
    let mut arguments = Vec::new();
    for word in predecessor() {
        match word.as_str() {
            "-enable-kvm" => arguments.extend(["-accel".to_owned(), "tcg".to_owned()]),
            _ => {
                let replaced = replace
                    .iter()
                    .fold(word, |word, (from, to)| word.replace(from, to));
                arguments.push(replaced);
            }
        }
    }
    for word in [
        "-S",
        "-chardev",
        QMP_SOCKET,
        "-mon",
        "chardev=test,mode=control",
    ] {
        arguments.push(word.to_owned());
    }
    arguments
}

#[tokio::test]
async fn qemu_builds_the_same_machine_from_both_commands() {
    for program in artifacts::qemus() {
        // The same command as on a host with KVM, but for the accelerator.
        let with_kvm = parse(&ours(&program, Accelerator::Kvm).await.arguments);
        let mut ready = ours(&program, Accelerator::Tcg).await;
        let changed: BTreeSet<String> = parse(&ready.arguments)
            .into_iter()
            .filter(|(key, value)| {
                let is_a_path = value.contains(&ready.folder.path().display().to_string());
                with_kvm.get(key) != Some(value) && !is_a_path
            })
            .map(|((option, property), value)| format!("{option} {property}={value}"))
            .collect();
        assert_eq!(changed, BTreeSet::from(["-accel accel=tcg".to_owned()]));

        let path = &ready.info.path;
        let theirs = startable(ready.folder.path());
        let mut qemu = PausedQemu::start(path, &theirs, Vec::new())
            .await
            .expect("it is accepted");
        let their_machine = examine(&mut qemu).await.expect("it can be examined");
        qemu.quit().await.expect("it ends");

        let descriptors = std::mem::take(&mut ready.descriptors);
        let qemu = PausedQemu::start(path, &ready.arguments, descriptors).await;
        let mut qemu = qemu.expect("it is accepted");
        // What the daemon does before it lets the guest run.
        let refusal = qemu.human("hostfwd_add vmnic tcp:127.0.0.1:0-:7002").await;
        assert_eq!(refusal.expect("the monitor answers"), "");
        let our_machine = examine(&mut qemu).await.expect("it can be examined");
        qemu.quit().await.expect("it ends");

        assert_eq!(our_machine, their_machine, "{}", program.display());
        // And it is the one that the README is about.
        assert_eq!(our_machine.cpus, 4);
        assert_eq!(our_machine.max_cpus, 64);
        assert_eq!(our_machine.memory["size"], 2_u64 << 30);
        assert_eq!(our_machine.memory["max-size"], 10_u64 << 30);
        assert_eq!(our_machine.memory["slots"], 5);
        assert_eq!(our_machine.flash.len(), 2);
        assert_eq!(our_machine.devices.len(), 3, "{:?}", our_machine.devices);
        assert_eq!(our_machine.forwards, 1);
    }
}
