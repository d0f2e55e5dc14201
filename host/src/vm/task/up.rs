//! A VM with a QEMU: watched, asked, and led down a ladder when it is to end. Whatever QEMU does or
//! does not do, the task goes on listening.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::process::Signal;
use serde_json::{Value as Json, json};
use tokio::sync::watch;

use super::{Courtesy, Expected, Next, Reply, Vm, VmRequest, VmTask, answer_all};
use crate::confine::Place;
use crate::qemu::process::Exit;
use crate::qemu::qmp::{Qmp, QmpError, QmpEvent, QmpEvents};
use crate::qemu::vm_process::QemuProcess;
use crate::spec::lifecycle::{Action, Desired, Verdict};
use crate::spec::plan::Ability;
use crate::store::{ExitRecord, Progress, RecordFolder, WITH_DAEMON};
use crate::vm::error::ActError;
use crate::vm::launch;
use crate::vm::status::{VmState, exit_label};

/// How often QEMU is asked how it is, and how long it may take to answer.
const BEAT_INTERVAL: Duration = Duration::from_secs(5);
const BEAT_TIME: Duration = Duration::from_secs(2);
/// How long a QEMU that closed its monitor may take to end.
const END_TIME: Duration = Duration::from_secs(1);
/// Between an event and the question that it leads to: many at once lead to one.
const EVENT_PAUSE: Duration = Duration::from_millis(20);
/// QEMU's own names of states are shorter; one that was taken over says what it likes.
const MAX_STATE: usize = 64;
/// Between two attempts to reach a monitor that was closed.
const RECONNECT_INTERVAL: Duration = Duration::from_secs(1);
/// QEMU's own way out takes milliseconds.
const QUIT_TIME: Duration = Duration::from_secs(5);
const TERMINATE_TIME: Duration = Duration::from_secs(5);
/// A killed process with much memory may take the kernel long to take apart; it is told again only
/// to have it in the log.
const KILL_TIME: Duration = Duration::from_secs(60);
/// How long the rest of a monitor is read after QEMU's end.
const LAST_EVENTS: Duration = Duration::from_secs(1);
/// A reset is done within milliseconds.
const RESET_TIME: Duration = Duration::from_secs(5);
/// How long firmware may take to reset the machine once more: SeaBIOS does that after each reset that
/// it did not make itself, 0.1 s after it, and other firmware never does.
const FIRMWARE_TIME: Duration = Duration::from_secs(10);
/// After a reset by the firmware it may try once more: on a machine whose processors are busy SeaBIOS
/// was seen to. No guest boots and resets itself in this time.
const FIRMWARE_AGAIN: Duration = Duration::from_secs(1);

/// A QEMU that is up.
pub(in crate::vm) struct Up {
    process: QemuProcess,
    qmp: Option<Arc<Qmp>>,
    events: Option<QmpEvents>,
    place: Option<Place>,
    beat: Pin<Box<dyn Future<Output = Beat> + Send>>,
    ladder: Option<Ladder>,
    /// `reason` of the last SHUTDOWN event.
    shutdown: Option<String>,
    since: Instant,
    /// An event has led to a question, which is not answered yet; another one came meanwhile.
    question: Question,
    /// The guest may reset itself until then; afterwards QEMU is to be told that it may not.
    resets_until: Option<Instant>,
}

impl std::fmt::Debug for Up {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Up")
            .field("process", &self.process)
            .field("ladder", &self.ladder)
            .finish_non_exhaustive()
    }
}

/// What came of asking QEMU how it is.
enum Beat {
    Answered(Json),
    /// No answer in time.
    Silent,
    /// The monitor is closed.
    Closed,
    /// It was closed, and QEMU did not end.
    StaysClosed,
    Connected(Qmp, QmpEvents),
}

/// What events ask for. A QEMU that sends them without end is asked as often as it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Question {
    #[default]
    Regular,
    Asked,
    /// And once more after the answer.
    Again,
}

/// The way down. Each step has its time; after the last one there is only waiting.
#[derive(Clone, Copy, Debug)]
struct Ladder {
    step: Step,
    until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    PowerButton,
    Quit,
    Terminate,
    Kill,
}

