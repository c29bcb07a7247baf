"""The least that settings and arguments may be."""

from collections.abc import Mapping
from typing import Any


def check_at_least(given: Mapping[str, Any], **least: float) -> None:
    """Raise a ValueError that names the first of these that is less, or no number; None is not."""
    for name, smallest in least.items():
        value = given[name]
        if value is not None and not value >= smallest:
            raise ValueError(f"{name} is {value}, expected at least {smallest}")
