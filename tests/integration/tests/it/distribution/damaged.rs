//! Damaged components are looked into without being run: in words, and without a panic.

use casemate_host::backend::inspect::inspect;
use casemate_integration::artifacts;
use proptest::prelude::*;

use super::bench::Bench;

#[test]
fn a_damaged_component_is_told_as_such() {
    let bench = Bench::new();
    let whole = std::fs::read(artifacts::component("plain-kvm")).expect("it was built");
    bench.write("half.wasm", &whole[..whole.len() / 2]);
    // A component of its own, with nothing in it.
    bench.write("nothing.wasm", b"\0asm\x0d\0\x01\0");
    for (arguments, part) in [
        (&["inspect", "half.wasm"][..], "not a valid component"),
        (
            &["push", "half.wasm", "127.0.0.1:1/a:1"],
            "not a valid component",
        ),
        (&["pin", "half.wasm"], "not a valid component"),
        (
            &["push", "nothing.wasm", "127.0.0.1:1/a:1"],
            "it is no backend",
        ),
    ] {
        let (id, message, _) = bench.refused(&[&["backend"], arguments].concat());
        assert_eq!(id, "not-a-component", "{arguments:?}: {message}");
        assert!(message.contains(part), "{arguments:?}: {message}");
    }
    let page = bench.json(&["backend", "inspect", "nothing.wasm"]);
    assert!(page["contract"].is_null(), "{page}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is changed, cut off or repeated.
    #[test]
    fn whatever_a_component_is_changed_to_it_is_looked_into(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        end in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let mut bytes = std::fs::read(artifacts::component("plain-kvm")).expect("it was built");
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cuts {
            bytes.truncate(end.index(bytes.len()));
        }
        if let Ok(inspected) = inspect(&bytes) {
            let names = inspected.imports.iter().chain(&inspected.exports);
            for name in names {
                prop_assert!(!name.contains(char::is_control));
            }
        }
    }
}
