//! The backend that is judged: every call goes through here, to the daemon's own code, and whatever
//! comes back is judged at once. So a rule is held at every call and not at one that was thought of.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use casemate_attestation::Register;
use casemate_host::backend::{
    BackendError, BackendInfo, CallError, Fault, Launched, LoadedBackend, Optional,
};
use casemate_host::qemu::check::{CheckError, CheckedPlan, Knowledge, check};
use casemate_host::qemu::command::{
    self, DiskResources, Form, ImageSource, Resources, UserNetwork,
};
use casemate_host::spec::Origin;
use casemate_host::spec::facts::{FactQuestion, FactRecord, FactSource};
use casemate_host::spec::permissions::Permissions;
use casemate_host::spec::plan::{Finding, LaunchPlan};
use casemate_host::spec::request::{Choice, LaunchRequest};
use tokio::runtime::Runtime;

use crate::catalogue::{self as checks, Check};
use crate::classify;
use crate::draft::Draft;
use crate::facts::{MadeUpHost, everything_asked};
use crate::judge;
use crate::ledger::Ledger;
use crate::stage::{Stage, StageError};
use crate::witness::Witness;
use crate::world::World;

/// What is being tried, for the message and for the check that a trap counts against.
#[derive(Clone, Debug)]
pub(crate) struct Trial {
    pub(crate) check: &'static Check,
    pub(crate) what: String,
}

impl Trial {
    pub(crate) fn new(check: &'static Check, what: impl Into<String>) -> Self {
        Self {
            check,
            what: what.into(),
        }
    }
}

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    Planned(Box<Planned>),
    Refused(Refused),
    /// Not an answer; the ledger has why.
    Broken(Ending),
}

#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) error: BackendError,
    pub(crate) asked: Vec<FactQuestion>,
}

/// What `check` found.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) findings: Vec<Finding>,
    pub(crate) asked: Vec<FactQuestion>,
}

/// How a call ended without an answer that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// A trap, or a limit that was passed.
    Fault,
    /// An answer against the contract.
    Violation,
}

#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) request: LaunchRequest,
    pub(crate) plan: LaunchPlan,
    /// None where this host would not start it; `unfit` says why.
    pub(crate) checked: Option<CheckedPlan>,
    pub(crate) unfit: Option<String>,
    pub(crate) facts: FactRecord,
    pub(crate) asked: Vec<FactQuestion>,
    pub(crate) elapsed: Duration,
}

