//! The environment: `CASEMATE_*` variables, one for each key, and those of the predecessor.
//!
//! An unknown name where only ours are expected is an error, because it is a typing mistake that
//! would silently do nothing. Other names that begin like the predecessor's are a warning:
//! orchestrators inject such names.

pub mod predecessor;

use super::ConfigError;
use super::Warning;
use super::form::Form;
use super::key::{Empty, SETTINGS};
use super::sources::{Candidate, Source};
use predecessor::{BackendChoice, Meaning, Variable, When};

const OWN: &str = "CASEMATE_";
/// `CASEMATE_SETTINGS_MEMORY_SLOTS` sets `settings.memory-slots`.
const OWN_SETTINGS: &str = "CASEMATE_SETTINGS_";
/// Names that begin like ours and are read elsewhere: by the client, and by the daemon's command
/// line.
const ELSEWHERE: &[&str] = &[
    "CASEMATE_CA_CERT",
    "CASEMATE_CLIENT_CERT",
    "CASEMATE_CLIENT_KEY",
    "CASEMATE_CONTEXT",
    "CASEMATE_ENDPOINT",
    "CASEMATE_TOKEN",
    CONFIG_FILE,
    #[cfg(debug_assertions)]
    FAILPOINT,
];
#[cfg(debug_assertions)]
const FAILPOINT: &str = "CASEMATE_FAILPOINT";
const CONFIG_FILE: &str = "CASEMATE_CONFIG";
/// Where an unknown name is a mistake.
const PREDECESSOR_QEMU: &str = "MANAGER_QEMU_";
/// Where an unknown name may be somebody else's.
const PREDECESSOR: [&str; 2] = ["MANAGER_", "COCOS_"];

/// A variable that may concern the daemon. The value is none where it is not UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    pub name: String,
    pub value: Option<String>,
}

/// The variables of this process that begin like ones for the daemon, in order of their names.
pub fn of_this_process() -> Vec<Given> {
    let mut given: Vec<Given> = std::env::vars_os()
        .filter_map(|(name, value)| {
            // A name that is not UTF-8 is none of ours; it is unknown as any other.
            let name = name.to_string_lossy().into_owned();
            let concerns =
                name.starts_with(OWN) || PREDECESSOR.iter().any(|prefix| name.starts_with(prefix));
            concerns.then(|| Given {
                name,
                value: value.into_string().ok(),
            })
        })
        .collect();
    given.sort_by(|one, other| one.name.cmp(&other.name));
    given
}

/// The config file that `CASEMATE_CONFIG` names.
pub fn config_file() -> Option<std::path::PathBuf> {
    std::env::var_os(CONFIG_FILE)
        .filter(|path| !path.is_empty())
        .map(Into::into)
}

/// Where a debug build is to kill itself: `NAME:COUNT`.
#[cfg(debug_assertions)]
pub fn failpoint() -> Option<String> {
    std::env::var(FAILPOINT).ok()
}

/// How a service manager wants to hear from this process: sd_notify(3), sd_watchdog_enabled(3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceManager {
    pub notify_socket: Option<std::ffi::OsString>,
    /// The longest time without a sign of life.
    pub watchdog: Option<std::time::Duration>,
}

pub fn service_manager() -> ServiceManager {
    let number = |name| -> Option<u64> { std::env::var(name).ok()?.parse().ok() };
    // The variables are inherited; the watchdog may be that of a process above.
    let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    ServiceManager {
        notify_socket: std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()),
        watchdog: number("WATCHDOG_USEC")
            .filter(|microseconds| is_ours && *microseconds > 0)
            .map(std::time::Duration::from_micros),
    }
}

/// What the environment says.
#[derive(Debug, Default)]
pub struct Reading {
    pub candidates: Vec<Candidate>,
    /// Backends that the predecessor's switches choose.
    pub choices: Vec<BackendChoice>,
    pub warnings: Vec<Warning>,
}

/// Reads variables; everything that is wrong goes to `errors`.
pub fn read(given: &[Given], errors: &mut Vec<ConfigError>) -> Reading {
    let mut reading = Reading::default();
    let mut switches = Switches::default();
    for Given { name, value } in given {
        let own = own_key(name);
        let variable = predecessor::find(name);
        if own.is_none() && variable.is_none() {
            if !ELSEWHERE.contains(&name.as_str()) {
                unknown(name, &mut reading, errors);
            }
            continue;
        }
        let wanted = match (&own, variable) {
            (Some((_, form)), _) => *form,
            (None, Some(variable)) => variable.form,
            (None, None) => continue,
        };
        let Some(text) = value else {
            errors.push(ConfigError::Value {
                place: name.clone(),
                value: "not UTF-8".to_owned(),
                wanted: wanted.wanted(),
            });
            continue;
        };
        let key = match (&own, variable.map(|variable| variable.meaning)) {
            (Some((key, _)), _) => Some(key.as_str()),
            (None, Some(Meaning::Key(key))) => Some(key),
            (None, _) => None,
        };
        let declared = key.and_then(super::declared);
        if text.is_empty() && declared.is_none_or(|key| key.empty == Empty::NotGiven) {
            continue;
        }
        let Some(canonical) = wanted.parse(text) else {
            errors.push(ConfigError::Value {
                place: name.clone(),
                value: shown(text),
                wanted: wanted.wanted(),
            });
            continue;
        };
        match (own, variable) {
            (Some((key, _)), _) => reading.candidates.push(Candidate {
                key,
                value: canonical,
                source: Source::Variable(name.clone()),
            }),
            (None, Some(variable)) => {
                apply(
                    variable,
                    name,
                    text,
                    canonical,
                    &mut reading,
                    &mut switches,
                    errors,
                );
            }
            (None, None) => {}
        }
    }
    switches.finish(&mut reading);
    reading
}

