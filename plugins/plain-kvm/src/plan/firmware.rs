//! Which firmware the guest gets.
//!
//! `auto` follows the files: the ones that the caller named come before the operator's, and those
//! before built-in ones; among equals pflash comes first, because it alone keeps variables. A
//! firmware file that the caller named and that would not be used fails the plan.

use casemate_backend::answer::{invalid_request, note, quoted, unsuitable_file, warn};
use casemate_backend::bindings::casemate::tee::types::{
    Error, Finding, Firmware, HostContext, HostFile, Origin, PflashFirmware, Property, Value,
};
use casemate_backend::boot::file_of_role;
use casemate_backend::memory::property;
use casemate_firmware::suitable::BIOS_GRANULE;

use crate::settings::{CODE_UNIT, FIRMWARE, FirmwareChoice, Settings, VARS_UNIT};

const CODE: &str = "firmware-code";
const VARS: &str = "firmware-vars";
const COMBINED: &str = "firmware";

/// PC machines have two flash chips that `-drive if=pflash` can fill.
const LAST_FLASH_UNIT: u64 = 1;

/// The choice, with the files that it takes.
#[derive(Debug)]
pub(crate) struct Chosen<'a> {
    kind: Kind<'a>,
    remarks: Vec<Finding>,
}

#[derive(Debug)]
enum Kind<'a> {
    None,
    Bios(&'a HostFile),
    Pflash {
        code: &'a HostFile,
        vars: Option<&'a HostFile>,
    },
}

pub(crate) fn choose<'a>(host: &'a HostContext, settings: &Settings) -> Result<Chosen<'a>, Error> {
    let mut remarks = Vec::new();
    let kind = match settings.firmware.value {
        FirmwareChoice::None => Kind::None,
        FirmwareChoice::Bios => Kind::Bios(required(host, COMBINED, "bios")?),
        FirmwareChoice::Pflash => Kind::Pflash {
            code: required(host, CODE, "pflash")?,
            vars: file_of_role(host, VARS),
        },
        FirmwareChoice::Auto => by_files(host, &mut remarks)?,
    };
    kind.check_files()?;
    kind.check_units(settings)?;
    refuse_unused_wish(host, &kind)?;
    if matches!(kind, Kind::Pflash { .. }) && !settings.code_readonly {
        remarks.push(warn(
            "firmware.code-writable",
            crate::settings::CODE_READONLY,
            "the guest may write to its firmware code",
            "set pflash-code-readonly to true",
        ));
    }
    Ok(Chosen { kind, remarks })
}

fn required<'a>(host: &'a HostContext, role: &str, choice: &str) -> Result<&'a HostFile, Error> {
    file_of_role(host, role).ok_or_else(|| {
        invalid_request(
            role,
            &format!("firmware is {choice}, but there is no {role} file"),
            &format!("name a {role} file, or set {FIRMWARE} to auto"),
        )
    })
}

fn by_files<'a>(host: &'a HostContext, remarks: &mut Vec<Finding>) -> Result<Kind<'a>, Error> {
    let code = file_of_role(host, CODE);
    let combined = file_of_role(host, COMBINED);
    let vars = file_of_role(host, VARS);
    match (code, combined) {
        (None, None) => {
            if vars.is_some() {
                remarks.push(note(
                    "firmware.vars-unused",
                    VARS,
                    "there are firmware variables without firmware code, which are not used",
                    "set a firmware-code file too",
                ));
            }
            Ok(Kind::None)
        }
        (Some(code), None) => Ok(Kind::Pflash { code, vars }),
        (None, Some(combined)) => Ok(Kind::Bios(combined)),
        (Some(code), Some(combined)) => match (code.origin, combined.origin) {
            (Origin::Request, Origin::Request) => Err(invalid_request(
                FIRMWARE,
                "the request names both a firmware and a firmware-code file",
                "leave one out",
            )),
            (code_origin, combined_origin) if rank(combined_origin) > rank(code_origin) => {
                Ok(Kind::Bios(combined))
            }
            _ => {
                remarks.push(note(
                    "firmware.two-at-hand",
                    FIRMWARE,
                    "there are both a firmware and a firmware-code file, pflash is used",
                    "set firmware to pflash or bios",
                ));
                Ok(Kind::Pflash { code, vars })
            }
        },
    }
}

fn rank(origin: Origin) -> u8 {
    match origin {
        Origin::BuiltIn => 0,
        Origin::Operator => 1,
        Origin::Request => 2,
    }
}

