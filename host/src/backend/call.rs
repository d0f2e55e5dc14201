//! One call into a backend: a fresh store, a deadline, and a typed end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_attestation::Register;
use wasmtime::Store;
use wasmtime::component::Instance;
use wasmtime_wasi::I32Exit;

use super::bindings::casemate::tee::types as wit;
use super::bindings::measurement::MeasurementPart;
use super::bindings::tool::MeasurementToolPart;
use super::bindings::{TeeBackend, TeeBackendPre};
use super::call_log::SharedLog;
use super::component::LoadedBackend;
use super::convert::{self, Violation};
use super::engine::Limits;
use super::imports::{self, Access, CallState, MemoryLimiter};
use super::registers;
use crate::spec::facts::{FactRecord, FactSource};
use crate::spec::permissions::Permissions;
use crate::spec::plan::{Finding, LaunchPlan};
use crate::spec::request::{HostContext, LaunchRequest, RequestFile};

/// Bytes that are hashed in a second at least, on a machine that does much else.
const SLOWEST_HASH: u64 = 32 << 20;

/// The backend broke: a trap, a limit, or an answer against the contract. Its vendor must act.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("it trapped: {message}{}", said(.log))]
    Trap { message: String, log: String },
    #[error("it did not answer within {} ms", .limit.as_millis())]
    Timeout { limit: Duration },
    #[error("it wanted more than {} MiB of memory", .limit >> 20)]
    MemoryLimit { limit: usize },
    #[error("its answer is larger than {} KiB", .limit >> 10)]
    OutputLimit { limit: usize },
    #[error("it wrote more than {limit} log lines in one call")]
    LogFlood { limit: usize },
    #[error("its functions are not those of the contract: {message}")]
    Misfit { message: String },
    #[error("its answer breaks a rule: {0}")]
    Contract(#[from] Violation),
}

fn said(log: &str) -> String {
    if log.is_empty() {
        String::new()
    } else {
        format!(" (it said: {log})")
    }
}

impl Fault {
    /// Stable name for metrics and events.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Trap { .. } => "trap",
            Self::Timeout { .. } => "timeout",
            Self::MemoryLimit { .. } => "memory-limit",
            Self::OutputLimit { .. } => "output-limit",
            Self::LogFlood { .. } => "log-flood",
            Self::Misfit { .. } => "misfit",
            Self::Contract(_) => "contract",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendErrorKind {
    UnsupportedHost,
    InvalidRequest,
    UnsuitableFile,
    Unavailable,
    Other,
}

/// The backend's own answer that it cannot do what was asked.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{subject}: {message}")]
pub struct BackendError {
    pub kind: BackendErrorKind,
    pub subject: String,
    pub message: String,
    pub remedy: String,
    pub details: Vec<(String, String)>,
}

#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error(transparent)]
    Backend(BackendError),
    #[error("backend {backend:?} is at fault: {fault}")]
    Fault { backend: String, fault: Fault },
}

/// A plan with the facts it was made from.
#[derive(Clone, Debug)]
pub struct PlanOutcome {
    pub plan: LaunchPlan,
    pub facts: FactRecord,
    pub elapsed: Duration,
}

/// The registers of a launch, with all facts of its plan and of its measurement.
#[derive(Clone, Debug)]
pub struct MeasureOutcome {
    pub registers: Vec<Register>,
    pub facts: FactRecord,
    pub elapsed: Duration,
}

/// A tool that the backend wants to be asked, if config allows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolWish {
    pub program: String,
    pub arguments: Vec<ToolArgument>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolArgument {
    Text(String),
    /// A path under which the tool reads the file.
    File(u32),
    /// The whole launch command, spliced in.
    LaunchCommand,
}

type CallFuture<'a, R> = Pin<Box<dyn Future<Output = wasmtime::Result<R>> + Send + 'a>>;

/// Runs `call` in a store of its own and returns its answer with the facts it asked for.
pub(super) async fn run<R, F>(
    pre: &TeeBackendPre<CallState>,
    backend: &Arc<str>,
    limits: Limits,
    access: Access,
    call: F,
) -> Result<(R, FactRecord), Fault>
where
    R: Send,
    F: for<'a> FnOnce(&'a Instance, &'a mut Store<CallState>) -> CallFuture<'a, R> + Send,
{
    let state = CallState {
        record: access.earlier_facts(),
        access,
        memory: MemoryLimiter::new(limits),
        log: SharedLog::new(backend, limits),
        deadline: Instant::now() + limits.call_time,
        wasi: None,
    };
    let mut store = Store::new(pre.engine(), state);
    store.limiter(|state| &mut state.memory);
    store.set_hostcall_fuel(limits.output_bytes);
    store.set_max_component_handles(limits.handles);
    // Before the first instruction: without a deadline an instance traps at once.
    store.set_epoch_deadline(1);
    store.epoch_deadline_async_yield_and_update(1);
    // A store is never used again after a fault, a deadline or an answer.
    let result = tokio::time::timeout(limits.call_time, async {
        let instance = pre.instance_pre().instantiate_async(&mut store).await?;
        call(&instance, &mut store).await
    })
    .await;
    let state = store.into_data();
    if let Some(wasi) = &state.wasi {
        wasi.finish();
    }
    if state.log.dropped() > 0 {
        tracing::warn!(
            backend = &**backend,
            dropped = state.log.dropped(),
            "log lines dropped"
        );
    }
    match result {
        Err(_) => Err(Fault::Timeout {
            limit: limits.call_time,
        }),
        Ok(Ok(answer)) => Ok((answer, state.record)),
        Ok(Err(error)) => Err(fault_of(&error, &state, limits)),
    }
}

