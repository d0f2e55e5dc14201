//! Registers of TDX over files of any content. Beside answers that are safe to show: what is measured
//! of the firmware changes MRTD, and the command line RTMR2.

#![no_main]

use casemate_backend::arbitrary::refusal_is_complete;
use casemate_backend::bindings::casemate::tee::facts::FactError;
use casemate_backend::bindings::casemate::tee::types::{Firmware, LaunchRequest, Register};
use casemate_firmware::{ovmf, suitable};
use casemate_fuzz::guest::{
    self, Anchor, FIRMWARE, Input, assert_register, small_image, values, whole_pages,
};
use casemate_fuzz::reader::StrictFiles;
use casemate_tdx::measure::{MeasureFacts, measure};
use libfuzzer_sys::{Corpus, fuzz_target};

/// Most memory that a firmware may have the host add here, of which each page is hashed.
const MOST_MEMORY: u64 = 1 << 20;

const NAMES: [&str; 9] = [
    "mrtd",
    "rtmr0",
    "rtmr1",
    "rtmr2",
    "rtmr3",
    "attributes",
    "mrconfigid",
    "mrowner",
    "mrownerconfig",
];

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some(input) = Input::of(data) else {
        return Corpus::Reject;
    };
    let image = input.firmware_from(|| small_image().bytes(), Anchor::End);
    // Offsets count from the start of the file, so an image that is given whole stays as it is.
    let firmware = if input.patched {
        image
    } else {
        whole_pages(&image)
    };
    if takes_long(&firmware) {
        return Corpus::Reject;
    }
    ask(&input, &input.files(firmware));
    Corpus::Keep
});

fn takes_long(firmware: &[u8]) -> bool {
    let layout = ovmf::inspect(firmware)
        .ok()
        .and_then(|image| suitable::tdx_layout(&image).ok());
    layout.is_some_and(|layout| {
        let sizes = layout.sections.iter().map(|one| one.memory.size);
        let total = sizes.fold(0, u64::saturating_add);
        // What is past the backend's limit is refused at once.
        (MOST_MEMORY..=1 << 30).contains(&total)
    })
}

fn ask(input: &Input, files: &StrictFiles) {
    let settings = [
        (
            "mrtd-page-order",
            input.setting(0, [None, Some("one-pass"), Some("two-pass"), Some("auto")]),
        ),
        (
            "tdx-rtmr1-separator",
            input.setting(1, [None, Some("yes"), Some("no"), Some("auto")]),
        ),
        (
            "tdx-initrd-argument",
            input.setting(2, [None, Some("first"), Some("last"), Some("auto")]),
        ),
        (
            "tdx-attributes",
            input.setting(3, [None, Some("0x50000000"), Some("1"), Some("x")]),
        ),
    ];
    let settings: Vec<(&str, &str)> = settings
        .into_iter()
        .filter_map(|(key, word)| Some((key, word?)))
        .collect();
    let request = input.request(files, &settings);
    let guard = guest::guard(
        "tdx-guest",
        "attributes",
        &[("mrconfigid", 48), ("mrowner", 48), ("mrownerconfig", 48)],
        input.byte,
    );
    let launch = input.launch(Firmware::Bios(FIRMWARE), "host", guard);
    let facts = MeasureFacts {
        qemu_version: match input.qemu % 6 {
            0 => Ok("10.2.0".to_owned()),
            1 => Ok("10.1.0".to_owned()),
            2 => Ok("8.2.2\n".to_owned()),
            3 => Err(FactError::Absent),
            4 => Err(FactError::Denied),
            _ => Err(FactError::Failed("a\nb".to_owned())),
        },
    };
    let measure =
        |request: &LaunchRequest, files: &StrictFiles| measure(request, &launch, &facts, files);
    let registers = match measure(&request, files) {
        Ok(registers) => registers,
        Err(error) => {
            assert!(refusal_is_complete(&error), "{error:?}");
            return;
        }
    };
    let names: Vec<&str> = registers.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, NAMES);
    for register in &registers {
        assert_register(register, if register.name == "attributes" { 8 } else { 48 });
    }
    assert_eq!(
        measure(&request, files).as_ref(),
        Ok(&registers),
        "another answer to the same question"
    );
    if input.wrong_sizes {
        return;
    }
    if let Some(flipped) = flipped(input, files)
        && let Ok(other) = measure(&request, &flipped)
    {
        assert_all_differ("mrtd", &registers, &other);
    }
    // Without command line and initrd nothing is measured, and RTMR2 is said to be unknown.
    if input.has_kernel && input.has_cmdline && !input.cmdline.is_empty() {
        let mut longer = request.clone();
        longer.kernel_cmdline.push('x');
        let other = measure(&longer, files).expect("another command line is as good");
        assert_all_differ("rtmr2", &registers, &other);
    }
}

/// The files, with one byte of the first measured section's content another one.
fn flipped(input: &Input, files: &StrictFiles) -> Option<StrictFiles> {
    let firmware = files.files.0.get(&FIRMWARE)?;
    let image = ovmf::inspect(firmware).ok()?;
    let layout = suitable::tdx_layout(&image).ok()?;
    let mut sections = layout.sections.iter();
    let section = sections.find(|one| one.attributes & 1 != 0 && one.data_size > 0)?;
    let place = section.data_offset + u32::from(input.byte) * 16 % section.data_size;
    let mut other = input.files(firmware.clone());
    let image = other.files.0.get_mut(&FIRMWARE)?;
    *image.get_mut(place as usize)? ^= 1;
    // The tables are within a section, and another table may have another section measured.
    let after = suitable::tdx_layout(&ovmf::inspect(image.as_slice()).ok()?).ok()?;
    (after == layout).then_some(other)
}

fn assert_all_differ(name: &str, one: &[Register], other: &[Register]) {
    let of = |registers: &[Register]| -> Vec<Vec<u8>> {
        let mut registers = registers.iter();
        let register = registers.find(|register| register.name == name);
        let values = register.map(values).unwrap_or_default();
        values.into_iter().map(<[u8]>::to_vec).collect()
    };
    let (one, other) = (of(one), of(other));
    assert_eq!(one.len(), other.len(), "{name}");
    for (one, other) in one.iter().zip(&other) {
        assert_ne!(one, other, "{name}");
    }
}
