//! Lists of other projects. Nobody made them for this checker, so what it says of them is a test of
//! it: each list has the violations that its project's own threads and QEMU's sources explain, and
//! no others.
//!
//! Each list is put together from what its project's code or expected output has, with names of
//! ours; most parts that no rule looks at are left out. What was not read of a list is given as the
//! rules want it, so that nothing is held against a project that nobody saw. libvirt's are its tests' expected output,
//! kata is 7c6ba40, dstack 312dc60, coconut-svsm f4bc4bc, Canonical's tdx b24078e, Cocos 747aaaa.
//! They were read; none was run on hardware.

use casemate_rules::{RULES, Weight, World};

use crate::lists::{Launch, base64_of, broken, owned, world};

/// A project's list, and the ids of the rules that it breaks, in the table's order.
struct Case {
    project: &'static str,
    argv: Vec<String>,
    /// Other than [`world`], whose identity these lists do not have.
    change: fn(&mut World),
    /// The launch fails or protects less.
    imposed: &'static [&'static str],
    /// QEMU takes it.
    ours: &'static [&'static str],
}

fn as_it_is(_: &mut World) {}

fn case(project: &'static str, argv: &[&str]) -> Case {
    Case {
        project,
        argv: owned(argv),
        change: as_it_is,
        imposed: &[],
        ours: &[],
    }
}

