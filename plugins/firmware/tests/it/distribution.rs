//! Firmware that the distribution built, where it is installed.
//!
//! What is expected of the SEV parts is what the package `sev-snp-measure` 0.0.13 of PyPI reads from
//! the same files (its class `OVMF`), and of the TDX parts what a script of another language read;
//! neither shares code with this crate. A build that is not listed is skipped.

use std::path::Path;

use casemate_firmware::ovmf::{self, Ovmf};
use casemate_firmware::suitable::{for_snp, for_tdx};

use casemate_firmware_images::crc32;

/// Where Debian's packages put firmware.
const FOLDER: &str = "/usr/share";

struct Build {
    package: &'static str,
    /// Below [`FOLDER`].
    path: &'static str,
    /// CRC-32 of the whole file, which tells builds apart.
    checksum: u32,
    findings: &'static str,
}

const BUILDS: [Build; 6] = [
    Build {
        package: "ovmf 2022.11-6+deb12u2",
        path: "ovmf/OVMF.fd",
        checksum: 0x27a7_6ad2,
        findings: "\
2097152 bytes
reset 0x80b004
hashes 0x0+0x0
SEV 0x800000+0x9000 SEC_MEM
SEV 0x80a000+0x3000 SEC_MEM
SEV 0x80d000+0x1000 SECRETS
SEV 0x80e000+0x1000 CPUID
SEV 0x80f000+0x11000 SEC_MEM
TDX 0x20000+0x1e0000 to 0xffe20000+0x1e0000 BFV
TDX 0x0+0x20000 to 0xffe00000+0x20000 CFV
TDX 0x0+0x0 to 0x810000+0x10000 TEMP_MEM
TDX 0x0+0x0 to 0x80b000+0x2000 TEMP_MEM
TDX 0x0+0x0 to 0x809000+0x2000 TD_HOB
TDX 0x0+0x0 to 0x800000+0x6000 TEMP_MEM
SEV-SNP, but: the firmware was built without an area for hashes of a kernel
TDX
",
    },
    Build {
        package: "ovmf 2022.11-6+deb12u2",
        path: "OVMF/OVMF_CODE.fd",
        checksum: 0x9d05_84a7,
        findings: "\
1966080 bytes
reset 0x80b004
hashes 0x0+0x0
SEV 0x800000+0x9000 SEC_MEM
SEV 0x80a000+0x3000 SEC_MEM
SEV 0x80d000+0x1000 SECRETS
SEV 0x80e000+0x1000 CPUID
SEV 0x80f000+0x11000 SEC_MEM
TDX 0x20000+0x1e0000 to 0xffe20000+0x1e0000 BFV
TDX 0x0+0x20000 to 0xffe00000+0x20000 CFV
TDX 0x0+0x0 to 0x810000+0x10000 TEMP_MEM
TDX 0x0+0x0 to 0x80b000+0x2000 TEMP_MEM
TDX 0x0+0x0 to 0x809000+0x2000 TD_HOB
TDX 0x0+0x0 to 0x800000+0x6000 TEMP_MEM
SEV-SNP, but: the firmware was built without an area for hashes of a kernel
no TDX: section 1 (BFV) of the firmware's TDX metadata has its content behind the end of the file
",
    },
    Build {
        package: "ovmf 2022.11-6+deb12u2",
        path: "OVMF/OVMF_CODE_4M.fd",
        checksum: 0x224a_1320,
        findings: "\
3653632 bytes
reset 0x808004
hashes 0x0+0x0
no SEV-SNP: the file has 3653632 bytes, and firmware of SEV-SNP guests is a multiple of 64 KiB
no TDX: the file has 3653632 bytes, and firmware of TDX guests is a multiple of 64 KiB
",
    },
    Build {
        package: "ovmf 2022.11-6+deb12u2",
        path: "OVMF/OVMF_VARS.fd",
        checksum: 0x449d_8c78,
        findings: "\
there is no table of OVMF at the end of the file: its GUID is \
ffffffff-ffff-ffff-ffff-ffffffffffff instead of 96b582de-1fb2-45f7-baea-a366c55a082d
",
    },
    Build {
        package: "ovmf-amdsev 2026.08+ds-2",
        path: "ovmf/OVMF.amdsev.fd",
        checksum: 0x6797_7668,
        findings: "\
4194304 bytes
reset 0x80b004
hashes 0x810c00+0x400
SEV 0x800000+0x9000 SEC_MEM
SEV 0x80a000+0x3000 SEC_MEM
SEV 0x80d000+0x1000 SECRETS
SEV 0x80e000+0x1000 CPUID
SEV 0x80f000+0x1000 SVSM_CAA
SEV 0x811000+0x1f000 SEC_MEM
SEV 0x810000+0x1000 KERNEL_HASHES
TDX 0x84000+0x37c000 to 0xffc84000+0x37c000 BFV
TDX 0x0+0x84000 to 0xffc00000+0x84000 CFV
TDX 0x0+0x0 to 0x814000+0xc000 TEMP_MEM
TDX 0x0+0x0 to 0x80b000+0x2000 TEMP_MEM
TDX 0x0+0x0 to 0x809000+0x2000 TD_HOB
TDX 0x0+0x0 to 0x800000+0x6000 TEMP_MEM
TDX 0x0+0x0 to 0x820000+0x10000 TEMP_MEM
SEV-SNP with hashes of a kernel at 0x810c00+0x400
TDX
",
    },
    Build {
        package: "ovmf-inteltdx 2026.08+ds-2",
        path: "ovmf/OVMF.inteltdx.ms.fd",
        checksum: 0x427b_4345,
        findings: "\
4194304 bytes
reset 0x80b004
hashes 0x0+0x0
SEV 0x800000+0x9000 SEC_MEM
SEV 0x80a000+0x3000 SEC_MEM
SEV 0x80d000+0x1000 SECRETS
SEV 0x80e000+0x1000 CPUID
SEV 0x0+0x0 SVSM_CAA
SEV 0x0+0x0 SEC_MEM
TDX 0x84000+0x37c000 to 0xffc84000+0x37c000 BFV
TDX 0x0+0x84000 to 0xffc00000+0x84000 CFV
TDX 0x0+0x0 to 0x810000+0x10000 TEMP_MEM
TDX 0x0+0x0 to 0x80b000+0x2000 TEMP_MEM
TDX 0x0+0x0 to 0x809000+0x2000 TD_HOB
TDX 0x0+0x0 to 0x800000+0x6000 TEMP_MEM
no SEV-SNP: section 5 (SVSM_CAA) of the firmware's SEV metadata is empty, which KVM refuses
TDX
",
    },
];

