//! The program starts at all; that it is built for the other tests is the point.

#[test]
fn it_calls_itself_a_fake() {
    #[expect(clippy::disallowed_methods, reason = "the subject of the test")]
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fake-qemu"));
    let output = command.arg("--version").output().expect("it runs");
    assert!(String::from_utf8_lossy(&output.stdout).contains("(fake)"));
}
