//! What the daemon tells the launcher: one line of JSON, and later the word `keep`.
//!
//! The launcher inherits the control socket as descriptor 0, `/dev/null` as 1 and 2, and all others
//! under the numbers that the spec names. What it inherits beyond that, it closes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::log::MAX_CAP;

/// Most bytes of a spec with its end of line. Arguments of QEMU have a few KiB; the kernel itself
/// takes at most a few MiB.
pub const MAX_SPEC: usize = 4 << 20;
/// The line by which the daemon says that the VM is recorded. Without it, the daemon's end is the
/// VM's end.
pub const KEEP: &str = "keep";
/// Standard streams, which a spec cannot give away.
const LAST_STANDARD_DESCRIPTOR: i32 = 2;
/// What setuid(2) and its kin take as "leave it".
const NO_ID: u32 = u32::MAX;

/// One QEMU to be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchSpec {
    /// Absolute path of QEMU.
    pub program: PathBuf,
    /// Arguments after the program's name.
    pub arguments: Vec<String>,
    /// Whom the launcher and QEMU become. Without one they stay who they are.
    pub user: Option<User>,
    /// Inherited descriptors that QEMU keeps under their numbers. The launcher closes its own
    /// copies as soon as QEMU runs.
    pub descriptors: Vec<i32>,
    pub console: LogFiles,
    pub stderr: LogFiles,
    /// An empty file for [`crate::exit::Exit`], open for reading and writing.
    pub exit: i32,
    /// Number under which QEMU gets the write end of the console's pipe. It must be free.
    pub console_fd: i32,
    pub caps: Caps,
    pub limits: Limits,
    pub landlock: Option<Landlock>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// All supplementary groups; those of the daemon are dropped.
    pub groups: Vec<u32>,
}

/// Two empty files for one [`crate::log`], open for reading and writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogFiles {
    pub head: i32,
    pub tail: i32,
}

/// Bytes that are kept of each stream: the first ones and the last ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caps {
    pub console_head: u64,
    pub console_tail: u64,
    pub stderr_head: u64,
    pub stderr_tail: u64,
}

/// Resource limits of QEMU, soft and hard. One that is above the launcher's own hard limit and
/// cannot be raised becomes that limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    pub open_files: u64,
    /// Processes and threads of the user, the launcher among them.
    pub processes: Option<u64>,
    /// Bytes.
    pub locked_memory: Option<u64>,
    /// Bytes of the longest file that QEMU may write, memory files among them.
    pub file_size: Option<u64>,
}

/// What QEMU may reach of the file system. Paths that do not exist are left out, and a kernel that
/// knows less enforces what it knows; [`crate::reply::Started`] says how much that was.
///
/// Whatever is listed, QEMU can signal no process but itself and connect to no abstract UNIX
/// socket of others, where the kernel has such scopes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Landlock {
    /// Files and folders that are read.
    pub read: Vec<PathBuf>,
    /// Files and folders that are read and executed: QEMU itself and its libraries.
    pub execute: Vec<PathBuf>,
    /// Files, devices and folders that are read and written; in folders, also made and removed.
    pub write: Vec<PathBuf>,
    /// Descriptors whose files QEMU opens again as `/proc/self/fd/N` to read them.
    pub read_descriptors: Vec<i32>,
    /// The same, to write to them.
    pub write_descriptors: Vec<i32>,
}

