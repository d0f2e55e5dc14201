//! A folder in which `casemate` is run, with a home of its own.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use casemate_integration::{artifacts, mute};
use serde_json::Value;
use tempfile::TempDir;

/// What has to be in the environment; nothing else is.
const PATH: &str = "/usr/bin:/bin";

pub(crate) struct Bench {
    folder: TempDir,
    /// Before the usual folders of programs.
    pub(crate) programs: Option<PathBuf>,
    pub(crate) variables: Vec<(&'static str, PathBuf)>,
}

/// What a command ended with.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) printed: String,
    pub(crate) said: String,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let bench = Self {
            folder: tempfile::tempdir().expect("a folder"),
            programs: None,
            variables: Vec::new(),
        };
        std::fs::create_dir(bench.path("out")).expect("a folder");
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).expect("a folder");
        }
        std::fs::write(&path, content).expect("a file");
        path
    }

    /// A component with the version among its metadata, where one is given: a section of its own.
    pub(crate) fn component(&self, name: &str, version: Option<&str>) -> PathBuf {
        let mut bytes = std::fs::read(artifacts::component("plain-kvm")).expect("it was built");
        if let Some(version) = version {
            bytes.extend(custom_section("version", version));
        }
        self.write(name, bytes)
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        let mut path = PATH.to_owned();
        if let Some(programs) = &self.programs {
            path = format!("{}:{path}", programs.display());
        }
        #[expect(clippy::disallowed_methods, reason = "the program under test")]
        let output = Command::new(artifacts::program("casemate"))
            .args(mute::arguments(arguments))
            .current_dir(self.folder.path())
            .env_clear()
            .env("HOME", self.folder.path())
            .env("PATH", path)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .output();
        Ended::of(mute::ended(output.expect("it starts")))
    }

    /// What a person sees at one, which `script` of util-linux makes.
    pub(crate) fn on_a_terminal(&self, arguments: &[&str]) -> String {
        let program = artifacts::program("casemate");
        let line = format!(
            "stty cols 100; {} {}",
            program.display(),
            arguments.join(" ")
        );
        #[expect(clippy::disallowed_methods, reason = "as a person would")]
        let output = Command::new("script")
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .current_dir(self.folder.path())
            .env_clear()
            .env("HOME", self.folder.path())
            .env("PATH", PATH)
            .env("TERM", "xterm")
            .stdin(Stdio::null())
            .output();
        let output = output.expect("util-linux is installed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Has to go well.
    pub(crate) fn done(&self, arguments: &[&str]) -> Ended {
        let ended = self.run(arguments);
        assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
        ended
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let ended = self.done(&[arguments, &["--format", "json"]].concat());
        serde_json::from_str(&ended.printed).expect("JSON")
    }

    /// The error's id and what it says.
    pub(crate) fn refused(&self, arguments: &[&str]) -> (String, String, Option<i32>) {
        let ended = self.run(&[arguments, &["--format", "json"]].concat());
        assert_ne!(ended.code, Some(0), "{arguments:?}: {ended:?}");
        let said = ended.said.lines().last().unwrap_or_default();
        let error: Value = serde_json::from_str(said).unwrap_or_else(|_| panic!("{ended:?}"));
        let text = |name: &str| error["error"][name].as_str().unwrap_or_default().to_owned();
        (text("id"), text("message"), ended.code)
    }

    /// Names of what lies in the folder to which is pulled.
    pub(crate) fn pulled(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("out"))
            .expect("a folder")
            .flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

impl Ended {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            printed: String::from_utf8_lossy(&output.stdout).into_owned(),
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// As the binary format has it: sizes below 128 take one byte.
fn custom_section(name: &str, content: &str) -> Vec<u8> {
    let small = |length: usize| u8::try_from(length).expect("a short text");
    let mut inner = vec![small(name.len())];
    inner.extend(name.bytes());
    inner.extend(content.bytes());
    let mut section = vec![0, small(inner.len())];
    section.extend(inner);
    section
}
