//! A plan natively, without a host: requests to begin with, QEMU's facts, and what the host would
//! find wrong with an answer.
//!
//! ```
//! use casemate_backend::harness::{self, Case};
//!
//! let case = Case::default().with_identity("sha-256", vec![7; 32]);
//! assert_eq!(case.request.boot, "kernel");
//! // let answer = my_backend::plan(&case.request, &case.qemu);
//! // assert_eq!(harness::violations(&my_backend::describe(), &case.request, &answer), [""; 0]);
//! ```
//!
//! `violations` knows the rules that an answer alone can break. The host knows more, from the installed
//! QEMU and the operator's grants, and `casemate-conformance` asks the component itself.

mod rules;

use crate::bindings::casemate::tee::types::{
    Choice, HostContext, HostFile, Identity, LaunchRequest, Origin, Setting, Value,
};
use crate::facts::QemuFacts;
use crate::memory::{GIB, MIB};

pub use rules::violations;

/// A file of the smallest kernel that is one.
const FILE_BYTES: u64 = 4 << 20;
/// What a QEMU of now says of its q35.
const QEMU: &str = "10.0.2";
const MACHINE: &str = "pc-q35-10.0";

/// A request with what QEMU says about it.
#[derive(Debug, Clone)]
pub struct Case {
    pub request: LaunchRequest,
    pub qemu: QemuFacts,
}

/// A guest of 1 vCPU and 1 GiB that boots from a kernel (file 1) with an initrd (file 2), under tcg
/// on x86_64, where QEMU has all that is asked about.
impl Default for Case {
    fn default() -> Self {
        let case = Self {
            request: LaunchRequest {
                host: HostContext {
                    architecture: "x86_64".to_owned(),
                    accelerator: "tcg".to_owned(),
                    settings: Vec::new(),
                    files: Vec::new(),
                },
                vcpus: 1,
                memory_bytes: GIB,
                boot: "kernel".to_owned(),
                machine: None,
                cpu: None,
                kernel_cmdline: "console=ttyS0".to_owned(),
                devices: Vec::new(),
                identity: None,
                extras: Vec::new(),
            },
            qemu: QemuFacts {
                version: Ok(QEMU.to_owned()),
                machine: Ok(MACHINE.to_owned()),
                machine_type: Ok(()),
                cpu_model: Ok(()),
            },
        };
        case.with_file("kernel").with_file("initrd")
    }
}

impl Case {
    /// A file of the operator's, with the next id.
    #[must_use]
    pub fn with_file(mut self, role: &str) -> Self {
        let files = &mut self.request.host.files;
        let id = u32::try_from(files.len())
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        files.push(HostFile {
            id,
            role: role.to_owned(),
            label: role.to_owned(),
            size: FILE_BYTES,
            origin: Origin::Operator,
        });
        self
    }

    #[must_use]
    pub fn without_file(mut self, role: &str) -> Self {
        self.request.host.files.retain(|file| file.role != role);
        self
    }

    #[must_use]
    pub fn with_setting(mut self, key: &str, value: Value, origin: Origin) -> Self {
        self.request.host.settings.push(Setting {
            key: key.to_owned(),
            value,
            origin,
        });
        self
    }

    #[must_use]
    pub fn with_identity(mut self, algorithm: &str, digest: Vec<u8>) -> Self {
        self.request.identity = Some(Identity {
            algorithm: algorithm.to_owned(),
            digest,
        });
        self
    }

    #[must_use]
    pub fn with_machine(mut self, name: &str, origin: Origin) -> Self {
        self.request.machine = Some(Choice {
            value: name.to_owned(),
            origin,
        });
        self
    }

    #[must_use]
    pub fn with_cpu(mut self, model: &str, origin: Origin) -> Self {
        self.request.cpu = Some(Choice {
            value: model.to_owned(),
            origin,
        });
        self
    }

    #[must_use]
    pub fn with_size(mut self, vcpus: u32, memory_mib: u64) -> Self {
        self.request.vcpus = vcpus;
        self.request.memory_bytes = memory_mib.saturating_mul(MIB);
        self
    }
}
