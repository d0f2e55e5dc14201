//! What the daemon has loaded, and what it lets each backend have.

use std::collections::BTreeMap;

use casemate_proto::v1::{Backend, BackendReload, ReloadBackendsResponse};

use crate::arguments::Format;
use crate::client::Client;
use crate::error::CliError;
use crate::screen::{Column, Content, Screen, Tinted, Tone};
use crate::{findings, json};

/// As many digits as tell two files apart at a glance.
pub(super) const SHORT_DIGEST: usize = 12;

const LIST_COLUMNS: &[Column] = &[
    Column::new("NAME", Content::Text),
    Column::new("TEE", Content::Word),
    Column::new("PROTECTION", Content::Word),
    Column::new("VERSION", Content::Word),
    Column::new("STATUS", Content::Word),
    Column::new("DEFAULT", Content::Word),
    Column::if_wide("SHA256", Content::Word, 1),
];

const RELOAD_COLUMNS: &[Column] = &[
    Column::new("NAME", Content::Text),
    Column::new("CHANGE", Content::Word),
    Column::new("VERSION", Content::Word),
    Column::if_wide("BEFORE", Content::Word, 1),
    Column::if_wide("NOW", Content::Word, 1),
    Column::new("ERROR", Content::Text),
];

const SETTING_COLUMNS: &[Column] = &[
    Column::new("SETTING", Content::Word),
    Column::new("KIND", Content::Text),
    Column::new("VALUE", Content::Text),
    Column::new("PER VM", Content::Word),
    Column::new("DESCRIPTION", Content::Text),
];

const GRANT_COLUMNS: &[Column] = &[
    Column::new("GRANT", Content::Word),
    Column::new("WHAT", Content::Text),
    Column::new("GRANTED", Content::Word),
    Column::new("REASON", Content::Text),
];

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArguments {
    /// Name of the backend in the daemon's configuration.
    pub(super) name: String,
}

pub(super) async fn list(mut client: Client, screen: &Screen) -> Result<(), CliError> {
    let backends = client.list_backends().await?;
    match screen.format {
        Format::Data(_) => screen.write_value(&json::value(&backends)?),
        Format::Table => {
            let rows: Vec<Vec<Tinted>> = backends.iter().map(row).collect();
            screen.write_table(LIST_COLUMNS, &rows)
        }
    }
}

pub(super) async fn show(
    arguments: ShowArguments,
    mut client: Client,
    screen: &Screen,
) -> Result<(), CliError> {
    let backend = client.get_backend(arguments.name).await?;
    match screen.format {
        Format::Data(_) => screen.write_value(&json::value(&backend)?),
        Format::Table => screen.write_raw(page(&backend, screen).as_bytes()),
    }
}

pub(super) async fn reload(mut client: Client, screen: &Screen) -> Result<(), CliError> {
    let report = client.reload_backends().await?;
    match screen.format {
        Format::Data(_) => screen.write_value(&json::value(&report)?),
        Format::Table => screen.write_raw(reload_page(&report, screen).as_bytes()),
    }
}

fn reload_page(report: &ReloadBackendsResponse, screen: &Screen) -> String {
    let rows: Vec<Vec<Tinted>> = report.backends.iter().map(reload_row).collect();
    let mut text = screen.table(RELOAD_COLUMNS, &rows);
    for (what, keys) in [
        ("changed", &report.changed_keys),
        ("take a restart of the daemon", &report.waiting_keys),
    ] {
        if !keys.is_empty() {
            text.push_str(what);
            text.push_str(": ");
            text.push_str(&keys.join(", "));
            text.push('\n');
        }
    }
    text
}

fn reload_row(backend: &BackendReload) -> Vec<Tinted> {
    let short = |digest: &str| digest.chars().take(SHORT_DIGEST).collect::<String>();
    let tone = match &*backend.change {
        "added" | "replaced" | "reconfigured" => Tone::Good,
        "failed" => Tone::Bad,
        "removed" => Tone::Attention,
        _ => Tone::Plain,
    };
    vec![
        plain(&backend.name),
        (backend.change.clone(), tone),
        plain(&backend.version),
        plain(&short(&backend.previous_sha256)),
        plain(&short(&backend.sha256)),
        plain(&backend.error),
    ]
}

fn row(backend: &Backend) -> Vec<Tinted> {
    vec![
        plain(&backend.name),
        plain(&backend.tee),
        plain(&backend.protection),
        plain(&backend.version),
        (backend.status.clone(), status_tone(&backend.status)),
        plain(if backend.is_default { "yes" } else { "" }),
        plain(
            &backend
                .sha256
                .chars()
                .take(SHORT_DIGEST)
                .collect::<String>(),
        ),
    ]
}

fn identity(backend: &Backend) -> &'static str {
    if backend.carries_identity {
        "in reports"
    } else {
        "none"
    }
}

