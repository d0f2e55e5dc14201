//! What a backend says during one call: lines for the daemon's log, limited in number and length.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::engine::Limits;
use crate::spec::printable;

/// Last log lines that a fault shows.
const FAULT_LOG_LINES: usize = 5;

/// The log of one call, for all that writes to it.
#[derive(Clone, Debug)]
pub(super) struct SharedLog {
    backend: Arc<str>,
    limits: Limits,
    lines: Arc<Mutex<Lines>>,
}

#[derive(Debug, Default)]
struct Lines {
    written: usize,
    /// Last lines as they came, for the message of a fault: a panic text arrives here.
    tail: Vec<String>,
    flooded: bool,
}

impl SharedLog {
    pub(super) fn new(backend: &Arc<str>, limits: Limits) -> Self {
        Self {
            backend: Arc::clone(backend),
            limits,
            lines: Arc::default(),
        }
    }

    pub(super) fn backend(&self) -> &str {
        &self.backend
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error is to end the call: nobody writes that many lines by mistake.
    pub(super) fn write(&self, level: u8, message: &str) -> wasmtime::Result<()> {
        let limits = self.limits;
        let mut lines = self.lines();
        lines.written += 1;
        if lines.written > limits.log_lines_fatal {
            lines.flooded = true;
            return Err(wasmtime::Error::msg("log flood"));
        }
        let mut end = message.len().min(limits.log_line_bytes);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        let line = &message[..end];
        if lines.tail.len() == FAULT_LOG_LINES {
            lines.tail.remove(0);
        }
        lines.tail.push(line.to_owned());
        if lines.written <= limits.log_lines {
            let (backend, line) = (&*self.backend, printable(line));
            match level {
                0 => tracing::debug!(backend, "{line}"),
                1 => tracing::info!(backend, "{line}"),
                2 => tracing::warn!(backend, "{line}"),
                _ => tracing::error!(backend, "{line}"),
            }
        }
        Ok(())
    }

    /// Bytes of a line that are kept.
    pub(super) fn longest_line(&self) -> usize {
        self.limits.log_line_bytes
    }

    pub(super) fn dropped(&self) -> usize {
        self.lines().written.saturating_sub(self.limits.log_lines)
    }

    pub(super) fn flooded(&self) -> bool {
        self.lines().flooded
    }

    pub(super) fn tail(&self) -> String {
        printable(&self.lines().tail.join("; "))
    }
}