/// Types of exported functions are compared when they are looked up, and at no earlier step.
pub(super) fn fitting<T>(found: wasmtime::Result<T>) -> wasmtime::Result<T> {
    found.map_err(|error| wasmtime::Error::from(Misfit(format!("{error:#}"))))
}

/// Exports of other types, told apart from what a call itself may end with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Misfit(String);

fn fault_of(error: &wasmtime::Error, state: &CallState, limits: Limits) -> Fault {
    if let Some(Misfit(message)) = error.downcast_ref() {
        return Fault::Misfit {
            message: crate::spec::printable(message),
        };
    }
    if state.log.flooded() {
        return Fault::LogFlood {
            limit: limits.log_lines_fatal,
        };
    }
    // A guest that was refused memory aborts, which alone looks like any other trap.
    if state.memory.refused {
        return Fault::MemoryLimit {
            limit: limits.memory_bytes,
        };
    }
    // wasmtime's own type for this is private, so its text has to tell; a test holds it.
    if error
        .chain()
        .any(|cause| cause.to_string().contains("fuel allocated for hostcalls"))
    {
        return Fault::OutputLimit {
            limit: limits.output_bytes,
        };
    }
    let message = if let Some(trap) = error.downcast_ref::<wasmtime::Trap>() {
        trap.to_string()
    } else if let Some(I32Exit(status)) = error.downcast_ref() {
        format!("it ended itself with status {status}")
    } else {
        crate::spec::printable(&format!("{error:#}"))
    };
    Fault::Trap {
        message,
        log: state.log.tail(),
    }
}

/// What is measured: a checked plan, and every argument with files as `@file:ID@`.
#[derive(Clone, Copy, Debug)]
pub struct Launched<'a> {
    pub plan: &'a LaunchPlan,
    pub arguments: &'a [String],
    /// What the plan was made from.
    pub facts: &'a FactRecord,
}

impl Launched<'_> {
    fn to_wit(self) -> wit::Launch {
        wit::Launch {
            plan: convert::plan_to_wit(self.plan),
            arguments: self.arguments.to_vec(),
        }
    }
}

impl LoadedBackend {
    /// The plan for `request`, with the facts that `source` answered.
    pub async fn plan(
        &self,
        request: &LaunchRequest,
        source: Arc<dyn FactSource>,
    ) -> Result<PlanOutcome, CallError> {
        self.plan_with_extras(request, &[], source).await
    }

    /// The same with `extras`: keys that a later minor of the contract may bring, and that a backend
    /// which does not know them has to ignore.
    pub async fn plan_with_extras(
        &self,
        request: &LaunchRequest,
        extras: &[(String, String)],
        source: Arc<dyn FactSource>,
    ) -> Result<PlanOutcome, CallError> {
        let started = Instant::now();
        let mut wit = convert::request_to_wit(request);
        wit.extras = convert::extras_to_wit(extras);
        let access = self.access(&request.host, source);
        let (answer, facts) = self
            .call(access, |instance, store| {
                Box::pin(async move {
                    let backend = fitting(TeeBackend::new(&mut *store, instance))?;
                    backend.casemate_tee_backend().call_plan(store, &wit).await
                })
            })
            .await?;
        let plan = answer.map_err(|error| CallError::Backend(convert::error_from_wit(error)))?;
        let plan = convert::plan_from_wit(plan, request, self.info())
            .map_err(|violation| self.fault(violation.into()))?;
        Ok(PlanOutcome {
            plan,
            facts,
            elapsed: started.elapsed(),
        })
    }

    /// Whether VMs of this kind can be started here.
    pub async fn check(
        &self,
        host: &HostContext,
        source: Arc<dyn FactSource>,
    ) -> Result<Vec<Finding>, CallError> {
        let wit = convert::host_to_wit(host);
        let access = self.access(host, source);
        let (findings, _) = self
            .call(access, |instance, store| {
                Box::pin(async move {
                    let backend = fitting(TeeBackend::new(&mut *store, instance))?;
                    backend.casemate_tee_backend().call_check(store, &wit).await
                })
            })
            .await?;
        convert::findings_from_wit(findings).map_err(|violation| self.fault(violation.into()))
    }

