//! What is kept of a VM on disk, and every format that a released version wrote.
//!
//! `vm.json` is small and changes with the VM; `launch.json` is what the last launch was made from,
//! written once for each. No secret is in either. Older formats are read for ever and written in
//! the newest; a newer one is refused with what to do.

use std::net::SocketAddr;

use casemate_attestation::Measurement;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::deadline::Deadline;
use crate::confine::Place;
use crate::qemu::process::{Exit, ProcessIdentity};
use crate::spec::VmId;
use crate::spec::facts::FactRecord;
use crate::spec::lifecycle::Desired;
use crate::spec::plan::LaunchPlan;
use crate::spec::request::{IdempotencyWish, RequestRecord, SpecRecord};

/// Format of `vm.json` and `launch.json`. Format 1 had both in `vm.json`; format 2 knew no
/// measurement, and a daemon that knows none must not start a VM that has one; format 3 knew no
/// labels and no idempotency keys, which a daemon that knows none would drop.
pub const RECORD_FORMAT: u32 = 4;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmRecord {
    pub format: u32,
    pub id: VmId,
    /// The wish, without its secrets.
    pub spec: SpecRecord,
    pub desired: Desired,
    pub progress: Progress,
    /// RFC 3339, UTC.
    pub created_at: Timestamp,
    /// When the VM is to be removed.
    pub expires: Option<Deadline>,
    /// User and group of its QEMU and its files.
    pub uid: Option<u32>,
    /// Starts of a QEMU so far; names the console's files.
    pub launches: u32,
    /// How many of them the restart policy made.
    pub restarts: u32,
    pub agent_address: Option<SocketAddr>,
    pub process: Option<ProcessRecord>,
    pub last_exit: Option<ExitRecord>,
    /// Why the last start failed, if it did.
    #[serde(default)]
    pub failure: Option<String>,
    /// A restart is under way: down first, then up again.
    #[serde(default)]
    pub returns: bool,
    /// Of its agent's address, also while it is down.
    #[serde(default)]
    pub port: Option<u16>,
    /// Boot of the host in which it was last started (random(4)).
    #[serde(default)]
    pub boot_id: String,
    /// By what a create that is sent again is known.
    #[serde(default)]
    pub idempotency: Option<IdempotencyRecord>,
}

/// An idempotency key and what it was used for. The request held secrets, so its digest is salted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotencyRecord {
    pub key: String,
    /// Hexadecimal.
    pub salt: String,
    /// SHA-256 of salt and digest of the request, hexadecimal.
    pub request: String,
}

impl IdempotencyRecord {
    pub fn new(wish: &IdempotencyWish) -> Self {
        let salt = uuid::Uuid::new_v4().simple().to_string();
        Self {
            key: wish.key.clone(),
            request: salted(&salt, &wish.request),
            salt,
        }
    }

    /// Whether the key was used for the same request.
    pub fn is_for(&self, wish: &IdempotencyWish) -> bool {
        self.request == salted(&self.salt, &wish.request)
    }
}

fn salted(salt: &str, request: &[u8; 32]) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::new().chain_update(salt).chain_update(request);
    hex::encode(digest.finalize())
}

/// How far a VM has come, as a crash of the daemon leaves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    /// Being made for the first time: nobody was told of it.
    Creating,
    /// A VM that was down is being started.
    Starting,
    /// Its QEMU runs the guest.
    Up,
    /// No QEMU.
    Down,
}

/// The processes of a VM that is up, and where they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    pub qemu: ProcessIdentity,
    /// QEMU's parent, which keeps its console and its exit; none in records of format 1.
    pub launcher: Option<ProcessIdentity>,
    pub place: Option<Place>,
    pub started_at: Timestamp,
}

/// Note of a VM that was stopped because its daemon was, and would run otherwise.
pub const WITH_DAEMON: &str = "with the daemon";

/// How a QEMU ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// `reason` of the last SHUTDOWN event.
    pub shutdown: Option<String>,
    pub exit: Exit,
    pub at: Timestamp,
    /// What the daemon has to add: that it ended with the host, or with the daemon.
    #[serde(default)]
    pub note: Option<String>,
}

impl ExitRecord {
    /// It would run if its daemon had not been stopped.
    pub fn was_with_daemon(&self) -> bool {
        self.note.as_deref() == Some(WITH_DAEMON)
    }
}

/// What the last launch was made from: with the files it can be replayed on another machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaunchRecord {
    pub format: u32,
    pub backend: String,
    pub backend_sha256: String,
    /// Technology, as the backend calls it; empty in records of before it was kept.
    #[serde(default)]
    pub tee: String,
    pub qemu_version: String,
    pub vcpus: u32,
    pub memory_bytes: u64,
    /// What the backend was asked, without the bytes of files and without secrets.
    pub request: RequestRecord,
    pub plan: LaunchPlan,
    pub facts: FactRecord,
    pub command: Vec<String>,
    /// None in records of before anything was measured.
    #[serde(default)]
    pub measurement: Option<Measurement>,
}

/// A record as it was found, whatever its format.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundRecord {
    pub vm: VmRecord,
    /// None where the VM never came so far.
    pub launch: Option<LaunchRecord>,
}

