//! RTMRs: what firmware and kernel extend while the guest boots, as far as it can be followed.
//!
//! An RTMR is SHA-384 over itself and the digest of an event, event after event, from zeros. At a
//! boot from a kernel, OVMF (edk2, `OvmfPkg/IntelTdx`) measures the kernel and its own last steps
//! into RTMR1, and the kernel's EFI stub what it was given into RTMR2. A guest that boots from a disk
//! measures what is on it, of which nothing is known here.

use casemate_backend::answer::{invalid_request, quoted};
use casemate_backend::bindings::casemate::tee::types::{
    Alternative, BootInputs, Error, HostFile, Input, LaunchRequest, Register,
};
use casemate_backend::boot::file_of_role;
use casemate_backend::files::{Bytes, Digests};
use casemate_backend::register::{
    self, CORIM, SHA_384, Source, TRUSTEE, computed, hex, named, one_of, unknown,
};
use casemate_backend::settings::text;

use super::{DIGEST, MeasureFacts, alternative, digest_of, linux, pe, sha384};
use crate::settings::{INITRD_ARGUMENT, InitrdArgument, RTMR0, RTMR1_SEPARATOR, Settings};

/// The first QEMU that gives the firmware the kernel as it is in its file (commit a7542a38f399). The
/// ones before write into its header, among others where the initrd will be.
const KERNEL_UNCHANGED_SINCE: (u32, u32) = (10, 2);

/// The first Linux whose EFI stub measures with the protocol that TDX firmware has.
const STUB_MEASURES_SINCE: (u32, u32) = (6, 9);

const CALLING: &[u8] = b"Calling EFI Application from Boot Option";
const SEPARATOR: &[u8] = &[0; 4];
const EXITING: &[u8] = b"Exit Boot Services Invocation";
const EXITED: &[u8] = b"Exit Boot Services Returned with Success";

pub(super) fn rtmr0(settings: &Settings) -> Register {
    const NAME: &str = "rtmr0";
    match &settings.rtmr0 {
        Some(value) => {
            let inputs = vec![register::input(RTMR0, &hex(value), Source::Setting)];
            named(computed(NAME, SHA_384, value, inputs), &[(CORIM, NAME)])
        }
        None => unknown(
            NAME,
            SHA_384,
            &format!(
                "the firmware extends it by the layout of memory, ACPI tables and boot variables, \
                 which depend on QEMU and all devices; {RTMR0} can say it for VMs of one shape"
            ),
            Vec::new(),
        ),
    }
}

pub(super) fn rtmr3() -> Register {
    unknown(
        "rtmr3",
        SHA_384,
        "it is extended by what runs in the guest; it is zeros at the launch",
        Vec::new(),
    )
}

/// RTMR1 and RTMR2.
pub(super) fn of_boot(
    request: &LaunchRequest,
    inputs: BootInputs,
    settings: &Settings,
    facts: &MeasureFacts,
    files: &impl Digests,
) -> Result<[Register; 2], Error> {
    let Some(boot) = Boot::of(request, inputs)? else {
        let on_disk = |name| {
            let reason = "it depends on what the disk boots";
            unknown(name, SHA_384, reason, Vec::new())
        };
        return Ok([on_disk("rtmr1"), on_disk("rtmr2")]);
    };
    let rtmr1 = or_unknown("rtmr1", rtmr1(request, &boot, settings, facts, files));
    let rtmr2 = or_unknown("rtmr2", rtmr2(&boot, settings, files));
    Ok([
        named(rtmr1, &[(CORIM, "rtmr1"), (TRUSTEE, "rtmr_1")]),
        named(rtmr2, &[(CORIM, "rtmr2"), (TRUSTEE, "rtmr_2")]),
    ])
}

fn or_unknown(name: &str, register: Result<Register, String>) -> Register {
    register.unwrap_or_else(|reason| unknown(name, SHA_384, &reason, Vec::new()))
}

