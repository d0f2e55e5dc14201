//! Files that requests name: what lies below the image roots boots, is a disk and is a secret in a
//! real guest; what leads anywhere else is refused, whatever is renamed meanwhile. The scripted QEMU
//! stands in where the subject is the refusal.

pub(crate) mod guest;
mod roles;

use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use casemate_catalogue::ErrorId;
use casemate_integration::artifacts;
use casemate_integration::daemon::{Daemon, Setup, Verb};
use casemate_proto::v1;
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use guest::{assert_guest, own_initrd};

/// A tool of QEMU's.
fn qemu_img(words: &[&str]) {
    #[expect(clippy::disallowed_methods, reason = "QEMU's own tool, for the daemon")]
    let mut command = std::process::Command::new("qemu-img");
    let output = command.args(words).output().expect("it is there");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {said}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of a test")
}

/// A daemon's image root.
fn root_of(setup: &mut Setup) -> PathBuf {
    let root = setup.folder.path().join("images");
    std::fs::create_dir(&root).expect("a folder");
    setup.set("images.roots", text(&root));
    root
}

fn kernel(name: &str) -> v1::VmSpec {
    files(v1::Files {
        kernel: name.to_owned(),
        ..v1::Files::default()
    })
}

fn files(files: v1::Files) -> v1::VmSpec {
    v1::VmSpec {
        files: Some(files),
        ..v1::VmSpec::default()
    }
}

fn data_disk(image: &str, format: &str) -> v1::VmSpec {
    v1::VmSpec {
        data_disks: vec![v1::DataDisk {
            id: "data".to_owned(),
            image: image.to_owned(),
            format: format.to_owned(),
        }],
        ..v1::VmSpec::default()
    }
}

fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().expect("an ErrorInfo");
    info.reason
}

fn subject(status: &Status) -> String {
    let info = status.get_details_error_info().expect("an ErrorInfo");
    info.metadata.get("subject").cloned().unwrap_or_default()
}

fn fifo(path: &Path) {
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).expect("a pipe");
}

/// Whether a device could be made here.
fn device(path: &Path) -> bool {
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    let kind = rustix::fs::FileType::CharacterDevice;
    let zero = rustix::fs::makedev(1, 5);
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, zero).is_ok()
}

struct Refused {
    /// Of the kernel, as a request gives it.
    name: &'static str,
    id: ErrorId,
    part: &'static str,
}

const fn refused(name: &'static str, id: ErrorId, part: &'static str) -> Refused {
    Refused { name, id, part }
}

const REFUSED: &[Refused] = &[
    refused("..", ErrorId::RequestMeaning, "it has the component `..`"),
    refused("../outside", ErrorId::RequestMeaning, "the component `..`"),
    refused("a/../../x", ErrorId::RequestMeaning, "the component `..`"),
    refused("./kernel", ErrorId::RequestMeaning, "the component `.`"),
    refused("a//b", ErrorId::RequestMeaning, "an empty component"),
    refused("kernel/", ErrorId::RequestMeaning, "an empty component"),
    refused("a\u{0}b", ErrorId::RequestMeaning, "a control character"),
    refused("a\nb", ErrorId::RequestMeaning, "a control character"),
    refused(
        "missing",
        ErrorId::ImageUnusable,
        "in none of the image roots",
    ),
    refused(
        "kernel/x",
        ErrorId::ImageUnusable,
        "in none of the image roots",
    ),
    refused(
        "link-out",
        ErrorId::ImageUnusable,
        "leads out of the image root",
    ),
    refused(
        "link-up",
        ErrorId::ImageUnusable,
        "leads out of the image root",
    ),
    refused("folder-out/kernel", ErrorId::ImageUnusable, "leads out of"),
    refused("link-proc", ErrorId::ImageUnusable, "leads out of"),
    refused("loop", ErrorId::ImageUnusable, "too many links"),
    refused("pipe", ErrorId::ImageUnusable, "is a pipe"),
    refused("folder", ErrorId::ImageUnusable, "is a folder"),
    refused("device", ErrorId::ImageUnusable, "is a device"),
    // Whoever reaches this daemon is admin: the whole host is open, but for what is no file.
    refused("/proc/self/environ", ErrorId::ImageUnusable, "lies on proc"),
    refused("/proc/self/exe", ErrorId::ImageUnusable, "a magic link"),
    refused(
        "/proc/self/root/etc/passwd",
        ErrorId::ImageUnusable,
        "magic link",
    ),
    refused(
        "/sys/kernel/uevent_seqnum",
        ErrorId::ImageUnusable,
        "lies on sysfs",
    ),
    refused("/dev/zero", ErrorId::ImageUnusable, "is a device"),
    refused("/no/such/kernel", ErrorId::ImageUnusable, "there is no"),
];

