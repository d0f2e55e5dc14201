//! A real systemd to test against, in namespaces: `cargo xtask systemd -- <command>`.
//!
//! Its root is the host's, seen through an overlay whose writes go to memory, so every program,
//! library and build of this machine is there and nothing needs a second tree of packages. The
//! workspace and Cargo's folders are the real ones, so that builds stay. PID, mount, network, IPC,
//! UTS and cgroup namespaces are its own; it runs none of the host's units but the journal and
//! D-Bus. It ends with its command, and all that it started ends with it.

use std::ffi::OsString;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::child::{self, ProcessGroup};
use crate::failure::InStep;
use crate::run::Run;
use crate::system_packages;

/// The programs that make the box and run in it.
const PACKAGES: [&str; 4] = ["systemd", "dbus", "iproute2", "util-linux"];
const SYSTEMD: &str = "/lib/systemd/systemd";
const INSIDE: &str = include_str!("systemd/inside.sh");
/// Tests that manage units look for it, so that they never touch the systemd of a machine.
const IN_BOX: &str = "CASEMATE_SYSTEMD_BOX";
/// Of the caller's environment, what the command sees: where its tools are and how they behave.
const PASSED_ON: [&str; 9] = [
    "PATH",
    "HOME",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "CASEMATE_TEST_ARTIFACTS",
    "CARGO_NET_OFFLINE",
];
/// The host's units that the box has: a target to each stage of a boot, the journal and D-Bus.
const HOST_UNITS: [&str; 18] = [
    "basic.target",
    "dbus.service",
    "dbus.socket",
    "exit.target",
    "final.target",
    "network.target",
    "paths.target",
    "shutdown.target",
    "slices.target",
    "sockets.target",
    "sysinit.target",
    "systemd-exit.service",
    "systemd-journald-dev-log.socket",
    "systemd-journald.service",
    "systemd-journald.socket",
    "timers.target",
    "umount.target",
    "local-fs.target",
];
const TARGET: &str = "[Unit]\n\
    Requires=dbus.socket casemate-box.service\n\
    Wants=systemd-journald.service\n\
    After=dbus.socket systemd-journald.service\n";
/// The end of the command is the end of the box.
const SERVICE: &str = "[Unit]\n\
    Requires=dbus.socket\n\
    After=dbus.socket systemd-journald.service\n\
    SuccessAction=exit\n\
    FailureAction=exit\n\
    [Service]\n\
    Type=oneshot\n\
    TimeoutStartSec=infinity\n\
    ExecStart=/bin/sh /run/casemate-box/command\n\
    StandardOutput=file:/run/casemate-box/output\n\
    StandardError=inherit\n";
/// Until systemd itself has ended, after its command has.
const END_DEADLINE: Duration = Duration::from_secs(30);
/// Until the kernel has taken down the cgroups of killed processes.
const CGROUP_DEADLINE: Duration = Duration::from_secs(5);

/// Runs `command` in a fresh box and ends with its exit code.
pub fn run(run: &Run, command: &[OsString]) -> Result<ExitCode> {
    system_packages::ensure(run, &PACKAGES)?;
    boxed(run, command).in_step(
        "running in a systemd of its own",
        "it takes root, cgroup v2 and overlayfs; see target/setup/systemd.log",
    )
}

fn boxed(run: &Run, command: &[OsString]) -> Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        bail!("only root can start a systemd");
    }
    if !Path::new(SYSTEMD).exists() {
        bail!("{SYSTEMD} is missing");
    }
    let shared = run.scratch()?;
    let exchange = shared.path().join("exchange");
    for folder in ["root", "layers", "exchange/units"] {
        fs::create_dir_all(shared.path().join(folder)).context("cannot create a folder")?;
    }
    write_units(&exchange.join("units"))?;
    write_command(run, &exchange, command)?;
    let cgroup = Cgroup::new()?;
    let mut systemd = start(run, shared.path(), &cgroup)?;
    let code = follow(run, &mut systemd, &exchange);
    drop(systemd);
    drop(cgroup);
    // What systemd said, for whoever asks why.
    let _ = fs::copy(exchange.join("systemd.log"), run.log("systemd"));
    code
}

fn write_units(folder: &Path) -> Result<()> {
    let write = |name: &str, text: &str| {
        fs::write(folder.join(name), text).with_context(|| format!("cannot write {name}"))
    };
    write("casemate-box.target", TARGET)?;
    write("casemate-box.service", SERVICE)?;
    for unit in HOST_UNITS {
        let place = ["/lib/systemd/system", "/usr/lib/systemd/system"]
            .iter()
            .map(|folder| Path::new(folder).join(unit))
            .find(|path| path.exists())
            .with_context(|| format!("this machine has no {unit}"))?;
        let text = fs::read_to_string(&place)
            .with_context(|| format!("cannot read {}", place.display()))?;
        write(unit, &text)?;
    }
    Ok(())
}

