//! The daemon killed again and again under traffic, and nothing lost, doubled or left behind.
//!
//! Clients create, stop, start and remove VMs over gRPC. In each round the daemon is ended by
//! SIGKILL, at a random time or at a step of a launch (`chaos/death.rs`), and started again on the
//! same state directory. Then every call without an answer is brought to its end, and what the
//! clients know, what the daemon lists and what is there on the machine are held against each other
//! (`chaos/check.rs`).
//!
//! A `create` whose call failed has an unknown outcome: the VM may be there, and then it is the
//! client's, or it is not, and then nothing of it is.

mod check;
mod death;
mod dice;
mod host;
mod ledger;
mod reaper;
mod settle;
mod tally;
mod traffic;

use std::fs::Permissions;
use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use toml_edit::Value;

use crate::demo::config::{DemoConfig, state_directory};
use crate::demo::daemon::{Daemon, READY_DEADLINE};
use crate::demo::{self, BACKEND, Programs};
use crate::failure::InStep;
use crate::run::Run;
use crate::{backends, setup};
use check::Problem;
use death::{Death, Deaths, Histogram};
use dice::Dice;
use host::{Places, Scene};
use ledger::{Entry, Expected};
use reaper::Reaper;
use settle::Gone;
use tally::Tally;
use traffic::{Books, Connection};

/// What plays the VMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Qemu {
    /// QEMU, and guests that boot and serve
    Real,
    /// A program that speaks QMP as QEMU does, with no guest behind it: many rounds in short time
    Fake,
}

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub rounds: u32,
    pub seed: Option<u64>,
    /// VMs that are kept at least.
    pub vms: usize,
    pub qemu: Qemu,
}

/// How often a long run has to end at each failpoint, and how long that is.
const LEAST_DEATHS: u32 = 3;
const ROUNDS_FOR_ALL: u32 = 100;
/// Clients at once.
const CLIENTS: u64 = 4;
/// A failpoint that was not reached within this time is given up for the round.
const FAILPOINT_TIME: Duration = Duration::from_secs(60);
/// From nothing to all VMs; a guest takes some seconds of a core to boot.
const FILL_TIME: Duration = Duration::from_secs(600);
/// From a guest's start to its agent's answer, on a machine that boots many at once.
const AGENT_TIME: Duration = Duration::from_secs(180);
/// Guests that are asked in each round: they have booted for long, so that they answer at once.
const ASKED_EACH_ROUND: usize = 2;
const BOOTED_AFTER: Duration = Duration::from_secs(60);
const PROMPT_ANSWER: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(10);
/// VMs that may be there beside those that are kept, with room for starts that are under way.
const MORE_VMS: usize = 20;
/// Forwarded ports: more than VMs, since one is free again only a moment after its VM.
const PORTS: u16 = 200;
/// Small, so that many fit; with half of it the kernel of some boots has none left.
const GUEST_MEMORY: &str = "256M";

impl Qemu {
    /// How long a client rests between two deeds. A guest takes two seconds of a core to boot.
    fn pause_millis(self) -> std::ops::Range<u64> {
        match self {
            Self::Real => 200..2_000,
            Self::Fake => 0..200,
        }
    }
}

/// All that lives as long as the run.
#[derive(Debug)]
struct Chaos<'run> {
    run: &'run Run,
    options: Options,
    runtime: Runtime,
    reaper: Reaper,
    programs: Programs,
    config: PathBuf,
    places: Places,
    books: Books,
    dice: Dice,
    tally: Tally,
    histogram: Histogram,
    /// What the present round is, for whoever reads of a failure.
    title: String,
    folder: TempDir,
    _secrets: TempDir,
}

/// How a stage of a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Alive,
    Dead,
}

