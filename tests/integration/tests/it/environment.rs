//! Every variable of the predecessor, by its effect in the running QEMU's arguments or in what the
//! daemon does; and its whole environment file, with which a VM boots.
//!
//! The tables are what the tests go through, and `every_variable_is_in_a_table` holds them
//! against the variables that the daemon knows.

mod tables;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use casemate_host::config::environment::predecessor::{Meaning, VARIABLES};
use casemate_integration::artifacts;
use casemate_integration::daemon::{Daemon, Setup, agent_answer, free_port};
use casemate_integration::predecessor::{CreateReq, CvmInfoReq};
use casemate_proto::v1;
use serde_json::json;
use tables::{
    BEHAVIOUR, DISK_FILES, FILES, FOR_BACKENDS, FROM_A_DISK, FROM_A_KERNEL, IGNORED, LATER,
    LATER_MALFORMED, REFUSED, Row,
};

#[test]
fn every_variable_is_in_a_table() {
    let of = |rows: &'static [Row]| rows.iter().map(|row| row.0);
    let mut tested: BTreeSet<&str> = [FROM_A_KERNEL, FROM_A_DISK, FOR_BACKENDS, IGNORED, LATER]
        .into_iter()
        .flat_map(of)
        .collect();
    tested.extend(FILES.into_iter().chain(DISK_FILES).chain(REFUSED));
    let sources = [
        include_str!("environment.rs"),
        include_str!("tls.rs"),
        include_str!("measured.rs"),
        include_str!("measured/tool.rs"),
    ];
    for name in BEHAVIOUR {
        let quoted = format!("\"{name}\"");
        let uses: usize = sources
            .iter()
            .map(|text| text.matches(&quoted).count())
            .sum();
        assert!(uses >= 1, "no test sets {name}");
        tested.insert(name);
    }
    let known: BTreeSet<&str> = VARIABLES
        .iter()
        .flat_map(|variable| variable.names.iter().copied())
        .collect();
    assert_eq!(
        known.symmetric_difference(&tested).collect::<Vec<_>>(),
        Vec::<&&str>::new(),
        "variables without a test, or tests without a variable"
    );
    // What comes later is said to, and nothing else is.
    let later: BTreeSet<&str> = VARIABLES
        .iter()
        .filter(|variable| {
            matches!(
                variable.meaning,
                Meaning::Later { .. } | Meaning::Refused { .. }
            )
        })
        .flat_map(|variable| variable.names.iter().copied())
        .collect();
    let listed: BTreeSet<&str> = of(LATER).chain(REFUSED).collect();
    assert_eq!(later, listed);
    println!("without effect yet: {later:?}");
}

/// The fewest values: what the variables do not set is the daemon's own default.
fn bare() -> Setup {
    let mut setup = Setup::new();
    for key in [
        "qemu.accelerator",
        "vm.memory",
        "vm.vcpus",
        "vm.kernel_cmdline",
    ] {
        setup.unset(key);
    }
    let backend = setup.config["backend"][0].as_table_mut().expect("a table");
    backend.remove("settings");
    setup
}

fn arguments(pid: u32) -> Vec<String> {
    let text = std::fs::read(format!("/proc/{pid}/cmdline")).expect("the process runs");
    text.split(|byte| *byte == 0)
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect()
}

fn assert_argument(arguments: &[String], variable: &str, part: &str) {
    let has = |argument: &String| match part.strip_suffix('$') {
        Some(end) => argument.ends_with(end),
        None => argument.contains(part),
    };
    assert!(
        arguments.iter().any(has),
        "{variable} makes no {part:?} in {arguments:#?}"
    );
}

/// A descriptor of a process holds what the file holds.
fn assert_opened(pid: u32, variable: &str, file: &Path) {
    let wanted = std::fs::read(file).expect("a file");
    let folder = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs");
    let is_opened = folder.flatten().any(|descriptor| {
        std::fs::metadata(descriptor.path()).is_ok_and(|metadata| {
            metadata.is_file()
                && metadata.len() == wanted.len() as u64
                && std::fs::read(descriptor.path()).is_ok_and(|content| content == wanted)
        })
    });
    assert!(is_opened, "{variable}: no descriptor of {}", file.display());
}

