//! Another technology without another host: the same binary, with nothing but its config changed,
//! runs a component from another source, whose TEE no host source names.

use std::path::Path;

use casemate_integration::daemon::{Setup, agent_answer};
use casemate_proto::v1;

#[tokio::test]
async fn config_alone_puts_an_unheard_of_tee_into_service_and_boots_it() {
    let mut setup = Setup::new();
    setup.add_backend(
        "umbra",
        toml::toml! {
            facts = [{ fact = "qemu-machine", pattern = "pc" }]
            objects = { memory-backend-memfd = { properties = ["share"] } }
            devices = { pvpanic-pci = {} }
        },
    );
    setup.set("default_backend", "umbra");
    let daemon = setup.start();
    let vm = daemon
        .create(v1::VmSpec {
            environment: [("NONCE".to_owned(), "umbra-nonce".to_owned())].into(),
            ..v1::VmSpec::default()
        })
        .await
        .expect("it runs");
    assert_eq!((vm.backend.as_str(), vm.tee.as_str()), ("umbra", "umbra"));
    assert!(vm.machine.starts_with("pc-i440fx-"), "{}", vm.machine);
    // A name is no protection: only a guard is.
    assert!(!vm.confidential);
    assert!(
        agent_answer(&vm.agent_address)
            .await
            .contains("NONCE=umbra-nonce")
    );

    let plain = daemon
        .create(v1::VmSpec {
            backend: "plain-kvm".to_owned(),
            ..v1::VmSpec::default()
        })
        .await
        .expect("the other backend serves beside it");
    assert!(plain.machine.starts_with("pc-q35-"), "{}", plain.machine);
}

#[test]
fn no_host_source_names_the_tee() {
    let host = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../host");
    for (path, text) in crate::tidy::sources(&host) {
        assert!(!text.to_lowercase().contains("umbra"), "{}", path.display());
    }
}