#[tokio::test]
async fn what_is_no_file_below_a_root_is_refused_by_field_and_rule() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    let root = root_of(&mut setup);
    let outside = setup.folder.path().join("outside");
    std::fs::create_dir(&outside).expect("a folder");
    for path in [root.join("kernel"), outside.join("kernel")] {
        std::fs::write(path, "a kernel").expect("a file");
    }
    std::fs::create_dir(root.join("folder")).expect("a folder");
    for (target, name) in [
        (text(&outside.join("kernel")), "link-out"),
        ("../outside/kernel", "link-up"),
        (text(&outside), "folder-out"),
        ("/proc/self/environ", "link-proc"),
        ("loop", "loop"),
        ("folder/../kernel", "link-in"),
    ] {
        symlink(target, root.join(name)).expect("a link");
    }
    fifo(&root.join("pipe"));
    let has_device = device(&root.join("device"));
    let daemon = setup.start();
    for case in REFUSED {
        if case.name == "device" && !has_device {
            println!("skipped: a device below the root, because none can be made here");
            continue;
        }
        let what = format!("{:?}", case.name);
        // A pipe that was waited for would never come back.
        let create =
            tokio::time::timeout(Duration::from_secs(30), daemon.create(kernel(case.name)));
        let status = create.await.expect("it does not wait").expect_err(&what);
        assert_eq!(reason(&status), *case.id.reason(), "{what}: {status}");
        assert_eq!(subject(&status), "files.kernel", "{what}: {status}");
        assert!(status.message().contains(case.part), "{what}: {status}");
        assert!(status.message().contains("\nremedy: "), "{what}: {status}");
        daemon.assert_unwound().await;
    }
    // The fields of disks say the same.
    for (spec, field) in [
        (data_disk("link-out", "raw"), "data_disks.data"),
        (data_disk("../x", "raw"), "data_disks[0].image"),
        (
            files(v1::Files {
                disk: "link-out".to_owned(),
                disk_format: "raw".to_owned(),
                ..v1::Files::default()
            }),
            "files.disk",
        ),
    ] {
        let status = daemon.create(spec).await.expect_err(field);
        assert_eq!(subject(&status), field, "{status}");
    }
    for name in ["kernel", "link-in"] {
        let vm = daemon.create(kernel(name)).await.expect(name);
        assert_eq!(vm.files.map(|files| files.kernel).as_deref(), Some(name));
    }
    let absolute = text(&outside.join("kernel")).to_owned();
    daemon
        .create(kernel(&absolute))
        .await
        .expect("for an admin");
}

/// A root that somebody named has to be there when a request needs it, and not before.
#[tokio::test]
async fn a_root_that_is_missing_is_told_at_the_check_and_to_who_needs_it() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    setup.set("images.roots", "/no/such/root");
    let mut check = setup.command();
    let output = check.arg("--check-config").output().expect("it runs");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(
        said.contains("images.roots has \"/no/such/root\""),
        "{said}"
    );
    let daemon = setup.start();
    daemon
        .create(v1::VmSpec::default())
        .await
        .expect("it names none");
    let status = daemon.create(kernel("x")).await.expect_err("no root");
    assert_eq!(
        reason(&status),
        *ErrorId::ImageUnusable.reason(),
        "{status}"
    );
    assert!(
        status
            .message()
            .contains("\"/no/such/root\" cannot be opened"),
        "{status}"
    );
    assert!(
        status.message().contains("remedy: set `images.roots`"),
        "{status}"
    );
}

/// Names what a started QEMU has open below a path.
fn opens(pid: u32, wanted: &Path) -> bool {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
    let mut files = files.flatten();
    files.any(|file| std::fs::read_link(file.path()).is_ok_and(|target| target == wanted))
}

