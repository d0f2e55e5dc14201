//! Forms of config values: what a file, a variable or a flag may hold, and how a wrong one is told.
//!
//! A value is checked and made canonical here, at the edge, whatever it came from; the structs of
//! the modules then read canonical values only.

use std::net::IpAddr;

use base64::Engine as _;

use crate::spec::{HOST_ID_PREFIX, byte_size, go_duration, is_qemu_id, parse_switch};

/// Longest text; nothing in a config is longer than a kernel command line.
const MAX_TEXT: usize = 4_096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Boolean,
    /// A whole number from the first to the second.
    Count(u64, u64),
    Port,
    /// An address to listen on; `localhost` and nothing mean loopback.
    Host,
    /// An IPv4 address.
    Host4,
    /// `host:port`.
    Address,
    /// Host ports, or `any`.
    Ports,
    /// Users that QEMUs run as.
    Uids,
    Size,
    Duration,
    Text,
    /// An id of QEMU's.
    Id,
    /// A path; the file need not be there yet.
    Path,
    OneOf(&'static [&'static str]),
    LogFilter,
    /// 0.0 to 1.0.
    Ratio,
    /// An http or https URL.
    Url,
    /// This many bytes in base64.
    Base64(usize),
    /// A PCI function: `0000:01:00.0`.
    PciFunction,
    /// A SHA-256 in hexadecimal; canonical in small letters.
    Sha256,
    /// Text, number or boolean, as a device's property.
    Property,
}

impl Form {
    /// What is wanted, after "wanted is".
    pub fn wanted(self) -> String {
        match self {
            Self::Boolean => "on, off, true, false, 1 or 0".to_owned(),
            Self::Count(min, max) if max >= u64::from(u32::MAX) => {
                format!("a whole number from {min}")
            }
            Self::Count(min, max) => format!("a whole number from {min} to {max}"),
            Self::Port => "a port from 0 to 65535".to_owned(),
            Self::Host => "an IP address or `localhost`".to_owned(),
            Self::Host4 => "an IPv4 address".to_owned(),
            Self::Address => "host:port, such as 127.0.0.1:7001".to_owned(),
            Self::Ports => "a range of ports such as 6100-6200, or `any`".to_owned(),
            Self::Uids => {
                "a range of two users at least, from 1000 up, such as 1900000000-1900000999"
                    .to_owned()
            }
            Self::Size => "a size: bytes, or a number with K, M, G or T, such as 2048M".to_owned(),
            Self::Duration => "a duration with units from 1s up, such as 90s or 1h30m".to_owned(),
            Self::Text => "text on one line, without control characters".to_owned(),
            Self::Id => {
                "an id: a letter, then letters, digits, `-`, `.` and `_`, and not `casemate-…`"
                    .to_owned()
            }
            Self::Path => "the path of a file or folder".to_owned(),
            Self::OneOf(words) => format!("one of {}", words.join(", ")),
            Self::LogFilter => {
                "debug, info, warn, error, or a filter such as info,casemate_host::vm=debug"
                    .to_owned()
            }
            Self::Ratio => "a number from 0.0 to 1.0".to_owned(),
            Self::Url => "a URL such as http://localhost:4318".to_owned(),
            Self::Base64(count) => format!("base64 of {count} bytes"),
            Self::PciFunction => "a PCI function such as 0000:01:00.0".to_owned(),
            Self::Sha256 => {
                "a SHA-256: 64 hexadecimal digits, as `sha256sum FILE` prints them".to_owned()
            }
            Self::Property => "a text, a whole number or a boolean".to_owned(),
        }
    }

    /// The canonical value of `text`, as a variable or a flag gives it.
    pub fn parse(self, text: &str) -> Option<toml::Value> {
        if text.len() > MAX_TEXT || text.contains(char::is_control) {
            return None;
        }
        let keep = |fits: bool| fits.then(|| toml::Value::from(text));
        match self {
            Self::Boolean => parse_switch(text).map(toml::Value::from),
            Self::Count(min, max) => count(text, min, max),
            Self::Port => count(text, 0, u64::from(u16::MAX)),
            Self::Host => host(text).map(|host| host.to_string().into()),
            Self::Host4 => match host(text)? {
                IpAddr::V4(address) => Some(address.to_string().into()),
                IpAddr::V6(_) => None,
            },
            Self::Address => {
                let (name, port) = text.rsplit_once(':')?;
                let name = name
                    .strip_prefix('[')
                    .map_or(Some(name), |name| name.strip_suffix(']'))?;
                keep(host(name).is_some() && count(port, 0, u64::from(u16::MAX)).is_some())
            }
            Self::Ports => {
                keep(text == "any" || range::<u16>(text).is_some_and(|(first, _)| first > 0))
            }
            Self::Uids => keep(range::<u32>(text).is_some_and(|(first, last)| {
                // System users lie below 1000, and user ids end at 2^31 for many tools. The last of
                // the range is for the QEMU that is only asked questions.
                first >= 1000 && last < 1 << 31 && first < last
            })),
            Self::Size => keep(byte_size::parse(text).is_ok()),
            Self::Duration => keep(go_duration::parse(text).is_ok()),
            Self::Text => keep(true),
            Self::Id => keep(is_qemu_id(text) && !text.starts_with(HOST_ID_PREFIX)),
            Self::Path => keep(!text.is_empty()),
            Self::OneOf(words) => keep(words.contains(&text)),
            Self::LogFilter => keep(is_log_filter(text)),
            Self::Ratio => {
                let ratio: f64 = text.parse().ok()?;
                (0.0..=1.0).contains(&ratio).then(|| ratio.into())
            }
            Self::Url => keep(is_url(text)),
            Self::Base64(wanted) => {
                let bytes = base64::engine::general_purpose::STANDARD
                    .decode(text)
                    .ok()?;
                keep(bytes.len() == wanted)
            }
            Self::PciFunction => keep(is_pci_function(text)),
            Self::Sha256 => is_sha256(text).then(|| text.to_ascii_lowercase().into()),
            Self::Property => keep(true),
        }
    }

