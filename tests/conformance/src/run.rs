//! A whole run: from a path to a report.

use std::path::{Path, PathBuf};
use std::rc::Rc;

pub use casemate_host::backend::Tier;
use casemate_host::backend::catalog::chain;
use casemate_host::backend::{BackendEngine, BackendInfo, Limits, LoadError, Optional, Protection};
use casemate_host::regular_file;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Builder;

use crate::catalogue::{CHECKS, Check, Claim, Level};
use crate::contract::{self, Chance, ReplayError, Tried};
use crate::expect::{ExpectError, Expectations};
use crate::golden::cases::CasesError;
use crate::golden::{Golden, GoldenError, Written, cases};
use crate::keep::{self, KeepError};
use crate::ledger::Ledger;
use crate::load::{self, Loaded};
use crate::report::{Identity, Provenance, Report, Scope};
use crate::resilience::{self, Component};
use crate::stage::StageError;
use crate::subject::Subject;
use crate::witness::Witness;
use crate::world::World;

/// The contract that the suite holds a backend to.
const CONTRACT: [&str; 2] = [
    include_str!("../../../wit/types.wit"),
    include_str!("../../../wit/world.wit"),
];
/// Where a project has its golden requests.
const OWN_GOLDEN: &str = "tests/golden";

#[derive(Clone, Debug)]
pub struct Options {
    pub component: PathBuf,
    pub tier: Tier,
    pub level: Level,
    pub chance: Chance,
    /// None: those beside the component's project, if there are any.
    pub golden: Option<PathBuf>,
    pub written: Written,
    pub qemu: Option<PathBuf>,
    pub expectations: Option<PathBuf>,
    /// Run this one request instead of all.
    pub replay: Option<PathBuf>,
}

