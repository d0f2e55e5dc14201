//! The newest QEMU for the tests: that of the distribution's next release, with its own C library.
//!
//! The installed QEMU and the backported one know too little of confidential guests: TDX came with
//! 10.1. The next release's is linked to a C library that this system does not have, so the dynamic
//! linker and every library come along, and a script starts the one with the others. Of what is
//! unpacked only that is kept which this program loads.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::private_apt::{Archive, PrivateApt};
use crate::report::Step;
use crate::run::Run;
use crate::{child, layout, qemu_backports};

const PACKAGE: &str = "qemu-system-x86";
const PROGRAM: &str = "usr/bin/qemu-system-x86_64";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const LINKER: &str = "ld-linux-x86-64.so.2";
/// Parts of QEMU that it loads when somebody asks for them, below [`LIBRARIES`].
const MODULES: &str = "qemu";
/// Firmware and option ROMs; which package has them where differs between releases.
const DATA: [&str; 3] = ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"];

/// All of QEMU's modules, without what they are linked to. A module that is missing here would be
/// looked for in the system's folder, and a module of another build ends a QEMU that is asked for
/// all types; one that is here and cannot be loaded is only complained of.
const MODULE_PACKAGES: [&str; 5] = [
    "qemu-system-common",
    "qemu-system-gui",
    "qemu-system-modules-opengl",
    "qemu-system-modules-spice",
    "qemu-block-extra",
];
/// Large, and needed by installed packages only, not by a program that loads its libraries. That
/// this holds is seen at once: [`libraries`] finds each library, or fails.
const NOT_NEEDED: [&str; 3] = ["systemd", "libsystemd-shared", "openssl-provider-legacy"];

/// First version, by its first two numbers, that knows `tdx-guest`.
const WANTED: (u32, u32) = (10, 1);
const RECIPE: &str = "qemu-newest 1";

/// Starts the unpacked QEMU from wherever the folder lies, with an empty environment, too. The
/// linker's cache is the system's, for libraries of another C library.
const WRAPPER: &str = r#"#!/bin/sh
# The newest QEMU beside this script, with the dynamic linker, libraries and modules that it needs.
here=$(/usr/bin/dirname -- "$(/usr/bin/readlink -f -- "$0")")
root=$here/root
libraries=$root/@LIBRARIES@
QEMU_MODULE_DIR=$libraries/@MODULES@
export QEMU_MODULE_DIR
exec "$libraries/@LINKER@" --inhibit-cache --library-path "$libraries" \
    "$root/@PROGRAM@" @DATA@ "$@"
"#;

/// Makes sure that the newest QEMU is there, or says why it is not.
pub fn prepare(run: &Run) -> Result<()> {
    let mut step = run.report.step("newest QEMU");
    let product = run.layout.qemu_newest();
    if let Some(made_from) = layout::made_from(&product)
        && let Some(version) = made_from.strip_prefix(RECIPE)
    {
        step.done(&format!("{} (cached)", version.trim()));
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
    let packages = match find(run, &apt)? {
        Ok(packages) => packages,
        Err(reason) => {
            step.done(&format!("skipped: {reason}"));
            return Ok(());
        }
    };
    step.note(&format!(
        "unpacking {PACKAGE} of the next release and its libraries (not installed)"
    ));
    let scratch = run.scratch()?;
    unpack(run, &mut step, &apt, &packages, scratch.path())?;
    let wrapper = scratch.path().join("qemu-system-x86_64");
    write_wrapper(&wrapper)?;
    let answer = try_out(run, &wrapper)?;
    layout::put_in_place(scratch.path(), &product, &format!("{RECIPE} {answer}"))?;
    step.done(&answer);
    Ok(())
}

/// What to unpack, or the reason to do without.
fn find(run: &Run, apt: &PrivateApt<'_>) -> Result<Result<Vec<String>, String>> {
    match apt.candidate(Archive::Release, PACKAGE)? {
        Some(version) if qemu_backports::upstream(&version) >= Some(WANTED) => {}
        Some(version) => return Ok(Err(format!("the next release has only {version}"))),
        None => return Ok(Err("the next release has no QEMU".to_owned())),
    }
    let direct = apt.dependencies(PACKAGE)?;
    // The packages of modules need programs and desktops that nothing here starts.
    let direct: Vec<&str> = direct
        .iter()
        .map(String::as_str)
        // In angle brackets are names that no package has itself.
        .filter(|name| !MODULE_PACKAGES.contains(name) && !name.starts_with('<'))
        .collect();
    let closure = match apt.closure(Archive::Release, &direct) {
        Ok(closure) => closure,
        Err(error) => {
            // A release in the making may have packages that do not go together for a while.
            run.interrupt.check()?;
            return Ok(Err(format!(
                "the next release's packages do not go together: {error:#}"
            )));
        }
    };
    let mut packages: Vec<String> = closure
        .iter()
        .filter(|package| !NOT_NEEDED.contains(&package.name.as_str()))
        .map(ToString::to_string)
        .collect();
    packages.push(PACKAGE.to_owned());
    for name in MODULE_PACKAGES {
        if apt.candidate(Archive::Release, name)?.is_some() {
            packages.push(name.to_owned());
        }
    }
    Ok(Ok(packages))
}

/// Unpacks and keeps, below `folder/root`, program, libraries, modules and data.
fn unpack(
    run: &Run,
    step: &mut Step<'_>,
    apt: &PrivateApt<'_>,
    packages: &[String],
    folder: &Path,
) -> Result<()> {
    let unpacked = run.scratch()?;
    apt.unpack(step, packages, unpacked.path())?;
    step.progress("choosing libraries");
    let root = folder.join("root");
    let kept = root.join(LIBRARIES);
    std::fs::create_dir_all(&kept).with_context(|| format!("cannot create {}", kept.display()))?;
    for library in libraries(run, unpacked.path())? {
        let name = library
            .file_name()
            .with_context(|| format!("{} has no name", library.display()))?;
        // A library is loaded by the name of a link to it; the copy has that name and no link.
        std::fs::copy(&library, kept.join(name))
            .with_context(|| format!("cannot copy {}", library.display()))?;
    }
    let modules = Path::new(LIBRARIES).join(MODULES);
    keep(unpacked.path(), &root, Path::new(PROGRAM))?;
    keep(unpacked.path(), &root, &modules)?;
    for data in DATA {
        if unpacked.path().join(data).exists() {
            keep(unpacked.path(), &root, Path::new(data))?;
        }
    }
    Ok(())
}

/// Moves a file or folder to the same place in another root.
fn keep(unpacked: &Path, root: &Path, path: &Path) -> Result<()> {
    let target = root.join(path);
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("cannot create {}", parent.display()))?;
    }
    std::fs::rename(unpacked.join(path), &target)
        .with_context(|| format!("the packages hold no {}", path.display()))
}

