//! The few options that matter here, out of QEMU's command line.
//!
//! Values follow QEMU's option syntax: `key=value` pairs between commas, a comma inside a value is
//! written twice, and the first pair may leave out its key. QEMU reports what it does not know;
//! this parser lets it pass, because what the daemon writes is checked against the real one.

use std::path::PathBuf;

use serde_json::Value;

use crate::descriptors::Passed;
use crate::guest::{Actions, OnReboot, OnShutdown};

/// The chardev ids by which the daemon names its monitor and its console.
const MONITOR_ID: &str = "casemate-qmp";
const CONSOLE_ID: &str = "casemate-console";

/// Where the monitor is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Monitor {
    None,
    Stdio,
    /// A listening UNIX socket that was passed as this descriptor.
    Descriptor(i32),
    /// A UNIX socket to make here.
    Path(PathBuf),
}

/// A `-chardev file`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConsoleFile {
    pub(crate) path: PathBuf,
    pub(crate) opening: Opening,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    Append,
    Truncate,
}

/// A `-netdev user`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserNetwork {
    pub(crate) id: String,
    pub(crate) forwards: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Options {
    pub(crate) name: String,
    pub(crate) uuid: String,
    /// `-machine`'s type, empty when there is none.
    pub(crate) machine: String,
    /// Id of the object in `confidential-guest-support`, empty when there is none.
    pub(crate) guard: String,
    pub(crate) accelerator: String,
    /// `-S`: nothing runs before `cont`.
    pub(crate) starts_stopped: bool,
    pub(crate) actions: Actions,
    /// `-add-fd`.
    pub(crate) descriptors: Vec<Passed>,
    pub(crate) monitor: Monitor,
    pub(crate) console: Option<ConsoleFile>,
    pub(crate) networks: Vec<UserNetwork>,
    /// Each `-object` as its JSON.
    pub(crate) objects: Vec<Value>,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self {
            name: String::new(),
            uuid: "00000000-0000-0000-0000-000000000000".to_owned(),
            machine: String::new(),
            guard: String::new(),
            accelerator: "tcg".to_owned(),
            starts_stopped: false,
            actions: Actions::default(),
            descriptors: Vec::new(),
            monitor: Monitor::None,
            console: None,
            networks: Vec::new(),
            objects: Vec::new(),
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            // QEMU takes one dash or two.
            let Some(option) = argument.strip_prefix('-') else {
                continue;
            };
            let option = option.strip_prefix('-').unwrap_or(option);
            match option {
                "S" => options.starts_stopped = true,
                "no-reboot" => options.actions.reboot = OnReboot::ShutDown,
                "no-shutdown" => options.actions.shutdown = OnShutdown::Pause,
                _ => {}
            }
            if !takes_a_value(option) {
                continue;
            }
            let value = rest
                .next()
                .ok_or_else(|| format!("-{option}: requires an argument"))?;
            options.take(option, value)?;
        }
        Ok(options)
    }

    /// Whether this run only answers questions about QEMU itself.
    pub(crate) fn is_probe(&self) -> bool {
        self.machine == "none"
    }

    fn take(&mut self, option: &str, value: &str) -> Result<(), String> {
        match option {
            "name" => {
                let pairs = Pairs::parse(value, "guest");
                self.name = pairs.first("guest").unwrap_or_default().to_owned();
            }
            "uuid" => value.clone_into(&mut self.uuid),
            "M" | "machine" => {
                let pairs = Pairs::parse(value, "type");
                if let Some(kind) = pairs.first("type") {
                    kind.clone_into(&mut self.machine);
                }
                if let Some(guard) = pairs.first("confidential-guest-support") {
                    guard.clone_into(&mut self.guard);
                }
                if let Some(accelerator) = pairs.first("accel") {
                    accelerator.clone_into(&mut self.accelerator);
                }
            }
            "accel" => {
                let pairs = Pairs::parse(value, "accel");
                if let Some(accelerator) = pairs.first("accel") {
                    accelerator.clone_into(&mut self.accelerator);
                }
            }
            "chardev" => self.take_chardev(&Pairs::parse(value, "backend"))?,
            "qmp" => self.monitor = monitor_of_qmp(value)?,
            "netdev" => {
                let pairs = Pairs::parse(value, "type");
                if pairs.first("type") == Some("user") {
                    self.networks.push(UserNetwork {
                        id: pairs.first("id").unwrap_or_default().to_owned(),
                        forwards: pairs.all("hostfwd"),
                    });
                }
            }
            "object" => self.objects.push(object(value)?),
            "action" => {
                for (occasion, action) in Pairs::parse(value, "").0 {
                    let set = self.actions.set(&occasion, &action);
                    set.map_err(|reason| format!("-action {value}: {reason}"))?;
                }
            }
            "add-fd" => self.descriptors.push(passed(value)?),
            _ => {}
        }
        Ok(())
    }

    fn take_chardev(&mut self, pairs: &Pairs) -> Result<(), String> {
        let backend = pairs.first("backend").unwrap_or_default();
        match pairs.first("id") {
            Some(MONITOR_ID) => {
                self.monitor = match (backend, pairs.first("fd"), pairs.first("path")) {
                    ("stdio", _, _) => Monitor::Stdio,
                    ("socket", Some(number), _) => {
                        Monitor::Descriptor(number.parse().map_err(|_| {
                            format!("-chardev socket: fd={number} is not a descriptor")
                        })?)
                    }
                    ("socket", None, Some(path)) => Monitor::Path(path.into()),
                    _ => return Err(format!("-chardev {backend}: cannot serve a monitor on it")),
                };
            }
            Some(CONSOLE_ID) if backend == "file" => {
                let opening = match pairs.first("append") {
                    Some("on") => Opening::Append,
                    _ => Opening::Truncate,
                };
                self.console = pairs.first("path").map(|path| ConsoleFile {
                    path: path.into(),
                    opening,
                });
            }
            _ => {}
        }
        Ok(())
    }
}

