//! A measurement for people: a line for each thing.
//!
//! Names, conditions and reasons come from backends and requests, and are printed to terminals; so
//! what a terminal would act on is shown as an escape.

use std::fmt::Write as _;

use crate::pcr::PcrValues;
use crate::register::{InputSource, Measurement, Register, RegisterValue, hexadecimal};

/// No name is padded further than this, however long another is.
const WIDEST_COLUMN: usize = 32;

#[must_use]
pub fn render(measurement: &Measurement, pcrs: Option<&PcrValues>) -> String {
    let backend = &measurement.backend;
    let mut text = format!(
        "measured by {} {} ({}, {}), sha256:{}\n",
        shown(&backend.name),
        shown(&backend.version),
        shown(&backend.vendor),
        shown(&backend.tee),
        shown(&backend.sha256),
    );
    if let Some(version) = &measurement.qemu_version {
        line(&mut text, &format!("for QEMU {}", shown(version)));
    }
    let registers = &measurement.registers;
    section(
        &mut text,
        "registers",
        registers.iter().flat_map(register_rows).collect(),
    );
    section(
        &mut text,
        "assumed",
        registers.iter().flat_map(assumed_rows).collect(),
    );
    let files = measurement.files.iter();
    section(
        &mut text,
        "files",
        files
            .map(|file| (shown(&file.role), format!("sha384:{}", shown(&file.sha384))))
            .collect(),
    );
    if let Some(pcrs) = pcrs {
        let rows = pcrs.iter().map(|(bank, index, value)| {
            let value = hexadecimal::text(value);
            (format!("pcr{index}"), format!("{bank}:{value}"))
        });
        section(&mut text, "PCR values", rows.collect());
    }
    text
}

fn register_rows(register: &Register) -> Vec<(String, String)> {
    let name = || shown(&register.name);
    let digest = |value: &[u8]| format!("{}:{}", register.algorithm, hexadecimal::text(value));
    match &register.value {
        RegisterValue::Computed(value) => vec![(name(), digest(value))],
        RegisterValue::OneOf(alternatives) => alternatives
            .iter()
            .map(|one| {
                let condition = shown(&one.condition);
                (name(), format!("{}  if {condition}", digest(&one.value)))
            })
            .collect(),
        RegisterValue::Unknown(reason) => vec![(name(), format!("unknown: {}", shown(reason)))],
    }
}

fn assumed_rows(register: &Register) -> Vec<(String, String)> {
    register
        .inputs
        .iter()
        .filter(|input| input.source == InputSource::Assumed)
        .map(|input| {
            let assumed = format!("{} = {}", shown(&input.name), shown(&input.value));
            (shown(&register.name), assumed)
        })
        .collect()
}

fn section(text: &mut String, title: &str, rows: Vec<(String, String)>) {
    let names = rows.iter().map(|(name, _)| name.chars().count());
    let Some(widest) = names.max() else {
        return;
    };
    let width = widest.min(WIDEST_COLUMN);
    line(text, &format!("\n{title}"));
    for (name, value) in rows {
        line(text, &format!("  {name:width$}  {value}"));
    }
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

/// With an escape for what moves a cursor, colours, breaks a line or turns the direction of text.
fn shown(outside: &str) -> String {
    let mut shown = String::with_capacity(outside.len());
    for character in outside.chars() {
        let acts = character.is_control()
            || matches!(
                character,
                '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            );
        if acts {
            // Writing to a String does not fail.
            let _ = write!(shown, "{}", character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}
