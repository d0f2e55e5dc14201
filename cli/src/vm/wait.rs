//! `vm create --wait`: waits for the guest, not only for QEMU.
//!
//! A guest has booted when something answers at its agent's address. That a connection is accepted
//! says nothing: QEMU's user network accepts it for the guest, and only then asks the guest. So a
//! few bytes are sent that every server answers in its own way, and the answer is not looked at.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use casemate_proto::v1::watch_vms_response::Change;
use casemate_proto::v1::{GetConsoleRequest, Vm, VmState, WatchVmsRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::{Client, Reach, known, reach_of};
use crate::error::CliError;
use crate::plain_text;
use crate::screen::{Screen, Tone};
use crate::vm::state_name;
use crate::waiting::Progress;

/// A server of gRPC without TLS speaks first, and needs no bytes that it would log.
const SPEAKS_FIRST: Duration = Duration::from_millis(300);

/// Enough for an emulated guest; a connection that was begun before it had a network may never be
/// answered, and a new one has to be made.
const ANSWERS: Duration = Duration::from_secs(5);

const PAUSE: Duration = Duration::from_millis(500);

/// The beginning of a handshake that no server of TLS can finish, and answers with an alert; as
/// HTTP, a request that is refused.
const GREETING: &[u8] = b"\x16\x03\x01\x00\x08\x01\x00\x00\x04\r\n\r\n";

/// How often progress is shown, and of the console how much of the end; it is shown for as long as
/// it is at hand, since nothing else happens meanwhile.
const SHOW_INTERVAL: Duration = Duration::from_secs(1);
const CONSOLE_PATIENCE: Duration = Duration::from_millis(800);
const CONSOLE_TAIL: u64 = 512;

/// What the VM as it is now means for who waits.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Booted,
    /// It runs, and more cannot be known from here.
    OutOfReach,
    Ask(String),
    /// It does not run yet.
    Wait,
    Ended,
}

fn step(vm: &Vm, daemon: Reach) -> Step {
    match vm.state() {
        VmState::Running => match vm.agent_address.as_str() {
            "" => Step::Booted,
            address if daemon == Reach::Network && is_loopback(address) => Step::OutOfReach,
            address => Step::Ask(address.to_owned()),
        },
        VmState::Unspecified
        | VmState::Creating
        | VmState::Starting
        | VmState::Paused
        | VmState::Unresponsive
        | VmState::Stopping => Step::Wait,
        VmState::Exited
        | VmState::Failed
        | VmState::Stopped
        | VmState::Removing
        | VmState::Lost => Step::Ended,
    }
}

fn is_loopback(address: &str) -> bool {
    let host = address.parse::<SocketAddr>();
    host.is_ok_and(|address| reach_of(&address.ip().to_string()) == Reach::ThisMachine)
}

pub(super) async fn until_booted(
    mut vm: Vm,
    patience: Duration,
    client: &Client,
    screen: &Screen,
) -> Result<Vm, CliError> {
    let mut client = client.clone().kept_alive();
    let request = WatchVmsRequest { id: vm.id.clone() };
    let mut changes = client.watch_vms(request).await?;
    let mut asked = None;
    let mut answer: Pin<Box<dyn Future<Output = ()>>> = Box::pin(std::future::pending());
    let deadline = tokio::time::sleep(patience);
    tokio::pin!(deadline);
    let mut progress = Progress::new("waiting for the guest to boot");
    let mut show = tokio::time::interval(SHOW_INTERVAL);
    loop {
        match step(&vm, client.reach()) {
            Step::Booted => return Ok(vm),
            Step::OutOfReach => {
                let note = screen.tint_remark("note:", Tone::Attention);
                screen.write_remark(&format!(
                    "{note} {} is an address of the daemon's machine only: the VM runs, and whether \
                     its guest has booted is not known\n",
                    plain_text::stripped(&vm.agent_address)
                ));
                return Ok(vm);
            }
            Step::Ended => return Err(ended(&vm, state_name(vm.state()))),
            Step::Ask(address) if asked.as_ref() != Some(&address) => {
                answer = Box::pin(answered(address.clone()));
                asked = Some(address);
            }
            Step::Ask(_) | Step::Wait => {}
        }
        tokio::select! {
            change = changes.next() => match change? {
                None => return Err(changes.broken_off()),
                Some(change) => match change.change {
                    Some(Change::Vm(now)) => vm = known(now),
                    Some(Change::Removed(_)) => return Err(ended(&vm, "removed")),
                    Some(Change::Synchronized(_)) | None => {}
                }
            },
            () = &mut answer => return client.get_vm(vm.id).await,
            () = &mut deadline => {
                return Err(CliError::AgentSilent {
                    id: vm.id,
                    address: plain_text::stripped(&vm.agent_address),
                    waited: patience,
                });
            }
            _ = show.tick(), if progress.is_seen() => {
                let last = last_line(&mut client, &vm.id);
                let last = tokio::time::timeout(CONSOLE_PATIENCE, last).await;
                progress.show(&last.unwrap_or_default());
            }
        }
    }
}