fn page(backend: &Backend, screen: &Screen) -> String {
    let fields: Vec<(&str, Tinted)> = vec![
        ("name", plain(&backend.name)),
        ("tee", plain(&backend.tee)),
        ("protection", plain(&backend.protection)),
        ("identity", plain(identity(backend))),
        ("vendor", plain(&backend.vendor)),
        ("version", plain(&backend.version)),
        ("contract", plain(&backend.api_version)),
        ("tier", plain(&backend.tier)),
        ("architectures", plain(&backend.architectures.join(", "))),
        (
            "status",
            (backend.status.clone(), status_tone(&backend.status)),
        ),
        ("error", (backend.error.clone(), Tone::Bad)),
        (
            "default",
            plain(if backend.is_default { "yes" } else { "no" }),
        ),
        ("canary of", plain(&canary(backend))),
        ("path", plain(&backend.path)),
        ("sha256", plain(&backend.sha256)),
    ];
    let shown: Vec<(&str, Tinted)> = fields
        .into_iter()
        .filter(|(_, (value, _))| !value.is_empty())
        .collect();
    let mut text = screen.block(&shown);
    if !backend.settings.is_empty() {
        let rows: Vec<Vec<Tinted>> = backend
            .settings
            .iter()
            .map(|setting| {
                vec![
                    plain(&setting.key),
                    plain(&setting.kind),
                    plain(&setting.value),
                    plain(if setting.per_request { "yes" } else { "no" }),
                    plain(&setting.description),
                ]
            })
            .collect();
        text.push('\n');
        text.push_str(&screen.table(SETTING_COLUMNS, &rows));
    }
    if !backend.grants.is_empty() {
        let rows: Vec<Vec<Tinted>> = backend
            .grants
            .iter()
            .map(|grant| {
                let granted = if grant.granted {
                    ("yes".to_owned(), Tone::Good)
                } else {
                    ("no".to_owned(), Tone::Attention)
                };
                vec![
                    plain(&grant.kind),
                    plain(&grant.what),
                    granted,
                    plain(&grant.reason),
                ]
            })
            .collect();
        text.push('\n');
        text.push_str(&screen.table(GRANT_COLUMNS, &rows));
    }
    if !backend.findings.is_empty() {
        text.push_str("\nfindings on this host:\n");
        text.push_str(&findings::lines(&backend.findings, |text, tone| {
            screen.tint(text, tone)
        }));
    }
    text
}

/// `sev-snp for channel=canary`.
fn canary(backend: &Backend) -> String {
    if backend.canary_of.is_empty() {
        return String::new();
    }
    let labels = backend.canary_labels.iter().collect::<BTreeMap<_, _>>();
    let labels: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    format!("{} for {}", backend.canary_of, labels.join(", "))
}

fn plain(text: &str) -> Tinted {
    (text.to_owned(), Tone::Plain)
}

pub(super) fn status_tone(status: &str) -> Tone {
    match status {
        "in-service" => Tone::Good,
        "failed" => Tone::Bad,
        _ => Tone::Attention,
    }
}

#[cfg(test)]
mod tests {
    use casemate_proto::v1::{BackendSetting, Finding, Grant};

    use super::*;
    use crate::screen::piped;

    fn sample() -> Backend {
        Backend {
            name: "plain-kvm".to_owned(),
            tee: "none".to_owned(),
            protection: "none".to_owned(),
            version: "0.1.0".to_owned(),
            sha256: "0123456789abcdef".to_owned(),
            status: "in-service".to_owned(),
            is_default: true,
            settings: vec![BackendSetting {
                key: "firmware".to_owned(),
                kind: "one-of:auto|none".to_owned(),
                value: "auto".to_owned(),
                description: "which firmware".to_owned(),
                per_request: true,
            }],
            grants: vec![Grant {
                kind: "fact".to_owned(),
                what: "qemu-type *".to_owned(),
                reason: "to check names".to_owned(),
                granted: false,
            }],
            findings: vec![Finding {
                id: "kvm.device".to_owned(),
                severity: "pass".to_owned(),
                detail: "/dev/kvm opens".to_owned(),
                ..Finding::default()
            }],
            ..Backend::default()
        }
    }

    #[test]
    fn a_list_shortens_the_digest() {
        let table = piped(Format::Table).table(LIST_COLUMNS, &[row(&sample())]);
        assert_eq!(
            table,
            "NAME       TEE   PROTECTION  VERSION  STATUS      DEFAULT  SHA256\n\
             plain-kvm  none  none        0.1.0    in-service  yes      0123456789ab\n"
        );
    }

    #[test]
    fn a_page_has_settings_grants_and_findings() {
        assert_eq!(
            page(&sample(), &piped(Format::Table)),
            "name:        plain-kvm\n\
             tee:         none\n\
             protection:  none\n\
             identity:    none\n\
             version:     0.1.0\n\
             status:      in-service\n\
             default:     yes\n\
             sha256:      0123456789abcdef\n\
             \n\
             SETTING   KIND              VALUE  PER VM  DESCRIPTION\n\
             firmware  one-of:auto|none  auto   yes     which firmware\n\
             \n\
             GRANT  WHAT         GRANTED  REASON\n\
             fact   qemu-type *  no       to check names\n\
             \n\
             findings on this host:\n\
             pass  kvm.device: /dev/kvm opens\n"
        );
    }
}
