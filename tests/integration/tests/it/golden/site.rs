//! Runs a case: the component as the daemon loads it, facts from the case, files made here, the
//! host's own check and rendering.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::Arc;

use casemate_conformance::golden::cases::{self, Case, Cases, fact};
use casemate_conformance::golden::{configured, set};
use casemate_conformance::stage::Stage;
use casemate_conformance::world::usual;
use casemate_host::backend::{
    BackendConfig, BackendEngine, BackendError, CallError, Limits, LoadedBackend,
};
use casemate_host::qemu::check::{CheckError, CheckedPlan, Knowledge, check};
use casemate_host::qemu::command::{
    self, DiskResources, Form, ImageSource, Resources, UserNetwork,
};
use casemate_host::qemu::process::Credentials;
use casemate_host::qemu::schema::Qemu;
use casemate_host::spec::facts::FactRecord;
use casemate_host::spec::plan::{Finding, Firmware};
use casemate_host::spec::request::LaunchRequest;
use casemate_integration::artifacts;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::folder;

/// What becomes of a case.
#[derive(Debug)]
pub(crate) enum Outcome {
    Planned(Box<Launch>),
    /// The backend's own answer.
    Refused(BackendError),
    /// The host's: the plan does not fit this QEMU.
    Unfit(String),
}

#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) request: LaunchRequest,
    pub(crate) checked: CheckedPlan,
    /// With `@…@` for what only a started VM has.
    pub(crate) arguments: Vec<String>,
    pub(crate) findings: Vec<Finding>,
}

/// A backend with its cases.
#[derive(Debug)]
pub(crate) struct Site {
    backend: &'static str,
    engine: BackendEngine,
    /// Compiled once, also for the cases that set something.
    as_packaged: OnceCell<Arc<LoadedBackend>>,
    qemu: Qemu,
    /// No distribution builds QEMU with IGVM, so a scripted one says that it has the object.
    qemu_with_igvm: Qemu,
    pub(crate) cases: Cases,
    stage: Stage,
    /// Where the scripted QEMU is.
    _files: TempDir,
}

impl Site {
    /// `None`, and why on standard output, where there is no QEMU for this backend.
    pub(crate) fn open(backend: &'static str) -> Option<Self> {
        let qemu = artifacts::newest_qemu()?;
        let files = tempfile::tempdir().expect("a folder");
        Some(Self {
            backend,
            engine: BackendEngine::new(Limits::default()).expect("an engine"),
            as_packaged: OnceCell::new(),
            qemu: Qemu::new(qemu, Credentials::Daemon),
            qemu_with_igvm: Qemu::new(scripted_qemu(files.path()), Credentials::Daemon),
            cases: cases::read(&folder(backend)).expect("the cases are there"),
            stage: Stage::new(None).expect("a folder"),
            _files: files,
        })
    }

    /// As packaged, with the operator's settings of a case.
    async fn load(&self, case: &Case) -> Result<LoadedBackend, String> {
        let config: BackendConfig = artifacts::packaged_backend(self.backend)
            .try_into()
            .expect("the packaged backend is of the config's form");
        let config = configured(&config, case).expect("values that there are");
        let known = self.as_packaged.get().map_or(&[][..], slice::from_ref);
        let backend = LoadedBackend::load_after(&self.engine, &config, &[], known).await;
        backend.map_err(|error| casemate_host::backend::catalog::chain(&error))
    }

    pub(crate) fn facts(&self, case: &Case) -> FactRecord {
        let mut answers: BTreeMap<&String, &toml::Value> = self.cases.host.iter().collect();
        answers.extend(&case.facts);
        let mut record = FactRecord::default();
        for (question, answer) in answers {
            let (question, answer) = fact(question, answer).expect("a fact");
            assert!(
                record.insert(question, answer),
                "{}: too many facts",
                case.name
            );
        }
        record
    }

    pub(crate) fn request(
        &self,
        case: &Case,
        backend: &LoadedBackend,
    ) -> Result<LaunchRequest, String> {
        let draft = case.draft(&usual(backend.info()));
        let mut draft = draft.unwrap_or_else(|error| panic!("{error}"));
        set(&mut draft, backend, case).map_err(|error| error.to_string())?;
        let request = self.stage.request(&draft, backend.info());
        Ok(request.expect("its files can be made"))
    }

