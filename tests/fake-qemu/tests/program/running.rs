//! A machine, real or fake, that a test talks to over QMP.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const UUID: &str = "6f1c8a52-0000-4000-8000-000000000001";
const MONITOR_NUMBER: i32 = 20;
const CONSOLE_NUMBER: i32 = 21;
/// A QEMU answers within milliseconds; a machine that has something else to do takes its time.
const ANSWER_TIME: Duration = Duration::from_secs(20);
/// How long a machine may take to say what it says by itself.
const QUIET_TIME: Duration = Duration::from_millis(400);

#[expect(
    clippy::disallowed_methods,
    reason = "starting the program is the subject of the tests"
)]
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

pub(crate) fn fake() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_fake-qemu"))
}

#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    folder: TempDir,
    client: Option<BufReader<UnixStream>>,
    pub(crate) console: std::io::PipeReader,
    next_id: u64,
    /// What was asked and what came, without times.
    pub(crate) log: Vec<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// A fake with a script beside it, stopped at start.
    pub(crate) fn fake_with(script: &Value) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("fake-qemu.script"), script.to_string())
            .expect("a script");
        let program = folder.path().join("qemu");
        std::os::unix::fs::symlink(fake(), &program).expect("a link");
        Self::start(&program, folder, &["-no-reboot", "-S"])
    }

    pub(crate) fn start(program: &Path, folder: TempDir, arguments: &[&str]) -> Self {
        // Without `append` QEMU truncates, which a pipe refuses.
        let mut all = vec![
            "-chardev",
            "file,id=casemate-console,path=/dev/fdset/7,append=on",
            "-serial",
            "chardev:casemate-console",
        ];
        all.extend(arguments);
        Self::bare(program, folder, &all)
    }

    /// A machine without a console.
    pub(crate) fn bare(program: &Path, folder: TempDir, arguments: &[&str]) -> Self {
        let socket = UnixListener::bind(folder.path().join("qmp")).expect("a socket");
        let (console, console_end) = std::io::pipe().expect("a pipe");
        let mut command = command(program);
        command
            .args(["-name", "guest=x", "-uuid", UUID])
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-accel", "tcg", "-machine", "q35", "-m", "32"])
            .args(["-sandbox", "on,obsolete=deny,spawn=deny"])
            .arg("-chardev")
            .arg(format!(
                "socket,id=casemate-qmp,fd={MONITOR_NUMBER},server=on,wait=off"
            ))
            .args(["-mon", "chardev=casemate-qmp,mode=control"])
            .args(["-netdev", "user,id=n0"])
            .arg("-add-fd")
            .arg(format!("fd={CONSOLE_NUMBER},set=7,opaque=console"))
            .args(arguments)
            .stderr(Stdio::piped())
            .fd_mappings(vec![
                FdMapping {
                    parent_fd: OwnedFd::from(socket),
                    child_fd: MONITOR_NUMBER,
                },
                FdMapping {
                    parent_fd: OwnedFd::from(console_end),
                    child_fd: CONSOLE_NUMBER,
                },
            ])
            .expect("the numbers differ");
        let child = command.spawn().expect("it starts");
        // What the command holds of the descriptors goes with it; the console has one writer then.
        drop(command);
        Self {
            child,
            folder,
            client: None,
            console,
            next_id: 0,
            log: Vec::new(),
        }
    }

    /// The first word of the machine, or `false` where it says none.
    pub(crate) fn connect(&mut self) -> bool {
        self.connect_within(ANSWER_TIME)
    }

    pub(crate) fn connect_within(&mut self, limit: Duration) -> bool {
        self.client = None;
        let Ok(stream) = UnixStream::connect(self.folder.path().join("qmp")) else {
            return false;
        };
        self.client = Some(BufReader::new(stream));
        self.read(limit).is_some()
    }

    pub(crate) fn negotiate(&mut self) {
        if !self.connect() {
            let _ = self.child.kill();
            panic!("no greeting: {}", self.stderr());
        }
        self.ask("qmp_capabilities", json!({}));
    }

    /// The answer, or `None` where the machine closed the monitor.
    pub(crate) fn ask(&mut self, command: &str, arguments: Value) -> Option<Value> {
        self.ask_within(command, arguments, ANSWER_TIME)
    }

    pub(crate) fn ask_within(
        &mut self,
        command: &str,
        arguments: Value,
        limit: Duration,
    ) -> Option<Value> {
        self.next_id += 1;
        self.log.push(format!("> {command} {arguments}"));
        let message = json!({"execute": command, "arguments": arguments, "id": self.next_id});
        let mut stream = self.client.as_ref()?.get_ref();
        stream.write_all(format!("{message}\n").as_bytes()).ok()?;
        let deadline = Instant::now() + limit;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            let message = self.read(left)?;
            if message["id"].as_u64() == Some(self.next_id) {
                return Some(message);
            }
        }
        None
    }

    /// Takes down what the machine says by itself until it hangs up or is quiet.
    pub(crate) fn listen(&mut self) {
        while self.read(QUIET_TIME).is_some() {}
    }

    /// Takes down what the machine says until it has said this.
    pub(crate) fn listen_for(&mut self, event: &str) {
        while let Some(message) = self.read(ANSWER_TIME) {
            if message["event"] == event {
                return;
            }
        }
    }

    fn read(&mut self, limit: Duration) -> Option<Value> {
        let reader = self.client.as_mut()?;
        let timeout = limit.max(Duration::from_millis(1));
        reader
            .get_ref()
            .set_read_timeout(Some(timeout))
            .expect("a time limit");
        let mut line = String::new();
        match reader.read_line(&mut line) {
            Ok(0) => {
                self.log.push("closed".to_owned());
                self.client = None;
                None
            }
            // It may be reset, if it had something of ours unread.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                self.log.push("closed".to_owned());
                self.client = None;
                None
            }
            Err(_) => None,
            Ok(_) => {
                let message: Value = serde_json::from_str(&line).expect("JSON");
                self.log.push(comparable(&message));
                Some(message)
            }
        }
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        self.log.push(format!("-- {signal:?}"));
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a pid");
        kill_process(pid, signal).expect("it lives");
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + ANSWER_TIME;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Takes down how it ended, or that it lives.
    pub(crate) fn note_end(&mut self) {
        let end = if self.client.is_some() {
            "lives".to_owned()
        } else {
            let status = self.wait();
            format!("code {:?} signal {:?}", status.code(), status.signal())
        };
        self.log.push(end);
    }

    pub(crate) fn stderr(&mut self) -> String {
        let mut text = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            stderr.read_to_string(&mut text).expect("text");
        }
        text
    }
}

/// A message without what differs from run to run or between versions of QEMU.
fn comparable(message: &Value) -> String {
    let mut message = message.clone();
    if message.get("QMP").is_some() {
        return "greeting".to_owned();
    }
    if let Some(members) = message.as_object_mut() {
        members.remove("timestamp");
    }
    if let Some(answer) = message.get_mut("return").and_then(Value::as_object_mut) {
        answer.remove("singlestep");
    }
    // QEMU's members have no fixed order.
    message.sort_all_objects();
    message.to_string()
}
