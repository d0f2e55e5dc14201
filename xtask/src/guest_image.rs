//! The guest of demo and tests: the distribution's kernel and a tiny first root around busybox.
//!
//! Kernel and busybox are unpacked from their packages and never installed. The root holds the
//! virtio and 9p modules, a script that sets the guest up, and one that answers HTTP on port 7002
//! with the kernel's release and the environment that the host gave (`guest/` beside this crate).
//!
//! `boot.efi` is both in one file that UEFI firmware starts from a disk: systemd's stub, which is
//! unpacked too, with kernel, first root and command line as sections. Where the distribution has no
//! such stub, there is no `boot.efi`.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::child;
use crate::kernel_module::ModuleTree;
use crate::layout;
use crate::private_apt::{Archive, PrivateApt};
use crate::report::Step;
use crate::run::Run;

const INIT: &str = include_str!("../guest/init");
const AGENT: &str = include_str!("../guest/agent");
const DHCP_ANSWER: &str = include_str!("../guest/dhcp-answer");

/// What the guest loads: the bus, the network card, the shares, disks, and the power button with
/// which a host asks for a clean shutdown. `af_packet` is for the DHCP client where it is modular.
const MODULES: [&str; 8] = [
    "virtio_pci",
    "virtio_net",
    "9p",
    "9pnet_virtio",
    "virtio_blk",
    "button",
    "evdev",
    "af_packet",
];

/// Packages that stand for "the current kernel": Debian's, and Ubuntu's small one.
const KERNEL_METAPACKAGES: [&str; 2] = ["linux-image-amd64", "linux-image-virtual"];

/// Changes when the parts or the way they are put together change, so that old images are rebuilt.
const RECIPE: &str = "3";

/// What makes a program for UEFI of a kernel, and the package that has it.
const STUB: &str = "linuxx64.efi.stub";
const STUB_PACKAGE: &str = "systemd-boot-efi";
/// What `boot.efi` is made of beside the stub, and where it is loaded: above the stub, and each
/// above the one before, with room.
const STUB_SECTIONS: [(&str, &str, &str); 3] = [
    (".cmdline", "cmdline", "0x30000"),
    (".linux", "vmlinuz", "0x2000000"),
    (".initrd", "initrd.cpio.gz", "0x4000000"),
];
/// Of a guest that boots from a disk, which no host can set.
const DISK_CMDLINE: &str = "console=ttyS0 quiet panic=-1";

/// Makes sure that kernel and first root are there.
pub fn prepare(run: &Run) -> Result<()> {
    let mut step = run.report.step("guest image");
    if std::env::consts::ARCH != "x86_64" {
        bail!(
            "the guest is for x86-64 and this machine is {}; `cargo xtask backends` works here",
            std::env::consts::ARCH
        );
    }
    let made_from = recipe_digest();
    if layout::made_from(&run.layout.guest()).as_deref() == Some(made_from.as_str()) {
        step.done("kernel and initrd (cached)");
        return Ok(());
    }
    let parts = run.layout.guest_parts();
    ensure_parts(run, &mut step, &parts, &MODULES)?;
    let scratch = run.scratch()?;
    step.progress("packing the initrd");
    std::fs::copy(parts.join("vmlinuz"), scratch.path().join("vmlinuz"))
        .context("cannot copy the kernel")?;
    let size = pack_initrd(run, &mut step, &parts, scratch.path())?;
    if parts.join(STUB).exists() {
        pack_boot_program(run, &mut step, &parts, scratch.path())?;
    }
    layout::put_in_place(scratch.path(), &run.layout.guest(), &made_from)?;
    let release = read_text(&parts.join("kernel-package"))?;
    step.done(&format!("{release}, initrd {} KiB", size / 1024));
    Ok(())
}

fn parts_recipe(modules: &[&str]) -> String {
    format!("{RECIPE} {}", modules.join(" "))
}