pub fn run(run: &Run, options: Options) -> Result<ExitCode> {
    let seed = match options.seed {
        Some(seed) => seed,
        None => u64::from_str_radix(&demo::nonce()?, 16).context("a nonce is hexadecimal")?,
    };
    setup::for_a_guest(run)?;
    let backends = backends::build(run)?;
    let programs = demo::build_programs(run).in_step(
        "building casemated and casemate",
        "see the compiler's message above; the whole log is target/setup/build.log",
    )?;
    run.report.heading("Chaos");
    run.report.note(&format!(
        "seed {seed}, {} rounds, {} VMs, {:?} QEMU",
        options.rounds, options.vms, options.qemu
    ));
    let backend = backends
        .iter()
        .find(|backend| backend.name == BACKEND)
        .context("the backends that were built include this one")?;
    let folder = demo::temporary_folder("casemate-chaos-")?;
    let secrets = secrets_folder()?;
    let ports = free_ports()?;
    let config = write_config(
        run,
        options,
        &programs,
        backend,
        folder.path(),
        secrets.path(),
        &ports,
    )?;
    let mut chaos = Chaos {
        run,
        options,
        runtime: tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("cannot start the clients' runtime")?,
        reaper: Reaper::start(),
        programs,
        config,
        places: Places {
            state: state_directory(folder.path()),
            secrets: secrets.path().to_owned(),
            ports,
        },
        books: Books::new(options.vms),
        dice: Dice::new(seed),
        tally: Tally::default(),
        histogram: Histogram::default(),
        title: "before the first round".to_owned(),
        folder,
        _secrets: secrets,
    };
    let lived = chaos.live().in_step(
        "killing the daemon under traffic",
        &format!("repeat it with --seed {seed}"),
    );
    let folder = chaos.folder.path().to_owned();
    let line = chaos.tally.line(options.rounds);
    let code = match (&lived, chaos.tally.is_clean()) {
        (Ok(()), true) => ExitCode::SUCCESS,
        _ => {
            // What the daemon wrote is the first thing to look at.
            chaos.folder.disable_cleanup(true);
            run.report.note(&format!(
                "the daemon's folder is kept: {}",
                folder.display()
            ));
            ExitCode::FAILURE
        }
    };
    lived?;
    println!("{line}");
    Ok(code)
}

