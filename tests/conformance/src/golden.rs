//! L2: golden requests of the backend's own, and what they become.
//!
//! `cases.toml` has the requests; beside it lies for each its outcome: `NAME.args` with one argument a
//! line and what becomes no argument, or `NAME.refused` with code, subject, message and remedy.

pub mod cases;
pub mod images;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::slice;

use casemate_host::backend::catalog::chain;
use casemate_host::backend::settings::{SettingError, SettingValue};
use casemate_host::backend::{
    BackendConfig, BackendEngine, BackendError, LoadError, LoadedBackend,
};
use casemate_host::qemu::check::{CheckError, Knowledge, check};
use casemate_host::qemu::process::Credentials;
use casemate_host::qemu::schema::Qemu;
use casemate_host::spec::Origin;
use casemate_host::spec::plan::{Finding, Firmware, LaunchPlan, Value};
use casemate_host::spec::request::Setting;

use crate::catalogue as checks;
use crate::draft::Draft;
use crate::ledger::Ledger;
use crate::subject::{FileNames, Outcome, Planned, Subject, Trial, arguments};
use cases::{Case, Cases, CasesError};
use images::ImageError;

/// Fewer requests hold less than the rules of a technology.
const FEWEST: usize = 10;
/// Extensions of the two kinds of outcome.
const KINDS: [&str; 2] = ["args", "refused"];

/// What is done with the written outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    Held,
    /// Written anew, for a person to read the difference.
    Updated,
}

/// What became of a case, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// `args` or `refused`.
    pub kind: &'static str,
    pub text: String,
}

impl Text {
    /// The backend's own answer.
    pub fn refused(error: &BackendError) -> Self {
        Self {
            kind: "refused",
            text: format!(
                "{:?}\nsubject: {}\nmessage: {}\nremedy: {}\n",
                error.kind, error.subject, error.message, error.remedy
            ),
        }
    }

    /// The host's.
    pub fn unfit(reason: &str) -> Self {
        Self {
            kind: "refused",
            text: format!("by the host\nmessage: {reason}\n"),
        }
    }

    /// The arguments, and of the plan what becomes no argument.
    pub fn planned(arguments: &[String], plan: &LaunchPlan, findings: &[Finding]) -> Self {
        let mut text = arguments.join("\n");
        text.push('\n');
        for lease in &plan.leases {
            let _ = writeln!(text, "# takes {} of {}", lease.amount, lease.name);
        }
        let abilities: Vec<&str> = plan.abilities.iter().map(|one| one.name()).collect();
        let _ = writeln!(
            text,
            "# can {}; refuses {}; {} bytes beside the guest's",
            abilities.join(", "),
            plan.devices.refused.join(", "),
            plan.memory_overhead_bytes
        );
        for finding in findings {
            let _ = writeln!(
                text,
                "# {} {}: {}",
                finding.severity.as_str(),
                finding.id,
                finding.detail
            );
        }
        Self { kind: "args", text }
    }

    fn path(&self, folder: &Path, case: &str) -> PathBuf {
        folder.join(format!("{case}.{}", self.kind))
    }

    /// What is wrong with what is written, if anything.
    pub fn compare(&self, folder: &Path, case: &str) -> Option<String> {
        let path = self.path(folder, case);
        match std::fs::read_to_string(&path) {
            Ok(expected) if expected == self.text => None,
            Ok(expected) => Some(format!(
                "{case}: {}",
                first_difference(&expected, &self.text)
            )),
            Err(error) => {
                let other = KINDS.iter().find(|kind| **kind != self.kind);
                let other = other.map(|kind| folder.join(format!("{case}.{kind}")));
                let is_other = other.is_some_and(|path| path.exists());
                Some(if is_other {
                    format!("{case}: wanted is the other outcome; got\n{}", self.text)
                } else {
                    format!(
                        "{case}: {} cannot be read ({error}); --update-golden writes it",
                        path.display()
                    )
                })
            }
        }
    }

    /// Writes it in the place of any other outcome of the case.
    pub fn write(&self, folder: &Path, case: &str) -> std::io::Result<()> {
        for kind in KINDS {
            match std::fs::remove_file(folder.join(format!("{case}.{kind}"))) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::write(self.path(folder, case), &self.text)
    }
}

fn first_difference(expected: &str, got: &str) -> String {
    let lines = expected.lines().map(Some).chain(std::iter::repeat(None));
    let others = got.lines().map(Some).chain(std::iter::repeat(None));
    for (number, (one, other)) in (1..).zip(lines.zip(others)) {
        if one != other {
            let shown = |line: Option<&str>| line.unwrap_or("(nothing)").to_owned();
            return format!(
                "line {number}: wanted is {}; got {}",
                shown(one),
                shown(other)
            );
        }
        if one.is_none() {
            break;
        }
    }
    "they differ in line ends".to_owned()
}

/// Why golden requests could not be held against anything.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    #[error(transparent)]
    Cases(#[from] CasesError),
    #[error("{path:?} cannot be written: {source}", path = .path.display())]
    Write {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path:?} cannot be listed: {source}", path = .path.display())]
    List {
        path: PathBuf,
        source: std::io::Error,
    },
}

/// All that a run of golden requests needs.
#[derive(Debug)]
pub(crate) struct Golden<'a> {
    pub(crate) subject: &'a Subject,
    pub(crate) engine: &'a BackendEngine,
    pub(crate) config: &'a BackendConfig,
    pub(crate) qemu: Option<&'a Path>,
    pub(crate) written: Written,
}

