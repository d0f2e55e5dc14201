//! What a VM will be launched from, measured: digests of its files, the registers that its backend
//! computes, and another program's opinion where config allows one.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use casemate_attestation::{BackendIdentity, FileDigest, Measurement, Register, RegisterValue};

use super::error::CreateError;
use super::manager::Host;
use super::planning::Planned;
use super::sealed::sealed_copy;
use super::{facts::HostFacts, standalone};
use crate::backend::{Launched, LoadedBackend, ToolArgument, ToolWish};
use crate::qemu::process::ToolError;
use crate::qemu::tool::{self, Tool};
use crate::regular_file;
use crate::spec::request::RequestFile;

/// Where a program finds the first file that it is to measure.
const FIRST_FD: i32 = 10;

/// Measures `planned`; facts that are asked for on the way are added to those of the plan.
pub async fn measure(host: &Host, planned: &mut Planned) -> Result<(), CreateError> {
    let files = file_digests(planned).await?;
    let backend = std::sync::Arc::clone(&planned.backend);
    let mut registers = Vec::new();
    if backend.optional().measurement {
        let arguments = standalone::measured(planned)?;
        let source = std::sync::Arc::new(HostFacts::new(std::sync::Arc::clone(&planned.live.qemu)));
        let launch = Launched {
            plan: planned.checked.plan(),
            arguments: &arguments,
            facts: &planned.facts,
        };
        let outcome = backend.measure(&planned.request, &launch, source).await;
        let outcome = outcome.map_err(|error| host.backend_failed(error))?;
        if let Some(outcome) = outcome {
            host.metrics.backend_called(backend.name(), outcome.elapsed);
            registers = outcome.registers;
            planned.facts = outcome.facts;
        }
        ask_tool(host, planned, &arguments, &registers).await?;
    }
    planned.measurement = Some(Measurement {
        registers,
        files,
        backend: identity_of(&backend),
        qemu_version: Some(planned.checked.knowledge().info.version.clone()),
    });
    Ok(())
}

pub fn identity_of(backend: &LoadedBackend) -> BackendIdentity {
    let info = backend.info();
    BackendIdentity {
        name: backend.name().to_owned(),
        tee: info.tee.clone(),
        vendor: info.vendor.clone(),
        version: info.version.clone(),
        sha256: backend.sha256().to_owned(),
        corim_vendor: info.corim_vendor.clone(),
        corim_model: info.corim_model.clone(),
    }
}

/// The files that QEMU starts from. A disk is not among them: its guest writes to it.
async fn file_digests(planned: &Planned) -> Result<Vec<FileDigest>, CreateError> {
    let plan = planned.checked.plan();
    let named = plan.named_files();
    let boot = [(plan.boot.kernel, "kernel"), (plan.boot.initrd, "initrd")];
    let is_used = |file: &&RequestFile| {
        file.role != "disk"
            && (named.contains(&file.id)
                || boot.iter().any(|(used, role)| *used && file.role == *role))
    };
    let mut digests = Vec::new();
    for file in planned.request.host.files.iter().filter(is_used) {
        let digest = planned.backend.file_digest(file).await;
        let digest = digest.map_err(|reason| CreateError::File {
            role: file.role.clone(),
            path: file.path.clone(),
            source: std::io::Error::other(reason),
        })?;
        digests.push(FileDigest {
            role: file.role.clone(),
            sha384: hex::encode(&digest),
        });
    }
    Ok(digests)
}

/// Asks the program that the backend names, if config allows it, and holds its answer against the
/// backend's own.
async fn ask_tool(
    host: &Host,
    planned: &Planned,
    arguments: &[String],
    registers: &[Register],
) -> Result<(), CreateError> {
    let config = &planned.live.attestation;
    let Some(allowed) = &config.tool else {
        return Ok(());
    };
    let launch = Launched {
        plan: planned.checked.plan(),
        arguments,
        facts: &planned.facts,
    };
    let backend = &planned.backend;
    let wish = backend.tool(&planned.request, &launch).await;
    let Some(wish) = wish.map_err(|error| host.backend_failed(error))? else {
        return Ok(());
    };
    let Some(program) = program(allowed, &wish.program) else {
        tracing::warn!(
            program = wish.program,
            allowed = %allowed.display(),
            "the backend asks for another program than attestation.tool allows: nothing is held against its values"
        );
        return Ok(());
    };
    let failed = |source| CreateError::MeasuringTool {
        program: wish.program.clone(),
        source,
    };
    let output = run(host, planned, &wish, program, arguments)
        .await
        .map_err(failed)?;
    let said = backend
        .tool_registers(&planned.request, &launch, &output)
        .await
        .map_err(|error| host.backend_failed(error))?;
    agree(&wish.program, registers, &said)
}