fn ended(vm: &Vm, state: &'static str) -> CliError {
    CliError::EndedEarly {
        id: plain_text::stripped(&vm.id),
        state,
        detail: vm.detail.clone(),
    }
}

/// Ends with the first answer.
async fn answered(address: String) {
    while !answers(&address).await {
        tokio::time::sleep(PAUSE).await;
    }
}

async fn answers(address: &str) -> bool {
    let asking = async {
        let mut stream = TcpStream::connect(address).await?;
        let mut byte = [0];
        match tokio::time::timeout(SPEAKS_FIRST, stream.read(&mut byte)).await {
            Ok(said) => said,
            Err(_) => {
                stream.write_all(GREETING).await?;
                stream.read(&mut byte).await
            }
        }
    };
    let said = tokio::time::timeout(ANSWERS, asking).await;
    // An end without a byte is what there is where nothing listens in the guest.
    matches!(said, Ok(Ok(1)))
}

/// Nothing where this client may not read consoles.
async fn last_line(client: &mut Client, id: &str) -> String {
    let request = GetConsoleRequest {
        id: id.to_owned(),
        tail_bytes: CONSOLE_TAIL,
        ..GetConsoleRequest::default()
    };
    let mut text = Vec::new();
    if let Ok(mut console) = client.console(request).await {
        while let Ok(Some(piece)) = console.next().await {
            text.extend_from_slice(&piece.data);
        }
    }
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines().map(plain_text::stripped);
    let last = lines.rfind(|line| !line.trim().is_empty());
    last.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn what_is_waited_for_depends_on_state_and_address() {
        let ask = |address: &str| Step::Ask(address.to_owned());
        for (state, address, daemon, expected) in [
            (
                VmState::Running,
                "127.0.0.1:6100",
                Reach::ThisMachine,
                ask("127.0.0.1:6100"),
            ),
            (
                VmState::Running,
                "127.0.0.1:6100",
                Reach::Network,
                Step::OutOfReach,
            ),
            (
                VmState::Running,
                "[::1]:6100",
                Reach::Network,
                Step::OutOfReach,
            ),
            (
                VmState::Running,
                "10.0.0.1:6100",
                Reach::Network,
                ask("10.0.0.1:6100"),
            ),
            (VmState::Running, "", Reach::Network, Step::Booted),
            (VmState::Starting, "", Reach::ThisMachine, Step::Wait),
            (
                VmState::Paused,
                "127.0.0.1:6100",
                Reach::ThisMachine,
                Step::Wait,
            ),
            (VmState::Exited, "", Reach::ThisMachine, Step::Ended),
            (VmState::Failed, "", Reach::ThisMachine, Step::Ended),
            (VmState::Stopped, "", Reach::ThisMachine, Step::Ended),
        ] {
            let vm = Vm {
                state: state.into(),
                agent_address: address.to_owned(),
                ..Vm::default()
            };
            assert_eq!(
                step(&vm, daemon),
                expected,
                "{state:?} {address} {daemon:?}"
            );
        }
    }

    #[derive(Debug, Clone, Copy)]
    enum Server {
        SpeaksFirst,
        Answers,
        HangsUp,
    }

    #[tokio::test]
    async fn only_an_answer_counts() {
        for (server, expected) in [
            (Server::SpeaksFirst, true),
            (Server::Answers, true),
            (Server::HangsUp, false),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let serving = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                match server {
                    Server::SpeaksFirst => stream.write_all(b"hello").await.unwrap(),
                    Server::Answers => {
                        let mut greeting = vec![0; GREETING.len()];
                        stream.read_exact(&mut greeting).await.unwrap();
                        stream.write_all(b"what?").await.unwrap();
                    }
                    Server::HangsUp => {}
                }
            });
            assert_eq!(answers(&address).await, expected, "{server:?}");
            serving.await.unwrap();
        }
        // Nothing listens.
        assert!(!answers("127.0.0.1:1").await);
    }

    #[test]
    fn an_end_is_told_with_its_remedy() {
        let vm = Vm {
            id: "aa11".to_owned(),
            detail: "exited: guest-panic".to_owned(),
            ..Vm::default()
        };
        let error = ended(&vm, "exited");
        assert_eq!(error.to_string(), "VM aa11 is exited: exited: guest-panic");
        let details = error.details().join("\n");
        assert!(details.contains("casemate vm logs aa11"), "{details}");
        assert_eq!(error.exit_code(), 6);
    }
}