/// An attacker who may rename below the root swaps image and link as fast as it can: each VM has
/// what was judged, or there is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_is_swapped_all_the_time_is_the_one_that_was_judged_or_none() {
    let mut setup = Setup::new();
    // No guest is there to hear of the power button.
    setup.set("max_vms", 0).set("qemu.powerdown_time", "1s");
    let root = root_of(&mut setup);
    let secret = setup.folder.path().join("secret");
    qemu_img(&["create", "-q", "-f", "raw", text(&secret), "1M"]);
    let (good, bad) = (root.join("good"), root.join("bad"));
    qemu_img(&["create", "-q", "-f", "qcow2", text(&good), "1M"]);
    // Judged, it would be refused; so would the link.
    let backed = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b"];
    qemu_img(&[&backed[..], &[text(&secret), text(&bad)]].concat());
    let names = [root.join("a"), root.join("b"), root.join("image")];
    std::fs::copy(&good, &names[2]).expect("a copy");
    std::fs::copy(&bad, &names[0]).expect("a copy");
    symlink(&secret, &names[1]).expect("a link");
    let daemon = setup.start();
    let ends = Arc::new(AtomicBool::new(false));
    let attacker = {
        let ends = Arc::clone(&ends);
        std::thread::spawn(move || {
            let mut swaps: u64 = 0;
            let swap = |one: &Path, other: &Path| {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let here = rustix::fs::CWD;
                rustix::fs::renameat_with(here, one, here, other, flags).expect("both are there");
            };
            while !ends.load(Ordering::Relaxed) {
                swap(&names[0], &names[2]);
                swap(&names[1], &names[2]);
                swaps += 2;
            }
            swaps
        })
    };
    let (mut made, mut refused) = (0, 0);
    for _ in 0..30 {
        match daemon.create(data_disk("image", "qcow2")).await {
            Ok(vm) => {
                made += 1;
                assert!(!opens(vm.pid, &secret), "QEMU has the file outside");
                daemon.remove(&vm.id).await.expect("it can be removed");
            }
            Err(status) => {
                refused += 1;
                let reason = reason(&status);
                let known = [ErrorId::ImageUnusable, ErrorId::DiskUnusable];
                assert!(known.iter().any(|id| *id.reason() == *reason), "{status}");
            }
        }
    }
    ends.store(true, Ordering::Relaxed);
    let swaps = attacker.join().expect("it ends");
    println!("{swaps} swaps: {made} VMs, {refused} refusals");
    assert!(refused > 0, "nothing was swapped in time");
    daemon.assert_unwound().await;
}

/// How an image comes to be, its format, and a part of the refusal; none: it is taken.
type ImageCase = (&'static str, fn(&Path), &'static str, Option<&'static str>);

const IMAGES: &[ImageCase] = &[
    (
        "raw",
        |image| std::fs::write(image, vec![7; 1 << 20]).expect("a file"),
        "raw",
        None,
    ),
    (
        "qcow2",
        |image| qemu_img(&["create", "-q", "-f", "qcow2", text(image), "1M"]),
        "qcow2",
        None,
    ),
    (
        // Bytes, whatever they look like: what the header names is not opened.
        "raw with a header of qcow2",
        |image| {
            let backed = ["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b"];
            qemu_img(&[&backed[..], &["/etc/shadow", text(image), "1M"]].concat());
        },
        "raw",
        None,
    ),
    (
        "a backing file",
        |image| {
            let backed = ["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b"];
            qemu_img(&[&backed[..], &["/etc/shadow", text(image), "1M"]].concat());
        },
        "qcow2",
        Some("backing file \"/etc/shadow\""),
    ),
    (
        "a data file",
        |image| {
            let data = image.with_extension("data");
            let option = format!("data_file={},data_file_raw=on", text(&data));
            let create = ["create", "-q", "-f", "qcow2", "-o", &option];
            qemu_img(&[&create[..], &[text(image), "1M"]].concat());
        },
        "qcow2",
        Some("data file"),
    ),
    (
        // The low byte of `crypt_method`, of the header as QEMU documents it: AES.
        "encrypted",
        |image| {
            qemu_img(&["create", "-q", "-f", "qcow2", text(image), "1M"]);
            let file = std::fs::File::options().write(true).open(image);
            file.expect("a file")
                .write_all_at(&[1], 35)
                .expect("a byte");
        },
        "qcow2",
        Some("is encrypted"),
    ),
    (
        "raw, not qcow2",
        |image| std::fs::write(image, vec![0; 1 << 20]).expect("a file"),
        "qcow2",
        Some("not in qcow2 format"),
    ),
    (
        "vmdk",
        |image| qemu_img(&["create", "-q", "-f", "vmdk", text(image), "1M"]),
        "vmdk",
        Some("\"vmdk\" is none of raw, qcow2"),
    ),
];

#[tokio::test]
async fn data_disks_are_whole_images_of_the_format_that_is_said() {
    let mut setup = Setup::new();
    // No guest is there to hear of the power button.
    setup.set("qemu.powerdown_time", "1s");
    let root = root_of(&mut setup);
    let image = root.join("image");
    let daemon = setup.start();
    for mode in [0o644, 0o600] {
        for (name, make, format, wanted) in IMAGES {
            make(&image);
            let modes = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&image, modes).expect("a mode");
            let outcome = daemon.create(data_disk("image", format)).await;
            match (outcome, wanted) {
                (Ok(vm), None) => {
                    assert!(opens(vm.pid, &image), "{name}");
                    assert!(!opens(vm.pid, Path::new("/etc/shadow")), "{name}");
                    daemon.remove(&vm.id).await.expect("it can be removed");
                }
                (Err(status), Some(part)) => {
                    assert!(status.message().contains(part), "{name}: {status}");
                    assert!(subject(&status).starts_with("data_disks"), "{status}");
                }
                (outcome, _) => panic!("{name}: {outcome:?}"),
            }
            daemon.assert_unwound().await;
            std::fs::remove_file(&image).expect("it is there");
            let _ = std::fs::remove_file(image.with_extension("data"));
        }
    }
}