fn qemu_img(arguments: &[&str]) {
    #[expect(clippy::disallowed_methods, reason = "makes the images of the test")]
    let mut command = std::process::Command::new("qemu-img");
    let output = command.args(arguments).output().expect("qemu-img runs");
    assert!(output.status.success(), "{output:?}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

async fn created(daemon: &Daemon) -> v1::Vm {
    match daemon.create(v1::VmSpec::default()).await {
        Ok(vm) => vm,
        Err(status) => panic!("{status}\n{}", daemon.log()),
    }
}

#[tokio::test]
async fn a_vm_from_a_kernel_is_as_the_variables_say() {
    let mut setup = bare();
    setup.unset("vm.kernel").unset("vm.initrd");
    let binary = setup.folder.path().join("qemu-of-the-variable");
    std::os::unix::fs::symlink("/usr/bin/qemu-system-x86_64", &binary).expect("a link");
    for (name, value, _) in FROM_A_KERNEL {
        let value = if *value == "@" { text(&binary) } else { value };
        let value = value.to_owned();
        setup.variable(name, &value);
    }
    let copy = |name: &str, from: &Path| -> PathBuf {
        let path = setup.folder.path().join(name);
        std::fs::copy(from, &path).expect("a copy");
        path
    };
    let image = |name: &str, from: &str| -> PathBuf {
        let path = setup.folder.path().join(name);
        qemu_img(&[
            "convert",
            "-q",
            "-f",
            "raw",
            "-O",
            "qcow2",
            from,
            text(&path),
        ]);
        path
    };
    let files = [
        copy("kernel", &artifacts::kernel()),
        copy("initrd", &artifacts::initrd()),
        image("code", "/usr/share/OVMF/OVMF_CODE_4M.fd"),
        image("vars", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ];
    for (name, path) in FILES.iter().zip(&files) {
        setup.variable(name, text(path));
    }
    // What the file says is weaker; an empty ROM file is a value all the same.
    setup.set("vm.vcpus", 3);
    setup.set("network.properties.romfile", "some.rom");
    let daemon = setup.start();
    let vm = created(&daemon).await;
    let arguments = arguments(vm.pid);
    for (name, _, part) in FROM_A_KERNEL {
        assert_argument(&arguments, name, part);
    }
    assert_opened(vm.pid, FILES[0], &files[0]);
    assert_opened(vm.pid, FILES[1], &files[1]);
    // The VM's own copies, because it may write to both.
    for (name, copy, file) in [
        (FILES[2], "code.fd", &files[2]),
        (FILES[3], "vars.fd", &files[3]),
    ] {
        let copy = daemon.state_dir.join("vms").join(&vm.id).join(copy);
        let size = |path: &Path| std::fs::metadata(path).expect("a file").len();
        assert_eq!(size(&copy), size(file), "{name}");
    }
    assert_eq!((vm.backend.as_str(), vm.confidential), ("plain-kvm", false));
    assert_eq!(vm.cpu, "qemu64");
}

/// The CPU model of the variable is a wish, one of the config file is not.
#[tokio::test]
async fn a_cpu_model_that_qemu_lacks_is_replaced_where_the_predecessor_named_it() {
    let mut setup = bare();
    setup.variable("MANAGER_QEMU_CPU", "no-such-cpu");
    setup.variable("MANAGER_QEMU_ENABLE_KVM", "false");
    let daemon = setup.start();
    let planned = daemon
        .vms()
        .await
        .plan_vm(v1::PlanVmRequest::default())
        .await
        .expect("it is replaced")
        .into_inner();
    let finding = planned
        .findings
        .iter()
        .find(|f| f.id == "cpu.model-replaced");
    assert_eq!(
        finding.map(|finding| finding.severity.as_str()),
        Some("warn")
    );
    let mut setup = bare();
    setup.set("vm.cpu", "no-such-cpu");
    setup.variable("MANAGER_QEMU_ENABLE_KVM", "false");
    let daemon = setup.start();
    let request = v1::PlanVmRequest::default();
    daemon
        .vms()
        .await
        .plan_vm(request)
        .await
        .expect_err("it is refused");
}

#[tokio::test]
async fn a_vm_from_a_disk_is_as_the_variables_say() {
    let mut setup = bare();
    for (name, value, _) in FROM_A_DISK {
        setup.variable(name, value);
    }
    let disk = setup.folder.path().join("disk.raw");
    std::fs::write(&disk, vec![0; 1 << 20]).expect("a file");
    let firmware = setup.folder.path().join("firmware.fd");
    {
        // One byte changed is another file than the default one.
        let content = std::fs::read("/usr/share/ovmf/OVMF.fd").expect("Debian's OVMF");
        let mut changed = content.clone();
        changed[0] ^= 0xff;
        std::fs::write(&firmware, changed).expect("a file");
    }
    for (name, value) in DISK_FILES.iter().zip([text(&disk), "raw", text(&firmware)]) {
        setup.variable(name, value);
    }
    setup.variable("MANAGER_QEMU_ENABLE_KVM", "false");
    setup.variable("MANAGER_QEMU_MEMORY_SIZE", "256M");
    let daemon = setup.start();
    let vm = created(&daemon).await;
    let arguments = arguments(vm.pid);
    for (name, _, part) in FROM_A_DISK {
        assert_argument(&arguments, name, part);
    }
    assert!(!arguments.contains(&"-kernel".to_owned()), "{arguments:?}");
    let bios = arguments.iter().position(|argument| argument == "-bios");
    assert!(bios.is_some(), "{arguments:?}");
    assert_opened(vm.pid, "MANAGER_QEMU_OVMF_FILE", &firmware);
    let overlay = daemon.state_dir.join("vms").join(&vm.id).join("disk.qcow2");
    #[expect(clippy::disallowed_methods, reason = "qemu-img is the oracle")]
    let mut command = std::process::Command::new("qemu-img");
    let info = command
        .args(["info", "-U", "--output=json", text(&overlay)])
        .output()
        .expect("qemu-img runs");
    let info: serde_json::Value = serde_json::from_slice(&info.stdout).expect("JSON");
    assert_eq!(info["backing-filename"], text(&disk), "{info}");
    assert_eq!(info["backing-filename-format"], "raw", "{info}");
}

#[tokio::test]
async fn backends_get_the_settings_that_they_announce() {
    let igvm = |setup: &Setup| {
        let path = setup.folder.path().join("file.igvm");
        std::fs::write(&path, "7 bytes").expect("a file");
        path
    };
    // One daemon each for the two spellings.
    for left_out in [
        "MANAGER_QEMU_SEV_SNP_CBIT_POS",
        "MANAGER_QEMU_SEV_SNP_CBITPOS",
    ] {
        let mut setup = Setup::new();
        setup.add_iothreads("mirror", "mirror");
        let igvm = igvm(&setup);
        for (name, value, _) in FOR_BACKENDS.iter().filter(|row| row.0 != left_out) {
            setup.variable(name, if *value == "@" { text(&igvm) } else { value });
        }
        let daemon = setup.start();
        let spec = v1::VmSpec {
            backend: "mirror".to_owned(),
            ..v1::VmSpec::default()
        };
        let vm = daemon.create(spec).await.expect("it runs");
        let arguments = arguments(vm.pid);
        for (name, _, part) in FOR_BACKENDS.iter().filter(|row| row.0 != left_out) {
            assert_argument(&arguments, name, &format!("{part}\""));
        }
        // One that announces none of them is served all the same.
        created(&daemon).await;
    }
}

#[tokio::test]
async fn the_switches_choose_the_backend() {
    for (snp, tdx, chosen) in [
        (Some("true"), None, "sev-snp"),
        (Some("1"), Some("off"), "sev-snp"),
        (None, Some("true"), "tdx"),
        (Some("false"), Some("true"), "tdx"),
        (Some("false"), None, "plain-kvm"),
    ] {
        let mut setup = Setup::new();
        setup.unset("default_backend");
        setup.use_fake_qemu(&json!({}));
        setup.add_iothreads("mirror", "sev-snp");
        setup.add_iothreads("mirror", "tdx");
        for (name, value) in [
            ("MANAGER_QEMU_ENABLE_SEV_SNP", snp),
            ("MANAGER_QEMU_ENABLE_TDX", tdx),
        ] {
            if let Some(value) = value {
                setup.variable(name, value);
            }
        }
        let vm = created(&setup.start()).await;
        assert_eq!(vm.backend, chosen, "{snp:?} {tdx:?}");
    }
}

#[tokio::test]
async fn variables_without_effect_are_warned_about() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    for (name, value, _) in IGNORED.iter().chain(LATER) {
        setup.variable(name, value);
    }
    let daemon = setup.start();
    let log = daemon.log();
    for (name, value, part) in IGNORED.iter().chain(LATER) {
        let line = log.lines().find(|line| {
            line.contains(&format!("{name}={value} "))
                || line.contains(&format!("{name} has no effect yet"))
        });
        let line = line.unwrap_or_else(|| panic!("no warning of {name} in\n{log}"));
        assert!(
            line.contains("WARN") && line.contains(part),
            "{name}: {line}"
        );
    }
    created(&daemon).await;
}

#[test]
fn variables_of_what_comes_later_are_checked_or_refused() {
    let check = |name: &str, value: &str| {
        let mut setup = Setup::new();
        setup.variable(name, value);
        let output = setup.command().arg("--check-config").output();
        let output = output.expect("casemated runs");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), error)
    };
    for (name, value) in LATER_MALFORMED {
        let (code, error) = check(name, value);
        assert_eq!(code, Some(78), "{name}: {error}");
        for part in [name, "; wanted is ", "remedy: ", "error: config-value ("] {
            assert!(error.contains(part), "{name}: {error}");
        }
    }
    for name in REFUSED {
        let (code, error) = check(name, "0000:01:00.0");
        assert_eq!(code, Some(78), "{error}");
        for part in [name, "does not have", "error: config-not-supported-yet ("] {
            assert!(error.contains(part), "{error}");
        }
    }
}

