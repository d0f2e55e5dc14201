//! L0: the component as the daemon loads it, and what it tells about itself.

use std::path::Path;
use std::time::{Duration, Instant};

use casemate_host::backend::Tier;
use casemate_host::backend::{BackendConfig, BackendEngine, BackendInfo, LoadError, LoadedBackend};
use casemate_host::spec::permissions::{FactPattern, Permissions};
use tokio::runtime::Runtime;
use wasmparser::{KnownCustom, Parser, Payload};

use crate::catalogue::{self as checks, Check};
use crate::facts::FUNCTIONS;
use crate::ledger::Ledger;
use crate::witness::Witness;

/// In the order in which the host finds out.
static STEPS: [&Check; 8] = [
    &checks::SIZE,
    &checks::IS_COMPONENT,
    &checks::VERSION,
    &checks::IMPORTS,
    &checks::EXPORTS_BACKEND,
    &checks::TYPES_FIT,
    &checks::DESCRIBE_ANSWERS,
    &checks::DESCRIBE_SOUND,
];

/// A component in service, with the time that it took.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) backend: LoadedBackend,
    pub(crate) elapsed: Duration,
}

/// The config of a component that nobody pinned.
pub(crate) fn config(path: &Path, tier: Tier) -> BackendConfig {
    let name = path.file_stem().unwrap_or(path.as_os_str());
    BackendConfig {
        name: casemate_host::spec::printable(&name.to_string_lossy()),
        path: path.to_owned(),
        sha256: None,
        allow_unpinned: true,
        signature_keys: None,
        tier,
        canary: None,
        grants: Permissions::default(),
        settings: Default::default(),
    }
}

/// Loads it, twice, and judges what it says. None: the ledger has why.
pub(crate) fn load(
    ledger: &mut Ledger,
    engine: &BackendEngine,
    runtime: &Runtime,
    witness: &Witness,
    path: &Path,
    tier: Tier,
    bytes: &[u8],
) -> Result<Option<Loaded>, LoadError> {
    let config = config(path, tier);
    let started = Instant::now();
    let first = runtime.block_on(LoadedBackend::load(engine, &config, &[]));
    let elapsed = started.elapsed();
    let first = match first {
        Ok(backend) => backend,
        Err(error) => {
            let Some(check) = check_of(&error) else {
                return Err(error);
            };
            for step in STEPS.iter().copied().take_while(|step| *step != check) {
                ledger.tried(step);
            }
            ledger.fail(check, casemate_host::backend::catalog::chain(&error), None);
            ledger.end(check);
            return Ok(None);
        }
    };
    for step in STEPS {
        ledger.tried(step);
    }
    let seen = witness.take();
    let problem = seen
        .refused
        .first()
        .map(|asked| format!("it asked for {asked}"));
    ledger.judge(&checks::DESCRIBE_ALONE, problem, None);
    let again = runtime.block_on(LoadedBackend::load(engine, &config, &[]));
    let problem = match again {
        Ok(again) => difference(first.info(), again.info()),
        Err(error) => Some(format!("the second time: {error}")),
    };
    ledger.judge(&checks::DESCRIBE_SAME, problem, None);
    witness.take();
    tells(ledger, &first, bytes);
    Ok(Some(Loaded {
        backend: first,
        elapsed,
    }))
}

/// None: not the component's fault.
fn check_of(error: &LoadError) -> Option<&'static Check> {
    Some(match error {
        LoadError::TooLarge { .. } | LoadError::TooComplex { .. } => &checks::SIZE,
        LoadError::NotAComponent { .. } | LoadError::Invalid { .. } => &checks::IS_COMPONENT,
        LoadError::ApiVersion { .. } => &checks::VERSION,
        LoadError::UndeclaredImports { .. } => &checks::IMPORTS,
        LoadError::NoBackendExport => &checks::EXPORTS_BACKEND,
        LoadError::Link { .. } => &checks::TYPES_FIT,
        LoadError::Probe(_) => &checks::DESCRIBE_ANSWERS,
        LoadError::Describe(_) => &checks::DESCRIBE_SOUND,
        LoadError::Unreadable { .. }
        | LoadError::Unpinned { .. }
        | LoadError::DigestMismatch { .. }
        | LoadError::Signature(_)
        | LoadError::Setting(_)
        | LoadError::Canary { .. }
        | LoadError::Panicked(_) => return None,
    })
}

fn difference(one: &BackendInfo, other: &BackendInfo) -> Option<String> {
    let (one, other) = (format!("{one:?}"), format!("{other:?}"));
    (one != other).then(|| format!("first {one}, then {other}"))
}

fn tells(ledger: &mut Ledger, backend: &LoadedBackend, bytes: &[u8]) {
    let info = backend.info();
    for need in &info.needs {
        ledger.judge(&checks::NEEDS_NAMED, wrong_need(&need.pattern), None);
    }
    let optional = backend.optional();
    if optional.tool {
        let problem = (!optional.measurement).then_some("it exports `measurement-tool` alone");
        ledger.judge(&checks::TOOL_MEASURES, problem, None);
    }
    let problem = info.architectures.is_empty().then_some("it announces none");
    ledger.judge(&checks::ARCHITECTURES, problem, None);
    let problem = (!has_names(bytes)).then_some(
        "its largest module has no name section: strip debug information only (`strip = \"debuginfo\"`)",
    );
    ledger.judge(&checks::NAME_SECTION, problem, None);
    ledger.judge(&checks::DESCRIBED, undescribed(info), None);
}

