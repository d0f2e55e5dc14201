//! Renders a checked plan into QEMU's arguments. Pure, and the only place that renders any.
//!
//! One owner for each option: the backend's plan gives machine, CPU, objects and devices; the host
//! gives accelerator, counts and sizes, guard, firmware, boot inputs, names, monitor, console and
//! its own devices.
//!
//! Two forms come from the same code: `Form::Managed` for the daemon (descriptors, monitor on a
//! passed socket, stopped at start) and `Form::Standalone` for a person's terminal.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use base64::Engine as _;
use serde_json::Value as Json;

use super::check::CheckedPlan;
use super::keyval::{self, KeyVal};
use super::type_names::host_device_types;
use crate::spec::files::DiskFormat;
use crate::spec::plan::{Firmware, PflashFirmware, Property, Typed, Value};
use crate::spec::request::{Accelerator, DataDiskFile, HostDevice, LaunchRequest};

/// Id of the character device that carries QMP.
pub const QMP_ID: &str = "casemate-qmp";
const CONSOLE_ID: &str = "casemate-console";
/// Numbers of QEMU's descriptor sets.
const KVM_SET: u32 = 1;
const CONSOLE_SET: u32 = 2;
const DISK_SET: u32 = 3;
/// Of the first data disk; it is the last one, since there are several of these.
const FIRST_DATA_DISK_SET: u32 = 4;
const IGVM_ID: &str = "casemate-igvm";
/// QEMU's system call filter: no privileges, no child processes, no resource control.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// Where things are that a plan and a request name by id. Plain values: who opened them keeps the
/// guards.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    /// Path for each file id, in the form that QEMU opens: `/proc/self/fd/N`, or the file's own.
    pub files: BTreeMap<u32, String>,
    /// The VM's own copy of the firmware variables.
    pub firmware_vars: Option<String>,
    pub disk: Option<DiskResources>,
    /// Where the images of data disks are, by device id.
    pub data_disks: BTreeMap<String, ImageSource>,
    /// Folders of the 9p shares, by device id.
    pub shares: BTreeMap<String, String>,
    pub console: String,
    pub user_network: UserNetwork,
}

/// What a guest reaches through QEMU's user network, beside its own forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UserNetwork {
    /// All that QEMU itself may reach.
    #[default]
    Open,
    /// Nothing.
    Restricted,
}

/// The disk that a VM boots from.
#[derive(Clone, Debug)]
pub struct DiskResources {
    /// The VM's own overlay.
    pub overlay: String,
    /// Id of the SCSI controller.
    pub controller_id: String,
    /// The opened image below it; none: QEMU opens the one that the overlay names.
    pub backing: Option<DiskBacking>,
}

/// How QEMU comes by an image that it only reads.
#[derive(Clone, Debug)]
pub enum ImageSource {
    /// The number of a descriptor in QEMU.
    Descriptor(i32),
    Path(String),
}

/// An image that QEMU reads through a descriptor, so that its user need not be able to open it.
#[derive(Clone, Debug)]
pub struct DiskBacking {
    /// Number in QEMU.
    pub fd: i32,
    pub format: DiskFormat,
}

#[derive(Clone, Debug)]
pub enum Form {
    Managed {
        /// Number of the listening QMP socket in QEMU.
        qmp_fd: i32,
        /// Number of the opened `/dev/kvm` in QEMU, where QEMU takes one.
        kvm_fd: Option<i32>,
        /// Number of the pipe that takes the console; none: it goes to the file.
        console_fd: Option<i32>,
    },
    Standalone {
        /// Host address that is forwarded to the guest's port.
        forward: Option<(SocketAddr, u16)>,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    #[error("nothing is known about file {0} of the plan")]
    File(u32),
    #[error("nothing is known about {0}")]
    Resource(String),
    #[error("{0}")]
    Nest(#[from] keyval::NestError),
}

/// The arguments, without the program itself.
pub fn render(
    id: &str,
    request: &LaunchRequest,
    checked: &CheckedPlan,
    resources: &Resources,
    form: &Form,
) -> Result<Vec<String>, RenderError> {
    let mut renderer = Renderer {
        request,
        checked,
        resources,
        form,
        arguments: Vec::with_capacity(80),
    };
    renderer.identity(id);
    renderer.monitor();
    renderer.machine()?;
    renderer.objects()?;
    renderer.firmware()?;
    renderer.boot()?;
    renderer.console();
    for device in &request.devices {
        renderer.host_device(device)?;
    }
    for device in &checked.plan().extra_devices {
        let option = renderer.keyval_typed(device)?;
        renderer.option("-device", option);
    }
    Ok(renderer.arguments)
}

struct Renderer<'a> {
    request: &'a LaunchRequest,
    checked: &'a CheckedPlan,
    resources: &'a Resources,
    form: &'a Form,
    arguments: Vec<String>,
}

impl Renderer<'_> {
    fn option(&mut self, name: &str, value: impl Into<String>) {
        self.arguments.push(name.to_owned());
        self.arguments.push(value.into());
    }

