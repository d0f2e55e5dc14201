//! Tables of requests and what becomes of them, and a property: no input makes the plan panic or
//! say something that is not safe to show.

use super::*;
use crate::check::check;
use casemate_backend::arbitrary;
use casemate_backend::bindings::casemate::tee::types::{
    BootInputs, Choice, ErrorCode, Firmware, HostContext, HostDevice, HostFile, Identity, Setting,
    Severity, Value,
};
use casemate_backend::facts::QemuFacts;
use casemate_backend::memory::property;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn facts() -> Facts {
    Facts {
        kvm_device: Ok(()),
        qemu: QemuFacts {
            version: Ok("7.2.22".to_owned()),
            machine: Ok("pc-q35-7.2".to_owned()),
            machine_type: Ok(()),
            cpu_model: Ok(()),
        },
    }
}

fn file(id: u32, role: &str, origin: Origin) -> HostFile {
    HostFile {
        id,
        role: role.to_owned(),
        label: format!("{role}, with \"blanks\""),
        size: 1 << 16,
        origin,
    }
}

fn request() -> LaunchRequest {
    LaunchRequest {
        host: HostContext {
            architecture: "x86_64".to_owned(),
            accelerator: "kvm".to_owned(),
            settings: Vec::new(),
            files: vec![
                file(1, "kernel", Origin::Operator),
                file(2, "initrd", Origin::Operator),
            ],
        },
        vcpus: 4,
        memory_bytes: 2048 * MIB,
        boot: "kernel".to_owned(),
        machine: None,
        cpu: None,
        kernel_cmdline: "quiet console=null".to_owned(),
        devices: Vec::new(),
        identity: None,
        extras: Vec::new(),
    }
}

fn choice(value: &str, origin: Origin) -> Option<Choice> {
    Some(Choice {
        value: value.to_owned(),
        origin,
    })
}

