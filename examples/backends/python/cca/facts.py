"""What the host tells about itself, gathered once for each call."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from componentize_py_types import Err
from wit_world.imports import facts

KVM_DEVICE = "/dev/kvm"
GUEST_TYPE = "rme-guest"

T = TypeVar("T")


@dataclass(frozen=True)
class Known(Generic[T]):
    """The host answered."""

    value: T


@dataclass(frozen=True)
class Absent:
    """It looked, and it is not there."""


@dataclass(frozen=True)
class Denied:
    """Config does not grant the question."""


@dataclass(frozen=True)
class Failed:
    """It could not look."""

    reason: str


Answer = Known[T] | Absent | Denied | Failed


@dataclass(frozen=True)
class Facts:
    kvm: Answer[None]
    guest_type: Answer[list[str]]
    machine: Answer[str]


def gather(machine: str) -> Facts:
    return Facts(
        kvm=_ask(lambda: facts.device(KVM_DEVICE)),
        guest_type=_ask(lambda: facts.qemu_type(GUEST_TYPE)),
        machine=_ask(lambda: facts.qemu_machine(machine)),
    )


def _ask(question: Callable[[], T]) -> Answer[T]:
    try:
        return Known(question())
    except Err as error:
        match error.value:
            case facts.FactError_Absent():
                return Absent()
            case facts.FactError_Denied():
                return Denied()
            case facts.FactError_Failed(reason):
                return Failed(reason)
            case other:
                return Failed(repr(other))
