//! The table of plans, and the files of each: real ones, under names that try every rule of quoting.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use casemate_host::qemu::command::{DiskResources, ImageSource, Resources};
use casemate_host::qemu::process::{Credentials, Exit, run_tool};
use casemate_host::spec::Origin;
use casemate_host::spec::files::{DataDisk, DiskFormat, FileAuthority, FileName};
use casemate_host::spec::plan::Value;
use casemate_host::spec::request::{
    Accelerator, Boot, Choice, DataDiskFile, HostContext, HostDevice, LaunchRequest, RequestFile,
};
use casemate_host::vm::shares::{CERTIFICATES_SHARE, ENVIRONMENT_SHARE};
use casemate_integration::artifacts;
use tempfile::TempDir;

use super::bench::{Bench, host_devices};

/// Three rounds of the names, which is the longest list.
pub(super) const CASES: usize = 3 * ODD_NAMES.len();
/// Deadline of a tool that writes a small image.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Parts of folder and file names. Each has a meaning to some option, shell or file protocol.
const ODD_NAMES: [&str; 24] = [
    "plain",
    "a,b",
    "a,,b",
    ",first",
    "last,",
    "with blank",
    " at both ends ",
    "dou\"ble",
    "sin'gle",
    "k=v,readonly=off,file=x",
    "back\\slash\\",
    "ü 日本 🦀",
    "-dash",
    "100%n%s",
    "semi;colon & pipe |",
    "$HOME `id` $(id)",
    "co:lon",
    "json:{\"driver\":\"file\"}",
    "*?[a-z]~#!",
    "nbd:localhost:10809",
    "fat:rw:x",
    "(paren) <angle> {a,b}",
    "if=pflash,unit=0",
    "@file:1@",
];

/// None: the built-in one. The versions are in QEMU 7.2 and in 10.0.
const MACHINES: [Option<&str>; 6] = [
    None,
    Some("q35"),
    Some("pc"),
    Some("pc-q35-7.2"),
    Some("pc-i440fx-7.1"),
    Some("pc-q35-6.0"),
];

/// Each is in QEMU 7.2 and in 10.0.
const CPUS: [Option<&str>; 7] = [
    None,
    Some("EPYC"),
    Some("max"),
    Some("qemu64"),
    Some("Skylake-Server"),
    Some("EPYC-v3"),
    Some("Broadwell-noTSX"),
];

/// Count, and `maxcpus` where somebody sets it.
const VCPUS: [(u32, Option<u32>); 5] = [
    (1, None),
    (2, Some(2)),
    (4, Some(8)),
    (8, Some(240)),
    (3, Some(7)),
];

/// `maxcpus` where nobody sets it.
const DEFAULT_MAX_CPUS: u32 = 64;

const MEMORY: [u64; 7] = [
    64 * MIB,
    128 * MIB,
    256 * MIB,
    GIB,
    2 * GIB,
    3 * GIB + 513 * MIB,
    4 * GIB,
];

const DATA_DISKS: [&[DiskFormat]; 3] = [
    &[],
    &[DiskFormat::Raw],
    &[DiskFormat::Qcow2, DiskFormat::Raw],
];

/// What a request says about growth.
#[derive(Clone, Copy, Debug)]
enum Growth {
    /// Five slots and 30 GiB.
    Default,
    To {
        slots: u64,
        most: u64,
    },
    By {
        slots: u64,
        more: u64,
    },
    NoSlots,
    /// No room to grow, which QEMU would refuse together with slots.
    NoRoom,
}