fn set(request: &mut LaunchRequest, key: &str, value: Value, origin: Origin) {
    request.host.settings.push(Setting {
        key: key.to_owned(),
        value,
        origin,
    });
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn planned(request: &LaunchRequest) -> LaunchPlan {
    plan(request, &facts()).expect("nothing stands in the way")
}

fn refused(request: &LaunchRequest) -> Error {
    plan(request, &facts()).expect_err("something stands in the way")
}

fn finding_ids(plan: &LaunchPlan) -> Vec<&str> {
    plan.findings.iter().map(|f| f.id.as_str()).collect()
}

#[test]
fn the_default_request_gives_the_predecessors_machine() {
    let plan = planned(&request());
    assert_eq!(plan.machine.kind, "pc-q35-7.2");
    assert_eq!(plan.cpu.kind, "EPYC");
    assert_eq!(plan.smp, [property("maxcpus", Value::Unsigned(64))]);
    assert_eq!(
        plan.memory,
        [
            property("slots", Value::Unsigned(5)),
            property("maxmem", Value::Unsigned(30 << 30)),
        ]
    );
    let backend = plan.memory_backend.clone().expect("memory has an object");
    assert_eq!(backend.kind, "memory-backend-ram");
    assert_eq!(backend.id.as_deref(), Some("ram1"));
    assert_eq!(plan.guard, None);
    assert_eq!(plan.firmware, Firmware::None);
    assert_eq!(plan.boot, BootInputs::all());
    assert_eq!(finding_ids(&plan), ["measurement.none"]);
}

#[test]
fn machines() {
    let absent = Err(FactError::Absent);
    let denied = Err(FactError::Denied);
    let failed = Err(FactError::Failed("QEMU\ndied".to_owned()));
    for (named, versioned, expected) in [
        ("q35", Ok("pc-q35-7.2"), Ok("pc-q35-7.2")),
        ("pc", Ok("pc-i440fx-7.2"), Ok("pc-i440fx-7.2")),
        ("pc", denied.clone(), Ok("pc")),
        ("pc-q35-10.0", Ok("pc-q35-10.0"), Ok("pc-q35-10.0")),
        ("quux", absent.clone(), Err(ErrorCode::InvalidRequest)),
        ("microvm", Ok("microvm"), Err(ErrorCode::InvalidRequest)),
        ("none", denied.clone(), Err(ErrorCode::InvalidRequest)),
        ("q35,kernel=x", absent, Err(ErrorCode::InvalidRequest)),
        ("", denied, Err(ErrorCode::InvalidRequest)),
        ("q35", failed, Err(ErrorCode::Unavailable)),
        (
            "q35",
            Ok("pc-q35-7.2,kernel=x"),
            Err(ErrorCode::InvalidRequest),
        ),
    ] {
        let mut request = request();
        request.machine = choice(named, Origin::Request);
        let mut facts = facts();
        facts.qemu.machine_type = versioned.clone().map(|_| ());
        facts.qemu.machine = versioned.map(str::to_owned);
        match (plan(&request, &facts), expected) {
            (Ok(plan), Ok(kind)) => assert_eq!(plan.machine.kind, kind),
            (Err(error), Err(code)) => {
                assert_eq!(
                    (error.code, error.subject.as_str()),
                    (code, "machine"),
                    "{named}"
                );
            }
            (got, expected) => panic!("{named}: {got:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn cpu_models() {
    let absent = Err(FactError::Absent);
    for (named, origin, fact, accelerator, expected) in [
        ("EPYC-v4", Origin::Request, Ok(()), "kvm", Some("EPYC-v4")),
        ("host", Origin::Operator, Ok(()), "kvm", Some("host")),
        ("host", Origin::Operator, Ok(()), "tcg", None),
        (
            "max",
            Origin::Request,
            Err(FactError::Denied),
            "tcg",
            Some("max"),
        ),
        ("EPYC", Origin::BuiltIn, absent.clone(), "kvm", Some("max")),
        ("EPYC", Origin::Operator, absent.clone(), "kvm", None),
        ("EPYC", Origin::Request, absent.clone(), "kvm", None),
        ("EPYC,-avx", Origin::Request, absent, "kvm", None),
    ] {
        let mut request = request();
        request.host.accelerator = accelerator.to_owned();
        request.cpu = choice(named, origin);
        let mut facts = facts();
        facts.qemu.cpu_model = fact;
        match (plan(&request, &facts), expected) {
            (Ok(plan), Some(model)) => {
                assert_eq!(plan.cpu.kind, model);
                let replaced = finding_ids(&plan).contains(&"cpu.model-replaced");
                assert_eq!(replaced, model != named);
            }
            (Err(error), None) => assert_eq!(error.subject, "cpu"),
            (got, expected) => panic!("{named}: {got:?}, expected {expected:?}"),
        }
    }
}

/// What a row of the size table expects.
enum Growth {
    Rendered,
    LeftOut(&'static str),
    Silent,
    Error(&'static str),
}

#[test]
fn growth_of_memory() {
    use Growth::{Error, LeftOut, Rendered, Silent};
    let left_out = || LeftOut("memory.growth-left-out");
    let built_in = Origin::BuiltIn;
    let rows = [
        (2048 * MIB, 5, built_in, 30 << 30, built_in, Rendered),
        (64 << 30, 5, built_in, 30 << 30, built_in, left_out()),
        (30 << 30, 5, built_in, 30 << 30, built_in, left_out()),
        (2048 * MIB, 0, Origin::Operator, 30 << 30, built_in, Silent),
        (
            2048 * MIB,
            0,
            Origin::Operator,
            30 << 30,
            Origin::Operator,
            left_out(),
        ),
        (
            2048 * MIB,
            0,
            Origin::Operator,
            30 << 30,
            Origin::Request,
            Error("max-memory"),
        ),
        (
            2048 * MIB,
            5,
            built_in,
            1 << 30,
            Origin::Operator,
            Error("max-memory"),
        ),
        (
            2048 * MIB,
            5,
            built_in,
            1 << 30,
            Origin::Request,
            Error("max-memory"),
        ),
        (
            2048 * MIB,
            5,
            built_in,
            2048 * MIB,
            Origin::Request,
            left_out(),
        ),
        (
            2048 * MIB,
            5,
            built_in,
            (4 << 30) + 1,
            Origin::Request,
            Error("max-memory"),
        ),
        (
            2048 * MIB,
            257,
            Origin::Operator,
            30 << 30,
            built_in,
            Error("memory-slots"),
        ),
        (
            2048 * MIB + 1,
            5,
            built_in,
            30 << 30,
            built_in,
            Error("memory-bytes"),
        ),
        (0, 5, built_in, 30 << 30, built_in, Error("memory-bytes")),
        (
            u64::MAX,
            5,
            built_in,
            u64::MAX,
            Origin::Request,
            Error("memory-bytes"),
        ),
    ];
    for (row, (bytes, slots, slots_by, most, most_by, expected)) in rows.into_iter().enumerate() {
        let mut request = request();
        request.memory_bytes = bytes;
        set(
            &mut request,
            "memory-slots",
            Value::Unsigned(slots),
            slots_by,
        );
        set(&mut request, "max-memory", Value::Unsigned(most), most_by);
        match (plan(&request, &facts()), expected) {
            (Ok(plan), Rendered) => assert_eq!(plan.memory.len(), 2, "row {row}"),
            (Ok(plan), Silent) => {
                assert_eq!(
                    (plan.memory.len(), plan.findings.len()),
                    (0, 1),
                    "row {row}"
                );
            }
            (Ok(plan), LeftOut(id)) => {
                assert!(plan.memory.is_empty(), "row {row}");
                assert!(finding_ids(&plan).contains(&id), "row {row}");
            }
            (Err(error), Error(subject)) => assert_eq!(error.subject, subject, "row {row}"),
            (got, _) => panic!("row {row}: {got:?}"),
        }
    }
}

#[test]
fn growth_of_vcpus() {
    use Growth::{Error, LeftOut, Rendered, Silent};
    let built_in = Origin::BuiltIn;
    for (vcpus, most, by, expected) in [
        (4, 64, built_in, Rendered),
        (64, 64, built_in, Silent),
        (64, 64, Origin::Request, Silent),
        (65, 64, built_in, LeftOut("smp.maxcpus-left-out")),
        (65, 64, Origin::Operator, Error("maxcpus")),
        (4, 2, Origin::Request, Error("maxcpus")),
        (4, u64::MAX, Origin::Request, Error("maxcpus")),
        (0, 64, built_in, Error("vcpus")),
        (u32::MAX, 64, built_in, Error("vcpus")),
    ] {
        let mut request = request();
        request.vcpus = vcpus;
        set(&mut request, "maxcpus", Value::Unsigned(most), by);
        match (plan(&request, &facts()), expected) {
            (Ok(plan), Rendered) => assert_eq!(plan.smp.len(), 1),
            (Ok(plan), Silent) => assert_eq!((plan.smp.len(), plan.findings.len()), (0, 1)),
            (Ok(plan), LeftOut(id)) => assert!(finding_ids(&plan).contains(&id)),
            (Err(error), Error(subject)) => assert_eq!(error.subject, subject),
            (got, _) => panic!("{vcpus} of {most}: {got:?}"),
        }
    }
}

/// `none`, `bios:ID`, `pflash:CODE` or `pflash:CODE+VARS`.
fn firmware_in_short(firmware: &Firmware) -> String {
    match firmware {
        Firmware::None => "none".to_owned(),
        Firmware::Bios(id) => format!("bios:{id}"),
        Firmware::Igvm(id) => format!("igvm:{id}"),
        Firmware::Pflash(pflash) => match pflash.vars_template {
            Some(vars) => format!("pflash:{}+{vars}", pflash.code),
            None => format!("pflash:{}", pflash.code),
        },
    }
}

#[test]
fn firmware_follows_the_files_and_the_setting() {
    const CODE: (u32, &str, Origin) = (10, "firmware-code", Origin::Operator);
    const VARS: (u32, &str, Origin) = (11, "firmware-vars", Origin::Operator);
    const COMBINED: (u32, &str, Origin) = (12, "firmware", Origin::Operator);
    const NAMED_COMBINED: (u32, &str, Origin) = (12, "firmware", Origin::Request);
    const NAMED_CODE: (u32, &str, Origin) = (10, "firmware-code", Origin::Request);
    const NAMED_IGVM: (u32, &str, Origin) = (13, "igvm", Origin::Request);
    type Row<'a> = (
        &'a str,
        &'a [(u32, &'a str, Origin)],
        Result<&'a str, &'a str>,
    );
    let rows: &[Row<'_>] = &[
        ("auto", &[], Ok("none")),
        ("auto", &[CODE, VARS], Ok("pflash:10+11")),
        ("auto", &[CODE], Ok("pflash:10")),
        ("auto", &[COMBINED], Ok("bios:12")),
        ("auto", &[CODE, VARS, COMBINED], Ok("pflash:10+11")),
        ("auto", &[CODE, VARS, NAMED_COMBINED], Ok("bios:12")),
        ("auto", &[NAMED_CODE, NAMED_COMBINED], Err("firmware")),
        ("auto", &[VARS], Ok("none")),
        ("auto", &[NAMED_IGVM], Err("igvm")),
        ("pflash", &[CODE, VARS, COMBINED], Ok("pflash:10+11")),
        ("pflash", &[COMBINED], Err("firmware-code")),
        ("pflash", &[CODE, NAMED_COMBINED], Err("firmware")),
        ("bios", &[CODE, VARS, COMBINED], Ok("bios:12")),
        ("bios", &[CODE, VARS], Err("firmware")),
        ("none", &[CODE, VARS, COMBINED], Ok("none")),
        ("none", &[NAMED_COMBINED], Err("firmware")),
        ("quux", &[], Err("firmware")),
    ];
    for (setting, files, expected) in rows {
        let mut request = request();
        set(&mut request, "firmware", text(setting), Origin::Operator);
        for (id, role, origin) in *files {
            request.host.files.push(file(*id, role, *origin));
        }
        let got = plan(&request, &facts());
        match (&got, expected) {
            (Ok(plan), Ok(short)) => assert_eq!(&firmware_in_short(&plan.firmware), short),
            (Err(error), Err(subject)) => assert_eq!(&error.subject, subject),
            _ => panic!("{setting} with {files:?}: {got:?}"),
        }
    }
}

#[test]
fn a_bios_is_of_whole_pieces() {
    for (size, fits) in [(1 << 16, true), (3_653_632, false), (1, false), (0, false)] {
        let mut request = request();
        request.host.files.push(HostFile {
            size,
            ..file(10, "firmware", Origin::Operator)
        });
        assert_eq!(plan(&request, &facts()).is_ok(), fits, "{size}");
    }
}

#[test]
fn flash_chips() {
    for (code, vars, with_vars, expected) in [
        (0, 1, true, None),
        (1, 0, true, None),
        (0, 0, false, None),
        (0, 0, true, Some("pflash-vars-unit")),
        (0, 2, true, Some("pflash-vars-unit")),
        (1, 0, false, Some("pflash-code-unit")),
        (u64::MAX, 1, true, Some("pflash-code-unit")),
    ] {
        let mut request = request();
        request
            .host
            .files
            .push(file(10, "firmware-code", Origin::Operator));
        if with_vars {
            request
                .host
                .files
                .push(file(11, "firmware-vars", Origin::Operator));
        }
        set(
            &mut request,
            "pflash-code-unit",
            Value::Unsigned(code),
            Origin::Operator,
        );
        set(
            &mut request,
            "pflash-vars-unit",
            Value::Unsigned(vars),
            Origin::Operator,
        );
        let subject = plan(&request, &facts()).err().map(|error| error.subject);
        assert_eq!(subject.as_deref(), expected, "{code} and {vars}");
    }
}

#[test]
fn boot_takes_what_it_needs_and_no_more() {
    let disk = || HostDevice {
        kind: "disk".to_owned(),
        id: "disk0".to_owned(),
        properties: Vec::new(),
    };
    let mut from_disk = request();
    from_disk.boot = "disk".to_owned();
    assert_eq!(refused(&from_disk).subject, "disk");
    from_disk.devices.push(disk());
    assert_eq!(planned(&from_disk).boot, BootInputs::empty());

    from_disk.host.files = vec![file(2, "initrd", Origin::Operator)];
    let plan = planned(&from_disk);
    assert!(finding_ids(&plan).contains(&"boot.initrd-unused"));

    from_disk.host.files = vec![file(1, "kernel", Origin::Request)];
    assert_eq!(refused(&from_disk).subject, "kernel");

    let mut from_kernel = request();
    from_kernel.kernel_cmdline.clear();
    from_kernel.host.files.pop();
    assert_eq!(planned(&from_kernel).boot, BootInputs::KERNEL);
    from_kernel.host.files[0].size = 0;
    assert_eq!(refused(&from_kernel).code, ErrorCode::UnsuitableFile);
    from_kernel.host.files.clear();
    assert_eq!(refused(&from_kernel).subject, "kernel");

    let mut other = request();
    other.boot = "floppy".to_owned();
    assert_eq!(refused(&other).subject, "boot");
}

#[test]
fn an_identity_is_refused_and_not_dropped() {
    let mut request = request();
    request.identity = Some(Identity {
        algorithm: "sha-256".to_owned(),
        digest: vec![7; 32],
    });
    assert_eq!(refused(&request).subject, "identity");
}

#[test]
fn settings_of_the_wrong_form_name_their_key() {
    for (key, value) in [
        ("memory-slots", text("five")),
        ("max-memory", Value::Integer(-1)),
        ("maxcpus", Value::Boolean(true)),
        ("memory-id", text("9ram")),
        ("memory-id", text("casemate-ram")),
        ("memory-id", text("a,b")),
        ("memory-backend", text("file")),
        ("firmware", Value::Unsigned(1)),
        ("pflash-code-readonly", text("on")),
        ("pflash-vars-format", text("vmdk")),
    ] {
        let mut request = request();
        set(&mut request, key, value, Origin::Operator);
        assert_eq!(refused(&request).subject, key);
    }
}

#[test]
fn check_and_plan_agree_about_the_host() {
    type Breakage = (&'static str, fn(&mut Facts));
    let broken: &[Breakage] = &[
        ("/dev/kvm", |facts| {
            facts.kvm_device = Err(FactError::Absent);
        }),
        ("/dev/kvm", |facts| {
            facts.kvm_device = Err(FactError::Failed("EACCES".to_owned()));
        }),
        ("qemu-version", |facts| {
            facts.qemu.version = Ok("6.2.0".to_owned());
        }),
        ("qemu-version", |facts| {
            facts.qemu.version = Err(FactError::Absent);
        }),
    ];
    for (subject, break_it) in broken {
        let mut facts = facts();
        break_it(&mut facts);
        let error = plan(&request(), &facts).expect_err("the host cannot do it");
        assert_eq!(
            (&error.code, error.subject.as_str()),
            (&ErrorCode::UnsupportedHost, *subject)
        );
        let findings = check(&request().host, &facts);
        let first_failure = findings.iter().find(|f| f.severity == Severity::Fail);
        assert_eq!(first_failure.map(|f| f.subject.as_str()), Some(*subject));
    }
    let mut not_granted = facts();
    not_granted.kvm_device = Err(FactError::Denied);
    let findings = check(&request().host, &not_granted);
    let kvm = findings
        .iter()
        .find(|f| f.id == "kvm.device")
        .expect("it is always said");
    assert_eq!(kvm.severity, Severity::Warn);
    assert!(kvm.remedy.contains("grants"));
    assert!(
        check(&request().host, &facts())
            .iter()
            .all(|f| f.severity != Severity::Fail)
    );
}

#[test]
fn every_emitted_type_is_announced() {
    let info = crate::describe::describe();
    for backend in ["ram", "memfd", "none"] {
        let mut request = request();
        set(
            &mut request,
            "memory-backend",
            text(backend),
            Origin::Operator,
        );
        let Some(object) = planned(&request).memory_backend else {
            continue;
        };
        let announced = info
            .objects
            .iter()
            .find(|used| used.kind == object.kind)
            .expect("the type is announced");
        for property in &object.properties {
            assert!(announced.properties.contains(&property.path));
        }
    }
}

// ---- Whatever comes in ---------------------------------------------------------------------------

prop_compose! {
    fn any_facts()(
        kvm_device in arbitrary::answer(Just(())),
        qemu in arbitrary::qemu_facts("pc-q35-10.0"),
    ) -> Facts {
        Facts { kvm_device, qemu }
    }
}

proptest! {
    #[test]
    fn any_input_gets_an_answer_that_is_safe_to_show(
        request in arbitrary::request(crate::settings::announced(), 1 << 16),
        facts in any_facts(),
    ) {
        assert!(arbitrary::findings_are_harmless(&check(&request.host, &facts)));
        match plan(&request, &facts) {
            Ok(plan) => {
                assert!(arbitrary::plan_is_harmless(&plan));
                assert!(plan.findings.iter().all(|f| f.severity != Severity::Fail));
                assert!(plan.findings.iter().any(|f| f.id == "measurement.none"));
                assert!(plan.guard.is_none());
            }
            Err(error) => assert!(arbitrary::refusal_is_complete(&error), "{error:?}"),
        }
    }
}
