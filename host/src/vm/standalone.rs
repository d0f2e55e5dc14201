//! The command of a plan for people: as the daemon would run it, and as a script that starts an
//! equivalent VM by hand, with the operator's own files.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use base64::Engine as _;

use super::error::CreateError;
use super::planning::Planned;
use super::shares::{CERTIFICATES_SHARE, ENVIRONMENT_SHARE};
use crate::qemu::command::{self, DiskResources, Form, ImageSource, Resources};
use crate::spec::plan::Firmware;
use crate::spec::request::DataDiskFile;

/// Id that a preview shows, where a started VM would have its own.
const PREVIEW_ID: &str = "00000000-0000-4000-8000-000000000000";

/// The daemon's command, with `@…@` for what only a started VM has.
pub fn preview(planned: &Planned) -> Result<Vec<String>, CreateError> {
    let generated = planned.checked.plan().generated.iter();
    let generated = generated.map(|file| (file.id, format!("@generated:{}@", file.label)));
    let files = planned.request.host.files.iter();
    let files = files.map(|file| (file.id, format!("@file:{}@", file.role)));
    let arguments = arguments(planned, files.chain(generated).collect())?;
    let program = planned.checked.knowledge().info.path.display().to_string();
    Ok(std::iter::once(program).chain(arguments).collect())
}

/// The arguments as a backend sees them when it measures: files by their ids.
pub fn measured(planned: &Planned) -> Result<Vec<String>, CreateError> {
    let files = planned.request.host.files.iter().map(|file| file.id);
    let generated = planned.checked.plan().generated.iter().map(|file| file.id);
    let ids = files.chain(generated);
    arguments(
        planned,
        ids.map(|id| (id, format!("@file:{id}@"))).collect(),
    )
}

fn arguments(planned: &Planned, files: BTreeMap<u32, String>) -> Result<Vec<String>, CreateError> {
    let resources = Resources {
        files,
        firmware_vars: Some("@firmware-vars@".to_owned()),
        disk: Some(DiskResources {
            overlay: "@disk@".to_owned(),
            controller_id: planned.live.disk.scsi_id.clone(),
            backing: None,
        }),
        data_disks: data_disks(planned, |one| format!("@data-disk:{}@", one.disk.id)),
        shares: shares(|id| format!("@{id}@")),
        console: "@console@".to_owned(),
        user_network: planned.live.network.outbound.user_network(),
    };
    let form = Form::Managed {
        qmp_fd: 3,
        kvm_fd: None,
        console_fd: None,
    };
    Ok(command::render(
        PREVIEW_ID,
        &planned.request,
        &planned.checked,
        &resources,
        &form,
    )?)
}

/// A shell script. Guest console and QEMU's messages go to the terminal; Ctrl-C ends it.
pub fn script(planned: &Planned) -> Result<String, CreateError> {
    let quoted = |text: &str| command::shell_line([text]);
    let absolute = |path: &Path| {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        path.to_string_lossy().into_owned()
    };
    let mut script =
        String::from("#!/bin/sh\nset -eu\n# A VM like the daemon's, without its secrets.\n");
    script.push_str("mkdir -p casemate-vm/env casemate-vm/certs\n");
    let files = planned.request.host.files.iter();
    let mut paths: BTreeMap<u32, String> =
        files.map(|file| (file.id, absolute(&file.path))).collect();
    for file in &planned.checked.plan().generated {
        let path = format!("casemate-vm/generated-{}", file.id);
        let content = base64::engine::general_purpose::STANDARD.encode(&file.content);
        let _ = writeln!(
            script,
            "printf %s {} | base64 -d > {path}",
            quoted(&content)
        );
        paths.insert(file.id, path);
    }
    if let Firmware::Pflash(pflash) = &planned.checked.plan().firmware {
        let code = pflash.code_is_writable().then_some(pflash.code);
        for (id, copy) in [(pflash.vars_template, "vars.fd"), (code, "code.fd")] {
            if let Some((id, path)) = id.and_then(|id| Some((id, paths.get(&id)?.clone()))) {
                let _ = writeln!(script, "cp -- {} casemate-vm/{copy}", quoted(&path));
                if copy == "code.fd" {
                    paths.insert(id, format!("casemate-vm/{copy}"));
                }
            }
        }
    }
    if planned.request.has_disk()
        && let Some(disk) = planned.request.file_with_role("disk")
    {
        let path = absolute(&disk.path);
        let _ = writeln!(
            script,
            "qemu-img create -q -f qcow2 -F {} -b {} casemate-vm/disk.qcow2",
            planned.disk_format.as_str(),
            quoted(&path)
        );
    }
    let resources = Resources {
        files: paths,
        firmware_vars: Some("casemate-vm/vars.fd".to_owned()),
        disk: Some(DiskResources {
            overlay: "casemate-vm/disk.qcow2".to_owned(),
            controller_id: planned.live.disk.scsi_id.clone(),
            backing: None,
        }),
        data_disks: data_disks(planned, |one| absolute(&one.path)),
        shares: shares(|id| {
            let folder = if id == ENVIRONMENT_SHARE {
                "env"
            } else {
                "certs"
            };
            format!("casemate-vm/{folder}")
        }),
        console: String::new(),
        user_network: planned.live.network.outbound.user_network(),
    };
    let form = Form::Standalone {
        forward: Some(planned.live.standalone_forward()),
    };
    let arguments = command::render(
        PREVIEW_ID,
        &planned.request,
        &planned.checked,
        &resources,
        &form,
    )?;
    let program = planned.checked.knowledge().info.path.display().to_string();
    let _ = write!(script, "exec {}", quoted(&program));
    let mut arguments = arguments.iter().peekable();
    while let Some(option) = arguments.next() {
        let _ = write!(script, " \\\n  {}", quoted(option));
        if let Some(value) = arguments.next_if(|next| !next.starts_with('-')) {
            let _ = write!(script, " {}", quoted(value));
        }
    }
    script.push('\n');
    Ok(script)
}

fn data_disks(
    planned: &Planned,
    path: impl Fn(&DataDiskFile) -> String,
) -> BTreeMap<String, ImageSource> {
    let disks = planned.request.data_disks.iter();
    disks
        .map(|one| (one.device_id(), ImageSource::Path(path(one))))
        .collect()
}

fn shares(path: impl Fn(&str) -> String) -> BTreeMap<String, String> {
    [ENVIRONMENT_SHARE, CERTIFICATES_SHARE]
        .map(|id| (id.to_owned(), path(id)))
        .into()
}
