//! Every check: its number, how far it binds, its rule in one sentence, where the specification has it,
//! and the claim without which it does not apply. Numbers are never given twice.
//!
//! Anchors name a file of the contract and the item in it: `types.wit#launch-plan`.

use serde::Serialize;

/// How deep a check looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Level {
    /// It is loaded as the daemon loads it.
    L0,
    /// Its answers keep the contract.
    L1,
    /// Requests of its own become what is written.
    L2,
    /// It holds when the host fails, and within budgets.
    L3,
}

impl Level {
    pub const ALL: [Self; 4] = [Self::L0, Self::L1, Self::L2, Self::L3];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::L0 => "L0",
            Self::L1 => "L1",
            Self::L2 => "L2",
            Self::L3 => "L3",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::L0 => "load",
            Self::L1 => "contract",
            Self::L2 => "golden requests",
            Self::L3 => "resilience and budgets",
        }
    }
}

/// Words of RFC 2119.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Force {
    Must,
    Should,
}

impl Force {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Must => "MUST",
            Self::Should => "SHOULD",
        }
    }
}

/// What a backend says of itself by announcement or export. A check of something that is not claimed
/// is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Claim {
    /// That it is a backend.
    Backend,
    /// It announces settings.
    Settings,
    /// It announces needs.
    Facts,
    /// Protection `guard`.
    Guard,
    /// It exports `measurement`.
    Measures,
    /// It exports `measurement-tool`.
    Tool,
    /// It comes with golden requests.
    Golden,
}

impl Claim {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backend => "backend",
            Self::Settings => "settings",
            Self::Facts => "facts",
            Self::Guard => "guard",
            Self::Measures => "measures",
            Self::Tool => "tool",
            Self::Golden => "golden",
        }
    }

    /// Why a check of it is skipped where it is not made.
    pub fn missing(self) -> &'static str {
        match self {
            Self::Backend => "it is no backend",
            Self::Settings => "it announces no setting",
            Self::Facts => "it announces no need",
            Self::Guard => "it announces protection `none`",
            Self::Measures => "it does not export `measurement`",
            Self::Tool => "it does not export `measurement-tool`",
            Self::Golden => "there are no golden requests: name their folder with --golden",
        }
    }
}

/// A rule of the contract that is held.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub id: &'static str,
    pub level: Level,
    pub force: Force,
    pub claim: Claim,
    pub anchor: &'static str,
    /// One sentence.
    pub rule: &'static str,
}

macro_rules! checks {
    ($($name:ident $id:literal $level:ident $force:ident $claim:ident $anchor:literal $rule:literal)*) => {
        $(pub static $name: Check = Check {
            id: $id,
            level: Level::$level,
            force: Force::$force,
            claim: Claim::$claim,
            anchor: $anchor,
            rule: $rule,
        };)*

        /// In the order of their numbers.
        pub static CHECKS: &[&Check] = &[$(&$name),*];
    };
}