/// The dynamic linker and all that it loads with the program, as it says itself.
fn libraries(run: &Run, unpacked: &Path) -> Result<Vec<PathBuf>> {
    let folder = unpacked.join(LIBRARIES);
    let linker = folder.join(LINKER);
    let text = child::capture(
        run,
        child::program(&linker)
            .env_clear()
            .args(["--inhibit-cache", "--library-path"])
            .arg(&folder)
            .arg("--list")
            .arg(unpacked.join(PROGRAM)),
    )
    .context("the unpacked dynamic linker lists no libraries")?;
    let mut libraries = listed(&text, &folder)?;
    libraries.push(linker);
    Ok(libraries)
}

/// Paths of `NAME => PATH (ADDRESS)`. The kernel's own page has no path.
fn listed(text: &str, folder: &Path) -> Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for line in text.lines() {
        let Some((name, found)) = line.trim().split_once(" => ") else {
            continue;
        };
        let path = Path::new(found.rsplit_once(" (").map_or(found, |(path, _)| path));
        // Behind the given folders, the linker looks into the system's.
        if !path.starts_with(folder) {
            bail!("the packages do not hold {name}: {found}");
        }
        libraries.push(path.to_owned());
    }
    Ok(libraries)
}

fn write_wrapper(wrapper: &Path) -> Result<()> {
    let data: Vec<String> = DATA
        .iter()
        .map(|folder| format!("-L \"$root/{folder}\""))
        .collect();
    let text = WRAPPER
        .replace("@LIBRARIES@", LIBRARIES)
        .replace("@MODULES@", MODULES)
        .replace("@LINKER@", LINKER)
        .replace("@PROGRAM@", PROGRAM)
        .replace("@DATA@", &data.join(" "));
    std::fs::write(wrapper, text).context("cannot write the wrapper")?;
    std::fs::set_permissions(wrapper, std::fs::Permissions::from_mode(0o755))
        .context("cannot make the wrapper executable")
}

/// Starts it, and has it load all the modules that it can.
fn try_out(run: &Run, wrapper: &Path) -> Result<String> {
    let answer = qemu_backports::try_out(run, wrapper)?;
    child::capture(
        run,
        child::program(wrapper)
            .env_clear()
            .args(["-device", "help"]),
    )
    .context("the unpacked QEMU cannot list its devices")?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_those_that_the_linker_names_in_the_folder() {
        let folder = Path::new("/made (here)/lib");
        let good = "\tlinux-vdso.so.1 (0x00007fd0576e5000)\n\
                    \tlibz.so.1 => /made (here)/lib/libz.so.1 (0x00007fd057681000)\n\
                    \t/lib64/ld.so.2 => /made (here)/lib/ld.so.2 (0x00007fd0576e7000)\n";
        let libraries = listed(good, folder).expect("all of them are there");
        assert_eq!(
            libraries,
            ["libz.so.1", "ld.so.2"].map(|name| folder.join(name))
        );
        for bad in [
            "\tlibz.so.1 => not found\n",
            "\tlibz.so.1 => /lib/libz.so.1 (0x00007fd057681000)\n",
        ] {
            let error = listed(bad, folder).expect_err("it is not there");
            assert!(error.to_string().contains("libz.so.1"), "{error}");
        }
    }
}
