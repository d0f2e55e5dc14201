//! `casemate measure`: what a verifier would see of a guest, computed here, without a daemon.

use std::collections::BTreeMap;
use std::path::PathBuf;

use casemate_attestation::{PolicyFormat, json, render_policy, text};
use casemate_host::app::measure::{FirmwareFile, MeasureRequest, measure};
use casemate_host::spec::identity::{Identity, IdentitySource};
use casemate_host::vm::attestation::{PolicyRefusal, read_key, read_pcrs};

use crate::arguments::Output;
use crate::error::CliError;
use crate::screen::Screen;
use crate::spec;

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("start").required(true).args(["firmware", "igvm"]))]
pub(crate) struct MeasureArguments {
    /// Backend: a name (`sev-snp`, `tdx`) of one that is installed, or a component file (`.wasm`).
    #[arg(long, value_name = "NAME|FILE")]
    backend: String,

    /// Firmware in one file, as for QEMU's `-bios`.
    #[arg(long, value_name = "FILE")]
    firmware: Option<PathBuf>,

    /// IGVM file to start from.
    #[arg(long, value_name = "FILE")]
    igvm: Option<PathBuf>,

    /// vCPUs of the guest.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    vcpus: u32,

    /// QEMU's CPU model, with its version.
    #[arg(long, value_name = "MODEL")]
    cpu: String,

    /// Kernel of a direct boot.
    ///
    /// Not with --igvm: what such a file starts measures a kernel itself, in the guest.
    #[arg(long, value_name = "FILE", conflicts_with = "igvm")]
    kernel: Option<PathBuf>,

    /// Initial RAM disk of a direct boot.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,

    /// Kernel command line, byte for byte.
    #[arg(
        long,
        value_name = "TEXT",
        requires = "kernel",
        allow_hyphen_values = true
    )]
    cmdline: Option<String>,

    /// Setting of the backend, such as guest-features=0x21; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = spec::assignment)]
    settings: Vec<(String, String)>,

    /// What the VM carries in its reports; without it policies leave it out.
    #[arg(long, value_name = "ALGORITHM:HEX", value_parser = spec::identity)]
    identity: Option<casemate_proto::v1::Identity>,

    /// Facts of the host that is to run the guest: what `casemate plan --format json` printed there.
    #[arg(long, value_name = "FILE")]
    facts: Option<PathBuf>,

    /// Expected PCR values of the guest's vTPM, to be merged into the policy.
    #[arg(long, value_name = "FILE")]
    pcr_values: Option<PathBuf>,

    /// Key that signs a CoRIM: PEM of EC P-256, P-384 or Ed25519.
    #[arg(long, value_name = "FILE")]
    signing_key: Option<PathBuf>,
}

pub(crate) async fn run(
    arguments: MeasureArguments,
    format: Output,
    screen: &Screen,
) -> Result<(), CliError> {
    let refused = CliError::measure;
    let pcrs = arguments.pcr_values.as_deref().map(read_pcrs).transpose();
    let pcrs = pcrs.map_err(|error| refused(&error))?;
    let key = arguments.signing_key.as_deref().map(read_key).transpose();
    let key = key.map_err(|error| refused(&error))?;
    let measurement = measure(&arguments.request()?)
        .await
        .map_err(|error| refused(&error))?;
    let format = match format {
        Output::Table => {
            return screen.write_text(&text::render(&measurement, pcrs.as_ref()));
        }
        Output::Json | Output::Yaml => {
            return screen.write_value(&json::document(&measurement, pcrs.as_ref()));
        }
        Output::Corim => PolicyFormat::Corim,
        Output::Trustee => PolicyFormat::Trustee,
    };
    let document = render_policy(format, &measurement, pcrs.as_ref());
    let document = document.map_err(|error| refused(&PolicyRefusal::from(error)))?;
    let document = match (key, format) {
        (Some(key), PolicyFormat::Corim) => {
            let signed = key.sign_corim(&document);
            signed.map_err(|error| refused(&PolicyRefusal::from(error)))?
        }
        _ => document,
    };
    screen.write_document(&document, format == PolicyFormat::Corim)
}

impl MeasureArguments {
    fn request(self) -> Result<MeasureRequest, CliError> {
        let firmware = match (self.firmware, self.igvm) {
            (Some(path), _) => FirmwareFile::Combined(path),
            (None, Some(path)) => FirmwareFile::Igvm(path),
            // clap asks for one of them.
            (None, None) => FirmwareFile::Combined(PathBuf::new()),
        };
        let mut settings = BTreeMap::new();
        for (key, value) in self.settings {
            if settings.insert(key.clone(), value).is_some() {
                return Err(CliError::SetTwice { key });
            }
        }
        Ok(MeasureRequest {
            component: component(&self.backend)?,
            firmware,
            vcpus: self.vcpus,
            cpu: self.cpu,
            kernel: self.kernel,
            initrd: self.initrd,
            cmdline: self.cmdline.unwrap_or_default(),
            settings,
            facts: self.facts,
            identity: self.identity.map(|identity| Identity {
                algorithm: identity.algorithm,
                digest: identity.digest,
                source: IdentitySource::Request,
            }),
        })
    }
}

/// Where components lie, seen from this program: installed, and in a build tree.
const FOLDERS: [&str; 2] = ["../lib/casemate/backends", "../backends"];

/// The file of a backend: a name is looked up beside this program, anything else is a path.
fn component(backend: &str) -> Result<PathBuf, CliError> {
    let is_name = !backend.is_empty()
        && backend
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if !is_name {
        return Ok(PathBuf::from(backend));
    }
    let program = std::env::current_exe().map_err(CliError::Runtime)?;
    let folder = program.parent().map(PathBuf::from).unwrap_or_default();
    let looked = FOLDERS.map(|one| folder.join(one).join(format!("{backend}.wasm")));
    match looked.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(CliError::NoBackendFile {
            backend: backend.to_owned(),
            looked: looked.map(|path| path.display().to_string()).join(", "),
        }),
    }
}
