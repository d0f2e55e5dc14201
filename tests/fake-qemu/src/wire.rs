//! The monitor's writing half, and the events that go out on it.

use std::fmt;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

enum Client {
    Stdio,
    Socket(UnixStream),
}

/// The present client, if there is one. Guest, timers and signals write too, hence the lock.
#[derive(Default)]
pub(crate) struct Wire {
    client: Mutex<Option<Client>>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Wire").finish_non_exhaustive()
    }
}

impl Wire {
    pub(crate) fn connect_stdio(&self) {
        self.replace(Some(Client::Stdio));
    }

    pub(crate) fn connect(&self, client: UnixStream) {
        self.replace(Some(Client::Socket(client)));
    }

    pub(crate) fn disconnect(&self) {
        self.replace(None);
    }

    fn replace(&self, client: Option<Client>) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
    }

    /// Hangs up on the client; the reading half sees the end too.
    pub(crate) fn hang_up(&self) {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Client::Socket(stream)) = client.take() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// A client that hung up is noticed by the reading half.
    pub(crate) fn send(&self, message: &Value) {
        let line = format!("{message}\r\n");
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = match client.as_mut() {
            Some(Client::Stdio) => {
                let mut output = std::io::stdout().lock();
                output
                    .write_all(line.as_bytes())
                    .and_then(|()| output.flush())
            }
            Some(Client::Socket(stream)) => stream.write_all(line.as_bytes()),
            None => Ok(()),
        };
    }

    pub(crate) fn event(&self, name: &str) {
        self.send(&event(name));
    }

    pub(crate) fn event_with(&self, name: &str, data: Value) {
        let mut event = event(name);
        event["data"] = data;
        self.send(&event);
    }
}

fn event(name: &str) -> Value {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    json!({
        "timestamp": {
            "seconds": since_epoch.as_secs(),
            "microseconds": since_epoch.subsec_micros(),
        },
        "event": name,
    })
}