checks! {
    IS_COMPONENT "L0-01" L0 Must Backend "world.wit#tee-backend"
        "The file is a WebAssembly component in binary form that validates."
    SIZE "L0-02" L0 Must Backend "ARCHITECTURE.md#limits-of-a-backend"
        "The component is no larger than what the host loads."
    IMPORTS "L0-03" L0 Must Backend "world.wit#tee-backend"
        "It imports nothing beyond its tier."
    EXPORTS_BACKEND "L0-04" L0 Must Backend "world.wit#backend"
        "It exports the interface `backend` of the contract."
    VERSION "L0-05" L0 Must Backend "README.md#how-a-host-chooses"
        "It was built against a version of the contract that this host serves, and no pre-release."
    TYPES_FIT "L0-06" L0 Must Backend "README.md#what-may-change-in-1x"
        "Each of its functions has the types of the contract."
    DESCRIBE_ANSWERS "L0-07" L0 Must Backend "world.wit#backend"
        "It is instantiated, and `describe` answers within the limits of a call."
    DESCRIBE_SOUND "L0-08" L0 Must Backend "types.wit#backend-info"
        "What `describe` answers is of the contract's form: names, kinds of settings, defaults of their kind, paths among the properties, protection that goes with the technology."
    DESCRIBE_SAME "L0-09" L0 Must Backend "world.wit#backend"
        "`describe` answers the same at every call."
    DESCRIBE_ALONE "L0-10" L0 Must Backend "world.wit#backend"
        "`describe` asks for no fact and reads no file."
    NEEDS_NAMED "L0-11" L0 Must Facts "types.wit#need"
        "Each need names a function of `facts`, with a pattern of that function's form."
    TOOL_MEASURES "L0-12" L0 Must Tool "world.wit#tee-backend-tool"
        "What exports `measurement-tool` exports `measurement` too."
    ARCHITECTURES "L0-13" L0 Must Backend "types.wit#backend-info"
        "It announces an architecture at least."
    NAME_SECTION "L0-14" L0 Should Backend "world.wit#backend"
        "Names of functions are kept in the component, so that a trap is told with them."
    DESCRIBED "L0-15" L0 Should Backend "types.wit#backend-info"
        "Name, vendor and version are told, each setting has a description and each need a reason."

    PLAN_ANSWERS "L1-01" L1 Must Backend "world.wit#backend"
        "`plan` answers every request with a plan or an error, and never traps."
    CHECK_ANSWERS "L1-02" L1 Must Backend "world.wit#backend"
        "`check` answers every host with findings, and never traps."
    LIMITS "L1-03" L1 Must Backend "ARCHITECTURE.md#limits-of-a-backend"
        "Every call ends within the limits of time, memory, output and log lines."
    SAME_ANSWER "L1-04" L1 Must Backend "world.wit#backend"
        "The same request with the same facts gets the same answer in another instance."
    REPLAYED "L1-05" L1 Must Backend "world.wit#facts"
        "A plan that is made again from the recorded facts is the same plan."
    EXTRAS_IGNORED "L1-06" L1 Must Backend "types.wit#extra"
        "An unknown key in the request's `extras` changes nothing."
    OTHER_ARCHITECTURE "L1-07" L1 Should Backend "types.wit#backend-info"
        "A request for an architecture that is not announced is refused, if it ever came."
    DEFAULTS_WORK "L1-08" L1 Must Settings "types.wit#setting-spec"
        "A request with every setting at its default is not refused for a setting."
    VALUES_TAKEN "L1-09" L1 Must Settings "types.wit#setting-spec"
        "Each value of an announced kind is taken, or refused by an error that names the setting or says what the host lacks."
    VALUES_REFUSED "L1-10" L1 Should Settings "types.wit#setting-spec"
        "A value that is not of the announced kind is refused, with the key as subject."
    FACTS_ANNOUNCED "L1-11" L1 Must Backend "types.wit#need"
        "It asks for facts that it announced, and for no others."
    FACTS_FAIL "L1-12" L1 Must Facts "world.wit#fact-error"
        "A fact that is denied, absent or failed is followed by an answer."
    DENIED_TOLD "L1-13" L1 Should Facts "world.wit#fact-error"
        "What config does not grant is not told as what the host does not have."
    FACT_TEXTS "L1-14" L1 Must Facts "world.wit#facts"
        "Facts of any content are followed by an answer: empty, long, of control characters, of extreme numbers."
    FINDINGS_FORM "L1-15" L1 Must Backend "types.wit#finding"
        "Findings have a machine-readable id and plain texts, and are no more than the host takes."
    REMEDIES "L1-16" L1 Must Backend "types.wit#finding"
        "A finding says what to do about it, and one that passes says nothing."
    FAIL_MEANS_NO "L1-17" L1 Must Backend "world.wit#backend"
        "Where `check` finds a `fail`, `plan` does not succeed."
    NO_IS_TOLD "L1-18" L1 Should Backend "world.wit#backend"
        "Where `plan` finds the host unsupported, `check` finds a `fail`, or warns of the same."
    ERRORS_WHOLE "L1-19" L1 Must Backend "types.wit#error"
        "An error has a subject, a message and a remedy, and none of them holds a control character."
    ERRORS_FORM "L1-20" L1 Should Backend "types.wit#error"
        "Message and remedy of an error are one sentence each, without a final period."
    IDENTITY_WHOLE "L1-21" L1 Must Backend "types.wit#identity"
        "An identity is carried whole, left-aligned and padded with zeros, or the request is refused for it, as always by what announces that it carries none."
    NO_IDENTITY "L1-22" L1 Must Backend "types.wit#launch-plan"
        "Where the request has no identity, the plan names no carrier."
    MACHINE_NAMED "L1-23" L1 Must Backend "types.wit#origin"
        "A machine that the operator or the caller named is used, or the request is refused."
    CPU_NAMED "L1-24" L1 Must Backend "types.wit#origin"
        "A CPU model that the operator or the caller named is used, or the request is refused."
    REPLACED_TOLD "L1-25" L1 Must Backend "types.wit#origin"
        "A built-in machine or CPU model that is replaced is told by a finding."
    FILES_USED "L1-26" L1 Must Backend "types.wit#origin"
        "A file that the caller named is used, or the request is refused."
    GUARD_AS_PROMISED "L1-27" L1 Must Backend "types.wit#protection"
        "Every plan has a guard, or none has, as the announced protection says."
    GUARD_IS_OBJECT "L1-28" L1 Must Guard "types.wit#launch-plan"
        "A guard is the id of an object of the plan."
    OBJECTS_ANNOUNCED "L1-29" L1 Must Backend "types.wit#type-use"
        "Objects and what is set of them are announced."
    DEVICES_ANNOUNCED "L1-30" L1 Must Backend "types.wit#type-use"
        "Devices and what is set of them are announced."
    TEXTS_ANNOUNCED "L1-31" L1 Must Backend "types.wit#backend-info"
        "Texts for the machine are announced, and those for the CPU model can be written in `-cpu`."
    PATHS "L1-32" L1 Must Backend "types.wit#value"
        "What QEMU opens is a file or a host path, and nothing else is."
    HOST_OWNED "L1-33" L1 Must Backend "types.wit#launch-plan"
        "What the host renders is not in a plan."
    IDS "L1-34" L1 Must Backend "types.wit#typed"
        "Each object has an id, ids are of QEMU's form, unique, and not of the host's prefix."
    FORM "L1-35" L1 Must Backend "types.wit#property"
        "Names, property paths and texts are of the contract's form, no property is set twice, and lists are bounded."
    FILES_OF_REQUEST "L1-36" L1 Must Backend "types.wit#file-id"
        "A plan names files of its request and those that it made, which have ids of their own."
    BOOT "L1-37" L1 Must Backend "types.wit#boot-inputs"
        "Boot inputs are those that the request has, and those that it says."
    MACHINE_VERSIONED "L1-38" L1 Must Backend "types.wit#launch-plan"
        "The machine has its versioned name where there is one."
    ABILITIES "L1-39" L1 Must Backend "types.wit#launch-plan"
        "Abilities are among those of the contract, each once."
    LEASES "L1-40" L1 Must Backend "types.wit#lease"
        "Leases have a name and an amount."
    TRANSPORT "L1-41" L1 Must Backend "types.wit#device-rules"
        "The transport is one of the contract's, and the overhead less than a host has."
    NO_EXTRAS "L1-42" L1 Must Backend "types.wit#extra"
        "A plan has no key that the contract does not define."
    NO_FAIL "L1-43" L1 Must Backend "types.wit#launch-plan"
        "A plan has no finding of severity `fail`."
    FIRMWARE_OPTIONS "L1-44" L1 Must Backend "types.wit#pflash-firmware"
        "Options of firmware are those of the contract, in their forms."
    HOSTILE_FILES "L1-45" L1 Must Backend "world.wit#files"
        "Files of any content are followed by an answer: empty, cut off, random, huge."
    HOSTILE_TEXTS "L1-46" L1 Must Backend "types.wit#launch-request"
        "Texts of any content are followed by an answer: commas, quotes, other scripts, great length."
    EXTREME_SIZES "L1-47" L1 Must Backend "types.wit#launch-request"
        "Sizes and counts at their bounds are followed by an answer."
    READS_OWN "L1-48" L1 Must Backend "world.wit#files"
        "It reads files of the request, and digests ranges that they have."
    MEASURE_ANSWERS "L1-49" L1 Must Measures "world.wit#measurement"
        "`measure` answers every launch with registers or an error, never traps, and has registers for a launch that the backend planned."
    REGISTERS_FORM "L1-50" L1 Must Measures "types.wit#register"
        "Registers have names and aliases of their own, known algorithms, and inputs of known sources."
    REGISTER_VALUES "L1-51" L1 Must Measures "world.wit#measurement"
        "A digest has the length of its algorithm and is not zeros, and a claim has 1 to 4,096 bytes."
    REGISTERS_HONEST "L1-52" L1 Must Measures "types.wit#register-value"
        "An unknown value has a reason, and a choice has two values at least."
    MEASURED_SAME "L1-53" L1 Must Measures "world.wit#measurement"
        "The same launch with the same facts has the same registers."
    MEASURED_INPUTS "L1-54" L1 Must Measures "types.wit#register"
        "A register changes when an input that it names changes."
    MEASURED_ELSEWHERE "L1-55" L1 Must Measures "world.wit#measurement"
        "A launch without a plan of the backend's is followed by an answer, with facts and without."
    TOOL_ANSWERS "L1-56" L1 Must Tool "world.wit#measurement-tool"
        "`command` and `parse` answer, whatever the tool said."
    TOOL_NAMED "L1-57" L1 Must Tool "types.wit#tool-command"
        "A tool is a program's name, and its arguments are plain."
    IDENTITY_PLANNED "L1-58" L1 Must Guard "types.wit#identity"
        "An identity of 32 bytes, which a daemon gives every VM with a guard, becomes a plan, but for a backend that announces that it carries none."
    CMDLINE_PASSED "L1-59" L1 Must Backend "types.wit#boot-inputs"
        "A command line comes with the kernel of its request, or a finding with the subject `kernel-cmdline` tells that it does not."
    TOPOLOGY "L1-60" L1 Must Backend "types.wit#launch-plan"
        "Sockets, cores and threads of a plan make as many vCPUs as it has at most, and as the request has at least."
    REGISTER_INPUTS "L1-61" L1 Must Measures "types.wit#register"
        "A register that has a digest names an input that it comes from."
    REFUSED_KINDS "L1-62" L1 Must Backend "types.wit#device-rules"
        "Kinds of device that a plan refuses are those of the contract, each once."
    BUILT_IN_PLANNED "L1-63" L1 Must Backend "types.wit#origin"
        "The machine and CPU model that are built into every daemon, `q35` and `EPYC` on every architecture, become a plan: what is of no use is replaced."

    GOLDEN "L2-01" L2 Must Golden "docs/conformance.md#golden-requests"
        "Each golden request becomes what is written."
    GOLDEN_OWNED "L2-02" L2 Must Golden "docs/conformance.md#golden-requests"
        "Each written outcome is of a golden request."
    GOLDEN_BOTH "L2-03" L2 Should Golden "docs/conformance.md#golden-requests"
        "Golden requests are ten at least, some planned and some refused."
    FITS_QEMU "L2-04" L2 Must Golden "types.wit#typed"
        "The named QEMU has all types and properties of the plans, with values of their types."

    PLAN_TIME "L3-01" L3 Should Backend "docs/conformance.md#budgets"
        "A plan takes no longer than its budget, in the median."
    MEMORY "L3-02" L3 Should Backend "docs/conformance.md#budgets"
        "A quarter of the memory that a call may have is enough for a plan."
    COMPILE_TIME "L3-03" L3 Should Backend "docs/conformance.md#budgets"
        "The component is compiled within its budget."
    SMALL "L3-04" L3 Should Backend "docs/conformance.md#budgets"
        "The component is no larger than its budget."
    FILES_FAIL "L3-05" L3 Must Backend "world.wit#files"
        "A file that cannot be opened, cannot be read or became shorter is followed by an answer."
    SLOW_FACTS "L3-06" L3 Must Facts "world.wit#facts"
        "Facts that take long are followed by an answer."
    FLAT "L3-07" L3 Must Backend "world.wit#backend"
        "A thousand calls give the same answer, and the host's memory stays flat."
    LOG_LINES "L3-08" L3 Should Backend "world.wit#log"
        "No call writes more log lines than are kept."
}