/// Everything that can happen to a VM that is up.
enum UpEvent {
    Exited(Exit),
    Qmp(Option<QmpEvent>),
    Request(Option<VmRequest>),
    Expired,
    SaveDue,
    LadderDue,
    Beat(Beat),
}

impl Up {
    /// `monitor`: none where QEMU does not answer; it is tried again.
    pub(in crate::vm) fn new(
        process: QemuProcess,
        monitor: Option<(Qmp, QmpEvents)>,
        place: Option<Place>,
    ) -> Self {
        let (qmp, events) = monitor.map_or((None, None), |(qmp, events)| (Some(qmp), Some(events)));
        let mut up = Self {
            process,
            qmp: qmp.map(Arc::new),
            events,
            place,
            beat: Box::pin(std::future::pending()),
            ladder: None,
            shutdown: None,
            since: Instant::now(),
            question: Question::default(),
            resets_until: None,
        };
        up.beat_after(BEAT_INTERVAL);
        up
    }

    /// Asks QEMU how it is after a while.
    fn beat_after(&mut self, wait: Duration) {
        let Some(qmp) = self.qmp.clone() else {
            return;
        };
        self.beat = Box::pin(async move {
            tokio::time::sleep(wait).await;
            ask(qmp).await
        });
    }

    /// Until it is asked again: no longer than until its guest may no more reset itself.
    fn next_beat(&self) -> Duration {
        let until = self.resets_until;
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        match left {
            Some(left) if !left.is_zero() => left.min(BEAT_INTERVAL),
            _ => BEAT_INTERVAL,
        }
    }

    /// An event says that something has changed.
    fn look_after_event(&mut self) {
        self.question = match self.question {
            Question::Regular => {
                self.beat_after(EVENT_PAUSE);
                Question::Asked
            }
            Question::Asked | Question::Again => Question::Again,
        };
    }

    /// Asks QEMU at once how it is.
    pub(in crate::vm) fn look(&mut self) {
        self.beat_after(Duration::ZERO);
    }

    /// The daemon that started this QEMU may have died in the middle of a reset.
    pub(in crate::vm) fn forbid_resets(&mut self) {
        self.resets_until = Some(Instant::now());
    }

    /// Waits for a sign of life of a QEMU that did not answer, and asks it then.
    fn beat_after_sign(&mut self) {
        let Some(qmp) = self.qmp.clone() else {
            return;
        };
        self.beat = Box::pin(async move {
            let mut heard: watch::Receiver<u64> = qmp.heard();
            heard.mark_unchanged();
            match heard.changed().await {
                Ok(()) => ask(qmp).await,
                Err(_) => Beat::Closed,
            }
        });
    }

    /// Tries to reach the monitor again. QEMU takes one client at a time, and the next one when
    /// that left.
    pub(in crate::vm) fn reconnect(&mut self, record: Option<RecordFolder>) {
        self.qmp = None;
        self.events = None;
        let Some(record) = record else {
            self.beat = Box::pin(async {
                tokio::time::sleep(RECONNECT_INTERVAL).await;
                Beat::StaysClosed
            });
            return;
        };
        self.beat = Box::pin(async move {
            loop {
                tokio::time::sleep(RECONNECT_INTERVAL).await;
                // A QEMU that stands still takes the connection and says nothing: no deadline is
                // short enough to ask again sooner.
                match launch::connect(&record, Duration::from_secs(3_600)).await {
                    Ok((qmp, events)) => return Beat::Connected(qmp, events),
                    Err(error) => tracing::debug!(%error, "the monitor stays closed"),
                }
            }
        });
    }

    /// Begins the way down, or takes it faster.
    pub(super) fn descend(&mut self, vm: &Vm, courtesy: Courtesy) {
        let can_power_down = vm.abilities().contains(&Ability::Powerdown);
        let is_silent = matches!(vm.publisher.current().state, VmState::Unresponsive(_));
        let first = match courtesy {
            // Who does not answer does not hear either.
            _ if is_silent => Step::Terminate,
            Courtesy::Ask if can_power_down => Step::PowerButton,
            Courtesy::Ask | Courtesy::Force => Step::Quit,
        };
        let is_further = self
            .ladder
            .is_some_and(|ladder| ladder.step as u8 >= first as u8);
        if !is_further {
            self.step(vm, first);
        }
    }

