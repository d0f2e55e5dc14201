//! After a death: what became of the calls that had no answer, and whether all is as it should be.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use casemate_proto::v1::{Vm, VmState};
use tonic::{Code, Status};

use super::check::{Problem, problems};
use super::dice::Dice;
use super::host::{Places, Scene};
use super::ledger::{Entry, Expected, Pending};
use super::traffic::{Books, Connection, NONCE_VARIABLE, is_gone};
use crate::demo::agent;

/// How long a pending call may be repeated: a VM that is being removed has its whole stop to go
/// through first.
const SETTLE_TIME: Duration = Duration::from_secs(90);
/// How long what is left over may take to go by itself: answers come before the last clean-up.
const GRACE: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// So often a living daemon may refuse the same call.
const MOST_REFUSALS: u32 = 3;

/// The daemon went away in the middle of it.
#[derive(Debug)]
pub(super) struct Gone;

/// A call's outcome, where the connection is to be told from the daemon's word.
fn or_gone<T>(outcome: Result<T, Status>) -> Result<Result<T, Status>, Gone> {
    match outcome {
        Err(status) if is_gone(&status) => Err(Gone),
        outcome => Ok(outcome),
    }
}

async fn list(connection: &mut Connection) -> Result<Vec<Vm>, Gone> {
    connection.list().await.map_err(|_| Gone)
}

