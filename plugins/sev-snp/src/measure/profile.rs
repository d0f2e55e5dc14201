//! What of the host is part of the measurement, though no request names it: SEV_FEATURES of the
//! vCPUs, and of how many vCPUs KVM measures the registers. Each is said by the operator, or looked
//! up, or assumed; the register says which.

use casemate_backend::answer::invalid_request;
use casemate_backend::bindings::casemate::tee::facts;
use casemate_backend::bindings::casemate::tee::types::{Error, Input};
use casemate_backend::facts::Answer;
use casemate_backend::register::{Source, input};

use crate::settings::{GUEST_FEATURES, MEASURED_VMSAS, MeasuredVmsas, SNP_ACTIVE, Settings};

/// KVM_X86_GRP_SEV, and in it KVM_X86_SEV_VMSA_FEATURES (kernel, arch/x86/include/uapi/asm/kvm.h).
pub(crate) const VMSA_FEATURES: (u32, u64) = (1, 0);

/// What was looked up for a measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasureFacts {
    /// Features that KVM lets QEMU choose from.
    pub vmsa_features: Answer<u64>,
}

impl MeasureFacts {
    pub fn gather() -> Self {
        let (group, attribute) = VMSA_FEATURES;
        Self {
            vmsa_features: facts::kvm_device_attribute(group, attribute),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Profile {
    pub(crate) features: u64,
    features_by: Source,
    pub(crate) vmsas: MeasuredVmsas,
    vmsas_by: Source,
}

impl Profile {
    /// Where KVM tells of features, they are what QEMU asks for, and QEMU asks for none beside SNP
    /// itself. Older KVMs, never part of Linux for SNP guests, added DebugSwap on their own.
    pub(crate) fn of(settings: &Settings, facts: &MeasureFacts) -> Result<Self, Error> {
        let (features, features_by) = match (settings.guest_features, &facts.vmsa_features) {
            (Some(features), _) => (features, Source::Setting),
            (None, Ok(_)) => (SNP_ACTIVE, Source::Fact),
            (None, Err(_)) => (SNP_ACTIVE, Source::Assumed),
        };
        if features & SNP_ACTIVE == 0 {
            return Err(invalid_request(
                GUEST_FEATURES,
                &format!(
                    "{GUEST_FEATURES} is {features:#x}, and bit 0 says that SNP is active, which it \
                     is in every SEV-SNP guest"
                ),
                "set bit 0, or leave the setting out",
            ));
        }
        if let (Some(features), Ok(known)) = (settings.guest_features, &facts.vmsa_features)
            && features & !(known | SNP_ACTIVE) != 0
        {
            return Err(invalid_request(
                GUEST_FEATURES,
                &format!(
                    "{GUEST_FEATURES} is {features:#x}, and KVM has no guest with more than {:#x}",
                    known | SNP_ACTIVE
                ),
                "leave the setting out, or set features that this host has",
            ));
        }
        let (vmsas, vmsas_by) = match settings.measured_vmsas {
            Some(vmsas) => (vmsas, Source::Setting),
            // What Linux does, which cannot be asked for.
            None => (MeasuredVmsas::All, Source::Assumed),
        };
        Ok(Self {
            features,
            features_by,
            vmsas,
            vmsas_by,
        })
    }

    pub(crate) fn features_input(&self) -> Input {
        let value = format!("{:#x}", self.features);
        input(GUEST_FEATURES, &value, self.features_by)
    }

    pub(crate) fn vmsas_input(&self) -> Input {
        input(MEASURED_VMSAS, self.vmsas.as_str(), self.vmsas_by)
    }
}
