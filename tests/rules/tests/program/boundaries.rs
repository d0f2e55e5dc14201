//! The accepting side of the rules: values at their limits, and other ways to write what is right.
//!
//! Where the limits come from is said at each table.

use crate::lists::Edit::{
    self, Guard, GuardBytes, Machine, NoGuard, NoMachine, Value, With, Without, World,
};
use crate::lists::{Base, Launch, broken};
use casemate_rules::Smt;

/// Each as another project or QEMU's documents write it.
#[rustfmt::skip]
const RIGHT: &[(Base, &[Edit])] = &[
    // kata gives maxcpus too, equal to the count.
    (Base::Snp, &[Value("-smp", "4,maxcpus=4")]),
    (Base::Tdx, &[Value("-smp", "cores=4,sockets=1,threads=1")]),
    // Canonical passes a GPU like this.
    (Base::Tdx, &[With(&["-object", "iommufd,id=iommufd0", "-device", "pcie-root-port,id=pci.0,bus=pcie.0", "-device", "vfio-pci,host=01:00.0,bus=pci.0,iommufd=iommufd0"])]),
    // QEMU merges a machine that is given twice.
    (Base::Snp, &[NoMachine("smm"), With(&["-machine", "smm=off"])]),
    (Base::Snp, &[NoMachine("kernel-irqchip"), With(&["-machine", "kernel_irqchip=on"])]),
    (Base::Snp, &[Without("-accel"), Machine("accel", "kvm")]),
    (Base::Tdx, &[Without("-accel"), With(&["-enable-kvm"])]),
    // dstack says what QEMU does by itself.
    (Base::Snp, &[With(&["-device", "virtio-blk-pci,disable-legacy=on,iommu_platform=true"])]),
    // coconut-svsm keeps graphics out by this.
    (Base::SnpIgvm, &[With(&["-vga", "none"])]),
    // The predecessor loads a kernel beside IGVM; its vTPM measures it.
    (Base::SnpIgvm, &[With(&["-kernel", "bzImage", "-initrd", "rootfs", "-append", "quiet"])]),
    // Without an area for hashes there is nothing to turn on.
    (Base::Snp, &[NoGuard("kernel-hashes"), World(|world| world.firmware.kernel_hash_area = false)]),
    // The policy of QEMU's default, with one socket, on a host without SMT, of an older ABI.
    (Base::Snp, &[Guard("policy", "1245184"), World(|world| world.snp_policy_bits = Some(0x1b_ffff))]),
    (Base::Snp, &[Guard("policy", "131072"), World(|world| { world.smt = Smt::Off; world.snp_policy_bits = Some(0x1b_ffff); })]),
    (Base::Snp, &[Guard("policy", "131072"), World(|world| { world.smt = Smt::Unknown; world.snp_policy_bits = Some(0x1b_ffff); })]),
    (Base::Snp, &[Guard("policy", "196919")]),
    (Base::Snp, &[Guard("policy", "2293760"), World(|world| world.snp_policy_bits = Some(0x3fb_ffff))]),
    // Sizes of qapi/qom.json.
    (Base::Snp, &[GuardBytes("id-block", 96), GuardBytes("id-auth", 4096), Guard("author-key-enabled", "true")]),
    (Base::Snp, &[GuardBytes("id-block", 96), GuardBytes("id-auth", 1)]),
    (Base::Snp, &[GuardBytes("guest-visible-workarounds", 16), Guard("vcek-disabled", "true"), Guard("sev-device", "\"/dev/sev\"")]),
    // An identity of another size is padded, and one that fills the field is not.
    (Base::Snp, &[GuardBytes("host-data", 32), World(|world| world.identity = Some(vec![9; 32]))]),
    (Base::Tdx, &[GuardBytes("mrconfigid", 48), World(|world| world.identity = Some(vec![9; 48]))]),
    (Base::Tdx, &[NoGuard("mrconfigid"), World(|world| world.identity = None)]),
    (Base::Tdx, &[Value("-cpu", "max")]),
    (Base::Tdx, &[Value("-cpu", "host,pmu=off,-avx10")]),
    (Base::Tdx, &[Value("-cpu", "host,tsc-frequency=2500000000")]),
    (Base::Tdx, &[Value("-smp", "64")]),
    // libvirt's attributes; PKS and PERFMON beside it.
    (Base::Tdx, &[Guard("attributes", "268435456"), Guard("sept-ve-disable", "true")]),
    (Base::Tdx, &[Guard("attributes", "9223372038196953088")]),
    (Base::Tdx, &[GuardBytes("mrowner", 48), GuardBytes("mrownerconfig", 48)]),
    // Canonical's and kata's socket; no socket.
    (Base::Tdx, &[Guard("quote-generation-socket", r#"{"type":"vsock","cid":"2","port":"4050"}"#)]),
    (Base::Tdx, &[NoGuard("quote-generation-socket")]),
    // From 61 GiB on whole GiB, below any MiB: canonical/tdx#421.
    (Base::Tdx, &[With(&["-machine", "memory-backend=ram1", "-object", "memory-backend-ram,id=ram1,size=61G"]), Value("-m", "61G")]),
    (Base::Tdx, &[With(&["-machine", "memory-backend=ram1", "-object", "memory-backend-ram,id=ram1,size=62463M"]), Value("-m", "62463M")]),
    (Base::Plain, &[With(&["-drive", "if=pflash,unit=0,file=code.fd", "-drive", "if=pflash,unit=1,file=vars.fd"])]),
    (Base::Plain, &[With(&["-drive", "if=pflash,file=code.fd", "-drive", "if=pflash,file=vars.fd"])]),
    (Base::Plain, &[Value("-m", "2G,slots=5,maxmem=10G"), Value("-smp", "4,maxcpus=64")]),
];

#[test]
fn what_is_right_breaks_no_rule() {
    for (base, edits) in RIGHT {
        let launch = Launch::of(*base).edited(edits);
        assert_eq!(broken(&launch), [""; 0], "{base:?}: {edits:?}");
    }
}

/// QEMU's target/i386/cpu.c: which versions have `complex_indexing`, that the PSP refuses
/// (NVIDIA/nvtrust#91). An alias stands for the first version.
#[test]
fn cpu_models_are_those_that_the_psp_takes() {
    const REFUSED: &[&str] = &["snp.cpu-model"];
    const BOTH: &[&str] = &["snp.cpu-model", "snp.cpu-versioned"];
    const ALIAS: &[&str] = &["snp.cpu-versioned"];
    let cases: &[(&str, &[&str])] = &[
        ("EPYC", BOTH),
        ("EPYC-v1", REFUSED),
        ("EPYC-v3", REFUSED),
        ("EPYC-v4", &[]),
        ("EPYC-v5", &[]),
        ("EPYC-IBPB", REFUSED),
        ("EPYC-Rome", BOTH),
        ("EPYC-Rome-v2", REFUSED),
        ("EPYC-Rome-v3", &[]),
        ("EPYC-Milan", BOTH),
        ("EPYC-Milan-v1", REFUSED),
        ("EPYC-Milan-v2", &[]),
        ("EPYC-Genoa", ALIAS),
        ("EPYC-Genoa-v1", &[]),
        ("EPYC-Turin", ALIAS),
        ("EPYC-Turin-v1", &[]),
        ("EPYC-v4,pmu=off,phys-bits=48", &[]),
        ("EPYC-v", REFUSED),
        ("host", REFUSED),
        ("max", REFUSED),
        ("qemu64", REFUSED),
        ("", REFUSED),
    ];
    for (model, expected) in cases {
        let mut launch = Launch::of(Base::Snp);
        let cpu = launch.argv.iter_mut().find(|text| *text == "EPYC-v4");
        (*model).clone_into(cpu.expect("it is there"));
        assert_eq!(broken(&launch), *expected, "{model}");
    }
}

/// The guard as an option string, as kata and dstack write it: QEMU takes decimal and hexadecimal
/// numbers there.
#[test]
fn an_snp_guard_may_be_an_option_string() {
    let good = "sev-snp-guest,id=cgs0,cbitpos=51,reduced-phys-bits=1,kernel-hashes=on";
    let cases: &[(&str, &[&str])] = &[
        (",policy=0x30000", &[]),
        (",policy=196608", &[]),
        (",policy=0x70000", &["snp.policy-migration"]),
        (",policy=thirty", &["snp.types"]),
        (",policy=196608,cbitpos=0x33", &[]),
        (",policy=196608,cbitpos=47", &["snp.cbitpos"]),
        (",policy=196608,kernel-hashes=off", &["snp.kernel-hashed"]),
        (
            ",policy=196608,kernel-hashes=maybe",
            &["snp.types", "snp.kernel-hashed"],
        ),
    ];
    for (more, expected) in cases {
        let mut launch = Launch::of(Base::Snp);
        launch.world.identity = None;
        let guard = launch
            .argv
            .iter_mut()
            .find(|text| text.contains("sev-snp-guest"));
        *guard.expect("there is one") = format!("{good}{more}");
        assert_eq!(broken(&launch), *expected, "{more}");
    }
}
