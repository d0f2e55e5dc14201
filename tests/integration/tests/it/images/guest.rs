//! The tests' guest with another agent, which shows its secrets and its disks.

use std::io::Write as _;
use std::path::Path;

use casemate_integration::artifacts;
use casemate_integration::daemon::agent_answer;

/// One member of an archive that the kernel unpacks (Documentation/driver-api/early-userspace).
fn member(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let size = content.len();
    write!(
        archive,
        "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{size:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{name}\0",
        0, 0, 0, 1, 0, 0, 0, 0, 0, name.len() + 1, 0
    )
    .expect("memory takes it");
    for part in [&[][..], content] {
        archive.extend_from_slice(part);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
}

/// The tests' guest with another agent: it shows its secrets and its disks.
pub(crate) fn own_initrd(path: &Path) {
    const AGENT: &str = "#!/bin/busybox sh
while read -r line && [ \"$line\" != \"$(printf '\\r')\" ] && [ -n \"$line\" ]; do :; done
printf 'HTTP/1.0 200 OK\\r\\nContent-Type: text/plain\\r\\nConnection: close\\r\\n\\r\\n'
echo 'agent: of the request'
cat /env/environment
for secret in /env/secrets/*; do
    [ -e \"$secret\" ] && echo \"secret ${secret##*/}: $(cat \"$secret\")\"
done
for disk in /sys/block/vd*; do
    [ -e \"$disk\" ] || continue
    name=${disk##*/}
    echo \"disk $(cat \"$disk/serial\") ro=$(cat \"$disk/ro\"): $(head -c 12 \"/dev/$name\")\"
    echo x 2>/dev/null >\"/dev/$name\" && echo \"wrote to $name\"
done
";
    let mut archive = std::fs::read(artifacts::initrd()).expect("it is there");
    archive.resize(archive.len().next_multiple_of(4), 0);
    member(&mut archive, "bin/agent", 0o100_755, AGENT.as_bytes());
    member(&mut archive, "TRAILER!!!", 0, b"");
    std::fs::write(path, archive).expect("a file");
}

/// What the guest of [`own_initrd`] says.
pub(crate) async fn assert_guest(address: &str, id: &str) {
    let body = agent_answer(address).await;
    for line in [
        "agent: of the request\n",
        &format!("AGENT_CVM_ID={id}\n"),
        "secret api.token: of the token\n",
        "secret tls.key: of the key\n",
        "disk models ro=1: first of all\n",
        "disk more ro=1: second disk.\n",
    ] {
        assert!(body.contains(line), "{line:?} is not in:\n{body}");
    }
    assert!(!body.contains("wrote to"), "{body}");
}
