//! Components that no toolchain makes by mistake, made from the contract's own WIT with one thing changed:
//! they have the right shape, and every function of theirs traps.

use std::path::Path;

use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{LiftLowerAbi, ManglingAndAbi, Resolve};

/// The contract's version, as its files begin.
const CONTRACT: &str = "package casemate:tee@1.0.0;";
const OTHER_WORLDS: &str = "
    world overreaching {
        include tee-backend;
        import elsewhere:radio/antenna;
    }
    world mute {
        import files;
        import facts;
        import log;
    }
";
const ELSEWHERE: &str = "
    package elsewhere:radio;
    interface antenna {
        send: func(text: string);
    }
";

/// Name, bytes, and the check that fails.
pub(crate) fn components() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let large = {
        let mut bytes = dummy("tee-backend", CONTRACT, CONTRACT);
        bytes.resize((16 << 20) + 1, 0);
        bytes
    };
    vec![
        ("garbage", vec![0x5a; 4096], "L0-01"),
        ("empty", Vec::new(), "L0-01"),
        ("text", b"(component)".to_vec(), "L0-01"),
        ("core-module", b"\0asm\x01\0\0\0".to_vec(), "L0-01"),
        ("cut-off", cut_off(), "L0-01"),
        ("large", large, "L0-02"),
        (
            "overreaching",
            dummy("overreaching", CONTRACT, CONTRACT),
            "L0-03",
        ),
        ("mute", dummy("mute", CONTRACT, CONTRACT), "L0-04"),
        ("newer", of_version("2.0.0"), "L0-05"),
        ("older", of_version("0.9.0"), "L0-05"),
        ("pre-release", of_version("1.0.0-rc.1"), "L0-05"),
        (
            "another-result",
            dummy(
                "tee-backend",
                "check: func(host: host-context) -> list<finding>;",
                "check: func(host: host-context) -> result<list<finding>, error>;",
            ),
            "L0-06",
        ),
        (
            "another-record",
            dummy("tee-backend", "vendor: string,", "seller: string,"),
            "L0-06",
        ),
        (
            "all-trap",
            dummy("tee-backend", CONTRACT, CONTRACT),
            "L0-07",
        ),
    ]
}

fn cut_off() -> Vec<u8> {
    let mut bytes = dummy("tee-backend", CONTRACT, CONTRACT);
    bytes.truncate(bytes.len() / 2);
    bytes
}

/// The contract as it is, with another version.
fn of_version(version: &str) -> Vec<u8> {
    dummy(
        "tee-backend",
        CONTRACT,
        &format!("package casemate:tee@{version};"),
    )
}

/// A component for `world` whose functions all trap, built against the contract with `from` replaced by
/// `to`.
fn dummy(world: &str, from: &str, to: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let contract = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
    let mut is_there = false;
    for name in ["types.wit", "world.wit"] {
        let text = std::fs::read_to_string(contract.join(name)).expect("the contract is readable");
        is_there |= text.contains(from);
        std::fs::write(folder.path().join(name), text.replace(from, to)).expect("a file");
    }
    assert!(is_there, "the contract lacks {from:?}");
    std::fs::write(folder.path().join("others.wit"), OTHER_WORLDS).expect("a file");
    let package = folder.path().join("deps/radio");
    std::fs::create_dir_all(&package).expect("a folder");
    std::fs::write(package.join("package.wit"), ELSEWHERE).expect("a file");
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(folder.path()).expect("the WIT is valid");
    let world = resolve
        .select_world(&[package], Some(world))
        .expect("the world is there");
    let mut module = dummy_module(&resolve, world, ManglingAndAbi::Legacy(LiftLowerAbi::Sync));
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .expect("the module takes it");
    let mut encoder = ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .expect("the module is one of the contract");
    encoder.encode().expect("it makes a component")
}