/// On a file system in memory, where the daemon wants it.
fn secrets_folder() -> Result<TempDir> {
    let shared_memory = Path::new("/dev/shm");
    let parent = if shared_memory.is_dir() {
        shared_memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    tempfile::Builder::new()
        .prefix("casemate-chaos-")
        .permissions(std::fs::Permissions::from_mode(0o711))
        .tempdir_in(parent)
        .context("cannot create a folder for secrets")
}

/// A range that nobody listens in. Below those that the kernel gives to clients.
fn free_ports() -> Result<RangeInclusive<u16>> {
    (20_000..32_000 - PORTS)
        .step_by(usize::from(PORTS))
        .map(|first| first..=first + PORTS - 1)
        .find(|range| {
            range
                .clone()
                .all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        })
        .context("no range of free ports")
}

/// A copy that every user may start: VMs run as users of their own, and the folder of the build may be
/// closed to them.
fn open_to_all(program: &Path, folder: &Path) -> Result<PathBuf> {
    let place = folder.join(program.file_name().context("a program has a name")?);
    std::fs::copy(program, &place)
        .and_then(|_| std::fs::set_permissions(&place, Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot copy {} to {}", program.display(), place.display()))?;
    Ok(place)
}

fn write_config(
    run: &Run,
    options: Options,
    programs: &Programs,
    backend: &backends::Backend,
    folder: &Path,
    secrets: &Path,
    ports: &RangeInclusive<u16>,
) -> Result<PathBuf> {
    let text = |path: &Path| path.to_str().map(Value::from).context("a path is no UTF-8");
    let most_vms = i64::try_from(options.vms + MORE_VMS).context("too many VMs")?;
    let mut more = vec![
        ("", "secrets_dir", text(secrets)?),
        ("", "max_vms", most_vms.into()),
        ("", "on_shutdown", "leave".into()),
        (
            "network",
            "ports",
            format!("{}-{}", ports.start(), ports.end()).into(),
        ),
        // A guest that has not booted yet does not see the button.
        ("qemu", "powerdown_time", "5s".into()),
    ];
    if options.qemu == Qemu::Fake {
        let program = open_to_all(&programs.folder.join("fake-qemu"), folder)?;
        more.push(("qemu", "binary", text(&program)?));
    }
    DemoConfig {
        folder,
        accelerator: "tcg",
        kernel: &run.layout.kernel(),
        initrd: &run.layout.initrd(),
        backend,
        memory: GUEST_MEMORY,
        more: &more,
    }
    .write(&run.layout.packaged_config())
}

impl Chaos<'_> {
    fn live(&mut self) -> Result<()> {
        self.fill()?;
        let mut deaths = Deaths::new(self.dice.fork());
        for round in 1..=self.options.rounds {
            let death = deaths.of_round(round);
            self.title = format!("round {round}, {death}");
            let died_of = self.round(death)?;
            self.histogram.count(died_of);
            if let (Death::Failpoint { name, .. }, true) = (death, died_of != death) {
                deaths.missed(name);
            }
            let ledger = self.books.ledger();
            self.run.report.note(&format!(
                "{}: {} VMs, {} running, {} calls without an answer{}",
                self.title,
                ledger.acknowledged(),
                ledger.running(),
                ledger.unknown().len(),
                if died_of == death {
                    ""
                } else {
                    ", not reached"
                }
            ));
        }
        self.title = "after the last round".to_owned();
        self.end()?;
        self.run.report.heading("Deaths");
        for line in self.histogram.lines() {
            self.run.report.note(&line);
        }
        if self.options.rounds >= ROUNDS_FOR_ALL && self.histogram.rarest() < LEAST_DEATHS {
            bail!("a failpoint was reached less than {LEAST_DEATHS} times");
        }
        let refusals = self.books.refusals().lines();
        if !refusals.is_empty() {
            self.run.report.heading("Calls that were refused");
            for line in refusals {
                self.run.report.note(&line);
            }
        }
        Ok(())
    }

    /// The first VMs. Their daemon ends in good order, and leaves them to the next one.
    fn fill(&mut self) -> Result<()> {
        let mut step = self.run.report.step("first VMs");
        let mut daemon = self.start_daemon(&[])?;
        self.await_ready(&mut daemon, Death::Serving(READY_DEADLINE))?;
        let clients = self.clients(&daemon)?;
        let started = Instant::now();
        loop {
            let there = self.books.ledger().acknowledged();
            if there >= self.options.vms {
                break;
            }
            step.progress(&format!("{there} of {}", self.options.vms));
            if started.elapsed() > FILL_TIME {
                bail!(
                    "only {there} VMs came up; the daemon's log ends with:\n{}",
                    daemon.log_tail()
                );
            }
            self.still_lives(&mut daemon)?;
            self.run.interrupt.pause()?;
        }
        clients.end(&self.runtime);
        daemon.stop(self.run)?;
        step.done(&format!("{} VMs", self.books.ledger().acknowledged()));
        Ok(())
    }

    /// One daemon's life. Returns what it died of in the end.
    fn round(&mut self, death: Death) -> Result<Death> {
        let failpoint;
        let variables: &[(&str, &str)] = match death {
            Death::Failpoint { name, count } => {
                failpoint = format!("{name}:{count}");
                &[("CASEMATE_FAILPOINT", &failpoint)]
            }
            Death::Serving(_) | Death::StartUp(_) => &[],
        };
        let mut daemon = self.start_daemon(variables)?;
        let life = self.until_death(&mut daemon, death)?;
        if life == Life::Alive {
            daemon.kill()?;
        }
        Ok(match (life, death) {
            // It outlived its failpoint.
            (Life::Alive, Death::Failpoint { .. }) => Death::Serving(FAILPOINT_TIME),
            _ => death,
        })
    }

    /// Alive: it is to be killed now.
    fn until_death(&mut self, daemon: &mut Daemon, death: Death) -> Result<Life> {
        if let Life::Dead = self.await_ready(daemon, death)? {
            return Ok(Life::Dead);
        }
        if let Death::StartUp(_) = death {
            return Ok(Life::Alive);
        }
        if let Life::Dead = self.settle_and_inspect(daemon, death, Agents::Some)? {
            return Ok(Life::Dead);
        }
        let clients = self.clients(daemon)?;
        let limit = match death {
            Death::Serving(time) => time,
            _ => FAILPOINT_TIME,
        };
        let started = Instant::now();
        let life = loop {
            if let Life::Dead = self.life(daemon, death)? {
                break Life::Dead;
            }
            if started.elapsed() > limit {
                break Life::Alive;
            }
            self.run.interrupt.check()?;
            std::thread::sleep(POLL);
        };
        if life == Life::Alive {
            // While calls are under way, which is the point.
            daemon.kill()?;
        }
        clients.end(&self.runtime);
        Ok(life)
    }

    fn start_daemon(&self, variables: &[(&str, &str)]) -> Result<Daemon> {
        self.run.interrupt.check()?;
        self.reaper.spare(
            || {
                Daemon::spawn(
                    &self.programs.daemon,
                    self.folder.path(),
                    &self.config,
                    variables,
                )
            },
            |daemon| daemon.as_ref().ok().map(Daemon::pid),
        )
    }

    /// Waits until it serves, or as long as a death in its start-up wants.
    fn await_ready(&self, daemon: &mut Daemon, death: Death) -> Result<Life> {
        let started = Instant::now();
        while !daemon.is_ready() {
            if let Life::Dead = self.life(daemon, death)? {
                return Ok(Life::Dead);
            }
            match death {
                Death::StartUp(time) if started.elapsed() > time => return Ok(Life::Alive),
                _ if started.elapsed() > READY_DEADLINE => bail!(
                    "{}: the daemon does not serve; its log ends with:\n{}",
                    self.title,
                    daemon.log_tail()
                ),
                _ => {}
            }
            self.run.interrupt.check()?;
            std::thread::sleep(POLL);
        }
        Ok(Life::Alive)
    }

    /// A daemon dies as it was told to, or its death is a defect that ends the run.
    fn life(&self, daemon: &mut Daemon, death: Death) -> Result<Life> {
        let Some(status) = daemon.ended()? else {
            return Ok(Life::Alive);
        };
        let is_wanted = matches!(death, Death::Failpoint { .. }) && was_killed(status);
        if is_wanted {
            return Ok(Life::Dead);
        }
        bail!(
            "{}: the daemon ended by itself with {status}; its log ends with:\n{}",
            self.title,
            daemon.log_tail()
        )
    }

    fn still_lives(&self, daemon: &mut Daemon) -> Result<()> {
        self.life(daemon, Death::Serving(Duration::MAX)).map(|_| ())
    }

    fn clients(&mut self, daemon: &Daemon) -> Result<Clients> {
        let ends = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for _ in 0..CLIENTS {
            // A daemon that dies at this moment refuses the connection.
            let Ok(connection) = self.runtime.block_on(Connection::open(daemon.grpc())) else {
                break;
            };
            tasks.push(self.runtime.spawn(traffic::client(
                connection,
                self.books.clone(),
                self.dice.fork(),
                self.options.qemu.pause_millis(),
                Arc::clone(&ends),
            )));
        }
        Ok(Clients { ends, tasks })
    }

    /// Brings every open call to its end, and holds everything against everything.
    fn settle_and_inspect(
        &mut self,
        daemon: &mut Daemon,
        death: Death,
        agents: Agents,
    ) -> Result<Life> {
        let (grpc, pid) = (daemon.grpc().to_owned(), daemon.pid());
        let (books, places) = (self.books.clone(), self.places.clone());
        let mut dice = self.dice.fork();
        let is_real = self.options.qemu == Qemu::Real;
        let task = self.runtime.spawn(async move {
            let mut connection = Connection::open(&grpc).await.map_err(|_| Gone)?;
            let mut found = settle::settle(&mut connection, &books, &mut dice).await?;
            found.extend(settle::inspect(&mut connection, &books, &places, pid).await?);
            if is_real {
                let (entries, limit) = agents.choose(&books, &mut dice);
                found.extend(settle::ask_agents(&books, entries, limit).await);
            }
            Ok::<_, Gone>(found)
        });
        while !task.is_finished() {
            self.life(daemon, death)?;
            self.run.interrupt.check()?;
            std::thread::sleep(POLL);
        }
        match self.runtime.block_on(task).context("the check panicked")? {
            Ok(found) => {
                self.tell(&found, daemon);
                Ok(Life::Alive)
            }
            Err(Gone) => {
                // The connection is seen to end before the process.
                let started = Instant::now();
                while started.elapsed() < READY_DEADLINE {
                    if let Life::Dead = self.life(daemon, death)? {
                        return Ok(Life::Dead);
                    }
                    std::thread::sleep(POLL);
                }
                bail!(
                    "{}: the daemon lives and closed the connection; its log ends with:\n{}",
                    self.title,
                    daemon.log_tail()
                )
            }
        }
    }

    fn tell(&mut self, found: &[Problem], daemon: &Daemon) {
        let mut is_new = false;
        for problem in found {
            if self.tally.take(problem) {
                is_new = true;
                self.run.report.note(&format!(
                    "{:?} (found in {}): {}",
                    problem.kind, self.title, problem.text
                ));
            }
        }
        if is_new {
            self.run.report.note("the daemon's log ends with:");
            self.run.report.quote(&daemon.log_tail());
        }
    }

    /// Everything once more, then all VMs are removed, and nothing may be left.
    fn end(&mut self) -> Result<()> {
        let mut step = self.run.report.step("last look");
        let mut daemon = self.start_daemon(&[])?;
        let lives = Death::Serving(Duration::MAX);
        self.await_ready(&mut daemon, lives)?;
        step.progress("all VMs, all guests");
        self.settle_and_inspect(&mut daemon, lives, Agents::All)?;
        let (there, running) = {
            let ledger = self.books.ledger();
            (ledger.acknowledged(), ledger.running())
        };
        let cgroups = Scene::look(&self.places).cgroups;
        step.done(&format!(
            "{there} VMs, {running} running, {cgroups} cgroups"
        ));

        let step = self.run.report.step("remove all VMs");
        for entry in self.books.ledger().entries.values_mut() {
            entry.expected = Expected::Unknown(ledger::Pending::Remove);
        }
        self.settle_and_inspect(&mut daemon, lives, Agents::None)?;
        daemon.stop(self.run)?;
        step.done("");
        Ok(())
    }
}

fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::KILL.as_raw())
}

/// Which guests are asked for their nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Agents {
    None,
    /// A few that have long booted.
    Some,
    All,
}

impl Agents {
    fn choose(self, books: &Books, dice: &mut Dice) -> (Vec<Entry>, Duration) {
        let mut running: Vec<Entry> = books
            .ledger()
            .entries
            .values()
            .filter(|entry| entry.expected == Expected::Running)
            .cloned()
            .collect();
        match self {
            Self::None => (Vec::new(), PROMPT_ANSWER),
            Self::All => (running, AGENT_TIME),
            Self::Some => {
                running.retain(|entry| entry.since.elapsed() > BOOTED_AFTER);
                dice.shuffle(&mut running);
                running.truncate(ASKED_EACH_ROUND);
                (running, PROMPT_ANSWER)
            }
        }
    }
}

/// The clients of one daemon.
#[derive(Debug)]
struct Clients {
    ends: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Clients {
    /// Lets each end what it is at: with a dead daemon that is at once.
    fn end(self, runtime: &Runtime) {
        self.ends.store(true, Ordering::Relaxed);
        for task in self.tasks {
            let _ = runtime.block_on(task);
        }
    }
}
