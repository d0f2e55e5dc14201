//! What the service manager is told: sd_notify(3).
//!
//! The protocol is a datagram of a few lines. It is written here because the socket comes from
//! `config::environment`, and the crates for it read the environment themselves. A message that
//! cannot be sent is logged and nothing else: the daemon serves all the same, and systemd's own
//! deadlines decide.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use crate::config::environment::ServiceManager;

/// Tells the service manager, or nobody.
#[derive(Clone, Debug, Default)]
pub struct Notifier {
    connection: Option<Arc<Connection>>,
    watchdog: Option<Duration>,
}

#[derive(Debug)]
struct Connection {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Notifier {
    pub fn new(given: &ServiceManager) -> Self {
        let Some(name) = &given.notify_socket else {
            return Self::default();
        };
        let bytes = name.as_bytes();
        let address = match bytes {
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
            [b'/', ..] => SocketAddr::from_pathname(name),
            _ => Err(io::Error::other("neither a path nor an abstract name")),
        };
        match address.and_then(Connection::new) {
            Ok(connection) => Self {
                connection: Some(Arc::new(connection)),
                watchdog: given.watchdog,
            },
            Err(error) => {
                tracing::warn!(?name, %error, "the service manager is not told anything");
                Self::default()
            }
        }
    }

    /// The listeners serve, or a reload has ended.
    pub fn ready(&self, status: &str) {
        // A line break would begin another assignment.
        let status = crate::spec::printable(status);
        self.send(&format!("READY=1\nSTATUS={status}\n"));
    }

    /// The time lets systemd tell this reload from one that it asked for before.
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.send(&format!(
            "RELOADING=1\nMONOTONIC_USEC={microseconds}\nSTATUS=Reading the config\n"
        ));
    }

    /// The service manager waits as long as VMs may take to stop, and not only for its usual time.
    pub fn stopping(&self, within: Duration) {
        let microseconds = within.as_micros();
        self.send(&format!(
            "STOPPING=1\nEXTEND_TIMEOUT_USEC={microseconds}\nSTATUS=Stopping\n"
        ));
    }

    /// Says that the daemon lives, twice in each period that systemd waits. It never ends, and is to
    /// be a task of the runtime that everything else runs on: where that is stuck, so is this.
    pub async fn keep_watchdog(self) {
        let Some(period) = self.watchdog else {
            return std::future::pending().await;
        };
        // A period of zero would be no wait at all.
        let mut pulse = tokio::time::interval((period / 2).max(Duration::from_millis(1)));
        pulse.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            pulse.tick().await;
            self.send("WATCHDOG=1\n");
        }
    }

    fn send(&self, message: &str) {
        let Some(connection) = &self.connection else {
            return;
        };
        let sent = connection
            .socket
            .send_to_addr(message.as_bytes(), &connection.address);
        if let Err(error) = sent {
            let first = message.lines().next().unwrap_or_default();
            tracing::warn!(message = first, %error, "the service manager is not told");
        }
    }
}

impl Connection {
    fn new(address: SocketAddr) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        // A service manager that does not read must not hold the daemon.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> (UnixDatagram, tempfile::TempDir, ServiceManager) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a timeout");
        let given = ServiceManager {
            notify_socket: Some(path.into_os_string()),
            watchdog: Some(Duration::from_millis(20)),
        };
        (socket, folder, given)
    }

    fn received(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 512];
        let length = socket.recv(&mut bytes).expect("a message");
        String::from_utf8(bytes[..length].to_vec()).expect("text")
    }

    #[test]
    fn each_state_is_one_message_of_assignments() {
        let (socket, _folder, given) = listener();
        let notifier = Notifier::new(&given);
        notifier.ready("3 backends\nMAINPID=1");
        assert_eq!(
            received(&socket),
            "READY=1\nSTATUS=3 backends MAINPID=1\n",
            "a status is one line"
        );
        notifier.reloading();
        let message = received(&socket);
        let time = message
            .lines()
            .find_map(|line| line.strip_prefix("MONOTONIC_USEC="))
            .expect("a time");
        assert!(message.starts_with("RELOADING=1\n"), "{message}");
        assert!(time.parse::<u64>().expect("a number") > 0);
        notifier.stopping(Duration::from_secs(90));
        let message = received(&socket);
        assert!(message.starts_with("STOPPING=1\n"), "{message}");
        let wanted = "EXTEND_TIMEOUT_USEC=90000000\n";
        assert!(message.contains(wanted), "{message}");
    }

    #[test]
    fn an_abstract_name_is_reached() {
        let name = format!("casemate-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("a socket");
        let given = ServiceManager {
            notify_socket: Some(format!("@{name}").into()),
            watchdog: None,
        };
        Notifier::new(&given).stopping(Duration::from_secs(90));
        assert!(received(&socket).starts_with("STOPPING=1\n"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_watchdog_is_fed_until_its_task_ends() {
        let (socket, _folder, given) = listener();
        let task = tokio::spawn(Notifier::new(&given).keep_watchdog());
        for _ in 0..3 {
            assert_eq!(received(&socket), "WATCHDOG=1\n");
        }
        task.abort();
        let _ = task.await;
        socket.set_nonblocking(true).expect("a mode");
        // What was sent before the end may still be there.
        while socket.recv(&mut [0; 64]).is_ok() {}
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(socket.recv(&mut [0; 64]).is_err());
    }

    #[test]
    fn without_a_service_manager_nothing_is_said() {
        for name in [None, Some("vsock:2:1".into()), Some("relative".into())] {
            let notifier = Notifier::new(&ServiceManager {
                notify_socket: name,
                watchdog: None,
            });
            assert!(notifier.connection.is_none());
            notifier.ready("");
        }
    }
}
