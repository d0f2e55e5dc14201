//! The launch digest of SEV-SNP over files of any content. Beside answers that are safe to show:
//! whatever is said to be part of the digest changes it.

#![no_main]

use casemate_backend::arbitrary::refusal_is_complete;
use casemate_backend::bindings::casemate::tee::facts::FactError;
use casemate_backend::bindings::casemate::tee::types::{
    Error, Firmware, Launch, LaunchRequest, Register, RegisterValue,
};
use casemate_firmware::igvm::{self, Directive, PageContent};
use casemate_firmware::{ovmf, suitable};
use casemate_fuzz::guest::{
    self, Anchor, FIRMWARE, Input, KERNEL, assert_register, small_image, whole_pages,
};
use casemate_fuzz::igvm::repaired;
use casemate_fuzz::reader::StrictFiles;
use casemate_fuzz::seeds;
use casemate_sev_snp::measure::{MeasureFacts, measure};
use libfuzzer_sys::{Corpus, fuzz_target};

/// Most memory that a firmware may have the host add here. Each page is hashed, up to a limit of the
/// backend's that takes seconds, of which nothing is learned.
const MOST_MEMORY: u64 = 4 << 20;

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some(mut input) = Input::of(data) else {
        return Corpus::Reject;
    };
    // Further vCPUs are all the same.
    input.vcpus %= 200;
    let firmware = if input.other_firmware {
        repaired(&input.firmware_from(seeds::igvm_for_kvm, Anchor::Start))
    } else {
        whole_pages(&input.firmware_from(|| small_image().bytes(), Anchor::End))
    };
    if takes_long(&firmware) {
        return Corpus::Reject;
    }
    ask(&input, &input.files(firmware));
    Corpus::Keep
});

fn takes_long(firmware: &[u8]) -> bool {
    let mut sizes = Vec::new();
    if let Ok(image) = ovmf::inspect(firmware)
        && let Ok(layout) = suitable::snp_layout(&image)
    {
        sizes.extend(layout.sections.iter().map(|one| one.area.size));
    }
    if let Ok(found) = igvm::directives(firmware, u32::MAX) {
        sizes.extend(found.iter().filter_map(|one| match one {
            Directive::Parameters { size, .. } => Some(*size),
            _ => None,
        }));
    }
    // What is past the backend's limit is refused at once.
    let total = sizes.iter().filter(|size| **size <= 1 << 30).sum::<u64>();
    total > MOST_MEMORY
}

fn ask(input: &Input, files: &StrictFiles) {
    let settings = settings(input);
    let guest = Guest {
        input,
        launch: launch(input),
        facts: MeasureFacts {
            vmsa_features: match input.qemu % 3 {
                0 => Ok(0x20),
                1 => Err(FactError::Absent),
                _ => Err(FactError::Failed("a\nb".to_owned())),
            },
        },
    };
    let request = input.request(files, &settings);
    let registers = match guest.measure(&request, files) {
        Ok(registers) => registers,
        Err(error) => {
            assert!(refusal_is_complete(&error), "{error:?}");
            return;
        }
    };
    let names: Vec<&str> = registers.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["launch-digest", "guest-policy", "host-data"]);
    for register in &registers {
        assert_register(register, if register.name == "host-data" { 32 } else { 8 });
    }
    assert_eq!(
        guest.measure(&request, files).as_ref(),
        Ok(&registers),
        "another answer to the same question"
    );
    match value(&registers) {
        Some(_) if input.wrong_sizes => {}
        Some(digest) if input.other_firmware => guest.assert_pages_count(&request, files, digest),
        Some(digest) => {
            guest.assert_files_count(&request, files, digest);
            let boot_only = settings.contains(&("measured-vmsas", "boot"));
            guest.assert_request_counts(&request, files, digest, boot_only);
        }
        None => assert!(input.other_firmware, "with OVMF the digest is known"),
    }
}

fn settings(input: &Input) -> Vec<(&'static str, &'static str)> {
    [
        (
            "measured-vmsas",
            input.setting(0, [None, Some("all"), Some("boot"), Some("auto")]),
        ),
        (
            "guest-features",
            input.setting(1, [None, Some("0x1"), Some("0x21"), Some("0x20")]),
        ),
        (
            "sev-snp-policy",
            input.setting(
                2,
                [None, Some("0x30000"), Some("0xffffffffffffffff"), Some("x")],
            ),
        ),
    ]
    .into_iter()
    .filter_map(|(key, word)| Some((key, word?)))
    .collect()
}