/// The options of QEMU that stand alone and that the daemon may write. For all others the next
/// argument is their value.
fn takes_a_value(option: &str) -> bool {
    !matches!(
        option,
        "S" | "nodefaults"
            | "no-user-config"
            | "no-reboot"
            | "no-shutdown"
            | "nographic"
            | "enable-kvm"
            | "preconfig"
            | "daemonize"
            | "snapshot"
            | "no-fd-bootchk"
    )
}

fn passed(value: &str) -> Result<Passed, String> {
    let pairs = Pairs::parse(value, "");
    let number = |key: &str| {
        let number = pairs.first(key).and_then(|number| number.parse().ok());
        number.filter(|&number: &i32| number >= 0).ok_or_else(|| {
            format!("-add-fd {value}: {key} option is required and must be non-negative")
        })
    };
    Ok(Passed {
        descriptor: number("fd")?,
        set: number("set")?.unsigned_abs(),
        opaque: pairs.first("opaque").map(str::to_owned),
    })
}

fn monitor_of_qmp(value: &str) -> Result<Monitor, String> {
    if value == "stdio" {
        return Ok(Monitor::Stdio);
    }
    let pairs = Pairs::parse(value, "address");
    match pairs.first("address").and_then(|a| a.strip_prefix("unix:")) {
        Some(path) => Ok(Monitor::Path(path.into())),
        None => Err(format!("-qmp {value}: only stdio and unix: are known here")),
    }
}

fn object(value: &str) -> Result<Value, String> {
    if value.trim_start().starts_with('{') {
        return serde_json::from_str(value)
            .map_err(|error| format!("-object {value}: JSON parse error, {error}"));
    }
    let members = Pairs::parse(value, "qom-type").0.into_iter();
    Ok(Value::Object(
        members
            .map(|(key, value)| (key, Value::String(value)))
            .collect(),
    ))
}

/// `key=value` pairs in their order; a key without a value is `on`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pairs(Vec<(String, String)>);

impl Pairs {
    fn parse(text: &str, implied_key: &str) -> Self {
        let mut pairs = Vec::new();
        for (position, part) in split_at_single_commas(text).into_iter().enumerate() {
            match part.split_once('=') {
                Some((key, value)) => pairs.push((key.to_owned(), value.to_owned())),
                None if position == 0 => pairs.push((implied_key.to_owned(), part)),
                None => pairs.push((part, "on".to_owned())),
            }
        }
        Self(pairs)
    }

    fn first(&self, key: &str) -> Option<&str> {
        let mut pairs = self.0.iter();
        pairs
            .find(|(candidate, _)| candidate == key)
            .map(|(_, value)| value.as_str())
    }

    fn all(&self, key: &str) -> Vec<String> {
        let pairs = self.0.iter().filter(|(candidate, _)| candidate == key);
        pairs.map(|(_, value)| value.clone()).collect()
    }
}

