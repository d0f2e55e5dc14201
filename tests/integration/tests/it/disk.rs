//! Boots from a disk image: each VM on an overlay of its own, the operator's image as it was, and
//! images that name other files or are none refused.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use casemate_catalogue::ErrorId;
use casemate_integration::artifacts;
use casemate_integration::daemon::{Setup, Verb, agent_answer};
use casemate_proto::v1;
use tonic::Code;
use tonic_types::StatusExt as _;

const GIB: u64 = 1 << 30;
/// Where Debian and Ubuntu have the firmware, and where its variables are.
const FIRMWARE: [(&str, &str); 2] = [
    (
        "/usr/share/OVMF/OVMF_CODE_4M.fd",
        "/usr/share/OVMF/OVMF_VARS_4M.fd",
    ),
    (
        "/usr/share/OVMF/OVMF_CODE.fd",
        "/usr/share/OVMF/OVMF_VARS.fd",
    ),
];

/// A tool of QEMU's; what it printed.
fn tool(words: &[&str]) -> String {
    #[expect(
        clippy::disallowed_methods,
        reason = "QEMU's own tools, for and against the daemon"
    )]
    let mut command = std::process::Command::new(words[0]);
    let output = command.args(&words[1..]).output();
    let output = output.unwrap_or_else(|error| panic!("no `{}`: {error}", words[0]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of a test")
}

fn info(image: &Path) -> serde_json::Value {
    let printed = tool(&["qemu-img", "info", "-U", "--output=json", text(image)]);
    serde_json::from_str(&printed).expect("JSON")
}

/// A disk with one file system, from which UEFI starts the guest. Only root may read it.
fn bootable(program: &Path, folder: &Path) -> PathBuf {
    let tree = folder.join("esp");
    std::fs::create_dir_all(tree.join("EFI/BOOT")).expect("folders");
    std::fs::copy(program, tree.join("EFI/BOOT/BOOTX64.EFI")).expect("a copy");
    let image = folder.join("disk.img");
    let source = format!("driver=vvfat,fat-type=16,dir={}", text(&tree));
    tool(&[
        "qemu-img",
        "convert",
        "--image-opts",
        &source,
        "-O",
        "qcow2",
        text(&image),
    ]);
    std::fs::set_permissions(&image, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    image
}

fn disk_spec(nonce: &str) -> v1::VmSpec {
    v1::VmSpec {
        boot: v1::Boot::Disk.into(),
        environment: [("NONCE".to_owned(), nonce.to_owned())].into(),
        ..v1::VmSpec::default()
    }
}

#[tokio::test]
async fn a_guest_boots_from_an_overlay_that_is_its_own() {
    let Some(program) = artifacts::boot_program() else {
        return;
    };
    let firmware = FIRMWARE.iter().find(|(code, _)| Path::new(code).exists());
    let Some((code, vars)) = firmware else {
        println!("skipped: no firmware for UEFI");
        return;
    };
    let mut setup = Setup::new();
    let image = bootable(&program, setup.folder.path());
    let before = artifacts::sha256(&image);
    setup
        .set("vm.disk", text(&image))
        .set("disk.format", "qcow2");
    setup
        .set("vm.firmware_code", *code)
        .set("vm.firmware_vars", *vars);
    // The firmware wants more than the guest alone.
    setup.set("vm.memory", "512M");
    let backend = setup.config["backend"][0].as_table_mut().expect("a table");
    backend.insert(
        "settings".to_owned(),
        toml::toml! { firmware = "pflash" }.into(),
    );
    let daemon = setup.start();
    let vm = daemon
        .create(disk_spec("from-disk"))
        .await
        .expect("it runs");
    let overlay = daemon.state_dir.join("vms").join(&vm.id).join("disk.qcow2");
    let made = std::fs::metadata(&overlay).expect("it is there");
    let folder = std::fs::metadata(overlay.parent().expect("a folder")).expect("it is there");
    assert_eq!(folder.mode() & 0o007, 0, "nobody else comes near it");
    let (own, source) = (info(&overlay), info(&image));
    assert_eq!(own["format"], "qcow2");
    let sizes = [&own, &source].map(|info| info["virtual-size"].as_u64().expect("a size"));
    assert_eq!(sizes[0], sizes[1] + GIB);
    let body = agent_answer(&vm.agent_address).await;
    assert!(body.contains("NONCE=from-disk\n"), "{body}");
    assert!(
        body.contains(&format!("AGENT_CVM_ID={}\n", vm.id)),
        "{body}"
    );

    // What is on it stays over a stop and a start.
    daemon.act(Verb::ForceStop, &vm.id).await.expect("it stops");
    let marker = format!("-P 0xab {} 64k", sizes[1]);
    tool(&["qemu-io", "-c", &format!("write {marker}"), text(&overlay)]);
    let again = daemon.act(Verb::Start, &vm.id).await.expect("it starts");
    let body = agent_answer(&again.agent_address).await;
    assert!(body.contains("NONCE=from-disk\n"), "{body}");
    let later = std::fs::metadata(&overlay).expect("it is there");
    assert_eq!(later.ino(), made.ino());
    let found = tool(&[
        "qemu-io",
        "-U",
        "-r",
        "-c",
        &format!("read {marker}"),
        text(&overlay),
    ]);
    assert!(!found.contains("Pattern verification failed"), "{found}");

    daemon.remove(&vm.id).await.expect("it can be removed");
    assert!(!overlay.exists());
    daemon.assert_unwound().await;
    assert_eq!(artifacts::sha256(&image), before, "the operator's image");
}

/// A sound qcow2 image but for one byte.
fn spoiled(image: &Path, at: u64, byte: u8) {
    use std::os::unix::fs::FileExt as _;
    tool(&["qemu-img", "create", "-f", "qcow2", text(image), "64M"]);
    let file = std::fs::File::options()
        .write(true)
        .open(image)
        .expect("a file");
    file.write_all_at(&[byte], at).expect("a byte");
}

/// How an image comes to be, what the refusal is, and what it says beside the image's path.
type Case = (&'static str, fn(&Path), ErrorId, &'static str);

const UNUSABLE: &[Case] = &[
    ("missing", |_| {}, ErrorId::FileUnusable, "No such file"),
    (
        "folder",
        |image| std::fs::create_dir(image).expect("a folder"),
        ErrorId::FileUnusable,
        "",
    ),
    (
        "raw, not qcow2",
        |image| std::fs::write(image, vec![0; 1 << 20]).expect("a file"),
        ErrorId::DiskUnusable,
        "not in qcow2 format",
    ),
    (
        // The low byte of `cluster_bits`, of the header as QEMU documents it.
        "broken header",
        |image| spoiled(image, 23, 99),
        ErrorId::DiskUnusable,
        "Unsupported cluster size",
    ),
    (
        // Bit 1 of `incompatible_features`.
        "marked corrupt",
        |image| spoiled(image, 79, 2),
        ErrorId::DiskUnusable,
        "is marked corrupt",
    ),
    (
        "empty",
        |image| std::fs::write(image, "").expect("a file"),
        ErrorId::DiskUnusable,
        "",
    ),
    (
        "backing file",
        |image| {
            let format = ["qemu-img", "create", "-f", "qcow2", "-F", "raw", "-b"];
            tool(&[&format[..], &["/etc/passwd", text(image), "64M"]].concat());
        },
        ErrorId::DiskUnusable,
        "backing file \"/etc/passwd\"",
    ),
    (
        "data file",
        |image| {
            let data = image.with_extension("data");
            let option = format!("data_file={},data_file_raw=on", text(&data));
            tool(&[
                "qemu-img",
                "create",
                "-f",
                "qcow2",
                "-o",
                &option,
                text(image),
                "64M",
            ]);
        },
        ErrorId::DiskUnusable,
        "data file",
    ),
];

#[tokio::test]
async fn images_that_cannot_be_used_are_refused_by_name() {
    let mut setup = Setup::new();
    let image = setup.folder.path().join("image");
    setup
        .set("vm.disk", text(&image))
        .set("disk.format", "qcow2");
    let daemon = setup.start();
    for (name, make, id, part) in UNUSABLE {
        make(&image);
        let status = daemon.create(disk_spec("n")).await.expect_err(name);
        assert_eq!(status.code(), Code::FailedPrecondition, "{name}: {status}");
        let info = status.get_details_error_info().expect("an ErrorInfo");
        assert_eq!(*info.reason, *id.reason(), "{name}: {status}");
        for part in [text(&image), part] {
            assert!(status.message().contains(part), "{name}: {status}");
        }
        daemon.assert_unwound().await;
        let removed = match image.is_dir() {
            true => std::fs::remove_dir(&image),
            false => std::fs::remove_file(&image),
        };
        assert!(removed.is_ok() || *name == "missing", "{name}");
    }
}

/// Over other bytes than those that it was made for, a disk is garbage. Nothing boots from these.
#[tokio::test]
async fn a_disk_stays_over_the_image_of_its_first_start() {
    let mut setup = Setup::new();
    let folder = setup.folder.path().to_owned();
    let images = ["first", "second"].map(|name| folder.join(name));
    for image in &images {
        tool(&["qemu-img", "create", "-q", "-f", "qcow2", text(image), "1M"]);
    }
    setup
        .set("vm.disk", text(&images[0]))
        .set("disk.format", "qcow2")
        .set("disk.extra", "3M")
        .set("on_shutdown", "leave");
    let mut daemon = setup.start();
    let vm = daemon.create(disk_spec("disk")).await.expect("it runs");
    let overlay = daemon.state_dir.join("vms").join(&vm.id).join("disk.qcow2");
    assert_eq!(info(&overlay)["virtual-size"], 4 << 20);
    let opens = |pid: u32, image: &Path| {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
        let mut files = files.flatten();
        files.any(|file| std::fs::read_link(file.path()).is_ok_and(|target| target == image))
    };
    assert!(opens(vm.pid, &images[0]));
    // The operator's image for new VMs is another one.
    assert_eq!(daemon.stop(), Some(0));
    daemon.setup.set("vm.disk", text(&images[1]));
    daemon.restart();
    daemon.act(Verb::ForceStop, &vm.id).await.expect("it stops");
    let again = daemon.act(Verb::Start, &vm.id).await.expect("it starts");
    assert!(opens(again.pid, &images[0]) && !opens(again.pid, &images[1]));
    let other = daemon.create(disk_spec("other")).await.expect("it runs");
    assert!(opens(other.pid, &images[1]));
    // The image itself was changed.
    daemon.act(Verb::ForceStop, &vm.id).await.expect("it stops");
    tool(&["qemu-img", "resize", "-q", text(&images[0]), "2M"]);
    let refused = daemon.act(Verb::Start, &vm.id).await;
    let refused = refused.expect_err("it would be garbage");
    let info = refused.get_details_error_info().expect("an ErrorInfo");
    assert_eq!(*info.reason, *ErrorId::DiskUnusable.reason(), "{refused}");
    assert!(refused.message().contains(text(&images[0])), "{refused}");
}