fn recipe_digest() -> String {
    let mut hash = Sha256::new();
    for part in [
        &parts_recipe(&MODULES),
        INIT,
        AGENT,
        DHCP_ANSWER,
        DISK_CMDLINE,
    ] {
        hash.update(part);
        hash.update([0]);
    }
    format!("{:x}", hash.finalize())
}

/// Makes sure that `folder` holds kernel, busybox and the modules, in the order in which they can be
/// loaded.
pub(crate) fn ensure_parts(
    run: &Run,
    step: &mut Step<'_>,
    folder: &Path,
    modules: &[&str],
) -> Result<()> {
    if layout::made_from(folder).as_deref() == Some(parts_recipe(modules).as_str()) {
        return Ok(());
    }
    fetch_parts(run, step, folder, modules)
}

/// Downloads kernel and busybox and keeps what is wanted of them.
fn fetch_parts(run: &Run, step: &mut Step<'_>, folder: &Path, wanted: &[&str]) -> Result<()> {
    step.progress("looking for the kernel's package");
    let apt = PrivateApt::open(run, step)?;
    let kernel = kernel_package(&apt)?;
    let mut packages = vec![kernel.clone(), "busybox-static".to_owned()];
    // Some distributions keep the modules apart from the kernel.
    packages.extend(
        apt.dependencies(&kernel)?
            .into_iter()
            .filter(|name| name.starts_with("linux-modules-")),
    );
    if apt.candidate(Archive::Release, STUB_PACKAGE)?.is_some() {
        packages.push(STUB_PACKAGE.to_owned());
    }
    step.note(&format!(
        "unpacking {} (not installed)",
        packages.join(", ")
    ));
    let unpacked = run.scratch()?;
    apt.unpack(step, &packages, unpacked.path())?;

    let parts = run.scratch()?;
    let modules = parts.path().join("modules");
    std::fs::create_dir(&modules).context("cannot create the folder of modules")?;
    copy_only_match(
        &unpacked.path().join("boot"),
        "vmlinuz-",
        &parts.path().join("vmlinuz"),
    )?;
    let busybox = ["usr/bin/busybox", "bin/busybox"]
        .map(|path| unpacked.path().join(path))
        .into_iter()
        .find(|path| path.is_file())
        .context("busybox-static holds no busybox")?;
    std::fs::copy(busybox, parts.path().join("busybox")).context("cannot copy busybox")?;
    let stub = unpacked.path().join("usr/lib/systemd/boot/efi").join(STUB);
    if stub.exists() {
        std::fs::copy(stub, parts.path().join(STUB)).context("cannot copy the stub for UEFI")?;
    }

    step.progress("choosing kernel modules");
    let tree = ModuleTree::read(&folder_of_modules(unpacked.path())?)?;
    let mut order = String::new();
    for module in tree.in_loading_order(run, wanted)? {
        let file = format!("{}.ko", module.name);
        std::fs::write(modules.join(&file), module.content)
            .with_context(|| format!("cannot write {file}"))?;
        order.push_str(&file);
        order.push('\n');
    }
    std::fs::write(parts.path().join("order"), order).context("cannot write the order")?;
    std::fs::write(parts.path().join("kernel-package"), &kernel)
        .context("cannot write the kernel's name")?;
    layout::put_in_place(parts.path(), folder, &parts_recipe(wanted))
}

/// The package that the distribution's current kernel really is in.
fn kernel_package(apt: &PrivateApt<'_>) -> Result<String> {
    for metapackage in KERNEL_METAPACKAGES {
        if apt.candidate(Archive::Release, metapackage)?.is_none() {
            continue;
        }
        let real = apt
            .dependencies(metapackage)?
            .into_iter()
            .find(|name| name.starts_with("linux-image-"));
        return real.with_context(|| format!("{metapackage} depends on no kernel"));
    }
    bail!(
        "the distribution has none of {}",
        KERNEL_METAPACKAGES.join(", ")
    )
}

