//! The registers that a verifier of a TDX guest will see, computed from what the guest is started
//! with.
//!
//! MRTD and the claims are known before the launch. RTMRs are extended by what runs in the guest:
//! they are said where firmware and kernel can be followed (a boot from a kernel), and unknown with
//! the reason otherwise. Where a value depends on something that cannot be looked up, all values that
//! may be are said, each with its condition; nothing is guessed, because a verifier would trust it.

mod claims;
mod linux;
mod mrtd;
mod pe;
mod rtmr;

use casemate_backend::answer::{invalid_request, quoted, unsuitable_file};
use casemate_backend::bindings::casemate::tee::facts::{self, FactError};
use casemate_backend::bindings::casemate::tee::types::{
    Alternative, Error, Firmware, HostFile, Input, Launch, LaunchRequest, Register,
};
use casemate_backend::facts::Answer;
use casemate_backend::files::{Bytes, Digests};
use casemate_backend::host::major_and_minor;
use casemate_backend::register::{self, CORIM, SHA_384, Source, TRUSTEE, computed, named, one_of};
use casemate_firmware::{LONGEST_READ, ReadAt};
use sha2::{Digest, Sha384};

use crate::plan::firmware::{self, COMBINED};
use crate::settings::{PageOrder, Settings};

/// The first QEMU of its project with TDX. It, and KVM, measure each page as they add it; the two
/// passes are those of older QEMUs with patches.
const ONE_PASS_SINCE: (u32, u32) = (10, 1);

const ONE_PASS: &str = "QEMU and KVM measure each page as they add it: QEMU 10.1 or newer on Linux \
                        6.16 or newer";
const TWO_PASS: &str = "QEMU adds all pages of a section before it measures any: QEMU 8.2 with the \
                        TDX patches of Intel or Canonical";

/// Bytes of SHA-384.
const DIGEST: usize = 48;

/// What the host told about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasureFacts {
    pub qemu_version: Answer<String>,
}

impl MeasureFacts {
    pub fn gather() -> Self {
        Self {
            qemu_version: facts::qemu_version(),
        }
    }

    /// Major and minor number, where there is a version that can be compared.
    fn qemu(&self) -> Option<(u32, u32)> {
        major_and_minor(self.qemu_version.as_ref().ok()?)
    }

    fn qemu_in_words(&self) -> String {
        match &self.qemu_version {
            Ok(version) => format!("QEMU is {}", quoted(version)),
            Err(FactError::Absent) => "there is no QEMU on this host".to_owned(),
            Err(FactError::Denied) => "the backend may not ask for QEMU's version".to_owned(),
            Err(FactError::Failed(reason)) => format!("QEMU did not tell its version: {reason}"),
        }
    }

    fn input(&self) -> Option<Input> {
        let version = self.qemu_version.as_ref().ok()?;
        Some(register::input("qemu-version", version, Source::Fact))
    }
}

/// Digests first, then claims. Of the plan only firmware, boot inputs and objects are looked at:
/// a measurement is also asked for where there is no plan of ours.
pub fn measure(
    request: &LaunchRequest,
    launch: &Launch,
    facts: &MeasureFacts,
    files: &impl Digests,
) -> Result<Vec<Register>, Error> {
    let settings = Settings::read(&request.host)?;
    let plan = &launch.plan;
    let mut registers = vec![
        mrtd(request, &plan.firmware, &settings, facts, files)?,
        rtmr::rtmr0(&settings),
    ];
    registers.extend(rtmr::of_boot(request, plan.boot, &settings, facts, files)?);
    registers.push(rtmr::rtmr3());
    registers.extend(claims::claims(request, &plan.objects, &settings)?);
    Ok(registers)
}