/// Why a spec is not acted upon.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error("the spec has more than {MAX_SPEC} bytes")]
    TooLong,
    #[error("the spec cannot be read")]
    Unreadable(#[source] std::io::Error),
    #[error("the spec ends within its line")]
    CutShort,
    #[error("the spec does not parse")]
    Json(#[from] serde_json::Error),
    #[error("{0:?} is no absolute path")]
    RelativeProgram(PathBuf),
    #[error("descriptor {0} is a standard stream or no descriptor")]
    StandardDescriptor(i32),
    #[error("descriptor {0} is named twice")]
    SharedDescriptor(i32),
    #[error("a log has a cap of {0} bytes; {MAX_CAP} is the most")]
    Cap(u64),
    #[error("user {uid}:{gid} is root or no user")]
    User { uid: u32, gid: u32 },
}

impl LaunchSpec {
    /// A spec from its line, with all that can be said without touching anything.
    pub fn parse(line: &[u8]) -> Result<Self, SpecError> {
        let spec: Self = serde_json::from_slice(line)?;
        if !spec.program.is_absolute() {
            return Err(SpecError::RelativeProgram(spec.program));
        }
        let mut numbers = spec.descriptors.clone();
        numbers.extend(spec.launcher_descriptors());
        numbers.push(spec.console_fd);
        numbers.sort_unstable();
        if let Some(number) = numbers.first()
            && *number <= LAST_STANDARD_DESCRIPTOR
        {
            return Err(SpecError::StandardDescriptor(*number));
        }
        if let Some(pair) = numbers.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(SpecError::SharedDescriptor(pair[0]));
        }
        let caps = spec.caps;
        let caps = [
            caps.console_head,
            caps.console_tail,
            caps.stderr_head,
            caps.stderr_tail,
        ];
        if let Some(cap) = caps.into_iter().find(|cap| *cap > MAX_CAP) {
            return Err(SpecError::Cap(cap));
        }
        if let Some(User { uid, gid, .. }) = spec.user
            && (uid == 0 || uid == NO_ID || gid == NO_ID)
        {
            return Err(SpecError::User { uid, gid });
        }
        Ok(spec)
    }

    /// Inherited descriptors that are the launcher's and not QEMU's.
    pub fn launcher_descriptors(&self) -> [i32; 5] {
        [
            self.console.head,
            self.console.tail,
            self.stderr.head,
            self.stderr.tail,
            self.exit,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> serde_json::Value {
        serde_json::json!({
            "program": "/usr/bin/qemu-system-x86_64",
            "arguments": ["-S"],
            "user": {"uid": 60_000, "gid": 60_000, "groups": [107]},
            "descriptors": [10, 11],
            "console": {"head": 20, "tail": 21},
            "stderr": {"head": 22, "tail": 23},
            "exit": 24,
            "console_fd": 12,
            "caps": {"console_head": 1, "console_tail": 2, "stderr_head": 3, "stderr_tail": 0},
            "limits": {"open_files": 1024, "processes": null, "locked_memory": 65_536},
            "landlock": {
                "read": ["/usr"], "execute": [], "write": ["/dev/kvm"],
                "read_descriptors": [10], "write_descriptors": [],
            },
        })
    }

    #[test]
    fn a_spec_survives_its_line() {
        let parsed = LaunchSpec::parse(spec().to_string().as_bytes()).unwrap();
        let line = serde_json::to_vec(&parsed).unwrap();
        assert_eq!(LaunchSpec::parse(&line).unwrap(), parsed);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let cases = [
            ("/program", serde_json::json!("qemu"), "absolute"),
            ("/descriptors", serde_json::json!([10, 10]), "twice"),
            ("/descriptors", serde_json::json!([24]), "twice"),
            ("/console_fd", serde_json::json!(21), "twice"),
            ("/descriptors", serde_json::json!([2]), "standard"),
            ("/exit", serde_json::json!(-1), "standard"),
            ("/caps/console_tail", serde_json::json!(u64::MAX), "cap"),
            ("/user/uid", serde_json::json!(0), "root"),
            ("/user/uid", serde_json::json!(u32::MAX), "no user"),
            ("/user/gid", serde_json::json!(u32::MAX), "no user"),
            ("/limits", serde_json::json!({"open": 3}), "parse"),
            ("/user", serde_json::json!({"uid": 1}), "parse"),
        ];
        for (pointer, value, expected) in cases {
            let mut spec = spec();
            *spec.pointer_mut(pointer).unwrap() = value;
            let error = LaunchSpec::parse(spec.to_string().as_bytes()).unwrap_err();
            assert!(error.to_string().contains(expected), "{pointer}: {error}");
        }
    }
}
