//! A VM without a QEMU: it keeps its disk, its console and its record, and waits for what it is
//! told, for its restart or for the end of its time.

use std::time::{Duration, Instant};

use super::{Next, RestartCount, Vm, VmRequest, VmTask};
use crate::spec::lifecycle::{Action, Desired, Verdict};
use crate::spec::request::RestartPolicy;
use crate::vm::error::ActError;
use crate::vm::status::VmState;

/// Delay before the first restart; it doubles with each one after.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(300);
/// A VM that ran this long was well: its next restart is a first one again.
pub(super) const HEALTHY_TIME: Duration = Duration::from_secs(600);

impl RestartCount {
    /// Delay before the next restart.
    fn next_delay(&mut self) -> Duration {
        let delay = FIRST_DELAY.saturating_mul(1 << self.0.min(16));
        self.0 = self.0.saturating_add(1);
        delay.min(LONGEST_DELAY)
    }

    pub(super) fn ran_for(&mut self, time: Duration) {
        if time >= HEALTHY_TIME {
            self.0 = 0;
        }
    }
}

/// The guest shut itself down, or let itself be shut down.
fn is_clean(shutdown: Option<&str>) -> bool {
    shutdown == Some("guest-shutdown")
}

impl Vm {
    /// When the policy starts the VM again after its QEMU ended by itself.
    pub(super) fn restart_after_exit(&mut self, shutdown: Option<&str>) -> Option<Instant> {
        let restarts = match self.record.spec.restart_policy {
            RestartPolicy::Never => false,
            RestartPolicy::OnFailure => !is_clean(shutdown),
            RestartPolicy::Always => true,
        };
        restarts.then(|| self.schedule())
    }

    /// When the policy tries again after a start that failed.
    pub(super) fn restart_after_failure(&mut self) -> Option<Instant> {
        (self.record.spec.restart_policy != RestartPolicy::Never).then(|| self.schedule())
    }

    /// When the policy starts a VM that the last daemon left down, or that came down without one.
    /// The delays begin anew.
    pub(super) fn restart_of_found(&mut self) -> Option<Instant> {
        match (&self.record.failure, self.record.last_exit.clone()) {
            // No failure, and no end of its own.
            (None, Some(exit)) if exit.was_with_daemon() => {
                let restarts = self.record.spec.restart_policy == RestartPolicy::Always;
                restarts.then(|| self.schedule())
            }
            (None, Some(exit)) => self.restart_after_exit(exit.shutdown.as_deref()),
            (Some(_), _) | (None, None) => self.restart_after_failure(),
        }
    }

    fn schedule(&mut self) -> Instant {
        let delay = self.restarts.next_delay();
        tracing::info!(?delay, "to be started again");
        Instant::now() + delay
    }
}

impl VmTask {
    pub(super) async fn down(&mut self, restart: Option<Instant>) -> Next {
        loop {
            let due = async {
                match restart {
                    Some(time) => tokio::time::sleep_until(time.into()).await,
                    None => std::future::pending().await,
                }
            };
            let request = tokio::select! {
                biased;
                request = self.requests.recv() => request,
                () = self.vm.save_due() => {
                    self.vm.save();
                    continue;
                }
                () = self.vm.expired() => {
                    tracing::info!("its time to live is over");
                    return Next::Remove;
                }
                () = due => {
                    self.vm.record.restarts = self.vm.record.restarts.saturating_add(1);
                    let restarts = self.vm.record.restarts;
                    self.vm.publisher.change(|status| status.restarts = restarts);
                    return Next::Launch;
                }
            };
            let (action, expected, reply) = match request {
                None | Some(VmRequest::Detach) => return Next::End,
                Some(VmRequest::EndWithDaemon { reply, .. }) => {
                    let _ = reply.send(Ok(self.vm.publisher.current()));
                    // Nothing is started any more.
                    return Next::Down(None);
                }
                Some(VmRequest::Remove(done)) => {
                    self.waiting.removed.push(done);
                    return Next::Remove;
                }
                Some(VmRequest::SetTtl { ttl, reply }) => {
                    self.vm.set_ttl(ttl, reply);
                    continue;
                }
                Some(VmRequest::Act {
                    action,
                    expected,
                    reply,
                    ..
                }) => (action, expected, reply),
            };
            match (self.vm.judge(action), action) {
                (Verdict::Accept, Action::Start | Action::Restart) => {
                    self.vm.expected = expected;
                    self.vm.desire(Desired::Running);
                    self.vm.restarts = RestartCount::default();
                    self.waiting.started.push(reply);
                    return Next::Launch;
                }
                (Verdict::Accept | Verdict::Ignore, Action::Stop) => {
                    self.vm.desire(Desired::Stopped);
                    self.vm.enter(VmState::Stopped);
                    let _ = reply.send(Ok(self.vm.publisher.current()));
                    return Next::Down(None);
                }
                (Verdict::Ignore, _) => {
                    let _ = reply.send(Ok(self.vm.publisher.current()));
                }
                (verdict @ (Verdict::Accept | Verdict::Deny(_)), _) => {
                    let error: ActError = self.vm.denied(action, verdict);
                    let _ = reply.send(Err(error));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_come_ever_later_up_to_a_limit_and_a_healthy_run_forgets_them() {
        let mut count = RestartCount::default();
        let delays: Vec<u64> = (0..11).map(|_| count.next_delay().as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        count.ran_for(HEALTHY_TIME - Duration::from_secs(1));
        assert_eq!(count.next_delay(), LONGEST_DELAY);
        count.ran_for(HEALTHY_TIME);
        assert_eq!(count.next_delay(), FIRST_DELAY);
        let mut many = RestartCount(u32::MAX);
        assert_eq!(many.next_delay(), LONGEST_DELAY);
    }
}
