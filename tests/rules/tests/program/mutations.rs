//! For every rule a list that breaks it and no other.
//!
//! What makes a mutation wrong is the source that the rule names, mostly a message of QEMU or a
//! thread of somebody who met it. The tables show that each rule is judged, by itself, and reported
//! under its id.
//!
//! QEMU 10.0.2 was started with the lists of the plain base, under TCG, and of the SEV-SNP base, on a
//! KVM without SEV-SNP. The unchanged plain list starts; the unchanged SEV-SNP list ends at "vm-type
//! SEV-SNP not supported by KVM". Of the plain mutations each is refused, and of the others those of
//! `snp.properties`, `snp.types`, and of a field that is missing or has the wrong size (but for an
//! empty id-auth), in the words that the table of rules quotes. The rest end where the unchanged list
//! does: QEMU looks at them later or not at all. One of `tee.guard-named` starts, unprotected.
//! No list with IGVM and none for TDX was started: that QEMU has neither.

use std::collections::BTreeSet;

use casemate_rules::{Debugging, RULES, Scope, Technology, Weight};

use crate::lists::Edit::{
    self, Guard, GuardBytes, Machine, NoGuard, NoMachine, Value, With, Without, World,
};
use crate::lists::{Base, Launch, broken};

/// On every list of a kernel with firmware.
#[rustfmt::skip]
const ANY: &[(&str, &[Edit])] = &[
    ("any.options", &[With(&["-frobnicate"])]),
    ("any.options", &[With(&["image.qcow2"])]),
    ("any.options", &[With(&["-device"])]),
    ("any.options", &[With(&["-device", "id=dev0"])]),
    ("any.options", &[With(&["-object", r#"{"qom-type":"iothread""#])]),
    ("any.amounts", &[Value("-smp", "0")]),
    ("any.ids", &[With(&["-netdev", "user,id=0net"])]),
    ("any.ids", &[With(&["-object", r#"{"qom-type":"iothread","id":"6f96"}"#])]),
    ("any.ids", &[With(&["-device", "virtio-blk-pci,id=a/b"])]),
    ("any.bios-size", &[World(|world| world.firmware.size = 3_653_632)]),
    ("any.bios-size", &[World(|world| world.firmware.size = 0)]),
    ("any.memory-backend", &[Machine("memory-backend", "ram1")]),
    ("any.memory-backend", &[With(&["-object", "iothread,id=io0"]), Machine("memory-backend", "io0")]),
    ("any.memory-size", &[Value("-m", "4096M")]),
    ("any.forks", &[Machine("kvm-type", "protected")]),
    ("any.forks", &[With(&["-object", "memory-backend-memfd-private,id=ram1,size=1M"])]),
];

/// On SEV-SNP and on TDX.
#[rustfmt::skip]
const TEE: &[(&str, &[Edit])] = &[
    ("tee.one-guard", &[With(&["-object", "sev-guest,id=old0,cbitpos=51,reduced-phys-bits=1"])]),
    ("tee.one-guard", &[With(&["-object", r#"{"qom-type":"tdx-guest","id":"second"}"#])]),
    ("tee.guard-named", &[NoMachine("confidential-guest-support")]),
    ("tee.guard-named", &[Machine("confidential-guest-support", "cgs1")]),
    ("tee.guard-property", &[NoMachine("confidential-guest-support"), Machine("memory-encryption", "cgs0")]),
    ("tee.accel-kvm", &[Value("-accel", "tcg")]),
    ("tee.accel-kvm", &[With(&["-accel", "tcg"])]),
    ("tee.accel-kvm", &[Without("-accel")]),
    ("tee.accel-kvm", &[Without("-accel"), Machine("accel", "kvm:tcg")]),
    ("tee.machine-versioned", &[Machine("", "q35")]),
    ("tee.machine-versioned", &[Machine("", "pc-q35-")]),
    ("tee.machine-versioned", &[Machine("", "pc-q35-x.1")]),
    ("tee.machine-versioned", &[Machine("", "pc-q35-10.")]),
    ("tee.smm", &[Machine("smm", "on")]),
    ("tee.smm-said", &[NoMachine("smm")]),
    ("tee.smm-said", &[Machine("smm", "auto")]),
    ("tee.irqchip-said", &[NoMachine("kernel-irqchip")]),
    ("tee.memory-named", &[NoMachine("memory-backend")]),
    ("tee.memfd-shared", &[With(&["-object", "memory-backend-memfd,id=more,size=1M"])]),
    ("tee.memfd-shared", &[With(&["-object", r#"{"qom-type":"memory-backend-memfd","id":"more","size":1048576,"share":false}"#])]),
    ("tee.no-slots", &[Value("-m", "2048M,slots=5")]),
    ("tee.no-maxmem", &[Value("-m", "2048M,maxmem=30G")]),
    ("tee.no-maxcpus", &[Value("-smp", "4,maxcpus=64")]),
    ("tee.smp-said", &[Without("-smp")]),
    ("tee.no-balloon", &[With(&["-device", "virtio-balloon-pci"])]),
    ("tee.no-virtio-mem", &[With(&["-device", "virtio-mem-pci,memdev=m0"])]),
    ("tee.no-virtio-mem", &[With(&["-device", "virtio-pmem-pci,memdev=m0"])]),
    ("tee.no-nvdimm", &[With(&["-device", "nvdimm,memdev=m0"])]),
    ("tee.no-nvdimm", &[Machine("nvdimm", "on")]),
    ("tee.no-dimm", &[With(&["-device", "pc-dimm,memdev=m0"])]),
    ("tee.no-host-rng", &[With(&["-device", "virtio-rng-pci"])]),
    ("tee.no-empty-ports", &[With(&["-device", "pcie-root-port,id=port0"])]),
    ("tee.no-empty-ports", &[With(&["-device", r#"{"driver":"pcie-root-port"}"#])]),
    ("tee.no-reboot", &[Without("-no-reboot")]),
    ("tee.nodefaults", &[Without("-nodefaults")]),
    ("tee.no-user-config", &[Without("-no-user-config")]),
    ("tee.display-none", &[Without("-display")]),
    ("tee.display-none", &[Value("-display", "gtk")]),
    ("tee.no-vga", &[With(&["-vga", "std"])]),
    ("tee.no-vga", &[With(&["-device", "virtio-gpu-pci"])]),
    ("tee.virtio-iommu", &[With(&["-device", "virtio-blk-pci,iommu_platform=off"])]),
    ("tee.virtio-iommu", &[With(&["-device", r#"{"driver":"vhost-vsock-pci","iommu_platform":false}"#])]),
    ("tee.virtio-iommu", &[With(&["-global", "virtio-blk-pci.iommu_platform=false"])]),
    ("tee.virtio-legacy", &[With(&["-device", "virtio-blk-pci,disable-legacy=off"])]),
    ("tee.virtio-legacy", &[With(&["-device", r#"{"driver":"virtio-blk-pci","disable-legacy":"off"}"#])]),
    ("tee.virtio-legacy", &[With(&["-global", "driver=virtio-pci,property=disable-legacy,value=off"])]),
    ("tee.vfio-iommufd", &[With(&["-device", "vfio-pci,host=0000:41:00.0"])]),
    ("tee.vfio-iommufd", &[With(&["-device", "vfio-pci,host=0000:41:00.0,iommufd=net0"])]),
    ("tee.vfio-iommufd", &[With(&["-device", "vfio-pci,host=0000:41:00.0,iommufd=ram0"])]),
];

/// On the base that is named.
#[rustfmt::skip]
const OWN: &[(&str, Base, &[Edit])] = &[
    ("any.boot-needs-kernel", Base::Tdx, &[Without("-kernel")]),
    ("any.boot-needs-kernel", Base::Plain, &[Without("-kernel"), Without("-append")]),
    ("any.boot-needs-kernel", Base::SnpIgvm, &[With(&["-append", "quiet"])]),
    ("any.forks", Base::SnpIgvm, &[Machine("device-plane", "2")]),
    ("plain.guard", Base::Plain, &[Machine("confidential-guest-support", "cgs0")]),
    ("plain.guard", Base::Plain, &[With(&["-object", "sev-guest,id=old0,cbitpos=51,reduced-phys-bits=1"]), Machine("confidential-guest-support", "old0")]),
    ("plain.pflash-pair", Base::Plain, &[With(&["-drive", "if=pflash,format=raw,unit=1,file=vars.fd"])]),
    ("plain.pflash-pair", Base::Plain, &[With(&["-drive", "if=pflash,format=raw,index=1,file=vars.fd"])]),
    ("plain.pflash-pair", Base::Plain, &[With(&["-blockdev", "driver=file,node-name=v,filename=vars.fd"]), Machine("pflash1", "v")]),

    ("snp.properties", Base::Snp, &[Guard("secure-tsc", "true")]),
    ("snp.properties", Base::Snp, &[Guard("init-flags", "5")]),
    ("snp.properties", Base::Snp, &[Guard("certs-path", "\"/opt/certs\"")]),
    ("snp.properties", Base::Snp, &[Guard("discard", "\"none\"")]),
    ("snp.properties", Base::SnpIgvm, &[Guard("igvm-file", "\"a.igvm\"")]),
    ("snp.types", Base::Snp, &[Guard("policy", "\"196608\"")]),
    ("snp.types", Base::Snp, &[Guard("policy", "1.5")]),
    ("snp.types", Base::Snp, &[Guard("cbitpos", "\"51\"")]),
    ("snp.types", Base::Snp, &[Guard("vcek-disabled", "\"on\"")]),
    ("snp.types", Base::Snp, &[Guard("sev-device", "7")]),
    ("snp.irqchip", Base::Snp, &[Machine("kernel-irqchip", "off")]),
    ("snp.no-pflash", Base::Snp, &[With(&["-drive", "if=pflash,format=raw,unit=0,file=code.fd,readonly=on"])]),
    ("snp.no-pflash", Base::Snp, &[With(&["-pflash", "code.fd"])]),
    ("snp.no-pflash", Base::Snp, &[Machine("pflash0", "code")]),
    ("snp.no-pflash", Base::SnpIgvm, &[Machine("pflash1", "vars")]),
    ("snp.no-pflash", Base::Snp, &[With(&["-device", "cfi.pflash01,drive=code"])]),
    ("snp.one-bios", Base::Snp, &[Without("-bios")]),
    ("snp.one-bios", Base::Snp, &[With(&["-bios", "other.fd"])]),
    ("snp.firmware-metadata", Base::Snp, &[World(|world| world.firmware.sev_metadata = false)]),
    ("snp.igvm-named", Base::SnpIgvm, &[NoMachine("igvm-cfg")]),
    ("snp.igvm-named", Base::SnpIgvm, &[Machine("igvm-cfg", "igvm1")]),
    ("snp.igvm-named", Base::SnpIgvm, &[With(&["-object", "igvm-cfg,id=igvm1,file=b"])]),
    ("snp.igvm-no-bios", Base::SnpIgvm, &[With(&["-bios", "OVMF.fd"])]),
    ("snp.igvm-no-kernel-hashes", Base::SnpIgvm, &[With(&["-kernel", "bzImage"]), Guard("kernel-hashes", "true")]),
    ("snp.igvm-no-id-block", Base::SnpIgvm, &[GuardBytes("id-block", 96), GuardBytes("id-auth", 4096)]),
    ("snp.kernel-hashes-kernel", Base::Snp, &[Without("-kernel"), Without("-initrd"), Without("-append")]),
    ("snp.kernel-hashes-area", Base::Snp, &[World(|world| world.firmware.kernel_hash_area = false)]),
    ("snp.kernel-hashed", Base::Snp, &[NoGuard("kernel-hashes")]),
    ("snp.kernel-hashed", Base::Snp, &[Guard("kernel-hashes", "false")]),
    ("snp.cbitpos", Base::Snp, &[Guard("cbitpos", "47")]),
    ("snp.cbitpos", Base::Snp, &[NoGuard("cbitpos")]),
    ("snp.cbitpos", Base::Snp, &[World(|world| world.cbit = None)]),
    ("snp.reduced-phys-bits-given", Base::Snp, &[NoGuard("reduced-phys-bits")]),
    ("snp.reduced-phys-bits-given", Base::Snp, &[Guard("reduced-phys-bits", "0")]),
    ("snp.reduced-phys-bits-given", Base::Snp, &[Guard("reduced-phys-bits", "64")]),
    ("snp.reduced-phys-bits", Base::Snp, &[Guard("reduced-phys-bits", "5")]),
    ("snp.policy-said", Base::Snp, &[NoGuard("policy")]),
    ("snp.policy-reserved", Base::Snp, &[Guard("policy", "65536")]),
    ("snp.policy-migration", Base::Snp, &[Guard("policy", "458752")]),
    ("snp.policy-debug", Base::Snp, &[Guard("policy", "720896")]),
    ("snp.policy-published", Base::Snp, &[Guard("policy", "2293760")]),
    ("snp.policy-published", Base::Snp, &[Guard("policy", "4390912"), World(|world| world.snp_policy_bits = Some(0x3b_ffff))]),
    ("snp.policy-published", Base::Snp, &[Guard("policy", "33751040")]),
    ("snp.policy-high", Base::Snp, &[Guard("policy", "67305472")]),
    ("snp.policy-high", Base::Snp, &[Guard("policy", "9223372036854972416")]),
    ("snp.policy-smt", Base::Snp, &[Guard("policy", "131072"), World(|world| world.snp_policy_bits = Some(0x1b_ffff))]),
    ("snp.policy-abi", Base::Snp, &[Guard("policy", "196920")]),
    ("snp.policy-abi", Base::Snp, &[Guard("policy", "197120")]),
    ("snp.host-data", Base::Snp, &[GuardBytes("host-data", 31)]),
    ("snp.host-data", Base::Snp, &[GuardBytes("host-data", 33)]),
    ("snp.host-data", Base::Snp, &[Guard("host-data", "\"test-host-data\"")]),
    ("snp.identity", Base::Snp, &[GuardBytes("host-data", 32)]),
    ("snp.identity", Base::SnpIgvm, &[NoGuard("host-data")]),
    ("snp.identity", Base::Snp, &[World(|world| world.identity = Some(vec![7; 48]))]),
    ("snp.id-block", Base::Snp, &[GuardBytes("id-block", 3), GuardBytes("id-auth", 4096)]),
    ("snp.id-auth", Base::Snp, &[GuardBytes("id-block", 96), GuardBytes("id-auth", 4097)]),
    ("snp.id-auth", Base::Snp, &[GuardBytes("id-block", 96), GuardBytes("id-auth", 0)]),
    ("snp.id-pair", Base::Snp, &[GuardBytes("id-block", 96)]),
    ("snp.id-pair", Base::Snp, &[GuardBytes("id-auth", 4096)]),
    ("snp.author-key", Base::Snp, &[Guard("author-key-enabled", "true")]),
    ("snp.workarounds", Base::Snp, &[GuardBytes("guest-visible-workarounds", 15)]),
    ("snp.workarounds", Base::Snp, &[GuardBytes("guest-visible-workarounds", 17)]),
    ("snp.cpu-model", Base::Snp, &[Value("-cpu", "EPYC-v3")]),
    ("snp.cpu-model", Base::Snp, &[Value("-cpu", "host")]),
    ("snp.cpu-model", Base::Snp, &[Without("-cpu")]),
    ("snp.cpu-versioned", Base::Snp, &[Value("-cpu", "EPYC-Genoa")]),
    ("snp.no-migration", Base::Snp, &[With(&["-incoming", "defer"])]),
    ("snp.no-migration", Base::SnpIgvm, &[With(&["-loadvm", "yesterday"])]),
    ("snp.option-roms", Base::Snp, &[With(&["-device", "virtio-net-pci,netdev=net1"])]),
    ("snp.option-roms", Base::Snp, &[With(&["-device", "virtio-net-pci,netdev=net1,romfile=efi.rom"])]),
    ("snp.option-roms", Base::Snp, &[With(&["-option-rom", "efi.rom"])]),

    ("tdx.properties", Base::Tdx, &[Guard("debug", "true")]),
    ("tdx.properties", Base::Tdx, &[Guard("quote-generation-service", "\"vsock:2:4050\"")]),
    ("tdx.properties", Base::Tdx, &[Guard("kernel-hashes", "true")]),
    ("tdx.types", Base::Tdx, &[Guard("attributes", "\"0x10000000\"")]),
    ("tdx.types", Base::Tdx, &[Guard("quote-generation-socket", "\"vsock:2:4050\"")]),
    ("tdx.types", Base::Tdx, &[Guard("mrowner", "0")]),
    ("tdx.irqchip", Base::Tdx, &[Machine("kernel-irqchip", "on")]),
    ("tdx.irqchip", Base::Tdx, &[Machine("kernel-irqchip", "off")]),
    ("tdx.pic", Base::Tdx, &[Machine("pic", "on")]),
    ("tdx.hpet", Base::Tdx, &[NoMachine("hpet")]),
    ("tdx.hpet", Base::Tdx, &[Machine("hpet", "on")]),
    ("tdx.cpu-host", Base::Tdx, &[Value("-cpu", "EPYC")]),
    ("tdx.cpu-host", Base::Tdx, &[Value("-cpu", "SapphireRapids-v1")]),
    ("tdx.cpu-host", Base::Tdx, &[Without("-cpu")]),
    ("tdx.cpu-phys-bits", Base::Tdx, &[Value("-cpu", "host,phys-bits=46")]),
    ("tdx.cpu-phys-bits", Base::Tdx, &[Value("-cpu", "host,host_phys_bits_limit=46")]),
    ("tdx.cpu-phys-bits", Base::Tdx, &[Value("-cpu", "host,-host-phys-bits")]),
    ("tdx.cpu-pmu", Base::Tdx, &[Value("-cpu", "host,pmu=on")]),
    ("tdx.cpu-invtsc", Base::Tdx, &[Value("-cpu", "host,-invtsc")]),
    ("tdx.cpu-nested", Base::Tdx, &[Value("-cpu", "host,+vmx")]),
    ("tdx.cpu-tsc", Base::Tdx, &[Value("-cpu", "host,tsc-frequency=2510000000")]),
    ("tdx.cpu-tsc", Base::Tdx, &[Value("-cpu", "host,tsc-frequency=75000000")]),
    ("tdx.cpu-tsc", Base::Tdx, &[Value("-cpu", "host,tsc-frequency=10025000000")]),
    ("tdx.no-pflash", Base::Tdx, &[With(&["-drive", "file=code.fd,if=pflash"])]),
    ("tdx.no-pflash", Base::Tdx, &[Machine("pflash0", "code")]),
    ("tdx.one-bios", Base::Tdx, &[Without("-bios")]),
    ("tdx.firmware", Base::Tdx, &[World(|world| world.firmware.tdvf = false)]),
    ("tdx.no-igvm", Base::Tdx, &[With(&["-object", "igvm-cfg,id=igvm0,file=a"]), Machine("igvm-cfg", "igvm0")]),
    ("tdx.attributes", Base::Tdx, &[Guard("attributes", "805306368")]),
    ("tdx.attributes-debug", Base::Tdx, &[Guard("attributes", "268435457")]),
    ("tdx.attributes-sept-ve", Base::Tdx, &[Guard("attributes", "0")]),
    ("tdx.sept-ve-disable", Base::Tdx, &[Guard("sept-ve-disable", "false")]),
    ("tdx.mrconfigid", Base::Tdx, &[Guard("mrconfigid", "\"AAAA\"")]),
    ("tdx.mrconfigid", Base::Tdx, &[GuardBytes("mrconfigid", 32)]),
    ("tdx.mrowner", Base::Tdx, &[GuardBytes("mrowner", 47)]),
    ("tdx.mrownerconfig", Base::Tdx, &[GuardBytes("mrownerconfig", 49)]),
    ("tdx.identity", Base::Tdx, &[GuardBytes("mrconfigid", 48)]),
    ("tdx.identity", Base::Tdx, &[NoGuard("mrconfigid")]),
    ("tdx.identity", Base::Tdx, &[World(|world| world.identity = Some(vec![7; 64]))]),
    ("tdx.qgs-shape", Base::Tdx, &[Guard("quote-generation-socket", r#"{"type":"unix"}"#)]),
    ("tdx.qgs-shape", Base::Tdx, &[Guard("quote-generation-socket", r#"{"path":"/run/qgs"}"#)]),
    ("tdx.qgs-shape", Base::Tdx, &[Guard("quote-generation-socket", r#"{"type":"vsock","cid":"2"}"#)]),
    ("tdx.qgs-shape", Base::Tdx, &[Guard("quote-generation-socket", r#"{"type":"tcp","port":"1"}"#)]),
    ("tdx.qgs-shape", Base::Tdx, &[Guard("quote-generation-socket", r#"{"type":"unix","path":"/run/qgs","cid":"2"}"#)]),
    ("tdx.qgs-strings", Base::Tdx, &[Guard("quote-generation-socket", r#"{"type":"vsock","cid":2,"port":"4050"}"#)]),
    ("tdx.qgs-strings", Base::Tdx, &[Guard("quote-generation-socket", r#"{"type":"vsock","cid":"2","port":4050}"#)]),
    ("tdx.qgs-strings", Base::Tdx, &[Guard("quote-generation-socket", r#"{"type":"vsock","cid":"host","port":"4050"}"#)]),
    ("tdx.qgs-strings", Base::Tdx, &[Guard("quote-generation-socket", r#"{"type":"vsock","cid":"2","port":"4294967296"}"#)]),
    ("tdx.qgs-strings", Base::Tdx, &[Guard("quote-generation-socket", r#"{"type":"vsock","cid":"","port":"4050"}"#)]),
    ("tdx.qgs-strings", Base::Tdx, &[Guard("quote-generation-socket", r#"{"type":"unix","path":""}"#)]),
    ("tdx.qgs-kind", Base::Tdx, &[Guard("quote-generation-socket", r#"{"type":"fd","str":"qgs"}"#)]),
    ("tdx.qgs-kind", Base::Tdx, &[Guard("quote-generation-socket", r#"{"type":"inet","host":"localhost","port":"4050"}"#)]),
    ("tdx.memory-aligned", Base::Tdx, &[NoMachine("memory-backend"), With(&["-machine", "memory-backend=ram1", "-object", "memory-backend-ram,id=ram1,size=62976M"]), Value("-m", "62976M")]),
    ("tdx.memory-aligned", Base::Tdx, &[With(&["-machine", "memory-backend=ram1", "-object", "memory-backend-ram,id=ram1,size=4194300k"]), Value("-m", "4194300k")]),
    ("tdx.vcpus", Base::Tdx, &[Value("-smp", "65")]),
    ("tdx.topology", Base::Tdx, &[Value("-smp", "4,sockets=4,cores=1,threads=1")]),
    ("tdx.topology", Base::Tdx, &[Value("-smp", "4,dies=2,cores=2")]),
];

/// A guard that is written as an option string: the one rule that no edit of JSON breaks.
fn keyval_guard() -> Launch {
    let mut launch = Launch::of(Base::Tdx);
    launch.world.identity = None;
    let guard = launch
        .argv
        .iter_mut()
        .find(|text| text.contains("tdx-guest"));
    "tdx-guest,id=cgs0".clone_into(guard.expect("there is one"));
    launch
}

/// Every case: the rule that it breaks, its technology's base, and the list.
fn cases() -> Vec<(&'static str, Base, Launch)> {
    let mut cases = vec![("tdx.guard-json", Base::Tdx, keyval_guard())];
    for (table, bases) in [
        (ANY, &[Base::Snp, Base::Tdx, Base::Plain][..]),
        (TEE, &Base::CONFIDENTIAL[..]),
    ] {
        for (rule, edits) in table {
            let each = bases
                .iter()
                .map(|base| (*rule, *base, Launch::of(*base).edited(edits)));
            cases.extend(each);
        }
    }
    let own = OWN
        .iter()
        .map(|(rule, base, edits)| (*rule, *base, Launch::of(*base).edited(edits)));
    cases.extend(own);
    cases
}

#[test]
fn what_breaks_a_rule_is_reported_under_its_id_alone() {
    for (rule, base, launch) in cases() {
        assert_eq!(broken(&launch), [rule], "{base:?}: {:?}", launch.argv);
    }
}

/// Without this, a rule could be added that nothing shows to work.
#[test]
fn every_rule_is_broken_by_some_list_of_each_technology_that_it_is_for() {
    let technology = |base| match base {
        Base::Snp | Base::SnpIgvm => Technology::SevSnp,
        Base::Tdx => Technology::Tdx,
        Base::Plain => Technology::Plain,
    };
    let broken: Vec<_> = cases()
        .into_iter()
        .map(|(rule, base, _)| (rule, technology(base)))
        .collect();
    for rule in RULES {
        for technology in Technology::ALL {
            if rule.scope.covers(technology) {
                assert!(
                    broken.contains(&(rule.id, technology)),
                    "nothing breaks {} on {technology:?}",
                    rule.id
                );
            }
        }
    }
}

#[test]
fn the_table_says_what_it_has() {
    let mut ids = BTreeSet::new();
    for rule in RULES {
        assert!(ids.insert(rule.id), "{} is there twice", rule.id);
        assert!(
            !rule.text.is_empty() && !rule.source.is_empty(),
            "{}",
            rule.id
        );
        let prefix = match rule.scope {
            Scope::Any => "any.",
            Scope::Confidential => "tee.",
            Scope::SevSnp => "snp.",
            Scope::Tdx => "tdx.",
            Scope::Plain => "plain.",
        };
        assert!(rule.id.starts_with(prefix), "{}", rule.id);
    }
    for scope in [Scope::SevSnp, Scope::Tdx] {
        let own = RULES.iter().filter(|rule| rule.scope == scope);
        assert!(own.clone().count() >= 25, "{scope:?}");
        let imposed = own.filter(|rule| rule.weight == Weight::Must);
        assert!(imposed.count() >= 20, "{scope:?}");
    }
}

#[test]
fn debugging_is_allowed_where_it_is_asked_for_on_snp_and_never_on_tdx() {
    let asked: Edit = World(|world| world.debugging = Debugging::Asked);
    let cases: [(Base, Edit, &[&str]); 2] = [
        (Base::Snp, Guard("policy", "720896"), &[]),
        (
            Base::Tdx,
            Guard("attributes", "268435457"),
            &["tdx.attributes-debug"],
        ),
    ];
    for (base, edit, expected) in cases {
        assert_eq!(broken(&Launch::of(base).edited(&[edit, asked])), expected);
    }
}
