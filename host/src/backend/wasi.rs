//! WASI 0.2 for backends of the tier `std`: all of it is linked, and nothing is behind it.
//!
//! A plan is a function of the request and of recorded facts, so what WASI answers is the same in
//! every call: no arguments, variables or files, an empty standard input, sockets that nobody may
//! open, a clock that stands still and a sequence of random bytes that is always the same. What a
//! program writes to its standard output and error goes to the log of the call.
//!
//! Time stands still for waits too. One for a later instant never ends by itself, and the call's
//! deadline ends it; a wait that did end would be a clock.

use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWrite;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::p2::{
    DynPollable, OutputStream, Pollable, StreamError, StreamResult, add_to_linker_async, subscribe,
};
use wasmtime_wasi::{
    Deterministic, HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxView, WasiView,
};

use super::call_log::SharedLog;
use super::imports::CallState;

/// What the wall clock shows: 2000-01-01T00:00:00Z. It is nobody's today, and later than what
/// programs take for a clock that was never set.
const WALL_CLOCK: Duration = Duration::from_secs(946_684_800);
/// What the monotonic clock shows, in nanoseconds: a day, because programs subtract from it.
const MONOTONIC_CLOCK: u64 = 86_400_000_000_000;
/// Neither clock has ever moved, so any resolution would do.
const RESOLUTION: Duration = Duration::from_nanos(1);
/// Bytes after which the random sequence begins anew: far more than a hash table or a generator is
/// seeded with.
const RANDOM_PERIOD: usize = 4 << 10;
/// Most random bytes of one call of WASI.
const MOST_RANDOM_BYTES: u64 = 64 << 10;
/// Streams, sockets and waits that a program has at the same time. Runtimes open the three standard
/// streams and little else.
const MOST_RESOURCES: usize = 1_000;
/// What a program may write at once. It is what other hosts of WASI allow.
const WRITE_PERMIT: usize = 64 << 10;
/// Levels of the log: standard output informs, standard error warns.
const STDOUT_LEVEL: u8 = 1;
const STDERR_LEVEL: u8 = 2;

/// Offers WASI to components.
pub(super) fn add_to_linker(linker: &mut Linker<CallState>) -> wasmtime::Result<()> {
    add_to_linker_async(linker)?;
    linker.allow_shadowing(true);
    monotonic_clock::add_to_linker::<_, StandingClock>(linker, |state| Clock(state.wasi().table))?;
    linker.allow_shadowing(false);
    Ok(())
}

impl WasiView for CallState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi()
    }
}

/// WASI of one call.
pub(super) struct Inert {
    ctx: WasiCtx,
    table: ResourceTable,
    outputs: [Output; 2],
}

impl std::fmt::Debug for Inert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inert")
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

impl Inert {
    pub(super) fn new(log: &SharedLog) -> Self {
        let outputs = [STDOUT_LEVEL, STDERR_LEVEL].map(|level| Output {
            log: log.clone(),
            level,
            line: Arc::default(),
        });
        let [stdout, stderr] = outputs.clone();
        let mut table = ResourceTable::new();
        table.set_max_capacity(MOST_RESOURCES);
        // Files, variables, arguments, input and network: there are none where none are given.
        let ctx = WasiCtx::builder()
            .stdout(stdout)
            .stderr(stderr)
            .wall_clock(Standing)
            .monotonic_clock(Standing)
            .secure_random(Deterministic::new(RANDOM.to_vec()))
            .insecure_random(Deterministic::new(RANDOM.to_vec()))
            .insecure_random_seed(0)
            .max_random_size(MOST_RANDOM_BYTES)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .build();
        Self {
            ctx,
            table,
            outputs,
        }
    }

    pub(super) fn view(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.ctx,
            table: &mut self.table,
        }
    }

    /// Writes down the lines that have not ended.
    pub(super) fn finish(&self) {
        for output in &self.outputs {
            // A flood is an end of a call, and this one has ended.
            let _ = output.line().end(output);
        }
    }
}

/// The random sequence of every call: a chain of digests, which no release of a library changes.
static RANDOM: LazyLock<[u8; RANDOM_PERIOD]> = LazyLock::new(|| {
    let mut bytes = [0; RANDOM_PERIOD];
    let mut link = Sha256::digest(b"casemate backend");
    for piece in bytes.chunks_exact_mut(link.len()) {
        piece.copy_from_slice(&link);
        link = Sha256::digest(link);
    }
    bytes
});

/// Both clocks.
struct Standing;

impl HostWallClock for Standing {
    fn resolution(&self) -> Duration {
        RESOLUTION
    }

    fn now(&self) -> Duration {
        WALL_CLOCK
    }
}

impl HostMonotonicClock for Standing {
    fn resolution(&self) -> u64 {
        RESOLUTION.subsec_nanos().into()
    }

    fn now(&self) -> u64 {
        MONOTONIC_CLOCK
    }
}

struct StandingClock;

impl HasData for StandingClock {
    type Data<'a> = Clock<'a>;
}

/// The monotonic clock as programs see it. The library's own has waits that follow the host's clock.
struct Clock<'a>(&'a mut ResourceTable);

impl Clock<'_> {
    fn wait(&mut self, wait: Wait) -> wasmtime::Result<Resource<DynPollable>> {
        let wait = self.0.push(wait)?;
        subscribe(self.0, wait)
    }
}

impl monotonic_clock::Host for Clock<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(HostMonotonicClock::now(&Standing))
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(HostMonotonicClock::resolution(&Standing))
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.wait(if when <= MONOTONIC_CLOCK {
            Wait::Over
        } else {
            Wait::Endless
        })
    }

    fn subscribe_duration(&mut self, time: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.wait(if time == 0 { Wait::Over } else { Wait::Endless })
    }
}

enum Wait {
    Over,
    Endless,
}

#[wasmtime_wasi::async_trait]
impl Pollable for Wait {
    async fn ready(&mut self) {
        match self {
            // A program that waits for nothing again and again is stopped by the ticker as any other.
            Self::Over => {}
            Self::Endless => std::future::pending().await,
        }
    }
}

/// Standard output or error. All streams of a program that are the same output share its line.
#[derive(Clone)]
struct Output {
    log: SharedLog,
    level: u8,
    line: Arc<Mutex<Line>>,
}

/// What was written since the last newline.
#[derive(Debug, Default)]
struct Line(Vec<u8>);

impl Output {
    fn line(&self) -> std::sync::MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, bytes: &[u8]) -> StreamResult<()> {
        let most = self.log.longest_line();
        let mut line = self.line();
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = rest.len().min(most.saturating_sub(line.0.len()));
            let newline = rest[..room].iter().position(|byte| *byte == b'\n');
            let end = newline.unwrap_or(room);
            line.0.extend_from_slice(&rest[..end]);
            rest = &rest[end + usize::from(newline.is_some())..];
            // What has no end is as many lines as it is long, so that it meets their limit.
            if newline.is_some() || line.0.len() >= most {
                line.end(self)?;
            }
        }
        Ok(())
    }
}

impl Line {
    fn end(&mut self, output: &Output) -> StreamResult<()> {
        let line = std::mem::take(&mut self.0);
        if line.is_empty() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line);
        output
            .log
            .write(output.level, &text)
            .map_err(StreamError::Trap)
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    /// WASI 0.3 asks for it, which is not linked.
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        Output::write(self, &bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_PERMIT)
    }
}
