//! `casemate doctor`: what keeps VMs from being started on the daemon's host, and what to do.

use casemate_proto::v1::{BackendDiagnosis, CheckHostResponse, Finding};

use crate::arguments::Format;
use crate::client::Client;
use crate::error::CliError;
use crate::screen::{Screen, Tone};
use crate::{findings, json, plain_text};

#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArguments {
    /// Look at the host and at this backend only.
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
}

pub(crate) async fn run(
    arguments: DoctorArguments,
    client: Client,
    screen: &Screen,
) -> Result<(), CliError> {
    of(arguments.backend, client, screen).await
}

/// Of that backend, or of all.
pub(crate) async fn of(
    backend: Option<String>,
    mut client: Client,
    screen: &Screen,
) -> Result<(), CliError> {
    let diagnosis = client.diagnose(backend.clone()).await?;
    match screen.format {
        Format::Data(_) => screen.write_value(&json::value(&diagnosis)?)?,
        Format::Table => screen.write_raw(tree(&diagnosis, screen).as_bytes())?,
    }
    if diagnosis.usable {
        return Ok(());
    }
    Err(CliError::HostUnfit {
        backend,
        cause: first_cause(&diagnosis),
    })
}

/// The host first: what it lacks, no backend has.
fn tree(diagnosis: &CheckHostResponse, screen: &Screen) -> String {
    let mut text = branch("host", &diagnosis.host_findings, screen);
    for backend in &diagnosis.backends {
        text.push('\n');
        text.push_str(&branch(&title(backend), &backend.findings, screen));
    }
    text
}

fn title(backend: &BackendDiagnosis) -> String {
    if backend.tee.is_empty() {
        return format!("{} ({})", backend.name, backend.status);
    }
    format!(
        "{} (tee {}, protection {})",
        backend.name, backend.tee, backend.protection
    )
}

/// What it is about and its first cause of failure, and the findings below.
fn branch(title: &str, found: &[Finding], screen: &Screen) -> String {
    let title = plain_text::stripped(title);
    let verdict = match first_failure(found) {
        Some(failure) => screen.tint(
            &plain_text::stripped(&format!("cannot start VMs: {}", failure.detail)),
            Tone::Bad,
        ),
        None => screen.tint("can start VMs", Tone::Good),
    };
    let mut text = format!("{title}: {verdict}\n");
    let lines = findings::lines(found, |text, tone| screen.tint(text, tone));
    for line in lines.lines() {
        text.push_str("  ");
        text.push_str(line);
        text.push('\n');
    }
    text
}

fn first_failure(findings: &[Finding]) -> Option<&Finding> {
    findings.iter().find(|finding| finding.severity == "fail")
}

/// Of the host, else of the first backend.
fn first_cause(diagnosis: &CheckHostResponse) -> String {
    let of_host = first_failure(&diagnosis.host_findings);
    let of_backends = diagnosis
        .backends
        .iter()
        .find_map(|backend| Some((backend, first_failure(&backend.findings)?)));
    match (of_host, of_backends) {
        (Some(failure), _) => failure.detail.clone(),
        (None, Some((backend, failure))) => format!("{}: {}", backend.name, failure.detail),
        (None, None) => "there is no backend".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::screen::piped;

    fn finding(id: &str, severity: &str, detail: &str, remedy: &str) -> Finding {
        Finding {
            id: id.to_owned(),
            severity: severity.to_owned(),
            subject: String::new(),
            detail: detail.to_owned(),
            remedy: remedy.to_owned(),
        }
    }

    fn sample() -> CheckHostResponse {
        let backend = |name: &str, findings| BackendDiagnosis {
            name: name.to_owned(),
            tee: "none".to_owned(),
            protection: "none".to_owned(),
            status: "in-service".to_owned(),
            findings,
            ..BackendDiagnosis::default()
        };
        CheckHostResponse {
            host_findings: vec![
                finding("host.qemu", "pass", "QEMU 10.0.2", ""),
                finding("host.kvm", "note", "emulated", "use KVM"),
            ],
            backends: vec![
                backend(
                    "one",
                    vec![
                        finding("a", "warn", "not granted", "grant it"),
                        finding("b", "fail", "first\x1b[2J", "mend it"),
                        finding("c", "fail", "second", "mend that"),
                    ],
                ),
                BackendDiagnosis {
                    name: "two".to_owned(),
                    status: "failed".to_owned(),
                    findings: vec![finding("backend.load", "fail", "no file", "put it there")],
                    ..BackendDiagnosis::default()
                },
                backend("three", vec![]),
            ],
            usable: true,
        }
    }

    #[test]
    fn the_host_comes_first_and_each_branch_begins_with_its_first_cause() {
        assert_eq!(
            tree(&sample(), &piped(Format::Table)),
            "host: can start VMs\n\
             \x20 pass  host.qemu: QEMU 10.0.2\n\
             \x20 note  host.kvm: emulated\n\
             \x20       remedy: use KVM\n\
             \n\
             one (tee none, protection none): cannot start VMs: first[2J\n\
             \x20 warn  a: not granted\n\
             \x20       remedy: grant it\n\
             \x20 fail  b: first[2J\n\
             \x20       remedy: mend it\n\
             \x20 fail  c: second\n\
             \x20       remedy: mend that\n\
             \n\
             two (failed): cannot start VMs: no file\n\
             \x20 fail  backend.load: no file\n\
             \x20       remedy: put it there\n\
             \n\
             three (tee none, protection none): can start VMs\n"
        );
    }

    #[test]
    fn what_the_host_lacks_comes_before_what_a_backend_lacks() {
        let mut diagnosis = sample();
        assert_eq!(first_cause(&diagnosis), "one: first\x1b[2J");
        let lack = finding("host.kvm", "fail", "no KVM", "load it");
        diagnosis.host_findings.push(lack);
        assert_eq!(first_cause(&diagnosis), "no KVM");
        assert_eq!(
            first_cause(&CheckHostResponse::default()),
            "there is no backend"
        );
    }
}
