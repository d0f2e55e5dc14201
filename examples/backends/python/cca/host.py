"""What a host must have: each is looked at by `check` as a finding and by `plan` as an error."""

from dataclasses import dataclass

from componentize_py_types import Err
from wit_world.imports import types
from wit_world.imports.types import Finding, HostContext

from cca import NAME
from cca.answer import failed, passed, quoted, unavailable, unsupported_host, warn
from cca.facts import GUEST_TYPE, KVM_DEVICE, Absent, Denied, Facts, Failed, Known

# What carries the identity; the oldest series of patches had it under this name too.
CARRIER = "personalization-value"
ALGORITHM = "measurement-algorithm"


@dataclass(frozen=True)
class Examined:
    """A finding, and the error that it is for a plan."""

    finding: Finding
    error: Err[types.Error] | None = None


def examine(host: HostContext, facts: Facts) -> list[Examined]:
    """In the order in which an operator would mend it."""
    return [_architecture(host), _accelerator(host, facts), _guest_type(facts)]


def _good(id: str, subject: str, detail: str) -> Examined:
    return Examined(passed(id, subject, detail))


def _bad(id: str, error: Err[types.Error]) -> Examined:
    return Examined(failed(id, error), error)


def _denied(id: str, subject: str, grant: str) -> Examined:
    """Not being allowed to look is no statement about the host: QEMU's start decides."""
    return Examined(
        warn(
            id,
            subject,
            f"the backend may not look at {subject}",
            f"add {grant} to the grants of {NAME}",
        )
    )


def _architecture(host: HostContext) -> Examined:
    id = "host.architecture"
    if host.architecture == "aarch64":
        return _good(id, "architecture", "the host is aarch64")
    return _bad(
        id,
        unsupported_host(
            "architecture",
            f"realms are there on aarch64 only, and this host is {quoted(host.architecture)}",
            "choose another backend, or another host",
        ),
    )


def _accelerator(host: HostContext, facts: Facts) -> Examined:
    id = "host.kvm"
    if host.accelerator != "kvm":
        return _bad(
            id,
            unsupported_host(
                "accelerator",
                f"a realm takes KVM, and the accelerator is {quoted(host.accelerator)}",
                "set qemu.accelerator to kvm",
            ),
        )
    match facts.kvm:
        case Known(_):
            return _good(id, KVM_DEVICE, f"{KVM_DEVICE} can be used")
        case Denied():
            return _denied(id, KVM_DEVICE, f"device {KVM_DEVICE}")
        case Absent():
            return _bad(
                id,
                unsupported_host(
                    KVM_DEVICE,
                    f"there is no {KVM_DEVICE}",
                    "start a kernel with KVM at EL2",
                ),
            )
        case Failed(reason):
            return _bad(
                id,
                unavailable(
                    KVM_DEVICE,
                    f"{KVM_DEVICE} cannot be used: {quoted(reason)}",
                    "mend what the reason says",
                ),
            )


def _guest_type(facts: Facts) -> Examined:
    id, subject = "qemu.guest", f"qemu-type {GUEST_TYPE}"
    remedy = "install a QEMU with the patches for CCA"
    match facts.guest_type:
        case Known(properties) if {CARRIER, ALGORITHM} <= set(properties):
            return _good(id, subject, f"QEMU has {GUEST_TYPE}")
        case Known(_):
            return _bad(
                id,
                unsupported_host(
                    subject,
                    f"{GUEST_TYPE} of this QEMU lacks {CARRIER} or {ALGORITHM}",
                    "install a QEMU with a newer series of the patches for CCA",
                ),
            )
        case Denied():
            return _denied(id, subject, subject)
        case Absent():
            return _bad(
                id,
                unsupported_host(
                    subject, f"this QEMU has no object {GUEST_TYPE}", remedy
                ),
            )
        case Failed(reason):
            return _bad(
                id,
                unavailable(
                    subject,
                    f"QEMU did not tell its types: {quoted(reason)}",
                    "see the daemon's log for what QEMU said",
                ),
            )
