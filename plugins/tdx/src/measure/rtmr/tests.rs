//! Values of RTMRs, and why there is none.

use casemate_backend::bindings::casemate::tee::facts::FactError;
use casemate_backend::bindings::casemate::tee::types::{Firmware, HostDevice, Value};
use casemate_backend::memory::property;

use super::super::measure;
use super::super::tests::{
    Contents, FIRMWARE, INITRD, KERNEL, from_kernel, in_words, kernel, launch, named_one, put,
    qemu, request, set,
};
use super::*;

fn value(
    name: &str,
    request: &LaunchRequest,
    boot: BootInputs,
    facts: &MeasureFacts,
    contents: &Contents,
) -> String {
    let launch = launch(Firmware::Bios(FIRMWARE), boot, Vec::new());
    let registers = measure(request, &launch, facts, contents).expect("it is good");
    in_words(named_one(&registers, name))
}

/// As those who verify TDX guests found them in event logs (dstack, canonical/tdx).
#[test]
fn events_have_the_digests_of_real_logs() {
    for (event, expected) in [
        (
            SEPARATOR,
            "394341b7182cd227c5c6b07ef8000cdfd86136c4292b8e576573ad7ed9ae41019f5818b4b971c9effc60e1ad9f1289f0",
        ),
        (
            CALLING,
            "77a0dab2312b4e1e57a84d865a21e5b2ee8d677a21012ada819d0a98988078d3d740f6346bfe0abaa938ca20439a8d71",
        ),
        (
            EXITING,
            "214b0bef1379756011344877743fdc2a5382bac6e70362d624ccf3f654407c1b4badf7d8f9295dd3dabdef65b27677e0",
        ),
        (
            EXITED,
            "0a2e01c85deae718a530ad8c6d20a84009babe6c8989269e950d8cf440c6e997695e64d455c4174a652cd080f6230b74",
        ),
    ] {
        assert_eq!(hex(&sha384(event)), expected);
    }
    // dstack's recipe for a command line, to which its caller adds initrd=initrd.
    let events = [
        load_options("console=ttyS0"),
        sha384(&vec![b'I'; 512 << 10]),
    ];
    assert_eq!(
        hex(&replay(&events)),
        "3474eadb28917e1b52b4773ee3698a34932b604e9b5219a8df9c4754c4bfa48e531bac9f0eb9ab12c223bb2ef0d5724c"
    );
}

/// A byte is a unit: 0xc3 0xa4 is what UTF-8 has for one letter.
#[test]
fn the_firmware_widens_each_byte_of_a_command_line() {
    assert_eq!(load_options("ä"), sha384(&[0xc3, 0, 0xa4, 0, 0, 0]));
}

#[test]
fn rtmr0_is_that_of_the_setting_or_unknown() {
    let contents = Contents::good();
    let mut request = request(&contents);
    let all = BootInputs::all();
    let reason = value("rtmr0", &request, all, &qemu("11.1.3"), &contents);
    assert!(reason.contains("ACPI tables"), "{reason}");
    set(&mut request, "tdx-rtmr0", Value::Bytes(vec![0xc0; 48]));
    let registers = measure(&request, &from_kernel(), &qemu("11.1.3"), &contents);
    let registers = registers.expect("it is good");
    let rtmr0 = named_one(&registers, "rtmr0");
    assert_eq!(in_words(rtmr0), "c0".repeat(48));
    assert_eq!(rtmr0.aliases.len(), 1);
    assert_eq!(
        (&*rtmr0.inputs[0].name, &*rtmr0.inputs[0].source),
        ("tdx-rtmr0", "setting")
    );
}

