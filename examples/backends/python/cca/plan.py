"""A request and the facts become a launch plan.

What the operator or the caller named is used, or the plan fails; what nobody named is
replaced or left out, with a finding that says so. And no input makes it raise anything but
the contract's error.
"""

import re

from wit_world.imports.types import (
    BootInputs,
    Choice,
    DeviceRules,
    Finding,
    Firmware,
    Firmware_Bios,
    Firmware_None_,
    HostContext,
    HostDevice,
    HostFile,
    LaunchPlan,
    LaunchRequest,
    Origin,
    Property,
    Typed,
    Value_Boolean,
    Value_Bytes,
    Value_Text,
)

from cca import NAME
from cca.answer import (
    invalid_request,
    note,
    quoted,
    unavailable,
    unsuitable_file,
    unsupported_host,
)
from cca.facts import GUEST_TYPE, Absent, Denied, Facts, Failed, Known
from cca.host import ALGORITHM, CARRIER, examine
from cca.settings import Settings, read

DEFAULT_MACHINE = "virt"
# A realm sees what the host's CPU has.
DEFAULT_CPU = "host"
GUARD = "rme0"
# What the realm's manager keeps of it, and shows in its reports.
PERSONALIZATION_BYTES = 64
# What QEMU needs beside the guest's memory.
OVERHEAD_BYTES = 256 << 20
QEMU_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
# What a device must have for the realm and the host to share its buffers.
SHARED = ("disable-legacy", "iommu_platform")
ON = ("on", "yes", "true", "y")


def plan(request: LaunchRequest, facts: Facts) -> LaunchPlan:
    """The plan, or the first thing that stands in its way."""
    host = request.host
    findings = []
    for examined in examine(host, facts):
        if examined.error is not None:
            raise examined.error
        if examined.finding.remedy:
            findings.append(examined.finding)
    settings = read(host)
    _must_be_shared(request.devices)
    machine = _machine(request.machine, facts)
    cpu = Typed(_name("cpu", request.cpu, DEFAULT_CPU), None, [])
    boot = _boot(request)
    firmware = _firmware(host, request.boot)
    _must_be_used(request, boot, firmware)
    findings += _replaced(request) + _left_out(host)
    findings.append(no_measurement())
    return LaunchPlan(
        machine=machine,
        cpu=cpu,
        smp=[],
        memory=[],
        memory_backend=None,
        objects=[_guard(request, settings)],
        extra_devices=[],
        guard=GUARD,
        firmware=firmware,
        boot=boot,
        devices=DeviceRules(
            transport="pci",
            virtio_properties=[
                Property("disable-legacy", Value_Text("on")),
                Property("iommu_platform", Value_Boolean(True)),
            ],
            refused=["vfio"],
        ),
        generated=[],
        leases=[],
        # A realm is measured once, so there is no reset.
        abilities=["pause", "powerdown"],
        memory_overhead_bytes=OVERHEAD_BYTES,
        identity_carrier=CARRIER if request.identity else None,
        findings=findings,
        extras=[],
    )


def _guard(request: LaunchRequest, settings: Settings) -> Typed:
    properties = [Property(ALGORITHM, Value_Text(settings.measurement_algorithm))]
    if request.identity:
        digest = bytes(request.identity.digest)
        if not 0 < len(digest) <= PERSONALIZATION_BYTES:
            raise invalid_request(
                "identity",
                f"the identity has {len(digest)} bytes, and a realm carries 1 to"
                f" {PERSONALIZATION_BYTES}",
                "give a shorter digest",
            )
        padded = digest.ljust(PERSONALIZATION_BYTES, b"\0")
        properties.append(Property(CARRIER, Value_Bytes(padded)))
    return Typed(GUEST_TYPE, GUARD, properties)


def _must_be_shared(devices: list[HostDevice]) -> None:
    """What the operator set for a device wins over the plan's rules, so it is held against them."""
    for device in devices:
        for set_ in device.properties:
            is_on = set_.value.value is True or set_.value.value in ON
            if set_.path in SHARED and not is_on:
                raise invalid_request(
                    set_.path,
                    f"device {quoted(device.id)} has {set_.path} off, and a realm cannot use"
                    " it then",
                    f"leave {set_.path} to the backend",
                )


def _is_default(thing: Choice | HostFile | None) -> bool:
    """What nobody named is the host's for every backend, and gives way to this one's own."""
    return thing is not None and thing.origin == Origin.BUILT_IN


def wanted(choice: Choice | None, default: str) -> str:
    return default if choice is None or _is_default(choice) else choice.value


def _replaced(request: LaunchRequest) -> list[Finding]:
    """What was replaced is told."""
    return [
        note(
            id,
            subject,
            f"the default {words} {quoted(choice.value)} became {own}",
            f"name a {words} in the request, or set one for all VMs",
        )
        for id, subject, words, choice, own in (
            ("machine.replaced", "machine", "machine", request.machine, DEFAULT_MACHINE),
            ("cpu.model-replaced", "cpu", "CPU model", request.cpu, DEFAULT_CPU),
        )
        if _is_default(choice) and choice.value != own
    ]


