//! One VM from nothing to its answer and back to nothing.
//!
//! The demo uses only what an operator has: the daemon with a configuration file, the command line
//! client, and HTTP to the agent in the guest. A nonce made for the run goes in as an environment
//! value and must come back from inside the guest, so that no stale answer can pass.

pub(crate) mod agent;
mod client;
pub(crate) mod config;
pub(crate) mod daemon;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use tempfile::TempDir;
use toml_edit::Value;

use crate::backends::{self, Backend};
use crate::failure::InStep;
use crate::report::Step;
use crate::run::Run;
use crate::{cargo, child, orphans, setup};
use agent::Agent;
use client::{Client, CreatedVm};
use config::DemoConfig;
use daemon::Daemon;

/// The backend that works on every machine.
pub(crate) const BACKEND: &str = "plain-kvm";
const VM_NAME: &str = "demo";
const NONCE_VARIABLE: &str = "DEMO_NONCE";
/// From the guest's first instruction to its answer; emulated on a busy machine it takes a while.
const AGENT_DEADLINE: Duration = Duration::from_secs(120);
/// What is shown of the console: its last screen.
const CONSOLE_TAIL: &str = "2KiB";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Accelerator {
    /// QEMU emulates every instruction
    Tcg,
    /// The processor runs the guest; needs a usable /dev/kvm
    Kvm,
}

impl Accelerator {
    fn name(self) -> &'static str {
        match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        }
    }
}

/// Where clients look for a daemon when nobody says where it is: a kept one is there, if it can be.
const USUAL_PORTS: [(&str, u16); 2] = [("grpc", 7001), ("http", 7003)];

/// What becomes of daemon and VM at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    CleanUp,
    Keep,
}

#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) daemon: PathBuf,
    client: PathBuf,
    /// Where all of them lie.
    pub(crate) folder: PathBuf,
}

/// A daemon and its VM that go on when this program has ended.
#[derive(Debug)]
struct Kept {
    folder: PathBuf,
    client: Client,
    vm: CreatedVm,
}

pub fn run(run: &Run, accelerator: Accelerator, ending: Ending) -> Result<()> {
    perform(run, accelerator, ending).map(drop)
}

/// The first screen of README.md as a newcomer has it: the demo is kept, and `casemate vm list`
/// shows its VM without being told where the daemon is. Then both are ended.
pub(crate) fn first_screen(run: &Run) -> Result<()> {
    let kept = perform(run, Accelerator::Tcg, Ending::Keep)?;
    let Some(kept) = kept else { return Ok(()) };
    let step = run.report.step("casemate vm list");
    let listed = kept.client.at_usual_address().list(run);
    let removed = kept.client.remove(run, &kept.vm.id);
    // Our child still, whatever it was told.
    orphans::end_all();
    std::fs::remove_dir_all(&kept.folder).context("cannot remove the demo's folder")?;
    removed?;
    let is_shown = |list: &str| list.contains(&kept.vm.id) && list.contains("running");
    if !kept.client.is_at_usual_address() {
        step.note("skipped: another program has the port of a daemon");
    } else if !listed.as_deref().is_ok_and(is_shown) {
        listed?;
        anyhow::bail!("`casemate vm list` does not show the VM {}", kept.vm.id);
    }
    step.done(&kept.vm.id);
    Ok(())
}

fn perform(run: &Run, accelerator: Accelerator, ending: Ending) -> Result<Option<Kept>> {
    setup::for_a_guest(run)?;
    let backends = backends::build(run)?;
    let programs = build_programs(run).in_step(
        "building casemated and casemate",
        "see the compiler's message above; the whole log is target/setup/build.log",
    )?;

    run.report.heading("Demo");
    let backend = backends
        .iter()
        .find(|backend| backend.name == BACKEND)
        .context("the backends that were built include the demo's own")?;
    // Guards end in the reverse order: the daemon goes before its folder does.
    let folder = temporary_folder("casemate-demo-")?;
    let daemon = start_daemon(run, &programs, folder.path(), accelerator, backend, ending)?;
    let client = Client::new(&programs.client, daemon.grpc());
    let vm = boot(run, &client, &daemon)?;
    show(run, &client, &daemon, &vm)?;
    match ending {
        Ending::Keep => {
            let folder = keep(run, &programs, &client, folder, daemon, &vm)?;
            Ok(Some(Kept { folder, client, vm }))
        }
        Ending::CleanUp => clean_up(run, &client, folder, daemon, &vm).map(|()| None),
    }
}