#[test]
fn rtmr1_has_the_kernel_and_the_last_steps_of_the_firmware() {
    let contents = Contents::good();
    // Of Python: hashlib, and the kernel's digest of signify.
    let with = "ad0e8d8e9d552f46393a06df4a65c24b290ee459f9afe3cabc3a5cc62a2f185efc5d75fb00cb4435e5219b6a5eeb08e6";
    let without = "ce0b93d55046d7bd41a38122b0fdd9d308a9a8bb5a711791690300be89e02812d0847da4e08a80e1c7befc1617eb63a3";
    let both = format!("{with} {without}");
    for (setting, expected) in [("auto", both.as_str()), ("yes", with), ("no", without)] {
        let mut request = request(&contents);
        set(&mut request, "tdx-rtmr1-separator", text(setting));
        let found = value(
            "rtmr1",
            &request,
            BootInputs::all(),
            &qemu("10.2.0"),
            &contents,
        );
        assert_eq!(found, expected, "{setting}");
    }
}

#[test]
fn rtmr1_is_unknown_where_something_else_is_measured() {
    let good = Contents::good();
    let boot = BootInputs::all();
    for (facts, expected) in [
        (
            qemu("10.1.9"),
            "QEMU is `10.1.9`, and QEMU before 10.2 writes into the kernel's header before the \
             firmware measures it",
        ),
        (qemu("x"), "QEMU is `x`, and"),
        (
            MeasureFacts {
                qemu_version: Err(FactError::Absent),
            },
            "there is no QEMU on this host, and",
        ),
        (
            MeasureFacts {
                qemu_version: Err(FactError::Failed("it\nfell".to_owned())),
            },
            "QEMU did not tell its version: it fell, and",
        ),
    ] {
        let found = value("rtmr1", &request(&good), boot, &facts, &good);
        assert!(found.starts_with(expected), "{found}");
    }
    let mut no_magic = kernel("6.12.5");
    put(&mut no_magic, 0x202, b"XdrS");
    for (kernel, expected) in [
        (
            b"bzImage".to_vec(),
            "the kernel is no EFI application that firmware for x86_64 starts",
        ),
        (no_magic, "the kernel is no Linux kernel image (bzImage)"),
    ] {
        let contents = good.clone().with(KERNEL, kernel);
        for name in ["rtmr1", "rtmr2"] {
            let found = value(name, &request(&contents), boot, &qemu("10.2.0"), &contents);
            assert!(found.starts_with(expected), "{name} {found}");
        }
    }
}

#[test]
fn rtmr1_is_unknown_where_a_device_may_have_an_option_rom() {
    let contents = Contents::good();
    let device = |kind: &str, properties| HostDevice {
        kind: kind.to_owned(),
        id: "dev0".to_owned(),
        properties,
    };
    let none = || vec![property("romfile", text(""))];
    let some = || vec![property("romfile", text("/x.rom"))];
    for (device, known) in [
        (device("net", none()), true),
        (device("vfio", none()), true),
        (device("disk", Vec::new()), true),
        (device("net", Vec::new()), false),
        (device("net", some()), false),
        (device("vfio", Vec::new()), false),
    ] {
        let mut request = request(&contents);
        request.devices = vec![device.clone()];
        let found = value(
            "rtmr1",
            &request,
            BootInputs::all(),
            &qemu("10.2.0"),
            &contents,
        );
        let unknown = "device `dev0` may have an option ROM, which the firmware measures too";
        assert_eq!(found != unknown, known, "{device:?} {found}");
    }
}

