//! File systems of a test's own, in memory.

use std::path::{Path, PathBuf};

/// A tmpfs in a folder; dropped, it is gone with what lies on it.
#[derive(Debug)]
pub struct Tmpfs {
    path: PathBuf,
}

impl Tmpfs {
    /// Mounts one at `path`, which is made. None, and why on standard output, where nothing may be
    /// mounted.
    pub fn mount(path: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(path).expect("a folder");
        let options = format!("size={size},mode=0711");
        let target = path.to_str().expect("a path of a test");
        match run(&[
            "mount",
            "-t",
            "tmpfs",
            "-o",
            &options,
            "casemate-test",
            target,
        ]) {
            Ok(()) => Some(Self {
                path: path.to_owned(),
            }),
            Err(error) => {
                println!("skipped: no tmpfs can be mounted: {error}");
                None
            }
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily, because a process that is about to end may still be on it.
        let target = self.path.to_str().expect("a path of a test");
        if let Err(error) = run(&["umount", "--lazy", target]) {
            eprintln!("{target} stays mounted: {error}");
        }
    }
}

fn run(words: &[&str]) -> Result<(), String> {
    #[expect(clippy::disallowed_methods, reason = "mounts of the test's own")]
    let mut command = std::process::Command::new(words[0]);
    let output = command
        .args(&words[1..])
        .output()
        .map_err(|error| format!("no `{}`: {error}", words[0]))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}
