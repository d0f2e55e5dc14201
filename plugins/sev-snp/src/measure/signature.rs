//! Family, model and stepping of QEMU's CPU models: what a vCPU has in RDX when it starts.
//!
//! The physical CPU does not count, and neither does a model's version: the versions of a model
//! differ in features only (QEMU, target/i386/cpu.c).

/// Names of models, and what CPUID leaf 1 says in EAX (AMD APM volume 3, section E.3.2).
const MODELS: [(&str, u32); 6] = [
    ("EPYC", signature(23, 1, 2)),
    ("EPYC-IBPB", signature(23, 1, 2)),
    ("EPYC-Rome", signature(23, 49, 0)),
    ("EPYC-Milan", signature(25, 1, 1)),
    ("EPYC-Genoa", signature(25, 17, 0)),
    ("EPYC-Turin", signature(26, 0, 0)),
];

/// Families from 15 on are told as 15 and the rest in a field of their own.
const EXTENDED: u32 = 15;

const fn signature(family: u32, model: u32, stepping: u32) -> u32 {
    (family - EXTENDED) << 20 | (model >> 4) << 16 | EXTENDED << 8 | (model & 0xf) << 4 | stepping
}

/// Of a model by its name, with or without a version.
pub(crate) fn of(model: &str) -> Option<u32> {
    let name = match model.rsplit_once("-v") {
        Some((name, version))
            if !version.is_empty() && version.bytes().all(|digit| digit.is_ascii_digit()) =>
        {
            name
        }
        _ => model,
    };
    let known = MODELS.iter().find(|(known, _)| *known == name);
    known.map(|(_, signature)| *signature)
}

/// The names, for a message.
pub(crate) fn names() -> String {
    MODELS.map(|(name, _)| name).join(", ")
}
