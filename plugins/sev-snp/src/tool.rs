//! The tool that COCONUT-SVSM measures IGVM files with: an opinion of somebody else, where the
//! operator allows the program.
//!
//! `igvmmeasure --check-kvm FILE measure -b` prints the launch digest in upper-case hexadecimal, and
//! ends with 1 where the file has an ID block for another one.

use casemate_backend::answer::{invalid_request, quoted};
use casemate_backend::bindings::casemate::tee::types::{
    Error, Firmware, Launch, LaunchRequest, Register, ToolArgument, ToolCommand,
};
use casemate_backend::register::{SHA_384, computed};

/// Name by which config allows the program.
pub(crate) const PROGRAM: &str = "igvmmeasure";

/// Bytes of what it prints at most: a digest in hexadecimal, and the end of a line.
const LONGEST_OUTPUT: usize = 1024;

/// None for a guest that starts with OVMF: the tool reads IGVM files.
pub fn command(_request: &LaunchRequest, launch: &Launch) -> Option<ToolCommand> {
    let Firmware::Igvm(file) = launch.plan.firmware else {
        return None;
    };
    let text = |text: &str| ToolArgument::Text(text.to_owned());
    Some(ToolCommand {
        program: PROGRAM.to_owned(),
        arguments: vec![
            text("--check-kvm"),
            ToolArgument::File(file),
            text("measure"),
            text("-b"),
        ],
    })
}

/// The digest that the tool printed.
pub fn parse(
    _request: &LaunchRequest,
    _launch: &Launch,
    output: &[u8],
) -> Result<Vec<Register>, Error> {
    let wrong = || {
        let shown = output.get(..LONGEST_OUTPUT).unwrap_or(output);
        invalid_request(
            PROGRAM,
            &format!(
                "{PROGRAM} printed {}, wanted is a SHA-384 in hexadecimal",
                quoted(&String::from_utf8_lossy(shown))
            ),
            &format!("see that the program is COCONUT-SVSM's {PROGRAM}"),
        )
    };
    let text = std::str::from_utf8(output).map_err(|_| wrong())?.trim();
    let digits = text.as_bytes();
    if digits.len() != 96 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(wrong());
    }
    let digest: Option<Vec<u8>> = digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    let digest = digest.ok_or_else(wrong)?;
    Ok(vec![computed(
        "launch-digest",
        SHA_384,
        &digest,
        Vec::new(),
    )])
}
