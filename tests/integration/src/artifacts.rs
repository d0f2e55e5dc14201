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

/// How a crate outside the workspace is built for WebAssembly: variables, and further arguments.
pub fn wasm_toolchain() -> (Vec<(String, String)>, Vec<String>) {
    let text = std::fs::read_to_string(present(target().join("setup/wasm-toolchain.json")));
    let document: serde_json::Value =
        serde_json::from_str(&text.expect("it is readable")).expect("JSON");
    let variables = document["variables"].as_object().expect("an object");
    let variables = variables
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().expect("a text").to_owned()));
    let arguments = document["arguments"].as_array().into_iter().flatten();
    let arguments = arguments.filter_map(|argument| argument.as_str().map(str::to_owned));
    (variables.collect(), arguments.collect())
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

/// A backend's table of the packaged config file, with the path and the digest of what was built.
pub fn packaged_backend(name: &str) -> toml::Table {
    let packaged = packaged_config();
    let mut backends = packaged["backend"].as_array().into_iter().flatten();
    let mut backend = backends
        .find(|backend| backend["name"].as_str() == Some(name))
        .and_then(toml::Value::as_table)
        .expect("it is packaged")
        .clone();
    pin(&mut backend, &component(name));
    backend
}

/// Makes a backend's table that of `component`.
pub fn pin(backend: &mut toml::Table, component: &Path) {
    backend.insert("path".to_owned(), component.display().to_string().into());
    backend.insert("sha256".to_owned(), sha256(component).into());
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

/// `docker-registry` or `minisign`. None, and why on standard output, where it could not be had.
pub fn distribution(program: &str) -> Option<PathBuf> {
    unpacked("distribution", program)
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

/// A component of another language. None, and why on standard output, where nobody built it.
pub fn example(name: &str) -> Option<PathBuf> {
    let path = target().join("backends").join(format!("{name}.wasm"));
    if path.exists() {
        return Some(path);
    }
    println!("skipped: no {name} of another language; `cargo xtask languages` builds it");
    None
}

/// The table of the config file that lies beside an example's sources, with what was built.
pub fn example_backend(folder: &str, component: &Path) -> toml::Table {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/backends");
    let path = sources.join(folder).join("backend.toml");
    let text = std::fs::read_to_string(&path).expect("the example has one");
    let config: toml::Table = text.parse().expect("it parses");
    let backend = config["backend"].as_array().and_then(|list| list.first());
    let backend = backend.and_then(toml::Value::as_table);
    let mut backend = backend.expect("one backend").clone();
    pin(&mut backend, component);
    backend
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
