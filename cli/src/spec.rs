//! The options that describe a VM, shared by `vm create` and `plan`, and the request they make.
//!
//! Only their form is checked here. What makes sense is the daemon's to say, because it depends on
//! its configuration and on the backend.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use casemate_proto::v1;
use clap::ValueEnum;

use crate::error::CliError;
use crate::{arguments, byte_size};

mod file;

const DISK_FORMATS: [&str; 2] = ["raw", "qcow2"];

/// Of a secret, which the daemon takes; one byte more is read, for the daemon to refuse it.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// What the VM is to be; what is left out is the operator's default.
#[derive(Debug, clap::Args)]
pub(crate) struct SpecArguments {
    /// The VM in a file, YAML or JSON: fields of the API's VmSpec; `-` is standard input. What else
    /// is given here wins.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

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

    /// Kernel to boot, by its name below the operator's image roots.
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,

    /// Initial RAM disk, by its name.
    #[arg(long, value_name = "NAME")]
    initrd: Option<String>,

    /// Firmware in one file, by its name.
    #[arg(long, value_name = "NAME")]
    firmware: Option<String>,

    /// IGVM file to start from, by its name.
    #[arg(long, value_name = "NAME")]
    igvm: Option<String>,

    /// Disk image to boot from, by its name.
    #[arg(long, value_name = "NAME")]
    disk: Option<String>,

    /// Format of that image; the operator's, if this is left out.
    #[arg(long, value_name = "FORMAT", value_parser = DISK_FORMATS)]
    disk_format: Option<String>,

    /// A further disk, which the guest cannot write to; may be repeated.
    #[arg(long, value_name = "ID=NAME,format=raw|qcow2", value_parser = data_disk)]
    data_disk: Vec<v1::DataDisk>,

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

    /// A secret for the guest: the bytes of a file of yours, as the file secrets/NAME there; may be
    /// repeated.
    #[arg(long, value_name = "NAME=FILE", value_parser = named_file)]
    secret: Vec<(String, String)>,

    /// PEM certificate that the guest's agent uses as a client.
    #[arg(long, value_name = "FILE")]
    agent_cert: Option<PathBuf>,

    /// PEM key of that certificate.
    #[arg(long, value_name = "FILE")]
    agent_key: Option<PathBuf>,

    /// PEM certificate of the authority that signs what the guest's agent talks to.
    #[arg(long, value_name = "FILE")]
    agent_ca: Option<PathBuf>,

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