    fn flag(&mut self, name: &str) {
        self.arguments.push(name.to_owned());
    }

    fn identity(&mut self, id: &str) {
        self.option("-name", KeyVal::empty().with("guest", id).finish());
        self.option("-uuid", id);
        self.flag("-nodefaults");
        self.flag("-no-user-config");
        self.flag("-no-reboot");
        self.option("-display", "none");
        self.option("-sandbox", SANDBOX);
    }

    fn monitor(&mut self) {
        if let Form::Managed { qmp_fd, .. } = self.form {
            let socket = KeyVal::new("socket")
                .with("id", QMP_ID)
                .with("fd", &qmp_fd.to_string())
                .with("server", "on")
                .with("wait", "off");
            self.option("-chardev", socket.finish());
            let monitor = KeyVal::empty()
                .with("chardev", QMP_ID)
                .with("mode", "control");
            self.option("-mon", monitor.finish());
            self.flag("-S");
        }
    }

    fn machine(&mut self) -> Result<(), RenderError> {
        let plan = self.checked.plan();
        let mut accelerator = KeyVal::new(self.request.host.accelerator.as_str());
        if let (
            Accelerator::Kvm,
            Form::Managed {
                kvm_fd: Some(fd), ..
            },
        ) = (self.request.host.accelerator, self.form)
        {
            let path = self.descriptor(*fd, KVM_SET);
            accelerator.push("device", &path);
        }
        self.option("-accel", accelerator.finish());

        let mut machine = KeyVal::new(&plan.machine.kind);
        for property in &plan.machine.properties {
            machine.push(&property.path, &self.scalar(&property.value)?);
        }
        machine.push("dump-guest-core", "off");
        if let Some(id) = plan
            .memory_backend
            .as_ref()
            .and_then(|backend| backend.id.as_ref())
        {
            machine.push("memory-backend", id);
        }
        if let Some(guard) = &plan.guard {
            machine.push("confidential-guest-support", guard);
        }
        if let Firmware::Igvm(_) = plan.firmware {
            machine.push("igvm-cfg", IGVM_ID);
        }
        self.option("-machine", machine.finish());

        let cpu = self.keyval_typed(&plan.cpu)?;
        self.option("-cpu", cpu);
        let mut smp = KeyVal::empty().with("cpus", &self.request.vcpus.to_string());
        for property in &plan.smp {
            smp.push(&property.path, &self.scalar(&property.value)?);
        }
        self.option("-smp", smp.finish());
        let mut memory = KeyVal::empty().with("size", &size(self.request.memory_bytes));
        for property in &plan.memory {
            let value = match (&property.value, property.path.as_str()) {
                (Value::Unsigned(bytes), "maxmem") => size(*bytes),
                (value, _) => self.scalar(value)?,
            };
            memory.push(&property.path, &value);
        }
        self.option("-m", memory.finish());
        Ok(())
    }

    fn objects(&mut self) -> Result<(), RenderError> {
        let plan = self.checked.plan();
        if let Some(backend) = &plan.memory_backend {
            let size = ("size".to_owned(), Json::from(self.request.memory_bytes));
            self.object(backend, Some(size))?;
        }
        for object in &plan.objects {
            self.object(object, None)?;
        }
        Ok(())
    }

