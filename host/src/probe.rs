//! The one place that reads `/sys`, `/proc`, device nodes, KVM and CPUID for facts.
//!
//! Everything here blocks for a moment at most and runs on a blocking thread.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use crate::spec::facts::{FactAnswer, FactFailure, FactValue};

/// What is read of a text file.
const MAX_TEXT: u64 = 4 << 10;

pub fn architecture() -> &'static str {
    std::env::consts::ARCH
}

#[cfg(target_arch = "x86_64")]
pub fn cpuid(leaf: u32, subleaf: u32) -> FactAnswer {
    let registers = std::arch::x86_64::__cpuid_count(leaf, subleaf);
    Ok(FactValue::Cpuid {
        eax: registers.eax,
        ebx: registers.ebx,
        ecx: registers.ecx,
        edx: registers.edx,
    })
}

#[cfg(not(target_arch = "x86_64"))]
pub fn cpuid(_leaf: u32, _subleaf: u32) -> FactAnswer {
    Err(FactFailure::Absent)
}

/// File systems of the kernel whose files are facts. The cgroups are mounted below `/sys`, and are
/// a file system of their own.
const FACT_ROOTS: [&str; 3] = ["/sys/fs/cgroup", "/sys", "/proc"];

/// First 4 KiB of a file below /sys or /proc. Links may not lead out of that file system, and the
/// magic links of /proc are not followed, so that `/proc/self/root/…` is no way to a file.
pub fn read_text(path: &str) -> FactAnswer {
    let below = |root: &'static str| Some((root, path.strip_prefix(root)?.strip_prefix('/')?));
    let Some((root, rest)) = FACT_ROOTS.into_iter().find_map(below) else {
        return Err(FactFailure::Denied);
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty()).map_err(failure)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let file = openat2(
        &root,
        rest,
        flags | OFlags::NONBLOCK,
        Mode::empty(),
        resolve,
    )
    .map_err(failure)?;
    let mut text = Vec::new();
    std::fs::File::from(file)
        .take(MAX_TEXT)
        .read_to_end(&mut text)
        .map_err(|error| FactFailure::Failed(error.to_string()))?;
    Ok(FactValue::Text(String::from_utf8_lossy(&text).into_owned()))
}

/// Memory of the machine in bytes (proc(5), MemTotal); 0 where the kernel tells none.
pub fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"))
        .and_then(|kibibytes| kibibytes.trim().parse::<u64>().ok())
        .map_or(0, |kibibytes| kibibytes << 10)
}

/// A file system, as statvfs(3) tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// For a user without privileges.
    pub free_bytes: u64,
    pub is_read_only: bool,
}

/// How much room there is where `path` lies.
pub fn room(path: &Path) -> std::io::Result<Room> {
    let found = rustix::fs::statvfs(path)?;
    Ok(Room {
        free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        is_read_only: found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY),
    })
}

/// What the kernel counts by name (admin-guide/cgroup-v2.rst, "Misc"), of the whole host. Empty
/// where it counts nothing or does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub capacity: BTreeMap<String, u64>,
    pub current: BTreeMap<String, u64>,
}

pub fn counted() -> Counted {
    let read = |name: &str| {
        let text = std::fs::read_to_string(format!("/sys/fs/cgroup/{name}"));
        amounts(&text.unwrap_or_default())
    };
    Counted {
        capacity: read("misc.capacity"),
        current: read("misc.current"),
    }
}

/// Lines of a name and a number. A name whose amount is no number has no limit, and is left out.
fn amounts(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (name, amount) = line.split_once(' ')?;
            Some((name.to_owned(), amount.trim().parse().ok()?))
        })
        .collect()
}

/// Where somebody listens by TCP, in this network namespace (proc(5), `/proc/net/tcp`).
pub fn tcp_listeners() -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        // Without IPv6 there is one of them only.
        if let Ok(file) = std::fs::File::open(path) {
            let lines = BufReader::new(file).lines().map_while(Result::ok);
            // The kernel lists these first, and connections after them, of which there may be many.
            found.extend(lines.skip(1).map_while(|line| listener(&line)));
        }
    }
    found
}