/// Format 1: `vm.json` of the daemons that ended their VMs with themselves.
#[derive(Deserialize)]
struct Format1 {
    id: VmId,
    name: String,
    backend: String,
    backend_sha256: String,
    #[serde(default)]
    tee: String,
    qemu_version: String,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    vcpus: u32,
    memory_bytes: u64,
    request: RequestRecord,
    plan: LaunchPlan,
    facts: FactRecord,
    command: Vec<String>,
    agent_address: Option<SocketAddr>,
    process: Option<ProcessIdentity>,
}

impl From<Format1> for FoundRecord {
    fn from(old: Format1) -> Self {
        let spec = SpecRecord {
            name: old.name,
            backend: Some(old.backend.clone()),
            vcpus: Some(old.vcpus),
            memory_bytes: Some(old.memory_bytes),
            boot: Some(old.request.boot),
            kernel_cmdline: Some(old.request.kernel_cmdline.clone()),
            // Those formats did not say; without its share it is not started again.
            has_secrets: true,
            ..SpecRecord::default()
        };
        // The forward was the last thing before the guest ran.
        let progress = if old.agent_address.is_some() {
            Progress::Up
        } else {
            Progress::Creating
        };
        Self {
            vm: VmRecord {
                format: RECORD_FORMAT,
                id: old.id,
                spec,
                desired: Desired::Running,
                progress,
                created_at: old.created_at,
                expires: old.expires_at.map(Deadline::at),
                uid: None,
                launches: 1,
                restarts: 0,
                agent_address: old.agent_address,
                process: old.process.map(|qemu| ProcessRecord {
                    qemu,
                    launcher: None,
                    place: None,
                    started_at: old.created_at,
                }),
                last_exit: None,
                failure: None,
                returns: false,
                port: old.agent_address.map(|address| address.port()),
                boot_id: String::new(),
                idempotency: None,
            },
            launch: Some(LaunchRecord {
                format: RECORD_FORMAT,
                backend: old.backend,
                backend_sha256: old.backend_sha256,
                tee: old.tee,
                qemu_version: old.qemu_version,
                vcpus: old.vcpus,
                memory_bytes: old.memory_bytes,
                request: old.request,
                plan: old.plan,
                facts: old.facts,
                command: old.command,
                measurement: None,
            }),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("{file} is no record: {source}")]
    Json {
        file: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error(
        "{file} has format {found}, and this casemated reads up to {RECORD_FORMAT}: upgrade casemated"
    )]
    Newer { file: &'static str, found: u32 },
    #[error("it is the record of VM {found}")]
    OtherVm { found: VmId },
}

/// Reads a record whose folder is that of VM `id`.
pub(super) fn parse(
    id: VmId,
    vm: &[u8],
    launch: Option<&[u8]>,
) -> Result<FoundRecord, RecordError> {
    let mut found = match format("vm.json", vm)? {
        0 | 1 => FoundRecord::from(json::<Format1>("vm.json", vm)?),
        _ => {
            let launch: Option<LaunchRecord> = match launch {
                Some(bytes) => {
                    format("launch.json", bytes)?;
                    Some(json("launch.json", bytes)?)
                }
                None => None,
            };
            FoundRecord {
                vm: json("vm.json", vm)?,
                launch,
            }
        }
    };
    if found.vm.id != id {
        return Err(RecordError::OtherVm { found: found.vm.id });
    }
    // Written in the newest format from now on.
    found.vm.format = RECORD_FORMAT;
    // Records of before it was kept have it with the launch.
    if found.vm.spec.identity.is_none()
        && let Some(launch) = &found.launch
    {
        found.vm.spec.identity = launch.request.identity.clone();
    }
    Ok(found)
}

fn format(file: &'static str, bytes: &[u8]) -> Result<u32, RecordError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } = json(file, bytes)?;
    if format > RECORD_FORMAT {
        return Err(RecordError::Newer {
            file,
            found: format,
        });
    }
    Ok(format)
}

fn json<'de, T: Deserialize<'de>>(file: &'static str, bytes: &'de [u8]) -> Result<T, RecordError> {
    serde_json::from_slice(bytes).map_err(|source| RecordError::Json { file, source })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::spec::identity::IdentitySource;

    /// What an earlier daemon wrote: its record says nothing of an identity, its launch has one
    /// without a source. What the fixture holds is a daemon's own.
    #[test]
    fn an_identity_of_before_it_was_kept_is_that_of_the_last_launch() {
        let read = |text: &str| -> Value { serde_json::from_str(text).expect("JSON") };
        let mut vm = read(include_str!("../../../tests/fixtures/records/2/vm.json"));
        let mut launch = read(include_str!(
            "../../../tests/fixtures/records/2/launch.json"
        ));
        let id = vm["id"].as_str().and_then(VmId::parse).expect("an id");
        let spec = vm["spec"].as_object_mut().expect("an object");
        spec.remove("identity");
        for (recorded, wanted) in [
            (Value::Null, None),
            (
                json!({"algorithm": "raw", "digest": "AQID"}),
                Some(("raw", vec![1, 2, 3])),
            ),
        ] {
            launch["request"]["identity"] = recorded;
            let (vm, launch) = (vm.to_string(), launch.to_string());
            let found = parse(id, vm.as_bytes(), Some(launch.as_bytes())).expect("a record");
            let identity = found.vm.spec.identity;
            if let Some(identity) = &identity {
                assert_eq!(identity.source, IdentitySource::Operator);
            }
            let identity = identity.as_ref();
            let identity = identity.map(|i| (i.algorithm.as_str(), i.digest.clone()));
            assert_eq!(identity, wanted);
        }
    }
}