/// What is wrong with a need, if anything.
fn wrong_need(need: &FactPattern) -> Option<String> {
    let (fact, pattern) = (need.fact.as_str(), need.pattern.as_str());
    let literal = pattern.strip_suffix('*');
    let begins = |start: &str| match literal {
        Some(prefix) => start.starts_with(prefix) || prefix.starts_with(start),
        None => pattern.starts_with(start) && pattern.len() > start.len(),
    };
    let is_decimal = |text: &str| {
        text.parse::<u64>()
            .is_ok_and(|number| number.to_string() == text)
    };
    let (fits, wanted) = match fact {
        "cpuid" => {
            let is_leaf = |digits: &str| {
                u32::from_str_radix(digits, 16).is_ok_and(|leaf| format!("{leaf:x}") == digits)
            };
            let fits = pattern == "*"
                || pattern
                    .strip_prefix("0x")
                    .is_some_and(|rest| match rest.strip_suffix('*') {
                        Some(digits) => digits
                            .bytes()
                            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)),
                        None => is_leaf(rest),
                    });
            (fits, "a leaf in lower-case hexadecimal, such as 0x8000001f")
        }
        "kvm-capability" => {
            let digits = literal.unwrap_or(pattern);
            let fits = is_decimal(digits) || (literal.is_some() && digits.is_empty());
            (fits, "a number in decimal")
        }
        "kvm-device-attribute" => {
            let fits = literal.is_some()
                || pattern
                    .split_once('/')
                    .is_some_and(|(group, attribute)| is_decimal(group) && is_decimal(attribute));
            (fits, "group/attribute in decimal")
        }
        "read-text" => (
            begins("/sys/") || begins("/proc/"),
            "a path below /sys or /proc",
        ),
        "device" => (begins("/dev/"), "a path below /dev"),
        "socket" => (begins("/"), "an absolute path"),
        "qemu-version" => (pattern.is_empty() || pattern == "*", "an empty pattern"),
        "qmp-query" => (begins("query-"), "a command that begins with `query-`"),
        "qemu-type" | "qemu-machine" => (!pattern.is_empty(), "a name, or `*`"),
        _ => {
            let known = FUNCTIONS.join(", ");
            return Some(format!(
                "{fact:?} is no function of `facts`, which are {known}"
            ));
        }
    };
    (!fits)
        .then(|| format!("the pattern {pattern:?} of {fact} matches nothing; wanted is {wanted}"))
}

fn undescribed(info: &BackendInfo) -> Option<String> {
    let texts = [
        ("name", &info.name),
        ("vendor", &info.vendor),
        ("version", &info.version),
    ];
    let empty = texts.iter().find(|(_, text)| text.trim().is_empty());
    if let Some((field, _)) = empty {
        return Some(format!("its {field} is empty"));
    }
    let silent = info
        .settings
        .iter()
        .find(|spec| spec.description.trim().is_empty());
    if let Some(spec) = silent {
        return Some(format!("setting {:?} has no description", spec.key));
    }
    let silent = info.needs.iter().find(|need| need.reason.trim().is_empty());
    silent.map(|need| format!("the need of {} has no reason", need.pattern.fact))
}

/// Whether the module with most functions has a name section. Wrapping adds small ones without.
fn has_names(bytes: &[u8]) -> bool {
    #[derive(Default)]
    struct Module {
        functions: u32,
        is_named: bool,
    }
    let mut open: Vec<Module> = Vec::new();
    let mut largest = Module::default();
    for payload in Parser::new(0).parse_all(bytes) {
        let Ok(payload) = payload else { return false };
        match payload {
            Payload::Version { .. } => open.push(Module::default()),
            Payload::CodeSectionStart { count, .. } => {
                if let Some(module) = open.last_mut() {
                    module.functions = count;
                }
            }
            Payload::CustomSection(section) => {
                if let (KnownCustom::Name(_), Some(module)) = (section.as_known(), open.last_mut())
                {
                    module.is_named = true;
                }
            }
            Payload::End(_) => {
                let ended = open.pop().unwrap_or_default();
                if ended.functions > largest.functions {
                    largest = ended;
                }
            }
            _ => {}
        }
    }
    largest.is_named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_that_can_match_is_told_from_one_that_cannot() {
        for (fact, pattern, fits) in [
            ("cpuid", "0x8000001f", true),
            ("cpuid", "0x8000001F", false),
            ("cpuid", "0x08", false),
            ("cpuid", "0x80*", true),
            ("cpuid", "*", true),
            ("cpuid", "31", false),
            ("kvm-capability", "235", true),
            ("kvm-capability", "0xeb", false),
            ("kvm-capability", "*", true),
            ("kvm-device-attribute", "1/1", true),
            ("kvm-device-attribute", "1", false),
            ("read-text", "/sys/module/*", true),
            ("read-text", "/etc/passwd", false),
            ("read-text", "/*", true),
            ("read-text", "/sys/", false),
            ("device", "/dev/sev", true),
            ("device", "sev", false),
            ("socket", "/run/x.sock", true),
            ("qemu-version", "", true),
            ("qemu-version", "10.1", false),
            ("qemu-type", "sev-snp-guest", true),
            ("qemu-type", "", false),
            ("qmp-query", "query-sev", true),
            ("qmp-query", "quit", false),
            ("moon-phase", "*", false),
        ] {
            let need = FactPattern {
                fact: fact.to_owned(),
                pattern: pattern.to_owned(),
            };
            assert_eq!(wrong_need(&need).is_none(), fits, "{fact} {pattern:?}");
        }
    }
}
