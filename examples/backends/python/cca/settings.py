"""The settings of this backend: their announcement and their reading, side by side."""

from dataclasses import dataclass

from wit_world.imports.types import HostContext, SettingSpec, Value, Value_Text

from cca.answer import invalid_request, quoted

MEASUREMENT_ALGORITHM = "measurement-algorithm"
ALGORITHMS = ("sha256", "sha512")
# QEMU's own.
DEFAULT_ALGORITHM = "sha512"


@dataclass(frozen=True)
class Settings:
    measurement_algorithm: str


def announced() -> list[SettingSpec]:
    return [
        SettingSpec(
            key=MEASUREMENT_ALGORITHM,
            kind="one-of:" + "|".join(ALGORITHMS),
            default=Value_Text(DEFAULT_ALGORITHM),
            description="Digest that the realm is measured with.",
            per_request=True,
        )
    ]


def read(host: HostContext) -> Settings:
    """A key that is not there has its default; an unknown key is not ours to judge."""
    given: Value = Value_Text(DEFAULT_ALGORITHM)
    for setting in host.settings:
        if setting.key == MEASUREMENT_ALGORITHM:
            given = setting.value
    match given:
        case Value_Text(name) if name in ALGORITHMS:
            return Settings(name)
        case _:
            wanted = " or ".join(ALGORITHMS)
            raise invalid_request(
                MEASUREMENT_ALGORITHM,
                f"{MEASUREMENT_ALGORITHM} is {quoted(str(given.value))}, wanted is {wanted}",
                f"set {MEASUREMENT_ALGORITHM} to {wanted}",
            )
