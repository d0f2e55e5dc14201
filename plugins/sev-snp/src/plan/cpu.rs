//! CPU models that an SEV-SNP guest can have.
//!
//! The firmware holds the guest's CPUID page against the real CPU, and refuses a page that promises
//! more (AMD 56860, SNP_LAUNCH_UPDATE, page type CPUID). Up to some version QEMU's models claim
//! complex cache indexing in leaf 0x8000001D, which no EPYC has. The model also gives each vCPU's
//! initial RDX, which is measured, so a name without a version is no answer.

use casemate_backend::answer::{invalid_request, note, pass, quoted, unavailable, warn};
use casemate_backend::bindings::casemate::tee::facts::FactError;
use casemate_backend::bindings::casemate::tee::types::{
    Error, Finding, LaunchRequest, Origin, Typed,
};
use casemate_backend::facts::QemuFacts;

/// The oldest model that passes; later CPUs have all of it.
pub(crate) const DEFAULT: &str = "EPYC-v4";

/// Families of models, and the first version of each that the firmware accepts.
const FAMILIES: [(&str, u32); 5] = [
    ("EPYC", 4),
    ("EPYC-Rome", 3),
    ("EPYC-Milan", 2),
    ("EPYC-Genoa", 1),
    ("EPYC-Turin", 1),
];

const REMEDY: &str =
    "name EPYC-v4, EPYC-Rome-v3, EPYC-Milan-v2, EPYC-Genoa-v1, EPYC-Turin-v1 or a later version";

/// The model to ask the host about, before anything is judged.
pub(crate) fn to_ask_about(request: &LaunchRequest) -> String {
    named(request).map_or_else(
        || DEFAULT.to_owned(),
        |name| resolve(name).unwrap_or_else(|_| name.to_owned()),
    )
}

/// A default that nobody chose is another technology's.
fn named(request: &LaunchRequest) -> Option<&str> {
    let choice = request.cpu.as_ref()?;
    (choice.origin != Origin::BuiltIn).then_some(choice.value.as_str())
}

/// The versioned model behind a name.
fn resolve(name: &str) -> Result<String, Error> {
    let refusal = |message: String| Err(invalid_request("cpu", &message, REMEDY));
    if matches!(name, "host" | "max") {
        return refusal(format!(
            "CPU model {name} promises features that the SEV firmware refuses in a guest's CPUID \
             page"
        ));
    }
    let (family, version) = match name.rsplit_once("-v") {
        Some((family, digits)) if !digits.starts_with('+') && digits.parse::<u32>().is_ok() => {
            (family, digits.parse::<u32>().ok())
        }
        _ => (name, None),
    };
    let Some((_, first)) = FAMILIES.iter().find(|(known, _)| *known == family) else {
        return refusal(format!(
            "{} is no EPYC model, and the SEV firmware accepts no other",
            quoted(name)
        ));
    };
    match version {
        // The name alone is version 1.
        None if *first == 1 => Ok(format!("{family}-v1")),
        None => refusal(format!(
            "CPU model {family} is {family}-v1, whose cache topology the SEV firmware refuses; \
             {family}-v{first} is the first that it accepts"
        )),
        Some(version) if version >= *first => Ok(name.to_owned()),
        Some(version) => refusal(format!(
            "the SEV firmware refuses the cache topology of CPU model {family}-v{version}; \
             {family}-v{first} is the first that it accepts"
        )),
    }
}

pub(super) fn model(
    request: &LaunchRequest,
    facts: &QemuFacts,
    findings: &mut Vec<Finding>,
) -> Result<Typed, Error> {
    let model = match named(request) {
        Some(name) => resolve(name)?,
        None => {
            if let Some(built_in) = &request.cpu
                && built_in.value != DEFAULT
            {
                findings.push(note(
                    "cpu.model-replaced",
                    "cpu",
                    &format!(
                        "the default CPU model {} is no choice for SEV-SNP, the guest gets {DEFAULT}",
                        quoted(&built_in.value)
                    ),
                    "name a CPU model to choose another",
                ));
            }
            DEFAULT.to_owned()
        }
    };
    match &facts.cpu_model {
        // Not being allowed to look is no statement about the model: QEMU has the last word.
        Ok(()) | Err(FactError::Denied) => Ok(Typed {
            kind: model,
            id: None,
            properties: Vec::new(),
        }),
        Err(FactError::Absent) => Err(absent(&model)),
        Err(FactError::Failed(reason)) => Err(unavailable(
            "cpu",
            &format!("QEMU did not tell its CPU models: {reason}"),
            "see the daemon's log for what QEMU said, and try again",
        )),
    }
}

fn absent(model: &str) -> Error {
    invalid_request(
        "cpu",
        &format!("this QEMU has no CPU model {}", quoted(model)),
        "name a model that `qemu-system-x86_64 -cpu help` lists, or install a newer QEMU",
    )
}

/// For `check`: whether the default model is there.
pub(crate) fn default_finding(facts: &QemuFacts) -> Finding {
    const ID: &str = "qemu.cpu";
    match &facts.cpu_model {
        Ok(()) => pass(ID, "cpu", &format!("QEMU has the CPU model {DEFAULT}")),
        // A request may name another.
        Err(FactError::Absent) => {
            let error = absent(DEFAULT);
            warn(ID, &error.subject, &error.message, &error.remedy)
        }
        Err(FactError::Denied) => warn(
            ID,
            "cpu",
            "the backend may not ask QEMU for its CPU models",
            "add qemu-type * to the grants of sev-snp",
        ),
        Err(FactError::Failed(reason)) => warn(
            ID,
            "cpu",
            &format!("QEMU did not tell its CPU models: {reason}"),
            "see the daemon's log for what QEMU said",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_that_the_firmware_accepts() {
        // Which versions claim complex indexing: QEMU, target/i386/cpu.c.
        for (name, expected) in [
            ("EPYC-v4", Some("EPYC-v4")),
            ("EPYC-v5", Some("EPYC-v5")),
            ("EPYC-v3", None),
            ("EPYC", None),
            ("EPYC-IBPB", None),
            ("EPYC-Rome-v2", None),
            ("EPYC-Rome-v3", Some("EPYC-Rome-v3")),
            ("EPYC-Rome", None),
            ("EPYC-Milan-v1", None),
            ("EPYC-Milan-v2", Some("EPYC-Milan-v2")),
            ("EPYC-Milan", None),
            ("EPYC-Genoa", Some("EPYC-Genoa-v1")),
            ("EPYC-Genoa-v2", Some("EPYC-Genoa-v2")),
            ("EPYC-Turin", Some("EPYC-Turin-v1")),
            ("EPYC-Genoa-v0", None),
            ("EPYC-v+4", None),
            ("EPYC-v", None),
            ("EPYC-v99999999999", None),
            ("host", None),
            ("max", None),
            ("qemu64", None),
            ("Skylake-Server-v4", None),
            ("epyc-v4", None),
            ("EPYC-v4,pmu=off", None),
            ("", None),
        ] {
            assert_eq!(resolve(name).ok().as_deref(), expected, "{name}");
        }
    }
}
