//! What is measured and where it lies: programs, components, a guest.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha2::{Digest as _, Sha256};

/// Where a distribution puts the real QEMU.
const REAL_QEMU: &str = "/usr/bin/qemu-system-x86_64";
/// The configuration that packages ship: the grants that are measured are the shipped ones.
const PACKAGED_CONFIG: &str = include_str!("../../packaging/casemate.toml");

#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) daemon: PathBuf,
    pub(crate) fake_qemu: PathBuf,
    components: PathBuf,
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    /// Where the distribution has it.
    pub(crate) snp_firmware: Option<PathBuf>,
}

impl Site {
    /// `programs` has the release build, `artifacts` what `cargo xtask setup` and `backends` made.
    pub(crate) fn find(programs: &Path, artifacts: &Path) -> Result<Self> {
        let site = Self {
            daemon: programs.join("casemated"),
            fake_qemu: programs.join("fake-qemu"),
            components: artifacts.join("backends"),
            kernel: artifacts.join("guest/vmlinuz"),
            initrd: artifacts.join("guest/initrd.cpio.gz"),
            snp_firmware: Some(artifacts.join("tools/firmware/OVMF.amdsev.fd"))
                .filter(|path| path.is_file()),
        };
        for path in [
            &site.daemon,
            &site.fake_qemu,
            &site.components,
            &site.kernel,
            &site.initrd,
        ] {
            ensure!(
                path.exists(),
                "{} is missing: run `cargo xtask bench`, which makes it",
                path.display()
            );
        }
        Ok(site)
    }

    /// The installed QEMU, where there is one.
    pub(crate) fn real_qemu() -> Option<&'static Path> {
        Some(Path::new(REAL_QEMU)).filter(|path| path.is_file())
    }

    /// A `[[backend]]` for a component that is not shipped, without grants.
    pub(crate) fn backend(&self, name: &str) -> Result<toml::Table> {
        let mut backend = toml::Table::new();
        backend.insert("name".to_owned(), name.into());
        self.pin(&mut backend, name)?;
        Ok(backend)
    }

    /// The `[[backend]]` of a shipped component, with the grants of the packaged config.
    pub(crate) fn packaged_backend(&self, name: &str) -> Result<toml::Table> {
        let config: toml::Table = PACKAGED_CONFIG
            .parse()
            .context("the packaged config is not TOML")?;
        let mut backend = config
            .get("backend")
            .and_then(toml::Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(toml::Value::as_table)
            .find(|backend| backend.get("name").and_then(toml::Value::as_str) == Some(name))
            .with_context(|| format!("the packaged config has no backend {name}"))?
            .clone();
        self.pin(&mut backend, name)?;
        Ok(backend)
    }

    fn pin(&self, backend: &mut toml::Table, name: &str) -> Result<()> {
        let path = self.components.join(format!("{name}.wasm"));
        let bytes =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let sha256 = hex::encode(Sha256::digest(&bytes));
        backend.insert("path".to_owned(), text(&path)?.into());
        backend.insert("sha256".to_owned(), sha256.into());
        Ok(())
    }
}

/// A path as TOML can hold it.
pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8, which TOML needs", path.display()))
}