#[tokio::test]
async fn the_daemon_is_as_the_variables_say() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({"delay_ms": {"cont": 3000}}));
    setup.unset("max_vms").unset("log");
    let (grpc, http) = (free_port(), free_port());
    for (name, value) in [
        ("MANAGER_LOG_LEVEL", "debug"),
        ("MANAGER_INSTANCE_ID", "host-7"),
        ("MANAGER_HTTP_HOST", "::1"),
        ("MANAGER_HTTP_PORT", &http.to_string()),
        ("MANAGER_GRPC_HOST", "127.0.0.7"),
        ("MANAGER_GRPC_PORT", &grpc.to_string()),
        ("MANAGER_EOS_VERSION", "eos-7"),
        ("MANAGER_QEMU_OVMF_VERSION", "ovmf-7"),
        ("MANAGER_MAX_VMS", "1"),
    ] {
        setup.variable(name, value);
    }
    let only = free_port();
    setup.variable("MANAGER_QEMU_HOST_FWD_RANGE", &format!("{only}-{only}"));
    let daemon = setup.start();
    assert_eq!(
        daemon.grpc,
        format!("127.0.0.7:{grpc}").parse().expect("an address")
    );
    assert_eq!(
        daemon.http,
        format!("[::1]:{http}").parse().expect("an address")
    );
    let (_, health) = daemon.get_http("/health").await;
    assert!(health.contains("\"instance_id\":\"host-7\""), "{health}");
    let (_, metrics) = daemon.get_http("/metrics").await;
    assert!(metrics.contains("instance=\"host-7\""), "{metrics}");
    let mut client = daemon.predecessor().await;
    let created = client
        .create_vm(CreateReq::default())
        .await
        .expect("it runs");
    let created = created.into_inner();
    let port: u16 = created.forwarded_port.parse().expect("a port");
    assert_eq!(port, only);
    let info = client.cvm_info(CvmInfoReq { id: created.cvm_id }).await;
    let info = info.expect("it is there").into_inner();
    assert_eq!(
        (&*info.eos_version, &*info.ovmf_version),
        ("eos-7", "ovmf-7")
    );
    let refused = client
        .create_vm(CreateReq::default())
        .await
        .expect_err("over the limit");
    assert!(refused.message().contains("all 1 VM slots"), "{refused}");
    assert!(daemon.log().contains("DEBUG"), "{}", daemon.log());
}