    fn object(&mut self, object: &Typed, own: Option<(String, Json)>) -> Result<(), RenderError> {
        let mut entries = vec![("qom-type".to_owned(), Json::from(object.kind.as_str()))];
        entries.extend(
            object
                .id
                .as_ref()
                .map(|id| ("id".to_owned(), Json::from(id.as_str()))),
        );
        entries.extend(own);
        for property in &object.properties {
            entries.push((property.path.clone(), self.json(&property.value)?));
        }
        self.option("-object", Json::Object(keyval::nest(entries)?).to_string());
        Ok(())
    }

    fn firmware(&mut self) -> Result<(), RenderError> {
        match &self.checked.plan().firmware {
            Firmware::None => {}
            Firmware::Bios(id) => {
                let path = self.file(*id)?;
                self.option("-bios", path);
            }
            Firmware::Igvm(id) => {
                let file = self.file(*id)?;
                let entries = [
                    ("qom-type".to_owned(), Json::from("igvm-cfg")),
                    ("id".to_owned(), Json::from(IGVM_ID)),
                    ("file".to_owned(), Json::from(file)),
                ];
                self.option(
                    "-object",
                    Json::Object(entries.into_iter().collect()).to_string(),
                );
            }
            Firmware::Pflash(pflash) => self.pflash(pflash)?,
        }
        Ok(())
    }

    fn pflash(&mut self, pflash: &PflashFirmware) -> Result<(), RenderError> {
        let option = |path: &str, default: &str| -> Result<String, RenderError> {
            match pflash.options.iter().find(|option| option.path == path) {
                Some(option) => self.scalar(&option.value),
                None => Ok(default.to_owned()),
            }
        };
        let code = KeyVal::empty()
            .with("if", "pflash")
            .with("format", &option("code.format", "raw")?)
            .with("unit", &option("code.unit", "0")?)
            .with("file", &self.file(pflash.code)?)
            .with("readonly", &option("code.readonly", "on")?);
        let vars = match pflash.vars_template {
            None => None,
            Some(_) => {
                let file = self.resources.firmware_vars.as_ref();
                let file =
                    file.ok_or_else(|| RenderError::Resource("firmware variables".to_owned()))?;
                Some(
                    KeyVal::empty()
                        .with("if", "pflash")
                        .with("format", &option("vars.format", "raw")?)
                        .with("unit", &option("vars.unit", "1")?)
                        .with("file", file),
                )
            }
        };
        self.option("-drive", code.finish());
        if let Some(vars) = vars {
            self.option("-drive", vars.finish());
        }
        Ok(())
    }

    fn boot(&mut self) -> Result<(), RenderError> {
        let boot = self.checked.plan().boot;
        for (wanted, role, option) in [
            (boot.kernel, "kernel", "-kernel"),
            (boot.initrd, "initrd", "-initrd"),
        ] {
            if wanted {
                let file = self.request.file_with_role(role);
                let file = file.ok_or_else(|| RenderError::Resource(role.to_owned()))?;
                let path = self.file(file.id)?;
                self.option(option, path);
            }
        }
        if boot.cmdline {
            self.option("-append", self.request.kernel_cmdline.clone());
        }
        Ok(())
    }

    /// Gives QEMU a descriptor, and the path under which it opens it. A path below `/proc` would
    /// be opened anew, with the rights of QEMU's user.
    fn descriptor(&mut self, fd: i32, set: u32) -> String {
        let add = KeyVal::empty()
            .with("fd", &fd.to_string())
            .with("set", &set.to_string());
        self.option("-add-fd", add.finish());
        format!("/dev/fdset/{set}")
    }