/// The check with this number.
pub fn by_id(id: &str) -> Option<&'static Check> {
    CHECKS.iter().copied().find(|check| check.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn numbers_go_up_by_one_within_their_level() {
        for level in Level::ALL {
            let of_level = CHECKS.iter().filter(|check| check.level == level);
            for (number, check) in (1..).zip(of_level) {
                assert_eq!(check.id, format!("{}-{number:02}", level.as_str()));
            }
        }
    }

    #[test]
    fn rules_are_sentences_and_no_two_are_the_same() {
        let mut rules = std::collections::BTreeSet::new();
        for check in CHECKS {
            assert!(check.rule.ends_with('.'), "{}", check.id);
            assert!(!check.rule.contains('\n'), "{}", check.id);
            assert!(rules.insert(check.rule), "{}", check.id);
        }
    }

    /// An item of the contract, or a heading of a document.
    #[test]
    fn anchors_are_there() {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for check in CHECKS {
            let (file, item) = check.anchor.split_once('#').unwrap();
            let at_top = file.starts_with("docs/") || file == "ARCHITECTURE.md";
            let folder = if at_top { "" } else { "wit" };
            let path = workspace.join(folder).join(file);
            let text = std::fs::read_to_string(&path);
            let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let is_there = text.lines().any(|line| match file.strip_suffix(".md") {
                Some(_) => line.strip_prefix('#').is_some_and(|rest| {
                    let heading = rest.trim_start_matches('#').trim().to_lowercase();
                    let kept = heading
                        .chars()
                        .filter(|c| c.is_alphanumeric() || " -".contains(*c));
                    kept.collect::<String>().replace(' ', "-") == item
                }),
                None => {
                    line.split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
                        .filter(|word| !word.is_empty())
                        .nth(1)
                        == Some(item)
                }
            });
            assert!(is_there, "{}: {}", check.id, check.anchor);
        }
    }
}