pub(crate) fn build_programs(run: &Run) -> Result<Programs> {
    run.report.heading("Build");
    let mut step = run.report.step("casemated and casemate");
    let mut command = cargo::command(run);
    // All of the workspace, as the tests build it: Cargo unites the features of what it builds
    // together, and another choice would compile the largest dependencies twice.
    command.args(["build", "--workspace", "--bins"]);
    child::run(run, &mut step, &mut command, &run.log("build"))?;
    let folder = cargo::target_directory(run)?.join("debug");
    let programs = Programs {
        daemon: folder.join("casemated"),
        client: folder.join("casemate"),
        folder,
    };
    for program in [&programs.daemon, &programs.client] {
        anyhow::ensure!(program.is_file(), "the build left no {}", program.display());
    }
    step.done("dev profile");
    Ok(programs)
}

/// Others may pass through it but not list it: QEMU runs as another user below it.
pub(crate) fn temporary_folder(prefix: &str) -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix(prefix)
        .permissions(std::fs::Permissions::from_mode(0o711))
        .tempdir()
        .context("cannot create a temporary folder")
}

fn start_daemon(
    run: &Run,
    programs: &Programs,
    folder: &Path,
    accelerator: Accelerator,
    backend: &Backend,
    ending: Ending,
) -> Result<Daemon> {
    let mut step = run.report.step("start casemated");
    let mut more: Vec<(&str, &str, Value)> = vec![("", "on_shutdown", "stop-vms".into())];
    if ending == Ending::Keep {
        let free = USUAL_PORTS.into_iter().filter(|(_, port)| is_free(*port));
        more.extend(free.map(|(table, port)| (table, "port", i64::from(port).into())));
    }
    let started = DemoConfig {
        folder,
        accelerator: accelerator.name(),
        kernel: &run.layout.kernel(),
        initrd: &run.layout.initrd(),
        backend,
        memory: "512M",
        more: &more,
    }
    .write(&run.layout.packaged_config())
    .and_then(|config| Daemon::start(run, &mut step, &programs.daemon, folder, &config))
    .in_step(
        "starting casemated",
        "the message above is the daemon's own; `casemated --help` explains its configuration",
    )?;
    step.done(&format!("grpc {} http {}", started.grpc(), started.http()));
    Ok(started)
}

