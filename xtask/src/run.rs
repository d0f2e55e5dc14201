//! What one invocation carries around: the paths, the terminal and the wish to stop.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::interrupt::Interrupt;
use crate::layout::Layout;
use crate::orphans;
use crate::report::Report;

#[derive(Debug)]
pub struct Run {
    pub layout: Layout,
    pub report: Report,
    pub interrupt: Interrupt,
}

impl Run {
    /// Starts listening for Ctrl-C and takes charge of processes whose parents die.
    pub fn start() -> Result<Self> {
        let interrupt = Interrupt::listen()?;
        orphans::adopt()?;
        let layout = Layout::find()?;
        std::fs::create_dir_all(layout.logs())
            .with_context(|| format!("cannot create {}", layout.logs().display()))?;
        Ok(Self {
            layout,
            report: Report::new(interrupt.clone()),
            interrupt,
        })
    }

    /// A folder under `target/` that is gone again when dropped, and that others may read once it
    /// has been renamed into place: QEMU runs as another user.
    pub fn scratch(&self) -> Result<TempDir> {
        let parent = self.layout.scratch();
        std::fs::create_dir_all(&parent)
            .with_context(|| format!("cannot create {}", parent.display()))?;
        tempfile::Builder::new()
            .prefix("making-")
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir_in(&parent)
            .with_context(|| format!("cannot create a folder in {}", parent.display()))
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.layout.log(name)
    }
}