def _name(field: str, choice: Choice | None, default: str) -> str:
    name = wanted(choice, default)
    if not QEMU_NAME.fullmatch(name):
        raise invalid_request(
            field,
            f"{quoted(name)} is not the name of a {field}, which is one word",
            f"name a {field} such as {default}, without properties",
        )
    return name


def _machine(choice: Choice | None, facts: Facts) -> Typed:
    """By its version, because the realm sees the machine. Realms take the third GIC."""
    asked = _name("machine", choice, DEFAULT_MACHINE)
    remedy = "name virt, or a version of it such as virt-10.0"
    match facts.machine:
        case Known(name) if name.startswith("virt-") and QEMU_NAME.fullmatch(name):
            return Typed(name, None, [Property("gic-version", Value_Text("3"))])
        case Known(name):
            raise invalid_request(
                "machine",
                f"machine {quoted(name)} is no virt, which realms need",
                remedy,
            )
        case Absent():
            raise invalid_request(
                "machine", f"this QEMU has no machine {quoted(asked)}", remedy
            )
        case Denied():
            raise unsupported_host(
                "machine",
                "the backend may not ask for the versioned name of the machine",
                f"add qemu-machine * to the grants of {NAME}",
            )
        case Failed(reason):
            raise unavailable(
                "machine",
                f"QEMU did not tell its machines: {quoted(reason)}",
                "see the daemon's log for what QEMU said, and try again",
            )


def _file(host: HostContext, role: str) -> HostFile | None:
    return next((file for file in host.files if file.role == role), None)


def _boot(request: LaunchRequest) -> BootInputs:
    host = request.host
    match request.boot:
        case "kernel":
            kernel = _file(host, "kernel")
            if kernel is None:
                raise unsupported_host(
                    "kernel",
                    "boot is kernel, but there is no kernel file",
                    "name a kernel, or boot from disk",
                )
            if kernel.size == 0:
                raise unsuitable_file(
                    "kernel",
                    f"kernel {quoted(kernel.label)} is empty",
                    "name a kernel image for aarch64",
                )
            inputs = BootInputs.KERNEL
            if _file(host, "initrd"):
                inputs |= BootInputs.INITRD
            if request.kernel_cmdline:
                inputs |= BootInputs.CMDLINE
            return inputs
        case "disk":
            has_disk = any(device.kind == "disk" for device in request.devices)
            if _file(host, "disk") is None and not has_disk:
                raise unsupported_host(
                    "disk",
                    "boot is disk, but there is no disk",
                    "name a disk, or boot from a kernel",
                )
            return BootInputs(0)
        case other:
            raise invalid_request(
                "boot",
                f"boot is {quoted(other)}, wanted is kernel or disk",
                "set boot to kernel or disk",
            )


def _firmware(host: HostContext, boot: str) -> Firmware:
    """A realm may start with its kernel. From a disk only firmware can start it.

    The host's default is an image for PCs, so it is never taken.
    """
    image = _file(host, "firmware")
    if image and not _is_default(image):
        return Firmware_Bios(image.id)
    if boot == "disk":
        found = "there is none"
        if image:
            found = f"the default {quoted(image.label)} is not for realms"
        raise invalid_request(
            "firmware",
            f"a realm starts from a disk by its firmware, and {found}",
            "name an EDK2 image for aarch64 as the firmware, or boot from a kernel",
        )
    return Firmware_None_()


def _left_out(host: HostContext) -> list[Finding]:
    """A default that a realm starts without is told too."""
    image = _file(host, "firmware")
    if not _is_default(image):
        return []
    return [
        note(
            "firmware.not-used",
            "firmware",
            f"the default firmware {quoted(image.label)} is not used, the realm starts with"
            " its kernel",
            "name an EDK2 image for aarch64 to start the realm with it",
        )
    ]


def _must_be_used(
    request: LaunchRequest, boot: BootInputs, firmware: Firmware
) -> None:
    """A caller's file that is left lying would be a wish that was dropped."""

    def is_used(file: HostFile) -> bool:
        match file.role:
            case "kernel":
                return BootInputs.KERNEL in boot
            case "initrd":
                return BootInputs.INITRD in boot
            case "disk":
                return request.boot == "disk"
            case role if role.startswith("setting:"):
                return True
            case _:
                return isinstance(firmware, Firmware_Bios) and firmware.value == file.id

    for file in request.host.files:
        if file.origin == Origin.REQUEST and not is_used(file):
            raise invalid_request(
                file.role,
                f"a realm that boots from its {request.boot} has no use for the {file.role}"
                f" {quoted(file.label)}",
                "leave the file out, or ask for another boot",
            )


def no_measurement() -> Finding:
    """Said with every plan and by `check`, so that nobody takes silence for a measurement."""
    return note(
        "measurement.none",
        "backend",
        "this backend does not compute what a verifier will see",
        "compute the realm's initial measurement with a tool of its own",
    )
