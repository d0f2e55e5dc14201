"""What this backend is, and the most that it may have."""

from wit_world.imports.types import BackendInfo, Need, Protection, TypeUse

from cca import NAME
from cca.facts import GUEST_TYPE, KVM_DEVICE
from cca.settings import announced


def describe() -> BackendInfo:
    return BackendInfo(
        tee="cca",
        protection=Protection.GUARD,
        name=NAME,
        vendor="Casemate examples",
        version="0.1.0",
        architectures=["aarch64"],
        needs=[
            Need("device", KVM_DEVICE, "whether KVM can be used"),
            Need("qemu-type", GUEST_TYPE, "whether this QEMU makes realms"),
            Need("qemu-machine", "*", "the versioned name of the machine"),
        ],
        objects=[
            TypeUse(
                GUEST_TYPE,
                properties=["measurement-algorithm", "personalization-value"],
                paths=[],
            )
        ],
        devices=[],
        machine_texts=["gic-version"],
        settings=announced(),
        firmware_features=[],
        # No released QEMU has the object, so none is the first that has it.
        extras=[],
    )
