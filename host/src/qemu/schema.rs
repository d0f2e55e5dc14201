//! What the installed QEMU knows: version, machines, object types, properties.
//!
//! Asked from an idle QEMU (`-M none`), once for each binary, and kept until the binary changes.
//! Types are asked for when they are first needed, because a full listing costs seconds.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::sync::Mutex;

use super::process::{self, Credentials, SpawnError};
use super::qmp::{MAX_LINE_IDLE, Qmp, QmpError};

/// Deadline of an idle QEMU's start; it takes 80 ms on an idle machine.
const IDLE_START: Duration = Duration::from_secs(20);
/// Longest answer of a `query-*` command that a backend gets.
const MAX_QUERY: usize = 64 << 10;
/// Types that are remembered. A backend could ask for names without end.
const MAX_TYPES: usize = 1_024;
const MAX_ABSENT: usize = 256;

#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("there is no QEMU {binary:?} on PATH {searched:?}")]
    NotFound { binary: PathBuf, searched: String },
    #[error("QEMU {path:?} cannot be started", path = .path.display())]
    Spawn {
        path: PathBuf,
        #[source]
        source: SpawnError,
    },
    #[error("QEMU {path:?} does not answer over QMP{stderr}", path = .path.display())]
    Qmp {
        path: PathBuf,
        stderr: String,
        #[source]
        source: QmpError,
    },
}

/// Identity of a binary on disk: a package upgrade changes it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FileIdentity {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl FileIdentity {
    fn of(path: &Path) -> std::io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// Properties by name, each with the type that QEMU gives it.
pub type Properties = BTreeMap<String, String>;

/// Facts about one binary that do not depend on a type.
#[derive(Clone, Debug)]
pub struct QemuInfo {
    pub path: PathBuf,
    pub version: String,
    /// Alias or name to versioned name.
    machines: HashMap<String, String>,
    /// QAPI members of `object-add`, by object type.
    objects: HashMap<String, Properties>,
    /// Whether `-accel kvm` takes a device as a descriptor.
    pub kvm_device: bool,
}

impl QemuInfo {
    /// Of a QEMU that nobody looked at, with these machines and object types.
    pub(super) fn assumed(
        machines: HashMap<String, String>,
        objects: HashMap<String, Properties>,
    ) -> Self {
        Self {
            path: PathBuf::new(),
            version: "that nobody looked at".to_owned(),
            machines,
            objects,
            kvm_device: false,
        }
    }

    /// Versioned name behind a machine name or alias.
    pub fn machine(&self, name: &str) -> Option<&str> {
        self.machines.get(name).map(String::as_str)
    }

    /// Properties of an object type, by the QAPI schema.
    pub fn object(&self, kind: &str) -> Option<&Properties> {
        self.objects.get(kind)
    }
}

/// The installed QEMU, probed when it is first needed and again when the binary changes.
#[derive(Debug)]
pub struct Qemu {
    binary: PathBuf,
    credentials: Credentials,
    state: Mutex<Option<Probed>>,
}

#[derive(Debug)]
struct Probed {
    identity: FileIdentity,
    info: Arc<QemuInfo>,
    types: HashMap<TypeQuestion, Arc<Properties>>,
    absent: HashSet<TypeQuestion>,
    queries: HashMap<String, Result<String, String>>,
}

/// A type whose properties are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TypeQuestion {
    /// By QOM type name, instance properties included.
    Qom(String),
    /// A device, with the types that `-device` takes.
    Device(String),
}

impl Qemu {
    /// `binary` is a path, or a name that is looked up on PATH.
    pub fn new(binary: PathBuf, credentials: Credentials) -> Self {
        Self {
            binary,
            credentials,
            state: Mutex::new(None),
        }
    }

    pub async fn info(&self) -> Result<Arc<QemuInfo>, ProbeError> {
        let mut state = self.state.lock().await;
        Ok(Arc::clone(&self.current(&mut state).await?.info))
    }

    /// Properties of a type; `None` when QEMU has no such type.
    pub async fn properties(
        &self,
        question: TypeQuestion,
    ) -> Result<Option<Arc<Properties>>, ProbeError> {
        let mut state = self.state.lock().await;
        let probed = self.current(&mut state).await?;
        if let Some(known) = probed.types.get(&question) {
            return Ok(Some(Arc::clone(known)));
        }
        if probed.absent.contains(&question) {
            return Ok(None);
        }
        let (command, name) = match &question {
            TypeQuestion::Qom(name) => ("qom-list-properties", name),
            TypeQuestion::Device(name) => ("device-list-properties", name),
        };
        let path = probed.info.path.clone();
        let idle = self.idle(&path).await?;
        let answer = idle.qmp.execute(command, json!({"typename": name})).await;
        let properties = match answer {
            Ok(list) => Some(Arc::new(property_types(&list))),
            Err(QmpError::Refused { .. }) => None,
            Err(source) => return Err(idle.failed(path, source).await),
        };
        // Absences have a bound of their own: callers make up names, which must not crowd out types.
        match &properties {
            None if probed.absent.len() < MAX_ABSENT => {
                probed.absent.insert(question);
            }
            Some(known) if probed.types.len() < MAX_TYPES => {
                probed.types.insert(question, Arc::clone(known));
            }
            _ => {}
        }
        Ok(properties)
    }

