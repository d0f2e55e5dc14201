//! What components are made of, copied, so that nothing ever changes in the sources themselves.
//!
//! Only what differs is written, because Cargo builds anew what was written after its last build:
//! the next run of an interrupted one finds the mutant that was left and puts the rule back.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use toml_edit::DocumentMut;

use crate::report::Step;
use crate::run::Run;
use crate::wasm_toolchain::Tree;
use crate::{cargo, child};

/// Folders of the repository. The images for tests are a dependency of tests alone, which Cargo
/// wants to see all the same.
const FOLDERS: [&str; 4] = ["plugins", "sdk", "tests/firmware-images", "wit"];

const MANIFEST: &str = "Cargo.toml";
const LOCK: &str = "Cargo.lock";

/// Whether a path in the repository is in the copy.
pub(super) fn is_copied(path: &str) -> bool {
    let path = Path::new(path);
    let is_plain = path
        .components()
        .all(|component| matches!(component, Component::Normal(_)));
    is_plain && FOLDERS.iter().any(|folder| path.starts_with(folder))
}

/// The copy, as a workspace of its own.
#[derive(Debug)]
pub(super) struct Copy {
    tree: Tree,
}

impl Copy {
    /// Makes the copy, or makes it the same as the sources again.
    pub(super) fn make(run: &Run, step: &mut Step<'_>) -> Result<Self> {
        let tree = Tree {
            workspace: run.layout.mutants().join("workspace"),
            target: run.layout.mutants().join("wasm"),
        };
        let (from, to) = (run.layout.workspace(), &tree.workspace);
        for folder in FOLDERS {
            make_same(&from.join(folder), &to.join(folder))?;
        }
        let manifest = reduced(&read_text(&from.join(MANIFEST))?)?;
        write_where_it_differs(&to.join(MANIFEST), manifest.as_bytes())?;
        write_where_it_differs(&to.join(LOCK), read_text(&from.join(LOCK))?.as_bytes())?;
        // Takes out the packages that no member needs any more and leaves every version as it is.
        let mut command = cargo::command(run);
        command
            .args(["update", "--workspace", "--offline"])
            .current_dir(to);
        child::run(run, step, &mut command, &run.log("mutants"))?;
        Ok(Self { tree })
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The text of a file.
    pub(super) fn read(&self, file: &str) -> Result<String> {
        read_text(&self.tree.workspace.join(file))
    }

    pub(super) fn write(&self, file: &str, text: &str) -> Result<()> {
        write_where_it_differs(&self.tree.workspace.join(file), text.as_bytes())
    }
}

fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The workspace's manifest with those members alone that are in the copy.
fn reduced(manifest: &str) -> Result<String> {
    let mut document: DocumentMut = manifest.parse().context("Cargo.toml is not TOML")?;
    let members = document
        .get_mut("workspace")
        .and_then(|workspace| workspace.get_mut("members"))
        .and_then(|members| members.as_array_mut())
        .context("Cargo.toml has no list of members")?;
    members.retain(|member| member.as_str().is_some_and(is_copied));
    Ok(document.to_string())
}

fn make_same(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    let mut names = BTreeSet::new();
    for (name, path) in entries(from)? {
        let copy = to.join(&name);
        if path.is_dir() {
            if copy.is_file() {
                remove(&copy)?;
            }
            make_same(&path, &copy)?;
        } else {
            if copy.is_dir() {
                remove(&copy)?;
            }
            let bytes =
                std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            write_where_it_differs(&copy, &bytes)?;
        }
        names.insert(name);
    }
    // A module that was moved would be there twice.
    for (name, path) in entries(to)? {
        if !names.contains(&name) {
            remove(&path)?;
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<(OsString, PathBuf)>> {
    let list = || -> std::io::Result<Vec<_>> {
        std::fs::read_dir(folder)?
            .map(|entry| entry.map(|entry| (entry.file_name(), entry.path())))
            .collect()
    };
    list().with_context(|| format!("cannot list {}", folder.display()))
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}

fn write_where_it_differs(path: &Path, bytes: &[u8]) -> Result<()> {
    if std::fs::read(path).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_components_are_made_of_is_copied() {
        for (path, expected) in [
            ("sdk/src/guard.rs", true),
            ("sdk", true),
            ("plugins/tdx", true),
            ("tests/firmware-images", true),
            ("tests/integration", false),
            ("tests", false),
            ("sdkx", false),
            ("host", false),
            ("sdk/../host", false),
            ("/sdk", false),
            ("", false),
        ] {
            assert_eq!(is_copied(path), expected, "{path}");
        }
    }

    /// The repository's own manifest.
    #[test]
    fn the_copy_is_a_workspace_of_its_members_alone() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
        let manifest = std::fs::read_to_string(path).unwrap();
        let reduced: DocumentMut = reduced(&manifest).unwrap().parse().unwrap();
        let members = reduced["workspace"]["members"].as_array().unwrap();
        let members: Vec<&str> = members
            .iter()
            .filter_map(|member| member.as_str())
            .collect();
        for wanted in ["sdk", "plugins/firmware", "plugins/sev-snp", "plugins/tdx"] {
            assert!(members.contains(&wanted), "{members:?}");
        }
        assert!(
            members.iter().all(|member| is_copied(member)),
            "{members:?}"
        );
        assert!(reduced.get("profile").is_some());
    }

    #[test]
    fn a_copy_becomes_the_same_and_only_what_differs_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let write = |path: PathBuf, text: &str| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(from.join("a.rs"), "a");
        write(from.join("b/c.rs"), "c");
        write(from.join("d.rs/e.rs"), "e");
        make_same(&from, &to).unwrap();
        let written = |name: &str| to.join(name).metadata().unwrap().modified().unwrap();
        let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
        for name in ["a.rs", "b/c.rs"] {
            let file = std::fs::File::options().write(true).open(to.join(name));
            file.unwrap().set_modified(long_ago).unwrap();
        }
        // A mutant that was left, a module that was moved, a file that became a folder and back.
        write(to.join("b/c.rs"), "mutant");
        write(to.join("old/mod.rs"), "old");
        write(to.join("old.rs"), "old");
        std::fs::remove_dir_all(to.join("d.rs")).unwrap();
        write(to.join("d.rs"), "was a file");
        make_same(&from, &to).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("b/c.rs")).unwrap(), "c");
        assert_eq!(std::fs::read_to_string(to.join("d.rs/e.rs")).unwrap(), "e");
        assert!(!to.join("old").exists() && !to.join("old.rs").exists());
        assert_eq!(written("a.rs"), long_ago);
        assert!(written("b/c.rs") > long_ago);
    }
}