fn libvirt_snp() -> Case {
    let guard = format!(
        r#"{{"qom-type":"sev-snp-guest","id":"lsec0","cbitpos":47,"reduced-phys-bits":1,"policy":196608,"guest-visible-workarounds":"{}","id-block":"{}","id-auth":"{}","host-data":"{}","author-key-enabled":true,"vcek-disabled":true}}"#,
        base64_of(&[1; 16]),
        base64_of(&[2; 96]),
        base64_of(&[3; 4096]),
        base64_of(&[4; 32]),
    );
    Case {
        change: |world| world.cbit = Some(47),
        // Its pflash is older than the rule against it, and its model is that of any guest: what is
        // expected there is the text that libvirt makes, not a guest that boots.
        imposed: &["snp.no-pflash", "snp.one-bios", "snp.cpu-model"],
        ours: &[
            "tee.smm-said",
            "tee.irqchip-said",
            "tee.smp-said",
            "tee.no-reboot",
        ],
        ..case(
            "libvirt, SEV-SNP",
            &[
                "-machine",
                "pc-q35-8.2,usb=off,dump-guest-core=off,memory-backend=pc.ram,confidential-guest-support=lsec0,pflash0=libvirt-pflash0-format,acpi=on",
                "-accel",
                "kvm",
                "-cpu",
                "qemu64",
                "-m",
                "size=219136k",
                "-object",
                r#"{"qom-type":"memory-backend-ram","id":"pc.ram","size":224395264}"#,
                "-overcommit",
                "mem-lock=off",
                "-display",
                "none",
                "-no-user-config",
                "-nodefaults",
                "-chardev",
                "socket,id=charmonitor,fd=1729,server=on,wait=off",
                "-mon",
                "chardev=charmonitor,id=monitor,mode=control",
                "-no-shutdown",
                "-object",
                &guard,
                "-sandbox",
                "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            ],
        )
    }
}

fn libvirt_tdx() -> Case {
    let register = base64_of(&[1; 48]);
    let guard = format!(
        r#"{{"qom-type":"tdx-guest","id":"lsec0","mrconfigid":"{register}","mrowner":"{register}","mrownerconfig":"{register}","quote-generation-socket":{{"type":"unix","path":"/var/run/tdx-qgs/qgs.socket"}},"attributes":268435456}}"#
    );
    Case {
        // Four sockets are what libvirt makes of four vCPUs without a topology; its template for
        // TDX asks for one. Accelerator, CPU, firmware and the list's end were not read.
        imposed: &["tdx.topology"],
        ours: &[
            "tee.machine-versioned",
            "tee.smm-said",
            "tee.irqchip-said",
            "tdx.hpet",
        ],
        ..case(
            "libvirt, TDX",
            &[
                "-machine",
                "q35,usb=off,dump-guest-core=off,memory-backend=pc.ram,confidential-guest-support=lsec0,acpi=off",
                "-accel",
                "kvm",
                "-cpu",
                "host",
                "-bios",
                "OVMF.fd",
                "-m",
                "size=4194304k",
                "-object",
                r#"{"qom-type":"memory-backend-ram","id":"pc.ram","size":4294967296}"#,
                "-overcommit",
                "mem-lock=off",
                "-smp",
                "4,sockets=4,cores=1,threads=1",
                "-display",
                "none",
                "-no-user-config",
                "-nodefaults",
                "-no-reboot",
                "-object",
                &guard,
            ],
        )
    }
}

/// Of kata the machine, CPU, memory, firmware and guard were read.
fn kata_runtime_rs_snp() -> Case {
    Case {
        // 5 is CPUID's value on Milan, which kata passes on.
        ours: &[
            "tee.machine-versioned",
            "tee.smm-said",
            "tee.memory-named",
            "snp.reduced-phys-bits",
        ],
        ..case(
            "kata runtime-rs, SEV-SNP",
            &[
                "-machine",
                "q35,accel=kvm,kernel_irqchip=split,confidential-guest-support=snp",
                "-cpu",
                "EPYC-v4",
                "-smp",
                "1,maxcpus=1",
                "-m",
                "2048M",
                "-object",
                "sev-snp-guest,id=snp,cbitpos=51,reduced-phys-bits=5,kernel-hashes=on,policy=0x30000",
                "-bios",
                "AMDSEV.fd",
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
                "-kernel",
                "vmlinuz",
                "-append",
                "console=hvc0",
            ],
        )
    }
}

fn kata_go_snp() -> Case {
    let host_data = base64_of(&[5; 32]);
    let guard = format!(
        "sev-snp-guest,id=snp,cbitpos=51,reduced-phys-bits=1,kernel-hashes=on,policy=196608,host-data={host_data}"
    );
    Case {
        ours: &["tee.machine-versioned", "tee.smm-said", "tee.memory-named"],
        ..case(
            "kata, SEV-SNP",
            &[
                "-machine",
                "q35,accel=kvm,kernel_irqchip=split,confidential-guest-support=snp",
                "-cpu",
                "EPYC-v4,pmu=off,phys-bits=48",
                "-smp",
                "1",
                "-m",
                "2048M",
                "-object",
                &guard,
                "-bios",
                "AMDSEV.fd",
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
                "-kernel",
                "vmlinuz",
                "-append",
                "console=hvc0",
            ],
        )
    }
}

/// kata's code for TDX, with what its two runtimes add to the guard. Machine and guard were read.
fn kata_tdx(project: &'static str, guard: &str, imposed: &'static [&'static str]) -> Case {
    Case {
        imposed,
        ours: &[
            "tee.machine-versioned",
            "tee.smm-said",
            "tee.memory-named",
            "tdx.hpet",
        ],
        ..case(
            project,
            &[
                "-machine",
                "q35,accel=kvm,kernel_irqchip=split,confidential-guest-support=tdx",
                "-cpu",
                "host",
                "-smp",
                "1",
                "-m",
                "2048M",
                "-object",
                guard,
                "-bios",
                "OVMF.inteltdx.fd",
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
                "-kernel",
                "vmlinuz",
            ],
        )
    }
}

fn dstack_snp() -> Case {
    let host_data = base64_of(&[6; 32]);
    let guard = format!(
        "sev-snp-guest,id=sev0,policy=0x30000,sev-device=/dev/sev,kernel-hashes=on,host-data={host_data},cbitpos=51,reduced-phys-bits=1"
    );
    Case {
        // Whether its cards have a ROM is not in what was read: the device is one of the kind that
        // it gives both options to, and no network card.
        ours: &[
            "tee.machine-versioned",
            "tee.smm-said",
            "tee.no-reboot",
            "tee.no-user-config",
            "tee.display-none",
        ],
        ..case(
            "dstack, SEV-SNP",
            &[
                "-accel",
                "kvm",
                "-cpu",
                "EPYC-v4",
                "-nographic",
                "-nodefaults",
                "-chardev",
                "pty,id=com0,path=/run/pty,logfile=/run/log,logappend=on",
                "-serial",
                "chardev:com0",
                "-qmp",
                "unix:/run/qmp.sock,server,wait=off",
                "-bios",
                "ovmf.fd",
                "-kernel",
                "bzImage",
                "-initrd",
                "initramfs",
                "-append",
                "a=b",
                "-object",
                "memory-backend-memfd,id=ram1,size=4096M,share=true,prealloc=false",
                "-object",
                &guard,
                "-machine",
                "q35,kernel-irqchip=split,confidential-guest-support=sev0,memory-backend=ram1,hpet=off",
                "-smp",
                "4",
                "-m",
                "4096M",
                "-device",
                "virtio-blk-pci,drive=hd0,disable-legacy=on,iommu_platform=true",
            ],
        )
    }
}

fn dstack_tdx() -> Case {
    let guard = format!(
        r#"{{"qom-type":"tdx-guest","id":"tdx","mrconfigid":"{}","quote-generation-socket":{{"type":"vsock","cid":"2","port":"4050"}}}}"#,
        base64_of(&[7; 48]),
    );
    Case {
        ours: &[
            "tee.machine-versioned",
            "tee.smm-said",
            "tee.memory-named",
            "tee.no-reboot",
            "tee.no-user-config",
            "tee.display-none",
        ],
        ..case(
            "dstack, TDX",
            &[
                "-accel",
                "kvm",
                "-cpu",
                "host",
                "-nographic",
                "-nodefaults",
                "-bios",
                "ovmf.fd",
                "-kernel",
                "bzImage",
                "-initrd",
                "initramfs",
                "-append",
                "a=b",
                "-object",
                &guard,
                "-machine",
                "q35,kernel-irqchip=split,confidential-guest-support=tdx,hpet=off",
                "-smp",
                "4",
                "-m",
                "4096M",
            ],
        )
    }
}

/// coconut-svsm's script. Planes are a property of its own QEMU.
fn coconut(
    project: &'static str,
    machine: &str,
    imposed: &'static [&'static str],
    ours: &'static [&'static str],
) -> Case {
    Case {
        imposed,
        ours,
        ..case(
            project,
            &[
                "-cpu",
                "EPYC-v4",
                "-machine",
                machine,
                "-object",
                "memory-backend-memfd,size=8G,id=mem0,share=true,prealloc=false,reserve=false",
                "-object",
                "igvm-cfg,id=igvm0,file=coconut-qemu.igvm",
                "-object",
                "sev-snp-guest,id=cgs0,cbitpos=51,reduced-phys-bits=1",
                "-smp",
                "4",
                "-m",
                "8G",
                "-no-reboot",
                "-nographic",
                "-vga",
                "none",
            ],
        )
    }
}