    fn console(&mut self) {
        match self.form {
            Form::Managed { console_fd, .. } => {
                let path = match console_fd {
                    Some(fd) => self.descriptor(*fd, CONSOLE_SET),
                    None => self.resources.console.clone(),
                };
                let file = KeyVal::new("file")
                    .with("id", CONSOLE_ID)
                    .with("path", &path)
                    .with("append", "on");
                self.option("-chardev", file.finish());
            }
            Form::Standalone { .. } => {
                // Ctrl-C then reaches QEMU, not the guest.
                let stdio = KeyVal::new("stdio")
                    .with("id", CONSOLE_ID)
                    .with("signal", "on");
                self.option("-chardev", stdio.finish());
            }
        }
        if self.request.host.architecture == "s390x" {
            let console = KeyVal::new("sclpconsole").with("chardev", CONSOLE_ID);
            self.option("-device", console.finish());
        } else {
            self.option("-serial", format!("chardev:{CONSOLE_ID}"));
        }
    }

    fn host_device(&mut self, device: &HostDevice) -> Result<(), RenderError> {
        let transport = self.checked.plan().devices.transport;
        let types = host_device_types(self.request, device, transport);
        let Some(kind) = types.first() else {
            return Err(RenderError::Resource(format!(
                "host device {}",
                device.kind
            )));
        };
        match device.kind.as_str() {
            "net" => {
                let mut netdev = KeyVal::new("user").with("id", &device.id);
                if self.resources.user_network == UserNetwork::Restricted {
                    netdev.push("restrict", "on");
                }
                if let Form::Standalone {
                    forward: Some((from, to)),
                } = self.form
                {
                    netdev.push(
                        "hostfwd",
                        &format!("tcp:{}:{}-:{to}", from.ip(), from.port()),
                    );
                }
                self.option("-netdev", netdev.finish());
                let own = KeyVal::new(kind).with("netdev", &device.id);
                let option = self.virtio(kind, own, device)?;
                self.option("-device", option);
            }
            "share-9p" => {
                let folder = self.resources.shares.get(&device.id);
                let folder =
                    folder.ok_or_else(|| RenderError::Resource(format!("share {}", device.id)))?;
                let fsdev = KeyVal::new("local")
                    .with("id", &device.id)
                    .with("path", folder)
                    .with("security_model", "mapped-xattr")
                    .with("readonly", "on");
                self.option("-fsdev", fsdev.finish());
                let own = KeyVal::new(kind)
                    .with("fsdev", &device.id)
                    .with("mount_tag", &device.id);
                let option = self.virtio(kind, own, device)?;
                self.option("-device", option);
            }
            "disk" => match self.request.data_disk(&device.id) {
                Some((index, data)) => self.data_disk(device, kind, index, data)?,
                None => self.boot_disk(device, kind)?,
            },
            other => return Err(RenderError::Resource(format!("host device {other}"))),
        }
        Ok(())
    }

    /// The disk that the VM boots from: its overlay, over an image that it only reads.
    fn boot_disk(&mut self, device: &HostDevice, kind: &str) -> Result<(), RenderError> {
        let disk = self.resources.disk.as_ref();
        let DiskResources {
            overlay,
            controller_id,
            backing,
        } = disk.ok_or_else(|| RenderError::Resource("the disk".to_owned()))?;
        let mut node = serde_json::json!({
            "driver": "qcow2",
            "node-name": device.id,
            "file": {"driver": "file", "filename": overlay},
        });
        if let Some(backing) = backing {
            let path = self.descriptor(backing.fd, DISK_SET);
            node["backing"] = read_only(backing.format, &path);
        }
        self.option("-blockdev", node.to_string());
        let own = KeyVal::new(kind).with("id", controller_id);
        let option = self.virtio(kind, own, device)?;
        self.option("-device", option);
        let mut disk = KeyVal::new("scsi-hd")
            .with("drive", &device.id)
            .with("bus", &format!("{controller_id}.0"));
        // Firmware would choose among several disks by an order of its own.
        if !self.request.data_disks.is_empty() {
            disk.push("bootindex", "0");
        }
        self.option("-device", disk.finish());
        Ok(())
    }

