//! Where commands are run: a folder, a daemon, and the programs of this tree in front of the
//! system's.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Stdio;

use casemate_integration::daemon::{Daemon, Setup, free_port};
use casemate_integration::registry::Registry;
use casemate_integration::{artifacts, leftovers};

use super::document::Command;
use super::shown::{self, Shown};

/// What a document names, and what it is here. All else is run as it is written.
const SUBSTITUTED: [(&str, Place); 6] = [
    ("127.0.0.1:7003", Place::Http),
    ("https://prod.example:7001", Place::Endpoint("https")),
    ("registry.example", Place::Registry),
    ("/run/casemate/", Place::Folder("")),
    (
        "/etc/casemate/casemate.toml",
        Place::Folder("casemate.toml"),
    ),
    (
        "/usr/lib/casemate/backends/plain-kvm.wasm",
        Place::Component("plain-kvm"),
    ),
];

#[derive(Clone, Copy, Debug)]
enum Place {
    Http,
    /// Host and port, where the stage has one.
    Registry,
    /// The daemon's gRPC, with this scheme.
    Endpoint(&'static str),
    /// Below the stage's folder.
    Folder(&'static str),
    Component(&'static str),
}

/// Commands without an end of their own: the daemon of a block, which is to serve before the next
/// command and to end with the block.
const DAEMONS: [&str; 1] = ["casemated --config casemate.toml"];

/// Commands in blocks that are run otherwise, and why.
const NOT_HERE: [(&str, &str); 1] = [(
    "grpcurl ",
    "Debian has no such package; reflection is called by `predecessor_client` and `access::local`",
)];

/// A guest boots within this, emulated on a busy machine, and a block has one or two.
const SECONDS: u32 = 400;

/// Between what commands print, with the exit code between two of them.
const MARK: char = '\u{1e}';

/// Who starts the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Started {
    Beforehand,
    /// The block itself, or none is needed.
    NotYet,
}

/// Which daemon `casemate` asks when nothing says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Variable,
    /// As on a machine where nobody set one.
    Unset,
}

#[derive(Debug)]
pub(super) struct Stage {
    folder: PathBuf,
    daemon: Option<Daemon>,
    state_dir: PathBuf,
    grpc: String,
    http: String,
    endpoint: Endpoint,
    variables: Vec<(String, String)>,
    registry: Option<Registry>,
    /// Its end is the folder's.
    _setup_folder: std::sync::Arc<tempfile::TempDir>,
}

impl Stage {
    pub(super) fn new(mut setup: Setup, started: Started, endpoint: Endpoint) -> Self {
        let [grpc, http] = [free_port(), free_port()];
        setup.set("grpc.port", i64::from(grpc));
        setup.set("http.port", i64::from(http));
        setup.write_config();
        let folder = setup.folder.path().to_owned();
        let state_dir = setup.state_dir();
        let variables = setup.variables.clone();
        let kept = std::sync::Arc::clone(&setup.folder);
        Self {
            folder,
            daemon: (started == Started::Beforehand).then(|| setup.start()),
            state_dir,
            grpc: format!("127.0.0.1:{grpc}"),
            http: format!("127.0.0.1:{http}"),
            endpoint,
            variables,
            registry: None,
            _setup_folder: kept,
        }
    }

    pub(super) fn with_registry(mut self, registry: Registry) -> Self {
        self.registry = Some(registry);
        self
    }

    fn substituted(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (documented, place) in SUBSTITUTED {
            let here = match place {
                Place::Http => self.http.clone(),
                Place::Registry => match &self.registry {
                    Some(registry) => registry.address().to_string(),
                    None => continue,
                },
                Place::Endpoint(scheme) => format!("{scheme}://{}", self.grpc),
                Place::Folder(rest) => self.folder.join(rest).display().to_string(),
                Place::Component(name) => artifacts::component(name).display().to_string(),
            };
            text = text.replace(documented, &here);
        }
        text
    }

    fn shell(&self, script: &str) -> std::process::Output {
        let programs = artifacts::program("casemate");
        let programs = programs.parent().expect("a folder").display().to_string();
        #[expect(clippy::disallowed_methods, reason = "as a person would")]
        let mut command = std::process::Command::new("timeout");
        command
            .args([&SECONDS.to_string(), "sh", "-c", script])
            .current_dir(&self.folder)
            .env_clear()
            .env("PATH", format!("{programs}:/usr/sbin:/usr/bin:/sbin:/bin"))
            .env("HOME", &self.folder)
            .env("CASEMATE_CONFIG", self.folder.join("casemate.toml"))
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        if self.endpoint == Endpoint::Variable {
            command.env("CASEMATE_ENDPOINT", format!("http://{}", self.grpc));
        }
        command.output().expect("a shell")
    }

    /// Runs a line, and gives its exit code and what it said.
    pub(super) fn run(&self, line: &str) -> (Option<i32>, String) {
        let output = self.shell(&format!("exec 2>&1\n{}", self.substituted(line)));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), said)
    }

    /// Runs commands in one shell, and gives what of them is not as documented.
    pub(super) fn play(&self, commands: &[(Command, Shown)]) -> Vec<String> {
        let output = self.shell(&self.script(commands));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut parts = text.split(MARK);
        let mut wrong = Vec::new();
        for (number, (command, shown)) in commands.iter().enumerate() {
            let printed = parts.next().unwrap_or_default();
            let printed = printed.strip_prefix('\n').unwrap_or(printed);
            let code = parts.next();
            let line = &command.line;
            let Some(code) = code else {
                wrong.push(format!("`{line}` did not come to its end: {printed}"));
                break;
            };
            let tells_its_code = commands
                .get(number + 1)
                .is_some_and(|(next, _)| next.line == "echo $?");
            if code != "0" && !tells_its_code {
                wrong.push(format!("`{line}` ended with {code}: {printed}"));
            }
            let documented: Vec<String> = command
                .printed
                .iter()
                .map(|line| self.substituted(line))
                .collect();
            if let Some(differs) = shown::differs(&documented, printed, *shown) {
                wrong.push(format!("`{line}`: {differs}"));
            }
        }
        if !wrong.is_empty() {
            let log = self.folder.join("casemated.log");
            wrong.push(std::fs::read_to_string(log).unwrap_or_default());
        }
        wrong
    }

    fn script(&self, commands: &[(Command, Shown)]) -> String {
        let mut script = String::from(
            "exec 2>&1\nDAEMON=\ntrap '[ -z \"$DAEMON\" ] || { kill $DAEMON; wait $DAEMON; }' EXIT\n",
        );
        for (Command { line, .. }, _) in commands {
            let line = self.substituted(line);
            if DAEMONS.contains(&line.as_str()) {
                let ready = self.state_dir.join("endpoints.json");
                let ready = ready.display();
                script.push_str(&format!(
                    "{line} >>casemated.log 2>&1 & DAEMON=$!\nuntil [ -e {ready} ]; do kill -0 $DAEMON || exit 1; sleep 0.1; done\n"
                ));
            } else if NOT_HERE.iter().any(|(begin, _)| line.starts_with(begin)) {
                script.push_str("true\n");
            } else {
                script.push_str(&line);
                script.push('\n');
            }
            script.push_str("code=$?; printf '\\036%s\\036\\n' $code; (exit $code)\n");
        }
        script
    }

    /// Puts a file into the folder.
    pub(super) fn file(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.folder.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, content).expect("a file");
        let closed = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&path, closed).expect("a mode");
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A block that was cut short may have left its own daemon's.
        self.daemon = None;
        leftovers::end_processes_naming(&self.state_dir);
    }
}
