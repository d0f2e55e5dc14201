//! Every RPC, field, route, parameter, flag and exit code is in `tests/effects.toml`, beside a test
//! that misses it when it is gone. That the tests do is what `cargo xtask effects` finds out. The parts
//! are asked of the descriptors, of the served OpenAPI document and of the CLI's own help.

mod openapi;

use std::collections::BTreeSet;
use std::path::Path;

use casemate_integration::daemon::Setup;
use casemate_integration::mute::{self, DESCRIPTORS, Field, Part};
use prost_reflect::{Kind, MessageDescriptor};
use serde_json::json;
use xtask::effects::Table;

/// What is Casemate's own, and its predecessor's.
const PACKAGES: [&str; 2] = ["casemate.v1", "manager"];

fn calls() -> BTreeSet<Part> {
    let mut parts = BTreeSet::new();
    let services = DESCRIPTORS.services();
    for service in services.filter(|service| PACKAGES.contains(&service.package_name())) {
        for method in service.methods() {
            let path = format!("{}/{}", service.full_name(), method.name());
            parts.insert(Part::Rpc(path));
            fields(&method.input(), Part::Request, &mut parts);
            fields(&method.output(), Part::Response, &mut parts);
        }
    }
    parts
}

/// All that can be in such a message, however deep.
fn fields(message: &MessageDescriptor, part: fn(Field) -> Part, parts: &mut BTreeSet<Part>) {
    if message.is_map_entry() {
        if let Kind::Message(value) = message.map_entry_value_field().kind() {
            fields(&value, part, parts);
        }
        return;
    }
    for field in message.fields() {
        let is_new = parts.insert(part(Field {
            of: message.full_name().to_owned(),
            name: field.name().to_owned(),
        }));
        if let (true, Kind::Message(inner)) = (is_new, field.kind()) {
            fields(&inner, part, parts);
        }
    }
}

fn commands() -> BTreeSet<Part> {
    let flags = mute::flags().into_iter().map(Part::Flag);
    let codes = mute::exit_codes().into_iter().map(Part::Exit);
    flags.chain(codes).collect()
}

/// Tests of this program, as the table names them.
fn tests() -> BTreeSet<String> {
    let program = std::env::current_exe().expect("a test knows its own path");
    #[expect(clippy::disallowed_methods, reason = "the test program itself")]
    let mut command = std::process::Command::new(program);
    let listed = command.args(["--list", "--format", "terse"]).output();
    let listed = String::from_utf8(listed.expect("it lists").stdout).expect("text");
    let names = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"));
    names.map(|name| format!("it {name}")).collect()
}

/// With the scripted QEMU, because no VM is made.
#[tokio::test]
async fn every_part_of_the_interfaces_is_in_the_table() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    let daemon = setup.start();
    let (status, document) = daemon.get_http(mute::DOCUMENT).await;
    assert_eq!(status, 200, "{document}");
    let document = serde_json::from_str(&document).expect("JSON");

    let mut there = calls();
    there.extend(openapi::parts(&document));
    there.extend(commands());
    let there: BTreeSet<String> = there.iter().map(Part::to_string).collect();

    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let table = Table::read(&workspace).expect("tests/effects.toml");
    let listed: BTreeSet<String> = table.parts().map(|(part, _)| part.to_owned()).collect();
    let tests = tests();
    let named = table.parts().flat_map(|(_, tests)| tests);
    let unknown: BTreeSet<&String> = named.filter(|test| !tests.contains(*test)).collect();

    let lines = |title: &str, names: Vec<&String>| {
        let names = names.into_iter().map(|name| format!("\n  {name}"));
        let names: String = names.collect();
        if names.is_empty() {
            names
        } else {
            format!("\n{title}:{names}")
        }
    };
    let complaints = [
        lines("no test is named for", there.difference(&listed).collect()),
        lines(
            "these are no parts of the interfaces",
            listed.difference(&there).collect(),
        ),
        lines("these are no tests", unknown.into_iter().collect()),
    ];
    let complaints = complaints.concat();
    assert!(
        complaints.is_empty(),
        "tests/effects.toml is not what there is, which is {} parts{complaints}",
        there.len()
    );
}