fn canonical_tdx() -> Case {
    Case {
        ours: &[
            "tee.machine-versioned",
            "tee.smm-said",
            "tee.no-reboot",
            "tee.no-user-config",
            "tee.display-none",
            "tdx.hpet",
        ],
        ..case(
            "Canonical, TDX",
            &[
                "-accel",
                "kvm",
                "-m",
                "100G",
                "-smp",
                "32",
                "-cpu",
                "host,-avx10",
                "-object",
                r#"{"qom-type":"tdx-guest","id":"tdx","quote-generation-socket":{"type": "vsock", "cid":"2","port":"4050"}}"#,
                "-object",
                "memory-backend-ram,id=mem0,size=100G",
                "-machine",
                "q35,kernel_irqchip=split,confidential-guest-support=tdx,memory-backend=mem0",
                "-bios",
                "/usr/share/ovmf/OVMF.fd",
                "-nographic",
                "-nodefaults",
                "-vga",
                "none",
                "-device",
                "virtio-net-pci,netdev=nic0_td",
                "-device",
                "vhost-vsock-pci,guest-cid=3",
                "-object",
                "iommufd,id=iommufd0",
                "-device",
                "pcie-root-port,port=0,chassis=0,id=pci.0,bus=pcie.0",
                "-device",
                "vfio-pci,host=0000:41:00.0,bus=pci.0,iommufd=iommufd0",
            ],
        )
    }
}

