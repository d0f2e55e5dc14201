//! A launch, while the task goes on listening: the first one, which is given up when its caller
//! leaves or it fails, and later ones, after which the VM is there in any case.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use tokio::sync::{oneshot, watch};

use super::up::Up;
use super::{Courtesy, Expected, Next, Requests, Vm, VmRequest, VmTask, Waiting, answer_all};
use crate::failpoint;
use crate::lease::Demand;
use crate::qemu::process::boot_id;
use crate::spec::lifecycle::{Action, Desired, Phase, Verdict, decide};
use crate::spec::request::{Goal, VmSpec};
use crate::store::{LaunchRecord, ProcessRecord, Progress, RECORD_FORMAT};
use crate::vm::disk;
use crate::vm::error::{ActError, CreateError};
use crate::vm::launch::{self, Course};
use crate::vm::live::Live;
use crate::vm::measuring;
use crate::vm::planning::{self, Planned};
use crate::vm::status::{PlannedStatus, VmState, VmStatus};

/// Why a launch is to end before it has.
enum GivenUp {
    /// Removed, or its caller left.
    Removed,
    Stopped,
    /// The daemon ends, and the VM with it.
    Ended,
    /// The daemon ends.
    Detached,
}

impl VmTask {
    pub(super) async fn create(
        &mut self,
        mut reply: oneshot::Sender<Result<Arc<VmStatus>, CreateError>>,
    ) -> Next {
        let started = Instant::now();
        let live = self.vm.host.live();
        let caller = Some(&mut reply);
        let (launched, _) = launch_and_listen(
            &mut self.vm,
            &mut self.requests,
            &mut self.waiting,
            &live,
            caller,
        )
        .await;
        let outcome = launched
            .as_ref()
            .map_or_else(CreateError::outcome, |_| "running");
        if self.vm.spec.goal == Goal::Guest {
            self.vm.host.metrics.created(outcome, started.elapsed());
        }
        // From now on its secrets lie in its shares alone.
        self.vm.spec = VmSpec::from(&self.vm.record.spec);
        match launched {
            Ok(up) => {
                let up = Next::Up(Box::new(up));
                failpoint::reach("published");
                if reply.send(Ok(self.vm.publisher.current())).is_err() {
                    tracing::info!("the caller is gone: unwinding");
                    return self.unwind(up);
                }
                failpoint::reach("answered");
                up
            }
            Err(error) => {
                match &error {
                    CreateError::Rehearsed => tracing::debug!("it was a dry run"),
                    error => {
                        let error = crate::backend::catalog::chain(error);
                        tracing::warn!(error, "not created");
                    }
                }
                self.give_back().await;
                let _ = reply.send(Err(error));
                Next::End
            }
        }
    }

    /// A VM that nobody was told of goes without ceremony.
    fn unwind(&mut self, up: Next) -> Next {
        self.vm.desire(Desired::Absent);
        if let Next::Up(mut up) = up {
            up.descend(&self.vm, Courtesy::Force);
            return Next::Up(up);
        }
        up
    }

    /// What was asked of the end of its time while a launch had the VM.
    fn set_times(&mut self) {
        for (ttl, reply) in std::mem::take(&mut self.waiting.times) {
            self.vm.set_ttl(ttl, reply);
        }
    }

    pub(super) async fn launch_again(&mut self) -> Next {
        let live = self.vm.host.live();
        self.vm.enter(VmState::Starting);
        let (launched, given_up) = launch_and_listen(
            &mut self.vm,
            &mut self.requests,
            &mut self.waiting,
            &live,
            None,
        )
        .await;
        // A VM that is not to go on has no other end.
        if !matches!(given_up, Some(GivenUp::Removed | GivenUp::Detached)) {
            self.set_times();
        }
        match (launched, given_up) {
            // It runs, and the next daemon finds it.
            (Ok(_), Some(GivenUp::Detached)) => Next::End,
            (Ok(up), _) => {
                answer_all(&mut self.waiting.started, &self.vm.publisher.current());
                Next::Up(Box::new(up))
            }
            (Err(error), given_up) => {
                self.vm.record.progress = Progress::Down;
                self.vm.record.process = None;
                self.vm.reservation = None;
                let reason = crate::backend::catalog::chain(&error);
                self.vm.record.failure = given_up.is_none().then(|| reason.clone());
                self.vm.save();
                let error = Arc::new(error);
                for reply in self.waiting.started.drain(..) {
                    let _ = reply.send(Err(ActError::Start(Arc::clone(&error))));
                }
                match given_up {
                    Some(GivenUp::Removed) => Next::Remove,
                    Some(GivenUp::Detached) => Next::End,
                    Some(GivenUp::Ended | GivenUp::Stopped) => {
                        self.vm.enter(VmState::Stopped);
                        let status = self.vm.publisher.current();
                        answer_all(&mut self.waiting.ended, &status);
                        answer_all(&mut self.waiting.stopped, &status);
                        Next::Down(None)
                    }
                    None => {
                        tracing::warn!(error = reason, "not started");
                        self.vm.enter(VmState::Failed(reason));
                        Next::Down(self.vm.restart_after_failure())
                    }
                }
            }
        }
    }
}

