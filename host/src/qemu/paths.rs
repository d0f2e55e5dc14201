//! Which properties QEMU opens, writes or connects to, whatever a backend or config says of them.
//!
//! The list is a second line of defence: a property that is not announced and granted never gets
//! this far. It names QEMU's general properties only; those of a TEE's own objects are marked in
//! the backend's announcement and in the grant.

/// Properties of any type whose name alone says that they hold a path.
const PATH_NAMES: [&str; 38] = [
    "mem-path",
    "file",
    "filename",
    "path",
    "dir",
    "fd",
    "evdev",
    "chardev",
    "socket",
    "sock",
    "addr.path",
    "certs-path",
    "dumpdtb",
    "dtb",
    "kernel",
    "initrd",
    "firmware",
    "romfile",
    "biosfile",
    "datadir",
    "logfile",
    "rom",
    "host",
    "sysfsdev",
    "rootdir",
    "hostdevice",
    "hidraw",
    "pubkey",
    "privkey",
    "db",
    "vhostfd",
    "vhostfds",
    "fds",
    "sockfd",
    "server",
    "device",
    "tls-creds",
    "dbus",
];

/// Names that are paths in one type only.
const TYPED_PATHS: [(&str, &str); 9] = [
    ("dbus-vmstate", "addr"),
    ("filter-mirror", "outdev"),
    ("filter-redirector", "indev"),
    ("filter-redirector", "outdev"),
    ("can-host-socketcan", "if"),
    ("x-remote-object", "devid"),
    ("tls-creds-x509", "endpoint"),
    ("qtest", "log"),
    ("authz-pam", "service"),
];

/// Properties of `-machine` that the host renders itself, with what to use instead.
const HOST_OWNED_MACHINE: [(&str, &str); 16] = [
    ("type", "`machine.kind`"),
    ("accel", "config"),
    ("memory-backend", "`memory-backend`"),
    ("memory", "the request's memory size"),
    ("memory-encryption", "`guard`"),
    ("confidential-guest-support", "`guard`"),
    ("kernel", "`boot`"),
    ("initrd", "`boot`"),
    ("append", "`boot`"),
    ("firmware", "`firmware`"),
    ("igvm-cfg", "`firmware`"),
    ("pflash0", "`firmware`"),
    ("pflash1", "`firmware`"),
    ("smp", "`smp`"),
    ("boot", "`boot`"),
    ("dump-guest-core", "the host's own value"),
];

/// What of `-smp` and `-m` a plan may set.
pub const SMP_PROPERTIES: [&str; 11] = [
    "maxcpus", "sockets", "dies", "clusters", "modules", "cores", "threads", "books", "drawers",
    "trays", "nodes",
];
pub const MEMORY_PROPERTIES: [&str; 2] = ["slots", "maxmem"];

/// Whether `property` of `kind` is a path by this table.
pub fn is_path(kind: &str, property: &str) -> bool {
    let last = property.rsplit('.').next().unwrap_or(property);
    PATH_NAMES.contains(&property)
        || PATH_NAMES.contains(&last)
        || TYPED_PATHS.contains(&(kind, property))
        || ["file", "path", "-socket", "dir", "fd", "-device"]
            .iter()
            .any(|end| last.ends_with(end))
}

/// What a plan has to use instead of this machine property; `None` if it may set it.
pub fn machine_owner(property: &str) -> Option<&'static str> {
    HOST_OWNED_MACHINE
        .iter()
        .find(|(name, _)| *name == property)
        .map(|(_, instead)| *instead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_paths_are_known() {
        for (kind, property) in [
            ("secret", "file"),
            ("memory-backend-file", "mem-path"),
            ("filter-dump", "file"),
            ("rng-random", "filename"),
            ("tls-creds-x509", "dir"),
            ("input-linux", "evdev"),
            ("virtio-net-pci", "romfile"),
            ("x", "quote-generation-socket.path"),
            ("x", "session-file"),
            ("usb-mtp", "rootdir"),
            ("ipmi-bmc-sim", "frudatafile"),
            ("x", "sev-device"),
        ] {
            assert!(is_path(kind, property), "{kind}.{property}");
        }
        for (kind, property) in [
            ("memory-backend-ram", "size"),
            ("x", "host-data"),
            ("x", "policy"),
        ] {
            assert!(!is_path(kind, property), "{kind}.{property}");
        }
    }
}
