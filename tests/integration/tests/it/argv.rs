//! Arguments that `plain-kvm` and the host render are what the installed QEMUs understand.
//!
//! The oracle is QEMU itself: each one starts paused from every plan of a table, and then says over
//! QMP which memory, CPUs, files and texts it got. What it says must be what the plan meant, names
//! with commas, quotes and other letters included. A shell is the oracle for the logged line.

pub(crate) mod bench;
mod cases;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use casemate_host::backend::{BackendErrorKind, CallError};
use casemate_host::qemu::command::{self, Form};
use casemate_host::qemu::process::{Credentials, Exit, run_tool};
use casemate_host::spec::facts::{FactRecord, FactSource};
use casemate_host::spec::request::Boot;
use casemate_integration::artifacts;
use serde_json::{Value as Json, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use bench::{Bench, PausedQemu, QMP_FD};
use cases::{CASES, Case, Firmware, Guest, MemoryBackend, PATIENCE, Prepared};

/// QEMUs that run at a time: more do not end sooner on a small machine.
const AT_A_TIME: usize = 4;
/// What the table must give at least, whatever becomes of its dimensions.
const WANTED_PLANS: usize = 60;
/// One identity for all, so that arguments do not differ by it.
const ID: &str = "6f9619ff-8b86-4011-b42d-00c04fc964ff";

const MANAGED: Form = Form::Managed {
    qmp_fd: QMP_FD,
    kvm_fd: None,
    console_fd: None,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_installed_qemu_takes_every_plan_and_means_the_same_by_it() {
    let temp = tempfile::tempdir().expect("a folder");
    let guest = Arc::new(Guest::new(temp.path()));
    for program in artifacts::qemus() {
        let bench = Arc::new(Bench::new(&program, toml::Table::new()).await);
        let slots = Arc::new(Semaphore::new(AT_A_TIME));
        let mut tasks = JoinSet::new();
        for case in cases::all() {
            let (bench, slots, guest) =
                (Arc::clone(&bench), Arc::clone(&slots), Arc::clone(&guest));
            tasks.spawn(async move {
                let _slot = slots
                    .acquire()
                    .await
                    .expect("the semaphore is never closed");
                let outcome = try_case(&bench, &guest, &case).await;
                outcome.map_err(|error| format!("{case:?}:\n    {error:#}"))
            });
        }
        let mut seen = BTreeSet::new();
        let mut failures = Vec::new();
        for outcome in tasks.join_all().await {
            match outcome {
                Ok(arguments) => assert!(seen.insert(arguments), "two plans are the same"),
                Err(failure) => failures.push(failure),
            }
        }
        assert!(
            failures.is_empty(),
            "{}: {} plans failed\n{}",
            program.display(),
            failures.len(),
            failures.join("\n")
        );
        assert_eq!(seen.len(), CASES);
        assert!(seen.len() >= WANTED_PLANS);
        println!("{}: {} plans accepted", program.display(), seen.len());
    }
}

/// The arguments of an accepted plan, without the folder that is the case's own.
async fn try_case(bench: &Bench, guest: &Guest, case: &Case) -> anyhow::Result<Vec<String>> {
    let prepared = case.prepare(guest, bench).await?;
    let checked = bench.checked(&prepared.request).await?;
    let arguments = command::render(
        ID,
        &prepared.request,
        &checked,
        &prepared.resources,
        &MANAGED,
    )?;
    let program = bench.qemu.info().await?.path.clone();
    let mut qemu = PausedQemu::start(&program, &arguments, Vec::new()).await?;
    let compared = compare(&mut qemu, bench, case, &prepared).await;
    qemu.quit().await?;
    compared.with_context(|| command::shell_line(arguments.iter().map(String::as_str)))?;
    ensure!(
        Path::new(&prepared.resources.console).is_file(),
        "the console is another file"
    );
    let own = prepared.folder.path().to_str().context("a UTF-8 path")?;
    Ok(arguments
        .iter()
        .map(|argument| argument.replace(own, ""))
        .collect())
}

/// The form that a person pastes, with a monitor for this test added to it.
#[tokio::test]
async fn the_form_for_a_terminal_means_the_same() {
    let temp = tempfile::tempdir().expect("a folder");
    let guest = Guest::new(temp.path());
    for program in artifacts::qemus() {
        let bench = Bench::new(&program, toml::Table::new()).await;
        // Prime to the lengths of the lists, so that a part of the table has a part of each.
        for case in cases::all().into_iter().step_by(5) {
            let outcome = try_standalone(&bench, &guest, &case).await;
            outcome.unwrap_or_else(|error| panic!("{}: {case:?}: {error:#}", program.display()));
        }
    }
}

async fn try_standalone(bench: &Bench, guest: &Guest, case: &Case) -> anyhow::Result<()> {
    let prepared = case.prepare(guest, bench).await?;
    let checked = bench.checked(&prepared.request).await?;
    // Any free port.
    let form = Form::Standalone {
        forward: Some(("127.0.0.1:0".parse()?, 7002)),
    };
    let mut arguments =
        command::render(ID, &prepared.request, &checked, &prepared.resources, &form)?;
    for word in [
        "-S",
        "-chardev",
        bench::QMP_SOCKET,
        "-mon",
        "chardev=test,mode=control",
    ] {
        arguments.push(word.to_owned());
    }
    let program = bench.qemu.info().await?.path.clone();
    let mut qemu = PausedQemu::start(&program, &arguments, Vec::new()).await?;
    let compared = compare(&mut qemu, bench, case, &prepared).await;
    let listing = qemu.human("info usernet").await;
    qemu.quit().await?;
    compared?;
    ensure!(
        listing?.contains("TCP[HOST_FORWARD]"),
        "the agent's port is not forwarded"
    );
    Ok(())
}

async fn compare(
    qemu: &mut PausedQemu,
    bench: &Bench,
    case: &Case,
    prepared: &Prepared,
) -> anyhow::Result<()> {
    let same = |what: &str, said: &Json, meant: Json| {
        ensure!(
            *said == meant,
            "{what}: QEMU has {said}, and {meant} was meant"
        );
        Ok(())
    };
    same(
        "status",
        &qemu.ask("query-status", json!({})).await?["status"],
        "prelaunch".into(),
    )?;
    same(
        "name",
        &qemu.ask("query-name", json!({})).await?["name"],
        ID.into(),
    )?;
    same(
        "uuid",
        &qemu.ask("query-uuid", json!({})).await?["UUID"],
        ID.into(),
    )?;

    let memory = qemu.ask("query-memory-size-summary", json!({})).await?;
    same("memory", &memory["base-memory"], case.memory.into())?;
    let memory = qemu.get("/machine", "memory").await?;
    let (slots, most) = case.growth().unwrap_or((0, case.memory));
    same(
        "slots",
        memory.get("slots").unwrap_or(&json!(0)),
        slots.into(),
    )?;
    same(
        "max-size",
        memory.get("max-size").unwrap_or(&json!(case.memory)),
        most.into(),
    )?;
    let backend = match case.memory_backend {
        MemoryBackend::Ram | MemoryBackend::Memfd => "/objects/ram1",
        // The machine's own.
        MemoryBackend::None => "/objects/pc.ram",
    };
    same(
        "memory-backend",
        &qemu.get("/machine", "memory-backend").await?,
        backend.into(),
    )?;
    same(
        "type of memory",
        &qemu.get(backend, "type").await?,
        case.memory_type().into(),
    )?;
    same(
        "dump-guest-core",
        &qemu.get("/machine", "dump-guest-core").await?,
        false.into(),
    )?;

    let cpus = qemu.ask("query-cpus-fast", json!({})).await?;
    let cpus = cpus.as_array().context("a list of CPUs")?;
    same("vCPUs", &cpus.len().into(), case.vcpus.into())?;
    let first = cpus[0]["qom-path"].as_str().context("a path")?;
    let cpu_type = format!("{}-x86_64-cpu", case.cpu.unwrap_or("EPYC"));
    same(
        "CPU model",
        &qemu.get(first, "type").await?,
        cpu_type.into(),
    )?;
    let smp = qemu.get("/machine", "smp").await?;
    same("maxcpus", &smp["maxcpus"], case.expected_max_cpus().into())?;
    let info = bench.qemu.info().await?;
    let machine = info
        .machine(case.machine.unwrap_or("q35"))
        .context("a machine of this QEMU")?;
    let machine_type = format!("{machine}-machine");
    same(
        "machine",
        &qemu.get("/machine", "type").await?,
        machine_type.into(),
    )?;

    let path_of = |role: &str| -> Json {
        let file = prepared.request.file_with_role(role);
        file.map_or("", |file| file.path.to_str().expect("a UTF-8 path"))
            .into()
    };
    let (kernel, initrd, cmdline) = match case.boot {
        Boot::Kernel => (path_of("kernel"), path_of("initrd"), case.cmdline.as_str()),
        Boot::Disk => ("".into(), "".into(), ""),
    };
    same(
        "kernel",
        &text(qemu.get("/machine", "kernel").await?),
        kernel,
    )?;
    same(
        "initrd",
        &text(qemu.get("/machine", "initrd").await?),
        initrd,
    )?;
    same(
        "append",
        &text(qemu.get("/machine", "append").await?),
        cmdline.into(),
    )?;

    let block = qemu.ask("query-block", json!({})).await?;
    let inserted = |matches: &dyn Fn(&Json) -> bool| -> Json {
        let devices = block.as_array().into_iter().flatten();
        devices
            .filter(|device| matches(device))
            .map(|device| device["inserted"].clone())
            .collect()
    };
    for flash in case.expected_flash(prepared) {
        let chip = inserted(&|device| device["device"] == flash.device);
        same(
            flash.device,
            &chip[0]["image"]["filename"],
            flash.path.into(),
        )?;
        same(flash.device, &chip[0]["ro"], flash.is_read_only.into())?;
        same(flash.device, &chip[0]["drv"], flash.format.into())?;
    }
    let bios = match case.firmware {
        Firmware::Bios => path_of("firmware"),
        // QEMU's own, which flash chips with code come before.
        _ => "bios-256k.bin".into(),
    };
    same(
        "firmware",
        &text(qemu.get("/machine", "firmware").await?),
        bios,
    )?;
    for one in &prepared.request.data_disks {
        let id = one.device_id();
        let disk = inserted(&|device| device["inserted"]["node-name"] == id.as_str());
        let path = one.path.to_str().context("a UTF-8 path")?;
        same(&id, &disk[0]["image"]["filename"], path.into())?;
        same(&id, &disk[0]["drv"], one.disk.format.as_str().into())?;
        same(&id, &disk[0]["ro"], true.into())?;
        let device = format!("/machine/peripheral/{id}");
        let serial = qemu.get(&device, "serial").await?;
        same(&id, &serial, one.disk.id.as_str().into())?;
    }
    if case.boot == Boot::Disk {
        let disk = inserted(&|device| device["inserted"]["node-name"] == "disk0");
        let overlay = prepared
            .resources
            .disk
            .as_ref()
            .map(|disk| disk.overlay.clone());
        same("disk", &disk[0]["image"]["filename"], overlay.into())?;
        same(
            "image",
            &disk[0]["image"]["backing-image"]["filename"],
            path_of("disk"),
        )?;
    }
    Ok(())
}

/// A machine's text that is not set is null or empty, by version.
fn text(value: Json) -> Json {
    if value.is_null() { "".into() } else { value }
}

/// What the daemon logs can be pasted: a shell makes exactly the same arguments of it.
#[tokio::test]
async fn a_shell_reads_the_logged_line_back() {
    let temp = tempfile::tempdir().expect("a folder");
    let guest = Guest::new(temp.path());
    let bench = Bench::new(&artifacts::qemus()[0], toml::Table::new()).await;
    let standalone = Form::Standalone {
        forward: Some(("127.0.0.1:6100".parse().unwrap(), 7002)),
    };
    let mut seen = BTreeSet::new();
    for case in cases::all() {
        let prepared = case
            .prepare(&guest, &bench)
            .await
            .expect("it can be prepared");
        let checked = bench
            .checked(&prepared.request)
            .await
            .expect("it can be planned");
        for form in [&MANAGED, &standalone] {
            let arguments =
                command::render(ID, &prepared.request, &checked, &prepared.resources, form);
            let arguments = arguments.expect("it can be rendered");
            let line = command::shell_line(arguments.iter().map(String::as_str));
            assert!(!line.contains('\n'), "{line}");
            assert_eq!(read_by_shell(&line).await, arguments, "{line}");
            seen.insert(line);
        }
    }
    assert_eq!(seen.len(), 2 * CASES);
    // Words that no plan gives today.
    let words = [
        "", " ", "-n", "'", "''", "\"", "\\", "a\\'b", "$(id)", "`id`", "!!", "{a,b}", "a\nb",
    ];
    assert_eq!(read_by_shell(&command::shell_line(words)).await, words);
}

async fn read_by_shell(line: &str) -> Vec<String> {
    let script = format!("printf '%s\\0' {line}");
    let arguments = vec!["-c".into(), script.into()];
    let shell = Path::new("sh");
    let output = run_tool(shell, arguments, Vec::new(), &Credentials::Daemon, PATIENCE).await;
    let output = output.expect("sh runs");
    assert_eq!(output.exit, Exit::Code(0), "{}", output.stderr);
    let text = String::from_utf8(output.stdout).expect("UTF-8 stays UTF-8");
    let mut words: Vec<String> = text.split('\0').map(str::to_owned).collect();
    assert_eq!(
        words.pop().as_deref(),
        Some(""),
        "each word ends with a NUL"
    );
    words
}

/// A plan is a function of the request and of the facts that were recorded with it.
#[tokio::test]
async fn a_plan_is_made_again_from_its_recorded_facts() {
    let temp = tempfile::tempdir().expect("a folder");
    let guest = Guest::new(temp.path());
    let bench = Bench::new(&artifacts::qemus()[0], toml::Table::new()).await;
    // A QEMU that cannot start, so that no answer can come from it.
    let elsewhere = Bench::new(Path::new("/nonexistent"), toml::Table::new()).await;
    for case in cases::all().into_iter().take(12) {
        let prepared = case
            .prepare(&guest, &bench)
            .await
            .expect("it can be prepared");
        let request = &prepared.request;
        let first = bench
            .plan(request, bench.host_facts())
            .await
            .expect("it can be planned");
        assert!(!first.facts.is_empty());
        let stored = serde_json::to_string(&first.facts).expect("a record can be stored");
        let replay = |text: &str| -> Arc<dyn FactSource> {
            Arc::new(serde_json::from_str::<FactRecord>(text).expect("a record can be read"))
        };
        let second = elsewhere
            .plan(request, replay(&stored))
            .await
            .expect("it can be replayed");
        assert_eq!(second.plan, first.plan, "{case:?}");
        assert_eq!(second.facts, first.facts, "{case:?}");

        let machine = &first.plan.machine.kind;
        let (family, _) = machine.rsplit_once('-').expect("a versioned name");
        let other = format!("{family}-99.1");
        let changed = stored.replace(machine.as_str(), &other);
        let third = elsewhere.plan(request, replay(&changed)).await;
        if case.machine.is_some_and(|wanted| wanted == machine) {
            // The question is another one then, and the record does not have it.
            let refusal = third.expect_err("nothing was recorded about it");
            assert_backend_error(&refusal, BackendErrorKind::Unavailable, "machine");
        } else {
            let plan = third.expect("it can be planned").plan;
            assert_eq!(plan.machine.kind, other, "{case:?}");
            assert_ne!(plan, first.plan);
        }
        let version = &bench.qemu.info().await.expect("it is probed").version;
        let older = stored.replace(&format!("\"{version}\""), "\"6.0.0\"");
        assert_ne!(older, stored);
        let refusal = elsewhere
            .plan(request, replay(&older))
            .await
            .expect_err("it is too old");
        assert_backend_error(&refusal, BackendErrorKind::UnsupportedHost, "qemu-version");
    }
    let nothing: Arc<dyn FactSource> = Arc::new(FactRecord::default());
    let case = &cases::all()[0];
    let prepared = case
        .prepare(&guest, &bench)
        .await
        .expect("it can be prepared");
    elsewhere
        .plan(&prepared.request, nothing)
        .await
        .expect_err("nothing is known then");
}

/// What QEMU would refuse does not reach it: the backend names the setting.
#[tokio::test]
async fn sizes_that_qemu_refuses_are_refused_with_the_name_of_the_setting() {
    let temp = tempfile::tempdir().expect("a folder");
    let guest = Guest::new(temp.path());
    let bench = Bench::new(&artifacts::qemus()[0], toml::Table::new()).await;
    for (key, value) in [
        ("max-memory", "63M"),
        ("max-memory", "1073741825"),
        ("memory-slots", "257"),
        ("maxcpus", "0"),
        ("maxcpus", "5000"),
    ] {
        let case = &cases::all()[0];
        let mut prepared = case
            .prepare(&guest, &bench)
            .await
            .expect("it can be prepared");
        let request = [(key.to_owned(), value.to_owned())].into();
        prepared.request.host.settings = bench.settings(&request);
        prepared.request.memory_bytes = 64 << 20;
        let refusal = bench.plan(&prepared.request, bench.host_facts()).await;
        let refusal = refusal.expect_err("it is refused");
        assert_backend_error(&refusal, BackendErrorKind::InvalidRequest, key);
    }
}

fn assert_backend_error(error: &CallError, kind: BackendErrorKind, subject: &str) {
    match error {
        CallError::Backend(error) => {
            assert_eq!(
                (error.kind, error.subject.as_str()),
                (kind, subject),
                "{error}"
            );
        }
        CallError::Fault { .. } => panic!("{error}"),
    }
}
