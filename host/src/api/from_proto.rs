//! From messages to domain values, and the only place that judges a request's form.

mod files;

use std::collections::BTreeMap;
use std::time::Duration;

use casemate_attestation::PolicyFormat;
use casemate_catalogue::ErrorId;
use casemate_proto::{manager, v1};

use crate::spec::files::FileAuthority;
use crate::spec::go_duration;
use crate::spec::identity::{Identity, IdentityError, IdentityWish};
use crate::spec::request::{BackendWish, Boot, Certificates, Goal, RestartPolicy, Secret, VmSpec};
use crate::vm::catalogued::Catalogued;
use crate::vm::shares::{self, VariableError};
use files::FilesError;

/// Longest name of a VM, as of a host name's label.
const MAX_NAME: usize = 63;
/// Largest PEM file; a chain of certificates has some kilobytes.
const MAX_PEM: usize = 256 << 10;
/// Most memory that a request may name, far above any machine.
const MAX_MEMORY: u64 = 1 << 46;
const MIB: u64 = 1 << 20;
const MAX_LABELS: usize = 64;
/// Characters; a line of a table.
const MAX_LABEL_VALUE: usize = 255;
/// Longest idempotency key; a UUID has 36 characters.
const MAX_KEY: usize = 128;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum SpecError {
    #[error("{field}: {what}")]
    Field {
        field: &'static str,
        what: String,
        remedy: &'static str,
    },
    #[error("ttl: {what}")]
    Ttl { what: String, remedy: &'static str },
    #[error("environment: {0}")]
    Variable(#[from] VariableError),
    #[error(transparent)]
    Files(#[from] FilesError),
}

impl Catalogued for SpecError {
    fn id(&self) -> ErrorId {
        match self {
            Self::Field { .. } => ErrorId::RequestField,
            Self::Ttl { .. } => ErrorId::RequestTtl,
            Self::Variable(_) => ErrorId::RequestEnvironment,
            Self::Files(error) => error.id(),
        }
    }

    fn subject(&self) -> Option<String> {
        Some(match self {
            Self::Field { field, .. } => (*field).to_owned(),
            Self::Ttl { .. } => "ttl".to_owned(),
            Self::Variable(
                VariableError::Name { name }
                | VariableError::Value { name, .. }
                | VariableError::TooLong { name }
                | VariableError::Twice { name },
            ) => name.clone(),
            Self::Variable(VariableError::Reserved) => "AGENT_CVM_ID".to_owned(),
            Self::Variable(VariableError::TooMany) => "environment".to_owned(),
            Self::Files(error) => error.field().to_owned(),
        })
    }

    fn field(&self) -> Option<String> {
        Some(match self {
            Self::Field { field, .. } => (*field).to_owned(),
            Self::Ttl { .. } => "ttl_seconds".to_owned(),
            Self::Variable(_) => "environment".to_owned(),
            Self::Files(error) => error.field().to_owned(),
        })
    }

    fn remedy(&self) -> String {
        match self {
            Self::Field { remedy, .. } | Self::Ttl { remedy, .. } => *remedy,
            Self::Files(error) => error.remedy(),
            Self::Variable(VariableError::Name { .. } | VariableError::Value { .. }) => {
                self.id().entry().remedy
            }
            Self::Variable(VariableError::TooLong { .. } | VariableError::TooMany) => {
                "pass less, and let the guest fetch the rest"
            }
            Self::Variable(VariableError::Reserved | VariableError::Twice { .. }) => {
                "leave the variable out"
            }
        }
        .to_owned()
    }
}

fn field(field: &'static str, what: impl Into<String>, remedy: &'static str) -> SpecError {
    SpecError::Field {
        field,
        what: crate::spec::printable(&what.into()),
        remedy,
    }
}

fn ttl_error(what: &str, remedy: &'static str) -> SpecError {
    SpecError::Ttl {
        what: crate::spec::printable(what),
        remedy,
    }
}

pub(super) fn vm_spec(spec: v1::VmSpec, authority: FileAuthority) -> Result<VmSpec, SpecError> {
    let boot = match v1::Boot::try_from(spec.boot) {
        Ok(v1::Boot::Unspecified) => None,
        Ok(v1::Boot::Kernel) => Some(Boot::Kernel),
        Ok(v1::Boot::Disk) => Some(Boot::Disk),
        Err(_) => {
            return Err(field(
                "boot",
                "unknown value",
                "use BOOT_KERNEL or BOOT_DISK",
            ));
        }
    };
    let memory_bytes = some_unless_zero(spec.memory_bytes);
    if memory_bytes.is_some_and(|bytes| !bytes.is_multiple_of(MIB) || bytes > MAX_MEMORY) {
        return Err(field(
            "memory_bytes",
            format!("{} is no multiple of 1 MiB up to 64 TiB", spec.memory_bytes),
            "give bytes, such as 2147483648 for 2 GiB",
        ));
    }
    let ttl = ttl(spec.ttl_seconds)?;
    let environment: Vec<_> = spec
        .environment
        .into_iter()
        .map(|(name, value)| (name, Secret::new(value)))
        .collect();
    shares::check_variables(&environment)?;
    let certificates = spec.certificates.unwrap_or_default();
    let files = files::wishes(spec.files, spec.data_disks, boot, authority)?;
    Ok(VmSpec {
        name: name(spec.name)?,
        backend: text("backend", spec.backend)?.map_or(BackendWish::Any, BackendWish::Named),
        vcpus: some_unless_zero(spec.vcpus),
        memory_bytes,
        machine: text("machine", spec.machine)?,
        cpu: text("cpu", spec.cpu)?,
        boot,
        kernel_cmdline: spec.kernel_cmdline,
        kernel_cmdline_suffix: None,
        environment,
        certificates: Certificates {
            client_certificate: pem("client_certificate", certificates.client_certificate)?,
            client_key: pem("client_key", certificates.client_key)?,
            server_ca: pem("server_ca", certificates.server_ca)?,
        },
        secrets: files::secrets(spec.secrets)?,
        settings: spec.settings,
        ttl,
        require_confidential: spec.require_confidential,
        restart_policy: restart_policy(spec.restart_policy)?,
        disk: None,
        files,
        identity: identity(spec.identity)?,
        labels: labels(spec.labels)?,
        created_by: String::new(),
        idempotency: None,
        goal: Goal::Guest,
    })
}

/// At most `MAX_LABELS`; a key that can stand in a URL, and a value that can stand in a table.
pub(super) fn labels(
    labels: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, SpecError> {
    if labels.len() > MAX_LABELS {
        return Err(field("labels", "there are more than 64", "give fewer"));
    }
    for (key, value) in &labels {
        let is_key = (1..=MAX_NAME).contains(&key.len())
            && key
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._/".contains(&b));
        if !is_key {
            return Err(field(
                "labels",
                format!("{key:?} is no key"),
                "use 1 to 63 letters, digits, `.`, `_`, `-`, `/`",
            ));
        }
        if value.chars().count() > MAX_LABEL_VALUE || value.contains(char::is_control) {
            return Err(field(
                "labels",
                format!("the value of {key} is too long or holds a control character"),
                "give at most 255 characters on one line",
            ));
        }
    }
    Ok(labels)
}

/// None: the request has none.
pub(super) fn idempotency_key(key: &str) -> Result<Option<String>, SpecError> {
    let fits = key.len() <= MAX_KEY && key.bytes().all(|b| b.is_ascii_graphic());
    if !fits {
        return Err(SpecError::Field {
            field: "idempotency_key",
            what: "it is too long, or holds more than visible ASCII characters".to_owned(),
            remedy: "give 1 to 128 visible ASCII characters, such as a UUID",
        });
    }
    Ok(Some(key.to_owned()).filter(|key| !key.is_empty()))
}

/// A state that a list is asked for.
pub(super) fn vm_state(number: i32) -> Result<v1::VmState, SpecError> {
    match v1::VmState::try_from(number) {
        Ok(v1::VmState::Unspecified) | Err(_) => Err(field(
            "states",
            format!("{number} is no state"),
            "name states of VmState, such as VM_STATE_RUNNING",
        )),
        Ok(state) => Ok(state),
    }
}

pub(super) fn page_size_error(size: u32) -> SpecError {
    field(
        "page_size",
        format!("{size} is more than an answer may have"),
        "ask for at most 1000, and for the next page with `page_token`",
    )
}

pub(super) fn page_token_error() -> SpecError {
    field(
        "page_token",
        "it is no `next_page_token` of an answer",
        "give it as it was answered, or leave it out for the first page",
    )
}

pub(super) fn ttl(seconds: Option<u32>) -> Result<Option<Duration>, SpecError> {
    let Some(seconds) = seconds else {
        return Ok(None);
    };
    match go_duration::check(Duration::from_secs(seconds.into())) {
        Some(ttl) => Ok(Some(ttl)),
        None => Err(ttl_error(
            "it is not between one second and ten years",
            "give 1 to 316224000 seconds, or leave it out",
        )),
    }
}

fn identity(identity: Option<v1::Identity>) -> Result<IdentityWish, SpecError> {
    let Some(v1::Identity { algorithm, digest }) = identity else {
        return Ok(IdentityWish::Usual);
    };
    let named = Identity::of_request(&algorithm, digest).map_err(|error| {
        let remedy = match error {
            IdentityError::Algorithm { .. } => "use raw, sha-256, sha-384 or sha-512",
            IdentityError::Length { .. } => {
                "give all bytes of the digest, or name the algorithm `raw` for 1 to 64 bytes of another kind"
            }
        };
        field("identity", error.to_string(), remedy)
    })?;
    Ok(IdentityWish::Named(named))
}

fn restart_policy(policy: i32) -> Result<RestartPolicy, SpecError> {
    match v1::RestartPolicy::try_from(policy) {
        Ok(v1::RestartPolicy::Unspecified | v1::RestartPolicy::Never) => Ok(RestartPolicy::Never),
        Ok(v1::RestartPolicy::OnFailure) => Ok(RestartPolicy::OnFailure),
        Ok(v1::RestartPolicy::Always) => Ok(RestartPolicy::Always),
        Err(_) => Err(field(
            "restart_policy",
            "unknown value",
            "use RESTART_POLICY_NEVER, RESTART_POLICY_ON_FAILURE or RESTART_POLICY_ALWAYS",
        )),
    }
}

/// The predecessor's request. Its fields become variables; what is empty was not given, and is
/// written as the predecessor writes it.
pub(super) fn predecessor_spec(request: manager::CreateReq) -> Result<VmSpec, SpecError> {
    let ttl = match request.ttl.as_str() {
        "" => None,
        text => Some(go_duration::parse(text).map_err(|error| {
            ttl_error(&error.to_string(), "write it as Go does, such as `1h30m`")
        })?),
    };
    let kernel_cmdline_suffix = match request.aa_kbs_params.as_str() {
        "" => None,
        value => Some(format!("agent.aa_kbc_params={}", kbs_parameters(value)?)),
    };
    let given = |name: &str, path: &str, content: &[u8]| {
        (!content.is_empty()).then(|| (name.to_owned(), path.to_owned()))
    };
    let mut environment = vec![
        ("AGENT_LOG_LEVEL".to_owned(), request.agent_log_level),
        (
            "AGENT_CVM_GRPC_URL".to_owned(),
            request.agent_cvm_server_url,
        ),
    ];
    environment.extend(
        [
            given(
                "AGENT_CVM_GRPC_CLIENT_CERT",
                "/etc/certs/cert.pem",
                &request.agent_cvm_client_cert,
            ),
            given(
                "AGENT_CVM_GRPC_CLIENT_KEY",
                "/etc/certs/key.pem",
                &request.agent_cvm_client_key,
            ),
            given(
                "AGENT_CVM_GRPC_SERVER_CA_CERTS",
                "/etc/certs/ca.pem",
                &request.agent_cvm_server_ca_cert,
            ),
        ]
        .into_iter()
        .flatten(),
    );
    environment.extend([
        ("AGENT_CERTS_TOKEN".to_owned(), request.agent_certs_token),
        ("AGENT_CVM_CA_URL".to_owned(), request.agent_cvm_ca_url),
        ("AWS_ACCESS_KEY_ID".to_owned(), request.aws_access_key_id),
        (
            "AWS_SECRET_ACCESS_KEY".to_owned(),
            request.aws_secret_access_key,
        ),
        ("AWS_ENDPOINT_URL".to_owned(), request.aws_endpoint_url),
        ("AWS_REGION".to_owned(), request.aws_region),
    ]);
    let environment: Vec<_> = environment
        .into_iter()
        .map(|(name, value)| (name, Secret::new(value)))
        .collect();
    shares::check_variables(&environment)?;
    Ok(VmSpec {
        environment,
        certificates: Certificates {
            client_certificate: pem("agent_cvm_client_cert", request.agent_cvm_client_cert)?,
            client_key: pem("agent_cvm_client_key", request.agent_cvm_client_key)?,
            server_ca: pem("agent_cvm_server_ca_cert", request.agent_cvm_server_ca_cert)?,
        },
        kernel_cmdline_suffix,
        ttl,
        ..VmSpec::default()
    })
}

/// One word of a kernel command line: a blank would start another parameter, a quote would join
/// them.
fn kbs_parameters(value: &str) -> Result<&str, SpecError> {
    let fits = value.len() <= 1_024
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&()*+,;=%".contains(&b));
    if fits {
        return Ok(value);
    }
    Err(field(
        "aa_kbs_params",
        "it holds a character that a URL has not, or more than 1024 of them",
        "give `<kbc>::<URL>`; blanks and quotes are not allowed",
    ))
}

fn name(name: String) -> Result<String, SpecError> {
    let fits = name.len() <= MAX_NAME
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if fits {
        return Ok(name);
    }
    Err(field(
        "name",
        format!("{name:?} is no name"),
        "use at most 63 letters, digits, `.`, `_`, `-`",
    ))
}

fn text(at: &'static str, text: String) -> Result<Option<String>, SpecError> {
    if text.len() > 256 || text.contains(char::is_control) {
        return Err(field(
            at,
            "it is too long or holds a control character",
            "give a plain name",
        ));
    }
    Ok(if text.is_empty() { None } else { Some(text) })
}

fn pem(at: &'static str, content: Vec<u8>) -> Result<Option<Secret<Vec<u8>>>, SpecError> {
    if content.len() > MAX_PEM {
        return Err(field(at, "it is larger than 256 KiB", "give a PEM file"));
    }
    Ok(if content.is_empty() {
        None
    } else {
        Some(Secret::new(content))
    })
}

fn some_unless_zero<T: Default + PartialEq>(value: T) -> Option<T> {
    (value != T::default()).then_some(value)
}

/// The format of a measurement; none where the number is none of the enum's.
pub(super) fn measurement_format(number: i32) -> Option<PolicyFormat> {
    use v1::MeasurementFormat as Format;
    Some(match Format::try_from(number).ok()? {
        Format::Unspecified | Format::Json => PolicyFormat::Json,
        Format::Corim => PolicyFormat::Corim,
        Format::Trustee => PolicyFormat::Trustee,
        Format::Text => PolicyFormat::Text,
    })
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    /// Name of a case, its change to a good request, and a part of the message; none: it is good.
    type Case<R> = (&'static str, fn(&mut R), Option<&'static str>);

    fn named(algorithm: &str, length: usize) -> v1::Identity {
        v1::Identity {
            algorithm: algorithm.to_owned(),
            digest: vec![7; length],
        }
    }

    fn disk(id: &str, image: &str) -> v1::DataDisk {
        v1::DataDisk {
            id: id.to_owned(),
            image: image.to_owned(),
            format: "raw".to_owned(),
        }
    }

    #[test]
    fn requests_of_v1() {
        let cases: &[Case<v1::VmSpec>] = &[
            ("empty", |_| {}, None),
            ("name", |s| s.name = "a b".to_owned(), Some("name")),
            ("long name", |s| s.name = "a".repeat(64), Some("name")),
            ("memory", |s| s.memory_bytes = 1, Some("memory_bytes")),
            (
                "huge memory",
                |s| s.memory_bytes = u64::MAX - (MIB - 1),
                Some("memory_bytes"),
            ),
            ("boot", |s| s.boot = 9, Some("boot")),
            ("no ttl", |s| s.ttl_seconds = Some(0), Some("ttl")),
            (
                "endless ttl",
                |s| s.ttl_seconds = Some(316_224_001),
                Some("ttl"),
            ),
            (
                "newline",
                |s| drop(s.environment.insert("A".to_owned(), "x\nB=1".to_owned())),
                Some("environment"),
            ),
            (
                "control",
                |s| s.machine = "q35\u{7}".to_owned(),
                Some("machine"),
            ),
            (
                "secret",
                |s| drop(s.secrets.insert("a/b".to_owned(), Vec::new())),
                Some("secrets: \"a/b\" is no name of a file"),
            ),
            (
                "a file of the host",
                |s| s.files.get_or_insert_default().kernel = "/vmlinuz".to_owned(),
                Some("files.kernel: \"/vmlinuz\" is no name of a file: an absolute path"),
            ),
            (
                "a disk without an image",
                |s| s.data_disks.push(disk("data", "")),
                Some("data_disks[0].image"),
            ),
            ("a disk", |s| s.data_disks.push(disk("data", "x")), None),
            (
                "identity",
                |s| s.identity = Some(named("sha-384", 48)),
                None,
            ),
            (
                "an identity of no algorithm",
                |s| s.identity = Some(named("", 32)),
                Some("identity: \"\" is none of raw, sha-256, sha-384, sha-512"),
            ),
            (
                "a short identity",
                |s| s.identity = Some(named("sha-256", 31)),
                Some("identity: a digest of sha-256 has 32 bytes, and this one has 31"),
            ),
            (
                "no bytes",
                |s| s.identity = Some(named("raw", 0)),
                Some("identity: a digest of raw has 1 to 64 bytes, and this one has 0"),
            ),
        ];
        for (case, change, wanted) in cases {
            let mut spec = v1::VmSpec::default();
            change(&mut spec);
            let error = vm_spec(spec, FileAuthority::BelowRoots)
                .err()
                .map(|error| error.to_string());
            match (wanted, &error) {
                (None, None) => {}
                (Some(part), Some(error)) => assert!(error.contains(part), "{case}: {error}"),
                _ => panic!("{case}: {error:?}"),
            }
        }
    }

    #[test]
    fn requests_of_the_predecessor() {
        let cases: &[Case<manager::CreateReq>] = &[
            ("empty", |_| {}, None),
            ("ttl", |r| r.ttl = "1h30m".to_owned(), None),
            ("bad ttl", |r| r.ttl = "soon".to_owned(), Some("ttl")),
            (
                "newline",
                |r| r.agent_cvm_server_url = "x\nA=1".to_owned(),
                Some("AGENT_CVM_GRPC_URL"),
            ),
            (
                "nul",
                |r| r.aws_region = "\0".to_owned(),
                Some("AWS_REGION"),
            ),
            (
                "kbs",
                |r| r.aa_kbs_params = "cc_kbc::http://1.2.3.4:8080".to_owned(),
                None,
            ),
            (
                "kbs with a blank",
                |r| r.aa_kbs_params = "a init=/bin/sh".to_owned(),
                Some("aa_kbs_params"),
            ),
            (
                "kbs with a quote",
                |r| r.aa_kbs_params = "a\"".to_owned(),
                Some("aa_kbs_params"),
            ),
        ];
        for (case, change, wanted) in cases {
            let mut request = manager::CreateReq::default();
            change(&mut request);
            let error = predecessor_spec(request)
                .err()
                .map(|error| error.to_string());
            match (wanted, &error) {
                (None, None) => {}
                (Some(part), Some(error)) => assert!(error.contains(part), "{case}: {error}"),
                _ => panic!("{case}: {error:?}"),
            }
        }
    }

    #[test]
    fn certificate_variables_come_only_with_certificates() {
        let names = |request: manager::CreateReq| -> Vec<String> {
            let spec = predecessor_spec(request).unwrap();
            spec.environment.into_iter().map(|(name, _)| name).collect()
        };
        let without = names(manager::CreateReq::default());
        assert!(
            !without
                .iter()
                .any(|name| name.contains("CERT_") || name.ends_with("_CERT"))
        );
        let with = names(manager::CreateReq {
            agent_cvm_client_cert: b"pem".to_vec(),
            ..manager::CreateReq::default()
        });
        assert!(with.contains(&"AGENT_CVM_GRPC_CLIENT_CERT".to_owned()));
        assert!(!with.contains(&"AGENT_CVM_GRPC_CLIENT_KEY".to_owned()));
    }
}