fn mrtd(
    request: &LaunchRequest,
    firmware: &Firmware,
    settings: &Settings,
    facts: &MeasureFacts,
    files: &impl Digests,
) -> Result<Register, Error> {
    let file = image(request, firmware)?;
    let sections = firmware::layout(file, &firmware::image(file, files)?)?;
    let bytes = Bytes::of(file, files);
    let value = |order| {
        mrtd::of(&sections, &bytes, order)
            .map_err(|fault| unsuitable(file, &fault.to_string(), fault.remedy()))
    };
    let digest = digest_of(files, file, &[])
        .map_err(|reason| unsuitable(file, &reason, "see why the file cannot be read"))?;
    let mut inputs = vec![register::input(
        "firmware",
        &register::hex(&digest),
        Source::File,
    )];
    let register = match page_order(settings, facts) {
        Some((order, source)) => {
            let word = match order {
                PageOrder::OnePass => "one-pass",
                PageOrder::TwoPass => "two-pass",
            };
            inputs.push(register::input("page-order", word, source));
            if source == Source::Fact {
                inputs.extend(facts.input());
            }
            computed("mrtd", SHA_384, &value(order)?, inputs)
        }
        None => {
            let words = format!("not known: {}", facts.qemu_in_words());
            inputs.push(register::input("page-order", &words, Source::Assumed));
            let alternatives = vec![
                alternative(ONE_PASS, &value(PageOrder::OnePass)?),
                alternative(TWO_PASS, &value(PageOrder::TwoPass)?),
            ];
            one_of("mrtd", SHA_384, alternatives, inputs)
        }
    };
    Ok(named(register, &[(CORIM, "mrtd"), (TRUSTEE, "mr_td")]))
}

fn page_order(settings: &Settings, facts: &MeasureFacts) -> Option<(PageOrder, Source)> {
    match settings.page_order {
        Some(order) => Some((order, Source::Setting)),
        None if facts.qemu()? >= ONE_PASS_SINCE => Some((PageOrder::OnePass, Source::Fact)),
        None => None,
    }
}

/// The file that QEMU gets as firmware: the one of the plan, whatever its role.
fn image<'a>(request: &'a LaunchRequest, firmware: &Firmware) -> Result<&'a HostFile, Error> {
    let refused = |what: &str| {
        Err(invalid_request(
            COMBINED,
            &format!("a TDX guest starts with one combined image, and the plan has {what}"),
            "name one combined image as firmware",
        ))
    };
    match firmware {
        Firmware::Bios(id) => {
            let mut files = request.host.files.iter();
            match files.find(|file| file.id == *id) {
                Some(file) => Ok(file),
                None => refused(&format!("file {id}, which is none of the request")),
            }
        }
        Firmware::None => refused("no firmware"),
        Firmware::Pflash(_) => refused("flash chips"),
        Firmware::Igvm(_) => refused("an IGVM file"),
    }
}

fn unsuitable(file: &HostFile, message: &str, remedy: &str) -> Error {
    let message = format!("{}: {message}", quoted(&file.label));
    unsuitable_file(COMBINED, &message, remedy)
}

fn alternative(condition: &str, value: &[u8]) -> Alternative {
    Alternative {
        condition: condition.to_owned(),
        value: value.to_vec(),
    }
}

fn sha384(bytes: &[u8]) -> [u8; DIGEST] {
    Sha384::digest(bytes).into()
}

/// SHA-384 over ranges of a file, or over all of it where there are none.
fn digest_of(
    files: &impl Digests,
    file: &HostFile,
    ranges: &[(u64, u64)],
) -> Result<[u8; DIGEST], String> {
    let digest = files.digest(file.id, SHA_384, ranges)?;
    <[u8; DIGEST]>::try_from(digest)
        .map_err(|other| format!("the host's digest has {} bytes", other.len()))
}

/// All of `length` bytes, at most [`LONGEST_READ`], or why not.
fn exactly(file: &impl ReadAt, offset: u64, length: u32) -> Result<Vec<u8>, String> {
    let within = |end: u64| end <= file.size() && length <= LONGEST_READ;
    if !offset.checked_add(u64::from(length)).is_some_and(within) {
        return Err(format!(
            "{length} bytes are wanted at {offset:#x}, and the file ends at {:#x}",
            file.size()
        ));
    }
    let bytes = file.read_at(offset, length)?;
    if bytes.len() as u64 != u64::from(length) {
        return Err(format!(
            "{length} bytes are wanted at {offset:#x}, and {} were read",
            bytes.len()
        ));
    }
    Ok(bytes)
}

/// Little-endian fields of headers. Zero is what is not there: callers read headers whole.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk);
    field.copied().map_or(0, u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk);
    field.copied().map_or(0, u32::from_le_bytes)
}

#[cfg(test)]
mod tests;