    fn step(&mut self, vm: &Vm, step: Step) {
        vm.enter(VmState::Stopping);
        tracing::debug!(?step, "on the way down");
        let time = match step {
            Step::PowerButton => {
                self.tell("system_powerdown");
                vm.host.live().qemu_config.powerdown_time
            }
            Step::Quit => {
                self.tell("quit");
                QUIT_TIME
            }
            Step::Terminate => {
                self.process.signal(Signal::TERM);
                TERMINATE_TIME
            }
            Step::Kill => {
                self.process.signal(Signal::KILL);
                KILL_TIME
            }
        };
        self.ladder = Some(Ladder {
            step,
            until: Instant::now() + time,
        });
    }

    /// Says it and does not wait: what counts is the end. An answer is no proof anyway, because
    /// `quit` races its own.
    fn tell(&self, command: &'static str) {
        if let Some(qmp) = self.qmp.clone() {
            tokio::spawn(async move {
                if let Err(error) = qmp.execute_within(command, json!({}), QUIT_TIME).await {
                    tracing::debug!(%error, "on the way down");
                }
            });
        }
    }

    fn next_step(&mut self, vm: &Vm) {
        let Some(ladder) = self.ladder else {
            return;
        };
        let next = match ladder.step {
            Step::PowerButton => Step::Quit,
            Step::Quit => Step::Terminate,
            Step::Terminate => Step::Kill,
            Step::Kill => {
                tracing::warn!("QEMU was killed and is not gone yet");
                Step::Kill
            }
        };
        self.step(vm, next);
    }

    /// Ends a QEMU at once; its cgroup is the caller's to delete.
    pub(super) async fn end_now(&mut self) -> Option<Place> {
        self.process.kill().await;
        self.place.take()
    }

    /// Runs a command, unless QEMU ends.
    async fn command(&mut self, command: &'static str, arguments: Json) -> Result<Json, QmpError> {
        let closed = || QmpError::Closed {
            during: command.to_owned(),
        };
        let qmp = self.qmp.clone().ok_or_else(closed)?;
        tokio::select! {
            biased;
            _ = self.process.wait() => Err(closed()),
            answer = qmp.execute(command, arguments) => answer,
        }
    }

    /// Has the guest boot again in the same process. QEMU runs with `-no-reboot`, by which a reset
    /// is an end, so that is changed until the firmware is through with it.
    async fn reset(&mut self) -> Result<(), QmpError> {
        self.command("set-action", json!({"reboot": "reset"}))
            .await?;
        let reset = self.reset_once().await;
        // Whatever came of it: a guest that resets itself is not to boot unseen.
        self.resets_until = Some(match reset {
            Ok(()) => Instant::now() + FIRMWARE_TIME,
            Err(_) => Instant::now(),
        });
        reset
    }

    /// To be called when QEMU has just answered. What fails is tried again at the next beat.
    async fn forbid_resets_when_due(&mut self) {
        if self
            .resets_until
            .is_some_and(|until| until <= Instant::now())
        {
            match self
                .command("set-action", json!({"reboot": "shutdown"}))
                .await
            {
                Ok(_) => self.resets_until = None,
                Err(error) => tracing::warn!(%error, "the guest may still reset itself"),
            }
        }
    }

    async fn reset_once(&mut self) -> Result<(), QmpError> {
        self.command("system_reset", json!({})).await?;
        let timeout = QmpError::Timeout {
            during: "the reset".to_owned(),
            limit: RESET_TIME,
        };
        let seen = async {
            while let Some(events) = &mut self.events {
                match events.next().await {
                    Some(event) if event.name == "RESET" => return true,
                    Some(event) => note_shutdown(&mut self.shutdown, &event),
                    None => return false,
                }
            }
            false
        };
        match tokio::time::timeout(RESET_TIME, seen).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(QmpError::Closed {
                during: "the reset".to_owned(),
            }),
            Err(_) => Err(timeout),
        }
    }
}

fn told(answer: Result<Json, QmpError>) -> Result<(), ActError> {
    answer.map(drop).map_err(ActError::from)
}

