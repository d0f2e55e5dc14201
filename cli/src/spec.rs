//! The options that describe a VM, shared by `vm create` and `plan`, and the request they make.
//!
//! Only their form is checked here. What makes sense is the daemon's to say, because it depends on
//! its configuration and on the backend.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use casemate_proto::v1;
use clap::ValueEnum;

use crate::error::CliError;
use crate::{arguments, byte_size};

/// What the VM is to be; what is left out is the operator's default.
#[derive(Debug, clap::Args)]
pub(crate) struct SpecArguments {
    /// Name for people; need not be unique.
    #[arg(long)]
    name: Option<String>,

    /// Backend that plans the VM.
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,

    /// Number of virtual CPUs.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    vcpus: Option<u32>,

    /// Guest memory, such as 512M or 2G (multiples of 1024).
    #[arg(long, value_name = "SIZE", value_parser = byte_size::parse)]
    memory: Option<u64>,

    /// QEMU machine, such as q35; used as it is, or refused.
    #[arg(long)]
    machine: Option<String>,

    /// QEMU CPU model; used as it is, or refused.
    #[arg(long, value_name = "MODEL")]
    cpu: Option<String>,

    /// What the guest boots from.
    #[arg(long, value_enum)]
    boot: Option<BootArgument>,

    /// Kernel command line in place of the operator's; not secret.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    cmdline: Option<String>,

    /// A variable for the guest; may be repeated. Other users of this machine see the command
    /// line: put secrets into a file (--env-file).
    #[arg(long, value_name = "NAME=VALUE", value_parser = assignment)]
    env: Vec<(String, String)>,

    /// File of variables for the guest, NAME=VALUE on each line; --env wins.
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,

    /// PEM certificate that the guest's agent uses as a client.
    #[arg(long, value_name = "FILE")]
    client_cert: Option<PathBuf>,

    /// PEM key of that certificate.
    #[arg(long, value_name = "FILE")]
    client_key: Option<PathBuf>,

    /// PEM certificate of the authority that signs the agent's server.
    #[arg(long, value_name = "FILE")]
    server_ca: Option<PathBuf>,

    /// What the guest's attestation reports carry: sha-256, sha-384, sha-512 or raw, and the bytes
    /// in hexadecimal. Left out: the operator's, or the digest of the configuration.
    #[arg(long, value_name = "ALGORITHM:HEX", value_parser = identity)]
    identity: Option<v1::Identity>,

    /// A setting of the backend for this VM; may be repeated. `backend show` lists them.
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,

    /// Remove the VM when it is this old, such as 90s or 1h30m.
    #[arg(long, value_name = "TIME", value_parser = arguments::duration)]
    ttl: Option<Duration>,

    /// When to start the VM again after its QEMU ended by itself; never, if this is left out.
    #[arg(long, value_enum, value_name = "WHEN")]
    restart: Option<RestartArgument>,

    /// Refuse unless the guest is guarded against its host.
    #[arg(long)]
    require_confidential: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BootArgument {
    /// The operator's kernel and initrd, directly.
    Kernel,
    /// The operator's disk image, with an overlay for this VM.
    Disk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RestartArgument {
    /// It stays down.
    Never,
    /// Unless the guest shut down by itself.
    OnFailure,
    /// Unless somebody stopped it.
    Always,
}

impl SpecArguments {
    pub(crate) fn to_request(&self) -> Result<v1::VmSpec, CliError> {
        let mut environment = match &self.env_file {
            Some(path) => environment_file(path)?,
            None => HashMap::new(),
        };
        environment.extend(self.env.iter().cloned());
        let boot = match self.boot {
            None => v1::Boot::Unspecified,
            Some(BootArgument::Kernel) => v1::Boot::Kernel,
            Some(BootArgument::Disk) => v1::Boot::Disk,
        };
        let restart_policy = match self.restart {
            None => v1::RestartPolicy::Unspecified,
            Some(RestartArgument::Never) => v1::RestartPolicy::Never,
            Some(RestartArgument::OnFailure) => v1::RestartPolicy::OnFailure,
            Some(RestartArgument::Always) => v1::RestartPolicy::Always,
        };
        Ok(v1::VmSpec {
            name: self.name.clone().unwrap_or_default(),
            backend: self.backend.clone().unwrap_or_default(),
            vcpus: self.vcpus.unwrap_or_default(),
            memory_bytes: self.memory.unwrap_or_default(),
            machine: self.machine.clone().unwrap_or_default(),
            cpu: self.cpu.clone().unwrap_or_default(),
            boot: boot.into(),
            kernel_cmdline: self.cmdline.clone(),
            environment,
            certificates: self.certificates()?,
            settings: self.set.iter().cloned().collect(),
            ttl: self.ttl.map(to_proto_duration),
            require_confidential: self.require_confidential,
            restart_policy: restart_policy.into(),
            identity: self.identity.clone(),
        })
    }

    fn certificates(&self) -> Result<Option<v1::Certificates>, CliError> {
        if self.client_cert.is_none() && self.client_key.is_none() && self.server_ca.is_none() {
            return Ok(None);
        }
        Ok(Some(v1::Certificates {
            client_certificate: optional_file(self.client_cert.as_deref())?,
            client_key: optional_file(self.client_key.as_deref())?,
            server_ca: optional_file(self.server_ca.as_deref())?,
        }))
    }
}

fn to_proto_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        // The daemon refuses a time that long with a better message than one from here.
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

fn optional_file(path: Option<&Path>) -> Result<Vec<u8>, CliError> {
    match path {
        Some(path) => std::fs::read(path).map_err(|source| CliError::Input {
            path: path.to_owned(),
            source,
        }),
        None => Ok(Vec::new()),
    }
}

pub(crate) fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        // The text itself may be a secret that lost its name, so it is not repeated.
        _ => Err("wanted is NAME=VALUE".to_owned()),
    }
}