#[test]
fn firmware_of_the_distribution_is_told_as_it_is() {
    for build in BUILDS {
        let path = Path::new(FOLDER).join(build.path);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) => {
                println!("skipped: {}: {error}", path.display());
                continue;
            }
        };
        if crc32(&bytes) != build.checksum {
            println!(
                "skipped: {} is not that of {}",
                path.display(),
                build.package
            );
            continue;
        }
        let findings = match ovmf::inspect(&bytes) {
            Ok(image) => in_lines(&image),
            Err(error) => format!("{error}\n"),
        };
        assert_eq!(
            findings, build.findings,
            "{} of {}",
            build.path, build.package
        );
    }
}

fn in_lines(image: &Ovmf) -> String {
    let mut lines = vec![format!("{} bytes", image.size)];
    if let Some(sev) = &image.sev {
        lines.extend(
            sev.reset_address
                .map(|address| format!("reset {address:#x}")),
        );
        lines.extend(sev.hash_table.map(|area| format!("hashes {area}")));
        for section in sev.metadata.iter().flatten().flatten() {
            lines.push(format!("SEV {} {}", section.area, section.kind));
        }
    }
    for section in image.tdx.iter().flatten().flat_map(|tdvf| &tdvf.sections) {
        lines.push(format!(
            "TDX {:#x}+{:#x} to {} {}",
            section.data_offset, section.data_size, section.memory, section.kind
        ));
    }
    lines.push(
        match for_snp(image).map(|firmware| firmware.kernel_hashes) {
            Ok(Ok(area)) => format!("SEV-SNP with hashes of a kernel at {area}"),
            Ok(Err(reason)) => format!("SEV-SNP, but: {reason}"),
            Err(reason) => format!("no SEV-SNP: {reason}"),
        },
    );
    lines.push(match for_tdx(image) {
        Ok(_) => "TDX".to_owned(),
        Err(reason) => format!("no TDX: {reason}"),
    });
    lines.join("\n") + "\n"
}
