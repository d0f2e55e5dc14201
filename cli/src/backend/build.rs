//! `casemate backend build`: from a crate to a component, and the lines that put it into service.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use casemate_host::backend::catalog::chain;
use casemate_host::backend::{BackendConfig, BackendEngine, Limits, LoadedBackend};
use casemate_registry::Digest;
use serde_json::{Value, json};
use wit_component::ComponentEncoder;

use super::component;
use super::refused::Refused;
use crate::arguments::Format;
use crate::error::CliError;
use crate::screen::Screen;

/// Without an operating system: its standard library imports nothing.
const TARGET: &str = "wasm32-unknown-unknown";
/// What the daemon's config has of a backend, but for path and digest.
const CONFIG: &str = "backend.toml";

#[derive(Debug, clap::Args)]
pub(crate) struct BuildArguments {
    /// Folder of the crate.
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    dir: PathBuf,
    /// File of the component; target/NAME.wasm in the crate's folder, if this is left out.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Further arguments for `cargo build`, after `--`.
    #[arg(last = true, value_name = "ARGUMENT")]
    cargo: Vec<String>,
}

pub(super) async fn run(arguments: &BuildArguments, screen: &Screen) -> Result<(), CliError> {
    let module = compile(arguments)?;
    let read = std::fs::read(&module.path);
    let bytes = read.map_err(|source| Refused::Unreadable {
        path: module.path.clone(),
        source,
    })?;
    let component = ComponentEncoder::default()
        .validate(true)
        .module(&bytes)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| Refused::NoComponent {
            module: module.path.clone(),
            reason: format!("{error:#}"),
        })?;
    let path = arguments.output.clone().unwrap_or_else(|| {
        arguments
            .dir
            .join("target")
            .join(format!("{}.wasm", module.name))
    });
    component::write(&path, &component, &[])?;
    let path = std::path::absolute(&path).unwrap_or(path);
    let digest = Digest::of(&component);
    let config = config(&arguments.dir, &path, &digest)?;
    for remark in remarks(&config).await {
        screen.write_remark(&format!("{remark}\n"));
    }
    match screen.format {
        Format::Data(_) => screen.write_value(&json!({
            "path": path,
            "size": component.len(),
            "sha256": digest.hex(),
            "config": config,
        })),
        Format::Table => {
            screen.write_remark(&format!("{}: {} bytes\n", path.display(), component.len()));
            screen.write_text(&config)
        }
    }
}

/// What the lines lack of what the component announces, or have too much. One that no host would load
/// is told as such; the lines are printed all the same.
async fn remarks(config: &str) -> Vec<String> {
    let Some(config) = first_backend(config) else {
        return Vec::new();
    };
    let engine = match BackendEngine::new(Limits::default()) {
        Ok(engine) => engine,
        Err(error) => return vec![chain(&error)],
    };
    match LoadedBackend::load(&engine, &config, &[]).await {
        Err(error) => vec![format!(
            "a host would not load it with these lines: {}",
            chain(&error)
        )],
        Ok(backend) => {
            let lacks = backend.ungranted().into_iter();
            let lacks = lacks.map(|what| format!("{CONFIG} does not grant {what}"));
            let unused = backend.unannounced(&config.grants).into_iter();
            let unused =
                unused.map(|what| format!("{CONFIG} grants {what}, which is not announced"));
            lacks.chain(unused).collect()
        }
    }
}

/// Lines that are no config of a backend are told by the daemon, by their key.
fn first_backend(config: &str) -> Option<BackendConfig> {
    let parsed: toml::Table = config.parse().ok()?;
    let first = parsed.get("backend")?.as_array()?.first()?.clone();
    first.try_into().ok()
}

struct Module {
    name: String,
    path: PathBuf,
}

/// Cargo writes to this terminal itself; where the module lies, it tells as JSON.
fn compile(arguments: &BuildArguments) -> Result<Module, Refused> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let failed = |reason: String| Refused::Cargo {
        program: program.to_string_lossy().into_owned(),
        reason,
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "the user asks for a build of their own sources; the daemon has no part in it"
    )]
    let mut command = Command::new(&program);
    let output = command
        .current_dir(&arguments.dir)
        .args(["build", "--release", "--lib", "--target", TARGET])
        .args(["--message-format", "json-render-diagnostics"])
        .args(&arguments.cargo)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| {
            failed(format!(
                "it cannot be run in {}: {error}",
                arguments.dir.display()
            ))
        })?;
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let module = said
        .lines()
        .rev()
        .find_map(|line| module_of(&serde_json::from_str(line).ok()?));
    module.ok_or_else(|| {
        failed(
            "it left no WebAssembly module: the crate's `crate-type` has to have cdylib".to_owned(),
        )
    })
}

/// The last artifact is that of the crate itself.
fn module_of(message: &Value) -> Option<Module> {
    let files = message.get("filenames")?.as_array()?;
    let mut paths = files.iter().filter_map(Value::as_str).map(PathBuf::from);
    let path = paths.find(|path| path.extension().is_some_and(|end| end == "wasm"))?;
    // The package's name; that of the library has underscores.
    let manifest = Path::new(message.get("manifest_path")?.as_str()?);
    let manifest: toml::Table = std::fs::read_to_string(manifest).ok()?.parse().ok()?;
    let name = manifest.get("package")?.get("name")?.as_str()?;
    Some(Module {
        name: name.to_owned(),
        path,
    })
}

/// The project's own lines, with path and digest; without them those that every backend has.
fn config(folder: &Path, path: &Path, digest: &Digest) -> Result<String, Refused> {
    let file = folder.join(CONFIG);
    let own = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            format!("[[backend]]\nname = {}\n", toml::Value::from(&*name))
        }
        Err(source) => return Err(Refused::Unreadable { path: file, source }),
    };
    let form = |reason: String| Refused::ProjectConfig {
        path: file.clone(),
        reason,
    };
    let parsed: toml::Table = own
        .parse()
        .map_err(|error: toml::de::Error| form(error.message().to_owned()))?;
    let named = parsed
        .get("backend")
        .and_then(|backends| backends.as_array()?.first()?.get("name"));
    let name = named.ok_or_else(|| form("it has no [[backend]] with a name".to_owned()))?;
    let line = format!("name = {name}\n");
    let Some((before, after)) = own.split_once(&line) else {
        return Err(form(format!("it has no line `name = {name}`")));
    };
    let path = toml::Value::from(path.display().to_string());
    let lines: String = before
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| format!("{line}\n"))
        .collect();
    Ok(format!(
        "{lines}{line}path = {path}\nsha256 = \"{}\"\n{after}",
        digest.hex()
    ))
}