/// The file of that name that config allows: the file itself, or one in a folder.
fn program(allowed: &std::path::Path, name: &str) -> Option<PathBuf> {
    if allowed.is_dir() {
        return Some(allowed.join(name));
    }
    (allowed.file_name() == Some(std::ffi::OsStr::new(name))).then(|| allowed.to_owned())
}

async fn run(
    host: &Host,
    planned: &Planned,
    wish: &ToolWish,
    program: PathBuf,
    launch: &[String],
) -> Result<Vec<u8>, ToolError> {
    let mut descriptors = Vec::new();
    let mut paths: BTreeMap<u32, String> = BTreeMap::new();
    let mut arguments: Vec<OsString> = Vec::new();
    for argument in &wish.arguments {
        match argument {
            ToolArgument::Text(text) => arguments.push(text.into()),
            ToolArgument::LaunchCommand => arguments.extend(launch.iter().map(OsString::from)),
            ToolArgument::File(id) => {
                let file = planned.request.file(*id);
                let Some(handle) = file.and_then(|file| file.open().ok()) else {
                    continue;
                };
                if !paths.contains_key(id) {
                    let number = FIRST_FD + i32::try_from(descriptors.len()).unwrap_or(i32::MAX);
                    let copy = handle.try_clone().map_err(|source| ToolError::Output {
                        program: program.clone(),
                        source,
                    })?;
                    descriptors.push((copy.into(), number));
                    paths.insert(*id, format!("/proc/self/fd/{number}"));
                }
                arguments.extend(paths.get(id).map(OsString::from));
            }
        }
    }
    let tool = Tool {
        program,
        sha256: planned.live.attestation.tool_sha256.clone(),
        arguments,
        descriptors,
        credentials: host.tool_credentials,
        limit: planned.live.attestation.tool_time,
    };
    let _turn = host.tool_turns.acquire().await;
    tool::run(tool, |path| {
        let file = regular_file::open(path)?;
        sealed_copy(&file).map(|(copy, _)| copy)
    })
    .await
}

/// What a program says of a register that the backend computed has to be that value, or one of those
/// that may hold.
fn agree(program: &str, computed: &[Register], said: &[Register]) -> Result<(), CreateError> {
    let mut compared = 0;
    for theirs in said {
        let Some(ours) = computed.iter().find(|ours| ours.name == theirs.name) else {
            continue;
        };
        let RegisterValue::Computed(value) = &theirs.value else {
            continue;
        };
        let may_hold: Vec<&[u8]> = ours.value.candidates().collect();
        compared += 1;
        if !may_hold.is_empty() && !may_hold.contains(&value.as_slice()) {
            return Err(CreateError::MeasurementsDiffer {
                program: program.to_owned(),
                register: ours.name.clone(),
                computed: may_hold
                    .iter()
                    .map(hex::encode)
                    .collect::<Vec<_>>()
                    .join(" or "),
                said: hex::encode(value),
            });
        }
    }
    if compared == 0 {
        return Err(CreateError::MeasuringToolSilent {
            program: program.to_owned(),
        });
    }
    Ok(())
}

