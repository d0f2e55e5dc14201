//! The WebAssembly engine that all backends share, the ticker that makes time pass for them, and
//! the limits of a call.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::{Config, Engine};

use super::digests::DigestCache;
use super::tier::Tier;

/// How often a running backend gives the thread back and its deadline is looked at.
const TICK: Duration = Duration::from_millis(10);

/// What one call may use. Each default has room for a component that a stock toolchain builds and
/// that does its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size of the component file. Compilation cannot be interrupted, and its time grows with it.
    pub component_bytes: usize,
    /// All linear memories of an instance together. Firmware is read in pieces, so a backend never
    /// has to hold a whole image.
    pub memory_bytes: usize,
    /// All table elements together; a table entry costs the host a pointer.
    pub table_elements: usize,
    /// Handles to resources that it has at the same time. The contract has no resources; this is
    /// wasmtime's own limit.
    pub handles: usize,
    /// What may be copied from the guest to the host in one call, in bytes of host memory.
    pub output_bytes: usize,
    /// Log lines of one call that reach the daemon's log; further ones are dropped and counted.
    pub log_lines: usize,
    /// Log lines after which a call is ended: nobody writes that many by mistake.
    pub log_lines_fatal: usize,
    /// Longest log line that is kept.
    pub log_line_bytes: usize,
    /// Deadline of one call, host calls included.
    pub call_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            component_bytes: 16 << 20,
            memory_bytes: 64 << 20,
            table_elements: 20_000,
            handles: 100_000,
            output_bytes: 8 << 20,
            log_lines: 100,
            log_lines_fatal: 10_000,
            log_line_bytes: 4 << 10,
            call_time: Duration::from_secs(5),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the WebAssembly engine does not start")]
pub struct EngineError(#[source] wasmtime::Error);

/// The engine and its ticker. The ticker ends with the last engine.
#[derive(Clone)]
pub struct BackendEngine {
    engine: Engine,
    limits: Limits,
    digests: Arc<DigestCache>,
}

impl std::fmt::Debug for BackendEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackendEngine")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl BackendEngine {
    pub fn new(limits: Limits) -> Result<Self, EngineError> {
        let mut config = Config::new();
        // Component-model async is neither in the contract nor needed, and costs on every call.
        config.epoch_interruption(true).concurrency_support(false);
        let engine = Engine::new(&config).map_err(EngineError)?;
        let weak = engine.weak();
        std::thread::Builder::new()
            .name("backend-ticker".to_owned())
            .spawn(move || {
                while let Some(engine) = weak.upgrade() {
                    engine.increment_epoch();
                    drop(engine);
                    std::thread::sleep(TICK);
                }
            })
            .map_err(|error| EngineError(wasmtime::Error::new(error)))?;
        Ok(Self {
            engine,
            limits,
            digests: Arc::default(),
        })
    }

    pub(super) fn wasmtime(&self) -> &Engine {
        &self.engine
    }

    pub(super) fn digests(&self) -> &Arc<DigestCache> {
        &self.digests
    }

    pub fn limits(&self, tier: Tier) -> Limits {
        tier.limits(self.limits)
    }
}