/// Runs a launch and hears requests meanwhile. A removal or a stop ends it wherever it is, and so
/// does a caller who left. The launch is told rather than dropped: it gives back what it holds when
/// QEMU is dead, not before.
async fn launch_and_listen(
    vm: &mut Vm,
    requests: &mut Requests,
    waiting: &mut Waiting,
    live: &Arc<Live>,
    mut caller: Option<&mut oneshot::Sender<Result<Arc<VmStatus>, CreateError>>>,
) -> (Result<Up, CreateError>, Option<GivenUp>) {
    let (cancel, cancelled) = watch::channel(false);
    let id = vm.id;
    let phase = match caller {
        Some(_) => Phase::Creating,
        None => Phase::Starting,
    };
    let mut given_up = None;
    let result = {
        let mut running = std::pin::pin!(vm.launch(live, cancelled));
        loop {
            let left = async {
                match &mut caller {
                    Some(reply) if given_up.is_none() => reply.closed().await,
                    _ => std::future::pending().await,
                }
            };
            let request = tokio::select! {
                biased;
                result = &mut running => break result,
                request = requests.recv() => request,
                () = left => {
                    given_up = Some(GivenUp::Removed);
                    let _ = cancel.send(true);
                    continue;
                }
            };
            match request {
                None | Some(VmRequest::Detach) => {
                    // A removal that was asked for goes on with the next daemon.
                    given_up.get_or_insert(GivenUp::Detached);
                }
                Some(VmRequest::EndWithDaemon { reply, .. }) => {
                    waiting.ended.push(reply);
                    given_up.get_or_insert(GivenUp::Ended);
                }
                Some(VmRequest::Remove(done)) => {
                    waiting.removed.push(done);
                    given_up = Some(GivenUp::Removed);
                }
                Some(VmRequest::SetTtl { ttl, reply }) => {
                    let action = Action::ExtendTtl;
                    match decide(action, phase, &[]) {
                        Verdict::Deny(denial) => {
                            let _ = reply.send(Err(ActError::Denied { id, action, denial }));
                        }
                        // The launch has the record: it is done when that is over.
                        Verdict::Accept | Verdict::Ignore => waiting.times.push((ttl, reply)),
                    }
                    continue;
                }
                Some(VmRequest::Act { action, reply, .. }) => {
                    // A plan's abilities are for VMs that run.
                    match (decide(action, phase, &[]), action) {
                        (Verdict::Accept, Action::Stop) => {
                            waiting.stopped.push(reply);
                            given_up.get_or_insert(GivenUp::Stopped);
                        }
                        (Verdict::Ignore, Action::Start) => {
                            waiting.started.push(reply);
                            continue;
                        }
                        (Verdict::Deny(denial), _) => {
                            let _ = reply.send(Err(ActError::Denied { id, action, denial }));
                            continue;
                        }
                        (Verdict::Accept | Verdict::Ignore, _) => {
                            let _ = reply.send(Err(ActError::Superseded { id, action }));
                            continue;
                        }
                    }
                }
            }
            let _ = cancel.send(true);
        }
    };
    let result = match (result, &given_up) {
        // It was done before it heard.
        (Ok(mut up), Some(GivenUp::Removed | GivenUp::Stopped | GivenUp::Ended)) => {
            let place = up.end_now().await;
            if let Some(place) = place {
                launch::remove_place(&place).await;
            }
            Err(CreateError::Removed)
        }
        (Ok(mut up), Some(GivenUp::Detached)) if phase == Phase::Creating => {
            up.end_now().await;
            Err(CreateError::Closing)
        }
        (Ok(up), _) => Ok(up),
        (Err(CreateError::Removed), Some(GivenUp::Detached | GivenUp::Ended)) => {
            Err(CreateError::Closing)
        }
        (Err(error), _) => Err(error),
    };
    match given_up {
        Some(GivenUp::Stopped) => vm.desire(Desired::Stopped),
        Some(GivenUp::Removed) if phase == Phase::Starting => vm.desire(Desired::Absent),
        _ => {}
    }
    (result, given_up)
}

