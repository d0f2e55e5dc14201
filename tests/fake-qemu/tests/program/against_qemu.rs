//! The same conversation with the real QEMU and with the fake: the real one is right.
//!
//! A guest's own deeds are a boot sector of a few bytes for the real one, and a signal for the fake.

use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;

use crate::running::{Running, fake};

#[derive(Debug, Clone, Copy)]
enum Step {
    Ask(&'static str, &'static str),
    Signal(Signal),
    /// The client hangs up, and another one comes.
    Reconnect,
    /// The guest does what the boot sector says, and the fake is told by this signal; it is over
    /// with this event.
    Guest(&'static [u8], Signal, &'static str),
}

use Step::{Ask, Guest, Reconnect, Signal as Send};

const CONT: Step = Ask("cont", "{}");
const STOP: Step = Ask("stop", "{}");
const STATUS: Step = Ask("query-status", "{}");
const RESET: Step = Ask("system_reset", "{}");
const POWER_BUTTON: Step = Ask("system_powerdown", "{}");
const QUIT: Step = Ask("quit", "{}");

/// `hlt` for ever, after the bytes of each.
const HALT: &[u8] = &[0xfa, 0xf4, 0xeb, 0xfd];
/// Writes "sleep type 0, enabled" to the power management's control port of a q35.
const POWER_OFF: &[u8] = &[0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef];
/// Writes "panicked" to the port of a pvpanic.
const PANIC: &[u8] = &[0xba, 0x05, 0x05, 0xb0, 0x01, 0xee];
/// Pulses the reset line through the keyboard controller.
const REBOOT: &[u8] = &[0xb0, 0xfe, 0xe6, 0x64];

const NO_REBOOT: &[&str] = &["-no-reboot", "-S"];
const MAY_REBOOT: &[&str] = &["-S"];

