//! Kernel and first root of the system VM: the distribution's kernel, busybox, the modules that a
//! root over 9p takes, and two scripts.

use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};

use crate::run::Run;
use crate::{guest_image, layout, newc};

const INIT: &str = include_str!("init");
const SESSION: &str = include_str!("session");

/// The host's root, the disk, and what ext4 checks its blocks with.
const MODULES: [&str; 7] = [
    "virtio_pci",
    "9p",
    "9pnet_virtio",
    "virtio_blk",
    "overlay",
    "crc32c_generic",
    "ext4",
];

/// Makes sure that kernel and first root are there.
pub fn prepare(run: &Run) -> Result<()> {
    let mut step = run.report.step("system VM");
    let parts = run.layout.system_vm_parts();
    guest_image::ensure_parts(run, &mut step, &parts, &MODULES)?;
    let made_from = digest();
    if layout::made_from(&run.layout.system_vm()).as_deref() == Some(made_from.as_str()) {
        step.done("kernel and initrd (cached)");
        return Ok(());
    }
    let scratch = run.scratch()?;
    std::fs::copy(parts.join("vmlinuz"), scratch.path().join("vmlinuz"))
        .context("cannot copy the kernel")?;
    let root = first_root(&parts)?;
    let size = guest_image::compress(run, &mut step, &root, scratch.path())?;
    layout::put_in_place(scratch.path(), &run.layout.system_vm(), &made_from)?;
    step.done(&format!("initrd {} KiB", size / 1024));
    Ok(())
}

fn digest() -> String {
    let mut hash = Sha256::new();
    for part in [&MODULES.join(" "), INIT, SESSION] {
        hash.update(part);
        hash.update([0]);
    }
    format!("{:x}", hash.finalize())
}

fn first_root(parts: &Path) -> Result<Vec<u8>> {
    let busybox = std::fs::read(parts.join("busybox")).context("cannot read busybox")?;
    let (order, modules) = guest_image::read_modules(parts)?;
    let write = || -> std::io::Result<Vec<u8>> {
        let mut root = newc::Archive::new(Vec::new());
        for folder in ["bin", "dev", "modules", "proc", "sys"] {
            root.directory(folder)?;
        }
        root.character_device("dev/console", 5, 1)?;
        root.executable("init", INIT.as_bytes())?;
        root.executable("bin/busybox", &busybox)?;
        root.file("session", SESSION.as_bytes())?;
        root.file("modules/order", order.as_bytes())?;
        for (path, content) in &modules {
            root.file(path, content)?;
        }
        root.finish()
    };
    write().context("cannot write the initrd")
}
