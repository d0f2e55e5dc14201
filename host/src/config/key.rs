//! Keys of the config: each module declares its own, with form, default and meaning, and everything
//! else (checks, defaults, the documented file, the reference) is made from the declarations.

use super::form::Form;

/// When a new value takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// At a reload, for what starts after it.
    Reload,
    /// At the next start of the daemon.
    Restart,
    /// A file of a listener's TLS: at a reload, where TLS is on before and after it, and whenever the
    /// file changes; at the next start, where it is turned on or off.
    Tls,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// As it would be written.
    Value(&'static str),
    /// None, and what that means.
    Unset(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Empty {
    /// That the key is not given.
    NotGiven,
    /// An empty value.
    Value,
}

#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Dotted, as in the file.
    pub name: &'static str,
    pub form: Form,
    pub default: Default,
    pub change: Change,
    /// What an empty variable says.
    pub empty: Empty,
    /// One or two sentences for the file and the reference.
    pub doc: &'static str,
    /// A value to show where there is no default.
    pub example: Option<&'static str>,
}

impl Key {
    /// A key that takes effect at a reload.
    pub const fn new(
        name: &'static str,
        form: Form,
        default: &'static str,
        doc: &'static str,
    ) -> Self {
        Self {
            name,
            form,
            default: Default::Value(default),
            change: Change::Reload,
            empty: Empty::NotGiven,
            doc,
            example: None,
        }
    }

    /// One without a default.
    pub const fn unset(
        name: &'static str,
        form: Form,
        without: &'static str,
        example: &'static str,
        doc: &'static str,
    ) -> Self {
        Self {
            name,
            form,
            default: Default::Unset(without),
            change: Change::Reload,
            empty: Empty::NotGiven,
            doc,
            example: Some(example),
        }
    }

    pub const fn at_restart(self) -> Self {
        Self {
            change: Change::Restart,
            ..self
        }
    }

    pub const fn of_tls(self) -> Self {
        Self {
            change: Change::Tls,
            ..self
        }
    }

    pub const fn empty_is_a_value(self) -> Self {
        Self {
            empty: Empty::Value,
            ..self
        }
    }

    /// The variable that sets it: `qemu.binary` is CASEMATE_QEMU_BINARY.
    pub fn variable(&self) -> String {
        if self.name == "default_backend" {
            return "CASEMATE_BACKEND".to_owned();
        }
        let name: String = self
            .name
            .chars()
            .map(|c| match c {
                '.' | '-' => '_',
                c => c.to_ascii_uppercase(),
            })
            .collect();
        format!("CASEMATE_{name}")
    }
}

/// Keys below this are properties of the network device, by QEMU's names.
pub const NETWORK_PROPERTIES: &str = "network.properties.";
/// Keys below this are settings for every backend that announces them.
pub const SETTINGS: &str = "settings.";
/// How much there is on this host of what plans take by name.
pub const LEASES: &str = "leases.";

/// Form of a key that is not declared but lies in a table that takes any.
pub fn open_form(name: &str) -> Option<Form> {
    let is_word = |rest: &str| {
        !rest.is_empty()
            && rest.len() <= 64
            && rest
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    let tables = [
        (NETWORK_PROPERTIES, Form::Property),
        (SETTINGS, Form::Property),
        (LEASES, Form::Count(0, u32::MAX as u64)),
    ];
    tables
        .into_iter()
        .find(|(table, _)| name.strip_prefix(table).is_some_and(is_word))
        .map(|(_, form)| form)
}