/// The predecessor as it was for AMD's own QEMU, at 006897a: every name of the forks that upstream
/// never had.
fn cocos_of_the_forks() -> Case {
    Case {
        imposed: &[
            "any.forks",
            "tee.no-maxmem",
            "snp.properties",
            "snp.no-pflash",
            "snp.one-bios",
            "snp.cpu-model",
        ],
        ours: &[
            "tee.guard-property",
            "tee.machine-versioned",
            "tee.smm-said",
            "tee.irqchip-said",
            "tee.no-slots",
            "tee.no-maxcpus",
            "tee.no-reboot",
            "tee.nodefaults",
            "tee.no-user-config",
            "tee.display-none",
            "snp.policy-said",
            "snp.cpu-versioned",
        ],
        ..case(
            "Cocos manager with AMD's QEMU",
            &[
                "-enable-kvm",
                "-machine",
                "q35",
                "-cpu",
                "EPYC",
                "-smp",
                "4,maxcpus=64",
                "-m",
                "2048M,slots=5,maxmem=30G",
                "-drive",
                "if=pflash,format=raw,unit=0,file=OVMF_CODE.fd,readonly=on",
                "-device",
                "virtio-net-pci,disable-legacy=on,iommu_platform=true,netdev=vmnic,addr=0x2,romfile=",
                "-device",
                "vhost-vsock-pci,id=vhost-vsock-pci0,guest-cid=3",
                "-vnc",
                ":0",
                "-object",
                "memory-backend-memfd-private,id=ram1,size=2048M,share=true",
                "-machine",
                "memory-backend=ram1,kvm-type=protected",
                "-kernel",
                "bzImage",
                "-append",
                "console=ttyS0",
                "-initrd",
                "rootfs.cpio.gz",
                "-object",
                "sev-snp-guest,id=sev0,cbitpos=51,reduced-phys-bits=1,discard=none,kernel-hashes=on",
                "-machine",
                "memory-encryption=sev0",
                "-nographic",
                "-monitor",
                "pty",
            ],
        )
    }
}

/// The predecessor always starts SEV-SNP from IGVM, and leaves hashes out. The kind of
/// its memory backend was not read.
fn cocos_snp() -> Case {
    Case {
        imposed: &["tee.no-maxmem", "snp.cpu-model"],
        ours: &[
            "tee.machine-versioned",
            "tee.smm-said",
            "tee.irqchip-said",
            "tee.no-slots",
            "tee.no-maxcpus",
            "tee.no-reboot",
            "tee.nodefaults",
            "tee.no-user-config",
            "tee.display-none",
            "snp.policy-said",
            "snp.cpu-versioned",
        ],
        ..case(
            "Cocos manager, SEV-SNP",
            &[
                "-enable-kvm",
                "-machine",
                "q35",
                "-cpu",
                "EPYC",
                "-smp",
                "4,maxcpus=64",
                "-m",
                "2048M,slots=5,maxmem=30G",
                "-object",
                "memory-backend-memfd,id=ram1,size=2048M,share=true,prealloc=false",
                "-machine",
                "confidential-guest-support=sev0,memory-backend=ram1,igvm-cfg=igvm0",
                "-object",
                "sev-snp-guest,id=sev0,cbitpos=51,reduced-phys-bits=1",
                "-object",
                "igvm-cfg,id=igvm0,file=/etc/cocos/coconut-qemu.igvm",
                "-device",
                "virtio-net-pci,disable-legacy=on,iommu_platform=true,netdev=vmnic,romfile=",
                "-kernel",
                "bzImage",
                "-initrd",
                "rootfs.cpio.gz",
                "-append",
                "quiet console=null",
                "-nographic",
                "-monitor",
                "pty",
            ],
        )
    }
}

