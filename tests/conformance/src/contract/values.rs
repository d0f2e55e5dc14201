//! Values of settings: all forms of a kind, and what is not of it.

use casemate_host::backend::SettingKind;
use casemate_host::spec::plan::Value;

/// Values that a host may pass for a setting of this kind. A file is `file`.
pub(super) fn of_kind(kind: &SettingKind, file: u32) -> Vec<Value> {
    let text = |text: &str| Value::Text(text.to_owned());
    match kind {
        SettingKind::Boolean => vec![Value::Boolean(true), Value::Boolean(false)],
        SettingKind::Integer => [i64::MIN, -1, 0, 1, i64::MAX].map(Value::Integer).into(),
        SettingKind::Unsigned | SettingKind::Size => {
            [0, 1, 2, 3, 63, 64, 4095, 4096, 1 << 30, 1 << 40, u64::MAX]
                .map(Value::Unsigned)
                .into()
        }
        SettingKind::Text => {
            let long = "x".repeat(300);
            [
                "",
                "a",
                "a,b",
                "größe",
                "0",
                "0x30000",
                "-1",
                "a b",
                "vsock:1:2",
                "/run/x",
                &long,
            ]
            .map(text)
            .into()
        }
        SettingKind::Bytes { exact: None } => [0, 1, 16, 48, 64, 96, 4096]
            .map(|length| Value::Bytes(vec![0xa5; length]))
            .into(),
        SettingKind::Bytes {
            exact: Some(length),
        } => [0, 0xff, 0x5a]
            .map(|byte| Value::Bytes(vec![byte; *length]))
            .into(),
        SettingKind::File => vec![Value::File(file)],
        SettingKind::HostPath => vec![Value::HostPath("/run/conformance".to_owned())],
        SettingKind::OneOf(words) => words.iter().map(|word| text(word)).collect(),
    }
}

/// Values that no host passes for it.
pub(super) fn not_of_kind(kind: &SettingKind) -> Vec<Value> {
    let text = |text: &str| Value::Text(text.to_owned());
    match kind {
        SettingKind::Boolean => vec![text("on"), Value::Unsigned(1)],
        SettingKind::Integer => vec![text("1"), Value::Boolean(true)],
        SettingKind::Unsigned | SettingKind::Size => {
            vec![text("1"), Value::Integer(-1), Value::Boolean(true)]
        }
        SettingKind::Text => vec![Value::Unsigned(1), Value::Bytes(vec![1])],
        SettingKind::Bytes { exact: None } => vec![text("AAE="), Value::Unsigned(1)],
        SettingKind::Bytes {
            exact: Some(length),
        } => vec![
            text("AAE="),
            Value::Bytes(vec![1; length + 1]),
            Value::Bytes(vec![1; length.saturating_sub(1)]),
        ],
        SettingKind::File => vec![text("/etc/hostname")],
        SettingKind::HostPath => vec![text("/run/conformance")],
        SettingKind::OneOf(_) => {
            vec![
                text("no-such-word"),
                Value::Boolean(true),
                Value::Unsigned(0),
            ]
        }
    }
}