#[tokio::test]
async fn a_guest_boots_from_its_own_files_and_does_so_again() {
    let mut setup = Setup::new();
    setup.set("on_shutdown", "leave");
    let root = root_of(&mut setup);
    // What the operator has is another guest, so that this one cannot come of it.
    setup.set("vm.kernel", "/no/such/kernel");
    std::fs::create_dir(root.join("guest")).expect("a folder");
    std::fs::copy(artifacts::kernel(), root.join("guest/vmlinuz")).expect("a copy");
    own_initrd(&root.join("guest/initrd"));
    let mut raw = b"first of all".to_vec();
    raw.resize(1 << 20, 0);
    std::fs::write(root.join("models.img"), raw).expect("a file");
    let mut source = b"second disk.".to_vec();
    source.resize(1 << 20, 0);
    std::fs::write(root.join("source"), source).expect("a file");
    let convert = ["convert", "-f", "raw", "-O", "qcow2"];
    let paths = ["source", "more.qcow2"].map(|name| root.join(name));
    qemu_img(&[&convert[..], &[text(&paths[0]), text(&paths[1])]].concat());
    // Only root may read one of them.
    let closed = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(root.join("models.img"), closed).expect("a mode");

    let disk = |id: &str, image: &str, format: &str| v1::DataDisk {
        id: id.to_owned(),
        image: image.to_owned(),
        format: format.to_owned(),
    };
    let spec = v1::VmSpec {
        files: Some(v1::Files {
            kernel: "guest/vmlinuz".to_owned(),
            initrd: "guest/initrd".to_owned(),
            ..v1::Files::default()
        }),
        data_disks: vec![
            disk("models", "models.img", "raw"),
            disk("more", "more.qcow2", "qcow2"),
        ],
        secrets: [
            ("tls.key".to_owned(), b"of the key".to_vec()),
            ("api.token".to_owned(), b"of the token".to_vec()),
        ]
        .into(),
        ..v1::VmSpec::default()
    };
    let mut daemon = setup.start();
    let vm = daemon.create(spec.clone()).await.expect("it runs");
    assert_eq!((&vm.files, &vm.data_disks), (&spec.files, &spec.data_disks));
    assert_guest(&vm.agent_address, &vm.id).await;
    secrets_are_closed(&daemon, &vm);

    daemon.act(Verb::ForceStop, &vm.id).await.expect("it stops");
    let again = daemon.act(Verb::Start, &vm.id).await.expect("it starts");
    assert_guest(&again.agent_address, &vm.id).await;

    // And with the daemon of later, which has it from the record alone.
    assert_eq!(daemon.stop(), Some(0));
    daemon.restart();
    let adopted = daemon.get(&vm.id).await.expect("it is there");
    assert_eq!(
        (&adopted.files, &adopted.data_disks),
        (&spec.files, &spec.data_disks)
    );
    daemon.act(Verb::ForceStop, &vm.id).await.expect("it stops");
    let later = daemon.act(Verb::Start, &vm.id).await.expect("it starts");
    assert_guest(&later.agent_address, &vm.id).await;

    // What is not there any more is said, and nothing else takes its place.
    daemon.act(Verb::ForceStop, &vm.id).await.expect("it stops");
    std::fs::rename(root.join("guest/initrd"), root.join("guest/gone")).expect("it is there");
    let status = daemon
        .act(Verb::Start, &vm.id)
        .await
        .expect_err("no initrd");
    assert_eq!(
        reason(&status),
        *ErrorId::ImageUnusable.reason(),
        "{status}"
    );
    assert_eq!(subject(&status), "files.initrd", "{status}");
    daemon.remove(&vm.id).await.expect("it can be removed");
    daemon.assert_unwound().await;
}