#[tokio::test]
async fn the_guests_port_is_the_variables() {
    let mut setup = Setup::new();
    // The guest's agent listens on 7002; whoever forwards another port reaches nobody.
    setup.variable("MANAGER_QEMU_GUEST_FWD_AGENT", "7002");
    setup.set("network.agent_port", 1);
    let daemon = setup.start();
    let vm = created(&daemon).await;
    assert!(
        agent_answer(&vm.agent_address)
            .await
            .contains("AGENT_CVM_ID")
    );
}

#[tokio::test]
async fn one_variable_sets_host_and_port_of_grpc() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    let port = free_port();
    setup.variable("MANAGER_GRPC_URL", &format!("127.0.0.1:{port}"));
    let daemon = setup.start();
    assert_eq!(daemon.grpc.port(), port);
}

#[tokio::test]
async fn a_call_has_the_time_of_the_variable() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({"delay_ms": {"cont": 30_000}}));
    setup.variable("MANAGER_GRPC_TIMEOUT", "2s");
    let daemon = setup.start();
    let status = daemon
        .create(v1::VmSpec::default())
        .await
        .expect_err("too slow");
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status}");
}

#[tokio::test]
async fn the_first_port_is_the_variables_where_nobody_set_a_range() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    setup.unset("network.ports");
    let first = free_port();
    setup.variable("MANAGER_QEMU_HOST_FWD_AGENT", &first.to_string());
    let vm = created(&setup.start()).await;
    let port = vm
        .agent_address
        .rsplit(':')
        .next()
        .and_then(|port| port.parse::<u16>().ok());
    assert!(
        port.is_some_and(|port| (first..first.saturating_add(50)).contains(&port)),
        "{vm:?}"
    );
}

