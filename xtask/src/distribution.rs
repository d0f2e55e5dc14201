//! What the distribution of backends is tested against: a registry (CNCF Distribution), and minisign,
//! which signs.
//!
//! They are unpacked beside the other tools and not installed: a registry that is installed is a
//! service that runs.

use anyhow::{Context, Result, bail};

use crate::layout;
use crate::private_apt::{Archive, PrivateApt};
use crate::run::Run;

/// Packages; each has one program of its name.
const WANTED: [&str; 2] = ["docker-registry", "minisign"];
const PROGRAMS: &str = "usr/bin";
/// What minisign is linked with.
const LIBRARY: &str = "libsodium23";
const RECIPE: &str = "distribution 1";

/// Makes sure that the programs are there, or says why they are not.
pub fn prepare(run: &Run) -> Result<()> {
    let mut step = run.report.step("registry");
    let product = run.layout.distribution();
    if let Some(made_from) = layout::made_from(&product)
        && let Some(packages) = made_from.strip_prefix(RECIPE)
    {
        step.done(&format!("{} (cached)", packages.trim()));
        return Ok(());
    }
    if !PrivateApt::is_possible() {
        step.done("skipped: no packages of Debian here");
        return Ok(());
    }
    step.progress("looking for packages");
    let apt = PrivateApt::open(run, &mut step)?;
    let mut packages = Vec::new();
    for name in WANTED.into_iter().chain([LIBRARY]) {
        let Some(version) = apt.candidate(Archive::Release, name)? else {
            step.done(&format!("skipped: this release has no {name}"));
            return Ok(());
        };
        packages.push(format!("{name}={version}"));
    }
    let described = packages.join(", ");
    step.note(&format!("unpacking {described} (not installed)"));
    let unpacked = run.scratch()?;
    apt.unpack(&mut step, &packages, unpacked.path())?;
    let scratch = run.scratch()?;
    for program in WANTED {
        let from = unpacked.path().join(PROGRAMS).join(program);
        if !from.is_file() {
            bail!("{program} holds no program of its name");
        }
        std::fs::copy(&from, scratch.path().join(program))
            .with_context(|| format!("cannot copy {}", from.display()))?;
    }
    libraries(unpacked.path(), scratch.path())?;
    layout::put_in_place(scratch.path(), &product, &format!("{RECIPE} {described}"))?;
    step.done(&described);
    Ok(())
}

/// Shared objects side by side, below a folder of their own.
fn libraries(unpacked: &std::path::Path, scratch: &std::path::Path) -> Result<()> {
    let to = scratch.join("lib");
    std::fs::create_dir(&to).with_context(|| format!("cannot create {}", to.display()))?;
    let lib = unpacked.join("usr/lib");
    let folders = std::fs::read_dir(&lib).context("the packages hold no library")?;
    for folder in folders {
        let folder = folder.context("cannot list the libraries")?.path();
        let Ok(files) = std::fs::read_dir(&folder) else {
            continue;
        };
        for file in files.flatten() {
            let path = file.path();
            let name = file.file_name().to_string_lossy().into_owned();
            if name.contains(".so.") && path.is_file() {
                std::fs::copy(&path, to.join(&name))
                    .with_context(|| format!("cannot copy {}", path.display()))?;
            }
        }
    }
    Ok(())
}