/// The address of a line whose state is TCP_LISTEN.
fn listener(line: &str) -> Option<SocketAddr> {
    const LISTEN: &str = "0A";
    let mut fields = line.split_ascii_whitespace();
    let (address, state) = (fields.nth(1)?, fields.nth(1)?);
    if state != LISTEN {
        return None;
    }
    let (host, port) = address.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Words of 32 bits, each as the processor has it in memory.
    let word = |range: std::ops::Range<usize>| {
        let word = u32::from_str_radix(host.get(range)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let address = match host.len() {
        8 => IpAddr::from(word(0..8)?),
        32 => {
            let words = [word(0..8)?, word(8..16)?, word(16..24)?, word(24..32)?];
            let mut octets = [0; 16];
            for (octet, byte) in octets.iter_mut().zip(words.as_flattened()) {
                *octet = *byte;
            }
            IpAddr::from(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

/// Whether a device node opens for reading and writing.
pub fn device(path: &str) -> FactAnswer {
    open_device(path)
        .map(|_| FactValue::Present)
        .map_err(failure)
}

/// A device node, opened once; QEMU gets the descriptor.
pub fn open_device(path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let device = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&device)?.st_mode);
    if kind == rustix::fs::FileType::CharacterDevice {
        Ok(device)
    } else {
        Err(rustix::io::Errno::NODEV)
    }
}

/// Whether a UNIX stream socket accepts a connection. Without waiting: a server that hangs, with a
/// full queue, is one that does not.
pub fn socket(path: &str) -> FactAnswer {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let address = SocketAddrUnix::new(path).map_err(failure)?;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .and_then(|socket| rustix::net::connect(&socket, &address))
        .map(|()| FactValue::Present)
        .map_err(failure)
}

fn failure(error: rustix::io::Errno) -> FactFailure {
    use rustix::io::Errno;
    match error {
        Errno::NOENT | Errno::NXIO | Errno::NODEV | Errno::NOTDIR => FactFailure::Absent,
        other => FactFailure::Failed(std::io::Error::from(other).to_string()),
    }
}

/// Questions to `/dev/kvm` (kernel, Documentation/virt/kvm/api.rst).
pub mod kvm {
    use std::ffi::c_void;

    use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};

    use super::{FactAnswer, FactFailure, FactValue, failure, open_device};

    /// KVM_CHECK_EXTENSION, section 4.4.
    pub fn capability(number: u32) -> FactAnswer {
        let kvm = open_device("/dev/kvm").map_err(failure)?;
        // SAFETY: the request takes its argument by value and touches no memory of ours.
        let value = unsafe { rustix::ioctl::ioctl(kvm, CheckExtension(number)) };
        value.map(FactValue::Signed).map_err(failure)
    }

    /// KVM_GET_DEVICE_ATTR on the system descriptor, section 4.80.
    pub fn device_attribute(group: u32, attribute: u64) -> FactAnswer {
        let kvm = open_device("/dev/kvm").map_err(failure)?;
        let mut value = 0_u64;
        let request = GetDeviceAttribute(DeviceAttribute {
            flags: 0,
            group,
            attribute,
            address: (&raw mut value) as u64,
        });
        // SAFETY: `address` points at a live u64, and the attributes that exist on /dev/kvm are
        // 64-bit values (section 4.80, `KVM_X86_GRP_*`).
        match unsafe { rustix::ioctl::ioctl(kvm, request) } {
            Ok(()) => Ok(FactValue::Unsigned(value)),
            // "No such device attribute", and kernels that know no attributes at all.
            Err(rustix::io::Errno::NXIO | rustix::io::Errno::NOTTY) => Err(FactFailure::Absent),
            Err(error) => Err(failure(error)),
        }
    }

    struct CheckExtension(u32);

    // SAFETY: `_IO(KVMIO, 0x03)` passes an integer and returns one.
    unsafe impl Ioctl for CheckExtension {
        type Output = i64;
        const IS_MUTATING: bool = false;

        fn opcode(&self) -> Opcode {
            0xAE03
        }

        fn as_ptr(&mut self) -> *mut c_void {
            std::ptr::without_provenance_mut(self.0 as usize)
        }

        unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i64> {
            Ok(i64::from(out))
        }
    }

    #[repr(C)]
    struct DeviceAttribute {
        flags: u32,
        group: u32,
        attribute: u64,
        address: u64,
    }

    struct GetDeviceAttribute(DeviceAttribute);

    // SAFETY: `_IOW(KVMIO, 0xe2, struct kvm_device_attr)`; the struct above has its layout.
    unsafe impl Ioctl for GetDeviceAttribute {
        type Output = ();
        const IS_MUTATING: bool = true;

        fn opcode(&self) -> Opcode {
            rustix::ioctl::opcode::write::<DeviceAttribute>(0xAE, 0xe2)
        }

        fn as_ptr(&mut self) -> *mut c_void {
            (&raw mut self.0).cast()
        }

        unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_below_sys_and_proc_only() {
        let osrelease = read_text("/proc/sys/kernel/osrelease").unwrap();
        let uname = rustix::system::uname();
        let release = uname.release().to_str().unwrap();
        assert_eq!(osrelease, FactValue::Text(format!("{release}\n")));
        for path in [
            "/etc/hostname",
            "/proc/self/root/etc/hostname",
            "/proc/../etc/hostname",
            "/sys/../etc/hostname",
            "/proc/self/cwd/Cargo.toml",
            "/proc/no-such-file",
        ] {
            assert!(read_text(path).is_err(), "{path}");
        }
    }

    /// The cgroups are a file system of their own below `/sys`.
    #[test]
    fn what_the_cgroups_count_is_read() {
        let path = "/sys/fs/cgroup/cgroup.controllers";
        let Ok(text) = std::fs::read_to_string(path) else {
            println!("skipped: no cgroup2 at /sys/fs/cgroup");
            return;
        };
        assert_eq!(read_text(path), Ok(FactValue::Text(text)));
        let missing = read_text("/sys/fs/cgroup/no-such-file");
        assert_eq!(missing, Err(FactFailure::Absent));
        read_text("/sys/fs/cgroup/../../class/net/lo/mtu").unwrap_err();
        read_text("/sys/fs/cgroupx").unwrap_err();
    }

    #[test]
    fn a_socket_is_there_when_somebody_listens() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("socket");
        let path = path.to_str().unwrap();
        assert_eq!(socket(path), Err(FactFailure::Absent));
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        assert_eq!(socket(path), Ok(FactValue::Present));
        // A full queue is no reason to wait.
        while socket(path).is_ok() {}
        drop(listener);
        assert!(socket(path).is_err());
    }

    /// The lines have the form of proc(5); what this kernel lists of a real listener has the last
    /// word.
    #[test]
    fn listeners_are_read_from_the_kernels_list() {
        const V4: &str = "   0: 0100007F:17D4 00000000:0000 0A 00000000:00000000 00:00000000 00000000 \
                          0        0 123 1 0000000000000000 100 0 0 10 0";
        const V6: &str = "   1: 00000000000000000000000001000000:1F90 \
                          00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 \
                          00000000 0 0 123 1 0000000000000000 100 0 0 10 0";
        for (line, address) in [
            (V4.to_owned(), Some("127.0.0.1:6100")),
            (V6.to_owned(), Some("[::1]:8080")),
            (V4.replace(" 0A ", " 01 "), None),
            (V4.replace("0100007F", "0100"), None),
            (V4.replace("0100007F", "äöüß"), None),
            ("sl  local_address".to_owned(), None),
            (String::new(), None),
        ] {
            let wanted = address.map(|address| address.parse().unwrap());
            assert_eq!(listener(&line), wanted, "{line}");
        }
        let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(tcp_listeners().contains(&held.local_addr().unwrap()));
    }

    /// As the kernel's own document has it (admin-guide/cgroup-v2.rst, "Misc").
    #[test]
    fn amounts_are_read_from_a_flat_keyed_file() {
        let wanted = [("res_a".to_owned(), 50), ("res_b".to_owned(), 10)].into();
        assert_eq!(amounts("res_a 50\nres_b 10\n"), wanted);
        assert_eq!(amounts("res_a max\nno-number\n\n"), BTreeMap::new());
    }

    #[test]
    fn a_file_system_has_room_or_none() {
        assert!(!room(&std::env::temp_dir()).unwrap().is_read_only);
        assert_eq!(room(Path::new("/proc")).unwrap().free_bytes, 0);
        assert!(room(Path::new("/no/such/folder")).is_err());
    }

    #[test]
    fn only_a_device_node_is_a_device() {
        assert_eq!(device("/dev/null"), Ok(FactValue::Present));
        assert_eq!(device("/dev/no-such-device"), Err(FactFailure::Absent));
        assert!(device("/proc/version").is_err());
    }
}