    /// A label, for people and programs that look for VMs; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
    label: Vec<(String, String)>,

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
        let mut spec = match &self.file {
            Some(path) => file::read(path)?,
            None => v1::VmSpec::default(),
        };
        if let Some(path) = &self.env_file {
            spec.environment.extend(environment_file(path)?);
        }
        spec.environment.extend(self.env.iter().cloned());
        spec.settings.extend(self.set.iter().cloned());
        spec.labels.extend(self.label.iter().cloned());
        for (name, path) in &self.secret {
            spec.secrets.insert(name.clone(), secret(Path::new(path))?);
        }
        for (field, given) in [
            (&mut spec.name, &self.name),
            (&mut spec.backend, &self.backend),
            (&mut spec.machine, &self.machine),
            (&mut spec.cpu, &self.cpu),
        ] {
            overlay(field, given.as_ref());
        }
        overlay(&mut spec.vcpus, self.vcpus.as_ref());
        overlay(&mut spec.memory_bytes, self.memory.as_ref());
        if let Some(boot) = self.boot {
            spec.set_boot(boot.into());
        }
        if let Some(restart) = self.restart {
            spec.set_restart_policy(restart.into());
        }
        spec.kernel_cmdline = self.cmdline.clone().or(spec.kernel_cmdline);
        spec.ttl_seconds = self.ttl.map(whole_seconds).or(spec.ttl_seconds);
        spec.identity = self.identity.clone().or(spec.identity);
        spec.require_confidential |= self.require_confidential;
        self.overlay_files(&mut spec.files);
        self.overlay_certificates(&mut spec.certificates)?;
        for disk in &self.data_disk {
            match spec.data_disks.iter_mut().find(|known| known.id == disk.id) {
                Some(known) => known.clone_from(disk),
                None => spec.data_disks.push(disk.clone()),
            }
        }
        Ok(spec)
    }

    fn overlay_files(&self, files: &mut Option<v1::Files>) {
        let given = [
            &self.kernel,
            &self.initrd,
            &self.firmware,
            &self.igvm,
            &self.disk,
            &self.disk_format,
        ];
        if given.iter().all(|name| name.is_none()) {
            return;
        }
        let files = files.get_or_insert_default();
        let fields = [
            &mut files.kernel,
            &mut files.initrd,
            &mut files.firmware,
            &mut files.igvm,
            &mut files.disk,
            &mut files.disk_format,
        ];
        for (field, name) in fields.into_iter().zip(given) {
            overlay(field, name.as_ref());
        }
    }

    fn overlay_certificates(
        &self,
        certificates: &mut Option<v1::Certificates>,
    ) -> Result<(), CliError> {
        let given = [&self.agent_cert, &self.agent_key, &self.agent_ca];
        if given.iter().all(|path| path.is_none()) {
            return Ok(());
        }
        let certificates = certificates.get_or_insert_default();
        let fields = [
            &mut certificates.client_certificate,
            &mut certificates.client_key,
            &mut certificates.server_ca,
        ];
        for (field, path) in fields.into_iter().zip(given) {
            if let Some(path) = path {
                *field = std::fs::read(path).map_err(|source| unreadable(path, source))?;
            }
        }
        Ok(())
    }
}

fn overlay<Value: Clone>(field: &mut Value, given: Option<&Value>) {
    if let Some(value) = given {
        field.clone_from(value);
    }
}

impl From<BootArgument> for v1::Boot {
    fn from(boot: BootArgument) -> Self {
        match boot {
            BootArgument::Kernel => Self::Kernel,
            BootArgument::Disk => Self::Disk,
        }
    }
}

impl From<RestartArgument> for v1::RestartPolicy {
    fn from(restart: RestartArgument) -> Self {
        match restart {
            RestartArgument::Never => Self::Never,
            RestartArgument::OnFailure => Self::OnFailure,
            RestartArgument::Always => Self::Always,
        }
    }
}

/// Rounded up: a VM is not removed before its time.
pub(crate) fn whole_seconds(duration: Duration) -> u32 {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    // The daemon refuses a time that long with a better message than one from here.
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

fn unreadable(path: &Path, source: std::io::Error) -> CliError {
    CliError::Input {
        path: path.to_owned(),
        source,
    }
}

fn secret(path: &Path) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_SECRET_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|source| unreadable(path, source))?;
    Ok(bytes)
}

fn data_disk(text: &str) -> Result<v1::DataDisk, String> {
    let parts = text.split_once('=').and_then(|(id, rest)| {
        let (image, format) = rest.rsplit_once(",format=")?;
        Some((id, image, format))
    });
    match parts {
        Some((id, image, format))
            if !id.is_empty() && !image.is_empty() && DISK_FORMATS.contains(&format) =>
        {
            Ok(v1::DataDisk {
                id: id.to_owned(),
                image: image.to_owned(),
                format: format.to_owned(),
            })
        }
        _ => Err("wanted is ID=NAME,format=raw or ID=NAME,format=qcow2".to_owned()),
    }
}

pub(crate) fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        // The text itself may be a secret that lost its name, so it is not repeated.
        _ => Err("wanted is NAME=VALUE".to_owned()),
    }
}

