//! Files that change while or after a VM is made of them: the VM is what was measured, or refused.

use std::fs::{File, FileTimes, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use casemate_integration::daemon::{Verb, agent_answer};
use casemate_proto::v1;
use tonic::Code;

use super::{NONCE, json_of, kernel_of, register, setup, sha384, with_nonce};

/// Longer than a file has to be unchanged before a digest of it is kept.
const SETTLED: Duration = Duration::from_millis(2_200);

/// Writes over the end of the file, and sets its modification time back: size and time say nothing.
fn rewrite_in_place(path: &Path) {
    rewrite_with(path, 0xa5);
}

fn rewrite_with(path: &Path, byte: u8) {
    let file = OpenOptions::new().write(true).open(path).expect("a file");
    let metadata = file.metadata().expect("metadata");
    let modified = metadata.modified().expect("a time");
    let at = metadata.len() - 64;
    file.write_all_at(&[byte; 64], at).expect("it is written");
    file.set_times(FileTimes::new().set_modified(modified))
        .expect("the time can be set");
    assert_eq!(file.metadata().expect("metadata").len(), metadata.len());
}

/// Puts another file under the name.
fn swap(path: &Path) {
    let other = path.with_extension("other");
    std::fs::copy(path, &other).expect("a copy");
    rewrite_with(&other, 0x5a);
    std::fs::rename(&other, path).expect("it is renamed");
}

/// The digest that a plan made now would have.
async fn planned(daemon: &casemate_integration::daemon::Daemon) -> String {
    let request = v1::PlanVmRequest {
        spec: Some(v1::VmSpec::default()),
        dry_run: false,
    };
    let plan = daemon.vms().await.plan_vm(request).await;
    let plan = plan.expect("a plan").into_inner();
    let document = serde_json::from_str(&plan.measurement_json).expect("JSON");
    let value = &register(&document, "gauge-digest")["value"];
    value.as_str().expect("a digest").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_since_the_last_vm_is_measured_anew() {
    let setup = setup();
    let kernel = kernel_of(&setup);
    let daemon = setup.start();
    for change in [rewrite_in_place, swap] {
        tokio::time::sleep(SETTLED).await;
        let before = planned(&daemon).await;
        assert_eq!(before, sha384(&kernel));
        // Kept by now.
        assert_eq!(planned(&daemon).await, before);
        change(&kernel);
        let after = planned(&daemon).await;
        assert_ne!(after, before);
        assert_eq!(after, sha384(&kernel));
    }
}

/// The program that measures beside the backend runs after the digest and before QEMU, and here it
/// is the attacker: it may write to the file.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_between_digest_and_start_changes_nothing() {
    for how in [
        // In place, with the size and the modification time of before.
        "t=$(stat -c %y KERNEL); \
         dd if=/dev/zero of=KERNEL bs=4096 count=64 conv=notrunc 2>/dev/null; touch -m -d \"$t\" KERNEL",
        // Another file under the name.
        "head -c 1000000 /dev/zero > KERNEL.new && mv -f KERNEL.new KERNEL",
        // Cut short.
        ": > KERNEL",
        // The other file of the boot, which is in no register here and still was what was hashed.
        "head -c 1000000 /dev/zero > INITRD; echo > KERNEL",
    ] {
        let mut setup = setup();
        let folder = setup.folder.path().to_owned();
        let kernel = kernel_of(&setup);
        let digest = sha384(&kernel);
        // The tool is another user, who may write here for once.
        let open = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a mode");
        };
        let initrd = folder.join("initrd");
        let of_initrd = sha384(&initrd);
        open(&kernel, 0o666);
        open(&initrd, 0o666);
        open(&folder, 0o777);
        let tool = folder.join("gauge-tool");
        let script = format!(
            "#!/bin/sh\n{}\necho {digest}\n",
            how.replace("KERNEL", &kernel.display().to_string())
                .replace("INITRD", &initrd.display().to_string())
        );
        std::fs::write(&tool, script).expect("a script");
        open(&tool, 0o755);
        setup.set("attestation.tool", tool.display().to_string());
        let daemon = setup.start();
        let vm = daemon.create(with_nonce()).await;
        let vm = vm.unwrap_or_else(|status| panic!("{how}: {status}"));
        assert_ne!(sha384(&kernel), digest, "{how}: the tool did not change it");
        // The guest booted from what was measured, and that is what is told.
        assert!(agent_answer(&vm.agent_address).await.contains(NONCE));
        let document = json_of(&daemon, &vm.id).await;
        assert_eq!(
            register(&document, "gauge-digest")["value"],
            digest,
            "{how}"
        );
        assert_eq!(document["files"][0]["sha384"], digest, "{how}");
        assert_eq!(document["files"][1]["sha384"], of_initrd, "{how}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_starts_again_as_what_it_was_unless_its_caller_accepts_the_change() {
    let setup = setup();
    let kernel = kernel_of(&setup);
    let original = std::fs::read(&kernel).expect("it is there");
    let mut daemon = setup.start();
    let vm = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    let before = json_of(&daemon, &vm.id).await;
    daemon.act(Verb::ForceStop, &vm.id).await.expect("it stops");
    // Nothing changed: it starts.
    daemon.act(Verb::Start, &vm.id).await.expect("it starts");
    daemon.act(Verb::ForceStop, &vm.id).await.expect("it stops");

    // A kernel boots with something at its end too.
    let mut longer = original.clone();
    longer.extend([0; 4096]);
    std::fs::write(&kernel, &longer).expect("it is written");
    let changed = sha384(&kernel);
    let refused = daemon.act(Verb::Start, &vm.id).await.expect_err("changed");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    for part in [
        "gauge-digest",
        register(&before, "gauge-digest")["value"]
            .as_str()
            .expect("a digest"),
        changed.as_str(),
        "--accept-measurement",
        "measurement-changed",
    ] {
        assert!(refused.message().contains(part), "{part}: {refused}");
    }
    // What is told of it is what it was, also by the next daemon.
    assert_eq!(json_of(&daemon, &vm.id).await, before);
    daemon.kill();
    daemon.restart();
    let refused = daemon.act(Verb::Start, &vm.id).await.expect_err("changed");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");

    // Put back, it starts.
    std::fs::write(&kernel, &original).expect("it is written");
    daemon.act(Verb::Start, &vm.id).await.expect("it starts");
    daemon.act(Verb::ForceStop, &vm.id).await.expect("it stops");

    std::fs::write(&kernel, &longer).expect("it is written");
    daemon
        .act(Verb::StartAnyway, &vm.id)
        .await
        .expect("the change is accepted");
    let after = json_of(&daemon, &vm.id).await;
    assert_eq!(register(&after, "gauge-digest")["value"], changed);
    // It was accepted once: from now on this is what it is.
    daemon.act(Verb::ForceStop, &vm.id).await.expect("it stops");
    File::create(&kernel)
        .and_then(|file| file.write_all_at(&original, 0))
        .expect("it is written");
    daemon.act(Verb::Start, &vm.id).await.expect_err("changed");
    daemon.remove(&vm.id).await.expect("it is removed");
}

/// A change is accepted for one start, whatever becomes of it, and by nobody but its caller.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_accepted_once_and_never_by_a_restart_policy() {
    let mut setup = setup();
    let kernel = kernel_of(&setup);
    let original = std::fs::read(&kernel).expect("it is there");
    // What is measured has no part in that start: the tool fails it.
    let tool = setup.folder.path().join("gauge-tool");
    setup.set("attestation.tool", tool.display().to_string());
    let say = |body: &str| {
        std::fs::write(&tool, format!("#!/bin/sh\n{body}\n")).expect("a script");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&tool, mode).expect("a mode");
    };
    let honest = "sha384sum \"$2\" | cut -d' ' -f1";
    say(honest);
    let daemon = setup.start();
    let vm = daemon
        .create(v1::VmSpec {
            restart_policy: v1::RestartPolicy::Always.into(),
            ..v1::VmSpec::default()
        })
        .await
        .expect("it runs");
    daemon.act(Verb::ForceStop, &vm.id).await.expect("it stops");
    let mut longer = original.clone();
    longer.extend([0; 4096]);
    std::fs::write(&kernel, &longer).expect("it is written");
    say("exit 1");
    let failed = daemon.act(Verb::StartAnyway, &vm.id).await;
    assert!(
        failed
            .expect_err("the tool fails")
            .message()
            .contains("measuring-tool")
    );
    say(honest);
    // Its restart policy tries again, and is not told that anybody accepted anything.
    let failed = daemon.in_state(&vm.id, v1::VmState::Failed).await;
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    let mut detail = failed.detail;
    while !detail.contains("would not be measured as it was") {
        assert!(std::time::Instant::now() < deadline, "{detail}");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let vm = daemon.get(&vm.id).await.expect("it is listed");
        assert_ne!(vm.state(), v1::VmState::Running, "it started by itself");
        detail = vm.detail;
    }
    // A failed start is none: what is told of the VM is what it ran as.
    let document = json_of(&daemon, &vm.id).await;
    let digest = &register(&document, "gauge-digest")["value"];
    assert_ne!(digest.as_str(), Some(sha384(&kernel).as_str()));
    daemon.remove(&vm.id).await.expect("it is removed");
}

