//! A QMP client: one connection, one command at a time, every wait with a deadline.
//!
//! The general QMP crates decode events into a closed set and fail on one that a newer QEMU adds;
//! this client reads only what it needs and lets the rest pass.

use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// Deadline of a command on a QEMU that is well: it answers within milliseconds.
pub const COMMAND_TIME: Duration = Duration::from_secs(5);
/// Longest line of an idle QEMU; the schema, the longest answer, has about 300 KiB.
pub const MAX_LINE_IDLE: usize = 8 << 20;
/// Longest line of a VM's QEMU, which may have been taken over: what is asked there is short.
pub const MAX_LINE_VM: usize = 64 << 10;
/// Longest description or reason that is kept.
const MAX_WORDS: usize = 1 << 10;
/// Lifecycle events that may wait for the owner; further ones are dropped.
const EVENT_QUEUE: usize = 64;
/// Answers that may wait: one, and those to commands that nobody waits for any more.
const REPLY_QUEUE: usize = 16;
/// Events that say something about the life of a VM. All others pass unread.
const LIFECYCLE_EVENTS: [&str; 7] = [
    "SHUTDOWN",
    "STOP",
    "RESUME",
    "RESET",
    "POWERDOWN",
    "GUEST_PANICKED",
    "GUEST_CRASHLOADED",
];