/// Files of the VM's user alone, in a folder that only its group looks into.
fn secrets_are_closed(daemon: &Daemon, vm: &v1::Vm) {
    let share = daemon.state_dir.join("vms").join(&vm.id).join("shares/env");
    let is_root = rustix::process::geteuid().is_root();
    let folder = std::fs::metadata(share.join("secrets")).expect("it is there");
    let wanted = if is_root { 0o750 } else { 0o700 };
    assert_eq!(folder.mode() & 0o7777, wanted);
    for name in ["tls.key", "api.token"] {
        let file = std::fs::metadata(share.join("secrets").join(name)).expect("it is there");
        assert_eq!(file.mode() & 0o7777, 0o400, "{name}");
        if is_root {
            assert_eq!((file.uid(), file.gid()), (folder.gid(), folder.gid()));
            assert_ne!(file.uid(), 0);
        }
    }
}

/// Each has a slot on the first bus of the machine, beside the disk that the VM boots from.
#[tokio::test]
async fn a_vm_has_as_many_data_disks_as_it_may() {
    let mut setup = Setup::new();
    // No guest is there to hear of the power button.
    setup.set("qemu.powerdown_time", "1s");
    let root = root_of(&mut setup);
    let disks: Vec<v1::DataDisk> = (0..16)
        .map(|number| v1::DataDisk {
            id: format!("a23456789012345678-{}", (b'a' + number) as char),
            image: format!("image-{number}"),
            format: "raw".to_owned(),
        })
        .collect();
    for name in disks.iter().map(|disk| disk.image.as_str()).chain(["disk"]) {
        std::fs::write(root.join(name), vec![0; 1 << 20]).expect("a file");
    }
    let daemon = setup.start();
    let spec = v1::VmSpec {
        data_disks: disks.clone(),
        ..files(v1::Files {
            disk: "disk".to_owned(),
            disk_format: "raw".to_owned(),
            ..v1::Files::default()
        })
    };
    let vm = daemon.create(spec).await.expect("it runs");
    for disk in &disks {
        assert!(opens(vm.pid, &root.join(&disk.image)), "{}", disk.id);
    }
    daemon.remove(&vm.id).await.expect("it can be removed");
    daemon.assert_unwound().await;
}

/// A kernel of the request boots without the initrd of the operator, whose guest it is not. With the
/// scripted QEMU: its command says it.
#[tokio::test]
async fn a_kernel_of_its_own_takes_no_initrd_of_the_operators() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    let root = root_of(&mut setup);
    for name in ["kernel", "initrd"] {
        std::fs::write(root.join(name), name).expect("a file");
    }
    let daemon = setup.start();
    let own = |kernel: &str, initrd: &str| {
        files(v1::Files {
            kernel: kernel.to_owned(),
            initrd: initrd.to_owned(),
            ..v1::Files::default()
        })
    };
    for (kernel, initrd, roles) in [
        ("kernel", "", &["-kernel"][..]),
        ("kernel", "initrd", &["-kernel", "-initrd"]),
        ("", "initrd", &["-kernel", "-initrd"]),
        ("", "", &["-kernel", "-initrd"]),
    ] {
        let request = v1::PlanVmRequest {
            spec: Some(own(kernel, initrd)),
            dry_run: false,
        };
        let plan = daemon.vms().await.plan_vm(request).await.expect("a plan");
        let plan = plan.into_inner();
        let found: Vec<&str> = ["-kernel", "-initrd"]
            .into_iter()
            .filter(|option| plan.command.iter().any(|word| word == option))
            .collect();
        assert_eq!(found, roles, "{kernel:?} {initrd:?}");
        for (name, own) in [("kernel", kernel), ("initrd", initrd)] {
            let path = root.join(name);
            let is_named = plan.standalone_script.contains(text(&path));
            assert_eq!(is_named, !own.is_empty(), "{kernel:?} {initrd:?}");
        }
    }
}

