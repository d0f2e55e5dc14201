//! A process that does on a socket what it is told, where it was put.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use casemate_host::confine::{Outbound, Place};

/// What libtest calls `serve`.
const SERVE: &str = "confine::probe::serve";
/// Before each answer, because libtest prints too.
const MARK: &str = "probe: ";
/// Long enough for a connection on this machine, short against TCP's second try at one second.
const PATIENCE: Duration = Duration::from_millis(700);
/// What a listener says, so that both directions are seen.
const GREETING: &[u8] = b"here";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    /// EPERM, at once.
    Denied,
    TimedOut,
    Failed(std::io::ErrorKind),
}

/// The process; it ends with this value.
pub(crate) struct Probe {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Probe {
    /// In the network of this process.
    pub(crate) fn here() -> Self {
        Self::start(&[])
    }

    /// `wrapper` is a command that executes the one behind it.
    pub(crate) fn start(wrapper: &[&str]) -> Self {
        let this = std::env::current_exe().expect("a test knows its own path");
        let this = this.to_str().expect("a path of this workspace");
        let arguments = [this, SERVE, "--exact", "--ignored", "--nocapture"];
        let words: Vec<&str> = wrapper.iter().copied().chain(arguments).collect();
        #[expect(clippy::disallowed_methods, reason = "the subject of the test")]
        let mut command = Command::new(words[0]);
        let mut child = command
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let input = child.stdin.take().expect("a pipe");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut probe = Self {
            child,
            input,
            output,
        };
        // It is there, and it is the program itself and no longer the wrapper.
        assert_eq!(probe.ask("nothing"), Answer::Done);
        probe
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn ask(&mut self, question: &str) -> Answer {
        match self.ask_for_text(question).as_str() {
            "Done" => Answer::Done,
            "Denied" => Answer::Denied,
            "TimedOut" => Answer::TimedOut,
            other => panic!("{question}: {other}"),
        }
    }

    fn ask_for_text(&mut self, question: &str) -> String {
        writeln!(self.input, "{question}").expect("it listens");
        loop {
            let mut line = String::new();
            let length = self.output.read_line(&mut line).expect("text");
            assert!(length > 0, "it ended at {question:?}");
            // What libtest printed stands on the same line.
            if let Some((_, answer)) = line.split_once(MARK) {
                return answer.trim_end().to_owned();
            }
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "no test: the process that other tests start"]
fn serve() {
    for line in std::io::stdin().lines() {
        let line = line.expect("text");
        let (verb, what) = line.split_once(' ').unwrap_or((&line, ""));
        let address = || what.parse::<SocketAddr>().expect("an address");
        let done = match verb {
            "nothing" => Ok(()),
            "tcp" => connect(address()),
            "udp" => send(address()),
            "listen" => listen(address()),
            "filter" => {
                let place = Place {
                    cgroup: what.into(),
                    unit: None,
                };
                place
                    .filter_outbound(&Outbound::default())
                    .map_err(std::io::Error::other)
            }
            other => panic!("{other:?} is no verb"),
        };
        let answer = match done {
            Ok(()) => Answer::Done,
            Err(error) => match error.kind() {
                std::io::ErrorKind::PermissionDenied => Answer::Denied,
                std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => Answer::TimedOut,
                kind => {
                    eprintln!("{line}: {error}");
                    Answer::Failed(kind)
                }
            },
        };
        println!("{MARK}{answer:?}");
    }
}

/// Connected is who hears what the other side says.
fn connect(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut heard = [0; GREETING.len()];
    stream.read_exact(&mut heard)?;
    assert_eq!(heard, GREETING);
    Ok(())
}

fn send(address: SocketAddr) -> std::io::Result<()> {
    let any = match address {
        SocketAddr::V4(_) => "0.0.0.0:0",
        SocketAddr::V6(_) => "[::]:0",
    };
    let socket = UdpSocket::bind(any)?;
    if address.is_ipv4() {
        socket.set_broadcast(true)?;
    }
    socket.send_to(GREETING, address).map(drop)
}

/// Until the process ends.
fn listen(address: SocketAddr) -> std::io::Result<()> {
    let listener = bind(address)?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(GREETING);
        }
    });
    Ok(())
}

/// IPv6 only where that is asked for, so that both can have the same port.
fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket(family, SocketType::STREAM, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &address)?;
    listen(&socket, 16)?;
    Ok(socket.into())
}