/// What a guest boots from.
struct Boot<'a> {
    kernel: &'a HostFile,
    /// An empty one is none: QEMU tells the firmware its size.
    initrd: Option<&'a HostFile>,
    cmdline: &'a str,
}

impl<'a> Boot<'a> {
    /// `None`: from a disk.
    fn of(request: &'a LaunchRequest, inputs: BootInputs) -> Result<Option<Self>, Error> {
        if !inputs.contains(BootInputs::KERNEL) {
            return Ok(None);
        }
        let file = |role: &str| {
            file_of_role(&request.host, role).ok_or_else(|| {
                invalid_request(
                    role,
                    &format!("the plan boots with a file {role}, and the request has none"),
                    &format!("name a file as {role}"),
                )
            })
        };
        let initrd = if inputs.contains(BootInputs::INITRD) {
            Some(file("initrd")?)
        } else {
            None
        };
        Ok(Some(Self {
            kernel: file("kernel")?,
            initrd: initrd.filter(|file| file.size > 0),
            cmdline: if inputs.contains(BootInputs::CMDLINE) {
                &request.kernel_cmdline
            } else {
                ""
            },
        }))
    }
}

fn rtmr1(
    request: &LaunchRequest,
    boot: &Boot<'_>,
    settings: &Settings,
    facts: &MeasureFacts,
    files: &impl Digests,
) -> Result<Register, String> {
    if facts
        .qemu()
        .is_none_or(|qemu| qemu < KERNEL_UNCHANGED_SINCE)
    {
        let (major, minor) = KERNEL_UNCHANGED_SINCE;
        return Err(format!(
            "{}, and QEMU before {major}.{minor} writes into the kernel's header before the \
             firmware measures it",
            facts.qemu_in_words()
        ));
    }
    if let Some(device) = option_rom(request) {
        return Err(format!(
            "device {} may have an option ROM, which the firmware measures too",
            quoted(device)
        ));
    }
    let kernel = Bytes::of(boot.kernel, files);
    let hashed = pe::hashed(&kernel)?;
    linux::Header::of(&kernel)?;
    let digest = digest_of(files, boot.kernel, &hashed)
        .map_err(|reason| format!("the kernel cannot be read: {reason}"))?;
    let mut inputs = vec![register::input(
        "kernel-authenticode",
        &hex(&digest),
        Source::File,
    )];
    inputs.extend(facts.input());
    if request.devices.is_empty() {
        // Without a plan nobody says what devices there will be.
        inputs.push(register::input("option-roms", "none", Source::Assumed));
    }
    let value = |separator: bool| {
        let mut events = vec![digest, sha384(CALLING)];
        events.extend(separator.then(|| sha384(SEPARATOR)));
        events.extend([sha384(EXITING), sha384(EXITED)]);
        replay(&events)
    };
    let pinned = settings.rtmr1_separator.map(|separator| {
        let word = if separator { "yes" } else { "no" };
        (word, value(separator))
    });
    Ok(pinned_or_either(
        "rtmr1",
        RTMR1_SEPARATOR,
        pinned,
        [
            alternative(
                "the firmware measures the separator into RTMR1: edk2 with commit efaf893",
                &value(true),
            ),
            alternative(
                "the firmware measures the separator into RTMR0: edk2 without commit efaf893",
                &value(false),
            ),
        ],
        inputs,
    ))
}

/// The first device that may bring one along: QEMU has ROMs of its own for network devices, and a
/// host device has whatever it has.
fn option_rom(request: &LaunchRequest) -> Option<&str> {
    let with_rom = request.devices.iter().find(|device| {
        matches!(device.kind.as_str(), "net" | "vfio")
            && !device
                .properties
                .iter()
                .any(|set| set.path == "romfile" && set.value == text(""))
    });
    with_rom.map(|device| device.id.as_str())
}

