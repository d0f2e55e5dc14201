//! Where things are that the tests do not build themselves.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// The workspace's `target` folder, as `cargo xtask test` names it, or as seen from this binary.
fn target() -> PathBuf {
    match std::env::var_os("CASEMATE_TEST_ARTIFACTS") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
    }
}

fn present(path: PathBuf) -> PathBuf {
    assert!(
        path.exists(),
        "{} is missing: run `cargo xtask setup` first",
        path.display()
    );
    path
}

/// A component that `cargo xtask backends` made.
pub fn component(name: &str) -> PathBuf {
    present(target().join("backends").join(format!("{name}.wasm")))
}

pub fn sha256(path: &Path) -> String {
    let bytes = std::fs::read(path).expect("the file is readable");
    hex::encode(Sha256::digest(&bytes))
}

pub fn kernel() -> PathBuf {
    present(target().join("guest/vmlinuz"))
}

pub fn initrd() -> PathBuf {
    present(target().join("guest/initrd.cpio.gz"))
}

/// The same guest as a program for UEFI, which boots from a disk. None, and why on standard output,
/// where it could not be made.
pub fn boot_program() -> Option<PathBuf> {
    let program = target().join("guest/boot.efi");
    if program.exists() {
        return Some(program);
    }
    println!("skipped: no guest for UEFI ({})", program.display());
    None
}

/// A program of this workspace, next to this test binary.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let folder = test
        .parent()
        .and_then(Path::parent)
        .expect("tests lie in target/PROFILE/deps");
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is missing: run `cargo test --workspace`",
        path.display()
    );
    path
}

/// The packaged config file.
pub fn packaged_config() -> toml::Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/casemate.toml");
    let text = std::fs::read_to_string(path).expect("the packaged config is there");
    text.parse().expect("the packaged config parses")
}

/// QEMUs at hand: the system's, and the one of the backports where it could be had. A QEMU that is
/// missing is said, so that a skip is seen.
pub fn qemus() -> Vec<PathBuf> {
    let mut qemus = vec![present(PathBuf::from("/usr/bin/qemu-system-x86_64"))];
    let backports = target().join("tools/qemu-backports/qemu-system-x86_64");
    if backports.exists() {
        qemus.push(backports);
    } else {
        println!(
            "skipped: no QEMU of the backports ({})",
            backports.display()
        );
    }
    qemus
}

/// The newest QEMU that the distribution has, 10.1 at least: it knows TDX. Its folder is a path that
/// a VM's QEMU needs. None, and why on standard output, where it could not be had.
pub fn newest_qemu() -> Option<PathBuf> {
    unpacked("qemu-newest", "qemu-system-x86_64")
}

/// A file of the distribution's firmware for confidential guests: `OVMF.amdsev.fd`,
/// `OVMF.inteltdx.ms.fd`. None, and why on standard output, where it could not be had.
pub fn confidential_firmware(name: &str) -> Option<PathBuf> {
    unpacked("firmware", name)
}

/// The descriptors of that firmware. They name it where its packages would install it.
pub fn confidential_firmware_descriptors() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(target().join("tools/firmware")) else {
        println!("skipped: no firmware for confidential guests");
        return Vec::new();
    };
    let mut descriptors: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the folder is readable").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
        .collect();
    descriptors.sort();
    descriptors
}

/// A file of a product that set-up makes where the distribution has what it takes. A product that
/// is there and lacks the file is broken, and no reason to skip.
fn unpacked(product: &str, file: &str) -> Option<PathBuf> {
    let folder = target().join("tools").join(product);
    if folder.exists() {
        return Some(present(folder.join(file)));
    }
    println!(
        "skipped: no {product} of the distribution ({})",
        folder.display()
    );
    None
}

/// OVMF of the installed distribution.
pub fn ovmf() -> PathBuf {
    present(PathBuf::from("/usr/share/ovmf/OVMF.fd"))
}

/// A file out of a published package that tests compare with: `ovmf_AmdSev_suffix.bin`,
/// `ovmf_OvmfX64_suffix.bin`.
pub fn published(name: &str) -> PathBuf {
    present(target().join("tools/published").join(name))
}

/// The program that measures IGVM files with another implementation.
pub fn igvm_oracle() -> PathBuf {
    present(target().join("tools/igvm-oracle/casemate-igvm-oracle"))
}

/// A Python that has sev-snp-measure. None, and why on standard output, where there is no Python.
pub fn sev_snp_measure() -> Option<PathBuf> {
    let folder = target().join("tools/sev-snp-measure");
    if folder.exists() {
        return Some(present(folder.join("bin/python3")));
    }
    println!(
        "skipped: set-up found no Python to run sev-snp-measure in ({})",
        folder.display()
    );
    None
}

/// Copies `program` to where an unprivileged user can start it, whatever the workspace's modes are.
pub fn stage_program(program: &Path, folder: &Path) -> PathBuf {
    let name = program.file_name().expect("a program has a name");
    let staged = folder.join(name);
    std::fs::copy(program, &staged).expect("the program can be copied");
    std::fs::set_permissions(&staged, std::fs::Permissions::from_mode(0o755))
        .expect("the mode can be set");
    staged
}
