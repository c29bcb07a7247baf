"""What settings, arguments and numbers in files may be."""

from collections.abc import Mapping
from typing import Any

TOO_LARGE = 1 << 63  # numpy's integers end below it
LONGEST_PAUSE = 86_400  # seconds between two frames; more is a mistake


def check_at_least(given: Mapping[str, Any], **least: float) -> None:
    """Raise a ValueError that names the first value below its least, or NaN. None passes."""
    for name, smallest in least.items():
        value = given[name]
        if value is not None and not value >= smallest:
            raise ValueError(f"{name} is {value}, expected at least {smallest}")