/// A guest that could not come back as what it is goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_refused_before_the_guest_is_stopped() {
    let setup = setup();
    let kernel = kernel_of(&setup);
    let daemon = setup.start();
    let vm = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    let mut longer = std::fs::read(&kernel).expect("it is there");
    longer.extend([0; 4096]);
    std::fs::write(&kernel, &longer).expect("it is written");
    let refused = daemon.act(Verb::ForceRestart, &vm.id).await;
    let refused = refused.expect_err("it would be another one");
    assert!(
        refused.message().contains("measurement-changed"),
        "{refused}"
    );
    let now = daemon.get(&vm.id).await.expect("it is listed");
    assert_eq!(now.state(), v1::VmState::Running);
    assert_eq!(now.pid, vm.pid, "it was not touched");
    let accepted = daemon
        .vms()
        .await
        .restart_vm(v1::RestartVmRequest {
            id: vm.id.clone(),
            force: true,
            accept_measurement: true,
            ..Default::default()
        })
        .await;
    let accepted = accepted.expect("accepted").into_inner().vm.expect("a VM");
    assert_ne!(accepted.pid, vm.pid);
    let document = json_of(&daemon, &vm.id).await;
    let digest = &register(&document, "gauge-digest")["value"];
    assert_eq!(digest.as_str(), Some(sha384(&kernel).as_str()));
}
