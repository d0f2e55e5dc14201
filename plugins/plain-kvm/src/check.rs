//! Whether plain guests can be started on this host, for a person who wants to mend what is missing.

use casemate_backend::answer::{fail, note, pass};
use casemate_backend::bindings::casemate::tee::facts::FactError;
use casemate_backend::bindings::casemate::tee::types::{Finding, HostContext};
use casemate_backend::boot;
use casemate_backend::machine::{self, Family};

use crate::facts::{BACKEND, Facts};
use crate::plan::{self, DEFAULT_CPU, DEFAULT_MACHINE};
use crate::settings::Settings;

/// Findings in the order in which an operator would mend them.
pub fn check(host: &HostContext, facts: &Facts) -> Vec<Finding> {
    let mut findings = facts.findings(host);
    findings.push(machine::default_finding(
        &facts.qemu,
        DEFAULT_MACHINE,
        Family::AnyPc,
        BACKEND,
    ));
    findings.extend(default_cpu(facts));
    match Settings::read(host) {
        Ok(settings) => findings.push(firmware(host, &settings)),
        Err(error) => findings.push(fail("settings.form", &error)),
    }
    findings.extend(boot::no_default(host));
    findings.push(plan::no_measurement());
    findings
}

fn default_cpu(facts: &Facts) -> Option<Finding> {
    match facts.qemu.cpu_model {
        Err(FactError::Absent) => Some(note(
            "cpu.default-absent",
            "cpu",
            &format!(
                "this QEMU has no CPU model {DEFAULT_CPU}: guests whose request names none get max"
            ),
            "name a CPU model, or install a QEMU that has this one",
        )),
        Ok(()) | Err(FactError::Denied | FactError::Failed(_)) => None,
    }
}

fn firmware(host: &HostContext, settings: &Settings) -> Finding {
    const ID: &str = "firmware.choice";
    match plan::firmware::choose(host, settings) {
        Ok(chosen) => pass(ID, "firmware", &chosen.in_words()),
        Err(error) => fail(ID, &error),
    }
}