/// A task of its own: while a VM's task waits for the answer to a command, nobody polls the beat, and
/// a question that stands still there would hold the monitor against that very command.
async fn ask(qmp: Arc<Qmp>) -> Beat {
    let asked = tokio::spawn(async move {
        let answer = qmp
            .execute_within("query-status", json!({}), BEAT_TIME)
            .await;
        match answer {
            Ok(status) => Beat::Answered(status),
            Err(QmpError::Closed { .. }) => Beat::Closed,
            Err(
                QmpError::Timeout { .. } | QmpError::Refused { .. } | QmpError::Protocol { .. },
            ) => Beat::Silent,
        }
    });
    asked.await.unwrap_or(Beat::Silent)
}

fn note_shutdown(shutdown: &mut Option<String>, event: &QmpEvent) {
    tracing::debug!(event = event.name, "QMP event");
    if event.name == "SHUTDOWN" {
        shutdown.clone_from(&event.reason);
    }
}

/// What `query-status` says, as a state.
pub(in crate::vm) fn state_of(status: &Json) -> VmState {
    match status["status"].as_str() {
        Some("running") => VmState::Running,
        Some(other) => VmState::Paused(crate::spec::printable_start(other, MAX_STATE)),
        None => VmState::Unresponsive("QEMU tells no state".to_owned()),
    }
}

impl VmTask {
    pub(super) async fn up(&mut self, mut up: Up) -> Next {
        // What an earlier daemon was told and had not done.
        let is_to_end = self.vm.record.desired != Desired::Running || self.vm.record.returns;
        if is_to_end && up.ladder.is_none() {
            up.descend(&self.vm, Courtesy::Ask);
        }
        loop {
            let event = {
                let ladder = up.ladder.map(|ladder| ladder.until);
                let due = async {
                    match ladder {
                        Some(until) => tokio::time::sleep_until(until.into()).await,
                        None => std::future::pending().await,
                    }
                };
                let (process, events) = (&mut up.process, &mut up.events);
                let event = async {
                    match events {
                        Some(events) => events.next().await,
                        None => std::future::pending().await,
                    }
                };
                let is_wanted = self.vm.record.desired != Desired::Absent;
                tokio::select! {
                    biased;
                    exit = process.wait() => UpEvent::Exited(exit),
                    request = self.requests.recv() => UpEvent::Request(request),
                    () = self.vm.expired(), if is_wanted => UpEvent::Expired,
                    () = self.vm.save_due() => UpEvent::SaveDue,
                    () = due => UpEvent::LadderDue,
                    beat = &mut up.beat => UpEvent::Beat(beat),
                    // Last: a QEMU that was taken over could send events without end.
                    event = event => UpEvent::Qmp(event),
                }
            };
            match event {
                UpEvent::Exited(exit) => return self.exited(up, exit).await,
                UpEvent::SaveDue => self.vm.save(),
                UpEvent::LadderDue => up.next_step(&self.vm),
                UpEvent::Expired => {
                    tracing::info!("its time to live is over");
                    self.vm.desire(Desired::Absent);
                    up.descend(&self.vm, Courtesy::Ask);
                }
                UpEvent::Beat(beat) => self.beat(&mut up, beat).await,
                UpEvent::Qmp(Some(event)) => {
                    note_shutdown(&mut up.shutdown, &event);
                    let is_firmwares = event.name == "RESET" && up.resets_until.is_some();
                    if is_firmwares {
                        up.resets_until = Some(Instant::now() + FIRMWARE_AGAIN);
                    }
                    if is_firmwares || matches!(event.name.as_str(), "STOP" | "RESUME") {
                        up.look_after_event();
                    }
                }
                UpEvent::Qmp(None) => self.monitor_closed(&mut up),
                UpEvent::Request(None | Some(VmRequest::Detach)) => {
                    // One on its way down is let go too: what is desired of it is in its record.
                    // Whoever waits for it hears that the daemon ends.
                    self.waiting.removed.clear();
                    return Next::End;
                }
                UpEvent::Request(Some(VmRequest::EndWithDaemon { courtesy, reply })) => {
                    self.waiting.ended.push(reply);
                    up.descend(&self.vm, courtesy);
                }
                UpEvent::Request(Some(VmRequest::Remove(done))) => {
                    self.waiting.removed.push(done);
                    self.vm.record.returns = false;
                    self.vm.desire(Desired::Absent);
                    up.descend(&self.vm, Courtesy::Ask);
                }
                UpEvent::Request(Some(VmRequest::SetTtl { ttl, reply })) => {
                    self.vm.set_ttl(ttl, reply);
                }
                UpEvent::Request(Some(VmRequest::Act {
                    action,
                    courtesy,
                    expected,
                    reply,
                })) => {
                    let manner = (courtesy, expected);
                    self.act(&mut up, action, manner, reply).await;
                }
            }
        }
    }