    fn data_disk(
        &mut self,
        device: &HostDevice,
        kind: &str,
        index: usize,
        data: &DataDiskFile,
    ) -> Result<(), RenderError> {
        let source = self.resources.data_disks.get(&device.id);
        let path = match source {
            Some(ImageSource::Path(path)) => path.clone(),
            Some(ImageSource::Descriptor(fd)) => {
                let set = u32::try_from(index).map(|index| FIRST_DATA_DISK_SET + index);
                let set = set.map_err(|_| RenderError::Resource(device.id.clone()))?;
                self.descriptor(*fd, set)
            }
            None => return Err(RenderError::Resource(format!("data disk {}", data.disk.id))),
        };
        let mut node = read_only(data.disk.format, &path);
        node["node-name"] = device.id.as_str().into();
        self.option("-blockdev", node.to_string());
        let own = KeyVal::new(kind)
            .with("id", &device.id)
            .with("drive", &device.id)
            .with("serial", &data.disk.id);
        let option = self.virtio(kind, own, device)?;
        self.option("-device", option);
        Ok(())
    }

    /// A virtio device of the host: its own options, the operator's properties, and the plan's
    /// where the operator set none. Properties that the device does not have are left out.
    fn virtio(
        &self,
        kind: &str,
        mut option: KeyVal,
        device: &HostDevice,
    ) -> Result<String, RenderError> {
        let has = |name: &str| self.checked.knowledge().device_has(kind, name);
        for property in device
            .properties
            .iter()
            .filter(|property| has(&property.path))
        {
            option.push(&property.path, &self.scalar(&property.value)?);
        }
        let is_set = |name: &str| device.properties.iter().any(|p: &Property| p.path == name);
        for property in &self.checked.plan().devices.virtio_properties {
            if has(&property.path) && !is_set(&property.path) {
                option.push(&property.path, &self.scalar(&property.value)?);
            }
        }
        Ok(option.finish())
    }

    fn keyval_typed(&self, typed: &Typed) -> Result<String, RenderError> {
        let mut option = KeyVal::new(&typed.kind);
        if let Some(id) = &typed.id {
            option.push("id", id);
        }
        for property in &typed.properties {
            option.push(&property.path, &self.scalar(&property.value)?);
        }
        Ok(option.finish())
    }

    fn file(&self, id: u32) -> Result<String, RenderError> {
        self.resources
            .files
            .get(&id)
            .cloned()
            .ok_or(RenderError::File(id))
    }

    /// For keyval options. Escaping is `KeyVal`'s.
    fn scalar(&self, value: &Value) -> Result<String, RenderError> {
        Ok(match value {
            Value::Text(text) | Value::HostPath(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Unsigned(number) => number.to_string(),
            Value::Boolean(flag) => if *flag { "on" } else { "off" }.to_owned(),
            Value::Bytes(bytes) => base64::engine::general_purpose::STANDARD.encode(bytes),
            Value::File(id) => self.file(*id)?,
        })
    }

    /// For JSON options: numbers stay numbers.
    fn json(&self, value: &Value) -> Result<Json, RenderError> {
        Ok(match value {
            Value::Integer(number) => Json::from(*number),
            Value::Unsigned(number) => Json::from(*number),
            Value::Boolean(flag) => Json::from(*flag),
            other => Json::from(self.scalar(other)?),
        })
    }
}

/// A block node of an image that QEMU only reads. That nothing lies below it is said, whatever its
/// header comes to say.
fn read_only(format: DiskFormat, path: &str) -> Json {
    let mut node = serde_json::json!({
        "driver": format.as_str(),
        "read-only": true,
        "file": {"driver": "file", "filename": path, "read-only": true},
    });
    if format == DiskFormat::Qcow2 {
        node["backing"] = Json::Null;
    }
    node
}

/// A size for `-m`: whole MiB with QEMU's suffix, bytes otherwise.
fn size(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    if bytes.is_multiple_of(MIB) {
        format!("{}M", bytes / MIB)
    } else {
        format!("{bytes}B")
    }
}

/// One line that a shell reads back as exactly these arguments.
pub fn shell_line<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words
        .into_iter()
        .map(|word| match shlex::try_quote(word) {
            Ok(quoted) => quoted.into_owned(),
            // A NUL can be in no argument; it never gets this far.
            Err(_) => "''".to_owned(),
        })
        .collect::<Vec<_>>()
        .join(" ")
}
