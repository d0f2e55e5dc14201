//! The program without a daemon.

#[test]
fn help_lists_the_exit_codes() {
    #[expect(clippy::disallowed_methods, reason = "the subject of the test")]
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_casemate"));
    let output = command.arg("--help").output().expect("it runs");
    assert!(
        String::from_utf8_lossy(&output.stdout)
            .to_lowercase()
            .contains("exit codes")
    );
}