/// Why there is no report. Nothing is said about the backend.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("the component {path:?} cannot be read: {source}", path = .path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("no runtime starts: {0}")]
    Runtime(#[source] std::io::Error),
    #[error("{}", chain(.0))]
    Load(LoadError),
    #[error("{}", chain(.0))]
    Engine(casemate_host::backend::engine::EngineError),
    #[error(transparent)]
    Cases(#[from] CasesError),
    #[error(transparent)]
    Golden(#[from] GoldenError),
    #[error(transparent)]
    Expect(#[from] ExpectError),
    #[error(transparent)]
    Keep(#[from] KeepError),
    #[error(transparent)]
    Replay(#[from] ReplayError),
    #[error(transparent)]
    Stage(#[from] StageError),
}

impl RunError {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } | Self::Load(_) => {
                "name the component's file, which the user can read"
            }
            Self::Runtime(_) | Self::Engine(_) => "free memory or threads, and run it again",
            Self::Cases(_) | Self::Golden(_) => {
                "mend the folder of golden requests, or name another with --golden"
            }
            Self::Expect(_) => "mend the file that --expect names",
            Self::Keep(_) => "name a folder that can be written, or a file that --keep wrote",
            Self::Replay(_) => {
                "run the suite with the seed that the kept file has, without --replay"
            }
            Self::Stage(_) => "make room in the folder for temporary files (TMPDIR)",
        }
    }
}

/// Runs what `options` say.
pub fn run(options: &Options) -> Result<Report, RunError> {
    let expectations = match &options.expectations {
        Some(path) => Expectations::read(path)?,
        None => Expectations::default(),
    };
    let replay = options.replay.as_deref().map(keep::read).transpose()?;
    let bytes = read(&options.component, options.tier)?;
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = Rc::new(runtime.map_err(RunError::Runtime)?);
    let witness = Rc::new(Witness::begin());
    let mut ledger = Ledger::default();
    let engine = BackendEngine::new(Limits::default()).map_err(RunError::Engine)?;
    let path = &options.component;
    let tier = options.tier;
    let loaded = load::load(&mut ledger, &engine, &runtime, &witness, path, tier, &bytes);
    let loaded = loaded.map_err(RunError::Load)?;
    let mut provenance = provenance(options, &bytes);
    let scope = match &replay {
        Some(kept) => Scope::Replay(kept.check()?),
        None => Scope::Whole(options.level),
    };
    let Some(Loaded { backend, elapsed }) = loaded else {
        let rows = Report::rows(&ledger, scope, &[], &expectations);
        return Ok(Report {
            scope,
            provenance,
            backend: None,
            claims: Vec::new(),
            rows,
        });
    };
    let info = backend.info().clone();
    let world = world(options, &info)?;
    let folder = world.golden.as_ref().map(|(folder, _)| folder.clone());
    provenance.golden = folder.as_ref().map(|folder| folder.display().to_string());
    let claims = claims(&info, backend.optional(), folder.is_some());
    let subject = Subject::new(backend, world, Rc::clone(&runtime), witness)?;
    match &replay {
        Some(kept) => {
            let check = kept.check()?;
            // Loading it is no part of the request.
            ledger = Ledger::default();
            contract::replay(&subject, &mut ledger, check, &kept.request)?;
        }
        None => {
            let loaded = Component {
                path: &options.component,
                tier: options.tier,
                bytes: bytes.len(),
                compiled: elapsed,
            };
            levels(options, &subject, &engine, &mut ledger, &loaded)?;
        }
    }
    let rows = Report::rows(&ledger, scope, &claims, &expectations);
    Ok(Report {
        scope,
        provenance,
        backend: Some(Identity {
            name: info.name,
            vendor: info.vendor,
            version: info.version,
            tee: info.tee,
            protection: info.protection.as_str(),
        }),
        claims,
        rows,
    })
}

fn levels(
    options: &Options,
    subject: &Subject,
    engine: &BackendEngine,
    ledger: &mut Ledger,
    component: &Component<'_>,
) -> Result<(), RunError> {
    if options.level < Level::L1 {
        return Ok(());
    }
    let golden = Golden {
        subject,
        engine,
        config: &load::config(&options.component, options.tier),
        qemu: options.qemu.as_deref(),
        written: options.written,
    };
    let start = match contract::run(subject, ledger, &golden, &options.chance)? {
        Tried::From(start) => start,
        // Each of the calls that are left could take all the time of one.
        Tried::Nothing => {
            let deeper = |check: &&Check| check.level > Level::L1;
            for check in CHECKS.iter().copied().filter(deeper) {
                ledger.skip(check, contract::NO_FIRST_ANSWER);
            }
            return Ok(());
        }
    };
    if options.level >= Level::L2 {
        golden.run(ledger)?;
    }
    if options.level >= Level::L3 {
        resilience::run(subject, ledger, &start, component);
    }
    Ok(())
}

fn read(path: &Path, tier: Tier) -> Result<Vec<u8>, RunError> {
    let unreadable = |source| RunError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let limit = tier.limits(Limits::default()).component_bytes as u64;
    match regular_file::read(path, limit) {
        Ok(bytes) => Ok(bytes),
        Err(regular_file::ReadError::Io(source)) => Err(unreadable(source)),
        // The loader says so, in its own words. What is left of the file is for the digest.
        Err(regular_file::ReadError::TooLarge) => {
            use std::io::Read as _;
            let mut bytes = Vec::new();
            let file = regular_file::open(path).map_err(unreadable)?;
            file.take(limit)
                .read_to_end(&mut bytes)
                .map_err(unreadable)?;
            Ok(bytes)
        }
    }
}

fn world(options: &Options, info: &BackendInfo) -> Result<World, RunError> {
    let folder = match &options.golden {
        Some(folder) => Some(folder.clone()),
        None => golden_beside(&options.component),
    };
    match folder {
        Some(folder) => Ok(World::golden(&folder, info)?),
        None => Ok(World::ordinary(info)),
    }
}

/// Golden requests of the project that the component was built in: `plugins/NAME/tests/golden` of a
/// workspace, else `tests/golden`, in the nearest folder above.
pub fn golden_beside(component: &Path) -> Option<PathBuf> {
    let component = std::path::absolute(component).ok()?;
    let name = component.file_stem()?;
    component.ancestors().skip(1).find_map(|folder| {
        let of_plugin = folder.join("plugins").join(name).join(OWN_GOLDEN);
        let candidates = [of_plugin, folder.join(OWN_GOLDEN)];
        candidates
            .into_iter()
            .find(|folder| folder.join(cases::FILE).is_file())
    })
}

fn claims(info: &BackendInfo, optional: Optional, has_golden: bool) -> Vec<Claim> {
    let made = [
        (Claim::Backend, true),
        (Claim::Settings, !info.settings.is_empty()),
        (Claim::Facts, !info.needs.is_empty()),
        (Claim::Guard, info.protection == Protection::Guard),
        (Claim::Measures, optional.measurement),
        (Claim::Tool, optional.tool),
        (Claim::Golden, has_golden),
    ];
    made.into_iter()
        .filter(|(_, is_made)| *is_made)
        .map(|(claim, _)| claim)
        .collect()
}

fn provenance(options: &Options, bytes: &[u8]) -> Provenance {
    let mut contract = Sha256::new();
    for text in CONTRACT {
        contract.update(text);
    }
    let mut catalogue = Sha256::new();
    for check in CHECKS {
        for part in [
            check.id,
            check.force.as_str(),
            check.claim.as_str(),
            check.anchor,
            check.rule,
        ] {
            catalogue.update(part);
            catalogue.update("\n");
        }
    }
    Provenance {
        component: options.component.display().to_string(),
        component_sha256: hex::encode(Sha256::digest(bytes)),
        component_bytes: bytes.len(),
        contract_sha256: hex::encode(contract.finalize()),
        suite_version: env!("CARGO_PKG_VERSION"),
        catalogue_sha256: hex::encode(catalogue.finalize()),
        seed: options.chance.seed,
        cases: options.chance.cases,
        tier: options.tier.as_str(),
        golden: None,
    }
}
