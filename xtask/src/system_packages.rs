//! Packages of the distribution that must be installed, because their programs run in place.
//!
//! Few are: what can be unpacked into `target/` is (see [`crate::private_apt`]), so that the
//! machine stays as it was.

use std::io::IsTerminal;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::child::{self, WhenInterrupted};
use crate::report::Step;
use crate::run::Run;

/// QEMU of the release, the disk tools beside it, and OVMF.
pub const FOR_EVERYONE: [&str; 3] = ["qemu-system-x86", "qemu-utils", "ovmf"];

/// What tests start: shells that read the completions of `casemate`, with their own functions beside
/// them; what the commands of the documents use; networks of their own; and what reads the units.
pub const FOR_TESTS: [&str; 7] = [
    "zsh", "fish", "curl", "jq", "openssl", "iproute2", "systemd",
];

/// Installs what is missing of `packages`, having said so.
pub fn ensure(run: &Run, packages: &[&str]) -> Result<()> {
    let mut step = run.report.step("distribution packages");
    let missing = missing(run, packages)?;
    if missing.is_empty() {
        step.done(&format!("{} (installed)", packages.join(", ")));
        return Ok(());
    }
    let authority = authority(run, &missing)?;
    step.note(&format!(
        "installing {} with {}",
        missing.join(", "),
        match authority {
            Authority::Root => "apt-get",
            Authority::Sudo => "sudo apt-get",
        }
    ));
    if download(run, &mut step, authority, &missing).is_err() {
        // Lists that are absent or too old for the mirror are the usual reason.
        run.interrupt.check()?;
        child::run(
            run,
            &mut step,
            apt_get(authority).arg("update"),
            &run.log("packages"),
        )?;
        download(run, &mut step, authority, &missing)?;
    }
    child::run_and_on_interrupt(
        run,
        &mut step,
        apt_get(authority)
            .args(["install", "--yes", "--no-install-recommends"])
            .args(&missing),
        &run.log("packages"),
        WhenInterrupted::Finish,
    )?;
    step.done(&format!("installed {}", missing.join(", ")));
    Ok(())
}

/// Apart from the installation, since a download may be interrupted and dpkg should not be.
fn download(run: &Run, step: &mut Step<'_>, authority: Authority, missing: &[&str]) -> Result<()> {
    child::run(
        run,
        step,
        apt_get(authority)
            .args([
                "install",
                "--yes",
                "--no-install-recommends",
                "--download-only",
            ])
            .args(missing),
        &run.log("packages"),
    )
}

fn missing<'name>(run: &Run, packages: &[&'name str]) -> Result<Vec<&'name str>> {
    if !child::is_on_path("dpkg-query") {
        return Ok(packages.to_vec());
    }
    let mut missing = Vec::new();
    for package in packages {
        // dpkg-query fails for a package it never heard of, which is an answer as well.
        let state = child::capture(
            run,
            child::program("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]),
        );
        run.interrupt.check()?;
        if state.ok().as_deref() != Some("installed") {
            missing.push(*package);
        }
    }
    Ok(missing)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Authority {
    Root,
    Sudo,
}

fn authority(run: &Run, missing: &[&str]) -> Result<Authority> {
    let wanted = missing.join(" ");
    if !child::is_on_path("apt-get") {
        bail!(
            "this machine has no apt-get; please install what Debian calls: {wanted}\n\
             and run this command again"
        );
    }
    if rustix::process::geteuid().is_root() {
        return Ok(Authority::Root);
    }
    let message = format!(
        "installing needs root; please run\n  apt-get install --no-install-recommends {wanted}\n\
         as root and then this command again"
    );
    if !child::is_on_path("sudo") {
        bail!("{message}");
    }
    // Later calls run in the background of the terminal, where no password can be asked for, so
    // it is asked for now, once.
    let mut ask = child::program("sudo");
    if std::io::stdin().is_terminal() {
        ask.arg("--validate").stdin(Stdio::inherit());
    } else {
        ask.args(["--non-interactive", "true"]);
    }
    let allowed = ask.status().is_ok_and(|status| status.success());
    run.interrupt.check()?;
    if !allowed {
        bail!("{message}");
    }
    Ok(Authority::Sudo)
}

fn apt_get(authority: Authority) -> Command {
    let mut command = match authority {
        Authority::Root => child::program("apt-get"),
        Authority::Sudo => {
            let mut sudo = child::program("sudo");
            // sudo clears the environment, hence the assignment on its command line.
            sudo.args([
                "--non-interactive",
                "DEBIAN_FRONTEND=noninteractive",
                "apt-get",
            ]);
            sudo
        }
    };
    command.env("DEBIAN_FRONTEND", "noninteractive").args([
        "--quiet",
        "-o",
        "DPkg::Lock::Timeout=120",
    ]);
    command
}