    /// Loads, plans, checks and renders.
    pub(crate) async fn run(&self, case: &Case) -> Outcome {
        if case.operator.is_empty() {
            let load = || async { Arc::new(self.load(case).await.expect("it loads as packaged")) };
            let backend = self.as_packaged.get_or_init(load).await;
            return self.run_loaded(backend, case).await;
        }
        match self.load(case).await {
            Ok(backend) => self.run_loaded(&backend, case).await,
            Err(error) => Outcome::Unfit(error),
        }
    }

    async fn run_loaded(&self, backend: &LoadedBackend, case: &Case) -> Outcome {
        let request = match self.request(case, backend) {
            Ok(request) => request,
            Err(error) => return Outcome::Unfit(error),
        };
        let facts = Arc::new(self.facts(case));
        let plan = match backend.plan(&request, facts).await {
            Ok(outcome) => outcome.plan,
            Err(CallError::Backend(error)) => return Outcome::Refused(error),
            Err(fault) => panic!(
                "{}: {}",
                case.name,
                casemate_host::backend::catalog::chain(&fault)
            ),
        };
        let findings = plan.findings.clone();
        let qemu = match plan.firmware {
            Firmware::Igvm(_) => &self.qemu_with_igvm,
            _ => &self.qemu,
        };
        let knowledge = Knowledge::gather(qemu, &plan, &request).await;
        let knowledge = knowledge.expect("QEMU answers");
        match check(
            plan,
            &request,
            backend.permissions(),
            &backend.info().first_versions,
            knowledge,
        ) {
            Ok(checked) => {
                let files = request.host.files.iter();
                let files = files.map(|file| (file.id, format!("@{}@", file.role)));
                let form = Form::Managed {
                    qmp_fd: 3,
                    kvm_fd: None,
                    console_fd: None,
                };
                let arguments = render(&request, &checked, files.collect(), &form);
                Outcome::Planned(Box::new(Launch {
                    request,
                    checked,
                    arguments,
                    findings,
                }))
            }
            Err(CheckError::Unsupported { what, .. }) => Outcome::Unfit(what),
            Err(error) => panic!("{}: the plan breaks a rule: {error}", case.name),
        }
    }
}

/// Members of the two objects as QEMU publishes them (10.1, qapi/qom.json: `IgvmCfgProperties`,
/// `SevCommonProperties` and `SevSnpGuestProperties`).
fn scripted_qemu(folder: &Path) -> PathBuf {
    let script = json!({"objects": {
        "igvm-cfg": {"file": "str"},
        "sev-snp-guest": {
            "sev-device?": "str",
            "cbitpos?": "int",
            "reduced-phys-bits": "int",
            "kernel-hashes?": "bool",
            "policy?": "int",
            "guest-visible-workarounds?": "str",
            "id-block?": "str",
            "id-auth?": "str",
            "author-key-enabled?": "bool",
            "host-data?": "str",
            "vcek-disabled?": "bool",
        },
    }});
    std::fs::write(folder.join("fake-qemu.script"), script.to_string()).expect("a script");
    artifacts::stage_program(&artifacts::program("fake-qemu"), folder)
}

/// The host's rendering with these paths of files.
pub(crate) fn render(
    request: &LaunchRequest,
    checked: &CheckedPlan,
    files: BTreeMap<u32, String>,
    form: &Form,
) -> Vec<String> {
    let shares = ["env_share", "certs_share"].map(|id| (id.to_owned(), format!("@{id}@")));
    let data_disks = request.data_disks.iter();
    let data_disks = data_disks.map(|one| {
        let id = one.device_id();
        let path = ImageSource::Path(format!("@{id}@"));
        (id, path)
    });
    let resources = Resources {
        data_disks: data_disks.collect(),
        files,
        firmware_vars: Some("@firmware-vars@".to_owned()),
        disk: Some(DiskResources {
            overlay: "@disk@".to_owned(),
            controller_id: "scsi0".to_owned(),
            backing: None,
        }),
        shares: shares.into(),
        console: "@console@".to_owned(),
        user_network: UserNetwork::Open,
    };
    let id = "00000000-0000-4000-8000-000000000000";
    command::render(id, request, checked, &resources, form).expect("a checked plan is rendered")
}
