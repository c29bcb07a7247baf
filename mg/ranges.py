"""What settings, arguments and numbers in files may be."""

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

Dtype = Literal["fp32", "bf16", "fp16"]

LARGEST = 3.4028234e38  # in float32
TOO_LARGE = 1 << 63  # numpy's integers end below it
LONGEST_PAUSE = 86_400  # seconds between two frames; more is a mistake


def check_at_least(given: Mapping[str, Any], **least: float) -> None:
    """Raise a ValueError that names the first value below its least, or NaN. None passes."""
    for name, smallest in least.items():
        value = given[name]
        if value is not None and not value >= smallest:
            raise ValueError(f"{name} is {value}, expected at least {smallest}")


def check_choices(settings: Any) -> None:
    """Raise a ValueError that names the first field of a dataclass whose value is not among those
    of its `Literal`, which the command line asks for, but Python does not."""
    for name, kind in get_type_hints(type(settings)).items():
        value, choices = getattr(settings, name), get_args(kind)
        if get_origin(kind) is Literal and value not in choices:
            raise ValueError(f"{name} is {value!r}, expected one of {', '.join(choices)}")


def check_finite(settings: Any) -> None:
    """Raise a ValueError that names the first field of a dataclass which float32 does not hold."""
    for name, value in vars(settings).items():
        if isinstance(value, float) and not abs(value) <= LARGEST:
            raise ValueError(f"{name} is {value}, expected a finite number in float32")