fn launch(input: &Input) -> Launch {
    const MODELS: [&str; 6] = [
        "EPYC-Milan",
        "EPYC-v4",
        "EPYC-Genoa-v2",
        "EPYC-Turin",
        "host",
        "EPYC\n-v\u{7}",
    ];
    let model = MODELS[usize::from(input.model) % MODELS.len()];
    let guard = guest::guard("sev-snp-guest", "policy", &[("host-data", 32)], input.byte);
    let firmware = if input.other_firmware {
        Firmware::Igvm(FIRMWARE)
    } else {
        Firmware::Bios(FIRMWARE)
    };
    input.launch(firmware, model, guard)
}

/// What stays the same where a part is another one.
struct Guest<'a> {
    input: &'a Input,
    launch: Launch,
    facts: MeasureFacts,
}

impl Guest<'_> {
    fn measure(
        &self,
        request: &LaunchRequest,
        files: &StrictFiles,
    ) -> Result<Vec<Register>, Error> {
        measure(request, &self.launch, &self.facts, files)
    }

    fn has_digest(&self, request: &LaunchRequest, files: &StrictFiles, digest: &[u8]) -> bool {
        let registers = self.measure(request, files);
        registers.is_ok_and(|registers| value(&registers) == Some(digest))
    }

    /// All of the image is measured, and the kernel where the guest starts with one.
    fn assert_files_count(&self, request: &LaunchRequest, files: &StrictFiles, digest: &[u8]) {
        let place = usize::from(self.input.byte) * 16;
        let other = self.with(files, FIRMWARE, |image| flip(image, place));
        assert!(!self.has_digest(request, &other, digest), "firmware");
        let longer = self.with(files, KERNEL, |kernel| kernel.push(0));
        let mut request = request.clone();
        if let Some(kernel) = request.host.files.iter_mut().find(|one| one.id == KERNEL) {
            kernel.size += 1;
        }
        let is_same = self.has_digest(&request, &longer, digest);
        assert_eq!(is_same, !self.input.has_kernel, "kernel");
    }

    fn assert_request_counts(
        &self,
        request: &LaunchRequest,
        files: &StrictFiles,
        digest: &[u8],
        boot_only: bool,
    ) {
        let mut longer = request.clone();
        longer.kernel_cmdline.push('x');
        let is_same = self.has_digest(&longer, files, digest);
        let counts = self.input.has_kernel && self.input.has_cmdline;
        assert_eq!(is_same, !counts, "command line");
        let mut more = request.clone();
        more.vcpus += 1;
        let is_same = self.has_digest(&more, files, digest);
        assert_eq!(is_same, boot_only, "vCPUs");
    }

    /// The first measured page of an IGVM file.
    fn assert_pages_count(&self, request: &LaunchRequest, files: &StrictFiles, digest: &[u8]) {
        let page = files
            .files
            .0
            .get(&FIRMWARE)
            .and_then(|file| first_page(file));
        if let Some(page) = page {
            let place = page + usize::from(self.input.byte) * 16;
            let other = self.with(files, FIRMWARE, |file| {
                flip(file, place);
                *file = repaired(file);
            });
            // The repair undoes what was changed in the checksum.
            let is_same = other.files.0 == files.files.0;
            assert_eq!(self.has_digest(request, &other, digest), is_same, "a page");
        }
    }

    fn with(&self, files: &StrictFiles, id: u32, change: impl FnOnce(&mut Vec<u8>)) -> StrictFiles {
        let mut other = self.input.files(Vec::new());
        other.files.0.clone_from(&files.files.0);
        if let Some(content) = other.files.0.get_mut(&id) {
            change(content);
        }
        other
    }
}

fn first_page(file: &[u8]) -> Option<usize> {
    let headers = igvm::inspect(file).ok()?;
    let platform = suitable::for_snp_igvm(&headers).ok()?;
    let directives = igvm::directives(file, platform.compatibility_mask).ok()?;
    directives.iter().find_map(|one| match one {
        Directive::Page {
            content: PageContent::Measured(Some(offset)),
            ..
        } => Some(*offset as usize),
        _ => None,
    })
}

/// The launch digest, where it is known.
fn value(registers: &[Register]) -> Option<&[u8]> {
    match &registers.first()?.value {
        RegisterValue::Computed(value) => Some(value),
        _ => None,
    }
}

fn flip(bytes: &mut [u8], place: usize) {
    let place = place % bytes.len().max(1);
    if let Some(byte) = bytes.get_mut(place) {
        *byte ^= 1;
    }
}
