//! A small HTTP client for the agent in the guest.
//!
//! QEMU accepts connections to a forwarded port before the guest listens, so that "connected" says
//! nothing: only a complete answer counts, and everything else is tried again.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::report::Step;
use crate::run::Run;

/// One attempt. The agent answers at once when it is there, so a longer wait gains nothing.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
const PAUSE_BETWEEN_ATTEMPTS: Duration = Duration::from_millis(200);
/// An environment and a line: more than this is not our agent.
const ANSWER_LIMIT: u64 = 256 * 1024;

#[derive(Debug)]
pub(crate) struct Agent {
    address: String,
}

impl Agent {
    pub(crate) fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
        }
    }

    /// The body of `/`, as soon as there is one.
    pub(crate) fn wait_for_body(
        &self,
        run: &Run,
        step: &mut Step<'_>,
        deadline: Duration,
    ) -> Result<String> {
        let address: SocketAddr = self
            .address
            .parse()
            .with_context(|| format!("{:?} is not an address with a port", self.address))?;
        let started = Instant::now();
        loop {
            let error = match get_root(address) {
                Ok(body) => return Ok(body),
                Err(error) => error,
            };
            if started.elapsed() > deadline {
                return Err(error).with_context(|| {
                    format!(
                        "http://{address}/ gave no answer within {} s",
                        deadline.as_secs()
                    )
                });
            }
            step.progress(&format!(
                "the guest boots, {} s",
                started.elapsed().as_secs()
            ));
            run.interrupt.sleep(PAUSE_BETWEEN_ATTEMPTS)?;
        }
    }
}

/// The body of `/`, or why there is none now.
pub(crate) fn get_root(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, ATTEMPT_TIMEOUT)
        .context("nothing accepts connections")?;
    stream
        .set_read_timeout(Some(ATTEMPT_TIMEOUT))
        .and_then(|()| stream.set_write_timeout(Some(ATTEMPT_TIMEOUT)))
        .context("cannot set a time limit")?;
    write!(
        stream,
        "GET / HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .context("the connection was closed")?;
    let mut answer = String::new();
    stream
        .take(ANSWER_LIMIT)
        .read_to_string(&mut answer)
        .context("no complete answer")?;
    body_of(&answer)
}

fn body_of(answer: &str) -> Result<String> {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("no complete answer");
    };
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("the agent answered {status:?}");
    }
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_complete_success_has_a_body() {
        assert_eq!(
            body_of("HTTP/1.0 200 OK\r\nA: b\r\n\r\nhi\n")
                .ok()
                .as_deref(),
            Some("hi\n")
        );
        assert!(body_of("HTTP/1.0 404 Not Found\r\n\r\n").is_err());
        assert!(body_of("").is_err());
    }
}