/// A guard takes KVM to be started, and a plan shows it without.
#[tokio::test]
async fn the_identity_is_the_variables_where_it_is_switched_on() {
    let digest: Vec<u8> = (0..32).collect();
    let encoded = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(&digest)
    };
    for (switch, is_carried) in [("true", true), ("false", false)] {
        let mut setup = Setup::new();
        setup.add_iothreads("sealed", "sealed");
        setup.set("qemu.accelerator", "kvm");
        setup.variable("MANAGER_QEMU_HOST_DATA", &encoded);
        setup.variable("MANAGER_QEMU_ENABLE_HOST_DATA", switch);
        let daemon = setup.start();
        let request = v1::PlanVmRequest {
            spec: Some(v1::VmSpec {
                backend: "sealed".to_owned(),
                ..v1::VmSpec::default()
            }),
            ..v1::PlanVmRequest::default()
        };
        let plan = daemon.vms().await.plan_vm(request).await;
        let plan = plan.expect("it is planned").into_inner();
        // Its bytes from 0 to 31, and a zero of the fixture's.
        let carrier = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8A";
        let command = plan.command.join(" ");
        assert_eq!(command.contains(carrier), is_carried, "{command}");
        assert!(plan.confidential);
        // The backend that protects nothing does not get it, and the operator hears of that.
        let log = daemon.log();
        let word = if is_carried {
            "vm.identity has no effect"
        } else {
            "MANAGER_QEMU_HOST_DATA has no effect"
        };
        assert!(log.contains(word), "{log}");
    }
}

