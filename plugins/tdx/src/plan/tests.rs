//! A property: no input makes `check` or `plan` panic, or say something that is not safe to show, and
//! no plan lacks what protects the guest. Requests with what becomes of them are in `tests/golden/`.

use std::sync::LazyLock;

use casemate_backend::arbitrary::{self, OneFile};
use casemate_backend::bindings::casemate::tee::types::{Severity, Value};
use casemate_firmware_images::Image;
use proptest::prelude::*;

use super::*;
use crate::check::check;
use crate::facts::OBJECT;

const FIRMWARE_SIZE: u64 = 0x40_0000;

static FIRMWARE: LazyLock<OneFile> = LazyLock::new(|| OneFile(Image::good().bytes()));

prop_compose! {
    fn any_facts()(
        guard in arbitrary::guard_facts(33, "tdx 31\n"),
        quote_socket in arbitrary::answer(Just(())),
        cpus_present in arbitrary::answer(arbitrary::mostly("0-127\n")),
        qemu in arbitrary::qemu_facts("pc-q35-10.1"),
        object in arbitrary::answer(Just(())),
    ) -> Facts {
        Facts { guard, quote_socket, cpus_present, qemu, object }
    }
}

proptest! {
    #[test]
    fn any_input_gets_an_answer_that_is_safe_to_show(
        request in arbitrary::request(crate::settings::announced(), FIRMWARE_SIZE),
        facts in any_facts(),
    ) {
        let files = &*FIRMWARE;
        assert!(arbitrary::findings_are_harmless(&check(&request.host, &facts, files)));
        match plan(&request, &facts, files) {
            Ok(plan) => {
                assert!(arbitrary::plan_is_harmless(&plan));
                assert!(plan.findings.iter().all(|f| f.severity != Severity::Fail));
                assert_eq!(request.host.accelerator, "kvm");
                let guard = plan.objects.iter().find(|object| object.id == plan.guard);
                let guard = guard.expect("a plan without its guard protects nobody");
                assert_eq!(guard.kind, OBJECT);
                assert_eq!(plan.cpu.kind, "host");
                let value = |name: &str| {
                    let mut properties = guard.properties.iter();
                    properties.find(|set| set.path == name).map(|set| set.value.clone())
                };
                // Bits 28, 30 and 63 at most, so bit 0 (DEBUG) never.
                let Some(Value::Unsigned(attributes)) = value("attributes") else {
                    panic!("{guard:?}");
                };
                assert_eq!(attributes & !(1 << 28 | 1 << 30 | 1 << 63), 0, "{attributes:#x}");
                for name in ["mrconfigid", "mrowner", "mrownerconfig"] {
                    if let Some(value) = value(name) {
                        assert!(matches!(value, Value::Bytes(bytes) if bytes.len() == 48));
                    }
                }
                assert!(value("quote-generation-socket.type").is_some());
                if let Some(identity) = &request.identity {
                    let Some(Value::Bytes(carried)) = value("mrconfigid") else {
                        panic!("{guard:?}");
                    };
                    assert!(carried.starts_with(&identity.digest));
                }
            }
            Err(error) => assert!(arbitrary::refusal_is_complete(&error), "{error:?}"),
        }
    }
}
