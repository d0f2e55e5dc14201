//! Rules of the source tree that a compiler does not hold.

use std::path::{Path, PathBuf};

pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All Rust sources below a folder.
pub(crate) fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("it is there").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("it is text");
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "no sources below {}", folder.display());
    found
}

/// Code without comments, documentation and tests.
pub(crate) fn code(text: &str) -> String {
    let before_tests = text.split("#[cfg(test)]").next().unwrap_or(text);
    let lines = before_tests
        .lines()
        .map(|line| line.split("//").next().unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

/// The module that a host source belongs to: `backend` for `backend.rs` and `backend/call.rs`.
fn module(path: &Path, root: &Path) -> String {
    let relative = path.strip_prefix(root).expect("below the root");
    let first = relative.iter().next().expect("a name").to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

#[test]
fn only_the_owner_of_a_thing_names_it() {
    let rules: &[(&[&str], &[&str])] = &[
        (
            &["tonic::", "axum::", "rustls::", "casemate_proto"],
            &["api"],
        ),
        (&["wasmtime::"], &["backend"]),
        (&["process::Command", "Command::new"], &["qemu"]),
        (
            &["\"/sys", "\"/dev/kvm", "__cpuid", "asm!"],
            &["probe", "vm", "backend", "confine"],
        ),
        (&["zbus", "libc::"], &["confine"]),
        // By its number a process may be another one by now: signals go through a pidfd. A group
        // whose leader nobody has waited for is still its own.
        (&["kill_process("], &["failpoint"]),
        (&["kill_process_group("], &["qemu"]),
        (&["std::env::var", "env::vars"], &["config"]),
    ];
    let root = workspace().join("host/src");
    for (path, text) in sources(&root) {
        let (module, code) = (module(&path, &root), code(&text));
        for (names, owners) in rules {
            for name in names.iter().filter(|name| code.contains(**name)) {
                assert!(
                    owners.contains(&module.as_str()),
                    "{} names {name}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn siblings_do_not_import_each_other() {
    let siblings = ["backend", "confine", "qemu", "lease", "probe", "metrics"];
    let root = workspace().join("host/src");
    for (path, text) in sources(&root) {
        let module = module(&path, &root);
        let code = code(&text);
        let imports = |other: &str| {
            code.contains(&format!("crate::{other}::"))
                || code.contains(&format!("crate::{other};"))
        };
        if siblings.contains(&module.as_str()) {
            for other in siblings
                .iter()
                .chain(&["vm", "api", "app", "store"])
                .filter(|other| **other != module)
            {
                assert!(!imports(other), "{} imports {other}", path.display());
            }
        }
        if module == "spec" {
            for other in siblings.iter().chain(&["vm", "api", "app", "store"]) {
                assert!(!imports(other), "{} imports {other}", path.display());
            }
        }
    }
}

#[test]
fn the_host_knows_no_tee() {
    let root = workspace().join("host/src");
    // The predecessor's variables name technologies, and one file knows them.
    let exception = root.join("config/environment/predecessor.rs");
    for (path, text) in sources(&root) {
        if path == exception || path.ends_with("tests.rs") {
            continue;
        }
        let code = code(&text).to_lowercase();
        for name in ["snp", "tdx", "sev_", "sev-", "rme-guest", "csv3"] {
            assert!(!code.contains(name), "{} names {name}", path.display());
        }
        // Whole words: `several` and `severity` have the first of them in them. `igvm-cfg` is not
        // among them: it is QEMU's object for a firmware format, and firmware is the host's to render.
        for word in code.split(|character: char| !character.is_ascii_alphanumeric()) {
            let is_named = ["sev", "tdvf", "mrtd", "rtmr", "vmsa"].contains(&word);
            assert!(!is_named, "{} names {word}", path.display());
        }
    }
}

#[test]
fn files_are_short_and_begin_with_what_they_are() {
    for folder in [
        "attestation/src",
        "bench/src",
        "catalogue/src",
        "host/src",
        "cli/src",
        "launcher",
        "plugins",
        "proto/src",
        "registry/src",
        "tests",
        "xtask/src",
    ] {
        for (path, text) in sources(&workspace().join(folder)) {
            let lines = text.lines().count();
            assert!(lines <= 800, "{} has {lines} lines", path.display());
            assert!(
                text.starts_with("//!"),
                "{} does not say what it is",
                path.display()
            );
        }
    }
}