#[test]
fn rtmr2_has_what_the_kernel_was_given() {
    let contents = Contents::good();
    // Of Python, hashlib: command lines are `initrd=initrd console=ttyS0` and
    // `console=ttyS0 initrd=initrd`.
    let first = "40aa5427bae9d89b6ca937b027e5d076bbf053ed59c4bf2b343734f00484f9c01144078a0fabbbaa88e9e1421c3f3a2e";
    let last = "f5e32fbd0e999ba7588729619e41e04469819d0dbdd47a7ab6fc089de45ca81e391d900dc8f58c0f93b7892189d71c2f";
    let both = format!("{first} {last}");
    let cmdline_only = "36482cf4d077603c0123f112545737a9b4f47ee76b20e1bc943e1ea5a03df893ebc47967930dcac5a72ab07b1122d47a";
    let empty_first = "3586ff3043ed5c20aae56b45c739fad9836edae3d5db4dcbed022238de4e54db444ff7be22e2cad9fee1fa0666166d3f";
    let empty_last = "49f39205614b6ff20c2ca067355dda828139491dcf969c7761d97d05ff2d4e85d44bd64bb0e5ee68150809eb1a737337";
    let (kernel, initrd, cmdline) = (BootInputs::KERNEL, BootInputs::INITRD, BootInputs::CMDLINE);
    let nothing = "there is neither a command line nor an initrd, so nothing is measured into it";
    for (boot, setting, expected) in [
        (kernel | initrd | cmdline, "auto", both.as_str()),
        (kernel | initrd | cmdline, "first", first),
        (kernel | initrd | cmdline, "last", last),
        (kernel | cmdline, "auto", cmdline_only),
        (kernel | cmdline, "last", cmdline_only),
        // Without a flag, QEMU gets no command line whatever the request has.
        (kernel | initrd, "first", empty_first),
        (kernel | initrd, "last", empty_last),
        (kernel, "auto", nothing),
    ] {
        let mut request = request(&contents);
        set(&mut request, "tdx-initrd-argument", text(setting));
        // It does not depend on QEMU.
        let found = value("rtmr2", &request, boot, &qemu("8.2.2"), &contents);
        assert_eq!(found, expected, "{boot:?} {setting}");
    }
    let no_initrd = Contents::good().with(INITRD, Vec::new());
    let found = value(
        "rtmr2",
        &request(&no_initrd),
        BootInputs::all(),
        &qemu("11.0.0"),
        &no_initrd,
    );
    assert_eq!(found, cmdline_only, "an empty initrd is none");
}

#[test]
fn rtmr2_is_unknown_where_the_kernel_does_not_measure() {
    let good = Contents::good();
    let mut no_pointer = kernel("6.12.5");
    put(&mut no_pointer, 0x20e, &[0, 0]);
    let mut far = kernel("6.12.5");
    put(&mut far, 0x20e, &[0xff, 0xff]);
    for (kernel, expected) in [
        (
            kernel("6.8.12-generic (a@b) #1"),
            "the kernel is Linux 6.8, and it measures its command line and initrd from 6.9 on only",
        ),
        (kernel("5.15.0"), "the kernel is Linux 5.15, and"),
        (
            kernel("now\u{1b}"),
            "the kernel's version `now ` has no two numbers",
        ),
        (no_pointer, "the kernel does not tell its version"),
        (
            far,
            "the kernel's version cannot be read: 0 bytes are wanted at 0x101ff",
        ),
    ] {
        let contents = good.clone().with(KERNEL, kernel);
        let found = value(
            "rtmr2",
            &request(&contents),
            BootInputs::all(),
            &qemu("11.0.0"),
            &contents,
        );
        assert!(found.starts_with(expected), "{found}");
    }
    let contents = good.with(KERNEL, kernel("6.9.0"));
    let found = value(
        "rtmr2",
        &request(&contents),
        BootInputs::all(),
        &qemu("11.0.0"),
        &contents,
    );
    assert_eq!(found.len(), 2 * 96 + 1, "{found}");
}

#[test]
fn a_boot_from_a_disk_has_neither() {
    let contents = Contents::good();
    for name in ["rtmr1", "rtmr2"] {
        let found = value(
            name,
            &request(&contents),
            BootInputs::empty(),
            &qemu("11.0.0"),
            &contents,
        );
        assert_eq!(found, "it depends on what the disk boots");
    }
}

#[test]
fn a_boot_file_that_is_not_there_is_refused() {
    let contents = Contents::good();
    for (role, boot) in [
        ("kernel", BootInputs::KERNEL),
        ("initrd", BootInputs::KERNEL | BootInputs::INITRD),
    ] {
        let mut request = request(&contents);
        request.host.files.retain(|file| file.role != role);
        let launch = launch(Firmware::Bios(FIRMWARE), boot, Vec::new());
        let error = measure(&request, &launch, &qemu("11.0.0"), &contents).expect_err(role);
        assert_eq!(error.subject, role);
    }
}