/// The disk of a request is what its VM boots from, with an overlay of its own over it, now and
/// later. Nothing boots from it.
#[tokio::test]
async fn a_disk_of_the_request_is_booted_from_and_kept() {
    let mut setup = Setup::new();
    setup.set("on_shutdown", "leave").set("disk.extra", "1M");
    let root = root_of(&mut setup);
    // Below the root, and what the config says of its own is another format.
    let image = root.join("disk.raw");
    std::fs::write(&image, vec![0; 1 << 20]).expect("a file");
    setup.set("disk.format", "qcow2");
    let mut daemon = setup.start();
    let spec = files(v1::Files {
        disk: "disk.raw".to_owned(),
        disk_format: "raw".to_owned(),
        ..v1::Files::default()
    });
    let vm = daemon.create(spec).await.expect("it runs");
    let overlay = daemon.state_dir.join("vms").join(&vm.id).join("disk.qcow2");
    assert!(overlay.exists() && opens(vm.pid, &image));
    assert_eq!(daemon.stop(), Some(0));
    daemon.restart();
    daemon.act(Verb::ForceStop, &vm.id).await.expect("it stops");
    let again = daemon.act(Verb::Start, &vm.id).await.expect("it starts");
    assert!(opens(again.pid, &image));
    daemon.act(Verb::ForceStop, &vm.id).await.expect("it stops");
    std::fs::write(&image, vec![1; 2 << 20]).expect("a file");
    let status = daemon.act(Verb::Start, &vm.id).await.expect_err("another");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert_eq!(reason(&status), *ErrorId::DiskUnusable.reason(), "{status}");
    daemon.remove(&vm.id).await.expect("it can be removed");
}

/// The firmware of a request is used, or the VM refused: `plain-kvm` is told to use none here.
#[tokio::test]
async fn a_file_that_a_backend_has_no_use_for_is_refused() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    let root = root_of(&mut setup);
    std::fs::write(root.join("file"), vec![0; 1 << 20]).expect("a file");
    let daemon = setup.start();
    let named = |change: fn(&mut v1::Files)| {
        let mut named = v1::Files::default();
        change(&mut named);
        files(named)
    };
    for (spec, role) in [
        (
            named(|files| files.firmware = "file".to_owned()),
            "firmware",
        ),
        (named(|files| files.igvm = "file".to_owned()), "igvm"),
    ] {
        let status = daemon.create(spec).await.expect_err(role);
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert_eq!(subject(&status), role, "{status}");
    }
}

/// The plan has a data disk as a device of its kind: a script for people has its path, and no
/// secret.
#[tokio::test]
async fn a_plan_shows_data_disks_and_no_secret() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    let root = root_of(&mut setup);
    let image = root.join("image");
    std::fs::write(&image, vec![0; 1 << 20]).expect("a file");
    let daemon = setup.start();
    let request = v1::PlanVmRequest {
        spec: Some(v1::VmSpec {
            secrets: [("key".to_owned(), b"not to be seen".to_vec())].into(),
            ..data_disk("image", "raw")
        }),
        dry_run: false,
    };
    let plan = daemon.vms().await.plan_vm(request).await.expect("a plan");
    let plan = plan.into_inner();
    assert!(!format!("{plan:?}").contains("not to be seen"));
    let command = plan.command.join(" ");
    for part in [
        "@data-disk:data@",
        "virtio-blk-pci,id=casemate-d-data,drive=casemate-d-data,serial=data",
    ] {
        assert!(command.contains(part), "{part}: {command}");
    }
    assert!(plan.standalone_script.contains(text(&image)));
}
