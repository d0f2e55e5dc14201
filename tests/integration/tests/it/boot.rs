//! Real QEMU boots the real kernel to an answering agent, through gRPC, two VMs at once.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use casemate_integration::artifacts;
use casemate_integration::daemon::{Daemon, Setup, agent_answer};
use casemate_integration::leftovers;
use casemate_proto::v1;

fn spec(name: &str, nonce: &str) -> v1::VmSpec {
    v1::VmSpec {
        name: name.to_owned(),
        environment: [("NONCE".to_owned(), nonce.to_owned())].into(),
        ..v1::VmSpec::default()
    }
}

/// A field of /proc/PID/status, such as the four user ids.
fn status_field(pid: u32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .expect("the field is there");
    line.trim_start_matches(':').trim().to_owned()
}

async fn boots_two(mut setup: Setup, qemu: &Path) {
    setup.set("qemu.binary", qemu.display().to_string());
    // That of the backports is unpacked into a folder of its own, with its libraries.
    let folder = qemu.parent().expect("a program lies in a folder");
    setup.set("qemu.extra_paths", folder.display().to_string());
    let mut daemon = setup.start();
    let (one, two) = tokio::join!(
        daemon.create(spec("one", "nonce-of-one")),
        daemon.create(spec("two", "nonce-of-two"))
    );
    let (one, two) = (one.expect("it runs"), two.expect("it runs"));
    assert_ne!(one.agent_address, two.agent_address);
    for vm in [&one, &two] {
        assert_eq!(vm.state(), v1::VmState::Running);
        assert!(!vm.confidential);
        assert_eq!(
            (vm.backend.as_str(), vm.tee.as_str()),
            ("plain-kvm", "none")
        );
    }
    let (from_one, from_two) = tokio::join!(
        agent_answer(&one.agent_address),
        agent_answer(&two.agent_address)
    );
    for (body, vm, own, other) in [
        (&from_one, &one, "nonce-of-one", "nonce-of-two"),
        (&from_two, &two, "nonce-of-two", "nonce-of-one"),
    ] {
        assert!(body.contains(&format!("NONCE={own}\n")), "{body}");
        assert!(!body.contains(other), "{body}");
        assert!(
            body.contains(&format!("AGENT_CVM_ID={}\n", vm.id)),
            "{body}"
        );
        assert!(body.contains("uname: 6."), "{body}");
    }
    isolated(&daemon, &one, &two);

    let vms = daemon.list().await;
    assert_eq!(
        vms.iter()
            .map(|vm| vm.name.as_str())
            .collect::<Vec<_>>()
            .len(),
        2
    );
    let console = console(&daemon, &one.id).await;
    assert!(console.contains("casemate-agent: ready"), "{console}");

    daemon.remove(&one.id).await.expect("removal works");
    assert!(daemon.get(&one.id).await.is_err());
    assert_eq!(daemon.list().await.len(), 1);
    daemon.remove(&two.id).await.expect("removal works");
    leftovers::assert_nothing_left(&daemon.state_dir);
    assert_eq!(daemon.stop(), Some(0));
}

/// Each QEMU has a user of its own, and nobody else but root looks into its folder.
fn isolated(daemon: &Daemon, one: &v1::Vm, two: &v1::Vm) {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: users of VMs, because this is not root");
        return;
    }
    let uids: Vec<u32> = [one, two]
        .map(|vm| {
            let ids = status_field(vm.pid, "Uid");
            let all: Vec<&str> = ids.split_whitespace().collect();
            assert!(all.iter().all(|id| id == &all[0]) && all[0] != "0", "{ids}");
            assert_eq!(status_field(vm.pid, "Groups"), "");
            assert_eq!(status_field(vm.pid, "CapEff"), "0000000000000000");
            assert_eq!(status_field(vm.pid, "Seccomp"), "2");
            assert_eq!(status_field(vm.pid, "NoNewPrivs"), "1");
            let environment = std::fs::read(format!("/proc/{}/environ", vm.pid)).expect("readable");
            // The daemon's own has it; the script around the backports' QEMU sets others.
            let environment = String::from_utf8_lossy(&environment).into_owned();
            assert!(
                !environment.contains("CANARY_OF_THE_DAEMON"),
                "QEMU's environment is cleared"
            );
            all[0].parse().expect("a number")
        })
        .into();
    assert_ne!(uids[0], uids[1]);
    for (vm, uid) in [(one, uids[0]), (two, uids[1])] {
        let folder = daemon.state_dir.join("vms").join(&vm.id);
        // The folders are root's, so that this user can make nothing in them; its files are its own.
        for (path, owner, mode) in [
            ("", 0, 0o750),
            ("shares", 0, 0o750),
            ("shares/env", 0, 0o750),
            ("shares/certs", 0, 0o750),
            ("shares/env/environment", uid, 0o400),
        ] {
            let metadata = std::fs::symlink_metadata(folder.join(path)).expect("it is there");
            assert_eq!((metadata.uid(), metadata.gid()), (owner, uid), "{path}");
            assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{path}");
        }
    }
}

