//! `casemate vm show`.

use casemate_proto::v1::{DataDisk, Files, Vm, WatchVmsRequest};
use jiff::Timestamp;

use crate::arguments::Format;
use crate::client::Client;
use crate::error::CliError;
use crate::screen::{Screen, Tinted, Tone};
use crate::vm::filter::Filter;
use crate::vm::live::{self, View};
use crate::vm::{
    exit, identity_words, label_words, list, restart_policy_name, state_name, state_tone, watch,
    yes_or_no,
};
use crate::{byte_size, findings, interrupt, json, resolve};

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArguments {
    /// ID, unique beginning of an ID, or unique name.
    #[arg(value_name = "ID")]
    vm: String,

    /// Go on with every change until the VM is removed: it is drawn anew on a terminal, and a line
    /// or an object for each change is printed elsewhere, as by `vm watch`.
    #[arg(long)]
    watch: bool,
}

pub(crate) async fn run(
    arguments: &ShowArguments,
    mut client: Client,
    screen: &Screen,
) -> Result<(), CliError> {
    if arguments.watch {
        interrupt::ends_the_program()?;
        client = client.kept_alive();
        if !screen.is_redrawn() {
            return watch::print(Some(&arguments.vm), Filter::default(), client, screen).await;
        }
    }
    let id = resolve::id(&mut client, &arguments.vm).await?;
    if arguments.watch {
        let request = WatchVmsRequest { id: id.clone() };
        let changes = client.watch_vms(request).await?;
        return live::draw(View::One(id), changes, screen).await;
    }
    let vm = client.get_vm(id).await?;
    match screen.format {
        Format::Data(_) => screen.write_value(&json::value(&vm)?),
        Format::Table => screen.write_raw(block(&vm, screen).as_bytes()),
    }
}

/// What does not apply is left out.
pub(super) fn block(vm: &Vm, screen: &Screen) -> String {
    let plain = |text: &str| (text.to_owned(), Tone::Plain);
    let state = vm.state();
    let confidential = if vm.confidential {
        Tone::Good
    } else {
        Tone::Plain
    };
    let now = Timestamp::now();
    let created_at = with_age(&vm.created_at, now);
    let started_at = with_age(&vm.started_at, now);
    let restarts = match vm.restarts {
        0 => String::new(),
        restarts => restarts.to_string(),
    };
    let last_exit = match &vm.last_exit {
        None => String::new(),
        Some(last) if last.at.is_empty() => exit::words(last),
        Some(last) => format!("{}, {}", exit::words(last), with_age(&last.at, now)),
    };
    let identity = vm.identity.as_ref().map(identity_words).unwrap_or_default();
    let pid = match vm.pid {
        0 => String::new(),
        pid => pid.to_string(),
    };
    let generation = match vm.generation {
        0 => String::new(),
        generation => generation.to_string(),
    };
    let files = vm.files.as_ref().map(file_words).unwrap_or_default();
    let disks: Vec<String> = vm.data_disks.iter().map(disk_words).collect();
    let fields: Vec<(&str, Tinted)> = vec![
        ("id", plain(&vm.id)),
        ("name", plain(&vm.name)),
        ("labels", plain(&label_words(&vm.labels))),
        ("state", (state_name(state).to_owned(), state_tone(state))),
        ("detail", plain(&vm.detail)),
        ("backend", plain(&vm.backend)),
        ("tee", plain(&vm.tee)),
        (
            "confidential",
            (yes_or_no(vm.confidential).to_owned(), confidential),
        ),
        ("identity", plain(&identity)),
        ("vcpus", plain(&vm.vcpus.to_string())),
        ("memory", plain(&byte_size::display(vm.memory_bytes))),
        ("machine", plain(&vm.machine)),
        ("cpu", plain(&vm.cpu)),
        ("kernel cmdline", plain(&vm.kernel_cmdline)),
        ("files", plain(&files)),
        ("data disks", plain(&disks.join(", "))),
        ("agent", plain(&vm.agent_address)),
        ("created", plain(&created_at)),
        ("created by", plain(&vm.created_by)),
        ("generation", plain(&generation)),
        ("expires", plain(&vm.expires_at)),
        ("restart", plain(restart_policy_name(vm.restart_policy()))),
        ("restarts", plain(&restarts)),
        ("started", plain(&started_at)),
        ("last exit", plain(&last_exit)),
        ("pid", plain(&pid)),
        ("qemu", plain(&vm.qemu_version)),
        ("backend sha256", plain(&vm.backend_sha256)),
    ];
    let shown: Vec<(&str, Tinted)> = fields
        .into_iter()
        .filter(|(_, (value, _))| !value.is_empty())
        .collect();
    let mut text = screen.block(&shown);
    if !vm.findings.is_empty() {
        text.push_str("\nfindings:\n");
        text.push_str(&findings::lines(&vm.findings, |text, tone| {
            screen.tint(text, tone)
        }));
    }
    text
}

