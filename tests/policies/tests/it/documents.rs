//! What shows everything: JSON, and text for people.

use casemate_attestation::{
    Measurement, PcrValues, PolicyFormat, RegisterValue, json, render_policy, text,
};

use crate::sample::{measurement, named, pcrs, unknown, whole};

#[test]
fn json_has_every_field_in_one_order() {
    let mut whole = whole();
    whole.registers.truncate(2);
    whole.registers.push(named(unknown("late"), "LATE"));
    let expected = serde_json::json!({
        "registers": [
            {
                "name": "launch-digest",
                "algorithm": "sha-384",
                "value": "11".repeat(48),
                "alternatives": [],
                "unknown": null,
                "inputs": [
                    {"name": "guest-features", "value": "0x1", "source": "assumed"},
                    {"name": "vcpus", "value": "2", "source": "request"},
                ],
                "aliases": {"corim": "LAUNCH", "trustee": "LAUNCH"},
            },
            {
                "name": "td",
                "algorithm": "sha-384",
                "value": null,
                "alternatives": [
                    {"condition": "one pass", "value": "21".repeat(48)},
                    {"condition": "two passes", "value": "22".repeat(48)},
                ],
                "unknown": null,
                "inputs": [],
                "aliases": {"corim": "TD", "trustee": "TD"},
            },
            {
                "name": "late",
                "algorithm": "sha-384",
                "value": null,
                "alternatives": [],
                "unknown": "no QEMU was asked",
                "inputs": [],
                "aliases": {"corim": "LATE", "trustee": "LATE"},
            },
        ],
        "files": [{"role": "firmware", "sha384": "ab".repeat(48)}],
        "backend": {
            "name": "umbra",
            "tee": "umbra-2",
            "vendor": "example.org",
            "version": "0.3.0",
            "sha256": "cd".repeat(32),
            "corim_vendor": "ACME",
            "corim_model": "UMBRA",
        },
        "qemu_version": "10.1.0",
        "pcr_values": {
            "sha256": {"4": "d6".repeat(32)},
            "sha384": {"4": "d4".repeat(48), "10": "d5".repeat(48)},
        },
    });
    let document = json::document(&whole, Some(&pcrs()));
    // As text, so that the order is compared too.
    assert_eq!(document.to_string(), expected.to_string());
}

#[test]
fn json_is_read_back() {
    let mut whole = whole();
    whole.registers.push(unknown("late"));
    let bytes = render_policy(PolicyFormat::Json, &whole, None).unwrap();
    assert!(bytes.ends_with(b"}\n"));
    assert_eq!(
        serde_json::from_slice::<Measurement>(&bytes).unwrap(),
        whole
    );
    assert!(json::document(&whole, None).get("pcr_values").is_none());

    let mut document = json::document(&whole, Some(&pcrs()));
    let values = serde_json::json!({"pcr_values": document["pcr_values"].take()});
    assert_eq!(
        PcrValues::parse(values.to_string().as_bytes()).unwrap(),
        pcrs()
    );
}

#[test]
fn text_has_a_line_for_each_thing() {
    let mut whole = whole();
    whole.registers.push(unknown("late"));
    let expected = [
        "measured by umbra 0.3.0 (example.org, umbra-2), sha256:".to_owned() + &"cd".repeat(32),
        "for QEMU 10.1.0".to_owned(),
        String::new(),
        "registers".to_owned(),
        "  launch-digest  sha-384:".to_owned() + &"11".repeat(48),
        format!("  td             sha-384:{}  if one pass", "21".repeat(48)),
        format!(
            "  td             sha-384:{}  if two passes",
            "22".repeat(48)
        ),
        "  policy         raw:".to_owned() + &"31".repeat(8),
        "  scratch        sha-384:".to_owned() + &"41".repeat(48),
        "  table          sha-256:".to_owned() + &"51".repeat(32),
        "  wide           sha-512:".to_owned() + &"61".repeat(64),
        "  late           unknown: no QEMU was asked".to_owned(),
        String::new(),
        "assumed".to_owned(),
        "  launch-digest  guest-features = 0x1".to_owned(),
        String::new(),
        "files".to_owned(),
        "  firmware  sha384:".to_owned() + &"ab".repeat(48),
        String::new(),
        "PCR values".to_owned(),
        "  pcr4   sha256:".to_owned() + &"d6".repeat(32),
        "  pcr4   sha384:".to_owned() + &"d4".repeat(48),
        "  pcr10  sha384:".to_owned() + &"d5".repeat(48),
        String::new(),
    ];
    assert_eq!(text::render(&whole, Some(&pcrs())), expected.join("\n"));
}

#[test]
fn text_without_anything_has_no_empty_section() {
    let mut bare = measurement(Vec::new());
    bare.files.clear();
    bare.qemu_version = None;
    assert_eq!(text::render(&bare, None).lines().count(), 1);
}

#[test]
fn text_shows_what_a_terminal_would_act_on_as_an_escape() {
    let hostile = "a\u{1b}[2J\n\u{202e}\u{9b}\u{2066}b";
    let mut whole = whole();
    let plain = text::render(&whole, None).lines().count();
    whole.registers[0].name = hostile.to_owned();
    whole.registers[0].inputs[0].name = hostile.to_owned();
    whole.registers[0].inputs[0].value = hostile.to_owned();
    whole.registers[3].value = RegisterValue::Unknown(hostile.to_owned());
    if let RegisterValue::OneOf(alternatives) = &mut whole.registers[1].value {
        alternatives[0].condition = hostile.to_owned();
    }
    for field in [
        &mut whole.backend.name,
        &mut whole.backend.version,
        &mut whole.backend.vendor,
        &mut whole.backend.tee,
        &mut whole.backend.sha256,
        &mut whole.files[0].role,
    ] {
        *field = hostile.to_owned();
    }
    whole.files[0].sha384 = hostile.to_owned();
    whole.qemu_version = Some(hostile.to_owned());

    let shown = text::render(&whole, None);
    assert_eq!(shown.lines().count(), plain);
    assert!(
        shown
            .chars()
            .all(|one| one == '\n' || (' '..='~').contains(&one)),
        "{shown:?}"
    );
    let escaped = r"a\u{1b}[2J\n\u{202e}\u{9b}\u{2066}b";
    assert_eq!(shown.matches(escaped).count(), 14, "{shown}");
}

#[test]
fn only_the_documents_that_may_show_it_show_an_unknown_register() {
    let unknown = measurement(vec![named(unknown("late"), "LATE")]);
    for format in PolicyFormat::ALL {
        let rendered = render_policy(format, &unknown, Some(&pcrs()));
        let shows = matches!(format, PolicyFormat::Json | PolicyFormat::Text);
        assert_eq!(rendered.is_ok(), shows, "{format}");
    }
}