    /// The canonical value of what a file holds: text in the form that a variable has, or TOML's own
    /// boolean or number where that is what is meant.
    pub fn read(self, value: &toml::Value) -> Option<toml::Value> {
        match (self, value) {
            (Self::Property, toml::Value::Boolean(_) | toml::Value::Integer(_)) => {
                Some(value.clone())
            }
            (Self::Boolean, toml::Value::Boolean(_)) => Some(value.clone()),
            (Self::Count(..) | Self::Port | Self::Size, toml::Value::Integer(number)) => {
                self.parse(&number.to_string())
            }
            (Self::Ratio, toml::Value::Float(number)) => self.parse(&number.to_string()),
            (Self::Ratio, toml::Value::Integer(number)) => self.parse(&number.to_string()),
            (_, toml::Value::String(text)) => self.parse(text),
            _ => None,
        }
    }
}

fn count(text: &str, min: u64, max: u64) -> Option<toml::Value> {
    // `+5` parses as a number and is a typing mistake.
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = text.parse().ok()?;
    if number < min || number > max {
        return None;
    }
    i64::try_from(number).ok().map(toml::Value::from)
}

fn host(text: &str) -> Option<IpAddr> {
    match text {
        "" | "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
        text => text.parse().ok(),
    }
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// `first-last`, both included.
pub fn range<T: std::str::FromStr + PartialOrd>(text: &str) -> Option<(T, T)> {
    // A sign would be a typing mistake, and numbers of Rust's take one.
    if text.contains('+') {
        return None;
    }
    let (first, last) = text.split_once('-')?;
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

/// A word alone is a level: the library would take `infoo` for the name of a module, and the log
/// would fall silent.
fn is_log_filter(text: &str) -> bool {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let has_sense = |directive: &str| {
        directive.contains(['=', '['])
            || directive.contains("::")
            || LEVELS
                .iter()
                .any(|level| level.eq_ignore_ascii_case(directive.trim()))
    };
    text.split(',').all(has_sense) && tracing_subscriber::EnvFilter::try_new(text).is_ok()
}

fn is_url(text: &str) -> bool {
    let rest = ["http://", "https://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    let Some(rest) = rest else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (name, port) = match authority.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port.parse::<u16>().is_ok()),
        _ => (authority, true),
    };
    port && !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._[]:".contains(&b))
}

fn is_pci_function(text: &str) -> bool {
    let is_hex = |part: &str, width: usize| {
        part.len() == width && part.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let (domain, rest) = match text.split(':').count() {
        2 => ("0000", text),
        _ => match text.split_once(':') {
            Some(parts) => parts,
            None => return false,
        },
    };
    let Some((bus, slot)) = rest.split_once(':') else {
        return false;
    };
    let Some((device, function)) = slot.split_once('.') else {
        return false;
    };
    is_hex(domain, 4)
        && is_hex(bus, 2)
        && is_hex(device, 2)
        && u8::from_str_radix(device, 16).is_ok_and(|device| device < 32)
        && matches!(function.as_bytes(), [b'0'..=b'7'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_canonical_or_are_refused() {
        // Of `abc`, as `sha256sum` prints it.
        const SMALL: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        const CAPITALS: &str = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD";
        let cases: &[(Form, &str, Option<toml::Value>)] = &[
            (Form::Boolean, "on", Some(true.into())),
            (Form::Boolean, "1", Some(true.into())),
            (Form::Boolean, "off", Some(false.into())),
            (Form::Boolean, "yes", None),
            (Form::Boolean, "TRUE", None),
            (Form::Count(1, 10), "10", Some(10.into())),
            (Form::Count(1, 10), "11", None),
            (Form::Count(1, 10), "0", None),
            (Form::Count(1, 10), "-1", None),
            (Form::Count(1, 10), "+1", None),
            (Form::Count(1, 10), " 1", None),
            (Form::Count(0, u64::MAX), "18446744073709551615", None),
            (Form::Port, "65535", Some(65535.into())),
            (Form::Port, "65536", None),
            (Form::Host, "localhost", Some("127.0.0.1".into())),
            (Form::Host, "", Some("127.0.0.1".into())),
            (Form::Host, "::1", Some("::1".into())),
            (Form::Host, "example.org", None),
            (Form::Host4, "::1", None),
            (Form::Address, "0.0.0.0:7001", Some("0.0.0.0:7001".into())),
            (Form::Address, "[::1]:7001", Some("[::1]:7001".into())),
            (Form::Address, ":7001", Some(":7001".into())),
            (Form::Address, "7001", None),
            (Form::Address, "127.0.0.1:+7001", None),
            (Form::Ports, "+6100-+6200", None),
            (Form::Address, "[::1:7001", None),
            (Form::Ports, "6100-6200", Some("6100-6200".into())),
            (Form::Ports, "any", Some("any".into())),
            (Form::Ports, "6200-6100", None),
            (Form::Ports, "0-10", None),
            (Form::Ports, "1-70000", None),
            (Form::Uids, "0-999", None),
            (Form::Uids, "5000-5000", None),
            (Form::Uids, "5000-5001", Some("5000-5001".into())),
            (Form::Size, "25G", Some("25G".into())),
            (Form::Size, "25 G", None),
            (Form::Duration, "60s", Some("60s".into())),
            (Form::Duration, "60", None),
            (Form::Text, "a\nb", None),
            (Form::Id, "vmnic", Some("vmnic".into())),
            (Form::Id, "0nic", None),
            (Form::Id, "casemate-x", None),
            (Form::Id, "a,b", None),
            (Form::Path, "", None),
            (Form::OneOf(&["a", "b"]), "b", Some("b".into())),
            (Form::OneOf(&["a", "b"]), "c", None),
            (Form::LogFilter, "info", Some("info".into())),
            (
                Form::LogFilter,
                "info,casemate_host::vm=debug",
                Some("info,casemate_host::vm=debug".into()),
            ),
            (Form::LogFilter, "infoo", None),
            (
                Form::LogFilter,
                "casemate_host::vm",
                Some("casemate_host::vm".into()),
            ),
            (Form::LogFilter, "a=loud", None),
            (Form::Ratio, "0.5", Some(0.5.into())),
            (Form::Ratio, "1.5", None),
            (Form::Ratio, "nan", None),
            (
                Form::Url,
                "http://localhost:4318",
                Some("http://localhost:4318".into()),
            ),
            (Form::Url, "ftp://localhost", None),
            (Form::Url, "localhost", None),
            (Form::Url, "http://", None),
            (Form::Url, "http://a:b", None),
            (
                Form::Url,
                "http://[::1]:4318/v1",
                Some("http://[::1]:4318/v1".into()),
            ),
            (Form::Base64(2), "AAE=", Some("AAE=".into())),
            (Form::Base64(3), "AAE=", None),
            (
                Form::PciFunction,
                "0000:01:00.0",
                Some("0000:01:00.0".into()),
            ),
            (Form::PciFunction, "01:00.0", Some("01:00.0".into())),
            (Form::PciFunction, "01:20.0", None),
            (Form::PciFunction, "01:00.8", None),
            (Form::PciFunction, "gpu", None),
            (Form::Sha256, CAPITALS, Some(SMALL.into())),
            (Form::Sha256, &SMALL[1..], None),
            (Form::Sha256, "sha256:00", None),
            (Form::Sha256, "", None),
        ];
        for (form, text, value) in cases {
            assert_eq!(form.parse(text), *value, "{form:?} {text:?}");
        }
    }

    #[test]
    fn a_file_may_use_the_types_of_toml() {
        for (form, value, canonical) in [
            (Form::Boolean, toml::Value::from(true), Some(true.into())),
            (Form::Boolean, "off".into(), Some(false.into())),
            (Form::Boolean, 1.into(), None),
            (Form::Count(0, 9), 5.into(), Some(5.into())),
            (Form::Count(0, 9), "5".into(), Some(5.into())),
            (Form::Count(0, 9), (-5).into(), None),
            (Form::Size, 1024.into(), Some("1024".into())),
            (Form::Text, 5.into(), None),
            (Form::Ratio, 1.into(), Some(1.0.into())),
            (Form::Property, true.into(), Some(true.into())),
            (Form::Property, toml::Value::Array(Vec::new()), None),
        ] {
            assert_eq!(form.read(&value), canonical, "{form:?} {value}");
        }
    }
}