/// `NAME=VALUE` lines, as systemd's EnvironmentFile has them.
fn environment_file() -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/cocos-manager.env");
    let text = std::fs::read_to_string(path).expect("the fixture is there");
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (name, value) = line.split_once('=').expect("NAME=VALUE");
            (name.to_owned(), value.trim_matches('"').to_owned())
        })
        .collect()
}

/// The packaged file with the one backend, and nothing else.
fn packaged() -> Setup {
    let mut setup = Setup::new();
    let mut backend = setup.config["backend"][0]
        .as_table()
        .expect("a table")
        .clone();
    backend.remove("settings");
    setup.config = toml::Table::new();
    setup.set("state_dir", setup.state_dir().display().to_string());
    setup.config.insert(
        "backend".to_owned(),
        toml::Value::Array(vec![backend.into()]),
    );
    setup
}

#[tokio::test]
async fn the_predecessors_environment_file_boots_a_vm() {
    let mut setup = packaged();
    let kernel = artifacts::kernel();
    let initrd = artifacts::initrd();
    for (name, value) in environment_file() {
        // Paths, memory and the accelerator; everything else is as it was shipped.
        let value = match name.as_str() {
            "MANAGER_QEMU_DISK_IMG_KERNEL_FILE" => text(&kernel),
            "MANAGER_QEMU_DISK_IMG_ROOTFS_FILE" => text(&initrd),
            "MANAGER_QEMU_OVMF_CODE_FILE" => "/usr/share/OVMF/OVMF_CODE_4M.fd",
            "MANAGER_QEMU_OVMF_VARS_FILE" => "/usr/share/OVMF/OVMF_VARS_4M.fd",
            "MANAGER_QEMU_MEMORY_SIZE" => "512M",
            "MANAGER_QEMU_ENABLE_KVM" => "false",
            _ => &value,
        };
        setup.variable(&name, value);
    }
    // Without this word the exposure is refused, in one sentence for each listener.
    let output = setup.command().output().expect("casemated runs");
    assert_eq!(output.status.code(), Some(78));
    let error = String::from_utf8_lossy(&output.stderr);
    for part in [
        "the gRPC listener would be on 0.0.0.0:6101 (grpc.host from MANAGER_GRPC_HOST), which is not loopback",
        "CASEMATE_INSECURE=true",
        "error: listener-exposed (stage start-up",
    ] {
        assert!(error.contains(part), "{error}");
    }
    setup.variable("CASEMATE_INSECURE", "true");
    let daemon = setup.start();
    assert_eq!((daemon.grpc.port(), daemon.http.port()), (6101, 6102));
    let log = daemon.log();
    // Files that are missing and not needed are told, and stop nothing.
    assert!(
        log.contains("vm.igvm is \"/etc/cocos/coconut-qemu.igvm\""),
        "{log}"
    );
    assert!(log.contains("sudo is never used"), "{log}");
    let mut client = daemon.predecessor().await;
    let request = CreateReq {
        agent_cvm_server_url: "10.0.2.2:7001".to_owned(),
        ..CreateReq::default()
    };
    let created = match client.create_vm(request).await {
        Ok(created) => created.into_inner(),
        Err(status) => panic!("{status}"),
    };
    let port: u16 = created.forwarded_port.parse().expect("a port");
    assert!(
        (6100..=6200).contains(&port) && ![6101, 6102].contains(&port),
        "{port}"
    );
    let vm = daemon.get(&created.cvm_id).await.expect("it is there");
    let arguments = arguments(vm.pid);
    for part in [
        "4,maxcpus=16",
        "512M,slots=5,maxmem=30720M",
        "EPYC",
        "if=pflash",
    ] {
        assert_argument(&arguments, "the file", part);
    }
    let answer = agent_answer(&format!("127.0.0.1:{port}")).await;
    assert!(
        answer.contains("AGENT_CVM_GRPC_URL=10.0.2.2:7001"),
        "{answer}"
    );
}