    async fn beat(&mut self, up: &mut Up, beat: Beat) {
        let is_going = up.ladder.is_some();
        let question = std::mem::take(&mut up.question);
        match beat {
            Beat::Answered(status) => {
                let state = state_of(&status);
                // The firmware of a machine that is paused gets nowhere.
                if state == VmState::Running && !is_going {
                    up.forbid_resets_when_due().await;
                }
                if !is_going {
                    self.vm.enter(state);
                }
                if question == Question::Again {
                    up.look_after_event();
                } else {
                    up.beat_after(up.next_beat());
                }
            }
            Beat::Silent => {
                if !is_going {
                    self.vm.enter(VmState::Unresponsive(format!(
                        "QEMU does not answer within {} s",
                        BEAT_TIME.as_secs()
                    )));
                }
                up.beat_after_sign();
            }
            // What came before the end is read first: it may say why.
            Beat::Closed if up.events.is_some() => up.beat = Box::pin(std::future::pending()),
            Beat::Closed => self.monitor_closed(up),
            Beat::StaysClosed => self.reconnect(up),
            Beat::Connected(qmp, events) => {
                up.qmp = Some(Arc::new(qmp));
                up.events = Some(events);
                up.beat_after(Duration::ZERO);
            }
        }
    }

    /// A QEMU that ends closes its monitor first.
    fn monitor_closed(&mut self, up: &mut Up) {
        up.qmp = None;
        up.events = None;
        up.beat = Box::pin(async {
            tokio::time::sleep(END_TIME).await;
            Beat::StaysClosed
        });
    }

    fn reconnect(&mut self, up: &mut Up) {
        if up.ladder.is_none() {
            let reason = "QEMU closed its monitor".to_owned();
            self.vm.enter(VmState::Unresponsive(reason));
        }
        let record = self
            .vm
            .files
            .as_ref()
            .map(|files| files.record().try_clone());
        match record.transpose() {
            Ok(record) => up.reconnect(record),
            Err(error) => {
                tracing::error!(error = %crate::backend::catalog::chain(&error), "no monitor");
                up.reconnect(None);
            }
        }
    }

    async fn act(
        &mut self,
        up: &mut Up,
        action: Action,
        (courtesy, expected): (Courtesy, Expected),
        reply: Reply,
    ) {
        let is_quick = matches!(action, Action::Pause | Action::Resume | Action::Reset);
        if is_quick && reply.is_closed() {
            // Its caller left while it waited; QEMU may take seconds for each.
            return;
        }
        let verdict = self.vm.judge(action);
        let done = match (verdict, action) {
            (Verdict::Deny(_), _) => Err(self.vm.denied(action, verdict)),
            (Verdict::Ignore, _) => Ok(()),
            (Verdict::Accept, Action::Stop) => {
                self.vm.record.returns = false;
                self.vm.desire(Desired::Stopped);
                for reply in self.waiting.started.drain(..) {
                    let (id, action) = (self.vm.id, Action::Start);
                    let _ = reply.send(Err(ActError::Superseded { id, action }));
                }
                self.waiting.stopped.push(reply);
                up.descend(&self.vm, courtesy);
                return;
            }
            (Verdict::Accept, Action::Restart) => {
                // A guest that could not come back as what it is goes on instead.
                if expected == Expected::Recorded
                    && let Err(error) = self.vm.would_be_unchanged().await
                {
                    let _ = reply.send(Err(ActError::Start(Arc::new(error))));
                    return;
                }
                self.vm.expected = expected;
                self.vm.record.returns = true;
                self.vm.record.desired = Desired::Running;
                self.vm.save();
                self.waiting.started.push(reply);
                up.descend(&self.vm, courtesy);
                return;
            }
            (Verdict::Accept, Action::Pause) => told(up.command("stop", json!({})).await),
            (Verdict::Accept, Action::Resume) => {
                if let Some(until) = &mut up.resets_until {
                    *until = Instant::now() + FIRMWARE_TIME;
                }
                told(up.command("cont", json!({})).await)
            }
            (Verdict::Accept, Action::Reset) => up.reset().await.map_err(ActError::from),
            // Not accepted of a VM that is up, or not an action.
            (Verdict::Accept, Action::Start | Action::Remove | Action::ExtendTtl) => {
                Err(self.vm.denied(action, verdict))
            }
        };
        if verdict == Verdict::Accept {
            // An answer that was on its way tells of the time before.
            up.beat_after(Duration::ZERO);
        }
        let answer = match done {
            Ok(()) => {
                match (verdict, action) {
                    (Verdict::Accept, Action::Pause) => {
                        self.vm.enter(VmState::Paused("paused".to_owned()));
                    }
                    (Verdict::Accept, Action::Resume) => self.vm.enter(VmState::Running),
                    _ => {}
                }
                Ok(self.vm.publisher.current())
            }
            Err(error) => {
                tracing::warn!(error = %crate::backend::catalog::chain(&error), "not done");
                Err(error)
            }
        };
        let _ = reply.send(answer);
    }

