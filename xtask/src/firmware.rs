//! Firmware for confidential guests: the distribution's own builds for SEV-SNP and TDX.
//!
//! Debian 12's `ovmf` has no place for the hashes of a kernel, and is none for TDX. The next release
//! has firmware for both in packages of their own. They are unpacked beside the tools, with their
//! descriptors, and not installed: the tests are to find the machine as it is.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::layout;
use crate::private_apt::{Archive, PrivateApt};
use crate::run::Run;

/// Packages, and the file that each is wanted for.
const WANTED: [(&str, &str); 2] = [
    ("ovmf-amdsev", "OVMF.amdsev.fd"),
    ("ovmf-inteltdx", "OVMF.inteltdx.ms.fd"),
];
const FIRMWARE: &str = "usr/share/ovmf";
const DESCRIPTORS: &str = "usr/share/qemu/firmware";
const RECIPE: &str = "firmware 1";

/// Makes sure that the firmware is there, or says why it is not.
pub fn prepare(run: &Run) -> Result<()> {
    let mut step = run.report.step("confidential firmware");
    let product = run.layout.firmware();
    if let Some(made_from) = layout::made_from(&product)
        && let Some(packages) = made_from.strip_prefix(RECIPE)
    {
        step.done(&format!("{} (cached)", packages.trim()));
        return Ok(());
    }
    step.progress("looking for the next release");
    let apt = match PrivateApt::open_next_release(run, &mut step)? {
        Ok(apt) => apt,
        Err(reason) => {
            step.done(&format!("skipped: {reason}"));
            return Ok(());
        }
    };
    let mut packages = Vec::new();
    for (name, _) in WANTED {
        let Some(version) = apt.candidate(Archive::Release, name)? else {
            step.done(&format!("skipped: the next release has no {name}"));
            return Ok(());
        };
        packages.push(format!("{name}={version}"));
    }
    let described = packages.join(", ");
    step.note(&format!("unpacking {described} (not installed)"));
    let unpacked = run.scratch()?;
    apt.unpack(&mut step, &packages, unpacked.path())?;
    let scratch = run.scratch()?;
    keep_files(unpacked.path(), scratch.path())?;
    for (package, file) in WANTED {
        if !scratch.path().join(file).is_file() {
            bail!("{package} holds no {file}");
        }
    }
    layout::put_in_place(scratch.path(), &product, &format!("{RECIPE} {described}"))?;
    step.done(&described);
    Ok(())
}

/// Firmware and descriptors side by side; their names differ in the ending.
fn keep_files(unpacked: &Path, folder: &Path) -> Result<()> {
    for part in [FIRMWARE, DESCRIPTORS] {
        let from = unpacked.join(part);
        let entries =
            std::fs::read_dir(&from).with_context(|| format!("the packages hold no {part}"))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", from.display()))?;
            let path = entry.path();
            if path.is_file() {
                std::fs::copy(&path, folder.join(entry.file_name()))
                    .with_context(|| format!("cannot copy {}", path.display()))?;
            }
        }
    }
    Ok(())
}