const CONVERSATIONS: &[(&str, &[&str], &[Step])] = &[
    (
        "stop and cont",
        NO_REBOOT,
        &[
            STOP,
            STATUS,
            CONT,
            STATUS,
            CONT,
            STOP,
            STATUS,
            STOP,
            CONT,
            STATUS,
            Ask("query-uuid", "{}"),
        ],
    ),
    (
        "set-action",
        NO_REBOOT,
        &[
            Ask("set-action", r#"{"reboot":"shutdown"}"#),
            Ask("set-action", r#"{"panic":"pause","shutdown":"pause"}"#),
            Ask("set-action", r#"{"reboot":"x"}"#),
            Ask("set-action", r#"{"foo":"x"}"#),
            Ask("set-action", r#"{"watchdog":"none"}"#),
            Ask("set-action", "{}"),
        ],
    ),
    (
        "reset, and then no more",
        MAY_REBOOT,
        &[
            RESET,
            STATUS,
            CONT,
            RESET,
            STATUS,
            STOP,
            RESET,
            STATUS,
            CONT,
            Ask("set-action", r#"{"reboot":"shutdown"}"#),
            RESET,
        ],
    ),
    (
        "reset is a shutdown that pauses",
        NO_REBOOT,
        &[
            Ask("set-action", r#"{"shutdown":"pause"}"#),
            RESET,
            STATUS,
            CONT,
            RESET,
            STATUS,
            CONT,
            RESET,
            QUIT,
        ],
    ),
    (
        "set-action takes -no-reboot back",
        NO_REBOOT,
        &[
            Ask("set-action", r#"{"reboot":"reset"}"#),
            CONT,
            RESET,
            STATUS,
        ],
    ),
    ("reset without reboot", NO_REBOOT, &[CONT, RESET]),
    ("reset before cont", NO_REBOOT, &[RESET]),
    (
        "actions as an option",
        &["-S", "-action", "reboot=shutdown"],
        &[CONT, RESET],
    ),
    (
        "the button before cont",
        NO_REBOOT,
        &[POWER_BUTTON, STATUS, QUIT],
    ),
    ("quit", NO_REBOOT, &[CONT, QUIT]),
    ("SIGTERM", NO_REBOOT, &[CONT, Send(Signal::TERM)]),
    ("SIGHUP", NO_REBOOT, &[CONT, Send(Signal::HUP)]),
    (
        "another client",
        NO_REBOOT,
        &[
            CONT,
            Reconnect,
            STATUS,
            Ask("qmp_capabilities", "{}"),
            STATUS,
            Ask("qmp_capabilities", "{}"),
            Reconnect,
            Ask("qmp_capabilities", "{}"),
            STOP,
        ],
    ),
    (
        "mistakes",
        NO_REBOOT,
        &[
            Ask("stop", r#"{"x":1}"#),
            Ask("query-uuid", r#"{"y":1}"#),
            Ask("no-such-command", "{}"),
            Ask("human-monitor-command", "{}"),
            Ask("human-monitor-command", r#"{"command-line":3}"#),
        ],
    ),
    (
        "forwards",
        NO_REBOOT,
        &[
            Ask(
                "human-monitor-command",
                r#"{"command-line":"hostfwd_add nx tcp:127.0.0.1:0-:7"}"#,
            ),
            Ask(
                "human-monitor-command",
                r#"{"command-line":"hostfwd_remove n0 tcp:127.0.0.1:9"}"#,
            ),
        ],
    ),
    (
        "the guest shuts down",
        NO_REBOOT,
        &[CONT, Guest(POWER_OFF, Signal::USR1, "SHUTDOWN")],
    ),
    (
        "the guest shuts down and is kept",
        NO_REBOOT,
        &[
            Ask("set-action", r#"{"shutdown":"pause"}"#),
            CONT,
            Guest(POWER_OFF, Signal::USR1, "STOP"),
            STATUS,
            CONT,
            QUIT,
        ],
    ),
    (
        "the guest panics",
        NO_REBOOT,
        &[CONT, Guest(PANIC, Signal::USR2, "SHUTDOWN")],
    ),
    (
        "the guest panics and is kept",
        NO_REBOOT,
        &[
            Ask("set-action", r#"{"panic":"pause"}"#),
            CONT,
            Guest(PANIC, Signal::USR2, "STOP"),
            STATUS,
            CONT,
            STATUS,
        ],
    ),
    (
        "the guest panics, which is a failure",
        NO_REBOOT,
        &[
            Ask("set-action", r#"{"panic":"exit-failure"}"#),
            CONT,
            Guest(PANIC, Signal::USR2, "SHUTDOWN"),
        ],
    ),
    (
        "the guest reboots",
        NO_REBOOT,
        &[CONT, Guest(REBOOT, Signal::ALARM, "SHUTDOWN")],
    ),
];

#[test]
fn the_fake_says_what_qemu_says() {
    let Some(qemu) = real_qemu() else {
        println!("skipped: there is no qemu-system-x86_64 on the search path to compare with");
        return;
    };
    for (name, arguments, steps) in CONVERSATIONS {
        let real = talk(&qemu, arguments, steps, Side::Real);
        let fake = talk(&fake(), arguments, steps, Side::Fake);
        assert_eq!(fake, real, "{name}: the fake is left, QEMU is right");
    }
}

/// What does not come up at all: both end with the same code and the same reason.
#[test]
fn the_fake_refuses_what_qemu_refuses() {
    let Some(qemu) = real_qemu() else {
        println!("skipped: there is no qemu-system-x86_64 on the search path to compare with");
        return;
    };
    for (arguments, reason) in [
        (
            ["-add-fd", "fd=77,set=1"],
            "fd is not valid or already in use",
        ),
        (
            ["-add-fd", "fd=1,set=1"],
            "fd cannot be a standard I/O stream",
        ),
        (
            ["-chardev", "file,id=casemate-console,path=/dev/fdset/9"],
            "Could not open '/dev/fdset/9': No such file or directory",
        ),
        // A pipe cannot be truncated.
        (
            ["-chardev", "file,id=casemate-console,path=/dev/fdset/7"],
            "Could not open '/dev/fdset/7': Invalid argument",
        ),
        (["-action", "reboot=x"], "does not accept value 'x'"),
    ] {
        for program in [&qemu, &fake()] {
            let folder = tempfile::tempdir().expect("a folder");
            let mut machine = Running::bare(program, folder, &arguments);
            assert_eq!(machine.wait().code(), Some(1), "{arguments:?}");
            let stderr = machine.stderr();
            assert!(
                stderr.contains(reason),
                "{} {arguments:?}: {stderr}",
                program.display()
            );
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Real,
    Fake,
}

fn talk(program: &Path, arguments: &[&str], steps: &[Step], side: Side) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let boot = steps.iter().find_map(|step| match step {
        Guest(code, ..) => Some(*code),
        _ => None,
    });
    let image = folder.path().join("boot.img");
    std::fs::write(&image, boot_sector(boot.unwrap_or_default())).expect("an image");
    let drive = format!("if=none,id=d,format=raw,file={}", image.display());
    let mut all = vec![
        "-drive",
        &drive,
        "-device",
        "ide-hd,drive=d",
        "-device",
        "pvpanic",
    ];
    all.extend(arguments);
    let mut machine = Running::start(program, folder, &all);
    machine.negotiate();
    for step in steps {
        match step {
            Ask(command, arguments) => {
                let arguments: Value = serde_json::from_str(arguments).expect("JSON");
                machine.ask(command, arguments);
            }
            Send(signal) => {
                machine.signal(*signal);
                machine.listen();
            }
            Reconnect => assert!(machine.connect(), "no greeting"),
            Guest(_, signal, last) => {
                if side == Side::Fake {
                    machine.signal(*signal);
                    machine.log.pop();
                }
                machine.listen_for(last);
            }
        }
    }
    machine.listen();
    machine.note_end();
    std::mem::take(&mut machine.log)
}

fn boot_sector(code: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 1 << 20];
    image[..code.len()].copy_from_slice(code);
    image[code.len()..code.len() + HALT.len()].copy_from_slice(HALT);
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    image
}

fn real_qemu() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join("qemu-system-x86_64"))
        .find(|program| program.is_file())
}
