//! The contract stays what it was when it was released: a component of then is served by a host of
//! now. The judge is `wit-component`'s check, which lets validation decide whether a component of
//! the released world fits the shape of the present one.

use std::path::{Path, PathBuf};

use casemate_integration::artifacts;
use wit_component::semver_check;
use wit_parser::Resolve;

const WORLDS: [&str; 3] = ["tee-backend", "tee-backend-measured", "tee-backend-tool"];
/// A version that no contract has: one resolution holds no two packages of one name and version.
const PRESENT: &str = "1.999.0";

fn contract() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit")
}

/// The WIT files of a folder, with their package's line, in one text.
fn text_of(folder: &Path) -> String {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the contract is there")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wit"))
        .collect();
    files.sort();
    let mut header = String::new();
    let mut text = String::new();
    for file in files {
        let file = std::fs::read_to_string(file).expect("the contract is readable");
        let (package, rest) = file.split_once('\n').expect("a line names the package");
        assert!(package.starts_with("package casemate:tee@"), "{package}");
        assert!(header.is_empty() || header == package, "{header} {package}");
        header = package.to_owned();
        text.push_str(rest);
    }
    format!("{header}\n{text}")
}

/// Each release, by its version.
fn released() -> Vec<(String, String)> {
    let mut releases: Vec<_> = std::fs::read_dir(contract().join("released"))
        .expect("there are releases")
        .map(|entry| {
            let entry = entry.expect("an entry");
            let version = entry.file_name().into_string().expect("a version");
            (version, text_of(&entry.path()))
        })
        .collect();
    releases.sort();
    releases
}

/// Whether components of `before` fit a host of `after`, in every world.
fn compatible(before: &str, after: &str) -> Result<(), String> {
    let (_, rest) = after.split_once('\n').expect("a package");
    let after = format!("package casemate:tee@{PRESENT};\n{rest}");
    for world in WORLDS {
        let mut resolve = Resolve::default();
        let old = resolve.push_str("before.wit", before).map_err(text)?;
        let new = resolve.push_str("after.wit", &after).map_err(text)?;
        let old = resolve.select_world(&[old], Some(world)).map_err(text)?;
        let new = resolve.select_world(&[new], Some(world)).map_err(text)?;
        semver_check(resolve, old, new).map_err(text)?;
    }
    Ok(())
}

fn text(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}

#[test]
fn components_of_every_release_fit_the_contract_of_now() {
    let now = text_of(&contract());
    let releases = released();
    assert!(!releases.is_empty());
    for (version, release) in releases {
        assert!(
            release.starts_with(&format!("package casemate:tee@{version};")),
            "the folder {version} has another version"
        );
        compatible(&release, &now).unwrap_or_else(|error| panic!("since {version}: {error}"));
        if now.starts_with(&format!("package casemate:tee@{version};")) {
            assert_eq!(release, now, "what changes takes another version");
        }
    }
}

/// SHA-256 of each file of each release: a row is added with a release, and none is ever changed.
const RELEASED: [(&str, &str); 2] = [
    (
        "1.0.0/types.wit",
        "4fee08e6b78e09395ed6af0e0439cba146a05163f3e26ae08f04debf492285da",
    ),
    (
        "1.0.0/world.wit",
        "0164959b650122679290d588433923a3135f0ddfd7a0f1c102224ac170fe1252",
    ),
];

#[test]
fn what_is_released_does_not_change() {
    let folder = contract().join("released");
    let mut there = Vec::new();
    for version in std::fs::read_dir(&folder).expect("there are releases") {
        let version = version.expect("an entry").path();
        for file in std::fs::read_dir(version).expect("a release is a folder") {
            let path = file.expect("an entry").path();
            let digest = artifacts::sha256(&path);
            let name = path.strip_prefix(&folder).expect("it is in it");
            there.push((name.display().to_string(), digest));
        }
    }
    there.sort();
    let released = RELEASED.map(|(name, digest)| (name.to_owned(), digest.to_owned()));
    assert_eq!(there, released);
}

/// The check finds each kind of change that the policy forbids, and lets those pass that it allows.
#[test]
fn the_check_tells_what_breaks_components_from_what_does_not() {
    let now = text_of(&contract());
    let breaking = [
        (
            "a field of a record",
            "        tee: string,",
            "        tee: string, motto: string,",
        ),
        (
            "a case of a variant",
            "        other(string),\n    }\n\n    /// The backend's own",
            "        other(string),\n        more,\n    }\n\n    /// The backend's own",
        ),
        (
            "a case of an enum",
            "        fail,\n    }",
            "        fail,\n        fatal,\n    }",
        ),
        (
            "a flag",
            "        cmdline,\n    }",
            "        cmdline,\n        dtb,\n    }",
        ),
        (
            "a parameter",
            "check: func(host: host-context)",
            "check: func(host: host-context, why: string)",
        ),
        (
            "a result",
            "plan: func(request: launch-request) -> result<launch-plan, error>",
            "plan: func(request: launch-request) -> result<launch-plan, string>",
        ),
        (
            "a required export",
            "    describe: func() -> backend-info;",
            "    describe: func() -> backend-info;\n    more: func();",
        ),
        (
            "an export of an optional interface",
            "    measure: func(",
            "    more: func();\n    measure: func(",
        ),
        (
            "a function that backends call",
            "    write: func(level: u8, message: string);",
            "",
        ),
        (
            "its type",
            "write: func(level: u8,",
            "write: func(level: u32,",
        ),
    ];
    for (what, from, to) in breaking {
        assert_eq!(now.matches(from).count(), 1, "{what}: {from:?}");
        let changed = now.replace(from, to);
        assert!(compatible(&now, &changed).is_err(), "{what} was not found");
    }
    let allowed = [
        (
            "a function of an imported interface",
            "    qemu-version: func()",
            "    uptime: func() -> u64;\n    qemu-version: func()",
        ),
        (
            "an optional interface with a world",
            "world tee-backend {",
            "interface renewal { renew: func(); }\nworld tee-backend-renewed { include tee-backend; export renewal; }\nworld tee-backend {",
        ),
    ];
    for (what, from, to) in allowed {
        assert_eq!(now.matches(from).count(), 1, "{what}: {from:?}");
        compatible(&now, &now.replace(from, to)).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}
