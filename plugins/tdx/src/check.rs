//! Whether TDX guests can be started on this host, for a person who wants to mend what is missing:
//! KVM first, then QEMU, then quotes, firmware and settings.

use casemate_backend::answer::{fail, note, pass, warn};
use casemate_backend::bindings::casemate::tee::types::{Error, Finding, HostContext};
use casemate_backend::boot;
use casemate_backend::files::Files;
use casemate_backend::host::Examined;
use casemate_backend::machine::{self, Family};

use crate::facts::{BACKEND, Facts};
use crate::plan::{DEFAULT_MACHINE, firmware, guest, quotes};
use crate::settings::{ATTRIBUTES, Settings};

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
    match Settings::read(host) {
        Ok(settings) => {
            findings.extend(quote_service(facts, &settings));
            findings.push(outcome(
                "firmware.choice",
                "firmware",
                firmware::choose(host, files).map(|chosen| chosen.in_words()),
            ));
            let mut remarks = Vec::new();
            findings.push(match guest::attributes(&settings, &mut remarks) {
                Ok(attributes) => pass(
                    "attributes",
                    ATTRIBUTES,
                    &format!(
                        "attributes are {attributes:#x}, without DEBUG; QEMU adds bit 30 where the \
                         CPU has PKS"
                    ),
                ),
                // A request may have others.
                Err(error) => warn("attributes", &error.subject, &error.message, &error.remedy),
            });
            findings.extend(remarks);
        }
        Err(error) => findings.push(fail("settings.form", &error)),
    }
    findings.extend(boot::no_default(host));
    findings
}

fn outcome(id: &str, subject: &str, result: Result<String, Error>) -> Finding {
    match result {
        Ok(detail) => pass(id, subject, &detail),
        Err(error) => fail(id, &error),
    }
}

fn quote_service(facts: &Facts, settings: &Settings) -> Vec<Finding> {
    const ID: &str = "quotes.service";
    let mut findings = Vec::new();
    match quotes::service(facts, settings, &mut findings) {
        // What is said of it already is more than where it is.
        Ok(_) if !findings.is_empty() => {}
        Ok(service) if service.is_usual() => {
            findings.push(pass(ID, settings_key(&service), &service.in_words()));
        }
        Ok(service) => findings.push(note(
            ID,
            settings_key(&service),
            &format!("{}; whether it answers was not tried", service.in_words()),
            "ask a guest for a quote",
        )),
        Err(error) => findings.push(fail(ID, &error)),
    }
    findings
}

fn settings_key(service: &quotes::Service) -> &'static str {
    match service {
        quotes::Service::Unix(_) => crate::settings::QUOTE_SOCKET,
        quotes::Service::Vsock(_) => crate::settings::QUOTE_PORT,
    }
}