async fn console(daemon: &Daemon, id: &str) -> String {
    let request = v1::GetConsoleRequest {
        id: id.to_owned(),
        tail_bytes: 4096,
        ..Default::default()
    };
    let mut stream = daemon
        .vms()
        .await
        .get_console(request)
        .await
        .expect("it streams")
        .into_inner();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.message().await.expect("a chunk") {
        bytes.extend(chunk.data);
    }
    assert!(bytes.len() <= 4096);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn the_systems_qemu_boots_two_vms_at_once() {
    boots_two(Setup::new(), Path::new("qemu-system-x86_64")).await;
}

#[tokio::test]
async fn the_backports_qemu_boots_two_vms_at_once() {
    let Some(qemu) = artifacts::qemus().into_iter().nth(1) else {
        return;
    };
    let setup = Setup::new();
    // The whole folder, since the program finds its libraries beside itself.
    let staged = setup.folder.path().join("qemu");
    let copied = copy_tree(qemu.parent().expect("a folder"), &staged);
    copied.expect("QEMU can be copied");
    let program = staged.join(qemu.file_name().expect("a name"));
    boots_two(setup, &program).await;
}

fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(entry.path())?, target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// The kernel that only root may read reaches QEMU all the same.
#[tokio::test]
async fn a_kernel_that_only_root_may_read_boots() {
    let mut setup = Setup::new();
    let kernel = setup.folder.path().join("kernel");
    std::fs::copy(artifacts::kernel(), &kernel).expect("a copy");
    std::fs::set_permissions(&kernel, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    setup.set("vm.kernel", kernel.display().to_string());
    let daemon = setup.start();
    let vm = daemon.create(spec("private", "n")).await.expect("it runs");
    // Replacing the file now changes nothing for this VM.
    std::fs::remove_file(&kernel).expect("it is there");
    assert!(agent_answer(&vm.agent_address).await.contains("NONCE=n"));
}

/// The guest's own power-off ends in `exited` with QEMU's reason, and frees the slot at once.
/// And on no other of the host's addresses.
#[tokio::test]
async fn an_agent_answers_on_the_address_that_config_names() {
    let mut setup = Setup::new();
    setup.set("network.host_address", "127.0.0.9");
    let daemon = setup.start();
    let vm = daemon.create(spec("one", "nonce")).await.expect("it runs");
    let port = vm
        .agent_address
        .strip_prefix("127.0.0.9:")
        .expect("it is named");
    let body = agent_answer(&vm.agent_address).await;
    assert!(body.contains("NONCE=nonce\n"), "{body}");
    let elsewhere = std::net::TcpStream::connect(format!("127.0.0.1:{port}"));
    assert!(elsewhere.is_err(), "{elsewhere:?}");
    daemon.remove(&vm.id).await.expect("removal works");
    leftovers::assert_nothing_left(&daemon.state_dir);
}

#[tokio::test]
async fn a_vm_that_ends_by_itself_frees_its_slot() {
    let mut setup = Setup::new();
    setup.set("max_vms", 1);
    let daemon = setup.start();
    let mut spec = spec("short", "n");
    // The kernel panics without its init, and `panic=-1` reboots, which ends QEMU.
    spec.kernel_cmdline =
        Some("console=ttyS0 panic=-1 rdinit=/no-such-init root=/dev/null".to_owned());
    let vm = daemon.create(spec).await.expect("it runs");
    let ended = casemate_integration::daemon::eventually(
        "the guest's end",
        std::time::Duration::from_secs(120),
        || async {
            let vm = daemon.get(&vm.id).await.expect("it is listed");
            (vm.state() == v1::VmState::Exited).then_some(vm)
        },
    )
    .await;
    assert!(ended.detail.contains("guest-reset"), "{}", ended.detail);
    assert_eq!(ended.agent_address, "");
    let console = console(&daemon, &vm.id).await;
    assert!(console.contains("Kernel panic"), "{console}");
    let next = daemon
        .create(self::spec("next", "m"))
        .await
        .expect("the slot is free");
    daemon.remove(&ended.id).await.expect("it can be removed");
    daemon.remove(&next.id).await.expect("it can be removed");
    leftovers::assert_nothing_left(&daemon.state_dir);
}
