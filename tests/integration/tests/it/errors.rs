//! Errors as a client gets them: code, id, words, subject and remedy, to people in the message and
//! to programs in the details. With the scripted QEMU, because a guest is not the subject.

use casemate_catalogue::{DOMAIN, ErrorId};
use casemate_integration::daemon::{Daemon, Setup};
use casemate_integration::predecessor;
use casemate_proto::v1;
use serde_json::json;
use tonic::Status;
use tonic_types::StatusExt as _;

/// What is asked of the daemon.
enum Act {
    Create(fn(&mut v1::VmSpec)),
    /// All goes well the first time.
    CreateTwice,
    Plan(fn(&mut v1::VmSpec)),
    Get(&'static str),
    Remove(&'static str),
    Console(&'static str),
    ShowBackend(&'static str),
    /// The predecessor's interface.
    OldCreate(fn(&mut predecessor::CreateReq)),
    OldPolicy,
}

impl Act {
    async fn error(&self, daemon: &Daemon) -> Status {
        let mut vms = daemon.vms().await;
        let spec = |change: &fn(&mut v1::VmSpec)| {
            let mut spec = v1::VmSpec::default();
            change(&mut spec);
            spec
        };
        let error = match self {
            Self::Create(change) => daemon.create(spec(change)).await.err(),
            Self::CreateTwice => {
                let first = daemon.create(v1::VmSpec::default()).await;
                first.expect("the first runs");
                daemon.create(v1::VmSpec::default()).await.err()
            }
            Self::Plan(change) => {
                let spec = Some(spec(change));
                vms.plan_vm(v1::PlanVmRequest {
                    spec,
                    ..v1::PlanVmRequest::default()
                })
                .await
                .err()
            }
            Self::Get(id) => daemon.get(id).await.err(),
            Self::Remove(id) => daemon.remove(id).await.err(),
            Self::Console(id) => {
                let request = v1::GetConsoleRequest {
                    id: (*id).to_owned(),
                    tail_bytes: 0,
                    ..Default::default()
                };
                vms.get_console(request).await.err()
            }
            Self::ShowBackend(name) => {
                let name = (*name).to_owned();
                let request = v1::GetBackendRequest { name };
                daemon.backends().await.get_backend(request).await.err()
            }
            Self::OldCreate(change) => {
                let mut request = predecessor::CreateReq::default();
                change(&mut request);
                daemon.predecessor().await.create_vm(request).await.err()
            }
            Self::OldPolicy => {
                let vm = daemon.create(v1::VmSpec::default()).await.expect("it runs");
                let request = predecessor::AttestationPolicyReq { id: vm.id };
                let mut client = daemon.predecessor().await;
                client.attestation_policy(request).await.err()
            }
        };
        error.expect("an error")
    }
}

struct Case {
    name: &'static str,
    setup: fn(&mut Setup),
    act: Act,
    id: ErrorId,
    subject: Option<&'static str>,
    /// Parts of the lines before the remedy.
    parts: &'static [&'static str],
    /// A part of the remedy.
    remedy: &'static str,
}

fn fake(setup: &mut Setup) {
    setup.use_fake_qemu(&json!({}));
}

/// Sets a key of the one backend in config.
fn set_backend(setup: &mut Setup, key: &str, value: &str) {
    fake(setup);
    setup.config["backend"][0]
        .as_table_mut()
        .expect("a table")
        .insert(key.to_owned(), value.into());
}

const UNUSED_ID: &str = "00000000-0000-4000-8000-000000000000";

const CASES: &[Case] = &[
    Case {
        name: "over the limit",
        setup: |s| {
            fake(s);
            s.set("max_vms", 1);
        },
        act: Act::CreateTwice,
        id: ErrorId::VmLimit,
        subject: Some("max_vms"),
        parts: &["all 1 VM slots are taken"],
        remedy: "raise `max_vms`",
    },
    Case {
        name: "no QEMU",
        setup: |s| {
            s.set("qemu.binary", "no-such-qemu");
        },
        act: Act::Create(|_| {}),
        id: ErrorId::QemuNotFound,
        subject: Some("qemu"),
        parts: &["there is no QEMU \"no-such-qemu\""],
        remedy: "install QEMU, or set `qemu.binary`",
    },
    Case {
        name: "QEMU ends at once",
        setup: |s| {
            s.use_fake_qemu(
                &json!({"die_at": "start", "exit_code": 3, "stderr": "qemu: no luck today\n"}),
            );
        },
        act: Act::Create(|_| {}),
        id: ErrorId::QemuEnded,
        subject: Some("qemu"),
        parts: &[
            "QEMU ended while it started (exit code 3)",
            "\nQEMU said:\nqemu: no luck today\n",
        ],
        remedy: "casemate plan --standalone",
    },
    Case {
        name: "missing kernel",
        setup: |s| {
            fake(s);
            s.set("vm.kernel", "/no/such/kernel");
        },
        act: Act::Create(|_| {}),
        id: ErrorId::FileUnusable,
        subject: Some("kernel"),
        parts: &[
            "the kernel file \"/no/such/kernel\" cannot be used",
            "No such file",
        ],
        remedy: "set `vm.kernel` in the config file",
    },
    Case {
        name: "unreadable component",
        setup: |s| set_backend(s, "path", "/no/such/backend.wasm"),
        act: Act::Create(|_| {}),
        id: ErrorId::BackendNotInService,
        subject: Some("plain-kvm"),
        parts: &[
            "\"plain-kvm\" is not in service",
            "\"/no/such/backend.wasm\" cannot be read",
        ],
        remedy: "put the component there, readable for casemated",
    },
    Case {
        name: "digest mismatch",
        setup: |s| set_backend(s, "sha256", &"0".repeat(64)),
        act: Act::Plan(|_| {}),
        id: ErrorId::BackendNotInService,
        subject: Some("plain-kvm"),
        parts: &["has SHA-256", "config pins 0000"],
        remedy: "compare the file with what its vendor published",
    },
    Case {
        name: "port range used up",
        setup: |s| {
            fake(s);
            // Another program listens there, for as long as the tests run.
            let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            let port = held.local_addr().expect("an address").port();
            std::mem::forget(held);
            s.set("network.ports", format!("{port}-{port}"));
        },
        act: Act::Create(|_| {}),
        id: ErrorId::PortRangeExhausted,
        subject: Some("network.ports"),
        parts: &["no free port is left in "],
        remedy: "widen `network.ports`",
    },
    Case {
        name: "newline in a variable",
        setup: fake,
        act: Act::Create(|spec| {
            spec.environment
                .insert("A".to_owned(), "x\nB=canary".to_owned());
        }),
        id: ErrorId::RequestEnvironment,
        subject: Some("A"),
        parts: &["environment: the value of A holds a line break"],
        remedy: "a value on one line",
    },
    Case {
        name: "newline in a variable, the predecessor's",
        setup: fake,
        act: Act::OldCreate(|request| request.aws_region = "x\nB=canary".to_owned()),
        id: ErrorId::RequestEnvironment,
        subject: Some("AWS_REGION"),
        parts: &["the value of AWS_REGION holds a line break"],
        remedy: "a value on one line",
    },
    Case {
        name: "bad TTL",
        setup: fake,
        act: Act::Create(|spec| {
            spec.ttl_seconds = Some(0);
        }),
        id: ErrorId::RequestTtl,
        subject: Some("ttl"),
        parts: &["ttl: it is not between one second and ten years"],
        remedy: "give 1 to 316224000 seconds",
    },
    Case {
        name: "bad TTL, the predecessor's",
        setup: fake,
        act: Act::OldCreate(|request| request.ttl = "soon".to_owned()),
        id: ErrorId::RequestTtl,
        subject: Some("ttl"),
        parts: &["ttl: "],
        remedy: "write it as Go does",
    },
    Case {
        name: "another field",
        setup: fake,
        act: Act::Create(|spec| spec.memory_bytes = 1),
        id: ErrorId::RequestField,
        subject: Some("memory_bytes"),
        parts: &["memory_bytes: 1 is no multiple of 1 MiB"],
        remedy: "such as 2147483648",
    },
    Case {
        name: "unknown id, get",
        setup: fake,
        act: Act::Get(UNUSED_ID),
        id: ErrorId::NoSuchVm,
        subject: Some(UNUSED_ID),
        parts: &["there is no VM", UNUSED_ID],
        remedy: "`casemate vm list`",
    },
    Case {
        name: "no id, get",
        setup: fake,
        act: Act::Get(""),
        id: ErrorId::NoSuchVm,
        subject: None,
        parts: &["there is no VM \"\""],
        remedy: "`casemate vm list`",
    },
    Case {
        name: "unknown id, remove",
        setup: fake,
        act: Act::Remove(UNUSED_ID),
        id: ErrorId::NoSuchVm,
        subject: Some(UNUSED_ID),
        parts: &["there is no VM", UNUSED_ID],
        remedy: "`casemate vm list`",
    },
    Case {
        name: "unknown id, console",
        setup: fake,
        act: Act::Console("../../etc\u{1b}"),
        id: ErrorId::NoSuchVm,
        subject: Some("../../etc\u{fffd}"),
        parts: &["there is no VM \"../../etc"],
        remedy: "`casemate vm list`",
    },
    Case {
        name: "unknown backend, show",
        setup: fake,
        act: Act::ShowBackend("x"),
        id: ErrorId::NoSuchBackend,
        subject: Some("x"),
        parts: &["there is no backend \"x\""],
        remedy: "`casemate backend list`",
    },
    Case {
        name: "unknown backend, create",
        setup: fake,
        act: Act::Create(|spec| spec.backend = "x".to_owned()),
        id: ErrorId::BackendUnknown,
        subject: Some("x"),
        parts: &["there is no backend \"x\"; configured are plain-kvm"],
        remedy: "`casemate backend list`",
    },
    Case {
        name: "unknown setting",
        setup: fake,
        act: Act::Plan(|spec| {
            spec.settings.insert("colour".to_owned(), "red".to_owned());
        }),
        id: ErrorId::SettingUnknown,
        subject: Some("colour"),
        parts: &["\"colour\" is no setting"],
        remedy: "`casemate backend show NAME`",
    },
    Case {
        name: "the operator's setting",
        setup: fake,
        act: Act::Plan(|spec| {
            spec.settings
                .insert("firmware".to_owned(), "no such kind".to_owned());
        }),
        id: ErrorId::SettingForm,
        subject: Some("firmware"),
        parts: &["\"firmware\" is \"no such kind\""],
        remedy: "of the form that is named",
    },
    Case {
        name: "what the backend refuses",
        setup: fake,
        act: Act::Plan(|spec| spec.machine = "pdp11".to_owned()),
        id: ErrorId::BackendRefusedRequest,
        subject: Some("machine"),
        parts: &["pdp11"],
        remedy: "",
    },
    Case {
        name: "not confidential",
        setup: fake,
        act: Act::Create(|spec| spec.require_confidential = true),
        id: ErrorId::NotConfidential,
        subject: Some("plain-kvm"),
        parts: &["asks for a confidential VM"],
        remedy: "a backend that guards its guests",
    },
    Case {
        name: "what QEMU lacks",
        setup: fake,
        act: Act::Create(|spec| spec.set_boot(v1::Boot::Disk)),
        id: ErrorId::QemuLacks,
        subject: Some("qemu"),
        parts: &["has no device \"virtio-scsi-pci\""],
        remedy: "install a QEMU that has it",
    },
    Case {
        name: "a policy of what is not measured",
        setup: fake,
        act: Act::OldPolicy,
        id: ErrorId::NoMeasurement,
        subject: Some("plain-kvm"),
        parts: &["nothing is measured for this VM"],
        remedy: "a backend that measures",
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn every_error_says_what_happened_and_what_to_do() {
    for case in CASES {
        let mut setup = Setup::new();
        (case.setup)(&mut setup);
        let daemon = setup.start();
        let status = case.act.error(&daemon).await;
        check(case, &status);
        assert!(!daemon.log().contains("canary"), "{}", case.name);
    }
}

fn check(case: &Case, status: &Status) {
    let Case { name, id, .. } = case;
    let message = status.message();
    let entry = id.entry();
    let code = entry.grpc().expect("it comes over gRPC");
    assert_eq!(status.code() as i32, code.number(), "{name}: {status}");

    let (rest, label) = message.rsplit_once('\n').expect("several lines");
    assert_eq!(label, id.label(case.subject), "{name}: {message}");
    let (what, remedy) = rest.rsplit_once("\nremedy: ").expect("a remedy");
    for part in case.parts {
        // Every line of what happened ends.
        assert!(format!("{what}\n").contains(part), "{name}: {message}");
    }
    assert!(!message.contains("canary"), "{name}: {message}");
    assert!(!remedy.contains('\n'), "{name}: {message}");
    assert!(
        !remedy.is_empty() && remedy.contains(case.remedy),
        "{name}: {message}"
    );

    let info = status.get_details_error_info().expect("an ErrorInfo");
    assert_eq!((&*info.reason, &*info.domain), (&*id.reason(), DOMAIN));
    assert_eq!(info.metadata["stage"], entry.stage.as_str(), "{name}");
    assert_eq!(info.metadata["remedy"], remedy, "{name}");
    assert_eq!(
        info.metadata.get("subject").map(String::as_str),
        case.subject,
        "{name}"
    );
}
