//! The firmware of a TDX guest: a TDVF in one file (`-bios`), and nothing else.
//!
//! KVM has no read-only memory for protected guests, so there is no flash chip, and QEMU reads no
//! IGVM file for TDX.

use casemate_backend::answer::{invalid_request, quoted, unsuitable_file, unsupported_host};
use casemate_backend::bindings::casemate::tee::types::{
    Error, Firmware, HostContext, HostFile, Origin,
};
use casemate_backend::boot::file_of_role;
use casemate_backend::files::{Bytes, Files};
use casemate_firmware::ovmf::{self, Ovmf};
use casemate_firmware::suitable::{self, TdxFirmware};
use casemate_firmware::tdvf::TdvfSection;
use casemate_firmware::{Guest, Unsuitable, remedy};

pub(crate) const COMBINED: &str = "firmware";
const OTHERS: [&str; 3] = ["firmware-code", "firmware-vars", "igvm"];

/// A firmware that a TDX guest starts with.
#[derive(Debug)]
pub(crate) struct Chosen<'a>(&'a HostFile);

pub(crate) fn choose<'a>(host: &'a HostContext, files: &impl Files) -> Result<Chosen<'a>, Error> {
    // The operator's other images stand there for other backends; a caller's would be a wish dropped.
    for role in OTHERS {
        if let Some(file) = file_of_role(host, role)
            && file.origin == Origin::Request
        {
            return Err(invalid_request(
                role,
                &format!(
                    "the request names {} as {role}, and a TDX guest starts with one combined image",
                    quoted(&file.label)
                ),
                "name one combined image as firmware",
            ));
        }
    }
    let Some(file) = file_of_role(host, COMBINED) else {
        return Err(unsupported_host(
            COMBINED,
            "there is no firmware file for TDX guests",
            remedy::image_for(Guest::Tdx),
        ));
    };
    judged(file, suitable::for_tdx(&image(file, files)?))?;
    Ok(Chosen(file))
}

/// What an image says of itself.
pub(crate) fn image(file: &HostFile, files: &impl Files) -> Result<Ovmf, Error> {
    if file.size == 0 {
        return Err(unsuitable_file(
            COMBINED,
            &format!("firmware {} is empty", quoted(&file.label)),
            remedy::image_for(Guest::Tdx),
        ));
    }
    ovmf::inspect(&Bytes::of(file, files)).map_err(|error| {
        unsuitable_file(
            COMBINED,
            &format!("{}: {error}", quoted(&file.label)),
            remedy::for_ovmf_error(&error, Guest::Tdx),
        )
    })
}

/// Sections of an image that QEMU may find too small: it has a measurement all the same.
pub(crate) fn layout(file: &HostFile, image: &Ovmf) -> Result<Vec<TdvfSection>, Error> {
    Ok(judged(file, suitable::tdx_layout(image))?.sections)
}

fn judged(
    file: &HostFile,
    judgement: Result<TdxFirmware, Unsuitable>,
) -> Result<TdxFirmware, Error> {
    judgement.map_err(|reason| {
        unsuitable_file(
            COMBINED,
            &format!("{}: {reason}", quoted(&file.label)),
            remedy::for_unsuitable(&reason),
        )
    })
}

impl Chosen<'_> {
    pub(crate) fn in_words(&self) -> String {
        format!("the guest starts with TDVF {}", quoted(&self.0.label))
    }

    pub(super) fn into_firmware(self) -> Firmware {
        Firmware::Bios(self.0.id)
    }
}
