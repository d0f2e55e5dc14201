//! What the rules of both technologies ask of a guard object.

use std::ops::RangeInclusive;

use super::Details;
use crate::case::Case;
use crate::item::{Form, Item, Reading};

/// Type of a property, as QEMU's schema has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Property {
    Number,
    Switch,
    Text,
    /// A JSON object.
    Structure,
}

pub(super) fn has(case: &Case<'_>, name: &str) -> bool {
    case.guard
        .is_some_and(|guard| guard.properties.contains_key(name))
}

pub(super) fn number(case: &Case<'_>, name: &str) -> Option<u64> {
    case.guard?.number(name).value()
}

pub(super) fn unknown_properties(case: &Case<'_>, known: &[(&str, Property)]) -> Details {
    let Some(guard) = case.guard else {
        return Vec::new();
    };
    let names = guard.properties.keys();
    names
        .filter(|name| !known.iter().any(|(known, _)| known == name))
        .map(|name| format!("{} has no property {name}", guard.kind))
        .collect()
}

pub(super) fn wrong_types(case: &Case<'_>, known: &[(&str, Property)]) -> Details {
    let Some(guard) = case.guard else {
        return Vec::new();
    };
    known
        .iter()
        .filter_map(|(name, property)| {
            let value = wrong_value(guard, name, *property)?;
            Some(format!("{name} is {value}, no {property:?}"))
        })
        .collect()
}

fn wrong_value(guard: &Item, name: &str, property: Property) -> Option<String> {
    fn wrong<T>(reading: Reading<T>) -> Option<String> {
        match reading {
            Reading::Wrong(value) => Some(value),
            Reading::Absent | Reading::Is(_) => None,
        }
    }
    match property {
        Property::Number => wrong(guard.number(name)),
        Property::Switch => wrong(guard.switch(name)),
        Property::Text => wrong(guard.text(name)),
        Property::Structure => {
            let value = guard.properties.get(name)?;
            let fits = guard.form == Form::Json && value.is_object();
            (!fits).then(|| value.to_string())
        }
    }
}

/// A rule that a property, where written, is base64 of so many bytes.
pub(super) fn bytes_of(case: &Case<'_>, name: &str, sizes: RangeInclusive<usize>) -> Details {
    let Some(guard) = case.guard else {
        return Vec::new();
    };
    // What is no text breaks the rule about types.
    if !matches!(guard.text(name), Reading::Is(_)) {
        return Vec::new();
    }
    match guard.bytes(name).value() {
        Some(bytes) if sizes.contains(&bytes.len()) => Vec::new(),
        Some(bytes) => vec![format!("{name} has {} bytes", bytes.len())],
        None => vec![format!("{name} is no canonical base64")],
    }
}

/// A rule that a property carries the request's identity: its bytes, then zeros. A property of
/// another size breaks the rule about its size.
pub(super) fn identity(case: &Case<'_>, name: &str, size: usize) -> Details {
    let (Some(guard), Some(digest)) = (case.guard, &case.world.identity) else {
        return Vec::new();
    };
    if digest.len() > size {
        let length = digest.len();
        return vec![format!("{name} has no room for {length} bytes")];
    }
    let mut wanted = digest.clone();
    wanted.resize(size, 0);
    match guard.bytes(name) {
        Reading::Absent => vec![format!("{name} is missing")],
        Reading::Is(bytes) if bytes.len() == size && bytes != wanted => {
            vec![format!("{name} is another value")]
        }
        Reading::Is(_) | Reading::Wrong(_) => Vec::new(),
    }
}

pub(super) fn one_bios(case: &Case<'_>) -> Details {
    match case.arguments.texts("bios").count() {
        1 => Vec::new(),
        count => vec![format!("there are {count} -bios")],
    }
}