/// `kernel a, disk b (qcow2)`: those that are not the operator's.
fn file_words(files: &Files) -> String {
    let disk = match files.disk_format.as_str() {
        "" => files.disk.clone(),
        format => format!("{} ({format})", files.disk),
    };
    let named = [
        ("kernel", &files.kernel),
        ("initrd", &files.initrd),
        ("firmware", &files.firmware),
        ("igvm", &files.igvm),
        ("disk", &disk),
    ];
    let words: Vec<String> = named
        .into_iter()
        .filter(|(_, name)| !name.is_empty())
        .map(|(role, name)| format!("{role} {name}"))
        .collect();
    words.join(", ")
}

/// As `--data-disk` takes it.
fn disk_words(disk: &DataDisk) -> String {
    format!("{}={},format={}", disk.id, disk.image, disk.format)
}

fn with_age(time: &str, now: Timestamp) -> String {
    match list::age(time, now) {
        age if age.is_empty() => time.to_owned(),
        age => format!("{time} ({age} ago)"),
    }
}

#[cfg(test)]
mod tests {
    use casemate_proto::v1::{Exit, Finding, RestartPolicy, VmIdentity, VmState};

    use super::*;
    use crate::screen::piped;

    #[test]
    fn a_block_leaves_out_what_does_not_apply() {
        let mut vm = Vm {
            id: "aa11".to_owned(),
            detail: "exited: guest-shutdown".to_owned(),
            vcpus: 1,
            memory_bytes: 512 << 20,
            findings: vec![Finding {
                id: "measurement.none".to_owned(),
                severity: "note".to_owned(),
                detail: "nothing is measured".to_owned(),
                ..Finding::default()
            }],
            identity: Some(VmIdentity {
                algorithm: "raw".to_owned(),
                digest: "00ff".to_owned(),
                source: "operator".to_owned(),
            }),
            restarts: 3,
            generation: 7,
            labels: [("a", "1"), ("b", "2")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            created_by: "ci".to_owned(),
            files: Some(Files {
                kernel: "debian/vmlinuz".to_owned(),
                disk: "d.img".to_owned(),
                disk_format: "raw".to_owned(),
                ..Files::default()
            }),
            data_disks: vec![DataDisk {
                id: "data".to_owned(),
                image: "x".to_owned(),
                format: "raw".to_owned(),
            }],
            last_exit: Some(Exit {
                reason: "guest-shutdown".to_owned(),
                code: Some(0),
                at: "then".to_owned(),
                ..Exit::default()
            }),
            ..Vm::default()
        };
        vm.set_state(VmState::Exited);
        vm.set_restart_policy(RestartPolicy::OnFailure);
        assert_eq!(
            block(&vm, &piped(Format::Table)),
            "id:            aa11\n\
             labels:        a=1, b=2\n\
             state:         exited\n\
             detail:        exited: guest-shutdown\n\
             confidential:  no\n\
             identity:      raw:00ff (operator)\n\
             vcpus:         1\n\
             memory:        512 MiB\n\
             files:         kernel debian/vmlinuz, disk d.img (raw)\n\
             data disks:    data=x,format=raw\n\
             created by:    ci\n\
             generation:    7\n\
             restart:       on-failure\n\
             restarts:      3\n\
             last exit:     guest-shutdown (exit code 0), then\n\
             \nfindings:\n\
             note  measurement.none: nothing is measured\n"
        );
    }
}