#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    #[error("QEMU closed the monitor during {during}")]
    Closed { during: String },
    #[error("QEMU did not answer {during} within {} s", .limit.as_secs())]
    Timeout { during: String, limit: Duration },
    #[error("QEMU refused {command}: {description}")]
    Refused {
        command: String,
        description: String,
    },
    #[error("QEMU's answer to {during} is not QMP: {what}")]
    Protocol { during: String, what: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QmpEvent {
    pub name: String,
    /// `reason` of a SHUTDOWN.
    pub reason: Option<String>,
}

/// A connection past the capabilities handshake. Commands of several callers go one after the other.
#[derive(Debug)]
pub struct Qmp {
    exchange: Mutex<Exchange>,
    heard: watch::Receiver<u64>,
    /// Ends with this: a peer that says nothing would hold it for ever.
    _reader: AbortOnDropHandle<()>,
    version: String,
}

/// What QEMU says unasked; ends when QEMU closes the connection.
#[derive(Debug)]
pub struct QmpEvents(mpsc::Receiver<QmpEvent>);

impl QmpEvents {
    /// The next lifecycle event; `None` when QEMU closed the connection. Cancel-safe.
    pub async fn next(&mut self) -> Option<QmpEvent> {
        self.0.recv().await
    }
}

#[derive(Debug)]
struct Exchange {
    writer: Box<dyn Writer>,
    replies: mpsc::Receiver<Json>,
    next_id: u64,
}

trait Writer: AsyncWrite + Send + Unpin + std::fmt::Debug {}
impl<T: AsyncWrite + Send + Unpin + std::fmt::Debug> Writer for T {}

impl Qmp {
    /// Waits for the greeting and negotiates capabilities.
    pub async fn connect<R, W>(
        read: R,
        write: W,
        greeting_time: Duration,
        max_line: usize,
    ) -> Result<(Self, QmpEvents), QmpError>
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + std::fmt::Debug + 'static,
    {
        let (reply_sender, mut replies) = mpsc::channel(REPLY_QUEUE);
        let (event_sender, events) = mpsc::channel(EVENT_QUEUE);
        let (heard_sender, heard) = watch::channel(0);
        let reader = AbortOnDropHandle::new(tokio::spawn(async move {
            read_lines(read, max_line, reply_sender, event_sender, heard_sender).await;
        }));
        let during = || "the greeting".to_owned();
        let greeting = match timeout(greeting_time, replies.recv()).await {
            Err(_) => {
                return Err(QmpError::Timeout {
                    during: during(),
                    limit: greeting_time,
                });
            }
            Ok(None) => return Err(QmpError::Closed { during: during() }),
            Ok(Some(greeting)) => greeting,
        };
        let version = &greeting["QMP"]["version"]["qemu"];
        let (Some(major), Some(minor), Some(micro)) = (
            version["major"].as_u64(),
            version["minor"].as_u64(),
            version["micro"].as_u64(),
        ) else {
            return Err(QmpError::Protocol {
                during: during(),
                what: shorten(&greeting),
            });
        };
        let qmp = Self {
            exchange: Mutex::new(Exchange {
                writer: Box::new(write),
                replies,
                next_id: 0,
            }),
            heard,
            _reader: reader,
            version: format!("{major}.{minor}.{micro}"),
        };
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok((qmp, QmpEvents(events)))
    }

    /// QEMU's version as the greeting gave it.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Runs one command within `COMMAND_TIME`.
    pub async fn execute(&self, command: &str, arguments: Json) -> Result<Json, QmpError> {
        self.execute_within(command, arguments, COMMAND_TIME).await
    }

    /// Runs one command. The time of those before it counts too.
    pub async fn execute_within(
        &self,
        command: &str,
        arguments: Json,
        limit: Duration,
    ) -> Result<Json, QmpError> {
        let closed = || QmpError::Closed {
            during: command.to_owned(),
        };
        let exchange = async {
            let mut exchange = self.exchange.lock().await;
            exchange.next_id += 1;
            let id = exchange.next_id;
            let mut line =
                json!({"execute": command, "arguments": arguments, "id": id}).to_string();
            line.push('\n');
            exchange
                .writer
                .write_all(line.as_bytes())
                .await
                .map_err(|_| closed())?;
            exchange.writer.flush().await.map_err(|_| closed())?;
            // An answer to an earlier command that came too late is not this one's.
            loop {
                let reply = exchange.replies.recv().await.ok_or_else(closed)?;
                if reply["id"].as_u64() == Some(id) {
                    return Ok(reply);
                }
            }
        };
        let mut reply: Json = timeout(limit, exchange)
            .await
            .map_err(|_| QmpError::Timeout {
                during: command.to_owned(),
                limit,
            })??;
        if let Some(error) = reply.get("error") {
            let description = error["desc"].as_str().unwrap_or("no description");
            return Err(QmpError::Refused {
                command: command.to_owned(),
                description: shorten_words(description),
            });
        }
        match reply.get_mut("return") {
            Some(value) => Ok(value.take()),
            None => Err(QmpError::Protocol {
                during: command.to_owned(),
                what: shorten(&reply),
            }),
        }
    }

    /// Changes with each message of QEMU. Whoever got no answer waits for a sign of life here
    /// rather than ask again: a QEMU that is stopped reads nothing, and its socket would fill up.
    pub fn heard(&self) -> watch::Receiver<u64> {
        self.heard.clone()
    }
}

fn shorten_words(text: &str) -> String {
    crate::spec::printable_start(text, MAX_WORDS)
}

fn shorten(json: &Json) -> String {
    json.to_string().chars().take(200).collect()
}

async fn read_lines<R: AsyncRead + Unpin>(
    read: R,
    max_line: usize,
    replies: mpsc::Sender<Json>,
    events: mpsc::Sender<QmpEvent>,
    heard: watch::Sender<u64>,
) {
    let mut read = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = tokio::io::AsyncReadExt::take(&mut read, max_line as u64);
        match limited.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) if !line.ends_with(b"\n") => return,
            Ok(_) => {}
        }
        // A line that is no JSON ends the connection: nothing after it can be trusted.
        let Ok(message) = serde_json::from_slice::<Json>(&line) else {
            return;
        };
        heard.send_modify(|count| *count += 1);
        if let Some(name) = message["event"].as_str() {
            if LIFECYCLE_EVENTS.contains(&name) {
                let event = QmpEvent {
                    name: name.to_owned(),
                    reason: message["data"]["reason"].as_str().map(shorten_words),
                };
                // A full queue means that the owner is stuck; dropping keeps replies flowing.
                if events.try_send(event).is_err() {
                    tracing::debug!(event = name, "QMP event dropped");
                }
            }
        } else if message["id"].is_null() && message.get("QMP").is_none() {
            // No answer to a command of ours: QEMU could not read one, which nothing mends.
            tracing::debug!("QEMU answers what nobody asked");
        } else if let Err(mpsc::error::TrySendError::Closed(_)) = replies.try_send(message) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer that says `script` whatever it is told. QEMU itself cannot be made to misbehave so.
    async fn talk(script: &'static [u8]) -> Result<Json, QmpError> {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        theirs.write_all(script).await.unwrap();
        let (read, write) = tokio::io::split(ours);
        let connected = Qmp::connect(read, write, Duration::from_secs(1), MAX_LINE_VM).await;
        let (qmp, _events) = connected?;
        let limit = Duration::from_millis(50);
        let answer = qmp.execute_within("query-status", json!({}), limit).await;
        drop(theirs);
        answer
    }

    const GREETING: &str = r#"{"QMP":{"version":{"qemu":{"major":10,"minor":0,"micro":2},"package":""},"capabilities":[]}}"#;

    #[tokio::test]
    async fn a_misbehaving_peer_is_a_typed_error() {
        let script = |tail: &str| -> &'static [u8] {
            format!("{GREETING}\n{{\"return\":{{}},\"id\":1}}\n{tail}")
                .leak()
                .as_bytes()
        };
        assert!(matches!(talk(b"").await, Err(QmpError::Timeout { .. })));
        assert!(matches!(
            talk(b"hello\n").await,
            Err(QmpError::Closed { .. })
        ));
        assert!(matches!(
            talk(b"{\"QMP\":{}}\n").await,
            Err(QmpError::Protocol { .. })
        ));
        assert!(matches!(
            talk(script("")).await,
            Err(QmpError::Timeout { .. })
        ));
        assert!(matches!(
            talk(script("\x00\n")).await,
            Err(QmpError::Closed { .. })
        ));
        let refused = script("{\"error\":{\"class\":\"X\",\"desc\":\"no\\u001b\"},\"id\":2}\n");
        match talk(refused).await {
            Err(QmpError::Refused { description, .. }) => assert_eq!(description, "no\u{fffd}"),
            other => panic!("{other:?}"),
        }
        // Events and late answers in between do not disturb.
        let noisy = script(
            "{\"event\":\"NEW_IN_QEMU_99\",\"data\":{}}\n{\"return\":0,\"id\":1}\n{\"return\":{\"status\":\"running\"},\"id\":2}\n",
        );
        assert_eq!(talk(noisy).await.unwrap()["status"], "running");
    }
}
