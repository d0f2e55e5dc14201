//! The filter on a VM's cgroup: what the programs are, and that each is attached once.

mod assembler;
mod programs;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::bpf::{self, Hook};
use super::{ConfineError, failed};

/// Most resolvers that are let through: what a C library reads of resolv.conf (MAXNS).
const MAX_RESOLVERS: usize = 3;

/// What of the host a VM may reach. By default, nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outbound {
    /// Addresses of the host where DNS is asked: on a host whose resolv.conf names a stub on the
    /// loopback (systemd-resolved: 127.0.0.53), QEMU's user network asks there for the guest, and
    /// without it a guest has no names. Port 53 only. Those beyond the third are not let through.
    pub resolvers: Vec<IpAddr>,
}

impl Outbound {
    fn resolvers(&self) -> &[IpAddr] {
        &self.resolvers[..self.resolvers.len().min(MAX_RESOLVERS)]
    }
}

/// All of them, and the one that decides last: where it is missing, nothing is filtered.
fn programs(outbound: &Outbound) -> [Program; 3] {
    let resolvers = outbound.resolvers();
    [
        Program {
            name: "casemate_conn4",
            hook: Hook::Connect4,
            instructions: programs::connect4(resolvers),
        },
        Program {
            name: "casemate_conn6",
            hook: Hook::Connect6,
            instructions: programs::connect6(resolvers),
        },
        Program {
            name: "casemate_egress",
            hook: Hook::Egress,
            instructions: programs::egress(resolvers),
        },
    ]
}

struct Program {
    name: &'static str,
    hook: Hook,
    instructions: Vec<bpf::Instruction>,
}

impl Program {
    fn load(&self) -> Result<OwnedFd, ConfineError> {
        bpf::load(self.hook, self.name, &self.instructions).map_err(|error| ConfineError::Load {
            program: self.name,
            log: error.log,
            source: error.source,
        })
    }

    fn failed(&self, path: &Path) -> impl FnOnce(io::Error) -> ConfineError {
        let (program, path) = (self.name, path.to_owned());
        move |source| ConfineError::Attach {
            program,
            path,
            source,
        }
    }
}

/// Loads all of it and attaches nothing.
pub(super) fn is_loadable() -> Result<(), ConfineError> {
    for program in programs(&Outbound::default()) {
        program.load()?;
    }
    Ok(())
}

pub(super) fn attach(cgroup: &Path, outbound: &Outbound) -> Result<(), ConfineError> {
    let directory = open(cgroup)?;
    for program in programs(outbound) {
        let loaded = program.load()?;
        if !is_there(&directory, &program, &loaded, cgroup)? {
            bpf::attach(directory.as_fd(), loaded.as_fd(), program.hook)
                .map_err(program.failed(cgroup))?;
        }
    }
    Ok(())
}

pub(super) fn is_attached(cgroup: &Path, outbound: &Outbound) -> Result<bool, ConfineError> {
    let directory = open(cgroup)?;
    for program in programs(outbound) {
        let loaded = program.load()?;
        if !is_there(&directory, &program, &loaded, cgroup)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_there(
    directory: &OwnedFd,
    program: &Program,
    loaded: &OwnedFd,
    cgroup: &Path,
) -> Result<bool, ConfineError> {
    let tag = bpf::tag(loaded.as_fd()).map_err(program.failed(cgroup))?;
    let tags = bpf::attached(directory.as_fd(), program.hook).map_err(program.failed(cgroup))?;
    Ok(tags.contains(&tag))
}

fn open(cgroup: &Path) -> Result<OwnedFd, ConfineError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(cgroup, flags, Mode::empty())
        .map_err(|errno| failed("open", cgroup)(errno.into()))
}