    /// The JSON text of a `query-*` command on an idle QEMU.
    pub async fn query(&self, command: &str) -> Result<Result<String, String>, ProbeError> {
        let mut state = self.state.lock().await;
        let probed = self.current(&mut state).await?;
        if let Some(known) = probed.queries.get(command) {
            return Ok(known.clone());
        }
        let path = probed.info.path.clone();
        let idle = self.idle(&path).await?;
        let answer = match idle.qmp.execute(command, json!({})).await {
            Ok(value) => {
                let text = value.to_string();
                if text.len() > MAX_QUERY {
                    Err(format!(
                        "the answer has {} bytes, more than {MAX_QUERY}",
                        text.len()
                    ))
                } else {
                    Ok(text)
                }
            }
            Err(QmpError::Refused { description, .. }) => Err(description),
            Err(source) => return Err(idle.failed(path, source).await),
        };
        if probed.queries.len() < MAX_TYPES {
            probed.queries.insert(command.to_owned(), answer.clone());
        }
        Ok(answer)
    }

    async fn current<'a>(
        &self,
        state: &'a mut Option<Probed>,
    ) -> Result<&'a mut Probed, ProbeError> {
        let path = self.locate()?;
        let identity = FileIdentity::of(&path).map_err(|_| self.not_found())?;
        let fresh = state
            .as_ref()
            .is_some_and(|probed| probed.info.path == path && probed.identity == identity);
        if !fresh {
            let info = Arc::new(self.probe(path).await?);
            tracing::info!(path = %info.path.display(), version = info.version, "QEMU probed");
            *state = Some(Probed {
                identity,
                info,
                types: HashMap::new(),
                absent: HashSet::new(),
                queries: HashMap::new(),
            });
        }
        Ok(state.as_mut().expect("set above"))
    }

    async fn probe(&self, path: PathBuf) -> Result<QemuInfo, ProbeError> {
        let idle = self.idle(&path).await?;
        match collect(&idle.qmp).await {
            Ok((machines, objects, kvm_device)) => Ok(QemuInfo {
                version: idle.qmp.version().to_owned(),
                path,
                machines,
                objects,
                kvm_device,
            }),
            Err(source) => Err(idle.failed(path, source).await),
        }
    }

    fn not_found(&self) -> ProbeError {
        ProbeError::NotFound {
            binary: self.binary.clone(),
            searched: process::search_path().to_owned(),
        }
    }

    /// Absolute path of the binary.
    fn locate(&self) -> Result<PathBuf, ProbeError> {
        process::locate(&self.binary).ok_or_else(|| self.not_found())
    }

    async fn idle(&self, path: &Path) -> Result<IdleQemu, ProbeError> {
        let spawn_error = |source| ProbeError::Spawn {
            path: path.to_owned(),
            source,
        };
        let arguments = [
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-machine",
            "none",
            "-S",
            "-chardev",
            "stdio,id=casemate-qmp",
            "-mon",
            "chardev=casemate-qmp,mode=control",
        ];
        let mut child =
            process::spawn_piped(path, &arguments, &self.credentials).map_err(spawn_error)?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(spawn_error(SpawnError::NoPipe));
        };
        match Qmp::connect(stdout, stdin, IDLE_START, MAX_LINE_IDLE).await {
            Ok((qmp, _)) => Ok(IdleQemu { qmp, child }),
            Err(source) => {
                let stderr = process::last_words(&mut child).await;
                Err(ProbeError::Qmp {
                    path: path.to_owned(),
                    stderr,
                    source,
                })
            }
        }
    }
}

/// A QEMU without a machine. Killed and reaped by tokio when dropped.
struct IdleQemu {
    qmp: Qmp,
    child: tokio::process::Child,
}

impl IdleQemu {
    async fn failed(mut self, path: PathBuf, source: QmpError) -> ProbeError {
        let stderr = process::last_words(&mut self.child).await;
        ProbeError::Qmp {
            path,
            stderr,
            source,
        }
    }
}

type Collected = (HashMap<String, String>, HashMap<String, Properties>, bool);

async fn collect(qmp: &Qmp) -> Result<Collected, QmpError> {
    let machines = qmp.execute("query-machines", json!({})).await?;
    let mut names = HashMap::new();
    for machine in machines.as_array().into_iter().flatten() {
        if let Some(name) = machine["name"].as_str() {
            names.insert(name.to_owned(), name.to_owned());
            if let Some(alias) = machine["alias"].as_str() {
                names.insert(alias.to_owned(), name.to_owned());
            }
        }
    }
    let schema = qmp.execute("query-qmp-schema", json!({})).await?;
    let objects = object_types(&schema);
    let kvm = qmp
        .execute("qom-list-properties", json!({"typename": "kvm-accel"}))
        .await;
    let kvm_device = kvm.is_ok_and(|list| property_types(&list).contains_key("device"));
    Ok((names, objects, kvm_device))
}