fn rtmr2(boot: &Boot<'_>, settings: &Settings, files: &impl Digests) -> Result<Register, String> {
    let kernel = Bytes::of(boot.kernel, files);
    pe::hashed(&kernel)?;
    let version = linux::Header::of(&kernel)?.version(&kernel)?;
    let (major, minor) = version;
    if version < STUB_MEASURES_SINCE {
        return Err(format!(
            "the kernel is Linux {major}.{minor}, and it measures its command line and initrd from \
             {}.{} on only",
            STUB_MEASURES_SINCE.0, STUB_MEASURES_SINCE.1
        ));
    }
    let mut inputs = vec![
        register::input("kernel-version", &format!("{major}.{minor}"), Source::File),
        register::input("kernel-cmdline", boot.cmdline, Source::Request),
    ];
    let Some(initrd) = boot.initrd else {
        // Without a command line either, the stub measures nothing. The register is zeros then, and
        // zeros in a policy are what a value that nobody computed looks like.
        if boot.cmdline.is_empty() {
            return Err(
                "there is neither a command line nor an initrd, so nothing is measured into it"
                    .to_owned(),
            );
        }
        let value = replay(&[load_options(boot.cmdline)]);
        return Ok(computed("rtmr2", SHA_384, &value, inputs));
    };
    let digest = digest_of(files, initrd, &[])
        .map_err(|reason| format!("the initrd cannot be read: {reason}"))?;
    inputs.push(register::input("initrd", &hex(&digest), Source::File));
    let value = |argument| replay(&[load_options(&with_initrd(boot.cmdline, argument)), digest]);
    let pinned = settings.initrd_argument.map(|argument| {
        let word = match argument {
            InitrdArgument::First => "first",
            InitrdArgument::Last => "last",
        };
        (word, value(argument))
    });
    Ok(pinned_or_either(
        "rtmr2",
        INITRD_ARGUMENT,
        pinned,
        [
            alternative(
                "the firmware puts initrd=initrd before the command line: edk2 since the middle of \
                 2025",
                &value(InitrdArgument::First),
            ),
            alternative(
                "the firmware puts initrd=initrd after the command line: edk2 before the middle of \
                 2025",
                &value(InitrdArgument::Last),
            ),
        ],
        inputs,
    ))
}

/// The command line that OVMF gives a kernel with an initrd (edk2, `X86QemuLoadImageLib` and
/// `GenericQemuLoadImageLib`; pull request 11115 moved the argument to the front). An empty command
/// line keeps the blank.
fn with_initrd(cmdline: &str, argument: InitrdArgument) -> String {
    match argument {
        InitrdArgument::First => format!("initrd=initrd {cmdline}"),
        InitrdArgument::Last => format!("{cmdline} initrd=initrd"),
    }
}

/// Digest of a command line as the stub measures it: with its end, in UTF-16. The firmware makes one
/// unit of each byte, so that what is beyond ASCII is not what UTF-16 would have for it.
fn load_options(cmdline: &str) -> [u8; DIGEST] {
    let bytes = cmdline.bytes().chain([0]);
    sha384(&bytes.flat_map(|byte| [byte, 0]).collect::<Vec<u8>>())
}

/// The value that a setting decided on, or both.
fn pinned_or_either(
    name: &str,
    setting: &str,
    pinned: Option<(&str, [u8; DIGEST])>,
    alternatives: [Alternative; 2],
    mut inputs: Vec<Input>,
) -> Register {
    match pinned {
        Some((word, value)) => {
            inputs.push(register::input(setting, word, Source::Setting));
            computed(name, SHA_384, &value, inputs)
        }
        None => {
            inputs.push(register::input(
                setting,
                "not known: it depends on the firmware's build",
                Source::Assumed,
            ));
            one_of(name, SHA_384, alternatives.to_vec(), inputs)
        }
    }
}

fn replay(events: &[[u8; DIGEST]]) -> [u8; DIGEST] {
    events.iter().fold([0; DIGEST], |register, event| {
        sha384(&[register, *event].concat())
    })
}

#[cfg(test)]
mod tests;