fn is_free(port: u16) -> bool {
    std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Creates the VM and waits until it proves that it is the one just created.
fn boot(run: &Run, client: &Client, daemon: &Daemon) -> Result<CreatedVm> {
    let nonce = nonce()?;
    let step = run.report.step("create a VM");
    let created = client.create(run, VM_NAME, &format!("{NONCE_VARIABLE}={nonce}"));
    let vm = with_log(created, daemon).in_step(
        "creating the VM",
        "the cause above names the stage; run with --keep and use `casemate vm logs`",
    )?;
    step.done(&format!("{} {}", vm.id, vm.state));

    let mut step = run.report.step("wait for its agent");
    let answer = wait_for_agent(run, &mut step, client, &vm, &nonce).in_step(
        "waiting for the agent in the guest",
        "the console above shows how far the guest came; --accel kvm is faster where it works",
    )?;
    step.done(&format!("http://{}/", vm.agent_address));
    run.report
        .note(&format!("nonce from the guest: {}", answer.nonce_line));
    run.report
        .note(&format!("kernel of the guest: {}", answer.kernel));
    Ok(vm)
}

#[derive(Debug)]
struct Answer {
    nonce_line: String,
    kernel: String,
}

fn wait_for_agent(
    run: &Run,
    step: &mut Step<'_>,
    client: &Client,
    vm: &CreatedVm,
    nonce: &str,
) -> Result<Answer> {
    let body = Agent::new(&vm.agent_address)
        .wait_for_body(run, step, AGENT_DEADLINE)
        .map_err(|error| match client.logs(run, &vm.id, CONSOLE_TAIL) {
            Ok(console) => error.context(format!("the console's last lines:\n{console}")),
            Err(_) => error,
        })?;
    read_answer(&body, nonce)
}

fn read_answer(body: &str, nonce: &str) -> Result<Answer> {
    let expected = format!("{NONCE_VARIABLE}={nonce}");
    let nonce_line = body
        .lines()
        .map(str::trim)
        .find(|line| *line == expected)
        .with_context(|| format!("the guest answered without {expected}:\n{body}"))?;
    let kernel = body
        .lines()
        .find_map(|line| line.trim().strip_prefix("uname: "))
        .with_context(|| format!("the guest did not name its kernel:\n{body}"))?;
    Ok(Answer {
        nonce_line: nonce_line.to_owned(),
        kernel: kernel.to_owned(),
    })
}

fn show(run: &Run, client: &Client, daemon: &Daemon, vm: &CreatedVm) -> Result<()> {
    let remedy = "run with --keep and try the same command by hand";
    run.report.note("casemate vm list");
    let list = client.list(run);
    run.report
        .quote(&with_log(list, daemon).in_step("listing the VMs", remedy)?);
    run.report
        .note(&format!("casemate vm logs {} --tail {CONSOLE_TAIL}", vm.id));
    let logs = client.logs(run, &vm.id, CONSOLE_TAIL);
    run.report
        .quote(&with_log(logs, daemon).in_step("reading the console", remedy)?);
    Ok(())
}

/// What a client reports is often explained only by what the daemon logged.
fn with_log<T>(outcome: Result<T>, daemon: &Daemon) -> Result<T> {
    outcome.with_context(|| format!("casemated's log ends with:\n{}", daemon.log_tail()))
}

fn clean_up(
    run: &Run,
    client: &Client,
    folder: TempDir,
    daemon: Daemon,
    vm: &CreatedVm,
) -> Result<()> {
    let remedy = "nothing is left running; run the demo again to see whether it recurs";
    let step = run.report.step("remove the VM");
    with_log(client.remove(run, &vm.id), &daemon).in_step("removing the VM", remedy)?;
    step.done(&vm.id);

    let step = run.report.step("stop casemated");
    daemon.stop(run).in_step("stopping casemated", remedy)?;
    orphans::end_all();
    folder
        .close()
        .context("cannot remove the temporary folder")
        .in_step("cleaning up", remedy)?;
    step.done("nothing is left running");
    Ok(())
}

/// The folder that is left.
fn keep(
    run: &Run,
    programs: &Programs,
    client: &Client,
    folder: TempDir,
    daemon: Daemon,
    vm: &CreatedVm,
) -> Result<PathBuf> {
    run.interrupt.check()?;
    let folder = folder.keep();
    let casemate = programs.client.display();
    let casemate = if client.is_at_usual_address() {
        casemate.to_string()
    } else {
        format!("CASEMATE_ENDPOINT=http://{} {casemate}", daemon.grpc())
    };
    run.report.heading("Left running");
    run.report.note(&format!("daemon  pid {}", daemon.pid()));
    run.report.note(&format!("grpc    {}", daemon.grpc()));
    run.report
        .note(&format!("http    http://{}/health", daemon.http()));
    run.report.note(&format!("folder  {}", folder.display()));
    run.report.heading("Try next");
    run.report
        .note(&format!("curl http://{}/", vm.agent_address));
    run.report
        .note(&format!("curl http://{}/cmdline", vm.agent_address));
    run.report.note(&format!("{casemate} vm list"));
    run.report.note(&format!("{casemate} vm logs {}", vm.id));
    run.report.note(&format!("{casemate} vm remove {}", vm.id));
    run.report.heading("Stop");
    run.report.note(&format!("kill {}", daemon.pid()));
    run.report.note(&format!("rm -r {}", folder.display()));
    daemon.leave_running();
    Ok(folder)
}

/// Eight random bytes in hexadecimal.
pub(crate) fn nonce() -> Result<String> {
    use std::io::Read;
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("cannot read random bytes")?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_nonce_of_this_run_counts() {
        let body = "uname: 6.1.0-1-amd64\nAGENT_CVM_ID=1\nDEMO_NONCE=abcd\n";
        let answer = read_answer(body, "abcd").expect("the nonce is there");
        assert_eq!(answer.kernel, "6.1.0-1-amd64");
        assert!(read_answer(body, "abc").is_err());
        assert!(read_answer("DEMO_NONCE=abcd\n", "abcd").is_err());
    }
}
