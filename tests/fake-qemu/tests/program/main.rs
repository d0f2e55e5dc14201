//! The program from outside: that it does as the real QEMU does, and misbehaves where it is told to.

mod against_qemu;
mod misbehaviour;
mod running;

#[test]
fn it_calls_itself_a_fake() {
    let output = running::command(running::fake().as_ref())
        .arg("--version")
        .stdout(std::process::Stdio::piped())
        .output()
        .expect("it runs");
    assert!(String::from_utf8_lossy(&output.stdout).contains("(fake)"));
}
