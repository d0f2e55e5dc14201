"""Whether realms can be started on this host, for a person who wants to mend what is missing."""

from componentize_py_types import Err
from wit_world.imports.types import Finding, HostContext

from cca import host as hosts
from cca.answer import failed, passed, quoted, warn
from cca.facts import Absent, Answer, Denied, Facts, Failed, Known
from cca.plan import DEFAULT_MACHINE, no_measurement
from cca.settings import read


def check(host: HostContext, facts: Facts) -> list[Finding]:
    """Findings in the order in which an operator would mend them."""
    findings = [examined.finding for examined in hosts.examine(host, facts)]
    findings.append(machine_finding(facts.machine))
    try:
        read(host)
    except Err as error:
        findings.append(failed("settings.form", error))
    findings.append(no_measurement())
    return findings


def machine_finding(machine: Answer[str]) -> Finding:
    """A missing grant is no statement about the host."""
    match machine:
        case Known(name):
            detail = f"machine {DEFAULT_MACHINE} is {quoted(name)}"
            return passed("qemu.machine", "machine", detail)
        case Denied():
            detail = "the backend may not ask for the versioned name of the machine"
            remedy = "add qemu-machine * to the grants of cca-python"
        case Absent():
            detail = f"this QEMU has no machine {DEFAULT_MACHINE}"
            remedy = "install a QEMU for Arm that has it, or name another machine in each request"
        case Failed(reason):
            detail = f"QEMU did not tell its machines: {quoted(reason)}"
            remedy = "see the daemon's log for what QEMU said"
    return warn("qemu.machine", "machine", detail, remedy)
