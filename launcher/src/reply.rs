//! What the launcher answers: one line of JSON, with QEMU's pidfd beside it when it was started.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

/// Most bytes of an answer. An error's text is cut to fit, so that an answer is one piece.
pub const MAX_REPLY: usize = 16 << 10;
/// Most bytes of an error's text; escaped as JSON it grows to six times of this at worst.
const MAX_ERROR: usize = 2 << 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    Started(Started),
    Failed(Failed),
}

/// QEMU runs: its program was executed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Started {
    pub pid: u32,
    pub landlock: Enforcement,
}

/// How much of [`crate::spec::Landlock`] the kernel enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enforcement {
    NotAsked,
    /// The kernel has no Landlock, or it was left out at boot.
    None,
    /// The kernel's Landlock is older than what was asked for.
    Partial,
    Full,
}

/// Nothing was started, and the launcher is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failed {
    pub step: Step,
    pub error: String,
    /// What the system said, where it was the system that refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
}

/// What a launch was at when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Reading and judging the spec.
    Spec,
    /// Taking over what was inherited.
    Descriptors,
    /// Making the logs.
    Log,
    /// Limits, groups, user and capabilities.
    Privileges,
    /// Starting a process for QEMU.
    Spawn,
    Landlock,
    /// Executing QEMU's program.
    Exec,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Spec => "spec",
            Self::Descriptors => "descriptors",
            Self::Log => "log",
            Self::Privileges => "privileges",
            Self::Spawn => "spawn",
            Self::Landlock => "landlock",
            Self::Exec => "exec",
        })
    }
}

impl Failed {
    /// The error with all its causes, in one text of bounded length.
    pub fn new(step: Step, error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        let system = |error: &(dyn std::error::Error + 'static)| {
            error.downcast_ref().and_then(io::Error::raw_os_error)
        };
        let mut errno = None;
        while let Some(inner) = cause {
            text = format!("{text}: {inner}");
            errno = errno.or(system(inner));
            cause = inner.source();
        }
        let end = text.floor_char_boundary(MAX_ERROR);
        text.truncate(end);
        Self {
            step,
            error: text,
            errno,
        }
    }
}

impl Reply {
    /// Sends this as one piece, with `pidfd` beside it.
    pub fn send(&self, control: impl AsFd, pidfd: Option<&OwnedFd>) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = pidfd.map(AsFd::as_fd);
        if let Some(descriptors) = &descriptors {
            let message = SendAncillaryMessage::ScmRights(std::slice::from_ref(descriptors));
            if !ancillary.push(message) {
                return Err(io::Error::other("no room for a descriptor"));
            }
        }
        let sent = rustix::io::retry_on_intr(|| {
            let pieces = [IoSlice::new(&line)];
            rustix::net::sendmsg(
                control.as_fd(),
                &pieces,
                &mut ancillary,
                SendFlags::NOSIGNAL,
            )
        })?;
        if sent < line.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(())
    }

    /// Receives an answer and QEMU's pidfd, which has close-on-exec set. On a socket that does not
    /// block, this is to be called again when it would have.
    pub fn receive(control: impl AsFd) -> io::Result<(Self, Option<OwnedFd>)> {
        let mut line = vec![0; MAX_REPLY];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            rustix::net::recvmsg(
                control.as_fd(),
                &mut [IoSliceMut::new(&mut line)],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            )
        })?;
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let pidfd = ancillary
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
                _ => None,
            })
            .next();
        Ok((serde_json::from_slice(&line[..received.bytes])?, pidfd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_any_length_is_one_piece() {
        let (sender, receiver) = std::os::unix::net::UnixStream::pair().unwrap();
        // A control character is six bytes of JSON.
        let error = io::Error::other("\u{1}".repeat(1 << 20));
        let reply = Reply::Failed(Failed::new(Step::Exec, &error));
        reply.send(&sender, None).unwrap();
        let (received, pidfd) = Reply::receive(&receiver).unwrap();
        assert_eq!(received, reply);
        assert!(pidfd.is_none());
    }

    #[test]
    fn the_wire_is_what_the_documents_say() {
        let started = Reply::Started(Started {
            pid: 7,
            landlock: Enforcement::NotAsked,
        });
        let failed = Reply::Failed(Failed::new(Step::Exec, &io::Error::other("no")));
        let cases = [
            (started, r#"{"started":{"pid":7,"landlock":"not-asked"}}"#),
            (failed, r#"{"failed":{"step":"exec","error":"no"}}"#),
        ];
        for (reply, wire) in cases {
            assert_eq!(serde_json::to_string(&reply).unwrap(), wire);
        }
    }
}