fn named_file(text: &str) -> Result<(String, String), String> {
    assignment(text).map_err(|_| "wanted is NAME=FILE, and FILE is a file of yours".to_owned())
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

fn environment_file(path: &Path) -> Result<BTreeMap<String, String>, CliError> {
    let text = std::fs::read_to_string(path).map_err(|source| unreadable(path, source))?;
    parse_environment(&text).map_err(|(line, reason)| CliError::EnvironmentFile {
        path: path.to_owned(),
        line,
        reason,
    })
}

/// A value is taken as it stands, with its quotes and blanks; the error carries the line's number.
fn parse_environment(text: &str) -> Result<BTreeMap<String, String>, (usize, String)> {
    let mut environment = BTreeMap::new();
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
        assert_eq!(spec.ttl_seconds, Some(5400));
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
            ["--label=x"],
            ["--secret=x"],
            ["--disk-format=vdi"],
            ["--data-disk=data"],
            ["--data-disk=data=a.raw"],
            ["--data-disk==a.raw,format=raw"],
            ["--data-disk=data=,format=raw"],
            ["--data-disk=data=a,format=vdi"],
        ] {
            assert!(request(&line).is_err(), "{line:?}");
        }
        let error = request(&["--secret=x"]).unwrap_err();
        assert!(error.contains("wanted is NAME=FILE"), "{error}");
        let error = request(&["--agent-cert=/does/not/exist"]).unwrap_err();
        assert!(error.starts_with("cannot read /does/not/exist"), "{error}");
    }

    #[test]
    fn what_is_given_wins_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("key"), b"\x00\xff").unwrap();
        std::fs::write(path("cert"), b"pem").unwrap();
        std::fs::write(
            path("spec.yaml"),
            "name: file\ncpu: file\nvcpus: 8\nboot: kernel\nttl_seconds: 9\n\
             labels: {a: file, b: file}\nfiles: {kernel: file, initrd: file}\n\
             certificates: {client_key: aGk=}\nrequire_confidential: true\n\
             data_disks: [{id: one, image: file, format: raw}]\n",
        )
        .unwrap();
        let spec = request(&[
            &format!("--file={}", path("spec.yaml")),
            "--name=flag",
            "--vcpus=2",
            "--boot=disk",
            "--label=a=flag",
            "--kernel=flag",
            "--disk=d,format=x",
            "--disk-format=qcow2",
            "--firmware=fw",
            "--igvm=ig",
            "--data-disk=one=a=b,c,format=qcow2",
            "--data-disk=two=x,format=raw",
            &format!("--secret=token={}", path("key")),
            &format!("--agent-cert={}", path("cert")),
        ])
        .unwrap();
        assert_eq!((spec.name.as_str(), spec.cpu.as_str()), ("flag", "file"));
        assert_eq!((spec.vcpus, spec.ttl_seconds), (2, Some(9)));
        assert_eq!(spec.boot(), v1::Boot::Disk);
        assert!(spec.require_confidential);
        assert_eq!((&*spec.labels["a"], &*spec.labels["b"]), ("flag", "file"));
        let files = spec.files.unwrap();
        assert_eq!(
            files,
            v1::Files {
                kernel: "flag".to_owned(),
                initrd: "file".to_owned(),
                firmware: "fw".to_owned(),
                igvm: "ig".to_owned(),
                disk: "d,format=x".to_owned(),
                disk_format: "qcow2".to_owned(),
            }
        );
        let disk = |id: &str, image: &str, format: &str| v1::DataDisk {
            id: id.to_owned(),
            image: image.to_owned(),
            format: format.to_owned(),
        };
        assert_eq!(
            spec.data_disks,
            [disk("one", "a=b,c", "qcow2"), disk("two", "x", "raw")]
        );
        assert_eq!(spec.secrets["token"], [0x00, 0xff]);
        let certificates = spec.certificates.unwrap();
        assert_eq!(certificates.client_certificate, b"pem");
        assert_eq!(certificates.client_key, b"hi");

        let error = request(&["--file=/does/not/exist"]).unwrap_err();
        assert!(error.starts_with("cannot read /does/not/exist"), "{error}");
        // A file without an end is not read to its end.
        let endless = request(&["--secret=x=/dev/zero"]).unwrap();
        assert_eq!(endless.secrets["x"].len(), 64 * 1024 + 1);
        assert!(request(&["--file=/dev/zero"]).is_err());
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