const GROWTHS: [Growth; 6] = [
    Growth::Default,
    Growth::To {
        slots: 5,
        most: 10 * GIB,
    },
    Growth::By {
        slots: 1,
        more: MIB,
    },
    Growth::NoSlots,
    Growth::NoRoom,
    Growth::To {
        slots: 256,
        most: 31 * GIB,
    },
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemoryBackend {
    Ram,
    Memfd,
    None,
}

const MEMORY_BACKENDS: [MemoryBackend; 3] = [
    MemoryBackend::Ram,
    MemoryBackend::Memfd,
    MemoryBackend::None,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Firmware {
    /// QEMU's own BIOS.
    None,
    Bios,
    CodeAndVars,
    CodeAlone,
    /// Code in the second chip, variables in the first.
    Swapped,
    WritableCode,
    Qcow2Vars,
}

const FIRMWARES: [Firmware; 7] = [
    Firmware::None,
    Firmware::Bios,
    Firmware::CodeAndVars,
    Firmware::CodeAlone,
    Firmware::Swapped,
    Firmware::WritableCode,
    Firmware::Qcow2Vars,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inputs {
    Kernel,
    KernelAndInitrd,
    Disk,
}

const INPUTS: [Inputs; 4] = [
    Inputs::KernelAndInitrd,
    Inputs::Kernel,
    Inputs::KernelAndInitrd,
    Inputs::Disk,
];

/// Byte for byte what the guest gets. An empty one is none.
fn cmdlines() -> [String; 9] {
    [
        "quiet console=null".to_owned(),
        String::new(),
        "root=/dev/vda1,/dev/vdb a=1,,2 b=\"c d\" e=='f'".to_owned(),
        "  blanks at both ends   ".to_owned(),
        "-initrd /etc/passwd -S".to_owned(),
        "x".repeat(1_000),
        "ü 日本 100% \\ $HOME `id`; #".to_owned(),
        "agent.aa_kbc_params=cc_kbc::http://127.0.0.1:8080,file=x".to_owned(),
        " ".to_owned(),
    ]
}

/// One request, by what is particular to it.
#[derive(Clone, Debug)]
pub(super) struct Case {
    name: &'static str,
    pub(super) machine: Option<&'static str>,
    pub(super) cpu: Option<&'static str>,
    pub(super) vcpus: u32,
    max_cpus: Option<u32>,
    pub(super) memory: u64,
    growth: Growth,
    pub(super) memory_backend: MemoryBackend,
    pub(super) firmware: Firmware,
    inputs: Inputs,
    pub(super) boot: Boot,
    pub(super) cmdline: String,
    data_disks: &'static [DiskFormat],
}

/// Every value of every list, in combinations that differ from round to round.
pub(super) fn all() -> Vec<Case> {
    (0..CASES)
        .map(|index| {
            // A list is shifted by one at each turn, so that two lists of one length do not run
            // side by side: `turn` is another number for each list.
            let pick = |length: usize, turn: usize| (index + index / turn) % length;
            let (vcpus, max_cpus) = VCPUS[pick(VCPUS.len(), 11)];
            let inputs = INPUTS[pick(INPUTS.len(), 8)];
            let cmdlines = cmdlines();
            Case {
                name: ODD_NAMES[index % ODD_NAMES.len()],
                machine: MACHINES[pick(MACHINES.len(), 6)],
                cpu: CPUS[pick(CPUS.len(), 13)],
                vcpus,
                max_cpus,
                memory: MEMORY[pick(MEMORY.len(), 10)],
                growth: GROWTHS[pick(GROWTHS.len(), 7)],
                memory_backend: MEMORY_BACKENDS[pick(MEMORY_BACKENDS.len(), 9)],
                firmware: FIRMWARES[pick(FIRMWARES.len(), 5)],
                inputs,
                boot: if inputs == Inputs::Disk {
                    Boot::Disk
                } else {
                    Boot::Kernel
                },
                cmdline: cmdlines[pick(cmdlines.len(), 12)].clone(),
                data_disks: DATA_DISKS[pick(DATA_DISKS.len(), 4)],
            }
        })
        .collect()
}

/// A flash chip as QEMU should have it.
#[derive(Debug)]
pub(super) struct Flash {
    pub(super) device: &'static str,
    pub(super) path: String,
    pub(super) is_read_only: bool,
    pub(super) format: &'static str,
}

impl Case {
    /// Slots and most memory, where memory can grow.
    pub(super) fn growth(&self) -> Option<(u64, u64)> {
        match self.growth {
            Growth::Default => Some((5, 30 * GIB)),
            Growth::To { slots, most } => Some((slots, most)),
            Growth::By { slots, more } => Some((slots, self.memory + more)),
            Growth::NoSlots | Growth::NoRoom => None,
        }
    }

    pub(super) fn expected_max_cpus(&self) -> u32 {
        self.max_cpus.unwrap_or(DEFAULT_MAX_CPUS)
    }

    pub(super) fn memory_type(&self) -> &'static str {
        match self.memory_backend {
            MemoryBackend::Memfd => "memory-backend-memfd",
            MemoryBackend::Ram | MemoryBackend::None => "memory-backend-ram",
        }
    }

    /// Chips by firmware: code with its unit, variables with theirs.
    pub(super) fn expected_flash(&self, prepared: &Prepared) -> Vec<Flash> {
        let code = |device, is_read_only| {
            let file = prepared
                .request
                .file_with_role("firmware-code")
                .expect("pflash has code");
            Flash {
                device,
                path: text(&file.path),
                is_read_only,
                format: "raw",
            }
        };
        let vars = |device, format| {
            let path = prepared
                .resources
                .firmware_vars
                .clone()
                .expect("the variables are copied");
            Flash {
                device,
                path,
                is_read_only: false,
                format,
            }
        };
        match self.firmware {
            Firmware::None | Firmware::Bios => Vec::new(),
            Firmware::CodeAlone => vec![code("pflash0", true)],
            Firmware::CodeAndVars => vec![code("pflash0", true), vars("pflash1", "raw")],
            Firmware::Swapped => vec![code("pflash1", true), vars("pflash0", "raw")],
            Firmware::WritableCode => vec![code("pflash0", false), vars("pflash1", "raw")],
            Firmware::Qcow2Vars => vec![code("pflash0", true), vars("pflash1", "qcow2")],
        }
    }

    /// What a caller may set.
    fn request_settings(&self) -> BTreeMap<String, String> {
        let mut settings = BTreeMap::new();
        let mut set = |key: &str, value: String| settings.insert(key.to_owned(), value);
        match self.growth {
            Growth::Default => {}
            Growth::To { slots, most } => {
                set("memory-slots", slots.to_string());
                set("max-memory", most.to_string());
            }
            Growth::By { slots, more } => {
                set("memory-slots", slots.to_string());
                set("max-memory", (self.memory + more).to_string());
            }
            Growth::NoSlots => {
                set("memory-slots", "0".to_owned());
            }
            Growth::NoRoom => {
                set("max-memory", self.memory.to_string());
            }
        }
        if let Some(most) = self.max_cpus {
            set("maxcpus", most.to_string());
        }
        if self.firmware == Firmware::None {
            set("firmware", "none".to_owned());
        }
        settings
    }

    /// What the operator alone may set.
    fn operator_settings(&self) -> Vec<(&'static str, Value)> {
        let text = |text: &str| Value::Text(text.to_owned());
        let mut settings = match self.memory_backend {
            MemoryBackend::Ram => Vec::new(),
            MemoryBackend::Memfd => vec![("memory-backend", text("memfd"))],
            MemoryBackend::None => vec![("memory-backend", text("none"))],
        };
        match self.firmware {
            Firmware::Swapped => settings.extend([
                ("pflash-code-unit", Value::Unsigned(1)),
                ("pflash-vars-unit", Value::Unsigned(0)),
            ]),
            Firmware::WritableCode => {
                settings.push(("pflash-code-readonly", Value::Boolean(false)));
            }
            Firmware::Qcow2Vars => settings.push(("pflash-vars-format", text("qcow2"))),
            _ => {}
        }
        settings
    }

    /// Lays the files out and makes the request.
    pub(super) async fn prepare(&self, guest: &Guest, bench: &Bench) -> anyhow::Result<Prepared> {
        let folder = tempfile::tempdir_in(&guest.folder)?;
        let images = folder.path().join(self.name);
        let state = folder.path().join(format!("state {}", self.name));
        std::fs::create_dir(&images)?;
        std::fs::create_dir(&state)?;
        let mut files = Vec::new();
        let mut add = |role: &str, path: PathBuf| -> anyhow::Result<PathBuf> {
            let handle = File::open(&path)?;
            files.push(RequestFile {
                id: u32::try_from(files.len())? + 1,
                role: role.to_owned(),
                size: handle.metadata()?.len(),
                origin: Origin::Operator,
                handle: Ok(Arc::new(handle)),
                path: path.clone(),
            });
            Ok(path)
        };
        let place = |role: &str| images.join(format!("{role}{}", self.name));
        let link = |from: &Path, to: PathBuf| std::fs::hard_link(from, &to).map(|()| to);
        let mut resources = Resources {
            console: text(&state.join(format!("console{}", self.name))),
            ..Resources::default()
        };
        for share in [ENVIRONMENT_SHARE, CERTIFICATES_SHARE] {
            let path = state.join(format!("{share}{}", self.name));
            std::fs::create_dir(&path)?;
            resources.shares.insert(share.to_owned(), text(&path));
        }

        if self.inputs != Inputs::Disk {
            add("kernel", link(&guest.kernel, place("kernel"))?)?;
        }
        if self.inputs == Inputs::KernelAndInitrd {
            add("initrd", link(&guest.initrd, place("initrd"))?)?;
        }
        if self.inputs == Inputs::Disk {
            let disk = add("disk", qemu_img_create(&place("disk"), &[], "64M").await?)?;
            let overlay = state.join(format!("overlay{}", self.name));
            let backing = ["-F", "qcow2", "-b", &text(&disk)];
            resources.disk = Some(DiskResources {
                overlay: text(&qemu_img_create(&overlay, &backing, "64M").await?),
                controller_id: "scsi0".to_owned(),
                backing: None,
            });
        }
        let mut devices = host_devices(self.boot);
        let mut data_disks = Vec::new();
        for (index, format) in self.data_disks.iter().enumerate() {
            let path = place(&format!("data{index}"));
            let size = ["-f", format.as_str()];
            qemu_img(
                &[&["create", "-q"], &size[..], &["--"]].concat(),
                &[&path, Path::new("1M")],
            )
            .await?;
            let one = DataDiskFile {
                disk: DataDisk {
                    id: format!("data_{index}"),
                    image: FileName::parse(&text(&path), FileAuthority::WholeHost)?,
                    format: *format,
                },
                handle: Arc::new(File::open(&path)?),
                path,
            };
            let source = ImageSource::Path(text(&one.path));
            resources.data_disks.insert(one.device_id(), source);
            devices.push(HostDevice {
                kind: "disk".to_owned(),
                id: one.device_id(),
                properties: Vec::new(),
            });
            data_disks.push(one);
        }
        match self.firmware {
            Firmware::None => {}
            Firmware::Bios => {
                add("firmware", link(&guest.firmware, place("firmware"))?)?;
            }
            Firmware::WritableCode => {
                // QEMU locks what it may write to, so this one cannot be shared.
                std::fs::copy(&guest.firmware_code, place("code"))?;
                add("firmware-code", place("code"))?;
            }
            _ => {
                add("firmware-code", link(&guest.firmware_code, place("code"))?)?;
            }
        }
        let copy = state.join(format!("vars{}", self.name));
        match self.firmware {
            Firmware::None | Firmware::Bios | Firmware::CodeAlone => {}
            Firmware::Qcow2Vars => {
                let template = place("vars");
                qemu_img(
                    &["convert", "-f", "raw", "-O", "qcow2", "--"],
                    &[&guest.firmware_vars, &template],
                )
                .await?;
                std::fs::copy(add("firmware-vars", template)?, &copy)?;
                resources.firmware_vars = Some(text(&copy));
            }
            _ => {
                let template = link(&guest.firmware_vars, place("vars"))?;
                std::fs::copy(add("firmware-vars", template)?, &copy)?;
                resources.firmware_vars = Some(text(&copy));
            }
        }
        resources.files = files
            .iter()
            .map(|file| (file.id, text(&file.path)))
            .collect();

        let mut settings = bench.settings(&self.request_settings());
        for (key, value) in self.operator_settings() {
            let setting = settings.iter_mut().find(|setting| setting.key == key);
            let setting = setting.with_context(|| format!("plain-kvm has no setting {key}"))?;
            (setting.value, setting.origin) = (value, Origin::Operator);
        }
        let choice = |name: Option<&str>| {
            name.map(|name| Choice {
                value: name.to_owned(),
                origin: Origin::Request,
            })
        };
        let request = LaunchRequest {
            host: HostContext {
                architecture: "x86_64".to_owned(),
                accelerator: Accelerator::Tcg,
                settings,
                files,
            },
            vcpus: self.vcpus,
            memory_bytes: self.memory,
            boot: self.boot,
            machine: choice(self.machine),
            cpu: choice(self.cpu),
            kernel_cmdline: self.cmdline.clone(),
            devices,
            data_disks,
            identity: None,
        };
        Ok(Prepared {
            folder,
            request,
            resources,
        })
    }
}

/// A request with its files, which go with it.
pub(super) struct Prepared {
    pub(super) folder: TempDir,
    pub(super) request: LaunchRequest,
    pub(super) resources: Resources,
}

/// The files that all cases link to or copy, in the folder where the cases are laid out.
pub(super) struct Guest {
    folder: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
    firmware: PathBuf,
    firmware_code: PathBuf,
    firmware_vars: PathBuf,
}

impl Guest {
    pub(super) fn new(folder: &Path) -> Self {
        // A link has to stay in one file system, hence the copies.
        let copy = |name: &str, from: &Path| {
            let to = folder.join(name);
            std::fs::copy(from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
            to
        };
        Self {
            kernel: copy("kernel", &artifacts::kernel()),
            initrd: copy("initrd", &artifacts::initrd()),
            firmware: copy("firmware", Path::new("/usr/share/ovmf/OVMF.fd")),
            firmware_code: copy("code", Path::new("/usr/share/OVMF/OVMF_CODE.fd")),
            firmware_vars: copy("vars", Path::new("/usr/share/OVMF/OVMF_VARS.fd")),
            folder: folder.to_owned(),
        }
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("the names are UTF-8").to_owned()
}

async fn qemu_img_create(path: &Path, options: &[&str], size: &str) -> anyhow::Result<PathBuf> {
    let arguments = [&["create", "-q", "-f", "qcow2"], options, &["--"]].concat();
    qemu_img(&arguments, &[path, Path::new(size)]).await?;
    Ok(path.to_owned())
}

async fn qemu_img(options: &[&str], operands: &[&Path]) -> anyhow::Result<()> {
    let mut arguments: Vec<std::ffi::OsString> = options.iter().map(Into::into).collect();
    arguments.extend(operands.iter().map(Into::into));
    let output = run_tool(
        Path::new("qemu-img"),
        arguments,
        Vec::new(),
        &Credentials::Daemon,
        PATIENCE,
    )
    .await?;
    ensure!(output.exit == Exit::Code(0), "qemu-img: {}", output.stderr);
    Ok(())
}

/// Every value of every list is tried, whatever the steps are.
#[test]
fn the_table_leaves_nothing_out() {
    let cases = all();
    let tried = |matches: &dyn Fn(&Case) -> bool| cases.iter().any(matches);
    for name in ODD_NAMES {
        assert!(tried(&|case| case.name == name), "{name}");
    }
    for machine in MACHINES {
        assert!(tried(&|case| case.machine == machine), "{machine:?}");
    }
    for cpu in CPUS {
        assert!(tried(&|case| case.cpu == cpu), "{cpu:?}");
    }
    for (vcpus, max_cpus) in VCPUS {
        assert!(
            tried(&|case| (case.vcpus, case.max_cpus) == (vcpus, max_cpus)),
            "{vcpus}"
        );
    }
    for memory in MEMORY {
        assert!(tried(&|case| case.memory == memory), "{memory}");
    }
    for cmdline in cmdlines() {
        assert!(
            tried(&|case| case.cmdline == cmdline && case.boot == Boot::Kernel),
            "{cmdline}"
        );
    }
    for firmware in FIRMWARES {
        for inputs in INPUTS {
            let both = |case: &Case| case.firmware == firmware && case.inputs == inputs;
            assert!(tried(&both), "{firmware:?} with {inputs:?}");
        }
    }
    for growth in GROWTHS {
        for backend in MEMORY_BACKENDS {
            let both = |case: &Case| {
                case.memory_backend == backend
                    && std::mem::discriminant(&case.growth) == std::mem::discriminant(&growth)
            };
            assert!(tried(&both), "{growth:?} with {backend:?}");
        }
    }
}