impl Golden<'_> {
    pub(crate) fn run(&self, ledger: &mut Ledger) -> Result<(), GoldenError> {
        let world = Rc::clone(&self.subject.world);
        let Some((folder, cases)) = &world.golden else {
            return Ok(());
        };
        let qemu = self
            .qemu
            .map(|path| Qemu::new(path.to_owned(), Credentials::Daemon));
        ledger.skip(
            &checks::FITS_QEMU,
            match qemu {
                None => "no QEMU is named: --qemu PATH",
                Some(_) => "the named QEMU has machine and objects of no plan",
            },
        );
        let mut kinds = BTreeSet::new();
        for case in &cases.cases {
            let text = self.outcome(ledger, case, qemu.as_ref())?;
            let Some(text) = text else {
                continue;
            };
            kinds.insert(text.kind);
            match self.written {
                Written::Held => {
                    let problem = text.compare(folder, &case.name);
                    ledger.judge(&checks::GOLDEN, problem, None);
                }
                Written::Updated => {
                    ledger.tried(&checks::GOLDEN);
                    let written = text.write(folder, &case.name);
                    written.map_err(|source| GoldenError::Write {
                        path: folder.join(&case.name),
                        source,
                    })?;
                }
            }
        }
        owned(ledger, folder, cases)?;
        let count = cases.cases.len();
        let problem = (count < FEWEST || kinds.len() < KINDS.len()).then(|| {
            let kinds: Vec<&str> = kinds.into_iter().collect();
            format!(
                "there are {count} golden requests, whose outcomes are {}",
                kinds.join(" and ")
            )
        });
        ledger.judge(&checks::GOLDEN_BOTH, problem, None);
        Ok(())
    }

    /// Requests of the cases that reach a backend, one after the other: for some it is loaded again.
    pub(crate) fn starts(&self) -> impl Iterator<Item = Result<Draft, CasesError>> {
        let golden = self.subject.world.golden.as_ref();
        let cases = golden.into_iter().flat_map(|(_, cases)| &cases.cases);
        cases.filter_map(|case| self.draft(case).transpose())
    }

    /// The request of a case, with its settings and files. None: it is not one that reaches a backend.
    pub(crate) fn draft(&self, case: &Case) -> Result<Option<Draft>, CasesError> {
        let mut draft = case.draft(&self.subject.world.usual)?;
        let set = if case.operator.is_empty() {
            set(&mut draft, self.subject.backend(), case)
        } else {
            let Ok(config) = configured(self.config, case) else {
                return Ok(None);
            };
            match self.load(&config) {
                Ok(backend) => set(&mut draft, &backend, case),
                Err(_) => return Ok(None),
            }
        };
        Ok(set.is_ok().then_some(draft))
    }

    /// The same component with another config.
    fn load(&self, config: &BackendConfig) -> Result<LoadedBackend, LoadError> {
        let known = slice::from_ref(self.subject.backend());
        let load = LoadedBackend::load_after(self.engine, config, &[], known);
        self.subject.runtime().block_on(load)
    }

    /// None: the ledger has why.
    fn outcome(
        &self,
        ledger: &mut Ledger,
        case: &Case,
        qemu: Option<&Qemu>,
    ) -> Result<Option<Text>, GoldenError> {
        if case.operator.is_empty() {
            return self.of(self.subject, ledger, case, qemu);
        }
        let config = match configured(self.config, case) {
            Ok(config) => config,
            Err(error) => return Ok(failed(ledger, case, &error)),
        };
        match self.load(&config) {
            Ok(backend) => {
                let subject = self.subject.of_another_config(backend);
                self.of(&subject, ledger, case, qemu)
            }
            Err(error) => Ok(Some(Text::unfit(&chain(&error)))),
        }
    }

    fn of(
        &self,
        subject: &Subject,
        ledger: &mut Ledger,
        case: &Case,
        qemu: Option<&Qemu>,
    ) -> Result<Option<Text>, GoldenError> {
        let mut draft = case.draft(&subject.world.usual)?;
        match set(&mut draft, subject.backend(), case) {
            Ok(()) => {}
            Err(WishError::Image(error)) => return Ok(failed(ledger, case, &error)),
            Err(WishError::Setting(error)) => return Ok(Some(Text::unfit(&error.to_string()))),
        }
        if let Err(error) = subject.request(&draft) {
            return Ok(failed(ledger, case, &error));
        }
        let trial = Trial::new(&checks::GOLDEN, format!("golden request {:?}", case.name));
        Ok(match subject.plan(ledger, &draft, &trial) {
            Outcome::Planned(planned) => {
                if let Some(qemu) = qemu {
                    fits(subject, ledger, &draft, &planned, qemu, &trial);
                }
                text_of(ledger, case, &planned)
            }
            Outcome::Refused(refused) => Some(Text::refused(&refused.error)),
            Outcome::Broken(_) => {
                let problem = format!("{}: it has no answer that can be used", case.name);
                ledger.fail(&checks::GOLDEN, problem, Some(&draft));
                None
            }
        })
    }
}

