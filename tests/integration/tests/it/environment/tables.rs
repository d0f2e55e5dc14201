//! Variables, their values, and what they do. The tests go through these.

/// A variable, its value, and a part of an argument that it makes: the end of one where the part
/// ends with `$`. The value `@` stands for a file of the test.
pub(super) type Row = (&'static str, &'static str, &'static str);

/// A VM with firmware in flash, booting from a kernel.
pub(super) const FROM_A_KERNEL: &[Row] = &[
    ("MANAGER_QEMU_BIN_PATH", "@", "/qemu-of-the-variable"),
    ("MANAGER_QEMU_ENABLE_KVM", "off", "tcg"),
    ("MANAGER_QEMU_MACHINE", "pc", "pc-i440fx-"),
    ("MANAGER_QEMU_CPU", "qemu64", "qemu64"),
    ("MANAGER_QEMU_SMP_COUNT", "2", "2,maxcpus=7"),
    ("MANAGER_QEMU_SMP_MAXCPUS", "7", "maxcpus=7"),
    ("MANAGER_QEMU_MEMORY_SIZE", "300Mi", "300M"),
    ("MANAGER_QEMU_MEMORY_SLOTS", "3", "slots=3"),
    ("MANAGER_QEMU_MAX_MEMORY", "4G", "maxmem=4096M"),
    ("MANAGER_QEMU_MEM_ID", "ram7", "memory-backend=ram7"),
    ("MANAGER_QEMU_OVMF_CODE_IF", "pflash", "if=pflash"),
    (
        "MANAGER_QEMU_OVMF_CODE_FORMAT",
        "qcow2",
        "format=qcow2,unit=1",
    ),
    ("MANAGER_QEMU_OVMF_CODE_UNIT", "1", "format=qcow2,unit=1"),
    ("MANAGER_QEMU_OVMF_CODE_READONLY", "off", "code.fd"),
    ("MANAGER_QEMU_OVMF_VARS_IF", "pflash", "if=pflash"),
    (
        "MANAGER_QEMU_OVMF_VARS_FORMAT",
        "qcow2",
        "format=qcow2,unit=0",
    ),
    ("MANAGER_QEMU_OVMF_VARS_UNIT", "0", "format=qcow2,unit=0"),
    (
        "MANAGER_QEMU_KERNEL_CMDLINE",
        "quiet  console=ttyS0 a=1",
        "quiet  console=ttyS0 a=1",
    ),
    ("MANAGER_QEMU_NETDEV_ID", "nic7", "user,id=nic7"),
    (
        "MANAGER_QEMU_VIRTIO_NET_PCI_DISABLE_LEGACY",
        "off",
        "disable-legacy=off",
    ),
    (
        "MANAGER_QEMU_VIRTIO_NET_PCI_IOMMU_PLATFORM",
        "0",
        "iommu_platform=off",
    ),
    ("MANAGER_QEMU_VIRTIO_NET_PCI_ADDR", "0x7", "addr=0x7"),
    ("MANAGER_QEMU_VIRTIO_NET_PCI_ROMFILE", "", "romfile=$"),
];

/// Files of the same VM. They reach QEMU as descriptors, so their content is compared.
pub(super) const FILES: [&str; 4] = [
    "MANAGER_QEMU_DISK_IMG_KERNEL_FILE",
    "MANAGER_QEMU_DISK_IMG_ROOTFS_FILE",
    "MANAGER_QEMU_OVMF_CODE_FILE",
    "MANAGER_QEMU_OVMF_VARS_FILE",
];

/// A VM that boots from a disk, with firmware in one file.
pub(super) const FROM_A_DISK: &[Row] = &[
    ("MANAGER_QEMU_ENABLE_DISK", "true", "scsi-hd"),
    ("MANAGER_QEMU_DISK_ID", "disk7", "\"node-name\":\"disk7\""),
    ("MANAGER_QEMU_DISK_SCSI_ID", "scsi7", "bus=scsi7.0"),
];
pub(super) const DISK_FILES: [&str; 3] = [
    "MANAGER_QEMU_SRC_DISK_FILE",
    "MANAGER_QEMU_DISK_FORMAT",
    "MANAGER_QEMU_OVMF_FILE",
];

/// Settings for backends of other technologies. The fixture `mirror` shows what it was given.
pub(super) const FOR_BACKENDS: &[Row] = &[
    ("MANAGER_QEMU_SEV_SNP_ID", "sev7", "sev-snp-id.sev7"),
    ("MANAGER_QEMU_SEV_SNP_CBITPOS", "47", "sev-snp-cbitpos.47"),
    ("MANAGER_QEMU_SEV_SNP_CBIT_POS", "47", "sev-snp-cbitpos.47"),
    (
        "MANAGER_QEMU_SEV_SNP_REDUCED_PHYS_BITS",
        "5",
        "sev-snp-reduced-phys-bits.5",
    ),
    ("MANAGER_QEMU_TDX_ID", "tdx7", "tdx-id.tdx7"),
    (
        "MANAGER_QEMU_QUOTE_GENERATION_PORT",
        "4051",
        "quote-generation-port.4051",
    ),
    ("MANAGER_QEMU_IGVM_ID", "igvm7", "igvm-id.igvm7"),
    ("MANAGER_QEMU_IGVM_FILE", "@", "file.igvm.7"),
];

/// Variables without effect, a value that draws their warning, and a part of it.
pub(super) const IGNORED: &[Row] = &[
    ("MANAGER_QEMU_USE_SUDO", "true", "sudo is never used"),
    (
        "MANAGER_QEMU_DST_DISK_FILE",
        "/tmp/disk",
        "overlay of its own",
    ),
    ("MANAGER_QEMU_NO_GRAPHIC", "false", "never have a display"),
    ("MANAGER_QEMU_MONITOR", "pty", "the monitor is QMP"),
    (
        "MANAGER_QEMU_CERTS_MOUNT",
        "/tmp/certs",
        "a folder for each VM",
    ),
    ("MANAGER_QEMU_ENV_MOUNT", "/tmp/env", "a folder for each VM"),
    (
        "MANAGER_ATTESTATION_POLICY_BINARY",
        "/opt/policy",
        "makes attestation policies itself",
    ),
    (
        "MANAGER_ATTESTATION_POLICY_BINARY_PATH",
        "/opt/policy",
        "makes attestation policies itself",
    ),
];

/// Variables whose feature comes later: checked, and warned about when used.
pub(super) const LATER: &[Row] = &[
    ("COCOS_JAEGER_URL", "http://localhost:4318", "traces"),
    ("COCOS_JAEGER_TRACE_RATIO", "0.5", "traces"),
    (
        "MANAGER_QEMU_GPU_PCIE_ROOT_PORT",
        "pci.1",
        "GPU passthrough",
    ),
    ("MANAGER_QEMU_GPU_PCIE_BUS", "pcie.0", "GPU passthrough"),
    (
        "MANAGER_QEMU_GPU_FW_CFG_MMIO_MB",
        "262144",
        "GPU passthrough",
    ),
];
/// The same, of forms that they do not have.
pub(super) const LATER_MALFORMED: [(&str, &str); 5] = [
    ("COCOS_JAEGER_URL", "localhost"),
    ("COCOS_JAEGER_TRACE_RATIO", "2"),
    ("MANAGER_QEMU_GPU_PCIE_ROOT_PORT", "1"),
    ("MANAGER_QEMU_GPU_PCIE_BUS", ","),
    ("MANAGER_QEMU_GPU_FW_CFG_MMIO_MB", "-1"),
];
/// Refused when used: a VM must not silently be without it.
pub(super) const REFUSED: [&str; 1] = ["MANAGER_QEMU_GPU_BDF"];

/// Each of these has a test of its own, here or (TLS) in `tls.rs`.
pub(super) const BEHAVIOUR: [&str; 29] = [
    "MANAGER_LOG_LEVEL",
    "MANAGER_INSTANCE_ID",
    "MANAGER_HTTP_HOST",
    "MANAGER_HTTP_PORT",
    "MANAGER_GRPC_HOST",
    "MANAGER_GRPC_PORT",
    "MANAGER_GRPC_URL",
    "MANAGER_GRPC_TIMEOUT",
    "MANAGER_EOS_VERSION",
    "MANAGER_QEMU_OVMF_VERSION",
    "MANAGER_MAX_VMS",
    "MANAGER_QEMU_ENABLE_SEV_SNP",
    "MANAGER_QEMU_ENABLE_TDX",
    "MANAGER_QEMU_HOST_FWD_AGENT",
    "MANAGER_QEMU_GUEST_FWD_AGENT",
    "MANAGER_QEMU_HOST_FWD_RANGE",
    "MANAGER_QEMU_ENABLE_HOST_DATA",
    "MANAGER_QEMU_HOST_DATA",
    "MANAGER_HTTP_SERVER_CERT",
    "MANAGER_HTTP_SERVER_KEY",
    "MANAGER_HTTP_SERVER_CA_CERTS",
    "MANAGER_HTTP_CLIENT_CA_CERTS",
    "MANAGER_GRPC_SERVER_CERT",
    "MANAGER_GRPC_SERVER_KEY",
    "MANAGER_GRPC_SERVER_CA_CERTS",
    "MANAGER_GRPC_CLIENT_CA_CERTS",
    "MANAGER_IGVMMEASURE_BINARY",
    "MANAGER_PCR_VALUES",
    "MANAGER_CORIM_SIGNING_KEY",
];
