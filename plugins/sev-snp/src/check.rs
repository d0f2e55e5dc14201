//! Whether SEV-SNP guests can be started on this host, for a person who wants to mend what is
//! missing: KVM and the device first, then QEMU, then firmware and settings.

use casemate_backend::answer::{fail, note, pass, warn};
use casemate_backend::bindings::casemate::tee::types::{Finding, HostContext};
use casemate_backend::boot;
use casemate_backend::files::Files;
use casemate_backend::host::Examined;
use casemate_backend::machine::{self, Family};

use crate::facts::{BACKEND, Facts};
use crate::plan::{DEFAULT_MACHINE, cpu, firmware, guest, policy};
use crate::settings::{CBITPOS, POLICY, REDUCED_PHYS_BITS, Settings};

/// Findings in the order in which an operator would mend them.
pub fn check(host: &HostContext, facts: &Facts, files: &impl Files) -> Vec<Finding> {
    let examined = facts.examine(host).into_iter();
    let mut findings: Vec<Finding> = examined.map(Examined::into_finding).collect();
    findings.push(machine::default_finding(
        &facts.qemu,
        DEFAULT_MACHINE,
        Family::Q35,
        BACKEND,
    ));
    findings.push(cpu::default_finding(&facts.qemu));
    match Settings::read(host) {
        Ok(settings) => {
            findings.extend(cbitpos(facts, &settings));
            findings.push(firmware_finding(host, facts, &settings, files));
            findings.push(reduced_phys_bits(&settings));
            findings.push(policy_finding(settings.policy.value, facts));
        }
        Err(error) => findings.push(fail("settings.form", &error)),
    }
    findings.extend(boot::no_default(host));
    findings
}

/// A request may have another.
fn policy_finding(policy: u64, facts: &Facts) -> Finding {
    const ID: &str = "policy";
    match policy::check(policy, facts) {
        Ok(()) => pass(ID, POLICY, &policy::in_words(policy)),
        Err(error) => warn(ID, &error.subject, &error.message, &error.remedy),
    }
}

fn reduced_phys_bits(settings: &Settings) -> Finding {
    const ID: &str = "cpu.reduced-phys-bits";
    let mut remarks = Vec::new();
    match guest::reduced_phys_bits(settings, &mut remarks) {
        Ok(bits) => remarks.pop().unwrap_or_else(|| {
            let detail = format!("the guest loses {bits} address bit");
            pass(ID, REDUCED_PHYS_BITS, &detail)
        }),
        Err(error) => fail(ID, &error),
    }
}

fn cbitpos(facts: &Facts, settings: &Settings) -> Vec<Finding> {
    const ID: &str = "cpu.cbitpos";
    let mut findings = Vec::new();
    match guest::cbitpos(facts, settings, &mut findings) {
        Ok(position) => findings.push(pass(
            ID,
            CBITPOS,
            &format!("the encryption bit is bit {position}"),
        )),
        Err(error) => findings.push(fail(ID, &error)),
    }
    findings
}

/// A firmware that measures no kernel still starts guests that boot from their disk.
fn firmware_finding(
    host: &HostContext,
    facts: &Facts,
    settings: &Settings,
    files: &impl Files,
) -> Finding {
    const ID: &str = "firmware.choice";
    let chosen = match firmware::choose(host, settings, facts, files) {
        Ok(chosen) => chosen,
        Err(error) => return fail(ID, &error),
    };
    match chosen.kernel_measurement() {
        firmware::KernelMeasurement::Hashes => pass(ID, "firmware", &chosen.in_words()),
        firmware::KernelMeasurement::ByTheGuest => note(
            ID,
            "firmware",
            &chosen.in_words(),
            "see that whoever verifies a guest that boots from a kernel asks its vTPM as well",
        ),
        firmware::KernelMeasurement::Impossible(error) => {
            warn(ID, &error.subject, &error.message, &error.remedy)
        }
    }
}