    /// QEMU is gone: says why, gives back what only a process needs, and goes on as desired.
    async fn exited(&mut self, mut up: Up, exit: Exit) -> Next {
        // The last event may still be on its way: the monitor is at its end, and what is left of it
        // is read.
        if let Some(events) = &mut up.events {
            let shutdown = &mut up.shutdown;
            let rest = async {
                while let Some(event) = events.next().await {
                    note_shutdown(shutdown, &event);
                }
            };
            if tokio::time::timeout(LAST_EVENTS, rest).await.is_err() {
                tracing::debug!("the monitor outlives its QEMU");
            }
        }
        let words = up.process.last_words();
        let was_told = up.ladder.is_some();
        match exit {
            _ if words.is_empty() => {}
            // Warnings of its start, which nobody asked about.
            Exit::Code(0) => tracing::debug!(stderr = words, "QEMU's last words"),
            _ => tracing::warn!(stderr = words, "QEMU's last words"),
        }
        let returns = self.vm.record.returns;
        let record = ExitRecord {
            shutdown: up.shutdown.take(),
            exit,
            at: Timestamp::now(),
            note: (!self.waiting.ended.is_empty()).then(|| WITH_DAEMON.to_owned()),
        };
        self.vm.restarts.ran_for(up.since.elapsed());
        let place = up.place.take();
        // Nothing of a process is kept for a VM that is down.
        drop(up);
        if let Some(place) = place {
            launch::remove_place(&place).await;
        }
        tracing::info!(how = crate::vm::status::describe(&record), "QEMU ended");
        self.vm.came_down(record.clone());
        if !was_told {
            self.vm.host.metrics.exited(exit_label(&record));
        }
        let mut with_daemon = std::mem::take(&mut self.waiting.ended);
        match self.vm.record.desired {
            Desired::Absent => Next::Remove,
            Desired::Running if !with_daemon.is_empty() => {
                self.vm.enter(VmState::Exited(record));
                answer_all(&mut with_daemon, &self.vm.publisher.current());
                Next::Down(None)
            }
            Desired::Stopped => {
                self.vm.enter(VmState::Stopped);
                answer_all(&mut self.waiting.stopped, &self.vm.publisher.current());
                Next::Down(None)
            }
            Desired::Running if returns => Next::Launch,
            Desired::Running => {
                let restart = self.vm.restart_after_exit(record.shutdown.as_deref());
                self.vm.enter(VmState::Exited(record));
                Next::Down(restart)
            }
        }
    }
}

impl Vm {
    /// Notes the end of a QEMU in record and status.
    fn came_down(&mut self, exit: ExitRecord) {
        self.reservation = None;
        self.record.progress = Progress::Down;
        self.record.process = None;
        self.record.agent_address = None;
        self.record.last_exit = Some(exit.clone());
        self.save();
        self.publisher.change(|status| {
            status.agent_address = None;
            status.pid = None;
            status.started_at = None;
            status.last_exit = Some(exit);
        });
    }
}