fn failed(ledger: &mut Ledger, case: &Case, error: &dyn std::error::Error) -> Option<Text> {
    ledger.fail(&checks::GOLDEN, format!("{}: {error}", case.name), None);
    None
}

fn text_of(ledger: &mut Ledger, case: &Case, planned: &Planned) -> Option<Text> {
    let Some(checked) = &planned.checked else {
        return match &planned.unfit {
            Some(reason) => Some(Text::unfit(reason)),
            None => {
                let problem = format!("{}: its plan breaks a rule", case.name);
                ledger.fail(&checks::GOLDEN, problem, None);
                None
            }
        };
    };
    match arguments(&planned.request, checked, FileNames::ByRole) {
        Ok(arguments) => Some(Text::planned(
            &arguments,
            checked.plan(),
            &planned.plan.findings,
        )),
        Err(error) => failed(ledger, case, &error),
    }
}

/// A setting of a golden request that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WishError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Setting(#[from] SettingError),
}

/// The config of a backend with the operator's settings of a case.
pub fn configured(config: &BackendConfig, case: &Case) -> Result<BackendConfig, ImageError> {
    let mut config = config.clone();
    for (key, value) in &case.operator {
        let value = match value {
            toml::Value::String(text) => toml::Value::String(images::setting(text)?),
            other => other.clone(),
        };
        config.settings.insert(key.clone(), value);
    }
    Ok(config)
}

/// Puts the caller's settings and the operator's into `draft`, as the daemon reads them. The path of a
/// setting of kind `file` is a name of a file of golden requests.
pub fn set(draft: &mut Draft, backend: &LoadedBackend, case: &Case) -> Result<(), WishError> {
    let wishes = case.request.iter();
    let wishes = wishes.map(|(key, text)| Ok((key.clone(), images::setting(text)?)));
    let merged = backend.settings_for(&wishes.collect::<Result<_, ImageError>>()?)?;
    for (input, origin) in merged {
        let key = input.key;
        let value = match input.value {
            SettingValue::Plain(_) if origin == Origin::BuiltIn => continue,
            SettingValue::Plain(value) => value,
            SettingValue::File(name) => {
                let name = name.display().to_string();
                Value::File(draft.add_file(&format!("setting:{key}"), &name, origin))
            }
        };
        draft.settings.push(Setting { key, value, origin });
    }
    Ok(())
}

/// The plan against a QEMU that is there.
fn fits(
    subject: &Subject,
    ledger: &mut Ledger,
    draft: &Draft,
    planned: &Planned,
    qemu: &Qemu,
    trial: &Trial,
) {
    let (plan, request) = (&planned.plan, &planned.request);
    let knowledge = subject
        .runtime()
        .block_on(Knowledge::gather(qemu, plan, request));
    let knowledge = match knowledge {
        Ok(knowledge) => knowledge,
        Err(error) => {
            ledger.skip(&checks::FITS_QEMU, chain(&error));
            return;
        }
    };
    // Another release, or a build without something: it says nothing about the plan.
    if !has_types(&knowledge, plan) {
        return;
    }
    let first = &subject.info().first_versions;
    let held = check(plan.clone(), request, subject.announced(), first, knowledge);
    let problem = match held {
        Ok(_) => None,
        // Its aliases stand for other versions than those of the made-up host, which decide.
        Err(CheckError::Rule { argument, .. }) if argument == "machine" => None,
        Err(error) => Some(format!("{}: {error}", trial.what)),
    };
    ledger.judge(&checks::FITS_QEMU, problem, Some(draft));
}

fn has_types(knowledge: &Knowledge, plan: &LaunchPlan) -> bool {
    let info = &knowledge.info;
    let mut objects = plan.memory_backend.iter().chain(&plan.objects);
    info.machine(&plan.machine.kind).is_some()
        && objects.all(|object| info.object(&object.kind).is_some())
        && (!matches!(plan.firmware, Firmware::Igvm(_)) || info.object("igvm-cfg").is_some())
}

/// An outcome of a case that is gone would be held against nothing.
fn owned(ledger: &mut Ledger, folder: &Path, cases: &Cases) -> Result<(), GoldenError> {
    let list = |source| GoldenError::List {
        path: folder.to_owned(),
        source,
    };
    let names: BTreeSet<&str> = cases.cases.iter().map(|case| case.name.as_str()).collect();
    for entry in std::fs::read_dir(folder).map_err(list)? {
        let path = entry.map_err(list)?.path();
        let kind = path.extension().and_then(|kind| kind.to_str());
        let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else {
            continue;
        };
        if kind.is_some_and(|kind| KINDS.contains(&kind)) {
            let problem = (!names.contains(stem))
                .then(|| format!("{} is the outcome of no golden request", path.display()));
            ledger.judge(&checks::GOLDEN_OWNED, problem, None);
        }
    }
    Ok(())
}
