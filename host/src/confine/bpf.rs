//! bpf(2): load a program, attach it to a cgroup, see what is attached. All that the filter needs,
//! and the only unsafe code of it.
//!
//! Crates that load eBPF take object files that a C compiler or a Rust toolchain of its own has
//! made; forty instructions are shorter than either.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// One instruction as the kernel takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Instruction(pub(super) u64);

/// Where in a cgroup a program runs; each has the type of program that fits (linux/bpf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// Each packet that leaves a socket of the cgroup.
    Egress,
    /// connect(2) of an IPv4 socket.
    Connect4,
    /// connect(2) of an IPv6 socket.
    Connect6,
}

impl Hook {
    fn program_type(self) -> u32 {
        match self {
            Self::Egress => 8,
            Self::Connect4 | Self::Connect6 => 18,
        }
    }

    fn attach_type(self) -> u32 {
        match self {
            Self::Egress => 1,
            Self::Connect4 => 10,
            Self::Connect6 => 11,
        }
    }
}

/// Commands of bpf(2).
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;
/// Programs of systemd or an operator stay beside ours; a packet must pass all of them.
const ALLOW_MULTI: u32 = 1 << 1;
/// Programs on one hook of a cgroup at most, by the kernel's own limit.
const MAX_ATTACHED: usize = 64;
/// Enough for the verifier's words on a program of this size.
const LOG_SIZE: usize = 64 << 10;
const NAME_LENGTH: usize = 16;
/// Identifies a program: the kernel's digest of its instructions.
pub(super) type Tag = [u8; 8];

#[repr(C)]
#[derive(Default)]
struct Load {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; NAME_LENGTH],
    interface: u32,
    expected_attach_type: u32,
}

#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct Query {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    program_count: u32,
    /// The kernel's structure is a multiple of eight bytes.
    padding: u32,
}

#[repr(C)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

#[repr(C)]
struct Info {
    program: u32,
    length: u32,
    info: u64,
}

/// The beginning of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    program_type: u32,
    id: u32,
    tag: Tag,
}

/// # Safety
///
/// `attributes` is the structure of `command`, and every address in it is of memory that is valid
/// for what the command does with it, for as long as the call takes.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes `size_of::<T>()` bytes of the structure, which is borrowed
    // exclusively; what it points to is the caller's promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

fn raw(descriptor: BorrowedFd<'_>) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

/// # Safety
///
/// `descriptor` is what a command of bpf(2) has just returned as a new descriptor.
unsafe fn owned(descriptor: libc::c_long) -> io::Result<OwnedFd> {
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: it is open, and nobody else has it; the caller's promise.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// What the kernel says of a program that it does not take.
#[derive(Debug)]
pub(super) struct LoadError {
    pub(super) log: String,
    pub(super) source: io::Error,
}

/// Hands a program to the kernel's verifier.
pub(super) fn load(
    hook: Hook,
    name: &'static str,
    instructions: &[Instruction],
) -> Result<OwnedFd, LoadError> {
    // The verifier is asked for its words only when there was an error: a log that does not fit is
    // an error of its own on some kernels.
    match load_with_log(hook, name, instructions, &mut []) {
        Ok(program) => Ok(program),
        Err(source) => {
            let mut log = vec![0; LOG_SIZE];
            let source = match load_with_log(hook, name, instructions, &mut log) {
                Ok(program) => return Ok(program),
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => source,
                Err(error) => error,
            };
            let text = log.split(|byte| *byte == 0).next().unwrap_or_default();
            let text = String::from_utf8_lossy(text);
            let last = text
                .lines()
                .rev()
                .find(|line| !line.is_empty() && !line.starts_with("processed "));
            Err(LoadError {
                log: last.unwrap_or("the verifier says nothing").to_owned(),
                source,
            })
        }
    }
}

fn load_with_log(
    hook: Hook,
    name: &str,
    instructions: &[Instruction],
    log: &mut [u8],
) -> io::Result<OwnedFd> {
    let license = CString::default();
    let mut attributes = Load {
        program_type: hook.program_type(),
        instruction_count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        expected_attach_type: hook.attach_type(),
        ..Load::default()
    };
    if !log.is_empty() {
        attributes.log_level = 1;
        attributes.log_size = u32::try_from(log.len()).map_err(io::Error::other)?;
        attributes.log_buffer = log.as_mut_ptr() as u64;
    }
    // The last byte stays zero.
    for (to, from) in attributes.name[..NAME_LENGTH - 1]
        .iter_mut()
        .zip(name.bytes())
    {
        *to = from;
    }
    // SAFETY: the instructions and the licence are readable and the log is writable for the lengths
    // given, and all three live beyond the call.
    let program = unsafe { bpf(PROG_LOAD, &mut attributes) }?;
    // SAFETY: this command returns a new descriptor.
    unsafe { owned(program) }
}

/// Attaches a program for as long as the cgroup is there.
pub(super) fn attach(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    hook: Hook,
) -> io::Result<()> {
    let mut attributes = Attach {
        target: raw(cgroup),
        program: raw(program),
        attach_type: hook.attach_type(),
        flags: ALLOW_MULTI,
    };
    // SAFETY: the structure holds no address.
    unsafe { bpf(PROG_ATTACH, &mut attributes) }.map(drop)
}

/// The tags of what is attached to this cgroup itself.
pub(super) fn attached(cgroup: BorrowedFd<'_>, hook: Hook) -> io::Result<Vec<Tag>> {
    let mut ids = [0_u32; MAX_ATTACHED];
    let mut attributes = Query {
        target: raw(cgroup),
        attach_type: hook.attach_type(),
        query_flags: 0,
        attach_flags: 0,
        program_ids: ids.as_mut_ptr() as u64,
        program_count: MAX_ATTACHED as u32,
        padding: 0,
    };
    // SAFETY: the array is writable for the count given and lives beyond the call.
    unsafe { bpf(PROG_QUERY, &mut attributes) }?;
    let count = attributes.program_count as usize;
    let mut tags = Vec::with_capacity(count.min(MAX_ATTACHED));
    for id in ids.iter().take(count) {
        match by_id(*id).and_then(|program| tag(std::os::fd::AsFd::as_fd(&program))) {
            Ok(tag) => tags.push(tag),
            // It was detached a moment ago.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(tags)
}

fn by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attributes = ById {
        id,
        next_id: 0,
        open_flags: 0,
    };
    // SAFETY: the structure holds no address.
    let program = unsafe { bpf(PROG_GET_FD_BY_ID, &mut attributes) }?;
    // SAFETY: this command returns a new descriptor.
    unsafe { owned(program) }
}

pub(super) fn tag(program: BorrowedFd<'_>) -> io::Result<Tag> {
    let mut info = ProgramInfo::default();
    let mut attributes = Info {
        program: raw(program),
        length: size_of::<ProgramInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: `info` is writable for the length given and lives beyond the call. The kernel writes
    // no more than that, and only integers.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(info.tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifier_says_what_it_does_not_take() {
        // `exit` without a result.
        let mut bytes = [0; 8];
        bytes[0] = 0x95;
        let error = load(
            Hook::Egress,
            "casemate_wrong",
            &[Instruction(u64::from_ne_bytes(bytes))],
        )
        .expect_err("no program returns nothing");
        if error.source.kind() == io::ErrorKind::PermissionDenied && error.log.starts_with("the ") {
            println!("skipped: this user may load no programs");
            return;
        }
        assert!(error.log.contains("R0"), "{}: {}", error.log, error.source);
    }
}
