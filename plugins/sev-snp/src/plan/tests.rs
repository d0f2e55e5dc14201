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
        guard in arbitrary::guard_facts(17, "sev_es 99\n"),
        sev_leaf in arbitrary::answer(prop_oneof![
            9 => Just((0x1f, 0x173)),
            1 => any::<(u32, u32)>(),
        ]),
        sev_device in arbitrary::answer(Just(())),
        policy_bits in arbitrary::answer(prop_oneof![Just(0x1b_ffff), any::<u64>()]),
        smt_active in arbitrary::answer(arbitrary::mostly("1\n")),
        qemu in arbitrary::qemu_facts("pc-q35-10.0"),
        object in arbitrary::answer(Just(())),
        igvm in arbitrary::answer(Just(())),
    ) -> Facts {
        Facts { guard, sev_leaf, sev_device, policy_bits, smt_active, qemu, object, igvm }
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
                let value = |name: &str| {
                    let mut properties = guard.properties.iter();
                    properties.find(|set| set.path == name).map(|set| set.value.clone())
                };
                // Bit 17 set, bits 18 (MIGRATE_MA) and 19 (DEBUG) clear.
                let Some(Value::Unsigned(policy)) = value("policy") else {
                    panic!("{guard:?}");
                };
                assert_eq!((policy >> 17) & 0b111, 0b001, "{policy:#x}");
                assert!(matches!(value("cbitpos"), Some(Value::Unsigned(1..=63))));
                assert_eq!(value("id-block").is_some(), value("id-auth").is_some());
                let hashes = value("kernel-hashes") == Some(Value::Boolean(true));
                assert_eq!(hashes, plan.boot.contains(BootInputs::KERNEL));
                if let Some(identity) = &request.identity {
                    let Some(Value::Bytes(carried)) = value("host-data") else {
                        panic!("{guard:?}");
                    };
                    assert_eq!(carried.len(), 32);
                    assert!(carried.starts_with(&identity.digest));
                }
            }
            Err(error) => assert!(arbitrary::refusal_is_complete(&error), "{error:?}"),
        }
    }
}