fn split_at_single_commas(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == ',' && characters.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(character);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Options {
        let arguments: Vec<String> = line.iter().map(|&word| word.to_owned()).collect();
        Options::parse(&arguments).unwrap()
    }

    #[test]
    fn commas_are_doubled_inside_a_value() {
        for (text, expected) in [
            ("a", vec!["a"]),
            ("a,b", vec!["a", "b"]),
            ("a,,b", vec!["a,b"]),
            ("a,,,b", vec!["a,", "b"]),
            ("a,,,,b", vec!["a,,b"]),
            ("a,", vec!["a", ""]),
            ("", vec![""]),
        ] {
            assert_eq!(split_at_single_commas(text), expected, "{text}");
        }
    }

    #[test]
    fn the_first_pair_may_leave_out_its_key() {
        let pairs = Pairs::parse("socket,id=x,wait", "backend");
        assert_eq!(pairs.first("backend"), Some("socket"));
        assert_eq!(pairs.first("id"), Some("x"));
        assert_eq!(pairs.first("wait"), Some("on"));
        assert_eq!(Pairs::parse("type=q35", "type").first("type"), Some("q35"));
    }

    #[test]
    fn the_monitor_is_found_in_each_form() {
        for (line, expected) in [
            (
                vec![
                    "-chardev",
                    "socket,id=casemate-qmp,fd=7,server=on,wait=off",
                    "-mon",
                    "chardev=casemate-qmp,mode=control",
                ],
                Monitor::Descriptor(7),
            ),
            (
                vec!["-chardev", "socket,id=other,fd=7,server=on,wait=off"],
                Monitor::None,
            ),
            (
                vec![
                    "-chardev",
                    "socket,id=casemate-qmp,path=/run/a,,b,server=on",
                ],
                Monitor::Path("/run/a,b".into()),
            ),
            (vec!["-chardev", "stdio,id=casemate-qmp"], Monitor::Stdio),
            (vec!["-qmp", "stdio"], Monitor::Stdio),
            (
                vec!["-qmp", "unix:/run/q,server=on,wait=off"],
                Monitor::Path("/run/q".into()),
            ),
        ] {
            assert_eq!(parse(&line).monitor, expected, "{line:?}");
        }
    }

    #[test]
    fn a_descriptor_that_is_no_number_is_an_error() {
        let arguments = [
            "-chardev".to_owned(),
            "socket,id=casemate-qmp,fd=x".to_owned(),
        ];
        assert!(Options::parse(&arguments).is_err());
        assert!(Options::parse(&["-chardev".to_owned()]).is_err());
        for value in ["fd=9", "set=1", "fd=x,set=1", "fd=-1,set=1"] {
            let arguments = ["-add-fd".to_owned(), value.to_owned()];
            assert!(Options::parse(&arguments).is_err(), "{value}");
        }
    }

    #[test]
    fn a_launch_is_understood() {
        let options = parse(&[
            "-nodefaults",
            "-S",
            "-name",
            "guest=vm,,1,debug-threads=on",
            "-uuid",
            "6f1c8a52-0000-4000-8000-000000000001",
            "-machine",
            "pc-q35-10.0,smm=off,confidential-guest-support=guard0",
            "-accel",
            "kvm",
            "-object",
            r#"{"qom-type":"memory-backend-ram","id":"ram1","size":1048576}"#,
            "-object",
            "iothread,id=io0",
            "-netdev",
            "user,id=vmnic,hostfwd=tcp:127.0.0.1:0-:7002",
            "-chardev",
            "file,id=casemate-console,path=/tmp/a,,b,append=on",
            "-sandbox",
            "on,obsolete=deny,spawn=deny",
            "-no-reboot",
            "-action",
            "panic=pause",
            "-add-fd",
            "fd=9,set=4,opaque=console",
            "-add-fd",
            "fd=10,set=5",
        ]);
        assert_eq!(options.name, "vm,1");
        assert_eq!(options.uuid, "6f1c8a52-0000-4000-8000-000000000001");
        assert_eq!(options.machine, "pc-q35-10.0");
        assert_eq!(options.guard, "guard0");
        assert_eq!(options.accelerator, "kvm");
        assert!(options.starts_stopped);
        assert!(!options.is_probe());
        assert_eq!(
            options.console,
            Some(ConsoleFile {
                path: "/tmp/a,b".into(),
                opening: Opening::Append,
            })
        );
        assert_eq!(options.actions.reboot, OnReboot::ShutDown);
        assert_eq!(options.actions.panic, crate::guest::OnPanic::Pause);
        assert_eq!(options.descriptors.len(), 2);
        assert_eq!(options.descriptors[0].descriptor, 9);
        assert_eq!(options.descriptors[0].set, 4);
        assert_eq!(options.descriptors[0].opaque.as_deref(), Some("console"));
        assert_eq!(options.networks.len(), 1);
        assert_eq!(options.networks[0].forwards, ["tcp:127.0.0.1:0-:7002"]);
        assert_eq!(options.objects[0]["id"], "ram1");
        assert_eq!(options.objects[1]["qom-type"], "iothread");
    }

    #[test]
    fn a_probe_has_no_machine() {
        assert!(parse(&["-M", "none", "-qmp", "stdio"]).is_probe());
        assert!(parse(&["-machine", "none,accel=tcg"]).is_probe());
        assert!(!parse(&["-M", "q35"]).is_probe());
    }
}