/// As a shell sees it: variables, the folder, the command, and its exit code at the end.
fn write_command(run: &Run, exchange: &Path, command: &[OsString]) -> Result<()> {
    let script = format!(
        "export {IN_BOX}=1\n{}cd {}\n{}\necho $? > /run/casemate-box/code.new\n\
         mv /run/casemate-box/code.new /run/casemate-box/code\n",
        variables(),
        quoted(&run.layout.workspace().to_string_lossy()),
        shell_line(command)
    );
    fs::write(exchange.join("command"), script).context("cannot write the command")?;
    fs::write(exchange.join("output"), "").context("cannot make a file for its output")
}

/// What a command in a box or a VM has of the caller's environment, for a POSIX shell.
pub(crate) fn variables() -> String {
    let mut script = String::new();
    for name in PASSED_ON {
        if let Some(value) = std::env::var_os(name) {
            script += &format!("export {name}={}\n", quoted(&value.to_string_lossy()));
        }
    }
    script
}

/// A command for a POSIX shell.
pub(crate) fn shell_line(command: &[OsString]) -> String {
    let words: Vec<String> = command
        .iter()
        .map(|word| quoted(&word.to_string_lossy()))
        .collect();
    words.join(" ")
}

/// For a POSIX shell: nothing is special between single quotes.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn start(run: &Run, shared: &Path, cgroup: &Cgroup) -> Result<ProcessGroup> {
    let script = shared.join("inside.sh");
    fs::write(&script, INSIDE).context("cannot write the script")?;
    // The cgroup first: what a process is in when it gets a cgroup namespace is the root there.
    let enter = "echo $$ > \"$0/cgroup.procs\"; exec unshare --pid --fork --kill-child \
                 --mount --net --uts --ipc --cgroup sh \"$@\"";
    let mut command = child::program("sh");
    let log = child::LogFile::append(&run.log("systemd-start"), &command)?;
    command
        .args(["-c", enter])
        .arg(&cgroup.path)
        .arg(&script)
        .arg(shared)
        .arg(run.layout.workspace())
        .stdout(log.duplicate()?)
        .stderr(log.duplicate()?);
    ProcessGroup::start(&mut command)
}

/// Shows what the command prints as it comes, until the box has ended.
fn follow(run: &Run, systemd: &mut ProcessGroup, exchange: &Path) -> Result<ExitCode> {
    let mut output = fs::File::open(exchange.join("output")).context("no output")?;
    let mut show = || -> Result<()> {
        let mut text = Vec::new();
        output
            .read_to_end(&mut text)
            .context("cannot read the output")?;
        let mut terminal = std::io::stdout();
        terminal.write_all(&text).context("cannot print")?;
        terminal.flush().context("cannot print")
    };
    let code = exchange.join("code");
    loop {
        show()?;
        if code.exists() {
            break;
        }
        if systemd.poll()?.is_some() {
            let said = fs::read_to_string(exchange.join("systemd.log")).unwrap_or_default();
            bail!(
                "systemd ended before the command did; see {}\n{}",
                run.log("systemd-start").display(),
                said.trim_end()
            );
        }
        run.interrupt.pause()?;
    }
    if systemd.wait_at_most(END_DEADLINE).is_none() {
        run.report
            .note("systemd did not end by itself and is killed");
    }
    show()?;
    let code = fs::read_to_string(&code).context("no exit code")?;
    let code: u8 = code.trim().parse().context("no exit code")?;
    Ok(ExitCode::from(code))
}

/// What the box sees as the root of all cgroups. Dropped, it is emptied and removed.
struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    fn new() -> Result<Self> {
        let mount = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
            .iter()
            .map(Path::new)
            .find(|mount| mount.join("cgroup.controllers").exists())
            .context("cgroup v2 is not mounted")?;
        // The box can use the controllers that are to be had here. They may be nobody's to give.
        for controller in ["memory", "pids", "cpu", "io"] {
            let control = mount.join("cgroup.subtree_control");
            let _ = fs::write(control, format!("+{controller}"));
        }
        let path = mount.join(format!("casemate-box-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Kernels before 5.14 have no such file; the end of the PID namespace kills all the same.
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        let end = Instant::now() + CGROUP_DEADLINE;
        while remove(&self.path).is_err() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// From the innermost outwards.
fn remove(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stays_one_word_for_the_shell() {
        for word in ["plain", "two words", "it's", "$HOME", "", "a\nb", "'"] {
            let script = format!("printf %s {}", quoted(word));
            let output = child::program("sh")
                .args(["-c", &script])
                .output()
                .expect("a shell");
            assert_eq!(String::from_utf8_lossy(&output.stdout), word);
        }
    }
}