/// A caller's file that is left lying is a wish that was dropped.
fn refuse_unused_wish(host: &HostContext, kind: &Kind<'_>) -> Result<(), Error> {
    for file in &host.files {
        let is_firmware = matches!(file.role.as_str(), CODE | VARS | COMBINED | "igvm");
        if is_firmware && file.origin == Origin::Request && !kind.takes(file) {
            return Err(invalid_request(
                &file.role,
                &format!(
                    "the request names {} as {}, but the guest {}",
                    quoted(&file.label),
                    file.role,
                    kind.in_words()
                ),
                "leave the file out, or set firmware to the kind that takes it",
            ));
        }
    }
    Ok(())
}

impl Kind<'_> {
    fn takes(&self, file: &HostFile) -> bool {
        match self {
            Kind::None => false,
            Kind::Bios(combined) => combined.id == file.id,
            Kind::Pflash { code, vars } => {
                code.id == file.id || vars.is_some_and(|vars| vars.id == file.id)
            }
        }
    }

    fn check_files(&self) -> Result<(), Error> {
        let files = match self {
            Kind::None => [None, None],
            Kind::Bios(combined) => [Some(*combined), None],
            Kind::Pflash { code, vars } => [Some(*code), *vars],
        };
        for file in files.into_iter().flatten() {
            if file.size == 0 {
                return Err(unsuitable_file(
                    &file.role,
                    &format!("{} {} is empty", file.role, quoted(&file.label)),
                    "name a firmware image, such as those of the distribution's ovmf package",
                ));
            }
        }
        if let Kind::Bios(combined) = self
            && !combined.size.is_multiple_of(BIOS_GRANULE)
        {
            return Err(unsuitable_file(
                &combined.role,
                &format!(
                    "firmware {} has {} bytes, and QEMU takes a multiple of 64 KiB for -bios",
                    quoted(&combined.label),
                    combined.size
                ),
                "name a combined image such as OVMF.fd, or give code and variables for pflash",
            ));
        }
        Ok(())
    }

    /// QEMU fills the chips by their number, and refuses the second without the first.
    fn check_units(&self, settings: &Settings) -> Result<(), Error> {
        let Kind::Pflash { vars, .. } = self else {
            return Ok(());
        };
        let code_unit = settings.code_unit;
        if code_unit > LAST_FLASH_UNIT || (vars.is_none() && code_unit != 0) {
            return Err(invalid_request(
                CODE_UNIT,
                &format!(
                    "pflash-code-unit is {code_unit}, wanted is 0, or 1 where the variables have 0"
                ),
                "set pflash-code-unit to 0",
            ));
        }
        if vars.is_some()
            && (settings.vars_unit > LAST_FLASH_UNIT || settings.vars_unit == code_unit)
        {
            return Err(invalid_request(
                VARS_UNIT,
                &format!(
                    "pflash-vars-unit is {}, wanted is the other one of 0 and 1 than the code's \
                     {code_unit}",
                    settings.vars_unit
                ),
                "set pflash-code-unit to 0 and pflash-vars-unit to 1",
            ));
        }
        Ok(())
    }

    fn in_words(&self) -> String {
        match self {
            Kind::None => "starts with QEMU's own BIOS".to_owned(),
            Kind::Bios(combined) => format!("starts with firmware {}", quoted(&combined.label)),
            Kind::Pflash {
                code,
                vars: Some(vars),
            } => format!(
                "starts with {} in flash and its own copy of the variables {}",
                quoted(&code.label),
                quoted(&vars.label)
            ),
            Kind::Pflash { code, vars: None } => format!(
                "starts with {} in flash and keeps no variables",
                quoted(&code.label)
            ),
        }
    }
}

impl Chosen<'_> {
    pub(crate) fn in_words(&self) -> String {
        format!("a guest {}", self.kind.in_words())
    }

    pub(crate) fn remarks(&self) -> Vec<Finding> {
        self.remarks.clone()
    }

    pub(crate) fn into_firmware(self, settings: &Settings) -> Firmware {
        match self.kind {
            Kind::None => Firmware::None,
            Kind::Bios(combined) => Firmware::Bios(combined.id),
            Kind::Pflash { code, vars } => Firmware::Pflash(PflashFirmware {
                code: code.id,
                vars_template: vars.map(|vars| vars.id),
                options: pflash_options(vars, settings),
            }),
        }
    }
}

fn pflash_options(vars: Option<&HostFile>, settings: &Settings) -> Vec<Property> {
    let text = |text: &str| Value::Text(text.to_owned());
    let mut options = vec![
        property("code.unit", Value::Unsigned(settings.code_unit)),
        property("code.format", text(settings.code_format.name())),
        property("code.readonly", Value::Boolean(settings.code_readonly)),
    ];
    if vars.is_some() {
        options.push(property("vars.unit", Value::Unsigned(settings.vars_unit)));
        options.push(property("vars.format", text(settings.vars_format.name())));
    }
    options
}