/// The key that one of our own variables sets, with its form.
fn own_key(name: &str) -> Option<(String, Form)> {
    if let Some(setting) = name.strip_prefix(OWN_SETTINGS) {
        let key = setting.to_ascii_lowercase().replace('_', "-");
        let key = format!("{SETTINGS}{key}");
        return super::key::open_form(&key).map(|form| (key, form));
    }
    let key = super::keys().find(|key| key.variable() == name)?;
    Some((key.name.to_owned(), key.form))
}

fn unknown(name: &str, reading: &mut Reading, errors: &mut Vec<ConfigError>) {
    let shown = shown(name);
    if name.starts_with(OWN) {
        let known: Vec<String> = super::keys()
            .map(super::key::Key::variable)
            .chain(ELSEWHERE.iter().map(|name| (*name).to_owned()))
            .collect();
        errors.push(ConfigError::UnknownVariable {
            closest: super::closest(name, known.iter().map(String::as_str)),
            name: shown,
        });
    } else if name.starts_with(PREDECESSOR_QEMU) {
        errors.push(ConfigError::UnknownVariable {
            closest: super::closest(name, predecessor::names()),
            name: shown,
        });
    } else {
        reading.warnings.push(Warning::UnknownVariable {
            closest: super::closest(name, predecessor::names()),
            name: shown,
        });
    }
}

/// Values that mean something only together.
#[derive(Debug, Default)]
struct Switches {
    identity: Option<toml::Value>,
    identity_enabled: Option<bool>,
}

fn apply(
    variable: &Variable,
    name: &str,
    text: &str,
    value: toml::Value,
    reading: &mut Reading,
    switches: &mut Switches,
    errors: &mut Vec<ConfigError>,
) {
    let source = || Source::Predecessor(name.to_owned());
    let flag = value.as_bool();
    let mut push = |key: &str, value: toml::Value| {
        reading.candidates.push(Candidate {
            key: key.to_owned(),
            value,
            source: source(),
        });
    };
    match variable.meaning {
        Meaning::Key(key) | Meaning::Wish(key) => push(key, value),
        Meaning::Setting(key) => push(&format!("{SETTINGS}{key}"), value),
        Meaning::Words { key, on, off } => {
            push(key, if flag == Some(true) { on } else { off }.into());
        }
        Meaning::Listener { host, port } => {
            // The form has been checked: there is a colon, and a port behind it.
            let (address, number) = text.rsplit_once(':').unwrap_or((text, "0"));
            let address = address.trim_start_matches('[').trim_end_matches(']');
            for (key, form, text) in [(host, Form::Host, address), (port, Form::Port, number)] {
                if let Some(value) = form.parse(text) {
                    push(key, value);
                }
            }
        }
        Meaning::Chooses { on, off } => {
            let chosen = if flag == Some(true) { Some(on) } else { off };
            reading.choices.extend(chosen.map(|backend| BackendChoice {
                backend: backend.to_owned(),
                source: format!("{name}={text}"),
                is_default_of_off: flag == Some(false),
            }));
        }
        Meaning::Fixed => {}
        Meaning::Identity => switches.identity = Some(value),
        Meaning::IdentitySwitch => switches.identity_enabled = flag,
        Meaning::Ignored { when, why } => {
            let applies = match when {
                When::Given => true,
                When::True => flag == Some(true),
                When::False => flag == Some(false),
            };
            if applies {
                reading.warnings.push(Warning::Ignored {
                    variable: format!("{name}={}", shown(text)),
                    why,
                });
            }
        }
        // Without the value: a URL may have a password in it.
        Meaning::Later { feature } => reading.warnings.push(Warning::Later {
            variable: name.to_owned(),
            feature,
        }),
        Meaning::Refused { feature, remedy } => errors.push(ConfigError::NotSupportedYet {
            variable: format!("{name}={}", shown(text)),
            feature,
            remedy,
        }),
    }
}

impl Switches {
    fn finish(self, reading: &mut Reading) {
        let name = predecessor::IDENTITY;
        match (self.identity, self.identity_enabled) {
            (Some(value), Some(true)) => reading.candidates.push(Candidate {
                key: "vm.identity".to_owned(),
                value,
                source: Source::Predecessor(name.to_owned()),
            }),
            (Some(_), _) => reading.warnings.push(Warning::Ignored {
                variable: name.to_owned(),
                why: predecessor::IDENTITY_IS_OFF,
            }),
            (None, Some(true)) => reading.warnings.push(Warning::Ignored {
                variable: format!("{}=true", predecessor::IDENTITY_SWITCH),
                why: predecessor::NO_IDENTITY,
            }),
            (None, _) => {}
        }
    }
}

/// What chooses the default backend: the predecessor's switches, after their own rule. `false` for
/// one technology says something only where the other is not wanted.
pub fn settle(choices: Vec<BackendChoice>) -> Vec<BackendChoice> {
    let is_wanted = choices.iter().any(|choice| !choice.is_default_of_off);
    choices
        .into_iter()
        .filter(|choice| !(is_wanted && choice.is_default_of_off))
        .collect()
}

fn shown(text: &str) -> String {
    const MOST: usize = 80;
    let shown: String = text.chars().take(MOST).collect();
    crate::spec::printable(&shown)
}