/// Whether a VM that starts again would be seen by a verifier as it was before.
pub fn unchanged(before: &Measurement, now: Option<&Measurement>) -> Result<(), CreateError> {
    let mut changes = Vec::new();
    for old in &before.registers {
        let new = now.and_then(|now| now.registers.iter().find(|new| new.name == old.name));
        let is_same = new.is_some_and(|new| match (&old.value, &new.value) {
            // A reason may be told in other words.
            (RegisterValue::Unknown(_), RegisterValue::Unknown(_)) => true,
            (old, new) => old == new,
        });
        if !is_same {
            changes.push(format!(
                "{} was {}, and would be {}",
                old.name,
                in_words(&old.value),
                new.map_or_else(|| "nothing".to_owned(), |new| in_words(&new.value))
            ));
        }
    }
    if changes.is_empty() {
        Ok(())
    } else {
        Err(CreateError::MeasurementChanged { changes })
    }
}

fn in_words(value: &RegisterValue) -> String {
    match value {
        RegisterValue::Computed(value) => hex::encode(value),
        RegisterValue::OneOf(several) => several
            .iter()
            .map(|one| hex::encode(&one.value))
            .collect::<Vec<_>>()
            .join(" or "),
        RegisterValue::Unknown(_) => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use casemate_attestation::{Algorithm, Alternative};

    use super::*;

    fn register(name: &str, value: RegisterValue) -> Register {
        Register {
            name: name.to_owned(),
            algorithm: Algorithm::Sha384,
            value,
            inputs: Vec::new(),
            aliases: BTreeMap::new(),
        }
    }

    fn computed(byte: u8) -> RegisterValue {
        RegisterValue::Computed(vec![byte; 48])
    }

    fn one_of(bytes: &[u8]) -> RegisterValue {
        let several = bytes.iter().map(|byte| Alternative {
            condition: format!("it is {byte}"),
            value: vec![*byte; 48],
        });
        RegisterValue::OneOf(several.collect())
    }

    fn unknown(reason: &str) -> RegisterValue {
        RegisterValue::Unknown(reason.to_owned())
    }

    fn measurement(registers: Vec<Register>) -> Measurement {
        Measurement {
            registers,
            files: Vec::new(),
            backend: BackendIdentity {
                name: "one".to_owned(),
                tee: "none".to_owned(),
                vendor: "x".to_owned(),
                version: "1".to_owned(),
                sha256: "00".to_owned(),
                corim_vendor: None,
                corim_model: None,
            },
            qemu_version: None,
        }
    }

    #[test]
    fn a_vm_starts_again_only_as_the_one_that_it_was() {
        for (before, now, changed) in [
            (computed(1), Some(computed(1)), false),
            (computed(1), Some(computed(2)), true),
            (computed(1), Some(unknown("x")), true),
            (computed(1), None, true),
            (unknown("x"), Some(unknown("y")), false),
            (unknown("x"), Some(computed(1)), true),
            (one_of(&[1, 2]), Some(one_of(&[1, 2])), false),
            (one_of(&[1, 2]), Some(computed(1)), true),
        ] {
            let what = format!("{before:?} {now:?}");
            let before = measurement(vec![register("digest", before)]);
            let registers = now.map(|now| register("digest", now)).into_iter();
            // A register that there was not is no change.
            let more = registers.chain([register("new", computed(9))]).collect();
            let outcome = unchanged(&before, Some(&measurement(more)));
            assert_eq!(outcome.is_err(), changed, "{what}");
        }
        let before = measurement(vec![register("digest", computed(1))]);
        assert!(unchanged(&before, None).is_err());
        assert!(unchanged(&measurement(Vec::new()), None).is_ok());
    }

    #[test]
    fn a_program_agrees_or_both_values_are_shown() {
        for (ours, theirs, agrees) in [
            (computed(1), computed(1), true),
            (computed(1), computed(2), false),
            (one_of(&[1, 2]), computed(2), true),
            (one_of(&[1, 2]), computed(3), false),
            // What is unknown stays so, whatever a program says.
            (unknown("x"), computed(3), true),
        ] {
            let what = format!("{ours:?} {theirs:?}");
            let outcome = agree(
                "tool",
                &[register("digest", ours)],
                &[register("digest", theirs), register("other", computed(7))],
            );
            match outcome {
                Ok(()) => assert!(agrees, "{what}"),
                Err(error) => {
                    assert!(!agrees, "{what}");
                    let text = error.to_string();
                    assert!(text.contains("0101") && text.contains("digest"), "{text}");
                }
            }
        }
    }
}
