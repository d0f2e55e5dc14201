//! The demo's configuration: the packaged file with the values of this run.
//!
//! Starting from what is shipped shows that what is shipped works, grants included.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use toml_edit::{DocumentMut, Item, Table, Value, value};

use super::BACKEND;
use crate::backends::Backend;

/// Values that replace those of the packaged file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DemoConfig<'run> {
    pub(crate) folder: &'run Path,
    pub(crate) accelerator: &'run str,
    pub(crate) kernel: &'run Path,
    pub(crate) initrd: &'run Path,
    pub(crate) backend: &'run Backend,
    pub(crate) memory: &'run str,
    /// Values beside these, each with its table (empty: none) and its key.
    pub(crate) more: &'run [(&'run str, &'run str, Value)],
}

impl DemoConfig<'_> {
    /// Writes `casemate.toml` into the folder and returns its path.
    pub(crate) fn write(self, packaged: &Path) -> Result<PathBuf> {
        let text = std::fs::read_to_string(packaged)
            .with_context(|| format!("cannot read {}", packaged.display()))?;
        let text = self
            .applied_to(&text)
            .with_context(|| format!("cannot adapt {}", packaged.display()))?;
        let path = self.folder.join("casemate.toml");
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    fn applied_to(self, packaged: &str) -> Result<String> {
        let mut document: DocumentMut = packaged.parse().context("it is not TOML")?;
        let root = document.as_table_mut();
        root["state_dir"] = value(text(&state_directory(self.folder))?);
        root["default_backend"] = value(BACKEND);
        // Port zero: the kernel picks free ones, and the daemon writes down which.
        table(root, "grpc")?.insert("port", value(0));
        table(root, "http")?.insert("port", value(0));
        table(root, "qemu")?.insert("accelerator", value(self.accelerator));
        let vm = table(root, "vm")?;
        vm.insert("kernel", value(text(self.kernel)?));
        vm.insert("initrd", value(text(self.initrd)?));
        vm.insert("kernel_cmdline", value("console=ttyS0 quiet panic=-1"));
        vm.insert("memory", value(self.memory));
        vm.insert("vcpus", value(1));
        self.adapt_backend(root)?;
        for (name, key, wanted) in self.more {
            let item = value(wanted.clone());
            match *name {
                "" => root.insert(key, item),
                name => table(root, name)?.insert(key, item),
            };
        }
        Ok(document.to_string())
    }

    /// Keeps the demo's backend alone, with its grants, and points it at what was built.
    fn adapt_backend(self, root: &mut Table) -> Result<()> {
        let backends = root
            .get_mut("backend")
            .and_then(Item::as_array_of_tables_mut)
            .context("it has no [[backend]]")?;
        backends.retain(|entry| entry.get("name").and_then(Item::as_str) == Some(BACKEND));
        let backend = backends
            .get_mut(0)
            .with_context(|| format!("it has no [[backend]] named {BACKEND}"))?;
        backend["path"] = value(text(&self.backend.path)?);
        backend["sha256"] = value(&self.backend.sha256);
        table(backend, "settings")?.insert("firmware", value("none"));
        Ok(())
    }
}

pub(crate) fn state_directory(folder: &Path) -> PathBuf {
    folder.join("state")
}

/// The table `key`, made where it is absent.
fn table<'table>(
    parent: &'table mut Table,
    key: &str,
) -> Result<&'table mut dyn toml_edit::TableLike> {
    parent
        .entry(key)
        .or_insert_with(toml_edit::table)
        .as_table_like_mut()
        .with_context(|| format!("{key} is no table"))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8, which TOML needs", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKAGED: &str = r#"
state_dir = "/var/lib/casemate"
[grpc]
port = 7001
[[backend]]
name = "other"
path = "/o.wasm"
[[backend]]
name = "plain-kvm"
path = "/usr/lib/casemate/backends/plain-kvm.wasm"
grants = { objects = [] }
"#;

    fn applied(packaged: &str) -> Result<String> {
        let backend = Backend {
            name: BACKEND,
            path: PathBuf::from("/t/plain-kvm.wasm"),
            sha256: "00ff".to_owned(),
            size: 1,
        };
        DemoConfig {
            folder: Path::new("/tmp/demo"),
            accelerator: "tcg",
            kernel: Path::new("/t/vmlinuz"),
            initrd: Path::new("/t/initrd"),
            backend: &backend,
            memory: "512M",
            more: &[
                ("", "max_vms", 7.into()),
                ("qemu", "start_time", "9s".into()),
            ],
        }
        .applied_to(packaged)
    }

    #[test]
    fn values_are_replaced_and_grants_stay() {
        let text = applied(PACKAGED).expect("the sample can be adapted");
        let document: DocumentMut = text.parse().expect("the result is TOML");
        assert_eq!(document["state_dir"].as_str(), Some("/tmp/demo/state"));
        assert_eq!(document["grpc"]["port"].as_integer(), Some(0));
        assert_eq!(document["vm"]["memory"].as_str(), Some("512M"));
        assert_eq!(document["max_vms"].as_integer(), Some(7));
        assert_eq!(document["qemu"]["start_time"].as_str(), Some("9s"));
        let backend = &document["backend"][0];
        assert_eq!(backend["name"].as_str(), Some("plain-kvm"));
        assert_eq!(backend["sha256"].as_str(), Some("00ff"));
        assert_eq!(backend["settings"]["firmware"].as_str(), Some("none"));
        assert!(backend.get("grants").is_some());
        assert!(!text.contains("o.wasm"));
    }

    #[test]
    fn the_packaged_file_can_be_adapted() {
        let text = applied(include_str!("../../../packaging/casemate.toml"))
            .expect("the packaged file has the demo's backend");
        let document: DocumentMut = text.parse().expect("the result is TOML");
        assert_eq!(document["vm"]["kernel"].as_str(), Some("/t/vmlinuz"));
        assert!(document["backend"][0]["grants"]["facts"].is_array());
    }

    #[test]
    fn a_file_without_the_backend_is_refused_with_a_reason() {
        let error = applied("state_dir = \"/x\"\n").expect_err("no backend is named");
        assert_eq!(error.to_string(), "it has no [[backend]]");
    }
}
