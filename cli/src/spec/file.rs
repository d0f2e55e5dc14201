//! `--file`: a VM described in YAML or JSON, as the API has it (`VmSpec`).

use std::io::Read;
use std::path::Path;

use casemate_proto::json;
use casemate_proto::v1::VmSpec;
use serde_json::Value;

use crate::error::CliError;
use crate::{plain_text, yaml};

/// What a daemon takes as one request.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

const UNKNOWN_FIELD: &str = "unknown field";

/// `-` is standard input.
pub(super) fn read(path: &Path) -> Result<VmSpec, CliError> {
    let is_standard_input = path.as_os_str() == "-";
    let text = if is_standard_input {
        bounded(std::io::stdin().lock())
    } else {
        std::fs::File::open(path).and_then(bounded)
    };
    let text = text.map_err(|source| CliError::Input {
        path: path.to_owned(),
        source,
    })?;
    parse(&text).map_err(|reason| CliError::SpecFile {
        file: if is_standard_input {
            "standard input".to_owned()
        } else {
            plain_text::escaped(&path.display().to_string())
        },
        reason: plain_text::escaped(&reason),
    })
}

fn bounded(reader: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    let read = reader.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if u64::try_from(read).is_ok_and(|read| read > MAX_BYTES) {
        return Err(std::io::Error::other("it is larger than a request may be"));
    }
    Ok(text)
}

/// JSON begins with a brace.
fn parse(text: &str) -> Result<VmSpec, String> {
    let value = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            format!("it is no JSON from line {line} column {column} on")
        })
    } else {
        yaml::parse(text)
    }?;
    if !matches!(value, Value::Object(_)) {
        return Err("wanted are fields of a VmSpec, such as `memory_bytes: 1073741824`".to_owned());
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let reason = json::without_the_value(&error.into_inner().to_string());
        match path.as_str() {
            "." => reason,
            // It names the field itself.
            path if reason.starts_with(UNKNOWN_FIELD) => match path.rsplit_once('.') {
                Some((parent, _)) => format!("{parent}: {reason}"),
                None => reason,
            },
            path => format!("{path}: {reason}"),
        }
    })
}

#[cfg(test)]
mod tests {
    use casemate_proto::v1;

    use super::*;

    #[test]
    fn yaml_and_json_say_the_same() {
        let yaml = "\
# a VM
name: web
memory_bytes: 1073741824
boot: disk
restart_policy: on-failure
environment: {A: '1'}
labels:
  team: blue
files:
  disk: debian/disk.qcow2
secrets:
  key: aGk=
data_disks:
  - {id: data, image: data.raw, format: raw}
";
        let json = r#"
            {"name": "web", "memory_bytes": 1073741824, "boot": "disk",
             "restart_policy": "on-failure", "environment": {"A": "1"}, "labels": {"team": "blue"},
             "files": {"disk": "debian/disk.qcow2"}, "secrets": {"key": "aGk="},
             "data_disks": [{"id": "data", "image": "data.raw", "format": "raw"}]}"#;
        let spec = parse(yaml).unwrap();
        assert_eq!(parse(json).as_ref(), Ok(&spec));
        assert_eq!(spec.name, "web");
        assert_eq!(spec.boot(), v1::Boot::Disk);
        assert_eq!(spec.restart_policy(), v1::RestartPolicy::OnFailure);
        assert_eq!(spec.secrets["key"], b"hi");
        assert_eq!(spec.data_disks[0].format, "raw");
    }

    #[test]
    fn what_is_wrong_is_told_without_the_value() {
        for (text, expected) in [
            ("memory: 1", "unknown field `memory`"),
            (
                "memory_bytes: hidden",
                "memory_bytes: wanted is a number of its range",
            ),
            ("vcpus: -1", "vcpus: wanted is a number of its range"),
            (
                "vcpus: 4294967296",
                "vcpus: wanted is a number of its range",
            ),
            (
                "environment: {A: 12345}",
                "environment.A: wanted is a string",
            ),
            ("environment: hidden", "environment: wanted is a map"),
            ("secrets: {key: 'hidden!'}", "secrets: it is no base64"),
            ("boot: hidden", "boot: wanted is one of `unspecified`"),
            (
                "data_disks: [{id: a, size: 1}]",
                "data_disks[0]: unknown field `size`",
            ),
            ("- hidden", "wanted are fields"),
            ("hidden", "wanted are fields"),
            ("", "wanted are fields"),
            ("{\"name\": \"hidden}", "it is no JSON from line 1"),
            ("name: 'hidden", "it is no YAML from line 1"),
            ("name: a\n---\nname: b", "it is no YAML"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
            assert!(
                !error.contains("hidden") && !error.contains("12345"),
                "{error}"
            );
        }
    }
}