/// Repeats every call of unknown outcome until its outcome is known. What cannot be brought to an
/// end is a VM that was lost.
pub(super) async fn settle(
    connection: &mut Connection,
    books: &Books,
    dice: &mut Dice,
) -> Result<Vec<Problem>, Gone> {
    let deadline = Instant::now() + SETTLE_TIME;
    let mut lost = Vec::new();
    loop {
        let unknown = books.ledger().unknown();
        if unknown.is_empty() {
            return Ok(lost);
        }
        let vms = list(connection).await?;
        for (name, pending) in unknown {
            let Some(entry) = books.ledger().entries.get(&name).cloned() else {
                continue;
            };
            let listed = vms.iter().find(|vm| match &entry.id {
                Some(id) => vm.id == *id,
                None => vm.name == name,
            });
            let why = match pending {
                Pending::Create => created(connection, books, dice, &entry, listed).await?,
                Pending::Remove => removed(connection, books, &entry, listed).await?,
                Pending::Start | Pending::Stop => {
                    again(connection, books, &entry, pending, listed).await?
                }
            };
            let why = why.or_else(|| {
                let is_late = Instant::now() > deadline && is_unknown(books, &name);
                is_late.then(|| format!("{pending:?} comes to no end"))
            });
            if let Some(why) = why {
                lost.push(give_up(books, &entry, &why));
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn is_unknown(books: &Books, name: &str) -> bool {
    let ledger = books.ledger();
    let entry = ledger.entries.get(name);
    entry.is_some_and(|entry| matches!(entry.expected, Expected::Unknown(_)))
}

fn give_up(books: &Books, entry: &Entry, why: &str) -> Problem {
    let mut ledger = books.ledger();
    let entry = ledger
        .entries
        .remove(&entry.name)
        .unwrap_or_else(|| entry.clone());
    ledger.given_up.extend(entry.id.clone());
    Problem::lost(
        &entry,
        format!("{why}; history: {}", entry.history.join(", ")),
    )
}

/// The VM of a `create` without an answer is the client's: it keeps it or removes it. One that is
/// not listed is no VM, and whatever is left of it will be found.
async fn created(
    connection: &mut Connection,
    books: &Books,
    dice: &mut Dice,
    entry: &Entry,
    listed: Option<&Vm>,
) -> Result<Option<String>, Gone> {
    let Some(vm) = listed else {
        books.ledger().entries.remove(&entry.name);
        return Ok(None);
    };
    books.ledger().change(&entry.name, |entry| {
        entry.id = Some(vm.id.clone());
        entry.note("create had no answer, and it is listed");
    });
    if vm.state() == VmState::Running && dice.within(0..2) == 0 {
        books
            .ledger()
            .change(&entry.name, |entry| entry.runs_as(vm));
        return Ok(None);
    }
    books.ledger().change(&entry.name, |entry| {
        entry.expected = Expected::Unknown(Pending::Remove);
    });
    removed(connection, books, entry, listed).await
}

async fn removed(
    connection: &mut Connection,
    books: &Books,
    entry: &Entry,
    listed: Option<&Vm>,
) -> Result<Option<String>, Gone> {
    let refusal = match listed {
        None => None,
        Some(vm) => match or_gone(connection.remove(&vm.id).await)? {
            Ok(()) => None,
            Err(status) if status.code() == Code::NotFound => None,
            Err(status) => Some(status),
        },
    };
    match refusal {
        None => {
            books.ledger().entries.remove(&entry.name);
            Ok(None)
        }
        Some(status) => Ok(refused(books, entry, "remove", &status)),
    }
}

/// `StartVm` and `StopVm` do nothing where nothing is to do, so they can be repeated.
async fn again(
    connection: &mut Connection,
    books: &Books,
    entry: &Entry,
    pending: Pending,
    listed: Option<&Vm>,
) -> Result<Option<String>, Gone> {
    let (Some(id), Some(_)) = (&entry.id, listed) else {
        return Ok(Some(format!("not in the list after {pending:?}")));
    };
    if pending == Pending::Start {
        return Ok(match or_gone(connection.start(id).await)? {
            Ok(vm) => {
                books
                    .ledger()
                    .change(&entry.name, |entry| entry.runs_as(&vm));
                None
            }
            Err(status) => refused(books, entry, "start", &status),
        });
    }
    Ok(match or_gone(connection.stop(id, true).await)? {
        Ok(()) => {
            books.ledger().change(&entry.name, Entry::is_stopped);
            None
        }
        Err(status) => refused(books, entry, "stop", &status),
    })
}

fn refused(books: &Books, entry: &Entry, verb: &'static str, status: &Status) -> Option<String> {
    books.refusals().count(verb, status);
    let mut refusals = 0;
    books.ledger().change(&entry.name, |entry| {
        entry.note(format!(
            "{verb} again: {}: {}",
            status.code(),
            status.message()
        ));
        entry.refusals += 1;
        refusals = entry.refusals;
    });
    (refusals >= MOST_REFUSALS).then(|| {
        format!(
            "{verb} is refused again and again: {}: {}",
            status.code(),
            status.message()
        )
    })
}

/// Holds everything against everything until all is well or the grace is over. What was lost is
/// taken out of the books.
pub(super) async fn inspect(
    connection: &mut Connection,
    books: &Books,
    places: &Places,
    daemon_pid: u32,
) -> Result<Vec<Problem>, Gone> {
    let deadline = Instant::now() + GRACE;
    loop {
        let vms = list(connection).await?;
        let scene = Scene::look(places);
        let found = problems(&books.ledger(), &vms, &scene, daemon_pid);
        if found.is_empty() || Instant::now() > deadline {
            return Ok(found
                .into_iter()
                .map(|one| give_up_lost(books, one))
                .collect());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn give_up_lost(books: &Books, mut problem: Problem) -> Problem {
    if problem.kind == super::check::Kind::Orphaned {
        return problem;
    }
    let entry = {
        let ledger = books.ledger();
        let mut entries = ledger.entries.values();
        entries
            .find(|entry| entry.id.as_deref() == Some(&problem.subject))
            .cloned()
    };
    if let Some(entry) = entry {
        let with_history = give_up(books, &entry, &problem.text);
        problem.text = with_history.text;
    }
    problem
}

/// Whether each of these guests serves the nonce that it was given; those that do not within the
/// time are lost.
pub(super) async fn ask_agents(
    books: &Books,
    entries: Vec<Entry>,
    limit: Duration,
) -> Vec<Problem> {
    let mut lost = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    for entry in entries {
        tasks.spawn_blocking(move || {
            let outcome = ask_agent(&entry, limit);
            (entry, outcome)
        });
    }
    for (entry, outcome) in tasks.join_all().await {
        if let Err(why) = outcome {
            lost.push(give_up(books, &entry, &why));
        }
    }
    lost
}

fn ask_agent(entry: &Entry, limit: Duration) -> Result<(), String> {
    let address: SocketAddr = entry
        .agent_address
        .parse()
        .map_err(|_| format!("{:?} is no agent's address", entry.agent_address))?;
    let expected = format!("{NONCE_VARIABLE}={}", entry.nonce);
    let deadline = Instant::now() + limit;
    loop {
        let last = match agent::get_root(address) {
            Ok(body) if body.lines().any(|line| line.trim() == expected) => return Ok(()),
            // An answer that is complete and another's.
            Ok(body) if body.contains(NONCE_VARIABLE) => {
                return Err(format!("its agent serves another's nonce: {body}"));
            }
            Ok(body) => format!("its agent serves no nonce: {body}"),
            Err(error) => format!("its agent does not answer: {error:#}"),
        };
        if Instant::now() > deadline {
            return Err(last);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}
