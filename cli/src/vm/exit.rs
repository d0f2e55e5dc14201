//! How a QEMU ended, in words: `guest-shutdown (exit code 0)`, `signal 9 (SIGKILL)`.

use casemate_proto::v1::Exit;

/// By Linux's number, from 1; the same on all architectures that QEMU runs confidential VMs on.
const SIGNALS: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

pub(super) fn words(exit: &Exit) -> String {
    let process = match (exit.code, exit.signal) {
        (_, Some(signal)) => match signal_name(signal) {
            Some(name) => format!("signal {signal} ({name})"),
            None => format!("signal {signal}"),
        },
        (Some(code), None) => format!("exit code {code}"),
        (None, None) => String::new(),
    };
    match (exit.reason.as_str(), process.as_str()) {
        ("", "") => "unknown".to_owned(),
        ("", process) => process.to_owned(),
        (reason, "") => reason.to_owned(),
        // No brackets in brackets.
        (reason, process) if exit.signal.is_some() => format!("{reason}, {process}"),
        (reason, process) => format!("{reason} ({process})"),
    }
}

fn signal_name(signal: i32) -> Option<&'static str> {
    let index = usize::try_from(signal).ok()?.checked_sub(1)?;
    SIGNALS.get(index).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_told_in_words() {
        for (reason, code, signal, expected) in [
            (
                "guest-shutdown",
                Some(0),
                None,
                "guest-shutdown (exit code 0)",
            ),
            ("", Some(1), None, "exit code 1"),
            ("", None, Some(9), "signal 9 (SIGKILL)"),
            (
                "host-signal",
                None,
                Some(15),
                "host-signal, signal 15 (SIGTERM)",
            ),
            ("", None, Some(31), "signal 31 (SIGSYS)"),
            ("", None, Some(34), "signal 34"),
            ("", None, Some(0), "signal 0"),
            ("", None, Some(-1), "signal -1"),
            ("guest-panic", None, None, "guest-panic"),
            ("", None, None, "unknown"),
        ] {
            let exit = Exit {
                reason: reason.to_owned(),
                code,
                signal,
                at: String::new(),
            };
            assert_eq!(words(&exit), expected);
        }
    }
}
