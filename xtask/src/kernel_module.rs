//! Kernel modules of an unpacked package: finding them, and what each needs loaded before it.
//!
//! The package holds no `modules.dep` (it is generated at installation), so the dependencies are
//! read from the modules themselves, where the kernel's build recorded them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::child;
use crate::run::Run;
use crate::system_packages;

/// A module, decompressed.
#[derive(Clone, Debug)]
pub struct Module {
    pub name: String,
    pub content: Vec<u8>,
}

/// All modules of one kernel, by name, and the names that are built in.
#[derive(Debug)]
pub struct ModuleTree {
    files: BTreeMap<String, PathBuf>,
    builtin: Vec<String>,
}

impl ModuleTree {
    /// `root` is `lib/modules/<release>` of an unpacked kernel.
    pub fn read(root: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut folders = vec![root.join("kernel")];
        while let Some(folder) = folders.pop() {
            let entries = std::fs::read_dir(&folder)
                .with_context(|| format!("cannot list {}", folder.display()))?;
            for entry in entries {
                let path = entry.context("cannot list a folder of modules")?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Some(name) = module_name(&path) {
                    files.insert(name, path);
                }
            }
        }
        let builtin = std::fs::read_to_string(root.join("modules.builtin"))
            .context("the kernel package lists no built-in modules")?
            .lines()
            .filter_map(|line| module_name(Path::new(line)))
            .collect();
        Ok(Self { files, builtin })
    }

    /// `wanted` and all they need, each once, in the order in which they can be loaded. What is
    /// built into the kernel is left out.
    pub fn in_loading_order(&self, run: &Run, wanted: &[&str]) -> Result<Vec<Module>> {
        let mut loaded = Vec::new();
        for name in wanted {
            self.add(run, name, &mut loaded)?;
        }
        Ok(loaded)
    }

    fn add(&self, run: &Run, name: &str, loaded: &mut Vec<Module>) -> Result<()> {
        let known = |name: &str| self.builtin.iter().any(|builtin| builtin == name);
        if known(name) || loaded.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let Some(path) = self.files.get(name) else {
            bail!("the kernel has no module {name}");
        };
        let content = decompressed(run, path)?;
        for dependency in dependencies(&content) {
            self.add(run, &dependency, loaded)?;
        }
        loaded.push(Module {
            name: name.to_owned(),
            content,
        });
        Ok(())
    }
}

/// `virtio-pci.ko.xz` and `virtio_pci.ko` are one module to the kernel.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (stem, _) = file.split_once(".ko")?;
    Some(stem.replace('-', "_"))
}

fn decompressed(run: &Run, path: &Path) -> Result<Vec<u8>> {
    let tool = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => ("xz", "xz-utils"),
        Some("zst") => ("zstd", "zstd"),
        Some("gz") => ("gzip", "gzip"),
        _ => {
            return std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        }
    };
    if !child::is_on_path(tool.0) {
        system_packages::ensure(run, &[tool.1])?;
    }
    let output = child::program(tool.0)
        .args(["-d", "-c"])
        .arg(path)
        .output()
        .with_context(|| format!("cannot start {}", tool.0))?;
    if !output.status.success() {
        bail!("{} cannot decompress {}", tool.0, path.display());
    }
    Ok(output.stdout)
}

/// The `depends=` entry of the module's information section: names with commas between.
fn dependencies(content: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = content.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = content[at + KEY.len()..]
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default();
    String::from_utf8_lossy(value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_the_information_section() {
        let content = b"\x7fELF\0license=GPL\0depends=virtio_ring,virtio-pci-lib\0name=x\0";
        assert_eq!(dependencies(content), ["virtio_ring", "virtio_pci_lib"]);
        assert!(dependencies(b"\0depends=\0name=x\0").is_empty());
        assert!(dependencies(b"no information").is_empty());
    }

    #[test]
    fn names_are_those_of_the_kernel() {
        for path in ["a/virtio-pci.ko.xz", "b/virtio_pci.ko"] {
            assert_eq!(module_name(Path::new(path)).as_deref(), Some("virtio_pci"));
        }
        assert_eq!(module_name(Path::new("modules.order")), None);
    }
}