fn property_types(list: &Json) -> Properties {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(|property| {
            Some((
                property["name"].as_str()?.to_owned(),
                property["type"].as_str()?.to_owned(),
            ))
        })
        .collect()
}

/// Members of each `object-add` variant. Type names of the schema are opaque, so a member's type
/// is given by its kind: `str`, `int`, `boolean`, `number`, `enum(a|b)`, `object`, `array(kind)`.
fn object_types(schema: &Json) -> HashMap<String, Properties> {
    let entries: HashMap<&str, &Json> = schema
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| Some((entry["name"].as_str()?, entry)))
        .collect();
    let argument = entries
        .get("object-add")
        .and_then(|command| command["arg-type"].as_str())
        .and_then(|name| entries.get(name));
    let Some(argument) = argument else {
        return HashMap::new();
    };
    let mut common = Properties::new();
    members(&entries, argument, "", 0, &mut common);
    argument["variants"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|variant| {
            let case = variant["case"].as_str()?;
            let mut properties = common.clone();
            members(
                &entries,
                entries.get(variant["type"].as_str()?)?,
                "",
                0,
                &mut properties,
            );
            Some((case.to_owned(), properties))
        })
        .collect()
}

/// Adds the members of a struct, nested ones by dotted path. A list's elements are `name.*`.
fn members(
    entries: &HashMap<&str, &Json>,
    object: &Json,
    prefix: &str,
    depth: usize,
    properties: &mut Properties,
) {
    // No honest object nests deeper, and a cyclic schema must end.
    if depth > 4 {
        return;
    }
    for member in object["members"].as_array().into_iter().flatten() {
        let (Some(name), Some(kind)) = (member["name"].as_str(), member["type"].as_str()) else {
            continue;
        };
        add(entries, kind, &format!("{prefix}{name}"), depth, properties);
    }
    for variant in object["variants"].as_array().into_iter().flatten() {
        if let Some(object) = variant["type"].as_str().and_then(|kind| entries.get(kind)) {
            members(entries, object, prefix, depth + 1, properties);
        }
    }
}

fn add(
    entries: &HashMap<&str, &Json>,
    kind: &str,
    path: &str,
    depth: usize,
    properties: &mut Properties,
) {
    let Some(entry) = entries.get(kind) else {
        return;
    };
    let name = match entry["meta-type"].as_str() {
        Some("builtin") => match entry["json-type"].as_str() {
            Some("string") => "str".to_owned(),
            Some(other) => other.to_owned(),
            None => return,
        },
        Some("enum") => {
            let values: Vec<&str> = match (entry["values"].as_array(), entry["members"].as_array())
            {
                (Some(values), _) => values.iter().filter_map(Json::as_str).collect(),
                (_, Some(members)) => members.iter().filter_map(|m| m["name"].as_str()).collect(),
                _ => Vec::new(),
            };
            format!("enum({})", values.join("|"))
        }
        Some("array") => {
            if let Some(element) = entry["element-type"].as_str() {
                add(
                    entries,
                    element,
                    &format!("{path}.*"),
                    depth + 1,
                    properties,
                );
            }
            return;
        }
        Some("object") => {
            members(entries, entry, &format!("{path}."), depth + 1, properties);
            return;
        }
        // Alternates take several forms; none of them is set by a backend today.
        _ => return,
    };
    properties.insert(path.to_owned(), name);
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io;
    use std::time::SystemTime;

    use super::*;

    /// A change of the file at that path.
    type Change = fn(&Path) -> io::Result<()>;

    /// The file system says what changed; the same content or length hides nothing.
    #[test]
    fn a_binary_that_was_changed_in_any_way_is_another_one() {
        let changes: [(&str, Change); 4] = [
            ("only its time, to an earlier one", |path| {
                File::open(path)?.set_modified(SystemTime::UNIX_EPOCH)
            }),
            ("other bytes of the same length", |path| {
                fs::write(path, "B")
            }),
            ("another file with the same bytes", |path| {
                let other = path.with_extension("new");
                fs::copy(path, &other)?;
                fs::rename(other, path)
            }),
            ("more bytes", |path| fs::write(path, "AA")),
        ];
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("qemu");
        let identity = || FileIdentity::of(&path).expect("it is there");
        for (case, change) in changes {
            fs::write(&path, "A").expect("a file");
            let before = identity();
            // Times of files move with the kernel's tick, of 10 ms at most.
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(identity(), before, "{case}: before it");
            change(&path).expect(case);
            assert_ne!(identity(), before, "{case}");
        }
    }
}