impl Outcome {
    /// The answer in a form that two calls are compared by.
    pub(crate) fn answer(&self) -> String {
        match self {
            Self::Planned(planned) => format!("{:?}", planned.plan),
            Self::Refused(refused) => format!("{:?}", refused.error),
            Self::Broken(ending) => format!("{ending:?}"),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Subject {
    /// Shared with what is loaded later of the same bytes, which is not compiled again.
    backend: Arc<LoadedBackend>,
    announced: Permissions,
    pub(crate) world: Rc<World>,
    stage: Rc<Stage>,
    runtime: Rc<Runtime>,
    witness: Rc<Witness>,
    /// `check` has no answer to the usual host, and is not asked again.
    check_is_left: Cell<bool>,
}

impl Subject {
    pub(crate) fn new(
        backend: LoadedBackend,
        world: World,
        runtime: Rc<Runtime>,
        witness: Rc<Witness>,
    ) -> Result<Self, StageError> {
        let own = world.golden.as_ref().map(|(folder, _)| folder.as_path());
        let stage = Rc::new(Stage::new(own)?);
        let announced = Permissions {
            // Which paths a host has is its operator's to say. That they are plain is judged.
            host_paths: ["/*".to_owned()].into(),
            ..backend.info().announced.clone()
        };
        Ok(Self {
            backend: Arc::new(backend.with_permissions(everything_asked())),
            announced,
            world: Rc::new(world),
            stage,
            runtime,
            witness,
            check_is_left: Cell::new(false),
        })
    }

    /// The same component with other settings of its operator, in the same world.
    #[must_use]
    pub(crate) fn of_another_config(&self, backend: LoadedBackend) -> Self {
        Self {
            backend: Arc::new(backend.with_permissions(everything_asked())),
            announced: self.announced.clone(),
            world: Rc::clone(&self.world),
            stage: Rc::clone(&self.stage),
            runtime: Rc::clone(&self.runtime),
            witness: Rc::clone(&self.witness),
            check_is_left: self.check_is_left.clone(),
        }
    }

    pub(crate) fn leave_check(&self) {
        self.check_is_left.set(true);
    }

    pub(crate) fn backend(&self) -> &Arc<LoadedBackend> {
        &self.backend
    }

    pub(crate) fn info(&self) -> &BackendInfo {
        self.backend.info()
    }

    pub(crate) fn optional(&self) -> Optional {
        self.backend.optional()
    }

    pub(crate) fn announced(&self) -> &Permissions {
        &self.announced
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// What the host of `draft` answers.
    pub(crate) fn host(&self, draft: &Draft) -> MadeUpHost {
        let changed = draft.facts.iter();
        let changed = changed.map(|fact| (fact.question.clone(), fact.answer.clone()));
        let answers = self.world.host.iter().cloned().chain(changed).collect();
        MadeUpHost::new(answers, self.world.rest, self.announced.clone())
    }

    pub(crate) fn request(&self, draft: &Draft) -> Result<LaunchRequest, StageError> {
        self.stage.request(draft, self.info())
    }

    /// Plans, and judges the answer.
    pub(crate) fn plan(&self, ledger: &mut Ledger, draft: &Draft, trial: &Trial) -> Outcome {
        let host = Arc::new(self.host(draft));
        let asked = Arc::clone(&host);
        self.plan_with(ledger, draft, trial, host, move || asked.asked())
    }

    /// The same with facts from elsewhere.
    pub(crate) fn plan_with(
        &self,
        ledger: &mut Ledger,
        draft: &Draft,
        trial: &Trial,
        source: Arc<dyn FactSource>,
        asked: impl FnOnce() -> Vec<FactQuestion>,
    ) -> Outcome {
        let request = match self.request(draft) {
            Ok(request) => request,
            Err(error) => {
                ledger.skip(trial.check, format!("{}: {error}", trial.what));
                return Outcome::Broken(Ending::Violation);
            }
        };
        ledger.tried(&checks::LIMITS);
        let call = self
            .backend
            .plan_with_extras(&request, &draft.extras, source);
        let answer = self.runtime.block_on(call);
        let asked = asked();
        judge::asked(ledger, draft, &self.announced, &asked);
        self.look_around(ledger, draft, trial);
        match answer {
            Ok(outcome) => {
                judge::plan(ledger, &self.world, draft, &outcome.plan);
                let mut planned = Planned {
                    request,
                    plan: outcome.plan,
                    checked: None,
                    unfit: None,
                    facts: outcome.facts,
                    asked,
                    elapsed: outcome.elapsed,
                };
                self.hold(ledger, draft, trial, &mut planned);
                tried_by(ledger, trial, planned.unfit.as_deref());
                Outcome::Planned(Box::new(planned))
            }
            Err(CallError::Backend(error)) => {
                ledger.tried(trial.check);
                judge::error(ledger, draft, "", &error);
                Outcome::Refused(Refused { error, asked })
            }
            Err(CallError::Fault { fault, .. }) => {
                ledger.tried(trial.check);
                let of_shape = |violation: &_| classify::of_plan(violation, draft);
                Outcome::Broken(self.fault(ledger, draft, trial, fault, of_shape))
            }
        }
    }

    /// The host's own judgement of a plan, by a QEMU that has everything. Of a plan that it would not
    /// start it has not looked at everything.
    fn hold(&self, ledger: &mut Ledger, draft: &Draft, trial: &Trial, planned: &mut Planned) {
        let (plan, request) = (&planned.plan, &planned.request);
        let aliases = self.world.aliases(draft);
        let knowledge = Knowledge::assumed(plan, request, &self.announced, &aliases);
        let first = &self.info().first_versions;
        match check(plan.clone(), request, &self.announced, first, knowledge) {
            Ok(checked) => planned.checked = Some(checked),
            Err(CheckError::Rule { argument, rule }) => {
                let broken = classify::of_judgement(&argument, &rule);
                ledger.fail(
                    broken,
                    format!("{}: {argument}: {rule}", trial.what),
                    Some(draft),
                );
            }
            Err(CheckError::Unsupported { what, .. }) => {
                planned.unfit = Some(what);
                return;
            }
            Err(CheckError::Probe(error)) => {
                planned.unfit = Some(error.to_string());
                return;
            }
        }
        for held in [
            &checks::OBJECTS_ANNOUNCED,
            &checks::DEVICES_ANNOUNCED,
            &checks::TEXTS_ANNOUNCED,
            &checks::PATHS,
            &checks::HOST_OWNED,
            &checks::FIRMWARE_OPTIONS,
        ] {
            ledger.tried(held);
        }
        let is_named = |choice: &Option<Choice>| {
            let choice = choice.as_ref();
            choice.is_some_and(|one| one.origin != Origin::BuiltIn)
        };
        for (held, applies) in [
            (&checks::MACHINE_NAMED, is_named(&draft.machine)),
            (&checks::CPU_NAMED, is_named(&draft.cpu)),
        ] {
            if applies {
                ledger.tried(held);
            }
        }
    }

    /// Asks `check`, and judges the findings.
    pub(crate) fn check(
        &self,
        ledger: &mut Ledger,
        draft: &Draft,
        trial: &Trial,
    ) -> Option<Checked> {
        if self.check_is_left.get() {
            return None;
        }
        let host = Arc::new(self.host(draft));
        let request = match self.request(draft) {
            Ok(request) => request,
            Err(error) => {
                ledger.skip(trial.check, format!("{}: {error}", trial.what));
                return None;
            }
        };
        ledger.tried(trial.check);
        ledger.tried(&checks::LIMITS);
        let source = Arc::<MadeUpHost>::clone(&host);
        let answer = self
            .runtime
            .block_on(self.backend.check(&request.host, source));
        judge::asked(ledger, draft, &self.announced, &host.asked());
        self.look_around(ledger, draft, trial);
        match answer {
            Ok(findings) => {
                ledger.tried(&checks::FINDINGS_FORM);
                judge::findings(ledger, Some(draft), &findings);
                Some(Checked {
                    findings,
                    asked: host.asked(),
                })
            }
            // `check` has no error of its own.
            Err(CallError::Backend(error)) => {
                ledger.fail(trial.check, format!("{}: {error}", trial.what), Some(draft));
                None
            }
            Err(CallError::Fault { fault, .. }) => {
                let of_shape = |violation: &_| classify::of_plan(violation, draft);
                self.fault(ledger, draft, trial, fault, of_shape);
                None
            }
        }
    }

    /// Measures a launch, and judges the registers.
    pub(crate) fn measure(
        &self,
        ledger: &mut Ledger,
        draft: &Draft,
        trial: &Trial,
        launch: &Launch<'_>,
    ) -> Option<Result<Vec<Register>, BackendError>> {
        ledger.tried(trial.check);
        let host = Arc::new(self.host(draft));
        let source = Arc::<MadeUpHost>::clone(&host);
        let launched = Launched {
            plan: launch.plan,
            arguments: launch.arguments,
            facts: launch.facts,
        };
        let call = self.backend.measure(launch.request, &launched, source);
        let answer = self.runtime.block_on(call);
        judge::asked(ledger, draft, &self.announced, &host.asked());
        self.look_around(ledger, draft, trial);
        match answer {
            Ok(None) => None,
            Ok(Some(outcome)) => {
                for held in [
                    &checks::REGISTERS_FORM,
                    &checks::REGISTER_VALUES,
                    &checks::REGISTERS_HONEST,
                ] {
                    ledger.tried(held);
                }
                judge::registers(ledger, draft, &trial.what, &outcome.registers);
                Some(Ok(outcome.registers))
            }
            Err(CallError::Backend(error)) => {
                judge::error(ledger, draft, "", &error);
                Some(Err(error))
            }
            Err(CallError::Fault { fault, .. }) => {
                self.fault(ledger, draft, trial, fault, classify::of_registers);
                None
            }
        }
    }

    /// Asks which tool is to be run, and has it read what such a tool could have said.
    pub(crate) fn tool(
        &self,
        ledger: &mut Ledger,
        draft: &Draft,
        launch: &Launch<'_>,
        outputs: &[&[u8]],
    ) {
        let trial = Trial::new(&checks::TOOL_ANSWERS, "the tool's command");
        let launched = Launched {
            plan: launch.plan,
            arguments: launch.arguments,
            facts: launch.facts,
        };
        ledger.tried(trial.check);
        let answer = self
            .runtime
            .block_on(self.backend.tool(launch.request, &launched));
        self.look_around(ledger, draft, &trial);
        match answer {
            Ok(wish) => {
                if wish.is_some() {
                    ledger.tried(&checks::TOOL_NAMED);
                }
            }
            Err(CallError::Backend(error)) => judge::error(ledger, draft, "", &error),
            Err(CallError::Fault { fault, .. }) => {
                self.fault(ledger, draft, &trial, fault, |_| &checks::TOOL_NAMED);
            }
        }
        for output in outputs {
            let what = format!("an output of {} bytes", output.len());
            let trial = Trial::new(&checks::TOOL_ANSWERS, what);
            ledger.tried(trial.check);
            let call = self
                .backend
                .tool_registers(launch.request, &launched, output);
            let answer = self.runtime.block_on(call);
            self.look_around(ledger, draft, &trial);
            match answer {
                Ok(_) => {}
                Err(CallError::Backend(error)) => {
                    judge::error(ledger, draft, &String::from_utf8_lossy(output), &error);
                }
                Err(CallError::Fault { fault, .. }) => {
                    self.fault(ledger, draft, &trial, fault, classify::of_registers);
                }
            }
        }
    }

    /// What the host noticed beside the answer.
    fn look_around(&self, ledger: &mut Ledger, draft: &Draft, trial: &Trial) {
        let seen = self.witness.take();
        let problem = seen
            .refused
            .first()
            .map(|asked| format!("{}: it asked for {asked}", trial.what));
        ledger.judge(&checks::READS_OWN, problem, Some(draft));
        // The made-up host sees those that have a form; these never reach a host.
        if let Some(question) = seen.questions.first() {
            let problem = format!(
                "{}: it asked for {question}, which no need can announce",
                trial.what
            );
            ledger.fail(&checks::FACTS_ANNOUNCED, problem, Some(draft));
        }
        let problem = (seen.dropped > 0)
            .then(|| format!("{}: {} log lines were dropped", trial.what, seen.dropped));
        ledger.judge(&checks::LOG_LINES, problem, Some(draft));
    }

    /// Books a fault: a limit and a broken rule are checks of their own, a trap counts against what was
    /// tried.
    fn fault(
        &self,
        ledger: &mut Ledger,
        draft: &Draft,
        trial: &Trial,
        fault: Fault,
        of_shape: impl Fn(&casemate_host::backend::Violation) -> &'static Check,
    ) -> Ending {
        let told = format!("{}: {fault}", trial.what);
        let (check, ending) = match &fault {
            Fault::Contract(violation) => (of_shape(violation), Ending::Violation),
            Fault::Timeout { .. }
            | Fault::MemoryLimit { .. }
            | Fault::OutputLimit { .. }
            | Fault::LogFlood { .. } => (&checks::LIMITS, Ending::Fault),
            Fault::Trap { .. } | Fault::Misfit { .. } => (trial.check, Ending::Fault),
        };
        ledger.fail(check, told, Some(draft));
        ending
    }
}

/// Books what was tried by a request that became a plan. What only the host's whole judgement shows was
/// not tried where it ended early.
fn tried_by(ledger: &mut Ledger, trial: &Trial, unfit: Option<&str>) {
    static OF_A_WHOLE_PLAN: [&Check; 4] = [
        &checks::MACHINE_NAMED,
        &checks::CPU_NAMED,
        &checks::FILES_USED,
        &checks::FIRMWARE_OPTIONS,
    ];
    match unfit {
        Some(why) if OF_A_WHOLE_PLAN.contains(&trial.check) => {
            ledger.skip(trial.check, format!("no host would start the plan: {why}"));
        }
        _ => ledger.tried(trial.check),
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) request: &'a LaunchRequest,
    pub(crate) plan: &'a LaunchPlan,
    pub(crate) arguments: &'a [String],
    pub(crate) facts: &'a FactRecord,
}

/// How files are called in arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileNames {
    /// `@kernel@`, as golden outcomes have them.
    ByRole,
    /// `@file:1@`, as a backend sees them that measures.
    ById,
}

/// The host's arguments for a checked plan, with `@…@` for what only a started VM has.
pub(crate) fn arguments(
    request: &LaunchRequest,
    checked: &CheckedPlan,
    names: FileNames,
) -> Result<Vec<String>, command::RenderError> {
    let files = request.host.files.iter().map(|file| {
        let name = match names {
            FileNames::ByRole => format!("@{}@", file.role),
            FileNames::ById => format!("@file:{}@", file.id),
        };
        (file.id, name)
    });
    let generated = checked.plan().generated.iter().map(|file| {
        let name = match names {
            FileNames::ByRole => format!("@generated:{}@", file.label),
            FileNames::ById => format!("@file:{}@", file.id),
        };
        (file.id, name)
    });
    let data_disks = request.data_disks.iter().map(|one| {
        let id = one.device_id();
        let path = ImageSource::Path(format!("@{id}@"));
        (id, path)
    });
    let shares = request
        .devices
        .iter()
        .filter(|device| device.kind == "share-9p");
    let resources = Resources {
        data_disks: data_disks.collect(),
        files: files.chain(generated).collect(),
        firmware_vars: Some("@firmware-vars@".to_owned()),
        disk: Some(DiskResources {
            overlay: "@disk@".to_owned(),
            controller_id: "scsi0".to_owned(),
            backing: None,
        }),
        shares: shares
            .map(|device| (device.id.clone(), format!("@{}@", device.id)))
            .collect(),
        console: "@console@".to_owned(),
        user_network: UserNetwork::Open,
    };
    let form = Form::Managed {
        qmp_fd: 3,
        kvm_fd: None,
        console_fd: None,
    };
    let id = "00000000-0000-4000-8000-000000000000";
    command::render(id, request, checked, &resources, &form)
}