    /// The registers that a verifier will see of `launch`, or none where the backend measures
    /// nothing. Facts that the plan was made from are not asked for again.
    pub async fn measure(
        &self,
        request: &LaunchRequest,
        launch: &Launched<'_>,
        source: Arc<dyn FactSource>,
    ) -> Result<Option<MeasureOutcome>, CallError> {
        if !self.optional().measurement {
            return Ok(None);
        }
        let started = Instant::now();
        let (request_wit, launch_wit) = (convert::request_to_wit(request), launch.to_wit());
        let access = self
            .access(&request.host, source)
            .after(launch.facts.clone());
        let (answer, facts) = self
            .call(access, |instance, store| {
                Box::pin(async move {
                    let part = fitting(MeasurementPart::new(&mut *store, instance))?;
                    let measurement = part.casemate_tee_measurement();
                    measurement
                        .call_measure(store, &request_wit, &launch_wit)
                        .await
                })
            })
            .await?;
        let registers = self.registers(answer)?;
        Ok(Some(MeasureOutcome {
            registers,
            facts,
            elapsed: started.elapsed(),
        }))
    }

    /// The tool that is to be asked about `launch`, where the backend knows one.
    pub async fn tool(
        &self,
        request: &LaunchRequest,
        launch: &Launched<'_>,
    ) -> Result<Option<ToolWish>, CallError> {
        if !self.optional().tool {
            return Ok(None);
        }
        let (request_wit, launch_wit) = (convert::request_to_wit(request), launch.to_wit());
        let access = self.access(&request.host, Arc::new(launch.facts.clone()));
        let (answer, _) = self
            .call(access, |instance, store| {
                Box::pin(async move {
                    let part = fitting(MeasurementToolPart::new(&mut *store, instance))?;
                    let tool = part.casemate_tee_measurement_tool();
                    tool.call_command(store, &request_wit, &launch_wit).await
                })
            })
            .await?;
        let wish = answer.map_err(|error| CallError::Backend(convert::error_from_wit(error)))?;
        wish.map(|wish| convert::tool_from_wit(wish, request))
            .transpose()
            .map_err(|violation| self.fault(violation.into()))
    }

    /// What the tool's output says.
    pub async fn tool_registers(
        &self,
        request: &LaunchRequest,
        launch: &Launched<'_>,
        output: &[u8],
    ) -> Result<Vec<Register>, CallError> {
        let (request_wit, launch_wit) = (convert::request_to_wit(request), launch.to_wit());
        let access = self.access(&request.host, Arc::new(launch.facts.clone()));
        let output = output.to_vec();
        let (answer, _) = self
            .call(access, |instance, store| {
                Box::pin(async move {
                    let part = fitting(MeasurementToolPart::new(&mut *store, instance))?;
                    let tool = part.casemate_tee_measurement_tool();
                    tool.call_parse(store, &request_wit, &launch_wit, &output)
                        .await
                })
            })
            .await?;
        self.registers(answer)
    }

    /// The SHA-384 of a file. Of a large one the other digest that backends ask for is computed too:
    /// within the time of a call there may be no time for it.
    pub async fn file_digest(&self, file: &RequestFile) -> Result<Vec<u8>, String> {
        let seconds = file.size / SLOWEST_HASH;
        let time = self.limits().call_time + Duration::from_secs(seconds);
        if seconds > 0 {
            let deadline = Instant::now() + time;
            imports::whole_digest(self.digests(), file, "sha-256", deadline).await?;
        }
        imports::whole_digest(self.digests(), file, "sha-384", Instant::now() + time).await
    }

    fn registers(
        &self,
        answer: Result<Vec<wit::Register>, wit::Error>,
    ) -> Result<Vec<Register>, CallError> {
        let registers =
            answer.map_err(|error| CallError::Backend(convert::error_from_wit(error)))?;
        registers::from_wit(registers).map_err(|violation| self.fault(violation.into()))
    }

    fn access(&self, host: &HostContext, source: Arc<dyn FactSource>) -> Access {
        Access::Host {
            files: host.files.clone().into(),
            facts: source,
            earlier: FactRecord::default(),
            digests: Arc::clone(self.digests()),
            permissions: Arc::<Permissions>::clone(self.permissions()),
        }
    }

    async fn call<R, F>(&self, access: Access, call: F) -> Result<(R, FactRecord), CallError>
    where
        R: Send,
        F: for<'a> FnOnce(&'a Instance, &'a mut Store<CallState>) -> CallFuture<'a, R> + Send,
    {
        run(self.pre(), self.name_handle(), self.limits(), access, call)
            .await
            .map_err(|fault| self.fault(fault))
    }

    /// A fault of this backend, for the host's own checks of a plan.
    pub fn fault(&self, fault: Fault) -> CallError {
        CallError::Fault {
            backend: self.name().to_owned(),
            fault,
        }
    }
}
