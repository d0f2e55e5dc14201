//! Whatever comes, it is read or refused, and the same in both interfaces.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::spec::request::SpecRecord;

/// Texts that are names, nearly names, and what attackers write.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[A-Za-z0-9._-]{0,12}",
        "[a-z/.]{0,12}",
        Just("../../etc/shadow".to_owned()),
        Just("/proc/self/environ".to_owned()),
        Just("a\0b".to_owned()),
        Just("a\nb=c".to_owned()),
        Just("x".repeat(300)),
        any::<String>(),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..80)
}

prop_compose! {
    fn parts()(
        name in text(),
        backend in text(),
        vcpus in any::<u32>(),
        memory_bytes in prop_oneof![any::<u64>(), (0_u64..1 << 20).prop_map(|mib| mib << 20)],
        machine in text(),
        cpu in text(),
        boot in 0..3_i32,
        kernel_cmdline in option::of(text()),
        environment in btree_map(text(), text(), 0..4),
        settings in btree_map(text(), text(), 0..3),
        ttl_seconds in option::of(any::<u32>()),
    ) -> v1::VmSpec {
        v1::VmSpec {
            name, backend, vcpus, memory_bytes, machine, cpu, boot, kernel_cmdline, environment,
            settings, ttl_seconds,
            ..v1::VmSpec::default()
        }
    }
}

prop_compose! {
    fn spec()(
        spec in parts(),
        require_confidential in any::<bool>(),
        restart_policy in 0..4_i32,
        identity in option::of((text(), bytes())),
        labels in btree_map(text(), text(), 0..4),
        secrets in btree_map(text(), bytes(), 0..3),
        files in option::of((text(), text(), text(), text())),
        disks in vec((text(), text(), text()), 0..3),
        certificate in bytes(),
    ) -> v1::VmSpec {
        v1::VmSpec {
            require_confidential,
            restart_policy,
            identity: identity.map(|(algorithm, digest)| v1::Identity { algorithm, digest }),
            labels,
            secrets,
            files: files.map(|(kernel, initrd, disk, disk_format)| v1::Files {
                kernel, initrd, disk, disk_format,
                ..v1::Files::default()
            }),
            data_disks: disks
                .into_iter()
                .map(|(id, image, format)| v1::DataDisk { id, image, format })
                .collect(),
            certificates: Some(v1::Certificates {
                client_certificate: certificate,
                ..v1::Certificates::default()
            }),
            ..spec
        }
    }
}

fn outcome(spec: v1::VmSpec, authority: FileAuthority) -> Result<SpecRecord, String> {
    let read = vm_spec(spec, authority);
    read.map(|spec| SpecRecord::from(&spec))
        .map_err(|error| error.to_string())
}

proptest! {
    #[test]
    fn a_request_is_the_same_as_message_and_as_json(spec in spec()) {
        let json = serde_json::to_string(&spec).unwrap();
        let from_json: v1::VmSpec = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(&from_json, &spec);
        let from_bytes = v1::VmSpec::decode(&*spec.encode_to_vec()).unwrap();
        prop_assert_eq!(&from_bytes, &spec);
        prop_assert_eq!(
            outcome(from_json, FileAuthority::BelowRoots),
            outcome(from_bytes, FileAuthority::BelowRoots)
        );
    }

    /// What is taken is within the limits that are promised, and is kept for later starts.
    #[test]
    fn what_is_taken_is_of_its_form(spec in spec()) {
        if let Ok(taken) = vm_spec(spec.clone(), FileAuthority::BelowRoots) {
            prop_assert!(taken.name.len() <= MAX_NAME);
            prop_assert!(!taken.name.contains(['/', '\0', '\n', ' ']));
            prop_assert!(taken.memory_bytes.is_none_or(|bytes| bytes % MIB == 0 && bytes <= MAX_MEMORY));
            prop_assert!(taken.labels.len() <= MAX_LABELS);
            for file in spec.files.iter().flat_map(|files| [&files.kernel, &files.initrd, &files.disk]) {
                prop_assert!(!file.starts_with('/') && !file.split('/').any(|part| part == ".."));
            }
            let record = SpecRecord::from(&taken);
            let again = SpecRecord::from(&VmSpec::from(&record));
            // Secrets are in the shares alone, and an identity is kept from the first start on.
            prop_assert_eq!(&again.name, &record.name);
            prop_assert_eq!(&again.files, &record.files);
            prop_assert_eq!(&again.labels, &record.labels);
            prop_assert_eq!(&again.settings, &record.settings);
            let kept = serde_json::to_string(&record).unwrap();
            let read: SpecRecord = serde_json::from_str(&kept).unwrap();
            prop_assert_eq!(read, record);
        }
    }

    /// An error is for people: on one line, not endless, and without what is secret.
    #[test]
    fn a_refusal_is_fit_to_be_shown(spec in spec()) {
        if let Err(error) = vm_spec(spec, FileAuthority::BelowRoots) {
            let refused = crate::api::refused::Refused::of(&error);
            prop_assert!(!refused.what.chars().any(char::is_control), "{}", refused.what);
            prop_assert!(!refused.remedy.is_empty());
            prop_assert!(refused.field.is_some());
        }
    }

    #[test]
    fn no_bytes_are_too_strange(bytes in vec(any::<u8>(), 0..400)) {
        if let Ok(request) = v1::CreateVmRequest::decode(&*bytes) {
            let _ = idempotency_key(&request.idempotency_key);
            let _ = vm_spec(request.spec.unwrap_or_default(), FileAuthority::WholeHost);
        }
        let _ = serde_json::from_slice::<v1::VmSpec>(&bytes);
    }

    #[test]
    fn no_request_of_the_predecessor_is_too_strange(url in text(), ttl in text(), kbs in text(), pem in bytes()) {
        let request = manager::CreateReq {
            agent_cvm_server_url: url,
            ttl,
            aa_kbs_params: kbs,
            agent_cvm_client_key: pem,
            ..manager::CreateReq::default()
        };
        if let Err(error) = predecessor_spec(request) {
            let refused = crate::api::refused::Refused::of(&error);
            prop_assert!(!refused.what.chars().any(char::is_control), "{}", refused.what);
        }
    }
}