/// Whether the bytes fit the algorithm is the daemon's to say.
pub(crate) fn identity(text: &str) -> Result<v1::Identity, String> {
    let parts = text.split_once(':');
    let parts = parts.and_then(|(algorithm, digits)| Some((algorithm, hex::decode(digits).ok()?)));
    match parts {
        Some((algorithm, digest)) if !algorithm.is_empty() && !digest.is_empty() => {
            Ok(v1::Identity {
                algorithm: algorithm.to_owned(),
                digest,
            })
        }
        _ => Err("wanted is ALGORITHM:HEX, such as sha-256: and 64 hexadecimal digits".to_owned()),
    }
}

fn environment_file(path: &Path) -> Result<HashMap<String, String>, CliError> {
    let text = std::fs::read_to_string(path).map_err(|source| CliError::Input {
        path: path.to_owned(),
        source,
    })?;
    parse_environment(&text).map_err(|(line, reason)| CliError::EnvironmentFile {
        path: path.to_owned(),
        line,
        reason,
    })
}

/// A value is taken as it stands, with its quotes and blanks; the error carries the line's number.
fn parse_environment(text: &str) -> Result<HashMap<String, String>, (usize, String)> {
    let mut environment = HashMap::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let (name, value) = assignment(line).map_err(|reason| (index + 1, reason))?;
        if environment.insert(name.clone(), value).is_some() {
            return Err((index + 1, format!("{name} is set twice")));
        }
    }
    Ok(environment)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Wrapper {
        #[command(flatten)]
        spec: SpecArguments,
    }

    fn request(line: &[&str]) -> Result<v1::VmSpec, String> {
        let words = ["casemate"].iter().chain(line);
        let parsed = Wrapper::try_parse_from(words).map_err(|error| error.to_string())?;
        parsed.spec.to_request().map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_asked_is_nothing_sent() {
        assert_eq!(request(&[]), Ok(v1::VmSpec::default()));
    }

    #[test]
    fn everything_asked_is_sent() {
        let spec = request(&[
            "--name",
            "web",
            "--backend=plain-kvm",
            "--vcpus=2",
            "--memory=2G",
            "--machine=q35",
            "--cpu=EPYC",
            "--boot=disk",
            "--cmdline",
            "-- quiet",
            "--env",
            "A=1",
            "--env=B=x=y",
            "--set",
            "firmware=none",
            "--ttl=1h30m",
            "--restart=on-failure",
            "--identity=raw:00fFa5",
            "--require-confidential",
        ])
        .unwrap();
        assert_eq!(spec.name, "web");
        assert_eq!(spec.backend, "plain-kvm");
        assert_eq!(spec.vcpus, 2);
        assert_eq!(spec.memory_bytes, 2 << 30);
        assert_eq!(spec.machine, "q35");
        assert_eq!(spec.cpu, "EPYC");
        assert_eq!(spec.boot(), v1::Boot::Disk);
        assert_eq!(spec.kernel_cmdline.as_deref(), Some("-- quiet"));
        assert_eq!(spec.environment["A"], "1");
        assert_eq!(spec.environment["B"], "x=y");
        assert_eq!(spec.settings["firmware"], "none");
        assert_eq!(spec.ttl.map(|ttl| ttl.seconds), Some(5400));
        assert_eq!(spec.restart_policy(), v1::RestartPolicy::OnFailure);
        let identity = spec.identity.unwrap();
        assert_eq!(identity.algorithm, "raw");
        assert_eq!(identity.digest, [0x00, 0xff, 0xa5]);
        assert_eq!(spec.certificates, None);
        assert!(spec.require_confidential);
    }

    #[test]
    fn an_empty_command_line_is_a_wish_too() {
        assert_eq!(
            request(&["--cmdline", ""]).unwrap().kernel_cmdline,
            Some(String::new())
        );
    }

    #[test]
    fn wrong_forms_are_refused() {
        for line in [
            ["--vcpus=0"],
            ["--memory=lots"],
            ["--env=novalue"],
            ["--env==x"],
            ["--set=x"],
            ["--ttl=5"],
            ["--boot=net"],
            ["--restart=sometimes"],
            ["--identity=00ff"],
            ["--identity=:00ff"],
            ["--identity=raw:"],
            ["--identity=raw:0"],
            ["--identity=raw:0g"],
            ["--identity=raw:+0"],
            ["--identity=raw:ü"],
        ] {
            assert!(request(&line).is_err(), "{line:?}");
        }
        let error = request(&["--client-cert=/does/not/exist"]).unwrap_err();
        assert!(error.starts_with("cannot read /does/not/exist"), "{error}");
    }

    #[test]
    fn an_environment_file_is_read_by_lines() {
        let text = "# comment\n\nA=1\nB= two words \"q\" \n  # more\nC=\n";
        let environment = parse_environment(text).unwrap();
        assert_eq!(environment.len(), 3);
        assert_eq!(environment["B"], " two words \"q\" ");
        assert_eq!(environment["C"], "");
        assert_eq!(parse_environment("A=1\noops\n").unwrap_err().0, 2);
        assert_eq!(parse_environment("A=1\nA=2\n").unwrap_err().0, 2);
    }
}