/// Its firmware option and the kind of its memory backend were not read.
fn cocos_tdx() -> Case {
    Case {
        imposed: &["tee.no-maxmem", "tdx.cpu-host"],
        ours: &[
            "tee.machine-versioned",
            "tee.smm-said",
            "tee.irqchip-said",
            "tee.no-slots",
            "tee.no-maxcpus",
            "tee.no-reboot",
            "tee.no-user-config",
            "tee.display-none",
        ],
        ..case(
            "Cocos manager, TDX",
            &[
                "-enable-kvm",
                "-machine",
                "q35",
                "-cpu",
                "EPYC",
                "-smp",
                "4,maxcpus=64",
                "-m",
                "2048M,slots=5,maxmem=30G",
                "-object",
                "memory-backend-memfd,id=ram1,size=2048M,share=true,prealloc=false",
                "-object",
                r#"{"qom-type":"tdx-guest","id":"tdx0","quote-generation-socket":{"type":"vsock","cid":"2","port":"4050"}}"#,
                "-machine",
                "confidential-guest-support=tdx0,memory-backend=ram1,hpet=off",
                "-bios",
                "/etc/cocos/OVMF.fd",
                "-nodefaults",
                "-kernel",
                "bzImage",
                "-initrd",
                "rootfs.cpio.gz",
                "-append",
                "quiet console=null",
                "-nographic",
                "-monitor",
                "pty",
            ],
        )
    }
}

const QGS_UNIX: &str =
    r#""quote-generation-socket":{"type":"unix","path":"/var/run/tdx-qgs/qgs.socket"}"#;

fn cases() -> Vec<Case> {
    let go = format!(r#"{{"qom-type":"tdx-guest","id":"tdx",{QGS_UNIX}}}"#);
    let rust =
        format!(r#"{{"qom-type":"tdx-guest","id":"tdx","sept-ve-disable":true,{QGS_UNIX}}}"#);
    let debug = format!(
        r#"{{"qom-type":"tdx-guest","id":"tdx","sept-ve-disable":true,"debug":true,{QGS_UNIX}}}"#
    );
    let planes = "q35,memory-backend=mem0,igvm-cfg=igvm0,accel=kvm,confidential-guest-support=cgs0,kernel-irqchip=split,device-plane=2";
    let no_planes =
        "q35,memory-backend=mem0,igvm-cfg=igvm0,accel=kvm,confidential-guest-support=cgs0";
    vec![
        libvirt_snp(),
        libvirt_tdx(),
        kata_runtime_rs_snp(),
        kata_go_snp(),
        kata_tdx("kata, TDX", &go, &[]),
        kata_tdx("kata runtime-rs, TDX", &rust, &[]),
        // Refused by QEMU 11.1.2: "Parameter 'debug' is unexpected".
        kata_tdx(
            "kata runtime-rs, TDX with debugging",
            &debug,
            &["tdx.properties"],
        ),
        dstack_snp(),
        dstack_tdx(),
        coconut(
            "coconut-svsm",
            no_planes,
            &[],
            &[
                "tee.machine-versioned",
                "tee.smm-said",
                "tee.irqchip-said",
                "tee.nodefaults",
                "tee.no-user-config",
                "tee.display-none",
                "snp.policy-said",
            ],
        ),
        coconut(
            "coconut-svsm with planes",
            planes,
            &["any.forks"],
            &[
                "tee.machine-versioned",
                "tee.smm-said",
                "tee.nodefaults",
                "tee.no-user-config",
                "tee.display-none",
                "snp.policy-said",
            ],
        ),
        canonical_tdx(),
        cocos_of_the_forks(),
        cocos_snp(),
        cocos_tdx(),
    ]
}

#[test]
fn lists_of_other_projects_break_the_rules_that_are_known_of_them() {
    for case in cases() {
        let mut world = world();
        world.identity = None;
        (case.change)(&mut world);
        let argv = case.argv;
        let found = broken(&Launch { argv, world });
        for (weight, expected) in [(Weight::Must, case.imposed), (Weight::Should, case.ours)] {
            let of_weight = RULES.iter().filter(|rule| rule.weight == weight);
            let of_weight = of_weight
                .map(|rule| rule.id)
                .filter(|id| found.contains(id));
            let of_weight: Vec<_> = of_weight.collect();
            assert_eq!(of_weight, expected, "{}: {weight:?}", case.project);
        }
    }
}
