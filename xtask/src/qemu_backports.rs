//! A newer QEMU for the tests: the release's backport, unpacked beside the installed one.
//!
//! The daemon is to work with both, so the tests start both. Nothing is installed: binary, data
//! and libraries lie in one folder that can be moved, behind a script that needs no environment.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::child;
use crate::layout;
use crate::private_apt::{Archive, PrivateApt};
use crate::report::Step;
use crate::run::Run;

const PACKAGE: &str = "qemu-system-x86";
/// Data that QEMU looks for beside itself; wanted even where an installed copy exists.
const DATA_PACKAGES: [&str; 2] = ["seabios", "ipxe-qemu"];
/// First version, by its first two numbers, that is worth having beside the release's own.
const WANTED: (u32, u32) = (10, 0);
const RECIPE: &str = "qemu-backports 1";

/// Starts the unpacked QEMU from wherever the folder lies, with an empty environment, too.
const WRAPPER: &str = r#"#!/bin/sh
# The backported QEMU beside this script, with the libraries that came with it.
here=$(/usr/bin/dirname -- "$(/usr/bin/readlink -f -- "$0")")
root=$here/root
LD_LIBRARY_PATH=@LIBRARIES@
export LD_LIBRARY_PATH
exec "$root/usr/bin/qemu-system-x86_64" -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" \
    -L "$root/usr/lib/ipxe/qemu" "$@"
"#;

/// Makes sure that the newer QEMU is there, or says why it is not.
pub fn prepare(run: &Run) -> Result<()> {
    let mut step = run.report.step("newer QEMU");
    let product = run.layout.qemu_backports();
    if let Some(made_from) = layout::made_from(&product)
        && made_from.starts_with(RECIPE)
    {
        let version = made_from.trim_start_matches(RECIPE).trim().to_owned();
        step.done(&format!("{version} (cached)"));
        return Ok(());
    }
    if !PrivateApt::is_possible() {
        step.done("skipped: only Debian has a backport");
        return Ok(());
    }
    step.progress("looking for a backport");
    let apt = PrivateApt::open(run, &mut step)?;
    let version = match find(&apt)? {
        Ok(version) => version,
        Err(reason) => {
            step.done(&format!("skipped: {reason}"));
            return Ok(());
        }
    };
    step.note(&format!(
        "unpacking {PACKAGE} {version} from backports (not installed)"
    ));
    let scratch = run.scratch()?;
    unpack(run, &mut step, &apt, scratch.path())?;
    let answer = try_out(run, &scratch.path().join("qemu-system-x86_64"))?;
    layout::put_in_place(scratch.path(), &product, &format!("{RECIPE} {answer}"))?;
    step.done(&answer);
    Ok(())
}

/// The version of the backport, or the reason to do without.
fn find(apt: &PrivateApt<'_>) -> Result<Result<String, String>> {
    if let Some(own) = apt.candidate(Archive::Release, PACKAGE)?
        && upstream(&own) >= Some(WANTED)
    {
        return Ok(Err(format!("the release has {own} itself")));
    }
    if !apt.has_backports() {
        return Ok(Err("this release has no backports".to_owned()));
    }
    match apt.candidate(Archive::Backports, PACKAGE)? {
        Some(version) if upstream(&version) >= Some(WANTED) => Ok(Ok(version)),
        Some(version) => Ok(Err(format!("backports have only {version}"))),
        None => Ok(Err("no backport of QEMU".to_owned())),
    }
}

/// The first two numbers of `1:10.0.2+ds-2`, whose leading `1:` is Debian's epoch.
pub(crate) fn upstream(version: &str) -> Option<(u32, u32)> {
    let upstream = version.split_once(':').map_or(version, |(_, rest)| rest);
    let mut numbers = upstream.split(['.', '+', '-', '~']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn unpack(run: &Run, step: &mut Step<'_>, apt: &PrivateApt<'_>, folder: &Path) -> Result<()> {
    let root = folder.join("root");
    std::fs::create_dir(&root).context("cannot create the root folder")?;
    let closure = apt.closure(Archive::Backports, &[PACKAGE])?;
    let mut packages: Vec<String> = closure
        .iter()
        // An installed qemu-utils would be upgraded along, and is of no use here.
        .filter(|package| package.name != "qemu-utils")
        .map(ToString::to_string)
        .collect();
    for data in DATA_PACKAGES {
        if !closure.iter().any(|package| package.name == data) {
            packages.push(data.to_owned());
        }
    }
    apt.unpack(step, &packages, &root)?;
    let wrapper = folder.join("qemu-system-x86_64");
    let libraries: Vec<String> = library_folders(&root)?
        .iter()
        .filter_map(|path| {
            Some(format!(
                "$root/{}",
                path.strip_prefix(&root).ok()?.display()
            ))
        })
        .collect();
    std::fs::write(
        &wrapper,
        WRAPPER.replace("@LIBRARIES@", &libraries.join(":")),
    )
    .context("cannot write the wrapper")?;
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755))
        .context("cannot make the wrapper executable")?;
    run.interrupt.check()?;
    Ok(())
}

/// Folders with shared libraries: those named after an architecture, and `pulseaudio`-like ones
/// that packages keep private are found through the binary's own search path.
fn library_folders(root: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for parent in ["usr/lib", "lib"] {
        let Ok(entries) = std::fs::read_dir(root.join(parent)) else {
            continue;
        };
        for entry in entries {
            let path = entry.context("cannot list libraries")?.path();
            let is_multiarch = path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().ends_with("-linux-gnu"));
            if is_multiarch && path.is_dir() {
                folders.push(path);
            }
        }
    }
    if folders.is_empty() {
        bail!("the packages hold no libraries");
    }
    Ok(folders)
}

/// Runs the wrapper as the daemon will, with nothing in its environment; its name and version.
pub(crate) fn try_out(run: &Run, wrapper: &Path) -> Result<String> {
    let text = child::capture(run, child::program(wrapper).env_clear().args(["--version"]))
        .context("the unpacked QEMU does not start")?;
    let first = text.lines().next().unwrap_or_default();
    let version = first
        .trim_start_matches("QEMU emulator version ")
        .split(' ')
        .next()
        .unwrap_or_default();
    Ok(format!("QEMU {version}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_behind_the_epoch() {
        for (version, expected) in [
            ("1:10.0.2+ds-2+deb13u1~bpo12+1", Some((10, 0))),
            ("1:11.1~rc2+ds-1", Some((11, 1))),
            ("1:7.2+dfsg-7", Some((7, 2))),
            ("unknown", None),
        ] {
            assert_eq!(upstream(version), expected, "{version}");
        }
    }
}