fn folder_of_modules(root: &Path) -> Result<PathBuf> {
    ["lib/modules", "usr/lib/modules"]
        .iter()
        .filter_map(|path| std::fs::read_dir(root.join(path)).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.join("kernel").is_dir())
        .context("the kernel's package holds no modules")
}

fn copy_only_match(folder: &Path, prefix: &str, to: &Path) -> Result<()> {
    let from = std::fs::read_dir(folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        })
        .with_context(|| format!("{} holds no {prefix}*", folder.display()))?;
    std::fs::copy(&from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

/// Writes `initrd.cpio.gz` into `folder` and returns its size.
fn pack_initrd(run: &Run, step: &mut Step<'_>, parts: &Path, folder: &Path) -> Result<u64> {
    let busybox = std::fs::read(parts.join("busybox")).context("cannot read busybox")?;
    let (order, modules) = read_modules(parts)?;
    let root = write_root(&busybox, &order, &modules).context("cannot write the initrd")?;
    compress(run, step, &root, folder)
}

/// Path of a module in a first root, and its content.
pub(crate) type ModuleFile = (String, Vec<u8>);

/// The order of loading, and the modules.
pub(crate) fn read_modules(parts: &Path) -> Result<(String, Vec<ModuleFile>)> {
    let order = read_text(&parts.join("order"))?;
    let mut modules = Vec::new();
    for file in order.lines() {
        let path = parts.join("modules").join(file);
        let content =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        modules.push((format!("modules/{file}"), content));
    }
    Ok((order, modules))
}

/// Writes a first root as `initrd.cpio.gz` into `folder` and returns its size.
pub(crate) fn compress(run: &Run, step: &mut Step<'_>, root: &[u8], folder: &Path) -> Result<u64> {
    let cpio = folder.join("initrd.cpio");
    let mut output = File::create(&cpio).context("cannot write the initrd")?;
    output
        .write_all(root)
        .and_then(|()| output.flush())
        .context("cannot write the initrd")?;
    // `-n` leaves name and time out, so that the same parts give the same file.
    child::run(
        run,
        step,
        child::program("gzip").arg("-9nf").arg(&cpio),
        &run.log("guest"),
    )?;
    let packed = folder.join("initrd.cpio.gz");
    let metadata = std::fs::metadata(&packed).context("gzip left no file")?;
    Ok(metadata.len())
}

/// Writes `boot.efi` into `folder`, where kernel and first root are already.
fn pack_boot_program(run: &Run, step: &mut Step<'_>, parts: &Path, folder: &Path) -> Result<()> {
    std::fs::write(folder.join("cmdline"), DISK_CMDLINE)
        .context("cannot write the command line")?;
    let mut objcopy = child::program("objcopy");
    for (section, file, address) in STUB_SECTIONS {
        let content = folder.join(file);
        objcopy
            .arg("--add-section")
            .arg(format!("{section}={}", content.display()))
            .arg("--change-section-vma")
            .arg(format!("{section}={address}"));
    }
    objcopy.arg(parts.join(STUB)).arg(folder.join("boot.efi"));
    child::run(run, step, &mut objcopy, &run.log("guest"))
}

fn write_root(
    busybox: &[u8],
    order: &str,
    modules: &[(String, Vec<u8>)],
) -> std::io::Result<Vec<u8>> {
    let mut root = crate::newc::Archive::new(Vec::new());
    for folder in ["bin", "dev", "etc", "modules", "proc", "sys", "tmp"] {
        root.directory(folder)?;
    }
    // The kernel opens the console for the first process before that could mount anything.
    root.character_device("dev/console", 5, 1)?;
    root.executable("init", INIT.as_bytes())?;
    root.executable("bin/busybox", busybox)?;
    root.executable("bin/agent", AGENT.as_bytes())?;
    root.executable("bin/dhcp-answer", DHCP_ANSWER.as_bytes())?;
    root.file("modules/order", order.as_bytes())?;
    for (path, content) in modules {
        root.file(path, content)?;
    }
    root.finish()
}

fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
