//! The options of QEMU's command line that this checker can read, and what follows each.

/// What an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Nothing.
    Flag,
    /// A text that is not taken apart.
    Text,
    /// An option string. The name is that of the key which a first part without `=` stands for.
    Parts(&'static str),
    /// The same, or a JSON object.
    Object(&'static str),
}
use Shape::{Flag, Object, Parts, Text};

/// By name, without the dash. An option that is missing here is reported, never passed over: a
/// checker that does not understand a list cannot vouch for it.
#[rustfmt::skip]
const OPTIONS: &[(&str, Shape)] = &[
    ("accel", Parts("accel")), ("acpitable", Parts("sig")), ("action", Parts("event")),
    ("add-fd", Parts("fd")), ("append", Text), ("audio", Parts("driver")),
    ("audiodev", Object("driver")), ("bios", Text), ("blockdev", Object("driver")),
    ("boot", Parts("order")), ("cdrom", Text), ("chardev", Parts("backend")),
    ("chroot", Text), ("compat", Parts("deprecated-input")), ("cpu", Text), ("D", Text),
    ("d", Text), ("daemonize", Flag), ("debugcon", Text), ("device", Object("driver")),
    ("dfilter", Text), ("display", Object("type")), ("drive", Parts("")), ("dtb", Text),
    ("enable-kvm", Flag), ("fda", Text), ("fdb", Text), ("fsdev", Parts("fsdriver")),
    ("full-screen", Flag), ("fw_cfg", Parts("name")), ("gdb", Text), ("global", Parts("driver")),
    ("hda", Text), ("hdb", Text), ("hdc", Text), ("hdd", Text), ("icount", Parts("shift")),
    ("incoming", Text), ("initrd", Text), ("iscsi", Parts("")), ("k", Text), ("kernel", Text),
    ("L", Text), ("loadvm", Text), ("m", Parts("size")), ("M", Parts("type")),
    ("machine", Parts("type")), ("mem-path", Text), ("mem-prealloc", Flag), ("mon", Parts("chardev")),
    ("monitor", Text), ("msg", Parts("timestamp")), ("mtdblock", Text), ("name", Parts("guest")),
    ("net", Parts("type")), ("netdev", Object("type")), ("nic", Parts("type")), ("no-fd-bootchk", Flag),
    ("no-reboot", Flag), ("no-shutdown", Flag), ("no-user-config", Flag), ("nodefaults", Flag),
    ("nographic", Flag), ("numa", Parts("type")), ("object", Object("qom-type")),
    ("only-migratable", Flag), ("option-rom", Parts("romfile")), ("overcommit", Parts("")),
    ("parallel", Text), ("pflash", Text), ("pidfile", Text), ("plugin", Parts("file")),
    ("preconfig", Flag), ("qmp", Text), ("qmp-pretty", Text), ("readconfig", Text), ("rtc", Parts("base")),
    ("run-with", Parts("")), ("runas", Text), ("S", Flag), ("s", Flag), ("sandbox", Parts("enable")),
    ("sd", Text), ("seed", Text), ("serial", Text), ("set", Text), ("shim", Text), ("smbios", Parts("file")),
    ("smp", Parts("cpus")), ("snapshot", Flag), ("spice", Parts("")), ("tpmdev", Parts("type")),
    ("trace", Parts("enable")), ("usb", Flag), ("usbdevice", Text), ("user", Text), ("uuid", Text),
    ("vga", Text), ("virtfs", Parts("fsdriver")), ("vnc", Parts("vnc")), ("watchdog-action", Text),
    ("xen-attach", Flag), ("xen-domid", Text),
];

/// The option as QEMU's table has it, and its shape. `-M` is `-machine`.
pub(crate) fn find(name: &str) -> Option<(&'static str, Shape)> {
    let (known, shape) = OPTIONS.iter().find(|(known, _)| *known == name)?;
    Some(match *known {
        "M" => ("machine", *shape),
        known => (known, *shape),
    })
}