/// For steps that hold no process: they may simply be dropped.
async fn unless_cancelled<T>(
    cancelled: &watch::Receiver<bool>,
    step: impl Future<Output = Result<T, CreateError>>,
) -> Result<T, CreateError> {
    let mut cancelled = cancelled.clone();
    tokio::select! {
        _ = cancelled.wait_for(|cancelled| *cancelled) => Err(CreateError::Removed),
        result = step => result,
    }
}

impl Vm {
    /// Whether a start now would be measured as the last one was. What else stands in its way is not
    /// asked: a restart that fails says so.
    pub(super) async fn would_be_unchanged(&self) -> Result<(), CreateError> {
        let current = self.publisher.current();
        let before = current.planned.as_ref();
        let Some(before) = before.and_then(|before| before.measurement.clone()) else {
            return Ok(());
        };
        if before.registers.is_empty() {
            return Ok(());
        }
        let live = self.host.live();
        match planning::plan(&self.host, &live, &self.spec).await {
            Ok(planned) => measuring::unchanged(&before, planned.measurement.as_ref()),
            Err(_) => Ok(()),
        }
    }

    async fn launch(
        &mut self,
        live: &Arc<Live>,
        cancelled: watch::Receiver<bool>,
    ) -> Result<Up, CreateError> {
        // Whoever accepted a change accepted it for this start, whatever becomes of it.
        let expected = std::mem::take(&mut self.expected);
        let host = Arc::clone(&self.host);
        let planned = unless_cancelled(&cancelled, planning::plan(&host, live, &self.spec)).await?;
        let status = planned.status();
        let before = self.publisher.current().planned.clone();
        let has_been_planned = before.is_some();
        let measured = before.and_then(|before| before.measurement);
        match (&measured, expected) {
            (Some(measured), Expected::Recorded) => {
                measuring::unchanged(measured, planned.measurement.as_ref())?;
            }
            (None, _) if has_been_planned => {
                tracing::info!(
                    "it was not measured at an earlier start: there is nothing to compare"
                );
            }
            (Some(_), Expected::Any) | (None, _) => {}
        }
        // What is told of it is what it was launched from, until there is a record of another launch.
        let status = PlannedStatus {
            measurement: measured,
            ..status
        };
        self.publisher
            .change(|published| published.planned = Some(status));
        self.reserve(&planned)?;
        self.make_record(&planned)?;
        failpoint::reach("recorded");
        let uid = self.uid.as_ref().map(crate::lease::UidLease::uid);
        let Some(files) = &mut self.files else {
            return Err(CreateError::Internal);
        };
        let has_secrets = has_been_planned && self.record.spec.has_secrets;
        let prepared = launch::prepare(self.id, &self.spec, has_secrets, &planned, files, uid);
        let prepared = unless_cancelled(&cancelled, prepared).await?;
        self.publisher.enter(VmState::Starting);

        self.record.launches += 1;
        self.record.boot_id = boot_id();
        self.record.failure = None;
        self.record.returns = false;
        self.record.progress = match self.record.progress {
            Progress::Creating => Progress::Creating,
            Progress::Starting | Progress::Up | Progress::Down => Progress::Starting,
        };
        self.write_launch(&planned, &prepared.arguments)?;
        let measurement = planned.measurement.clone().map(Arc::new);
        self.publisher.change(|published| {
            if let Some(planned) = &mut published.planned {
                planned.measurement = measurement;
            }
        });
        let number = self.record.launches;
        let port = self.port.take();
        let started_at = Timestamp::now();
        let (files, record) = (self.files.as_ref(), &mut self.record);
        let Some(files) = files else {
            return Err(CreateError::Internal);
        };
        let mut note = |processes: launch::Processes<'_>| -> Result<(), CreateError> {
            record.process = Some(ProcessRecord {
                qemu: processes.qemu.clone(),
                launcher: processes.launcher.cloned(),
                place: processes.place.cloned(),
                started_at,
            });
            Ok(files.record().write(record)?)
        };
        let course = Course {
            goal: self.spec.goal,
            files,
            cancelled,
            record: &mut note,
        };
        let launched =
            launch::start(&host, self.id, number, &planned, prepared, port, course).await?;
        self.commit(launched, started_at).await
    }

    /// All that the plan takes, before anything is spent on it.
    fn reserve(&mut self, planned: &Planned) -> Result<(), CreateError> {
        let plan = planned.checked.plan();
        let mut demand = Demand {
            memory_bytes: planned
                .request
                .memory_bytes
                .saturating_add(plan.memory_overhead_bytes),
            leases: plan.lease_amounts(),
            ..Demand::default()
        };
        match &mut self.reservation {
            // The VM and its vCPUs were counted when it was asked for.
            Some(reservation) => reservation.extend(&demand)?,
            None => {
                demand.vms = 1;
                demand.vcpus = u64::from(planned.request.vcpus);
                self.reservation = Some(self.host.capacity.reserve(demand)?);
            }
        }
        if self.port.is_none()
            && let Some(ports) = &planned.live.ports
        {
            // Another program may have it; QEMU finds out, and then it is the next one.
            self.port = Some(ports.take(&BTreeSet::new())?);
        }
        if self.uid.is_none()
            && let Some(uids) = &self.host.uids
        {
            self.uid = Some(uids.take()?);
        }
        Ok(())
    }

    /// The record comes before everything else, so that nothing is without one.
    fn make_record(&mut self, planned: &Planned) -> Result<(), CreateError> {
        self.record.uid = self.uid.as_ref().map(crate::lease::UidLease::uid);
        // A later start does not choose anew.
        self.record.spec.backend = Some(planned.backend.name().to_owned());
        let disk = disk::image(planned, self.record.spec.disk.as_ref())?;
        self.record.spec.disk.clone_from(&disk);
        self.spec.disk = disk;
        // Later starts take it from here and from nowhere else.
        self.record
            .spec
            .identity
            .clone_from(&planned.request.identity);
        if self.files.is_none() {
            let files = self.host.store.create_record(self.id)?;
            self.console.set(files.record().try_clone()?);
            self.files = Some(files);
        }
        if let Some(files) = &self.files {
            files.record().write(&self.record)?;
        }
        Ok(())
    }

    fn write_launch(&self, planned: &Planned, arguments: &[String]) -> Result<(), CreateError> {
        let status = planned.status();
        let program = planned.checked.knowledge().info.path.display().to_string();
        let command: Vec<String> = std::iter::once(program)
            .chain(arguments.iter().cloned())
            .collect();
        tracing::info!(
            command = crate::qemu::command::shell_line(command.iter().map(String::as_str)),
            "QEMU's command"
        );
        let Some(files) = &self.files else {
            return Ok(());
        };
        files.record().write_launch(&LaunchRecord {
            format: RECORD_FORMAT,
            backend: status.backend,
            backend_sha256: status.backend_sha256,
            tee: status.tee,
            qemu_version: status.qemu_version,
            vcpus: status.vcpus,
            memory_bytes: status.memory_bytes,
            request: planned.request.record(),
            plan: planned.checked.plan().clone(),
            facts: planned.facts.clone(),
            command,
            measurement: planned.measurement.clone(),
        })?;
        self.console.set_launches(self.record.launches);
        Ok(())
    }

    /// The guest runs: from here on the VM outlives the daemon.
    async fn commit(
        &mut self,
        launched: launch::Launched,
        started_at: Timestamp,
    ) -> Result<Up, CreateError> {
        let launch::Launched {
            mut process,
            qmp,
            events,
            place,
            forwarded,
        } = launched;
        let address = forwarded.as_ref().map(|forwarded| forwarded.address);
        self.port = forwarded.and_then(|forwarded| forwarded.lease);
        self.record.progress = Progress::Up;
        self.record.agent_address = address;
        self.record.port = address.map(|address| address.port());
        let written = match &mut self.files {
            Some(files) => files
                .record()
                .write(&self.record)
                .map_err(CreateError::from),
            None => Err(CreateError::Internal),
        };
        let committed =
            written.and_then(|()| process.commit().map_err(|_| CreateError::LauncherGone));
        if let Err(error) = committed {
            process.kill().await;
            if let Some(place) = place {
                launch::remove_place(&place).await;
            }
            return Err(error);
        }
        if let Some(files) = &mut self.files {
            files.keep();
        }
        let pid = process.identity().pid;
        if let Some(sandbox) = process.sandbox() {
            tracing::debug!(?sandbox, "Landlock");
        }
        self.publisher.change(|status| {
            status.agent_address = address;
            status.pid = Some(pid);
            status.started_at = Some(started_at);
        });
        self.publisher.enter(VmState::Running);
        Ok(Up::new(process, Some((qmp, events)), place))
    }
}
